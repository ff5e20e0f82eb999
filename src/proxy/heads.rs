//! Heads as plain maps of fields.
//!
//! Owns: giving up the spelling of names that Pingora keeps beside each field. It is of no meaning (RFC 9110 §5.1), and
//! every change of a field pays for it: two thousand instructions an insertion, against two hundred.
//! Must not know: which fields there are.

use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};

/// Lets `change` have the fields of a request. Its target has to be set anew if it was not in origin form.
pub(super) fn with_request_fields<T>(
    request: &mut RequestHeader,
    change: impl FnOnce(&mut HeaderMap) -> T,
) -> T {
    let nothing = http::Request::new(()).into_parts().0;
    let mut parts: http::request::Parts = std::mem::replace(request, nothing.into()).into();
    let outcome = change(&mut parts.headers);
    *request = parts.into();
    outcome
}

/// Lets `change` have the fields of an answer.
pub(super) fn with_response_fields<T>(
    response: &mut ResponseHeader,
    change: impl FnOnce(&mut HeaderMap) -> T,
) -> T {
    let reason =
        response.get_reason_phrase().filter(|reason| response.status.canonical_reason() != Some(reason));
    let reason = reason.map(str::to_owned);
    let nothing = http::Response::new(()).into_parts().0;
    let mut parts: http::response::Parts = std::mem::replace(response, nothing.into()).into();
    let outcome = change(&mut parts.headers);
    *response = parts.into();
    if let Some(reason) = reason {
        // It came that way.
        let _ = response.set_reason_phrase(Some(&reason));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_spelling_stays() -> pingora::Result<()> {
        let mut request = RequestHeader::build("PUT", b"/a%20b?c", None)?;
        request.append_header("X-One", "1")?;
        request.append_header("x-one", "2")?;
        request.set_version(http::Version::HTTP_10);
        with_request_fields(&mut request, |fields| fields.len());
        assert_eq!((request.method.as_str(), request.version), ("PUT", http::Version::HTTP_10));
        assert_eq!(request.raw_path(), b"/a%20b?c");
        assert_eq!(request.headers.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "2"]);
        let mut response = ResponseHeader::build(200, None)?;
        response.set_reason_phrase(Some("Fine"))?;
        response.append_header("X-One", "1")?;
        with_response_fields(&mut response, |fields| fields.len());
        assert_eq!((response.get_reason_phrase(), response.headers.len()), (Some("Fine"), 1));
        Ok(())
    }
}
