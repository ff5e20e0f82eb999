//! Where sessions and tokens are kept.
//!
//! Owns: [`Store`], and which keys of `store:` go together.
//! Must not know: how a store is opened.

use std::path::PathBuf;
use std::sync::Arc;

use url::{Host, Url};

use super::Findings;
use crate::config::document::{self, Document, StoreKind};
use crate::listener::certificates::Named;
use crate::secret::Secret;
use crate::store::redis::{Settings, Tls, Topology};

/// Where sessions and tokens are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// The folder of the embedded store; need not exist yet.
    Embedded(PathBuf),
    /// A shared one.
    Redis(Settings),
}

/// What only `kind: redis` has a use for.
const SHARED: [&str; 9] =
    ["url", "urls", "sentinel", "cluster", "username", "password", "password_file", "ca", "prefix"];

pub(super) fn store(document: &Document, findings: &mut Findings<'_>) -> Option<Store> {
    let store = &document.store;
    match store.kind {
        StoreKind::Embedded => {
            for key in SHARED {
                if findings.places.mentions(&at(key)) {
                    let message = format!("`{key}` is for `kind: redis`; write that, or remove it");
                    findings.problem(at(key), message);
                }
            }
            Some(Store::Embedded(findings.path(&store.path.0)))
        }
        StoreKind::Redis => {
            if findings.places.mentions("store.path") {
                findings.problem("store.path", "`path` is for `kind: embedded`; remove it");
            }
            redis(store, findings).map(Store::Redis)
        }
    }
}

fn at(key: &str) -> String {
    format!("store.{key}")
}

fn redis(store: &document::Store, findings: &mut Findings<'_>) -> Option<Settings> {
    let topology = topology(store, findings);
    let servers = servers(store, &topology, findings);
    let password = password(store, findings);
    let username = store.username.as_ref().map(|name| name.0.to_string());
    let has_password =
        findings.places.mentions("store.password") || findings.places.mentions("store.password_file");
    if username.is_some() && !has_password {
        findings.problem("store.username", "the user has no password; add `password` or `password_file`");
    }
    let prefix = &store.prefix.0;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(plain) {
        findings.problem("store.prefix", "is no prefix; write 1 to 64 letters, digits, `-`, `_`, `.` or `:`");
    }
    let servers = servers?;
    let first = servers.first()?;
    let (scheme, database) = (first.scheme, first.database);
    let ca = match &store.ca {
        Some(_) if scheme == Scheme::Plain => {
            findings.problem(
                "store.ca",
                "there is no TLS to need it; write `rediss://` in the URL, or remove it",
            );
            None
        }
        Some(file) => Some(authorities(&file.0, findings)?),
        None => None,
    };
    if topology == Topology::Cluster && database > 0 {
        let at = findings.given(&["store.url", "store.urls"]);
        findings.problem(at, "a Cluster has no database but 0; remove the path from the URL");
    }
    Some(Settings {
        servers: servers.into_iter().map(|server| (server.host, server.port)).collect(),
        topology,
        tls: (scheme == Scheme::Tls).then_some(Tls { ca }),
        username,
        password,
        database,
        prefix: prefix.clone(),
    })
}

fn topology(store: &document::Store, findings: &mut Findings<'_>) -> Topology {
    match (&store.sentinel, store.cluster) {
        (Some(_), true) => {
            findings.problem("store.sentinel", "a Cluster has no Sentinels; remove `sentinel` or `cluster`");
            Topology::Cluster
        }
        (Some(master), false) => Topology::Sentinel { master: master.0.clone() },
        (None, true) => Topology::Cluster,
        (None, false) => Topology::Single,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
}

struct Server {
    scheme: Scheme,
    host: String,
    port: u16,
    database: u32,
}

fn servers(store: &document::Store, topology: &Topology, findings: &mut Findings<'_>) -> Option<Vec<Server>> {
    let written: Vec<(String, &str)> = match (&store.url, store.urls.as_slice()) {
        (Some(_), [_, ..]) => {
            findings.problem("store.urls", "the servers are given twice; keep this or `url`");
            return None;
        }
        (Some(url), []) => vec![(at("url"), &url.0)],
        (None, urls) => {
            urls.iter().enumerate().map(|(index, url)| (format!("store.urls[{index}]"), &*url.0)).collect()
        }
    };
    if written.is_empty() {
        if findings.sound(&["store.url", "store.urls"]) {
            findings.problem("store", "`kind: redis` needs a server; add `url: rediss://HOST:6379`");
        }
        return None;
    }
    if written.len() > 1 && *topology == Topology::Single {
        findings.problem(
            "store.urls",
            "several servers are Sentinels or nodes of a Cluster; add `sentinel: NAME` or `cluster: true`, or keep one",
        );
    }
    let default_port = if matches!(topology, Topology::Sentinel { .. }) { 26379 } else { 6379 };
    let count = written.len();
    let mut servers = Vec::new();
    for (path, url) in written {
        match server(url, default_port) {
            Ok(server) => servers.push(server),
            Err(fault) => findings.problem(path, fault),
        }
    }
    let alike = |one: &Server, other: &Server| one.scheme == other.scheme && one.database == other.database;
    if servers.windows(2).any(|pair| !alike(&pair[0], &pair[1])) {
        findings.problem("store.urls", "the URLs differ in more than the server; write `redis://` or `rediss://`, and one database, for all");
    }
    (servers.len() == count).then_some(servers)
}

/// Never quotes the URL: there may be a password in it.
fn server(url: &str, default_port: u16) -> Result<Server, &'static str> {
    const FORM: &str = "is no address of a server; write redis://HOST:PORT or rediss://HOST:PORT";
    let url = Url::parse(url).map_err(|_| FORM)?;
    let scheme = match url.scheme() {
        "redis" => Scheme::Plain,
        "rediss" => Scheme::Tls,
        _ => return Err(FORM),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or a password in it; write them as `username` and `password`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has more than a server and a database; write redis://HOST:PORT or redis://HOST:PORT/0");
    }
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err(FORM),
    };
    let database = match url.path().trim_start_matches('/') {
        "" => 0,
        number => {
            number.parse().map_err(|_| "names no database; write its number, as in redis://HOST:PORT/2")?
        }
    };
    Ok(Server { scheme, host, port: url.port().unwrap_or(default_port), database })
}

fn password(store: &document::Store, findings: &mut Findings<'_>) -> Option<Arc<Secret<String>>> {
    match (&store.password, &store.password_file) {
        (Some(_), Some(_)) => {
            findings.problem("store.password_file", "the password is given twice; keep this or `password`");
            None
        }
        (Some(password), None) => Some(Arc::new(Secret::new(password.0.to_string()))),
        (None, Some(file)) => findings.secret("store.password_file", &file.0),
        (None, None) => None,
    }
}

fn authorities(written: &str, findings: &mut Findings<'_>) -> Option<Vec<Vec<u8>>> {
    let file = Named { written: written.into(), path: findings.path(written) };
    match (findings.around.read_vouching)(&file) {
        Ok(certificates) => Some(certificates),
        Err(fault) => {
            findings.problem("store.ca", format!("`{written}` {fault}"));
            None
        }
    }
}
