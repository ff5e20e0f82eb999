//! Clients that ask for too much, hold on to what they have, or come too often: what they get, what the app sees
//! of it, and that nobody else suffers.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{
    Blunt, Browser, Checked, Config, PATIENCE, Request, Response, Setup, Wire, eventually, navigation, send,
};

/// Longer than any limit of these tests, and short enough to be waited for.
const A_WHILE: Duration = Duration::from_millis(900);

fn limits(keys: &str) -> Config {
    Config::default().top(&format!("limits: {{ {keys} }}"))
}

async fn connect(setup: &Setup) -> Checked<Wire> {
    Wire::connect(setup.gateway.address()).await
}

/// The access line of the one request with this path, once it is there.
async fn line(setup: &Setup, path: &str) -> Checked<serde_json::Value> {
    let found = || setup.gateway.access().into_iter().find(|line| line["path"] == path);
    eventually(&format!("the line of {path}"), async || Ok(found().is_some())).await?;
    found().ok_or_else(|| "it was there a moment ago".into())
}

/// The value of a series, as the operators see it.
async fn metric(setup: &Setup, series: &str) -> Checked<f64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| format!("no {series} in:\n{page}").into())
}

async fn counted(setup: &Setup, series: &str, expected: f64) -> Checked {
    eventually(&format!("{series} is {expected}"), async || Ok(metric(setup, series).await? == expected))
        .await
}

// ── what a request may carry

#[tokio::test]
async fn what_a_request_carries_is_bounded_by_the_configuration() -> Checked {
    let setup = Setup::with(limits("header_bytes: 2KiB, header_fields: 20, target_bytes: 1KiB")).await?;
    let field = |bytes: usize| format!("X: {}\r\n", "a".repeat(bytes));
    let target = |bytes: usize| format!("/public/{}", "a".repeat(bytes - "/public/".len()));
    let (short, long) = (target(1_024), target(1_025));
    let query = format!("/public?{}", "q".repeat(1_025));
    for (what, target, fields, status) in [
        ("a little", "/public", field(10), 200),
        ("much in the fields", "/public", field(1_900), 200),
        ("too much in the fields", "/public", field(2_100), 431),
        ("far too much", "/public", field(200_000), 431),
        ("many fields", "/public", "A: b\r\n".repeat(18), 200),
        ("too many fields", "/public", "A: b\r\n".repeat(20), 431),
        ("a long target", &short, String::new(), 200),
        ("a target that is too long", &long, String::new(), 414),
        ("a query that is too long", &query, String::new(), 414),
        ("a target without end", &target(200_000), String::new(), 414),
        ("too much of both", &long, field(2_100), 431),
    ] {
        let mut wire = connect(&setup).await?;
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        // The gateway may close before it has taken everything.
        let _ = wire.send(request.as_bytes()).await;
        let response = wire.response().await?;
        assert_eq!(response.status, status, "{what}");
        if status != 200 {
            assert_eq!(response.header("connection"), Some("close"), "{what}");
            assert_eq!(wire.rest().await?, b"", "{what}");
        }
    }
    assert_eq!(setup.upstream.received().len(), 4, "only what is allowed reaches the app");
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_too_long_has_a_page_and_a_problem() -> Checked {
    let setup = Setup::with(limits("target_bytes: 256B")).await?;
    let url = setup.url(&format!("/{}", "a".repeat(300)));
    let page = Browser::new().get(&url).await?;
    page.expect(414)?;
    assert!(page.text().contains("This address is too long"), "{}", page.text());
    let problem = send(&Request::get(&url)).await?;
    assert_eq!(problem.expect(414)?.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem.json()?["type"].as_str().map(|kind| kind.ends_with("target-too-long")), Some(true));
    Ok(())
}

// ── how long it may take

#[tokio::test]
async fn a_head_has_a_time_however_it_trickles() -> Checked {
    let setup = Setup::with(limits("header_timeout: 400ms")).await?;
    let mut wire = connect(&setup).await?;
    wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\nX: ").await?;
    let trickle = async {
        loop {
            tokio::select! {
                biased;
                answer = wire.response() => return answer,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            let _ = wire.send(b"a").await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, trickle).await??.status, 408);
    // The same for the second request of a connection; the pause before it does not count.
    let mut wire = connect(&setup).await?;
    wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert_eq!(wire.response().await?.status, 200);
    assert!(wire.is_silent_for(A_WHILE).await);
    wire.send(b"GET /public HTTP/1.1\r\n").await?;
    assert_eq!(wire.response().await?.status, 408);
    assert_eq!(setup.upstream.received().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_gets_408_and_its_app_is_let_go() -> Checked {
    let app = Blunt::start().await?;
    let config = limits("body_timeout: 300ms").route(&app.route("blunt"));
    let setup = Setup::with(config).await?;
    for (at, framing) in [
        ("/blunt/a", "Content-Length: 10\r\n\r\nhello"),
        ("/blunt/b", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ] {
        let mut wire = connect(&setup).await?;
        wire.send(format!("POST {at} HTTP/1.1\r\nHost: x\r\n{framing}").as_bytes()).await?;
        let answer = wire.response().await?;
        assert_eq!(answer.status, 408, "{at}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{at}");
        assert_eq!(answer.header("connection"), Some("close"), "{at}");
        assert_eq!(wire.rest().await?, b"", "{at}");
        let line = line(&setup, at).await?;
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&408.into(), &"the client stopped sending its body".into())
        );
        assert_eq!(line["upstream_error"], serde_json::Value::Null, "the app is not to blame");
    }
    eventually("the app's connections are closed", async || Ok(app.open() == 0)).await?;
    assert!(app.heard().iter().all(|heard| heard.ends_with("hello") || heard.ends_with("hello\r\n")));
    Ok(())
}

#[tokio::test]
async fn who_goes_on_is_not_cut_off_however_long_it_takes() -> Checked {
    let config = limits("body_timeout: 400ms, answer_timeout: 400ms, header_timeout: 400ms");
    let setup = Setup::with(config).await?;
    // A body in pieces that takes longer than the time for one silence.
    let mut wire = connect(&setup).await?;
    wire.send(b"POST /public HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n").await?;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        wire.send(b"a").await?;
    }
    assert_eq!(wire.response().await?.json()?["body"], "aaaaaaaaaaaa");
    // An answer that the app takes its time for.
    wire.send(b"GET /public/hold HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert!(wire.is_silent_for(A_WHILE).await);
    setup.upstream.release();
    assert_eq!(wire.response().await?.status, 200);
    // Events with nothing between them.
    let mut events = connect(&setup).await?;
    events.send(b"GET /public/sse HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").await?;
    events.head().await?;
    events.chunk().await?;
    assert!(events.is_silent_for(A_WHILE).await);
    setup.upstream.push("data: late\n\n");
    assert_eq!(events.chunk().await?, Some(b"data: late\n\n".to_vec()));
    // A WebSocket on which nobody says anything.
    let mut socket = connect(&setup).await?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    socket.send(format!("GET /public/websocket HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n").as_bytes()).await?;
    assert_eq!(socket.head().await?.status, 101);
    assert!(socket.is_silent_for(A_WHILE).await);
    socket.send(b"hello").await?;
    assert_eq!(socket.exactly(5).await?, b"hello");
    Ok(())
}

#[tokio::test]
async fn a_client_that_stops_taking_its_answer_lets_go_of_its_app() -> Checked {
    let app = Blunt::start().await?;
    app.floods("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", "x");
    let setup = Setup::with(limits("answer_timeout: 500ms").route(&app.route("blunt"))).await?;
    let mut wire = connect(&setup).await?;
    wire.send(b"GET /blunt/flood HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert_eq!(wire.head().await?.status, 200);
    let line = line(&setup, "/blunt/flood").await?;
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&200.into(), &"the client stopped taking its answer".into())
    );
    eventually("the app's connection is closed", async || Ok(app.open() == 0)).await
}

// ── how many connections

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() -> Checked {
    let setup = Setup::with(limits("connections: 3")).await?;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut wire = connect(&setup).await?;
        wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        assert_eq!(wire.response().await?.status, 200);
        kept.push(wire);
    }
    counted(&setup, "teamgate_connections", 3.0).await?;
    assert_eq!(connect(&setup).await?.rest().await?, b"");
    counted(&setup, r#"teamgate_connections_refused_total{reason="full"}"#, 1.0).await?;
    setup.gateway.logged("as many connections are open as there may be").await?;
    // Those that are open are not disturbed, and one that goes makes room.
    drop(kept.pop());
    counted(&setup, "teamgate_connections", 2.0).await?;
    for wire in &mut kept {
        wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        assert_eq!(wire.response().await?.status, 200);
    }
    send(&Request::get(&setup.url("/public"))).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn an_address_has_so_many_connections_unless_it_is_a_proxy_of_ours() -> Checked {
    let setup = Setup::with(limits("connections_per_address: 2")).await?;
    let kept = [connect(&setup).await?, connect(&setup).await?];
    assert_eq!(connect(&setup).await?.rest().await?, b"");
    counted(&setup, r#"teamgate_connections_refused_total{reason="address_full"}"#, 1.0).await?;
    drop(kept);

    let config = limits("connections_per_address: 2").top("trusted_proxies: [127.0.0.0/8]");
    let setup = Setup::with(config).await?;
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut wire = connect(&setup).await?;
        wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        assert_eq!(wire.response().await?.status, 200);
        kept.push(wire);
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_carries_so_many_requests_and_is_closed_in_good_order() -> Checked {
    let setup = Setup::with(limits("requests_per_connection: 3")).await?;
    let mut wire = connect(&setup).await?;
    for number in 1..=3 {
        wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let response = wire.response().await?;
        assert_eq!(response.status, 200);
        let closes = response.header("connection") == Some("close");
        assert_eq!(closes, number == 3, "{number}");
    }
    assert_eq!(wire.rest().await?, b"");
    Ok(())
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_a_while() -> Checked {
    let setup = Setup::with(limits("keep_alive: 1s, header_timeout: 500ms")).await?;
    let mut wire = connect(&setup).await?;
    wire.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert_eq!(wire.response().await?.status, 200);
    assert!(wire.is_silent_for(Duration::from_millis(600)).await, "not by the time for a head");
    assert_eq!(wire.rest().await?, b"");
    // Nor is one kept that never had a request.
    assert_eq!(connect(&setup).await?.rest().await?, b"");
    counted(&setup, "teamgate_connections", 0.0).await
}

// ── how often

/// A navigation by a proxy of ours for a client at `address`.
async fn visit(setup: &Setup, path: &str, address: &str) -> Checked<Response> {
    send(&navigation("GET", &setup.url(path), "none").header("X-Forwarded-For", address)).await
}

#[tokio::test]
async fn an_address_begins_so_many_sign_ins_and_then_waits() -> Checked {
    let config = limits("sign_ins: 3/h").top("trusted_proxies: [127.0.0.1]");
    let setup = Setup::with(config).await?;
    let one = "198.51.100.1";
    visit(&setup, "/", one).await?.expect(302)?;
    visit(&setup, "/.teamgate/login?rd=/deploy", one).await?.expect(302)?;
    visit(&setup, "/deploy", one).await?.expect(302)?;
    for path in ["/deploy", "/.teamgate/login"] {
        let page = visit(&setup, path, one).await?;
        page.expect(429)?;
        let wait: u64 = page.header("retry-after").ok_or("no Retry-After")?.parse()?;
        assert!((1..=1_200).contains(&wait), "{wait}");
        assert!(page.text().contains("Too many requests just now"), "{}", page.text());
        assert!(page.all("set-cookie").is_empty(), "{path}");
    }
    // Programs are told so in their way.
    let asked = Request::get(&setup.url("/.teamgate/login")).header("X-Forwarded-For", one);
    let problem = send(&asked).await?;
    assert_eq!(problem.expect(429)?.json()?["retry_after"].as_u64().map(|wait| wait <= 1_200), Some(true));
    // Nobody else waits: not the neighbour, not who is signed in, not what needs no sign-in.
    visit(&setup, "/", "198.51.100.2").await?.expect(302)?;
    visit(&setup, "/public", one).await?.expect(200)?;
    let told = send(&Request::get(&setup.url("/")).header("X-Forwarded-For", one)).await?;
    told.expect(401)?;
    counted(&setup, r#"teamgate_throttled_total{what="sign_in"}"#, 3.0).await?;
    setup.gateway.logged("198.51.100.1 is over its limit of sign_in").await?;
    Ok(())
}

#[tokio::test]
async fn all_addresses_of_a_network_of_ipv6_are_one() -> Checked {
    let config = limits("sign_ins: 1/h").top("trusted_proxies: [127.0.0.1]");
    let setup = Setup::with(config).await?;
    for (address, status) in [
        ("2001:db8:1:2::1", 302),
        ("2001:db8:1:2:ffff::9", 429),
        ("2001:db8:1:3::1", 302),
        ("::ffff:198.51.100.1", 302),
        ("198.51.100.1", 429),
    ] {
        assert_eq!(visit(&setup, "/", address).await?.status, status, "{address}");
    }
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_does_not_say_for_whom_it_asks_does_not_stand_for_one_client() -> Checked {
    let config = limits("sign_ins: 1/h, callbacks: 1/h").top("trusted_proxies: [127.0.0.1]");
    let setup = Setup::with(config).await?;
    for _ in 0..4 {
        let asked = navigation("GET", &setup.url("/"), "none");
        send(&asked).await?.expect(302)?;
        let back = navigation("GET", &setup.url("/.teamgate/callback?state=x&code=y"), "cross-site");
        send(&back).await?.expect(400)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_address_comes_back_so_often_and_nothing_is_lost_by_waiting() -> Checked {
    let setup = Setup::with(limits("callbacks: 2/s, sign_ins: none")).await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/lobby")).await?;
    let callback = browser.agree(&authorize, "ann").await?;
    // Somebody at the same address comes back with nonsense until the limit is reached.
    let nonsense = navigation("GET", &setup.url("/.teamgate/callback?state=x&code=y"), "cross-site");
    let mut coming = JoinSet::new();
    for _ in 0..50 {
        let nonsense = nonsense.clone();
        coming.spawn(async move { send(&nonsense).await });
    }
    let answers = coming.join_all().await.into_iter().collect::<Checked<Vec<Response>>>()?;
    assert!(answers.iter().all(|answer| matches!(answer.status, 400 | 429)));
    let refused =
        answers.iter().find(|answer| answer.status == 429).ok_or("fifty callbacks within a second")?;
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Whoever was held up signs in with the same address a moment later.
    let back = navigation("GET", &callback, "cross-site");
    eventually("the callback is taken", async || {
        let answer = browser.fetch(back.clone()).await?;
        assert!(matches!(answer.status, 302 | 429), "{}", answer.status);
        Ok(answer.status == 302)
    })
    .await?;
    browser.get(&setup.url("/lobby")).await?.expect(200)?;
    let failed = setup.gateway.audited("sign_in_failed").len();
    assert!(failed < 50, "what is refused is not put on record one by one");
    Ok(())
}

#[tokio::test]
async fn without_a_limit_there_is_none() -> Checked {
    let setup = Setup::with(limits("sign_ins: none, callbacks: none")).await?;
    let mut wire = connect(&setup).await?;
    let asked = navigation("GET", &setup.url("/"), "none").header("Connection", "keep-alive").bytes();
    // More than the default lets pass in a minute.
    for _ in 0..700 {
        wire.send(&asked).await?;
        assert_eq!(wire.response().await?.status, 302);
    }
    Ok(())
}
