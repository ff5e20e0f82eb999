//! Routes: what they match, who may pass, where they lead.
//!
//! Owns: the rules on `routes` and `bitbucket.teams`; building the table. Who may pass is in `rule`, where it leads
//! in `destination`, what the app is told in `identity`, `rewrite` and `edit`, where the app is in `upstreams`.
//! Must not know: how a route is found or decided.

mod destination;
mod edit;
mod identity;
mod rewrite;
mod rule;
mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::hosts::covers;
use super::{Cookie, Findings};
use crate::config::document::{self, Access, CorsPreflight, Document, InPath};
use crate::config::value::show_duration;
use crate::membership::{Group, TeamName};
use crate::route::oddity::{Oddities, Oddity};
use crate::route::pattern::{HostPattern, Methods, PathPattern, Pattern};
use crate::route::{OutageGrace, Preflights, Route, Table};

pub(super) use identity::forbidden;
use upstreams::Targets;

/// What routes must fit.
pub(super) struct Gateway<'g> {
    pub(super) listen: &'g [SocketAddr],
    pub(super) admin: SocketAddr,
    pub(super) cookie: &'g Cookie,
}

/// A sound route.
pub(super) struct Found {
    /// Its place in the file's list.
    index: usize,
    pub(super) pattern: Pattern,
    pub(super) route: Arc<Route>,
}

/// Compiles every route that is sound; the others are reported.
pub(super) fn routes(document: &Document, findings: &mut Findings<'_>, gateway: &Gateway<'_>) -> Vec<Found> {
    if document.routes.is_empty() && findings.places.has("routes") && findings.sound(&["routes"]) {
        findings.problem("routes", "an empty list serves nothing; add a route");
    }
    let general = upstreams::timeouts(document, findings);
    let mut targets = Targets::default();
    let mut found = Vec::new();
    for (index, route) in document.routes.iter().enumerate() {
        let mut one = One { path: format!("routes[{index}]"), document, route, findings };
        if one.findings.places.is_broken(&one.path) {
            continue;
        }
        one.name_is_unique(index);
        let pattern = one.pattern();
        one.sign_in_reaches_it(pattern.as_ref(), gateway);
        let policy = one.policy();
        one.fits_its_access(policy.as_ref());
        let destination = one.destination(pattern.as_ref(), gateway, &general, &mut targets);
        let (identity, max_age, rewrite) = (one.identity(), one.max_age(), one.rewrite(pattern.as_ref()));
        let outage_grace = one.outage_grace();
        let (request_headers, response_headers) = one.edits();
        let preflights = one.preflights(pattern.as_ref());
        let line = u32::try_from(one.findings.places.of(&one.path).line).unwrap_or(u32::MAX);
        if let (Some(pattern), Some(policy), Some(destination), Some(rewrite), Some(name)) =
            (pattern, policy, destination, rewrite, &route.name)
        {
            let route = Route {
                name: name.0.clone(),
                line,
                policy,
                max_age,
                outage_grace,
                destination,
                identity,
                allow_in_path: oddities(&route.allow_in_path),
                rewrite,
                request_headers,
                response_headers,
                preflights,
                body_limit: route.body_limit.as_ref().map(|limit| limit.0),
            };
            found.push(Found { index, pattern, route: Arc::new(route) });
        }
    }
    found
}

/// Puts the routes into one table; two that match the same requests are reported.
pub(super) fn table(
    found: &[Found],
    external_url: Option<&Url>,
    findings: &mut Findings<'_>,
) -> Option<Table<Arc<Route>>> {
    let entries = found.iter().map(|found| (found.pattern.clone(), Arc::clone(&found.route))).collect();
    let overlaps = match Table::build(entries) {
        Ok(table) => {
            destination::loops(found, &table, external_url, findings);
            return Some(table);
        }
        Err(overlaps) => overlaps,
    };
    for overlap in overlaps {
        let (first, second) = (found.get(overlap.first)?, found.get(overlap.second)?);
        findings.problem(
            format!("routes[{}]", second.index),
            format!(
                "matches the same requests as `{}` (line {}); give one a longer path or a method",
                first.route.name, first.route.line
            ),
        );
    }
    None
}

/// Checks the whitelist, and lists the teams that rules name.
pub(super) fn teams(document: &Document, findings: &mut Findings<'_>) -> Vec<TeamName> {
    let path = "bitbucket.teams";
    let teams = document.bitbucket.teams.as_deref().unwrap_or(&[]);
    if document.bitbucket.teams.is_some() && teams.is_empty() {
        findings.problem(path, "an empty list would sign nobody in; name teams, or remove the line to let every Bitbucket account sign in");
    }
    for (index, team) in teams.iter().enumerate() {
        let at = format!("{path}[{index}]");
        if teams.iter().take(index).any(|earlier| earlier.0 == team.0) {
            findings.problem(at, format!("`{}` is listed twice; keep one", team.0));
        } else {
            capitals(&team.0, &at, findings);
        }
    }
    let mut asked: Vec<TeamName> = Vec::new();
    let rules = document.routes.iter().flat_map(|route| {
        let short = route.teams.iter().flatten().map(|group| &group.0);
        let long = route.allow.iter().chain(&route.deny).flatten().flat_map(groups_of);
        short.chain(long).collect::<Vec<&Group>>()
    });
    for group in rules {
        if !asked.contains(&group.team) {
            asked.push(group.team.clone());
        }
    }
    asked
}

fn groups_of(condition: &document::Condition) -> Vec<&Group> {
    let nested = condition.all.iter().chain(&condition.any).flatten().chain(condition.not.as_deref());
    condition.team.iter().map(|group| &group.0).chain(nested.flat_map(groups_of)).collect()
}

fn capitals(team: &TeamName, path: &str, findings: &mut Findings<'_>) {
    if let TeamName::Slug(slug) = team
        && slug.bytes().any(|b| b.is_ascii_uppercase())
    {
        findings.warning(path, format!("`{slug}` has capitals, and Bitbucket's workspace IDs have none: it matches nobody; write `{}`", slug.to_ascii_lowercase()));
    }
}

fn oddities(list: &[InPath]) -> Oddities {
    list.iter()
        .map(|one| match one {
            InPath::EncodedSlash => Oddity::EncodedSlash,
            InPath::Semicolon => Oddity::Semicolon,
        })
        .collect()
}

/// One route on its way.
struct One<'o, 'f> {
    path: String,
    document: &'o Document,
    route: &'o document::Route,
    findings: &'o mut Findings<'f>,
}

impl One<'_, '_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn problem(&mut self, key: &str, message: impl Into<String>) {
        let path = self.at(key);
        self.findings.problem(path, message);
    }

    fn mentions(&self, key: &str) -> bool {
        self.findings.places.mentions(&self.at(key))
    }

    fn name_is_unique(&mut self, index: usize) {
        let Some(name) = &self.route.name else { return };
        let first =
            self.document.routes.iter().take(index).position(|other| other.name.as_ref() == Some(name));
        if let Some(first) = first {
            let line = self.findings.places.of(&format!("routes[{first}]")).line;
            self.problem(
                "name",
                format!("the route on line {line} is called `{}`, too; names are unique", name.0),
            );
        }
    }

    fn pattern(&mut self) -> Option<Pattern> {
        let host = match &self.route.host {
            None if self.mentions("host") => None,
            None => Some(HostPattern::Any),
            Some(text) => self.parsed("host", text.0.parse()),
        };
        let methods = match &self.route.methods {
            None if self.mentions("methods") => None,
            None => Some(Methods::Any),
            Some(list) => self.parsed("methods", Methods::parse(list.iter().map(|method| method.0.as_str()))),
        };
        let path = self.path_pattern();
        Some(Pattern { host: host?, path: path?, methods: methods? })
    }

    fn path_pattern(&mut self) -> Option<PathPattern> {
        let route = self.route;
        let mut given =
            [("path", &route.path), ("path_exact", &route.path_exact), ("path_regex", &route.path_regex)]
                .into_iter()
                .filter(|(key, _)| self.findings.places.mentions(&format!("{}.{key}", self.path)));
        let (first, second) = (given.next(), given.next());
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            self.problem(
                second,
                format!("a route has one of path, path_exact and path_regex; keep this or `{first}`"),
            );
            return None;
        }
        let Some((key, text)) = first else { return PathPattern::prefix("/").ok() };
        let text = &text.as_ref()?.0;
        let pattern = match key {
            "path" => PathPattern::prefix(text),
            "path_exact" => PathPattern::exact(text),
            _ => PathPattern::regex(text),
        };
        let pattern = self.parsed(key, pattern)?;
        if key != "path_regex" && (**text == *"/.teamgate" || text.starts_with("/.teamgate/")) {
            self.problem(key, "paths under /.teamgate/ are the gateway's own; choose another");
            return None;
        }
        if let Some(oddity) = pattern.needs().first_missing_in(oddities(&route.allow_in_path)) {
            let (what, word) = match oddity {
                Oddity::EncodedSlash => ("an encoded slash", "encoded_slash"),
                Oddity::Semicolon => ("a semicolon", "semicolon"),
            };
            self.problem(
                key,
                format!("contains {what}, which is refused unless the route has `allow_in_path: [{word}]`"),
            );
            return None;
        }
        Some(pattern)
    }

    fn parsed<T, E: ToString>(&mut self, key: &str, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(fault) => {
                let fault = fault.to_string();
                // a regex error draws its place on lines of its own; one problem is one line
                let told = match (fault.split_once(": regex parse error:"), fault.rsplit_once("error: ")) {
                    (Some((subject, _)), Some((_, reason))) => format!("{subject}: {reason}; mend it"),
                    _ => fault,
                };
                self.problem(key, told);
                None
            }
        }
    }

    /// With a cookie for one domain, a host beyond it would send people to sign in for ever. Without, each host gets a
    /// cookie of its own.
    fn sign_in_reaches_it(&mut self, pattern: Option<&Pattern>, gateway: &Gateway<'_>) {
        let (Some(pattern), Some(domain)) = (pattern, &gateway.cookie.domain) else { return };
        let name = match &pattern.host {
            HostPattern::Any => return,
            HostPattern::Exact(name) => &**name,
            HostPattern::Wildcard(suffix) => suffix.trim_start_matches('.'),
        };
        if self.route.access == Some(Access::Public) || !self.findings.sound(&["session.cookie_domain"]) {
            return;
        }
        if !covers(domain, name) {
            self.problem("host", format!(
                "`{}` is not below session.cookie_domain `{domain}`, so nobody could sign in there; remove session.cookie_domain, and each host gets a cookie of its own",
                pattern.host
            ));
        }
    }

    fn preflights(&mut self, pattern: Option<&Pattern>) -> Preflights {
        match self.route.cors_preflight {
            CorsPreflight::Decide => Preflights::Decide,
            CorsPreflight::Pass => {
                if pattern.is_some_and(|pattern| !pattern.methods.admit(&http::Method::OPTIONS)) {
                    self.problem(
                        "cors_preflight",
                        "a preflight is an OPTIONS, which `methods` does not list; add it",
                    );
                }
                Preflights::Pass
            }
        }
    }

    fn max_age(&mut self) -> Option<Duration> {
        let own = self.route.max_age.as_ref()?.0;
        let general = self.document.directory.max_age.0;
        if own > general && self.findings.sound(&["directory.max_age"]) {
            self.problem("max_age", format!(
                "{} is not stricter than directory.max_age ({}), which holds anyway; remove it, or raise that",
                show_duration(own), show_duration(general)
            ));
        }
        Some(own)
    }

    fn outage_grace(&mut self) -> Option<OutageGrace> {
        let told = self.route.outage_grace.as_ref()?;
        let methods = match &told.methods {
            None => Methods::Any,
            Some(list) => {
                let names = list.iter().map(|method| method.0.as_str());
                self.parsed("outage_grace.methods", Methods::parse(names))?
            }
        };
        let span = told.span.as_ref()?.0;
        let believed = self.route.max_age.as_ref().unwrap_or(&self.document.directory.max_age).0;
        if !span.is_zero() && span < believed && self.findings.sound(&["directory.max_age"]) {
            self.problem("outage_grace", format!(
                "{} is less than the age that is believed anyway ({}) and would never matter; write 0s for none, or more",
                show_duration(span), show_duration(believed)
            ));
        }
        Some(OutageGrace { span, methods })
    }
}
