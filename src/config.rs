//! The configuration: one YAML file, read whole or refused with every problem at once.
//!
//! Owns: [`read`] (text → [`Draft`], pure). The steps are files: `node` parses, `expand` puts variables in,
//! `check` holds the tree against the schema that `document` declares.
//! Must not know: what runs; nobody below `app` and `cli` imports this module.

pub mod check;
pub mod document;
pub mod expand;
pub mod node;
pub mod problem;
pub mod reference;
pub mod schema;
pub mod value;
mod words;

use check::{Checked, Places};
use document::Document;
use expand::{Lookup, expand};
use problem::{Place, Problem};

/// The file as typed, as far as it is sound, with everything that is wrong with it so far.
#[derive(Debug)]
pub struct Draft {
    /// The values. Unsound and absent ones have their defaults; [`Places`] tells them apart.
    pub document: Document,
    /// Where everything stands.
    pub places: Places,
    /// What is wrong, in no order.
    pub problems: Vec<Problem>,
}

/// Reads the text of a file. Variables come from `lookup`.
///
/// # Errors
/// When the text is no YAML: the one problem that stopped the parser. Everything else is in the draft.
pub fn read(text: &str, lookup: Lookup<'_>) -> Result<Draft, Problem> {
    let (mut root, mut problems) = node::parse(text)?;
    expand(&mut root, "", lookup, &mut problems);
    let Checked { value, places } = check::check(&root, &mut problems);
    let document = serde_json::from_value(value).unwrap_or_else(|fault| {
        // the checker takes what the document takes; should they ever disagree, say so rather than guess
        problems.push(Problem::new(Place::START, "", format!("cannot be read: {fault}")));
        Document::default()
    });
    Ok(Draft { document, places, problems })
}

#[cfg(test)]
mod tests {
    use super::problem::Problems;
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let lookup = |name: &str| (name == "SET").then(|| "value".to_owned());
        let list = match read(text, &lookup) {
            Ok(draft) => return Problems::new("f", draft.problems, draft.places.names().clone()).lines(),
            Err(problem) => vec![problem],
        };
        Problems::new("f", list, Default::default()).lines()
    }

    #[test]
    fn scratch() {
        for line in lines(
            r#"
listen: 0.0.0.0:80
external_ulr: https://gate.example.com/
admin: {address: 9090, token: x}
bitbucket:
  clientID: $SET
  client_id: abc
  client_secret: "$NOPE"
  teams: my-team
  include_team_groups: yes
directory: {refresh_after: 5, max_age: 500h, budget: 900/h}
session: {same_site: strict, idle: 1x, cookie_domain: null}
store: {kind: redis, url: x}
assertion: {algorithm: HS256, header: "a b"}
contact:
routes:
  - name: wiki
    team: [a]
    path: 7
    upstreams: [x]
    headers: {X-A: {email}, x-a: y}
    methods: [get]
    teams: [no, "a/b", 12]
    access: Public
  - name: Twin
    host: *.example.com
    allow: [{repository: x, permission: write}, {group: a:owner, all: [{emial_domain: x}]}]
    upstream: 10.0.0.5:80
    <<: {a: b}
    cookie_domain: x
  - just text
"#,
        ) {
            println!("{line}");
        }
    }
}
