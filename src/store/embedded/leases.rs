//! Leases where one process has the store: in memory, with a fence that outlives it.
//!
//! Owns: [`Leases`]. Must not know: what is done under a lease.
//!
//! A process that is gone does nothing any more, so its leases need not be remembered; but its numbers must not
//! come again. They begin with how often the file was opened.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::ReadableTable as _;

use super::super::lease::{Claim, Lease, Task};
use super::super::writer::Home;
use super::Step;
use crate::clock::Timestamp;

/// How often the file was opened, 8 bytes.
const OPENED_KEY: &str = "opened";
/// So many leases fit between two openings.
const FENCES: u32 = 32;

#[derive(Default)]
struct Held {
    leases: HashMap<Task, (u64, Timestamp)>,
    last_fence: u64,
}

pub(in super::super) struct Leases(Mutex<Held>);

impl Leases {
    /// None yet. Writes down that the file was opened once more.
    pub(super) fn begin(home: &Home) -> Step<Leases> {
        let opened = home.write(|tables| {
            let before = tables.meta.get(OPENED_KEY)?.map(|value| value.value().to_vec());
            let before = before.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            tables.meta.insert(OPENED_KEY, (before + 1).to_be_bytes().as_slice())?;
            Ok(before + 1)
        });
        Ok(Leases(Mutex::new(Held { leases: HashMap::new(), last_fence: opened? << FENCES })))
    }

    pub(in super::super) fn take(&self, task: Task, now: Timestamp, span: Duration) -> Claim {
        let mut held = self.held();
        let (fence, expires_at) = (held.last_fence + 1, now.plus(span));
        match held.leases.entry(task) {
            Entry::Occupied(other) if other.get().1 > now => return Claim::Held { until: other.get().1 },
            Entry::Occupied(mut over) => {
                over.insert((fence, expires_at));
            }
            Entry::Vacant(free) => {
                free.insert((fence, expires_at));
            }
        }
        held.last_fence = fence;
        Claim::Taken(Lease { task, fence, expires_at })
    }

    pub(in super::super) fn renew(&self, lease: &Lease, now: Timestamp, span: Duration) -> Option<Lease> {
        let mut held = self.held();
        let (_, expires_at) = held.leases.get_mut(&lease.task).filter(|(fence, _)| *fence == lease.fence)?;
        *expires_at = now.plus(span);
        Some(Lease { expires_at: *expires_at, ..*lease })
    }

    pub(in super::super) fn release(&self, lease: &Lease) -> bool {
        let mut held = self.held();
        match held.leases.entry(lease.task) {
            Entry::Occupied(ours) if ours.get().0 == lease.fence => {
                ours.remove();
                true
            }
            _ => false,
        }
    }

    /// Whether nobody has taken the task since, and it was not released.
    pub(super) fn is_last(&self, lease: &Lease) -> bool {
        self.held().leases.get(&lease.task).is_some_and(|(fence, _)| *fence == lease.fence)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
