//! What is wrong with a configuration is said at its place, with the cure, and all of it at once.
//!
//! Every file in `tests/config_errors/` ends in what must be said about it, line by line after `#> `. To write
//! those lines again (and then read them): `TEAMGATE_WRITE_EXPECTED=1 cargo test --test config_errors`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use teamgate::clock::Clock;
use teamgate::config::load;

type Outcome = Result<(), Box<dyn Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MARK: &str = "#> ";

/// The only variables that fixtures have.
fn lookup(name: &str) -> Option<String> {
    match name {
        "ADDRESS" | "ID" => Some("not-an-address".to_owned()),
        "EMPTY" => Some(String::new()),
        "SECRET" => Some("hunter2".to_owned()),
        "BITBUCKET_CLIENT_ID" => Some("an-id".to_owned()),
        _ => None,
    }
}

/// What is said about `file`, under a name that does not depend on the machine.
fn said(file: &Path) -> Vec<String> {
    let (mut problems, head) = match load(file, &lookup, Clock::system().now()) {
        Ok(compiled) => (compiled.warnings, "warnings only"),
        Err(problems) => (problems, ""),
    };
    problems.file = "teamgate.yaml".to_owned();
    match head {
        "" => problems.to_string().lines().map(str::to_owned).collect(),
        head => std::iter::once(head.to_owned()).chain(problems.lines()).collect(),
    }
}

fn fixtures() -> Result<Vec<PathBuf>, std::io::Error> {
    let mut files: Vec<PathBuf> = fs::read_dir(format!("{ROOT}/tests/config_errors"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

#[test]
fn every_fixture_is_told_exactly_what_it_expects() -> Outcome {
    // what a checkout makes of permissions depends on the machine
    let readable = format!("{ROOT}/tests/config_errors/secret_for_the_warning");
    fs::set_permissions(readable, fs::Permissions::from_mode(0o644))?;
    for file in fixtures()? {
        let text = fs::read_to_string(&file)?;
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
        let found = said(&file);
        if std::env::var_os("TEAMGATE_WRITE_EXPECTED").is_some() {
            let body: Vec<&str> = text.lines().filter(|line| !line.starts_with(MARK)).collect();
            let lines: Vec<String> = found.iter().map(|line| format!("{MARK}{line}")).collect();
            fs::write(&file, format!("{}\n\n{}\n", body.join("\n").trim_end(), lines.join("\n")))?;
            continue;
        }
        assert_eq!(found, expected, "{}", file.display());
    }
    Ok(())
}

/// The same words about another key count once.
#[test]
fn at_least_a_hundred_different_things_are_found_wrong() -> Outcome {
    let mut kinds = BTreeSet::new();
    let mut most = 0;
    for file in fixtures()? {
        let Err(problems) = load(&file, &lookup, Clock::system().now()) else { continue };
        most = most.max(problems.list.len());
        for problem in problems.list {
            let mut quoted = false;
            let kind: String = problem
                .message
                .chars()
                .filter(|c| {
                    quoted ^= *c == '`';
                    !quoted && !c.is_ascii_digit()
                })
                .collect();
            kinds.insert(kind);
        }
    }
    assert!(kinds.len() >= 100, "{} kinds", kinds.len());
    assert!(most >= 10, "{most} at once");
    Ok(())
}

#[test]
fn no_secret_and_no_content_of_a_variable_is_quoted() -> Outcome {
    for file in fixtures()? {
        for line in said(&file) {
            assert!(
                !line.contains("hunter2") && !line.contains("not-an-address"),
                "{}: {line}",
                file.display()
            );
        }
    }
    Ok(())
}

#[test]
fn the_example_files_load_without_a_warning() -> Outcome {
    let lookup = |name: &str| name.starts_with("BITBUCKET_CLIENT_").then(|| "value".to_owned());
    for name in ["example", "production"] {
        let compiled =
            load(&PathBuf::from(format!("{ROOT}/config/{name}.yaml")), &lookup, Clock::system().now())?;
        assert_eq!(compiled.warnings.list, [], "{name}");
        assert!(compiled.routes.len() >= 3, "{name}");
    }
    Ok(())
}
