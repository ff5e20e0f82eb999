//! Sealing anew under the first key, while others read and write; and what each key still opens.
//!
//! Owns: both passes over the file. Must not know: when a key is new, who may delete one.
//!
//! A page at a time, each in a transaction of its own, which reads every record again before it seals it: what
//! was ended or written in between stays as it is.

use std::collections::HashMap;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable as _, Table, TableDefinition};

use super::super::record::{STAMP_LEN, Sealer};
use super::super::writer::{ACCOUNTS, CANARY_KEY, GRANTS, META, SESSIONS, SIGNING_KEY};
use super::super::{Error, KeyUse};
use super::{Embedded, Step};
use crate::keys::{KeyId, Keyring, Purpose};
use crate::session::SessionKey;

/// How many records a pass looks at before it lets others have the thread.
const PAGE: usize = 256;

type Records<const N: usize> = TableDefinition<'static, &'static [u8; N], &'static [u8]>;

impl Embedded {
    /// Seals under the first key what is sealed under another of ours. How many records that were.
    pub(in super::super) async fn renew(&self) -> Result<u64, Error> {
        let mut renewed = 0;
        let mut after = None;
        loop {
            let (due, last) = self.due(SESSIONS, after)?;
            if !due.is_empty() {
                let sealer = self.sealer.clone();
                renewed += self
                    .writer
                    .run(move |tables| anew(&mut tables.sessions, &sealer, Purpose::Session, &due))
                    .await?;
            }
            if last.is_none() {
                break;
            }
            after = last;
            tokio::task::yield_now().await;
        }
        for (records, purpose) in [(GRANTS, Purpose::Grant), (ACCOUNTS, Purpose::Account)] {
            let mut after = None;
            loop {
                let (due, last) = self.due(records, after)?;
                if !due.is_empty() {
                    let sealer = self.sealer.clone();
                    renewed += self
                        .writer
                        .run(move |tables| match purpose {
                            Purpose::Grant => anew(&mut tables.grants, &sealer, purpose, &due),
                            _ => anew(&mut tables.accounts, &sealer, purpose, &due),
                        })
                        .await?;
                }
                if last.is_none() {
                    break;
                }
                after = last;
                tokio::task::yield_now().await;
            }
        }
        let sealer = self.sealer.clone();
        let last = self.writer.run(move |tables| {
            let keys = tables.meta.get(SIGNING_KEY)?.map(|value| value.value().to_vec());
            let keys = keys.and_then(|value| sealer.renewed(Purpose::SigningKey, b"", &value));
            if let Some(value) = &keys {
                tables.meta.insert(SIGNING_KEY, value.as_slice())?;
            }
            // Last: a start that finds it under an older key goes over everything again.
            let canary = tables.meta.get(CANARY_KEY)?.map(|value| value.value().to_vec());
            if canary.is_some_and(|canary| !sealer.ring.is_current(&canary)) {
                tables.meta.insert(CANARY_KEY, sealer.canary().as_slice())?;
            }
            Ok(u64::from(keys.is_some()))
        });
        Ok(renewed + last.await?)
    }

    /// What each key opens. Keys that are not in the ring are named too.
    pub(in super::super) async fn key_use(&self) -> Result<HashMap<KeyId, KeyUse>, Error> {
        let mut found = HashMap::new();
        let oldest = self.sealer.ring.ids().last();
        let mut after = None;
        loop {
            after = self.page(SESSIONS, after, |key, value| {
                count(&mut found, value);
                let begun = self.sealer.begun_under(SessionKey(*key), value).or(oldest);
                if let Some(begun) = begun {
                    found.entry(begun).or_default().sessions += 1;
                }
            })?;
            if after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        for records in [GRANTS, ACCOUNTS] {
            let mut after = None;
            loop {
                after = self.page(records, after, |_, value| count(&mut found, value))?;
                if after.is_none() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        self.home.read(|reading| {
            let meta = reading.open_table(META)?;
            if let Some(value) = meta.get(SIGNING_KEY)? {
                count(&mut found, value.value());
            }
            if let Some(canary) = meta.get(CANARY_KEY)?
                && let Some(key) = Keyring::sealed_under(canary.value())
            {
                found.entry(key).or_default().records += 1;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The keys on one page whose records are not sealed under the first key, and the last key of the page.
    #[expect(clippy::type_complexity, reason = "a list and a cursor")]
    fn due<const N: usize>(
        &self,
        records: Records<N>,
        after: Option<[u8; N]>,
    ) -> Result<(Vec<[u8; N]>, Option<[u8; N]>), Error> {
        let mut due = Vec::new();
        let last = self.page(records, after, |key, value| {
            if !value.get(STAMP_LEN..).is_some_and(|sealed| self.sealer.ring.is_current(sealed)) {
                due.push(*key);
            }
        })?;
        Ok((due, last))
    }

    /// Shows one page to `look`, and gives its last key; none at the end.
    fn page<const N: usize>(
        &self,
        records: Records<N>,
        after: Option<[u8; N]>,
        mut look: impl FnMut(&[u8; N], &[u8]),
    ) -> Result<Option<[u8; N]>, Error> {
        self.home.read(|reading: &ReadTransaction| {
            let table = reading.open_table(records)?;
            let rest = match &after {
                None => table.range::<&[u8; N]>(..)?,
                Some(key) => table.range::<&[u8; N]>((Bound::Excluded(key), Bound::Unbounded))?,
            };
            let mut last = None;
            for entry in rest.take(PAGE) {
                let (key, value) = entry?;
                look(key.value(), value.value());
                last = Some(*key.value());
            }
            Ok(last)
        })
    }
}

fn count(found: &mut HashMap<KeyId, KeyUse>, value: &[u8]) {
    if let Some(key) = value.get(STAMP_LEN..).and_then(Keyring::sealed_under) {
        found.entry(key).or_default().records += 1;
    }
}

/// Seals the records under `keys` anew that are there and open.
fn anew<const N: usize>(
    table: &mut Table<'_, &'static [u8; N], &'static [u8]>,
    sealer: &Sealer,
    purpose: Purpose,
    keys: &[[u8; N]],
) -> Step<u64> {
    let mut renewed = 0;
    for key in keys {
        let value = table.get(key)?.and_then(|value| sealer.renewed(purpose, key, value.value()));
        if let Some(value) = value {
            table.insert(key, value.as_slice())?;
            renewed += 1;
        }
    }
    Ok(renewed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::entropy::Entropy;
    use crate::identity::{AccountId, Claims, VerifiedIdentity};
    use crate::keys::{Algorithm, SigningKeys};
    use crate::membership::Membership;
    use crate::secret::Secret;
    use crate::session;
    use crate::store::{AccountRecord, Grant, Store, Version};
    use crate::telemetry::Telemetry;

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn ring(keys: &[u8]) -> Outcome<Keyring> {
        let keys: Vec<_> = keys.iter().map(|byte| Secret::new([*byte; 32])).collect();
        Ok(Keyring::from_keys(&keys)?)
    }

    fn name(key: u8) -> Outcome<KeyId> {
        Ok(ring(&[key])?.ids().next().ok_or("no key")?)
    }

    fn session_of(owner: u8) -> session::Record {
        session::Record {
            account: AccountId::from_bytes([owner; 16]),
            begun_at: NOW,
            last_used_at: NOW,
            address: None,
            user_agent: None,
            hosts: Box::default(),
        }
    }

    fn session_key(number: u32) -> SessionKey {
        let mut key = [0xab; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        SessionKey(key)
    }

    async fn fill(store: &Store, sessions: std::ops::Range<u32>) -> Outcome {
        let puts = sessions.map(async |number| store.put_session(session_key(number), &session_of(1)).await);
        futures_util::future::try_join_all(puts).await?;
        Ok(())
    }

    #[tokio::test]
    async fn everything_is_sealed_anew_while_the_store_is_open() -> Outcome {
        let (folder, shared) = (tempfile::tempdir()?, Arc::new(ring(&[1])?));
        let metrics = Telemetry::unheard()?.metrics;
        let opened = |ring| Store::open(folder.path(), ring, Entropy::system(), metrics.clone());
        let store = opened(shared.clone())?;
        // More than two pages.
        fill(&store, 0..600).await?;
        let owner = AccountId::from_bytes([1; 16]);
        let grant = Grant {
            access_token: Secret::new("token".to_owned()),
            refresh_token: None,
            expires_at: NOW,
            scopes: None,
            obtained_at: NOW,
            refreshing_since: None,
        };
        let version = store.put_grant(owner, &grant, None).await?;
        let identity = VerifiedIdentity::vouched_for(Claims {
            account: owner,
            display_name: "Ada".into(),
            nickname: None,
            email: None,
        });
        let membership = Membership::new(NOW, Vec::new());
        store.put_account(&AccountRecord { identity, profile_as_of: NOW, membership }).await?;
        let signing = SigningKeys::first(NOW, Algorithm::EdDsa)?;
        store.put_signing_keys(&signing, Version::ABSENT).await?;
        // Sessions, grant, account, signing keys, canary.
        let all = KeyUse { records: 604, sessions: 600 };
        assert_eq!(store.key_use().await?, HashMap::from([(name(1)?, all)]));

        shared.become_like(&ring(&[2, 1])?);
        fill(&store, 600..610).await?;
        let used = store.key_use().await?;
        assert_eq!(used[&name(1)?], all);
        assert_eq!(used[&name(2)?], KeyUse { records: 10, sessions: 10 });

        assert_eq!(store.renew().await?, 603);
        let used = store.key_use().await?;
        // Nothing is lost but cookies when the old key goes.
        assert_eq!(used[&name(1)?], KeyUse { records: 0, sessions: 600 });
        assert_eq!(used[&name(2)?], KeyUse { records: 614, sessions: 10 });
        assert_eq!(store.renew().await?, 0);

        shared.become_like(&ring(&[2])?);
        assert_eq!(store.session(session_key(599)).await?, Some(session_of(1)));
        assert_eq!(store.grant(owner).await?.map(|(_, version)| version), Some(version));
        assert!(store.account(owner).await?.is_some());
        assert_eq!(store.signing_keys().await?.0.map(|keys| keys.jwks()), Some(signing.jwks()));
        assert_eq!(store.spoiled_records(), 0);
        // And the next start needs the old key no more, either.
        store.close().await?;
        drop(store);
        let store = opened(Arc::new(ring(&[2])?))?;
        assert_eq!(store.session_count().await?, 610);
        Ok(())
    }

    #[tokio::test]
    async fn a_session_that_ends_during_a_renewal_stays_ended() -> Outcome {
        let (folder, shared) = (tempfile::tempdir()?, Arc::new(ring(&[1])?));
        let store =
            Store::open(folder.path(), shared.clone(), Entropy::system(), Telemetry::unheard()?.metrics)?;
        fill(&store, 0..600).await?;
        shared.become_like(&ring(&[2, 1])?);
        let ending = async {
            for number in (0..600).step_by(7) {
                store.end_session(session_key(number)).await?;
            }
            Ok(())
        };
        tokio::try_join!(store.renew(), ending)?;
        for number in 0..600 {
            let there = store.session(session_key(number)).await?.is_some();
            assert_eq!(there, number % 7 != 0, "{number}");
        }
        Ok(())
    }
}
