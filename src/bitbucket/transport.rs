//! One request and its answer: in time, within bounds, counted.
//!
//! Owns: the deadline, the cap on a body, what a status means wherever it comes from, the one door through which
//! requests leave. Must not know: what is in a body.

use std::time::{Duration, Instant};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Request, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use super::error::{Error, Kind, Place};
use super::{Bitbucket, Call, Endpoint, Notices, Outcome, Remarks, Right, Traffic, observed};
use crate::clock::Timestamp;

/// What one answer may weigh. A hundred workspaces are about 60 KiB.
const BODY_LIMIT: usize = 1 << 20;

/// What is kept of a notice, in characters.
const NOTICE_LIMIT: usize = 200;

/// The moment by which a question is answered, all pages included.
pub(super) type Deadline = tokio::time::Instant;

/// An answer that is worth reading: any 2xx, and a 4xx that is about what was asked.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    pub(super) place: Place,
}

impl Answer {
    pub(super) fn error(&self, kind: Kind) -> Error {
        Error::new(kind, self.place.clone())
    }
}

impl Place {
    pub(super) fn of(endpoint: Endpoint, method: &Method, url: &Url) -> Place {
        let request = format!("{method} {}", url.path()).into_boxed_str();
        Place { endpoint: Some(endpoint), request, status: None }
    }
}

impl Bitbucket {
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::now() + self.inner.settings.timeout
    }

    /// Sends one request and reads its answer.
    pub(super) async fn send(
        &self,
        endpoint: Endpoint,
        request: Request,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let mut place = Place::of(endpoint, request.method(), request.url());
        let traffic = &*self.inner.traffic;
        if let Err(held) = traffic.admit(endpoint, self.right) {
            return Err(Error::new(Kind::Held(held), place));
        }
        let mut report = Report::begin(traffic, endpoint, self.right);
        let transfer = async {
            let response = self.inner.client.execute(request).await.map_err(Failure::of)?;
            let status = response.status();
            let verdict = verdict(status, response.headers());
            place.status = Some(status);
            report.call.outcome = Outcome::Answered(status);
            report.call.remarks = remarks(status, response.headers());
            match verdict {
                // What stands in the body of an outage or a redirect is nobody's to read.
                Some(kind) => Err(Failure(kind, None)),
                None => Ok((status, read(response).await?)),
            }
        };
        let result = match tokio::time::timeout_at(deadline, transfer).await {
            Ok(result) => result,
            Err(_) => Err(Failure(Kind::Timeout, None)),
        };
        match result {
            Ok((status, body)) => Ok(Answer { status, body, place }),
            Err(Failure(kind, source)) => {
                match kind {
                    Kind::Timeout => report.call.outcome = Outcome::TimedOut,
                    Kind::Unreachable => report.call.outcome = Outcome::Unreachable,
                    Kind::Broken | Kind::TooLong => report.call.outcome = Outcome::Broken,
                    _ => {}
                }
                Err(Error::with_source(kind, place, source))
            }
        }
    }
}

struct Failure(Kind, Option<reqwest::Error>);

impl Failure {
    fn of(error: reqwest::Error) -> Failure {
        let kind = if error.is_connect() {
            Kind::Unreachable
        } else if error.is_timeout() {
            Kind::Timeout
        } else {
            Kind::Broken
        };
        Failure(kind, Some(error))
    }
}

/// What a status means whatever was asked; `None` where it depends on that.
fn verdict(status: StatusCode, headers: &HeaderMap) -> Option<Kind> {
    match status.as_u16() {
        200..=299 => None,
        300..=399 => Some(Kind::Redirected),
        429 => Some(Kind::Throttled(retry_after(headers))),
        408 | 500..=599 => Some(Kind::Unavailable(retry_after(headers))),
        400..=499 => None,
        _ => Some(Kind::Unexpected),
    }
}

/// How long we are asked to wait (RFC 9110 §10.2.3): seconds, or a date, which counts from the `Date` of the
/// same answer, so that our own clock does not matter. At most an hour: longer than the window of the rate
/// limit is no sensible wish.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(3600);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let wish = text(RETRY_AFTER)?;
    if let Ok(seconds) = wish.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let moment = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
    let wait = moment(wish)? - moment(text(DATE)?)?;
    Some(Duration::try_from(wait).unwrap_or_default().min(LONGEST))
}

/// The body, unless it outgrows the limit: what `Content-Length` says is only a hint.
async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let limit = BODY_LIMIT as u64;
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(Failure(Kind::TooLong, None));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Failure::of)? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(Failure(Kind::TooLong, None));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A date of HTTP's, after 1970.
fn moment(text: &str) -> Option<Timestamp> {
    let seconds = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?.unix_timestamp();
    u64::try_from(seconds).ok().map(Timestamp::from_unix_seconds)
}

/// What the head of an answer says beside its status.
fn remarks(status: StatusCode, headers: &HeaderMap) -> Remarks {
    let near = headers.get("x-ratelimit-nearlimit").and_then(|value| value.to_str().ok());
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let notice = |name| text(name).map(|text| text.chars().take(NOTICE_LIMIT).collect());
    Remarks {
        date: text(DATE.as_str()).and_then(moment),
        scopes: text("x-oauth-scopes").map(observed::scopes),
        notices: Notices {
            deprecation: notice("deprecation"),
            sunset: notice("sunset"),
            warning: notice("warning"),
        },
        retry_after: if status == StatusCode::TOO_MANY_REQUESTS { retry_after(headers) } else { None },
        near_limit: near.is_some_and(|near| near.trim().eq_ignore_ascii_case("true")),
    }
}

/// Tells the traffic when it goes out of scope, so that a call is counted even if its future is dropped.
struct Report<'a> {
    traffic: &'a dyn Traffic,
    call: Call,
    /// A monotonic span, no moment: it needs no clock of ours.
    begun: Instant,
}

impl<'a> Report<'a> {
    fn begin(traffic: &'a dyn Traffic, endpoint: Endpoint, right: Right) -> Report<'a> {
        let (outcome, remarks) = (Outcome::Abandoned, Remarks::default());
        let call = Call { endpoint, right, outcome, took: Duration::ZERO, remarks };
        Report { traffic, call, begun: Instant::now() }
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.call.took = self.begun.elapsed();
        self.traffic.done(&self.call);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_wait_is_told_in_seconds_or_as_a_date_and_never_longer_than_an_hour() {
        let date = "Tue, 24 Nov 2026 08:00:00 GMT";
        for (wish, seconds) in [
            ("7", Some(7)),
            (" 30 ", Some(30)),
            ("0", Some(0)),
            ("86400", Some(3600)),
            ("Tue, 24 Nov 2026 08:01:30 GMT", Some(90)),
            ("Tue, 24 Nov 2026 07:00:00 GMT", Some(0)),
            ("Wed, 25 Nov 2026 08:00:00 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([
                (DATE, HeaderValue::from_static(date)),
                (RETRY_AFTER, HeaderValue::from_static(wish)),
            ]);
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{wish}");
        }
        let alone = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(date))]);
        assert_eq!(retry_after(&alone), None, "a date means nothing without the sender's own");
    }
}
