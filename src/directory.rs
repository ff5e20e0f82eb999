//! Who is in which team, and how do we know.
//!
//! Owns: one [`Account`] per person in memory, shared by all its sessions; when its membership is believed;
//! the one re-query that everybody who needs it joins.
//! Must not know: HTTP, cookies, routes, where a person may go.
//!
//! The request path reads [`Account::known`] and asks [`Directory::believed`]; neither waits. Only what is too
//! old to be believed makes a request wait, in [`Directory::answer`].

pub mod background;
pub mod checkup;
pub mod doctor;
mod elsewhere;
pub mod plan;
pub mod refresh;
pub mod repositories;
pub mod requery;
pub mod slugs;
pub mod traffic;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use self::plan::queue::{Look, Queue};
use self::plan::{Ages, Bounds, Freshness, Weather, freshness};
use self::refresh::ClientDoubt;
use self::repositories::Repositories;
use self::slugs::Slugs;
use self::traffic::Governor;
use crate::bitbucket::{Bitbucket, Endpoint, Right};
use crate::clock::{Clock, Timestamp};
use crate::entropy::Entropy;
use crate::identity::{AccountId, VerifiedIdentity};
use crate::membership::{Membership, TeamName};
use crate::revocation::{Revocations, Turn};
use crate::store::{self, AccountRecord, Grant, Store, Version};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::metrics::Metrics;

/// What the directory is told by the configuration.
pub struct Settings {
    /// Bitbucket, as configured.
    pub bitbucket: Bitbucket,
    /// The only teams that become groups; `None`: every team of the account does.
    pub teams: Option<Vec<TeamName>>,
    /// The teams that some rule names: being listed is no proof of membership, so these are confirmed.
    pub named: Vec<TeamName>,
    /// The ages that matter.
    pub ages: Ages,
}

impl Settings {
    /// Whether an account with `membership` may be signed in at all: with `teams` given, only its members.
    pub fn admits(&self, membership: &Membership) -> bool {
        self.teams.is_none() || membership.teams().iter().any(|team| team.confirmed)
    }

    /// What a re-query calls in any case.
    fn endpoints(&self) -> &'static [Endpoint] {
        match self.teams {
            Some(_) => &[Endpoint::Permission],
            None => &[Endpoint::Workspaces],
        }
    }
}

/// What is known of one account, as of a moment. Replaced as a whole when any of it changes.
#[derive(Debug)]
pub struct Known {
    /// Who it is.
    pub identity: VerifiedIdentity,
    /// When name, e-mail and status were read.
    pub profile_as_of: Timestamp,
    /// The teams, and as of when.
    pub membership: Membership,
}

/// One person, in memory.
pub struct Account {
    id: AccountId,
    known: ArcSwap<Known>,
    /// Milliseconds; moved at most once a second, so that busy accounts do not fight over a cache line.
    used_at: AtomicU64,
    condition: AtomicU8,
    evicted: AtomicBool,
    trouble: ArcSwapOption<Trouble>,
    failures: AtomicU32,
    /// Whether the background knows that it is in use.
    queued: AtomicBool,
    flight: Mutex<Option<watch::Receiver<bool>>>,
    repositories: Repositories,
}

/// Whether an account's grant still works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Condition {
    /// It works, as far as we know.
    Good = 0,
    /// We lost a rotated token in a crash. What is known is believed up to its age; the next navigation goes
    /// through Bitbucket again.
    GrantLost = 1,
    /// The person or Bitbucket withdrew it, or the account was deactivated: all sessions are over.
    Ended = 2,
}

/// Why the last question went unanswered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Not to be asked again before this moment.
    pub not_before: Timestamp,
    /// Whether Bitbucket is down, as opposed to saying something we cannot use.
    pub weather: Weather,
    /// What it said.
    pub cause: Cause,
}

/// What Bitbucket said instead of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Nothing, or nothing that says anything about the account: it is down, or wants to be left alone.
    Unanswered,
    /// It was not asked: our own budget of calls is used up.
    NoBudget,
    /// It does not accept our client, or the client lacks a scope: the operator has to act.
    Misconfigured,
    /// Our client lacks the scope `repository`, which a rule needs: the operator has to act.
    RepositoryScope,
    /// It has removed what we ask: a new version is needed.
    Removed,
    /// Something that we cannot use.
    Unusable,
    /// It refused an access token that it had just given. Once is confusion; twice in a row is a no.
    FreshTokenRefused,
}

impl Account {
    fn new(known: Known, now: Timestamp) -> Account {
        Account {
            id: known.identity.account(),
            repositories: Repositories::of(&known.membership, now),
            known: ArcSwap::from_pointee(known),
            used_at: AtomicU64::new(now.unix_millis()),
            condition: AtomicU8::new(Condition::Good as u8),
            evicted: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            queued: AtomicBool::new(false),
            flight: Mutex::new(None),
        }
    }

    /// Whose it is.
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// What is known now.
    pub fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// Whether its grant still works.
    pub fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Acquire) {
            0 => Condition::Good,
            1 => Condition::GrantLost,
            _ => Condition::Ended,
        }
    }

    fn set_condition(&self, condition: Condition) {
        // Ended is final: a new sign-in makes a new Account.
        let _ = self.condition.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            (old != Condition::Ended as u8).then_some(condition as u8)
        });
    }

    /// Whether memory pressure removed it: whoever holds it looks it up anew.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Notes that a request used the account.
    pub fn touch(&self, now: Timestamp) {
        if now.unix_millis().saturating_sub(self.used_at.load(Ordering::Relaxed)) >= 1_000 {
            self.used_at.store(now.unix_millis(), Ordering::Relaxed);
        }
    }

    /// Why the last question went unanswered, if it did.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.load().as_deref().copied()
    }

    /// What the background goes by; `None` when there is nothing to ask about.
    fn look(&self) -> Option<Look> {
        (self.condition() == Condition::Good && !self.is_evicted()).then(|| Look {
            as_of: self.known.load().membership.as_of(),
            used_at: Timestamp::from_unix_millis(self.used_at.load(Ordering::Relaxed)),
            not_before: self.trouble().map_or(Timestamp::from_unix_millis(0), |trouble| trouble.not_before),
            spread: self.id.to_bytes()[15],
        })
    }

    fn weather(&self) -> Weather {
        self.trouble().map_or(Weather::Fair, |trouble| trouble.weather)
    }
}

/// What a request that needs a younger membership is told.
pub enum Answer {
    /// This is known, and young enough.
    Known(Arc<Known>),
    /// Nobody can say right now. Never to be read as yes.
    CannotTell {
        /// When Bitbucket last answered about this account.
        last_answer: Timestamp,
        /// When it is worth asking again.
        retry_after: Duration,
        /// Why nobody can say, where that is known.
        cause: Cause,
    },
    /// The account's sessions are over.
    Ended,
}

/// What somebody who watches is told.
pub enum Watched {
    /// This is known, and young enough.
    Known(Arc<Known>),
    /// What is known is too old, and a question is under way.
    Asking,
    /// What is known is too old, and nobody can be asked now.
    Silence,
}

/// How long a request waits for an answer before it is told that nobody can say.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How many accounts are kept in memory. Each weighs about a kilobyte; the rest are read back when used.
const CAPACITY: u64 = 100_000;

/// How old a grant must be to be forgotten for want of sessions: longer than a sign-in takes to its end.
const SETTLING: Duration = Duration::from_secs(60);

/// How many accounts are looked at together for want of sessions.
const FORGET_PAGE: usize = 256;

/// The directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    accounts: Cache<AccountId, Arc<Account>>,
    revocations: Revocations,
    store: Store,
    clock: Clock,
    telemetry: Telemetry,
    traffic: Arc<Governor>,
    /// Who is asked about in the background.
    queue: Mutex<Queue<AccountId>>,
    /// Told when somebody came into the queue.
    queued: Notify,
    /// Whether Bitbucket accepts our client, as far as that is in doubt.
    client: ClientDoubt,
    /// What slugs mean.
    slugs: Slugs,
    /// Told when an account or a session has lost something.
    stirred: Notify,
    /// Questions run here, so that a visitor who goes away does not cut a token rotation in two.
    runtime: Handle,
}

impl Directory {
    /// An empty directory that asks on `runtime`.
    pub fn new(store: Store, clock: Clock, telemetry: Telemetry, runtime: Handle) -> Directory {
        let accounts = Cache::builder()
            .max_capacity(CAPACITY)
            .eviction_listener(|_, account: Arc<Account>, cause| {
                if cause == RemovalCause::Size {
                    account.evicted.store(true, Ordering::Release);
                }
            })
            .build();
        let traffic = Governor::new(clock.clone(), telemetry.clone(), Entropy::system());
        Directory(Arc::new(Inner {
            accounts,
            revocations: Revocations::new(store.clone()),
            store,
            clock,
            telemetry,
            traffic,
            queue: Mutex::default(),
            queued: Notify::new(),
            client: ClientDoubt::default(),
            slugs: Slugs::default(),
            stirred: Notify::new(),
            runtime,
        }))
    }

    /// The door through which every call to Bitbucket leaves; [`Bitbucket::new`] wants it.
    pub fn traffic(&self) -> Arc<Governor> {
        self.0.traffic.clone()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<AccountId>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was ended lately.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Says that an account or a session has lost something, to whoever watches what is open.
    pub fn stir(&self) {
        self.0.stirred.notify_one();
    }

    /// Waits until that is said. One watches: the word is kept for it while it is busy.
    pub async fn stirred(&self) {
        self.0.stirred.notified().await;
    }

    /// The account, from memory or from the store; `None` when we know nothing of it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then nobody knows whether we know it.
    pub async fn account(&self, id: AccountId, now: Timestamp) -> Result<Option<Arc<Account>>, store::Error> {
        if let Some(account) = self.0.accounts.get(&id) {
            return Ok(Some(account));
        }
        let Some(record) = self.0.store.account(id).await? else { return Ok(None) };
        let known = Known {
            identity: record.identity,
            profile_as_of: record.profile_as_of,
            membership: record.membership,
        };
        // Two requests may both have read it; the first to arrive makes the one that all share.
        Ok(Some(self.0.accounts.get_with(id, || Arc::new(Account::new(known, now)))))
    }

    /// Takes in what a sign-in just learned. The grant and what is known are on disk when this returns.
    ///
    /// # Errors
    ///
    /// When the store did not take it; nothing is changed in memory then.
    pub async fn learn(
        &self,
        known: Known,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Arc<Account>, store::Error> {
        let id = known.identity.account();
        let turn = self.0.revocations.turn(id).await;
        // An end that is owed means what was there before, and not what is brought now.
        turn.settle().await?;
        self.0.store.put_grant(id, grant, None).await?;
        self.0.store.put_account(&record(&known)).await?;
        if let Some(account) = self.0.accounts.get(&id)
            && account.condition() != Condition::Ended
        {
            account.set_condition(Condition::Good);
            account.trouble.store(None);
            account.failures.store(0, Ordering::Relaxed);
            account.repositories.forgive();
            self.publish(&account, Arc::new(known), Told::Here);
            account.touch(now);
            return Ok(account);
        }
        let account = Arc::new(Account::new(known, now));
        self.0.accounts.insert(id, account.clone());
        Ok(account)
    }

    /// What is known, if it is young enough for a route with `bounds`. Never waits: when it will
    /// soon be too old, the background loop is already on its way.
    pub fn believed(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Option<Arc<Known>> {
        let known = account.known();
        let fresh = freshness(known.membership.as_of(), now, &settings.ages, bounds, account.weather());
        // At the first request, not at the first that is due: whoever signs in and sits still is asked about, too, or a
        // grant that was withdrawn meanwhile would go unnoticed.
        self.in_use(account, settings, now);
        if fresh != Freshness::Young {
            // The background goes by the common ages: a route with a bound of its own asks for itself.
            if fresh == Freshness::Due && bounds.max_age.is_some() && self.may_ask(account, now) {
                self.requery(account, settings, Right::Background);
            }
        }
        (fresh != Freshness::Stale).then_some(known)
    }

    /// Tells the background of an account that is in use: it may not know yet, or may have given it up.
    fn in_use(&self, account: &Account, settings: &Settings, now: Timestamp) {
        if account.queued.load(Ordering::Relaxed) || account.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        match account.look() {
            Some(look) => {
                let look = Look { used_at: look.used_at.max(now), ..look };
                self.queue().enter(account.id, look, &settings.ages, now);
                self.0.queued.notify_one();
            }
            None => account.queued.store(false, Ordering::Release),
        }
    }

    /// What is known, for somebody who watches and does not wait. What is too old is asked for, and what will soon
    /// be too old for a route that has a bound of its own: the background loop goes by the common one.
    ///
    /// `asked_at` is when the watcher began to want to know. What was asked for later than that counts as young,
    /// even where Bitbucket takes longer to answer than the route lets an answer live.
    pub fn watched(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        bounds: Bounds,
        (asked_at, now): (Timestamp, Timestamp),
    ) -> Watched {
        let known = account.known();
        let as_of = known.membership.as_of();
        let fresh = freshness(as_of, asked_at, &settings.ages, bounds, account.weather());
        if fresh != Freshness::Young {
            self.in_use(account, settings, now);
        }
        let wanted = fresh == Freshness::Stale || fresh == Freshness::Due && bounds.max_age.is_some();
        let asks = wanted && self.may_ask(account, now);
        if asks {
            let right = if fresh == Freshness::Stale { Right::Waiting } else { Right::Background };
            self.requery(account, settings, right);
        }
        match (fresh, asks) {
            (Freshness::Young | Freshness::Due, _) => Watched::Known(known),
            (Freshness::Stale, true) => Watched::Asking,
            (Freshness::Stale, false) => Watched::Silence,
        }
    }

    /// Whether asking about an account is of any use now.
    fn may_ask(&self, account: &Account, now: Timestamp) -> bool {
        let held_off = account.trouble().is_some_and(|trouble| now < trouble.not_before);
        // A lost grant cannot ask; only the person's next page mends it.
        !held_off && account.condition() != Condition::GrantLost
    }

    /// Waits for a membership that is young enough: joins the one re-query of this account, at most 5 s.
    pub async fn answer(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Answer {
        let asking = async {
            // A question that was under way may have been asked too long before this request; the one after it
            // was not.
            for _ in 0..2 {
                if !self.may_ask(account, now) {
                    break;
                }
                let mut done = self.requery(account, settings, Right::Waiting);
                // The sender reports once or is dropped with its task; either way there is something to look at.
                let _ = done.wait_for(|done| *done).await;
                if account.condition() == Condition::Ended {
                    break;
                }
                // Judged as of the request's arrival: what was asked for later than that is as young as can be,
                // even where Bitbucket takes longer to answer than the route lets an answer live.
                if let Some(known) = self.believed(account, settings, bounds, now) {
                    return Some(known);
                }
            }
            None
        };
        if let Ok(Some(known)) = tokio::time::timeout(PATIENCE, asking).await {
            return Answer::Known(known);
        }
        if account.condition() == Condition::Ended {
            return Answer::Ended;
        }
        let now = self.0.clock.now().max(now);
        Answer::CannotTell {
            last_answer: account.known().membership.as_of(),
            retry_after: account
                .trouble()
                .map_or(Duration::from_secs(5), |trouble| trouble.not_before.since(now))
                .clamp(Duration::from_secs(1), Duration::from_secs(60)),
            cause: account.trouble().map_or(Cause::Unanswered, |trouble| trouble.cause),
        }
    }

    /// Starts the re-query of `account`, or joins the one that is under way. The receiver turns true when it
    /// is over, well or badly.
    pub fn requery(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        right: Right,
    ) -> watch::Receiver<bool> {
        self.start(account, settings, right, What::Membership)
    }

    /// The same about something. Whoever joins must look whether that was it.
    fn start(
        &self,
        account: &Arc<Account>,
        settings: &Arc<Settings>,
        right: Right,
        what: What,
    ) -> watch::Receiver<bool> {
        let mut flight = account.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = flight.as_ref()
            && !*under_way.borrow()
            && under_way.has_changed().is_ok()
        {
            return under_way.clone();
        }
        let (done, joined) = watch::channel(false);
        *flight = Some(joined.clone());
        let (directory, account, settings) = (self.clone(), account.clone(), settings.clone());
        self.0.runtime.spawn(async move {
            match what {
                What::Membership => requery::requery(&directory, &account, &settings, right).await,
                What::Repositories => repositories::ask_new(&directory, &account, &settings, right).await,
            }
            done.send_replace(true);
        });
        joined
    }

    /// Ends every session of an account and forgets its tokens. How many sessions were written down as ended.
    ///
    /// # Errors
    ///
    /// When the store did not take it: the sessions are over all the same, and the store is told when it is back.
    pub async fn end(&self, account: &Account, why: EndReason) -> Result<u64, store::Error> {
        account.set_condition(Condition::Ended);
        self.stir();
        let turn = self.0.revocations.turn(account.id).await;
        self.end_in_turn(&turn, account, why).await
    }

    /// The same because the tokens of the version `seen` are refused: not if a sign-in has brought others since.
    /// Whether it was.
    ///
    /// # Errors
    ///
    /// As for [`Directory::end`].
    pub async fn end_without_grant(
        &self,
        account: &Account,
        seen: Version,
        why: EndReason,
    ) -> Result<bool, store::Error> {
        let turn = self.0.revocations.turn(account.id).await;
        if let Ok(Some((_, version))) = self.0.store.grant(account.id).await
            && version != seen
        {
            return Ok(false);
        }
        self.end_in_turn(&turn, account, why).await.map(|_| true)
    }

    async fn end_in_turn(
        &self,
        turn: &Turn<'_>,
        account: &Account,
        why: EndReason,
    ) -> Result<u64, store::Error> {
        let now = self.0.clock.now();
        account.set_condition(Condition::Ended);
        if let Some(current) = self.0.accounts.get(&account.id) {
            // A sign-in that had its turn before this may have made another.
            current.set_condition(Condition::Ended);
        }
        self.stir();
        let ended = turn.end(why, now).await;
        // Only now: until the sessions are gone from the store, whoever looks the account up must find it ended.
        self.0.accounts.invalidate(&account.id);
        if let Err(error) = &ended {
            tracing::error!(
                account.id = %account.id, %error,
                "the end of an account's sessions could not be written down; they are over, and it is tried again"
            );
        }
        let count = ended.as_ref().map_or(0, |keys| keys.len() as u64);
        let event = Event::SessionsEnded { account: Some(account.id), reason: why, count };
        self.0.telemetry.audit.record(now, &event);
        self.0.telemetry.metrics.sessions_ended.of(why).inc_by(count);
        ended.map(|_| count)
    }

    /// Forgets an account's tokens when its last session has ended: what nobody uses is not kept.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked or does not take it.
    pub async fn forget_unused(&self, id: AccountId, now: Timestamp) -> Result<(), store::Error> {
        let Some((grant, version)) = self.0.store.grant(id).await? else { return Ok(()) };
        // A sign-in under way has written its grant and not yet its session.
        let settled = now.since(grant.obtained_at) >= SETTLING;
        if settled && self.0.store.sessions_of(id).await?.is_empty() {
            match self.0.store.delete_grant(id, Some(version)).await {
                Ok(_) => self.0.accounts.invalidate(&id),
                // A sign-in has brought others.
                Err(store::Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forgets the tokens of every account without a session: those whose last one expired, or was ended while the
    /// store was away. How many accounts were looked at. Called by a timer, after expired sessions were swept.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked or does not take it; the rest is for the next time.
    pub async fn forget_all_unused(&self, now: Timestamp) -> Result<usize, store::Error> {
        let (mut seen, mut after) = (0, None);
        loop {
            let page = self.0.store.accounts_with_grant(after, FORGET_PAGE).await?;
            for id in &page {
                self.forget_unused(*id, now).await?;
            }
            seen += page.len();
            after = page.last().copied();
            if after.is_none() {
                return Ok(seen);
            }
            tokio::task::yield_now().await;
        }
    }

    /// What memory pressure does to an account.
    #[cfg(test)]
    pub(crate) fn evict(&self, account: &Account) {
        self.0.accounts.invalidate(&account.id);
        account.evicted.store(true, Ordering::Release);
    }

    /// All accounts in memory.
    pub fn accounts(&self) -> impl Iterator<Item = Arc<Account>> + '_ {
        self.0.accounts.iter().map(|(_, account)| account)
    }

    fn publish(&self, account: &Account, known: Arc<Known>, told: Told) -> Changed {
        let before = account.known.swap(known.clone());
        let change = known.membership.changes_since(&before.membership);
        if !change.is_empty() {
            let event = Event::MembershipChanged {
                account: account.id,
                lost: change.lost,
                gained: change.gained,
                as_of: known.membership.as_of(),
            };
            // Whoever asked has put it on record.
            if told == Told::Here {
                self.0.telemetry.audit.record(self.0.clock.now(), &event);
            }
            self.stir();
            return Changed::Yes;
        }
        Changed::No
    }

    /// Brings the gauges of calls and of the background up to date.
    pub fn report(&self, metrics: &Metrics) {
        self.0.traffic.report(metrics);
        let queue = self.queue();
        metrics.interval_stretch.set(queue.stretch());
        metrics.accounts_in_use.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
    }

    /// How old the memberships in memory are.
    pub fn census(&self, settings: &Settings, now: Timestamp) -> Census {
        let mut census = Census::default();
        for account in self.accounts() {
            let as_of = account.known.load().membership.as_of();
            match freshness(as_of, now, &settings.ages, Bounds::default(), Weather::Fair) {
                Freshness::Young => census.young += 1,
                Freshness::Due => census.due += 1,
                Freshness::Stale => census.stale += 1,
            }
            let used_at = Timestamp::from_unix_millis(account.used_at.load(Ordering::Relaxed));
            if now.since(used_at) < settings.ages.max_age {
                census.oldest_in_use = census.oldest_in_use.max(now.since(as_of));
            }
        }
        census
    }
}

/// How many memberships are how old.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Younger than `refresh_after`.
    pub young: i64,
    /// Older than that, and still believed.
    pub due: i64,
    /// Older than `max_age`.
    pub stale: i64,
    /// The age of the oldest that belongs to an account in use.
    pub oldest_in_use: Duration,
}

/// Whether an answer said something new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Changed {
    Yes,
    No,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// All that is known of an account.
    Membership,
    /// What it may do with repositories that it has met for the first time.
    Repositories,
}

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Here,
    /// Another replica.
    Elsewhere,
}

fn record(known: &Known) -> AccountRecord {
    AccountRecord {
        identity: known.identity.clone(),
        profile_as_of: known.profile_as_of,
        membership: known.membership.clone(),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::bitbucket::{Call, Outcome as Outcome_, Remarks, Traffic};
    use crate::identity::Claims;
    use crate::keys::{self, Keyring};
    use crate::secret::Secret;
    use crate::{bitbucket, store};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    /// A directory in front of a Bitbucket that nobody answers for.
    struct Place {
        directory: Directory,
        settings: Arc<Settings>,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    fn place(outage_grace: Duration) -> Result<Place, Box<dyn std::error::Error>> {
        keys::install_crypto_providers();
        let folder = tempfile::tempdir()?;
        let (entropy, telemetry, clock) = (Entropy::system(), Telemetry::unheard()?, Clock::manual(at(0)));
        let ring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(folder.path(), ring, entropy, telemetry.metrics.clone())?;
        let nowhere = bitbucket::Settings {
            client_id: "id".to_owned(),
            client_secret: Arc::new(Secret::new("secret".to_owned())),
            redirect_uri: "http://127.0.0.1:1/.teamgate/callback".parse()?,
            // Nothing listens on port 1: connections are refused at once.
            web_url: "http://127.0.0.1:1".parse()?,
            api_url: "http://127.0.0.1:1/2.0".parse()?,
            timeout: Duration::from_secs(5),
        };
        let directory = Directory::new(store, clock.clone(), telemetry, Handle::current());
        let settings = Settings {
            bitbucket: Bitbucket::new(nowhere, directory.traffic())?,
            teams: Some(vec!["acme".parse()?]),
            named: vec!["acme".parse()?],
            ages: Ages {
                refresh_after: Duration::from_secs(300),
                profile_after: Duration::from_secs(21_600),
                max_age: Duration::from_secs(3_600),
                outage_grace,
            },
        };
        Ok(Place { directory, settings: Arc::new(settings), clock, _folder: folder })
    }

    impl Place {
        async fn ann(&self) -> Result<Arc<Account>, store::Error> {
            let claims = Claims {
                account: AccountId::from_bytes([1; 16]),
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
                refresh_token: Some(Secret::new("refresh".to_owned())),
                expires_at: at(1_000_000),
                scopes: None,
                obtained_at: at(0),
                refreshing_since: None,
            };
            self.directory.learn(known, &grant, at(0)).await
        }

        async fn answer(&self, account: &Arc<Account>, now: u64) -> Answer {
            self.clock.advance(at(now).since(self.clock.now()));
            self.directory.answer(account, &self.settings, Bounds::default(), at(now)).await
        }
    }

    #[tokio::test]
    async fn a_membership_too_old_to_believe_and_nobody_to_ask_is_no_answer() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.ann().await?;
        assert!(place.directory.believed(&ann, &place.settings, Bounds::default(), at(3_599)).is_some());
        assert!(place.directory.believed(&ann, &place.settings, Bounds::default(), at(3_600)).is_none());
        assert!(matches!(place.answer(&ann, 3_600).await, Answer::CannotTell { .. }));
        // Asked again at once, it does not bother Bitbucket again: it says when to come back.
        let Answer::CannotTell { retry_after, last_answer, cause: Cause::Unanswered } =
            place.answer(&ann, 3_601).await
        else {
            return Err("an answer from nobody".into());
        };
        assert_eq!((retry_after, last_answer), (Duration::from_secs(4), at(0)));
        assert_eq!(ann.condition(), Condition::Good);
        Ok(())
    }

    #[tokio::test]
    async fn during_an_outage_what_was_known_is_believed_up_to_the_grace() -> Outcome {
        let place = place(Duration::from_secs(7_200))?;
        let ann = place.ann().await?;
        assert!(place.directory.believed(&ann, &place.settings, Bounds::default(), at(3_600)).is_none());
        assert!(matches!(place.answer(&ann, 3_600).await, Answer::Known(_)));
        assert!(matches!(place.answer(&ann, 7_199).await, Answer::Known(_)));
        assert!(matches!(place.answer(&ann, 7_200).await, Answer::CannotTell { .. }));
        Ok(())
    }

    #[tokio::test]
    async fn whoever_asks_while_a_question_is_under_way_joins_it() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.ann().await?;
        let first = place.directory.requery(&ann, &place.settings, Right::Waiting);
        let second = place.directory.requery(&ann, &place.settings, Right::Waiting);
        assert!(first.same_channel(&second));
        let mut done = first;
        done.wait_for(|done| *done).await?;
        assert!(!place.directory.requery(&ann, &place.settings, Right::Waiting).same_channel(&done));
        Ok(())
    }

    #[tokio::test]
    async fn while_bitbucket_wants_to_be_left_alone_nobody_asks() -> Outcome {
        let place = place(Duration::from_secs(7_200))?;
        let ann = place.ann().await?;
        place.clock.advance(Duration::from_secs(3_600));
        let remarks = Remarks { retry_after: Some(Duration::from_secs(400)), ..Remarks::default() };
        place.directory.traffic().done(&Call {
            endpoint: Endpoint::User,
            right: Right::SignIn,
            outcome: Outcome_::Answered(StatusCode::TOO_MANY_REQUESTS),
            took: Duration::ZERO,
            remarks,
        });
        // Nobody listens at this Bitbucket: had it been asked, it would be tried again in 5 s.
        assert!(matches!(place.answer(&ann, 3_600).await, Answer::Known(_)));
        let trouble = ann.trouble().ok_or("it was held off")?;
        assert!(trouble.not_before >= at(4_000), "{trouble:?}");
        Ok(())
    }

    #[tokio::test]
    async fn tokens_that_no_session_uses_are_forgotten() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.ann().await?;
        let store = &place.directory.0.store;
        place.directory.forget_unused(ann.id(), at(59)).await?;
        assert!(store.grant(ann.id()).await?.is_some(), "a sign-in may be under way");
        place.directory.forget_unused(ann.id(), at(60)).await?;
        assert!(store.grant(ann.id()).await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn an_account_is_read_back_with_what_was_known_of_it() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.ann().await?;
        place.directory.0.accounts.invalidate(&ann.id());
        let back = place.directory.account(ann.id(), at(5)).await?.ok_or("it is on disk")?;
        assert_eq!(back.known().identity, ann.known().identity);
        assert_eq!(back.known().membership, ann.known().membership);
        assert!(place.directory.account(AccountId::from_bytes([9; 16]), at(5)).await?.is_none());
        Ok(())
    }
}
