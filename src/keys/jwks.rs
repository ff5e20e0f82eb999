//! The public half of the signing keys, as a document (RFC 7517).
//!
//! Owns: the members that may be published. A private member cannot get in: the types here have no place
//! for one.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;

use super::signing::{Algorithm, Pair};

/// The media type of the document (RFC 7517 §8.5.2).
pub const MEDIA_TYPE: &str = "application/jwk-set+json";

/// A public key, by its kind. Binary members are base64url.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kty")]
pub(super) enum PublicKey {
    #[serde(rename = "EC")]
    Ec { crv: &'static str, x: String, y: String },
    #[serde(rename = "OKP")]
    Okp { crv: &'static str, x: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

impl PublicKey {
    /// The public half of `pair`; none if its encoding is not the one expected.
    pub(super) fn of(pair: &Pair) -> Option<PublicKey> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match pair {
            Pair::Es256(pair) => {
                // SEC 1 §2.3.3: 4, then x and y of 32 bytes each.
                let (&[4], point) = pair.public_key().as_ref().split_first_chunk::<1>()? else { return None };
                let (x, y) = point.split_at_checked(32).filter(|(_, y)| y.len() == 32)?;
                Some(PublicKey::Ec { crv: "P-256", x: text(x), y: text(y) })
            }
            Pair::EdDsa(pair) => Some(PublicKey::Okp { crv: "Ed25519", x: text(pair.public_key().as_ref()) }),
            Pair::Rs256(pair) => {
                let public = pair.public_key();
                Some(PublicKey::Rsa {
                    n: text(public.modulus().big_endian_without_leading_zero()),
                    e: text(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }

    /// RFC 7638: SHA-256 of the required members, in the order of their names, without white space.
    fn thumbprint(&self) -> String {
        let canonical = match self {
            PublicKey::Ec { crv, x, y } => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
            PublicKey::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
            PublicKey::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
    }
}

/// One entry of the document.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Jwk {
    #[serde(flatten)]
    key: PublicKey,
    r#use: &'static str,
    alg: &'static str,
    kid: String,
}

impl Jwk {
    pub(super) fn new(key: PublicKey, algorithm: Algorithm) -> Jwk {
        let kid = key.thumbprint();
        Jwk { key, r#use: "sig", alg: algorithm.name(), kid }
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }
}

pub(super) fn document<'a>(keys: impl Iterator<Item = &'a Jwk>) -> Bytes {
    #[derive(Serialize)]
    struct Document<'a> {
        keys: Vec<&'a Jwk>,
    }
    // Strings always serialise; were it otherwise, an empty body verifies nothing.
    serde_json::to_vec(&Document { keys: keys.collect() }).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::clock::Timestamp;
    use crate::keys::SigningKeys;

    #[test]
    fn only_public_members_are_published() -> Result<(), Box<dyn std::error::Error>> {
        for (algorithm, kty, members) in [
            (Algorithm::Es256, "EC", "alg crv kid kty use x y"),
            (Algorithm::EdDsa, "OKP", "alg crv kid kty use x"),
            (Algorithm::Rs256, "RSA", "alg e kid kty n use"),
        ] {
            let keys = SigningKeys::first(Timestamp::from_unix_seconds(0), algorithm)?;
            let document: Value = serde_json::from_slice(&keys.jwks())?;
            let key = document["keys"][0].as_object().ok_or("no key")?;
            let found: BTreeSet<_> = key.keys().map(String::as_str).collect();
            assert_eq!(found, members.split(' ').collect(), "{algorithm:?}");
            assert_eq!(key["kty"], kty);
            assert_eq!(key["use"], "sig");
            assert_eq!(key["alg"], algorithm.name());
            assert_eq!(key["kid"], keys.all()[0].kid());
        }
        Ok(())
    }

    /// RFC 8037 appendix A.3.
    #[test]
    fn a_kid_is_the_thumbprint_of_the_key() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned();
        let key = PublicKey::Okp { crv: "Ed25519", x };
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
