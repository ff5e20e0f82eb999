//! Every event that has an answer of ours, and that answer for programs.
//!
//! Owns: [`Event`] (name, status, gRPC status, title of each) and [`Problem`], which becomes
//! `application/problem+json` (RFC 9457) or a gRPC status.
//! Must not know: pages, who is asking, why.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::reply::{Common, Forms, reply};
use super::words::percent_encode;
use crate::identity::AccountId;

/// What can happen to a request that no app answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Nobody is signed in.
    SignInNeeded,
    /// The rule of the route does not admit this account.
    Refused,
    /// The account is in none of the listed teams; it was not signed in.
    NoTeam,
    /// The account's teams are not known freshly enough.
    CannotTell,
    /// No route matches.
    NoRoute,
    /// The request is ambiguous or malformed.
    BadRequest,
    /// The connection is for another host.
    Misdirected,
    /// The state of a sign-in is unknown, used up or too old.
    SignInExpired,
    /// The person said no at Bitbucket.
    Cancelled,
    /// The browser does not keep our cookie, or goes round in circles.
    CookiesBlocked,
    /// Bitbucket refuses our client or its redirect address.
    Misconfigured,
    /// Bitbucket cannot be reached while someone signs in.
    BitbucketAway,
    /// Bitbucket answers a sign-in with something that cannot be used.
    BitbucketGarbled,
    /// The account is not a person's.
    NotAPerson,
    /// The account is deactivated at Bitbucket.
    Deactivated,
    /// More than the limit allows.
    TooMany,
    /// The body is longer than the route allows.
    TooLarge,
    /// The headers are longer, or more, than the gateway takes.
    HeadersTooLarge,
    /// The target is longer than the gateway takes.
    TargetTooLong,
    /// The rest of the request did not come in time.
    RequestTimeout,
    /// A page of another site asks in the visitor's name.
    ForeignOrigin,
    /// Something of our own that this needs (the store) is away.
    Unavailable,
    /// The app cannot be reached.
    AppDown,
    /// The app does not answer in time.
    AppSlow,
    /// The app has as many requests as it may.
    AppBusy,
    /// The address exists, the method does not.
    MethodNotAllowed,
    /// A bug.
    Internal,
}

/// The gRPC statuses in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grpc {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Event {
    /// Every event.
    pub const ALL: [Event; 27] = [
        Event::SignInNeeded,
        Event::Refused,
        Event::NoTeam,
        Event::CannotTell,
        Event::NoRoute,
        Event::BadRequest,
        Event::Misdirected,
        Event::SignInExpired,
        Event::Cancelled,
        Event::CookiesBlocked,
        Event::Misconfigured,
        Event::BitbucketAway,
        Event::BitbucketGarbled,
        Event::NotAPerson,
        Event::Deactivated,
        Event::TooMany,
        Event::TooLarge,
        Event::HeadersTooLarge,
        Event::TargetTooLong,
        Event::RequestTimeout,
        Event::ForeignOrigin,
        Event::Unavailable,
        Event::AppDown,
        Event::AppSlow,
        Event::AppBusy,
        Event::MethodNotAllowed,
        Event::Internal,
    ];

    /// The last part of the problem's `type`; stable, programs compare it.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// What happened, in a visitor's words; the same at every occurrence, different from every other event.
    pub fn title(self) -> &'static str {
        self.row().3
    }

    fn row(self) -> (&'static str, StatusCode, Grpc, &'static str) {
        use StatusCode as S;
        match self {
            Event::SignInNeeded => {
                ("sign-in-needed", S::UNAUTHORIZED, Grpc::Unauthenticated, "Please sign in")
            }
            Event::Refused => {
                ("refused", S::FORBIDDEN, Grpc::PermissionDenied, "This page isn’t open to your account")
            }
            Event::NoTeam => (
                "no-team",
                S::FORBIDDEN,
                Grpc::PermissionDenied,
                "This account isn’t in a team that may use this gateway",
            ),
            Event::CannotTell => (
                "cannot-tell",
                S::SERVICE_UNAVAILABLE,
                Grpc::Unavailable,
                "We can’t check your teams right now",
            ),
            Event::NoRoute => {
                ("no-route", S::NOT_FOUND, Grpc::Unimplemented, "There’s nothing at this address")
            }
            Event::BadRequest => {
                ("bad-request", S::BAD_REQUEST, Grpc::InvalidArgument, "We can’t make sense of this request")
            }
            Event::Misdirected => (
                "misdirected",
                S::MISDIRECTED_REQUEST,
                Grpc::Unavailable,
                "This connection is for another site",
            ),
            Event::SignInExpired => {
                ("sign-in-expired", S::BAD_REQUEST, Grpc::InvalidArgument, "That sign-in is no longer good")
            }
            Event::Cancelled => ("cancelled", S::FORBIDDEN, Grpc::PermissionDenied, "Sign-in was cancelled"),
            Event::CookiesBlocked => (
                "cookies-blocked",
                S::BAD_REQUEST,
                Grpc::InvalidArgument,
                "Your browser isn’t keeping our cookie",
            ),
            Event::Misconfigured => (
                "misconfigured",
                S::INTERNAL_SERVER_ERROR,
                Grpc::Internal,
                "The sign-in service needs its operator",
            ),
            Event::BitbucketAway => {
                ("bitbucket-away", S::SERVICE_UNAVAILABLE, Grpc::Unavailable, "Bitbucket isn’t answering")
            }
            Event::BitbucketGarbled => (
                "bitbucket-garbled",
                S::BAD_GATEWAY,
                Grpc::Unavailable,
                "Bitbucket gave an answer we couldn’t use",
            ),
            Event::NotAPerson => {
                ("not-a-person", S::FORBIDDEN, Grpc::PermissionDenied, "Only people can sign in here")
            }
            Event::Deactivated => {
                ("deactivated", S::FORBIDDEN, Grpc::PermissionDenied, "This Bitbucket account is deactivated")
            }
            Event::TooMany => {
                ("too-many", S::TOO_MANY_REQUESTS, Grpc::ResourceExhausted, "Too many requests just now")
            }
            Event::TooLarge => (
                "too-large",
                S::PAYLOAD_TOO_LARGE,
                Grpc::ResourceExhausted,
                "That’s more than fits through here",
            ),
            Event::HeadersTooLarge => (
                "headers-too-large",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Grpc::ResourceExhausted,
                "Your browser sent more along than fits",
            ),
            Event::TargetTooLong => {
                ("target-too-long", S::URI_TOO_LONG, Grpc::InvalidArgument, "This address is too long")
            }
            Event::RequestTimeout => (
                "request-timeout",
                S::REQUEST_TIMEOUT,
                Grpc::DeadlineExceeded,
                "Your request didn’t arrive in full",
            ),
            Event::ForeignOrigin => (
                "foreign-origin",
                S::FORBIDDEN,
                Grpc::PermissionDenied,
                "Another site asked for this in your name",
            ),
            Event::Unavailable => {
                ("unavailable", S::SERVICE_UNAVAILABLE, Grpc::Unavailable, "We can’t do that right now")
            }
            Event::AppDown => ("app-down", S::BAD_GATEWAY, Grpc::Unavailable, "The app isn’t answering"),
            // Not Unavailable: clients repeat that one, and the app may have done what was asked.
            Event::AppSlow => {
                ("app-slow", S::GATEWAY_TIMEOUT, Grpc::DeadlineExceeded, "The app is taking too long")
            }
            Event::AppBusy => {
                ("app-busy", S::SERVICE_UNAVAILABLE, Grpc::Unavailable, "The app is full just now")
            }
            Event::MethodNotAllowed => (
                "method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                Grpc::Unimplemented,
                "This address doesn’t take that kind of request",
            ),
            Event::Internal => {
                ("internal", S::INTERNAL_SERVER_ERROR, Grpc::Internal, "Something broke on our side")
            }
        }
    }
}

/// The account that a problem is about.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// Its key.
    pub id: AccountId,
    /// What the person is called.
    pub name: &'a str,
}

/// One occurrence of an [`Event`], for programs.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    /// What happened.
    pub event: Event,
    /// What happened this time, as a sentence.
    pub detail: Cow<'a, str>,
    /// Where a person can sign in: an absolute URL.
    pub sign_in: Option<&'a str>,
    /// The groups of which any one would do; `None` when there are none to tell.
    pub needs: Option<&'a [String]>,
    /// Who is asking, as far as known.
    pub account: Option<Account<'a>>,
    /// When it makes sense to ask again; rounded up to whole seconds.
    pub retry_after: Option<Duration>,
}

impl<'a> Problem<'a> {
    /// A problem with nothing but its sentence.
    pub fn new(event: Event, detail: impl Into<Cow<'a, str>>) -> Problem<'a> {
        Problem { event, detail: detail.into(), sign_in: None, needs: None, account: None, retry_after: None }
    }

    /// For scripts, tools and `fetch`.
    pub fn json(&self, common: &Common<'_>) -> Response<Bytes> {
        let body = Body {
            kind: format!("urn:teamgate:problem:{}", self.event.name()),
            title: self.event.title(),
            status: self.event.status().as_u16(),
            detail: &self.detail,
            request_id: common.request_id,
            sign_in: self.sign_in,
            needs: self.needs,
            account: self.account.map(|a| BodyAccount { id: a.id, name: a.name }),
            retry_after: self.retry_after.map(whole_seconds),
        };
        // A struct of strings and numbers always serialises.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response =
            reply(common, self.event.status(), "application/problem+json", body.into(), Forms::None);
        self.mark(&mut response);
        response
    }

    /// For gRPC clients: a "Trailers-Only" response, whose status is in the header and which has no body.
    pub fn grpc(&self, common: &Common<'_>) -> Response<Bytes> {
        let mut response = reply(common, StatusCode::OK, "application/grpc", Bytes::new(), Forms::None);
        // A length would announce messages; there are none.
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        let status = HeaderValue::from(self.event.row().2 as u16);
        response.headers_mut().insert(HeaderName::from_static("grpc-status"), status);
        // "Percent-Encoded" of the gRPC protocol: visible ASCII and space stay, but for the percent sign.
        let message = percent_encode(&self.detail, |b| matches!(b, b' '..=b'~') && b != b'%');
        if let Ok(message) = HeaderValue::from_str(&message) {
            response.headers_mut().insert(HeaderName::from_static("grpc-message"), message);
        }
        response
    }

    /// Puts on a response what its status asks for.
    pub(super) fn mark(&self, response: &mut Response<Bytes>) {
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if self.event == Event::SignInNeeded {
            // RFC 9110 §15.5.2: a 401 names a scheme. Bearer, because Basic makes browsers ask for a password.
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"teamgate\""));
        }
    }
}

/// RFC 9457 §3, with our extensions.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_in: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<BodyAccount<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct BodyAccount<'a> {
    id: AccountId,
    name: &'a str,
}

/// Whole seconds, rounded up: asking a moment early is asking in vain.
pub(super) fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};

    use super::*;
    use crate::clock::Timestamp;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn common() -> Common<'static> {
        Common {
            request_id: "r-1",
            now: Timestamp::from_unix_seconds(0),
            contact: None,
            gateway: "gate.example.com",
            form_origin: None,
        }
    }

    #[test]
    fn every_event_has_a_name_and_a_title_of_its_own_and_is_an_error() {
        let names: BTreeSet<_> = Event::ALL.iter().map(|event| event.name()).collect();
        let titles: BTreeSet<_> = Event::ALL.iter().map(|event| event.title()).collect();
        assert_eq!((names.len(), titles.len()), (Event::ALL.len(), Event::ALL.len()));
        for event in Event::ALL {
            assert!(event.status().is_client_error() || event.status().is_server_error(), "{event:?}");
        }
    }

    #[test]
    fn a_problem_says_what_it_knows_and_leaves_out_the_rest() -> Outcome {
        let needs = ["ops/administrators".to_owned()];
        let full = Problem {
            sign_in: Some("https://wiki.example.com/.teamgate/login?rd=%2F"),
            needs: Some(&needs),
            account: Some(Account { id: AccountId::from_bytes([1; 16]), name: "Ann \"<script>\"" }),
            retry_after: Some(Duration::from_millis(10_001)),
            ..Problem::new(Event::Refused, "not one of them")
        };
        let response = full.json(&common());
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.headers().get(CONTENT_TYPE).is_some_and(|k| k == "application/problem+json"));
        assert!(response.headers().get(RETRY_AFTER).is_some_and(|s| s == "11"));
        let body: serde_json::Value = serde_json::from_slice(response.body())?;
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:teamgate:problem:refused",
                "title": "This page isn’t open to your account",
                "status": 403,
                "detail": "not one of them",
                "request_id": "r-1",
                "sign_in": "https://wiki.example.com/.teamgate/login?rd=%2F",
                "needs": ["ops/administrators"],
                "account": { "id": "01010101-0101-0101-0101-010101010101", "name": "Ann \"<script>\"" },
                "retry_after": 11,
            })
        );
        let bare: serde_json::Value =
            serde_json::from_slice(Problem::new(Event::Internal, "x").json(&common()).body())?;
        let keys: Vec<_> = bare.as_object().ok_or("no object")?.keys().map(String::as_str).collect();
        assert_eq!(keys, ["detail", "request_id", "status", "title", "type"]);
        Ok(())
    }

    #[test]
    fn a_401_names_its_scheme_and_nothing_else_does() {
        for event in Event::ALL {
            let response = Problem::new(event, "x").json(&common());
            let scheme = response.headers().get(WWW_AUTHENTICATE).and_then(|v| v.to_str().ok());
            let expected = (event == Event::SignInNeeded).then_some("Bearer realm=\"teamgate\"");
            assert_eq!(scheme, expected, "{event:?}");
            assert_eq!(response.status() == StatusCode::UNAUTHORIZED, expected.is_some());
        }
    }

    #[test]
    fn grpc_hears_its_own_status_in_the_header() {
        for (event, detail, status, message) in [
            (Event::SignInNeeded, "sign in", "16", "sign in"),
            (Event::Refused, "100 % für dich\n", "7", "100 %25 f%C3%BCr dich%0A"),
            (Event::CannotTell, "later", "14", "later"),
            (Event::AppSlow, "late", "4", "late"),
        ] {
            let response = Problem::new(event, detail).grpc(&common());
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(text("content-type"), "application/grpc");
            assert_eq!(text("grpc-status"), status, "{event:?}");
            assert_eq!(text("grpc-message"), message);
            assert!(response.body().is_empty() && !response.headers().contains_key(CONTENT_LENGTH));
            assert_eq!(response.headers().get(CACHE_CONTROL), Some(&HeaderValue::from_static("no-store")));
        }
    }
}
