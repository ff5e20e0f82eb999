//! A route that serves the files of a folder.
//!
//! Owns: [`Files`], and which names are kept back ([`is_hidden`]). Must not know: the disk.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// The folder, and how its files are found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The folder; absolute, or relative to where the gateway was started. Looked up at each request, so that a
    /// link that is set to another release takes effect at once.
    pub root: PathBuf,
    /// The file that stands for a folder. Default: `index.html`.
    pub index: Box<str>,
    /// The file that is shown to a person who opens a page that does not exist; below `root`. Default: none.
    pub fallback: Option<Box<str>>,
    /// Whether `a.js.br`, `a.js.zst` or `a.js.gz` stands for `a.js` where a browser can read it. Default: no.
    pub precompressed: bool,
}

/// Whether a file below the root is kept back because of its name: `.git`, `.env`, `.htpasswd` lie in folders
/// that people publish without meaning them. `.well-known` at the root is meant for everybody (RFC 8615).
pub fn is_hidden(below_root: &Path) -> bool {
    let mut names = below_root.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let is_dotted = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    match names.next() {
        None => false,
        Some(first) => (is_dotted(first) && first != ".well-known") || names.any(is_dotted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_begin_with_a_dot_are_kept_back_at_every_depth() {
        for (path, hidden) in [
            ("", false),
            (".", false),
            ("./a/b.html", false),
            ("a.b/c", false),
            (".env", true),
            ("./.git/config", true),
            ("a/.htpasswd", true),
            ("a/.git/b", true),
            ("..a", true),
            (".well-known/security.txt", false),
            (".well-known/.git/config", true),
            ("a/.well-known/x", true),
        ] {
            assert_eq!(is_hidden(Path::new(path)), hidden, "{path}");
        }
    }
}
