//! The embedded store with as many sessions as a large house has: how fast it takes sign-ins, how soon the gateway serves
//! with them, what they weigh in memory. `TEAMGATE_HEAVY=1 cargo test --release --test gateway heavy::store -- --nocapture`;
//! `TEAMGATE_LOOK_UPS=100000` asks with fewer of the million, where nothing is optimised and each takes its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use teamgate::clock::{Clock, Timestamp};
use teamgate::entropy::Entropy;
use teamgate::gate::cookie::SessionId;
use teamgate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use teamgate::keys::{Keyring, install_crypto_providers};
use teamgate::membership::{Membership, Role, Team};
use teamgate::secret::Secret;
use teamgate::session::Record;
use teamgate::store::{AccountRecord, Grant, Once, Store};
use teamgate::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::size;
use crate::support::{Checked, Config, Request, Setup, send};

/// Sessions of each account.
const EACH: usize = 10;

fn account(number: usize) -> Checked<AccountId> {
    Ok(AccountId::from_bytes(u128::try_from(number + 1)?.to_be_bytes()))
}

/// Somebody who is in no team of this gateway: who is refused, costs a look at the session and nothing else.
fn person(number: usize, now: Timestamp) -> Checked<AccountRecord> {
    let team = Team {
        slug: "elsewhere".into(),
        id: TeamId::from_bytes([9; 16]),
        role: Role::Member,
        confirmed: true,
    };
    Ok(AccountRecord {
        identity: VerifiedIdentity::vouched_for(Claims {
            account: account(number)?,
            display_name: format!("Person {number}").into(),
            nickname: Some(format!("person{number}").into()),
            email: Email::parse(&format!("person{number}@example.com")),
        }),
        profile_as_of: now,
        membership: Membership::new(now, vec![team]),
    })
}

/// Tokens as long as Bitbucket's are.
fn grant(now: Timestamp) -> Grant {
    Grant {
        access_token: Secret::new("a".repeat(100)),
        refresh_token: Some(Secret::new("r".repeat(100))),
        expires_at: now.plus(Duration::from_secs(7_200)),
        scopes: Some("account email".to_owned()),
        obtained_at: now,
        refreshing_since: None,
    }
}

fn record(number: usize, now: Timestamp) -> Checked<Record> {
    Ok(Record {
        account: account(number / EACH)?,
        begun_at: now,
        last_used_at: now,
        address: Some([203, 0, 113, 7].into()),
        user_agent: Some(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0".into(),
        ),
        hosts: Box::default(),
    })
}

/// The id of a session, from its number.
fn id(number: usize) -> Checked<SessionId> {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&u64::try_from(number)?.to_be_bytes());
    Ok(SessionId::from_bytes(bytes))
}

/// A client that keeps its connection.
struct Client(TcpStream);

impl Client {
    /// The status of a HEAD request with this cookie, as a program sends it.
    async fn head(&mut self, cookie: &str) -> Checked<u16> {
        let request =
            format!("HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nCookie: teamgate={cookie}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(1024);
        while !answer.ends_with(b"\r\n\r\n") {
            if self.0.read_buf(&mut answer).await? == 0 {
                return Err("closed".into());
            }
        }
        let status = answer.get(9..12).ok_or("no status")?;
        Ok(std::str::from_utf8(status)?.parse()?)
    }
}

/// Asks once with each of these sessions.
async fn look_up(address: SocketAddr, ring: &Keyring, sessions: impl Iterator<Item = usize>) -> Checked {
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client(TcpStream::connect(address).await?));
    }
    let mut cookies: Vec<Vec<String>> = vec![Vec::new(); clients.len()];
    for (turn, session) in sessions.enumerate() {
        let at = turn % clients.len();
        cookies[at].push(id(session)?.seal(ring, "127.0.0.1"));
    }
    let asking = clients.into_iter().zip(cookies).map(|(mut client, cookies)| {
        tokio::spawn(async move {
            for cookie in cookies {
                let status = client.head(&cookie).await?;
                if status != 403 {
                    return Err(format!("{status} instead of 403").into());
                }
            }
            Checked::Ok(())
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await??;
    }
    Ok(())
}

async fn live(setup: &Setup) -> Checked<u64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let value = page.lines().find_map(|line| line.strip_prefix("teamgate_sessions "));
    Ok(value.ok_or("no such metric")?.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_sessions_are_served_from_the_start_and_weigh_little() -> Checked {
    install_crypto_providers();
    let sessions = size(4_000, 1_000_000);
    let looked_up =
        std::env::var("TEAMGATE_LOOK_UPS").ok().and_then(|many| many.parse().ok()).unwrap_or(sessions);
    let config = Config::default()
        .top("log: { format: json, access: false }")
        .top("directory: { refresh_after: 12h, max_age: 24h, outage_grace: 24h }")
        .top("limits: { requests_per_connection: 1000000 }");
    let mut setup = Setup::with(config).await?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    let (folder, now) = (setup.gateway.folder().to_owned(), Clock::system().now());
    let ring = Arc::new(Keyring::load(&folder.join("teamgate.secret"))?);
    let metrics = Arc::new(Metrics::new("test", "test")?);
    let store = Store::open(&folder.join("state"), ring.clone(), Entropy::system(), metrics)?;

    // What a sign-in writes: the state, the tokens, the account, the session, one after the other.
    let (sign_ins, at_once) = (size(300, 20_000), 64);
    let began = Instant::now();
    let signing_in = stream::iter((0..sign_ins).map(|number| number * EACH)).map(async |number| {
        let once = *id(number)?.key().0.first_chunk().ok_or("32 bytes")?;
        store.consume_once(Once::SignInState, once, now.plus(Duration::from_secs(600))).await?;
        store.put_grant(account(number / EACH)?, &grant(now), None).await?;
        store.put_account(&person(number / EACH, now)?).await?;
        store.put_session(id(number)?.key(), &record(number, now)?).await?;
        Checked::Ok(())
    });
    signing_in.buffer_unordered(at_once).try_collect::<Vec<()>>().await?;
    let a_second = sign_ins as f64 / began.elapsed().as_secs_f64();
    println!(
        "{sign_ins} sign-ins, {at_once} at once, each with four writes: {a_second:.0} a second, on disk"
    );

    let began = Instant::now();
    let rest = stream::iter(0..sessions).map(async |number| {
        if number % EACH == 0 {
            store.put_grant(account(number / EACH)?, &grant(now), None).await?;
            store.put_account(&person(number / EACH, now)?).await?;
        }
        store.put_session(id(number)?.key(), &record(number, now)?).await?;
        Checked::Ok(())
    });
    rest.buffer_unordered(2_000).try_collect::<Vec<()>>().await?;
    assert_eq!(store.session_count().await?, u64::try_from(sessions)?);
    store.close().await?;
    drop(store);
    let bytes = std::fs::metadata(folder.join("state/teamgate.redb"))?.len();
    println!("{sessions} sessions: {} MiB on disk, written in {:.0?}", bytes >> 20, began.elapsed());

    let began = Instant::now();
    setup.gateway.restart().await?;
    println!(
        "start in good order: ready after {:.1?}, {} MiB",
        began.elapsed(),
        setup.gateway.memory()? >> 10
    );
    assert_eq!(live(&setup).await?, 0, "nothing is read before it is asked for");
    setup.gateway.kill().await?;
    let began = Instant::now();
    setup.gateway.restart().await?;
    let empty = setup.gateway.memory()?;
    println!("start after kill -9: ready after {:.1?}, {} MiB", began.elapsed(), empty >> 10);
    assert_eq!(live(&setup).await?, 0);

    // Two of each account first: that brings the accounts, and fills the store's cache.
    let sessions = looked_up.min(sessions);
    let (address, began) = (setup.gateway.address(), Instant::now());
    look_up(address, &ring, (0..sessions).filter(|number| number % EACH < 2)).await?;
    let first = setup.gateway.memory()?;
    look_up(address, &ring, (0..sessions).filter(|number| number % EACH >= 2)).await?;
    let all = setup.gateway.memory()?;
    println!("looked up in {:.0?}", began.elapsed());
    assert_eq!(live(&setup).await?, u64::try_from(sessions)?);
    let each = |kib: u64, count: usize| kib as f64 * 1024.0 / count as f64;
    let more = each(all.saturating_sub(first), sessions / 10 * 8);
    println!(
        "memory: {} MiB with none, {} MiB with two of each account, {} MiB with all: {more:.0} bytes for each more \
         session, {:.0} for each with its share of the account and of the store's cache",
        empty >> 10,
        first >> 10,
        all >> 10,
        each(all.saturating_sub(empty), sessions)
    );
    Ok(())
}
