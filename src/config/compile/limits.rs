//! What protects from clients that ask for too much or are too slow.
//!
//! Owns: `limits` and the rules on `limits`. Must not know: who keeps them.

use crate::config::compile::Findings;
use crate::config::document::Document;
use crate::config::value::{Count, Size};
pub use crate::snapshot::Limits;

pub(super) fn limits(document: &Document, findings: &mut Findings<'_>) -> Limits {
    let written = &document.limits;
    let (each, all) = (written.connections_per_address.0, written.connections.0);
    let paths = ["limits.connections_per_address", "limits.connections"];
    // Who lowers `connections` alone need not know of the other.
    if each > all && findings.places.has(paths[0]) && findings.sound(&paths) {
        findings.problem(
            paths[0],
            format!(
                "{each} from one address are more than the {all} from all; make it at most `connections`"
            ),
        );
    }
    Limits {
        header_bytes: bytes(&written.header_bytes),
        header_fields: number(written.header_fields),
        target_bytes: bytes(&written.target_bytes),
        handshake_timeout: written.handshake_timeout.0,
        header_timeout: written.header_timeout.0,
        body_timeout: written.body_timeout.0,
        answer_timeout: written.answer_timeout.0,
        keep_alive: written.keep_alive.0,
        requests_per_connection: few(written.requests_per_connection),
        connections: number(written.connections),
        connections_per_address: number(written.connections_per_address),
        http2_streams: few(written.http2_streams),
        sign_ins: written.sign_ins.0,
        callbacks: written.callbacks.0,
    }
}

// The bounds of the document are far below what these types hold.

fn bytes(size: &Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn number(count: Count) -> usize {
    usize::try_from(count.0).unwrap_or(usize::MAX)
}

fn few(count: Count) -> u32 {
    u32::try_from(count.0).unwrap_or(u32::MAX)
}
