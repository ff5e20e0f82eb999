//! The sessions as operators see them: listed, found by name, ended by account, by group, or all.
//!
//! Owns: [`Entry`], [`Filter`], the walks through the store, whom a name means.
//! Must not know: HTTP, who asks, how long an answer may be.
//!
//! Everything is read from the store page by page, so that nothing grows with the number of sessions but time;
//! what memory knows better (the last use) is taken from there.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, stream};

use super::Live;
use crate::clock::Timestamp;
use crate::identity::AccountId;
use crate::membership::{Group, Membership, Role};
use crate::session::{Record, SessionKey, Settings, Standing, standing};
use crate::store::{self, AccountRecord};
use crate::telemetry::audit::EndReason;

/// How many sessions are read at once.
const PAGE: usize = 256;
/// How many sessions a page of a list looks at, at most, to find those of a group: about 0.1 s. Tests need not
/// make as many.
const LOOKED_AT: usize = if cfg!(test) { 600 } else { 20_000 };
/// How many accounts are ended at once: their writes share one trip to the disk.
const TOGETHER: usize = 64;
/// How many accounts are named when a name means several.
const CANDIDATES: usize = 20;

/// One session.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is kept under.
    pub key: SessionKey,
    /// What is known from its beginning, with the last use as memory knows it.
    pub record: Record,
    /// What is known of its account; none if that record does not open.
    pub person: Option<AccountRecord>,
}

/// Which sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    /// All of them.
    Everybody,
    /// Those of one account.
    Account(AccountId),
    /// Those of the accounts in a group, as last heard from Bitbucket, confirmed or not.
    Group(Group),
}

/// A part of a list, by key.
#[derive(Clone, Debug)]
pub struct Page {
    /// The sessions.
    pub entries: Vec<Entry>,
    /// Where the next part begins, if there may be one.
    pub next: Option<SessionKey>,
}

/// Whom a name means.
#[derive(Clone, Debug)]
pub enum Whose {
    /// This account.
    Account(AccountId),
    /// Several, the first twenty of them.
    Several(Vec<AccountRecord>),
    /// Nobody who is signed in.
    Nobody,
}

/// What was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ended {
    /// Sessions.
    pub sessions: u64,
    /// Accounts that had them.
    pub accounts: u64,
}

// Every one of these fails when the store cannot be asked, and then nobody can say.
#[expect(clippy::missing_errors_doc, reason = "said once, above: the error is the store's for all of them")]
impl Live {
    /// Up to `limit` sessions that count, from the one that follows `after`. A page may be short, or empty, and
    /// have a next one: one page looks at a bounded number of sessions.
    pub async fn page(
        &self,
        filter: &Filter,
        after: Option<SessionKey>,
        limit: usize,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Page, store::Error> {
        if let Filter::Account(account) = filter {
            return self.page_of(*account, after, limit, settings, now).await;
        }
        let (mut entries, mut people) = (Vec::new(), People::default());
        let (mut after, mut looked_at) = (after, 0);
        while looked_at < LOOKED_AT {
            let found = self.0.store.sessions(after, PAGE).await?;
            if found.is_empty() {
                return Ok(Page { entries, next: None });
            }
            for (key, record) in found {
                after = Some(key);
                looked_at += 1;
                let Some(record) = self.if_live(key, record, settings, now) else { continue };
                let person = people.of(self, record.account).await?;
                if filter.takes(person.as_ref()) {
                    entries.push(Entry { key, record, person });
                }
                if entries.len() == limit {
                    return Ok(Page { entries, next: after });
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(Page { entries, next: after })
    }

    async fn page_of(
        &self,
        account: AccountId,
        after: Option<SessionKey>,
        limit: usize,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Page, store::Error> {
        let mut found = self.0.store.sessions_of(account).await?;
        found.sort_unstable_by_key(|(key, _)| *key);
        let person = self.0.store.account(account).await?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .filter_map(|(key, record)| Some((key, self.if_live(key, record, settings, now)?)))
            .map(|(key, record)| Entry { key, record, person: person.clone() })
            .take(limit + 1)
            .collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { next: entries.last().filter(|_| more).map(|entry| entry.key), entries })
    }

    /// The session with this short name, if it counts.
    pub async fn named(
        &self,
        name: &str,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Option<Entry>, store::Error> {
        let Some((first, last)) = SessionKey::all_called(name) else { return Ok(None) };
        let found = self.0.store.sessions(first.previous(), 1).await?;
        let Some((key, record)) = found.into_iter().find(|(key, _)| *key <= last) else { return Ok(None) };
        let Some(record) = self.if_live(key, record, settings, now) else { return Ok(None) };
        let person = self.0.store.account(record.account).await?;
        Ok(Some(Entry { key, record, person }))
    }

    /// Whom `name` means: a uuid is an account, signed in or not; else everybody signed in with that nickname or
    /// confirmed address is looked for. Nicknames are not unique, and people choose them.
    pub async fn whose(
        &self,
        name: &str,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Whose, store::Error> {
        if let Ok(account) = name.parse() {
            return Ok(Whose::Account(account));
        }
        let mut found: Vec<AccountRecord> = Vec::new();
        for account in self.accounts(settings, now).await? {
            let Some(person) = self.0.store.account(account).await? else { continue };
            let identity = &person.identity;
            let is_address = identity.email().is_some_and(|own| own.as_str().eq_ignore_ascii_case(name));
            if identity.nickname() == Some(name) || is_address {
                found.push(person);
            }
            if found.len() == CANDIDATES {
                break;
            }
        }
        Ok(match found.as_slice() {
            [] => Whose::Nobody,
            [only] => Whose::Account(only.identity.account()),
            _ => Whose::Several(found),
        })
    }

    /// Ends every session of one account, and forgets its tokens. How many there were. They are over when the
    /// store fails, too, and it is told when it is back.
    pub async fn end_account(&self, id: AccountId, now: Timestamp) -> Result<Ended, store::Error> {
        let sessions = match self.0.directory.account(id, now).await {
            Ok(Some(account)) => self.0.directory.end(&account, EndReason::Revoked).await?,
            // Its record does not open, so its sessions let nobody in, or cannot be read now. They go all the same.
            Ok(None) | Err(_) => {
                let turn = self.0.directory.revocations().turn(id).await;
                turn.end(EndReason::Revoked, now).await?.len() as u64
            }
        };
        Ok(Ended { sessions, accounts: u64::from(sessions > 0) })
    }

    /// Ends every session of the accounts that `filter` takes. Whoever signs in meanwhile may or may not be
    /// signed out. When the store fails on the way, the others are ended all the same, as far as it says who they are.
    pub async fn end_all(
        &self,
        filter: &Filter,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Ended, store::Error> {
        // Whoever asks once more after a failure wants to hear that what was ended then is written.
        let owed = self.settle().await;
        if let Filter::Account(account) = filter {
            return self.end_account(*account, now).await.and_then(|ended| owed.map(|_| ended));
        }
        let accounts = self.accounts(settings, now).await?;
        let ends = stream::iter(accounts).map(async |id| {
            let takes = match filter {
                Filter::Everybody => true,
                _ => filter.takes(self.0.store.account(id).await?.as_ref()),
            };
            if takes { self.end_account(id, now).await } else { Ok(Ended::default()) }
        });
        let (ended, failed) = ends
            .buffer_unordered(TOGETHER)
            .fold((Ended::default(), None), async |(sum, failed), one| match one {
                Ok(one) => (
                    Ended { sessions: sum.sessions + one.sessions, accounts: sum.accounts + one.accounts },
                    failed,
                ),
                Err(error) => (sum, failed.or(Some(error))),
            })
            .await;
        failed.or(owed.err()).map_or(Ok(ended), Err)
    }

    /// Everybody who is signed in.
    async fn accounts(
        &self,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<HashSet<AccountId>, store::Error> {
        let (mut accounts, mut after) = (HashSet::new(), None);
        loop {
            let found = self.0.store.sessions(after, PAGE).await?;
            let Some((last, _)) = found.last() else { return Ok(accounts) };
            after = Some(*last);
            for (key, record) in found {
                if let Some(record) = self.if_live(key, record, settings, now) {
                    accounts.insert(record.account);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// The record with the last use as memory knows it, if the session counts.
    fn if_live(
        &self,
        key: SessionKey,
        mut record: Record,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Record> {
        if self.0.directory.revocations().covers(&key, &record) {
            return None;
        }
        if let Some(live) = self.0.sessions.pin().get(&key) {
            record.last_used_at = record.last_used_at.max(live.used_at());
        }
        let counts = standing(&record, record.last_used_at, settings, now) == Standing::Live;
        counts.then_some(record)
    }
}

impl Filter {
    /// Whether the sessions of `person` are meant.
    fn takes(&self, person: Option<&AccountRecord>) -> bool {
        match (self, person) {
            (Filter::Everybody, _) => true,
            (Filter::Account(account), person) => {
                person.is_some_and(|person| person.identity.account() == *account)
            }
            (Filter::Group(group), person) => person.is_some_and(|person| is_in(&person.membership, group)),
        }
    }
}

/// Wider than [`Membership::holds`]: apps are told of teams that are only listed, too, and whoever ends the
/// sessions of a group means everybody who may have been taken for one of it.
fn is_in(membership: &Membership, group: &Group) -> bool {
    membership.teams().iter().any(|team| {
        team.is_named(&group.team)
            && (group.part != Some(Role::Administrator) || team.role == Role::Administrator)
    })
}

/// People read from the store for one page, each once.
#[derive(Default)]
struct People(HashMap<AccountId, Option<AccountRecord>>);

impl People {
    async fn of(&mut self, live: &Live, id: AccountId) -> Result<Option<AccountRecord>, store::Error> {
        if let Some(person) = self.0.get(&id) {
            return Ok(person.clone());
        }
        let person = live.0.store.account(id).await?;
        self.0.insert(id, person.clone());
        Ok(person)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::TryStreamExt;

    use super::super::Browser;
    use super::super::tests::{Place, SETTINGS, account_of, at};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn key(number: u16) -> SessionKey {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        SessionKey(key)
    }

    #[tokio::test]
    async fn a_list_has_what_counts_with_the_use_that_memory_knows() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let ann = account_of(&directory, 1).await?;
        for number in 1..=3 {
            live.begin(key(number), ann.clone(), Browser::default(), at(0)).await?;
        }
        live.end(key(2), EndReason::SignedOut, at(1)).await?;
        assert!(live.in_memory(&key(3), &SETTINGS, at(90)).is_some());
        let page = async |now| live.page(&Filter::Everybody, None, 10, &SETTINGS, now).await;
        let keys = |page: &Page| page.entries.iter().map(|entry| entry.key).collect::<Vec<_>>();
        let now = page(at(91)).await?;
        assert_eq!(keys(&now), [key(1), key(3)]);
        assert_eq!(now.entries[1].record.last_used_at, at(90));
        assert_eq!(now.next, None);
        // Idle by what the store has, alive by what memory has.
        assert_eq!(keys(&page(at(120)).await?), [key(3)]);
        assert!(live.named(&key(1).short(), &SETTINGS, at(120)).await?.is_none());
        assert_eq!(
            live.named(&key(3).short(), &SETTINGS, at(120)).await?.map(|entry| entry.key),
            Some(key(3))
        );
        Ok(())
    }

    #[tokio::test]
    async fn one_look_for_a_rare_group_is_bounded_and_goes_on_where_it_stopped() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        let ann = account_of(&directory, 1).await?;
        let begun = (0..u16::try_from(LOOKED_AT + 300)?).map(|number| {
            let record = Record {
                account: ann.id(),
                begun_at: at(0),
                last_used_at: at(0),
                address: None,
                user_agent: None,
                hosts: Box::default(),
            };
            let store = &live.0.store;
            async move { store.put_session(key(number), &record).await }
        });
        stream::iter(begun).buffer_unordered(512).try_collect::<Vec<()>>().await?;
        let filter = Filter::Group("nobody".parse()?);
        let first = live.page(&filter, None, 10, &SETTINGS, at(1)).await?;
        assert!(first.entries.is_empty() && first.next.is_some());
        let second = live.page(&filter, first.next, 10, &SETTINGS, at(1)).await?;
        assert!(second.entries.is_empty() && second.next.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn everybody_is_ended_however_many_there_are() -> Outcome {
        let place = Place::new()?;
        let (live, directory) = place.gateway()?;
        for person in 1..=200 {
            let account = account_of(&directory, person).await?;
            for turn in 0..3_u16 {
                let key = key(u16::from(person) * 3 + turn);
                live.begin(key, account.clone(), Browser::default(), at(0)).await?;
            }
        }
        let ended = live.end_all(&Filter::Everybody, &SETTINGS, at(1)).await?;
        assert_eq!(ended, Ended { sessions: 600, accounts: 200 });
        assert!(live.find(key(5), &SETTINGS, at(1)).await?.is_none());
        assert_eq!(live.0.store.session_count().await?, 0);
        assert_eq!(live.0.store.accounts_with_grant(None, 1).await?, []);
        live.tidy(&SETTINGS, at(1).plus(Duration::from_secs(1))).await?;
        assert_eq!(live.count(), 0);
        Ok(())
    }
}
