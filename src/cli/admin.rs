//! Asking a running gateway on its admin address.
//!
//! Owns: where that is, the token, one question over HTTP/1.0, what a refusal is to the command line.
//! Must not know: what is asked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use url::Url;

use super::{ConfigFile, Failure, load_quietly};
use crate::config::compile::{Token, secret_text};
use crate::secret::Secret;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest wait for an answer: ending everybody's sessions takes a while.
const ANSWER: Duration = Duration::from_secs(300);
/// The longest answer that is read, in bytes: pages are bounded.
const LARGEST: usize = 64 * 1024 * 1024;

/// Where the gateway's admin address is.
#[derive(Args)]
pub(super) struct Admin {
    #[command(flatten)]
    file: ConfigFile,
    /// The admin address, as `http://127.0.0.1:9090`; without it the configuration says
    #[arg(long, value_name = "URL")]
    admin: Option<Url>,
    /// The file with the admin address's token, if it has one; with --admin
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

/// A gateway that can be asked.
pub(super) struct Gateway {
    url: Url,
    token: Option<Secret<String>>,
}

impl Admin {
    /// The configuration that is used where the address is not given.
    pub(super) fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Whether the address is given.
    pub(super) fn is_told(&self) -> bool {
        self.admin.is_some()
    }

    /// # Errors
    ///
    /// The configuration or the token cannot be read, or the address is none.
    pub(super) fn gateway(&self) -> Result<Gateway, Failure> {
        if let Some(url) = &self.admin {
            if url.scheme() != "http" || url.host_str().is_none() {
                return Err(Failure::Input(format!("--admin {url}: the admin address speaks plain http")));
            }
            let token = match &self.token_file {
                None => None,
                Some(file) => Some(
                    secret_text::read(file)
                        .map_err(|fault| {
                            Failure::Input(format!("--token-file: `{}` {fault}", file.display()))
                        })?
                        .secret,
                ),
            };
            return Ok(Gateway { url: url.clone(), token });
        }
        let admin = load_quietly(&self.file)?.admin;
        let url = format!("http://{}", reachable(admin.address)).parse();
        let url = url.map_err(|_| Failure::Input(format!("{}: no address", admin.address)))?;
        let token = match admin.token {
            None => None,
            Some(Token::Known(token)) => Some(Secret::new(token.expose().clone())),
            Some(Token::ToBeMade(file)) => {
                let file = file.display();
                return Err(Failure::Input(format!(
                    "`{file}` does not exist; the gateway makes it when it starts"
                )));
            }
        };
        Ok(Gateway { url, token })
    }
}

/// Where a listener for every address is found from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let here = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(here, address.port())
}

impl Gateway {
    /// Asks, and gives the answer's JSON, which has the member `has`.
    ///
    /// # Errors
    ///
    /// 1 what the gateway says is wrong with the question, 3 that it does not answer or cannot do it.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        has: &str,
    ) -> Result<Value, Failure> {
        let mut target = path.to_owned();
        if !query.is_empty() {
            target.push('?');
            target
                .push_str(&url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
        }
        let answer = self.converse(method, &target).map_err(|error| {
            Failure::Running(format!(
                "{}: the gateway does not answer ({error}); is it running, and is this its admin address?",
                self.place()
            ))
        })?;
        let strange = || {
            Failure::Running(format!("{}: what answers there is no gateway of this version", self.place()))
        };
        let (status, body) = parse(&answer).ok_or_else(strange)?;
        match status {
            200..=299 if !body[has].is_null() => Ok(body),
            200..=299 => Err(strange()),
            401 if self.token.is_none() => Err(Failure::Input(format!(
                "{}: it asks for a token; name its file with --token-file",
                self.place()
            ))),
            401 => Err(Failure::Input(format!("{}: the token is not the gateway's", self.place()))),
            _ => {
                let detail = body["detail"].as_str().ok_or_else(strange)?;
                let mut said = plain(detail);
                for candidate in body["candidates"].as_array().into_iter().flatten() {
                    let text = |name: &str| plain(candidate[name].as_str().unwrap_or("–"));
                    said.push_str(&format!(
                        "\n  {}  {} ({})",
                        text("account"),
                        text("name"),
                        text("nickname")
                    ));
                }
                Err(if status < 500 { Failure::Input(said) } else { Failure::Running(said) })
            }
        }
    }

    /// Whether anything listens there.
    pub(super) fn is_there(&self) -> bool {
        let addresses = self.url.socket_addrs(|| None).unwrap_or_default();
        addresses.iter().any(|address| TcpStream::connect_timeout(address, CONNECT).is_ok())
    }

    /// Where it is.
    pub(super) fn place(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn converse(&self, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.url.socket_addrs(|| None)? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return self.exchange(stream, method, target),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// HTTP/1.0: the answer is neither chunked nor followed by another.
    fn exchange(&self, mut stream: TcpStream, method: &str, target: &str) -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(CONNECT))?;
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut head = Secret::new(format!("{method} {target} HTTP/1.0\r\nHost: {host}\r\n"));
        if let Some(token) = &self.token {
            head = Secret::new(format!("{}Authorization: Bearer {}\r\n", head.expose(), token.expose()));
        }
        stream.write_all(format!("{}Connection: close\r\n\r\n", head.expose()).as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 16 * 1024];
        // To the end of the connection, or of what the answer says is its length: not everything that answers on a
        // mistaken address closes.
        while !is_whole(&answer) && answer.len() < LARGEST {
            match stream.read(&mut part)? {
                0 => break,
                read => answer.extend_from_slice(&part[..read]),
            }
        }
        Ok(answer)
    }
}

/// Whether the answer has a length and is that long.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| answer.len() >= (end + 4).saturating_add(length))
}

/// Status and JSON.
fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let status = std::str::from_utf8(answer.strip_prefix(b"HTTP/1.")?.get(2..5)?).ok()?.parse().ok()?;
    Some((status, serde_json::from_slice(answer.get(end + 4..)?).ok()?))
}

/// What others chose for themselves, fit for a terminal: no control characters, which move the cursor and worse,
/// and none that turn the direction of what follows.
pub(super) fn plain(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_json_or_none_at_all() {
        for (answer, expected) in [
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", Some(200)),
            ("HTTP/1.1 409 Conflict\r\n\r\n{}", Some(409)),
            ("HTTP/1.0 200 OK\r\n\r\n<html>", None),
            ("HTTP/1.0 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n{}", None),
            ("", None),
        ] {
            assert_eq!(parse(answer.as_bytes()).map(|(status, _)| status), expected, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_with_a_length_is_read_to_it() {
        for (answer, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false),
            ("HTTP/1.1 200 OK\r\n\r\n{}", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_whole(answer.as_bytes()), whole, "{answer:?}");
        }
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(plain("Ada\u{1b}[2J\r\n\u{202e}x"), "Ada\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}x");
    }

    #[test]
    fn a_listener_for_every_address_is_asked_on_loopback() {
        for (listens, asked) in [
            (([0, 0, 0, 0], 9090), "127.0.0.1:9090"),
            (([10, 0, 0, 1], 9090), "10.0.0.1:9090"),
            (([127, 0, 0, 1], 1), "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(listens.into()).to_string(), asked);
        }
        assert_eq!(reachable(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 9090)).to_string(), "[::1]:9090");
    }
}
