//! Which teams an account is in, as of when, and what changed between two answers.
//!
//! Owns: [`Membership`], [`Team`], [`TeamName`], [`Group`], [`Names`], [`Change`]. What it may do with repositories is in
//! `membership/repository.rs`.
//! Must not know: rules, Bitbucket's API, how old is too old.

pub mod repository;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::TeamId;
use repository::{Repository, RepositoryName};

/// How an operator names a team: by its slug, or pinned by its uuid.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum TeamName {
    /// The workspace ID as it stands in Bitbucket's URLs. Compared exactly.
    Slug(Box<str>),
    /// The workspace's uuid; survives renaming.
    Id(TeamId),
}

/// Why a text names no team or group.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadName {
    /// Nothing in front of the slash.
    #[error("no team name; write `team` or `team/administrators`")]
    Empty,
    /// In braces, but no uuid.
    #[error("`{0}` is in braces but is no uuid; copy it from Bitbucket as {{8-4-4-4-12}}")]
    BadUuid(String),
    /// A character that no slug has.
    #[error("`{0}` is no workspace ID; use the one in Bitbucket's URLs (letters, digits, `-`, `_`, `.`)")]
    BadSlug(String),
    /// A group that cannot be known.
    #[error(
        "`{0}` is not a group teamgate can know; a team has `/members` and `/administrators` (Bitbucket shows \
         custom groups to no user's token)"
    )]
    UnknownGroup(String),
}

impl FromStr for TeamName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<TeamName, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.starts_with('{') {
            return text.parse().map(TeamName::Id).map_err(|_| BadName::BadUuid(text.to_owned()));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        // `.` and `..` would be steps in the path of a question to Bitbucket.
        if text.bytes().all(plain) && !matches!(text, "." | "..") {
            Ok(TeamName::Slug(text.into()))
        } else {
            Err(BadName::BadSlug(text.to_owned()))
        }
    }
}

impl fmt::Display for TeamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TeamName::Slug(slug) => f.write_str(slug),
            TeamName::Id(id) => f.write_str(&id.braced()),
        }
    }
}

/// What teams that are named by their uuid are called: the slugs they had when Bitbucket last gave them. Only
/// for people's eyes; nothing is decided by it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Names(BTreeMap<TeamId, (Box<str>, Timestamp)>);

static NO_NAMES: Names = Names(BTreeMap::new());

impl Names {
    /// No names are known: a team is then shown by its uuid.
    pub fn none() -> &'static Names {
        &NO_NAMES
    }

    /// The slug of a team, if one was ever seen.
    pub fn slug(&self, team: TeamId) -> Option<&str> {
        self.0.get(&team).map(|(slug, _)| &**slug)
    }

    /// The team that is called so, if there is just one.
    pub fn team(&self, slug: &str) -> Option<TeamId> {
        let mut so_called = self.0.iter().filter(|(_, (called, _))| **called == *slug);
        match (so_called.next(), so_called.next()) {
            (Some((team, _)), None) => Some(*team),
            _ => None,
        }
    }

    /// What was seen in `membership` of the teams in `of`, with what is known; `None` when that is nothing new. An
    /// older answer does not replace the slug of a younger one.
    pub fn seen(&self, membership: &Membership, of: impl Fn(TeamId) -> bool) -> Option<Names> {
        let as_of = membership.as_of();
        let mut seen: Option<Names> = None;
        for team in membership.teams().iter().filter(|team| of(team.id)) {
            let known = self.0.get(&team.id);
            if known.is_none_or(|(slug, at)| *slug != team.slug && *at <= as_of) {
                let names = seen.get_or_insert_with(|| self.clone());
                names.0.insert(team.id, (team.slug.clone(), as_of));
            }
        }
        seen
    }
}

/// A group by the name that people know it by.
#[derive(Clone, Copy)]
pub struct Called<'a> {
    group: &'a Group,
    names: &'a Names,
}

impl TeamName {
    /// The slug; the uuid in braces where no slug is known.
    pub fn called(&self, names: &Names) -> String {
        match self {
            TeamName::Id(id) => names.slug(*id).map_or_else(|| id.braced(), str::to_owned),
            TeamName::Slug(slug) => slug.to_string(),
        }
    }
}

impl Group {
    /// With the slug of its team; with the uuid in braces where no slug is known.
    pub fn called<'a>(&'a self, names: &'a Names) -> Called<'a> {
        Called { group: self, names }
    }
}

impl fmt::Display for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group.team {
            TeamName::Id(id) if let Some(slug) = self.names.slug(*id) => f.write_str(slug)?,
            team => team.fmt(f)?,
        }
        f.write_str(match self.group.part {
            None => "",
            Some(Role::Member) => "/members",
            Some(Role::Administrator) => "/administrators",
        })
    }
}

/// What a person is in a team.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May use the workspace.
    Member,
    /// Administers the workspace; is a member too.
    Administrator,
}

/// What a rule names: a team, or one part of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Group {
    /// The team.
    pub team: TeamName,
    /// The part of it; `None` is the team itself. Needs `include_team_groups`.
    pub part: Option<Role>,
}

impl FromStr for Group {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Group, BadName> {
        let Some((team, part)) = text.split_once('/') else {
            return Ok(Group { team: text.parse()?, part: None });
        };
        let part = match part {
            "members" => Role::Member,
            "administrators" => Role::Administrator,
            _ => return Err(BadName::UnknownGroup(text.to_owned())),
        };
        Ok(Group { team: team.parse()?, part: Some(part) })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.called(Names::none()).fmt(f)
    }
}

/// One team that an account is in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Team {
    /// The slug at the time of asking.
    pub slug: Box<str>,
    /// The uuid, which no one else can take.
    pub id: TeamId,
    /// What the account is in it.
    pub role: Role,
    /// Whether Bitbucket confirmed the membership itself. Being listed is no proof (guests of a repository
    /// may be listed): what is not confirmed is passed on to apps but opens no route.
    pub confirmed: bool,
}

impl Team {
    /// Whether `name` means this team.
    pub fn is_named(&self, name: &TeamName) -> bool {
        match name {
            TeamName::Slug(slug) => *slug == self.slug,
            TeamName::Id(id) => *id == self.id,
        }
    }
}

/// The teams of one account, as of a moment. Sorted by slug, each once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    as_of: Timestamp,
    teams: Vec<Team>,
    /// What was asked about, and no other; none of it is older than `as_of`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<Repository>,
}

impl Membership {
    /// Puts an answer into order. Of two entries for one uuid the first stays.
    pub fn new(as_of: Timestamp, mut teams: Vec<Team>) -> Membership {
        teams.sort_by(|a, b| a.slug.cmp(&b.slug));
        teams.dedup_by(|later, first| later.id == first.id);
        Membership { as_of, teams, repositories: Vec::new() }
    }

    /// The same, knowing more: what Bitbucket has answered about repositories since [`Membership::as_of`].
    #[must_use]
    pub fn with_repositories(mut self, answered: Vec<Repository>) -> Membership {
        self.repositories.retain(|known| answered.iter().all(|new| new.name != known.name));
        self.repositories.extend(answered);
        self.repositories.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// Every repository that was asked about.
    pub fn repositories(&self) -> &[Repository] {
        &self.repositories
    }

    /// The answer about one repository; `None` if it was not asked about.
    pub fn repository(&self, name: &RepositoryName) -> Option<&Repository> {
        self.repositories.iter().find(|known| known.name == *name)
    }

    /// The moment before which the first question of this answer was asked.
    pub fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Every team, confirmed or only listed.
    pub fn teams(&self) -> &[Team] {
        &self.teams
    }

    /// Whether the account is **confirmed** to hold `group`.
    pub fn holds(&self, group: &Group) -> bool {
        let team = match &group.team {
            TeamName::Slug(slug) => {
                self.teams.binary_search_by(|team| team.slug.cmp(slug)).ok().map(|at| &self.teams[at])
            }
            TeamName::Id(id) => self.teams.iter().find(|team| team.id == *id),
        };
        team.is_some_and(|team| {
            team.confirmed && (group.part != Some(Role::Administrator) || team.role == Role::Administrator)
        })
    }

    /// The groups as apps see them, in order: `team`, and with `parts` also `team/administrators` (where
    /// that is so) and `team/members`. `only` picks teams.
    pub fn groups(&self, parts: bool, only: impl Fn(&Team) -> bool) -> Vec<String> {
        let mut groups = Vec::new();
        for team in self.teams.iter().filter(|team| only(team)) {
            groups.push(team.slug.to_string());
            if parts && team.role == Role::Administrator {
                groups.push(format!("{}/administrators", team.slug));
            }
            if parts {
                groups.push(format!("{}/members", team.slug));
            }
        }
        groups
    }

    /// What this answer takes away from and adds to an `earlier` one, as confirmed groups and what may be done with
    /// repositories (`my-team/api:write`).
    pub fn changes_since(&self, earlier: &Membership) -> Change {
        let confirmed = |m: &Membership| m.groups(true, |team| team.confirmed);
        let (mut before, mut after) = (confirmed(earlier), confirmed(self));
        // What was not asked about on both occasions has not changed as far as anybody knows.
        for now in &self.repositories {
            if let Some(then) = earlier.repository(&now.name) {
                before.extend(then.held());
                after.extend(now.held());
            }
        }
        Change {
            lost: before.iter().filter(|group| !after.contains(group)).cloned().collect(),
            gained: after.into_iter().filter(|group| !before.contains(group)).collect(),
        }
    }
}

/// What changed between two answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Groups that are gone.
    pub lost: Vec<String>,
    /// Groups that are new.
    pub gained: Vec<String>,
}

impl Change {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(slug: &str, id: u8, role: Role, confirmed: bool) -> Team {
        Team { slug: slug.into(), id: TeamId::from_bytes([id; 16]), role, confirmed }
    }

    fn at(seconds: u64, teams: Vec<Team>) -> Membership {
        Membership::new(Timestamp::from_unix_seconds(seconds), teams)
    }

    #[test]
    fn an_administrator_holds_all_three_groups_and_a_member_two() -> Result<(), BadName> {
        let m = at(0, vec![team("ops", 1, Role::Administrator, true), team("acme", 2, Role::Member, true)]);
        for (group, held) in [
            ("ops", true),
            ("ops/members", true),
            ("ops/administrators", true),
            ("acme", true),
            ("acme/members", true),
            ("acme/administrators", false),
            ("Acme", false),
            ("acm", false),
            ("{02020202-0202-0202-0202-020202020202}", true),
            ("{03030303-0303-0303-0303-030303030303}", false),
        ] {
            assert_eq!(m.holds(&group.parse()?), held, "{group}");
        }
        assert_eq!(
            m.groups(true, |_| true),
            ["acme", "acme/members", "ops", "ops/administrators", "ops/members"]
        );
        assert_eq!(m.groups(false, |_| true), ["acme", "ops"]);
        Ok(())
    }

    #[test]
    fn a_team_that_is_only_listed_opens_nothing() -> Result<(), BadName> {
        let m = at(0, vec![team("acme", 1, Role::Administrator, false)]);
        assert!(!m.holds(&"acme".parse()?));
        assert_eq!(m.groups(false, |_| true), ["acme"]);
        Ok(())
    }

    #[test]
    fn a_team_that_is_named_by_its_uuid_is_called_by_the_slug_that_was_seen_last() -> Result<(), BadName> {
        let (id, pinned) = (TeamId::from_bytes([1; 16]), "{01010101-0101-0101-0101-010101010101}");
        let group: Group = format!("{pinned}/administrators").parse()?;
        let mut names = Names::default();
        let mut see = |seconds, slug: &str, number| {
            let seen =
                names.seen(&at(seconds, vec![team(slug, number, Role::Member, true)]), |team| team == id);
            let new = seen.is_some();
            names = seen.unwrap_or_else(|| names.clone());
            (new, group.called(&names).to_string(), group.team.called(&names))
        };
        assert_eq!(see(5, "globex", 2), (false, format!("{pinned}/administrators"), pinned.to_owned()));
        let acme = |new| (new, "acme/administrators".to_owned(), "acme".to_owned());
        assert_eq!(see(5, "acme", 1), acme(true));
        assert_eq!(see(6, "acme", 1), acme(false), "nothing new");
        assert_eq!(see(4, "earlier", 1), acme(false), "an older answer");
        assert_eq!(
            see(7, "umbrella", 1),
            (true, "umbrella/administrators".to_owned(), "umbrella".to_owned())
        );
        assert_eq!(group.to_string(), format!("{pinned}/administrators"));
        Ok(())
    }

    #[test]
    fn a_lost_role_and_a_new_team_are_told_apart() {
        let before = at(0, vec![team("acme", 1, Role::Administrator, true)]);
        let after = at(9, vec![team("acme", 1, Role::Member, true), team("ops", 2, Role::Member, true)]);
        let change = after.changes_since(&before);
        assert_eq!(change.lost, ["acme/administrators"]);
        assert_eq!(change.gained, ["ops", "ops/members"]);
        assert!(after.changes_since(&after).is_empty());
    }

    #[test]
    fn what_may_be_done_with_a_repository_changes_only_between_two_answers()
    -> Result<(), Box<dyn std::error::Error>> {
        use repository::Access;
        let may = |access| -> Result<Membership, repository::BadRepository> {
            let name = "acme/api".parse()?;
            Ok(at(0, vec![]).with_repositories(vec![Repository { name, access }]))
        };
        let unasked = at(0, vec![]);
        for (before, after, lost, gained) in [
            (
                may(Some(Access::Admin))?,
                may(Some(Access::Read))?,
                &["acme/api:write", "acme/api:admin"][..],
                &[][..],
            ),
            (may(Some(Access::Read))?, may(Some(Access::Write))?, &[], &["acme/api:write"]),
            (may(Some(Access::Read))?, may(None)?, &["acme/api:read"], &[]),
            (unasked.clone(), may(Some(Access::Admin))?, &[], &[]),
            (may(Some(Access::Admin))?, unasked, &[], &[]),
        ] {
            let change = after.changes_since(&before);
            assert_eq!(
                (&change.lost[..], &change.gained[..]),
                (
                    &lost.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                    &gained.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                )
            );
        }
        Ok(())
    }

    #[test]
    fn a_record_from_before_repositories_reads_as_nothing_asked() -> Result<(), serde_json::Error> {
        let old = r#"{"as_of":0,"teams":[]}"#;
        let read: Membership = serde_json::from_str(old)?;
        assert_eq!(read.repositories(), []);
        assert_eq!(serde_json::to_string(&read)?, old);
        Ok(())
    }

    #[test]
    fn a_custom_group_is_refused_with_the_reason() {
        assert_eq!("acme/interns".parse::<Group>(), Err(BadName::UnknownGroup("acme/interns".to_owned())));
        assert_eq!("".parse::<Group>(), Err(BadName::Empty));
        assert_eq!("my team".parse::<Group>(), Err(BadName::BadSlug("my team".to_owned())));
        assert_eq!("..".parse::<Group>(), Err(BadName::BadSlug("..".to_owned())));
        assert_eq!("{x}".parse::<Group>(), Err(BadName::BadUuid("{x}".to_owned())));
    }
}
