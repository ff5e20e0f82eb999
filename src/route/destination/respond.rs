//! A route that gives the same answer to every request.
//!
//! Owns: [`Respond`]. Must not know: where its body came from.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Respond {
    /// 200 to 599, but for redirections. Default 200.
    pub status: StatusCode,
    /// What the body is. Default: plain text in UTF-8.
    pub content_type: HeaderValue,
    /// The body; shared by all answers.
    pub body: Bytes,
}
