//! The control API, `/_sim/`: everything a [`World`] offers, as JSON, for programs that are not in this process.
//!
//! Owns: the shape of its requests and answers, in one flat table.
//! Must not know: the rules; each entry calls one method of the world.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any, delete, get, post};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::browser::same_origin;
use crate::faults::Fault;
use crate::log::ENDPOINTS;
use crate::rest::json_response;
use crate::shared::Shared;
use crate::world::{Budget, BudgetScope, Client, Email, Inactive, Regime, Unknown, User, Workspace, World};

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/_sim/world", get(world))
        .route(
            "/_sim/requests",
            get(requests).merge(on_delete(|world, _: Nothing| {
                world.clear_requests();
                Ok(())
            })),
        )
        .route(
            "/_sim/members",
            on_post(add_member)
                .merge(on_delete(|world, it: Seat| Ok(world.remove_member(&it.user, &it.team)?))),
        )
        .route("/_sim/users", on_post(add_user))
        .route(
            "/_sim/users/status",
            on_post(|world, it: Status| Ok(world.set_account_status(&it.user, &it.status)?)),
        )
        .route(
            "/_sim/emails",
            on_post(put_email)
                .merge(on_delete(|world, it: Address| Ok(world.remove_email(&it.user, &it.email)?))),
        )
        .route(
            "/_sim/emails/primary",
            on_post(|world, it: Primary| Ok(world.set_primary_email(&it.user, it.email.as_deref())?)),
        )
        .route(
            "/_sim/teams",
            on_post(add_team).merge(on_delete(|world, it: Team| Ok(world.delete_workspace(&it.team)?))),
        )
        .route(
            "/_sim/teams/rename",
            on_post(|world, it: Rename| Ok(world.rename_workspace(&it.team, &it.to)?)),
        )
        .route("/_sim/teams/move", on_post(|world, it: Move| Ok(world.move_slug(&it.team, &it.to_uuid)?)))
        .route("/_sim/repositories", on_post(put_repository))
        .route("/_sim/clients", on_post(put_client))
        .route("/_sim/grants/revoke", on_post(|world, it: Who| Ok(world.revoke_grant(&it.user)?)))
        .route(
            "/_sim/tokens/expire",
            on_post(|world, _: Nothing| {
                world.expire_access_tokens();
                Ok(())
            }),
        )
        .route(
            "/_sim/clock",
            on_post(|world, it: Advance| {
                world.advance(Duration::from_secs(it.advance_seconds));
                Ok(())
            }),
        )
        .route(
            "/_sim/faults",
            get(faults).merge(on_post(add_fault)).merge(on_delete(|world, _: Nothing| {
                world.clear_faults();
                Ok(())
            })),
        )
        .route(
            "/_sim/budget",
            on_post(set_budget).merge(on_delete(|world, _: Nothing| {
                world.budget = None;
                Ok(())
            })),
        )
        .route("/_sim/auto-sign-in", on_post(auto_sign_in))
        .route(
            "/_sim/regime",
            on_post(|world, it: WhichRegime| {
                world.regime = it.regime;
                Ok(())
            }),
        )
        .route("/_sim/settings", on_post(settings))
        .route("/_sim/{*path}", any(nothing_here))
        .layer(from_fn(only_from_here))
}

/// Why nothing was changed.
struct Problem(StatusCode, String);

impl From<Unknown> for Problem {
    fn from(unknown: Unknown) -> Problem {
        let status = match unknown {
            Unknown::SlugTaken(_) => StatusCode::CONFLICT,
            _ => StatusCode::NOT_FOUND,
        };
        Problem(status, unknown.to_string())
    }
}

impl Problem {
    fn response(&self) -> Response {
        json_response(self.0, &json!({"error": self.1}))
    }
}

type Change<T> = fn(&mut World, T) -> Result<(), Problem>;

fn on_post<T: DeserializeOwned + 'static>(change: Change<T>) -> MethodRouter<Shared> {
    post(move |State(shared): State<Shared>, body: Bytes| async move { apply(&shared, &body, change) })
}

fn on_delete<T: DeserializeOwned + 'static>(change: Change<T>) -> MethodRouter<Shared> {
    delete(move |State(shared): State<Shared>, body: Bytes| async move { apply(&shared, &body, change) })
}

/// An empty body is an empty object.
fn apply<T: DeserializeOwned>(shared: &Shared, body: &Bytes, change: Change<T>) -> Response {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let outcome = serde_json::from_slice(body)
        .map_err(|error| Problem(StatusCode::BAD_REQUEST, error.to_string()))
        .and_then(|wanted| change(&mut shared.world(), wanted));
    match outcome {
        Ok(()) => json_response(StatusCode::OK, &json!({"ok": true})),
        Err(problem) => problem.response(),
    }
}

async fn only_from_here(request: Request, next: Next) -> Response {
    if request.method() != Method::GET && !same_origin(request.headers()) {
        return Problem(
            StatusCode::FORBIDDEN,
            "a page of another site may not change anything here".to_owned(),
        )
        .response();
    }
    next.run(request).await
}

async fn nothing_here() -> Response {
    Problem(
        StatusCode::NOT_FOUND,
        "there is no such control; the README of bitbucket-sim lists them".to_owned(),
    )
    .response()
}

async fn requests(State(shared): State<Shared>) -> Response {
    axum::Json(shared.world().requests()).into_response()
}

async fn faults(State(shared): State<Shared>) -> Response {
    axum::Json(shared.world().faults()).into_response()
}

async fn world(State(shared): State<Shared>) -> Response {
    json_response(StatusCode::OK, &summary(&shared.world()))
}

/// Without secrets and tokens, though they protect nothing.
fn summary(world: &World) -> Value {
    let users = world.users().iter().map(|user| {
        let teams = world.memberships_of(&user.id).into_iter().map(|(workspace, membership)| {
            json!({
                "team": workspace.slug, "permission": membership.permission.as_str(),
                "administrator": membership.administrator,
            })
        });
        let emails = user.emails.iter().map(|email| {
            json!({"email": email.address, "confirmed": email.confirmed, "primary": email.primary})
        });
        json!({
            "user": user.id, "uuid": user.uuid, "nickname": user.nickname, "display_name": user.display_name,
            "status": user.account_status, "emails": emails.collect::<Vec<_>>(), "teams": teams.collect::<Vec<_>>(),
        })
    });
    let teams = world.workspaces().iter().map(|workspace| {
        json!({
            "team": workspace.slug, "uuid": workspace.uuid, "name": workspace.name, "personal": workspace.personal,
        })
    });
    let clients = world.clients().iter().map(|client| {
        json!({"id": client.id, "name": client.name, "callback": client.callback, "scopes": client.scopes})
    });
    let grants = world
        .grants()
        .iter()
        .map(|grant| json!({"client": grant.client, "user": grant.user, "scopes": grant.scopes}));
    let budget = world.budget.map(
        |budget| json!({"calls": budget.calls, "per_seconds": budget.per.as_secs(), "scope": budget.scope}),
    );
    json!({
        "now": world.clock.now().format(&Rfc3339).unwrap_or_default(),
        "users": users.collect::<Vec<_>>(), "teams": teams.collect::<Vec<_>>(),
        "clients": clients.collect::<Vec<_>>(), "grants": grants.collect::<Vec<_>>(),
        "faults": world.faults(), "budget": budget, "auto_sign_in": world.auto_sign_in,
        "settings": {
            "regime": world.regime, "inactive": world.inactive,
            "pagelen": world.pagelen, "max_pagelen": world.max_pagelen,
            "rotation_grace_seconds": world.rotation_grace.as_secs(),
            "lockout_after_reuse_seconds": world.lockout_after_reuse.map(|span| span.as_secs()),
            "access_token_life_seconds": world.access_token_life.as_secs(),
            "refresh_token_idle_seconds": world.refresh_token_idle.as_secs(),
        },
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    user: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seat {
    user: String,
    team: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    user: String,
    team: String,
    permission: Option<String>,
    #[serde(default)]
    administrator: bool,
}

fn add_member(world: &mut World, it: Member) -> Result<(), Problem> {
    let permission = it.permission.as_deref().unwrap_or("member");
    Ok(world.add_member(&it.user, &it.team, permission, it.administrator)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    user: String,
    display_name: Option<String>,
    uuid: Option<String>,
    nickname: Option<String>,
}

fn add_user(world: &mut World, it: NewUser) -> Result<(), Problem> {
    let mut user = User::new(&it.user, it.display_name.as_deref().unwrap_or(&it.user));
    if let Some(uuid) = &it.uuid {
        user = user.with_uuid(uuid);
    }
    user.nickname = it.nickname.or(user.nickname);
    world.add_user(user);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    user: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    user: String,
    email: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Primary {
    user: String,
    email: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    user: String,
    email: String,
    confirmed: bool,
}

/// Adds the address, or changes whether it is confirmed.
fn put_email(world: &mut World, it: Confirmed) -> Result<(), Problem> {
    let known = |email: &&mut Email| email.address == it.email;
    match world.user_mut(&it.user)?.emails.iter_mut().find(known) {
        Some(email) => email.confirmed = it.confirmed,
        None => world.add_email(&it.user, &it.email, it.confirmed)?,
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTeam {
    team: String,
    name: Option<String>,
    uuid: Option<String>,
    #[serde(default)]
    public: bool,
}

fn add_team(world: &mut World, it: NewTeam) -> Result<(), Problem> {
    if world.workspace(&it.team).is_ok() {
        return Err(Unknown::SlugTaken(it.team).into());
    }
    let mut workspace = Workspace::new(&it.team, it.name.as_deref().unwrap_or(&it.team));
    workspace.uuid = it.uuid.unwrap_or(workspace.uuid);
    workspace.private = !it.public;
    world.add_workspace(workspace);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Team {
    team: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    team: String,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    team: String,
    to_uuid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryAccess {
    /// `acme/api`
    repository: String,
    user: String,
    permission: Option<String>,
}

/// Founds the repository if it is new.
fn put_repository(world: &mut World, it: RepositoryAccess) -> Result<(), Problem> {
    let Some((workspace, slug)) = it.repository.split_once('/') else {
        return Err(Problem(StatusCode::BAD_REQUEST, "write the repository as team/name".to_owned()));
    };
    world.add_repository(workspace, slug)?;
    Ok(world.set_repository_permission(&it.user, &it.repository, it.permission.as_deref())?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientChange {
    id: String,
    secret: Option<String>,
    callback: Option<String>,
    name: Option<String>,
    scopes: Option<Vec<String>>,
}

/// Registers the client, or changes what is given of it.
fn put_client(world: &mut World, it: ClientChange) -> Result<(), Problem> {
    let mut client = world.client(&it.id).cloned().unwrap_or_else(|_| Client::new(&it.id, "", ""));
    client.secret = it.secret.unwrap_or(client.secret);
    client.callback = it.callback.unwrap_or(client.callback);
    client.name = it.name.unwrap_or(client.name);
    client.scopes = it.scopes.unwrap_or(client.scopes);
    world.register_client(client);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_seconds: u64,
}

fn add_fault(world: &mut World, fault: Fault) -> Result<(), Problem> {
    if fault.endpoint != "*" && !ENDPOINTS.contains(&fault.endpoint.as_str()) {
        let known = ENDPOINTS.join(", ");
        let text = format!("there is no endpoint `{}`; there are *, {known}", fault.endpoint);
        return Err(Problem(StatusCode::BAD_REQUEST, text));
    }
    world.fault(fault);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBudget {
    calls: u32,
    per_seconds: u64,
    scope: BudgetScope,
}

fn set_budget(world: &mut World, it: NewBudget) -> Result<(), Problem> {
    world.budget =
        Some(Budget { calls: it.calls, per: Duration::from_secs(it.per_seconds), scope: it.scope });
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AutoSignIn {
    user: Option<String>,
}

fn auto_sign_in(world: &mut World, it: AutoSignIn) -> Result<(), Problem> {
    if let Some(user) = &it.user {
        world.user(user)?;
    }
    world.auto_sign_in = it.user;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichRegime {
    regime: Regime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    regime: Option<Regime>,
    inactive: Option<Inactive>,
    pagelen: Option<usize>,
    max_pagelen: Option<usize>,
    rotation_grace_seconds: Option<u64>,
    /// 0 for none.
    lockout_after_reuse_seconds: Option<u64>,
    access_token_life_seconds: Option<u64>,
    refresh_token_idle_seconds: Option<u64>,
}

fn settings(world: &mut World, it: Settings) -> Result<(), Problem> {
    let seconds = |given: Option<u64>, so_far| given.map_or(so_far, Duration::from_secs);
    world.regime = it.regime.unwrap_or(world.regime);
    world.inactive = it.inactive.unwrap_or(world.inactive);
    world.pagelen = it.pagelen.unwrap_or(world.pagelen);
    world.max_pagelen = it.max_pagelen.unwrap_or(world.max_pagelen);
    world.rotation_grace = seconds(it.rotation_grace_seconds, world.rotation_grace);
    world.access_token_life = seconds(it.access_token_life_seconds, world.access_token_life);
    world.refresh_token_idle = seconds(it.refresh_token_idle_seconds, world.refresh_token_idle);
    if let Some(lockout) = it.lockout_after_reuse_seconds {
        world.lockout_after_reuse = (lockout > 0).then(|| Duration::from_secs(lockout));
    }
    Ok(())
}
