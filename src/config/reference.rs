//! The reference page of the configuration, written from the schema.
//!
//! Owns: [`reference()`]. `docs/configuration.md` is its output; a test keeps the file current.
//! Must not know: how a file is read.

use std::fmt::Write;

use serde_json::Value;

use super::compile::strip::BUILT_IN;
use super::document::{
    Admin, Assertion, Bitbucket, CertificateFiles, Condition, Directory, Document, Ejection, Files,
    HeaderEdits, HealthCheck, Hsts, Limits, Listen, Log, Redirect, Respond, Rewrite, Route, RouteGrace,
    RouteTimeouts, Session, Store, StripHeaders, Tls, UpstreamTimeouts, UpstreamTls, WeightedUpstream,
};
use super::refused::{REFUSED, Refused};
use super::schema::{choices, properties, resolve, schema};
use super::words;

/// One section: its key in the file, and its keys in the order of the document.
struct Section {
    /// As the heading says it; empty for the top of the file.
    title: &'static str,
    /// The name of the type in the schema; `None` is the document itself.
    definition: Option<&'static str>,
    /// The type's defaults as JSON: the schema sorts keys by name, this text has them as declared.
    order: Result<String, serde_json::Error>,
}

fn sections() -> [Section; 28] {
    fn section<T: Default + serde::Serialize>(
        title: &'static str,
        definition: Option<&'static str>,
    ) -> Section {
        Section { title, definition, order: serde_json::to_string(&T::default()) }
    }
    [
        section::<Document>("", None),
        section::<Listen>("listen[]", Some("Listen")),
        section::<Tls>("listen[].tls", Some("Tls")),
        section::<CertificateFiles>("listen[].tls.certificates[]", Some("CertificateFiles")),
        section::<Hsts>("listen[].hsts", Some("Hsts")),
        section::<Admin>("admin", Some("Admin")),
        section::<Bitbucket>("bitbucket", Some("Bitbucket")),
        section::<Directory>("directory", Some("Directory")),
        section::<Session>("session", Some("Session")),
        section::<Store>("store", Some("Store")),
        section::<Assertion>("assertion", Some("Assertion")),
        section::<Log>("log", Some("Log")),
        section::<StripHeaders>("strip_headers", Some("StripHeaders")),
        section::<UpstreamTimeouts>("upstream_timeouts", Some("UpstreamTimeouts")),
        section::<Limits>("limits", Some("Limits")),
        section::<Route>("routes[]", Some("Route")),
        section::<Redirect>("routes[].redirect", Some("Redirect")),
        section::<Respond>("routes[].respond", Some("Respond")),
        section::<Files>("routes[].static", Some("Files")),
        section::<Rewrite>("routes[].rewrite[]", Some("Rewrite")),
        section::<HeaderEdits>("routes[].request_headers and .response_headers", Some("HeaderEdits")),
        section::<RouteGrace>("routes[].outage_grace", Some("RouteGrace")),
        section::<WeightedUpstream>("routes[].upstreams[]", Some("WeightedUpstream")),
        section::<HealthCheck>("routes[].health_check", Some("HealthCheck")),
        section::<Ejection>("routes[].ejection", Some("Ejection")),
        section::<UpstreamTls>("routes[].upstream_tls", Some("UpstreamTls")),
        section::<RouteTimeouts>("routes[].upstream_timeouts", Some("RouteTimeouts")),
        section::<Condition>("routes[].allow[] and .deny[]", Some("Condition")),
    ]
}

/// The page, in Markdown. `example` is the text of a complete configuration.
///
/// # Errors
/// When a default cannot be written as JSON, which none of ours does.
pub fn reference(example: &str) -> Result<String, serde_json::Error> {
    let mut page = format!("{INTRODUCTION}\n```yaml\n{}\n```\n", example.trim_end());
    for section in sections() {
        let definition = section.definition.map_or(schema(), |name| &schema()["$defs"][name]);
        let order = section.order?;
        let place = |key: &str| order.find(&format!("\"{key}\":")).unwrap_or(usize::MAX);
        match section.title {
            "" => page.push_str("\n## The top of the file\n"),
            title => page.push_str(&format!("\n## `{title}`\n\n{}\n", paragraph(definition))),
        }
        page.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        let mut keys: Vec<(&String, &Value)> = properties(definition).into_iter().flatten().collect();
        keys.sort_by_key(|(key, _)| place(key));
        for (key, rule) in keys {
            let required =
                definition["required"].as_array().is_some_and(|list| list.iter().any(|r| r == key));
            row(&mut page, key, rule, required);
        }
    }
    page.push_str(STRIPPED);
    for name in BUILT_IN {
        let _ = writeln!(page, "- `{name}`");
    }
    page.push_str(REFUSED_KEYS);
    for Refused { path, word, message } in REFUSED {
        let key = match (path.strip_prefix('.'), word) {
            (Some(key), _) => format!("`{key}` in a condition"),
            (None, Some(word)) => format!("`{path}: {word}`"),
            (None, None) => format!("`{path}`"),
        };
        let _ = writeln!(page, "| {key} | {message} |");
    }
    Ok(page)
}

fn row(page: &mut String, key: &str, rule: &Value, required: bool) {
    let mut kind = match resolve(rule)["type"].as_str() {
        Some("object") if rule.get("$ref").is_some() => {
            let or_short = if resolve(rule).get("x-short").is_some() { " or text" } else { "" };
            format!("[mapping](#{}){or_short}", anchor(rule))
        }
        Some("object") => "mapping of text".to_owned(),
        _ => words::of_rule(rule),
    };
    if let (Some(low), Some(high)) = (rule["x-min"].as_str(), rule["x-max"].as_str()) {
        kind = format!("{kind}, {low} to {high}");
    }
    let default = match &rule["default"] {
        _ if required => "**required**".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Bool(word) => format!("`{word}`"),
        Value::Number(number) => format!("`{number}`"),
        _ => "–".to_owned(),
    };
    let mut meaning = paragraph(rule);
    for (word, description) in choices(rule).unwrap_or_default() {
        let _ = write!(meaning, "<br>`{word}`: {}", single_line(description));
    }
    let examples: Vec<String> = rule["examples"].as_array().into_iter().flatten().map(shown).collect();
    if !examples.is_empty() && choices(rule).is_none() && rule["default"].is_null() {
        let _ = write!(meaning, "<br>Example: {}", examples.join(", "));
    }
    for alias in rule["x-aliases"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = write!(meaning, "<br>Also: `{alias}`");
    }
    let _ = writeln!(page, "| `{key}` | {kind} | {default} | {meaning} |");
}

/// The heading of the section that describes what `rule` refers to, as links spell it.
fn anchor(rule: &Value) -> String {
    let definition = rule["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    let heading = sections().into_iter().find(|section| section.definition == definition);
    let title = heading.map(|section| section.title.replace(' ', "-")).unwrap_or_default();
    title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

fn shown(example: &Value) -> String {
    match example {
        Value::String(text) => format!("`{}`", words::quoted_if_needed(text)),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            format!("`{}`", entries.join(", "))
        }
        other => format!("`{other}`"),
    }
}

fn paragraph(rule: &Value) -> String {
    single_line(rule["description"].as_str().unwrap_or(""))
}

fn single_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

const INTRODUCTION: &str = "\
<!-- Generated from the code. Do not edit: TEAMGATE_WRITE_DOCS=1 cargo test --test config_reference -->

# Configuration

One YAML file, `teamgate.yaml` unless `--config` or `TEAMGATE_CONFIG` names another. `teamgate validate` reads it
and prints every problem at once, each with its line, its column and what to do about it. Nothing is ignored: an
unknown or repeated key is an error, and so is a key that this version does not support yet.

- **Variables.** `$NAME` and `${NAME}` in a value become the content of the environment variable; one that is not
  set is an error. `$$` is a dollar sign. What a variable contains is always text: it cannot add keys.
- **Durations** have a unit: `250ms`, `90s`, `15m`, `24h`, `30d`, or several: `1h30m`.
- **Sizes** count in powers of two: `512B`, `64KiB`, `10MiB`, `1GiB`.
- **Rates** are `5/s`, `20/m` or `900/h`: so many at once, and then one whenever its share of the time is over.
- **Quotes.** Values that begin with `{`, `*`, `@` and words like `no` or `12` that mean text need quotes; the
  problem says so where they are missing.
- **Paths** are relative to the folder of the file.
- **Editors** that know JSON Schema complete and check the file:
  `# yaml-language-server: $schema=docs/teamgate.schema.json` as its first line.

## An example
";

const STRIPPED: &str = "
## Headers that no app gets from outside

Some gateway or framework takes each of these for proof of who is asking, or for another request than the one that
was decided on. They are removed from every request, on public routes too, in any case and with `_` for `-`;
`strip_headers` adjusts the list. What teamgate sets itself is removed as well and cannot be kept.

";

const REFUSED_KEYS: &str = "
## Refused for now

These are known and refused, because a setting that does nothing is worse than an error.

| key | why, and what to do |
|---|---|
";
