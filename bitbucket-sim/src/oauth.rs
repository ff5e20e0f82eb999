//! The two OAuth endpoints, `/site/oauth2/authorize` and `/site/oauth2/access_token`, and who is signed in.
//!
//! Owns: reading their requests, redirects, the sign-in cookie, the bodies of the token endpoint.
//! Must not know: which callback, code or token is good (`world/grants.rs`), faults, the log.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use url::Url;
use url::form_urlencoded;

use crate::browser::{forgetting, remembering, same_origin, signed_in};
use crate::log::About;
use crate::pages;
use crate::shared::Shared;
use crate::world::{Asked, AuthorizeRefusal, Client, Issued, Regime, Request, TokenRefusal, World};

const AUTHORIZE: &str = "/site/oauth2/authorize";

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route(AUTHORIZE, get(authorize).post(decide).fallback(wrong_method))
        .route("/site/oauth2/access_token", any(access_token))
        .route("/account/signout", get(sign_out))
        .route("/account/signout/", get(sign_out))
}

/// The first value of each name counts.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(encoded: &[u8]) -> Fields {
        Fields(form_urlencoded::parse(encoded).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn asked(&self) -> Asked {
        let owned = |name| self.get(name).map(str::to_owned);
        Asked {
            client_id: owned("client_id"),
            response_type: owned("response_type"),
            redirect_uri: owned("redirect_uri"),
            scope: owned("scope"),
            code_challenge: owned("code_challenge"),
            code_challenge_method: owned("code_challenge_method"),
        }
    }
}

/// Passes at once where it may; else asks who, or whether.
async fn authorize(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let mut world = shared.world();
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let request = match world.examine(&fields.asked()) {
        Ok(request) => request,
        Err(refusal) => return refused(refusal, &fields, StatusCode::FOUND),
    };
    if let Some(user) = world.auto_sign_in.clone().filter(|id| world.user(id).is_ok()) {
        return granted(&mut world, &user, &request, &fields, StatusCode::FOUND);
    }
    match signed_in(&world, &headers) {
        None => pages::sign_in(&world, &request.client),
        Some(user) if world.granted(&user, &request.client) => {
            granted(&mut world, &user, &request, &fields, StatusCode::FOUND)
        }
        Some(user) => {
            let again: String = form_urlencoded::byte_serialize(own_path(&uri).as_bytes()).collect();
            pages::consent(&world, &user, &request.client, &format!("/account/signout?next={again}"))
        }
    }
}

/// What somebody answered on one of the pages, or a test in place of them: `user=ann` signs in and agrees.
async fn decide(State(shared): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if !same_origin(&headers) {
        return pages::refusal(
            StatusCode::FORBIDDEN,
            "That form was sent from another site",
            "Go back and start again.",
        );
    }
    let mut world = shared.world();
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let form = Fields::parse(&body);
    let request = match world.examine(&fields.asked()) {
        Ok(request) => request,
        Err(refusal) => return refused(refusal, &fields, StatusCode::SEE_OTHER),
    };
    if form.get("answer") == Some("cancel") {
        let refusal = AuthorizeRefusal::Redirect {
            callback: request.callback,
            error: "access_denied",
            description: "The user denied access to the application",
        };
        return refused(refusal, &fields, StatusCode::SEE_OTHER);
    }
    let named = form.get("user").or(form.get("account"));
    if let Some(id) = named
        && world.user(id).is_err()
    {
        return pages::refusal(
            StatusCode::BAD_REQUEST,
            "There is no such user",
            "Go back and choose another one.",
        );
    }
    match (form.get("user"), form.get("account"), form.get("answer"), signed_in(&world, &headers)) {
        (Some(user), ..) => {
            let response = granted(&mut world, user, &request, &fields, StatusCode::SEE_OTHER);
            remembering(response, user)
        }
        (None, Some(account), ..) => remembering(redirect(StatusCode::SEE_OTHER, own_path(&uri)), account),
        (None, None, Some("grant"), Some(user)) => {
            granted(&mut world, &user, &request, &fields, StatusCode::SEE_OTHER)
        }
        // The sign-in was forgotten meanwhile, or the form is not ours: ask again.
        _ => redirect(StatusCode::SEE_OTHER, own_path(&uri)),
    }
}

async fn sign_out(uri: Uri) -> Response {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let response = match fields.get("next") {
        // Nowhere but back to the question that was being asked.
        Some(next) if next.starts_with(&format!("{AUTHORIZE}?")) => redirect(StatusCode::FOUND, next),
        _ => pages::signed_out(),
    };
    forgetting(response)
}

fn granted(
    world: &mut World,
    user: &str,
    request: &Request,
    fields: &Fields,
    status: StatusCode,
) -> Response {
    match world.agree(user, request) {
        Ok(code) => {
            let mut response = back(&request.callback, &[("code", &code)], fields, status);
            response.extensions_mut().insert(About(user.to_owned()));
            response
        }
        Err(unknown) => {
            pages::refusal(StatusCode::BAD_REQUEST, "There is no such user", &unknown.to_string())
        }
    }
}

fn refused(refusal: AuthorizeRefusal, fields: &Fields, status: StatusCode) -> Response {
    match refusal {
        AuthorizeRefusal::Page => pages::refusal(
            StatusCode::BAD_REQUEST,
            "Invalid redirect_uri",
            "This integration is misconfigured. Contact the vendor for assistance.",
        ),
        AuthorizeRefusal::Redirect { callback, error, description } => {
            back(&callback, &[("error", error), ("error_description", description)], fields, status)
        }
    }
}

/// To the application, with its `state` if it sent one.
fn back(callback: &Url, parameters: &[(&str, &str)], fields: &Fields, status: StatusCode) -> Response {
    let mut callback = callback.clone();
    callback.query_pairs_mut().extend_pairs(parameters);
    if let Some(state) = fields.get("state") {
        callback.query_pairs_mut().append_pair("state", state);
    }
    redirect(status, callback.as_str())
}

fn redirect(status: StatusCode, to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    (status, [(header::LOCATION, to), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))])
        .into_response()
}

fn own_path(uri: &Uri) -> &str {
    uri.path_and_query().map_or(AUTHORIZE, |path| path.as_str())
}

async fn wrong_method() -> Response {
    pages::refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "Method not allowed",
        "This address does not take that kind of request.",
    )
}

async fn access_token(
    State(shared): State<Shared>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        return wrong_method().await;
    }
    let header_text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let authorization = header_text(header::AUTHORIZATION);
    if authorization.to_ascii_lowercase().starts_with("bearer ") {
        // A page for people is what Bitbucket sends to this mistake.
        return pages::refusal(
            StatusCode::BAD_REQUEST,
            "Bad request",
            "Client credentials go into a Basic header.",
        );
    }
    let is_form = header_text(header::CONTENT_TYPE)
        .to_ascii_lowercase()
        .starts_with("application/x-www-form-urlencoded");
    let form = if is_form { Fields::parse(&body) } else { Fields(Vec::new()) };

    let mut world = shared.world();
    let client = match client(&world, authorization, &form) {
        Ok(client) => client,
        Err(refusal) => return token_refusal(refusal, world.regime),
    };
    let grant_type = form.get("grant_type");
    let issued = match grant_type {
        Some("authorization_code") => {
            let code = form.get("code").unwrap_or_default();
            world.redeem(&client, code, form.get("redirect_uri"), form.get("code_verifier"))
        }
        Some("refresh_token") => world.refresh(&client, form.get("refresh_token").unwrap_or_default()),
        other => {
            let description = format!("Unsupported grant type: {}", other.unwrap_or("None"));
            return token_error("invalid_grant", &description);
        }
    };
    match issued {
        Ok(issued) => tokens(issued, grant_type.unwrap_or_default(), world.regime),
        Err(refusal) => token_refusal(refusal, world.regime),
    }
}

/// A Basic header is the documented way, the body works too.
fn client(world: &World, authorization: &str, form: &Fields) -> Result<Client, TokenRefusal> {
    let Some((scheme, encoded)) = authorization.split_once(' ') else {
        let (id, secret) = (form.get("client_id"), form.get("client_secret"));
        return world.authenticate(id.unwrap_or_default(), secret.unwrap_or_default());
    };
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (id, secret) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some(pair) if scheme.eq_ignore_ascii_case("basic") => pair,
        _ => return Err(TokenRefusal::ClientAuth),
    };
    // RFC 6749 wants both parts form-encoded; not everybody does it.
    world.authenticate(id, secret).or_else(|_| world.authenticate(&form_decoded(id), &form_decoded(secret)))
}

fn form_decoded(text: &str) -> String {
    let pair = form_urlencoded::parse(text.as_bytes()).next();
    pair.map(|(name, _)| name.into_owned()).unwrap_or_default()
}

/// `state` is the grant type, whatever the name suggests.
fn tokens(issued: Issued, grant_type: &str, regime: Regime) -> Response {
    let mut body = json!({
        "access_token": issued.access_token, "refresh_token": issued.refresh_token, "token_type": "bearer",
        "expires_in": issued.expires_in, "state": grant_type,
    });
    match regime {
        Regime::New => body["scope"] = json!(issued.scopes.join(" ")),
        Regime::Legacy => {
            let reversed: Vec<String> = issued.scopes.into_iter().rev().collect();
            body["scopes"] = json!(reversed.join(" "));
        }
    }
    let mut response = token_answer(StatusCode::OK, &body);
    response.extensions_mut().insert(About(issued.user));
    response
}

fn token_refusal(refusal: TokenRefusal, regime: Regime) -> Response {
    match refusal {
        TokenRefusal::ClientAuth => token_error(
            "unauthorized_client",
            "Requests must be authenticated using OAuth client credentials",
        ),
        TokenRefusal::NoCallback => {
            token_error("invalid_request", "No callback uri defined for the OAuth client.")
        }
        TokenRefusal::BadCode => token_error("invalid_grant", "The specified code is not valid."),
        TokenRefusal::RedirectMismatch => token_error(
            "invalid_grant",
            "The specified redirect_uri does not match the authorization request.",
        ),
        TokenRefusal::BadVerifier => token_error("invalid_grant", "The code_verifier does not match."),
        TokenRefusal::BadRefreshToken => match regime {
            Regime::New => token_error("unauthorized_client", "Invalid OAuth client credentials"),
            Regime::Legacy => token_error("invalid_request", "Invalid refresh_token"),
        },
    }
}

/// 400 for everything: the only status that was seen.
fn token_error(error: &str, description: &str) -> Response {
    token_answer(StatusCode::BAD_REQUEST, &json!({"error": error, "error_description": description}))
}

fn token_answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}
