//! What the map in `lib.rs` promises about the code is true: imports go up the list, each outside thing stays
//! behind its module, time and chance come in as arguments, and only three places vouch for a person.
//!
//! The rules are functions of a text, so that each is shown to bite on a text that breaks it.

#[path = "layers/dependencies.rs"]
mod dependencies;
#[path = "layers/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use Fenced::{Crate, Name, Within};
use source::Token;

type Outcome = Result<(), Box<dyn Error>>;

/// Something that only some modules may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fenced {
    /// A crate, and those whose names begin with its own: `pingora`, `pingora_core`.
    Crate(&'static str),
    /// A path and what is below it.
    Within(&'static [&'static str]),
    /// A name, wherever in a path.
    Name(&'static str),
}

/// What is fenced, and the modules inside. A module's name stands for what is below it, too.
const FENCES: &[(Fenced, &[&str])] = &[
    // Edges and assembly; the rest can be tested without a socket.
    (Crate("pingora"), &["listener", "proxy", "app"]),
    (Crate("axum"), &["pages", "admin", "proxy/own", "app", "dev"]),
    // Files for browsers: found and read in one place only.
    (Crate("tower_http"), &["proxy/answer"]),
    (Crate("cap_std"), &["proxy/answer"]),
    (Crate("rustix"), &["proxy/answer"]),
    (Crate("http_body_util"), &["proxy/answer"]),
    // Gateways: each hides one outside thing.
    (Crate("reqwest"), &["bitbucket", "dev"]),
    (Crate("oauth2"), &["bitbucket"]),
    (Crate("redb"), &["store"]),
    (Crate("prometheus"), &["telemetry"]),
    (Crate("tracing_subscriber"), &["telemetry"]),
    // The demo app verifies as any app would.
    (Crate("jsonwebtoken"), &["keys", "dev"]),
    (Crate("askama"), &["pages", "dev"]),
    (Crate("serde_saphyr"), &["config"]),
    (Crate("schemars"), &["config"]),
    (Crate("clap"), &["cli", "main"]),
    (Crate("bitbucket_sim"), &["dev"]),
    // What depends on the environment is not a function of its arguments.
    (Within(&["std", "env"]), &["cli"]),
    // The time of day decides about sessions and memberships, so it comes in as `now`.
    (Name("SystemTime"), &["clock"]),
    (Name("UNIX_EPOCH"), &["clock"]),
    (Name("now_utc"), &["clock"]),
    (Name("now_local"), &["clock"]),
    // Monotonic, so it cannot say how old anything kept is: time limits and measurements.
    (Name("Instant"), &["bitbucket/transport", "store", "proxy", "app"]),
    (Name("SystemRandom"), &["entropy"]),
];

/// Where a fence is open, and why.
const GATES: &[(&str, Fenced, &str)] = &[
    ("proxy", Crate("axum"), "it keeps the Router that proxy/own asks, and calls nothing of it"),
    (
        "proxy/answer/files",
        Name("SystemTime"),
        "when a file was changed, for its validators; nothing is decided by it",
    ),
    ("dev", Within(&["std", "env"]), "where temporary files go is no setting of the gateway's"),
];

/// Who vouches for a person, and on whose word.
const VOUCHERS: &[(&str, &str)] = &[
    ("bitbucket", "Bitbucket's answer over an authenticated connection"),
    ("cli/explain", "nobody's: the person is supposed, and no request is admitted"),
    ("store/record", "our own record of such an answer"),
];

/// What says nothing about what is in a file.
const NAMES_WITHOUT_MEANING: &[&str] = &[
    "mod", "util", "utils", "helper", "helpers", "common", "manager", "handler", "types", "prelude", "misc",
];

/// One source file of the crate.
struct File {
    /// Its path below `src`, without the extension: `proxy/own`.
    name: String,
    text: String,
}

impl File {
    fn new(below: &str, text: &str) -> File {
        File { name: below.trim_end_matches(".rs").to_owned(), text: text.to_owned() }
    }

    /// The module of `lib.rs` that it belongs to.
    fn module(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    fn is_in(&self, modules: &[&str]) -> bool {
        modules.iter().any(|module| {
            self.name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The map and the binary: they stand above all modules.
    fn is_root(&self) -> bool {
        matches!(self.name.as_str(), "lib" | "main")
    }

    /// Without the modules of tests.
    fn code(&self) -> Vec<Token> {
        source::without_tests(&source::tokens(&self.text))
    }
}

fn crate_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn tree() -> std::io::Result<Vec<File>> {
    Ok(source::files(&crate_root())?.iter().map(|(below, text)| File::new(below, text)).collect())
}

/// The modules of `lib.rs`, from the ground up.
fn order() -> std::io::Result<Vec<String>> {
    let map = fs::read_to_string(crate_root().join("lib.rs"))?;
    Ok(map.lines().filter_map(|l| Some(l.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned())).collect())
}

// ── the rules, each: what is wrong with this file

fn imports_from_below(file: &File, order: &[String]) -> Vec<String> {
    let place = |name: &str| order.iter().position(|known| known == name);
    if file.is_root() {
        return Vec::new();
    }
    let Some(own) = place(file.module()) else {
        return vec![format!("{} is not on the map in lib.rs", file.name)];
    };
    let depth = file.name.split('/').count();
    let wrong = source::paths(&file.code()).into_iter().filter_map(|path| {
        let named = match path.first()?.as_str() {
            "crate" => path.get(1)?,
            // As many steps up as the file is deep lead to the root.
            "super" if path.iter().take_while(|name| *name == "super").count() == depth => path.get(depth)?,
            _ => return None,
        };
        place(named).is_some_and(|used| used > own).then(|| format!("{} uses {named}", file.name))
    });
    wrong.collect::<BTreeSet<_>>().into_iter().collect()
}

fn climbs_a_fence(file: &File) -> Vec<String> {
    let paths = source::paths(&file.code());
    let wrong = FENCES.iter().filter(|(fenced, inside)| {
        let open = GATES.iter().any(|(name, what, _)| file.name == *name && what == fenced);
        !file.is_in(inside) && !open && paths.iter().any(|path| fenced.is_named_by(path))
    });
    wrong.map(|(fenced, _)| format!("{} names {fenced:?}", file.name)).collect()
}

impl Fenced {
    fn is_named_by(self, path: &[String]) -> bool {
        match self {
            // A single name may be anybody's variable.
            Crate(name) => {
                path.len() > 1
                    && path[0].strip_prefix(name).is_some_and(|r| r.is_empty() || r.starts_with('_'))
            }
            Within(prefix) => path.len() >= prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b),
            Name(name) => path.iter().any(|part| part == name),
        }
    }
}

fn vouches(file: &File) -> usize {
    let code = file.code();
    let calls = code
        .windows(2)
        .filter(|pair| pair[1].ident() == Some("vouched_for") && pair[0].ident() != Some("fn"));
    calls.count()
}

/// Holds in tests, too.
fn leaves_a_hole(file: &File) -> Vec<String> {
    use Token::{Ident, Sign};

    let tokens = source::tokens(&file.text);
    let unfinished = tokens.windows(2).filter_map(|pair| {
        let name = pair[0].ident().filter(|name| matches!(*name, "todo" | "unimplemented"))?;
        (pair[1] == Sign('!')).then(|| format!("{} has a {name}!", file.name))
    });
    let allows = (0..tokens.len()).filter(|&at| match &tokens[at..] {
        [Sign('#'), Sign('!'), Sign('['), Ident(name), Sign('('), ..]
        | [Sign('#'), Sign('['), Ident(name), Sign('('), ..] => name == "allow",
        _ => false,
    });
    unfinished.chain(allows.map(|_| format!("{} allows what an #[expect] would argue", file.name))).collect()
}

fn has_no_header(file: &File) -> Vec<String> {
    let header: Vec<&str> = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let mut wrong = Vec::new();
    if header.is_empty() {
        wrong.push(format!("{} does not begin with //!", file.name));
    } else if !file.is_root() && !header.iter().any(|line| line.contains("Owns")) {
        wrong.push(format!("{} does not say what it owns", file.name));
    }
    if file.name.split('/').any(|part| NAMES_WITHOUT_MEANING.contains(&part)) {
        wrong.push(format!("{} has a name that says nothing", file.name));
    }
    wrong
}

// ── the tree keeps them

fn everywhere(rule: impl Fn(&File) -> Vec<String>) -> Outcome {
    let files = tree()?;
    assert!(files.len() > 80, "only {} files found", files.len());
    let wrong: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn imports_go_up_the_list() -> Outcome {
    let order = order()?;
    assert!(order.len() > 20, "{order:?}");
    everywhere(|file| imports_from_below(file, &order))
}

#[test]
fn outside_things_stay_behind_their_module() -> Outcome {
    everywhere(climbs_a_fence)
}

#[test]
fn only_three_places_vouch_for_a_person() -> Outcome {
    let mut found = Vec::new();
    for file in tree()? {
        found.extend(std::iter::repeat_n(file.name.clone(), vouches(&file)));
    }
    let expected: Vec<&str> = VOUCHERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn nothing_is_left_undone_or_silenced() -> Outcome {
    everywhere(leaves_a_hole)
}

#[test]
fn every_file_says_what_it_owns() -> Outcome {
    everywhere(has_no_header)
}

#[test]
fn the_tree_in_the_architecture_is_the_tree() -> Outcome {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md"))?;
    let shown: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(".rs "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with(' ') && !matches!(name.as_str(), "main" | "lib"))
        .collect();
    assert_eq!(shown, order()?);
    Ok(())
}

#[test]
fn a_gate_that_nobody_uses_is_closed() -> Outcome {
    let files = tree()?;
    for (name, fenced, reason) in GATES {
        let file = files.iter().find(|file| file.name == *name).ok_or("a gate for a file that is gone")?;
        let used = source::paths(&file.code()).iter().any(|path| fenced.is_named_by(path));
        assert!(used, "{name} no longer names {fenced:?} ({reason})");
    }
    Ok(())
}

// ── and each bites

/// As in `lib.rs`, but few.
fn few() -> Vec<String> {
    ["clock", "identity", "policy", "store", "gate", "proxy"].map(str::to_owned).to_vec()
}

#[test]
fn an_import_from_below_is_found_however_it_is_written() {
    for planted in [
        "use crate::proxy::Proxy;",
        "pub(crate) use crate::proxy as edge;",
        "use crate::{clock::Timestamp, gate::{Gate, cookie::{self, Settings}}};",
        "use crate::{\n    clock,\n    gate,\n};",
        "fn f() -> bool { crate::gate::check() }",
        "impl From<crate::gate::Error> for X {}",
        "#[derive(X)] struct S { gate: Option<&'static crate::gate::Gate> }",
        "use super::super::gate::Gate;",
        "const C: char = '\"'; use crate::gate::Gate; const D: char = '\"';",
        "fn f<'a>(x: &'a str) -> crate::gate::Pass<'a> {}",
        "#[cfg(not(test))] mod inner { use crate::gate::Gate; }",
        "#[cfg(test)] use crate::gate::Gate;",
    ] {
        let file = File::new("store/embedded.rs", planted);
        assert_eq!(imports_from_below(&file, &few()).len(), 1, "{planted}");
    }
    for fine in [
        "use crate::clock::Timestamp;",
        "use crate::store::Store;",
        "use super::gate::Gate;",
        "// use crate::gate::Gate;",
        "/* use /* crate::gate */ crate::gate::Gate; */",
        "//! See [`crate::gate`].",
        "const S: &str = \"crate::gate::Gate \\\" crate::gate\";",
        "const S: &str = r#\"crate::gate\" crate::gate\"#;",
        "#[cfg(test)]\nmod tests { use crate::gate::Gate; fn f() { {} } }",
        "#[cfg(test)] #[expect(x, reason = \"y\")] pub mod tests { use crate::proxy::Proxy; }",
        "crate::macro_of_ours!(x);",
    ] {
        let file = File::new("store/embedded.rs", fine);
        assert_eq!(imports_from_below(&file, &few()), [""; 0], "{fine}");
    }
    let after = "#[cfg(test)] mod tests { fn f() { if true {} } } use crate::gate::Gate;";
    assert_eq!(imports_from_below(&File::new("store.rs", after), &few()), ["store uses gate"]);
    assert_eq!(
        imports_from_below(&File::new("store.rs", "use super::gate::Gate;"), &few()),
        ["store uses gate"]
    );
    let stranger = imports_from_below(&File::new("utils.rs", ""), &few());
    assert_eq!(stranger, ["utils is not on the map in lib.rs"]);
}

#[test]
fn a_climber_is_found_at_each_fence() {
    for (file, planted, fence) in [
        ("gate.rs", "use pingora::proxy::Session;", "pingora"),
        ("login.rs", "fn f(session: &mut pingora_proxy::Session) {}", "pingora"),
        ("proxy/upstream.rs", "use axum::body::Body;", "axum"),
        ("proxying.rs", "use pingora::proxy::Session;", "pingora"),
        ("login.rs", "async fn f() { let _ = reqwest::get(\"http://x\").await; }", "reqwest"),
        ("login.rs", "use oauth2::{CsrfToken};", "oauth2"),
        ("directory.rs", "use redb::Database;", "redb"),
        ("gate.rs", "use prometheus::IntCounter;", "prometheus"),
        ("app.rs", "use tracing_subscriber::EnvFilter;", "tracing_subscriber"),
        ("assertion.rs", "use jsonwebtoken::encode;", "jsonwebtoken"),
        ("admin.rs", "#[derive(askama::Template)] struct T;", "askama"),
        ("app.rs", "serde_saphyr::from_str(text)", "serde_saphyr"),
        ("route.rs", "#[derive(schemars::JsonSchema)] struct T;", "schemars"),
        ("app.rs", "use clap::Parser;", "clap"),
        ("app.rs", "use bitbucket_sim::World;", "bitbucket_sim"),
        ("config.rs", "let home = std::env::var(\"HOME\");", "env"),
        ("config.rs", "use std::{env, fs};", "env"),
        ("config.rs", "use std::{collections::HashMap, env::{self, var}};", "env"),
        ("gate.rs", "let now = std::time::SystemTime::now();", "SystemTime"),
        ("gate.rs", "use std::time::{Duration, SystemTime as Time};", "SystemTime"),
        ("gate.rs", "UNIX_EPOCH.elapsed()", "UNIX_EPOCH"),
        ("session.rs", "time::OffsetDateTime::now_utc()", "now_utc"),
        ("session.rs", "let f = OffsetDateTime::now_local;", "now_local"),
        ("policy.rs", "use std::time::Instant;", "Instant"),
        ("policy.rs", "use tokio::time; fn f() { time::Instant::now(); }", "Instant"),
        ("bitbucket/rest.rs", "use tokio::time::Instant;", "Instant"),
        ("keys.rs", "aws_lc_rs::rand::SystemRandom::new()", "SystemRandom"),
    ] {
        let found = climbs_a_fence(&File::new(file, planted));
        assert!(found.iter().any(|wrong| wrong.contains(fence)), "{file}: {planted}: {found:?}");
    }
    for (file, fine) in [
        ("proxy.rs", "use pingora::proxy::Session;"),
        ("proxy/own.rs", "use axum::Router; use pingora::http::ResponseHeader;"),
        ("gate.rs", "//! Must not know: pingora::proxy.\nfn f(axum: u8) -> u8 { axum }"),
        ("telemetry/log.rs", "const MUTED: [&str; 1] = [\"pingora_core::apps\"];"),
        ("store/embedded.rs", "use redb::Database;"),
        ("config.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");"),
        ("clock.rs", "SystemTime::now()"),
    ] {
        assert_eq!(climbs_a_fence(&File::new(file, fine)), [""; 0], "{file}: {fine}");
    }
}

#[test]
fn every_fence_has_somebody_inside() -> Outcome {
    let files = tree()?;
    for (fenced, inside) in FENCES {
        let used = files.iter().any(|file| {
            file.is_in(inside) && source::paths(&file.code()).iter().any(|path| fenced.is_named_by(path))
        });
        // Fences against what nobody does at all.
        let for_nobody = matches!(fenced, Name("now_utc" | "now_local"));
        assert!(used || for_nobody, "{fenced:?} is spelt in a way that nobody uses");
    }
    Ok(())
}

#[test]
fn a_voucher_is_counted_however_it_is_called() {
    for (planted, count) in [
        ("VerifiedIdentity::vouched_for(claims)", 1),
        ("use crate::identity::VerifiedIdentity as V; fn f() { V::vouched_for(a); V::vouched_for(b); }", 2),
        ("claims.map(VerifiedIdentity::vouched_for)", 1),
        ("pub fn vouched_for(claims: Claims) -> VerifiedIdentity { todo }", 0),
        ("/// [`VerifiedIdentity::vouched_for`]\nstruct S;", 0),
        ("#[cfg(test)] mod tests { fn f() { VerifiedIdentity::vouched_for(claims); } }", 0),
    ] {
        assert_eq!(vouches(&File::new("gate.rs", planted)), count, "{planted}");
    }
}

#[test]
fn a_hole_is_found_in_tests_too() {
    for planted in [
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"later\") }",
        "#[allow(dead_code)] struct S;",
        "#![allow(missing_docs)]",
        "#[cfg(test)] mod tests { #[allow(unused)] fn f() {} }",
    ] {
        assert_eq!(leaves_a_hole(&File::new("gate.rs", planted)).len(), 1, "{planted}");
    }
    for fine in [
        "// todo!()",
        "let text = \"#[allow(x)]\";",
        "#[expect(x, reason = \"y\")] struct S;",
        "fn todo() {}",
        "f(vec![allow(x)])",
    ] {
        assert_eq!(leaves_a_hole(&File::new("gate.rs", fine)), [""; 0], "{fine}");
    }
}

#[test]
fn a_file_without_a_header_or_a_meaning_is_found() {
    for (name, text) in [
        ("gate.rs", "use std::fs;\n//! Owns: x."),
        ("gate.rs", "//! The gate.\n\n/// Owns: x.\nstruct S;"),
        ("gate.rs", ""),
        ("gate/utils.rs", "//! Owns: what has no place."),
        ("gate/mod.rs", "//! Owns: x."),
        ("common/gate.rs", "//! Owns: x."),
    ] {
        assert_eq!(has_no_header(&File::new(name, text)).len(), 1, "{name}: {text}");
    }
    assert_eq!(has_no_header(&File::new("gate.rs", "//! The gate.\n//!\n//! Owns: x.")), [""; 0]);
    assert_eq!(has_no_header(&File::new("lib.rs", "//! The map.")), [""; 0]);
}
