//! Asks Bitbucket again: the loop that keeps accounts in use young, and one re-query from start to end.
//!
//! Owns: the order of things that may not be lost (a rotated refresh token is on disk before its access token
//! is used), and what each kind of failure does to an account.
//! Must not know: requests, sessions' cookies, rules.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

use super::plan::{Standing, Weather, due, retry_after};
use super::{Account, Cause, Changed, Condition, Directory, Known, Settings, Trouble, record};
use crate::bitbucket::{self, Bitbucket, Level, Permission, Refusal, Remedy, Tokens, identity};
use crate::clock::Timestamp;
use crate::identity::{AccountId, TeamId, VerifiedIdentity};
use crate::membership::{Membership, Role, Team, TeamName};
use crate::secret::Secret;
use crate::store::{self, Grant, Pin, Version};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::{RefreshOutcome, RequeryOutcome};

/// How often the loop looks who is due.
const TICK: Duration = Duration::from_secs(1);
/// How many accounts are asked about at once, at most.
const AT_ONCE: usize = 8;
/// An access token with less than this left is refreshed before it is used.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);

/// Keeps the memberships of accounts in use young, until the task is dropped. `settings` is asked at every
/// round, so that a reload takes effect.
pub async fn keep_young(directory: Directory, settings: impl Fn() -> Arc<Settings>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let settings = settings();
        let now = directory.0.clock.now();
        let standings = directory.accounts().filter(|account| account.condition() == Condition::Good);
        let standings = standings.map(|account| Standing {
            as_of: account.known.load().membership.as_of(),
            used_at: Timestamp::from_unix_millis(account.used_at.load(Ordering::Relaxed)),
            not_before: account
                .trouble()
                .map_or(Timestamp::from_unix_millis(0), |trouble| trouble.not_before),
            spread: account.id.to_bytes()[15],
            key: account.id,
        });
        for id in due(standings, &settings.ages, now, room.available_permits()) {
            let Some(account) = directory.0.accounts.get(&id) else { continue };
            let Ok(permit) = room.clone().try_acquire_owned() else { break };
            let mut done = directory.requery(&account, &settings);
            directory.0.runtime.spawn(async move {
                let _ = done.wait_for(|done| *done).await;
                drop(permit);
            });
        }
    }
}

/// One re-query. What comes of it is in the account afterwards.
pub(super) async fn requery(directory: &Directory, account: &Account, settings: &Settings) {
    let inner = &directory.0;
    let outcome = match ask(directory, account, settings).await {
        Ok(known) => {
            if let Err(error) = inner.store.put_account(&record(&known)).await {
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
        Err(Setback::Closed) => {
            // Spread over the half minute after, or everybody would knock at the same moment.
            let spread = Duration::from_millis(u64::from(account.id().to_bytes()[14]) * 117);
            let (now, opens_at) = (inner.clock.now(), directory.closed_until().plus(spread));
            hold_off(account, now, opens_at.since(now), Weather::Outage, Cause::Unanswered);
            RequeryOutcome::Throttled
        }
        Err(Setback::Bitbucket(error)) => {
            let now = inner.clock.now();
            if let Remedy::RetryAfter(wait) = error.remedy() {
                inner.closed_until.fetch_max(now.plus(wait).unix_millis(), Ordering::AcqRel);
            }
            note_trouble(account, now, &error);
            inner.telemetry.warn_limited(error.label(), inner.clock.now(), &error);
            match error.remedy() {
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
}

/// There is no grant to ask with.
const NO_GRANT: Setback = Setback::GrantGone(Version::ABSENT);

/// Why a re-query brought nothing.
#[derive(Debug)]
enum Setback {
    /// Bitbucket wants to be left alone; nothing was sent.
    Closed,
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

fn note_trouble(account: &Account, now: Timestamp, error: &bitbucket::Error) {
    let asked = match error.remedy() {
        Remedy::RetryAfter(wait) => wait,
        _ => Duration::ZERO,
    };
    let weather = if error.is_transient() { Weather::Outage } else { Weather::Fair };
    hold_off(account, now, asked, weather, Cause::Unanswered);
}

fn hold_off(account: &Account, now: Timestamp, at_least: Duration, weather: Weather, cause: Cause) {
    let failures = account.failures.fetch_add(1, Ordering::Relaxed) + 1;
    let not_before = now.plus(retry_after(failures).max(at_least));
    account.trouble.store(Some(Arc::new(Trouble { not_before, weather, cause })));
}

async fn ask(directory: &Directory, account: &Account, settings: &Settings) -> Result<Known, Setback> {
    let inner = &directory.0;
    let now = inner.clock.now();
    if now < directory.closed_until() {
        return Err(Setback::Closed);
    }
    let (mut grant, mut version) = inner.store.grant(account.id()).await?.ok_or(NO_GRANT)?;
    if now >= grant.expires_at.minus(TOKEN_MARGIN) {
        (grant, version) = refresh(directory, account.id(), settings, grant, version).await?;
    }
    match ask_with(directory, account, settings, (&grant.access_token, version), now).await {
        Err(Setback::Bitbucket(error)) if error.is_unauthorized() => {
            // An access token may die before its time; whether the grant did is for the refresh to say.
            let (grant, version) = refresh(directory, account.id(), settings, grant, version).await?;
            match ask_with(directory, account, settings, (&grant.access_token, version), now).await {
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
    directory: &Directory,
    account: &Account,
    settings: &Settings,
    (token, version): (&Secret<String>, Version),
    now: Timestamp,
) -> Result<Known, Setback> {
    let known = account.known();
    let profile_due = now.since(known.profile_as_of) >= settings.ages.profile_after;
    let profile = async {
        if !profile_due {
            return Ok((known.identity.clone(), known.profile_as_of));
        }
        let identity = who(&settings.bitbucket, token).await?;
        // A token that suddenly speaks for somebody else is no answer about this account.
        if identity.account() != account.id() {
            return Err(Setback::GrantGone(version));
        }
        Ok((identity, now))
    };
    let (profile, membership) = tokio::join!(profile, teams(directory, settings, token, now));
    let (identity, profile_as_of) = profile?;
    Ok(Known { identity, profile_as_of, membership: membership? })
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
    /// The teams of the account that `token` speaks for, confirmed where it matters, in the fewest calls: one
    /// for each team of a given `teams`; without it the listing and one for each listed team that a rule names.
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
        let teams = match &settings.teams {
            Some(listed) => confirm(&settings.bitbucket, token, listed).await?,
            None => {
                let mut teams: Vec<Team> = (settings.bitbucket.workspaces(token).await?.into_iter())
                    .map(|listed| Team {
                        slug: listed.slug,
                        id: listed.id,
                        role: if listed.administrator { Role::Administrator } else { Role::Member },
                        confirmed: false,
                    })
                    .collect();
                let named = settings.named.iter().filter(|name| teams.iter().any(|team| team.is_named(name)));
                let named: Vec<TeamName> = named.cloned().collect();
                let confirmed = confirm(&settings.bitbucket, token, &named).await?;
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
}

async fn teams(
    directory: &Directory,
    settings: &Settings,
    token: &Secret<String>,
    now: Timestamp,
) -> Result<Membership, Setback> {
    let membership = directory.ask_teams(settings, token, now).await?;
    Ok(directory.without_taken_slugs(settings, membership).await?)
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
    let answers = try_join_all(names.iter().map(|name| bitbucket.permission(token, name))).await?;
    let mut teams = Vec::new();
    let mut listing = None;
    for (name, answer) in names.iter().zip(answers) {
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

/// Trades the refresh token for new tokens. They are on disk when this returns.
///
/// Refresh tokens rotate without grace, so the order is fixed: that a refresh is under way is on record before
/// it is sent, and the new token is on record before the new access token is used. A crash then loses a token
/// only between Bitbucket's answer and that write, and the record tells a lost token from a withdrawn one.
async fn refresh(
    directory: &Directory,
    id: AccountId,
    settings: &Settings,
    grant: Grant,
    version: Version,
) -> Result<(Grant, Version), Setback> {
    let inner = &directory.0;
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
        match settings.bitbucket.refresh(&refresh_token).await {
            Ok(tokens) => {
                let now = inner.clock.now();
                let fresh = into_grant(tokens, now, grant.refresh_token);
                inner.telemetry.metrics.token_refreshes.inc(RefreshOutcome::Ok);
                return match inner.store.put_grant(id, &fresh, Some(version)).await {
                    Ok(version) => Ok((fresh, version)),
                    Err(store::Error::Conflict) => inner.store.grant(id).await?.ok_or(NO_GRANT),
                    Err(error) => Err(error.into()),
                };
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
