//! Time: the only file that reads it.
//!
//! Owns: [`Timestamp`] and [`Clock`]. Everything else takes `now` as an argument, so that expiry can be
//! tested by moving a manual clock instead of sleeping.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment, in whole milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_unix_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// The moment `seconds` seconds after the Unix epoch; saturates.
    pub const fn from_unix_seconds(seconds: u64) -> Timestamp {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down: the unit of JWT claims.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// What [`Timestamp`] prints, read again: RFC 3339. None before 1970, or for anything else.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let seconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
        u64::try_from(seconds).ok().map(Timestamp::from_unix_seconds)
    }

    /// How long ago `earlier` was; zero when it lies in the future (a clock that was set back makes
    /// nothing older than it is, and nothing negative).
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `span` later; saturates.
    pub const fn plus(self, span: Duration) -> Timestamp {
        let millis = span.as_millis();
        let millis = if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 };
        Timestamp(self.0.saturating_add(millis))
    }

    /// This moment and `span` earlier; saturates at the epoch.
    pub const fn minus(self, span: Duration) -> Timestamp {
        let millis = span.as_millis();
        let millis = if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 };
        Timestamp(self.0.saturating_sub(millis))
    }
}

/// RFC 3339 in UTC with whole seconds, as people and logs read it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.unix_seconds()).unwrap_or(i64::MAX);
        match OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|t| t.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{seconds} s after 1970"),
        }
    }
}

/// Where `now` comes from. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// The present moment. A machine clock before 1970 reads as the epoch.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads time")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Manual(millis) => Timestamp(millis.load(Ordering::Acquire)),
        }
    }

    /// Moves a manual clock on; the system clock is not ours to move, so there it does nothing.
    pub fn advance(&self, span: Duration) {
        if let Source::Manual(millis) = &self.0 {
            millis.fetch_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_its_clones_move_along() {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_000));
        let clone = clock.clone();
        assert_eq!(clone.now().unix_seconds(), 1_000);
        clock.advance(Duration::from_secs(60));
        assert_eq!(clone.now().unix_seconds(), 1_060);
    }

    #[test]
    fn a_moment_in_the_future_is_no_time_ago() {
        let (early, late) = (Timestamp::from_unix_seconds(5), Timestamp::from_unix_seconds(9));
        assert_eq!(late.since(early), Duration::from_secs(4));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn a_moment_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_unix_seconds(1_795_508_523).to_string(), "2026-11-24T08:22:03Z");
    }
}
