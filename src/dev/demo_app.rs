//! The app behind the demonstration: shows what it received, and checks it as any app should.
//!
//! Owns: taking a request apart, checking the assertion against the published keys.
//! Must not know: anything of the gateway but its address.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderMap;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::demo::{self, App, Assertion, Received, Verdict};

struct Demo {
    /// `iss` and `aud` of what we believe, and where its keys are.
    gateway: String,
    bitbucket: String,
    http: Option<reqwest::Client>,
}

/// Serves the demo app until the process ends.
pub(super) async fn serve(listener: TcpListener, gateway: String, bitbucket: String) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().ok();
    let demo = Arc::new(Demo { gateway, bitbucket, http });
    let router = Router::new().fallback(answer).with_state(demo);
    let nonblocking = listener.set_nonblocking(true);
    if let (Ok(()), Ok(listener)) = (nonblocking, tokio::net::TcpListener::from_std(listener)) {
        // Ends with the process; until then accepting goes on.
        let _ = axum::serve(listener, router).await;
    }
}

async fn answer(State(demo): State<Arc<Demo>>, request: Request) -> Response {
    let path = request.uri().path();
    let app =
        [App::Deploy, App::Status].into_iter().find(|app| path.starts_with(app.path())).unwrap_or(App::Wiki);
    let page = if path == app.style_path() {
        demo::stylesheet()
    } else if path.trim_end_matches('/') == app.path().trim_end_matches('/') {
        show(&demo, app, request.headers()).await
    } else {
        demo::not_found(app, &demo.bitbucket)
    };
    page.map(Body::from)
}

async fn show(demo: &Demo, app: App, headers: &HeaderMap) -> http::Response<Bytes> {
    let mut identity = Vec::new();
    let mut others = Vec::new();
    for (name, value) in headers {
        let pair = (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        let tells_who =
            ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username"];
        match name.as_str() {
            "x-teamgate-assertion" => identity.push((pair.0, shortened(&pair.1))),
            name if tells_who.contains(&name) => identity.push(pair),
            _ => others.push(pair),
        }
    }
    let token = headers.get("x-teamgate-assertion").and_then(|value| value.to_str().ok());
    let parts = token.and_then(|token| Some((part(token, 0)?, part(token, 1)?)));
    let checked = match token {
        Some(token) => check(demo, token).await,
        None => Err(Unbelieved::Bad(String::new())),
    };
    let assertion = parts.as_ref().map(|(header, claims)| Assertion {
        header,
        claims,
        verdict: match &checked {
            Ok(kid) => Verdict::Good { kid },
            Err(Unbelieved::Bad(why)) => Verdict::Bad { why },
            Err(Unbelieved::Unchecked(why)) => Verdict::Unchecked { why },
        },
    });
    demo::page(&Received { app, identity: &identity, others: &others, assertion, bitbucket: &demo.bitbucket })
}

fn shortened(token: &str) -> String {
    let (start, end) = (token.get(..24).unwrap_or(token), token.len().saturating_sub(12));
    format!("{start}…{} ({} characters)", token.get(end..).unwrap_or(""), token.len())
}

/// A part of a token, read without believing it.
fn part(token: &str, place: usize) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(place)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Why an assertion is not believed.
enum Unbelieved {
    /// It is wrong.
    Bad(String),
    /// Its keys could not be had.
    Unchecked(String),
}

/// Checks an assertion as docs/verify.md says: a key of the gateway's, its algorithm, issuer, audience, times.
async fn check(demo: &Demo, token: &str) -> Result<String, Unbelieved> {
    let keys = keys(demo).await.map_err(Unbelieved::Unchecked)?;
    let bad = |error: jsonwebtoken::errors::Error| Unbelieved::Bad(format!("It does not check: {error}."));
    let header = decode_header(token).map_err(bad)?;
    let kid = header.kid.unwrap_or_default();
    let key = keys.find(&kid).ok_or_else(|| Unbelieved::Bad(format!("No published key is called {kid}.")))?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[&demo.gateway]);
    validation.set_audience(&[&demo.gateway]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    let key = DecodingKey::from_jwk(key).map_err(bad)?;
    decode::<Value>(token, &key, &validation).map_err(bad)?;
    Ok(kid)
}

async fn keys(demo: &Demo) -> Result<JwkSet, String> {
    let unreachable = |_| "The gateway’s keys could not be fetched.".to_owned();
    let http = demo.http.as_ref().ok_or("The demo has no HTTP client.")?;
    let url = format!("{}/.teamgate/jwks.json", demo.gateway);
    http.get(url).send().await.map_err(unreachable)?.json().await.map_err(unreachable)
}
