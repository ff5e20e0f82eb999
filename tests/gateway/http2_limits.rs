//! The limits of `limits.rs` over HTTP/2, where many requests share a connection: one that stalls or asks for too
//! much ends alone, and what is aimed at the connection ends the connection.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Blunt, Checked, Config, PATIENCE, Setup, eventually};

const A_WHILE: Duration = Duration::from_millis(900);

/// A gateway that takes HTTP/2 without TLS.
async fn gateway(limits: &str, routes: &[String]) -> Checked<Setup> {
    let mut config = Config::default()
        .top("listen: [{ address: $LISTEN, h2c: true }]")
        .top(&format!("limits: {{ {limits} }}"));
    for route in routes {
        config = config.route(route);
    }
    Setup::with(config).await
}

/// A connection: where requests go, and how it ended.
struct Connection {
    requests: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

async fn connect(setup: &Setup) -> Checked<Connection> {
    let stream = TcpStream::connect(setup.gateway.address()).await?;
    let (requests, connection) = timeout(PATIENCE, h2::client::handshake(stream)).await??;
    Ok(Connection { requests, ended: tokio::spawn(connection) })
}

impl Connection {
    async fn begin(
        &mut self,
        method: Method,
        path: &str,
        fields: HeaderMap,
        whole: bool,
    ) -> Checked<(ResponseFuture, SendStream<Bytes>)> {
        let mut request = http::Request::builder().method(method).uri(format!("http://x{path}")).body(())?;
        *request.headers_mut() = fields;
        let mut ready = timeout(PATIENCE, self.requests.clone().ready()).await??;
        Ok(ready.send_request(request, whole)?)
    }

    /// A GET and the status of its answer.
    async fn get(&mut self, path: &str) -> Checked<StatusCode> {
        let (response, _) = self.begin(Method::GET, path, HeaderMap::new(), true).await?;
        let response = timeout(PATIENCE, response).await??;
        let status = response.status();
        read(response.into_body()).await?;
        Ok(status)
    }

    /// Waits for the end and says what it was.
    async fn end(self) -> Checked<Result<(), h2::Error>> {
        let Connection { requests, ended } = self;
        let ended = timeout(PATIENCE, ended).await??;
        drop(requests);
        Ok(ended)
    }
}

async fn read(mut body: RecvStream) -> Checked<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(data) = timeout(PATIENCE, body.data()).await? {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn line(setup: &Setup, path: &str) -> Checked<serde_json::Value> {
    let found = || setup.gateway.access().into_iter().find(|line| line["path"] == path);
    eventually(&format!("the line of {path}"), async || Ok(found().is_some())).await?;
    found().ok_or_else(|| "it was there a moment ago".into())
}

#[tokio::test]
async fn a_body_that_stops_gets_408_and_the_others_go_on() -> Checked {
    let app = Blunt::start().await?;
    let setup = gateway("body_timeout: 300ms", &[app.route("blunt")]).await?;
    let mut connection = connect(&setup).await?;
    let (stalled, mut body) =
        connection.begin(Method::POST, "/blunt/stalled", HeaderMap::new(), false).await?;
    body.send_data(Bytes::from_static(b"hello"), false)?;
    let answer = timeout(PATIENCE, stalled).await??;
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(String::from_utf8_lossy(&read(answer.into_body()).await?).contains("request-timeout"));
    let line = line(&setup, "/blunt/stalled").await?;
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&408.into(), &"the client stopped sending its body".into())
    );
    eventually("the app is let go", async || Ok(app.open() == 0)).await?;
    assert_eq!(connection.get("/public").await?, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_body_may_pause_while_it_is_answered_and_no_longer() -> Checked {
    let app = Blunt::start().await?;
    app.answers_in_two("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst", "after");
    let setup = gateway("body_timeout: 300ms", &[app.route("blunt")]).await?;
    let mut connection = connect(&setup).await?;
    let (answer, mut body) = connection.begin(Method::POST, "/blunt/pause", HeaderMap::new(), false).await?;
    body.send_data(Bytes::from_static(b"hello"), false)?;
    let mut answer = timeout(PATIENCE, answer).await??.into_body();
    assert_eq!(timeout(PATIENCE, answer.data()).await?.ok_or("an end")??, Bytes::from_static(b"first"));
    assert!(timeout(A_WHILE, answer.data()).await.is_err(), "neither more nor an end");
    app.go_on().await?;
    assert_eq!(read(answer).await?, b"after");
    // Now there is nothing to wait for, and nobody is waited for.
    eventually("the app is let go", async || Ok(app.open() == 0)).await?;
    assert_eq!(connection.get("/public").await?, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_ended_and_the_others_go_on() -> Checked {
    let app = Blunt::start().await?;
    app.floods("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", "x");
    let setup = gateway("answer_timeout: 400ms", &[app.route("blunt")]).await?;
    let mut connection = connect(&setup).await?;
    let (answer, _) = connection.begin(Method::GET, "/blunt/flood", HeaderMap::new(), true).await?;
    let answer = timeout(PATIENCE, answer).await??;
    let line = line(&setup, "/blunt/flood").await?;
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&200.into(), &"the client stopped taking its answer".into())
    );
    eventually("the app is let go", async || Ok(app.open() == 0)).await?;
    assert!(read(answer.into_body()).await.is_err(), "it is not taken for a whole answer");
    Ok(())
}

#[tokio::test]
async fn what_a_request_carries_is_bounded_as_in_http_1() -> Checked {
    let setup = gateway("header_bytes: 2KiB, header_fields: 20, target_bytes: 1KiB", &[]).await?;
    let mut connection = connect(&setup).await?;
    let one = |bytes: usize| -> Checked<HeaderMap> {
        Ok(HeaderMap::from_iter([(http::HeaderName::from_static("x"), "a".repeat(bytes).parse()?)]))
    };
    let many = |count: usize| -> Checked<HeaderMap> {
        let name = |at: usize| format!("x-{at}").parse::<http::HeaderName>();
        (0..count).map(|at| Ok((name(at)?, "y".parse()?))).collect()
    };
    let target = |bytes: usize| format!("/public/{}", "a".repeat(bytes - "/public/".len()));
    for (what, path, fields, status) in [
        ("a little", "/public", one(10)?, 200),
        ("too much in the fields", "/public", one(2_100)?, 431),
        ("far too much", "/public", one(12_000)?, 431),
        ("many fields", "/public", many(18)?, 200),
        ("too many fields", "/public", many(21)?, 431),
        ("a long target", &target(1_024), HeaderMap::new(), 200),
        ("a target that is too long", &target(1_025), HeaderMap::new(), 414),
    ] {
        let (answer, _) = connection.begin(Method::GET, path, fields, true).await?;
        let answer = timeout(PATIENCE, answer).await??;
        assert_eq!(answer.status().as_u16(), status, "{what}");
    }
    assert_eq!(setup.upstream.received().len(), 3, "only what is allowed reaches the app");
    Ok(())
}

#[tokio::test]
async fn a_connection_has_so_many_streams_at_once() -> Checked {
    let setup = gateway("http2_streams: 3", &[]).await?;
    let mut connection = connect(&setup).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connection.begin(Method::GET, "/public/hold", HeaderMap::new(), true).await?);
    }
    eventually("the gateway has said how many", async || {
        Ok(connection.requests.current_max_send_streams() == 3)
    })
    .await?;
    // The fourth waits at the client, as it was told to.
    let fourth = connection.begin(Method::GET, "/public/fourth", HeaderMap::new(), true).await?;
    assert!(timeout(Duration::from_millis(300), fourth.0).await.is_err());
    assert!(setup.upstream.received_at("/public/fourth").is_empty());
    setup.upstream.release();
    for (answer, _) in held {
        assert_eq!(timeout(PATIENCE, answer).await??.status(), StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_carries_so_many_requests_and_is_closed_in_good_order() -> Checked {
    let setup = gateway("requests_per_connection: 4", &[]).await?;
    let mut connection = connect(&setup).await?;
    // One that takes its time is not cut off by the last.
    let (held, _) = connection.begin(Method::GET, "/public/hold", HeaderMap::new(), true).await?;
    for number in 2..=4 {
        assert_eq!(connection.get("/public").await?, StatusCode::OK, "{number}");
    }
    // Looked at, not tried: a request on its way when the connection is closed would end it in a reset.
    eventually("no more are taken", async || Ok(connection.requests.clone().ready().await.is_err())).await?;
    setup.upstream.release();
    assert_eq!(timeout(PATIENCE, held).await??.status(), StatusCode::OK);
    assert!(connection.end().await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_a_while() -> Checked {
    let setup = gateway("keep_alive: 1s, header_timeout: 500ms", &[]).await?;
    let mut used = connect(&setup).await?;
    assert_eq!(used.get("/public").await?, StatusCode::OK);
    assert!(!used.ended.is_finished());
    let _ = used.end().await?;
    // One that never has a request gets as long as a head of HTTP/1.1.
    let _ = connect(&setup).await?.end().await?;
    Ok(())
}

/// CVE-2023-44487: a request that is taken back costs its client nothing, and the gateway and the app a lot.
#[tokio::test]
async fn a_flood_of_requests_that_are_taken_back_ends_with_its_connection() -> Checked {
    let setup = gateway("requests_per_connection: 200, http2_streams: 50", &[]).await?;
    let mut connection = connect(&setup).await?;
    let mut begun = 0;
    while begun < 5_000 {
        match connection.begin(Method::GET, "/public/hold", HeaderMap::new(), true).await {
            Ok((_, mut stream)) => {
                // Let it go out, or it would be taken back before it was sent.
                tokio::time::sleep(Duration::from_micros(200)).await;
                stream.send_reset(Reason::CANCEL);
            }
            Err(_) => break,
        }
        begun += 1;
    }
    assert!(begun < 5_000, "it goes on for ever");
    assert!(setup.upstream.received().len() <= 250, "{}", setup.upstream.received().len());
    let _ = connection.end().await?;
    eventually("nothing is left of it", async || {
        let page =
            crate::support::send(&crate::support::Request::get(&setup.gateway.admin_url("/metrics"))).await?;
        Ok(page.text().contains("\nteamgate_requests_in_flight 0\n")
            && page.text().contains("\nteamgate_connections 0\n"))
    })
    .await?;
    // And nobody else was hurt.
    setup.upstream.release();
    assert_eq!(connect(&setup).await?.get("/public").await?, StatusCode::OK);
    Ok(())
}
