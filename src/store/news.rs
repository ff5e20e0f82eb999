//! What other replicas do to what this one has in memory.
//!
//! Owns: [`News`] and [`Feed`]. Must not know: what becomes of it.

use super::redis::Follower;
use crate::identity::AccountId;
use crate::session::SessionKey;

/// Something in the store is not as it was. The replica that did it is not told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// These sessions are over.
    SessionsEnded(Vec<SessionKey>),
    /// What is known of this account was written anew.
    AccountChanged(AccountId),
    /// The tokens of this account are gone.
    GrantForgotten(AccountId),
    /// The signing keys were written anew.
    KeysChanged,
    /// Some of the above may have been missed: look at everything again.
    Gap,
}

/// News as they come.
pub struct Feed(pub(super) Source);

pub(super) enum Source {
    /// One process has the store: nobody else changes anything.
    Silent,
    Redis(Box<Follower>),
}

impl Feed {
    /// Waits for the next. Where one process has the store, for ever.
    pub async fn next(&mut self) -> News {
        match &mut self.0 {
            Source::Silent => std::future::pending().await,
            Source::Redis(follower) => follower.next().await,
        }
    }
}
