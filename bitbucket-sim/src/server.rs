//! The running simulator: sockets, and what surrounds every request.
//!
//! Owns: accepting connections, applying faults, keeping the log, closing connections without an answer.
//! Must not know: what any endpoint answers.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt as _;

use crate::effect::Effect;
use crate::log::{self, About, Logged};
use crate::shared::Shared;
use crate::world::World;
use crate::{control, oauth, pages, rest};

const LARGEST_BODY: usize = 1 << 20;

/// A running simulator. Dropping it closes its socket and its connections.
#[derive(Debug)]
pub struct Simulator {
    shared: Shared,
    serving: JoinHandle<()>,
}

impl Simulator {
    /// Binds `address` (port 0: any free one) and serves `world` on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, mut world: World) -> io::Result<Simulator> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        world.reseed(&format!("{address} {:?}", world.clock.now()));
        let shared = Shared::new(world, address);
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Ok(Simulator { shared, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address()
    }

    /// The counterpart of `https://bitbucket.org`.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address())
    }

    /// The counterpart of `https://api.bitbucket.org/2.0`.
    pub fn api_url(&self) -> String {
        format!("{}/2.0", self.url())
    }

    /// Looks at the world or changes it. No request is served meanwhile: be short, and never call this within.
    pub fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.shared.world())
    }

    /// Every request so far, oldest first; without the simulator's own pages and `/_sim/`.
    pub fn requests(&self) -> Vec<Logged> {
        self.with(|world| world.requests().to_vec())
    }

    /// How many requests so far went to `endpoint`, one of [`crate::ENDPOINTS`], whatever became of them.
    pub fn count(&self, endpoint: &str) -> usize {
        self.with(|world| world.requests().iter().filter(|logged| logged.endpoint == endpoint).count())
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.with(World::clear_requests);
    }

    /// Returns when serving ends, which it does only by a bug or by the end of the runtime.
    pub async fn ended(&mut self) {
        // Either way it is over.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The connections live in the set and end with it.
async fn serve(listener: TcpListener, shared: Shared) {
    let router = Router::new()
        .merge(oauth::router())
        .merge(rest::router())
        .merge(pages::router())
        .merge(control::router())
        .with_state(shared.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors, or a peer that left: the next one may fare better.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                connections.spawn(connection(stream, router.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, router: Router, shared: Shared) {
    // Small answers should not wait for company; without it they are right, only later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| exchange(request, router.clone(), shared.clone()));
    // It ends in an error when we cut it, or when the peer does.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by a fault")
    }
}

impl std::error::Error for Cut {}

async fn exchange(request: Request<Incoming>, router: Router, shared: Shared) -> Result<Response, Cut> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(Body::new(body), LARGEST_BODY).await else {
        return Ok(StatusCode::PAYLOAD_TOO_LARGE.into_response());
    };
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let Some(endpoint) = log::endpoint(&method, uri.path(), &body) else {
        return Ok(route(router, Request::from_parts(parts, body.into())).await);
    };

    let (slow, fault) = shared.world().take_faults(endpoint);
    if let Some(wait) = slow {
        tokio::time::sleep(wait).await;
    }
    let effect = fault.and_then(Effect::of);
    let request = Request::from_parts(parts, body.into());
    let outcome = match effect {
        Some(Effect::Cut) => Err(None),
        Some(Effect::Instead(response)) => Ok(response),
        None => Ok(route(router, request).await),
        Some(Effect::ServeHalf) => Ok(halved(route(router, request).await).await),
        Some(Effect::ServeWith(fields)) => Ok(dressed(route(router, request).await, &fields)),
        Some(Effect::ServeAndCut) => Err(account(&route(router, request).await)),
    };

    let (status, account) = match &outcome {
        Ok(response) => (response.status().as_u16(), account(response)),
        Err(account) => (0, account.clone()),
    };
    let mut world = shared.world();
    let at = world.clock.now();
    world.record(Logged {
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        status,
        account,
        endpoint,
        at,
    });
    outcome.map_err(|_| Cut)
}

async fn route(router: Router, request: Request<Body>) -> Response {
    let Ok(mut response) = router.oneshot(request).await;
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("AtlassianEdge"));
    response
}

/// What is no field is left out.
fn dressed(mut response: Response, fields: &[(String, String)]) -> Response {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn account(response: &Response) -> Option<String> {
    response.extensions().get::<About>().map(|about| about.0.clone())
}

async fn halved(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let half: Bytes = body.slice(..body.len() / 2);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, half.into())
}
