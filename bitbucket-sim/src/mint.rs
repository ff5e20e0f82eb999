//! Makes codes and tokens.
//!
//! Owns: their shape and length. They are a counter and a seed through SHA-256: unpredictable enough for
//! nobody, and that is fine, since a simulator guards nothing. Equal seeds make equal tokens, so a unit test
//! can be repeated; a running simulator takes a new seed at each start, so old tokens die with it.
//! Must not know: who a token is for, or how long it is good.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Draws one value after the other.
#[derive(Clone, Debug)]
pub(crate) struct Mint {
    seed: [u8; 32],
    drawn: u64,
}

impl Mint {
    pub(crate) fn seeded(seed: &str) -> Mint {
        Mint { seed: Sha256::digest(seed).into(), drawn: 0 }
    }

    /// 43 characters: a code, or a token of the old kind.
    pub(crate) fn short(&mut self) -> String {
        URL_SAFE_NO_PAD.encode(self.draw())
    }

    /// Looks like a signed JWT of 2.0 to 2.6 kB. The signature is noise; nobody may check it.
    pub(crate) fn jwt(&mut self, mut claims: Value) -> String {
        let noise = self.draw();
        let wanted = 2_050 + (usize::from(noise[0]) << 8 | usize::from(noise[1])) % 500;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT","kid":"simulated"}"#);
        let signature: Vec<u8> = (0..8).flat_map(|_| self.draw()).collect();
        let signature = URL_SAFE_NO_PAD.encode(signature);

        claims["jti"] = json!(self.short());
        let bare = header.len() + signature.len() + 2 + claims.to_string().len() * 4 / 3;
        // 43 characters of context are some 58 characters of token.
        let context: String = (0..wanted.saturating_sub(bare) / 58).map(|_| self.short()).collect();
        claims["context"] = json!(context);
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes()).finalize().into()
    }
}

/// An invented uuid in Bitbucket's braces, always the same for the same name.
pub(crate) fn uuid_of(name: &str) -> String {
    let hash = Sha256::digest(name);
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{{{}-{}-4{}-8{}-{}}}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_look_like_jwts_of_two_kilobytes_and_are_all_different() {
        let mut mint = Mint::seeded("test");
        let tokens: Vec<String> = (0..50).map(|_| mint.jwt(json!({"sub": "someone"}))).collect();
        for token in &tokens {
            assert!((2_000..=2_600).contains(&token.len()), "{} characters", token.len());
            assert!(token.starts_with("eyJ"));
            assert_eq!(token.split('.').count(), 3);
        }
        let different: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!(different.len(), tokens.len());
    }

    #[test]
    fn a_seed_repeats_and_another_seed_does_not() {
        assert_eq!(Mint::seeded("a").short(), Mint::seeded("a").short());
        assert_ne!(Mint::seeded("a").short(), Mint::seeded("b").short());
    }

    #[test]
    fn an_invented_uuid_has_the_right_shape() {
        let uuid = uuid_of("ann");
        assert_eq!(uuid.len(), 38);
        assert!(uuid.starts_with('{') && uuid.ends_with('}'));
        let parts: Vec<usize> = uuid.trim_matches(['{', '}']).split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
    }
}
