//! How the REST API says no.
//!
//! Owns: status and body of each refusal, word for word as Bitbucket was seen to send them.
//! Must not know: when to refuse.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

const ANNOUNCEMENT: &str = "https://developer.atlassian.com/cloud/bitbucket/changelog#CHANGE-2770";

/// A refusal of the REST API.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// 401: none, wrong, withdrawn, or in the wrong place.
    BadToken,
    /// 401, as it was worded before 2026.
    ExpiredToken,
    /// 403, with the scopes in an object.
    MissingScope { required: Vec<String>, granted: Vec<String> },
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 404.
    NoWorkspace(String),
    /// 400.
    Invalid(&'static str),
    /// 410.
    Gone,
    /// 429.
    RateLimited { retry_after: Option<u64>, json: bool },
}

impl Failure {
    pub(crate) fn response(&self) -> Response {
        match self {
            Failure::BadToken => message(
                StatusCode::UNAUTHORIZED,
                "Token is invalid, expired, or not supported for this endpoint.",
            ),
            Failure::ExpiredToken => message(
                StatusCode::UNAUTHORIZED,
                "Access token expired. Use your refresh token to obtain a new access token.",
            ),
            Failure::MissingScope { required, granted } => error(
                StatusCode::FORBIDDEN,
                json!({
                    "message": "Your credentials lack one or more required privilege scopes.",
                    "detail": {"required": required, "granted": granted},
                }),
            ),
            Failure::Forbidden => message(StatusCode::FORBIDDEN, "Forbidden"),
            Failure::NotFound => error(
                StatusCode::NOT_FOUND,
                json!({"message": "Resource not found", "detail": "There is no API hosted at this URL."}),
            ),
            Failure::NoWorkspace(named) => {
                message(StatusCode::NOT_FOUND, &format!("No workspace with identifier '{named}'."))
            }
            Failure::Invalid(what) => message(StatusCode::BAD_REQUEST, what),
            Failure::Gone => json_response(
                StatusCode::GONE,
                &json!({
                    "type": "error",
                    "error": {
                        "message": "CHANGE-2770 - Functionality has been deprecated",
                        "detail": "Please read the changelog entry for more details.",
                        "data": {"announcement_url": ANNOUNCEMENT},
                    },
                    "data": {"announcement_url": ANNOUNCEMENT},
                }),
            ),
            Failure::RateLimited { retry_after, json } => {
                const TEXT: &str = "Rate limit for this resource has been exceeded";
                let mut response = match json {
                    true => message(StatusCode::TOO_MANY_REQUESTS, TEXT),
                    false => (StatusCode::TOO_MANY_REQUESTS, TEXT).into_response(),
                };
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
                }
                response
            }
        }
    }
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

fn message(status: StatusCode, message: &str) -> Response {
    error(status, json!({"message": message}))
}

fn error(status: StatusCode, error: Value) -> Response {
    json_response(status, &json!({"type": "error", "error": error}))
}
