//! When to ask Bitbucket again: pure rules of ages and `now`.
//!
//! Owns: [`freshness`], [`due`], [`retry_after`]. Must not know: Bitbucket, the store, tasks.

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

/// Judges a membership of `as_of`. `route_max_age` is the route's own bound: it can only be stricter.
/// A route that wants less than `refresh_after` makes its memberships due at three quarters of its bound,
/// so that steady use seldom waits.
pub fn freshness(
    as_of: Timestamp,
    now: Timestamp,
    ages: &Ages,
    route_max_age: Option<Duration>,
    weather: Weather,
) -> Freshness {
    let age = now.since(as_of);
    let strict = route_max_age.map_or(ages.max_age, |own| own.min(ages.max_age));
    let believed = match weather {
        Weather::Fair => strict,
        // A route that asked for its own bound keeps it, outage or not.
        Weather::Outage if route_max_age.is_some() => strict,
        Weather::Outage => strict.max(ages.outage_grace),
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

/// What the planner knows of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing<K> {
    /// Whose.
    pub key: K,
    /// When its membership was asked for.
    pub as_of: Timestamp,
    /// When a request last used it.
    pub used_at: Timestamp,
    /// Not before this moment: set after a failure.
    pub not_before: Timestamp,
    /// A number of the account's own, for jitter: the same account always gets the same.
    pub spread: u8,
}

/// Which accounts to ask about now, most recently used first, at most `room`.
///
/// An account is due from `refresh_after` on, less a jitter of up to an eighth so that accounts that signed
/// in together do not ask together for ever; accounts unused for longer than `max_age` are left alone.
pub fn due<K: Copy>(
    accounts: impl Iterator<Item = Standing<K>>,
    ages: &Ages,
    now: Timestamp,
    room: usize,
) -> Vec<K> {
    let mut waiting: Vec<Standing<K>> = accounts
        .filter(|account| {
            let early = ages.refresh_after / 8 * u32::from(account.spread) / 256;
            now.since(account.as_of) >= ages.refresh_after - early
                && now.since(account.used_at) < ages.max_age
                && now >= account.not_before
        })
        .collect();
    waiting.sort_by_key(|account| std::cmp::Reverse(account.used_at));
    waiting.truncate(room);
    waiting.into_iter().map(|account| account.key).collect()
}

/// How long to leave an account alone after its `failures`th failure in a row: 5 s doubling to 5 min.
pub fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(5 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(300))
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
            let own = own.map(Duration::from_secs);
            assert_eq!(freshness(at(0), at(age), &AGES, own, weather), expected, "{age} {own:?} {weather:?}");
        }
    }

    fn account(key: u8, as_of: u64, used_at: u64) -> Standing<u8> {
        Standing { key, as_of: at(as_of), used_at: at(used_at), not_before: at(0), spread: 0 }
    }

    #[test]
    fn the_most_recently_used_are_asked_about_first_and_the_unused_not_at_all() {
        let accounts =
            [account(1, 0, 4_000), account(2, 0, 4_500), account(3, 4_400, 4_500), account(4, 0, 100)];
        assert_eq!(due(accounts.into_iter(), &AGES, at(4_500), 9), [2, 1]);
        assert_eq!(due(accounts.into_iter(), &AGES, at(4_500), 1), [2]);
    }

    #[test]
    fn a_failed_account_waits_its_turn() {
        let mut one = account(1, 0, 900);
        one.not_before = at(1_000);
        assert_eq!(due([one].into_iter(), &AGES, at(999), 9), [] as [u8; 0]);
        assert_eq!(due([one].into_iter(), &AGES, at(1_000), 9), [1]);
        assert_eq!(retry_after(1), Duration::from_secs(5));
        assert_eq!(retry_after(3), Duration::from_secs(20));
        assert_eq!(retry_after(99), Duration::from_secs(300));
    }

    #[test]
    fn jitter_asks_early_never_late() {
        let mut one = account(1, 0, 300);
        one.spread = 255;
        assert_eq!(due([one].into_iter(), &AGES, at(262), 9), [] as [u8; 0]);
        assert_eq!(due([one].into_iter(), &AGES, at(263), 9), [1]);
    }
}
