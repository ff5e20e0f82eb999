//! A store that people have signed in to already.
//!
//! Owns: the secret file, the sessions, accounts and tokens of a run, and the cookies that go with them.
//! Must not know: how they are used.
//!
//! Written through the store's own code: signing in a hundred thousand people would measure something else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use teamgate::clock::{Clock, Timestamp};
use teamgate::entropy::Entropy;
use teamgate::gate::cookie::SessionId;
use teamgate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use teamgate::keys::Keyring;
use teamgate::membership::{Membership, Role, Team};
use teamgate::secret::Secret;
use teamgate::session::Record;
use teamgate::store::{AccountRecord, Grant, Store};
use teamgate::telemetry::metrics::Metrics;

use crate::support::Checked;

/// The name of the team that everybody is in.
pub(crate) const TEAM: &str = "acme";

/// The domain that the cookies are good for.
pub(crate) const DOMAIN: &str = "example.test";

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) sessions: usize,
    pub(crate) accounts: usize,
    /// Teams of each account, [`TEAM`] included.
    pub(crate) teams: usize,
}

/// Writes `size` into `folder`, where a gateway will be started, and gives the value of each session's cookie.
pub(crate) async fn seed(folder: &Path, size: Size) -> Checked<Vec<String>> {
    let (entropy, now) = (Entropy::system(), Clock::system().now());
    let secret = folder.join("teamgate.secret");
    Keyring::generate_file(&secret, &entropy, now)?;
    let ring = Arc::new(Keyring::load(&secret)?);
    let metrics = Arc::new(Metrics::new("bench", "bench")?);
    let store = Store::open(&folder.join("state"), ring.clone(), entropy.clone(), metrics)?;
    let writes = (0..size.accounts).map(|number| account(&store, number, size.teams, now));
    stream::iter(writes).buffer_unordered(512).try_collect::<Vec<()>>().await?;
    let ids: Vec<SessionId> = (0..size.sessions).map(|_| SessionId::draw(&entropy)).collect();
    let writes = ids.iter().enumerate().map(|(number, id)| {
        let record = Record {
            account: account_id(number % size.accounts),
            begun_at: now,
            last_used_at: now,
            address: Some([127, 0, 0, 1].into()),
            hosts: Box::default(),
            user_agent: Some(format!("Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 number {number}").into()),
        };
        let store = &store;
        async move { store.put_session(id.key(), &record).await }
    });
    stream::iter(writes).buffer_unordered(512).try_collect::<Vec<()>>().await?;
    store.close().await?;
    Ok(ids.iter().map(|id| id.seal(&ring, DOMAIN)).collect())
}

async fn account(store: &Store, number: usize, teams: usize, now: Timestamp) -> Checked {
    let team = |place: usize| Team {
        slug: if place == 0 { TEAM.into() } else { format!("team-{place}").into() },
        id: TeamId::from_bytes((place as u128 + 1).to_be_bytes()),
        role: Role::Member,
        confirmed: place == 0,
    };
    let record = AccountRecord {
        identity: VerifiedIdentity::vouched_for(Claims {
            account: account_id(number),
            display_name: format!("Person {number}").into(),
            nickname: Some(format!("person{number}").into()),
            email: Email::parse(&format!("person{number}@example.com")),
        }),
        profile_as_of: now,
        membership: Membership::new(now, (0..teams).map(team).collect()),
    };
    let grant = Grant {
        access_token: Secret::new("a".repeat(600)),
        refresh_token: Some(Secret::new("r".repeat(600))),
        expires_at: now.plus(Duration::from_secs(86_400)),
        scopes: None,
        obtained_at: now,
        refreshing_since: None,
    };
    store.put_grant(account_id(number), &grant, None).await?;
    Ok(store.put_account(&record).await?)
}

fn account_id(number: usize) -> AccountId {
    AccountId::from_bytes((number as u128 + 1).to_be_bytes())
}
