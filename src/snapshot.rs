//! Everything that the configuration decides, compiled and ready, behind one pointer.
//!
//! Owns: [`Snapshot`], [`Current`], [`Edge`].
//! Must not know: the file it came from.
//!
//! A request loads the pointer once and keeps what it got to its end; a reload swaps the pointer, whole.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use url::Url;

use crate::route::Route;
use crate::telemetry::labels::Decision;
use crate::telemetry::metrics::RouteMetrics;
use crate::throttle::Rate;
use crate::{assertion, gate, login};

/// One compiled configuration.
pub struct Snapshot {
    /// What the gate decides by.
    pub gate: gate::Settings,
    /// How people sign in.
    pub login: login::Settings,
    /// How assertions are made.
    pub assertion: assertion::Settings,
    /// What concerns the edges only.
    pub edge: Edge,
    /// What each route's requests are counted in.
    pub metrics: RouteTable,
}

/// What requests are counted in, by route.
pub struct RouteTable {
    /// By the route's name.
    pub routes: HashMap<Box<str>, Arc<RouteMetrics>>,
    /// The gateway's own pages.
    pub own: Arc<RouteMetrics>,
    /// What no route matched, or what was not understood.
    pub none: Arc<RouteMetrics>,
}

/// The configuration in force. Cheap to clone; clones see the same swap.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// What concerns the edges only.
pub struct Edge {
    /// The gateway's own origin.
    pub external_url: Url,
    /// Where Bitbucket sends browsers back: host and path of the redirect URI.
    pub callback: Callback,
    /// Whose forwarded headers are believed. Default: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// Names that no client may send to an app.
    pub stripped: Stripped,
    /// Whom visitors may ask.
    pub contact: Option<Box<str>>,
    /// Whether refusals say which teams would open the door.
    pub requirements: Requirements,
    /// Bitbucket's web origin, for links and for `form-action`.
    pub bitbucket_web: Url,
    /// How much clients may ask for, and how slowly.
    pub limits: Limits,
}

/// Where Bitbucket sends browsers back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callback {
    /// The host, as [`crate::facts::Facts::host`] has it.
    pub host: Box<str>,
    /// The path, canonical.
    pub path: Box<str>,
}

/// Whether refusals say which teams would open the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requirements {
    /// They do. The default.
    Shown,
    /// `hide_requirements: true`.
    Hidden,
}

/// How much clients may ask for, and how slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How long a request's header fields may be together, in bytes, without the target. Default 32 KiB.
    pub header_bytes: usize,
    /// How many they may be. Default 100.
    pub header_fields: usize,
    /// How long a request's target may be, in bytes. Default 8 KiB.
    pub target_bytes: usize,
    /// From accepting a connection to the end of its TLS handshake, the PROXY protocol's header included.
    /// Default 10 s.
    pub handshake_timeout: Duration,
    /// From a request's first byte, or its connection's beginning, to the end of its header. Default 10 s.
    pub header_timeout: Duration,
    /// Between two pieces of a request's body. Default 60 s.
    pub body_timeout: Duration,
    /// For a client to take a piece of its answer that is there. Default 60 s.
    pub answer_timeout: Duration,
    /// How long a connection may be open without a request. At least 1 s; default 75 s.
    pub keep_alive: Duration,
    /// How many requests a connection may carry one after the other. At least 1; default 10,000.
    pub requests_per_connection: u32,
    /// How many connections may be open. At least 1; default 10,000.
    pub connections: usize,
    /// How many of them from one address. At least 1; default 1,000.
    pub connections_per_address: usize,
    /// How many requests an HTTP/2 connection may carry at once. At least 1; default 100.
    pub http2_streams: u32,
    /// How many sign-ins an address may begin. `None`: any number.
    pub sign_ins: Option<Rate>,
    /// How many callbacks an address may make. `None`: any number.
    pub callbacks: Option<Rate>,
}

/// What every app is told of each request, and so nobody else tells it, unless `proxy::upstream` passes it on.
const TOLD_BY_US: &[&str] = &[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
    "x-request-id",
    "traceparent",
    "tracestate",
];

/// Header names that no client may send to an app, in whatever spelling.
#[derive(Debug, Default)]
pub struct Stripped {
    /// Folded by [`fold`].
    exact: HashSet<Box<str>>,
    families: Vec<Box<str>>,
    /// How they begin, so that most names need no folding.
    beginnings: Beginnings,
}

impl Stripped {
    /// From names as they are configured; one that ends in `*` means all that begin so. What we tell apps ourselves
    /// is always among them.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Stripped {
        let mut stripped = Stripped::default();
        for name in names.chain(TOLD_BY_US.iter().copied()) {
            match name.strip_suffix('*') {
                Some(beginning) => {
                    stripped.beginnings.enter(beginning, true);
                    stripped.families.push(fold(beginning).into());
                }
                None => {
                    stripped.beginnings.enter(name, false);
                    stripped.exact.insert(fold(name).into());
                }
            }
        }
        stripped
    }

    /// Whether a name is one of them.
    pub fn takes(&self, name: &str) -> bool {
        if !self.beginnings.may_hold(name) {
            return false;
        }
        let folded = fold(name);
        self.exact.contains(&*folded) || self.families.iter().any(|family| folded.starts_with(&**family))
    }
}

/// The first two letters of names, folded, each pair a bit: a filter that errs on one side only.
#[derive(Debug, Default)]
struct Beginnings([u64; 16]);

impl Beginnings {
    fn enter(&mut self, name: &str, family: bool) {
        match (name.as_bytes(), family) {
            ([], true) => self.0 = [u64::MAX; 16],
            ([first], true) => (0..=u8::MAX).for_each(|second| self.set(place(*first, second))),
            (bytes, _) => self.set(place_of(bytes)),
        }
    }

    fn may_hold(&self, name: &str) -> bool {
        let place = place_of(name.as_bytes());
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn set(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
}

fn place_of(name: &[u8]) -> usize {
    place(name.first().copied().unwrap_or_default(), name.get(1).copied().unwrap_or_default())
}

fn place(first: u8, second: u8) -> usize {
    (usize::from(folded(first)) * 33 + usize::from(folded(second))) % 1024
}

impl Edge {
    /// Whether a path on `host` is one of the gateway's own.
    pub fn is_own(&self, host: &str, path: &str) -> bool {
        path == "/.teamgate"
            || path.starts_with("/.teamgate/")
            || (host == &*self.callback.host && path == &*self.callback.path)
    }

    /// Whether `address` is a proxy of ours.
    pub fn trusts(&self, address: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address.to_canonical()))
    }
}

#[cfg(test)]
impl Edge {
    /// `https://gate.example.com`, behind proxies in 10/8.
    pub(crate) fn for_tests() -> Result<Edge, Box<dyn std::error::Error>> {
        Ok(Edge {
            external_url: "https://gate.example.com".parse()?,
            callback: Callback { host: "gate.example.com".into(), path: "/oauth2/callback".into() },
            trusted_proxies: vec!["10.0.0.0/8".parse()?],
            stripped: Stripped::new(
                [
                    "x-forwarded-user",
                    "x-forwarded-email",
                    "x-forwarded-groups",
                    "x-teamgate-*",
                    "Remote-User",
                    "X-Auth-Request-*",
                ]
                .into_iter(),
            ),
            contact: None,
            requirements: Requirements::Shown,
            bitbucket_web: "https://bitbucket.org".parse()?,
            limits: Limits::for_tests(),
        })
    }
}

#[cfg(test)]
impl Limits {
    /// The defaults, without limits on sign-ins.
    pub(crate) fn for_tests() -> Limits {
        let seconds = Duration::from_secs;
        Limits {
            header_bytes: 32 << 10,
            header_fields: 100,
            target_bytes: 8 << 10,
            handshake_timeout: seconds(10),
            header_timeout: seconds(10),
            body_timeout: seconds(60),
            answer_timeout: seconds(60),
            keep_alive: seconds(75),
            requests_per_connection: 10_000,
            connections: 10_000,
            connections_per_address: 1_000,
            http2_streams: 100,
            sign_ins: None,
            callbacks: None,
        }
    }
}

impl Snapshot {
    /// What a request is counted in.
    pub fn metrics_of(&self, route: Option<&str>, decision: Decision) -> &RouteMetrics {
        match route.and_then(|name| self.metrics.routes.get(name)) {
            Some(metrics) => metrics,
            None if decision == Decision::Own => &self.metrics.own,
            None => &self.metrics.none,
        }
    }

    /// Whom an assertion for `route` is for, when it was asked for on `host`. Never what a client made up: a
    /// route for any host speaks for the gateway's own origin, and a wildcard matched the host it is asked on.
    pub fn audience<'a>(&'a self, route: &'a Route, host: &str) -> Cow<'a, str> {
        match &route.identity.audience {
            Some(audience) => Cow::Borrowed(audience),
            None if (self.login.serves)(host) => {
                let port = self.edge.external_url.port().map_or(String::new(), |port| format!(":{port}"));
                Cow::Owned(format!("{}://{host}{port}", self.edge.external_url.scheme()))
            }
            None => Cow::Borrowed(&self.assertion.issuer),
        }
    }

    /// Whether the gateway answers on `host` at all: some route serves it, or it is the gateway's own.
    pub fn serves(&self, host: &str) -> bool {
        host == &*self.edge.callback.host
            || self.edge.external_url.host_str() == Some(host)
            || self.gate.routes.serves(host)
    }
}

/// Folds a header name the way CGI, WSGI, FastCGI and PHP do when they make variables of names: what is not a
/// letter or a digit becomes the same character. `X_Auth_User` and `X.Auth.User` are `x-auth-user` to an app.
pub fn fold(name: &str) -> String {
    name.bytes().map(|byte| char::from(folded(byte))).collect()
}

fn folded(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_app_cannot_tell_apart_are_one() {
        for name in ["X-Auth-User", "x_auth_user", "X.Auth_User", "X!Auth~User"] {
            assert_eq!(fold(name), "x-auth-user");
        }
    }

    #[test]
    fn a_family_takes_every_name_that_begins_so() {
        let stripped = Stripped::new(["Remote-User", "X-Goog-*"].into_iter());
        for (name, taken) in [
            ("remote_user", true),
            ("Remote-Users", false),
            ("x-goog-iap-jwt", true),
            ("X_Goog_Anything", true),
            ("x-google", false),
        ] {
            assert_eq!(stripped.takes(name), taken, "{name}");
        }
    }

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn our_own_paths_are_ours_and_nothing_else_is() -> Outcome {
        let edge = Edge::for_tests()?;
        for (host, path, own) in [
            ("wiki.example.com", "/.teamgate", true),
            ("wiki.example.com", "/.teamgate/", true),
            ("wiki.example.com", "/.teamgate/anything/at/all", true),
            ("wiki.example.com", "/.teamgated", false),
            ("wiki.example.com", "/.Teamgate/login", false),
            ("wiki.example.com", "/teamgate/login", false),
            ("wiki.example.com", "/a/.teamgate/login", false),
            ("gate.example.com", "/oauth2/callback", true),
            ("gate.example.com", "/oauth2/callback/", false),
            ("gate.example.com", "/oauth2", false),
            ("wiki.example.com", "/oauth2/callback", false),
        ] {
            assert_eq!(edge.is_own(host, path), own, "{host}{path}");
        }
        Ok(())
    }

    #[test]
    fn a_proxy_is_trusted_by_its_plain_address() -> Outcome {
        let edge = Edge::for_tests()?;
        for (address, trusted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.1", false),
            ("::1", false),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(edge.trusts(address.parse()?), trusted, "{address}");
        }
        Ok(())
    }

    fn snapshot(external_url: &str) -> Outcome<Snapshot> {
        let mut login = login::Settings::for_tests(None)?;
        login.external_url = external_url.parse()?;
        let edge = Edge { external_url: external_url.parse()?, ..Edge::for_tests()? };
        let telemetry = crate::telemetry::Telemetry::unheard()?;
        let metrics = |name: &str| telemetry.metrics.for_route(name);
        let routes = crate::route::Table::build(Vec::new()).map_err(|_| "no routes overlap")?;
        Ok(Snapshot {
            gate: gate::Settings {
                routes: Arc::new(routes),
                session: login.session,
                cookie: login.cookie.clone(),
                directory: login.directory.clone(),
            },
            assertion: assertion::Settings {
                header: http::HeaderName::from_static("x-teamgate-assertion"),
                issuer: login.external_url.origin().ascii_serialization().into(),
                algorithm: crate::keys::Algorithm::Es256,
                lifetime: Duration::from_secs(300),
                rotate_every: Duration::from_secs(86_400),
                user_claim: assertion::UserClaim::Uuid,
                parts: assertion::TeamParts::Left,
            },
            login,
            edge,
            metrics: RouteTable {
                routes: HashMap::from([("wiki".into(), metrics("wiki"))]),
                own: metrics("(own)"),
                none: metrics("(none)"),
            },
        })
    }

    fn route(audience: Option<&str>) -> Outcome<Route> {
        let identity = crate::route::identity_out::IdentityOut {
            audience: audience.map(Into::into),
            ..crate::route::identity_out::IdentityOut::default()
        };
        let app = crate::route::destination::Destination::App(Arc::new("http://10.0.0.5:8080".parse()?));
        Ok(Route { identity, ..Route::new("wiki", crate::policy::Policy::Public, app) })
    }

    #[test]
    fn an_assertion_is_for_whom_the_configuration_says_never_for_whom_a_client_names() -> Outcome {
        let plain = snapshot("https://gate.example.com")?;
        let port = snapshot("https://gate.example.com:8443")?;
        for (snapshot, audience, host, expected) in [
            (&plain, None, "wiki.example.com", "https://wiki.example.com"),
            (&plain, None, "x.apps.example.com", "https://x.apps.example.com"),
            (&plain, None, "evil.example", "https://gate.example.com"),
            (&plain, None, "", "https://gate.example.com"),
            (&port, None, "wiki.example.com", "https://wiki.example.com:8443"),
            (&port, None, "evil.example", "https://gate.example.com:8443"),
            (&plain, Some("urn:wiki"), "wiki.example.com", "urn:wiki"),
            (&plain, Some("urn:wiki"), "evil.example", "urn:wiki"),
        ] {
            assert_eq!(snapshot.audience(&route(audience)?, host), expected, "{audience:?} {host}");
        }
        Ok(())
    }

    #[test]
    fn requests_are_counted_under_names_of_the_configuration_only() -> Outcome {
        let snapshot = snapshot("https://gate.example.com")?;
        for (route, decision, expected) in [
            (Some("wiki"), Decision::Allow, &snapshot.metrics.routes["wiki"]),
            (Some("made up"), Decision::Deny, &snapshot.metrics.none),
            (None, Decision::NoRoute, &snapshot.metrics.none),
            (None, Decision::BadRequest, &snapshot.metrics.none),
            (None, Decision::Own, &snapshot.metrics.own),
        ] {
            let found = snapshot.metrics_of(route, decision);
            assert!(std::ptr::eq(found, expected.as_ref()), "{route:?} {decision:?}");
        }
        Ok(())
    }

    #[test]
    fn a_host_is_served_if_it_is_ours_or_some_route_names_it() -> Outcome {
        use crate::route::pattern::{Methods, PathPattern, Pattern};

        let table = |hosts: &[&str]| -> Outcome<_> {
            let entry = |host: &&str| -> Outcome<_> {
                let pattern =
                    Pattern { host: host.parse()?, path: PathPattern::prefix("/")?, methods: Methods::Any };
                Ok((pattern, Arc::new(route(None)?)))
            };
            let entries = hosts.iter().map(entry).collect::<Outcome<Vec<_>>>()?;
            Ok(Arc::new(crate::route::Table::build(entries).map_err(|_| "the routes do not overlap")?))
        };
        let mut snapshot = snapshot("https://gate.example.com")?;
        snapshot.edge.callback.host = "callback.example.com".into();
        snapshot.gate.routes = table(&["wiki.example.com", "*.apps.example.com"])?;
        for (host, served) in [
            ("gate.example.com", true),
            ("callback.example.com", true),
            ("wiki.example.com", true),
            ("x.apps.example.com", true),
            ("apps.example.com", false),
            ("example.com", false),
            ("evil.example", false),
            ("", false),
        ] {
            assert_eq!(snapshot.serves(host), served, "{host}");
        }
        Ok(())
    }
}
