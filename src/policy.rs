//! Decides whether a subject may pass.
//!
//! Owns: [`Policy`], [`Condition`], [`decide`] and the grounds, reasons and doubts of each decision.
//! Must not know: HTTP, cookies, Bitbucket, the clock, how old is too old (the gate asks that before).
//! Start reading at [`decide`].

pub mod condition;
pub mod explain;

use crate::identity::VerifiedIdentity;
use crate::membership::repository::RepositoryName;
use crate::membership::{Group, Membership, Names};

use condition::{Condition, Conditions, Truth};

/// Who may pass a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Everybody, signed in or not.
    Public,
    /// Every account that may sign in, unless it is denied.
    SignedIn {
        /// Any of these shuts out.
        deny: Conditions,
    },
    /// Accounts that are let in and not denied. With nothing in `allow` nobody passes.
    Rules {
        /// Any of these lets in …
        allow: Conditions,
        /// … unless any of these shuts out: deny wins.
        deny: Conditions,
    },
}

/// Who wants to pass.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Nobody we know.
    Anonymous,
    /// Somebody who signed in.
    Account {
        /// Who it is.
        identity: &'a VerifiedIdentity,
        /// Which teams the account is in, in an answer that is young enough.
        membership: &'a Membership,
    },
}

/// What [`decide`] says. Only [`Decision::Allow`] lets anything pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<'p> {
    /// May pass.
    Allow(Grounds<'p>),
    /// Somebody might pass; find out who it is.
    AskSignIn,
    /// May not pass.
    Deny(Reason<'p>),
    /// Might or might not; asking again when more is known can help.
    CannotTell(Doubt<'p>),
}

/// Why somebody may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grounds<'p> {
    /// Everybody may.
    Public,
    /// Every account may.
    SignedIn,
    /// This lets in.
    Matched(&'p Condition),
}

/// Why somebody may not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason<'p> {
    /// Nothing lets in.
    NothingMatched,
    /// This shuts out.
    Denied(&'p Condition),
}

/// Why it cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt<'p> {
    /// This would let in, if it is so.
    OfAllow(&'p Condition),
    /// This would shut out, if it is so.
    OfDeny(&'p Condition),
}

/// Decides. Pure; allocates nothing.
///
/// A condition is true, false or unknown ([`Truth`]): a team that Bitbucket lists without having confirmed the
/// membership may or may not be one, and what an account may do with a repository is not known before it was
/// asked. The decision is `any(allow) and not any(deny)` in that logic, so what is
/// unknown neither lets in nor fails to shut out:
///
/// | | no `deny` matches | `deny` unknown | a `deny` matches |
/// |---|---|---|---|
/// | **an `allow` matches** | allow | cannot tell | deny |
/// | **`allow` unknown** | cannot tell | cannot tell | deny |
/// | **no `allow` matches** | deny | deny | deny |
pub fn decide<'p>(policy: &'p Policy, subject: Subject<'_>) -> Decision<'p> {
    let (allow, deny) = match policy {
        Policy::Public => return Decision::Allow(Grounds::Public),
        Policy::SignedIn { deny } => (None, deny),
        Policy::Rules { allow, deny } => (Some(allow), deny),
    };
    let Subject::Account { identity, membership } = subject else { return Decision::AskSignIn };
    let denied = strongest(deny, identity, membership);
    if let Some((Truth::Yes, condition)) = denied {
        return Decision::Deny(Reason::Denied(condition));
    }
    let admitted = match allow {
        None => Decision::Allow(Grounds::SignedIn),
        Some(allow) => match strongest(allow, identity, membership) {
            Some((Truth::Yes, condition)) => Decision::Allow(Grounds::Matched(condition)),
            Some((Truth::Unknown, condition)) => Decision::CannotTell(Doubt::OfAllow(condition)),
            Some((Truth::No, _)) | None => Decision::Deny(Reason::NothingMatched),
        },
    };
    match (admitted, denied) {
        (Decision::Allow(_), Some((Truth::Unknown, condition))) => {
            Decision::CannotTell(Doubt::OfDeny(condition))
        }
        _ => admitted,
    }
}

/// The first condition that is true, or else the first that is unknown, or else the first.
fn strongest<'p>(
    conditions: &'p Conditions,
    identity: &VerifiedIdentity,
    membership: &Membership,
) -> Option<(Truth, &'p Condition)> {
    let mut strongest: Option<(Truth, &Condition)> = None;
    for condition in conditions.iter() {
        let truth = condition.of(identity, membership);
        if strongest.is_none_or(|(found, _)| truth > found) {
            strongest = Some((truth, condition));
        }
        if truth == Truth::Yes {
            break;
        }
    }
    strongest
}

impl Policy {
    /// Every group that the policy names anywhere, in `allow` and in `deny`; may repeat. These are the teams
    /// whose memberships must be confirmed for a decision to be had.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        let (allow, deny) = self.conditions();
        allow.into_iter().chain(deny).flat_map(Conditions::groups)
    }

    /// Every repository that the policy names anywhere; one that stands in both `allow` and `deny` comes twice.
    /// Costs nothing, and nothing comes where none is named.
    pub fn repositories(&self) -> impl Iterator<Item = &RepositoryName> + Clone {
        let (allow, deny) = self.conditions();
        allow.into_iter().chain(deny).flat_map(Conditions::repositories)
    }

    /// What would open the door, for the person who stands before it: `ops/administrators`, `anyone at
    /// example.com`. Single people are not named to others: they read as `an account named in the rule`.
    /// Teams that are named by their uuid read as in `names`. Empty when nothing is asked for beyond signing in.
    pub fn wanted(&self, names: &Names) -> Vec<String> {
        let (allow, _) = self.conditions();
        let mut wanted = Vec::new();
        for condition in allow.into_iter().flat_map(Conditions::iter) {
            let said = condition.without_people(names).to_string();
            if !wanted.contains(&said) {
                wanted.push(said);
            }
        }
        wanted
    }

    fn conditions(&self) -> (Option<&Conditions>, Option<&Conditions>) {
        match self {
            Policy::Public => (None, None),
            Policy::SignedIn { deny } => (None, Some(deny)),
            Policy::Rules { allow, deny } => (Some(allow), Some(deny)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::{AccountId, Claims, Email, TeamId};
    use crate::membership::{Role, Team};

    type Fault = Box<dyn std::error::Error>;

    fn ada() -> VerifiedIdentity {
        VerifiedIdentity::vouched_for(Claims {
            account: AccountId::from_bytes([1; 16]),
            display_name: "Ada".into(),
            nickname: Some("acme".into()),
            email: Email::parse("Ada@Example.com"),
        })
    }

    /// Administrator of `ops`, member of `acme`, listed in `guest`.
    fn teams() -> Membership {
        let team = |slug: &str, id, role, confirmed| Team {
            slug: slug.into(),
            id: TeamId::from_bytes([id; 16]),
            role,
            confirmed,
        };
        Membership::new(
            Timestamp::from_unix_seconds(0),
            vec![
                team("ops", 1, Role::Administrator, true),
                team("acme", 2, Role::Member, true),
                team("guest", 3, Role::Administrator, false),
            ],
        )
    }

    fn group(name: &str) -> Result<Condition, Fault> {
        Ok(Condition::Group(name.parse()?))
    }

    fn rules(allow: Vec<Condition>, deny: Vec<Condition>) -> Result<Policy, Fault> {
        Ok(Policy::Rules { allow: Conditions::new(allow)?, deny: Conditions::new(deny)? })
    }

    fn of_ada(policy: &Policy) -> Decision<'_> {
        decide(policy, Subject::Account { identity: &ada(), membership: &teams() })
    }

    #[test]
    fn nobody_passes_a_public_route_only() -> Result<(), Fault> {
        let signed_in = Policy::SignedIn { deny: Conditions::default() };
        for (policy, expected) in [
            (Policy::Public, Decision::Allow(Grounds::Public)),
            (signed_in, Decision::AskSignIn),
            (rules(vec![group("ops")?], vec![])?, Decision::AskSignIn),
            (rules(vec![Condition::Not(group("ops")?.into())], vec![])?, Decision::AskSignIn),
            (rules(vec![], vec![])?, Decision::AskSignIn),
        ] {
            assert_eq!(decide(&policy, Subject::Anonymous), expected, "{policy:?}");
        }
        Ok(())
    }

    #[test]
    fn the_table_of_allow_and_deny_is_as_documented() -> Result<(), Fault> {
        let (yes, unknown, no) = (group("acme")?, group("guest")?, group("elsewhere")?);
        for (allow, deny, expected) in [
            (&yes, &no, Decision::Allow(Grounds::Matched(&yes))),
            (&yes, &unknown, Decision::CannotTell(Doubt::OfDeny(&unknown))),
            (&yes, &yes, Decision::Deny(Reason::Denied(&yes))),
            (&unknown, &no, Decision::CannotTell(Doubt::OfAllow(&unknown))),
            (&unknown, &unknown, Decision::CannotTell(Doubt::OfAllow(&unknown))),
            (&unknown, &yes, Decision::Deny(Reason::Denied(&yes))),
            (&no, &no, Decision::Deny(Reason::NothingMatched)),
            (&no, &unknown, Decision::Deny(Reason::NothingMatched)),
            (&no, &yes, Decision::Deny(Reason::Denied(&yes))),
        ] {
            let policy = rules(vec![allow.clone()], vec![deny.clone()])?;
            assert_eq!(of_ada(&policy), expected, "allow {allow}, deny {deny}");
        }
        Ok(())
    }

    #[test]
    fn of_several_conditions_one_is_enough_and_the_first_certain_one_is_named() -> Result<(), Fault> {
        let policy = rules(
            vec![group("guest")?, group("nobody")?, group("ops/administrators")?, group("acme")?],
            vec![],
        )?;
        assert_eq!(of_ada(&policy), Decision::Allow(Grounds::Matched(&group("ops/administrators")?)));
        let policy = rules(vec![group("acme")?], vec![group("nobody")?, group("guest")?, group("ops")?])?;
        assert_eq!(of_ada(&policy), Decision::Deny(Reason::Denied(&group("ops")?)));
        Ok(())
    }

    #[test]
    fn every_account_passes_a_signed_in_route_unless_denied() -> Result<(), Fault> {
        let denying =
            |condition| Ok::<_, Fault>(Policy::SignedIn { deny: Conditions::new(vec![condition])? });
        assert_eq!(
            of_ada(&Policy::SignedIn { deny: Conditions::default() }),
            Decision::Allow(Grounds::SignedIn)
        );
        assert_eq!(of_ada(&denying(group("nobody")?)?), Decision::Allow(Grounds::SignedIn));
        assert_eq!(of_ada(&denying(group("acme")?)?), Decision::Deny(Reason::Denied(&group("acme")?)));
        assert_eq!(of_ada(&denying(group("guest")?)?), Decision::CannotTell(Doubt::OfDeny(&group("guest")?)));
        Ok(())
    }

    #[test]
    fn an_empty_rule_admits_nobody() -> Result<(), Fault> {
        assert_eq!(of_ada(&rules(vec![], vec![])?), Decision::Deny(Reason::NothingMatched));
        Ok(())
    }

    #[test]
    fn a_policy_names_its_groups_at_any_depth() -> Result<(), Fault> {
        let policy = rules(
            vec![
                group("a")?,
                Condition::All(vec![group("b")?, Condition::Not(group("c/administrators")?.into())]),
            ],
            vec![Condition::Any(vec![group("d")?, group("a")?])],
        )?;
        let named: Vec<String> = policy.groups().map(ToString::to_string).collect();
        assert_eq!(named, ["a", "b", "c/administrators", "d", "a"]);
        assert_eq!(Policy::Public.groups().count(), 0);
        Ok(())
    }

    #[test]
    fn what_is_wanted_names_teams_and_domains_but_no_people() -> Result<(), Fault> {
        let person = Condition::Account(AccountId::from_bytes([7; 16]));
        let address = Condition::Email(Email::parse("ceo@example.com").ok_or("address")?);
        let policy = rules(
            vec![
                group("ops/administrators")?,
                Condition::EmailDomain("Example.com".parse()?),
                person.clone(),
                address,
                Condition::All(vec![group("acme")?, Condition::Any(vec![person, group("x")?])]),
            ],
            vec![group("acme/members")?],
        )?;
        assert_eq!(
            policy.wanted(Names::none()),
            [
                "ops/administrators",
                "anyone at example.com",
                "an account named in the rule",
                "all of acme, (any of an account named in the rule, x)",
            ]
        );
        assert!(Policy::Public.wanted(Names::none()).is_empty());
        Ok(())
    }
}
