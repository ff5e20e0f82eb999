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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::client::{ClientConfig, Resumption};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{
        ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion, ServerConnection,
        SignatureAlgorithm, SignatureScheme,
    };

    use super::super::certificates::tests::{
        Files, Made, NOW, Tested, authority, client, made, made_with_rsa,
    };
    use super::*;

    const LIFE: (i64, i64) = (1_000_000_000, 2_000_000_000);

    /// Takes any certificate: what is shown is what the tests look at.
    #[derive(Debug)]
    struct TakesAny(Vec<SignatureScheme>);

    impl ServerCertVerifier for TakesAny {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.clone()
        }
    }

    /// A client, as far as the tests differ.
    struct Visitor {
        versions: Vec<&'static SupportedProtocolVersion>,
        schemes: Vec<SignatureScheme>,
        identity: Option<Made>,
        alpn: Vec<Vec<u8>>,
    }

    impl Visitor {
        fn new() -> Visitor {
            let schemes = provider().signature_verification_algorithms.supported_schemes();
            Visitor { versions: rustls::ALL_VERSIONS.to_vec(), schemes, identity: None, alpn: Vec::new() }
        }

        fn config(&self) -> Tested<Arc<ClientConfig>> {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&self.versions)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TakesAny(self.schemes.clone())));
            let mut config = match &self.identity {
                None => builder.with_no_client_auth(),
                Some(made) => builder.with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(made.cert.as_bytes())?],
                    PrivateKeyDer::from_pem_slice(made.key.as_bytes())?,
                )?,
            };
            config.alpn_protocols = self.alpn.clone();
            config.resumption = Resumption::in_memory_sessions(16);
            Ok(Arc::new(config))
        }
    }

    /// What came of a handshake.
    struct Met {
        /// The certificate that the client was shown.
        shown: Vec<u8>,
        version: Option<ProtocolVersion>,
        alpn: Option<Vec<u8>>,
        kind: Option<HandshakeKind>,
        /// What the server knows the client by.
        sni: Option<String>,
        certified: bool,
    }

    /// A handshake in memory, to its end.
    fn meet(server: Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Tested<Met> {
        let mut server = ServerConnection::new(server)?;
        let mut client = ClientConnection::new(client.clone(), ServerName::try_from(name.to_owned())?)?;
        // Enough for both directions of the longest handshake, and the tickets that follow it.
        for _ in 0..8 {
            pass(&mut client, &mut server)?;
            pass(&mut server, &mut client)?;
        }
        if client.is_handshaking() || server.is_handshaking() {
            return Err("the handshake does not end".into());
        }
        Ok(Met {
            shown: client
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|c| c.to_vec())
                .unwrap_or_default(),
            version: client.protocol_version(),
            alpn: client.alpn_protocol().map(<[u8]>::to_vec),
            kind: client.handshake_kind(),
            sni: server.server_name().map(str::to_owned),
            certified: server.peer_certificates().is_some(),
        })
    }

    fn pass<A, B>(
        from: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<A>>,
        to: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<B>>,
    ) -> Tested {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes)?;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            to.read_tls(&mut rest)?;
            to.process_new_packets()?;
        }
        Ok(())
    }

    fn pair() -> Pair {
        let named = |name: &str| Named { written: name.into(), path: name.into() };
        Pair { cert: named("tls.crt"), key: named("tls.key") }
    }

    fn settings(certificates: &[&Arc<Certificate>]) -> Settings {
        let certificates = certificates.iter().map(|one| (pair(), Arc::clone(one))).collect();
        Settings { certificates, min_version: MinVersion::Tls12, client_ca: None }
    }

    fn arc(made: Tested<Made>) -> Tested<Arc<Certificate>> {
        Ok(Arc::new(made?.read()?))
    }

    fn bytes(certificate: &Certificate) -> Vec<u8> {
        certificate.shown.cert[0].to_vec()
    }

    #[test]
    fn the_name_that_is_asked_for_chooses_the_certificate() -> Tested {
        let gate = arc(made(&["gate.example.com"]))?;
        let apps = arc(made(&["*.apps.example.com", "apps.example.com"]))?;
        let wiki = arc(made(&["wiki.apps.example.com"]))?;
        let terminator = Terminator::new(&settings(&[&gate, &apps, &wiki]))?;
        for (name, shown, sni) in [
            ("gate.example.com", &gate, Some("gate.example.com")),
            ("apps.example.com", &apps, Some("apps.example.com")),
            ("any.apps.example.com", &apps, Some("any.apps.example.com")),
            ("wiki.apps.example.com", &wiki, Some("wiki.apps.example.com")),
            ("WIKI.Apps.example.com", &wiki, Some("wiki.apps.example.com")),
            ("wiki.apps.example.com.", &wiki, Some("wiki.apps.example.com")),
            ("a.b.apps.example.com", &gate, Some("a.b.apps.example.com")),
            ("evil.example", &gate, Some("evil.example")),
            // An address is no name of SNI.
            ("127.0.0.1", &gate, None),
        ] {
            let met = meet(terminator.config(), &Visitor::new().config()?, name)?;
            assert_eq!(met.shown, bytes(shown), "{name}");
            assert_eq!(met.sni.as_deref(), sni, "{name}");
        }
        Ok(())
    }

    #[test]
    fn of_two_kinds_of_key_the_client_gets_one_that_it_knows() -> Tested {
        let modern = arc(made(&["a.example", "*.b.example"]))?;
        let old = arc(made_with_rsa(&["a.example", "*.b.example"]))?;
        let terminator = Terminator::new(&settings(&[&modern, &old]))?;
        let rsa_only = Visitor {
            schemes: vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256],
            ..Visitor::new()
        };
        for name in ["a.example", "x.b.example"] {
            assert_eq!(meet(terminator.config(), &Visitor::new().config()?, name)?.shown, bytes(&modern));
            assert_eq!(meet(terminator.config(), &rsa_only.config()?, name)?.shown, bytes(&old));
        }
        assert_eq!(old.algorithm(), SignatureAlgorithm::RSA);
        Ok(())
    }

    #[test]
    fn http2_is_offered_and_old_versions_are_not_spoken() -> Tested {
        let certificate = arc(made(&["a.example"]))?;
        let both = Terminator::new(&settings(&[&certificate]))?;
        let strict = Settings { min_version: MinVersion::Tls13, ..settings(&[&certificate]) };
        let strict = Terminator::new(&strict)?;
        let with = |alpn: &[&str]| Visitor {
            alpn: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
            ..Visitor::new()
        };
        for (offered, chosen) in [
            (&["h2", "http/1.1"][..], Some("h2")),
            (&["http/1.1", "h2"], Some("h2")),
            (&["http/1.1"], Some("http/1.1")),
            (&[], None),
        ] {
            let met = meet(both.config(), &with(offered).config()?, "a.example")?;
            assert_eq!(met.alpn, chosen.map(|p| p.as_bytes().to_vec()), "{offered:?}");
            assert_eq!(met.version, Some(ProtocolVersion::TLSv1_3));
        }
        assert!(meet(both.config(), &with(&["spdy/3"]).config()?, "a.example").is_err());
        let old = Visitor { versions: vec![&rustls::version::TLS12], ..Visitor::new() }.config()?;
        assert_eq!(meet(both.config(), &old, "a.example")?.version, Some(ProtocolVersion::TLSv1_2));
        assert!(meet(strict.config(), &old, "a.example").is_err());
        Ok(())
    }

    /// A listener that asks for certificates of `authority`.
    fn asking(files: &Files, pem: &str) -> Tested<Settings> {
        let file = files.write("ca.pem", pem)?;
        let ca = ClientCa::read(&file, NOW).map_err(|fault| fault.to_string())?;
        Ok(Settings { client_ca: Some((file, ca)), ..settings(&[&arc(made(&["a.example"]))?]) })
    }

    #[test]
    fn who_must_show_a_certificate_gets_in_with_one_of_the_right_authority_only() -> Tested {
        let (files, ours, theirs) = (Files::new()?, authority("ours", LIFE)?, authority("theirs", LIFE)?);
        let terminator = Terminator::new(&asking(&files, &ours.pem())?)?;
        let with = |identity| Visitor { identity, ..Visitor::new() };
        assert!(meet(terminator.config(), &with(Some(client(&ours)?)).config()?, "a.example")?.certified);
        assert!(meet(terminator.config(), &with(Some(client(&theirs)?)).config()?, "a.example").is_err());
        assert!(meet(terminator.config(), &with(None).config()?, "a.example").is_err());
        Ok(())
    }

    /// Resumption would let in whose certificate, or whose CA, is no longer good.
    #[test]
    fn a_client_with_a_certificate_shows_it_on_every_connection() -> Tested {
        let (files, ours, theirs) = (Files::new()?, authority("ours", LIFE)?, authority("theirs", LIFE)?);
        let told = asking(&files, &ours.pem())?;
        for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
            let terminator = Terminator::new(&told)?;
            let visitor = Visitor { identity: Some(client(&ours)?), versions, ..Visitor::new() };
            let visitor = visitor.config()?;
            for _ in 0..2 {
                let met = meet(terminator.config(), &visitor, "a.example")?;
                assert_ne!(met.kind, Some(HandshakeKind::Resumed));
            }
            let other =
                ClientCa::read(&files.write("ca.pem", &theirs.pem())?, NOW).map_err(|f| f.to_string())?;
            terminator.show(vec![arc(made(&["a.example"]))?], Some(&other))?;
            assert!(meet(terminator.config(), &visitor, "a.example").is_err(), "the CA is no longer asked");
        }
        Ok(())
    }

    #[test]
    fn a_session_outlives_a_renewed_certificate_and_serves_one_host() -> Tested {
        let terminator = Terminator::new(&settings(&[&arc(made(&["a.example", "b.example"]))?]))?;
        for versions in [vec![&rustls::version::TLS13], vec![&rustls::version::TLS12]] {
            let visitor = Visitor { versions, ..Visitor::new() }.config()?;
            let kind = |name| Tested::Ok(meet(terminator.config(), &visitor, name)?.kind);
            assert_ne!(kind("a.example")?, Some(HandshakeKind::Resumed));
            assert_eq!(kind("a.example")?, Some(HandshakeKind::Resumed));
            terminator.show(vec![arc(made(&["a.example", "b.example"]))?], None)?;
            assert_eq!(kind("a.example")?, Some(HandshakeKind::Resumed));
            assert_ne!(kind("b.example")?, Some(HandshakeKind::Resumed));
        }
        Ok(())
    }

    #[test]
    fn a_request_that_came_over_the_wrong_connection_is_known() -> Tested {
        let wiki = arc(made(&["wiki.example.com", "10.0.0.5"]))?;
        let apps = arc(made(&["*.apps.example.com"]))?;
        let open = Terminator::new(&settings(&[&wiki, &apps]))?;
        let rows = [
            (Some("wiki.example.com"), "wiki.example.com", false),
            // Nobody's name: the first certificate was shown, and the request is for that very name.
            (Some("evil.example"), "evil.example", false),
            // One connection for all hosts of a certificate.
            (Some("a.apps.example.com"), "b.apps.example.com", false),
            (Some("a.apps.example.com"), "a.b.apps.example.com", true),
            (Some("a.apps.example.com"), "apps.example.com", true),
            (Some("a.apps.example.com"), "wiki.example.com", true),
            (Some("wiki.example.com"), "a.apps.example.com", true),
            (Some("wiki.example.com"), "10.0.0.5", false),
            (Some("wiki.example.com"), "evil.example", true),
            // The first certificate was shown, and is for this host.
            (Some("evil.example"), "wiki.example.com", false),
            (Some("evil.example"), "a.apps.example.com", true),
            (None, "wiki.example.com", false),
            (None, "10.0.0.5", false),
            (None, "a.apps.example.com", true),
            // No connection would be better.
            (None, "10.0.0.6", false),
            (None, "evil.example", false),
        ];
        for (sni, host, wrong) in rows {
            assert_eq!(open.is_misdirected(sni, host), wrong, "{sni:?} {host}");
        }
        let files = Files::new()?;
        let told = Settings {
            certificates: settings(&[&wiki, &apps]).certificates,
            ..asking(&files, &authority("ours", LIFE)?.pem())?
        };
        let closed = Terminator::new(&told)?;
        for (sni, host, wrong) in [
            (Some("wiki.example.com"), "wiki.example.com", false),
            (Some("a.apps.example.com"), "a.apps.example.com", false),
            (Some("a.apps.example.com"), "b.apps.example.com", true),
            (Some("wiki.example.com"), "10.0.0.5", true),
            (None, "wiki.example.com", false),
            (None, "a.apps.example.com", true),
            (None, "evil.example", true),
        ] {
            assert_eq!(closed.is_misdirected(sni, host), wrong, "{sni:?} {host}");
        }
        Ok(())
    }

    #[test]
    fn no_handshake_fails_while_certificates_change() -> Tested {
        let first = arc(made(&["a.example"]))?;
        let terminator = Terminator::new(&settings(&[&first]))?;
        let others = (0..8).map(|_| arc(made(&["a.example"]))).collect::<Tested<Vec<_>>>()?;
        let known: Vec<Vec<u8>> = others.iter().chain([&first]).map(|one| bytes(one)).collect();
        let (done, swaps) = (AtomicUsize::new(0), 400);
        std::thread::scope(|scope| -> Tested {
            let greeters: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<usize, String> {
                        let mut met = 0;
                        while done.load(Ordering::Acquire) < swaps {
                            let visitor = Visitor::new().config().map_err(|error| error.to_string())?;
                            let seen = meet(terminator.config(), &visitor, "a.example")
                                .map_err(|e| e.to_string())?;
                            if !known.contains(&seen.shown) {
                                return Err("a certificate that was never there".to_owned());
                            }
                            met += 1;
                        }
                        Ok(met)
                    })
                })
                .collect();
            for swap in 0..swaps {
                terminator.show(vec![others[swap % others.len()].clone()], None)?;
                done.fetch_add(1, Ordering::Release);
                std::thread::yield_now();
            }
            for greeter in greeters {
                greeter.join().map_err(|_| "a greeter panicked")??;
            }
            Ok(())
        })
    }
}
