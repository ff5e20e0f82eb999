//! Where a request goes: routes, and how the one that decides is found.
//!
//! Owns: [`Route`], [`Table`]; the canonical spelling of targets and hosts ([`target`], [`host`]), the
//! patterns ([`pattern`]), what is sent upstream and where to ([`identity_out`], [`destination`], [`upstream`]),
//! as what ([`rewrite`], [`edit`]).
//! Must not know: who is asking, whether they may.
//!
//! Order in the file means nothing: of all routes that match, the most special one decides
//! ([`pattern::Specificity`]). A route that does not list the method of a request does not match it, and the
//! next less special one is asked; a route that lists `GET` matches `HEAD` as well.

pub mod destination;
pub mod edit;
pub mod host;
pub mod identity_out;
pub mod oddity;
pub mod pattern;
pub mod refusal;
pub mod rewrite;
pub mod target;
pub mod upstream;

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use crate::policy::Policy;

use destination::Destination;
use edit::Edits;
use identity_out::IdentityOut;
use oddity::Oddities;
use pattern::{HostPattern, Methods, PathPattern, PathRegex, Pattern};
use rewrite::Rewrite;
use target::as_matched;

/// What is done with the requests that a [`Pattern`] matches.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its name in the file, in logs and in metrics.
    pub name: Box<str>,
    /// The line of the file that it begins in, from 1.
    pub line: u32,
    /// Who may pass.
    pub policy: Policy,
    /// How old a membership may be and still be believed here, where that is stricter than everywhere.
    pub max_age: Option<Duration>,
    /// How old it may be while Bitbucket is down, where that differs from everywhere.
    pub outage_grace: Option<OutageGrace>,
    /// What becomes of admitted requests.
    pub destination: Destination,
    /// What the app is told about the account.
    pub identity: IdentityOut,
    /// What the app reads as an ordinary character. Default: nothing.
    pub allow_in_path: Oddities,
    /// The path that the app is sent. Default: the one that was asked for.
    pub rewrite: Rewrite,
    /// What is changed of requests to the app. Default: nothing.
    pub request_headers: Edits,
    /// What is changed of the answers of this route; not of the gateway's own pages. Default: nothing.
    pub response_headers: Edits,
    /// What becomes of CORS preflights, which browsers send without cookies.
    pub preflights: Preflights,
    /// How many bytes the body of a request may have. Default: any number.
    pub body_limit: Option<u64>,
}

impl Route {
    /// A route with everything else at its default.
    pub fn new(name: &str, policy: Policy, destination: Destination) -> Route {
        Route {
            name: name.into(),
            line: 0,
            policy,
            max_age: None,
            outage_grace: None,
            destination,
            identity: IdentityOut::default(),
            allow_in_path: Oddities::NONE,
            rewrite: Rewrite::Keep,
            request_headers: Edits::default(),
            response_headers: Edits::default(),
            preflights: Preflights::Decide,
            body_limit: None,
        }
    }
}

/// How a route bridges an outage of Bitbucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutageGrace {
    /// Up to which age a membership is believed then; zero: never past its `max_age`.
    pub span: Duration,
    /// For requests with these methods; none is bridged for others.
    pub methods: Methods,
}

/// What becomes of CORS preflights.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Preflights {
    /// They are requests like others: without a session they end in 401. The default.
    #[default]
    Decide,
    /// Real ones go to the app, without an account and without cookies.
    Pass,
}

/// Patterns and what they lead to, ready to be searched.
///
/// Searching costs the lookup of the host and one lookup for each segment that some pattern goes on with, not
/// one for each route. Regexes are tried one after the other, and only when nothing else of their host matches.
#[derive(Debug)]
pub struct Table<T> {
    exact_hosts: HashMap<Box<str>, Paths>,
    /// By suffix, from its dot.
    wildcards: HashMap<Box<str>, Paths>,
    any_host: Paths,
    serves: Serves,
    values: Vec<T>,
}

/// Whether some pattern is for any host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Serves {
    NamedHosts,
    AnyHost,
}

/// Two patterns match the same requests, and nothing tells which of them is meant. Places in the list that
/// the table was built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlap {
    /// The one that came first.
    pub first: usize,
    /// The one that came to the same place.
    pub second: usize,
}

impl<T> Table<T> {
    /// Puts patterns into order.
    ///
    /// # Errors
    ///
    /// Every pattern that overlaps with an earlier one, with the first such.
    pub fn build(entries: Vec<(Pattern, T)>) -> Result<Table<T>, Vec<Overlap>> {
        let mut overlaps = Vec::new();
        let mut table = Table {
            exact_hosts: HashMap::new(),
            wildcards: HashMap::new(),
            any_host: Paths::default(),
            serves: Serves::NamedHosts,
            values: Vec::with_capacity(entries.len()),
        };
        for (place, (pattern, value)) in entries.into_iter().enumerate() {
            if pattern.host == HostPattern::Any {
                table.serves = Serves::AnyHost;
            }
            let paths = match pattern.host {
                HostPattern::Any => &mut table.any_host,
                HostPattern::Exact(host) => table.exact_hosts.entry(host).or_default(),
                HostPattern::Wildcard(suffix) => table.wildcards.entry(suffix).or_default(),
            };
            if let Err(first) = paths.slot(pattern.path).insert(pattern.methods, place) {
                overlaps.push(Overlap { first, second: place });
            }
            table.values.push(value);
        }
        if overlaps.is_empty() { Ok(table) } else { Err(overlaps) }
    }

    /// What the most special matching pattern leads to. `host` and `path` are canonical.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Option<&T> {
        let path = as_matched(path);
        let of_exact_host = self.exact_hosts.get(host).and_then(|paths| paths.find(&path, method));
        let place = of_exact_host
            .or_else(|| self.wildcards_for(host).find_map(|paths| paths.find(&path, method)))
            .or_else(|| self.any_host.find(&path, method))?;
        self.values.get(place)
    }

    /// Whether some pattern names `host`, itself or by a wildcard. A pattern for any host names none: it must
    /// not turn every site of the world into one of ours, as a place to return to after sign-in.
    pub fn names(&self, host: &str) -> bool {
        self.exact_hosts.contains_key(host) || self.wildcards_for(host).next().is_some()
    }

    /// Whether some request to `host` can match: it is named, or there is a pattern for any host.
    pub fn serves(&self, host: &str) -> bool {
        self.serves == Serves::AnyHost || self.names(host)
    }

    /// What all patterns lead to, in the order they were given in.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }

    /// Longest suffix first. At least one label stands before it, so the first dot begins the longest one.
    fn wildcards_for(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let searched = if self.wildcards.is_empty() { "" } else { host };
        searched.match_indices('.').filter_map(move |(dot, _)| self.wildcards.get(&searched[dot..]))
    }
}

/// The patterns of one host: a tree of segments, in one allocation per node.
///
/// The path `/a/b` has the segments `a` and `b`, the path `/a/` has `a` and an empty one, the prefix `/` has
/// none.
#[derive(Debug)]
struct Paths {
    /// The first is the root. Children by place rather than by value: nothing recurses, however deep.
    nodes: Vec<Node>,
    /// In the order they are asked in.
    regexes: Vec<(PathRegex, Slot)>,
}

#[derive(Default, Debug)]
struct Node {
    children: HashMap<Box<str>, usize>,
    exact: Slot,
    prefix: Slot,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths { nodes: vec![Node::default()], regexes: Vec::new() }
    }
}

impl Paths {
    fn find(&self, path: &str, method: &Method) -> Option<usize> {
        let mut node = self.nodes.first()?;
        let mut longest_prefix = node.prefix.find(method);
        let mut segments = segments(path);
        let exact = loop {
            let Some(segment) = segments.next() else { break node.exact.find(method) };
            let Some(child) = node.children.get(segment).and_then(|place| self.nodes.get(*place)) else {
                break None;
            };
            node = child;
            longest_prefix = node.prefix.find(method).or(longest_prefix);
        };
        exact.or(longest_prefix).or_else(|| {
            let matching = self.regexes.iter().filter(|(regex, _)| regex.matches(path));
            matching.filter_map(|(_, slot)| slot.find(method)).next()
        })
    }

    /// Where patterns with this path have their place.
    fn slot(&mut self, path: PathPattern) -> &mut Slot {
        match path {
            PathPattern::Prefix(path) => &mut self.node(&path).prefix,
            PathPattern::Exact(path) => &mut self.node(&path).exact,
            PathPattern::Regex(regex) => {
                let order =
                    |regex: &PathRegex| (std::cmp::Reverse(regex.as_str().len()), regex.as_str().to_owned());
                let place = match self.regexes.binary_search_by_key(&order(&regex), |(known, _)| order(known))
                {
                    Ok(place) => place,
                    Err(place) => {
                        self.regexes.insert(place, (regex, Slot::default()));
                        place
                    }
                };
                &mut self.regexes[place].1
            }
        }
    }

    fn node(&mut self, path: &str) -> &mut Node {
        let mut place = 0;
        for segment in segments(path) {
            let next = self.nodes.len();
            place = match self.nodes[place].children.get(segment) {
                Some(child) => *child,
                None => {
                    self.nodes[place].children.insert(segment.into(), next);
                    self.nodes.push(Node::default());
                    next
                }
            };
        }
        &mut self.nodes[place]
    }
}

/// What stands between the slashes; nothing for the empty path.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// Routes of one host and path, told apart by their methods.
#[derive(Default, Debug)]
struct Slot {
    listing: Vec<(Methods, usize)>,
    any: Option<usize>,
}

impl Slot {
    fn find(&self, method: &Method) -> Option<usize> {
        let listed = self.listing.iter().find(|(methods, _)| methods.admit(method));
        listed.map(|(_, place)| *place).or(self.any)
    }

    /// Fails with the place of an earlier pattern for the same requests.
    fn insert(&mut self, methods: Methods, place: usize) -> Result<(), usize> {
        if let Methods::Any = methods {
            return match self.any {
                Some(first) => Err(first),
                None => {
                    self.any = Some(place);
                    Ok(())
                }
            };
        }
        match self.listing.iter().find(|(known, _)| known.overlaps(&methods)) {
            Some((_, first)) => Err(*first),
            None => {
                self.listing.push((methods, place));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pattern::BadPattern;
    use super::*;

    type Entry = (Pattern, &'static str);

    /// `host path [methods]`; a path ending in `/*` is a prefix, one that begins with `~` a regex.
    fn entry(text: &'static str) -> Result<Entry, BadPattern> {
        let mut words = text.split(' ');
        let host = match words.next().unwrap_or("") {
            "any" => HostPattern::Any,
            host => host.parse()?,
        };
        let path = words.next().unwrap_or("");
        let path = match (path.strip_suffix("/*"), path.strip_prefix('~')) {
            (Some(prefix), _) => PathPattern::prefix(if prefix.is_empty() { "/" } else { prefix })?,
            (_, Some(regex)) => PathPattern::regex(regex)?,
            _ => PathPattern::exact(path)?,
        };
        let methods = words.next().map_or(Ok(Methods::Any), |names| Methods::parse(names.split(',')))?;
        Ok((Pattern { host, path, methods }, text))
    }

    fn table(entries: &[&'static str]) -> Result<Table<&'static str>, String> {
        let entries = entries.iter().map(|text| entry(text)).collect::<Result<Vec<Entry>, BadPattern>>();
        Table::build(entries.map_err(|error| error.to_string())?).map_err(|overlaps| format!("{overlaps:?}"))
    }

    const TABLE: [&str; 15] = [
        "any /*",
        "any /health GET",
        "any ~/status/[0-9]+",
        "*.example.com /*",
        "*.wiki.example.com /*",
        "wiki.example.com /docs/*",
        "wiki.example.com /docs/private/*",
        "wiki.example.com /docs/private/* GET",
        "wiki.example.com /docs/private/readme",
        "wiki.example.com /docs/exact/",
        "wiki.example.com ~/[a-z]+",
        "wiki.example.com ~/[a-y]+",
        "wiki.example.com ~/[ab]+c?",
        "wiki.example.com ~/xx?[a-z] PUT",
        "wiki.example.com /@scope/*",
    ];

    #[test]
    fn the_most_special_route_decides_and_what_does_not_match_falls_through() -> Result<(), String> {
        let table = table(&TABLE)?;
        for (host, path, method, expected) in [
            // hosts
            ("other.example.org", "/x", Method::GET, "any /*"),
            ("a.example.com", "/x", Method::GET, "*.example.com /*"),
            ("a.b.example.com", "/x", Method::GET, "*.example.com /*"),
            ("a.wiki.example.com", "/x", Method::GET, "*.wiki.example.com /*"),
            ("example.com", "/x", Method::GET, "any /*"),
            ("badexample.com", "/x", Method::GET, "any /*"),
            // whole segments (threats 24)
            ("wiki.example.com", "/docs", Method::GET, "wiki.example.com /docs/*"),
            ("wiki.example.com", "/docs/", Method::GET, "wiki.example.com /docs/*"),
            ("wiki.example.com", "/docs/x/y", Method::GET, "wiki.example.com /docs/*"),
            ("wiki.example.com", "/docsx", Method::GET, "wiki.example.com ~/[a-y]+"),
            ("wiki.example.com", "/docs..", Method::GET, "*.example.com /*"),
            ("wiki.example.com", "/docs/privatex", Method::GET, "wiki.example.com /docs/*"),
            // case matters in paths (threats 23)
            ("wiki.example.com", "/Docs/x", Method::GET, "*.example.com /*"),
            // exact before prefix, methods before none
            (
                "wiki.example.com",
                "/docs/private/readme",
                Method::GET,
                "wiki.example.com /docs/private/readme",
            ),
            (
                "wiki.example.com",
                "/docs/private/readme/",
                Method::GET,
                "wiki.example.com /docs/private/* GET",
            ),
            ("wiki.example.com", "/docs/private/x", Method::HEAD, "wiki.example.com /docs/private/* GET"),
            ("wiki.example.com", "/docs/private/x", Method::PUT, "wiki.example.com /docs/private/*"),
            ("wiki.example.com", "/docs/exact/", Method::GET, "wiki.example.com /docs/exact/"),
            ("wiki.example.com", "/docs/exact", Method::GET, "wiki.example.com /docs/*"),
            // regexes last, the longer text first, then the one that sorts first
            ("wiki.example.com", "/ab", Method::GET, "wiki.example.com ~/[ab]+c?"),
            ("wiki.example.com", "/xyz", Method::GET, "wiki.example.com ~/[a-z]+"),
            ("wiki.example.com", "/xy", Method::PUT, "wiki.example.com ~/xx?[a-z] PUT"),
            ("wiki.example.com", "/xy", Method::GET, "wiki.example.com ~/[a-y]+"),
            // a method that is not listed falls through to other hosts as well
            ("nowhere.example.org", "/health", Method::GET, "any /health GET"),
            ("nowhere.example.org", "/health", Method::POST, "any /*"),
            // what apps decode cannot be hidden from a rule by encoding it
            ("wiki.example.com", "/%40scope/x", Method::GET, "wiki.example.com /@scope/*"),
        ] {
            assert_eq!(table.find(host, path, &method), Some(&expected), "{method} {host} {path}");
        }
        Ok(())
    }

    #[test]
    fn a_request_that_nothing_matches_finds_nothing() -> Result<(), String> {
        let table = table(&["wiki.example.com /docs/*", "wiki.example.com /up POST", "*.a.example /x"])?;
        for (host, path, method) in [
            ("wiki.example.com", "/", Method::GET),
            ("wiki.example.com", "/up", Method::GET),
            ("wiki.example.com", "/up", Method::HEAD),
            ("other.example.com", "/docs", Method::GET),
            ("a.example", "/x", Method::GET),
            ("b.a.example", "/x/", Method::GET),
            ("", "", Method::GET),
        ] {
            assert_eq!(table.find(host, path, &method), None, "{method} {host} {path}");
        }
        Ok(())
    }

    #[test]
    fn routes_that_nothing_tells_apart_are_refused_in_pairs() -> Result<(), BadPattern> {
        let entries = [
            "any /a/*",
            "any /a",
            "any /a/* GET",
            "any /a/*",
            "any /a/* PUT,GET",
            "any ~/a",
            "any ~/a",
            "h /a/*",
            "any /a/* HEAD",
        ];
        let entries = entries.into_iter().map(entry).collect::<Result<Vec<Entry>, BadPattern>>()?;
        let pairs = |(first, second)| Overlap { first, second };
        assert_eq!(Table::build(entries).err(), Some([(0, 3), (2, 4), (5, 6), (2, 8)].map(pairs).to_vec()));
        Ok(())
    }

    #[test]
    fn a_route_for_any_host_names_none() -> Result<(), String> {
        let table = table(&["any /*", "wiki.example.com /*", "*.apps.example.com /*"])?;
        for (host, named) in [
            ("wiki.example.com", true),
            ("x.apps.example.com", true),
            ("apps.example.com", false),
            ("evil.example", false),
            ("", false),
        ] {
            assert_eq!(table.names(host), named, "{host}");
        }
        assert_eq!(table.iter().count(), 3);
        Ok(())
    }
}
