//! Where admitted requests go.
//!
//! Owns: [`Upstream`], [`Scheme`], their parsing.
//! Must not know: connections, TLS settings, the path of a request (it is never changed).

use std::fmt;
use std::str::FromStr;

use super::host::canonical_host;
use super::refusal::Refusal;

/// An app, by the origin it is reached at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Upstream {
    /// As in the file; for people.
    pub url_text: Box<str>,
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// Name or address to connect to; an IPv6 address without brackets.
    pub host: Box<str>,
    /// 1 to 65535. Default: 80, with TLS 443.
    pub port: u16,
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// No TLS.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The port that need not be written.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// `http` or `https`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

/// Why a text is no upstream; says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUpstream {
    /// No `http://` or `https://` at the start.
    #[error("`{0}` has no scheme that can be forwarded to; write `http://host:port` or `https://host:port`")]
    Scheme(String),
    /// A path, a query or a fragment.
    #[error("`{written}` goes on after the host; paths are forwarded unchanged, so write `{cure}`")]
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
    #[error("`{written}` has no usable host and port ({refusal}); write `http://host:port`")]
    Host {
        /// As in the file.
        written: String,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

impl Upstream {
    /// `host` or, where the port is not the usual one, `host:port`: what belongs into a `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Upstream {
    type Err = BadUpstream;

    /// Reads `http://host[:port]` or `https://host[:port]`, with or without a slash at the end.
    fn from_str(text: &str) -> Result<Upstream, BadUpstream> {
        let (scheme, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (Scheme::Http, rest),
            (_, Some(rest)) => (Scheme::Https, rest),
            _ => return Err(BadUpstream::Scheme(text.to_owned())),
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, beyond) = rest.split_at(end);
        if authority.contains('@') {
            return Err(BadUpstream::UserInfo);
        }
        if !matches!(beyond, "" | "/") {
            let cure = format!("{scheme}://{authority}");
            return Err(BadUpstream::BeyondOrigin { written: text.to_owned(), cure });
        }
        let host = canonical_host(authority)
            .map_err(|refusal| BadUpstream::Host { written: text.to_owned(), refusal })?;
        Ok(Upstream {
            url_text: text.into(),
            scheme,
            host: host.name.trim_start_matches('[').trim_end_matches(']').into(),
            port: host.port.unwrap_or(scheme.default_port()),
        })
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
            ("http://[::1]:3000", Scheme::Http, "::1", 3000, "[::1]:3000"),
        ] {
            let expected = Upstream { url_text: text.into(), scheme, host: host.into(), port };
            assert_eq!(expected.authority(), authority);
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_the_cure() {
        for (text, message) in [
            (
                "app:8080",
                "`app:8080` has no scheme that can be forwarded to; write `http://host:port` or `https://host:port`",
            ),
            (
                "ftp://app",
                "`ftp://app` has no scheme that can be forwarded to; write `http://host:port` or `https://host:port`",
            ),
            (
                "http://app:1/base",
                "`http://app:1/base` goes on after the host; paths are forwarded unchanged, so write `http://app:1`",
            ),
            (
                "https://app?x=1",
                "`https://app?x=1` goes on after the host; paths are forwarded unchanged, so write `https://app`",
            ),
            (
                "http://user:secret@app",
                "the upstream has a user or password in it; leave out everything up to the `@`",
            ),
            (
                "http://app:80a",
                "`http://app:80a` has no usable host and port (The port is not a number from 1 to 65535.); write \
                 `http://host:port`",
            ),
            (
                "http://",
                "`http://` has no usable host and port (The request names no host.); write `http://host:port`",
            ),
        ] {
            let error = text.parse::<Upstream>().err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(message), "{text}");
        }
    }
}
