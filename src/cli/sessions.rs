//! `teamgate sessions`: who is signed in at a running gateway, and ending that.
//!
//! Owns: its arguments, tables and sentences, the question before everybody is signed out.
//! Must not know: how sessions are found; it asks the admin address.

use std::io::{self, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin::{Admin, Gateway, plain};
use super::{Failure, say};
use crate::clock::{Clock, Timestamp};
use crate::pages::words;

#[derive(Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Who is signed in
    List(List),
    /// Everything about one session
    Show(Show),
    /// End sessions: they are over at the next request, and open connections with them
    Revoke(Revoke),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    admin: Admin,
    /// Of one account only: uuid, or nickname or e-mail address where nobody else has it
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Of a group only: `acme` or `acme/administrators`
    #[arg(long, value_name = "GROUP", conflicts_with = "account")]
    group: Option<String>,
    /// How many, at most
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Show {
    #[command(flatten)]
    admin: Admin,
    /// The session's id, as lists and logs have it
    #[arg(value_name = "ID")]
    id: String,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("whose").required(true))]
struct Revoke {
    #[command(flatten)]
    admin: Admin,
    /// One session, by its id
    #[arg(long, value_name = "ID", group = "whose")]
    id: Option<String>,
    /// Those of one account: uuid, or nickname or e-mail address where nobody else has it
    #[arg(long, value_name = "ACCOUNT", group = "whose")]
    account: Option<String>,
    /// Those of everybody in a group: `acme` or `acme/administrators`
    #[arg(long, value_name = "GROUP", group = "whose")]
    group: Option<String>,
    /// Everybody's
    #[arg(long, group = "whose")]
    all: bool,
    /// Do not ask before everybody is signed out
    #[arg(long)]
    yes: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "SENTENCE")]
    why: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Sessions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::List(list) => list.run(),
            Command::Show(show) => show.run(),
            Command::Revoke(revoke) => revoke.run(),
        }
    }
}

impl List {
    fn run(&self) -> Result<(), Failure> {
        let gateway = self.admin.gateway()?;
        let (mut found, mut after): (Vec<Value>, Option<String>) = (Vec::new(), None);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        loop {
            let page = self.page(&gateway, after.as_deref(), limit - found.len())?;
            found.extend(page["sessions"].as_array().cloned().unwrap_or_default());
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() || found.len() >= limit {
                break;
            }
        }
        if self.json {
            return say(&format!("{}\n", json!({ "sessions": found, "next": after })));
        }
        found.sort_by(|one, other| other["last_used_at"].as_str().cmp(&one["last_used_at"].as_str()));
        let now = Clock::system().now();
        let rows = found.iter().map(|session| {
            [
                text(session, "id"),
                person(session),
                ago(session, "begun_at", now),
                ago(session, "last_used_at", now),
                text(session, "address"),
                plain(&words::browser(session["user_agent"].as_str())),
            ]
        });
        say(&table(["ID", "WHO", "SIGNED IN", "LAST USED", "ADDRESS", "BROWSER"], rows.collect()))?;
        if after.is_some() {
            say(&format!("… and more; --limit shows more than {limit}\n"))?;
        }
        Ok(())
    }

    fn page(&self, gateway: &Gateway, after: Option<&str>, room: usize) -> Result<Value, Failure> {
        let limit = room.clamp(1, 500).to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(self.account.as_deref().map(|account| ("account", account)));
        query.extend(self.group.as_deref().map(|group| ("group", group)));
        query.extend(after.map(|after| ("after", after)));
        gateway.ask("GET", "/api/sessions", &query, "sessions")
    }
}

impl Show {
    fn run(&self) -> Result<(), Failure> {
        let session = self.admin.gateway()?.ask("GET", &path_of(&self.id)?, &[], "id")?;
        if self.json {
            return say(&format!("{session}\n"));
        }
        let now = Clock::system().now();
        let groups: Vec<String> =
            session["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(plain).collect();
        let moment = |name: &str| format!("{} ({})", ago(&session, name, now), text(&session, name));
        let expires = match session["expires_at"].as_str().and_then(Timestamp::parse) {
            Some(at) => words::ahead(now, at),
            None => "–".to_owned(),
        };
        let hosts: Vec<String> =
            session["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).map(plain).collect();
        let lines = [
            ("session", text(&session, "id")),
            ("who", person(&session)),
            ("account", text(&session, "account")),
            ("e-mail", text(&session, "email")),
            ("groups", if groups.is_empty() { "–".to_owned() } else { groups.join(", ") }),
            ("as of", moment("groups_as_of")),
            ("signed in", moment("begun_at")),
            ("last used", moment("last_used_at")),
            ("ends", format!("{expires}, if unused ({})", text(&session, "expires_at"))),
            ("address", text(&session, "address")),
            ("browser", text(&session, "user_agent")),
            ("handed to", if hosts.is_empty() { "–".to_owned() } else { hosts.join(", ") }),
        ];
        say(&lines.map(|(name, value)| format!("{name:<10} {value}\n")).concat())
    }
}

impl Revoke {
    fn run(&self) -> Result<(), Failure> {
        let gateway = self.admin.gateway()?;
        if self.all && !self.yes {
            confirm()?;
        }
        let by = operator();
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(by.as_deref().map(|by| ("by", by)));
        query.extend(self.why.as_deref().map(|why| ("why", why)));
        query.extend(self.account.as_deref().map(|account| ("account", account)));
        query.extend(self.group.as_deref().map(|group| ("group", group)));
        query.extend(self.all.then_some(("all", "true")));
        let path = match &self.id {
            Some(id) => path_of(id)?,
            None => "/api/sessions".to_owned(),
        };
        let ended = gateway.ask("DELETE", &path, &query, "sessions")?;
        if self.json {
            return say(&format!("{ended}\n"));
        }
        let count = |name: &str, one: &str, several: &str| match ended[name].as_u64().unwrap_or(0) {
            1 => format!("1 {one}"),
            count => format!("{count} {several}"),
        };
        let (sessions, accounts) =
            (count("sessions", "session", "sessions"), count("accounts", "account", "accounts"));
        say(&format!("{sessions} of {accounts} ended\n"))
    }
}

/// Who asks, as far as the system's environment tells: for the audit log.
pub(super) fn operator() -> Option<String> {
    ["SUDO_USER", "USER"].iter().find_map(|name| std::env::var(name).ok()).filter(|name| !name.is_empty())
}

/// Asks a person; without one to ask, no.
fn confirm() -> Result<(), Failure> {
    let no = |why: &str| Err(Failure::Input(format!("--all signs everybody out; {why}")));
    if !io::stdin().is_terminal() {
        return no("there is no terminal to ask on, so say --yes if you mean it");
    }
    // Nobody is there to answer when stderr is closed; then no answer is no.
    let _ = write!(io::stderr(), "This signs everybody out. Type `yes` to go on: ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(_) if answer.trim().eq_ignore_ascii_case("yes") => Ok(()),
        _ => no("nothing was done"),
    }
}

fn path_of(id: &str) -> Result<String, Failure> {
    match id.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !id.is_empty() {
        true => Ok(format!("/api/sessions/{id}")),
        false => Err(Failure::Input(format!("`{}` is no id of a session", plain(id)))),
    }
}

pub(super) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().map_or("–".to_owned(), plain)
}

fn person(session: &Value) -> String {
    match (session["name"].as_str(), session["nickname"].as_str()) {
        (Some(name), Some(nickname)) => plain(&format!("{name} ({nickname})")),
        (Some(name), None) => plain(name),
        (None, _) => text(session, "account"),
    }
}

pub(super) fn ago(value: &Value, name: &str, now: Timestamp) -> String {
    value[name].as_str().and_then(Timestamp::parse).map_or("–".to_owned(), |at| words::ago(now, at))
}

/// Columns as wide as their widest cell, the last one as it is.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &[String; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}
