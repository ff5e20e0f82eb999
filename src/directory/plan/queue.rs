//! Who is asked about next, and when to wake.
//!
//! Owns: [`Queue`]: the accounts in use, ordered by time; how far their interval is stretched.
//! Must not know: how one asks, Bitbucket, tasks, the clock.
//!
//! Everybody in use is asked about once in an interval: `refresh_after`, or longer when the budget does not go
//! around; then it is longer for all alike. The order of due times is the order of ages whatever the interval is, so
//! that stretching it moves nobody past anybody, and nobody starves.
//!
//! Nothing is walked: a wake looks at who is first by each of three orders.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::Ages;
use crate::clock::Timestamp;

/// How far an interval is stretched at most; beyond this nobody reads the number any more.
const MOST_STRETCH: f64 = 10_000.0;
/// Among how many that are due the most recently used is looked for.
const AMONG: usize = 64;
/// The longest sleep: the budget and the stretch change without anybody being told.
const NAP: Duration = Duration::from_secs(30);

/// What is known of an account now. The queue remembers what it was told; the truth is looked up before anything is
/// done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// When its membership was asked for.
    pub as_of: Timestamp,
    /// When a request last used it.
    pub used_at: Timestamp,
    /// Not before this moment: set after a failure.
    pub not_before: Timestamp,
    /// A number of the account's own, for jitter: the same account always gets the same.
    pub spread: u8,
}

/// What calls can be had.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Supply {
    /// How many a second in the long run; more than nothing.
    pub per_second: f64,
    /// From when on there is one: `now` or earlier when there is one now.
    pub next_at: Timestamp,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<K> {
    /// Ask about this account. It has left the queue; [`Queue::enter`] puts it back.
    Ask(K),
    /// This one has not been used for longer than `max_age`, or is gone: it has left the queue.
    Drop(K),
    /// Nothing to do before this moment.
    WakeAt(Timestamp),
}

/// The accounts in use.
#[derive(Clone, Debug)]
pub struct Queue<K> {
    entries: HashMap<K, Entry>,
    /// By age, less the jitter.
    by_age: BTreeSet<(Timestamp, K)>,
    /// Those that failed, by when they may be asked about again.
    held: BTreeSet<(Timestamp, K)>,
    /// By when they were last known to be used.
    by_use: BTreeSet<(Timestamp, K)>,
    cost: Cost,
    stretch: f64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Place,
    used_at: Timestamp,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    ByAge(Timestamp),
    Held(Timestamp),
}

/// How many calls a re-query takes, on the average of late.
#[derive(Clone, Copy, Debug)]
struct Cost {
    calls: f64,
    rounds: f64,
}

impl<K: Copy + Ord + Hash> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue::new()
    }
}

impl<K: Copy + Ord + Hash> Queue<K> {
    /// Nobody.
    pub fn new() -> Queue<K> {
        Queue {
            entries: HashMap::new(),
            by_age: BTreeSet::new(),
            held: BTreeSet::new(),
            by_use: BTreeSet::new(),
            cost: Cost { calls: 1.0, rounds: 1.0 },
            stretch: 1.0,
        }
    }

    /// Puts an account in, or where it belongs now.
    pub fn enter(&mut self, key: K, look: Look, ages: &Ages, now: Timestamp) {
        self.leave(&key);
        let at = if now < look.not_before {
            self.held.insert((look.not_before, key));
            Place::Held(look.not_before)
        } else {
            // Early, never late, and by up to an eighth: who signed in together does not ask together for ever.
            let early = ages.refresh_after / 8 * u32::from(look.spread) / 256;
            let by_age = look.as_of.minus(early);
            self.by_age.insert((by_age, key));
            Place::ByAge(by_age)
        };
        self.by_use.insert((look.used_at, key));
        self.entries.insert(key, Entry { at, used_at: look.used_at });
    }

    /// Takes an account out.
    pub fn leave(&mut self, key: &K) {
        let Some(entry) = self.entries.remove(key) else { return };
        match entry.at {
            Place::ByAge(at) => self.by_age.remove(&(at, *key)),
            Place::Held(at) => self.held.remove(&(at, *key)),
        };
        self.by_use.remove(&(entry.used_at, *key));
    }

    /// Notes how many calls a re-query took.
    pub fn took(&mut self, calls: u32) {
        if self.cost.rounds >= 64.0 {
            self.cost = Cost { calls: self.cost.calls / 2.0, rounds: self.cost.rounds / 2.0 };
        }
        self.cost.calls += f64::from(calls);
        self.cost.rounds += 1.0;
    }

    /// How many accounts are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many times longer than `refresh_after` the interval is, as of the last step; at least 1.
    pub fn stretch(&self) -> f64 {
        self.stretch
    }

    /// What to do now. `look` says what is known of an account by now; `None`: it is gone.
    pub fn step(
        &mut self,
        look: impl Fn(&K) -> Option<Look>,
        ages: &Ages,
        supply: Supply,
        now: Timestamp,
    ) -> Step<K> {
        if let Some(dropped) = self.unused(&look, ages, now) {
            return Step::Drop(dropped);
        }
        while let Some(&(until, key)) = self.held.first().filter(|(until, _)| *until <= now) {
            match look(&key) {
                Some(look) => self.enter(key, look, ages, now.max(until)),
                None => return self.gone(key),
            }
        }
        self.stretch = self.stretch_for(ages, supply);
        let interval = self.interval(ages);
        while let Some(key) = self.ready(&look, interval, now) {
            let Some(known) = look(&key) else { return self.gone(key) };
            let before = self.entries.get(&key).map(|entry| entry.at);
            self.enter(key, known, ages, now);
            match (before, self.entries.get(&key).map(|entry| entry.at)) {
                // It is as old as was thought.
                (Some(Place::ByAge(before)), Some(Place::ByAge(after))) if before == after => {
                    if now < supply.next_at {
                        return Step::WakeAt(supply.next_at.min(now.plus(NAP)));
                    }
                    self.leave(&key);
                    return Step::Ask(key);
                }
                // Somebody who waited has asked since, or it failed.
                _ => {}
            }
        }
        Step::WakeAt(self.wake_at(interval, ages, now))
    }

    /// How long it is between two questions about one account, as of the last step.
    pub fn interval(&self, ages: &Ages) -> Duration {
        ages.refresh_after.mul_f64(self.stretch)
    }

    fn gone(&mut self, key: K) -> Step<K> {
        self.leave(&key);
        Step::Drop(key)
    }

    /// The first account that nobody has used for too long. Each is looked at once in `max_age`, or less often.
    fn unused(&mut self, look: &impl Fn(&K) -> Option<Look>, ages: &Ages, now: Timestamp) -> Option<K> {
        while let Some(&(used_at, key)) = self.by_use.first() {
            if now.since(used_at) < ages.max_age {
                return None;
            }
            match look(&key).map(|look| look.used_at) {
                Some(used_at) if now.since(used_at) < ages.max_age => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        self.by_use.remove(&(entry.used_at, key));
                        self.by_use.insert((used_at, key));
                        entry.used_at = used_at;
                    }
                }
                _ => {
                    self.leave(&key);
                    return Some(key);
                }
            }
        }
        None
    }

    /// What everybody in use would need, against what there is.
    fn stretch_for(&self, ages: &Ages, supply: Supply) -> f64 {
        let each = self.cost.calls / self.cost.rounds;
        let demand = self.entries.len() as f64 * each / ages.refresh_after.as_secs_f64().max(0.001);
        (demand / supply.per_second.max(1e-6)).clamp(1.0, MOST_STRETCH)
    }

    /// Of those that are due the most recently used, but nobody waits for longer than two intervals.
    fn ready(&self, look: &impl Fn(&K) -> Option<Look>, interval: Duration, now: Timestamp) -> Option<K> {
        let due = |at: Timestamp| at.plus(interval) <= now;
        let &(oldest, key) = self.by_age.first().filter(|(at, _)| due(*at))?;
        if now.since(oldest) >= interval * 2 {
            return Some(key);
        }
        let waiting = self.by_age.iter().take(AMONG).take_while(|(at, _)| due(*at));
        waiting
            .max_by_key(|(at, key)| {
                // Of two that were used in the same second the older.
                (look(key).map(|look| look.used_at.unix_seconds()), std::cmp::Reverse(*at))
            })
            .map(|(_, key)| *key)
    }

    fn wake_at(&self, interval: Duration, ages: &Ages, now: Timestamp) -> Timestamp {
        let due = self.by_age.first().map(|(at, _)| at.plus(interval));
        let held = self.held.first().map(|(until, _)| *until);
        let unused = self.by_use.first().map(|(used_at, _)| used_at.plus(ages.max_age));
        let soonest = [due, held, unused].into_iter().flatten().min();
        let nap = now.plus(NAP);
        soonest.map_or(nap, |at| at.min(nap)).max(now.plus(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGES: Ages = Ages {
        refresh_after: Duration::from_secs(300),
        profile_after: Duration::from_secs(21_600),
        max_age: Duration::from_secs(3_600),
        outage_grace: Duration::from_secs(14_400),
    };

    const PLENTY: Supply = Supply { per_second: 1e6, next_at: Timestamp::from_unix_millis(0) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(100_000 + seconds)
    }

    fn look(as_of: u64, used_at: u64) -> Look {
        Look { as_of: at(as_of), used_at: at(used_at), not_before: at(0), spread: 0 }
    }

    fn queue(looks: &[Look]) -> Queue<usize> {
        let mut queue = Queue::new();
        for (key, look) in looks.iter().enumerate() {
            queue.enter(key, *look, &AGES, at(0));
        }
        queue
    }

    /// Everything that is asked about at `now`, and when to wake.
    fn asked(queue: &mut Queue<usize>, looks: &[Look], now: u64) -> (Vec<usize>, Timestamp) {
        let mut asked = Vec::new();
        loop {
            match queue.step(|key| looks.get(*key).copied(), &AGES, PLENTY, at(now)) {
                Step::Ask(key) => asked.push(key),
                Step::Drop(_) => {}
                Step::WakeAt(then) => return (asked, then),
            }
        }
    }

    #[test]
    fn the_most_recently_used_are_asked_about_first_and_the_unused_not_at_all() {
        let looks = [look(4_000, 4_301), look(4_000, 4_500), look(4_400, 4_500), look(0, 100)];
        let mut queue = queue(&looks);
        assert_eq!(asked(&mut queue, &looks, 4_500).0, [1, 0]);
        assert_eq!(queue.len(), 1, "who is asked about has left, and so has who is unused");
    }

    #[test]
    fn who_is_long_overdue_comes_before_whoever_is_used_more() {
        let looks = [look(3_900, 4_001), look(4_000, 4_500)];
        assert_eq!(asked(&mut queue(&looks), &looks, 4_500).0, [0, 1]);
    }

    #[test]
    fn it_sleeps_until_somebody_is_due_and_jitter_asks_early_never_late() {
        let mut looks = [look(0, 10)];
        assert_eq!(asked(&mut queue(&looks), &looks, 290), (vec![], at(300)));
        looks[0].spread = 255;
        let mut queue = queue(&looks);
        assert!(asked(&mut queue, &looks, 262).0.is_empty());
        assert_eq!(asked(&mut queue, &looks, 263).0, [0]);
        assert_eq!(asked(&mut queue, &looks, 263), (vec![], at(293)), "with nobody there it naps");
    }

    #[test]
    fn a_failed_account_waits_its_turn() {
        let mut looks = [look(0, 900)];
        looks[0].not_before = at(1_000);
        let mut queue = queue(&looks);
        assert_eq!(asked(&mut queue, &looks, 999), (vec![], at(1_000)));
        assert_eq!(asked(&mut queue, &looks, 1_000).0, [0]);
    }

    #[test]
    fn what_somebody_else_asked_meanwhile_is_not_asked_again() {
        let mut looks = [look(0, 10), look(0, 10)];
        let mut queue = queue(&looks);
        looks[0].as_of = at(200);
        assert_eq!(asked(&mut queue, &looks, 300), (vec![1], at(330)));
        assert_eq!(asked(&mut queue, &looks, 499).0, [] as [usize; 0]);
        assert_eq!(asked(&mut queue, &looks, 500).0, [0]);
    }

    #[test]
    fn the_interval_stretches_as_far_as_the_calls_reach_and_no_further() {
        let looks = [look(0, 2_000); 10];
        let mut queue = queue(&looks);
        for _ in 0..1_000 {
            queue.took(3);
        }
        // Ten accounts, three calls each, every 300 s: a tenth of a call a second.
        for (per_second, stretch) in [(1.0, 1.0), (0.1, 1.0), (0.05, 2.0), (0.01, 10.0)] {
            let supply = Supply { per_second, next_at: at(9_999) };
            queue.step(|key| looks.get(*key).copied(), &AGES, supply, at(10));
            assert!((queue.stretch() - stretch).abs() < stretch * 0.05, "{per_second} {}", queue.stretch());
        }
        assert!(queue.interval(&AGES) > Duration::from_secs(2_800));
    }

    proptest! {
        /// Any number of people who use it all the time, any supply: nobody's answer gets much older than the interval
        /// that is announced, and the calls that are there are used.
        #[test]
        fn nobody_starves_and_nothing_is_wasted(
            people in 1_usize..120,
            gap in 1_u64..60,
            spread in proptest::collection::vec(any::<u8>(), 120),
            hasty in proptest::collection::vec(1_u64..3_000, 120),
        ) {
            let mut as_of = vec![at(0); people];
            let mut queue = Queue::new();
            let (mut now, mut next_call, mut calls) = (0_u64, 0_u64, 0_u64);
            let known = |as_of: &[Timestamp], now: u64, key: usize| Look {
                as_of: as_of[key],
                // Some use it every second, others seldom.
                used_at: at(now - now % hasty[key].min(now.max(1))),
                not_before: at(0),
                spread: spread[key],
            };
            for key in 0..people {
                queue.enter(key, known(&as_of, 0, key), &AGES, at(0));
            }
            let span = 40_000;
            while now < span {
                let supply = Supply { per_second: 1.0 / gap as f64, next_at: at(next_call) };
                let step = queue.step(|key| Some(known(&as_of, now, *key)), &AGES, supply, at(now));
                match step {
                    Step::Ask(key) => {
                        calls += 1;
                        next_call = now + gap;
                        let age = at(now).since(as_of[key]);
                        let most = queue.interval(&AGES).mul_f64(2.0) + Duration::from_secs(2 * gap + 40);
                        prop_assert!(age <= most, "{age:?} with {:?}", queue.interval(&AGES));
                        as_of[key] = at(now);
                        queue.enter(key, known(&as_of, now, key), &AGES, at(now));
                    }
                    Step::Drop(key) => prop_assert!(false, "{key} is in use"),
                    Step::WakeAt(then) => now = then.since(at(0)).as_secs().max(now + 1),
                }
            }
            let possible = (span / gap).min(people as u64 * span / 300);
            prop_assert!(calls * 10 >= possible * 8, "{calls} of {possible}");
            for as_of in &as_of {
                let age = at(now).since(*as_of);
                prop_assert!(age <= queue.interval(&AGES).mul_f64(2.0) + Duration::from_secs(2 * gap + 40));
            }
        }
    }
}
