//! The product as its visitors meet it: a real Chromium, without JavaScript, walks through `teamgate dev`.
//!
//! What is checked stands in `browser/walk.mjs` and `browser/look.mjs`. Needs Chromium and Node 20; screenshots go
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

    let [gateway, admin, bitbucket, strict, strict_admin, nobody] = free_addresses()?;
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

    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let _ = fs::remove_dir_all(&out);
    let mut walk = Command::new("node");
    walk.arg("walk.mjs")
        .args([gateway, bitbucket, strict].map(|address| format!("http://{address}")))
        .arg(&out);
    let walked = run(walk.current_dir(&here), "", Duration::from_secs(240));
    drop((dev, second));
    say(&walked?);
    Ok(())
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
