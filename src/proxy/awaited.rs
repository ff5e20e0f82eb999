//! How long a request waits for its app, and what happens then.
//!
//! Owns: [`Awaited`], `Waits`, `Watch`. Must not know: which app it is.
//!
//! Pingora knows one limit, for each single read. Where header and body have the same and the whole has none, it
//! is all that is needed and costs nothing. Elsewhere an alarm ends the connection to the app: Pingora comes to
//! its end, and `Watch::rang` says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{ACCEPT, UPGRADE};
use tokio::task::AbortHandle;

use super::reach::Hold;
use crate::facts::is_grpc;
use crate::route::upstream::app::Timeouts;

/// What kind of answer a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// One that comes to an end.
    Answer,
    /// An event stream, or gRPC: silent for as long as there is nothing to say.
    Stream,
    /// A WebSocket: silent for as long as there is nothing to say, and no answer but a connection.
    Tunnel,
}

impl Awaited {
    /// By what the request asks for.
    pub fn by(headers: &HeaderMap) -> Awaited {
        let websocket =
            headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if websocket {
            return Awaited::Tunnel;
        }
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|field| field.to_str().ok());
        let events = accepted.flat_map(|field| field.split(',')).any(|range| {
            let kind = range.split(';').next().unwrap_or("").trim();
            kind.eq_ignore_ascii_case("text/event-stream")
        });
        if is_grpc(headers) || events { Awaited::Stream } else { Awaited::Answer }
    }
}

/// The limits of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waits {
    /// For each read: Pingora's own.
    pub(super) read: Option<Duration>,
    /// For the header of the answer, where `read` does not say it.
    pub(super) header: Option<Duration>,
    /// For the whole.
    pub(super) total: Option<Duration>,
}

impl Waits {
    /// With an app that should keep `timeouts`.
    pub(super) fn of(timeouts: &Timeouts, awaited: Awaited) -> Waits {
        match awaited {
            Awaited::Answer => Waits {
                read: Some(timeouts.idle),
                header: (timeouts.header < timeouts.idle).then_some(timeouts.header),
                total: timeouts.total,
            },
            Awaited::Stream | Awaited::Tunnel => {
                Waits { read: None, header: Some(timeouts.header), total: None }
            }
        }
    }

    /// Whether it takes alarms, and so a connection that no other request is on.
    pub(super) fn is_watched(&self) -> bool {
        self.header.is_some() || self.total.is_some()
    }
}

/// Which limit was passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rang {
    /// No header in time.
    Header,
    /// No end in time.
    Total,
}

/// Watches over one attempt to get an answer. Dropped, it lets the connection be.
#[derive(Debug)]
pub(super) struct Watch {
    hold: Hold,
    rang: Arc<AtomicU8>,
    header: Option<Duration>,
    waiting: Option<Alarm>,
    _whole: Option<Alarm>,
}

const HEADER: u8 = 1;
const TOTAL: u8 = 2;

impl Watch {
    /// Over the connection that `hold` is on. `end_by` is when the whole must be over.
    pub(super) fn over(hold: Hold, header: Option<Duration>, end_by: Option<Instant>) -> Watch {
        let rang = Arc::new(AtomicU8::new(0));
        let whole = end_by.map(|at| Alarm::set(at, TOTAL, &rang, &hold));
        Watch { hold, rang, header, waiting: None, _whole: whole }
    }

    /// The request is sent whole: from now on the app has its time for the header.
    pub(super) fn asked(&mut self) {
        if let (Some(header), None) = (self.header, &self.waiting) {
            self.waiting = Some(Alarm::set(Instant::now() + header, HEADER, &self.rang, &self.hold));
        }
    }

    /// The header has come.
    pub(super) fn answered(&mut self) {
        self.header = None;
        self.waiting = None;
    }

    /// Which limit was passed, if any.
    pub(super) fn rang(&self) -> Option<Rang> {
        match self.rang.load(Ordering::Acquire) {
            HEADER => Some(Rang::Header),
            TOTAL => Some(Rang::Total),
            _ => None,
        }
    }
}

/// Ends a connection at a moment, unless it is dropped before.
#[derive(Debug)]
struct Alarm(AbortHandle);

impl Alarm {
    fn set(at: Instant, which: u8, rang: &Arc<AtomicU8>, hold: &Hold) -> Alarm {
        let (rang, hold) = (rang.clone(), hold.clone());
        let ringing = tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            // The first one counts.
            let _ = rang.compare_exchange(0, which, Ordering::AcqRel, Ordering::Acquire);
            hold.end();
        });
        Alarm(ringing.abort_handle())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn silence_is_no_fault_of_a_stream() {
        let rows: &[(&[(&'static str, &'static str)], Awaited)] = &[
            (&[], Awaited::Answer),
            (&[("accept", "*/*")], Awaited::Answer),
            (&[("accept", "text/html, text/*")], Awaited::Answer),
            (&[("accept", "text/event-streams")], Awaited::Answer),
            (&[("accept", "text/event-stream")], Awaited::Stream),
            (&[("accept", "text/html, Text/Event-Stream;q=0.5")], Awaited::Stream),
            (&[("accept", "text/html"), ("accept", "text/event-stream")], Awaited::Stream),
            (&[("content-type", "application/grpc")], Awaited::Stream),
            (&[("content-type", "Application/gRPC+proto")], Awaited::Stream),
            (&[("content-type", "application/json")], Awaited::Answer),
            (&[("upgrade", "websocket")], Awaited::Tunnel),
            (&[("upgrade", "WebSocket")], Awaited::Tunnel),
            (&[("upgrade", "h2c")], Awaited::Answer),
        ];
        for (fields, awaited) in rows {
            let headers: HeaderMap = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(Awaited::by(&headers), *awaited, "{fields:?}");
        }
    }

    #[test]
    fn what_one_limit_says_takes_no_alarm_and_streams_wait_for_their_beginning_only() {
        let seconds = Duration::from_secs;
        let plain = Timeouts::default();
        let quick = Timeouts { header: seconds(5), ..plain };
        let bounded = Timeouts { total: Some(seconds(90)), ..plain };
        for (timeouts, awaited, read, header, total) in [
            (plain, Awaited::Answer, Some(60), None, None),
            (quick, Awaited::Answer, Some(60), Some(5), None),
            (bounded, Awaited::Answer, Some(60), None, Some(90)),
            (plain, Awaited::Stream, None, Some(60), None),
            (bounded, Awaited::Tunnel, None, Some(60), None),
        ] {
            let waits = Waits::of(&timeouts, awaited);
            let expected =
                Waits { read: read.map(seconds), header: header.map(seconds), total: total.map(seconds) };
            assert_eq!(waits, expected);
            assert_eq!(waits.is_watched(), header.is_some() || total.is_some());
        }
    }
}
