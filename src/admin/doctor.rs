//! What is wrong between this gateway and Bitbucket, for operators.
//!
//! Owns: `/api/doctor`. Must not know: what is looked at.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::Api;
use super::call::{Call, Refusal, answer};

/// `GET /api/doctor`: the report, with what was not heard of for an hour asked anew.
pub(super) async fn report(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&[])?;
    let settings = api.current.load().gate.directory.clone();
    Ok(answer(&json!(api.doctor.check(&settings).await)))
}
