//! Secrets that stand in files of their own.
//!
//! Owns: [`read`], [`create`]. The first line counts, so that an editor's line break at the end does no harm.
//! Must not know: what the secret is for.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::entropy::Entropy;
use crate::secret::Secret;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 64 * 1024;

/// A secret that was read.
#[derive(Debug)]
pub struct SecretText {
    /// The first line.
    pub secret: Secret<String>,
    /// The file's permission bits, if others can read it. Only a warning: container platforms mount secrets
    /// that way, where there are no others.
    pub exposed: Option<u32>,
}

/// Why there is no secret; a predicate about the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file, in a folder that there is.
    #[error("does not exist; create it, or mend the path (relative to the folder of the configuration)")]
    Missing,
    /// No such folder.
    #[error("does not exist; create it, or mend the path (relative to the folder of the configuration)")]
    NoFolder,
    /// The operating system does not give it out.
    #[error("cannot be read ({0}); let the user that runs teamgate read it")]
    Unreadable(io::Error),
    /// Others could put their own secret there.
    #[error("can be written by others (mode {0:03o}); run `chmod 600` on it")]
    Writable(u32),
    /// Nothing in its first line.
    #[error("has an empty first line; put the secret there")]
    Empty,
    /// Not what a secret looks like.
    #[error("is no text of one line; put the secret there and nothing else")]
    NotText,
}

/// Reads the secret in `path`.
///
/// # Errors
/// [`Error`], each with its cure.
pub fn read(path: &Path) -> Result<SecretText, Error> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if folder_of(path).is_dir() => Error::Missing,
        io::ErrorKind::NotFound => Error::NoFolder,
        _ => Error::Unreadable(error),
    })?;
    let mode = file.metadata().map_err(Error::Unreadable)?.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(Error::Writable(mode));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(Error::Unreadable)?;
    let text = Secret::new(String::from_utf8(bytes).map_err(|_| Error::NotText)?);
    let first = text.expose().lines().next().unwrap_or("").trim();
    if first.is_empty() {
        return Err(Error::Empty);
    }
    if first.contains(char::is_control) {
        return Err(Error::NotText);
    }
    let exposed = (mode & 0o044 != 0).then_some(mode);
    Ok(SecretText { secret: Secret::new(first.to_owned()), exposed })
}

/// Makes a file of mode 0600 with `secret` in its first line. It is on disk, whole, when this returns.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where there is one: somebody else's secret is never overwritten. Otherwise what
/// the folder does not allow.
pub fn create(path: &Path, secret: &Secret<String>, entropy: &Entropy) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", entropy.token::<9>()));
    let written =
        File::options().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(secret.expose().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        });
    // A link, unlike a rename, fails when the name is taken; and the name never shows half a file.
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    // Of a draft that could not be written there is nothing to remove.
    let _ = fs::remove_file(&draft);
    linked.and_then(|()| File::open(folder_of(path))?.sync_all())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_is_made_is_private_and_never_replaces_one() -> Result<(), Box<dyn std::error::Error>> {
        let (folder, entropy) = (tempfile::tempdir()?, Entropy::system());
        let path = folder.path().join("token");
        create(&path, &Secret::new("first".to_owned()), &entropy)?;
        assert_eq!(fs::metadata(&path)?.mode() & 0o777, 0o600);
        let again = create(&path, &Secret::new("second".to_owned()), &entropy);
        assert_eq!(again.map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(read(&path)?.secret.expose(), "first");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1, "no draft stays behind");
        Ok(())
    }

    #[test]
    fn the_first_line_counts_and_permissions_are_looked_at() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("secret");
        assert!(matches!(read(&path), Err(Error::Missing)));
        assert!(matches!(read(&path.join("below")), Err(Error::NoFolder)));
        assert!(matches!(read(folder.path()), Err(Error::Unreadable(_) | Error::Writable(_))));
        for (content, mode, expected) in [
            ("s3cret\n", 0o600, Ok(("s3cret", None))),
            ("s3cret", 0o400, Ok(("s3cret", None))),
            ("s3cret \nnot this\n", 0o644, Ok(("s3cret", Some(0o644)))),
            ("s3cret\n", 0o660, Err("can be written by others")),
            ("\ns3cret", 0o600, Err("empty first line")),
            ("", 0o600, Err("empty first line")),
            ("a\u{1}b", 0o600, Err("no text")),
        ] {
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            match (read(&path), expected) {
                (Ok(found), Ok((secret, exposed))) => {
                    assert_eq!((found.secret.expose().as_str(), found.exposed), (secret, exposed));
                }
                (Err(fault), Err(word)) => assert!(fault.to_string().contains(word), "{fault}"),
                (found, expected) => assert_eq!(found.is_ok(), expected.is_ok(), "{content:?} {mode:o}"),
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }
}
