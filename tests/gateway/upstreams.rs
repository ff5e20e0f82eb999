//! Which app gets a request, over which connection, and what happens when it does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{
    Authority, Checked, Config, Failure, Nginx, Request, Response, Setup, Upstream, Wire, eventually,
    free_address, send,
};

/// A public route at `/app` with these keys, besides those of [`Config::default`].
fn app(keys: &str) -> Config {
    Config::default().route(&format!("name: app, path: /app, access: public, {keys}"))
}

async fn get(setup: &Setup, path: &str) -> Checked<Response> {
    send(&Request::get(&setup.url(path))).await
}

/// The body of a GET that is answered with 200.
async fn says(setup: &Setup, path: &str) -> Checked<String> {
    Ok(get(setup, path).await?.expect(200)?.text())
}

/// The value of a series, once it is there.
async fn metric(setup: &Setup, series: &str) -> Checked<Option<String>> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    Ok(page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned)))
}

async fn until_metric(setup: &Setup, series: &str, value: &str) -> Checked {
    eventually(&format!("{series} is {value}"), async || {
        Ok(metric(setup, series).await?.as_deref() == Some(value))
    })
    .await
}

/// An app that reads a request and then does this with the connection, whatever was asked.
struct Rude {
    address: SocketAddr,
    heard: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// What a [`Rude`] app does once it has heard a head.
#[derive(Clone, Copy)]
enum Manner {
    /// It closes the connection.
    Closes,
    /// It says nothing, for ever.
    Stalls,
    /// It says this, byte for byte, and closes.
    Says(&'static [u8]),
    /// It says this and then a byte every now and then, for ever.
    Trickles(&'static [u8]),
}

impl Rude {
    async fn start(manner: Manner) -> Checked<Rude> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heard = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        let count = heard.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    count.fetch_add(1, Ordering::AcqRel);
                    match manner {
                        Manner::Closes => {}
                        Manner::Says(bytes) => {
                            let _ = stream.write_all(bytes).await;
                        }
                        Manner::Stalls => std::future::pending().await,
                        Manner::Trickles(bytes) => {
                            let _ = stream.write_all(bytes).await;
                            while stream.write_all(b"x").await.is_ok() {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Rude { address, heard, _serving: serving })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::Acquire)
    }
}

#[tokio::test]
async fn requests_are_shared_out_by_weight_exactly() -> Checked {
    let apps = [Nginx::saying("a").await?, Nginx::saying("b").await?, Nginx::saying("c").await?];
    let [a, b, c] = [apps[0].url(), apps[1].url(), apps[2].url()];
    let list =
        format!("upstreams: [{{ url: \"{a}\", weight: 30 }}, {{ url: \"{b}\", weight: 20 }}, \"{c}\"]");
    let setup = Setup::with(app(&list.replace("weight: 30", "weight: 3").replace("20", "2"))).await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..18 {
        *counts.entry(says(&setup, "/app").await?).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a".into(), 9), ("b".into(), 6), ("c".into(), 3)]));
    Ok(())
}

#[tokio::test]
async fn the_least_busy_upstream_is_next() -> Checked {
    let (held, idle) = (Upstream::start().await?, Upstream::start().await?);
    let keys = format!("balance: least-connections, upstreams: [\"{}\", \"{}\"]", held.url(), idle.url());
    let setup = Setup::with(app(&keys)).await?;
    let mut waiting = Wire::connect(setup.gateway.address()).await?;
    waiting.send(&Request::get(&setup.url("/app/hold")).bytes()).await?;
    let at = async || Ok(held.received().len() + idle.received().len() == 1);
    eventually("one request is under way", at).await?;
    let (busy, free) = if held.received().len() == 1 { (&held, &idle) } else { (&idle, &held) };
    for _ in 0..6 {
        get(&setup, "/app/quick").await?.expect(200)?;
    }
    assert_eq!((busy.received().len(), free.received().len()), (1, 6));
    busy.release();
    waiting.response().await?.expect(200)?;
    // Nothing is under way any more: both are asked again.
    eventually("both are asked", async || {
        get(&setup, "/app/quick").await?.expect(200)?;
        Ok(busy.received().len() > 1)
    })
    .await
}

#[tokio::test]
async fn an_account_stays_with_its_app_until_that_is_gone() -> Checked {
    let mut apps = Vec::new();
    for name in ["a", "b", "c"] {
        apps.push(Nginx::saying(name).await?);
    }
    let urls: Vec<String> = apps.iter().map(|app| format!("\"{}\"", app.url())).collect();
    // Where all five accounts happen to live on the one that goes, it would be left alone for longer than it is away.
    let upstreams = format!("ejection: {{ after: 0 }}, upstreams: [{}]", urls.join(", "));
    let config = Config::default()
        .top("trusted_proxies: [127.0.0.1/32]")
        .route(&format!("name: app, path: /app, access: signed-in, balance: account, {upstreams}"))
        .route(&format!("name: open, path: /open, access: public, balance: client-address, {upstreams}"));
    let setup = Setup::with(config).await?;
    let mut homes = BTreeMap::new();
    for user in ["ann", "ben", "cleo", "dan", "eve"] {
        let Ok(browser) = setup.signed_in(user).await else { continue };
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(browser.get(&setup.url("/app")).await?.expect(200)?.text());
        }
        assert_eq!(seen.len(), 1, "{user}: {seen:?}");
        homes.insert(user, (browser, seen.pop_first().unwrap_or_default()));
    }
    assert!(homes.len() >= 3);
    let gone = homes["ann"].1.clone();
    let place = ["a", "b", "c"].iter().position(|name| **name == gone).ok_or("nowhere")?;
    apps[place].kill()?;
    for (user, (browser, home)) in &homes {
        let now = browser.get(&setup.url("/app")).await?.expect(200)?.text();
        assert!(if *home == gone { now != gone } else { now == *home }, "{user}: {home} and now {now}");
    }
    apps[place].restart().await?;

    // Who has no account is known by the address that a proxy of ours gives.
    let mut seen = BTreeSet::new();
    for number in 0..24 {
        let request = Request::get(&setup.url("/open"))
            .header("X-Forwarded-For", &format!("203.0.113.{number}"))
            .header("X-Forwarded-Proto", "http");
        let first = send(&request).await?.expect(200)?.text();
        assert_eq!(send(&request).await?.expect(200)?.text(), first, "{number}");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
    Ok(())
}

/// Sends requests one after the other until it is told to stop; counts them.
async fn hammer(address: SocketAddr, requests: Vec<Request>, stop: Arc<AtomicBool>) -> Checked<usize> {
    let mut count = 0;
    let mut wire = Wire::connect(address).await?;
    while !stop.load(Ordering::Acquire) {
        let request = &requests[count % requests.len()];
        wire.send(&request.bytes()).await?;
        wire.response_to(&request.method).await?.expect(200)?;
        count += 1;
    }
    Ok(count)
}

#[tokio::test]
async fn an_app_that_is_killed_and_started_again_fails_no_request_that_may_be_repeated() -> Checked {
    let page = "server { listen @ADDRESS@; location / { return 200 ok; } }";
    let (steady, mut dying) = (Nginx::start(page).await?, Nginx::start(page).await?);
    let keys = format!(
        "upstreams: [\"{}\", \"{}\"], retries: 1, ejection: {{ after: 3, for: 1s }}",
        steady.url(),
        dying.url()
    );
    let setup = Setup::with(app(&keys)).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut hammers: JoinSet<Checked<usize>> = JoinSet::new();
    for _ in 0..4 {
        let lasting = |method| Request::new(method, &setup.url("/app")).header("Connection", "keep-alive");
        let requests = vec![lasting("GET"), lasting("HEAD"), lasting("PUT").body("x".repeat(3000))];
        hammers.spawn(hammer(setup.gateway.address(), requests, stop.clone()));
    }
    for _ in 0..3 {
        let before = dying.log()?.len();
        eventually("it gets requests", async || Ok(dying.log()?.len() > before + 20)).await?;
        dying.kill()?;
        let before = steady.log()?.len();
        eventually("the other does all the work", async || Ok(steady.log()?.len() > before + 100)).await?;
        dying.restart().await?;
    }
    stop.store(true, Ordering::Release);
    let mut total = 0;
    while let Some(ended) = hammers.join_next().await {
        total += ended??;
    }
    assert!(total > 300, "{total}");
    let failures: Vec<_> = setup.gateway.access().into_iter().filter(|line| line["status"] != 200).collect();
    assert_eq!(failures, [serde_json::Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_check_takes_an_upstream_out_and_brings_it_back() -> Checked {
    let page = "server { listen @ADDRESS@; \
                location = /well { if (-f @FOLDER@/ill) { return 503; } return 204; } \
                location / { return 200 @FOLDER@; } } \
                log_format lines '$request_uri $http_host $http_user_agent';";
    let apps = [Nginx::start(page).await?, Nginx::start(page).await?];
    let [first, second] = [apps[0].folder().display().to_string(), apps[1].folder().display().to_string()];
    // Known to be ill before the gateway starts.
    std::fs::write(apps[0].folder().join("ill"), "")?;
    let keys = format!(
        "upstreams: [\"{}\", \"{}\"], health_check: {{ path: /well, host: check.example, expect: 204, \
         interval: 100ms, healthy_after: 1, unhealthy_after: 2 }}",
        apps[0].url(),
        apps[1].url()
    );
    let setup = Setup::with(app(&keys)).await?;
    let series = |app: &Nginx| format!("teamgate_upstream_healthy{{upstream=\"{}\"}}", app.url());
    until_metric(&setup, &series(&apps[0]), "0").await?;
    for _ in 0..4 {
        assert_eq!(says(&setup, "/app").await?, second);
    }
    setup.gateway.logged("it answers 503").await?;

    std::fs::remove_file(apps[0].folder().join("ill"))?;
    std::fs::write(apps[1].folder().join("ill"), "")?;
    until_metric(&setup, &series(&apps[0]), "1").await?;
    until_metric(&setup, &series(&apps[1]), "0").await?;
    for _ in 0..4 {
        assert_eq!(says(&setup, "/app").await?, first);
    }
    setup.gateway.logged("an upstream is healthy again").await?;
    let log = apps[0].log()?;
    assert!(log.iter().any(|line| line == "/well check.example teamgate-health-check"), "{log:?}");

    // When nobody is well, everybody is tried: a check that is wrong must not be an outage.
    std::fs::write(apps[0].folder().join("ill"), "")?;
    until_metric(&setup, &series(&apps[0]), "0").await?;
    let seen = BTreeSet::from([says(&setup, "/app").await?, says(&setup, "/app").await?]);
    assert_eq!(seen, BTreeSet::from([first, second]));
    setup.gateway.logged("no upstream of an app is available").await?;
    Ok(())
}

#[tokio::test]
async fn a_check_may_be_a_connection() -> Checked {
    let mut apps = [Nginx::saying("a").await?, Nginx::saying("b").await?];
    let keys = format!(
        "upstreams: [\"{}\", \"{}\"], health_check: {{ tcp: true, interval: 100ms, unhealthy_after: 1 }}",
        apps[0].url(),
        apps[1].url()
    );
    let setup = Setup::with(app(&keys)).await?;
    apps[0].kill()?;
    let series = format!("teamgate_upstream_healthy{{upstream=\"{}\"}}", apps[0].url());
    until_metric(&setup, &series, "0").await?;
    setup.gateway.logged("ConnectRefused").await?;
    // Not even a POST meets it now, and none was tried in vain.
    for _ in 0..4 {
        let answer = send(&Request::new("POST", &setup.url("/app")).body("x")).await?;
        assert_eq!(answer.expect(200)?.text(), "b");
    }
    assert_eq!(metric(&setup, "teamgate_upstream_failures_total").await?, None);
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_left_alone_but_never_the_last() -> Checked {
    let (rude, good) = (Rude::start(Manner::Closes).await?, Upstream::start().await?);
    let ejection = "ejection: { after: 3, for: 1h }";
    let config = app(&format!("upstreams: [\"{}\", \"{}\"], {ejection}", rude.url(), good.url())).route(
        &format!("name: alone, path: /alone, access: public, upstream: \"{}\", {ejection}", rude.url()),
    );
    let setup = Setup::with(config).await?;
    for _ in 0..20 {
        get(&setup, "/app").await?.expect(200)?;
    }
    assert_eq!((rude.heard(), good.received().len()), (3, 20));
    let of_it = format!("{{upstream=\"{}\"}}", rude.url());
    until_metric(&setup, &format!("teamgate_upstream_ejections_total{of_it}"), "1").await?;
    until_metric(&setup, &format!("teamgate_upstream_retries_total{of_it}"), "3").await?;
    until_metric(&setup, &format!("teamgate_upstream_healthy{of_it}"), "0").await?;
    setup.gateway.logged("it is left alone for a while").await?;
    // Whoever has no other still tries it.
    for _ in 0..5 {
        get(&setup, "/alone").await?.expect(502)?;
    }
    assert_eq!(rude.heard(), 8);
    Ok(())
}

#[tokio::test]
async fn only_what_may_be_repeated_is() -> Checked {
    let (rude, good) = (Rude::start(Manner::Closes).await?, Upstream::start().await?);
    let list = format!("upstreams: [{{ url: \"{}\", weight: 100 }}, \"{}\"]", rude.url(), good.url());
    let config = app(&format!("{list}, ejection: {{ after: 0 }}")).route(&format!(
        "name: never, path: /never, access: public, {list}, ejection: {{ after: 0 }}, retries: 0"
    ));
    let setup = Setup::with(config).await?;
    for (method, path, body, status) in [
        ("GET", "/app", 0, 200),
        ("PUT", "/app", 5_000, 200),
        ("DELETE", "/app", 0, 200),
        ("OPTIONS", "/app", 0, 200),
        ("POST", "/app", 5, 502),
        ("PATCH", "/app", 5, 502),
        // More than is kept for another time.
        ("PUT", "/app", 200_000, 502),
        ("GET", "/never", 0, 502),
    ] {
        let (before, good_before) = (rude.heard(), good.received().len());
        let mut request = Request::new(method, &setup.url(path));
        if body > 0 {
            request = request.body("x".repeat(body));
        }
        let answer = send(&request).await?;
        answer.expect(status)?;
        assert_eq!(rude.heard() - before, 1, "{method} {path} {body}");
        let received = good.received();
        assert_eq!(received.len() - good_before, usize::from(status == 200), "{method} {path} {body}");
        if status == 200 {
            assert_eq!(received[good_before].body.len(), body, "{method} {path}");
        }
    }
    Ok(())
}

/// Nothing was sent, so nothing is repeated: any method, whatever `retries` says.
#[tokio::test]
async fn an_upstream_that_takes_no_connection_costs_a_request_nothing() -> Checked {
    let (good, closed) = (Upstream::start().await?, [free_address()?, free_address()?, free_address()?]);
    let mut list: Vec<String> = closed.iter().map(|address| format!("\"http://{address}\"")).collect();
    list.push(format!("\"{}\"", good.url()));
    let setup = Setup::with(app(&format!("retries: 0, upstreams: [{}]", list.join(", ")))).await?;
    for number in 0..8 {
        let body = "x".repeat(100_000);
        send(&Request::new("POST", &setup.url("/app")).body(body)).await?.expect(200)?;
        assert_eq!(good.received().len(), number + 1);
    }
    Ok(())
}

#[tokio::test]
async fn all_addresses_of_a_name_are_upstreams_and_one_that_refuses_is_passed_over() -> Checked {
    let good = Upstream::start().await?;
    // `localhost` is ::1 as well on most machines, where nobody listens.
    let config = app(&format!("upstream: \"http://localhost:{}\"", good.address().port()))
        .route("name: nowhere, path: /nowhere, access: public, upstream: \"http://nowhere.invalid\"");
    let setup = Setup::with(config).await?;
    for _ in 0..6 {
        send(&Request::new("POST", &setup.url("/app")).body("x")).await?.expect(200)?;
    }
    get(&setup, "/nowhere").await?.expect(502)?;
    let line = setup.gateway.logged("\"kind\":\"dns\"").await?;
    assert!(line.contains("http://nowhere.invalid"), "{line}");
    setup.gateway.logged("the name of an upstream cannot be resolved").await?;
    Ok(())
}

#[tokio::test]
async fn an_app_may_be_behind_a_unix_socket() -> Checked {
    let mut nginx = Nginx::start(
        "server { listen unix:@FOLDER@/nginx.sock; location / { return 200 \"$host $connection_requests\"; } }",
    )
    .await?;
    let keys = format!(
        "upstream: \"unix:{}\", upstream_timeouts: {{ keep_alive: 1m }}, \
         health_check: {{ path: /, interval: 100ms, unhealthy_after: 1 }}",
        nginx.socket().display()
    );
    let setup = Setup::with(app(&keys)).await?;
    assert_eq!(says(&setup, "/app").await?, "127.0.0.1 1");
    eventually("a connection is used again", async || Ok(says(&setup, "/app").await? == "127.0.0.1 2"))
        .await?;
    nginx.kill()?;
    get(&setup, "/app").await?.expect(502)?;
    nginx.restart().await?;
    assert_eq!(says(&setup, "/app").await?, "127.0.0.1 1");
    Ok(())
}

#[tokio::test]
async fn connections_are_used_again_for_as_long_as_a_route_says() -> Checked {
    let nginx = Nginx::saying("$connection").await?;
    let mut config = Config::default();
    for (name, timeouts) in [
        ("kept", "keep_alive: 1m"),
        // With time limits of our own, too: what watches over a connection lets go of it.
        ("watched", "keep_alive: 1m, header: 20s, total: 30s"),
        ("never", "keep_alive: 0s"),
    ] {
        config = config.route(&format!(
            "name: {name}, path: /{name}, access: public, upstream: \"{}\", upstream_timeouts: {{ {timeouts} }}",
            nginx.url()
        ));
    }
    let setup = Setup::with(config).await?;
    let used = async |path: &str| -> Checked<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for _ in 0..12 {
            used.insert(says(&setup, path).await?);
        }
        Ok(used)
    };
    // A connection is free again a moment after the answer: now and then the next request comes before that.
    let (kept, watched) = (used("/kept").await?, used("/watched").await?);
    assert!(kept.len() < 6 && watched.len() < 6, "{kept:?} {watched:?}");
    assert!(kept.intersection(&watched).next().is_some(), "{kept:?} {watched:?}");
    assert_eq!(used("/never").await?.len(), 12);
    Ok(())
}

#[tokio::test]
async fn no_more_connections_are_kept_than_the_configuration_says() -> Checked {
    let upstream = Upstream::start().await?;
    let keys = format!("upstream: \"{}\", upstream_timeouts: {{ keep_alive: 1m }}", upstream.url());
    let setup = Setup::with(app(&keys).top("kept_connections: 2")).await?;
    // Each thread keeps one at least, and one more for a moment.
    let threads = std::thread::available_parallelism()?.get();
    let many = 4 * threads;
    for round in 1..3 {
        upstream.hold();
        let mut waiting = Vec::new();
        for _ in 0..many {
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            wire.send(&Request::get(&setup.url("/app/hold")).bytes()).await?;
            waiting.push(wire);
        }
        eventually("all are under way", async || Ok(upstream.received().len() == many * round)).await?;
        upstream.release();
        for mut wire in waiting {
            wire.response().await?.expect(200)?;
        }
    }
    // All of the first round, and in the second at least those that were not kept.
    let opened = upstream.connections();
    assert!(opened >= many + (many - threads.max(2) - threads), "{opened} for {many} at once, twice");
    Ok(())
}

#[tokio::test]
async fn an_app_is_told_the_host_that_the_route_says() -> Checked {
    let nginx = Nginx::saying("$http_host $http_x_forwarded_host").await?;
    let url = nginx.url();
    let mut config = app(&format!("upstream: \"{url}\""));
    for (name, says) in [("kept", "keep"), ("own", "upstream"), ("fixed", "App.Example.com:81")] {
        config = config.route(&format!(
            "name: {name}, path: /{name}, access: public, upstream: \"{url}\", host_header: \"{says}\""
        ));
    }
    let setup = Setup::with(config).await?;
    let visited = setup.gateway.address();
    for (path, host) in [
        ("/app", visited.to_string()),
        ("/kept", visited.to_string()),
        ("/own", nginx.address().to_string()),
        ("/fixed", "app.example.com:81".to_owned()),
    ] {
        assert_eq!(says(&setup, path).await?, format!("{host} {visited}"), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn an_app_that_is_full_is_a_page_that_says_when_to_come_back() -> Checked {
    let upstream = Upstream::start().await?;
    let setup = Setup::with(app(&format!("upstream: \"{}\", max_connections: 2", upstream.url()))).await?;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&Request::get(&setup.url("/app/hold")).bytes()).await?;
        waiting.push(wire);
    }
    eventually("two are under way", async || Ok(upstream.received().len() == 2)).await?;
    let answer = get(&setup, "/app/quick").await?;
    assert_eq!(answer.expect(503)?.header("retry-after"), Some("1"));
    assert_eq!(upstream.received().len(), 2);
    upstream.release();
    for mut wire in waiting {
        wire.response().await?.expect(200)?;
    }
    eventually("there is room again", async || Ok(get(&setup, "/app/quick").await?.status == 200)).await
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_where_the_url_says_so() -> Checked {
    let nginx = Nginx::start(
        "server { listen @ADDRESS@ http2; location / { \
         return 200 \"$server_protocol $request_method $http_host $http_cookie\"; } }",
    )
    .await?;
    let setup = Setup::with(app(&format!(
        "upstream: \"h2c://{}\", health_check: {{ path: /, interval: 100ms }}",
        nginx.address()
    )))
    .await?;
    let host = setup.gateway.address();
    let request =
        Request::new("PUT", &setup.url("/app")).body("x").headers(&[("Cookie", "a=1"), ("Cookie", "b=2")]);
    for _ in 0..3 {
        assert_eq!(send(&request).await?.expect(200)?.text(), format!("HTTP/2.0 PUT {host} a=1; b=2"));
    }
    // An HTTP/2 connection becomes no tunnel.
    let socket = Request::get(&setup.url("/app"))
        .headers(&[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        .headers(&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
    send(&socket).await?.expect(502)?;
    setup.gateway.logged("websocket_over_http2").await?;
    Ok(())
}

/// nginx closes each connection after three requests, while others begin on it. What may be repeated gets through;
/// nothing else is done twice.
#[tokio::test]
async fn an_app_may_close_its_http_2_connections_at_any_time() -> Checked {
    let nginx = Nginx::start(
        "keepalive_requests 3; server { listen @ADDRESS@ http2; location / { return 200 \"$connection\"; } }",
    )
    .await?;
    let setup = Setup::with(app(&format!("upstream: \"h2c://{}\", retries: 5", nginx.address()))).await?;
    let mut sending: JoinSet<Checked<usize>> = JoinSet::new();
    for method in ["POST", "POST", "PUT", "PUT", "GET", "DELETE"] {
        let request = Request::new(method, &setup.url("/app"));
        let request = if method == "GET" { request } else { request.body("x") };
        sending.spawn(async move {
            let mut posted = 0;
            for _ in 0..10 {
                match send(&request).await? {
                    answer if method != "POST" => answer.expect(200).map(drop)?,
                    answer => posted += usize::from(answer.status == 200),
                }
            }
            Ok(posted)
        });
    }
    let mut posted = 0;
    while let Some(sent) = sending.join_next().await {
        posted += sent??;
    }
    let done =
        || -> Checked<usize> { Ok(nginx.log()?.iter().filter(|line| line.starts_with("POST")).count()) };
    // nginx writes the line when the answer is out.
    eventually("what was answered is in the log", async || Ok(done()? >= posted)).await?;
    assert!(done()? == posted && posted > 15, "{} done, {posted} answered", done()?);
    Ok(())
}

#[tokio::test]
async fn what_must_not_be_sent_twice_has_its_http_2_connection_to_itself() -> Checked {
    let behind = Upstream::start().await?;
    let nginx = Nginx::start(&format!(
        "server {{ listen @ADDRESS@ http2; location / {{ add_header X-Connection $connection; proxy_pass {}; }} }}",
        behind.url()
    ))
    .await?;
    let setup = Setup::with(app(&format!("upstream: \"h2c://{}\"", nginx.address()))).await?;
    // There is a connection that the next ones could share.
    send(&Request::new("POST", &setup.url("/app"))).await?.expect(200)?;
    let post = Request::new("POST", &setup.url("/app/hold"));
    let mut sending: JoinSet<Checked<Option<String>>> = JoinSet::new();
    for _ in 0..4 {
        let post = post.clone();
        sending.spawn(async move {
            Ok(send(&post).await?.expect(200)?.header("x-connection").map(str::to_owned))
        });
    }
    eventually("all are under way", async || Ok(behind.received().len() == 5)).await?;
    behind.release();
    let mut connections = BTreeSet::new();
    while let Some(sent) = sending.join_next().await {
        connections.insert(sent??.ok_or("no connection")?);
    }
    assert_eq!(connections.len(), 4, "{connections:?}");
    Ok(())
}

/// One that hangs takes the time of nobody else.
#[tokio::test]
async fn an_answer_that_does_not_begin_is_a_504_over_http_2_too() -> Checked {
    let rude = Rude::start(Manner::Stalls).await?;
    let nginx = Nginx::start(&format!(
        "server {{ listen @ADDRESS@ http2; location /app/slow {{ proxy_pass {}; }} location / {{ return 200 ok; }} }}",
        rude.url()
    ))
    .await?;
    let keys = format!("upstream: \"h2c://{}\", upstream_timeouts: {{ header: 500ms }}", nginx.address());
    let setup = Setup::with(app(&keys)).await?;
    assert_eq!(says(&setup, "/app/quick").await?, "ok");
    let slow = Request::get(&setup.url("/app/slow"));
    for request in [slow.clone(), slow.headers(&[EVENTS])] {
        let (slow, quick) = tokio::join!(send(&request), get(&setup, "/app/quick"));
        slow?.expect(504)?;
        quick?.expect(200)?;
    }
    Ok(())
}

/// A visitor of HTTP/2 who is signed in: the stream is one that can be ended from outside, and is read again.
#[tokio::test]
async fn a_request_over_http_2_is_sent_again_with_its_body() -> Checked {
    let (rude, good) = (Rude::start(Manner::Closes).await?, Upstream::start().await?);
    let config = Config::default().top("listen: [{ address: $LISTEN, h2c: true }]").route(&format!(
        "name: app, path: /app, access: signed-in, ejection: {{ after: 0 }}, upstreams: [\"{}\", \"{}\"]",
        rude.url(),
        good.url()
    ));
    let setup = Setup::with(config).await?;
    let browser = setup.signed_in("ben").await?;
    let cookie = browser.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    for number in 1..5 {
        let (url, cookie) = (setup.url("/app"), format!("Cookie: {cookie}"));
        let output = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args(["--silent", "--noproxy", "*", "--max-time", "30", "--http2-prior-knowledge"])
                .args(["--request", "PUT", "--data", "once more", "--header", &cookie, &url])
                .output()
        });
        let output = output.await?.map_err(|error| format!("curl: {error}; install the package curl"))?;
        let echo: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(echo["body"], "once more");
        assert_eq!(good.received().len(), number);
    }
    assert!(rude.heard() >= 2, "{}", rude.heard());
    Ok(())
}

const EVENTS: (&str, &str) = ("Accept", "text/event-stream");

#[tokio::test]
async fn an_app_that_never_begins_to_answer_is_a_504_whatever_was_asked_for() -> Checked {
    let rude = Rude::start(Manner::Stalls).await?;
    let keys =
        format!("upstream: \"{}\", upstream_timeouts: {{ header: 300ms, idle: 1m }}, retries: 5", rude.url());
    let setup = Setup::with(app(&keys)).await?;
    let plain = Request::get(&setup.url("/app"));
    let socket = plain
        .clone()
        .headers(&[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        .headers(&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
    let grpc = Request::new("POST", &setup.url("/app")).header("Content-Type", "application/x").body("x");
    for request in [plain.clone(), plain.headers(&[EVENTS]), socket, grpc] {
        let answer = send(&request).await?;
        answer.expect(504)?;
        let id = answer.header("x-request-id").ok_or("no request id")?.to_owned();
        let line = setup.gateway.logged(&id).await?;
        assert!(line.contains("header_timeout") && line.contains(&rude.url()), "{line}");
    }
    // Whoever waits has waited enough: nobody is asked twice.
    assert_eq!(rude.heard(), 4);
    Ok(())
}

/// The time for the header begins when the request is sent whole.
#[tokio::test]
async fn a_slow_upload_is_no_fault_of_the_app() -> Checked {
    let upstream = Upstream::start().await?;
    let keys = format!("upstream: \"{}\", upstream_timeouts: {{ header: 400ms, idle: 1m }}", upstream.url());
    let setup = Setup::with(app(&keys)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let head = format!("PUT /app HTTP/1.1\r\nHost: {}\r\nContent-Length: 6\r\n\r\n", setup.gateway.address());
    wire.send(head.as_bytes()).await?;
    for byte in b"slowly" {
        assert!(wire.is_silent_for(Duration::from_millis(150)).await);
        wire.send(&[*byte]).await?;
    }
    assert_eq!(wire.response().await?.expect(200)?.json()?["body"], "slowly");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_does_not_end_in_time_is_cut_unless_it_is_a_stream() -> Checked {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let rude = Rude::start(Manner::Trickles(head)).await?;
    let keys = format!("upstream: \"{}\", upstream_timeouts: {{ total: 500ms }}", rude.url());
    let setup = Setup::with(app(&keys)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&Request::get(&setup.url("/app")).bytes()).await?;
    wire.head().await?.expect(200)?;
    // Its end was that of the connection: it must not look as if it had come.
    assert!(!wire.rest().await?.ends_with(b"0\r\n\r\n"));
    let line = setup.gateway.logged("total_timeout").await?;
    assert!(line.contains(&rude.url()), "{line}");

    let mut stream = Wire::connect(setup.gateway.address()).await?;
    stream.send(&Request::get(&setup.url("/app")).headers(&[EVENTS]).bytes()).await?;
    stream.head().await?.expect(200)?;
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        stream.exactly(4).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_that_names_the_upstream_that_was_asked() -> Checked {
    let large: &'static [u8] = Box::leak(
        format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(70_000))
            .into_bytes()
            .into(),
    );
    let many: &'static [u8] =
        Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Many: x\r\n".repeat(300)).into_bytes().into());
    let endless: &'static [u8] =
        Box::leak(format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(2_000_000)).into_bytes().into());
    for (what, kind) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "garbage"),
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "garbage"),
        (large, "garbage"),
        (many, "garbage"),
        (endless, "garbage"),
    ] {
        let (rude, other) = (Rude::start(Manner::Says(what)).await?, free_address()?);
        let keys = format!("retries: 0, upstreams: [\"{}\", \"http://{other}\"]", rude.url());
        let setup = Setup::with(app(&keys)).await?;
        let answer = get(&setup, "/app").await?;
        answer.expect(502)?;
        let id = answer.header("x-request-id").ok_or("no request id")?.to_owned();
        let line = setup.gateway.logged(&id).await?;
        assert!(line.contains(&format!("\"kind\":\"{kind}\"")), "{line}");
        assert!(line.contains(&rude.url()) && !line.contains(&other.to_string()), "{line}");
        assert!(!answer.text().contains(&rude.address.to_string()));
    }
    Ok(())
}

/// The files that nginx wants, and the route's.
fn put(authority: &Authority, folder: &std::path::Path, name: &str) -> Checked {
    let (certificate, key) = authority.issue(name)?;
    std::fs::copy(certificate, folder.join("app.pem"))?;
    std::fs::copy(key, folder.join("app.key"))?;
    std::fs::copy(authority.certificate(), folder.join("ca.pem"))?;
    Ok::<(), Failure>(())
}

#[tokio::test]
async fn an_app_whose_certificate_nobody_vouches_for_gets_no_request() -> Checked {
    let authority = Authority::new()?;
    let nginx = Nginx::start_with(
        "server { listen @ADDRESS@ ssl; ssl_certificate app.pem; ssl_certificate_key app.key;\n\
         location / { return 200 secret; } }",
        |folder| put(&authority, folder, "DNS:localhost"),
    )
    .await?;
    let port = nginx.address().port();
    let setup = Setup::with(app(&format!("upstream: \"https://localhost:{port}\""))).await?;
    get(&setup, "/app").await?.expect(502)?;
    let line = setup.gateway.logged("\"kind\":\"tls\"").await?;
    assert!(line.contains(&format!("https://localhost:{port} (")), "{line}");
    assert_eq!(nginx.log()?, [""; 0]);
    Ok(())
}

/// An app that speaks TLS with a certificate of its own authority, for `app.internal`, and wants to know who calls.
async fn guarded(authority: &Authority, listen: &str) -> Checked<Nginx> {
    let servers = format!(
        "server {{ listen @ADDRESS@ ssl {listen}; ssl_certificate app.pem; ssl_certificate_key app.key;\n\
         ssl_client_certificate ca.pem; ssl_verify_client on;\n\
         location / {{ return 200 \"$server_protocol $ssl_server_name $ssl_client_verify $connection\"; }} }}"
    );
    Nginx::start_with(&servers, |folder| put(authority, folder, "DNS:app.internal")).await
}

#[tokio::test]
async fn an_app_with_an_authority_of_its_own_learns_who_is_calling() -> Checked {
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let (cert, key) = authority.issue("DNS:gateway.internal")?;
    let nginx = guarded(&authority, "http2").await?;
    let url = format!("https://localhost:{}", nginx.address().port());
    let ca = authority.certificate();
    let full = format!(
        "ca: \"{}\", server_name: app.internal, cert: \"{}\", key: \"{}\"",
        ca.display(),
        cert.display(),
        key.display()
    );
    let (other_ca, other_cert) = (stranger.certificate(), stranger.issue("DNS:gateway.internal")?);
    let mut config = Config::default();
    for (name, version, tls) in [
        ("full", "auto", full.clone()),
        ("one", "h1", full.clone()),
        ("two", "h2", full.clone()),
        ("nobody", "auto", format!("ca: \"{}\", server_name: app.internal", ca.display())),
        ("misnamed", "auto", full.replace("app.internal", "other.internal")),
        ("unnamed", "auto", full.replace("server_name: app.internal, ", "")),
        ("distrusted", "auto", full.replace(&ca.display().to_string(), &other_ca.display().to_string())),
        (
            "unknown",
            "auto",
            full.replace(&cert.display().to_string(), &other_cert.0.display().to_string())
                .replace(&key.display().to_string(), &other_cert.1.display().to_string()),
        ),
    ] {
        config = config.route(&format!(
            "name: {name}, path: /{name}, access: public, upstream: \"{url}\", http_version: {version}, \
             health_check: {{ path: /, interval: 1h }}, upstream_tls: {{ {tls} }}"
        ));
    }
    let setup = Setup::with(config).await?;
    for (path, protocol) in [("/full", "HTTP/2.0"), ("/one", "HTTP/1.1"), ("/two", "HTTP/2.0")] {
        let said = says(&setup, path).await?;
        assert!(said.starts_with(&format!("{protocol} app.internal SUCCESS ")), "{path}: {said}");
    }
    // Whoever trusts somebody else, or shows something else, gets no connection of those who do not.
    for path in ["/misnamed", "/unnamed", "/distrusted"] {
        get(&setup, path).await?.expect(502)?;
        setup.gateway.logged(&format!("\"route\":\"{}\"", &path[1..])).await?;
    }
    for path in ["/nobody", "/unknown"] {
        let answer = get(&setup, path).await?;
        // nginx says it in HTTP, or in the handshake.
        assert!(matches!(answer.status, 400 | 502), "{path}: {}", answer.text());
    }
    let log = nginx.log()?;
    assert!(
        log.iter().all(|line| !["misnamed", "unnamed", "distrusted"].iter().any(|name| line.contains(name))),
        "{log:?}"
    );
    // A WebSocket goes over HTTP/1.1, whatever else is agreed on.
    let socket = Request::get(&setup.url("/full"))
        .headers(&[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        .headers(&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
    let said = send(&socket).await?.expect(200)?.text();
    assert!(said.starts_with("HTTP/1.1 app.internal SUCCESS "), "{said}");
    Ok(())
}
