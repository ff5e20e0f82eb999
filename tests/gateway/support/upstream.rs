//! The app behind the gateway: it records every request as it came, and echoes it.
//!
//! | path (and all below) | answer |
//! |---|---|
//! | `/…/status/404` | that status |
//! | `/…/hold` | the echo, once [`Upstream::release`] is called |
//! | `/…/drop` | the connection is closed |
//! | `/…/big/1000000` | so many bytes, with `Content-Length` |
//! | `/…/chunked` | `one`, `two`, `three` in chunks |
//! | `/…/sse` | `text/event-stream`: `data: hello`, then what [`Upstream::push`] sends |
//! | `/…/websocket` | 101, and whatever comes is sent back |
//! | what [`Upstream::script`] was told | those bytes |
//! | anything else | 200: `{"method", "target", "headers": [[name, value], …], "body"}` |
//!
//! The dots stand for any path: `/public/sse` and `/sse` answer alike.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use super::Checked;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The head, byte for byte, with its empty line.
    pub(crate) head: Vec<u8>,
    pub(crate) method: String,
    /// What stands behind the method.
    pub(crate) target: String,
    /// In order and as written.
    pub(crate) headers: Vec<(String, String)>,
    /// Without its chunking.
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, from 1.
    pub(crate) connection: usize,
}

impl Received {
    /// Every value of header `name`, in any case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).collect()
    }
}

struct Shared {
    received: Mutex<Vec<Received>>,
    scripts: Mutex<HashMap<String, Vec<u8>>>,
    connections: AtomicUsize,
    released: watch::Sender<bool>,
    events: broadcast::Sender<Vec<u8>>,
}

/// The app. Gone, with its connections, when dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start() -> Checked<Upstream> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            scripts: Mutex::default(),
            connections: AtomicUsize::new(0),
            released: watch::Sender::new(false),
            events: broadcast::Sender::new(1024),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, shared.clone()));
        Ok(Upstream { address, shared, _serving: serving })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.shared.received).clone()
    }

    /// The requests so far whose target is `target`.
    pub(crate) fn received_at(&self, target: &str) -> Vec<Received> {
        self.received().into_iter().filter(|request| request.target == target).collect()
    }

    /// How many connections there were so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Answers `target` (path and query) with exactly these bytes. Should they not say how long they are, end
    /// with `Connection: close`: then the connection is closed after them.
    pub(crate) fn script(&self, target: &str, answer: impl Into<Vec<u8>>) {
        locked(&self.shared.scripts).insert(target.to_owned(), answer.into());
    }

    /// Lets every request go on that holds, and those to come.
    pub(crate) fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Makes requests to `/hold` wait again.
    pub(crate) fn hold(&self) {
        self.shared.released.send_replace(false);
    }

    /// Sends bytes down every open event stream, as one chunk each.
    pub(crate) fn push(&self, bytes: impl Into<Vec<u8>>) {
        // Nobody may be listening.
        let _ = self.shared.events.send(bytes.into());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::AcqRel) + 1;
        let shared = shared.clone();
        connections.spawn(async move {
            // It ends in an error when the gateway closes it.
            let _ = connection(stream, number, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, number: usize, shared: &Shared) -> Checked {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(request) = hear(&mut stream, &mut buffer, number).await? else { return Ok(()) };
        locked(&shared.received).push(request.clone());
        if !answer(&mut stream, &mut buffer, &request, shared).await? {
            return Ok(());
        }
    }
}

/// Answers; false when the connection is over.
async fn answer(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    request: &Received,
    shared: &Shared,
) -> Checked<bool> {
    let script = locked(&shared.scripts).get(&request.target).cloned();
    if let Some(bytes) = script {
        stream.write_all(&bytes).await?;
        return Ok(!String::from_utf8_lossy(&bytes).to_ascii_lowercase().contains("connection: close"));
    }
    let path = request.target.split('?').next().unwrap_or("");
    let mut segments = path.rsplit('/');
    let (last, before) = (segments.next().unwrap_or(""), segments.next().unwrap_or(""));
    match (before, last) {
        ("status", code) => write(stream, code, "text/plain", code.as_bytes(), request).await?,
        ("big", size) => {
            write(stream, "200", "application/octet-stream", &vec![b'x'; size.parse()?], request).await?;
        }
        (_, "drop") => return Ok(false),
        (_, "chunked") => {
            let body = "3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        (_, "sse") => return stream_events(stream, shared).await,
        (_, "websocket") if !request.all("sec-websocket-key").is_empty() => {
            return tunnel(stream, buffer, request).await;
        }
        (_, last) => {
            if last == "hold" {
                shared.released.subscribe().wait_for(|released| *released).await?;
            }
            let echo = json!({
                "method": request.method, "target": request.target, "headers": request.headers,
                "body": String::from_utf8_lossy(&request.body),
            });
            write(stream, "200", "application/json", echo.to_string().as_bytes(), request).await?;
        }
    }
    Ok(true)
}

async fn write(stream: &mut TcpStream, status: &str, kind: &str, body: &[u8], request: &Received) -> Checked {
    let head = format!(
        "HTTP/1.1 {status} Said So\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if request.method != "HEAD" && !matches!(status, "204" | "304") {
        stream.write_all(body).await?;
    }
    Ok(())
}

async fn stream_events(stream: &mut TcpStream, shared: &Shared) -> Checked<bool> {
    let mut events = shared.events.subscribe();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut event = b"data: hello\n\n".to_vec();
    let mut scrap = [0; 64];
    loop {
        stream.write_all(format!("{:x}\r\n", event.len()).as_bytes()).await?;
        stream.write_all(&event).await?;
        stream.write_all(b"\r\n").await?;
        tokio::select! {
            next = events.recv() => event = next?,
            // The client says nothing more: whatever this is, it is the end.
            _ = stream.read(&mut scrap) => return Ok(false),
        }
    }
}

async fn tunnel(stream: &mut TcpStream, buffer: &mut Vec<u8>, request: &Received) -> Checked<bool> {
    let key = request.all("sec-websocket-key").first().copied().unwrap_or("").to_owned();
    // RFC 6455 §1.3.
    let hash =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        STANDARD.encode(hash.as_ref())
    );
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(buffer).await?;
        buffer.clear();
        if stream.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    }
}

/// Reads one request; `None` at the end of the connection.
async fn hear(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Checked<Option<Received>> {
    let Some(head) = until(stream, buffer, b"\r\n\r\n").await? else { return Ok(None) };
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut start = lines.next().unwrap_or("").split(' ').map(str::to_owned);
    let mut request = Received {
        head,
        method: start.next().unwrap_or_default(),
        target: start.next().unwrap_or_default(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
        connection,
    };
    if request.all("transfer-encoding").iter().any(|coding| coding.contains("chunked")) {
        loop {
            let line = until(stream, buffer, b"\r\n").await?.ok_or("cut in a chunk")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or(""), 16)?;
            if size == 0 {
                while until(stream, buffer, b"\r\n").await?.ok_or("cut in trailers")? != b"\r\n" {}
                break;
            }
            let mut chunk = exactly(stream, buffer, size + 2).await?;
            chunk.truncate(size);
            request.body.extend(chunk);
        }
    } else if let Some(length) = request.all("content-length").first() {
        request.body = exactly(stream, buffer, length.parse()?).await?;
    }
    Ok(Some(request))
}

async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, needle: &[u8]) -> Checked<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(needle.len()).position(|window| window == needle) {
            return Ok(Some(buffer.drain(..at + needle.len()).collect()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn exactly(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> Checked<Vec<u8>> {
    while buffer.len() < count {
        if stream.read_buf(buffer).await? == 0 {
            return Err("cut in a body".into());
        }
    }
    Ok(buffer.drain(..count).collect())
}
