//! What the documents tell people to do can be done: configurations in them are taken by `teamgate validate`,
//! commands in the README are known ones, and no link leads nowhere.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome = Result<(), Box<dyn Error>>;

/// Everything that the README may tell a newcomer to type. A command that is not here is run by nobody.
const COMMANDS: &[&str] = &["cargo run -- dev", "cargo test", "teamgate validate", "teamgate run"];

/// What a configuration in the documents may expect of its environment.
const VARIABLES: &[(&str, &str)] =
    &[("BITBUCKET_CLIENT_ID", "an-id"), ("BITBUCKET_CLIENT_SECRET", "a-secret-of-some-length")];

/// The certificate that configurations in the documents name.
fn write_certificate(folder: &Path) -> Outcome {
    let names = vec!["wiki.example.com".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    for (name, text) in [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())] {
        fs::write(folder.join(name), text)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// A block between fences.
#[derive(Debug)]
struct Block {
    page: String,
    line: usize,
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the project: its path below the root, and its text.
fn pages() -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "bitbucket-sim", "deploy", "config"] {
        for entry in fs::read_dir(root().join(folder))? {
            let name = entry?.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                let path = Path::new(folder).join(name);
                pages.push((path.clone(), fs::read_to_string(root().join(&path))?));
            }
        }
    }
    pages.sort();
    Ok(pages)
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, content) in text.lines().enumerate() {
        match (content.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                let language = language.split([',', ' ']).next().unwrap_or_default().to_owned();
                open = Some(Block { page: page.to_owned(), line: line + 1, language, text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text.push_str(content);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

fn all_blocks() -> std::io::Result<Vec<Block>> {
    Ok(pages()?.iter().flat_map(|(page, text)| blocks(&page.to_string_lossy(), text)).collect())
}

/// The commands of a block: without comments, prompts and what a `console` block shows as output; a line that
/// ends in a backslash goes on.
fn commands(block: &Block) -> Vec<String> {
    let text = block.text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let typed = lines.filter_map(|line| match block.language.as_str() {
        "sh" | "bash" => Some(line.strip_prefix("$ ").unwrap_or(line)),
        "console" => line.strip_prefix("$ "),
        _ => None,
    });
    typed.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Whether the block is a whole configuration, not a piece that shows one key.
fn is_whole(yaml: &str) -> bool {
    ["bitbucket:", "routes:"].iter().all(|key| yaml.lines().any(|line| line.starts_with(key)))
}

/// Where the links of a page lead, as they are written; images too. Code is no link.
fn links(text: &str) -> Vec<String> {
    let mut inside = false;
    let prose: String = text
        .lines()
        .filter(|line| {
            inside ^= line.trim_start().starts_with("```");
            !inside
        })
        .map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`") + "\n")
        .collect();
    prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The name that a heading is linked by.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    plain
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line.starts_with('#') && anchor(line) == wanted)
        || text.contains(&format!("id=\"{wanted}\""))
}

#[test]
fn every_configuration_in_the_documents_is_valid() -> Outcome {
    let folder = tempfile::tempdir()?;
    write_certificate(folder.path())?;
    let mut seen = 0;
    for block in all_blocks()?.iter().filter(|block| block.language == "yaml" && is_whole(&block.text)) {
        let file = folder.path().join(format!("{seen}.yaml"));
        fs::write(&file, &block.text)?;
        let output = Command::new(env!("CARGO_BIN_EXE_teamgate"))
            .args(["validate", "--config"])
            .arg(&file)
            .env_clear()
            .envs(VARIABLES.iter().copied())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}:{}: {said}", block.page, block.line);
        seen += 1;
    }
    assert!(seen >= 2, "only {seen} configurations found: README and docs/configuration.md have one each");
    Ok(())
}

#[test]
fn a_configuration_with_a_slip_would_be_found() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("teamgate.yaml");
    for block in all_blocks()?.iter().filter(|block| block.language == "yaml" && is_whole(&block.text)) {
        fs::write(&file, block.text.replace("teams:", "taems:"))?;
        let output = Command::new(env!("CARGO_BIN_EXE_teamgate"))
            .args(["validate", "--config"])
            .arg(&file)
            .envs(VARIABLES.iter().copied())
            .output()?;
        assert_eq!(output.status.code(), Some(1), "{}:{}", block.page, block.line);
    }
    Ok(())
}

#[test]
fn the_readme_tells_nobody_to_type_what_is_not_tried() -> Outcome {
    let readme = fs::read_to_string(root().join("README.md"))?;
    for block in blocks("README.md", &readme) {
        for command in commands(&block) {
            assert!(COMMANDS.contains(&command.as_str()), "README.md:{}: {command}", block.line);
        }
    }
    let try_it =
        readme.split("## Try it").nth(1).and_then(|rest| rest.split("\n## ").next()).ok_or("no Try it")?;
    let typed: Vec<String> = blocks("README.md", try_it).iter().flat_map(commands).collect();
    assert_eq!(typed, ["cargo run -- dev", "cargo test"]);
    Ok(())
}

/// `validate` and `run` are tried elsewhere with arguments; without, they look for `teamgate.yaml` here.
#[test]
fn the_commands_of_the_readme_exist() -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_teamgate")).arg("--help").output()?;
    let help = String::from_utf8(output.stdout)?;
    for command in COMMANDS.iter().filter_map(|command| command.strip_prefix("teamgate ")) {
        let listed = help.lines().any(|line| line.split_whitespace().next() == Some(command));
        assert!(listed, "{command} is not in\n{help}");
    }
    Ok(())
}

#[test]
fn no_link_leads_nowhere() -> Outcome {
    let pages = pages()?;
    assert!(pages.len() > 5, "only {} pages found", pages.len());
    let mut dead = Vec::new();
    for (page, text) in &pages {
        for link in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let there = root().join(&target);
            let found = there.exists()
                && (fragment.is_empty()
                    || has_anchor(&fs::read_to_string(&there).unwrap_or_default(), fragment));
            if !found {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
    Ok(())
}

#[test]
fn pages_are_read_as_they_are_written() {
    let text = "# A *b*, c!\n[x](a.md#b) `[no](x.md)` ![y](p.svg)\n```sh\n# note\n$ cargo  run \\\n  -- dev\n# [n](o.md)\n```\n```console\n$ ls\nREADME.md\n```\n";
    assert_eq!(links(text), ["a.md#b", "p.svg"]);
    let typed: Vec<_> = blocks("p", text).iter().map(commands).collect();
    assert_eq!(typed, [vec!["cargo run -- dev".to_owned()], vec!["ls".to_owned()]]);
    assert!(has_anchor(text, "a-b-c") && !has_anchor(text, "b"));
    assert!(is_whole("bitbucket:\n  x: y\nroutes: []\n") && !is_whole("a:\n  bitbucket:\nroutes:\n"));
}
