//! Live sessions: what the request path looks up, in one fast map.
//!
//! Owns: [`Live`] and [`LiveSession`]: when a session began and was used, its handle to the account, what was made for
//! it. Must not know: cookies, routes, Bitbucket.
//!
//! The map is a cache of the store: a session that is not in it is read once and stays while it is used. There may be a
//! million of them, so one is what a request needs and no more; what its browser said of itself stays in the store.

pub mod feed;
pub mod roster;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use papaya::HashMap;

use crate::assertion;
use crate::clock::Timestamp;
use crate::directory::{Account, Condition, Directory};
use crate::identity::AccountId;
use crate::revocation::Revocations;
use crate::session::{Record, SessionKey, Settings, Standing, standing};
use crate::store::{self, Store};
use crate::telemetry::audit::EndReason;

/// One signed-in browser, in memory. Its times are whole seconds, rounded down.
pub struct LiveSession {
    /// What it is kept under.
    pub key: SessionKey,
    /// Whose it is: the handle to what is known now.
    pub account: Arc<Account>,
    /// What apps are told about this session, made once per route and kept until near expiry.
    pub outgoing: assertion::Cache,
    begun_at: u32,
    used_at: AtomicU32,
    written_at: AtomicU32,
    /// 0: not by itself; else the place in [`EndReason::ALL`], from 1.
    ended: AtomicU8,
}

/// Until the year 2106.
fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.unix_seconds()).unwrap_or(u32::MAX)
}

impl LiveSession {
    /// When it was begun.
    pub fn begun_at(&self) -> Timestamp {
        Timestamp::from_unix_seconds(u64::from(self.begun_at))
    }

    /// When it was last used.
    pub fn used_at(&self) -> Timestamp {
        Timestamp::from_unix_seconds(u64::from(self.used_at.load(Ordering::Relaxed)))
    }

    /// What memory knows of its record.
    pub fn record(&self) -> Record {
        Record {
            account: self.account.id(),
            begun_at: self.begun_at(),
            last_used_at: self.used_at(),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        }
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
        } else if settings.standing(self.begun_at(), self.used_at(), now) != Standing::Live {
            Some(Over::Expired)
        } else {
            None
        }
    }

    /// Why it was ended, if it was by itself; one that ended with its account, or by age, was not.
    pub fn end_reason(&self) -> Option<EndReason> {
        let place = usize::from(self.ended.load(Ordering::Acquire)).checked_sub(1)?;
        EndReason::ALL.get(place).copied()
    }

    /// Ends it here. The first reason counts.
    fn end(&self, why: EndReason) {
        // There are a handful of them.
        let place = why as u8 + 1;
        let _ = self.ended.compare_exchange(0, place, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Notes that it was used: by a request, or by what a client says on an open connection. Once a second is
    /// enough, and spares the cache line.
    pub fn touch(&self, now: Timestamp) {
        if seconds(now) > self.used_at.load(Ordering::Relaxed) {
            self.used_at.store(seconds(now), Ordering::Relaxed);
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
const CAPACITY: usize = 2_000_000;
/// How many uses are written down in one operation: others come in between.
const TOUCHES: usize = 1_000;

/// The live sessions. Cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    sessions: HashMap<SessionKey, Arc<LiveSession>>,
    store: Store,
    directory: Directory,
}

impl Live {
    /// None yet.
    pub fn new(store: Store, directory: Directory) -> Live {
        Live(Arc::new(Inner { sessions: HashMap::new(), store, directory }))
    }

    /// What was ended lately: a look-up that read the store just before must not bring it back.
    fn revocations(&self) -> &Revocations {
        self.0.directory.revocations()
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
    /// When the store cannot be read, and memory does not know better: then nobody knows whether the session exists.
    pub async fn find(
        &self,
        key: SessionKey,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Option<Arc<LiveSession>>, store::Error> {
        if let Some(session) = self.in_memory(&key, settings, now) {
            return Ok(Some(session));
        }
        let here = || self.0.sessions.pin().get(&key).cloned();
        let is_over = |session: &LiveSession| match session.over(settings, now) {
            // The store may be behind, never ahead; but another replica may have seen it used.
            Some(Over::Expired) if self.0.store.is_shared() => false,
            over => over.is_some() && !session.account.is_evicted(),
        };
        if here().is_some_and(|session| is_over(&session)) || self.revocations().of_session(&key).is_some() {
            return Ok(None);
        }
        let Some(record) = self.0.store.session(key).await? else { return Ok(None) };
        let used_at = match here() {
            Some(session) if is_over(&session) => return Ok(None),
            // Somebody else has read it meanwhile.
            Some(session) if !session.account.is_evicted() && session.is_live(settings, now) => {
                return Ok(Some(session));
            }
            Some(session) => session.used_at().max(record.last_used_at),
            None => record.last_used_at,
        };
        if standing(&record, used_at, settings, now) != Standing::Live
            || self.revocations().covers(&key, &record)
        {
            return Ok(None);
        }
        let Some(account) = self.0.directory.account(record.account, now).await? else { return Ok(None) };
        // Asked again, since the account may have been ended, and read back anew, in between.
        if account.condition() == Condition::Ended || self.0.store.session(key).await?.is_none() {
            return Ok(None);
        }
        let session = self.keep(key, &record, account, now);
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
        let Some(account) = self.0.directory.account(session.account.id(), now).await? else {
            return Ok(None);
        };
        // Asked after the account: it may have been ended, and read back anew.
        let Some(record) = self.0.store.session(session.key).await? else { return Ok(None) };
        if account.condition() == Condition::Ended || self.revocations().covers(&session.key, &record) {
            return Ok(None);
        }
        Ok(Some(self.keep(session.key, &record, account, session.used_at())))
    }

    /// Begins a session: it is on disk when this returns. If the account was ended since its sign-in, so is this.
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
        let session = self.keep(key, &record, account, now);
        session.account.touch(now);
        if session.account.condition() == Condition::Ended {
            // That end may have looked for sessions before this one was there.
            self.end(key, EndReason::Revoked, now).await?;
        }
        Ok(session)
    }

    /// Ends one session, at once. Whether it was there to be ended.
    ///
    /// # Errors
    ///
    /// When the store did not take it: the session is over all the same, and the store is told when it is back. Until
    /// then a restart would bring it back, so nobody may be told that all is well.
    pub async fn end(&self, key: SessionKey, why: EndReason, now: Timestamp) -> Result<bool, store::Error> {
        self.revocations().note_session(key, why, now);
        let in_memory = self.0.sessions.pin().get(&key).cloned();
        if let Some(session) = &in_memory {
            session.end(why);
        }
        self.0.directory.stir();
        let account = match in_memory {
            Some(session) => Some(session.account.id()),
            // Only for the sake of its tokens, and a sweep looks for those, too.
            None => self.0.store.session(key).await.ok().flatten().map(|record| record.account),
        };
        let was_there = self.revocations().write_session(key).await?;
        self.0.sessions.pin().remove(&key);
        if let Some(account) = account {
            self.0.directory.forget_unused(account, now).await?;
        }
        Ok(was_there)
    }

    /// Tells the store the end of this session, if that is owed: for somebody who asks again after a failure.
    ///
    /// # Errors
    ///
    /// When the store still does not take it.
    pub async fn make_good(&self, key: SessionKey) -> Result<(), store::Error> {
        if self.revocations().owes(&key) {
            self.revocations().write_session(key).await?;
        }
        Ok(())
    }

    /// Tells the store every end that is owed to it. How many those were.
    ///
    /// # Errors
    ///
    /// When the store still does not take one of them.
    pub async fn settle(&self) -> Result<u64, store::Error> {
        self.revocations().settle().await
    }

    /// The sessions of one account that are in memory or in the store, youngest first.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn of_account(&self, id: AccountId) -> Result<Vec<(SessionKey, Record)>, store::Error> {
        let mut sessions = self.0.store.sessions_of(id).await?;
        sessions.retain(|(key, record)| !self.revocations().covers(key, record));
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
        let (mut used, mut over) = (Vec::new(), Vec::new());
        {
            let sessions = self.0.sessions.pin();
            for (key, session) in sessions.iter() {
                if !session.is_live(settings, now) {
                    over.push(*key);
                }
                if session.used_at.load(Ordering::Relaxed) > session.written_at.load(Ordering::Relaxed) {
                    used.push((*key, session.used_at()));
                }
                session.outgoing.let_go(now);
            }
        }
        for key in over {
            self.0.sessions.pin().remove(&key);
        }
        self.revocations().forget(settings.lifetime, now);
        for some in used.chunks(TOUCHES) {
            let missing = self.0.store.touch_sessions(some.to_vec()).await?;
            // Ended by another replica, whose word has not come.
            self.ended_elsewhere(&missing, now);
            let sessions = self.0.sessions.pin();
            for (key, used_at) in some {
                if let Some(session) = sessions.get(key) {
                    session.written_at.store(seconds(*used_at), Ordering::Relaxed);
                }
            }
        }
        // Only now: the store knows when they were used.
        self.make_room(CAPACITY);
        Ok(())
    }

    /// Forgets the least recently used beyond `capacity`.
    fn make_room(&self, capacity: usize) {
        let sessions = self.0.sessions.pin();
        let excess = sessions.len().saturating_sub(capacity);
        if excess == 0 {
            return;
        }
        let mut all: Vec<_> = sessions.iter().map(|(key, session)| (session.used_at(), *key)).collect();
        all.sort_unstable();
        for (_, key) in all.into_iter().take(excess) {
            sessions.remove(&key);
        }
    }

    fn keep(
        &self,
        key: SessionKey,
        record: &Record,
        account: Arc<Account>,
        used_at: Timestamp,
    ) -> Arc<LiveSession> {
        let session = Arc::new(LiveSession {
            key,
            account,
            outgoing: assertion::Cache::default(),
            begun_at: seconds(record.begun_at),
            used_at: AtomicU32::new(seconds(used_at)),
            written_at: AtomicU32::new(seconds(record.last_used_at)),
            ended: AtomicU8::new(0),
        });
        self.insert(&session);
        if self.revocations().covers(&key, record) {
            session.end(EndReason::Revoked);
        }
        session
    }

    fn insert(&self, session: &Arc<LiveSession>) {
        self.0.sessions.pin().insert(session.key, session.clone());
        // After the insertion: whichever of this and `end` comes second sees the other.
        if let Some(why) = self.revocations().of_session(&session.key) {
            session.end(why);
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

/// How often [`Live::tidy`] is called.
pub const TIDY_EVERY: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

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
        /// Whether its disk is.
        full: Arc<AtomicBool>,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    impl Place {
        pub(in crate::live) fn new() -> Result<Place, Box<dyn std::error::Error>> {
            let folder = tempfile::tempdir()?;
            let (entropy, telemetry) = (Entropy::system(), Telemetry::unheard()?);
            let ring = Arc::new(Keyring::ephemeral(&entropy)?);
            let (store, full) = Store::on_a_disk_that_fills(folder.path(), ring, telemetry.metrics)?;
            Ok(Place { store, full, clock: Clock::manual(at(0)), _folder: folder })
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
        let late = live.keep(KEY, &session.record(), account, at(1));
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

    #[test]
    fn a_session_is_what_a_request_needs_and_no_more() {
        // With its two counts, its place in the map and the map's own entry that is about 150 bytes.
        assert_eq!(std::mem::size_of::<LiveSession>(), 64);
    }

    #[tokio::test]
    async fn the_least_recently_used_are_forgotten_first_and_found_again() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let ann = ann(&directory).await?;
        let keys: Vec<_> = (1..=10).map(|n| SessionKey([n; 32])).collect();
        for (second, key) in (0..).zip(&keys) {
            live.begin(*key, ann.clone(), Browser::default(), at(second)).await?;
        }
        assert!(live.in_memory(&keys[0], &SETTINGS, at(20)).is_some());
        live.make_room(4);
        let kept: Vec<_> = keys.iter().map(|key| live.0.sessions.pin().contains_key(key)).collect();
        assert_eq!(kept, [true, false, false, false, false, false, false, true, true, true]);
        assert!(live.find(keys[3], &SETTINGS, at(21)).await?.is_some());
        Ok(())
    }

    #[tokio::test]
    async fn an_account_that_ends_during_its_sign_in_takes_that_along() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let account = ann(&directory).await?;
        directory.end(&account, EndReason::Revoked).await?;
        // What a sign-in does that had learnt who it is before that end, and begins the session after it.
        let session = live.begin(KEY, account, Browser::default(), at(1)).await?;
        assert!(!session.is_live(&SETTINGS, at(1)));
        assert_eq!(place.store.session_count().await?, 0);
        Ok(())
    }

    /// Whatever comes first: nobody is signed in whose tokens are gone.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn an_end_that_races_a_sign_in_takes_both_session_and_tokens_or_none() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        for round in 0..100_u8 {
            let old = ann(&directory).await?;
            let (_, seen) = place.store.grant(old.id()).await?.ok_or("it is there")?;
            let key = SessionKey([round + 1; 32]);
            let signing_in = async {
                let account = ann(&directory).await?;
                live.begin(key, account, Browser::default(), at(1)).await
            };
            let ending = async {
                match round % 3 {
                    0 => directory.end(&old, EndReason::Revoked).await.map(|_| ()),
                    1 => live.end_account(old.id(), at(0)).await.map(|_| ()),
                    _ => directory.end_without_grant(&old, seen, EndReason::GrantWithdrawn).await.map(|_| ()),
                }
            };
            let (session, ended) = tokio::join!(signing_in, ending);
            let session = session?;
            ended?;
            let has_tokens = place.store.grant(old.id()).await?.is_some();
            let is_stored = place.store.session(key).await?.is_some();
            let is_live = session.is_live(&SETTINGS, at(1));
            assert_eq!(is_live, is_stored, "round {round}");
            assert!(has_tokens || !is_live, "round {round}: somebody is signed in without tokens");
        }
        Ok(())
    }

    #[tokio::test]
    async fn tokens_that_a_sign_in_has_just_brought_are_no_reason_to_end_anything() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let account = ann(&directory).await?;
        let (_, seen) = place.store.grant(account.id()).await?.ok_or("it is there")?;
        live.begin(KEY, account, Browser::default(), at(0)).await?;
        // A re-query hears that the old tokens are refused, and a sign-in comes before it acts on that.
        let account = ann(&directory).await?;
        assert!(!directory.end_without_grant(&account, seen, EndReason::GrantWithdrawn).await?);
        assert!(live.find(KEY, &SETTINGS, at(1)).await?.is_some());
        let (_, now) = place.store.grant(account.id()).await?.ok_or("it is still there")?;
        assert!(directory.end_without_grant(&account, now, EndReason::GrantWithdrawn).await?);
        assert!(live.find(KEY, &SETTINGS, at(1)).await?.is_none());
        assert!(place.store.grant(account.id()).await?.is_none());
        Ok(())
    }

    /// What is over stays over, however often it is looked up, and whoever asks is nobody: not somebody to be told
    /// that the store is away.
    #[tokio::test]
    async fn an_end_that_the_store_does_not_take_counts_all_the_same_and_is_made_good() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let (ann, ben) = (account_of(&directory, 1).await?, account_of(&directory, 2).await?);
        let (anns, bens, forgotten) = (KEY, SessionKey([8; 32]), SessionKey([9; 32]));
        let other = SessionKey([10; 32]);
        live.begin(anns, ann.clone(), Browser::default(), at(0)).await?;
        live.begin(other, ann.clone(), Browser::default(), at(0)).await?;
        live.begin(bens, ben.clone(), Browser::default(), at(0)).await?;
        live.begin(forgotten, ben.clone(), Browser::default(), at(0)).await?;
        live.forget(&forgotten);

        place.full.store(true, Ordering::SeqCst);
        assert!(live.end(anns, EndReason::SignedOut, at(1)).await.is_err());
        assert!(live.end_account(ben.id(), at(1)).await.is_err());
        for second in [1, 2] {
            for key in [anns, bens] {
                assert!(live.in_memory(&key, &SETTINGS, at(second)).is_none());
            }
            assert!(live.find(anns, &SETTINGS, at(second)).await?.is_none(), "nobody, and not a failure");
            // Whose this is, nobody can say before the store is back.
            assert!(!matches!(live.find(forgotten, &SETTINGS, at(second)).await, Ok(Some(_))));
            // Whatever memory forgets meanwhile.
            let _ = live.tidy(&SETTINGS, at(second)).await;
            directory.evict(&ben);
            assert!(live.make_good(anns).await.is_err(), "nobody is told that it is written");
        }
        assert!(live.find(other, &SETTINGS, at(2)).await?.is_some());
        // An operator who tries again is not told that there is nothing to do.
        assert!(live.end_all(&roster::Filter::Account(ben.id()), &SETTINGS, at(2)).await.is_err());

        place.full.store(false, Ordering::SeqCst);
        place.store.healthy().await?;
        // It can be read again, and what it still has of what is over is not believed.
        assert_eq!(place.store.session_count().await?, 4);
        for key in [anns, bens, forgotten] {
            assert!(live.find(key, &SETTINGS, at(3)).await?.is_none());
        }
        assert_eq!(live.of_account(ben.id()).await?, []);
        let listed = live.page(&roster::Filter::Everybody, None, 10, &SETTINGS, at(3)).await?;
        assert_eq!(listed.entries.iter().map(|entry| entry.key).collect::<Vec<_>>(), [other]);
        // Ben signs in again before anybody has told the store that he was out.
        let ben = account_of(&directory, 2).await?;
        let again = SessionKey([11; 32]);
        live.begin(again, ben.clone(), Browser::default(), at(3)).await?;
        assert_eq!(live.settle().await?, 1);
        live.make_good(anns).await?;
        let (next, _) = place.gateway()?;
        for (key, is_in) in [(anns, false), (bens, false), (forgotten, false), (other, true), (again, true)] {
            assert_eq!(live.find(key, &SETTINGS, at(4)).await?.is_some(), is_in, "{key:?}");
            assert_eq!(next.find(key, &SETTINGS, at(4)).await?.is_some(), is_in, "{key:?} after a restart");
        }
        assert!(place.store.grant(ben.id()).await?.is_some());
        Ok(())
    }

    #[tokio::test]
    async fn everybody_can_be_ended_while_the_store_takes_nothing() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        for person in 1..=20 {
            let account = account_of(&directory, person).await?;
            live.begin(SessionKey([person; 32]), account, Browser::default(), at(0)).await?;
        }
        place.full.store(true, Ordering::SeqCst);
        assert!(live.end_all(&roster::Filter::Everybody, &SETTINGS, at(1)).await.is_err());
        for person in 1..=20 {
            assert!(live.find(SessionKey([person; 32]), &SETTINGS, at(1)).await?.is_none(), "{person}");
        }
        place.full.store(false, Ordering::SeqCst);
        place.store.healthy().await?;
        assert_eq!(live.settle().await?, 20);
        assert_eq!(place.store.session_count().await?, 0);
        assert_eq!(place.store.accounts_with_grant(None, 1).await?, []);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn all_who_look_for_a_session_at_once_find_it() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        live.begin(KEY, ann(&directory).await?, Browser::default(), at(0)).await?;
        for round in 0..200 {
            let (live, _) = place.gateway()?;
            let finds: Vec<_> = (0..4)
                .map(|_| {
                    let live = live.clone();
                    tokio::spawn(async move { live.find(KEY, &SETTINGS, at(1)).await.map(|it| it.is_some()) })
                })
                .collect();
            for find in finds {
                assert!(find.await??, "round {round}");
            }
        }
        Ok(())
    }

    /// Alone, with `--nocapture`, it shows the figure; beside others it knows that it is not twice as much.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "what was measured is shown to whoever asks for it")]
    async fn half_a_million_sessions_weigh_little() -> Outcome {
        const MANY: u32 = 500_000;
        let resident = || -> Result<f64, Box<dyn std::error::Error>> {
            let pages = std::fs::read_to_string("/proc/self/statm")?;
            Ok(pages.split_whitespace().nth(1).ok_or("no second number")?.parse::<f64>()? * 4096.0)
        };
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let ann = ann(&directory).await?;
        let record = Record {
            account: ann.id(),
            begun_at: at(0),
            last_used_at: at(0),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        };
        let before = resident()?;
        for number in 0..MANY {
            // As spread as hashes are.
            let mut key = [0; 32];
            key[..8].copy_from_slice(&u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            live.keep(SessionKey(key), &record, ann.clone(), at(0));
        }
        let each = (resident()? - before) / f64::from(MANY);
        println!("{MANY} live sessions: {each:.0} bytes each");
        assert_eq!(live.count(), MANY as usize);
        assert!(each < 300.0, "{each} bytes each");
        Ok(())
    }
}
