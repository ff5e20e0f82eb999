//! The attempts to get an answer to one request.
//!
//! Owns: [`Attempts`]: which upstreams were tried, which one is asked now, whether another may be.
//! Must not know: how an upstream is chosen, what the answer is.

use std::sync::Arc;
use std::time::Instant;

use super::awaited::{Rang, Waits, Watch};
use super::balance::{Endpoint, NoneLeft, Pool, Pools, Taken};
use crate::route::upstream::app::{App, ServerErrors};
use crate::route::upstream::balance::Key;

/// How many other upstreams are tried when one takes no connection: nothing was sent, so nothing is repeated.
const UNCONNECTED: u32 = 3;

/// How often an upstream may say that it has not looked at a request. One that closes its connections in good order
/// says it once for each that is under way.
const UNPROCESSED: u32 = 5;

/// The attempts so far.
#[derive(Default)]
pub struct Attempts {
    pool: Option<Arc<Pool>>,
    current: Option<Taken>,
    tried: Vec<Arc<Endpoint>>,
    unconnected: u32,
    unprocessed: u32,
    sent_again: u32,
    /// When the whole must be over.
    end_by: Option<Instant>,
    watch: Option<Watch>,
    header: Header,
}

/// Whether the header of an answer has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Header {
    #[default]
    Awaited,
    Here,
}

/// Whether an answer is one of 500 to 599.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ServerError {
    Yes,
    No,
}

/// What went wrong, as far as it matters for another attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken {
    /// Whether the request may be repeated (RFC 9110 §9.2.2).
    pub(super) method: Method,
    /// Whether what was read of its body is still there.
    pub(super) body: Body,
    /// What the app did.
    pub(super) how: How,
}

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unconnected {
    /// The upstream takes none.
    Refused,
    /// The one that was kept was over.
    Over,
}

/// Whether a request may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Idempotent,
    Other,
}

/// Whether a body can be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    Kept,
    Gone,
}

/// How an attempt ended without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// The app said that it has not looked at the request (RFC 9113 §8.7).
    Unprocessed,
    /// A connection that had been used before ended: it was over when the request was sent.
    OldConnection,
    /// A connection that others used as well, or a stream on it, ended. Perhaps the app is at fault, perhaps not.
    UsedConnection,
    /// Anything else.
    Failed,
    /// It took too long. Whoever waits has waited enough.
    TooLate,
}

/// Whether to try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// With another upstream.
    Elsewhere,
    /// Whichever it is.
    Anywhere,
    /// Not.
    No,
}

/// Whether another attempt is made after one that broke before an answer. `left` says how many more of its kind.
fn again(broken: Broken, left: u32, others: bool) -> Again {
    let Broken { method, body, how } = broken;
    if left == 0 || body == Body::Gone {
        return Again::No;
    }
    match (how, method) {
        (How::TooLate, _) => Again::No,
        // Nothing is done twice, so the method says nothing.
        (How::Unprocessed, _) => Again::Anywhere,
        (How::OldConnection | How::UsedConnection, Method::Idempotent) => Again::Anywhere,
        (How::Failed, Method::Idempotent) if others => Again::Elsewhere,
        (How::Failed | How::OldConnection | How::UsedConnection, _) => Again::No,
    }
}

impl Attempts {
    /// Takes the next upstream. The first time a name that is not resolved yet is waited for.
    pub(super) async fn next(
        &mut self,
        pools: &Pools,
        app: &Arc<App>,
        key: Option<Key>,
    ) -> Result<Arc<Endpoint>, NoneLeft> {
        let pool = self.pool.get_or_insert_with(|| pools.of(app));
        self.watch = None;
        self.current = None;
        let taken = match pool.take(key, &self.tried) {
            Err(NoneLeft::Nowhere) => {
                // The resolver has a time limit of its own.
                pool.resolved().await;
                pool.take(key, &self.tried)
            }
            taken => taken,
        };
        let endpoint = taken.as_ref().map(|taken| taken.endpoint().clone()).map_err(|none| *none);
        self.current = taken.ok();
        endpoint
    }

    /// The upstream that is asked, or was last.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.current.as_ref().map(Taken::endpoint).or(self.tried.last())
    }

    /// When the whole must be over, counted from the first attempt.
    pub(super) fn end_by(&mut self, waits: &Waits) -> Option<Instant> {
        let total = waits.total?;
        Some(*self.end_by.get_or_insert_with(|| Instant::now() + total))
    }

    /// Watches over the attempt from now on.
    pub(super) fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// The request is sent whole.
    pub(super) fn asked(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.asked();
        }
    }

    /// The header of the answer has come, with what its status means for the upstream.
    pub(super) fn answered(&mut self, server_error: ServerError) {
        if self.header == Header::Here {
            return;
        }
        self.header = Header::Here;
        if let Some(watch) = &mut self.watch {
            watch.answered();
        }
        let (Some(pool), Some(taken)) = (&self.pool, &self.current) else { return };
        let ejection = taken.endpoint().target.ejection;
        let counts = ejection.is_some_and(|ejection| ejection.server_errors == ServerErrors::Count);
        if server_error == ServerError::Yes && counts {
            taken.endpoint().failed(pool);
        } else {
            taken.endpoint().answered();
        }
    }

    /// Whether the header of the answer has come.
    pub(super) fn is_answered(&self) -> bool {
        self.header == Header::Here
    }

    /// Which limit was passed, if any.
    pub(super) fn rang(&self) -> Option<Rang> {
        self.watch.as_ref().and_then(Watch::rang)
    }

    /// The upstream took no connection. Nothing was sent.
    pub(super) fn not_connected(&mut self, how: Unconnected) -> Again {
        match how {
            Unconnected::Refused => self.give_up(),
            Unconnected::Over => {
                self.watch = None;
                self.current = None;
            }
        }
        let others = self.pool.as_ref().is_some_and(|pool| pool.has_untried(&self.tried));
        if !others || self.unconnected >= UNCONNECTED {
            return Again::No;
        }
        self.unconnected += 1;
        match how {
            Unconnected::Refused => Again::Elsewhere,
            Unconnected::Over => Again::Anywhere,
        }
    }

    /// The upstream broke off before an answer.
    pub(super) fn broke(&mut self, broken: Broken) -> Again {
        let Some(pool) = self.pool.clone() else { return Again::No };
        let Some(taken) = self.current.take() else { return Again::No };
        self.watch = None;
        let endpoint = taken.endpoint().clone();
        self.tried.push(endpoint.clone());
        let (sent, most) = match broken.how {
            How::Unprocessed => (&mut self.unprocessed, UNPROCESSED),
            How::OldConnection | How::UsedConnection | How::Failed | How::TooLate => {
                (&mut self.sent_again, pool.app.retries)
            }
        };
        let again = again(broken, most.saturating_sub(*sent), pool.has_untried(&self.tried));
        // An old connection that ends, or any in good order, says nothing about the app.
        if matches!(broken.how, How::UsedConnection | How::Failed | How::TooLate) {
            endpoint.failed(&pool);
        }
        if again == Again::No {
            return again;
        }
        *sent += 1;
        endpoint.metrics.retries.inc();
        if again == Again::Anywhere {
            self.tried.pop();
        }
        again
    }

    fn give_up(&mut self) {
        self.watch = None;
        let Some(taken) = self.current.take() else { return };
        if let Some(pool) = &self.pool {
            taken.endpoint().failed(pool);
        }
        self.tried.push(taken.endpoint().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_repeated_is_and_nothing_else() {
        use {Again as A, Body as B, How as H, Method as M};
        for (method, body, how, left, others, expected) in [
            (M::Idempotent, B::Kept, H::Failed, 1, true, A::Elsewhere),
            (M::Idempotent, B::Kept, H::Failed, 1, false, A::No),
            (M::Idempotent, B::Kept, H::Failed, 0, true, A::No),
            (M::Idempotent, B::Gone, H::Failed, 1, true, A::No),
            (M::Other, B::Kept, H::Failed, 1, true, A::No),
            (M::Idempotent, B::Kept, H::OldConnection, 1, false, A::Anywhere),
            (M::Other, B::Kept, H::OldConnection, 1, true, A::No),
            (M::Idempotent, B::Kept, H::UsedConnection, 1, false, A::Anywhere),
            (M::Other, B::Kept, H::UsedConnection, 1, true, A::No),
            (M::Other, B::Kept, H::Unprocessed, 1, false, A::Anywhere),
            (M::Other, B::Gone, H::Unprocessed, 1, true, A::No),
            (M::Other, B::Kept, H::Unprocessed, 0, true, A::No),
            (M::Idempotent, B::Kept, H::TooLate, 1, true, A::No),
        ] {
            let found = again(Broken { method, body, how }, left, others);
            assert_eq!(found, expected, "{method:?} {body:?} {how:?} {left} {others}");
        }
    }
}
