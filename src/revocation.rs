//! What was ended, whether or not the store has taken it yet.
//!
//! Owns: [`Revocations`]: the sessions and accounts that were ended lately, and what of it is still owed to the store.
//! Must not know: live sessions, memberships, who asked for it.
//!
//! An end counts from the moment it is noted here, before the store is asked. A store that does not take it changes
//! nothing for whoever was ended; the end is owed, and written as soon as the store takes it ([`Revocations::settle`]).
//! What is owed cannot grow without bound: a store that takes no ends takes no new sessions either, and an end
//! that is older than a session may become is owed no more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use papaya::HashMap;
use tokio::sync::{Mutex, MutexGuard};

use crate::clock::Timestamp;
use crate::identity::AccountId;
use crate::session::{Record, SessionKey};
use crate::store::{Error, Store};
use crate::telemetry::audit::EndReason;

/// How long an end that is written is remembered: longer than any look-up takes that read the store before.
const TOMBSTONE: Duration = Duration::from_secs(300);
/// How many ends are written at once: they share one trip to the disk.
const TOGETHER: usize = 64;
/// Accounts take turns in this many rows; two of one row wait for each other without need.
const ROWS: usize = 64;

/// What was ended lately. Cheap to clone.
#[derive(Clone)]
pub struct Revocations(Arc<Inner>);

struct Inner {
    store: Store,
    sessions: HashMap<SessionKey, Revocation>,
    accounts: HashMap<AccountId, Revocation>,
    rows: [Mutex<()>; ROWS],
}

#[derive(Clone, Copy, Debug)]
struct Revocation {
    at: Timestamp,
    why: EndReason,
    written: bool,
}

impl Revocations {
    /// None yet.
    pub fn new(store: Store) -> Revocations {
        let rows = std::array::from_fn(|_| Mutex::new(()));
        Revocations(Arc::new(Inner { store, sessions: HashMap::new(), accounts: HashMap::new(), rows }))
    }

    /// Why the session under `key` was ended, if it was by itself and lately.
    pub fn of_session(&self, key: &SessionKey) -> Option<EndReason> {
        self.0.sessions.pin().get(key).map(|revocation| revocation.why)
    }

    /// Whether the session that `record` tells of was ended lately, by itself or with its account.
    pub fn covers(&self, key: &SessionKey, record: &Record) -> bool {
        let with_account = |revocation: &Revocation| record.begun_at <= revocation.at;
        self.of_session(key).is_some() || self.0.accounts.pin().get(&record.account).is_some_and(with_account)
    }

    /// Says that a session is over. From now on it is, here; [`Revocations::write_session`] tells the store. The
    /// first reason counts.
    pub fn note_session(&self, key: SessionKey, why: EndReason, now: Timestamp) {
        self.0.sessions.pin().get_or_insert(key, Revocation { at: now, why, written: false });
    }

    /// Says that a session is over because another replica has ended it: nothing is owed to the store.
    pub fn note_elsewhere(&self, key: SessionKey, now: Timestamp) {
        let revocation = Revocation { at: now, why: EndReason::Elsewhere, written: true };
        self.0.sessions.pin().get_or_insert(key, revocation);
    }

    /// Tells the store what was noted of a session. Whether it was there.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then it is owed.
    pub async fn write_session(&self, key: SessionKey) -> Result<bool, Error> {
        let was_there = self.0.store.end_session(key).await?;
        self.0.sessions.pin().update(key, |noted| Revocation { written: true, ..*noted });
        Ok(was_there)
    }

    /// Waits until nobody else of this process signs the account in or ends it.
    pub async fn turn(&self, account: AccountId) -> Turn<'_> {
        let row = usize::from(account.to_bytes()[0]) % ROWS;
        Turn { of: self, account, _row: self.0.rows[row].lock().await }
    }

    /// Writes what is owed. How many ends that were.
    ///
    /// # Errors
    ///
    /// The first; everything was tried.
    pub async fn settle(&self) -> Result<u64, Error> {
        let keys = owed(&self.0.sessions);
        let sessions = stream::iter(keys).map(async |key| self.write_session(key).await.map(|_| ()));
        let accounts = owed(&self.0.accounts);
        let accounts = stream::iter(accounts).map(async |account| self.turn(account).await.settle().await);
        let (mut written, mut failed) = (0, None);
        let mut outcomes = sessions.buffer_unordered(TOGETHER).boxed();
        while let Some(outcome) = outcomes.next().await {
            tally(outcome, &mut written, &mut failed);
        }
        let mut outcomes = accounts.buffer_unordered(TOGETHER).boxed();
        while let Some(outcome) = outcomes.next().await {
            tally(outcome, &mut written, &mut failed);
        }
        failed.map_or(Ok(written), Err)
    }

    /// Whether the end of this session is still owed.
    pub fn owes(&self, key: &SessionKey) -> bool {
        self.0.sessions.pin().get(key).is_some_and(|revocation| !revocation.written)
    }

    /// How many ends are owed.
    pub fn owed(&self) -> usize {
        owed(&self.0.sessions).len() + owed(&self.0.accounts).len()
    }

    /// Forgets what matters no more: what is written, after a while, and what is older than `lifetime`, since by
    /// then the sessions are over by their age.
    pub fn forget(&self, lifetime: Duration, now: Timestamp) {
        let matters = |revocation: &Revocation| {
            let kept_for = if revocation.written { TOMBSTONE } else { lifetime.max(TOMBSTONE) };
            now.since(revocation.at) < kept_for
        };
        self.0.sessions.pin().retain(|_, revocation| matters(revocation));
        self.0.accounts.pin().retain(|_, revocation| matters(revocation));
    }
}

fn owed<K: Copy + std::hash::Hash + Eq>(all: &HashMap<K, Revocation>) -> Vec<K> {
    all.pin().iter().filter(|(_, revocation)| !revocation.written).map(|(key, _)| *key).collect()
}

fn tally(outcome: Result<(), Error>, written: &mut u64, failed: &mut Option<Error>) {
    match outcome {
        Ok(()) => *written += 1,
        Err(error) => *failed = failed.take().or(Some(error)),
    }
}

/// The turn of whoever signs an account in, or ends it: one of them at a time. Else an end could take away the tokens
/// that a sign-in has just brought, and leave its session.
pub struct Turn<'a> {
    of: &'a Revocations,
    account: AccountId,
    _row: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Ends every session that the account has, and deletes its tokens. Which sessions those were.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then it is owed: every session that was begun until `now`, and the tokens
    /// that were had by then.
    pub async fn end(&self, why: EndReason, now: Timestamp) -> Result<Vec<SessionKey>, Error> {
        let (inner, account) = (&self.of.0, self.account);
        // The latest covers the most.
        inner.accounts.pin().insert(account, Revocation { at: now, why, written: false });
        // Which tokens are meant, before anything else: a sign-in at another replica may bring new ones meanwhile.
        let grant = inner.store.grant(account).await?;
        let ended = inner.store.end_account_sessions(account).await?;
        for key in &ended {
            inner.sessions.pin().insert(*key, Revocation { at: now, why, written: true });
        }
        if let Some((_, version)) = grant {
            self.forget_tokens(version).await?;
        }
        self.mark_written(now);
        Ok(ended)
    }

    /// Writes the end of the account, if one is owed. What came after it stays.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then it is still owed.
    pub async fn settle(&self) -> Result<(), Error> {
        let (inner, account) = (&self.of.0, self.account);
        let due = inner.accounts.pin().get(&account).filter(|noted| !noted.written).map(|noted| noted.at);
        let Some(at) = due else { return Ok(()) };
        for (key, record) in inner.store.sessions_of(account).await? {
            if record.begun_at <= at {
                inner.store.end_session(key).await?;
            }
        }
        if let Some((grant, version)) = inner.store.grant(account).await?
            && grant.obtained_at <= at
        {
            self.forget_tokens(version).await?;
        }
        self.mark_written(at);
        Ok(())
    }

    /// Deletes these tokens and no others.
    async fn forget_tokens(&self, version: crate::store::Version) -> Result<(), Error> {
        match self.of.0.store.delete_grant(self.account, Some(version)).await {
            Ok(_) | Err(Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn mark_written(&self, at: Timestamp) {
        self.of
            .0
            .accounts
            .pin()
            .update(self.account, |noted| Revocation { written: noted.written || noted.at <= at, ..*noted });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::keys::Keyring;
    use crate::secret::Secret;
    use crate::store::Grant;
    use crate::telemetry::Telemetry;

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn ada() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    fn bob() -> AccountId {
        AccountId::from_bytes([2; 16])
    }

    fn key(number: u8) -> SessionKey {
        SessionKey([number; 32])
    }

    struct Place {
        store: Store,
        full: Arc<AtomicBool>,
        _folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Outcome<Place> {
            let folder = tempfile::tempdir()?;
            let ring = Arc::new(Keyring::from_keys(&[Secret::new([1; 32])])?);
            let metrics = Telemetry::unheard()?.metrics;
            let (store, full) = Store::on_a_disk_that_fills(folder.path(), ring, metrics)?;
            Ok(Place { store, full, _folder: folder })
        }

        async fn sign_in(&self, account: AccountId, session: u8, now: u64) -> Outcome {
            let grant = Grant {
                access_token: Secret::new("access".to_owned()),
                refresh_token: None,
                expires_at: at(now + 7_200),
                scopes: None,
                obtained_at: at(now),
                refreshing_since: None,
            };
            self.store.put_grant(account, &grant, None).await?;
            let record = record(account, now);
            Ok(self.store.put_session(key(session), &record).await?)
        }

        async fn stored(&self) -> Outcome<Vec<SessionKey>> {
            Ok(self.store.sessions(None, 100).await?.into_iter().map(|(key, _)| key).collect())
        }
    }

    fn record(account: AccountId, begun: u64) -> Record {
        Record {
            account,
            begun_at: at(begun),
            last_used_at: at(begun),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        }
    }

    #[tokio::test]
    async fn what_the_store_does_not_take_counts_at_once_and_is_made_good() -> Outcome {
        let place = Place::new()?;
        let revocations = Revocations::new(place.store.clone());
        for (account, session) in [(ada(), 1), (ada(), 2), (bob(), 3), (bob(), 4)] {
            place.sign_in(account, session, 0).await?;
        }
        place.full.store(true, Ordering::SeqCst);
        revocations.note_session(key(1), EndReason::SignedOut, at(10));
        assert!(revocations.write_session(key(1)).await.is_err());
        assert!(revocations.turn(bob()).await.end(EndReason::Revoked, at(10)).await.is_err());
        for _ in 0..2 {
            assert!(revocations.settle().await.is_err());
            assert_eq!(revocations.owed(), 2);
        }
        assert_eq!(revocations.of_session(&key(1)), Some(EndReason::SignedOut));
        let covered = [(1, ada()), (2, ada()), (3, bob()), (4, bob())]
            .map(|(session, account)| revocations.covers(&key(session), &record(account, 0)));
        assert_eq!(covered, [true, false, true, true]);

        place.full.store(false, Ordering::SeqCst);
        place.store.healthy().await?;
        assert_eq!(place.stored().await?.len(), 4);
        assert_eq!(revocations.settle().await?, 2);
        assert_eq!(place.stored().await?, [key(2)]);
        assert!(place.store.grant(ada()).await?.is_some() && place.store.grant(bob()).await?.is_none());
        assert_eq!((revocations.owed(), revocations.settle().await?), (0, 0));
        Ok(())
    }

    #[tokio::test]
    async fn an_end_that_is_made_good_late_takes_nothing_that_came_after_it() -> Outcome {
        let place = Place::new()?;
        let revocations = Revocations::new(place.store.clone());
        place.sign_in(ada(), 1, 0).await?;
        place.full.store(true, Ordering::SeqCst);
        assert!(revocations.turn(ada()).await.end(EndReason::Revoked, at(10)).await.is_err());
        place.full.store(false, Ordering::SeqCst);
        // By another replica, which does not know what this one owes.
        place.sign_in(ada(), 2, 11).await?;
        assert!(!revocations.covers(&key(2), &record(ada(), 11)));
        revocations.settle().await?;
        assert_eq!(place.stored().await?, [key(2)]);
        assert!(place.store.grant(ada()).await?.is_some());
        Ok(())
    }

    #[tokio::test]
    async fn what_is_owed_is_remembered_as_long_as_a_session_may_live_and_what_is_written_for_minutes()
    -> Outcome {
        let place = Place::new()?;
        let revocations = Revocations::new(place.store.clone());
        revocations.note_session(key(1), EndReason::SignedOut, at(0));
        revocations.write_session(key(1)).await?;
        revocations.note_session(key(2), EndReason::SignedOut, at(0));
        let remembered = || [1, 2].map(|session| revocations.of_session(&key(session)).is_some());
        revocations.forget(DAY, at(299));
        assert_eq!(remembered(), [true, true]);
        revocations.forget(DAY, at(300));
        assert_eq!(remembered(), [false, true]);
        revocations.forget(DAY, at(86_399));
        assert_eq!(remembered(), [false, true]);
        revocations.forget(DAY, at(86_400));
        assert_eq!(remembered(), [false, false]);
        Ok(())
    }
}
