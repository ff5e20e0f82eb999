//! How records look at rest, whatever the backend.
//!
//! Owns: sealing and opening of each kind of record. A value is an 8-byte stamp in the clear (last use of a
//! session, version of a grant or of the signing keys), which the backend compares and replaces without
//! opening anything, and the sealed JSON. What does not open is counted and absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::{AccountRecord, Grant, Version};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::identity::{AccountId, Claims, Email, VerifiedIdentity};
use crate::keys::{KeyId, Keyring, Purpose, SigningKeys};
use crate::membership::Membership;
use crate::secret::Secret;
use crate::session::{self, SessionKey};

/// The clear bytes in front of each sealed value.
pub(super) const STAMP_LEN: usize = 8;

const CANARY: &[u8] = b"teamgate";

/// Seals and opens. Knows the keyring, and counts what does not open.
pub(super) struct Sealer {
    pub(super) ring: Arc<Keyring>,
    pub(super) entropy: Entropy,
    spoiled: AtomicU64,
}

impl Sealer {
    pub(super) fn new(ring: Arc<Keyring>, entropy: Entropy) -> Sealer {
        Sealer { ring, entropy, spoiled: AtomicU64::new(0) }
    }

    pub(super) fn spoiled(&self) -> u64 {
        self.spoiled.load(Ordering::Relaxed)
    }

    /// The last use stands in the stamp alone, so that a touch, by far the most frequent write, seals
    /// nothing and spends no nonce. Who can write the store could keep an idle session from going idle; its
    /// lifetime, which counts from the sealed beginning, ends it all the same.
    pub(super) fn session(&self, key: SessionKey, record: &session::Record) -> Vec<u8> {
        let begun_under = self.ring.ids().next().map(|id| id.to_string());
        let stored = StoredSession { record, begun_under };
        self.value(record.last_used_at.unix_millis(), Purpose::Session, &key.0, &stored)
    }

    /// The key that was first when the session was begun, and that its cookie needs, whatever key seals the
    /// record by now.
    pub(super) fn begun_under(&self, key: SessionKey, value: &[u8]) -> Option<KeyId> {
        let (_, read) = self.open::<BegunUnder>(Purpose::Session, &key.0, value)?;
        read.begun_under?.parse().ok()
    }

    pub(super) fn open_session(&self, key: SessionKey, value: &[u8]) -> Option<session::Record> {
        let opened = self.open::<session::Record>(Purpose::Session, &key.0, value);
        opened.map(|(last_used, record)| session::Record {
            last_used_at: Timestamp::from_unix_millis(last_used),
            ..record
        })
    }

    /// The same session, handed over to one more host; none if that is no news, or if it does not open.
    pub(super) fn with_host(&self, key: SessionKey, value: &[u8], host: &str) -> Option<Vec<u8>> {
        let mut record = self.open_session(key, value)?;
        if !record.add_host(host) {
            return None;
        }
        let begun_under = self.begun_under(key, value).map(|id| id.to_string());
        let stored = StoredSession { record: &record, begun_under };
        Some(self.value(record.last_used_at.unix_millis(), Purpose::Session, &key.0, &stored))
    }

    pub(super) fn account(&self, record: &AccountRecord) -> Vec<u8> {
        let identity = &record.identity;
        let stored = StoredAccount {
            display_name: identity.display_name().into(),
            nickname: identity.nickname().map(Into::into),
            email: identity.email().map(|email| email.as_str().into()),
            profile_as_of: record.profile_as_of,
            membership: record.membership.clone(),
        };
        self.value(0, Purpose::Account, &identity.account().to_bytes(), &stored)
    }

    /// What we sealed ourselves, from Bitbucket's answer, is as good as that answer: the seal vouches.
    pub(super) fn open_account(&self, account: AccountId, value: &[u8]) -> Option<AccountRecord> {
        let (_, stored) = self.open::<StoredAccount>(Purpose::Account, &account.to_bytes(), value)?;
        let claims = Claims {
            account,
            display_name: stored.display_name,
            nickname: stored.nickname,
            email: stored.email.as_deref().and_then(Email::parse),
        };
        Some(AccountRecord {
            identity: VerifiedIdentity::vouched_for(claims),
            profile_as_of: stored.profile_as_of,
            membership: stored.membership,
        })
    }

    pub(super) fn grant(&self, account: AccountId, version: Version, grant: &Grant) -> Vec<u8> {
        let stored = StoredGrant {
            access_token: grant.access_token.expose(),
            refresh_token: grant.refresh_token.as_ref().map(|token| token.expose().as_str()),
            expires_at: grant.expires_at,
            scopes: grant.scopes.as_deref(),
            obtained_at: grant.obtained_at,
            refreshing_since: grant.refreshing_since,
        };
        self.value(version.0, Purpose::Grant, &account.to_bytes(), &stored)
    }

    pub(super) fn open_grant(&self, account: AccountId, value: &[u8]) -> Option<(Grant, Version)> {
        let (version, read) = self.open::<ReadGrant>(Purpose::Grant, &account.to_bytes(), value)?;
        let grant = Grant {
            access_token: Secret::new(read.access_token),
            refresh_token: read.refresh_token.map(Secret::new),
            expires_at: read.expires_at,
            scopes: read.scopes,
            obtained_at: read.obtained_at,
            refreshing_since: read.refreshing_since,
        };
        Some((grant, Version(version)))
    }

    pub(super) fn signing_keys(&self, version: Version, keys: &SigningKeys) -> Vec<u8> {
        [version.0.to_be_bytes().as_slice(), &keys.seal(&self.ring, &self.entropy)].concat()
    }

    pub(super) fn open_signing_keys(&self, value: &[u8]) -> Option<SigningKeys> {
        let opened = value.get(STAMP_LEN..).map(|sealed| SigningKeys::open(&self.ring, sealed));
        opened.and_then(Result::ok).or_else(|| self.count())
    }

    pub(super) fn canary(&self) -> Vec<u8> {
        self.ring.seal(Purpose::StoreCanary, b"", CANARY, &self.entropy)
    }

    /// Whether a store with this canary was written under one of our keys, and which.
    pub(super) fn know(&self, canary: &[u8]) -> Acquaintance {
        match self.ring.open(Purpose::StoreCanary, b"", canary) {
            Ok(plain) if plain.matches(CANARY) && self.ring.is_current(canary) => Acquaintance::Current,
            Ok(plain) if plain.matches(CANARY) => Acquaintance::Older,
            _ => Acquaintance::Foreign,
        }
    }

    /// The same value, sealed under the first key; none if it is that already, or does not open.
    pub(super) fn renewed(&self, purpose: Purpose, context: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let (stamp, sealed) = value.split_first_chunk::<STAMP_LEN>()?;
        if self.ring.is_current(sealed) {
            return None;
        }
        let context = self.context(purpose, context, stamp);
        let plain = self.ring.open(purpose, &context, sealed).ok()?;
        let sealed = self.ring.seal(purpose, &context, plain.expose(), &self.entropy);
        Some([stamp.as_slice(), &sealed].concat())
    }

    fn value(&self, stamp: u64, purpose: Purpose, place: &[u8], record: &impl Serialize) -> Vec<u8> {
        let stamp = stamp.to_be_bytes();
        // Room for two tokens of 8 KiB: a buffer that grows would leave copies of them behind.
        let mut plain = Vec::with_capacity(if purpose == Purpose::Grant { 20 * 1024 } else { 512 });
        // Strings and numbers always serialise; were it otherwise, the value would not open again.
        if serde_json::to_writer(&mut plain, record).is_err() {
            plain.zeroize();
        }
        let plain = Secret::new(plain);
        let context = self.context(purpose, place, &stamp);
        let sealed = self.ring.seal(purpose, &context, plain.expose(), &self.entropy);
        [stamp.as_slice(), &sealed].concat()
    }

    fn open<T: DeserializeOwned>(&self, purpose: Purpose, place: &[u8], value: &[u8]) -> Option<(u64, T)> {
        let opened = value.split_first_chunk::<STAMP_LEN>().and_then(|(stamp, sealed)| {
            let plain = self.ring.open(purpose, &self.context(purpose, place, stamp), sealed).ok()?;
            let record = serde_json::from_slice(plain.expose()).ok()?;
            Some((u64::from_be_bytes(*stamp), record))
        });
        opened.or_else(|| self.count())
    }

    /// A grant is bound to its version too: an old grant under a newer version does not open.
    fn context(&self, purpose: Purpose, place: &[u8], stamp: &[u8; STAMP_LEN]) -> Vec<u8> {
        match purpose {
            Purpose::Grant => [place, stamp].concat(),
            _ => place.to_vec(),
        }
    }

    fn count<T>(&self) -> Option<T> {
        self.spoiled.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// How a keyring and a store know each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acquaintance {
    /// The store was last sealed under the first key.
    Current,
    /// It was sealed under a later one.
    Older,
    /// Under none of them.
    Foreign,
}

/// The name of the key is part of the record, so that it outlives a renewal; [`session::Record`] need not know.
#[derive(Serialize)]
struct StoredSession<'a> {
    #[serde(flatten)]
    record: &'a session::Record,
    begun_under: Option<String>,
}

#[derive(Deserialize)]
struct BegunUnder {
    begun_under: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredAccount {
    display_name: Box<str>,
    nickname: Option<Box<str>>,
    email: Option<Box<str>>,
    profile_as_of: Timestamp,
    membership: Membership,
}

#[derive(Serialize)]
struct StoredGrant<'a> {
    access_token: &'a str,
    refresh_token: Option<&'a str>,
    expires_at: Timestamp,
    scopes: Option<&'a str>,
    obtained_at: Timestamp,
    refreshing_since: Option<Timestamp>,
}

/// Lives for a moment, until its tokens are in custody.
#[derive(Deserialize)]
struct ReadGrant {
    access_token: String,
    refresh_token: Option<String>,
    expires_at: Timestamp,
    scopes: Option<String>,
    obtained_at: Timestamp,
    refreshing_since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BadKeys;

    fn sealer(keys: &[u8]) -> Result<Sealer, BadKeys> {
        let keys: Vec<_> = keys.iter().map(|byte| Secret::new([*byte; 32])).collect();
        Ok(Sealer::new(Arc::new(Keyring::from_keys(&keys)?), Entropy::system()))
    }

    fn grant(token: &str) -> Grant {
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        Grant {
            access_token: Secret::new(token.to_owned()),
            refresh_token: None,
            expires_at: at,
            scopes: None,
            obtained_at: at,
            refreshing_since: None,
        }
    }

    #[test]
    fn a_record_altered_anywhere_is_absent_and_counted() -> Result<(), BadKeys> {
        let (sealer, ada) = (sealer(&[1])?, AccountId::from_bytes([1; 16]));
        let value = sealer.grant(ada, Version(7), &grant("token"));
        for place in 0..value.len() {
            let mut altered = value.clone();
            altered[place] ^= 1;
            assert!(sealer.open_grant(ada, &altered).is_none(), "byte {place}");
        }
        assert_eq!(sealer.spoiled(), value.len() as u64);
        assert!(sealer.open_grant(ada, &value).is_some_and(|(_, version)| version == Version(7)));
        Ok(())
    }

    #[test]
    fn a_record_at_another_place_is_absent() -> Result<(), BadKeys> {
        let (sealer, ada, bob) =
            (sealer(&[1])?, AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let value = sealer.grant(ada, Version(7), &grant("token"));
        assert!(sealer.open_grant(bob, &value).is_none());
        let record = session::Record {
            account: ada,
            begun_at: Timestamp::from_unix_seconds(5),
            last_used_at: Timestamp::from_unix_seconds(6),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        };
        let value = sealer.session(SessionKey([1; 32]), &record);
        assert_eq!(sealer.open_session(SessionKey([1; 32]), &value), Some(record));
        assert_eq!(sealer.open_session(SessionKey([2; 32]), &value), None);
        Ok(())
    }

    #[test]
    fn a_renewed_value_needs_the_older_key_no_more() -> Result<(), BadKeys> {
        let (old, both, new) = (sealer(&[1])?, sealer(&[2, 1])?, sealer(&[2])?);
        let ada = AccountId::from_bytes([1; 16]);
        let value = old.grant(ada, Version(7), &grant("token"));
        assert!(new.open_grant(ada, &value).is_none());
        let renewed = both.renewed(Purpose::Grant, &ada.to_bytes(), &value).unwrap_or_default();
        assert!(new.open_grant(ada, &renewed).is_some_and(|(grant, version)| {
            version == Version(7) && grant.access_token.expose() == "token"
        }));
        assert!(both.renewed(Purpose::Grant, &ada.to_bytes(), &renewed).is_none());
        for (sealer, expected) in
            [(&old, Acquaintance::Current), (&both, Acquaintance::Older), (&new, Acquaintance::Foreign)]
        {
            assert_eq!(sealer.know(&old.canary()), expected);
        }
        Ok(())
    }
}
