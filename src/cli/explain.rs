//! `teamgate explain`: which route a request meets, which rule decides, and why. Offline: what an account is
//! in is said on the command line. Only what teams are called that are given by uuid can be asked of a gateway.
//!
//! Owns: the hypothetical account. Must not know: how routes are found or rules decide; it asks.

use clap::Args;
use http::Method;
use serde_json::json;
use url::Url;

use super::admin::{Admin, plain};
use super::{Failure, load, say};
use crate::clock::Timestamp;
use crate::config::compile::Compiled;
use crate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use crate::membership::repository::{Access, BadRepository, Repository};
use crate::membership::{Group, Membership, Names, Role, Team, TeamName};
use crate::policy::explain::sentence;
use crate::policy::{Decision, Subject, decide};
use crate::route::Route;
use crate::route::host::canonical_host;
use crate::route::target::{Target, canonical};

#[derive(Args)]
pub(super) struct Explain {
    #[command(flatten)]
    admin: Admin,
    /// Ask the running gateway what the teams are called that the configuration gives by uuid; --admin does, too
    #[arg(long)]
    names: bool,
    /// The address that is asked for
    #[arg(long, value_name = "URL")]
    url: Url,
    /// The method
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Groups that the account is in, as rules name them: `acme,ops/administrators`
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<Group>,
    /// The account's uuid; without this and without --groups nobody is signed in
    #[arg(long, value_name = "UUID")]
    account: Option<AccountId>,
    /// The account's primary and confirmed e-mail address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// What the account may do with a repository: `my-team/api=write`, `my-team/api=none`; may be repeated. What is
    /// not said about a repository is not known
    #[arg(long, value_name = "REPOSITORY=PERMISSION", value_parser = repository)]
    repository: Vec<Repository>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let compiled = load(self.admin.file())?;
        let names = self.names()?;
        let host = self.url.host_str().unwrap_or_default();
        let host = canonical_host(host).map_err(|refusal| Failure::Input(format!("--url: {refusal}")))?;
        // As it would be sent: without the fragment, which browsers keep to themselves.
        let raw = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let target =
            canonical(raw.as_bytes()).map_err(|refusal| Failure::Input(format!("400: {refusal}")))?;
        let who = self.person(&names)?;
        let Some(route) = compiled.table.find(&host.name, &target.path, &self.method) else {
            return self.answer(
                &format!("{} {} → no route: 404.", self.method, self.url),
                &json!({ "route": null, "decision": "no_route" }),
            );
        };
        if let Err(refusal) = target.allowed_by(route.allow_in_path) {
            return self.answer(
                &format!("{} {} → route `{}` (line {}): 400. {refusal}", self.method, self.url, route.name, route.line),
                &json!({ "route": route.name, "line": route.line, "decision": "bad_request", "reason": refusal.to_string() }),
            );
        }
        let subject = match &who {
            None => Subject::Anonymous,
            Some((identity, membership)) => Subject::Account { identity, membership },
        };
        let decision = decide(&route.policy, subject);
        let decision = match (&decision, &who) {
            // Whoever is in no team that may sign in has no session to begin with.
            (Decision::Allow(_), Some((_, membership)))
                if is_outside(&compiled, membership) && !is_public(route) =>
            {
                return self.answer(
                    &format!(
                        "{} {} → route `{}` (line {}). The account could not sign in: it is in none of bitbucket.teams.",
                        self.method, self.url, route.name, route.line
                    ),
                    &json!({ "route": route.name, "line": route.line, "decision": "deny", "reason": "in none of bitbucket.teams" }),
                );
            }
            _ => decision,
        };
        let name = match (&self.account, &who) {
            (_, None) => "Nobody (not signed in)".to_owned(),
            (Some(account), _) => format!("Account {account}"),
            (None, _) => "The account".to_owned(),
        };
        let sentence = sentence(&decision, &route.policy, &name, &names);
        let fresh = match (route.max_age, is_public(route)) {
            (Some(own), false) => {
                format!(" Memberships older than {} s are not believed here.", own.as_secs())
            }
            _ => String::new(),
        };
        let leads_to = match &decision {
            Decision::Allow(_) => Some(leads_to(route, &target)),
            _ => None,
        };
        let then = leads_to.as_ref().map_or(String::new(), |leads_to| format!(" It is then {leads_to}."));
        self.answer(
            &format!(
                "{} {} → route `{}` (line {}). {sentence}.{fresh}{then}",
                self.method, self.url, route.name, route.line
            ),
            &json!({
                "route": route.name, "line": route.line, "decision": word(&decision), "explanation": sentence,
                "leads_to": leads_to,
            }),
        )
    }

    fn answer(&self, words: &str, data: &serde_json::Value) -> Result<(), Failure> {
        if self.json { say(&format!("{data}\n")) } else { say(&format!("{words}\n")) }
    }

    /// The account as it is said to be; `None` for nobody.
    fn person(&self, names: &Names) -> Result<Option<(VerifiedIdentity, Membership)>, Failure> {
        let nothing = self.groups.is_empty() && self.repository.is_empty();
        if nothing && self.account.is_none() && self.email.is_none() {
            return Ok(None);
        }
        let email = match &self.email {
            None => None,
            Some(text) => Some(
                Email::parse(text)
                    .ok_or_else(|| Failure::Input(format!("--email: `{text}` is no address")))?,
            ),
        };
        let claims = Claims {
            account: self.account.unwrap_or(AccountId::from_bytes([0; 16])),
            display_name: "the account".into(),
            nickname: None,
            email,
        };
        Ok(Some((
            VerifiedIdentity::vouched_for(claims),
            Membership::new(Timestamp::from_unix_millis(0), self.teams(names))
                .with_repositories(self.repository.clone()),
        )))
    }

    /// What teams are called, as far as a gateway was asked.
    fn names(&self) -> Result<Names, Failure> {
        if !self.names && !self.admin.is_told() {
            return Ok(Names::default());
        }
        let answer = self.admin.gateway()?.ask("GET", "/api/teams", &[], "teams")?;
        let teams =
            answer["teams"].as_array().into_iter().flatten().filter(|team| team["given_by"] == "uuid");
        let teams = teams.filter_map(|team| {
            let (slug, id) = (plain(team["slug"].as_str()?).into(), team["uuid"].as_str()?.parse().ok()?);
            Some(Team { slug, id, role: Role::Member, confirmed: false })
        });
        let seen = Membership::new(Timestamp::from_unix_millis(0), teams.collect());
        Ok(Names::none().seen(&seen, |_| true).unwrap_or_default())
    }

    /// One team for each that a group names. Slugs whose team is not known by `names` get made-up uuids, and uuids
    /// made-up slugs: rules compare what they name.
    fn teams(&self, names: &Names) -> Vec<Team> {
        let mut teams: Vec<Team> = Vec::new();
        for (place, group) in self.groups.iter().enumerate() {
            let administers = group.part == Some(Role::Administrator);
            let role = if administers { Role::Administrator } else { Role::Member };
            if let Some(known) = teams.iter_mut().find(|team| team.is_named(&group.team)) {
                known.role = known.role.max(role);
                continue;
            }
            let mut made_up = [0xff; 16];
            made_up[..8].copy_from_slice(&(place as u64).to_be_bytes());
            let (slug, id) = match &group.team {
                TeamName::Slug(slug) => {
                    (slug.clone(), names.team(slug).unwrap_or(TeamId::from_bytes(made_up)))
                }
                TeamName::Id(id) => (id.to_string().into(), *id),
            };
            teams.push(Team { slug, id, role, confirmed: true });
        }
        teams
    }
}

fn is_outside(compiled: &Compiled, membership: &Membership) -> bool {
    let listed = compiled.directory.teams.as_deref();
    listed.is_some_and(|listed| {
        !listed.iter().any(|name| membership.teams().iter().any(|team| team.is_named(name)))
    })
}

/// `my-team/api=write`.
fn repository(text: &str) -> Result<Repository, String> {
    let (name, access) = text.split_once('=').ok_or("write it as `my-team/api=write`")?;
    let name = name.parse().map_err(|fault: BadRepository| fault.to_string())?;
    let access = match (Access::named(access), access) {
        (None, "none") => None,
        (None, _) => return Err(format!("`{access}` is none of `none`, `read`, `write`, `admin`")),
        (known, _) => known,
    };
    Ok(Repository { name, access })
}

/// What becomes of a request that is let through.
fn leads_to(route: &Route, target: &Target<'_>) -> String {
    match route.rewrite.apply(target, route.allow_in_path) {
        Ok(None) => route.destination.to_string(),
        Ok(Some(rewritten)) => format!("{} as `{}`", route.destination, rewritten.wire()),
        Err(unfit) => format!("refused with 400: {unfit}"),
    }
}

fn is_public(route: &crate::route::Route) -> bool {
    route.policy == crate::policy::Policy::Public
}

fn word(decision: &Decision<'_>) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::AskSignIn => "sign_in",
        Decision::Deny(_) => "deny",
        Decision::CannotTell(_) => "cannot_tell",
    }
}
