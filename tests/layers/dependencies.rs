//! `docs/dependencies.md` has a line for each direct dependency and for nothing else, and each is used.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Outcome, source};

/// In `Cargo.toml` for the features that they switch on, not to be called.
const CARRIERS: [&str; 3] = ["bitflags", "getrandom", "zerocopy"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names below `[dependencies]` and `[dev-dependencies]`.
fn direct(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = matches!(line, "[dependencies]" | "[dev-dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            names.insert(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

/// What stands between backticks in `text`.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The crates that `page` has a line for: first cells of its tables, and the list of what the simulator shares.
fn explained(page: &str) -> BTreeSet<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(quoted).collect()
}

fn shared_by_the_simulator(page: &str) -> BTreeSet<String> {
    let sentence = page.split("It shares").nth(1).and_then(|rest| rest.split("with the").next());
    sentence.into_iter().flat_map(quoted).collect()
}

/// The crates that code in `folders` names.
fn named(folders: &[PathBuf]) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in folders {
        for (_, text) in source::files(folder)? {
            // A single name may be anybody's variable.
            let paths = source::paths(&source::tokens(&text));
            names.extend(paths.into_iter().filter(|path| path.len() > 1).map(|mut path| path.swap_remove(0)));
        }
    }
    Ok(names)
}

#[test]
fn every_direct_dependency_has_a_line_and_every_line_a_dependency() -> Outcome {
    let page = fs::read_to_string(root().join("docs/dependencies.md"))?;
    let gateway = direct(&fs::read_to_string(root().join("Cargo.toml"))?);
    let simulator = direct(&fs::read_to_string(root().join("bitbucket-sim/Cargo.toml"))?);
    assert!(gateway.len() > 30 && simulator.len() > 10, "{gateway:?} {simulator:?}");

    let explained = explained(&page);
    let all: BTreeSet<String> = gateway.union(&simulator).cloned().collect();
    assert_eq!(explained, all);
    assert_eq!(shared_by_the_simulator(&page), gateway.intersection(&simulator).cloned().collect());
    Ok(())
}

#[test]
fn every_direct_dependency_is_used() -> Outcome {
    for (folder, parts) in [
        (root().to_owned(), &["src", "tests", "benches"][..]),
        (root().join("bitbucket-sim"), &["src", "tests"]),
    ] {
        let parts: Vec<PathBuf> = parts.iter().map(|part| folder.join(part)).collect();
        let used = named(&parts)?;
        let unused: Vec<String> = direct(&fs::read_to_string(folder.join("Cargo.toml"))?)
            .into_iter()
            .filter(|name| !CARRIERS.contains(&name.as_str()) && !used.contains(&name.replace('-', "_")))
            .collect();
        assert!(unused.is_empty(), "{}: nobody uses {unused:?}", folder.display());
    }
    Ok(())
}

#[test]
fn manifests_and_pages_are_read_as_they_are_written() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\n# b = \"1\"\nc-d = { path = \"e\" }\nf.workspace = true\n\n[dev-dependencies]\ng = \"1\"\n[profile.dev]\ndebug = 1\n";
    assert_eq!(direct(manifest), ["a", "c-d", "f", "g"].map(str::to_owned).into());
    let page = "`z` is\n| crate | why |\n|---|---|\n| `a` | not `b` |\n| `c` `d` | |\nIt shares `e` and `f` with the rest.";
    assert_eq!(explained(page), ["a", "c", "d"].map(str::to_owned).into());
    assert_eq!(shared_by_the_simulator(page), ["e", "f"].map(str::to_owned).into());
}
