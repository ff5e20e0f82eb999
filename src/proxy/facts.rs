//! From a request on the wire to the facts about it.
//!
//! Owns: what is refused before anything is decided, whose forwarded headers are believed, who the client is.
//! Must not know: routes, sessions.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method};
use pingora::http::RequestHeader;

use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::facts::Arrival;
use crate::route::host::canonical_host;
use crate::route::refusal::Refusal;
use crate::route::target::{Target, canonical, origin_form};
use crate::snapshot::Edge;

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
    /// 405: TRACE shows cookies to scripts, CONNECT is no request to an app.
    #[error("This method is not for apps.")]
    Method,
    /// 431: more than [`MAX_FIELDS`] fields or [`MAX_FIELD_BYTES`] bytes of them.
    #[error("The request carries more headers than the gateway takes.")]
    TooManyHeaders,
}

/// How many header fields a request may have.
pub const MAX_FIELDS: usize = 100;
/// How long they may be together, in bytes.
pub const MAX_FIELD_BYTES: usize = 32 * 1024;

/// Reads a request.
///
/// # Errors
///
/// [`Unreadable`], with the host and path left out: what cannot be understood is not repeated.
pub fn read(
    header: &RequestHeader,
    peer: Peer,
    edge: &Edge,
    ids: &RequestIds,
    now: Timestamp,
) -> Result<Reading, (Unreadable, Box<Arrival>)> {
    let via = if edge.trusts(peer.address) { Via::TrustedProxy } else { Via::Direct };
    let request_id = match via {
        Via::TrustedProxy => inbound_id(&header.headers).map_or_else(|| ids.next(), Box::from),
        Via::Direct => ids.next(),
    };
    let mut arrival = Arrival {
        now,
        scheme: edge.external_url.scheme().into(),
        host: "".into(),
        authority: edge.external_url.host_str().unwrap_or("").into(),
        path: "/".into(),
        query: None,
        client: client(&header.headers, peer.address, edge),
        request_id,
    };
    let target = match understand(header, &mut arrival) {
        Ok(target) => target,
        Err(unreadable) => return Err((unreadable, Box::new(arrival))),
    };
    let proto = match (peer.tls, via) {
        (Tls::Yes, _) => "https",
        (Tls::No, Via::TrustedProxy) if forwarded_proto(&header.headers) == Some("https") => "https",
        _ => "http",
    };
    Ok(Reading { arrival, target, proto, via, peer: peer.address.to_canonical() })
}

fn understand(header: &RequestHeader, arrival: &mut Arrival) -> Result<Target<'static>, Unreadable> {
    let bytes: usize = header.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header.headers.len() > MAX_FIELDS || bytes > MAX_FIELD_BYTES {
        return Err(Unreadable::TooManyHeaders);
    }
    if header.method == Method::TRACE || header.method == Method::CONNECT || header.method.as_str() == "TRACK" {
        return Err(Unreadable::Method);
    }
    framing(&header.headers)?;
    let authority = authority(header)?;
    let host = canonical_host(authority)?;
    arrival.host = host.name.as_ref().into();
    arrival.authority = match host.port {
        Some(port) => format!("{}:{port}", host.name).into(),
        None => host.name.as_ref().into(),
    };
    let origin = origin_form(header.raw_path(), authority)?;
    let target = canonical(&origin)?.into_owned();
    arrival.path = target.path.as_ref().into();
    arrival.query = target.query.as_deref().map(Box::from);
    Ok(target)
}

/// One `Host`, or in HTTP/2 the `:authority`.
fn authority(header: &RequestHeader) -> Result<&str, Refusal> {
    let mut hosts = header.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Refusal::BadHost),
        (Some(_), Some(_)) => Err(Refusal::BadHost),
        (None, _) => header.uri.authority().map(|authority| authority.as_str()).ok_or(Refusal::NoHost),
    }
}

/// Pingora lets Transfer-Encoding win over Content-Length and takes equal Content-Lengths twice; both are how
/// requests are smuggled past the next parser.
fn framing(headers: &HeaderMap) -> Result<(), Unreadable> {
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
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Unreadable::Framing),
    }
}

/// The client: the other end, or what the nearest proxies of ours say of it. Read from the right, since
/// everything left of what our own proxy wrote is the client's to invent.
fn client(headers: &HeaderMap, peer: IpAddr, edge: &Edge) -> IpAddr {
    let mut client = peer.to_canonical();
    if !edge.trusts(client) {
        return client;
    }
    let fields: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|field| field.to_str().ok()).collect();
    for hop in fields.iter().rev().flat_map(|field| field.rsplit(',')) {
        // An address that cannot be read ends the chain: the last one that could counts.
        let Some(address) = address(hop.trim()) else { break };
        client = address;
        if !edge.trusts(client) {
            break;
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip().to_canonical())
}

fn forwarded_proto(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-forwarded-proto")?.to_str().ok().map(|proto| proto.rsplit(',').next().unwrap_or("").trim())
}

/// An id that a proxy of ours gave the request: only of a shape that is safe everywhere.
fn inbound_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
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
    pub fn next(&self) -> Box<str> {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        // An odd multiplier visits every number once, and neighbours do not look alike.
        format!("{:016x}{:016x}", self.process, count.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
    }
}

/// The address of a client that has none.
pub const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
