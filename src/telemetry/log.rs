//! Diagnostics: what the gateway has to say about itself, one line each, to standard error.
//!
//! Owns: the subscriber of `tracing` events and of the `log` crate's, which of them are heard, their spelling.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::line::{Line, Style, with_buffer};
use crate::clock::Clock;

/// Parts of Pingora that put what clients sent into their messages, whatever the level: the request line with
/// its query (in which codes travel), and on a parse error the raw header bytes (in which cookies do). The
/// access line tells the same failures with the path only. And the client of Redis, which tells of each attempt to
/// connect, many a second: the store says it once a minute.
const MUTED: [&str; 3] = ["pingora_proxy", "pingora_core::apps", "redis"];

/// Whose messages follow the configured level. Everybody else is heard from `warn` on: HTTP libraries print
/// headers and bodies at `debug`, which nobody who wants to debug the gateway has asked for.
const OURS: [&str; 2] = ["teamgate", "bitbucket_sim"];

/// Starts diagnostics. There is one for the process: a second start changes nothing.
pub(super) fn start(style: Style, level: Level) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let lines = ToStderr { style, clock: Clock::system() };
        // somebody else's subscriber (a test's) is as good
        let _ = tracing_subscriber::registry().with(heard(level)).with(lines).try_init();
    });
}

/// Reports panics as log lines, with their place and without their message: what a slice or a map prints when
/// it panics is what it holds. For the server only; tests want the message.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("?"), "a task panicked; please report this");
    }));
}

fn heard(level: Level) -> Targets {
    let others = LevelFilter::from_level(level).min(LevelFilter::WARN);
    let targets = Targets::new().with_default(others);
    let targets = OURS.iter().fold(targets, |targets, ours| targets.with_target(*ours, level));
    MUTED.iter().fold(targets, |targets, muted| targets.with_target(*muted, LevelFilter::OFF))
}

struct ToStderr {
    style: Style,
    clock: Clock,
}

impl<S: Subscriber> Layer<S> for ToStderr {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        with_buffer(|buffer| {
            // where this cannot be written there is nobody left to tell
            let _ = io::stderr().lock().write_all(write(event, buffer, self.style, &self.clock));
        });
    }
}

fn write<'b>(event: &Event<'_>, buffer: &'b mut Vec<u8>, style: Style, clock: &Clock) -> &'b [u8] {
    let mut line = Line::begin(buffer, style, "log", clock.now());
    line.bare("level", level_name(*event.metadata().level()).as_bytes());
    let mut fields = Fields { line, origin: None };
    event.record(&mut fields);
    let Fields { mut line, origin } = fields;
    let target = origin.as_deref().unwrap_or(event.metadata().target());
    line.text("target", target.as_bytes());
    line.end()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Writes the fields of an event as they come.
struct Fields<'a> {
    line: Line<'a>,
    /// Where an event of the `log` crate is from: it says so in fields of its own.
    origin: Option<String>,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.line.sentence("message", value.as_bytes()),
            "log.target" => self.origin = Some(value.to_owned()),
            "log.module_path" | "log.file" => {}
            name => self.line.text(&spelt(name), value.as_bytes()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.line.sentence("message", format!("{value:?}").as_bytes()),
            name => self.line.display(&spelt(name), format_args!("{value:?}")),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.line.display(&spelt(field.name()), Chain(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() != "log.line" {
            self.line.number(&spelt(field.name()), value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.line.number(&spelt(field.name()), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.line.number(&spelt(field.name()), value);
    }
}

/// The name of a field, kept apart from the names that every line has.
fn spelt(name: &str) -> Cow<'_, str> {
    match name {
        "stream" | "time" | "level" | "target" => Cow::Owned(format!("field.{name}")),
        name => Cow::Borrowed(name),
    }
}

/// An error and its causes, from the outermost inwards.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::Value;
    use tracing::Level;

    use super::*;
    use crate::clock::Timestamp;

    /// Collects lines instead of printing them.
    struct Collect(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let clock = Clock::manual(Timestamp::from_unix_millis(0));
            let line =
                String::from_utf8_lossy(write(event, &mut Vec::new(), Style::Json, &clock)).into_owned();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn lines_of(say: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber =
            tracing_subscriber::registry().with(heard(Level::INFO)).with(Collect(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, say);
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }

    /// What must never be printed is not printed at any level, nor is anybody's debugging but ours.
    #[test]
    fn targets_that_print_what_clients_sent_are_not_heard() {
        for (target, level, verbosity, expected) in [
            ("teamgate::gate", Level::INFO, Level::INFO, true),
            ("teamgate::gate", Level::DEBUG, Level::INFO, false),
            ("teamgate::gate", Level::TRACE, Level::TRACE, true),
            ("pingora_proxy", Level::ERROR, Level::TRACE, false),
            ("pingora_proxy::proxy_h1", Level::ERROR, Level::TRACE, false),
            ("pingora_core::apps::http_app", Level::ERROR, Level::TRACE, false),
            ("pingora_core::services::listening", Level::ERROR, Level::INFO, true),
            ("pingora_core::protocols::http::v1::server", Level::DEBUG, Level::TRACE, false),
            ("hyper::proto", Level::DEBUG, Level::TRACE, false),
            ("h2", Level::WARN, Level::INFO, true),
            ("h2", Level::WARN, Level::ERROR, false),
        ] {
            assert_eq!(
                heard(verbosity).would_enable(target, &level),
                expected,
                "{target} {level} {verbosity}"
            );
        }
    }

    #[test]
    fn an_event_is_one_line_with_its_message_and_fields() -> Result<(), serde_json::Error> {
        let inner = io::Error::other("disk\r\nfull");
        let outer: Box<dyn Error> =
            Box::new(crate::telemetry::Error::AuditFile { path: "audit.log".into(), source: inner });
        let lines = lines_of(|| {
            tracing::warn!(
                account.id = "x\u{1b}[2J",
                duration_ms = 12_u64,
                ok = false,
                left = -1_i64,
                time = "field",
                shown = ?"a\"b",
                error = &*outer,
                "line one\nline two {}",
                "\u{9b}",
            );
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].trim_end_matches('\n').chars().all(|c| !c.is_control()), "{}", lines[0]);
        let value: Value = serde_json::from_str(&lines[0])?;
        for (field, expected) in [
            ("stream", Value::from("log")),
            ("time", Value::from("1970-01-01T00:00:00.000Z")),
            ("level", Value::from("warn")),
            ("message", Value::from("line one\nline two \u{9b}")),
            ("account.id", Value::from("x\u{1b}[2J")),
            ("duration_ms", Value::from(12)),
            ("ok", Value::from(false)),
            ("left", Value::from(-1)),
            ("field.time", Value::from("field")),
            ("shown", Value::from("\"a\\\"b\"")),
            ("error", Value::from("the audit file audit.log cannot be opened: disk\r\nfull")),
            ("target", Value::from("teamgate::telemetry::log::tests")),
        ] {
            assert_eq!(value[field], expected, "{field}");
        }
        Ok(())
    }
}
