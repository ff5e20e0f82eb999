//! Another path for the app than the one that was asked for.
//!
//! Owns: [`Rewrite`], [`Rule`], and what of their results may be sent.
//! Must not know: who may pass. That was decided on the path as it was asked for.
//!
//! Rewriting is where gateways were talked into sending what they had not decided on (CVE-2026-48020,
//! CVE-2026-65600). So a result is held against the same rules as what clients send: it must be its own
//! canonical form, and hold nothing that the route did not opt in to. It is refused rather than mended: a path
//! that comes out odd was made to.

use std::ops::Range;

use regex::{Captures, Regex, RegexBuilder};

use super::destination::redirect::after_segments;
use super::oddity::Oddities;
use super::refusal::Refusal;
use super::target::{MAX_BYTES, Target, as_matched, canonical};

/// What is done to a path before it is sent on. Default: nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Rewrite {
    /// Nothing.
    #[default]
    Keep,
    /// Its beginning is taken off. Requests that do not begin so stay as they are.
    Strip(Prefix),
    /// The first rule that matches is applied; where none does, nothing is.
    Rules(Box<[Rule]>),
}

/// The beginning of paths, by whole segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix {
    text: Box<str>,
    segments: usize,
}

impl Prefix {
    /// `text` in the spelling of [`super::pattern::PathPattern::Prefix`]: without a slash at its end.
    pub fn new(text: &str) -> Prefix {
        Prefix { text: text.into(), segments: text.matches('/').count() }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many segments it has.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// What is left of `path`; `None` if it does not begin so.
    fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = after_segments(path, self.segments);
        let beginning = &path[..path.len() - rest.len()];
        // As routes are matched: `/%40me` begins with `/@me`.
        (as_matched(beginning) == *self.text).then_some(if rest.is_empty() { "/" } else { rest })
    }
}

/// A path that matches, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Rule {
    written: Box<str>,
    regex: Regex,
    to: Replacement,
}

/// Two rules are equal when they were written alike.
impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        (&self.written, &self.to) == (&other.written, &other.to)
    }
}

impl Eq for Rule {}

/// Text with parts of the match in it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Replacement(Box<[Part]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(Box<str>),
    Group(usize),
}

/// Why texts are no rule; says what to write instead.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum BadRule {
    /// No regular expression, or too large a one.
    #[error("`{written}` is no usable regular expression: {fault}")]
    Regex {
        /// As in the file.
        written: String,
        /// What the regex crate says.
        fault: regex::Error,
    },
    /// A replacement that is no path.
    #[error("`{0}` does not begin with a slash; write the whole path, as in `/new/{{1}}`")]
    NoPath(String),
    /// A query, which rules neither see nor change.
    #[error("`{0}` has a query, which stays as it was sent; end it before the `?`")]
    Query(String),
    /// A brace without its other half.
    #[error("`{0}` has a brace without its other half; write `{{1}}`, or `{{{{` for a brace")]
    Brace(String),
    /// A group that the expression has not.
    #[error("`{{{group}}}` is no group of the expression, which has {groups}")]
    Group {
        /// As in the file.
        group: String,
        /// Those that there are.
        groups: String,
    },
    /// A replacement that would never be taken.
    #[error("`{written}` makes a path that no app is sent ({refusal}); write `{cure}`")]
    Unfit {
        /// As in the file.
        written: String,
        /// What is wrong with it.
        refusal: Refusal,
        /// What comes near to it.
        cure: String,
    },
}

/// What rewriting made cannot be sent to an app.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rewriting made a path that no app is sent: {0}")]
pub struct Unfit(#[from] pub Refusal);

impl Rewrite {
    /// The target that the app is sent; `None` where it is the one that was asked for. The query stays.
    ///
    /// # Errors
    ///
    /// [`Unfit`], and the request must not be sent.
    pub fn apply(&self, target: &Target<'_>, allowed: Oddities) -> Result<Option<Target<'static>>, Unfit> {
        let rewritten = match self {
            Rewrite::Keep => None,
            Rewrite::Strip(prefix) => prefix.strip(&target.path).map(str::to_owned),
            Rewrite::Rules(rules) => {
                let matched = as_matched(&target.path);
                rules.iter().find_map(|rule| rule.apply(&target.path, &matched))
            }
        };
        let Some(path) = rewritten else { return Ok(None) };
        let spelt = canonical(path.as_bytes())?;
        if spelt.path != path || spelt.query.is_some() {
            return Err(Unfit(Refusal::Respelt));
        }
        spelt.allowed_by(allowed)?;
        let needs = spelt.needs;
        let query = target.query.as_ref().map(|query| query.clone().into_owned().into());
        if path.len() + target.query.as_ref().map_or(0, |query| 1 + query.len()) > MAX_BYTES {
            return Err(Unfit(Refusal::TooLong));
        }
        Ok(Some(Target { path: path.into(), query, needs }))
    }

    /// What is taken off, for `X-Forwarded-Prefix`.
    pub fn prefix(&self) -> Option<&Prefix> {
        match self {
            Rewrite::Strip(prefix) => Some(prefix),
            Rewrite::Keep | Rewrite::Rules(_) => None,
        }
    }
}

impl Rule {
    /// Reads a rule. `regex` is anchored on both sides and sees what [`super::pattern::PathPattern::regex`]
    /// sees. In `to`, `{1}` and `{name}` are what the groups of that number or name matched.
    ///
    /// # Errors
    ///
    /// [`BadRule`]; also for an expression that compiles to more than 256 KiB, and for a `to` that needs more
    /// than the route `allows` whatever the groups match.
    pub fn new(regex: &str, to: &str, allows: Oddities) -> Result<Rule, BadRule> {
        let compile = |text: &str| RegexBuilder::new(text).size_limit(256 * 1024).build();
        // Alone first, as in `PathPattern::regex`.
        let compiled = compile(regex)
            .and_then(|_| compile(&format!(r"\A(?:{regex})\z")))
            .map_err(|fault| BadRule::Regex { written: regex.to_owned(), fault })?;
        let to = Replacement::new(to, &compiled, allows)?;
        Ok(Rule { written: regex.into(), regex: compiled, to })
    }

    /// The path made of `path`, which is matched as `matched`.
    fn apply(&self, path: &str, matched: &str) -> Option<String> {
        let groups = self.regex.captures(matched)?;
        Some(self.to.with(&groups, |range| &path[unmatched(path, matched, range)]))
    }
}

impl Replacement {
    fn new(written: &str, regex: &Regex, allows: Oddities) -> Result<Replacement, BadRule> {
        if written.contains('?') {
            return Err(BadRule::Query(written.to_owned()));
        }
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), written);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(at);
            text.push_str(before);
            if let Some(brace) = ["{{", "}}"].into_iter().find(|doubled| from_brace.starts_with(doubled)) {
                text.push_str(&brace[1..]);
                rest = &from_brace[2..];
                continue;
            }
            let inside = from_brace.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = inside.ok_or_else(|| BadRule::Brace(written.to_owned()))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Group(group(name, regex)?));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        let replacement = Replacement(parts.into());
        replacement.is_fit(written, allows)?;
        Ok(replacement)
    }

    /// Whether something can come of it, when every group matches an ordinary word.
    fn is_fit(&self, written: &str, allows: Oddities) -> Result<(), BadRule> {
        if !matches!(self.0.first(), Some(Part::Text(text)) if text.starts_with('/'))
            && !matches!(self.0.first(), Some(Part::Group(_)))
        {
            return Err(BadRule::NoPath(written.to_owned()));
        }
        let path = self.0.iter().fold(String::new(), |path, part| match part {
            Part::Text(text) => path + text,
            // A group can match the slash that begins a path.
            Part::Group(_) if path.is_empty() => path + "/x",
            Part::Group(_) => path + "x",
        });
        let unfit = |refusal, cure: String| BadRule::Unfit { written: written.to_owned(), refusal, cure };
        let spelt = canonical(path.as_bytes()).map_err(|refusal| unfit(refusal, "/new/{1}".to_owned()))?;
        spelt.allowed_by(allows).map_err(|refusal| unfit(refusal, "/new/{1}".to_owned()))?;
        if spelt.path != path {
            return Err(unfit(Refusal::Respelt, spelt.path.into_owned()));
        }
        Ok(())
    }

    fn with<'p>(&self, groups: &Captures<'_>, original: impl Fn(Range<usize>) -> &'p str) -> String {
        let mut path = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Group(number) => {
                    // A group that took no part in the match is empty.
                    path.push_str(groups.get(*number).map_or("", |found| original(found.range())));
                }
            }
        }
        path
    }
}

fn group(name: &str, regex: &Regex) -> Result<usize, BadRule> {
    let by_number = name.parse::<usize>().ok().filter(|number| *number < regex.captures_len());
    let by_name = || regex.capture_names().position(|known| known == Some(name));
    by_number.or_else(by_name).ok_or_else(|| {
        let named = regex.capture_names().flatten().map(|name| format!("`{{{name}}}`"));
        let numbered = (1..regex.captures_len()).map(|number| format!("`{{{number}}}`"));
        let groups: Vec<String> = numbered.chain(named).collect();
        let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
        BadRule::Group { group: name.to_owned(), groups }
    })
}

/// Where in `path` stands what `range` is in `matched`, the same path with its delimiters raw ([`as_matched`]):
/// rules match what routes match, and yet an app gets `%2B` where `%2B` was sent.
fn unmatched(path: &str, matched: &str, range: Range<usize>) -> Range<usize> {
    if path.len() == matched.len() {
        return range;
    }
    let place = |wanted: usize| {
        let (mut at, path, matched) = (0, path.as_bytes(), matched.as_bytes());
        for byte in &matched[..wanted] {
            at += if path.get(at) == Some(&b'%') && *byte != b'%' { 3 } else { 1 };
        }
        at
    };
    place(range.start)..place(range.end)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::super::oddity::Oddity;
    use super::*;

    type Tested = Result<(), Box<dyn Error>>;

    fn rules(rules: &[(&str, &str)]) -> Result<Rewrite, BadRule> {
        let rules = rules.iter().map(|(regex, to)| Rule::new(regex, to, Oddities::NONE));
        Ok(Rewrite::Rules(rules.collect::<Result<Vec<Rule>, BadRule>>()?.into()))
    }

    /// What the app is sent for `sent`, query included.
    fn app_gets(rewrite: &Rewrite, sent: &str, allowed: Oddities) -> Result<Result<String, Unfit>, Refusal> {
        let target = canonical(sent.as_bytes())?;
        Ok(rewrite
            .apply(&target, allowed)
            .map(|rewritten| rewritten.as_ref().unwrap_or(&target).wire().into_owned()))
    }

    #[test]
    fn a_prefix_goes_by_whole_segments_and_the_query_stays() -> Tested {
        for (prefix, sent, expected) in [
            ("/wiki", "/wiki", "/"),
            ("/wiki", "/wiki/", "/"),
            ("/wiki", "/wiki/a/b?c=/wiki/d", "/a/b?c=/wiki/d"),
            ("/wiki", "/wiki?x", "/?x"),
            ("/wiki", "/wiki/wiki/a", "/wiki/a"),
            ("/a/b", "/a/b/c", "/c"),
            ("/@me", "/%40me/x", "/x"),
            ("/@me", "/@me/%40me", "/%40me"),
            // What does not begin so stays (threats 24).
            ("/wiki", "/wikipedia/a", "/wikipedia/a"),
            ("/a/b", "/a", "/a"),
            ("/wiki", "/Wiki/a", "/Wiki/a"),
            // The path that counts is the one that was decided on.
            ("/wiki", "/x/../wiki//a", "/a"),
        ] {
            let rewrite = Rewrite::Strip(Prefix::new(prefix));
            let got = app_gets(&rewrite, sent, Oddities::NONE)?;
            assert_eq!(got.as_deref(), Ok(expected), "{prefix} {sent}");
        }
        Ok(())
    }

    #[test]
    fn the_first_rule_that_matches_the_whole_path_is_applied() -> Tested {
        let rewrite = rules(&[
            ("/old/([0-9]+)", "/new/{1}/view"),
            ("/old/(?<name>[a-z]+)/(.*)", "/by-name/{2}/{name}"),
            ("/u/([^/]+)(/.*)?", "/users/{1}{2}"),
            ("/({1,2}[a-z])", "/{{{1}}}"),
            ("/whole(.*)", "/x{0}"),
        ]);
        assert!(rewrite.is_err(), "braces that no path can hold raw");
        let rewrite = rules(&[
            ("/old/([0-9]+)", "/new/{1}/view"),
            ("/old/(?<name>[a-z]+)/(.*)", "/by-name/{2}/{name}"),
            ("/u/([^/]+)(/.*)?", "/users/{1}{2}"),
            ("/whole(.*)", "/x{0}"),
            ("/p/([^/]*)/q", "/q/{1}"),
        ])?;
        for (sent, expected) in [
            ("/old/12?a=b", "/new/12/view?a=b"),
            ("/old/12/", "/old/12/"),
            ("/x/old/12", "/x/old/12"),
            ("/old/ann/a/b", "/by-name/a/b/ann"),
            ("/u/ann", "/users/ann"),
            ("/u/ann/x", "/users/ann/x"),
            ("/whole/a", "/x/whole/a"),
            // Seen as routes see it, sent as it was sent.
            ("/u/a%40b+c%2Bd/e%2C", "/users/a%40b+c%2Bd/e%2C"),
            ("/p/%C3%A9%40/q", "/q/%C3%A9%40"),
        ] {
            assert_eq!(app_gets(&rewrite, sent, Oddities::NONE)?.as_deref(), Ok(expected), "{sent}");
        }
        Ok(())
    }

    /// threats 26.
    #[test]
    fn what_clients_may_not_send_rewriting_may_not_make() -> Tested {
        let rewrite = rules(&[
            ("/a/(.*)", "/b{1}"),
            ("/join/([^/]*)/([^/]*)", "/x/{1}{2}/y"),
            ("/slash(.*)", "/s/{1}"),
            ("/bare(.*)", "{1}"),
        ])?;
        let semicolon = Oddities::NONE.with(Oddity::Semicolon);
        for (sent, allowed, expected) in [
            ("/a/", Oddities::NONE, Ok("/b")),
            // Two halves that are a dot segment only together.
            ("/join/./x", Oddities::NONE, Ok("/join/x")),
            ("/join/.a/b", Oddities::NONE, Ok("/x/.ab/y")),
            ("/slash/evil.test", Oddities::NONE, Err(Unfit(Refusal::Respelt))),
            ("/slash", Oddities::NONE, Ok("/s/")),
            ("/bare", Oddities::NONE, Err(Unfit(Refusal::NotOriginForm))),
            ("/bare/x", Oddities::NONE, Ok("/x")),
            ("/bare.x", Oddities::NONE, Err(Unfit(Refusal::NotOriginForm))),
            ("/a/;x", semicolon, Ok("/b;x")),
        ] {
            let got = app_gets(&rewrite, sent, allowed)?;
            assert_eq!(got.as_deref().map_err(|unfit| *unfit), expected, "{sent}");
        }
        let halves = rules(&[("/h/(.)x(.)", "/{1}{2}/secret"), ("/e/(.*)/(.*)", "/%25{1}{2}")])?;
        for (sent, refusal) in [
            ("/h/.x.", Refusal::Respelt),
            ("/e/2/f", Refusal::DoubleEncoding),
            ("/e/2/e", Refusal::DoubleEncoding),
        ] {
            assert_eq!(app_gets(&halves, sent, Oddities::NONE)?, Err(Unfit(refusal)), "{sent}");
        }
        let odd = rules(&[("/o(;)/(.*)", "/{2}{1}")])?;
        assert_eq!(app_gets(&odd, "/o;/..x", semicolon)?.as_deref(), Ok("/..x;"));
        let rewrite = rules(&[("/l/(.*)", "/longer/{1}")])?;
        let long = format!("/l/{}", "a".repeat(MAX_BYTES - 3));
        assert_eq!(
            app_gets(&rewrite, &long, Oddities::NONE)?,
            Err(Unfit(Refusal::TooLong)),
            "longer than what clients may send"
        );
        Ok(())
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_cure() {
        for (regex, to, message) in [
            ("/a", "b", "`b` does not begin with a slash; write the whole path, as in `/new/{1}`"),
            ("/a", "", "`` does not begin with a slash; write the whole path, as in `/new/{1}`"),
            ("/a", "/b?c", "`/b?c` has a query, which stays as it was sent; end it before the `?`"),
            ("/a", "/{1", "`/{1` has a brace without its other half; write `{1}`, or `{{` for a brace"),
            ("/a", "/1}", "`/1}` has a brace without its other half; write `{1}`, or `{{` for a brace"),
            ("/a", "/{1}", "`{1}` is no group of the expression, which has none"),
            ("/(a)(?<n>b)", "/{m}", "`{m}` is no group of the expression, which has `{1}`, `{2}`, `{n}`"),
            (
                "/(.*)",
                "/a//{1}",
                "`/a//{1}` makes a path that no app is sent (The path has an empty segment, a dot segment or an \
                 escape that says the same as none.); write `/a/x`",
            ),
            (
                "/(.*)",
                "/a/%2F{1}",
                "`/a/%2F{1}` makes a path that no app is sent (The address contains an encoded slash (%2F), \
                 which this place does not take.); write `/new/{1}`",
            ),
        ] {
            let error = Rule::new(regex, to, Oddities::NONE).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(message), "{regex} {to}");
        }
        assert!(matches!(Rule::new("/a)|(b", "/x", Oddities::NONE), Err(BadRule::Regex { .. })));
        assert!(matches!(Rule::new("/(a{9999}){99}", "/x", Oddities::NONE), Err(BadRule::Regex { .. })));
    }
}
