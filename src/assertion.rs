//! What the app is told about who is asking: the signed assertion and the plain identity headers.
//!
//! Owns: [`Settings`], [`Claims`], [`Outgoing`], [`Cache`], [`Assertions`] with the keys that sign.
//! Must not know: requests, Pingora, how an account was let in.
//!
//! Signing costs more than everything else on the request path together, so what a route's app is told about a
//! session is made once and kept until near expiry, or until what is known of the account changes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::clock::Timestamp;
use crate::directory::Known;
use crate::entropy::Entropy;
use crate::keys::signing::{self, Signer};
use crate::keys::{Algorithm, RotationSettings, SigningKeys};
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
    kid: Box<str>,
    audience: Box<str>,
    route: Arc<Route>,
}

/// What was made for one session, by route. Bounded: see `Cache::KEPT`. A pointer until there is something to keep:
/// most sessions of a large house are not in use.
#[derive(Default)]
pub struct Cache(ArcSwapOption<Vec<Arc<Outgoing>>>);

impl Cache {
    /// How many routes' headers a session keeps. One that visits more makes some of them again.
    const KEPT: usize = 32;

    fn find(
        &self,
        route: &Arc<Route>,
        audience: &str,
        known: &Arc<Known>,
        keys: &SigningKeys,
        now: Timestamp,
    ) -> Option<Arc<Outgoing>> {
        let made = self.0.load();
        let mut made = made.iter().flat_map(|made| made.iter());
        let found = made.find(|made| Arc::ptr_eq(&made.route, route) && *made.audience == *audience)?;
        // A key that is gone is gone for what it signed, too: it may have been distrusted a moment ago.
        let is_good = now < found.made_until && Arc::ptr_eq(&found.known, known) && keys.has(&found.kid);
        is_good.then(|| found.clone())
    }

    fn keep(&self, outgoing: &Arc<Outgoing>) {
        self.0.rcu(|made| {
            let mut next: Vec<Arc<Outgoing>> = made
                .iter()
                .flat_map(|made| made.iter())
                .filter(|old| {
                    !(Arc::ptr_eq(&old.route, &outgoing.route) && old.audience == outgoing.audience)
                })
                .take(Self::KEPT - 1)
                .cloned()
                .collect();
            next.insert(0, outgoing.clone());
            Some(Arc::new(next))
        });
    }

    /// Lets everything go once none of it is good at `now` any more.
    pub fn let_go(&self, now: Timestamp) {
        let made = self.0.load();
        if made.as_ref().is_some_and(|made| made.iter().all(|made| now >= made.made_until)) {
            // What was made meanwhile is made again.
            self.0.store(None);
        }
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.0.load().as_ref().map_or(0, |made| made.len())
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
    /// The key that the audit log knows to sign.
    announced: ArcSwap<String>,
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
        let announced = ArcSwap::from_pointee(keys.signer(now).kid().to_owned());
        let inner = Inner { keys: ArcSwap::from_pointee(keys), announced, store, entropy, telemetry };
        Ok(Assertions(Arc::new(inner)))
    }

    /// Makes, promotes and retires keys as `now` demands. Called at start, and then every minute.
    ///
    /// # Errors
    ///
    /// When the store does not give or take keys; those in memory go on signing.
    pub async fn rotate(&self, settings: &Settings, now: Timestamp) -> Result<(), Error> {
        let next = current_keys(&self.0.store, settings, now).await?;
        self.take(next, now);
        Ok(())
    }

    fn take(&self, next: SigningKeys, now: Timestamp) {
        let signs = next.signer(now).kid().to_owned();
        self.0.keys.store(Arc::new(next));
        // Not by the set before: a key that takes its turn by the clock has been in it for an hour.
        if *self.0.announced.swap(Arc::new(signs.clone())) != signs {
            self.0.telemetry.audit.record(now, &Event::KeysRotated { purpose: "assertion", key: signs });
        }
    }

    /// Has a new key made that takes over as soon as it has been published for an hour, whatever the calendar
    /// says. Where one waits for its turn already, that one is enough.
    ///
    /// # Errors
    ///
    /// When the store does not give or take keys; nothing is changed then.
    pub async fn rotate_early(&self, settings: &Settings, now: Timestamp) -> Result<(), Error> {
        let rotation = rotation(settings);
        let early = replace(&self.0.store, settings, now, |keys| {
            let one_waits = keys.all().iter().any(|key| key.signs_from() > now);
            Ok((!one_waits).then(|| keys.rotate_early(now, &rotation)).transpose()?)
        });
        early.await?;
        self.rotate(settings, now).await
    }

    /// Replaces every key by a new one that signs at once, and gives the names of those that are gone: for when
    /// a key may be in other hands. Nothing that they signed is sent any more. Apps refuse the new assertions
    /// until they have fetched the JWKS again, which good ones do when they meet a name that they do not know.
    /// Other replicas follow at their next [`Assertions::rotate`].
    ///
    /// # Errors
    ///
    /// When the store does not give or take keys; nothing is changed then.
    pub async fn distrust(&self, settings: &Settings, now: Timestamp) -> Result<Vec<String>, Error> {
        let condemned: Vec<String> =
            self.0.keys.load().all().iter().map(|key| key.kid().to_owned()).collect();
        let next = replace(&self.0.store, settings, now, |keys| {
            // Another replica may have done it in the same moment: then its key is as good as ours.
            let still_there = condemned.iter().any(|kid| keys.has(kid));
            Ok(still_there.then(|| SigningKeys::first(now, settings.algorithm)).transpose()?)
        });
        self.take(next.await?, now);
        Ok(condemned)
    }

    /// What may be told of the keys, in the order in which they sign; and the name of the one that signs now.
    pub fn keys(&self, now: Timestamp) -> (Vec<Arc<Signer>>, String) {
        let keys = self.0.keys.load();
        (keys.all().to_vec(), keys.signer(now).kid().to_owned())
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
        let keys = self.0.keys.load();
        if let Some(made) = cache.find(occasion.route, occasion.audience, occasion.known, &keys, now) {
            self.0.telemetry.metrics.assertions.inc(AssertionSource::Cache);
            return Ok(made);
        }
        let made = Arc::new(self.make(settings, occasion, keys.signer(now), now)?);
        self.0.telemetry.metrics.assertions.inc(AssertionSource::Signed);
        cache.keep(&made);
        Ok(made)
    }

    fn make(
        &self,
        settings: &Settings,
        occasion: &Occasion<'_>,
        signer: &Signer,
        now: Timestamp,
    ) -> Result<Outgoing, Error> {
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
        let assertion = signer.sign(&claims)?;
        let mut headers = plain_headers(settings, route, known, &groups);
        if let Ok(value) = HeaderValue::try_from(assertion) {
            headers.push((settings.header.clone(), value));
        }
        Ok(Outgoing {
            headers,
            known: (*known).clone(),
            // A fifth of its life is left for the request to reach the app and for clocks that differ.
            made_until: now.plus(settings.lifetime * 4 / 5).min(*session_ends_at),
            kid: signer.kid().into(),
            audience: (*audience).into(),
            route: (*route).clone(),
        })
    }
}

/// The keys as they should be at `now`: read, and where something is due, made and written.
async fn current_keys(store: &Store, settings: &Settings, now: Timestamp) -> Result<SigningKeys, Error> {
    let rotation = rotation(settings);
    replace(store, settings, now, |keys| Ok(keys.rotate(now, &rotation)?)).await
}

fn rotation(settings: &Settings) -> RotationSettings {
    RotationSettings {
        every: settings.rotate_every,
        ..RotationSettings::for_assertions_of(settings.algorithm, settings.lifetime)
    }
}

/// Reads the keys and writes what `change` makes of them, if anything; the first ones where there are none.
async fn replace(
    store: &Store,
    settings: &Settings,
    now: Timestamp,
    change: impl Fn(&SigningKeys) -> Result<Option<SigningKeys>, Error>,
) -> Result<SigningKeys, Error> {
    loop {
        let (stored, version) = store.signing_keys().await?;
        let next = match stored {
            None => SigningKeys::first(now, settings.algorithm)?,
            Some(keys) => match change(&keys)? {
                Some(next) => next,
                None => return Ok(keys),
            },
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
            Field::GroupsAsOf => Some(known.membership.as_of().to_string().into()),
        });
        if let Some(value) = value {
            headers.push((name.clone(), value));
        }
    }
    headers
}

/// Text that people chose becomes a header value only if it can be read as one value and nothing else: visible
/// ASCII with blanks inside (apps read other bytes in one way or another), no comma. What does not fit is left
/// out rather than changed; the assertion says it all the same.
fn one_value(text: &str) -> Option<HeaderValue> {
    let plain = |byte: u8| (byte.is_ascii_graphic() && byte != b',') || byte == b' ';
    let sound = !text.is_empty() && text.trim() == text && text.bytes().all(plain);
    sound.then(|| HeaderValue::try_from(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::error::Error as StdError;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::{AccountId, Claims as Identity, Email, TeamId, VerifiedIdentity};
    use crate::keys::Keyring;
    use crate::membership::{Membership, Role};
    use crate::policy::Policy;
    use crate::policy::condition::{Condition, Conditions};
    use crate::route::identity_out::IdentityOut;

    type Outcome<T = ()> = Result<T, Box<dyn StdError>>;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const LIFETIME: Duration = Duration::from_secs(300);
    const SESSION: SessionKey = SessionKey([7; 32]);

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn settings() -> Settings {
        Settings {
            header: HeaderName::from_static("x-teamgate-assertion"),
            issuer: "https://gate.example.com".into(),
            algorithm: Algorithm::EdDsa,
            lifetime: LIFETIME,
            rotate_every: Duration::from_secs(86_400),
            user_claim: UserClaim::Uuid,
            parts: TeamParts::Included,
        }
    }

    fn team(slug: &str, role: Role, confirmed: bool) -> Team {
        let id = TeamId::from_bytes([slug.len() as u8; 16]);
        Team { slug: slug.into(), id, role, confirmed }
    }

    /// Somebody called `nickname` with an address or without.
    fn known(nickname: Option<&str>, email: Option<&str>) -> Arc<Known> {
        let identity = VerifiedIdentity::vouched_for(Identity {
            account: AccountId::from_bytes([0xa1; 16]),
            display_name: "Ada Lövelace".into(),
            nickname: nickname.map(Into::into),
            email: email.and_then(Email::parse),
        });
        let teams = vec![
            team("acme", Role::Administrator, true),
            team("globex", Role::Member, true),
            team("initech", Role::Member, false),
        ];
        Arc::new(Known { identity, profile_as_of: NOW, membership: Membership::new(NOW, teams) })
    }

    fn route(identity: IdentityOut) -> Outcome<Arc<Route>> {
        let named = |group: &str| -> Outcome<Condition> { Ok(Condition::Group(group.parse()?)) };
        let policy = Policy::Rules {
            allow: Conditions::new(vec![named("acme/administrators")?, named("initech")?])?,
            deny: Conditions::new(Vec::new())?,
        };
        let app = crate::route::destination::Destination::App(Arc::new("http://10.0.0.5:8080".parse()?));
        Ok(Arc::new(Route { identity, ..Route::new("wiki", policy, app) }))
    }

    /// Keys of their own in a store of their own, gone with the folder.
    async fn assertions(folder: &std::path::Path, settings: &Settings) -> Outcome<Assertions> {
        crate::keys::install_crypto_providers();
        let (entropy, telemetry) = (Entropy::system(), Telemetry::unheard()?);
        let ring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(folder, ring, entropy.clone(), telemetry.metrics.clone())?;
        Ok(Assertions::load(store, telemetry, entropy, settings, NOW).await?)
    }

    /// What an app does: the claims, under the key that the header names.
    fn claims(assertions: &Assertions, outgoing: &Outgoing) -> Outcome<Value> {
        let (_, token) =
            outgoing.headers.iter().find(|(name, _)| name == "x-teamgate-assertion").ok_or("no assertion")?;
        let token = token.to_str()?;
        let set: JwkSet = serde_json::from_slice(&assertions.jwks())?;
        let kid = decode_header(token)?.kid.ok_or("no kid")?;
        let jwk = set.find(&kid).ok_or("a key that is not published")?;
        let algorithm = jwk.common.key_algorithm.ok_or("no alg")?.to_string().parse()?;
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        Ok(decode::<Value>(token, &DecodingKey::from_jwk(jwk)?, &validation)?.claims)
    }

    fn headers(outgoing: &Outgoing) -> HashMap<&str, String> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        outgoing.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
    }

    fn occasion<'a>(route: &'a Arc<Route>, known: &'a Arc<Known>) -> Occasion<'a> {
        let audience = "https://wiki.example.com";
        Occasion { route, audience, known, session: &SESSION, session_ends_at: after(86_400) }
    }

    #[tokio::test]
    async fn an_assertion_says_who_to_whom_and_until_when() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known) = (route(IdentityOut::default())?, known(Some("ada"), Some("ada@example.com")));
        let outgoing =
            assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), after(10))?;
        let mut said = claims(&assertions, &outgoing)?;
        let jti = said["jti"].take();
        assert_eq!(jti.as_str().map(str::len), Some(22));
        let expected = json!({
            "iss": "https://gate.example.com", "aud": "https://wiki.example.com",
            "sub": "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1", "email": "ada@example.com", "email_verified": true,
            "name": "Ada Lövelace", "preferred_username": "ada",
            "groups": ["acme", "acme/administrators", "acme/members", "globex", "globex/members", "initech", "initech/members"],
            "groups_as_of": 1_800_000_000, "iat": 1_800_000_010, "nbf": 1_800_000_010, "exp": 1_800_000_310,
            "jti": null, "sid": "0707070707070707",
        });
        assert_eq!(said, expected);
        Ok(())
    }

    #[tokio::test]
    async fn what_is_not_known_is_not_said() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = Settings { parts: TeamParts::Left, ..settings() };
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known) = (route(IdentityOut::default())?, known(None, None));
        let outgoing = assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), NOW)?;
        let said = claims(&assertions, &outgoing)?;
        assert_eq!(said["email_verified"], json!(false));
        assert!(said.get("email").is_none() && said.get("preferred_username").is_none());
        assert_eq!(said["groups"], json!(["acme", "globex", "initech"]));
        let sent = headers(&outgoing);
        assert!(
            !sent.contains_key("x-forwarded-email") && !sent.contains_key("x-forwarded-preferred-username")
        );
        Ok(())
    }

    #[tokio::test]
    async fn it_is_made_once_until_four_fifths_of_its_life_are_over() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known, cache) = (route(IdentityOut::default())?, known(None, None), Cache::default());
        let made =
            |seconds| assertions.outgoing(&cache, &settings, &occasion(&route, &known), after(seconds));
        let first = made(0)?;
        assert!(Arc::ptr_eq(&first, &made(239)?));
        let second = made(240)?;
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &made(479)?));
        assert_ne!(claims(&assertions, &first)?["jti"], claims(&assertions, &second)?["jti"]);
        let count = &assertions.0.telemetry.metrics.assertions;
        assert_eq!((count.of(AssertionSource::Signed).get(), count.of(AssertionSource::Cache).get()), (2, 2));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_stale_is_let_go_and_takes_no_memory() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known, cache) = (route(IdentityOut::default())?, known(None, None), Cache::default());
        assertions.outgoing(&cache, &settings, &occasion(&route, &known), NOW)?;
        cache.let_go(after(239));
        assert_eq!(cache.kept(), 1);
        cache.let_go(after(240));
        assert_eq!(cache.kept(), 0);
        assertions.outgoing(&cache, &settings, &occasion(&route, &known), after(240))?;
        assert_eq!(cache.kept(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn it_is_made_anew_when_anything_it_says_is_another() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let cache = Cache::default();
        let (one, other) = (route(IdentityOut::default())?, route(IdentityOut::default())?);
        let (before, now) = (known(None, None), known(None, None));
        let first = assertions.outgoing(&cache, &settings, &occasion(&one, &before), NOW)?;
        for changed in [
            occasion(&other, &before),
            Occasion { audience: "https://other.example.com", ..occasion(&one, &before) },
            occasion(&one, &now),
        ] {
            let made = assertions.outgoing(&cache, &settings, &changed, NOW)?;
            assert!(!Arc::ptr_eq(&first, &made));
            assert_eq!(claims(&assertions, &made)?["aud"], json!(changed.audience));
        }
        // A membership that changed has taken the place of the one before; the other routes' are still there.
        let again = assertions.outgoing(&cache, &settings, &occasion(&one, &now), NOW)?;
        assert!(!Arc::ptr_eq(&first, &again));
        assert_eq!(cache.kept(), 3);
        Ok(())
    }

    #[tokio::test]
    async fn it_does_not_outlive_the_session() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known, cache) = (route(IdentityOut::default())?, known(None, None), Cache::default());
        let ending = Occasion { session_ends_at: after(100), ..occasion(&route, &known) };
        let first = assertions.outgoing(&cache, &settings, &ending, NOW)?;
        assert_eq!(claims(&assertions, &first)?["exp"], json!(1_800_000_100));
        assert!(Arc::ptr_eq(&first, &assertions.outgoing(&cache, &settings, &ending, after(99))?));
        assert!(!Arc::ptr_eq(&first, &assertions.outgoing(&cache, &settings, &ending, after(100))?));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_kept_for_a_session_is_bounded() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known, cache) = (route(IdentityOut::default())?, known(None, None), Cache::default());
        for number in 0..100 {
            let audience = format!("https://{number}.example.com");
            assertions.outgoing(
                &cache,
                &settings,
                &Occasion { audience: &audience, ..occasion(&route, &known) },
                NOW,
            )?;
        }
        assert_eq!(cache.kept(), Cache::KEPT);
        Ok(())
    }

    #[tokio::test]
    async fn a_rotated_key_is_published_with_the_old_one() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let (route, known) = (route(IdentityOut::default())?, known(None, None));
        let old = assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), NOW)?;
        // The next key is published an hour before it signs.
        for now in [after(86_400 - 3_600), after(86_400)] {
            assertions.rotate(&settings, now).await?;
            assert!(claims(&assertions, &old).is_ok());
        }
        let new =
            assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), after(86_400))?;
        assert!(claims(&assertions, &new).is_ok());
        Ok(())
    }

    #[tokio::test]
    async fn a_key_that_waits_for_its_turn_is_announced_when_it_takes_it() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let assertions = assertions(folder.path(), &settings).await?;
        let first = assertions.keys(NOW).1;
        for _ in 0..3 {
            assertions.rotate_early(&settings, NOW).await?;
        }
        let (keys, signs) = assertions.keys(NOW);
        assert_eq!((keys.len(), &signs), (2, &first), "however often it is asked for");
        assert_eq!(**assertions.0.announced.load(), first);
        assertions.rotate(&settings, after(3_600)).await?;
        assert_ne!(**assertions.0.announced.load(), first);
        Ok(())
    }

    #[tokio::test]
    async fn what_a_distrusted_key_signed_is_not_sent_any_more_by_any_replica() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = settings();
        let here = assertions(folder.path(), &settings).await?;
        let there =
            Assertions::load(here.0.store.clone(), Telemetry::unheard()?, Entropy::system(), &settings, NOW)
                .await?;
        let (route, known, cache) = (route(IdentityOut::default())?, known(None, None), Cache::default());
        let made = |by: &Assertions| by.outgoing(&cache, &settings, &occasion(&route, &known), NOW);
        let old = made(&here)?;
        assert!(claims(&there, &old).is_ok());
        let first = here.keys(NOW).1;

        // Both at once end up with one key.
        let (one, other) = tokio::join!(here.distrust(&settings, NOW), there.distrust(&settings, NOW));
        assert_eq!((one?, other?), (vec![first.clone()], vec![first]));
        assert_eq!(here.jwks(), there.jwks());
        assert!(claims(&here, &old).is_err(), "it is not published any more");
        let new = made(&here)?;
        assert!(!Arc::ptr_eq(&old, &new));
        claims(&there, &new)?;

        // One that is not asked follows when it looks.
        let before = made(&there)?;
        here.distrust(&settings, NOW).await?;
        assert!(Arc::ptr_eq(&before, &made(&there)?));
        there.rotate(&settings, NOW).await?;
        assert!(!Arc::ptr_eq(&before, &made(&there)?));
        assert_eq!(here.jwks(), there.jwks());
        Ok(())
    }

    #[test]
    fn the_plain_headers_say_what_the_configuration_wants() -> Outcome {
        let ada = known(Some("ada"), Some("ada@example.com"));
        let uuid = "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1";
        for (claim, user) in
            [(UserClaim::Uuid, uuid), (UserClaim::Email, "ada@example.com"), (UserClaim::Nickname, "ada")]
        {
            let settings = Settings { user_claim: claim, ..settings() };
            let route = route(IdentityOut::default())?;
            let sent = plain_headers(&settings, &route, &ada, &groups(&settings, &route, &ada));
            let sent: Vec<(&str, &str)> = sent
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("no text")))
                .collect();
            assert_eq!(
                sent,
                [
                    ("x-forwarded-user", user),
                    ("x-forwarded-email", "ada@example.com"),
                    ("x-forwarded-preferred-username", "ada"),
                    (
                        "x-forwarded-groups",
                        "acme,acme/administrators,acme/members,globex,globex/members,initech,initech/members"
                    ),
                ]
            );
        }
        let settings = Settings { user_claim: UserClaim::Email, ..settings() };
        let route = route(IdentityOut { plain_headers: PlainHeaders::Omit, ..IdentityOut::default() })?;
        assert_eq!(plain_headers(&settings, &route, &ada, &[]), []);
        Ok(())
    }

    #[test]
    fn an_app_is_told_the_groups_that_matter_to_it_if_it_wants() -> Outcome {
        let ada = known(None, None);
        let matching = route(IdentityOut { groups: GroupSelection::Matching, ..IdentityOut::default() })?;
        // What is only listed is not passed where the rule names it: it is no proof.
        assert_eq!(groups(&settings(), &matching, &ada), ["acme", "acme/administrators", "acme/members"]);
        let left = Settings { parts: TeamParts::Left, ..settings() };
        assert_eq!(groups(&left, &matching, &ada), ["acme"]);
        Ok(())
    }

    #[test]
    fn headers_of_the_operators_own_are_made_of_what_is_known() -> Outcome {
        let mapped = |name: &'static str, template: &str| -> Outcome<_> {
            Ok((HeaderName::from_static(name), template.parse()?))
        };
        let route = route(IdentityOut {
            plain_headers: PlainHeaders::Omit,
            headers: vec![
                mapped("x-webauth-user", "{email}")?,
                mapped("x-who", "{uuid} is {nickname}")?,
                mapped("x-roles", "{groups}")?,
            ],
            ..IdentityOut::default()
        })?;
        let list = ["acme".to_owned(), "globex".to_owned()];
        for (known, expected) in [
            (
                known(Some("ada"), Some("ada@example.com")),
                vec![
                    ("x-webauth-user", "ada@example.com"),
                    ("x-who", "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1 is ada"),
                    ("x-roles", "acme,globex"),
                ],
            ),
            (known(Some("ada, root"), None), vec![("x-roles", "acme,globex")]),
            (known(Some("ada\r\nX-Who: root"), None), vec![("x-roles", "acme,globex")]),
        ] {
            let sent = plain_headers(&settings(), &route, &known, &list);
            let sent: Vec<_> = sent
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("no text")))
                .collect();
            assert_eq!(sent, expected);
        }
        Ok(())
    }

    /// threats 9: people choose their names.
    #[tokio::test]
    async fn a_name_that_could_be_read_in_two_ways_is_left_to_the_assertion() -> Outcome {
        let folder = tempfile::tempdir()?;
        let settings = Settings { user_claim: UserClaim::Nickname, ..settings() };
        let assertions = assertions(folder.path(), &settings).await?;
        let route = route(IdentityOut::default())?;
        for nickname in [
            "ada,root",
            "ada\r\nX-Forwarded-User: root",
            "ada\nroot",
            "ada\0",
            "ada\troot",
            "ada\u{85}root",
            "ada\u{2028}root",
            "аda",
            "Lövelace",
            " root",
            "root ",
            "",
            "\u{202e}toor",
        ] {
            let known = known(Some(nickname), None);
            let outgoing =
                assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), NOW)?;
            let sent = headers(&outgoing);
            assert!(!sent.contains_key("x-forwarded-user"), "{nickname:?}");
            assert!(!sent.contains_key("x-forwarded-preferred-username"), "{nickname:?}");
            assert_eq!(claims(&assertions, &outgoing)?["preferred_username"], json!(nickname));
        }
        let known = known(Some("Ada L. (ops)"), None);
        let outgoing = assertions.outgoing(&Cache::default(), &settings, &occasion(&route, &known), NOW)?;
        assert_eq!(headers(&outgoing)["x-forwarded-user"], "Ada L. (ops)");
        Ok(())
    }
}
