//! Who may pass a route.
//!
//! Owns: the rules on `teams`, `allow`, `deny`, `access`, and on conditions.
//! Must not know: how a policy decides.

use super::{One, capitals};
use crate::config::document::{self, Access, Groups, RepositoryPermission};
use crate::config::value;
use crate::membership::repository::{self, RepositoryName};
use crate::membership::{Group, TeamName};
use crate::policy::Policy;
use crate::policy::condition::{Condition, Conditions};

impl One<'_, '_> {
    pub(super) fn policy(&mut self) -> Option<Policy> {
        let given: Vec<&str> =
            ["teams", "allow", "access"].into_iter().filter(|key| self.mentions(key)).collect();
        let deny = match &self.route.deny {
            Some(list) if list.is_empty() => {
                self.problem("deny", "an empty list denies nobody; remove it");
                None
            }
            Some(list) => self.conditions("deny", list),
            None if self.mentions("deny") => None,
            None => Some(Conditions::default()),
        };
        match given.as_slice() {
            [] => {
                let path = self.path.clone();
                self.findings.problem(
                    path,
                    "no rule says who may pass; add `teams: […]`, `access: signed-in` or `access: public`",
                );
                None
            }
            ["teams", "allow"] => {
                self.problem("allow", "`teams` is the short form of `allow`; keep one of them");
                None
            }
            [other, "access"] | [other, _, "access"] => {
                self.problem("access", format!("`access` lets people pass without a rule, and there is one (`{other}`); keep one of them"));
                None
            }
            ["access"] => Some(match self.route.access? {
                Access::Public => Policy::Public,
                Access::SignedIn => Policy::SignedIn { deny: deny? },
            }),
            ["teams"] => {
                let allow = self.short_form();
                Some(Policy::Rules { allow: allow?, deny: deny? })
            }
            _ => {
                let list = self.route.allow.as_ref();
                let allow = match list {
                    Some(list) if list.is_empty() => {
                        self.problem(
                            "allow",
                            "an empty list lets nobody in; name a team, or remove the route",
                        );
                        None
                    }
                    Some(list) => self.conditions("allow", list),
                    None => None,
                };
                Some(Policy::Rules { allow: allow?, deny: deny? })
            }
        }
    }

    fn short_form(&mut self) -> Option<Conditions> {
        let teams = self.route.teams.as_ref()?;
        if teams.is_empty() {
            self.problem("teams", "an empty list lets nobody in; name a team, or write `access: signed-in`");
        }
        for (index, group) in teams.iter().enumerate() {
            let key = format!("teams[{index}]");
            if teams.iter().take(index).any(|earlier| earlier == group) {
                self.problem(&key, format!("`{}` is listed twice; keep one", group.0));
            }
            let path = self.at(&key);
            self.group_can_match(&group.0, &path);
        }
        let list = teams.iter().map(|group| Condition::Group(group.0.clone())).collect();
        self.parsed("teams", Conditions::new(list))
    }

    fn conditions(&mut self, key: &str, list: &[document::Condition]) -> Option<Conditions> {
        let path = self.at(key);
        let list = self.each(list, &path)?;
        self.parsed(key, Conditions::new(list))
    }

    fn each(&mut self, list: &[document::Condition], path: &str) -> Option<Vec<Condition>> {
        let found: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(index, one)| self.condition(one, &format!("{path}[{index}]")))
            .collect();
        found.into_iter().collect()
    }

    fn condition(&mut self, one: &document::Condition, path: &str) -> Option<Condition> {
        let places = self.findings.places;
        if places.is_broken(path) {
            return None;
        }
        let keys = ["team", "repository", "account", "email", "email_domain", "all", "any", "not"];
        let given: Vec<&str> =
            keys.into_iter().filter(|key| places.mentions(&format!("{path}.{key}"))).collect();
        let key = match given.as_slice() {
            [key] => *key,
            [] if places.is_strange(path) => return None,
            [] if places.mentions(&format!("{path}.permission")) => {
                self.findings.problem(
                    format!("{path}.permission"),
                    "says nothing without a repository; write `repository: my-team/api` beside it",
                );
                return None;
            }
            [] => {
                self.findings
                    .problem(path, "says nothing; write `team: …`, `account: …` or another condition");
                return None;
            }
            [first, second, ..] => {
                self.findings.problem(path, format!(
                    "has both `{first}` and `{second}`; write two entries if either will do, `all: [{{ {first}: … }}, {{ {second}: … }}]` if both must be so"
                ));
                return None;
            }
        };
        let permission = format!("{path}.permission");
        if key != "repository" && places.mentions(&permission) {
            self.findings.problem(permission, "belongs to `repository`, and there is none; remove it");
            return None;
        }
        let path = format!("{path}.{key}");
        match key {
            "team" => {
                let value::Group(group) = one.team.clone()?;
                self.group_can_match(&group, &path);
                Some(Condition::Group(group))
            }
            "repository" => {
                let value::Repository(name) = one.repository.clone()?;
                self.repository_can_match(&name, &path);
                let access = match one.permission {
                    None if places.mentions(&permission) => return None,
                    None | Some(RepositoryPermission::Read) => repository::Access::Read,
                    Some(RepositoryPermission::Write) => repository::Access::Write,
                    Some(RepositoryPermission::Admin) => repository::Access::Admin,
                };
                Some(Condition::Repository(name, access))
            }
            "account" => Some(Condition::Account(one.account.clone()?.0)),
            "email" => Some(Condition::Email(one.email.clone()?.0)),
            "email_domain" => Some(Condition::EmailDomain(one.email_domain.clone()?.0)),
            "all" | "any" => {
                let list = if key == "all" { &one.all } else { &one.any };
                let list = list.as_ref()?;
                if list.is_empty() {
                    self.findings.problem(
                        path,
                        "an empty list says nothing about anyone; name somebody in it, or remove it",
                    );
                    return None;
                }
                let inner = self.each(list, &path)?;
                Some(if key == "all" { Condition::All(inner) } else { Condition::Any(inner) })
            }
            _ => Some(Condition::Not(Box::new(self.condition(one.not.as_deref()?, &path)?))),
        }
    }

    /// A condition that never matches lets nobody in, or (denied) keeps nobody out: neither was meant.
    fn group_can_match(&mut self, group: &Group, path: &str) {
        capitals(&group.team, path, self.findings);
        let bitbucket = &self.document.bitbucket;
        if group.part.is_some()
            && !bitbucket.include_team_groups
            && self.findings.sound(&["bitbucket.include_team_groups"])
        {
            self.findings.problem(path, format!(
                "`{group}` can never match while bitbucket.include_team_groups is off; set it to true, or write `{}`",
                group.team
            ));
        }
        let Some(teams) = &bitbucket.teams else { return };
        if !teams.is_empty() && !teams.iter().any(|team| team.0 == group.team) {
            self.findings.problem(path, format!(
                "`{group}` can never match: `{}` is not among bitbucket.teams; add it there as it is written here",
                group.team
            ));
        }
    }

    fn repository_can_match(&mut self, name: &RepositoryName, path: &str) {
        let owner = TeamName::Slug(name.team.clone());
        capitals(&owner, path, self.findings);
        let Some(teams) = &self.document.bitbucket.teams else { return };
        // A team that is listed by its uuid may be the one.
        let others = teams.iter().all(|team| matches!(&team.0, TeamName::Slug(_)) && team.0 != owner);
        if !teams.is_empty() && others {
            self.findings.problem(path, format!(
                "`{name}` can never match: `{owner}` is not among bitbucket.teams; add it there as it is written here"
            ));
        }
    }

    /// What a route says beyond its access must be able to mean something.
    pub(super) fn fits_its_access(&mut self, policy: Option<&Policy>) {
        match policy {
            Some(Policy::Public) => {
                for key in ["deny", "max_age", "headers", "audience", "groups", "plain_headers"] {
                    if self.mentions(key) {
                        self.problem(key, format!("`{key}` means nothing where nobody is asked who they are; remove it, or write `access: signed-in`"));
                    }
                }
            }
            Some(Policy::SignedIn { .. })
                if self.document.bitbucket.teams.is_none() && self.findings.sound(&["bitbucket.teams"]) =>
            {
                let path = self.at("access");
                self.findings.warning(
                    path,
                    "any Bitbucket account in the world passes, since bitbucket.teams is not set",
                );
            }
            _ => {}
        }
        let named =
            policy.is_none_or(|policy| matches!(policy, Policy::Public) || policy.groups().next().is_some());
        if self.route.groups == Groups::Matching && !named {
            self.problem(
                "groups",
                "`matching` passes the groups that the rule names, and it names none; remove the line",
            );
        }
    }
}
