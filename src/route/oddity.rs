//! What a path may contain only where the route says so.
//!
//! Owns: [`Oddity`], [`Oddities`].
//! Must not know: how a path is read.

use std::str::FromStr;

/// Something in a path that apps read in two ways, and that a route may opt in to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oddity {
    /// `%2F`, as GitLab and npm use it in names. `encoded_slash` in the configuration.
    EncodedSlash,
    /// `;` or `%3B`, as Java apps use it for parameters. `semicolon` in the configuration.
    Semicolon,
}

impl Oddity {
    const ALL: [Oddity; 2] = [Oddity::EncodedSlash, Oddity::Semicolon];
}

/// A text names no [`Oddity`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a route can allow `encoded_slash` and `semicolon` in a path, nothing else")]
pub struct UnknownOddity;

impl FromStr for Oddity {
    type Err = UnknownOddity;

    fn from_str(text: &str) -> Result<Oddity, UnknownOddity> {
        match text {
            "encoded_slash" => Ok(Oddity::EncodedSlash),
            "semicolon" => Ok(Oddity::Semicolon),
            _ => Err(UnknownOddity),
        }
    }
}

/// A set of [`Oddity`]. Default: none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Oddities(u8);

impl Oddities {
    /// The empty set.
    pub const NONE: Oddities = Oddities(0);

    /// This set and `oddity`.
    pub const fn with(self, oddity: Oddity) -> Oddities {
        Oddities(self.0 | 1 << oddity as u8)
    }

    /// Whether `oddity` is in the set.
    pub const fn contains(self, oddity: Oddity) -> bool {
        self.0 & 1 << oddity as u8 != 0
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What this set has and `allowed` has not.
    pub fn first_missing_in(self, allowed: Oddities) -> Option<Oddity> {
        Oddity::ALL.into_iter().find(|oddity| self.contains(*oddity) && !allowed.contains(*oddity))
    }
}

impl FromIterator<Oddity> for Oddities {
    fn from_iter<I: IntoIterator<Item = Oddity>>(oddities: I) -> Oddities {
        oddities.into_iter().fold(Oddities::NONE, Oddities::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_lacks_what_it_was_not_given() {
        let both: Oddities = [Oddity::EncodedSlash, Oddity::Semicolon].into_iter().collect();
        let slash = Oddities::NONE.with(Oddity::EncodedSlash);
        for (needs, allowed, missing) in [
            (Oddities::NONE, Oddities::NONE, None),
            (slash, Oddities::NONE, Some(Oddity::EncodedSlash)),
            (slash, slash, None),
            (both, slash, Some(Oddity::Semicolon)),
            (both, both, None),
            (slash, both, None),
        ] {
            assert_eq!(needs.first_missing_in(allowed), missing, "{needs:?} {allowed:?}");
        }
        assert!(Oddities::default().is_empty() && !slash.is_empty());
    }

    #[test]
    fn the_configuration_knows_two_names() {
        assert_eq!("encoded_slash".parse(), Ok(Oddity::EncodedSlash));
        assert_eq!("semicolon".parse(), Ok(Oddity::Semicolon));
        assert_eq!("Semicolon".parse::<Oddity>(), Err(UnknownOddity));
        assert_eq!("backslash".parse::<Oddity>(), Err(UnknownOddity));
    }
}
