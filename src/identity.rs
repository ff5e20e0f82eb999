//! Who someone is.
//!
//! Owns: [`AccountId`], [`TeamId`], [`Email`], [`VerifiedIdentity`].
//! Must not know: how a claim was checked, where a person may go.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 128 bits as Bitbucket writes them: `{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Uuid(u128);

/// The text is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no UUID; write it as Bitbucket does: {{8-4-4-4-12 hexadecimal digits}}")]
pub struct NoUuid;

impl FromStr for Uuid {
    type Err = NoUuid;

    /// With or without braces; the hyphens are not optional.
    fn from_str(text: &str) -> Result<Uuid, NoUuid> {
        let bare = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}').ok_or(NoUuid)?,
            None => text,
        };
        if bare.len() != 36 {
            return Err(NoUuid);
        }
        let mut value = 0_u128;
        for (place, byte) in bare.bytes().enumerate() {
            let hyphen = matches!(place, 8 | 13 | 18 | 23);
            match (hyphen, (byte as char).to_digit(16)) {
                (true, None) if byte == b'-' => {}
                (false, Some(digit)) => value = value << 4 | u128::from(digit),
                _ => return Err(NoUuid),
            }
        }
        Ok(Uuid(value))
    }
}

impl Uuid {
    /// As RFC 9562 §4 writes it. By hand, since a line per request has one.
    fn hyphenated(self) -> [u8; 36] {
        let mut text = [b'-'; 36];
        let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
        for (place, digit) in places.zip(0_u32..) {
            text[place] = b"0123456789abcdef"[(self.0 >> (124 - 4 * digit)) as usize & 0xf];
        }
        text
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.hyphenated();
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// As it prints: 36 characters of ASCII.
            pub fn hyphenated(self) -> [u8; 36] {
                self.0.hyphenated()
            }

            /// As Bitbucket writes it, in braces.
            pub fn braced(self) -> String {
                format!("{{{}}}", self.0)
            }

            /// The sixteen bytes, most significant first.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.0.to_be_bytes()
            }

            /// From [`Self::to_bytes`].
            pub fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(Uuid(u128::from_be_bytes(bytes)))
            }
        }

        impl FromStr for $name {
            type Err = NoUuid;
            fn from_str(text: &str) -> Result<$name, NoUuid> {
                text.parse().map($name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NoUuid;
            fn try_from(text: String) -> Result<$name, NoUuid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        /// Lower-case, without braces.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

uuid_newtype! {
    /// A Bitbucket account: its `uuid`. Nickname, username and e-mail can change hands; this cannot.
    AccountId
}
uuid_newtype! {
    /// A Bitbucket workspace: its `uuid`. The slug can be renamed and taken by somebody else; this cannot.
    TeamId
}

/// An e-mail address that Bitbucket calls primary **and** confirmed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Email(Box<str>);

impl Email {
    /// Takes an address that is safe to compare by its domain and to put into a header: one `@` with
    /// something on both sides, visible ASCII or letters beyond it, no separators.
    pub fn parse(text: &str) -> Option<Email> {
        let (local, domain) = text.split_once('@')?;
        let plain = |c: char| {
            !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | ';' | '<' | '>' | '"' | '@')
        };
        let sound =
            !local.is_empty() && !domain.is_empty() && local.chars().all(plain) && domain.chars().all(plain);
        (sound && text.len() <= 320).then(|| Email(text.into()))
    }

    /// The whole address, as Bitbucket spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the `@`.
    pub fn domain(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, domain)| domain)
    }
}

/// A person whose claims somebody we trust has vouched for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedIdentity {
    claims: Claims,
}

/// What a person is said to be: not yet believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The key of the person.
    pub account: AccountId,
    /// Free text that the person chose; not unique, never to be authorised on.
    pub display_name: Box<str>,
    /// Free text that the person chose; not unique, never to be authorised on.
    pub nickname: Option<Box<str>>,
    /// The primary and confirmed address, if there is one.
    pub email: Option<Email>,
}

impl VerifiedIdentity {
    /// Turns claims into an identity. Only Bitbucket's answer over an authenticated connection and our own
    /// store vouch for anyone; `tests/layers.rs` counts the callers.
    pub fn vouched_for(claims: Claims) -> VerifiedIdentity {
        VerifiedIdentity { claims }
    }

    /// The key of the person.
    pub fn account(&self) -> AccountId {
        self.claims.account
    }

    /// The name that the person chose to be called by.
    pub fn display_name(&self) -> &str {
        &self.claims.display_name
    }

    /// The short name that the person chose.
    pub fn nickname(&self) -> Option<&str> {
        self.claims.nickname.as_deref()
    }

    /// The primary and confirmed address.
    pub fn email(&self) -> Option<&Email> {
        self.claims.email.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_with_and_without_braces_and_written_without() {
        let braced: Result<AccountId, _> = "{0F3C2A94-6a0f-4c0e-9d5e-3a1f6c5b7e21}".parse();
        let bare: Result<AccountId, _> = "0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21".parse();
        assert_eq!(braced, bare);
        assert_eq!(bare.map(|id| id.to_string()).as_deref(), Ok("0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21"));
        assert_eq!(bare.map(AccountId::braced).as_deref(), Ok("{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}"));
        assert_eq!(bare.map(|id| AccountId::from_bytes(id.to_bytes())), bare);
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "{}",
            "ann",
            "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21",
            "0f3c2a946a0f4c0e9d5e3a1f6c5b7e21",
            "0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e2g",
            "+f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21",
        ] {
            assert_eq!(text.parse::<AccountId>(), Err(NoUuid), "{text}");
        }
    }

    #[test]
    fn an_address_has_one_at_and_no_separators() {
        assert_eq!(Email::parse("ada@example.com").as_ref().map(Email::domain), Some("example.com"));
        for text in [
            "ada",
            "@example.com",
            "ada@",
            "a@evil.example@example.com",
            "a,b@example.com",
            "a\r\n@example.com",
        ] {
            assert_eq!(Email::parse(text), None, "{text}");
        }
    }
}
