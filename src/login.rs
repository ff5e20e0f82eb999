//! Signing in and out.
//!
//! Owns: the start of a sign-in, its cookies, [`ReturnTo`], what comes of a callback.
//! Must not know: routes' rules (it proves who someone is, never where they may go), pages, Pingora.

pub mod callback;
pub mod ticket;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use url::Url;

use crate::clock::{Clock, Timestamp};
use crate::directory::{self, Directory};
use crate::entropy::Entropy;
use crate::facts::Facts;
use crate::gate::cookie::{self, SameSite, pairs};
use crate::keys::Keyring;
use crate::live::Live;
use crate::login::ticket::{ATTEMPTS, LIFETIME, Ticket, begun_at};
use crate::session;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// What signing in is told by the configuration.
pub struct Settings {
    /// The gateway's own origin.
    pub external_url: Url,
    /// Where Bitbucket sends browsers back.
    pub redirect_uri: Url,
    /// How cookies look.
    pub cookie: cookie::Settings,
    /// How long sessions live.
    pub session: session::Settings,
    /// Bitbucket, and who may sign in.
    pub directory: Arc<directory::Settings>,
    /// Whether some route serves a host; where people may be sent back to.
    pub serves: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Settings {
    /// Whether cookies set on `host` come back to the callback's host.
    fn reaches(&self, host: &str) -> bool {
        match &self.cookie.domain {
            Some(domain) => host.strip_suffix(&**domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            None => self.redirect_uri.host_str() == Some(host),
        }
    }

    /// The origin under which a request's page is found again after a sign-in. A route for any host is found
    /// on the gateway's own too; a session made there would not be seen elsewhere.
    fn origin_of(&self, facts: &Facts<'_>) -> String {
        if self.reaches(facts.host) {
            format!("{}://{}", facts.scheme, facts.authority)
        } else {
            self.external_url.origin().ascii_serialization()
        }
    }
}

/// Signs people in and out. Cheap to clone.
#[derive(Clone)]
pub struct Login {
    /// Seals states.
    pub keyring: Arc<Keyring>,
    /// Draws ids.
    pub entropy: Entropy,
    /// Remembers what was used once.
    pub store: Store,
    /// Learns who someone is.
    pub directory: Directory,
    /// Begins and ends sessions.
    pub live: Live,
    /// Tells the time again after Bitbucket has answered.
    pub clock: Clock,
    /// Counts and records.
    pub telemetry: Telemetry,
}

/// What starts a sign-in.
pub enum Start {
    /// Send the browser to Bitbucket.
    Go {
        /// Bitbucket's authorize page, with everything in the query.
        location: Url,
        /// Cookies to set.
        cookies: Vec<HeaderValue>,
    },
    /// The browser has been round [`ROUNDS`] times within a minute: explain instead of repeating.
    Loop {
        /// How often it has been round.
        rounds: u8,
        /// Cookies to set.
        cookies: Vec<HeaderValue>,
    },
}

/// How many completed sign-ins within [`ROUNDS_WITHIN`] are a loop.
const ROUNDS: u8 = 2;
/// The minute in which rounds are counted.
const ROUNDS_WITHIN: Duration = Duration::from_secs(60);

impl Login {
    /// Starts a sign-in that ends at `return_to`.
    pub fn start(&self, settings: &Settings, facts: &Facts<'_>, return_to: &ReturnTo) -> Start {
        let cookies = &settings.cookie;
        let (rounds, _) = rounds(cookies, facts);
        if rounds >= ROUNDS {
            return Start::Loop { rounds, cookies: vec![cookies.clear(&rounds_name(cookies))] };
        }
        if !settings.reaches(facts.host) {
            // Cookies set here would not come back to the callback's host: begin there instead.
            let mut location = settings.external_url.clone();
            location.set_path("/.teamgate/login");
            location.query_pairs_mut().append_pair("rd", return_to.as_str());
            return Start::Go { location, cookies: Vec::new() };
        }
        self.telemetry.metrics.sign_in_starts.inc();
        let (ticket, attempt) = Ticket::draw(return_to.0.clone(), facts.now, &self.entropy);
        let state = ticket.seal(&self.keyring, &self.entropy);
        let location = settings.directory.bitbucket.authorize_url(&state, &ticket.challenge());
        let mut set = clear_oldest(cookies, facts);
        let name = attempt_name(cookies, &attempt.id);
        // Lax, whatever the session cookie is: it must come back on the redirect from Bitbucket.
        set.push(cookies.set(&name, &attempt.value, LIFETIME, SameSite::Lax));
        Start::Go { location, cookies: set }
    }
}

/// Where a person goes after signing in: an absolute URL on a host of ours, made from parts that we checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// Back to the page that a request asked for. Anything but a navigation cannot be repeated by a redirect,
    /// so it goes to the front page.
    pub fn page(settings: &Settings, facts: &Facts<'_>) -> ReturnTo {
        let query = facts.query.map_or(String::new(), |query| format!("?{query}"));
        ReturnTo(format!("{}{}{query}", settings.origin_of(facts), facts.path))
    }

    /// Where `rd` says: a path on this host, or a URL on a host that some route serves. Anything else is the
    /// front page. What comes out is put together anew from what was understood, so that no two parsers can
    /// read it differently (CVE-2020-5233 and its many kin).
    pub fn parse(rd: Option<&str>, settings: &Settings, facts: &Facts<'_>) -> ReturnTo {
        let here = settings.origin_of(facts);
        let front = || ReturnTo(format!("{here}/"));
        let Some(rd) = rd.filter(|rd| rd.len() <= 2_048 && rd.chars().all(|c| !c.is_control() && c != '\\')) else {
            return front();
        };
        // `//host` is no path: it names a host, and none of ours is ever written so.
        let (origin, target) = if rd.starts_with('/') && !rd.starts_with("//") {
            (here.clone(), rd)
        } else {
            let Ok(url) = Url::parse(rd) else { return front() };
            let plain = url.username().is_empty() && url.password().is_none();
            let ours = url.scheme() == settings.external_url.scheme()
                && url.port_or_known_default() == settings.external_url.port_or_known_default();
            let Some(host) = url.host_str().filter(|host| plain && ours && (settings.serves)(host)) else {
                return front();
            };
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            let Some(at) = rd.find("://").and_then(|scheme| rd[scheme + 3..].find('/').map(|slash| scheme + 3 + slash))
            else {
                return ReturnTo(format!("{}://{host}{port}/", url.scheme()));
            };
            (format!("{}://{host}{port}", url.scheme()), &rd[at..])
        };
        let target = target.split('#').next().unwrap_or("/");
        match crate::route::target::canonical(target.as_bytes()) {
            Ok(target) => {
                ReturnTo(format!("{origin}{}", target.wire()))
            }
            Err(_) => front(),
        }
    }

    /// From a ticket, which holds only what was checked when it was made.
    fn checked_before(url: String) -> ReturnTo {
        ReturnTo(url)
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn attempt_name(cookies: &cookie::Settings, id: &str) -> String {
    format!("{}-try-{id}", cookies.name())
}

fn rounds_name(cookies: &cookie::Settings) -> String {
    format!("{}-rounds", cookies.name())
}

/// Attempt cookies beyond the youngest [`ATTEMPTS`] − 1, to make room for one more.
fn clear_oldest(cookies: &cookie::Settings, facts: &Facts<'_>) -> Vec<HeaderValue> {
    let prefix = attempt_name(cookies, "");
    let mut attempts: Vec<(u64, &[u8])> = pairs(facts.headers)
        .filter(|(name, _)| name.starts_with(prefix.as_bytes()))
        .map(|(name, value)| (begun_at(value), name))
        .collect();
    attempts.sort_unstable();
    let surplus = (attempts.len() + 1).saturating_sub(ATTEMPTS);
    let names = attempts[..surplus].iter().filter_map(|(_, name)| std::str::from_utf8(name).ok());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        .map(|name| cookies.clear(name))
        .collect()
}

/// How many sign-ins this browser completed in the current minute, and since when.
fn rounds(cookies: &cookie::Settings, facts: &Facts<'_>) -> (u8, Timestamp) {
    let name = rounds_name(cookies);
    let found = cookie::find(facts.headers, &name).next().and_then(|value| std::str::from_utf8(value).ok());
    let parsed = found.and_then(|text| {
        let (count, since) = text.split_once('.')?;
        Some((count.parse().ok()?, Timestamp::from_unix_seconds(since.parse().ok()?)))
    });
    match parsed {
        Some((count, since)) if facts.now.since(since) < ROUNDS_WITHIN => (count, since),
        _ => (0, facts.now),
    }
}
