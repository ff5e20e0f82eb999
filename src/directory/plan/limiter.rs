//! What Bitbucket's rate limit teaches.
//!
//! Owns: [`Limiter`]: until when everybody is silent after a 429, and which part of the budget is used since.
//! Must not know: what was called, the clock, where randomness comes from.

use std::time::Duration;

use crate::clock::Timestamp;

/// The silence after a 429 that does not say how long: 30–45 s, and twice that each time it happens again.
const FIRST_SILENCE: Duration = Duration::from_secs(30);
/// The longest that we choose ourselves.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
/// A 429 within this time of the last one is the same trouble, going on.
const SAME_TROUBLE: Duration = Duration::from_secs(1800);
/// Of what was used before a 429, this part is used after it.
const LESS: f64 = 0.7;
/// The same when Bitbucket only says that little is left.
const A_LITTLE_LESS: f64 = 0.9;
/// Never less than this part: with nothing asked, nothing is learned.
const LEAST: f64 = 0.1;
/// From [`LEAST`] to all of it again, if nothing is said meanwhile.
const RECOVERY: Duration = Duration::from_secs(2 * 3600);
/// How often a warning that little is left counts.
const HEED_EVERY: Duration = Duration::from_secs(60);

/// Learns from what Bitbucket says about too many calls. Slows everybody: the limit may be the whole client's.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Limiter {
    closed_until: Option<Timestamp>,
    last: Option<Timestamp>,
    in_a_row: u32,
    /// What was given up, between 0 and 1, and when that was so.
    given_up: f64,
    since: Option<Timestamp>,
    heeded: Option<Timestamp>,
}

impl Limiter {
    /// Until when nobody may call; `None` when everybody may.
    pub fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.closed_until.filter(|until| now < *until)
    }

    /// Which part of the budget is used: less after a 429, and slowly more again.
    pub fn share(&self, now: Timestamp) -> f64 {
        let back = match self.since {
            Some(since) => now.since(since).as_secs_f64() / RECOVERY.as_secs_f64() * (1.0 - LEAST),
            None => 1.0,
        };
        (1.0 - (self.given_up - back).max(0.0)).clamp(LEAST, 1.0)
    }

    /// Bitbucket said 429. `wish` is what its `Retry-After` says; `dice` spreads what it does not say.
    pub fn throttled(&mut self, wish: Option<Duration>, dice: u8, now: Timestamp) {
        // Answers to what was sent before the first of them tell nothing new.
        let news = self.closed_until(now).is_none();
        if news {
            let again = self.last.is_some_and(|last| now.since(last) < SAME_TROUBLE);
            self.in_a_row = if again { self.in_a_row + 1 } else { 1 };
            self.last = Some(now);
            self.slow_down(LESS, now);
        }
        let silence = wish.unwrap_or_else(|| {
            let doubled = FIRST_SILENCE * (1 << self.in_a_row.saturating_sub(1).min(5));
            let silence = doubled.min(LONGEST_SILENCE);
            silence + silence * u32::from(dice) / 512
        });
        let until = now.plus(silence);
        self.closed_until = self.closed_until.max(Some(until));
    }

    /// Bitbucket said that little is left.
    pub fn nearly(&mut self, now: Timestamp) {
        if self.heeded.is_none_or(|heeded| now.since(heeded) >= HEED_EVERY) {
            self.heeded = Some(now);
            self.slow_down(A_LITTLE_LESS, now);
        }
    }

    fn slow_down(&mut self, factor: f64, now: Timestamp) {
        self.given_up = 1.0 - (self.share(now) * factor).max(LEAST);
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    #[test]
    fn a_wish_is_obeyed_and_without_one_the_silence_doubles() {
        let mut limiter = Limiter::default();
        limiter.throttled(Some(Duration::from_secs(7)), 255, at(0));
        assert_eq!(limiter.closed_until(at(6)), Some(at(7)));
        assert_eq!(limiter.closed_until(at(7)), None);

        let mut limiter = Limiter::default();
        let mut now = at(0);
        for silence in [30, 60, 120, 240, 480, 600, 600] {
            limiter.throttled(None, 0, now);
            assert_eq!(limiter.closed_until(now), Some(now.plus(Duration::from_secs(silence))));
            now = now.plus(Duration::from_secs(silence));
        }
        // Half an hour of peace, and it begins anew.
        now = now.plus(SAME_TROUBLE);
        limiter.throttled(None, 255, now);
        let silence = limiter.closed_until(now).map(|until| until.since(now)).unwrap_or_default();
        assert!((Duration::from_secs(44)..=Duration::from_secs(45)).contains(&silence), "{silence:?}");
    }

    #[test]
    fn answers_to_what_was_sent_before_count_once_and_never_shorten_the_silence() {
        let mut limiter = Limiter::default();
        limiter.throttled(Some(Duration::from_secs(60)), 0, at(0));
        let share = limiter.share(at(0));
        limiter.throttled(Some(Duration::from_secs(5)), 0, at(1));
        limiter.throttled(None, 0, at(1));
        assert_eq!(limiter.closed_until(at(1)), Some(at(60)));
        assert!(limiter.share(at(1)) >= share);
    }

    #[test]
    fn everybody_slows_down_and_comes_back_within_hours() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.share(at(0)), 1.0);
        limiter.throttled(None, 0, at(0));
        assert!((limiter.share(at(0)) - 0.7).abs() < 1e-9);
        let later = limiter.share(at(1200));
        assert!((0.8..0.9).contains(&later), "{later}");
        assert_eq!(limiter.share(at(7200)), 1.0);
        for round in 0..20 {
            limiter.throttled(None, 0, at(10_000 + round * 700));
        }
        let least = limiter.share(at(10_000 + 19 * 700));
        assert!((LEAST..0.3).contains(&least), "{least}");
    }

    #[test]
    fn a_warning_is_heeded_once_a_minute() {
        let mut limiter = Limiter::default();
        for second in 0..60 {
            limiter.nearly(at(second));
        }
        assert!((0.89..=0.92).contains(&limiter.share(at(59))));
        limiter.nearly(at(60));
        assert!(limiter.share(at(60)) < 0.84);
        assert_eq!(limiter.closed_until(at(60)), None, "a warning closes nothing");
    }
}
