//! `teamgate keys`: the keys of a secret file, which seal what is kept and recognise cookies, and those that sign
//! assertions.
//!
//! Owns: its arguments and sentences. Must not know: what a key looks like.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin::Admin;
use super::sessions::{operator, table};
use super::{Failure, say};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::keys::Keyring;

#[derive(Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a secret file with one key
    Generate {
        /// The file; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Name the keys of a running gateway, and what still needs the older ones
    List(List),
    /// Put a new key on top of a secret file: it seals, the others go on opening
    Rotate(Rotate),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    admin: Admin,
    /// Only what stands in this secret file, without asking a gateway
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Rotate {
    #[command(flatten)]
    admin: Admin,
    /// The secret file
    #[arg(long, value_name = "FILE", default_value = "teamgate.secret", conflicts_with = "signing")]
    file: PathBuf,
    /// Not the secret file: have the running gateway make a new key that signs assertions, an hour after it is
    /// published
    #[arg(long)]
    signing: bool,
    /// At once, and the old keys are gone: for when one may be in other hands. Apps refuse what they are sent
    /// until they have fetched the new key
    #[arg(long, requires = "signing")]
    now: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "SENTENCE", requires = "signing")]
    why: Option<String>,
}

impl Keys {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Generate { out } => {
                let now = Clock::system().now();
                Keyring::generate_file(out, &Entropy::system(), now).map_err(unusable)?;
                say(&format!("{}: one new key\n", out.display()))
            }
            Command::List(List { file: Some(file), json, .. }) => list_file(file, *json),
            Command::List(List { admin, json, .. }) => list_running(admin, *json),
            Command::Rotate(rotate) if rotate.signing => rotate.signing_keys(),
            Command::Rotate(Rotate { file, .. }) => {
                Keyring::add_key(file, &Entropy::system(), Clock::system().now()).map_err(unusable)?;
                say(&format!(
                    "{}: a new key on top. A running gateway takes it within seconds, and everything stored is sealed \
                     anew; with several replicas, give the file to all of them. `teamgate keys list` says when the \
                     older keys may go\n",
                    file.display()
                ))
            }
        }
    }
}

fn unusable(error: crate::keys::secret_file::Error) -> Failure {
    Failure::Input(error.to_string())
}

fn list_file(file: &Path, json: bool) -> Result<(), Failure> {
    let keys = Keyring::load(file).map_err(unusable)?.keys();
    if json {
        let keys: Vec<Value> = (keys.iter().enumerate())
            .map(|(place, key)| {
                json!({
                    "id": key.id.to_string(),
                    "made_at": key.made_at.map(|at| at.to_string()),
                    "seals": place == 0,
                })
            })
            .collect();
        return say(&format!("{}\n", json!({ "secret": keys })));
    }
    let rows = keys.iter().enumerate().map(|(place, key)| {
        let made = key.made_at.map_or("–".to_owned(), |at| at.to_string());
        [key.id.to_string(), made, does(place == 0).to_owned()]
    });
    say(&table(["KEY", "MADE", "DOES"], rows.collect()))
}

fn does(seals: bool) -> &'static str {
    if seals { "seals and opens" } else { "opens" }
}

fn list_running(admin: &Admin, json: bool) -> Result<(), Failure> {
    let keys = admin.gateway()?.ask("GET", "/api/keys", &[], "secret")?;
    if json {
        return say(&format!("{keys}\n"));
    }
    let text = |key: &Value, name: &str| key[name].as_str().unwrap_or("–").to_owned();
    let list = |name: &str| keys[name].as_array().cloned().unwrap_or_default();
    let secret = list("secret");
    let rows = secret.iter().map(|key| {
        let seals = key["seals"] == true;
        [text(key, "id"), text(key, "made_at"), does(seals).to_owned(), needed_by(key)]
    });
    say(&table(["KEY", "MADE", "DOES", "NEEDED BY"], rows.collect()))?;
    for key in secret.iter().filter(|key| key["may_go"] == true) {
        let id = text(key, "id");
        say(&format!("Nothing needs {id} any more: its line may leave the secret file.\n"))?;
    }
    if keys["secret_file_refused"] == true {
        say(
            "The secret file has changed and is not good; these keys are those of before. The log says why.\n",
        )?;
    }
    let rows = list("signing").into_iter().map(|key| {
        let from = if key["signs"] == true { "signs".to_owned() } else { text(&key, "signs_from") };
        [text(&key, "id"), text(&key, "made_at"), text(&key, "algorithm"), from]
    });
    say(&format!("\n{}", table(["SIGNING KEY", "MADE", "ALGORITHM", "SIGNS FROM"], rows.collect())))
}

fn needed_by(key: &Value) -> String {
    let count = |name: &str, one: &str, several: &str| match key[name].as_u64().unwrap_or(0) {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {several}")),
    };
    let all: Vec<String> = [count("records", "record", "records"), count("sessions", "session", "sessions")]
        .into_iter()
        .flatten()
        .collect();
    if all.is_empty() { "–".to_owned() } else { all.join(", ") }
}

impl Rotate {
    fn signing_keys(&self) -> Result<(), Failure> {
        let by = operator();
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(self.now.then_some(("now", "true")));
        query.extend(by.as_deref().map(|by| ("by", by)));
        query.extend(self.why.as_deref().map(|why| ("why", why)));
        let answer = self.admin.gateway()?.ask("POST", "/api/keys/signing", &query, "signs")?;
        let newest = &answer["newest"];
        let (id, from) = (newest["id"].as_str().unwrap_or("–"), newest["signs_from"].as_str().unwrap_or("–"));
        match self.now {
            true => say(&format!(
                "{id} signs from now on, and the keys before it are gone. Apps refuse assertions until they have fetched \
                 the JWKS again: those that keep it must be restarted, or asked to\n"
            )),
            false => say(&format!("{id} is published, and signs from {from}\n")),
        }
    }
}
