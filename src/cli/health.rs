//! `teamgate health`: asks a running gateway whether it is alive, for places that have no curl, such as a
//! container's health check.
//!
//! Owns: one question over HTTP/1.0. Must not know: what makes a gateway healthy; the gateway says so.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;
use url::Url;

use super::Failure;

/// The longest wait for a connection, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// `HTTP/1.1 200 `: nothing after it matters.
const STATUS_LENGTH: u64 = 13;

#[derive(Args)]
pub(super) struct Health {
    /// What to ask: on the admin address, and without TLS
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090/healthz")]
    url: Url,
}

impl Health {
    /// # Errors
    ///
    /// The gateway does not answer, or answers anything but 200.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.url.scheme() != "http" {
            return Err(Failure::Input(format!("--url {}: the admin address speaks plain http", self.url)));
        }
        let sick = |what: &dyn fmt::Display| Failure::Input(format!("{}: {what}", self.url));
        match ask(&self.url).map_err(|error| sick(&error))?.strip_prefix("HTTP/1.") {
            // RFC 9112 section 4: there is a space after the code even when no words follow.
            Some(rest) if rest.get(1..) == Some(" 200 ") => Ok(()),
            Some(rest) => Err(sick(&format_args!("answers{}", rest.get(1..).unwrap_or_default()))),
            None => Err(sick(&"does not speak HTTP")),
        }
    }
}

/// The beginning of the answer.
fn ask(url: &Url) -> io::Result<String> {
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in url.socket_addrs(|| None)? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return converse(stream, url),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn converse(mut stream: TcpStream, url: &Url) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut status = String::new();
    stream.take(STATUS_LENGTH).read_to_string(&mut status)?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// What a server that says `answer` was asked, and what became of the command.
    fn against(answer: &'static str) -> Result<(String, Result<(), String>), Box<dyn std::error::Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url: Url = format!("http://{}/healthz", listener.local_addr()?).parse()?;
        let server = thread::spawn(move || -> io::Result<String> {
            let (mut stream, _) = listener.accept()?;
            let mut asked = String::new();
            while !asked.ends_with("\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                asked.push(char::from(byte[0]));
            }
            stream.write_all(answer.as_bytes())?;
            Ok(asked)
        });
        let outcome = Health { url }.run().map_err(|failure| format!("{failure:?}"));
        Ok((server.join().map_err(|_| "the server panicked")??, outcome))
    }

    #[test]
    fn only_200_is_healthy() -> Outcome {
        let (asked, outcome) = against("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        assert!(asked.starts_with("GET /healthz HTTP/1.0\r\nHost: 127.0.0.1:"), "{asked}");
        assert_eq!(outcome, Ok(()));
        for (answer, said) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503"),
            ("HTTP/1.1 2000\r\n\r\n", "answers 2000"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
            ("HTTP/1.1", "answers"),
            ("", "does not speak HTTP"),
        ] {
            let (_, outcome) = against(answer)?;
            assert!(matches!(&outcome, Err(text) if text.contains(said)), "{answer:?}: {outcome:?}");
        }
        Ok(())
    }

    #[test]
    fn nobody_there_and_https_are_said() -> Outcome {
        // tcpmux, which nobody runs.
        let failure = Health { url: "http://127.0.0.1:1/healthz".parse()? }.run();
        assert!(matches!(failure, Err(Failure::Input(text)) if text.contains("refused")));
        let failure = Health { url: "https://127.0.0.1/healthz".parse()? }.run();
        assert!(matches!(failure, Err(Failure::Input(text)) if text.contains("plain http")));
        Ok(())
    }
}
