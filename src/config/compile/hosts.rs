//! Addresses and hosts: where operators reach teamgate, what it is called, which hosts its cookie reaches.
//!
//! Owns: the rules on `admin`, `external_url`, `redirect_uri`, `cookie_domain`;
//! when two addresses are one.
//! Must not know: routes (which hosts they name is asked by `routes`).

use std::net::{IpAddr, SocketAddr};

use url::Url;

use super::{Admin, Cookie, Findings};
use crate::config::document::{Document, SameSite};

/// Paths of the gateway's own that a callback cannot take.
const TAKEN: [&str; 5] =
    ["/.teamgate", "/.teamgate/", "/.teamgate/login", "/.teamgate/logout", "/.teamgate/userinfo"];

/// A port that the system chooses cannot be told to anybody; on loopback that is what tests want.
pub(super) fn port(address: SocketAddr, path: &str, findings: &mut Findings<'_>) {
    if address.port() == 0 && !address.ip().is_loopback() {
        findings.problem(
            path,
            format!("`{address}` lets the system choose a port, which nobody will find; write one"),
        );
    }
}

/// Whether both cannot be bound at once.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || any)
}

/// Whether a connection to `host` and `port` from this machine arrives at `listener`.
pub(super) fn leads_to(host: &str, port: u16, listener: SocketAddr) -> bool {
    let loopback = |ip: IpAddr| ip.is_loopback() && (listener.ip() == ip || listener.ip().is_unspecified());
    let same = match host.parse::<IpAddr>() {
        Ok(ip) => ip == listener.ip() || loopback(ip) || (ip.is_unspecified() && listener.ip().is_loopback()),
        Err(_) => host == "localhost" && (listener.ip().is_loopback() || listener.ip().is_unspecified()),
    };
    port != 0 && port == listener.port() && same
}

pub(super) fn admin(
    document: &Document,
    findings: &mut Findings<'_>,
    listen: &[SocketAddr],
) -> Option<Admin> {
    let (address, path) = (document.admin.address.0, "admin.address");
    port(address, path, findings);
    if let Some(other) = listen.iter().find(|other| collide(**other, address))
        && findings.sound(&[path])
    {
        findings.problem(path, format!("`{address}` collides with `{other}` under `listen`; browsers must not reach it, so choose another port"));
    }
    let token = match &document.admin.token_file {
        Some(file) => Some(findings.token("admin.token_file", &file.0)?),
        None => None,
    };
    if token.is_none() && !address.ip().is_loopback() && !findings.places.mentions("admin.token_file") {
        findings.problem(
            path,
            format!("`{address}` can be reached by others; add `token_file: …`, or listen on 127.0.0.1"),
        );
        return None;
    }
    Some(Admin { address, token })
}

pub(super) fn external_url(document: &Document, findings: &mut Findings<'_>) -> Option<Url> {
    let url = document.external_url.as_ref()?.0.clone();
    if url.scheme() == "http" && !is_loopback(&url) {
        findings.problem("external_url", format!("`{}` is not https; sessions would travel in the open: use https (a proxy in front may end TLS)", shown(&url)));
        return None;
    }
    let open =
        document.listen.iter().filter_map(|listen| listen.address.as_ref()).find(|a| !a.0.ip().is_loopback());
    if let (true, Some(address)) = (url.scheme() == "http", open) {
        findings.warning(
            "external_url",
            format!("http is for this machine only, but `{}` listens to others, too", address.0),
        );
    }
    Some(url)
}

pub(super) fn redirect_uri(
    document: &Document,
    findings: &mut Findings<'_>,
    external: Option<&Url>,
) -> Option<Url> {
    let path = "bitbucket.redirect_uri";
    let Some(given) = &document.bitbucket.redirect_uri else {
        let sound = !findings.places.mentions(path);
        return external.and_then(|url| url.join("/.teamgate/callback").ok()).filter(|_| sound);
    };
    let url = given.0.clone();
    let external = external?;
    if url.scheme() != external.scheme() {
        findings.problem(
            path,
            format!(
                "begins with {}:, but external_url with {}:; let them agree",
                url.scheme(),
                external.scheme()
            ),
        );
    }
    if url.path() == "/" {
        findings.problem(
            path,
            "has no path and would take the front page of its host; add one, like /.teamgate/callback",
        );
    } else if TAKEN.contains(&url.path()) {
        findings
            .problem(path, format!("`{}` is another page of teamgate; use /.teamgate/callback", url.path()));
    }
    let (host, own) = (host(&url), host(external));
    let domain =
        document.session.cookie_domain.as_ref().filter(|_| findings.sound(&["session.cookie_domain"]));
    match domain {
        _ if host == own => {}
        Some(domain) if covers(&domain.0, host) => {}
        Some(domain) => findings.problem(path, format!("`{host}` is neither external_url's host nor below the cookie_domain `{}`; the browser would come back without its cookie", domain.0)),
        None => findings.problem(path, format!("`{host}` is not external_url's host `{own}`; use that, or set session.cookie_domain to a parent of both")),
    }
    Some(url)
}

pub(super) fn cookie(document: &Document, findings: &mut Findings<'_>, external: Option<&Url>) -> Cookie {
    let secure = external.is_none_or(|url| url.scheme() == "https");
    let path = "session.cookie_domain";
    let domain = document.session.cookie_domain.as_ref().map(|domain| domain.0.clone());
    if let Some(domain) = &domain {
        if domain.parse::<IpAddr>().is_ok() {
            findings
                .problem(path, format!("`{domain}` is an address, and cookies have domains only; remove it"));
        } else if !domain.contains('.') {
            findings.problem(
                path,
                format!(
                    "`{domain}` is a whole top-level domain, which browsers refuse; write a domain of yours"
                ),
            );
        } else if let Some(host) = external.map(host).filter(|host| !covers(domain, host)) {
            findings.problem(
                path,
                format!(
                    "`{domain}` does not cover external_url's host `{host}`; write a parent domain of it"
                ),
            );
        }
    }
    if document.session.same_site == SameSite::None && !secure {
        findings.problem("session.same_site", "`none` needs https, and external_url is http; use `lax`");
    }
    Cookie { domain, same_site: document.session.same_site, secure }
}

pub(super) fn networks(document: &Document, findings: &mut Findings<'_>) {
    for (index, net) in document.trusted_proxies.iter().enumerate() {
        if net.0.prefix_len() == 0 {
            let path = format!("trusted_proxies[{index}]");
            findings.problem(
                path,
                format!("`{}` believes everybody's X-Forwarded-* headers; name your proxies", net.0),
            );
        }
    }
}

/// Tokens and the client's secret travel there.
pub(super) fn bitbucket_urls(document: &Document, findings: &mut Findings<'_>) {
    let urls = [
        ("bitbucket.web_url", &document.bitbucket.web_url.0),
        ("bitbucket.api_url", &document.bitbucket.api_url.0),
    ];
    for (path, url) in urls {
        if url.scheme() == "http" && !is_loopback(url) {
            findings.warning(path, format!("`{}` is not https: tokens travel in the open", shown(url)));
        }
    }
}

/// Whether `host` is `domain` or below it.
pub(super) fn covers(domain: &str, host: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// The host of an http URL; those always have one.
pub(super) fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("")
}

fn shown(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_covers_itself_and_what_is_below_it_by_whole_labels() {
        for (domain, host, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "wiki.example.com", true),
            ("example.com", "evilexample.com", false),
            ("example.com", "example.com.evil.test", false),
            ("wiki.example.com", "example.com", false),
        ] {
            assert_eq!(covers(domain, host), expected, "{domain} {host}");
        }
    }

    #[test]
    fn an_upstream_that_is_the_gateway_itself_is_seen() -> Result<(), std::net::AddrParseError> {
        for (host, port, listener, expected) in [
            ("127.0.0.1", 8080, "127.0.0.1:8080", true),
            ("127.0.0.1", 8080, "0.0.0.0:8080", true),
            ("localhost", 8080, "0.0.0.0:8080", true),
            ("localhost", 8080, "127.0.0.1:8080", true),
            ("0.0.0.0", 8080, "127.0.0.1:8080", true),
            ("10.0.0.5", 8080, "0.0.0.0:8080", false),
            ("10.0.0.5", 8080, "10.0.0.5:8080", true),
            ("127.0.0.1", 8081, "127.0.0.1:8080", false),
            ("wiki.example.com", 8080, "127.0.0.1:8080", false),
        ] {
            assert_eq!(leads_to(host, port, listener.parse()?), expected, "{host}:{port} {listener}");
        }
        Ok(())
    }
}
