//! From listening sockets to requests.
//!
//! Owns: accepting, what happens on a connection before its first request, the time and bytes that a head may
//! take, and the end of a connection. Pingora is given a stream for each connection that is ready.
//! Must not know: routes, sessions, what is answered. It is generic over what serves the requests.
//!
//! Why not Pingora's own listeners: they have no total deadline for a head, no limits, no PROXY protocol without
//! TLS, a wait without end for the HTTP/2 preface on plain connections, and no way to end an open connection.

mod connection;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use self::connection::{Connection, Options};
pub use self::connection::{Conversation, Ends, here};
pub use self::stream::Tls;
use self::stream::{Client, Opened, Opening};

/// One address to listen on.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The IP address and port.
    pub address: SocketAddr,
    /// Whether HTTP/2 without TLS is understood besides HTTP/1.1.
    pub h2c: H2c,
}

/// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum H2c {
    /// Understood.
    Spoken,
    /// Not understood. The default.
    Unknown,
}

/// What a connection may cost before and between its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From the first byte of a head, or from accepting the connection, to the end of that head.
    pub head_within: Duration,
    /// The most bytes that are read of a head. What a request may hold is decided when it has been read; this
    /// only bounds what is kept until then.
    pub head_bytes: usize,
    /// How many requests an HTTP/1.1 connection may carry. None: no limit.
    pub requests: Option<u32>,
    /// How many HTTP/2 streams may be open at once.
    pub streams: u32,
    /// How long an HTTP/2 connection may be without a stream.
    pub idle: Duration,
}

/// A socket that listens and does not accept yet.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::TcpListener,
    listen: Arc<Listen>,
}

/// How many connections may wait to be accepted. The system caps it (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

impl Bound {
    /// Takes the address. Within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When it cannot be listened on.
    pub fn new(listen: Listen) -> io::Result<Bound> {
        let socket = if listen.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the last connections of the process before it.
        socket.set_reuseaddr(true)?;
        socket.bind(listen.address)?;
        Ok(Bound { socket: socket.listen(BACKLOG)?.into_std()?, listen: Arc::new(listen) })
    }
}

/// Accepts on every address and serves with one app.
pub struct Listener<A> {
    /// What serves.
    pub app: Arc<A>,
    /// Where.
    pub bound: Vec<Bound>,
    /// At what cost.
    pub limits: Limits,
    /// Told when connections are accepted on every address.
    pub accepts: watch::Sender<bool>,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> Service for Listener<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let options = Arc::new(Options::new(self.limits));
        let mut loops = Vec::new();
        for bound in self.bound.drain(..) {
            let address = bound.listen.address;
            let socket = match TcpListener::from_std(bound.socket) {
                Ok(socket) => socket,
                Err(error) => {
                    // The sender goes with us: whoever waits for it learns that this did not come up.
                    tracing::error!(%address, %error, "cannot accept connections there");
                    return;
                }
            };
            let endpoint = Endpoint {
                app: self.app.clone(),
                listen: bound.listen,
                options: options.clone(),
                shutdown: shutdown.clone(),
            };
            loops.push(tokio::spawn(accept(socket, Arc::new(endpoint))));
        }
        self.accepts.send_replace(true);
        for accepting in loops {
            // A loop ends with the shutdown, or by a fault that has been logged.
            let _ = accepting.await;
        }
        self.app.http_cleanup().await;
    }

    fn name(&self) -> &str {
        "teamgate"
    }
}

/// One address and what serves it.
struct Endpoint<A> {
    app: Arc<A>,
    listen: Arc<Listen>,
    options: Arc<Options>,
    shutdown: ShutdownWatch,
}

/// How long to wait when the system has no more file descriptors: accepting would fail again at once.
const BREATHER: Duration = Duration::from_millis(250);

async fn accept<A: HttpServerApp + Send + Sync + 'static>(socket: TcpListener, endpoint: Arc<Endpoint<A>>) {
    let mut shutdown = endpoint.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            changed = shutdown.changed() => {
                if changed.is_err() || *shutdown.borrow() {
                    return;
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::spawn(serve(stream, peer, endpoint.clone()));
            }
            Err(error) => {
                tracing::warn!(address = %endpoint.listen.address, %error, "a connection could not be accepted");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}

/// One connection, from its first byte to its last.
async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<Endpoint<A>>,
) {
    let limits = endpoint.options.limits;
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let opening = Opening { client: peer, h2c: endpoint.listen.h2c, tls: None, limits };
    let opened = tokio::time::timeout(limits.head_within, Client::open(stream, opening)).await;
    let Opened { client, wire, tls } = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::debug!(client = %peer.ip(), %error, "a connection ended before its first request");
            return;
        }
        Err(_) => {
            tracing::debug!(client = %peer.ip(), "a connection said nothing in time");
            return;
        }
    };
    let ends = Ends { peer, client: peer, tls, listen: endpoint.listen.clone() };
    let connection = Connection::new(endpoint.app.clone(), ends, wire, endpoint.options.clone());
    Arc::new(connection).process_new(Box::new(client), &endpoint.shutdown).await;
}
