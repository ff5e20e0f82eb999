//! All that the pretend Bitbucket knows, and the rules by which it changes.
//!
//! Owns: the state and its knobs. Below it: `people`, `teams` and `repositories`; `clients` (applications),
//! `grants` (what users agreed to) and `tokens` (what follows from that); `budget` (how many calls);
//! `example` (the demonstration).
//! Must not know: HTTP, sockets, pages. Everything here is a function of the state and its clock.

mod budget;
mod clients;
mod example;
mod grants;
mod people;
mod repositories;
mod teams;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::budget::{Budget, BudgetScope};
pub use self::clients::Client;
pub use self::example::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET};
pub use self::grants::Grant;
pub(crate) use self::grants::{Asked, AuthorizeRefusal, Request};
pub use self::people::{Email, Inactive, User};
pub use self::repositories::{Repository, RepositoryPermission};
pub use self::teams::{Membership, Permission, Workspace};
pub(crate) use self::tokens::{Bearer, Issued, TokenRefusal};

use crate::clock::Clock;
use crate::faults::{Fault, FaultKind};
use crate::log::Logged;
use crate::mint::Mint;

/// Which generation of Bitbucket's OAuth is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// OAuth *clients*, since 2026: tokens of 2 kB that look like JWTs, `scope`, refresh tokens that rotate,
    /// callback compared exactly.
    #[default]
    New,
    /// OAuth *consumers*, before: short opaque tokens, `scopes`, lasting refresh tokens, callback compared as
    /// a prefix.
    Legacy,
}

/// The state of the pretend Bitbucket. Change it before [`crate::Simulator::start`], or later inside
/// [`crate::Simulator::with`].
#[derive(Clone, Debug)]
pub struct World {
    /// What time it is.
    pub clock: Clock,
    /// Which generation of OAuth is played. Default [`Regime::New`].
    pub regime: Regime,
    /// How long a refresh token still works after its first use. Default 0: not at all.
    pub rotation_grace: Duration,
    /// When a used refresh token is shown again, every refresh of that client is refused for this long.
    /// Default none: only the reuse itself is refused.
    pub lockout_after_reuse: Option<Duration>,
    /// How long an access token lives. Default 2 h. Counts for tokens issued from now on.
    pub access_token_life: Duration,
    /// How long a refresh token may lie unused. Default 90 days.
    pub refresh_token_idle: Duration,
    /// Entries on a page when the caller names no `pagelen`. Default 10.
    pub pagelen: usize,
    /// The most entries on a page whatever `pagelen` the caller names, 1 to 100. Default 100.
    pub max_pagelen: usize,
    /// Every authorize request is answered at once as this user (by id), with consent. Default none.
    pub auto_sign_in: Option<String>,
    /// How the API treats the tokens of an account whose status is not `active`.
    pub inactive: Inactive,
    /// How many API calls are allowed. Default none: any number.
    pub budget: Option<Budget>,

    users: Vec<User>,
    workspaces: Vec<Workspace>,
    memberships: Vec<Membership>,
    repositories: Vec<Repository>,
    repository_permissions: Vec<RepositoryPermission>,
    clients: Vec<Client>,
    grants: Vec<Grant>,
    codes: HashMap<String, grants::Code>,
    access_tokens: HashMap<String, tokens::AccessToken>,
    refresh_tokens: HashMap<String, tokens::RefreshToken>,
    lockouts: BTreeMap<String, OffsetDateTime>,
    spent: Vec<(String, OffsetDateTime)>,
    faults: Vec<Fault>,
    log: Vec<Logged>,
    mint: Mint,
    next_grant: u64,
}

impl World {
    /// Nobody, nothing, default knobs.
    pub fn empty() -> World {
        World {
            clock: Clock::running(),
            regime: Regime::New,
            rotation_grace: Duration::ZERO,
            lockout_after_reuse: None,
            access_token_life: Duration::from_secs(2 * 3600),
            refresh_token_idle: Duration::from_secs(90 * 86_400),
            pagelen: 10,
            max_pagelen: 100,
            auto_sign_in: None,
            inactive: Inactive::Shown,
            budget: None,
            users: Vec::new(),
            workspaces: Vec::new(),
            memberships: Vec::new(),
            repositories: Vec::new(),
            repository_permissions: Vec::new(),
            clients: Vec::new(),
            grants: Vec::new(),
            codes: HashMap::new(),
            access_tokens: HashMap::new(),
            refresh_tokens: HashMap::new(),
            lockouts: BTreeMap::new(),
            spent: Vec::new(),
            faults: Vec::new(),
            log: Vec::new(),
            mint: Mint::seeded("a world that was not started"),
            next_grant: 1,
        }
    }

    /// Moves the clock forward: codes and tokens age.
    pub fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    /// Arranges for something to go wrong. Faults are tried in the order they were added.
    pub fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// All faults are gone.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// The faults that still wait to happen.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What happens to one request at `endpoint`: the first [`FaultKind::Slow`] that fits, and the first other
    /// fault that fits. Each is used up by one.
    pub(crate) fn take_faults(&mut self, endpoint: &str) -> (Option<Duration>, Option<FaultKind>) {
        let mut slow = None;
        let mut other = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.fits(endpoint)) {
            match &fault.kind {
                FaultKind::Slow(wait) if slow.is_none() => slow = Some(*wait),
                FaultKind::Slow(_) => continue,
                kind if other.is_none() => other = Some(kind.clone()),
                _ => continue,
            }
            fault.times = fault.times.map(|times| times.saturating_sub(1));
        }
        self.faults.retain(|fault| fault.times != Some(0));
        (slow, other)
    }

    /// Every request so far, oldest first.
    pub fn requests(&self) -> &[Logged] {
        &self.log
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&mut self) {
        self.log.clear();
    }

    pub(crate) fn record(&mut self, logged: Logged) {
        self.log.push(logged);
    }

    pub(crate) fn reseed(&mut self, seed: &str) {
        self.mint = Mint::seeded(seed);
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }
}

/// A name that means nothing here, or one that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No user has this id.
    User(String),
    /// No workspace has this slug or uuid.
    Workspace(String),
    /// This user is not in this workspace.
    Membership {
        /// The user's id.
        user: String,
        /// The workspace's slug.
        workspace: String,
    },
    /// This user has no such e-mail address.
    Email(String),
    /// No repository has this full name.
    Repository(String),
    /// No client has this id.
    Client(String),
    /// The slug is already the name of another workspace.
    SlugTaken(String),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::User(id) => write!(f, "there is no user `{id}`"),
            Unknown::Workspace(slug) => write!(f, "there is no workspace `{slug}`"),
            Unknown::Membership { user, workspace } => write!(f, "`{user}` is not in `{workspace}`"),
            Unknown::Email(email) => write!(f, "there is no e-mail address `{email}`"),
            Unknown::Repository(name) => write!(f, "there is no repository `{name}`"),
            Unknown::Client(id) => write!(f, "there is no client `{id}`"),
            Unknown::SlugTaken(slug) => write!(f, "the slug `{slug}` is taken"),
        }
    }
}

impl std::error::Error for Unknown {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_used_up_and_a_lasting_one_is_not() {
        let mut world = World::empty();
        world.fault(Fault::new("user", FaultKind::Status(500)).times(1));
        world.fault(Fault::new("*", FaultKind::Slow(Duration::from_secs(1))));
        world.fault(Fault::new("*", FaultKind::Drop));

        let second = Some(Duration::from_secs(1));
        assert_eq!(world.take_faults("emails"), (second, Some(FaultKind::Drop)));
        assert_eq!(world.take_faults("user"), (second, Some(FaultKind::Status(500))));
        assert_eq!(world.take_faults("user"), (second, Some(FaultKind::Drop)));
        assert_eq!(world.faults().len(), 2);
        world.clear_faults();
        assert_eq!(world.take_faults("user"), (None, None));
    }
}
