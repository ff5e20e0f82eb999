//! Requests that stay open.
//!
//! Owns: by what they are known, and what their client is told at the end where Pingora has the say: in HTTP/2. (What
//! a WebSocket is told is the listener's to say.)
//! Must not know: who ends them, and when.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::body::Afterwards;
use super::own;
use crate::facts::is_grpc;
use crate::open::{Ending, Kind};
use crate::pages::problem::{Event, Problem};
use crate::pages::reply::Common;

/// What a request is, as far as it says so itself.
pub(super) fn kind_of_request(request: &RequestHeader) -> Kind {
    if is_grpc(&request.headers) { Kind::Grpc } else { Kind::Stream }
}

/// What an answer makes of a request, if it makes anything of it.
pub(super) fn kind_of_answer(answer: &ResponseHeader) -> Option<Kind> {
    const EVENTS: &[u8] = b"text/event-stream";
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return Some(Kind::WebSocket);
    }
    let kind = answer.headers.get(CONTENT_TYPE)?.as_bytes();
    kind.get(..EVENTS.len())?.eq_ignore_ascii_case(EVENTS).then_some(Kind::Events)
}

/// Tells a gRPC client that its call is over, and why: in trailers when the app has begun to answer, in an answer of
/// our own when not. Everybody else is told nothing: an answer that ends before its end is not taken for a whole one.
pub(super) async fn say_goodbye(session: &mut Session, common: &Common<'_>, ending: Ending) {
    let request = session.req_header();
    if session.as_http1().is_some() || !is_grpc(&request.headers) {
        return;
    }
    let event = match ending {
        Ending::SignedOut | Ending::Revoked | Ending::Expired | Ending::NotAllowed => Event::SignInNeeded,
        Ending::CannotTell => Event::CannotTell,
    };
    let answer = Problem::new(event, ending.sentence()).grpc(common);
    // The client may be gone by now; then there is nobody to tell.
    if session.response_written().is_none() {
        let _ = own::write(session, answer, Afterwards::GoOn).await;
        return;
    }
    let mut trailers = HeaderMap::new();
    for name in ["grpc-status", "grpc-message"] {
        if let Some(value) = answer.headers().get(name) {
            trailers.insert(name, value.clone());
        }
    }
    let _ = session.as_mut().write_response_trailers(trailers).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_stays_open() -> pingora::Result<()> {
        for (status, content_type, kind) in [
            (101, None, Some(Kind::WebSocket)),
            (200, Some("text/event-stream"), Some(Kind::Events)),
            (200, Some("Text/Event-Stream; charset=utf-8"), Some(Kind::Events)),
            (200, Some("text/event"), None),
            (200, Some("application/octet-stream"), None),
            (200, None, None),
        ] {
            let mut answer = ResponseHeader::build(status, None)?;
            if let Some(content_type) = content_type {
                answer.insert_header(CONTENT_TYPE, content_type)?;
            }
            assert_eq!(kind_of_answer(&answer), kind, "{status} {content_type:?}");
        }
        Ok(())
    }
}
