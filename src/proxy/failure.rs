//! What went wrong on the way to the app and back: as a status, as a word, as a line.
//!
//! Owns: the reading of Pingora's errors. Must not know: pages.

use pingora::{Error, ErrorSource, ErrorType};

use crate::telemetry::labels::UpstreamFault;

/// What a failure is to the client.
pub(super) fn status_of(error: &Error) -> u16 {
    match error.etype() {
        ErrorType::HTTPStatus(status) => *status,
        ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout
            if error.esource() != &ErrorSource::Downstream =>
        {
            504
        }
        ErrorType::ReadTimedout => 408,
        _ => match error.esource() {
            ErrorSource::Upstream => 502,
            ErrorSource::Downstream => 400,
            ErrorSource::Internal | ErrorSource::Unset if is_connect(error.etype()) => 502,
            ErrorSource::Internal | ErrorSource::Unset => 500,
        },
    }
}

fn is_connect(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
    )
}

/// The same, as a kind. Whether the header of an answer had come decides what a limit was for.
pub(super) fn kind_of(error: &Error, answered: bool) -> UpstreamFault {
    match error.etype() {
        ErrorType::ConnectTimedout => UpstreamFault::ConnectTimeout,
        ErrorType::ConnectRefused => UpstreamFault::ConnectRefused,
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => UpstreamFault::Tls,
        kind if is_connect(kind) => UpstreamFault::Connect,
        ErrorType::ReadTimedout if answered => UpstreamFault::IdleTimeout,
        ErrorType::ReadTimedout => UpstreamFault::HeaderTimeout,
        ErrorType::WriteTimedout => UpstreamFault::WriteTimeout,
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => UpstreamFault::Closed,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error | ErrorType::InvalidH2 => {
            UpstreamFault::Garbage
        }
        _ => UpstreamFault::Other,
    }
}

/// What Pingora says about it, without the raw buffers that its messages may carry.
pub(super) fn reason_of(error: &Error) -> String {
    let context = error.context.as_ref().map_or("", |context| context.as_str());
    let safe = context.split("buf:").next().unwrap_or("").trim();
    format!("{} {safe}", error.etype().as_str()).trim().to_owned()
}
