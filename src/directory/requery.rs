//! Asks Bitbucket again: the loop that keeps accounts in use young, and one re-query from start to end.
//!
//! Owns: the order of things that may not be lost (a rotated refresh token is on disk before its access token
//! is used), and what each kind of failure does to an account.
//! Must not know: requests, sessions' cookies, rules.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::elsewhere::Turn;
use super::plan::queue::Step;
use super::plan::{Weather, retry_after};
use super::{Account, Cause, Changed, Condition, Directory, Known, Settings, Trouble, record};
use crate::bitbucket::{
    self, Bitbucket, HeldBack, Level, Permission, Refusal, Remedy, Right, Tokens, identity,
};
use crate::clock::Timestamp;
use crate::identity::{AccountId, TeamId, VerifiedIdentity};
use crate::membership::{Membership, Role, Team, TeamName};
use crate::secret::Secret;
use crate::store::{self, Grant, Pin, Version};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::{RefreshOutcome, RequeryOutcome};

/// How many accounts are asked about at once, at most.
const AT_ONCE: usize = 8;
/// An access token with less than this left is refreshed before it is used.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);

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

/// One re-query. What comes of it is in the account afterwards.
pub(super) async fn requery(directory: &Directory, account: &Account, settings: &Settings, right: Right) {
    let inner = &directory.0;
    let asking = Asking { directory, settings, bitbucket: settings.bitbucket.with_right(right) };
    let (asked, lease) = match directory.turn(account).await {
        Ok(Turn::Ours(lease)) => (directory.keeping(&lease, asking.ask(account)).await, Some(lease)),
        Ok(Turn::Theirs) => return inner.telemetry.metrics.requeries.inc(RequeryOutcome::DoneElsewhere),
        Err(error) => (Err(Setback::Store(error)), None),
    };
    let outcome = match asked {
        Ok(known) => {
            let written = match &lease {
                Some(lease) => inner.store.put_account_under(&record(&known), lease).await,
                None => inner.store.put_account(&record(&known)).await,
            };
            if let Err(error) = written {
                tracing::warn!(account.id = %account.id(), %error, "a fresh membership stays in memory only");
            }
            account.trouble.store(None);
            account.failures.store(0, Ordering::Relaxed);
            match directory.publish(account, Arc::new(known)) {
                Changed::Yes => RequeryOutcome::Changed,
                Changed::No => RequeryOutcome::Unchanged,
            }
        }
        Err(Setback::GrantGone(seen)) => {
            // What the store did not take is in the log, and owed to it; the sessions are over.
            let _ = directory.end_without_grant(account, seen, EndReason::GrantWithdrawn).await;
            RequeryOutcome::GrantGone
        }
        Err(Setback::FreshTokenRefused(seen)) => {
            if account.trouble().is_some_and(|trouble| trouble.cause == Cause::FreshTokenRefused) {
                let _ = directory.end_without_grant(account, seen, EndReason::GrantWithdrawn).await;
                RequeryOutcome::GrantGone
            } else {
                let now = inner.clock.now();
                hold_off(account, now, Duration::ZERO, Weather::Fair, Cause::FreshTokenRefused);
                RequeryOutcome::Unexpected
            }
        }
        Err(Setback::Deactivated) => {
            let _ = directory.end(account, EndReason::AccountDeactivated).await;
            RequeryOutcome::GrantGone
        }
        Err(Setback::GrantLost) => {
            account.set_condition(Condition::GrantLost);
            tracing::warn!(
                account.id = %account.id(),
                "a refresh token was lost between Bitbucket's answer and the disk; the person's next page goes \
                 through Bitbucket again"
            );
            RequeryOutcome::Unavailable
        }
        Err(Setback::Bitbucket(error)) => {
            let now = inner.clock.now();
            note_trouble(account, now, &error, right);
            inner.telemetry.warn_limited(error.label(), now, &error);
            match error.remedy() {
                _ if error.held().is_some_and(|held| held.why == HeldBack::Budget) => {
                    RequeryOutcome::NoBudget
                }
                Remedy::RetryAfter(_) => RequeryOutcome::Throttled,
                Remedy::Retry => RequeryOutcome::Unavailable,
                _ => RequeryOutcome::Unexpected,
            }
        }
        Err(Setback::Store(error)) => {
            let now = inner.clock.now();
            hold_off(account, now, Duration::ZERO, Weather::Fair, Cause::Unanswered);
            inner.telemetry.warn_limited("store", now, &error);
            RequeryOutcome::StoreFailed
        }
    };
    inner.telemetry.metrics.requeries.inc(outcome);
    if let Some(lease) = lease {
        directory.leave(&lease).await;
    }
}

/// There is no grant to ask with.
const NO_GRANT: Setback = Setback::GrantGone(Version::ABSENT);

/// Why a re-query brought nothing.
#[derive(Debug)]
enum Setback {
    /// The tokens of this version are refused, or there are none.
    GrantGone(Version),
    FreshTokenRefused(Version),
    GrantLost,
    Deactivated,
    Bitbucket(bitbucket::Error),
    Store(store::Error),
}

impl From<store::Error> for Setback {
    fn from(error: store::Error) -> Setback {
        Setback::Store(error)
    }
}

impl From<bitbucket::Error> for Setback {
    fn from(error: bitbucket::Error) -> Setback {
        if error.remedy() == Remedy::Refuse(Refusal::Inactive) {
            Setback::Deactivated
        } else {
            Setback::Bitbucket(error)
        }
    }
}

fn note_trouble(account: &Account, now: Timestamp, error: &bitbucket::Error, right: Right) {
    let weather = if error.is_transient() { Weather::Outage } else { Weather::Fair };
    let Some(held) = error.held() else {
        let asked = match error.remedy() {
            Remedy::RetryAfter(wait) => wait,
            _ => Duration::ZERO,
        };
        return hold_off(account, now, asked, weather, Cause::Unanswered);
    };
    // Nothing was asked, so nothing failed. That the background has no calls left says nothing about who waits.
    if held.why != HeldBack::Budget || right == Right::Waiting {
        let trouble = Trouble { not_before: now.plus(held.wait), weather, cause: Cause::Unanswered };
        account.trouble.store(Some(Arc::new(trouble)));
    }
}

fn hold_off(account: &Account, now: Timestamp, at_least: Duration, weather: Weather, cause: Cause) {
    let failures = account.failures.fetch_add(1, Ordering::Relaxed) + 1;
    let not_before = now.plus(retry_after(failures, weather).max(at_least));
    account.trouble.store(Some(Arc::new(Trouble { not_before, weather, cause })));
}

/// One account's question, with the right of whoever wants to know.
struct Asking<'a> {
    directory: &'a Directory,
    settings: &'a Settings,
    bitbucket: Bitbucket,
}

impl Asking<'_> {
    async fn ask(&self, account: &Account) -> Result<Known, Setback> {
        let inner = &self.directory.0;
        let now = inner.clock.now();
        let (mut grant, mut version) = inner.store.grant(account.id()).await?.ok_or(NO_GRANT)?;
        if now >= grant.expires_at.minus(TOKEN_MARGIN) {
            (grant, version) = self.refresh(account.id(), grant, version).await?;
        }
        match self.ask_with(account, (&grant.access_token, version), now).await {
            Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
                // An access token may die before its time; whether the grant did is for the refresh to say.
                let (grant, version) = self.refresh(account.id(), grant, version).await?;
                match self.ask_with(account, (&grant.access_token, version), now).await {
                    Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
                        Err(Setback::FreshTokenRefused(version))
                    }
                    answer => answer,
                }
            }
            answer => answer,
        }
    }

    async fn ask_with(
        &self,
        account: &Account,
        (token, version): (&Secret<String>, Version),
        now: Timestamp,
    ) -> Result<Known, Setback> {
        let known = account.known();
        let profile_due = now.since(known.profile_as_of) >= self.settings.ages.profile_after;
        let profile = async {
            if !profile_due {
                return Ok((known.identity.clone(), known.profile_as_of));
            }
            let identity = who(&self.bitbucket, token).await?;
            // A token that suddenly speaks for somebody else is no answer about this account.
            if identity.account() != account.id() {
                return Err(Setback::GrantGone(version));
            }
            Ok((identity, now))
        };
        let (profile, membership) = tokio::join!(profile, self.teams(token, now));
        let (identity, profile_as_of) = profile?;
        Ok(Known { identity, profile_as_of, membership: membership? })
    }

    async fn teams(&self, token: &Secret<String>, now: Timestamp) -> Result<Membership, Setback> {
        let membership = ask_teams(&self.bitbucket, self.settings, token, now).await?;
        Ok(self.directory.without_taken_slugs(self.settings, membership).await?)
    }
}

/// Who a token speaks for: profile and e-mail, asked at the same time.
pub(crate) async fn who(
    bitbucket: &Bitbucket,
    token: &Secret<String>,
) -> Result<VerifiedIdentity, bitbucket::Error> {
    let (profile, email) = tokio::join!(bitbucket.profile(token), bitbucket.primary_email(token));
    Ok(identity(profile?, email?))
}

impl Directory {
    /// The teams of the account that `token` speaks for, for a sign-in.
    ///
    /// # Errors
    ///
    /// When any of the answers is missing: a partial list is no list.
    pub async fn ask_teams(
        &self,
        settings: &Settings,
        token: &Secret<String>,
        now: Timestamp,
    ) -> Result<Membership, bitbucket::Error> {
        ask_teams(&settings.bitbucket, settings, token, now).await
    }
}

/// The teams of the account that `token` speaks for, confirmed where it matters, in the fewest calls: one
/// for each team of a given `teams`; without it the listing and one for each listed team that a rule names.
async fn ask_teams(
    bitbucket: &Bitbucket,
    settings: &Settings,
    token: &Secret<String>,
    now: Timestamp,
) -> Result<Membership, bitbucket::Error> {
    let teams = match &settings.teams {
        Some(listed) => confirm(bitbucket, token, listed).await?,
        None => {
            let mut teams: Vec<Team> = (bitbucket.workspaces(token).await?.into_iter())
                .map(|listed| Team {
                    slug: listed.slug,
                    id: listed.id,
                    role: if listed.administrator { Role::Administrator } else { Role::Member },
                    confirmed: false,
                })
                .collect();
            let named = settings.named.iter().filter(|name| teams.iter().any(|team| team.is_named(name)));
            let named: Vec<TeamName> = named.cloned().collect();
            let confirmed = confirm(bitbucket, token, &named).await?;
            for team in &mut teams {
                team.confirmed = confirmed.iter().any(|sure| sure.id == team.id);
            }
            // Asked, and not a member: a guest of a repository is listed too.
            teams.retain(|team| team.confirmed || !named.iter().any(|name| team.is_named(name)));
            teams
        }
    };
    Ok(Membership::new(now, teams))
}

/// Asks for each of `names` whether the account is a member, all at the same time.
///
/// A member whose answer does not say which workspace it is about is looked up in the listing: without a uuid
/// the slug could not be told from one that changed hands.
async fn confirm(
    bitbucket: &Bitbucket,
    token: &Secret<String>,
    names: &[TeamName],
) -> Result<Vec<Team>, bitbucket::Error> {
    // All are heard to the end: one that is held back must not cut off the one that was let through to try.
    let answers = join_all(names.iter().map(|name| bitbucket.permission(token, name))).await;
    let mut teams = Vec::new();
    let mut listing = None;
    for (name, answer) in names.iter().zip(answers.into_iter().collect::<Result<Vec<_>, _>>()?) {
        let Permission::Member { slug, id, level } = answer else { continue };
        let role = if level == Level::Owner { Role::Administrator } else { Role::Member };
        let (slug, id) = match (slug, id) {
            (Some(slug), Some(id)) => (slug, id),
            _ => {
                if listing.is_none() {
                    listing = Some(bitbucket.workspaces(token).await?);
                }
                let mut listed = listing.iter().flatten();
                match listed.find(|listed| is_listed_as(name, &listed.slug, listed.id)) {
                    Some(listed) => (listed.slug.clone(), listed.id),
                    None => continue,
                }
            }
        };
        teams.push(Team { slug, id, role, confirmed: true });
    }
    Ok(teams)
}

fn is_listed_as(name: &TeamName, slug: &str, id: TeamId) -> bool {
    match name {
        TeamName::Slug(named) => **named == *slug,
        TeamName::Id(named) => *named == id,
    }
}

impl Directory {
    /// Takes out every team whose slug is remembered with another uuid. A slug can be renamed, freed and taken
    /// by somebody else; the uuid of each configured slug is remembered at first sight.
    ///
    /// # Errors
    ///
    /// When the memory cannot be read or written.
    pub async fn without_taken_slugs(
        &self,
        settings: &Settings,
        membership: Membership,
    ) -> Result<Membership, store::Error> {
        let configured = settings.teams.iter().flatten().chain(&settings.named);
        let mut teams = membership.teams().to_vec();
        for name in configured {
            let TeamName::Slug(slug) = name else { continue };
            let Some(at) = teams.iter().position(|team| team.confirmed && team.slug == *slug) else {
                continue;
            };
            if let Pin::Different(pinned) = self.0.store.pin_if_new(slug, teams[at].id).await? {
                let taken = teams.swap_remove(at);
                let event = Event::SlugChanged { slug: slug.to_string(), pinned, found: taken.id };
                self.0.telemetry.audit.record(self.0.clock.now(), &event);
                self.0.telemetry.metrics.slug_changes_refused.inc();
            }
        }
        Ok(Membership::new(membership.as_of(), teams))
    }
}

impl Asking<'_> {
    /// Trades the refresh token for new tokens. They are on disk when this returns.
    ///
    /// Refresh tokens rotate without grace, so the order is fixed: that a refresh is under way is on record before
    /// it is sent, and the new token is on record before the new access token is used. A crash then loses a token
    /// only between Bitbucket's answer and that write, and the record tells a lost token from a withdrawn one.
    async fn refresh(
        &self,
        id: AccountId,
        grant: Grant,
        version: Version,
    ) -> Result<(Grant, Version), Setback> {
        let inner = &self.directory.0;
        let (mut grant, mut version) = (grant, version);
        loop {
            let Some(refresh_token) =
                grant.refresh_token.as_ref().map(|token| Secret::new(token.expose().clone()))
            else {
                return Err(Setback::GrantGone(version));
            };
            let interrupted_before = grant.refreshing_since.is_some();
            grant.refreshing_since = Some(inner.clock.now());
            version = match inner.store.put_grant(id, &grant, Some(version)).await {
                Ok(version) => version,
                Err(store::Error::Conflict) => {
                    // Somebody else, a new sign-in or another replica, brought newer tokens: use those.
                    inner.telemetry.metrics.token_refreshes.inc(RefreshOutcome::DoneElsewhere);
                    return inner.store.grant(id).await?.ok_or(NO_GRANT);
                }
                Err(error) => return Err(error.into()),
            };
            match self.bitbucket.refresh(&refresh_token).await {
                Ok(tokens) => {
                    let now = inner.clock.now();
                    let fresh = into_grant(tokens, now, grant.refresh_token);
                    inner.telemetry.metrics.token_refreshes.inc(RefreshOutcome::Ok);
                    loop {
                        match inner.store.put_grant(id, &fresh, Some(version)).await {
                            Ok(version) => return Ok((fresh, version)),
                            Err(store::Error::Conflict) => {}
                            Err(error) => return Err(error.into()),
                        }
                        let (current, there) = inner.store.grant(id).await?.ok_or(NO_GRANT)?;
                        let held = current.refresh_token.as_ref().map(Secret::expose);
                        if held != Some(refresh_token.expose()) {
                            return Ok((current, there));
                        }
                        // A replica that took this one for dead has noted that it tries the same token. It is spent:
                        // what came for it is all that there is.
                        version = there;
                    }
                }
                Err(error) if error.remedy() == Remedy::SignInAgain => {
                    let (current, current_version) = inner.store.grant(id).await?.ok_or(NO_GRANT)?;
                    if current_version != version {
                        (grant, version) = (current, current_version);
                        continue;
                    }
                    let lost = interrupted_before;
                    inner.telemetry.metrics.token_refreshes.inc(if lost {
                        RefreshOutcome::Lost
                    } else {
                        RefreshOutcome::Refused
                    });
                    return Err(if lost { Setback::GrantLost } else { Setback::GrantGone(version) });
                }
                Err(error) => {
                    inner.telemetry.metrics.token_refreshes.inc(RefreshOutcome::Unavailable);
                    if error.is_unsent() || matches!(error.remedy(), Remedy::RetryAfter(_)) {
                        // Not sent, or turned away at the door: nothing was rotated, the next refusal is a real one.
                        grant.refreshing_since = None;
                        inner.store.put_grant(id, &grant, Some(version)).await?;
                    }
                    return Err(Setback::Bitbucket(error));
                }
            }
        }
    }
}

/// What is kept of an answer of the token endpoint. Without a new refresh token (legacy clients) the old stays.
pub(crate) fn into_grant(tokens: Tokens, now: Timestamp, old_refresh_token: Option<Secret<String>>) -> Grant {
    Grant {
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token.or(old_refresh_token),
        expires_at: now.plus(tokens.expires_in),
        scopes: tokens.scopes,
        obtained_at: now,
        refreshing_since: None,
    }
}
