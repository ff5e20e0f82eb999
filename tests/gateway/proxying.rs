//! What apps and clients see of each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Browser, Checked, Config, Request, Response, Setup, Wire, eventually, free_address};

/// A request that leaves its connection open.
fn lasting(method: &str, url: &str) -> Request {
    Request::new(method, url).header("Connection", "keep-alive")
}

async fn exchange(wire: &mut Wire, request: &Request) -> Checked<Response> {
    wire.send(&request.bytes()).await?;
    wire.response_to(&request.method).await
}

/// Bytes that are no text and do not repeat where a chunk ends.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// A body in chunks of `size`.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn one_connection_carries_many_requests_to_us_and_to_the_app() -> Checked {
    let setup = Setup::new().await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    for number in 0..10 {
        let target = format!("/public/{number}");
        let response = exchange(&mut wire, &lasting("GET", &setup.url(&target))).await?;
        assert_eq!(response.expect(200)?.json()?["target"], target);
        let response = exchange(&mut wire, &lasting("POST", &setup.url(&target)).body("a=1")).await?;
        assert_eq!(response.expect(200)?.json()?["body"], "a=1");
        // Answers of our own leave it open, too.
        exchange(&mut wire, &lasting("GET", &setup.url("/wiki"))).await?.expect(401)?;
        exchange(&mut wire, &lasting("GET", &setup.url("/.teamgate/userinfo"))).await?.expect(401)?;
    }
    let used: BTreeSet<usize> = setup.upstream.received().iter().map(|request| request.connection).collect();
    assert!(used.len() < 5, "20 requests on {} connections", used.len());
    Ok(())
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_in_both_directions() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    for (target, length) in [("/none", 0), ("/one", 1), ("/some", 70_000), ("/much", 5 * 1024 * 1024)] {
        let body = noise(length);
        let request = Request::new("PUT", &setup.url(target)).body(body.clone());
        ben.fetch(request).await?.expect(200)?;
        let received = setup.upstream.received_at(target);
        let [request] = received.as_slice() else {
            return Err(format!("{target}: {} requests", received.len()).into());
        };
        assert!(request.body == body, "{target}");
        assert_eq!(request.all("content-length"), [length.to_string()], "{target}");

        let in_chunks = format!("{target}-in-chunks");
        let request = Request::new("PUT", &setup.url(&in_chunks)).header("Transfer-Encoding", "chunked");
        ben.fetch(request.body(chunked(&body, 1_000))).await?.expect(200)?;
        let received = setup.upstream.received_at(&in_chunks);
        let [request] = received.as_slice() else {
            return Err(format!("{in_chunks}: {} requests", received.len()).into());
        };
        assert!(request.body == body, "{in_chunks}");
        assert_eq!(request.all("content-length"), [""; 0], "{in_chunks}");

        let down = format!("/down{target}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        setup.upstream.script(&down, [answer, body.clone()].concat());
        let response = ben.fetch(Request::get(&setup.url(&down))).await?;
        assert!(response.expect(200)?.body == body, "{down}");

        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        setup.upstream.script(&down, [answer, chunked(&body, 3_000)].concat());
        let response = ben.fetch(Request::get(&setup.url(&down))).await?;
        assert!(response.expect(200)?.body == body, "{down} in chunks");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_arrives_whole() -> Checked {
    let setup = Setup::new().await?;
    let body = noise(200_000);
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    setup.upstream.script("/public/old", [answer, body.clone()].concat());
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let response = exchange(&mut wire, &lasting("GET", &setup.url("/public/old"))).await?;
    assert!(response.expect(200)?.body == body);
    Ok(())
}

#[tokio::test]
async fn an_answer_without_a_body_has_none_and_the_next_one_is_not_taken_for_it() -> Checked {
    let setup = Setup::new().await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    for (method, target, status, length) in [
        ("HEAD", "/public/big/1000", 200, Some("1000")),
        ("GET", "/public/status/204", 204, None),
        ("GET", "/public/status/304", 304, Some("3")),
        ("HEAD", "/public/status/404", 404, Some("3")),
        ("HEAD", "/wiki", 401, None),
        ("HEAD", "/.teamgate/", 200, None),
        ("HEAD", "/public/chunked", 200, None),
        ("POST", "/public/status/201", 201, Some("3")),
    ] {
        if target == "/public/chunked" {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            setup.upstream.script(target, head);
        }
        let mut request = lasting(method, &setup.url(target));
        if method == "POST" {
            request = request.body("");
        }
        let response = exchange(&mut wire, &request).await?;
        response.expect(status).map_err(|error| format!("{method} {target}: {error}"))?;
        if let Some(length) = length {
            assert_eq!(response.header("content-length"), Some(length), "{method} {target}");
        }
        let next = exchange(&mut wire, &lasting("GET", &setup.url("/public/next"))).await?;
        assert_eq!(next.expect(200)?.json()?["target"], "/public/next", "after {method} {target}");
    }
    Ok(())
}

/// An app that answers each connection with `answer`, as soon as the head of a request is there.
async fn blunt_app(answer: &'static [u8]) -> Checked<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = stream.write_all(answer).await;
                // Until the gateway goes away.
                while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_client_that_waits_for_a_go_ahead_gets_the_apps() -> Checked {
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let address = app.local_addr()?;
    let config = Config::default()
        .route(&format!("name: up, path: /up, access: public, upstream: \"http://{address}\""));
    let setup = Setup::with(config).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let request = Request::new("POST", &setup.url("/up"))
        .headers(&[("Expect", "100-continue"), ("Content-Length", "5")]);
    wire.send(&request.bytes()).await?;

    let (mut stream, _) = app.accept().await?;
    let mut heard = Vec::new();
    while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut heard).await? > 0);
    }
    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    assert_eq!(wire.head().await?.status, 100);
    wire.send(b"hello").await?;
    while !heard.ends_with(b"hello") {
        assert!(stream.read_buf(&mut heard).await? > 0);
    }
    stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n").await?;
    let hints = wire.head().await?;
    assert_eq!((hints.status, hints.header("link")), (103, Some("</style.css>")));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    assert_eq!(wire.response().await?.expect(200)?.body, b"ok");
    Ok(())
}

#[tokio::test]
async fn the_apps_headers_pass_and_those_of_its_connection_do_not() -> Checked {
    let setup = Setup::new().await?;
    setup.upstream.script(
        "/public/headers",
        "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1; Path=/\r\nset-cookie: b=2; HttpOnly\r\nSet-Cookie: a=3\r\n\
         X-Custom-Name: Werté\r\nServer: app/1.0\r\nETag: \"x\"\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\
         Connection: keep-alive, X-Hop, x-other-hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-Other-Hop: 1\r\n\
         Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nX-Request-Id: the-apps-own\r\n\r\nok"
            .as_bytes(),
    );
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let response = exchange(&mut wire, &lasting("GET", &setup.url("/public/headers"))).await?;
    assert_eq!(response.expect(200)?.body, b"ok");
    assert_eq!(response.all("set-cookie"), ["a=1; Path=/", "b=2; HttpOnly", "a=3"]);
    for (name, value) in
        [("x-custom-name", "Werté"), ("server", "app/1.0"), ("etag", "\"x\""), ("content-type", "text/plain")]
    {
        assert_eq!(response.all(name), [value], "{name}");
    }
    for name in
        ["keep-alive", "x-hop", "x-other-hop", "proxy-authenticate", "proxy-connection", "transfer-encoding"]
    {
        assert_eq!(response.all(name), [""; 0], "{name}");
    }
    let received = setup.upstream.received_at("/public/headers");
    // One request, one name, for the app, the client and the log.
    assert_eq!(response.all("x-request-id"), received[0].all("x-request-id"));
    Ok(())
}

#[tokio::test]
async fn an_answer_to_somebody_signed_in_is_theirs_alone() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    for (said, signed_in) in [
        ("", "private"),
        ("Cache-Control: public, max-age=60\r\n", "private, max-age=60"),
        ("Cache-Control: max-age=60, s-maxage=90\r\n", "private, max-age=60"),
        ("Cache-Control: no-store\r\n", "no-store"),
        ("Cache-Control: Private, max-age=5\r\n", "Private, max-age=5"),
        (
            "Cache-Control: no-cache\r\nCache-Control: must-revalidate\r\n",
            "private, no-cache, must-revalidate",
        ),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{said}Vary: Accept\r\nContent-Length: 2\r\n\r\nok");
        setup.upstream.script("/page", answer.clone());
        setup.upstream.script("/public/page", answer);
        let response = ben.get(&setup.url("/page")).await?;
        assert_eq!(response.expect(200)?.all("cache-control").join(" | "), signed_in, "{said}");
        assert_eq!(response.all("vary").join(", "), "Accept, Cookie", "{said}");

        let public = ben.get(&setup.url("/public/page")).await?;
        let own: Vec<&str> =
            said.lines().filter_map(|line| line.split_once(": ")).map(|(_, value)| value).collect();
        assert_eq!(public.expect(200)?.all("cache-control"), own, "{said}");
        assert_eq!(public.all("vary"), ["Accept"], "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_app_learns_who_asks_where_and_how() -> Checked {
    let setup = Setup::new().await?;
    let port = setup.gateway.address().port();
    let authority = format!("127.0.0.1:{port}");
    let response = Browser::new().get(&setup.url("/public/where?x=%2F&y")).await?;
    assert_eq!(response.expect(200)?.json()?["target"], "/public/where?x=%2F&y");
    for (name, value) in [
        ("host", authority.clone()),
        ("x-forwarded-for", "127.0.0.1".to_owned()),
        ("x-forwarded-proto", "http".to_owned()),
        ("x-forwarded-host", authority.clone()),
        ("x-forwarded-port", port.to_string()),
        ("forwarded", format!("for=127.0.0.1;host=\"{authority}\";proto=http")),
    ] {
        assert_eq!(response.echoed_all(name)?, [value], "{name}");
    }
    let id = response.echoed("x-request-id")?.ok_or("no X-Request-Id")?;
    assert_eq!(response.echoed_all("traceparent")?, [format!("00-{id}-{}-00", &id[..16])]);
    assert_eq!(response.all("x-request-id"), [id.as_str()]);
    for name in ["connection", "keep-alive", "te", "upgrade", "x-teamgate-assertion", "x-forwarded-user"] {
        assert_eq!(response.echoed_all(name)?, [""; 0], "{name}");
    }
    eventually("the access line is written", async || {
        Ok(setup.gateway.access().iter().any(|line| line["request_id"] == id.as_str()))
    })
    .await
}

#[tokio::test]
async fn a_host_arrives_as_it_was_asked_for() -> Checked {
    let setup = Setup::new().await?;
    for (asked, told) in [
        ("wiki.example.com", "wiki.example.com"),
        ("Wiki.Example.com", "wiki.example.com"),
        ("wiki.example.com.:8443", "wiki.example.com:8443"),
        ("[::1]:81", "[::1]:81"),
    ] {
        let response =
            Browser::new().fetch(Request::get(&setup.url("/public/a")).header("Host", asked)).await?;
        response.expect(200)?;
        assert_eq!(response.echoed_all("host")?, [told], "{asked}");
        assert_eq!(response.echoed_all("x-forwarded-host")?, [told], "{asked}");
    }
    Ok(())
}

/// What a client says of itself, and what it would like the app to believe.
const FORWARDED: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6, 203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "1"),
    ("Forwarded", "for=6.6.6.6"),
    ("X-Request-Id", "an-id-of-the-proxy"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "vendor=1"),
];

#[tokio::test]
async fn what_anybody_forwards_is_not_believed() -> Checked {
    let setup = Setup::new().await?;
    let response = Browser::new().fetch(Request::get(&setup.url("/public/a")).headers(FORWARDED)).await?;
    let authority = format!("127.0.0.1:{}", setup.gateway.address().port());
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", &authority),
        ("forwarded", &format!("for=127.0.0.1;host=\"{authority}\";proto=http")),
    ] {
        assert_eq!(response.expect(200)?.echoed_all(name)?, [value], "{name}");
    }
    assert_ne!(response.echoed("x-request-id")?.as_deref(), Some("an-id-of-the-proxy"));
    assert!(!response.text().contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(response.echoed_all("tracestate")?, [""; 0]);
    eventually("the access line names the other end", async || {
        Ok(setup
            .gateway
            .access()
            .iter()
            .any(|line| line["path"] == "/public/a" && line["client"] == "127.0.0.1"))
    })
    .await
}

#[tokio::test]
async fn what_a_proxy_of_ours_forwards_is_passed_on() -> Checked {
    let setup = Setup::with(Config::default().top("trusted_proxies: [127.0.0.0/8]")).await?;
    let response = Browser::new().fetch(Request::get(&setup.url("/public/a")).headers(FORWARDED)).await?;
    let authority = format!("127.0.0.1:{}", setup.gateway.address().port());
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6, 203.0.113.7, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", &authority),
        ("forwarded", &format!("for=203.0.113.7;host=\"{authority}\";proto=https")),
        ("x-request-id", "an-id-of-the-proxy"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
    ] {
        assert_eq!(response.expect(200)?.echoed_all(name)?, [value], "{name}");
    }
    eventually("the access line names the client", async || {
        Ok(setup.gateway.access().iter().any(|line| line["client"] == "203.0.113.7"))
    })
    .await
}

/// What may be known of an app that failed: nothing that leads to it.
fn keeps_the_secret(response: &Response, address: SocketAddr) -> Checked {
    let text = format!("{:?} {}", response.headers, response.text());
    for secret in [address.to_string(), address.port().to_string(), "ingora".to_owned()] {
        if text.contains(&secret) {
            return Err(format!("`{secret}` stands in {text}").into());
        }
    }
    Ok(())
}

async fn fails(setup: &Setup, path: &str, address: SocketAddr, status: u16, kinds: &[&str]) -> Checked {
    let browser = Browser::new();
    let page = browser.get(&setup.url(path)).await?;
    page.expect(status)?;
    keeps_the_secret(&page, address)?;
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");

    let json = browser.fetch(Request::get(&setup.url(path)).header("Accept", "application/json")).await?;
    json.expect(status)?;
    keeps_the_secret(&json, address)?;
    assert_eq!(json.header("content-type"), Some("application/problem+json"));
    assert_eq!(json.header("cache-control"), Some("no-store"));

    for response in [&page, &json] {
        let id = response.header("x-request-id").ok_or("no X-Request-Id")?.to_owned();
        assert!(response.text().contains(&id), "the request's name is missing in {}", response.text());
        eventually("log and access line say what happened", async || {
            let said = |line: &Value| line["request_id"] == id.as_str();
            let log = setup.gateway.log().into_iter().find(said);
            let access = setup.gateway.access().into_iter().find(said);
            let (Some(log), Some(access)) = (log, access) else { return Ok(false) };
            assert_eq!(
                log["upstream"],
                format!("{}://{address}", if path == "/tls" { "https" } else { "http" }),
                "{log}"
            );
            assert_eq!(log["level"].as_str().map(str::to_lowercase).as_deref(), Some("warn"), "{log}");
            let kind = access["upstream_error"].as_str().unwrap_or("nothing");
            assert!(kinds.contains(&kind), "{path}: {kind}");
            assert_eq!(access["status"], status);
            Ok(true)
        })
        .await?;
    }
    Ok(())
}

fn route_to(name: &str, address: SocketAddr) -> String {
    format!("name: {name}, path: /{name}, access: public, upstream: \"http://{address}\"")
}

#[tokio::test]
async fn an_app_that_is_not_there_is_a_page_that_does_not_say_where_it_would_be() -> Checked {
    let closed = free_address()?;
    let setup = Setup::with(Config::default().route(&route_to("down", closed))).await?;
    fails(&setup, "/down", closed, 502, &["connect_refused"]).await
}

#[tokio::test]
async fn an_app_that_breaks_off_or_talks_nonsense_is_a_page() -> Checked {
    let garbage = blunt_app(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await?;
    let lengths = blunt_app(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!").await?;
    let unasked =
        blunt_app(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            .await?;
    let config = Config::default()
        .route(&route_to("garbage", garbage))
        .route(&route_to("lengths", lengths))
        .route(&route_to("unasked", unasked));
    let setup = Setup::with(config).await?;
    fails(&setup, "/public/drop", setup.upstream.address(), 502, &["closed"]).await?;
    fails(&setup, "/garbage", garbage, 502, &["garbage"]).await?;
    fails(&setup, "/lengths", lengths, 502, &["garbage"]).await?;
    fails(&setup, "/unasked", unasked, 502, &["garbage"]).await
}

#[tokio::test]
async fn an_app_that_takes_too_long_is_a_page() -> Checked {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?;
    let config = Config::default().top("upstream_timeouts: { header: 1s }").route(&route_to("slow", address));
    let setup = Setup::with(config).await?;
    // Nobody accepts: the system takes the connection and the request, and nothing comes back.
    fails(&setup, "/slow", address, 504, &["header_timeout"]).await
}

#[tokio::test]
async fn an_app_whose_certificate_nobody_vouches_for_gets_nothing() -> Checked {
    let folder = tempfile::tempdir()?;
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output();
    let server = match made {
        Ok(output) if output.status.success() => Some(impostor(folder.path())?),
        // Without the tool one of two stands in: a server that speaks no TLS at all.
        _ => None,
    };
    let address = match &server {
        Some((address, _)) => *address,
        None => blunt_app(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?,
    };
    let route = format!("name: tls, path: /tls, access: public, upstream: \"https://{address}\"");
    let setup = Setup::with(Config::default().route(&route)).await?;
    fails(&setup, "/tls", address, 502, &["tls"]).await?;
    if let Some((_, heard)) = server {
        let heard = heard.lock().map_err(|_| "the server failed")?;
        assert_eq!(String::from_utf8_lossy(&heard), "", "the app with a bad certificate got a request");
    }
    Ok(())
}

type Heard = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

/// A TLS server with the certificate in `folder`, and what it was told over finished handshakes.
fn impostor(folder: &std::path::Path) -> Checked<(SocketAddr, Heard)> {
    use std::io::Read;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(folder.join("cert.pem"))?],
            PrivateKeyDer::from_pem_file(folder.join("key.pem"))?,
        )?;
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (address, heard) = (listener.local_addr()?, Heard::default());
    let hearing = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut session) = rustls::ServerConnection::new(config.clone()) else { return };
            let mut stream = stream;
            let mut told = [0; 1024];
            let count = rustls::Stream::new(&mut session, &mut stream).read(&mut told).unwrap_or(0);
            if let Ok(mut heard) = hearing.lock() {
                heard.extend_from_slice(&told[..count]);
            }
        }
    });
    Ok((address, heard))
}

#[tokio::test]
async fn an_answer_that_is_cut_short_does_not_look_whole() -> Checked {
    let setup = Setup::new().await?;
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\nten bytes.",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\na\r\nten bytes.\r\n",
    ] {
        setup.upstream.script("/public/cut", answer);
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting("GET", &setup.url("/public/cut")).bytes()).await?;
        let head = wire.head().await?;
        head.expect(200)?;
        let rest = wire.rest().await?;
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(rest.contains("ten bytes.") && !rest.ends_with("0\r\n\r\n"), "{rest}");
        assert!(rest.len() < 100, "{rest}");
    }
    Ok(())
}

/// threats 17: what stands behind an answer is not the next one.
#[tokio::test]
async fn what_an_app_says_too_much_reaches_nobody() -> Checked {
    let setup = Setup::new().await?;
    let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Poison: yes\r\n\r\npoisoned";
    for (method, first) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ] {
        setup.upstream.script("/public/too-much", format!("{first}{surplus}"));
        for _ in 0..3 {
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            let response = exchange(&mut wire, &lasting(method, &setup.url("/public/too-much"))).await?;
            assert!(!response.text().contains("poisoned"), "{first}");
            // It may be closed; if not, the next answer is the app's own.
            if wire.send(&lasting("GET", &setup.url("/public/next")).bytes()).await.is_ok()
                && let Ok(next) = wire.response().await
            {
                assert_eq!(next.expect(200)?.json()?["target"], "/public/next", "{first}");
            }
            let other = Browser::new().get(&setup.url("/public/other")).await?;
            assert_eq!(other.expect(200)?.json()?["target"], "/public/other", "{first}");
        }
    }
    Ok(())
}

/// threats 11: a body that nobody wanted is not a request.
#[tokio::test]
async fn a_body_that_is_refused_does_not_become_the_next_request() -> Checked {
    let setup = Setup::new().await?;
    let cleo = setup.signed_in("cleo").await?;
    let cookie = cleo.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let smuggled = format!("GET /public/smuggled HTTP/1.1\r\nHost: {}\r\n\r\n", setup.gateway.address());
    let long = smuggled.repeat(5_000);
    for (target, cookie, status) in [
        ("/wiki", "", 401),
        ("/wiki", cookie.as_str(), 403),
        ("/%00", cookie.as_str(), 400),
        ("/.teamgate/userinfo", "", 401),
        ("/.teamgate/nothing", "", 404),
    ] {
        for body in [smuggled.as_bytes(), long.as_bytes()] {
            for framing in ["length", "chunks", "go-ahead"] {
                let what = format!("{target} {status} {framing} {}", body.len());
                if framing == "go-ahead" && target.starts_with("/.teamgate/") {
                    // Our own pages do want it; the next test.
                    continue;
                }
                let mut request = lasting("POST", &setup.url(target)).header("Cookie", cookie);
                request = match framing {
                    "length" => request.body(body),
                    "chunks" => request.header("Transfer-Encoding", "chunked").body(chunked(body, 500)),
                    _ => request
                        .headers(&[("Expect", "100-continue"), ("Content-Length", &body.len().to_string())]),
                };
                let mut wire = Wire::connect(setup.gateway.address()).await?;
                // It may be closed before all of it is sent.
                let _ = wire.send(&request.bytes()).await;
                let response = wire.response().await.map_err(|error| format!("{what}: {error}"))?;
                if target != "/.teamgate/nothing" && target != "/.teamgate/userinfo" {
                    response.expect(status).map_err(|error| format!("{what}: {error}"))?;
                }
                let next = lasting("GET", &setup.url("/public/next")).bytes();
                let bytes = if framing == "go-ahead" { [body, &next].concat() } else { next };
                if wire.send(&bytes).await.is_ok()
                    && let Ok(next) = wire.response().await
                {
                    assert_eq!(next.json()?["target"], "/public/next", "{what}");
                }
            }
        }
    }
    assert_eq!(setup.upstream.received_at("/public/smuggled").len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_form_for_us_gets_its_go_ahead_and_a_limit() -> Checked {
    let setup = Setup::new().await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let form = lasting("POST", &setup.url("/.teamgate/logout")).headers(&[
        ("Expect", "100-continue"),
        ("Content-Length", "3"),
        ("Sec-Fetch-Site", "same-origin"),
    ]);
    wire.send(&form.bytes()).await?;
    assert_eq!(wire.head().await?.status, 100);
    wire.send(b"a=b").await?;
    assert!(wire.response().await?.status < 400);

    let vast = lasting("POST", &setup.url("/.teamgate/logout")).header("Sec-Fetch-Site", "same-origin");
    let in_chunks = vast.clone().header("Transfer-Encoding", "chunked").body(chunked(&noise(70_000), 1_000));
    let broken = vast.clone().header("Transfer-Encoding", "chunked").body("3\r\na=b\r\nzz\r\n");
    for (request, status) in [(vast.body(noise(70_000)), 413), (in_chunks, 413), (broken, 400)] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        // It may be closed before all of it is sent.
        let _ = wire.send(&request.bytes()).await;
        wire.response().await?.expect(status)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_app_may_answer_before_it_has_heard_everything() -> Checked {
    let early =
        blunt_app(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge").await?;
    let setup = Setup::with(Config::default().route(&route_to("early", early))).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let length = 50 * 1024 * 1024;
    let head = lasting("POST", &setup.url("/early")).header("Content-Length", &length.to_string());
    wire.send(&head.bytes()).await?;
    wire.send(&noise(1_000)).await?;
    let response = wire.response().await?;
    assert_eq!(response.expect(413)?.body, b"large");
    Ok(())
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order_or_not_at_all() -> Checked {
    let setup = Setup::new().await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let all: Vec<u8> =
        (0..3).flat_map(|number| lasting("GET", &setup.url(&format!("/public/{number}"))).bytes()).collect();
    wire.send(&all).await?;
    let first = wire.response().await?;
    assert_eq!(first.expect(200)?.json()?["target"], "/public/0");
    for number in 1..3 {
        let Ok(next) = wire.response().await else { break };
        assert_eq!(next.expect(200)?.json()?["target"], format!("/public/{number}"));
    }
    Ok(())
}

#[tokio::test]
async fn an_app_that_closed_a_kept_connection_costs_no_request() -> Checked {
    let setup = Setup::new().await?;
    for number in 0..5 {
        setup
            .upstream
            .script("/public/last", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        let browser = Browser::new();
        browser.get(&setup.url("/public/last")).await?.expect(200)?;
        let next = browser.get(&setup.url(&format!("/public/{number}"))).await?;
        next.expect(200)?;
    }
    Ok(())
}
