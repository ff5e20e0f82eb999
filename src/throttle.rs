//! How often something may be done, by whom.
//!
//! Owns: [`Rate`], [`Block`] (whose doings are counted together), [`Throttle`].
//! Must not know: what is done, HTTP, the clock.
//!
//! The rule is GCRA: of each block of addresses one number is kept, the moment at which all that it has had would
//! have been earned. That moment may lie ahead by the rate's span and no further.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::Timestamp;

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

/// Addresses that are as good as one: whoever has one of them has them all. An address of IPv4, or a /64 of IPv6
/// (RFC 6177: no site gets less).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Block {
    /// One address.
    V4(u32),
    /// The upper half of an address.
    V6(u64),
}

impl Block {
    /// The block of `address`. An address of IPv4 in the clothes of IPv6 is one of IPv4, also in those that a
    /// translator gives it (RFC 6052 §2.1): else all of IPv4 would be one block.
    pub fn of(address: IpAddr) -> Block {
        match address.to_canonical() {
            IpAddr::V4(address) => Block::V4(address.to_bits()),
            IpAddr::V6(address) => match address.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Block::V4(u32::from(high) << 16 | u32::from(low)),
                _ => Block::V6((address.to_bits() >> 64) as u64),
            },
        }
    }
}

/// How many blocks are remembered. When there are more, those that were not seen for longest are forgiven: better
/// that an attacker with many addresses is let go than that everybody else is kept out.
const REMEMBERED: u64 = 32 * 1024;

/// What each block has had of one thing. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// By when, in microseconds, what was had would have been earned.
    earned_by: Cache<Block, Arc<AtomicU64>>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        // Least recently used, not least often: by frequency newcomers would be forgotten at once, and never slowed.
        let earned_by =
            Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build();
        Throttle { earned_by }
    }
}

impl Throttle {
    /// Lets `block` pass once more, or says how long it has to wait.
    ///
    /// # Errors
    ///
    /// The wait: more than nothing, at most the share of one. What is refused counts for nothing.
    pub fn pass(&self, rate: Rate, block: Block, now: Timestamp) -> Result<(), Duration> {
        let mark = self.earned_by.get_with(block, Arc::default);
        let now = now.unix_millis().saturating_mul(1_000);
        let span = micros(rate.per);
        let share = span / u64::from(rate.count);
        let mut wait = 0;
        let next = |earned_by: u64| {
            // A clock that was set back must not make anybody wait for longer than the span.
            let earned_by = earned_by.clamp(now, now.saturating_add(span)).saturating_add(share);
            wait = earned_by.saturating_sub(now.saturating_add(span));
            (wait == 0).then_some(earned_by)
        };
        match mark.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Ok(()),
            Err(_) => Err(Duration::from_micros(wait)),
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    fn rate(count: u32, seconds: u64) -> Outcome<Rate> {
        Ok(Rate::new(count, Duration::from_secs(seconds)).ok_or("a rate")?)
    }

    fn block(text: &str) -> Outcome<Block> {
        Ok(Block::of(text.parse()?))
    }

    fn after(millis: u64) -> Timestamp {
        START.plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_rate_lets_its_number_pass_at_once_and_then_one_for_each_share() -> Outcome {
        let (throttle, rate, who) = (Throttle::default(), rate(20, 60)?, block("192.0.2.1")?);
        for _ in 0..20 {
            assert_eq!(throttle.pass(rate, who, START), Ok(()));
        }
        assert_eq!(throttle.pass(rate, who, START), Err(Duration::from_secs(3)));
        assert_eq!(throttle.pass(rate, who, after(1_000)), Err(Duration::from_secs(2)));
        assert_eq!(throttle.pass(rate, who, after(3_000)), Ok(()));
        assert_eq!(throttle.pass(rate, who, after(3_000)), Err(Duration::from_secs(3)));
        // Whoever pauses has the whole number again, and no more than that.
        let passed = (0..30).filter(|_| throttle.pass(rate, who, after(600_000)).is_ok()).count();
        assert_eq!(passed, 20);
        Ok(())
    }

    #[test]
    fn over_a_long_time_it_is_the_rate() -> Outcome {
        for (count, seconds) in [(20, 60), (600, 3_600), (5, 1), (1, 60)] {
            let (throttle, rate, who) = (Throttle::default(), rate(count, seconds)?, block("192.0.2.1")?);
            // Ten spans, asked a hundred times for each that passes.
            let steps = u64::from(count) * 1_000;
            let step = seconds * 10_000 / steps;
            let passed =
                (0..steps).filter(|at| throttle.pass(rate, who, after(at * step.max(1))).is_ok()).count();
            let expected = f64::from(count) * (1.0 + (steps * step.max(1)) as f64 / (seconds * 1_000) as f64);
            assert!((passed as f64 - expected).abs() <= expected / 50.0 + 1.0, "{count}/{seconds}: {passed}");
        }
        Ok(())
    }

    #[test]
    fn nobody_waits_for_what_others_did() -> Outcome {
        let (throttle, rate) = (Throttle::default(), rate(1, 60)?);
        for (who, passes) in [
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("64:ff9b::192.0.2.1", false),
            ("192.0.2.2", true),
            ("64:ff9b::192.0.2.3", true),
            ("2001:db8:1:2::1", true),
            ("2001:db8:1:2:ffff::9", false),
            ("2001:db8:1:3::1", true),
            ("::1", true),
        ] {
            assert_eq!(throttle.pass(rate, block(who)?, START).is_ok(), passes, "{who}");
        }
        Ok(())
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out_for_longer_than_the_span() -> Outcome {
        let (throttle, rate, who) = (Throttle::default(), rate(2, 60)?, block("192.0.2.1")?);
        assert_eq!(throttle.pass(rate, who, after(86_400_000)), Ok(()));
        assert_eq!(throttle.pass(rate, who, START), Err(Duration::from_secs(30)));
        assert_eq!(throttle.pass(rate, who, after(30_000)), Err(Duration::from_secs(30)));
        Ok(())
    }

    #[test]
    fn a_rate_that_changes_counts_what_was_had_before() -> Outcome {
        let (throttle, who) = (Throttle::default(), block("192.0.2.1")?);
        for _ in 0..10 {
            assert_eq!(throttle.pass(rate(10, 60)?, who, START), Ok(()));
        }
        assert_eq!(throttle.pass(rate(100, 60)?, who, START), Err(Duration::from_millis(600)));
        Ok(())
    }

    #[test]
    fn memory_is_bounded_and_newcomers_are_slowed_all_the_same() -> Outcome {
        let (throttle, rate) = (Throttle::default(), rate(1, 60)?);
        for address in 0..3 * REMEMBERED as u32 {
            let who = Block::V4(address);
            assert_eq!(throttle.pass(rate, who, START), Ok(()));
            assert!(throttle.pass(rate, who, START).is_err(), "{address}");
        }
        throttle.earned_by.run_pending_tasks();
        assert!(throttle.earned_by.entry_count() <= REMEMBERED);
        Ok(())
    }

    #[test]
    fn many_at_once_get_no_more_than_the_rate() -> Outcome {
        let (throttle, rate, who) = (Throttle::default(), rate(100, 3_600)?, block("192.0.2.1")?);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| throttle.pass(rate, who, START).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        assert_eq!(passed, 100);
        Ok(())
    }
}
