//! The keys that sign assertions, and when one follows another.
//!
//! Owns: [`SigningKeys`], [`Signer`], rotation. Must not know: what an assertion says, where keys are stored.
//!
//! A key is published before it signs, and stays published until the last assertion under it has expired. So
//! an app that holds a copy of the JWKS verifies every assertion, as long as its copy is younger than
//! [`RotationSettings::publish_ahead`]. Rotation is a function of the set and `now`; nothing here remembers
//! when it last ran.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::jwks::{Jwk, PublicKey};
use super::{Keyring, Purpose, sealing};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

/// How assertions are signed. ES256 unless the apps' library wants another: it is the fast one that
/// everything can verify. RS256 takes thirty times as long to sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256. The default.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    const fn registered(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }

    /// The name in RFC 7518 and RFC 8037.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Rs256 => "RS256",
        }
    }
}

/// When keys come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RotationSettings {
    /// What new keys are. Another one than before makes a new key at once, which signs
    /// [`Self::publish_ahead`] later.
    pub algorithm: Algorithm,
    /// How long a key signs. Default 30 d; longer than `publish_ahead`.
    pub every: Duration,
    /// How long a key is published before it signs: the greatest age of a copy of the JWKS. Default 1 h.
    pub publish_ahead: Duration,
    /// How long a key stays published after it last signed: the lifetime of an assertion and what clocks may
    /// differ by. Default 5 min and 5 min.
    pub keep_after: Duration,
}

impl RotationSettings {
    /// The defaults, for assertions that live for `lifetime`.
    pub const fn for_assertions_of(algorithm: Algorithm, lifetime: Duration) -> RotationSettings {
        let hour = Duration::from_secs(3600);
        RotationSettings {
            algorithm,
            every: Duration::from_secs(30 * 24 * 3600),
            publish_ahead: hour,
            keep_after: lifetime.saturating_add(Duration::from_secs(300)),
        }
    }
}

/// Why something could not be signed, or a key not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// aws-lc made no key. Not known to happen.
    #[error("no signing key could be generated; restart teamgate")]
    Generation,
    /// Nothing was signed, because the key or the claims are not what they should be: a bug.
    #[error("the assertion cannot be signed ({0}); restart teamgate, and report this if it goes on")]
    Signature(#[from] jsonwebtoken::errors::Error),
    /// The stored keys do not open.
    #[error("the stored signing keys do not open ({0}); delete them, and apps fetch the JWKS again")]
    Sealed(#[from] sealing::Error),
    /// The stored keys open, but are none.
    #[error("the stored signing keys are damaged; delete them, and apps fetch the JWKS again")]
    Damaged,
}

/// The set of keys, in the order in which they sign. Never empty; cheap to clone.
#[derive(Clone, Debug)]
pub struct SigningKeys {
    keys: Vec<Arc<Signer>>,
}

/// What rotation wants at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// A new key is to be made, and signs from this moment on.
    pub make: Option<Timestamp>,
    /// The names of keys that nobody needs any more.
    pub drop: Vec<Box<str>>,
}

impl SigningKeys {
    /// The first set: one key, which signs at once, since there is nothing that it could take over from.
    ///
    /// Takes up to a second for RS256; run it where that blocks nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`].
    pub fn first(now: Timestamp, algorithm: Algorithm) -> Result<SigningKeys, Error> {
        Ok(SigningKeys { keys: vec![Arc::new(Signer::generate(algorithm, now, now)?)] })
    }

    /// What is due at `now`. Pure.
    pub fn plan(&self, now: Timestamp, settings: &RotationSettings) -> Plan {
        let newest = self.newest();
        let at_the_earliest = now.plus(settings.publish_ahead);
        let make = if newest.algorithm != settings.algorithm {
            // A key that was to sign later than that would come back after its successor.
            Some(at_the_earliest.max(newest.signs_from))
        } else {
            let turn = newest.signs_from.plus(settings.every);
            (at_the_earliest >= turn).then(|| at_the_earliest.max(turn))
        };
        let superseded = self.keys.windows(2).filter_map(|pair| {
            let gone = now >= pair[1].signs_from.plus(settings.keep_after);
            gone.then(|| pair[0].kid.clone())
        });
        Plan { make, drop: superseded.collect() }
    }

    /// The set as it should be at `now`, or none if it is that already. Store it before it is used: the
    /// replica that could not (another one was faster) takes the other's set.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`].
    pub fn rotate(&self, now: Timestamp, settings: &RotationSettings) -> Result<Option<SigningKeys>, Error> {
        let plan = self.plan(now, settings);
        if plan == Plan::default() {
            return Ok(None);
        }
        let stays = |key: &&Arc<Signer>| !plan.drop.contains(&key.kid);
        let mut keys: Vec<_> = self.keys.iter().filter(stays).cloned().collect();
        if let Some(signs_from) = plan.make {
            keys.push(Arc::new(Signer::generate(settings.algorithm, now, signs_from)?));
        }
        Ok(Some(SigningKeys { keys }))
    }

    /// The set with a new key that takes over as soon as it has been published for long enough, whatever the
    /// calendar says.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`].
    pub fn rotate_early(&self, now: Timestamp, settings: &RotationSettings) -> Result<SigningKeys, Error> {
        let signs_from = now.plus(settings.publish_ahead).max(self.newest().signs_from);
        let mut keys = self.keys.clone();
        keys.push(Arc::new(Signer::generate(settings.algorithm, now, signs_from)?));
        Ok(SigningKeys { keys })
    }

    /// The key that signs at `now`. A clock that was set back to before all of them gets the oldest.
    pub fn signer(&self, now: Timestamp) -> &Arc<Signer> {
        self.keys.iter().rev().find(|key| key.signs_from <= now).unwrap_or(&self.keys[0])
    }

    /// All keys, in the order in which they sign.
    pub fn all(&self) -> &[Arc<Signer>] {
        &self.keys
    }

    /// Whether one of them is called so.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| &*key.kid == kid)
    }

    /// The public half of every key, as the JWKS document (RFC 7517).
    pub fn jwks(&self) -> Bytes {
        super::jwks::document(self.keys.iter().map(|key| &key.public))
    }

    /// The set for the store, sealed whole: what may sign, and from when, is nobody else's to write.
    pub fn seal(&self, ring: &Keyring, entropy: &Entropy) -> Vec<u8> {
        let records: Vec<Record> = self.keys.iter().map(|key| key.record()).collect();
        // Strings and numbers always serialise; were it otherwise, an empty set does not open again.
        let plain = Secret::new(serde_json::to_vec(&records).unwrap_or_default());
        ring.seal(Purpose::SigningKey, b"", plain.expose(), entropy)
    }

    /// What [`Self::seal`] made.
    ///
    /// # Errors
    ///
    /// [`Error::Sealed`] or [`Error::Damaged`]: there are no usable keys in it.
    pub fn open(ring: &Keyring, sealed: &[u8]) -> Result<SigningKeys, Error> {
        let plain = ring.open(Purpose::SigningKey, b"", sealed)?;
        let records: Vec<Record> = serde_json::from_slice(plain.expose()).map_err(|_| Error::Damaged)?;
        let keys = records.iter().map(|record| Signer::read(record).map(Arc::new).ok_or(Error::Damaged));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(Error::Damaged) } else { Ok(SigningKeys { keys }) }
    }

    fn newest(&self) -> &Signer {
        &self.keys[self.keys.len() - 1]
    }
}

/// One key.
pub struct Signer {
    kid: Box<str>,
    algorithm: Algorithm,
    created_at: Timestamp,
    signs_from: Timestamp,
    pkcs8: Secret<Vec<u8>>,
    encoding: EncodingKey,
    public: Jwk,
    header: Header,
}

/// The three kinds of key pair.
pub(super) enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

/// A key at rest.
#[derive(Serialize, Deserialize)]
struct Record {
    algorithm: Algorithm,
    created_at: Timestamp,
    signs_from: Timestamp,
    pkcs8: String,
}

impl Drop for Record {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.pkcs8);
    }
}

impl Signer {
    /// The key's name in headers and in the JWKS: its thumbprint (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// When it was made and, with that, published.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// The moment from which it signs.
    pub fn signs_from(&self) -> Timestamp {
        self.signs_from
    }

    /// The signed JWT of `claims`, with `alg`, `kid` and `typ: JWT` in its header.
    ///
    /// Tens of microseconds for ES256 and EdDSA, about a millisecond for RS256: jsonwebtoken parses the key
    /// each time. Assertions are kept until near expiry, so it is not paid by the request.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`].
    pub fn sign<C: Serialize>(&self, claims: &C) -> Result<String, Error> {
        Ok(jsonwebtoken::encode(&self.header, claims, &self.encoding)?)
    }

    fn generate(algorithm: Algorithm, now: Timestamp, signs_from: Timestamp) -> Result<Signer, Error> {
        let pkcs8 = Pair::generate(algorithm).map_err(|_| Error::Generation)?;
        Signer::from_pkcs8(algorithm, pkcs8, now, signs_from).ok_or(Error::Generation)
    }

    fn from_pkcs8(
        algorithm: Algorithm,
        pkcs8: Secret<Vec<u8>>,
        created_at: Timestamp,
        signs_from: Timestamp,
    ) -> Option<Signer> {
        let pair = Pair::parse(algorithm, pkcs8.expose()).ok()?;
        let public = Jwk::new(PublicKey::of(&pair)?, algorithm);
        let kid: Box<str> = public.kid().into();
        let mut header = Header::new(algorithm.registered());
        header.kid = Some(kid.to_string());
        let encoding = encoding_key(algorithm, &pkcs8).ok()?;
        Some(Signer { kid, algorithm, created_at, signs_from, pkcs8, encoding, public, header })
    }

    fn record(&self) -> Record {
        Record {
            algorithm: self.algorithm,
            created_at: self.created_at,
            signs_from: self.signs_from,
            pkcs8: STANDARD.encode(self.pkcs8.expose()),
        }
    }

    fn read(record: &Record) -> Option<Signer> {
        let pkcs8 = Secret::new(STANDARD.decode(&record.pkcs8).ok()?);
        Signer::from_pkcs8(record.algorithm, pkcs8, record.created_at, record.signs_from)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} from {}", self.algorithm.name(), self.kid, self.signs_from)
    }
}

impl Pair {
    fn generate(algorithm: Algorithm) -> Result<Secret<Vec<u8>>, Unspecified> {
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
                pair.to_pkcs8v1()?.as_ref().to_vec()
            }
            Algorithm::EdDsa => Ed25519KeyPair::generate()?.to_pkcs8()?.as_ref().to_vec(),
            Algorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048)?.as_der()?.as_ref().to_vec(),
        };
        Ok(Secret::new(pkcs8))
    }

    fn parse(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Pair, KeyRejected> {
        Ok(match algorithm {
            Algorithm::Es256 => {
                Pair::Es256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)?)
            }
            Algorithm::EdDsa => Pair::EdDsa(Ed25519KeyPair::from_pkcs8(pkcs8)?),
            Algorithm::Rs256 => Pair::Rs256(Box::new(RsaKeyPair::from_pkcs8(pkcs8)?)),
        })
    }
}

/// The private half as jsonwebtoken takes it: PKCS#8, but for RSA, which it unwraps from PEM alone.
fn encoding_key(
    algorithm: Algorithm,
    pkcs8: &Secret<Vec<u8>>,
) -> Result<EncodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::Es256 => Ok(EncodingKey::from_ec_der(pkcs8.expose())),
        Algorithm::EdDsa => Ok(EncodingKey::from_ed_der(pkcs8.expose())),
        Algorithm::Rs256 => {
            let body = Secret::new(STANDARD.encode(pkcs8.expose()));
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", body.expose());
            EncodingKey::from_rsa_pem(Secret::new(pem).expose().as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use serde_json::{Value, json};

    use super::*;

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LIFETIME: Duration = Duration::from_secs(300);

    fn settings(algorithm: Algorithm) -> RotationSettings {
        RotationSettings::for_assertions_of(algorithm, LIFETIME)
    }

    /// What an app does: takes the key that the header names from its copy of the JWKS.
    fn verify(token: &str, jwks: &[u8]) -> Outcome<Value> {
        crate::keys::install_crypto_providers();
        let set: JwkSet = serde_json::from_slice(jwks)?;
        let header = decode_header(token)?;
        assert_eq!(header.typ.as_deref(), Some("JWT"));
        let jwk = set.find(&header.kid.ok_or("no kid")?).ok_or("the kid is not in the JWKS")?;
        let algorithm = jwk.common.key_algorithm.ok_or("no alg")?.to_string().parse()?;
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        Ok(decode::<Value>(token, &DecodingKey::from_jwk(jwk)?, &validation)?.claims)
    }

    #[test]
    fn an_assertion_verifies_under_the_published_key_whatever_the_algorithm() -> Outcome {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
            let keys = SigningKeys::first(START, algorithm)?;
            let claims = json!({ "sub": "ada", "groups": ["acme"] });
            let token = keys.signer(START).sign(&claims)?;
            assert_eq!(verify(&token, &keys.jwks())?, claims, "{algorithm:?}");

            let other = SigningKeys::first(START, algorithm)?;
            assert!(verify(&token, &other.jwks()).is_err(), "{algorithm:?}");
            let forged = token.replacen('.', ".A", 1);
            assert!(verify(&forged, &keys.jwks()).is_err(), "{algorithm:?}");
        }
        Ok(())
    }

    /// A hundred days in steps of five minutes. At every step one assertion is signed, and every one that has
    /// not expired is in the JWKS of that moment and in each copy of the last hour. Every sixth hour the
    /// signature itself is verified.
    #[test]
    fn through_a_hundred_days_every_living_assertion_verifies_under_every_fresh_jwks() -> Outcome {
        let mut keys = SigningKeys::first(START, Algorithm::Es256)?;
        let mut wanted = settings(Algorithm::Es256);
        let step = Duration::from_secs(300);
        let mut copies: Vec<(Timestamp, SigningKeys, Bytes)> = Vec::new();
        let mut living: Vec<(Timestamp, String, Box<str>)> = Vec::new();
        let mut signers = Vec::new();
        for count in 0..(100 * 24 * 12_u32) {
            let now = START.plus(step * count);
            if now >= START.plus(DAY * 80) {
                wanted.algorithm = Algorithm::EdDsa;
            }
            if let Some(next) = keys.rotate(now, &wanted)? {
                keys = next;
            }
            assert!(keys.all().len() <= 3, "{keys:?}");
            if count == 0
                || copies.last().is_none_or(|(_, set, _)| set.all().len() != keys.all().len())
                || now.since(copies[copies.len() - 1].0) >= HOUR / 4
            {
                copies.push((now, keys.clone(), keys.jwks()));
            }
            copies.retain(|(at, ..)| now.since(*at) <= HOUR);

            let signer = keys.signer(now);
            if signers.last() != Some(&signer.kid) {
                signers.push(signer.kid.clone());
            }
            living.push((now, signer.sign(&json!({ "sub": "ada" }))?, signer.kid.clone()));
            living.retain(|(at, ..)| now.since(*at) <= LIFETIME);
            for (_, token, kid) in &living {
                assert!(keys.all().iter().any(|key| key.kid == *kid), "{now}: now");
                for (at, set, jwks) in &copies {
                    assert!(set.all().iter().any(|key| key.kid == *kid), "{now}: copy of {at}");
                    if count % 72 == 0 {
                        verify(token, jwks)?;
                    }
                }
            }
        }
        // From day 0, 30 and 60, and the other algorithm from day 80.
        assert_eq!(signers.len(), 4, "{signers:?}");
        assert_eq!(keys.signer(START.plus(DAY * 100)).algorithm(), Algorithm::EdDsa);
        Ok(())
    }

    #[test]
    fn the_first_key_signs_at_once_and_the_next_an_hour_after_it_is_published() -> Outcome {
        let wanted = settings(Algorithm::Es256);
        let first = SigningKeys::first(START, Algorithm::Es256)?;
        assert_eq!(first.signer(START).signs_from(), START);
        assert_eq!(first.plan(START, &wanted), Plan::default());

        let turn = START.plus(wanted.every);
        let almost = turn.minus(HOUR).minus(Duration::from_millis(1));
        assert_eq!(first.plan(almost, &wanted), Plan::default());
        assert_eq!(first.plan(turn.minus(HOUR), &wanted).make, Some(turn));

        let second = first.rotate(turn.minus(HOUR), &wanted)?.ok_or("a new key is due")?;
        assert_eq!(second.signer(turn.minus(Duration::from_millis(1))).kid(), first.signer(START).kid());
        assert_ne!(second.signer(turn).kid(), first.signer(START).kid());
        assert_eq!(second.plan(turn, &wanted), Plan::default(), "one new key is enough");

        let over = turn.plus(wanted.keep_after);
        assert_eq!(second.plan(over.minus(Duration::from_millis(1)), &wanted), Plan::default());
        assert_eq!(second.plan(over, &wanted).drop, [Box::from(first.signer(START).kid())]);
        Ok(())
    }

    #[test]
    fn after_a_long_absence_the_new_key_still_waits_its_hour() -> Outcome {
        let wanted = settings(Algorithm::Es256);
        let keys = SigningKeys::first(START, Algorithm::Es256)?;
        let back = START.plus(DAY * 90);
        assert_eq!(keys.plan(back, &wanted).make, Some(back.plus(HOUR)));
        Ok(())
    }

    #[test]
    fn another_algorithm_makes_a_new_key_which_also_waits_its_hour() -> Outcome {
        let keys = SigningKeys::first(START, Algorithm::Es256)?;
        let wanted = settings(Algorithm::EdDsa);
        let now = START.plus(DAY);
        let changed = keys.rotate(now, &wanted)?.ok_or("a new key is due")?;
        assert_eq!(changed.signer(now).algorithm(), Algorithm::Es256);
        assert_eq!(changed.signer(now.plus(HOUR)).algorithm(), Algorithm::EdDsa);
        // And back again before the hour is over: the last word holds.
        let back = changed.rotate(now, &settings(Algorithm::Es256))?.ok_or("a new key is due")?;
        assert_eq!(back.signer(now.plus(HOUR)).algorithm(), Algorithm::Es256);
        Ok(())
    }

    #[test]
    fn a_clock_set_back_still_finds_a_signer() -> Outcome {
        let keys = SigningKeys::first(START, Algorithm::Es256)?;
        assert_eq!(keys.signer(START.minus(DAY)).kid(), keys.signer(START).kid());
        Ok(())
    }

    #[test]
    fn a_set_survives_the_store_and_its_private_part_is_not_in_it() -> Outcome {
        let entropy = Entropy::system();
        let ring = Keyring::ephemeral(&entropy)?;
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
            let keys = SigningKeys::first(START, algorithm)?;
            let sealed = keys.seal(&ring, &entropy);
            let private = keys.all()[0].pkcs8.expose();
            assert!(!sealed.windows(16).any(|window| window == &private[private.len() - 16..]));

            let opened = SigningKeys::open(&ring, &sealed)?;
            assert_eq!(opened.jwks(), keys.jwks());
            assert_eq!(opened.all()[0].signs_from(), START);
            verify(&opened.signer(START).sign(&json!({}))?, &keys.jwks())?;

            let mut altered = sealed.clone();
            altered[40] ^= 1;
            assert!(matches!(SigningKeys::open(&ring, &altered), Err(Error::Sealed(_))));
            let none = ring.seal(Purpose::SigningKey, b"", b"[]", &entropy);
            assert!(matches!(SigningKeys::open(&ring, &none), Err(Error::Damaged)));
        }
        Ok(())
    }
}
