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
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// For so many looks a fault must stand before it is told. Whoever writes the certificate and then the key has
/// a pair that does not fit for a moment, and that is nobody's business.
const PATIENCE: u32 = 5;

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

    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::certificates::tests::{Files, Made, NOW, Tested, authority, made, made_with, params};
    use super::super::tls::MinVersion;
    use super::*;

    /// Two listeners with the same certificate in files, watched.
    struct Scene {
        files: Files,
        pair: Pair,
        terminators: Vec<Terminator>,
        watch: Watch,
        telemetry: Telemetry,
        now: Timestamp,
    }

    impl Scene {
        fn new(made: &Made) -> Tested<Scene> {
            let files = Files::new()?;
            let pair = files.pair(made)?;
            Scene::with(files, pair)
        }

        fn with(files: Files, pair: Pair) -> Tested<Scene> {
            let certificate = Certificate::read(&pair, NOW).map_err(|unsound| unsound.fault)?;
            let settings = Settings {
                certificates: vec![(pair.clone(), Arc::new(certificate))],
                min_version: MinVersion::Tls12,
                client_ca: None,
            };
            let terminators = vec![Terminator::new(&settings)?, Terminator::new(&settings)?];
            let watch = Watch::new(terminators.iter().map(|terminator| (&settings, terminator.clone())));
            let mut scene =
                Scene { files, pair, terminators, watch, telemetry: Telemetry::unheard()?, now: NOW };
            scene.look();
            Ok(scene)
        }

        fn look(&mut self) {
            self.watch.look(self.now, &self.telemetry);
        }

        fn looks(&mut self, count: u32) {
            for _ in 0..count {
                self.look();
            }
        }

        /// The fingerprint of what every listener shows.
        fn shown(&self) -> Tested<String> {
            let shown: Vec<String> = self.terminators.iter().map(|one| format!("{one:?}")).collect();
            let of = |text: &str| {
                text.split("fingerprint: \"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .map(str::to_owned)
            };
            let first = of(&shown[0]).ok_or("nothing shown")?;
            assert_eq!(of(&shown[1]), Some(first.clone()), "both listeners show the same");
            Ok(first)
        }

        fn metric(&self, name: &str) -> Tested<String> {
            let page = self.telemetry.metrics.render()?;
            let line = page.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such metric")?;
            Ok(line.trim().to_owned())
        }

        fn counted(&self) -> (u64, u64) {
            let of = |outcome| self.telemetry.metrics.certificate_reloads.of(outcome).get();
            (of(CertificateReload::Loaded), of(CertificateReload::Refused))
        }

        fn in_trouble(&self) -> Tested<bool> {
            Ok(self.metric(r#"teamgate_certificate_problem{certificate="tls.crt"}"#)? == "1")
        }
    }

    fn fingerprint(made: &Made) -> Tested<String> {
        Ok(hex(&made.read()?.fingerprint))
    }

    #[test]
    fn what_is_written_is_shown_whether_in_place_or_by_renaming() -> Tested {
        let (first, second, third) = (made(&["a.example"])?, made(&["a.example"])?, made(&["a.example"])?);
        let mut scene = Scene::new(&first)?;
        assert_eq!(scene.shown()?, fingerprint(&first)?);
        scene.files.pair(&second)?;
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&second)?);
        for (name, text) in [("tls.crt", &third.cert), ("tls.key", &third.key)] {
            let draft = scene.files.write("draft", text)?;
            fs::rename(draft.path, scene.files.named(name).path)?;
        }
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&third)?);
        assert_eq!(scene.counted(), (2, 0), "once each, however many listeners show it");
        Ok(())
    }

    /// As Kubernetes mounts secrets: `tls.crt` → `..data/tls.crt`, `..data` → `..1`.
    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() -> Tested {
        let (first, second) = (made(&["a.example"])?, made(&["a.example"])?);
        let files = Files::new()?;
        let root = files.folder.path().to_owned();
        for (folder, made) in [("..1", &first), ("..2", &second)] {
            fs::create_dir(root.join(folder))?;
            files.write(&format!("{folder}/tls.crt"), &made.cert)?;
            files.write(&format!("{folder}/tls.key"), &made.key)?;
        }
        symlink("..1", root.join("..data"))?;
        for name in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{name}"), root.join(name))?;
        }
        let pair = Pair { cert: files.named("tls.crt"), key: files.named("tls.key") };
        let mut scene = Scene::with(files, pair)?;
        symlink("..2", root.join("..data_tmp"))?;
        fs::rename(root.join("..data_tmp"), root.join("..data"))?;
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&second)?);
        assert_eq!(scene.counted(), (1, 0));
        Ok(())
    }

    #[test]
    fn the_same_written_again_changes_nothing() -> Tested {
        let first = made(&["a.example"])?;
        let mut scene = Scene::new(&first)?;
        let config = scene.terminators[0].config();
        scene.files.pair(&first)?;
        scene.looks(3);
        assert!(Arc::ptr_eq(&config, &scene.terminators[0].config()));
        assert_eq!(scene.counted(), (0, 0));
        Ok(())
    }

    #[test]
    fn what_cannot_be_used_is_not_shown_and_said_once() -> Tested {
        let (first, second) = (made(&["a.example"])?, made(&["a.example"])?);
        let mut scene = Scene::new(&first)?;
        for broken in [
            Made { cert: second.cert.clone(), key: first.key.clone() },
            Made { cert: second.cert[..40].to_owned(), key: second.key.clone() },
            Made { cert: String::new(), key: String::new() },
            made_with(&params(&["a.example"], (1_000_000_000, 1_700_000_000))?, &rcgen::PKCS_ED25519)?,
        ] {
            let before = scene.counted();
            scene.files.pair(&broken)?;
            scene.looks(PATIENCE - 1);
            assert_eq!(
                (scene.counted(), scene.in_trouble()?),
                (before, before.1 > 0),
                "not before it stands"
            );
            scene.looks(10);
            assert_eq!(scene.counted(), (0, before.1 + 1), "once, not at each look");
            assert!(scene.in_trouble()?);
            assert_eq!(scene.shown()?, fingerprint(&first)?);
        }
        fs::remove_file(&scene.pair.key.path)?;
        scene.looks(10);
        assert_eq!((scene.counted(), scene.in_trouble()?), ((0, 5), true));
        scene.files.pair(&second)?;
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&second)?);
        assert_eq!((scene.counted(), scene.in_trouble()?), ((1, 5), false));
        Ok(())
    }

    #[test]
    fn a_moment_between_two_files_is_nobodys_business() -> Tested {
        let (first, second) = (made(&["a.example"])?, made(&["a.example"])?);
        let mut scene = Scene::new(&first)?;
        scene.files.write("tls.crt", &second.cert)?;
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&first)?);
        scene.files.write("tls.key", &second.key)?;
        scene.look();
        assert_eq!(scene.shown()?, fingerprint(&second)?);
        assert_eq!((scene.counted(), scene.in_trouble()?), ((1, 0), false));
        Ok(())
    }

    #[test]
    fn putting_the_old_one_back_ends_the_trouble() -> Tested {
        let first = made(&["a.example"])?;
        let mut scene = Scene::new(&first)?;
        scene.files.write("tls.key", "")?;
        scene.looks(PATIENCE);
        assert!(scene.in_trouble()?);
        scene.files.pair(&first)?;
        scene.look();
        assert_eq!((scene.counted(), scene.in_trouble()?), ((0, 1), false));
        Ok(())
    }

    #[test]
    fn one_that_is_not_valid_yet_is_shown_when_its_day_has_come() -> Tested {
        let first = made(&["a.example"])?;
        let tomorrow = NOW.plus(Duration::from_secs(86_400));
        let begins = i64::try_from(tomorrow.unix_seconds())?;
        let second =
            made_with(&params(&["a.example"], (begins, begins + 86_400 * 90))?, &rcgen::PKCS_ED25519)?;
        let mut scene = Scene::new(&first)?;
        scene.files.pair(&second)?;
        scene.looks(PATIENCE);
        assert_eq!((scene.shown()?, scene.in_trouble()?), (fingerprint(&first)?, true));
        scene.now = tomorrow;
        scene.look();
        assert!(!scene.in_trouble()?);
        assert_ne!(scene.shown()?, fingerprint(&first)?);
        let ends = scene.metric(r#"teamgate_certificate_expiry_timestamp_seconds{certificate="tls.crt"}"#)?;
        assert_eq!(ends, (begins + 86_400 * 90).to_string());
        Ok(())
    }

    #[test]
    fn who_vouches_for_clients_changes_with_the_file() -> Tested {
        const LIFE: (i64, i64) = (1_000_000_000, 2_000_000_000);
        let files = Files::new()?;
        let pair = files.pair(&made(&["a.example"])?)?;
        let file = files.write("ca.pem", &authority("one", LIFE)?.pem())?;
        let settings = Settings {
            certificates: vec![(pair.clone(), Arc::new(Certificate::read(&pair, NOW).map_err(|u| u.fault)?))],
            min_version: MinVersion::Tls12,
            client_ca: Some((file.clone(), ClientCa::read(&file, NOW)?)),
        };
        let terminator = Terminator::new(&settings)?;
        let telemetry = Telemetry::unheard()?;
        let mut watch = Watch::new([(&settings, terminator.clone())].into_iter());
        let config = terminator.config();
        watch.look(NOW, &telemetry);
        assert!(Arc::ptr_eq(&config, &terminator.config()));
        files.write("ca.pem", &authority("two", LIFE)?.pem())?;
        watch.look(NOW, &telemetry);
        assert!(!Arc::ptr_eq(&config, &terminator.config()));
        files.write("ca.pem", "")?;
        (0..10).for_each(|_| watch.look(NOW, &telemetry));
        let page = telemetry.metrics.render()?;
        for line in [
            r#"teamgate_certificate_problem{certificate="ca.pem"} 1"#,
            r#"teamgate_certificate_problem{certificate="tls.crt"} 0"#,
            r#"teamgate_certificate_reloads_total{outcome="loaded"} 1"#,
            r#"teamgate_certificate_reloads_total{outcome="refused"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        Ok(())
    }

    #[test]
    fn an_end_is_near_by_days_and_by_the_length_of_the_life() {
        let day = |day: u64| NOW.plus(Duration::from_secs(day * 86_400));
        let hour = |hour: u64| NOW.plus(Duration::from_secs(hour * 3600));
        for (begins, ends, now, soon) in [
            (day(0), day(90), day(70), false),
            (day(0), day(90), day(77), true),
            (day(0), day(365), day(350), false),
            (day(0), day(365), day(352), true),
            (day(0), day(6), day(4), false),
            (day(0), day(6), day(5), true),
            (hour(0), hour(24), hour(17), false),
            (hour(0), hour(24), hour(19), true),
            (day(0), day(1), day(2), true),
        ] {
            assert_eq!(ends_soon(begins, ends, now), soon, "{begins} {ends} {now}");
        }
    }
}
