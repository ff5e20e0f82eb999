//! The command line.

use std::path::Path;

use serde_json::Value;

use crate::support::{Browser, Checked, Config, Request, Run, eventually, free_address, send};

/// Runs a command to its end: exit code, standard output, standard error.
async fn run(folder: &Path, arguments: &[&str]) -> Checked<(i32, String, String)> {
    let variables = ["LISTEN", "ADMIN"].map(|name| (name, "127.0.0.1:8080".to_owned()));
    let variables: Vec<(&str, String)> = variables
        .into_iter()
        .chain([
            ("BITBUCKET", "http://127.0.0.1:7990".to_owned()),
            ("UPSTREAM", "http://127.0.0.1:8081".to_owned()),
            ("CLIENT_ID", "id".to_owned()),
            ("CLIENT_SECRET", "hunter2-the-client-secret".to_owned()),
        ])
        .collect();
    let mut run = Run::start(folder, arguments, &variables)?;
    let code = run.exit_code().await?;
    Ok((code, run.stdout().join("\n"), run.stderr().join("\n")))
}

fn folder(config: &Config) -> Checked<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let text = config.text().replace("admin: { address: $ADMIN }", "admin: { address: 127.0.0.1:9090 }");
    std::fs::write(folder.path().join("teamgate.yaml"), text)?;
    Ok(folder)
}

#[tokio::test]
async fn validate_says_that_all_is_well_or_everything_that_is_not() -> Checked {
    let good = folder(&Config::default())?;
    let (code, out, err) = run(good.path(), &["validate"]).await?;
    assert_eq!((code, &*out), (0, "teamgate.yaml: 5 routes to 1 upstream, no problems"));
    assert!(
        err.starts_with("warning: teamgate.yaml:") && err.contains("`lobby`") && !err.contains('\n'),
        "{err}"
    );
    assert_eq!(std::fs::read_dir(good.path())?.count(), 1, "it leaves nothing behind");

    let bad = folder(&Config::default().top("sesion: {}").route("name: x, path: /x, teams: [acme]"))?;
    let (code, out, err) = run(bad.path(), &["validate"]).await?;
    assert_eq!((code, &*out), (1, ""));
    for part in ["unknown key `sesion`; did you mean `session`?", "upstream", "2 problems in teamgate.yaml"] {
        assert!(err.contains(part), "{part}\n{err}");
    }
    assert!(!err.contains("hunter2"), "{err}");

    let (code, _, err) = run(good.path(), &["validate", "--config", "nowhere.yaml"]).await?;
    assert_eq!(code, 1);
    assert!(err.contains("nowhere.yaml") && err.contains("--config"), "{err}");
    Ok(())
}

#[tokio::test]
async fn the_files_that_come_along_are_valid() -> Checked {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, out, err) = run(root, &["validate", "--config", "config/example.yaml"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    Ok(())
}

#[tokio::test]
async fn explain_says_what_would_happen_and_why() -> Checked {
    let folder = folder(
        &Config::default()
            .route("name: strict, path: /strict, teams: [acme], max_age: 30s, upstream: $UPSTREAM")
            .route("name: stripped, path: /stripped, access: public, strip_prefix: true, upstream: $UPSTREAM")
            .route("name: moved, path: /moved, access: public, redirect: \"https://new.example.com\"")
            .route("name: shut, path: /shut, allow: [{ team: acme }], deny: [{ email_domain: evil.example }], upstream: $UPSTREAM")
            .route("name: api, path: /api, allow: [{ repository: acme/api, permission: write }], upstream: $UPSTREAM")
            .route("name: several, path: /several, access: public, upstreams: [{ url: \"http://a:1\", weight: 3 }, \"http://b:2\"], balance: least-connections"),
    )?;
    let base = "http://127.0.0.1:8080";
    // URL, more arguments, the decision, parts of the sentence.
    let rows: &[(&str, &[&str], &str, &[&str])] = &[
        ("/", &[], "sign_in", &["route `wiki`", "Nobody (not signed in) must sign in", "acme"]),
        ("/", &["--groups", "acme"], "allow", &["The account may pass", "acme"]),
        ("/", &["--groups", "globex"], "deny", &["may not pass", "acme"]),
        ("/deploy", &["--groups", "acme"], "deny", &["route `deploy`", "acme/administrators"]),
        ("/deploy", &["--groups", "acme/administrators"], "allow", &["may pass"]),
        ("/deployments", &["--groups", "acme"], "allow", &["route `wiki`"]),
        ("/%64eploy/../deploy", &["--groups", "acme"], "deny", &["route `deploy`"]),
        ("/public", &[], "allow", &["the route is public"]),
        ("/lobby", &["--groups", "whoever"], "allow", &["for every account"]),
        ("/strict", &["--groups", "acme"], "allow", &["older than 30 s are not believed"]),
        ("/shut", &["--groups", "acme", "--email", "a@evil.example"], "deny", &["deny wins"]),
        ("/shut", &["--groups", "acme", "--email", "a@good.example"], "allow", &["may pass"]),
        ("/public/x", &[], "allow", &["It is then forwarded to http://"]),
        ("/stripped/x?y", &[], "allow", &["as `/x?y`."]),
        ("/moved", &[], "allow", &["redirected with 302"]),
        (
            "/several",
            &[],
            "allow",
            &["It is then forwarded to http://a:1 (3), http://b:2 (1), least-connections"],
        ),
        ("/a%2fb", &[], "bad_request", &["400"]),
        ("/api", &["--groups", "acme"], "cannot_tell", &["has not said what the account may do with"]),
        ("/api", &["--repository", "acme/api=admin"], "allow", &["write access to acme/api"]),
        ("/api", &["--repository", "acme/api=read"], "deny", &["may not pass"]),
        ("/api", &["--repository", "acme/api=none"], "deny", &["may not pass"]),
    ];
    for (path, more, decision, parts) in rows {
        let url = format!("{base}{path}");
        let mut arguments = vec!["explain", "--url", &url];
        arguments.extend(*more);
        let (code, out, err) = run(folder.path(), &arguments).await?;
        assert_eq!(code, 0, "{path} {more:?}: {err}");
        for part in *parts {
            assert!(out.contains(part), "{path} {more:?}: {part}\n{out}");
        }
        arguments.push("--json");
        let (code, out, err) = run(folder.path(), &arguments).await?;
        assert_eq!(code, 0, "{path} {more:?}: {err}");
        assert_eq!(serde_json::from_str::<Value>(&out)?["decision"], *decision, "{path} {more:?}: {out}");
    }
    Ok(())
}

#[tokio::test]
async fn explain_knows_methods_hosts_and_who_could_not_sign_in() -> Checked {
    let folder = folder(&Config::default().bitbucket("teams: [acme]").routes(
        "- { name: read, path: /, methods: [GET], teams: [acme], upstream: $UPSTREAM }\n\
         - { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }",
    ))?;
    let explain = async |more: &[&str]| -> Checked<Value> {
        let mut arguments = vec!["explain", "--json"];
        arguments.extend(more);
        let (code, out, err) = run(folder.path(), &arguments).await?;
        assert_eq!(code, 0, "{more:?}: {err}");
        Ok(serde_json::from_str(&out)?)
    };
    let answer = explain(&["--url", "http://127.0.0.1:8080/x", "--method", "POST"]).await?;
    assert_eq!((&answer["decision"], &answer["route"]), (&"no_route".into(), &Value::Null));
    let answer = explain(&["--url", "http://127.0.0.1:8080/lobby", "--groups", "globex"]).await?;
    assert_eq!(answer["decision"], "deny");
    let answer = explain(&["--url", "http://127.0.0.1:8080/lobby", "--groups", "acme"]).await?;
    assert_eq!((&answer["decision"], &answer["route"]), (&"allow".into(), &"lobby".into()));
    assert!(answer["line"].as_u64().is_some());
    Ok(())
}

#[tokio::test]
async fn versions_and_help_go_to_standard_output_and_mistakes_exit_with_2() -> Checked {
    let folder = tempfile::tempdir()?;
    let (code, out, _) = run(folder.path(), &["version"]).await?;
    assert_eq!(code, 0);
    assert!(
        out.starts_with(&format!("teamgate {}", env!("CARGO_PKG_VERSION"))) && out.contains("rustls"),
        "{out}"
    );
    let (code, out, _) = run(folder.path(), &["--help"]).await?;
    assert_eq!(code, 0);
    for command in ["run", "dev", "validate", "explain", "version"] {
        assert!(out.contains(command), "{command}\n{out}");
    }
    for command in ["run", "dev", "validate", "explain"] {
        let (code, out, _) = run(folder.path(), &[command, "--help"]).await?;
        assert!(code == 0 && out.contains("Usage: teamgate"), "{command}: {out}");
    }
    for arguments in
        [&["--nonsense"][..], &["fly"], &["explain"], &["run", "extra"], &["explain", "--url", "no url"], &[]]
    {
        let (code, out, err) = run(folder.path(), arguments).await?;
        assert_eq!((code, out.is_empty(), err.is_empty()), (2, true, false), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_demonstration_shows_a_sign_in_and_a_refusal() -> Checked {
    let folder = tempfile::tempdir()?;
    let (listen, admin, bitbucket) =
        (free_address()?.to_string(), free_address()?.to_string(), free_address()?.to_string());
    let arguments = ["dev", "--listen", &listen, "--admin", &admin, "--bitbucket", &bitbucket];
    let temporary = ("TMPDIR", folder.path().display().to_string());
    let mut dev = Run::start(folder.path(), &arguments, &[temporary])?;
    eventually("it says where everything is", async || {
        Ok(dev.stdout().iter().any(|line| line.starts_with("Open the wiki")))
    })
    .await?;
    let welcome = dev.stdout().join("\n");
    for url in [
        format!("http://{listen}/"),
        format!("http://{listen}/deploy"),
        format!("http://{admin}/metrics"),
        format!("http://{bitbucket}/"),
    ] {
        assert!(welcome.contains(&url), "{url}\n{welcome}");
    }

    let url = |path: &str| format!("http://{listen}{path}");
    send(&Request::get(&url("/status"))).await?.expect(200)?;
    let ben = Browser::new();
    let page = ben.sign_in(&url("/"), "ben").await?;
    assert!(page.expect(200)?.text().contains("Ben Berg"), "{}", page.text());
    let page = ben.get(&url("/deploy")).await?;
    assert!(page.expect(403)?.text().contains("administrators"), "{}", page.text());
    let cleo = Browser::new().sign_in(&url("/"), "cleo").await?;
    assert!(cleo.expect(403)?.text().contains("Cleo Costa"));
    Browser::new().sign_in(&url("/deploy"), "ann").await?.expect(200)?;
    send(&Request::get(&format!("http://{admin}/metrics"))).await?.expect(200)?;
    send(&Request::get(&format!("http://{bitbucket}/"))).await?.expect(200)?;

    dev.signal_int()?;
    assert_eq!(dev.exit_code().await?, 0, "{:?}", dev.stderr());
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "nothing is kept");
    Ok(())
}

#[tokio::test]
async fn the_demonstration_is_for_this_machine_only() -> Checked {
    let folder = tempfile::tempdir()?;
    for option in ["--listen", "--admin", "--bitbucket"] {
        let (code, _, err) = run(folder.path(), &["dev", option, "0.0.0.0:0"]).await?;
        assert_eq!(code, 1, "{option}: {err}");
        assert!(err.contains("0.0.0.0:0") && err.contains("127.0.0.1"), "{err}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let free = [free_address()?.to_string(), free_address()?.to_string()];
    for (option, others) in [
        ("--listen", ["--admin", "--bitbucket"]),
        ("--admin", ["--listen", "--bitbucket"]),
        ("--bitbucket", ["--listen", "--admin"]),
    ] {
        let arguments = ["dev", option, &address, others[0], &free[0], others[1], &free[1]];
        let (code, _, err) = run(folder.path(), &arguments).await?;
        assert_eq!(code, 3, "{option}: {err}");
        assert!(err.contains(&address), "{option}: {err}");
    }
    Ok(())
}
