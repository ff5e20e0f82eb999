//! What does not end at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::support::{Browser, Checked, Config, PATIENCE, Request, Setup, Wire};

/// Longer than apps of these tests may be silent.
const LONG: Duration = Duration::from_millis(2_500);
const IMPATIENT: &str = "upstream_timeouts: { header: 1s, idle: 1s }";

/// The handshake of RFC 6455 §1.3, as the client says it …
pub(crate) const UPGRADE: &[(&str, &str)] = &[
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
/// … and as the server answers it.
pub(crate) const GRANTED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An app of which one connection is looked at byte for byte.
pub(crate) struct App {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl App {
    pub(crate) async fn start() -> Checked<App> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(App { listener, address })
    }

    /// Routes to it: `/{name}` for all, `/team/{name}` for `acme`.
    pub(crate) fn routes(&self, config: Config, name: &str) -> Config {
        let upstream = format!("upstream: \"http://{}\"", self.address);
        config
            .route(&format!("name: {name}, path: /{name}, access: public, {upstream}"))
            .route(&format!("name: team-{name}, path: /team/{name}, teams: [acme], {upstream}"))
    }

    /// Takes a connection and reads the head of a request; gives what was read.
    pub(crate) async fn hear(&self) -> Checked<(TcpStream, Vec<u8>)> {
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await??;
        let mut heard = Vec::new();
        read_until(&mut stream, &mut heard, b"\r\n\r\n").await?;
        Ok((stream, heard))
    }
}

/// Reads until `needle` is among what was heard.
pub(crate) async fn read_until(stream: &mut TcpStream, heard: &mut Vec<u8>, needle: &[u8]) -> Checked {
    while !heard.windows(needle.len()).any(|window| window == needle) {
        if timeout(PATIENCE, stream.read_buf(heard)).await?? == 0 {
            return Err(format!("the end, after {:?}", String::from_utf8_lossy(heard)).into());
        }
    }
    Ok(())
}

/// Waits until the gateway closes its connection to the app.
pub(crate) async fn closed(stream: &mut TcpStream) -> Checked {
    let mut scrap = Vec::new();
    // A reset is an end, too.
    while timeout(PATIENCE, stream.read_buf(&mut scrap)).await?.unwrap_or(0) > 0 {}
    Ok(())
}

pub(crate) fn lasting(method: &str, url: &str) -> Request {
    Request::new(method, url).header("Connection", "keep-alive")
}

/// Reads chunks until `text` is among them.
pub(crate) async fn event(wire: &mut Wire, text: &str) -> Checked {
    let mut heard = String::new();
    while !heard.contains(text) {
        let chunk = wire.chunk().await?.ok_or_else(|| format!("the end, after {heard:?}"))?;
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    Ok(())
}

#[tokio::test]
async fn events_arrive_one_by_one_while_the_answer_is_open() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    for (target, cookie) in [("/public/sse", ""), ("/lobby/sse", cookie.as_str())] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        let request =
            lasting("GET", &setup.url(target)).header("Accept", "text/event-stream").header("Cookie", cookie);
        wire.send(&request.bytes()).await?;
        let head = wire.head().await?;
        head.expect(200)?;
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        event(&mut wire, "data: hello\n\n").await?;
        for number in 0..20 {
            // Each is here before the next is said.
            setup.upstream.push(format!("data: {number}\n\n"));
            event(&mut wire, &format!("data: {number}\n\n")).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_event_stream_outlives_the_patience_with_apps() -> Checked {
    let setup = Setup::with(Config::default().top(IMPATIENT)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let request = lasting("GET", &setup.url("/public/sse")).header("Accept", "text/event-stream");
    wire.send(&request.bytes()).await?;
    wire.head().await?.expect(200)?;
    event(&mut wire, "data: hello\n\n").await?;
    assert!(wire.is_silent_for(LONG).await);
    setup.upstream.push("data: still here\n\n");
    event(&mut wire, "data: still here\n\n").await
}

#[tokio::test]
async fn an_answer_that_is_no_stream_does_not() -> Checked {
    let setup = Setup::with(Config::default().top(IMPATIENT)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("GET", &setup.url("/public/sse")).bytes()).await?;
    wire.head().await?.expect(200)?;
    event(&mut wire, "data: hello\n\n").await?;
    let rest = wire.rest().await?;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole: {:?}", String::from_utf8_lossy(&rest));
    Ok(())
}

/// What a browser or a program says besides.
pub(crate) type Fields<'a> = &'a [(&'static str, &'a str)];

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket at `target`, or says with which status it was refused.
pub(crate) async fn open(setup: &Setup, target: &str, fields: Fields<'_>) -> Checked<Result<Socket, u16>> {
    let stream = TcpStream::connect(setup.gateway.address()).await?;
    let mut request = format!("ws://{}{target}", setup.gateway.address()).into_client_request()?;
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse()?);
    }
    match timeout(PATIENCE, client_async(request, stream)).await? {
        Ok((socket, response)) => {
            assert_eq!(response.status(), 101);
            Ok(Ok(socket))
        }
        Err(WsError::Http(response)) => Ok(Err(response.status().as_u16())),
        Err(error) => Err(error.into()),
    }
}

/// An app that says everything back, at its own address; and how many connections it took.
pub(crate) async fn echoes() -> Checked<(App, Arc<AtomicUsize>)> {
    let app = App::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let taken = Arc::new(AtomicUsize::new(0));
    let counting = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((App { address, ..app }, taken))
}

pub(crate) async fn echoed(socket: &mut Socket, message: Message) -> Checked {
    timeout(PATIENCE, socket.send(message.clone())).await?.map_err(|error| format!("sending: {error}"))?;
    let back = timeout(PATIENCE, socket.next()).await?.ok_or("the end")?;
    let back = back.map_err(|error| format!("waiting for the echo: {error}"))?;
    match back == message {
        true => Ok(()),
        false => Err(format!("{} bytes came back as {}", message.len(), back.len()).into()),
    }
}

#[tokio::test]
async fn a_websocket_carries_messages_of_any_size_both_ways() -> Checked {
    let (app, _) = echoes().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let origin = setup.url("");
    for (target, fields) in [
        ("/ws", vec![]),
        ("/ws", vec![("Origin", "https://anywhere.example")]),
        ("/team/ws", vec![("Cookie", cookie.as_str()), ("Origin", origin.as_str())]),
        // A program that is given the cookie is no browser.
        ("/team/ws", vec![("Cookie", cookie.as_str())]),
    ] {
        let mut socket =
            open(&setup, target, &fields).await?.map_err(|status| format!("{target}: {status}"))?;
        echoed(&mut socket, Message::text("hällo")).await?;
        echoed(&mut socket, Message::text("")).await?;
        for size in [1, 125, 126, 65_535, 65_536, 1024 * 1024] {
            let body: Vec<u8> = (0..size).map(|at: usize| ((at * 31) >> 3) as u8).collect();
            echoed(&mut socket, Message::binary(body))
                .await
                .map_err(|error| format!("{target}, {size} bytes: {error}"))?;
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        timeout(PATIENCE, socket.close(Some(goodbye.clone())))
            .await?
            .map_err(|error| format!("{target}, closing: {error}"))?;
        let last = timeout(PATIENCE, socket.next()).await?;
        assert!(matches!(last, Some(Ok(Message::Close(Some(frame)))) if frame == goodbye), "{target}");
    }
    Ok(())
}

/// An app may be quicker than we are: its 101 is there before its turn has come.
#[tokio::test]
async fn a_websocket_that_is_granted_at_once_is_open() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let url = setup.url("/ws");
    for number in 0..20 {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&Request::get(&url).headers(UPGRADE).bytes()).await?;
        let (mut stream, _) = timeout(PATIENCE, app.listener.accept()).await??;
        stream.write_all(GRANTED).await?;
        wire.until(b"\r\n\r\n").await?;
        let mut heard = Vec::new();
        read_until(&mut stream, &mut heard, b"\r\n\r\n").await?;
        wire.send(b"ping").await?;
        let heard = read_until(&mut stream, &mut heard, b"ping").await;
        heard.map_err(|error| format!("connection {number}: {error}"))?;
        stream.write_all(b"pong").await?;
        wire.until(b"pong").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_websocket_outlives_the_patience_with_apps() -> Checked {
    let (app, _) = echoes().await?;
    let setup = Setup::with(app.routes(Config::default().top(IMPATIENT), "ws")).await?;
    let mut socket = open(&setup, "/ws", &[]).await?.map_err(|status| format!("refused: {status}"))?;
    echoed(&mut socket, Message::text("before")).await?;
    assert!(timeout(LONG, socket.next()).await.is_err(), "it ended, or something came");
    echoed(&mut socket, Message::text("after")).await
}

/// threats 12, 49 and 50.
#[tokio::test]
async fn a_websocket_opens_to_those_only_who_may_and_mean_it() -> Checked {
    let (app, taken) = echoes().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let (ben, cleo) = (setup.signed_in("ben").await?, setup.signed_in("cleo").await?);
    let cookie = |browser: &Browser| browser.cookie_header(&setup.url("/"));
    let ben = cookie(&ben)?.ok_or("no cookie")?;
    let cleo = cookie(&cleo)?.ok_or("no cookie")?;
    let origin = setup.url("");
    let https = origin.replace("http:", "https:");
    let rows: &[(&str, Fields<'_>, u16)] = &[
        ("nobody", &[], 401),
        ("nobody, from our page", &[("Origin", &origin)], 401),
        ("a forged session", &[("Cookie", "teamgate=AAAA")], 401),
        ("another team", &[("Cookie", &cleo), ("Origin", &origin)], 403),
        ("another site's page", &[("Cookie", &ben), ("Origin", "https://evil.example")], 403),
        ("a page of no origin", &[("Cookie", &ben), ("Origin", "null")], 403),
        ("our host over another scheme", &[("Cookie", &ben), ("Origin", &https)], 403),
        ("our host on another port", &[("Cookie", &ben), ("Origin", "http://127.0.0.1:1")], 403),
        (
            "a host that begins like ours",
            &[("Cookie", &ben), ("Origin", "http://127.0.0.1.evil.example")],
            403,
        ),
        ("an origin that says nothing", &[("Cookie", &ben), ("Origin", "")], 403),
    ];
    for (who, fields, status) in rows {
        let refused = open(&setup, "/team/ws", fields).await?.err();
        assert_eq!(refused, Some(*status), "{who}");
    }
    assert_eq!(taken.load(Ordering::Acquire), 0, "the app was asked");
    Ok(())
}

#[tokio::test]
async fn a_download_begins_before_the_app_has_finished() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "down")).await?;
    // Of an answer that says how long it is, what fits into one packet may wait for more.
    let much = format!("{}first", "x".repeat(64 * 1024));
    let length = format!("Content-Length: {}", much.len() + 5);
    for (framing, first, last) in [
        (length.as_str(), much.as_str(), "final"),
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", "5\r\nfinal\r\n0\r\n\r\n"),
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&Request::get(&setup.url("/down")).bytes()).await?;
        let (mut stream, _) = app.hear().await?;
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{first}").as_bytes()).await?;
        let begun = if first.len() > 100 { b"xxxx".as_slice() } else { b"first" };
        wire.until(begun).await.map_err(|error| format!("{framing}: {error}"))?;
        stream.write_all(last.as_bytes()).await?;
        wire.until(b"final").await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_begins_before_the_client_has_finished() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "up")).await?;
    for (framing, first, last) in [
        (("Content-Length", "10"), "first", "final"),
        (("Transfer-Encoding", "chunked"), "5\r\nfirst\r\n", "5\r\nfinal\r\n0\r\n\r\n"),
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&Request::new("POST", &setup.url("/up")).header(framing.0, framing.1).bytes()).await?;
        wire.send(first.as_bytes()).await?;
        let (mut stream, mut heard) = app.hear().await?;
        read_until(&mut stream, &mut heard, b"first").await?;
        wire.send(last.as_bytes()).await?;
        read_until(&mut stream, &mut heard, b"final").await?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await?;
        wire.response().await?.expect(204)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_app() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "app")).await?;
    let url = setup.url("/app");

    // before the app has answered
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("GET", &url).bytes()).await?;
    let (mut stream, _) = app.hear().await?;
    drop(wire);
    closed(&mut stream).await?;

    // within the answer, be it a stream or not
    for accept in ["*/*", "text/event-stream"] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting("GET", &url).header("Accept", accept).bytes()).await?;
        let (mut stream, _) = app.hear().await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await?;
        wire.until(b"first").await?;
        drop(wire);
        closed(&mut stream).await?;
    }

    // within its own upload
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("POST", &url).header("Content-Length", "100").bytes()).await?;
    wire.send(b"first").await?;
    let (mut stream, mut heard) = app.hear().await?;
    read_until(&mut stream, &mut heard, b"first").await?;
    drop(wire);
    closed(&mut stream).await?;

    // within a WebSocket
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&Request::get(&url).headers(UPGRADE).bytes()).await?;
    let (mut stream, _) = app.hear().await?;
    stream.write_all(GRANTED).await?;
    wire.until(b"\r\n\r\n").await?;
    wire.send(b"ping").await?;
    let mut heard = Vec::new();
    read_until(&mut stream, &mut heard, b"ping").await?;
    drop(wire);
    closed(&mut stream).await
}

#[tokio::test]
async fn an_app_that_goes_away_ends_the_websocket() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let (socket, app) = tokio::join!(open(&setup, "/ws", &[]), async {
        let (stream, _) = timeout(PATIENCE, app.listener.accept()).await??;
        Checked::Ok(accept_async(stream).await?)
    });
    let mut socket = socket?.map_err(|status| format!("refused: {status}"))?;
    drop(app?);
    loop {
        match timeout(PATIENCE, socket.next()).await? {
            None | Some(Err(_)) => return Ok(()),
            Some(Ok(message)) => assert!(message.is_close(), "{message:?}"),
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_is_an_answer_like_any_other() -> Checked {
    let setup = Setup::new().await?;
    let refused = open(&setup, "/public/status/426", &[]).await?.err();
    assert_eq!(refused, Some(426));
    let refused = open(&setup, "/public/plain", &[]).await?.err();
    assert_eq!(refused, Some(200));
    Ok(())
}
