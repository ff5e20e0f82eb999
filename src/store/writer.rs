//! The one thread that writes, and the database that it keeps open.
//!
//! Owns: the tables, group commit, going on after a fault. Must not know: what the values mean.
//!
//! Every commit waits for the disk, so the writer takes all that is waiting into one: a hundred sign-ins cost
//! one `fsync`. An answer is given only after it. redb refuses everything after a failed read or write until
//! it is opened anew; the writer does that before the next attempt, so a full disk that has space again is no
//! reason to restart.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase as _, Table, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::{Error, Fault};

/// How many operations may wait before callers wait to be let in.
const WAITING: usize = 1024;
/// How many operations one transaction takes: enough to make the `fsync` cheap, few enough to answer soon.
const TOGETHER: usize = 512;

pub(super) type Sessions = TableDefinition<'static, &'static [u8; 32], &'static [u8]>;
pub(super) type ByAccount = TableDefinition<'static, &'static [u8; 48], ()>;
pub(super) type ByUuid = TableDefinition<'static, &'static [u8; 16], &'static [u8]>;
pub(super) type OnceValues = TableDefinition<'static, &'static [u8; 33], u64>;
pub(super) type Pins = TableDefinition<'static, &'static str, &'static [u8; 16]>;
pub(super) type Meta = TableDefinition<'static, &'static str, &'static [u8]>;

/// Session key → stamp and sealed record.
pub(super) const SESSIONS: Sessions = TableDefinition::new("sessions");
/// Account and session key → nothing.
pub(super) const BY_ACCOUNT: ByAccount = TableDefinition::new("sessions_by_account");
/// Account → stamp and sealed tokens.
pub(super) const GRANTS: ByUuid = TableDefinition::new("grants");
/// Account → stamp and sealed record.
pub(super) const ACCOUNTS: ByUuid = TableDefinition::new("accounts");
/// Kind and id → milliseconds since 1970 from which it may be forgotten.
pub(super) const ONCE_VALUES: OnceValues = TableDefinition::new("once");
/// Slug → team.
pub(super) const PINS: Pins = TableDefinition::new("pins");
/// Format, version, canary, signing keys.
pub(super) const META: Meta = TableDefinition::new("meta");

pub(super) const FORMAT_KEY: &str = "format";
pub(super) const CANARY_KEY: &str = "canary";
pub(super) const SIGNING_KEY: &str = "signing-keys";
/// The version that had it open last.
pub(super) const VERSION_KEY: &str = "written-by";
pub(super) const PROBE_KEY: &str = "probe";

/// Every table, open for writing.
pub(super) struct Tables<'txn> {
    pub(super) sessions: Table<'txn, &'static [u8; 32], &'static [u8]>,
    pub(super) by_account: Table<'txn, &'static [u8; 48], ()>,
    pub(super) grants: Table<'txn, &'static [u8; 16], &'static [u8]>,
    pub(super) accounts: Table<'txn, &'static [u8; 16], &'static [u8]>,
    pub(super) once_values: Table<'txn, &'static [u8; 33], u64>,
    pub(super) pins: Table<'txn, &'static str, &'static [u8; 16]>,
    pub(super) meta: Table<'txn, &'static str, &'static [u8]>,
}

type Outcome<T = ()> = Result<T, redb::Error>;
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The file and its database.
pub(super) struct Home {
    pub(super) file: Arc<Path>,
    database: RwLock<Option<Database>>,
    opener: Opener,
    /// What was wrong with the last write.
    fault: Mutex<Option<Fault>>,
}

impl Home {
    /// `opener` opens the database once more after a fault.
    pub(super) fn new(file: Arc<Path>, database: Database, opener: Opener) -> Home {
        Home { file, database: RwLock::new(Some(database)), opener, fault: Mutex::new(None) }
    }

    /// What was wrong with the last write, if it failed.
    pub(super) fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a consistent state: what was committed when the reading began.
    pub(super) fn read<T>(&self, reading: impl FnOnce(&ReadTransaction) -> Outcome<T>) -> Result<T, Error> {
        let guard = self.database();
        let database = guard.as_ref().ok_or_else(|| self.gone())?;
        // redb may panic over a file that something else has changed; that must cost one answer only.
        let outcome = catch_unwind(AssertUnwindSafe(|| reading(&database.begin_read()?)));
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.unavailable(fault_of(&error))),
            Err(_) => Err(self.unavailable(Fault::Damaged)),
        }
    }

    /// Writes in one transaction of its own, on this thread.
    pub(super) fn write<T>(&self, writing: impl FnOnce(&mut Tables<'_>) -> Outcome<T>) -> Outcome<T> {
        let guard = self.database();
        let database = guard.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_write()?;
        let mut tables = Tables {
            sessions: transaction.open_table(SESSIONS)?,
            by_account: transaction.open_table(BY_ACCOUNT)?,
            grants: transaction.open_table(GRANTS)?,
            accounts: transaction.open_table(ACCOUNTS)?,
            once_values: transaction.open_table(ONCE_VALUES)?,
            pins: transaction.open_table(PINS)?,
            meta: transaction.open_table(META)?,
        };
        let value = writing(&mut tables)?;
        drop(tables);
        transaction.commit()?;
        Ok(value)
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Database> {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Readers wait meanwhile. The old handle goes first: it holds the lock on the file.
    fn reopen(&self) -> Outcome {
        let mut place = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(place.take());
        *place = Some((self.opener)()?);
        Ok(())
    }

    fn gone(&self) -> Error {
        self.fault().map_or(Error::Closed, |fault| self.unavailable(fault))
    }

    fn unavailable(&self, fault: Fault) -> Error {
        Error::Unavailable { place: Arc::clone(&self.file), fault }
    }
}

/// The writer's front: sends work, waits for answers. Dropping it waits until everything is written and the
/// file is closed.
pub(super) struct Writer {
    inbox: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Work(Box<dyn Work>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// `while_open` is dropped just before the file is closed.
    pub(super) fn start(home: Arc<Home>, while_open: impl Send + 'static) -> io::Result<Writer> {
        let (inbox, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn(move || {
            let closers = serve(&home, waiting);
            drop(while_open);
            drop(home.take());
            for closer in closers {
                let _ = closer.send(());
            }
        })?;
        Ok(Writer { inbox: Some(inbox), thread: Some(thread) })
    }

    /// Has `work` done in the next transaction, and returns its result once that is on disk. The work may be
    /// done more than once, when a transaction has to be begun anew; only the last time counts.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Tables<'_>) -> Outcome<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Box::new(Task { work, result: None, reply });
        self.send(Message::Work(task)).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Has everything written that is waiting, and the file closed.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let (reply, closed) = oneshot::channel();
        self.send(Message::Close(reply)).await?;
        closed.await.map_err(|_| Error::Closed)
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        let inbox = self.inbox.as_ref().ok_or(Error::Closed)?;
        inbox.send(message).await.map_err(|_| Error::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// One operation of whatever type.
trait Work: Send {
    fn apply(&mut self, tables: &mut Tables<'_>) -> Outcome;
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

struct Task<T, F> {
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, F: FnMut(&mut Tables<'_>) -> Outcome<T> + Send> Work for Task<T, F> {
    fn apply(&mut self, tables: &mut Tables<'_>) -> Outcome {
        self.result = Some((self.work)(tables)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let Task { result, reply, .. } = *self;
        // Whoever asked may have gone away.
        let _ = reply.send(outcome.and_then(|()| result.ok_or(Error::Closed)));
    }
}

/// Writes until nobody can ask any more. Returns who waits for the closing.
fn serve(home: &Home, mut inbox: mpsc::Receiver<Message>) -> Vec<oneshot::Sender<()>> {
    let mut closers = Vec::new();
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Work(work) => batch.push(work),
                // Nothing new comes in from here on; what is in the channel is still written.
                Message::Close(reply) => {
                    inbox.close();
                    closers.push(reply);
                }
            }
            next = if batch.len() < TOGETHER { inbox.try_recv().ok() } else { None };
        }
        commit(home, batch);
    }
    closers
}

/// Writes a batch and answers it.
fn commit(home: &Home, mut batch: Vec<Box<dyn Work>>) {
    if batch.is_empty() {
        return;
    }
    let mut outcome = attempt(home, &mut batch);
    if outcome == Err(Refusal::NotEvenBegun) {
        outcome = match home.reopen() {
            Ok(()) => attempt(home, &mut batch),
            Err(error) => Err(Refusal::Fault(fault_of(&error))),
        };
    }
    // A damaged page concerns the operations that touch it, not those that happened to come along.
    if outcome == Err(Refusal::Fault(Fault::Damaged)) && batch.len() > 1 {
        return batch.into_iter().for_each(|work| commit(home, vec![work]));
    }
    let fault = outcome.err().map(|refusal| match refusal {
        Refusal::NotEvenBegun => Fault::Damaged,
        Refusal::Fault(fault) => fault,
    });
    *home.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    for work in batch {
        work.answer(fault.map_or(Ok(()), |fault| Err(home.unavailable(fault))));
    }
}

#[derive(PartialEq, Eq)]
enum Refusal {
    /// The database is shut since an earlier fault: nothing was tried.
    NotEvenBegun,
    /// This is what went wrong. The transaction may or may not be on disk; nobody was told that it is.
    Fault(Fault),
}

fn attempt(home: &Home, batch: &mut [Box<dyn Work>]) -> Result<(), Refusal> {
    let mut begun = false;
    let writing = AssertUnwindSafe(|| {
        home.write(|tables| {
            begun = true;
            batch.iter_mut().try_for_each(|work| work.apply(tables))
        })
    });
    match catch_unwind(writing) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed)) if !begun => {
            Err(Refusal::NotEvenBegun)
        }
        Ok(Err(error)) => Err(Refusal::Fault(fault_of(&error))),
        Err(_) => {
            // In which state a panic left redb, nobody knows: start from the file.
            drop(home.take());
            Err(Refusal::Fault(Fault::Damaged))
        }
    }
}

/// What a refusal of redb means to an operator.
pub(super) fn fault_of(error: &redb::Error) -> Fault {
    use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        redb::Error::Io(error) => match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Fault::DiskFull,
            kind @ (PermissionDenied | ReadOnlyFilesystem) => Fault::Unwritable(kind),
            kind => Fault::Io(kind),
        },
        redb::Error::DatabaseAlreadyOpen => Fault::Taken,
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Fault::Io(io::ErrorKind::Other),
        _ => Fault::Damaged,
    }
}
