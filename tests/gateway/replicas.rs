//! Three replicas on one Redis: what one does counts for all, at once, and what one asks all know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitbucket_sim::Permission;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::streaming::{App, echoed, echoes};
use crate::support::replicas::{Replica, Replicas};
use crate::support::{Browser, Checked, Config, PATIENCE, Request, eventually, send};

/// Never asked again in the background; `/strict` wants an answer that is younger than a second.
fn on_demand() -> Config {
    Config::default().bitbucket("teams: [acme]").routes(
        "- { name: wiki, path: /, teams: [acme], upstream: $UPSTREAM }\n\
         - { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }\n\
         - { name: strict, path: /strict, teams: [acme], max_age: 1s, upstream: $UPSTREAM }",
    )
}

fn with_sockets(app: &App) -> Config {
    let route = format!("name: ws, path: /ws, access: signed-in, upstream: \"http://{}\"", app.address);
    Config::default().route(&route)
}

async fn socket(replica: &Replica, browser: &Browser) -> Checked<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(replica.address).await?;
    let mut request = format!("ws://{}/ws", replica.address).into_client_request()?;
    let cookie = browser.cookie_header(&replica.url("/"))?.unwrap_or_default();
    request.headers_mut().append("Cookie", cookie.parse()?);
    let (mut socket, _) = timeout(PATIENCE, client_async(request, stream)).await??;
    echoed(&mut socket, Message::text("hello")).await?;
    Ok(socket)
}

/// How long it takes until a request with this browser's session gets 401, from `since`.
async fn gone_after(replica: &Replica, browser: &Browser, since: Instant) -> Checked<Duration> {
    while browser.script(&replica.url("/lobby")).await?.status == 200 {
        if since.elapsed() > PATIENCE {
            return Err("it stays signed in".into());
        }
    }
    browser.script(&replica.url("/lobby")).await?.expect(401)?;
    Ok(since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "what was measured is for whoever runs it with --nocapture")]
async fn who_signs_in_at_one_is_known_to_all_and_who_signs_out_at_one_is_nobodys() -> Checked {
    let (app, _) = echoes().await?;
    let replicas = Replicas::start(with_sockets(&app)).await?;
    let [a, b, c] = replicas.all.as_slice() else { return Err("three".into()) };
    let mut took = Vec::new();
    for round in 0..10 {
        let browser = replicas.signed_in("ann").await?;
        let other = replicas.signed_in("ann").await?;
        let authorized = replicas.simulator.count("authorize");
        for replica in [a, b, c] {
            browser.script(&replica.url("/lobby")).await?.expect(200)?;
            other.script(&replica.url("/lobby")).await?.expect(200)?;
        }
        assert_eq!(replicas.simulator.count("authorize"), authorized, "known at once, without Bitbucket");
        let mut sockets = [socket(a, &browser).await?, socket(b, &browser).await?];
        let mut others = socket(b, &other).await?;

        // The cookie is forgotten by the browser that signs out; a thief's copy is not.
        let copy = Browser::new();
        copy.plant("teamgate", &browser.session()?);
        browser.post(&c.url("/.teamgate/logout"), &[]).await?.expect(200)?;
        let since = Instant::now();
        let (one, two) = tokio::join!(gone_after(a, &copy, since), gone_after(b, &copy, since));
        took.extend([one?, two?]);
        for socket in &mut sockets {
            match timeout(PATIENCE, socket.next()).await? {
                Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1008, "{round}"),
                other => return Err(format!("no last word but {other:?}").into()),
            }
        }
        // Nobody else is signed out.
        echoed(&mut others, Message::text("still here")).await?;
        other.script(&a.url("/lobby")).await?.expect(200)?;
    }
    took.sort_unstable();
    // Without news it would be the 20 s until what was used is held against the store.
    assert!(took[took.len() / 2] < Duration::from_secs(10), "{took:?}");
    println!(
        "gone at the other replicas after {:?} (median), {:?} (longest of {})",
        took[took.len() / 2],
        took[took.len() - 1],
        took.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_an_operator_ends_at_one_is_over_at_all() -> Checked {
    let replicas = Replicas::start(Config::default()).await?;
    let [a, b, c] = replicas.all.as_slice() else { return Err("three".into()) };
    let (ann, ben) = (replicas.signed_in("ann").await?, replicas.signed_in("ben").await?);
    for replica in [a, b, c] {
        ann.script(&replica.url("/lobby")).await?.expect(200)?;
        ben.script(&replica.url("/lobby")).await?.expect(200)?;
    }
    let account = ann.script(&a.url("/.teamgate/userinfo")).await?.json()?["account"].clone();
    let account = account.as_str().ok_or("no account")?.to_owned();
    let url = b.gateway.admin_url(&format!("/api/sessions?account=%7B{account}%7D"));
    send(&Request::new("DELETE", &url)).await?.expect(200)?;
    for replica in [a, b, c] {
        eventually("she is nobody there", async || {
            Ok(ann.script(&replica.url("/lobby")).await?.status == 401)
        })
        .await?;
        ben.script(&replica.url("/lobby")).await?.expect(200)?;
    }
    // Only where it was done, and once.
    assert_eq!(b.gateway.audited("sessions_ended").len(), 1);
    assert!(a.gateway.audited("sessions_ended").is_empty() && c.gateway.audited("sessions_ended").is_empty());
    // And she may come back, everywhere.
    let again = replicas.signed_in("ann").await?;
    for replica in [a, b, c] {
        again.script(&replica.url("/lobby")).await?.expect(200)?;
    }
    Ok(())
}

// With threads of its own, so that a thousand clients do not keep the pretend Bitbucket waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_requests_over_three_replicas_at_the_tokens_end_refresh_it_once() -> Checked {
    let replicas = Arc::new(Replicas::start(on_demand()).await?);
    let ben = replicas.signed_in("ben").await?;
    for replica in &replicas.all {
        ben.script(&replica.url("/lobby")).await?.expect(200)?;
    }
    for round in 0..3 {
        // Time has to pass for a membership to age; there is nothing to await.
        sleep(Duration::from_millis(1_100)).await;
        replicas.simulator.with(|world| {
            world.expire_access_tokens();
            world.clear_requests();
        });
        let requests = (0..1_000).map(|number| {
            let (replicas, ben) = (replicas.clone(), ben.clone());
            tokio::spawn(
                async move { replicas.balanced(&ben, "/strict", number).await?.expect(200).map(|_| ()) },
            )
        });
        for outcome in join_all(requests).await {
            outcome??;
        }
        assert_eq!(replicas.simulator.count("token.refresh"), 1, "round {round}");
    }
    for replica in &replicas.all {
        assert!(replica.gateway.audited("sessions_ended").is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_asked_the_others_know_without_asking() -> Checked {
    let replicas = Replicas::start(on_demand()).await?;
    let [a, b, c] = replicas.all.as_slice() else { return Err("three".into()) };
    let ben = replicas.signed_in("ben").await?;
    for replica in [a, b, c] {
        ben.script(&replica.url("/")).await?.expect(200)?;
    }
    for (member, status) in [(false, 403), (true, 200)] {
        replicas.simulator.with(|world| match member {
            false => world.remove_member("ben", "acme"),
            true => world.add_member("ben", "acme", Permission::Member, false),
        })?;
        replicas.simulator.clear_requests();
        // Nobody asks for `/`, which believes an hour; A asks for `/strict`.
        eventually("it has aged and A has asked", async || {
            Ok(ben.script(&a.url("/strict")).await?.status == status)
        })
        .await?;
        let asked = replicas.simulator.requests().len();
        for replica in [b, c] {
            eventually("the others know", async || Ok(ben.script(&replica.url("/")).await?.status == status))
                .await?;
        }
        assert_eq!(replicas.simulator.requests().len(), asked, "they have not asked");
    }
    // Who found it out has it on record, the others have not.
    assert_eq!(a.gateway.recorded("membership_changed", 2).await?.len(), 2);
    assert!(b.gateway.audited("membership_changed").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sign_with_the_same_keys_and_all_drop_one_that_is_distrusted() -> Checked {
    let replicas = Replicas::start(Config::default()).await?;
    let jwks = async |replica: &Replica| -> Checked<String> {
        Ok(send(&Request::get(&replica.url("/.teamgate/jwks.json"))).await?.expect(200)?.text())
    };
    let before = jwks(&replicas.all[0]).await?;
    for replica in &replicas.all {
        assert_eq!(jwks(replica).await?, before);
    }
    let url = replicas.all[1].gateway.admin_url("/api/keys/signing?now=true&why=lost");
    send(&Request::new("POST", &url)).await?.expect(200)?;
    let after = jwks(&replicas.all[1]).await?;
    assert_ne!(after, before);
    for replica in &replicas.all {
        eventually("it has the new key only", async || Ok(jwks(replica).await? == after)).await?;
    }
    Ok(())
}

/// Asks over and over, at whichever replica is in rotation, until told to stop. What did not go well is kept.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(replicas: &Arc<Replicas>, browsers: &[Browser]) -> Load {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let workers = browsers.iter().enumerate().map(|(first, browser)| {
            let (replicas, browser) = (replicas.clone(), browser.clone());
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                let (mut wrong, mut number) = (Vec::new(), first);
                while !stop.load(Ordering::Acquire) {
                    number += 1;
                    match replicas.balanced(&browser, "/lobby", number).await {
                        Ok(response) if response.status == 200 => {
                            served.fetch_add(1, Ordering::AcqRel);
                        }
                        Ok(response) => wrong.push(format!("{} {}", response.url, response.status)),
                        Err(error) => wrong.push(error.to_string()),
                    }
                    tokio::task::yield_now().await;
                }
                wrong
            })
        });
        Load { workers: workers.collect(), stop, served }
    }

    /// Waits until `more` requests were served from now on.
    async fn served(&self, more: usize) -> Checked {
        let wanted = self.served.load(Ordering::Acquire) + more;
        eventually("more is served", async || Ok(self.served.load(Ordering::Acquire) >= wanted)).await
    }

    async fn end(self) -> Checked<Vec<String>> {
        self.stop.store(true, Ordering::Release);
        Ok(join_all(self.workers).await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_request_and_signs_nobody_out() -> Checked {
    let mut replicas = Replicas::start(Config::default()).await?;
    let mut browsers = Vec::new();
    for user in ["ann", "ben", "ann", "ben"] {
        browsers.push(replicas.signed_in(user).await?);
    }
    let authorized = replicas.simulator.count("authorize");
    let mut wrong = Vec::new();
    for number in 0..3 {
        // The balancer takes one out; the others serve while it restarts.
        let shared = Arc::new(replicas);
        let load = Load::begin(&shared, &browsers);
        load.served(20).await?;
        shared.take_out(number).await?;
        load.served(20).await?;
        shared.all[number].gateway.signal_term()?;
        load.served(50).await?;
        wrong.extend(load.end().await?);
        replicas = Arc::into_inner(shared).ok_or("somebody still asks")?;
        assert_eq!(replicas.all[number].gateway.process().exit_code().await?, 0);
        replicas.all[number].gateway.restart().await?;
        replicas.put_back(number);
        let shared = Arc::new(replicas);
        let load = Load::begin(&shared, &browsers);
        load.served(50).await?;
        wrong.extend(load.end().await?);
        replicas = Arc::into_inner(shared).ok_or("somebody still asks")?;
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(replicas.simulator.count("authorize"), authorized, "nobody signed in again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_signs_nobody_out_and_when_it_is_back_all_goes_on() -> Checked {
    let mut replicas = Replicas::start(Config::default()).await?;
    let mut browsers = Vec::new();
    for user in ["ann", "ben", "ann"] {
        browsers.push(replicas.signed_in(user).await?);
    }
    let late = replicas.signed_in("ben").await?;
    // In memory at every replica; the late one's only where it signed in.
    for replica in &replicas.all {
        for browser in &browsers {
            browser.script(&replica.url("/lobby")).await?.expect(200)?;
        }
    }
    let authorized = replicas.simulator.count("authorize");
    for round in 0..2 {
        replicas.redis.kill()?;
        let shared = Arc::new(replicas);
        let load = Load::begin(&shared, &browsers);
        let [a, b, c] = shared.all.as_slice() else { return Err("three".into()) };
        load.served(100).await?;
        for replica in [a, b, c] {
            eventually("readiness says it", async || {
                let ready = send(&Request::get(&replica.gateway.admin_url("/readyz"))).await?;
                Ok(ready.status == 503 && ready.text().contains("redis://") && ready.text().contains("store"))
            })
            .await?;
        }
        if round == 0 {
            // Needs the store, and nobody can say: no sign-in page.
            let page = late.get(&b.url("/lobby")).await?;
            page.expect(503)?;
            assert!(page.header("retry-after").is_some() && page.header("location").is_none());
            late.script(&c.url("/lobby")).await?.expect(503)?;
        }
        load.served(100).await?;
        let wrong = load.end().await?;
        assert!(wrong.is_empty(), "{wrong:?}");
        replicas = Arc::into_inner(shared).ok_or("somebody still asks")?;
        replicas.redis.restart()?;
        for replica in &replicas.all {
            eventually("it is ready again", async || {
                Ok(send(&Request::get(&replica.gateway.admin_url("/readyz"))).await?.status == 200)
            })
            .await?;
            late.script(&replica.url("/lobby")).await?.expect(200)?;
            for browser in &browsers {
                browser.script(&replica.url("/lobby")).await?.expect(200)?;
            }
        }
    }
    assert_eq!(replicas.simulator.count("authorize"), authorized, "nobody signed in again");
    // Whoever is ended now is over everywhere: the news are read again.
    let copy = Browser::new();
    copy.plant("teamgate", &late.session()?);
    late.post(&replicas.all[2].url("/.teamgate/logout"), &[]).await?.expect(200)?;
    for replica in &replicas.all {
        gone_after(replica, &copy, Instant::now()).await?;
    }
    Ok(())
}

/// What was said while nobody could hear it: a session that ends while a replica has lost its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "what was measured is for whoever runs it with --nocapture")]
async fn what_a_replica_has_missed_it_makes_good_when_the_connection_is_back() -> Checked {
    let replicas = Replicas::start(Config::default()).await?;
    let [a, b, _] = replicas.all.as_slice() else { return Err("three".into()) };
    let ann = replicas.signed_in("ann").await?;
    for replica in [a, b] {
        ann.script(&replica.url("/lobby")).await?.expect(200)?;
    }
    // The session goes without a word, as a failover that loses the word would have it, and every connection breaks.
    let keys = replicas.redis.list("KEYS teamgate:{*}:sessions")?;
    for key in &keys {
        replicas.redis.say(&format!("DEL {key}"))?;
    }
    assert!(!keys.is_empty());
    ann.script(&a.url("/lobby")).await?.expect(200)?;
    replicas.redis.say("CLIENT KILL TYPE normal SKIPME yes")?;
    let since = Instant::now();
    let (one, two) = tokio::join!(gone_after(a, &ann, since), gone_after(b, &ann, since));
    let (one, two) = (one?, two?);
    println!("made good {one:?} and {two:?} after the connections broke");
    // Without a look at everything it would be the 20 s until what was used is held against the store.
    assert!(one.min(two) < Duration::from_secs(10), "{one:?} {two:?}");
    Ok(())
}
