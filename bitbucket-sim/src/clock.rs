//! The clock of the pretend Bitbucket.
//!
//! Owns: what time it is there. The only file of this crate that reads the real time.
//! Must not know: what the time is used for.

use std::time::Duration;

use time::OffsetDateTime;

/// Runs with the real time plus whatever it was moved by, or stands still until it is moved.
#[derive(Clone, Debug)]
pub struct Clock {
    standing_at: Option<OffsetDateTime>,
    moved_by: Duration,
}

impl Clock {
    /// A clock that runs with the real time. The default of a world.
    pub fn running() -> Clock {
        Clock { standing_at: None, moved_by: Duration::ZERO }
    }

    /// A clock that stands at `at` and moves only when [`Clock::advance`] is called.
    pub fn standing_at(at: OffsetDateTime) -> Clock {
        Clock { standing_at: Some(at), moved_by: Duration::ZERO }
    }

    /// What time it is in the pretend Bitbucket.
    #[expect(clippy::disallowed_methods, reason = "this is the one place of the simulator that reads time")]
    pub fn now(&self) -> OffsetDateTime {
        self.standing_at.unwrap_or_else(OffsetDateTime::now_utc) + self.moved_by
    }

    /// Moves the clock forward. There is no way back. Stops at a thousand years.
    pub fn advance(&mut self, by: Duration) {
        const FAR: Duration = Duration::from_secs(1000 * 365 * 86_400);
        self.moved_by = self.moved_by.saturating_add(by).min(FAR);
    }
}
