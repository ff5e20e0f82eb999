//! Sessions for operators: list, look at one, end.
//!
//! Owns: `/api/sessions`. Must not know: how sessions are kept; `live::roster` says.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::Api;
use super::call::{Call, Refusal, answer};
use crate::identity::AccountId;
use crate::live::roster::{Ended, Entry, Filter, Whose};
use crate::session::{SessionKey, Settings};
use crate::store::AccountRecord;
use crate::telemetry::audit::{EndReason, Event};

/// How many sessions a page has unless it says, and at most.
const USUAL_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// `GET /api/sessions?account=&group=&after=&limit=`.
pub(super) async fn list(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&["account", "group", "after", "limit"])?;
    let limit = match call.param("limit") {
        None => USUAL_PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LARGEST_PAGE).contains(limit))
            .ok_or_else(|| Refusal::Bad(format!("`limit` is a number from 1 to {LARGEST_PAGE}")))?,
    };
    let after = match call.param("after") {
        None => None,
        Some(name) => Some(SessionKey::all_called(name).ok_or_else(no_name)?.1),
    };
    let (settings, now) = (api.sessions(), api.clock.now());
    let filter = filter(&api, &call, &settings).await?.unwrap_or(Filter::Everybody);
    let page = api.live.page(&filter, after, limit, &settings, now).await?;
    let sessions: Vec<Value> =
        page.entries.iter().map(|entry| Value::Object(facts(entry, &settings))).collect();
    Ok(answer(&json!({ "sessions": sessions, "next": page.next.map(|key| key.short()) })))
}

/// `GET /api/sessions/ID`.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Response, Refusal> {
    call.only(&[])?;
    let settings = api.sessions();
    let entry = named(&api, &name, &settings).await?;
    let mut facts = facts(&entry, &settings);
    if let Some(person) = &entry.person {
        facts.insert("email".to_owned(), json!(person.identity.email().map(|email| email.as_str())));
        facts.insert("groups".to_owned(), json!(person.membership.groups(true, |_| true)));
        facts.insert("groups_as_of".to_owned(), json!(person.membership.as_of().to_string()));
    }
    Ok(answer(&Value::Object(facts)))
}

/// `DELETE /api/sessions/ID`.
pub(super) async fn end_one(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Response, Refusal> {
    call.only(&["by", "why"])?;
    let word = call.word()?;
    let now = api.clock.now();
    // Whoever asks once more after a failure wants to hear that what was ended then is written.
    let owed = api.live.settle().await;
    let entry = match named(&api, &name, &api.sessions()).await {
        Err(Refusal::NotFound(_)) if let Err(error) = owed => return Err(error.into()),
        entry => entry?,
    };
    if !api.live.end(entry.key, EndReason::Revoked, now).await? {
        return Err(no_session(&name));
    }
    api.telemetry.metrics.sessions_ended.inc(EndReason::Revoked);
    let event = Event::SessionsRevoked {
        scope: "session",
        account: Some(entry.record.account),
        session: Some(entry.key),
        group: None,
        count: 1,
        word,
    };
    api.telemetry.audit.record(now, &event);
    Ok(counted(Ended { sessions: 1, accounts: 1 }))
}

/// `DELETE /api/sessions?account=…`, `?group=…` or `?all=true`.
pub(super) async fn end_many(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&["account", "group", "all", "by", "why"])?;
    let word = call.word()?;
    let (settings, now) = (api.sessions(), api.clock.now());
    let filter = match (filter(&api, &call, &settings).await?, call.flag("all")?) {
        (Some(filter), false) => filter,
        (None, true) => Filter::Everybody,
        _ => return Err(Refusal::Bad("say whose: one of `account`, `group` and `all=true`".to_owned())),
    };
    let ended = api.live.end_all(&filter, &settings, now).await;
    let (scope, account, group) = match &filter {
        Filter::Everybody => ("all", None, None),
        Filter::Account(account) => ("account", Some(*account), None),
        Filter::Group(group) => ("group", None, Some(group.to_string())),
    };
    // On record even where the store failed on the way: each account that was ended has its own line.
    let count = ended.as_ref().map_or(0, |ended| ended.sessions);
    let event = Event::SessionsRevoked { scope, account, session: None, group, count, word };
    api.telemetry.audit.record(now, &event);
    Ok(counted(ended?))
}

fn counted(ended: Ended) -> Response {
    answer(&json!({ "sessions": ended.sessions, "accounts": ended.accounts }))
}

/// Whose sessions are meant, if the call says.
async fn filter(api: &Api, call: &Call, settings: &Settings) -> Result<Option<Filter>, Refusal> {
    match (call.param("account"), call.param("group")) {
        (None, None) => Ok(None),
        (Some(name), None) => Ok(Some(Filter::Account(account(api, name, settings).await?))),
        (None, Some(name)) => {
            let group = name.parse().map_err(|error| Refusal::Bad(format!("`group`: {error}")))?;
            Ok(Some(Filter::Group(group)))
        }
        (Some(_), Some(_)) => Err(Refusal::Bad("`account` and `group` do not go together".to_owned())),
    }
}

async fn account(api: &Api, name: &str, settings: &Settings) -> Result<AccountId, Refusal> {
    match api.live.whose(name, settings, api.clock.now()).await? {
        Whose::Account(account) => Ok(account),
        Whose::Nobody => Err(Refusal::NotFound(format!(
            "nobody who is signed in has the nickname or the confirmed address `{name}`"
        ))),
        Whose::Several(people) => {
            let candidates = people.iter().map(|person| Value::Object(who(person))).collect();
            Err(Refusal::Ambiguous(format!("`{name}` is several accounts; give the uuid of one"), candidates))
        }
    }
}

async fn named(api: &Api, name: &str, settings: &Settings) -> Result<Entry, Refusal> {
    if SessionKey::all_called(name).is_none() {
        return Err(no_name());
    }
    api.live.named(name, settings, api.clock.now()).await?.ok_or_else(|| no_session(name))
}

fn no_name() -> Refusal {
    Refusal::Bad("the id of a session is 16 hexadecimal digits, as lists and logs have it".to_owned())
}

fn no_session(name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no session {name}, or it is over"))
}

/// Never the key: what names a session here is part of its hash, and opens nothing.
fn facts(entry: &Entry, settings: &Settings) -> Map<String, Value> {
    let Entry { key, record, person } = entry;
    let mut facts = Map::new();
    let mut say = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    say("id", json!(key.short()));
    say("account", json!(record.account.to_string()));
    say("begun_at", json!(record.begun_at.to_string()));
    say("last_used_at", json!(record.last_used_at.to_string()));
    say("expires_at", json!(record.ends_at(record.last_used_at, settings).to_string()));
    say("address", json!(record.address.map(|address| address.to_string())));
    say("user_agent", json!(record.user_agent));
    say("hosts", json!(record.hosts));
    if let Some(person) = person {
        facts.append(&mut who(person));
    }
    facts
}

fn who(person: &AccountRecord) -> Map<String, Value> {
    let identity = &person.identity;
    let pairs = [
        ("account", json!(identity.account().to_string())),
        ("name", json!(identity.display_name())),
        ("nickname", json!(identity.nickname())),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
