//! Where admitted requests go.
//!
//! Owns: [`Upstream`], its parsing; how requests reach an app ([`app`]), which of several upstreams is next
//! ([`balance`]), which of them may be asked at all ([`condition`]).
//! Must not know: connections, the path of a request.

pub mod app;
pub mod balance;
pub mod condition;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::host::canonical_host;
use super::refusal::Refusal;

/// One place where an app is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Upstream {
    /// As in the file; for people, logs and metrics.
    pub url_text: Box<str>,
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where it is.
    pub place: Place,
}

/// Where an upstream is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// On the network.
    Network {
        /// Name or address to connect to; an IPv6 address without brackets.
        host: Box<str>,
        /// 1 to 65535. Default: 80, with TLS 443.
        port: u16,
    },
    /// On this machine, behind a Unix socket.
    Socket(PathBuf),
}

/// What is spoken with an upstream, as its URL says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// HTTP/1.1 without TLS.
    Http,
    /// HTTP over TLS; which version is agreed on with the app.
    Https,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    H2c,
    /// HTTP over a Unix socket, without TLS.
    Unix,
}

impl Scheme {
    /// The port that need not be written.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http | Scheme::H2c | Scheme::Unix => 80,
            Scheme::Https => 443,
        }
    }
}

/// As it stands in front of `:`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2c => "h2c",
            Scheme::Unix => "unix",
        })
    }
}

/// Why a text is no upstream; says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUpstream {
    /// No scheme of ours at the start.
    #[error(
        "`{0}` has no scheme that can be forwarded to; write `http://host:port`, `https://host:port`, \
         `h2c://host:port` or `unix:/path/of/socket`"
    )]
    Scheme(String),
    /// A path, a query or a fragment.
    #[error("`{written}` goes on after the host; write `{cure}`: the path of a request is its own")]
    BeyondOrigin {
        /// As in the file.
        written: String,
        /// Without what is too much.
        cure: String,
    },
    /// Name and password in front of the host.
    #[error("the upstream has a user or password in it; leave out everything up to the `@`")]
    UserInfo,
    /// No host, or a port that is none.
    #[error("`{written}` has no usable host and port ({refusal}); write `{scheme}://host:port`")]
    Host {
        /// As in the file.
        written: String,
        /// What it begins with.
        scheme: Scheme,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// `unix:` and nothing.
    #[error("`{0}` names no socket; write `unix:/path/of/socket`")]
    Socket(String),
}

impl Upstream {
    /// `host` or, where the port is not the usual one, `host:port`: what belongs into a `Host` header. Behind a
    /// socket there is no name: `localhost`.
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Socket(_) => "localhost".to_owned(),
            Place::Network { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
                if *port == self.scheme.default_port() { host } else { format!("{host}:{port}") }
            }
        }
    }
}

impl FromStr for Upstream {
    type Err = BadUpstream;

    /// Reads `http://host[:port]`, `https://host[:port]` or `h2c://host[:port]`, with or without a slash at the
    /// end, or `unix:path`.
    fn from_str(text: &str) -> Result<Upstream, BadUpstream> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.ends_with('/') || path.contains('\0') {
                return Err(BadUpstream::Socket(text.to_owned()));
            }
            let place = Place::Socket(PathBuf::from(path));
            return Ok(Upstream { url_text: text.into(), scheme: Scheme::Unix, place });
        }
        let schemes = [Scheme::Http, Scheme::Https, Scheme::H2c];
        let (scheme, rest) = schemes
            .into_iter()
            .find_map(|scheme| Some((scheme, text.strip_prefix(&format!("{scheme}://"))?)))
            .ok_or_else(|| BadUpstream::Scheme(text.to_owned()))?;
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, beyond) = rest.split_at(end);
        if authority.contains('@') {
            return Err(BadUpstream::UserInfo);
        }
        if !matches!(beyond, "" | "/") {
            let cure = format!("{scheme}://{authority}");
            return Err(BadUpstream::BeyondOrigin { written: text.to_owned(), cure });
        }
        let host = canonical_host(authority).map_err(|refusal| BadUpstream::Host {
            written: text.to_owned(),
            scheme,
            refusal,
        })?;
        let place = Place::Network {
            host: host.name.trim_start_matches('[').trim_end_matches(']').into(),
            port: host.port.unwrap_or(scheme.default_port()),
        };
        Ok(Upstream { url_text: text.into(), scheme, place })
    }
}

/// As in the file.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_an_origin() {
        for (text, scheme, host, port, authority) in [
            ("http://10.0.0.5:8080", Scheme::Http, "10.0.0.5", 8080, "10.0.0.5:8080"),
            ("http://app", Scheme::Http, "app", 80, "app"),
            ("https://App.example.com/", Scheme::Https, "app.example.com", 443, "app.example.com"),
            ("https://app:80", Scheme::Https, "app", 80, "app:80"),
            ("h2c://app:50051", Scheme::H2c, "app", 50051, "app:50051"),
            ("http://[::1]:3000", Scheme::Http, "::1", 3000, "[::1]:3000"),
        ] {
            let place = Place::Network { host: host.into(), port };
            let expected = Upstream { url_text: text.into(), scheme, place };
            assert_eq!(expected.authority(), authority);
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_upstream_may_be_a_socket() {
        for (text, path) in [
            ("unix:/run/app.sock", "/run/app.sock"),
            ("unix:///run/app.sock", "/run/app.sock"),
            ("unix:app.sock", "app.sock"),
        ] {
            let place = Place::Socket(path.into());
            let expected = Upstream { url_text: text.into(), scheme: Scheme::Unix, place };
            assert_eq!(expected.authority(), "localhost");
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_the_cure() {
        let schemes =
            "write `http://host:port`, `https://host:port`, `h2c://host:port` or `unix:/path/of/socket`";
        for (text, message) in [
            ("app:8080", format!("`app:8080` has no scheme that can be forwarded to; {schemes}")),
            ("ftp://app", format!("`ftp://app` has no scheme that can be forwarded to; {schemes}")),
            (
                "http://app:1/base",
                "`http://app:1/base` goes on after the host; write `http://app:1`: the path of a request is its own"
                    .to_owned(),
            ),
            (
                "https://app?x=1",
                "`https://app?x=1` goes on after the host; write `https://app`: the path of a request is its own"
                    .to_owned(),
            ),
            (
                "http://user:secret@app",
                "the upstream has a user or password in it; leave out everything up to the `@`".to_owned(),
            ),
            (
                "h2c://app:80a",
                "`h2c://app:80a` has no usable host and port (The port is not a number from 1 to 65535.); write \
                 `h2c://host:port`"
                    .to_owned(),
            ),
            (
                "http://",
                "`http://` has no usable host and port (The request names no host.); write `http://host:port`"
                    .to_owned(),
            ),
            ("unix:", "`unix:` names no socket; write `unix:/path/of/socket`".to_owned()),
            ("unix:/run/", "`unix:/run/` names no socket; write `unix:/path/of/socket`".to_owned()),
        ] {
            let error = text.parse::<Upstream>().err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(&*message), "{text}");
        }
    }
}
