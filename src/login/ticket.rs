//! The `state` of a sign-in: what goes to Bitbucket and comes back.
//!
//! Owns: [`Ticket`], its sealing, its binding to the browser; [`Attempt`] and its cookie, which binds hand-overs, too.
//! Must not know: tokens, sessions, pages.
//!
//! A state is sealed, so that nobody can make or read one; it is bound to the browser by a cookie of its own,
//! so that it is worth nothing elsewhere (login CSRF); and each attempt has a cookie of its own, so that ten
//! tabs can sign in in any order.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::hand_over::Request;
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::keys::{Keyring, Purpose};
use crate::secret::Secret;

/// How long a state is good.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// How many attempts one browser may have under way; the oldest gives way.
pub const ATTEMPTS: usize = 8;

/// One sign-in under way.
#[derive(Serialize, Deserialize)]
pub struct Ticket {
    /// Names the attempt: its cookie and its single use.
    pub id: String,
    verifier: String,
    /// Where the person was going: an absolute URL on a host of ours.
    pub return_to: String,
    issued_at: Timestamp,
    /// SHA-256 of the attempt cookie's value, as base64url: the state travels in a URL, so it is kept short.
    browser: String,
    /// Which other host the session is for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hand_over: Option<Request>,
}

/// The browser's half: goes into the attempt's cookie.
pub struct Attempt {
    /// Which attempt.
    pub id: String,
    /// The cookie's value: when it began, and a random secret.
    pub value: String,
}

/// Proof that a state is ours, young, and was given to this very browser. Only [`Ticket::check`] makes it.
pub struct StateMatched {
    /// Where the person was going.
    pub return_to: String,
    /// What the code is redeemed with (RFC 7636).
    pub verifier: Secret<String>,
    /// What its single use is recorded under.
    pub once: [u8; 32],
    /// Until when that must be remembered.
    pub expires_at: Timestamp,
    /// Which other host the session is for, if it is.
    pub hand_over: Option<Request>,
}

/// Why a state is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mismatch {
    /// We did not make it, or it was changed.
    #[error("the state is not ours")]
    Forged,
    /// It is older than ten minutes.
    #[error("the state is too old")]
    Expired,
    /// The browser shows no cookie of ours at all.
    #[error("the browser sent no cookie of ours back")]
    NoCookies,
    /// The browser shows cookies of ours, but not this attempt's.
    #[error("the state belongs to another browser, or was used before")]
    OtherBrowser,
}

impl Ticket {
    /// A new attempt, to go to `return_to` afterwards.
    pub fn draw(return_to: String, now: Timestamp, entropy: &Entropy) -> (Ticket, Attempt) {
        let attempt = Attempt::draw(now, entropy);
        let ticket = Ticket {
            id: attempt.id.clone(),
            verifier: entropy.token::<32>(),
            return_to,
            issued_at: now,
            browser: attempt.hash(),
            hand_over: None,
        };
        (ticket, attempt)
    }

    /// The same for another host, if one asks.
    pub fn on_behalf_of(self, hand_over: Option<Request>) -> Ticket {
        Ticket { hand_over, ..self }
    }

    /// The `state` parameter.
    pub fn seal(&self, keyring: &Keyring, entropy: &Entropy) -> String {
        // A struct of strings and numbers always serialises; were it not so, an empty state opens nothing.
        let plain = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(keyring.seal(Purpose::SignInState, b"", &plain, entropy))
    }

    /// The PKCE challenge (S256, RFC 7636 §4.2) of this attempt.
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.verifier.as_bytes()))
    }

    /// Reads a `state` parameter. Whose it is and how old is for [`Ticket::check`] to say.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Forged`] for anything that we did not seal.
    pub fn open(state: &str, keyring: &Keyring) -> Result<Ticket, Mismatch> {
        let sealed = URL_SAFE_NO_PAD.decode(state).map_err(|_| Mismatch::Forged)?;
        let plain = keyring.open(Purpose::SignInState, b"", &sealed).map_err(|_| Mismatch::Forged)?;
        serde_json::from_slice(plain.expose()).map_err(|_| Mismatch::Forged)
    }

    /// Checks that this browser, which shows `cookie` for this attempt, may use the ticket at `now`.
    ///
    /// # Errors
    ///
    /// When it may not, and why.
    pub fn check(self, cookie: Option<&[u8]>, now: Timestamp) -> Result<StateMatched, Mismatch> {
        if now.since(self.issued_at) >= LIFETIME {
            return Err(Mismatch::Expired);
        }
        let shown = cookie.ok_or(Mismatch::OtherBrowser)?;
        if !is_of(shown, &self.browser) {
            return Err(Mismatch::OtherBrowser);
        }
        Ok(StateMatched {
            return_to: self.return_to,
            once: sha256(self.id.as_bytes()),
            verifier: Secret::new(self.verifier),
            expires_at: self.issued_at.plus(LIFETIME),
            hand_over: self.hand_over,
        })
    }
}

impl Attempt {
    /// A new one.
    pub fn draw(now: Timestamp, entropy: &Entropy) -> Attempt {
        let value = format!("{}.{}", now.unix_millis(), entropy.token::<24>());
        Attempt { id: entropy.token::<9>(), value }
    }

    /// By what the browser is known again: SHA-256 of the value, as base64url.
    pub fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.value.as_bytes()))
    }
}

/// Whether a cookie's value is the one with this [`Attempt::hash`].
pub(super) fn is_of(shown: &[u8], hash: &str) -> bool {
    let shown = URL_SAFE_NO_PAD.encode(sha256(shown));
    verify_slices_are_equal(shown.as_bytes(), hash.as_bytes()).is_ok()
}

/// When the attempt behind a cookie's value began, in milliseconds since 1970. Nonsense counts as the oldest, and so does what
/// has not begun yet: others can plant cookies, and theirs must not outlive ours.
pub fn begun_at(value: &[u8], now: Timestamp) -> u64 {
    let digits = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    let begun = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    begun.filter(|begun| *begun <= now.unix_millis()).unwrap_or(0)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BadKeys;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn drawn() -> Result<(String, Attempt, Keyring), BadKeys> {
        let entropy = Entropy::system();
        let keyring = Keyring::ephemeral(&entropy)?;
        let (ticket, attempt) = Ticket::draw("https://wiki.example.com/a?b".to_owned(), at(0), &entropy);
        Ok((ticket.seal(&keyring, &entropy), attempt, keyring))
    }

    #[test]
    fn a_state_comes_back_in_the_browser_it_was_given_to() -> Outcome {
        let (state, attempt, keyring) = drawn()?;
        let matched = Ticket::open(&state, &keyring)?.check(Some(attempt.value.as_bytes()), at(599))?;
        assert_eq!(matched.return_to, "https://wiki.example.com/a?b");
        assert_eq!(begun_at(attempt.value.as_bytes(), at(0)), 1_000_000_000);
        assert_eq!(begun_at(b"1000000001.planted", at(0)), 0, "not begun yet");
        Ok(())
    }

    #[test]
    fn a_state_that_is_old_or_in_another_browser_is_worth_nothing() -> Outcome {
        let (state, attempt, keyring) = drawn()?;
        let open = || Ticket::open(&state, &keyring);
        assert_eq!(open()?.check(Some(attempt.value.as_bytes()), at(600)).err(), Some(Mismatch::Expired));
        assert_eq!(open()?.check(None, at(1)).err(), Some(Mismatch::OtherBrowser));
        assert_eq!(open()?.check(Some(b"1000000.x"), at(1)).err(), Some(Mismatch::OtherBrowser));
        Ok(())
    }

    #[test]
    fn a_forged_state_does_not_open() -> Outcome {
        let (state, _, keyring) = drawn()?;
        for at in [0, 10, 40, state.len() - 2] {
            let mut forged = state.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8_lossy(&forged).into_owned();
            assert!(Ticket::open(&forged, &keyring).is_err(), "{at}");
        }
        for nonsense in ["", "x", "%%%", "AAAA"] {
            assert!(Ticket::open(nonsense, &keyring).is_err(), "{nonsense}");
        }
        Ok(())
    }

    #[test]
    fn the_state_says_nothing_about_the_verifier() -> Outcome {
        let (state, ..) = drawn()?;
        let bytes = URL_SAFE_NO_PAD.decode(state).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("verifier"));
        Ok(())
    }
}
