//! The one door through which calls to Bitbucket leave.
//!
//! Owns: [`Governor`]: budget, rate limit and circuits, applied to each call; what is counted of calls.
//! Must not know: who is asked about, what an answer means for an account.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plan::breaker::Breaker;
use super::plan::budget::Budget;
use super::plan::limiter::Limiter;
use super::plan::queue::Supply;
use crate::bitbucket::observed::{Observations, Observer};
use crate::bitbucket::{self, Call, Endpoint, Held, HeldBack, Outcome, Right, Traffic};
use crate::clock::{Clock, Timestamp};
use crate::entropy::Entropy;
use crate::telemetry::labels::{self, CallOutcome, HoldReason};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Telemetry, labels::CallRight};
use crate::throttle::Rate;

/// The calls that a gateway may make unless it is told otherwise, an hour. Bitbucket counts about a thousand, perhaps
/// for the whole client.
pub const USUAL_BUDGET: u32 = 900;

/// Stands at the door. Everybody's calls pass it: sign-ins, waiting requests, the background.
pub struct Governor {
    clock: Clock,
    telemetry: Telemetry,
    entropy: Entropy,
    state: Mutex<State>,
    observer: Observer,
}

struct State {
    /// None: as many as one likes.
    budget: Option<Budget>,
    limiter: Limiter,
    breakers: [Breaker; Endpoint::ALL.len()],
    /// Calls of the background that nobody has taken note of.
    background: u32,
}

impl Governor {
    /// With the usual budget, and nothing called yet.
    pub(super) fn new(clock: Clock, telemetry: Telemetry, entropy: Entropy) -> Arc<Governor> {
        let budget = Rate::new(USUAL_BUDGET, Duration::from_secs(3600)).map(Budget::new);
        let state =
            State { budget, limiter: Limiter::default(), breakers: Default::default(), background: 0 };
        let observer = Observer::new(clock.clone());
        Arc::new(Governor { clock, telemetry, entropy, state: Mutex::new(state), observer })
    }

    /// Another budget from now on; `None`: as many calls as it takes.
    pub fn adopt(&self, rate: Option<Rate>) {
        let mut state = self.state();
        match (&mut state.budget, rate) {
            (Some(budget), Some(rate)) => budget.adopt(rate),
            (budget, rate) => *budget = rate.map(Budget::new),
        }
    }

    /// What the background can have: how many calls a second in the long run, and when the next one. `endpoints` are
    /// those that it would call first.
    pub(super) fn supply(&self, endpoints: &[Endpoint], now: Timestamp) -> Supply {
        let mut state = self.state();
        let share = state.limiter.share(now);
        let closed = state.limiter.closed_until(now);
        let open = endpoints.iter().filter_map(|endpoint| state.breakers[*endpoint as usize].refuses(now));
        let not_before = open.chain(closed).max().unwrap_or(now);
        match &mut state.budget {
            Some(budget) => {
                budget.use_only(share);
                let next_at = budget.background_at(now).max(not_before);
                Supply { per_second: budget.background_rate(now), next_at }
            }
            None => Supply { per_second: f64::MAX, next_at: not_before },
        }
    }

    /// How many calls the background made since this was asked last: over many re-queries, what they cost.
    pub(super) fn take_background_calls(&self) -> u32 {
        std::mem::take(&mut self.state().background)
    }

    /// What the answers so far have shown of Bitbucket.
    pub(super) fn observations(&self) -> Observations {
        self.observer.observations()
    }

    /// Brings the gauges up to date.
    pub fn report(&self, metrics: &Metrics) {
        let now = self.clock.now();
        let mut state = self.state();
        let share = state.limiter.share(now);
        let closed = state.limiter.closed_until(now).map_or(Duration::ZERO, |until| until.since(now));
        metrics.bitbucket_closed.set(closed.as_secs_f64());
        for label in labels::Endpoint::ALL {
            let open = |endpoint: &&Endpoint| state.breakers[**endpoint as usize].is_open();
            let alike = Endpoint::ALL.iter().filter(|endpoint| endpoint_label(**endpoint) == *label);
            metrics.bitbucket_circuit_open.of(*label).set(alike.filter(open).count().min(1) as i64);
        }
        if let Some(budget) = &mut state.budget {
            budget.use_only(share);
            metrics.bitbucket_budget.set(budget.ceiling().into());
            metrics.bitbucket_budget_left.set(budget.left(now).into());
            for right in [Right::Background, Right::Waiting, Right::SignIn] {
                metrics.bitbucket_budget_used.of(right_label(right)).set(budget.used_by(right, now).into());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dice(&self) -> u8 {
        u8::from_be_bytes(self.entropy.bytes())
    }
}

impl Traffic for Governor {
    fn admit(&self, endpoint: Endpoint, right: Right) -> Result<(), Held> {
        let now = self.clock.now();
        let result = self.state().admit(endpoint, right, now);
        result.map_err(|(why, until)| {
            self.telemetry.metrics.bitbucket_calls_held.inc((right_label(right), hold_label(why)));
            let wait = until.since(now).clamp(Duration::from_millis(1), Duration::from_secs(3600));
            Held { why, wait }
        })
    }

    fn judged(&self, endpoint: Endpoint, verdict: Result<(), &bitbucket::Error>) {
        self.observer.judged(endpoint, verdict);
    }

    fn granted(&self, scopes: &str) {
        self.observer.granted(scopes);
    }

    fn done(&self, call: &Call) {
        self.observer.done(call);
        let metrics = &self.telemetry.metrics;
        let endpoint = endpoint_label(call.endpoint);
        metrics.bitbucket_calls.inc((endpoint, outcome_label(call.outcome)));
        metrics.bitbucket_call_seconds.observe(endpoint, call.took);
        let (now, dice) = (self.clock.now(), self.dice());
        let mut state = self.state();
        let State { limiter, breakers, .. } = &mut *state;
        let breaker = &mut breakers[call.endpoint as usize];
        match call.outcome {
            Outcome::Answered(status) if status.is_server_error() => breaker.failed(dice, now),
            Outcome::Answered(_) => breaker.answered(),
            Outcome::TimedOut | Outcome::Unreachable | Outcome::Broken => breaker.failed(dice, now),
            Outcome::Abandoned => breaker.abandoned(),
        }
        if call.outcome == Outcome::Answered(http::StatusCode::TOO_MANY_REQUESTS) {
            limiter.throttled(call.remarks.retry_after, dice, now);
        } else if call.remarks.near_limit {
            limiter.nearly(now);
        }
    }
}

impl State {
    fn admit(
        &mut self,
        endpoint: Endpoint,
        right: Right,
        now: Timestamp,
    ) -> Result<(), (HeldBack, Timestamp)> {
        if let Some(until) = self.limiter.closed_until(now) {
            return Err((HeldBack::Throttled, until));
        }
        let breaker = &mut self.breakers[endpoint as usize];
        if let Some(until) = breaker.refuses(now) {
            return Err((HeldBack::Failing, until));
        }
        if let Some(budget) = &mut self.budget {
            budget.use_only(self.limiter.share(now));
            budget.draw(right, now).map_err(|until| (HeldBack::Budget, until))?;
        }
        self.background += u32::from(right == Right::Background);
        // Last: whoever is the probe is sent.
        breaker.admit(now).map_err(|until| (HeldBack::Failing, until))
    }
}

fn endpoint_label(endpoint: Endpoint) -> labels::Endpoint {
    match endpoint {
        Endpoint::Authorize => labels::Endpoint::Other,
        Endpoint::Exchange | Endpoint::Refresh => labels::Endpoint::Token,
        Endpoint::User => labels::Endpoint::User,
        Endpoint::Emails => labels::Endpoint::Emails,
        Endpoint::Workspaces => labels::Endpoint::Workspaces,
        Endpoint::Permission => labels::Endpoint::WorkspacePermission,
        Endpoint::Repositories => labels::Endpoint::RepositoryPermissions,
    }
}

fn outcome_label(outcome: Outcome) -> CallOutcome {
    match outcome {
        Outcome::Answered(status) => CallOutcome::of(status.as_u16()),
        Outcome::TimedOut => CallOutcome::Timeout,
        Outcome::Unreachable => CallOutcome::Unreachable,
        Outcome::Broken | Outcome::Abandoned => CallOutcome::Other,
    }
}

fn right_label(right: Right) -> CallRight {
    match right {
        Right::SignIn => CallRight::SignIn,
        Right::Waiting => CallRight::Waiting,
        Right::Background => CallRight::Background,
    }
}

fn hold_label(why: HeldBack) -> HoldReason {
    match why {
        HeldBack::Budget => HoldReason::Budget,
        HeldBack::Throttled => HoldReason::Throttled,
        HeldBack::Failing => HoldReason::Failing,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::bitbucket::Remarks;
    use crate::telemetry::metrics;

    type Outcome_ = Result<(), Box<dyn std::error::Error>>;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn governor() -> Result<(Arc<Governor>, Clock), crate::telemetry::Error> {
        let clock = Clock::manual(at(0));
        Ok((Governor::new(clock.clone(), Telemetry::unheard()?, Entropy::system()), clock))
    }

    fn call(endpoint: Endpoint, outcome: Outcome) -> Call {
        let (took, remarks) = (Duration::from_millis(5), Remarks::default());
        Call { endpoint, right: Right::SignIn, outcome, took, remarks }
    }

    #[test]
    fn after_a_429_nobody_calls_anything_until_it_is_over() -> Outcome_ {
        let (governor, clock) = governor()?;
        assert_eq!(governor.admit(Endpoint::Permission, Right::Background), Ok(()));
        let mut told = call(Endpoint::Permission, Outcome::Answered(StatusCode::TOO_MANY_REQUESTS));
        told.remarks.retry_after = Some(Duration::from_secs(9));
        governor.done(&told);
        for (endpoint, right) in [(Endpoint::User, Right::SignIn), (Endpoint::Refresh, Right::Waiting)] {
            let held = Held { why: HeldBack::Throttled, wait: Duration::from_secs(9) };
            assert_eq!(governor.admit(endpoint, right), Err(held));
        }
        assert_eq!(governor.supply(&[Endpoint::Permission], at(0)).next_at, at(9));
        clock.advance(Duration::from_secs(9));
        assert_eq!(governor.admit(Endpoint::User, Right::SignIn), Ok(()));
        let metrics = &governor.telemetry.metrics;
        governor.report(metrics);
        let budget = metrics.bitbucket_budget.get();
        assert!((630..635).contains(&budget), "seven tenths of 900, and slowly more: {budget}");
        Ok(())
    }

    #[test]
    fn an_endpoint_that_keeps_failing_is_left_alone_and_the_others_are_not() -> Outcome_ {
        let (governor, clock) = governor()?;
        for outcome in [
            Outcome::TimedOut,
            Outcome::Unreachable,
            Outcome::Broken,
            Outcome::Answered(StatusCode::BAD_GATEWAY),
            Outcome::TimedOut,
        ] {
            assert_eq!(governor.admit(Endpoint::Permission, Right::Waiting), Ok(()));
            governor.done(&call(Endpoint::Permission, outcome));
        }
        let held = governor.admit(Endpoint::Permission, Right::SignIn).err().ok_or("it is called")?;
        assert_eq!(held.why, HeldBack::Failing);
        assert_eq!(governor.admit(Endpoint::User, Right::SignIn), Ok(()));
        clock.advance(Duration::from_secs(5));
        assert_eq!(governor.admit(Endpoint::Permission, Right::Waiting), Ok(()), "the probe");
        assert!(governor.admit(Endpoint::Permission, Right::Waiting).is_err(), "one at a time");
        // A refusal is an answer.
        governor.done(&call(Endpoint::Permission, Outcome::Answered(StatusCode::FORBIDDEN)));
        assert_eq!(governor.admit(Endpoint::Permission, Right::Waiting), Ok(()));
        Ok(())
    }

    #[test]
    fn what_was_used_and_by_whom_is_on_the_page() -> Result<(), metrics::Error> {
        let Ok((governor, _)) = governor() else { return Ok(()) };
        for right in [Right::SignIn, Right::SignIn, Right::Background] {
            assert_eq!(governor.admit(Endpoint::User, right), Ok(()));
        }
        let metrics = governor.telemetry.metrics.clone();
        governor.report(&metrics);
        let page = metrics.render()?;
        for line in [
            "teamgate_bitbucket_budget 900",
            "teamgate_bitbucket_budget_left 897",
            "teamgate_bitbucket_budget_used{right=\"sign_in\"} 2",
            "teamgate_bitbucket_budget_used{right=\"background\"} 1",
            "teamgate_bitbucket_circuit_open{endpoint=\"user\"} 0",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} in {page}");
        }
        Ok(())
    }
}
