//! The bytes between a client and us.
//!
//! Owns: [`Client`], the stream that Pingora reads and writes; how long and how big a head may be on the wire.
//! Must not know: what the bytes say, but for the first words of HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::farewell::{Frames, Place, last_word};
use super::wire::{Phase, Unread, Wire};
use super::{H2c, Limits};

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Writes are collected up to this many bytes, so that the head of an answer and a short body are one packet.
const WRITE_BUFFER: usize = 4096;

/// What is known when a connection is opened.
pub(super) struct Opening {
    pub(super) client: SocketAddr,
    pub(super) h2c: H2c,
    /// How TLS is spoken, where it is.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) limits: Limits,
}

/// A connection that is ready for its first request.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) wire: Arc<Wire>,
    pub(super) tls: Option<Tls>,
}

/// What TLS, where it is spoken, says of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The host that the client asked for (SNI, RFC 6066 §3), as it wrote it. None: none.
    pub server_name: Option<Box<str>>,
}

/// What the bytes go over.
#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    io: BufWriter<Socket>,
    /// Read before it was known what it is.
    ahead: Bytes,
    wire: Arc<Wire>,
    limits: Limits,
    /// When the head that is being read must be whole. Made when waiting for more of it begins.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the head there are.
    head: usize,
    /// Whether its first line is over: what is too large after that is not the target.
    has_line: bool,
    protocol: Option<ALPN>,
    socket: Arc<SocketDigest>,
    /// Where the frames of a WebSocket stand.
    frames: Option<Frames>,
    goodbye: Goodbye,
    /// When the goodbye must have been said. Made when it begins.
    goodbye_by: Option<Pin<Box<Sleep>>>,
}

/// How far the goodbye to the client of a WebSocket is.
#[derive(Debug)]
enum Goodbye {
    /// Not begun: the app is within a frame.
    Waiting,
    /// So much of the last word has been said.
    Word { frame: Vec<u8>, said: usize },
    /// It is on its way.
    Flushing,
    /// What the client still sends is read and thrown away: a socket that is closed over unread bytes is reset, and
    /// a reset can overtake the last word.
    Lingering,
}

/// How long a goodbye may take. What ends the request by force, should this fail, waits a little longer.
const GOODBYE_WITHIN: Duration = Duration::from_millis(800);

impl Client {
    /// Readies a connection for its first request.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub(super) async fn open(mut stream: TcpStream, opening: Opening) -> io::Result<Opened> {
        let socket = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Nothing can be in there yet.
        let _ = socket.peer_addr.set(Some(PeerAddress::Inet(opening.client)));
        let mut ahead = Bytes::new();
        let (socket_io, protocol, tls) = match opening.tls {
            Some(config) => {
                let stream = TlsAcceptor::from(config).accept(stream).await?;
                let (_, session) = stream.get_ref();
                let protocol = (session.alpn_protocol() == Some(b"h2")).then_some(ALPN::H2);
                let tls = Tls { server_name: session.server_name().map(Box::from) };
                (Socket::Tls(Box::new(stream)), protocol, Some(tls))
            }
            None => {
                if opening.h2c == H2c::Spoken {
                    ahead = until_it_differs(&mut stream, PREFACE).await?;
                }
                let protocol = (ahead == PREFACE).then_some(ALPN::H2);
                (Socket::Plain(stream), protocol, None)
            }
        };
        let wire = Wire::new();
        let client = Client {
            io: BufWriter::with_capacity(WRITE_BUFFER, socket_io),
            ahead,
            wire: wire.clone(),
            limits: opening.limits,
            deadline: None,
            head: 0,
            has_line: false,
            protocol,
            socket: Arc::new(socket),
            frames: None,
            goodbye: Goodbye::Waiting,
            goodbye_by: None,
        };
        Ok(Opened { client, wire, tls })
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.protocol == Some(ALPN::H2)
    }

    /// More of a head has come.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.wire.phase() == Phase::Idle && !bytes.is_empty() {
            self.wire.enter(Phase::Head);
            self.head = 0;
            self.has_line = false;
            self.deadline = None;
        }
        self.head = self.head.saturating_add(bytes.len());
        // In HTTP/2 the beginning of a body can be here before the head was looked at, and the library bounds heads.
        if self.head > self.limits.head_bytes && !self.is_http2() {
            let unread = if self.has_line { Unread::Large } else { Unread::Long };
            self.give_up(unread);
            return Err(io::Error::new(io::ErrorKind::InvalidData, unread.reason()));
        }
        self.has_line = self.has_line || bytes.contains(&b'\n');
        Ok(())
    }

    /// Whether the head that is awaited is late.
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.wire.phase() != Phase::Head {
            return Ok(());
        }
        let within = self.limits.head_within;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(within)));
        match deadline.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                self.give_up(Unread::Late);
                Err(io::Error::new(io::ErrorKind::TimedOut, Unread::Late.reason()))
            }
        }
    }

    /// Says why, where the client can understand it: it speaks HTTP/1.1, it has begun a request, and it waits for
    /// no other answer. The bytes leave when Pingora shuts the connection down.
    fn give_up(&mut self, unread: Unread) {
        if self.protocol != Some(ALPN::H2) && self.head > 0 && self.wire.unread().is_none() {
            self.wire.cannot_read(unread);
            let mut nobody = Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(&mut self.io).poll_write(&mut nobody, unread.answer());
        }
    }

    /// Whether what is written is Pingora's own answer to a head that it could not parse: it comes before anybody has
    /// looked at the request, says who we are, and is in no log.
    fn is_pingoras(&self) -> bool {
        self.protocol != Some(ALPN::H2) && self.wire.phase() == Phase::Head
    }
}

impl Client {
    /// Says goodbye, as far as it can be said now. Ready when there is nothing more to say: the connection has failed
    /// then, for whoever reads or writes.
    fn leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let over = || io::Error::new(io::ErrorKind::ConnectionAborted, "access was lost");
        let _ = self.is_watched();
        let Some(frames) = &self.frames else { return Poll::Ready(over()) };
        let deadline = self.goodbye_by.get_or_insert_with(|| Box::pin(sleep(GOODBYE_WITHIN)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(over());
        }
        let mut io = Pin::new(&mut self.io);
        loop {
            match &mut self.goodbye {
                Goodbye::Waiting => {
                    self.goodbye = match (frames.place(), self.wire.ending()) {
                        (Place::Within, _) => return Poll::Pending,
                        (Place::Between, Some(ending)) => Goodbye::Word { frame: last_word(ending), said: 0 },
                        (Place::Between, None) | (Place::Over, _) => Goodbye::Flushing,
                    };
                }
                Goodbye::Word { frame, said } => {
                    let rest = frame.get(*said..).unwrap_or_default();
                    if rest.is_empty() {
                        self.goodbye = Goodbye::Flushing;
                        continue;
                    }
                    match ready!(io.as_mut().poll_write(cx, rest)) {
                        Ok(count) if count > 0 => *said += count,
                        _ => return Poll::Ready(over()),
                    }
                }
                Goodbye::Flushing => match ready!(io.as_mut().poll_shutdown(cx)) {
                    Ok(()) => self.goodbye = Goodbye::Lingering,
                    Err(_) => return Poll::Ready(over()),
                },
                Goodbye::Lingering => {
                    let mut scrap = [0; 1024];
                    let mut scrap = ReadBuf::new(&mut scrap);
                    match ready!(io.as_mut().poll_read(cx, &mut scrap)) {
                        Ok(()) if !scrap.filled().is_empty() => {}
                        _ => return Poll::Ready(over()),
                    }
                }
            }
        }
    }

    /// Writes on behalf of Pingora, when the request was ended: to the end of the app's frame and no further.
    fn write_the_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.leave(cx) {
            return Poll::Ready(Err(error));
        }
        let rest = match (&self.frames, &self.goodbye) {
            (Some(frames), Goodbye::Waiting) => frames.rest(buf),
            _ => 0,
        };
        match buf.get(..rest) {
            Some(rest) if !rest.is_empty() => self.pass_on(cx, rest),
            _ => Poll::Pending,
        }
    }

    fn pass_on(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        if let Some(frames) = &mut self.frames {
            frames.went(buf.get(..count).unwrap_or_default());
        }
        Poll::Ready(Ok(count))
    }

    /// Whether each byte that is written has to be looked at.
    fn is_watched(&mut self) -> bool {
        if self.frames.is_none() && self.wire.is_tunnel() {
            self.frames = Some(Frames::new());
        }
        self.frames.is_some()
    }
}

/// Reads until it is clear whether the client says `words`: not one byte more, and as many as it takes.
async fn until_it_differs(stream: &mut TcpStream, words: &[u8]) -> io::Result<Bytes> {
    let mut read = BytesMut::with_capacity(words.len());
    while read.len() < words.len() && words.starts_with(&read) {
        let mut rest = (&mut *stream).take((words.len() - read.len()) as u64);
        if rest.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read.freeze())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.wire.wakes(cx.waker());
        if this.wire.is_over() {
            return this.leave(cx).map(Err);
        }
        let before = buf.filled().len();
        if this.ahead.has_remaining() {
            let count = this.ahead.remaining().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(count));
        } else {
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    return match this.check_time(cx) {
                        Ok(()) => Poll::Pending,
                        Err(late) => Poll::Ready(Err(late)),
                    };
                }
            }
        }
        if this.wire.phase() == Phase::Serving {
            this.deadline = None;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.count(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_pingoras() {
            self.give_up(Unread::Garbled);
            return Poll::Ready(Ok(buf.len()));
        }
        let _ = self.is_watched();
        if self.wire.is_over() { self.write_the_rest(cx, buf) } else { self.pass_on(cx, buf) }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_pingoras() || self.is_watched() || self.wire.is_over() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Client {
    async fn shutdown(&mut self) {
        // A client that is gone already needs no goodbye.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Client {
    fn id(&self) -> UniqueIDType {
        match self.io.get_ref() {
            Socket::Plain(stream) => stream.as_raw_fd(),
            Socket::Tls(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }
}

/// Whether it is TLS the proxy learns from [`super::Ends`]; Pingora need not know.
impl Ssl for Client {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.protocol.clone()
    }
}

impl GetTimingDigest for Client {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Client {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Client {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Client {}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::open::{Ending, Line};

    type Outcome = Result<(), Box<dyn Error>>;

    const LIMITS: Limits = Limits {
        ready_within: Duration::from_secs(10),
        head_within: Duration::from_millis(200),
        head_bytes: 64,
        requests: 10,
        streams: 1,
        idle: Duration::from_secs(60),
    };

    /// A visitor, and the connection as we see it once the visitor has said `first`.
    async fn opened(h2c: H2c, first: &[u8]) -> Result<(TcpStream, Client, Arc<Wire>), Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut visitor = TcpStream::connect(listener.local_addr()?).await?;
        let (stream, client) = listener.accept().await?;
        visitor.write_all(first).await?;
        let opened = Client::open(stream, Opening { client, h2c, tls: None, limits: LIMITS }).await?;
        Ok((visitor, opened.client, opened.wire))
    }

    #[tokio::test]
    async fn what_was_read_to_learn_the_protocol_is_read_again() -> Outcome {
        let rows: [(&[u8], Option<ALPN>); 4] = [
            (PREFACE, Some(ALPN::H2)),
            (b"GET / HTTP/1.1\r\n\r\n", None),
            // Shorter than the preface, and different from its fourth byte on only.
            (b"PRIVATE / HTTP/1.1\r\n", None),
            (b"X", None),
        ];
        for (said, protocol) in rows {
            let (_visitor, mut client, wire) = opened(H2c::Spoken, said).await?;
            assert_eq!(client.selected_alpn_proto(), protocol);
            wire.head_is_read();
            let mut read = vec![0; said.len()];
            client.read_exact(&mut read).await?;
            assert_eq!(read, said);
        }
        // Who is not asked for HTTP/2 is not searched for it.
        let (_visitor, client, _) = opened(H2c::Unknown, PREFACE).await?;
        assert_eq!(client.selected_alpn_proto(), None);
        Ok(())
    }

    /// Reads until the connection fails, and gives how it did and what the visitor was told.
    async fn given_up(
        client: &mut Client,
        visitor: &mut TcpStream,
    ) -> Result<(io::ErrorKind, String), Box<dyn Error>> {
        let mut sink = [0; 16];
        let error = loop {
            match client.read(&mut sink).await {
                Ok(0) => return Err("the visitor went away".into()),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        Shutdown::shutdown(client).await;
        let mut told = String::new();
        visitor.read_to_string(&mut told).await?;
        Ok((error.kind(), told))
    }

    #[tokio::test]
    async fn a_head_that_takes_too_long_is_given_up_however_it_trickles() -> Outcome {
        let (mut visitor, mut client, _wire) = opened(H2c::Unknown, b"GET / HT").await?;
        let (mut reading, mut writing) = visitor.split();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if writing.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut sink = [0; 16];
        let failed = async {
            loop {
                if let Err(error) = client.read(&mut sink).await {
                    break error;
                }
            }
        };
        let error = tokio::select! {
            () = trickle => return Err("it does not end".into()),
            error = failed => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        Shutdown::shutdown(&mut client).await;
        let mut told = [0; 12];
        reading.read_exact(&mut told).await?;
        assert_eq!(&told, b"HTTP/1.1 408");
        Ok(())
    }

    #[tokio::test]
    async fn who_says_nothing_at_all_is_told_nothing() -> Outcome {
        let (mut visitor, mut client, _wire) = opened(H2c::Unknown, b"").await?;
        let (kind, told) = given_up(&mut client, &mut visitor).await?;
        assert_eq!((kind, told.as_str()), (io::ErrorKind::TimedOut, ""));
        Ok(())
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_given_up_and_a_body_is_not_counted() -> Outcome {
        let (mut visitor, mut client, wire) = opened(H2c::Unknown, &[b'a'; 60]).await?;
        let mut head = [0; 60];
        client.read_exact(&mut head).await?;
        wire.head_is_read();
        visitor.write_all(&[b'b'; 1_000]).await?;
        let mut body = [0; 1_000];
        client.read_exact(&mut body).await?;
        // The next request on the connection begins to count anew.
        wire.next_request(Line::new());
        visitor.write_all(&[b'c'; 59]).await?;
        visitor.write_all(b"\n").await?;
        client.read_exact(&mut head).await?;
        visitor.write_all(&[b'd'; 5]).await?;
        let (kind, told) = given_up(&mut client, &mut visitor).await?;
        assert_eq!(kind, io::ErrorKind::InvalidData);
        assert!(told.starts_with("HTTP/1.1 431"), "{told}");
        Ok(())
    }

    #[tokio::test]
    async fn what_follows_a_head_of_http2_at_once_is_not_taken_for_it() -> Outcome {
        let (mut visitor, mut client, _wire) = opened(H2c::Spoken, PREFACE).await?;
        visitor.write_all(&[b'f'; 1_000]).await?;
        let mut read = vec![0; PREFACE.len() + 1_000];
        client.read_exact(&mut read).await?;
        assert_eq!(read.get(PREFACE.len()), Some(&b'f'));
        Ok(())
    }

    #[tokio::test]
    async fn a_first_line_that_does_not_end_is_a_target_that_is_too_long() -> Outcome {
        let (mut visitor, mut client, _wire) = opened(H2c::Unknown, &[b'a'; 65]).await?;
        let (_, told) = given_up(&mut client, &mut visitor).await?;
        assert!(told.starts_with("HTTP/1.1 414"), "{told}");
        Ok(())
    }

    #[tokio::test]
    async fn the_time_between_two_requests_is_not_the_heads() -> Outcome {
        let (mut visitor, mut client, wire) = opened(H2c::Unknown, b"first").await?;
        let mut head = [0; 5];
        client.read_exact(&mut head).await?;
        wire.head_is_read();
        wire.next_request(Line::new());
        let mut next = [0; 6];
        let late = async {
            tokio::time::sleep(LIMITS.head_within * 2).await;
            visitor.write_all(b"second").await
        };
        let (read, written) = tokio::join!(client.read_exact(&mut next), late);
        written?;
        read?;
        assert_eq!(&next, b"second");
        Ok(())
    }

    const GRANTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x02hi";

    /// A WebSocket whose app has said one thing.
    async fn tunnel() -> Result<(TcpStream, Client, Arc<Wire>, Arc<Line>), Box<dyn Error>> {
        let (visitor, mut client, wire) = opened(H2c::Unknown, b"").await?;
        let line = Line::new();
        wire.next_request(line.clone());
        wire.head_is_read();
        wire.becomes_tunnel();
        client.write_all(GRANTED).await?;
        client.flush().await?;
        Ok((visitor, client, wire, line))
    }

    fn end(wire: &Wire, line: &Line) {
        line.end(Ending::SignedOut);
        wire.end();
    }

    /// A socket that is closed over what nobody read is reset, which may overtake what was said before.
    #[tokio::test]
    async fn the_last_word_arrives_although_the_client_goes_on_talking() -> Outcome {
        let (mut visitor, mut client, wire, line) = tunnel().await?;
        visitor.write_all(&[b'x'; 50_000]).await?;
        end(&wire, &line);
        let mut nothing = [0; 16];
        let leaving = async {
            let error = client.read(&mut nothing).await.err();
            drop(client);
            error.map(|error| error.kind())
        };
        let listening = async {
            let mut heard = Vec::new();
            visitor.read_to_end(&mut heard).await?;
            drop(visitor);
            io::Result::Ok(heard)
        };
        let (error, heard) = tokio::join!(leaving, listening);
        assert_eq!(error, Some(io::ErrorKind::ConnectionAborted));
        assert_eq!(heard?, [GRANTED, &last_word(Ending::SignedOut)].concat());
        Ok(())
    }

    #[tokio::test]
    async fn a_client_that_does_not_listen_is_waited_for_a_moment_and_no_longer() -> Outcome {
        let (_visitor, mut client, wire, line) = tunnel().await?;
        // More than fits into all buffers on the way, so that what is said is not taken any more.
        let full = Duration::from_millis(200);
        let much = vec![0; 1 << 20];
        while tokio::time::timeout(full, client.write_all(&much)).await.is_ok() {}
        end(&wire, &line);
        let mut nothing = [0; 16];
        let error = tokio::time::timeout(Duration::from_secs(30), client.read(&mut nothing)).await?;
        assert_eq!(error.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionAborted));
        let error = client.write_all(b"more").await;
        assert_eq!(error.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionAborted));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_no_websocket_fails_at_once_and_is_told_nothing() -> Outcome {
        let (mut visitor, mut client, wire) = opened(H2c::Unknown, b"").await?;
        let line = Line::new();
        wire.next_request(line.clone());
        wire.head_is_read();
        let mut nothing = [0; 16];
        let (read, ()) = tokio::join!(client.read(&mut nothing), async { end(&wire, &line) });
        assert_eq!(read.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionAborted));
        let written = client.write(b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(written.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionAborted));
        drop(client);
        assert_eq!(visitor.read(&mut nothing).await?, 0);
        Ok(())
    }
}
