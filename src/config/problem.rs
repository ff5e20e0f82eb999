//! What is wrong with a configuration: where, what, and how to mend it.
//!
//! Owns: [`Place`], [`Problem`], [`Problems`] and how they read on a terminal.
//! Must not know: YAML, the keys of the file.

use std::collections::BTreeMap;
use std::fmt;

/// A position in the file. Both count from 1, as editors do; the column counts characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// The beginning of the file: the place of what is missing altogether.
    pub const START: Place = Place { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong, or (in a list of warnings) doubtful.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which value, as the file nests it: `routes[1].teams`. Empty for the file as a whole.
    pub path: String,
    /// The fault, and after a semicolon the cure.
    pub message: String,
}

impl Problem {
    /// A problem with the value at `path`.
    pub fn new(place: Place, path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { place, path: harmless(path.into()), message: harmless(message.into()) }
    }
}

/// A key or value of the file must not move the cursor of the terminal that reads about it.
fn harmless(text: String) -> String {
    match text.contains(char::is_control) {
        true => text.escape_debug().to_string(),
        false => text,
    }
}

/// Without the file's name and the routes' names: `23:5 routes[1]: …`. [`Problems`] says it in full.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every problem of one file, in the order of their places. As an error it prints one line each and a
/// closing count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    /// The file as the operator named it.
    pub file: String,
    /// What is wrong.
    pub list: Vec<Problem>,
    /// What the entries of lists are called, by their path: `routes[1]` → `wiki`.
    pub names: BTreeMap<String, String>,
}

impl Problems {
    /// Sorts `list` and says each thing once.
    pub fn new(file: impl Into<String>, mut list: Vec<Problem>, names: BTreeMap<String, String>) -> Problems {
        list.sort_by(|a, b| (a.place, &a.path, &a.message).cmp(&(b.place, &b.path, &b.message)));
        list.dedup();
        Problems { file: file.into(), list, names }
    }

    /// The lines without the closing count, each `file:line:column   path: message`, the messages aligned.
    pub fn lines(&self) -> Vec<String> {
        let places: Vec<String> = self.list.iter().map(|p| format!("{}:{}", self.file, p.place)).collect();
        let width = places.iter().map(|place| place.chars().count()).max().unwrap_or(0) + 2;
        self.list
            .iter()
            .zip(places)
            .map(|(problem, place)| match self.title(&problem.path) {
                title if title.is_empty() => format!("{place:width$}{}", problem.message),
                title => format!("{place:width$}{title}: {}", problem.message),
            })
            .collect()
    }

    /// `routes[1].teams[0]` → ``routes[1] `wiki` teams[0]``: who reads it need not count.
    fn title(&self, path: &str) -> String {
        let end = path.find(']').map_or(0, |at| at + 1);
        let (entry, rest) = path.split_at(end);
        match self.names.get(entry) {
            Some(name) => {
                let rest = rest.strip_prefix('.').unwrap_or(rest);
                format!("{entry} `{name}` {rest}").trim_end().to_owned()
            }
            None => path.to_owned(),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem in {}", self.file),
            count => write!(f, "{count} problems in {}", self.file),
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_read_by_place_aligned_named_and_counted() {
        let at = |line, column| Place { line, column };
        let names = BTreeMap::from([("routes[1]".to_owned(), "wiki".to_owned())]);
        let list = vec![
            Problem::new(at(23, 5), "routes[1]", "unknown key `team`; did you mean `teams`?"),
            Problem::new(at(23, 5), "routes[1]", "unknown key `team`; did you mean `teams`?"),
            Problem::new(at(8, 18), "bitbucket.client_secret", "the variable S is not set"),
            Problem::new(at(24, 9), "routes[1].teams[0]", "is empty"),
        ];
        let shown = Problems::new("teamgate.yaml", list, names).to_string();
        assert_eq!(
            shown,
            "teamgate.yaml:8:18  bitbucket.client_secret: the variable S is not set\n\
             teamgate.yaml:23:5  routes[1] `wiki`: unknown key `team`; did you mean `teams`?\n\
             teamgate.yaml:24:9  routes[1] `wiki` teams[0]: is empty\n\
             3 problems in teamgate.yaml"
        );
    }
}
