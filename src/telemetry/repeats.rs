//! Says a warning once a minute, and how often it was not said.
//!
//! Owns: [`Repeats`]. Pure but for a lock: the time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// How long a warning that was said is not said again.
pub const PAUSE: Duration = Duration::from_secs(60);

/// Which warnings were said when. Keys are names in the code, so there are few.
#[derive(Debug, Default)]
pub struct Repeats {
    said: Mutex<HashMap<&'static str, Said>>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    at: Timestamp,
    suppressed: u64,
}

impl Said {
    /// A clock that was set back makes nothing recent: a warning must not be silenced until it catches up.
    fn is_recent(self, now: Timestamp) -> bool {
        now >= self.at && now.since(self.at) < PAUSE
    }
}

impl Repeats {
    /// Whether to say the warning `key` now: `Some` with how often it was suppressed since it was last said,
    /// or `None` when it was said less than a minute ago, and then it is counted.
    pub fn warn_limited(&self, key: &'static str, now: Timestamp) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get_mut(key) {
            Some(last) if last.is_recent(now) => {
                last.suppressed += 1;
                None
            }
            Some(last) => {
                let suppressed = last.suppressed;
                *last = Said { at: now, suppressed: 0 };
                Some(suppressed)
            }
            None => {
                said.insert(key, Said { at: now, suppressed: 0 });
                Some(0)
            }
        }
    }

    /// What was suppressed for a minute and would never be told otherwise, because it has stopped: key and
    /// count, sorted by key. Ask once a minute.
    pub fn summaries(&self, now: Timestamp) -> Vec<(&'static str, u64)> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Vec<(&'static str, u64)> = Vec::new();
        for (key, last) in said.iter_mut() {
            if last.suppressed > 0 && !last.is_recent(now) {
                due.push((key, last.suppressed));
                *last = Said { at: now, suppressed: 0 };
            }
        }
        due.sort_unstable();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn a_warning_is_said_once_a_minute_with_the_number_of_those_in_between() {
        let repeats = Repeats::default();
        for (second, expected) in [
            (100, Some(0)),
            (101, None),
            (159, None),
            (160, Some(2)),
            (161, None),
            (300, Some(1)),
            (400, Some(0)),
        ] {
            assert_eq!(repeats.warn_limited("disk", at(second)), expected, "{second}");
        }
        assert_eq!(repeats.warn_limited("net", at(400)), Some(0));
    }

    #[test]
    fn what_has_stopped_is_summed_up_once() {
        let repeats = Repeats::default();
        for second in [100, 101, 102] {
            repeats.warn_limited("disk", at(second));
        }
        repeats.warn_limited("net", at(100));
        assert_eq!(repeats.summaries(at(159)), []);
        assert_eq!(repeats.summaries(at(160)), [("disk", 2)]);
        assert_eq!(repeats.summaries(at(220)), []);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nothing_for_ever() {
        let repeats = Repeats::default();
        assert_eq!(repeats.warn_limited("disk", at(1_000)), Some(0));
        assert_eq!(repeats.warn_limited("disk", at(500)), Some(0));
    }
}
