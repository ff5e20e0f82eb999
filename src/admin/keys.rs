//! Keys for operators: what there is, what still needs an old one, and replacing those that sign.
//!
//! Owns: `/api/keys`. Must not know: what a key looks like. Nothing secret is ever said.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::Api;
use super::call::{Call, Refusal, answer};
use crate::assertion;
use crate::telemetry::audit::Event;

/// `GET /api/keys`.
pub(super) async fn list(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&[])?;
    let used = api.store.key_use().await?;
    let mut earlier = 0;
    let mut secret: Vec<Value> = Vec::new();
    // From the oldest: a session that was begun under an older key may have a cookie under a newer one, for a
    // host that it came to later.
    for (place, key) in api.ring.keys().iter().enumerate().rev() {
        let uses = used.get(&key.id).copied().unwrap_or_default();
        earlier += uses.sessions;
        secret.push(json!({
            "id": key.id.to_string(),
            "made_at": key.made_at.map(|at| at.to_string()),
            "seals": place == 0,
            "records": uses.records,
            "sessions": earlier,
            "may_go": place != 0 && uses.records == 0 && earlier == 0,
        }));
    }
    secret.reverse();
    let (keys, signs) = api.assertions.keys(api.clock.now());
    let signing: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "id": key.kid(),
                "algorithm": key.algorithm().name(),
                "made_at": key.created_at().to_string(),
                "signs_from": key.signs_from().to_string(),
                "signs": key.kid() == signs,
            })
        })
        .collect();
    let refused = api.telemetry.metrics.secret_file_refused.get() != 0;
    Ok(answer(&json!({ "secret": secret, "signing": signing, "secret_file_refused": refused })))
}

/// `POST /api/keys/signing`: a new key signs in an hour; with `now=true` at once, and the others are gone.
pub(super) async fn rotate(State(api): State<Arc<Api>>, call: Call) -> Result<Response, Refusal> {
    call.only(&["now", "by", "why"])?;
    let (word, now) = (call.word()?, api.clock.now());
    let current = api.current.load_full();
    let gone = if call.flag("now")? {
        let keys = api.assertions.distrust(&current.assertion, now).await?;
        api.telemetry.audit.record(now, &Event::KeysDistrusted { keys: keys.clone(), word });
        keys
    } else {
        api.assertions.rotate_early(&current.assertion, now).await?;
        Vec::new()
    };
    let (keys, signs) = api.assertions.keys(now);
    let next = keys.last().map(|key| json!({ "id": key.kid(), "signs_from": key.signs_from().to_string() }));
    Ok(answer(&json!({ "signs": signs, "newest": next, "gone": gone })))
}

impl From<assertion::Error> for Refusal {
    fn from(error: assertion::Error) -> Refusal {
        match error {
            assertion::Error::Store(error) => Refusal::Store(error),
            assertion::Error::Signing(error) => Refusal::Failed(error.to_string()),
        }
    }
}
