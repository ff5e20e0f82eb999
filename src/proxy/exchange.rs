//! One attempt to get an answer from an app, between Pingora's phases and our rules.
//!
//! Owns: what each phase around an app comes to: the peer, the watch over it, what a failure is and whether it is
//! made good. Must not know: how an upstream is chosen ([`super::balance`]), when one may be tried again
//! ([`super::attempt`]), pages.

use std::time::Duration;

use http::Version as Http;
use http::header::{CONNECTION, HOST};
use pingora::http::RequestHeader;
use pingora::protocols::Digest;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};

use super::attempt::{Again, Attempts, Body, Broken, How, Method, Unconnected};
use super::awaited::{Awaited, Rang, Waits, Watch};
use super::balance::{Endpoint, NoneLeft};
use super::context::{Admitted, Context};
use super::failure::{kind_of, reason_of};
use super::peer::Company;
use super::reach::Hold;
use crate::route::upstream::app::{Balance, HostHeader, Timeouts, Version};
use crate::route::upstream::balance::Key;
use crate::telemetry::labels::UpstreamFault;

/// When it is worth asking again for an app that is full.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// By what a request finds its upstream, where the app keeps visitors apart.
pub(super) fn key(balance: Balance, admitted: &Admitted) -> Option<Key> {
    match (balance, admitted.pass.who()) {
        (Balance::RoundRobin | Balance::LeastConnections, _) => None,
        (Balance::Account, Some(who)) => Some(Key::of_account(who.session.account.id())),
        (Balance::Account | Balance::ClientAddress, _) => {
            Some(Key::of_address(admitted.reading.arrival.client))
        }
    }
}

/// Where the request goes; or why nowhere.
pub(super) fn peer(
    endpoint: Result<std::sync::Arc<Endpoint>, NoneLeft>,
    timeouts: &Timeouts,
    awaited: Awaited,
    company: Company,
) -> Result<HttpPeer, (UpstreamFault, Box<Error>)> {
    let no = |fault, kind, why| Err((fault, Error::explain(kind, why).into_up()));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(NoneLeft::Full) => {
            return no(UpstreamFault::Full, ErrorType::HTTPStatus(503), "every upstream is full");
        }
        Err(NoneLeft::Nowhere) => {
            return no(UpstreamFault::Dns, ErrorType::ConnectError, "the upstream's name has no address");
        }
        Err(NoneLeft::Tried) => {
            return no(UpstreamFault::Other, ErrorType::ConnectError, "every upstream was tried");
        }
    };
    if awaited == Awaited::Tunnel && endpoint.target.version == Version::H2 {
        let why = "a WebSocket cannot be forwarded in HTTP/2; give its path a route that speaks HTTP/1.1";
        return no(UpstreamFault::WebSocketOverHttp2, ErrorType::ConnectError, why);
    }
    Ok(endpoint.template.peer(timeouts, awaited, company))
}

/// Watches over the connection, where Pingora's own limits do not say all.
pub(super) fn watch(
    attempts: &mut Attempts,
    timeouts: &Timeouts,
    awaited: Awaited,
    session: &mut Session,
    digest: Option<&Digest>,
) -> Result<()> {
    let waits = Waits::of(timeouts, awaited);
    if waits.is_watched() {
        let hold = digest.and_then(Hold::of).ok_or_else(|| {
            Error::explain(ErrorType::InternalError, "a connection that nobody has a hold on")
        })?;
        let end_by = attempts.end_by(&waits);
        attempts.watch(Watch::over(hold, waits.header, end_by));
        let session = session.as_mut();
        if session.is_body_empty() || session.is_body_done() {
            // Nothing is left to be said, and in HTTP/2 no phase says so.
            attempts.asked();
        }
    }
    Ok(())
}

/// What the app is told of the host that was asked.
pub(super) fn say_host(request: &mut RequestHeader, says: &HostHeader, attempts: &Attempts) -> Result<()> {
    match (says, attempts.endpoint()) {
        (HostHeader::Fixed(host), _) => request.insert_header(HOST, host.clone()),
        (HostHeader::Upstreams, Some(endpoint)) => {
            request.insert_header(HOST, endpoint.target.upstream.authority())
        }
        (HostHeader::Visitors | HostHeader::Upstreams, _) => Ok(()),
    }
}

/// Where no connection is to be kept, both sides know before the answer. Pingora would keep it for a moment, in which
/// another request could take it.
pub(super) fn close_afterwards(request: &mut RequestHeader, timeouts: &Timeouts) -> Result<()> {
    let is_tunnel = request.headers.contains_key(CONNECTION);
    match timeouts.keep_alive.is_zero() && request.version < Http::HTTP_2 && !is_tunnel {
        true => request.insert_header(CONNECTION, "close"),
        false => Ok(()),
    }
}

/// The upstream took no connection: another one may.
pub(super) fn not_connected(context: &mut Context, mut error: Box<Error>) -> Box<Error> {
    failed(context, kind_of(&error, false));
    // In HTTP/2 Pingora finds out only when it begins a request on it.
    let over = error.etype() == &ErrorType::H2Error;
    let how = if over { Unconnected::Over } else { Unconnected::Refused };
    error.set_retry(context.attempts.not_connected(how) != Again::No);
    error
}

/// The exchange ended in an error.
pub(super) fn broken(
    session: &Session,
    context: &mut Context,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let answered = context.attempts.is_answered();
    let kind = match context.attempts.rang() {
        Some(rang) => {
            // It is we who ended the connection.
            error = too_late();
            match rang {
                Rang::Header => UpstreamFault::HeaderTimeout,
                Rang::Total => UpstreamFault::TotalTimeout,
            }
        }
        None => kind_of(&error, answered),
    };
    if error.esource() != &ErrorSource::Upstream {
        error.set_retry(false);
        return error;
    }
    failed(context, kind);
    if answered || session.response_written().is_some() {
        error.set_retry(false);
        return error;
    }
    let how = match error.retry {
        _ if matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout) => How::TooLate,
        RetryType::Decided(true) => How::Unprocessed,
        RetryType::ReusedOnly if reused => How::OldConnection,
        // Pingora says it of reads only. In HTTP/2, where even a new connection is others' as well, one that is being
        // closed shows first where a body is sent.
        RetryType::Decided(false)
            if kind == UpstreamFault::Closed && (reused || error.etype() == &ErrorType::H2Error) =>
        {
            How::UsedConnection
        }
        RetryType::ReusedOnly | RetryType::Decided(false) => How::Failed,
    };
    let idempotent = session.req_header().method.is_idempotent();
    let broken = Broken {
        method: if idempotent { Method::Idempotent } else { Method::Other },
        body: if session.as_ref().retry_buffer_truncated() { Body::Gone } else { Body::Kept },
        how,
    };
    error.set_retry(context.attempts.broke(broken) != Again::No);
    error
}

/// Whether no limit was passed. An answer without a length ends with its connection: one that we ended must not be
/// taken for whole.
pub(super) fn is_in_time(attempts: &Attempts) -> Result<()> {
    match attempts.rang() {
        None => Ok(()),
        Some(_) => Err(too_late()),
    }
}

fn too_late() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the app was given no more time").into_up()
}

/// Counts what went wrong with an upstream.
fn failed(context: &mut Context, kind: UpstreamFault) {
    context.upstream_error = Some(kind);
    if let Some(endpoint) = context.attempts.endpoint() {
        endpoint.metrics.failed(kind);
    }
}

/// The upstream that was asked last, for logs; before one was chosen, those that there are.
pub(super) fn upstream_of(context: &Context) -> Option<String> {
    if let Some(endpoint) = context.attempts.endpoint() {
        return Some(endpoint.label.to_string());
    }
    let route = context.stage.admitted().ok()?.pass.route();
    route.destination.app().map(ToString::to_string)
}

/// An answer that had begun came to no good end. The client notices by itself; the operator does not.
pub(super) fn cut_short(context: &Context, error: &Error) {
    let Ok(admitted) = context.stage.admitted() else { return };
    tracing::warn!(
        request_id = &*admitted.reading.arrival.request_id,
        route = &*admitted.pass.route().name,
        upstream = upstream_of(context),
        kind = context.upstream_error.map(UpstreamFault::as_str),
        "the upstream broke off its answer: {}",
        reason_of(error)
    );
}
