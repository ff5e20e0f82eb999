//! The page `docs/metrics.md`, from the table of metrics.
//!
//! Owns: [`Row`], the wording around the table. Must not know: any single metric.

use std::fmt::Write;

use super::table::Unit;

/// A line of the table of metrics.
#[derive(Debug)]
pub(super) enum Row {
    /// What follows belongs together.
    Section(&'static str),
    /// One metric family.
    Metric {
        name: &'static str,
        kind: &'static str,
        labels: Vec<(&'static str, String)>,
        unit: Unit,
        help: &'static str,
        watch: &'static str,
    },
}

const INTRODUCTION: &str = "\
<!-- Generated from the code. Do not edit: TEAMGATE_WRITE_DOCS=1 cargo test --test metrics_reference -->

# Metrics

`GET /metrics` on the admin address (`admin.address`), in Prometheus' text format. Names and labels of this page are
stable within a major version. Label values come from the configuration or from the fixed lists below, never from a
client. Counters with fixed labels begin at zero. Combinations of `decision` and `status` that a route does not
usually give appear when they first happen.
";

/// Renders the page.
pub(super) fn render(rows: &[Row]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for row in rows {
        match row {
            Row::Section(title) => {
                page.push_str("\n## ");
                page.push_str(title);
                page.push_str("\n\n| name | type | labels | unit | meaning | watch it because |\n");
                page.push_str("|---|---|---|---|---|---|\n");
            }
            Row::Metric { name, kind, labels, unit, help, watch } => {
                let labels: Vec<String> =
                    labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
                let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("<br>") };
                let unit = match unit {
                    Unit::None => "–",
                    Unit::Seconds => "seconds",
                    Unit::Bytes => "bytes",
                };
                // writing into a String cannot fail
                let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {unit} | {help} | {watch} |");
            }
        }
    }
    page
}
