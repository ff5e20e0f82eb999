//! What the gateway tells those who run it: metrics, diagnostics, a line for each request, an audit trail.
//!
//! Owns: [`Telemetry`], [`Settings`], where each stream goes. Must not know: what is worth telling.
//!
//! | stream | to | written |
//! |---|---|---|
//! | `log` | standard error | at once |
//! | `access` | standard output | by a thread; dropped and counted when nobody reads |
//! | `audit` | standard output, or a file of its own | by a thread; never dropped silently |

pub mod access;
pub mod audit;
pub mod labels;
mod line;
pub mod log;
pub mod metrics;
mod process;
mod reference;
pub mod repeats;
pub mod table;
mod writer;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::access::Access;
use self::audit::Audit;
use self::labels::LogStream;
use self::line::Style;
use self::metrics::Metrics;
use self::repeats::Repeats;
use self::writer::{AppendFile, Conduct, OnError, Sink, Writer};
use crate::clock::Timestamp;

/// The version that was built.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, if whoever built it set `TEAMGATE_COMMIT`.
pub const COMMIT: &str = match option_env!("TEAMGATE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What is told, how, and to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How lines look. Default [`Format::Auto`].
    pub format: Format,
    /// From which level on the gateway's own diagnostics are heard. Default `info`. Libraries are heard from
    /// `warn` on, or less.
    pub level: tracing::Level,
    /// Whether there is a line for each request. Default on.
    pub access: Switch,
    /// A file of its own for the audit trail, always JSON. Default: standard output, with the access lines.
    pub audit_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { format: Format::Auto, level: tracing::Level::INFO, access: Switch::On, audit_file: None }
    }
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Text where a person reads along, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// Words, for eyes.
    Text,
}

impl Format {
    fn style(self, stream: &impl IsTerminal) -> Style {
        match self {
            Format::Text => Style::Text,
            Format::Json => Style::Json,
            Format::Auto if stream.is_terminal() => Style::Text,
            Format::Auto => Style::Json,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's choice of file does not work.
    #[error("the audit file {} cannot be opened", path.display())]
    AuditFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system gave no thread to write lines with.
    #[error("no thread can be started for the {} log", stream.as_str())]
    Thread {
        /// Which stream.
        stream: LogStream,
        /// Why.
        source: io::Error,
    },
    /// A metric is defined wrongly.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
}

/// Everything through which the gateway tells something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub access: Access,
    /// The audit log.
    pub audit: Audit,
    /// Which warnings were said lately.
    pub repeats: Arc<Repeats>,
}

/// Bytes of either stream that may wait: some ten thousand lines.
const CAPACITY: usize = 4 * 1024 * 1024;

/// Access lines gather this long, so that a busy gateway makes 50 writes a second instead of thousands.
const GATHER: Duration = Duration::from_millis(20);

/// How long audit lines that could not be written wait for the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// How long [`Telemetry::flush`] waits for each stream: a reader that stands still must not keep the process.
const PATIENCE: Duration = Duration::from_secs(5);

impl Telemetry {
    /// Starts telling. Diagnostics are started once for the process, with the settings of the first call;
    /// everything else is each caller's own.
    ///
    /// # Errors
    ///
    /// [`Error::AuditFile`] when the operator named a file that cannot be opened; the others are not the
    /// operator's.
    pub fn start(settings: &Settings) -> Result<Telemetry, Error> {
        let metrics = Arc::new(Metrics::new(VERSION, COMMIT)?);
        log::start(settings.format.style(&io::stderr()), settings.level);
        let style = settings.format.style(&io::stdout());
        let access = match settings.access {
            Switch::Off => Access::off(),
            Switch::On => {
                let writer = writer(LogStream::Access, GATHER, OnError::Drop, writer::stdout(), &metrics)?;
                Access::on(writer, style, Arc::clone(&metrics))
            }
        };
        let (sink, style) = match &settings.audit_file {
            None => (writer::stdout(), style),
            Some(path) => {
                let file = AppendFile::open(path)
                    .map_err(|source| Error::AuditFile { path: path.clone(), source })?;
                (file.into_sink(), Style::Json)
            }
        };
        let writer = writer(LogStream::Audit, Duration::ZERO, OnError::Retry(RETRY), sink, &metrics)?;
        let audit = Audit::new(writer, style, Arc::clone(&metrics));
        Ok(Telemetry { metrics, access, audit, repeats: Arc::default() })
    }

    /// Says which repeated warnings were suppressed and have stopped. Call it once a minute.
    pub fn summarise_repeats(&self, now: Timestamp) {
        for (warning, suppressed) in self.repeats.summaries(now) {
            tracing::warn!(warning, suppressed, "a warning was repeated, and not printed each time");
        }
    }

    /// Warns of a fault that may repeat: the first time in a minute it is printed, after that it is counted.
    pub fn warn_limited(&self, key: &'static str, now: Timestamp, error: &dyn std::error::Error) {
        if self.repeats.warn_limited(key, now).is_some() {
            tracing::warn!(fault = key, "{error}");
        }
    }

    /// Writes what waits, for up to ten seconds. Call it last, from a thread that may wait.
    pub fn flush(&self) {
        let audit = self.audit.flush(PATIENCE);
        let access = self.access.flush(PATIENCE);
        if !(audit && access) {
            tracing::error!(audit, access, "log lines could not be written before the end");
        }
    }
}

fn writer(
    stream: LogStream,
    linger: Duration,
    on_error: OnError,
    sink: Sink,
    metrics: &Arc<Metrics>,
) -> Result<Writer, Error> {
    let name = stream.as_str();
    let counted = Arc::clone(metrics);
    let lost = move |lines| counted.log_lines_dropped.of(stream).inc_by(lines);
    Writer::start(Conduct { name, capacity: CAPACITY, linger, on_error }, sink, lost)
        .map_err(|source| Error::Thread { stream, source })
}

#[cfg(test)]
impl Telemetry {
    /// For tests of other modules: tells nobody, counts everything.
    pub(crate) fn unheard() -> Result<Telemetry, Error> {
        let metrics = Arc::new(Metrics::new(VERSION, COMMIT)?);
        let sink: Sink = Box::new(|lines| {
            lines.clear();
            Ok(())
        });
        let writer = writer(LogStream::Audit, Duration::ZERO, OnError::Drop, sink, &metrics)?;
        let audit = Audit::new(writer, Style::Json, Arc::clone(&metrics));
        Ok(Telemetry { metrics, access: Access::off(), audit, repeats: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use serde_json::Value;

    use super::audit::Event;
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn it_starts_twice_and_each_has_its_own_audit_file_and_metrics() -> Outcome {
        let folder = tempfile::tempdir()?;
        for name in ["a", "b"] {
            let path = folder.path().join(name);
            let settings = Settings {
                format: Format::Json,
                access: Switch::Off,
                audit_file: Some(path.clone()),
                ..Settings::default()
            };
            let telemetry = Telemetry::start(&settings)?;
            telemetry.audit.clone().record(Timestamp::from_unix_millis(0), &Event::Stopped);
            telemetry.access.record(&access::tests::sample());
            telemetry.metrics.sign_in_starts.inc();
            telemetry.flush();
            assert_eq!(
                fs::read_to_string(&path)?,
                "{\"stream\":\"audit\",\"time\":\"1970-01-01T00:00:00.000Z\",\"event\":\"stopped\"}\n"
            );
            assert_eq!(telemetry.metrics.sign_in_starts.get(), 1);
        }
        Ok(())
    }

    #[test]
    fn an_audit_file_that_cannot_be_opened_is_an_error_that_names_it() {
        let settings = Settings { audit_file: Some("/nowhere/audit.log".into()), ..Settings::default() };
        let error = Telemetry::start(&settings).map_err(|error| error.to_string()).err();
        assert_eq!(error.as_deref(), Some("the audit file /nowhere/audit.log cannot be opened"));
    }

    /// `docs/logs.md` names, as the first cell of a row, every field and every event.
    #[test]
    fn every_field_and_event_is_documented() -> Outcome {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logs.md"))?;
        let rows: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let refused = access::Entry {
            reason: Some("in none of my-team"),
            upstream_error: Some("connect"),
            ..access::tests::sample()
        };
        let events = audit::tests::samples();
        let lines = [access::tests::sample(), refused].iter().map(access::tests::json).collect::<Vec<_>>();
        for line in lines.into_iter().chain(events.iter().map(audit::tests::json)) {
            let value: Value = serde_json::from_str(&line)?;
            for field in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
                assert!(rows.contains(field.as_str()), "docs/logs.md lacks the field {field}");
            }
            if let Some(event) = value["event"].as_str() {
                assert!(rows.contains(event), "docs/logs.md lacks the event {event}");
            }
        }
        for always in ["level", "message", "target"] {
            assert!(rows.contains(always), "docs/logs.md lacks the field {always}");
        }
        Ok(())
    }
}
