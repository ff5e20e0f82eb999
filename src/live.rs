//! Live sessions: what the request path looks up, in one fast map.
//!
//! Owns: [`Live`] and [`LiveSession`]: a session's record, its handle to the account, what was made for it.
//! Must not know: cookies, routes, Bitbucket.
//!
//! The map is a cache of the store: a session that is not in it is read once and stays while it is used.

pub mod roster;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use papaya::HashMap;

use crate::assertion;
use crate::clock::Timestamp;
use crate::directory::{Account, Condition, Directory};
use crate::identity::AccountId;
use crate::session::{Record, SessionKey, Settings, Standing, standing};
use crate::store::{self, Store};
use crate::telemetry::audit::EndReason;

/// One signed-in browser, in memory.
pub struct LiveSession {
    /// What it is kept under.
    pub key: SessionKey,
    /// What was written down at its beginning.
    pub record: Record,
    /// Whose it is: the handle to what is known now.
    pub account: Arc<Account>,
    /// What apps are told about this session, made once per route and kept until near expiry.
    pub outgoing: assertion::Cache,
    used_at: AtomicU64,
    written_at: AtomicU64,
    ended: OnceLock<EndReason>,
}

impl LiveSession {
    /// When it was last used.
    pub fn used_at(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.used_at.load(Ordering::Relaxed))
    }

    /// Whether it still counts.
    pub fn is_live(&self, settings: &Settings, now: Timestamp) -> bool {
        self.over(settings, now).is_none()
    }

    /// Why it does not count any more; `None` while it does.
    pub fn over(&self, settings: &Settings, now: Timestamp) -> Option<Over> {
        if let Some(why) = self.end_reason() {
            Some(Over::Ended(why))
        } else if self.account.condition() == Condition::Ended {
            Some(Over::AccountEnded)
        } else if standing(&self.record, self.used_at(), settings, now) != Standing::Live {
            Some(Over::Expired)
        } else {
            None
        }
    }

    /// Why it was ended, if it was by itself; one that ended with its account, or by age, was not.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.ended.get().copied()
    }

    /// Notes that it was used: by a request, or by what a client says on an open connection. Once a second is
    /// enough, and spares the cache line.
    pub fn touch(&self, now: Timestamp) {
        if now.unix_millis().saturating_sub(self.used_at.load(Ordering::Relaxed)) >= 1_000 {
            self.used_at.store(now.unix_millis(), Ordering::Relaxed);
        }
        self.account.touch(now);
    }
}

/// Why a session does not count any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// It was ended by itself: its person signed out, say.
    Ended(EndReason),
    /// All sessions of its account were ended.
    AccountEnded,
    /// It is too old, or was unused for too long.
    Expired,
}

/// How many sessions are kept in memory, at most; the least recently used go first.
const CAPACITY: usize = 500_000;

/// The live sessions. Cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    sessions: HashMap<SessionKey, Arc<LiveSession>>,
    /// Ended a moment ago, and why: a look-up that read the store just before must not bring them back.
    ended: HashMap<SessionKey, (Timestamp, EndReason)>,
    store: Store,
    directory: Directory,
}

impl Live {
    /// None yet.
    pub fn new(store: Store, directory: Directory) -> Live {
        Live(Arc::new(Inner { sessions: HashMap::new(), ended: HashMap::new(), store, directory }))
    }

    /// The session under `key`, if it is in memory and still counts. The request path: one lookup, no I/O.
    pub fn in_memory(
        &self,
        key: &SessionKey,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Arc<LiveSession>> {
        let session = self.0.sessions.pin().get(key).cloned()?;
        if session.account.is_evicted() || !session.is_live(settings, now) {
            return None;
        }
        session.touch(now);
        Some(session)
    }

    /// The session under `key`, read from the store when memory does not have it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then nobody knows whether the session exists.
    pub async fn find(
        &self,
        key: SessionKey,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Option<Arc<LiveSession>>, store::Error> {
        if let Some(session) = self.in_memory(&key, settings, now) {
            return Ok(Some(session));
        }
        let Some(record) = self.0.store.session(key).await? else { return Ok(None) };
        let used_at = match self.0.sessions.pin().get(&key) {
            // It is here and does not count: the store may be behind, never ahead.
            Some(session) if !session.account.is_evicted() => return Ok(None),
            Some(session) => session.used_at().max(record.last_used_at),
            None => record.last_used_at,
        };
        if standing(&record, used_at, settings, now) != Standing::Live {
            return Ok(None);
        }
        let Some(account) = self.0.directory.account(record.account, now).await? else { return Ok(None) };
        // Asked again, since the account may have been ended, and read back anew, in between.
        if account.condition() == Condition::Ended || self.0.store.session(key).await?.is_none() {
            return Ok(None);
        }
        let session = self.keep(key, record, account, now);
        session.account.touch(now);
        Ok(session.is_live(settings, now).then_some(session))
    }

    /// What an open connection holds on to: the session as it is in memory now. One that was forgotten for want of
    /// requests is put back, so that whoever ends it finds it.
    pub fn hold(&self, session: &Arc<LiveSession>) -> Arc<LiveSession> {
        let sessions = self.0.sessions.pin();
        if let Some(current) = sessions.get(&session.key) {
            return current.clone();
        }
        if session.end_reason().is_none() {
            self.insert(session);
        }
        session.clone()
    }

    /// The same session with its account read anew: for one whose account was forgotten, and which hears of no
    /// change any more. That is no use of it. `None` when the store has ended it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then nobody knows whether it goes on.
    pub async fn renew(
        &self,
        session: &LiveSession,
        now: Timestamp,
    ) -> Result<Option<Arc<LiveSession>>, store::Error> {
        let Some(account) = self.0.directory.account(session.record.account, now).await? else {
            return Ok(None);
        };
        // Asked after the account: it may have been ended, and read back anew.
        if account.condition() == Condition::Ended || self.0.store.session(session.key).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.keep(session.key, session.record.clone(), account, session.used_at())))
    }

    /// Begins a session: it is on disk when this returns.
    ///
    /// # Errors
    ///
    /// When the store did not take it; there is no session then.
    pub async fn begin(
        &self,
        key: SessionKey,
        account: Arc<Account>,
        browser: Browser,
        now: Timestamp,
    ) -> Result<Arc<LiveSession>, store::Error> {
        let record = Record {
            account: account.id(),
            begun_at: now,
            last_used_at: now,
            address: browser.address,
            user_agent: browser.user_agent,
            hosts: Box::default(),
        };
        self.0.store.put_session(key, &record).await?;
        let session = self.keep(key, record, account, now);
        session.account.touch(now);
        Ok(session)
    }

    /// Ends one session, at once. Whether it was there to be ended.
    ///
    /// # Errors
    ///
    /// When the store did not take it: the session is over in memory, but a restart would bring it back.
    pub async fn end(&self, key: SessionKey, why: EndReason, now: Timestamp) -> Result<bool, store::Error> {
        self.0.ended.pin().insert(key, (now, why));
        let in_memory = self.0.sessions.pin().get(&key).cloned();
        if let Some(session) = &in_memory {
            // The first ending counts.
            let _ = session.ended.set(why);
        }
        self.0.directory.stir();
        let account = match in_memory {
            Some(session) => Some(session.record.account),
            None => self.0.store.session(key).await?.map(|record| record.account),
        };
        let was_there = self.0.store.end_session(key).await?;
        self.0.sessions.pin().remove(&key);
        if let Some(account) = account {
            self.0.directory.forget_unused(account, now).await?;
        }
        Ok(was_there)
    }

    /// The sessions of one account that are in memory or in the store, youngest first.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn of_account(&self, id: AccountId) -> Result<Vec<(SessionKey, Record)>, store::Error> {
        let mut sessions = self.0.store.sessions_of(id).await?;
        for (key, record) in &mut sessions {
            if let Some(live) = self.0.sessions.pin().get(key) {
                record.last_used_at = live.used_at();
            }
        }
        sessions.sort_by_key(|(_, record)| std::cmp::Reverse(record.begun_at));
        Ok(sessions)
    }

    /// What want of memory does to a session.
    #[cfg(test)]
    pub(crate) fn forget(&self, key: &SessionKey) {
        self.0.sessions.pin().remove(key);
    }

    /// How many are in memory.
    pub fn count(&self) -> usize {
        self.0.sessions.len()
    }

    /// Writes down what was used since last time and forgets what no longer counts. Called by a timer; requests
    /// never wait for it.
    ///
    /// # Errors
    ///
    /// When the store did not take it. The touches are kept and tried again.
    pub async fn tidy(&self, settings: &Settings, now: Timestamp) -> Result<(), store::Error> {
        let (mut used, mut over, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        {
            let sessions = self.0.sessions.pin();
            for (key, session) in sessions.iter() {
                if session.is_live(settings, now) {
                    kept.push((session.used_at(), *key));
                } else {
                    over.push(*key);
                }
                if session.used_at.load(Ordering::Relaxed) > session.written_at.load(Ordering::Relaxed) {
                    used.push((*key, session.used_at()));
                }
            }
        }
        if kept.len() > CAPACITY {
            kept.sort_unstable();
            over.extend(kept.drain(..kept.len() - CAPACITY).map(|(_, key)| key));
        }
        if !used.is_empty() {
            self.0.store.touch_sessions(used.clone()).await?;
        }
        self.0.ended.pin().retain(|_, (ended_at, _)| now.since(*ended_at) < TOMBSTONE);
        let sessions = self.0.sessions.pin();
        for (key, used_at) in used {
            if let Some(session) = sessions.get(&key) {
                session.written_at.store(used_at.unix_millis(), Ordering::Relaxed);
            }
        }
        for key in over {
            sessions.remove(&key);
        }
        Ok(())
    }

    fn keep(
        &self,
        key: SessionKey,
        record: Record,
        account: Arc<Account>,
        used_at: Timestamp,
    ) -> Arc<LiveSession> {
        let session = Arc::new(LiveSession {
            key,
            used_at: AtomicU64::new(used_at.unix_millis()),
            written_at: AtomicU64::new(record.last_used_at.unix_millis()),
            record,
            account,
            outgoing: assertion::Cache::default(),
            ended: OnceLock::new(),
        });
        self.insert(&session);
        session
    }

    fn insert(&self, session: &Arc<LiveSession>) {
        self.0.sessions.pin().insert(session.key, session.clone());
        // After the insertion: whichever of this and `end` comes second sees the other.
        if let Some((_, why)) = self.0.ended.pin().get(&session.key) {
            let _ = session.ended.set(*why);
        }
    }
}

/// What a browser shows of itself, kept for the person's own eyes.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// Where it is.
    pub address: Option<IpAddr>,
    /// What it calls itself, at most 200 bytes.
    pub user_agent: Option<Box<str>>,
}

/// How long an ended session is remembered; longer than any look-up takes.
const TOMBSTONE: Duration = Duration::from_secs(300);
/// How often [`Live::tidy`] is called.
pub const TIDY_EVERY: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::directory::Known;
    use crate::entropy::Entropy;
    use crate::identity::{Claims, VerifiedIdentity};
    use crate::keys::Keyring;
    use crate::membership::Membership;
    use crate::secret::Secret;
    use crate::store::Grant;
    use crate::telemetry::Telemetry;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    pub(super) const SETTINGS: Settings =
        Settings { lifetime: Duration::from_secs(1_000), idle: Duration::from_secs(100) };

    pub(super) fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    /// A store on disk, and gateways that come and go in front of it.
    pub(super) struct Place {
        store: Store,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    impl Place {
        pub(in crate::live) fn new() -> Result<Place, Box<dyn std::error::Error>> {
            let folder = tempfile::tempdir()?;
            let (entropy, telemetry) = (Entropy::system(), Telemetry::unheard()?);
            let ring = Arc::new(Keyring::ephemeral(&entropy)?);
            let store = Store::open(folder.path(), ring, entropy, telemetry.metrics)?;
            Ok(Place { store, clock: Clock::manual(at(0)), _folder: folder })
        }

        /// A gateway that knows nothing but what is on disk.
        pub(in crate::live) fn gateway(&self) -> Result<(Live, Directory), Box<dyn std::error::Error>> {
            let handle = tokio::runtime::Handle::current();
            let directory =
                Directory::new(self.store.clone(), self.clock.clone(), Telemetry::unheard()?, handle);
            Ok((Live::new(self.store.clone(), directory.clone()), directory))
        }
    }

    async fn ann(directory: &Directory) -> Result<Arc<Account>, store::Error> {
        account_of(directory, 1).await
    }

    pub(super) async fn account_of(directory: &Directory, person: u8) -> Result<Arc<Account>, store::Error> {
        let claims = Claims {
            account: AccountId::from_bytes([person; 16]),
            display_name: "Ann".into(),
            nickname: None,
            email: None,
        };
        let known = Known {
            identity: VerifiedIdentity::vouched_for(claims),
            profile_as_of: at(0),
            membership: Membership::new(at(0), Vec::new()),
        };
        let grant = Grant {
            access_token: Secret::new("access".to_owned()),
            refresh_token: None,
            expires_at: at(7_200),
            scopes: None,
            obtained_at: at(0),
            refreshing_since: None,
        };
        directory.learn(known, &grant, at(0)).await
    }

    const KEY: SessionKey = SessionKey([7; 32]);

    #[tokio::test]
    async fn a_session_is_found_by_a_gateway_that_never_saw_it_begin() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        live.begin(KEY, ann(&directory).await?, Browser::default(), at(0)).await?;
        let (other, _) = place.gateway()?;
        assert!(other.in_memory(&KEY, &SETTINGS, at(1)).is_none());
        let found = other.find(KEY, &SETTINGS, at(1)).await?;
        assert_eq!(found.map(|session| session.account.id()), Some(AccountId::from_bytes([1; 16])));
        assert!(other.in_memory(&KEY, &SETTINGS, at(2)).is_some());
        assert!(other.find(SessionKey([8; 32]), &SETTINGS, at(1)).await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn an_ended_session_is_over_in_memory_and_on_disk() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        live.begin(KEY, ann(&directory).await?, Browser::default(), at(0)).await?;
        live.end(KEY, EndReason::SignedOut, at(1)).await?;
        assert!(live.in_memory(&KEY, &SETTINGS, at(1)).is_none());
        assert!(live.find(KEY, &SETTINGS, at(1)).await?.is_none());
        let (other, _) = place.gateway()?;
        assert!(other.find(KEY, &SETTINGS, at(1)).await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn a_look_up_that_was_under_way_does_not_bring_an_ended_session_back() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let account = ann(&directory).await?;
        let session = live.begin(KEY, account.clone(), Browser::default(), at(0)).await?;
        live.end(KEY, EndReason::SignedOut, at(1)).await?;
        // What `find` does when it had read the record before the end and keeps it after.
        let late = live.keep(KEY, session.record.clone(), account, at(1));
        assert!(!late.is_live(&SETTINGS, at(1)));
        assert_eq!(late.end_reason(), Some(EndReason::SignedOut));
        assert!(live.in_memory(&KEY, &SETTINGS, at(1)).is_none());
        Ok(())
    }

    #[tokio::test]
    async fn an_ended_account_takes_all_its_sessions_along() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let account = ann(&directory).await?;
        let other_key = SessionKey([8; 32]);
        live.begin(KEY, account.clone(), Browser::default(), at(0)).await?;
        live.begin(other_key, account.clone(), Browser::default(), at(0)).await?;
        assert_eq!(directory.end(&account, EndReason::GrantWithdrawn).await?, 2);
        for key in [KEY, other_key] {
            assert!(live.find(key, &SETTINGS, at(1)).await?.is_none());
        }
        assert!(place.store.grant(account.id()).await?.is_none());
        // Signing in anew works, and leaves the old ones dead.
        let again = ann(&directory).await?;
        let new_key = SessionKey([9; 32]);
        live.begin(new_key, again, Browser::default(), at(2)).await?;
        assert!(live.find(new_key, &SETTINGS, at(2)).await?.is_some());
        assert!(live.find(KEY, &SETTINGS, at(2)).await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn uses_are_written_down_in_batches_and_survive() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        live.begin(KEY, ann(&directory).await?, Browser::default(), at(0)).await?;
        assert!(live.in_memory(&KEY, &SETTINGS, at(90)).is_some());
        live.tidy(&SETTINGS, at(91)).await?;
        // Idle by its beginning, alive by its last use.
        let (other, _) = place.gateway()?;
        assert!(other.find(KEY, &SETTINGS, at(150)).await?.is_some());
        Ok(())
    }

    #[tokio::test]
    async fn a_session_ends_by_disuse_and_by_age() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        live.begin(KEY, ann(&directory).await?, Browser::default(), at(0)).await?;
        for second in (50..1_000).step_by(50) {
            assert!(live.find(KEY, &SETTINGS, at(second)).await?.is_some(), "{second}");
        }
        assert!(live.find(KEY, &SETTINGS, at(1_000)).await?.is_none());
        live.tidy(&SETTINGS, at(1_000)).await?;
        assert_eq!(live.count(), 0);
        Ok(())
    }
}
