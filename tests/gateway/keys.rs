//! Keys that change while the gateway runs.

use std::path::{Path, PathBuf};

use serde_json::Value;
use teamgate::keys::Keyring;

use crate::support::{Browser, Checked, Request, Run, Setup, eventually, send};

/// Runs `teamgate` with the gateway's folder and variables: exit code, standard output, standard error.
pub(crate) async fn teamgate(setup: &Setup, arguments: &[&str]) -> Checked<(i32, String, String)> {
    let mut run = Run::start(setup.gateway.folder(), arguments, setup.gateway.variables())?;
    let code = run.exit_code().await?;
    Ok((code, run.stdout().join("\n"), run.stderr().join("\n")))
}

fn secret(setup: &Setup) -> PathBuf {
    setup.gateway.folder().join("teamgate.secret")
}

/// The names of the keys in the file, the sealing one first.
fn names(file: &Path) -> Checked<Vec<String>> {
    Ok(Keyring::load(file)?.ids().map(|id| id.to_string()).collect())
}

async fn keys(setup: &Setup) -> Checked<Value> {
    let (code, out, err) = teamgate(setup, &["keys", "list", "--json"]).await?;
    assert_eq!(code, 0, "{err}");
    Ok(serde_json::from_str(&out)?)
}

pub(crate) async fn rotate(setup: &Setup) -> Checked<Vec<String>> {
    let (code, out, err) = teamgate(setup, &["keys", "rotate"]).await?;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("within seconds"), "{out}");
    names(&secret(setup))
}

/// Deletes the last key of the file, and the comment about it.
fn delete_last(file: &Path) -> Checked {
    let text = std::fs::read_to_string(file)?;
    let kept = text.trim_end().rsplit_once('\n').map(|(kept, _)| kept).unwrap_or_default();
    Ok(std::fs::write(file, format!("{kept}\n"))?)
}

async fn metric(setup: &Setup, sample: &str) -> Checked<f64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')).unwrap_or("0");
    Ok(found.parse()?)
}

#[tokio::test]
async fn a_new_key_is_taken_while_running_and_nobody_is_signed_out() -> Checked {
    let mut setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let old = names(&secret(&setup))?.remove(0);
    let sealed = keys(&setup).await?;
    assert_eq!(
        (&sealed["secret"][0]["id"], &sealed["secret"][0]["seals"]),
        (&old.clone().into(), &true.into())
    );
    assert!(sealed["secret"][0]["made_at"].is_string() && sealed["secret"][0]["sessions"] == 1, "{sealed}");

    let new = rotate(&setup).await?.remove(0);
    let taken = setup.gateway.recorded("keys_rotated", 1).await?;
    assert_eq!((&taken[0]["purpose"], &taken[0]["key"]), (&"secret".into(), &new.clone().into()));
    setup.gateway.logged("sealed anew under the first key").await?;
    ben.get(&setup.url("/")).await?.expect(200)?;
    let ann = setup.signed_in("ann").await?;
    let listed = keys(&setup).await?;
    assert_eq!(
        (&listed["secret"][0]["id"], &listed["secret"][0]["seals"]),
        (&new.clone().into(), &true.into())
    );
    // Everything stored is under the new key; Ben's cookie is not.
    let older = &listed["secret"][1];
    assert_eq!(
        (&older["id"], &older["records"], &older["sessions"], &older["may_go"]),
        (&old.into(), &0.into(), &1.into(), &false.into()),
        "{listed}"
    );
    ben.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    assert_eq!(keys(&setup).await?["secret"][1]["may_go"], true);
    let (_, out, _) = teamgate(&setup, &["keys", "list"]).await?;
    assert!(out.contains("any more: its line may leave the secret file"), "{out}");

    delete_last(&secret(&setup))?;
    setup.gateway.logged("a key has left the secret file").await?;
    ann.get(&setup.url("/")).await?.expect(200)?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    ann.get(&setup.url("/")).await?.expect(200)?;
    assert_eq!(metric(&setup, "teamgate_corrupted_records_total").await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn a_sign_in_under_way_survives_a_new_key() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/under/way")).await?;
    rotate(&setup).await?;
    setup.gateway.recorded("keys_rotated", 1).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let page = browser.follow(browser.get(&callback).await?).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/under/way");
    Ok(())
}

#[tokio::test]
async fn a_key_that_goes_takes_its_cookies_along_and_the_log_counts_them() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    rotate(&setup).await?;
    setup.gateway.recorded("keys_rotated", 1).await?;
    delete_last(&secret(&setup))?;
    let line = setup.gateway.logged("whose cookies were made under a key").await?;
    assert!(line.contains("\"sessions\":1"), "{line}");
    ben.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_secret_file_that_is_not_good_changes_nothing_and_is_said_once() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let good = std::fs::read(secret(&setup))?;
    let refused = async || metric(&setup, "teamgate_secret_file_refused").await;
    let other = "teamgate-key-1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n";
    for (place, (bad, said)) in
        [("half a ke", "no key"), (other, "under which everything is sealed")].into_iter().enumerate()
    {
        std::fs::write(secret(&setup), bad)?;
        let line = setup.gateway.logged(said).await?;
        assert!(line.contains("\"level\":\"error\"") && line.contains("stay in use"), "{line}");
        assert_eq!(refused().await?, 1.0);
        assert_eq!(keys(&setup).await?["secret_file_refused"], true);
        ben.get(&setup.url("/")).await?.expect(200)?;
        setup.signed_in("ann").await?;
        std::fs::write(secret(&setup), &good)?;
        eventually("the file is good again", async || Ok(refused().await? == 0.0)).await?;
        let total = metric(&setup, "teamgate_key_reloads_total{outcome=\"refused\"}").await?;
        assert_eq!(total, (place + 1) as f64, "once for each");
    }
    ben.get(&setup.url("/")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn in_an_emergency_the_keys_that_sign_are_replaced_at_once() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    let assertion = async || -> Checked<String> {
        let page = ann.get(&setup.url("/deploy")).await?;
        Ok(page.expect(200)?.echoed("x-teamgate-assertion")?.ok_or("none")?)
    };
    let kids = async || -> Checked<Vec<Value>> {
        let jwks = send(&Request::get(&setup.url("/.teamgate/jwks.json"))).await?.json()?;
        Ok(jwks["keys"].as_array().into_iter().flatten().map(|key| key["kid"].clone()).collect())
    };
    let (before, old) = (assertion().await?, kids().await?);
    assert_eq!(before, assertion().await?, "from memory");

    // In good order: published, and not yet in use.
    let (code, out, err) = teamgate(&setup, &["keys", "rotate", "--signing"]).await?;
    assert!(code == 0 && out.contains("is published, and signs from"), "{out}{err}");
    assert_eq!((kids().await?.len(), assertion().await?), (2, before.clone()));

    let arguments = ["keys", "rotate", "--signing", "--now", "--why", "a backup was lost"];
    let (code, out, err) = teamgate(&setup, &arguments).await?;
    assert!(code == 0 && out.contains("signs from now on"), "{out}{err}");
    let new = kids().await?;
    assert!(new.len() == 1 && !old.contains(&new[0]), "{old:?} {new:?}");
    let after = assertion().await?;
    assert_ne!(before, after);
    crate::login::verified(&setup, &after).await?;
    assert!(crate::login::verified(&setup, &before).await.is_err());
    let gone = setup.gateway.recorded("keys_distrusted", 1).await?;
    assert_eq!((&gone[0]["keys"][0], &gone[0]["why"]), (&old[0], &"a backup was lost".into()));
    assert_eq!(setup.gateway.recorded("keys_rotated", 1).await?[0]["key"], new[0]);
    Ok(())
}

#[tokio::test]
async fn keys_are_listed_from_a_file_without_a_gateway() -> Checked {
    let folder = tempfile::tempdir()?;
    let run = async |arguments: &[&str]| -> Checked<(i32, String, String)> {
        let mut run = Run::start(folder.path(), arguments, &[])?;
        let code = run.exit_code().await?;
        Ok((code, run.stdout().join("\n"), run.stderr().join("\n")))
    };
    assert_eq!(run(&["keys", "generate", "--out", "teamgate.secret"]).await?.0, 0);
    assert_eq!(run(&["keys", "generate", "--out", "teamgate.secret"]).await?.0, 1);
    assert_eq!(run(&["keys", "rotate"]).await?.0, 0);
    let (code, out, _) = run(&["keys", "list", "--file", "teamgate.secret"]).await?;
    let lines: Vec<&str> = out.lines().collect();
    assert!(code == 0 && lines.len() == 3, "{out}");
    assert!(lines[1].ends_with("seals and opens") && lines[2].ends_with("  opens"), "{out}");
    let (_, out, _) = run(&["keys", "list", "--file", "teamgate.secret", "--json"]).await?;
    let listed: Value = serde_json::from_str(&out)?;
    assert!(listed["secret"][1]["made_at"].is_string() && listed["secret"][1]["seals"] == false, "{out}");
    for arguments in [
        &["keys", "rotate", "--now"][..],
        &["keys", "rotate", "--file", "a", "--signing"],
        &["keys", "list", "--token-file", "t"],
    ] {
        assert_eq!(run(arguments).await?.0, 2, "{arguments:?}");
    }
    // Nobody there to be asked.
    let (code, _, err) = run(&["keys", "list", "--admin", "http://127.0.0.1:1"]).await?;
    assert!(code == 3 && err.contains("is it running"), "{code} {err}");
    Ok(())
}
