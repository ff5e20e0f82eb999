//! The request target, in one spelling.
//!
//! Owns: [`Target`], [`canonical`], [`origin_form`].
//! Must not know: routes, headers, Pingora.
//!
//! Gateways are talked past their rules when the rule reads one path and the app serves another. So a path is
//! spelled in one way, once, and that spelling is both what routes are found by and what goes upstream. What
//! an app might read in a second way is refused instead. Start reading at [`canonical`].

use std::borrow::Cow;

use super::host::canonical_host;
use super::oddity::{Oddities, Oddity};
use super::refusal::Refusal;

/// The longest target taken, in bytes, as sent and as spelled.
pub const MAX_BYTES: usize = 32 * 1024;

/// Nobody encodes more often than this in good faith, and each layer costs a pass over the path.
const MAX_LAYERS: usize = 8;

/// A target in its one spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    /// Begins with `/`; ASCII without blanks, controls, backslashes, dot segments or empty segments. Borrowed
    /// when it is spelled as it was sent.
    pub path: Cow<'a, str>,
    /// Without its `?`. As it was sent, but for what no URI can hold (blanks, `"`, `<`, `>`, bytes beyond
    /// ASCII), which is percent-encoded. Rules do not look at it.
    pub query: Option<Cow<'a, str>>,
    /// What the route must have opted in to; ask [`Target::allowed_by`] once it is found.
    pub needs: Oddities,
}

impl Target<'_> {
    /// Whether a route that opted in to `allowed` takes this target.
    ///
    /// # Errors
    ///
    /// [`Refusal::EncodedSlash`], [`Refusal::Semicolon`].
    pub fn allowed_by(&self, allowed: Oddities) -> Result<(), Refusal> {
        match self.needs.first_missing_in(allowed) {
            None => Ok(()),
            Some(Oddity::EncodedSlash) => Err(Refusal::EncodedSlash),
            Some(Oddity::Semicolon) => Err(Refusal::Semicolon),
        }
    }

    /// Whether the spelling is what was sent, so that nothing needs to be rewritten.
    pub fn is_verbatim(&self) -> bool {
        matches!(self.path, Cow::Borrowed(_)) && !matches!(self.query, Some(Cow::Owned(_)))
    }

    /// `path?query`, as the upstream receives it.
    pub fn wire(&self) -> Cow<'_, str> {
        match &self.query {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// The same, independent of the request it was read from.
    pub fn into_owned(self) -> Target<'static> {
        Target {
            path: Cow::Owned(self.path.into_owned()),
            query: self.query.map(|query| Cow::Owned(query.into_owned())),
            needs: self.needs,
        }
    }
}

/// Turns an absolute-form target (`http://host/path`, RFC 9112 §3.2.2) into origin form. A target that is in
/// origin form already comes back as it is. `host` is the `Host` header (or `:authority`).
///
/// # Errors
///
/// [`Refusal::NotOriginForm`] for any other form (`*`, `host:port`, other schemes), [`Refusal::HostMismatch`]
/// when target and header name different hosts or ports, and whatever [`canonical_host`] finds in either.
pub fn origin_form<'a>(raw: &'a [u8], host: &str) -> Result<Cow<'a, [u8]>, Refusal> {
    if raw.starts_with(b"/") {
        return Ok(Cow::Borrowed(raw));
    }
    let (rest, default_port) = match (after_scheme(raw, b"http://"), after_scheme(raw, b"https://")) {
        (Some(rest), _) => (rest, 80),
        (_, Some(rest)) => (rest, 443),
        _ => return Err(Refusal::NotOriginForm),
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let authority = std::str::from_utf8(authority).map_err(|_| Refusal::BadHost)?;
    let (named, expected) = (canonical_host(authority)?, canonical_host(host)?);
    let same_port = named.port.unwrap_or(default_port) == expected.port.unwrap_or(default_port);
    if named.name != expected.name || !same_port {
        return Err(Refusal::HostMismatch);
    }
    if target.starts_with(b"/") { Ok(Cow::Borrowed(target)) } else { Ok(Cow::Owned([b"/", target].concat())) }
}

fn after_scheme<'a>(raw: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = raw.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Spells an origin-form target in the one canonical way.
///
/// - Unreserved characters are decoded, other escapes get capital digits (RFC 3986 §6.2.2), and what no path
///   can hold raw is encoded: one resource, one spelling.
/// - Runs of slashes become one, because most upstreams merge them (nginx, Go's and Python's routers), and
///   because a path that begins with `//host` would be another site wherever it is used as a link back.
/// - Then dot segments are removed (RFC 3986 §5.2.4), encoded dots too: the dot is unreserved.
/// - `%2F` and `;` stay where they are, as ordinary characters, and are noted in [`Target::needs`].
///
/// The result is its own canonical form. A path with nothing to change costs one scan and no allocation.
///
/// # Errors
///
/// The [`Refusal`] says which. Everything here is about ambiguity: some upstream would read it differently.
pub fn canonical(raw: &[u8]) -> Result<Target<'_>, Refusal> {
    if !raw.starts_with(b"/") {
        return Err(Refusal::NotOriginForm);
    }
    if raw.len() > MAX_BYTES {
        return Err(Refusal::TooLong);
    }
    let plain = plain_length(raw);
    let (path, query) = match raw.get(plain) {
        None => (raw, None),
        Some(b'?') => (&raw[..plain], Some(&raw[plain + 1..])),
        Some(_) => match raw.iter().position(|b| *b == b'?') {
            None => (raw, None),
            Some(mark) => (&raw[..mark], Some(&raw[mark + 1..])),
        },
    };
    let (path, needs) = if path.len() == plain {
        let path = std::str::from_utf8(path).map_err(|_| Refusal::NotUtf8)?;
        (Cow::Borrowed(path), Oddities::NONE)
    } else {
        canonical_path(path)?
    };
    let query = query.map(canonical_query).transpose()?;
    if path.len() + query.as_ref().map_or(0, |query| 1 + query.len()) > MAX_BYTES {
        return Err(Refusal::TooLong);
    }
    Ok(Target { path, query, needs })
}

/// How a byte is treated in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Means itself, encoded or not.
    Unreserved,
    /// Unreserved too, but a segment may be made of it.
    Dot,
    /// May stand raw (RFC 3986 `pchar`); encoded, it stays encoded.
    Delimiter,
    Slash,
    Semicolon,
    Backslash,
    Control,
    /// Can only stand encoded.
    Foreign,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Foreign; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Unreserved,
            b'.' => Class::Dot,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => {
                Class::Delimiter
            }
            b'/' => Class::Slash,
            b';' => Class::Semicolon,
            b'\\' => Class::Backslash,
            0..=0x1F | 0x7F => Class::Control,
            _ => Class::Foreign,
        };
        byte += 1;
    }
    table
};

fn class(byte: u8) -> Class {
    CLASS[usize::from(byte)]
}

/// How much of the target, from its start, is certainly canonical: ends at the query, at anything that needs
/// a decision, and at a segment that begins with a dot.
fn plain_length(raw: &[u8]) -> usize {
    let mut after_slash = false;
    for (at, &byte) in raw.iter().enumerate() {
        after_slash = match class(byte) {
            Class::Unreserved | Class::Delimiter => false,
            Class::Dot if !after_slash => false,
            Class::Slash if !after_slash => true,
            _ => return at,
        };
    }
    raw.len()
}

fn canonical_path(path: &[u8]) -> Result<(Cow<'_, str>, Oddities), Refusal> {
    let (spelled, needs) = spell(path)?;
    if std::str::from_utf8(&decode(spelled.as_bytes())).is_err() {
        return Err(Refusal::NotUtf8);
    }
    let resolved = resolve(&spelled)?;
    refuse_hidden_layers(&resolved)?;
    Ok(match std::str::from_utf8(path) {
        Ok(path) if path == resolved => (Cow::Borrowed(path), needs),
        _ => (Cow::Owned(resolved), needs),
    })
}

/// Gives every character its one spelling.
fn spell(path: &[u8]) -> Result<(String, Oddities), Refusal> {
    let mut text = String::with_capacity(path.len());
    let mut needs = Oddities::NONE;
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let encoded = first == b'%';
        let byte = if encoded { escape(after).ok_or(Refusal::BadEscape)? } else { first };
        rest = if encoded { &after[2..] } else { after };
        let stays_raw = match class(byte) {
            Class::Unreserved | Class::Dot => true,
            Class::Delimiter => !encoded,
            Class::Slash => {
                if encoded {
                    needs = needs.with(Oddity::EncodedSlash);
                }
                !encoded
            }
            Class::Semicolon => {
                needs = needs.with(Oddity::Semicolon);
                !encoded
            }
            Class::Backslash => return Err(Refusal::Backslash),
            Class::Control => return Err(Refusal::Control),
            Class::Foreign if byte == b'#' && !encoded => return Err(Refusal::Fragment),
            Class::Foreign => false,
        };
        if stays_raw {
            text.push(char::from(byte));
        } else {
            push_escape(&mut text, byte);
        }
    }
    Ok((text, needs))
}

/// The byte that the two hexadecimal digits at the start of `digits` stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    let value = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(value(0)? << 4 | value(1)?).ok()
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    text.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Merges slashes first and removes dot segments then, as nginx and Go do.
fn resolve(text: &str) -> Result<String, Refusal> {
    let mut kept = Vec::new();
    let mut ends_in_slash = true;
    for segment in text.split('/') {
        if disguises_dots(segment) {
            return Err(Refusal::DisguisedDots);
        }
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(text.len());
    for segment in kept {
        path.push('/');
        path.push_str(segment);
    }
    if ends_in_slash {
        path.push('/');
    }
    Ok(path)
}

/// Whether a segment is more than dots, yet holds a dot segment for an upstream that decodes `%2F` or cuts
/// parameters at `;` (Tomcat, Jetty, Spring).
fn disguises_dots(segment: &str) -> bool {
    segment.split("%2F").any(|piece| {
        let bare = piece.split(';').next().unwrap_or(piece);
        let bare = bare.split("%3B").next().unwrap_or(bare);
        bare.len() < segment.len() && matches!(bare, "." | "..")
    })
}

/// Refuses what a second, third, … decoding would turn into a separator, a control character, a dot segment
/// or no text: `%252e%252e`, `%255c`, `%25%32%66`. A `%25` that decodes to a mere percent sign is fine.
fn refuse_hidden_layers(path: &str) -> Result<(), Refusal> {
    let separators = |bytes: &[u8]| {
        let separates =
            |b: u8| matches!(class(b), Class::Slash | Class::Semicolon | Class::Backslash | Class::Control);
        bytes.iter().filter(|b| separates(**b)).count()
    };
    let is_dots = |segment: &[u8]| matches!(segment.split(|b| *b == b';').next(), Some(b"." | b".."));
    let mut seen = decode(path.as_bytes());
    for _ in 0..MAX_LAYERS {
        let next = decode(&seen);
        if next.len() == seen.len() {
            return Ok(());
        }
        let hides = separators(&next) != separators(&seen)
            || next.split(|b| *b == b'/').any(is_dots)
            || std::str::from_utf8(&next).is_err();
        if hides {
            return Err(Refusal::DoubleEncoding);
        }
        seen = next;
    }
    Err(Refusal::DoubleEncoding)
}

/// Undoes every escape once. A `%` that begins none stays: `100%` is a fine name once it is decoded.
fn decode(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&first, after)) = rest.split_first() {
        let decoded = if first == b'%' { escape(after) } else { None };
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// The query as it came, as long as a URI can hold it; what browsers encode is encoded (WHATWG URL, "query
/// percent-encode set"), for a blank here would end the request line early at the upstream.
fn canonical_query(raw: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    let foreign = |b: u8| matches!(b, b' ' | b'"' | b'<' | b'>' | 0x80..);
    let mut verbatim = true;
    for &byte in raw {
        match class(byte) {
            Class::Control => return Err(Refusal::Control),
            Class::Foreign if byte == b'#' => return Err(Refusal::Fragment),
            _ => verbatim &= !foreign(byte),
        }
    }
    if verbatim {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Refusal::NotUtf8);
    }
    let mut text = String::with_capacity(raw.len() + 16);
    for &byte in raw {
        if foreign(byte) { push_escape(&mut text, byte) } else { text.push(char::from(byte)) }
    }
    Ok(Cow::Owned(text))
}

/// The text that route patterns are compared with: a canonical path whose delimiters are raw.
///
/// RFC 3986 §2.2 does not let us rewrite `%40` as `@` on the way to the app (S3 reads `+` and `%2B` as two
/// things). But every app decodes before it routes, so a rule for `/@admin` that `/%40admin` slips past would
/// be no rule.
pub(super) fn as_matched(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let (mut text, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(mark) = rest.find('%') {
        let (before, from_mark) = rest.split_at(mark);
        text.push_str(before);
        let decoded = escape(&from_mark.as_bytes()[1..]);
        match decoded {
            Some(byte) if matches!(class(byte), Class::Delimiter | Class::Semicolon) => {
                text.push(char::from(byte));
                rest = &from_mark[3..];
            }
            _ => {
                text.push('%');
                rest = &from_mark[1..];
            }
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLASH: Oddities = Oddities::NONE.with(Oddity::EncodedSlash);
    const SEMICOLON: Oddities = Oddities::NONE.with(Oddity::Semicolon);

    fn spelled(raw: &str) -> Result<String, Refusal> {
        let target = canonical(raw.as_bytes())?;
        target.allowed_by(Oddities::NONE)?;
        Ok(target.wire().into_owned())
    }

    #[test]
    fn a_plain_path_is_taken_as_it_is_without_a_copy() {
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/d..e/f.",
            "/@scope/!$&'()*+,=:~-_",
            "/a?b=c;d\\//..%zz?",
            "/?",
            "/.well-known/x",
            "/...",
            "/a%20b%C3%A9",
            "/a%23b%3Fc%25",
        ] {
            let target = canonical(raw.as_bytes());
            assert!(target.as_ref().is_ok_and(Target::is_verbatim), "{raw}: {target:?}");
            assert_eq!(spelled(raw).as_deref(), Ok(raw));
        }
    }

    #[test]
    fn every_path_has_one_spelling() {
        for (raw, expected) in [
            ("/%61%2D%5f%7e%2E", "/a-_~."),
            ("/%c3%a9", "/%C3%A9"),
            ("/é", "/%C3%A9"),
            ("/a b\"<>[]^`{|}", "/a%20b%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
            ("/%40%3a", "/%40%3A"),
            ("/a%2525b", "/a%2525b"),
            ("/100%25", "/100%25"),
            ("/a?b c\"<é>", "/a?b%20c%22%3C%C3%A9%3E"),
        ] {
            assert_eq!(spelled(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    /// threats 18: what a rule sees and what an upstream serves.
    #[test]
    fn dot_segments_and_runs_of_slashes_are_resolved_before_anything_looks() {
        for (raw, expected) in [
            ("/public/../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/%2E./admin", "/admin"),
            ("/public/.%2e/admin", "/admin"),
            ("/public/..", "/"),
            ("/public/../", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/./b/.", "/a/b/"),
            ("/./", "/"),
            ("/..", "/"),
            ("//", "/"),
            ("//admin", "/admin"),
            ("//evil.example/x", "/evil.example/x"),
            ("/a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/..//../x", "/x"),
            ("/public/..%252", "/public/..%252"),
            ("/a..b/..c/d../...", "/a..b/..c/d../..."),
        ] {
            assert_eq!(spelled(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    /// threats 18, 19, 20, 22, 25: no second reading.
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let long = format!("/{}", "a".repeat(MAX_BYTES));
        let grows = format!("/{}", "é".repeat(MAX_BYTES / 3));
        let layers = format!("/%{}41", "25".repeat(MAX_LAYERS + 1));
        for (raw, refusal) in [
            // encoded slash
            ("/public%2fadmin", Refusal::EncodedSlash),
            ("/public%2Fadmin", Refusal::EncodedSlash),
            ("/x/..%2fadmin", Refusal::DisguisedDots),
            ("/x/%2e%2e%2fadmin", Refusal::DisguisedDots),
            ("/x%2f..", Refusal::DisguisedDots),
            ("/x%2F.", Refusal::DisguisedDots),
            ("/x%2f..%2fadmin", Refusal::DisguisedDots),
            // Java
            ("/a;b", Refusal::Semicolon),
            ("/a;jsessionid=1/b", Refusal::Semicolon),
            ("/a%3bb", Refusal::Semicolon),
            ("/;/admin", Refusal::Semicolon),
            ("/public/..;/admin", Refusal::DisguisedDots),
            ("/public/..;x=y/admin", Refusal::DisguisedDots),
            ("/public/%2e%2e;/admin", Refusal::DisguisedDots),
            ("/public/..%3b/admin", Refusal::DisguisedDots),
            ("/public/.;/admin", Refusal::DisguisedDots),
            ("/x%2f..;y%2fadmin", Refusal::DisguisedDots),
            // Windows and browsers
            ("/public\\..\\admin", Refusal::Backslash),
            ("/\\evil.example", Refusal::Backslash),
            ("/a%5cb", Refusal::Backslash),
            ("/..%5C", Refusal::Backslash),
            // control characters, encodings
            ("/a%00", Refusal::Control),
            ("/a%00.css", Refusal::Control),
            ("/a%0d%0aX-Y:z", Refusal::Control),
            ("/a%1F", Refusal::Control),
            ("/a%7f", Refusal::Control),
            ("/a\tb", Refusal::Control),
            ("/a\u{0}", Refusal::Control),
            ("/a\u{7f}", Refusal::Control),
            ("/a?b\r\nc", Refusal::Control),
            ("/%c0%af", Refusal::NotUtf8),
            ("/%c0%ae%c0%ae/", Refusal::NotUtf8),
            ("/%ff", Refusal::NotUtf8),
            ("/%e2%80", Refusal::NotUtf8),
            ("/%ed%a0%80", Refusal::NotUtf8),
            ("/%", Refusal::BadEscape),
            ("/%2", Refusal::BadEscape),
            ("/%zz", Refusal::BadEscape),
            ("/%+1", Refusal::BadEscape),
            ("/%u002f", Refusal::BadEscape),
            // more than one layer
            ("/public/%252e%252e/admin", Refusal::DoubleEncoding),
            ("/public/.%252e/admin", Refusal::DoubleEncoding),
            ("/%252e", Refusal::DoubleEncoding),
            ("/a%252fb", Refusal::DoubleEncoding),
            ("/a%25%32%66b", Refusal::DoubleEncoding),
            ("/a%25252Fb", Refusal::DoubleEncoding),
            ("/a%2525252fb", Refusal::DoubleEncoding),
            ("/a%255cb", Refusal::DoubleEncoding),
            ("/a%253bb", Refusal::DoubleEncoding),
            ("/a%2500", Refusal::DoubleEncoding),
            ("/a%250ab", Refusal::DoubleEncoding),
            ("/a%25c0%25af", Refusal::DoubleEncoding),
            ("/a%25ff", Refusal::DoubleEncoding),
            (&layers, Refusal::DoubleEncoding),
            // forms of the target, size
            ("", Refusal::NotOriginForm),
            ("*", Refusal::NotOriginForm),
            ("admin", Refusal::NotOriginForm),
            ("?x", Refusal::NotOriginForm),
            ("http://a.example/", Refusal::NotOriginForm),
            ("\\/a", Refusal::NotOriginForm),
            ("/a#b", Refusal::Fragment),
            ("/#", Refusal::Fragment),
            ("/admin#/public", Refusal::Fragment),
            ("/a?b#c", Refusal::Fragment),
            (&long, Refusal::TooLong),
            (&grows, Refusal::TooLong),
        ] {
            assert_eq!(spelled(raw), Err(refusal), "{raw:?}");
        }
        for raw in [&b"/\xff"[..], b"/a\xc0\xaf", b"/\xe2\x80"] {
            assert_eq!(canonical(raw), Err(Refusal::NotUtf8), "{raw:?}");
        }
    }

    /// threats 21: the query decides nothing, so it cannot be mistaken for the path.
    #[test]
    fn the_query_is_no_part_of_the_path() {
        for (raw, path, query) in [
            ("/admin?x=/public/", "/admin", Some("x=/public/")),
            ("/admin?/../public", "/admin", Some("/../public")),
            ("/a/..?b/..", "/", Some("b/..")),
            ("/a%3Fb", "/a%3Fb", None),
            ("/a??", "/a", Some("?")),
            ("/%61?", "/a", Some("")),
        ] {
            let target = canonical(raw.as_bytes());
            let parts = target.as_ref().map(|target| (&*target.path, target.query.as_deref()));
            assert_eq!(parts, Ok((path, query)), "{raw}");
        }
    }

    #[test]
    fn a_route_that_opts_in_gets_slash_and_semicolon_as_they_came() {
        for (raw, expected, needs) in [
            ("/@scope%2fname", "/@scope%2Fname", SLASH),
            ("/group%2Fproject/issues", "/group%2Fproject/issues", SLASH),
            ("/a%2F%2Fb", "/a%2F%2Fb", SLASH),
            ("/a;v=1/b", "/a;v=1/b", SEMICOLON),
            ("/a%3bv", "/a%3Bv", SEMICOLON),
            ("/a;..", "/a;..", SEMICOLON),
            ("/a;b%2fc", "/a;b%2Fc", SLASH.with(Oddity::Semicolon)),
            ("/a;b/../c", "/c", SEMICOLON),
        ] {
            let target = canonical(raw.as_bytes());
            assert_eq!(
                target.as_ref().map(|target| (&*target.path, target.needs)),
                Ok((expected, needs)),
                "{raw}"
            );
            assert_eq!(target.map(|target| target.allowed_by(needs)), Ok(Ok(())));
        }
        let both = canonical(b"/a;b%2fc");
        assert_eq!(both.as_ref().map(|t| t.allowed_by(SLASH)), Ok(Err(Refusal::Semicolon)));
        assert_eq!(both.as_ref().map(|t| t.allowed_by(SEMICOLON)), Ok(Err(Refusal::EncodedSlash)));
    }

    /// threats 25: an absolute target is believed only where it says what Host says.
    #[test]
    fn an_absolute_target_loses_its_authority_and_must_agree_with_host() {
        for (raw, host, expected) in [
            ("/a", "h", Ok("/a")),
            ("//a", "h", Ok("//a")),
            ("http://h/a?b", "h", Ok("/a?b")),
            ("HTTP://H./a", "h:80", Ok("/a")),
            ("https://h:443/", "H", Ok("/")),
            ("http://h", "h", Ok("/")),
            ("http://h?q", "h", Ok("/?q")),
            ("http://h//x", "h", Ok("//x")),
            ("http://[::1]:8080/x", "[0::1]:8080", Ok("/x")),
            ("http://h:8080/", "h", Err(Refusal::HostMismatch)),
            ("http://h/", "h:8080", Err(Refusal::HostMismatch)),
            ("http://evil.example/", "h", Err(Refusal::HostMismatch)),
            ("http://user@h/", "h", Err(Refusal::BadHost)),
            ("http://h\\@evil.example/", "h", Err(Refusal::BadHost)),
            ("http:///a", "h", Err(Refusal::NoHost)),
            ("http://h/", "", Err(Refusal::NoHost)),
            ("http:/a", "h", Err(Refusal::NotOriginForm)),
            ("ftp://h/", "h", Err(Refusal::NotOriginForm)),
            ("h:80", "h", Err(Refusal::NotOriginForm)),
            ("*", "h", Err(Refusal::NotOriginForm)),
            ("", "h", Err(Refusal::NotOriginForm)),
        ] {
            let expected = expected.map(str::as_bytes);
            assert_eq!(
                origin_form(raw.as_bytes(), host).as_deref(),
                expected.as_ref().copied(),
                "{raw} {host}"
            );
        }
        let fragment = origin_form(b"http://h#x", "h").map(|target| canonical(&target).err());
        assert_eq!(fragment, Ok(Some(Refusal::Fragment)));
    }

    #[test]
    fn rules_see_delimiters_raw_and_everything_else_as_it_is_forwarded() {
        for (path, expected) in [
            ("/@admin", "/@admin"),
            ("/%40admin%2B", "/@admin+"),
            ("/a%3Bb%2Fc%25%C3%A9%20", "/a;b%2Fc%25%C3%A9%20"),
            ("/a%2540", "/a%2540"),
        ] {
            assert_eq!(as_matched(path), expected);
        }
    }
}
