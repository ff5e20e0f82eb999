//! Who am I: as a page and as JSON.
//!
//! Owns: `/.teamgate/`, `/.teamgate/userinfo`. Must not know: how pages look.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use super::problem::{Event, Problem};
use super::render::{Person, Profile, ThisSession, WhoAmI};
use super::reply::{self, Redirect, redirect};
use super::{Asked, Services, own, render};
use crate::assertion::TeamParts;
use crate::live::LiveSession;
use crate::session::{Record, Settings};

const SIGN_OUT: &str = "/.teamgate/logout";
/// How many other browsers are shown; who has more signs out of all of them.
const MOST_SHOWN: usize = 50;
const LOGIN: &str = "/.teamgate/login?rd=%2F.teamgate%2F";

/// `/.teamgate` is meant for the folder.
pub(super) async fn folder(asked: Asked) -> Response {
    let common = asked.common();
    own(redirect(&common, Redirect::Found, "/.teamgate/")
        .unwrap_or_else(|| render::internal(&common, asked.shape())))
}

/// `/.teamgate/`.
pub(super) async fn who_am_i(State(services): State<Services>, asked: Asked) -> Response {
    let common = asked.common();
    let Some(session) = asked.session(&services).await else {
        return own(render::who_am_i(&common, &WhoAmI::Nobody { sign_in: LOGIN }));
    };
    let settings = &asked.snapshot.gate.session;
    let known = session.account.known();
    let groups = groups(&asked, &session);
    // Without the store there are no others to show; this page is no place to fail for that.
    let mut all = services.live.of_account(session.account.id()).await.unwrap_or_default();
    let here = all.iter().position(|(key, _)| *key == session.key);
    let here = here.map_or_else(|| session.record(), |here| all.remove(here).1);
    let all: Vec<(String, Record)> = all
        .into_iter()
        .map(|(key, record)| (format!("{SIGN_OUT}?session={}", key.short()), record))
        .collect();
    let mut others: Vec<ThisSession<'_>> = all
        .iter()
        .map(|(sign_out, record)| shown(record, record.last_used_at, settings, sign_out))
        .filter(|other| other.ends_at > common.now)
        .collect();
    let more = others.len().saturating_sub(MOST_SHOWN);
    others.truncate(MOST_SHOWN);
    let view = Profile {
        person: Person { account: session.account.id(), name: known.identity.display_name() },
        nickname: known.identity.nickname(),
        email: known.identity.email().map(|email| email.as_str()),
        groups: Some((&groups, known.membership.as_of())),
        session: shown(&here, session.used_at(), settings, SIGN_OUT),
        others: &others,
        more,
        sign_out_others: "/.teamgate/logout?others",
    };
    own(render::who_am_i(&common, &WhoAmI::Somebody(&view)))
}

fn shown<'a>(
    record: &'a Record,
    last_used_at: crate::clock::Timestamp,
    settings: &Settings,
    sign_out: &'a str,
) -> ThisSession<'a> {
    ThisSession {
        begun_at: record.begun_at,
        last_used_at,
        ends_at: record.ends_at(last_used_at, settings),
        user_agent: record.user_agent.as_deref(),
        address: record.address,
        hosts: &record.hosts,
        sign_out,
    }
}

/// The groups as apps see them.
pub(super) fn groups(asked: &Asked, session: &LiveSession) -> Vec<String> {
    let parts = asked.snapshot.assertion.parts == TeamParts::Included;
    session.account.known().membership.groups(parts, |_| true)
}

#[derive(Serialize)]
struct UserInfo<'a> {
    account: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    email_verified: bool,
    groups: Vec<String>,
    groups_as_of: u64,
    session: SessionInfo,
}

#[derive(Serialize)]
struct SessionInfo {
    id: String,
    begun_at: u64,
    expires_at: u64,
}

/// `/.teamgate/userinfo`: for scripts of the apps. Times are seconds since 1970, as in the assertion.
pub(super) async fn userinfo(State(services): State<Services>, asked: Asked) -> Response {
    let common = asked.common();
    let Some(session) = asked.session(&services).await else {
        let sign_in = format!("{}://{}/.teamgate/login", asked.arrival.scheme, asked.arrival.authority);
        let problem = Problem {
            sign_in: Some(&sign_in),
            ..Problem::new(Event::SignInNeeded, "Nobody is signed in here. Open `sign_in` in a browser.")
        };
        return own(problem.json(&common));
    };
    let known = session.account.known();
    let identity = &known.identity;
    let info = UserInfo {
        account: identity.account().to_string(),
        name: identity.display_name(),
        preferred_username: identity.nickname(),
        email: identity.email().map(|email| email.as_str()),
        email_verified: identity.email().is_some(),
        groups: groups(&asked, &session),
        groups_as_of: known.membership.as_of().unix_seconds(),
        session: SessionInfo {
            id: session.key.short(),
            begun_at: session.begun_at().unix_seconds(),
            expires_at: asked
                .snapshot
                .gate
                .session
                .ends_at(session.begun_at(), session.used_at())
                .unix_seconds(),
        },
    };
    // A struct of strings and numbers always serialises.
    let body = Bytes::from(serde_json::to_vec(&info).unwrap_or_default());
    own(reply::json(&common, body))
}
