//! A browser: it keeps cookies as browsers do and says what browsers say when a person opens a page.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::{Checked, Request, Response, send};

/// What Chrome accepts when a person opens a page.
pub(crate) const CHROME_ACCEPT: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

const USER_AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

/// A cookie as a browser keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cookie {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) path: String,
    /// Whether hosts below `host` get it too.
    pub(crate) domain: bool,
    expires: Option<Instant>,
}

/// A browser. A clone is another tab: the cookies are shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Browser {
    jar: Arc<Mutex<Vec<Cookie>>>,
}

impl Browser {
    pub(crate) fn new() -> Browser {
        Browser::default()
    }

    fn jar(&self) -> MutexGuard<'_, Vec<Cookie>> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every cookie that is kept.
    pub(crate) fn cookies(&self) -> Vec<Cookie> {
        let mut jar = self.jar();
        jar.retain(|cookie| cookie.expires.is_none_or(|at| at > Instant::now()));
        jar.clone()
    }

    /// The value of the cookie called `name`, whatever its host.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.cookies().into_iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value)
    }

    /// The session cookie's value.
    pub(crate) fn session(&self) -> Checked<String> {
        Ok(self.cookie("teamgate").ok_or_else(|| format!("no session cookie: {:?}", self.cookies()))?)
    }

    /// Plants a cookie for `127.0.0.1`, in place of one of the same name.
    pub(crate) fn plant(&self, name: &str, value: &str) {
        self.forget(name);
        self.jar().push(Cookie {
            host: "127.0.0.1".to_owned(),
            name: name.to_owned(),
            value: value.to_owned(),
            path: "/".to_owned(),
            domain: false,
            expires: None,
        });
    }

    /// Forgets the cookie called `name`.
    pub(crate) fn forget(&self, name: &str) {
        self.jar().retain(|cookie| cookie.name != name);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self) {
        self.jar().clear();
    }

    /// The `Cookie` header for `url`.
    pub(crate) fn cookie_header(&self, url: &str) -> Checked<Option<String>> {
        let url = Url::parse(url)?;
        let host = url.host_str().unwrap_or("");
        let pairs: Vec<String> = self
            .cookies()
            .iter()
            .filter(|cookie| {
                let below = cookie.domain && host.ends_with(&format!(".{}", cookie.host));
                let path = url.path() == cookie.path
                    || cookie.path.ends_with('/') && url.path().starts_with(&cookie.path)
                    || url.path().starts_with(&format!("{}/", cookie.path));
                (cookie.host == host || below) && path
            })
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        Ok((!pairs.is_empty()).then(|| pairs.join("; ")))
    }

    /// Sends a request with this browser's cookies and nothing else that it does not say, and keeps the cookies
    /// of the answer. Does not follow redirects.
    pub(crate) async fn fetch(&self, request: Request) -> Checked<Response> {
        let url = request.url.clone();
        let request = match self.cookie_header(&url)? {
            Some(cookies) => request.header("Cookie", &cookies),
            None => request,
        };
        let response = send(&request).await?;
        self.keep(&response)?;
        Ok(response)
    }

    /// Keeps the cookies of `response`, as RFC 6265 has it.
    pub(crate) fn keep(&self, response: &Response) -> Checked {
        let url = Url::parse(&response.url)?;
        for text in response.all("set-cookie") {
            let mut parts = text.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let mut cookie = Cookie {
                host: url.host_str().unwrap_or("").to_owned(),
                name: name.to_owned(),
                value: value.to_owned(),
                path: "/".to_owned(),
                domain: false,
                expires: None,
            };
            let mut gone = false;
            let mut secure = false;
            for attribute in parts {
                let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
                match key.to_ascii_lowercase().as_str() {
                    "max-age" => {
                        let seconds: i64 = value.parse()?;
                        gone = seconds <= 0;
                        let span = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                        cookie.expires = Some(Instant::now() + span);
                    }
                    "path" => value.clone_into(&mut cookie.path),
                    "domain" => {
                        value.clone_into(&mut cookie.host);
                        cookie.domain = true;
                    }
                    "secure" => secure = true,
                    _ => {}
                }
            }
            let prefixed = name.starts_with("__Host-") || name.starts_with("__Secure-");
            if url.scheme() == "http" && (secure || prefixed) {
                continue;
            }
            let mut jar = self.jar();
            jar.retain(|old| (&old.host, &old.name, &old.path) != (&cookie.host, &cookie.name, &cookie.path));
            if !gone {
                jar.push(cookie);
            }
        }
        Ok(())
    }

    /// A person opens `url`. Does not follow redirects.
    pub(crate) async fn get(&self, url: &str) -> Checked<Response> {
        self.fetch(navigation("GET", url, "none")).await
    }

    /// A script of the page asks for `url` (`fetch`, same origin).
    pub(crate) async fn script(&self, url: &str) -> Checked<Response> {
        let request = Request::get(url).headers(&[
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Site", "same-origin"),
            ("Sec-Fetch-Dest", "empty"),
            ("Accept", "*/*"),
        ]);
        self.fetch(request).await
    }

    /// A person sends a form of the page's own origin.
    pub(crate) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Checked<Response> {
        let origin = Url::parse(url)?.origin().ascii_serialization();
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = navigation("POST", url, "same-origin")
            .header("Origin", &origin)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(body);
        self.fetch(request).await
    }

    /// Follows redirects from `response` until one page is none.
    pub(crate) async fn follow(&self, mut response: Response) -> Checked<Response> {
        for _ in 0..10 {
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            response = self.fetch(navigation("GET", &response.location()?, "cross-site")).await?;
        }
        Err(format!("ten redirects, the last to {:?}", response.header("location")).into())
    }

    /// First step of a sign-in: opens `url` and gives Bitbucket's authorize URL, where the gateway sends it.
    pub(crate) async fn begin(&self, url: &str) -> Checked<String> {
        let response = self.get(url).await?;
        let location = response.expect(302)?.location()?;
        match location.contains("/site/oauth2/authorize?") {
            true => Ok(location),
            false => Err(format!("sent to {location}, not to Bitbucket").into()),
        }
    }

    /// Second step: signs in at Bitbucket as `user` and agrees; gives the callback URL with its code and state.
    pub(crate) async fn agree(&self, authorize: &str, user: &str) -> Checked<String> {
        let response = self.post(authorize, &[("user", user)]).await?;
        response.expect(303)?.location()
    }

    /// All steps: opens `url` and signs in as `user` when asked to; gives the page at the end, whatever it is.
    pub(crate) async fn sign_in(&self, url: &str, user: &str) -> Checked<Response> {
        let authorize = self.begin(url).await?;
        let callback = self.agree(&authorize, user).await?;
        let response = self.fetch(navigation("GET", &callback, "cross-site")).await?;
        self.follow(response).await
    }
}

/// The request of a person who opens a page or sends a form; `site` as `Sec-Fetch-Site` says it.
pub(crate) fn navigation(method: &str, url: &str, site: &str) -> Request {
    Request::new(method, url).headers(&[
        ("User-Agent", USER_AGENT),
        ("Accept", CHROME_ACCEPT),
        ("Accept-Language", "en"),
        ("Sec-Fetch-Site", site),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-User", "?1"),
        ("Upgrade-Insecure-Requests", "1"),
    ])
}
