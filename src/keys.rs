//! The keys that everything of ours is sealed, authenticated and signed with.
//!
//! Owns: the [`Keyring`] (from the secret file), its replacement while running ([`reload`]), what is derived
//! from it ([`sealing`]), the keys that sign assertions and their rotation ([`signing`]), and their public half
//! as a document ([`jwks`]).
//! Must not know: cookies, sessions, the store, what a claim means.

pub mod jwks;
pub mod reload;
pub mod sealing;
pub mod secret_file;
pub mod signing;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};

pub use self::sealing::Purpose;
pub use self::signing::{Algorithm, RotationSettings, SigningKeys};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

/// Makes aws-lc the one provider of cryptography in this process. Call it first thing in `main`: Pingora
/// installs ring for TLS when nothing else is there yet, and jsonwebtoken panics at its first use without a
/// provider. Calling it again changes nothing.
pub fn install_crypto_providers() {
    // Both refuse when a provider is already in place; the first call of this function is then the one
    // that counted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// The name of a master key: the first four bytes of its SHA-256. Tells keys apart, gives nothing away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyId(pub [u8; 4]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What [`KeyId`] prints, read again.
impl std::str::FromStr for KeyId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<KeyId, Self::Err> {
        u32::from_str_radix(text, 16).map(|name| KeyId(name.to_be_bytes()))
    }
}

/// One line of the secret file: 32 random bytes.
pub type MasterKey = Secret<[u8; 32]>;

/// The master keys in order: the first seals, all open, so that keys rotate without signing anybody out.
/// The master keys themselves are forgotten; what is kept are the subkeys, one pair per [`Purpose`].
///
/// Whoever shares a ring sees the same keys at once after [`Keyring::become_like`].
pub struct Keyring {
    keys: ArcSwap<Vec<sealing::Subkeys>>,
}

/// What may be told of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyFacts {
    /// Its name.
    pub id: KeyId,
    /// When it was made, if the file says so.
    pub made_at: Option<Timestamp>,
}

/// Why keys make no ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadKeys {
    /// There is none.
    #[error("there is no key")]
    None,
    /// Every key is tried on every cookie, so there is a limit.
    #[error("there are more than {} keys", Keyring::MOST_KEYS)]
    TooMany,
    /// One key stands there twice: probably the copy of a line that was to be replaced.
    #[error("key {0} stands there twice")]
    Twice(KeyId),
    /// HKDF refused. Not known to happen.
    #[error("no subkeys can be derived from the key")]
    Derivation,
}

impl Keyring {
    /// How many keys a ring may have.
    pub const MOST_KEYS: usize = 16;

    /// The ring of `keys`, the sealing one first.
    ///
    /// # Errors
    ///
    /// None, too many, or one of them twice: correct the secret file.
    pub fn from_keys(keys: &[MasterKey]) -> Result<Keyring, BadKeys> {
        Ok(Keyring { keys: ArcSwap::from_pointee(Keyring::derive(keys)?) })
    }

    fn derive(keys: &[MasterKey]) -> Result<Vec<sealing::Subkeys>, BadKeys> {
        if keys.is_empty() {
            return Err(BadKeys::None);
        }
        if keys.len() > Keyring::MOST_KEYS {
            return Err(BadKeys::TooMany);
        }
        for (place, key) in keys.iter().enumerate() {
            if keys[..place].iter().any(|earlier| earlier.matches(key.expose())) {
                return Err(BadKeys::Twice(key_id(key)));
            }
        }
        let keys = keys.iter().map(|key| sealing::Subkeys::derive(key_id(key), key));
        keys.collect::<Result<_, _>>().map_err(|_| BadKeys::Derivation)
    }

    /// Takes the keys of `other`, at once and for everybody who shares this ring. What is being sealed at this
    /// moment may still come out under the key that was first before.
    pub fn become_like(&self, other: &Keyring) {
        self.keys.store(other.keys.load_full());
    }

    /// A ring of one new key that is written nowhere: what it seals is lost with the process. For tests and
    /// `teamgate dev`.
    ///
    /// # Errors
    ///
    /// As [`Keyring::from_keys`]; not known to happen.
    pub fn ephemeral(entropy: &Entropy) -> Result<Keyring, BadKeys> {
        Keyring::from_keys(&[Secret::new(entropy.bytes())])
    }

    /// The names of the keys, the sealing one first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = KeyId> {
        self.keys().into_iter().map(|key| key.id)
    }

    /// What may be told of the keys, the sealing one first.
    pub fn keys(&self) -> Vec<KeyFacts> {
        self.keys.load().iter().map(sealing::Subkeys::facts).collect()
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

fn key_id(key: &MasterKey) -> KeyId {
    let hash = digest(&SHA256, key.expose());
    let mut id = [0; 4];
    id.copy_from_slice(&hash.as_ref()[..4]);
    KeyId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_the_providers_twice_is_no_error() {
        install_crypto_providers();
        install_crypto_providers();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }

    #[test]
    fn a_ring_needs_keys_and_each_once() {
        let key = |byte| Secret::new([byte; 32]);
        assert_eq!(Keyring::from_keys(&[]).err(), Some(BadKeys::None));
        let many: Vec<_> = (0..17).map(key).collect();
        assert_eq!(Keyring::from_keys(&many).err(), Some(BadKeys::TooMany));
        let twice = Keyring::from_keys(&[key(1), key(2), key(1)]).err();
        assert_eq!(twice, Some(BadKeys::Twice(key_id(&key(1)))));
    }

    #[test]
    fn a_ring_prints_names_only() -> Result<(), BadKeys> {
        let ring = Keyring::from_keys(&[Secret::new([1; 32])])?;
        assert_eq!(format!("{ring:?}"), "[KeyId([114, 205, 110, 132])]");
        Ok(())
    }
}
