//! Bodies of requests: how much of one an app may be sent, and what becomes of one that nobody reads.
//!
//! Owns: [`Meter`], [`Afterwards`], [`before_an_answer`], [`after_an_answer`]. Must not know: which limit a route has, how a refusal looks.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::proxy::Session;
use tokio::time::timeout;

/// How much of an unread body is taken off a connection that goes on. More than that costs more than a new
/// connection does.
const KEPT_UP_TO: u64 = 64 * 1024;

/// How long a client that is still sending is listened to after it was answered. Closed at once, a connection with
/// unread bytes on it is reset, and the answer is lost with it (RFC 9112 §9.6); a stream of HTTP/2 is reset, too, and
/// clients forget the answer although they should not (RFC 9113 §8.1).
const LINGER: Duration = Duration::from_secs(2);

/// How long it may say nothing meanwhile.
const SILENCE: Duration = Duration::from_millis(500);

/// A body is longer than its route takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the body is longer than the route takes")]
pub(super) struct TooLong;

/// Counts what of a body goes to an app. Default: without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Meter {
    limit: Option<u64>,
    passed: u64,
}

impl Meter {
    /// For a route with this limit.
    pub(super) fn new(limit: Option<u64>) -> Meter {
        Meter { limit, passed: 0 }
    }

    /// Whether a body that says how long it is will do.
    ///
    /// # Errors
    ///
    /// [`TooLong`], and not a byte of it needs to be read.
    pub(super) fn announced(&self, headers: &HeaderMap) -> Result<(), TooLong> {
        match (self.limit, announced(headers)) {
            (Some(limit), Some(length)) if length > limit => Err(TooLong),
            _ => Ok(()),
        }
    }

    /// The body is sent from its beginning: once for each attempt.
    pub(super) fn begin(&mut self) {
        self.passed = 0;
    }

    /// Lets so many bytes pass, all of them or none.
    ///
    /// # Errors
    ///
    /// [`TooLong`], and none of these may go on.
    pub(super) fn pass(&mut self, bytes: usize) -> Result<(), TooLong> {
        let passed = self.passed.saturating_add(bytes as u64);
        if self.limit.is_some_and(|limit| passed > limit) {
            return Err(TooLong);
        }
        self.passed = passed;
        Ok(())
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What becomes of a connection once an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Afterwards {
    /// It carries the next request, if this one left nothing on it that is not worth reading.
    GoOn,
    /// It is closed.
    Close,
    /// It is closed, and nothing more on it is read: nobody knows where the request ends.
    Doubt,
}

/// What is left of a request's body when an answer does not wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Nothing that matters.
    Nothing,
    /// Something may come still.
    Something,
}

/// Before an answer: settles whether the connection goes on, since the answer says so.
pub(super) fn before_an_answer(session: &mut Session, afterwards: Afterwards) -> Rest {
    if afterwards != Afterwards::GoOn {
        session.set_keepalive(None);
    }
    if afterwards == Afterwards::Doubt || session.is_body_done() {
        return Rest::Nothing;
    }
    let headers = &session.req_header().headers;
    let little = announced(headers).is_some_and(|length| length <= KEPT_UP_TO);
    // Who waits for a 100 and hears something else may send the body or not; nobody could tell what follows from a
    // body (RFC 9110 §10.1.1).
    let worth_reading = little && !headers.contains_key(EXPECT);
    session.set_close_on_response_before_downstream_finish(!worth_reading);
    Rest::Something
}

/// After it: listens for a moment to a client that is still sending, and forgets what it says. The connection goes on
/// only if the body has ended by then.
pub(super) async fn after_an_answer(session: &mut Session, rest: Rest) {
    if rest == Rest::Nothing {
        return;
    }
    let forget = async {
        loop {
            match timeout(SILENCE, session.read_request_body()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return true,
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    };
    if timeout(LINGER, forget).await != Ok(true) {
        session.set_keepalive(None);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn exactly_the_limit_passes_and_no_more_at_each_attempt() {
        let mut meter = Meter::new(Some(10));
        assert_eq!((meter.pass(4), meter.pass(6), meter.pass(0)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(meter.pass(1), Err(TooLong));
        meter.begin();
        assert_eq!((meter.pass(11), meter.pass(10), meter.pass(1)), (Err(TooLong), Ok(()), Err(TooLong)));
        assert_eq!(Meter::default().pass(usize::MAX), Ok(()));
        assert_eq!((Meter::new(Some(0)).pass(0), Meter::new(Some(0)).pass(1)), (Ok(()), Err(TooLong)));
    }

    #[test]
    fn an_announced_body_is_refused_before_it_is_read() {
        for (length, verdict) in [("10", Ok(())), ("11", Err(TooLong)), ("999999999999999999", Err(TooLong))]
        {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(length))]);
            assert_eq!(Meter::new(Some(10)).announced(&headers), verdict, "{length}");
            assert_eq!(Meter::default().announced(&headers), Ok(()));
        }
        assert_eq!(Meter::new(Some(0)).announced(&HeaderMap::new()), Ok(()));
    }
}
