//! What the app is told about who is asking: the signed assertion and the plain identity headers.
//!
//! Owns: [`Settings`], [`Claims`], [`Outgoing`], [`Cache`], [`Assertions`] with the keys that sign.
//! Must not know: requests, Pingora, how an account was let in.
//!
//! Signing costs more than everything else on the request path together, so what a route's app is told about a
//! session is made once and kept until near expiry, or until what is known of the account changes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::clock::Timestamp;
use crate::directory::Known;
use crate::entropy::Entropy;
use crate::keys::{Algorithm, RotationSettings, SigningKeys, signing};
use crate::membership::Team;
use crate::route::Route;
use crate::route::identity_out::{Field, GroupSelection, PlainHeaders};
use crate::session::SessionKey;
use crate::store::{self, Store};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;
use crate::telemetry::labels::AssertionSource;

/// How assertions are made on this installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The header that carries the assertion. Default `X-Teamgate-Assertion`.
    pub header: HeaderName,
    /// `iss`: the gateway's own origin.
    pub issuer: Box<str>,
    /// Which kind of key signs. Default ES256.
    pub algorithm: Algorithm,
    /// From `iat` to `exp`. Default 5 min; 30 s to 1 h.
    pub lifetime: Duration,
    /// How often a new key takes over. Default 30 d.
    pub rotate_every: Duration,
    /// What `X-Forwarded-User` carries. Default the uuid.
    pub user_claim: UserClaim,
    /// Whether groups include `team/members` and `team/administrators`.
    pub parts: TeamParts,
}

/// What `X-Forwarded-User` carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserClaim {
    /// The account's uuid without braces: the only one that cannot change hands.
    Uuid,
    /// The primary, confirmed e-mail address.
    Email,
    /// The nickname, which people choose freely and which is not unique.
    Nickname,
}

/// Whether the groups of an account include the parts of its teams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TeamParts {
    /// `team`, `team/administrators`, `team/members`.
    Included,
    /// `team` only.
    Left,
}

/// The claims of an assertion (RFC 7519 §4.1, OpenID Connect Core §5.1).
#[derive(Serialize, Debug)]
pub struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    email_verified: bool,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<&'a str>,
    groups: &'a [String],
    groups_as_of: u64,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    sid: String,
}

/// The headers that go to one route's app for one session, ready to be copied into a request.
#[derive(Debug)]
pub struct Outgoing {
    /// Name and value of each.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    known: Arc<Known>,
    made_until: Timestamp,
    audience: Box<str>,
    route: Arc<Route>,
}

/// What was made for one session, by route. Bounded: see `Cache::KEPT`.
#[derive(Default)]
pub struct Cache(ArcSwap<Vec<Arc<Outgoing>>>);

impl Cache {
    /// How many routes' headers a session keeps. One that visits more makes some of them again.
    const KEPT: usize = 32;

    fn find(&self, route: &Arc<Route>, audience: &str, known: &Arc<Known>, now: Timestamp) -> Option<Arc<Outgoing>> {
        let made = self.0.load();
        let found = made.iter().find(|made| Arc::ptr_eq(&made.route, route) && *made.audience == *audience)?;
        (now < found.made_until && Arc::ptr_eq(&found.known, known)).then(|| found.clone())
    }

    fn keep(&self, outgoing: &Arc<Outgoing>) {
        self.0.rcu(|made| {
            let mut next: Vec<Arc<Outgoing>> = made
                .iter()
                .filter(|old| !(Arc::ptr_eq(&old.route, &outgoing.route) && old.audience == outgoing.audience))
                .take(Self::KEPT - 1)
                .cloned()
                .collect();
            next.insert(0, outgoing.clone());
            next
        });
    }
}

/// Whom an assertion speaks of, and to whom.
pub struct Occasion<'a> {
    /// The route whose app is told.
    pub route: &'a Arc<Route>,
    /// `aud`.
    pub audience: &'a str,
    /// What is known of the account.
    pub known: &'a Arc<Known>,
    /// Which session.
    pub session: &'a SessionKey,
    /// When the session ends at the latest: no assertion outlives it.
    pub session_ends_at: Timestamp,
}

/// Makes assertions and looks after the keys that sign them. Cheap to clone.
#[derive(Clone)]
pub struct Assertions(Arc<Inner>);

struct Inner {
    keys: ArcSwap<SigningKeys>,
    store: Store,
    entropy: Entropy,
    telemetry: Telemetry,
}

/// Why there is no assertion.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys could not be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Signing failed.
    #[error(transparent)]
    Signing(#[from] signing::Error),
}

impl Assertions {
    /// Reads the keys, makes the first one where there is none, and brings them up to `now`.
    ///
    /// # Errors
    ///
    /// When the store does not give or take keys.
    pub async fn load(
        store: Store,
        telemetry: Telemetry,
        entropy: Entropy,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Assertions, Error> {
        let keys = current_keys(&store, settings, now).await?;
        let inner = Inner { keys: ArcSwap::from_pointee(keys), store, entropy, telemetry };
        Ok(Assertions(Arc::new(inner)))
    }

    /// Makes, promotes and retires keys as `now` demands. Called at start, and then every minute.
    ///
    /// # Errors
    ///
    /// When the store does not give or take keys; those in memory go on signing.
    pub async fn rotate(&self, settings: &Settings, now: Timestamp) -> Result<(), Error> {
        let next = current_keys(&self.0.store, settings, now).await?;
        let before = self.0.keys.swap(Arc::new(next.clone()));
        let signs = next.signer(now).kid();
        if before.signer(now).kid() != signs {
            let event = Event::KeysRotated { purpose: "assertion", key: signs.to_owned() };
            self.0.telemetry.audit.record(now, &event);
        }
        Ok(())
    }

    /// The public keys, as a JWKS document (RFC 7517).
    pub fn jwks(&self) -> Bytes {
        self.0.keys.load().jwks()
    }

    /// What the app is told: from `cache` until near expiry, else made anew.
    ///
    /// # Errors
    ///
    /// When signing fails: the request must not go on without its assertion.
    pub fn outgoing(
        &self,
        cache: &Cache,
        settings: &Settings,
        occasion: &Occasion<'_>,
        now: Timestamp,
    ) -> Result<Arc<Outgoing>, Error> {
        if let Some(made) = cache.find(occasion.route, occasion.audience, occasion.known, now) {
            self.0.telemetry.metrics.assertions.inc(AssertionSource::Cache);
            return Ok(made);
        }
        let made = Arc::new(self.make(settings, occasion, now)?);
        self.0.telemetry.metrics.assertions.inc(AssertionSource::Signed);
        cache.keep(&made);
        Ok(made)
    }

    fn make(&self, settings: &Settings, occasion: &Occasion<'_>, now: Timestamp) -> Result<Outgoing, Error> {
        let Occasion { route, audience, known, session, session_ends_at } = occasion;
        let identity = &known.identity;
        let groups = groups(settings, route, known);
        let exp = now.plus(settings.lifetime).min(*session_ends_at);
        let claims = Claims {
            iss: &settings.issuer,
            aud: audience,
            sub: identity.account().to_string(),
            email: identity.email().map(|email| email.as_str()),
            email_verified: identity.email().is_some(),
            name: identity.display_name(),
            preferred_username: identity.nickname(),
            groups: &groups,
            groups_as_of: known.membership.as_of().unix_seconds(),
            iat: now.unix_seconds(),
            nbf: now.unix_seconds(),
            exp: exp.unix_seconds().max(now.unix_seconds() + 1),
            jti: self.0.entropy.token::<16>(),
            sid: session.short(),
        };
        let assertion = self.0.keys.load().signer(now).sign(&claims)?;
        let mut headers = plain_headers(settings, route, known, &groups);
        if let Ok(value) = HeaderValue::try_from(assertion) {
            headers.push((settings.header.clone(), value));
        }
        Ok(Outgoing {
            headers,
            known: (*known).clone(),
            // A fifth of its life is left for the request to reach the app and for clocks that differ.
            made_until: now.plus(settings.lifetime * 4 / 5).min(*session_ends_at),
            audience: (*audience).into(),
            route: (*route).clone(),
        })
    }
}

/// The keys as they should be at `now`: read, and where something is due, made and written.
async fn current_keys(store: &Store, settings: &Settings, now: Timestamp) -> Result<SigningKeys, Error> {
    let rotation = RotationSettings {
        every: settings.rotate_every,
        ..RotationSettings::for_assertions_of(settings.algorithm, settings.lifetime)
    };
    loop {
        let (stored, version) = store.signing_keys().await?;
        let next = match &stored {
            None => Some(SigningKeys::first(now, settings.algorithm)?),
            Some(keys) => keys.rotate(now, &rotation)?,
        };
        let Some(next) = next else {
            if let Some(keys) = stored {
                return Ok(keys);
            }
            continue;
        };
        match store.put_signing_keys(&next, version).await {
            Ok(_) => return Ok(next),
            // Another replica was faster: what it wrote counts, and is looked at in turn.
            Err(store::Error::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn groups(settings: &Settings, route: &Route, known: &Known) -> Vec<String> {
    let parts = settings.parts == TeamParts::Included;
    let named = |team: &Team| route.policy.groups().any(|group| team.is_named(&group.team));
    match route.identity.groups {
        GroupSelection::All => known.membership.groups(parts, |_| true),
        GroupSelection::Matching => known.membership.groups(parts, |team| team.confirmed && named(team)),
    }
}

fn plain_headers(
    settings: &Settings,
    route: &Route,
    known: &Known,
    groups: &[String],
) -> Vec<(HeaderName, HeaderValue)> {
    let identity = &known.identity;
    let uuid = identity.account().to_string();
    let email = identity.email().map(|email| email.as_str());
    let joined = groups.join(",");
    let mut headers = Vec::with_capacity(8);
    let mut set = |name: &'static str, value: Option<&str>| {
        if let Some(value) = value.and_then(one_value) {
            headers.push((HeaderName::from_static(name), value));
        }
    };
    if route.identity.plain_headers == PlainHeaders::Send {
        let user = match settings.user_claim {
            UserClaim::Uuid => Some(uuid.as_str()),
            UserClaim::Email => email,
            UserClaim::Nickname => identity.nickname(),
        };
        set("x-forwarded-user", user);
        set("x-forwarded-email", email);
        set("x-forwarded-preferred-username", identity.nickname());
        if let Ok(groups) = HeaderValue::try_from(&joined) {
            headers.push((HeaderName::from_static("x-forwarded-groups"), groups));
        }
    }
    for (name, template) in &route.identity.headers {
        let value = template.render(|field| match field {
            Field::Uuid => Some(uuid.as_str().into()),
            Field::Email => email.map(Into::into),
            Field::Nickname => identity.nickname().map(Into::into),
            Field::Name => Some(identity.display_name().into()),
            Field::Groups => Some(joined.as_str().into()),
        });
        if let Some(value) = value {
            headers.push((name.clone(), value));
        }
    }
    headers
}

/// Text that people chose becomes a header value only if it can be read as one value and nothing else: no
/// control characters, no comma. What does not fit is left out rather than changed.
fn one_value(text: &str) -> Option<HeaderValue> {
    let hostile = |c: char| c.is_control() || c == ',';
    (!text.contains(hostile)).then(|| HeaderValue::from_bytes(text.as_bytes()).ok()).flatten()
}
