//! Follows the secret file while the gateway runs.
//!
//! Owns: [`Follower`]: when a changed file is taken, what is said of one that is not, when the store is sealed
//! anew. Must not know: the file's format.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::keys::reload::{Look, Succession, Watch, succession};
use crate::keys::{KeyId, Keyring};
use crate::store::{self, KeyUse, Store};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;
use crate::telemetry::labels::KeyReload;

/// How often the file is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often what came out under an older key is looked for again: it was being sealed when the ring changed, or
/// by a replica that had not seen the file yet.
const RENEW_EVERY: Duration = Duration::from_secs(600);

pub(super) struct Follower {
    watch: Watch,
    ring: Arc<Keyring>,
    store: Store,
    telemetry: Telemetry,
    /// When the store is to be sealed anew; none while there is nothing but the first key.
    renew_at: Option<Timestamp>,
}

impl Follower {
    pub(super) fn new(file: &Path, ring: Arc<Keyring>, store: Store, telemetry: Telemetry) -> Follower {
        Follower { watch: Watch::new(file), ring, store, telemetry, renew_at: None }
    }

    /// Looks once, and does what is due.
    pub(super) async fn step(&mut self, now: Timestamp) {
        match self.watch.look() {
            Look::Same => {}
            Look::Changed(next) => self.consider(&next, now).await,
            Look::Broken(error) => self.refuse(&error),
        }
        if self.ring.ids().len() > 1 && self.renew_at.is_none_or(|at| now >= at) {
            self.renew(now).await;
        }
    }

    async fn consider(&mut self, next: &Keyring, now: Timestamp) {
        let ids = |ring: &Keyring| ring.ids().collect::<Vec<KeyId>>();
        match succession(&ids(&self.ring), &ids(next)) {
            Succession::Same => {
                self.ring.become_like(next);
                self.telemetry.metrics.secret_file_refused.set(0);
            }
            Succession::LacksTheSealingKey(key) => self.refuse(&format_args!(
                "the secret file has no key {key}, under which everything is sealed; put that line back, below the \
                 new one"
            )),
            Succession::Follows { seals, gone } => match self.lost(&gone).await {
                Err(error) => {
                    self.telemetry.warn_limited("keys", now, &error);
                    self.watch.look_again();
                }
                Ok(lost) if lost.records > 0 => self.refuse(&format_args!(
                    "the secret file lacks keys that {} stored records are still sealed under; put them back for a \
                     while: `teamgate keys list` says when they may go",
                    lost.records
                )),
                Ok(lost) => self.take(next, seals, &gone, lost, now),
            },
        }
    }

    /// What is lost with the keys that are `gone`, after everything that can be saved was.
    async fn lost(&self, gone: &[KeyId]) -> Result<KeyUse, store::Error> {
        if gone.is_empty() {
            return Ok(KeyUse::default());
        }
        self.store.renew().await?;
        let used = self.store.key_use().await?;
        Ok(gone.iter().filter_map(|key| used.get(key)).fold(KeyUse::default(), |sum, key| KeyUse {
            records: sum.records + key.records,
            sessions: sum.sessions + key.sessions,
        }))
    }

    fn take(&mut self, next: &Keyring, seals: Option<KeyId>, gone: &[KeyId], lost: KeyUse, now: Timestamp) {
        self.ring.become_like(next);
        self.renew_at = None;
        self.telemetry.metrics.key_reloads.inc(KeyReload::Taken);
        self.telemetry.metrics.secret_file_refused.set(0);
        if let Some(key) = seals {
            tracing::info!(key.id = %key, "a new key seals; older ones of the secret file still open");
            let event = Event::KeysRotated { purpose: "secret", key: key.to_string() };
            self.telemetry.audit.record(now, &event);
        }
        for key in gone {
            tracing::info!(key.id = %key, "a key has left the secret file, and opens nothing any more");
        }
        if lost.sessions > 0 {
            tracing::warn!(
                sessions = lost.sessions,
                "sessions whose cookies were made under a key that has left the secret file are over"
            );
        }
    }

    /// Keeps the keys in use, and says why. The watch tells each fault once.
    fn refuse(&self, why: &dyn std::fmt::Display) {
        tracing::error!(error = %why, "the secret file is not taken; the keys that were read before stay in use");
        self.telemetry.metrics.key_reloads.inc(KeyReload::Refused);
        self.telemetry.metrics.secret_file_refused.set(1);
    }

    async fn renew(&mut self, now: Timestamp) {
        match self.store.renew().await {
            Ok(renewed) => {
                self.renew_at = Some(now.plus(RENEW_EVERY));
                if renewed > 0 {
                    tracing::info!(records = renewed, "the store is sealed anew under the first key");
                }
            }
            // Tried again at the next look.
            Err(error) => self.telemetry.warn_limited("keys", now, &error),
        }
    }
}
