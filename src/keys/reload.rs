//! The secret file while the gateway runs: what changed, and whether it may be taken.
//!
//! Owns: [`Watch`], which looks at the file, and [`succession`], which judges a new ring against the present
//! one. Must not know: what is sealed, who is told.

use std::path::{Path, PathBuf};

use super::secret_file::Error;
use super::{KeyFacts, KeyId, Keyring};

/// Looks at a secret file again and again.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    seen: Option<Seen>,
}

/// What was read last: names of keys, or the sentence that says why there are none.
#[derive(PartialEq, Eq, Debug)]
enum Seen {
    Good(Vec<KeyFacts>),
    Bad(String),
}

/// What a look at the file came to.
#[derive(Debug)]
pub enum Look {
    /// It is as it was.
    Same,
    /// It is another one, and good.
    Changed(Keyring),
    /// It is another one, and not good. Said once for each fault.
    Broken(Error),
}

impl Watch {
    /// Watches `path`. The first look takes nothing for granted: the file may have changed since the ring in use
    /// was read.
    pub fn new(path: &Path) -> Watch {
        Watch { path: path.into(), seen: None }
    }

    /// Looks once. Blocks for as long as reading a small file takes. It is read each time: modification times are
    /// as coarse as a timer tick, and an editor writes twice in one.
    pub fn look(&mut self) -> Look {
        let found = Keyring::load(&self.path);
        let seen = match &found {
            Ok(ring) => Seen::Good(ring.keys()),
            Err(error) => Seen::Bad(error.to_string()),
        };
        if self.seen.as_ref() == Some(&seen) {
            return Look::Same;
        }
        self.seen = Some(seen);
        found.map_or_else(Look::Broken, Look::Changed)
    }

    /// Forgets the last look, so that the next one tells again what is there.
    pub fn look_again(&mut self) {
        self.seen = None;
    }
}

/// How a ring may follow another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Succession {
    /// The same keys in the same order.
    Same,
    /// It lacks the key that seals now, under which things were sealed a moment ago.
    LacksTheSealingKey(KeyId),
    /// It may follow.
    Follows {
        /// The key that seals from now on, if that is another one.
        seals: Option<KeyId>,
        /// Keys that open no more; what is still sealed under them would be lost.
        gone: Vec<KeyId>,
    },
}

/// Judges `next` against `present`, each with the sealing key first. Pure.
pub fn succession(present: &[KeyId], next: &[KeyId]) -> Succession {
    if present == next {
        return Succession::Same;
    }
    match present.first() {
        Some(sealing) if !next.contains(sealing) => Succession::LacksTheSealingKey(*sealing),
        first => Succession::Follows {
            seals: next.first().copied().filter(|next| Some(next) != first),
            gone: present.iter().filter(|key| !next.contains(key)).copied().collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::Timestamp;
    use crate::entropy::Entropy;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    #[test]
    fn a_change_is_seen_once_be_it_good_or_bad() -> Outcome {
        let (folder, entropy) = (tempfile::tempdir()?, Entropy::system());
        let path = folder.path().join("teamgate.secret");
        Keyring::generate_file(&path, &entropy, NOW)?;
        let mut watch = Watch::new(&path);
        assert!(matches!(watch.look(), Look::Changed(ring) if ring.ids().len() == 1));
        assert!(matches!(watch.look(), Look::Same));
        Keyring::add_key(&path, &entropy, NOW)?;
        assert!(matches!(watch.look(), Look::Changed(ring) if ring.ids().len() == 2));
        assert!(matches!(watch.look(), Look::Same));
        let good = fs::read(&path)?;

        // Its mode, its content, its absence, and its return.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        assert!(matches!(watch.look(), Look::Broken(Error::Exposed { .. })));
        assert!(matches!(watch.look(), Look::Same));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        assert!(matches!(watch.look(), Look::Changed(_)));
        fs::write(&path, "half a ke")?;
        assert!(matches!(watch.look(), Look::Broken(Error::BadLine { .. })));
        fs::remove_file(&path)?;
        assert!(matches!(watch.look(), Look::Broken(Error::Missing(_))));
        assert!(matches!(watch.look(), Look::Same));
        fs::write(&path, good)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        assert!(matches!(watch.look(), Look::Changed(ring) if ring.ids().len() == 2));
        watch.look_again();
        assert!(matches!(watch.look(), Look::Changed(_)));
        Ok(())
    }

    #[test]
    fn a_ring_that_cannot_open_what_was_sealed_a_moment_ago_does_not_follow() {
        let key = |byte| KeyId([byte; 4]);
        let follows = |seals, gone: &[KeyId]| Succession::Follows { seals, gone: gone.to_vec() };
        for (present, next, expected) in [
            (vec![key(1)], vec![key(1)], Succession::Same),
            (vec![key(1)], vec![key(2), key(1)], follows(Some(key(2)), &[])),
            (vec![key(1)], vec![key(1), key(2)], follows(None, &[])),
            (vec![key(2), key(1)], vec![key(2)], follows(None, &[key(1)])),
            (vec![key(2), key(1)], vec![key(1), key(2)], follows(Some(key(1)), &[])),
            (vec![key(2), key(1)], vec![key(3), key(2)], follows(Some(key(3)), &[key(1)])),
            (vec![key(2), key(1)], vec![key(1)], Succession::LacksTheSealingKey(key(2))),
            (vec![key(1)], vec![key(2)], Succession::LacksTheSealingKey(key(1))),
        ] {
            assert_eq!(succession(&present, &next), expected, "{present:?} {next:?}");
        }
    }

    #[test]
    fn whoever_shares_a_ring_sees_the_new_keys_at_once() -> Outcome {
        use super::super::Purpose;

        let (folder, entropy) = (tempfile::tempdir()?, Entropy::system());
        let path = folder.path().join("teamgate.secret");
        Keyring::generate_file(&path, &entropy, NOW)?;
        let ring = std::sync::Arc::new(Keyring::load(&path)?);
        let shared = ring.clone();
        let old = shared.seal(Purpose::Grant, b"", b"token", &entropy);
        let mac = shared.mac(Purpose::SessionCookie, b"id");
        Keyring::add_key(&path, &entropy, NOW)?;
        ring.become_like(&Keyring::load(&path)?);
        assert!(!shared.is_current(&old));
        assert_eq!(shared.open(Purpose::Grant, b"", &old)?.expose(), b"token");
        assert!(shared.verify_mac(Purpose::SessionCookie, b"id", &mac));
        let new = shared.seal(Purpose::Grant, b"", b"token", &entropy);
        assert_eq!(Keyring::sealed_under(&new), shared.ids().next());
        Ok(())
    }
}
