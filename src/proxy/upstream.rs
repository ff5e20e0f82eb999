//! What goes to the app: the headers.
//!
//! Owns: what is taken off a request and what is put on.
//! Must not know: how a request was admitted, which app it goes to.

use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::edit::edit;
use super::facts::{REQUEST_ID, Reading, Via};
use crate::gate::cookie::{self, pairs};
use crate::route::edit::Edits;
use crate::snapshot::{Edge, fold};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the route changes of a request on its way to the app.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    /// Headers taken off and put on. Nothing of them stands where we say something ourselves.
    pub edits: &'a Edits,
    /// What was taken off the path.
    pub prefix: Option<&'a str>,
    /// What becomes of cookies and passwords that are meant for the app.
    pub credentials: Credentials,
}

/// What becomes of cookies and passwords that are meant for the app.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// They go on.
    Pass,
    /// They stay here: nobody was asked who sends this.
    Withhold,
}

/// Makes a request into what the app receives; `told` is what it is told about the account. Called once per attempt with a fresh copy of the client's
/// request, after Pingora has dropped what `Connection` named: so nothing that is set here can be nominated
/// away (CVE-2024-45410 and its kin).
pub fn dress(
    fields: &mut HeaderMap,
    reading: &Reading,
    edge: &Edge,
    cookies: &cookie::Settings,
    told: &[(HeaderName, HeaderValue)],
    changes: &Changes<'_>,
) -> Result<(), http::header::InvalidHeaderValue> {
    let inbound = Inbound::read(fields, reading.via);
    strip(fields, edge);
    keep_apps_cookies(fields, cookies)?;
    if changes.credentials == Credentials::Withhold {
        fields.remove(COOKIE);
        fields.remove(AUTHORIZATION);
    }
    edit(fields, changes.edits);
    fields.reserve(told.len() + 12);
    let arrival = &reading.arrival;
    let words = Words::of(reading, &inbound);
    let host = words.value(&words.authority)?;
    fields.insert(HOST, host.clone());
    fields.insert(X_FORWARDED_HOST, host);
    fields.insert(X_FORWARDED_FOR, words.value(&words.forwarded_for)?);
    fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(reading.proto));
    fields.insert(X_FORWARDED_PORT, port(&arrival.authority, reading.proto)?);
    fields.insert(FORWARDED, words.value(&words.forwarded)?);
    fields.insert(REQUEST_ID, words.value(&words.request_id)?);
    match inbound.trace {
        Some((parent, state)) => {
            fields.insert(TRACEPARENT, parent);
            if let Some(state) = state {
                fields.insert(TRACESTATE, state);
            }
        }
        None => {
            fields.insert(TRACEPARENT, words.value(&words.traceparent)?);
        }
    }
    if let Some(prefix) = changes.prefix {
        fields.insert(X_FORWARDED_PREFIX, HeaderValue::try_from(prefix)?);
    }
    for (name, value) in told {
        fields.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// The values that a request has for itself, written into one buffer, which all of them share.
struct Words {
    text: Bytes,
    authority: Range<usize>,
    forwarded_for: Range<usize>,
    forwarded: Range<usize>,
    request_id: Range<usize>,
    /// Empty where the request came with one of its own.
    traceparent: Range<usize>,
}

impl Words {
    fn of(reading: &Reading, inbound: &Inbound) -> Words {
        let arrival = &reading.arrival;
        let mut text = Vec::with_capacity(384);
        let authority = written(&mut text, |text| text.extend_from_slice(arrival.authority.as_bytes()));
        let forwarded_for = written(&mut text, |text| {
            if let Some(chain) = &inbound.forwarded_for {
                text.extend_from_slice(chain.as_bytes());
                text.extend_from_slice(b", ");
            }
            push_address(text, reading.peer);
        });
        // RFC 7239 §4. The host is in quotes, since a port is no token; so is an IPv6 address, with its brackets.
        let forwarded = written(&mut text, |text| {
            text.extend_from_slice(b"for=");
            match arrival.client {
                address @ IpAddr::V4(_) => push_address(text, address),
                address @ IpAddr::V6(_) => {
                    text.extend_from_slice(b"\"[");
                    push_address(text, address);
                    text.extend_from_slice(b"]\"");
                }
            }
            text.extend_from_slice(b";host=\"");
            text.extend_from_slice(arrival.authority.as_bytes());
            text.extend_from_slice(b"\";proto=");
            text.extend_from_slice(reading.proto.as_bytes());
        });
        let request_id = written(&mut text, |text| text.extend_from_slice(arrival.request_id.as_bytes()));
        let traceparent = written(&mut text, |text| {
            if inbound.trace.is_none() {
                push_traceparent(text, &arrival.request_id);
            }
        });
        Words { text: text.into(), authority, forwarded_for, forwarded, request_id, traceparent }
    }

    fn value(&self, place: &Range<usize>) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
        HeaderValue::from_maybe_shared(self.text.slice(place.clone()))
    }
}

/// Where in `text` stands what `write` adds to it.
fn written(text: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let from = text.len();
    write(text);
    from..text.len()
}

/// IPv4 by hand: nearly every request has one.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    text.push(b'.');
                }
                if octet >= 100 {
                    text.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    text.push(b'0' + octet / 10 % 10);
                }
                text.push(b'0' + octet % 10);
            }
        }
        // Writing into a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(text, "{address}")),
    }
}

/// What a proxy of ours may tell an app through us.
#[derive(Default)]
struct Inbound {
    forwarded_for: Option<String>,
    trace: Option<(HeaderValue, Option<HeaderValue>)>,
}

impl Inbound {
    fn read(headers: &HeaderMap, via: Via) -> Inbound {
        if via == Via::Direct {
            return Inbound::default();
        }
        let chain: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|field| field.to_str().ok()).collect();
        Inbound {
            forwarded_for: (!chain.is_empty()).then(|| chain.join(", ")),
            trace: trace(headers).map(|parent| (parent.clone(), headers.get("tracestate").cloned())),
        }
    }
}

/// The one `traceparent`, if it is one (W3C Trace Context §3.2): proxies pass on what clients made up, and
/// what is malformed is restarted, its `tracestate` with it.
fn trace(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut all = headers.get_all("traceparent").iter();
    let (Some(parent), None) = (all.next(), all.next()) else { return None };
    let hex = |part: &[u8], length: usize| {
        part.len() == length && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |id: &[u8]| id.iter().any(|byte| *byte != b'0');
    let mut parts = parent.as_bytes().split(|byte| *byte == b'-');
    let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = hex(version, 2) && version != b"ff" && (version != b"00" || parts.next().is_none());
    (known && hex(id, 32) && some(id) && hex(span, 16) && some(span) && hex(flags, 2)).then_some(parent)
}

/// What says where a body ends, what it is, and what is between two hops: under its own name it has been looked
/// at, under another that CGI and WSGI fold into it (`Transfer_Encoding`) it has not.
const NOT_IN_DISGUISE: &[&str] = &[
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "http2-settings",
];

/// Takes off every field that an app could take for ours, under any spelling.
fn strip(fields: &mut HeaderMap, edge: &Edge) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let goes = |name: &str| {
        edge.stripped.takes(name) || !name.bytes().all(plain) && NOT_IN_DISGUISE.contains(&&*fold(name))
    };
    let gone: Vec<HeaderName> = fields.keys().filter(|name| goes(name.as_str())).cloned().collect();
    for name in gone {
        fields.remove(&name);
    }
}

/// One `Cookie` field (RFC 9113 §8.2.3) without ours.
fn keep_apps_cookies(
    fields: &mut HeaderMap,
    cookies: &cookie::Settings,
) -> Result<(), http::header::InvalidHeaderValue> {
    let Some(first) = fields.get(COOKIE) else { return Ok(()) };
    let mut joined: Vec<u8> = Vec::with_capacity(first.len());
    for (name, value) in pairs(fields).filter(|(name, _)| !cookies.is_ours(name)) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(name);
        joined.push(b'=');
        joined.extend_from_slice(value);
    }
    match joined.is_empty() {
        true => fields.remove(COOKIE),
        false => fields.insert(COOKIE, HeaderValue::from_maybe_shared(Bytes::from(joined))?),
    };
    Ok(())
}

fn port(authority: &str, proto: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let written = authority.rsplit_once(':').map(|(_, port)| port);
    match written.filter(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(port) => HeaderValue::try_from(port),
        None => Ok(HeaderValue::from_static(if proto == "https" { "443" } else { "80" })),
    }
}

/// A trace of our own making (W3C Trace Context): the request's name is the trace's, not sampled. A name that
/// a proxy gave and that has another shape is hashed into it.
fn push_traceparent(text: &mut Vec<u8>, request_id: &str) {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let fits =
        request_id.len() == 32 && request_id.bytes().all(hex) && request_id[..16].bytes().any(|b| b != b'0');
    let mut push = |id: &str| {
        for part in ["00-", id, "-", &id[..16], "-00"] {
            text.extend_from_slice(part.as_bytes());
        }
    };
    if fits {
        push(request_id);
    } else {
        let hash = digest(&SHA256, request_id.as_bytes());
        push(&hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use pingora::http::RequestHeader;

    use super::super::facts::{Peer, RequestIds, Tls, read};
    use super::super::heads::with_request_fields;
    use super::*;
    use crate::clock::Timestamp;
    use crate::entropy::Entropy;
    use crate::gate::cookie::{SameSite, Secure};
    use crate::snapshot::Stripped;

    type Outcome = Result<(), Box<dyn Error>>;

    const PROXY: &str = "10.0.0.1";
    const VISITOR: &str = "203.0.113.7";

    struct Dressed(RequestHeader);

    impl Dressed {
        /// Every value under a name, whatever its case, in order.
        fn all(&self, name: &str) -> Vec<&str> {
            self.0.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("no text")).collect()
        }
    }

    /// What the app receives of a request from `peer` with `fields`.
    fn dressed_with(
        edge: &Edge,
        peer: (&str, Tls),
        fields: &[(&str, &str)],
        told: &[(HeaderName, HeaderValue)],
    ) -> Result<Dressed, Box<dyn Error>> {
        let changes = Changes { edits: &Edits::default(), prefix: None, credentials: Credentials::Pass };
        changed(edge, peer, fields, told, &changes)
    }

    fn changed(
        edge: &Edge,
        peer: (&str, Tls),
        fields: &[(&str, &str)],
        told: &[(HeaderName, HeaderValue)],
        changes: &Changes<'_>,
    ) -> Result<Dressed, Box<dyn Error>> {
        let mut request = RequestHeader::build("GET", b"/a", None)?;
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.append_header("Host", "wiki.example.com")?;
        }
        for (name, value) in fields {
            request.append_header((*name).to_owned(), HeaderValue::from_bytes(value.as_bytes())?)?;
        }
        let ids = RequestIds::new(&Entropy::system());
        let peer = Peer { address: peer.0.parse()?, tls: peer.1 };
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let reading = read(&request, b"", peer, edge, &ids, now).map_err(|(why, _)| why)?;
        let cookies = cookie::Settings::new(None, Secure::Yes, SameSite::Lax);
        with_request_fields(&mut request, |fields| dress(fields, &reading, edge, &cookies, told, changes))?;
        Ok(Dressed(request))
    }

    fn dressed(peer: &str, fields: &[(&str, &str)]) -> Result<Dressed, Box<dyn Error>> {
        dressed_with(&Edge::for_tests()?, (peer, Tls::No), fields, &[])
    }

    /// Configuration keeps such edits out; should it ever not, what is ours still stands last.
    #[test]
    fn no_edit_touches_what_we_say_ourselves() -> Outcome {
        let name = HeaderName::from_static;
        let ours = [("x-forwarded-user", "ann"), ("x-teamgate-assertion", "signed")];
        let told = ours.map(|(key, value)| (name(key), HeaderValue::from_static(value)));
        let set = [
            ("x-forwarded-user", "root"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-prefix", "/elsewhere"),
            ("x-app-key", "k"),
        ];
        let edits = Edits {
            remove: ["x-teamgate-assertion", "x-request-id", "host", "x-app"].map(name).into(),
            set: set.map(|(key, value)| (name(key), HeaderValue::from_static(value))).into(),
        };
        let changes = Changes { edits: &edits, prefix: Some("/wiki"), credentials: Credentials::Pass };
        let sent =
            [("X-App", "1"), ("X_App", "2"), ("x_app_key", "theirs"), ("X-Forwarded-Prefix", "/theirs")];
        let edge = Edge::for_tests()?;
        let dressed = changed(&edge, (VISITOR, Tls::No), &sent, &told, &changes)?;
        assert_eq!(dressed.all("x-forwarded-user"), ["ann"]);
        assert_eq!(dressed.all("x-teamgate-assertion"), ["signed"]);
        assert_eq!(dressed.all("x-forwarded-for"), [VISITOR]);
        assert_eq!(dressed.all("x-forwarded-prefix"), ["/wiki"]);
        assert_eq!(dressed.all("host"), ["wiki.example.com"]);
        assert_eq!(dressed.all("x-request-id").len(), 1);
        assert_eq!((dressed.all("x-app"), dressed.all("x_app")), (vec![], vec![]));
        assert_eq!((dressed.all("x-app-key"), dressed.all("x_app_key")), (vec!["k"], vec![]));
        Ok(())
    }

    #[test]
    fn a_prefix_is_ours_to_state_even_where_a_trusted_proxy_states_one() -> Outcome {
        for peer in [PROXY, VISITOR] {
            let sent = [("X-Forwarded-Prefix", "/theirs"), ("x_forwarded_prefix", "/theirs")];
            let dressed = dressed(peer, &sent)?;
            assert_eq!(
                (dressed.all("x-forwarded-prefix"), dressed.all("x_forwarded_prefix")),
                (vec![], vec![])
            );
        }
        Ok(())
    }

    #[test]
    fn where_nobody_was_asked_no_credential_of_any_kind_goes_on() -> Outcome {
        let changes = Changes { edits: &Edits::default(), prefix: None, credentials: Credentials::Withhold };
        let sent =
            [("Cookie", "theme=dark"), ("Cookie", "a=b"), ("Authorization", "Basic x"), ("X-App", "1")];
        let dressed = changed(&Edge::for_tests()?, (VISITOR, Tls::No), &sent, &[], &changes)?;
        assert_eq!((dressed.all("cookie"), dressed.all("authorization")), (vec![], vec![]));
        assert_eq!(dressed.all("x-app"), ["1"]);
        Ok(())
    }

    /// threats 1 to 3 and 6. `Edge::for_tests` lists what is stripped.
    #[test]
    fn what_an_app_could_take_for_ours_never_arrives_under_any_spelling() -> Outcome {
        let names = [
            "x-forwarded-user",
            "X-Forwarded-User",
            "X-FORWARDED-USER",
            "x-FoRwArDeD-uSeR",
            "X_Forwarded_User",
            "X-Forwarded_User",
            "X.Forwarded.User",
            "X!Forwarded~User",
            "x*forwarded'user",
            "X|Forwarded^User",
            "X+Forwarded&User",
            "X$Forwarded%User",
            "X`Forwarded#User",
            "x_forwarded-EMAIL",
            "X-Forwarded-Groups",
            "X-Teamgate-Assertion",
            "x_teamgate_assertion",
            "X-Teamgate-",
            "X-Teamgate-Anything",
            "Remote-User",
            "REMOTE_USER",
            "Remote.User",
            "X-Auth-Request-User",
            "x_auth_request_groups",
            "X-Auth-Request-",
        ];
        for peer in [PROXY, VISITOR] {
            for name in names {
                let dressed = dressed(peer, &[(name, "root"), ("X-App", "1"), (name, "admin")])?;
                assert_eq!(dressed.all(name), [""; 0], "{name} from {peer}");
                assert_eq!(dressed.all("x-app"), ["1"]);
            }
        }
        Ok(())
    }

    #[test]
    fn what_only_looks_alike_to_people_passes() -> Outcome {
        for name in [
            "X-Forwarded-Users",
            "XForwardedUser",
            "X-Teamgat",
            "Remote-Users",
            "Authorization",
            "X-Auth-Requests",
        ] {
            assert_eq!(dressed(VISITOR, &[(name, "a"), (name, "b")])?.all(name), ["a", "b"], "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_name_that_is_kept_passes_and_one_that_is_added_does_not() -> Outcome {
        let mut edge = Edge::for_tests()?;
        edge.stripped = Stripped::new(["x-acme-*"].into_iter());
        let fields = [("X_Acme_Level", "9"), ("Remote-User", "svc")];
        let dressed = dressed_with(&edge, (VISITOR, Tls::No), &fields, &[])?;
        assert_eq!(dressed.all("x_acme_level"), [""; 0]);
        assert_eq!(dressed.all("remote-user"), ["svc"]);
        Ok(())
    }

    #[test]
    fn what_every_app_is_told_is_ours_and_stands_there_once() -> Outcome {
        for spelled in ["x-forwarded-for", "X_Forwarded_For", "X.Forwarded-For"] {
            let lies = [
                (spelled, "6.6.6.6"),
                ("X-Forwarded-Proto", "https"),
                ("x_forwarded_host", "evil.example"),
                ("X-Forwarded-Host", "evil.example"),
                ("X-Forwarded-Port", "1"),
                ("Forwarded", "for=6.6.6.6"),
                ("X-Request-Id", "forged-request"),
                ("traceparent", "forged"),
                ("tracestate", "forged"),
            ];
            let dressed = dressed(VISITOR, &lies)?;
            for (name, expected) in [
                ("host", "wiki.example.com"),
                ("x-forwarded-for", VISITOR),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "wiki.example.com"),
                ("x-forwarded-port", "80"),
                ("forwarded", "for=203.0.113.7;host=\"wiki.example.com\";proto=http"),
            ] {
                assert_eq!(dressed.all(name), [expected], "{name}");
            }
            let (ids, traces) = (dressed.all("x-request-id"), dressed.all("traceparent"));
            assert_eq!((ids.len(), traces.len()), (1, 1));
            assert_eq!(traces[0], format!("00-{}-{}-00", ids[0], &ids[0][..16]));
            assert_eq!(dressed.all("tracestate"), [""; 0]);
            assert!(dressed.0.headers.keys().all(|name| !name.as_str().contains(['_', '.'])));
        }
        Ok(())
    }

    #[test]
    fn a_host_is_passed_in_its_one_spelling_with_its_port() -> Outcome {
        let rows: &[(&str, Tls, &str, &str, &str)] = &[
            (
                "Wiki.Example.com.",
                Tls::No,
                "wiki.example.com",
                "80",
                "for=203.0.113.7;host=\"wiki.example.com\";proto=http",
            ),
            (
                "wiki.example.com",
                Tls::Yes,
                "wiki.example.com",
                "443",
                "for=203.0.113.7;host=\"wiki.example.com\";proto=https",
            ),
            (
                "wiki.example.com:8443",
                Tls::Yes,
                "wiki.example.com:8443",
                "8443",
                "for=203.0.113.7;host=\"wiki.example.com:8443\";proto=https",
            ),
            ("[0:0::1]", Tls::No, "[::1]", "80", "for=203.0.113.7;host=\"[::1]\";proto=http"),
            ("[::1]:81", Tls::No, "[::1]:81", "81", "for=203.0.113.7;host=\"[::1]:81\";proto=http"),
        ];
        for (host, tls, sent, port, forwarded) in rows {
            let dressed = dressed_with(&Edge::for_tests()?, (VISITOR, *tls), &[("Host", host)], &[])?;
            assert_eq!(dressed.all("host"), [*sent], "{host}");
            assert_eq!(dressed.all("x-forwarded-host"), [*sent], "{host}");
            assert_eq!(dressed.all("x-forwarded-port"), [*port], "{host}");
            assert_eq!(dressed.all("forwarded"), [*forwarded], "{host}");
        }
        Ok(())
    }

    /// RFC 7239 §6: the colons of an IPv6 address need quotes, the address brackets.
    #[test]
    fn an_ipv6_client_is_quoted_in_forwarded_and_bare_elsewhere() -> Outcome {
        let dressed = dressed("2001:db8::7", &[])?;
        assert_eq!(dressed.all("forwarded"), ["for=\"[2001:db8::7]\";host=\"wiki.example.com\";proto=http"]);
        assert_eq!(dressed.all("x-forwarded-for"), ["2001:db8::7"]);
        Ok(())
    }

    #[test]
    fn a_chain_is_continued_only_for_a_proxy_of_ours() -> Outcome {
        let rows: &[(&str, &[&str], &str, &str)] = &[
            (VISITOR, &["6.6.6.6"], "203.0.113.7", "203.0.113.7"),
            (PROXY, &[], "10.0.0.1", "10.0.0.1"),
            (PROXY, &["203.0.113.7"], "203.0.113.7, 10.0.0.1", "203.0.113.7"),
            (
                PROXY,
                &["6.6.6.6, 203.0.113.7", "10.9.9.9"],
                "6.6.6.6, 203.0.113.7, 10.9.9.9, 10.0.0.1",
                "203.0.113.7",
            ),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ];
        for (peer, chain, sent, client) in rows {
            let fields: Vec<_> = chain.iter().map(|field| ("x-forwarded-for", *field)).collect();
            let dressed = dressed(peer, &fields)?;
            assert_eq!(dressed.all("x-forwarded-for"), [*sent], "{peer} {chain:?}");
            assert!(dressed.all("forwarded")[0].starts_with(&format!("for={client};")), "{peer} {chain:?}");
        }
        let secure = dressed(PROXY, &[("X-Forwarded-Proto", "https")])?;
        assert_eq!(
            (secure.all("x-forwarded-proto"), secure.all("x-forwarded-port")),
            (vec!["https"], vec!["443"])
        );
        Ok(())
    }

    #[test]
    fn a_trace_goes_on_only_from_a_proxy_of_ours_and_only_if_it_is_one() -> Outcome {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parent, goes_on) in [
            (TRACE, true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6-00f067aa0ba902b7-01", false),
            ("", false),
            ("x", false),
        ] {
            for (peer, believed) in [(PROXY, goes_on), (VISITOR, false)] {
                let dressed = dressed(peer, &[("traceparent", parent), ("tracestate", "a=1")])?;
                let own = format!(
                    "00-{id}-{}-00",
                    &dressed.all("x-request-id")[0][..16],
                    id = dressed.all("x-request-id")[0]
                );
                assert_eq!(
                    dressed.all("traceparent"),
                    [if believed { parent } else { &own }],
                    "{parent} {peer}"
                );
                assert_eq!(dressed.all("tracestate").len(), usize::from(believed), "{parent} {peer}");
            }
        }
        let twice = dressed(PROXY, &[("traceparent", TRACE), ("traceparent", TRACE)])?;
        assert_ne!(twice.all("traceparent"), [TRACE]);
        Ok(())
    }

    #[test]
    fn a_request_name_of_any_shape_makes_a_trace() {
        let zeros = "0".repeat(32);
        for id in ["01234567", "A1B2C3D4A1B2C3D4A1B2C3D4A1B2C3D4", &zeros, "a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"]
        {
            let mut text = Vec::new();
            push_traceparent(&mut text, id);
            let header: HeaderMap =
                HeaderValue::from_bytes(&text).map(|value| (TRACEPARENT, value)).into_iter().collect();
            assert!(trace(&header).is_some(), "{id}: {}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn our_cookies_stay_here_and_the_apps_arrive_in_one_field() -> Outcome {
        let rows: &[(&[&str], &[&str])] = &[
            (&["a=1; b=2"], &["a=1; b=2"]),
            (&["__Host-teamgate=s3cret"], &[]),
            (&["a=1; __Host-teamgate=s3cret; b=2"], &["a=1; b=2"]),
            (&["a=1", "__Host-teamgate=s3cret", "b=2"], &["a=1; b=2"]),
            (&["a=1;__Host-teamgate=s3cret;b=2;"], &["a=1; b=2"]),
            (&["__Host-teamgate=s3cret; __Host-teamgate=s3cret"], &[]),
            (&["__Host-teamgate-try-x=s3cret; __Host-teamgate-rounds=s3cret; a=1"], &["a=1"]),
            (&["  __Host-teamgate=s3cret  ;  a=1  "], &["a=1"]),
            (
                &["__Host-teamgater=kept; teamgate=kept; x__Host-teamgate=kept"],
                &["__Host-teamgater=kept; teamgate=kept; x__Host-teamgate=kept"],
            ),
            (&["a=b=c; d=\"e\""], &["a=b=c; d=\"e\""]),
            (&[""], &[]),
        ];
        for (fields, expected) in rows {
            let fields: Vec<_> = fields.iter().map(|field| ("Cookie", *field)).collect();
            let dressed = dressed(VISITOR, &fields)?;
            assert_eq!(dressed.all("cookie"), *expected, "{fields:?}");
        }
        Ok(())
    }
}
