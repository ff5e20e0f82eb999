//! Decides again on what is open, and ends what has lost its pass.
//!
//! Owns: [`Watch`], one round of it and the time between two; that nobody's silence is a yes.
//! Must not know: rules (the gate decides), how a client is told.
//!
//! Every open request keeps its account in use, so that its membership goes on being asked for. Only what its client
//! says keeps its session in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::{Ending, Open, Request};
use crate::clock::Timestamp;
use crate::directory::PATIENCE;
use crate::gate::{Gate, Recheck, Settings};
use crate::live::LiveSession;
use crate::store;
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;

/// How long a round is away from the next, unless somebody lost something.
const EVERY: Duration = Duration::from_millis(500);
/// How long it waits for more when somebody lost something: a thousand changes in a second are not a thousand rounds.
const GATHER: Duration = Duration::from_millis(50);
/// How long a round waits for the store.
const STORE_PATIENCE: Duration = Duration::from_millis(500);

/// Goes over what is open. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    /// What is open.
    pub open: Open,
    /// Who decides.
    pub gate: Gate,
    /// Where endings are counted and recorded.
    pub telemetry: Telemetry,
}

/// Whether a round still asks the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoreIs {
    Asked,
    Away,
}

impl Watch {
    /// Says when the next round is due: every half second, and at once when somebody signed out or lost a team.
    pub fn pace(&self) -> Pace {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Pace { watch: self.clone(), tick }
    }

    /// One round: every open request is decided on at `now`, and those are ended that would not be admitted.
    pub async fn round(&self, settings: &Settings, now: Timestamp) {
        let mut store = StoreIs::Asked;
        for request in self.open.watched(now) {
            let ending = match self.session_of(&request, &mut store, now).await {
                Some(session) => self.judge(&request, &session, settings, now),
                None => Some(Ending::Revoked),
            };
            if let Some(ending) = ending {
                self.end(&request, ending, now);
            }
        }
    }

    fn judge(
        &self,
        request: &Request,
        session: &LiveSession,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Ending> {
        if request.heard.swap(false, Ordering::Relaxed) && session.is_live(&settings.session, now) {
            session.touch(now);
        }
        session.account.touch(now);
        match self.gate.recheck(settings, &request.admitted(session), now) {
            Recheck::Stands => {
                request.doubt(None);
                None
            }
            Recheck::Lost(ending) => Some(ending),
            Recheck::Doubtful => {
                let since = request.doubtful_since().unwrap_or(now);
                request.doubt(Some(since));
                (now.since(since) >= PATIENCE).then_some(Ending::CannotTell)
            }
        }
    }

    /// The session of a request as it is now; `None` when the store has ended it and memory does not know.
    async fn session_of(
        &self,
        request: &Request,
        store: &mut StoreIs,
        now: Timestamp,
    ) -> Option<Arc<LiveSession>> {
        let session = self.gate.live.hold(&request.session);
        if !session.account.is_evicted() || *store == StoreIs::Away {
            return Some(session);
        }
        match timeout(STORE_PATIENCE, self.gate.live.renew(&session, now)).await {
            Ok(Ok(renewed)) => renewed,
            // What is known goes on growing old, and is not believed for ever.
            Ok(Err(error)) => {
                *store = StoreIs::Away;
                self.warn(&error, now);
                Some(session)
            }
            Err(_) => {
                *store = StoreIs::Away;
                Some(session)
            }
        }
    }

    fn warn(&self, error: &store::Error, now: Timestamp) {
        self.telemetry.warn_limited("store", now, error);
    }

    fn end(&self, request: &Request, ending: Ending, now: Timestamp) {
        request.line.end(ending);
        self.telemetry.metrics.connections_closed.inc(ending);
        let event = Event::ConnectionEnded {
            account: request.session.account.id(),
            session: request.session.key,
            route: request.route.to_string(),
            kind: request.kind(),
            reason: ending,
            open_seconds: now.since(request.since).as_secs(),
            client: request.client,
            request_id: request.request_id.to_string(),
        };
        self.telemetry.audit.record(now, &event);
    }
}

/// When rounds are due.
pub struct Pace {
    watch: Watch,
    tick: tokio::time::Interval,
}

impl Pace {
    /// Waits for the next round.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.tick.tick() => {}
            () = self.watch.gate.directory.stirred() => sleep(GATHER).await,
        }
    }
}
