//! What a fault does to a request.
//!
//! Owns: the answers that are given instead of the right one.
//! Must not know: when a fault is due (the world counts) or how a connection is cut (`server.rs`).

use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};

use crate::faults::FaultKind;
use crate::rest::Failure;

/// What the server does about a fault.
pub(crate) enum Effect {
    /// Answer this and do nothing.
    Instead(Response),
    /// Close the connection and do nothing.
    Cut,
    /// Serve the request, then close the connection.
    ServeAndCut,
    /// Serve the request, then keep back half the body.
    ServeHalf,
    /// Serve the request, and put these fields into the head of the answer.
    ServeWith(Vec<(String, String)>),
}

impl Effect {
    /// `None` for a mere delay.
    pub(crate) fn of(fault: FaultKind) -> Option<Effect> {
        Some(match fault {
            FaultKind::Slow(_) => return None,
            FaultKind::Drop => Effect::Cut,
            FaultKind::LostAnswer => Effect::ServeAndCut,
            FaultKind::Truncated => Effect::ServeHalf,
            FaultKind::Headers(fields) => Effect::ServeWith(fields),
            FaultKind::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Effect::Instead(edge_page(status))
            }
            FaultKind::Html200 => Effect::Instead(edge_page(StatusCode::OK)),
            FaultKind::Gone => Effect::Instead(Failure::Gone.response()),
            FaultKind::RateLimited { retry_after, json } => {
                Effect::Instead(Failure::RateLimited { retry_after, json }.response())
            }
            FaultKind::MissingScope { required, granted } => {
                Effect::Instead(Failure::MissingScope { required, granted }.response())
            }
        })
    }
}

fn edge_page(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or("Error");
    let body = format!("<html><head><title>{status}</title></head><body><h1>{reason}</h1></body></html>");
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response()
}
