//! Requests that stay open after they were admitted, and whether they may go on.
//!
//! Owns: [`Line`], [`Ending`].
//! Must not know: Pingora, sockets, how a WebSocket or a gRPC client is told that it is over.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

pub use crate::telemetry::labels::Ending;

/// One request under way, as those see it who may have to end it.
///
/// Whoever serves the request waits for [`Line::ended`]; whoever takes the pass back calls [`Line::end`].
#[derive(Debug, Default)]
pub struct Line {
    ending: OnceLock<Ending>,
    told: Notify,
}

impl Line {
    /// One that goes on.
    pub fn new() -> Arc<Line> {
        Arc::new(Line::default())
    }

    /// Ends it, at once and for good. The first ending counts.
    pub fn end(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            self.told.notify_waiters();
        }
    }

    /// Why it was ended; `None` while it goes on.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }

    /// Waits until it is ended: for ever, if nobody does. Any number may wait, and stop waiting.
    pub async fn ended(&self) -> Ending {
        loop {
            // Created before the look: `notify_waiters` reaches those that exist, awaited or not.
            let told = self.told.notified();
            if let Some(ending) = self.ending() {
                return ending;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_line_is_ended_once_and_everybody_who_waits_hears_of_it() {
        let line = Line::new();
        assert_eq!(line.ending(), None);
        // Whoever stops waiting takes nothing away from the others.
        assert_eq!(line.ended().now_or_never(), None);
        let mut first = Box::pin(line.ended());
        assert_eq!(first.as_mut().now_or_never(), None);
        let second = tokio::spawn({
            let line = line.clone();
            async move { line.ended().await }
        });
        tokio::task::yield_now().await;
        line.end(Ending::SignedOut);
        line.end(Ending::Revoked);
        assert_eq!(first.await, Ending::SignedOut);
        assert_eq!(second.await.ok(), Some(Ending::SignedOut));
        assert_eq!(line.ended().now_or_never(), Some(Ending::SignedOut));
        assert_eq!(line.ending(), Some(Ending::SignedOut));
    }
}
