//! JSON as Bitbucket sends it, read loosely: what we do not need may be missing, new or of another type.
//!
//! Owns: the shapes of answers and of error bodies.
//! Must not know: what follows from them. Private to `bitbucket`.

use std::fmt;
use std::time::Duration;

use oauth2::basic::BasicTokenType;
use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use url::Url;

use super::error::Kind;

/// One page of a list.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    pub(super) values: Vec<T>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

/// `/user`.
#[derive(Deserialize)]
pub(super) struct User {
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) uuid: Option<String>,
    #[serde(default)]
    pub(super) display_name: Option<String>,
    #[serde(default)]
    pub(super) nickname: Option<String>,
    #[serde(default)]
    pub(super) account_status: Option<String>,
}

/// An entry of `/user/emails`.
#[derive(Deserialize)]
pub(super) struct Address {
    pub(super) email: String,
    #[serde(default)]
    pub(super) is_primary: bool,
    #[serde(default)]
    pub(super) is_confirmed: bool,
}

/// An entry of `/user/workspaces`.
#[derive(Deserialize)]
pub(super) struct Access {
    /// Missing is no.
    #[serde(default)]
    pub(super) administrator: bool,
    pub(super) workspace: Workspace,
}

#[derive(Deserialize)]
pub(super) struct Workspace {
    pub(super) slug: String,
    pub(super) uuid: String,
}

/// `/user/workspaces/{workspace}/permission`.
#[derive(Deserialize)]
pub(super) struct Granted {
    pub(super) permission: String,
    #[serde(default)]
    pub(super) workspace: Option<GrantedIn>,
}

#[derive(Deserialize, Default)]
pub(super) struct GrantedIn {
    #[serde(default)]
    pub(super) slug: Option<String>,
    #[serde(default)]
    pub(super) uuid: Option<String>,
}

/// An entry of `/user/workspaces/{workspace}/permissions/repositories`.
#[derive(Deserialize)]
pub(super) struct RepositoryPermission {
    pub(super) permission: String,
    pub(super) repository: Repository,
}

#[derive(Deserialize)]
pub(super) struct Repository {
    pub(super) full_name: String,
    pub(super) uuid: String,
}

/// Reads an object, or tells what is wrong with the body; `what` names the shape.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], what: &'static str) -> Result<T, Kind> {
    // serde would take `["member"]` for `{"permission": "member"}`.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Kind::Shape(what));
    }
    serde_json::from_slice(body).map_err(|error| unreadable(&error, what))
}

/// An outage looks like HTML or like a cut; only well-formed JSON can be of a wrong shape.
pub(super) fn unreadable(error: &serde_json::Error, what: &'static str) -> Kind {
    match error.classify() {
        serde_json::error::Category::Eof => Kind::CutShort,
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => Kind::NotJson,
        serde_json::error::Category::Data => Kind::Shape(what),
    }
}

/// The body of a refusal by the API. The schema says that `detail` is text; often it is an object.
pub(super) struct ApiError(Value);

impl ApiError {
    /// A JSON object, or nothing that Bitbucket wrote.
    pub(super) fn read(body: &[u8]) -> Result<ApiError, Kind> {
        read(body, "an error that is no object").and_then(|value: Value| match value {
            Value::Object(_) => Ok(ApiError(value)),
            _ => Err(Kind::Shape("an error that is no object")),
        })
    }

    /// Which scopes were wanted and which granted, if that is what it is about.
    pub(super) fn missing_scope(&self) -> Option<Kind> {
        let scopes = |name: &str| -> Option<Vec<Box<str>>> {
            let list = self.0.pointer("/error/detail")?.get(name)?.as_array()?;
            Some(list.iter().filter_map(Value::as_str).filter_map(word).take(20).collect())
        };
        let says_so = || self.text("/error/message").is_some_and(|text| text.contains("privilege scope"));
        match (scopes("required"), scopes("granted")) {
            (None, None) if !says_so() => None,
            (required, granted) => Some(Kind::MissingScope {
                required: required.unwrap_or_default(),
                granted: granted.unwrap_or_default(),
            }),
        }
    }

    /// Where a removal was announced: a link into Atlassian's own pages, or nothing.
    pub(super) fn announcement(&self) -> Option<Url> {
        ["/error/data/announcement_url", "/data/announcement_url"]
            .iter()
            .filter_map(|place| self.text(place))
            .filter(|text| text.len() <= 300)
            .filter_map(|text| Url::parse(text).ok())
            .find(|url| {
                url.scheme() == "https"
                    && url.username().is_empty()
                    && url.host_str().is_some_and(|host| {
                        ["atlassian.com", "bitbucket.org"].iter().any(|ours| {
                            host.strip_suffix(ours).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                        })
                    })
            })
    }

    /// Whether a 404 is about the path rather than about what the path names.
    pub(super) fn is_about_the_path(&self) -> bool {
        self.text("/error/detail").is_some_and(|text| text.contains("no API hosted"))
    }

    fn text(&self, place: &str) -> Option<&str> {
        self.0.pointer(place).and_then(Value::as_str)
    }
}

/// A scope's name, which may be shown; anything else that stands in its place may not.
fn word(text: &str) -> Option<Box<str>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.');
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(plain)).then(|| text.into())
}

/// A token answer of either generation: `scope`, `scopes` or neither; a number or text for `expires_in`.
///
/// `oauth2` wants it serializable; the tokens are left out then.
#[derive(Deserialize, Serialize)]
pub(super) struct TokenAnswer {
    #[serde(skip_serializing)]
    pub(super) access_token: AccessToken,
    #[serde(deserialize_with = "lower_case")]
    pub(super) token_type: BasicTokenType,
    #[serde(default, deserialize_with = "seconds")]
    pub(super) expires_in: Option<u64>,
    #[serde(default, skip_serializing)]
    pub(super) refresh_token: Option<RefreshToken>,
    #[serde(default)]
    scope: Option<Value>,
    #[serde(default)]
    scopes: Option<Value>,
}

impl TokenAnswer {
    /// What was granted, as one text.
    pub(super) fn granted(&self) -> Option<String> {
        let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        text(&self.scope).or_else(|| text(&self.scopes)).filter(|scopes| scopes.len() <= 1024)
    }
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAnswer(..)")
    }
}

impl TokenResponse for TokenAnswer {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

/// RFC 6749 §5.1: the token type is compared case-insensitively.
fn lower_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BasicTokenType, D::Error> {
    let text = String::deserialize(deserializer)?.to_ascii_lowercase();
    BasicTokenType::deserialize(serde::de::value::StringDeserializer::new(text))
}

/// A number, a number as text, or nothing.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds as u64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_of_either_generation_is_read() -> Result<(), serde_json::Error> {
        for (rest, seconds, scopes) in [
            (r#""expires_in":7200,"scope":"account email""#, Some(7200), Some("account email")),
            (r#""expires_in":"3600","scopes":"email account""#, Some(3600), Some("email account")),
            (r#""expires_in":3600.0,"scope":["account"]"#, Some(3600), None),
            (r#""expires_in":null,"state":"authorization_code""#, None, None),
            (r#""expires_in":"soon","scope":null,"scopes":"email""#, None, Some("email")),
        ] {
            let body = format!(r#"{{"access_token":"a","token_type":"BeaRer",{rest}}}"#);
            let answer: TokenAnswer = serde_json::from_str(&body)?;
            assert_eq!(answer.token_type, BasicTokenType::Bearer);
            assert_eq!((answer.expires_in, answer.granted().as_deref()), (seconds, scopes), "{rest}");
        }
        Ok(())
    }

    #[test]
    fn a_token_answer_neither_prints_nor_writes_its_tokens() -> Result<(), serde_json::Error> {
        let answer: TokenAnswer = serde_json::from_str(
            r#"{"access_token":"hunter2","token_type":"bearer","refresh_token":"hunter2"}"#,
        )?;
        assert!(!format!("{answer:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&answer)?.contains("hunter2"));
        Ok(())
    }

    #[test]
    fn an_announcement_is_found_in_both_places_and_only_at_atlassian() -> Result<(), Kind> {
        let known = "https://developer.atlassian.com/cloud/bitbucket/changelog#CHANGE-2770";
        for (body, found) in [
            (format!(r#"{{"error":{{"data":{{"announcement_url":"{known}"}}}}}}"#), true),
            (format!(r#"{{"error":{{"detail":"x"}},"data":{{"announcement_url":"{known}"}}}}"#), true),
            (r#"{"data":{"announcement_url":"https://atlassian.com.evil.example/x"}}"#.to_owned(), false),
            (r#"{"data":{"announcement_url":"https://evilatlassian.com/x"}}"#.to_owned(), false),
            (r#"{"data":{"announcement_url":"javascript:alert(1)"}}"#.to_owned(), false),
            (r#"{"data":"x"}"#.to_owned(), false),
        ] {
            let url = ApiError::read(body.as_bytes())?.announcement();
            assert_eq!(url.is_some(), found, "{body}");
        }
        Ok(())
    }

    #[test]
    fn a_missing_scope_is_told_from_other_refusals() -> Result<(), Kind> {
        let scopes = |required: &[&str], granted: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|scope| (*scope).into()).collect();
            Some(Kind::MissingScope { required: own(required), granted: own(granted) })
        };
        for (body, expected) in [
            (
                r#"{"error":{"message":"x","detail":{"required":["account"],"granted":["email","<b>"]}}}"#,
                scopes(&["account"], &["email"]),
            ),
            (
                r#"{"error":{"message":"Your credentials lack one or more required privilege scopes."}}"#,
                scopes(&[], &[]),
            ),
            (r#"{"error":{"message":"Forbidden"}}"#, None),
            (r#"{"error":{"message":"Forbidden","detail":"account"}}"#, None),
        ] {
            assert_eq!(ApiError::read(body.as_bytes())?.missing_scope(), expected, "{body}");
        }
        Ok(())
    }
}
