//! Which requests a route is for.
//!
//! Owns: [`Pattern`] and its parts, their parsing, [`Specificity`].
//! Must not know: what a route does; how routes are found ([`super::Table`] does).

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use http::Method;
use regex::{Regex, RegexBuilder};

use super::host::canonical_host;
use super::oddity::Oddities;
use super::refusal::Refusal;
use super::target::{as_matched, canonical};

/// Host, path and methods together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// Default: any host.
    pub host: HostPattern,
    /// The path.
    pub path: PathPattern,
    /// Default: any method.
    pub methods: Methods,
}

impl Pattern {
    /// How special the pattern is: of all patterns that match a request, the greatest one decides.
    pub fn specificity(&self) -> Specificity<'_> {
        let (host_kind, host_length) = match &self.host {
            HostPattern::Any => (0, 0),
            HostPattern::Wildcard(suffix) => (1, suffix.len()),
            HostPattern::Exact(_) => (2, 0),
        };
        let (path_kind, path_length, regex) = match &self.path {
            PathPattern::Regex(regex) => (0, regex.text.len(), &*regex.text),
            PathPattern::Prefix(prefix) => (1, prefix.len(), ""),
            PathPattern::Exact(_) => (2, 0, ""),
        };
        Specificity {
            host: (host_kind, host_length),
            path: (path_kind, path_length, Reverse(regex)),
            names_methods: self.methods != Methods::Any,
        }
    }

    /// Whether some request would match both, with nothing to tell which of them is meant.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        self.host == other.host && self.path == other.path && self.methods.overlaps(&other.methods)
    }
}

/// `host path [methods]`, as `explain` shows it.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.path)?;
        match &self.methods {
            Methods::Any => Ok(()),
            Methods::Only(methods) => {
                let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
                write!(f, " [{}]", methods.join(", "))
            }
        }
    }
}

/// The order in which patterns are asked; the greatest first.
///
/// An exact host, then the longest wildcard, then any host; below that an exact path, then the longest
/// prefix, then regexes (of two the longer text, of two as long the one that sorts first); below that
/// patterns that name methods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Specificity<'a> {
    host: (u8, usize),
    path: (u8, usize, Reverse<&'a str>),
    names_methods: bool,
}

/// Why a text is no pattern; says what to write instead.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum BadPattern {
    /// `*` or nothing.
    #[error("no host; leave `host` out to match any host")]
    NoHost,
    /// The host has a port, is in capitals, ends in a dot, …
    #[error(
        "`{written}` is not how hosts are compared; write `{cure}` (lower case, no port, no dot at the end)"
    )]
    HostSpelling {
        /// As in the file.
        written: String,
        /// As it would match.
        cure: String,
    },
    /// No host in any spelling, or a `*` elsewhere than at the start.
    #[error("`{0}` is no host; write `wiki.example.com` or `*.example.com`")]
    Host(String),
    /// A path that no request can have in this spelling.
    #[error("`{written}` is not how paths are compared; write `{cure}`")]
    PathSpelling {
        /// As in the file.
        written: String,
        /// As it would match.
        cure: String,
    },
    /// A `?` in a path.
    #[error("`{0}` has a query; routes look at the path only, so end it before the `?`")]
    Query(String),
    /// A path that every request is refused for.
    #[error("no request can have the path `{written}`: {refusal}")]
    Path {
        /// As in the file.
        written: String,
        /// What such a request is told.
        refusal: Refusal,
    },
    /// No regular expression, or too large a one.
    #[error("`{written}` is no usable regular expression: {fault}")]
    Regex {
        /// As in the file.
        written: String,
        /// What the regex crate says.
        fault: regex::Error,
    },
    /// An empty list of methods.
    #[error("an empty list of methods matches nothing; leave `methods` out to match any")]
    NoMethods,
    /// No method, or not in capitals.
    #[error("`{0}` is no method; methods are words in capitals, as in `GET`")]
    Method(String),
}

/// Which hosts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This host; lower case, no port.
    Exact(Box<str>),
    /// Every host that ends in this; begins with a dot. One label or more stands before it.
    Wildcard(Box<str>),
}

impl FromStr for HostPattern {
    type Err = BadPattern;

    /// Reads `wiki.example.com` or `*.example.com`.
    fn from_str(text: &str) -> Result<HostPattern, BadPattern> {
        let (star, name) = match text.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", text),
        };
        if matches!(text, "" | "*") {
            return Err(BadPattern::NoHost);
        }
        let host = canonical_host(name).map_err(|_| BadPattern::Host(text.to_owned()))?;
        if host.name != name {
            return Err(BadPattern::HostSpelling {
                written: text.to_owned(),
                cure: format!("{star}{}", host.name),
            });
        }
        Ok(match star {
            "" => HostPattern::Exact(name.into()),
            _ => HostPattern::Wildcard(text[1..].into()),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("any host"),
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Which paths. Compared with regard to case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PathPattern {
    /// This path and everything below it, by whole segments: `/docs` is for `/docs` and `/docs/x`, never for
    /// `/docsx`. Without a slash at the end, so `/` is empty.
    Prefix(Box<str>),
    /// This path only.
    Exact(Box<str>),
    /// Every path that the expression matches from its first to its last character.
    Regex(PathRegex),
}

impl PathPattern {
    /// Reads a prefix. A slash at its end means nothing.
    ///
    /// # Errors
    ///
    /// Every [`BadPattern`] about paths.
    pub fn prefix(text: &str) -> Result<PathPattern, BadPattern> {
        comparable(text)?;
        Ok(PathPattern::Prefix(text.strip_suffix('/').unwrap_or(text).into()))
    }

    /// Reads an exact path. A slash at its end makes it another path.
    ///
    /// # Errors
    ///
    /// Every [`BadPattern`] about paths.
    pub fn exact(text: &str) -> Result<PathPattern, BadPattern> {
        comparable(text)?;
        Ok(PathPattern::Exact(text.into()))
    }

    /// Reads an expression in the syntax of the `regex` crate. It is always anchored on both sides.
    ///
    /// It sees the canonical path without the query, in which letters beyond ASCII are encoded (`%C3%A9`) and
    /// the delimiters `!$&'()*+,;=:@` are not.
    ///
    /// # Errors
    ///
    /// [`BadPattern::Regex`], also for one that compiles to more than 256 KiB.
    pub fn regex(text: &str) -> Result<PathPattern, BadPattern> {
        let compile = |text: &str| RegexBuilder::new(text).size_limit(256 * 1024).build();
        // Alone first: `a)|(b` is an error, and only the parentheses around it would make it one that
        // compiles, with an anchor on either half.
        let compiled = compile(text)
            .and_then(|_| compile(&format!(r"\A(?:{text})\z")))
            .map_err(|fault| BadPattern::Regex { written: text.to_owned(), fault })?;
        Ok(PathPattern::Regex(PathRegex { text: text.into(), compiled }))
    }

    /// What the route must allow for the pattern to match anything. Regexes are not looked into.
    pub fn needs(&self) -> Oddities {
        match self {
            PathPattern::Prefix(path) | PathPattern::Exact(path) => {
                canonical(path.as_bytes()).map_or(Oddities::NONE, |target| target.needs)
            }
            PathPattern::Regex(_) => Oddities::NONE,
        }
    }
}

/// Requires the spelling that requests are compared in: no request has another.
fn comparable(written: &str) -> Result<(), BadPattern> {
    if written.contains('?') {
        return Err(BadPattern::Query(written.to_owned()));
    }
    let target = canonical(written.as_bytes())
        .map_err(|refusal| BadPattern::Path { written: written.to_owned(), refusal })?;
    let cure = as_matched(&target.path);
    if cure != written {
        return Err(BadPattern::PathSpelling { written: written.to_owned(), cure: cure.into_owned() });
    }
    Ok(())
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Prefix(prefix) => write!(f, "{prefix}/…"),
            PathPattern::Exact(path) => write!(f, "{path} exactly"),
            PathPattern::Regex(regex) => write!(f, "regex {}", regex.text),
        }
    }
}

/// An expression that is anchored on both sides. Two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct PathRegex {
    text: Box<str>,
    compiled: Regex,
}

impl PathRegex {
    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches a whole path, spelled as [`PathPattern::regex`] says.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.compiled.is_match(path)
    }
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &PathRegex) -> bool {
        self.text == other.text
    }
}

impl Eq for PathRegex {}

impl std::hash::Hash for PathRegex {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Which methods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Methods {
    /// Every method.
    Any,
    /// These, and `HEAD` where `GET` is among them: it asks for the same thing without its body (RFC 9110
    /// §9.3.2), and apps answer it wherever they answer `GET`. Sorted, each once.
    Only(Box<[Method]>),
}

impl Methods {
    /// Reads a list of methods.
    ///
    /// # Errors
    ///
    /// [`BadPattern::NoMethods`], [`BadPattern::Method`].
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Methods, BadPattern> {
        let parse = |name: &str| match name.parse::<Method>() {
            // Methods are compared with regard to case (RFC 9110 §9.1); `get` would match nothing.
            Ok(method) if !name.bytes().any(|b| b.is_ascii_lowercase()) => Ok(method),
            _ => Err(BadPattern::Method(name.to_owned())),
        };
        let mut methods = names.into_iter().map(parse).collect::<Result<Vec<Method>, BadPattern>>()?;
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        if methods.is_empty() { Err(BadPattern::NoMethods) } else { Ok(Methods::Only(methods.into())) }
    }

    /// Whether a request with `method` is meant.
    pub fn admit(&self, method: &Method) -> bool {
        match self {
            Methods::Any => true,
            Methods::Only(methods) => {
                methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
            }
        }
    }

    /// Whether both are [`Methods::Any`], or both name methods and some method is meant by both.
    pub fn overlaps(&self, other: &Methods) -> bool {
        match (self, other) {
            (Methods::Any, Methods::Any) => true,
            (Methods::Only(own), Methods::Only(others)) => {
                own.iter().any(|method| other.admit(method)) || others.iter().any(|method| self.admit(method))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(
        host: &str,
        path: Result<PathPattern, BadPattern>,
        methods: &[&str],
    ) -> Result<Pattern, BadPattern> {
        Ok(Pattern {
            host: if host.is_empty() { HostPattern::Any } else { host.parse()? },
            path: path?,
            methods: if methods.is_empty() { Methods::Any } else { Methods::parse(methods.iter().copied())? },
        })
    }

    #[test]
    fn a_host_pattern_that_no_host_matches_is_refused_with_the_cure() {
        for (written, message) in [
            ("", "no host; leave `host` out to match any host"),
            ("*", "no host; leave `host` out to match any host"),
            (
                "Wiki.example.com",
                "`Wiki.example.com` is not how hosts are compared; write `wiki.example.com` (lower case, no port, \
                 no dot at the end)",
            ),
            (
                "*.example.com:443",
                "`*.example.com:443` is not how hosts are compared; write `*.example.com` (lower case, no port, no \
                 dot at the end)",
            ),
            ("a.*.example", "`a.*.example` is no host; write `wiki.example.com` or `*.example.com`"),
            ("*example.com", "`*example.com` is no host; write `wiki.example.com` or `*.example.com`"),
            (
                "https://a.example",
                "`https://a.example` is no host; write `wiki.example.com` or `*.example.com`",
            ),
        ] {
            let error = written.parse::<HostPattern>().err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(message), "{written}");
        }
        assert_eq!("*.a.example".parse(), Ok(HostPattern::Wildcard(".a.example".into())));
        assert_eq!("[::1]".parse(), Ok(HostPattern::Exact("[::1]".into())));
    }

    #[test]
    fn a_path_pattern_that_no_path_matches_is_refused_with_the_cure() {
        let spelling =
            |written: &str, cure: &str| format!("`{written}` is not how paths are compared; write `{cure}`");
        for (written, message) in [
            ("/a/../b", spelling("/a/../b", "/b")),
            ("//a", spelling("//a", "/a")),
            ("/%61", spelling("/%61", "/a")),
            ("/%40scope", spelling("/%40scope", "/@scope")),
            ("/é", spelling("/é", "/%C3%A9")),
            ("/a?b", "`/a?b` has a query; routes look at the path only, so end it before the `?`".to_owned()),
            (
                "docs",
                "no request can have the path `docs`: The address does not begin with a slash.".to_owned(),
            ),
            ("/a\\b", "no request can have the path `/a\\b`: The address contains a backslash.".to_owned()),
        ] {
            for parsed in [PathPattern::prefix(written), PathPattern::exact(written)] {
                assert_eq!(parsed.err().map(|error| error.to_string()), Some(message.clone()), "{written}");
            }
        }
    }

    #[test]
    fn a_slash_at_the_end_matters_to_an_exact_path_only() {
        assert_eq!(PathPattern::prefix("/docs/"), PathPattern::prefix("/docs"));
        assert_ne!(PathPattern::exact("/docs/"), PathPattern::exact("/docs"));
        assert_eq!(PathPattern::prefix("/"), Ok(PathPattern::Prefix("".into())));
    }

    #[test]
    fn a_pattern_knows_what_its_route_must_allow() {
        let needs = |path: &str| PathPattern::prefix(path).map(|path| path.needs());
        assert_eq!(needs("/a%2Fb"), Ok(Oddities::NONE.with(super::super::oddity::Oddity::EncodedSlash)));
        assert_eq!(needs("/a;b"), Ok(Oddities::NONE.with(super::super::oddity::Oddity::Semicolon)));
        assert_eq!(needs("/"), Ok(Oddities::NONE));
    }

    /// threats 21: an expression that is not anchored matches inside of anything.
    #[test]
    fn a_regex_is_anchored_whatever_it_says() -> Result<(), BadPattern> {
        for (text, path, expected) in [
            ("/public", "/public", true),
            ("/public", "/x/public", false),
            ("/public", "/public/x", false),
            ("/a|/b", "/a", true),
            ("/a|/b", "/b", true),
            ("/a|/b", "/ax", false),
            ("/a|/b", "/x/b", false),
            ("^/a$", "/a", true),
            ("(?m)^/a$", "/a\n/b", false),
            (r"/.*\.css", "/admin/x.css", true),
        ] {
            let PathPattern::Regex(regex) = PathPattern::regex(text)? else { continue };
            assert_eq!(regex.matches(path), expected, "{text} {path}");
        }
        for text in ["a)|(b", "(", "(?x)/a #", "(a{1000}){1000}"] {
            assert!(matches!(PathPattern::regex(text), Err(BadPattern::Regex { .. })), "{text}");
        }
        Ok(())
    }

    #[test]
    fn methods_are_words_in_capitals_and_get_brings_head() -> Result<(), BadPattern> {
        let methods = Methods::parse(["POST", "GET", "POST"])?;
        assert_eq!(methods, Methods::Only([Method::GET, Method::POST].into()));
        for (method, admitted) in
            [(Method::GET, true), (Method::HEAD, true), (Method::POST, true), (Method::PUT, false)]
        {
            assert_eq!(methods.admit(&method), admitted, "{method}");
        }
        assert!(!Methods::parse(["HEAD"])?.admit(&Method::GET));
        assert_eq!(Methods::parse([]), Err(BadPattern::NoMethods));
        assert_eq!(Methods::parse(["get"]), Err(BadPattern::Method("get".to_owned())));
        assert_eq!(Methods::parse(["GET POST"]), Err(BadPattern::Method("GET POST".to_owned())));
        assert_eq!(Methods::parse([""]), Err(BadPattern::Method(String::new())));
        Ok(())
    }

    #[test]
    fn the_most_special_pattern_comes_first() -> Result<(), BadPattern> {
        let ordered = [
            pattern("a.b.example", PathPattern::exact("/x"), &["GET"])?,
            pattern("a.b.example", PathPattern::exact("/x"), &[])?,
            pattern("a.b.example", PathPattern::prefix("/x/y"), &[])?,
            pattern("a.b.example", PathPattern::prefix("/x"), &["GET"])?,
            pattern("a.b.example", PathPattern::prefix("/"), &[])?,
            pattern("a.b.example", PathPattern::regex("/x.*"), &[])?,
            pattern("a.b.example", PathPattern::regex("/a."), &[])?,
            pattern("a.b.example", PathPattern::regex("/b."), &["GET"])?,
            pattern("*.b.example", PathPattern::exact("/x"), &["GET"])?,
            pattern("*.example", PathPattern::exact("/x"), &["GET"])?,
            pattern("", PathPattern::exact("/x"), &["GET"])?,
        ];
        for (place, pair) in ordered.windows(2).enumerate() {
            let [first, second] = pair else { continue };
            assert!(first.specificity() > second.specificity(), "{place}: {first} before {second}");
        }
        Ok(())
    }

    #[test]
    fn patterns_overlap_when_nothing_tells_which_is_meant() -> Result<(), BadPattern> {
        let docs = || PathPattern::prefix("/docs");
        let rows = [
            (pattern("", docs(), &[])?, pattern("", PathPattern::prefix("/docs/"), &[])?, true),
            (pattern("", docs(), &["GET", "PUT"])?, pattern("", docs(), &["PUT"])?, true),
            (pattern("", docs(), &["GET"])?, pattern("", docs(), &["HEAD"])?, true),
            (pattern("", docs(), &["GET"])?, pattern("", docs(), &["PUT"])?, false),
            (pattern("", docs(), &["GET"])?, pattern("", docs(), &[])?, false),
            (pattern("", docs(), &[])?, pattern("a.example", docs(), &[])?, false),
            (pattern("", docs(), &[])?, pattern("", PathPattern::exact("/docs"), &[])?, false),
            (
                pattern("", PathPattern::regex("/a."), &[])?,
                pattern("", PathPattern::regex("/.b"), &[])?,
                false,
            ),
        ];
        for (first, second, expected) in rows {
            assert_eq!(first.overlaps(&second), expected, "{first} and {second}");
            assert_eq!(second.overlaps(&first), expected, "{second} and {first}");
        }
        Ok(())
    }
}
