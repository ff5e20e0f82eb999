//! One listener's end of TLS: what is shown to whom, and what is asked of clients.
//!
//! Owns: [`Terminator`], the choice of a certificate by the name that a client asks for (SNI), which requests
//! have come to the wrong connection.
//! Must not know: files, sockets, HTTP beyond its ALPN names.
//!
//! What decides on a request never depends on the certificate that was shown: rules go by the request's host.
//! A name of SNI that nobody has a certificate for gets the first one, and no door opens by that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificates::{Certificate, ClientCa, Named, Pair, provider};

/// How many sessions a listener remembers for resumption; two a connection, some hundred bytes each.
const SESSIONS: usize = 8 * 1024;

/// What a listener with TLS is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its certificates, each with the files that it came from. At least one; the first is for clients that
    /// name no host or none of ours.
    pub certificates: Vec<(Pair, Arc<Certificate>)>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Whose client certificates are wanted. `None`: nobody is asked for one.
    pub client_ca: Option<(Named, ClientCa)>,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MinVersion {
    /// TLS 1.2, and 1.3. The default.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            MinVersion::Tls12 => &BOTH,
            MinVersion::Tls13 => &BOTH[..1],
        }
    }
}

/// TLS on one listener. Cheap to clone; clones see the same swap.
#[derive(Clone)]
pub struct Terminator {
    inner: Arc<Inner>,
}

struct Inner {
    min_version: MinVersion,
    /// Kept over reloads: a visitor who comes back resumes although the certificate has been renewed.
    sessions: Arc<dyn StoresServerSessions>,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    shelf: Arc<Shelf>,
    clients: Clients,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clients {
    Anybody,
    WithCertificate,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator")
            .field("certificates", &self.inner.current.load().shelf.all)
            .finish_non_exhaustive()
    }
}

impl Terminator {
    /// Ends TLS as `settings` say.
    ///
    /// # Errors
    ///
    /// When rustls knows no such configuration, which none of ours is.
    pub fn new(settings: &Settings) -> Result<Terminator, rustls::Error> {
        let certificates = settings.certificates.iter().map(|(_, certificate)| certificate.clone()).collect();
        let client_ca = settings.client_ca.as_ref().map(|(_, ca)| ca);
        let sessions: Arc<dyn StoresServerSessions> = match client_ca {
            None => ServerSessionMemoryCache::new(SESSIONS),
            // A session that is resumed is not verified again: it would outlive the client's certificate, and
            // the CA that vouched for it. Here every connection shows its certificate anew.
            Some(_) => Arc::new(NoServerSessionStorage {}),
        };
        let current = assemble(certificates, client_ca, settings.min_version, &sessions)?;
        let inner =
            Inner { min_version: settings.min_version, sessions, current: ArcSwap::from_pointee(current) };
        Ok(Terminator { inner: Arc::new(inner) })
    }

    /// What the next handshake goes by.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.inner.current.load().config.clone()
    }

    /// Shows `certificates` from the next handshake on, and asks for client certificates of `client_ca`.
    /// Connections that are open stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Terminator::new`]; what was shown before is still shown.
    pub(super) fn show(
        &self,
        certificates: Vec<Arc<Certificate>>,
        client_ca: Option<&ClientCa>,
    ) -> Result<(), rustls::Error> {
        let current = assemble(certificates, client_ca, self.inner.min_version, &self.inner.sessions)?;
        self.inner.current.store(Arc::new(current));
        Ok(())
    }

    /// Whether a request for `host` has come to a connection that is not for it, and another one would be:
    /// 421 (RFC 9110 §7.4 and §15.5.20). `sni` is the name that the client asked for in its handshake.
    ///
    /// A browser may ask for several hosts over one connection when the certificate that it was shown is for
    /// all of them (RFC 9113 §9.1.1). So a host is fine that the certificate covers; and one that no
    /// certificate here covers, for a client that named none, since no other connection would be better.
    /// Where clients have to show a certificate, a connection is for the host that it was opened for.
    pub fn is_misdirected(&self, sni: Option<&str>, host: &str) -> bool {
        if sni == Some(host) {
            return false;
        }
        let current = self.inner.current.load();
        let covered = || current.shelf.shown_for(sni).any(|certificate| certificate.names.cover(host));
        match (current.clients, sni) {
            (Clients::WithCertificate, Some(_)) => true,
            (Clients::WithCertificate, None) | (Clients::Anybody, Some(_)) => !covered(),
            (Clients::Anybody, None) => {
                !covered() && current.shelf.all.iter().any(|certificate| certificate.names.cover(host))
            }
        }
    }
}

fn assemble(
    certificates: Vec<Arc<Certificate>>,
    client_ca: Option<&ClientCa>,
    min_version: MinVersion,
    sessions: &Arc<dyn StoresServerSessions>,
) -> Result<Current, rustls::Error> {
    let shelf = Arc::new(Shelf::new(certificates));
    let (verifier, clients) = match client_ca {
        None => (Arc::new(NoClientAuth) as _, Clients::Anybody),
        Some(ca) => (ca.verifier.clone(), Clients::WithCertificate),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(min_version.versions())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shelf.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = sessions.clone();
    if clients == Clients::WithCertificate {
        config.send_tls13_tickets = 0;
    }
    Ok(Current { config: Arc::new(config), shelf, clients })
}

/// The certificates of a listener, by name.
struct Shelf {
    all: Vec<Arc<Certificate>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    below: HashMap<Box<str>, Vec<usize>>,
}

impl Shelf {
    fn new(all: Vec<Arc<Certificate>>) -> Shelf {
        let (mut exact, mut below) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        for (place, certificate) in all.iter().enumerate() {
            for name in &certificate.names.exact {
                exact.entry(name.clone()).or_default().push(place);
            }
            for domain in &certificate.names.below {
                below.entry(domain.clone()).or_default().push(place);
            }
        }
        Shelf { all, exact, below }
    }

    /// Those that may be shown to who asks for `name`, best first: with exactly this name, else with a wildcard
    /// for it, else the first of all. Several when one host has keys of several kinds.
    fn shown_for(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Certificate>> {
        let exact = name.and_then(|name| self.exact.get(name));
        let wildcard = || self.below.get(name?.split_once('.')?.1);
        let places = exact.or_else(wildcard).map_or(&[0][..], |places| places);
        places.iter().filter_map(|place| self.all.get(*place))
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.all).finish()
    }
}

impl ResolvesServerCert for Shelf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs = |certificate: &&Arc<Certificate>| {
            certificate.shown.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let fitting = self.shown_for(hello.server_name()).find(signs);
        // When none fits, rustls says so to the client better than we could.
        fitting.or_else(|| self.shown_for(hello.server_name()).next()).map(|found| found.shown.clone())
    }
}
