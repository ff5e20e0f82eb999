//! What becomes of the path on its way to the app.
//!
//! Owns: the rules on `strip_prefix` and `rewrite`. Must not know: how a rule is applied.

use super::{One, oddities};
use crate::config::value::StripPrefix;
use crate::route::pattern::{PathPattern, Pattern};
use crate::route::rewrite::{Prefix, Rewrite, Rule};

/// How many rules one route may have: they are tried one after the other.
const MOST_RULES: usize = 64;

impl One<'_, '_> {
    pub(super) fn rewrite(&mut self, pattern: Option<&Pattern>) -> Option<Rewrite> {
        match (self.mentions("strip_prefix"), self.mentions("rewrite")) {
            (false, false) => Some(Rewrite::Keep),
            (true, true) => {
                self.problem(
                    "rewrite",
                    "`strip_prefix` says what becomes of the path already; keep one of them",
                );
                None
            }
            (true, false) => self.strip_prefix(pattern).map(Rewrite::Strip),
            (false, true) => self.rules().map(Rewrite::Rules),
        }
    }

    fn strip_prefix(&mut self, pattern: Option<&Pattern>) -> Option<Prefix> {
        let wanted = self.route.strip_prefix.as_ref()?;
        let own = match &pattern?.path {
            PathPattern::Prefix(own) | PathPattern::Exact(own) => own,
            PathPattern::Regex(_) => {
                self.problem(
                    "strip_prefix",
                    "a route with `path_regex` has no beginning to strip; use `rewrite`",
                );
                return None;
            }
        };
        let prefix = match wanted {
            StripPrefix::OwnPath => own.trim_end_matches('/'),
            StripPrefix::This(text) => {
                self.parsed("strip_prefix", PathPattern::prefix(text))?;
                text.trim_end_matches('/')
            }
        };
        if prefix.is_empty() {
            self.problem("strip_prefix", "every path begins with `/`, which stays; remove it");
            return None;
        }
        if own.strip_prefix(prefix).is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/'))) {
            let message = format!(
                "paths of this route begin with `{own}` and not with `{prefix}`; write true for all of it"
            );
            self.problem("strip_prefix", message);
            return None;
        }
        Some(Prefix::new(prefix))
    }

    fn rules(&mut self) -> Option<Box<[Rule]>> {
        let route = self.route;
        let list = route.rewrite.as_ref()?;
        match list.len() {
            0 => self.problem("rewrite", "an empty list rewrites nothing; remove it"),
            1..=MOST_RULES => {}
            count => self.problem(
                "rewrite",
                format!("{count} rules are more than the {MOST_RULES} that are tried; make several routes"),
            ),
        }
        let allows = oddities(&route.allow_in_path);
        let mut rules = Vec::new();
        for (index, rule) in list.iter().enumerate() {
            // What is missing is reported by the checker.
            let (Some(regex), Some(to)) = (&rule.regex, &rule.to) else { continue };
            rules.extend(self.parsed(&format!("rewrite[{index}]"), Rule::new(&regex.0, &to.0, allows)));
        }
        Some(rules.into())
    }
}
