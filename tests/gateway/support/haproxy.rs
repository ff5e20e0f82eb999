//! The real HAProxy in front. Debian's package `haproxy` is enough.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Checked, PATIENCE, free_address};

/// A running HAProxy that passes TCP connections on. Killed when dropped.
pub(crate) struct Haproxy {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Haproxy {
    /// Starts one that passes everything on to `server`, an address and its options, and waits until it takes
    /// connections.
    pub(crate) async fn start(server: &str) -> Checked<Haproxy> {
        let folder = tempfile::tempdir()?;
        // A free port may be somebody else's a moment later.
        for _ in 0..5 {
            let address = free_address()?;
            let file = folder.path().join("haproxy.cfg");
            fs::write(&file, configuration(address, server))?;
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(&file);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child =
                command.spawn().map_err(|error| format!("haproxy: {error}; install the package haproxy"))?;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while child.try_wait()?.is_none() {
                if TcpStream::connect(address).await.is_ok() {
                    return Ok(Haproxy { address, child, _folder: folder });
                }
                if tokio::time::Instant::now() > deadline {
                    return Err("haproxy takes no connections".into());
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        Err("haproxy does not start; `haproxy -c -f FILE` says why".into())
    }

    /// Where it takes connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(address: SocketAddr, server: &str) -> String {
    format!(
        "global\n  maxconn 100\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 5s\n\
         listen front\n  bind {address}\n  unique-id-format %[uuid()]\n  server gate {server}\n"
    )
}
