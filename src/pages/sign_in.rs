//! Login, callback, logout: take the request apart, call `login`, answer.
//!
//! Owns: which failure of a sign-in gets which page. Must not know: how a sign-in works, how pages look.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::ORIGIN;

use super::refusal::{needs_of, sign_in_link};
use super::render::{AccountTrouble, BitbucketTrouble, CookieTrouble, NoTeam, Person, SignOut, SignedOut};
use super::reply::{Common, Redirect, redirect};
use super::{Asked, Services, own, render, with_cookies};
use crate::bitbucket::{Refusal, Remedy};
use crate::facts::Shape;
use crate::login::callback::{Failure, FailureKind, Params};
use crate::login::ticket::Mismatch;
use crate::login::{ReturnTo, Start};
use crate::membership::Names;

/// `GET /.teamgate/login?rd=/where`.
pub(super) async fn start(State(services): State<Services>, asked: Asked) -> Response {
    let settings = &asked.snapshot.login;
    let return_to = ReturnTo::parse(asked.param("rd").as_deref(), settings, &asked.facts());
    let start = services.login.start(settings, &asked.facts(), &return_to);
    own(started(&services, &asked, start, &return_to))
}

/// Sends a browser to Bitbucket or to the gateway's own host, or explains why not again.
pub(super) fn started(
    services: &Services,
    asked: &Asked,
    start: Start,
    return_to: &ReturnTo,
) -> http::Response<Bytes> {
    let common = asked.common();
    match start {
        Start::Go { location, cookies } => {
            let answer = redirect(&common, Redirect::Found, location.as_str());
            with_cookies(answer.unwrap_or_else(|| render::internal(&common, asked.shape())), cookies)
        }
        Start::Loop { cookies, rounds } => {
            services.login.telemetry.metrics.sign_ins.inc(crate::telemetry::labels::SignInOutcome::Loop);
            let again = sign_in_link(return_to);
            let trouble = CookieTrouble::Loop { rounds, by: sent_to(asked) };
            with_cookies(render::cookies_blocked(&common, trouble, &again, asked.shape()), cookies)
        }
        Start::TooOften { wait } => render::too_many(&common, &sign_in_link(return_to), wait, asked.shape()),
    }
}

/// Where a sign-in that starts here sends people first.
pub(super) fn sent_to(asked: &Asked) -> &str {
    match asked.snapshot.login.hands_over_to(&asked.arrival.host) {
        true => asked.snapshot.edge.external_url.host_str().unwrap_or_default(),
        false => "Bitbucket",
    }
}

/// Where Bitbucket sends the browser back.
pub(super) async fn callback(State(services): State<Services>, asked: Asked) -> Response {
    if let Err(wait) = services.login.may_come_back(&asked.snapshot.login, &asked.facts()) {
        let again = asked.arrival.link();
        return own(render::too_many(&asked.common(), &again, wait, asked.shape()));
    }
    let params =
        Params { state: asked.param("state"), code: asked.param("code"), error: asked.param("error") };
    let current = asked.session(&services).await;
    let settings = &asked.snapshot.login;
    let common = asked.common();
    match services.login.callback(settings, &asked.facts(), &params, current.as_deref()).await {
        Ok(signed_in) => {
            let answer = redirect(&common, Redirect::Found, signed_in.return_to.as_str());
            own(with_cookies(
                answer.unwrap_or_else(|| render::internal(&common, asked.shape())),
                signed_in.cookies,
            ))
        }
        Err(failure) => {
            let again = failure.return_to.as_ref().map_or("/.teamgate/login".to_owned(), sign_in_link);
            let page = failed(&asked, &common, &failure, &again, &services.gate.directory.names());
            own(with_cookies(page, failure.cookies))
        }
    }
}

/// A page that says what went wrong, and the way on.
fn failed(
    asked: &Asked,
    common: &Common<'_>,
    failure: &Failure,
    again: &str,
    names: &Names,
) -> http::Response<Bytes> {
    let shape = match asked.shape() {
        // Whoever comes back from Bitbucket is a person, whatever their browser says it accepts.
        Shape::Grpc => Shape::Program,
        other => other,
    };
    match &failure.kind {
        FailureKind::State(Mismatch::NoCookies) => {
            render::cookies_blocked(common, CookieTrouble::Missing { from: "Bitbucket" }, again, shape)
        }
        FailureKind::State(_) | FailureKind::Malformed => render::sign_in_expired(common, again, shape),
        FailureKind::Cancelled => render::cancelled(common, again, None, shape),
        FailureKind::Reported(error) => {
            tracing::error!(
                request_id = common.request_id,
                error = &**error,
                "bitbucket sent a browser back with an error; check the client's page at Bitbucket"
            );
            render::misconfigured(common, shape)
        }
        FailureKind::NotInAnyTeam(identity) => {
            let teams = asked.snapshot.login.directory.teams.iter().flatten();
            let needs: Vec<String> = teams.map(|team| team.called(names)).collect();
            let view = NoTeam {
                person: Person { account: identity.account(), name: identity.display_name() },
                teams: needs_of(&asked.snapshot, &needs),
                again,
                bitbucket_sign_out: &bitbucket_sign_out(asked),
            };
            render::no_team(common, &view, shape)
        }
        FailureKind::Store(error) => {
            tracing::error!(request_id = common.request_id, %error, "a sign-in could not be written down");
            render::unavailable(common, again, std::time::Duration::from_secs(10), shape)
        }
        FailureKind::Bitbucket(error) => {
            match error.remedy() {
                // Nobody gets in until somebody acts.
                Remedy::FixConfiguration | Remedy::Report => {
                    tracing::error!(request_id = common.request_id, %error, "a sign-in failed");
                }
                _ => tracing::warn!(request_id = common.request_id, %error, "a sign-in failed"),
            }
            match error.remedy() {
                Remedy::SignInAgain => render::sign_in_expired(common, again, shape),
                Remedy::FixConfiguration => render::misconfigured(common, shape),
                Remedy::Refuse(Refusal::Inactive) => {
                    render::account_refused(common, AccountTrouble::Deactivated, None, again, shape)
                }
                Remedy::Refuse(Refusal::NotAPerson | Refusal::NoUuid) => {
                    render::account_refused(common, AccountTrouble::NotAPerson, None, again, shape)
                }
                Remedy::RetryAfter(retry_after) => {
                    render::bitbucket_trouble(common, BitbucketTrouble::Away { retry_after }, again, shape)
                }
                Remedy::Retry => {
                    let retry_after = std::time::Duration::from_secs(30);
                    render::bitbucket_trouble(common, BitbucketTrouble::Away { retry_after }, again, shape)
                }
                Remedy::Report => render::bitbucket_trouble(common, BitbucketTrouble::Garbled, again, shape),
            }
        }
    }
}

/// `GET /.teamgate/logout` asks.
pub(super) async fn ask_to_sign_out(State(services): State<Services>, asked: Asked) -> Response {
    let common = asked.common();
    let Some(session) = asked.session(&services).await else { return own(signed_out(&asked, &common)) };
    let known = session.account.known();
    let view = SignOut {
        person: Person { account: session.account.id(), name: known.identity.display_name() },
        action: "/.teamgate/logout",
        stay: "/.teamgate/",
    };
    own(render::sign_out(&common, &view))
}

/// `POST /.teamgate/logout` does it, if a page of this very origin asked. With `switch` it offers to come back
/// as somebody else; with `others` it ends all of the person's other sessions instead, with `session=ID` that one.
pub(super) async fn sign_out(State(services): State<Services>, asked: Asked) -> Response {
    let common = asked.common();
    if !is_same_origin(&asked) {
        let sentence = "A sign-out has to come from the gateway’s own page.";
        return own(render::foreign_origin(&common, sentence, asked.shape()));
    }
    let session = asked.session(&services).await;
    let facts = asked.facts();
    let only = asked.param("session");
    if let Some(session) = session.as_deref()
        && (asked.param("others").is_some() || only.as_ref().is_some_and(|name| *name != session.key.short()))
    {
        let ended = services.login.sign_out_others(&facts, session, only.as_deref()).await;
        return own(match ended {
            // Whether or not there was such a session: the page shows those that there are.
            Ok(()) => redirect(&common, Redirect::SeeOther, "/.teamgate/")
                .unwrap_or_else(|| render::internal(&common, asked.shape())),
            Err(error) => not_written(&asked, &common, &error),
        });
    }
    match services.login.sign_out(&asked.snapshot.login, &facts, session.as_deref()).await {
        Ok(cookies) => own(with_cookies(signed_out(&asked, &common), cookies)),
        Err(error) => own(not_written(&asked, &common, &error)),
    }
}

fn not_written(asked: &Asked, common: &Common<'_>, error: &crate::store::Error) -> http::Response<Bytes> {
    tracing::error!(request_id = common.request_id, %error, "a sign-out could not be written down");
    let wait = std::time::Duration::from_secs(10);
    render::unavailable(common, "/.teamgate/logout", wait, asked.shape())
}

fn signed_out(asked: &Asked, common: &Common<'_>) -> http::Response<Bytes> {
    let bitbucket_sign_out = bitbucket_sign_out(asked);
    let rd = ReturnTo::parse(asked.param("rd").as_deref(), &asked.snapshot.login, &asked.facts());
    let sign_in = sign_in_link(&rd);
    let view = match asked.param("switch") {
        Some(_) => SignedOut::Switching { sign_in: &sign_in, bitbucket_sign_out: &bitbucket_sign_out },
        None => SignedOut::Done { sign_in: &sign_in, bitbucket_sign_out: &bitbucket_sign_out },
    };
    render::signed_out(common, &view)
}

fn bitbucket_sign_out(asked: &Asked) -> String {
    format!("{}/account/signout", asked.snapshot.edge.bitbucket_web.as_str().trim_end_matches('/'))
}

/// `Sec-Fetch-Site` where the browser sends it, else `Origin`. A request that says neither is not believed.
fn is_same_origin(asked: &Asked) -> bool {
    if let Some(site) = asked.headers.get("sec-fetch-site") {
        return site.as_bytes() == b"same-origin";
    }
    let ours = format!("{}://{}", asked.arrival.scheme, asked.arrival.authority);
    asked.headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes()))
}
