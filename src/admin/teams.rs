//! Teams for operators: which workspace each name means, and their word on a name that changed hands.
//!
//! Owns: `/api/teams`. Must not know: how slugs are remembered; `directory::slugs` says.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::Api;
use super::call::{Call, Refusal, answer};
use crate::directory;
use crate::directory::slugs::{Conflict, Listed};
use crate::identity::TeamId;
use crate::membership::TeamName;
use crate::telemetry::audit::Event;

/// How many teams an answer names, at most.
const LARGEST: usize = 1_000;

impl Api {
    fn teams(&self) -> Arc<directory::Settings> {
        self.current.load().gate.directory.clone()
    }
}

/// `GET /api/teams`.
pub(super) async fn list(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&[])?;
    let listed = api.directory.slugs(&api.teams()).await?;
    let more = listed.len() > LARGEST;
    let teams: Vec<Value> = listed.iter().take(LARGEST).map(facts).collect();
    Ok(answer(&json!({ "teams": teams, "more": more })))
}

/// `POST /api/teams/SLUG/accept?uuid=…`: from now on the slug means this workspace.
pub(super) async fn accept(
    State(api): State<Arc<Api>>,
    Path(slug): Path<String>,
    call: Call,
) -> Result<Response, Refusal> {
    call.only(&["uuid", "by", "why"])?;
    let word = call.word()?;
    let slug = read(&slug)?;
    let team: TeamId = match call.param("uuid") {
        None => return Err(Refusal::Bad("say which workspace: `uuid`".to_owned())),
        Some(text) => text.parse().map_err(|error| Refusal::Bad(format!("`uuid`: {error}")))?,
    };
    let settings = api.teams();
    let listed = api.directory.slugs(&settings).await?;
    if !listed.iter().any(|listed| listed.name == TeamName::Slug(slug.clone())) {
        return Err(Refusal::NotFound(format!("`{slug}` is neither configured nor remembered")));
    }
    let was = api.directory.accept_slug(&settings, &slug, team).await?;
    let event = Event::SlugAccepted { slug: slug.to_string(), pinned: was, found: team, word };
    api.telemetry.audit.record(api.clock.now(), &event);
    let was = was.map(|was| was.to_string());
    Ok(answer(&json!({ "slug": slug, "uuid": team.to_string(), "was": was })))
}

/// `POST /api/teams/SLUG/forget`: the next workspace that has the slug is remembered.
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    Path(slug): Path<String>,
    call: Call,
) -> Result<Response, Refusal> {
    call.only(&["by", "why"])?;
    let word = call.word()?;
    let slug = read(&slug)?;
    let Some(pinned) = api.directory.forget_slug(&api.teams(), &slug).await? else {
        return Err(Refusal::NotFound(format!("no uuid is remembered for `{slug}`")));
    };
    let event = Event::SlugForgotten { slug: slug.to_string(), pinned, word };
    api.telemetry.audit.record(api.clock.now(), &event);
    Ok(answer(&json!({ "slug": slug, "was": pinned.to_string() })))
}

/// A slug; a team that is given by its uuid has nothing to accept or to forget.
fn read(text: &str) -> Result<Box<str>, Refusal> {
    match text.parse() {
        Ok(TeamName::Slug(slug)) => Ok(slug),
        Ok(TeamName::Id(_)) => Err(Refusal::Bad(
            "a team that is given by its uuid means that workspace in any case; name a slug".to_owned(),
        )),
        Err(error) => Err(Refusal::Bad(error.to_string())),
    }
}

fn facts(listed: &Listed) -> Value {
    let Listed { name, slug, team, configured, sighting } = listed;
    let given_by = match name {
        TeamName::Slug(_) => "slug",
        TeamName::Id(_) => "uuid",
    };
    let conflict = sighting.conflict.as_ref().map(|Conflict { found, first_seen_at, seen_at, accounts }| {
        json!({
            "uuid": found.to_string(),
            "first_seen_at": first_seen_at.to_string(),
            "seen_at": seen_at.to_string(),
            "accounts": accounts.len(),
        })
    });
    json!({
        "given_by": given_by,
        "slug": slug,
        "uuid": team.map(|team| team.to_string()),
        "configured": configured,
        "remembered_at": sighting.pinned_at.map(|at| at.to_string()),
        "seen_at": sighting.agreed_at.map(|at| at.to_string()),
        "conflict": conflict,
    })
}
