//! What a route says about its app: where it is, which of its upstreams is next, how patient to be with it.
//!
//! Owns: the rules on `upstream`, `upstreams` and the keys that go with them; patience in general.
//! Must not know: connections.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{Gateway, One};
use crate::config::compile::Findings;
use crate::config::compile::hosts::leads_to;
use crate::config::document::{self, Access, Document, HttpVersion};
use crate::config::value::show_duration;
use crate::listener::certificates::{Identity, Named, Pair, Part, Unsound};
use crate::route::host::canonical_host;
use crate::route::upstream::app::{
    App, Balance, ClientIdentity, Ejection, HealthCheck, HostHeader, Member, Probe, ServerErrors,
    StatusRange, Target, Timeouts, Tls, Version,
};
use crate::route::upstream::{Place, Scheme, Upstream};

/// The most bytes of a path that a Unix socket's address holds (`sockaddr_un`).
const SOCKET_PATH: usize = 107;

/// Every upstream that some route leads to, each with its state once.
#[derive(Default)]
pub(super) struct Targets(Vec<Arc<Target>>);

impl Targets {
    fn one(&mut self, target: Target) -> Arc<Target> {
        match self.0.iter().find(|known| ***known == target) {
            Some(known) => known.clone(),
            None => {
                let new = Arc::new(target);
                self.0.push(new.clone());
                new
            }
        }
    }
}

/// Patience in general.
pub(in crate::config::compile) fn timeouts(document: &Document, findings: &mut Findings<'_>) -> Timeouts {
    let written = &document.upstream_timeouts;
    let paths = ["upstream_timeouts.idle", "upstream_timeouts.header"];
    if let Some(idle) = &written.idle
        && findings.sound(&paths)
        && let Some(fault) = impatient(idle.0, written.header.0)
    {
        findings.problem(paths[0], fault);
    }
    Timeouts {
        connect: written.connect.0,
        header: written.header.0,
        idle: written.idle.as_ref().map_or(DEFAULT_IDLE, |idle| idle.0).max(written.header.0),
        write: written.write.0,
        total: written.total.as_ref().map(|total| total.0),
        keep_alive: written.keep_alive.0,
    }
}

const DEFAULT_IDLE: Duration = Duration::from_secs(60);

/// Whoever waits for a header that long waits as long for what comes after it.
fn impatient(idle: Duration, header: Duration) -> Option<String> {
    (idle < header).then(|| {
        format!(
            "{} of silence within an answer are less than the {} in which it may begin (`header`); make it at least that",
            show_duration(idle),
            show_duration(header)
        )
    })
}

impl One<'_, '_> {
    /// The app of this route.
    pub(super) fn app(
        &mut self,
        gateway: &Gateway<'_>,
        general: &Timeouts,
        targets: &mut Targets,
    ) -> Option<App> {
        let route = self.route;
        let upstreams = self.upstreams(gateway);
        let health_check = self.health_check();
        let host_header = self.host_header();
        let timeouts = self.timeouts(general);
        let balance = self.balance();
        let upstreams = upstreams?;
        let tls = self.tls(&upstreams);
        let version = self.version(&upstreams);
        let ejection = Ejection {
            after: few(route.ejection.after.0),
            span: route.ejection.r#for.0,
            server_errors: match route.ejection.server_errors {
                true => ServerErrors::Count,
                false => ServerErrors::Pass,
            },
        };
        let (health_check, version, tls) = (health_check?, version?, tls?);
        let members = upstreams.into_iter().map(|(upstream, weight)| {
            let target = Target {
                version: version_of(&upstream, version),
                upstream,
                tls: tls.clone(),
                health_check: health_check.clone(),
                ejection: (ejection.after > 0).then_some(ejection),
                max_connections: route.max_connections.map(|most| few(most.0)),
            };
            Member { target: targets.one(target), weight }
        });
        Some(App {
            members: members.collect(),
            balance,
            retries: few(route.retries.0),
            timeouts,
            host_header: host_header?,
        })
    }

    /// Where it is, with weights. `None` is reported.
    fn upstreams(&mut self, gateway: &Gateway<'_>) -> Option<Vec<(Upstream, u16)>> {
        let route = self.route;
        match (self.mentions("upstream"), self.mentions("upstreams")) {
            // `destination` has said so.
            (true, true) | (false, false) => None,
            (true, false) => {
                let upstream = self.reachable("upstream", &route.upstream.as_ref()?.0, gateway)?;
                Some(vec![(upstream, 1)])
            }
            (false, true) => self.several(route.upstreams.as_ref()?, gateway),
        }
    }

    fn several(
        &mut self,
        written: &[document::WeightedUpstream],
        gateway: &Gateway<'_>,
    ) -> Option<Vec<(Upstream, u16)>> {
        if written.is_empty() {
            self.problem("upstreams", "an empty list leads nowhere; name at least one");
            return None;
        }
        let mut found: Vec<(Upstream, u16)> = Vec::new();
        for (index, one) in written.iter().enumerate() {
            let key = format!("upstreams[{index}].url");
            let Some(url) = &one.url else { continue };
            let Some(upstream) = self.reachable(&key, &url.0, gateway) else { continue };
            let twin = |(known, _): &&(Upstream, u16)| {
                known.place == upstream.place && known.scheme == upstream.scheme
            };
            if let Some((known, _)) = found.iter().find(twin) {
                let fault = format!(
                    "`{}` and `{known}` are the same; keep one, with a `weight` if it is to get more",
                    url.0
                );
                self.problem(&key, fault);
                continue;
            }
            found.push((upstream, u16::try_from(one.weight.0).unwrap_or(u16::MAX)));
        }
        if let Some((first, _)) = found.first()
            && let Some((other, _)) = found.iter().find(|(other, _)| other.scheme != first.scheme)
        {
            let fault =
                format!("`{first}` and `{other}` are spoken to differently; give all the same scheme");
            self.problem("upstreams", fault);
            return None;
        }
        (found.len() == written.len()).then_some(found)
    }

    fn reachable(&mut self, key: &str, text: &str, gateway: &Gateway<'_>) -> Option<Upstream> {
        let mut upstream: Upstream = self.parsed(key, text.parse())?;
        match &upstream.place {
            Place::Network { host, port } => {
                let reaches = |listener: &std::net::SocketAddr| leads_to(host, *port, *listener);
                if reaches(&gateway.admin) {
                    self.problem(key, format!(
                        "`{text}` is the admin address, which browsers must not reach; write the app's address"
                    ));
                    return None;
                }
                if gateway.listen.iter().any(reaches) {
                    self.problem(key, format!("`{text}` is teamgate itself; write the app's address"));
                    return None;
                }
            }
            Place::Socket(path) => {
                let path = self.findings.path(&path.to_string_lossy());
                let length = path.as_os_str().len();
                if length > SOCKET_PATH {
                    self.problem(key, format!(
                        "`{}` has {length} bytes, and the path of a socket at most {SOCKET_PATH}; put it higher up",
                        path.display()
                    ));
                    return None;
                }
                upstream.place = Place::Socket(path);
            }
        }
        Some(upstream)
    }

    fn balance(&mut self) -> Balance {
        let route = self.route;
        let word = self.findings.places.has(&self.at("balance"));
        if word && self.mentions("upstream") && route.upstream.as_ref().is_some_and(|url| is_alone(&url.0)) {
            self.problem(
                "balance",
                "one address leaves nothing to choose; remove it, or name several `upstreams`",
            );
        }
        if route.balance == document::Balance::Account && route.access == Some(Access::Public) {
            self.problem("balance", "nobody on a public route has an account; use `client-address`");
        }
        match route.balance {
            document::Balance::RoundRobin => Balance::RoundRobin,
            document::Balance::LeastConnections => Balance::LeastConnections,
            document::Balance::Account => Balance::Account,
            document::Balance::ClientAddress => Balance::ClientAddress,
        }
    }

    /// What is asked, if anything; outside `None` is reported.
    fn health_check(&mut self) -> Option<Option<HealthCheck>> {
        let Some(written) = &self.route.health_check else {
            return (!self.findings.places.is_broken(&self.at("health_check"))).then_some(None);
        };
        let probe = match (&written.path, written.tcp) {
            (Some(_), true) => {
                self.problem(
                    "health_check.tcp",
                    "a check asks for a `path` or opens a connection only; keep one",
                );
                return None;
            }
            (None, false) if self.mentions("health_check.path") => return None,
            (None, false) => {
                self.problem(
                    "health_check",
                    "does not say what to ask; add `path: /healthz`, or `tcp: true`",
                );
                return None;
            }
            (None, true) => {
                for key in ["host", "expect"] {
                    if self.mentions(&format!("health_check.{key}")) {
                        self.problem(
                            &format!("health_check.{key}"),
                            "needs an answer, and `tcp` asks for none; remove it, or ask for a `path`",
                        );
                        return None;
                    }
                }
                Probe::Tcp
            }
            (Some(path), false) => {
                let path = &path.0;
                let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
                if !path.starts_with('/') || !plain {
                    self.problem("health_check.path", format!(
                        "`{}` is no path; write one that begins with a slash and has neither spaces nor `#`, such as /healthz",
                        path.escape_debug()
                    ));
                    return None;
                }
                let host = match &written.host {
                    None => None,
                    Some(host) => Some(self.authority("health_check.host", &host.0)?),
                };
                let expect = match &written.expect {
                    None => vec![StatusRange { first: 200, last: 299 }],
                    Some(list) if list.is_empty() => {
                        self.problem("health_check.expect", "no answer would be good; remove it for 2xx");
                        return None;
                    }
                    Some(list) => list.iter().map(|range| range.0).collect(),
                };
                Probe::Http { path: path.clone(), host, expect }
            }
        };
        Some(Some(HealthCheck {
            probe,
            interval: written.interval.0,
            timeout: written.timeout.0,
            healthy_after: few(written.healthy_after.0),
            unhealthy_after: few(written.unhealthy_after.0),
        }))
    }

    fn host_header(&mut self) -> Option<HostHeader> {
        match &*self.route.host_header.0 {
            "keep" => Some(HostHeader::Visitors),
            "upstream" => Some(HostHeader::Upstreams),
            name => {
                let name = self.authority("host_header", name)?;
                HeaderValue::from_str(&name).ok().map(HostHeader::Fixed)
            }
        }
    }

    /// A host with or without a port, as it may stand in `Host`.
    fn authority(&mut self, key: &str, text: &str) -> Option<Box<str>> {
        match canonical_host(text) {
            Ok(host) => Some(match host.port {
                Some(port) => format!("{}:{port}", host.name).into(),
                None => host.name.into(),
            }),
            Err(refusal) => {
                self.problem(key, format!(
                    "`{}` is no host ({refusal}); write one as in `app.example.com` or `app.example.com:8080`",
                    text.escape_debug()
                ));
                None
            }
        }
    }

    fn timeouts(&mut self, general: &Timeouts) -> Timeouts {
        let written = &self.route.upstream_timeouts;
        let of = |own: &Option<crate::config::value::Span>, general: Duration| {
            own.as_ref().map_or(general, |span| span.0)
        };
        let header = of(&written.header, general.header);
        if let Some(idle) = &written.idle
            && !self.findings.places.is_broken(&self.at("upstream_timeouts"))
            && let Some(fault) = impatient(idle.0, header)
        {
            self.problem("upstream_timeouts.idle", fault);
        }
        Timeouts {
            connect: of(&written.connect, general.connect),
            header,
            idle: of(&written.idle, general.idle).max(header),
            write: of(&written.write, general.write),
            total: written.total.as_ref().map(|total| total.0).or(general.total),
            keep_alive: of(&written.keep_alive, general.keep_alive),
        }
    }

    /// `None` is reported.
    fn version(&mut self, upstreams: &[(Upstream, u16)]) -> Option<HttpVersion> {
        let scheme = upstreams.first()?.0.scheme;
        let fault = match (self.route.http_version, scheme) {
            (HttpVersion::H2, Scheme::Http) => {
                "HTTP/2 without TLS has a scheme of its own; write `h2c://` in front of the host"
            }
            (HttpVersion::H1, Scheme::H2c) => {
                "`h2c` is HTTP/2; write `http://` in front of the host for HTTP/1.1"
            }
            (version, _) => return Some(version),
        };
        self.problem("http_version", fault);
        None
    }

    /// `None` is reported.
    fn tls(&mut self, upstreams: &[(Upstream, u16)]) -> Option<Tls> {
        let written = &self.route.upstream_tls;
        if *written == document::UpstreamTls::default() {
            return Some(Tls::default());
        }
        if upstreams.iter().any(|(upstream, _)| upstream.scheme != Scheme::Https) {
            self.problem(
                "upstream_tls",
                "nothing is said over TLS here; write `https://` in front of the host, or remove it",
            );
            return None;
        }
        let authorities = match &written.ca {
            None => None,
            Some(file) => Some(self.vouching(&file.0)?.into()),
        };
        let identity = match (&written.cert, &written.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Arc::new(self.identity_shown(&cert.0, &key.0)?)),
            (Some(_), None) => {
                self.problem("upstream_tls", "the certificate has no key; add `key: FILE`");
                return None;
            }
            (None, Some(_)) => {
                self.problem("upstream_tls", "the key has no certificate; add `cert: FILE`");
                return None;
            }
        };
        let server_name = written.server_name.as_ref().map(|name| name.0.clone());
        Some(Tls { authorities, server_name, identity })
    }

    fn vouching(&mut self, written: &str) -> Option<Vec<Vec<u8>>> {
        let file = Named { written: written.into(), path: self.findings.path(written) };
        match (self.findings.around.read_vouching)(&file) {
            Ok(certificates) => Some(certificates),
            Err(fault) => {
                self.problem("upstream_tls.ca", format!("`{written}` {fault}"));
                None
            }
        }
    }

    fn identity_shown(&mut self, cert: &str, key: &str) -> Option<ClientIdentity> {
        let named = |written: &str| Named { written: written.into(), path: self.findings.path(written) };
        let pair = Pair { cert: named(cert), key: named(key) };
        match (self.findings.around.read_identity)(&pair, self.findings.around.now) {
            Ok(Identity { chain, key: secret, exposed }) => {
                if let Some(mode) = exposed {
                    let path = self.at("upstream_tls.key");
                    self.findings.warning(path, format!(
                        "everybody on this machine can read `{key}` (mode {mode:03o}); run `chmod o-r {key}`"
                    ));
                }
                Some(ClientIdentity { chain, key: secret })
            }
            Err(Unsound { part, fault }) => {
                let (at, file) = match part {
                    Part::Cert => ("upstream_tls.cert", cert),
                    Part::Key => ("upstream_tls.key", key),
                };
                self.problem(at, format!("`{file}` {fault}"));
                None
            }
        }
    }
}

fn version_of(upstream: &Upstream, wanted: HttpVersion) -> Version {
    match (wanted, upstream.scheme) {
        (HttpVersion::H1, _) => Version::H1,
        (HttpVersion::H2, _) | (HttpVersion::Auto, Scheme::H2c) => Version::H2,
        (HttpVersion::Auto, Scheme::Https) => Version::Negotiated,
        (HttpVersion::Auto, Scheme::Http | Scheme::Unix) => Version::H1,
    }
}

/// Whether a URL is one upstream whatever happens: it names an address or a socket, no name that may have several.
fn is_alone(url: &str) -> bool {
    match url.parse::<Upstream>().map(|upstream| upstream.place) {
        Ok(Place::Network { host, .. }) => host.parse::<std::net::IpAddr>().is_ok(),
        Ok(Place::Socket(_)) => true,
        Err(_) => false,
    }
}

/// The bounds of the document are far below what this type holds.
fn few(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
