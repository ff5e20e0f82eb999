//! The way back from Bitbucket: check, redeem, identify, begin the session. And the way out.
//!
//! Owns: the order in which a callback is believed, [`Failure`].
//! Must not know: rules, pages.

use http::HeaderValue;
use http::header::USER_AGENT;

use super::ticket::{Mismatch, StateMatched, Ticket};
use super::{Login, ROUNDS_WITHIN, ReturnTo, Settings, attempt_name, rounds, rounds_name};
use crate::bitbucket::{self, Remedy};
use crate::directory::Known;
use crate::directory::refresh::into_grant;
use crate::directory::requery::who;
use crate::facts::Facts;
use crate::gate::cookie::{self, SameSite, SessionId};
use crate::identity::{AccountId, VerifiedIdentity};
use crate::live::{Browser, LiveSession};
use crate::session::SessionKey;
use crate::store::{self, Once};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::SignInOutcome;

/// What Bitbucket sent back.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The `state`.
    pub state: Option<String>,
    /// The code, when the person agreed.
    pub code: Option<String>,
    /// The error code, when not.
    pub error: Option<String>,
}

/// A sign-in that worked, or that somebody else finished before.
pub struct SignedIn {
    /// Where to go: the page, or another host's half of a hand-over.
    pub return_to: ReturnTo,
    /// Cookies to set.
    pub cookies: Vec<HeaderValue>,
}

/// A sign-in that did not.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// Where the person was going, for another try.
    pub return_to: Option<ReturnTo>,
    /// Cookies to set.
    pub cookies: Vec<HeaderValue>,
}

/// What went wrong with a sign-in.
#[derive(Debug)]
pub enum FailureKind {
    /// The state was not believed. Nothing was spent.
    State(Mismatch),
    /// Neither a code nor an error came back.
    Malformed,
    /// The person said no at Bitbucket.
    Cancelled,
    /// Bitbucket reports an error that is ours or its own, not the person's.
    Reported(Box<str>),
    /// Bitbucket did not answer, or not usefully.
    Bitbucket(bitbucket::Error),
    /// The account is in none of the teams that may use this gateway.
    NotInAnyTeam(VerifiedIdentity),
    /// The session store does not answer.
    Store(store::Error),
}

impl Login {
    /// Takes a browser that comes back from Bitbucket. `current` is the live session it already has, if any.
    ///
    /// The state is checked before anything is spent, and it is spent (once, for ever) before the code is.
    ///
    /// # Errors
    ///
    /// When nobody is signed in by this; nothing is stored then.
    pub async fn callback(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        params: &Params,
        current: Option<&LiveSession>,
    ) -> Result<SignedIn, Failure> {
        let (matched, clear) = match self.believe(settings, facts, params) {
            Ok(believed) => believed,
            Err((mismatch, return_to)) => {
                // A tab whose attempt was pushed out or finished elsewhere, in a browser that is signed in by
                // now: there is nothing to redeem, the person just goes on.
                if let (Some(_), Some(return_to)) = (current, &return_to) {
                    return Ok(SignedIn { return_to: return_to.clone(), cookies: Vec::new() });
                }
                let kind = FailureKind::State(mismatch);
                self.note(&kind, facts);
                return Err(Failure { kind, return_to, cookies: Vec::new() });
            }
        };
        let return_to = ReturnTo::checked_before(matched.return_to.clone());
        match self.redeem(settings, facts, params, &matched, current).await {
            Ok((id, mut cookies)) => {
                cookies.push(clear);
                self.telemetry.metrics.sign_ins.inc(SignInOutcome::Ok);
                // What was served when the sign-in began may not be any more.
                let asked = matched.hand_over.filter(|asked| settings.hands_over_to(asked.host()));
                let return_to = match asked {
                    Some(asked) => self.hand_over(settings, asked, &return_to, &id),
                    None => return_to,
                };
                Ok(SignedIn { return_to, cookies })
            }
            Err(kind) => {
                self.note(&kind, facts);
                Err(Failure { kind, return_to: Some(return_to), cookies: vec![clear] })
            }
        }
    }

    /// Counts and records a sign-in that ended without a session.
    fn note(&self, kind: &FailureKind, facts: &Facts<'_>) {
        self.telemetry.metrics.sign_ins.inc(outcome(kind));
        let event = Event::SignInFailed {
            outcome: outcome(kind),
            account: match kind {
                FailureKind::NotInAnyTeam(identity) => Some(identity.account()),
                _ => None,
            },
            client: facts.client,
            request_id: facts.request_id.to_owned(),
        };
        self.telemetry.audit.record(self.clock.now(), &event);
    }

    fn believe(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        params: &Params,
    ) -> Result<(StateMatched, HeaderValue), (Mismatch, Option<ReturnTo>)> {
        let state = params.state.as_deref().unwrap_or("");
        let ticket = Ticket::open(state, &self.keyring).map_err(|mismatch| (mismatch, None))?;
        let return_to = ReturnTo::checked_before(ticket.return_to.clone());
        let name = attempt_name(&settings.cookie, &ticket.id);
        let shown = cookie::find(facts.headers, &name).next();
        let matched = ticket.check(shown, facts.now).map_err(|mismatch| {
            let any = cookie::pairs(facts.headers).any(|(name, _)| settings.cookie.is_ours(name));
            let none = mismatch == Mismatch::OtherBrowser && !any;
            (if none { Mismatch::NoCookies } else { mismatch }, Some(return_to))
        })?;
        Ok((matched, settings.cookie.clear(&name)))
    }

    async fn redeem(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        params: &Params,
        matched: &StateMatched,
        current: Option<&LiveSession>,
    ) -> Result<(SessionId, Vec<HeaderValue>), FailureKind> {
        if !self
            .store
            .consume_once(Once::SignInState, matched.once, matched.expires_at)
            .await
            .map_err(FailureKind::Store)?
        {
            return Err(FailureKind::State(Mismatch::OtherBrowser));
        }
        let code = match (&params.code, params.error.as_deref()) {
            (_, Some("access_denied")) => return Err(FailureKind::Cancelled),
            (_, Some(error)) => return Err(FailureKind::Reported(error.chars().take(80).collect())),
            (Some(code), None) if !code.is_empty() => code,
            _ => return Err(FailureKind::Malformed),
        };
        let bitbucket = &settings.directory.bitbucket;
        let tokens = bitbucket.exchange(code, &matched.verifier).await.map_err(FailureKind::Bitbucket)?;
        let asked_at = self.clock.now();
        let grant = into_grant(tokens, asked_at, None);
        let (identity, membership) = tokio::join!(
            who(bitbucket, &grant.access_token),
            self.directory.ask_teams(&settings.directory, &grant.access_token, asked_at)
        );
        let identity = identity.map_err(FailureKind::Bitbucket)?;
        let membership = membership.map_err(FailureKind::Bitbucket)?;
        let membership = self
            .directory
            .without_taken_slugs(&settings.directory, identity.account(), membership)
            .await
            .map_err(FailureKind::Store)?;
        if !settings.directory.admits(&membership) {
            return Err(FailureKind::NotInAnyTeam(identity));
        }
        let now = self.clock.now();
        let known = Known { identity, profile_as_of: asked_at, membership };
        let account = self.directory.learn(known, &grant, now).await.map_err(FailureKind::Store)?;
        let id = SessionId::draw(&self.entropy);
        // An end of the account that came before this was on disk does not mean this.
        let now = self.clock.now();
        let session =
            self.live.begin(id.key(), account, browser(facts), now).await.map_err(FailureKind::Store)?;
        // A session that the browser had before is over: ids are never carried across a sign-in (fixation).
        if let Some(old) = current {
            match self.live.end(old.key, EndReason::Replaced, now).await {
                Ok(_) => self.telemetry.metrics.sessions_ended.inc(EndReason::Replaced),
                Err(error) => {
                    tracing::warn!(%error, "the session before this sign-in could not be ended");
                }
            }
        }
        let event = Event::SignedIn {
            account: session.account.id(),
            session: session.key,
            client: facts.client,
            groups: session.account.known().membership.groups(true, |team| team.confirmed),
            request_id: facts.request_id.to_owned(),
        };
        self.telemetry.audit.record(now, &event);
        let cookies = &settings.cookie;
        let (count, since) = rounds(cookies, facts);
        let set = vec![
            cookies.set(
                cookies.name(),
                &id.seal(&self.keyring, cookies.scope(facts.host)),
                settings.session.lifetime,
                cookies.same_site,
            ),
            cookies.set(
                &rounds_name(cookies),
                // The count is the browser's to say, and may be the last that there is.
                &format!("{}.{}", count.saturating_add(1), since.unix_seconds()),
                ROUNDS_WITHIN,
                SameSite::Lax,
            ),
        ];
        Ok((id, set))
    }

    /// Ends a session everywhere, and gives the cookies that forget it.
    ///
    /// # Errors
    ///
    /// When the store did not take it; the session is over in memory all the same.
    pub async fn sign_out(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        session: Option<&LiveSession>,
    ) -> Result<Vec<HeaderValue>, store::Error> {
        match session {
            Some(session) => self.end_own(session.account.id(), session.key, facts).await?,
            // It may be over already and not written down: whoever asks again wants to hear that it is.
            None => {
                for value in cookie::find(facts.headers, settings.cookie.name()).take(8) {
                    if let Ok(id) = SessionId::open(value, &self.keyring, settings.cookie.scope(facts.host)) {
                        self.live.make_good(id.key()).await?;
                    }
                }
            }
        }
        let cookies = &settings.cookie;
        Ok(vec![cookies.clear(cookies.name()), cookies.clear(&rounds_name(cookies))])
    }
}

impl Login {
    /// Ends others of the person's sessions: the one that is named `only`, or all. The one that asks stays.
    ///
    /// # Errors
    ///
    /// When the store does not say which there are, or did not take the end of one; those before it are over.
    pub async fn sign_out_others(
        &self,
        facts: &Facts<'_>,
        session: &LiveSession,
        only: Option<&str>,
    ) -> Result<(), store::Error> {
        let account = session.account.id();
        // Looked up among the person's own: nobody ends somebody else's by its name.
        for (key, _) in self.live.of_account(account).await? {
            if key != session.key && only.is_none_or(|name| key.short() == name) {
                self.end_own(account, key, facts).await?;
            }
        }
        Ok(())
    }

    async fn end_own(
        &self,
        account: AccountId,
        session: SessionKey,
        facts: &Facts<'_>,
    ) -> Result<(), store::Error> {
        let ended = self.live.end(session, EndReason::SignedOut, facts.now).await;
        // Over it is, whether or not the store has taken it.
        self.telemetry.metrics.sessions_ended.inc(EndReason::SignedOut);
        let event = Event::SignedOut { account, session, client: facts.client };
        self.telemetry.audit.record(facts.now, &event);
        ended.map(|_| ())
    }
}

fn browser(facts: &Facts<'_>) -> Browser {
    let user_agent = facts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    Browser {
        address: Some(facts.client),
        user_agent: user_agent.map(|text| text.chars().take(200).collect::<String>().into()),
    }
}

fn outcome(kind: &FailureKind) -> SignInOutcome {
    match kind {
        FailureKind::State(Mismatch::Expired) => SignInOutcome::StateExpired,
        FailureKind::State(_) | FailureKind::Malformed => SignInOutcome::BadState,
        FailureKind::Cancelled => SignInOutcome::Declined,
        FailureKind::Reported(_) => SignInOutcome::Misconfigured,
        FailureKind::NotInAnyTeam(_) => SignInOutcome::NotInTeams,
        FailureKind::Store(_) => SignInOutcome::StoreFailed,
        FailureKind::Bitbucket(error) => match error.remedy() {
            Remedy::FixConfiguration => SignInOutcome::Misconfigured,
            Remedy::Refuse(_) => SignInOutcome::NoPerson,
            Remedy::SignInAgain | Remedy::RetryAfter(_) | Remedy::Retry | Remedy::Report => {
                SignInOutcome::BitbucketFailed
            }
        },
    }
}
