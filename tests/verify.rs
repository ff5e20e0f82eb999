//! The snippets of docs/verify.md, as they stand there, against assertions of a running gateway and against what
//! an attacker would send instead.
//!
//! Each language needs its own tools and, once, its package registry. Python and Node are always tried;
//! `TEAMGATE_SKIP_VERIFY=go,java,rust` leaves out those that it names.

#[path = "verify/forge.rs"]
mod forge;
#[path = "verify/process.rs"]
mod process;
#[path = "verify/world.rs"]
mod world;

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use forge::{ALGORITHMS, Key};
use process::{run, say};
use serde_json::{Value, json};
use teamgate::clock::Clock;
use world::Gateway;

type Outcome = Result<(), Box<dyn StdError>>;

const DOC: &str = include_str!("../docs/verify.md");
const ANN: &str = "ok a0000000-0000-4000-8000-0000000000a1 ";
/// To install and compile, with an empty cache and a slow network.
const INSTALLING: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn the_python_snippet_believes_the_gateway_and_nobody_else() -> Outcome {
    let folder = prepare("python", "verify.py", &["requirements.txt"])?;
    let python = folder.join("venv/bin/python");
    once(&folder, &["requirements.txt"], || {
        run(Command::new("python3").args(["-m", "venv", "venv"]).current_dir(&folder), "", INSTALLING)?;
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        run(Command::new(&python).args(pip).current_dir(&folder), "", INSTALLING)
    })?;
    try_all(&ALGORITHMS, || command(&folder, &python, &["verify.py"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_snippet_believes_the_gateway_and_nobody_else() -> Outcome {
    let manifests = ["package.json", "package-lock.json", ".npmrc"];
    let folder = prepare("node", "verify.mjs", &manifests)?;
    once(&folder, &manifests, || run(Command::new("npm").arg("ci").current_dir(&folder), "", INSTALLING))?;
    try_all(&ALGORITHMS, || command(&folder, Path::new("node"), &["verify.mjs"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_snippet_believes_the_gateway_and_nobody_else() -> Outcome {
    if skipped("go") {
        return Ok(());
    }
    let folder = prepare("go", "verify.go", &["go.mod", "go.sum"])?;
    once(&folder, &["go.mod", "go.sum", "verify.go"], || {
        run(Command::new("go").args(["build", "-o", "verify", "."]).current_dir(&folder), "", INSTALLING)
    })?;
    try_all(&ALGORITHMS, || command(&folder, &folder.join("verify"), &[])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_snippet_believes_the_gateway_and_nobody_else() -> Outcome {
    if skipped("java") {
        return Ok(());
    }
    let folder = prepare("java", "Verify.java", &["pom.xml"])?;
    once(&folder, &["pom.xml"], || {
        let copy = ["--batch-mode", "--quiet", "dependency:copy-dependencies", "-DoutputDirectory=lib"];
        run(Command::new("mvn").args(copy).current_dir(&folder), "", INSTALLING)
    })?;
    // As the document says: this library's processor knows no EdDSA.
    try_all(&["ES256", "RS256"], || command(&folder, Path::new("java"), &["-cp", "lib/*", "Verify.java"]))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_snippet_believes_the_gateway_and_nobody_else() -> Outcome {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify.rs");
    assert_eq!(
        snippet("verify.rs")?,
        fs::read_to_string(example)?,
        "examples/verify.rs is what the document shows"
    );
    if skipped("rust") {
        return Ok(());
    }
    let binaries = Path::new(env!("CARGO_BIN_EXE_teamgate")).parent().ok_or("the binary is in a folder")?;
    let target = binaries.parent().ok_or("so is the profile")?;
    // Cargo's words to this test would make build scripts run again in the Cargo that it starts.
    let told = [
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
        "CARGO_TARGET_TMPDIR",
    ];
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", "verify", "--target-dir"]).arg(target);
    build.env_remove("CARGO").env_remove("OUT_DIR").env_remove("LD_LIBRARY_PATH");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|start| name.starts_with(start))) {
            build.env_remove(name);
        }
    }
    run(build.current_dir(env!("CARGO_MANIFEST_DIR")), "", INSTALLING)?;
    try_all(&ALGORITHMS, || command(target, &target.join("debug/examples/verify"), &[])).await
}

#[test]
fn the_routes_and_headers_for_apps_that_cannot_be_changed_are_accepted() -> Outcome {
    let mut config = "listen: [{ address: '127.0.0.1:8080' }]
external_url: https://gate.example.com
bitbucket: { client_id: id, client_secret: secret, include_team_groups: true }
session: { cookie_domain: example.com }
routes:
"
    .to_owned();
    config.push_str(snippet("grafana")?);
    // A row of the table is a route; what stands in its last column are headers.
    let rows = DOC.split("| app | in the app |").nth(1).ok_or("the document has the table")?;
    let rows: Vec<&str> = rows.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 5, "{rows:?}");
    for (number, row) in rows.iter().enumerate() {
        let last = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let headers: Vec<&str> = last.split('`').filter(|code| code.contains(": \"")).collect();
        config.push_str(&format!(
            "  - name: app-{number}
    host: app-{number}.example.com
    teams: [ops]
    upstream: http://10.0.0.9:80
    headers: {{ {} }}
",
            headers.join(", ")
        ));
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("teamgate.yaml");
    fs::write(&file, &config)?;
    let mut validate = Command::new(env!("CARGO_BIN_EXE_teamgate"));
    run(validate.arg("validate").arg("--config").arg(&file), "", Duration::from_secs(30))
        .map_err(|error| format!("{error}\n{config}"))?;
    Ok(())
}

fn skipped(language: &str) -> bool {
    let named = env::var("TEAMGATE_SKIP_VERIFY").unwrap_or_default();
    let skipped = named.split(',').any(|name| name.trim() == language);
    if skipped {
        say(&format!("skipped: TEAMGATE_SKIP_VERIFY names {language}"));
    }
    skipped
}

/// A snippet by its title.
fn snippet(title: &str) -> Result<&'static str, Box<dyn StdError>> {
    let fence = format!(" title={title}\n");
    let (_, rest) = DOC.split_once(&fence).ok_or_else(|| format!("the document has no {title}"))?;
    Ok(rest.split_once("\n```").map_or(rest, |(code, _)| &rest[..=code.len()]))
}

/// The snippet and its manifests in a folder of their own.
fn prepare(language: &str, title: &str, manifests: &[&str]) -> Result<PathBuf, Box<dyn StdError>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verify").join(language);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(title), snippet(title)?)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify").join(language);
    for manifest in manifests {
        fs::copy(source.join(manifest), folder.join(manifest))?;
    }
    Ok(folder)
}

/// Does `install`, unless it was done for these very files.
fn once(
    folder: &Path,
    files: &[&str],
    install: impl FnOnce() -> Result<String, Box<dyn StdError>>,
) -> Outcome {
    let stamp = folder.join("installed-for");
    let mut now = Vec::new();
    for file in files {
        now.extend(fs::read(folder.join(file))?);
    }
    if fs::read(&stamp).is_ok_and(|before| before == now) {
        return Ok(());
    }
    install().map_err(|error| {
        format!(
            "{error}\n(a language whose tools are missing can be left out: TEAMGATE_SKIP_VERIFY=go,java,rust)"
        )
    })?;
    fs::write(stamp, now)?;
    Ok(())
}

fn command(folder: &Path, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    // The loopback is asked directly, whatever this machine's settings are.
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    command
}

async fn try_all(algorithms: &[&'static str], program: impl Fn() -> Command) -> Outcome {
    for algorithm in algorithms {
        let gateway = Gateway::start(algorithm).await?;
        against_the_gateways_own_keys(&gateway, algorithm, program())?;
        against_keys_that_we_hold(&gateway, algorithm, program()).await?;
    }
    Ok(())
}

/// What anybody can send who sees an assertion and the published keys.
fn against_the_gateways_own_keys(gateway: &Gateway, algorithm: &'static str, program: Command) -> Outcome {
    let real = &gateway.assertion;
    let (header, claims) = forge::read(real)?;
    let kid = header["kid"].as_str().unwrap_or_default();
    assert_eq!(header["alg"], algorithm);
    let mut ben = claims.clone();
    ben["sub"] = json!("b0000000-0000-4000-8000-0000000000b1");
    let mut unsigned_end = real.clone();
    unsigned_end.truncate(real.rfind('.').unwrap_or_default() + 1);
    let stranger = Key::make(algorithm)?;
    let cases = [
        ("the real one", Believed::Yes, real.clone()),
        ("none at all", Believed::No, String::new()),
        ("no assertion", Believed::No, "ann".to_owned()),
        ("other claims under the old signature", Believed::No, forge::tampered(real, &ben)?),
        ("the signature cut off", Believed::No, unsigned_end),
        ("alg none", Believed::No, forge::unsigned(kid, &claims)),
        ("alg nOnE", Believed::No, forge::unsigned(kid, &claims).replacen("none", "nOnE", 1)),
        ("another key under the gateway’s name", Believed::No, stranger.sign_as(kid, &claims)?),
        ("another key under its own name", Believed::No, stranger.sign(&claims)?),
        ("the public key as secret", Believed::No, forge::with_public_key_as_secret(&gateway.jwk, &claims)?),
        ("the real one again", Believed::Yes, real.clone()),
    ];
    judge(gateway, algorithm, None, program, &cases)
}

/// What only a signer can make: each signed well, by a key that is published, and wrong in one thing.
async fn against_keys_that_we_hold(gateway: &Gateway, algorithm: &'static str, program: Command) -> Outcome {
    let ours = Key::make(algorithm)?;
    let other = Key::make(if algorithm == "ES256" { "RS256" } else { "ES256" })?;
    let keys_at = world::publish(vec![gateway.jwk.clone(), ours.jwk(), other.jwk()]).await?;
    let (_, claims) = forge::read(&gateway.assertion)?;
    let now = Clock::system().now().unix_seconds();
    let with = |changes: &[(&str, Value)]| {
        let mut changed = claims.clone();
        for (name, value) in changes {
            changed[name] = value.clone();
        }
        ours.sign(&changed)
    };
    let without = |name: &str| {
        let mut changed = claims.clone();
        changed.as_object_mut().map(|members| members.remove(name));
        ours.sign(&changed)
    };
    let long_ago = [("iat", json!(now - 400)), ("nbf", json!(now - 400)), ("exp", json!(now - 70))];
    let not_yet = [("nbf", json!(now + 90)), ("exp", json!(now + 400))];
    let cases = [
        ("the real one", Believed::Yes, gateway.assertion.clone()),
        ("one just like it", Believed::Yes, with(&[])?),
        ("an expired one", Believed::No, with(&long_ago)?),
        ("one from the future", Believed::No, with(&not_yet)?),
        ("one for another app", Believed::No, with(&[("aud", json!("https://other.example"))])?),
        ("one of another gateway", Believed::No, with(&[("iss", json!("https://other.example"))])?),
        ("one that never expires", Believed::No, without("exp")?),
        ("one without a beginning", Believed::No, without("nbf")?),
        ("one for nobody in particular", Believed::No, without("aud")?),
        ("one of nobody in particular", Believed::No, without("iss")?),
        ("one about nobody", Believed::No, without("sub")?),
        ("another algorithm, with a published key", Believed::No, other.sign(&claims)?),
    ];
    judge(gateway, algorithm, Some(&keys_at), program, &cases)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Believed {
    Yes,
    No,
}

fn judge(
    gateway: &Gateway,
    algorithm: &str,
    keys_at: Option<&str>,
    mut program: Command,
    cases: &[(&str, Believed, String)],
) -> Outcome {
    program.env("TEAMGATE_ISSUER", &gateway.url).env("TEAMGATE_AUDIENCE", &gateway.url);
    program.env("TEAMGATE_ALGORITHM", algorithm).env_remove("TEAMGATE_JWKS_URL");
    if let Some(url) = keys_at {
        program.env("TEAMGATE_JWKS_URL", url);
    }
    let input: String = cases.iter().flat_map(|(_, _, assertion)| [assertion, "\n"]).collect();
    let output = run(&mut program, &input, Duration::from_secs(60))?;
    // A program may warn on stderr; what it says of an assertion begins with one of two words.
    let said: Vec<&str> =
        output.lines().filter(|line| line.starts_with("ok ") || line.starts_with("refused: ")).collect();
    assert_eq!(said.len(), cases.len(), "{algorithm}: an answer for each\n{output}");
    for ((what, expected, _), said) in cases.iter().zip(said) {
        match expected {
            Believed::Yes => assert!(
                said.starts_with(ANN) && said.contains("acme/administrators"),
                "{algorithm}, {what}: {said}"
            ),
            Believed::No => assert!(said.starts_with("refused: "), "{algorithm}, {what}: {said}"),
        }
    }
    Ok(())
}
