//! The product as its visitors meet it: a real Chromium, without JavaScript, walks through `teamgate dev`.
//!
//! What is checked stands in `browser/walk.mjs`, `browser/hosts.mjs` (several hosts, over https) and `browser/look.mjs`. Needs
//! Chromium, Node 20 and `openssl`; screenshots go
//! to `browser/` in Cargo's folder for test output. `TEAMGATE_SKIP_BROWSER=1` leaves it out.

#[path = "verify/process.rs"]
mod process;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use process::{Serving, free_addresses, run, say};

type Outcome = Result<(), Box<dyn StdError>>;

#[test]
fn a_visitor_finds_the_way_with_a_real_browser() -> Outcome {
    if env::var_os("TEAMGATE_SKIP_BROWSER").is_some_and(|value| value == "1") {
        say("skipped: TEAMGATE_SKIP_BROWSER=1");
        return Ok(());
    }
    needs_node()?;
    needs_chromium()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    install(&here)?;

    let [gateway, admin, bitbucket, strict, strict_admin, nobody, hosts, hosts_admin] = free_addresses()?;
    let dev = Serving::start(
        Command::new(env!("CARGO_BIN_EXE_teamgate")).args([
            "dev",
            &format!("--listen={gateway}"),
            &format!("--admin={admin}"),
            &format!("--bitbucket={bitbucket}"),
        ]),
        gateway,
    )?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("teamgate.yaml");
    fs::write(&config, strict_config(strict, strict_admin, bitbucket, nobody))?;
    let second = Serving::start(
        Command::new(env!("CARGO_BIN_EXE_teamgate")).arg("run").arg("--config").arg(&config),
        strict,
    )?;

    certificate(folder.path())?;
    let config = folder.path().join("hosts.yaml");
    fs::write(&config, hosts_config(hosts, hosts_admin, bitbucket))?;
    let third = Serving::start(
        Command::new(env!("CARGO_BIN_EXE_teamgate"))
            .args(["run", "--config"])
            .arg(&config)
            .current_dir(folder.path()),
        hosts,
    )?;

    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let _ = fs::remove_dir_all(&out);
    let mut walk = Command::new("node");
    walk.arg("walk.mjs")
        .args([gateway, bitbucket, strict].map(|address| format!("http://{address}")))
        .arg(&out);
    let walked = run(walk.current_dir(&here), "", Duration::from_secs(240));
    let mut walk = Command::new("node");
    walk.args(["hosts.mjs", &hosts.port().to_string(), &format!("http://{bitbucket}")])
        .args(["hosts.crt", "hosts.key"].map(|file| folder.path().join(file)))
        .arg(out.join("hosts"));
    let walked_on = run(walk.current_dir(&here), "", Duration::from_secs(240));
    drop((dev, second, third));
    say(&walked?);
    say(&walked_on?);
    Ok(())
}

/// A certificate for every host of `hosts.mjs`, `hosts.crt` and `hosts.key`.
fn certificate(folder: &Path) -> Outcome {
    let names = "subjectAltName=DNS:*.acme.test,DNS:*.other.test,DNS:*.apps.test";
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-keyout", "hosts.key", "-out", "hosts.crt", "-days", "2", "-subj", "/CN=test"]);
    run(openssl.args(["-addext", names]).current_dir(folder), "", Duration::from_secs(30))?;
    Ok(())
}

/// Hosts that have nothing in common, over https.
fn hosts_config(listen: SocketAddr, admin: SocketAddr, bitbucket: SocketAddr) -> String {
    let page = |title: &str| {
        format!(
            "{{ content_type: text/html; charset=utf-8, body: '<!doctype html><html lang=\"en\"><title>{title}</title><h1>{title}</h1>' }}"
        )
    };
    format!(
        "listen: [{{ address: '{listen}', tls: {{ certificates: [{{ cert: hosts.crt, key: hosts.key }}] }} }}]
admin: {{ address: '{admin}' }}
external_url: https://gate.acme.test:{port}
bitbucket:
  client_id: hosts
  client_secret: hosts-secret
  web_url: http://{bitbucket}
  api_url: http://{bitbucket}/2.0
secret_file: hosts.secret
store: {{ path: hosts }}
log: {{ access: false, level: error }}
routes:
  - {{ name: wiki, host: wiki.other.test, teams: [acme], respond: {wiki} }}
  - {{ name: deploy, host: deploy.acme.test, teams: [acme], respond: {deploy} }}
  - {{ name: apps, host: '*.apps.test', teams: [acme], respond: {app} }}
",
        port = listen.port(),
        wiki = page("The wiki"),
        deploy = page("Deploy"),
        app = page("An app"),
    )
}

/// Members of acme only, believes little and forgets soon, has an app that is down.
fn strict_config(listen: SocketAddr, admin: SocketAddr, bitbucket: SocketAddr, nobody: SocketAddr) -> String {
    format!(
        "listen: [{{ address: '{listen}' }}]
admin: {{ address: '{admin}' }}
external_url: http://{listen}
bitbucket:
  client_id: strict
  client_secret: strict-secret
  teams: [acme]
  web_url: http://{bitbucket}
  api_url: http://{bitbucket}/2.0
directory: {{ budget: none, refresh_after: 1s, max_age: 2s, outage_grace: 0s }}
log: {{ access: false, level: error }}
routes:
  - {{ name: reports, path: /down, teams: [acme], upstream: 'http://{nobody}' }}
  - {{ name: soon, path: /soon, teams: [acme], max_age: 1s, upstream: 'http://{nobody}' }}
"
    )
}

fn needs_node() -> Outcome {
    let wanted = "install Node.js 20 or newer with npm, or set TEAMGATE_SKIP_BROWSER=1";
    let version = Command::new("node").arg("--version").output();
    let version = version.map_err(|error| format!("this test needs `node` ({error}); {wanted}"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 20) {
        return Err(format!("this test needs Node.js 20 or newer, and this is {version:?}; {wanted}").into());
    }
    Ok(())
}

fn needs_chromium() -> Outcome {
    let at =
        env::var_os("TEAMGATE_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    if at.exists() {
        return Ok(());
    }
    let at = at.display();
    Err(format!(
        "this test needs Chromium, and there is no {at}; `apt-get install chromium`, or name another with \
         TEAMGATE_CHROMIUM, or set TEAMGATE_SKIP_BROWSER=1"
    )
    .into())
}

/// `npm ci`, unless what is installed is what the lock file says.
fn install(here: &Path) -> Outcome {
    let stamp = here.join("node_modules/.lock-as-installed.json");
    let lock = fs::read(here.join("package-lock.json"))?;
    if fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    run(Command::new("npm").arg("ci").current_dir(here), "", Duration::from_secs(180))?;
    fs::write(stamp, lock)?;
    Ok(())
}
