//! An app's address as Pingora wants it.
//!
//! Owns: [`Template`]: everything about a peer that does not depend on the request; TLS, HTTP versions, which
//! requests may share connections. Must not know: which peer is next.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pingora::connectors::L4Connect;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora::{Error, ErrorType, Result};

use super::awaited::{Awaited, Waits};
use super::reach::{KEEPALIVE, Purpose, Reach};
use crate::route::upstream::app::{Target, Timeouts, Version};

/// How many requests share one HTTP/2 connection.
const STREAMS: usize = 100;

/// Where one address of an upstream is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Spot {
    /// On the network.
    Address(SocketAddr),
    /// Behind a socket on this machine.
    Socket(Arc<Path>),
}

/// For logs, and for who is hashed to whom.
impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spot::Address(address) => address.fmt(f),
            Spot::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A peer without what one request or route says.
#[derive(Clone, Debug)]
pub(super) struct Template {
    peer: HttpPeer,
    version: Version,
    requests: Arc<Reach>,
    tunnels: Arc<Reach>,
}

impl Template {
    /// Of `target`, at one of its addresses.
    ///
    /// # Errors
    ///
    /// When the path of a socket is too long, which the configuration does not let through.
    pub(super) fn new(target: &Target, spot: &Spot) -> Result<Template> {
        let name = target.tls_name();
        // Never empty for TLS: without a name Pingora would check no certificate at all.
        let (tls, sni) = (name.is_some(), name.unwrap_or_default().to_owned());
        let mut peer = match spot {
            Spot::Address(address) => HttpPeer::new(address, tls, sni),
            Spot::Socket(path) => {
                let path = path.to_str().ok_or_else(|| {
                    Error::explain(ErrorType::SocketError, "the path of a socket that is no UTF-8")
                })?;
                HttpPeer::new_uds(path, tls, sni)?
            }
        };
        // Pingora does not look at authorities when it looks for a connection to use again: one that another
        // authority vouched for must not be taken for ours.
        let mut identity = DefaultHasher::new();
        (&target.tls, target.version).hash(&mut identity);
        // The lowest bit is for what the connection is for.
        peer.group_key = identity.finish() & !1;
        peer.options.tcp_keepalive = Some(KEEPALIVE.clone());
        // What is no certificate was refused with the configuration: these parse.
        if let Some(authorities) = &target.tls.authorities {
            let parsed = authorities.iter().map(|der| WrappedX509::new(der.clone(), parse_x509));
            peer.options.ca = Some(parsed.collect::<Vec<_>>().into());
        }
        if let Some(identity) = &target.tls.identity {
            let key = CertKey::new(identity.chain.clone(), identity.key.expose().clone());
            peer.client_cert_key = Some(Arc::new(key));
        }
        Ok(Template {
            peer,
            version: target.version,
            requests: Arc::new(Reach { purpose: Purpose::Requests }),
            tunnels: Arc::new(Reach { purpose: Purpose::Tunnel }),
        })
    }

    /// For one request.
    pub(super) fn peer(&self, timeouts: &Timeouts, awaited: Awaited) -> HttpPeer {
        let waits = Waits::of(timeouts, awaited);
        let mut peer = self.peer.clone();
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = waits.read;
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.keep_alive);
        let (most, least) = match (self.version, awaited) {
            // An HTTP/2 connection becomes no tunnel (RFC 8441 is not spoken).
            (Version::H1, _) | (Version::Negotiated, Awaited::Tunnel) => (1, 1),
            (Version::Negotiated, _) => (2, 1),
            (Version::H2, _) => (2, 2),
        };
        options.set_http_version(most, least);
        // What an alarm may end, nobody else is on. In HTTP/1.1 nobody ever is, and a difference would only keep
        // connections apart.
        options.max_h2_streams = if waits.is_watched() || most == 1 { 1 } else { STREAMS };
        let reach: Arc<dyn L4Connect + Send + Sync> = match awaited {
            Awaited::Tunnel => {
                // Kept apart from the others, which are no such connections.
                peer.group_key |= 1;
                self.tunnels.clone()
            }
            Awaited::Answer | Awaited::Stream => self.requests.clone(),
        };
        peer.options.custom_l4 = Some(reach);
        peer
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::Duration;

    use pingora::upstreams::peer::Peer as _;

    use super::*;
    use crate::listener::certificates::tests::{Files, LIFE, authority};
    use crate::listener::certificates::vouching;
    use crate::route::upstream::app::{App, Tls};

    type Outcome<T = ()> = std::result::Result<T, Box<dyn Error>>;

    fn target(url: &str) -> Outcome<Target> {
        let app: App = url.parse()?;
        Ok(app.members[0].target.as_ref().clone())
    }

    fn template(target: &Target) -> Outcome<Template> {
        Ok(Template::new(target, &Spot::Address("10.0.0.5:1".parse()?))?)
    }

    #[test]
    fn every_wait_for_an_app_ends_and_a_name_is_always_checked_over_tls() -> Outcome {
        let timeouts = Timeouts { keep_alive: Duration::from_secs(3), ..Timeouts::default() };
        for (text, tls, name, versions) in [
            ("http://10.0.0.5:8080", false, "", (1, 1)),
            ("https://app.example.com", true, "app.example.com", (2, 1)),
            ("https://10.0.0.5:8443", true, "10.0.0.5", (2, 1)),
            ("https://[::1]:8443", true, "::1", (2, 1)),
            ("h2c://app", false, "", (2, 2)),
        ] {
            let peer = template(&target(text)?)?.peer(&timeouts, Awaited::Answer);
            assert_eq!((peer.tls(), peer.sni()), (tls, name), "{text}");
            assert!(!peer.tls() || !peer.sni().is_empty(), "{text}");
            assert!(peer.verify_cert() && peer.verify_hostname(), "{text}");
            let options = &peer.options;
            assert_eq!(options.connection_timeout, Some(timeouts.connect));
            assert_eq!(options.total_connection_timeout, Some(timeouts.connect));
            assert_eq!(options.read_timeout, Some(timeouts.idle));
            assert_eq!(options.write_timeout, Some(timeouts.write));
            assert_eq!(options.idle_timeout, Some(timeouts.keep_alive));
            let alpn = &options.alpn;
            assert_eq!((alpn.get_max_http_version(), alpn.get_min_http_version()), versions, "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_stream_has_its_connection_to_itself_and_a_tunnel_is_never_http_2() -> Outcome {
        let template = template(&target("https://app")?)?;
        let peer = |awaited| template.peer(&Timeouts::default(), awaited);
        assert_eq!(peer(Awaited::Answer).options.max_h2_streams, STREAMS);
        let stream = peer(Awaited::Stream);
        assert_eq!((stream.options.max_h2_streams, stream.options.read_timeout), (1, None));
        let tunnel = peer(Awaited::Tunnel);
        assert_eq!(tunnel.options.alpn.get_max_http_version(), 1);
        assert_ne!(tunnel.reuse_hash(), stream.reuse_hash());
        Ok(())
    }

    /// A connection that one authority vouched for is not used by who trusts another.
    #[test]
    fn connections_are_shared_only_among_those_who_trust_the_same() -> Outcome {
        let plain = target("https://app")?;
        let files = Files::new()?;
        let pem = authority("an authority", LIFE)?.pem();
        let authorities: Arc<[Vec<u8>]> = vouching(&files.write("ca.pem", &pem)?)?.into();
        let own = Target { tls: Tls { authorities: Some(authorities), ..Tls::default() }, ..plain.clone() };
        let hash = |target: &Target| -> Outcome<u64> {
            Ok(template(target)?.peer(&Timeouts::default(), Awaited::Answer).reuse_hash())
        };
        assert_eq!(hash(&plain)?, hash(&target("https://app")?)?);
        assert_ne!(hash(&plain)?, hash(&own)?);
        Ok(())
    }
}
