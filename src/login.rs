//! Signing in and out.
//!
//! Owns: the start of a sign-in, its cookies, [`ReturnTo`], what comes of a callback, hand-overs between hosts.
//! Must not know: routes' rules (it proves who someone is, never where they may go), pages, Pingora.

pub mod callback;
pub mod hand_over;
pub mod ticket;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use url::{Position, Url};

use crate::clock::{Clock, Timestamp};
use crate::directory::{self, Directory};
use crate::entropy::Entropy;
use crate::facts::Facts;
use crate::gate::cookie::{self, SameSite, pairs};
use crate::keys::Keyring;
use crate::live::Live;
use crate::login::hand_over::Request;
use crate::login::ticket::{ATTEMPTS, LIFETIME, Ticket, begun_at};
use crate::session;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::telemetry::labels::Throttled;
use crate::throttle::{Block, Rate, Throttle};

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
    /// How often one address may do so.
    pub limits: Limits,
}

/// How often one address may begin a sign-in and come back from one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Begin. `None`: as often as it likes.
    pub sign_ins: Option<Rate>,
    /// Come back. `None`: as often as it likes.
    pub callbacks: Option<Rate>,
    /// Whose addresses have no limit: proxies, behind which everybody may stand who is not told apart.
    pub exempt: Vec<IpNet>,
}

impl Settings {
    /// Whether cookies set on `host` come back to the callback's host.
    fn reaches(&self, host: &str) -> bool {
        match &self.cookie.domain {
            Some(domain) => {
                host.strip_suffix(&**domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            None => self.redirect_uri.host_str() == Some(host),
        }
    }

    /// The origin under which a request's page is found again after a sign-in. A route for any host is found
    /// on the gateway's own too; a session made there would not be seen elsewhere.
    fn origin_of(&self, facts: &Facts<'_>) -> String {
        if self.reaches(facts.host) {
            format!("{}://{}", facts.scheme, facts.authority)
        } else if self.hands_over_to(facts.host) {
            self.origin_at(facts.host)
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
    /// What each address has had of sign-ins …
    pub sign_ins: Throttle,
    /// … and of callbacks.
    pub callbacks: Throttle,
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
    /// The browser has been round `ROUNDS` times within a minute: explain instead of repeating.
    Loop {
        /// How often it has been round.
        rounds: u8,
        /// Cookies to set.
        cookies: Vec<HeaderValue>,
    },
    /// Its address began too many lately: not now.
    TooOften {
        /// When it may.
        wait: Duration,
    },
}

/// How many completed sign-ins within [`ROUNDS_WITHIN`] are a loop.
const ROUNDS: u8 = 2;
/// The minute in which rounds are counted.
const ROUNDS_WITHIN: Duration = Duration::from_secs(60);

impl Login {
    /// Starts a sign-in that ends at `return_to`.
    pub fn start(&self, settings: &Settings, facts: &Facts<'_>, return_to: &ReturnTo) -> Start {
        self.start_for(settings, facts, return_to, None)
    }

    /// Starts a sign-in whose session is for another host, which asked for it.
    pub fn start_for(
        &self,
        settings: &Settings,
        facts: &Facts<'_>,
        return_to: &ReturnTo,
        asked: Option<Request>,
    ) -> Start {
        let cookies = &settings.cookie;
        let (rounds, _) = rounds(cookies, facts);
        if rounds >= ROUNDS {
            return Start::Loop { rounds, cookies: vec![cookies.clear(&rounds_name(cookies))] };
        }
        if settings.hands_over_to(facts.host) {
            return self.ask_for_session(settings, facts, return_to);
        }
        if !settings.reaches(facts.host) {
            // Cookies set here would not come back to the callback's host: begin there instead.
            let mut location = settings.external_url.clone();
            location.set_path("/.teamgate/login");
            location.query_pairs_mut().append_pair("rd", return_to.as_str());
            return Start::Go { location, cookies: Vec::new() };
        }
        if let Err(wait) = self.slow_down(Throttled::SignIn, &settings.limits, facts) {
            return Start::TooOften { wait };
        }
        self.telemetry.metrics.sign_in_starts.inc();
        let (ticket, attempt) = Ticket::draw(return_to.0.clone(), facts.now, &self.entropy);
        let ticket = ticket.on_behalf_of(asked);
        let state = ticket.seal(&self.keyring, &self.entropy);
        let location = settings.directory.bitbucket.authorize_url(&state, &ticket.challenge());
        let mut set = clear_oldest(cookies, facts, &attempt_name(cookies, ""));
        let name = attempt_name(cookies, &attempt.id);
        // Lax, whatever the session cookie is: it must come back on the redirect from Bitbucket.
        set.push(cookies.set(&name, &attempt.value, LIFETIME, SameSite::Lax));
        Start::Go { location, cookies: set }
    }

    /// Lets the address of a request come back from Bitbucket once more. Asked before anything is looked at or
    /// spent, so that the same callback is good when the wait is over.
    ///
    /// # Errors
    ///
    /// How long it has to wait.
    pub fn may_come_back(&self, settings: &Settings, facts: &Facts<'_>) -> Result<(), Duration> {
        self.slow_down(Throttled::Callback, &settings.limits, facts)
    }

    /// Lets the address of a request do something once more, or says how long it has to wait.
    fn slow_down(&self, what: Throttled, limits: &Limits, facts: &Facts<'_>) -> Result<(), Duration> {
        let (rate, throttle) = match what {
            Throttled::SignIn => (limits.sign_ins, &self.sign_ins),
            Throttled::Callback => (limits.callbacks, &self.callbacks),
        };
        let Some(rate) = rate else { return Ok(()) };
        if limits.exempt.iter().any(|net| net.contains(&facts.client)) {
            return Ok(());
        }
        throttle.pass(rate, Block::of(facts.client), facts.now).inspect_err(|_| {
            self.telemetry.metrics.throttled.inc(what);
            let told = TooOften { what, address: facts.client };
            self.telemetry.warn_limited(what.as_str(), facts.now, &told);
        })
    }
}

/// An address is over a limit.
#[derive(Debug, thiserror::Error)]
#[error("{address} is over its limit of {}; see limits in the configuration", self.what.as_str())]
struct TooOften {
    what: Throttled,
    address: IpAddr,
}

/// Where a person goes after signing in: an absolute URL on a host of ours, made from parts that we checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReturnTo(String);

/// The longest way back, in bytes. It travels in `state`, in the addresses of Bitbucket's pages, a third longer than it
/// is; servers commonly take 8 KiB.
const LONGEST: usize = 4_096;

impl ReturnTo {
    /// Back to the page that a request asked for, unless its address is too long to be carried along.
    pub fn page(settings: &Settings, facts: &Facts<'_>) -> ReturnTo {
        let origin = settings.origin_of(facts);
        let query = facts.query.map_or(String::new(), |query| format!("?{query}"));
        if facts.path.len() + query.len() > LONGEST {
            return ReturnTo(format!("{origin}/"));
        }
        ReturnTo(format!("{origin}{}{query}", facts.path))
    }

    /// Where `rd` says: a path on this host, or a URL on a host that some route serves. Anything else is the
    /// front page. What comes out is put together anew from what was understood, so that no two parsers can
    /// read it differently (CVE-2020-5233 and its many kin).
    pub fn parse(rd: Option<&str>, settings: &Settings, facts: &Facts<'_>) -> ReturnTo {
        let here = settings.origin_of(facts);
        let front = || ReturnTo(format!("{here}/"));
        let Some(rd) =
            rd.filter(|rd| rd.len() <= LONGEST && rd.chars().all(|c| !c.is_control() && c != '\\'))
        else {
            return front();
        };
        // `//host` is no path: it names a host, and none of ours is ever written so.
        let (origin, target) = if rd.starts_with('/') && !rd.starts_with("//") {
            (here.clone(), rd.split('#').next().unwrap_or("/").to_owned())
        } else {
            let Ok(url) = Url::parse(rd) else { return front() };
            let plain = url.username().is_empty() && url.password().is_none();
            let ours = url.scheme() == settings.external_url.scheme()
                && url.port_or_known_default() == settings.external_url.port_or_known_default();
            let Some(host) = url.host_str().filter(|host| plain && ours && (settings.serves)(host)) else {
                return front();
            };
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            // From the same reading as the host, and not from the text: two readings are an open door.
            let target = url[Position::BeforePath..Position::AfterQuery].to_owned();
            (format!("{}://{host}{port}", url.scheme()), target)
        };
        match crate::route::target::canonical(target.as_bytes()) {
            Ok(target) => ReturnTo(format!("{origin}{}", target.wire())),
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

/// Attempt cookies whose names begin with `prefix`, beyond the youngest [`ATTEMPTS`] − 1, to make room for one more.
fn clear_oldest(cookies: &cookie::Settings, facts: &Facts<'_>, prefix: &str) -> Vec<HeaderValue> {
    let mut attempts: Vec<(u64, &[u8])> = pairs(facts.headers)
        .filter(|(name, _)| name.starts_with(prefix.as_bytes()))
        .map(|(name, value)| (begun_at(value, facts.now), name))
        .collect();
    attempts.sort_unstable();
    let surplus = (attempts.len() + 1).saturating_sub(ATTEMPTS);
    let names = attempts[..surplus].iter().filter_map(|(_, name)| std::str::from_utf8(name).ok());
    names
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
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
        // One of the future would stand for ever; others can plant cookies.
        Some((count, since)) if since <= facts.now && facts.now.since(since) < ROUNDS_WITHIN => {
            (count, since)
        }
        _ => (0, facts.now),
    }
}

#[cfg(test)]
impl Settings {
    /// `https://gate.example.com` for everything at `wiki.example.com` and below `apps.example.com`; cookies
    /// for `domain`.
    pub(crate) fn for_tests(domain: Option<&str>) -> Result<Settings, Box<dyn std::error::Error>> {
        crate::keys::install_crypto_providers();
        let hour = Duration::from_secs(3600);
        let bitbucket = crate::bitbucket::Settings {
            client_id: "client".to_owned(),
            client_secret: Arc::new(crate::secret::Secret::new("secret".to_owned())),
            redirect_uri: "https://gate.example.com/.teamgate/callback".parse()?,
            web_url: "https://bitbucket.org".parse()?,
            api_url: "https://api.bitbucket.org/2.0".parse()?,
            timeout: Duration::from_secs(10),
        };
        let ages = directory::plan::Ages {
            refresh_after: hour,
            profile_after: hour,
            max_age: hour,
            outage_grace: hour,
        };
        Ok(Settings {
            external_url: "https://gate.example.com".parse()?,
            redirect_uri: bitbucket.redirect_uri.clone(),
            cookie: cookie::Settings::new(domain.map(Into::into), cookie::Secure::Yes, SameSite::Lax),
            session: session::Settings { lifetime: hour, idle: hour },
            directory: Arc::new(directory::Settings {
                bitbucket: crate::bitbucket::Bitbucket::new(
                    bitbucket,
                    Arc::new(|_: &crate::bitbucket::Call| {}),
                )?,
                teams: None,
                named: Vec::new(),
                ages,
            }),
            serves: Box::new(|host| {
                matches!(host, "gate.example.com" | "wiki.example.com") || host.ends_with(".apps.example.com")
            }),
            limits: Limits { sign_ins: None, callbacks: None, exempt: Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use http::{HeaderMap, Method};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::facts::Arrival;

    type Outcome = Result<(), Box<dyn Error>>;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn arrival(host: &str, path: &str, query: Option<&str>) -> Result<Arrival, Box<dyn Error>> {
        Ok(Arrival {
            now: NOW,
            scheme: "https",
            host: host.into(),
            authority: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            client: "203.0.113.7".parse()?,
            request_id: "0123456789abcdef0123456789abcdef".into(),
        })
    }

    fn cookies(fields: &[String]) -> Result<HeaderMap, Box<dyn Error>> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(http::header::COOKIE, HeaderValue::try_from(field)?);
        }
        Ok(headers)
    }

    fn parsed(settings: &Settings, rd: Option<&str>) -> Result<String, Box<dyn Error>> {
        let arrival = arrival("gate.example.com", "/.teamgate/login", None)?;
        let headers = HeaderMap::new();
        let facts = arrival.facts(&Method::GET, &headers);
        Ok(ReturnTo::parse(rd, settings, &facts).as_str().to_owned())
    }

    #[test]
    fn who_signed_in_goes_where_they_wanted_if_that_is_ours() -> Outcome {
        let settings = Settings::for_tests(None)?;
        for (rd, expected) in [
            ("/", "https://gate.example.com/"),
            ("/a/b?c=d&e=%20f", "https://gate.example.com/a/b?c=d&e=%20f"),
            ("/a#fragment", "https://gate.example.com/a"),
            ("/a/../b", "https://gate.example.com/b"),
            ("/a?to=https://evil.example/", "https://gate.example.com/a?to=https://evil.example/"),
            ("https://wiki.example.com", "https://wiki.example.com/"),
            ("https://wiki.example.com/a?b#c", "https://wiki.example.com/a?b"),
            ("https://wiki.example.com?a=/b", "https://wiki.example.com/?a=/b"),
            ("https://wiki.example.com#/b", "https://wiki.example.com/"),
            ("HTTPS://Wiki.Example.com/A", "https://wiki.example.com/A"),
            ("https://wiki.example.com:443/a", "https://wiki.example.com/a"),
            ("https://one.apps.example.com/a", "https://one.apps.example.com/a"),
        ] {
            assert_eq!(parsed(&settings, Some(rd))?, expected, "{rd}");
        }
        Ok(())
    }

    /// threats 31: every one of these has sent people elsewhere, from one gateway or another.
    #[test]
    fn nobody_is_sent_elsewhere() -> Outcome {
        let settings = Settings::for_tests(None)?;
        let front = "https://gate.example.com/";
        for (rd, expected) in [
            ("", front),
            ("evil.example", front),
            ("https://evil.example", front),
            ("https://evil.example/", front),
            ("http://wiki.example.com/", front),
            ("https://wiki.example.com:8443/", front),
            ("//evil.example", front),
            ("///evil.example", front),
            ("////evil.example/%2e%2e", front),
            ("/\\evil.example", front),
            ("\\\\evil.example", front),
            ("/\t/evil.example", front),
            ("/%09/evil.example", front),
            ("/%5cevil.example", front),
            ("/\n/evil.example", front),
            ("/\r\nLocation: https://evil.example", front),
            ("/%0d%0aLocation:%20https://evil.example", front),
            ("/..//evil.example", "https://gate.example.com/evil.example"),
            ("/.//evil.example", "https://gate.example.com/evil.example"),
            ("/%2e%2e//evil.example", "https://gate.example.com/evil.example"),
            ("/%2f/evil.example", "https://gate.example.com/%2F/evil.example"),
            ("/%252f%252fevil.example", front),
            ("https:evil.example", front),
            ("https:/evil.example", front),
            ("https:///evil.example", front),
            ("https:\\\\evil.example", front),
            (" https://evil.example", front),
            ("\u{b}https://evil.example", front),
            ("javascript:alert(1)", front),
            ("JaVaScRiPt://wiki.example.com/%0aalert(1)", front),
            ("data:text/html,x", front),
            ("ftp://wiki.example.com/", front),
            ("https://wiki.example.com@evil.example/", front),
            ("https://user@wiki.example.com/", front),
            ("https://user:secret@wiki.example.com/", front),
            ("https://evil.example#@wiki.example.com/", front),
            ("https://evil.example?wiki.example.com/", front),
            ("https://evil.example\\wiki.example.com/", front),
            ("https://wiki.example.com.evil.example/", front),
            ("https://evilwiki.example.com/", front),
            ("https://apps.example.com/", front),
            ("https://apps.example.com.evil.example/", front),
            ("https://wiki.example.com./", front),
            ("https://wiki.example.com%00.evil.example/", front),
            ("https://wiki.example.com%2eevil.example/", front),
            ("https://evil。example/", front),
            ("https://[::1]/", front),
            ("https://127.0.0.1/", front),
            ("https://2130706433/", front),
            ("https://", front),
            ("*", front),
            ("?rd=https://evil.example", front),
        ] {
            assert_eq!(parsed(&settings, Some(rd))?, expected, "{rd:?}");
        }
        assert_eq!(parsed(&settings, None)?, front);
        let long = format!("/{}", "a".repeat(4_096));
        assert_eq!(parsed(&settings, Some(&long))?, front);
        Ok(())
    }

    #[test]
    fn the_page_that_was_asked_for_is_found_again_under_an_origin_of_ours() -> Outcome {
        for (domain, host, expected) in [
            (None, "gate.example.com", "https://gate.example.com/a?b"),
            // By hand-over; the port is ours to say.
            (None, "wiki.example.com", "https://wiki.example.com/a?b"),
            // A session made at the callback's host would not be seen there, and nobody named this one.
            (None, "evil.example", "https://gate.example.com/a?b"),
            (Some("example.com"), "wiki.example.com", "https://wiki.example.com/a?b"),
            (Some("example.com"), "example.com", "https://example.com/a?b"),
            (Some("example.com"), "evilexample.com", "https://gate.example.com/a?b"),
            (Some("example.com"), "example.com.evil.example", "https://gate.example.com/a?b"),
        ] {
            let settings = Settings::for_tests(domain)?;
            let arrival = arrival(host, "/a", Some("b"))?;
            let headers = HeaderMap::new();
            let facts = arrival.facts(&Method::GET, &headers);
            assert_eq!(ReturnTo::page(&settings, &facts).as_str(), expected, "{domain:?} {host}");
        }
        Ok(())
    }

    #[test]
    fn whatever_is_asked_for_the_place_is_ours() -> Outcome {
        let settings = Settings::for_tests(None)?;
        let parts = select(vec![
            "https:",
            "http:",
            "//",
            "/",
            "\\",
            "@",
            ":",
            "443",
            ".",
            "..",
            "%2e",
            "%2f",
            "%5c",
            "%00",
            "%09",
            "\t",
            "\n",
            " ",
            "#",
            "?",
            ";",
            "evil.example",
            "wiki.example.com",
            "gate.example.com",
            "x.apps.example.com",
            "user",
            "[",
            "]",
            "::1",
            "é",
            "。",
            "%",
            "a",
            "b?c=d",
            "javascript",
            "\u{202e}",
        ]);
        let config = ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() };
        proptest!(config, |(parts in vec(parts, 0..10))| {
            let rd = parts.concat();
            let text = parsed(&settings, Some(&rd)).map_err(|error| TestCaseError::fail(error.to_string()))?;
            // As a browser reads it.
            let url: Url = text.parse().map_err(|_| TestCaseError::fail(format!("{rd:?} gives no URL: {text}")))?;
            prop_assert_eq!(url.scheme(), "https");
            prop_assert_eq!(url.port(), None);
            prop_assert!((settings.serves)(url.host_str().unwrap_or("")), "{:?} leads to {}", rd, text);
            prop_assert!(url.username().is_empty() && url.password().is_none());
            prop_assert!(!url.path().starts_with("//") && !text.contains('\\'));
            prop_assert!(HeaderValue::try_from(text.as_str()).is_ok());
        });
        Ok(())
    }

    fn login(folder: &std::path::Path) -> Result<(Login, tokio::runtime::Runtime), Box<dyn Error>> {
        let (entropy, telemetry) = (Entropy::system(), Telemetry::unheard()?);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let keyring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(folder, keyring.clone(), entropy.clone(), telemetry.metrics.clone())?;
        let clock = Clock::manual(NOW);
        let directory =
            Directory::new(store.clone(), clock.clone(), telemetry.clone(), runtime.handle().clone());
        let live = Live::new(store.clone(), directory.clone());
        let (sign_ins, callbacks) = (Throttle::default(), Throttle::default());
        let login = Login { keyring, entropy, store, directory, live, clock, telemetry, sign_ins, callbacks };
        Ok((login, runtime))
    }

    /// Starts a sign-in on `host` in a browser with `fields` for cookies.
    fn started(
        login: &Login,
        settings: &Settings,
        host: &str,
        fields: &[String],
    ) -> Result<Start, Box<dyn Error>> {
        let arrival = arrival(host, "/a", None)?;
        let headers = cookies(fields)?;
        let facts = arrival.facts(&Method::GET, &headers);
        Ok(login.start(settings, &facts, &ReturnTo::page(settings, &facts)))
    }

    #[test]
    fn a_sign_in_starts_with_a_state_a_challenge_and_a_cookie_of_its_own() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let settings = Settings::for_tests(None)?;
        let Start::Go { location, cookies } = started(&login, &settings, "gate.example.com", &[])? else {
            return Err("no loop was under way".into());
        };
        assert!(location.as_str().starts_with("https://bitbucket.org/site/oauth2/authorize?"), "{location}");
        let given = |name: &str| {
            location.query_pairs().find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
        };
        assert_eq!(given("code_challenge_method").as_deref(), Some("S256"));
        assert_eq!(given("code_challenge").map(|challenge| challenge.len()), Some(43));
        assert_eq!(given("redirect_uri").as_deref(), Some("https://gate.example.com/.teamgate/callback"));
        let ticket = Ticket::open(&given("state").ok_or("no state")?, &login.keyring)?;
        assert_eq!(ticket.return_to, "https://gate.example.com/a");
        let cookie = cookies.first().ok_or("no cookie")?.to_str()?;
        assert!(cookie.starts_with(&format!("__Host-teamgate-try-{}=", ticket.id)), "{cookie}");
        assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=600"), "{cookie}");
        Ok(())
    }

    #[test]
    fn a_browser_keeps_eight_attempts_and_the_oldest_gives_way() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let settings = Settings::for_tests(None)?;
        for (held, cleared) in [(0, vec![]), (7, vec![]), (8, vec![7]), (10, vec![7, 8, 9])] {
            // The later in the list the older, and one that is no number is the oldest.
            let fields: Vec<String> = (0..held)
                .map(|age| {
                    format!(
                        "__Host-teamgate-try-{age}={}.secret",
                        if age == 9 { "x".into() } else { (1_000 - age).to_string() }
                    )
                })
                .collect();
            let Start::Go { cookies, .. } = started(&login, &settings, "gate.example.com", &fields)? else {
                return Err("no loop was under way".into());
            };
            let (set, gone): (Vec<_>, Vec<_>) = cookies
                .iter()
                .filter_map(|cookie| cookie.to_str().ok())
                .partition(|cookie| !cookie.contains("Max-Age=0"));
            assert_eq!(set.len(), 1, "{held}");
            let mut gone: Vec<usize> = gone
                .iter()
                .filter_map(|cookie| cookie.strip_prefix("__Host-teamgate-try-")?.get(..1)?.parse().ok())
                .collect();
            gone.sort_unstable();
            assert_eq!(gone, cleared, "{held}");
        }
        Ok(())
    }

    #[test]
    fn the_third_round_within_a_minute_is_explained_instead() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let settings = Settings::for_tests(None)?;
        let since = |seconds: u64| NOW.minus(Duration::from_secs(seconds)).unix_seconds();
        for (value, expected) in [
            (format!("1.{}", since(10)), None),
            (format!("2.{}", since(10)), Some(2)),
            (format!("2.{}", since(59)), Some(2)),
            (format!("2.{}", since(60)), None),
            (format!("2.{}", NOW.plus(Duration::from_secs(1)).unix_seconds()), None),
            (format!("255.{}", since(0)), Some(255)),
            (format!("256.{}", since(0)), None),
            ("2".to_owned(), None),
            ("2.x".to_owned(), None),
            (String::new(), None),
        ] {
            let fields = [format!("__Host-teamgate-rounds={value}")];
            let found = match started(&login, &settings, "gate.example.com", &fields)? {
                Start::Go { .. } => None,
                Start::Loop { rounds, .. } => Some(rounds),
                Start::TooOften { .. } => return Err("there is no limit".into()),
            };
            assert_eq!(found, expected, "{value}");
        }
        Ok(())
    }

    /// What the beginning of so many sign-ins came to; `Some` is the wait.
    fn waits(
        login: &Login,
        settings: &Settings,
        host: &str,
        count: usize,
    ) -> Result<Vec<Option<u64>>, Box<dyn Error>> {
        (0..count)
            .map(|_| match started(login, settings, host, &[])? {
                Start::TooOften { wait } => Ok(Some(wait.as_secs())),
                Start::Go { .. } => Ok(None),
                Start::Loop { .. } => Err("no loop was under way".into()),
            })
            .collect()
    }

    #[test]
    fn a_page_is_found_again_if_its_address_can_be_carried_along() -> Outcome {
        let settings = Settings::for_tests(None)?;
        let headers = HeaderMap::new();
        let path = format!("/{}", "a".repeat(1_024));
        for (query, expected) in [
            (None, format!("https://gate.example.com{path}")),
            (Some("q".repeat(3_070)), format!("https://gate.example.com{path}?{}", "q".repeat(3_070))),
            (Some("q".repeat(3_071)), "https://gate.example.com/".to_owned()),
            (Some("q".repeat(30_000)), "https://gate.example.com/".to_owned()),
        ] {
            let arrival = arrival("gate.example.com", &path, query.as_deref())?;
            let facts = arrival.facts(&Method::GET, &headers);
            assert_eq!(ReturnTo::page(&settings, &facts).as_str(), expected);
        }
        Ok(())
    }

    #[test]
    fn an_address_begins_as_many_sign_ins_as_it_may() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let mut settings = Settings::for_tests(None)?;
        settings.limits.sign_ins = Rate::new(3, Duration::from_secs(60));
        // What only leads to the gateway's own host begins nothing.
        for host in ["wiki.example.com", "other.example.com"] {
            assert_eq!(waits(&login, &settings, host, 9)?, [None; 9]);
        }
        assert_eq!(waits(&login, &settings, "gate.example.com", 5)?, [None, None, None, Some(20), Some(20)]);
        assert_eq!(login.telemetry.metrics.throttled.of(Throttled::SignIn).get(), 2);
        assert_eq!(login.telemetry.metrics.sign_in_starts.get(), 3);
        // A proxy of ours that does not say for whom it asks stands for everybody.
        settings.limits.exempt = vec!["203.0.113.0/24".parse()?];
        assert_eq!(waits(&login, &settings, "gate.example.com", 5)?, [None; 5]);
        Ok(())
    }

    #[test]
    fn an_address_comes_back_as_often_as_it_may_whatever_it_began() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let mut settings = Settings::for_tests(None)?;
        settings.limits.callbacks = Rate::new(2, Duration::from_secs(60));
        let headers = HeaderMap::new();
        let arrival = arrival("gate.example.com", "/.teamgate/callback", None)?;
        let facts = arrival.facts(&Method::GET, &headers);
        let found: Vec<bool> = (0..4).map(|_| login.may_come_back(&settings, &facts).is_ok()).collect();
        assert_eq!(found, [true, true, false, false]);
        assert_eq!(login.telemetry.metrics.throttled.of(Throttled::Callback).get(), 2);
        Ok(())
    }

    #[test]
    fn a_host_whose_cookies_the_callback_would_not_see_begins_at_the_gateways_own() -> Outcome {
        let folder = tempfile::tempdir()?;
        let (login, _runtime) = login(folder.path())?;
        let settings = Settings::for_tests(None)?;
        let Start::Go { location, cookies } = started(&login, &settings, "other.example.com", &[])? else {
            return Err("no loop was under way".into());
        };
        assert_eq!(
            location.as_str(),
            "https://gate.example.com/.teamgate/login?rd=https%3A%2F%2Fgate.example.com%2Fa"
        );
        assert!(cookies.is_empty());
        Ok(())
    }
}
