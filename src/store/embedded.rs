//! The file backend: one process, one file, no server to run.
//!
//! Owns: every operation on the file. Must not know: how records are sealed, when
//! the disk is waited for.
//!
//! Reads run on the caller's thread, on a snapshot: microseconds from the cache, no waiting for writers.
//! Writes go through [`Writer`].

#[cfg(test)]
pub(super) mod full_disk;
mod leases;
mod renewal;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _};

use self::leases::Leases;
use super::lease::Lease;
use super::opening::{FILE, PidFile, admit, builder, compact, prepare, refused, unreadable};
use super::record::{STAMP_LEN, Sealer};
use super::writer::{
    ACCOUNTS, BY_ACCOUNT, FORMAT_KEY, GRANTS, Home, META, PINS, PROBE_KEY, SESSIONS, SIGNING_KEY, Tables,
    Writer,
};
use super::{AccountRecord, Error, Grant, Once, Pin, Swept, Version};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::identity::{AccountId, TeamId};
use crate::keys::{Keyring, SigningKeys};
use crate::session::{self, SessionKey, Standing};

/// How much is written to see whether writing works, in bytes: as much as the writes of some sign-ins together.
const PROBE: usize = 128 * 1024;

/// How many sessions a sweep looks at before it lets others have the thread.
const SWEEP_PAGE: usize = 256;

pub(super) struct Embedded {
    // Dropped first: it writes what is waiting.
    writer: Writer,
    home: Arc<Home>,
    sealer: Arc<Sealer>,
    leases: Arc<Leases>,
}

/// A write that was based on another version than the one that is there.
struct Mismatch;

impl Embedded {
    pub(super) fn open(dir: &Path, ring: Arc<Keyring>, entropy: Entropy) -> Result<Embedded, Error> {
        let file = dir.join(FILE);
        prepare(dir, &file)?;
        // Checked once, at the start: redb trusts a file that was closed in good order, and panics over one
        // that something else has changed since.
        let opened = builder().set_check_integrity_on_open(true).create(&file);
        let database = opened.map_err(|error| refused(dir, &file, error))?;
        let again = file.clone();
        Embedded::with(dir, file, database, Box::new(move || builder().open(&again)), ring, entropy)
    }

    fn with(
        dir: &Path,
        file: PathBuf,
        mut database: Database,
        opener: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
        ring: Arc<Keyring>,
        entropy: Entropy,
    ) -> Result<Embedded, Error> {
        compact(&file, &mut database);
        let file: Arc<Path> = file.into();
        let home = Arc::new(Home::new(Arc::clone(&file), database, opener));
        let sealer = Arc::new(Sealer::new(ring, entropy));
        admit(&home, &sealer)?;
        let leases = Leases::begin(&home).map_err(|error| unreadable(&file, error))?;
        let writer = Writer::start(Arc::clone(&home), PidFile::write(dir));
        let writer = writer.map_err(|source| unreadable(&file, source))?;
        Ok(Embedded { writer, home, sealer, leases: Arc::new(leases) })
    }

    pub(super) fn file(&self) -> &Path {
        &self.home.file
    }

    pub(super) async fn put_session(&self, key: SessionKey, record: &session::Record) -> Result<(), Error> {
        let value = self.sealer.session(key, record);
        let (account, sealer) = (record.account, Arc::clone(&self.sealer));
        self.writer
            .run(move |tables| {
                end(tables, &sealer, key)?;
                tables.sessions.insert(&key.0, value.as_slice())?;
                tables.by_account.insert(&account_and_key(account, key), ())?;
                Ok(())
            })
            .await
    }

    pub(super) fn session(&self, key: SessionKey) -> Result<Option<session::Record>, Error> {
        self.home.read(|reading| {
            let value = reading.open_table(SESSIONS)?.get(&key.0)?;
            Ok(value.and_then(|value| self.sealer.open_session(key, value.value())))
        })
    }

    pub(super) async fn touch_sessions(
        &self,
        touches: Vec<(SessionKey, Timestamp)>,
    ) -> Result<Vec<SessionKey>, Error> {
        if touches.is_empty() {
            return Ok(Vec::new());
        }
        self.writer
            .run(move |tables| {
                let mut missing = Vec::new();
                for (key, at) in &touches {
                    let Some(value) = tables.sessions.get(&key.0)?.map(|value| value.value().to_vec()) else {
                        missing.push(*key);
                        continue;
                    };
                    let mut touched = value;
                    let Some(stamp) = touched.first_chunk_mut::<STAMP_LEN>() else { continue };
                    if u64::from_be_bytes(*stamp) < at.unix_millis() {
                        *stamp = at.unix_millis().to_be_bytes();
                        tables.sessions.insert(&key.0, touched.as_slice())?;
                    }
                }
                Ok(missing)
            })
            .await
    }

    pub(super) async fn add_session_host(&self, key: SessionKey, host: &str) -> Result<bool, Error> {
        let (host, sealer): (Box<str>, _) = (host.into(), Arc::clone(&self.sealer));
        self.writer
            .run(move |tables| {
                let there = tables.sessions.get(&key.0)?.map(|value| value.value().to_vec());
                let Some(value) = there else { return Ok(false) };
                if let Some(value) = sealer.with_host(key, &value, &host) {
                    tables.sessions.insert(&key.0, value.as_slice())?;
                }
                Ok(true)
            })
            .await
    }

    pub(super) async fn end_session(&self, key: SessionKey) -> Result<bool, Error> {
        let sealer = Arc::clone(&self.sealer);
        self.writer.run(move |tables| end(tables, &sealer, key)).await
    }

    pub(super) async fn end_account_sessions(&self, account: AccountId) -> Result<Vec<SessionKey>, Error> {
        self.writer
            .run(move |tables| {
                let (first, last) = all_of(account);
                let ended: Result<Vec<_>, _> = tables
                    .by_account
                    .extract_from_if::<&[u8; 48], _>(&first..=&last, |_, ()| true)?
                    .map(|entry| entry.map(|(pair, _)| key_of(pair.value())))
                    .collect();
                let ended = ended?;
                for key in &ended {
                    tables.sessions.remove(&key.0)?;
                }
                Ok(ended)
            })
            .await
    }

    pub(super) fn sessions_of(
        &self,
        account: AccountId,
    ) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        self.home.read(|reading| {
            let sessions = reading.open_table(SESSIONS)?;
            let (first, last) = all_of(account);
            let mut found = Vec::new();
            for entry in reading.open_table(BY_ACCOUNT)?.range::<&[u8; 48]>(&first..=&last)? {
                let key = key_of(entry?.0.value());
                let value = sessions.get(&key.0)?;
                let record = value.and_then(|value| self.sealer.open_session(key, value.value()));
                found.extend(record.map(|record| (key, record)));
            }
            Ok(found)
        })
    }

    pub(super) fn session_count(&self) -> Result<u64, Error> {
        self.home.read(|reading| Ok(reading.open_table(SESSIONS)?.len()?))
    }

    pub(super) fn sessions(
        &self,
        after: Option<SessionKey>,
        limit: usize,
    ) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        self.home.read(|reading| {
            let mut page = Vec::new();
            for entry in rest_of(reading, after)? {
                if page.len() == limit {
                    break;
                }
                let (key, value) = entry?;
                let key = SessionKey(*key.value());
                page.extend(self.sealer.open_session(key, value.value()).map(|record| (key, record)));
            }
            Ok(page)
        })
    }

    pub(super) async fn consume_once(
        &self,
        kind: Once,
        id: [u8; 32],
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let mut key = [kind as u8; 33];
        key[1..].copy_from_slice(&id);
        self.writer
            .run(move |tables| {
                let fresh = tables.once_values.get(&key)?.is_none();
                if fresh {
                    tables.once_values.insert(&key, expires_at.unix_millis())?;
                }
                Ok(fresh)
            })
            .await
    }

    pub(super) fn grant(&self, account: AccountId) -> Result<Option<(Grant, Version)>, Error> {
        self.home.read(|reading| {
            let value = reading.open_table(GRANTS)?.get(&account.to_bytes())?;
            Ok(value.and_then(|value| self.sealer.open_grant(account, value.value())))
        })
    }

    pub(super) async fn put_grant(
        &self,
        account: AccountId,
        grant: &Grant,
        expected: Option<Version>,
    ) -> Result<Version, Error> {
        let version = Version::fresh(&self.sealer.entropy);
        let value = self.sealer.grant(account, version, grant);
        let key = account.to_bytes();
        let outcome = self.writer.run(move |tables| {
            let there = version_of(tables.grants.get(&key)?.as_ref().map(redb::AccessGuard::value));
            if expected.is_some_and(|expected| expected != there) {
                return Ok(Err(Mismatch));
            }
            tables.grants.insert(&key, value.as_slice())?;
            Ok(Ok(version))
        });
        outcome.await?.map_err(|Mismatch| Error::Conflict)
    }

    pub(super) async fn delete_grant(
        &self,
        account: AccountId,
        expected: Option<Version>,
    ) -> Result<bool, Error> {
        let key = account.to_bytes();
        let outcome = self.writer.run(move |tables| {
            let there = version_of(tables.grants.get(&key)?.as_ref().map(redb::AccessGuard::value));
            if expected.is_some_and(|expected| expected != there) {
                return Ok(Err(Mismatch));
            }
            Ok(Ok(tables.grants.remove(&key)?.is_some()))
        });
        outcome.await?.map_err(|Mismatch| Error::Conflict)
    }

    /// Up to `limit` accounts that have a grant, by uuid.
    pub(super) fn accounts_with_grant(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, Error> {
        let after = after.map(AccountId::to_bytes);
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        self.home.read(|reading| {
            let grants = reading.open_table(GRANTS)?;
            let mut page = Vec::new();
            for entry in grants.range::<&[u8; 16]>((from, Bound::Unbounded))?.take(limit) {
                page.push(AccountId::from_bytes(*entry?.0.value()));
            }
            Ok(page)
        })
    }

    pub(super) async fn put_account(&self, record: &AccountRecord) -> Result<(), Error> {
        let (key, value) = (record.identity.account().to_bytes(), self.sealer.account(record));
        self.writer
            .run(move |tables| {
                tables.accounts.insert(&key, value.as_slice())?;
                Ok(())
            })
            .await
    }

    pub(super) async fn put_account_under(&self, record: &AccountRecord, lease: &Lease) -> Result<(), Error> {
        let (key, value) = (record.identity.account().to_bytes(), self.sealer.account(record));
        let (leases, lease) = (Arc::clone(&self.leases), *lease);
        let outcome = self.writer.run(move |tables| {
            if !leases.is_last(&lease) {
                return Ok(Err(Mismatch));
            }
            tables.accounts.insert(&key, value.as_slice())?;
            Ok(Ok(()))
        });
        outcome.await?.map_err(|Mismatch| Error::Conflict)
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(super) fn account(&self, account: AccountId) -> Result<Option<AccountRecord>, Error> {
        self.home.read(|reading| {
            let value = reading.open_table(ACCOUNTS)?.get(&account.to_bytes())?;
            Ok(value.and_then(|value| self.sealer.open_account(account, value.value())))
        })
    }

    pub(super) fn signing_keys(&self) -> Result<(Option<SigningKeys>, Version), Error> {
        self.home.read(|reading| {
            let value = reading.open_table(META)?.get(SIGNING_KEY)?;
            let value = value.as_ref().map(redb::AccessGuard::value);
            Ok((value.and_then(|value| self.sealer.open_signing_keys(value)), version_of(value)))
        })
    }

    pub(super) async fn put_signing_keys(
        &self,
        keys: &SigningKeys,
        expected: Version,
    ) -> Result<Version, Error> {
        let version = Version::fresh(&self.sealer.entropy);
        let value = self.sealer.signing_keys(version, keys);
        let outcome = self.writer.run(move |tables| {
            let there = version_of(tables.meta.get(SIGNING_KEY)?.as_ref().map(redb::AccessGuard::value));
            if expected != there {
                return Ok(Err(Mismatch));
            }
            tables.meta.insert(SIGNING_KEY, value.as_slice())?;
            Ok(Ok(version))
        });
        outcome.await?.map_err(|Mismatch| Error::Conflict)
    }

    pub(super) fn pins(&self) -> Result<Vec<(Box<str>, TeamId)>, Error> {
        self.home.read(|reading| {
            let mut pins = Vec::new();
            for entry in reading.open_table(PINS)?.iter()? {
                let (slug, team) = entry?;
                pins.push((slug.value().into(), TeamId::from_bytes(*team.value())));
            }
            Ok(pins)
        })
    }

    pub(super) async fn pin_if_new(&self, slug: &str, team: TeamId) -> Result<Pin, Error> {
        let slug: Box<str> = slug.into();
        self.writer
            .run(move |tables| {
                let there = tables.pins.get(&*slug)?.map(|team| TeamId::from_bytes(*team.value()));
                Ok(match there {
                    Some(there) if there == team => Pin::Same,
                    Some(there) => Pin::Different(there),
                    None => {
                        tables.pins.insert(&*slug, &team.to_bytes())?;
                        Pin::New
                    }
                })
            })
            .await
    }

    pub(super) async fn unpin(&self, slug: &str) -> Result<bool, Error> {
        let slug: Box<str> = slug.into();
        self.writer.run(move |tables| Ok(tables.pins.remove(&*slug)?.is_some())).await
    }

    /// Looks at a snapshot page by page, and has each page's ended sessions judged again by the writer: a
    /// touch may have come in between.
    pub(super) async fn sweep(&self, now: Timestamp, settings: &session::Settings) -> Result<Swept, Error> {
        let (settings, mut swept, mut after) = (*settings, Swept::default(), None);
        loop {
            let page = self.home.read(|reading| {
                let (mut over, mut last) = (Vec::new(), None);
                for entry in rest_of(reading, after)?.take(SWEEP_PAGE) {
                    let (key, value) = entry?;
                    let key = SessionKey(*key.value());
                    last = Some(key);
                    if is_over(&self.sealer, key, value.value(), &settings, now) {
                        over.push(key);
                    }
                }
                Ok((over, last))
            });
            let (over, last) = page?;
            if !over.is_empty() {
                swept.sessions += self.sweep_sessions(over, now, settings).await?;
            }
            if last.is_none() {
                break;
            }
            after = last;
            tokio::task::yield_now().await;
        }
        let once_values = self.writer.run(move |tables| {
            let (before, now) = (tables.once_values.len()?, now.unix_millis());
            tables.once_values.retain(|_, expires_at| expires_at > now)?;
            Ok(before - tables.once_values.len()?)
        });
        swept.once_values = usize::try_from(once_values.await?).unwrap_or(usize::MAX);
        Ok(swept)
    }

    async fn sweep_sessions(
        &self,
        keys: Vec<SessionKey>,
        now: Timestamp,
        settings: session::Settings,
    ) -> Result<usize, Error> {
        let sealer = Arc::clone(&self.sealer);
        self.writer
            .run(move |tables| {
                let mut ended = 0;
                for key in &keys {
                    let over = tables
                        .sessions
                        .get(&key.0)?
                        .is_some_and(|value| is_over(&sealer, *key, value.value(), &settings, now));
                    if over && end(tables, &sealer, *key)? {
                        ended += 1;
                    }
                }
                Ok(ended)
            })
            .await
    }

    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.writer.run(|_| Ok(())).await
    }

    pub(super) async fn close(&self) -> Result<(), Error> {
        self.writer.close().await
    }

    pub(super) async fn healthy(&self) -> Result<(), Error> {
        let read = self.home.read(|reading| {
            reading.open_table(META)?.get(FORMAT_KEY)?;
            Ok(())
        });
        if read.is_ok() && self.home.fault().is_none() {
            return Ok(());
        }
        // Only a write opens the file anew and can tell whether the fault is gone; none may come by itself. A small one
        // would still find its place on a disk that is too full for a sign-in.
        self.writer
            .run(|tables| {
                tables.meta.insert(PROBE_KEY, [0; PROBE].as_slice())?;
                Ok(())
            })
            .await?;
        self.writer.run(|tables| Ok(tables.meta.remove(PROBE_KEY)?.is_some())).await?;
        Ok(())
    }

    pub(super) fn spoiled_records(&self) -> u64 {
        self.sealer.spoiled()
    }
}

type Step<T> = Result<T, redb::Error>;

/// Ends one session, in both tables. The account stands in the sealed record; if that does not open, its
/// entry is looked for: rare enough to read the whole table.
fn end(tables: &mut Tables<'_>, sealer: &Sealer, key: SessionKey) -> Step<bool> {
    let Some(value) = tables.sessions.remove(&key.0)?.map(|value| value.value().to_vec()) else {
        return Ok(false);
    };
    match sealer.open_session(key, &value) {
        Some(record) => {
            tables.by_account.remove(&account_and_key(record.account, key))?;
        }
        None => tables.by_account.retain(|pair, ()| key_of(pair) != key)?,
    }
    Ok(true)
}

/// What does not open is over too: nobody can use it.
fn is_over(
    sealer: &Sealer,
    key: SessionKey,
    value: &[u8],
    settings: &session::Settings,
    now: Timestamp,
) -> bool {
    sealer
        .open_session(key, value)
        .is_none_or(|record| session::standing(&record, record.last_used_at, settings, now) != Standing::Live)
}

fn rest_of(
    reading: &ReadTransaction,
    after: Option<SessionKey>,
) -> Step<redb::Range<'static, &'static [u8; 32], &'static [u8]>> {
    let sessions = reading.open_table(SESSIONS)?;
    Ok(match after {
        None => sessions.range::<&[u8; 32]>(..)?,
        Some(key) => sessions.range::<&[u8; 32]>((Bound::Excluded(&key.0), Bound::Unbounded))?,
    })
}

fn version_of(value: Option<&[u8]>) -> Version {
    let stamp = value.and_then(|value| value.first_chunk::<STAMP_LEN>());
    stamp.map_or(Version::ABSENT, |stamp| Version(u64::from_be_bytes(*stamp)))
}

fn account_and_key(account: AccountId, key: SessionKey) -> [u8; 48] {
    let mut pair = [0; 48];
    pair[..16].copy_from_slice(&account.to_bytes());
    pair[16..].copy_from_slice(&key.0);
    pair
}

fn key_of(pair: &[u8; 48]) -> SessionKey {
    let mut key = [0; 32];
    key.copy_from_slice(&pair[16..]);
    SessionKey(key)
}

fn all_of(account: AccountId) -> ([u8; 48], [u8; 48]) {
    (account_and_key(account, SessionKey([0; 32])), account_and_key(account, SessionKey([0xff; 32])))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::Ordering;

    use super::super::Fault;
    use super::super::opening::FORMAT;
    use super::super::writer::{CANARY_KEY, VERSION_KEY};
    use super::*;
    use crate::secret::Secret;

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    fn ada() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    fn ring() -> Outcome<Arc<Keyring>> {
        Ok(Arc::new(Keyring::from_keys(&[Secret::new([1; 32])])?))
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

    #[tokio::test]
    async fn a_full_disk_is_named_and_once_it_has_space_the_store_goes_on() -> Outcome {
        let dir = tempfile::tempdir()?;
        let (store, full) = full_disk::open(dir.path(), ring()?)?;
        store.put_grant(ada(), &grant("before"), None).await?;

        full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let refused = store.put_grant(ada(), &grant("lost"), None).await;
            assert!(matches!(refused, Err(Error::Unavailable { fault: Fault::DiskFull, .. })), "{refused:?}");
            let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                text.ends_with(
                    "teamgate.redb: the disk is full; free some space, teamgate goes on by itself"
                )
            );
            assert!(matches!(store.healthy().await, Err(Error::Unavailable { fault: Fault::DiskFull, .. })));
        }

        full.store(false, Ordering::SeqCst);
        store.healthy().await?;
        let kept = store.grant(ada())?.map(|(grant, _)| grant.access_token.expose().clone());
        assert_eq!(
            kept.as_deref(),
            Some("before"),
            "what was acknowledged is there, what was refused is not"
        );
        store.put_grant(ada(), &grant("after"), None).await?;
        assert!(store.grant(ada())?.is_some_and(|(grant, _)| grant.access_token.expose() == "after"));
        Ok(())
    }

    #[tokio::test]
    async fn a_file_system_that_became_read_only_or_fails_is_named_and_recovers() -> Outcome {
        for (kind, says) in [
            (io::ErrorKind::ReadOnlyFilesystem, "cannot be written"),
            (io::ErrorKind::PermissionDenied, "check its permissions"),
            (io::ErrorKind::QuotaExceeded, "the disk is full"),
            (io::ErrorKind::Other, "the disk fails"),
        ] {
            let dir = tempfile::tempdir()?;
            let (store, fails) = full_disk::open_where(dir.path(), ring()?, kind)?;
            store.put_grant(ada(), &grant("before"), None).await?;
            fails.store(true, Ordering::SeqCst);
            let refused = store.put_grant(ada(), &grant("lost"), None).await.err();
            let said = refused.map(|refused| refused.to_string()).unwrap_or_default();
            assert!(said.contains("teamgate.redb: ") && said.contains(says), "{said}");
            fails.store(false, Ordering::SeqCst);
            store.healthy().await?;
            let kept = store.grant(ada())?.map(|(grant, _)| grant.access_token.expose().clone());
            assert_eq!(kept.as_deref(), Some("before"), "{kind}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_record_that_does_not_open_is_absent_counted_and_swept() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Embedded::open(dir.path(), ring()?, Entropy::system())?;
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        let record = session::Record {
            account: ada(),
            begun_at: at,
            last_used_at: at,
            address: None,
            user_agent: None,
            hosts: Box::default(),
        };
        let key = SessionKey([1; 32]);
        store.put_session(key, &record).await?;
        store.put_grant(ada(), &grant("token"), None).await?;
        store
            .writer
            .run(move |tables| {
                let flip = |value: &[u8]| {
                    let mut value = value.to_vec();
                    value[30] ^= 1;
                    value
                };
                let session = tables.sessions.get(&key.0)?.map(|value| flip(value.value()));
                tables.sessions.insert(&key.0, session.unwrap_or_default().as_slice())?;
                let grant = tables.grants.get(&ada().to_bytes())?.map(|value| flip(value.value()));
                tables.grants.insert(&ada().to_bytes(), grant.unwrap_or_default().as_slice())?;
                Ok(())
            })
            .await?;
        assert_eq!(store.session(key)?, None);
        assert!(store.grant(ada())?.is_none());
        assert_eq!(store.spoiled_records(), 2);
        let settings = session::Settings {
            lifetime: std::time::Duration::from_secs(1000),
            idle: std::time::Duration::from_secs(1000),
        };
        assert_eq!(store.sweep(at, &settings).await?.sessions, 1);
        assert_eq!(store.end_account_sessions(ada()).await?, [], "the index knows it no more");
        Ok(())
    }

    #[tokio::test]
    async fn a_file_of_a_later_version_is_refused_and_left_as_it_is() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Embedded::open(dir.path(), ring()?, Entropy::system())?;
        let later = FORMAT + 1;
        let write = store.writer.run(move |tables| {
            tables.meta.insert(FORMAT_KEY, later.to_be_bytes().as_slice())?;
            assert_eq!(
                tables.meta.get(VERSION_KEY)?.map(|version| version.value().to_vec()).as_deref(),
                Some(env!("CARGO_PKG_VERSION").as_bytes())
            );
            tables.meta.insert(VERSION_KEY, b"9.1.0".as_slice())?;
            tables.meta.remove(CANARY_KEY)?;
            Ok(())
        });
        write.await?;
        drop(store);
        for _ in 0..2 {
            let refused = Embedded::open(dir.path(), ring()?, Entropy::system()).err();
            assert!(
                matches!(refused, Some(Error::NewerFormat { found, known: FORMAT, .. }) if found == later),
                "{refused:?}"
            );
            let said = refused.map(|refused| refused.to_string()).unwrap_or_default();
            assert!(said.contains("format 2, written by teamgate 9.1.0; this one knows format 1"), "{said}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_panic_in_one_operation_costs_that_one_only() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Embedded::open(dir.path(), ring()?, Entropy::system())?;
        store.put_grant(ada(), &grant("token"), None).await?;
        let broken = store.writer.run(|tables| {
            // As redb does over a damaged page.
            let nothing: &[u8] = tables.meta.get(PROBE_KEY)?.map_or(&[], |_| &[1]);
            Ok(nothing[0])
        });
        let broken = broken.await;
        assert!(matches!(broken, Err(Error::Unavailable { fault: Fault::Damaged, .. })), "{broken:?}");
        store.healthy().await?;
        assert!(store.grant(ada())?.is_some());
        Ok(())
    }
}
