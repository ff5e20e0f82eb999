//! The session cookie: how it is named, written, read and cleared.
//!
//! Owns: [`Settings`], [`SessionId`], [`find`], the attributes of every cookie the gateway sets.
//! Must not know: what a session is, who is asking.
//!
//! A cookie says nothing: it is a random id and a MAC over it and over where it is good, so that what is not ours,
//! or was copied from another host, is recognised before anything is looked up.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::Cookie;
pub use cookie::SameSite;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::entropy::Entropy;
use crate::keys::{Keyring, Purpose};
use crate::session::SessionKey;

/// How the gateway's cookies look on this installation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The parent domain that all hosts share; `None` for host-only cookies.
    pub domain: Option<Box<str>>,
    /// Whether browsers speak TLS to us: sets `Secure`, and with a host-only cookie the `__Host-` prefix.
    pub secure: Secure,
    /// `SameSite` of the session cookie.
    pub same_site: SameSite,
    name: Box<str>,
}

/// Whether browsers reach the gateway over TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secure {
    /// Over https; cookies never travel in the clear.
    Yes,
    /// Over http, which configuration allows on loopback only.
    LoopbackHttp,
}

impl Settings {
    /// Names the cookie: `__Host-teamgate` where the browser can hold us to it (RFC 6265bis §4.1.3), else
    /// `teamgate`.
    pub fn new(domain: Option<Box<str>>, secure: Secure, same_site: SameSite) -> Settings {
        let name = match (&domain, secure) {
            (None, Secure::Yes) => "__Host-teamgate",
            _ => "teamgate",
        };
        Settings { domain, secure, same_site, name: name.into() }
    }

    /// The session cookie's name. Every other cookie of ours begins with it and a hyphen.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a session cookie that came to `host` must be good to count there: the parent domain, or `host` alone.
    pub fn scope<'a>(&'a self, host: &'a str) -> &'a str {
        self.domain.as_deref().unwrap_or(host)
    }

    /// A cookie of ours that lasts for `max_age`.
    pub fn set(&self, name: &str, value: &str, max_age: Duration, same_site: SameSite) -> HeaderValue {
        let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        self.header(name, value, seconds, same_site)
    }

    /// Takes a cookie of ours away again. Browsers ignore this unless every attribute is repeated
    /// (CVE-2025-55162).
    pub fn clear(&self, name: &str) -> HeaderValue {
        self.header(name, "", 0, self.same_site)
    }

    fn header(&self, name: &str, value: &str, max_age: i64, same_site: SameSite) -> HeaderValue {
        let mut cookie = Cookie::build((name, value))
            .path("/")
            .http_only(true)
            .same_site(same_site)
            .max_age(time::Duration::seconds(max_age));
        if self.secure == Secure::Yes {
            cookie = cookie.secure(true);
        }
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(&**domain);
        }
        // Names and values are ours: base64url, digits and dots.
        HeaderValue::try_from(cookie.build().to_string()).unwrap_or(HeaderValue::from_static(""))
    }

    /// Whether a cookie called `name` is one of ours, to be kept from the apps.
    pub fn is_ours(&self, name: &[u8]) -> bool {
        match name.strip_prefix(self.name.as_bytes()) {
            Some([]) => true,
            Some([first, ..]) => *first == b'-',
            None => false,
        }
    }
}

/// The values of every cookie called `name`, over all `Cookie` fields (HTTP/2 splits them, RFC 9113 §8.2.3),
/// byte for byte: no decoding, no quotes, nothing trimmed but spaces. Browsers and servers that were more
/// generous let sibling hosts plant cookies under foreign names.
pub fn find<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).filter_map(move |(found, value)| (found == name.as_bytes()).then_some(value))
}

/// All cookies as name and value, in order.
pub fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).filter_map(
        |pair| {
            let start = pair.iter().position(|byte| *byte != b' ')?;
            let pair = &pair[start..];
            let end = pair.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
            let pair = &pair[..end];
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            Some((&pair[..equals], &pair[equals + 1..]))
        },
    )
}

/// The secret name of a session: 256 random bits that only the browser keeps.
#[derive(Clone)]
pub struct SessionId([u8; 32]);

/// Why a cookie is none of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOurs {
    /// It has not the shape of ours.
    Malformed,
    /// It has the shape of ours, and no key of ours made it, or not for the host that it came to.
    Forged,
}

/// How many bytes of MAC stand behind the id.
const TAG: usize = 16;
/// The longest host or domain, in bytes (RFC 1035 §2.3.4).
const LONGEST_SCOPE: usize = 253;

/// What the MAC is over. The id has one length, so no two pairs of id and scope read the same.
struct Bound {
    bytes: [u8; 32 + LONGEST_SCOPE],
    length: usize,
}

impl Bound {
    /// `None` for a scope that is longer than any host.
    fn new(id: &[u8; 32], scope: &str) -> Option<Bound> {
        let mut bytes = [0; 32 + LONGEST_SCOPE];
        let length = 32 + scope.len();
        bytes[..32].copy_from_slice(id);
        bytes.get_mut(32..length)?.copy_from_slice(scope.as_bytes());
        Some(Bound { bytes, length })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl SessionId {
    /// A new id.
    pub fn draw(entropy: &Entropy) -> SessionId {
        SessionId(entropy.bytes())
    }

    /// From its bytes, as [`SessionId::expose`] gave them.
    pub fn from_bytes(id: [u8; 32]) -> SessionId {
        SessionId(id)
    }

    /// Its bytes, for what is sealed at once and travels to another host. Never for logs.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The cookie's value: id and MAC, 64 characters of base64url. It is good at `scope` ([`Settings::scope`]) and
    /// nowhere else.
    pub fn seal(&self, keyring: &Keyring, scope: &str) -> String {
        let mut bytes = [0_u8; 32 + TAG];
        bytes[..32].copy_from_slice(&self.0);
        // Without a MAC it opens nowhere; no host that is served is that long.
        if let Some(bound) = Bound::new(&self.0, scope) {
            bytes[32..].copy_from_slice(&keyring.mac(Purpose::SessionCookie, bound.as_bytes()));
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cookie's value that came to `scope`, before anything is looked up.
    ///
    /// # Errors
    ///
    /// When we did not make it for there; why not is for the metrics, and the same to whoever sent it.
    pub fn open(value: &[u8], keyring: &Keyring, scope: &str) -> Result<SessionId, NotOurs> {
        let mut bytes = [0_u8; 32 + TAG];
        // The exact length first: base64 of anything longer is not worth decoding.
        if value.len() != 64 || URL_SAFE_NO_PAD.decode_slice(value, &mut bytes) != Ok(bytes.len()) {
            return Err(NotOurs::Malformed);
        }
        let (id, tag) = bytes.split_at(32);
        let mut own = [0; 32];
        own.copy_from_slice(id);
        let bound = Bound::new(&own, scope).ok_or(NotOurs::Forged)?;
        if !keyring.verify_mac(Purpose::SessionCookie, bound.as_bytes(), tag) {
            return Err(NotOurs::Forged);
        }
        Ok(SessionId(own))
    }

    /// What the session is kept under.
    pub fn key(&self) -> SessionKey {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        SessionKey(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BadKeys;

    fn host_only() -> Settings {
        Settings::new(None, Secure::Yes, SameSite::Lax)
    }

    fn cookies(fields: &[&'static str]) -> HeaderMap {
        fields.iter().map(|field| (COOKIE, HeaderValue::from_static(field))).collect()
    }

    #[test]
    fn the_prefix_is_used_wherever_a_browser_honours_it() {
        assert_eq!(host_only().name(), "__Host-teamgate");
        assert_eq!(Settings::new(Some("example.com".into()), Secure::Yes, SameSite::Lax).name(), "teamgate");
        assert_eq!(Settings::new(None, Secure::LoopbackHttp, SameSite::Lax).name(), "teamgate");
    }

    #[test]
    fn a_cookie_is_at_most_100_bytes_and_opens_again() -> Result<(), BadKeys> {
        let keyring = Keyring::ephemeral(&Entropy::system())?;
        let id = SessionId::draw(&Entropy::system());
        let value = id.seal(&keyring, "wiki.example.com");
        assert!(host_only().name().len() + 1 + value.len() <= 100);
        assert_eq!(
            SessionId::open(value.as_bytes(), &keyring, "wiki.example.com").map(|id| id.key()),
            Ok(id.key())
        );
        Ok(())
    }

    #[test]
    fn what_we_did_not_make_is_not_opened() -> Result<(), BadKeys> {
        let keyring = Keyring::ephemeral(&Entropy::system())?;
        let value = SessionId::draw(&Entropy::system()).seal(&keyring, "wiki.example.com");
        let open = |value: &[u8]| SessionId::open(value, &keyring, "wiki.example.com").err();
        for at in 0..value.len() {
            let mut forged = value.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            // 48 bytes fill their 64 characters to the last bit: no two texts mean the same.
            assert_eq!(open(&forged), Some(NotOurs::Forged), "{at}");
        }
        for misshapen in
            [b"".as_slice(), &value.as_bytes()[..63], format!("{value}A").as_bytes(), &[0xff; 64]]
        {
            assert_eq!(open(misshapen), Some(NotOurs::Malformed));
        }
        Ok(())
    }

    #[test]
    fn a_cookie_is_good_at_the_host_it_was_made_for_or_below_the_domain_and_nowhere_else()
    -> Result<(), BadKeys> {
        let keyring = Keyring::ephemeral(&Entropy::system())?;
        let id = SessionId::draw(&Entropy::system());
        let below = Settings::new(Some("example.com".into()), Secure::Yes, SameSite::Lax);
        let longest = "a".repeat(LONGEST_SCOPE);
        let too_long = "a".repeat(LONGEST_SCOPE + 1);
        for (settings, made, came, good) in [
            (host_only(), "wiki.example.com", "wiki.example.com", true),
            (host_only(), "wiki.example.com", "iki.example.com", false),
            (host_only(), "wiki.example.com", "wiki.example.co", false),
            (host_only(), "wiki.example.com", "deploy.example.com", false),
            (host_only(), "wiki.example.com", "", false),
            (host_only(), &longest, &longest, true),
            (host_only(), &too_long, &too_long, false),
            (host_only(), &longest, &too_long, false),
            (below.clone(), "wiki.example.com", "deploy.example.com", true),
        ] {
            let value = id.seal(&keyring, settings.scope(made));
            let opened = SessionId::open(value.as_bytes(), &keyring, settings.scope(came));
            assert_eq!(opened.is_ok(), good, "{made} {came}");
        }
        // A host of the same name as the domain is another matter only by the cookie's own name.
        let value = id.seal(&keyring, below.scope("wiki.example.com"));
        assert!(SessionId::open(value.as_bytes(), &keyring, host_only().scope("wiki.example.com")).is_err());
        Ok(())
    }

    #[test]
    fn names_are_compared_byte_for_byte_over_all_fields() {
        let found = |fields: &[&'static str]| -> Vec<Vec<u8>> {
            find(&cookies(fields), "__Host-teamgate").map(<[u8]>::to_vec).collect()
        };
        assert_eq!(found(&["a=1; __Host-teamgate=x; b=2"]), [b"x"]);
        assert_eq!(found(&["a=1", "__Host-teamgate=x"]), [b"x"]);
        assert_eq!(found(&["__Host-teamgate=x;__Host-teamgate=y"]), [b"x", b"y"]);
        for planted in [
            "__host-teamgate=x",
            "\t__Host-teamgate=x",
            "__%48ost-teamgate=x",
            "\"__Host-teamgate\"=x",
            "__Host-teamgate =x",
        ] {
            assert!(found(&[planted]).is_empty(), "{planted}");
        }
    }

    #[test]
    fn ours_are_told_from_those_of_the_apps() {
        let settings = host_only();
        for (name, ours) in [
            ("__Host-teamgate", true),
            ("__Host-teamgate-try-abc", true),
            ("__Host-teamgater", false),
            ("teamgate", false),
            ("session", false),
        ] {
            assert_eq!(settings.is_ours(name.as_bytes()), ours, "{name}");
        }
    }

    #[test]
    fn clearing_repeats_every_attribute_of_setting() -> Result<(), http::header::ToStrError> {
        let settings = Settings::new(Some("example.com".into()), Secure::Yes, SameSite::Lax);
        let set = settings.set("teamgate", "v", Duration::from_secs(60), SameSite::Lax);
        assert_eq!(
            set.to_str()?,
            "teamgate=v; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=example.com; Max-Age=60"
        );
        assert_eq!(
            settings.clear("teamgate").to_str()?,
            "teamgate=; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=example.com; Max-Age=0"
        );
        Ok(())
    }
}
