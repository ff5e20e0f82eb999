//! Ports for the tests' own servers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that no system gives to whoever asks for any (Linux: from 32768 on), so that nobody comes first.
const PORTS: Range<u32> = 10_000..32_000;

/// An address on loopback that nobody listens on at this moment, and that nobody else is given.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let many = PORTS.end - PORTS.start;
    // Another run beside this one begins elsewhere.
    let first = std::process::id().wrapping_mul(997);
    for _ in 0..many {
        let number = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % many;
        let port = u16::try_from(PORTS.start + number).map_err(io::Error::other)?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return listener.local_addr(),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every port is taken"))
}
