//! Asking upstreams whether they are well.
//!
//! Owns: [`keep_checked`], one check from connection to verdict. A check goes the way that requests go: the same
//! TLS, the same HTTP. Must not know: how many results change anything.

use std::sync::{OnceLock, Weak};
use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, L4Connect};
use pingora::http::RequestHeader;
use pingora::upstreams::peer::Peer;
use pingora::{Error, ErrorType, Result};

use super::awaited::Awaited;
use super::balance::Endpoint;
use super::failure::reason_of;
use super::reach::{Purpose, Reach};
use crate::route::upstream::app::{HealthCheck, Probe, Timeouts};
use crate::route::upstream::condition::Outcome;

/// Makes the connections of checks. They are not those of requests: a check that used one again would say
/// nothing about whether the next one can be made.
#[derive(Default)]
pub(super) struct Prober(OnceLock<Connector>);

impl Prober {
    /// Made when the first check is due: it reads the system's authorities.
    fn connector(&self) -> &Connector {
        self.0.get_or_init(|| Connector::new(Some(ConnectorOptions::new(0))))
    }
}

/// Checks an endpoint, for as long as somebody has it.
pub(super) async fn keep_checked(
    endpoint: Weak<Endpoint>,
    check: HealthCheck,
    prober: std::sync::Arc<Prober>,
) {
    loop {
        let Some(endpoint) = endpoint.upgrade() else { return };
        let result = match tokio::time::timeout(check.timeout, once(&endpoint, &check, &prober)).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".to_owned()),
        };
        match result {
            Ok(said) => endpoint.observe(Outcome::Good, &said),
            Err(said) => endpoint.observe(Outcome::Bad, &said),
        }
        drop(endpoint);
        tokio::time::sleep(check.interval).await;
    }
}

/// What one check saw, in words; an error is a bad sign.
async fn once(endpoint: &Endpoint, check: &HealthCheck, prober: &Prober) -> Result<String, String> {
    match &check.probe {
        Probe::Tcp => {
            connects(endpoint).await.map_err(|error| reason_of(&error))?;
            Ok("it takes connections".to_owned())
        }
        Probe::Http { path, host, expect } => {
            let authority = match host {
                Some(host) => host.to_string(),
                None => endpoint.target.upstream.authority(),
            };
            let status = status(endpoint, path, &authority, check.timeout, prober)
                .await
                .map_err(|error| reason_of(&error))?;
            match expect.iter().any(|range| range.has(status)) {
                true => Ok(format!("it answers {status}")),
                false => Err(format!("it answers {status}")),
            }
        }
    }
}

async fn connects(endpoint: &Endpoint) -> Result<()> {
    let peer = endpoint.template.peer(&Timeouts::default(), Awaited::Answer);
    Reach { purpose: Purpose::Requests }.connect(peer.address()).await.map(drop)
}

async fn status(
    endpoint: &Endpoint,
    path: &str,
    authority: &str,
    patience: Duration,
    prober: &Prober,
) -> Result<u16> {
    let timeouts = Timeouts { connect: patience, header: patience, idle: patience, ..Timeouts::default() };
    let peer = endpoint.template.peer(&timeouts, Awaited::Answer);
    let (mut session, _) = prober.connector().get_http_session(&peer).await?;
    session.set_read_timeout(Some(patience));
    session.set_write_timeout(Some(patience));
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    request.insert_header("Host", authority)?;
    request.insert_header("User-Agent", "teamgate-health-check")?;
    if session.as_http1().is_some() {
        request.insert_header("Connection", "close")?;
    }
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        match session.response_header().map(|header| header.status) {
            Some(status) if status.is_informational() => {}
            Some(status) => return Ok(status.as_u16()),
            None => return Err(Error::explain(ErrorType::InvalidHTTPHeader, "no status")),
        }
    }
}
