//! The values that a configuration is made of: text with a form.
//!
//! Owns: one type per form, its parser, its example, and [`judge`], which the checker asks by the form's
//! name. A fault is a predicate ("has no unit; write …"): the caller puts in front of it what it is about,
//! so that a secret or the content of a variable need not be quoted.
//! Must not know: the keys of the file, where a value stands.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::identity::{AccountId, Email};
use crate::membership;
use crate::policy::condition::Domain;
use crate::route::upstream::app::StatusRange;
use crate::throttle;

/// What is wrong with a text, and the cure, as a predicate: "has no unit; write 90s, 15m, 24h or 30d".
pub type Fault = String;

macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident($inner:ty): $form:literal, $example:literal, $parse:path, $show:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug)]
            pub struct $name(pub $inner);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                    let text = Cow::<str>::deserialize(deserializer)?;
                    $parse(&text).map($name).map_err(serde::de::Error::custom)
                }
            }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    let show: fn(&$inner) -> String = $show;
                    serializer.serialize_str(&show(&self.0))
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    match $example {
                        "" => json_schema!({ "type": "string", "x-form": $form }),
                        example => json_schema!({ "type": "string", "x-form": $form, "examples": [example] }),
                    }
                }
            }
        )*

        /// Whether `text` has the form called `form`; forms are named in the schema as `x-form`.
        ///
        /// # Errors
        /// The fault with its cure. A form that nobody knows has no faults.
        pub fn judge(form: &str, text: &str) -> Result<(), Fault> {
            match form {
                $($form => $parse(text).map(drop),)*
                "whole number" => count(text).map(drop),
                "beginning of a path" => strip_prefix(text).map(drop),
                "status" => statuses(text).map(drop),
                _ => Ok(()),
            }
        }
    };
}

forms! {
    /// A span of time: `90s`, `15m`, `24h`, `30d`, `1h30m`; also `250ms`.
    Span(Duration): "duration", "15m", duration, |span| show_duration(*span);
    /// An amount of bytes: `64KiB`, `10MiB`.
    Size(u64): "size", "64KiB", size, |bytes| show_size(*bytes);
    /// So many in a time: `900/h` lets 900 pass at once and then one every four seconds.
    Rate(throttle::Rate): "rate", "900/h", rate, |rate| show_rate(*rate);
    /// The same, or `none`.
    RateLimit(Option<throttle::Rate>): "rate limit", "20/m", rate_limit, |limit| limit.map_or("none".to_owned(), show_rate);
    /// An IP address and a port.
    Address(SocketAddr): "address", "0.0.0.0:8443", address, SocketAddr::to_string;
    /// A block of IP addresses, or one.
    Network(IpNet): "network", "10.0.0.0/8", network, IpNet::to_string;
    /// Scheme, host and port of a URL and nothing else.
    Origin(Url): "origin", "https://gate.example.com", origin, |url| url.as_str().trim_end_matches('/').to_owned();
    /// A complete http or https URL without credentials, query or fragment.
    WebUrl(Url): "url", "https://api.bitbucket.org/2.0", web_url, |url| url.as_str().trim_end_matches('/').to_owned();
    /// Where people can ask: a `mailto:` or `https:` URL.
    Contact(Url): "contact", "mailto:platform@example.com", contact, |url| url.as_str().to_owned();
    /// A team by its slug or `{uuid}`.
    Team(membership::TeamName): "team", "my-team", team, membership::TeamName::to_string;
    /// A team, or one part of it: `team/administrators`.
    Group(membership::Group): "group", "my-team/administrators", group, membership::Group::to_string;
    /// A repository: `team/repository`, as in its URL at Bitbucket.
    Repository(membership::repository::RepositoryName): "repository", "my-team/api", repository, membership::repository::RepositoryName::to_string;
    /// A Bitbucket account by its `{uuid}`.
    Account(AccountId): "account", "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}", account, |id| id.braced();
    /// A mail address.
    Mail(Email): "mail address", "ada@example.com", mail, |mail| mail.as_str().to_owned();
    /// What stands behind the `@` of a mail address.
    MailDomain(Domain): "mail domain", "example.com", mail_domain, Domain::to_string;
    /// The host of a URL, without port.
    Host(Box<str>): "host", "example.com", domain, |domain| domain.to_string();
    /// A route's name: it labels metrics and log lines.
    Name(Box<str>): "name", "wiki", name, |name| name.to_string();
    /// The name of an HTTP header.
    Header(http::HeaderName): "header", "X-WEBAUTH-USER", header, show_header;
    /// The method of an HTTP request.
    Method(http::Method): "method", "GET", method, |method| method.to_string();
    /// Any text but the empty one.
    Text(Box<str>): "text", "", text, |text| text.to_string();
    /// Text of any number of lines.
    Prose(Box<str>): "prose", "", prose, |text| text.to_string();
}

/// What is taken off the beginning of a path. In YAML `true`, or a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StripPrefix {
    /// `true`: the route's own `path`.
    OwnPath,
    /// This.
    This(Box<str>),
}

impl<'de> Deserialize<'de> for StripPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StripPrefix, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        strip_prefix(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for StripPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            StripPrefix::OwnPath => serializer.serialize_bool(true),
            StripPrefix::This(path) => serializer.serialize_str(path),
        }
    }
}

impl JsonSchema for StripPrefix {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StripPrefix".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "string"], "x-form": "beginning of a path" })
    }
}

/// A number of things. In YAML a number and no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Count(pub u64);

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "x-form": "whole number" })
    }
}

/// A status of HTTP, a class of them (`2xx`) or a range (`200-399`). In YAML a number or a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statuses(pub StatusRange);

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Statuses, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        statuses(&text).map(Statuses).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0.first, self.0.last))
    }
}

impl JsonSchema for Statuses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "x-form": "status" })
    }
}

fn statuses(text: &str) -> Result<StatusRange, Fault> {
    const CURE: &str = "write 200, 2xx or 200-399";
    let status = |text: &str| match number(text) {
        Some((status, "")) if (100..=599).contains(&status) => u16::try_from(status).ok(),
        _ => None,
    };
    let range = match (text.strip_suffix("xx"), text.split_once('-')) {
        (Some(class), _) => status(&format!("{class}00")).map(|first| (first, first + 99)),
        (None, Some((first, last))) => status(first).zip(status(last)),
        (None, None) => status(text).map(|status| (status, status)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(StatusRange { first, last }),
        _ => Err(format!("is no status; {CURE}")),
    }
}

/// What stands between `x-min` and `x-max` can be put in order: spans, sizes and counts, by the form's name.
pub fn magnitude(form: &str, text: &str) -> Option<u128> {
    match form {
        "duration" => duration(text).ok().map(|span| span.as_millis()),
        "size" => size(text).ok().map(u128::from),
        "whole number" => count(text).ok().map(u128::from),
        _ => None,
    }
}

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn duration(text: &str) -> Result<Duration, Fault> {
    const CURE: &str = "write 90s, 15m, 24h, 30d or 1h30m";
    let mut millis = 0_u64;
    let mut rest = text;
    let mut before = u64::MAX;
    while !rest.is_empty() || text.is_empty() {
        let (count, after) = number(rest).ok_or_else(|| format!("is no duration; {CURE}"))?;
        let (unit, after) = after.split_at(after.bytes().take_while(u8::is_ascii_alphabetic).count());
        if unit.is_empty() && after.is_empty() {
            return Err(format!("has no unit; {CURE}"));
        }
        let found = DURATION_UNITS.iter().find(|(name, _)| *name == unit);
        let (_, size) = found.ok_or_else(|| format!("is no duration; {CURE}"))?;
        if *size >= before {
            return Err(format!("names its units out of order; {CURE}"));
        }
        before = *size;
        let part = count.checked_mul(*size).and_then(|part| millis.checked_add(part));
        millis = part.ok_or_else(|| format!("is too long; {CURE}"))?;
        rest = after;
    }
    Ok(Duration::from_millis(millis))
}

/// The shortest exact spelling of a span, as the file would have it.
pub fn show_duration(span: Duration) -> String {
    let mut millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in DURATION_UNITS.iter().rev() {
        // "24h" and "48h" read better than "1d" and "2d" where hours are what people think in
        if *unit == "d" && millis < 3 * size {
            continue;
        }
        let count = millis / size;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
            millis -= count * size;
        }
    }
    out
}

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

fn size(text: &str) -> Result<u64, Fault> {
    const CURE: &str = "write 512B, 64KiB, 10MiB or 1GiB";
    let (count, unit) = number(text).ok_or_else(|| format!("is no size; {CURE}"))?;
    if unit.is_empty() {
        return Err(format!("has no unit; {CURE}"));
    }
    let (_, size) =
        SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("is no size; {CURE}"))?;
    count.checked_mul(*size).ok_or_else(|| format!("is too large; {CURE}"))
}

fn show_size(bytes: u64) -> String {
    let (unit, size) =
        SIZE_UNITS.iter().rev().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(&SIZE_UNITS[0]);
    format!("{}{unit}", bytes / size)
}

fn count(text: &str) -> Result<u64, Fault> {
    match number(text) {
        Some((count, "")) => Ok(count),
        _ => Err("is no whole number; write its digits alone, as in 100".to_owned()),
    }
}

const RATE_UNITS: [(&str, u64); 4] = [("/s", 1), ("/m", 60), ("/h", 3600), ("/d", 86_400)];

fn rate(text: &str) -> Result<throttle::Rate, Fault> {
    a_rate(text, "write 900/h, 15/m or 5/s")
}

fn rate_limit(text: &str) -> Result<Option<throttle::Rate>, Fault> {
    match text {
        "none" => Ok(None),
        rate => a_rate(rate, "write 900/h, 15/m, 5/s, or none for no limit").map(Some),
    }
}

fn a_rate(text: &str, cure: &str) -> Result<throttle::Rate, Fault> {
    let (count, unit) = number(text).ok_or_else(|| format!("is no rate; {cure}"))?;
    if unit.is_empty() {
        return Err(format!("does not say in what time; {cure}"));
    }
    let (_, seconds) =
        RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("is no rate; {cure}"))?;
    let count = u32::try_from(count).ok().filter(|count| *count <= throttle::MOST);
    let count = count.ok_or_else(|| format!("is too much; at most {}{unit}", throttle::MOST))?;
    throttle::Rate::new(count, Duration::from_secs(*seconds))
        .ok_or_else(|| format!("lets nobody pass; {cure}"))
}

fn show_rate(rate: throttle::Rate) -> String {
    let seconds = rate.per().as_secs();
    let unit = RATE_UNITS.iter().find(|(_, size)| *size == seconds).map_or("/s", |(unit, _)| unit);
    format!("{}{unit}", rate.count())
}

/// A whole number in front of `text`, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    Some((digits.parse().ok()?, rest))
}

fn address(text: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        if text.parse::<IpAddr>().is_ok() {
            "has no port; write 127.0.0.1:8080 or [::1]:8080".to_owned()
        } else if text.starts_with(':') {
            format!(
                "has no address; write 0.0.0.0{text} for every interface, 127.0.0.1{text} for this machine"
            )
        } else {
            "is no IP address with a port; write 127.0.0.1:8080 or [::1]:8080".to_owned()
        }
    })
}

fn network(text: &str) -> Result<IpNet, Fault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet =
        text.parse().map_err(|_| "is no IP network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8".to_owned())?;
    match net.trunc() {
        trunc if trunc == net => Ok(net),
        trunc => Err(format!("has bits beyond its prefix; write {trunc}")),
    }
}

fn web_url(text: &str) -> Result<Url, Fault> {
    let Ok(url) = Url::parse(text) else {
        return Err(match text.contains("://") {
            true => "is no URL; write https://host or https://host/path".to_owned(),
            false => "has no scheme; write https://… (or http://…)".to_owned(),
        });
    };
    match () {
        () if !matches!(url.scheme(), "http" | "https") => Err(if text.contains("://") {
            "is no http or https URL"
        } else {
            "has no scheme; write https://… (or http://…)"
        }
        .to_owned()),
        () if !url.username().is_empty() || url.password().is_some() => {
            Err("contains credentials; take them out of the URL".to_owned())
        }
        () if url.query().is_some() || url.fragment().is_some() => {
            Err("has a query or a fragment; remove everything from `?` or `#` on".to_owned())
        }
        () if text.bytes().any(|b| b.is_ascii_whitespace() || b == b'\\') => {
            Err("contains white space or a backslash; remove it".to_owned())
        }
        () => Ok(url),
    }
}

fn origin(text: &str) -> Result<Url, Fault> {
    let url = web_url(text)?;
    match url.path() {
        "/" => Ok(url),
        path => Err(format!("has a path; remove `{path}`")),
    }
}

fn contact(text: &str) -> Result<Url, Fault> {
    let url = Url::parse(text).map_err(|_| match text.contains('@') {
        true => "is no URL; write mailto:name@example.com".to_owned(),
        false => "is no URL; write mailto:name@example.com or https://…".to_owned(),
    })?;
    match url.scheme() {
        "https" => Ok(url),
        "mailto" if url.path().contains('@') => Ok(url),
        "mailto" => Err("names no mail address; write mailto:name@example.com".to_owned()),
        _ => Err("begins with neither mailto: nor https:".to_owned()),
    }
}

fn team(text: &str) -> Result<membership::TeamName, Fault> {
    if text.contains('/') {
        return Err(
            "names a part of a team where a whole team is wanted; remove what follows the slash".to_owned()
        );
    }
    text.parse().map_err(bad_name)
}

fn group(text: &str) -> Result<membership::Group, Fault> {
    if let Some((team, role)) = text.split_once(':') {
        let part = if matches!(role, "owner" | "admin") { "administrators" } else { "members" };
        return Err(format!("is dex's spelling of a role; write `{team}/{part}`"));
    }
    text.parse().map_err(bad_name)
}

fn repository(text: &str) -> Result<membership::repository::RepositoryName, Fault> {
    use membership::repository::BadRepository;
    text.parse().map_err(|fault| {
        match fault {
            BadRepository::Shape(_) => "is no repository; write it as in its URL at Bitbucket: `my-team/api`",
            BadRepository::ById(_) => {
                "names the team by its uuid; write the workspace ID, as in the repository's URL: `my-team/api`"
            }
        }
        .to_owned()
    })
}

fn bad_name(fault: membership::BadName) -> Fault {
    match fault {
        membership::BadName::Empty => "names no team; write `my-team` or `my-team/administrators`",
        membership::BadName::BadUuid(_) => {
            "is in braces but is no uuid; copy it from Bitbucket as {8-4-4-4-12 hexadecimal digits}"
        }
        membership::BadName::BadSlug(_) => {
            "is no workspace ID; use the one in Bitbucket's URLs (letters, digits, `-`, `_`, `.`)"
        }
        membership::BadName::UnknownGroup(_) => {
            "is not a group teamgate can know: Bitbucket shows custom groups to no user's token; a team has \
             `/members` and `/administrators`"
        }
    }
    .to_owned()
}

fn account(text: &str) -> Result<AccountId, Fault> {
    text.parse().map_err(|_| {
        "is no account; names and addresses change hands, so write the uuid: \
         \"{8-4-4-4-12 hexadecimal digits}\" (`/.teamgate/` shows everybody their own)"
            .to_owned()
    })
}

fn mail(text: &str) -> Result<Email, Fault> {
    Email::parse(text).ok_or_else(|| "is no mail address; write name@example.com".to_owned())
}

fn mail_domain(text: &str) -> Result<Domain, Fault> {
    let plain = domain(text)?;
    plain.parse().map_err(|_| "is no mail domain; write it as in example.com".to_owned())
}

fn domain(text: &str) -> Result<Box<str>, Fault> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match () {
        () if text.contains("://") => Err("is a URL; write the host alone".to_owned()),
        () if text.contains('@') => Err("is a mail address; write what follows the `@`".to_owned()),
        () if text.starts_with('.') => Err("begins with a dot; remove it".to_owned()),
        () if text.contains(':') => Err("has a port; write the host alone".to_owned()),
        () if text.len() > 253 || !text.split('.').all(label) => {
            Err("is no host name; write it as in example.com (international names as xn--…)".to_owned())
        }
        () => Ok(text.to_ascii_lowercase().into()),
    }
}

fn name(text: &str) -> Result<Box<str>, Fault> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    match text.bytes().all(plain) && (1..=63).contains(&text.len()) {
        true => Ok(text.into()),
        false => Err("cannot label metrics; use 1 to 63 of a-z, 0-9, `-`, `_`, `.`".to_owned()),
    }
}

fn header(text: &str) -> Result<http::HeaderName, Fault> {
    text.parse().map_err(|_| "is no header name; use letters, digits and `-`".to_owned())
}

/// As people write it: `X-Teamgate-Assertion`.
fn show_header(name: &http::HeaderName) -> String {
    let mut upper = true;
    let shown = name.as_str().chars().map(|c| {
        let shown = if upper { c.to_ascii_uppercase() } else { c };
        upper = c == '-';
        shown
    });
    shown.collect()
}

fn method(text: &str) -> Result<http::Method, Fault> {
    let upper = text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') && !text.is_empty();
    match text.parse() {
        Ok(_) if !upper => {
            Err(format!("is no method as browsers send it; write `{}`", text.to_ascii_uppercase()))
        }
        Ok(method) if method == http::Method::CONNECT => Err("cannot be proxied; remove it".to_owned()),
        Ok(method) => Ok(method),
        Err(_) => Err("is no HTTP method; write GET, POST, …".to_owned()),
    }
}

fn strip_prefix(text: &str) -> Result<StripPrefix, Fault> {
    match text {
        "true" => Ok(StripPrefix::OwnPath),
        "false" => Err("strips nothing; remove it".to_owned()),
        path if path.starts_with('/') => Ok(StripPrefix::This(path.into())),
        _ => Err("is no beginning of a path; write true for the route's own `path`, or /wiki".to_owned()),
    }
}

fn prose(text: &str) -> Result<Box<str>, Fault> {
    const MOST: usize = 64 * 1024;
    match text.len() {
        0..=MOST => Ok(text.into()),
        _ => Err("is longer than 64 KiB; put it into a file".to_owned()),
    }
}

fn text(text: &str) -> Result<Box<str>, Fault> {
    match text {
        "" => Err("is empty".to_owned()),
        text if text.contains(char::is_control) => {
            Err("contains a control character (a line break?)".to_owned())
        }
        text if text.trim() != text => Err("begins or ends with white space".to_owned()),
        text => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units_and_read_back_as_written() {
        for (text, seconds) in
            [("90s", 90), ("5m", 300), ("24h", 86_400), ("30d", 2_592_000), ("1h30m", 5_400), ("0s", 0)]
        {
            let span = duration(text);
            assert_eq!(span, Ok(Duration::from_secs(seconds)), "{text}");
            assert_eq!(span.map(|span| duration(&show_duration(span))), Ok(Ok(Duration::from_secs(seconds))));
        }
        assert_eq!(show_duration(Duration::from_secs(86_400)), "24h");
        assert_eq!(show_duration(Duration::from_millis(90_250)), "1m30s250ms");
        for (text, word) in [
            ("", "no duration"),
            ("5", "no unit"),
            ("m", "no duration"),
            ("5 m", "no duration"),
            ("5min", "no duration"),
            ("-5m", "no duration"),
            ("1.5h", "no duration"),
            ("5m1h", "out of order"),
            ("5m5m", "out of order"),
            ("1h30", "no unit"),
            ("99999999999999999999d", "no duration"),
            ("999999999999999d", "too long"),
        ] {
            let fault = duration(text).err();
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(word)), "{text}: {fault:?}");
        }
    }

    #[test]
    fn sizes_and_rates_carry_units() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("0B"), Ok(0));
        assert_eq!(show_size(10 << 20), "10MiB");
        assert_eq!(show_size(1_000), "1000B");
        for text in ["64", "64KB", "64k", "x", "", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        for (text, count, seconds) in
            [("900/h", 900, 3600), ("15/m", 15, 60), ("5/s", 5, 1), ("9/d", 9, 86_400)]
        {
            let expected = throttle::Rate::new(count, Duration::from_secs(seconds));
            assert_eq!(rate(text).ok(), expected, "{text}");
            assert_eq!(rate_limit(text).ok(), Some(expected), "{text}");
            assert_eq!(rate(text).map(show_rate), Ok(text.to_owned()));
        }
        assert_eq!(rate_limit("none"), Ok(None));
        for (text, word) in [
            ("900", "in what time"),
            ("900/w", "no rate"),
            ("/h", "no rate"),
            ("", "no rate"),
            ("900 / h", "no rate"),
            ("0/m", "nobody"),
            ("99999999/s", "too much"),
            ("9999999999999999/s", "too much"),
        ] {
            for fault in [rate(text).err(), rate_limit(text).err()] {
                assert!(fault.as_ref().is_some_and(|fault| fault.contains(word)), "{text}: {fault:?}");
            }
        }
        assert!(rate("none").is_err());
        assert_eq!(count("100"), Ok(100));
        for text in ["", "-1", "1.5", "1e3", "1_000", "0x10", "99999999999999999999", "many"] {
            assert!(count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_form_takes_its_example_and_says_what_is_wrong() {
        for (form, good, bad, word) in [
            ("address", "[::1]:80", "127.0.0.1", "has no port"),
            ("address", "0.0.0.0:8443", ":8443", "0.0.0.0:8443"),
            ("address", "0.0.0.0:8443", "localhost:80", "no IP address"),
            ("network", "10.0.0.0/8", "10.0.0.1/8", "write 10.0.0.0/8"),
            ("network", "::1", "intranet", "no IP network"),
            ("origin", "https://gate.example.com", "https://gate.example.com/x", "remove `/x`"),
            ("origin", "http://127.0.0.1:8080/", "gate.example.com", "no scheme"),
            ("url", "https://a/b", "https://u:p@a/b", "credentials"),
            ("url", "https://a/b", "https://a/b?c", "query"),
            ("url", "https://a/b", "ftp://a/b", "no http"),
            ("url", "https://a/b", "localhost:8080", "no scheme"),
            ("url", "https://a/b", "https://", "no URL"),
            ("contact", "mailto:a@example.com", "a@example.com", "mailto:"),
            ("contact", "https://example.com/help", "javascript:alert(1)", "neither"),
            ("contact", "https://example.com/help", "mailto:me", "names no mail address"),
            ("team", "my-team", "my-team/administrators", "whole team"),
            ("team", "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}", "{x}", "no uuid"),
            ("team", "my-team", "my team", "no workspace ID"),
            ("team", "my-team", "", "names no team"),
            ("group", "a/members", "a/interns", "custom groups"),
            ("group", "a/administrators", "a:owner", "write `a/administrators`"),
            ("account", "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}", "ann", "uuid"),
            ("mail address", "a@example.com", "a@b@example.com", "no mail address"),
            ("repository", "my-team/api", "api", "my-team/api"),
            ("repository", "my-team/api", "{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}/api", "workspace ID"),
            ("mail domain", "example.com", "@example.com", "follows the `@`"),
            ("mail domain", "example.com", "*.example.com", "no host name"),
            ("host", "example.com", ".example.com", "dot"),
            ("host", "example.com", "https://example.com", "URL"),
            ("host", "localhost", "example.com:80", "port"),
            ("host", "example.com", "exa_mple.com", "no host name"),
            ("name", "wiki-2", "Wiki", "label metrics"),
            ("name", "wiki", "", "label metrics"),
            ("header", "X-User", "X User", "no header name"),
            ("method", "GET", "get", "write `GET`"),
            ("method", "PROPFIND", "CONNECT", "cannot be proxied"),
            ("method", "M-SEARCH", "G@T", "no HTTP method"),
            ("beginning of a path", "true", "wiki", "no beginning of a path"),
            ("beginning of a path", "/wiki", "false", "strips nothing"),
            ("prose", "a\n\nb", &"x".repeat(64 * 1024 + 1), "longer than 64 KiB"),
            ("text", "x", "", "is empty"),
            ("text", "x", "a\nb", "control"),
            ("text", "x y", " x", "white space"),
        ] {
            assert_eq!(judge(form, good), Ok(()), "{form} {good}");
            let fault = judge(form, bad).err();
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(word)), "{form} {bad}: {fault:?}");
        }
    }
}
