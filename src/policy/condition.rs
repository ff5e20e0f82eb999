//! One condition on an account, and what it takes to be true.
//!
//! Owns: [`Condition`], [`Conditions`], [`Truth`], [`Domain`].
//! Must not know: what follows from it (allow or deny).

use std::fmt;
use std::str::FromStr;

use crate::identity::{AccountId, Email, VerifiedIdentity};
use crate::membership::repository::{Access, RepositoryName};
use crate::membership::{Group, Membership, Names};

/// How deep conditions may stand in one another, so that asking them never exhausts the stack.
pub const MAX_DEPTH: usize = 16;

/// Something that is true of an account or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// It holds this group, confirmed by Bitbucket.
    Group(Group),
    /// It may do this with the repository, or more.
    Repository(RepositoryName, Access),
    /// It is this one.
    Account(AccountId),
    /// This is its primary and confirmed address. Compared without regard to ASCII case: no mail system in
    /// use tells `Ada@` from `ada@`, and people type both.
    Email(Email),
    /// Its primary and confirmed address is at this domain, not below it.
    EmailDomain(Domain),
    /// All of these are true.
    All(Vec<Condition>),
    /// At least one of these is true.
    Any(Vec<Condition>),
    /// This is false.
    Not(Box<Condition>),
}

/// What is known of a condition; in the order of Kleene's logic, where *and* is the lesser of two and *or*
/// the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Truth {
    /// It is false.
    No,
    /// It cannot be told.
    Unknown,
    /// It is true.
    Yes,
}

impl std::ops::Not for Truth {
    type Output = Truth;

    /// What cannot be told cannot be told the other way round either.
    fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
            Truth::Yes => Truth::No,
        }
    }
}

impl From<bool> for Truth {
    fn from(fact: bool) -> Truth {
        if fact { Truth::Yes } else { Truth::No }
    }
}

impl Condition {
    /// What is known of it for one account. Only what was verified counts.
    pub fn of(&self, identity: &VerifiedIdentity, membership: &Membership) -> Truth {
        let truth = |condition: &Condition| condition.of(identity, membership);
        match self {
            Condition::Group(group) => holds(membership, group),
            // Not asked about: nobody knows.
            Condition::Repository(name, wanted) => match membership.repository(name) {
                Some(known) => known.access.is_some_and(|own| own >= *wanted).into(),
                None => Truth::Unknown,
            },
            Condition::Account(account) => (identity.account() == *account).into(),
            Condition::Email(wanted) => {
                identity.email().is_some_and(|own| own.as_str().eq_ignore_ascii_case(wanted.as_str())).into()
            }
            Condition::EmailDomain(Domain(wanted)) => {
                identity.email().is_some_and(|own| own.domain().eq_ignore_ascii_case(wanted)).into()
            }
            // `Conditions` lets no empty list through; if it did, nothing would follow from it.
            Condition::All(all) => all.iter().map(truth).min().unwrap_or(Truth::Unknown),
            Condition::Any(any) => any.iter().map(truth).max().unwrap_or(Truth::Unknown),
            Condition::Not(condition) => !truth(condition),
        }
    }

    /// The same with nobody's address or account in it, for other people's eyes.
    pub(super) fn without_people<'c>(&'c self, names: &'c Names) -> Shown<'c> {
        Shown { condition: self, people: People::Hidden, names, nested: false }
    }

    /// In full, for operators, with the slugs of teams that are named by their uuid.
    pub(super) fn called<'c>(&'c self, names: &'c Names) -> Shown<'c> {
        Shown { condition: self, people: People::Named, names, nested: false }
    }
}

/// A team that is only listed may be no team of the account: guests of a repository are listed as well. What
/// part of it the account holds is then just as unknown.
fn holds(membership: &Membership, group: &Group) -> Truth {
    if membership.holds(group) {
        return Truth::Yes;
    }
    let listed = membership.teams().iter().any(|team| !team.confirmed && team.is_named(&group.team));
    if listed { Truth::Unknown } else { Truth::No }
}

/// The domain of an e-mail address, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Domain(Box<str>);

/// A text is no domain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no domain of an e-mail address; write what stands behind the `@`, as in `example.com`")]
pub struct BadDomain(String);

impl FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Domain, BadDomain> {
        // What could not be the domain of any address would silently match nobody.
        let fits = !text.contains('*') && Email::parse(&format!("a@{text}")).is_some();
        if fits { Ok(Domain(text.to_ascii_lowercase().into())) } else { Err(BadDomain(text.to_owned())) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list of conditions that is safe to ask: nothing in it is empty, nothing nests deeper than [`MAX_DEPTH`].
/// The list itself may be empty.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Conditions {
    list: Box<[Condition]>,
    /// Those that are named at any depth, each once.
    repositories: Box<[RepositoryName]>,
}

/// Why conditions are not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadCondition {
    /// An empty `all` is true of everybody, which nobody means who writes it.
    #[error("an empty `all` or `any` says nothing about anyone; name somebody in it, or leave it out")]
    Empty,
    /// More than [`MAX_DEPTH`].
    #[error("conditions stand more than 16 deep in one another; write them flatter")]
    TooDeep,
}

impl Conditions {
    /// Takes conditions that are safe to ask.
    ///
    /// # Errors
    ///
    /// [`BadCondition`], for the first that is not.
    pub fn new(conditions: Vec<Condition>) -> Result<Conditions, BadCondition> {
        conditions.iter().try_for_each(|condition| check(condition, MAX_DEPTH))?;
        let mut repositories = Vec::new();
        for condition in leaves(&conditions) {
            if let Condition::Repository(name, _) = condition
                && !repositories.contains(name)
            {
                repositories.push(name.clone());
            }
        }
        Ok(Conditions { list: conditions.into(), repositories: repositories.into() })
    }

    /// In the order they were written in.
    pub fn iter(&self) -> std::slice::Iter<'_, Condition> {
        self.list.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Every group that is named at any depth; may repeat.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        leaves(&self.list).filter_map(|condition| match condition {
            Condition::Group(group) => Some(group),
            _ => None,
        })
    }

    /// Every repository that is named at any depth, each once. Costs nothing.
    pub fn repositories(&self) -> &[RepositoryName] {
        &self.repositories
    }
}

/// Every condition at any depth that is not made of others, in the order they were written in.
pub(super) fn leaves(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    let mut open: Vec<&Condition> = conditions.iter().rev().collect();
    std::iter::from_fn(move || {
        loop {
            match open.pop()? {
                Condition::All(inner) | Condition::Any(inner) => open.extend(inner.iter().rev()),
                Condition::Not(inner) => open.push(inner),
                leaf => return Some(leaf),
            }
        }
    })
}

fn check(condition: &Condition, depth_left: usize) -> Result<(), BadCondition> {
    let depth_left = depth_left.checked_sub(1).ok_or(BadCondition::TooDeep)?;
    match condition {
        Condition::All(inner) | Condition::Any(inner) if inner.is_empty() => Err(BadCondition::Empty),
        Condition::All(inner) | Condition::Any(inner) => {
            inner.iter().try_for_each(|condition| check(condition, depth_left))
        }
        Condition::Not(inner) => check(inner, depth_left),
        Condition::Group(_)
        | Condition::Repository(..)
        | Condition::Account(_)
        | Condition::Email(_)
        | Condition::EmailDomain(_) => Ok(()),
    }
}

/// In full, for operators: `ops/administrators`, `all of my-team, anyone at example.com`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.called(Names::none()).fmt(f)
    }
}

/// A condition in words.
#[derive(Clone, Copy)]
pub(super) struct Shown<'c> {
    condition: &'c Condition,
    people: People,
    names: &'c Names,
    nested: bool,
}

#[derive(Clone, Copy)]
enum People {
    Named,
    Hidden,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.condition, self.people) {
            (Condition::Group(group), _) => group.called(self.names).fmt(f),
            (Condition::Repository(name, access), _) => write!(f, "{} access to {name}", access.as_str()),
            (Condition::Account(_) | Condition::Email(_), People::Hidden) => {
                f.write_str("an account named in the rule")
            }
            (Condition::Account(account), People::Named) => write!(f, "account {}", account.braced()),
            (Condition::Email(email), People::Named) => f.write_str(email.as_str()),
            (Condition::EmailDomain(domain), _) => write!(f, "anyone at {domain}"),
            (Condition::All(all), _) => self.list(f, "all of", all),
            (Condition::Any(any), _) => self.list(f, "any of", any),
            (Condition::Not(condition), _) => write!(f, "not {}", self.within(condition)),
        }
    }
}

impl<'c> Shown<'c> {
    fn within(&self, condition: &'c Condition) -> Shown<'c> {
        Shown { condition, nested: true, ..*self }
    }

    fn list(&self, f: &mut fmt::Formatter<'_>, what: &str, conditions: &'c [Condition]) -> fmt::Result {
        let said: Vec<String> = conditions.iter().map(|one| self.within(one).to_string()).collect();
        let (open, close) = if self.nested { ("(", ")") } else { ("", "") };
        write!(f, "{open}{what} {}{close}", said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::{Claims, TeamId};
    use crate::membership::repository::Repository;
    use crate::membership::{Role, Team};

    type Fault = Box<dyn std::error::Error>;

    fn truth(condition: &Condition, email: Option<&str>) -> Truth {
        let identity = VerifiedIdentity::vouched_for(Claims {
            account: AccountId::from_bytes([1; 16]),
            display_name: "ops".into(),
            nickname: Some("ops".into()),
            email: email.and_then(Email::parse),
        });
        let team = |slug: &str, id, role, confirmed| Team {
            slug: slug.into(),
            id: TeamId::from_bytes([id; 16]),
            role,
            confirmed,
        };
        let teams = vec![team("acme", 2, Role::Member, true), team("guest", 3, Role::Member, false)];
        condition.of(&identity, &Membership::new(Timestamp::from_unix_seconds(0), teams))
    }

    fn group(name: &str) -> Result<Condition, Fault> {
        Ok(Condition::Group(name.parse()?))
    }

    #[test]
    fn a_group_is_held_only_when_its_team_is_confirmed() -> Result<(), Fault> {
        for (name, expected) in [
            ("acme", Truth::Yes),
            ("acme/members", Truth::Yes),
            ("acme/administrators", Truth::No),
            ("{02020202-0202-0202-0202-020202020202}", Truth::Yes),
            ("guest", Truth::Unknown),
            ("guest/members", Truth::Unknown),
            ("guest/administrators", Truth::Unknown),
            ("{03030303-0303-0303-0303-030303030303}", Truth::Unknown),
            ("Acme", Truth::No),
            ("ops", Truth::No),
        ] {
            assert_eq!(truth(&group(name)?, None), expected, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_greater_access_includes_the_lesser_and_what_was_not_asked_is_unknown() -> Result<(), Fault> {
        let identity = VerifiedIdentity::vouched_for(Claims {
            account: AccountId::from_bytes([1; 16]),
            display_name: "ops".into(),
            nickname: None,
            email: None,
        });
        let name: RepositoryName = "acme/api".parse()?;
        let may = |access| {
            let known = Repository { name: name.clone(), access };
            Membership::new(Timestamp::from_unix_seconds(0), vec![]).with_repositories(vec![known])
        };
        let (yes, no) = (Truth::Yes, Truth::No);
        for (access, [read, write, admin]) in [
            (None, [no, no, no]),
            (Some(Access::Read), [yes, no, no]),
            (Some(Access::Write), [yes, yes, no]),
            (Some(Access::Admin), [yes, yes, yes]),
        ] {
            for (wanted, expected) in [(Access::Read, read), (Access::Write, write), (Access::Admin, admin)] {
                let condition = Condition::Repository(name.clone(), wanted);
                assert_eq!(condition.of(&identity, &may(access)), expected, "{access:?} for {wanted:?}");
            }
        }
        let other = Condition::Repository("acme/docs".parse()?, Access::Read);
        assert_eq!(other.of(&identity, &may(Some(Access::Admin))), Truth::Unknown);
        assert_eq!(Condition::Not(Box::new(other)).of(&identity, &may(None)), Truth::Unknown);
        Ok(())
    }

    #[test]
    fn what_is_unknown_stays_unknown_when_it_is_negated() -> Result<(), Fault> {
        let not = |condition| Condition::Not(Box::new(condition));
        let (yes, unknown, no) = (group("acme")?, group("guest")?, group("ops")?);
        let both = |a: &Condition, b: &Condition| vec![a.clone(), b.clone()];
        for (condition, expected) in [
            (not(yes.clone()), Truth::No),
            (not(unknown.clone()), Truth::Unknown),
            (not(no.clone()), Truth::Yes),
            (not(not(unknown.clone())), Truth::Unknown),
            (Condition::All(both(&yes, &yes)), Truth::Yes),
            (Condition::All(both(&yes, &unknown)), Truth::Unknown),
            (Condition::All(both(&unknown, &no)), Truth::No),
            (Condition::Any(both(&yes, &unknown)), Truth::Yes),
            (Condition::Any(both(&unknown, &no)), Truth::Unknown),
            (Condition::Any(both(&no, &no)), Truth::No),
            (not(Condition::All(both(&unknown, &no))), Truth::Yes),
            (Condition::All(vec![]), Truth::Unknown),
            (not(Condition::All(vec![])), Truth::Unknown),
            (Condition::Any(vec![]), Truth::Unknown),
        ] {
            assert_eq!(truth(&condition, None), expected, "{condition}");
        }
        Ok(())
    }

    #[test]
    fn an_address_is_compared_whole_and_without_regard_to_case() -> Result<(), Fault> {
        let address = Condition::Email(Email::parse("ada@example.com").ok_or("address")?);
        let domain = Condition::EmailDomain("Example.com".parse()?);
        for (email, is_address, at_domain) in [
            (Some("ada@example.com"), Truth::Yes, Truth::Yes),
            (Some("Ada@EXAMPLE.com"), Truth::Yes, Truth::Yes),
            (Some("bob@example.com"), Truth::No, Truth::Yes),
            (Some("ada@sub.example.com"), Truth::No, Truth::No),
            (Some("ada@badexample.com"), Truth::No, Truth::No),
            (Some("ada@example.com.evil.example"), Truth::No, Truth::No),
            (Some("xada@example.com"), Truth::No, Truth::Yes),
            (None, Truth::No, Truth::No),
        ] {
            assert_eq!(truth(&address, email), is_address, "{email:?}");
            assert_eq!(truth(&domain, email), at_domain, "{email:?}");
        }
        Ok(())
    }

    #[test]
    fn an_account_is_known_by_its_uuid() {
        assert_eq!(truth(&Condition::Account(AccountId::from_bytes([1; 16])), None), Truth::Yes);
        assert_eq!(truth(&Condition::Account(AccountId::from_bytes([2; 16])), None), Truth::No);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for text in ["", "@example.com", "ada@example.com", "*.example.com", "example .com", "a,b"] {
            assert_eq!(text.parse::<Domain>(), Err(BadDomain(text.to_owned())), "{text}");
        }
        assert_eq!("EXAMPLE.com".parse::<Domain>().map(|d| d.to_string()).as_deref(), Ok("example.com"));
    }

    #[test]
    fn empty_and_bottomless_conditions_are_refused() -> Result<(), Fault> {
        let nested = |depth: usize| -> Result<Condition, Fault> {
            (1..depth).try_fold(group("acme")?, |inner, _| Ok(Condition::Not(Box::new(inner))))
        };
        for (condition, expected) in [
            (Condition::All(vec![]), Err(BadCondition::Empty)),
            (Condition::Not(Box::new(Condition::Any(vec![]))), Err(BadCondition::Empty)),
            (nested(MAX_DEPTH)?, Ok(())),
            (nested(MAX_DEPTH + 1)?, Err(BadCondition::TooDeep)),
        ] {
            assert_eq!(Conditions::new(vec![condition.clone()]).map(|_| ()), expected, "{condition}");
        }
        Ok(())
    }
}
