//! Headers that a route takes off or puts on.
//!
//! Owns: [`Edits`]. Must not know: which names are the gateway's own; configuration keeps them out.

use http::{HeaderName, HeaderValue};

/// What is changed of the headers of a message. Default: nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Edits {
    /// Taken off first, in every spelling that an app cannot tell from this one.
    pub remove: Box<[HeaderName]>,
    /// Put on then, in place of whatever stood there under any such spelling.
    pub set: Box<[(HeaderName, HeaderValue)]>,
}

impl Edits {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Every name that no longer stands for what the sender said.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.set.iter().map(|(name, _)| name))
    }
}
