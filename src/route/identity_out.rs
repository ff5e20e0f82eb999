//! What an app is told about the account, beside the assertion.
//!
//! Owns: [`IdentityOut`], [`Template`], [`Field`].
//! Must not know: where the values come from, which headers are the gateway's own.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::{HeaderName, HeaderValue};

/// What one route sends upstream.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct IdentityOut {
    /// The `aud` of the assertion. Default: the route's own origin.
    pub audience: Option<Box<str>>,
    /// Whether `X-Forwarded-User` and its like are set.
    pub plain_headers: PlainHeaders,
    /// Headers of the operator's own.
    pub headers: Vec<(HeaderName, Template)>,
    /// Which groups are passed on.
    pub groups: GroupSelection,
}

/// Whether `X-Forwarded-User` and its like are set. Default: they are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PlainHeaders {
    /// Set.
    #[default]
    Send,
    /// Left out; the assertion speaks for itself.
    Omit,
}

/// Which groups are passed on. Default: all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum GroupSelection {
    /// All of the account.
    #[default]
    All,
    /// Those that the rule of the route names.
    Matching,
}

/// The value of a header: text with the account's [`Field`]s in it, as in `user:{email}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Box<[Part]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(Box<str>),
    Field(Field),
}

/// What a template can say of an account.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Field {
    /// `{email}`: the primary and confirmed address.
    Email,
    /// `{uuid}`: the key of the account, without braces.
    Uuid,
    /// `{nickname}`: chosen by the person; not unique.
    Nickname,
    /// `{name}`: chosen by the person; not unique.
    Name,
    /// `{groups}`: joined by commas.
    Groups,
    /// `{groups_as_of}`: when Bitbucket was asked for the groups, as RFC 3339.
    GroupsAsOf,
}

impl Field {
    const ALL: [Field; 6] =
        [Field::Email, Field::Uuid, Field::Nickname, Field::Name, Field::Groups, Field::GroupsAsOf];

    /// As it stands between braces.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Email => "email",
            Field::Uuid => "uuid",
            Field::Nickname => "nickname",
            Field::Name => "name",
            Field::Groups => "groups",
            Field::GroupsAsOf => "groups_as_of",
        }
    }
}

/// Why a text is no template; says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTemplate {
    /// Nothing would ever be sent.
    #[error("an empty header says nothing; leave it out")]
    Empty,
    /// A `{` without its `}`.
    #[error("a `{{` has no `}}` after it; write `{{email}}`, or `{{{{` for a brace")]
    Open,
    /// A `}` without its `{`.
    #[error("a `}}` has no `{{` before it; write `{{email}}`, or `}}}}` for a brace")]
    Close,
    /// A name that is none.
    #[error(
        "`{{{0}}}` is not known of an account; there are {{email}}, {{uuid}}, {{nickname}}, {{name}}, \
         {{groups}} and {{groups_as_of}}"
    )]
    UnknownField(String),
    /// What no header value can hold.
    #[error("a header holds visible ASCII characters and blanks between them, nothing else")]
    Unprintable,
}

impl Template {
    /// The header's value, with `lookup` saying what the account's fields are.
    ///
    /// `None`, and the header is not to be sent, when a field is unknown, empty or hostile: people choose
    /// their names, and a control character or a comma in one (but between groups) could make a second header
    /// or a second value of it.
    pub fn render<'v>(&self, lookup: impl Fn(Field) -> Option<Cow<'v, str>>) -> Option<HeaderValue> {
        let mut value = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Field(field) => {
                    let said = lookup(*field)?;
                    let hostile = |c: char| c.is_control() || (c == ',' && *field != Field::Groups);
                    if said.is_empty() || said.contains(hostile) {
                        return None;
                    }
                    value.push_str(&said);
                }
            }
        }
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }

    /// The fields it asks for, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Field(field) => Some(*field),
        })
    }
}

impl FromStr for Template {
    type Err = BadTemplate;

    /// Reads text with fields in braces; a doubled brace is a brace.
    fn from_str(written: &str) -> Result<Template, BadTemplate> {
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
        if written.is_empty() {
            return Err(BadTemplate::Empty);
        }
        if written.trim() != written || !written.bytes().all(printable) {
            return Err(BadTemplate::Unprintable);
        }
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), written);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(at);
            text.push_str(before);
            if let Some(brace) = ["{{", "}}"].into_iter().find(|doubled| from_brace.starts_with(doubled)) {
                text.push_str(&brace[1..]);
                rest = &from_brace[2..];
                continue;
            }
            let inner = from_brace.strip_prefix('{').ok_or(BadTemplate::Close)?;
            let (name, after) = inner.split_once('}').ok_or(BadTemplate::Open)?;
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| BadTemplate::UnknownField(name.to_owned()))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Field(field));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Template(parts.into()))
    }
}

/// As it is written in the file.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Field(field) => write!(f, "{{{}}}", field.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada(field: Field) -> Option<Cow<'static, str>> {
        match field {
            Field::Email => None,
            Field::Uuid => Some("0f3c".into()),
            Field::Nickname => Some("ada".into()),
            Field::Name => Some("Ada Lövelace".into()),
            Field::Groups => Some("acme,ops/administrators".into()),
            Field::GroupsAsOf => Some("2026-11-24T08:22:03Z".into()),
        }
    }

    #[test]
    fn a_template_says_what_is_known() -> Result<(), BadTemplate> {
        for (written, expected) in [
            ("{uuid}", Some("0f3c")),
            ("user:{nickname}", Some("user:ada")),
            ("{nickname} ({groups})", Some("ada (acme,ops/administrators)")),
            ("{name}", Some("Ada Lövelace")),
            ("plain", Some("plain")),
            ("{{{uuid}}}", Some("{0f3c}")),
            ("a}}b{{c", Some("a}b{c")),
            ("{email}", None),
            ("mail={email};", None),
        ] {
            let template: Template = written.parse()?;
            let value = template.render(ada);
            assert_eq!(value.as_ref().map(HeaderValue::as_bytes), expected.map(str::as_bytes), "{written}");
            assert_eq!(template.to_string(), written);
        }
        Ok(())
    }

    /// threats 3 and 9: people choose their names.
    #[test]
    fn a_name_cannot_become_a_second_value_or_a_second_header() -> Result<(), BadTemplate> {
        for (written, name) in [
            ("{name}", "ada\r\nX-Forwarded-User: root"),
            ("{name}", "ada\0"),
            ("{name}", "ada\u{85}"),
            ("{name}", "ada\tx"),
            ("{name}", ""),
            ("{name},{groups}", "ada,ops/administrators"),
            ("{nickname}", "ada,root"),
            ("{email}", "a@example.com,b@example.com"),
        ] {
            let template: Template = written.parse()?;
            let lookup = |field| match field {
                Field::Groups => ada(Field::Groups),
                _ => Some(Cow::Borrowed(name)),
            };
            assert_eq!(template.render(lookup), None, "{written} {name:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_template_is_refused_with_the_cure() {
        for (written, message) in [
            ("", "an empty header says nothing; leave it out"),
            ("{email", "a `{` has no `}` after it; write `{email}`, or `{{` for a brace"),
            ("email}", "a `}` has no `{` before it; write `{email}`, or `}}` for a brace"),
            (
                "{mail}",
                "`{mail}` is not known of an account; there are {email}, {uuid}, {nickname}, {name}, {groups} and \
                 {groups_as_of}",
            ),
            (
                "{}",
                "`{}` is not known of an account; there are {email}, {uuid}, {nickname}, {name}, {groups} and \
                 {groups_as_of}",
            ),
            ("a\nb", "a header holds visible ASCII characters and blanks between them, nothing else"),
            ("é", "a header holds visible ASCII characters and blanks between them, nothing else"),
            (" a", "a header holds visible ASCII characters and blanks between them, nothing else"),
        ] {
            let error = written.parse::<Template>().err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(message), "{written}");
        }
    }
}
