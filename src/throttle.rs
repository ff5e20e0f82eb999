//! How often something may be done, by whom.
//!
//! Owns: [`Rate`]. Must not know: what is done, HTTP.

use std::time::Duration;

/// The most that a [`Rate`] can let pass in its time.
pub const MOST: u32 = 1_000_000;

/// So many in a time. All of them may come at once; after that one passes each time that its share of the span has
/// gone by. `20/m`: twenty at once, then one every three seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// `count` in each `per`; `None` unless both are more than nothing and `count` is at most [`MOST`].
    pub fn new(count: u32, per: Duration) -> Option<Rate> {
        ((1..=MOST).contains(&count) && !per.is_zero()).then_some(Rate { count, per })
    }

    /// How many; at least one.
    pub fn count(self) -> u32 {
        self.count
    }

    /// In what time; more than nothing.
    pub fn per(self) -> Duration {
        self.per
    }
}
