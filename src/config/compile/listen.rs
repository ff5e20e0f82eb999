//! Listeners: what is spoken on each, and which certificates are shown.
//!
//! Owns: the rules on `listen`. Certificates are read here, so that one that cannot be used is a problem of the
//! configuration, with its place.
//! Must not know: sockets; what is wrong with a certificate (that is `listener/certificates`).

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::hosts::{collide, host, is_loopback, port};
use super::{Document, Findings};
use crate::config::document::{self, TlsVersion};
use crate::config::value::show_duration;
use crate::listener::certificates::{Certificate, ClientCa, Named, Pair, Part, Unsound};
use crate::listener::reload::ends_soon;
use crate::listener::tls::{self, MinVersion};

/// What hstspreload.org asks for.
const PRELOAD_AGE: u64 = 31_536_000;

/// One listener.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// Whether TLS is spoken, and with what.
    pub tls: Option<tls::Settings>,
    /// Whether requests are sent to https and nothing else. Never with `tls`.
    pub redirect_to_https: bool,
    /// What answers say about https. Only with `tls`.
    pub hsts: Option<HeaderValue>,
    /// Whether HTTP/2 is understood without TLS. Never with `tls`.
    pub h2c: bool,
    /// Whether every connection begins with a PROXY header. Only with trusted proxies.
    pub proxy_protocol: bool,
}

/// Compiles every listener that has an address; what is wrong is reported.
pub(super) fn listen(document: &Document, findings: &mut Findings<'_>) -> Vec<Listen> {
    if document.listen.is_empty() && findings.places.has("listen") && findings.sound(&["listen"]) {
        findings.problem("listen", "an empty list listens nowhere; write `- address: 0.0.0.0:8080`");
    }
    let mut found: Vec<Listen> = Vec::new();
    for (index, listen) in document.listen.iter().enumerate() {
        let mut one = One { path: format!("listen[{index}]"), document, listen, findings };
        one.keys_fit();
        let tls = one.tls();
        let hsts = one.hsts();
        let Some(address) = one.address(&found) else { continue };
        found.push(Listen {
            address,
            tls,
            redirect_to_https: listen.redirect_to_https,
            hsts,
            h2c: listen.h2c,
            proxy_protocol: listen.proxy_protocol,
        });
    }
    somebody_speaks_https(document, findings);
    names_are_covered(document, findings, &found);
    found
}

/// One entry on its way.
struct One<'o, 'f> {
    path: String,
    document: &'o Document,
    listen: &'o document::Listen,
    findings: &'o mut Findings<'f>,
}

impl One<'_, '_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn address(&mut self, earlier: &[Listen]) -> Option<SocketAddr> {
        let address = self.listen.address.as_ref()?.0;
        let path = self.at("address");
        port(address, &path, self.findings);
        let other = earlier.iter().map(|other| other.address).find(|other| collide(*other, address));
        let Some(other) = other else { return Some(address) };
        self.findings.problem(
            path,
            match other == address {
                true => format!("`{address}` is listed twice; keep one"),
                false => format!("`{address}` is part of `{other}`, which is listed, too; keep one"),
            },
        );
        None
    }

    /// Whether the entry has TLS, sound or not.
    fn has_tls(&self) -> bool {
        self.findings.places.mentions(&self.at("tls"))
    }

    fn keys_fit(&mut self) {
        let (has_tls, listen) = (self.has_tls(), self.listen);
        let mut problem = |key: &str, message: &str| {
            let path = format!("{}.{key}", self.path);
            self.findings.problem(path, message);
        };
        if listen.redirect_to_https && has_tls {
            problem(
                "redirect_to_https",
                "who comes here has https already; remove it, or put it on a listener without `tls`",
            );
        }
        if listen.h2c && has_tls {
            problem("h2c", "is HTTP/2 without TLS; remove it: with `tls` HTTP/2 is spoken to all who can");
        }
        if listen.hsts.is_some() && !has_tls {
            problem(
                "hsts",
                "is believed over https only; put it on the listener with `tls`, or let the proxy that ends TLS send it",
            );
        }
        if listen.proxy_protocol
            && self.document.trusted_proxies.is_empty()
            && self.findings.sound(&["trusted_proxies"])
        {
            self.findings.problem(
                self.at("proxy_protocol"),
                "believes `trusted_proxies` only, and there are none; list the addresses of the balancer there",
            );
        }
        if listen.redirect_to_https {
            self.redirect_leads_somewhere();
        }
    }

    fn redirect_leads_somewhere(&mut self) {
        let path = self.at("redirect_to_https");
        let Some(url) =
            self.document.external_url.as_ref().filter(|_| self.findings.sound(&["external_url"]))
        else {
            return;
        };
        if url.0.scheme() != "https" {
            self.findings.problem(
                path,
                "needs an external_url with https, where it sends people to; remove it, or change that",
            );
        } else if !ends_tls(self.document, self.findings) && self.document.trusted_proxies.is_empty() {
            self.findings.problem(path, "sends people to https, and nobody speaks it: no listener has `tls`, and no proxy in front is listed under `trusted_proxies`; add one of them");
        }
    }

    fn tls(&mut self) -> Option<tls::Settings> {
        let told = self.listen.tls.as_ref()?;
        let path = self.at("tls.certificates");
        if told.certificates.is_empty() && self.findings.places.has(&path) && self.findings.sound(&[&path]) {
            self.findings.problem(
                &path,
                "an empty list has nothing to show; write `- { cert: tls.crt, key: tls.key }`",
            );
        }
        let mut certificates: Vec<(Pair, Arc<Certificate>)> = Vec::new();
        for (index, files) in told.certificates.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let (Some(cert), Some(key)) = (&files.cert, &files.key) else { continue };
            let pair = Pair { cert: self.named(&cert.0), key: self.named(&key.0) };
            if certificates.iter().any(|(other, _)| *other == pair) {
                self.findings.problem(path, format!("`{}` is listed twice; keep one", cert.0));
            } else if let Some(certificate) = self.certificate(&pair, &path) {
                certificates.push((pair, certificate));
            }
        }
        self.each_can_be_shown(&certificates, &path);
        let client_ca = match &told.client_ca {
            None => None,
            Some(file) => Some(self.client_ca(&file.0)?),
        };
        let min_version = match told.min_version {
            TlsVersion::Tls12 => MinVersion::Tls12,
            TlsVersion::Tls13 => MinVersion::Tls13,
        };
        Some(tls::Settings { certificates, min_version, client_ca })
    }

    fn named(&self, written: &str) -> Named {
        Named { written: written.into(), path: self.findings.path(written) }
    }

    fn certificate(&mut self, pair: &Pair, path: &str) -> Option<Arc<Certificate>> {
        let now = self.findings.around.now;
        let certificate = match (self.findings.around.read_certificate)(pair, now) {
            Ok(certificate) => certificate,
            Err(Unsound { part, fault }) => {
                let (key, file) = match part {
                    Part::Cert => ("cert", &pair.cert),
                    Part::Key => ("key", &pair.key),
                };
                self.findings.problem(format!("{path}.{key}"), format!("`{}` {fault}", file.written));
                return None;
            }
        };
        if let Some(mode) = certificate.exposed {
            let file = &pair.key.written;
            self.findings.warning(
                format!("{path}.key"),
                format!(
                    "everybody on this machine can read `{file}` (mode {mode:03o}); run `chmod o-r {file}`"
                ),
            );
        }
        if ends_soon(certificate.begins_at, certificate.ends_at, now) {
            let (file, ends_at) = (&pair.cert.written, certificate.ends_at);
            self.findings.warning(format!("{path}.cert"), format!("`{file}` expires at {ends_at}; renew it"));
        }
        Some(Arc::new(certificate))
    }

    /// One whose names others have, all of them, with the same kind of key, is never chosen.
    fn each_can_be_shown(&mut self, certificates: &[(Pair, Arc<Certificate>)], path: &str) {
        for (index, (pair, certificate)) in certificates.iter().enumerate() {
            let taken = |name: &str| {
                certificates[..index].iter().any(|(_, earlier)| {
                    earlier.algorithm() == certificate.algorithm()
                        && (earlier.names.exact.iter().any(|other| **other == *name)
                            || earlier.names.below.iter().any(|domain| format!("*.{domain}") == name))
                })
            };
            let exact = certificate.names.exact.iter().map(ToString::to_string);
            let names: Vec<String> =
                exact.chain(certificate.names.below.iter().map(|domain| format!("*.{domain}"))).collect();
            if index > 0 && names.iter().all(|name| taken(name)) {
                let (file, names) = (&pair.cert.written, &certificate.names);
                self.findings.warning(path, format!("`{file}` is never shown: certificates before it have all its names ({names}); remove it"));
            }
        }
    }

    fn client_ca(&mut self, written: &str) -> Option<(Named, ClientCa)> {
        let file = self.named(written);
        match (self.findings.around.read_client_ca)(&file, self.findings.around.now) {
            Ok(ca) => Some((file, ca)),
            Err(fault) => {
                self.findings.problem(self.at("tls.client_ca"), format!("`{written}` {fault}"));
                None
            }
        }
    }

    fn hsts(&mut self) -> Option<HeaderValue> {
        if !self.has_tls() {
            return None;
        }
        // Unasked, never for `localhost`: it would close every other thing that somebody tries out there.
        let visitors = self.document.external_url.as_ref().is_some_and(|url| !is_loopback(&url.0));
        let told = match &self.listen.hsts {
            Some(told) => told.clone(),
            None if visitors => document::Hsts::default(),
            None => return None,
        };
        let age = told.max_age.0.as_secs();
        if told.preload
            && !(told.include_subdomains && age >= PRELOAD_AGE)
            && self.findings.sound(&[&self.at("hsts.max_age"), &self.at("hsts.include_subdomains")])
        {
            self.findings.problem(
                self.at("hsts.preload"),
                format!(
                    "browsers take a domain with `include_subdomains: true` and a max_age of at least 365d (it is {}); set both, or remove it",
                    show_duration(told.max_age.0)
                ),
            );
        }
        let below = if told.include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if told.preload { "; preload" } else { "" };
        HeaderValue::from_str(&format!("max-age={age}{below}{preload}")).ok()
    }
}

/// Whether some listener has `tls`, sound or not.
fn ends_tls(document: &Document, findings: &Findings<'_>) -> bool {
    (0..document.listen.len()).any(|index| findings.places.mentions(&format!("listen[{index}].tls")))
}

/// https has to end somewhere, and whoever ends it should be known.
fn somebody_speaks_https(document: &Document, findings: &mut Findings<'_>) {
    let Some(url) = document.external_url.as_ref().map(|url| &url.0) else { return };
    let no_proxy = document.trusted_proxies.is_empty() && findings.sound(&["trusted_proxies"]);
    match (url.scheme(), ends_tls(document, findings)) {
        ("https", false) if no_proxy => findings.warning(
            "external_url",
            "nothing here ends TLS: no listener has `tls`, and no proxy is listed under `trusted_proxies`, so that one in front would pass for the client, and apps would be told http",
        ),
        ("http", true) => findings.warning(
            "external_url",
            "is http, and a listener has `tls`: links and cookies are made for http; write https",
        ),
        _ => {}
    }
}

/// Whoever visits a host that no certificate is for sees a warning of the browser, and no page.
fn names_are_covered(document: &Document, findings: &mut Findings<'_>, listeners: &[Listen]) {
    let shown: Vec<&Arc<Certificate>> = listeners
        .iter()
        .filter_map(|listen| listen.tls.as_ref())
        .flat_map(|tls| tls.certificates.iter().map(|(_, certificate)| certificate))
        .collect();
    // With a proxy in front, that may be where the others are.
    if shown.is_empty() || !document.trusted_proxies.is_empty() || !findings.problems.is_empty() {
        return;
    }
    let covered = |host: &str| shown.iter().any(|certificate| certificate.names.cover(host));
    let own = document.external_url.as_ref().map(|url| host(&url.0)).filter(|host| !covered(host));
    if let Some(host) = own {
        findings.warning("external_url", format!("no certificate is for `{host}`: browsers will refuse it; have one issued, or add it to `listen`"));
    }
    for (index, route) in document.routes.iter().enumerate() {
        let Some(host) = route.host.as_ref().map(|host| &*host.0) else { continue };
        if !host.contains('*') && !covered(host) && own != Some(host) {
            findings.warning(format!("routes[{index}].host"), format!("no certificate is for `{host}`: browsers will refuse it; have one issued, or add it to `listen`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::Path;
    use std::time::Duration;

    use super::super::{Outcome, Surroundings, compile};
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::problem::Problem;
    use crate::config::read;
    use crate::listener::certificates::Fault;
    use crate::listener::certificates::tests::{NOW, made_with_rsa};

    type Tested<T = ()> = Result<T, Box<dyn Error>>;

    /// What comes of these listeners, with files that are called after the hosts that they are for.
    fn compiled(listen: &str, more: &str) -> Tested<Outcome> {
        let text = format!(
            "listen:\n{listen}\nbitbucket: {{ client_id: a, client_secret: b, teams: [acme] }}\n{more}\n"
        );
        let read_certificate = |pair: &Pair, now: Timestamp| {
            let unsound = |fault| Unsound { part: Part::Cert, fault };
            let names: Vec<&str> = pair.cert.written.split(' ').collect();
            let found = match &*pair.key.written {
                "rsa" => made_with_rsa(&names).and_then(|made| made.read()),
                _ => Certificate::for_tests(&names),
            };
            let mut certificate = found.map_err(|_| unsound(Fault::BadCertificate))?;
            match &*pair.key.written {
                "old" => certificate.ends_at = now.plus(Duration::from_secs(86_400)),
                "exposed" => certificate.exposed = Some(0o644),
                "expired" => return Err(unsound(Fault::Expired(now))),
                _ => {}
            }
            Ok(certificate)
        };
        let around = Surroundings {
            folder: Path::new("/etc/teamgate"),
            is_folder: &|_| true,
            read_file: &|_, _| Ok(Vec::new()),
            now: NOW,
            read_secret: &super::super::secret_text::read,
            read_certificate: &read_certificate,
            read_client_ca: &|_, _| Ok(ClientCa::for_tests()),
            // No app has TLS here.
            read_vouching: &|_| Err(Fault::BadCertificate),
            read_identity: &|_, _| Err(Unsound { part: Part::Cert, fault: Fault::BadCertificate }),
        };
        Ok(compile("f", read(&text, &|_| None).map_err(|problem| problem.to_string())?, &around))
    }

    const GATE: &str = "external_url: https://gate.example.com\n\
                        routes: [{ name: wiki, host: gate.example.com, teams: [acme], upstream: \"http://10.0.0.5:1\" }]";

    fn tls(files: &str) -> String {
        let files = files.split(", ").map(|file| {
            let (cert, key) = file.split_once('|').unwrap_or((file, "key"));
            format!("{{ cert: \"{cert}\", key: {key} }}")
        });
        let files = files.collect::<Vec<_>>().join(", ");
        format!("  - {{ address: 127.0.0.1:8443, tls: {{ certificates: [{files}] }} }}")
    }

    #[test]
    fn what_is_doubtful_about_certificates_is_a_warning_at_its_place() -> Tested {
        for (files, said) in [
            ("gate.example.com", vec![]),
            ("*.example.com", vec![]),
            ("gate.example.com, *.example.com", vec![]),
            ("gate.example.com, gate.example.com|rsa", vec![]),
            (
                "gate.example.com|old",
                vec!["certificates[0].cert: `gate.example.com` expires at 2027-01-16T08:00:00Z; renew it"],
            ),
            (
                "gate.example.com|exposed",
                vec![
                    "certificates[0].key: everybody on this machine can read `exposed` (mode 644); run `chmod o-r exposed`",
                ],
            ),
            (
                "*.example.com gate.example.com, gate.example.com",
                vec![
                    "certificates: `gate.example.com` is never shown: certificates before it have all its names (gate.example.com); remove it",
                ],
            ),
            (
                "other.example.com",
                vec![
                    "external_url: no certificate is for `gate.example.com`: browsers will refuse it; have one issued, or add it to `listen`",
                ],
            ),
        ] {
            let outcome = compiled(&tls(files), GATE)?;
            let compiled = outcome.compiled.ok_or_else(|| format!("{files}: {:?}", outcome.problems))?;
            let warnings: Vec<String> = compiled.warnings.list.iter().map(Problem::to_string).collect();
            assert_eq!(warnings.len(), said.len(), "{files}: {warnings:?}");
            for (warning, part) in warnings.iter().zip(said) {
                assert!(warning.ends_with(part), "{files}: {warning}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_a_problem_at_its_file() -> Tested {
        let outcome = compiled(&tls("gate.example.com, gate.example.com|expired"), GATE)?;
        let problems: Vec<String> = outcome.problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = "listen[0].tls.certificates[1].cert: `gate.example.com` expired at 2027-01-15T08:00:00Z; renew it";
        assert!(problems[0].ends_with(said), "{problems:?}");
        let twice = compiled(&tls("gate.example.com, gate.example.com"), GATE)?.problems;
        assert!(
            twice.iter().any(|problem| problem.message == "`gate.example.com` is listed twice; keep one")
        );
        Ok(())
    }

    #[test]
    fn a_route_whose_host_no_certificate_has_is_warned_about_unless_a_proxy_may_have_it() -> Tested {
        let routes = "external_url: https://gate.example.com\nsession: { cookie_domain: example.com }\nroutes:\n\
            - { name: a, host: wiki.example.com, teams: [acme], upstream: \"http://10.0.0.5:1\" }\n\
            - { name: b, host: '*.apps.example.com', teams: [acme], upstream: \"http://10.0.0.5:1\" }\n";
        let hosts = |more: &str| -> Tested<Vec<String>> {
            let outcome = compiled(&tls("gate.example.com"), &format!("{routes}{more}"))?;
            let list = outcome.compiled.ok_or_else(|| format!("{:?}", outcome.problems))?.warnings.list;
            Ok(list.into_iter().map(|warning| warning.path).collect())
        };
        assert_eq!(hosts("")?, ["routes[0].host"]);
        assert_eq!(hosts("trusted_proxies: [10.0.0.0/8]\n")?, [""; 0]);
        Ok(())
    }

    #[test]
    fn answers_over_tls_speak_of_https_as_they_were_told() -> Tested {
        let elsewhere = "external_url: https://localhost:8443\n\
                         routes: [{ name: wiki, teams: [acme], upstream: \"http://10.0.0.5:1\" }]";
        let with = |hsts: &str| {
            format!(
                "{}, hsts: {hsts} }}",
                tls("gate.example.com localhost").strip_suffix(" }").unwrap_or_default()
            )
        };
        for (listen, more, value) in [
            (tls("gate.example.com"), GATE, Some("max-age=2592000")),
            (with("{ max_age: 0s }"), GATE, Some("max-age=0")),
            (
                with("{ max_age: 1h, include_subdomains: true }"),
                GATE,
                Some("max-age=3600; includeSubDomains"),
            ),
            (
                with("{ max_age: 366d, include_subdomains: true, preload: true }"),
                GATE,
                Some("max-age=31622400; includeSubDomains; preload"),
            ),
            (tls("localhost"), elsewhere, None),
            (with("{ max_age: 1h }"), elsewhere, Some("max-age=3600")),
        ] {
            let outcome = compiled(&listen, more)?;
            let compiled = outcome.compiled.ok_or_else(|| format!("{listen}: {:?}", outcome.problems))?;
            let hsts = compiled.listen[0].hsts.as_ref().and_then(|value| value.to_str().ok());
            assert_eq!(hsts, value, "{listen}");
        }
        Ok(())
    }

    #[test]
    fn http_as_the_own_address_beside_tls_is_doubtful() -> Tested {
        let more = "external_url: http://localhost:8443\n\
                    routes: [{ name: wiki, teams: [acme], upstream: \"http://10.0.0.5:1\" }]";
        let outcome = compiled(&tls("localhost"), more)?;
        let list = outcome.compiled.ok_or("problems")?.warnings.list;
        assert!(list.iter().any(|warning| warning.message.contains("links and cookies are made for http")));
        Ok(())
    }
}
