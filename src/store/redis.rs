//! The shared backend: several replicas on one Redis or Valkey.
//!
//! Owns: every operation on the server, the names of its keys, the order of writes that touch several of them.
//! Must not know: how records are sealed, how connections are made.
//!
//! Keys are spread over `SHARDS` parts by the first bits of what they are kept under, and all that is kept of a
//! part has one hash tag, `prefix:{part}:name`, so that a Cluster has it in one slot and a script can treat it as
//! one. A table is a hash, with a sorted set beside it that has its keys in order.
//!
//! Three things lie across parts. A session is first named in the list of its account, then written, then named
//! once more: whoever ends the account's sessions finds it, or ended it before it began. It is first removed,
//! then taken off that list, and then told to the other replicas; when that fails the caller hears so, and asks
//! again. Grants are whole in one part.
//!
//! Nothing expires by the server's clock: `Redis::sweep` removes what is over by the clock that it is told.

mod feed;
mod link;
mod renewal;
mod scripts;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

pub(super) use self::feed::Follower;
use self::link::Link;
pub use self::link::{ServerFault, Settings, Tls, Topology};
use self::scripts::Scripts;
use super::lease::{Claim, Lease, Task};
use super::news::News;
use super::opening::{VERSION, version_of};
use super::record::{Acquaintance, STAMP_LEN, Sealer};
use super::{AccountRecord, Error, Grant, Once, Pin, Swept, Version};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::identity::{AccountId, TeamId};
use crate::keys::{Keyring, SigningKeys};
use crate::session::{self, SessionKey, Standing};

/// The newest format that this version reads, and the one it writes.
const FORMAT: u32 = 1;
/// In how many parts keys are spread. Part of the format.
const SHARDS: u8 = 32;
/// How many records a pass reads at once.
const PAGE: usize = 128;
/// How many questions of one operation are under way at once.
const AT_ONCE: usize = 16;
/// How many sessions one script touches.
const TOUCHES: usize = 500;

const META: &str = "meta";
const CANARY_FIELD: &str = "canary";
const VERSION_FIELD: &str = "version";
const SIGNING_FIELD: &str = "signing-keys";

pub(super) struct Redis {
    link: Link,
    settings: Settings,
    scripts: Scripts,
    sealer: Sealer,
    /// Who we are in the news, which need not be told to us.
    origin: [u8; 8],
}

/// What is kept by key, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Sessions,
    Grants,
    Accounts,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Table::Sessions => "sessions",
            Table::Grants => "grants",
            Table::Accounts => "accounts",
        }
    }
}

/// A key and what is kept under it.
type Entry = (Vec<u8>, Vec<u8>);

impl Redis {
    pub(super) async fn connect(
        settings: Settings,
        ring: Arc<Keyring>,
        entropy: Entropy,
    ) -> Result<Redis, Error> {
        let link = Link::new(settings.clone())?;
        let redis = Redis {
            link,
            settings,
            scripts: Scripts::new(),
            origin: entropy.bytes(),
            sealer: Sealer::new(ring, entropy),
        };
        redis.admit().await?;
        Ok(redis)
    }

    /// Sees whether the store is ours to read, and makes a new one so.
    async fn admit(&self) -> Result<(), Error> {
        let (format, canary) = (FORMAT.to_string(), self.sealer.canary());
        let (format, canary, version): (String, Vec<u8>, Vec<u8>) =
            self.link.run(&self.scripts.admit, &[self.meta()], &[format.as_bytes(), &canary]).await?;
        let file = || self.link.place.to_path_buf();
        // A format is a number, now and for ever; what is none is not from an earlier version.
        let found = format.parse().unwrap_or(u32::MAX);
        if found > FORMAT {
            return Err(Error::NewerFormat {
                file: file(),
                found,
                known: FORMAT,
                written_by: version_of(&version),
            });
        }
        match self.sealer.know(&canary) {
            Acquaintance::Current => {}
            Acquaintance::Older => {
                self.renew().await?;
            }
            Acquaintance::Foreign => return Err(Error::ForeignSecret { file: file() }),
        }
        self.link.ask(::redis::cmd("HSET").arg(self.meta()).arg(VERSION_FIELD).arg(VERSION)).await
    }

    pub(super) fn place(&self) -> &Path {
        &self.link.place
    }

    /// News from every other replica.
    pub(super) fn feed(&self) -> Result<Follower, Error> {
        let follower = Follower::new(self.settings.clone(), self.stream(), self.origin);
        follower.map_err(|error| self.link.unavailable(link::fault_of(&error)))
    }

    pub(super) async fn put_session(&self, key: SessionKey, record: &session::Record) -> Result<(), Error> {
        let value = self.sealer.session(key, record);
        self.list(record.account, key).await?;
        let old: Option<Vec<u8>> = self.put(Table::Sessions, &key.0, &value).await?;
        let before = old.and_then(|old| self.sealer.open_session(key, &old));
        if let Some(before) = before.filter(|before| before.account != record.account) {
            self.unlist(before.account, &[key]).await?;
        }
        // Once more: an end of all the account's sessions may have passed between the two.
        self.list(record.account, key).await
    }

    pub(super) async fn session(&self, key: SessionKey) -> Result<Option<session::Record>, Error> {
        let value = self.get(Table::Sessions, &key.0).await?;
        Ok(value.and_then(|value| self.sealer.open_session(key, &value)))
    }

    pub(super) async fn touch_sessions(
        &self,
        touches: Vec<(SessionKey, Timestamp)>,
    ) -> Result<Vec<SessionKey>, Error> {
        let mut by_shard: Vec<Vec<(SessionKey, [u8; STAMP_LEN])>> = vec![Vec::new(); usize::from(SHARDS)];
        for (key, at) in touches {
            by_shard[usize::from(shard_of(&key.0))].push((key, at.unix_millis().to_be_bytes()));
        }
        let chunks = by_shard.iter().flat_map(|touches| touches.chunks(TOUCHES));
        let missing = together(chunks.map(|chunk| self.touch(chunk).boxed()).collect());
        Ok(missing.await?.concat())
    }

    /// Touches sessions of one part.
    async fn touch(&self, touches: &[(SessionKey, [u8; STAMP_LEN])]) -> Result<Vec<SessionKey>, Error> {
        let Some((first, _)) = touches.first() else { return Ok(Vec::new()) };
        let [table, _] = self.keys_of(Table::Sessions, shard_of(&first.0));
        let arguments: Vec<&[u8]> =
            touches.iter().flat_map(|(key, stamp)| [key.0.as_slice(), stamp.as_slice()]).collect();
        let missing: Vec<Vec<u8>> = self.link.run(&self.scripts.touch, &[table], &arguments).await?;
        Ok(missing.iter().filter_map(|key| session_key(key)).collect())
    }

    pub(super) async fn add_session_host(&self, key: SessionKey, host: &str) -> Result<bool, Error> {
        loop {
            let Some(value) = self.get(Table::Sessions, &key.0).await? else { return Ok(false) };
            let Some(with_host) = self.sealer.with_host(key, &value, host) else { return Ok(true) };
            let keys = self.keys_of(Table::Sessions, shard_of(&key.0));
            // Otherwise something else was written meanwhile: a use, another host, the end.
            if self.link.run(&self.scripts.replace_same, &keys, &[&key.0, &value, &with_host]).await? {
                return Ok(true);
            }
        }
    }

    pub(super) async fn end_session(&self, key: SessionKey) -> Result<bool, Error> {
        let old = self.remove(Table::Sessions, &key.0).await?;
        if let Some(record) = old.as_ref().and_then(|old| self.sealer.open_session(key, old)) {
            self.unlist(record.account, &[key]).await?;
        }
        // Even of one that was not there: another replica may have it in memory all the same.
        self.tell(&News::SessionsEnded(vec![key])).await?;
        Ok(old.is_some())
    }

    pub(super) async fn end_account_sessions(&self, account: AccountId) -> Result<Vec<SessionKey>, Error> {
        let listed = self.listed(account).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let removals = listed.iter().map(|key| self.remove(Table::Sessions, &key.0).boxed());
        let removed = together(removals.collect()).await?;
        self.unlist(account, &listed).await?;
        let keys = listed.clone();
        self.tell(&News::SessionsEnded(listed)).await?;
        Ok(keys.into_iter().zip(removed).filter_map(|(key, old)| old.map(|_| key)).collect())
    }

    pub(super) async fn sessions_of(
        &self,
        account: AccountId,
    ) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        let mut keys = self.listed(account).await?;
        keys.sort_unstable();
        let records = together(keys.iter().map(|key| self.session(*key).boxed()).collect()).await?;
        let found = keys.into_iter().zip(records).filter_map(|(key, record)| Some((key, record?)));
        Ok(found.filter(|(_, record)| record.account == account).collect())
    }

    pub(super) async fn session_count(&self) -> Result<u64, Error> {
        let commands: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let [table, _] = self.keys_of(Table::Sessions, shard);
                ::redis::cmd("HLEN").arg(table).clone()
            })
            .collect();
        Ok(self.ask_all::<u64>(&commands).await?.iter().sum())
    }

    async fn ask_all<T: FromRedisValue + Send>(&self, commands: &[Cmd]) -> Result<Vec<T>, Error> {
        together(commands.iter().map(|command| self.link.ask(command).boxed()).collect()).await
    }

    pub(super) async fn sessions(
        &self,
        after: Option<SessionKey>,
        limit: usize,
    ) -> Result<Vec<(SessionKey, session::Record)>, Error> {
        let mut page = Vec::new();
        let mut after = after.map(|key| key.0.to_vec());
        while page.len() < limit {
            let entries = self.page(Table::Sessions, after.as_deref(), limit - page.len()).await?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            page.extend(entries.iter().filter_map(|(key, value)| {
                let key = session_key(key)?;
                Some((key, self.sealer.open_session(key, value)?))
            }));
        }
        Ok(page)
    }

    pub(super) async fn consume_once(
        &self,
        kind: Once,
        id: [u8; 32],
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let member = [&[kind as u8], id.as_slice()].concat();
        let mut command = ::redis::cmd("ZADD");
        command.arg(self.key(shard_of(&id), "once")).arg("NX").arg(expires_at.unix_millis()).arg(member);
        self.link.tell(&command).await
    }

    pub(super) async fn grant(&self, account: AccountId) -> Result<Option<(Grant, Version)>, Error> {
        let value = self.get(Table::Grants, &account.to_bytes()).await?;
        Ok(value.and_then(|value| self.sealer.open_grant(account, &value)))
    }

    pub(super) async fn put_grant(
        &self,
        account: AccountId,
        grant: &Grant,
        expected: Option<Version>,
    ) -> Result<Version, Error> {
        let version = Version::fresh(&self.sealer.entropy);
        let (key, value) = (account.to_bytes(), self.sealer.grant(account, version, grant));
        match expected {
            None => {
                let _: Option<Vec<u8>> = self.put(Table::Grants, &key, &value).await?;
            }
            Some(expected) => {
                let keys = self.keys_of(Table::Grants, shard_of(&key));
                let stamp = expected.0.to_be_bytes();
                written(self.link.run(&self.scripts.swap, &keys, &[&key, &value, &stamp]).await?)?;
            }
        }
        Ok(version)
    }

    pub(super) async fn delete_grant(
        &self,
        account: AccountId,
        expected: Option<Version>,
    ) -> Result<bool, Error> {
        let key = account.to_bytes();
        let was_there = match expected {
            None => self.remove(Table::Grants, &key).await?.is_some(),
            Some(expected) => {
                let keys = self.keys_of(Table::Grants, shard_of(&key));
                let stamp = expected.0.to_be_bytes();
                written(self.link.run(&self.scripts.remove_stamped, &keys, &[&key, &stamp]).await?)?;
                expected != Version::ABSENT
            }
        };
        self.tell(&News::GrantForgotten(account)).await?;
        Ok(was_there)
    }

    pub(super) async fn accounts_with_grant(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, Error> {
        let after = after.map(AccountId::to_bytes);
        let page = self.page(Table::Grants, after.as_ref().map(<[u8; 16]>::as_slice), limit).await?;
        Ok(page.iter().filter_map(|(key, _)| account_id(key)).collect())
    }

    pub(super) async fn put_account(&self, record: &AccountRecord) -> Result<(), Error> {
        let account = record.identity.account();
        let value = self.sealer.account(record);
        let _: Option<Vec<u8>> = self.put(Table::Accounts, &account.to_bytes(), &value).await?;
        self.tell(&News::AccountChanged(account)).await
    }

    pub(super) async fn put_account_under(&self, record: &AccountRecord, lease: &Lease) -> Result<(), Error> {
        let account = record.identity.account();
        let (key, value) = (account.to_bytes(), self.sealer.account(record));
        let shard = shard_of(&key);
        let [table, order] = self.keys_of(Table::Accounts, shard);
        let (task, fence) = (field_of(lease.task), lease.fence.to_string());
        let keys = [table, order, self.key(shard, "leases")];
        let arguments: [&[u8]; 4] = [&key, &value, &task, fence.as_bytes()];
        written(self.link.run(&self.scripts.put_under, &keys, &arguments).await?)?;
        self.tell(&News::AccountChanged(account)).await
    }

    pub(super) async fn account(&self, account: AccountId) -> Result<Option<AccountRecord>, Error> {
        let value = self.get(Table::Accounts, &account.to_bytes()).await?;
        Ok(value.and_then(|value| self.sealer.open_account(account, &value)))
    }

    pub(super) async fn take_lease(
        &self,
        task: Task,
        now: Timestamp,
        span: Duration,
    ) -> Result<Claim, Error> {
        let expires_at = now.plus(span);
        let (field, now) = (field_of(task), now.unix_millis().to_string());
        let end = expires_at.unix_millis().to_string();
        let arguments: [&[u8]; 3] = [&field, now.as_bytes(), end.as_bytes()];
        let taken: (u8, u64) =
            self.link.run(&self.scripts.take_lease, &[self.leases(task)], &arguments).await?;
        Ok(match taken {
            (1, fence) => Claim::Taken(Lease { task, fence, expires_at }),
            (_, until) => Claim::Held { until: Timestamp::from_unix_millis(until) },
        })
    }

    pub(super) async fn renew_lease(
        &self,
        lease: &Lease,
        now: Timestamp,
        span: Duration,
    ) -> Result<Option<Lease>, Error> {
        let expires_at = now.plus(span);
        let (field, fence) = (field_of(lease.task), lease.fence.to_string());
        let end = expires_at.unix_millis().to_string();
        let arguments: [&[u8]; 3] = [&field, fence.as_bytes(), end.as_bytes()];
        let ours: bool =
            self.link.run(&self.scripts.renew_lease, &[self.leases(lease.task)], &arguments).await?;
        Ok(ours.then_some(Lease { expires_at, ..*lease }))
    }

    pub(super) async fn release_lease(&self, lease: &Lease) -> Result<bool, Error> {
        let (field, fence) = (field_of(lease.task), lease.fence.to_string());
        let arguments: [&[u8]; 2] = [&field, fence.as_bytes()];
        self.link.run(&self.scripts.release_lease, &[self.leases(lease.task)], &arguments).await
    }

    pub(super) async fn signing_keys(&self) -> Result<(Option<SigningKeys>, Version), Error> {
        let value = self.meta_value(SIGNING_FIELD).await?;
        let version = value.as_deref().and_then(|value| value.first_chunk::<STAMP_LEN>());
        let version = version.map_or(Version::ABSENT, |stamp| Version(u64::from_be_bytes(*stamp)));
        if let Some(value) = &value {
            self.known(value)?;
        }
        Ok((value.and_then(|value| self.sealer.open_signing_keys(&value)), version))
    }

    pub(super) async fn put_signing_keys(
        &self,
        keys: &SigningKeys,
        expected: Version,
    ) -> Result<Version, Error> {
        let version = Version::fresh(&self.sealer.entropy);
        let value = self.sealer.signing_keys(version, keys);
        let arguments: [&[u8]; 3] = [SIGNING_FIELD.as_bytes(), &value, &expected.0.to_be_bytes()];
        written(self.link.run(&self.scripts.swap, &[self.meta(), self.meta_order()], &arguments).await?)?;
        self.tell(&News::KeysChanged).await?;
        Ok(version)
    }

    pub(super) async fn pins(&self) -> Result<Vec<(Box<str>, TeamId)>, Error> {
        let pins: Vec<(String, Vec<u8>)> = self.link.ask(::redis::cmd("HGETALL").arg(self.pinned())).await?;
        let mut pins: Vec<(Box<str>, TeamId)> =
            pins.into_iter().filter_map(|(slug, team)| Some((slug.into(), team_id(&team)?))).collect();
        pins.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(pins)
    }

    pub(super) async fn pin_if_new(&self, slug: &str, team: TeamId) -> Result<Pin, Error> {
        let id = team.to_bytes();
        loop {
            let mut command = ::redis::cmd("HSETNX");
            command.arg(self.pinned()).arg(slug).arg(id.as_slice());
            if self.link.tell(&command).await? {
                return Ok(Pin::New);
            }
            let there: Option<Vec<u8>> =
                self.link.ask(::redis::cmd("HGET").arg(self.pinned()).arg(slug)).await?;
            match there.as_deref().map(team_id) {
                Some(Some(there)) if there == team => return Ok(Pin::Same),
                Some(Some(there)) => return Ok(Pin::Different(there)),
                Some(None) => return Err(self.link.unavailable(ServerFault::Senseless)),
                // Unpinned in this moment.
                None => {}
            }
        }
    }

    pub(super) async fn unpin(&self, slug: &str) -> Result<bool, Error> {
        self.link.tell(::redis::cmd("HDEL").arg(self.pinned()).arg(slug)).await
    }

    /// Page by page; each session goes only if it is still as it was seen: a touch may have come in between.
    pub(super) async fn sweep(&self, now: Timestamp, settings: &session::Settings) -> Result<Swept, Error> {
        let (mut swept, mut after) = (Swept::default(), None::<Vec<u8>>);
        loop {
            let page = self.page(Table::Sessions, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let verdicts = page.iter().map(|(key, value)| self.sweep_one(key, value, now, settings).boxed());
            let removed = together(verdicts.collect()).await?;
            swept.sessions += removed.into_iter().filter(|removed| *removed).count();
        }
        let commands: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let mut command = ::redis::cmd("ZREMRANGEBYSCORE");
                command.arg(self.key(shard, "once")).arg("-inf").arg(now.unix_millis()).clone()
            })
            .collect();
        let once: Vec<usize> = self.ask_all(&commands).await?;
        swept.once_values = once.iter().sum();
        Ok(swept)
    }

    async fn sweep_one(
        &self,
        key: &[u8],
        value: &[u8],
        now: Timestamp,
        settings: &session::Settings,
    ) -> Result<bool, Error> {
        let session = session_key(key);
        // Under a key that we have not got yet, it may be as good as any.
        if self.known(value).is_err() {
            return Ok(false);
        }
        // What does not open is over too: nobody can use it.
        let record = session.and_then(|key| self.sealer.open_session(key, value));
        let is_live = record.as_ref().is_some_and(|record| {
            session::standing(record, record.last_used_at, settings, now) == Standing::Live
        });
        if is_live {
            return Ok(false);
        }
        let keys = self.keys_of(Table::Sessions, shard_of(key));
        let removed: bool = self.link.run(&self.scripts.remove_same, &keys, &[key, value]).await?;
        if let Some((record, session)) = record.zip(session).filter(|_| removed) {
            self.unlist(record.account, &[session]).await?;
        }
        Ok(removed)
    }

    /// What was answered is done: there is nothing to wait for but the server.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.link.ask(&::redis::cmd("PING")).await
    }

    pub(super) fn close(&self) -> Result<(), Error> {
        self.link.close()
    }

    /// A server that answers may still refuse to write.
    pub(super) async fn healthy(&self) -> Result<(), Error> {
        let mut command = ::redis::cmd("SET");
        command.arg(self.named(META, "probe")).arg("");
        self.link.ask(&command).await
    }

    pub(super) fn spoiled_records(&self) -> u64 {
        self.sealer.spoiled()
    }

    async fn tell(&self, news: &News) -> Result<(), Error> {
        match feed::told(&self.stream(), self.origin, news) {
            // Twice does no harm.
            Some(command) => self.link.ask(&command).await,
            None => Ok(()),
        }
    }

    async fn list(&self, account: AccountId, key: SessionKey) -> Result<(), Error> {
        let mut command = ::redis::cmd("SADD");
        command.arg(self.list_of(account)).arg(key.0.as_slice());
        self.link.ask(&command).await
    }

    async fn unlist(&self, account: AccountId, keys: &[SessionKey]) -> Result<(), Error> {
        let mut command = ::redis::cmd("SREM");
        command.arg(self.list_of(account));
        keys.iter().for_each(|key| {
            command.arg(key.0.as_slice());
        });
        self.link.ask(&command).await
    }

    /// The sessions of an account, and perhaps some that are over.
    async fn listed(&self, account: AccountId) -> Result<Vec<SessionKey>, Error> {
        let keys: Vec<Vec<u8>> = self.link.ask(::redis::cmd("SMEMBERS").arg(self.list_of(account))).await?;
        Ok(keys.iter().filter_map(|key| session_key(key)).collect())
    }

    async fn put<T: FromRedisValue>(&self, table: Table, key: &[u8], value: &[u8]) -> Result<T, Error> {
        let keys = self.keys_of(table, shard_of(key));
        self.link.run(&self.scripts.put, &keys, &[key, value]).await
    }

    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let [table, _] = self.keys_of(table, shard_of(key));
        let value: Option<Vec<u8>> = self.link.ask(::redis::cmd("HGET").arg(table).arg(key)).await?;
        if let Some(value) = &value {
            self.known(value)?;
        }
        Ok(value)
    }

    async fn remove(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = self.keys_of(table, shard_of(key));
        self.link.run(&self.scripts.remove, &keys, &[key]).await
    }

    /// Up to `limit` entries by key, from the one that follows `after`. Empty at the end.
    async fn page(&self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error> {
        let first = after.map_or(0, shard_of);
        let mut page: Vec<Entry> = Vec::new();
        for shard in first..SHARDS {
            let from = match after.filter(|_| shard == first) {
                Some(after) => [b"(", after].concat(),
                None => b"-".to_vec(),
            };
            let rest = (limit - page.len()).to_string();
            let keys = self.keys_of(table, shard);
            let found: Vec<Vec<u8>> =
                self.link.run(&self.scripts.page, &keys, &[&from, rest.as_bytes()]).await?;
            let mut found = found.into_iter();
            while let (Some(key), Some(value)) = (found.next(), found.next()) {
                page.push((key, value));
            }
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    /// Whether the ring has the key that a value is sealed under. While a new key reaches one replica after the
    /// other, those that have not got it cannot tell what they read, and "cannot tell" is not "absent".
    fn known(&self, value: &[u8]) -> Result<(), Error> {
        match value.get(STAMP_LEN..).and_then(Keyring::sealed_under) {
            Some(key) if !self.sealer.ring.ids().any(|own| own == key) => {
                Err(self.link.unavailable(ServerFault::UnknownKey))
            }
            _ => Ok(()),
        }
    }

    async fn meta_value(&self, field: &str) -> Result<Option<Vec<u8>>, Error> {
        self.link.ask(::redis::cmd("HGET").arg(self.meta()).arg(field)).await
    }

    fn keys_of(&self, table: Table, shard: u8) -> [Vec<u8>; 2] {
        let name = table.name();
        [self.key(shard, name), self.key(shard, &format!("{name}:order"))]
    }

    fn list_of(&self, account: AccountId) -> Vec<u8> {
        let account = account.to_bytes();
        let name: String = account.iter().map(|byte| format!("{byte:02x}")).collect();
        self.key(shard_of(&account), &format!("sessions-of:{name}"))
    }

    fn leases(&self, task: Task) -> Vec<u8> {
        match task {
            Task::Requery(account) => self.key(shard_of(&account.to_bytes()), "leases"),
            Task::Sweep => self.named(META, "leases"),
        }
    }

    fn meta(&self) -> Vec<u8> {
        self.named(META, META)
    }

    fn meta_order(&self) -> Vec<u8> {
        self.named(META, "order")
    }

    fn pinned(&self) -> Vec<u8> {
        self.named(META, "pins")
    }

    fn stream(&self) -> Vec<u8> {
        self.named("news", "news")
    }

    fn key(&self, shard: u8, name: &str) -> Vec<u8> {
        self.named(&format!("{shard:02}"), name)
    }

    /// The braces make it one slot for all keys with the same `tag`.
    fn named(&self, tag: &str, name: &str) -> Vec<u8> {
        format!("{}:{{{tag}}}:{name}", self.settings.prefix).into_bytes()
    }
}

/// The first five bits: parts follow each other as keys do.
fn shard_of(key: &[u8]) -> u8 {
    key.first().map_or(0, |first| first >> 3)
}

fn session_key(bytes: &[u8]) -> Option<SessionKey> {
    Some(SessionKey(bytes.try_into().ok()?))
}

fn account_id(bytes: &[u8]) -> Option<AccountId> {
    Some(AccountId::from_bytes(bytes.try_into().ok()?))
}

fn team_id(bytes: &[u8]) -> Option<TeamId> {
    Some(TeamId::from_bytes(bytes.try_into().ok()?))
}

fn field_of(task: Task) -> Vec<u8> {
    match task {
        Task::Requery(account) => [b"r", account.to_bytes().as_slice()].concat(),
        Task::Sweep => b"s".to_vec(),
    }
}

/// Asks several questions, some of them at once; the answers in their order.
async fn together<T: Send>(questions: Vec<BoxFuture<'_, Result<T, Error>>>) -> Result<Vec<T>, Error> {
    stream::iter(questions).buffered(AT_ONCE).try_collect().await
}

fn written(done: bool) -> Result<(), Error> {
    if done { Ok(()) } else { Err(Error::Conflict) }
}
