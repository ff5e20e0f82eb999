//! Bitbucket Cloud: the only module that talks to it.
//!
//! Owns: [`Bitbucket`] and what it may be asked, its [`Error`] with the remedy, and every rule about what may
//! be sent where: a token travels in the `Authorization` header only, redirects are never followed, pages
//! stay below `api_url`, answers are bounded in bytes, pages and seconds.
//! Must not know: sessions, rules, the store, how often to ask, metrics. Who does stands at the one door through
//! which calls leave: [`Traffic`].
//!
//! Every question is one call with one deadline. Nothing is retried here, and nothing is asked twice at once in the
//! hope that one answer is faster: who asks knows the budget.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use url::Url;

use crate::clock::Timestamp;
use crate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use crate::membership::repository::{Access, RepositoryName};
use crate::secret::Secret;

mod error;
mod oauth;
pub mod observed;
mod rest;
mod transport;
mod wire;

pub use error::{Class, Error, Refusal, Remedy};

use error::Kind;

/// How to reach Bitbucket, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The client's id, as its page at Bitbucket shows it. Of any length: there are two generations.
    pub client_id: String,
    /// The client's secret. Of any length.
    pub client_secret: Arc<Secret<String>>,
    /// The callback URL exactly as it is registered, with port and path.
    pub redirect_uri: Url,
    /// Where people sign in. Default `https://bitbucket.org`.
    pub web_url: Url,
    /// Where the API is. Default `https://api.bitbucket.org/2.0`. No token is ever sent anywhere else.
    pub api_url: Url,
    /// For one question, all its pages included. Default 10 s. Connecting takes at most 5 s of it.
    pub timeout: Duration,
}

/// Bitbucket, as one OAuth client sees it. Cheap to clone; clones share connections.
///
/// A connection lives on the runtime that opened it, by asking first. Ask from a runtime that lasts as long
/// as the process; [`Bitbucket::new`] itself needs none.
#[derive(Clone)]
pub struct Bitbucket {
    inner: Arc<Inner>,
    right: Right,
}

struct Inner {
    settings: Settings,
    client: reqwest::Client,
    traffic: Arc<dyn Traffic>,
}

/// On whose behalf a call is made. When there are not enough for all, the later go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Right {
    /// To keep young what is in use.
    Background,
    /// For a request that waits.
    Waiting,
    /// For somebody who signs in.
    SignIn,
}

/// Who stands at the door through which every request leaves.
pub trait Traffic: Send + Sync {
    /// Whether a request may leave now. Asked once before each; must not block.
    ///
    /// # Errors
    ///
    /// Why not, and when it is worth asking again. The request is not sent then.
    fn admit(&self, endpoint: Endpoint, right: Right) -> Result<(), Held>;

    /// What came of a request that was admitted. Told once for each, on the asking task; must not block.
    fn done(&self, call: &Call);

    /// What the answer to a question means, once it is read: told after [`Traffic::done`], unless whoever asked went
    /// away. A permission that Bitbucket denies is an answer. Must not block.
    fn judged(&self, _endpoint: Endpoint, _verdict: Result<(), &Error>) {}

    /// What a token answer says was granted. Must not block.
    fn granted(&self, _scopes: &str) {}
}

/// Whoever only listens lets everything pass.
impl<F: Fn(&Call) + Send + Sync> Traffic for F {
    fn admit(&self, _: Endpoint, _: Right) -> Result<(), Held> {
        Ok(())
    }

    fn done(&self, call: &Call) {
        self(call);
    }
}

/// A request that was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Why.
    pub why: HeldBack,
    /// When it is worth asking again. At most 1 h.
    pub wait: Duration,
}

/// Why a request is not sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeldBack {
    /// The calls of the hour are used up, or kept for those with a better right.
    Budget,
    /// Bitbucket said 429 and wants to be left alone.
    Throttled,
    /// This endpoint failed again and again.
    Failing,
}

/// One request that went out, for metrics and the budget. A question of several pages is several calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What was asked.
    pub endpoint: Endpoint,
    /// On whose behalf.
    pub right: Right,
    /// What came of it.
    pub outcome: Outcome,
    /// From the first byte out to the last byte in.
    pub took: Duration,
    /// What else the head of the answer said.
    pub remarks: Remarks,
}

/// What Bitbucket says beside an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remarks {
    /// How long it wants to be left alone, where it said 429. At most 1 h.
    pub retry_after: Option<Duration>,
    /// Whether it says that few calls are left.
    pub near_limit: bool,
    /// When it was sent, by the clock of whoever sent it: `Date`, in whole seconds.
    pub date: Option<Timestamp>,
    /// The scopes of the token: `X-OAuth-Scopes`. At most 64.
    pub scopes: Option<Vec<Box<str>>>,
    /// What it says of the endpoint's future.
    pub notices: Notices,
}

/// What an answer says of the future of its endpoint. Each is text of at most 200 characters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notices {
    /// `Deprecation` (RFC 9745).
    pub deprecation: Option<Box<str>>,
    /// `Sunset` (RFC 8594).
    pub sunset: Option<Box<str>>,
    /// `Warning` (RFC 7234 §5.5).
    pub warning: Option<Box<str>>,
}

/// What Bitbucket can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// The page where people sign in; we ask it without anybody, for whether it takes our redirect URI.
    Authorize,
    /// A code for tokens.
    Exchange,
    /// A refresh token for new tokens.
    Refresh,
    /// Who the token's account is.
    User,
    /// Its e-mail addresses.
    Emails,
    /// The workspaces it may see.
    Workspaces,
    /// What it is in one workspace.
    Permission,
    /// What it may do with repositories of one workspace.
    Repositories,
}

impl Endpoint {
    /// Every one, in the order of their definition.
    pub const ALL: &'static [Endpoint] = &[
        Endpoint::Authorize,
        Endpoint::Exchange,
        Endpoint::Refresh,
        Endpoint::User,
        Endpoint::Emails,
        Endpoint::Workspaces,
        Endpoint::Permission,
        Endpoint::Repositories,
    ];

    /// A name for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Endpoint::Authorize => "authorize",
            Endpoint::Exchange => "exchange",
            Endpoint::Refresh => "refresh",
            Endpoint::User => "user",
            Endpoint::Emails => "emails",
            Endpoint::Workspaces => "workspaces",
            Endpoint::Permission => "permission",
            Endpoint::Repositories => "repositories",
        }
    }

    /// The scope that it needs, if any.
    pub fn scope(self) -> Option<&'static str> {
        match self {
            Endpoint::Authorize | Endpoint::Exchange | Endpoint::Refresh => None,
            Endpoint::Emails => Some("email"),
            Endpoint::User | Endpoint::Workspaces | Endpoint::Permission => Some("account"),
            // And `account`, which others need anyway.
            Endpoint::Repositories => Some("repository"),
        }
    }

    /// As Bitbucket's own documents call it.
    pub fn place(self) -> &'static str {
        match self {
            Endpoint::Authorize => "GET /site/oauth2/authorize",
            Endpoint::Exchange | Endpoint::Refresh => "POST /site/oauth2/access_token",
            Endpoint::User => "GET /2.0/user",
            Endpoint::Emails => "GET /2.0/user/emails",
            Endpoint::Workspaces => "GET /2.0/user/workspaces",
            Endpoint::Permission => "GET /2.0/user/workspaces/{team}/permission",
            Endpoint::Repositories => "GET /2.0/user/workspaces/{team}/permissions/repositories",
        }
    }
}

/// What came of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Answered with this status, whatever the body says.
    Answered(StatusCode),
    /// No whole answer within the deadline.
    TimedOut,
    /// No connection.
    Unreachable,
    /// The connection broke, or the answer outgrew its limit.
    Broken,
    /// Whoever asked went away before the answer came.
    Abandoned,
}

impl Outcome {
    /// The status, where there was an answer.
    pub fn status(self) -> Option<StatusCode> {
        match self {
            Outcome::Answered(status) => Some(status),
            _ => None,
        }
    }

    /// A name for metrics: a status worth telling apart, a status class, or the failure.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Answered(status) => match status.as_u16() {
                401 => "401",
                403 => "403",
                404 => "404",
                410 => "410",
                429 => "429",
                200..=299 => "2xx",
                300..=399 => "3xx",
                400..=499 => "4xx",
                500..=599 => "5xx",
                _ => "other",
            },
            Outcome::TimedOut => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::Broken => "broken",
            Outcome::Abandoned => "abandoned",
        }
    }
}

/// What a grant consists of. The refresh token is good for one use: store it before using the access token.
#[derive(Debug)]
pub struct Tokens {
    /// Opaque; up to 8 KiB of visible ASCII.
    pub access_token: Secret<String>,
    /// Opaque; up to 8 KiB. Absent when Bitbucket gave none.
    pub refresh_token: Option<Secret<String>>,
    /// How long the access token lives from now on. 2 h when Bitbucket does not say.
    pub expires_in: Duration,
    /// What was granted, separated by spaces, in no order. Absent when Bitbucket does not say.
    pub scopes: Option<String>,
}

/// A person, as `/user` describes them. Always an active account of type `user`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The key of the person.
    pub account: AccountId,
    /// Free text that the person chose, cut to 256 characters; the nickname where there is none.
    pub display_name: Box<str>,
    /// Free text that the person chose, cut to 256 characters.
    pub nickname: Option<Box<str>>,
    /// Whether Bitbucket calls the account active, or says nothing about it.
    pub status: Status,
}

/// What Bitbucket says of an account's standing. Any other word than `active` is a [`Refusal::Inactive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Called active.
    Active,
    /// Not mentioned. The field is optional in Bitbucket's schema.
    Unstated,
}

/// A workspace that the account may see. That alone is no membership: guests of a repository may be listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The slug at the time of asking; one that a rule can name.
    pub slug: Box<str>,
    /// The workspace's uuid.
    pub id: TeamId,
    /// Whether the account administers it.
    pub administrator: bool,
}

/// What the account is in one workspace, by Bitbucket's own word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permission {
    /// A member.
    Member {
        /// The slug in the answer. May differ from the one asked for: compare it before granting by slug.
        slug: Option<Box<str>>,
        /// The uuid in the answer. Is the one asked for, if one was asked for.
        id: Option<TeamId>,
        /// The highest that the account may do.
        level: Level,
    },
    /// No member: refused, unknown workspace, a collaborator of some repository, or a word we do not know.
    None,
}

/// What the account may do with one repository, by Bitbucket's own word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepositoryAccess {
    /// Which repository.
    pub name: RepositoryName,
    /// Its uuid, which no other repository can take.
    pub id: TeamId,
    /// What may be done; `None`: nothing, or a word we do not know.
    pub access: Option<Access>,
}

/// The highest that a member may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Administers the workspace.
    Owner,
    /// May create projects.
    CreateProject,
    /// May use the workspace.
    Member,
}

impl Bitbucket {
    /// Prepares to talk; does not talk yet. `traffic` is asked before every request and hears what came of it.
    /// `HTTPS_PROXY` and its like are honoured, except for loopback. Its calls have the right of a sign-in.
    ///
    /// # Errors
    ///
    /// When a URL is none that a token may be sent to, when the process has not installed a TLS crypto
    /// provider, or when the system's certificates cannot be loaded.
    pub fn new(settings: Settings, traffic: Arc<dyn Traffic>) -> Result<Bitbucket, Error> {
        for (key, url) in [("bitbucket.web_url", &settings.web_url), ("bitbucket.api_url", &settings.api_url)]
        {
            let plain = matches!(url.scheme(), "https" | "http")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            if !plain {
                return Err(Error::at_start(Kind::BadUrl(key), None));
            }
        }
        // reqwest would panic without one.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(Error::at_start(Kind::NoCrypto, None));
        }
        let proxy = if is_loopback(&settings.web_url) && is_loopback(&settings.api_url) {
            EgressProxy::Never
        } else {
            EgressProxy::FromEnvironment
        };
        let client = http_client(settings.timeout, proxy)
            .map_err(|error| Error::at_start(Kind::NoClient, Some(error)))?;
        Ok(Bitbucket { inner: Arc::new(Inner { settings, client, traffic }), right: Right::SignIn })
    }

    /// The callback URL, as it is registered.
    pub fn redirect_uri(&self) -> &Url {
        &self.inner.settings.redirect_uri
    }

    /// The same, whose calls have this right.
    pub fn with_right(&self, right: Right) -> Bitbucket {
        Bitbucket { inner: self.inner.clone(), right }
    }
}

/// Joins what Bitbucket said about a person, over connections that it authenticated, into an identity.
pub fn identity(profile: Profile, email: Option<Email>) -> VerifiedIdentity {
    let Profile { account, display_name, nickname, status: Status::Active | Status::Unstated } = profile;
    VerifiedIdentity::vouched_for(Claims { account, display_name, nickname, email })
}

/// Whether `HTTPS_PROXY` and its like count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EgressProxy {
    FromEnvironment,
    /// A proxy cannot reach our loopback; what it found on its own would get the token.
    Never,
}

/// The one place that makes an HTTP client. It follows no redirect (a redirected token is a stolen one),
/// repeats nothing by itself (each request is counted, and a refresh token is good once), and asks for no
/// compression (a small answer cannot become a big one).
fn http_client(timeout: Duration, proxy: EgressProxy) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("teamgate/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(timeout.min(Duration::from_secs(5)));
    match proxy {
        EgressProxy::FromEnvironment => builder,
        EgressProxy::Never => builder.no_proxy(),
    }
    .build()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `base` and `segments` below it, each encoded as one segment: braces become `%7B` and `%7D`.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}
