//! Certificates that change while the gateway runs.
//!
//! Owns: [`Watch`]: when a file is read again, what is done with what it holds, and who is told.
//! Must not know: what makes a certificate usable, how one is chosen.
//!
//! Files are looked at, not waited for: that sees renames, links that point elsewhere (Kubernetes swaps a
//! `..data` link), bind mounts and network file systems alike. What cannot be used changes nothing: the
//! certificate that was read before is shown until a better one is there.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::certificates::{Certificate, ClientCa, Fault, Named, Pair, Part, Sha256, Unsound, hex};
use super::tls::{Settings, Terminator};
use crate::clock::Timestamp;
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;
use crate::telemetry::labels::CertificateReload;

/// How often files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For so many looks a fault must stand before it is told. Whoever writes the certificate and then the key has
/// a pair that does not fit for a moment, and that is nobody's business.
const PATIENCE: u32 = 4;

/// A certificate is told of when less than this is left …
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// … and less than this part of its life: what lives for a day is renewed within the day.
const SOON_PART: u32 = 4;

/// The files behind all listeners, each looked at once however many listeners show it.
pub struct Watch {
    certificates: Vec<Watched<Pair>>,
    client_cas: Vec<Watched<Named>>,
    listeners: Vec<Listener>,
}

/// One listener, and the places of what it shows.
struct Listener {
    terminator: Terminator,
    certificates: Vec<usize>,
    client_ca: Option<usize>,
}

impl Watch {
    /// Watches the files of these listeners.
    pub fn new<'s>(listeners: impl Iterator<Item = (&'s Settings, Terminator)>) -> Watch {
        let mut watch = Watch { certificates: Vec::new(), client_cas: Vec::new(), listeners: Vec::new() };
        for (settings, terminator) in listeners {
            let certificates = settings
                .certificates
                .iter()
                .map(|(pair, certificate)| place(&mut watch.certificates, pair, certificate))
                .collect();
            let client_ca =
                settings.client_ca.as_ref().map(|(file, ca)| place(&mut watch.client_cas, file, ca));
            watch.listeners.push(Listener { terminator, certificates, client_ca });
        }
        watch
    }

    /// Looks at every file, and shows what is new. Reads from disk: not for a thread that serves requests.
    pub fn look(&mut self, now: Timestamp, telemetry: &Telemetry) {
        let certificates: Vec<bool> =
            self.certificates.iter_mut().map(|one| one.look(now, telemetry)).collect();
        let client_cas: Vec<bool> = self.client_cas.iter_mut().map(|one| one.look(now, telemetry)).collect();
        for listener in &self.listeners {
            let changed = listener.certificates.iter().any(|place| certificates[*place])
                || listener.client_ca.is_some_and(|place| client_cas[place]);
            if !changed {
                continue;
            }
            let shown =
                listener.certificates.iter().map(|place| self.certificates[*place].kept.clone()).collect();
            let client_ca = listener.client_ca.map(|place| &self.client_cas[place].kept);
            if let Err(error) = listener.terminator.show(shown, client_ca) {
                tracing::error!(%error, "TLS cannot be set up with new certificates; please report this");
            }
        }
    }
}

/// The place of `source` among those that are watched; a new one if nobody watches it yet.
fn place<S: Source>(watched: &mut Vec<Watched<S>>, source: &S, kept: &S::Kept) -> usize {
    watched.iter().position(|one| one.source == *source).unwrap_or_else(|| {
        watched.push(Watched::new(source.clone(), kept.clone()));
        watched.len() - 1
    })
}

/// Files that are read together, and what becomes of them.
trait Source: Clone + PartialEq {
    type Kept: Clone;

    fn files(&self) -> Vec<&Named>;

    /// What the files hold now, or which one is of no use and why.
    fn read(&self, now: Timestamp) -> Result<Self::Kept, (&Named, Fault)>;

    /// What tells one state of the files from another.
    fn contents(kept: &Self::Kept) -> &Sha256;

    /// What the audit log calls it.
    fn fingerprint(kept: &Self::Kept) -> String;

    /// From when to when it is good, if that ends.
    fn life(kept: &Self::Kept) -> Option<(Timestamp, Timestamp)>;

    /// The file that names all of it in messages and metrics.
    fn name(&self) -> &str {
        self.files().first().map_or("", |file| &file.written)
    }
}

impl Source for Pair {
    type Kept = Arc<Certificate>;

    fn files(&self) -> Vec<&Named> {
        vec![&self.cert, &self.key]
    }

    fn read(&self, now: Timestamp) -> Result<Arc<Certificate>, (&Named, Fault)> {
        Certificate::read(self, now).map(Arc::new).map_err(|Unsound { part, fault }| match part {
            Part::Cert => (&self.cert, fault),
            Part::Key => (&self.key, fault),
        })
    }

    fn contents(kept: &Arc<Certificate>) -> &Sha256 {
        &kept.contents
    }

    fn fingerprint(kept: &Arc<Certificate>) -> String {
        hex(&kept.fingerprint)
    }

    fn life(kept: &Arc<Certificate>) -> Option<(Timestamp, Timestamp)> {
        Some((kept.begins_at, kept.ends_at))
    }
}

impl Source for Named {
    type Kept = ClientCa;

    fn files(&self) -> Vec<&Named> {
        vec![self]
    }

    fn read(&self, now: Timestamp) -> Result<ClientCa, (&Named, Fault)> {
        ClientCa::read(self, now).map_err(|fault| (self, fault))
    }

    fn contents(kept: &ClientCa) -> &Sha256 {
        &kept.contents
    }

    fn fingerprint(kept: &ClientCa) -> String {
        hex(&kept.contents)
    }

    fn life(_: &ClientCa) -> Option<(Timestamp, Timestamp)> {
        None
    }
}

/// What says cheaply that a file may have changed.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` for a file that is not there.
    fn of(path: &Path) -> Option<Stamp> {
        let of = |facts: Metadata| Stamp {
            file: (facts.dev(), facts.ino()),
            length: facts.len(),
            written: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        };
        std::fs::metadata(path).ok().map(of)
    }
}

struct Watched<S: Source> {
    source: S,
    kept: S::Kept,
    /// What the files looked like when they were read last; nothing before the first look.
    stamps: Option<Vec<Option<Stamp>>>,
    /// Whether they had just changed then. Stamps move in ticks of some milliseconds: what is written twice
    /// within one is seen at the look after.
    fresh: bool,
    trouble: Option<Trouble>,
    /// Whether somebody was told of a fault, and not yet that it is over.
    told: bool,
    /// What was said about its end.
    said: Said,
}

/// A fault that stands.
struct Trouble {
    file: Box<str>,
    fault: Fault,
    looks: u32,
}

/// What was said about the end of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Said {
    Nothing,
    Soon,
    Over,
}

impl<S: Source> Watched<S> {
    fn new(source: S, kept: S::Kept) -> Watched<S> {
        Watched { source, kept, stamps: None, fresh: false, trouble: None, told: false, said: Said::Nothing }
    }

    /// Whether there is something new to show.
    fn look(&mut self, now: Timestamp, telemetry: &Telemetry) -> bool {
        if self.stamps.is_none() {
            self.declare(telemetry);
        }
        let changed = self.read_again(now, telemetry);
        self.tell_of_its_end(now);
        changed
    }

    fn read_again(&mut self, now: Timestamp, telemetry: &Telemetry) -> bool {
        // Before the reading, so that what is written in between looks changed next time.
        let stamps: Vec<Option<Stamp>> =
            self.source.files().iter().map(|file| Stamp::of(&file.path)).collect();
        let moved = self.stamps.as_ref() != Some(&stamps);
        // A fault may go without a trace on the file: a folder that can be entered again, a day that comes.
        if !moved && !self.fresh && self.trouble.is_none() {
            return false;
        }
        (self.stamps, self.fresh) = (Some(stamps), moved);
        match self.source.read(now) {
            Ok(found) => self.take(found, now, telemetry),
            Err((file, fault)) => {
                let file = file.written.clone();
                self.doubt(file, fault, telemetry);
                false
            }
        }
    }

    fn take(&mut self, found: S::Kept, now: Timestamp, telemetry: &Telemetry) -> bool {
        let name = self.source.name();
        self.trouble = None;
        if std::mem::take(&mut self.told) {
            tracing::info!(certificate = name, "`{name}` can be used again");
            telemetry.metrics.certificate_in_trouble(name, false);
        }
        if S::contents(&found) == S::contents(&self.kept) {
            return false;
        }
        let sha256 = S::fingerprint(&found);
        match S::life(&found) {
            Some((_, ends_at)) => {
                tracing::info!(certificate = name, sha256, %ends_at, "`{name}` changed and is shown from now on");
            }
            None => tracing::info!(certificate = name, sha256, "`{name}` changed and is asked from now on"),
        }
        telemetry.metrics.certificate_reloads.inc(CertificateReload::Loaded);
        telemetry.audit.record(now, &Event::CertificateReloaded { certificate: name.to_owned(), sha256 });
        self.kept = found;
        self.said = Said::Nothing;
        self.declare(telemetry);
        true
    }

    /// Tells once of a fault that stands.
    fn doubt(&mut self, file: Box<str>, fault: Fault, telemetry: &Telemetry) {
        let looks = match &self.trouble {
            Some(trouble) if (&trouble.file, &trouble.fault) == (&file, &fault) => {
                trouble.looks.saturating_add(1)
            }
            _ => 1,
        };
        if looks == PATIENCE {
            self.told = true;
            let name = self.source.name();
            tracing::warn!(certificate = name, "`{file}` {fault}. What was read before is used on");
            telemetry.metrics.certificate_reloads.inc(CertificateReload::Refused);
            telemetry.metrics.certificate_in_trouble(name, true);
        }
        self.trouble = Some(Trouble { file, fault, looks });
    }

    fn declare(&self, telemetry: &Telemetry) {
        let name = self.source.name();
        if let Some((_, ends_at)) = S::life(&self.kept) {
            telemetry.metrics.certificate_ends(name, ends_at);
        }
        telemetry.metrics.certificate_in_trouble(name, false);
    }

    fn tell_of_its_end(&mut self, now: Timestamp) {
        let Some((begins_at, ends_at)) = S::life(&self.kept) else { return };
        let due = match () {
            () if now > ends_at => Said::Over,
            () if ends_soon(begins_at, ends_at, now) => Said::Soon,
            () => Said::Nothing,
        };
        if due > self.said {
            let name = self.source.name();
            match due {
                Said::Over => {
                    tracing::error!(certificate = name, %ends_at, "`{name}` has expired, and browsers refuse it; renew it")
                }
                _ => tracing::warn!(certificate = name, %ends_at, "`{name}` expires soon; renew it"),
            }
        }
        self.said = self.said.max(due);
    }
}

/// Whether so little of a certificate's life is left that somebody should know.
pub fn ends_soon(begins_at: Timestamp, ends_at: Timestamp, now: Timestamp) -> bool {
    let (left, life) = (ends_at.since(now), ends_at.since(begins_at));
    left < SOON && left < life / SOON_PART
}
