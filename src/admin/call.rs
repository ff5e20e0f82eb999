//! What an operator's request says besides its path, and what an answer to it is made of.
//!
//! Owns: [`Call`], the query taken apart and held to what is known; [`Refusal`], why a request is not done.
//! Must not know: sessions, keys.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::{problem_with, typed};
use crate::store;
use crate::telemetry::audit::Word;

/// The longest `by` and `why`, in characters: they go to the audit log as they are.
const LONGEST_WORD: usize = 200;

/// A request, as its query and its connection tell it.
pub(super) struct Call {
    params: Vec<(String, String)>,
    client: Option<SocketAddr>,
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Call, Refusal> {
        let query = parts.uri.query().unwrap_or("");
        let params: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        for (place, (name, _)) in params.iter().enumerate() {
            if params[..place].iter().any(|(earlier, _)| earlier == name) {
                return Err(Refusal::Bad(format!("`{name}` is there twice")));
            }
        }
        let client = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        Ok(Call { params, client })
    }
}

impl Call {
    /// Refuses what is not in `known`: a filter with a slip in its name must not end everybody's sessions.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.params.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let known = known.join("`, `");
                Err(Refusal::Bad(format!("there is no parameter `{name}` here; there are `{known}`")))
            }
        }
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is `true` or not there: anything else may be a slip.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.param(name) {
            None => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::Bad(format!("`{name}` is `true`, or is left out"))),
        }
    }

    /// On whose word: `by` and `why`.
    pub(super) fn word(&self) -> Result<Word, Refusal> {
        let text = |name: &str| match self.param(name) {
            None | Some("") => Ok(None),
            Some(text) if text.chars().count() > LONGEST_WORD || text.contains(char::is_control) => {
                Err(Refusal::Bad(format!("`{name}` is a line of at most {LONGEST_WORD} characters")))
            }
            Some(text) => Ok(Some(text.to_owned())),
        };
        Ok(Word { client: self.client.map(|client| client.ip()), by: text("by")?, why: text("why")? })
    }
}

/// Why a request is not done.
pub(super) enum Refusal {
    /// It makes no sense.
    Bad(String),
    /// What it names is not there.
    NotFound(String),
    /// What it names means several.
    Ambiguous(String, Vec<Value>),
    /// Nobody can say, or it could not be written down.
    Store(store::Error),
    /// A key could not be made.
    Failed(String),
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Refusal {
        Refusal::Store(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Bad(detail) => problem_with(StatusCode::BAD_REQUEST, &detail, json!({})),
            Refusal::NotFound(detail) => problem_with(StatusCode::NOT_FOUND, &detail, json!({})),
            Refusal::Ambiguous(detail, candidates) => {
                problem_with(StatusCode::CONFLICT, &detail, json!({ "candidates": candidates }))
            }
            Refusal::Store(error) => {
                tracing::error!(%error, "an operator's request could not be done");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let mut response = problem_with(status, &error.to_string(), json!({}));
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
                response
            }
            Refusal::Failed(detail) => {
                tracing::error!(error = detail, "an operator's request could not be done");
                problem_with(StatusCode::INTERNAL_SERVER_ERROR, &detail, json!({}))
            }
        }
    }
}

/// 200, and the answer.
pub(super) fn answer(body: &Value) -> Response {
    typed(StatusCode::OK, "application/json", body.to_string())
}
