//! `docs/metrics.md` is what the code says, and every metric keeps Prometheus' conventions.

use std::error::Error;
use std::fs;

use teamgate::telemetry::labels::UpstreamFault;
use teamgate::telemetry::metrics::{Metrics, reference};

type Outcome = Result<(), Box<dyn Error>>;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

#[test]
fn the_page_is_what_the_code_says() -> Outcome {
    let current = reference()?;
    if std::env::var_os("TEAMGATE_WRITE_DOCS").is_some() {
        fs::write(PAGE, &current)?;
    }
    let written = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == current,
        "docs/metrics.md is not current. To write it again:\n\n    \
         TEAMGATE_WRITE_DOCS=1 cargo test --test metrics_reference\n"
    );
    Ok(())
}

#[test]
fn every_registered_metric_is_on_the_page_with_its_type_and_labels() -> Outcome {
    let page = reference()?;
    let metrics = Metrics::new("1", "c")?;
    metrics.config_in_force("h", 1);
    metrics.certificate_ends("tls.crt", teamgate::clock::Timestamp::from_unix_seconds(1));
    metrics.certificate_in_trouble("tls.crt", false);
    metrics.for_upstream("http://app").failed(UpstreamFault::Closed);
    metrics.upstreams_healthy([("http://app", 1)].into_iter());
    let scrape = metrics.render()?;
    let mut seen = 0;
    for (name, kind) in families(&scrape) {
        seen += 1;
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` | {kind} |")))
            .ok_or_else(|| format!("{name} ({kind}) is not on the page"))?;
        for label in labels(&scrape, name) {
            assert!(row.contains(&format!("`{label}`:")), "{name} has a label {label} that the page lacks");
        }
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, seen, "the page has rows for metrics that are not scraped");
    Ok(())
}

#[test]
fn every_name_keeps_the_conventions() -> Outcome {
    let page = reference()?;
    let metrics = Metrics::new("1", "c")?;
    metrics.config_in_force("h", 1);
    metrics.certificate_ends("tls.crt", teamgate::clock::Timestamp::from_unix_seconds(1));
    metrics.certificate_in_trouble("tls.crt", false);
    metrics.for_upstream("http://app").failed(UpstreamFault::Closed);
    metrics.upstreams_healthy([("http://app", 1)].into_iter());
    for (name, kind) in families(&metrics.render()?) {
        assert!(name.starts_with("teamgate_") || name.starts_with("process_"), "{name}: whose is it?");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}: lower case and _ only");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name}: counters, and only they, end in _total"
        );
        for foreign in ["_ms", "_millis", "_micros", "_kb", "_mib", "_percent", "_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(foreign), "{name}: base units, and no reserved endings");
        }
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` "))).ok_or(name)?;
        let stem = name.trim_end_matches("_total");
        for (unit, ending) in [("seconds", "_seconds"), ("bytes", "_bytes"), ("ratio", "_ratio")] {
            let has_unit = row.contains(&format!(" | {unit} | "));
            assert_eq!(has_unit, stem.ends_with(ending), "{name}: its unit and its ending differ");
        }
        assert!(kind != "histogram" || stem.ends_with("_seconds"), "{name}: histograms here measure time");
    }
    Ok(())
}

/// Name and type of each family of a scrape.
fn families(scrape: &str) -> impl Iterator<Item = (&str, &str)> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
}

/// The labels that the series of a family have, apart from a histogram's own.
fn labels<'a>(scrape: &'a str, family: &str) -> Vec<&'a str> {
    scrape
        .lines()
        .filter_map(|line| {
            let (series, rest) = line.strip_prefix(family)?.split_once('{')?;
            matches!(series, "" | "_bucket" | "_sum" | "_count").then_some(rest)
        })
        .flat_map(|rest| rest.split_once('}').map_or("", |(labels, _)| labels).split("\","))
        .filter_map(|pair| pair.split_once('=').map(|(label, _)| label))
        .filter(|label| *label != "le")
        .collect()
}
