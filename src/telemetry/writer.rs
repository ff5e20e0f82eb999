//! Gets lines out of the way of requests: a bounded buffer, and a thread that empties it.
//!
//! Owns: [`Writer`], [`AppendFile`]. Must not know: what the lines say.
//!
//! Whoever logs appends to a shared buffer under a lock that is never held during I/O, and never waits for a
//! disk or a reader. The thread takes the whole buffer at once, so that a busy gateway makes one write for many
//! lines. A channel with a line in each message would need an allocation a line, and a wake-up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Where lines go. Takes whole lines; what it has written it removes from the front.
pub(super) type Sink = Box<dyn FnMut(&mut Vec<u8>) -> io::Result<()> + Send>;

/// How a writer treats its lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conduct {
    /// Name of the thread.
    pub(super) name: &'static str,
    /// Bytes that may wait.
    pub(super) capacity: usize,
    /// How long the thread lets lines gather before it writes them. Zero: not at all.
    pub(super) linger: Duration,
    /// What becomes of lines that cannot be written.
    pub(super) on_error: OnError,
}

/// What becomes of lines that cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnError {
    /// They are counted and gone.
    Drop,
    /// They wait, and are tried again after this long.
    Retry(Duration),
}

/// The buffer is full: the line was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

/// The buffer and its thread. When dropped, the thread writes what waits and ends.
pub(super) struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    settled: Condvar,
    conduct: Conduct,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines taken since the start, and lines of those that are written or given up.
    taken: u64,
    settled: u64,
    /// Somebody waits in `flush`.
    hurry: bool,
    closed: bool,
}

impl Writer {
    /// Starts the thread. `lost` hears how many lines were given up after they had been taken.
    ///
    /// # Errors
    ///
    /// When the operating system has no thread to give.
    pub(super) fn start(
        conduct: Conduct,
        sink: Sink,
        lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Writer> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { waiting: Vec::with_capacity(64 * 1024), ..State::default() }),
            work: Condvar::new(),
            settled: Condvar::new(),
            conduct,
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(conduct.name.to_owned()).spawn(move || theirs.run(sink, lost))?;
        Ok(Writer { shared })
    }

    /// Takes a line, which ends in its only line feed.
    ///
    /// # Errors
    ///
    /// [`Full`]: the line was not taken; the caller counts it.
    pub(super) fn push(&self, line: &[u8]) -> Result<(), Full> {
        let mut state = self.shared.lock();
        let before = state.waiting.len();
        let after = before + line.len();
        if after > self.shared.conduct.capacity {
            return Err(Full);
        }
        state.waiting.extend_from_slice(line);
        state.taken += 1;
        drop(state);
        // the thread sleeps only while nothing waits, or while it lets lines gather: no wake-up in between
        let half = self.shared.conduct.capacity / 2;
        if before == 0 || (before < half && after >= half) {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Waits until every line taken so far is written or given up; at most `patience`. Says whether it was.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        let target = state.taken;
        state.hurry = true;
        self.shared.work.notify_one();
        let waited = self.shared.settled.wait_timeout_while(state, patience, |s| s.settled < target);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
        state.settled >= target
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    /// A thread that died while holding the lock left whole lines or none: the buffer is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: Sink, lost: impl Fn(u64)) {
        let mut batch = Vec::new();
        let mut failing = false;
        while let Some(last) = self.take(&mut batch) {
            while let Err(error) = sink(&mut batch) {
                // said once, not for every batch, until it goes well again
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(
                        writer = self.conduct.name,
                        error = &error as &dyn std::error::Error,
                        "log lines cannot be written; free the disk, or mend whoever reads them"
                    );
                }
                if !self.may_retry() {
                    lost(batch.iter().filter(|byte| **byte == b'\n').count() as u64);
                    break;
                }
            }
            failing &= !batch.is_empty();
            self.lock().settled = last;
            self.settled.notify_all();
        }
    }

    /// Waits for lines and takes all of them; the number of the last one. `None` at the end.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let idle = |s: &mut State| s.waiting.is_empty() && !s.closed;
        let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() {
            return None;
        }
        if !self.conduct.linger.is_zero() {
            let half = self.conduct.capacity / 2;
            let gathering = |s: &mut State| !s.hurry && !s.closed && s.waiting.len() < half;
            let waited = self.work.wait_timeout_while(state, self.conduct.linger, gathering);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        batch.clear();
        std::mem::swap(batch, &mut state.waiting);
        Some(state.taken)
    }

    /// Waits until it is time to try again. Not when lines may be dropped, nor when the end has come.
    fn may_retry(&self) -> bool {
        let OnError::Retry(pause) = self.conduct.on_error else { return false };
        let waited = self.work.wait_timeout_while(self.lock(), pause, |s| !s.closed);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }
}

/// A sink to standard output.
pub(super) fn stdout() -> Sink {
    Box::new(|lines| {
        let mut out = io::stdout().lock();
        out.write_all(lines)?;
        out.flush()?;
        lines.clear();
        Ok(())
    })
}

/// A file that lines are appended to. It is opened again when it has been moved away (as `logrotate` does) and
/// when it cannot be written.
#[derive(Debug)]
pub(super) struct AppendFile {
    path: PathBuf,
    file: File,
    /// The last write ended within a line.
    torn: bool,
}

impl AppendFile {
    /// Opens `path` for appending; a new file is readable by its owner only.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<AppendFile> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(AppendFile { path: path.to_owned(), file, torn: false })
    }

    /// This file as a sink.
    pub(super) fn into_sink(mut self) -> Sink {
        Box::new(move |lines| self.append(lines))
    }

    /// Appends whole lines and removes them from `lines`; on an error, those that were written whole.
    fn append(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        if self.moved_away() {
            self.file = AppendFile::open(&self.path)?.file;
            self.torn = false;
        }
        if self.write(lines).is_err() {
            self.file = AppendFile::open(&self.path)?.file;
            self.write(lines)?;
        }
        Ok(())
    }

    fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        if self.torn {
            // a line of which half is written is begun anew, on a line of its own
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut done = 0;
        let outcome = loop {
            match self.file.write(&lines[done..]) {
                Ok(0) if done < lines.len() => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if done == lines.len() {
                break Ok(());
            }
        };
        let whole = lines[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.torn = whole < done;
        lines.drain(..whole);
        outcome
    }

    fn moved_away(&self) -> bool {
        let place = |m: std::fs::Metadata| (m.dev(), m.ino());
        let ours = self.file.metadata().ok().map(place);
        ours != std::fs::metadata(&self.path).ok().map(place)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn conduct(capacity: usize, on_error: OnError) -> Conduct {
        Conduct { name: "test", capacity, linger: Duration::ZERO, on_error }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() -> io::Result<()> {
        let (out, came) = mpsc::channel();
        let sink: Sink = Box::new(move |lines| {
            let _ = out.send(std::mem::take(lines));
            Ok(())
        });
        let writer = Writer::start(conduct(1 << 20, OnError::Drop), sink, |_| {})?;
        let mut expected = Vec::new();
        for number in 0..1_000 {
            let line = format!("{number}\n");
            assert_eq!(writer.push(line.as_bytes()), Ok(()));
            expected.extend_from_slice(line.as_bytes());
        }
        assert!(writer.flush(SOON));
        assert_eq!(came.try_iter().flatten().collect::<Vec<u8>>(), expected);
        Ok(())
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() -> io::Result<()> {
        let (go, gate) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let sink: Sink = Box::new(move |lines| {
            let _ = entered.send(());
            let _ = gate.recv();
            lines.clear();
            Ok(())
        });
        let writer = Writer::start(conduct(10, OnError::Drop), sink, |_| {})?;
        assert_eq!(writer.push(b"1234\n"), Ok(()));
        assert!(inside.recv_timeout(SOON).is_ok());
        assert_eq!(writer.push(b"5678\n"), Ok(()));
        assert_eq!(writer.push(b"9012\n"), Ok(()));
        assert_eq!(writer.push(b"3\n"), Err(Full));
        assert!(!writer.flush(Duration::ZERO));
        drop(go);
        assert!(writer.flush(SOON));
        assert_eq!(writer.push(b"3\n"), Ok(()));
        Ok(())
    }

    #[test]
    fn what_cannot_be_written_is_counted_or_tried_again() -> io::Result<()> {
        let fails = |times: u32| -> Sink {
            let mut left = times;
            Box::new(move |lines| {
                if left > 0 {
                    left -= 1;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                lines.clear();
                Ok(())
            })
        };
        for (on_error, expected) in [(OnError::Drop, 1), (OnError::Retry(Duration::ZERO), 0)] {
            let (say, lost) = mpsc::channel();
            let writer = Writer::start(conduct(100, on_error), fails(1), move |n| {
                let _ = say.send(n);
            })?;
            assert_eq!(writer.push(b"1\n"), Ok(()));
            assert!(writer.flush(SOON));
            assert_eq!(lost.try_iter().sum::<u64>(), expected, "{on_error:?}");
        }
        Ok(())
    }

    #[test]
    fn what_waits_is_written_when_the_last_handle_is_gone() -> io::Result<()> {
        let (out, came) = mpsc::channel();
        let sink: Sink = Box::new(move |lines| {
            let _ = out.send(std::mem::take(lines));
            Ok(())
        });
        let slow = Conduct { linger: Duration::from_secs(3600), ..conduct(100, OnError::Drop) };
        let writer = Writer::start(slow, sink, |_| {})?;
        assert_eq!(writer.push(b"last words\n"), Ok(()));
        drop(writer);
        assert_eq!(came.recv_timeout(SOON).as_deref(), Ok(&b"last words\n"[..]));
        assert!(came.recv_timeout(SOON).is_err(), "the thread and with it the sink are gone");
        Ok(())
    }

    #[test]
    fn a_file_is_private_is_appended_to_and_survives_rotation() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        AppendFile::open(&path)?.append(&mut b"1\n".to_vec())?;
        let mut file = AppendFile::open(&path)?;
        file.append(&mut b"2\n".to_vec())?;
        fs::rename(&path, &moved)?;
        file.append(&mut b"3\n".to_vec())?;
        fs::remove_file(&path)?;
        file.append(&mut b"4\n".to_vec())?;
        assert_eq!(fs::read_to_string(&moved)?, "1\n2\n");
        assert_eq!(fs::read_to_string(&path)?, "4\n");
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        Ok(())
    }

    #[test]
    fn a_file_that_cannot_be_written_is_opened_again_and_a_torn_line_begun_anew() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("audit.log");
        let mut file = AppendFile::open(&path)?;
        file.file = File::open(&path)?; // for reading only: every write fails
        let mut lines = b"1\n".to_vec();
        file.append(&mut lines)?;
        assert!(lines.is_empty());
        file.torn = true;
        file.append(&mut b"2\n".to_vec())?;
        assert_eq!(fs::read_to_string(&path)?, "1\n\n2\n");
        Ok(())
    }

    #[test]
    fn a_full_disk_keeps_the_lines() -> io::Result<()> {
        let mut lines = b"1\n".to_vec();
        let outcome = AppendFile::open(Path::new("/dev/full"))?.append(&mut lines);
        assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        assert_eq!(lines, b"1\n");
        Ok(())
    }
}
