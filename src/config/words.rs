//! How problems speak: the nearest known name, and what a rule of the schema wants in words.
//!
//! Owns: [`nearest`], [`not_among`], [`of_rule`].
//! Must not know: the tree of the file.

use serde_json::Value;

use super::schema::{choices, resolve};

/// The known name that `word` was probably meant to be: at most a third of it mistyped, or the same but
/// for case, `-` and `_`, or one of the two begins with the other.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = plain(word);
    known
        .filter_map(|name| {
            let candidate = plain(name);
            let distance = distance(&wanted, &candidate);
            let near = distance <= (wanted.chars().count().max(3)) / 3;
            let part =
                wanted.len() >= 4 && (candidate.starts_with(&wanted) || wanted.starts_with(&candidate));
            (near || part).then_some((distance, name))
        })
        .min()
        .map(|(_, name)| name)
}

/// "`lux` is none of `lax`, `none`; did you mean `lax`?"
pub(super) fn not_among(subject: &str, word: &str, known: &[&str]) -> String {
    let all: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    let list = match all.as_slice() {
        [one] => format!("is not {one}, the only choice"),
        [first, second] => format!("is neither {first} nor {second}"),
        all => format!("is none of {}", all.join(", ")),
    };
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("{subject} {list}; did you mean `{near}`?"),
        None if known.len() == 1 => format!("{subject} {list}"),
        None => format!("{subject} {list}; choose one"),
    }
}

/// What a rule wants, with its article: "a duration", "true or false", "a list of teams".
pub(super) fn of_rule(rule: &Value) -> String {
    if let Some(choices) = choices(rule) {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        return words.join(" or ");
    }
    let single = rule.get("x-single").is_some();
    let rule = resolve(rule);
    match rule["type"].as_str() {
        Some("boolean") => "true or false".to_owned(),
        Some("array") if single => format!("{} or a list", of_rule(&rule["items"])),
        Some("array") => format!("a list of {}", plural(&rule["items"])),
        Some("object") => "a mapping".to_owned(),
        _ => match rule["x-form"].as_str().unwrap_or("text") {
            "text" | "prose" => "text".to_owned(),
            "beginning of a path" => "true or a beginning of a path".to_owned(),
            "address" => "an address with a port".to_owned(),
            "origin" | "url" | "contact" => "a URL".to_owned(),
            "header" => "a header name".to_owned(),
            form if form.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {form}"),
            form => format!("a {form}"),
        },
    }
}

fn plural(rule: &Value) -> String {
    if let Some(choices) = choices(rule) {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        return words.join(" and ");
    }
    let rule = resolve(rule);
    match rule["type"].as_str() {
        Some("object") => match rule["x-short"].as_str() {
            Some("url") => "URLs or mappings".to_owned(),
            Some(name) => format!("{name}s or mappings"),
            None => "mappings".to_owned(),
        },
        _ => match rule["x-form"].as_str().unwrap_or("text") {
            "text" => "texts".to_owned(),
            "address" => "addresses".to_owned(),
            "header" => "header names".to_owned(),
            "status" => "statuses".to_owned(),
            form => format!("{form}s"),
        },
    }
}

/// `text` as it may stand in YAML.
pub(super) fn quoted_if_needed(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.starts_with(['{', '[', '*', '&', '!', '@', '%', '`', '"', '\'', '>', '|', '#', '-', '?'])
        && !text.contains([',', '"', '\\'])
        && !text.contains(": ")
        && !text.contains(char::is_control);
    if plain { text.to_owned() } else { format!("\"{}\"", text.escape_debug()) }
}

/// Edits from one word to the other: a letter more, less or another, or two neighbours swapped.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["teams", "access", "allow", "upstream", "max_age", "client_id", "include_team_groups"];
        for (word, expected) in [
            ("team", Some("teams")),
            ("taems", Some("teams")),
            ("maxAge", Some("max_age")),
            ("max-age", Some("max_age")),
            ("clientID", Some("client_id")),
            ("upsteam", Some("upstream")),
            ("include_team", Some("include_team_groups")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }

    #[test]
    fn a_word_outside_the_list_is_told_the_list() {
        assert_eq!(
            not_among("`lux`", "lux", &["lax", "none"]),
            "`lux` is neither `lax` nor `none`; did you mean `lax`?"
        );
        assert_eq!(
            not_among("`xml`", "xml", &["auto", "json", "text"]),
            "`xml` is none of `auto`, `json`, `text`; choose one"
        );
    }
}
