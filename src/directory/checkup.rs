//! Asks Bitbucket about what has not been heard of for an hour, and says what is wrong.
//!
//! Owns: [`ask`], [`Doctor`]: which calls that takes, the token for them, and that a finding is said once.
//! Must not know: what makes a finding; `doctor` says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::doctor::{Finding, Needs, Report, Severity, is_heard};
use super::{Condition, Directory, Settings};
use crate::bitbucket::{Bitbucket, Endpoint, Right};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::store;
use crate::telemetry::labels::Finding as Kind;

/// How often what was seen is looked at. That asks nobody.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often Bitbucket is asked about what nobody else has asked it.
pub const ASK_EVERY: Duration = super::doctor::HEARD_WITHIN;

/// How many accounts are looked through for a token that is good for a while.
const CANDIDATES: usize = 16;

/// How much longer a token must be good.
const MARGIN: Duration = Duration::from_secs(60);

/// Asks each of `endpoints` that can be asked; what comes of it is for whoever takes notes. Without a `token`, the API is
/// asked for one that nobody has: that it refuses it shows that it is there.
pub async fn ask(
    bitbucket: &Bitbucket,
    needs: &Needs,
    endpoints: &[Endpoint],
    token: Option<&Secret<String>>,
) {
    let nobody = Secret::new("teamgate-doctor".to_owned());
    for endpoint in endpoints {
        // The verdict has been taken note of at the door.
        match (endpoint, token) {
            (Endpoint::Authorize, _) => drop(bitbucket.check_redirect().await),
            // Of a client that is accepted, the code is refused.
            (Endpoint::Exchange, _) => drop(bitbucket.check_client().await),
            // A refresh token is good once. The same page answers as for a code.
            (Endpoint::Refresh, _) => {}
            (Endpoint::User, _) => drop(bitbucket.profile(token.unwrap_or(&nobody)).await),
            (Endpoint::Emails, Some(token)) => drop(bitbucket.primary_email(token).await),
            (Endpoint::Workspaces, Some(token)) => drop(bitbucket.workspaces(token).await),
            (Endpoint::Permission, Some(token)) => {
                if let Some(team) = &needs.team {
                    drop(bitbucket.permission(token, team).await);
                }
            }
            (Endpoint::Emails | Endpoint::Workspaces | Endpoint::Permission, None) => {}
            // Asked about accounts that meet a rule on repositories, and by nobody else.
            (Endpoint::Repositories, _) => {}
        }
    }
}

/// Keeps an eye on Bitbucket for a gateway that runs.
pub struct Doctor {
    directory: Directory,
    /// What was said already.
    said: Mutex<BTreeSet<(&'static str, &'static str)>>,
    /// One asks at a time; the next finds the answers.
    asking: tokio::sync::Mutex<()>,
}

impl Doctor {
    /// Has said nothing yet.
    pub fn new(directory: Directory) -> Arc<Doctor> {
        Arc::new(Doctor { directory, said: Mutex::default(), asking: tokio::sync::Mutex::default() })
    }

    /// Asks about what has not been heard of for an hour, or was bad, as far as the background's calls go, and looks.
    pub async fn check(&self, settings: &Settings) -> Report {
        let _turn = self.asking.lock().await;
        let (inner, needs) = (&self.directory.0, needs(settings));
        let now = inner.clock.now();
        let seen = inner.traffic.observations();
        let asked: Vec<Endpoint> =
            (needs.endpoints.iter().copied()).filter(|endpoint| !is_heard(seen.of(*endpoint), now)).collect();
        if !asked.is_empty() {
            let token = self.directory.some_token(now).await.unwrap_or_else(|error| {
                inner.telemetry.warn_limited("store", now, &error);
                None
            });
            ask(&settings.bitbucket.with_right(Right::Background), &needs, &asked, token.as_ref()).await;
        }
        self.look(settings)
    }

    /// Looks at what was seen, without asking: says what is new, and sets the gauges.
    pub fn look(&self, settings: &Settings) -> Report {
        let inner = &self.directory.0;
        let (observations, now) = (inner.traffic.observations(), inner.clock.now());
        let report = Report::new(&observations, &needs(settings), now);
        let metrics = &inner.telemetry.metrics;
        for kind in Kind::ALL {
            let count = report.findings.iter().filter(|finding| finding.kind == *kind).count();
            metrics.bitbucket_findings.of(*kind).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        metrics.bitbucket_clock_skew.set(report.clock_skew_seconds.unwrap_or(0.0));
        self.say(&report.findings);
        report
    }

    fn say(&self, findings: &[Finding]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let name = |finding: &Finding| (finding.kind.as_str(), finding.place);
        for finding in findings.iter().filter(|finding| !said.contains(&name(finding))) {
            let Finding { kind, place, fault, cure, .. } = finding;
            match finding.severity {
                Severity::Fault => tracing::error!(kind = kind.as_str(), place, cure, "{fault}"),
                Severity::Warning => tracing::warn!(kind = kind.as_str(), place, cure, "{fault}"),
            }
        }
        let now: BTreeSet<_> = findings.iter().map(name).collect();
        for (kind, place) in said.difference(&now) {
            tracing::info!(kind, place, "what was wrong with Bitbucket there is over");
        }
        *said = now;
    }
}

fn needs(settings: &Settings) -> Needs {
    Needs::new(settings.teams.as_deref(), &settings.named, settings.bitbucket.redirect_uri().as_str())
}

impl Directory {
    /// An access token of somebody who was here lately, that is good for a while. None is refreshed for it.
    async fn some_token(&self, now: Timestamp) -> Result<Option<Secret<String>>, store::Error> {
        let inner = &self.0;
        let mut used: Vec<_> = (inner.accounts.iter())
            .filter(|(_, account)| account.condition() == Condition::Good && !account.is_evicted())
            .map(|(_, account)| {
                (std::cmp::Reverse(account.used_at.load(std::sync::atomic::Ordering::Relaxed)), account.id())
            })
            .collect();
        used.sort_unstable();
        for (_, id) in used.into_iter().take(CANDIDATES) {
            if let Some((grant, _)) = inner.store.grant(id).await?
                && grant.expires_at > now.plus(MARGIN)
            {
                return Ok(Some(grant.access_token));
            }
        }
        Ok(None)
    }
}
