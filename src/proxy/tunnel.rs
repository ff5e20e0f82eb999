//! Connections to apps that may become tunnels.
//!
//! Owns: [`OneTurnLater`], how a request that asks for a WebSocket reaches its app.
//! Must not know: what is asked, what is answered.
//!
//! Pingora 0.9.1 tells the half that talks to the app through a queue that the request has no body, and looks
//! at the queue and at the connection in no order. When the app's 101 is there already, as it is on a busy
//! machine, the end of the request is taken for the end of the tunnel: the browser has its 101, and the
//! connection is closed before a byte went through. So what an app answers is given out one turn later than it
//! could be; by then the queue has been looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Connects to an app whose answer is given out one turn later.
#[derive(Debug)]
pub(super) struct OneTurnLater {
    /// How long the app may take to take the connection.
    pub(super) patience: Duration,
}

#[async_trait]
impl L4Connect for OneTurnLater {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Err(Error::explain(ErrorType::ConnectError, "not an address of the network").into_up());
        };
        match tokio::time::timeout(self.patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                Ok(VirtualSocketStream::new(Box::new(Turns { stream, waits: Waits::No })).into())
            }
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                        ErrorType::ConnectNoRoute
                    }
                    _ => ErrorType::ConnectError,
                };
                Err(Error::because(kind, "the app takes no connection", error).into_up())
            }
            Err(_) => Err(Error::explain(ErrorType::ConnectTimedout, "the app took no connection").into_up()),
        }
    }
}

/// A connection on which the first look after something was said finds nothing.
#[derive(Debug)]
struct Turns {
    stream: TcpStream,
    waits: Waits,
}

/// Whether the next look finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Yes,
    No,
}

impl AsyncRead for Turns {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waits == Waits::Yes {
            self.waits = Waits::No;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Turns {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = Waits::Yes;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.waits = Waits::Yes;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Turns {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            // Keep-alive probes: what Pingora is not told to do it does not ask for.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_answered_is_found_at_the_second_look() -> Result<(), Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (mut app, _) = listener.accept().await?;
        let mut turns = Turns { stream, waits: Waits::No };
        app.write_all(b"eager").await?;
        turns.stream.readable().await?;
        turns.write_all(b"asked").await?;
        let mut answer = [0; 5];
        assert!(turns.read(&mut answer).now_or_never().is_none());
        // It is woken at once: this does not wait for the app to say more.
        turns.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"eager");
        Ok(())
    }
}
