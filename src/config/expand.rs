//! `$NAME`, `${NAME}` and `$$` in the values of the file.
//!
//! Owns: [`expand`]. It works on scalars after the YAML is parsed, so that what a variable holds is only
//! ever text: it cannot add a key, close a quote or turn into a list.
//! Must not know: the environment; the caller brings a lookup.

use super::node::{Kind, Node};
use super::problem::Problem;

/// Finds the value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every value below `node`; keys stay as they are. What cannot be expanded becomes a problem and
/// [`Kind::Broken`]. `path` is the path of `node`.
pub fn expand(node: &mut Node, path: &str, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                expand(&mut entry.value, &below(path, &entry.key), lookup, problems);
            }
        }
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), lookup, problems);
            }
        }
        Kind::Scalar(scalar) if scalar.text.contains('$') => {
            let mut faults = Vec::new();
            let text = replace(&scalar.text, lookup, &mut scalar.variables, &mut faults);
            if faults.is_empty() {
                scalar.text = text;
            } else {
                problems.extend(faults.into_iter().map(|fault| Problem::new(node.place, path, fault)));
                node.kind = Kind::Broken;
            }
        }
        Kind::Scalar(_) | Kind::Broken => {}
    }
}

/// The path of `key` in the mapping at `path`.
pub fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn replace(text: &str, lookup: Lookup<'_>, used: &mut Vec<String>, faults: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match after.strip_prefix('{') {
            Some(inner) => inner.split_once('}').unwrap_or(("", inner)),
            None => after.split_at(after.bytes().take_while(|&b| is_name(b)).count()),
        };
        let sound = name.bytes().all(is_name) && !name.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || !sound {
            faults.push(
                "`$` must begin a variable, `$NAME` or `${NAME}`; write `$$` for a dollar sign".to_owned(),
            );
        } else if let Some(value) = lookup(name) {
            out.push_str(&value);
            used.push(name.to_owned());
        } else {
            faults.push(format!("the variable {name} is not set"));
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, Vec<String>> {
        let lookup = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "YAML" => Some("x: [1]\n$A".to_owned()),
            _ => None,
        };
        let mut faults = Vec::new();
        let out = replace(text, &lookup, &mut Vec::new(), &mut faults);
        if faults.is_empty() { Ok(out) } else { Err(faults) }
    }

    #[test]
    fn variables_expand_once_and_two_dollars_are_one() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$A", "one"),
            ("<${A}b>", "<oneb>"),
            ("$A/$A", "one/one"),
            ("$$A", "$A"),
            ("$$$A", "$one"),
            ("a$$", "a$"),
            ("$EMPTY", ""),
            ("$YAML", "x: [1]\n$A"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_named() {
        let lone = "`$` must begin a variable, `$NAME` or `${NAME}`; write `$$` for a dollar sign";
        let unset = |name: &str| format!("the variable {name} is not set");
        for (text, expected) in [
            ("$B and ${C}", vec![unset("B"), unset("C")]),
            ("^/x$", vec![lone.to_owned()]),
            ("${A", vec![lone.to_owned()]),
            ("${}", vec![lone.to_owned()]),
            ("$1", vec![lone.to_owned()]),
            ("${A-x}", vec![lone.to_owned()]),
            ("$a", vec![unset("a")]),
        ] {
            assert_eq!(run(text), Err(expected), "{text}");
        }
    }
}
