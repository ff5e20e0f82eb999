//! What a proxy in front says first about the connection that it passes on: HAProxy's PROXY protocol, versions 1
//! and 2.
//!
//! Owns: [`read`], [`step`], the grammar. Must not know: whose word is taken; that is asked before a byte is read.
//!
//! A header is read to its last byte and not one byte further: what follows is the client's, TLS or HTTP. The parser
//! is a function of what has been read so far, so that every cut of the bytes reads the same. Two crates were
//! looked at: one keeps what follows the header to itself, the other takes `PROXYxUNKNOWN` for a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The two ends of a connection as the proxy saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Who connected to the proxy.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// Why a connection has no header that can be believed. It is closed: what follows has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// It ended, or broke, without a word: somebody looked whether the door opens.
    #[error("the connection ended before its PROXY header")]
    Nothing,
    /// It ended, or broke, within the header.
    #[error("the connection ended within the PROXY header")]
    Ended,
    /// The first bytes are those of something else.
    #[error("the connection does not begin with a PROXY header")]
    Absent,
    /// Version 1: not the line that it must be.
    #[error("the line of the PROXY header cannot be read")]
    Line,
    /// Version 1: more than 107 bytes without an end.
    #[error("the line of the PROXY header does not end")]
    Endless,
    /// Version 2: of another version, or with a command that does not exist.
    #[error("the PROXY header is of an unknown version or has an unknown command")]
    Command,
    /// Version 2: for something other than TCP.
    #[error("the PROXY header is about something other than TCP")]
    Family,
    /// Version 2: too short for its addresses, or longer than [`MOST`].
    #[error("the PROXY header has a length that cannot be")]
    Length,
}

/// The longest line of version 1, its end included.
const LINE: usize = 107;

/// What version 2 begins with; no line of text does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 2 has before its addresses: signature, version and command, family, length.
const FIXED: usize = 16;

/// The most that is read of what version 2 says after its fixed part. Addresses take 36 bytes; the rest are
/// additions, of which a client's certificate is the largest that HAProxy sends.
pub const MOST: usize = 16 * 1024;

/// Where a header stands after some of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many more bytes belong to it at least; at least one.
    More(usize),
    /// It is complete. `None`: it says nothing about who connected, as for the proxy's own health checks.
    Done(Option<Addresses>),
}

/// Reads a header, and nothing that follows it. Takes as long as the other end does: the caller has the clock.
///
/// # Errors
///
/// [`Malformed`]: the connection is to be closed.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Addresses>, Malformed> {
    let mut header = Vec::with_capacity(LINE);
    loop {
        let more = match step(&header)? {
            Step::Done(addresses) => return Ok(addresses),
            Step::More(more) => more,
        };
        let mut rest = (&mut *stream).take(more as u64);
        match rest.read_buf(&mut header).await {
            Ok(0) | Err(_) if header.is_empty() => return Err(Malformed::Nothing),
            Ok(0) | Err(_) => return Err(Malformed::Ended),
            Ok(_) => {}
        }
    }
}

/// Where a header stands after `header`, its first bytes.
///
/// # Errors
///
/// [`Malformed`] as soon as no further bytes could mend it.
pub fn step(header: &[u8]) -> Result<Step, Malformed> {
    let known = header.len().min(SIGNATURE.len());
    if header[..known] == SIGNATURE[..known] && known > 0 {
        return match header.len().checked_sub(FIXED) {
            Some(_) => second(header),
            None => Ok(Step::More(FIXED - header.len())),
        };
    }
    first(header)
}

/// Version 1: `PROXY TCP4 192.0.2.7 198.51.100.1 51234 443` and CR LF.
fn first(line: &[u8]) -> Result<Step, Malformed> {
    const WORD: &[u8] = b"PROXY ";
    const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();

    let known = line.len().min(WORD.len());
    if line[..known] != WORD[..known] {
        return Err(Malformed::Absent);
    }
    if line.is_empty() {
        // Either version; both are longer.
        return Ok(Step::More(SIGNATURE.len()));
    }
    if let Some(at) = line.iter().position(|byte| *byte == b'\r') {
        return match &line[at + 1..] {
            [] if at + 2 <= LINE => Ok(Step::More(1)),
            [] => Err(Malformed::Endless),
            b"\n" => said(&line[WORD.len().min(at)..at]).map(Step::Done),
            _ => Err(Malformed::Line),
        };
    }
    // A lone LF ends no line here, and nothing mends a line that has one. Nor are there other characters.
    if !line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Malformed::Line);
    }
    match line.len() {
        length if length + 2 > LINE => Err(Malformed::Endless),
        length => Ok(Step::More((SHORTEST.saturating_sub(length)).max(2))),
    }
}

/// What a line says between `PROXY ` and its end.
fn said(words: &[u8]) -> Result<Option<Addresses>, Malformed> {
    let words = std::str::from_utf8(words).map_err(|_| Malformed::Line)?;
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        // What follows is to be ignored.
        return Ok(None);
    }
    let mut words = words.split(' ');
    let mut next = || words.next().ok_or(Malformed::Line);
    let addresses = match next()? {
        "TCP4" => ends::<Ipv4Addr>(next()?, next()?, next()?, next()?)?,
        "TCP6" => ends::<Ipv6Addr>(next()?, next()?, next()?, next()?)?,
        _ => return Err(Malformed::Line),
    };
    match words.next() {
        None => Ok(Some(addresses)),
        Some(_) => Err(Malformed::Line),
    }
}

fn ends<A: FromStr + Into<IpAddr>>(from: &str, to: &str, of: &str, at: &str) -> Result<Addresses, Malformed> {
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Malformed::Line);
    Ok(Addresses {
        source: SocketAddr::new(address(from)?, port(of)?),
        destination: SocketAddr::new(address(to)?, port(at)?),
    })
}

/// A decimal number without a sign and without zeros in front.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed::Line)
}

/// Version 2, of which the fixed part is there.
fn second(header: &[u8]) -> Result<Step, Malformed> {
    let [command, family, high, low] = [header[12], header[13], header[14], header[15]];
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Upper four bits: the version. Lower four: LOCAL, the proxy's own connection, or PROXY, somebody's.
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    let needed = match family {
        // A LOCAL header may say what it likes.
        _ if local => 0,
        // Unspecified, and a unix socket of the proxy's: nobody has an address.
        0x00 => 0,
        0x11 => 2 * (4 + 2),
        0x21 => 2 * (16 + 2),
        0x31 => 2 * 108,
        _ => return Err(Malformed::Family),
    };
    if length < needed || length > MOST {
        return Err(Malformed::Length);
    }
    if header.len() < FIXED + length {
        return Ok(Step::More(FIXED + length - header.len()));
    }
    // What stands behind the addresses is passed over, its checksum too: TCP has one, and who could forge the
    // header could forge that.
    let addresses = match (local, family) {
        (false, 0x11) => Some(pair::<4>(&header[FIXED..])?),
        (false, 0x21) => Some(pair::<16>(&header[FIXED..])?),
        _ => None,
    };
    Ok(Step::Done(addresses))
}

/// Two addresses of `N` bytes and two ports.
fn pair<const N: usize>(bytes: &[u8]) -> Result<Addresses, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| bytes.get(at..at + N)?.try_into().ok().map(|b: [u8; N]| IpAddr::from(b));
    let port = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let both = || {
        Some(Addresses {
            source: SocketAddr::new(address(0)?, port(2 * N)?),
            destination: SocketAddr::new(address(N)?, port(2 * N + 2)?),
        })
    };
    both().ok_or(Malformed::Length)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    /// A header of version 2 with `rest` behind its fixed part.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), rest].concat()
    }

    fn v4_pair() -> Vec<u8> {
        vec![192, 0, 2, 7, 198, 51, 100, 1, 0xc8, 0x22, 0x01, 0xbb]
    }

    fn v6_pair() -> Vec<u8> {
        let (source, destination) =
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        [&source.octets()[..], &destination.octets(), &[0xc8, 0x22, 0x01, 0xbb]].concat()
    }

    fn addresses(source: &str, destination: &str) -> Result<Option<Addresses>, std::net::AddrParseError> {
        Ok(Some(Addresses { source: source.parse()?, destination: destination.parse()? }))
    }

    /// A header and what it says.
    type Header = (Vec<u8>, Option<Addresses>);

    /// Every header below is whole.
    fn whole() -> Result<Vec<Header>, Box<dyn Error>> {
        let v4 = addresses("192.0.2.7:51234", "198.51.100.1:443")?;
        let v6 = addresses("[2001:db8::7]:51234", "[2001:db8::1]:443")?;
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LINE - 16));
        let six = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", "ffff:".repeat(7) + "ffff");
        let crc = [&v4_pair()[..], &[0x03, 0x00, 0x04, 1, 2, 3, 4]].concat();
        Ok(vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::7 2001:DB8::1 51234 443\r\n".to_vec(), v6),
            (
                b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n".to_vec(),
                addresses("0.0.0.0:0", "255.255.255.255:65535")?,
            ),
            (
                six.into_bytes(),
                addresses(
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                )?,
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ::1 whatever it says\r\n".to_vec(), None),
            (longest.into_bytes(), None),
            (v2(0x21, 0x11, &v4_pair()), v4),
            (v2(0x21, 0x21, &v6_pair()), v6),
            (v2(0x21, 0x11, &crc), v4),
            (v2(0x21, 0x21, &[v6_pair(), vec![0x20; 2_000]].concat()), v6),
            (v2(0x21, 0x11, &[v4_pair(), vec![0; MOST - 12]].concat()), v4),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &v4_pair()), None),
            (v2(0x20, 0x99, b"anything"), None),
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x00, &[4; 40]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ])
    }

    #[test]
    fn a_header_says_who_connected_to_the_proxy() -> Outcome {
        for (header, expected) in whole()? {
            assert_eq!(step(&header), Ok(Step::Done(expected)), "{}", header.escape_ascii());
        }
        Ok(())
    }

    #[test]
    fn every_beginning_of_a_header_wants_more_but_never_what_follows_it() -> Outcome {
        for (header, _) in whole()? {
            for cut in 0..header.len() {
                match step(&header[..cut]) {
                    Ok(Step::More(more)) => {
                        assert!((1..=header.len() - cut).contains(&more), "{cut}: {}", header.escape_ascii())
                    }
                    other => return Err(format!("{other:?} at {cut} of {}", header.escape_ascii()).into()),
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LINE - 15));
        let endless = "PROXY TCP4 ".to_owned() + &"1".repeat(200);
        let rows: &[(&[u8], Malformed)] = &[
            (b"G", Malformed::Absent),
            (b"GET / HTTP/1.1\r\n", Malformed::Absent),
            (b"\x16\x03\x01\x02\x00", Malformed::Absent),
            (b"proxy ", Malformed::Absent),
            (b" PROXY TCP4", Malformed::Absent),
            (b"PROXYxUNKNOWN\r\n", Malformed::Absent),
            (b"PROXY\tTCP4", Malformed::Absent),
            (b"\r\n\r\n\0\r\nQUIT\r\n", Malformed::Absent),
            (b"\r\nPROXY UNKNOWN\r\n", Malformed::Absent),
            (b"PROXY \r\n", Malformed::Line),
            (b"PROXY  TCP4 192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4  192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 \r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443 1\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 +1234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 01234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.07 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 0x7f.1 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP6 192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP6 fe80::1%eth0 ::1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP5 192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY tcp4 192.0.2.7 198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY UNKNOWNS\r\n", Malformed::Line),
            (b"PROXY UNKNOWN\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\nGET", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7\r198.51.100.1 51234 443\r\n", Malformed::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\r\n", Malformed::Line),
            (b"PROXY UNKNOWN \0\r\n", Malformed::Line),
            (b"PROXY UNKNOWN \xc3\xa9\r\n", Malformed::Line),
            (long.as_bytes(), Malformed::Endless),
            (&long.as_bytes()[..LINE - 1], Malformed::Endless),
            (endless.as_bytes(), Malformed::Endless),
        ];
        for (header, expected) in rows {
            // A line is judged when it is whole; the bytes before may be fine.
            let found = (0..=header.len()).find_map(|cut| step(&header[..cut]).err());
            assert_eq!(found, Some(*expected), "{}", header.escape_ascii());
        }
        for (command, family, rest, expected) in [
            (0x11, 0x11, v4_pair(), Malformed::Command),
            (0x31, 0x11, v4_pair(), Malformed::Command),
            (0x22, 0x11, v4_pair(), Malformed::Command),
            (0x01, 0x11, v4_pair(), Malformed::Command),
            (0x21, 0x12, v4_pair(), Malformed::Family),
            (0x21, 0x22, v6_pair(), Malformed::Family),
            (0x21, 0x32, vec![0; 216], Malformed::Family),
            (0x21, 0x10, v4_pair(), Malformed::Family),
            (0x21, 0x01, v4_pair(), Malformed::Family),
            (0x21, 0x41, v4_pair(), Malformed::Family),
            (0x21, 0x11, vec![0; 11], Malformed::Length),
            (0x21, 0x21, v4_pair(), Malformed::Length),
            (0x21, 0x31, vec![0; 215], Malformed::Length),
            (0x21, 0x11, vec![0; MOST + 1], Malformed::Length),
            (0x20, 0x00, vec![0; MOST + 1], Malformed::Length),
        ] {
            let header = v2(command, family, &rest);
            assert_eq!(step(&header[..FIXED]), Err(expected), "{command:#x} {family:#x} {}", rest.len());
        }
    }

    /// Gives so many bytes at a time and then says that it has ended.
    struct Pieces {
        bytes: Vec<u8>,
        at: usize,
        size: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let size = self.size.min(into.remaining()).min(self.bytes.len() - self.at);
            into.put_slice(&self.bytes[self.at..self.at + size]);
            self.at += size;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_follows_a_header_stays_on_the_stream() -> Outcome {
        for (header, expected) in whole()? {
            for size in [1, 2, 7, 100_000] {
                let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
                let mut stream = Pieces { bytes, at: 0, size };
                assert_eq!(read(&mut stream).await, Ok(expected), "{}", header.escape_ascii());
                assert_eq!(stream.at, header.len(), "{}", header.escape_ascii());
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_its_header_has_none() -> Outcome {
        for (header, _) in whole()? {
            let cut = header.len() - 1;
            let mut stream = Pieces { bytes: header[..cut].to_vec(), at: 0, size: 100 };
            assert_eq!(read(&mut stream).await, Err(Malformed::Ended), "{}", header.escape_ascii());
        }
        let mut stream = Pieces { bytes: Vec::new(), at: 0, size: 100 };
        assert_eq!(read(&mut stream).await, Err(Malformed::Nothing));
        Ok(())
    }

    proptest! {
        /// Whatever comes: an answer, and where it wants more, not more than a header can have.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Step::More(more)) = step(&bytes) {
                prop_assert!((1..=FIXED + MOST).contains(&more));
            }
        }

        #[test]
        fn any_line_is_judged(words in "PROXY [ -~]{0,110}\r?\n?") {
            let _ = step(words.as_bytes());
        }

        #[test]
        fn any_second_version_is_judged(
            command in prop_oneof![Just(0x20_u8), Just(0x21), any::<u8>()],
            family in prop_oneof![Just(0x11_u8), Just(0x21), any::<u8>()],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..316,
        ) {
            let header = v2(command, family, &rest);
            let cut = cut.min(header.len());
            if let (Ok(Step::Done(_)), Ok(early)) = (step(&header), step(&header[..cut])) {
                prop_assert_eq!(matches!(early, Step::More(_)), cut < header.len());
            }
        }

        #[test]
        fn what_a_proxy_writes_is_what_is_read(
            source in any::<(u128, u16)>(),
            destination in any::<(u128, u16)>(),
            follows in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let end = |(ip, port): (u128, u16)| SocketAddr::new(Ipv6Addr::from(ip).into(), port);
            let (source, destination) = (end(source), end(destination));
            let line = format!(
                "PROXY TCP6 {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port()
            );
            prop_assert_eq!(step(line.as_bytes()), Ok(Step::Done(Some(Addresses { source, destination }))));
            for cut in 0..line.len() {
                let seen = match step(&line.as_bytes()[..cut]) {
                    Ok(Step::More(more)) => more <= line.len() - cut,
                    _ => false,
                };
                prop_assert!(seen);
            }
            let IpAddr::V6(ip) = source.ip() else { return Ok(()) };
            let rest = [&ip.octets()[..], &[0; 16], &source.port().to_be_bytes(), &[0; 2], &follows].concat();
            let header = v2(0x21, 0x21, &rest);
            let found = match step(&header) {
                Ok(Step::Done(Some(addresses))) => Some(addresses.source),
                _ => None,
            };
            prop_assert_eq!(found, Some(source));
        }
    }
}
