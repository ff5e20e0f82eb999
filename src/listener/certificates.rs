//! Certificates with their keys, and the CAs of client certificates, from the files that hold them.
//!
//! Owns: what makes a pair of files usable, and everything that can be wrong with it; the names that a
//! certificate is for.
//! Must not know: sockets, listeners, when files are read.
//!
//! A file is read whole, once, and everything is decided on those bytes: a file that changes meanwhile is the
//! next reading's business.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, SignatureAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// The largest file that is read, in bytes: every public CA there is fits in a quarter of it.
const LARGEST: u64 = 1024 * 1024;

/// A file, and how the configuration calls it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Named {
    /// As written: what messages and metrics say.
    pub written: Box<str>,
    /// Where it is.
    pub path: PathBuf,
}

/// The files of one certificate. Both may be the same one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pair {
    /// The certificate, and behind it those that lead to a CA.
    pub cert: Named,
    /// Its key.
    pub key: Named,
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The certificate.
    Cert,
    /// The key.
    Key,
}

/// Why a pair is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsound {
    /// Which of the files.
    pub part: Part,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a file; a predicate, with the cure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No such file.
    #[error("does not exist; create it, or mend the path (relative to the folder of the configuration)")]
    Missing,
    /// The operating system does not give it out.
    #[error("cannot be read ({0}); let the user that runs teamgate read it")]
    Unreadable(io::ErrorKind),
    /// A folder, a pipe, a device.
    #[error("is no ordinary file; name the file itself")]
    NotAFile,
    /// Longer than any of its kind.
    #[error("is larger than 1 MiB; name a file with certificates and nothing else")]
    TooLarge,
    /// Somebody else could put their own key there.
    #[error("can be written by others (mode {0:03o}); run `chmod go-w` on it")]
    Writable(u32),
    /// A block that does not end, or is no base64.
    #[error("is damaged: a PEM block in it cannot be read; write the file again, whole")]
    BadPem,
    /// No certificate in it.
    #[error("has no certificate; it begins with `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// A certificate in it that is none.
    #[error("has a certificate that cannot be read; write the file again, whole")]
    BadCertificate,
    /// Only a key.
    #[error("has a key and no certificate; `cert` and `key` may have changed places")]
    OnlyAKey,
    /// No key in it.
    #[error("has no private key; it has a line `-----BEGIN PRIVATE KEY-----`, or EC or RSA before PRIVATE")]
    NoKey,
    /// The key wants a password.
    #[error("is encrypted, and nobody is there to type the password; run `openssl pkey -in FILE -out NEW`")]
    EncryptedKey,
    /// A key of a kind or size that TLS here has no use for.
    #[error(
        "has a key of a kind that is not supported; make an ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more) key"
    )]
    UnusableKey,
    /// The key of another certificate.
    #[error(
        "is not the key of the certificate; put files that belong together, in `cert` the one of this key first"
    )]
    Mismatch,
    /// Its time is over.
    #[error("expired at {0}; renew it")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("is not valid before {0}; wait until then, or set the clock right")]
    NotYetValid(Timestamp),
    /// No name that a browser would look at.
    #[error("names no host: browsers read `subjectAltName` and nothing else; have it issued with the hosts")]
    NoNames,
    /// Made for something else, such as a server.
    #[error("is not for clients (`extendedKeyUsage` lacks `clientAuth`); have one issued that is")]
    NotForClients,
    /// Made for something else, such as a client.
    #[error("is not for servers (`extendedKeyUsage` lacks `serverAuth`); have one issued that is")]
    NotForServers,
    /// Somebody's own certificate where a CA belongs.
    #[error("has a certificate that is no CA; list the CAs that sign client certificates, not those")]
    NotACa,
    /// All CAs in it have expired.
    #[error("has no CA that is valid today; put those in that sign client certificates now")]
    NoValidCa,
}

/// The SHA-256 of something.
pub type Sha256 = [u8; 32];

/// A certificate that can be shown: it is valid, and the key is its own.
pub struct Certificate {
    /// The chain and the key, as rustls wants them.
    pub shown: Arc<CertifiedKey>,
    /// The hosts that it is for.
    pub names: Names,
    /// From when on it is valid.
    pub begins_at: Timestamp,
    /// Until when it is valid.
    pub ends_at: Timestamp,
    /// The SHA-256 of the certificate alone, as browsers show it.
    pub fingerprint: Sha256,
    /// The key's permission bits, if anybody on the machine can read it.
    pub exposed: Option<u32>,
    /// The SHA-256 of what both files hold.
    pub contents: Sha256,
}

/// Certificates, DER.
pub type Chain = Vec<Vec<u8>>;

/// What the gateway shows to an app that asks for a certificate: names in it say nothing.
pub struct Identity {
    /// The certificate and those between it and the authority, DER. At least one.
    pub chain: Chain,
    /// Its private key, DER.
    pub key: Secret<Vec<u8>>,
    /// The key's permission bits, if anybody on the machine can read it.
    pub exposed: Option<u32>,
}

/// CAs that client certificates must come from.
#[derive(Clone)]
pub struct ClientCa {
    /// Asks for a client certificate and refuses who has none of theirs.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// The SHA-256 of what the file holds.
    pub contents: Sha256,
}

/// The provider of cryptography: the same as everywhere else.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Certificate {
    /// Reads a pair of files.
    ///
    /// # Errors
    ///
    /// [`Unsound`]: which file, why, and what helps.
    pub fn read(pair: &Pair, now: Timestamp) -> Result<Certificate, Unsound> {
        let of = |part| move |fault| Unsound { part, fault };
        let cert = read(&pair.cert.path).map_err(of(Part::Cert))?;
        let key = read(&pair.key.path).map_err(of(Part::Key))?;
        Certificate::of(&cert, &key, now)
    }

    fn of(cert: &Contents, key: &Contents, now: Timestamp) -> Result<Certificate, Unsound> {
        let of = |part| move |fault| Unsound { part, fault };
        if key.mode & 0o022 != 0 {
            return Err(Unsound { part: Part::Key, fault: Fault::Writable(key.mode) });
        }
        let chain = certificates(&cert.bytes).map_err(of(Part::Cert))?;
        let own = parsed(&chain[0]).map_err(of(Part::Cert))?;
        let (begins_at, ends_at) = validity(&own, now).map_err(of(Part::Cert))?;
        if own
            .extended_key_usage()
            .ok()
            .flatten()
            .is_some_and(|usage| !usage.value.server_auth && !usage.value.any)
        {
            return Err(Unsound { part: Part::Cert, fault: Fault::NotForServers });
        }
        let names = Names::of(&own);
        if names.is_empty() {
            return Err(Unsound { part: Part::Cert, fault: Fault::NoNames });
        }
        let fingerprint = sha256(&[&chain[0]]);
        let signing = private_key(&key.bytes).map_err(of(Part::Key))?;
        let shown = certified(chain, signing)?;
        Ok(Certificate {
            shown: Arc::new(shown),
            names,
            begins_at,
            ends_at,
            fingerprint,
            // A group of the service's own is how a daemon that is not root reads a key of root's.
            exposed: (key.mode & 0o004 != 0).then_some(key.mode),
            contents: sha256(&[&cert.bytes, &key.bytes]),
        })
    }

    /// How its key signs.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.shown.key.algorithm()
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("ends_at", &self.ends_at)
            .field("fingerprint", &hex(&self.fingerprint))
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a pair of files.
    ///
    /// # Errors
    ///
    /// [`Unsound`]: which file, why, and what helps.
    pub fn read(pair: &Pair, now: Timestamp) -> Result<Identity, Unsound> {
        let of = |part| move |fault| Unsound { part, fault };
        let cert = read(&pair.cert.path).map_err(of(Part::Cert))?;
        let key = read(&pair.key.path).map_err(of(Part::Key))?;
        if key.mode & 0o022 != 0 {
            return Err(Unsound { part: Part::Key, fault: Fault::Writable(key.mode) });
        }
        let chain = certificates(&cert.bytes).map_err(of(Part::Cert))?;
        for certificate in &chain {
            parsed(certificate).map_err(of(Part::Cert))?;
        }
        let own = parsed(&chain[0]).map_err(of(Part::Cert))?;
        validity(&own, now).map_err(of(Part::Cert))?;
        let usage = own.extended_key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.client_auth && !usage.value.any) {
            return Err(Unsound { part: Part::Cert, fault: Fault::NotForClients });
        }
        let signing = private_key(&key.bytes).map_err(of(Part::Key))?;
        let bytes = Secret::new(signing.secret_der().to_vec());
        certified(chain.clone(), signing)?;
        Ok(Identity {
            chain: chain.into_iter().map(|certificate| certificate.to_vec()).collect(),
            key: bytes,
            exposed: (key.mode & 0o004 != 0).then_some(key.mode),
        })
    }
}

/// Reads a file with one certificate or several that vouch for an app: authorities, or the app's own, where it has
/// signed itself. DER, at least one.
///
/// # Errors
///
/// What is wrong with the file.
pub fn vouching(file: &Named) -> Result<Chain, Fault> {
    let Contents { bytes, mode } = read(&file.path)?;
    if mode & 0o022 != 0 {
        // Whoever can write it can stand between the gateway and the app.
        return Err(Fault::Writable(mode));
    }
    let found = certificates(&bytes)?;
    let mut roots = RootCertStore::empty();
    for certificate in &found {
        parsed(certificate)?;
        roots.add(certificate.clone()).map_err(|_| Fault::BadCertificate)?;
    }
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// A certificate with its key.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Unsound> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Unsound { part: Part::Key, fault: Fault::Mismatch }
        }
        rustls::Error::InvalidCertificate(_) => Unsound { part: Part::Cert, fault: Fault::BadCertificate },
        _ => Unsound { part: Part::Key, fault: Fault::UnusableKey },
    })
}

impl ClientCa {
    /// Reads a file with one CA or several. Those whose time is over are passed over.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn read(file: &Named, now: Timestamp) -> Result<ClientCa, Fault> {
        let Contents { bytes, mode } = read(&file.path)?;
        if mode & 0o022 != 0 {
            // Whoever can write it lets in whom they like.
            return Err(Fault::Writable(mode));
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&bytes)? {
            let ca = parsed(&certificate)?;
            if !ca.is_ca() {
                return Err(Fault::NotACa);
            }
            // webpki does not ask how old an anchor is.
            if validity(&ca, now).is_ok() {
                roots.add(certificate).map_err(|_| Fault::BadCertificate)?;
            }
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| Fault::NoValidCa)?;
        Ok(ClientCa { verifier, contents: sha256(&[&bytes]) })
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("contents", &hex(&self.contents)).finish_non_exhaustive()
    }
}

/// The hosts that a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// Host names, lower case.
    pub exact: Vec<Box<str>>,
    /// `example.com` for `*.example.com`: one label more, not several (RFC 9525 §6.3).
    pub below: Vec<Box<str>>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    fn of(certificate: &X509Certificate<'_>) -> Names {
        let mut names = Names::default();
        let extension = certificate.subject_alternative_name().ok().flatten();
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.add(&name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        names
    }

    /// A `*` anywhere but as the whole first label means nothing to browsers any more.
    fn add(&mut self, name: &str) {
        match name.strip_prefix("*.") {
            Some(domain) if !domain.contains('*') && !domain.is_empty() => self.below.push(domain.into()),
            None if !name.contains('*') && !name.is_empty() => self.exact.push(name.into()),
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.addresses.is_empty()
    }

    /// Whether the certificate is for `host`, written as [`crate::facts::Facts::host`] is.
    pub fn cover(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let among = |names: &[Box<str>], wanted: &str| names.iter().any(|name| **name == *wanted);
        among(&self.exact, host) || host.split_once('.').is_some_and(|(_, domain)| among(&self.below, domain))
    }
}

/// For people: `a.example.com, *.example.net`.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.exact.iter().map(ToString::to_string);
        let below = self.below.iter().map(|domain| format!("*.{domain}"));
        let addresses = self.addresses.iter().map(ToString::to_string);
        f.write_str(&exact.chain(below).chain(addresses).collect::<Vec<_>>().join(", "))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Bytes in hexadecimal, as fingerprints are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file holds, and who may touch it.
struct Contents {
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

fn read(path: &Path) -> Result<Contents, Fault> {
    let fault = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        kind => Fault::Unreadable(kind),
    };
    // Opening a pipe would wait for whoever writes into it.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(Fault::NotAFile);
    }
    let file = File::open(path).map_err(fault)?;
    let facts = file.metadata().map_err(fault)?;
    if facts.len() > LARGEST {
        return Err(Fault::TooLarge);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(facts.len() as usize + 1));
    file.take(LARGEST).read_to_end(&mut bytes).map_err(fault)?;
    Ok(Contents { bytes, mode: facts.mode() & 0o777 })
}

/// Every certificate in it; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| Fault::BadPem)?;
    match found.is_empty() {
        false => Ok(found),
        true if has(pem, "PRIVATE KEY-----") => Err(Fault::OnlyAKey),
        true => Err(Fault::NoCertificate),
    }
}

fn parsed<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Fault> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Fault::BadCertificate),
    }
}

fn validity(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(Timestamp, Timestamp), Fault> {
    let moment = |seconds: i64| Timestamp::from_unix_seconds(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    let (begins, ends) = (moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp()));
    match now {
        now if now > ends => Err(Fault::Expired(ends)),
        now if now < begins => Err(Fault::NotYetValid(begins)),
        _ => Ok((begins, ends)),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    // PKCS#8 has a label for it, the older forms a header (RFC 1421 §4.6.1.1).
    if has(pem, "BEGIN ENCRYPTED PRIVATE KEY") || has(pem, "Proc-Type: 4,ENCRYPTED") {
        return Err(Fault::EncryptedKey);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => Fault::NoKey,
        _ => Fault::BadPem,
    })
}

fn has(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Of all parts, each with its length in front: two files do not read like two others.
fn sha256(parts: &[&[u8]]) -> Sha256 {
    let mut hash = [0; 32];
    if let [only] = parts {
        hash.copy_from_slice(digest(&SHA256, only).as_ref());
        return hash;
    }
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
pub(crate) mod tests {
    use std::error::Error;
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
    };
    use tempfile::TempDir;

    use super::*;

    pub(crate) type Tested<T = ()> = Result<T, Box<dyn Error>>;

    /// A moment within the life of every certificate made here.
    pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    /// From 2001 to 2033, unless a test says otherwise.
    pub(crate) const LIFE: (i64, i64) = (1_000_000_000, 2_000_000_000);

    /// A certificate in PEM, and its key.
    pub(crate) struct Made {
        pub(crate) cert: String,
        pub(crate) key: String,
    }

    pub(crate) fn params(names: &[&str], life: (i64, i64)) -> Tested<CertificateParams> {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.not_before = time::OffsetDateTime::from_unix_timestamp(life.0)?;
        params.not_after = time::OffsetDateTime::from_unix_timestamp(life.1)?;
        Ok(params)
    }

    pub(crate) fn made_with(params: &CertificateParams, kind: &'static SignatureAlgorithm) -> Tested<Made> {
        let key = KeyPair::generate_for(kind)?;
        Ok(Made { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// One that signed itself, for `names`.
    pub(crate) fn made(names: &[&str]) -> Tested<Made> {
        made_with(&params(names, LIFE)?, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same with an RSA key.
    pub(crate) fn made_with_rsa(names: &[&str]) -> Tested<Made> {
        made_with(&params(names, LIFE)?, &PKCS_RSA_SHA256)
    }

    /// An authority.
    pub(crate) fn authority(name: &str, life: (i64, i64)) -> Tested<CertifiedIssuer<'static, KeyPair>> {
        let mut params = params(&[], life)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
    }

    /// A certificate that lets a client in where `authority` is asked.
    pub(crate) fn client(authority: &CertifiedIssuer<'static, KeyPair>) -> Tested<Made> {
        let mut params = params(&["client"], LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(Made { cert: params.signed_by(&key, authority)?.pem(), key: key.serialize_pem() })
    }

    impl Certificate {
        /// For tests of other modules: a sound one for `names`.
        pub(crate) fn for_tests(names: &[&str]) -> Tested<Certificate> {
            made(names)?.read()
        }
    }

    impl ClientCa {
        /// For tests of other modules: asks for nothing.
        pub(crate) fn for_tests() -> ClientCa {
            ClientCa { verifier: Arc::new(rustls::server::NoClientAuth), contents: [0; 32] }
        }
    }

    impl Made {
        pub(crate) fn read(&self) -> Tested<Certificate> {
            let contents = |text: &str| Contents { bytes: Zeroizing::new(text.into()), mode: 0o600 };
            Certificate::of(&contents(&self.cert), &contents(&self.key), NOW)
                .map_err(|unsound| unsound.fault.into())
        }
    }

    /// Files in a folder of their own.
    pub(crate) struct Files {
        pub(crate) folder: TempDir,
    }

    impl Files {
        pub(crate) fn new() -> Tested<Files> {
            Ok(Files { folder: tempfile::tempdir()? })
        }

        pub(crate) fn write(&self, name: &str, text: &str) -> Tested<Named> {
            let named = self.named(name);
            std::fs::write(&named.path, text)?;
            self.mode(name, 0o600)?;
            Ok(named)
        }

        pub(crate) fn mode(&self, name: &str, mode: u32) -> Tested {
            Ok(std::fs::set_permissions(self.named(name).path, std::fs::Permissions::from_mode(mode))?)
        }

        pub(crate) fn named(&self, name: &str) -> Named {
            Named { written: name.into(), path: self.folder.path().join(name) }
        }

        pub(crate) fn pair(&self, made: &Made) -> Tested<Pair> {
            Ok(Pair { cert: self.write("tls.crt", &made.cert)?, key: self.write("tls.key", &made.key)? })
        }
    }

    #[test]
    fn a_pair_that_belongs_together_is_read() -> Tested {
        let files = Files::new()?;
        let names = ["Wiki.Example.com", "*.apps.example.com", "10.0.0.5", "::1", "w*.example.com", "*"];
        for made in [made(&names)?, made_with_rsa(&names)?, made_with(&params(&names, LIFE)?, &PKCS_ED25519)?]
        {
            let found = Certificate::read(&files.pair(&made)?, NOW).map_err(|unsound| unsound.fault)?;
            assert_eq!(found.names.to_string(), "wiki.example.com, *.apps.example.com, 10.0.0.5, ::1");
            assert_eq!(
                (found.begins_at.unix_seconds(), found.ends_at.unix_seconds()),
                (1_000_000_000, 2_000_000_000)
            );
            assert_eq!(found.exposed, None);
        }
        Ok(())
    }

    #[test]
    fn what_is_shown_to_an_app_needs_no_name_but_must_be_for_clients() -> Tested {
        let files = Files::new()?;
        let ca = authority("an authority", LIFE)?;
        let found = Identity::read(&files.pair(&client(&ca)?)?, NOW).map_err(|unsound| unsound.fault)?;
        assert_eq!((found.chain.len(), found.exposed), (1, None));
        let mut for_servers = params(&["a.example"], LIFE)?;
        for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let made_for_servers = made_with(&for_servers, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        let (one, other) = (client(&ca)?, client(&ca)?);
        let crossed = Made { cert: one.cert, key: other.key };
        for (made, expected) in [(made_for_servers, Fault::NotForClients), (crossed, Fault::Mismatch)] {
            let fault = Identity::read(&files.pair(&made)?, NOW).err().map(|unsound| unsound.fault);
            assert_eq!(fault, Some(expected));
        }
        Ok(())
    }

    #[test]
    fn whoever_vouches_for_an_app_is_read_from_one_file() -> Tested {
        let files = Files::new()?;
        let text = format!("{}{}", authority("a", LIFE)?.pem(), made(&["app.example"])?.cert);
        let file = files.write("ca.pem", &text)?;
        assert_eq!(vouching(&file)?.len(), 2);
        files.mode("ca.pem", 0o622)?;
        assert_eq!(vouching(&file), Err(Fault::Writable(0o622)));
        assert_eq!(vouching(&files.write("empty.pem", "")?), Err(Fault::NoCertificate));
        Ok(())
    }

    #[test]
    fn one_file_may_hold_both() -> Tested {
        let (files, made) = (Files::new()?, made(&["a.example"])?);
        for text in
            [format!("{}{}", made.cert, made.key), format!("words\n{}\nmore\n{}", made.key, made.cert)]
        {
            let both = files.write("both.pem", &text)?;
            Certificate::read(&Pair { cert: both.clone(), key: both }, NOW)
                .map_err(|unsound| unsound.fault)?;
        }
        Ok(())
    }

    #[test]
    fn a_certificate_covers_its_names_and_one_label_below_a_wildcard() -> Tested {
        let names = made(&["wiki.example.com", "*.apps.example.com", "10.0.0.5", "::1"])?.read()?.names;
        for (host, covered) in [
            ("wiki.example.com", true),
            ("example.com", false),
            ("a.wiki.example.com", false),
            ("a.apps.example.com", true),
            ("apps.example.com", false),
            ("a.b.apps.example.com", false),
            (".apps.example.com", true),
            ("10.0.0.5", true),
            ("10.0.0.6", false),
            ("[::1]", true),
            ("[::2]", false),
            ("", false),
        ] {
            assert_eq!(names.cover(host), covered, "{host}");
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said_of_the_right_file() -> Tested {
        let sound = made(&["a.example"])?;
        let other = made(&["a.example"])?;
        let old = made_with(&params(&["a.example"], (1_000_000_000, 1_700_000_000))?, &PKCS_ED25519)?;
        let new = made_with(&params(&["a.example"], (1_900_000_000, 2_000_000_000))?, &PKCS_ED25519)?;
        let nameless = made(&[])?;
        let mut of_a_client = params(&["a.example"], LIFE)?;
        of_a_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let of_a_client = made_with(&of_a_client, &PKCS_ED25519)?;
        let half = &sound.cert[..sound.cert.len() / 2];
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted = sound.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let sealed = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let rows: &[(&str, &str, Part, Fault)] = &[
            (&sound.cert, &other.key, Part::Key, Fault::Mismatch),
            (&sound.key, &sound.key, Part::Cert, Fault::OnlyAKey),
            ("", &sound.key, Part::Cert, Fault::NoCertificate),
            ("no PEM at all", &sound.key, Part::Cert, Fault::NoCertificate),
            (half, &sound.key, Part::Cert, Fault::BadPem),
            (garbled, &sound.key, Part::Cert, Fault::BadCertificate),
            (&sound.cert, "", Part::Key, Fault::NoKey),
            (&sound.cert, &sound.cert, Part::Key, Fault::NoKey),
            (&sound.cert, &sound.key[..60], Part::Key, Fault::BadPem),
            (&sound.cert, &encrypted, Part::Key, Fault::EncryptedKey),
            (&sound.cert, sealed, Part::Key, Fault::EncryptedKey),
            (&sound.cert, odd, Part::Key, Fault::UnusableKey),
            (&old.cert, &old.key, Part::Cert, Fault::Expired(Timestamp::from_unix_seconds(1_700_000_000))),
            (
                &new.cert,
                &new.key,
                Part::Cert,
                Fault::NotYetValid(Timestamp::from_unix_seconds(1_900_000_000)),
            ),
            (&nameless.cert, &nameless.key, Part::Cert, Fault::NoNames),
            (&of_a_client.cert, &of_a_client.key, Part::Cert, Fault::NotForServers),
        ];
        let files = Files::new()?;
        for (cert, key, part, fault) in rows {
            let made = Made { cert: (*cert).to_owned(), key: (*key).to_owned() };
            let found = Certificate::read(&files.pair(&made)?, NOW).err();
            assert_eq!(found, Some(Unsound { part: *part, fault: fault.clone() }), "{fault}");
        }
        Ok(())
    }

    #[test]
    fn a_file_that_is_not_there_or_not_ours_to_read_is_said() -> Tested {
        let (files, sound) = (Files::new()?, made(&["a.example"])?);
        let pair = files.pair(&sound)?;
        let with = |key: Named| Certificate::read(&Pair { key, ..pair.clone() }, NOW);
        let fault =
            |found: Result<Certificate, Unsound>| found.err().map(|unsound| (unsound.part, unsound.fault));
        assert_eq!(fault(with(files.named("nowhere"))), Some((Part::Key, Fault::Missing)));
        std::fs::create_dir(files.folder.path().join("folder"))?;
        assert_eq!(fault(with(files.named("folder"))), Some((Part::Key, Fault::NotAFile)));
        let large = files.write("large", &"x".repeat(LARGEST as usize + 1))?;
        assert_eq!(fault(with(large)), Some((Part::Key, Fault::TooLarge)));
        for (mode, exposed) in
            [(0o600, None), (0o400, None), (0o640, None), (0o644, Some(0o644)), (0o604, Some(0o604))]
        {
            files.mode("tls.key", mode)?;
            let found = Certificate::read(&pair, NOW).map_err(|unsound| unsound.fault)?;
            assert_eq!(found.exposed, exposed, "{mode:o}");
        }
        for mode in [0o660, 0o606, 0o666] {
            files.mode("tls.key", mode)?;
            assert_eq!(fault(Certificate::read(&pair, NOW)), Some((Part::Key, Fault::Writable(mode))));
        }
        // A pipe that nobody writes into must not hold anything up.
        let pipe = files.named("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe.path).status()?.success());
        assert_eq!(fault(with(pipe)), Some((Part::Key, Fault::NotAFile)));
        Ok(())
    }

    #[test]
    fn client_cas_are_cas_and_at_least_one_is_valid() -> Tested {
        let files = Files::new()?;
        let (one, other) = (authority("one", LIFE)?, authority("other", LIFE)?);
        let old = authority("old", (1_000_000_000, 1_700_000_000))?;
        let read = |text: &str| -> Tested<Result<ClientCa, Fault>> {
            Ok(ClientCa::read(&files.write("ca.pem", text)?, NOW))
        };
        assert!(read(&one.pem())?.is_ok());
        let both = format!("{}{}{}", one.pem(), old.pem(), other.pem());
        let both = read(&both)?.map_err(|fault| fault.to_string())?;
        assert_eq!(both.verifier.root_hint_subjects().len(), 2, "who has expired vouches for nobody");
        let of_somebody = made(&["a.example"])?;
        for (text, fault) in [
            (old.pem(), Fault::NoValidCa),
            (format!("{}{}", one.pem(), of_somebody.cert), Fault::NotACa),
            (of_somebody.key, Fault::OnlyAKey),
            (String::new(), Fault::NoCertificate),
        ] {
            assert_eq!(read(&text)?.err(), Some(fault));
        }
        files.mode("ca.pem", 0o662)?;
        assert_eq!(ClientCa::read(&files.named("ca.pem"), NOW).err(), Some(Fault::Writable(0o662)));
        Ok(())
    }

    #[test]
    fn neither_key_nor_certificate_is_printed() -> Tested {
        let shown = format!("{:?}", made(&["a.example"])?.read()?);
        assert!(shown.starts_with("Certificate { names: Names"), "{shown}");
        assert!(!shown.contains("PrivateKey") && !shown.contains("CertificateDer"), "{shown}");
        Ok(())
    }
}
