//! A decision, as a sentence for people: `teamgate explain`, the audit log.
//!
//! Owns: [`sentence`].
//! Must not know: pages; what is shown to the person refused is [`Policy::wanted`] and lists nobody.

use std::fmt;

use super::condition::{Condition, leaves};
use super::{Decision, Doubt, Grounds, Policy, Reason};
use crate::membership::Names;

/// Says what was decided on `who` and why, for operators: it names people that the rule names. No full stop
/// at the end, so that it can be a field of a log line. Teams that are named by their uuid read as in `names`.
pub fn sentence(decision: &Decision<'_>, policy: &Policy, who: &str, names: &Names) -> String {
    match decision {
        Decision::Allow(Grounds::Public) => format!("{who} may pass: the route is public"),
        Decision::Allow(Grounds::SignedIn) => format!("{who} may pass: the route is for every account"),
        Decision::Allow(Grounds::Matched(condition)) => {
            format!("{who} may pass: the route admits {}", condition.called(names))
        }
        Decision::AskSignIn => format!("{who} must sign in: the route is for {}", admitted(policy, names)),
        Decision::Deny(Reason::NothingMatched) => {
            format!("{who} may not pass: the route is for {}", admitted(policy, names))
        }
        Decision::Deny(Reason::Denied(condition)) => {
            format!("{who} may not pass: the route shuts out {}, and deny wins", condition.called(names))
        }
        Decision::CannotTell(Doubt::OfAllow(condition)) => format!(
            "cannot tell whether {who} may pass: the route admits {}, and {}",
            condition.called(names),
            unsaid(condition)
        ),
        Decision::CannotTell(Doubt::OfDeny(condition)) => format!(
            "cannot tell whether {who} may pass: the route shuts out {}, and {}",
            condition.called(names),
            unsaid(condition)
        ),
    }
}

/// What is missing to tell.
fn unsaid(condition: &Condition) -> &'static str {
    let asks_repository = |leaf: &Condition| matches!(leaf, Condition::Repository(..));
    if leaves(std::slice::from_ref(condition)).any(asks_repository) {
        "Bitbucket has not said what the account may do with the repository"
    } else {
        "Bitbucket has listed a team without confirming the membership"
    }
}

/// Something in words, with the slugs of teams that are named by their uuid.
pub struct Worded<'a, T> {
    of: T,
    names: &'a Names,
}

impl<'a> Grounds<'a> {
    /// On which grounds, as a word or two for a log line.
    pub fn worded(self, names: &'a Names) -> Worded<'a, Grounds<'a>> {
        Worded { of: self, names }
    }
}

impl<'a> Reason<'a> {
    /// For what reason, as a word or two for a log line.
    pub fn worded(self, names: &'a Names) -> Worded<'a, Reason<'a>> {
        Worded { of: self, names }
    }
}

impl fmt::Display for Worded<'_, Grounds<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Grounds::Public => f.write_str("public"),
            Grounds::SignedIn => f.write_str("signed-in"),
            Grounds::Matched(condition) => condition.called(self.names).fmt(f),
        }
    }
}

impl fmt::Display for Worded<'_, Reason<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Reason::NothingMatched => f.write_str("no rule admits the account"),
            Reason::Denied(condition) => write!(f, "denied: {}", condition.called(self.names)),
        }
    }
}

fn admitted(policy: &Policy, names: &Names) -> String {
    match policy {
        Policy::Public => "everybody".to_owned(),
        Policy::SignedIn { .. } => "every account".to_owned(),
        Policy::Rules { allow, .. } if allow.is_empty() => "nobody".to_owned(),
        Policy::Rules { allow, .. } => {
            let admitted: Vec<String> = allow.iter().map(|one| one.called(names).to_string()).collect();
            admitted.join("; or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::Conditions;
    use super::*;

    #[test]
    fn every_decision_reads_as_a_sentence() -> Result<(), Box<dyn std::error::Error>> {
        let acme = Condition::Group("acme".parse()?);
        let api = Condition::Repository("acme/api".parse()?, crate::membership::repository::Access::Write);
        let at = Condition::EmailDomain("example.com".parse()?);
        let rules = Policy::Rules {
            allow: Conditions::new(vec![acme.clone(), Condition::All(vec![acme.clone(), at.clone()])])?,
            deny: Conditions::default(),
        };
        let nobody = Policy::Rules { allow: Conditions::default(), deny: Conditions::default() };
        let signed_in = Policy::SignedIn { deny: Conditions::default() };
        for (decision, policy, expected) in [
            (Decision::Allow(Grounds::Public), &Policy::Public, "ada may pass: the route is public"),
            (Decision::Allow(Grounds::SignedIn), &signed_in, "ada may pass: the route is for every account"),
            (
                Decision::Allow(Grounds::Matched(&at)),
                &rules,
                "ada may pass: the route admits anyone at example.com",
            ),
            (Decision::AskSignIn, &signed_in, "ada must sign in: the route is for every account"),
            (
                Decision::AskSignIn,
                &rules,
                "ada must sign in: the route is for acme; or all of acme, anyone at example.com",
            ),
            (Decision::Deny(Reason::NothingMatched), &nobody, "ada may not pass: the route is for nobody"),
            (
                Decision::Deny(Reason::Denied(&acme)),
                &rules,
                "ada may not pass: the route shuts out acme, and deny wins",
            ),
            (
                Decision::CannotTell(Doubt::OfAllow(&acme)),
                &rules,
                "cannot tell whether ada may pass: the route admits acme, and Bitbucket has listed a team without \
                 confirming the membership",
            ),
            (
                Decision::CannotTell(Doubt::OfAllow(&api)),
                &rules,
                "cannot tell whether ada may pass: the route admits write access to acme/api, and Bitbucket has not \
                 said what the account may do with the repository",
            ),
            (
                Decision::CannotTell(Doubt::OfDeny(&acme)),
                &rules,
                "cannot tell whether ada may pass: the route shuts out acme, and Bitbucket has listed a team \
                 without confirming the membership",
            ),
        ] {
            assert_eq!(sentence(&decision, policy, "ada", Names::none()), expected);
        }
        Ok(())
    }
}
