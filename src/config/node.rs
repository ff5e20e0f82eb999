//! The YAML text as a tree that remembers where everything stood.
//!
//! Owns: [`Node`], [`parse`] and its limits. Nothing is lost on the way: duplicate keys stay two entries
//! and a scalar keeps its spelling, so that later steps can report every problem at its place.
//! Must not know: the keys of the file, what a value should be.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Span};

use super::problem::{Place, Problem};

/// The largest file that is read, in bytes. A thousand routes take a tenth of it.
const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting. The file needs six.
const MAX_DEPTH: usize = 24;
/// The most values, those that aliases repeat included: what stops a "billion laughs".
const MAX_NODES: usize = 100_000;

/// One value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Where it begins. What an alias repeats stands where the alias stands.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Keys and values, in the order of the file, duplicates included.
    Map(Vec<Entry>),
    /// Values in order.
    List(Vec<Node>),
    /// A word, number, text.
    Scalar(Scalar),
    /// Something that is already reported and has no value.
    Broken,
}

/// One key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

/// A scalar as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scalar {
    /// The text, escapes resolved; after expansion also the variables.
    pub text: String,
    /// Whether it stood in quotes (or in a block), which makes it text whatever it looks like.
    pub quoted: bool,
    /// The variables whose values are part of the text.
    pub variables: Vec<String>,
}

/// Reads the one document of `text`. Next to the tree come the problems that leave it readable.
///
/// # Errors
/// When the text is no YAML or beyond a limit: the one problem that stopped it.
pub fn parse(text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(Problem::new(Place::START, "", message));
    }
    let mut options = Options::default();
    options.emit_comments = false;
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        problems: Vec::new(),
    };
    let root = reader.document()?;
    Ok((root, reader.problems))
}

struct Reader<I> {
    events: I,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

impl<'t, I: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Reader<I> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        while let Some(next) = self.events.next() {
            let (event, span) = next.map_err(|error| broken_syntax(&error))?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::StreamEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    let message = "a second document begins here; the configuration is one document";
                    return Err(Problem::new(place(span.start), "", message));
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        root.ok_or_else(|| Problem::new(Place::START, "", "the file is empty; see config/example.yaml"))
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next() {
            Some(next) => next.map_err(|error| broken_syntax(&error)),
            None => Err(Problem::new(Place::START, "", "the file ends in the middle of a value")),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = place(span.start);
        self.count(1, at)?;
        if depth >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Problem::new(at, "", message));
        }
        if event.tag().is_some() {
            let at = span.tag_start().map_or(at, place);
            self.problems.push(Problem::new(
                at,
                "",
                "tags (`!…`) mean nothing here; remove it, or quote the value",
            ));
        }
        let anchor = event.anchor_id();
        let kind = match event {
            Event::Scalar(text, style, ..) => Kind::Scalar(Scalar {
                text: text.into_owned(),
                quoted: style != ScalarStyle::Plain,
                variables: Vec::new(),
            }),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            Event::Alias(id) => return self.alias(id, at),
            Event::UnresolvedAlias(name) => {
                let message = format!(
                    "`*{name}` is read as a reference to an anchor that the file does not have; quote it: \"*{name}\""
                );
                self.problems.push(Problem::new(at, "", message));
                Kind::Broken
            }
            _ => Kind::Broken,
        };
        let node = Node { place: at, kind };
        if let Some(id) = anchor.filter(|id| *id != 0) {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Kind::Map(entries)),
                (event, span) => self.node(event, span, depth + 1)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            match key.kind {
                Kind::Scalar(scalar) => entries.push(Entry { key: scalar.text, place: key.place, value }),
                Kind::Broken => {}
                Kind::Map(_) | Kind::List(_) => {
                    let message = "a list or a mapping stands where a key should; quote values that begin with `{` or `[`";
                    self.problems.push(Problem::new(key.place, "", message));
                }
            }
        }
    }

    /// An alias repeats the whole value, and every repetition counts.
    fn alias(&mut self, id: usize, at: Place) -> Result<Node, Problem> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            self.problems.push(Problem::new(at, "", "an anchor cannot contain a reference to itself"));
            return Ok(Node { place: at, kind: Kind::Broken });
        };
        self.count(size(&node), at)?;
        Ok(Node { place: at, kind: node.kind })
    }

    fn count(&mut self, more: usize, at: Place) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            let message =
                format!("more than {MAX_NODES} values (references repeat theirs); make the file smaller");
            return Err(Problem::new(at, "", message));
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.kind {
        Kind::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
        Kind::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Kind::Scalar(_) | Kind::Broken => 1,
    }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

/// The parser stops at the first fault of the syntax; what it says gets a cure where people commonly trip.
fn broken_syntax(error: &ScanError) -> Problem {
    let cure = match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            "; indent with spaces"
        }
        ErrorKind::UnexpectedCharacter { .. } => "; quote the value",
        ErrorKind::MappingValueNotAllowed => "; quote a value that contains `: `, or mend the indentation",
        ErrorKind::UnclosedQuotedScalar => "; close the quote",
        ErrorKind::InvalidIndentation | ErrorKind::ExpectedBlockMappingKey => {
            "; line the keys of one mapping up under each other"
        }
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator => "; close the bracket or add the comma",
        ErrorKind::DirectiveDisallowed => "; remove the line that begins with `%`",
        _ => "",
    };
    Problem::new(place(*error.marker()), "", format!("not YAML: {}{cure}", error.info()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_quotes_and_places_survive() -> Result<(), Problem> {
        let (root, problems) = parse("a: 1\nb: {c: 'no'}\na: [x]\n")?;
        assert_eq!(problems, []);
        let Kind::Map(entries) = root.kind else { return Err(Problem::new(root.place, "", "no map")) };
        let keys: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.place, e.value.place)).collect();
        let at = |line, column| Place { line, column };
        assert_eq!(keys, [("a", at(1, 1), at(1, 4)), ("b", at(2, 1), at(2, 4)), ("a", at(3, 1), at(3, 4))]);
        let quoted = Scalar { text: "no".into(), quoted: true, variables: vec![] };
        let inner = Node { place: at(2, 8), kind: Kind::Scalar(quoted) };
        let expected = Kind::Map(vec![Entry { key: "c".into(), place: at(2, 5), value: inner }]);
        assert_eq!(entries[1].value.kind, expected);
        Ok(())
    }

    #[test]
    fn an_alias_repeats_its_value_where_it_stands() -> Result<(), Problem> {
        let (root, _) = parse("a: &x [1, 2]\nb: *x\n")?;
        let Kind::Map(entries) = root.kind else { return Err(Problem::new(root.place, "", "no map")) };
        assert_eq!(entries[0].value.kind, entries[1].value.kind);
        assert_eq!(entries[1].value.place, Place { line: 2, column: 4 });
        Ok(())
    }

    #[test]
    fn bombs_are_refused_before_they_grow() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{},", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        let deep = format!("a: {}{}", "[".repeat(500), "]".repeat(500));
        let nested: String = (0..60).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        let long = format!("a: {}", "x".repeat(MAX_BYTES));
        for (text, word) in [(laughs, "100000 values"), (deep, ""), (nested, ""), (long, "bytes")] {
            let outcome = parse(&text).map(|_| ()).map_err(|problem| problem.message.contains(word));
            assert_eq!(outcome, Err(true), "{word}");
        }
    }

    #[test]
    fn broken_syntax_is_one_problem_with_place_and_cure() {
        for (text, place, word) in [
            ("", (1, 1), "empty"),
            ("a: b: c\n", (1, 5), "quote a value"),
            ("a: \"x\n", (1, 4), "close the quote"),
            ("a:\n\tb: 1\n", (2, 2), "spaces"),
            ("a: [1, 2\n", (1, 4), "bracket"),
            ("%YAML 1.2\n---\na: 1\n", (1, 1), "`%`"),
            ("a: 1\n---\nb: 1\n", (2, 1), "second document"),
            ("a: @x\n", (1, 4), "quote the value"),
        ] {
            let problem = parse(text).err();
            let found = problem.as_ref().map(|p| ((p.place.line, p.place.column), p.message.contains(word)));
            assert_eq!(found, Some((place, true)), "{text:?} {problem:?}");
        }
    }

    #[test]
    fn a_star_without_quotes_is_explained() -> Result<(), Problem> {
        let (_, problems) = parse("host: *.example.com\n")?;
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("1:7 ") && lines[0].ends_with("quote it: \"*.example.com\""),
            "{lines:?}"
        );
        Ok(())
    }
}
