//! What is wrong between this configuration and Bitbucket, by what its answers have shown. A pure function.
//!
//! Owns: what the configuration needs of Bitbucket, the findings, the report.
//! Must not know: how Bitbucket is asked, who reads the report.
//!
//! What was not heard of is no finding: nobody can say.

use std::time::Duration;

use serde::Serialize;

use crate::bitbucket::observed::{Observations, Seen, Skew};
use crate::bitbucket::{Class, Endpoint, Error};
use crate::clock::Timestamp;
use crate::membership::TeamName;
use crate::telemetry::labels::Finding as Kind;

/// How far apart clocks may be. Apps that check assertions often allow a minute.
const SKEW: Duration = Duration::from_secs(30);

/// How long an endpoint may fail without being a finding: one bad answer is weather.
const WEATHER: Duration = Duration::from_secs(600);

/// How old an answer may be to speak for the present.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(3_600);

/// What the configuration needs of Bitbucket.
#[derive(Clone, Debug)]
pub struct Needs {
    /// What is called, each once.
    pub endpoints: Vec<Endpoint>,
    /// The team to ask about where one has to be named.
    pub team: Option<TeamName>,
    /// Where people come back to.
    pub redirect_uri: String,
}

impl Needs {
    /// With these `teams` as the only ones, or all where there are none; rules name those in `named`.
    pub fn new(teams: Option<&[TeamName]>, named: &[TeamName], redirect_uri: &str) -> Needs {
        let team = teams.unwrap_or(named).first().cloned();
        let mut endpoints = vec![
            Endpoint::Authorize,
            Endpoint::Exchange,
            Endpoint::Refresh,
            Endpoint::User,
            Endpoint::Emails,
        ];
        endpoints.extend(teams.is_none().then_some(Endpoint::Workspaces));
        endpoints.extend(team.is_some().then_some(Endpoint::Permission));
        Needs { endpoints, team, redirect_uri: redirect_uri.to_owned() }
    }

    /// The scopes that all of it takes, sorted.
    fn scopes(&self) -> Vec<&'static str> {
        let mut scopes: Vec<&str> = self.endpoints.iter().filter_map(|endpoint| endpoint.scope()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something does not work.
    Fault,
    /// Something will not work for ever.
    Warning,
}

/// Something that an operator should know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// What was asked, or `clock`.
    pub place: &'static str,
    /// What is wrong.
    pub fault: String,
    /// What to do.
    pub cure: String,
}

/// What is known about one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Known {
    /// Its name in metrics of calls.
    pub endpoint: &'static str,
    /// As Bitbucket's documents call it.
    pub place: &'static str,
    /// The scope that it needs, if any.
    pub scope: Option<&'static str>,
    /// What came of the last call; `None`: there was none.
    pub last: Option<String>,
    /// When that was.
    pub heard_at: Option<String>,
    /// When an answer could be used last.
    pub good_at: Option<String>,
}

/// Everything that is known, for people and for programs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// When it was made.
    pub at: String,
    /// Whether no finding is a fault.
    pub healthy: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What the configuration needs, each with what is known about it.
    pub endpoints: Vec<Known>,
    /// The scopes that are needed, sorted.
    pub scopes_needed: Vec<&'static str>,
    /// The scopes that were granted last; `None`: nobody has said.
    pub scopes_granted: Option<Vec<Box<str>>>,
    /// How far Bitbucket's clock is ahead of ours, in seconds; `None`: nobody has said.
    pub clock_skew_seconds: Option<f64>,
    /// Where people come back to.
    pub redirect_uri: String,
}

impl Report {
    /// What is known at `now`.
    pub fn new(observations: &Observations, needs: &Needs, now: Timestamp) -> Report {
        let findings = findings(observations, needs, now);
        let known = |endpoint: &Endpoint| {
            let seen = observations.of(*endpoint);
            Known {
                endpoint: endpoint.label(),
                place: endpoint.place(),
                scope: endpoint.scope(),
                last: seen.heard.map(|(_, outcome)| match outcome.status() {
                    Some(status) => status.as_str().to_owned(),
                    None => outcome.label().to_owned(),
                }),
                heard_at: seen.heard.map(|(at, _)| at.to_string()),
                good_at: seen.good_at.map(|at| at.to_string()),
            }
        };
        Report {
            at: now.to_string(),
            healthy: findings.iter().all(|finding| finding.severity != Severity::Fault),
            findings,
            endpoints: needs.endpoints.iter().map(known).collect(),
            scopes_needed: needs.scopes(),
            scopes_granted: observations.scopes().map(<[Box<str>]>::to_vec),
            clock_skew_seconds: observations.skew().map(Skew::seconds),
            redirect_uri: needs.redirect_uri.clone(),
        }
    }
}

/// Whether an endpoint need not be asked to know how it is.
pub(super) fn is_heard(seen: &Seen, now: Timestamp) -> bool {
    seen.refusal.is_none() && seen.good_at.is_some_and(|at| now.since(at) < HEARD_WITHIN)
}

/// What is wrong, endpoint by endpoint and then the clock.
fn findings(observations: &Observations, needs: &Needs, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for endpoint in &needs.endpoints {
        let (seen, place) = (observations.of(*endpoint), endpoint.place());
        let refusal =
            seen.refusal.as_ref().and_then(|error| refused(error, seen, now).map(|kind| (kind, error)));
        if let Some((kind, error)) = refusal {
            let text = error.to_string();
            let (fault, cure) = text.split_once("; ").unwrap_or((&text, "see the log"));
            findings.push(Finding {
                kind,
                severity: Severity::Fault,
                place,
                fault: fault.to_owned(),
                cure: cure.to_owned(),
            });
        }
        let lacks = endpoint.scope().filter(|scope| lacks(observations, scope));
        if let Some(scope) = lacks.filter(|_| seen.refusal.is_none()) {
            findings.push(Finding {
                kind: Kind::Scope,
                severity: Severity::Fault,
                place,
                fault: format!("the scope `{scope}` is needed and was not granted"),
                cure: format!("tick `{scope}` on the client's page at Bitbucket and sign in again"),
            });
        }
        findings.extend(notices(seen, place));
    }
    if let Some(skew) = observations.skew().filter(|skew| skew.size() > SKEW) {
        let (seconds, how) = match skew {
            Skew::Ahead(by) => (by.as_secs(), "behind"),
            Skew::Behind(by) => (by.as_secs(), "ahead of"),
        };
        findings.push(Finding {
            kind: Kind::Clock,
            severity: Severity::Fault,
            place: "clock",
            fault: format!("the clock of this machine is {seconds} s {how} Bitbucket's"),
            cure: "set it, and let NTP keep it: apps refuse assertions of another time".to_owned(),
        });
    }
    findings
}

/// What a bad answer is about; `None` while it may be weather.
fn refused(error: &Error, seen: &Seen, now: Timestamp) -> Option<Kind> {
    Some(match (error.class(), error.label()) {
        (Class::Transient, _) => {
            let lately = seen.good_at.is_some_and(|at| now.since(at) < WEATHER);
            return (!lately).then_some(Kind::Away);
        }
        (Class::Removed, _) => Kind::Removed,
        (_, "missing_scope") => Kind::Scope,
        (_, "client_refused") => Kind::Client,
        (_, "redirect_refused") => Kind::RedirectUri,
        (Class::Misconfigured, _) => Kind::Address,
        // Not about Bitbucket, or nothing was asked.
        (Class::Gone | Class::NoBudget | Class::Refused, _) => return None,
        (Class::Unexpected, _) => Kind::Unexpected,
    })
}

/// Whether a scope is not among those that were granted. Where nobody has said what was, nobody can say.
fn lacks(observations: &Observations, scope: &str) -> bool {
    // `account:write` is more than `account`.
    let covers = |granted: &str| {
        granted.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    observations.scopes().is_some_and(|granted| !granted.iter().any(|granted| covers(granted)))
}

fn notices(seen: &Seen, place: &'static str) -> Vec<Finding> {
    let warning = |kind, fault: String, cure: &str| Finding {
        kind,
        severity: Severity::Warning,
        place,
        fault,
        cure: cure.to_owned(),
    };
    let update = "read Bitbucket's changelog, and update teamgate before it goes";
    let notices = &seen.notices;
    let leaving = match (&notices.deprecation, &notices.sunset) {
        (None, None) => None,
        (_, Some(sunset)) => Some(format!("Bitbucket will remove it (`Sunset: {sunset}`)")),
        (Some(since), None) => Some(format!("Bitbucket calls it deprecated (`Deprecation: {since}`)")),
    };
    let said = notices.warning.as_ref().map(|text| format!("Bitbucket warns (`Warning: {text}`)"));
    (leaving.map(|fault| warning(Kind::Leaving, fault, update)).into_iter())
        .chain(said.map(|fault| warning(Kind::Warning, fault, "read what it says")))
        .collect()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::bitbucket::{Call, Notices, Outcome, Remarks, Right};

    type Checked<T = ()> = Result<T, Box<dyn std::error::Error>>;
    type Named = (Kind, Severity, &'static str);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn needs() -> Checked<Needs> {
        Ok(Needs::new(None, &["acme".parse()?], "https://gate.example/.teamgate/callback"))
    }

    /// A good answer of `endpoint` at 0, with these remarks.
    fn answered(endpoint: Endpoint, remarks: Remarks) -> Observations {
        let mut observations = Observations::default();
        let call = Call {
            endpoint,
            right: Right::SignIn,
            outcome: Outcome::Answered(StatusCode::OK),
            took: Duration::ZERO,
            remarks,
        };
        observations.note(&call, at(0));
        observations.judge(endpoint, Ok(()), at(0));
        observations
    }

    fn kinds(observations: &Observations, now: u64) -> Checked<Vec<Named>> {
        let findings = findings(observations, &needs()?, at(now));
        Ok(findings.iter().map(|found| (found.kind, found.severity, found.place)).collect())
    }

    #[test]
    fn what_is_needed_follows_from_the_teams() -> Checked {
        let acme: TeamName = "acme".parse()?;
        for (teams, named, workspaces, permission) in [
            (None, vec![], true, false),
            (None, vec![acme.clone()], true, true),
            (Some(vec![acme.clone()]), vec![acme.clone()], false, true),
        ] {
            let needs = Needs::new(teams.as_deref(), &named, "");
            let has = |endpoint| needs.endpoints.contains(&endpoint);
            assert_eq!((has(Endpoint::Workspaces), has(Endpoint::Permission)), (workspaces, permission));
            assert_eq!(needs.scopes(), ["account", "email"]);
        }
        Ok(())
    }

    #[test]
    fn what_nobody_has_heard_of_is_no_finding() -> Checked {
        assert_eq!(kinds(&Observations::default(), 0)?, []);
        let report = Report::new(&Observations::default(), &needs()?, at(0));
        assert!(report.healthy && report.scopes_granted.is_none() && report.clock_skew_seconds.is_none());
        assert!(report.endpoints.iter().all(|known| known.last.is_none() && known.good_at.is_none()));
        Ok(())
    }

    #[test]
    fn a_clock_is_a_finding_beyond_half_a_minute_in_either_direction() -> Checked {
        for (date, fault) in [
            (at(0), None),
            (at(30), None),
            (at(31), Some("is 31 s behind Bitbucket's")),
            (at(0).minus(Duration::from_secs(31)), None),
            (at(0).minus(Duration::from_secs(32)), Some("is 31 s ahead of Bitbucket's")),
        ] {
            let remarks = Remarks { date: Some(date), ..Remarks::default() };
            let found = findings(&answered(Endpoint::User, remarks), &needs()?, at(0));
            assert_eq!(found.first().map(|found| found.kind), fault.map(|_| Kind::Clock), "{date}");
            assert!(
                found.iter().all(|found| fault.is_some_and(|fault| found.fault.ends_with(fault))),
                "{found:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn a_scope_that_was_not_granted_is_a_fault_of_each_endpoint_that_needs_it() -> Checked {
        let emails = (Kind::Scope, Severity::Fault, "GET /2.0/user/emails");
        for (granted, expected) in [
            (&["account", "email"][..], vec![]),
            (&["account:write", "email"], vec![]),
            (&["account"], vec![emails]),
            (&["account", "emails"], vec![emails]),
        ] {
            let scopes = Some(granted.iter().map(|scope| (*scope).into()).collect());
            let observations = answered(Endpoint::User, Remarks { scopes, ..Remarks::default() });
            assert_eq!(kinds(&observations, 0)?, expected, "{granted:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_said_of_an_endpoints_future_is_a_warning() -> Checked {
        let some = |text: &str| Some(Box::from(text));
        let (leaving, warning) = (Kind::Leaving, Kind::Warning);
        for (notices, expected) in [
            (Notices { deprecation: some("@1"), ..Notices::default() }, vec![leaving]),
            (Notices { deprecation: some("@1"), sunset: some("soon"), warning: None }, vec![leaving]),
            (
                Notices { warning: some("299 - x"), sunset: some("soon"), deprecation: None },
                vec![leaving, warning],
            ),
        ] {
            let observations = answered(Endpoint::User, Remarks { notices, ..Remarks::default() });
            let expected: Vec<_> =
                expected.into_iter().map(|kind| (kind, Severity::Warning, "GET /2.0/user")).collect();
            assert_eq!(kinds(&observations, 0)?, expected);
            assert!(Report::new(&observations, &needs()?, at(0)).healthy, "it works for now");
        }
        let notices = Notices { sunset: some("soon"), ..Notices::default() };
        let other = answered(Endpoint::Workspaces, Remarks { notices, ..Remarks::default() });
        let named = Needs::new(Some(&["acme".parse()?]), &[], "");
        assert_eq!(findings(&other, &named, at(0)), [], "nothing needs it");
        Ok(())
    }

    #[test]
    fn an_answer_speaks_for_an_hour_and_a_bad_one_for_no_time() {
        let good = answered(Endpoint::User, Remarks::default());
        let seen = good.of(Endpoint::User);
        assert!(is_heard(seen, at(3_599)) && !is_heard(seen, at(3_600)));
        assert!(!is_heard(good.of(Endpoint::Emails), at(0)));
    }
}
