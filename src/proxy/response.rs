//! What comes back from the app, as the client may have it.
//!
//! Owns: which headers of an answer stop here, and who may keep a copy. Must not know: bodies; they stream.

use http::header::{CACHE_CONTROL, CONNECTION, HeaderName, VARY};
use pingora::Result;
use pingora::http::ResponseHeader;

/// What Pingora leaves on an answer although it concerns only the connection to the app (RFC 9110 §7.6.1).
pub(super) fn strip_hop_by_hop(response: &mut ResponseHeader) {
    let nominated: Vec<HeaderName> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            !matches!(name.as_str(), "close" | "keep-alive" | "upgrade" | "content-length")
        })
        .collect();
    for name in nominated.iter().map(HeaderName::as_str).chain([
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
    ]) {
        response.remove_header(name);
    }
}

/// An answer to somebody signed in is theirs: a shared cache must not hand it to the next person. What the app
/// says itself about private caching stays.
pub(super) fn keep_private(response: &mut ResponseHeader) -> Result<()> {
    let said = response.headers.get_all(CACHE_CONTROL).iter().filter_map(|field| field.to_str().ok());
    let said = said.collect::<Vec<_>>().join(",").to_ascii_lowercase();
    let kept = ["private", "no-store"].iter().any(|word| said.contains(word));
    if !kept {
        let mut directives: Vec<&str> = said
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty() && *word != "public" && !word.starts_with("s-maxage"))
            .collect();
        directives.insert(0, "private");
        response.insert_header(CACHE_CONTROL, directives.join(", "))?;
    }
    response.append_header(VARY, "Cookie")?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
        strip_hop_by_hop(&mut response);
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
            keep_private(&mut response)?;
            assert_eq!(response.headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok()), Some(becomes));
            assert_eq!(response.headers.get(VARY).and_then(|v| v.to_str().ok()), Some("Cookie"));
        }
        Ok(())
    }
}
