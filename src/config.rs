//! The configuration: one YAML file, read whole or refused with every problem at once.
//!
//! Owns: [`load`]. The steps are files: `node` parses, `expand` puts variables in, `check` holds the tree
//! against the schema that `document` declares, `compile` makes of it what the modules want. All but
//! [`load`] are pure.
//! Must not know: what runs; nobody below `app` and `cli` imports this module.

pub mod check;
pub mod compile;
pub mod document;
pub mod expand;
mod misfit;
pub mod node;
pub mod places;
pub mod problem;
pub mod reference;
mod refused;
pub mod schema;
pub mod value;
mod words;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use check::Checked;
use compile::secret_text;
use compile::{Compiled, Surroundings, compile};
use document::Document;
use expand::{Lookup, expand};
use places::Places;
use problem::{Place, Problem, Problems};

use crate::clock::Timestamp;
use crate::listener::certificates::{self, Certificate, ClientCa, Identity};

/// Reads the file at `path`, and what it points to. `now` tells which certificates have expired.
///
/// # Errors
/// Everything that is wrong with it, or the one reason why it cannot be read.
pub fn load(path: &Path, lookup: Lookup<'_>, now: Timestamp) -> Result<Compiled, Problems> {
    let file = path.display().to_string();
    let alone = |problem| Problems::new(file.clone(), vec![problem], Default::default());
    let text = fs::read_to_string(path).map_err(|error| {
        let cure = "; name the file with --config FILE or TEAMGATE_CONFIG";
        alone(Problem::new(Place::START, "", format!("cannot be read: {error}{cure}")))
    })?;
    let draft = read(&text, lookup).map_err(alone)?;
    let names = draft.places.names().clone();
    let folder = path.parent().unwrap_or(Path::new(""));
    let around = Surroundings {
        folder,
        is_folder: &|path| fs::read_dir(path).is_ok(),
        read_file: &|path, most| {
            // A pipe would keep the start waiting.
            if !fs::metadata(path)?.is_file() {
                return Err(std::io::Error::other("it is no file"));
            }
            let mut bytes = Vec::new();
            fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        },
        now,
        read_secret: &secret_text::read,
        read_certificate: &Certificate::read,
        read_client_ca: &ClientCa::read,
        read_vouching: &certificates::vouching,
        read_identity: &Identity::read,
    };
    let outcome = compile(&file, draft, &around);
    outcome.compiled.ok_or_else(|| Problems::new(file, outcome.problems, names))
}

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
