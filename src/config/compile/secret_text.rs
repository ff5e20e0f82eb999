//! Secrets that stand in files of their own.
//!
//! Owns: [`read`]. The first line counts, so that an editor's line break at the end does no harm.
//! Must not know: what the secret is for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

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
    /// No such file.
    #[error("does not exist; create it, or mend the path (relative to the folder of the configuration)")]
    Missing,
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
        io::ErrorKind::NotFound => Error::Missing,
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_line_counts_and_permissions_are_looked_at() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("secret");
        assert!(matches!(read(&path), Err(Error::Missing)));
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
