//! Keeps young what is in use.
//!
//! Owns: the loop, and what it does next by the plan. Must not know: how one asks, what an answer means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::plan::queue::Step;
use super::{Account, Directory, Settings};
use crate::bitbucket::Right;
use crate::clock::Timestamp;
use crate::identity::AccountId;

/// How many accounts are asked about at once, at most.
const AT_ONCE: usize = 8;

/// Keeps the memberships of accounts in use young, until the task is dropped. `settings` is asked at every
/// round, so that a reload takes effect.
///
/// It sleeps until the plan says that somebody is due, or somebody new comes into use.
pub async fn keep_young(directory: Directory, settings: impl Fn() -> Arc<Settings>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let settings = settings();
        let now = directory.0.clock.now();
        match directory.next(&settings, now) {
            Next::Ask(account) => {
                let mut done = directory.requery(&account, &settings, Right::Background);
                let directory = directory.clone();
                directory.0.runtime.clone().spawn(async move {
                    let _ = done.wait_for(|done| *done).await;
                    directory.asked(&account, &settings);
                    drop(permit);
                });
            }
            Next::Wait(until) => {
                drop(permit);
                let sleep = tokio::time::sleep(until.since(now));
                tokio::select! {
                    () = sleep => {}
                    () = directory.0.queued.notified() => {}
                }
            }
        }
    }
}

/// What the background does next.
pub enum Next {
    /// It asks about this account; [`Directory::asked`] says that it has.
    Ask(Arc<Account>),
    /// Nothing, before this moment or before somebody comes into use.
    Wait(Timestamp),
}

impl Directory {
    /// What the background does next, by the plan.
    pub fn next(&self, settings: &Settings, now: Timestamp) -> Next {
        let supply = self.0.traffic.supply(settings.endpoints(), now);
        let mut queue = self.queue();
        loop {
            let account = |id: &AccountId| self.0.accounts.get(id);
            let step = queue.step(|id| account(id)?.look(), &settings.ages, supply, now);
            match step {
                Step::Ask(id) => {
                    if let Some(account) = account(&id) {
                        return Next::Ask(account);
                    }
                }
                Step::Drop(id) => {
                    if let Some(account) = account(&id) {
                        account.queued.store(false, Ordering::Release);
                    }
                }
                Step::WakeAt(then) => {
                    self.warn_of_stretch(queue.stretch(), settings, now);
                    return Next::Wait(then);
                }
            }
        }
    }

    /// Says that the background has asked about an account, with whatever success.
    pub fn asked(&self, account: &Account, settings: &Settings) {
        let calls = self.0.traffic.take_background_calls();
        if calls > 0 {
            self.queue().took(calls);
        }
        match account.look() {
            Some(look) => self.queue().enter(account.id(), look, &settings.ages, self.0.clock.now()),
            None => account.queued.store(false, Ordering::Release),
        }
        self.0.queued.notify_one();
    }

    fn warn_of_stretch(&self, stretch: f64, settings: &Settings, now: Timestamp) {
        // Within a fifth nobody needs to act.
        if stretch >= 1.2 {
            let interval = settings.ages.refresh_after.mul_f64(stretch);
            self.0.telemetry.warn_limited("budget", now, &Stretched(interval));
        }
    }
}

/// The warning that the budget does not reach.
#[derive(Debug, thiserror::Error)]
#[error(
    "directory.budget does not reach: memberships are asked for again every {} s instead of directory.refresh_after; \
     raise the budget if Bitbucket allows more, or refresh_after", .0.as_secs()
)]
struct Stretched(Duration);
