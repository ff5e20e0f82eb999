//! The audit log: what matters to security, who did it, and on which grounds.
//!
//! Owns: [`Event`], [`Audit`]. `docs/logs.md` documents each event. People are named by their account's uuid:
//! there is no field for e-mails, tokens, cookies or codes.
//!
//! Events are not dropped silently. Those that cannot be written wait and are tried again; when there is no
//! more room they are counted, and the stream itself says how many are missing.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use super::labels::EndReason;
use super::labels::{Ending, HandOverOutcome, LogStream, OpenKind, SignInOutcome};
use super::line::{Line, Style, with_buffer};
use super::metrics::Metrics;
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::identity::{AccountId, TeamId};
use crate::session::SessionKey;

/// Something that matters to security.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The gateway serves.
    Started {
        /// Its version.
        version: String,
        /// The start of the SHA-256 of its configuration.
        config: String,
    },
    /// The gateway stops serving, in good order.
    Stopped,
    /// A session began.
    SignedIn {
        /// Whose.
        account: AccountId,
        /// Its short name.
        #[serde(serialize_with = "short")]
        session: SessionKey,
        /// Where the browser is.
        client: IpAddr,
        /// The groups that the account is confirmed to hold.
        groups: Vec<String>,
        /// The request that ended the sign-in.
        request_id: String,
    },
    /// A sign-in ended without a session.
    SignInFailed {
        /// Why.
        outcome: SignInOutcome,
        /// Who tried, where Bitbucket had said so by then.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<AccountId>,
        /// Where the browser is.
        client: IpAddr,
        /// The request that failed.
        request_id: String,
    },
    /// A session was handed over to another host.
    HandedOver {
        /// Whose.
        account: AccountId,
        /// Its short name.
        #[serde(serialize_with = "short")]
        session: SessionKey,
        /// The host that has it now, too.
        host: String,
        /// Where the browser is.
        client: IpAddr,
        /// The request that ended the hand-over.
        request_id: String,
    },
    /// A ticket that hands a session over was not believed.
    HandOverFailed {
        /// Why.
        outcome: HandOverOutcome,
        /// The host that it came to.
        host: String,
        /// Where the browser is.
        client: IpAddr,
        /// The request that failed.
        request_id: String,
    },
    /// Somebody signed out.
    SignedOut {
        /// Who.
        account: AccountId,
        /// The session that ended.
        #[serde(serialize_with = "short")]
        session: SessionKey,
        /// Where the browser is.
        client: IpAddr,
    },
    /// Sessions were ended by somebody or something else.
    SessionsEnded {
        /// Whose; nobody in particular when all were ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<AccountId>,
        /// Why.
        reason: EndReason,
        /// How many.
        count: u64,
    },
    /// An operator ended sessions. Where these were all of an account, a [`Event::SessionsEnded`] for each account
    /// stands before it.
    SessionsRevoked {
        /// What was named: `session`, `account`, `group` or `all`.
        scope: &'static str,
        /// Whose, where it was one account's.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<AccountId>,
        /// The session, where it was one.
        #[serde(serialize_with = "short_if_any", skip_serializing_if = "Option::is_none")]
        session: Option<SessionKey>,
        /// The group, where one was named.
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// How many sessions ended.
        count: u64,
        /// On whose word.
        #[serde(flatten)]
        word: Word,
    },
    /// An operator had every key that signs assertions replaced at once: what they signed is worth nothing any
    /// more.
    KeysDistrusted {
        /// The ids of the keys that are gone.
        keys: Vec<String>,
        /// On whose word.
        #[serde(flatten)]
        word: Word,
    },
    /// Somebody who is signed in was refused.
    Denied {
        /// Who.
        account: AccountId,
        /// The route that was asked for.
        route: String,
        /// The host that was asked for.
        host: String,
        /// The path without its query.
        path: String,
        /// Why.
        reason: String,
        /// Where the browser is.
        client: IpAddr,
        /// The request.
        request_id: String,
    },
    /// A connection that was open lost its pass and was ended.
    ConnectionEnded {
        /// Whose.
        account: AccountId,
        /// The session that it was opened with.
        #[serde(serialize_with = "short")]
        session: SessionKey,
        /// The route that admitted it.
        route: String,
        /// What it was.
        kind: OpenKind,
        /// Why.
        reason: Ending,
        /// How long it was open, in seconds.
        open_seconds: u64,
        /// Where the client is.
        client: IpAddr,
        /// The request that opened it.
        request_id: String,
    },
    /// Bitbucket gives other groups than before.
    MembershipChanged {
        /// Whose.
        account: AccountId,
        /// Groups that are gone.
        lost: Vec<String>,
        /// Groups that are new.
        gained: Vec<String>,
        /// When Bitbucket was asked.
        #[serde(serialize_with = "readable")]
        as_of: Timestamp,
    },
    /// A configured slug belongs to another workspace than before; it is not believed.
    SlugChanged {
        /// The slug.
        slug: String,
        /// The workspace that had it.
        pinned: TeamId,
        /// The workspace that has it now.
        found: TeamId,
    },
    /// An operator has a slug mean another workspace from now on.
    SlugAccepted {
        /// The slug.
        slug: String,
        /// The workspace that it meant, if any.
        #[serde(skip_serializing_if = "Option::is_none")]
        pinned: Option<TeamId>,
        /// The workspace that it means now.
        found: TeamId,
        /// On whose word.
        #[serde(flatten)]
        word: Word,
    },
    /// An operator had forgotten what a slug meant: the next workspace that has it is remembered.
    SlugForgotten {
        /// The slug.
        slug: String,
        /// The workspace that it meant.
        pinned: TeamId,
        /// On whose word.
        #[serde(flatten)]
        word: Word,
    },
    /// Another key signs.
    KeysRotated {
        /// What the key is for: `assertion`, or `secret` for cookies and everything stored.
        purpose: &'static str,
        /// The key id; public.
        key: String,
    },
    /// A certificate is shown, or a CA of client certificates asked, that was not before: its file changed.
    CertificateReloaded {
        /// The file, as the configuration calls it.
        certificate: String,
        /// The fingerprint of the certificate; of CAs that of the file.
        sha256: String,
    },
    /// Lines of this stream are missing before this one.
    LinesDropped {
        /// How many.
        count: u64,
    },
}

/// On whose word an operator's request was done. Only the address is known; the rest is what they say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Word {
    /// Where they called from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Who they say they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn short_if_any<S: Serializer>(session: &Option<SessionKey>, serializer: S) -> Result<S::Ok, S::Error> {
    match session {
        Some(session) => short(session, serializer),
        None => serializer.serialize_none(),
    }
}

fn short<S: Serializer>(session: &SessionKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&session.short())
}

fn readable<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Writes audit events. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    out: Arc<Out>,
}

struct Out {
    writer: Writer,
    style: Style,
    metrics: Arc<Metrics>,
    /// Lines that were not taken and of which the stream does not know yet.
    missing: AtomicU64,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

impl Audit {
    pub(super) fn new(writer: Writer, style: Style, metrics: Arc<Metrics>) -> Audit {
        Audit { out: Arc::new(Out { writer, style, metrics, missing: AtomicU64::new(0) }) }
    }

    /// Writes one event. Does not wait for the disk: it is written within moments, and before the process ends.
    pub fn record(&self, now: Timestamp, event: &Event) {
        let missing = self.out.missing.swap(0, Ordering::AcqRel);
        if missing > 0 && !self.push(now, &Event::LinesDropped { count: missing }) {
            self.out.missing.fetch_add(missing, Ordering::AcqRel);
        }
        if !self.push(now, event) {
            self.out.metrics.log_lines_dropped.inc(LogStream::Audit);
            if self.out.missing.fetch_add(1, Ordering::AcqRel) == 0 {
                tracing::error!("audit lines are being dropped; free the disk, or mend whoever reads them");
            }
        }
    }

    pub(super) fn flush(&self, patience: Duration) -> bool {
        self.out.writer.flush(patience)
    }

    fn push(&self, now: Timestamp, event: &Event) -> bool {
        with_buffer(|buffer| self.out.writer.push(event.write(buffer, self.out.style, now)).is_ok())
    }
}

impl Event {
    fn write<'b>(&self, buffer: &'b mut Vec<u8>, style: Style, now: Timestamp) -> &'b [u8] {
        let mut line = Line::begin(buffer, style, LogStream::Audit.as_str(), now);
        // through a Value, so that every text passes the one place that escapes; events are rare
        if let Ok(Value::Object(fields)) = serde_json::to_value(self) {
            if let Some(name) = fields.get("event").and_then(Value::as_str) {
                line.bare("event", name.as_bytes());
            }
            for (name, value) in fields.iter().filter(|(name, _)| *name != "event") {
                match value {
                    Value::String(text) => line.text(name, text.as_bytes()),
                    Value::Array(texts) => line.list(name, texts.iter().filter_map(Value::as_str)),
                    other => line.number(name, other.as_u64().unwrap_or_default()),
                }
            }
        }
        line.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use super::super::writer::{Conduct, OnError, Sink};
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// One of each event, with every field.
    pub(crate) fn samples() -> Vec<Event> {
        let account = AccountId::from_bytes([1; 16]);
        let session = SessionKey([2; 32]);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let request_id = "r-1".to_owned();
        let word = Word {
            client: Some(client),
            by: Some("olga".to_owned()),
            why: Some("a stolen laptop".to_owned()),
        };
        vec![
            Event::Started { version: "1.2.3".to_owned(), config: "aabb".to_owned() },
            Event::Stopped,
            Event::SignedIn {
                account,
                session,
                client,
                groups: vec!["my-team".to_owned(), "my-team/members".to_owned()],
                request_id: request_id.clone(),
            },
            Event::SignInFailed {
                outcome: SignInOutcome::NotInTeams,
                account: Some(account),
                client,
                request_id: request_id.clone(),
            },
            Event::SignedOut { account, session, client },
            Event::SessionsEnded { account: Some(account), reason: EndReason::GrantWithdrawn, count: 2 },
            Event::SessionsRevoked {
                scope: "account",
                account: Some(account),
                session: Some(session),
                group: Some("my-team".to_owned()),
                count: 2,
                word: word.clone(),
            },
            Event::KeysDistrusted { keys: vec!["k-1".to_owned()], word: word.clone() },
            Event::Denied {
                account,
                route: "wiki".to_owned(),
                host: "wiki.example.com".to_owned(),
                path: "/x\r\n\u{1b}[2J".to_owned(),
                reason: "in none of my-team".to_owned(),
                client,
                request_id,
            },
            Event::ConnectionEnded {
                account,
                session,
                route: "wiki".to_owned(),
                kind: OpenKind::WebSocket,
                reason: Ending::SignedOut,
                open_seconds: 90,
                client,
                request_id: "r-2".to_owned(),
            },
            Event::MembershipChanged {
                account,
                lost: vec!["ops".to_owned()],
                gained: vec![],
                as_of: Timestamp::from_unix_seconds(1_795_508_523),
            },
            Event::SlugChanged {
                slug: "ops".to_owned(),
                pinned: TeamId::from_bytes([3; 16]),
                found: TeamId::from_bytes([4; 16]),
            },
            Event::SlugAccepted {
                slug: "ops".to_owned(),
                pinned: Some(TeamId::from_bytes([3; 16])),
                found: TeamId::from_bytes([4; 16]),
                word: word.clone(),
            },
            Event::SlugForgotten { slug: "ops".to_owned(), pinned: TeamId::from_bytes([3; 16]), word },
            Event::KeysRotated { purpose: "assertion", key: "k-2".to_owned() },
            Event::CertificateReloaded { certificate: "tls.crt".to_owned(), sha256: "aabb".to_owned() },
            Event::LinesDropped { count: 3 },
        ]
    }

    /// The line of `event`.
    pub(crate) fn json(event: &Event) -> String {
        written(event, Style::Json)
    }

    fn written(event: &Event, style: Style) -> String {
        let line = event.write(&mut Vec::new(), style, Timestamp::from_unix_millis(0)).to_vec();
        String::from_utf8_lossy(&line).into_owned()
    }

    #[test]
    fn every_event_is_one_line_that_says_which_it_is() -> Result<(), serde_json::Error> {
        for event in samples() {
            let line = written(&event, Style::Json);
            assert!(line.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{line}");
            let value: Value = serde_json::from_str(&line)?;
            assert_eq!(value["stream"], "audit");
            let mut fields = serde_json::to_value(&event)?;
            if let (Some(fields), Some(line)) = (fields.as_object_mut(), value.as_object()) {
                fields.insert("stream".to_owned(), value["stream"].clone());
                fields.insert("time".to_owned(), value["time"].clone());
                assert_eq!(line, fields, "nothing is lost on the way");
            }
            let text = written(&event, Style::Text);
            assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{text}");
        }
        Ok(())
    }

    #[test]
    fn ids_are_short_or_bare_and_times_readable() {
        let lines: String = samples().iter().map(|event| written(event, Style::Json)).collect();
        for expected in [
            r#""session":"0202020202020202""#,
            r#""account":"01010101-0101-0101-0101-010101010101""#,
            r#""as_of":"2026-11-24T08:22:03Z""#,
            r#""reason":"grant_withdrawn""#,
            r#""outcome":"not_in_teams""#,
        ] {
            assert!(lines.contains(expected), "{expected} in\n{lines}");
        }
        let full_id = "02".repeat(32);
        assert!(!lines.contains(&full_id));
    }

    #[test]
    fn a_gap_in_the_stream_is_told_by_the_stream() -> Result<(), Box<dyn std::error::Error>> {
        let metrics = Arc::new(Metrics::new("", "")?);
        let (go, gate) = mpsc::channel::<()>();
        let (out, came) = mpsc::channel();
        let (entered, inside) = mpsc::channel();
        let sink: Sink = Box::new(move |lines| {
            let _ = entered.send(());
            let _ = gate.recv();
            let _ = out.send(std::mem::take(lines));
            Ok(())
        });
        let stopped = written(&Event::Stopped, Style::Json);
        let conduct = Conduct {
            name: "test",
            capacity: stopped.len() * 3,
            linger: Duration::ZERO,
            on_error: OnError::Retry(Duration::ZERO),
        };
        let writer = Writer::start(conduct, sink, |_| {})?;
        let audit = Audit::new(writer, Style::Json, Arc::clone(&metrics));
        let now = Timestamp::from_unix_millis(0);
        audit.record(now, &Event::Stopped);
        inside.recv_timeout(SOON)?;
        for _ in 0..5 {
            audit.record(now, &Event::Stopped);
        }
        assert_eq!(metrics.log_lines_dropped.of(LogStream::Audit).get(), 2);
        drop(go);
        assert!(audit.flush(SOON));
        audit.record(now, &Event::Stopped);
        assert!(audit.flush(SOON));
        let all: Vec<u8> = came.try_iter().flatten().collect();
        let all = String::from_utf8_lossy(&all).into_owned();
        let gap = all.lines().position(|line| line.contains(r#""event":"lines_dropped","count":2"#));
        assert_eq!(gap, Some(4), "{all}");
        assert_eq!(all.lines().count(), 6, "{all}");
        Ok(())
    }
}
