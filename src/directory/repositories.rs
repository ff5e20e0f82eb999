//! What accounts may do with repositories: asked only where a rule hangs on it, and kept only while it does.
//!
//! Owns: which repositories an account has met, the question about those nobody has asked about yet, and what keeps
//! it from being asked.
//! Must not know: rules, requests.
//!
//! An answer is part of the membership and never older than it: a re-query asks again about what was met within
//! [`super::Ages::max_age`] and forgets the rest. A trouble with this question is its own and holds up no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;

use super::plan::{Weather, retry_after};
use super::refresh::is_due;
use super::requery::{Asking, LEASE, LOOK_EVERY, NO_GRANT, Setback};
use super::{
    Account, Answer, Cause, Condition, Directory, Known, PATIENCE, Settings, Told, Trouble, What, record,
};
use crate::bitbucket::{self, Class, Remedy, Right};
use crate::clock::Timestamp;
use crate::identity::TeamId;
use crate::membership::Membership;
use crate::membership::repository::{Repository, RepositoryName};
use crate::secret::Secret;
use crate::store::lease::{Claim, Lease, Task};
use crate::store::{self, Pin};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::RequeryOutcome;

/// How many repositories are asked about in one call: their names must fit into a URL.
const IN_ONE_CALL: usize = 20;

/// What one account has met.
pub(super) struct Repositories {
    met: ArcSwap<Vec<Arc<Met>>>,
    trouble: ArcSwapOption<Trouble>,
    failures: AtomicU32,
}

struct Met {
    name: RepositoryName,
    /// Milliseconds; moved at most once a second.
    at: AtomicU64,
}

impl Repositories {
    /// Those that `membership` knows about count as met now.
    pub(super) fn of(membership: &Membership, now: Timestamp) -> Repositories {
        let met = membership.repositories().iter().map(|known| Met::new(&known.name, now)).collect();
        Repositories {
            met: ArcSwap::from_pointee(met),
            trouble: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
        }
    }

    /// Nothing stands in the way of asking any more.
    pub(super) fn forgive(&self) {
        self.trouble.store(None);
        self.failures.store(0, Ordering::Relaxed);
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.load().as_deref().copied()
    }

    fn is_held_off(&self, now: Timestamp) -> bool {
        self.trouble().is_some_and(|trouble| now < trouble.not_before)
    }

    fn hold_off(&self, now: Timestamp, at_least: Duration, cause: Cause) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let weather = if cause == Cause::Unanswered { Weather::Outage } else { Weather::Fair };
        // Whoever ticks the scope at Bitbucket and signs in again is believed at once: that is forgiven then.
        let wait = retry_after(failures, weather).max(at_least);
        self.trouble.store(Some(Arc::new(Trouble { not_before: now.plus(wait), weather, cause })));
    }

    fn note(&self, now: Timestamp, error: &bitbucket::Error) {
        let at_least = match (error.held(), error.remedy()) {
            (Some(held), _) => held.wait,
            (None, Remedy::RetryAfter(wait)) => wait,
            (None, _) => Duration::ZERO,
        };
        let cause = match error.class() {
            Class::Misconfigured if error.lacks_scope() => Cause::RepositoryScope,
            Class::Misconfigured => Cause::Misconfigured,
            Class::Removed => Cause::Removed,
            Class::NoBudget => Cause::NoBudget,
            Class::Gone | Class::Refused | Class::Unexpected => Cause::Unusable,
            Class::Transient => Cause::Unanswered,
        };
        self.hold_off(now, at_least, cause);
    }

    /// Notes that a rule which names them was met, for those of `names` that are asked about.
    fn touch<'a>(&self, names: impl Iterator<Item = &'a RepositoryName>, now: Timestamp) {
        let met = self.met.load();
        for name in names {
            if let Some(met) = met.iter().find(|met| met.name == *name)
                && now.unix_millis().saturating_sub(met.at.load(Ordering::Relaxed)) >= 1_000
            {
                met.at.store(now.unix_millis(), Ordering::Relaxed);
            }
        }
    }

    /// Asks for `names` from now on.
    fn want(&self, names: &[RepositoryName], now: Timestamp) {
        self.touch(names.iter(), now);
        self.met.rcu(|met| {
            let new = names.iter().filter(|name| met.iter().all(|known| known.name != **name));
            let new: Vec<Arc<Met>> = new.map(|name| Met::new(name, now)).collect();
            if new.is_empty() { met.clone() } else { Arc::new([&met[..], &new].concat()) }
        });
    }

    /// Those that were met lately. The others are forgotten.
    fn in_use(&self, now: Timestamp, longest: Duration) -> Vec<RepositoryName> {
        let used =
            |met: &Met| now.since(Timestamp::from_unix_millis(met.at.load(Ordering::Relaxed))) < longest;
        if !self.met.load().iter().all(|met| used(met)) {
            self.met.rcu(|met| met.iter().filter(|met| used(met)).cloned().collect::<Vec<_>>());
        }
        self.met.load().iter().map(|met| met.name.clone()).collect()
    }
}

impl Met {
    fn new(name: &RepositoryName, now: Timestamp) -> Arc<Met> {
        Arc::new(Met { name: name.clone(), at: AtomicU64::new(now.unix_millis()) })
    }
}

impl Account {
    /// Notes that a rule which names these repositories was met: what is known of them is kept young. Nothing new is
    /// asked about.
    pub fn meets<'a>(&self, names: impl Iterator<Item = &'a RepositoryName>, now: Timestamp) {
        self.repositories.touch(names, now);
    }
}

impl Directory {
    /// Waits until it is known what the account may do with `names`: joins the one question about this account, at
    /// most 5 s.
    pub async fn answer_repositories(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        names: &[RepositoryName],
        now: Timestamp,
    ) -> Answer {
        account.repositories.want(names, now);
        let asking = async {
            // A question that was under way may have been about something else; the one after it is not.
            for _ in 0..2 {
                if !self.may_ask_repositories(account, now) {
                    break;
                }
                let mut done = self.start(account, settings, Right::Waiting, What::Repositories);
                let _ = done.wait_for(|done| *done).await;
                if account.condition() == Condition::Ended {
                    break;
                }
                let known = account.known();
                if names.iter().all(|name| known.membership.repository(name).is_some()) {
                    return Some(known);
                }
            }
            None
        };
        if let Ok(Some(known)) = tokio::time::timeout(PATIENCE, asking).await {
            return Answer::Known(known);
        }
        if account.condition() == Condition::Ended {
            return Answer::Ended;
        }
        let now = self.0.clock.now().max(now);
        let trouble = account.repositories.trouble();
        Answer::CannotTell {
            last_answer: account.known().membership.as_of(),
            retry_after: trouble
                .map_or(Duration::from_secs(5), |trouble| trouble.not_before.since(now))
                .clamp(Duration::from_secs(1), Duration::from_secs(60)),
            cause: trouble.map_or(Cause::Unanswered, |trouble| trouble.cause),
        }
    }

    /// Asks about `names` for somebody who watches and does not wait.
    pub fn watch_repositories(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        names: &[RepositoryName],
        now: Timestamp,
    ) {
        account.repositories.want(names, now);
        if self.may_ask_repositories(account, now) {
            self.start(account, settings, Right::Waiting, What::Repositories);
        }
    }

    fn may_ask_repositories(&self, account: &Account, now: Timestamp) -> bool {
        !account.repositories.is_held_off(now) && account.condition() != Condition::GrantLost
    }
}

/// Asks about what was met and is not known. What comes of it is in the account afterwards.
pub(super) async fn ask_new(directory: &Directory, account: &Account, settings: &Settings, right: Right) {
    let inner = &directory.0;
    let asking = Asking::new(directory, settings, right);
    let taken = tokio::time::timeout(PATIENCE, asking.take_turn(account)).await;
    let answered = match taken {
        Ok(Ok(lease)) => {
            let answered = asking.about_new(account).await;
            if let Ok(Some(known)) = &answered
                && let Err(error) = inner.store.put_account_under(&record(known), &lease).await
            {
                tracing::warn!(account.id = %account.id(), %error, "a fresh answer stays in memory only");
            }
            // One that is not released runs out.
            let _ = inner.store.release_lease(&lease).await;
            answered
        }
        Ok(Err(setback)) => Err(setback),
        Err(_) => Err(Setback::NotOurTurn),
    };
    let now = inner.clock.now();
    let own = &account.repositories;
    let outcome = match answered {
        Ok(_) => {
            own.forgive();
            RequeryOutcome::Unchanged
        }
        Err(Setback::Bitbucket(error)) => {
            own.note(now, &error);
            inner.telemetry.warn_limited(error.label(), now, &error);
            match (error.class(), error.remedy()) {
                (Class::NoBudget, _) => RequeryOutcome::NoBudget,
                (Class::Transient, Remedy::RetryAfter(_)) => RequeryOutcome::Throttled,
                (Class::Transient, _) => RequeryOutcome::Unavailable,
                (Class::Misconfigured, _) => RequeryOutcome::Misconfigured,
                (Class::Removed, _) => RequeryOutcome::Removed,
                (Class::Gone | Class::Refused | Class::Unexpected, _) => RequeryOutcome::Unexpected,
            }
        }
        Err(Setback::Store(error)) => {
            own.hold_off(now, Duration::ZERO, Cause::Unanswered);
            inner.telemetry.warn_limited("store", now, &error);
            RequeryOutcome::StoreFailed
        }
        Err(Setback::NotOurTurn) => RequeryOutcome::Unavailable,
        Err(Setback::GrantGone(seen)) => {
            // What the store did not take is in the log, and owed to it; the sessions are over.
            let _ = directory.end_without_grant(account, seen, EndReason::GrantWithdrawn).await;
            RequeryOutcome::GrantGone
        }
        Err(Setback::GrantLost) => {
            account.set_condition(Condition::GrantLost);
            RequeryOutcome::Unavailable
        }
        // What that means for the account is for the question about its teams to find out.
        Err(Setback::FreshTokenRefused(_) | Setback::Deactivated) => {
            own.hold_off(now, Duration::ZERO, Cause::Unusable);
            RequeryOutcome::Unexpected
        }
    };
    inner.telemetry.metrics.requeries.inc(outcome);
}

impl Asking<'_> {
    /// The turn among replicas, once whoever has it is done. Wants a limit.
    async fn take_turn(&self, account: &Account) -> Result<Lease, Setback> {
        let inner = &self.directory.0;
        loop {
            match inner.store.take_lease(Task::Requery(account.id()), inner.clock.now(), LEASE).await? {
                Claim::Taken(lease) => return Ok(lease),
                Claim::Held { .. } => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Asks about what was met and is not known, and adds it to what is known; `None` if there was nothing to add.
    async fn about_new(&self, account: &Account) -> Result<Option<Known>, Setback> {
        let inner = &self.directory.0;
        let asked_at = inner.clock.now();
        let known = account.known();
        let mut names = account.repositories.in_use(asked_at, self.settings.ages.max_age);
        names.retain(|name| known.membership.repository(name).is_none());
        if names.is_empty() {
            return Ok(None);
        }
        let (mut grant, mut version) = inner.store.grant(account.id()).await?.ok_or(NO_GRANT)?;
        if is_due(&grant, account.id(), asked_at) {
            (grant, version) = self.refresh(account.id(), grant, version).await?;
        }
        let answered = match self.repositories(&grant.access_token, &names).await {
            Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
                // An access token may die before its time; whether the grant did is for the refresh to say.
                let (grant, version) = self.refresh(account.id(), grant, version).await?;
                match self.repositories(&grant.access_token, &names).await {
                    Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
                        return Err(Setback::FreshTokenRefused(version));
                    }
                    answered => answered?,
                }
            }
            answered => answered?,
        };
        let known = account.known();
        if asked_at < known.membership.as_of() {
            // A sign-in has brought a younger membership, than which no answer in it may be older.
            return Ok(None);
        }
        let membership = known.membership.clone().with_repositories(answered);
        let new = || Known {
            identity: known.identity.clone(),
            profile_as_of: known.profile_as_of,
            membership: membership.clone(),
        };
        self.directory.publish(account, Arc::new(new()), Told::Here);
        // A decision that could not be had before can be had now.
        self.directory.stir();
        Ok(Some(new()))
    }

    /// What is met and was met lately, asked about again. What cannot be had now is left out, and so unknown, where the
    /// teams need not wait for it.
    pub(super) async fn about_met(
        &self,
        account: &Account,
        token: &Secret<String>,
        now: Timestamp,
    ) -> Result<Vec<Repository>, Setback> {
        let own = &account.repositories;
        let ages = &self.settings.ages;
        let names = own.in_use(now, ages.max_age);
        if names.is_empty() || own.is_held_off(now) {
            return Ok(Vec::new());
        }
        match self.repositories(token, &names).await {
            Ok(answered) => {
                own.forgive();
                Ok(answered)
            }
            Err(Setback::Bitbucket(error)) => {
                let passes = matches!(error.class(), Class::Transient | Class::NoBudget | Class::Gone);
                // As long as the teams are young enough to do without an answer, a partial one is none.
                if passes && now.since(account.known().membership.as_of()) < ages.max_age / 2 {
                    return Err(Setback::Bitbucket(error));
                }
                own.note(now, &error);
                self.directory.0.telemetry.warn_limited(error.label(), now, &error);
                Ok(Vec::new())
            }
            Err(setback) => Err(setback),
        }
    }

    /// The answers about `names`: one call for each team and each [`IN_ONE_CALL`] repositories of it.
    async fn repositories(
        &self,
        token: &Secret<String>,
        names: &[RepositoryName],
    ) -> Result<Vec<Repository>, Setback> {
        let mut sorted: Vec<&RepositoryName> = names.iter().collect();
        sorted.sort();
        let calls = sorted.chunk_by(|a, b| a.team == b.team).flat_map(|team| team.chunks(IN_ONE_CALL));
        let asked = calls.map(|names| self.bitbucket.repositories(token, &names[0].team, names));
        // All are heard to the end: one that is held back must not cut off the one that was let through to try.
        let answers = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut answered = Vec::new();
        for name in sorted {
            let mut access = None;
            if let Some(found) = answers.iter().flatten().find(|found| found.name == *name) {
                access = found.access;
                if access.is_some() && self.is_another(name, found.id).await? {
                    access = None;
                }
            }
            answered.push(Repository { name: name.clone(), access });
        }
        Ok(answered)
    }

    /// Whether the name is remembered with another uuid: a team's slug can be freed and taken by somebody else, who
    /// then has repositories of the same names. The uuid of each is remembered at first sight.
    async fn is_another(&self, name: &RepositoryName, id: TeamId) -> Result<bool, store::Error> {
        let inner = &self.directory.0;
        let slug = name.to_string();
        let Pin::Different(pinned) = inner.store.pin_if_new(&slug, id).await? else { return Ok(false) };
        inner.telemetry.audit.record(inner.clock.now(), &Event::SlugChanged { slug, pinned, found: id });
        inner.telemetry.metrics.slug_changes_refused.inc();
        Ok(true)
    }
}
