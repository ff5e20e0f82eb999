//! Connections to apps: making them, and a hold on each.
//!
//! Owns: [`Reach`], [`Hold`]. Must not know: what is asked over a connection, how long that may take.
//!
//! Pingora reads an answer with one time limit for its header and its body, and lets nobody in between. So each
//! connection is made here and comes with a second handle to its socket: whoever has it can end the connection,
//! wherever Pingora waits.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::ext::{TcpKeepalive, set_tcp_keepalive};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::VirtualSocketStream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, GetProxyDigest};
use pingora::{Error, ErrorType, Result};
use tokio::net::{TcpStream, UnixStream};

use super::tunnel::Turns;

/// How a machine that is gone is noticed, when nothing is said: after a minute and a half.
pub(super) const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::from_secs(0),
};

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Questions and answers, one after the other.
    Requests,
    /// A WebSocket, and nothing after it.
    Tunnel,
}

/// Connects to apps. How long that may take is the peer's business.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) purpose: Purpose,
}

#[async_trait]
impl L4Connect for Reach {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => {
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                let hold = Hold::on(&stream).map_err(refused)?;
                let stream = match self.purpose {
                    Purpose::Requests => stream.into(),
                    Purpose::Tunnel => {
                        // Pingora cannot see the socket any more.
                        stream.set_nodelay(true).map_err(refused)?;
                        set_tcp_keepalive(&stream, &KEEPALIVE)?;
                        turns(stream)
                    }
                };
                Ok(hold.kept_by(stream)?)
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().ok_or_else(|| {
                    Error::explain(ErrorType::ConnectError, "a socket without a path").into_up()
                })?;
                let stream = UnixStream::connect(path).await.map_err(refused)?;
                let hold = Hold::on(&stream).map_err(refused)?;
                let stream = match self.purpose {
                    Purpose::Requests => stream.into(),
                    Purpose::Tunnel => turns(stream),
                };
                Ok(hold.kept_by(stream)?)
            }
        }
    }
}

fn turns<S>(stream: S) -> Stream
where
    Turns<S>: pingora::protocols::l4::virt::VirtualSocket + 'static,
{
    VirtualSocketStream::new(Box::new(Turns::over(stream))).into()
}

fn refused(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        // A socket whose listener is gone or was never there.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ErrorType::ConnectRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "the app takes no connection", error).into_up()
}

/// A second handle to the socket of a connection.
#[derive(Clone, Debug)]
pub(super) struct Hold(Arc<std::net::TcpStream>);

impl Hold {
    fn on(socket: &impl AsFd) -> io::Result<Hold> {
        // To be shut down a Unix socket needs no type of its own.
        Ok(Hold(Arc::new(socket.as_fd().try_clone_to_owned()?.into())))
    }

    /// Puts it where [`Hold::of`] finds it, whatever comes on top of the stream and however often it is used.
    fn kept_by(self, mut stream: Stream) -> Result<Stream> {
        let nobody = Box::new(ResponseHeader::build(200, Some(0))?);
        stream.set_proxy_digest(ProxyDigest::new(nobody, Some(Box::new(self))));
        Ok(stream)
    }

    /// The hold on a connection of ours.
    pub(super) fn of(digest: &Digest) -> Option<Hold> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Hold>().cloned()
    }

    /// Ends the connection: whoever reads from it comes to its end.
    pub(super) fn end(&self) {
        // It may be over already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    async fn ends(reach: Reach, address: &SocketAddr) -> Outcome {
        let mut stream = reach.connect(address).await?;
        let digest = Digest { proxy_digest: stream.get_proxy_digest(), ..Digest::default() };
        let hold = Hold::of(&digest).ok_or("no hold")?;
        hold.end();
        assert_eq!(stream.read(&mut [0; 8]).await?, 0);
        Ok(())
    }

    #[tokio::test]
    async fn whoever_has_a_hold_on_a_connection_can_end_it() -> Outcome {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("app.sock");
        let (_inet, _unix) = (TcpListener::bind("127.0.0.1:0").await?, UnixListener::bind(&path)?);
        let inet = SocketAddr::Inet(_inet.local_addr()?);
        let unix = SocketAddr::Unix(std::os::unix::net::SocketAddr::from_pathname(&path)?);
        for purpose in [Purpose::Requests, Purpose::Tunnel] {
            ends(Reach { purpose }, &inet).await?;
            ends(Reach { purpose }, &unix).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_refuses() -> Outcome {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("app.sock");
        let address = SocketAddr::Unix(std::os::unix::net::SocketAddr::from_pathname(&path)?);
        let reach = Reach { purpose: Purpose::Requests };
        let missing = reach.connect(&address).await.err().ok_or("connected")?;
        assert_eq!(missing.etype(), &ErrorType::ConnectRefused);
        drop(UnixListener::bind(&path)?);
        let dead = reach.connect(&address).await.err().ok_or("connected")?;
        assert_eq!(dead.etype(), &ErrorType::ConnectRefused);
        Ok(())
    }
}
