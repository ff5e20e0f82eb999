//! The host a request asks for, in one spelling.
//!
//! Owns: [`Host`], [`canonical_host`].
//! Must not know: which hosts are served.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::refusal::Refusal;

/// A host and, where one was written, its port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host<'a> {
    /// Lower case, without a dot at the end; an IPv6 address in brackets and in its shortest form.
    pub name: Cow<'a, str>,
    /// 1 to 65535; `None` when not written.
    pub port: Option<u16>,
}

/// Reads `host[:port]` as it stands in a `Host` header, in `:authority` or in an absolute target.
///
/// Host names are compared without regard to case and to the dot at the end (RFC 9110 §4.2.3, RFC 1034 §3.1);
/// a rule that missed `Admin.example.com` or `admin.example.com.` would be no rule.
///
/// # Errors
///
/// [`Refusal::NoHost`], [`Refusal::BadHost`], [`Refusal::BadPort`].
pub fn canonical_host(authority: &str) -> Result<Host<'_>, Refusal> {
    if authority.is_empty() {
        return Err(Refusal::NoHost);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(Refusal::BadHost)?;
        // One address has many spellings; the parser knows no zone (`%eth0`), which means nothing here.
        let address: Ipv6Addr = address.parse().map_err(|_| Refusal::BadHost)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if after.is_empty() => None,
            None => return Err(Refusal::BadHost),
        };
        return Ok(Host { name: Cow::Owned(format!("[{address}]")), port });
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let name = canonical_name(name)?;
    Ok(Host { name, port: port.map(parse_port).transpose()? })
}

/// Digits only: `str::parse` would take `+80` as well.
fn parse_port(text: &str) -> Result<u16, Refusal> {
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| digits).ok_or(Refusal::BadPort)
}

fn canonical_name(written: &str) -> Result<Cow<'_, str>, Refusal> {
    let name = written.strip_suffix('.').unwrap_or(written);
    if name.is_empty() {
        return Err(if written.is_empty() { Refusal::NoHost } else { Refusal::BadHost });
    }
    // `_` is no host name to RFC 952, but names in Docker and in DNS-SD have it.
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let labels_fit = || name.split('.').all(|label| (1..=63).contains(&label.len()));
    if name.len() > 253 || !name.bytes().all(known) || !labels_fit() {
        return Err(Refusal::BadHost);
    }
    // What ends in a number is an address to browsers, also as `127.1` or `0x7f.0.0.1` (WHATWG URL, "ends in
    // a number"). Only the one plain spelling is taken.
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric =
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(Refusal::BadHost);
    }
    Ok(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (written, name, port) in [
            ("wiki.example.com", "wiki.example.com", None),
            ("Wiki.Example.COM", "wiki.example.com", None),
            ("wiki.example.com.", "wiki.example.com", None),
            ("WIKI.example.com.:8443", "wiki.example.com", Some(8443)),
            ("my_app", "my_app", None),
            ("localhost:1", "localhost", Some(1)),
            ("10.0.0.5:65535", "10.0.0.5", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]", Some(80)),
            ("[2001:DB8::A]", "[2001:db8::a]", None),
        ] {
            assert_eq!(canonical_host(written), Ok(Host { name: name.into(), port }), "{written}");
        }
        assert!(matches!(
            canonical_host("a.example:1").map(|host| host.name),
            Ok(Cow::Borrowed("a.example"))
        ));
    }

    #[test]
    fn what_is_no_plain_host_is_refused() {
        let long_name = ["abcdefg"; 40].join(".");
        let long_label = "a".repeat(64);
        for (written, refusal) in [
            ("", Refusal::NoHost),
            (":80", Refusal::NoHost),
            (".", Refusal::BadHost),
            ("..", Refusal::BadHost),
            (".example.com", Refusal::BadHost),
            ("a..example.com", Refusal::BadHost),
            ("example.com..", Refusal::BadHost),
            ("user@example.com", Refusal::BadHost),
            ("a.example,b.example", Refusal::BadHost),
            ("a.example/b", Refusal::BadHost),
            ("a.example b", Refusal::BadHost),
            ("a.example\t", Refusal::BadHost),
            ("a.example\\b", Refusal::BadHost),
            ("a.example?b", Refusal::BadHost),
            ("a.example#b", Refusal::BadHost),
            ("a%2eexample", Refusal::BadHost),
            ("*.example.com", Refusal::BadHost),
            ("exämple.com", Refusal::BadHost),
            ("127.1", Refusal::BadHost),
            ("0x7f.0.0.1", Refusal::BadHost),
            ("127.0.0.0x1", Refusal::BadHost),
            ("2130706433", Refusal::BadHost),
            ("::1", Refusal::NoHost),
            ("[::1", Refusal::BadHost),
            ("[::1]x", Refusal::BadHost),
            ("[fe80::1%25eth0]", Refusal::BadHost),
            ("[localhost]", Refusal::BadHost),
            ("a.example:", Refusal::BadPort),
            ("a.example:0", Refusal::BadPort),
            ("a.example:080", Refusal::BadPort),
            ("a.example:+80", Refusal::BadPort),
            ("a.example:65536", Refusal::BadPort),
            ("a.example:80:80", Refusal::BadPort),
            ("a.example:80@evil.example", Refusal::BadPort),
            ("[::1]:http", Refusal::BadPort),
            (&long_name, Refusal::BadHost),
            (&long_label, Refusal::BadHost),
        ] {
            assert_eq!(canonical_host(written), Err(refusal), "{written:?}");
        }
    }
}
