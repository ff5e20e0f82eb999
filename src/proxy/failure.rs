//! What went wrong on the way to the app and back: as a status, as a word, as a line.
//!
//! Owns: the reading of Pingora's errors. Must not know: pages.

use pingora::{Error, ErrorSource, ErrorType};

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

/// The same, as a word for the log.
pub(super) fn kind_of(error: &Error) -> &'static str {
    match error.etype() {
        ErrorType::ConnectTimedout => "connect_timeout",
        ErrorType::ConnectRefused => "connect_refused",
        ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout | ErrorType::InvalidCert => "tls",
        kind if is_connect(kind) => "connect",
        ErrorType::ReadTimedout => "read_timeout",
        ErrorType::WriteTimedout => "write_timeout",
        ErrorType::ConnectionClosed => "closed",
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error => "garbage",
        _ => "other",
    }
}

/// What Pingora says about it, without the raw buffers that its messages may carry.
pub(super) fn reason_of(error: &Error) -> String {
    let context = error.context.as_ref().map_or("", |context| context.as_str());
    let safe = context.split("buf:").next().unwrap_or("").trim();
    format!("{} {safe}", error.etype().as_str()).trim().to_owned()
}
