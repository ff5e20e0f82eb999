//! What only one replica does at a time.
//!
//! Owns: [`Task`], [`Lease`], [`Claim`]. Must not know: how a backend keeps them, what is done meanwhile.
//!
//! A lease ends by itself, so a replica that dies with one holds nobody up for longer than its span. One that
//! is slower than its lease has lost it, and may not know yet: what it writes under the lease is refused once
//! another has taken the task, by the fence, a number that grows with every taking.

use crate::clock::Timestamp;
use crate::identity::AccountId;

/// What is done by one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Task {
    /// Asking Bitbucket about an account, the refresh of its token included.
    Requery(AccountId),
    /// Removing what is over.
    Sweep,
}

/// The right to do a task, until it expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// What it is for.
    pub task: Task,
    /// Greater than that of every lease for this task before, restarts included.
    pub fence: u64,
    /// From this moment others may take it.
    pub expires_at: Timestamp,
}

/// What comes of wanting a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is ours.
    Taken(Lease),
    /// Somebody has it, this process included.
    Held {
        /// When it ends, if it is not renewed and not released before.
        until: Timestamp,
    },
}
