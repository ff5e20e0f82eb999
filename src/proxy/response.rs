//! What comes back from the app, as the client may have it.
//!
//! Owns: what is no answer, which headers of one stop here, and who may keep a copy. Must not know: bodies; they
//! stream.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HeaderName, PROXY_AUTHENTICATE, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::ResponseHeader;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How many interim answers (RFC 9110 §15.2) may come before the one that counts. A long WebDAV request gets one
/// every 20 s.
pub(super) const MAX_INTERIM: usize = 256;

/// Why an answer is none: what the client would make of it is not certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Nonsense {
    /// RFC 9112 §6.1: a coding besides `chunked` that we did not ask for, `chunked` twice, or any in HTTP/1.0.
    #[error("an answer in a transfer coding that nobody asked for")]
    Coding,
    /// A number that no answer can have.
    #[error("an answer whose length is no length")]
    Length,
    /// RFC 9110 §7.8.
    #[error("a change of protocol that nobody asked for")]
    Protocol,
    /// More than [`MAX_INTERIM`].
    #[error("interim answers without end")]
    Interim,
    /// More than [`MAX_HEAD`].
    #[error("an answer whose header is larger than 64 KiB")]
    Large,
}

/// The most bytes that the header of an answer may have. Clients give up at less, and Pingora reads a megabyte: no
/// app should make the gateway carry that for each answer.
const MAX_HEAD: usize = 64 * 1024;

/// Makes an answer say in one way, in our own version, how long it is. `client` is the version of the request.
pub(super) fn settle_framing(
    response: &mut ResponseHeader,
    client: Version,
) -> std::result::Result<(), Nonsense> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    if response.headers.iter().map(field).sum::<usize>() > MAX_HEAD {
        return Err(Nonsense::Large);
    }
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        // It ends with its head; a client that believed a length would wait for it (RFC 9110 §15.2).
        response.remove_header(&CONTENT_LENGTH);
        response.remove_header(&TRANSFER_ENCODING);
        return Ok(());
    }
    let mut codings = response.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None)
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && response.version != Version::HTTP_10 => {
        }
        _ => return Err(Nonsense::Coding),
    }
    // Pingora has made sure that all lengths are the same, and passes them on as they came (RFC 9110 §8.6).
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let first = length.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        if first.is_empty() || first.len() > 18 || !first.iter().all(u8::is_ascii_digit) {
            return Err(Nonsense::Length);
        }
        if lengths.next().is_some() || first.len() != length.as_bytes().len() {
            let one = HeaderValue::from_bytes(first).map_err(|_| Nonsense::Length)?;
            let _ = response.insert_header(CONTENT_LENGTH, one);
        }
    }
    match response.status {
        // RFC 9110 §8.6 and RFC 9112 §6.1: neither belongs there, and not every client knows.
        StatusCode::NO_CONTENT => {
            response.remove_header(&CONTENT_LENGTH);
            response.remove_header(&TRANSFER_ENCODING);
        }
        StatusCode::NOT_MODIFIED => {
            response.remove_header(&TRANSFER_ENCODING);
        }
        // A client of that age knows no chunks; its answer ends with the connection.
        _ if client == Version::HTTP_10 => {
            response.remove_header(&TRANSFER_ENCODING);
        }
        _ => {}
    }
    if response.version == Version::HTTP_10 || response.version == Version::HTTP_09 {
        // The version is that of the last hop, not of the app (RFC 9110 §7.6.3 asks proxies to say their own).
        response.set_version(Version::HTTP_11);
    }
    Ok(())
}

/// Whether an answer to `method` is over with its head (RFC 9112 §6.3).
pub(super) fn has_no_body(response: &ResponseHeader, method: &Method) -> bool {
    method == Method::HEAD
        || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0")
}

/// What Pingora leaves on an answer although it concerns only the connection to the app (RFC 9110 §7.6.1).
pub(super) fn strip_hop_by_hop(fields: &mut HeaderMap) {
    if fields.contains_key(CONNECTION) {
        for name in nominated(fields) {
            fields.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_CONNECTION] {
        fields.remove(name);
    }
}

/// What `Connection` names, but for what frames the answer itself: some apps name that.
fn nominated(fields: &HeaderMap) -> Vec<HeaderName> {
    (fields.get_all(CONNECTION).iter())
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            !matches!(
                name.as_str(),
                "close" | "keep-alive" | "upgrade" | "content-length" | "transfer-encoding"
            )
        })
        .collect()
}

/// An answer to somebody signed in is theirs: a shared cache must not hand it to the next person. What the app
/// says itself about private caching stays.
pub(super) fn keep_private(fields: &mut HeaderMap) {
    fields.append(VARY, HeaderValue::from_static("Cookie"));
    let mut all = fields.get_all(CACHE_CONTROL).iter();
    let Some(first) = all.next() else {
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    };
    let said = std::iter::once(first).chain(all).filter_map(|field| field.to_str().ok());
    let said = said.collect::<Vec<_>>().join(",").to_ascii_lowercase();
    if ["private", "no-store"].iter().any(|word| said.contains(word)) {
        return;
    }
    let directives = said
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty() && *word != "public" && !word.starts_with("s-maxage"));
    let directives: Vec<&str> = std::iter::once("private").chain(directives).collect();
    // Words of a field, in lower case and with commas between them, are a field.
    if let Ok(value) = HeaderValue::try_from(directives.join(", ")) {
        fields.insert(CACHE_CONTROL, value);
    }
}

#[cfg(test)]
mod tests {
    use pingora::Result;

    use super::super::heads::with_response_fields;
    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Result<ResponseHeader> {
        let mut response = ResponseHeader::build(200, None)?;
        for (name, value) in headers {
            response.append_header(*name, *value)?;
        }
        Ok(response)
    }

    #[test]
    fn what_concerns_the_hop_to_the_app_stays_on_it() -> Result<()> {
        let mut response = answer(&[
            ("connection", "close, X-Internal"),
            ("x-internal", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("set-cookie", "a=1"),
            ("content-length", "2"),
        ])?;
        with_response_fields(&mut response, strip_hop_by_hop);
        for (name, stays) in [
            ("x-internal", false),
            ("keep-alive", false),
            ("proxy-authenticate", false),
            ("set-cookie", true),
            ("content-length", true),
        ] {
            assert_eq!(response.headers.contains_key(name), stays, "{name}");
        }
        Ok(())
    }

    #[test]
    fn an_answer_says_once_how_long_it_is() -> Result<()> {
        const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");
        const TWO: (&str, &str) = ("content-length", "2");
        type Fields = &'static [(&'static str, &'static str)];
        type Settled = std::result::Result<Fields, Nonsense>;
        let rows: &[(u16, Version, Fields, Version, Settled)] = &[
            (200, Version::HTTP_11, &[TWO], Version::HTTP_11, Ok(&[TWO])),
            (200, Version::HTTP_11, &[CHUNKED], Version::HTTP_11, Ok(&[CHUNKED])),
            (200, Version::HTTP_2, &[TWO], Version::HTTP_2, Ok(&[TWO])),
            (200, Version::HTTP_11, &[TWO, TWO], Version::HTTP_11, Ok(&[TWO])),
            (200, Version::HTTP_11, &[("content-length", "2, 2")], Version::HTTP_11, Ok(&[TWO])),
            (200, Version::HTTP_11, &[("content-length", "")], Version::HTTP_11, Err(Nonsense::Length)),
            (
                200,
                Version::HTTP_11,
                &[("content-length", "1000000000000000000")],
                Version::HTTP_11,
                Err(Nonsense::Length),
            ),
            (200, Version::HTTP_11, &[CHUNKED, CHUNKED], Version::HTTP_11, Err(Nonsense::Coding)),
            (
                200,
                Version::HTTP_11,
                &[("transfer-encoding", "gzip, chunked")],
                Version::HTTP_11,
                Err(Nonsense::Coding),
            ),
            (
                200,
                Version::HTTP_11,
                &[("transfer-encoding", "identity")],
                Version::HTTP_11,
                Err(Nonsense::Coding),
            ),
            (200, Version::HTTP_10, &[CHUNKED], Version::HTTP_11, Err(Nonsense::Coding)),
            (200, Version::HTTP_10, &[TWO], Version::HTTP_11, Ok(&[TWO])),
            // A client that knows no chunks.
            (200, Version::HTTP_11, &[CHUNKED], Version::HTTP_10, Ok(&[])),
            (204, Version::HTTP_11, &[TWO], Version::HTTP_11, Ok(&[])),
            (204, Version::HTTP_11, &[CHUNKED], Version::HTTP_11, Ok(&[])),
            (304, Version::HTTP_11, &[TWO], Version::HTTP_11, Ok(&[TWO])),
            (304, Version::HTTP_11, &[CHUNKED], Version::HTTP_11, Ok(&[])),
            (103, Version::HTTP_11, &[TWO], Version::HTTP_11, Ok(&[])),
            (100, Version::HTTP_11, &[CHUNKED], Version::HTTP_11, Ok(&[])),
        ];
        for (status, version, said, client, expected) in rows {
            let mut response = answer(said)?;
            response.set_status(*status)?;
            response.set_version(*version);
            let settled = settle_framing(&mut response, *client);
            assert_eq!(settled.err(), expected.err(), "{status} {said:?}");
            if let Ok(fields) = expected {
                let got: Vec<_> = response
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?")))
                    .collect();
                assert_eq!(got, *fields, "{status} {said:?}");
                assert_ne!(response.version, Version::HTTP_10);
            }
        }
        Ok(())
    }

    #[test]
    fn some_answers_are_over_with_their_head() -> Result<()> {
        for (status, method, length, over) in [
            (200, Method::GET, Some("0"), true),
            (200, Method::GET, Some("1"), false),
            (200, Method::GET, None, false),
            (200, Method::HEAD, Some("1"), true),
            (204, Method::POST, None, true),
            (304, Method::GET, Some("1"), true),
        ] {
            let mut response = answer(&[])?;
            response.set_status(status)?;
            if let Some(length) = length {
                response.insert_header(CONTENT_LENGTH, length)?;
            }
            assert_eq!(has_no_body(&response, &method), over, "{status} {method} {length:?}");
        }
        Ok(())
    }

    #[test]
    fn an_answer_to_somebody_is_kept_by_nobody_else() -> Result<()> {
        for (said, becomes) in [
            (None, "private"),
            (Some("public, max-age=60"), "private, max-age=60"),
            (Some("max-age=60, s-maxage=600"), "private, max-age=60"),
            (Some("no-store"), "no-store"),
            (Some("Private, max-age=5"), "Private, max-age=5"),
        ] {
            let mut response = answer(&[])?;
            if let Some(said) = said {
                response.insert_header(CACHE_CONTROL, said)?;
            }
            with_response_fields(&mut response, keep_private);
            assert_eq!(response.headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok()), Some(becomes));
            assert_eq!(response.headers.get(VARY).and_then(|v| v.to_str().ok()), Some("Cookie"));
        }
        Ok(())
    }
}
