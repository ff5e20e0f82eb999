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
    /// A short name for logs, pages, operators and the assertion's `sid`: 16 hexadecimal digits of the hash.
    /// It names a session, and is no use for anything else: whoever has it cannot make the cookie, since that is
    /// the 256 random bits that were hashed.
    pub fn short(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first and the last key that can have this short name; none if it is no short name.
    pub fn all_called(name: &str) -> Option<(SessionKey, SessionKey)> {
        let is_one = name.len() == 16 && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let head = u64::from_str_radix(name, 16).ok().filter(|_| is_one)?.to_be_bytes();
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        first[..8].copy_from_slice(&head);
        last[..8].copy_from_slice(&head);
        Some((SessionKey(first), SessionKey(last)))
    }

    /// The key just before this one; none before the very first.
    pub fn previous(&self) -> Option<SessionKey> {
        let mut key = self.0;
        for byte in key.iter_mut().rev() {
            let (less, borrowed) = byte.overflowing_sub(1);
            *byte = less;
            if !borrowed {
                return Some(SessionKey(key));
            }
        }
        None
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

impl Settings {
    /// The moment from which a session no longer counts, if it is not used again.
    pub fn ends_at(&self, begun_at: Timestamp, last_used_at: Timestamp) -> Timestamp {
        begun_at.plus(self.lifetime).min(last_used_at.plus(self.idle))
    }

    /// Judges a session at `now`.
    pub fn standing(&self, begun_at: Timestamp, last_used_at: Timestamp, now: Timestamp) -> Standing {
        if now.since(begun_at) >= self.lifetime {
            Standing::Expired
        } else if now.since(last_used_at) >= self.idle {
            Standing::Idle
        } else {
            Standing::Live
        }
    }
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
    /// The hosts that it was handed over to, in order; the last [`HOSTS`]. Only the store's word is the latest.
    #[serde(default)]
    pub hosts: Box<[Box<str>]>,
}

/// How many hosts a session remembers; the earliest is forgotten first.
pub const HOSTS: usize = 32;

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
    /// Remembers that it was handed over to `host`. Whether that is news.
    pub fn add_host(&mut self, host: &str) -> bool {
        if self.hosts.iter().any(|known| **known == *host) {
            return false;
        }
        let mut hosts = std::mem::take(&mut self.hosts).into_vec();
        hosts.push(host.into());
        hosts.drain(..hosts.len().saturating_sub(HOSTS));
        self.hosts = hosts.into();
        true
    }

    /// The moment from which the session no longer counts, if it is not used again.
    pub fn ends_at(&self, last_used_at: Timestamp, settings: &Settings) -> Timestamp {
        settings.ends_at(self.begun_at, last_used_at)
    }
}

/// Judges a session at `now`. `last_used_at` may be younger than what the record says.
pub fn standing(record: &Record, last_used_at: Timestamp, settings: &Settings, now: Timestamp) -> Standing {
    settings.standing(record.begun_at, last_used_at, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_stands_for_the_keys_that_have_it() {
        let key = SessionKey([0xa1; 32]);
        let name = key.short();
        let found = SessionKey::all_called(&name);
        assert!(found.is_some_and(|(first, last)| first < key
            && key < last
            && first.short() == name
            && last.short() == name));
        assert!(found.is_some_and(|(first, last)| {
            first.previous().is_some_and(|before| before.short() != name) && last > first
        }));
        assert_eq!(SessionKey([0; 32]).previous(), None);
        assert_eq!(SessionKey::all_called("0000000000000000").and_then(|(first, _)| first.previous()), None);
        for name in
            ["", "a1", "A1A1A1A1A1A1A1A1", "+1a1a1a1a1a1a1a1", "a1a1a1a1a1a1a1a1a1", "g000000000000000"]
        {
            assert_eq!(SessionKey::all_called(name), None, "{name}");
        }
    }

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
            hosts: Box::default(),
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

    #[test]
    fn the_hosts_of_a_session_are_each_remembered_once_and_not_without_end() {
        let at = Timestamp::from_unix_seconds;
        let mut record = Record {
            account: AccountId::from_bytes([1; 16]),
            begun_at: at(1),
            last_used_at: at(1),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        };
        assert!(record.add_host("a.example") && !record.add_host("a.example"));
        for number in 0..HOSTS {
            assert!(record.add_host(&format!("{number}.example")));
        }
        assert_eq!(record.hosts.len(), HOSTS);
        assert_eq!((&*record.hosts[0], &*record.hosts[HOSTS - 1]), ("0.example", "31.example"));
    }

    #[test]
    fn a_record_of_a_version_that_knew_no_hosts_still_reads() -> Result<(), serde_json::Error> {
        let record = Record {
            account: AccountId::from_bytes([1; 16]),
            begun_at: Timestamp::from_unix_seconds(1),
            last_used_at: Timestamp::from_unix_seconds(1),
            address: None,
            user_agent: None,
            hosts: Box::default(),
        };
        let mut written = serde_json::to_value(&record)?;
        written.as_object_mut().and_then(|fields| fields.remove("hosts"));
        assert_eq!(serde_json::from_value::<Record>(written)?, record);
        Ok(())
    }
}
