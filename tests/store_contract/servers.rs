//! The backend on servers: Redis alone, with TLS and an access list, under Sentinel, as a Cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use teamgate::entropy::Entropy;
use teamgate::secret::Secret;
use teamgate::store::Store;
use teamgate::store::redis::{Settings, Tls, Topology};
use tokio::runtime::Handle;

use super::redis::{self, Cluster, Server, Watched};
use super::{Backend, Outcome, metrics, ring};

/// What the settings of every test have in common.
pub(crate) fn settings(servers: &[&Server], topology: Topology) -> Settings {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let address = |server: &&Server| (server.address().ip().to_string(), server.address().port());
    Settings {
        servers: servers.iter().map(address).collect(),
        topology,
        tls: None,
        username: None,
        password: None,
        database: 0,
        prefix: format!("teamgate:{}", GIVEN.fetch_add(1, Ordering::Relaxed)).into(),
    }
}

/// Opens a store; within a runtime of several threads.
pub(crate) fn opened(settings: &Settings, keys: &[u8]) -> Outcome<Store> {
    teamgate::keys::install_crypto_providers();
    let (ring, metrics) = (ring(keys)?, metrics()?);
    let opening = Store::connect(settings.clone(), ring, Entropy::system(), metrics);
    Ok(tokio::task::block_in_place(|| Handle::current().block_on(opening))?)
}

/// A server for each test.
pub(crate) struct OneRedis {
    server: Server,
    settings: Settings,
}

impl Backend for OneRedis {
    fn new() -> Outcome<OneRedis> {
        let server = Server::plain()?;
        let settings = settings(&[&server], Topology::Single);
        Ok(OneRedis { server, settings })
    }

    fn open_with(&self, keys: &[u8]) -> Outcome<Store> {
        opened(&self.settings, keys)
    }

    fn raw(&self) -> Outcome<Vec<u8>> {
        Ok(self.server.raw()?)
    }
}

/// A part of servers that several tests share, under a prefix of its own.
pub(crate) struct Part<S> {
    servers: Arc<S>,
    raw: fn(&S) -> std::io::Result<Vec<u8>>,
    settings: Settings,
}

impl<S> Backend for Part<S> {
    fn new() -> Outcome<Part<S>> {
        Err("it is a part of something".into())
    }

    fn open_with(&self, keys: &[u8]) -> Outcome<Store> {
        opened(&self.settings, keys)
    }

    fn raw(&self) -> Outcome<Vec<u8>> {
        Ok((self.raw)(&self.servers)?)
    }
}

/// A server that speaks TLS only, to one user only.
pub(crate) fn secured() -> Outcome<impl Fn() -> Outcome<Part<Server>>> {
    let (server, _, ca) = redis::secured().map_err(|error| error.to_string())?;
    let server = Arc::new(server);
    Ok(move || {
        let settings = Settings {
            tls: Some(Tls { ca: Some(vec![ca.clone()]) }),
            username: Some(redis::USER.to_owned()),
            password: Some(Arc::new(Secret::new(redis::PASSWORD.to_owned()))),
            ..settings(&[&server], Topology::Single)
        };
        Ok(Part { servers: server.clone(), raw: Server::raw, settings })
    })
}

/// Whatever `program` is.
pub(crate) fn of(program: &'static str) -> Outcome<impl Fn() -> Outcome<Part<Server>>> {
    let server = Arc::new(Server::of(program)?);
    Ok(move || {
        let settings = settings(&[&server], Topology::Single);
        Ok(Part { servers: server.clone(), raw: Server::raw, settings })
    })
}

/// The settings of somebody who asks the Sentinels.
pub(crate) fn through_sentinels(watched: &Watched) -> Settings {
    let sentinels: Vec<&Server> = watched.sentinels.iter().collect();
    settings(&sentinels, Topology::Sentinel { master: redis::MASTER.into() })
}

/// A master and a replica under three Sentinels.
pub(crate) fn watched() -> Outcome<impl Fn() -> Outcome<Part<Watched>>> {
    let watched = Arc::new(Watched::start()?);
    Ok(move || {
        let settings = through_sentinels(&watched);
        let raw = |watched: &Watched| watched.servers[0].raw();
        Ok(Part { servers: watched.clone(), raw, settings })
    })
}

/// The settings of somebody who knows one node.
pub(crate) fn of_a_cluster(cluster: &Cluster) -> Settings {
    Settings {
        username: Some(redis::USER.to_owned()),
        password: Some(Arc::new(Secret::new(redis::PASSWORD.to_owned()))),
        ..settings(&[&cluster.nodes[1]], Topology::Cluster)
    }
}

/// A Cluster of three.
pub(crate) fn cluster() -> Outcome<impl Fn() -> Outcome<Part<Cluster>>> {
    let cluster = Arc::new(Cluster::start()?);
    Ok(move || {
        let raw = |cluster: &Cluster| {
            let parts: std::io::Result<Vec<_>> = cluster.nodes.iter().map(Server::raw).collect();
            Ok(parts?.concat())
        };
        Ok(Part { servers: cluster.clone(), raw, settings: of_a_cluster(&cluster) })
    })
}
