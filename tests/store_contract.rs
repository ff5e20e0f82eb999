//! What every backend of the store promises: one suite of functions over a `Store`, run for each backend.
//!
//! A backend joins by a [`Backend`] and a line with `contract!`.

#[path = "store_contract/outages.rs"]
mod outages;
#[path = "servers/ports.rs"]
mod ports;
#[path = "servers/redis.rs"]
mod redis;
#[path = "store_contract/servers.rs"]
mod servers;

use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use teamgate::clock::Timestamp;
use teamgate::entropy::Entropy;
use teamgate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use teamgate::keys::{Algorithm, Keyring, SigningKeys};
use teamgate::membership::{Membership, Role, Team};
use teamgate::secret::Secret;
use teamgate::session::{Record, SessionKey, Settings};
use teamgate::store::lease::{Claim, Lease, Task};
use teamgate::store::{self, AccountRecord, Grant, Once, Pin, Store, Swept, Version};
use teamgate::telemetry::metrics::Metrics;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A place where a store lives, which can be opened again after it was closed.
trait Backend: Sized {
    fn new() -> Outcome<Self>;
    /// Opens the store with a ring of these keys.
    fn open_with(&self, keys: &[u8]) -> Outcome<Store>;
    /// Everything at rest, as somebody with the disk would see it. Called when the store is closed.
    fn raw(&self) -> Outcome<Vec<u8>>;

    fn open(&self) -> Outcome<Store> {
        self.open_with(&[1])
    }
}

struct Embedded(tempfile::TempDir);

impl Embedded {
    fn dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.dir().join("teamgate.redb")
    }
}

impl Backend for Embedded {
    fn new() -> Outcome<Embedded> {
        Ok(Embedded(tempfile::tempdir()?))
    }

    fn open_with(&self, keys: &[u8]) -> Outcome<Store> {
        Ok(Store::open(&self.dir(), ring(keys)?, Entropy::system(), metrics()?)?)
    }

    fn raw(&self) -> Outcome<Vec<u8>> {
        Ok(fs::read(self.file())?)
    }
}

/// Runs `$run!` with the names of all promises.
macro_rules! promises {
    ($run:ident $($more:tt)*) => {
        $run! { $($more)* :
    a_session_is_written_read_touched_and_ended,
    a_touch_raises_nobody_from_the_dead_and_the_later_one_wins,
    the_hosts_of_a_session_are_written_down_however_many_come_at_once,
    the_sessions_of_an_account_end_together_and_no_others,
    sessions_are_listed_page_by_page,
    a_value_is_good_once_however_many_ask_at_once,
    of_two_that_write_over_one_version_one_is_told_so,
    of_a_hundred_racing_refreshes_one_wins,
    a_grant_of_the_largest_size_comes_back_as_it_was,
    an_account_comes_back_as_it_was,
    signing_keys_are_written_over_the_version_that_was_read,
    a_slug_that_changed_hands_is_noticed_until_it_is_unpinned,
    a_sweep_removes_what_is_over_and_nothing_else,
    everything_is_there_after_a_restart,
    nothing_secret_and_nobody_is_readable_at_rest,
    a_store_of_another_secret_is_refused_with_the_cure,
    a_new_first_key_takes_over_and_the_old_one_can_go,
    a_closed_store_says_so_and_has_written_everything,
    a_hundred_writers_at_once_lose_nothing,
    a_healthy_store_says_so,
    a_task_is_one_holders_until_its_lease_ends,
    of_a_hundred_that_want_a_lease_one_gets_it,
    who_has_lost_a_lease_writes_nothing_under_it,
    fences_grow_over_a_restart,
}
    };
}

/// A test for each promise.
macro_rules! contract {
    ($module:ident, $backend:ty : $($promise:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() -> super::Outcome {
                super::$promise(<$backend as super::Backend>::new()?).await
            })+
        }
    };
}

/// One promise after the other on servers that take seconds to start. `$fresh` gives each a store of its own.
macro_rules! one_by_one {
    ($fresh:ident : $($promise:ident),+ $(,)?) => {
        $(
            $promise($fresh()?).await.map_err(|error| format!("{}: {error}", stringify!($promise)))?;
        )+
    };
}

promises!(contract embedded, super::Embedded);
promises!(contract one_redis, super::servers::OneRedis);

fn metrics() -> Outcome<Arc<Metrics>> {
    Ok(Arc::new(Metrics::new("test", "test")?))
}

fn ring(keys: &[u8]) -> Outcome<Arc<Keyring>> {
    let keys: Vec<_> = keys.iter().map(|byte| Secret::new([*byte; 32])).collect();
    Ok(Arc::new(Keyring::from_keys(&keys)?))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + seconds)
}

fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n; 16])
}

fn key(n: u8) -> SessionKey {
    SessionKey([n; 32])
}

fn session(owner: u8, begun: u64) -> Record {
    Record {
        account: account(owner),
        begun_at: at(begun),
        last_used_at: at(begun),
        address: Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7))),
        user_agent: Some("Recognisable/1.0".into()),
        hosts: Box::default(),
    }
}

fn grant(token: &str) -> Grant {
    Grant {
        access_token: Secret::new(token.to_owned()),
        refresh_token: Some(Secret::new(format!("{token}-refresh"))),
        expires_at: at(7200),
        scopes: Some("account email".to_owned()),
        obtained_at: at(0),
        refreshing_since: None,
    }
}

fn person(n: u8) -> AccountRecord {
    let team = Team {
        slug: "recognisable-team".into(),
        id: TeamId::from_bytes([9; 16]),
        role: Role::Administrator,
        confirmed: true,
    };
    AccountRecord {
        identity: VerifiedIdentity::vouched_for(Claims {
            account: account(n),
            display_name: "Recognisable Ada".into(),
            nickname: Some("ada".into()),
            email: Email::parse("recognisable@example.com"),
        }),
        profile_as_of: at(1),
        membership: Membership::new(at(2), vec![team]),
    }
}

fn token_of(found: Option<(Grant, Version)>) -> Option<String> {
    found.map(|(grant, _)| grant.access_token.expose().clone())
}

async fn a_session_is_written_read_touched_and_ended(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    assert_eq!(store.session(key(1)).await?, None);
    store.put_session(key(1), &session(1, 0)).await?;
    assert_eq!(store.session(key(1)).await?, Some(session(1, 0)));
    store.touch_sessions(vec![(key(1), at(60))]).await?;
    let touched = store.session(key(1)).await?.ok_or("it is there")?;
    assert_eq!((touched.begun_at, touched.last_used_at), (at(0), at(60)));
    assert_eq!(store.session_count().await?, 1);
    assert!(store.end_session(key(1)).await?);
    assert!(!store.end_session(key(1)).await?, "it was there once");
    assert_eq!(store.session(key(1)).await?, None);
    assert_eq!(store.sessions_of(account(1)).await?, []);
    assert_eq!(store.session_count().await?, 0);
    Ok(())
}

async fn a_touch_raises_nobody_from_the_dead_and_the_later_one_wins(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    store.put_session(key(1), &session(1, 0)).await?;
    store.put_session(key(2), &session(1, 0)).await?;
    store.end_session(key(2)).await?;
    store.touch_sessions(vec![(key(2), at(9)), (key(1), at(90)), (key(1), at(30)), (key(3), at(9))]).await?;
    assert_eq!(store.session(key(2)).await?, None);
    assert_eq!(store.session(key(3)).await?, None);
    assert_eq!(store.session(key(1)).await?.map(|record| record.last_used_at), Some(at(90)));
    store.touch_sessions(vec![(key(1), at(60))]).await?;
    assert_eq!(store.session(key(1)).await?.map(|record| record.last_used_at), Some(at(90)));
    assert_eq!(store.session_count().await?, 1);
    Ok(())
}

async fn the_hosts_of_a_session_are_written_down_however_many_come_at_once(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    for n in [1, 2] {
        store.put_session(key(n), &session(1, 0)).await?;
    }
    store.touch_sessions(vec![(key(1), at(90))]).await?;
    store.end_session(key(2)).await?;
    let hosts: Vec<String> = (0..10).map(|number| format!("{number}.example.test")).collect();
    for written in
        futures_util::future::join_all(hosts.iter().map(|host| store.add_session_host(key(1), host))).await
    {
        assert!(written?);
    }
    assert!(store.add_session_host(key(1), &hosts[3]).await?, "once more is no news, and no fault");
    assert!(!store.add_session_host(key(2), "late.example.test").await?, "nobody is raised from the dead");
    assert_eq!(store.session(key(2)).await?, None);
    drop(store);
    let record = backend.open()?.session(key(1)).await?.ok_or("no session")?;
    let mut found: Vec<&str> = record.hosts.iter().map(|host| &**host).collect();
    found.sort_unstable();
    assert_eq!(found, hosts);
    assert_eq!(record.last_used_at, at(90));
    assert_eq!(Record { hosts: Box::default(), last_used_at: at(0), ..record }, session(1, 0));
    Ok(())
}

async fn the_sessions_of_an_account_end_together_and_no_others(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    for (n, owner) in [(1, 1), (2, 2), (3, 1), (0, 1), (255, 1)] {
        store.put_session(key(n), &session(owner, 0)).await?;
    }
    let names = |found: Vec<(SessionKey, Record)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(names(store.sessions_of(account(1)).await?), [key(0), key(1), key(3), key(255)]);
    let mut ended = store.end_account_sessions(account(1)).await?;
    ended.sort();
    assert_eq!(ended, [key(0), key(1), key(3), key(255)]);
    assert_eq!(store.end_account_sessions(account(1)).await?, []);
    assert_eq!(store.session(key(3)).await?, None);
    assert_eq!(names(store.sessions_of(account(2)).await?), [key(2)]);
    Ok(())
}

async fn sessions_are_listed_page_by_page(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    for n in 0..7 {
        store.put_session(key(n), &session(n, 0)).await?;
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.sessions(after, 3).await?;
        assert!(page.len() <= 3);
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        found.extend(page.into_iter().map(|(key, record)| (key, record.account)));
    }
    assert_eq!(found, (0..7).map(|n| (key(n), account(n))).collect::<Vec<_>>());
    Ok(())
}

async fn a_value_is_good_once_however_many_ask_at_once(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.consume_once(Once::SignInState, [7; 32], at(600)).await })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += u32::from(task.await??);
    }
    assert_eq!(winners, 1);
    assert!(store.consume_once(Once::HandOver, [7; 32], at(600)).await?, "another kind is another value");
    assert!(store.consume_once(Once::SignInState, [8; 32], at(600)).await?);
    Ok(())
}

async fn of_two_that_write_over_one_version_one_is_told_so(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let first = store.put_grant(account(1), &grant("one"), Some(Version::ABSENT)).await?;
    let conflict = store.put_grant(account(1), &grant("lost"), Some(Version::ABSENT)).await;
    assert!(matches!(conflict, Err(store::Error::Conflict)), "{conflict:?}");
    let second = store.put_grant(account(1), &grant("two"), Some(first)).await?;
    let conflict = store.put_grant(account(1), &grant("lost"), Some(first)).await;
    assert!(matches!(conflict, Err(store::Error::Conflict)), "{conflict:?}");
    let found = store.grant(account(1)).await?;
    assert_eq!(found.as_ref().map(|(_, version)| *version), Some(second));
    assert_eq!(token_of(found).as_deref(), Some("two"));

    store.put_grant(account(1), &grant("three"), None).await?;
    assert_eq!(token_of(store.grant(account(1)).await?).as_deref(), Some("three"));
    // One that means other tokens takes none away.
    let (_, version) = store.grant(account(1)).await?.ok_or("it is there")?;
    let stale = store.delete_grant(account(1), Some(Version::ABSENT)).await;
    assert!(matches!(stale, Err(store::Error::Conflict)), "{stale:?}");
    assert!(store.delete_grant(account(1), Some(version)).await?);
    assert!(!store.delete_grant(account(1), None).await?);
    let again = store.put_grant(account(1), &grant("four"), None).await?;
    for old in [first, second] {
        assert_ne!(old, again, "a version never comes back");
        let conflict = store.put_grant(account(1), &grant("lost"), Some(old)).await;
        assert!(matches!(conflict, Err(store::Error::Conflict)), "{conflict:?}");
    }
    Ok(())
}

async fn of_a_hundred_racing_refreshes_one_wins(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let version = store.put_grant(account(1), &grant("old"), None).await?;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store.put_grant(account(1), &grant(&n.to_string()), Some(version)).await.map(|_| n)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await? {
            Ok(n) => winners.push(n.to_string()),
            Err(store::Error::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(token_of(store.grant(account(1)).await?).as_ref(), winners.first());
    Ok(())
}

async fn a_grant_of_the_largest_size_comes_back_as_it_was(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let large = Grant {
        access_token: Secret::new("a".repeat(8192)),
        refresh_token: Some(Secret::new("r".repeat(8192))),
        refreshing_since: Some(at(5)),
        ..grant("")
    };
    let version = store.put_grant(account(1), &large, None).await?;
    let (found, found_version) = store.grant(account(1)).await?.ok_or("it is there")?;
    assert_eq!(found_version, version);
    assert_eq!(found.access_token.expose(), large.access_token.expose());
    assert_eq!(
        found.refresh_token.as_ref().map(|token| token.expose().len()),
        large.refresh_token.as_ref().map(|token| token.expose().len())
    );
    assert_eq!(
        (found.expires_at, found.obtained_at, found.refreshing_since, found.scopes),
        (large.expires_at, large.obtained_at, large.refreshing_since, large.scopes)
    );
    Ok(())
}

async fn an_account_comes_back_as_it_was(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    assert_eq!(store.account(account(1)).await?, None);
    store.put_account(&person(1)).await?;
    assert_eq!(store.account(account(1)).await?, Some(person(1)));
    assert_eq!(store.account(account(2)).await?, None);
    Ok(())
}

async fn signing_keys_are_written_over_the_version_that_was_read(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let (none, absent) = store.signing_keys().await?;
    assert!(none.is_none() && absent == Version::ABSENT);
    let (mine, theirs) =
        (SigningKeys::first(at(0), Algorithm::Es256)?, SigningKeys::first(at(0), Algorithm::Es256)?);
    let version = store.put_signing_keys(&mine, absent).await?;
    let conflict = store.put_signing_keys(&theirs, absent).await;
    assert!(matches!(conflict, Err(store::Error::Conflict)), "{conflict:?}");
    let (found, found_version) = store.signing_keys().await?;
    assert_eq!(found.map(|keys| keys.jwks()), Some(mine.jwks()));
    assert_eq!(found_version, version);
    store.put_signing_keys(&theirs, version).await?;
    assert_eq!(store.signing_keys().await?.0.map(|keys| keys.jwks()), Some(theirs.jwks()));
    Ok(())
}

async fn a_slug_that_changed_hands_is_noticed_until_it_is_unpinned(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let (old, new) = (TeamId::from_bytes([1; 16]), TeamId::from_bytes([2; 16]));
    assert_eq!(store.pin_if_new("acme", old).await?, Pin::New);
    assert_eq!(store.pin_if_new("acme", old).await?, Pin::Same);
    assert_eq!(store.pin_if_new("acme", new).await?, Pin::Different(old));
    assert_eq!(store.pin_if_new("acme", new).await?, Pin::Different(old), "asking twice changes nothing");
    store.pin_if_new("Acme", new).await?;
    assert_eq!(store.pins().await?, [("Acme".into(), new), ("acme".into(), old)]);
    assert!(store.unpin("acme").await?);
    assert!(!store.unpin("acme").await?);
    assert_eq!(store.pin_if_new("acme", new).await?, Pin::New);
    Ok(())
}

async fn a_sweep_removes_what_is_over_and_nothing_else(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let settings = Settings { lifetime: Duration::from_secs(1000), idle: Duration::from_secs(100) };
    // Used until the end of its life, idle, and alive.
    for (n, begun, used) in [(1, 0, 990), (2, 500, 890), (3, 500, 950)] {
        store.put_session(key(n), &session(n, begun)).await?;
        store.touch_sessions(vec![(key(n), at(used))]).await?;
    }
    store.consume_once(Once::SignInState, [1; 32], at(999)).await?;
    store.consume_once(Once::SignInState, [2; 32], at(1001)).await?;
    store.put_grant(account(1), &grant("kept"), None).await?;
    assert_eq!(store.sweep(at(960), &settings).await?, Swept::default());
    assert_eq!(store.sweep(at(1000), &settings).await?, Swept { sessions: 2, once_values: 1 });
    assert_eq!(store.sweep(at(1000), &settings).await?, Swept::default());
    assert!(store.session(key(3)).await?.is_some());
    assert_eq!(store.sessions_of(account(1)).await?, []);
    assert_eq!(store.session_count().await?, 1);
    assert!(!store.consume_once(Once::SignInState, [2; 32], at(1001)).await?);
    assert!(store.grant(account(1)).await?.is_some());
    Ok(())
}

/// More sessions than a sweep looks at in one go.
async fn fill(store: &Store, count: u16) -> Outcome {
    let mut tasks = Vec::new();
    for n in 0..count {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            store.put_session(SessionKey(id), &session((n % 7) as u8, u64::from(n % 2) * 5000)).await
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn a_hundred_writers_at_once_lose_nothing(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    fill(&store, 1500).await?;
    assert_eq!(store.session_count().await?, 1500);
    let settings = Settings { lifetime: Duration::from_secs(1000), idle: Duration::from_secs(1000) };
    assert_eq!(store.sweep(at(5500), &settings).await?.sessions, 750);
    drop(store);
    let store = backend.open()?;
    assert_eq!(store.session_count().await?, 750);
    let mut listed = 0;
    for owner in 0..7 {
        listed += store.sessions_of(account(owner)).await?.len();
    }
    assert_eq!(listed, 750);
    Ok(())
}

async fn everything_is_there_after_a_restart(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let keys = SigningKeys::first(at(0), Algorithm::Es256)?;
    store.put_session(key(1), &session(1, 0)).await?;
    store.touch_sessions(vec![(key(1), at(60))]).await?;
    let version = store.put_grant(account(1), &grant("token"), None).await?;
    store.put_account(&person(1)).await?;
    store.put_signing_keys(&keys, Version::ABSENT).await?;
    store.pin_if_new("acme", TeamId::from_bytes([1; 16])).await?;
    store.consume_once(Once::SignInState, [1; 32], at(600)).await?;
    drop(store);

    let store = backend.open()?;
    assert_eq!(store.session(key(1)).await?.map(|record| record.last_used_at), Some(at(60)));
    assert_eq!(store.sessions_of(account(1)).await?.len(), 1);
    assert_eq!(store.grant(account(1)).await?.map(|(_, version)| version), Some(version));
    assert_eq!(store.account(account(1)).await?, Some(person(1)));
    assert_eq!(store.signing_keys().await?.0.map(|keys| keys.jwks()), Some(keys.jwks()));
    assert_eq!(store.pin_if_new("acme", TeamId::from_bytes([1; 16])).await?, Pin::Same);
    assert!(!store.consume_once(Once::SignInState, [1; 32], at(600)).await?);
    assert_eq!(store.spoiled_records(), 0);
    Ok(())
}

async fn nothing_secret_and_nobody_is_readable_at_rest(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    store.put_grant(account(1), &grant("recognisable-token"), None).await?;
    store.put_account(&person(1)).await?;
    store.put_session(key(1), &session(1, 0)).await?;
    store.put_signing_keys(&SigningKeys::first(at(0), Algorithm::Es256)?, Version::ABSENT).await?;
    store.pin_if_new("pinned-slug", TeamId::from_bytes([1; 16])).await?;
    store.close().await?;
    drop(store);
    let raw = backend.raw()?;
    let shows =
        |text: &str| raw.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
    assert!(shows("pinned-slug"), "the search finds what is not sealed");
    for text in ["recognisable", "pkcs8", "access_token", "203.0.113.7", "example.com"] {
        assert!(!shows(text), "{text}");
    }
    Ok(())
}

async fn a_store_of_another_secret_is_refused_with_the_cure(backend: impl Backend) -> Outcome {
    backend.open_with(&[1])?.put_session(key(1), &session(1, 0)).await?;
    let Err(error) = backend.open_with(&[2]) else { return Err("it was opened".into()) };
    let error = error.downcast::<store::Error>()?;
    assert!(matches!(*error, store::Error::ForeignSecret { .. }), "{error:?}");
    assert!(error.to_string().contains("put that key back into the secret file"), "{error}");
    assert!(backend.open_with(&[1])?.session(key(1)).await?.is_some(), "it was left as it was");
    Ok(())
}

async fn a_new_first_key_takes_over_and_the_old_one_can_go(backend: impl Backend) -> Outcome {
    let store = backend.open_with(&[1])?;
    let keys = SigningKeys::first(at(0), Algorithm::Es256)?;
    store.put_session(key(1), &session(1, 0)).await?;
    let version = store.put_grant(account(1), &grant("token"), None).await?;
    store.put_account(&person(1)).await?;
    store.put_signing_keys(&keys, Version::ABSENT).await?;
    drop(store);
    drop(backend.open_with(&[2, 1])?);
    let store = backend.open_with(&[2])?;
    assert!(store.session(key(1)).await?.is_some());
    let found = store.grant(account(1)).await?;
    assert_eq!(found.as_ref().map(|(_, version)| *version), Some(version));
    assert_eq!(token_of(found).as_deref(), Some("token"));
    assert_eq!(store.account(account(1)).await?, Some(person(1)));
    assert_eq!(store.signing_keys().await?.0.map(|keys| keys.jwks()), Some(keys.jwks()));
    assert_eq!(store.spoiled_records(), 0);
    Ok(())
}

async fn a_closed_store_says_so_and_has_written_everything(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let clone = store.clone();
    store.put_session(key(1), &session(1, 0)).await?;
    store.flush().await?;
    store.close().await?;
    let late = clone.put_session(key(2), &session(1, 0)).await;
    assert!(matches!(late, Err(store::Error::Closed)), "{late:?}");
    assert!(matches!(clone.session(key(1)).await, Err(store::Error::Closed)));
    assert!(clone.healthy().await.is_err());
    let again = backend.open()?;
    assert!(again.session(key(1)).await?.is_some(), "it can be opened while a clone still lives");
    Ok(())
}

async fn a_healthy_store_says_so(backend: impl Backend) -> Outcome {
    Ok(backend.open()?.healthy().await?)
}

const SPAN: Duration = Duration::from_secs(30);

async fn taken(store: &Store, task: Task, now: Timestamp) -> Outcome<Lease> {
    match store.take_lease(task, now, SPAN).await? {
        Claim::Taken(lease) => Ok(lease),
        held @ Claim::Held { .. } => Err(format!("{held:?}").into()),
    }
}

async fn a_task_is_one_holders_until_its_lease_ends(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let task = Task::Requery(account(1));
    let first = taken(&store, task, at(0)).await?;
    assert_eq!((first.task, first.expires_at), (task, at(30)));
    assert_eq!(store.take_lease(task, at(29), SPAN).await?, Claim::Held { until: at(30) });
    for other in [Task::Requery(account(2)), Task::Sweep] {
        taken(&store, other, at(29)).await?;
    }
    let renewed = store.renew_lease(&first, at(20), SPAN).await?.ok_or("it is ours")?;
    assert_eq!((renewed.fence, renewed.expires_at), (first.fence, at(50)));
    assert_eq!(store.take_lease(task, at(49), SPAN).await?, Claim::Held { until: at(50) });
    // It ends by the clock that is told, not by the one on the wall.
    let second = taken(&store, task, at(50)).await?;
    assert!(second.fence > first.fence);
    assert_eq!(store.renew_lease(&renewed, at(51), SPAN).await?, None);
    assert!(!store.release_lease(&renewed).await?);
    assert!(store.release_lease(&second).await?);
    assert!(!store.release_lease(&second).await?);
    assert_eq!(store.renew_lease(&second, at(51), SPAN).await?, None);
    let third = taken(&store, task, at(51)).await?;
    assert!(third.fence > second.fence);
    // Late, but before anybody else.
    assert!(store.renew_lease(&third, at(1000), SPAN).await?.is_some());
    Ok(())
}

async fn of_a_hundred_that_want_a_lease_one_gets_it(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.take_lease(Task::Sweep, at(0), SPAN).await })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += u32::from(matches!(task.await??, Claim::Taken(_)));
    }
    assert_eq!(winners, 1);
    Ok(())
}

async fn who_has_lost_a_lease_writes_nothing_under_it(backend: impl Backend) -> Outcome {
    let store = backend.open()?;
    let task = Task::Requery(account(1));
    let slow = taken(&store, task, at(0)).await?;
    store.put_account_under(&person(1), &slow).await?;
    assert_eq!(store.account(account(1)).await?, Some(person(1)));
    // Nobody was faster: what it found out counts.
    let quick = taken(&store, task, at(30)).await?;
    let newer = AccountRecord { profile_as_of: at(31), ..person(1) };
    store.put_account_under(&newer, &quick).await?;
    let late = store.put_account_under(&person(1), &slow).await;
    assert!(matches!(late, Err(store::Error::Conflict)), "{late:?}");
    assert_eq!(store.account(account(1)).await?, Some(newer.clone()));
    store.release_lease(&quick).await?;
    let late = store.put_account_under(&person(1), &quick).await;
    assert!(matches!(late, Err(store::Error::Conflict)), "{late:?}");
    assert_eq!(store.account(account(1)).await?, Some(newer));
    Ok(())
}

async fn fences_grow_over_a_restart(backend: impl Backend) -> Outcome {
    let (mut last, mut leases) = (0, Vec::new());
    for round in 0..3 {
        let store = backend.open()?;
        let task = Task::Requery(account(1));
        for turn in 0..2 {
            let lease = taken(&store, task, at(round * 100 + turn * 40)).await?;
            assert!(lease.fence > last);
            last = lease.fence;
            for old in &leases {
                let late = store.put_account_under(&person(1), old).await;
                assert!(matches!(late, Err(store::Error::Conflict)), "{late:?}");
            }
            leases.push(lease);
        }
    }
    Ok(())
}

// ── servers that take seconds to start: every promise, one after the other

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_over_tls_for_a_user_with_the_documented_rights() -> Outcome {
    let fresh = servers::secured()?;
    promises!(one_by_one fresh);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_under_sentinel() -> Outcome {
    let fresh = servers::watched()?;
    promises!(one_by_one fresh);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_on_a_cluster() -> Outcome {
    let fresh = servers::cluster()?;
    promises!(one_by_one fresh);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "what was not tested is said")]
async fn every_promise_holds_on_valkey() -> Outcome {
    if !redis::is_installed("valkey-server") {
        println!("valkey-server is not installed: nothing is said of it here");
        return Ok(());
    }
    let fresh = servers::of("valkey-server")?;
    promises!(one_by_one fresh);
    Ok(())
}

// ── the file backend alone

#[tokio::test]
async fn a_second_gateway_on_one_folder_is_told_the_file_and_the_process() -> Outcome {
    let backend = Embedded::new()?;
    let _store = backend.open()?;
    let error = Store::open(&backend.dir(), ring(&[1])?, Entropy::system(), metrics()?)
        .err()
        .ok_or("it was opened")?;
    let store::Error::Locked { file, pid } = &error else { return Err(error.into()) };
    assert_eq!((file, *pid), (&backend.file(), Some(std::process::id())));
    assert!(error.to_string().contains("in use by another teamgate (process "), "{error}");
    Ok(())
}

#[tokio::test]
async fn folder_and_file_are_private_and_a_file_that_is_not_becomes_so() -> Outcome {
    let backend = Embedded::new()?;
    drop(backend.open()?);
    let mode = |path| fs::metadata(path).map(|facts| facts.permissions().mode() & 0o777);
    assert_eq!((mode(backend.dir())?, mode(backend.file())?), (0o700, 0o600));
    fs::set_permissions(backend.file(), fs::Permissions::from_mode(0o644))?;
    let _store = backend.open()?;
    assert_eq!(mode(backend.file())?, 0o600);
    Ok(())
}

/// The file as a process that was killed leaves it: copied while it is open, after the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_a_kill() -> Outcome {
    let (backend, copy) = (Embedded::new()?, Embedded::new()?);
    fs::create_dir(copy.dir())?;
    let store = backend.open()?;
    for round in 0..20_u16 {
        fill(&store, 20 + round).await?;
        let version = store.put_grant(account(1), &grant(&round.to_string()), None).await?;
        fs::copy(backend.file(), copy.file())?;
        let killed = copy.open()?;
        assert_eq!(killed.session_count().await?, u64::from(20 + round));
        assert_eq!(killed.grant(account(1)).await?.map(|(_, version)| version), Some(version));
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_mostly_empty_is_made_smaller_at_the_next_start() -> Outcome {
    let backend = Embedded::new()?;
    let store = backend.open()?;
    let size = || fs::metadata(backend.file()).map(|facts| facts.len());
    // Long slugs, because they are not sealed: the seals of large values take their time in a debug build.
    let slug = |n: u32| format!("{n:02}{}", "a".repeat(1024 * 1024));
    for n in 0..36 {
        store.pin_if_new(&slug(n), TeamId::from_bytes([1; 16])).await?;
    }
    for n in 0..35 {
        assert!(store.unpin(&slug(n)).await?);
    }
    drop(store);
    let before = size()?;
    assert!(before > 32 * 1024 * 1024, "{before}");
    let store = backend.open()?;
    assert!(size()? < before / 4, "{} of {before}", size()?);
    assert_eq!(store.pins().await?, [(slug(35).into(), TeamId::from_bytes([1; 16]))]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_store_is_left_alone_and_named() -> Outcome {
    let backend = Embedded::new()?;
    fs::create_dir(backend.dir())?;
    let text = "not a database ".repeat(1000);
    fs::write(backend.file(), &text)?;
    let error = Store::open(&backend.dir(), ring(&[1])?, Entropy::system(), metrics()?)
        .err()
        .ok_or("it was opened")?;
    assert!(matches!(error, store::Error::Unreadable { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&backend.file().display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(backend.file())?, text);
    Ok(())
}

/// One byte of the file changed, anywhere that something stands: never garbage, never a panic.
#[tokio::test]
async fn a_flipped_byte_is_an_error_or_an_absence_and_never_garbage() -> Outcome {
    let backend = Embedded::new()?;
    let store = backend.open()?;
    store.put_grant(account(1), &grant("token"), None).await?;
    store.put_session(key(1), &session(1, 0)).await?;
    drop(store);
    let sound = backend.raw()?;
    let written: Vec<usize> = (0..sound.len()).filter(|place| sound[*place] != 0).collect();
    for place in written.iter().step_by(written.len() / 60 + 1) {
        let mut spoiled = sound.clone();
        spoiled[*place] ^= 0x10;
        fs::write(backend.file(), &spoiled)?;
        let Ok(store) = Store::open(&backend.dir(), ring(&[1])?, Entropy::system(), metrics()?) else {
            continue;
        };
        if let Ok(found) = store.grant(account(1)).await {
            assert!(matches!(token_of(found).as_deref(), None | Some("token")), "byte {place}");
        }
        if let Ok(Some(found)) = store.session(key(1)).await {
            assert_eq!(found.account, account(1), "byte {place}");
        }
    }
    Ok(())
}
