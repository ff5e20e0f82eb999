//! A session on its way from the gateway's own host to another: take the request apart, call `login`, answer.
//!
//! Owns: which half of a hand-over is asked for, which refusal gets which page.
//! Must not know: how a hand-over works, how pages look.
//!
//! No page here links to the address that it was asked under: a ticket stands in it.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;

use super::refusal::sign_in_link;
use super::render::{self, CookieTrouble};
use super::reply::{Redirect, redirect};
use super::sign_in::started;
use super::{Asked, Services, own, with_cookies};
use crate::directory::Condition;
use crate::gate::Found;
use crate::login::ReturnTo;
use crate::login::hand_over::{Arrived, Refusal, Refused};
use crate::login::ticket::Mismatch;

/// `GET /.teamgate/hand-over`: with `request` on the gateway's own host, with `ticket` on the other.
pub(super) async fn hand_over(State(services): State<Services>, asked: Asked) -> Response {
    own(match (asked.param("ticket"), asked.param("request")) {
        (Some(ticket), _) => take_over(&services, &asked, &ticket).await,
        (None, request) => give(&services, &asked, &request.unwrap_or_default()).await,
    })
}

/// Another host asks for the session of this browser: it gets it, after a sign-in if there is none.
async fn give(services: &Services, asked: &Asked, sealed: &str) -> http::Response<Bytes> {
    let (settings, facts, login) = (&asked.snapshot.login, asked.facts(), &services.login);
    let (request, return_to) = match login.asked_for(settings, &facts, sealed) {
        Ok(asked_for) => asked_for,
        Err(refused) => return explain(asked, &refused, |to| to.as_str().to_owned()),
    };
    match services.gate.session(&asked.snapshot.gate, &facts).await {
        // Where tokens were lost, a sign-in mends it; without one the other host would ask again.
        Found::Session { id, session } if session.account.condition() != Condition::GrantLost => {
            go(asked, &login.hand_over(settings, request, &return_to, &id))
        }
        Found::Session { .. } | Found::Nobody(_) => {
            let start = login.start_for(settings, &facts, &return_to, Some(request));
            started(services, asked, start, &return_to)
        }
        Found::StoreAway => unavailable(asked, return_to.as_str()),
    }
}

/// The session arrives.
async fn take_over(services: &Services, asked: &Asked, sealed: &str) -> http::Response<Bytes> {
    let current = asked.session(services).await;
    let settings = &asked.snapshot.login;
    match services.login.take_over(settings, &asked.facts(), sealed, current.as_deref()).await {
        Ok(Arrived { return_to, cookies }) => with_cookies(go(asked, &return_to), cookies),
        Err(refused) => explain(asked, &refused, sign_in_link),
    }
}

fn go(asked: &Asked, to: &ReturnTo) -> http::Response<Bytes> {
    let common = asked.common();
    redirect(&common, Redirect::Found, to.as_str())
        .unwrap_or_else(|| render::internal(&common, asked.shape()))
}

/// A page that says what went wrong, and the way on: `again` makes a link of where the person was going.
fn explain(asked: &Asked, refused: &Refused, again: impl Fn(&ReturnTo) -> String) -> http::Response<Bytes> {
    let (common, shape) = (asked.common(), asked.shape());
    let again = refused.return_to.as_ref().map_or_else(|| "/.teamgate/login".to_owned(), again);
    match &refused.refusal {
        Refusal::Mismatch(Mismatch::NoCookies) => {
            let from = asked.snapshot.edge.external_url.host_str().unwrap_or_default();
            render::cookies_blocked(&common, CookieTrouble::Missing { from }, &again, shape)
        }
        Refusal::Mismatch(_) | Refusal::Spent | Refusal::SessionOver => {
            render::sign_in_expired(&common, &again, shape)
        }
        Refusal::Store(error) => {
            tracing::error!(request_id = common.request_id, %error, "a session could not be handed over");
            unavailable(asked, &again)
        }
    }
}

fn unavailable(asked: &Asked, again: &str) -> http::Response<Bytes> {
    render::unavailable(&asked.common(), again, Duration::from_secs(10), asked.shape())
}
