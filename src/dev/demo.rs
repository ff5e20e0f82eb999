//! What the demo app shows: the identity that arrived, the assertion taken apart, and where to go next.
//!
//! Owns: the pages of the app that `teamgate dev` puts behind the gateway.
//! Must not know: sockets, how a signature is checked, the simulator.

use std::sync::LazyLock;

use askama::Template;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use crate::pages::reply::stylesheet_text;

/// The parts of the demo. Each is a route of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum App {
    /// `/`, for the members of a team.
    Wiki,
    /// `/deploy`, for its administrators.
    Deploy,
    /// `/status`, public.
    Status,
}

impl App {
    /// Where it is.
    pub fn path(self) -> &'static str {
        match self {
            App::Wiki => "/",
            App::Deploy => "/deploy",
            App::Status => "/status",
        }
    }

    /// Its own copy of the stylesheet: below its own route, so that whoever may see a page sees its colours.
    pub fn style_path(self) -> &'static str {
        match self {
            App::Wiki => "/demo.css",
            App::Deploy => "/deploy/demo.css",
            App::Status => "/status/demo.css",
        }
    }

    fn title(self) -> &'static str {
        match self {
            App::Wiki => "The wiki",
            App::Deploy => "Deploy",
            App::Status => "Status",
        }
    }
}

/// What checking the assertion against the gateway's published keys came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'a> {
    /// Signed by this key, for this app, at this time.
    Good {
        /// The key's id.
        kid: &'a str,
    },
    /// Not to be believed.
    Bad {
        /// What is wrong, as a sentence.
        why: &'a str,
    },
    /// The keys could not be had.
    Unchecked {
        /// What is missing, as a sentence.
        why: &'a str,
    },
}

/// An assertion taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Assertion<'a> {
    /// Its header: algorithm and key.
    pub header: &'a Value,
    /// Its claims.
    pub claims: &'a Value,
    /// Whether it is to be believed.
    pub verdict: Verdict<'a>,
}

/// One request as the demo app received it.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The part of the demo that it came to.
    pub app: App,
    /// The headers that tell who someone is, in order of arrival.
    pub identity: &'a [(String, String)],
    /// All other headers.
    pub others: &'a [(String, String)],
    /// The assertion, if one came and can be read.
    pub assertion: Option<Assertion<'a>>,
    /// Where the pretend Bitbucket is.
    pub bitbucket: &'a str,
}

/// 200: what the gateway told this app about the visitor; on the status page, that it told nothing.
pub fn page(received: &Received<'_>) -> Response<Bytes> {
    let text = match received.app {
        App::Wiki | App::Deploy => IdentityPage {
            app: received.app,
            view: received,
            name: received.assertion.and_then(|a| a.claims.get("name")).and_then(Value::as_str),
            header: received.assertion.map(|a| pretty(a.header)),
            claims: received.assertion.map(|a| pretty(a.claims)),
        }
        .render(),
        App::Status => StatusPage { app: received.app, view: received }.render(),
    };
    let (status, text) = match text {
        Ok(text) => (StatusCode::OK, text),
        // Writing into a String does not fail.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    };
    let mut response = respond(status, "text/html; charset=utf-8", text.into());
    let policy =
        "default-src 'none'; style-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// 200: the stylesheet; served at [`App::style_path`] of every app.
pub fn stylesheet() -> Response<Bytes> {
    static STYLE: LazyLock<String> = LazyLock::new(|| [stylesheet_text(), include_str!("demo.css")].concat());
    respond(StatusCode::OK, "text/css; charset=utf-8", Bytes::from_static(STYLE.as_bytes()))
}

/// 404: the demo has three pages and no more.
pub fn not_found(app: App, bitbucket: &str) -> Response<Bytes> {
    let view = Received { app, identity: &[], others: &[], assertion: None, bitbucket };
    let text = NotFoundPage { app, view: &view }.render().unwrap_or_default();
    respond(StatusCode::NOT_FOUND, "text/html; charset=utf-8", text.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Bytes> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // What these pages show changes with every request, and the stylesheet with every build.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[derive(Template)]
#[template(path = "demo/identity.html")]
struct IdentityPage<'a> {
    app: App,
    view: &'a Received<'a>,
    name: Option<&'a str>,
    header: Option<String>,
    claims: Option<String>,
}

#[derive(Template)]
#[template(path = "demo/status.html")]
struct StatusPage<'a> {
    app: App,
    view: &'a Received<'a>,
}

#[derive(Template)]
#[template(path = "demo/not_found.html")]
struct NotFoundPage<'a> {
    app: App,
    view: &'a Received<'a>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EVIL: &str = "<script>alert('\"')</script>";

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).unwrap_or("not UTF-8")
    }

    fn show(app: App, name: &str, verdict: Verdict<'_>) -> Response<Bytes> {
        let header = json!({ "alg": "ES256", "kid": "2026-11", "typ": "JWT" });
        let claims = json!({ "name": name, "groups": ["acme", "acme/members"], "exp": 1_795_508_823 });
        let identity = [("X-Forwarded-User".to_owned(), name.to_owned())];
        let others = [("User-Agent".to_owned(), name.to_owned())];
        let assertion = Some(Assertion { header: &header, claims: &claims, verdict });
        page(&Received {
            app,
            identity: &identity,
            others: &others,
            assertion,
            bitbucket: "http://127.0.0.1:7990/",
        })
    }

    #[test]
    fn every_page_is_one_sound_document_and_leads_to_all_the_others() {
        let nothing = Received {
            app: App::Status,
            identity: &[],
            others: &[],
            assertion: None,
            bitbucket: "http://127.0.0.1:7990/",
        };
        for (what, app, response) in [
            ("wiki", App::Wiki, show(App::Wiki, "Ann", Verdict::Good { kid: "2026-11" })),
            ("deploy", App::Deploy, show(App::Deploy, "Ann", Verdict::Bad { why: "It is for another app." })),
            ("unchecked", App::Deploy, show(App::Deploy, "Ann", Verdict::Unchecked { why: "No keys." })),
            ("nobody", App::Wiki, page(&Received { app: App::Wiki, ..nothing })),
            ("status", App::Status, page(&nothing)),
            ("not found", App::Wiki, not_found(App::Wiki, "http://127.0.0.1:7990/")),
        ] {
            let html = text(&response);
            for once in ["<h1", "<title>", "<nav", "<main>", "<link "] {
                assert_eq!(html.matches(once).count(), 1, "{what}: {once}\n{html}");
            }
            for never in ["<script", "style=", "<img", "src="] {
                assert!(!html.contains(never), "{what} has {never}");
            }
            assert!(
                html.contains(&format!("<link rel=\"stylesheet\" href=\"{}\">", app.style_path())),
                "{what}"
            );
            for link in ["/", "/deploy", "/status", "/.teamgate/", "http://127.0.0.1:7990/"] {
                assert!(html.contains(&format!("href=\"{link}\"")), "{what} does not lead to {link}");
            }
            assert!(response.headers().get(CACHE_CONTROL).is_some_and(|v| v == "no-store"));
        }
    }

    #[test]
    fn the_verdict_is_said_in_words() {
        for (verdict, says) in [
            (Verdict::Good { kid: "2026-11" }, "The signature is good"),
            (Verdict::Bad { why: "It is for another app." }, "It is for another app."),
            (Verdict::Unchecked { why: "The keys could not be read." }, "The keys could not be read."),
        ] {
            let page = show(App::Wiki, "Ann", verdict);
            assert!(text(&page).contains(says), "{}", text(&page));
            assert!(text(&page).contains("&#34;groups&#34;: [\n"), "pretty-printed\n{}", text(&page));
        }
    }

    #[test]
    fn what_arrived_is_shown_as_text() {
        for app in [App::Wiki, App::Deploy, App::Status] {
            let page = show(app, EVIL, Verdict::Bad { why: EVIL });
            assert!(!text(&page).contains("<script") && text(&page).contains("&#60;script&#62;"), "{app:?}");
        }
    }

    #[test]
    fn the_status_page_admits_when_an_identity_arrived_after_all() {
        let clean =
            page(&Received { app: App::Status, identity: &[], others: &[], assertion: None, bitbucket: "/" });
        assert!(text(&clean).contains("No identity arrived"), "{}", text(&clean));
        let leaked = [("X-Forwarded-User".to_owned(), "ann".to_owned())];
        let leak = page(&Received {
            app: App::Status,
            identity: &leaked,
            others: &[],
            assertion: None,
            bitbucket: "/",
        });
        assert!(!text(&leak).contains("No identity arrived") && text(&leak).contains("X-Forwarded-User"));
    }
}
