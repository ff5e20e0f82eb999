//! The document as the modules want it: nothing left to parse, nothing that can be wrong.
//!
//! Owns: [`compile`], [`Compiled`], and what several values together must fulfil. `compile/` has the parts:
//! `listen` (listeners and their certificates), `hosts` (the gateway's own URL, the cookie), `limits` (what clients
//! may ask for), `routes` (who may go where), `store` (what keeps sessions), `strip` (header names), `secret_text`
//! (secrets in files).
//! Must not know: sockets, threads; it starts nothing.
//!
//! A value that is broken is reported already and stands at its default here, so every rule that compares
//! two values asks first whether both are sound.

mod hosts;
pub mod limits;
pub mod listen;
mod routes;
pub mod secret_text;
pub mod store;
pub mod strip;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use url::Url;

use super::Draft;
use super::document::{Document, LogFormat, LogLevel, SameSite, UserClaim};
use super::places::Places;
use super::problem::{Place, Problem, Problems};
use super::value::show_duration;
use crate::clock::Timestamp;
use crate::keys::signing::Algorithm;
use crate::listener::certificates::{Certificate, Chain, ClientCa, Fault, Identity, Named, Pair, Unsound};
use crate::membership::TeamName;
use crate::route::pattern::Pattern;
use crate::route::{Route, Table};
use crate::secret::Secret;
use crate::snapshot::Limits;
use crate::throttle::Rate;
use crate::{bitbucket, session};

use listen::Listen;
use secret_text::SecretText;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Compiled {
    /// Where to listen for browsers; at least one address, each once.
    pub listen: Vec<Listen>,
    /// The operators' listener.
    pub admin: Admin,
    /// The gateway's own origin, path `/`. https, or http on loopback.
    pub external_url: Url,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How to reach Bitbucket.
    pub bitbucket: bitbucket::Settings,
    /// Memberships: which, and how fresh.
    pub directory: Directory,
    /// How long sessions live.
    pub session: session::Settings,
    /// What every cookie of ours says.
    pub cookie: Cookie,
    /// The file of the keyring; need not exist yet.
    pub secret_file: PathBuf,
    /// What keeps sessions and tokens.
    pub store: store::Store,
    /// The statement to apps.
    pub assertion: Assertion,
    /// What is logged.
    pub log: Log,
    /// Names of request headers that no app gets, lower case; one that ends in `*` means all that begin so.
    pub strip: Vec<Box<str>>,
    /// Where people can ask.
    pub contact: Option<Url>,
    /// Whether refusals keep quiet about which teams would open the door.
    pub hide_requirements: bool,
    /// How many unused connections to apps are kept.
    pub kept_connections: usize,
    /// Patience with clients.
    pub limits: Limits,
    /// How long open requests may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// The routes in the order of the file, with what they match.
    pub routes: Vec<(Pattern, Arc<Route>)>,
    /// The same, ready to be searched.
    pub table: Arc<Table<Arc<Route>>>,
    /// What is doubtful but can be run.
    pub warnings: Problems,
}

/// The operators' listener.
#[derive(Debug)]
pub struct Admin {
    /// Where.
    pub address: SocketAddr,
    /// What callers must know; always there unless the address is loopback.
    pub token: Option<Token>,
}

/// The admin address's token.
#[derive(Clone, Debug)]
pub enum Token {
    /// It was read.
    Known(Arc<Secret<String>>),
    /// Its file is not there yet: whoever serves makes it, with a token of its own.
    ToBeMade(PathBuf),
}

impl Token {
    /// The token, if there is one by now.
    pub fn known(&self) -> Option<&Arc<Secret<String>>> {
        match self {
            Token::Known(token) => Some(token),
            Token::ToBeMade(_) => None,
        }
    }
}

/// What the directory is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// The whitelist; `None` lets every team of an account become a group, and is never an empty list.
    pub teams: Option<Vec<TeamName>>,
    /// Teams that some rule names, each once: these must be confirmed by Bitbucket, not just listed.
    pub asked: Vec<TeamName>,
    /// Whether `team/members` and `team/administrators` exist.
    pub include_team_groups: bool,
    /// Re-query at this age; less than `max_age`.
    pub refresh_after: Duration,
    /// Ask for the profile again at this age.
    pub profile_after: Duration,
    /// Older is not believed.
    pub max_age: Duration,
    /// … unless Bitbucket is down, and then up to this age. Zero, or at least `max_age`.
    pub outage_grace: Duration,
    /// How many calls to Bitbucket the gateway may make; `None`: as many as it takes.
    pub budget: Option<Rate>,
}

/// What every cookie says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// The `Domain` attribute, which rules `__Host-` out. `None` is a host-only cookie.
    pub domain: Option<Box<str>>,
    /// The `SameSite` attribute.
    pub same_site: SameSite,
    /// Whether it is `Secure`: the gateway is visited by https.
    pub secure: bool,
}

/// The statement to apps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assertion {
    /// The header that carries it.
    pub header: HeaderName,
    /// How it is signed.
    pub algorithm: Algorithm,
    /// How long one is valid.
    pub lifetime: Duration,
    /// How long a key signs.
    pub rotate_every: Duration,
    /// What `X-Forwarded-User` says.
    pub user_claim: UserClaim,
}

/// What is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important level.
    pub level: LogLevel,
    /// Whether each request gets a line.
    pub access: bool,
    /// Where audit records go besides the log.
    pub audit_file: Option<PathBuf>,
}

/// What lies around the file.
pub struct Surroundings<'a> {
    /// The folder that relative paths begin at.
    pub folder: &'a Path,
    /// Whether there is a folder that can be looked into.
    pub is_folder: &'a dyn Fn(&Path) -> bool,
    /// Reads a file, but no more than so many bytes of it.
    pub read_file: &'a dyn Fn(&Path, u64) -> std::io::Result<Vec<u8>>,
    /// The present moment: certificates expire.
    pub now: Timestamp,
    /// Reads a secret from a file.
    pub read_secret: &'a dyn Fn(&Path) -> Result<SecretText, secret_text::Error>,
    /// Reads a certificate and its key.
    pub read_certificate: &'a dyn Fn(&Pair, Timestamp) -> Result<Certificate, Unsound>,
    /// Reads CAs of client certificates.
    pub read_client_ca: &'a dyn Fn(&Named, Timestamp) -> Result<ClientCa, Fault>,
    /// Reads what vouches for an app.
    pub read_vouching: &'a dyn Fn(&Named) -> Result<Chain, Fault>,
    /// Reads a certificate that is shown to an app, and its key.
    pub read_identity: &'a dyn Fn(&Pair, Timestamp) -> Result<Identity, Unsound>,
}

/// What came of it. Without problems there is a configuration.
#[derive(Debug)]
pub struct Outcome {
    /// What can be run.
    pub compiled: Option<Compiled>,
    /// Everything that is wrong, what was found earlier included.
    pub problems: Vec<Problem>,
}

/// Compiles what was read from `file`.
pub fn compile(file: &str, draft: Draft, around: &Surroundings<'_>) -> Outcome {
    let Draft { document, places, problems } = draft;
    let mut findings = Findings { places: &places, problems, warnings: Vec::new(), around };
    let compiled = assemble(document, &mut findings);
    let Findings { mut problems, warnings, .. } = findings;
    let warnings = Problems::new(file, warnings, places.names().clone());
    let compiled = match compiled {
        Some(compiled) if problems.is_empty() => Some(Compiled { warnings, ..compiled }),
        None if problems.is_empty() => {
            problems.push(Problem::new(
                Place::START,
                "",
                "cannot be compiled, and teamgate does not know why; please report it",
            ));
            None
        }
        _ => None,
    };
    Outcome { compiled, problems }
}

/// Runs every part, whatever the others say, and only then puts them together.
fn assemble(document: Document, findings: &mut Findings<'_>) -> Option<Compiled> {
    let listen = listen::listen(&document, findings);
    let addresses: Vec<SocketAddr> = listen.iter().map(|listen| listen.address).collect();
    let admin = hosts::admin(&document, findings, &addresses);
    let external_url = hosts::external_url(&document, findings);
    let redirect_uri = hosts::redirect_uri(&document, findings, external_url.as_ref());
    let cookie = hosts::cookie(&document, findings, external_url.as_ref());
    hosts::networks(&document, findings);
    hosts::bitbucket_urls(&document, findings);
    let client_secret = client_secret(&document, findings);
    let asked = routes::teams(&document, findings);
    let directory = directory(&document, findings, asked);
    let session = sessions(&document, findings);
    let assertion = assertion(&document, findings);
    let strip = strip::effective(&document.strip_headers, findings);
    let limits = limits::limits(&document, findings);
    let store = store::store(&document, findings);
    let ours = routes::Gateway { listen: &addresses, admin: document.admin.address.0, cookie: &cookie };
    let routes = routes::routes(&document, findings, &ours);
    let table = routes::table(&routes, external_url.as_ref(), findings)?;
    Some(Compiled {
        listen,
        admin: admin?,
        external_url: external_url?,
        trusted_proxies: document.trusted_proxies.into_iter().map(|net| net.0).collect(),
        bitbucket: bitbucket::Settings {
            client_id: document.bitbucket.client_id?.0.into(),
            client_secret: client_secret?,
            redirect_uri: redirect_uri?,
            web_url: document.bitbucket.web_url.0,
            api_url: document.bitbucket.api_url.0,
            timeout: Duration::from_secs(10),
        },
        directory,
        session,
        cookie,
        secret_file: findings.path(&document.secret_file.0),
        store: store?,
        assertion,
        log: Log {
            format: document.log.format,
            level: document.log.level,
            access: document.log.access,
            audit_file: document.log.audit_file.map(|file| findings.path(&file.0)),
        },
        strip,
        contact: document.contact.map(|contact| contact.0),
        hide_requirements: document.hide_requirements,
        kept_connections: usize::try_from(document.kept_connections.0).unwrap_or(usize::MAX),
        limits,
        shutdown_grace: document.shutdown_grace.0,
        routes: routes.into_iter().map(|found| (found.pattern, found.route)).collect(),
        table: Arc::new(table),
        warnings: Problems::default(),
    })
}

fn client_secret(document: &Document, findings: &mut Findings<'_>) -> Option<Arc<Secret<String>>> {
    let (inline, file) = ("bitbucket.client_secret", "bitbucket.client_secret_file");
    let places = findings.places;
    match (places.mentions(inline), places.mentions(file)) {
        (true, true) => {
            findings.problem(file, "the secret is given twice; keep this or `client_secret`");
            None
        }
        (false, false) if places.is_broken("bitbucket") || !places.has("bitbucket") => None,
        (false, false) => {
            findings.problem("bitbucket", "the client's secret is missing; add `client_secret: $BITBUCKET_CLIENT_SECRET` or `client_secret_file: …`");
            None
        }
        (true, false) => {
            let secret = document.bitbucket.client_secret.as_ref()?;
            Some(Arc::new(Secret::new(secret.0.to_string())))
        }
        (false, true) => findings.secret(file, document.bitbucket.client_secret_file.as_ref()?.0.as_ref()),
    }
}

fn directory(document: &Document, findings: &mut Findings<'_>, asked: Vec<TeamName>) -> Directory {
    let times = &document.directory;
    let [refresh, age, grace] = ["directory.refresh_after", "directory.max_age", "directory.outage_grace"];
    let max = show_duration(times.max_age.0);
    if times.refresh_after.0 >= times.max_age.0 && findings.sound(&[refresh, age]) {
        let at = findings.given(&[refresh, age]);
        findings.problem(at, format!(
            "answers are asked for again after {} but not believed after {max}; make refresh_after less than max_age",
            show_duration(times.refresh_after.0)
        ));
    }
    let pointless = !times.outage_grace.0.is_zero() && times.outage_grace.0 < times.max_age.0;
    if pointless && findings.sound(&[grace, age]) {
        let at = findings.given(&[grace, age]);
        findings.problem(at, format!(
            "an outage_grace of {} is less than max_age ({max}) and would never matter; write 0s for none, or more",
            show_duration(times.outage_grace.0)
        ));
    }
    Directory {
        teams: document
            .bitbucket
            .teams
            .as_ref()
            .map(|teams| teams.iter().map(|team| team.0.clone()).collect()),
        asked,
        include_team_groups: document.bitbucket.include_team_groups,
        refresh_after: times.refresh_after.0,
        profile_after: times.profile_after.0,
        max_age: times.max_age.0,
        outage_grace: times.outage_grace.0,
        budget: times.budget.0,
    }
}

fn sessions(document: &Document, findings: &mut Findings<'_>) -> session::Settings {
    let (lifetime, idle) = (document.session.lifetime.0, document.session.idle.0);
    let paths = ["session.idle", "session.lifetime"];
    if idle > lifetime && findings.sound(&paths) {
        let at = findings.given(&paths);
        findings.problem(
            at,
            format!(
                "an idle time of {} is more than the lifetime of {}; make it at most that",
                show_duration(idle),
                show_duration(lifetime)
            ),
        );
    }
    session::Settings { lifetime, idle }
}

fn assertion(document: &Document, findings: &mut Findings<'_>) -> Assertion {
    let settings = &document.assertion;
    if let Some(fault) = routes::forbidden(&settings.header.0) {
        findings.problem("assertion.header", format!("`{}` {fault}", settings.header.0));
    }
    if settings.header.0.as_str().starts_with("x-forwarded-") {
        findings.problem(
            "assertion.header",
            "names that begin with `X-Forwarded-` are taken; keep `X-Teamgate-Assertion`",
        );
    }
    Assertion {
        header: settings.header.0.clone(),
        algorithm: settings.algorithm.into(),
        lifetime: settings.lifetime.0,
        rotate_every: settings.rotate_every.0,
        user_claim: settings.user_claim,
    }
}

impl From<super::document::Algorithm> for Algorithm {
    fn from(named: super::document::Algorithm) -> Algorithm {
        match named {
            super::document::Algorithm::Es256 => Algorithm::Es256,
            super::document::Algorithm::EdDsa => Algorithm::EdDsa,
            super::document::Algorithm::Rs256 => Algorithm::Rs256,
        }
    }
}

/// What is found on the way, and what the parts need to find it.
struct Findings<'a> {
    places: &'a Places,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    around: &'a Surroundings<'a>,
}

impl Findings<'_> {
    fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        self.problems.push(Problem::new(self.places.of(&path), path, message));
    }

    fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        self.warnings.push(Problem::new(self.places.of(&path), path, message));
    }

    /// Whether nothing is reported about any of `paths`.
    fn sound(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| !self.places.is_broken(path))
    }

    /// The first of `paths` that the file has: where to complain about values that do not fit together.
    fn given<'p>(&self, paths: &[&'p str]) -> &'p str {
        paths.iter().copied().find(|path| self.places.has(path)).or(paths.first().copied()).unwrap_or("")
    }

    fn path(&self, written: &str) -> PathBuf {
        self.around.folder.join(written)
    }

    /// Like [`Findings::secret`], but a file that is not there, in a folder that is, is no problem.
    fn token(&mut self, path: &str, written: &str) -> Option<Token> {
        let file = self.path(written);
        if let Err(secret_text::Error::Missing) = (self.around.read_secret)(&file) {
            return Some(Token::ToBeMade(file));
        }
        self.secret(path, written).map(Token::Known)
    }

    fn secret(&mut self, path: &str, written: &str) -> Option<Arc<Secret<String>>> {
        match (self.around.read_secret)(&self.path(written)) {
            Ok(SecretText { secret, exposed: None }) => Some(Arc::new(secret)),
            Ok(SecretText { secret, exposed: Some(mode) }) => {
                self.warning(path, format!("others on this machine can read `{written}` (mode {mode:03o}); run `chmod 600 {written}`"));
                Some(Arc::new(secret))
            }
            Err(fault) => {
                self.problem(path, format!("`{written}` {fault}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::error::Error;

    use serde_json::Value;

    use super::*;
    use crate::config::read;
    use crate::config::schema::{properties, resolve, schema};
    use crate::listener::certificates::Part;
    use crate::listener::certificates::tests::NOW;

    type Tested = Result<(), Box<dyn Error>>;

    const FULL: &str = r#"
listen:
  - { address: "127.0.0.1:8080", h2c: true, proxy_protocol: true }
  - { address: "127.0.0.1:8082", redirect_to_https: true }
  - address: "127.0.0.1:8443"
    tls: { certificates: [{ cert: tls.crt, key: tls.key }], min_version: 1.3, client_ca: ca.pem }
    hsts: { max_age: 366d, include_subdomains: true, preload: true }
admin: { address: "127.0.0.1:9090", token_file: token }
external_url: https://gate.int.example.com
trusted_proxies: [10.0.0.0/8]
bitbucket:
  client_id: an-id
  client_secret: s3cret
  redirect_uri: https://gate.int.example.com/oauth2/callback
  teams: [acme, ops, "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}"]
  include_team_groups: true
  web_url: https://bitbucket.example.com
  api_url: https://api.example.com/2.0
directory: { refresh_after: 4m, profile_after: 5h, max_age: 50m, outage_grace: 3h, budget: 800/h }
session: { lifetime: 20h, idle: 7h, cookie_domain: int.example.com, same_site: none }
secret_file: keys
contact: mailto:ask@example.com
hide_requirements: true
store: { kind: embedded, path: kept }
assertion: { header: X-Said, algorithm: EdDSA, lifetime: 4m, rotate_every: 20d, user_claim: email }
log: { format: json, level: debug, access: false, audit_file: audit.jsonl }
strip_headers: { add: [X-Acme-*], keep: [X-WEBAUTH-*] }
upstream_timeouts: { connect: 4s, header: 50s, idle: 65s, write: 55s, total: 30m, keep_alive: 3s }
kept_connections: 99
limits:
  { header_bytes: 31KiB, header_fields: 99, target_bytes: 7KiB, handshake_timeout: 9s, header_timeout: 8s,
    body_timeout: 57s, answer_timeout: 58s, keep_alive: 74s, requests_per_connection: 9999, connections: 9998,
    connections_per_address: 997, http2_streams: 98, sign_ins: 500/m, callbacks: 500/h }
shutdown_grace: 20s
routes:
  - name: wiki
    host: wiki.int.example.com
    path: /docs
    methods: [GET]
    teams: [ops]
    deny: [{ account: "{5e1f9b0c-94e7-4a51-8a41-1df0a2c1b3d4}" }]
    max_age: 60s
    outage_grace: { for: 2h, methods: [GET, HEAD] }
    upstream: http://10.0.0.5:8080
    audience: the-wiki
    headers: { X-Name: "{name}" }
    groups: matching
    plain_headers: false
    allow_in_path: [semicolon]
    strip_prefix: /docs
    request_headers: { set: { X-Api-Key: key }, remove: [X-Debug] }
    response_headers: { set: { X-Frame-Options: DENY }, remove: [Server] }
    body_limit: 10MiB
  - { name: one, path_exact: /one, access: signed-in, upstream: "http://10.0.0.6:8080" }
  - { name: many, path_regex: "/many/.*", allow: [{ all: [{ team: acme }, { any: [{ email: ada@example.com }] }] }, { not: { email_domain: example.net } }, { repository: acme/api, permission: write }], upstream: "http://10.0.0.7:8080", methods: [OPTIONS], cors_preflight: pass, rewrite: [{ regex: "/(.*)", to: "/to/{1}" }] }
  - { name: moved, path: /moved, access: public, redirect: { to: "https://new.example.com", prefix: /r-new, query: drop, status: 308 } }
  - { name: move, path: /move, access: public, redirect: { scheme: http, host: b.example.com, port: 81, path: /there } }
  - { name: said, path: /said, access: public, respond: { status: 503, body: closed, content_type: text/html } }
  - { name: file, path: /file, access: public, respond: { body_file: closed.html } }
  - { name: files, path: /files, access: public, static: { root: site, index: start.html, fallback: app.html, precompressed: true } }
  - name: several
    path: /several
    teams: [acme]
    upstreams: ["https://10.0.1.6:8080", { url: "https://10.0.1.7:8080", weight: 3 }]
    balance: least-connections
    health_check: { path: /well, host: well.example.com, expect: [200, 3xx], interval: 9s, timeout: 4s, healthy_after: 4, unhealthy_after: 7 }
    ejection: { after: 6, for: 29s, server_errors: true }
    retries: 2
    max_connections: 90
    http_version: h2
    upstream_tls: { ca: app-root.pem, server_name: app.internal, cert: gateway.pem, key: gateway.key }
    upstream_timeouts: { connect: 2s, header: 20s, idle: 30s, write: 40s, total: 10m, keep_alive: 50s }
    host_header: several.example.com
  - { name: connects, path: /connects, teams: [acme], upstream: "http://10.0.1.8:8080", health_check: { tcp: true } }
"#;

    /// For each key of the file: what to replace in [`FULL`], and by what.
    const CHANGES: &[(&str, &str, &str)] = &[
        ("listen", "listen:\n", "listen:\n  - { address: 127.0.0.1:8088 }\n"),
        ("listen.address", "127.0.0.1:8080", "127.0.0.1:8081"),
        ("listen.h2c", "h2c: true", "h2c: false"),
        ("listen.proxy_protocol", ", proxy_protocol: true", ""),
        ("listen.redirect_to_https", ", redirect_to_https: true", ""),
        ("listen.tls", ", client_ca: ca.pem", ""),
        ("listen.tls.certificates", "certificates: [", "certificates: [{ cert: a, key: b }, "),
        ("listen.tls.certificates.cert", "cert: tls.crt", "cert: other.crt"),
        ("listen.tls.certificates.key", "key: tls.key", "key: other.key"),
        ("listen.tls.min_version", "min_version: 1.3", "min_version: 1.2"),
        ("listen.tls.client_ca", "ca.pem", "cas.pem"),
        ("listen.hsts", ", preload: true", ""),
        ("listen.hsts.max_age", "366d", "367d"),
        (
            "listen.hsts.include_subdomains",
            "include_subdomains: true, preload: true",
            "include_subdomains: false",
        ),
        ("listen.hsts.preload", "preload: true", "preload: false"),
        ("admin", "admin: { address: \"127.0.0.1:9090\", token_file: token }", ""),
        ("admin.address", "127.0.0.1:9090", "127.0.0.1:9091"),
        ("admin.token_file", ", token_file: token", ""),
        ("external_url", "external_url: https://gate.", "external_url: https://door."),
        ("trusted_proxies", "[10.0.0.0/8]", "[10.0.0.0/9]"),
        ("bitbucket", "an-id", "another"),
        ("bitbucket.client_id", "client_id: an-id", "client_id: b"),
        ("bitbucket.client_secret", "s3cret", "other"),
        ("bitbucket.client_secret_file", "client_secret: s3cret", "client_secret_file: x"),
        ("bitbucket.redirect_uri", "  redirect_uri: https://gate.int.example.com/oauth2/callback\n", ""),
        ("bitbucket.teams", "teams: [acme, ops, ", "teams: [acme, ops, more, "),
        ("bitbucket.include_team_groups", "include_team_groups: true", "include_team_groups: false"),
        ("bitbucket.web_url", "https://bitbucket.example.com", "https://b.example.com"),
        ("bitbucket.api_url", "https://api.example.com/2.0", "https://api.example.com/3.0"),
        ("directory", "refresh_after: 4m, ", ""),
        ("directory.refresh_after", "refresh_after: 4m", "refresh_after: 3m"),
        ("directory.profile_after", "5h", "4h"),
        ("directory.max_age", "max_age: 50m", "max_age: 40m"),
        ("directory.outage_grace", "outage_grace: 3h", "outage_grace: 0s"),
        ("directory.budget", "budget: 800/h", "budget: none"),
        ("session", "same_site: none", "same_site: lax"),
        ("session.lifetime", "lifetime: 20h", "lifetime: 21h"),
        ("session.idle", "idle: 7h", "idle: 6h"),
        ("session.cookie_domain", "cookie_domain: int.example.com", "cookie_domain: example.com"),
        ("session.same_site", "same_site: none", "same_site: lax"),
        ("secret_file", "secret_file: keys", ""),
        ("contact", "mailto:ask@", "mailto:b@"),
        ("hide_requirements", "hide_requirements: true", ""),
        ("store", "store: { kind: embedded, path: kept }", ""),
        ("store.kind", "kind: embedded, path: kept", "kind: redis, url: \"redis://r\""),
        ("store.path", "path: kept", "path: elsewhere"),
        ("assertion", ", user_claim: email", ""),
        ("assertion.header", "X-Said", "X-Told"),
        ("assertion.algorithm", "EdDSA", "RS256"),
        ("assertion.lifetime", "lifetime: 4m", "lifetime: 3m"),
        ("assertion.rotate_every", "20d", "21d"),
        ("assertion.user_claim", "user_claim: email", "user_claim: nickname"),
        ("log", "format: json, ", ""),
        ("log.format", "format: json", "format: text"),
        ("log.level", "level: debug", "level: warn"),
        ("log.access", "access: false", "access: true"),
        ("log.audit_file", "audit.jsonl", "a.jsonl"),
        ("strip_headers", "add: [X-Acme-*], ", ""),
        ("strip_headers.add", "[X-Acme-*]", "[X-Acme]"),
        ("strip_headers.keep", "keep: [X-WEBAUTH-*]", "keep: []"),
        ("upstream_timeouts", "connect: 4s, ", ""),
        ("upstream_timeouts.connect", "connect: 4s", "connect: 3s"),
        ("upstream_timeouts.header", "header: 50s", "header: 51s"),
        ("upstream_timeouts.idle", "idle: 65s", "idle: 66s"),
        ("upstream_timeouts.write", "write: 55s", "write: 51s"),
        ("upstream_timeouts.total", "total: 30m", "total: 31m"),
        ("upstream_timeouts.keep_alive", "keep_alive: 3s", "keep_alive: 0s"),
        ("kept_connections", "kept_connections: 99", "kept_connections: 98"),
        ("limits", "header_bytes: 31KiB, ", ""),
        ("limits.header_bytes", "31KiB", "30KiB"),
        ("limits.header_fields", "header_fields: 99,", "header_fields: 98,"),
        ("limits.target_bytes", "target_bytes: 7KiB", "target_bytes: 6KiB"),
        ("limits.handshake_timeout", "handshake_timeout: 9s", "handshake_timeout: 8s"),
        ("limits.header_timeout", "header_timeout: 8s", "header_timeout: 9s"),
        ("limits.body_timeout", "body_timeout: 57s", "body_timeout: 56s"),
        ("limits.answer_timeout", "answer_timeout: 58s", "answer_timeout: 56s"),
        ("limits.keep_alive", "keep_alive: 74s", "keep_alive: 73s"),
        ("limits.requests_per_connection", "requests_per_connection: 9999", "requests_per_connection: 1"),
        ("limits.connections", "connections: 9998", "connections: 9997"),
        ("limits.connections_per_address", "connections_per_address: 997", "connections_per_address: 996"),
        ("limits.http2_streams", "http2_streams: 98", "http2_streams: 97"),
        ("limits.sign_ins", "sign_ins: 500/m", "sign_ins: none"),
        ("limits.callbacks", "callbacks: 500/h", "callbacks: 500/m"),
        ("shutdown_grace", "shutdown_grace: 20s", "shutdown_grace: 21s"),
        ("routes", "name: wiki", "name: other"),
        ("routes.name", "name: wiki", "name: pages"),
        ("routes.host", "wiki.int.example.com", "pages.int.example.com"),
        ("routes.path", "path: /docs", "path: /docs/more"),
        ("routes.path_exact", "/one", "/two"),
        ("routes.path_regex", "/many/.*", "/more/.*"),
        ("routes.methods", "methods: [GET]", "methods: [POST]"),
        ("routes.teams", "teams: [ops]", "teams: [acme]"),
        ("routes.access", "access: signed-in", "access: public"),
        ("routes.allow", "{ team: acme }, {", "{ team: ops }, {"),
        ("routes.deny", "deny: [{ account: \"{5e1f9b0c-94e7-4a51-8a41-1df0a2c1b3d4}\" }]", ""),
        ("routes.max_age", "max_age: 60s", "max_age: 61s"),
        ("routes.outage_grace", "outage_grace: { for: 2h, methods: [GET, HEAD] }", "outage_grace: 2h"),
        ("routes.outage_grace.for", "for: 2h", "for: 3h"),
        ("routes.outage_grace.methods", "methods: [GET, HEAD]", "methods: [GET]"),
        ("routes.upstream", "http://10.0.0.5:8080", "https://10.0.0.5:8080"),
        (
            "routes.redirect",
            "redirect: { scheme: http, host: b.example.com, port: 81, path: /there }",
            "redirect: \"https://c.example.com\"",
        ),
        ("routes.redirect.to", "https://new.example.com", "https://newer.example.com"),
        ("routes.redirect.scheme", "scheme: http,", "scheme: https,"),
        ("routes.redirect.host", "b.example.com", "c.example.com"),
        ("routes.redirect.port", "port: 81", "port: 82"),
        ("routes.redirect.path", "path: /there", "path: /here"),
        ("routes.redirect.prefix", "prefix: /r-new", "prefix: /r-newer"),
        ("routes.redirect.query", ", query: drop", ""),
        ("routes.redirect.status", "status: 308", "status: 307"),
        ("routes.respond", "respond: { status: 503, body: closed, content_type: text/html }", "respond: {}"),
        ("routes.respond.status", "status: 503", "status: 404"),
        ("routes.respond.body", "body: closed,", "body: open,"),
        ("routes.respond.body_file", "closed.html", "open.html"),
        ("routes.respond.content_type", ", content_type: text/html", ""),
        (
            "routes.static",
            "static: { root: site, index: start.html, fallback: app.html, precompressed: true }",
            "static: site",
        ),
        ("routes.static.root", "root: site", "root: other"),
        ("routes.static.index", "start.html", "index.htm"),
        ("routes.static.fallback", "app.html", "spa.html"),
        ("routes.static.precompressed", ", precompressed: true", ""),
        ("routes.strip_prefix", "    strip_prefix: /docs\n", ""),
        ("routes.rewrite", ", rewrite: [{ regex: \"/(.*)\", to: \"/to/{1}\" }]", ""),
        ("routes.rewrite.regex", "\"/(.*)\"", "\"/(.+)\""),
        ("routes.rewrite.to", "/to/{1}", "/too/{1}"),
        ("routes.request_headers", "request_headers: { set: { X-Api-Key: key }, remove: [X-Debug] }", ""),
        ("routes.request_headers.set", "X-Api-Key: key", "X-Api-Token: key"),
        ("routes.request_headers.remove", "[X-Debug]", "[X-Trace]"),
        (
            "routes.response_headers",
            "response_headers: { set: { X-Frame-Options: DENY }, remove: [Server] }",
            "",
        ),
        ("routes.response_headers.set", "DENY", "SAMEORIGIN"),
        ("routes.response_headers.remove", "[Server]", "[Via]"),
        ("routes.cors_preflight", ", cors_preflight: pass", ""),
        ("routes.body_limit", "body_limit: 10MiB", "body_limit: 11MiB"),
        ("routes.upstreams", ", { url: \"https://10.0.1.7:8080\", weight: 3 }", ""),
        ("routes.upstreams.url", "https://10.0.1.7:8080", "https://10.0.1.9:8080"),
        ("routes.upstreams.weight", "weight: 3", "weight: 4"),
        ("routes.balance", "least-connections", "account"),
        ("routes.health_check", ", health_check: { tcp: true }", ""),
        ("routes.health_check.path", "path: /well", "path: /ill"),
        ("routes.health_check.tcp", "tcp: true", "path: /"),
        ("routes.health_check.host", "host: well.", "host: ill."),
        ("routes.health_check.expect", "[200, 3xx]", "204"),
        ("routes.health_check.interval", "interval: 9s", "interval: 8s"),
        ("routes.health_check.timeout", "timeout: 4s", "timeout: 3s"),
        ("routes.health_check.healthy_after", ", healthy_after: 4", ", healthy_after: 5"),
        ("routes.health_check.unhealthy_after", "unhealthy_after: 7", "unhealthy_after: 8"),
        ("routes.ejection", "after: 6, for: 29s, server_errors: true", ""),
        ("routes.ejection.after", "after: 6,", "after: 0,"),
        ("routes.ejection.for", "for: 29s", "for: 28s"),
        ("routes.ejection.server_errors", "server_errors: true", "server_errors: false"),
        ("routes.retries", "retries: 2", "retries: 0"),
        ("routes.max_connections", "max_connections: 90", "max_connections: 91"),
        ("routes.http_version", "http_version: h2", "http_version: h1"),
        (
            "routes.upstream_timeouts",
            "{ connect: 2s, header: 20s, idle: 30s, write: 40s, total: 10m, keep_alive: 50s }",
            "{}",
        ),
        ("routes.upstream_tls", ", server_name: app.internal, cert: gateway.pem, key: gateway.key", ""),
        ("routes.upstream_tls.ca", "ca: app-root.pem", "ca: other.pem"),
        ("routes.upstream_tls.server_name", "server_name: app.internal", "server_name: other.internal"),
        ("routes.upstream_tls.cert", "cert: gateway.pem", "cert: other.pem"),
        ("routes.upstream_tls.key", "key: gateway.key", "key: other.key"),
        ("routes.upstream_timeouts.connect", "connect: 2s", "connect: 3s"),
        ("routes.upstream_timeouts.header", "header: 20s", "header: 21s"),
        ("routes.upstream_timeouts.idle", "idle: 30s", "idle: 31s"),
        ("routes.upstream_timeouts.write", "write: 40s", "write: 41s"),
        ("routes.upstream_timeouts.total", "total: 10m", "total: 11m"),
        ("routes.upstream_timeouts.keep_alive", "keep_alive: 50s", "keep_alive: 51s"),
        ("routes.host_header", "host_header: several.example.com", "host_header: upstream"),
        ("routes.audience", "audience: the-wiki", ""),
        ("routes.headers", "{name}", "{nickname}"),
        ("routes.groups", "groups: matching", ""),
        ("routes.plain_headers", "plain_headers: false", ""),
        ("routes.allow_in_path", "[semicolon]", "[encoded_slash]"),
        ("routes.allow.team", "{ team: acme }", "{ group: ops/members }"),
        ("routes.allow.account", "{ team: acme }", "{ account: \"{5e1f9b0c-94e7-4a51-8a41-1df0a2c1b3d4}\" }"),
        ("routes.allow.email", "ada@example.com", "ada@example.net"),
        ("routes.allow.email_domain", "example.net", "example.org"),
        ("routes.allow.all", "{ all: [", "{ any: ["),
        ("routes.allow.any", "{ any: [", "{ all: ["),
        ("routes.allow.repository", "acme/api", "acme/docs"),
        ("routes.allow.permission", "permission: write", "permission: read"),
        ("routes.allow.not", "{ not: { email_domain: example.net } }", "{ email_domain: example.net }"),
    ];

    fn compiled(text: &str) -> Result<Compiled, Box<dyn Error>> {
        let read_secret = |path: &Path| {
            Ok(SecretText { secret: Secret::new(format!("from {}", path.display())), exposed: None })
        };
        let around = Surroundings {
            folder: Path::new("/etc/teamgate"),
            is_folder: &|_| true,
            read_file: &|path, _| Ok(format!("from {}", path.display()).into()),
            now: NOW,
            read_secret: &read_secret,
            read_certificate: &|_, _| {
                Certificate::for_tests(&["gate.int.example.com"])
                    .map_err(|_| Unsound { part: Part::Cert, fault: Fault::BadCertificate })
            },
            read_client_ca: &|_, _| Ok(ClientCa::for_tests()),
            read_vouching: &|file| Ok(vec![file.written.as_bytes().to_vec()]),
            read_identity: &|pair, _| {
                let chain = vec![format!("{} and {}", pair.cert.written, pair.key.written).into_bytes()];
                Ok(Identity { chain, key: Secret::new(Vec::new()), exposed: None })
            },
        };
        let outcome = compile("f", read(text, &|_| None).map_err(|p| p.to_string())?, &around);
        let problems: Vec<String> = outcome.problems.iter().map(Problem::to_string).collect();
        Ok(outcome.compiled.ok_or(problems.join("\n"))?)
    }

    /// Everything that modules are told, as text. Names every field: a new one cannot be forgotten.
    fn told(compiled: Compiled) -> String {
        let Compiled {
            listen,
            admin: Admin { address, token },
            external_url,
            trusted_proxies,
            bitbucket,
            directory,
            session,
            cookie,
            secret_file,
            store,
            assertion,
            log,
            strip,
            contact,
            hide_requirements,
            kept_connections,
            limits,
            shutdown_grace,
            routes,
            table: _,
            warnings: _,
        } = compiled;
        let token = token.as_ref().and_then(Token::known).map(|token| token.expose().clone());
        let secret = bitbucket.client_secret.expose().clone();
        let admin = (listen, address, token, external_url, trusted_proxies, bitbucket, secret);
        let password = match &store {
            store::Store::Redis(settings) => {
                settings.password.as_ref().map(|password| password.expose().clone())
            }
            store::Store::Embedded(_) => None,
        };
        let people = (directory, session, cookie, secret_file, store, password, assertion, log);
        let apps = (strip, contact, hide_requirements, kept_connections, limits, shutdown_grace, routes);
        format!("{admin:?} {people:?} {apps:?}")
    }

    fn paths(rule: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (key, rule) in properties(rule).into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // conditions nest in themselves and are the same for `deny`
            if !path.starts_with("routes.deny.")
                && !path.starts_with("routes.allow.all.")
                && !path.starts_with("routes.allow.any.")
                && !path.starts_with("routes.allow.not.")
            {
                found.insert(path.clone());
                paths(rule, &path, found);
                paths(&resolve(rule)["items"], &path, found);
            }
        }
    }

    /// The same for `kind: redis`, in a file that has it.
    const SHARED: &str = r#"{ kind: redis, urls: ["rediss://r:6380"], sentinel: m, username: u, password: p, ca: redis.pem, prefix: gate }"#;
    const SHARED_CHANGES: &[(&str, &str, &str)] = &[
        ("store.url", "urls: [\"rediss://r:6380\"]", "url: \"rediss://r:6381\""),
        ("store.urls", "[\"rediss://r:6380\"]", "[\"rediss://r:6380\", \"rediss://s\"]"),
        ("store.sentinel", "sentinel: m,", "sentinel: other,"),
        ("store.cluster", "sentinel: m,", "cluster: true,"),
        ("store.username", "username: u", "username: v"),
        ("store.password", "password: p", "password: q"),
        ("store.password_file", "password: p", "password_file: file"),
        ("store.ca", "ca: redis.pem", "ca: other.pem"),
        ("store.prefix", "prefix: gate", "prefix: door"),
    ];

    /// threat 73: an option that is parsed and not applied.
    #[test]
    fn every_key_has_an_effect() -> Tested {
        let before = told(compiled(FULL)?);
        for (path, from, to) in CHANGES {
            assert_eq!(FULL.matches(from).count(), 1, "{path}: {from}");
            let changed = FULL.replace(from, to);
            let after = compiled(&changed).map_err(|problem| format!("{path}: {problem}"))?;
            assert_ne!(told(after), before, "{path} changes nothing");
        }
        let full = FULL.replace("{ kind: embedded, path: kept }", SHARED);
        let before = told(compiled(&full)?);
        for (path, from, to) in SHARED_CHANGES {
            assert_eq!(full.matches(from).count(), 1, "{path}: {from}");
            let after = compiled(&full.replace(from, to)).map_err(|problem| format!("{path}: {problem}"))?;
            assert_ne!(told(after), before, "{path} changes nothing");
        }
        let mut known = BTreeSet::new();
        paths(schema(), "", &mut known);
        let changed: BTreeSet<String> =
            CHANGES.iter().chain(SHARED_CHANGES).map(|(path, ..)| (*path).to_owned()).collect();
        assert_eq!(known, changed);
        Ok(())
    }

    #[test]
    fn paths_are_relative_to_the_file_and_secrets_come_from_files() -> Tested {
        let text = FULL.replace("client_secret: s3cret", "client_secret_file: /run/secret");
        let compiled = compiled(&text)?;
        assert_eq!(compiled.secret_file, Path::new("/etc/teamgate/keys"));
        assert!(
            matches!(compiled.store, store::Store::Embedded(path) if path == Path::new("/etc/teamgate/kept"))
        );
        assert_eq!(compiled.bitbucket.client_secret.expose(), "from /run/secret");
        assert_eq!(
            compiled.admin.token.as_ref().and_then(Token::known).map(|t| t.expose().as_str()),
            Some("from /etc/teamgate/token")
        );
        Ok(())
    }

    #[test]
    fn what_is_left_out_has_its_documented_default() -> Tested {
        let compiled = compiled(
            "listen: [{ address: 127.0.0.1:0 }]\nexternal_url: http://localhost:8080\n\
             bitbucket: { client_id: a, client_secret: b }\n\
             routes: [{ name: a, teams: [acme], upstream: \"http://127.0.0.1:1\" }]\n",
        )?;
        let minutes = |count: u64| Duration::from_secs(count * 60);
        assert_eq!(compiled.admin.address, ([127, 0, 0, 1], 9090).into());
        assert_eq!(compiled.bitbucket.redirect_uri.as_str(), "http://localhost:8080/.teamgate/callback");
        assert_eq!(compiled.bitbucket.web_url.as_str(), "https://bitbucket.org/");
        assert_eq!(compiled.bitbucket.api_url.as_str(), "https://api.bitbucket.org/2.0");
        let directory = &compiled.directory;
        assert_eq!((directory.refresh_after, directory.profile_after), (minutes(5), minutes(360)));
        assert_eq!((directory.max_age, directory.outage_grace), (minutes(60), minutes(240)));
        assert_eq!((&directory.teams, directory.include_team_groups), (&None, false));
        assert_eq!(directory.asked, ["acme".parse()?]);
        let sessions = session::Settings { lifetime: minutes(1440), idle: minutes(480) };
        assert_eq!(compiled.session, sessions);
        let cookie = Cookie { domain: None, same_site: SameSite::Lax, secure: false };
        assert_eq!(compiled.cookie, cookie);
        assert_eq!(compiled.assertion.header, "x-teamgate-assertion");
        assert_eq!(compiled.assertion.algorithm, Algorithm::Es256);
        assert_eq!(
            (compiled.assertion.lifetime, compiled.assertion.rotate_every),
            (minutes(5), minutes(43_200))
        );
        assert!(compiled.table.find("anything", "/x", &http::Method::GET).is_some());
        assert!(compiled.strip.iter().any(|name| **name == *"x-pomerium-*"));
        Ok(())
    }
}
