//! The JSON Schema of the file, generated from [`Document`].
//!
//! Owns: [`schema`], which the checker walks, and [`published`], which editors read.
//! Must not know: YAML, problems.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::document::Document;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let generated = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = Value::from(generated.into_root_schema_for::<Document>());
    tidy(&mut schema);
    schema
});

/// The schema with our own marks (`x-form`, `x-min`, `x-aliases`, …).
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// The schema for editors: dex's spellings are properties of their own, our marks are gone.
pub fn published() -> Value {
    let mut schema = SCHEMA.clone();
    publish(&mut schema);
    schema
}

/// What stands behind `schema`, if it is a reference; else itself.
pub fn resolve(schema: &Value) -> &Value {
    let name = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/"));
    name.map_or(schema, |name| &SCHEMA["$defs"][name])
}

/// The keys of a mapping's schema, by name.
pub fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    resolve(schema)["properties"].as_object()
}

/// The texts that an enumeration allows, each with its description.
pub fn choices(schema: &Value) -> Option<Vec<(&str, &str)>> {
    let schema = resolve(schema);
    if let Some(list) = schema["oneOf"].as_array() {
        return list
            .iter()
            .map(|c| Some((c["const"].as_str()?, c["description"].as_str().unwrap_or(""))))
            .collect();
    }
    schema["enum"].as_array()?.iter().map(|c| Some((c.as_str()?, ""))).collect()
}

/// Optional means "may be left out" here, not "may be null": `teams:` with nothing behind it must not read
/// as "no whitelist". And `required` is what a field says, since every field has some default in Rust.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(tidy);
            if object.get("x-nullable").is_none() {
                drop_null(object);
            }
            let nothing = |d: &Value| match d {
                Value::Null => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(_) => true,
                _ => false,
            };
            if object.get("default").is_some_and(nothing) {
                object.remove("default");
            }
            let Some(Value::Object(properties)) = object.get_mut("properties") else { return };
            let mut required = Vec::new();
            for (name, property) in properties.iter_mut() {
                if property.as_object_mut().and_then(|p| p.remove("x-required")).is_some() {
                    required.push(Value::from(name.as_str()));
                }
            }
            if !required.is_empty() {
                object.insert("required".to_owned(), required.into());
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn drop_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(any)) = object.get("anyOf")
        && let [Value::Object(inner), null] = any.as_slice()
        && *null == json!({ "type": "null" })
    {
        let inner = inner.clone();
        object.remove("anyOf");
        for (key, value) in inner {
            object.entry(key).or_insert(value);
        }
    }
}

fn publish(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                let mut more = Vec::new();
                for (name, property) in properties.iter() {
                    for alias in property["x-aliases"].as_array().into_iter().flatten() {
                        let mut copy = property.clone();
                        copy["description"] = format!("Another spelling of `{name}`.").into();
                        more.extend(alias.as_str().map(|alias| (alias.to_owned(), copy)));
                    }
                }
                let aliased: Vec<String> = properties
                    .iter()
                    .filter(|(_, property)| property.get("x-aliases").is_some())
                    .map(|(name, _)| name.clone())
                    .collect();
                properties.extend(more);
                if let Some(Value::Array(required)) = object.get_mut("required") {
                    // either spelling will do, which `required` cannot say; the loader does
                    required.retain(|name| !aliased.iter().any(|alias| name == alias));
                }
            }
            if object.get("type").is_some_and(|kind| kind == "integer") {
                for (mark, keyword) in [("x-min", "minimum"), ("x-max", "maximum")] {
                    if let Some(bound) = object.get(mark).and_then(|b| b.as_str()?.parse::<u64>().ok()) {
                        object.insert(keyword.to_owned(), bound.into());
                    }
                }
            }
            let short = object
                .get("x-short")
                .and_then(Value::as_str)
                .and_then(|key| object.get("properties")?.get(key).cloned());
            let single = object.get("x-single").and_then(|_| object.get("items").cloned());
            object.retain(|key, _| !key.starts_with("x-"));
            object.values_mut().for_each(publish);
            if let Some(mut alone) = short.or(single) {
                publish(&mut alone);
                let description = object.get("description").cloned();
                let long = Value::Object(std::mem::take(object));
                object.insert("anyOf".to_owned(), json!([alone, long]));
                object.extend(description.map(|text| ("description".to_owned(), text)));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(publish),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::value::{judge, magnitude, show_duration};

    /// Every property below `schema`, by its path.
    fn walk<'s>(schema: &'s Value, path: &str, found: &mut Vec<(String, &'s Value)>) {
        for (name, property) in properties(schema).into_iter().flatten() {
            let path = format!("{path}.{name}");
            found.push((path.clone(), property));
            let items = &property["items"];
            for below in [property, items] {
                if ![".all", ".any", ".not"].iter().any(|end| path.ends_with(end)) {
                    walk(below, &path, found);
                }
            }
        }
    }

    #[test]
    fn every_key_is_described_and_its_default_and_examples_are_good() {
        let mut found = Vec::new();
        walk(schema(), "", &mut found);
        assert!(found.len() > 60, "{}", found.len());
        for (path, property) in found {
            assert!(property["description"].is_string(), "{path} has no description");
            let form = resolve(property)["x-form"].as_str().unwrap_or("");
            let texts = property["default"].as_str().into_iter();
            for text in
                texts.chain(property["examples"].as_array().into_iter().flatten().filter_map(Value::as_str))
            {
                assert_eq!(judge(form, text), Ok(()), "{path}: {text}");
            }
        }
    }

    #[test]
    fn every_default_is_within_its_bounds() {
        let mut found = Vec::new();
        walk(schema(), "", &mut found);
        for (path, property) in found {
            let form = resolve(property)["x-form"].as_str().unwrap_or("");
            if !["duration", "size", "whole number"].contains(&form) {
                continue;
            }
            let of = |value: &Value| match value {
                Value::Number(number) => magnitude(form, &number.to_string()),
                value => value.as_str().and_then(|text| magnitude(form, text)),
            };
            let (low, high) = (of(&property["x-min"]), of(&property["x-max"]));
            assert!(low < high && low.is_some(), "{path} needs bounds");
            if let Some(default) = of(&property["default"]) {
                assert!(low <= Some(default) && Some(default) <= high, "{path}");
            }
            if let (Some(default), "duration") = (of(&property["default"]), form) {
                let span = Duration::from_millis(u64::try_from(default).unwrap_or(u64::MAX));
                assert_eq!(property["default"], show_duration(span), "{path}");
            }
        }
    }

    #[test]
    fn null_is_no_value_unless_a_field_says_so() {
        let mut found = Vec::new();
        walk(schema(), "", &mut found);
        let nullable: Vec<_> = found
            .iter()
            .filter(|(_, p)| p.to_string().contains("null\""))
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(nullable, [".session.cookie_domain"]);
    }

    #[test]
    fn editors_see_dex_names_and_short_forms_and_none_of_our_marks() {
        let published = published();
        let redirect = &published["$defs"]["Redirect"]["anyOf"];
        assert_eq!((&redirect[0]["type"], &redirect[1]["type"]), (&"string".into(), &"object".into()));
        assert!(published["$defs"]["Bitbucket"]["properties"]["clientID"].is_object());
        let text = published.to_string();
        for mark in ["form", "min", "max", "aliases", "secret", "nullable", "required", "short", "single"] {
            assert!(!text.contains(&format!("\"x-{mark}\"")), "{mark}");
        }
    }
}
