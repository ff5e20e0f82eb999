//! How requests reach an app, as the configuration says it.
//!
//! Owns: [`App`] and its settings. Must not know: which upstream is well, what is under way.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{BadUpstream, Place, Scheme, Upstream};
use crate::secret::Secret;

/// An app: one or several upstreams that are taken for the same, and how requests reach them.
#[derive(Clone, PartialEq, Debug)]
pub struct App {
    /// At least one, each once.
    pub members: Vec<Member>,
    /// Which of them is next.
    pub balance: Balance,
    /// How often a request that had been sent is sent again. Default 1.
    pub retries: u32,
    /// How long the app may take.
    pub timeouts: Timeouts,
    /// What the app is told of the host that was asked.
    pub host_header: HostHeader,
}

/// One of an app's upstreams.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// Which.
    pub target: Arc<Target>,
    /// Its share: 1 to 1000. Default 1.
    pub weight: u16,
}

/// An upstream with everything that its state depends on. Equal ones are one, however many routes lead there:
/// they are checked once, and what one route learns the others know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where it is.
    pub upstream: Upstream,
    /// Which version of HTTP.
    pub version: Version,
    /// Beyond what the public authorities vouch for.
    pub tls: Tls,
    /// How it is asked whether it is well. `None`: not at all.
    pub health_check: Option<HealthCheck>,
    /// When it is left alone for a while. `None`: never.
    pub ejection: Option<Ejection>,
    /// How many requests may be under way there at once. `None`: no limit.
    pub max_connections: Option<u32>,
}

/// Which version of HTTP an upstream is spoken to in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 only.
    H2,
    /// HTTP/2 if the app offers it in the TLS handshake, else HTTP/1.1.
    Negotiated,
}

/// Which upstream a request goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// One after the other, by weight. The default.
    RoundRobin,
    /// The one that is busy with the fewest requests, by weight.
    LeastConnections,
    /// The same for all requests of an account; of nobody, by client address.
    Account,
    /// The same for all requests from a client address.
    ClientAddress,
}

impl Balance {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
            Balance::Account => "account",
            Balance::ClientAddress => "client-address",
        }
    }
}

/// How long an app may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// To take a connection, TLS included. Default 5 s.
    pub connect: Duration,
    /// From the end of the request to the header of the answer. Default 60 s.
    pub header: Duration,
    /// For silence within an answer; at least `header`. Default 60 s. Not for streams.
    pub idle: Duration,
    /// In which nothing of a request's body is taken. Default 60 s.
    pub write: Duration,
    /// From the decision to the end of the answer. Default: none. Not for streams.
    pub total: Option<Duration>,
    /// How long an unused connection is kept. Zero: not at all. Default 4 s.
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(5),
            header: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(60),
            total: None,
            keep_alive: Duration::from_secs(4),
        }
    }
}

/// What an app is told as `Host`. `X-Forwarded-Host` says what the visitor asked for, always.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostHeader {
    /// What the visitor asked for. The default.
    Visitors,
    /// The upstream's own host and port.
    Upstreams,
    /// This.
    Fixed(HeaderValue),
}

/// TLS with an upstream, where it is not as with every site of the web. The certificate and the name are
/// verified, always: there is no word that leaves it out.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tls {
    /// The certificates (DER) that may vouch for the app, instead of the system's.
    pub authorities: Option<Arc<[Vec<u8>]>>,
    /// The name that the app's certificate is for, instead of the URL's host. Never empty.
    pub server_name: Option<Box<str>>,
    /// What the gateway shows for itself.
    pub identity: Option<Arc<ClientIdentity>>,
}

/// A certificate of the gateway's own, and its key.
pub struct ClientIdentity {
    /// The certificate and those between it and the authority, DER. At least one.
    pub chain: Vec<Vec<u8>>,
    /// Its private key, DER.
    pub key: Secret<Vec<u8>>,
}

/// Of a key there is one for each certificate.
impl PartialEq for ClientIdentity {
    fn eq(&self, other: &ClientIdentity) -> bool {
        self.chain == other.chain
    }
}

impl Eq for ClientIdentity {}

impl Hash for ClientIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.chain.hash(state);
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// How an upstream is asked whether it is well.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HealthCheck {
    /// By what.
    pub probe: Probe,
    /// From the end of one check to the beginning of the next. Default 10 s.
    pub interval: Duration,
    /// How long one may take. Default 5 s.
    pub timeout: Duration,
    /// Good ones in a row that make it well again. Default 2.
    pub healthy_after: u32,
    /// Bad ones in a row that make it ill. Default 3.
    pub unhealthy_after: u32,
}

/// What a check does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Probe {
    /// Asks for a page.
    Http {
        /// The path, with its query.
        path: Box<str>,
        /// What it asks for as `Host`. `None`: the upstream's own.
        host: Option<Box<str>>,
        /// Which answers are good.
        expect: Vec<StatusRange>,
    },
    /// Opens a connection and closes it.
    Tcp,
}

/// Statuses from one to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is one of them.
    pub const fn has(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

/// When an upstream is left alone for a while because requests to it failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ejection {
    /// After so many failures in a row. Default 5.
    pub after: u32,
    /// For how long. Default 30 s.
    pub span: Duration,
    /// Whether an answer of 500 to 599 is a failure. Default: no.
    pub server_errors: ServerErrors,
}

/// Whether an answer of 500 to 599 is a failure of the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ServerErrors {
    /// It is.
    Count,
    /// It is an answer like any other.
    Pass,
}

/// One upstream with every setting at its default.
impl From<Upstream> for App {
    fn from(upstream: Upstream) -> App {
        let version = match upstream.scheme {
            Scheme::Http | Scheme::Unix => Version::H1,
            Scheme::Https => Version::Negotiated,
            Scheme::H2c => Version::H2,
        };
        let target = Target {
            upstream,
            version,
            tls: Tls::default(),
            health_check: None,
            ejection: None,
            max_connections: None,
        };
        App {
            members: vec![Member { target: Arc::new(target), weight: 1 }],
            balance: Balance::RoundRobin,
            retries: 1,
            timeouts: Timeouts::default(),
            host_header: HostHeader::Visitors,
        }
    }
}

/// The same, from its URL.
impl FromStr for App {
    type Err = BadUpstream;

    fn from_str(url: &str) -> Result<App, BadUpstream> {
        url.parse::<Upstream>().map(App::from)
    }
}

impl Target {
    /// The name that TLS asks for and checks. `None` without TLS, and never empty with it: without a name
    /// nothing at all would be checked.
    pub fn tls_name(&self) -> Option<&str> {
        match (&self.upstream.scheme, &self.upstream.place) {
            (Scheme::Https, Place::Network { host, .. }) => {
                Some(self.tls.server_name.as_deref().unwrap_or(host))
            }
            _ => None,
        }
    }
}

/// For people: `http://a:1 (3), http://b:1 (1), round-robin`.
impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weighted = self.members.iter().any(|member| member.weight != 1);
        for (place, Member { target, weight }) in self.members.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", target.upstream)?;
            if weighted {
                write!(f, " ({weight})")?;
            }
        }
        if self.members.len() > 1 {
            write!(f, ", {}", self.balance.as_str())?;
        }
        Ok(())
    }
}
