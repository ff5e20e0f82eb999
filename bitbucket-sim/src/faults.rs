//! What can be made to go wrong.
//!
//! Owns: the kinds of fault and how they are written as JSON.
//! Must not know: when a fault is due (the world counts) or what then happens (`effect.rs`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that goes wrong at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// One of [`crate::ENDPOINTS`], or `*` for all of them.
    pub endpoint: String,
    /// What goes wrong.
    pub kind: FaultKind,
    /// How often it goes wrong; `None` until [`crate::World::clear_faults`].
    pub times: Option<u32>,
}

/// What goes wrong. Unless said otherwise the request has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// This status with an HTML page, as the edge of Bitbucket sends when its inside is unwell.
    Status(u16),
    /// 429.
    RateLimited {
        /// Seconds in `Retry-After`; Bitbucket documents none.
        #[serde(default)]
        retry_after: Option<u64>,
        /// The API's error object, or plain text.
        #[serde(default)]
        json: bool,
    },
    /// The answer is right, and late by so much.
    #[serde(rename = "slow_ms", with = "milliseconds")]
    Slow(Duration),
    /// The connection is closed without an answer.
    Drop,
    /// The request is served, and the second half of the answer's body is missing.
    Truncated,
    /// 200 with an HTML page instead of JSON.
    #[serde(rename = "html_200")]
    Html200,
    /// The answer is right, and its head has these fields, instead of those of the same names.
    Headers(Vec<(String, String)>),
    /// 410 as the removed endpoints answer.
    Gone,
    /// The request is served, and the connection is closed before the answer. On `token.refresh`: the rotation
    /// happened and the new token is lost.
    LostAnswer,
    /// 403 as for a token that lacks a scope.
    MissingScope {
        /// What the endpoint needs.
        required: Vec<String>,
        /// What the token has.
        granted: Vec<String>,
    },
}

impl Fault {
    /// At `endpoint` (`*` for all), every time.
    pub fn new(endpoint: &str, kind: FaultKind) -> Fault {
        Fault { endpoint: endpoint.to_owned(), kind, times: None }
    }

    /// The same, so many times only.
    #[must_use]
    pub fn times(self, times: u32) -> Fault {
        Fault { times: Some(times), ..self }
    }

    pub(crate) fn fits(&self, endpoint: &str) -> bool {
        self.times != Some(0) && (self.endpoint == "*" || self.endpoint == endpoint)
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_written_as_json_and_read_back() -> Result<(), serde_json::Error> {
        for (json, kind) in [
            (r#"{"status":503}"#, FaultKind::Status(503)),
            (
                r#"{"rate_limited":{"retry_after":5,"json":true}}"#,
                FaultKind::RateLimited { retry_after: Some(5), json: true },
            ),
            (
                r#"{"rate_limited":{"retry_after":null,"json":false}}"#,
                FaultKind::RateLimited { retry_after: None, json: false },
            ),
            (r#"{"slow_ms":1500}"#, FaultKind::Slow(Duration::from_millis(1500))),
            (r#""drop""#, FaultKind::Drop),
            (r#""truncated""#, FaultKind::Truncated),
            (r#""html_200""#, FaultKind::Html200),
            (
                r#"{"headers":[["sunset","soon"]]}"#,
                FaultKind::Headers(vec![("sunset".to_owned(), "soon".to_owned())]),
            ),
            (r#""gone""#, FaultKind::Gone),
            (r#""lost_answer""#, FaultKind::LostAnswer),
            (
                r#"{"missing_scope":{"required":["account"],"granted":[]}}"#,
                FaultKind::MissingScope { required: vec!["account".to_owned()], granted: Vec::new() },
            ),
        ] {
            assert_eq!(serde_json::from_str::<FaultKind>(json)?, kind);
            assert_eq!(serde_json::to_string(&kind)?, json);
        }
        Ok(())
    }
}
