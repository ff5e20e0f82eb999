//! Handing a session over from the gateway's own host to another that it serves, where no cookie reaches both.
//!
//! Owns: [`Request`], the ticket, their sealing, the order in which a ticket is believed, [`Refusal`].
//! Must not know: routes' rules, pages.
//!
//! The other host gives the browser a secret of its own in a cookie and sends it to the gateway's own host with a sealed
//! [`Request`]; that signs in if it must and sends the browser back with a ticket. A ticket is sealed, good once and for
//! [`GOOD_FOR`]; it opens at its host only, and is worth nothing without the secret: neither to whoever saw it, nor to
//! somebody who is made to follow it. It always goes to the host and port that the configuration knows, never to where a
//! request says that it came from. What it hands over is the session itself: there is one, so it ends everywhere at once.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::ticket::{Attempt, LIFETIME, Mismatch, is_of, sha256};
use super::{Login, ROUNDS_WITHIN, ReturnTo, Settings, Start, clear_oldest, rounds, rounds_name};
use crate::clock::Timestamp;
use crate::facts::Facts;
use crate::gate::cookie::{self, SameSite, SessionId};
use crate::keys::Purpose;
use crate::live::LiveSession;
use crate::store::{self, Once};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::HandOverOutcome;

/// Where both halves happen, on the gateway's own host and on the other.
pub const PATH: &str = "/.teamgate/hand-over";
/// How long a ticket is good: one redirect.
pub const GOOD_FOR: Duration = Duration::from_secs(30);
/// How many cookies under the name of one attempt are looked at: others can have been added to it.
const SHOWN: usize = 8;

/// A host that asks for the session of a browser.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Names the attempt: its cookie there.
    id: String,
    /// The host, as [`Facts::host`] has it.
    host: String,
    /// SHA-256 of the attempt cookie's value, as base64url.
    browser: String,
    asked_at: Timestamp,
}

/// A request on its way, with where the person was going.
#[derive(Serialize, Deserialize)]
struct Asked {
    request: Request,
    return_to: String,
}

/// A session on its way to another host.
#[derive(Serialize, Deserialize)]
struct Ticket {
    request: Request,
    return_to: String,
    /// The secret id of the session, as base64url. Nobody reads it: the ticket is sealed.
    session: String,
    /// Names its single use.
    once: String,
    issued_at: Timestamp,
}

/// A session that has arrived.
pub struct Arrived {
    /// Where to go.
    pub return_to: ReturnTo,
    /// Cookies to set.
    pub cookies: Vec<HeaderValue>,
}

/// A request or a ticket that is not believed.
#[derive(Debug)]
pub struct Refused {
    /// Why not.
    pub refusal: Refusal,
    /// Where the person was going, for another try; unknown where it did not open.
    pub return_to: Option<ReturnTo>,
}

/// Why a request or a ticket is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is forged, too old, or another browser's.
    #[error(transparent)]
    Mismatch(Mismatch),
    /// It was used before.
    #[error("the ticket was used before")]
    Spent,
    /// The session ended in between.
    #[error("the session is over")]
    SessionOver,
    /// The store does not answer.
    #[error(transparent)]
    Store(store::Error),
}

impl Login {
    /// On the other host: sends the browser to the gateway's own for its session.
    pub(super) fn ask_for_session(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        return_to: &ReturnTo,
    ) -> Start {
        let cookies = &settings.cookie;
        let attempt = Attempt::draw(facts.now, &self.entropy);
        let request = Request {
            id: attempt.id.clone(),
            host: facts.host.to_owned(),
            browser: attempt.hash(),
            asked_at: facts.now,
        };
        let asked = Asked { request, return_to: return_to.as_str().to_owned() };
        let mut location = settings.external_url.clone();
        location.set_path(PATH);
        location.query_pairs_mut().append_pair("request", &self.sealed(&asked, b"request"));
        let mut set = clear_oldest(cookies, facts, &attempt_name(cookies, ""));
        // Lax, whatever the session cookie is: it must come back on the redirect from the gateway's own host.
        set.push(cookies.set(&attempt_name(cookies, &attempt.id), &attempt.value, LIFETIME, SameSite::Lax));
        Start::Go { location, cookies: set }
    }

    /// On the gateway's own host: reads what another asks for, and where the person was going.
    ///
    /// # Errors
    ///
    /// When it was not asked by a host that is still served, or too long ago.
    pub fn asked_for(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        sealed: &str,
    ) -> Result<(Request, ReturnTo), Refused> {
        let refused = |mismatch, return_to| {
            self.telemetry.metrics.hand_overs.inc(outcome_of(mismatch));
            Refused { refusal: Refusal::Mismatch(mismatch), return_to }
        };
        let opened = settings.is_own(facts.host).then(|| self.opened::<Asked>(sealed, b"request")).flatten();
        let Some(Asked { request, return_to }) = opened else {
            return Err(refused(Mismatch::Forged, None));
        };
        if !settings.hands_over_to(&request.host) {
            return Err(refused(Mismatch::Forged, None));
        }
        let return_to = ReturnTo::checked_before(return_to);
        if facts.now.since(request.asked_at) >= LIFETIME {
            return Err(refused(Mismatch::Expired, Some(return_to)));
        }
        Ok((request, return_to))
    }

    /// On the gateway's own host: the address on the other that the session `id` is handed over with.
    pub fn hand_over(
        &self,
        settings: &Settings,
        request: Request,
        return_to: &ReturnTo,
        id: &SessionId,
    ) -> ReturnTo {
        let host = request.host.clone();
        let ticket = Ticket {
            request,
            return_to: return_to.as_str().to_owned(),
            session: URL_SAFE_NO_PAD.encode(id.expose()),
            once: self.entropy.token::<16>(),
            // Read anew: a sign-in may have come between this and the beginning of the request.
            issued_at: self.clock.now(),
        };
        let sealed = self.sealed(&ticket, &place_of(&host));
        ReturnTo(format!("{}{PATH}?ticket={sealed}", settings.origin_at(&host)))
    }

    /// On the other host: takes a session over. `current` is the live session that the browser already has there.
    ///
    /// Nothing is spent before the ticket is known to be this browser's, and nothing is set before it is spent.
    ///
    /// # Errors
    ///
    /// When the ticket is not believed, and why.
    pub async fn take_over(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        sealed: &str,
        current: Option<&LiveSession>,
    ) -> Result<Arrived, Refused> {
        let opened =
            settings.hands_over_to(facts.host).then(|| self.opened::<Ticket>(sealed, &place_of(facts.host)));
        let Some(ticket) = opened.flatten() else {
            return Err(self.refuse(Refusal::Mismatch(Mismatch::Forged), None, facts));
        };
        let return_to = ReturnTo::checked_before(ticket.return_to.clone());
        match self.redeem_ticket(settings, facts, &ticket, current).await {
            Ok(cookies) => {
                self.telemetry.metrics.hand_overs.inc(HandOverOutcome::Ok);
                Ok(Arrived { return_to, cookies })
            }
            // A tab that comes late, in a browser that is signed in here by now: the person just goes on.
            Err(Refusal::Mismatch(_) | Refusal::Spent) if current.is_some() => {
                Ok(Arrived { return_to, cookies: Vec::new() })
            }
            Err(refusal) => Err(self.refuse(refusal, Some(return_to), facts)),
        }
    }

    async fn redeem_ticket(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        ticket: &Ticket,
        current: Option<&LiveSession>,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        let cookies = &settings.cookie;
        let name = attempt_name(cookies, &ticket.request.id);
        let shown = |name: &str| {
            cookie::find(facts.headers, name).take(SHOWN).any(|value| is_of(value, &ticket.request.browser))
        };
        if facts.now.since(ticket.issued_at) >= GOOD_FOR {
            return Err(Refusal::Mismatch(Mismatch::Expired));
        }
        if !shown(&name) {
            let any = cookie::pairs(facts.headers).any(|(name, _)| cookies.is_ours(name));
            return Err(Refusal::Mismatch(if any { Mismatch::OtherBrowser } else { Mismatch::NoCookies }));
        }
        let id = session_id(&ticket.session).ok_or(Refusal::Mismatch(Mismatch::Forged))?;
        let found = self.live.find(id.key(), &settings.session, facts.now).await.map_err(Refusal::Store)?;
        let session = found.ok_or(Refusal::SessionOver)?;
        let once = sha256(ticket.once.as_bytes());
        let expires_at = ticket.issued_at.plus(GOOD_FOR);
        if !self.store.consume_once(Once::HandOver, once, expires_at).await.map_err(Refusal::Store)? {
            return Err(Refusal::Spent);
        }
        // For the eyes of the person and of operators; asked again, since writing it raises nobody from the dead.
        if !self.store.add_session_host(session.key, facts.host).await.map_err(Refusal::Store)? {
            return Err(Refusal::SessionOver);
        }
        // A session that the browser had here before is over: ids are never carried along (fixation).
        if let Some(old) = current.filter(|old| old.key != session.key) {
            match self.live.end(old.key, EndReason::Replaced, facts.now).await {
                Ok(_) => self.telemetry.metrics.sessions_ended.inc(EndReason::Replaced),
                Err(error) => tracing::warn!(%error, "the session before this hand-over could not be ended"),
            }
        }
        let event = Event::HandedOver {
            account: session.account.id(),
            session: session.key,
            host: facts.host.to_owned(),
            client: facts.client,
            request_id: facts.request_id.to_owned(),
        };
        self.telemetry.audit.record(facts.now, &event);
        let (count, since) = rounds(cookies, facts);
        let left = session.begun_at().plus(settings.session.lifetime).since(facts.now);
        Ok(vec![
            cookies.set(
                cookies.name(),
                &id.seal(&self.keyring, cookies.scope(facts.host)),
                left,
                cookies.same_site,
            ),
            cookies.set(
                &rounds_name(cookies),
                &format!("{}.{}", count.saturating_add(1), since.unix_seconds()),
                ROUNDS_WITHIN,
                SameSite::Lax,
            ),
            cookies.clear(&name),
        ])
    }

    /// Counts and records a ticket that was not believed.
    fn refuse(&self, refusal: Refusal, return_to: Option<ReturnTo>, facts: &Facts<'_>) -> Refused {
        let outcome = match &refusal {
            Refusal::Mismatch(mismatch) => outcome_of(*mismatch),
            Refusal::Spent => HandOverOutcome::Spent,
            Refusal::SessionOver => HandOverOutcome::SessionOver,
            Refusal::Store(_) => HandOverOutcome::StoreFailed,
        };
        self.telemetry.metrics.hand_overs.inc(outcome);
        let event = Event::HandOverFailed {
            outcome,
            host: facts.host.to_owned(),
            client: facts.client,
            request_id: facts.request_id.to_owned(),
        };
        self.telemetry.audit.record(facts.now, &event);
        Refused { refusal, return_to }
    }

    fn sealed(&self, value: &impl Serialize, place: &[u8]) -> String {
        // A struct of strings and numbers always serialises; were it not so, an empty one opens nothing.
        let plain = serde_json::to_vec(value).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(self.keyring.seal(Purpose::HandOver, place, &plain, &self.entropy))
    }

    fn opened<T: for<'de> Deserialize<'de>>(&self, sealed: &str, place: &[u8]) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let plain = self.keyring.open(Purpose::HandOver, place, &sealed).ok()?;
        serde_json::from_slice(plain.expose()).ok()
    }
}

impl Request {
    /// Whose it is.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// Where a ticket opens: at its host. No host is called `request`, and this is longer.
fn place_of(host: &str) -> Vec<u8> {
    [b"ticket for ", host.as_bytes()].concat()
}

fn session_id(text: &str) -> Option<SessionId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(SessionId::from_bytes(bytes.try_into().ok()?))
}

fn attempt_name(cookies: &cookie::Settings, id: &str) -> String {
    format!("{}-over-{id}", cookies.name())
}

fn outcome_of(mismatch: Mismatch) -> HandOverOutcome {
    match mismatch {
        Mismatch::Forged => HandOverOutcome::Forged,
        Mismatch::Expired => HandOverOutcome::Expired,
        Mismatch::NoCookies => HandOverOutcome::NoCookies,
        Mismatch::OtherBrowser => HandOverOutcome::OtherBrowser,
    }
}

impl Settings {
    /// Whether this is the gateway's own host, where sessions are begun that others are handed.
    pub fn is_own(&self, host: &str) -> bool {
        self.cookie.domain.is_none() && self.redirect_uri.host_str() == Some(host)
    }

    /// Whether `host` gets its sessions by hand-over: some route names it, and no cookie reaches both it and the
    /// gateway's own. A route for any host names none, or whoever points a name at us could have sessions.
    pub fn hands_over_to(&self, host: &str) -> bool {
        self.cookie.domain.is_none() && !self.is_own(host) && (self.serves)(host)
    }

    /// The origin of another host that is served: with the scheme and the port of the gateway's own, so that no request
    /// says where a ticket goes.
    pub(super) fn origin_at(&self, host: &str) -> String {
        let port = self.external_url.port().map_or(String::new(), |port| format!(":{port}"));
        format!("{}://{host}{port}", self.external_url.scheme())
    }
}
