//! How long a client may take, from phase to phase.
//!
//! Owns: [`be_patient`], which tells Pingora; [`Patience`], for bodies in HTTP/2, where Pingora waits for ever;
//! [`Stalled`], what becomes of who takes longer.
//! Must not know: what is sent.
//!
//! The time for a head is the listener's; here are the body, the answer and the pause before the next request.

use std::time::Duration;

use http::HeaderMap;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use crate::facts::is_grpc;
use crate::snapshot::Limits;

/// Bounds the silences of the request that `session` is about to serve.
pub(super) fn be_patient(session: &mut Session, limits: &Limits) {
    // Without this Pingora keeps HTTP/1.1 connections for ever, and gives the next request no time limit. Those that
    // it means to close (HTTP/1.0, or framing in doubt) stay so.
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(whole_seconds(limits.keep_alive)));
    }
    session.set_read_timeout(Some(limits.body_timeout));
    session.set_write_timeout(Some(limits.answer_timeout));
}

/// Pingora counts in seconds, and takes zero for never.
fn whole_seconds(span: Duration) -> u64 {
    span.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX).max(1)
}

/// How long the client of an HTTP/2 stream may be silent in its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Patience {
    silence: Duration,
    /// Whether each side may speak when it likes, once the first message is there.
    conversation: bool,
}

/// How far the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The app has said nothing.
    None,
    /// It is under way.
    Begun,
    /// It has been sent to its end.
    Whole,
}

impl Patience {
    /// With the client of a request with these headers.
    pub(super) fn new(limits: &Limits, headers: &HeaderMap) -> Patience {
        Patience { silence: limits.body_timeout, conversation: is_grpc(headers) }
    }

    /// What there is after `received` bytes of the body; `None` is any time. While an answer is under way both may
    /// take turns, as they do in gRPC; then it is the answer that must go on. When it is over, the client has nothing
    /// to wait for.
    pub(super) fn with_body(self, answer: Answer, received: usize) -> Option<Duration> {
        match answer {
            Answer::None if self.conversation && received > 0 => None,
            Answer::None | Answer::Whole => Some(self.silence),
            Answer::Begun => None,
        }
    }
}

/// A client that held on to a request without going on with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stalled {
    /// It sent nothing of its body for `limits.body_timeout`.
    Sending,
    /// It took nothing of its answer for `limits.answer_timeout`.
    Taking,
}

impl Stalled {
    /// Whether that is what an error is about.
    pub(super) fn find(error: &Error) -> Option<Stalled> {
        match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Stalled::Sending),
            (ErrorSource::Downstream, ErrorType::WriteTimedout) => Some(Stalled::Taking),
            _ => None,
        }
    }

    /// For the log.
    pub fn sentence(self) -> &'static str {
        match self {
            Stalled::Sending => "the client stopped sending its body",
            Stalled::Taking => "the client stopped taking its answer",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn a_pause_is_in_whole_seconds_and_never_for_ever() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (75_000, 75)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis}");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_body_may_pause_while_it_is_answered_and_a_call_between_its_messages() {
        let limits = Limits::for_tests();
        let some = Some(limits.body_timeout);
        for (kind, answer, received, expected) in [
            ("text/plain", Answer::None, 0, some),
            ("text/plain", Answer::None, 5, some),
            ("text/plain", Answer::Begun, 0, None),
            ("text/plain", Answer::Whole, 5, some),
            ("application/grpc+proto", Answer::None, 0, some),
            ("application/grpc+proto", Answer::None, 5, None),
            ("application/grpc+proto", Answer::Begun, 5, None),
            ("application/grpc+proto", Answer::Whole, 5, some),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            let found = Patience::new(&limits, &headers).with_body(answer, received);
            assert_eq!(found, expected, "{kind} {answer:?} {received}");
        }
    }

    #[test]
    fn only_a_client_stalls() {
        for (kind, source, expected) in [
            (ErrorType::ReadTimedout, ErrorSource::Downstream, Some(Stalled::Sending)),
            (ErrorType::WriteTimedout, ErrorSource::Downstream, Some(Stalled::Taking)),
            (ErrorType::ReadTimedout, ErrorSource::Upstream, None),
            (ErrorType::WriteTimedout, ErrorSource::Upstream, None),
            (ErrorType::ReadError, ErrorSource::Downstream, None),
            (ErrorType::ConnectTimedout, ErrorSource::Unset, None),
        ] {
            let mut error = Error::new(kind);
            error.esource = source;
            assert_eq!(Stalled::find(&error), expected, "{error}");
        }
    }
}
