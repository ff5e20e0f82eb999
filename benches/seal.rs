//! What the request path and the sign-in pay for cryptography.

use std::error::Error;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use serde_json::json;
use teamgate::clock::Timestamp;
use teamgate::entropy::Entropy;
use teamgate::keys::{Algorithm, Keyring, Purpose, SigningKeys};
use teamgate::secret::Secret;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    let entropy = Entropy::system();
    let keys: Vec<_> = (0..2).map(|_| Secret::new(entropy.bytes())).collect();
    let ring = Keyring::from_keys(&keys)?;

    let id: [u8; 32] = entropy.bytes();
    let mac = ring.mac(Purpose::SessionCookie, &id);
    criterion.bench_function("cookie MAC check, two keys", |b| {
        b.iter(|| ring.verify_mac(Purpose::SessionCookie, black_box(&id), black_box(&mac)));
    });

    let mut group = criterion.benchmark_group("AEAD");
    for length in [112, 16 * 1024] {
        let plain = vec![7; length];
        let sealed = ring.seal(Purpose::Grant, &id, &plain, &entropy);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("open {length} B"), |b| {
            b.iter(|| ring.open(Purpose::Grant, &id, black_box(&sealed)));
        });
        group.bench_function(format!("seal {length} B"), |b| {
            b.iter(|| ring.seal(Purpose::Grant, &id, black_box(&plain), &entropy));
        });
    }
    group.finish();

    let claims = json!({
        "iss": "https://gate.example.com", "aud": "https://wiki.example.com",
        "sub": "0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21", "email": "ada@example.com", "email_verified": true,
        "name": "Ada Lovelace", "preferred_username": "ada", "groups": ["my-team", "my-team/members"],
        "groups_as_of": 1_800_000_000, "iat": 1_800_000_000, "nbf": 1_800_000_000, "exp": 1_800_000_300,
        "jti": "w2gV1s0Zp3E", "sid": "0123456789abcdef",
    });
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
        let keys = SigningKeys::first(now, algorithm)?;
        let signer = keys.signer(now);
        criterion.bench_function(&format!("{} sign", algorithm.name()), |b| {
            b.iter(|| signer.sign(black_box(&claims)));
        });
    }
    criterion.final_summary();
    Ok(())
}
