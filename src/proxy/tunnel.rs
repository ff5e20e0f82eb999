//! Connections to apps that may become tunnels.
//!
//! Owns: [`Turns`], what a request that asks for a WebSocket reaches its app over.
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

use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection on which the first look after something was said finds nothing.
#[derive(Debug)]
pub(super) struct Turns<S> {
    stream: S,
    waits: Waits,
}

impl<S> Turns<S> {
    /// Over a connection to an app.
    pub(super) fn over(stream: S) -> Turns<S> {
        Turns { stream, waits: Waits::No }
    }
}

/// Whether the next look finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Yes,
    No,
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Turns<S> {
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

impl<S> VirtualSocket for Turns<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug,
{
    /// Whoever made the connection has set what it needs.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_is_answered_is_found_at_the_second_look() -> Result<(), Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (mut app, _) = listener.accept().await?;
        let mut turns = Turns::over(stream);
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
