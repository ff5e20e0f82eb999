//! Requests that the gateway answers itself.
//!
//! Owns: taking a small body off the connection, the way through the router, writing an answer.
//! Must not know: what the router does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Method, Request, Response, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use tokio::runtime::Handle;
use tower::ServiceExt;

use super::body::{Afterwards, after_an_answer, before_an_answer};
use super::https;
use crate::facts::{Arrival, shape};
use crate::listener::here;
use crate::pages::{self, Asked, render};
use crate::snapshot::Snapshot;

/// How long a form for one of our own pages may be, and how long it may take to arrive.
const BODY_LIMIT: usize = 64 * 1024;
const BODY_PATIENCE: Duration = Duration::from_secs(5);

/// Hands a request to the router and gives what comes back.
///
/// The router runs in a task of its own: a visitor who goes away must not cut a sign-in in two, between a code
/// that is spent and a session that is stored.
pub async fn ask(
    session: &mut Session,
    router: &Router,
    runtime: &Handle,
    snapshot: &Arc<Snapshot>,
    arrival: &Arrival,
) -> Response<Bytes> {
    let header = session.req_header();
    let (method, headers) = (header.method.clone(), header.headers.clone());
    let asked =
        Asked { arrival: arrival.clone(), snapshot: snapshot.clone(), method: method.clone(), headers };
    let body = match read_body(session).await {
        Ok(body) => body,
        Err(unusable) => {
            session.set_keepalive(None);
            return match unusable {
                Unusable::TooMuch => render::too_large(&asked.common(), asked.shape()),
                Unusable::Slow => render::request_timeout(&asked.common(), &arrival.link(), asked.shape()),
                Unusable::Broken => render::bad_request(
                    &asked.common(),
                    "The request could not be read to its end.",
                    asked.shape(),
                ),
            };
        }
    };
    let failed = render::internal(&asked.common(), asked.shape());
    let uri = if &*arrival.path == "/.teamgate" { "/.teamgate".to_owned() } else { arrival.link() };
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    match uri.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return failed,
    }
    *request.headers_mut() = asked.headers.clone();
    request.extensions_mut().insert(asked);
    let answer = runtime.spawn(router.clone().oneshot(request)).await;
    let Ok(Ok(answer)) = answer else {
        tracing::error!(request_id = &*arrival.request_id, "one of our own pages failed; please report this");
        return failed;
    };
    let (parts, body) = answer.into_parts();
    match axum::body::to_bytes(body, 8 * 1024 * 1024).await {
        Ok(body) => Response::from_parts(parts, body),
        Err(_) => failed,
    }
}

/// Why a body is of no use.
enum Unusable {
    /// It is longer than a form of ours.
    TooMuch,
    /// It takes longer.
    Slow,
    /// It has no end that we understand.
    Broken,
}

async fn read_body(session: &mut Session) -> Result<Bytes, Unusable> {
    // Asking a request without a body for its body would wait for ever.
    if session.is_body_empty() {
        return Ok(Bytes::new());
    }
    let header = session.req_header();
    let text = |name| header.headers.get(name).and_then(|value| value.to_str().ok());
    if text(CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: usize| length > BODY_LIMIT)
    {
        return Err(Unusable::TooMuch);
    }
    if text(EXPECT).is_some_and(|expected| expected.eq_ignore_ascii_case("100-continue")) {
        // Else both sides would wait for the other (RFC 9110 §10.1.1). A client that is gone sends no body.
        let _ = session.write_continue_response().await;
    }
    let read = async {
        let mut body = Vec::new();
        // Half a form is no form.
        while let Some(chunk) = session.read_request_body().await.map_err(|_| Unusable::Broken)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(Unusable::TooMuch);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(body))
    };
    tokio::time::timeout(BODY_PATIENCE, read).await.unwrap_or(Err(Unusable::Slow))
}

/// Writes an answer of ours. Keeps the connection: `respond_error` of Pingora would close it.
///
/// # Errors
///
/// When the client is gone.
pub async fn write(
    session: &mut Session,
    answer: Response<Bytes>,
    afterwards: Afterwards,
) -> pingora::Result<()> {
    let (mut parts, body) = answer.into_parts();
    let without_body = session.req_header().method == Method::HEAD
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let fields = &mut parts.headers;
    // A HEAD is told the length of what it did not get, or nothing; a gRPC answer has no message to announce.
    let length_known = fields.contains_key(CONTENT_LENGTH) || fields.contains_key("grpc-status");
    if !length_known && !without_body {
        fields.insert(CONTENT_LENGTH, body.len().into());
    }
    let rest = before_an_answer(session, afterwards);
    if let Some(conversation) = here() {
        https::insist(&conversation.ends.listen, fields);
    }
    let header = ResponseHeader::from(parts);
    if without_body || body.is_empty() {
        write_head_alone(session, header).await?;
    } else {
        session.write_response_header(Box::new(header), false).await?;
        session.write_response_body(Some(body), true).await?;
    }
    after_an_answer(session, rest).await;
    Ok(())
}

/// Writes an answer that is nothing but its head.
///
/// Pingora's way to write a head does not end an HTTP/2 stream with it. A gRPC client takes a status for one only where
/// it does, and a stream that ends nowhere is reset.
///
/// # Errors
///
/// When the client is gone.
pub(super) async fn write_head_alone(session: &mut Session, header: ResponseHeader) -> pingora::Result<()> {
    match session.as_mut() {
        ServerSession::H2(stream) => stream.write_response_header(Box::new(header), true),
        ServerSession::Custom(stream) => stream.write_response_header(Box::new(header), true).await,
        _ => session.write_response_header(Box::new(header), true).await,
    }
}

/// A page for a request that was not even understood.
pub fn unreadable(
    session: &Session,
    snapshot: &Snapshot,
    arrival: &Arrival,
    unreadable: &super::facts::Unreadable,
) -> Response<Bytes> {
    use super::facts::Unreadable;
    let header = session.req_header();
    let shape = shape(&header.method, &header.headers);
    let common = pages::common(snapshot, arrival);
    match unreadable {
        Unreadable::Target(_) | Unreadable::Framing | Unreadable::LineEnd => {
            render::bad_request(&common, &unreadable.to_string(), shape)
        }
        Unreadable::Method => render::method_not_allowed(
            &common,
            &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            shape,
        ),
        Unreadable::Misdirected => render::misdirected(&common, &arrival.link(), shape),
        Unreadable::TooManyHeaders => render::headers_too_large(&common, shape),
        Unreadable::TargetTooLong => render::target_too_long(&common, shape),
    }
}
