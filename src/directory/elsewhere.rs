//! One directory on several replicas: whose turn it is to ask about an account, and what others have found out.
//!
//! Owns: the lease of a re-query, taking over what another replica has written, forgetting what it has forgotten.
//! Must not know: how news come, what is asked of Bitbucket.
//!
//! Where one process has the store, every turn is ours at once, and nobody writes anything newer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::{Account, Condition, Directory, Known};
use crate::identity::AccountId;
use crate::store;
use crate::store::lease::{Claim, Lease, Task};

/// How long a replica that has died holds up the others.
const SPAN: Duration = Duration::from_secs(15);
/// How often one that waits for another looks what came of it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one waits at most; longer than any request does.
const LONGEST: Duration = Duration::from_secs(20);
/// How many accounts are read anew at once.
const AT_ONCE: usize = 64;

/// Who asks about an account.
pub(super) enum Turn {
    /// We do.
    Ours(Lease),
    /// Another replica did, and what it found out is taken over; or it does not come to an end.
    Theirs,
}

impl Directory {
    /// Waits until nobody else asks about `account`, and takes over what others have found out meanwhile.
    pub(super) async fn turn(&self, account: &Account) -> Result<Turn, store::Error> {
        let deadline = tokio::time::Instant::now() + LONGEST;
        loop {
            let task = Task::Requery(account.id());
            let claim = self.0.store.take_lease(task, self.0.clock.now(), SPAN).await?;
            let is_known = self.take_over(account).await?;
            match claim {
                Claim::Taken(lease) if is_known => {
                    self.0.store.release_lease(&lease).await?;
                    return Ok(Turn::Theirs);
                }
                Claim::Taken(lease) => return Ok(Turn::Ours(lease)),
                Claim::Held { .. } if is_known || tokio::time::Instant::now() > deadline => {
                    return Ok(Turn::Theirs);
                }
                Claim::Held { .. } => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Keeps the turn until `work` is done.
    pub(super) async fn keeping<T>(&self, lease: &Lease, work: impl Future<Output = T>) -> T {
        let keep = async {
            loop {
                tokio::time::sleep(SPAN / 3).await;
                // One that was lost is noticed by what is written under it.
                let _ = self.0.store.renew_lease(lease, self.0.clock.now(), SPAN).await;
            }
        };
        tokio::select! {
            done = work => done,
            never = keep => { let never: Infallible = never; match never {} }
        }
    }

    /// Gives the turn to the next.
    pub(super) async fn leave(&self, lease: &Lease) {
        // Where the store does not take it, it ends by itself.
        let _ = self.0.store.release_lease(lease).await;
    }

    /// Takes over what the store knows of an account in memory, if that is newer.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn reread(&self, id: AccountId) -> Result<(), store::Error> {
        if let Some(account) = self.0.accounts.get(&id) {
            self.take_over(&account).await?;
        }
        Ok(())
    }

    /// The same for all of them: after news were missed.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn reread_all(&self) -> Result<(), store::Error> {
        let ids: Vec<AccountId> = self.accounts().map(|account| account.id()).collect();
        let mut reading = stream::iter(ids).map(|id| self.reread(id)).buffer_unordered(AT_ONCE).boxed();
        while let Some(outcome) = reading.next().await {
            outcome?;
        }
        Ok(())
    }

    /// Lets go of an account whose tokens another replica has deleted; whoever needs it reads it anew.
    pub fn let_go(&self, id: AccountId) {
        if let Some(account) = self.0.accounts.remove(&id) {
            account.evicted.store(true, Ordering::Release);
            self.stir();
        }
    }

    /// Whether there was something newer. The replica that found it out has it in its audit log.
    async fn take_over(&self, account: &Account) -> Result<bool, store::Error> {
        let Some(record) = self.0.store.account(account.id()).await? else { return Ok(false) };
        let found = Arc::new(Known {
            identity: record.identity,
            profile_as_of: record.profile_as_of,
            membership: record.membership,
        });
        let mut newer = false;
        let before = account.known.rcu(|known| {
            let (then, now) = (known.membership.as_of(), found.membership.as_of());
            newer = now > then || now == then && found.profile_as_of > known.profile_as_of;
            if newer { found.clone() } else { known.clone() }
        });
        if newer {
            // Somebody could ask with the tokens that there are.
            let _ = account.condition.compare_exchange(
                Condition::GrantLost as u8,
                Condition::Good as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            account.trouble.store(None);
            account.failures.store(0, Ordering::Relaxed);
            if !found.membership.changes_since(&before.membership).is_empty() {
                self.stir();
            }
        }
        Ok(newer)
    }
}
