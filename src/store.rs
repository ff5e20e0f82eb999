//! What must survive a restart: sessions, grants, accounts, signing keys, values good once, pinned teams.
//!
//! Owns: [`Store`], the records' sealing, the errors. Must not know: cookies, Bitbucket, who may go where.
//!
//! [`Store`] is an enum of its backends, and `tests/store_contract.rs` is one suite for all of them. Every
//! operation that returned `Ok` is on disk. Everything that names or describes a person, and everything
//! secret, is sealed under the keyring with its place as context: a store that somebody else can write to
//! gives nothing away and cannot be made to say something else. A record that does not open is treated as
//! absent and counted ([`Store::spoiled_records`]); absent is always the answer that lets nobody in.

mod embedded;
pub mod lease;
pub mod news;
mod opening;
mod record;
pub mod redis;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use self::lease::{Claim, Lease, Task};
use self::news::{Feed, Source};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::identity::{AccountId, TeamId, VerifiedIdentity};
use crate::keys::{KeyId, Keyring, SigningKeys};
use crate::membership::Membership;
use crate::secret::Secret;
use crate::session::{self, SessionKey};
use crate::telemetry::labels::StoreOperation;
use crate::telemetry::metrics::Metrics;

/// The store. Cheap to clone; the last clone that is dropped closes it, which takes as long as what is still
/// to be written.
///
/// Writes wait for the disk. A write whose future is dropped may still happen.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
enum Backend {
    Embedded(Arc<embedded::Embedded>),
    Redis(Arc<redis::Redis>),
}

/// The Bitbucket tokens of one account.
#[derive(Debug)]
pub struct Grant {
    /// For the API. Up to 8 KiB.
    pub access_token: Secret<String>,
    /// For the next access token. Up to 8 KiB; works once.
    pub refresh_token: Option<Secret<String>>,
    /// When the access token expires.
    pub expires_at: Timestamp,
    /// The scopes as Bitbucket lists them.
    pub scopes: Option<String>,
    /// When this access token was obtained.
    pub obtained_at: Timestamp,
    /// A refresh was sent at this moment and its answer is not on record: if the refresh token is refused
    /// now, it was lost in a crash, not withdrawn.
    pub refreshing_since: Option<Timestamp>,
}

/// Which writing of a value this is: a write that names the version it has read fails when another came
/// first. Random, so that a value that was deleted and written again is never mistaken for the old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version(u64);

impl Version {
    /// The version of a value that is not there.
    pub const ABSENT: Version = Version(0);

    fn fresh(entropy: &Entropy) -> Version {
        Version(u64::from_be_bytes(entropy.bytes()).max(1))
    }
}

/// What is known of an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountRecord {
    /// Who it is, as Bitbucket said at [`Self::profile_as_of`].
    pub identity: VerifiedIdentity,
    /// When name and address were asked for.
    pub profile_as_of: Timestamp,
    /// The teams, as of their own moment.
    pub membership: Membership,
}

/// Kinds of values that are good once. The number is part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Once {
    /// The state of a sign-in.
    SignInState = 1,
    /// A ticket that hands a session over to another host.
    HandOver = 2,
    /// A machine credential with an id of its own (`jti`).
    Credential = 3,
}

/// What is known of a team's slug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// Seen for the first time; now it is pinned.
    New,
    /// The team it always was.
    Same,
    /// It belonged to this team, and does not any more: the slug has changed hands.
    Different(TeamId),
}

/// How much was removed for being over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Sessions, the ones that cannot be read included.
    pub sessions: usize,
    /// Values good once.
    pub once_values: usize,
}

/// What is lost when a key leaves the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyUse {
    /// Records that are sealed under it.
    pub records: u64,
    /// Sessions that were begun while it was first: their cookies need it. Until the next sweep, those that are
    /// over are counted too.
    pub sessions: u64,
}

/// Why the store does not do it. Each message names the place, the fault and the cure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it open.
    #[error(
        "{}: in use by another teamgate{}; stop that one, or give this one a `store.path` of its own",
        file.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The file.
        file: PathBuf,
        /// The process, as far as it said so.
        pid: Option<u32>,
    },
    /// It cannot be opened.
    #[error(
        "{}: cannot be opened ({source}); let the user that runs teamgate own it, or restore it from a backup, \
         or move it away (then everybody signs in again)", file.display()
    )]
    Unreadable {
        /// The file or folder.
        file: PathBuf,
        /// What the layer below said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Written by a later version.
    #[error(
        "{}: has format {found}, written by teamgate {}; this one knows format {known}; run that version, or a \
         later one", file.display(), written_by.as_deref().unwrap_or("of a version that it does not name")
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The format of the file.
        found: u32,
        /// The newest format of this version.
        known: u32,
        /// The version that had it open last, as it says itself.
        written_by: Option<Box<str>>,
    },
    /// Sealed under a key that the secret file does not have.
    #[error(
        "{}: was written under another secret; put that key back into the secret file (any line but the first), \
         or move the store away (then everybody signs in again)", file.display()
    )]
    ForeignSecret {
        /// The file.
        file: PathBuf,
    },
    /// It was open, and now it fails. It goes on by itself when the fault is gone.
    #[error("{}: {fault}", place.display())]
    Unavailable {
        /// The file.
        place: Arc<Path>,
        /// What is wrong, and the cure.
        fault: Fault,
    },
    /// The value has another version than expected: read it again.
    #[error("somebody else wrote this value first; read it again")]
    Conflict,
    /// [`Store::close`] was called.
    #[error("the store is closed; teamgate is stopping")]
    Closed,
}

/// What is wrong with an open store, and the cure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No space, or no quota.
    #[error("the disk is full; free some space, teamgate goes on by itself")]
    DiskFull,
    /// Permissions, or a file system that became read-only.
    #[error("cannot be written ({0}); check its permissions and its file system, teamgate goes on by itself")]
    Unwritable(io::ErrorKind),
    /// The disk fails.
    #[error("the disk fails ({0}); check the disk, teamgate goes on by itself")]
    Io(io::ErrorKind),
    /// The file was changed by something else.
    #[error("is damaged; restart teamgate, and restore the file from a backup or move it away if that fails")]
    Damaged,
    /// Another process opened it while a fault was being cured.
    #[error("another process has taken it; stop that one")]
    Taken,
    /// A server of the shared store is in the way.
    #[error(transparent)]
    Server(redis::ServerFault),
}

/// Asks the backend. What the file answers from memory, or reads at once, is not waited for. The way to a server is
/// long: boxed, so that those who never go there do not carry it.
macro_rules! ask {
    ($store:ident.$operation:ident($($argument:expr),*)) => {
        async {
            match &$store.backend {
                Backend::Embedded(backend) => backend.$operation($($argument),*).await,
                Backend::Redis(backend) => backend.$operation($($argument),*).boxed().await,
            }
        }
    };
    (at once $store:ident.$operation:ident($($argument:expr),*)) => {
        async {
            match &$store.backend {
                Backend::Embedded(backend) => backend.$operation($($argument),*),
                Backend::Redis(backend) => backend.$operation($($argument),*).boxed().await,
            }
        }
    };
}

impl Store {
    /// Opens the embedded store in the folder `dir`: one file, `teamgate.redb`, mode 0600; the folder is
    /// made, mode 0700, if it is not there. Blocks while it reads and, after a crash, checks the file.
    ///
    /// When the first key of `ring` is not the one that the store was sealed under last, everything is sealed
    /// anew, so that the older key can leave the secret file.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`], [`Error::Unreadable`], [`Error::NewerFormat`], [`Error::ForeignSecret`],
    /// [`Error::Unavailable`].
    pub fn open(
        dir: &Path,
        ring: Arc<Keyring>,
        entropy: Entropy,
        metrics: Arc<Metrics>,
    ) -> Result<Store, Error> {
        let embedded = embedded::Embedded::open(dir, ring, entropy)?;
        Ok(Store { backend: Backend::Embedded(Arc::new(embedded)), metrics })
    }

    /// Opens the shared store on Redis or Valkey, and makes a new one where there is none. Everything is sealed
    /// anew as in [`Self::open`].
    ///
    /// # Errors
    ///
    /// [`Error::NewerFormat`], [`Error::ForeignSecret`], [`Error::Unavailable`].
    pub async fn connect(
        settings: redis::Settings,
        ring: Arc<Keyring>,
        entropy: Entropy,
        metrics: Arc<Metrics>,
    ) -> Result<Store, Error> {
        let redis = redis::Redis::connect(settings, ring, entropy).await?;
        Ok(Store { backend: Backend::Redis(Arc::new(redis)), metrics })
    }

    /// Whether other processes may have it open, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Redis(_))
    }

    /// What other replicas do to what this one has in memory, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where the settings cannot be used. A server that is away is none: the news begin
    /// when it is back.
    pub fn feed(&self) -> Result<Feed, Error> {
        Ok(Feed(match &self.backend {
            Backend::Embedded(_) => Source::Silent,
            Backend::Redis(redis) => Source::Redis(Box::new(redis.feed()?)),
        }))
    }

    /// One on a disk that is full while the switch is on.
    #[cfg(test)]
    pub(crate) fn on_a_disk_that_fills(
        dir: &Path,
        ring: Arc<Keyring>,
        metrics: Arc<Metrics>,
    ) -> Result<(Store, Arc<std::sync::atomic::AtomicBool>), Error> {
        let (embedded, full) = embedded::full_disk::open(dir, ring)?;
        Ok((Store { backend: Backend::Embedded(Arc::new(embedded)), metrics }, full))
    }

    /// Counts an operation, how long it took and whether it failed. A conflict is an answer, no failure.
    async fn timed<T>(
        &self,
        operation: StoreOperation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let outcome = work.await;
        self.metrics.store_operations.inc(operation);
        self.metrics.store_seconds.observe(operation, started.elapsed());
        if outcome.as_ref().is_err_and(|error| !matches!(error, Error::Conflict)) {
            self.metrics.store_errors.inc(operation);
        }
        outcome
    }
}

// Every operation below fails with `Unavailable` or `Closed`, and some with `Conflict`.
#[expect(clippy::missing_errors_doc, reason = "said once, above: the errors are the same for all of them")]
impl Store {
    /// Writes a session that has just begun.
    pub async fn put_session(&self, key: SessionKey, record: &session::Record) -> Result<(), Error> {
        self.timed(StoreOperation::SessionWrite, ask!(self.put_session(key, record))).await
    }

    /// Reads a session; whether it still counts is [`session::standing`]'s to say. In the embedded store
    /// reads do not wait for writes, and take microseconds.
    pub async fn session(&self, key: SessionKey) -> Result<Option<session::Record>, Error> {
        self.timed(StoreOperation::SessionRead, ask!(at once self.session(key))).await
    }

    /// Writes down when sessions were last used. The later moment wins; a session that has ended stays
    /// ended, and is named in the answer.
    pub async fn touch_sessions(
        &self,
        touches: Vec<(SessionKey, Timestamp)>,
    ) -> Result<Vec<SessionKey>, Error> {
        self.timed(StoreOperation::SessionWrite, ask!(self.touch_sessions(touches))).await
    }

    /// Which of these sessions there are not.
    pub async fn missing_sessions(&self, keys: &[SessionKey]) -> Result<Vec<SessionKey>, Error> {
        // Every session was used later than that: nothing is written.
        let touches = keys.iter().map(|key| (*key, Timestamp::from_unix_millis(0))).collect();
        self.timed(StoreOperation::SessionRead, ask!(self.touch_sessions(touches))).await
    }

    /// Writes down that a session was handed over to `host` ([`session::Record::add_host`]). Whether it is there:
    /// one that has ended stays ended.
    pub async fn add_session_host(&self, key: SessionKey, host: &str) -> Result<bool, Error> {
        self.timed(StoreOperation::SessionWrite, ask!(self.add_session_host(key, host))).await
    }

    /// Ends a session. Whether it was there.
    pub async fn end_session(&self, key: SessionKey) -> Result<bool, Error> {
        self.timed(StoreOperation::SessionEnd, ask!(self.end_session(key))).await
    }

    /// Ends all sessions of an account, and names them.
    pub async fn end_account_sessions(&self, account: AccountId) -> Result<Vec<SessionKey>, Error> {
        self.timed(StoreOperation::SessionEnd, ask!(self.end_account_sessions(account))).await
    }

    /// The sessions of an account, by key.
    pub async fn sessions_of(&self, account: AccountId) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        self.timed(StoreOperation::SessionList, ask!(at once self.sessions_of(account))).await
    }

    /// How many sessions there are; ended ones are gone, expired ones are counted until the next sweep.
    pub async fn session_count(&self) -> Result<u64, Error> {
        self.timed(StoreOperation::SessionList, ask!(at once self.session_count())).await
    }

    /// Up to `limit` sessions by key, from the one that follows `after`. An empty page is the end.
    pub async fn sessions(
        &self,
        after: Option<SessionKey>,
        limit: usize,
    ) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        self.timed(StoreOperation::SessionList, ask!(at once self.sessions(after, limit))).await
    }

    /// Uses up a value that is good once: true for exactly one caller. Refuse what has expired before asking
    /// here: after `expires_at` the value may have been forgotten.
    pub async fn consume_once(&self, kind: Once, id: [u8; 32], expires_at: Timestamp) -> Result<bool, Error> {
        self.timed(StoreOperation::Redeem, ask!(self.consume_once(kind, id, expires_at))).await
    }

    /// Reads a grant.
    pub async fn grant(&self, account: AccountId) -> Result<Option<(Grant, Version)>, Error> {
        self.timed(StoreOperation::GrantRead, ask!(at once self.grant(account))).await
    }

    /// Writes a grant. With `expected`, only over that version ([`Version::ABSENT`]: only if there is none);
    /// otherwise [`Error::Conflict`]. Without, over whatever is there.
    pub async fn put_grant(
        &self,
        account: AccountId,
        grant: &Grant,
        expected: Option<Version>,
    ) -> Result<Version, Error> {
        self.timed(StoreOperation::GrantWrite, ask!(self.put_grant(account, grant, expected))).await
    }

    /// Deletes a grant, whichever it is or the one of the version `expected`. Whether it was there.
    pub async fn delete_grant(&self, account: AccountId, expected: Option<Version>) -> Result<bool, Error> {
        self.timed(StoreOperation::GrantWrite, ask!(self.delete_grant(account, expected))).await
    }

    /// Up to `limit` accounts that have a grant, by uuid, from the one that follows `after`. An empty page is the
    /// end.
    pub async fn accounts_with_grant(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, Error> {
        self.timed(StoreOperation::GrantRead, ask!(at once self.accounts_with_grant(after, limit))).await
    }

    /// Seals under the first key of the ring what is sealed under another of its keys, page by page, while
    /// everything else goes on. How many records that were. What was being written meanwhile may still have come
    /// out under an older key: ask again later.
    pub async fn renew(&self) -> Result<u64, Error> {
        self.timed(StoreOperation::Renew, ask!(self.renew())).await
    }

    /// What each key opens, keys included that the ring does not have. Reads everything: a second for a hundred
    /// thousand sessions.
    pub async fn key_use(&self) -> Result<HashMap<KeyId, KeyUse>, Error> {
        self.timed(StoreOperation::Renew, ask!(self.key_use())).await
    }

    /// Writes what is known of an account, under its own id.
    pub async fn put_account(&self, record: &AccountRecord) -> Result<(), Error> {
        self.timed(StoreOperation::AccountWrite, ask!(self.put_account(record))).await
    }

    /// The same under a lease; [`Error::Conflict`] if it was released, or another has taken its task since.
    pub async fn put_account_under(&self, record: &AccountRecord, lease: &Lease) -> Result<(), Error> {
        self.timed(StoreOperation::AccountWrite, ask!(self.put_account_under(record, lease))).await
    }

    /// Takes a task for `span`, unless somebody has it at `now`, this process included.
    pub async fn take_lease(&self, task: Task, now: Timestamp, span: Duration) -> Result<Claim, Error> {
        self.timed(StoreOperation::Lease, async {
            match &self.backend {
                Backend::Embedded(file) => Ok(file.leases().take(task, now, span)),
                Backend::Redis(redis) => redis.take_lease(task, now, span).boxed().await,
            }
        })
        .await
    }

    /// Keeps a lease until `span` after `now`, even one that has run out, as long as nobody else has taken its
    /// task; none when somebody has, or when it was released.
    pub async fn renew_lease(
        &self,
        lease: &Lease,
        now: Timestamp,
        span: Duration,
    ) -> Result<Option<Lease>, Error> {
        self.timed(StoreOperation::Lease, async {
            match &self.backend {
                Backend::Embedded(file) => Ok(file.leases().renew(lease, now, span)),
                Backend::Redis(redis) => redis.renew_lease(lease, now, span).boxed().await,
            }
        })
        .await
    }

    /// Gives a lease up. Whether it was still the last one for its task.
    pub async fn release_lease(&self, lease: &Lease) -> Result<bool, Error> {
        self.timed(StoreOperation::Lease, async {
            match &self.backend {
                Backend::Embedded(file) => Ok(file.leases().release(lease)),
                Backend::Redis(redis) => redis.release_lease(lease).boxed().await,
            }
        })
        .await
    }

    /// Reads what is known of an account.
    pub async fn account(&self, account: AccountId) -> Result<Option<AccountRecord>, Error> {
        self.timed(StoreOperation::AccountRead, ask!(at once self.account(account))).await
    }

    /// Reads the signing keys, and the version to name when writing them. None with a version that is not
    /// [`Version::ABSENT`]: there were some, but they do not open; write new ones.
    pub async fn signing_keys(&self) -> Result<(Option<SigningKeys>, Version), Error> {
        self.timed(StoreOperation::Keys, ask!(at once self.signing_keys())).await
    }

    /// Writes the signing keys over the version `expected`; otherwise [`Error::Conflict`]: take the other
    /// replica's.
    pub async fn put_signing_keys(&self, keys: &SigningKeys, expected: Version) -> Result<Version, Error> {
        self.timed(StoreOperation::Keys, ask!(self.put_signing_keys(keys, expected))).await
    }

    /// Every pinned slug and its team, by slug.
    pub async fn pins(&self) -> Result<Vec<(Box<str>, TeamId)>, Error> {
        self.timed(StoreOperation::SlugPins, ask!(at once self.pins())).await
    }

    /// Pins a slug to a team, unless it is pinned.
    pub async fn pin_if_new(&self, slug: &str, team: TeamId) -> Result<Pin, Error> {
        self.timed(StoreOperation::SlugPins, ask!(self.pin_if_new(slug, team))).await
    }

    /// Forgets a pin, on the operator's word. Whether it was there.
    pub async fn unpin(&self, slug: &str) -> Result<bool, Error> {
        self.timed(StoreOperation::SlugPins, ask!(self.unpin(slug))).await
    }

    /// Removes what is over at `now`.
    pub async fn sweep(&self, now: Timestamp, settings: &session::Settings) -> Result<Swept, Error> {
        self.timed(StoreOperation::Sweep, ask!(self.sweep(now, settings))).await
    }

    /// Waits until everything that was asked for before is on disk.
    pub async fn flush(&self) -> Result<(), Error> {
        ask!(self.flush()).await
    }

    /// Writes what is waiting and closes; every later call fails with [`Error::Closed`].
    pub async fn close(&self) -> Result<(), Error> {
        match &self.backend {
            Backend::Embedded(backend) => backend.close().await,
            Backend::Redis(backend) => backend.close(),
        }
    }

    /// Whether the store can be read and, if a write failed lately, written again. For readiness.
    pub async fn healthy(&self) -> Result<(), Error> {
        ask!(self.healthy()).await
    }

    /// How many records did not open since the start: altered, or damaged. A number that grows calls for a
    /// look at the disk.
    pub fn spoiled_records(&self) -> u64 {
        match &self.backend {
            Backend::Embedded(backend) => backend.spoiled_records(),
            Backend::Redis(backend) => backend.spoiled_records(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.backend {
            Backend::Embedded(backend) => backend.file(),
            Backend::Redis(backend) => backend.place(),
        };
        write!(f, "Store({})", place.display())
    }
}
