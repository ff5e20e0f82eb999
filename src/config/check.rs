//! Holds the tree of the file against the schema of the document.
//!
//! Owns: [`check`]: unknown and duplicate keys, wrong types and forms, bounds, words outside an
//! enumeration, missing keys — every one of them reported, none of them fatal, so that the next step can
//! go on with what is sound. What only several values together show belongs to `compile`.
//! Must not know: files, the environment, what the keys mean.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::expand::below;
use super::misfit::{boolean, is_null, mismatch, subject, trap};
use super::node::{Entry, Kind, Node, Scalar};
use super::places::Places;
use super::problem::{Place, Problem};
use super::schema::{choices, properties, resolve, schema};
use super::value::{judge, magnitude};
use super::{refused, words};

/// The file as far as it is sound, and where everything stood.
#[derive(Debug, Default)]
pub struct Checked {
    /// What [`super::document::Document`] is read from. Unsound values are left out.
    pub value: Value,
    /// Where values stood, and which of them are left out.
    pub places: Places,
}

/// Checks the whole file.
pub fn check(root: &Node, problems: &mut Vec<Problem>) -> Checked {
    let mut checker = Checker { places: Places::default(), problems };
    checker.places.note("", Place::START, root);
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
            (Kind::Scalar(scalar), Some("object")) if !is_null(scalar) && short(rule).is_some() => {
                self.short(node, path, rule)
            }
            (Kind::Scalar(scalar), Some("array")) if !is_null(scalar) && rule.get("x-single").is_some() => {
                self.list(std::slice::from_ref(node), path, &resolve(rule)["items"])
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
            self.places.note_broken(path);
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
                    self.places.note_broken(&below(path, near));
                }
                self.places.note_strange(path);
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
            self.places.note(&path, entry.place, &entry.value);
            if let Some(value) = self.value(&entry.value, &path, rule) {
                sound.insert(name.to_owned(), value);
            }
        }
        for name in resolve(rule)["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !seen.contains_key(name) && !meant.contains(&name) {
                let message = match &known[name]["examples"][0] {
                    Value::String(example) => {
                        format!("`{name}` is missing; add `{name}: {}`", words::quoted_if_needed(example))
                    }
                    // JSON is YAML.
                    example @ Value::Array(_) => format!("`{name}` is missing; add `{name}: {example}`"),
                    _ => format!("`{name}` is missing; add it as in config/example.yaml"),
                };
                let place = self.places.of_key(path);
                self.problems.push(Problem::new(place, path, message));
            }
        }
        Value::Object(sound)
    }

    /// A mapping of which only the one key is given that needs no name.
    fn short(&mut self, node: &Node, path: &str, rule: &Value) -> Option<Value> {
        let (name, rule) = short(rule)?;
        let path = below(path, name);
        self.places.note(&path, node.place, node);
        let value = self.value(node, &path, rule)?;
        Some(Value::Object(Map::from_iter([(name.to_owned(), value)])))
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
            self.places.note(&path, entry.place, &entry.value);
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
            self.places.note(&path, item.place, item);
            if let Some(name) = name_of(item) {
                self.places.note_name(&path, name);
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
        if let Some(message) = refused::find(path, Some(text)) {
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
        let is_count = rule["type"] == "integer";
        if is_count && (is_null(scalar) || (scalar.quoted && scalar.variables.is_empty())) {
            return Err(mismatch(rule, &Kind::Scalar(scalar.clone())));
        }
        // What is written as a number and is none: a status.
        let may_be_number = is_count || rule["type"].is_array();
        if let (false, Some(trap)) = (may_be_number, trap(scalar, form, rule)) {
            return Err(trap);
        }
        judge(form, text).map_err(|fault| format!("{} {fault}", subject(scalar, rule)))?;
        let (short, long) = if form == "duration" { ("short", "long") } else { ("small", "large") };
        if let (Some(low), Some(high)) = (rule["x-min"].as_str(), rule["x-max"].as_str()) {
            if magnitude(form, text) < magnitude(form, low) {
                return Err(format!("{} is too {short}; at least {low}", subject(scalar, rule)));
            }
            if magnitude(form, text) > magnitude(form, high) {
                return Err(format!("{} is too {long}; at most {high}", subject(scalar, rule)));
            }
        }
        match text.parse::<u64>() {
            Ok(count) if is_count => Ok(count.into()),
            _ => Ok(text.into()),
        }
    }

    fn unknown(&mut self, entry: &Entry, path: &str, known: &Map<String, Value>) {
        let key = entry.key.as_str();
        let full = below(path, key);
        let message = if let Some(message) = refused::find(&full, None) {
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

/// The key that a text alone stands for, with its rule.
fn short(rule: &Value) -> Option<(&str, &Value)> {
    let name = resolve(rule)["x-short"].as_str()?;
    Some((name, properties(rule)?.get(name)?))
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
