//! How many calls may leave in an hour, and whose they are.
//!
//! Owns: [`Budget`]: what was called within the window, who may still call, how fast the background may go.
//! Must not know: what is called, what came of it, the clock.
//!
//! The window rolls: in **any** span of `per`, never more than `count`. It is kept in slots of a 720th of it, and a
//! slot counts as long as any moment of it is within the window, so it errs on the side of too few.

use std::time::Duration;

use crate::bitbucket::Right;
use crate::clock::Timestamp;
use crate::throttle::Rate;

/// How many slots a window has. One more is kept: the one that is half out of it.
const SLOTS: usize = 720;

/// Calls within the window, and who may make the next.
///
/// Of the whole, an eighth is kept for sign-ins alone, and another eighth for sign-ins and waiting requests: the
/// background never starves those. What the background has is spread over the window: a part at once, the rest
/// evenly, so that it is not used up in the first minutes of each.
#[derive(Clone, Debug)]
pub struct Budget {
    rate: Rate,
    /// What part of it is used: less than one after Bitbucket said that it was too much.
    share: f64,
    slots: Box<[[u32; 3]]>,
    /// The number, since 1970, of the newest slot.
    newest: u64,
    used: [u32; 3],
    /// When everything that the background had would have been earned, in milliseconds.
    earned_by: f64,
}

impl Budget {
    /// Nothing called yet.
    pub fn new(rate: Rate) -> Budget {
        let slots = vec![[0; 3]; SLOTS + 1].into_boxed_slice();
        Budget { rate, share: 1.0, slots, newest: 0, used: [0; 3], earned_by: 0.0 }
    }

    /// Another rate from now on. What was called stays called, unless the window has another length.
    pub fn adopt(&mut self, rate: Rate) {
        let share = self.share;
        if rate.per() == self.rate.per() {
            self.rate = rate;
        } else {
            *self = Budget { share, ..Budget::new(rate) };
        }
    }

    /// Uses only this part of it; between 0 and 1.
    pub fn use_only(&mut self, share: f64) {
        self.share = share.clamp(0.0, 1.0);
    }

    /// How many calls the window holds, with what was learned; at least one.
    pub fn ceiling(&self) -> u32 {
        ((f64::from(self.rate.count()) * self.share) as u32).max(1)
    }

    /// Takes one call out of it.
    ///
    /// # Errors
    ///
    /// The moment from which on it is worth asking again.
    pub fn draw(&mut self, right: Right, now: Timestamp) -> Result<(), Timestamp> {
        self.advance(now);
        self.window_allows(right, now)?;
        if right == Right::Background {
            self.pace_allows(now)?;
            self.earned_by = self.earned_by.max(millis(now)) + self.gap();
        }
        let slot = self.slot_of(self.newest);
        self.slots[slot][right as usize] += 1;
        self.used[right as usize] += 1;
        Ok(())
    }

    /// When the background may make its next call: `now`, or later. Takes nothing.
    pub fn background_at(&mut self, now: Timestamp) -> Timestamp {
        self.advance(now);
        match self.window_allows(Right::Background, now).and_then(|()| self.pace_allows(now)) {
            Ok(()) => now,
            Err(later) => later,
        }
    }

    /// How many calls are left in the window.
    pub fn left(&mut self, now: Timestamp) -> u32 {
        self.advance(now);
        self.ceiling().saturating_sub(self.total())
    }

    /// How many calls `right` made within the window.
    pub fn used_by(&mut self, right: Right, now: Timestamp) -> u32 {
        self.advance(now);
        self.used[right as usize]
    }

    /// How many calls a second the background may make for as long as it likes: what sign-ins leave of its share, and a
    /// little at least. Calls for requests that wait are not taken off: they keep memberships young, too.
    pub fn background_rate(&mut self, now: Timestamp) -> f64 {
        self.advance(now);
        1000.0 / self.gap()
    }

    fn total(&self) -> u32 {
        self.used.iter().sum()
    }

    /// What must stay in the window for those with a better right.
    fn kept_from(&self, right: Right) -> u32 {
        match right {
            Right::SignIn => 0,
            Right::Waiting => self.ceiling() / 8,
            Right::Background => self.ceiling() / 4,
        }
    }

    fn window_allows(&self, right: Right, now: Timestamp) -> Result<(), Timestamp> {
        let most = self.ceiling().saturating_sub(self.kept_from(right)).max(1);
        let mut too_many = (self.total() + 1).saturating_sub(most);
        if too_many == 0 {
            return Ok(());
        }
        // The oldest leave first.
        for number in self.newest.saturating_sub(SLOTS as u64)..=self.newest {
            too_many = too_many.saturating_sub(self.slots[self.slot_of(number)].iter().sum());
            if too_many == 0 {
                let gone_at = (number + SLOTS as u64 + 1) * self.slot_millis();
                return Err(Timestamp::from_unix_millis(gone_at).max(now.plus(Duration::from_millis(1))));
            }
        }
        Err(now.plus(self.rate.per()))
    }

    /// GCRA: an eighth of the background's share may come at once.
    fn pace_allows(&self, now: Timestamp) -> Result<(), Timestamp> {
        let at_once = self.background_share() / 8.0;
        let ahead = self.earned_by - millis(now);
        let allowed = (at_once.max(1.0) - 1.0) * self.gap();
        if ahead <= allowed {
            return Ok(());
        }
        Err(now.plus(Duration::from_millis((ahead - allowed).ceil() as u64)))
    }

    fn background_share(&self) -> f64 {
        f64::from(self.ceiling() - self.kept_from(Right::Background))
    }

    /// Milliseconds between two calls of the background in the long run.
    fn gap(&self) -> f64 {
        let others = self.used[Right::SignIn as usize];
        let share = self.background_share();
        let left = (share - f64::from(others)).max(share / 16.0) * 7.0 / 8.0;
        self.rate.per().as_secs_f64() * 1000.0 / left.max(0.5)
    }

    fn slot_millis(&self) -> u64 {
        let per = u64::try_from(self.rate.per().as_millis()).unwrap_or(u64::MAX);
        per.div_ceil(SLOTS as u64).max(1)
    }

    fn slot_of(&self, number: u64) -> usize {
        (number % (SLOTS as u64 + 1)) as usize
    }

    /// Lets go of what is out of the window. A clock that was set back forgives nothing.
    fn advance(&mut self, now: Timestamp) {
        let number = now.unix_millis() / self.slot_millis();
        if number <= self.newest {
            return;
        }
        let gone = (number - self.newest).min(SLOTS as u64 + 1);
        for number in number + 1 - gone..=number {
            let slot = self.slot_of(number);
            for (used, count) in self.used.iter_mut().zip(std::mem::take(&mut self.slots[slot])) {
                *used -= count;
            }
        }
        self.newest = number;
    }
}

fn millis(at: Timestamp) -> f64 {
    at.unix_millis() as f64
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000 + millis)
    }

    fn budget(count: u32) -> Result<Budget, &'static str> {
        Ok(Budget::new(Rate::new(count, HOUR).ok_or("no rate")?))
    }

    #[test]
    fn the_background_leaves_a_reserve_to_requests_and_both_leave_one_to_sign_ins() -> Result<(), &'static str>
    {
        let mut budget = budget(80)?;
        let mut spend = |right| {
            // Forty minutes, each second one.
            (0..2_400).filter(|second| budget.draw(right, at(second * 1_000)).is_ok()).count()
        };
        let background = spend(Right::Background);
        assert!((30..=60).contains(&background), "{background}");
        assert_eq!(spend(Right::Waiting), 70 - background);
        assert_eq!(spend(Right::Background), 0);
        assert_eq!(spend(Right::SignIn), 10);
        assert_eq!(spend(Right::SignIn), 0);
        Ok(())
    }

    #[test]
    fn the_background_is_spread_over_the_hour() -> Result<(), &'static str> {
        let mut budget = budget(900)?;
        let at_once = (0..900).filter(|_| budget.draw(Right::Background, at(0)).is_ok()).count();
        assert_eq!(at_once, 84, "an eighth of three quarters");
        let next = budget.draw(Right::Background, at(0)).err().ok_or("it goes on")?;
        let wait = next.since(at(0));
        // One call every six seconds from here on.
        assert!((1..6_100).contains(&wait.as_millis()), "{wait:?}");
        let rate = budget.background_rate(at(0)) * 3600.0;
        assert!((590.0..591.0).contains(&rate), "{rate}");
        assert!(budget.draw(Right::Background, next).is_ok(), "the moment that it names is good");
        Ok(())
    }

    #[test]
    fn what_was_learned_makes_it_smaller() -> Result<(), &'static str> {
        let mut budget = budget(100)?;
        budget.use_only(0.5);
        assert_eq!((0..100).filter(|_| budget.draw(Right::SignIn, at(0)).is_ok()).count(), 50);
        budget.use_only(1.0);
        assert_eq!(budget.left(at(0)), 50);
        budget.adopt(Rate::new(60, HOUR).ok_or("no rate")?);
        assert_eq!(budget.left(at(0)), 10, "what was called stays called");
        Ok(())
    }

    proptest! {
        /// Whoever asks, whenever: within any hour no more than the budget; and the moment that a refusal names is
        /// neither past nor farther than a window.
        #[test]
        fn no_hour_ever_has_more_calls_than_the_budget(
            count in 1_u32..120,
            steps in proptest::collection::vec((0_u64..120_000, 0_u8..3), 1..600),
        ) {
            let mut budget = Budget::new(Rate::new(count, HOUR).ok_or_else(|| TestCaseError::fail("rate"))?);
            let (mut now, mut calls) = (0, VecDeque::new());
            for (wait, right) in steps {
                now += wait;
                let right = [Right::Background, Right::Waiting, Right::SignIn][usize::from(right)];
                match budget.draw(right, at(now)) {
                    Ok(()) => calls.push_back(now),
                    Err(later) => {
                        prop_assert!(later > at(now));
                        prop_assert!(later.since(at(now)) <= HOUR * 40, "{:?}", later.since(at(now)));
                    }
                }
                while calls.front().is_some_and(|first| now - first >= 3_600_000) {
                    calls.pop_front();
                }
                prop_assert!(calls.len() <= count as usize, "{} of {count}", calls.len());
            }
        }

        /// The moment that a refusal names is the right one for who has the window to himself.
        #[test]
        fn a_refusal_names_the_moment_at_which_it_works(count in 1_u32..200, right in 0_u8..2) {
            let mut budget = Budget::new(Rate::new(count, HOUR).ok_or_else(|| TestCaseError::fail("rate"))?);
            let right = [Right::Waiting, Right::SignIn][usize::from(right)];
            let mut now = at(17);
            for _ in 0..3 * count {
                if let Err(later) = budget.draw(right, now) {
                    now = later;
                    prop_assert!(budget.draw(right, now).is_ok());
                }
            }
        }
    }
}
