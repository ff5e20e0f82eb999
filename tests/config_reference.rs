//! The reference page, the JSON Schema and the example files are what the code says.

use std::error::Error;
use std::fs;

use teamgate::config::{reference::reference, schema::published};

type Outcome = Result<(), Box<dyn Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn keeps_current(file: &str, current: &str) -> Outcome {
    let path = format!("{ROOT}/{file}");
    if std::env::var_os("TEAMGATE_WRITE_DOCS").is_some() {
        fs::write(&path, current)?;
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == current,
        "{file} is not current. To write it again:\n\n    \
         TEAMGATE_WRITE_DOCS=1 cargo test --test config_reference\n"
    );
    Ok(())
}

#[test]
fn the_page_is_what_the_code_says() -> Outcome {
    let example = fs::read_to_string(format!("{ROOT}/config/production.yaml"))?;
    keeps_current("docs/configuration.md", &reference(&example)?)
}

#[test]
fn the_schema_is_what_the_code_says() -> Outcome {
    let text = serde_json::to_string_pretty(&published())?;
    keeps_current("docs/teamgate.schema.json", &format!("{text}\n"))
}
