//! Where a route leads.
//!
//! Owns: that there is exactly one destination; the rules on `redirect`, `respond` and `static`; which keys are for
//! apps only; redirects that lead back to themselves.
//! Must not know: how an answer is written, how an upstream is reached.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use url::Url;

use super::edit::plain_value;
use super::upstreams::Targets;
use super::{Found, Gateway, One};
use crate::config::compile::Findings;
use crate::config::document::{self, InPath, WebScheme};
use crate::config::value::Count;
use crate::route::destination::Destination;
use crate::route::destination::files::{Files, is_hidden};
use crate::route::destination::redirect::{NewPath, Query, Redirect, Scheme, usual_port};
use crate::route::destination::respond::Respond;
use crate::route::pattern::{HostPattern, PathPattern, Pattern};
use crate::route::rewrite::{Prefix, Rewrite};
use crate::route::target::canonical;
use crate::route::upstream::app::Timeouts;
use crate::route::{Route, Table};

/// The keys that say where a route leads.
const DESTINATIONS: &[&str] = &["upstream", "upstreams", "redirect", "respond", "static"];

/// The keys that mean something to an app only.
const FOR_APPS: &[&str] =
    &["audience", "headers", "groups", "plain_headers", "request_headers", "cors_preflight", "body_limit"];

/// The longest body of `respond`, in bytes: it stays in memory.
const MOST_OF_A_BODY: u64 = 1024 * 1024;

impl One<'_, '_> {
    pub(super) fn destination(
        &mut self,
        pattern: Option<&Pattern>,
        gateway: &Gateway<'_>,
        general: &Timeouts,
        targets: &mut Targets,
    ) -> Option<Destination> {
        let given: Vec<&str> = DESTINATIONS.iter().copied().filter(|key| self.mentions(key)).collect();
        let key = match given.as_slice() {
            // Who mistyped one need not be told that it is missing.
            [] if self.findings.places.is_strange(&self.path) => return None,
            [] => {
                let path = self.path.clone();
                self.findings.problem(
                    path,
                    "leads nowhere; add `upstream: http://host:port`, or one of redirect, respond and static",
                );
                return None;
            }
            [key] => *key,
            [first, second, ..] => {
                let message =
                    format!("a route has one destination, and there is `{first}` already; keep one of them");
                self.problem(second, message);
                return None;
            }
        };
        if !key.starts_with("upstream") {
            self.has_no_app(key);
        }
        match key {
            "redirect" => self.redirect(pattern).map(Destination::Redirect),
            "respond" => self.respond().map(Destination::Respond),
            "static" => self.files().map(Destination::Files),
            _ => self.app(gateway, general, targets).map(|app| Destination::App(Arc::new(app))),
        }
    }

    fn has_no_app(&mut self, destination: &str) {
        for key in FOR_APPS {
            if self.mentions(key) {
                self.problem(
                    key,
                    format!("is for apps, and this route has `{destination}` instead; remove it"),
                );
            }
        }
        if destination == "respond" {
            for key in ["strip_prefix", "rewrite"] {
                if self.mentions(key) {
                    self.problem(key, "the answer is the same whatever the path; remove it");
                }
            }
        }
        if destination == "redirect" && self.mentions("strip_prefix") {
            self.problem("strip_prefix", "a redirect has `prefix` for this; write `redirect: { prefix: / }`");
        }
        if destination == "static" && self.route.allow_in_path.contains(&InPath::EncodedSlash) {
            // Decided on as a character, it would be a separator on the disk.
            self.problem("allow_in_path", "no file has a slash in its name; remove `encoded_slash`");
        }
    }

    fn redirect(&mut self, pattern: Option<&Pattern>) -> Option<Redirect> {
        let route = self.route;
        let redirect = route.redirect.as_ref()?;
        let together = ["scheme", "host", "port"].into_iter().find(|key| self.mentions(&in_redirect(key)));
        if let (true, Some(key)) = (self.mentions("redirect.to"), together) {
            self.problem(&in_redirect(key), "`to` is scheme, host and port together; keep it, or these");
        }
        let keys = ["to", "scheme", "host", "port", "path", "prefix"];
        if keys.into_iter().any(|key| self.findings.places.is_broken(&self.at(&in_redirect(key)))) {
            return None;
        }
        let (mut scheme, mut host, mut port) = (
            redirect.scheme.map(|scheme| match scheme {
                WebScheme::Http => Scheme::Http,
                WebScheme::Https => Scheme::Https,
            }),
            redirect.host.as_ref().map(|host| host.0.clone()),
            redirect.port.and_then(|Count(port)| u16::try_from(port).ok()),
        );
        if let Some(to) = &redirect.to {
            scheme = Some(if to.0.scheme() == "https" { Scheme::Https } else { Scheme::Http });
            host = to.0.host_str().map(Box::from);
            port = to.0.port();
        }
        let path = self.new_path(redirect, pattern)?;
        let goes = ["to", "scheme", "host", "port"].into_iter().any(|key| self.mentions(&in_redirect(key)));
        if !goes && path == NewPath::Same && route.rewrite.is_none() {
            self.problem("redirect", "leads back to where it came from; add `to: https://…`, or `path: /…`");
            return None;
        }
        let status = u16::try_from(redirect.status.0).ok().and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
        if status.is_none() {
            let message = format!("{} is no redirection; write 301, 302, 303, 307 or 308", redirect.status.0);
            self.problem("redirect.status", message);
        }
        let query = match redirect.query {
            document::Query::Keep => Query::Keep,
            document::Query::Drop => Query::Drop,
        };
        Some(Redirect { scheme, host, port, path, query, status: status? })
    }

    fn new_path(&mut self, redirect: &document::Redirect, pattern: Option<&Pattern>) -> Option<NewPath> {
        let given: Vec<&str> = ["redirect.path", "redirect.prefix", "rewrite"]
            .into_iter()
            .filter(|key| self.mentions(key))
            .collect();
        if let [first, second, ..] = given.as_slice() {
            self.problem(
                second,
                format!("`{first}` says what becomes of the path already; keep one of them"),
            );
            return None;
        }
        if let Some(path) = &redirect.path {
            self.parsed("redirect.path", PathPattern::exact(&path.0))?;
            return Some(NewPath::Exactly(path.0.clone()));
        }
        let Some(prefix) = &redirect.prefix else { return Some(NewPath::Same) };
        let by = self.parsed("redirect.prefix", PathPattern::prefix(&prefix.0))?;
        match (&pattern?.path, by) {
            (PathPattern::Prefix(own), PathPattern::Prefix(by)) => {
                Some(NewPath::Prefix { segments: Prefix::new(own).segments(), by })
            }
            _ => {
                let message = "stands in place of the route's `path`, and this route has none; write `path: …` here, or use `rewrite`";
                self.problem("redirect.prefix", message);
                None
            }
        }
    }

    fn respond(&mut self) -> Option<Respond> {
        let route = self.route;
        let respond = route.respond.as_ref()?;
        let status = StatusCode::from_u16(u16::try_from(respond.status.0).ok()?).ok()?;
        if status.is_redirection() {
            self.problem("respond.status", format!("{status} sends people elsewhere; use `redirect`"));
            return None;
        }
        let body = match (&respond.body, &respond.body_file) {
            (Some(_), Some(_)) => {
                self.problem("respond.body_file", "the body is given twice; keep this or `body`");
                return None;
            }
            (Some(body), None) => Bytes::copy_from_slice(body.0.as_bytes()),
            (None, Some(file)) => self.body_file(&file.0)?,
            (None, None) => Bytes::new(),
        };
        if !body.is_empty() && matches!(status.as_u16(), 204 | 205) {
            self.problem(
                "respond.status",
                format!("{} has no body; write 200, or remove the body", status.as_u16()),
            );
        }
        let Some(content_type) = plain_value(&respond.content_type.0) else {
            self.problem("respond.content_type", "is no media type; write text/html; charset=utf-8");
            return None;
        };
        Some(Respond { status, content_type, body })
    }

    fn body_file(&mut self, written: &str) -> Option<Bytes> {
        let file = self.findings.path(written);
        match (self.findings.around.read_file)(&file, MOST_OF_A_BODY + 1) {
            Ok(body) if body.len() as u64 <= MOST_OF_A_BODY => Some(body.into()),
            Ok(_) => {
                self.problem(
                    "respond.body_file",
                    format!("`{written}` is longer than 1 MiB; serve it with `static`"),
                );
                None
            }
            Err(error) => {
                self.problem("respond.body_file", format!("`{written}` cannot be read ({error}); mend the path, which is relative to the folder of the configuration"));
                None
            }
        }
    }

    fn files(&mut self) -> Option<Files> {
        let route = self.route;
        let files = route.files.as_ref()?;
        let written = &files.root.as_ref()?.0;
        let root = self.findings.path(written);
        if !(self.findings.around.is_folder)(&root) {
            self.problem("static.root", format!("`{written}` is no folder that can be opened; create it, or mend the path, which is relative to the folder of the configuration"));
        }
        if !is_below(&files.index.0) || files.index.0.contains('/') {
            self.problem(
                "static.index",
                format!("`{}` is no name of a file that is served; write index.html", files.index.0),
            );
        }
        if let Some(fallback) = files.fallback.as_ref().filter(|fallback| !is_below(&fallback.0)) {
            self.problem(
                "static.fallback",
                format!("`{}` is no file below `root` that is served; write index.html", fallback.0),
            );
        }
        let fallback = files.fallback.as_ref().map(|fallback| fallback.0.clone());
        Some(Files { root, index: files.index.0.clone(), fallback, precompressed: files.precompressed })
    }
}

fn in_redirect(key: &str) -> String {
    format!("redirect.{key}")
}

/// Whether a file can be named so, from the root on, and would be served: its address needs no escape.
fn is_below(written: &str) -> bool {
    let address = format!("/{written}");
    let plain =
        canonical(address.as_bytes()).is_ok_and(|target| target.is_verbatim() && target.query.is_none());
    plain && !written.ends_with('/') && !is_hidden(Path::new(written))
}

/// Reports redirects whose target is the same route again, as far as that can be seen: browsers would give up after
/// twenty rounds, with a page that names nobody.
pub(super) fn loops(
    found: &[Found],
    table: &Table<Arc<Route>>,
    external_url: Option<&Url>,
    findings: &mut Findings<'_>,
) {
    let Some(external) = external_url else { return };
    for Found { index, pattern, route } in found {
        if let Destination::Redirect(redirect) = &route.destination
            && comes_back(redirect, pattern, route, table, external)
        {
            findings.problem(
                format!("routes[{index}].redirect"),
                "leads to where this route redirects again, and so on for ever; mend where it leads, or give the target a route of its own",
            );
        }
    }
}

fn comes_back(
    redirect: &Redirect,
    pattern: &Pattern,
    route: &Arc<Route>,
    table: &Table<Arc<Route>>,
    external: &Url,
) -> bool {
    let own_host = external.host_str().unwrap_or_default();
    let asked_for = match &pattern.host {
        HostPattern::Any => own_host.to_owned(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard(suffix) => format!("any{suffix}"),
    };
    let host = redirect.host.as_deref().unwrap_or(&asked_for);
    let scheme = redirect.scheme.map_or(external.scheme(), |scheme| scheme.as_str());
    let port = match (redirect.port, redirect.scheme, &redirect.host) {
        (None, None, None) => external.port_or_known_default(),
        (None, ..) => Some(usual_port(scheme)),
        (port, ..) => port,
    };
    let path = match (&redirect.path, &pattern.path) {
        // What rules make of it cannot be seen here.
        _ if route.rewrite != Rewrite::Keep => return false,
        (NewPath::Exactly(path), _) => path,
        (NewPath::Prefix { by, .. }, _) => by,
        (NewPath::Same, PathPattern::Prefix(path) | PathPattern::Exact(path)) => path,
        (NewPath::Same, PathPattern::Regex(_)) => return false,
    };
    let path = if path.is_empty() { "/" } else { path };
    // A route for any host would also serve the hosts of others, if they came here.
    (host == own_host || table.names(host))
        && scheme == external.scheme()
        && port == external.port_or_known_default()
        && table.find(host, path, &Method::GET).is_some_and(|next| Arc::ptr_eq(next, route))
}
