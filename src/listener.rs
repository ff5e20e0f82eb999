//! From listening sockets to requests.
//!
//! Owns: accepting, what happens on a connection before its first request, the time and bytes that a head may
//! take, and the end of a connection. Pingora is given a stream for each connection that is ready.
//! Must not know: routes, sessions, what is answered. It is generic over what serves the requests.
//!
//! Why not Pingora's own listeners: they have no total deadline for a head, no limits, no PROXY protocol without
//! TLS, a wait without end for the HTTP/2 preface on plain connections, and no way to end an open connection.

pub mod admission;
pub mod certificates;
mod connection;
mod farewell;
pub mod proxy_protocol;
pub mod reload;
mod stream;
pub mod tls;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use self::admission::{Admission, Admitted, Full};
use self::connection::{Connection, Options};
pub use self::connection::{Conversation, Ends, here};
use self::proxy_protocol::Malformed;
pub use self::stream::Tls;
use self::stream::{Client, Opened, Opening};
use self::tls::Terminator;
use self::wire::Unread;
use crate::clock::Clock;
use crate::telemetry::Telemetry;
use crate::telemetry::access::Entry;
use crate::telemetry::labels::{ConnectionRefusal, Decision, StatusClass};
use crate::telemetry::metrics::{NO_ROUTE, RouteMetrics};

/// One address to listen on.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The IP address and port.
    pub address: SocketAddr,
    /// How TLS is spoken. None: it is not.
    pub tls: Option<Terminator>,
    /// Whether HTTP/2 without TLS is understood besides HTTP/1.1.
    pub h2c: H2c,
    /// Whether proxies say first for whom they connect.
    pub proxy_protocol: ProxyProtocol,
    /// What is done with requests.
    pub purpose: Purpose,
    /// What answers say about https (RFC 6797). Only with TLS.
    pub hsts: Option<HeaderValue>,
}

impl Listen {
    /// Plain HTTP/1.1 and nothing else.
    pub fn plain(address: SocketAddr) -> Listen {
        Listen {
            address,
            tls: None,
            h2c: H2c::Unknown,
            proxy_protocol: ProxyProtocol::Unknown,
            purpose: Purpose::Serve,
            hsts: None,
        }
    }
}

/// What is done with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// They are served. The default.
    Serve,
    /// They are sent to https.
    RedirectToHttps,
}

/// The PROXY protocol on a listener. A listener has it for every connection or for none: where it were optional,
/// whoever leaves it out would be taken for the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyProtocol {
    /// Every connection begins with it and comes from a proxy of ours; others are closed.
    Required,
    /// No connection begins with it. The default.
    Unknown,
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
    /// From accepting a connection to its being ready for a request: the PROXY protocol, TLS, the choice of HTTP.
    pub ready_within: Duration,
    /// From the first byte of a head, or from the connection being ready, to the end of that head.
    pub head_within: Duration,
    /// The most bytes that are read of a head. What a request may hold is decided when it has been read; this
    /// only bounds what is kept until then.
    pub head_bytes: usize,
    /// How many requests a connection may carry, one after the other. At least one.
    pub requests: u32,
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
    /// How many at once, and who is a proxy of ours.
    pub admission: Admission,
    /// Where refusals are counted and told.
    pub telemetry: Telemetry,
    /// For telling of a fault that repeats no more than once a minute.
    pub clock: Clock,
    /// Told when connections are accepted on every address.
    pub accepts: watch::Sender<bool>,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> Service for Listener<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let options = Arc::new(Options::new(self.limits));
        let unread = self.telemetry.metrics.for_route(NO_ROUTE);
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
                admission: self.admission.clone(),
                telemetry: self.telemetry.clone(),
                unread: unread.clone(),
                clock: self.clock.clone(),
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
    admission: Admission,
    telemetry: Telemetry,
    /// Where heads are counted that became no request.
    unread: Arc<RouteMetrics>,
    clock: Clock,
    shutdown: ShutdownWatch,
}

/// Why a connection is closed before its first request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("a listener with proxy_protocol takes connections of trusted_proxies only")]
    NotAProxy,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the connection was not ready for a request in time")]
    Slow,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// Nobody's fault but the client's, and nothing to count.
    #[error("the connection ended before its first request: {0}")]
    Gone(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            true => Refused::Handshake(error),
            false => Refused::Gone(error),
        }
    }
}

impl Refused {
    fn label(&self) -> Option<ConnectionRefusal> {
        match self {
            Refused::Full(Full::Everywhere) => Some(ConnectionRefusal::Full),
            Refused::Full(Full::Address) => Some(ConnectionRefusal::AddressFull),
            Refused::NotAProxy => Some(ConnectionRefusal::NotAProxy),
            // What balancers do to see whether somebody is there.
            Refused::Malformed(Malformed::Nothing) => None,
            Refused::Malformed(_) => Some(ConnectionRefusal::ProxyHeader),
            Refused::Slow => Some(ConnectionRefusal::Slow),
            Refused::Handshake(_) => Some(ConnectionRefusal::Tls),
            Refused::Gone(_) => None,
        }
    }
}

impl<A> Endpoint<A> {
    /// Counts and tells, so that a flood of them costs a line a minute.
    fn refuse(&self, peer: SocketAddr, refused: &Refused) {
        if let Some(label) = refused.label() {
            self.telemetry.metrics.connections_refused.inc(label);
            // Silence and odd handshakes are what scanners and load balancers do all day.
            if !matches!(label, ConnectionRefusal::Slow | ConnectionRefusal::Tls) {
                self.telemetry.warn_limited(label.as_str(), self.clock.now(), refused);
            }
        }
        tracing::debug!(client = %peer.ip(), error = %refused, "a connection was closed before its first request");
    }

    /// Metrics and the access line of a head that became no request.
    fn account_for(&self, client: SocketAddr, unread: Unread) {
        let (decision, status) = (Decision::BadRequest, unread.status());
        self.unread.record(decision, StatusClass::of(status), Duration::ZERO, None, Duration::ZERO);
        self.telemetry.access.record(&Entry {
            arrived_at: self.clock.now(),
            request_id: "",
            client: client.ip().to_canonical(),
            method: "",
            host: b"",
            path: b"",
            route: None,
            decision,
            grounds: None,
            reason: Some(unread.reason()),
            account: None,
            status,
            gate: Duration::ZERO,
            upstream: None,
            total: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            asked: None,
            upstream_error: None,
        });
    }

    /// Readies a connection, and says who is at its other end.
    async fn open(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        admitted: &mut Admitted,
    ) -> Result<(Opened, SocketAddr), Refused> {
        let client = match self.listen.proxy_protocol {
            ProxyProtocol::Unknown => peer,
            ProxyProtocol::Required if !self.admission.is_proxy(peer.ip()) => return Err(Refused::NotAProxy),
            ProxyProtocol::Required => {
                proxy_protocol::read(&mut stream).await?.map_or(peer, |addresses| addresses.source)
            }
        };
        admitted.comes_from(client.ip())?;
        let tls = self.listen.tls.as_ref().map(Terminator::config);
        let opening = Opening { client, h2c: self.listen.h2c, tls, limits: self.options.limits };
        Ok((Client::open(stream, opening).await?, client))
    }
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
            Ok((stream, peer)) => match endpoint.admission.admit() {
                Ok(admitted) => {
                    tokio::spawn(serve(stream, peer, admitted, endpoint.clone()));
                }
                Err(full) => endpoint.refuse(peer, &full.into()),
            },
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
    mut admitted: Admitted,
    endpoint: Arc<Endpoint<A>>,
) {
    let limits = endpoint.options.limits;
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let opened = tokio::time::timeout(limits.ready_within, endpoint.open(stream, peer, &mut admitted)).await;
    let (Opened { client: stream, wire, tls }, client) = match opened.unwrap_or(Err(Refused::Slow)) {
        Ok(opened) => opened,
        Err(refused) => return endpoint.refuse(peer, &refused),
    };
    let ends = Ends { peer, client, tls, listen: endpoint.listen.clone() };
    let is_http2 = stream.is_http2();
    let connection =
        Arc::new(Connection::new(endpoint.app.clone(), ends, wire.clone(), endpoint.options.clone()));
    if !is_http2 {
        connection.process_new(Box::new(stream), &endpoint.shutdown).await;
        if let Some(unread) = wire.unread() {
            endpoint.account_for(client, unread);
        }
        return;
    }
    // Pingora counts the requests of an HTTP/1.1 connection only. What makes it close one of HTTP/2 in good order is
    // the word that the server goes down; so each has such a word of its own.
    let closes = connection.closes();
    let mut serving = pin!(connection.process_new(Box::new(stream), &closes));
    tokio::select! {
        _ = &mut serving => {}
        () = goes_down(endpoint.shutdown.clone()) => {
            connection.close();
            serving.await;
        }
    }
}

async fn goes_down(mut shutdown: ShutdownWatch) {
    // Without a sender there is nobody left to serve for.
    let _ = shutdown.wait_for(|down| *down).await;
}
