//! What the backend on servers does when they are away, hang, change places, or are not ours.

use std::time::{Duration, Instant};

use teamgate::assertion::Assertions;
use teamgate::store::lease::{Claim, Task};
use teamgate::store::news::News;
use teamgate::store::redis::{ServerFault, Settings, Tls, Topology};
use teamgate::store::{Error, Fault, Store};
use teamgate::telemetry::{self, Telemetry};

use super::redis::{self, Cluster, Server, Watched};
use super::servers::{of_a_cluster, opened, settings, through_sentinels};
use super::{Outcome, account, at, grant, key, person, session, token_of};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

async fn eventually(what: &str, mut held: impl AsyncFnMut() -> bool) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !held().await {
        if Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What is wrong, as `store` says it.
fn fault_of<T>(outcome: Result<T, Error>) -> Option<ServerFault> {
    match outcome {
        Err(Error::Unavailable { fault: Fault::Server(fault), .. }) => Some(fault),
        _ => None,
    }
}

fn refused(settings: &Settings) -> Outcome<(String, ServerFault)> {
    let error = opened(settings, &[1]).err().ok_or("it was opened")?.downcast::<Error>()?;
    let text = error.to_string();
    Ok((text, fault_of::<()>(Err(*error)).ok_or("another error")?))
}

/// One session and one grant, as every kind of operation needs them.
async fn furnished(store: &Store) -> Outcome {
    store.put_session(key(1), &session(1, 0)).await?;
    store.put_grant(account(1), &grant("kept"), None).await?;
    store.put_account(&person(1)).await?;
    Ok(())
}

/// Whether everything is there and everything can be done again.
async fn works(store: &Store) -> bool {
    let there = async {
        let session = store.session(key(1)).await?.is_some();
        let token = token_of(store.grant(account(1)).await?);
        let known = store.account(account(1)).await?.is_some();
        let listed =
            store.sessions_of(account(1)).await?.len() == 1 && store.sessions(None, 9).await?.len() == 1;
        store.put_session(key(2), &super::session(2, 0)).await?;
        store.end_session(key(2)).await?;
        store.healthy().await?;
        Ok::<_, Error>(session && known && listed && token.as_deref() == Some("kept"))
    };
    there.await.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_is_named_and_once_it_is_back_everything_goes_on() -> Outcome {
    let mut server = Server::plain()?;
    let settings = settings(&[&server], Topology::Single);
    let store = opened(&settings, &[1])?;
    furnished(&store).await?;
    for _ in 0..2 {
        server.kill()?;
        eventually("its absence is noticed", async || store.session(key(1)).await.is_err()).await?;
        for _ in 0..20 {
            let refused = store.session(key(1)).await;
            let text = refused.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(fault_of(refused), Some(ServerFault::Unreachable), "{text}");
            assert!(text.contains(&server.address().to_string()) && text.contains("start it"), "{text}");
            assert!(store.put_session(key(3), &session(3, 0)).await.is_err());
            assert!(store.healthy().await.is_err());
        }
        server.restart()?;
        eventually("everything goes on", async || works(&store).await).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up_in_time() -> Outcome {
    let server = Server::plain()?;
    let store = opened(&settings(&[&server], Topology::Single), &[1])?;
    furnished(&store).await?;
    server.signal("-STOP")?;
    let asked = tokio::time::timeout(PATIENCE, store.session(key(1))).await?;
    assert_eq!(fault_of(asked), Some(ServerFault::Silent));
    server.signal("-CONT")?;
    eventually("everything goes on", async || works(&store).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_dies_the_one_that_sentinel_names_is_asked() -> Outcome {
    let mut watched = Watched::start()?;
    let store = opened(&through_sentinels(&watched), &[1])?;
    let mut feed = store.feed()?;
    furnished(&store).await?;
    watched.replicated()?;
    assert_eq!(tokio::time::timeout(PATIENCE, feed.next()).await?, News::Gap);
    watched.servers[0].kill()?;
    eventually("the replica has taken over", async || works(&store).await).await?;
    // Who was told by the old master cannot know what it has missed.
    eventually("the gap is noticed", async || {
        matches!(tokio::time::timeout(PATIENCE, feed.next()).await, Ok(News::Gap))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_that_dies_and_comes_back_ends_nothing() -> Outcome {
    let mut cluster = Cluster::start()?;
    let store = opened(&of_a_cluster(&cluster), &[1])?;
    furnished(&store).await?;
    for number in 0..3 {
        cluster.nodes[number].kill()?;
        eventually("its absence is noticed", async || !works(&store).await).await?;
        // Never an answer that is none.
        assert_ne!(store.session(key(1)).await.ok(), Some(None));
        cluster.nodes[number].restart()?;
        cluster.is_whole()?;
        eventually("everything goes on", async || works(&store).await).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_is_refused_with_place_fault_and_cure() -> Outcome {
    let (server, _, ca) = redis::secured().map_err(|error| error.to_string())?;
    let plain = settings(&[&server], Topology::Single);
    let place = format!("rediss://{}", server.address());
    let password = |text: &str| Some(std::sync::Arc::new(teamgate::secret::Secret::new(text.to_owned())));
    let tls = |ca: &Vec<u8>| Some(Tls { ca: Some(vec![ca.clone()]) });
    let user = Some(redis::USER.to_owned());
    let (_, _, other_ca) = redis::secured().map_err(|error| error.to_string())?;
    for (settings, fault) in [
        (
            Settings {
                tls: tls(&ca),
                username: user.clone(),
                password: password("guessed"),
                ..plain.clone()
            },
            ServerFault::Login,
        ),
        (Settings { tls: tls(&ca), ..plain.clone() }, ServerFault::Login),
        (
            Settings {
                tls: tls(&ca),
                username: user.clone(),
                password: password(redis::PASSWORD),
                prefix: "elsewhere".into(),
                ..plain.clone()
            },
            ServerFault::Forbidden,
        ),
        (
            Settings {
                tls: tls(&other_ca),
                username: user.clone(),
                password: password(redis::PASSWORD),
                ..plain.clone()
            },
            ServerFault::Tls,
        ),
    ] {
        let (text, found) = refused(&settings)?;
        assert_eq!(found, fault, "{text}");
        assert!(text.starts_with(&place), "{text}");
        assert!(!text.contains("guessed") && !text.contains(redis::PASSWORD), "{text}");
    }
    let mut gone = Server::plain()?;
    gone.kill()?;
    let (text, found) = refused(&settings(&[&gone], Topology::Single))?;
    assert_eq!(found, ServerFault::Unreachable, "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_later_format_is_refused_and_left_as_it_is() -> Outcome {
    let server = Server::plain()?;
    let settings = settings(&[&server], Topology::Single);
    drop(opened(&settings, &[1])?);
    let meta = format!("{}:{{meta}}:meta", settings.prefix);
    assert_eq!(server.say(&format!("HSET {meta} format 2 version 9.1.0"))?, ":0");
    for _ in 0..2 {
        let error = opened(&settings, &[1]).err().ok_or("it was opened")?.downcast::<Error>()?;
        assert!(matches!(*error, Error::NewerFormat { found: 2, known: 1, .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("redis://127.0.0.1:") && text.contains("written by teamgate 9.1.0"),
            "{text}"
        );
    }
    Ok(())
}

/// A new key reaches one replica after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_under_a_key_to_come_is_not_taken_for_absent() -> Outcome {
    let server = Server::plain()?;
    let settings = settings(&[&server], Topology::Single);
    let late = opened(&settings, &[1])?;
    furnished(&late).await?;
    let early = opened(&settings, &[2, 1])?;
    assert!(early.session(key(1)).await?.is_some());
    assert_eq!(fault_of(late.session(key(1)).await), Some(ServerFault::UnknownKey));
    assert_eq!(fault_of(late.grant(account(1)).await), Some(ServerFault::UnknownKey));
    assert_eq!(fault_of(late.account(account(1)).await), Some(ServerFault::UnknownKey));
    // Nor is it swept away.
    let settings =
        teamgate::session::Settings { lifetime: Duration::from_secs(1000), idle: Duration::from_secs(1000) };
    assert_eq!(late.sweep(at(1), &settings).await?.sessions, 0);
    assert!(early.session(key(1)).await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_save_refuses_and_says_so() -> Outcome {
    let server = Server::plain()?;
    let store = opened(&settings(&[&server], Topology::Single), &[1])?;
    furnished(&store).await?;
    assert_eq!(server.say("CONFIG SET maxmemory 1")?, "+OK");
    assert_eq!(fault_of(store.put_session(key(2), &session(2, 0)).await), Some(ServerFault::MemoryFull));
    assert_eq!(fault_of(store.healthy().await), Some(ServerFault::MemoryFull));
    assert!(store.session(key(1)).await?.is_some(), "what it has, it gives");
    assert_eq!(server.say("CONFIG SET maxmemory 0")?, "+OK");
    eventually("everything goes on", async || works(&store).await).await
}

/// Every kind of news, heard by every other replica, and not by the one that made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_does_the_others_hear() -> Outcome {
    let mut server = Server::plain()?;
    let settings = settings(&[&server], Topology::Single);
    let (one, other) = (opened(&settings, &[1])?, opened(&settings, &[1])?);
    let mut own = one.feed()?;
    assert_eq!(tokio::time::timeout(PATIENCE, own.next()).await?, News::Gap);
    let mut feeds = [other.feed()?, opened(&settings, &[1])?.feed()?];
    for feed in &mut feeds {
        assert_eq!(
            tokio::time::timeout(PATIENCE, feed.next()).await?,
            News::Gap,
            "nobody knows what was before"
        );
    }
    furnished(&one).await?;
    one.put_session(key(2), &session(1, 0)).await?;
    one.end_session(key(1)).await?;
    one.end_account_sessions(account(1)).await?;
    one.delete_grant(account(1), None).await?;
    let keys = teamgate::keys::SigningKeys::first(at(0), teamgate::keys::Algorithm::Es256)?;
    one.put_signing_keys(&keys, teamgate::store::Version::ABSENT).await?;
    for feed in &mut feeds {
        for expected in [
            News::AccountChanged(account(1)),
            News::SessionsEnded(vec![key(1)]),
            News::SessionsEnded(vec![key(2)]),
            News::GrantForgotten(account(1)),
            News::KeysChanged,
        ] {
            assert_eq!(tokio::time::timeout(PATIENCE, feed.next()).await?, expected);
        }
    }
    // The first that its maker hears is another's.
    other.put_account(&person(2)).await?;
    assert_eq!(tokio::time::timeout(PATIENCE, own.next()).await?, News::AccountChanged(account(2)));
    assert_eq!(tokio::time::timeout(PATIENCE, feeds[1].next()).await?, News::AccountChanged(account(2)));
    server.kill()?;
    server.restart()?;
    for feed in &mut feeds {
        assert_eq!(tokio::time::timeout(PATIENCE, feed.next()).await?, News::Gap);
    }
    eventually("it is told again", async || one.end_session(key(9)).await.is_ok()).await?;
    for feed in &mut feeds {
        // One that was not there may be in somebody's memory all the same.
        assert_eq!(tokio::time::timeout(PATIENCE, feed.next()).await?, News::SessionsEnded(vec![key(9)]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_one_replicas_and_outlives_the_server() -> Outcome {
    let mut server = Server::plain()?;
    let settings = settings(&[&server], Topology::Single);
    let (one, other) = (opened(&settings, &[1])?, opened(&settings, &[1])?);
    let (task, span) = (Task::Requery(account(1)), Duration::from_secs(30));
    let Claim::Taken(lease) = one.take_lease(task, at(0), span).await? else { return Err("taken".into()) };
    assert_eq!(other.take_lease(task, at(1), span).await?, Claim::Held { until: at(30) });
    server.kill()?;
    server.restart()?;
    eventually("it is there again", async || other.healthy().await.is_ok()).await?;
    assert_eq!(other.take_lease(task, at(2), span).await?, Claim::Held { until: at(30) });
    eventually("the other connection, too", async || one.healthy().await.is_ok()).await?;
    assert!(one.renew_lease(&lease, at(3), span).await?.is_some());
    assert!(one.release_lease(&lease).await?);
    assert!(
        matches!(other.take_lease(task, at(4), span).await?, Claim::Taken(next) if next.fence > lease.fence)
    );
    Ok(())
}

/// Both make new keys in the same moment; one set of them counts, for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_rotate_signing_keys_at_once_end_up_with_the_same() -> Outcome {
    let server = Server::plain()?;
    let place = settings(&[&server], Topology::Single);
    let made = teamgate::assertion::Settings {
        header: http::HeaderName::from_static("x-teamgate-assertion"),
        issuer: "https://gate.example.com".into(),
        algorithm: teamgate::keys::Algorithm::Es256,
        lifetime: Duration::from_secs(300),
        rotate_every: Duration::from_secs(30 * 86_400),
        user_claim: teamgate::assertion::UserClaim::Uuid,
        parts: teamgate::assertion::TeamParts::Included,
    };
    let (folder, mut replicas) = (tempfile::tempdir()?, Vec::new());
    for _ in 0..3 {
        let telemetry = Telemetry::start(&telemetry::Settings {
            access: telemetry::Switch::Off,
            audit_file: Some(folder.path().join("audit")),
            ..telemetry::Settings::default()
        })?;
        let store = opened(&place, &[1])?;
        let entropy = teamgate::entropy::Entropy::system();
        replicas.push(Assertions::load(store, telemetry, entropy, &made, at(0)).await?);
    }
    let mut before = replicas[0].jwks();
    for day in [29, 30, 59, 60, 90, 120] {
        let now = at(day * 86_400);
        let rotated = replicas.iter().map(|replica| replica.rotate(&made, now));
        futures_util::future::try_join_all(rotated).await?;
        // Who lost the race has taken the winner's; who was first may have to look once more.
        futures_util::future::try_join_all(replicas.iter().map(|replica| replica.rotate(&made, now))).await?;
        let jwks: Vec<_> = replicas.iter().map(Assertions::jwks).collect();
        assert!(jwks.iter().all(|one| *one == jwks[0]), "day {day}");
        let early = replicas.iter().take(2).map(|replica| replica.rotate_early(&made, now));
        futures_util::future::try_join_all(early).await?;
        before = jwks[0].clone();
    }
    // In an emergency: none of the old ones is left anywhere.
    futures_util::future::try_join_all(replicas.iter().map(|replica| replica.distrust(&made, at(0)))).await?;
    futures_util::future::try_join_all(replicas.iter().map(|replica| replica.rotate(&made, at(0)))).await?;
    let jwks: Vec<_> = replicas.iter().map(Assertions::jwks).collect();
    assert!(jwks.iter().all(|one| *one == jwks[0] && *one != before));
    Ok(())
}
