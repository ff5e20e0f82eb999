//! The record of what was asked of the pretend Bitbucket.
//!
//! Owns: one line per request, and the endpoint names that faults and counts share.
//! Must not know: how a request is answered.

use http::Method;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One request that was served, or deliberately not served.
#[derive(Clone, Debug, Serialize)]
pub struct Logged {
    /// `GET`, `POST` …
    pub method: String,
    /// The path without the query, as it was sent.
    pub path: String,
    /// The query as it was sent, when there was one.
    pub query: Option<String>,
    /// The status that was answered; 0 when the connection was cut instead.
    pub status: u16,
    /// The user (by id, see [`crate::User::id`]) that the request was about, when that became known.
    pub account: Option<String>,
    /// One of [`ENDPOINTS`].
    pub endpoint: &'static str,
    /// When the answer was ready, by the simulator's clock.
    #[serde(serialize_with = "as_text")]
    pub at: OffsetDateTime,
}

/// Every endpoint name. The simulator's own pages and `/_sim/` have none: they are not logged, and no fault
/// touches them.
pub const ENDPOINTS: &[&str] = &[
    "authorize",
    "token.code",
    "token.refresh",
    "user",
    "emails",
    "workspaces",
    "permission",
    "repositories",
    "workspace",
    "other",
];

/// The endpoint name of a request; none for the simulator's own pages. `body` tells the two uses of the token
/// endpoint apart.
pub(crate) fn endpoint(method: &Method, path: &str, body: &[u8]) -> Option<&'static str> {
    if path == "/" || path.starts_with("/_sim/") {
        return None;
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    Some(match segments[..] {
        ["site", "oauth2", "authorize"] => "authorize",
        ["site", "oauth2", "access_token"] if method == Method::POST => {
            let mut fields = url::form_urlencoded::parse(body);
            match fields.find(|(name, _)| name == "grant_type") {
                Some((_, kind)) if kind == "authorization_code" => "token.code",
                Some((_, kind)) if kind == "refresh_token" => "token.refresh",
                _ => "other",
            }
        }
        ["2.0", "user"] => "user",
        ["2.0", "user", "emails", ..] => "emails",
        ["2.0", "user", "workspaces"] => "workspaces",
        ["2.0", "user", "workspaces", _, "permission"] => "permission",
        ["2.0", "user", "workspaces", _, "permissions", "repositories"] => "repositories",
        ["2.0", "workspaces", _] => "workspace",
        _ => "other",
    })
}

fn as_text<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.format(&Rfc3339).unwrap_or_default())
}

/// Put on a response by whoever found out which user it is about, so that the log can tell.
#[derive(Clone)]
pub(crate) struct About(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_the_endpoint_name_that_the_readme_promises() {
        for (method, path, body, expected) in [
            ("GET", "/site/oauth2/authorize", "", Some("authorize")),
            ("POST", "/site/oauth2/authorize", "user=ann", Some("authorize")),
            ("POST", "/site/oauth2/access_token", "code=x&grant_type=authorization_code", Some("token.code")),
            ("POST", "/site/oauth2/access_token", "grant_type=refresh_token", Some("token.refresh")),
            ("POST", "/site/oauth2/access_token", "grant_type=client_credentials", Some("other")),
            ("GET", "/2.0/user", "", Some("user")),
            ("GET", "/2.0/user/emails", "", Some("emails")),
            ("GET", "/2.0/user/emails/ann@example.com", "", Some("emails")),
            ("GET", "/2.0/user/workspaces", "", Some("workspaces")),
            ("GET", "/2.0/user/workspaces/acme/permission", "", Some("permission")),
            ("GET", "/2.0/user/workspaces/acme/permissions/repositories", "", Some("repositories")),
            ("GET", "/2.0/workspaces/acme", "", Some("workspace")),
            ("GET", "/2.0/workspaces", "", Some("other")),
            ("GET", "/user", "", Some("other")),
            ("GET", "/", "", None),
            ("GET", "/_sim/world", "", None),
        ] {
            let method: Method = method.parse().unwrap_or_default();
            let found = endpoint(&method, path, body.as_bytes());
            assert_eq!(found, expected, "{method} {path}");
            assert!(found.is_none_or(|name| ENDPOINTS.contains(&name)));
        }
    }
}
