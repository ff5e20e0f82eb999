//! One signed-in browser: when it began, when it was last used, when it is over.
//!
//! Owns: [`SessionKey`], [`Record`], [`Settings`], [`standing`].
//! Must not know: cookies, the store, memberships.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::AccountId;

/// What a session is kept under: the SHA-256 of its secret id. Who reads the store cannot make a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub [u8; 32]);

impl SessionKey {
    /// A short name for logs, pages and the assertion's `sid`: 16 hexadecimal digits of the hash.
    pub fn short(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short())
    }
}

/// How long sessions live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From sign-in to the end, used or not. Default 24 h.
    pub lifetime: Duration,
    /// From the last request to the end. Default 8 h.
    pub idle: Duration,
}

/// What is known of a session from its beginning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub account: AccountId,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When it was last used, as far as written down: touches are batched.
    pub last_used_at: Timestamp,
    /// Where the browser was at sign-in, for the person's own eyes.
    pub address: Option<std::net::IpAddr>,
    /// What the browser called itself at sign-in, cut to 200 bytes.
    pub user_agent: Option<Box<str>>,
}

/// Whether a session still counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It counts.
    Live,
    /// Unused for too long.
    Idle,
    /// Too old.
    Expired,
}

impl Record {
    /// The moment from which the session no longer counts, if it is not used again.
    pub fn ends_at(&self, last_used_at: Timestamp, settings: &Settings) -> Timestamp {
        self.begun_at.plus(settings.lifetime).min(last_used_at.plus(settings.idle))
    }
}

/// Judges a session at `now`. `last_used_at` may be younger than what the record says.
pub fn standing(record: &Record, last_used_at: Timestamp, settings: &Settings, now: Timestamp) -> Standing {
    if now.since(record.begun_at) >= settings.lifetime {
        Standing::Expired
    } else if now.since(last_used_at) >= settings.idle {
        Standing::Idle
    } else {
        Standing::Live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_age_or_by_disuse_whichever_is_first() {
        let at = Timestamp::from_unix_seconds;
        let settings = Settings { lifetime: Duration::from_secs(100), idle: Duration::from_secs(30) };
        let record = Record {
            account: AccountId::from_bytes([1; 16]),
            begun_at: at(1_000),
            last_used_at: at(1_000),
            address: None,
            user_agent: None,
        };
        for (last_used, now, expected) in [
            (1_000, 1_000, Standing::Live),
            (1_000, 1_029, Standing::Live),
            (1_000, 1_030, Standing::Idle),
            (1_090, 1_099, Standing::Live),
            (1_099, 1_100, Standing::Expired),
        ] {
            assert_eq!(standing(&record, at(last_used), &settings, at(now)), expected, "{last_used} {now}");
        }
        assert_eq!(record.ends_at(at(1_000), &settings), at(1_030));
        assert_eq!(record.ends_at(at(1_095), &settings), at(1_100));
    }
}
