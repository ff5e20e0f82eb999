//! New tokens for old.
//!
//! Owns: the order in which a rotated token is written down, whether a refused one was withdrawn, lost, or refused
//! because of our client; when a token is refreshed ahead of need.
//! Must not know: memberships, who asked.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::requery::{Asking, NO_GRANT, Setback};
use crate::bitbucket::{self, Remedy, Tokens};
use crate::clock::Timestamp;
use crate::identity::AccountId;
use crate::secret::Secret;
use crate::store::{self, Grant, Version};
use crate::telemetry::labels::RefreshOutcome;

/// An access token with less than this left is refreshed before it is used.
const MARGIN: Duration = Duration::from_secs(60);

/// After our client was refused, no refresh token is risked for this long.
const DOUBT: Duration = Duration::from_secs(20);

/// Whether an access token is due for a refresh: a minute before its end, and up to an eighth of its life before that,
/// each account at its own time, so that those who signed in together do not refresh together.
pub(super) fn is_due(grant: &Grant, id: AccountId, now: Timestamp) -> bool {
    let life = grant.expires_at.since(grant.obtained_at);
    let early = life / 8 * u32::from(id.to_bytes()[13]) / 256;
    now >= grant.expires_at.minus(MARGIN + early)
}

/// Whether our client is accepted, as far as that is in doubt.
#[derive(Default)]
pub(super) struct ClientDoubt {
    doubt: Mutex<Option<Doubt>>,
    probation: tokio::sync::Mutex<()>,
}

struct Doubt {
    until: Timestamp,
    refusal: bitbucket::Error,
}

impl Asking<'_> {
    /// Trades the refresh token for new tokens. They are on disk when this returns.
    ///
    /// Refresh tokens rotate without grace, so the order is fixed: that a refresh is under way is on record before
    /// it is sent, and the new token is on record before the new access token is used. A crash then loses a token
    /// only between Bitbucket's answer and that write, and the record tells a lost token from a withdrawn one.
    pub(super) async fn refresh(
        &self,
        id: AccountId,
        grant: Grant,
        version: Version,
    ) -> Result<(Grant, Version), Setback> {
        // Held to the end: while the client is on probation one refresh is tried at a time.
        let probation = self.client_stands().await?;
        match self.trade(id, grant, version, probation.is_some()).await? {
            Traded::Done(grant, version) => Ok((grant, version)),
            // Somebody else won meanwhile, and what was won is old by now. Once is enough: never hammer.
            Traded::Stale(grant, version) => match self.trade(id, grant, version, false).await? {
                Traded::Done(grant, version) | Traded::Stale(grant, version) => Ok((grant, version)),
            },
        }
    }

    /// `client_checked`: our client was accepted a moment ago, so a refusal is about the token.
    async fn trade(
        &self,
        id: AccountId,
        mut grant: Grant,
        version: Version,
        client_checked: bool,
    ) -> Result<Traded, Setback> {
        let inner = &self.directory.0;
        let outcomes = &inner.telemetry.metrics.token_refreshes;
        let Some(refresh_token) =
            grant.refresh_token.as_ref().map(|token| Secret::new(token.expose().clone()))
        else {
            return Err(Setback::GrantGone(version));
        };
        // An answer that was lost stays lost, whatever becomes of the tries after it.
        let lost_before = grant.refreshing_since;
        grant.refreshing_since = Some(inner.clock.now());
        let version = match inner.store.put_grant(id, &grant, Some(version)).await {
            Ok(version) => version,
            Err(store::Error::Conflict) => {
                // Somebody else, a new sign-in or another replica, brought newer tokens: use those.
                outcomes.inc(RefreshOutcome::DoneElsewhere);
                return self.current(id).await;
            }
            Err(error) => return Err(error.into()),
        };
        let error = match self.bitbucket.refresh(&refresh_token).await {
            Ok(tokens) => {
                let fresh = into_grant(tokens, inner.clock.now(), grant.refresh_token);
                outcomes.inc(RefreshOutcome::Ok);
                let mut over = version;
                loop {
                    match inner.store.put_grant(id, &fresh, Some(over)).await {
                        Ok(version) => return Ok(Traded::Done(fresh, version)),
                        Err(store::Error::Conflict) => {}
                        Err(error) => return Err(error.into()),
                    }
                    let (current, there) = inner.store.grant(id).await?.ok_or(NO_GRANT)?;
                    if current.refresh_token.as_ref().map(Secret::expose) != Some(refresh_token.expose()) {
                        return Ok(judged(current, there, inner.clock.now()));
                    }
                    // A replica that took this one for dead has noted that it tries the same token. That is spent:
                    // what came for it is all that there is.
                    over = there;
                }
            }
            Err(error) => error,
        };
        if error.remedy() == Remedy::SignInAgain {
            let (current, current_version) = inner.store.grant(id).await?.ok_or(NO_GRANT)?;
            if current_version != version {
                outcomes.inc(RefreshOutcome::DoneElsewhere);
                return Ok(judged(current, current_version, inner.clock.now()));
            }
            if lost_before.is_some() {
                outcomes.inc(RefreshOutcome::Lost);
                return Err(Setback::GrantLost);
            }
            let checked = if client_checked { Ok(()) } else { self.is_the_grants_fault(&error).await };
            let Err(doubt) = checked else {
                outcomes.inc(RefreshOutcome::Refused);
                return Err(Setback::GrantGone(version));
            };
            outcomes.inc(RefreshOutcome::Doubtful);
            grant.refreshing_since = lost_before;
            inner.store.put_grant(id, &grant, Some(version)).await?;
            return Err(Setback::Bitbucket(doubt));
        }
        outcomes.inc(RefreshOutcome::Unavailable);
        if error.remedy() == Remedy::FixConfiguration && !error.is_unsent() {
            self.directory.0.client.doubt(&error, inner.clock.now());
        }
        if error.is_unsent() || matches!(error.remedy(), Remedy::RetryAfter(_) | Remedy::FixConfiguration) {
            // Not sent, or turned away at the door: nothing was rotated by this one.
            grant.refreshing_since = lost_before;
            inner.store.put_grant(id, &grant, Some(version)).await?;
        }
        Err(Setback::Bitbucket(error))
    }

    /// What somebody else wrote meanwhile.
    async fn current(&self, id: AccountId) -> Result<Traded, Setback> {
        let inner = &self.directory.0;
        let (grant, version) = inner.store.grant(id).await?.ok_or(NO_GRANT)?;
        Ok(judged(grant, version, inner.clock.now()))
    }

    /// Bitbucket answers `unauthorized_client` to a refresh token that was withdrawn, and to a client whose secret was
    /// changed or that it has locked out for some minutes. Before sessions end for it, the client shows itself
    /// with a code that nobody has: only a good client is told that the *code* is wrong.
    async fn is_the_grants_fault(&self, refusal: &bitbucket::Error) -> Result<(), bitbucket::Error> {
        if !refusal.may_be_about_the_client() {
            return Ok(());
        }
        let checked = self.bitbucket.check_client().await;
        if let Err(error) = &checked {
            self.directory.0.client.doubt(error, self.directory.0.clock.now());
        }
        checked
    }

    /// Nothing while our client is in doubt: first it must be accepted again, or each account's token would be
    /// refused in turn. Whoever finds that it is accepted again tries alone, and holds what this gives meanwhile: a
    /// token that is truly dead may get the client locked out for everybody behind it.
    async fn client_stands(&self) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Setback> {
        let inner = &self.directory.0;
        let probation = match inner.client.verdict(inner.clock.now()) {
            Verdict::Stands => return Ok(None),
            Verdict::Refused(error) => return Err(Setback::Bitbucket(error)),
            Verdict::AskAgain => inner.client.probation.lock().await,
        };
        match inner.client.verdict(inner.clock.now()) {
            Verdict::Stands => return Ok(None),
            Verdict::Refused(error) => return Err(Setback::Bitbucket(error)),
            Verdict::AskAgain => {}
        }
        match self.bitbucket.check_client().await {
            Ok(()) => {
                inner.client.clear();
                Ok(Some(probation))
            }
            Err(error) => {
                inner.client.doubt(&error, inner.clock.now());
                Err(Setback::Bitbucket(error))
            }
        }
    }
}

/// What came of a trade that did not fail.
enum Traded {
    /// Tokens to ask with.
    Done(Grant, Version),
    /// Somebody else's, and due for a refresh themselves.
    Stale(Grant, Version),
}

fn judged(grant: Grant, version: Version, now: Timestamp) -> Traded {
    match now.plus(MARGIN) < grant.expires_at {
        true => Traded::Done(grant, version),
        false => Traded::Stale(grant, version),
    }
}

enum Verdict {
    Stands,
    Refused(bitbucket::Error),
    AskAgain,
}

impl ClientDoubt {
    fn verdict(&self, now: Timestamp) -> Verdict {
        match &*self.doubt.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Verdict::Stands,
            Some(doubt) if now < doubt.until => Verdict::Refused(doubt.refusal.clone()),
            Some(_) => Verdict::AskAgain,
        }
    }

    /// A transient failure of the check says nothing, but what was doubted stays doubted.
    fn doubt(&self, refusal: &bitbucket::Error, now: Timestamp) {
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        if refusal.remedy() == Remedy::FixConfiguration {
            *doubt = Some(Doubt { until: now.plus(DOUBT), refusal: refusal.clone() });
        }
    }

    fn clear(&self) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
