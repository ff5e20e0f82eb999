//! The REST API, `/2.0`.
//!
//! Owns: who may ask what, and the JSON of each answer. Refusals are in `rest/failure.rs`, lists in
//! `rest/paging.rs`.
//! Must not know: how a token came to be, faults, the log.

mod failure;
mod paging;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http::{HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};

pub(crate) use self::failure::{Failure, json_response};
use self::paging::{Page, Query};
use crate::log::About;
use crate::shared::Shared;
use crate::world::{Bearer, Email, Regime, Unknown, User, Workspace, World};

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/2.0/user", get(user))
        .route("/2.0/user/emails", get(emails))
        .route("/2.0/user/emails/{email}", get(email))
        .route("/2.0/user/workspaces", get(workspaces))
        .route("/2.0/user/workspaces/{workspace}/permission", get(permission))
        .route("/2.0/user/workspaces/{workspace}/permissions/repositories", get(repositories))
        .route("/2.0/workspaces/{workspace}", get(workspace))
        // Removed on 2026-04-14, teams long before.
        .route("/2.0/workspaces", any(gone))
        .route("/2.0/user/permissions/workspaces", any(gone))
        .route("/2.0/user/permissions/repositories", any(gone))
        .route("/2.0/repositories", any(gone))
        .route("/2.0/teams", any(gone))
        .route("/2.0/{*path}", any(nothing_here))
        // The classic mistake: the base URL without its version.
        .route("/user", any(forbidden))
        .route("/user/{*path}", any(forbidden))
        .route("/workspaces/{*path}", any(forbidden))
        .route("/repositories/{*path}", any(forbidden))
}

/// A request whose token is good for it.
struct Call<'a> {
    world: &'a World,
    user: Box<User>,
    /// `http://host:port`, from the request.
    base: String,
    query: Query,
    uri: Uri,
}

impl Call<'_> {
    fn page(&self, values: Vec<Value>) -> Result<Value, Failure> {
        let page = Page::asked(&self.query, self.world.pagelen, self.world.max_pagelen)?;
        Ok(page.of(values, &self.base, self.uri.path(), &self.query))
    }

    fn workspace(&self, named: &str) -> Result<&Workspace, Failure> {
        self.world.workspace(named).map_err(|_| Failure::NoWorkspace(named.to_owned()))
    }
}

async fn user(State(shared): State<Shared>, request: Request) -> Response {
    answer(&shared, &request, &["account"], |call| {
        let (user, base) = (&call.user, &call.base);
        let uuid = encoded(&user.uuid);
        let mut body = json!({
            "type": user.kind, "uuid": user.uuid, "display_name": user.display_name,
            "created_on": "2019-02-19T18:36:46.361566+00:00", "account_status": user.account_status,
            "is_staff": false, "has_2fa_enabled": null, "location": null,
            "links": {
                "self": {"href": format!("{base}/2.0/users/{uuid}")},
                "html": {"href": format!("{base}/{uuid}/")},
                "repositories": {"href": format!("{base}/2.0/repositories/{uuid}")},
                "snippets": {"href": format!("{base}/2.0/snippets/{uuid}")},
                "hooks": {"href": format!("{base}/2.0/users/{uuid}/hooks")},
            },
        });
        for (key, value) in
            [("account_id", &user.account_id), ("nickname", &user.nickname), ("username", &user.username)]
        {
            if let Some(value) = value {
                body[key] = json!(value);
            }
        }
        if let Some(account_id) = &user.account_id {
            body["links"]["avatar"] = json!({"href": format!("{base}/avatars/{account_id}/128")});
        }
        Ok(body)
    })
}

async fn emails(State(shared): State<Shared>, request: Request) -> Response {
    answer(&shared, &request, &["email"], |call| {
        call.page(call.user.emails.iter().map(|email| email_object(email, &call.base)).collect())
    })
}

async fn email(State(shared): State<Shared>, Path(address): Path<String>, request: Request) -> Response {
    answer(&shared, &request, &["email"], |call| {
        let email = call.user.emails.iter().find(|email| email.address == address);
        Ok(email_object(email.ok_or(Failure::NotFound)?, &call.base))
    })
}

async fn workspaces(State(shared): State<Shared>, request: Request) -> Response {
    answer(&shared, &request, &["account"], |call| {
        let mut memberships = call.world.memberships_of(&call.user.id);
        match call.query.get("sort") {
            None => {}
            Some("slug") => memberships.sort_by(|a, b| a.0.slug.cmp(&b.0.slug)),
            Some("-slug") => memberships.sort_by(|a, b| b.0.slug.cmp(&a.0.slug)),
            Some(_) => return Err(Failure::Invalid("Invalid sort field")),
        }
        match call.query.get("administrator") {
            None => {}
            Some(wanted @ ("true" | "false")) => {
                memberships.retain(|(_, membership)| membership.administrator == (wanted == "true"));
            }
            Some(_) => return Err(Failure::Invalid("Invalid value for administrator")),
        }
        if let Some(filter) = call.query.get("q") {
            let slug = paging::equals(filter, "slug").ok_or(Failure::Invalid("Invalid filter"))?;
            memberships.retain(|(workspace, _)| workspace.slug == slug);
        }
        let base = &call.base;
        let values = memberships.into_iter().map(|(workspace, membership)| {
            let slug = &workspace.slug;
            json!({
                "type": "workspace_access", "administrator": membership.administrator,
                // No name here: that is how it is.
                "workspace": {
                    "type": "workspace_base", "uuid": workspace.uuid, "slug": slug,
                    "links": {
                        "self": {"href": format!("{base}/2.0/workspaces/{slug}")},
                        "avatar": {"href": format!("{base}/workspaces/{slug}/avatar/")},
                    },
                },
            })
        });
        call.page(values.collect())
    })
}

async fn permission(State(shared): State<Shared>, Path(named): Path<String>, request: Request) -> Response {
    answer(&shared, &request, &["account"], |call| {
        let workspace = call.workspace(&named)?;
        let membership =
            call.world.membership(&call.user.id, &workspace.uuid).map_err(|_: Unknown| Failure::Forbidden)?;
        let base = &call.base;
        let member = format!("{base}/2.0/workspaces/{}/members/{}", workspace.slug, encoded(&call.user.uuid));
        Ok(json!({
            "type": "workspace_membership", "permission": membership.permission.as_str(),
            "user": user_object(&call.user),
            "workspace": {
                "type": "workspace", "uuid": workspace.uuid, "slug": workspace.slug, "name": workspace.name,
            },
            "links": {"self": {"href": member}},
        }))
    })
}

async fn repositories(State(shared): State<Shared>, Path(named): Path<String>, request: Request) -> Response {
    answer(&shared, &request, &["account", "repository"], |call| {
        let workspace = call.workspace(&named)?;
        if call.world.membership(&call.user.id, &workspace.uuid).is_err() {
            return Err(Failure::Forbidden);
        }
        let mut access = call.world.repository_access(&call.user.id, &workspace.uuid);
        if let Some(filter) = call.query.get("q") {
            if let Some(wanted) = paging::any_of(filter, "repository.full_name") {
                let named = |slug: &str| format!("{}/{slug}", workspace.slug);
                access.retain(|(repository, _)| wanted.contains(&named(&repository.slug).as_str()));
            } else if let Some(name) = paging::equals(filter, "repository.name") {
                access.retain(|(repository, _)| repository.slug == name);
            } else {
                return Err(Failure::Invalid("Invalid filter"));
            }
        }
        let values = access.into_iter().map(|(repository, permission)| {
            json!({
                "type": "repository_permission", "permission": permission, "user": user_object(&call.user),
                "repository": {
                    "type": "repository", "uuid": repository.uuid, "name": repository.slug,
                    "full_name": format!("{}/{}", workspace.slug, repository.slug),
                },
            })
        });
        call.page(values.collect())
    })
}

async fn workspace(State(shared): State<Shared>, Path(named): Path<String>, request: Request) -> Response {
    answer(&shared, &request, &[], |call| {
        let workspace = call.workspace(&named)?;
        if workspace.private && call.world.membership(&call.user.id, &workspace.uuid).is_err() {
            return Err(Failure::NoWorkspace(named.clone()));
        }
        let base = &call.base;
        let slug = &workspace.slug;
        Ok(json!({
            "type": "workspace", "uuid": workspace.uuid, "slug": slug, "name": workspace.name,
            "is_private": workspace.private, "is_personal": workspace.personal,
            "created_on": "2019-03-01T09:00:00.000000+00:00",
            "links": {
                "self": {"href": format!("{base}/2.0/workspaces/{slug}")},
                "html": {"href": format!("{base}/{slug}/")},
                "avatar": {"href": format!("{base}/workspaces/{slug}/avatar/")},
                "members": {"href": format!("{base}/2.0/workspaces/{slug}/members")},
            },
        }))
    })
}

async fn gone() -> Response {
    Failure::Gone.response()
}

async fn nothing_here() -> Response {
    Failure::NotFound.response()
}

async fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, "Forbidden").into_response()
}

/// Checks the token, the budget and the scopes, in this order, then lets `body` tell.
fn answer(
    shared: &Shared,
    request: &Request,
    needed: &[&str],
    body: impl FnOnce(&Call<'_>) -> Result<Value, Failure>,
) -> Response {
    let mut world = shared.world();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (user, client, scopes) = match caller(&world, request, &query) {
        Ok(known) => known,
        Err(failure) => return failure.response(),
    };
    let about = About(user.id.clone());
    let outcome = if !world.spend(&client, &user.id) {
        Err(Failure::RateLimited { retry_after: None, json: true })
    } else if let Some(missing) = lacking(needed, &scopes) {
        Err(missing)
    } else {
        let base = shared.url_for(request.headers());
        body(&Call { world: &world, user, base, query, uri: request.uri().clone() })
    };
    let mut response = match outcome {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(failure) => failure.response(),
    };
    let headers = response.headers_mut();
    headers.insert("x-credential-type", HeaderValue::from_static("oauth2"));
    for (name, scopes) in
        [("x-oauth-scopes", scopes.join(", ")), ("x-accepted-oauth-scopes", needed.join(", "))]
    {
        if let Ok(value) = HeaderValue::from_str(&scopes) {
            headers.insert(name, value);
        }
    }
    response.extensions_mut().insert(about);
    response
}

/// The token is taken from `Authorization: Bearer` alone: one in the query spoils even a good header.
fn caller(
    world: &World,
    request: &Request,
    query: &Query,
) -> Result<(Box<User>, String, Vec<String>), Failure> {
    if query.get("access_token").is_some() {
        return Err(Failure::BadToken);
    }
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|value| value.split_once(' ')).ok_or(Failure::BadToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Failure::BadToken);
    }
    match world.bearer(token.trim()) {
        Bearer::Known { user, client, scopes } => Ok((user, client, scopes)),
        Bearer::Expired if world.regime == Regime::Legacy => Err(Failure::ExpiredToken),
        Bearer::Expired | Bearer::Invalid => Err(Failure::BadToken),
    }
}

fn lacking(needed: &[&str], scopes: &[String]) -> Option<Failure> {
    // `account:write` contains `account`.
    let has = |need: &str| {
        scopes.iter().any(|scope| {
            scope.strip_prefix(need).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    };
    if needed.iter().all(|need| has(need)) {
        return None;
    }
    let required = needed.iter().map(|need| (*need).to_owned()).collect();
    Some(Failure::MissingScope { required, granted: scopes.to_vec() })
}

/// Somebody as others see them: without the username.
fn user_object(user: &User) -> Value {
    let mut object = json!({"type": user.kind, "uuid": user.uuid, "display_name": user.display_name});
    if let Some(nickname) = &user.nickname {
        object["nickname"] = json!(nickname);
    }
    object
}

fn email_object(email: &Email, base: &str) -> Value {
    let address = &email.address;
    json!({
        "type": "email", "email": address, "is_primary": email.primary, "is_confirmed": email.confirmed,
        "links": {"self": {"href": format!("{base}/2.0/user/emails/{address}")}},
    })
}

/// The braces of a uuid, in a URL.
fn encoded(uuid: &str) -> String {
    uuid.replace('{', "%7B").replace('}', "%7D")
}
