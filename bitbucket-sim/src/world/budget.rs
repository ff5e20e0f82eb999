//! How many API calls the pretend Bitbucket allows.
//!
//! Owns: the rolling window and whose calls are counted together.
//! Must not know: how a refusal looks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::World;

/// A limit on API calls in a rolling window. A refused call is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// So many calls …
    pub calls: u32,
    /// … in any span of this length.
    pub per: Duration,
    /// Whose calls are counted together.
    pub scope: BudgetScope,
}

/// Whose calls are counted together. Bitbucket's own documents disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetScope {
    /// All calls of one application, whoever the user is.
    PerClient,
    /// All calls of one user, whatever the application is.
    PerUser,
}

impl World {
    /// Counts one API call; false when the budget does not allow it.
    pub(crate) fn spend(&mut self, client: &str, user: &str) -> bool {
        let Some(budget) = self.budget else { return true };
        let now = self.now();
        let whose = match budget.scope {
            BudgetScope::PerClient => format!("client {client}"),
            BudgetScope::PerUser => format!("user {user}"),
        };
        self.spent.retain(|(_, at)| now - *at < budget.per);
        let used = self.spent.iter().filter(|(who, _)| *who == whose).count();
        let allowed = used < usize::try_from(budget.calls).unwrap_or(usize::MAX);
        if allowed {
            self.spent.push((whose, now));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(scope: BudgetScope, calls: &[(&str, &str)]) -> (World, Vec<bool>) {
        let mut world = World::example();
        world.budget = Some(Budget { calls: 2, per: Duration::from_secs(3600), scope });
        let allowed = calls.iter().map(|(client, user)| world.spend(client, user)).collect();
        (world, allowed)
    }

    #[test]
    fn a_client_shares_its_budget_among_its_users() {
        let calls = [("app", "ann"), ("app", "ben"), ("app", "cleo"), ("other", "ann")];
        assert_eq!(spend(BudgetScope::PerClient, &calls).1, [true, true, false, true]);
    }

    #[test]
    fn a_user_shares_their_budget_among_their_applications() {
        let calls = [("app", "ann"), ("other", "ann"), ("app", "ann"), ("app", "ben")];
        assert_eq!(spend(BudgetScope::PerUser, &calls).1, [true, true, false, true]);
    }

    #[test]
    fn the_window_rolls() {
        let (mut world, allowed) = spend(BudgetScope::PerUser, &[("app", "ann"); 3]);
        assert_eq!(allowed, [true, true, false]);
        world.advance(Duration::from_secs(3601));
        assert!(world.spend("app", "ann"));
    }
}
