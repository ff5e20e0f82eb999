//! What can go wrong with Bitbucket, and what to do about it.
//!
//! Owns: [`Error`], [`Remedy`], [`Refusal`].
//! Must not know: how an answer was read. Holds no token, code or body: what it quotes is ours, or was
//! checked word by word where it was read.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use url::Url;

use super::{Endpoint, Held, HeldBack};

/// Why a question to Bitbucket has no answer. Cheap to clone, so that all who waited for one answer can have
/// it. Its text is one line that ends in what to do.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    place: Place,
    source: Option<reqwest::Error>,
}

/// Which request it was about.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) endpoint: Option<Endpoint>,
    /// Method and path; never a query.
    pub(super) request: Box<str>,
    pub(super) status: Option<StatusCode>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    // At start.
    BadUrl(&'static str),
    NoCrypto,
    NoClient,
    // Not sent.
    Held(Held),
    // On the way.
    Unreachable,
    Broken,
    Timeout,
    Unavailable(Option<Duration>),
    Throttled(Option<Duration>),
    Redirected,
    NotJson,
    CutShort,
    TooLong,
    // Said by the API.
    Unauthorized,
    /// 401 without Bitbucket's own words: a machine in between, perhaps.
    Unexplained401,
    MissingScope {
        required: Vec<Box<str>>,
        granted: Vec<Box<str>>,
    },
    Forbidden,
    NotFound,
    Gone(Option<Url>),
    Unexpected,
    // Said by the token endpoint.
    ClientRefused,
    RedirectRefused,
    CodeRefused,
    GrantDead,
    GrantOrClient,
    // Said, but not to be believed.
    Shape(&'static str),
    BadToken,
    TooManyPages,
    ForeignNext,
    Refused(Refusal),
}

/// What to do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// The grant or the code is dead: the person has to sign in again.
    SignInAgain,
    /// Nobody gets in until the operator has changed something, here or at Bitbucket.
    FixConfiguration,
    /// Bitbucket wants to be left alone for at least this long, by everybody. At most 1 h.
    RetryAfter(Duration),
    /// It may work the next time.
    Retry,
    /// Bitbucket changed, or teamgate is wrong about it: a new version is needed.
    Report,
    /// Whoever this is does not get in, however often they try.
    Refuse(Refusal),
}

/// What an error is about. Each has its own effect on sessions, its own name in metrics, its own line and page.
///
/// That somebody is *denied* is no error but an answer: [`super::Permission::None`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The grant, the code or the token is dead. Sessions end once the store knows of no newer one.
    Gone,
    /// Bitbucket is down, or wants to be left alone. What was known counts within the grace.
    Transient,
    /// Not asked: our own budget is used up. What was known counts within its age.
    NoBudget,
    /// Our client, its secret, its scopes or an address is wrong. Nobody's session ends for it.
    Misconfigured,
    /// An endpoint is no more. Nobody's session ends for it.
    Removed,
    /// Bitbucket says something that we do not know.
    Unexpected,
    /// The account is nobody's identity.
    Refused,
}

/// Why an account is nobody's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A bot, an app or a team.
    NotAPerson,
    /// No uuid, or none that is one: nothing to know the account by.
    NoUuid,
    /// Deactivated or closed.
    Inactive,
}

impl Error {
    pub(super) fn new(kind: Kind, place: Place) -> Error {
        Error(Arc::new(Inner { kind, place, source: None }))
    }

    pub(super) fn with_source(kind: Kind, place: Place, source: Option<reqwest::Error>) -> Error {
        // The URL is ours to tell: the text of a reqwest error would repeat it with its query.
        Error(Arc::new(Inner { kind, place, source: source.map(reqwest::Error::without_url) }))
    }

    pub(super) fn at_start(kind: Kind, source: Option<reqwest::Error>) -> Error {
        Error::with_source(kind, Place::default(), source)
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        self.traits().1
    }

    /// What it is about.
    pub fn class(&self) -> Class {
        if self.held().is_some_and(|held| held.why == HeldBack::Budget) {
            return Class::NoBudget;
        }
        match (&self.0.kind, self.remedy()) {
            (Kind::Gone(_), _) => Class::Removed,
            (_, Remedy::SignInAgain) => Class::Gone,
            (_, Remedy::FixConfiguration) => Class::Misconfigured,
            (_, Remedy::RetryAfter(_) | Remedy::Retry) => Class::Transient,
            (_, Remedy::Report) => Class::Unexpected,
            (_, Remedy::Refuse(_)) => Class::Refused,
        }
    }

    /// Whether a refused refresh may be about our client rather than about the token: Bitbucket has the same words
    /// for both.
    pub fn may_be_about_the_client(&self) -> bool {
        self.0.kind == Kind::GrantOrClient
    }

    /// A name for metrics; one of about thirty.
    pub fn label(&self) -> &'static str {
        self.traits().0
    }

    /// Whether Bitbucket is *down* rather than saying no: unreachable, slow, broken, throttling. What was
    /// known before is still the best that is known.
    ///
    /// That our own budget is used up says nothing about Bitbucket.
    pub fn is_transient(&self) -> bool {
        self.class() == Class::Transient
    }

    /// Why the request was not sent, if that is so.
    pub fn held(&self) -> Option<Held> {
        match self.0.kind {
            Kind::Held(held) => Some(held),
            _ => None,
        }
    }

    /// Whether our client lacks a scope that the question needs.
    pub fn lacks_scope(&self) -> bool {
        matches!(self.0.kind, Kind::MissingScope { .. })
    }

    /// Whether Bitbucket did not accept the access token: refresh it once and ask again.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.0.kind, Kind::Unauthorized | Kind::Unexplained401)
    }

    /// Whether it said so in its own words: without them nobody's session ends for it.
    pub fn is_worded(&self) -> bool {
        self.0.kind != Kind::Unexplained401
    }

    /// Whether the request surely never reached Bitbucket. Where this is false after a failed refresh, the
    /// refresh token may be used up.
    pub fn is_unsent(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::BadUrl(_) | Kind::NoCrypto | Kind::NoClient | Kind::Held(_) | Kind::Unreachable
        )
    }

    /// What was asked; `None` for an error at start.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.0.place.endpoint
    }

    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        self.0.place.status
    }

    /// How long Bitbucket asked to be left alone, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::Throttled(wait) | Kind::Unavailable(wait) => wait,
            _ => None,
        }
    }

    /// Label and remedy: the whole table.
    fn traits(&self) -> (&'static str, Remedy) {
        /// How long to leave Bitbucket alone when a 429 does not say.
        const UNSAID: Duration = Duration::from_secs(30);
        match &self.0.kind {
            Kind::BadUrl(_) => ("bad_url", Remedy::FixConfiguration),
            Kind::NoCrypto => ("no_crypto", Remedy::Report),
            Kind::NoClient => ("no_client", Remedy::FixConfiguration),
            Kind::Held(Held { why: HeldBack::Budget, wait }) => ("budget", Remedy::RetryAfter(*wait)),
            Kind::Held(Held { why: HeldBack::Throttled, wait }) => ("held_back", Remedy::RetryAfter(*wait)),
            Kind::Held(Held { why: HeldBack::Failing, .. }) => ("circuit_open", Remedy::Retry),
            Kind::Unreachable => ("unreachable", Remedy::Retry),
            Kind::Broken => ("broken", Remedy::Retry),
            Kind::Timeout => ("timeout", Remedy::Retry),
            Kind::Unavailable(None) => ("unavailable", Remedy::Retry),
            Kind::Unavailable(Some(wait)) => ("unavailable", Remedy::RetryAfter(*wait)),
            Kind::Throttled(wait) => ("throttled", Remedy::RetryAfter(wait.unwrap_or(UNSAID))),
            Kind::Redirected => ("redirected", Remedy::FixConfiguration),
            Kind::NotJson => ("not_json", Remedy::Retry),
            Kind::CutShort => ("cut_short", Remedy::Retry),
            Kind::TooLong => ("too_long", Remedy::Report),
            Kind::Unauthorized | Kind::Unexplained401 => ("unauthorized", Remedy::SignInAgain),
            Kind::MissingScope { .. } => ("missing_scope", Remedy::FixConfiguration),
            Kind::Forbidden => ("forbidden", Remedy::FixConfiguration),
            Kind::NotFound => ("not_found", Remedy::FixConfiguration),
            Kind::Gone(_) => ("removed", Remedy::Report),
            Kind::Unexpected => ("unexpected_status", Remedy::Report),
            Kind::ClientRefused => ("client_refused", Remedy::FixConfiguration),
            Kind::RedirectRefused => ("redirect_refused", Remedy::FixConfiguration),
            Kind::CodeRefused => ("code_refused", Remedy::SignInAgain),
            Kind::GrantDead => ("grant_dead", Remedy::SignInAgain),
            Kind::GrantOrClient => ("grant_refused", Remedy::SignInAgain),
            Kind::Shape(_) => ("unknown_shape", Remedy::Report),
            Kind::BadToken => ("bad_token", Remedy::Report),
            Kind::TooManyPages => ("too_many_pages", Remedy::Report),
            Kind::ForeignNext => ("foreign_next", Remedy::Report),
            Kind::Refused(Refusal::NotAPerson) => ("not_a_person", Remedy::Refuse(Refusal::NotAPerson)),
            Kind::Refused(Refusal::NoUuid) => ("no_uuid", Remedy::Refuse(Refusal::NoUuid)),
            Kind::Refused(Refusal::Inactive) => ("inactive", Remedy::Refuse(Refusal::Inactive)),
        }
    }

    /// The innermost cause, which is the one that tells something ("connection refused").
    fn cause(&self) -> String {
        let mut cause: Option<&dyn StdError> = self.0.source.as_ref().map(|error| error as &dyn StdError);
        while let Some(inner) = cause.and_then(StdError::source) {
            cause = Some(inner);
        }
        cause.map(|cause| format!(" ({cause})")).unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, place: Place { request, status, .. }, .. } = &*self.0;
        let status = status.map(|status| status.as_u16()).unwrap_or_default();
        match kind {
            Kind::BadUrl(key) => {
                write!(
                    f,
                    "{key} is no place to send tokens to; write https://host/path without user or query"
                )
            }
            Kind::NoCrypto => f.write_str(
                "no TLS crypto provider was installed before bitbucket was set up; report this bug",
            ),
            Kind::NoClient => write!(f, "TLS cannot be set up{}; install CA certificates", self.cause()),
            Kind::Held(Held { why, wait }) => {
                let wait = wait.as_secs().max(1);
                match why {
                    HeldBack::Budget => write!(
                        f,
                        "{request} was not sent, directory.budget is used up for {wait} s; raise it if Bitbucket \
                         allows more, or raise directory.refresh_after"
                    ),
                    HeldBack::Throttled => write!(
                        f,
                        "{request} was not sent, bitbucket's rate limit is used up for {wait} s; lower \
                         directory.budget or raise directory.refresh_after if it goes on"
                    ),
                    HeldBack::Failing => write!(
                        f,
                        "{request} was not sent, bitbucket kept failing there; it is tried again in {wait} s"
                    ),
                }
            }
            Kind::Unreachable => write!(
                f,
                "bitbucket cannot be reached for {request}{}; it is tried again, check network, DNS and CA \
                 certificates if it lasts",
                self.cause()
            ),
            Kind::Broken => {
                write!(f, "bitbucket's answer to {request} broke off{}; it is tried again", self.cause())
            }
            Kind::Timeout => {
                write!(f, "bitbucket did not answer {request} in time; it is tried again")
            }
            Kind::Unavailable(_) => {
                write!(f, "bitbucket answered {request} with {status}; it is tried again")
            }
            Kind::Throttled(wait) => {
                write!(f, "bitbucket's rate limit is used up ({request}, {status}")?;
                if let Some(wait) = wait {
                    write!(f, ", for {} s", wait.as_secs())?;
                }
                f.write_str("); lower directory.budget or raise directory.refresh_after if it goes on")
            }
            Kind::Redirected => write!(
                f,
                "bitbucket answered {request} with a redirect ({status}), which is never followed; check \
                 bitbucket.web_url and bitbucket.api_url"
            ),
            Kind::NotJson => write!(
                f,
                "bitbucket answered {request} with {status} and something that is no JSON; it is tried again, \
                 check for a proxy in between if it lasts"
            ),
            Kind::CutShort => {
                write!(f, "bitbucket's answer to {request} ends in the middle; it is tried again")
            }
            Kind::TooLong => {
                write!(f, "bitbucket's answer to {request} is longer than 1 MiB; report this")
            }
            Kind::Unauthorized | Kind::Unexplained401 => write!(
                f,
                "bitbucket does not accept the access token ({request}, {status}); refresh it or sign in again"
            ),
            Kind::MissingScope { required, granted } => {
                let missing: Vec<&str> =
                    required.iter().filter(|scope| !granted.contains(scope)).map(|scope| &**scope).collect();
                let tick =
                    if missing.is_empty() { "it".to_owned() } else { format!("`{}`", missing.join(" ")) };
                write!(
                    f,
                    "bitbucket wants the scope `{}` for {request} but our client has `{}`; tick {tick} on the client's \
                     page at Bitbucket and sign in again",
                    required.join(" "),
                    granted.join(" ")
                )
            }
            Kind::Forbidden => {
                write!(f, "bitbucket forbids {request} ({status}); check that bitbucket.api_url ends in /2.0")
            }
            Kind::NotFound => write!(f, "bitbucket finds no {request} ({status}); check bitbucket.api_url"),
            Kind::Gone(Some(announcement)) => write!(
                f,
                "bitbucket removed {request} ({status}), see {announcement}; update teamgate or report this"
            ),
            Kind::Gone(None) => {
                write!(f, "bitbucket has no {request} any more ({status}); update teamgate or report this")
            }
            Kind::Unexpected => {
                write!(
                    f,
                    "bitbucket answered {request} with {status}, which has no meaning here; report this"
                )
            }
            Kind::ClientRefused => write!(
                f,
                "bitbucket refused our client secret (unauthorized_client); check bitbucket.client_id, \
                 bitbucket.client_secret and the client's page at Bitbucket"
            ),
            Kind::RedirectRefused => write!(
                f,
                "bitbucket refused our redirect URI; make bitbucket.redirect_uri and the callback URL on the \
                 client's page at Bitbucket the same, to the letter"
            ),
            Kind::CodeRefused => {
                f.write_str("bitbucket refused the code (used already, or too old); sign in again")
            }
            Kind::GrantDead | Kind::GrantOrClient => f.write_str(
                "bitbucket refused the refresh token (withdrawn, used already, or three months old); sign in \
                 again, and check bitbucket.client_secret if it happens to everybody",
            ),
            Kind::Shape(what) => {
                write!(f, "bitbucket's answer to {request} is of an unknown shape ({what}); report this")
            }
            Kind::BadToken => write!(
                f,
                "bitbucket gave a token that is empty, longer than 8 KiB or no plain text ({request}); report this"
            ),
            Kind::TooManyPages => {
                write!(f, "bitbucket's answer to {request} has more than 20 pages; report this")
            }
            Kind::ForeignNext => write!(
                f,
                "bitbucket's answer to {request} goes on outside bitbucket.api_url, which is never followed; \
                 check bitbucket.api_url or report this"
            ),
            Kind::Refused(Refusal::NotAPerson) => f.write_str(
                "the bitbucket account is no person's (a bot, an app or a team); use another account",
            ),
            Kind::Refused(Refusal::NoUuid) => {
                f.write_str("bitbucket gave no uuid for the account; use another account or report this")
            }
            Kind::Refused(Refusal::Inactive) => {
                f.write_str("the bitbucket account is not active; have it activated at Bitbucket")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("place", &self.0.place)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|error| error as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind) -> Error {
        let request = "GET /2.0/user".into();
        Error::new(kind, Place { endpoint: Some(Endpoint::User), request, status: None })
    }

    #[test]
    fn down_is_not_no() {
        let wait = Some(Duration::from_secs(7));
        for (kind, down) in [
            (Kind::Unreachable, true),
            (Kind::Timeout, true),
            (Kind::Broken, true),
            (Kind::Unavailable(None), true),
            (Kind::Unavailable(wait), true),
            (Kind::Throttled(None), true),
            (Kind::NotJson, true),
            (Kind::CutShort, true),
            (Kind::Unauthorized, false),
            (Kind::GrantDead, false),
            (Kind::ClientRefused, false),
            (Kind::Forbidden, false),
            (Kind::Gone(None), false),
            (Kind::Shape("x"), false),
            (Kind::Refused(Refusal::Inactive), false),
        ] {
            assert_eq!(of(kind.clone()).is_transient(), down, "{kind:?}");
        }
        assert_eq!(of(Kind::Throttled(wait)).remedy(), Remedy::RetryAfter(Duration::from_secs(7)));
        assert_eq!(of(Kind::Throttled(None)).remedy(), Remedy::RetryAfter(Duration::from_secs(30)));
        assert_eq!(of(Kind::Throttled(None)).retry_after(), None);
    }

    #[test]
    fn a_message_is_one_line_that_says_what_to_do() {
        for kind in [
            Kind::BadUrl("bitbucket.api_url"),
            Kind::Timeout,
            Kind::ClientRefused,
            Kind::GrantDead,
            Kind::Throttled(Some(Duration::from_secs(60))),
            Kind::MissingScope { required: vec!["account".into()], granted: vec!["email".into()] },
            Kind::Refused(Refusal::NotAPerson),
        ] {
            let text = of(kind).to_string();
            let advice = text.rsplit_once("; ").map(|(_, advice)| advice).unwrap_or_default();
            assert!(!text.contains('\n') && !advice.is_empty(), "{text}");
        }
    }
}
