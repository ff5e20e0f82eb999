//! The access log: one line for each request.
//!
//! Owns: [`Entry`], [`Access`], the order and spelling of the fields. `docs/logs.md` documents each.
//! Must not know: Pingora, policies. Queries, headers and bodies have no field here: codes, tokens and cookies
//! travel in them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::labels::{Decision, LogStream};
use super::line::{Line, Style, with_buffer};
use super::metrics::Metrics;
use super::writer::{Full, Writer};
use crate::clock::Timestamp;
use crate::identity::AccountId;

/// What is told of one request. Borrowed; writing it allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When the request arrived.
    pub arrived_at: Timestamp,
    /// The name of the request, also on pages and in the answer.
    pub request_id: &'a str,
    /// Who asked, by address.
    pub client: IpAddr,
    /// The method as it came.
    pub method: &'a str,
    /// The host as it came, or empty.
    pub host: &'a [u8],
    /// The path without its query. Any bytes: of a request that was refused it is what the client sent.
    pub path: &'a [u8],
    /// The name of the route, if one was found.
    pub route: Option<&'a str>,
    /// What was decided.
    pub decision: Decision,
    /// On which grounds it was admitted.
    pub grounds: Option<&'a str>,
    /// For what reason it was not.
    pub reason: Option<&'a str>,
    /// Who was signed in.
    pub account: Option<AccountId>,
    /// The status that the client got; 0 when none was sent.
    pub status: u16,
    /// From arrival to decision.
    pub gate: Duration,
    /// From decision to the first byte of the upstream's answer.
    pub upstream: Option<Duration>,
    /// From arrival to the last byte of the answer.
    pub total: Duration,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// The upstream that was asked, the last of several attempts.
    pub asked: Option<&'a str>,
    /// What went wrong with the upstream: a kind, not a message.
    pub upstream_error: Option<&'a str>,
}

/// Writes access lines, or nothing when they are switched off. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    out: Option<Arc<Out>>,
}

struct Out {
    writer: Writer,
    style: Style,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.out.is_some() { "Access(on)" } else { "Access(off)" })
    }
}

impl Access {
    pub(super) fn off() -> Access {
        Access { out: None }
    }

    pub(super) fn on(writer: Writer, style: Style, metrics: Arc<Metrics>) -> Access {
        Access { out: Some(Arc::new(Out { writer, style, metrics })) }
    }

    /// Whether lines are written at all: what only a line needs is not worked out without.
    pub fn is_on(&self) -> bool {
        self.out.is_some()
    }

    /// Writes the line of one request. Never waits: when lines come faster than they are read they are dropped
    /// and counted in `teamgate_log_lines_dropped_total`.
    pub fn record(&self, entry: &Entry<'_>) {
        let Some(out) = &self.out else { return };
        let taken = with_buffer(|buffer| out.writer.push(entry.write(buffer, out.style)));
        if taken == Err(Full) {
            out.metrics.log_lines_dropped.inc(LogStream::Access);
        }
    }

    pub(super) fn flush(&self, patience: Duration) -> bool {
        self.out.as_ref().is_none_or(|out| out.writer.flush(patience))
    }
}

impl Entry<'_> {
    fn write<'b>(&self, buffer: &'b mut Vec<u8>, style: Style) -> &'b [u8] {
        let mut line = Line::begin(buffer, style, LogStream::Access.as_str(), self.arrived_at);
        // what eyes look for first; as text these stand without their names
        line.bare("method", self.method.as_bytes());
        line.bare("host", self.host);
        line.bare("path", self.path);
        line.number("status", self.status);
        line.text("decision", self.decision.as_str().as_bytes());
        let words = [
            ("route", self.route),
            ("grounds", self.grounds),
            ("reason", self.reason),
            ("upstream", self.asked),
            ("upstream_error", self.upstream_error),
        ];
        for (name, value) in words {
            if let Some(value) = value {
                line.text(name, value.as_bytes());
            }
        }
        if let Some(account) = self.account {
            line.text("account", &account.hyphenated());
        }
        line.display("client", self.client);
        line.number("gate_us", micros(self.gate));
        if let Some(upstream) = self.upstream {
            line.thousandths("upstream_ms", micros(upstream));
        }
        line.thousandths("total_ms", micros(self.total));
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.text("request_id", self.request_id.as_bytes());
        line.end()
    }
}

/// Saturates after half a million years.
fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A line with every field.
    pub(crate) fn sample() -> Entry<'static> {
        Entry {
            arrived_at: Timestamp::from_unix_millis(1_795_508_523_123),
            request_id: "r-1",
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            method: "GET",
            host: b"wiki.example.com",
            path: b"/start",
            route: Some("wiki"),
            decision: Decision::Allow,
            grounds: Some("team my-team"),
            reason: None,
            account: Some(AccountId::from_bytes([1; 16])),
            status: 200,
            gate: Duration::from_nanos(7_900),
            upstream: Some(Duration::from_micros(3_250)),
            total: Duration::from_micros(12_004),
            bytes_in: 0,
            bytes_out: 4096,
            asked: Some("http://10.0.0.5:8080"),
            upstream_error: None,
        }
    }

    /// The line of `entry`.
    pub(crate) fn json(entry: &Entry<'_>) -> String {
        written(entry, Style::Json)
    }

    fn written(entry: &Entry<'_>, style: Style) -> String {
        String::from_utf8_lossy(entry.write(&mut Vec::new(), style)).into_owned()
    }

    #[test]
    fn a_request_is_one_line_of_json_in_this_order() {
        let expected = concat!(
            r#"{"stream":"access","time":"2026-11-24T08:22:03.123Z","method":"GET","host":"wiki.example.com","#,
            r#""path":"/start","status":200,"decision":"allow","route":"wiki","grounds":"team my-team","#,
            r#""upstream":"http://10.0.0.5:8080","#,
            r#""account":"01010101-0101-0101-0101-010101010101","client":"192.0.2.7","gate_us":7,"#,
            r#""upstream_ms":3.250,"total_ms":12.004,"bytes_in":0,"bytes_out":4096,"request_id":"r-1"}"#,
            "\n"
        );
        assert_eq!(written(&sample(), Style::Json), expected);
    }

    #[test]
    fn on_a_terminal_it_reads_like_a_sentence() {
        let text = written(&sample(), Style::Text);
        assert!(
            text.starts_with("2026-11-24T08:22:03.123Z access GET wiki.example.com /start status=200 "),
            "{text}"
        );
    }

    #[test]
    fn a_client_cannot_write_into_the_log() -> Result<(), serde_json::Error> {
        let hostile: &[u8] = b"/\xff\x1b[31m\r\n{\"stream\":\"audit\"}\"";
        let text = "x\"\r\n\x1b[31m";
        let entry = Entry {
            method: text,
            host: hostile,
            path: hostile,
            request_id: text,
            decision: Decision::BadRequest,
            status: 0,
            ..sample()
        };
        for style in [Style::Json, Style::Text] {
            let line = written(&entry, style);
            assert!(line.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{line}");
        }
        let value: serde_json::Value = serde_json::from_str(&written(&entry, Style::Json))?;
        assert_eq!(value["path"], *String::from_utf8_lossy(hostile));
        assert_eq!(value["method"], text);
        assert_eq!(value["stream"], "access");
        Ok(())
    }
}
