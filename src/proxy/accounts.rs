//! What is told of a request when it is over: metrics and one access line.
//!
//! Owns: [`Accounts`], `Told`; that nothing goes untold, not even a request that was dropped before its last hook.
//! Must not know: how a request is served.

use std::time::Duration;

use super::context::{Admitted, Context, Stage};
use super::patience::Stalled;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::gate::By;
use crate::membership::Names;
use crate::policy::Decision as PolicyDecision;
use crate::telemetry::Telemetry;
use crate::telemetry::access::Entry;
use crate::telemetry::labels::{Decision, Ending, StatusClass, UpstreamFault};

/// Where it is told. One for the process.
pub struct Accounts {
    /// Counts and records.
    pub telemetry: Telemetry,
    /// Tells the time where a request was not understood as far as that.
    pub clock: Clock,
    /// Knows what teams are called that a rule names by their uuid.
    pub directory: Directory,
}

/// What the connection has to say of a request.
pub(super) struct Told<'a> {
    /// The method as it came.
    pub(super) method: &'a str,
    /// The target as it came.
    pub(super) raw_path: &'a [u8],
    /// What the client got; 0: nothing.
    pub(super) status: u16,
    /// Bytes of the request's body that were read.
    pub(super) bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub(super) bytes_out: u64,
}

impl Accounts {
    /// Metrics and the access line of a request that is over.
    pub(super) fn close(&self, context: &Context, told: &Told<'_>, total: Duration) {
        let gate = context.gate.unwrap_or(total);
        let (route, decision, account) = match &context.stage {
            Stage::Arrived => (None, Decision::Error, None),
            Stage::Admitted(admitted) => {
                let pass = &admitted.pass;
                let decision = if pass.who().is_some() { Decision::Allow } else { Decision::Public };
                (Some(&*pass.route().name), decision, pass.who().map(|who| who.session.account.id()))
            }
            Stage::Answered(answered) => (answered.route.as_deref(), answered.decision, answered.account),
        };
        let metrics = context.snapshot.metrics_of(route, decision);
        metrics.record(decision, StatusClass::of(told.status), gate, context.first_byte, total);
        if !self.telemetry.access.is_on() {
            return;
        }
        let grounds = match &context.stage {
            Stage::Admitted(admitted) => Some(grounds(admitted, &self.directory.names())),
            _ => None,
        };
        let reason = match &context.stage {
            Stage::Answered(answered) => answered.reason.as_deref(),
            _ => {
                let ending = context.conversation.line.ending().map(Ending::sentence);
                ending.or(context.stalled.map(Stalled::sentence))
            }
        };
        let arrival = context.stage.arrival();
        let path = match decision {
            // It has no canonical form; whoever looks for the fault wants to see what was sent. Not so an
            // absolute target, which may hold a password.
            Decision::BadRequest if told.raw_path.starts_with(b"/") => {
                told.raw_path.split(|byte| *byte == b'?').next().unwrap_or_default()
            }
            _ => arrival.map_or(&b""[..], |arrival| arrival.path.as_bytes()),
        };
        self.telemetry.access.record(&Entry {
            arrived_at: arrival.map_or_else(|| self.clock.now(), |arrival| arrival.now),
            request_id: arrival.map_or("", |arrival| &arrival.request_id),
            client: arrival.map_or_else(|| context.conversation.ends.client.ip(), |arrival| arrival.client),
            method: told.method,
            host: arrival.map_or(b"", |arrival| arrival.authority.as_bytes()),
            path,
            route,
            decision,
            grounds: grounds.as_deref(),
            reason,
            account,
            status: told.status,
            gate,
            upstream: context.first_byte,
            total,
            bytes_in: told.bytes_in,
            bytes_out: told.bytes_out,
            asked: context.attempts.endpoint().map(|endpoint| &*endpoint.label),
            upstream_error: context.upstream_error.map(UpstreamFault::as_str),
        });
    }
}

/// By which rule, as the log says it.
fn grounds(admitted: &Admitted, names: &Names) -> String {
    match admitted.pass.decision() {
        _ if admitted.pass.by() == By::Preflight => "it is a CORS preflight".to_owned(),
        PolicyDecision::Allow(grounds) => grounds.worded(names).to_string(),
        // Deciding is pure; on the same values it does not change its mind.
        _ => String::new(),
    }
}
