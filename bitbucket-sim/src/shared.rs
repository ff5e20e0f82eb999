//! What every request may use.
//!
//! Owns: the lock around the world, the address that is listened on.
//! Must not know: what anybody does with the world.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, header};

use crate::world::World;

/// The world, from any task. Hold the guard for the length of one answer, never across an await.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Mutex<World>,
    address: SocketAddr,
}

impl Shared {
    pub(crate) fn new(world: World, address: SocketAddr) -> Shared {
        Shared(Arc::new(Inner { world: Mutex::new(world), address }))
    }

    /// A panic elsewhere does not make the world unusable for the assertions that follow it.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// How the caller calls this server: links lead back to where they came from.
    pub(crate) fn url_for(&self, headers: &HeaderMap) -> String {
        match headers.get(header::HOST).and_then(|host| host.to_str().ok()) {
            Some(host) => format!("http://{host}"),
            None => format!("http://{}", self.0.address),
        }
    }
}
