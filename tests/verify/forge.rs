//! Assertions that somebody who is not the gateway makes.

use std::error::Error as StdError;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The three algorithms of `assertion.algorithm`, by name.
pub(crate) const ALGORITHMS: [&str; 3] = ["ES256", "EdDSA", "RS256"];

/// A key of our own.
pub(crate) struct Key {
    pub(crate) algorithm: &'static str,
    kid: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Key {
    pub(crate) fn make(algorithm: &'static str) -> Result<Key, Box<dyn StdError>> {
        let (kid, pair) = match algorithm {
            "ES256" => ("test-ec", Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?)),
            "EdDSA" => ("test-ed", Pair::Ed(Ed25519KeyPair::generate()?)),
            _ => ("test-rsa", Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048)?))),
        };
        Ok(Key { algorithm, kid, pair })
    }

    /// The public half, as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let (kid, alg) = (self.kid, self.algorithm);
        match &self.pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]), "kid": kid, "alg": alg, "use": "sig" })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()), "kid": kid, "alg": alg, "use": "sig" })
            }
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                json!({ "kty": "RSA", "n": text(n.big_endian_without_leading_zero()), "e": text(e.big_endian_without_leading_zero()), "kid": kid, "alg": alg, "use": "sig" })
            }
        }
    }

    /// Signs `claims`, as the key that it is.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Box<dyn StdError>> {
        self.sign_as(self.kid, claims)
    }

    /// Signs `claims` and says that the key `kid` did.
    #[expect(clippy::disallowed_methods, reason = "a signature of a test draws its own randomness")]
    pub(crate) fn sign_as(&self, kid: &str, claims: &Value) -> Result<String, Box<dyn StdError>> {
        let message = message(self.algorithm, kid, claims);
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), message.as_bytes())?.as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)?;
                signature
            }
        };
        Ok(format!("{message}.{}", text(&signature)))
    }
}

/// `alg: none` (RFC 8725 §2.1): no signature, and a library that believes so.
pub(crate) fn unsigned(kid: &str, claims: &Value) -> String {
    format!("{}.", message("none", kid, claims))
}

/// The gateway's public key as the secret of an HMAC (CVE-2015-9235): a library that goes by the assertion's own
/// `alg` takes it.
pub(crate) fn with_public_key_as_secret(jwk: &Value, claims: &Value) -> Result<String, Box<dyn StdError>> {
    let message = message("HS256", jwk["kid"].as_str().unwrap_or_default(), claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, pem(jwk)?.as_bytes()), message.as_bytes());
    Ok(format!("{message}.{}", text(signature.as_ref())))
}

/// The same assertion with other claims and the signature that it had.
pub(crate) fn tampered(assertion: &str, claims: &Value) -> Result<String, Box<dyn StdError>> {
    let [header, _, signature] = parts(assertion)?;
    Ok(format!("{header}.{}.{signature}", text(claims.to_string().as_bytes())))
}

/// The header and the claims of an assertion, read without believing them.
pub(crate) fn read(assertion: &str) -> Result<(Value, Value), Box<dyn StdError>> {
    let [header, claims, _] = parts(assertion)?;
    let open = |part: &str| -> Result<Value, Box<dyn StdError>> {
        Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
    };
    Ok((open(header)?, open(claims)?))
}

fn parts(assertion: &str) -> Result<[&str; 3], Box<dyn StdError>> {
    let parts: Vec<&str> = assertion.split('.').collect();
    parts.try_into().map_err(|_| format!("no assertion: {assertion:?}").into())
}

fn message(algorithm: &str, kid: &str, claims: &Value) -> String {
    let header = json!({ "alg": algorithm, "kid": kid, "typ": "JWT" });
    format!("{}.{}", text(header.to_string().as_bytes()), text(claims.to_string().as_bytes()))
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A public key as OpenSSL writes it (RFC 5280 §4.1, SubjectPublicKeyInfo).
fn pem(jwk: &Value) -> Result<String, Box<dyn StdError>> {
    const EC: &[u8] = b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const ED: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
    const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let member = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap_or_default());
    let (algorithm, key) = match jwk["kty"].as_str() {
        Some("EC") => (EC, [vec![4], member("x")?, member("y")?].concat()),
        Some("OKP") => (ED, member("x")?),
        // The modulus has its highest bit set: a zero keeps it positive.
        _ => (RSA, der(0x30, &[der(2, &[vec![0], member("n")?]), der(2, &[member("e")?])])),
    };
    let whole = der(0x30, &[algorithm.to_vec(), der(3, &[vec![0], key])]);
    let encoded = STANDARD.encode(whole);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).flat_map(std::str::from_utf8).collect();
    Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")))
}

/// One value of DER: tag, length, content.
fn der(tag: u8, content: &[Vec<u8>]) -> Vec<u8> {
    let content = content.concat();
    let length = match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, low @ 0..=127] => vec![low],
        [0, low] => vec![0x81, low],
        [high, low] => vec![0x82, high, low],
    };
    [vec![tag], length, content].concat()
}
