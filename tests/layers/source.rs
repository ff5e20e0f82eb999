//! Rust source as far as the rules about it need it: tokens without comments and literals, paths without braces.
//!
//! Owns: reading. Must not know: the rules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is left of a source text when comments are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    /// A name or a keyword.
    Ident(String),
    /// A string, a character or a byte. What it says is no code.
    Literal,
    /// `::`
    PathSep,
    /// Any other sign, on its own.
    Sign(char),
}

impl Token {
    /// The name, if it is one.
    pub(crate) fn ident(&self) -> Option<&str> {
        if let Token::Ident(name) = self { Some(name) } else { None }
    }
}

/// Every `.rs` file under `folder`: its path below it, with slashes, and its text.
///
/// # Errors
///
/// A folder or a file cannot be read.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    collect(folder, folder, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            found.push((below, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The tokens of `text`.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            [c, ..] if c.is_whitespace() => 1,
            ['/', '/', ..] => length_until(rest, |tail| tail[0] == '\n'),
            ['/', '*', ..] => block_comment(rest),
            [':', ':', ..] => {
                tokens.push(Token::PathSep);
                2
            }
            ['"', ..] => {
                tokens.push(Token::Literal);
                quoted(rest, '"')
            }
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => {
                tokens.push(Token::Literal);
                quoted(rest, '\'')
            }
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let length = length_until(rest, |tail| !tail[0].is_alphanumeric() && tail[0] != '_');
                let word: String = rest[..length].iter().collect();
                match (word.as_str(), &rest[length..]) {
                    // The letters of b"…", c"…" and b'…' go with the literal that follows.
                    ("b" | "c", ['"', ..]) | ("b", ['\'', ..]) => length,
                    ("r" | "br" | "cr", ['"' | '#', ..]) if raw(&rest[length..]).is_some() => {
                        tokens.push(Token::Literal);
                        length + raw(&rest[length..]).unwrap_or(0)
                    }
                    _ => {
                        if !word.starts_with(|c: char| c.is_ascii_digit()) {
                            tokens.push(Token::Ident(word));
                        }
                        length
                    }
                }
            }
            [c, ..] => {
                tokens.push(Token::Sign(*c));
                1
            }
            [] => 1,
        };
    }
    tokens
}

fn length_until(rest: &[char], done: impl Fn(&[char]) -> bool) -> usize {
    (0..rest.len()).find(|&at| done(&rest[at..])).unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], mark: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == mark => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `#"…"#` with as many `#` as there are; nothing for `r#name`.
fn raw(rest: &[char]) -> Option<usize> {
    let hashes = length_until(rest, |tail| tail[0] != '#');
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let ends =
        |tail: &[char]| tail[0] == '"' && tail[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    let body = length_until(&rest[hashes + 1..], ends);
    Some(hashes + 1 + body + 1 + hashes)
}

/// `tokens` without the modules that only tests see. Other items under `#[cfg(test)]` stay: they are few, and
/// rules hold for them.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match test_module(&tokens[at..]) {
            Some(length) => at += length,
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The length of `#[cfg(test)] … mod name { … }`, if that is what begins here.
fn test_module(rest: &[Token]) -> Option<usize> {
    use Token::{Ident, Sign};

    let is = |token: Option<&Token>, name: &str| token.and_then(Token::ident) == Some(name);
    let opens = matches!(rest, [Sign('#'), Sign('['), Ident(cfg), Sign('('), Ident(test), Sign(')'), Sign(']'), ..]
        if cfg == "cfg" && test == "test");
    if !opens {
        return None;
    }
    let mut at = 7;
    while let Some([Sign('#'), Sign('[')]) = rest.get(at..at + 2) {
        at += 1 + group(&rest[at + 1..]);
    }
    if is(rest.get(at), "pub") {
        at += 1;
    }
    (is(rest.get(at), "mod") && rest.get(at + 2) == Some(&Sign('{'))).then(|| at + 2 + group(&rest[at + 2..]))
}

/// The length of what stands between the bracket that begins here and its partner, both counted.
fn group(rest: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in rest.iter().enumerate() {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    rest.len()
}

/// Every path in `tokens`, a `use` with braces as all the paths that it stands for. A single name is a path.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at += match &tokens[at] {
            Token::Ident(_) => path(&tokens[at..], &[], &mut found),
            _ => 1,
        };
    }
    found
}

/// Reads one path below `parent`, gives how many tokens it took.
fn path(rest: &[Token], parent: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut names = parent.to_vec();
    let mut at = 0;
    while let Some(Token::Ident(name)) = rest.get(at) {
        names.push(name.clone());
        at += 1;
        if rest.get(at) != Some(&Token::PathSep) {
            break;
        }
        match rest.get(at + 1) {
            Some(Token::Ident(_)) => at += 1,
            Some(Token::Sign('{')) => {
                at += 2;
                while let Some(token) = rest.get(at) {
                    match token {
                        Token::Sign('}') => return at + 1,
                        Token::Ident(_) => at += path(&rest[at..], &names, found),
                        _ => at += 1,
                    }
                }
                return at;
            }
            _ => break,
        }
    }
    found.push(names);
    at
}
