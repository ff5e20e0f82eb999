//! Encrypts and authenticates small values: cookies, tickets, tokens at rest.
//!
//! Owns: [`Purpose`], the sealed format, MACs. Must not know: what is inside.
//!
//! A sealed value is `key id (4) | nonce (12) | ciphertext | tag (16)`, AES-256-GCM. Purpose and context are
//! authenticated with it (and each purpose has its own key), so a value that is moved to another place, or
//! offered for another purpose, does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroize;

use super::{KeyFacts, KeyId, Keyring, MasterKey};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

/// What a value is sealed or authenticated for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The session cookie's MAC.
    SessionCookie,
    /// The `state` of a sign-in, which travels through Bitbucket and back.
    SignInState,
    /// The cookie that binds one sign-in attempt to its browser.
    AttemptCookie,
    /// The single-use ticket that hands a session over to another host.
    HandOver,
    /// An answer that a form of ours must bring back.
    FormToken,
    /// Bitbucket's tokens at rest.
    Grant,
    /// The keys that sign assertions, at rest.
    SigningKey,
    /// Sessions at rest.
    Session,
    /// What is known of an account, at rest.
    Account,
    /// The record by which a store knows its secret again.
    StoreCanary,
}

impl Purpose {
    const ALL: [Purpose; 10] = [
        Purpose::SessionCookie,
        Purpose::SignInState,
        Purpose::AttemptCookie,
        Purpose::HandOver,
        Purpose::FormToken,
        Purpose::Grant,
        Purpose::SigningKey,
        Purpose::Session,
        Purpose::Account,
        Purpose::StoreCanary,
    ];

    /// Part of the format: a changed label makes everything sealed under it unreadable.
    const fn label(self) -> &'static str {
        match self {
            Purpose::SessionCookie => "session-cookie",
            Purpose::SignInState => "sign-in-state",
            Purpose::AttemptCookie => "attempt-cookie",
            Purpose::HandOver => "hand-over",
            Purpose::FormToken => "form-token",
            Purpose::Grant => "grant",
            Purpose::SigningKey => "signing-key",
            Purpose::Session => "session",
            Purpose::Account => "account",
            Purpose::StoreCanary => "store-canary",
        }
    }
}

/// Why a value does not open. Callers treat all of these alike: as no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Shorter than an empty sealed value.
    #[error("too short to have been sealed by teamgate")]
    Short,
    /// Sealed under a key that the secret file does not have (any more).
    #[error("sealed under key {0}, which the secret file does not have")]
    UnknownKey(KeyId),
    /// Altered, or sealed for another purpose or place.
    #[error("altered, or sealed for something else")]
    Forged,
}

const KEY_ID_LEN: usize = 4;
const TAG_LEN: usize = 16;

/// What [`Keyring::seal`] adds to the length of a value, in bytes.
pub const OVERHEAD: usize = KEY_ID_LEN + NONCE_LEN + TAG_LEN;

/// The length of a MAC in bytes: 128 bits are beyond guessing, and a cookie stays short.
pub const MAC_LEN: usize = 16;

impl Keyring {
    /// Seals `plain` under the first key. It opens with the same `purpose` and `context` only; the context
    /// is the value's place (such as the id of its row) and is not part of the result.
    ///
    /// Nonces are random: NIST SP 800-38D allows 2³² of them per key, which a thousand seals a second reach
    /// after seven weeks; the rates here are a thousandth of that.
    #[expect(clippy::expect_used, reason = "AES-GCM refuses nothing under 64 GiB")]
    pub fn seal(&self, purpose: Purpose, context: &[u8], plain: &[u8], entropy: &Entropy) -> Vec<u8> {
        let keys = self.keys.load();
        let key = &keys[0];
        let nonce: [u8; NONCE_LEN] = entropy.bytes();
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.extend_from_slice(&key.facts.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = key
            .pair(purpose)
            .seal
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(purpose, context),
                &mut sealed[KEY_ID_LEN + NONCE_LEN..],
            )
            .expect("a value below 64 GiB can be sealed");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Keyring::seal`] made, under whichever key made it.
    ///
    /// # Errors
    ///
    /// It was not made by this ring, for this purpose and context, or was altered since.
    pub fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
        let (id, rest) = sealed.split_first_chunk::<KEY_ID_LEN>().ok_or(Error::Short)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Error::Short)?;
        if body.len() < TAG_LEN {
            return Err(Error::Short);
        }
        let mut outcome = Error::UnknownKey(KeyId(*id));
        // Two keys share a name once in four thousand million rings; then both are tried.
        for key in self.keys.load().iter().filter(|key| key.facts.id.0 == *id) {
            let mut plain = body.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            match key.pair(purpose).seal.open_in_place(nonce, bound_to(purpose, context), &mut plain) {
                Ok(opened) => {
                    let length = opened.len();
                    plain.truncate(length);
                    return Ok(Secret::new(plain));
                }
                Err(Unspecified) => {
                    plain.zeroize();
                    outcome = Error::Forged;
                }
            }
        }
        Err(outcome)
    }

    /// Whether `sealed` was made under the first key; otherwise it is due to be sealed anew, so that the
    /// older key can go.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        self.keys.load()[0].has_sealed(sealed)
    }

    /// The name of the key that `sealed` was made under, ours or not; none if it is too short to have one.
    pub fn sealed_under(sealed: &[u8]) -> Option<KeyId> {
        sealed.first_chunk::<KEY_ID_LEN>().map(|id| KeyId(*id))
    }

    /// HMAC-SHA256 of `message` under the first key, cut to 128 bits (RFC 2104 §5).
    pub fn mac(&self, purpose: Purpose, message: &[u8]) -> [u8; MAC_LEN] {
        self.keys.load()[0].mac(purpose, message)
    }

    /// Whether `tag` is the MAC of `message` under any of the keys. All are tried, and compared in constant
    /// time.
    #[must_use]
    pub fn verify_mac(&self, purpose: Purpose, message: &[u8], tag: &[u8]) -> bool {
        self.keys.load().iter().fold(false, |found, key| {
            found | verify_slices_are_equal(&key.mac(purpose, message), tag).is_ok()
        })
    }
}

/// What one master key gives: a pair of keys for each purpose, so that what is learned about one is nothing
/// about another.
pub(super) struct Subkeys {
    facts: KeyFacts,
    pairs: Vec<Pair>,
}

struct Pair {
    seal: LessSafeKey,
    mac: hmac::Key,
}

impl Subkeys {
    /// HKDF-SHA256 (RFC 5869) with one `info` per purpose and use.
    pub(super) fn derive(id: KeyId, key: &MasterKey) -> Result<Subkeys, Unspecified> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"teamgate").extract(key.expose());
        let pair = |purpose: &Purpose| -> Result<Pair, Unspecified> {
            let label = purpose.label().as_bytes();
            let seal = UnboundKey::from(prk.expand(&[b"seal 1 ", label], &AES_256_GCM)?);
            let mac = hmac::Key::from(prk.expand(&[b"mac 1 ", label], hmac::HMAC_SHA256)?);
            Ok(Pair { seal: LessSafeKey::new(seal), mac })
        };
        let facts = KeyFacts { id, made_at: None };
        Ok(Subkeys { facts, pairs: Purpose::ALL.iter().map(pair).collect::<Result<_, _>>()? })
    }

    pub(super) fn facts(&self) -> KeyFacts {
        self.facts
    }

    pub(super) fn set_made_at(&mut self, made_at: Option<Timestamp>) {
        self.facts.made_at = made_at;
    }

    fn has_sealed(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.facts.id.0)
    }

    fn pair(&self, purpose: Purpose) -> &Pair {
        &self.pairs[purpose as usize]
    }

    fn mac(&self, purpose: Purpose, message: &[u8]) -> [u8; MAC_LEN] {
        let tag = hmac::sign(&self.pair(purpose).mac, message);
        let mut short = [0; MAC_LEN];
        short.copy_from_slice(&tag.as_ref()[..MAC_LEN]);
        short
    }
}

/// The label has no zero byte, so no purpose and context read as another pair.
fn bound_to(purpose: Purpose, context: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([purpose.label().as_bytes(), b"\0", context].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BadKeys;

    fn ring(keys: &[u8]) -> Result<Keyring, BadKeys> {
        Keyring::from_keys(&keys.iter().map(|byte| Secret::new([*byte; 32])).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_and_for_its_purpose_only() -> Result<(), Box<dyn std::error::Error>>
    {
        let (ring, entropy) = (ring(&[1])?, Entropy::system());
        let sealed = ring.seal(Purpose::Grant, b"ada", b"token", &entropy);
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(ring.open(Purpose::Grant, b"ada", &sealed)?.expose(), b"token");
        for (purpose, context) in
            [(Purpose::Grant, b"bob".as_slice()), (Purpose::Grant, b""), (Purpose::SigningKey, b"ada")]
        {
            assert_eq!(ring.open(purpose, context, &sealed).err(), Some(Error::Forged), "{purpose:?}");
        }
        Ok(())
    }

    #[test]
    fn a_value_altered_anywhere_does_not_open() -> Result<(), BadKeys> {
        let (ring, entropy) = (ring(&[1])?, Entropy::system());
        let sealed = ring.seal(Purpose::Grant, b"ada", b"token", &entropy);
        for place in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[place] ^= 1;
            assert!(ring.open(Purpose::Grant, b"ada", &altered).is_err(), "byte {place}");
            assert!(ring.open(Purpose::Grant, b"ada", &sealed[..place]).is_err(), "cut to {place}");
        }
        Ok(())
    }

    #[test]
    fn two_seals_of_one_value_look_different() -> Result<(), BadKeys> {
        let (ring, entropy) = (ring(&[1])?, Entropy::system());
        let seal = || ring.seal(Purpose::Grant, b"", b"token", &entropy);
        assert_ne!(seal(), seal());
        Ok(())
    }

    #[test]
    fn a_new_first_key_seals_and_the_older_ones_still_open() -> Result<(), Box<dyn std::error::Error>> {
        let (old, rotated, foreign, entropy) = (ring(&[1])?, ring(&[2, 1])?, ring(&[3])?, Entropy::system());
        let sealed = old.seal(Purpose::Grant, b"", b"token", &entropy);
        assert_eq!(rotated.open(Purpose::Grant, b"", &sealed)?.expose(), b"token");
        assert!(old.is_current(&sealed) && !rotated.is_current(&sealed));
        let newer = rotated.seal(Purpose::Grant, b"", b"token", &entropy);
        assert!(matches!(old.open(Purpose::Grant, b"", &newer), Err(Error::UnknownKey(_))));
        assert!(matches!(foreign.open(Purpose::Grant, b"", &sealed), Err(Error::UnknownKey(_))));

        let mac = old.mac(Purpose::SessionCookie, b"id");
        assert!(rotated.verify_mac(Purpose::SessionCookie, b"id", &mac));
        assert!(!foreign.verify_mac(Purpose::SessionCookie, b"id", &mac));
        Ok(())
    }

    #[test]
    fn a_mac_holds_for_its_purpose_message_and_full_length_only() -> Result<(), BadKeys> {
        let ring = ring(&[1])?;
        let mac = ring.mac(Purpose::SessionCookie, b"id");
        assert!(ring.verify_mac(Purpose::SessionCookie, b"id", &mac));
        assert!(!ring.verify_mac(Purpose::AttemptCookie, b"id", &mac));
        assert!(!ring.verify_mac(Purpose::SessionCookie, b"ie", &mac));
        for length in 0..MAC_LEN {
            assert!(!ring.verify_mac(Purpose::SessionCookie, b"id", &mac[..length]), "cut to {length}");
        }
        Ok(())
    }

    #[test]
    fn the_purposes_are_in_the_order_of_their_keys_and_no_two_share_one() -> Result<(), BadKeys> {
        let ring = ring(&[1])?;
        let macs: Vec<_> = Purpose::ALL.iter().map(|purpose| ring.mac(*purpose, b"")).collect();
        for (place, purpose) in Purpose::ALL.iter().enumerate() {
            assert_eq!(*purpose as usize, place, "{purpose:?}");
            assert!(!macs[..place].contains(&macs[place]), "{purpose:?}");
        }
        Ok(())
    }

    /// A change here signs everybody out and makes every store unreadable.
    #[test]
    fn the_format_stays_what_it_was() -> Result<(), Box<dyn std::error::Error>> {
        let ring = ring(&[1])?;
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&ring.mac(Purpose::SessionCookie, b"id")), "774576d28be03a54a432cb0771bb6d33");
        let sealed = "72cd6e84ea4f083bbeacd3819d59c19a15e56e4e56f04ba76abc0156bd91ed73d333e64695";
        let bytes = (0..sealed.len()).step_by(2).map(|at| u8::from_str_radix(&sealed[at..at + 2], 16));
        let opened = ring.open(Purpose::Grant, b"ada", &bytes.collect::<Result<Vec<_>, _>>()?)?;
        assert_eq!(opened.expose(), b"token");
        Ok(())
    }
}
