//! What a browser asks before it lets a page of another origin send a request.
//!
//! Owns: [`is_preflight`]. Must not know: routes, sessions.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method};

/// Whether a request is a CORS preflight (Fetch, "CORS-preflight request"), and nothing that merely looks like
/// one: gateways that let through every `OPTIONS` let through whatever an app does on `OPTIONS`.
///
/// Exactly one `Origin` and exactly one `Access-Control-Request-Method` with a method in it, no body, and no wish for
/// another protocol: a tunnel to an app is no question about one. A body that the headers do not announce (HTTP/2) is
/// for the caller to keep back.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    let no_body = !headers.contains_key(TRANSFER_ENCODING)
        && headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
    *method == Method::OPTIONS
        && no_body
        && !headers.contains_key(UPGRADE)
        && only(headers, &ORIGIN).is_some_and(is_origin)
        && only(headers, &ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|wanted| Method::from_bytes(wanted).is_ok())
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// `null`, or a scheme and a host: one origin, since browsers send one (RFC 6454 §7.3 would allow a list).
fn is_origin(value: &[u8]) -> bool {
    value == b"null"
        || std::str::from_utf8(value).ok().and_then(|text| text.split_once("://")).is_some_and(
            |(scheme, host)| {
                !scheme.is_empty()
                    && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                    && !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_graphic() && !b",/?#@\\".contains(&byte))
            },
        )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_preflight_is_what_a_browser_sends_and_nothing_else() {
        type Fields<'f> = &'f [(&'static str, &'static str)];
        const ORIGIN: (&str, &str) = ("origin", "https://shop.example.org");
        const WANTED: (&str, &str) = ("access-control-request-method", "PUT");
        let cases: &[(&str, Fields<'_>, bool)] = &[
            ("OPTIONS", &[ORIGIN, WANTED], true),
            ("OPTIONS", &[ORIGIN, WANTED, ("access-control-request-headers", "x-a,x-b")], true),
            ("OPTIONS", &[ORIGIN, WANTED, ("content-length", "0")], true),
            ("OPTIONS", &[("origin", "null"), WANTED], true),
            ("OPTIONS", &[("origin", "http://[::1]:8080"), WANTED], true),
            ("OPTIONS", &[("origin", "chrome-extension://abcdef"), WANTED], true),
            ("OPTIONS", &[ORIGIN, ("access-control-request-method", "PROPFIND")], true),
            // Look-alikes.
            ("OPTIONS", &[], false),
            ("OPTIONS", &[ORIGIN], false),
            ("OPTIONS", &[WANTED], false),
            ("OPTIONS", &[ORIGIN, ORIGIN, WANTED], false),
            ("OPTIONS", &[ORIGIN, WANTED, WANTED], false),
            ("OPTIONS", &[ORIGIN, ("access-control-request-method", "")], false),
            ("OPTIONS", &[ORIGIN, ("access-control-request-method", "GET, PUT")], false),
            ("OPTIONS", &[("origin", ""), WANTED], false),
            ("OPTIONS", &[("origin", "shop.example.org"), WANTED], false),
            ("OPTIONS", &[("origin", "https://a.example https://b.example"), WANTED], false),
            ("OPTIONS", &[("origin", "https://a.example,https://b.example"), WANTED], false),
            ("OPTIONS", &[("origin", "https://a.example/"), WANTED], false),
            ("OPTIONS", &[("origin", "https://u:p@a.example"), WANTED], false),
            ("OPTIONS", &[("origin", "://a.example"), WANTED], false),
            ("OPTIONS", &[ORIGIN, WANTED, ("content-length", "1")], false),
            ("OPTIONS", &[ORIGIN, WANTED, ("transfer-encoding", "chunked")], false),
            ("OPTIONS", &[ORIGIN, WANTED, ("upgrade", "websocket")], false),
            ("GET", &[ORIGIN, WANTED], false),
            ("POST", &[ORIGIN, WANTED], false),
            ("options", &[ORIGIN, WANTED], false),
        ];
        for (method, fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            assert_eq!(is_preflight(&method, &headers), *expected, "{method} {fields:?}");
        }
    }
}
