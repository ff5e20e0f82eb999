//! Says who is asking, from the assertion that teamgate puts on every request it lets through.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use tokio::sync::RwLock;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the app may know about who is asking.
#[derive(Deserialize)]
struct Account {
    /// The account's uuid: the key for your own records. Everything else can change.
    sub: String,
    groups: Vec<String>,
}

struct Verifier {
    http: reqwest::Client,
    keys_at: String,
    expected: Validation,
    keys: RwLock<(Instant, JwkSet)>,
}

impl Verifier {
    /// Keys are asked for again after five minutes, and for a key that is new to us; but never twice in ten
    /// seconds, or anybody could make us ask with every request.
    const KEPT: Duration = Duration::from_secs(300);
    const PAUSE: Duration = Duration::from_secs(10);

    async fn new(
        issuer: &str,
        audience: &str,
        algorithm: Algorithm,
        keys_at: String,
    ) -> Result<Verifier, Error> {
        // The configured algorithm alone, whatever the assertion says of itself.
        let mut expected = Validation::new(algorithm);
        expected.set_issuer(&[issuer]);
        expected.set_audience(&[audience]);
        expected.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        expected.validate_nbf = true;
        expected.leeway = 30;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
        let keys = RwLock::new((Instant::now(), fetch(&http, &keys_at).await?));
        Ok(Verifier { http, keys_at, expected, keys })
    }

    /// The account, or why it is not to be believed: answer 401 then, and nothing else.
    async fn verify(&self, assertion: &str) -> Result<Account, Error> {
        let kid = decode_header(assertion)?.kid.ok_or("the assertion names no key")?;
        let key = self.key(&kid).await?;
        Ok(decode::<Account>(assertion, &key, &self.expected)?.claims)
    }

    async fn key(&self, kid: &str) -> Result<DecodingKey, Error> {
        let unknown = || format!("teamgate publishes no key {kid}");
        {
            let kept = self.keys.read().await;
            match kept.1.find(kid) {
                Some(key) if kept.0.elapsed() < Self::KEPT => return Ok(DecodingKey::from_jwk(key)?),
                None if kept.0.elapsed() < Self::PAUSE => return Err(unknown().into()),
                _ => {}
            }
        }
        let mut kept = self.keys.write().await;
        // Somebody else may have asked while we waited.
        if kept.0.elapsed() >= Self::PAUSE {
            kept.1 = fetch(&self.http, &self.keys_at).await?;
            kept.0 = Instant::now();
        }
        Ok(DecodingKey::from_jwk(kept.1.find(kid).ok_or_else(unknown)?)?)
    }
}

async fn fetch(http: &reqwest::Client, url: &str) -> Result<JwkSet, Error> {
    Ok(http.get(url).send().await?.error_for_status()?.json().await?)
}

/// Reads assertions from standard input, one a line, and says of each who it is.
#[tokio::main]
async fn main() -> Result<(), Error> {
    // Only for a reqwest built with `rustls-no-provider`; its default features need no such line.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (issuer, audience) = (std::env::var("TEAMGATE_ISSUER")?, std::env::var("TEAMGATE_AUDIENCE")?);
    let algorithm = std::env::var("TEAMGATE_ALGORITHM").unwrap_or_else(|_| "ES256".to_owned()).parse()?;
    let keys_at =
        std::env::var("TEAMGATE_JWKS_URL").unwrap_or_else(|_| format!("{issuer}/.teamgate/jwks.json"));
    let verifier = Verifier::new(&issuer, &audience, algorithm, keys_at).await?;
    for line in std::io::stdin().lock().lines() {
        let said = match verifier.verify(line?.trim()).await {
            Ok(account) => format!("ok {} {}", account.sub, account.groups.join(",")),
            Err(error) => format!("refused: {error}"),
        };
        writeln!(std::io::stdout(), "{said}")?;
    }
    Ok(())
}
