//! How one line of a log is spelt, as JSON or as text.
//!
//! Owns: [`Line`], escaping, the spelling of times. Must not know: which fields there are.
//!
//! What clients send ends up here. A line feed in a path must not begin a line, an escape sequence must not
//! move the cursor of whoever reads the log, and a long header must not fill it: everything that is not plain
//! text is escaped, and every value has a length.

use std::cell::RefCell;
use std::fmt::{self, Display, Write};

use crate::clock::Timestamp;

/// What a line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    /// One JSON object.
    Json,
    /// Words and `name=value`, for eyes.
    Text,
}

/// Bytes of a value that are written at most; what is longer ends in `…`.
pub(super) const LONGEST_VALUE: usize = 2048;

/// A line being written into a buffer.
pub(super) struct Line<'a> {
    style: Style,
    bytes: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Begins a line with its time and the name of its stream.
    pub(super) fn begin(bytes: &'a mut Vec<u8>, style: Style, stream: &str, now: Timestamp) -> Line<'a> {
        bytes.clear();
        match style {
            Style::Json => {
                bytes.extend_from_slice(b"{\"stream\":\"");
                bytes.extend_from_slice(stream.as_bytes());
                bytes.extend_from_slice(b"\",\"time\":\"");
                push_time(bytes, now);
                bytes.push(b'"');
            }
            Style::Text => {
                push_time(bytes, now);
                bytes.push(b' ');
                bytes.extend_from_slice(stream.as_bytes());
            }
        }
        Line { style, bytes }
    }

    /// A field of any bytes.
    pub(super) fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.value(value);
    }

    /// A field whose value speaks for itself: as text it stands without its name.
    pub(super) fn bare(&mut self, name: &str, value: &[u8]) {
        match self.style {
            Style::Json => self.name(name),
            Style::Text => self.bytes.push(b' '),
        }
        self.value(value);
    }

    /// A field for people: as text it stands without its name and without quotes.
    pub(super) fn sentence(&mut self, name: &str, value: &[u8]) {
        match self.style {
            Style::Json => self.text(name, value),
            Style::Text => {
                self.bytes.push(b' ');
                push_escaped(self.bytes, value);
            }
        }
    }

    /// A field that prints itself.
    pub(super) fn display(&mut self, name: &str, value: impl Display) {
        self.name(name);
        self.bytes.push(b'"');
        let mut escaped = Escaped { bytes: self.bytes, left: LONGEST_VALUE };
        // an error means that it was cut
        let _ = write!(escaped, "{value}");
        self.bytes.push(b'"');
    }

    /// A number, or `true` and `false`.
    pub(super) fn number(&mut self, name: &str, value: impl Number) {
        self.name(name);
        value.push_to(self.bytes);
    }

    /// A number of thousandths, written as a decimal fraction.
    pub(super) fn thousandths(&mut self, name: &str, value: u64) {
        self.name(name);
        push_digits(self.bytes, value / 1000, 1);
        self.bytes.push(b'.');
        push_digits(self.bytes, value % 1000, 3);
    }

    /// A list of texts.
    pub(super) fn list<'v>(&mut self, name: &str, values: impl IntoIterator<Item = &'v str>) {
        self.name(name);
        self.bytes.push(b'[');
        for (place, value) in values.into_iter().enumerate() {
            if place > 0 {
                self.bytes.push(b',');
            }
            push_quoted(self.bytes, value.as_bytes());
        }
        self.bytes.push(b']');
    }

    /// The end: the line with its line feed, the only one in it.
    pub(super) fn end(self) -> &'a [u8] {
        if self.style == Style::Json {
            self.bytes.push(b'}');
        }
        self.bytes.push(b'\n');
        self.bytes
    }

    fn name(&mut self, name: &str) {
        match self.style {
            // Names are ours, and plain.
            Style::Json => {
                self.bytes.extend_from_slice(b",\"");
                self.bytes.extend_from_slice(name.as_bytes());
                self.bytes.extend_from_slice(b"\":");
            }
            Style::Text => {
                self.bytes.push(b' ');
                self.bytes.extend_from_slice(name.as_bytes());
                self.bytes.push(b'=');
            }
        }
    }

    fn value(&mut self, value: &[u8]) {
        let word = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
        if self.style == Style::Text
            && !value.is_empty()
            && value.len() <= LONGEST_VALUE
            && value.iter().all(word)
        {
            self.bytes.extend_from_slice(value);
        } else {
            push_quoted(self.bytes, value);
        }
    }
}

/// What JSON writes without quotes.
pub(super) trait Number {
    fn push_to(self, bytes: &mut Vec<u8>);
}

impl Number for u64 {
    fn push_to(self, bytes: &mut Vec<u8>) {
        push_digits(bytes, self, 1);
    }
}

impl Number for u16 {
    fn push_to(self, bytes: &mut Vec<u8>) {
        push_digits(bytes, self.into(), 1);
    }
}

impl Number for i64 {
    fn push_to(self, bytes: &mut Vec<u8>) {
        if self < 0 {
            bytes.push(b'-');
        }
        push_digits(bytes, self.unsigned_abs(), 1);
    }
}

impl Number for bool {
    fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(if self { b"true" } else { b"false" });
    }
}

/// Lends the buffer of this thread. A value that logs while it is being printed gets one of its own.
pub(super) fn with_buffer<R>(write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => write(&mut buffer),
        Err(_) => write(&mut Vec::new()),
    })
}

/// `value` in quotes.
fn push_quoted(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.push(b'"');
    push_escaped(bytes, value);
    bytes.push(b'"');
}

/// `value` with everything escaped that is not plain. Bytes that are no UTF-8 become U+FFFD.
fn push_escaped(bytes: &mut Vec<u8>, value: &[u8]) {
    // Nearly everything there is.
    if value.len() <= LONGEST_VALUE && value.iter().all(|byte| is_plain_ascii(*byte)) {
        bytes.extend_from_slice(value);
        return;
    }
    let mut escaped = Escaped { bytes, left: LONGEST_VALUE };
    for chunk in value.utf8_chunks() {
        let whole = escaped.write_str(chunk.valid());
        let marked = if chunk.invalid().is_empty() { Ok(()) } else { escaped.write_str("\u{FFFD}") };
        if whole.is_err() || marked.is_err() {
            break;
        }
    }
}

/// Escapes what is written through it, until it has had enough.
struct Escaped<'a> {
    bytes: &'a mut Vec<u8>,
    left: usize,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let cut = text.len() > self.left;
        let text = if cut { &text[..text.floor_char_boundary(self.left)] } else { text };
        self.left = if cut { 0 } else { self.left - text.len() };
        let mut plain_from = 0;
        for (at, c) in text.char_indices() {
            if is_plain(c) {
                continue;
            }
            self.bytes.extend_from_slice(&text.as_bytes()[plain_from..at]);
            push_escape(self.bytes, c);
            plain_from = at + c.len_utf8();
        }
        self.bytes.extend_from_slice(&text.as_bytes()[plain_from..]);
        if cut {
            self.bytes.extend_from_slice("…".as_bytes());
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// [`is_plain`] for a byte of ASCII; false for any other.
fn is_plain_ascii(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

/// Whether `c` shows as itself and does nothing else. Beside control characters, those that reorder or hide
/// text are not plain: with them a path can look like another.
fn is_plain(c: char) -> bool {
    match c {
        '"' | '\\' => false,
        ' '..='~' => true,
        '\u{61C}'
        | '\u{180E}'
        | '\u{200B}'..='\u{200F}'
        | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' => false,
        '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}' => false,
        c => !c.is_control(),
    }
}

fn push_escape(bytes: &mut Vec<u8>, c: char) {
    match c {
        '"' => bytes.extend_from_slice(b"\\\""),
        '\\' => bytes.extend_from_slice(b"\\\\"),
        '\n' => bytes.extend_from_slice(b"\\n"),
        '\r' => bytes.extend_from_slice(b"\\r"),
        '\t' => bytes.extend_from_slice(b"\\t"),
        c => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = std::io::Write::write_fmt(bytes, format_args!("\\u{unit:04x}"));
            }
        }
    }
}

/// RFC 3339 in UTC with milliseconds. By hand, since a line per request is written on the way of requests;
/// the date is Howard Hinnant's `civil_from_days`, of which years after 1970 need half.
fn push_time(bytes: &mut Vec<u8>, at: Timestamp) {
    let (days, millis) = (at.unix_millis() / 86_400_000, at.unix_millis() % 86_400_000);
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    push_digits(bytes, year, 4);
    for (separator, value) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        bytes.push(separator);
        push_digits(bytes, value, 2);
    }
    bytes.push(b'.');
    push_digits(bytes, millis % 1000, 3);
    bytes.push(b'Z');
}

fn push_digits(bytes: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut rest = value;
    let mut at = digits.len();
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    bytes.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(style: Style, write: impl FnOnce(&mut Line<'_>)) -> String {
        let mut bytes = Vec::new();
        let mut line = Line::begin(&mut bytes, style, "x", Timestamp::from_unix_millis(0));
        write(&mut line);
        String::from_utf8_lossy(line.end()).into_owned()
    }

    /// What attackers put into paths: each must come out as one line of printable text that reads back.
    const HOSTILE: &[&[u8]] = &[
        b"/a\r\n{\"stream\":\"audit\"}",
        b"/\x1b[2J\x1b]0;owned\x07",
        b"/\x00\x7f\x08",
        b"/\"},{\"",
        b"/\\",
        b"/\xff\xfe\xc3",
        "/\u{9b}2J".as_bytes(),
        "/\u{202e}gpj.exe\u{2028}".as_bytes(),
        "/\u{E0041}".as_bytes(),
    ];

    #[test]
    fn hostile_bytes_stay_inside_their_value() -> Result<(), serde_json::Error> {
        for bytes in HOSTILE {
            for style in [Style::Json, Style::Text] {
                let line = line(style, |l| {
                    l.text("path", bytes);
                    l.bare("bare", bytes);
                    l.display("shown", String::from_utf8_lossy(bytes));
                    l.sentence("sentence", bytes);
                    l.list("list", [&*String::from_utf8_lossy(bytes)]);
                });
                assert_eq!(line.matches('\n').count(), 1, "{line}");
                assert!(line.trim_end_matches('\n').chars().all(|c| c == '"' || c == '\\' || is_plain(c)));
            }
            let line = line(Style::Json, |l| {
                l.text("path", bytes);
                l.display("shown", String::from_utf8_lossy(bytes));
            });
            let value: serde_json::Value = serde_json::from_str(&line)?;
            assert_eq!(value["path"], *String::from_utf8_lossy(bytes), "{line}");
            assert_eq!(value["shown"], *String::from_utf8_lossy(bytes), "{line}");
            assert_eq!(value.as_object().map(serde_json::Map::len), Some(4), "{line}");
        }
        Ok(())
    }

    #[test]
    fn what_is_plain_is_written_as_it_is() {
        assert!(line(Style::Json, |l| l.text("path", "/wiki/Größe 你好".as_bytes())).contains("Größe 你好"));
        let text = line(Style::Text, |l| {
            l.bare("method", b"GET");
            l.text("route", b"wiki");
            l.text("agent", b"two words");
            l.text("empty", b"");
            l.number("status", 200_u16);
            l.thousandths("total_ms", 12_034);
        });
        let expected = "1970-01-01T00:00:00.000Z x GET route=wiki agent=\"two words\" empty=\"\" status=200 \
                        total_ms=12.034\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let long = "ä".repeat(LONGEST_VALUE);
        for value in [
            line(Style::Json, |l| l.text("path", long.as_bytes())),
            line(Style::Json, |l| l.display("path", &long)),
            line(Style::Text, |l| l.text("path", "a".repeat(LONGEST_VALUE + 1).as_bytes())),
        ] {
            assert!(value.len() < LONGEST_VALUE + 100, "{}", value.len());
            assert!(value.contains("…\""));
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_508_523_007, "2026-11-24T08:22:03.007Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            let mut bytes = Vec::new();
            push_time(&mut bytes, Timestamp::from_unix_millis(millis));
            assert_eq!(String::from_utf8_lossy(&bytes), text);
        }
        for day in 0..40_000_u64 {
            let at = Timestamp::from_unix_seconds(day * 86_400 + day % 86_400);
            let mut bytes = Vec::new();
            push_time(&mut bytes, at);
            assert_eq!(String::from_utf8_lossy(&bytes).replace(".000Z", "Z"), at.to_string());
        }
    }
}
