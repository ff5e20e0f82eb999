//! News between replicas: a stream that every replica reads from where it stood.
//!
//! Owns: how news are spelt, reading on, noticing that some were missed. Must not know: who listens.
//!
//! A stream rather than pub/sub: what is sent while a replica is busy waits for it, and a Cluster's bus may lose
//! what is published. But no stream tells what a failover has lost, so after every new connection there is a
//! [`News::Gap`], and everything in memory is looked at again.

use std::collections::VecDeque;
use std::time::Duration;

use ::redis::aio::ConnectionLike as _;
use ::redis::{Cmd, FromRedisValue as _, RedisError, RedisResult, Value};

use super::super::news::News;
use super::link::{Connection, Dialer};
use crate::identity::AccountId;
use crate::session::SessionKey;

/// How long one reading waits.
const WAIT: Duration = Duration::from_secs(1);
/// A server that does not answer after this is given up: a wait and what an answer may take.
const SILENCE: Duration = Duration::from_secs(3);
/// How many news are read at once.
const BATCH: usize = 1_000;
/// How many are kept for those that are late. They are small: a megabyte in all.
const KEPT: usize = 10_000;
/// The first pause after a failed connection; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

const SESSIONS: &str = "s";
const ACCOUNT: &str = "a";
const GRANT: &str = "g";
const KEYS: &str = "k";
const ORIGIN: &str = "o";

/// Who tells.
type Origin = [u8; 8];

/// The command that tells `news`. A gap cannot be told.
pub(super) fn told(stream: &[u8], origin: Origin, news: &News) -> Option<Cmd> {
    let (kind, payload) = match news {
        News::SessionsEnded(keys) => (SESSIONS, keys.iter().flat_map(|key| key.0).collect()),
        News::AccountChanged(account) => (ACCOUNT, account.to_bytes().to_vec()),
        News::GrantForgotten(account) => (GRANT, account.to_bytes().to_vec()),
        News::KeysChanged => (KEYS, Vec::new()),
        News::Gap => return None,
    };
    let mut command = ::redis::cmd("XADD");
    command
        .arg(stream)
        .arg("MAXLEN")
        .arg("~")
        .arg(KEPT)
        .arg("*")
        .arg(kind)
        .arg(payload)
        .arg(ORIGIN)
        .arg(&origin);
    Some(command)
}

fn read(kind: &str, payload: &[u8]) -> Option<News> {
    let account = || Some(AccountId::from_bytes(payload.try_into().ok()?));
    Some(match kind {
        SESSIONS => {
            let (keys, rest) = payload.as_chunks::<32>();
            if !rest.is_empty() {
                return None;
            }
            News::SessionsEnded(keys.iter().map(|key| SessionKey(*key)).collect())
        }
        ACCOUNT => News::AccountChanged(account()?),
        GRANT => News::GrantForgotten(account()?),
        KEYS => News::KeysChanged,
        _ => return None,
    })
}

/// Reads the stream over a connection of its own, which waits most of the time.
pub(in super::super) struct Follower {
    dialer: Dialer,
    stream: Vec<u8>,
    origin: Origin,
    /// The connection, and the last that was read.
    at: Option<(Connection, String)>,
    waiting: VecDeque<News>,
    pause: Duration,
}

/// As Redis gives it: one stream, its entries, the fields of each.
type Reply = Option<Vec<(Value, Vec<(String, Vec<(String, Vec<u8>)>)>)>>;

impl Follower {
    pub(super) fn new(settings: super::Settings, stream: Vec<u8>, origin: Origin) -> RedisResult<Follower> {
        let dialer = Dialer::patient(settings, SILENCE, 0)?;
        Ok(Follower { dialer, stream, origin, at: None, waiting: VecDeque::new(), pause: FIRST_PAUSE })
    }

    pub(in super::super) async fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.waiting.pop_front() {
                return news;
            }
            let outcome = match self.at.take() {
                None => self.begin().await,
                Some((connection, last)) => self.go_on(connection, last).await,
            };
            match outcome {
                Ok(()) => self.pause = FIRST_PAUSE,
                Err(error) => {
                    tracing::debug!(%error, "news from other replicas cannot be read; trying again");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Finds the end of the stream, and only then has everything looked at: what comes after that is read.
    async fn begin(&mut self) -> RedisResult<()> {
        let mut connection = self.dialer.connect().await?;
        let mut command = ::redis::cmd("XREVRANGE");
        command.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let reply = limited(&mut connection, &command).await?;
        let last = Vec::<(String, Value)>::from_redis_value(reply)?.into_iter().next();
        self.at = Some((connection, last.map_or_else(|| "0-0".to_owned(), |(id, _)| id)));
        self.waiting.push_back(News::Gap);
        Ok(())
    }

    async fn go_on(&mut self, mut connection: Connection, mut last: String) -> RedisResult<()> {
        let mut command = ::redis::cmd("XREAD");
        let wait = u64::try_from(WAIT.as_millis()).unwrap_or(1_000);
        command.arg("BLOCK").arg(wait).arg("COUNT").arg(BATCH).arg("STREAMS").arg(&self.stream).arg(&last);
        let reply = limited(&mut connection, &command).await?;
        let entries = Reply::from_redis_value(reply)?.into_iter().flatten().flat_map(|(_, entries)| entries);
        let mut count = 0;
        for (id, fields) in entries {
            count += 1;
            last = id;
            if fields.iter().any(|(name, origin)| name == ORIGIN && *origin == self.origin) {
                continue;
            }
            // What a later version tells and this one does not understand may matter all the same.
            let news = fields.iter().filter(|(name, _)| name != ORIGIN);
            self.waiting.extend(news.map(|(kind, payload)| read(kind, payload).unwrap_or(News::Gap)));
        }
        if count >= BATCH {
            // So far behind that the stream may have been cut in front of us.
            self.waiting.push_back(News::Gap);
        }
        self.at = Some((connection, last));
        Ok(())
    }
}

async fn limited(connection: &mut Connection, command: &Cmd) -> RedisResult<Value> {
    match tokio::time::timeout(SILENCE, connection.req_packed_command(command)).await {
        Ok(outcome) => outcome.and_then(Value::extract_error),
        Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_what_is_not_understood_is_a_gap() {
        let account = AccountId::from_bytes([7; 16]);
        for news in [
            News::SessionsEnded(vec![SessionKey([1; 32]), SessionKey([2; 32])]),
            News::AccountChanged(account),
            News::GrantForgotten(account),
            News::KeysChanged,
        ] {
            let command = told(b"stream", [1; 8], &news);
            let arguments: Vec<Vec<u8>> = command
                .iter()
                .flat_map(|command| command.args_iter())
                .filter_map(|argument| match argument {
                    ::redis::Arg::Simple(bytes) => Some(bytes.to_vec()),
                    _ => None,
                })
                .collect();
            let found = match arguments.as_slice() {
                [.., kind, payload, _, _] => read(&String::from_utf8_lossy(kind), payload),
                _ => None,
            };
            assert_eq!(found, Some(news));
        }
        assert!(told(b"stream", [1; 8], &News::Gap).is_none());
        for (kind, payload) in [("s", &[1; 31][..]), ("a", &[1; 15]), ("z", &[])] {
            assert_eq!(read(kind, payload), None, "{kind}");
        }
    }
}
