//! What makes browsers use https.
//!
//! Owns: where a listener that only redirects sends people, and `Strict-Transport-Security` on answers.
//! Must not know: sessions, routes beyond the names of their hosts.

use bytes::Bytes;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, Response};
use pingora::http::RequestHeader;

use super::facts::Reading;
use crate::facts::shape;
use crate::listener::{Listen, Purpose};
use crate::pages::reply::{Redirect, redirect};
use crate::pages::{self, render};
use crate::snapshot::Snapshot;
use crate::telemetry::labels::Decision;

/// The answer to a request on a listener that only redirects; `None` where requests are served. Somebody whose
/// browser speaks https to a proxy of ours is where they should be, and another redirect would lead here again.
pub(super) fn elsewhere(
    listen: &Listen,
    snapshot: &Snapshot,
    reading: &Reading,
    request: &RequestHeader,
) -> Option<(Decision, Response<Bytes>)> {
    if listen.purpose == Purpose::Serve || reading.proto == "https" {
        return None;
    }
    let common = pages::common(snapshot, &reading.arrival);
    let there = location(snapshot, &reading.arrival.host, &reading.target.wire());
    let answer = there.and_then(|there| redirect(&common, Redirect::Permanent, &there));
    Some(match answer {
        Some(answer) => (Decision::Redirect, answer),
        None => (Decision::NoRoute, render::no_route(&common, shape(&request.method, &request.headers))),
    })
}

/// Never to a host that only the client names: a link to us that ends elsewhere is what a fraud looks for, and
/// what a cache would keep. Where a route takes any host, people go to the gateway's own.
fn location(snapshot: &Snapshot, host: &str, target: &str) -> Option<String> {
    let external = &snapshot.edge.external_url;
    let named = (snapshot.login.serves)(host) || host == &*snapshot.edge.callback.host;
    let host = match named {
        true => host,
        false if snapshot.serves(host) => external.host_str()?,
        false => return None,
    };
    let port = external.port().map_or(String::new(), |port| format!(":{port}"));
    Some(format!("https://{host}{port}{target}"))
}

/// Tells browsers to come back by https, where the answer goes over TLS. What an app says itself stays: two
/// such fields would be one too many (RFC 6797 §8.1 takes the first).
pub(super) fn insist(listen: &Listen, answer: &mut HeaderMap) {
    if let Some(hsts) = &listen.hsts {
        answer.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
    }
}
