//! What people see: the sign-in and consent pages, and the page at `/` where they move others about.
//!
//! Owns: every HTML page and the stylesheet (in `templates/`; askama escapes what it inserts).
//! Must not know: OAuth, beyond that an application is called something and wants scopes.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use url::{Url, form_urlencoded};

use crate::browser::{same_origin, signed_in};
use crate::shared::Shared;
use crate::world::{Client, Permission, Unknown, User, World};

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(home).post(change))
        .route("/_sim/style.css", get(style))
        .fallback(nothing_here)
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'a> {
    client: &'a str,
    people: Vec<Person<'a>>,
}

#[derive(Template)]
#[template(path = "consent.html")]
struct Consent<'a> {
    client: &'a str,
    user: &'a str,
    wishes: Vec<String>,
    another: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    title: &'a str,
    text: &'a str,
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home<'a> {
    signed_in: Option<&'a str>,
    applications: Vec<(&'a str, String)>,
    teams: Vec<Team<'a>>,
    people: Vec<Person<'a>>,
}

struct Team<'a> {
    slug: &'a str,
    name: &'a str,
    people: Vec<Seat<'a>>,
}

/// A person and a team.
struct Seat<'a> {
    id: &'a str,
    name: &'a str,
    role: String,
    present: bool,
    administrator: bool,
}

struct Person<'a> {
    id: &'a str,
    name: &'a str,
    teams: String,
    has_granted: bool,
}

impl<'a> Person<'a> {
    fn of(world: &'a World, user: &'a User) -> Person<'a> {
        let has_granted = world.grants().iter().any(|grant| grant.user == user.id);
        Person { id: &user.id, name: &user.display_name, teams: teams_of(world, user), has_granted }
    }
}

/// Who are you?
pub(crate) fn sign_in(world: &World, client: &Client) -> Response {
    let people = world.users().iter().map(|user| Person::of(world, user)).collect();
    page(StatusCode::OK, &SignIn { client: &client.name, people })
}

/// May this application …?
pub(crate) fn consent(world: &World, user: &str, client: &Client, another: &str) -> Response {
    let user = world.user(user).map_or(user, |user| &user.display_name);
    let wishes = client.scopes.iter().map(|scope| wish(scope)).collect();
    page(StatusCode::OK, &Consent { client: &client.name, user, wishes, another })
}

/// Nothing more to do here.
pub(crate) fn signed_out() -> Response {
    let text = "The pretend Bitbucket no longer knows you in this browser. Applications may.";
    page(StatusCode::OK, &Message { title: "You are signed out", text })
}

/// It cannot go on, and why.
pub(crate) fn refusal(status: StatusCode, title: &str, text: &str) -> Response {
    page(status, &Message { title, text })
}

async fn home(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let world = shared.world();
    let name = |id: &str| world.user(id).map(|user| user.display_name.as_str()).ok();
    let teams = world.workspaces().iter().filter(|workspace| !workspace.personal).map(|workspace| Team {
        slug: &workspace.slug,
        name: &workspace.name,
        people: world.users().iter().map(|user| seat(&world, user, &workspace.slug)).collect(),
    });
    let applications = world.clients().iter().filter_map(|client| {
        let origin = Url::parse(&client.callback).ok()?.origin();
        origin.is_tuple().then(|| (client.name.as_str(), origin.ascii_serialization()))
    });
    let home = Home {
        signed_in: signed_in(&world, &headers).and_then(|id| name(&id)),
        applications: applications.collect(),
        teams: teams.collect(),
        people: world.users().iter().map(|user| Person::of(&world, user)).collect(),
    };
    let mut response = page(StatusCode::OK, &home);
    // The other pages lead on to an application, which browsers count as a target of their forms.
    let policy = format!("{POLICY}; form-action 'self'");
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// One button of the page at `/`.
async fn change(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if !same_origin(&headers) {
        return refusal(
            StatusCode::FORBIDDEN,
            "That form was sent from another site",
            "Nothing was changed.",
        );
    }
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
    let (user, team) = (field("user"), field("team"));
    let mut world = shared.world();
    let outcome: Option<Result<(), Unknown>> = match field("action") {
        "add" => Some(world.add_member(user, team, Permission::Member, false)),
        "remove" => Some(world.remove_member(user, team)),
        "promote" => Some(world.set_administrator(user, team, true)),
        "demote" => Some(world.set_administrator(user, team, false)),
        "withdraw" => Some(world.revoke_grant(user)),
        _ => None,
    };
    match outcome {
        Some(Ok(())) => {
            let place = if team.is_empty() { "people" } else { team };
            let place: String = form_urlencoded::byte_serialize(place.as_bytes()).collect();
            (StatusCode::SEE_OTHER, [(header::LOCATION, format!("/#{place}"))]).into_response()
        }
        Some(Err(unknown)) => {
            refusal(StatusCode::CONFLICT, "That has changed meanwhile", &format!("Now {unknown}."))
        }
        None => refusal(StatusCode::BAD_REQUEST, "That is no button of this page", "Nothing was changed."),
    }
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, include_str!("../templates/style.css")).into_response()
}

async fn nothing_here(uri: Uri) -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "There is nothing here",
        &format!("The simulator has no page {}.", uri.path()),
    )
}

fn seat<'a>(world: &World, user: &'a User, team: &str) -> Seat<'a> {
    let membership = world.membership(&user.id, team).ok();
    let administrator = membership.is_some_and(|membership| membership.administrator);
    let role = match membership.map(|membership| &membership.permission) {
        None => "not in the team".to_owned(),
        Some(Permission::Collaborator) => "collaborator, not a member".to_owned(),
        Some(_) if administrator => "administrator".to_owned(),
        Some(permission) => permission.as_str().to_owned(),
    };
    Seat { id: &user.id, name: &user.display_name, role, present: membership.is_some(), administrator }
}

/// `administrator of acme, member of globex`.
fn teams_of(world: &World, user: &User) -> String {
    let memberships = world.memberships_of(&user.id).into_iter().filter(|(workspace, _)| !workspace.personal);
    let mut told: Vec<String> = memberships
        .map(|(workspace, membership)| match (&membership.permission, membership.administrator) {
            (Permission::Collaborator, false) => format!("collaborator on {}, not a member", workspace.slug),
            (_, true) => format!("administrator of {}", workspace.slug),
            (permission, false) => format!("{} of {}", permission.as_str(), workspace.slug),
        })
        .collect();
    if told.is_empty() {
        told.push("in no team".to_owned());
    }
    if !user.is_active() {
        told.push(format!("account {}", user.account_status));
    }
    told.join(", ")
}

fn wish(scope: &str) -> String {
    match scope {
        "account" => "read your account".to_owned(),
        "email" => "read your e-mail addresses".to_owned(),
        "repository" => "read your repositories".to_owned(),
        other => format!("use “{other}”"),
    }
}

const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'";

fn page(status: StatusCode, template: &impl Template) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Not `no-referrer`: the forms' Origin would be `null` then.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    match template.render() {
        Ok(html) => (status, headers, html).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
