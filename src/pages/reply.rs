//! What every answer of our own has in common: the protecting headers, redirects, the stylesheet.
//!
//! Owns: [`Common`], the header set of own responses, [`redirect`], [`stylesheet`].
//! Must not know: axum, Pingora, the clock, what an answer is about.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::clock::Timestamp;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer needs to know, whatever it says.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// The name of this request in logs; shown, so that a visitor can quote it.
    pub request_id: &'a str,
    /// The moment of the request. Ages on pages count from here.
    pub now: Timestamp,
    /// Whom to ask, as configured: a `mailto:` or web address, or plain words.
    pub contact: Option<&'a str>,
    /// The host that the visitor knows the gateway by.
    pub gateway: &'a str,
    /// An origin that forms may lead on to besides our own, like `https://bitbucket.org`. Chromium applies
    /// `form-action` to every redirect that follows a form's POST, not only to the first address.
    pub form_origin: Option<&'a str>,
}

impl Common<'_> {
    /// Where the stylesheet is.
    pub fn style_path(&self) -> &'static str {
        stylesheet_path()
    }
}

/// How a redirect treats the method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// 302: go there with GET.
    Found,
    /// 303: the POST is done, look there for what came of it.
    SeeOther,
    /// 308: go there with the same method and body, from now on.
    Permanent,
}

/// Sends the browser to `location`, which the caller has checked. `None` when it does not fit into a header.
pub fn redirect(common: &Common<'_>, how: Redirect, location: &str) -> Option<Response<Bytes>> {
    let location = HeaderValue::from_str(location).ok()?;
    let status = match how {
        Redirect::Found => StatusCode::FOUND,
        Redirect::SeeOther => StatusCode::SEE_OTHER,
        Redirect::Permanent => StatusCode::PERMANENT_REDIRECT,
    };
    let mut response = reply(common, status, "text/plain; charset=utf-8", Bytes::new(), Forms::None);
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

/// Whether a page submits anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forms {
    /// It only links.
    None,
    /// It has a form that posts to us.
    Post,
}

/// An answer with the headers that protect every answer of ours.
pub(super) fn reply(
    common: &Common<'_>,
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
    forms: Forms,
) -> Response<Bytes> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, security_policy(common, forms));
    // `no-referrer` makes a browser send `Origin: null` with a form (Fetch, "append a request Origin
    // header"), and sign-out could not be told from a forged one. `same-origin` tells strangers as little.
    let referrer = match forms {
        Forms::None => "no-referrer",
        Forms::Post => "same-origin",
    };
    headers.insert(REFERRER_POLICY, HeaderValue::from_static(referrer));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(common.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    response
}

/// 200: JSON of our own.
pub fn json(common: &Common<'_>, body: Bytes) -> Response<Bytes> {
    reply(common, StatusCode::OK, "application/json", body, Forms::None)
}

fn security_policy(common: &Common<'_>, forms: Forms) -> HeaderValue {
    const PLAIN: &str = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; \
                         base-uri 'none'";
    let origin = match (forms, common.form_origin) {
        // A separator in it would begin another directive.
        (Forms::Post, Some(origin)) if !origin.contains([' ', ';', ',', '\t']) => origin,
        _ => return HeaderValue::from_static(PLAIN),
    };
    let policy = PLAIN.replace("form-action 'self'", &format!("form-action 'self' {origin}"));
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(PLAIN))
}

const STYLE: &str = include_str!("style.css");

static STYLE_PATH: LazyLock<String> = LazyLock::new(|| {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
    let name: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/.teamgate/style.{name}.css")
});

/// Where the stylesheet is: its name changes with its content, so it may be kept for ever.
pub fn stylesheet_path() -> &'static str {
    &STYLE_PATH
}

/// The stylesheet and where it is to be served, on every host.
pub fn stylesheet() -> (&'static str, Response<Bytes>) {
    (stylesheet_path(), css(STYLE))
}

/// The text of the stylesheet, for the demo app, which looks the same.
pub const fn stylesheet_text() -> &'static str {
    STYLE
}

fn css(text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn common(form_origin: Option<&'static str>) -> Common<'static> {
        Common {
            request_id: "r-1",
            now: Timestamp::from_unix_seconds(0),
            contact: None,
            gateway: "gate.example.com",
            form_origin,
        }
    }

    fn policy(forms: Forms, origin: Option<&'static str>) -> String {
        let response =
            reply(&common(origin), StatusCode::OK, "text/html; charset=utf-8", Bytes::new(), forms);
        response.headers().get(CONTENT_SECURITY_POLICY).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
    }

    #[test]
    fn forms_may_lead_on_to_the_given_origin_and_to_nothing_else() {
        let plain = policy(Forms::None, None);
        assert_eq!(
            plain,
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        );
        assert_eq!(policy(Forms::None, Some("https://bitbucket.org")), plain, "no form, no exception");
        assert_eq!(
            policy(Forms::Post, Some("https://bitbucket.org")),
            plain.replace("form-action 'self'", "form-action 'self' https://bitbucket.org")
        );
        for evil in ["https://a.example; script-src *", "* 'unsafe-inline'", "https://a.example\nx"] {
            assert_eq!(policy(Forms::Post, Some(evil)), plain, "{evil:?}");
        }
    }

    #[test]
    fn a_page_with_a_form_lets_the_browser_name_its_origin_to_us_alone() {
        for (forms, expected) in [(Forms::None, "no-referrer"), (Forms::Post, "same-origin")] {
            let response =
                reply(&common(None), StatusCode::OK, "text/html; charset=utf-8", Bytes::new(), forms);
            assert_eq!(response.headers().get(REFERRER_POLICY), Some(&HeaderValue::from_static(expected)));
        }
    }

    #[test]
    fn a_redirect_carries_the_protecting_headers_and_refuses_a_split_one() -> Outcome {
        let c = common(None);
        let response = redirect(&c, Redirect::Found, "https://bitbucket.org/a?b=c").ok_or("refused")?;
        assert_eq!(response.status(), StatusCode::FOUND);
        assert_eq!(
            response.headers().get(LOCATION),
            Some(&HeaderValue::from_static("https://bitbucket.org/a?b=c"))
        );
        assert_eq!(response.headers().get(CACHE_CONTROL), Some(&HeaderValue::from_static("no-store")));
        assert_eq!(response.headers().get(X_REQUEST_ID), Some(&HeaderValue::from_static("r-1")));
        let response = redirect(&c, Redirect::SeeOther, "/.teamgate/").ok_or("refused")?;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert!(redirect(&c, Redirect::Found, "/\r\nset-cookie: a=b").is_none());
        Ok(())
    }

    #[test]
    fn the_stylesheet_is_named_by_its_content_and_kept_for_ever() {
        let (path, response) = stylesheet();
        assert!(path.starts_with("/.teamgate/style.") && path.ends_with(".css"), "{path}");
        assert_eq!(path.len(), "/.teamgate/style.0123456789abcdef.css".len());
        let cache = response.headers().get(CACHE_CONTROL).and_then(|v| v.to_str().ok());
        assert_eq!(cache, Some("public, max-age=31536000, immutable"));
        assert!(response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/css; charset=utf-8"));
        assert!(!response.body().is_empty());
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"), "nothing is fetched besides");
    }

    /// The colours named by `--name: #rrggbb` in a piece of CSS.
    fn colours(css: &str) -> std::collections::BTreeMap<String, [u8; 3]> {
        let mut found = std::collections::BTreeMap::new();
        for line in css.lines() {
            let Some((name, value)) = line.trim().strip_prefix("--").and_then(|l| l.split_once(':')) else {
                continue;
            };
            let hex = value.trim().trim_end_matches(';').trim_start_matches('#');
            if let Ok(rgb) = u32::from_str_radix(hex, 16)
                && hex.len() == 6
            {
                let [_, r, g, b] = rgb.to_be_bytes();
                found.insert(name.to_owned(), [r, g, b]);
            }
        }
        found
    }

    /// Relative luminance (WCAG 2.2).
    fn luminance(rgb: [u8; 3]) -> f64 {
        let [r, g, b] = rgb.map(|channel| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    fn contrast(a: [u8; 3], b: [u8; 3]) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_stands_out_seven_to_one_in_light_and_in_dark() -> Outcome {
        let (light, rest) =
            STYLE.split_once("@media (prefers-color-scheme: dark)").ok_or("no dark scheme")?;
        let dark = rest.split_once("\n}").ok_or("no end of the dark scheme")?.0;
        for (scheme, css) in [("light", light), ("dark", dark)] {
            let colours = colours(css);
            let of = |name: &str| colours.get(name).copied().ok_or_else(|| format!("{scheme}: no --{name}"));
            for (ink, paper, least) in [
                ("ink", "paper", 7.0),
                ("soft", "paper", 7.0),
                ("accent", "paper", 7.0),
                ("ink", "panel", 7.0),
                ("soft", "panel", 7.0),
                ("accent", "panel", 7.0),
                ("on-accent", "accent", 7.0),
                ("on-accent", "accent-strong", 7.0),
                // WCAG 1.4.11: the focus ring and the edge of a control against what is around them.
                ("focus", "paper", 3.0),
                ("focus", "panel", 3.0),
                ("edge", "paper", 3.0),
            ] {
                let got = contrast(of(ink)?, of(paper)?);
                assert!(got >= least, "{scheme}: {ink} on {paper} is {got:.2}, wanted {least}");
            }
        }
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 0.01, "the measure itself");
        Ok(())
    }
}
