//! Opening the file: its folder, its permissions, its format, its secret.
//!
//! Owns: what must hold before the first operation, and sealing anew under a new key.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadableTable as _};

use super::Error;
use super::record::{Acquaintance, Sealer};
use super::writer::{CANARY_KEY, FORMAT_KEY, Home, SIGNING_KEY, Tables, VERSION_KEY, fault_of};
use crate::keys::Purpose;

/// The newest format that this version reads, and the one it writes.
pub(super) const FORMAT: u32 = 1;

/// Who this is, for the message of an earlier version that meets a later format.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The store, in its folder.
pub(super) const FILE: &str = "teamgate.redb";
const PID_FILE: &str = "teamgate.pid";

/// Memory for pages that were read, in bytes: the whole file of a team of thousands.
const CACHE: usize = 64 * 1024 * 1024;
/// A file at least this large, in bytes, that is half empty is made smaller at the start.
const WORTH_COMPACTING: u64 = 32 * 1024 * 1024;

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// The folder and the file, private. An existing folder keeps its mode: it may be a mounted volume.
pub(super) fn prepare(dir: &Path, file: &Path) -> Result<(), Error> {
    let is_new = !dir.exists();
    let at_dir = |source| unreadable(dir, source);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at_dir)?;
    let at_file = |source| unreadable(file, source);
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(file);
    let opened = opened.map_err(at_file)?;
    if opened.metadata().map_err(at_file)?.permissions().mode() & 0o077 != 0 {
        opened.set_permissions(Permissions::from_mode(0o600)).map_err(at_file)?;
    }
    // The name of a new file is on disk only when its folder is.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at_dir)?;
    if let Some(parent) = dir.parent().filter(|parent| is_new && !parent.as_os_str().is_empty()) {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(at_dir)?;
    }
    Ok(())
}

pub(super) fn refused(dir: &Path, file: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Error::Locked { file: file.into(), pid: PidFile::read(dir) }
        }
        other => unreadable(file, redb::Error::from(other)),
    }
}

pub(super) fn unreadable(file: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unreadable { file: file.into(), source: source.into() }
}

/// redb gives no space back by itself. Failing to is no reason not to start.
pub(super) fn compact(file: &Path, database: &mut Database) {
    let size = fs::metadata(file).map_or(0, |facts| facts.len());
    let unused = || Some(database.begin_write().ok()?.stats().ok()?.fragmented_bytes());
    if size >= WORTH_COMPACTING && unused().is_some_and(|unused| unused > size / 2) {
        let _ = database.compact();
    }
}

/// Sees whether the store is ours to read, and makes a new one so.
pub(super) fn admit(home: &Home, sealer: &Sealer) -> Result<(), Error> {
    let outcome = home.write(|tables| {
        let format = tables.meta.get(FORMAT_KEY)?.map(|value| value.value().to_vec());
        let Some(format) = format else {
            tables.meta.insert(FORMAT_KEY, FORMAT.to_be_bytes().as_slice())?;
            tables.meta.insert(CANARY_KEY, sealer.canary().as_slice())?;
            tables.meta.insert(VERSION_KEY, VERSION.as_bytes())?;
            return Ok(Admission::Granted);
        };
        // A format is a number, now and for ever; what is none is not from an earlier version.
        let found = format.as_slice().try_into().map_or(u32::MAX, u32::from_be_bytes);
        if found > FORMAT {
            let written_by = tables.meta.get(VERSION_KEY)?.and_then(|value| version_of(value.value()));
            return Ok(Admission::NewerFormat { found, written_by });
        }
        let canary = tables.meta.get(CANARY_KEY)?.map(|value| value.value().to_vec());
        match sealer.know(&canary.unwrap_or_default()) {
            Acquaintance::Foreign => return Ok(Admission::ForeignSecret),
            Acquaintance::Older => renew(tables, sealer)?,
            Acquaintance::Current => {}
        }
        tables.meta.insert(VERSION_KEY, VERSION.as_bytes())?;
        Ok(Admission::Granted)
    });
    let file = || home.file.to_path_buf();
    match outcome {
        Ok(Admission::Granted) => Ok(()),
        Ok(Admission::NewerFormat { found, written_by }) => {
            Err(Error::NewerFormat { file: file(), found, known: FORMAT, written_by })
        }
        Ok(Admission::ForeignSecret) => Err(Error::ForeignSecret { file: file() }),
        Err(error @ redb::Error::Io(_)) => {
            Err(Error::Unavailable { place: Arc::clone(&home.file), fault: fault_of(&error) })
        }
        Err(error) => Err(unreadable(&home.file, error)),
    }
}

/// What a file says of the version that had it open last: for people, so nothing but what a version is made of.
pub(super) fn version_of(value: &[u8]) -> Option<Box<str>> {
    let is_version = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+".contains(byte);
    let text = std::str::from_utf8(value).ok()?;
    ((1..=64).contains(&value.len()) && value.iter().all(is_version)).then(|| text.into())
}

enum Admission {
    Granted,
    NewerFormat { found: u32, written_by: Option<Box<str>> },
    ForeignSecret,
}

/// Seals everything under the first key, in one transaction: all of it or nothing. A tenth of a second for
/// ten thousand sessions; once per new key.
fn renew(tables: &mut Tables<'_>, sealer: &Sealer) -> Result<(), redb::Error> {
    let mut renewed = Vec::new();
    for entry in tables.sessions.iter()? {
        let (key, value) = entry?;
        let value = sealer.renewed(Purpose::Session, key.value(), value.value());
        renewed.extend(value.map(|value| (*key.value(), value)));
    }
    for (key, value) in renewed {
        tables.sessions.insert(&key, value.as_slice())?;
    }
    for (table, purpose) in [(&mut tables.grants, Purpose::Grant), (&mut tables.accounts, Purpose::Account)] {
        let mut renewed = Vec::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            let value = sealer.renewed(purpose, key.value(), value.value());
            renewed.extend(value.map(|value| (*key.value(), value)));
        }
        for (key, value) in renewed {
            table.insert(&key, value.as_slice())?;
        }
    }
    let keys = tables.meta.get(SIGNING_KEY)?;
    let keys = keys.and_then(|value| sealer.renewed(Purpose::SigningKey, b"", value.value()));
    if let Some(value) = keys {
        tables.meta.insert(SIGNING_KEY, value.as_slice())?;
    }
    tables.meta.insert(CANARY_KEY, sealer.canary().as_slice())?;
    Ok(())
}

/// Names the process that has the store open, for the message of one that wants it too. The lock is redb's.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Without it the message names no process; nothing else depends on it.
    pub(super) fn write(dir: &Path) -> PidFile {
        let path = dir.join(PID_FILE);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let _ = options.open(&path).and_then(|mut file| writeln!(file, "{}", std::process::id()));
        PidFile(path)
    }

    fn read(dir: &Path) -> Option<u32> {
        fs::read_to_string(dir.join(PID_FILE)).ok()?.trim().parse().ok()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
