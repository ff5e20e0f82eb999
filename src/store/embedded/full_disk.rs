//! For tests: the file on a disk that is full while a switch is on.
//!
//! Owns: [`open`]. What is read is read, as on a disk that is full.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::super::Error;
use super::super::opening::{FILE, builder, refused};
use super::Embedded;
use crate::entropy::Entropy;
use crate::keys::Keyring;

/// The store in the folder `dir`, and the switch.
pub(in super::super) fn open(dir: &Path, ring: Arc<Keyring>) -> Result<(Embedded, Arc<AtomicBool>), Error> {
    open_where(dir, ring, io::ErrorKind::StorageFull)
}

/// The same where writing fails with `kind` while the switch is on.
pub(in super::super) fn open_where(
    dir: &Path,
    ring: Arc<Keyring>,
    kind: io::ErrorKind,
) -> Result<(Embedded, Arc<AtomicBool>), Error> {
    let file = dir.join(FILE);
    let full = Arc::new(AtomicBool::new(false));
    let opener = {
        let (file, full) = (file.clone(), Arc::clone(&full));
        move || {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
            let backend = FileBackend::new(opened?)?;
            builder().create_with_backend(FullDisk { file: backend, kind, full: Arc::clone(&full) })
        }
    };
    let database = opener().map_err(|error| refused(dir, &file, error))?;
    let store = Embedded::with(dir, file, database, Box::new(opener), ring, Entropy::system())?;
    Ok((store, full))
}

#[derive(Debug)]
struct FullDisk {
    file: FileBackend,
    kind: io::ErrorKind,
    full: Arc<AtomicBool>,
}

impl FullDisk {
    fn check(&self) -> io::Result<()> {
        let full = self.full.load(Ordering::SeqCst);
        if full { Err(self.kind.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FullDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
        self.file.unlock_range(start, end)
    }
}
