//! Routes: what they match, who may pass, where they lead.
//!
//! Owns: the rules on `routes` and `bitbucket.teams`; building the table.
//! Must not know: how a route is found or decided.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderName;
use url::Url;

use super::hosts::{covers, host, leads_to};
use super::{Cookie, Findings};
use crate::config::document::{self, Access, Document, Groups, InPath};
use crate::config::value::{self, show_duration};
use crate::membership::{Group, TeamName};
use crate::policy::Policy;
use crate::policy::condition::{Condition, Conditions};
use crate::route::identity_out::{GroupSelection, IdentityOut, PlainHeaders, Template};
use crate::route::oddity::{Oddities, Oddity};
use crate::route::pattern::{HostPattern, Methods, PathPattern, Pattern};
use crate::route::upstream::Upstream;
use crate::route::{Route, Table};

/// What routes must fit.
pub(super) struct Gateway<'g> {
    pub(super) listen: &'g [SocketAddr],
    pub(super) admin: SocketAddr,
    pub(super) external_url: Option<&'g Url>,
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
        let (upstream, identity, max_age) = (one.upstream(gateway), one.identity(), one.max_age());
        let line = u32::try_from(one.findings.places.of(&one.path).line).unwrap_or(u32::MAX);
        if let (Some(pattern), Some(policy), Some(upstream), Some(name)) =
            (pattern, policy, upstream, &route.name)
        {
            let allow_in_path = oddities(&route.allow_in_path);
            let route =
                Route { name: name.0.clone(), line, policy, max_age, upstream, identity, allow_in_path };
            found.push(Found { index, pattern, route: Arc::new(route) });
        }
    }
    found
}

/// Puts the routes into one table; two that match the same requests are reported.
pub(super) fn table(found: &[Found], findings: &mut Findings<'_>) -> Option<Table<Arc<Route>>> {
    let entries = found.iter().map(|found| (found.pattern.clone(), Arc::clone(&found.route))).collect();
    let overlaps = match Table::build(entries) {
        Ok(table) => return Some(table),
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

    /// A host that the session's cookie does not reach would send people to sign in for ever.
    fn sign_in_reaches_it(&mut self, pattern: Option<&Pattern>, gateway: &Gateway<'_>) {
        let (Some(pattern), Some(external)) = (pattern, gateway.external_url) else { return };
        let name = match &pattern.host {
            HostPattern::Any => return,
            HostPattern::Exact(name) => &**name,
            HostPattern::Wildcard(suffix) => suffix.trim_start_matches('.'),
        };
        if self.route.access == Some(Access::Public) || !self.findings.sound(&["session.cookie_domain"]) {
            return;
        }
        let own = host(external);
        match &gateway.cookie.domain {
            Some(domain) if covers(domain, name) => {}
            Some(domain) => self.problem("host", format!(
                "`{}` is not below session.cookie_domain `{domain}`, so nobody could sign in there; several domains are not supported yet",
                pattern.host
            )),
            None if pattern.host == HostPattern::Exact(own.into()) => {}
            None => self.problem("host", format!(
                "`{}` is not external_url's host `{own}`, so sign-in would not reach it; set session.cookie_domain to a parent of both",
                pattern.host
            )),
        }
    }

    fn policy(&mut self) -> Option<Policy> {
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
        let keys = ["team", "account", "email", "email_domain", "all", "any", "not"];
        let given: Vec<&str> =
            keys.into_iter().filter(|key| places.mentions(&format!("{path}.{key}"))).collect();
        let key = match given.as_slice() {
            [key] => *key,
            [] if places.is_strange(path) => return None,
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
        let path = format!("{path}.{key}");
        match key {
            "team" => {
                let value::Group(group) = one.team.clone()?;
                self.group_can_match(&group, &path);
                Some(Condition::Group(group))
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

    /// What a route says beyond its access must be able to mean something.
    fn fits_its_access(&mut self, policy: Option<&Policy>) {
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

    fn max_age(&mut self) -> Option<std::time::Duration> {
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

    fn upstream(&mut self, gateway: &Gateway<'_>) -> Option<Upstream> {
        let text = &self.route.upstream.as_ref()?.0;
        let upstream: Upstream = self.parsed("upstream", text.parse())?;
        let reaches = |listener: &SocketAddr| leads_to(&upstream.host, upstream.port, *listener);
        if reaches(&gateway.admin) {
            self.problem(
                "upstream",
                format!(
                    "`{text}` is the admin address, which browsers must not reach; write the app's address"
                ),
            );
            return None;
        }
        if gateway.listen.iter().any(reaches) {
            self.problem("upstream", format!("`{text}` is teamgate itself; write the app's address"));
            return None;
        }
        Some(upstream)
    }

    fn identity(&mut self) -> IdentityOut {
        let route = self.route;
        let mut headers = Vec::new();
        for (name, template) in &route.headers {
            let key = format!("headers.{name}");
            let header: Option<HeaderName> = match name.parse() {
                Ok(header) => Some(header),
                Err(_) => {
                    self.problem(&key, format!("`{name}` is no header name; use letters, digits and `-`"));
                    None
                }
            };
            let template: Option<Template> = self.parsed(&key, template.0.parse());
            let (Some(header), Some(template)) = (header, template) else { continue };
            if let Some(fault) = forbidden(&header).or_else(|| self.set_anyway(&header)) {
                self.problem(&key, format!("`{name}` {fault}"));
            }
            headers.push((header, template));
        }
        IdentityOut {
            audience: route.audience.as_ref().map(|audience| audience.0.clone()),
            plain_headers: if route.plain_headers { PlainHeaders::Send } else { PlainHeaders::Omit },
            headers,
            groups: match route.groups {
                Groups::All => GroupSelection::All,
                Groups::Matching => GroupSelection::Matching,
            },
        }
    }

    fn set_anyway(&self, header: &HeaderName) -> Option<&'static str> {
        let plain = ["user", "email", "groups", "preferred-username"];
        match header.as_str().strip_prefix("x-forwarded-") {
            _ if *header == self.document.assertion.header.0 => {
                Some("carries the assertion; choose another name")
            }
            Some(rest) if plain.contains(&rest) && self.route.plain_headers => {
                Some("is set by teamgate; write `plain_headers: false` to set it yourself")
            }
            Some(rest) if !plain.contains(&rest) => Some("is set by teamgate; choose another name"),
            _ => None,
        }
    }
}

/// Why a header can carry nothing about an account: it belongs to the connection, frames the message, or is
/// the request's own. A predicate.
pub(super) fn forbidden(header: &HeaderName) -> Option<&'static str> {
    match header.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "proxy-authenticate"
        | "proxy-authorization" => {
            Some("belongs to one connection and never reaches an app; choose another name")
        }
        "content-length" | "content-type" | "content-encoding" | "host" | "expect" | "date" => {
            Some("is part of the request itself; choose another name")
        }
        "cookie" | "set-cookie" => Some("carries cookies; choose another name"),
        "forwarded" | "x-request-id" | "traceparent" | "tracestate" => {
            Some("is set by teamgate; choose another name")
        }
        name if name.starts_with("sec-") => Some("belongs to the browser; choose another name"),
        _ => None,
    }
}
