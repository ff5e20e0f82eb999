//! Requests that stay open after they were admitted, and whether they may go on.
//!
//! Owns: [`Open`], every admitted request under way of somebody who is signed in; [`Line`], how one is told that it
//! is over; when deciding on it again begins (`Request::is_watched`). The deciding is in [`watch`].
//! Must not know: Pingora, sockets, how a WebSocket or a gRPC client is told.
//!
//! Every admitted request is entered, since nobody knows beforehand how long it will take. That must cost next to
//! nothing: a thread enters in a part of its own, which only the watch and a task that moved meet it in.

pub mod watch;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::facts::Arrival;
use crate::gate::{Admitted, Pass};
use crate::live::LiveSession;
use crate::route::Route;
pub use crate::telemetry::labels::{Ending, OpenKind as Kind};

/// How long a request may take before it counts as one that stays open, unless it is a WebSocket, a stream of events
/// or a gRPC call. What is over sooner is left alone: an upload that was half accepted when its person signed out is
/// worse than one that was accepted.
pub const LONG: Duration = Duration::from_secs(5);

impl Ending {
    /// Why, as people and logs are told: short enough for the last frame of a WebSocket.
    pub fn sentence(self) -> &'static str {
        match self {
            Ending::SignedOut => "signed out",
            Ending::Revoked => "the session was ended",
            Ending::Expired => "the session has expired",
            Ending::NotAllowed => "access to this app was withdrawn",
            Ending::CannotTell => "team memberships cannot be checked right now; try again later",
        }
    }
}

/// One request under way, as those see it who may have to end it.
///
/// Whoever serves the request waits for [`Line::ended`]; whoever takes the pass back calls [`Line::end`].
#[derive(Debug, Default)]
pub struct Line {
    ending: OnceLock<Ending>,
    told: Notify,
}

impl Line {
    /// One that goes on.
    pub fn new() -> Arc<Line> {
        Arc::new(Line::default())
    }

    /// Ends it, at once and for good. The first ending counts.
    pub fn end(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            self.told.notify_waiters();
        }
    }

    /// Why it was ended; `None` while it goes on.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }

    /// Waits until it is ended: for ever, if nobody does. Any number may wait, and stop waiting.
    pub async fn ended(&self) -> Ending {
        loop {
            // Created before the look: `notify_waiters` reaches those that exist, awaited or not.
            let told = self.told.notified();
            if let Some(ending) = self.ending() {
                return ending;
            }
            told.await;
        }
    }
}

/// A request of somebody who is signed in, from its admission to its end.
pub struct Request {
    session: Arc<LiveSession>,
    host: Arc<str>,
    path: Arc<str>,
    method: Method,
    route: Arc<Route>,
    client: IpAddr,
    request_id: Arc<str>,
    since: Timestamp,
    line: Arc<Line>,
    kind: AtomicU8,
    heard: AtomicBool,
    /// Milliseconds; 0: there is no doubt.
    doubtful_since: AtomicU64,
}

impl Request {
    /// What it is.
    pub fn kind(&self) -> Kind {
        let kind = usize::from(self.kind.load(Ordering::Relaxed));
        Kind::ALL.get(kind).copied().unwrap_or(Kind::Stream)
    }

    /// Whether it is decided on again at `now`.
    fn is_watched(&self, now: Timestamp) -> bool {
        self.line.ending().is_none() && (self.kind() != Kind::Stream || now.since(self.since) >= LONG)
    }

    fn admitted<'a>(&'a self, session: &'a LiveSession) -> Admitted<'a> {
        Admitted {
            host: &self.host,
            path: &self.path,
            method: &self.method,
            session,
            doubtful_since: self.doubtful_since(),
        }
    }

    fn doubtful_since(&self) -> Option<Timestamp> {
        match self.doubtful_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Timestamp::from_unix_millis(since)),
        }
    }

    fn doubt(&self, since: Option<Timestamp>) {
        self.doubtful_since.store(since.map_or(0, Timestamp::unix_millis), Ordering::Relaxed);
    }
}

/// Every admitted request under way of somebody who is signed in. Cheap to clone.
#[derive(Clone)]
pub struct Open(Arc<[Part]>);

/// By the address of the request, which is its own for as long as it is in here.
type Requests = HashMap<usize, Arc<Request>>;

/// One thread's own, or nearly so. Apart in memory, so that two threads do not fight over a cache line.
#[derive(Default)]
#[repr(align(128))]
struct Part(Mutex<Requests>);

impl Part {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More than there are threads on most machines; where there are more, they share.
const PARTS: usize = 64;

/// The part of this thread.
fn part() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PART: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % PARTS);
    }
    PART.get()
}

impl Default for Open {
    fn default() -> Open {
        Open((0..PARTS).map(|_| Part::default()).collect())
    }
}

impl Open {
    /// Enters an admitted request until the guard is dropped. `None` on a public route: nobody's pass can be lost.
    pub fn enter(
        &self,
        pass: &Pass,
        arrival: &Arrival,
        method: &Method,
        kind: Kind,
        line: &Arc<Line>,
    ) -> Option<Entered> {
        let who = pass.who()?;
        let request = Arc::new(Request {
            session: who.session.clone(),
            host: arrival.host.clone(),
            path: arrival.path.clone(),
            method: method.clone(),
            route: pass.route().clone(),
            client: arrival.client,
            request_id: arrival.request_id.clone(),
            since: arrival.now,
            line: line.clone(),
            kind: AtomicU8::new(kind as u8),
            heard: AtomicBool::new(false),
            doubtful_since: AtomicU64::new(0),
        });
        let part = part();
        self.0[part].requests().insert(key(&request), request.clone());
        Some(Entered { open: self.clone(), part, request })
    }

    /// How many there are of each kind that are decided on again, in the order of [`Kind::ALL`].
    pub fn census(&self, now: Timestamp) -> impl Iterator<Item = (Kind, i64)> {
        let mut counts = vec![0; Kind::ALL.len()];
        for request in self.watched(now) {
            counts[request.kind() as usize] += 1;
        }
        Kind::ALL.iter().copied().zip(counts)
    }

    /// Those that are decided on again at `now`.
    fn watched(&self, now: Timestamp) -> Vec<Arc<Request>> {
        let mut watched = Vec::new();
        for part in self.0.iter() {
            let requests = part.requests();
            watched.extend(requests.values().filter(|request| request.is_watched(now)).cloned());
        }
        watched
    }
}

fn key(request: &Arc<Request>) -> usize {
    Arc::as_ptr(request).addr()
}

/// Keeps a request entered; dropped with it, panic or not.
#[must_use = "dropping it says that the request is over"]
pub struct Entered {
    open: Open,
    part: usize,
    request: Arc<Request>,
}

impl Entered {
    /// Its method.
    pub fn method(&self) -> &Method {
        &self.request.method
    }

    /// It turns out to be something that stays open.
    pub fn becomes(&self, kind: Kind) {
        self.request.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// The client said something on it. It counts as a use of the session, as a request would.
    pub fn heard(&self) {
        if !self.request.heard.load(Ordering::Relaxed) {
            self.request.heard.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.open.0[self.part].requests().remove(&key(&self.request));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_line_is_ended_once_and_everybody_who_waits_hears_of_it() {
        let line = Line::new();
        assert_eq!(line.ending(), None);
        // Whoever stops waiting takes nothing away from the others.
        assert_eq!(line.ended().now_or_never(), None);
        let mut first = Box::pin(line.ended());
        assert_eq!(first.as_mut().now_or_never(), None);
        let second = tokio::spawn({
            let line = line.clone();
            async move { line.ended().await }
        });
        tokio::task::yield_now().await;
        line.end(Ending::SignedOut);
        line.end(Ending::Revoked);
        assert_eq!(first.await, Ending::SignedOut);
        assert_eq!(second.await.ok(), Some(Ending::SignedOut));
        assert_eq!(line.ended().now_or_never(), Some(Ending::SignedOut));
        assert_eq!(line.ending(), Some(Ending::SignedOut));
    }
}
