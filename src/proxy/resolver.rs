//! Where upstreams with names are.
//!
//! Owns: [`keep_resolved`]: asking the DNS, in the background. Must not know: who wants an address.

use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use super::balance::State;
use super::peer::Spot;

/// How long an answer of the DNS is used before it is asked again. Its own lifetimes are not visible here.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How soon it is asked again when it had no answer: each time twice as long, up to the above.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells an upstream where it is, for as long as somebody has it. When the DNS does not know, what it said before
/// is better than nothing.
pub(super) async fn keep_resolved(upstream: Weak<State>, host: Box<str>, port: u16) {
    let mut failures = 0_u32;
    loop {
        let found = addresses(&host, port).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let url = &*upstream.target.upstream.url_text;
        let pause = match found {
            Ok(addresses) => {
                if failures > 0 {
                    tracing::info!(upstream = url, "the name of an upstream can be resolved again");
                }
                failures = 0;
                let count = addresses.len();
                if upstream.is_at(addresses.into_iter().map(Spot::Address).collect()) {
                    tracing::debug!(upstream = url, count, "an upstream has other addresses");
                }
                RESOLVE_EVERY
            }
            Err(reason) => {
                if failures == 0 {
                    tracing::warn!(upstream = url, reason, "the name of an upstream cannot be resolved");
                }
                upstream.is_nowhere();
                let pause = RETRY_AFTER.saturating_mul(1 << failures.min(5)).min(RESOLVE_EVERY);
                failures = failures.saturating_add(1);
                pause
            }
        };
        drop(upstream);
        tokio::time::sleep(pause).await;
    }
}

/// The addresses of a name, each once and in order: another order is no change.
async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let mut found: Vec<SocketAddr> = found.collect();
            found.sort_unstable();
            found.dedup();
            if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the DNS does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_has_each_address_once() -> Result<(), String> {
        let found = addresses("localhost", 80).await?;
        assert!(
            found.contains(&SocketAddr::from(([127, 0, 0, 1], 80)))
                || found.contains(&"[::1]:80".parse().map_err(|_| "no address")?)
        );
        let mut sorted = found.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(found, sorted);
        Ok(())
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_is_an_error_in_words() {
        assert!(addresses("nobody.invalid", 80).await.is_err_and(|reason| !reason.is_empty()));
    }
}
