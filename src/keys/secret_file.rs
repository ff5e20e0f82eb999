//! The secret file: where the master keys come from.
//!
//! Owns: its format, its creation, its permissions. Text; `#` comments and blank lines are skipped; one key
//! a line, `teamgate-key-1:` and 32 bytes as unpadded base64url. The first key seals, all open. A comment
//! `# made` and a moment is about the key that follows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroize as _;

use super::{BadKeys, Keyring, MasterKey};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

const PREFIX: &str = "teamgate-key-1:";
const MADE: &str = "# made ";
const LARGEST: u64 = 64 * 1024;
const HEADER: &str = "\
# The secret of teamgate. Whoever has it can read the store and make session cookies: keep it private.
# The first key seals, all of them open. To change keys put a new one on top (`teamgate keys rotate`); a running
# gateway takes it within seconds. Delete an old one when `teamgate keys list` says that it may go.
";

/// Why there is no keyring: place, fault, cure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file.
    #[error("{}: there is no such file; make it with `teamgate keys generate --out {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The operating system does not give it out.
    #[error("{}: cannot be read ({source}); let the user that runs teamgate own it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than its owner can read or write it.
    #[error("{}: others can read it (mode {mode:03o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a secret file, whatever else it is.
    #[error("{}: larger than 64 KiB; it has one key a line, made by `teamgate keys generate`", .0.display())]
    TooLarge(PathBuf),
    /// A line that is no key.
    #[error("{}:{line}: {fault}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong, and the cure.
        fault: LineFault,
    },
    /// Its keys make no ring.
    #[error("{}: {fault}; `teamgate keys rotate` puts a new key on top, old ones are deleted by hand", path.display())]
    BadKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: BadKeys,
    },
    /// A new file would overwrite an old one.
    #[error("{}: exists already; choose another name, or add a key to it with `teamgate keys rotate`", .0.display())]
    Exists(PathBuf),
    /// It cannot be created or replaced.
    #[error("{}: cannot be written ({source}); let the user that runs teamgate own its folder", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why a line is no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LineFault {
    /// Another beginning.
    #[error("no key; a key begins with `teamgate-key-1:`, a comment with `#`")]
    NoPrefix,
    /// A key of a later format.
    #[error("a kind of key that this version does not know; upgrade teamgate, or delete the line")]
    UnknownKind,
    /// Not base64url, or not 32 bytes of it.
    #[error("the key is damaged: 43 letters, digits, `-` and `_` follow the colon; restore the line")]
    Damaged,
}

/// Where the keys came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// They were there.
    Found,
    /// There was no file; now there is one. Worth a line in the log.
    Created,
}

impl Keyring {
    /// Reads the secret file.
    ///
    /// # Errors
    ///
    /// It is missing, unreadable, readable by others, or not well formed. Each names its cure.
    pub fn load(path: &Path) -> Result<Keyring, Error> {
        let text = read_private(path)?;
        let (keys, made): (Vec<MasterKey>, Vec<Option<Timestamp>>) = parse(text.expose())
            .map_err(|(line, fault)| Error::BadLine { path: path.into(), line, fault })?
            .into_iter()
            .unzip();
        let mut keys = Keyring::derive(&keys).map_err(|fault| Error::BadKeys { path: path.into(), fault })?;
        for (key, made_at) in keys.iter_mut().zip(made) {
            key.set_made_at(made_at);
        }
        Ok(Keyring { keys: ArcSwap::from_pointee(keys) })
    }

    /// Reads the secret file, or makes it (mode 0600, on disk before this returns). Two processes that start
    /// together end up with the same keys.
    ///
    /// # Errors
    ///
    /// As [`Keyring::load`]; or it cannot be created.
    pub fn load_or_create(
        path: &Path,
        entropy: &Entropy,
        now: Timestamp,
    ) -> Result<(Keyring, Origin), Error> {
        match Keyring::load(path) {
            Err(Error::Missing(_)) => {}
            outcome => return outcome.map(|ring| (ring, Origin::Found)),
        }
        match Keyring::generate_file(path, entropy, now) {
            Ok(()) => Ok((Keyring::load(path)?, Origin::Created)),
            Err(Error::Exists(_)) => Ok((Keyring::load(path)?, Origin::Found)),
            Err(fault) => Err(fault),
        }
    }

    /// Makes a secret file with one new key, mode 0600.
    ///
    /// # Errors
    ///
    /// Never overwrites: [`Error::Exists`]. Otherwise the folder does not allow it.
    pub fn generate_file(path: &Path, entropy: &Entropy, now: Timestamp) -> Result<(), Error> {
        let text = Secret::new(format!("{HEADER}{}", new_lines(entropy, now)));
        let unwritable = |source| Error::Unwritable { path: path.into(), source };
        let draft = Draft::write(path, text.expose(), entropy).map_err(unwritable)?;
        // A link, unlike a rename, fails when the name is taken: whoever comes second takes the first one's
        // keys. And the name never shows a file that is half written.
        match fs::hard_link(&draft.path, path) {
            Ok(()) => sync_folder(path).map_err(unwritable),
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => Err(Error::Exists(path.into())),
            Err(fault) => Err(unwritable(fault)),
        }
    }

    /// Puts a new key on top of an existing secret file; everything else in it stays. A gateway that runs takes
    /// it within seconds.
    ///
    /// # Errors
    ///
    /// As [`Keyring::load`]; or the file cannot be replaced; or it has all the keys it may have.
    pub fn add_key(path: &Path, entropy: &Entropy, now: Timestamp) -> Result<(), Error> {
        if Keyring::load(path)?.ids().len() >= Keyring::MOST_KEYS {
            return Err(Error::BadKeys { path: path.into(), fault: BadKeys::TooMany });
        }
        let text = read_private(path)?;
        let mut grown = String::with_capacity(text.expose().len() + 128);
        // In front of the first key and of what is said about it.
        let is_key = |line: &str| line.trim().starts_with(PREFIX) || line.trim().starts_with(MADE);
        let first = text.expose().lines().position(is_key).unwrap_or(0);
        for (place, line) in text.expose().lines().enumerate() {
            if place == first {
                grown.push_str(&new_lines(entropy, now));
            }
            grown.push_str(line);
            grown.push('\n');
        }
        let grown = Secret::new(grown);
        let unwritable = |source| Error::Unwritable { path: path.into(), source };
        let draft = Draft::write(path, grown.expose(), entropy).map_err(unwritable)?;
        fs::rename(&draft.path, path).and_then(|()| sync_folder(path)).map_err(unwritable)
    }
}

fn new_lines(entropy: &Entropy, now: Timestamp) -> String {
    format!("{MADE}{now}\n{PREFIX}{}\n", entropy.token::<32>())
}

/// A key, and when it was made.
type Dated = (MasterKey, Option<Timestamp>);

fn parse(text: &str) -> Result<Vec<Dated>, (usize, LineFault)> {
    let (mut keys, mut made) = (Vec::new(), None);
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(moment) = line.strip_prefix(MADE) {
            // A comment, after all: what is no moment says nothing.
            made = Timestamp::parse(moment.trim());
        } else if !line.is_empty() && !line.starts_with('#') {
            keys.push((parse_line(line).map_err(|fault| (place + 1, fault))?, made.take()));
        }
    }
    Ok(keys)
}

fn parse_line(line: &str) -> Result<MasterKey, LineFault> {
    let Some(encoded) = line.strip_prefix(PREFIX) else {
        let known = line.starts_with("teamgate-key-");
        return Err(if known { LineFault::UnknownKind } else { LineFault::NoPrefix });
    };
    let mut key = [0; 32];
    // One byte more than a key, so that a longer one is told from a key.
    let mut buffer = [0; 33];
    let decoded = URL_SAFE_NO_PAD.decode_slice(encoded, &mut buffer);
    key.copy_from_slice(&buffer[..32]);
    buffer.zeroize();
    let key = Secret::new(key);
    if decoded == Ok(32) { Ok(key) } else { Err(LineFault::Damaged) }
}

/// Reads a file that only its owner can read. Permissions are those of the open file, so that no other file
/// can take its name in between.
fn read_private(path: &Path) -> Result<Secret<String>, Error> {
    let unreadable = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => Error::Missing(path.into()),
        _ => Error::Unreadable { path: path.into(), source },
    };
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    let mode = facts.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.into(), mode });
    }
    if facts.len() > LARGEST {
        return Err(Error::TooLarge(path.into()));
    }
    let mut text = String::with_capacity(facts.len() as usize + 1);
    file.take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
    Ok(Secret::new(text))
}

/// A file beside the wanted one, complete and on disk; removed when dropped.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(beside: &Path, text: &str, entropy: &Entropy) -> io::Result<Draft> {
        let name = beside.file_name().ok_or(ErrorKind::InvalidFilename)?.to_string_lossy();
        let path = beside.with_file_name(format!(".{name}.{}", entropy.token::<9>()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let draft = Draft { path };
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// The name of a new file is on disk only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn written(text: &str, mode: u32) -> io::Result<(tempfile::TempDir, PathBuf)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("teamgate.secret");
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok((dir, path))
    }

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const KEY_A: &str = "teamgate-key-1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    const KEY_B: &str = "teamgate-key-1:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI";

    #[test]
    fn a_missing_file_is_created_private_and_read_again() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("teamgate.secret");
        let (created, origin) = Keyring::load_or_create(&path, &Entropy::system(), NOW)?;
        assert_eq!(origin, Origin::Created);
        assert_eq!(fs::metadata(&path)?.mode() & 0o777, 0o600);
        let (found, origin) = Keyring::load_or_create(&path, &Entropy::system(), NOW)?;
        assert_eq!(origin, Origin::Found);
        assert!(created.ids().eq(found.ids()));
        assert_eq!(fs::read_dir(dir.path())?.count(), 1, "no draft stays behind");
        Ok(())
    }

    #[test]
    fn many_that_start_together_end_up_with_one_key() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("teamgate.secret");
        let ids = std::thread::scope(|scope| {
            let start =
                || Keyring::load_or_create(&path, &Entropy::system(), NOW).map(|(r, _)| r.ids().next());
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        let mut names = Vec::new();
        for id in ids {
            names.push(id.map_err(|_| "a thread panicked")??);
        }
        assert!(names.iter().all(|name| *name == names[0] && name.is_some()), "{names:?}");
        Ok(())
    }

    #[test]
    fn the_first_key_of_the_file_seals() -> Outcome {
        let (_dir, path) = written(&format!("# a comment\n\n {KEY_A} \n{KEY_B}\n"), 0o600)?;
        let expected = Keyring::from_keys(&[Secret::new([1; 32]), Secret::new([2; 32])])?;
        assert!(Keyring::load(&path)?.ids().eq(expected.ids()));
        Ok(())
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_helps() -> Outcome {
        for mode in [0o640, 0o604, 0o620, 0o660, 0o644, 0o601] {
            let (_dir, path) = written(KEY_A, mode)?;
            let Err(fault) = Keyring::load(&path) else {
                return Err(format!("{mode:o} was accepted").into());
            };
            assert!(fault.to_string().ends_with(&format!("run `chmod 600 {}`", path.display())), "{fault}");
        }
        let (_dir, path) = written(KEY_A, 0o400)?;
        Keyring::load(&path)?;
        Ok(())
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_does_not_show_its_content() -> Outcome {
        let cut = &KEY_A[..KEY_A.len() - 1];
        let long = format!("{KEY_A}AA");
        for (line, fault) in [
            ("hunter2", LineFault::NoPrefix),
            ("teamgate-key-2:AQEB", LineFault::UnknownKind),
            ("teamgate-key-1:", LineFault::Damaged),
            (cut, LineFault::Damaged),
            (&long, LineFault::Damaged),
            ("teamgate-key-1:!!!!AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", LineFault::Damaged),
        ] {
            let (_dir, path) = written(&format!("# c\n{KEY_B}\n{line}\n"), 0o600)?;
            let Err(error) = Keyring::load(&path) else { return Err(format!("{line} was accepted").into()) };
            assert_eq!(error.to_string(), format!("{}:3: {fault}", path.display()));
        }
        for (text, fault) in [
            ("# nothing\n".to_owned(), BadKeys::None),
            (format!("{KEY_A}\n{KEY_A}\n"), {
                let id = Keyring::from_keys(&[Secret::new([1; 32])])?.ids().next().ok_or("no key")?;
                BadKeys::Twice(id)
            }),
        ] {
            let (_dir, path) = written(&text, 0o600)?;
            let error = Keyring::load(&path).err();
            assert!(matches!(error, Some(Error::BadKeys { fault: f, .. }) if f == fault), "{error:?}");
        }
        Ok(())
    }

    #[test]
    fn generating_never_overwrites_and_adding_a_key_keeps_the_old_one() -> Outcome {
        let (_dir, path) = written(&format!("# mine\n{KEY_A}\n"), 0o600)?;
        assert!(matches!(Keyring::generate_file(&path, &Entropy::system(), NOW), Err(Error::Exists(_))));
        let old = Keyring::load(&path)?;
        Keyring::add_key(&path, &Entropy::system(), NOW)?;
        let new = Keyring::load(&path)?;
        assert_eq!(new.ids().len(), 2);
        assert_eq!(new.ids().nth(1), old.ids().next());
        assert!(
            fs::read_to_string(&path)?.starts_with("# mine\n# made 2027-01-15T08:00:00Z\nteamgate-key-1:")
        );
        assert_eq!(new.keys().iter().map(|key| key.made_at).collect::<Vec<_>>(), [Some(NOW), None]);
        // The next one stands above what is said about this one.
        let later = NOW.plus(std::time::Duration::from_secs(60));
        Keyring::add_key(&path, &Entropy::system(), later)?;
        let newest = Keyring::load(&path)?.keys();
        assert_eq!(newest.iter().map(|key| key.made_at).collect::<Vec<_>>(), [Some(later), Some(NOW), None]);
        assert_eq!(fs::metadata(&path)?.mode() & 0o777, 0o600);
        Ok(())
    }
}
