//! From a request on the wire to the facts about it.
//!
//! Owns: what is refused before anything is decided, whose forwarded headers are believed, who the client is.
//! Must not know: routes, sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Version};
use pingora::http::RequestHeader;

use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::facts::Arrival;
use crate::listener::Ends;
use crate::route::host::canonical_host;
use crate::route::refusal::Refusal;
use crate::route::target::{Target, canonical, origin_form};
use crate::snapshot::{Edge, Limits};

/// Names the request, to apps and to whoever asked.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the connection says about the client.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The other end of the socket; unspecified when it has none (a unix socket).
    pub address: IpAddr,
    /// Whether the connection itself is TLS.
    pub tls: Tls,
}

/// Whether a connection is TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// A request that was understood.
#[derive(Debug)]
pub struct Reading {
    /// The facts.
    pub arrival: Arrival,
    /// The target in its one spelling, and what the route must have opted in to.
    pub target: Target<'static>,
    /// `https` or `http`, as the client spoke to us or to a proxy of ours: what apps are told.
    pub proto: &'static str,
    /// Whether the other end is a proxy of ours, so that what it forwards is believed.
    pub via: Via,
    /// The other end of the socket: what is added to `X-Forwarded-For`.
    pub peer: IpAddr,
}

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// A proxy of `trusted_proxies`.
    TrustedProxy,
    /// Anybody.
    Direct,
}

/// Why a request is answered before anything is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// 400: the target or the host.
    #[error(transparent)]
    Target(#[from] Refusal),
    /// 400: two parsers could disagree about where the request ends (RFC 9112 §6.3, RFC 9110 §8.6).
    #[error("The request says in two ways how long it is.")]
    Framing,
    /// 400: a parser that ends lines at CRLF only reads other fields than one that does not (RFC 9112 §2.2).
    #[error("A line of the request ends in a bare line feed.")]
    LineEnd,
    /// 405: TRACE shows cookies to scripts, CONNECT is no request to an app.
    #[error("This method is not for apps.")]
    Method,
    /// 421: it came over a connection that is for another host (RFC 9110 §7.4).
    #[error("The request came over a connection that is for another host.")]
    Misdirected,
    /// 431: more than `limits.header_fields` fields, or `limits.header_bytes` of them.
    #[error("The request carries more headers than the gateway takes.")]
    TooManyHeaders,
    /// 414: a target of more than `limits.target_bytes`.
    #[error("The address is longer than the gateway takes.")]
    TargetTooLong,
}

/// Reads a request. `head` is the same as it came over HTTP/1.1, byte for byte; empty in HTTP/2.
///
/// # Errors
///
/// [`Unreadable`], with the host and path left out: what cannot be understood is not repeated.
pub fn read(
    header: &RequestHeader,
    head: &[u8],
    peer: Peer,
    edge: &Edge,
    ids: &RequestIds,
    now: Timestamp,
) -> Result<Reading, (Unreadable, Box<Arrival>)> {
    let via = if edge.trusts(peer.address) { Via::TrustedProxy } else { Via::Direct };
    let request_id = match via {
        Via::TrustedProxy => inbound_id(&header.headers).map_or_else(|| ids.next(), Arc::from),
        Via::Direct => ids.next(),
    };
    let mut arrival = Arrival {
        now,
        scheme: if edge.external_url.scheme() == "https" { "https" } else { "http" },
        host: Arc::default(),
        authority: Arc::default(),
        path: Arc::default(),
        query: None,
        client: client(&header.headers, peer.address, edge),
        request_id,
    };
    let target = match understand(header, head, &edge.limits, &mut arrival) {
        Ok(target) => target,
        Err(unreadable) => {
            arrival.path = "/".into();
            if arrival.authority.is_empty() {
                arrival.authority = edge.external_url.host_str().unwrap_or_default().into();
            }
            return Err((unreadable, Box::new(arrival)));
        }
    };
    let proto = match (peer.tls, via) {
        (Tls::Yes, _) => "https",
        (Tls::No, Via::TrustedProxy) if forwarded_proto(&header.headers) == Some("https") => "https",
        _ => "http",
    };
    Ok(Reading { arrival, target, proto, via, peer: peer.address.to_canonical() })
}

/// Takes a request that came over the right connection. A proxy of ours may ask for every host over one.
///
/// # Errors
///
/// [`Unreadable::Misdirected`].
pub fn rightly_directed(reading: Reading, ends: &Ends) -> Result<Reading, (Unreadable, Box<Arrival>)> {
    match reading.via == Via::Direct && ends.are_wrong_for(&reading.arrival.host) {
        true => Err((Unreadable::Misdirected, Box::new(reading.arrival))),
        false => Ok(reading),
    }
}

fn understand(
    header: &RequestHeader,
    head: &[u8],
    limits: &Limits,
    arrival: &mut Arrival,
) -> Result<Target<'static>, Unreadable> {
    // First what costs least to see, and what would cost most to go on with.
    let bytes: usize = header.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    // HTTP/2 splits cookies, and browsers do: one field each (RFC 9113 §8.2.3).
    let crumbs = match header.version {
        Version::HTTP_2 => header.headers.get_all(COOKIE).iter().count().saturating_sub(1),
        _ => 0,
    };
    if header.headers.len() - crumbs > limits.header_fields || bytes > limits.header_bytes {
        return Err(Unreadable::TooManyHeaders);
    }
    // In any case: methods are case-sensitive, but not every server knows.
    if ["TRACE", "TRACK", "CONNECT"]
        .iter()
        .any(|refused| header.method.as_str().eq_ignore_ascii_case(refused))
    {
        return Err(Unreadable::Method);
    }
    if bare_line_feed(head) {
        return Err(Unreadable::LineEnd);
    }
    framing(&header.headers, head)?;
    let authority = authority(header)?;
    let host = canonical_host(authority)?;
    arrival.host = host.name.as_ref().into();
    arrival.authority = match host.port {
        Some(port) => format!("{}:{port}", host.name).into(),
        None => arrival.host.clone(),
    };
    let origin = origin_form(header.raw_path(), authority)?;
    if origin.len() > limits.target_bytes {
        return Err(Unreadable::TargetTooLong);
    }
    let target = match canonical(&origin) {
        // What it grows to when it is spelt out.
        Err(Refusal::TooLong) => return Err(Unreadable::TargetTooLong),
        target => target?.into_owned(),
    };
    arrival.path = target.path.as_ref().into();
    arrival.query = target.query.as_deref().map(Box::from);
    Ok(target)
}

/// One `Host`, or in HTTP/2 the `:authority`. In HTTP/1.1 an absolute target does not stand in for it
/// (RFC 9112 §3.2).
fn authority(header: &RequestHeader) -> Result<&str, Refusal> {
    let mut hosts = header.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Refusal::BadHost),
        (Some(_), Some(_)) => Err(Refusal::BadHost),
        (None, _) if header.version == Version::HTTP_2 => {
            header.uri.authority().map(|authority| authority.as_str()).ok_or(Refusal::NoHost)
        }
        (None, _) => Err(Refusal::NoHost),
    }
}

/// Pingora lets Transfer-Encoding win over Content-Length, which it then takes away, and takes equal
/// Content-Lengths twice; both are how requests are smuggled past the next parser.
fn framing(headers: &HeaderMap, head: &[u8]) -> Result<(), Unreadable> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
        if !plain || lengths.next().is_some() || headers.contains_key(TRANSFER_ENCODING) {
            return Err(Unreadable::Framing);
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None)
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && !names_a_length(head) =>
        {
            Ok(())
        }
        _ => Err(Unreadable::Framing),
    }
}

/// Whether a line ends in a line feed alone, which Pingora's parser takes.
fn bare_line_feed(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|end| end == 0 || head[end - 1] != b'\r')
}

fn names_a_length(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').any(|line| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes())
    })
}

/// The client: the other end, or what the nearest proxies of ours say of it. Read from the right, since
/// everything left of what our own proxy wrote is the client's to invent.
fn client(headers: &HeaderMap, peer: IpAddr, edge: &Edge) -> IpAddr {
    let mut client = peer.to_canonical();
    if !edge.trusts(client) {
        return client;
    }
    let fields = headers.get_all("x-forwarded-for").iter().rev();
    for hop in fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b',')) {
        // An address that cannot be read ends the chain: the last one that could counts. A field is never
        // passed over as a whole, or what stands left of it could be the client's.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else { break };
        client = address;
        if !edge.trusts(client) {
            break;
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare =
        text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|rest| rest.contains(':'));
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip().to_canonical())
}

/// What the nearest proxy says: the last value of the last field.
fn forwarded_proto(headers: &HeaderMap) -> Option<&str> {
    let field = headers.get_all("x-forwarded-proto").iter().next_back()?.to_str().ok()?;
    field.rsplit(',').next().map(str::trim)
}

/// An id that a proxy of ours gave the request: only one, and only of a shape that is safe everywhere.
fn inbound_id(headers: &HeaderMap) -> Option<&str> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let (id, None) = (ids.next()?.to_str().ok()?, ids.next()) else { return None };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    ((8..=64).contains(&id.len()) && id.bytes().all(plain)).then_some(id)
}

/// Names requests: 32 hexadecimal digits, unique in this process and, by a random half, among processes.
/// They also serve as W3C trace ids, which must not be zero.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// Draws the half that is this process's own.
    pub fn new(entropy: &Entropy) -> RequestIds {
        RequestIds { process: u64::from_be_bytes(entropy.bytes()) | 1, next: AtomicU64::new(0) }
    }

    /// The next name.
    pub fn next(&self) -> Arc<str> {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        // An odd multiplier visits every number once, and neighbours do not look alike.
        let name = u128::from(self.process) << 64 | u128::from(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let digits: [u8; 32] =
            std::array::from_fn(|place| b"0123456789abcdef"[(name >> (124 - 4 * place)) as usize & 0xf]);
        str::from_utf8(&digits).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::error::Error;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const PROXY: &str = "10.0.0.1";
    const VISITOR: &str = "203.0.113.7";

    /// A request on the wire: its method, its target, its fields.
    type Wire<'a> = (&'a str, &'a str, &'a [(&'static str, &'a str)]);

    fn header((method, target, fields): Wire<'_>) -> Result<RequestHeader, Box<dyn Error>> {
        let mut header = RequestHeader::build(method, target.as_bytes(), None)?;
        for (name, value) in fields {
            header.append_header(*name, http::HeaderValue::from_bytes(value.as_bytes())?)?;
        }
        Ok(header)
    }

    fn read_from(peer: &str, wire: Wire<'_>) -> Result<Result<Reading, Unreadable>, Box<dyn Error>> {
        let edge = Edge::for_tests()?;
        let peer = Peer { address: peer.parse()?, tls: Tls::No };
        let ids = RequestIds::new(&Entropy::system());
        Ok(read(&header(wire)?, b"", peer, &edge, &ids, NOW).map_err(|(why, _)| why))
    }

    #[test]
    fn a_request_is_read_into_one_spelling_of_host_and_path() -> Result<(), Box<dyn Error>> {
        let long = format!("/{}", "a".repeat(8 * 1024 - 1));
        for (target, host, expected) in [
            ("/", "wiki.example.com", Ok(("wiki.example.com", "wiki.example.com", "/", None))),
            (
                "/a/../b?q=/../c",
                "Wiki.Example.COM.",
                Ok(("wiki.example.com", "wiki.example.com", "/b", Some("q=/../c"))),
            ),
            (
                "//b//c",
                "wiki.example.com:8080",
                Ok(("wiki.example.com", "wiki.example.com:8080", "/b/c", None)),
            ),
            ("/%61?", "[0:0::1]:80", Ok(("[::1]", "[::1]:80", "/a", Some("")))),
            (
                "http://wiki.example.com/a/%2e%2e/b",
                "wiki.example.com",
                Ok(("wiki.example.com", "wiki.example.com", "/b", None)),
            ),
            (
                "http://wiki.example.com:80/a",
                "wiki.example.com",
                Ok(("wiki.example.com", "wiki.example.com", "/a", None)),
            ),
            ("http://other.example.com/a", "wiki.example.com", Err(Refusal::HostMismatch)),
            ("http://wiki.example.com:81/a", "wiki.example.com", Err(Refusal::HostMismatch)),
            ("*", "wiki.example.com", Err(Refusal::NotOriginForm)),
            ("admin", "wiki.example.com", Err(Refusal::NotOriginForm)),
            ("?x", "wiki.example.com", Err(Refusal::NotOriginForm)),
            ("x:/admin", "wiki.example.com", Err(Refusal::NotOriginForm)),
            ("foo:bar://wiki.example.com/a", "wiki.example.com", Err(Refusal::NotOriginForm)),
            ("/a%00", "wiki.example.com", Err(Refusal::Control)),
            ("/a%5cb", "wiki.example.com", Err(Refusal::Backslash)),
            (&long, "wiki.example.com", Ok(("wiki.example.com", "wiki.example.com", &long, None))),
            ("/", "", Err(Refusal::NoHost)),
            ("/", "a, b", Err(Refusal::BadHost)),
            ("/", "a/evil", Err(Refusal::BadHost)),
            ("/", "a\\evil", Err(Refusal::BadHost)),
            ("/", "a\tb", Err(Refusal::BadHost)),
            ("/", "user@a", Err(Refusal::BadHost)),
            ("/", "a;b", Err(Refusal::BadHost)),
            ("/", "a:evil", Err(Refusal::BadPort)),
            ("/", "a:0", Err(Refusal::BadPort)),
            ("/", "a:80:80", Err(Refusal::BadPort)),
            ("/", "wíki.example.com", Err(Refusal::BadHost)),
            ("/", "127.1", Err(Refusal::BadHost)),
        ] {
            let read = read_from(VISITOR, ("GET", target, &[("host", host)]))?;
            let got = read.as_ref().map(|reading| {
                let arrival = &reading.arrival;
                (&*arrival.host, &*arrival.authority, &*arrival.path, arrival.query.as_deref())
            });
            let expected = expected.map_err(Unreadable::Target);
            assert_eq!(got.map_err(|why| *why), expected, "{target} {host}");
        }
        Ok(())
    }

    #[test]
    fn exactly_one_host_is_taken_and_an_absolute_target_does_not_stand_in_for_it()
    -> Result<(), Box<dyn Error>> {
        let refused =
            |fields| -> Result<_, Box<dyn Error>> { Ok(read_from(VISITOR, ("GET", "/", fields))?.err()) };
        assert_eq!(refused(&[])?, Some(Unreadable::Target(Refusal::NoHost)));
        let twice = [("host", "a.example"), ("host", "a.example")];
        assert_eq!(refused(&twice)?, Some(Unreadable::Target(Refusal::BadHost)));
        let absolute = read_from(VISITOR, ("GET", "http://a.example/", &[]))?;
        assert_eq!(absolute.err(), Some(Unreadable::Target(Refusal::NoHost)));
        Ok(())
    }

    #[test]
    fn a_method_that_is_not_for_apps_is_refused_in_any_spelling() -> Result<(), Box<dyn Error>> {
        for (method, refused) in [
            ("GET", false),
            ("OPTIONS", false),
            ("PROPFIND", false),
            ("TRACE", true),
            ("trace", true),
            ("TRACK", true),
            ("CONNECT", true),
            ("Connect", true),
        ] {
            let read = read_from(VISITOR, (method, "/", &[("host", "a.example")]))?;
            assert_eq!(read.err(), refused.then_some(Unreadable::Method), "{method}");
        }
        Ok(())
    }

    #[test]
    fn a_request_says_in_one_way_how_long_it_is() -> Result<(), Box<dyn Error>> {
        let rows: &[(&[(&'static str, &str)], bool)] = &[
            (&[], true),
            (&[("content-length", "0")], true),
            (&[("content-length", "999999999999999999")], true),
            (&[("content-length", "1000000000000000000")], false),
            (&[("content-length", "18446744073709551616")], false),
            (&[("content-length", "")], false),
            (&[("content-length", "+3")], false),
            (&[("content-length", "-3")], false),
            (&[("content-length", "0x3")], false),
            (&[("content-length", "3 ")], false),
            (&[("content-length", "3, 3")], false),
            (&[("content-length", "3"), ("content-length", "3")], false),
            (&[("content-length", "3"), ("content-length", "4")], false),
            (&[("content-length", "3"), ("transfer-encoding", "chunked")], false),
            (&[("content-length", "3"), ("transfer-encoding", "identity")], false),
            (&[("transfer-encoding", "chunked")], true),
            (&[("transfer-encoding", "Chunked")], true),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked, identity")], false),
            (&[("transfer-encoding", "identity")], false),
            (&[("transfer-encoding", "xchunked")], false),
            (&[("transfer-encoding", "\u{b}chunked")], false),
            (&[("transfer-encoding", "")], false),
        ];
        for (fields, fine) in rows {
            // Some of them no header field can hold, and so no request either.
            if fields.iter().any(|(_, value)| http::HeaderValue::from_bytes(value.as_bytes()).is_err()) {
                continue;
            }
            let all: Vec<_> = [("host", "a.example")].into_iter().chain(fields.iter().copied()).collect();
            let read = read_from(VISITOR, ("POST", "/", &all))?;
            assert_eq!(read.err(), (!fine).then_some(Unreadable::Framing), "{fields:?}");
        }
        Ok(())
    }

    #[test]
    fn a_length_that_was_taken_away_is_seen_all_the_same() -> Result<(), Box<dyn Error>> {
        let header = header(("POST", "/", &[("host", "a.example"), ("transfer-encoding", "chunked")]))?;
        let (edge, ids) = (Edge::for_tests()?, RequestIds::new(&Entropy::system()));
        let peer = Peer { address: VISITOR.parse()?, tls: Tls::No };
        for (head, refused) in [
            ("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nX: Content-Length: 5\r\nContent-Lengths: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ncontent-LENGTH:5\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nX: y\r\nCONTENT-LENGTH : 5\r\n\r\n", true),
        ] {
            let read = read(&header, head.as_bytes(), peer, &edge, &ids, NOW);
            assert_eq!(read.err().map(|(why, _)| why), refused.then_some(Unreadable::Framing), "{head}");
        }
        Ok(())
    }

    #[test]
    fn a_line_ends_in_one_way() -> Result<(), Box<dyn Error>> {
        let header = header(("GET", "/", &[("host", "a.example")]))?;
        let (edge, ids) = (Edge::for_tests()?, RequestIds::new(&Entropy::system()));
        let peer = Peer { address: VISITOR.parse()?, tls: Tls::No };
        for (head, refused) in [
            ("", false),
            ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", false),
            ("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", false),
            ("GET / HTTP/1.1\nHost: a.example\n\n", true),
            ("GET / HTTP/1.1\nHost: a.example\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a.example\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a.example\r\n\n", true),
            ("\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", true),
        ] {
            let read = read(&header, head.as_bytes(), peer, &edge, &ids, NOW);
            assert_eq!(read.err().map(|(why, _)| why), refused.then_some(Unreadable::LineEnd), "{head:?}");
        }
        Ok(())
    }

    #[test]
    fn headers_have_a_limit_in_number_and_in_bytes() -> Result<(), Box<dyn Error>> {
        let many = |count: usize| -> Result<_, Box<dyn Error>> {
            let mut fields = vec![("host", "a.example")];
            fields.resize(count, ("x", "y"));
            Ok(read_from(VISITOR, ("GET", "/", &fields))?.err())
        };
        let limits = Edge::for_tests()?.limits;
        assert_eq!(many(limits.header_fields)?, None);
        assert_eq!(many(limits.header_fields + 1)?, Some(Unreadable::TooManyHeaders));
        let long = |bytes: usize| -> Result<_, Box<dyn Error>> {
            let value = "y".repeat(bytes - "hosta.example".len() - "x".len());
            Ok(read_from(VISITOR, ("GET", "/", &[("host", "a.example"), ("x", &value)]))?.err())
        };
        assert_eq!(long(limits.header_bytes)?, None);
        assert_eq!(long(limits.header_bytes + 1)?, Some(Unreadable::TooManyHeaders));
        Ok(())
    }

    #[test]
    fn a_target_has_a_limit_as_it_came_and_as_it_is_spelt_out() -> Result<(), Box<dyn Error>> {
        let limit = Edge::for_tests()?.limits.target_bytes;
        let plain = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        let query = |bytes: usize| format!("/?{}", "a".repeat(bytes - 2));
        let absolute = |bytes: usize| format!("http://wiki.example.com{}", plain(bytes));
        for (target, refused) in [
            (plain(limit), None),
            (plain(limit + 1), Some(Unreadable::TargetTooLong)),
            (query(limit), None),
            (query(limit + 1), Some(Unreadable::TargetTooLong)),
            // The host that a target names is no part of the address on that host.
            (absolute(limit), None),
            (absolute(limit + 1), Some(Unreadable::TargetTooLong)),
        ] {
            let found = read_from(VISITOR, ("GET", &target, &[("host", "wiki.example.com")]))?.err();
            assert_eq!(found, refused, "{}", target.len());
        }
        Ok(())
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_proxy_of_ours() -> Result<(), Box<dyn Error>> {
        let rows: &[(&str, &[&str], &str)] = &[
            // Anybody may write anything; it is not even looked at.
            (VISITOR, &[], VISITOR),
            (VISITOR, &["198.51.100.1"], VISITOR),
            (PROXY, &[], PROXY),
            (PROXY, &["198.51.100.1"], "198.51.100.1"),
            (PROXY, &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["6.6.6.6, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            (PROXY, &["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            (PROXY, &["6.6.6.6", "198.51.100.1", "10.9.9.9,10.8.8.8"], "198.51.100.1"),
            (PROXY, &["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
            (PROXY, &["198.51.100.1:5060"], "198.51.100.1"),
            (PROXY, &["2001:db8::7"], "2001:db8::7"),
            (PROXY, &["[2001:db8::7]"], "2001:db8::7"),
            (PROXY, &["[2001:db8::7]:443"], "2001:db8::7"),
            (PROXY, &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // Nonsense ends the chain where it stands (authentik's CVE-2024-47070 let `a` through).
            (PROXY, &["a"], PROXY),
            (PROXY, &[""], PROXY),
            (PROXY, &["198.51.100.1,"], PROXY),
            (PROXY, &["6.6.6.6, unknown, 10.9.9.9"], "10.9.9.9"),
            (PROXY, &["6.6.6.6, 300.1.1.1"], PROXY),
            (PROXY, &["6.6.6.6 198.51.100.1"], PROXY),
            (PROXY, &["[198.51.100.1]"], PROXY),
            (PROXY, &["fe80::1%eth0"], PROXY),
            // What is no text in one hop does not take the whole field away.
            (PROXY, &["6.6.6.6", "é, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["6.6.6.6", "é"], PROXY),
        ];
        for (peer, fields, client) in rows {
            let mut all = vec![("host", "a.example")];
            all.extend(fields.iter().map(|field| ("x-forwarded-for", *field)));
            let reading = read_from(peer, ("GET", "/", &all))??;
            assert_eq!(reading.arrival.client, client.parse::<IpAddr>()?, "{peer} {fields:?}");
        }
        Ok(())
    }

    #[test]
    fn who_is_refused_is_still_known_by_address() -> Result<(), Box<dyn Error>> {
        let header = header(("GET", "*", &[("host", "a.example"), ("x-forwarded-for", "198.51.100.1")]))?;
        let peer = Peer { address: PROXY.parse()?, tls: Tls::No };
        let ids = RequestIds::new(&Entropy::system());
        let Err((_, arrival)) = read(&header, b"", peer, &Edge::for_tests()?, &ids, NOW) else {
            return Err("`*` is no target".into());
        };
        assert_eq!(arrival.client, "198.51.100.1".parse::<IpAddr>()?);
        assert_eq!((&*arrival.path, arrival.query.as_deref()), ("/", None));
        Ok(())
    }

    #[test]
    fn only_a_proxy_of_ours_says_that_the_browser_speaks_tls() -> Result<(), Box<dyn Error>> {
        let rows: &[(&str, &[&str], &str)] = &[
            (VISITOR, &["https"], "http"),
            (PROXY, &[], "http"),
            (PROXY, &["https"], "https"),
            (PROXY, &["http, https"], "https"),
            (PROXY, &["https, http"], "http"),
            (PROXY, &["https", "http"], "http"),
            (PROXY, &["wss"], "http"),
            (PROXY, &["é"], "http"),
        ];
        for (peer, fields, proto) in rows {
            let mut all = vec![("host", "a.example")];
            all.extend(fields.iter().map(|field| ("x-forwarded-proto", *field)));
            let reading = read_from(peer, ("GET", "/", &all))??;
            assert_eq!(reading.proto, *proto, "{peer} {fields:?}");
            // What links and cookies are made of is the configuration's, whoever says what.
            assert_eq!(reading.arrival.scheme, "https");
        }
        Ok(())
    }

    #[test]
    fn only_a_proxy_of_ours_names_the_request_and_only_in_a_safe_shape() -> Result<(), Box<dyn Error>> {
        let long = "a".repeat(64);
        let rows: &[(&str, &[&str], bool)] = &[
            (VISITOR, &["01234567"], false),
            (PROXY, &["01234567"], true),
            (PROXY, &["a1b2-c3_d4"], true),
            (PROXY, &[&long], true),
            (PROXY, &["0123456"], false),
            (PROXY, &["01234567 x"], false),
            (PROXY, &["01234567\"x"], false),
            (PROXY, &["0123456é"], false),
            (PROXY, &["01234567", "89abcdef"], false),
        ];
        for (peer, fields, taken) in rows {
            let mut all = vec![("host", "a.example")];
            all.extend(fields.iter().map(|field| ("x-request-id", *field)));
            let reading = read_from(peer, ("GET", "/", &all))??;
            assert_eq!(fields.contains(&&*reading.arrival.request_id), *taken, "{peer} {fields:?}");
        }
        Ok(())
    }

    /// They serve as trace ids too: 32 hexadecimal digits, not all zero (W3C Trace Context §3.2.2.3).
    #[test]
    fn request_names_are_unique_and_have_the_shape_of_trace_ids() {
        let entropy = Entropy::system();
        let (one, other) = (RequestIds::new(&entropy), RequestIds::new(&entropy));
        let names: HashSet<Arc<str>> = (0..2_000).flat_map(|_| [one.next(), other.next()]).collect();
        assert_eq!(names.len(), 4_000);
        for name in &names {
            assert_eq!(name.len(), 32, "{name}");
            assert!(name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{name}");
            assert!(name[..16].bytes().any(|b| b != b'0'), "{name}");
        }
    }

    #[test]
    fn the_other_end_is_named_in_its_plain_form() -> Result<(), Box<dyn Error>> {
        let reading = read_from("::ffff:203.0.113.7", ("GET", "/", &[("host", "a.example")]))??;
        assert_eq!(reading.peer, VISITOR.parse::<IpAddr>()?);
        assert_eq!(reading.via, Via::Direct);
        Ok(())
    }
}
