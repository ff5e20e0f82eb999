//! What becomes of paths and headers on the way to the app and back, by the route's own wish.

use serde_json::Value;

use crate::support::{Checked, Config, Request, Response, Setup, eventually, raw, send};

const ROUTES: &str = r#"
- { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }
- { name: wiki, path: /wiki, teams: [acme], upstream: $UPSTREAM, strip_prefix: true }
- { name: wiki-admin, path: /wiki/admin, teams: [globex], upstream: $UPSTREAM }
- { name: part, path: /a/b/c, access: public, upstream: $UPSTREAM, strip_prefix: /a/b }
- { name: me, path: /@me, access: public, upstream: $UPSTREAM, strip_prefix: true }
- name: old
  path: /old
  access: public
  upstream: $UPSTREAM
  allow_in_path: [semicolon]
  rewrite:
    - { regex: "/old/issue/([0-9]+)", to: "/browse/PROJ-{1}" }
    - { regex: "/old/dots/(.)x(.)", to: "/{1}{2}/secret" }
    - { regex: "/old/bare(.*)", to: "{1}" }
    - { regex: "/old/twice/(.*)", to: "/twice/%25{1}" }
    - { regex: "/old/(?<rest>.*)", to: "/new/{rest}" }
- { name: moved, path: /moved, teams: [acme], redirect: { to: "https://new.example.com", prefix: /now } }
- name: edited
  path: /edited
  teams: [acme]
  upstream: $UPSTREAM
  headers: { X-WEBAUTH-USER: "{nickname}" }
  request_headers: { set: { X-Api-Key: ours, Authorization: "Basic YTpi" }, remove: [X-Debug, Cookie] }
  response_headers: { set: { X-Frame-Options: DENY, Cache-Control: "public, max-age=60", Server: none }, remove: [X-Powered-By, Set-Cookie] }
"#;

fn config() -> Config {
    Config::default().routes(ROUTES)
}

/// What the app was asked for: its target, as it echoed it.
fn target(response: &Response) -> Checked<Value> {
    Ok(response.json()?["target"].clone())
}

#[tokio::test]
async fn the_app_gets_the_path_that_its_route_makes_and_is_told_what_was_taken_off() -> Checked {
    let setup = Setup::with(config()).await?;
    let ben = setup.signed_in("ben").await?;
    for (asked, arrived, prefix) in [
        ("/wiki", "/", Some("/wiki")),
        ("/wiki/", "/", Some("/wiki")),
        ("/wiki/a/b?c=/wiki/d", "/a/b?c=/wiki/d", Some("/wiki")),
        ("/wiki/a%20b/%C3%A9?x=%2F", "/a%20b/%C3%A9?x=%2F", Some("/wiki")),
        ("/wiki/wiki", "/wiki", Some("/wiki")),
        ("/x/../wiki//a", "/a", Some("/wiki")),
        ("/a/b/c/d", "/c/d", Some("/a/b")),
        ("/%40me/x%40y", "/x%40y", Some("/@me")),
        ("/old/issue/12?tab=1", "/browse/PROJ-12?tab=1", None),
        ("/old/issue/x", "/new/issue/x", None),
        ("/old/a%2Bb+c/d", "/new/a%2Bb+c/d", None),
        ("/old", "/old", None),
        ("/lobby", "/lobby", None),
    ] {
        let response = ben.fetch(Request::get(&setup.url(asked))).await?;
        assert_eq!(target(response.expect(200)?)?, arrived, "{asked}");
        assert_eq!(response.echoed("x-forwarded-prefix")?.as_deref(), prefix, "{asked}");
    }
    // The log keeps to what was asked for, since that is what was decided on.
    let is_it = |line: &Value| line["path"] == "/wiki/a/b" && line["route"] == "wiki";
    eventually("it is in the access log", async || Ok(setup.gateway.access().iter().any(is_it))).await
}

/// threats 26: who may is decided on the path as it was asked for, whatever it becomes.
#[tokio::test]
async fn rewriting_opens_no_door_that_was_closed() -> Checked {
    let setup = Setup::with(config()).await?;
    let ben = setup.signed_in("ben").await?;
    // Ben is not in globex: nothing leads him there, and nothing of `/wiki/admin` arrives stripped.
    for asked in
        ["/wiki/admin", "/wiki/admin/x", "/wiki/%61dmin", "/wiki/./admin", "/wiki//admin", "/wiki/x/../admin"]
    {
        ben.fetch(Request::get(&setup.url(asked))).await?.expect(403)?;
    }
    // A stripped path may begin as another route's does: that route has no say.
    let response = ben.fetch(Request::get(&setup.url("/wiki/lobby"))).await?;
    assert_eq!(target(response.expect(200)?)?, "/lobby");
    // And nobody who is not let into `/wiki` reaches anything through it.
    let dan = setup.signed_in("dan").await?;
    dan.fetch(Request::get(&setup.url("/wiki/lobby"))).await?.expect(403)?;
    send(&Request::get(&setup.url("/wiki/lobby"))).await?.expect(401)?;
    let targets: Vec<String> = setup.upstream.received().into_iter().map(|request| request.target).collect();
    assert!(!targets.iter().any(|target| target.contains("admin")), "{targets:?}");
    Ok(())
}

/// threats 18 and 26: what clients may not send, rewriting may not make.
#[tokio::test]
async fn what_comes_out_odd_is_refused_and_never_sent() -> Checked {
    let setup = Setup::with(config()).await?;
    for asked in [
        // Two halves that are a dot segment only together.
        "/old/dots/.x.",
        "/old/bare",
        "/old/bare.x",
        "/old/twice/2e",
        "/old/twice/2f",
        "/old/twice/5c",
        "/old/twice/00",
    ] {
        let response = send(&Request::get(&setup.url(asked))).await?;
        assert_eq!(response.expect(400)?.json()?["type"], "urn:teamgate:problem:bad-request", "{asked}");
        assert_eq!(setup.upstream.received().len(), 0, "{asked} arrived");
    }
    let response = send(&Request::get(&setup.url("/old/bare//x"))).await?;
    assert_eq!(target(response.expect(200)?)?, "/x");
    let line = setup.gateway.logged("a path was not forwarded").await?;
    assert!(line.contains("\"route\":\"old\""), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_clients_own_prefix_is_never_the_apps() -> Checked {
    let setup = Setup::with(config().top("trusted_proxies: [127.0.0.0/8]")).await?;
    for (asked, expected) in [("/old/x", vec![]), ("/a/b/c", vec!["/a/b".to_owned()])] {
        let request = Request::get(&setup.url(asked)).headers(&[
            ("X-Forwarded-Prefix", "/evil"),
            ("x_forwarded_prefix", "/evil"),
            ("X-Forwarded-Prefix", "/2"),
        ]);
        let response = send(&request).await?;
        assert_eq!(response.expect(200)?.echoed_all("x-forwarded-prefix")?, expected);
        assert_eq!(response.echoed_all("x_forwarded_prefix")?, [""; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn a_route_sets_and_removes_headers_and_whoever_sends_them_does_not() -> Checked {
    let setup = Setup::with(config()).await?;
    setup.upstream.script(
        "/edited/answer",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Powered-By: PHP\r\nSet-Cookie: track=1\r\nServer: app\r\n\
         X-Frame-Options: ALLOWALL\r\nX-App: yes\r\n\r\nhi",
    );
    let ben = setup.signed_in("ben").await?;
    let request = Request::get(&setup.url("/edited")).headers(&[
        ("X-Api-Key", "theirs"),
        ("x_api_key", "theirs"),
        ("X.Api.Key", "theirs"),
        ("X-Debug", "1"),
        ("X_DEBUG", "1"),
        ("X-App", "stays"),
        ("Authorization", "Bearer theirs"),
        ("X-Forwarded-User", "root"),
        ("X-WEBAUTH-USER", "root"),
        // threats 4: neither what we set for the route nor who is asking can be nominated away.
        ("Connection", "close, X-Api-Key, X-WEBAUTH-USER, X-Forwarded-User, Authorization"),
    ]);
    let response = ben.fetch(request).await?;
    response.expect(200)?;
    for (name, expected) in [
        ("x-api-key", &["ours"][..]),
        ("x_api_key", &[]),
        ("x.api.key", &[]),
        ("x-debug", &[]),
        ("x_debug", &[]),
        ("x-app", &["stays"]),
        ("authorization", &["Basic YTpi"]),
        ("cookie", &[]),
        ("x-webauth-user", &["ben"]),
    ] {
        assert_eq!(response.echoed_all(name)?, expected, "{name}");
    }
    let user = response.echoed_all("x-forwarded-user")?;
    assert!(user.len() == 1 && user[0] != "root", "{user:?}");
    assert_eq!(response.echoed_all("x-teamgate-assertion")?.len(), 1);

    let response = ben.fetch(Request::get(&setup.url("/edited/answer"))).await?;
    assert_eq!(response.expect(200)?.text(), "hi");
    for (name, expected) in [
        ("x-powered-by", &[][..]),
        ("set-cookie", &[]),
        ("server", &["none"]),
        ("x-frame-options", &["DENY"]),
        ("x-app", &["yes"]),
        // Who may keep a copy is not the route's to say: nobody but the person.
        ("cache-control", &["private, max-age=60"]),
        ("vary", &["Cookie"]),
    ] {
        assert_eq!(response.all(name), expected, "{name}");
    }
    // Our own pages have their own headers.
    let refused = send(&Request::get(&setup.url("/edited"))).await?;
    assert_eq!(refused.expect(401)?.all("x-frame-options"), [""; 0]);
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    Ok(())
}

/// Byte for byte, since a client library would not send these.
#[tokio::test]
async fn no_spelling_of_a_stripped_path_reaches_the_app_in_another() -> Checked {
    let setup = Setup::with(config()).await?;
    for (sent, arrived) in [
        ("/a/b/c/%2e%2e/%2e%2e/%2e%2e/old/issue/1", Some("/browse/PROJ-1")),
        ("/a/b/c/..%2fx", None),
        ("/a/b/c/..;/x", None),
        ("/a/b/c/%5c..", None),
        ("/a/b/c/%00", None),
        ("/a/b/c//evil.test/", Some("/c/evil.test/")),
        ("/a/b//c///x", Some("/c/x")),
        ("/a/b/c/%252e%252e/x", None),
        ("/old/%2e%2e;/x", None),
    ] {
        let before = setup.upstream.received().len();
        let request =
            format!("GET {sent} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", setup.gateway.address());
        let answer =
            String::from_utf8_lossy(&raw(setup.gateway.address(), request.as_bytes()).await?).into_owned();
        let received = setup.upstream.received();
        let targets: Vec<&str> = received[before..].iter().map(|request| request.target.as_str()).collect();
        assert_eq!(targets.first().copied(), arrived, "{sent}");
        let status = if arrived.is_some() { "HTTP/1.1 200" } else { "HTTP/1.1 400" };
        assert!(answer.starts_with(status), "{sent}: {answer}");
    }
    Ok(())
}
