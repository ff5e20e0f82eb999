//! What must hold for every path, every table and every policy, tried on random ones.

use std::cmp::Reverse;

use http::Method;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use teamgate::clock::Timestamp;
use teamgate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use teamgate::membership::{Group, Membership, Role, Team, TeamName};
use teamgate::policy::condition::{Condition, Conditions, Truth};
use teamgate::policy::{Decision, Policy, Reason, Subject, decide};
use teamgate::route::Table;
use teamgate::route::oddity::Oddities;
use teamgate::route::pattern::{HostPattern, Methods, PathPattern, Pattern};
use teamgate::route::rewrite::{Prefix, Rewrite, Rule};
use teamgate::route::target::canonical;

// ── paths

/// Paths as an attacker writes them, between parts that are harmless.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let harmless =
        select(vec!["a", "b.c", "/", "/", "%61", "-", "@", "%40", "é", "%c3%a9", "%25", "%20", "..."]);
    let odd = select(vec![
        ".", "..", "%2e", "%2E%2e", "%2f", "%5c", "\\", ";", "%3b", "%", "25", "2e", "2f", "3b", "5C", "00",
        "%00", "%ff", "%c0%ae", "?", "#", "//", "/../", "/./", " ", "\"", "%252e", "%252f", "%2525", "41",
    ]);
    let part = prop_oneof![3 => harmless, 2 => odd];
    prop_oneof![
        9 => vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()).into_bytes()),
        1 => vec(any::<u8>(), 0..12).prop_map(|mut bytes| { bytes.insert(0, b'/'); bytes }),
    ]
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) if bytes[at] == b'%' => {
                decoded.push(value);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn decode_times(bytes: &[u8], times: usize) -> Vec<u8> {
    (0..times).fold(bytes.to_vec(), |bytes, _| decode(&bytes))
}

/// The segments that the most obliging upstream would serve: it decodes before it looks, takes backslashes
/// for slashes, cuts parameters and whatever follows a NUL, merges slashes and resolves dots.
fn as_an_obliging_upstream_reads(path: &str, decodings: usize) -> Vec<Vec<u8>> {
    let mut decoded = decode_times(path.as_bytes(), decodings);
    if let Some(nul) = decoded.iter().position(|b| *b == 0) {
        decoded.truncate(nul);
    }
    let mut served: Vec<Vec<u8>> = Vec::new();
    for segment in decoded.split(|b| matches!(b, b'/' | b'\\')) {
        match segment.split(|b| *b == b';').next().unwrap_or(segment) {
            b"" | b"." => {}
            b".." => drop(served.pop()),
            name => served.push(name.to_vec()),
        }
    }
    served
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_canonical_path_is_its_own_canonical_form(raw in path()) {
        if let Ok(target) = canonical(&raw) {
            let again = canonical(target.wire().as_bytes()).map(|again| again.wire().into_owned());
            prop_assert_eq!(again, Ok(target.wire().into_owned()));
            let again = canonical(target.wire().as_bytes()).map(|again| again.is_verbatim());
            prop_assert_eq!(again, Ok(true));
        }
    }

    #[test]
    fn a_canonical_path_has_nothing_to_be_misread(raw in path()) {
        if let Ok(target) = canonical(&raw) {
            let path = &*target.path;
            prop_assert!(path.starts_with('/') && !path.contains("//"), "{}", path);
            prop_assert!(path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#' && b != b'?'), "{}", path);
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{}", path);
        }
    }

    #[test]
    fn no_upstream_reads_another_path_than_the_one_decided_on(raw in path(), decodings in 0_usize..4) {
        if let Ok(target) = canonical(&raw) && target.allowed_by(Oddities::NONE).is_ok() {
            let decided: Vec<Vec<u8>> = target
                .path
                .split('/')
                .filter(|segment| !segment.is_empty())
                .map(|segment| decode_times(segment.as_bytes(), decodings))
                .collect();
            prop_assert_eq!(as_an_obliging_upstream_reads(&target.path, decodings), decided, "{}", target.path);
        }
    }
}

// ── paths that become others

/// Templates whose results depend on what stood in the path.
fn rewrite() -> impl Strategy<Value = Rewrite> {
    let rules = select(vec![
        ("/a(.*)", "{1}"),
        ("/(.*)", "/{1}"),
        ("/(.*)", "/x{1}"),
        ("/(.)(.*)", "/{2}{1}"),
        ("/([^/]*)/(.*)", "/{2}/{1}"),
        ("/([^/]*)/(.*)", "/x/{2}{1}"),
        ("/(.*)", "/%25{1}"),
        ("/([^/]*)(.*)", "/y{2}/{1}"),
    ]);
    let of_rules = rules.prop_filter_map("a rule", |(regex, to)| {
        Some(Rewrite::Rules(vec![Rule::new(regex, to, Oddities::NONE).ok()?].into()))
    });
    prop_oneof![of_rules, select(vec!["/a", "/@", "/a/a"]).prop_map(|text| Rewrite::Strip(Prefix::new(text)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What was rewritten is sent as it stands: every upstream must read in it what we do.
    #[test]
    fn what_rewriting_makes_is_canonical_or_refused(raw in path(), rewrite in rewrite(), decodings in 0_usize..4) {
        if let Ok(target) = canonical(&raw)
            && target.allowed_by(Oddities::NONE).is_ok()
            && let Ok(Some(rewritten)) = rewrite.apply(&target, Oddities::NONE)
        {
            let again = canonical(rewritten.path.as_bytes());
            prop_assert_eq!(again.as_ref().map(|target| &*target.path), Ok(&*rewritten.path));
            prop_assert!(rewritten.allowed_by(Oddities::NONE).is_ok());
            prop_assert_eq!(&rewritten.query, &target.query);
            prop_assert_eq!(
                as_an_obliging_upstream_reads(&rewritten.path, decodings),
                rewritten.path.split('/').filter(|segment| !segment.is_empty())
                    .map(|segment| decode_times(segment.as_bytes(), decodings)).collect::<Vec<_>>()
            );
        }
    }

    /// A stripped path and what was taken off are the path that was decided on.
    #[test]
    fn stripping_takes_off_the_prefix_and_nothing_else(raw in path()) {
        if let Ok(target) = canonical(&[b"/a", raw.as_slice()].concat())
            && target.path.starts_with("/a/")
            && let Ok(Some(rewritten)) = Rewrite::Strip(Prefix::new("/a")).apply(&target, target.needs)
        {
            prop_assert_eq!(format!("/a{}", rewritten.path), &*target.path);
        }
    }
}

// ── routes

/// A pattern as a test writes it, and what it is compiled to.
#[derive(Clone, Debug)]
struct Entry {
    host: &'static str,
    kind: Kind,
    path: String,
    methods: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Regex,
    Prefix,
    Exact,
}

const HOSTS: [&str; 6] = ["x", "a.x", "b.a.x", "c.b.a.x", "y", "a.y"];
const HOST_PATTERNS: [&str; 7] = ["", "x", "a.x", "b.a.x", "*.x", "*.a.x", "*.y"];
const REGEXES: [&str; 5] = ["/a.*", "/[ab]", "/.b", "/(a|b)/.*", "/.*"];
const METHODS: [&str; 4] = ["GET", "HEAD", "PUT", "POST"];

fn request_path() -> impl Strategy<Value = String> {
    (vec(select(vec!["a", "b", "ab"]), 0..4), select(vec!["", "/"])).prop_map(|(segments, end)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if path.is_empty() { "/".to_owned() } else { path + end }
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let path = prop_oneof![
        4 => request_path().prop_map(|path| (Kind::Prefix, path)),
        3 => request_path().prop_map(|path| (Kind::Exact, path)),
        2 => select(REGEXES.to_vec()).prop_map(|text| (Kind::Regex, text.to_owned())),
    ];
    let methods = prop_oneof![Just(vec![]), subsequence(METHODS.to_vec(), 1..3)];
    (select(HOST_PATTERNS.to_vec()), path, methods).prop_map(|(host, (kind, path), methods)| Entry {
        host,
        kind,
        path,
        methods,
    })
}

impl Entry {
    fn compile(&self) -> Result<Pattern, TestCaseError> {
        let fail = |error| TestCaseError::fail(format!("{error}"));
        Ok(Pattern {
            host: if self.host.is_empty() { HostPattern::Any } else { self.host.parse().map_err(fail)? },
            path: match self.kind {
                Kind::Regex => PathPattern::regex(&self.path),
                Kind::Prefix => PathPattern::prefix(&self.path),
                Kind::Exact => PathPattern::exact(&self.path),
            }
            .map_err(fail)?,
            methods: if self.methods.is_empty() {
                Methods::Any
            } else {
                Methods::parse(self.methods.iter().copied()).map_err(fail)?
            },
        })
    }

    fn matches(&self, host: &str, path: &str, method: &str) -> bool {
        let host_fits = match self.host.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => self.host.is_empty() || self.host == host,
        };
        let path_fits = match self.kind {
            Kind::Exact => path == self.path,
            Kind::Prefix => format!("{path}/").starts_with(&format!("{}/", self.path.trim_end_matches('/'))),
            Kind::Regex => regex::Regex::new(&format!("^(?:{})$", self.path)).is_ok_and(|r| r.is_match(path)),
        };
        host_fits && path_fits && self.lists(method)
    }

    fn lists(&self, method: &str) -> bool {
        let listed = |method| self.methods.contains(&method);
        self.methods.is_empty() || listed(method) || (method == "HEAD" && listed("GET"))
    }

    /// The order of the documentation, written down once more.
    fn rank(&self) -> impl Ord {
        let host = match self.host {
            "" => (0, 0),
            host if host.starts_with('*') => (1, host.len()),
            _ => (2, 0),
        };
        let length = if self.kind == Kind::Exact { 0 } else { self.path.trim_end_matches('/').len() };
        let text = if self.kind == Kind::Regex { self.path.clone() } else { String::new() };
        (host, self.kind, length, Reverse(text), !self.methods.is_empty())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_finds_what_asking_every_route_would_find(
        entries in vec(entry(), 0..12),
        requests in vec((select(HOSTS.to_vec()), request_path(), select(METHODS.to_vec())), 1..16),
    ) {
        let mut kept: Vec<(Pattern, Entry)> = Vec::new();
        for entry in entries {
            let pattern = entry.compile()?;
            if !kept.iter().any(|(other, _)| other.overlaps(&pattern)) {
                kept.push((pattern, entry));
            }
        }
        let entries: Vec<Entry> = kept.iter().map(|(_, entry)| entry.clone()).collect();
        let table = Table::build(kept).map_err(|overlaps| TestCaseError::fail(format!("{overlaps:?}")))?;
        for (host, path, method) in requests {
            let expected =
                entries.iter().filter(|entry| entry.matches(host, &path, method)).max_by_key(|entry| entry.rank());
            let method = method.parse::<Method>().map_err(|error| TestCaseError::fail(error.to_string()))?;
            let found = table.find(host, &path, &method);
            prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{} {} {}", method, host, path);
        }
    }

    #[test]
    fn a_table_is_refused_exactly_when_two_of_its_patterns_overlap(entries in vec(entry(), 0..6)) {
        let patterns = entries.iter().map(Entry::compile).collect::<Result<Vec<Pattern>, TestCaseError>>()?;
        let overlap = (1..patterns.len()).any(|second| patterns[..second].iter().any(|p| p.overlaps(&patterns[second])));
        let table = Table::build(patterns.into_iter().map(|pattern| (pattern, ())).collect());
        prop_assert_eq!(table.is_err(), overlap);
    }

    #[test]
    fn the_special_pattern_is_ranked_as_documented(first in entry(), second in entry()) {
        let (one, other) = (first.compile()?, second.compile()?);
        // A slash at the end of a prefix is no difference.
        prop_assert_eq!(one.specificity().cmp(&other.specificity()), first.rank().cmp(&second.rank()));
    }
}

// ── policies

const SLUGS: [&str; 4] = ["acme", "ops", "guest", "other"];

fn team(slug: &str, id: u8, role: Role, confirmed: bool) -> Team {
    Team { slug: slug.into(), id: TeamId::from_bytes([id; 16]), role, confirmed }
}

fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Member, Role::Administrator])
}

fn teams() -> impl Strategy<Value = Vec<Team>> {
    subsequence((0_u8..4).collect::<Vec<u8>>(), 0..=4).prop_flat_map(|ids| {
        let team = |id: u8| {
            (role(), any::<bool>()).prop_map(move |(role, sure)| team(SLUGS[usize::from(id)], id, role, sure))
        };
        ids.into_iter().map(team).collect::<Vec<_>>()
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let name = prop_oneof![
        4 => select(SLUGS.to_vec()).prop_map(|slug| TeamName::Slug(slug.into())),
        1 => (0_u8..4).prop_map(|id| TeamName::Id(TeamId::from_bytes([id; 16]))),
    ];
    let leaf = prop_oneof![
        6 => (name, proptest::option::of(role())).prop_map(|(team, part)| Condition::Group(Group { team, part })),
        1 => (1_u8..3).prop_map(|id| Condition::Account(AccountId::from_bytes([id; 16]))),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Condition::All),
            vec(inner.clone(), 1..3).prop_map(Condition::Any),
            inner.prop_map(|condition| Condition::Not(Box::new(condition))),
        ]
    })
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    vec(condition(), 0..3)
}

fn rules(allow: Vec<Condition>, deny: Vec<Condition>) -> Result<Policy, TestCaseError> {
    let checked = |list| Conditions::new(list).map_err(|error| TestCaseError::fail(error.to_string()));
    Ok(Policy::Rules { allow: checked(allow)?, deny: checked(deny)? })
}

fn ada() -> VerifiedIdentity {
    VerifiedIdentity::vouched_for(Claims {
        account: AccountId::from_bytes([1; 16]),
        display_name: "Ada".into(),
        nickname: None,
        email: Email::parse("ada@example.com"),
    })
}

fn of_ada(policy: &Policy, teams: Vec<Team>) -> Decision<'_> {
    let membership = Membership::new(Timestamp::from_unix_seconds(0), teams);
    decide(policy, Subject::Account { identity: &ada(), membership: &membership })
}

/// How far a decision opens the door.
fn openness(decision: &Decision<'_>) -> u8 {
    match decision {
        Decision::Deny(_) | Decision::AskSignIn => 0,
        Decision::CannotTell(_) => 1,
        Decision::Allow(_) => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn deny_wins(allow in conditions(), deny in conditions(), teams in teams()) {
        let membership = Membership::new(Timestamp::from_unix_seconds(0), teams.clone());
        let strongest = deny.iter().map(|condition| condition.of(&ada(), &membership)).max();
        let policy = rules(allow, deny)?;
        match (strongest, of_ada(&policy, teams)) {
            (Some(Truth::Yes), decision) => prop_assert!(matches!(decision, Decision::Deny(Reason::Denied(_)))),
            (Some(Truth::Unknown), decision) => prop_assert!(!matches!(decision, Decision::Allow(_))),
            _ => {}
        }
    }

    #[test]
    fn a_team_that_no_rule_names_changes_nothing(
        allow in conditions(), deny in conditions(), teams in teams(), role in role(), confirmed in any::<bool>(),
    ) {
        let policy = rules(allow, deny)?;
        let mut more = teams.clone();
        more.push(team("unrelated", 9, role, confirmed));
        prop_assert_eq!(of_ada(&policy, teams), of_ada(&policy, more));
    }

    #[test]
    fn one_more_allow_closes_no_door_and_one_more_deny_opens_none(
        allow in conditions(), deny in conditions(), more in condition(), teams in teams(),
    ) {
        let with = |list: &[Condition]| [list, std::slice::from_ref(&more)].concat();
        let (plain, allowing, denying) =
            (rules(allow.clone(), deny.clone())?, rules(with(&allow), deny.clone())?, rules(allow.clone(), with(&deny))?);
        let open = |policy| openness(&of_ada(policy, teams.clone()));
        prop_assert!(open(&allowing) >= open(&plain));
        prop_assert!(open(&denying) <= open(&plain));
    }

    /// A certain answer stays the answer, however each of the listed teams turns out.
    #[test]
    fn what_is_certain_does_not_hang_on_what_is_unknown(
        allow in conditions(), deny in conditions(), teams in teams(), turns_out in vec(any::<Option<bool>>(), 4),
    ) {
        let policy = rules(allow, deny)?;
        let before = openness(&of_ada(&policy, teams.clone()));
        let known: Vec<Team> = teams
            .into_iter()
            .zip(turns_out)
            .filter_map(|(team, turns_out)| match turns_out {
                _ if team.confirmed => Some(team),
                None => None,
                Some(true) => Some(Team { confirmed: true, role: Role::Administrator, ..team }),
                Some(false) => Some(Team { confirmed: true, role: Role::Member, ..team }),
            })
            .collect();
        let after = openness(&of_ada(&policy, known));
        prop_assert!(before == 1 || before == after, "{} became {}", before, after);
        prop_assert!(after != 1);
    }

    #[test]
    fn nobody_passes_but_where_everybody_may(allow in conditions(), deny in conditions()) {
        let policy = rules(allow, deny)?;
        prop_assert_eq!(decide(&policy, Subject::Anonymous), Decision::AskSignIn);
    }
}
