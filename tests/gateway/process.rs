//! Starting, stopping, and what is written down.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use bitbucket_sim::{EXAMPLE_CLIENT_SECRET, Fault, FaultKind};
use regex::Regex;
use serde_json::Value;
use teamgate::clock::Clock;
use teamgate::entropy::Entropy;
use teamgate::keys::Keyring;
use tokio::net::TcpStream;
use url::Url;

use crate::support::{
    Browser, Checked, Config, Gateway, Request, Run, Setup, Wire, eventually, free_address, send,
};

/// Tries to start a gateway in the folder of `gateway`, with some variables replaced; gives its exit code and
/// what it said.
async fn try_start(gateway: &Gateway, replaced: &[(&str, String)]) -> Checked<(i32, Vec<String>)> {
    let mut variables: Vec<(&str, String)> = gateway.variables().to_vec();
    for (name, value) in replaced {
        variables.retain(|(known, _)| known != name);
        variables.push((name, value.clone()));
    }
    let mut run = Run::start(gateway.folder(), &["run"], &variables)?;
    let code = run.exit_code().await?;
    Ok((code, run.stderr()))
}

/// It could not run, and says so in one line with all of `parts`.
fn says((code, lines): &(i32, Vec<String>), parts: &[&str]) {
    assert_eq!(*code, 3, "{lines:?}");
    let lines: Vec<&String> = lines.iter().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in parts {
        assert!(lines[0].contains(part), "{part} in {lines:?}");
    }
    assert!(lines[0].starts_with("teamgate: "), "{lines:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Checked {
    let mut setup = Setup::new().await?;
    setup.gateway.kill().await?;
    let (taken, free) = (TcpListener::bind("127.0.0.1:0")?, free_address()?);
    let address = taken.local_addr()?.to_string();
    let outcome =
        try_start(&setup.gateway, &[("LISTEN", address.clone()), ("ADMIN", free.to_string())]).await?;
    says(&outcome, &[&address, "listen.address", "in use"]);
    let outcome =
        try_start(&setup.gateway, &[("LISTEN", free.to_string()), ("ADMIN", address.clone())]).await?;
    says(&outcome, &[&address, "admin.address", "in use"]);
    Ok(())
}

#[tokio::test]
async fn a_secret_file_that_cannot_be_used_is_named() -> Checked {
    let mut setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    setup.gateway.kill().await?;
    let secret = setup.gateway.folder().join("teamgate.secret");
    let good = std::fs::read(&secret)?;
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode));

    mode(0o644)?;
    says(&try_start(&setup.gateway, &[]).await?, &["teamgate.secret", "others can read it", "chmod 600"]);
    mode(0o600)?;
    std::fs::write(&secret, "not a key\n")?;
    says(&try_start(&setup.gateway, &[]).await?, &["teamgate.secret:1", "no key"]);
    std::fs::write(&secret, "")?;
    says(&try_start(&setup.gateway, &[]).await?, &["teamgate.secret"]);
    std::fs::remove_file(&secret)?;
    std::fs::create_dir(&secret)?;
    says(&try_start(&setup.gateway, &[]).await?, &["teamgate.secret"]);
    std::fs::remove_dir(&secret)?;

    // A good one, of another installation.
    Keyring::generate_file(&secret, &Entropy::system(), Clock::system().now())?;
    says(&try_start(&setup.gateway, &[]).await?, &["teamgate.redb", "another secret"]);
    // Nothing was spoiled by all that.
    std::fs::write(&secret, good)?;
    setup.gateway.restart().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_secret_is_created_for_its_owner_alone() -> Checked {
    let setup = Setup::new().await?;
    for (name, expected) in [("teamgate.secret", 0o600), ("state", 0o700), ("state/teamgate.redb", 0o600)] {
        let mode = std::fs::metadata(setup.gateway.folder().join(name))?.permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{name}: {mode:o}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_another_process_has_is_named() -> Checked {
    let setup = Setup::new().await?;
    let ports = [("LISTEN", free_address()?.to_string()), ("ADMIN", free_address()?.to_string())];
    says(
        &try_start(&setup.gateway, &ports).await?,
        &["teamgate.redb", "in use by another teamgate", "store.path"],
    );
    // The first one did not notice.
    setup.signed_in("ben").await?;
    Ok(())
}

#[tokio::test]
async fn every_problem_of_a_configuration_is_told_and_nothing_is_started() -> Checked {
    let mut setup = Setup::new().await?;
    setup.gateway.kill().await?;
    let config = Config::default()
        .top("contct: x\nsession: { idle: 3 }")
        .route("name: open, path: /open, upstream: $UPSTREAM");
    setup.gateway.reconfigure(&config)?;
    let (code, lines) = try_start(&setup.gateway, &[]).await?;
    assert_eq!(code, 1, "{lines:?}");
    let text = lines.join("\n");
    for part in ["contct", "session.idle", "`open`", "3 problems"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(lines.iter().filter(|line| line.contains("teamgate.yaml:")).count() == 3, "{text}");
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_takes_no_new_ones() -> Checked {
    let mut setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let url = setup.url("/hold");
    let slow = tokio::spawn(async move { browser.script(&url).await });
    eventually("the request is under way", async || Ok(!setup.upstream.received_at("/hold").is_empty()))
        .await?;
    let _idle = TcpStream::connect(setup.gateway.address()).await?;

    setup.gateway.process().signal_term()?;
    eventually("no new connections are taken", async || {
        Ok(TcpStream::connect(setup.gateway.address()).await.is_err())
    })
    .await?;
    let ready = send(&Request::get(&setup.gateway.admin_url("/readyz"))).await?;
    assert!(ready.expect(503)?.text().contains("going down"));
    send(&Request::get(&setup.gateway.admin_url("/healthz"))).await?.expect(200)?;
    assert!(!slow.is_finished() && setup.gateway.process().exited()?.is_none());

    setup.upstream.release();
    slow.await??.expect(200)?;
    assert_eq!(setup.gateway.process().exit_code().await?, 0);
    assert_eq!(setup.gateway.recorded("stopped", 1).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn sigterm_without_requests_ends_at_once() -> Checked {
    let mut setup = Setup::new().await?;
    // An idle connection that is kept alive is no request.
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(b"GET /public HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    wire.response().await?.expect(200)?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    assert_eq!(setup.gateway.recorded("stopped", 1).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn requests_that_do_not_end_are_cut_off_after_the_grace() -> Checked {
    let mut setup = Setup::with(Config::default().top("shutdown_grace: 1s")).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(b"GET /public/hold HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    eventually("the request is under way", async || Ok(!setup.upstream.received().is_empty())).await?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    assert!(wire.rest().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn ctrl_c_is_as_good_as_sigterm_and_a_second_one_does_not_wait() -> Checked {
    let mut setup = Setup::new().await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(b"GET /public/hold HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    eventually("the request is under way", async || Ok(!setup.upstream.received().is_empty())).await?;
    setup.gateway.process().signal_int()?;
    eventually("no new connections are taken", async || {
        Ok(TcpStream::connect(setup.gateway.address()).await.is_err())
    })
    .await?;
    assert!(setup.gateway.process().exited()?.is_none(), "it waits for the request");
    setup.gateway.process().signal_int()?;
    let code =
        tokio::time::timeout(std::time::Duration::from_secs(20), setup.gateway.process().exit_code()).await;
    assert_eq!(code.map_err(|_| "it waited for the grace of 30 s")??, 0);
    Ok(())
}

#[tokio::test]
async fn every_request_has_one_access_line_with_the_documented_fields() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("cleo").await?;
    let mut ids = Vec::new();
    for (path, signed_in) in [
        ("/globex/a?secret=1", true),
        ("/", true),
        ("/", false),
        ("/public", false),
        ("/.teamgate/userinfo", true),
    ] {
        let response = match signed_in {
            true => browser.script(&setup.url(path)).await?,
            false => send(&Request::get(&setup.url(path))).await?,
        };
        ids.push(response.header("x-request-id").ok_or("no request id")?.to_owned());
    }
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(b"GET /a%2fb%00c?secret=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    ids.push(wire.response().await?.expect(400)?.header("x-request-id").ok_or("no request id")?.to_owned());
    // Signing in took three more: the page, the callback, the page again.
    let all = ids.len() + 3;
    eventually("the lines are written", async || Ok(setup.gateway.access().len() >= all)).await?;
    let lines = setup.gateway.access();
    assert_eq!(lines.len(), all, "{lines:?}");
    let cleo = Some("c0000000-0000-4000-8000-0000000000c1");
    for (id, (decision, status, route, account)) in ids.iter().zip([
        ("allow", 200, Some("globex"), cleo),
        ("deny", 403, Some("wiki"), cleo),
        ("sign_in", 401, Some("wiki"), None),
        ("public", 200, Some("public"), None),
        ("own", 200, None, None),
        ("bad_request", 400, None, None),
    ]) {
        let found: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == **id).collect();
        assert_eq!(found.len(), 1, "{id}: {lines:?}");
        let line = found[0];
        assert_eq!(line["decision"], decision, "{line}");
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["route"].as_str(), route, "{line}");
        assert_eq!(line["account"].as_str(), account, "{line}");
        for field in ["stream", "time", "method", "client", "gate_us", "total_ms", "bytes_in", "bytes_out"] {
            assert!(!line[field].is_null(), "{field} in {line}");
        }
        assert_eq!(line["client"], "127.0.0.1", "{line}");
        assert!(!line.to_string().contains("secret=1"), "{line}");
    }
    let last = lines.iter().find(|line| line["request_id"] == *ids[5]).ok_or("gone")?;
    assert_eq!(last["path"], "/a%2fb%00c", "as it came");
    let first = lines.iter().find(|line| line["request_id"] == *ids[0]).ok_or("gone")?;
    assert_eq!((&first["path"], &first["method"]), (&"/globex/a".into(), &"GET".into()));
    assert!(first["host"] == setup.gateway.address().to_string() && !first["upstream_ms"].is_null());
    assert!(first["grounds"].as_str().is_some_and(|grounds| grounds.contains("globex")), "{first}");
    Ok(())
}

#[tokio::test]
async fn every_field_and_event_that_is_written_is_documented() -> Checked {
    let mut setup = Setup::with(Config::default().top("directory: { refresh_after: 1s }")).await?;
    whole_life(&mut setup).await?;
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logs.md"))?;
    let words = Regex::new("`([a-z_]+)`")?;
    let documented: BTreeSet<&str> =
        words.captures_iter(&documented).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    let lines = setup.gateway.access().into_iter().chain(setup.gateway.audit());
    for line in lines {
        for name in line.as_object().into_iter().flat_map(|fields| fields.keys()) {
            assert!(documented.contains(&**name), "{name} of {line}");
        }
        for field in ["event", "decision", "outcome", "stream"] {
            if let Some(word) = line[field].as_str() {
                assert!(documented.contains(word), "{word} of {line}");
            }
        }
    }
    Ok(())
}

/// A little of everything that a gateway lives through; gives what must not be found in any line.
async fn whole_life(setup: &mut Setup) -> Checked<Vec<String>> {
    let mut secrets =
        vec![EXAMPLE_CLIENT_SECRET.to_owned(), "@example.com".to_owned(), "%40example.com".to_owned()];
    let ben = Browser::new();
    let authorize = ben.begin(&setup.url("/page?private=query-of-a-visitor")).await?;
    secrets.push("query-of-a-visitor".to_owned());
    let callback = ben.agree(&authorize, "ben").await?;
    secrets.extend(ben.cookies().into_iter().map(|cookie| cookie.value));
    for url in [&authorize, &callback] {
        let url = Url::parse(url)?;
        let telling =
            url.query_pairs().filter(|(name, _)| matches!(&**name, "code" | "state" | "code_challenge"));
        secrets.extend(telling.map(|(_, value)| value.into_owned()));
    }
    // A forged one first, then a failure on Bitbucket's side, then for real.
    ben.get(&format!("{callback}x")).await?.expect(400)?;
    setup.simulator.with(|world| world.fault(Fault::new("user", FaultKind::Truncated).times(1)));
    ben.get(&callback).await?;
    ben.get(&callback).await?;
    let page = ben.sign_in(&setup.url("/page"), "ben").await?;
    secrets.extend(page.expect(200)?.echoed("x-teamgate-assertion")?);
    secrets.push(ben.session()?);
    let cleo = setup.signed_in("cleo").await?;
    secrets.push(cleo.session()?);
    cleo.get(&setup.url("/")).await?.expect(403)?;
    cleo.script(&setup.url("/drop")).await?;
    cleo.script(&setup.url("/globex/drop")).await?.expect(502)?;
    let body = "password=a-body-of-a-visitor";
    secrets.push("a-body-of-a-visitor".to_owned());
    cleo.fetch(
        Request::new("POST", &setup.url("/globex"))
            .header("Authorization", "Basic dmlzaXRvcjpzZWNyZXQ=")
            .body(body),
    )
    .await?
    .expect(200)?;
    secrets.push("dmlzaXRvcjpzZWNyZXQ=".to_owned());
    setup.simulator.with(|world| {
        world.expire_access_tokens();
        world.fault(Fault::new("token.refresh", FaultKind::Status(500)).times(1));
    });
    eventually("tokens are refreshed", async || {
        ben.script(&setup.url("/")).await?;
        Ok(setup.simulator.count("token.refresh") >= 3)
    })
    .await?;
    setup.simulator.with(|world| world.revoke_grant("cleo"))?;
    eventually("cleo is signed out", async || Ok(cleo.script(&setup.url("/globex")).await?.status == 401))
        .await?;
    secrets.push("a-password-of-a-visitor".to_owned());
    // Requests that cannot be read, with something private in them.
    for bytes in [
        format!("GET /x HTTP/1.1\r\nHost: a b\r\nCookie: teamgate={}\r\n\r\n", ben.session()?),
        format!("GET /x HTTP/1.1\r\nHost: x\r\nCookie: teamgate={}\r\nbad header\r\n\r\n", ben.session()?),
        format!("NONSENSE {}\r\n\r\n", ben.session()?),
        "GET http://user:a-password-of-a-visitor@a%00b/x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET user:a-password-of-a-visitor@x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(bytes.as_bytes()).await?;
        wire.finish().await?;
        wire.rest().await?;
    }
    ben.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    Ok(secrets)
}

#[tokio::test]
async fn nothing_that_is_anybodys_secret_is_ever_written_down() -> Checked {
    let long = Regex::new("[A-Za-z0-9_+/=-]{40,}")?;
    for level in ["info", "trace"] {
        let config = Config::default()
            .top("directory: { refresh_after: 1s }")
            .top(&format!("log: {{ format: json, level: {level} }}"));
        let mut setup = Setup::with(config).await?;
        let secrets = whole_life(&mut setup).await?;
        let folder = setup.gateway.folder().display().to_string();
        let mut lines = setup.gateway.stdout();
        lines.extend(setup.gateway.stderr());
        assert!(lines.len() > 20, "{lines:?}");
        for line in &lines {
            for secret in secrets.iter().filter(|secret| secret.len() > 3) {
                assert!(!line.contains(&**secret), "{level}: {secret} in {line}");
            }
            assert!(!line.contains("eyJ"), "{level}: a token in {line}");
            // Whatever else is long and random, such as a token that this test cannot know.
            let rest = line.replace(&folder, "");
            let found = long.find(&rest).map(|found| found.as_str());
            assert!(
                found.is_none_or(|found| found.contains("/user/") || found.contains("oauth2")),
                "{level}: {found:?} in {line}"
            );
        }
        for event in
            ["started", "signed_in", "sign_in_failed", "denied", "signed_out", "sessions_ended", "stopped"]
        {
            setup.gateway.recorded(event, 1).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_file_gets_what_standard_output_would() -> Checked {
    let mut setup =
        Setup::with(Config::default().top("log: { format: json, audit_file: audit.jsonl }")).await?;
    let cleo = setup.signed_in("cleo").await?;
    cleo.get(&setup.url("/")).await?.expect(403)?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    let path = setup.gateway.folder().join("audit.jsonl");
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(path)?;
    let events: Vec<String> = text
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["event"].as_str().unwrap_or_default().to_owned()))
        .collect::<Checked<_>>()?;
    assert_eq!(events, ["started", "signed_in", "denied", "stopped"]);
    assert!(setup.gateway.audit().is_empty());
    eventually("access lines stay where they were", async || Ok(!setup.gateway.access().is_empty())).await
}

#[tokio::test]
async fn operators_see_health_metrics_and_keys() -> Checked {
    let setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    for (path, part) in [
        ("/healthz", "ok"),
        ("/readyz", "\"ready\":true"),
        ("/metrics", "teamgate_sessions 1"),
        ("/.teamgate/jwks.json", "\"kty\":\"EC\""),
    ] {
        let response = send(&Request::get(&setup.gateway.admin_url(path))).await?;
        assert!(response.expect(200)?.text().contains(part), "{path}: {}", response.text());
    }
    send(&Request::get(&setup.gateway.admin_url("/"))).await?.expect(404)?;
    Ok(())
}
