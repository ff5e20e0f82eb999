//! One re-query, from its turn among replicas to the swap.
//!
//! Owns: what is asked, and what each kind of answer does to an account.
//! Must not know: requests, sessions' cookies, rules.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::plan::{Weather, retry_after};
use super::refresh::is_due;
use super::{
    Account, Cause, Changed, Condition, Directory, Known, PATIENCE, Settings, Told, Trouble, record,
};
use crate::bitbucket::{
    self, Bitbucket, Class, HeldBack, Level, Permission, Refusal, Remedy, Right, identity,
};
use crate::clock::Timestamp;
use crate::identity::{AccountId, TeamId, VerifiedIdentity};
use crate::membership::{Membership, Role, Team, TeamName};
use crate::secret::Secret;
use crate::store::lease::{Claim, Lease, Task};
use crate::store::{self, Version};
use crate::telemetry::audit::EndReason;
use crate::telemetry::labels::RequeryOutcome;
use futures_util::future::join_all;

/// For how long one replica has a question to itself: longer than any takes.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// How often it is looked whether another replica has its answer.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One re-query. What comes of it is in the account afterwards.
pub(super) async fn requery(directory: &Directory, account: &Account, settings: &Settings, right: Right) {
    let inner = &directory.0;
    let asking = Asking::new(directory, settings, right);
    let outcome = match asking.ask_in_turn(account, right).await {
        Ok(Answered::Here(known, lease)) => {
            if let Err(error) = inner.store.put_account_under(&record(&known), &lease).await {
                tracing::warn!(account.id = %account.id(), %error, "a fresh membership stays in memory only");
            }
            // One that is not released runs out.
            let _ = inner.store.release_lease(&lease).await;
            account.trouble.store(None);
            account.failures.store(0, Ordering::Relaxed);
            let outside = !settings.admits(&known.membership);
            match directory.publish(account, Arc::new(known), Told::Here) {
                _ if outside => RequeryOutcome::Denied,
                Changed::Yes => RequeryOutcome::Changed,
                Changed::No => RequeryOutcome::Unchanged,
            }
        }
        Ok(Answered::Elsewhere(known)) => {
            account.trouble.store(None);
            account.failures.store(0, Ordering::Relaxed);
            directory.note_names(settings, &known.membership);
            directory.publish(account, Arc::new(known), Told::Elsewhere);
            RequeryOutcome::Elsewhere
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
            match (error.class(), error.remedy()) {
                (Class::NoBudget, _) => RequeryOutcome::NoBudget,
                (Class::Transient, Remedy::RetryAfter(_)) => RequeryOutcome::Throttled,
                (Class::Transient, _) => RequeryOutcome::Unavailable,
                (Class::Misconfigured, _) => RequeryOutcome::Misconfigured,
                (Class::Removed, _) => RequeryOutcome::Removed,
                (Class::Gone | Class::Refused | Class::Unexpected, _) => RequeryOutcome::Unexpected,
            }
        }
        Err(Setback::NotOurTurn) => RequeryOutcome::Unavailable,
        Err(Setback::Store(error)) => {
            let now = inner.clock.now();
            hold_off(account, now, Duration::ZERO, Weather::Fair, Cause::Unanswered);
            inner.telemetry.warn_limited("store", now, &error);
            RequeryOutcome::StoreFailed
        }
    };
    inner.telemetry.metrics.requeries.inc(outcome);
}

/// There is no grant to ask with.
pub(super) const NO_GRANT: Setback = Setback::GrantGone(Version::ABSENT);

/// Why a re-query brought nothing.
#[derive(Debug)]
pub(super) enum Setback {
    /// The tokens of this version are refused, or there are none.
    GrantGone(Version),
    FreshTokenRefused(Version),
    GrantLost,
    Deactivated,
    /// Another replica asks, and has nothing written down in time.
    NotOurTurn,
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
    let cause = match error.class() {
        Class::Misconfigured => Cause::Misconfigured,
        Class::Removed => Cause::Removed,
        Class::NoBudget => Cause::NoBudget,
        Class::Gone | Class::Refused | Class::Unexpected => Cause::Unusable,
        Class::Transient => Cause::Unanswered,
    };
    let Some(held) = error.held() else {
        let asked = match error.remedy() {
            Remedy::RetryAfter(wait) => wait,
            _ => Duration::ZERO,
        };
        return hold_off(account, now, asked, weather, cause);
    };
    // Nothing was asked, so nothing failed. That the background has no calls left says nothing about who waits.
    if held.why != HeldBack::Budget || right == Right::Waiting {
        let trouble = Trouble { not_before: now.plus(held.wait), weather, cause };
        account.trouble.store(Some(Arc::new(trouble)));
    }
}

fn hold_off(account: &Account, now: Timestamp, at_least: Duration, weather: Weather, cause: Cause) {
    let failures = account.failures.fetch_add(1, Ordering::Relaxed) + 1;
    let not_before = now.plus(retry_after(failures, weather).max(at_least));
    account.trouble.store(Some(Arc::new(Trouble { not_before, weather, cause })));
}

/// One account's question, with the right of whoever wants to know.
pub(super) struct Asking<'a> {
    pub(super) directory: &'a Directory,
    pub(super) settings: &'a Settings,
    pub(super) bitbucket: Bitbucket,
}

/// Who has the answer.
enum Answered {
    /// We asked, and write it down under this lease.
    Here(Known, Lease),
    /// Another replica asked and has written it down.
    Elsewhere(Known),
}

impl<'a> Asking<'a> {
    pub(super) fn new(directory: &'a Directory, settings: &'a Settings, right: Right) -> Asking<'a> {
        Asking { directory, settings, bitbucket: settings.bitbucket.with_right(right) }
    }
}

impl Asking<'_> {
    /// Of several replicas that want to know one asks, and the others take what it wrote down.
    async fn ask_in_turn(&self, account: &Account, right: Right) -> Result<Answered, Setback> {
        let inner = &self.directory.0;
        let now = inner.clock.now();
        let lease = match inner.store.take_lease(Task::Requery(account.id()), now, LEASE).await? {
            Claim::Taken(lease) => lease,
            Claim::Held { .. } => return self.others_answer(account).await.map(Answered::Elsewhere),
        };
        let answered = async {
            if right == Right::Background
                && let Some(known) = self.written_down(account).await?
                && now.since(known.membership.as_of()) < self.settings.ages.refresh_after * 3 / 4
            {
                return Ok(Answered::Elsewhere(known));
            }
            self.ask(account).await.map(|known| Answered::Here(known, lease))
        }
        .await;
        if !matches!(answered, Ok(Answered::Here(..))) {
            // One that is not released runs out.
            let _ = inner.store.release_lease(&lease).await;
        }
        answered
    }

    /// What the store knows, if that is younger than what memory does.
    async fn written_down(&self, account: &Account) -> Result<Option<Known>, Setback> {
        let known = account.known();
        let record = self.directory.0.store.account(account.id()).await?;
        Ok(record.filter(|record| record.membership.as_of() > known.membership.as_of()).map(|record| Known {
            identity: record.identity,
            profile_as_of: record.profile_as_of,
            membership: record.membership,
        }))
    }

    /// Waits for the answer that another has asked for.
    async fn others_answer(&self, account: &Account) -> Result<Known, Setback> {
        let before = account.known().membership.as_of();
        let written_down = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                // News of it may have been faster.
                let known = account.known();
                if known.membership.as_of() > before {
                    return Ok(Known {
                        identity: known.identity.clone(),
                        profile_as_of: known.profile_as_of,
                        membership: known.membership.clone(),
                    });
                }
                if let Some(known) = self.written_down(account).await? {
                    return Ok(known);
                }
            }
        };
        tokio::time::timeout(PATIENCE, written_down).await.unwrap_or(Err(Setback::NotOurTurn))
    }

    async fn ask(&self, account: &Account) -> Result<Known, Setback> {
        let inner = &self.directory.0;
        let now = inner.clock.now();
        let (mut grant, mut version) = inner.store.grant(account.id()).await?.ok_or(NO_GRANT)?;
        if is_due(&grant, account.id(), now) {
            (grant, version) = self.refresh(account.id(), grant, version).await?;
        }
        match self.ask_with(account, (&grant.access_token, version), now).await {
            Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
                // An access token may die before its time; whether the grant did is for the refresh to say.
                let (grant, version) = self.refresh(account.id(), grant, version).await?;
                match self.ask_with(account, (&grant.access_token, version), now).await {
                    Err(Setback::Bitbucket(error)) if error.is_unauthorized() && error.is_worded() => {
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
        let repositories = self.about_met(account, token, now);
        let (profile, membership, repositories) =
            tokio::join!(profile, self.teams(account.id(), &known.membership, token, now), repositories);
        let (identity, profile_as_of) = profile?;
        let membership = membership?.with_repositories(repositories?);
        Ok(Known { identity, profile_as_of, membership })
    }

    async fn teams(
        &self,
        account: AccountId,
        earlier: &Membership,
        token: &Secret<String>,
        now: Timestamp,
    ) -> Result<Membership, Setback> {
        let membership = ask_teams(&self.bitbucket, self.settings, Some(earlier), token, now).await?;
        Ok(self.directory.without_taken_slugs(self.settings, account, membership).await?)
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
        ask_teams(&settings.bitbucket, settings, None, token, now).await
    }
}

/// The teams of the account that `token` speaks for, confirmed where it matters, in the fewest calls: one
/// for each team of a given `teams`; without it the listing and one for each listed team that a rule names.
///
/// Being listed is no proof of membership, but who is not listed is no member: where an `earlier` answer has few of many
/// `teams`, the listing and one call for each of those few is less.
async fn ask_teams(
    bitbucket: &Bitbucket,
    settings: &Settings,
    earlier: Option<&Membership>,
    token: &Secret<String>,
    now: Timestamp,
) -> Result<Membership, bitbucket::Error> {
    let teams = match &settings.teams {
        Some(wanted) if earlier.is_some_and(|earlier| earlier.teams().len() + 1 < wanted.len()) => {
            let listed = bitbucket.workspaces(token).await?;
            let is_listed =
                |name: &&TeamName| listed.iter().any(|listed| is_listed_as(name, &listed.slug, listed.id));
            let possible: Vec<TeamName> = wanted.iter().filter(is_listed).cloned().collect();
            confirm(bitbucket, token, &possible).await?
        }
        Some(wanted) => confirm(bitbucket, token, wanted).await?,
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
