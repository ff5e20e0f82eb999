//! What Bitbucket has shown of itself, endpoint by endpoint, in the answers that it gave.
//!
//! Owns: [`Observations`] and their bounds, [`Observer`], which stands where calls pass and takes notes.
//! Must not know: what is wrong about it, what the configuration needs, who asks. Holds no token and no body.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Call, Class, Endpoint, Error, Held, Notices, Outcome, Right, Traffic};
use crate::clock::{Clock, Timestamp};

/// How many scopes are kept. Bitbucket knows about thirty.
const SCOPES: usize = 64;

/// What was seen so far. One place for each endpoint, and nothing grows.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    seen: [Seen; Endpoint::ALL.len()],
    scopes: Option<Vec<Box<str>>>,
    skew: Option<Skew>,
}

/// What was seen of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When it was asked last, and what came of that.
    pub heard: Option<(Timestamp, Outcome)>,
    /// When it gave an answer last that can be used. That a token is dead, or that somebody is no member, is one.
    pub good_at: Option<Timestamp>,
    /// What was wrong with the last answer, if anything was.
    pub refusal: Option<Error>,
    /// What the last answer said of the endpoint's future.
    pub notices: Notices,
}

/// How far Bitbucket's clock is from ours, at least: what an answer took, and the second that `Date` is cut to, is in
/// its favour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skew {
    /// Bitbucket's is ahead: ours is slow.
    Ahead(Duration),
    /// Bitbucket's is behind: ours is fast.
    Behind(Duration),
}

impl Skew {
    fn of(date: Timestamp, now: Timestamp, took: Duration) -> Skew {
        let behind = now.minus(took).since(date.plus(Duration::from_secs(1)));
        if behind > Duration::ZERO { Skew::Behind(behind) } else { Skew::Ahead(date.since(now)) }
    }

    /// How far, in whichever direction.
    pub fn size(self) -> Duration {
        match self {
            Skew::Ahead(by) | Skew::Behind(by) => by,
        }
    }

    /// In seconds; below zero where Bitbucket's clock is behind ours.
    pub fn seconds(self) -> f64 {
        match self {
            Skew::Ahead(by) => by.as_secs_f64(),
            Skew::Behind(by) => -by.as_secs_f64(),
        }
    }
}

impl Observations {
    /// What was seen of an endpoint.
    pub fn of(&self, endpoint: Endpoint) -> &Seen {
        &self.seen[endpoint as usize]
    }

    /// The scopes that were named last, by a token or by an answer; at most 64. `None`: none ever were.
    pub fn scopes(&self) -> Option<&[Box<str>]> {
        self.scopes.as_deref()
    }

    /// How far the clocks were apart at the last answer with a `Date`.
    pub fn skew(&self) -> Option<Skew> {
        self.skew
    }

    /// Takes note of a request and the head of its answer, which came at `now`.
    pub fn note(&mut self, call: &Call, now: Timestamp) {
        let seen = &mut self.seen[call.endpoint as usize];
        if call.outcome != Outcome::Abandoned {
            seen.heard = Some((now, call.outcome));
        }
        if let Outcome::Answered(status) = call.outcome
            && !status.is_server_error()
        {
            seen.notices = call.remarks.notices.clone();
        }
        if let Some(date) = call.remarks.date {
            self.skew = Some(Skew::of(date, now, call.took));
        }
        if let Some(scopes) = &call.remarks.scopes {
            self.scopes = Some(scopes.clone());
        }
    }

    /// Takes note of what an answer meant.
    pub fn judge(&mut self, endpoint: Endpoint, verdict: Result<(), &Error>, now: Timestamp) {
        let seen = &mut self.seen[endpoint as usize];
        match verdict {
            // Nothing was asked.
            Err(error) if error.held().is_some() => {}
            // Somebody else finds out which.
            Err(error) if error.may_be_about_the_client() => {}
            // A dead token or code is its owner's matter.
            Err(error) if error.class() != Class::Gone => seen.refusal = Some(error.clone()),
            _ => {
                seen.good_at = Some(now);
                seen.refusal = None;
            }
        }
    }
}

/// Words of a list of scopes, with commas or spaces between them; what is no scope's name is left out.
pub(super) fn scopes(text: &str) -> Vec<Box<str>> {
    let is_name = |word: &&str| {
        (1..=64).contains(&word.len())
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":_-".contains(&b))
    };
    text.split([',', ' ']).filter(is_name).take(SCOPES).map(Box::from).collect()
}

/// Takes notes of all that passes, and lets everything pass.
#[derive(Debug)]
pub struct Observer {
    clock: Clock,
    observations: Mutex<Observations>,
}

impl Observer {
    /// Has seen nothing yet.
    pub fn new(clock: Clock) -> Observer {
        Observer { clock, observations: Mutex::default() }
    }

    /// What was seen so far.
    pub fn observations(&self) -> Observations {
        self.notes().clone()
    }

    fn notes(&self) -> MutexGuard<'_, Observations> {
        self.observations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic for Observer {
    fn admit(&self, _: Endpoint, _: Right) -> Result<(), Held> {
        Ok(())
    }

    fn done(&self, call: &Call) {
        let now = self.clock.now();
        self.notes().note(call, now);
    }

    fn judged(&self, endpoint: Endpoint, verdict: Result<(), &Error>) {
        let now = self.clock.now();
        self.notes().judge(endpoint, verdict, now);
    }

    fn granted(&self, granted: &str) {
        self.notes().scopes = Some(scopes(granted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_took_and_the_second_that_a_date_is_cut_to_are_no_skew() {
        let at = Timestamp::from_unix_seconds;
        let ms = Duration::from_millis;
        for (date, now, took, skew) in [
            (1_000, 1_000_000, 0, Skew::Ahead(ms(0))),
            (1_000, 1_000_999, 0, Skew::Ahead(ms(0))),
            (1_000, 1_009_000, 8_000, Skew::Ahead(ms(0))),
            (1_000, 1_061_000, 0, Skew::Behind(ms(60_000))),
            (1_000, 1_071_000, 10_000, Skew::Behind(ms(60_000))),
            (1_060, 1_000_000, 10_000, Skew::Ahead(ms(60_000))),
        ] {
            let now = Timestamp::from_unix_millis(now);
            assert_eq!(Skew::of(at(date), now, ms(took)), skew, "{date} {now:?} {took}");
        }
    }

    #[test]
    fn scopes_are_words_and_not_many() {
        let none: &[&str] = &[];
        for (text, words) in [
            ("account, email", &["account", "email"][..]),
            ("email account:write", &["email", "account:write"]),
            ("<b>, ,account", &["account"]),
            ("", none),
        ] {
            assert!(scopes(text).iter().map(|word| &**word).eq(words.iter().copied()), "{text}");
        }
        assert_eq!(scopes(&"a ".repeat(1_000)).len(), SCOPES);
    }
}
