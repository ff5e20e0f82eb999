//! What goes to the app: the peer, and the headers.
//!
//! Owns: resolving and timeouts of upstreams, what is taken off a request and what is put on.
//! Must not know: how a request was admitted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderName};
use http::{HeaderMap, HeaderValue};
use papaya::HashMap;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;

use super::facts::{Reading, Via};
use crate::assertion::Outgoing;
use crate::gate::cookie::{self, pairs};
use crate::route::upstream::{Scheme, Upstream};
use crate::snapshot::{Edge, UpstreamTimeouts, fold};

/// Names that we set ourselves on every request; what a trusted proxy sent is taken over, not passed on.
const SET_BY_US: &[&str] = &[
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "x-request-id",
    "traceparent", "tracestate",
];

/// Makes a request into what the app receives. Called once per attempt with a fresh copy of the client's
/// request, after Pingora has dropped what `Connection` named: so nothing that is set here can be nominated
/// away (CVE-2024-45410 and its kin).
pub fn dress(
    request: &mut RequestHeader,
    reading: &Reading,
    edge: &Edge,
    cookies: &cookie::Settings,
    outgoing: Option<&Outgoing>,
) -> Result<(), http::header::InvalidHeaderValue> {
    let inbound = Inbound::read(&request.headers, reading.via);
    strip(request, edge);
    keep_apps_cookies(request, cookies)?;
    one_length(request);
    let arrival = &reading.arrival;
    let forwarded_for = match inbound.forwarded_for {
        Some(chain) => format!("{chain}, {}", reading.peer),
        None => reading.peer.to_string(),
    };
    let port = port(&arrival.authority, reading.proto);
    let mut set = |name: HeaderName, value: HeaderValue| {
        // Infallible for a name and a value that are typed already.
        let _ = request.insert_header(name, value);
    };
    set(HOST, HeaderValue::try_from(&*arrival.authority)?);
    set(HeaderName::from_static("x-forwarded-for"), HeaderValue::try_from(forwarded_for)?);
    set(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(reading.proto));
    set(HeaderName::from_static("x-forwarded-host"), HeaderValue::try_from(&*arrival.authority)?);
    set(HeaderName::from_static("x-forwarded-port"), HeaderValue::try_from(port)?);
    set(FORWARDED, HeaderValue::try_from(forwarded(reading))?);
    set(HeaderName::from_static("x-request-id"), HeaderValue::try_from(&*arrival.request_id)?);
    let trace = match inbound.traceparent {
        Some(parent) => parent,
        None => HeaderValue::try_from(traceparent(&arrival.request_id))?,
    };
    set(HeaderName::from_static("traceparent"), trace);
    if let Some(state) = inbound.tracestate {
        set(HeaderName::from_static("tracestate"), state);
    }
    for (name, value) in outgoing.iter().flat_map(|outgoing| &outgoing.headers) {
        set(name.clone(), value.clone());
    }
    Ok(())
}

/// What a proxy of ours may tell an app through us.
#[derive(Default)]
struct Inbound {
    forwarded_for: Option<String>,
    traceparent: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
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
            traceparent: headers.get("traceparent").cloned(),
            tracestate: headers.get("tracestate").cloned(),
        }
    }
}

/// Takes off every field that an app could take for ours, under any spelling.
fn strip(request: &mut RequestHeader, edge: &Edge) {
    let ours = |folded: &str| SET_BY_US.contains(&folded) || edge.stripped.takes(folded);
    let gone: Vec<HeaderName> = request.headers.keys().filter(|name| ours(&fold(name.as_str()))).cloned().collect();
    for name in gone {
        request.remove_header(&name);
    }
}

/// One `Cookie` field (RFC 9113 §8.2.3) without ours.
fn keep_apps_cookies(
    request: &mut RequestHeader,
    cookies: &cookie::Settings,
) -> Result<(), http::header::InvalidHeaderValue> {
    if !request.headers.contains_key(COOKIE) {
        return Ok(());
    }
    let mut joined: Vec<u8> = Vec::new();
    for (name, value) in pairs(&request.headers).filter(|(name, _)| !cookies.is_ours(name)) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(name);
        joined.push(b'=');
        joined.extend_from_slice(value);
    }
    request.remove_header(&COOKIE);
    if !joined.is_empty() {
        let _ = request.insert_header(COOKIE, HeaderValue::from_bytes(&joined)?);
    }
    Ok(())
}

/// A repeated Content-Length is refused before anything is decided; this keeps it so for whatever is sent.
fn one_length(request: &mut RequestHeader) {
    if request.headers.get_all(CONTENT_LENGTH).iter().count() > 1
        && let Some(length) = request.headers.get(CONTENT_LENGTH).cloned()
    {
        let _ = request.insert_header(CONTENT_LENGTH, length);
    }
}

fn port(authority: &str, proto: &str) -> String {
    let written = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match written {
        Some(port) if !port.is_empty() => port.to_owned(),
        _ => if proto == "https" { "443" } else { "80" }.to_owned(),
    }
}

/// RFC 7239 §4: IPv6 in brackets and quotes, and a host with a port in quotes.
fn forwarded(reading: &Reading) -> String {
    let client = match reading.arrival.client {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    format!("for={client};host=\"{}\";proto={}", reading.arrival.authority, reading.proto)
}

/// A trace of our own making (W3C Trace Context): the request's name is the trace's, not sampled.
fn traceparent(request_id: &str) -> String {
    if request_id.len() == 32 && request_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        format!("00-{}-{}-00", request_id.to_ascii_lowercase(), &request_id[..16].to_ascii_lowercase())
    } else {
        String::new()
    }
}

/// Where upstreams are: addresses of names, kept for a while.
#[derive(Default)]
pub struct Resolver {
    known: HashMap<Box<str>, Arc<Resolved>>,
}

struct Resolved {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

/// How long an answer of the DNS is used before it is asked again. Its own lifetimes are not visible here.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

impl Resolver {
    /// An address of `upstream`. The DNS is asked at most every 30 s, and an old answer is better than none.
    ///
    /// # Errors
    ///
    /// When the name has never been resolved and cannot be now.
    pub async fn address(&self, upstream: &Upstream) -> std::io::Result<SocketAddr> {
        if let Some(ip) = literal(&upstream.host) {
            return Ok(SocketAddr::new(ip, upstream.port));
        }
        let key = format!("{}:{}", upstream.host, upstream.port);
        let known = self.known.pin().get(key.as_str()).cloned();
        if let Some(known) = &known
            && known.at.elapsed() < RESOLVE_EVERY
            && let Some(address) = known.addresses.first()
        {
            return Ok(*address);
        }
        match tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host(&key)).await {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                let first = addresses.first().copied();
                self.known.pin().insert(key.as_str().into(), Arc::new(Resolved { addresses, at: Instant::now() }));
                first.ok_or_else(|| std::io::Error::other("the name has no address"))
            }
            failed => match known.and_then(|known| known.addresses.first().copied()) {
                Some(address) => Ok(address),
                None => Err(match failed {
                    Ok(Err(error)) => error,
                    _ => std::io::Error::from(std::io::ErrorKind::TimedOut),
                }),
            },
        }
    }
}

fn literal(host: &str) -> Option<std::net::IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// How to reach `upstream` at `address`.
pub fn peer(upstream: &Upstream, address: SocketAddr, timeouts: &UpstreamTimeouts) -> HttpPeer {
    let tls = upstream.scheme == Scheme::Https;
    // Never empty for TLS: without a name Pingora would check no certificate at all.
    let name = if tls { upstream.host.to_string() } else { String::new() };
    let mut peer = HttpPeer::new(address, tls, name);
    peer.options.connection_timeout = Some(timeouts.connect);
    peer.options.total_connection_timeout = Some(timeouts.connect);
    peer.options.read_timeout = Some(timeouts.read);
    peer.options.write_timeout = Some(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    peer
}
