//! The operator's address: health, readiness, metrics, keys, sessions, teams, Bitbucket. A second axum Router on a
//! listener of its own.
//!
//! Owns: [`router`], [`serve`], [`Probes`], who may ask. Must not know: what the checks look at, where keys come
//! from.
//!
//! Nothing here can be reached through a route: it is another listener, on loopback unless the configuration
//! gives a token. What changes something stands below `/api/`, and there a page in a browser of this machine is
//! not taken for an operator.

mod call;
mod doctor;
mod keys;
mod sessions;
mod teams;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::assertion::Assertions;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::directory::checkup::Doctor;
use crate::keys::Keyring;
use crate::live::Live;
use crate::secret::Secret;
use crate::session;
use crate::snapshot::Current;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::{self, Metrics};

/// How the operator's address is guarded.
#[derive(Debug, Default)]
pub struct Settings {
    /// The bearer token that everything but `/healthz` asks for. Default: none; the configuration insists on
    /// one where the address is not loopback.
    pub token: Option<Arc<Secret<String>>>,
}

/// What the address answers from.
pub struct Admin {
    /// How it is guarded.
    pub settings: Settings,
    /// Whether the gateway can serve.
    pub probes: Arc<Probes>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The current JWKS document.
    pub jwks: Box<dyn Fn() -> Bytes + Send + Sync>,
    /// What stands below `/api/`; without it there is nothing.
    pub api: Option<Api>,
}

/// What operators can look at and change.
#[derive(Clone)]
pub struct Api {
    /// The sessions.
    pub live: Live,
    /// What slugs mean.
    pub directory: Directory,
    /// What needs which key.
    pub store: Store,
    /// The keys that sign.
    pub assertions: Assertions,
    /// The keys that seal.
    pub ring: Arc<Keyring>,
    /// Who looks at Bitbucket.
    pub doctor: Arc<Doctor>,
    /// How long sessions live, how assertions are made.
    pub current: Current,
    /// The time.
    pub clock: Clock,
    /// Where it is put on record.
    pub telemetry: Telemetry,
}

impl Api {
    fn sessions(&self) -> session::Settings {
        self.current.load().gate.session
    }

    fn router(self) -> Router {
        Router::new()
            .route("/api/sessions", get(sessions::list).delete(sessions::end_many))
            .route("/api/sessions/{id}", get(sessions::show).delete(sessions::end_one))
            .route("/api/doctor", get(doctor::report))
            .route("/api/keys", get(keys::list))
            .route("/api/keys/signing", post(keys::rotate))
            .route("/api/teams", get(teams::list))
            .route("/api/teams/{slug}/accept", post(teams::accept))
            .route("/api/teams/{slug}/forget", post(teams::forget))
            .with_state(Arc::new(self))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whether the gateway can serve: named checks, and whether it is going down.
#[derive(Default)]
pub struct Probes {
    checks: Vec<(&'static str, Check)>,
    draining: AtomicBool,
}

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.checks.iter().map(|(name, _)| *name).collect();
        f.debug_struct("Probes").field("checks", &names).field("draining", &self.draining).finish()
    }
}

impl Probes {
    /// No checks: ready.
    pub fn new() -> Probes {
        Probes::default()
    }

    /// Adds a check. It says in a sentence what is missing. It runs at each probe, on the runtime: it looks at
    /// what is known already, and neither waits nor calls anybody.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Probes {
        self.checks.push((name, Box::new(check)));
        self
    }

    /// From now on the gateway is not ready, so that load balancers send new connections elsewhere while the
    /// open requests are finished. There is no way back.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Probes::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// What is missing, as name and sentence; empty when ready.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let draining = self.is_draining().then(|| ("draining", "the gateway is going down".to_owned()));
        let failed = self.checks.iter().filter_map(|(name, check)| Some((*name, check().err()?)));
        draining.into_iter().chain(failed).collect()
    }
}

/// Every path of the operator's address.
pub fn router(mut admin: Admin) -> Router {
    let api = admin.api.take().map_or_else(Router::new, Api::router);
    let admin = Arc::new(admin);
    let guarded = Router::new()
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/.teamgate/jwks.json", get(jwks))
        .with_state(admin.clone())
        .merge(api.layer(middleware::from_fn_with_state(admin.clone(), no_page)))
        // the fallbacks stand behind the guard too: who has no token learns of no path
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(admin, guard));
    let open =
        Router::new().route("/healthz", get(|| async { "ok" })).method_not_allowed_fallback(not_allowed);
    guarded.merge(open).layer(middleware::map_response(harden))
}

async fn not_allowed() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "not with this method; see `Allow`")
}

/// Serves `router` on `listener` until `shutdown` is done and open requests are answered.
///
/// # Errors
///
/// When the listener cannot be used with the runtime, or accepting fails for good.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let missing = admin.probes.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let missing: Vec<Value> =
        missing.into_iter().map(|(check, problem)| json!({ "check": check, "problem": problem })).collect();
    let body = json!({ "ready": status == StatusCode::OK, "missing": missing });
    typed(status, "application/json", body.to_string())
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render() {
        Ok(page) => typed(StatusCode::OK, metrics::CONTENT_TYPE, page),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "metrics cannot be shown");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be shown; see the log")
        }
    }
}

async fn jwks(State(admin): State<Arc<Admin>>) -> Response {
    typed(StatusCode::OK, "application/jwk-set+json", (admin.jwks)())
}

/// Lets pass who has the token, or everybody where there is none.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let passes = admin
        .settings
        .token
        .as_ref()
        .is_none_or(|token| bearer(request.headers()).is_some_and(|guess| token.matches(guess)));
    if passes {
        return next.run(request).await;
    }
    let mut refusal = problem(StatusCode::UNAUTHORIZED, "a bearer token is needed; see admin.token_file");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"teamgate\""));
    refusal
}

/// Where no token is asked for, everything on this machine may call, and that includes the browser of whoever sits
/// at it, with pages from anywhere. So nothing is done here for a page: not what it sends across sites (`Origin`,
/// `Sec-Fetch-Site`, or a form's content type), and not what it sends to a name of its own that resolves to this
/// address (DNS rebinding). With a token none of this works, since no browser adds it by itself.
async fn no_page(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if admin.settings.token.is_none()
        && let Some(why) = from_a_page(request.headers())
    {
        return problem(StatusCode::FORBIDDEN, why);
    }
    next.run(request).await
}

/// Why a request may come from a page, if it may.
fn from_a_page(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let json = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if headers.contains_key(ORIGIN) {
        return Some("not for pages: the request has an `Origin`");
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() != b"none") {
        return Some("not for pages: the request has a `Sec-Fetch-Site`");
    }
    if headers.contains_key(CONTENT_TYPE) && !text(CONTENT_TYPE).is_some_and(json) {
        return Some("not for pages: a body here is `application/json`, if there is one");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(only), None) => only.to_str().unwrap_or(""),
        _ => "",
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_here = name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    (!is_here).then_some("the `Host` is another than this machine; use 127.0.0.1, [::1] or localhost")
}

/// The token of the one `Authorization: Bearer …` (RFC 6750 §2.1). Two such headers are ambiguous and count for
/// none.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Answers are for programs: never stored, never taken for something else than they say.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, json!({}))
}

/// RFC 9457, with members of its own in `more`.
fn problem_with(status: StatusCode, detail: &str, mut more: Value) -> Response {
    let title = status.canonical_reason().unwrap_or("error");
    more["status"] = json!(status.as_u16());
    more["title"] = json!(title);
    more["detail"] = json!(detail);
    typed(status, "application/problem+json", more.to_string())
}

fn typed(status: StatusCode, content_type: &'static str, body: impl IntoResponse) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;
    use crate::telemetry::Telemetry;

    type Outcome = Result<(), Box<dyn Error>>;

    fn admin(token: Option<&str>, probes: Probes) -> Result<Admin, Box<dyn Error>> {
        Ok(Admin {
            settings: Settings { token: token.map(|token| Arc::new(Secret::new(token.to_owned()))) },
            probes: Arc::new(probes),
            metrics: Telemetry::unheard()?.metrics,
            jwks: Box::new(|| Bytes::from_static(br#"{"keys":[]}"#)),
            api: None,
        })
    }

    async fn ask(
        router: &Router,
        method: &str,
        path: &str,
        authorization: &[&str],
    ) -> Result<(StatusCode, HeaderMap, String), Box<dyn Error>> {
        let mut request = Request::builder().method(method).uri(path);
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        let response = router.clone().oneshot(request.body(Body::empty())?).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await?;
        Ok((status, headers, String::from_utf8(body.to_vec())?))
    }

    #[tokio::test]
    async fn each_path_answers_get_and_nothing_else() -> Outcome {
        let router = router(admin(None, Probes::new())?);
        for (method, path, status, content_type, begins) in [
            ("GET", "/healthz", 200, "text/plain; charset=utf-8", "ok"),
            ("GET", "/readyz", 200, "application/json", r#"{"missing":[],"ready":true}"#),
            ("GET", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "# HELP "),
            ("GET", "/.teamgate/jwks.json", 200, "application/jwk-set+json", r#"{"keys":[]}"#),
            ("GET", "/", 404, "application/problem+json", "{"),
            ("GET", "/debug/pprof", 404, "application/problem+json", "{"),
            ("GET", "/metrics/", 404, "application/problem+json", "{"),
            ("POST", "/", 404, "application/problem+json", "{"),
            ("POST", "/metrics", 405, "application/problem+json", "{"),
            ("DELETE", "/healthz", 405, "application/problem+json", "{"),
        ] {
            let (got, headers, body) = ask(&router, method, path, &[]).await?;
            let what = format!("{method} {path}");
            assert_eq!(got, status, "{what}");
            assert_eq!(
                headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes),
                Some(content_type.as_bytes()),
                "{what}"
            );
            assert!(body.starts_with(begins), "{what}: {body}");
            assert_eq!(
                headers.get(CACHE_CONTROL).map(HeaderValue::as_bytes),
                Some(&b"no-store"[..]),
                "{what}"
            );
            if got == StatusCode::METHOD_NOT_ALLOWED {
                assert!(headers.contains_key(http::header::ALLOW), "{what}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing() -> Outcome {
        let probes = Probes::new()
            .with("configuration", || Ok(()))
            .with("store", || Err("the store does not answer".to_owned()));
        let router = router(admin(None, probes)?);
        let (status, _, body) = ask(&router, "GET", "/readyz", &[]).await?;
        assert_eq!(status, 503);
        let expected = json!({
            "ready": false,
            "missing": [{ "check": "store", "problem": "the store does not answer" }],
        });
        assert_eq!(serde_json::from_str::<Value>(&body)?, expected);
        Ok(())
    }

    #[tokio::test]
    async fn a_gateway_that_drains_is_alive_and_not_ready() -> Outcome {
        let admin = admin(None, Probes::new())?;
        let probes = Arc::clone(&admin.probes);
        let router = router(admin);
        assert_eq!(ask(&router, "GET", "/readyz", &[]).await?.0, 200);
        probes.drain();
        let (status, _, body) = ask(&router, "GET", "/readyz", &[]).await?;
        assert_eq!(status, 503);
        assert!(body.contains(r#""check":"draining""#), "{body}");
        assert_eq!(ask(&router, "GET", "/healthz", &[]).await?.0, 200);
        Ok(())
    }

    #[tokio::test]
    async fn with_a_token_only_the_pulse_is_open() -> Outcome {
        let router = router(admin(Some("t0ken"), Probes::new())?);
        assert_eq!(ask(&router, "GET", "/healthz", &[]).await?.0, 200);
        for path in ["/readyz", "/metrics", "/.teamgate/jwks.json", "/nothing", "/"] {
            let rows: [(&[&str], bool); 11] = [
                (&["Bearer t0ken"], true),
                (&["bearer t0ken"], true),
                (&[], false),
                (&["Bearer"], false),
                (&["Bearer "], false),
                (&["Bearer t0keN"], false),
                (&["Bearer t0ken2"], false),
                (&["Bearer t0ke"], false),
                (&["Basic t0ken"], false),
                (&["t0ken"], false),
                (&["Bearer t0ken", "Bearer t0ken"], false),
            ];
            for (authorization, passes) in rows {
                let (status, headers, body) = ask(&router, "GET", path, authorization).await?;
                assert_eq!(status != 401, passes, "{path} {authorization:?}");
                assert_eq!(headers.contains_key(WWW_AUTHENTICATE), !passes, "{path} {authorization:?}");
                assert!(!body.contains("t0ken"));
            }
        }
        assert_eq!(ask(&router, "POST", "/metrics", &[]).await?.0, 401);
        Ok(())
    }

    #[test]
    fn a_page_is_not_taken_for_an_operator() -> Outcome {
        let here = ("host", "127.0.0.1:9090");
        let rows: [(&[(&'static str, &str)], bool); 22] = [
            (&[here], true),
            (&[("host", "localhost:9090")], true),
            (&[("host", "LOCALHOST")], true),
            (&[("host", "[::1]:9090")], true),
            (&[("host", "[::1]")], true),
            (&[("host", "127.0.0.2")], true),
            (&[here, ("content-type", "application/json; charset=utf-8")], true),
            (&[here, ("sec-fetch-site", "none")], true),
            (&[], false),
            (&[here, here], false),
            (&[("host", "evil.example:9090")], false),
            (&[("host", "127.0.0.1.evil.example")], false),
            (&[("host", "localhost.evil.example:9090")], false),
            (&[("host", "10.0.0.1:9090")], false),
            (&[("host", "evil.example:127.0.0.1")], false),
            (&[here, ("origin", "null")], false),
            (&[here, ("origin", "http://127.0.0.1:9090")], false),
            (&[here, ("sec-fetch-site", "cross-site")], false),
            (&[here, ("sec-fetch-site", "same-site")], false),
            (&[here, ("sec-fetch-site", "same-origin")], false),
            (&[here, ("content-type", "application/x-www-form-urlencoded")], false),
            (&[here, ("content-type", "text/plain; application/json")], false),
        ];
        for (fields, passes) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_str(value)?);
            }
            assert_eq!(from_a_page(&headers).is_none(), passes, "{fields:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn it_serves_on_a_socket_until_told_to_stop() -> Outcome {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let router = router(admin(None, Probes::new())?);
        let serving = tokio::spawn(serve(listener, router, async {
            let _ = stopped.await;
        }));
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        let _ = stop.send(());
        serving.await??;
        Ok(())
    }
}
