//! What an app is told about the account.
//!
//! Owns: the rules on `headers`, and which header names can carry nothing about an account.
//! Must not know: how a template is rendered.

use http::HeaderName;

use super::One;
use crate::config::document::Groups;
use crate::route::identity_out::{GroupSelection, IdentityOut, PlainHeaders, Template};

impl One<'_, '_> {
    pub(super) fn identity(&mut self) -> IdentityOut {
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
pub(in crate::config::compile) fn forbidden(header: &HeaderName) -> Option<&'static str> {
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
