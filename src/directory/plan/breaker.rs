//! An endpoint that fails again and again is left alone for a while.
//!
//! Owns: [`Breaker`]. Must not know: which endpoint, what failed, the clock.

use std::time::Duration;

use crate::clock::Timestamp;

/// So many failures in a row, and it opens.
const FAILURES: u32 = 5;
/// How long it is open the first time; twice that each time that the probe after it fails.
const FIRST: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// A probe that nobody reported on for this long is forgotten.
const PROBE_LOST: Duration = Duration::from_secs(30);

/// The circuit of one endpoint: closed (calls go), open (none goes), and then one probe at a time until one of
/// them is answered. An answer is anything that is not a failure of the way or of the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Breaker {
    failures: u32,
    opened: u32,
    open_until: Option<Timestamp>,
    probe_since: Option<Timestamp>,
}

impl Breaker {
    /// Whether a call may go. One that may, and meets an open circuit, is the probe.
    ///
    /// # Errors
    ///
    /// The moment from which on it is worth asking again.
    pub fn admit(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        if let Some(later) = self.refuses(now) {
            return Err(later);
        }
        if self.open_until.is_some() {
            self.probe_since = Some(now);
        }
        Ok(())
    }

    /// From when on a call may go, if none may now. Takes nothing.
    pub fn refuses(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.open_until?;
        if now < until {
            return Some(until);
        }
        let lost_at = self.probe_since?.plus(PROBE_LOST);
        // The probe's answer is expected within seconds.
        (now < lost_at).then(|| lost_at.min(now.plus(Duration::from_secs(1))))
    }

    /// Whether it is open, or waits for the answer to a probe.
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// There was an answer.
    pub fn answered(&mut self) {
        *self = Breaker::default();
    }

    /// There was none. `dice` spreads when it is tried again.
    pub fn failed(&mut self, dice: u8, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let probe = self.open_until.is_some_and(|until| now >= until);
        // What was sent before it opened, and fails now, tells nothing new.
        if probe || self.open_until.is_none() && self.failures >= FAILURES {
            let silence = (FIRST * (1 << self.opened.min(5))).min(LONGEST);
            let silence = silence - silence * u32::from(dice) / 1024;
            self.opened = self.opened.saturating_add(1);
            self.open_until = Some(now.plus(silence));
            self.probe_since = None;
        }
    }

    /// Whoever asked went away before there was anything to say.
    pub fn abandoned(&mut self) {
        self.probe_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn broken(now: Timestamp) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.admit(now).is_ok());
            breaker.failed(0, now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_five_failures_in_a_row_and_an_answer_between_them_counts() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 0..FAILURES - 1 {
                breaker.failed(0, at(0));
            }
            assert!(breaker.admit(at(0)).is_ok());
            breaker.answered();
        }
        assert!(!breaker.is_open());
        assert_eq!(broken(at(0)).admit(at(0)), Err(at(5)));
    }

    #[test]
    fn one_probe_at_a_time_and_its_answer_closes_it() {
        let mut breaker = broken(at(0));
        assert_eq!(breaker.admit(at(4)), Err(at(5)));
        assert_eq!(breaker.admit(at(5)), Ok(()));
        assert_eq!(breaker.admit(at(5)), Err(at(6)), "the probe is under way");
        breaker.answered();
        assert_eq!(breaker.admit(at(5)), Ok(()));
        assert_eq!(breaker.admit(at(5)), Ok(()));
    }

    #[test]
    fn a_probe_that_fails_makes_the_next_wait_twice_as_long_up_to_a_minute() {
        let mut breaker = broken(at(0));
        let mut now = at(5);
        for silence in [10, 20, 40, 60, 60] {
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.failed(0, now);
            // What else was under way fails as well, and changes nothing.
            breaker.failed(0, now);
            let next = now.plus(Duration::from_secs(silence));
            assert_eq!(breaker.admit(now), Err(next));
            now = next;
        }
    }

    #[test]
    fn a_probe_that_nobody_reports_on_blocks_nobody() {
        let mut breaker = broken(at(0));
        assert_eq!(breaker.admit(at(5)), Ok(()));
        breaker.abandoned();
        assert_eq!(breaker.admit(at(5)), Ok(()));
        assert!(breaker.admit(at(6)).is_err());
        assert_eq!(breaker.admit(at(35)), Ok(()), "forgotten");
    }
}
