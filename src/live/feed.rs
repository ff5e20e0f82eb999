//! What other replicas end and change, brought into this one's memory.
//!
//! Owns: [`Listener`]: what each kind of news does here, and that nothing missed stays missed.
//! Must not know: how news come.
//!
//! After every break in the news all that is in memory is held against the store, sessions first: a session that
//! was ended meanwhile is over as soon as that is done. As long as the store cannot be asked, it is tried again.

use std::time::Duration;

use super::Live;
use crate::assertion::{self, Assertions};
use crate::clock::{Clock, Timestamp};
use crate::session::SessionKey;
use crate::store;
use crate::store::news::{Feed, News};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::EndReason;

/// How many sessions are looked at in one question.
const TOGETHER: usize = 1_000;
/// How long after a failure everything is looked at again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Hears the news.
#[derive(Clone)]
pub struct Listener {
    /// The sessions.
    pub live: Live,
    /// The keys that sign.
    pub assertions: Assertions,
    /// What time it is.
    pub clock: Clock,
    /// Who is told of failures.
    pub telemetry: Telemetry,
}

impl Listener {
    /// Does what each news asks for, until the task is dropped. `settings` is asked each time, so that a reload takes
    /// effect.
    pub async fn listen(self, mut feed: Feed, settings: impl Fn() -> assertion::Settings) {
        loop {
            let mut news = feed.next().await;
            while let Err(error) = self.hear(&news, &settings()).await {
                self.telemetry.warn_limited("news", self.clock.now(), &error);
                // What cannot be done for one news now is made good by looking at everything later.
                news = News::Gap;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    /// Does what one of the news asks for.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked what is the case.
    pub async fn hear(&self, news: &News, settings: &assertion::Settings) -> Result<(), Unheard> {
        match news {
            News::SessionsEnded(keys) => self.live.ended_elsewhere(keys, self.clock.now()),
            News::AccountChanged(account) => self.live.0.directory.reread(*account).await?,
            News::GrantForgotten(account) => self.live.0.directory.let_go(*account),
            News::KeysChanged => self.assertions.rotate(settings, self.clock.now()).await?,
            News::Gap => {
                self.live.hold_against_the_store(&self.clock).await?;
                self.live.0.directory.reread_all().await?;
                self.assertions.rotate(settings, self.clock.now()).await?;
            }
        }
        Ok(())
    }
}

/// Why something is not known here yet.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// Sessions or accounts.
    #[error("what other replicas did cannot be read yet; it is tried again: {0}")]
    Store(#[from] store::Error),
    /// Signing keys.
    #[error("the signing keys of other replicas cannot be read yet; it is tried again: {0}")]
    Keys(#[from] assertion::Error),
}

impl Live {
    /// Ends sessions here that another replica has ended.
    pub(super) fn ended_elsewhere(&self, keys: &[SessionKey], now: Timestamp) {
        if keys.is_empty() {
            return;
        }
        for key in keys {
            self.revocations().note_elsewhere(*key, now);
            if let Some(session) = self.0.sessions.pin().get(key) {
                session.end(EndReason::Elsewhere);
            }
        }
        self.0.directory.stir();
    }

    /// Ends every session here that the store does not have any more.
    async fn hold_against_the_store(&self, clock: &Clock) -> Result<(), store::Error> {
        let keys: Vec<SessionKey> = self.0.sessions.pin().keys().copied().collect();
        for some in keys.chunks(TOGETHER) {
            let missing = self.0.store.missing_sessions(some).await?;
            self.ended_elsewhere(&missing, clock.now());
        }
        Ok(())
    }
}
