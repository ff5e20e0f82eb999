//! When to ask Bitbucket again: pure rules of ages, budgets and `now`.
//!
//! Owns: [`freshness`], [`retry_after`], and below it who is next ([`queue`]), how many calls there are and for whom
//! ([`budget`]), what 429s teach ([`limiter`]) and when an endpoint is left alone ([`breaker`]).
//! Must not know: what is asked, the store, tasks. The clock is an argument everywhere.

pub mod breaker;
pub mod budget;
pub mod limiter;
pub mod queue;

use std::time::Duration;

use crate::clock::Timestamp;

/// How far a membership may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Served as it is.
    Young,
    /// Served, and a re-query is on its way.
    Due,
    /// Not believed: the request waits for an answer.
    Stale,
}

/// The ages that matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ages {
    /// From this age on a membership in use is asked for again, in the background. Default 5 min.
    pub refresh_after: Duration,
    /// From this age on name, e-mail and account status are read again too. Default 6 h.
    pub profile_after: Duration,
    /// Past this age a membership is not believed. Default 1 h; a route may be stricter.
    pub max_age: Duration,
    /// While Bitbucket is down (not: while it says no), believe up to this age. Default 4 h.
    pub outage_grace: Duration,
}

/// What one route wants besides [`Ages`]. Default: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bounds {
    /// Past this age a membership is not believed here; can only be stricter.
    pub max_age: Option<Duration>,
    /// While Bitbucket is down, believe up to this age here; `None`: as everywhere, but for a route with a `max_age` of
    /// its own, which keeps to that.
    pub outage_grace: Option<Duration>,
}

/// Judges a membership of `as_of`, for a route with `bounds`.
/// A route that wants less than `refresh_after` makes its memberships due at three quarters of its bound,
/// so that steady use seldom waits.
pub fn freshness(
    as_of: Timestamp,
    now: Timestamp,
    ages: &Ages,
    bounds: Bounds,
    weather: Weather,
) -> Freshness {
    let age = now.since(as_of);
    let strict = bounds.max_age.map_or(ages.max_age, |own| own.min(ages.max_age));
    let believed = match (weather, bounds.outage_grace) {
        (Weather::Fair, _) => strict,
        (Weather::Outage, Some(grace)) => strict.max(grace),
        // A route that asked for its own bound keeps it, outage or not.
        (Weather::Outage, None) if bounds.max_age.is_some() => strict,
        (Weather::Outage, None) => strict.max(ages.outage_grace),
    };
    if age >= believed {
        Freshness::Stale
    } else if age >= ages.refresh_after.min(strict * 3 / 4) {
        Freshness::Due
    } else {
        Freshness::Young
    }
}

/// Whether Bitbucket answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// It answered last time, or has not been asked.
    Fair,
    /// It is down: the last question met a transient failure. A refusal is an answer, not an outage.
    Outage,
}

/// How long to leave an account alone after its `failures`th failure in a row: 5 s doubling to 30 s while Bitbucket
/// is down, so that what was missed is made good soon after, and to 5 min where it says something of no use.
pub fn retry_after(failures: u32, weather: Weather) -> Duration {
    let longest = match weather {
        Weather::Outage => Duration::from_secs(30),
        Weather::Fair => Duration::from_secs(300),
    };
    Duration::from_secs(5 << failures.saturating_sub(1).min(6)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages {
        refresh_after: Duration::from_secs(300),
        profile_after: Duration::from_secs(21_600),
        max_age: Duration::from_secs(3_600),
        outage_grace: Duration::from_secs(14_400),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(100_000 + seconds)
    }

    #[test]
    fn a_membership_is_young_then_due_then_stale() {
        for (age, own, weather, expected) in [
            (0, None, Weather::Fair, Freshness::Young),
            (299, None, Weather::Fair, Freshness::Young),
            (300, None, Weather::Fair, Freshness::Due),
            (3_599, None, Weather::Fair, Freshness::Due),
            (3_600, None, Weather::Fair, Freshness::Stale),
            (3_600, None, Weather::Outage, Freshness::Due),
            (14_400, None, Weather::Outage, Freshness::Stale),
            (44, Some(60), Weather::Fair, Freshness::Young),
            (45, Some(60), Weather::Fair, Freshness::Due),
            (60, Some(60), Weather::Fair, Freshness::Stale),
            (60, Some(60), Weather::Outage, Freshness::Stale),
            (3_600, Some(99_999), Weather::Fair, Freshness::Stale),
        ] {
            let bounds = Bounds { max_age: own.map(Duration::from_secs), outage_grace: None };
            let found = freshness(at(0), at(age), &AGES, bounds, weather);
            assert_eq!(found, expected, "{age} {own:?} {weather:?}");
        }
    }

    #[test]
    fn a_route_may_bridge_outages_for_longer_shorter_or_not_at_all() {
        for (age, own, grace, weather, believed) in [
            (28_799, None, 28_800, Weather::Outage, true),
            (28_800, None, 28_800, Weather::Outage, false),
            (3_600, None, 28_800, Weather::Fair, false),
            (3_599, None, 0, Weather::Outage, true),
            (3_600, None, 0, Weather::Outage, false),
            (599, Some(60), 600, Weather::Outage, true),
            (600, Some(60), 600, Weather::Outage, false),
            (60, Some(60), 600, Weather::Fair, false),
        ] {
            let outage_grace = Some(Duration::from_secs(grace));
            let bounds = Bounds { max_age: own.map(Duration::from_secs), outage_grace };
            let found = freshness(at(0), at(age), &AGES, bounds, weather);
            assert_eq!(found != Freshness::Stale, believed, "{age} {own:?} {grace} {weather:?}");
        }
    }

    #[test]
    fn an_account_that_fails_is_left_alone_for_longer_and_longer() {
        for (failures, weather, seconds) in [
            (1, Weather::Outage, 5),
            (3, Weather::Outage, 20),
            (99, Weather::Outage, 30),
            (1, Weather::Fair, 5),
            (99, Weather::Fair, 300),
        ] {
            assert_eq!(retry_after(failures, weather), Duration::from_secs(seconds), "{failures}");
        }
    }
}
