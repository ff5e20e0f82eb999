//! One connection and the requests on it.
//!
//! Owns: [`Conversation`], what the proxy knows of the connection that a request came on and how it is ended
//! from outside. Must not know: bytes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use tokio::sync::watch;

use super::stream::Tls;
use super::wire::Wire;
use super::{Limits, Listen};
use crate::open::Line;

/// Who is at the two ends of a connection.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The client: the same, unless a proxy of ours said otherwise before the first request.
    pub client: SocketAddr,
    /// What TLS says of it. None: it is not TLS.
    pub tls: Option<Tls>,
    /// Where it came in.
    pub listen: Arc<Listen>,
}

impl Ends {
    /// Whether a request for `host` should have come over another connection: see [`super::tls::Terminator::is_misdirected`].
    pub fn are_wrong_for(&self, host: &str) -> bool {
        match (&self.listen.tls, &self.tls) {
            (Some(terminator), Some(tls)) => terminator.is_misdirected(tls.server_name.as_deref(), host),
            _ => false,
        }
    }
}

/// One request under way, as the connection that it came on sees it.
#[derive(Debug)]
pub struct Conversation {
    /// Who talks.
    pub ends: Arc<Ends>,
    /// Where it is ended from outside.
    pub line: Arc<Line>,
    /// The wire, where the request has it for itself: in HTTP/2 many share it.
    wire: Option<Arc<Wire>>,
}

/// How long the polite ways to end a request may take before it is dropped.
const FAREWELL: Duration = Duration::from_secs(1);

impl Conversation {
    /// A request that came on no connection of ours: nobody's, from nowhere.
    pub fn detached() -> Arc<Conversation> {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let listen = Arc::new(Listen::plain(nowhere));
        Arc::new(Conversation {
            ends: Arc::new(Ends { peer: nowhere, client: nowhere, tls: None, listen }),
            line: Line::new(),
            wire: None,
        })
    }

    /// The head is here: from now on the deadline for it does not count.
    pub fn head_is_read(&self) {
        if let Some(wire) = &self.wire {
            wire.head_is_read();
        }
    }

    /// The head of a 101 is about to be written: what follows it are frames of a WebSocket.
    pub fn becomes_tunnel(&self) {
        if let Some(wire) = &self.wire {
            wire.becomes_tunnel();
        }
    }

    /// Comes to an end when the request is to be dropped: it was ended, and has had the time to say so.
    async fn overdue(&self) {
        self.line.ended().await;
        if let Some(wire) = &self.wire {
            wire.end();
        }
        tokio::time::sleep(FAREWELL).await;
    }
}

tokio::task_local! {
    static HERE: Arc<Conversation>;
}

/// The request that is being served by this task.
pub fn here() -> Option<Arc<Conversation>> {
    HERE.try_with(Arc::clone).ok()
}

/// How much of an HTTP/2 answer may wait for its client, in bytes: one piece of Pingora's.
const SEND_BUFFER: usize = 64 * 1024;

/// How much of a body an HTTP/2 client may send ahead of the app, in bytes: on one stream, and on all of a connection
/// together. The 64 KiB of the standard are less than a megabyte per second over a tenth of a second of distance.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is the same for every connection.
pub(super) struct Options {
    pub(super) limits: Limits,
    server: HttpServerOptions,
    http2: H2Options,
}

impl Options {
    pub(super) fn new(limits: Limits) -> Options {
        let mut server = HttpServerOptions::default();
        // Pingora counts those after the first.
        server.keepalive_request_limit = Some(limits.requests.saturating_sub(1));
        server.h2_idle_timeout = Some(limits.idle);
        // From Pingora's bounded defaults: the crate's own would take 16 MiB of headers.
        let mut http2 = default_h2_options();
        http2.max_concurrent_streams(limits.streams);
        // Of what a client does not read this much of each answer waits here; the crate's own is six times as much.
        http2.max_send_buffer_size(SEND_BUFFER);
        http2.initial_window_size(STREAM_WINDOW);
        http2.initial_connection_window_size(CONNECTION_WINDOW);
        http2.max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
        Options { limits, server, http2 }
    }
}

/// One connection: the app, wrapped so that each request knows where it came from and can be ended.
pub(super) struct Connection<A> {
    app: Arc<A>,
    ends: Arc<Ends>,
    wire: Arc<Wire>,
    options: Arc<Options>,
    /// How many requests came on it; counted in HTTP/2 only.
    requests: AtomicU32,
    /// Tells Pingora to take no more requests and to close it when those under way are over.
    closing: watch::Sender<bool>,
}

impl<A> Connection<A> {
    /// A request that has come on it.
    fn converse(&self, session: &ServerSession) -> Arc<Conversation> {
        let line = Line::new();
        let wire = if session.is_http2() {
            // The heads of its streams are the library's to read, which bounds them itself.
            self.wire.head_is_read();
            if self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= self.options.limits.requests {
                self.close();
            }
            None
        } else {
            self.wire.next_request(line.clone());
            Some(self.wire.clone())
        };
        Arc::new(Conversation { ends: self.ends.clone(), line, wire })
    }

    /// Where it is learnt that no more requests are taken.
    pub(super) fn closes(&self) -> ShutdownWatch {
        self.closing.subscribe()
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(super) fn new(app: Arc<A>, ends: Ends, wire: Arc<Wire>, options: Arc<Options>) -> Connection<A> {
        let (requests, closing) = (AtomicU32::new(0), watch::Sender::new(false));
        Connection { app, ends: Arc::new(ends), wire, options, requests, closing }
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Connection<A> {
    // Spelt out, since `async fn` would make one future of all this and of the session: copying that into its box took
    // 14,000 instructions a request (callgrind). So the session goes where it is needed, and only that is boxed.
    fn process_new_http<'s, 'w, 'f>(
        self: &'s Arc<Self>,
        session: ServerSession,
        shutdown: &'w ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'f>>
    where
        's: 'f,
        'w: 'f,
        Self: 'f,
    {
        let conversation = self.converse(&session);
        let served = or_dropped(self.app.process_new_http(session, shutdown), conversation.clone());
        Box::pin(HERE.scope(conversation, served))
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.options.http2.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options.server)
    }
}

/// Serves the request, or drops it when it is overdue: in HTTP/1.1 the connection with it, in HTTP/2 this stream
/// alone.
async fn or_dropped(
    served: impl Future<Output = Option<ReusedHttpStream>>,
    conversation: Arc<Conversation>,
) -> Option<ReusedHttpStream> {
    tokio::select! {
        biased;
        reusable = served => reusable,
        () = conversation.overdue() => None,
    }
}
