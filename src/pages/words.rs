//! How times, browsers and contacts are put into words.
//!
//! Owns: ages and moments as people say them, the name of a browser, whom to ask.
//! Must not know: pages.

use std::fmt::Write as _;
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;

use crate::clock::Timestamp;

/// `24 Nov 2026, 08:22:03 UTC`.
pub(super) fn moment(at: Timestamp) -> String {
    let format =
        format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute]:[second] UTC");
    let seconds = i64::try_from(at.unix_seconds()).unwrap_or(i64::MAX);
    let text = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|t| t.format(format).ok());
    text.unwrap_or_else(|| at.to_string())
}

/// `just now`, `41 seconds ago`, `3 minutes ago`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let age = now.since(then);
    if age < Duration::from_secs(5) { "just now".to_owned() } else { format!("{} ago", span(age)) }
}

/// `in 7 hours`, or `now`.
pub fn ahead(now: Timestamp, then: Timestamp) -> String {
    let left = then.since(now);
    if left < Duration::from_secs(1) { "now".to_owned() } else { format!("in {}", span(left)) }
}

/// The largest unit that fits, rounded down: `59 seconds`, `1 minute`, `36 hours`, `3 days`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `Firefox on Linux`: enough for a person to recognise their own.
pub fn browser(user_agent: Option<&str>) -> String {
    // Order matters: Edge and Opera call themselves Chrome, Chrome calls itself Safari.
    const BROWSERS: [(&str, &str); 9] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Vivaldi/", "Vivaldi"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "an iPhone"),
        ("iPad", "an iPad"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ];
    let user_agent = user_agent.unwrap_or("");
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, Some(system)) => format!("A browser on {system}"),
        (None, None) => "An unknown browser".to_owned(),
    }
}

/// What stands in the circle beside a name.
pub(super) fn initial(name: &str) -> String {
    name.chars().find(|c| c.is_alphanumeric()).map_or_else(|| "·".to_owned(), |c| c.to_uppercase().collect())
}

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Contact<'a> {
    /// What to read.
    pub(super) label: &'a str,
    /// Where it leads; `None` when the configuration gives words and no address.
    pub(super) href: Option<String>,
}

impl<'a> Contact<'a> {
    /// Reads `contact:`. Only mail and web addresses become links: `javascript:` and the like are words.
    pub(super) fn read(text: &'a str) -> Contact<'a> {
        if let Some(address) = text.strip_prefix("mailto:") {
            let label = address.split('?').next().unwrap_or(address);
            return Contact { label, href: Some(text.to_owned()) };
        }
        if let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
            return Contact { label: rest.trim_end_matches('/'), href: Some(text.to_owned()) };
        }
        let is_address = text.contains('@') && !text.contains(|c: char| c.is_whitespace() || c == ':');
        Contact { label: text, href: is_address.then(|| format!("mailto:{text}")) }
    }

    /// The same, with a letter begun (RFC 6068) where it is a mail address without one of its own.
    pub(super) fn asking(mut self, subject: &str, body: &str) -> Contact<'a> {
        if let Some(href) = self.href.as_mut().filter(|h| h.starts_with("mailto:") && !h.contains('?')) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            let (subject, body) = (percent_encode(subject, plain), percent_encode(body, plain));
            // Writing to a String does not fail.
            let _ = write!(href, "?subject={subject}&body={body}");
        }
        self
    }
}

/// Every byte that `plain` does not take becomes `%XX`.
pub(super) fn percent_encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii() && plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let at = Timestamp::from_unix_seconds;
        assert_eq!(moment(at(1_795_508_523)), "24 Nov 2026, 08:22:03 UTC");
        for (seconds, past, future) in [
            (0, "just now", "now"),
            (4, "just now", "in 4 seconds"),
            (41, "41 seconds ago", "in 41 seconds"),
            (60, "1 minute ago", "in 1 minute"),
            (3_599, "59 minutes ago", "in 59 minutes"),
            (3_600, "1 hour ago", "in 1 hour"),
            (86_400, "24 hours ago", "in 24 hours"),
            (172_800, "2 days ago", "in 2 days"),
        ] {
            assert_eq!(ago(at(1_000_000 + seconds), at(1_000_000)), past);
            assert_eq!(ahead(at(1_000_000), at(1_000_000 + seconds)), future);
        }
        assert_eq!(ago(at(1), at(9)), "just now", "a clock that was set back");
    }

    #[test]
    fn a_browser_is_called_what_its_user_calls_it() {
        for (agent, name) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605 Version/19 Safari/605",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) CriOS/140 Safari/604",
                "Chrome on an iPhone",
            ),
            ("Mozilla/5.0 (Linux; Android 16) Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
            ("curl/8.9", "An unknown browser"),
        ] {
            assert_eq!(browser(Some(agent)), name);
        }
        assert_eq!(browser(None), "An unknown browser");
    }

    #[test]
    fn only_mail_and_web_addresses_become_links() {
        for (text, label, href) in [
            ("mailto:platform@example.com", "platform@example.com", Some("mailto:platform@example.com")),
            ("platform@example.com", "platform@example.com", Some("mailto:platform@example.com")),
            ("https://chat.example.com/ops/", "chat.example.com/ops", Some("https://chat.example.com/ops/")),
            ("the platform team, 3rd floor", "the platform team, 3rd floor", None),
            ("javascript:alert(1)//@", "javascript:alert(1)//@", None),
            ("data:text/html,a@b", "data:text/html,a@b", None),
        ] {
            assert_eq!(Contact::read(text), Contact { label, href: href.map(str::to_owned) });
        }
    }

    #[test]
    fn a_letter_is_begun_only_where_there_is_none() {
        let href = |text| Contact::read(text).asking("Access & so on", "für mich").href;
        assert_eq!(
            href("mailto:a@b.example").as_deref(),
            Some("mailto:a@b.example?subject=Access%20%26%20so%20on&body=f%C3%BCr%20mich")
        );
        assert_eq!(href("mailto:a@b.example?subject=x").as_deref(), Some("mailto:a@b.example?subject=x"));
        assert_eq!(href("https://b.example/").as_deref(), Some("https://b.example/"));
    }

    #[test]
    fn a_name_without_letters_still_has_something_in_its_circle() {
        for (name, shown) in [("ann", "A"), ("  <élan>", "É"), ("☃", "·"), ("", "·")] {
            assert_eq!(initial(name), shown);
        }
    }
}
