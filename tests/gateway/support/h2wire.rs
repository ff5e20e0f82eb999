//! HTTP/2, frame by frame (RFC 9113), so that tests can say what no library would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Checked, PATIENCE};

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113 §6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

/// A field as it stands in a block: any bytes.
pub(crate) type Field<'a> = (&'a [u8], &'a [u8]);

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// This status, with this body to its end.
    Answered(u16, Vec<u8>),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was given up, with this code.
    GoneAway(u32),
    /// The connection was closed without a word.
    Closed,
}

impl Outcome {
    /// The status, or 0.
    pub(crate) fn status(&self) -> u16 {
        if let Outcome::Answered(status, _) = self { *status } else { 0 }
    }
}

/// A connection.
pub(crate) struct H2 {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Whether windows are opened again as far as they were used. Else the reader is as slow as can be.
    pub(crate) reads: bool,
}

/// One frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// One setting.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A block of fields, each written out: "literal, never indexed, new name" (RFC 7541 §6.2.3).
pub(crate) fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A string without Huffman coding (RFC 7541 §5.2).
fn text(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(text.len() as u8);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}

/// The status of an answer: its first field (RFC 9113 §8.3.2), and nothing was put into a table before.
fn status(block: &[u8]) -> Option<u16> {
    // A table of size 0 was asked for; the encoder may confirm it first (RFC 7541 §6.3).
    let confirmed = block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count();
    let block = &block[confirmed..];
    let first = *block.first()?;
    match first {
        0x88..=0x8e => return [200, 204, 206, 304, 400, 404, 500].get(usize::from(first - 0x88)).copied(),
        // A literal with the name of an entry 8 to 14, all of which are `:status`.
        0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e => {}
        _ => return None,
    }
    let (length, coded) = (usize::from(block.get(1)? & 0x7f), block.get(1)? & 0x80 != 0);
    let bytes = block.get(2..2 + length)?;
    let digits = if coded { huffman_digits(bytes) } else { String::from_utf8(bytes.to_vec()).ok()? };
    digits.parse().ok()
}

/// RFC 7541 appendix B, as far as numbers need it.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut digits, mut at) = (String::new(), 0);
    while digits.len() < 3 {
        let code =
            |length: usize| bits.get(at..at + length).and_then(|code| u8::from_str_radix(code, 2).ok());
        match (code(5), code(6)) {
            (Some(short @ 0..=2), _) => {
                digits.push(char::from(b'0' + short));
                at += 5;
            }
            (_, Some(long @ 0b01_1001..=0b01_1111)) => {
                digits.push(char::from(b'3' + long - 0b01_1001));
                at += 6;
            }
            _ => break,
        }
    }
    digits
}

impl H2 {
    /// A connection on which the preface was said and the settings were exchanged.
    pub(crate) async fn connect(address: SocketAddr) -> Checked<H2> {
        let mut h2 = H2::silent(address).await?;
        let settings = setting(1, 0);
        h2.send(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &settings)].concat()).await?;
        Ok(h2)
    }

    /// A connection on which nothing was said.
    pub(crate) async fn silent(address: SocketAddr) -> Checked<H2> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(H2 { stream, buffer: Vec::new(), reads: true })
    }

    /// Sends exactly these bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Checked {
        Ok(timeout(PATIENCE, self.stream.write_all(bytes)).await??)
    }

    /// Sends a head in one frame.
    pub(crate) async fn head(&mut self, stream: u32, fields: &[Field<'_>], flags: u8) -> Checked {
        self.send(&frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block(fields))).await
    }

    /// Asks with GET for `path` on `authority` and gives what comes of it.
    pub(crate) async fn get(&mut self, stream: u32, authority: &str, path: &str) -> Checked<Outcome> {
        let fields = request("GET", authority, path);
        // It may be over already; then that is what comes of it.
        let _ = self.head(stream, &fields, flag::END_STREAM).await;
        self.outcome(stream).await
    }

    /// The next frame; `None` at the end. Settings and pings are answered.
    pub(crate) async fn frame(&mut self) -> Checked<Option<Frame>> {
        loop {
            if let Some(frame) = self.taken() {
                match (frame.kind, frame.flags & flag::ACK) {
                    (kind::SETTINGS, 0) => {
                        // The connection may be over.
                        let _ = self.send(&self::frame(kind::SETTINGS, flag::ACK, 0, &[])).await;
                    }
                    (kind::PING, 0) => {
                        let _ = self.send(&self::frame(kind::PING, flag::ACK, 0, &frame.payload)).await;
                    }
                    (kind::DATA, _) if self.reads && !frame.payload.is_empty() => {
                        let size = (frame.payload.len() as u32).to_be_bytes();
                        let more = [
                            self::frame(kind::WINDOW_UPDATE, 0, 0, &size),
                            self::frame(kind::WINDOW_UPDATE, 0, frame.stream, &size),
                        ];
                        let _ = self.send(&more.concat()).await;
                    }
                    _ => {}
                }
                return Ok(Some(frame));
            }
            // A reset is an end.
            if timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await?.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
    }

    /// The next frame, if it is here within `span`.
    pub(crate) async fn frame_within(&mut self, span: Duration) -> Option<Frame> {
        timeout(span, self.frame()).await.ok()?.ok()?
    }

    fn taken(&mut self) -> Option<Frame> {
        let head = self.buffer.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if self.buffer.len() < 9 + length {
            return None;
        }
        let payload = self.buffer.drain(..9 + length).skip(9).collect();
        Some(Frame { kind, flags, stream, payload })
    }

    /// What becomes of `stream`. Frames of others are passed over.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Checked<Outcome> {
        let (mut answered, mut body) = (0, Vec::new());
        loop {
            let Some(frame) = self.frame().await? else { return Ok(Outcome::Closed) };
            match frame.kind {
                kind::GOAWAY => return Ok(Outcome::GoneAway(code(&frame.payload, 4))),
                kind::RST_STREAM if frame.stream == stream => {
                    return Ok(Outcome::Reset(code(&frame.payload, 0)));
                }
                kind::HEADERS if frame.stream == stream => {
                    if let Some(status) = status(&frame.payload).filter(|_| answered < 200) {
                        answered = status;
                    }
                }
                kind::DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                _ => continue,
            }
            if frame.stream == stream && frame.flags & flag::END_STREAM != 0 {
                return Ok(Outcome::Answered(answered, body));
            }
        }
    }

    /// Waits until the connection is over; the code of its GOAWAY, if it said one.
    pub(crate) async fn end(&mut self) -> Checked<Option<u32>> {
        let mut said = None;
        while let Some(frame) = self.frame().await? {
            if frame.kind == kind::GOAWAY {
                said = Some(code(&frame.payload, 4));
            }
        }
        Ok(said)
    }
}

/// The fields that every request has.
pub(crate) fn request<'a>(method: &'a str, authority: &'a str, path: &'a str) -> Vec<Field<'a>> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", authority.as_bytes()),
        (b":path", path.as_bytes()),
    ]
}

fn code(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).map_or(u32::MAX, |code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]))
}
