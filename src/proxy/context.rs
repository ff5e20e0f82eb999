//! What a request has come to, from phase to phase.
//!
//! Owns: [`Context`], [`Stage`]. A phase that finds a stage it does not expect fails closed.
//! Must not know: how a stage is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::accounts::{Accounts, Told};
use super::attempt::Attempts;
use super::awaited::Awaited;
use super::body::Meter;
use super::facts::Reading;
use super::patience::Stalled;
use crate::assertion::Outgoing;
use crate::facts::Arrival;
use crate::gate::{Denied, Pass};
use crate::listener::Conversation;
use crate::open::Entered;
use crate::route::target::Target;
use crate::route::upstream::app::App;
use crate::snapshot::Snapshot;
use crate::telemetry::labels::{Decision, UpstreamFault};
use crate::telemetry::metrics::InFlight;

/// One request, as far as it has come.
pub struct Context {
    /// When the first byte of it was handed to us.
    pub started: Instant,
    /// The connection that it came on, and where it is ended from outside.
    pub conversation: Arc<Conversation>,
    /// The configuration that it is decided by, from beginning to end.
    pub snapshot: Arc<Snapshot>,
    /// How far it is.
    pub stage: Stage,
    /// From arrival to decision.
    pub gate: Option<Duration>,
    /// From decision to the first byte of the app's answer.
    pub first_byte: Option<Duration>,
    /// How much of the request's body has gone to the app, and may.
    pub body: Meter,
    /// How many interim answers the app gave.
    pub interim: usize,
    /// Whether the app's answer is here to its last byte.
    pub answered: bool,
    /// What went wrong with the app, as a kind: the last of several attempts.
    pub upstream_error: Option<UpstreamFault>,
    /// The attempts to get an answer from it.
    pub attempts: Attempts,
    /// What its client did not go on with.
    pub stalled: Option<Stalled>,
    /// The status that its client was told, if the app's answer has begun.
    pub begun: Option<StatusCode>,
    /// Where it is to be told of; `None` when that was done.
    pub untold: Option<Arc<Accounts>>,
    /// Where it is decided on again, for as long as it is under way. `None` on public routes, and before it was
    /// admitted.
    pub open: Option<Entered>,
    /// Counts it as in flight until it is dropped, panic or not.
    pub in_flight: InFlight,
    /// Keeps a shutdown waiting until it is dropped.
    pub under_way: UnderWay,
}

/// A request that was dropped before its last hook: it was ended and had no polite way to fail, or a hook panicked.
impl Drop for Context {
    fn drop(&mut self) {
        let Some(accounts) = self.untold.take() else { return };
        let method = self.open.as_ref().map_or("", |open| open.method().as_str());
        let status = self.begun.map_or(0, |status| status.as_u16());
        let told = Told { method, raw_path: b"", status, bytes_in: 0, bytes_out: 0 };
        accounts.close(self, &told, self.started.elapsed());
    }
}

/// Counts a request as under way until it is dropped: what a shutdown waits for.
pub struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// One more.
    pub fn enter(count: &Arc<AtomicUsize>) -> UnderWay {
        count.fetch_add(1, Ordering::AcqRel);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How far a request is.
pub enum Stage {
    /// Nothing has been understood.
    Arrived,
    /// Admitted, to be forwarded.
    Admitted(Box<Admitted>),
    /// Answered by the gateway itself.
    Answered(Box<Answered>),
}

/// A request that goes to an app.
pub struct Admitted {
    /// Where and when.
    pub reading: Reading,
    /// By which rule.
    pub pass: Pass,
    /// What the app is told; `None` on public routes.
    pub outgoing: Option<Arc<Outgoing>>,
    /// What kind of answer it waits for.
    pub awaited: Awaited,
    /// The target that the app is sent, where it is not the one that was asked for.
    pub rewritten: Option<Target<'static>>,
}

impl Admitted {
    /// The target that the app is sent.
    pub fn target(&self) -> &Target<'static> {
        self.rewritten.as_ref().unwrap_or(&self.reading.target)
    }

    /// The app that it goes to.
    ///
    /// # Errors
    ///
    /// [`NotAdmitted`] where its route answers itself: nothing is to be forwarded.
    pub fn app(&self) -> Result<&Arc<App>, NotAdmitted> {
        self.pass.route().destination.app().ok_or(NotAdmitted)
    }
}

/// A request that the gateway answered.
pub struct Answered {
    /// Where and when.
    pub arrival: Arrival,
    /// What it counts as.
    pub decision: Decision,
    /// The route that it would have gone to.
    pub route: Option<Box<str>>,
    /// Why it was not let through, for the log.
    pub reason: Option<Box<str>>,
    /// Whose it was.
    pub account: Option<crate::identity::AccountId>,
}

/// A phase met a stage that it cannot follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a request that was not admitted was about to be forwarded")]
pub struct NotAdmitted;

impl Stage {
    /// What was admitted.
    ///
    /// # Errors
    ///
    /// [`NotAdmitted`]: whoever asks must not go on.
    pub fn admitted(&self) -> Result<&Admitted, NotAdmitted> {
        match self {
            Stage::Admitted(admitted) => Ok(admitted),
            Stage::Arrived | Stage::Answered(_) => Err(NotAdmitted),
        }
    }

    /// Where and when, as far as understood.
    pub fn arrival(&self) -> Option<&Arrival> {
        match self {
            Stage::Arrived => None,
            Stage::Admitted(admitted) => Some(&admitted.reading.arrival),
            Stage::Answered(answered) => Some(&answered.arrival),
        }
    }
}

impl Answered {
    /// An answer that has nothing to do with any route.
    pub fn of(arrival: Arrival, decision: Decision) -> Answered {
        Answered { arrival, decision, route: None, reason: None, account: None }
    }

    /// An answer to somebody whom a rule did not admit.
    pub fn denied(arrival: Arrival, denied: &Denied, reason: Box<str>) -> Answered {
        Answered {
            arrival,
            decision: Decision::Deny,
            route: Some(denied.route.name.clone()),
            reason: Some(reason),
            account: Some(denied.who.session.account.id()),
        }
    }
}
