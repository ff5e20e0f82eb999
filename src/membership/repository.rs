//! What an account may do with a repository, by Bitbucket's own word.
//!
//! Owns: [`RepositoryName`], [`Access`], [`Repository`].
//! Must not know: rules, Bitbucket's API, who is asked about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BadName, TeamName};

/// A repository as it stands in Bitbucket's URLs: `team/slug`. Compared exactly.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RepositoryName {
    /// The slug of the team that owns it.
    pub team: Box<str>,
    /// Its own slug.
    pub slug: Box<str>,
}

/// Why a text names no repository.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadRepository {
    /// Not two parts with one slash in between.
    #[error("`{0}` is no repository; write `team/repository`, as in its URL at Bitbucket")]
    Shape(String),
    /// The team is given by its uuid, which no question about repositories takes.
    #[error("`{0}` names the team by its uuid; write the workspace ID, as in the repository's URL")]
    ById(String),
}

impl FromStr for RepositoryName {
    type Err = BadRepository;

    fn from_str(text: &str) -> Result<RepositoryName, BadRepository> {
        let shape = || BadRepository::Shape(text.to_owned());
        let (team, slug) = text.split_once('/').ok_or_else(shape)?;
        // Both follow the same rules at Bitbucket, and neither may say more in a filter than a name.
        let part = |part: &str| part.parse::<TeamName>();
        match (part(team), part(slug)) {
            (Ok(TeamName::Slug(team)), Ok(TeamName::Slug(slug))) => Ok(RepositoryName { team, slug }),
            (Ok(TeamName::Id(_)) | Err(BadName::BadUuid(_)), _) => Err(BadRepository::ById(text.to_owned())),
            _ => Err(shape()),
        }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.team, self.slug)
    }
}

/// What may be done with a repository; the greater includes the lesser.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Look at it.
    Read,
    /// Push to it.
    Write,
    /// Administer it.
    Admin,
}

impl Access {
    /// Every one, from the least to the greatest.
    pub const ALL: [Access; 3] = [Access::Read, Access::Write, Access::Admin];

    /// As Bitbucket and the configuration write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Admin => "admin",
        }
    }

    /// The access with this name. A word that we do not know is none.
    pub fn named(word: &str) -> Option<Access> {
        Access::ALL.into_iter().find(|access| access.as_str() == word)
    }
}

/// Bitbucket's answer about one repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repository {
    /// Which was asked about.
    pub name: RepositoryName,
    /// What the account may do with it; `None`: nothing.
    pub access: Option<Access>,
}

impl Repository {
    /// What the account holds, for the audit log: `my-team/api:read`, `my-team/api:write`.
    pub(super) fn held(&self) -> impl Iterator<Item = String> + '_ {
        let may = |access: &Access| self.access.is_some_and(|own| *access <= own);
        Access::ALL.into_iter().filter(may).map(|access| format!("{}:{}", self.name, access.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_team_and_a_slug() {
        for (text, fits) in [
            ("my-team/api", true),
            ("my_team/api.v2", true),
            ("api", false),
            ("my-team/", false),
            ("/api", false),
            ("my-team/api/src", false),
            ("my-team/..", false),
            ("my-team/{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}", false),
            ("{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}/api", false),
            (r#"my-team/api" OR name~"a"#, false),
        ] {
            assert_eq!(text.parse::<RepositoryName>().is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_no_access() {
        for (word, access) in [
            ("read", Some(Access::Read)),
            ("write", Some(Access::Write)),
            ("admin", Some(Access::Admin)),
            ("none", None),
            ("owner", None),
            ("Write", None),
        ] {
            assert_eq!(Access::named(word), access, "{word}");
        }
    }
}
