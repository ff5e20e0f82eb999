//! Why a value does not fit its rule, in words.
//!
//! Owns: [`mismatch`] (another type), [`trap`] (a word that YAML readers take for something else),
//! [`boolean`], [`subject`] (how a value is called without giving a secret away).
//! Must not know: paths, places.

use serde_json::Value;

use super::node::{Kind, Scalar};
use super::schema::resolve;
use super::value::judge;
use super::words;

/// What may be shown of a text in a cure: of a secret nothing.
fn shown<'t>(text: &'t str, rule: &Value) -> &'t str {
    if rule.get("x-secret").is_some() { "…" } else { text }
}

/// How a problem calls the value: never by content that is secret or came from the environment.
pub(super) fn subject(scalar: &Scalar, rule: &Value) -> String {
    match scalar.variables.as_slice() {
        [] if rule.get("x-secret").is_some() => "the secret".to_owned(),
        [] if scalar.text.is_empty() => "the text".to_owned(),
        [] if scalar.text.contains("://") && scalar.text.contains('@') => "the URL".to_owned(),
        [] => format!("`{}`", scalar.text.escape_debug()),
        [one] => format!("the value (from ${one})"),
        [first, ..] => format!("the value (from ${first} and others)"),
    }
}

pub(super) fn boolean(scalar: &Scalar) -> Option<Value> {
    match scalar.text.as_str() {
        _ if scalar.quoted && scalar.variables.is_empty() => None,
        "true" | "True" | "TRUE" => Some(true.into()),
        "false" | "False" | "FALSE" => Some(false.into()),
        _ => None,
    }
}

/// A word without quotes that YAML readers take for something other than text.
pub(super) fn trap(scalar: &Scalar, form: &str, rule: &Value) -> Option<String> {
    if scalar.quoted || !scalar.variables.is_empty() {
        return None;
    }
    let lower = scalar.text.to_ascii_lowercase();
    let text = shown(&scalar.text, rule);
    match lower.as_str() {
        "" | "~" | "null" => Some(mismatch(rule, &Kind::Scalar(scalar.clone()))),
        // One of its forms is a word.
        "true" | "false" if resolve(rule)["type"].is_array() => None,
        "true" | "false" => Some(format!("`{text}` without quotes is no text; quote it: \"{text}\"")),
        // what would be wrong in quotes, too, is better told by its form
        "yes" | "no" | "on" | "off" | "y" | "n" if judge(form, &scalar.text).is_ok() => {
            Some(format!("many YAML readers take `{text}` for true or false; quote it: \"{text}\""))
        }
        _ if !is_number(&scalar.text) || judge(form, &scalar.text).is_err() => None,
        _ => Some(format!("expected {}, found a number; quote it: \"{text}\"", words::of_rule(rule))),
    }
}

pub(super) fn is_null(scalar: &Scalar) -> bool {
    !scalar.quoted
        && scalar.variables.is_empty()
        && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
}

fn is_number(text: &str) -> bool {
    let bare = text.trim_start_matches(['-', '+']).replace('_', "");
    let radix = |prefix: &str, radix| {
        bare.strip_prefix(prefix).is_some_and(|digits| u64::from_str_radix(digits, radix).is_ok())
    };
    let word = matches!(bare.to_ascii_lowercase().as_str(), ".inf" | ".nan");
    let decimal = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') && bare.parse::<f64>().is_ok();
    decimal || word || radix("0x", 16) || radix("0o", 8) || radix("0b", 2)
}

/// "expected a list of teams, found a number; …".
pub(super) fn mismatch(rule: &Value, found: &Kind) -> String {
    let expected = words::of_rule(rule);
    let rule = resolve(rule);
    let wants = rule["type"].as_str().unwrap_or("string");
    match found {
        Kind::Scalar(scalar) if is_null(scalar) => {
            format!("has no value; give it {expected}, or remove it")
        }
        Kind::Scalar(scalar) => {
            let text = &scalar.text;
            let kind = if !scalar.variables.is_empty() {
                subject(scalar, rule)
            } else if scalar.quoted {
                "text in quotes".to_owned()
            } else if is_number(text) {
                "a number".to_owned()
            } else {
                subject(scalar, rule)
            };
            let cure = match wants {
                "array" if resolve(&rule["items"])["type"] == "object" => {
                    "; begin each entry with `- `".to_owned()
                }
                "array" if scalar.variables.is_empty() => {
                    format!("; write a list: [{}]", words::quoted_if_needed(text))
                }
                "array" => "; a variable is one text and no list: write [$A, $B]".to_owned(),
                "object" => "; put its keys on the lines below, indented".to_owned(),
                "boolean"
                    if scalar.quoted && boolean(&Scalar { quoted: false, ..scalar.clone() }).is_some() =>
                {
                    "; remove the quotes".to_owned()
                }
                "integer" if scalar.quoted => "; remove the quotes".to_owned(),
                "boolean" => match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "1" => "; write true".to_owned(),
                    "no" | "off" | "n" | "0" => "; write false".to_owned(),
                    _ => String::new(),
                },
                _ => String::new(),
            };
            format!("expected {expected}, found {kind}{cure}")
        }
        Kind::List(items) => {
            let cure = match items.as_slice() {
                [_] if wants != "array" && wants != "object" => "; remove the brackets",
                _ => "",
            };
            format!("expected {expected}, found a list{cure}")
        }
        Kind::Map(entries) => {
            let bare = match entries.as_slice() {
                [only] if wants == "string" => match &only.value.kind {
                    Kind::Scalar(scalar) if is_null(scalar) => Some(&only.key),
                    _ => None,
                },
                _ => None,
            };
            match bare {
                Some(key) => {
                    let key = shown(key, rule);
                    format!("braces without quotes are a mapping; quote it: \"{{{key}}}\"")
                }
                None if wants == "array" => {
                    format!("expected {expected}, found a mapping; begin each entry with `- `")
                }
                None => format!("expected {expected}, found a mapping"),
            }
        }
        Kind::Broken => String::new(),
    }
}
