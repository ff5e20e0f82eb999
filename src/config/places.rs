//! Where each value stood in the file.
//!
//! Owns: [`Places`]: from a path like `routes[2].upstream` back to its line and column.
//! Must not know: what is wrong there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::node::{Kind, Node};
use super::problem::Place;

/// Where each value stood in the file.
#[derive(Debug, Default)]
pub struct Places {
    spots: HashMap<String, Spot>,
    broken: BTreeSet<String>,
    strange: BTreeSet<String>,
    names: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    key: Place,
    value: Place,
    is_mapping: bool,
}

impl Places {
    /// Notes that the file has `value` at `path`, under a key (or in a list) at `key`.
    pub(super) fn note(&mut self, path: &str, key: Place, value: &Node) {
        let is_mapping = matches!(value.kind, Kind::Map(_));
        self.spots.insert(path.to_owned(), Spot { key, value: value.place, is_mapping });
    }

    /// Notes that the entry at `path` of a list is called `name`.
    pub(super) fn note_name(&mut self, path: &str, name: String) {
        self.names.insert(path.to_owned(), name);
    }

    /// Notes that what stands, or was meant to stand, at `path` is unsound and reported.
    pub(super) fn note_broken(&mut self, path: &str) {
        self.broken.insert(path.to_owned());
    }

    /// Notes that the mapping at `path` has an unknown key.
    pub(super) fn note_strange(&mut self, path: &str) {
        self.strange.insert(path.to_owned());
    }

    /// Where the value at `path` begins, or of a mapping its key; if the file does not have it, where the key
    /// of its nearest parent stands.
    pub fn of(&self, path: &str) -> Place {
        match self.spots.get(path) {
            Some(spot) if spot.is_mapping => spot.key,
            Some(spot) => spot.value,
            None if path.is_empty() => Place::START,
            None => self.of_key(parent(path)),
        }
    }

    /// Where the key of the value at `path` stands: the place of what is missing below it.
    pub fn of_key(&self, path: &str) -> Place {
        match self.spots.get(path) {
            Some(spot) => spot.key,
            None if path.is_empty() => Place::START,
            None => self.of_key(parent(path)),
        }
    }

    /// Whether the file has something at `path`, sound or not.
    pub fn has(&self, path: &str) -> bool {
        self.spots.contains_key(path)
    }

    /// Whether what the file has at `path`, or at a value around it, is unsound and already reported.
    pub fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path) || (!path.is_empty() && self.is_broken(parent(path)))
    }

    /// Whether the file has something at `path`, or has a key that was probably meant to be it.
    pub fn mentions(&self, path: &str) -> bool {
        self.has(path) || self.broken.contains(path)
    }

    /// Whether the mapping at `path` has an unknown key.
    pub fn is_strange(&self, path: &str) -> bool {
        self.strange.contains(path)
    }

    /// The names of the routes by their path, for [`super::problem::Problems`].
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }
}

/// `routes[2].teams[0]` → `routes[2].teams` → `routes[2]` → `routes` → ``.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |at| &path[..at])
}
