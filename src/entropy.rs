//! Randomness: the only file that draws it.
//!
//! Owns: [`Entropy`]. Must not know what the bytes are for.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A source of unpredictable bytes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Entropy(());

impl Entropy {
    /// The operating system's generator. The first draw of a process may take 0.1 s (aws-lc collects
    /// jitter once), so start-up draws once and throws it away.
    pub fn system() -> Entropy {
        Entropy(())
    }

    /// `N` random bytes.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give: nothing that needs some may go on.
    #[expect(clippy::expect_used, reason = "an id that can be guessed is worse than no process")]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that draws randomness")]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
        bytes
    }

    /// `N` random bytes as unpadded base64url text.
    pub fn token<const N: usize>(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes::<N>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ_and_have_the_length_asked_for() {
        let entropy = Entropy::system();
        assert_ne!(entropy.bytes::<32>(), entropy.bytes::<32>());
        assert_eq!(entropy.token::<32>().len(), 43);
    }
}
