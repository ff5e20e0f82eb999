//! `teamgate teams`: which workspace each team's name means at a running gateway, and what to do when a name changed
//! hands.
//!
//! Owns: its arguments, table and sentences. Must not know: how slugs are remembered; it asks the admin address.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{Admin, Gateway, plain};
use super::sessions::{ago, operator, table, text};
use super::{Failure, say};
use crate::clock::{Clock, Timestamp};
use crate::identity::TeamId;
use crate::membership::TeamName;

#[derive(Args)]
pub(super) struct Teams {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Which workspace each name means, and whether another one has it now
    List(List),
    /// Have a name mean the workspace that has it now: its members are admitted from their next re-query on
    Accept(Accept),
    /// Forget which workspace a name meant: the next one that has it is remembered
    Forget(Forget),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    admin: Admin,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Accept {
    #[command(flatten)]
    admin: Admin,
    /// The name, as in Bitbucket's URLs
    #[arg(value_name = "SLUG")]
    slug: String,
    /// The workspace; without it the one that the gateway has seen under this name
    #[arg(long, value_name = "UUID")]
    uuid: Option<TeamId>,
    /// Why, for the audit log
    #[arg(long, value_name = "SENTENCE")]
    why: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Forget {
    #[command(flatten)]
    admin: Admin,
    /// The name, as in Bitbucket's URLs
    #[arg(value_name = "SLUG")]
    slug: String,
    /// Why, for the audit log
    #[arg(long, value_name = "SENTENCE")]
    why: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Teams {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::List(list) => list.run(),
            Command::Accept(accept) => accept.run(),
            Command::Forget(forget) => forget.run(),
        }
    }
}

fn teams(gateway: &Gateway) -> Result<Value, Failure> {
    gateway.ask("GET", "/api/teams", &[], "teams")
}

impl List {
    fn run(&self) -> Result<(), Failure> {
        let answer = teams(&self.admin.gateway()?)?;
        if self.json {
            return say(&format!("{answer}\n"));
        }
        let now = Clock::system().now();
        let found = answer["teams"].as_array().cloned().unwrap_or_default();
        let rows = found.iter().map(|team| [text(team, "slug"), text(team, "uuid"), state(team, now)]);
        say(&table(["TEAM", "WORKSPACE", "STATE"], rows.collect()))?;
        if answer["more"] == true {
            say("… and more\n")?;
        }
        if found.iter().any(|team| !team["conflict"].is_null()) {
            say(
                "\nA name that another workspace has now opens nothing. `teamgate teams accept TEAM` has it mean that \
                 workspace, if the change is right\n",
            )?;
        }
        Ok(())
    }
}

/// What there is to say of a team.
fn state(team: &Value, now: Timestamp) -> String {
    let conflict = &team["conflict"];
    if !conflict.is_null() {
        let accounts = match conflict["accounts"].as_u64() {
            Some(1) => "1 account refused".to_owned(),
            count => format!("{} accounts refused", count.unwrap_or(0)),
        };
        let (found, when) = (text(conflict, "uuid"), ago(conflict, "seen_at", now));
        return format!("changed hands: is {found} now, seen {when}; {accounts}");
    }
    let mut said = match (team["given_by"] == "uuid", team["uuid"].is_null(), team["configured"] == true) {
        (true, _, _) => vec!["given by its uuid".to_owned()],
        (_, true, _) => vec!["not seen yet".to_owned()],
        (_, _, true) => vec!["remembered".to_owned()],
        (_, _, false) => vec!["remembered, not configured any more".to_owned()],
    };
    if !team["remembered_at"].is_null() {
        said.push(format!("since {}", text(team, "remembered_at")));
    }
    if !team["seen_at"].is_null() {
        said.push(format!("seen {}", ago(team, "seen_at", now)));
    }
    said.join(", ")
}

impl Accept {
    fn run(&self) -> Result<(), Failure> {
        let path = path_of(&self.slug, "accept")?;
        let gateway = self.admin.gateway()?;
        let uuid = match self.uuid {
            Some(uuid) => uuid.to_string(),
            None => seen(&teams(&gateway)?, &self.slug)?,
        };
        let by = operator();
        let mut query = vec![("uuid", uuid.as_str())];
        query.extend(by.as_deref().map(|by| ("by", by)));
        query.extend(self.why.as_deref().map(|why| ("why", why)));
        let answer = gateway.ask("POST", &path, &query, "uuid")?;
        if self.json {
            return say(&format!("{answer}\n"));
        }
        let before = match answer["was"].as_str() {
            Some(was) => format!("; it was {}", plain(was)),
            None => String::new(),
        };
        say(&format!("`{}` is {} from now on{before}\n", self.slug, text(&answer, "uuid")))
    }
}

/// The workspace that was seen under `slug` and is not believed.
fn seen(answer: &Value, slug: &str) -> Result<String, Failure> {
    let listed = answer["teams"].as_array().into_iter().flatten();
    let team = listed.filter(|team| team["given_by"] == "slug").find(|team| team["slug"] == slug);
    match team.map(|team| team["conflict"]["uuid"].as_str()) {
        Some(Some(uuid)) => Ok(uuid.to_owned()),
        Some(None) => Err(Failure::Input(format!(
            "the gateway has seen no other workspace under `{slug}` since it started; name one with --uuid"
        ))),
        None => Err(Failure::Input(format!("`{slug}` is neither configured nor remembered"))),
    }
}

impl Forget {
    fn run(&self) -> Result<(), Failure> {
        let path = path_of(&self.slug, "forget")?;
        let by = operator();
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(by.as_deref().map(|by| ("by", by)));
        query.extend(self.why.as_deref().map(|why| ("why", why)));
        let answer = self.admin.gateway()?.ask("POST", &path, &query, "was")?;
        if self.json {
            return say(&format!("{answer}\n"));
        }
        let was = text(&answer, "was");
        say(&format!("`{}` was {was}; the next workspace of this name is remembered\n", self.slug))
    }
}

fn path_of(slug: &str, what: &str) -> Result<String, Failure> {
    match slug.parse() {
        Ok(TeamName::Slug(slug)) => Ok(format!("/api/teams/{slug}/{what}")),
        Ok(TeamName::Id(_)) => Err(Failure::Input(
            "a team that is given by its uuid means that workspace in any case; name a slug".to_owned(),
        )),
        Err(error) => Err(Failure::Input(plain(&error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_workspace_that_was_seen_is_accepted_without_its_uuid() {
        let answer = json!({ "teams": [
            { "given_by": "slug", "slug": "acme", "conflict": { "uuid": "u-1" } },
            { "given_by": "slug", "slug": "ops", "conflict": null },
            { "given_by": "uuid", "slug": "pinned", "conflict": null },
        ]});
        assert_eq!(seen(&answer, "acme").ok().as_deref(), Some("u-1"));
        for slug in ["ops", "pinned", "Acme", "nobody"] {
            assert!(matches!(seen(&answer, slug), Err(Failure::Input(_))), "{slug}");
        }
    }
}
