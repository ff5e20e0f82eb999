//! The file's keys: names, defaults, bounds and meaning, in one place.
//!
//! Owns: [`Document`], the file as typed. The doc comments are the reference page and the descriptions in
//! the JSON Schema; defaults and bounds are read from here by the checker, so that what the page says is
//! what the program does.
//! Must not know: what the values are compiled into.
//!
//! Besides the ordinary attributes a field may carry: `x-required`, `x-min` and `x-max` (bounds of a
//! span), `x-aliases` (other spellings, from dex), `x-secret` (never quoted in a problem), `x-nullable`, and
//! `x-short` (a mapping may be written as a text alone, which then is the value of this key of it).

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{
    Account, Address, Contact, Count, Group, Header, Host, Mail, MailDomain, Method, Name, Network, Origin,
    Prose, RateLimit, Repository, Size, Span, Statuses, StripPrefix, Team, Text, WebUrl,
};
use crate::throttle::Rate;

/// The configuration of teamgate, one YAML file.
///
/// Relative paths are relative to the folder of this file. `$NAME` and `${NAME}` in a value are replaced by
/// environment variables; `$$` is a dollar sign.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    /// Where teamgate listens for browsers.
    #[schemars(extend("x-required" = true))]
    pub listen: Vec<Listen>,
    /// Where teamgate tells operators how it is: metrics, health, sessions.
    pub admin: Admin,
    /// The gateway's own address as browsers see it: scheme, host and, if unusual, port. `https`, except on
    /// loopback.
    #[schemars(extend("x-required" = true))]
    pub external_url: Option<Origin>,
    /// The proxies in front of teamgate whose `X-Forwarded-*` headers are believed. None unless named.
    pub trusted_proxies: Vec<Network>,
    /// The OAuth client at Bitbucket, and which teams may sign in.
    #[schemars(extend("x-required" = true))]
    pub bitbucket: Bitbucket,
    /// How old an answer about somebody's teams may be.
    pub directory: Directory,
    /// How long people stay signed in, and their cookie.
    pub session: Session,
    /// The file with the keys that protect cookies and everything stored; created with mode 0600 at the
    /// first start.
    pub secret_file: Text,
    /// Where people can ask; shown on refusals.
    pub contact: Option<Contact>,
    /// Keep the wanted teams off the page that refuses somebody.
    pub hide_requirements: bool,
    /// Where sessions live.
    pub store: Store,
    /// The signed statement about the account that apps receive.
    pub assertion: Assertion,
    /// What is written to the log, and how.
    pub log: Log,
    /// Which header names of the client never reach an app, besides those that teamgate sets itself.
    pub strip_headers: StripHeaders,
    /// How long apps may take.
    pub upstream_timeouts: UpstreamTimeouts,
    /// How many unused connections to apps are kept for the next request, over all apps; the longest unused go first. Each
    /// thread that serves requests keeps one at least. None is kept where `keep_alive` of `upstream_timeouts` is `0s`.
    #[schemars(extend("x-min" = "1", "x-max" = "100000"))]
    pub kept_connections: Count,
    /// How much clients may ask for, and how slowly.
    pub limits: Limits,
    /// How long open requests may go on after SIGTERM.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub shutdown_grace: Span,
    /// Which requests go to which app, and who may pass. Their order means nothing: the most specific wins.
    #[schemars(extend("x-required" = true))]
    pub routes: Vec<Route>,
}

impl Default for Document {
    fn default() -> Document {
        Document {
            listen: Vec::new(),
            admin: Admin::default(),
            external_url: None,
            trusted_proxies: Vec::new(),
            bitbucket: Bitbucket::default(),
            directory: Directory::default(),
            session: Session::default(),
            secret_file: Text("teamgate.secret".into()),
            contact: None,
            hide_requirements: false,
            store: Store::default(),
            assertion: Assertion::default(),
            log: Log::default(),
            strip_headers: StripHeaders::default(),
            upstream_timeouts: UpstreamTimeouts::default(),
            kept_connections: Count(1024),
            limits: Limits::default(),
            shutdown_grace: seconds(30),
            routes: Vec::new(),
        }
    }
}

/// One listening socket.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The IP address and port.
    #[schemars(extend("x-required" = true))]
    pub address: Option<Address>,
    /// Speak TLS here, with HTTP/2 for those who can. Unless given, plain HTTP.
    pub tls: Option<Tls>,
    /// Answer every request with 308 to the same address at https, with the port of `external_url`. Hosts that
    /// no route names get 404. Not with `tls`.
    pub redirect_to_https: bool,
    /// What browsers are told about https. Only with `tls`. Unless given, they are told its defaults, or nothing
    /// where `external_url` is this machine.
    pub hsts: Option<Hsts>,
    /// Take HTTP/2 without TLS, too (prior knowledge, as gRPC clients and proxies have it). Not with `tls`,
    /// which has HTTP/2 anyway.
    pub h2c: bool,
    /// Every connection begins with a PROXY protocol header, version 1 or 2, that says who the client is. Only
    /// from `trusted_proxies`: a connection from elsewhere is closed.
    pub proxy_protocol: bool,
}

/// TLS on a listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates with their keys. A client is shown the one with the host that it asks for (SNI): one with
    /// exactly this name before one with a wildcard; the first in the list if none has it, or the client names no
    /// host. Of several with the same name the first whose kind of key the client knows.
    #[schemars(extend("x-required" = true, "examples" = [[{ "cert": "tls.crt", "key": "tls.key" }]]))]
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version of TLS that is spoken.
    pub min_version: TlsVersion,
    /// A PEM file with one CA or several: every client must show a certificate of theirs, or gets no connection.
    #[schemars(extend("examples" = ["clients-ca.pem"]))]
    pub client_ca: Option<Text>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { certificates: Vec::new(), min_version: TlsVersion::Tls12, client_ca: None }
    }
}

/// A certificate and its key, in PEM. Files are looked at while teamgate runs: when they change, and fit, they
/// are used from the next connection on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateFiles {
    /// The server's own certificate, and behind it those that lead to a CA that browsers know.
    #[schemars(extend("x-required" = true, "examples" = ["tls.crt"]))]
    pub cert: Option<Text>,
    /// Its private key, not encrypted. May be the same file.
    #[schemars(extend("x-required" = true, "examples" = ["tls.key"]))]
    pub key: Option<Text>,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum TlsVersion {
    /// And 1.3. Everything since 2013 knows it.
    #[serde(rename = "1.2")]
    Tls12,
    /// Alone. Browsers know it since 2018.
    #[serde(rename = "1.3")]
    Tls13,
}

/// `Strict-Transport-Security` on answers over TLS, unless the app sends its own: browsers come back by https
/// alone, even where a link says http.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hsts {
    /// For how long browsers remember it. `0s` makes them forget.
    #[schemars(extend("x-min" = "0s", "x-max" = "730d"))]
    pub max_age: Span,
    /// For every host below, too, whoever serves it.
    pub include_subdomains: bool,
    /// Agree to be built into browsers, for good. Needs `include_subdomains` and a `max_age` of a year, and that
    /// somebody enters the domain at hstspreload.org.
    pub preload: bool,
}

impl Default for Hsts {
    fn default() -> Hsts {
        Hsts { max_age: seconds(30 * 86_400), include_subdomains: false, preload: false }
    }
}

/// The operators' listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The IP address and port. Anything but loopback needs `token_file`.
    pub address: Address,
    /// A file whose first line is the token that callers send as `Authorization: Bearer …`. Where there is none,
    /// `teamgate run` makes it, with mode 0600 and a token of its own.
    #[schemars(extend("examples" = ["/run/secrets/teamgate-admin"]))]
    pub token_file: Option<Text>,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { address: Address(([127, 0, 0, 1], 9090).into()), token_file: None }
    }
}

/// The client at Bitbucket. `clientID`, `clientSecret`, `redirectURI` and `includeTeamGroups`, as dex calls
/// them, work too.
#[derive(Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bitbucket {
    /// The OAuth client's id.
    #[schemars(extend("x-required" = true, "x-aliases" = ["clientID"], "examples" = ["$BITBUCKET_CLIENT_ID"]))]
    pub client_id: Option<Text>,
    /// The OAuth client's secret. One of `client_secret` and `client_secret_file` is needed.
    #[schemars(extend("x-secret" = true, "x-aliases" = ["clientSecret"], "examples" = ["$BITBUCKET_CLIENT_SECRET"]))]
    pub client_secret: Option<Text>,
    /// A file whose first line is the secret.
    #[schemars(extend("examples" = ["/run/secrets/bitbucket"]))]
    pub client_secret_file: Option<Text>,
    /// Where Bitbucket sends the browser back, exactly as the client's callback URL says. Unless given:
    /// `external_url` and `/.teamgate/callback`. Any path works, so that an old one can stay.
    #[schemars(extend("x-aliases" = ["redirectURI"], "examples" = ["https://gate.example.com/.teamgate/callback"]))]
    pub redirect_uri: Option<WebUrl>,
    /// Only these teams become groups, and who is in none of them is not signed in. Unless given, everybody
    /// with a Bitbucket account may sign in and every team of theirs becomes a group.
    pub teams: Option<Vec<Team>>,
    /// Pass and match `team/members` and `team/administrators` besides `team`.
    #[schemars(extend("x-aliases" = ["includeTeamGroups"]))]
    pub include_team_groups: bool,
    /// Where Bitbucket's pages are; another for a simulator or an egress proxy.
    pub web_url: WebUrl,
    /// Where Bitbucket's REST API is; another for a simulator or an egress proxy.
    pub api_url: WebUrl,
}

impl Default for Bitbucket {
    fn default() -> Bitbucket {
        Bitbucket {
            client_id: None,
            client_secret: None,
            client_secret_file: None,
            redirect_uri: None,
            teams: None,
            include_team_groups: false,
            web_url: fixed_url("https://bitbucket.org"),
            api_url: fixed_url("https://api.bitbucket.org/2.0"),
        }
    }
}

/// Without the secret.
impl std::fmt::Debug for Bitbucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bitbucket")
            .field("client_id", &self.client_id)
            .field("teams", &self.teams)
            .finish_non_exhaustive()
    }
}

/// Who is in which team, and how fresh that is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// Teams of accounts in use are asked again, in the background, at this age.
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub refresh_after: Span,
    /// Name, mail address and status of an account are asked again at this age; who is deactivated is signed
    /// out.
    #[schemars(extend("x-min" = "1s", "x-max" = "7d"))]
    pub profile_after: Span,
    /// An answer older than this is not believed: the request waits for a new one, or gets 503.
    #[schemars(extend("x-min" = "2s", "x-max" = "24h"))]
    pub max_age: Span,
    /// While Bitbucket is down (not: while it says no), answers up to this age are believed.
    #[schemars(extend("x-min" = "0s", "x-max" = "7d"))]
    pub outage_grace: Span,
    /// How many calls to Bitbucket the whole gateway may make. Sign-ins come first, then requests that wait, then the
    /// background, which asks less often when it does not reach. Bitbucket counts about 1,000 an hour, perhaps for
    /// the whole client. `none`: as many as it takes.
    pub budget: RateLimit,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            refresh_after: seconds(5 * 60),
            profile_after: seconds(6 * 3600),
            max_age: seconds(3600),
            outage_grace: seconds(4 * 3600),
            budget: RateLimit(Rate::new(900, Duration::from_secs(3600))),
        }
    }
}

/// The browser's session.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// From sign-in to the end, used or not.
    #[schemars(extend("x-min" = "10s", "x-max" = "90d"))]
    pub lifetime: Span,
    /// From the last request to the end; at most `lifetime`.
    #[schemars(extend("x-min" = "1s", "x-max" = "90d"))]
    pub idle: Span,
    /// A parent domain of all hosts, whose cookie then serves them all. Unless given, each host gets a cookie of
    /// its own, by hand-over from that of `external_url`, which is safer; they need have nothing in common.
    #[schemars(extend("x-nullable" = true))]
    pub cookie_domain: Option<Host>,
    /// When browsers send the cookie from other sites. `strict` does not exist: people come back from
    /// Bitbucket, which is another site, and would never arrive signed in.
    pub same_site: SameSite,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            lifetime: seconds(24 * 3600),
            idle: seconds(8 * 3600),
            cookie_domain: None,
            same_site: SameSite::Lax,
        }
    }
}

/// The cookie's `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum SameSite {
    /// With links from other sites, not with what their pages embed or post.
    Lax,
    /// Always: for apps inside frames of other sites. Needs https.
    None,
}

/// Where sessions and tokens are kept. docs/operations.md helps to choose.
#[derive(Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// What keeps them. All keys below but `path` are for `redis`.
    pub kind: StoreKind,
    /// The folder of the embedded store; created with mode 0700.
    pub path: Text,
    /// The Redis or Valkey server: `redis://host:6379`, or `rediss://` with TLS; `/2` at the end for another database
    /// than 0. User and password have keys of their own.
    #[schemars(extend("examples" = ["rediss://redis.example.com:6379"]))]
    pub url: Option<Text>,
    /// Several: Sentinels, with `sentinel`, or some nodes of a Cluster, with `cluster`.
    #[schemars(extend("examples" = [["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"]]))]
    pub urls: Vec<Text>,
    /// What the Sentinels call the group of servers whose master is to be used.
    #[schemars(extend("examples" = ["mymaster"]))]
    pub sentinel: Option<Text>,
    /// The servers are nodes of a Redis Cluster; those that are not named are found.
    pub cluster: bool,
    /// The user of an access list. Unless given: the server's default user.
    #[schemars(extend("examples" = ["teamgate"]))]
    pub username: Option<Text>,
    /// The password. With `sentinel` it is that of the servers; the Sentinels are asked without one.
    #[schemars(extend("x-secret" = true, "examples" = ["$REDIS_PASSWORD"]))]
    pub password: Option<Text>,
    /// A file whose first line is the password.
    #[schemars(extend("examples" = ["/run/secrets/redis"]))]
    pub password_file: Option<Text>,
    /// A PEM file with the authorities that may vouch for the servers, instead of the system's.
    #[schemars(extend("examples" = ["redis-ca.pem"]))]
    pub ca: Option<Text>,
    /// What the names of all keys begin with: two installations can share a server.
    pub prefix: Text,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            kind: StoreKind::Embedded,
            path: Text("./state".into()),
            url: None,
            urls: Vec::new(),
            sentinel: None,
            cluster: false,
            username: None,
            password: None,
            password_file: None,
            ca: None,
            prefix: Text("teamgate".into()),
        }
    }
}

/// Without the password.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("kind", &self.kind).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum StoreKind {
    /// One file, no server; one replica.
    Embedded,
    /// Redis or Valkey; as many replicas as you like.
    Redis,
}

/// The JWT for apps.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Assertion {
    /// The request header that carries it.
    pub header: Header,
    /// How it is signed.
    pub algorithm: Algorithm,
    /// How long one is valid.
    #[schemars(extend("x-min" = "30s", "x-max" = "1h"))]
    pub lifetime: Span,
    /// The age at which a new signing key takes over; the old one stays published until its last assertion
    /// has expired.
    #[schemars(extend("x-min" = "1h", "x-max" = "365d"))]
    pub rotate_every: Span,
    /// What `X-Forwarded-User` says.
    pub user_claim: UserClaim,
}

impl Default for Assertion {
    fn default() -> Assertion {
        Assertion {
            header: Header(http::HeaderName::from_static("x-teamgate-assertion")),
            algorithm: Algorithm::Es256,
            lifetime: seconds(5 * 60),
            rotate_every: seconds(30 * 86_400),
            user_claim: UserClaim::Uuid,
        }
    }
}

/// Signature algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum Algorithm {
    /// ECDSA on P-256: understood everywhere, small and fast.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSA, 2048 bits: for apps that know nothing else; signing is slow.
    #[serde(rename = "RS256")]
    Rs256,
}

/// What names the user to apps that read plain headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum UserClaim {
    /// The account's uuid without braces: never changes hands.
    Uuid,
    /// The confirmed primary address; accounts without one send no header.
    Email,
    /// The nickname, which people can change: for display only.
    Nickname,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
    /// One line a request.
    pub access: bool,
    /// Write audit records to this file, too.
    #[schemars(extend("examples" = ["/var/log/teamgate/audit.jsonl"]))]
    pub audit_file: Option<Text>,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Auto, level: LogLevel::Info, access: true, audit_file: None }
    }
}

/// Formats of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Levels of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Somebody should look.
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Every step.
    Trace,
}

/// The list of header names that other gateways use for identities.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StripHeaders {
    /// Names to remove from requests besides the built-in list; `X-Acme-*` removes all that begin so.
    pub add: Vec<Text>,
    /// Names of the built-in list to let through all the same, written as they stand there.
    pub keep: Vec<Text>,
}

/// Patience with apps. A route may have its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTimeouts {
    /// To open a connection, TLS included. Past it another upstream is tried, or the answer is 504.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1m"))]
    pub connect: Span,
    /// From the end of the request to the header of the answer. Past it the answer is 504. Event streams,
    /// WebSockets and gRPC included.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub header: Span,
    /// The longest silence within an answer; at least `header`. Unless given: `60s`, or `header` if that is longer.
    /// Event streams, WebSockets and gRPC are exempt.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub idle: Option<Span>,
    /// The longest time in which the app takes nothing of a request's body.
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub write: Span,
    /// From the decision to the end of the answer, tries and bodies included. Unless given, there is no such limit.
    /// Event streams, WebSockets and gRPC are exempt.
    #[schemars(extend("x-min" = "100ms", "x-max" = "30d", "examples" = ["5m"]))]
    pub total: Option<Span>,
    /// How long an unused connection is kept for the next request. Less than the app does: it must not close one
    /// that a request is just on its way over. Node, Apache and Uvicorn close after 5 s, nginx after 75 s. `0s`: none
    /// is kept.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub keep_alive: Span,
}

impl Default for UpstreamTimeouts {
    fn default() -> UpstreamTimeouts {
        UpstreamTimeouts {
            connect: seconds(5),
            header: seconds(60),
            idle: None,
            write: seconds(60),
            total: None,
            keep_alive: seconds(4),
        }
    }
}

/// What protects the gateway and the apps from clients that ask for too much or are too slow. Addresses are those
/// of the log: what trusted proxies say, or else the other end of the connection; an IPv6 address counts as its
/// /64.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long a request's header fields may be together, names and values; longer ones get 431.
    #[schemars(extend("x-min" = "1KiB", "x-max" = "256KiB"))]
    pub header_bytes: Size,
    /// How many header fields a request may have; more get 431.
    #[schemars(extend("x-min" = "10", "x-max" = "250"))]
    pub header_fields: Count,
    /// How long a request's target may be, its path and its query; a longer one gets 414.
    #[schemars(extend("x-min" = "256B", "x-max" = "32KiB"))]
    pub target_bytes: Size,
    /// From a connection's beginning to the end of its TLS handshake, the PROXY protocol's header included.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1m"))]
    pub handshake_timeout: Span,
    /// From the first byte of a request, or the beginning of its connection, to the end of its header, however
    /// many pieces it comes in.
    #[schemars(extend("x-min" = "100ms", "x-max" = "5m"))]
    pub header_timeout: Span,
    /// The longest silence within a request's body; a client that is silent for longer gets 408. WebSockets are
    /// exempt, and over HTTP/2 a body while it is being answered and gRPC between two messages.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub body_timeout: Span,
    /// The longest time that a client takes for a piece of its answer, at most 64 KiB. An app that has nothing to say,
    /// as in event streams, does not count.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub answer_timeout: Span,
    /// How long a connection may be open without a request.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
    pub keep_alive: Span,
    /// How many requests a connection may carry one after the other; then it is closed, in good order.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub requests_per_connection: Count,
    /// How many connections may be open at once; more are closed at once.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub connections: Count,
    /// How many of them from one address. An office behind one address has as many as all its people together.
    /// Trusted proxies are exempt.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub connections_per_address: Count,
    /// How many requests an HTTP/2 connection may carry at once.
    #[schemars(extend("x-min" = "1", "x-max" = "1000"))]
    pub http2_streams: Count,
    /// How many sign-ins an address may begin; more get 429. A rate lets its whole number pass at once and then one
    /// at a time. A browser without a session begins one with each page that it opens. Trusted proxies are exempt.
    pub sign_ins: RateLimit,
    /// How many sign-ins an address may come back from Bitbucket with; more get 429. Each makes calls to Bitbucket,
    /// which counts them. Trusted proxies are exempt.
    pub callbacks: RateLimit,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header_bytes: Size(32 << 10),
            header_fields: Count(100),
            target_bytes: Size(8 << 10),
            handshake_timeout: seconds(10),
            header_timeout: seconds(10),
            body_timeout: seconds(60),
            answer_timeout: seconds(60),
            keep_alive: seconds(75),
            requests_per_connection: Count(10_000),
            connections: Count(10_000),
            connections_per_address: Count(1_000),
            http2_streams: Count(100),
            sign_ins: RateLimit(Rate::new(600, Duration::from_secs(60))),
            callbacks: RateLimit(Rate::new(600, Duration::from_secs(3600))),
        }
    }
}

/// Patience with the app of one route. What is not given is as in `upstream_timeouts`, where it is explained.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// To open a connection.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1m"))]
    pub connect: Option<Span>,
    /// From the end of the request to the header of the answer.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub header: Option<Span>,
    /// The longest silence within an answer.
    #[schemars(extend("x-min" = "100ms", "x-max" = "24h"))]
    pub idle: Option<Span>,
    /// The longest time in which the app takes nothing of a request's body.
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub write: Option<Span>,
    /// From the decision to the end of the answer.
    #[schemars(extend("x-min" = "100ms", "x-max" = "30d"))]
    pub total: Option<Span>,
    /// How long an unused connection is kept.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub keep_alive: Option<Span>,
}

/// One of several upstreams: a URL alone, or with a weight.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("x-short" = "url"))]
pub struct WeightedUpstream {
    /// Scheme, host and port, as in `upstream`.
    #[schemars(extend("x-required" = true, "examples" = ["http://10.0.0.6:8080"]))]
    pub url: Option<Text>,
    /// Its share, beside those of the others.
    #[schemars(extend("x-min" = "1", "x-max" = "1000"))]
    pub weight: Count,
}

impl Default for WeightedUpstream {
    fn default() -> WeightedUpstream {
        WeightedUpstream { url: None, weight: Count(1) }
    }
}

/// How a route bridges outages of Bitbucket: an age alone, or with methods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("x-short" = "for"))]
pub struct RouteGrace {
    /// While Bitbucket is down, answers up to this age are believed.
    #[serde(rename = "for")]
    #[schemars(extend("x-required" = true, "x-min" = "0s", "x-max" = "7d", "examples" = ["4h"]))]
    pub span: Option<Span>,
    /// For requests with these methods only; for others no outage is bridged. Unless given, for all.
    #[schemars(extend("examples" = [["GET", "HEAD"]]))]
    pub methods: Option<Vec<Method>>,
}

/// Which upstream a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Balance {
    /// One after the other, by weight.
    RoundRobin,
    /// The one that is busy with the fewest requests, by weight.
    LeastConnections,
    /// The same one for all requests of an account, while it is healthy.
    Account,
    /// The same one for all requests from a client address, while it is healthy.
    ClientAddress,
}

/// Asks each upstream in the background whether it is well. One that is not gets no requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The path to ask for, by GET. One of `path` and `tcp` is needed.
    #[schemars(extend("examples" = ["/healthz"]))]
    pub path: Option<Text>,
    /// Only open a connection.
    pub tcp: bool,
    /// The `Host` to ask for. Unless given, the upstream's own host and port.
    #[schemars(extend("examples" = ["app.example.com"]))]
    pub host: Option<Text>,
    /// The good answers: a status, a class or a range, or a list of them. Unless given, `2xx`.
    #[schemars(extend("x-single" = true, "examples" = [[200, 204], "2xx", "200-399"]))]
    pub expect: Option<Vec<Statuses>>,
    /// From the end of one check to the beginning of the next.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub interval: Span,
    /// How long one may take.
    #[schemars(extend("x-min" = "100ms", "x-max" = "1m"))]
    pub timeout: Span,
    /// Good checks in a row that make an upstream healthy again.
    #[schemars(extend("x-min" = "1", "x-max" = "100"))]
    pub healthy_after: Count,
    /// Bad checks in a row that make it unhealthy. After a start the first check decides.
    #[schemars(extend("x-min" = "1", "x-max" = "100"))]
    pub unhealthy_after: Count,
}

impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            path: None,
            tcp: false,
            host: None,
            expect: None,
            interval: seconds(10),
            timeout: seconds(5),
            healthy_after: Count(2),
            unhealthy_after: Count(3),
        }
    }
}

/// Leaves an upstream alone for a while when requests to it fail: it takes no connection, or breaks it or says
/// nothing before the first byte of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Failures in a row. `0`: never.
    #[schemars(extend("x-min" = "0", "x-max" = "1000"))]
    pub after: Count,
    /// For how long. Then the first failure is enough.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
    pub r#for: Span,
    /// Take answers of 500 to 599 for failures, too.
    pub server_errors: bool,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection { after: Count(5), r#for: seconds(30), server_errors: false }
    }
}

/// TLS with an upstream that the public authorities do not vouch for, or that wants to know who is calling.
/// Certificates and names are always verified; nothing here leaves that out. Files are read at the start.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// A PEM file with the authorities that may vouch for the app, instead of the system's; or with the app's own
    /// certificate, where it has signed itself.
    #[schemars(extend("examples" = ["app-ca.pem"]))]
    pub ca: Option<Text>,
    /// The name that the app's certificate is for, where it is not the URL's host.
    #[schemars(extend("examples" = ["app.internal.example.com"]))]
    pub server_name: Option<Host>,
    /// A PEM file with the gateway's own certificate, for an app that asks for one, and behind it those that lead to
    /// its authority. Needs `key`.
    #[schemars(extend("examples" = ["gateway.pem"]))]
    pub cert: Option<Text>,
    /// A PEM file with its private key.
    #[schemars(extend("examples" = ["gateway.key"]))]
    pub key: Option<Text>,
}

/// Versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum HttpVersion {
    /// What the URL says: `http` and `unix` HTTP/1.1, `h2c` HTTP/2, and `https` HTTP/2 if the app offers it.
    Auto,
    /// HTTP/1.1, for `https` apps whose HTTP/2 is no good.
    H1,
    /// HTTP/2, for `https` apps, and behind a Unix socket.
    H2,
}

/// One route: which requests, where they lead, and who may pass. Exactly one of `teams`, `allow` and `access`
/// says who; exactly one of `upstream`, `upstreams`, `redirect`, `respond` and `static` says where. docs/routes.md shows how
/// they go together.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// What metrics, logs and pages call it; unique.
    #[schemars(extend("x-required" = true))]
    pub name: Option<Name>,
    /// The host: exact, or `*.example.com`; compared without the port. Unless given, any host.
    #[schemars(extend("examples" = ["wiki.example.com", "*.example.com"]))]
    pub host: Option<Text>,
    /// The path and everything below it, by whole segments. Unless any of the three is given, `/`.
    #[schemars(extend("examples" = ["/", "/status"]))]
    pub path: Option<Text>,
    /// This path alone.
    #[schemars(extend("examples" = ["/status"]))]
    pub path_exact: Option<Text>,
    /// A regular expression for the whole path.
    #[schemars(extend("examples" = ["/api/v[0-9]+/.*"]))]
    pub path_regex: Option<Text>,
    /// The methods. Unless given, any.
    pub methods: Option<Vec<Method>>,
    /// Any one of these groups admits: the short form of `allow`.
    pub teams: Option<Vec<Group>>,
    /// Who passes without a rule.
    pub access: Option<Access>,
    /// The long form: any one of these conditions admits …
    pub allow: Option<Vec<Condition>>,
    /// … unless one of these matches: deny wins.
    pub deny: Option<Vec<Condition>>,
    /// Stricter freshness than `directory.max_age`.
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub max_age: Option<Span>,
    /// Another bridge over outages of Bitbucket than `directory.outage_grace`: an age up to which answers are believed
    /// then, `0s` for none. A route with a `max_age` has none unless it says so here. `outage_grace: 4h` is short for
    /// `outage_grace: { for: 4h }`.
    #[schemars(extend("examples" = ["8h"]))]
    pub outage_grace: Option<RouteGrace>,
    /// The app: `http://host:port`, `https://host:port`, `h2c://host:port` (HTTP/2 without TLS) or `unix:/path` (a
    /// socket; relative to the folder of this file). A name is resolved every 30 s; each of its addresses is an
    /// upstream.
    #[schemars(extend("examples" = ["http://10.0.0.5:8080"]))]
    pub upstream: Option<Text>,
    /// Several upstreams of the same app, each a URL, or with a weight.
    #[schemars(extend("examples" = [["http://10.0.0.6:8080", "http://10.0.0.7:8080"]]))]
    pub upstreams: Option<Vec<WeightedUpstream>>,
    /// Which of several upstreams a request goes to.
    pub balance: Balance,
    /// Asks each upstream in the background whether it is well. Unless given, it is taken to be.
    pub health_check: Option<HealthCheck>,
    /// Leaves an upstream alone when requests to it fail.
    pub ejection: Ejection,
    /// How often a request that was sent and got no answer is sent again, where possible to another upstream. Only
    /// what may be repeated (RFC 9110 §9.2.2: not POST or PATCH), with at most 64 KiB of body, and before the first
    /// byte of the answer. An upstream that takes no connection costs none of them: then up to three others are tried.
    #[schemars(extend("x-min" = "0", "x-max" = "5"))]
    pub retries: Count,
    /// How many requests may be under way to one upstream at once. More get 503. Unless given, there is no limit.
    #[schemars(extend("x-min" = "1", "x-max" = "100000"))]
    pub max_connections: Option<Count>,
    /// Which HTTP is spoken with the app.
    pub http_version: HttpVersion,
    /// TLS that needs more than the URL.
    pub upstream_tls: UpstreamTls,
    /// Patience with this app.
    pub upstream_timeouts: RouteTimeouts,
    /// What the app is told as `Host`: `keep` (what the visitor asked for), `upstream` (the upstream's own host and
    /// port), or a name. `X-Forwarded-Host` always says what the visitor asked for.
    pub host_header: Text,
    /// Send everybody elsewhere. `redirect: https://new.example.com` is short for `redirect: { to: … }`.
    #[schemars(extend("examples" = ["https://new.example.com"]))]
    pub redirect: Option<Redirect>,
    /// Give the same answer to every request.
    pub respond: Option<Respond>,
    /// Serve the files of a folder. `static: ./site` is short for `static: { root: ./site }`.
    #[serde(rename = "static")]
    #[schemars(extend("examples" = ["/srv/docs"]))]
    pub files: Option<Files>,
    /// Take this off the beginning of the path: `true` for the route's own `path`, or a beginning of that. The
    /// app is told in `X-Forwarded-Prefix`.
    #[schemars(extend("examples" = [true, "/wiki"]))]
    pub strip_prefix: Option<StripPrefix>,
    /// Make another path of it: the first of these that matches is applied, and where none matches, none is.
    pub rewrite: Option<Vec<Rewrite>>,
    /// Headers of requests that are taken off, or put on with a fixed value. What an app is told about the
    /// account stands under `headers`.
    pub request_headers: HeaderEdits,
    /// Headers of this route's answers that are taken off, or put on with a fixed value. The gateway's own pages
    /// have their own.
    pub response_headers: HeaderEdits,
    /// What becomes of CORS preflights, which browsers send without cookies.
    pub cors_preflight: CorsPreflight,
    /// The most that a request's body may have: 413 beyond it, and the app sees no more than this. Unless given,
    /// any amount. WebSockets are exempt.
    #[schemars(extend("x-min" = "0B", "x-max" = "1024GiB", "examples" = ["10MiB"]))]
    pub body_limit: Option<Size>,
    /// The assertion's `aud`. Unless given, the origin under which the app is visited.
    #[schemars(extend("examples" = ["https://wiki.example.com"]))]
    pub audience: Option<Text>,
    /// Headers of the app's own liking, made of `{email}`, `{uuid}`, `{nickname}`, `{name}`, `{groups}` and
    /// `{groups_as_of}`, as in `X-Teamgate-Groups-As-Of: "{groups_as_of}"`. One whose
    /// field is not known of somebody is not sent; `{{` is a brace.
    #[schemars(extend("examples" = [{ "X-WEBAUTH-USER": "{email}" }]))]
    pub headers: BTreeMap<String, Text>,
    /// Which of the account's groups the app sees.
    pub groups: Groups,
    /// Send `X-Forwarded-User`, `-Email`, `-Groups` and `-Preferred-Username`.
    pub plain_headers: bool,
    /// What is ambiguous in a path and refused, unless the app needs it.
    pub allow_in_path: Vec<InPath>,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            name: None,
            host: None,
            path: None,
            path_exact: None,
            path_regex: None,
            methods: None,
            teams: None,
            access: None,
            allow: None,
            deny: None,
            max_age: None,
            outage_grace: None,
            upstream: None,
            redirect: None,
            respond: None,
            files: None,
            strip_prefix: None,
            rewrite: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            cors_preflight: CorsPreflight::Decide,
            body_limit: None,
            upstreams: None,
            balance: Balance::RoundRobin,
            health_check: None,
            ejection: Ejection::default(),
            retries: Count(1),
            max_connections: None,
            http_version: HttpVersion::Auto,
            upstream_tls: UpstreamTls::default(),
            upstream_timeouts: RouteTimeouts::default(),
            host_header: Text("keep".into()),
            audience: None,
            headers: BTreeMap::new(),
            groups: Groups::All,
            plain_headers: true,
            allow_in_path: Vec::new(),
        }
    }
}

/// Another address. What is not given stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("x-short" = "to"))]
pub struct Redirect {
    /// Scheme, host and port together.
    #[schemars(extend("examples" = ["https://new.example.com"]))]
    pub to: Option<Origin>,
    /// Another scheme.
    pub scheme: Option<WebScheme>,
    /// Another host.
    #[schemars(extend("examples" = ["new.example.com"]))]
    pub host: Option<Host>,
    /// Another port. Unless given, the scheme's usual one.
    #[schemars(extend("x-min" = "1", "x-max" = "65535"))]
    pub port: Option<Count>,
    /// This path, whatever was asked for.
    #[schemars(extend("examples" = ["/moved"]))]
    pub path: Option<Text>,
    /// This in place of the route's `path`; what follows stays.
    #[schemars(extend("examples" = ["/new"]))]
    pub prefix: Option<Text>,
    /// What becomes of the query.
    pub query: Query,
    /// 301, 302, 303, 307 or 308. Browsers keep 301 and 308 for good, and a mistake with them.
    #[schemars(extend("x-min" = "300", "x-max" = "399"))]
    pub status: Count,
}

impl Default for Redirect {
    fn default() -> Redirect {
        Redirect {
            to: None,
            scheme: None,
            host: None,
            port: None,
            path: None,
            prefix: None,
            query: Query::Keep,
            status: Count(302),
        }
    }
}

/// The schemes of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WebScheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// What becomes of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Query {
    /// It stays.
    Keep,
    /// It is left out.
    Drop,
}

/// One answer for every request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// The status; redirections are made with `redirect`.
    #[schemars(extend("x-min" = "200", "x-max" = "599"))]
    pub status: Count,
    /// What it says, at most 64 KiB.
    #[schemars(extend("examples" = ["closed until Monday"]))]
    pub body: Option<Prose>,
    /// A file with what it says, at most 1 MiB; read at start.
    #[schemars(extend("examples" = ["closed.html"]))]
    pub body_file: Option<Text>,
    /// The body's `Content-Type`.
    pub content_type: Text,
}

impl Default for Respond {
    fn default() -> Respond {
        Respond {
            status: Count(200),
            body: None,
            body_file: None,
            content_type: Text("text/plain; charset=utf-8".into()),
        }
    }
}

/// The files of a folder, to GET and HEAD. Names that begin with a dot are kept back, but for `/.well-known`; links
/// that lead out of the folder are not followed; folders are not listed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("x-short" = "root"))]
pub struct Files {
    /// The folder. The path of a request goes on from here, as `strip_prefix` and `rewrite` leave it.
    #[schemars(extend("x-required" = true, "examples" = ["/srv/docs"]))]
    pub root: Option<Text>,
    /// The file that stands for a folder.
    pub index: Text,
    /// The file that a person gets who opens a page that is not there, with status 200: for apps that route in the
    /// browser. Programs, scripts and images get 404.
    #[schemars(extend("examples" = ["index.html"]))]
    pub fallback: Option<Text>,
    /// Send `a.js.br`, `a.js.zst` or `a.js.gz` for `a.js` to browsers that can read it.
    pub precompressed: bool,
}

impl Default for Files {
    fn default() -> Files {
        Files { root: None, index: Text("index.html".into()), fallback: None, precompressed: false }
    }
}

/// One rule for paths.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// A regular expression for the whole path.
    #[schemars(extend("x-required" = true, "examples" = ["/old/([0-9]+)"]))]
    pub regex: Option<Text>,
    /// The path that it becomes; `{1}` and `{name}` are what the groups of the expression matched, `{{` is a brace.
    /// The query stays.
    #[schemars(extend("x-required" = true, "examples" = ["/new/{1}"]))]
    pub to: Option<Text>,
}

/// What is changed of headers: first names are removed, then others are set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderEdits {
    /// Names and values, in place of whatever was said under the names.
    #[schemars(extend("examples" = [{ "X-Frame-Options": "DENY" }]))]
    pub set: BTreeMap<String, Text>,
    /// Names that are taken off.
    pub remove: Vec<Header>,
}

/// What becomes of CORS preflights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CorsPreflight {
    /// They are decided on like other requests: without a session they end in 401.
    Decide,
    /// Real ones go to the app: `OPTIONS` with one `Origin`, one `Access-Control-Request-Method` and no body. It hears
    /// of no account and gets no cookies.
    Pass,
}

/// Rules without conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Access {
    /// Everybody, without signing in.
    Public,
    /// Any account that may sign in.
    SignedIn,
}

/// Which groups an app sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Groups {
    /// All of the account's.
    All,
    /// Those that the route's rule names.
    Matching,
}

/// Characters that a route may let into paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum InPath {
    /// `%2F`: an ordinary character then, never a separator.
    EncodedSlash,
    /// `;`: an ordinary character then.
    Semicolon,
}

/// One condition: exactly one of these keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Condition {
    /// Is in the team, or in a part of it.
    #[schemars(extend("x-aliases" = ["group"]))]
    pub team: Option<Group>,
    /// May do what `permission` says with this repository, or more. Needs the scope `repository` on the OAuth
    /// client. Bitbucket is asked only about accounts that meet a route with such a condition.
    pub repository: Option<Repository>,
    /// With `repository`: what the account must be allowed to do with it. Default: `read`. A public repository
    /// gives nobody `read`: it must have been given to the account, or to one of its groups.
    pub permission: Option<RepositoryPermission>,
    /// Is this account.
    pub account: Option<Account>,
    /// Has this confirmed primary address. Addresses can change hands; a uuid cannot.
    pub email: Option<Mail>,
    /// Has a confirmed primary address in exactly this domain.
    pub email_domain: Option<MailDomain>,
    /// Meets all of these conditions.
    pub all: Option<Vec<Condition>>,
    /// Meets at least one of these conditions.
    pub any: Option<Vec<Condition>>,
    /// Does not meet this condition.
    pub not: Option<Box<Condition>>,
}

/// What may be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum RepositoryPermission {
    /// Look at it.
    Read,
    /// Push to it; includes `read`.
    Write,
    /// Administer it; includes `write`.
    Admin,
}

fn seconds(count: u64) -> Span {
    Span(Duration::from_secs(count))
}

/// The defaults are constants of ours: that they parse is a test's business.
fn fixed_url(text: &str) -> WebUrl {
    #[expect(clippy::expect_used, reason = "a constant; every_default_is_within_its_bounds reads it")]
    WebUrl(url::Url::parse(text).expect("a default URL parses"))
}
