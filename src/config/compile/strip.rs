//! Header names that no app gets from outside, because some gateway or framework takes them for proof.
//!
//! Owns: the built-in list ([`BUILT_IN`]) and how the file adjusts it. What teamgate itself sets
//! (`X-Forwarded-*`, the assertion, mapped headers) is always removed first and is no part of this list.
//! Must not know: requests.

use http::HeaderName;

use super::Findings;
use crate::config::document::StripHeaders;
use crate::config::words::nearest;

/// The built-in list. A name that ends in `*` means all that begin so.
pub const BUILT_IN: &[&str] = &[
    // identities as other gateways and load balancers state them
    "Remote-User",
    "Remote-Name",
    "Remote-Email",
    "Remote-Groups",
    "X-Remote-*",
    "X-Auth-Request-*",
    "X-Auth-User*",
    "X-Auth-Email",
    "X-Auth-Groups",
    "X-Auth-Name",
    "X-User",
    "X-Username",
    "X-User-Id",
    "X-User-Email",
    "X-Email",
    "X-Groups",
    "OIDC-*",
    "X-Token-Subject",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Id-Token",
    "X-Forwarded-Client-Cert",
    "X-Authenticated-*",
    "X-Authentik-*",
    "X-Vouch-*",
    "X-Pomerium-*",
    "X-Goog-*",
    "Cf-Access-*",
    "X-Amzn-Oidc-*",
    "X-Ms-Client-Principal*",
    "X-Ms-Token-*",
    "X-Consumer-*",
    "X-Credential-*",
    "X-Anonymous-Consumer",
    "X-WEBAUTH-*",
    "X-Userinfo",
    "X-Id-Token",
    "X-Access-Token",
    "X-Jwt-Assertion",
    "Tailscale-*",
    // client certificates as proxies that end TLS state them
    "X-Client-Cert*",
    "X-SSL-*",
    "SSL-Client-*",
    // ways to tell an app another path or method than the one that was decided on
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Method",
    "X-Rewrite-URL",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Original-Host",
    "X-Host",
    "X-Forwarded-Server",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-Path",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "Front-End-Https",
    "X-Url-Scheme",
    // CGI makes `HTTP_PROXY` of it, and programs send their own requests there (httpoxy)
    "Proxy",
    // client addresses as others state them
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Cf-Connecting-IP",
    "True-Client-IP",
];

/// Set by teamgate itself, on every request or where the route says so. What a client sends under them never passes.
const OURS: &[&str] = &[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "forwarded",
    "x-request-id",
];

/// Without these a request is no request any more, or means something else.
const NEEDED: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "content-type",
    "content-encoding",
    "cookie",
];

/// The names to remove, lower case, sorted.
pub(super) fn effective(adjust: &StripHeaders, findings: &mut Findings<'_>) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = BUILT_IN.iter().map(|name| name.to_ascii_lowercase().into()).collect();
    for (index, name) in adjust.keep.iter().enumerate() {
        let wanted = name.0.to_ascii_lowercase();
        if names.iter().any(|known| **known == *wanted) {
            names.retain(|known| **known != *wanted);
            continue;
        }
        let message = match nearest(&name.0, BUILT_IN.iter().copied()) {
            _ if OURS.contains(&wanted.as_str()) => {
                format!("`{}` is set by teamgate and cannot be kept as it came; remove it", name.0)
            }
            Some(near) => format!("`{}` is not on the built-in list; did you mean `{near}`?", name.0),
            None => format!("`{}` is not on the built-in list and passes anyway; remove it", name.0),
        };
        findings.problem(format!("strip_headers.keep[{index}]"), message);
    }
    for (index, name) in adjust.add.iter().enumerate() {
        let path = format!("strip_headers.add[{index}]");
        let wanted = name.0.to_ascii_lowercase();
        let stem = wanted.strip_suffix('*').unwrap_or(&wanted);
        let hits =
            |needed: &&str| *needed == wanted || (stem.len() < wanted.len() && needed.starts_with(stem));
        if stem.parse::<HeaderName>().is_err() {
            findings.problem(
                path,
                format!(
                    "`{}` is no header name; write `X-Name`, or `X-Name-*` for all that begin so",
                    name.0
                ),
            );
        } else if let Some(needed) = NEEDED.iter().find(|needed| hits(needed)) {
            findings.problem(
                path,
                format!("`{}` would remove `{needed}`, which requests need; remove it", name.0),
            );
        } else {
            names.push(wanted.into());
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_list_holds_names_and_prefixes_only() {
        for name in BUILT_IN {
            let stem = name.strip_suffix('*').unwrap_or(name);
            assert!(stem.parse::<HeaderName>().is_ok(), "{name}");
            assert!(!NEEDED.iter().any(|needed| needed.starts_with(&stem.to_ascii_lowercase())), "{name}");
        }
    }
}
