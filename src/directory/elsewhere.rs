//! One directory on several replicas: what others have found out, and what they have forgotten.
//!
//! Owns: taking over what another replica has written, letting go of what it has deleted.
//! Must not know: how news come, what is asked of Bitbucket.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt as _};

use super::{Account, Condition, Directory, Known};
use crate::identity::AccountId;
use crate::store;

/// How many accounts are read anew at once.
const AT_ONCE: usize = 64;

impl Directory {
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
            account.repositories.forgive();
            if !found.membership.changes_since(&before.membership).is_empty() {
                self.stir();
            }
        }
        Ok(newer)
    }
}
