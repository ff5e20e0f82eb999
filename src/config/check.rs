//! Holds the tree of the file against the schema of the document.
//!
//! Owns: [`check`]: unknown and duplicate keys, wrong types and forms, bounds, words outside an
//! enumeration, missing keys — every one of them reported, none of them fatal, so that the next step can
//! go on with what is sound. What only several values together show belongs to `compile`.
//! Must not know: files, the environment, what the keys mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::expand::below;
use super::node::{Entry, Kind, Node, Scalar};
use super::problem::{Place, Problem};
use super::schema::{choices, properties, resolve, schema};
use super::value::{Span, judge};
use super::words;

/// The file as far as it is sound, and where everything stood.
#[derive(Debug, Default)]
pub struct Checked {
    /// What [`super::document::Document`] is read from. Unsound values are left out.
    pub value: Value,
    /// Where values stood, and which of them are left out.
    pub places: Places,
}

/// Where each value stood in the file.
#[derive(Debug, Default)]
pub struct Places {
    spots: HashMap<String, Spot>,
    broken: BTreeSet<String>,
    strange: BTreeSet<String>,
    names: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    key: Place,
    value: Place,
    is_mapping: bool,
}

impl Spot {
    fn new(key: Place, value: &Node) -> Spot {
        Spot { key, value: value.place, is_mapping: matches!(value.kind, Kind::Map(_)) }
    }
}

impl Places {
    /// Where the value at `path` begins, or of a mapping its key; if the file does not have it, where the key
    /// of its nearest parent stands.
    pub fn of(&self, path: &str) -> Place {
        match self.spots.get(path) {
            Some(spot) if spot.is_mapping => spot.key,
            Some(spot) => spot.value,
            None if path.is_empty() => Place::START,
            None => self.of_key(parent(path)),
        }
    }

    /// Where the key of the value at `path` stands: the place of what is missing below it.
    pub fn of_key(&self, path: &str) -> Place {
        match self.spots.get(path) {
            Some(spot) => spot.key,
            None if path.is_empty() => Place::START,
            None => self.of_key(parent(path)),
        }
    }

    /// Whether the file has something at `path`, sound or not.
    pub fn has(&self, path: &str) -> bool {
        self.spots.contains_key(path)
    }

    /// Whether what the file has at `path`, or at a value around it, is unsound and already reported.
    pub fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path) || (!path.is_empty() && self.is_broken(parent(path)))
    }

    /// Whether the file has something at `path`, or has a key that was probably meant to be it.
    pub fn mentions(&self, path: &str) -> bool {
        self.has(path) || self.broken.contains(path)
    }

    /// Whether the mapping at `path` has an unknown key.
    pub fn is_strange(&self, path: &str) -> bool {
        self.strange.contains(path)
    }

    /// The names of the routes by their path, for [`super::problem::Problems`].
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }
}

/// `routes[2].teams[0]` → `routes[2].teams` → `routes[2]` → `routes` → ``.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |at| &path[..at])
}

/// Keys and words of the documented configuration that this version refuses rather than ignores: a setting
/// that silently does nothing is worse than an error. Paths are without indices; those that begin with a
/// dot match at the end.
pub(super) const NOT_YET: &[(&str, Option<&str>, &str)] = &[
    (
        "listen[].tls",
        None,
        "TLS is not supported yet; end it in a proxy in front and list that under `trusted_proxies`",
    ),
    ("listen[].redirect_to_https", None, "is not supported yet; let the proxy that ends TLS redirect"),
    (
        "routes[].upstreams",
        None,
        "several upstreams are not supported yet; write one as `upstream: http://host:port`",
    ),
    ("store.kind", Some("redis"), "is not supported yet; use `embedded`"),
    ("store.url", None, "is not supported yet; `kind: embedded` needs `path` only"),
    ("directory.budget", None, "is not supported yet; remove it: 429 answers of Bitbucket are obeyed"),
    (".repository", None, "conditions on repositories are not supported yet; name a team or an account"),
    (
        ".permission",
        None,
        "conditions on repositories are not supported yet; remove it with its `repository`",
    ),
    (
        "session.same_site",
        Some("strict"),
        "would keep the cookie back when the browser returns from Bitbucket, so that sign-in would never end; use `lax`",
    ),
];

/// Checks the whole file.
pub fn check(root: &Node, problems: &mut Vec<Problem>) -> Checked {
    let mut checker = Checker { places: Places::default(), problems };
    checker.places.spots.insert(String::new(), Spot::new(Place::START, root));
    let value = checker.value(root, "", schema()).unwrap_or(Value::Object(Map::new()));
    Checked { value, places: checker.places }
}

struct Checker<'p> {
    places: Places,
    problems: &'p mut Vec<Problem>,
}

impl Checker<'_> {
    /// What is sound of `node`; `None` is reported and remembered as broken.
    fn value(&mut self, node: &Node, path: &str, rule: &Value) -> Option<Value> {
        let sound = match (&node.kind, resolve(rule)["type"].as_str()) {
            (Kind::Broken, _) => None,
            (Kind::Map(entries), Some("object")) => Some(self.map(entries, path, rule)),
            (Kind::List(items), Some("array")) => self.list(items, path, &resolve(rule)["items"]),
            (Kind::Scalar(scalar), _) if is_null(scalar) && rule.get("x-nullable").is_some() => {
                Some(Value::Null)
            }
            (Kind::Scalar(scalar), Some("object" | "array")) => {
                self.report(node, path, mismatch(rule, &Kind::Scalar(scalar.clone())))
            }
            (Kind::Scalar(scalar), _) => match self.scalar(scalar, path, rule) {
                Ok(value) => Some(value),
                Err(message) => self.report(node, path, message),
            },
            (kind, _) => self.report(node, path, mismatch(rule, kind)),
        };
        if sound.is_none() {
            self.places.broken.insert(path.to_owned());
        }
        sound
    }

    fn report(&mut self, node: &Node, path: &str, message: String) -> Option<Value> {
        self.problems.push(Problem::new(node.place, path, message));
        None
    }

    fn map(&mut self, entries: &[Entry], path: &str, rule: &Value) -> Value {
        let Some(known) = properties(rule) else { return self.free_map(entries, path, rule) };
        let mut sound = Map::new();
        let mut seen: HashMap<&str, &Entry> = HashMap::new();
        let mut meant = Vec::new();
        for entry in entries {
            let Some((name, rule)) = find(known, &entry.key) else {
                if let Some(near) = words::nearest(&entry.key, known.keys().map(String::as_str)) {
                    meant.push(near);
                    self.places.broken.insert(below(path, near));
                }
                self.places.strange.insert(path.to_owned());
                self.unknown(entry, path, known);
                continue;
            };
            if let Some(first) = seen.get(name) {
                let line = first.place.line;
                let message = match first.key == entry.key {
                    true => format!("the key `{name}` stands on line {line} already; keep one"),
                    false => format!(
                        "`{}` is another spelling of `{}` on line {line}; keep one",
                        entry.key, first.key
                    ),
                };
                self.problems.push(Problem::new(entry.place, path, message));
                continue;
            }
            seen.insert(name, entry);
            let path = below(path, name);
            self.places.spots.insert(path.clone(), Spot::new(entry.place, &entry.value));
            if let Some(value) = self.value(&entry.value, &path, rule) {
                sound.insert(name.to_owned(), value);
            }
        }
        for name in resolve(rule)["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !seen.contains_key(name) && !meant.contains(&name) {
                let message = match known[name]["examples"][0].as_str() {
                    Some(example) => {
                        format!("`{name}` is missing; add `{name}: {}`", words::quoted_if_needed(example))
                    }
                    None => format!("`{name}` is missing; add it as in config/example.yaml"),
                };
                let place = self.places.of_key(path);
                self.problems.push(Problem::new(place, path, message));
            }
        }
        Value::Object(sound)
    }

    /// A mapping with keys of the operator's choice.
    fn free_map(&mut self, entries: &[Entry], path: &str, rule: &Value) -> Value {
        let mut sound = Map::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for entry in entries {
            // header names differ not by case: `X-User` and `x-user` are one
            if let Some(line) = seen.insert(entry.key.to_ascii_lowercase(), entry.place.line) {
                let message = format!("the key `{}` stands on line {line} already; keep one", entry.key);
                self.problems.push(Problem::new(entry.place, path, message));
                continue;
            }
            let path = below(path, &entry.key);
            self.places.spots.insert(path.clone(), Spot::new(entry.place, &entry.value));
            if let Some(value) = self.value(&entry.value, &path, &resolve(rule)["additionalProperties"]) {
                sound.insert(entry.key.clone(), value);
            }
        }
        Value::Object(sound)
    }

    /// A list of mappings keeps its unsound entries, as empty ones, so that indices stay true. A list of
    /// words is sound as a whole or not at all: half a list of teams says something else.
    fn list(&mut self, items: &[Node], path: &str, rule: &Value) -> Option<Value> {
        let mut sound = Vec::new();
        let mut whole = true;
        let objects = resolve(rule)["type"] == "object";
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.places.spots.insert(path.clone(), Spot::new(item.place, item));
            if let Some(name) = name_of(item) {
                self.places.names.insert(path.clone(), name);
            }
            match self.value(item, &path, rule) {
                Some(value) => sound.push(value),
                None if objects => sound.push(Value::Object(Map::new())),
                None => whole = false,
            }
        }
        whole.then_some(Value::Array(sound))
    }

    fn scalar(&mut self, scalar: &Scalar, path: &str, rule: &Value) -> Result<Value, String> {
        let text = scalar.text.as_str();
        if let Some((_, _, message)) = not_yet(path, Some(text)) {
            return Err(format!("`{text}` {message}"));
        }
        if let Some(choices) = choices(rule) {
            return match choices.iter().any(|(word, _)| *word == text) {
                true => Ok(text.into()),
                false => {
                    let known: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                    Err(words::not_among(&subject(scalar, rule), text, &known))
                }
            };
        }
        let rule = resolve(rule);
        if rule["type"] == "boolean" {
            return boolean(scalar).ok_or_else(|| mismatch(rule, &Kind::Scalar(scalar.clone())));
        }
        let form = rule["x-form"].as_str().unwrap_or("text");
        if let Some(trap) = trap(scalar, form, rule) {
            return Err(trap);
        }
        judge(form, text).map_err(|fault| format!("{} {fault}", subject(scalar, rule)))?;
        let span = |text: &str| serde_json::from_value::<Span>(text.into()).ok().map(|span| span.0);
        if let (Some(low), Some(high)) = (rule["x-min"].as_str(), rule["x-max"].as_str()) {
            if span(text) < span(low) {
                return Err(format!("{} is too short; at least {low}", subject(scalar, rule)));
            }
            if span(text) > span(high) {
                return Err(format!("{} is too long; at most {high}", subject(scalar, rule)));
            }
        }
        Ok(text.into())
    }

    fn unknown(&mut self, entry: &Entry, path: &str, known: &Map<String, Value>) {
        let key = entry.key.as_str();
        let full = below(path, key);
        let message = if let Some((_, _, message)) = not_yet(&full, None) {
            let subject = if message.starts_with("is ") { format!("`{key}` ") } else { format!("`{key}`: ") };
            format!("{subject}{message}")
        } else if key == "<<" {
            "merge keys (`<<`) are not supported; write the keys out".to_owned()
        } else if let Some(near) = words::nearest(key, known.keys().map(String::as_str)) {
            format!("unknown key `{key}`; did you mean `{near}`?")
        } else if let Some(home) = home(key, path) {
            format!("unknown key `{key}`; it belongs {home}")
        } else {
            let known: Vec<String> = known.keys().map(|key| format!("`{key}`")).collect();
            format!("unknown key `{key}`; known here: {}", known.join(", "))
        };
        self.problems.push(Problem::new(entry.place, path, message));
    }
}

/// The entry of the table that refuses a key, or with `word` a value.
fn not_yet(
    path: &str,
    word: Option<&str>,
) -> Option<&'static (&'static str, Option<&'static str>, &'static str)> {
    let mut bare = String::new();
    let mut within = false;
    for c in path.chars() {
        within = within && c != ']';
        if !within {
            bare.push(c);
        }
        within = within || c == '[';
    }
    NOT_YET.iter().find(|(pattern, refused, _)| {
        *refused == word && (bare == *pattern || (pattern.starts_with('.') && bare.ends_with(pattern)))
    })
}

/// The canonical name and the rule of a key, by that name or another spelling.
fn find<'s>(known: &'s Map<String, Value>, key: &str) -> Option<(&'s str, &'s Value)> {
    if let Some((name, rule)) = known.get_key_value(key) {
        return Some((name, rule));
    }
    let is_alias =
        |rule: &Value| rule["x-aliases"].as_array().is_some_and(|list| list.iter().any(|a| a == key));
    known.iter().find(|(_, rule)| is_alias(rule)).map(|(name, rule)| (name.as_str(), rule))
}

/// Which section of the file has `key`, for who put it into another.
fn home(key: &str, path: &str) -> Option<String> {
    let top = properties(schema())?;
    if !path.is_empty() && find(top, key).is_some() {
        return Some("at the top of the file".to_owned());
    }
    let has = |rule: &Value| properties(rule).is_some_and(|known| find(known, key).is_some());
    let (section, rule) = top.iter().find(|(_, rule)| has(rule) || has(&rule["items"]))?;
    let entry = if has(rule) { "" } else { "an entry of " };
    Some(format!("under {entry}`{section}`"))
}

fn name_of(item: &Node) -> Option<String> {
    let Kind::Map(entries) = &item.kind else { return None };
    entries.iter().find(|entry| entry.key == "name").and_then(|entry| match &entry.value.kind {
        Kind::Scalar(scalar) if !scalar.text.is_empty() => Some(scalar.text.clone()),
        _ => None,
    })
}

/// How a problem calls the value: never by content that is secret or came from the environment.
fn subject(scalar: &Scalar, rule: &Value) -> String {
    match scalar.variables.as_slice() {
        [] if rule.get("x-secret").is_some() => "the secret".to_owned(),
        [] if scalar.text.is_empty() => "the text".to_owned(),
        [] if scalar.text.contains("://") && scalar.text.contains('@') => "the URL".to_owned(),
        [] => format!("`{}`", scalar.text.escape_debug()),
        [one] => format!("the value (from ${one})"),
        [first, ..] => format!("the value (from ${first} and others)"),
    }
}

fn boolean(scalar: &Scalar) -> Option<Value> {
    match scalar.text.as_str() {
        _ if scalar.quoted && scalar.variables.is_empty() => None,
        "true" | "True" | "TRUE" => Some(true.into()),
        "false" | "False" | "FALSE" => Some(false.into()),
        _ => None,
    }
}

/// A word without quotes that YAML readers take for something other than text.
fn trap(scalar: &Scalar, form: &str, rule: &Value) -> Option<String> {
    if scalar.quoted || !scalar.variables.is_empty() {
        return None;
    }
    let text = &scalar.text;
    match text.to_ascii_lowercase().as_str() {
        "" | "~" | "null" => Some(mismatch(rule, &Kind::Scalar(scalar.clone()))),
        "true" | "false" => Some(format!("`{text}` without quotes is no text; quote it: \"{text}\"")),
        "yes" | "no" | "on" | "off" | "y" | "n" => {
            Some(format!("many YAML readers take `{text}` for true or false; quote it: \"{text}\""))
        }
        // what would be wrong in quotes, too, is better told by its form
        _ if !is_number(text) || judge(form, text).is_err() => None,
        _ => Some(format!("expected {}, found a number; quote it: \"{text}\"", words::of_rule(rule))),
    }
}

fn is_null(scalar: &Scalar) -> bool {
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
fn mismatch(rule: &Value, found: &Kind) -> String {
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
                Some(key) => format!("braces without quotes are a mapping; quote it: \"{{{key}}}\""),
                None if wants == "array" => {
                    format!("expected {expected}, found a mapping; begin each entry with `- `")
                }
                None => format!("expected {expected}, found a mapping"),
            }
        }
        Kind::Broken => String::new(),
    }
}
