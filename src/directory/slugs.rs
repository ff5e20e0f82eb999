//! Slugs and the workspaces behind them: what a slug meant at first sight, what it means now, what a uuid is called.
//!
//! Owns: that a slug which changed hands opens nothing; what operators see of that and what their word does; the
//! names of teams that are given by uuid. Must not know: requests, pages, how an operator asks.
//!
//! The uuid of a configured slug is in the store, for all replicas. What was seen lately is in memory, at most one
//! entry for each configured slug: each replica knows what it saw itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::{Account, Directory, Settings};
use crate::bitbucket::Right;
use crate::clock::Timestamp;
use crate::identity::{AccountId, TeamId};
use crate::membership::{Membership, Names, TeamName};
use crate::store::{self, Pin};
use crate::telemetry::audit::Event;

/// How many accounts are kept with a slug that changed hands, and asked about at once when an operator has spoken;
/// others are when they are due.
const ASKED_AT_ONCE: usize = 100;
/// How many accounts are read at start to find what teams are called.
const RECALLED: usize = 1_000;
/// How many of them are named by the store at a time.
const PAGE: usize = 250;
/// How often a pin is replaced against others who write the old one anew.
const TRIES: usize = 5;

/// What was seen of slugs, and what teams are called.
#[derive(Default)]
pub(super) struct Slugs {
    names: ArcSwap<Names>,
    sightings: Mutex<BTreeMap<Box<str>, Sighting>>,
}

/// What was seen of one slug since the start.
#[derive(Clone, Default, Debug)]
pub struct Sighting {
    /// When its uuid was written down, if that was since.
    pub pinned_at: Option<Timestamp>,
    /// When Bitbucket last gave it with that uuid.
    pub agreed_at: Option<Timestamp>,
    /// Another workspace that it belongs to now, if that is what Bitbucket last said.
    pub conflict: Option<Conflict>,
}

/// Another workspace behind a slug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The workspace.
    pub found: TeamId,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
    /// Whose membership is not believed for it; at most 100 are kept.
    pub accounts: BTreeSet<AccountId>,
}

/// One team that the configuration names, or whose slug is remembered.
#[derive(Clone, Debug)]
pub struct Listed {
    /// As the configuration names it.
    pub name: TeamName,
    /// Its slug; none for a team that is given by its uuid and was not seen yet.
    pub slug: Option<Box<str>>,
    /// Its uuid; none for a slug that was not seen yet.
    pub team: Option<TeamId>,
    /// Whether the configuration names it, and not only the store.
    pub configured: bool,
    /// What was seen of it.
    pub sighting: Sighting,
}

impl Sighting {
    fn conflicting(&mut self, found: TeamId, account: AccountId, now: Timestamp) {
        let fresh = || Conflict { found, first_seen_at: now, seen_at: now, accounts: BTreeSet::new() };
        let conflict = match &mut self.conflict {
            Some(conflict) if conflict.found == found => conflict,
            other => other.insert(fresh()),
        };
        conflict.seen_at = now;
        if conflict.accounts.len() < ASKED_AT_ONCE {
            conflict.accounts.insert(account);
        }
    }
}

impl Slugs {
    fn sightings(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Sighting>> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every team that `settings` name; may repeat.
fn configured(settings: &Settings) -> impl Iterator<Item = &TeamName> {
    settings.teams.iter().flatten().chain(&settings.named)
}

impl Directory {
    /// Takes out every team of `account` whose slug is remembered with another uuid. A slug can be renamed, freed
    /// and taken by somebody else; the uuid of each configured slug is remembered at first sight.
    ///
    /// # Errors
    ///
    /// When the memory cannot be read or written.
    pub async fn without_taken_slugs(
        &self,
        settings: &Settings,
        account: AccountId,
        membership: Membership,
    ) -> Result<Membership, store::Error> {
        let mut teams = membership.teams().to_vec();
        for name in configured(settings) {
            let TeamName::Slug(slug) = name else { continue };
            let Some(at) = teams.iter().position(|team| team.confirmed && team.slug == *slug) else {
                continue;
            };
            let found = teams[at].id;
            let pin = self.0.store.pin_if_new(slug, found).await?;
            let now = self.0.clock.now();
            {
                let mut sightings = self.0.slugs.sightings();
                let sighting = sightings.entry(slug.clone()).or_default();
                match pin {
                    Pin::New => *sighting = Sighting { pinned_at: Some(now), ..Sighting::default() },
                    Pin::Same => sighting.conflict = None,
                    Pin::Different(_) => sighting.conflicting(found, account, now),
                }
                if !matches!(pin, Pin::Different(_)) {
                    sighting.agreed_at = Some(now);
                }
            }
            if let Pin::Different(pinned) = pin {
                teams.swap_remove(at);
                let event = Event::SlugChanged { slug: slug.to_string(), pinned, found };
                self.0.telemetry.audit.record(now, &event);
                self.0.telemetry.metrics.slug_changes_refused.inc();
            }
        }
        let membership = Membership::new(membership.as_of(), teams);
        self.note_names(settings, &membership);
        Ok(membership)
    }

    /// What teams are called that are given by their uuid.
    pub fn names(&self) -> impl Deref<Target = Arc<Names>> {
        self.0.slugs.names.load()
    }

    /// Keeps the slugs in `membership` of teams that `settings` give by uuid.
    pub(super) fn note_names(&self, settings: &Settings, membership: &Membership) {
        let wanted = |id| configured(settings).any(|name| *name == TeamName::Id(id));
        let names = &self.0.slugs.names;
        if names.load().seen(membership, wanted).is_some() {
            names.rcu(|names| names.seen(membership, wanted).map_or_else(|| names.clone(), Arc::new));
        }
    }

    /// Reads from what the store knows of accounts what the teams are called that `settings` give by uuid: at most
    /// 1,000 accounts, none when there is no such team. Called at start.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn recall_names(&self, settings: &Settings) -> Result<(), store::Error> {
        if !configured(settings).any(|name| matches!(name, TeamName::Id(_))) {
            return Ok(());
        }
        let (mut seen, mut after) = (0, None);
        while seen < RECALLED {
            let page = self.0.store.accounts_with_grant(after, PAGE).await?;
            for id in &page {
                if let Some(record) = self.0.store.account(*id).await? {
                    self.note_names(settings, &record.membership);
                }
            }
            seen += page.len();
            after = page.last().copied();
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Every team that `settings` name and every slug that is remembered, in order of their names.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn slugs(&self, settings: &Settings) -> Result<Vec<Listed>, store::Error> {
        let pins = self.0.store.pins().await?;
        let names = self.names();
        let sightings = self.0.slugs.sightings();
        let mut listed: BTreeMap<TeamName, Listed> = BTreeMap::new();
        for name in configured(settings) {
            let (slug, team) = match name {
                TeamName::Slug(slug) => (Some(slug.clone()), None),
                TeamName::Id(id) => (names.slug(*id).map(Into::into), Some(*id)),
            };
            let (name, sighting) = (name.clone(), Sighting::default());
            listed.insert(name.clone(), Listed { name, slug, team, configured: true, sighting });
        }
        for (slug, team) in pins {
            let name = TeamName::Slug(slug.clone());
            let entry = listed.entry(name.clone()).or_insert_with(|| Listed {
                name,
                slug: Some(slug),
                team: None,
                configured: false,
                sighting: Sighting::default(),
            });
            entry.team = Some(team);
        }
        for (slug, sighting) in sightings.iter() {
            if let Some(entry) = listed.get_mut(&TeamName::Slug(slug.clone())) {
                entry.sighting = sighting.clone();
                // The operator, or another replica, has taken the other workspace's side since.
                entry.sighting.conflict.take_if(|conflict| entry.team == Some(conflict.found));
            }
        }
        Ok(listed.into_values().collect())
    }

    /// From now on `slug` means `team`, on the operator's word. What it meant before, if anything. Accounts that
    /// this is about are asked about at once.
    ///
    /// # Errors
    ///
    /// When the store did not take it; [`store::Error::Conflict`] when others kept writing another uuid.
    pub async fn accept_slug(
        &self,
        settings: &Arc<Settings>,
        slug: &str,
        team: TeamId,
    ) -> Result<Option<TeamId>, store::Error> {
        let mut was = None;
        for _ in 0..TRIES {
            match self.0.store.pin_if_new(slug, team).await? {
                Pin::New | Pin::Same => {
                    let before = {
                        let mut sightings = self.0.slugs.sightings();
                        let sighting = sightings.entry(slug.into()).or_default();
                        sighting.pinned_at = Some(self.0.clock.now());
                        sighting.agreed_at = None;
                        sighting.conflict.take()
                    };
                    self.ask_again(settings, before.as_ref(), |account| {
                        account
                            .known
                            .load()
                            .membership
                            .teams()
                            .iter()
                            .any(|t| *t.slug == *slug && t.id != team)
                    });
                    return Ok(was);
                }
                Pin::Different(other) => {
                    was = Some(other);
                    // Somebody who asks just now may write the old one anew: then it is taken away once more.
                    self.0.store.unpin(slug).await?;
                }
            }
        }
        Err(store::Error::Conflict)
    }

    /// Forgets what `slug` meant, on the operator's word: the next workspace that has it is remembered. What it
    /// meant; `None` when nothing was remembered. Accounts that were refused for it are asked about at once.
    ///
    /// # Errors
    ///
    /// When the store did not take it.
    pub async fn forget_slug(
        &self,
        settings: &Arc<Settings>,
        slug: &str,
    ) -> Result<Option<TeamId>, store::Error> {
        let pinned = self.0.store.pins().await?.into_iter().find(|(pinned, _)| **pinned == *slug);
        let Some((_, was)) = pinned else { return Ok(None) };
        if !self.0.store.unpin(slug).await? {
            return Ok(None);
        }
        let before = self.0.slugs.sightings().remove(slug).and_then(|sighting| sighting.conflict);
        self.ask_again(settings, before.as_ref(), |_| false);
        Ok(Some(was))
    }

    /// Asks about the accounts in memory that were refused, and about those that `also` picks.
    fn ask_again(
        &self,
        settings: &Arc<Settings>,
        refused: Option<&Conflict>,
        also: impl Fn(&Account) -> bool,
    ) {
        let now = self.0.clock.now();
        let refused = refused.map(|conflict| &conflict.accounts);
        let meant = |account: &Arc<Account>| {
            (refused.is_some_and(|refused| refused.contains(&account.id())) || also(account))
                && self.may_ask(account, now)
        };
        for account in self.accounts().filter(meant).take(ASKED_AT_ONCE) {
            self.requery(&account, settings, Right::Background);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_slug_that_changed_hands_the_last_workspace_and_a_hundred_accounts_are_kept() {
        let (first, second) = (TeamId::from_bytes([1; 16]), TeamId::from_bytes([2; 16]));
        let at = Timestamp::from_unix_seconds;
        let account = |n: u64| AccountId::from_bytes(u128::from(n).to_be_bytes());
        let mut sighting = Sighting::default();
        for n in 0..200 {
            sighting.conflicting(first, account(n), at(n));
        }
        let conflict = sighting.conflict.clone();
        assert_eq!(
            conflict.map(|c| (c.found, c.first_seen_at, c.seen_at, c.accounts.len())),
            Some((first, at(0), at(199), 100))
        );
        sighting.conflicting(second, account(7), at(200));
        let accounts = BTreeSet::from([account(7)]);
        let expected = Conflict { found: second, first_seen_at: at(200), seen_at: at(200), accounts };
        assert_eq!(sighting.conflict, Some(expected));
    }
}
