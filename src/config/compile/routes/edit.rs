//! Headers that a route takes off or puts on.
//!
//! Owns: the rules on `request_headers` and `response_headers`: which names are not theirs to touch.
//! Must not know: when they are applied.

use http::{HeaderName, HeaderValue};

use super::One;
use super::identity::forbidden;
use crate::config::document::{Document, HeaderEdits};
use crate::route::edit::Edits;
use crate::snapshot::fold;

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToTheApp,
    ToTheClient,
}

/// What is done with a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Set,
    Remove,
}

impl One<'_, '_> {
    /// Of requests, and of answers.
    pub(super) fn edits(&mut self) -> (Edits, Edits) {
        let route = self.route;
        let requests = self.edits_of("request_headers", &route.request_headers, Way::ToTheApp);
        let answers = self.edits_of("response_headers", &route.response_headers, Way::ToTheClient);
        (requests, answers)
    }

    fn edits_of(&mut self, key: &str, edits: &HeaderEdits, way: Way) -> Edits {
        let mut set = Vec::new();
        for (name, value) in &edits.set {
            let key = format!("{key}.set.{name}");
            let Ok(header) = name.parse::<HeaderName>() else {
                self.problem(&key, format!("`{name}` is no header name; use letters, digits and `-`"));
                continue;
            };
            if let Some(fault) = self.not_theirs(&header, way, Edit::Set) {
                self.problem(&key, format!("`{name}` {fault}"));
            }
            match plain_value(&value.0) {
                Some(mut value) => {
                    // It may be a credential for the app.
                    value.set_sensitive(way == Way::ToTheApp);
                    set.push((header, value));
                }
                None => self.problem(
                    &key,
                    "a header holds visible ASCII characters and blanks between them, nothing else",
                ),
            }
        }
        for (index, name) in edits.remove.iter().enumerate() {
            let key = format!("{key}.remove[{index}]");
            let twice = edits.set.keys().any(|set| fold(set) == fold(name.0.as_str()));
            if let Some(fault) = self.not_theirs(&name.0, way, Edit::Remove) {
                self.problem(&key, format!("`{}` {fault}", name.0));
            } else if twice {
                self.problem(
                    &key,
                    format!("`{}` is set, which replaces what was there; remove this", name.0),
                );
            }
        }
        let remove = edits.remove.iter().map(|name| name.0.clone()).collect();
        Edits { remove, set: set.into() }
    }

    fn not_theirs(&self, header: &HeaderName, way: Way, edit: Edit) -> Option<&'static str> {
        match way {
            Way::ToTheApp => of_request(header, edit, self.document),
            Way::ToTheClient => of_answer(header, edit),
        }
    }
}

/// A value that nobody can read in two ways: visible ASCII and blanks.
pub(super) fn plain_value(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    plain.then(|| HeaderValue::from_str(text).ok()).flatten()
}

/// Why a header of requests is not a route's to edit. A predicate.
fn of_request(header: &HeaderName, edit: Edit, document: &Document) -> Option<&'static str> {
    const SET_BY_US: [&str; 5] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
    ];
    const PLAIN: [&str; 4] =
        ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username"];
    // As an app sees it: another spelling of our name would be another value of it (threats 2).
    let folded = fold(header.as_str());
    let mapped = document.routes.iter().flat_map(|route| route.headers.keys());
    let says_who = folded.starts_with("x-teamgate-")
        || PLAIN.contains(&folded.as_str())
        || folded == fold(document.assertion.header.0.as_str())
        || mapped.into_iter().any(|name| fold(name) == folded);
    if says_who {
        return Some(match edit {
            Edit::Set => {
                "says who is asking, which only teamgate may; a name of your own is mapped under `headers`"
            }
            Edit::Remove => {
                "says who is asking and is always what teamgate says; `plain_headers: false` leaves the plain ones out"
            }
        });
    }
    if SET_BY_US.contains(&folded.as_str()) {
        return Some("is set by teamgate; choose another name");
    }
    if edit == Edit::Remove && *header == http::header::COOKIE {
        return None;
    }
    forbidden(header)
}

/// Why a header of answers is not a route's to edit. A predicate.
fn of_answer(header: &HeaderName, edit: Edit) -> Option<&'static str> {
    match header.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" | "proxy-authenticate" => {
            Some("belongs to one connection and is never passed on; choose another name")
        }
        "content-length" | "content-encoding" | "content-range" | "date" => {
            Some("is part of the answer itself; choose another name")
        }
        "x-request-id" => Some("is set by teamgate; choose another name"),
        "set-cookie" if edit == Edit::Set => {
            Some("would be everybody's cookie, and in place of the app's; let the app set it")
        }
        _ => None,
    }
}
