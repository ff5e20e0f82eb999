//! One connection, byte for byte; over TLS, if wanted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Checked, PATIENCE, Response, tls};

/// What bytes go over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, and what came over it that nobody has taken yet.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// Sends exactly `bytes` and reads until the other side closes, or says nothing for two seconds.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Checked<Vec<u8>> {
    let mut wire = Wire::connect(address).await?;
    wire.send(bytes).await?;
    while let Ok(Ok(true)) = timeout(Duration::from_secs(2), wire.read()).await {}
    Ok(wire.buffer)
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Checked<Wire> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Wire { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// From another address of this machine.
    pub(crate) async fn connect_from(from: IpAddr, address: SocketAddr) -> Checked<Wire> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = timeout(PATIENCE, socket.connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Wire { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Over TLS, asking for `name`, and taking whatever certificate is shown.
    pub(crate) async fn connect_tls(address: SocketAddr, name: &str) -> Checked<Wire> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let stream = timeout(PATIENCE, tls::connect(stream, name)).await??;
        Ok(Wire { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Sends exactly `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Checked {
        Ok(timeout(PATIENCE, self.stream.write_all(bytes)).await??)
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) -> Checked {
        Ok(self.stream.shutdown().await?)
    }

    /// Reads something; false at the end. A reset is an end.
    async fn read(&mut self) -> Checked<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) > 0)
    }

    /// Waits for `needle` and takes everything up to its end.
    pub(crate) async fn until(&mut self, needle: &[u8]) -> Checked<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.buffer, needle) {
                return Ok(self.buffer.drain(..at + needle.len()).collect());
            }
            self.more(needle).await?;
        }
    }

    /// Waits for `count` bytes and takes them.
    pub(crate) async fn exactly(&mut self, count: usize) -> Checked<Vec<u8>> {
        while self.buffer.len() < count {
            self.more(b"more bytes").await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn more(&mut self, wanted: &[u8]) -> Checked {
        match timeout(PATIENCE, self.read()).await {
            Ok(Ok(true)) => Ok(()),
            other => Err(format!(
                "{} before {:?}; so far {:?}",
                if other.is_err() { "silence" } else { "the end" },
                String::from_utf8_lossy(wanted),
                String::from_utf8_lossy(&self.buffer)
            )
            .into()),
        }
    }

    /// Waits until the other side closes and takes what came before.
    pub(crate) async fn rest(&mut self) -> Checked<Vec<u8>> {
        while timeout(PATIENCE, self.read()).await?? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Takes what has come, or what comes within `span`; `None` at the end.
    ///
    /// # Errors
    ///
    /// When nothing comes.
    pub(crate) async fn some(&mut self, span: Duration) -> Checked<Option<Vec<u8>>> {
        if self.buffer.is_empty() && !timeout(span, self.read()).await?? {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.buffer)))
    }

    /// Whether nothing has come and nobody has closed within `span`. For what must *not* happen.
    pub(crate) async fn is_silent_for(&mut self, span: Duration) -> bool {
        self.buffer.is_empty() && timeout(span, self.read()).await.is_err()
    }

    /// Reads the response to a GET; the connection can be used again.
    pub(crate) async fn response(&mut self) -> Checked<Response> {
        self.response_to("GET").await
    }

    /// Reads the response to a request with `method`; a HEAD has no body. Skips 100 and 103.
    pub(crate) async fn response_to(&mut self, method: &str) -> Checked<Response> {
        let mut response = self.head().await?;
        while matches!(response.status, 100 | 102 | 103) {
            response = self.head().await?;
        }
        let bodiless = method == "HEAD" || matches!(response.status, 101 | 204 | 304);
        let chunked = response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length = response.header("content-length").and_then(|length| length.parse::<usize>().ok());
        response.body = match (bodiless, chunked, length) {
            (true, ..) => Vec::new(),
            (_, true, _) => self.chunked().await?,
            (_, _, Some(length)) => self.exactly(length).await?,
            _ => self.rest().await?,
        };
        Ok(response)
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> Checked<Response> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Response { status: status.ok_or("no status line")?, headers, ..Response::default() })
    }

    async fn chunked(&mut self) -> Checked<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend(chunk);
        }
        Ok(body)
    }

    /// Reads one chunk of a chunked body; `None` at its end, trailers included.
    pub(crate) async fn chunk(&mut self) -> Checked<Option<Vec<u8>>> {
        let line = self.until(b"\r\n").await?;
        let line = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or(""), 16)?;
        if size == 0 {
            while self.until(b"\r\n").await? != b"\r\n" {}
            return Ok(None);
        }
        let mut chunk = self.exactly(size + 2).await?;
        chunk.truncate(size);
        Ok(Some(chunk))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
