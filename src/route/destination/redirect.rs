//! A route that sends everybody elsewhere.
//!
//! Owns: [`Redirect`], and what its `Location` says. Must not know: how the answer is written.

use http::StatusCode;

use crate::route::target::Target;

/// Where to, and how. What is not given stays as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// Another scheme.
    pub scheme: Option<Scheme>,
    /// Another host, canonical; an IPv6 address in brackets.
    pub host: Option<Box<str>>,
    /// Another port. Where it is not given and scheme or host change, it is the scheme's usual one.
    pub port: Option<u16>,
    /// The path.
    pub path: NewPath,
    /// What becomes of the query.
    pub query: Query,
    /// 301, 302, 303, 307 or 308. Default 302: browsers keep the permanent ones for good, and a mistake with them.
    pub status: StatusCode,
}

/// The schemes of addresses for browsers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The port that need not be written.
pub fn usual_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// The path that people are sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewPath {
    /// The one that they asked for.
    Same,
    /// This one.
    Exactly(Box<str>),
    /// This in place of the first segments, as many as the route's own path has.
    Prefix {
        /// How many segments it replaces.
        segments: usize,
        /// What stands there instead; without a slash at the end.
        by: Box<str>,
    },
}

/// What becomes of the query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// It stays as it is. The default.
    Keep,
    /// It is left out.
    Drop,
}

/// Where a request was going, as the browser sees it.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host without its port.
    pub host: &'a str,
}

impl Redirect {
    /// The `Location` for a request to `target` on `here`: visible ASCII, since a canonical target is.
    pub fn location(&self, here: &Here<'_>, target: &Target<'_>) -> String {
        let mut location = self.origin(here);
        match &self.path {
            NewPath::Same => location.push_str(&target.path),
            NewPath::Exactly(path) => location.push_str(path),
            NewPath::Prefix { segments, by } => {
                location.push_str(by);
                let rest = after_segments(&target.path, *segments);
                // `/old` on its own becomes `/new`, not `/new/`; a root is never empty.
                location.push_str(if rest.is_empty() && by.is_empty() { "/" } else { rest });
            }
        }
        if let (Query::Keep, Some(query)) = (self.query, &target.query) {
            location.push('?');
            location.push_str(query);
        }
        location
    }

    /// Empty where nothing of it changes: a path alone is a good `Location` (RFC 9110 §10.2.2).
    fn origin(&self, here: &Here<'_>) -> String {
        if (self.scheme, &self.host, self.port) == (None, &None, None) {
            return String::new();
        }
        let scheme = self.scheme.map_or(here.scheme, |scheme| scheme.as_str());
        let host = self.host.as_deref().unwrap_or(here.host);
        match self.port {
            Some(port) if port != usual_port(scheme) => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        }
    }
}

/// What follows the first `count` segments of a canonical path, from its slash on; nothing, if nothing does.
pub(in crate::route) fn after_segments(path: &str, count: usize) -> &str {
    match path.match_indices('/').nth(count) {
        Some((slash, _)) => &path[slash..],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::refusal::Refusal;
    use crate::route::target::canonical;

    fn to(host: Option<&str>, path: NewPath) -> Redirect {
        Redirect {
            scheme: host.map(|_| Scheme::Https),
            host: host.map(Box::from),
            port: None,
            path,
            query: Query::Keep,
            status: StatusCode::FOUND,
        }
    }

    fn prefix(segments: usize, by: &str) -> NewPath {
        NewPath::Prefix { segments, by: by.into() }
    }

    #[test]
    fn what_is_not_given_stays_as_it_was_asked_for() -> Result<(), Refusal> {
        let here = Here { scheme: "https", host: "old.example.com" };
        let new = Some("new.example.com");
        let exactly = |path: &str| NewPath::Exactly(path.into());
        for (redirect, target, expected) in [
            (to(new, NewPath::Same), "/a/b?c=d", "https://new.example.com/a/b?c=d"),
            (to(new, NewPath::Same), "/", "https://new.example.com/"),
            (to(new, exactly("/moved")), "/a?b", "https://new.example.com/moved?b"),
            (to(new, prefix(1, "/new")), "/old/a/?x", "https://new.example.com/new/a/?x"),
            (to(new, prefix(1, "/new")), "/old", "https://new.example.com/new"),
            (to(new, prefix(2, "")), "/old/er/a", "https://new.example.com/a"),
            (to(new, prefix(2, "")), "/old/er", "https://new.example.com/"),
            (to(new, prefix(0, "/v2")), "/a", "https://new.example.com/v2/a"),
            (to(new, prefix(0, "/v2")), "/", "https://new.example.com/v2/"),
            (to(None, exactly("/moved")), "/a", "/moved"),
            (to(None, prefix(1, "/new")), "/old/%2e%2e/old//evil.test", "/new/evil.test"),
            (Redirect { query: Query::Drop, ..to(new, NewPath::Same) }, "/a?b", "https://new.example.com/a"),
            (
                Redirect { port: Some(8444), ..to(None, NewPath::Same) },
                "/a",
                "https://old.example.com:8444/a",
            ),
            (Redirect { port: Some(443), ..to(new, NewPath::Same) }, "/a", "https://new.example.com/a"),
            (
                Redirect { scheme: Some(Scheme::Http), ..to(None, NewPath::Same) },
                "/a",
                "http://old.example.com/a",
            ),
        ] {
            let target = canonical(target.as_bytes())?;
            assert_eq!(redirect.location(&here, &target), expected);
        }
        Ok(())
    }

    /// threats 31 and 32: what browsers read as another site is spelt away before it can be echoed.
    #[test]
    fn a_path_alone_never_names_another_site() -> Result<(), Refusal> {
        let here = Here { scheme: "https", host: "a.example" };
        for sent in ["//evil.test", "/old//evil.test", "/old/..//evil.test", "/old/%2e%2e//evil.test/"] {
            let target = canonical(sent.as_bytes())?;
            for path in [NewPath::Same, prefix(1, ""), prefix(1, "/new"), prefix(0, "")] {
                let location = to(None, path).location(&here, &target);
                assert!(location.starts_with('/') && !location.starts_with("//"), "{sent}: {location}");
            }
        }
        Ok(())
    }
}
