//! Answers that a route gives itself: a redirection, the same words each time, a file.
//!
//! Owns: what all of them carry, and how they are written. Files come from [`files`].
//! Must not know: how the request was admitted; whether it was is told by what it is handed.

mod files;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::body::{Afterwards, after_an_answer, before_an_answer};
use super::context::Admitted;
use super::edit::edit;
use super::facts::REQUEST_ID;
use super::response::keep_private;
use super::{https, own};
use crate::facts::shape;
use crate::listener::Conversation;
use crate::open::Line;
use crate::pages::{self, render};
use crate::route::destination::Destination;
use crate::route::destination::redirect::{Here, Redirect};
use crate::route::destination::respond::Respond;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;

/// A body that may be longer than memory.
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// What comes of asking a destination.
enum Outcome {
    /// An answer of the route's.
    Answer(Response<Body>),
    /// One of the gateway's own pages.
    Page(Response<Bytes>),
}

/// Answers an admitted request whose route has no app.
///
/// # Errors
///
/// When the client is gone, or a file came to an end before its time.
pub(super) async fn write(
    session: &mut Session,
    snapshot: &Snapshot,
    admitted: &Admitted,
    conversation: &Conversation,
    telemetry: &Telemetry,
) -> Result<()> {
    let header = session.req_header();
    let outcome = match &admitted.pass.route().destination {
        Destination::Redirect(redirect) => Outcome::Answer(elsewhere(redirect, admitted)),
        Destination::Respond(respond) => Outcome::Answer(words(respond)),
        Destination::Files(files) => files::serve(files, header, snapshot, admitted, telemetry).await,
        Destination::App(_) => {
            let common = pages::common(snapshot, &admitted.reading.arrival);
            Outcome::Page(render::internal(&common, shape(&header.method, &header.headers)))
        }
    };
    match outcome {
        Outcome::Page(page) => own::write(session, page, Afterwards::GoOn).await,
        Outcome::Answer(answer) => {
            let (mut parts, body) = answer.into_parts();
            finish(&mut parts.headers, admitted);
            https::insist(&conversation.ends.listen, &mut parts.headers);
            stream(session, parts.into(), body, &conversation.line).await
        }
    }
}

fn elsewhere(redirect: &Redirect, admitted: &Admitted) -> Response<Body> {
    let arrival = &admitted.reading.arrival;
    let here = Here { scheme: arrival.scheme, host: &arrival.host };
    let location = redirect.location(&here, admitted.target());
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = redirect.status;
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    // Visible ASCII, as a canonical target and a configured origin are.
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

fn words(respond: &Respond) -> Response<Body> {
    let mut answer = Response::new(whole(respond.body.clone()));
    *answer.status_mut() = respond.status;
    let headers = answer.headers_mut();
    if !matches!(respond.status, StatusCode::NO_CONTENT) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(respond.body.len()));
    }
    if !respond.body.is_empty() {
        headers.insert(CONTENT_TYPE, respond.content_type.clone());
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// What every answer carries, the route's own wishes, and then who may keep a copy.
fn finish(fields: &mut HeaderMap, admitted: &Admitted) {
    let protected = admitted.pass.who().is_some();
    if protected {
        // Kept, but asked about each time: whoever loses access does not go on reading what a browser kept.
        let asked = HeaderValue::from_static("private, no-cache");
        fields.entry(CACHE_CONTROL).or_insert(asked);
    }
    edit(fields, &admitted.pass.route().response_headers);
    if protected {
        keep_private(fields);
    }
    if let Ok(id) = HeaderValue::from_str(&admitted.reading.arrival.request_id) {
        fields.insert(REQUEST_ID, id);
    }
}

/// Writes piece by piece: no more of a file is in memory than the client has yet to take.
async fn stream(session: &mut Session, header: ResponseHeader, mut body: Body, line: &Line) -> Result<()> {
    let length =
        header.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let bodiless = session.req_header().method == Method::HEAD
        || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || length == Some(0);
    let rest = before_an_answer(session, Afterwards::GoOn);
    if bodiless {
        own::write_head_alone(session, header).await?;
    } else {
        session.write_response_header(Box::new(header), false).await?;
        // A file that grows meanwhile gives no more than was announced, one that shrinks gives an answer that is cut.
        let mut left = length.unwrap_or(u64::MAX);
        while left > 0 {
            // Somebody whose access is gone does not get the rest. (In HTTP/1.1 the connection fails by itself.)
            let frame = tokio::select! {
                biased;
                _ = line.ended() => return Err(Error::explain(ErrorType::InternalError, "access was lost")),
                frame = body.frame() => frame,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                Error::because(ErrorType::InternalError, "a file could not be read", error)
            })?;
            let Ok(mut piece) = frame.into_data() else { continue };
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= piece.len() as u64;
            session.write_response_body(Some(piece), left == 0).await?;
        }
        match (length, left) {
            (None, _) => session.write_response_body(None, true).await?,
            (Some(_), 0) => {}
            (Some(_), _) => return Err(Error::explain(ErrorType::InternalError, "a file became shorter")),
        }
    }
    after_an_answer(session, rest).await;
    Ok(())
}
