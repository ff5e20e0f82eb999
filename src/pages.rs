//! The gateway's own endpoints: one axum Router, the whole table in one place.
//!
//! Owns: what stands under `/.teamgate/`, and the answer to everything that is not forwarded.
//! Must not know: Pingora, sockets.

pub mod account;
pub mod hand_over;
pub mod problem;
pub mod refusal;
pub mod render;
pub mod reply;
pub mod sign_in;
pub mod words;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method};

use crate::assertion::Assertions;
use crate::facts::{Arrival, Facts, Shape, shape};
use crate::gate::{Found, Gate};
use crate::live::{Live, LiveSession};
use crate::login::{self, Login};
use crate::pages::reply::Common;
use crate::snapshot::Snapshot;

/// What the pages work with. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Knows who is asking.
    pub gate: Gate,
    /// Signs people in and out.
    pub login: Login,
    /// Knows a person's sessions.
    pub live: Live,
    /// Publishes keys.
    pub assertions: Assertions,
}

/// One request for one of our own pages; put into its extensions by whoever hands it to the router.
#[derive(Clone)]
pub struct Asked {
    /// Where and when.
    pub arrival: Arrival,
    /// By which configuration.
    pub snapshot: Arc<Snapshot>,
    /// How.
    pub method: Method,
    /// All headers.
    pub headers: HeaderMap,
}

impl Asked {
    /// The request as the gate sees it.
    pub fn facts(&self) -> Facts<'_> {
        self.arrival.facts(&self.method, &self.headers)
    }

    /// What kind of answer it can use.
    pub fn shape(&self) -> Shape {
        shape(&self.method, &self.headers)
    }

    /// What every answer to it needs.
    pub fn common(&self) -> Common<'_> {
        common(&self.snapshot, &self.arrival)
    }

    /// The first query parameter called `name`.
    pub fn param(&self, name: &str) -> Option<String> {
        let query = self.arrival.query.as_deref().unwrap_or("");
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The live session of this browser, if it has one and the store can say so.
    pub async fn session(&self, services: &Services) -> Option<Arc<LiveSession>> {
        match services.gate.session(&self.snapshot.gate, &self.facts()).await {
            Found::Session { session, .. } => Some(session),
            Found::Nobody(_) | Found::StoreAway => None,
        }
    }
}

/// What every answer to a request needs to know.
pub fn common<'a>(snapshot: &'a Snapshot, arrival: &'a Arrival) -> Common<'a> {
    Common {
        request_id: &arrival.request_id,
        now: arrival.now,
        contact: snapshot.edge.contact.as_deref(),
        gateway: &arrival.authority,
        form_origin: None,
    }
}

/// The whole table. `callback` is the path of the redirect URI, which may lie anywhere.
pub fn router(services: Services, callback: &str) -> Router {
    let mut router = Router::new()
        .route("/.teamgate/", get(account::who_am_i))
        .route("/.teamgate/login", get(sign_in::start))
        .route(login::hand_over::PATH, get(hand_over::hand_over))
        .route("/.teamgate/logout", get(sign_in::ask_to_sign_out).post(sign_in::sign_out))
        .route("/.teamgate/userinfo", get(account::userinfo))
        .route("/.teamgate/jwks.json", get(jwks))
        .route(reply::stylesheet_path(), get(async || own(reply::stylesheet().1)));
    if callback != "/.teamgate/callback" {
        router = router.route(callback, get(sign_in::callback));
    }
    router
        .route("/.teamgate/callback", get(sign_in::callback))
        .route("/.teamgate", get(account::folder))
        .fallback(async |asked: Asked| own(render::no_route(&asked.common(), asked.shape())))
        .method_not_allowed_fallback(async |asked: Asked| {
            let allowed: &[&str] = if &*asked.arrival.path == "/.teamgate/logout" {
                &["GET", "HEAD", "POST"]
            } else {
                &["GET", "HEAD"]
            };
            own(render::method_not_allowed(&asked.common(), allowed, asked.shape()))
        })
        .with_state(services)
}

/// The keys that verify assertions. Apps may keep them for five minutes: new ones are published an hour before
/// they sign.
async fn jwks(State(services): State<Services>) -> Response {
    let mut response = Response::new(Body::from(services.assertions.jwks()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Asked {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Asked, Self::Rejection> {
        parts.extensions.get::<Asked>().cloned().ok_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// A rendered answer as axum has it.
fn own(response: http::Response<Bytes>) -> Response {
    response.map(Body::from)
}

/// The same answer with cookies.
pub fn with_cookies(mut response: http::Response<Bytes>, cookies: Vec<HeaderValue>) -> http::Response<Bytes> {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
