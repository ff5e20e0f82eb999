//! `teamgate doctor`: whether everything that the configuration needs of Bitbucket is as it should be.
//!
//! Owns: its arguments, the report as text, what is asked where no gateway runs. Must not know: what makes a finding.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::admin::{Admin, plain};
use super::sessions::table;
use super::{Failure, load_quietly, say};
use crate::bitbucket::Bitbucket;
use crate::bitbucket::observed::Observer;
use crate::clock::Clock;
use crate::directory::checkup;
use crate::directory::doctor::{Needs, Report};

#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    admin: Admin,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// # Errors
    ///
    /// Something is wrong; the report has been printed.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let report = match self.admin.gateway() {
            Ok(gateway) if self.admin.is_told() || gateway.is_there() => {
                let mut report = gateway.ask("GET", "/api/doctor", &[], "findings")?;
                report["gateway"] = json!(gateway.place());
                report
            }
            Err(failure) if self.admin.is_told() => return Err(failure),
            _ => alone(&self.admin)?,
        };
        say(&if self.json { format!("{report}\n") } else { text(&report) })?;
        match report["healthy"] == true {
            true => Ok(()),
            false => Err(Failure::Told(ExitCode::from(1))),
        }
    }
}

/// Without a gateway: what can be asked without anybody's token.
fn alone(admin: &Admin) -> Result<Value, Failure> {
    let compiled = load_quietly(admin.file())?;
    let clock = Clock::system();
    let observer = Arc::new(Observer::new(clock.clone()));
    let running = |error: &dyn std::fmt::Display| Failure::Running(error.to_string());
    let needs = Needs::new(
        compiled.directory.teams.as_deref(),
        &compiled.directory.asked,
        compiled.bitbucket.redirect_uri.as_str(),
    );
    let bitbucket = Bitbucket::new(compiled.bitbucket, observer.clone()).map_err(|error| running(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| running(&error))?.block_on(checkup::ask(
        &bitbucket,
        &needs,
        &needs.endpoints,
        None,
    ));
    let mut report = json!(Report::new(&observer.observations(), &needs, clock.now()));
    report["gateway"] = Value::Null;
    Ok(report)
}

fn text(report: &Value) -> String {
    let word = |value: &Value, name: &str| value[name].as_str().map_or("–".to_owned(), plain);
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let words = |name: &str| {
        let words: Vec<String> = list(name).iter().filter_map(Value::as_str).map(plain).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    };
    let mut text = match report["gateway"].as_str() {
        Some(place) => format!("Bitbucket, as the gateway at {place} sees it at {}.\n\n", word(report, "at")),
        None => format!(
            "No gateway runs at the admin address: this is what can be seen without one, and without anybody's token, \
             at {}.\n\n",
            word(report, "at")
        ),
    };
    let rows = list("endpoints").into_iter().map(|known| {
        ["place", "endpoint", "scope", "last", "heard_at", "good_at"].map(|name| word(&known, name))
    });
    text.push_str(&table(
        ["ENDPOINT", "CALL", "SCOPE", "LAST ANSWER", "AT", "LAST GOOD ONE"],
        rows.collect(),
    ));
    let granted = match report["scopes_granted"].is_array() {
        true => words("scopes_granted"),
        false => "not said yet".to_owned(),
    };
    let skew = match report["clock_skew_seconds"].as_f64() {
        None => "not compared yet".to_owned(),
        Some(seconds) if seconds.abs() < 1.0 => "as Bitbucket's".to_owned(),
        Some(seconds) if seconds > 0.0 => format!("{seconds:.0} s behind Bitbucket's"),
        Some(seconds) => format!("{:.0} s ahead of Bitbucket's", -seconds),
    };
    text.push_str(&format!(
        "\nScopes: {} needed, {granted} granted.\nClock: {skew}.\nRedirect URI: {}\n\n",
        words("scopes_needed"),
        word(report, "redirect_uri")
    ));
    let findings = list("findings");
    for finding in &findings {
        let [severity, kind, place] = ["severity", "kind", "place"].map(|name| word(finding, name));
        let [fault, cure] = ["fault", "cure"].map(|name| word(finding, name));
        text.push_str(&format!("{severity} ({kind}), {place}: {fault}\n  {cure}\n"));
    }
    if findings.is_empty() {
        text.push_str("Nothing is wrong, as far as this can be seen.\n");
    }
    text
}
