//! Who may pass, and what the others are told.

use crate::support::{
    Browser, CHROME_ACCEPT, Checked, Config, Request, Response, Setup, navigation, raw, send,
};

/// What a client is told that is not signed in.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// 302 to Bitbucket.
    Redirect,
    /// 401 for programs.
    Problem,
    /// `grpc-status: 16`.
    Grpc,
}

const OLD_BROWSER: &str = "Mozilla/5.0 (Windows NT 6.1; Trident/7.0; rv:11.0) like Gecko";

/// What clients say of themselves: name, method, headers, what they are told.
type Client = (&'static str, &'static str, &'static [(&'static str, &'static str)], Told);

const CLIENTS: &[Client] = &[
    ("a browser", "GET", &[("Sec-Fetch-Mode", "navigate"), ("Accept", CHROME_ACCEPT)], Told::Redirect),
    (
        "a browser that asks with HEAD",
        "HEAD",
        &[("Sec-Fetch-Mode", "navigate"), ("Accept", CHROME_ACCEPT)],
        Told::Redirect,
    ),
    ("an iframe", "GET", &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")], Told::Redirect),
    (
        "an old browser",
        "GET",
        &[("User-Agent", OLD_BROWSER), ("Accept", "text/html, application/xhtml+xml, */*")],
        Told::Redirect,
    ),
    ("a text browser", "GET", &[("Accept", "text/html, text/*;q=0.5")], Told::Redirect),
    (
        "a form",
        "POST",
        &[
            ("Sec-Fetch-Mode", "navigate"),
            ("Accept", CHROME_ACCEPT),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ],
        Told::Problem,
    ),
    ("an old browser's form", "POST", &[("Accept", CHROME_ACCEPT)], Told::Problem),
    (
        "fetch()",
        "GET",
        &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Accept", "*/*")],
        Told::Problem,
    ),
    (
        "fetch() that asks for HTML",
        "GET",
        &[("Sec-Fetch-Mode", "cors"), ("Accept", CHROME_ACCEPT)],
        Told::Problem,
    ),
    (
        "fetch() of its own origin",
        "GET",
        &[("Sec-Fetch-Mode", "same-origin"), ("Accept", "*/*")],
        Told::Problem,
    ),
    (
        "an image",
        "GET",
        &[
            ("Sec-Fetch-Mode", "no-cors"),
            ("Sec-Fetch-Dest", "image"),
            ("Accept", "image/avif,image/webp,*/*;q=0.8"),
        ],
        Told::Problem,
    ),
    (
        "a stylesheet",
        "GET",
        &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "style"), ("Accept", "text/css,*/*;q=0.1")],
        Told::Problem,
    ),
    (
        "a script",
        "GET",
        &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "script"), ("Accept", "*/*")],
        Told::Problem,
    ),
    (
        "a font",
        "GET",
        &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "font"), ("Origin", "http://x.test")],
        Told::Problem,
    ),
    (
        "XMLHttpRequest",
        "GET",
        &[("X-Requested-With", "XMLHttpRequest"), ("Accept", "application/json, text/plain, */*")],
        Told::Problem,
    ),
    (
        "an old XMLHttpRequest",
        "GET",
        &[("X-Requested-With", "XMLHttpRequest"), ("Accept", CHROME_ACCEPT)],
        Told::Problem,
    ),
    ("EventSource", "GET", &[("Sec-Fetch-Mode", "cors"), ("Accept", "text/event-stream")], Told::Problem),
    ("an old EventSource", "GET", &[("Accept", "text/event-stream")], Told::Problem),
    (
        "a WebSocket",
        "GET",
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-Fetch-Mode", "websocket"),
        ],
        Told::Problem,
    ),
    ("gRPC", "POST", &[("Content-Type", "application/grpc"), ("TE", "trailers")], Told::Grpc),
    ("gRPC with protobuf", "POST", &[("Content-Type", "application/grpc+proto")], Told::Grpc),
    ("curl", "GET", &[("User-Agent", "curl/8.9.1"), ("Accept", "*/*")], Told::Problem),
    (
        "git",
        "GET",
        &[("User-Agent", "git/2.51.0"), ("Accept", "*/*"), ("Git-Protocol", "version=2")],
        Told::Problem,
    ),
    (
        "git that pushes",
        "POST",
        &[("User-Agent", "git/2.51.0"), ("Content-Type", "application/x-git-receive-pack-request")],
        Told::Problem,
    ),
    ("an API client", "GET", &[("Accept", "application/json")], Told::Problem),
    (
        "an API client that takes HTML if it must",
        "GET",
        &[("Accept", "application/json, text/html;q=0.9")],
        Told::Problem,
    ),
    ("a program that says nothing", "GET", &[], Told::Problem),
    (
        "a preflight",
        "OPTIONS",
        &[("Origin", "http://x.test"), ("Access-Control-Request-Method", "PUT"), ("Sec-Fetch-Mode", "cors")],
        Told::Problem,
    ),
    ("PUT", "PUT", &[("Accept", CHROME_ACCEPT)], Told::Problem),
    ("DELETE", "DELETE", &[("Accept", CHROME_ACCEPT)], Told::Problem),
    ("a method of its own", "PROPFIND", &[("Accept", CHROME_ACCEPT)], Told::Problem),
];

#[tokio::test]
async fn who_is_not_signed_in_is_told_so_in_a_way_that_it_understands() -> Checked {
    let setup = Setup::new().await?;
    for (who, method, headers, told) in CLIENTS {
        let response = send(&Request::new(method, &setup.url("/page?x=1")).headers(headers)).await?;
        let cookies = response.all("set-cookie");
        match told {
            Told::Redirect => {
                response.expect(302)?;
                assert!(response.location()?.starts_with(&setup.simulator.url()), "{who}");
                assert_eq!(cookies.len(), 1, "{who}: {cookies:?}");
            }
            Told::Problem => {
                response.expect(401)?;
                assert_eq!(response.header("content-type"), Some("application/problem+json"), "{who}");
                assert!(
                    response.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer")),
                    "{who}"
                );
                let problem = response.json()?;
                assert_eq!(problem["type"], "urn:teamgate:problem:sign-in-needed", "{who}");
                assert_eq!(problem["status"], 401, "{who}");
                assert_eq!(problem["sign_in"], setup.url("/.teamgate/login"), "{who}");
                assert_eq!(problem["request_id"].as_str(), response.header("x-request-id"), "{who}");
            }
            Told::Grpc => {
                response.expect(200)?;
                assert_eq!(response.header("content-type"), Some("application/grpc"), "{who}");
                assert_eq!(response.header("grpc-status"), Some("16"), "{who}");
                assert!(response.body.is_empty(), "{who}");
            }
        }
        if !matches!(told, Told::Redirect) {
            assert!(cookies.is_empty(), "{who}: {cookies:?}");
            assert!(response.header("location").is_none(), "{who}");
        }
        assert_eq!(response.header("cache-control"), Some("no-store"), "{who}");
    }
    assert!(setup.upstream.received().is_empty(), "nothing reached the app");
    Ok(())
}

/// A page that names the account and what is wanted.
fn refusal(response: &Response, name: &str, wanted: &str) -> Checked {
    response.expect(403)?;
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    let text = response.text();
    let wanted = wanted.replace('/', "/<wbr>");
    assert!(text.contains(&format!("<b>{name}</b>")) && text.contains(&wanted), "{name} {wanted}\n{text}");
    assert!(text.contains("Switch account"));
    let id = response.header("x-request-id").ok_or("no request id")?;
    assert!(text.contains(id));
    Ok(())
}

#[tokio::test]
async fn somebody_of_another_team_is_refused_and_told_why() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("cleo").await?;
    refusal(&browser.get(&setup.url("/")).await?, "Cleo Costa", "acme")?;
    refusal(&browser.get(&setup.url("/deploy")).await?, "Cleo Costa", "acme/administrators")?;
    browser.get(&setup.url("/globex")).await?.expect(200)?;

    let problem = browser.script(&setup.url("/x")).await?;
    assert_eq!(problem.expect(403)?.header("content-type"), Some("application/problem+json"));
    let problem = problem.json()?;
    assert_eq!(problem["type"], "urn:teamgate:problem:refused");
    assert_eq!(problem["account"]["name"], "Cleo Costa");
    assert_eq!(problem["needs"], serde_json::json!(["acme"]));

    let grpc = Request::new("POST", &setup.url("/Service/Call")).header("Content-Type", "application/grpc");
    let response = browser.fetch(grpc).await?;
    assert_eq!(response.expect(200)?.header("grpc-status"), Some("7"));
    assert!(response.header("grpc-message").is_some_and(|message| message.contains("acme")));

    assert_eq!(setup.upstream.received_at("/").len(), 0);
    let denied = setup.gateway.recorded("denied", 4).await?;
    assert_eq!(denied.len(), 4, "{denied:?}");
    assert_eq!(denied[0]["route"], "wiki");
    assert_eq!(denied[0]["account"], "c0000000-0000-4000-8000-0000000000c1");
    Ok(())
}

#[tokio::test]
async fn what_is_wanted_can_be_kept_off_the_page() -> Checked {
    let setup = Setup::with(Config::default().top("hide_requirements: true")).await?;
    let browser = setup.signed_in("cleo").await?;
    let page = browser.get(&setup.url("/")).await?;
    assert!(page.expect(403)?.text().contains("<b>Cleo Costa</b>"));
    assert!(!page.text().contains("acme"), "{}", page.text());
    let problem = browser.script(&setup.url("/")).await?;
    assert!(!problem.expect(403)?.text().contains("acme"));
    Ok(())
}

#[tokio::test]
async fn members_pass_where_members_may_and_administrators_where_those_may() -> Checked {
    let setup = Setup::new().await?;
    for (user, path, status) in [
        ("ann", "/", 200),
        ("ann", "/deploy", 200),
        ("ann", "/deploy/deeper", 200),
        ("ann", "/deployments", 200),
        ("ann", "/globex", 403),
        ("ben", "/", 200),
        ("ben", "/deploy", 403),
        ("ben", "/deploy/", 403),
        ("ben", "/deploy/deeper", 403),
        ("ben", "/x/../deploy", 403),
        ("ben", "/%64eploy", 403),
        ("ben", "//deploy", 403),
        ("ben", "/./deploy", 403),
        ("ben", "/deployments", 200),
        ("cleo", "/", 403),
        ("cleo", "/globex/x", 200),
        // A guest of a repository is listed by Bitbucket, and is no member.
        ("dan", "/", 403),
        ("dan", "/deploy", 403),
        ("dan", "/lobby", 200),
        ("eve", "/", 403),
        ("eve", "/lobby", 200),
        ("eve", "/public", 200),
    ] {
        let browser = setup.signed_in(user).await?;
        let response = browser.script(&setup.url(path)).await?;
        assert_eq!(response.status, status, "{user} {path}: {}", response.text());
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_rule_admits_whom_it_names() -> Checked {
    let setup = Setup::with(
        Config::default()
            .route(r#"name: account, path: /account, allow: [{ account: "{b0000000-0000-4000-8000-0000000000b1}" }], upstream: $UPSTREAM"#)
            .route("name: email, path: /email, allow: [{ email: ann@example.com }], upstream: $UPSTREAM")
            .route("name: domain, path: /domain, allow: [{ email_domain: example.com }], upstream: $UPSTREAM")
            .route("name: subdomain, path: /sub, allow: [{ email_domain: com }], upstream: $UPSTREAM")
            .route("name: all, path: /all, allow: [{ all: [{ team: acme }, { email: ben@example.com }] }], upstream: $UPSTREAM")
            .route("name: any, path: /any, allow: [{ any: [{ team: globex }, { team: acme/administrators }] }], upstream: $UPSTREAM")
            .route("name: not, path: /not, allow: [{ not: { team: acme } }], upstream: $UPSTREAM")
            .route("name: deny, path: /deny, allow: [{ team: acme }], deny: [{ team: acme/administrators }], upstream: $UPSTREAM")
            .route("name: shut, path: /shut, allow: [{ team: acme }], deny: [{ email_domain: example.com }], upstream: $UPSTREAM")
            .route(r#"name: pinned, path: /pinned, teams: ["{aaaaaaaa-0000-4000-8000-000000000001}"], upstream: $UPSTREAM"#),
    )
    .await?;
    setup.simulator.with(|world| world.add_email("cleo", "cleo@example.com.evil.test", true))?;
    setup.simulator.with(|world| world.set_primary_email("cleo", Some("cleo@example.com.evil.test")))?;
    let rows: &[(&str, [&str; 4])] = &[
        // ann, ben, cleo, dan
        ("/account", ["no", "yes", "no", "no"]),
        ("/email", ["yes", "no", "no", "no"]),
        ("/domain", ["yes", "yes", "no", "yes"]),
        ("/sub", ["no", "no", "no", "no"]),
        ("/all", ["no", "yes", "no", "no"]),
        ("/any", ["yes", "no", "yes", "no"]),
        ("/not", ["no", "no", "yes", "yes"]),
        ("/deny", ["no", "yes", "no", "no"]),
        ("/shut", ["no", "no", "no", "no"]),
        ("/pinned", ["yes", "yes", "no", "no"]),
    ];
    for (column, user) in ["ann", "ben", "cleo", "dan"].into_iter().enumerate() {
        let browser = setup.signed_in(user).await?;
        for (path, expected) in rows {
            let response = browser.script(&setup.url(path)).await?;
            let expected = if expected[column] == "yes" { 200 } else { 403 };
            assert_eq!(response.status, expected, "{user} {path}: {}", response.text());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_public_route_asks_nobody_and_tells_the_app_nothing() -> Checked {
    let setup = Setup::new().await?;
    let response = send(&Request::get(&setup.url("/public/x"))).await?;
    assert_eq!(response.expect(200)?.json()?["target"], "/public/x");
    assert!(response.all("set-cookie").is_empty());
    let browser = setup.signed_in("ben").await?;
    let response = browser.get(&setup.url("/public")).await?;
    for name in ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-teamgate-assertion"] {
        assert_eq!(response.echoed_all(name)?, [""; 0], "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_most_specific_route_decides_and_methods_count() -> Checked {
    let setup = Setup::with(
        Config::default()
            .route("name: read, path: /docs, methods: [GET, HEAD], access: public, upstream: $UPSTREAM")
            .route("name: write, path: /docs, teams: [acme/administrators], upstream: $UPSTREAM")
            .route("name: exact, path_exact: /docs/secret, teams: [globex], upstream: $UPSTREAM")
            .route("name: regex, path_regex: '/r[0-9]+', access: public, upstream: $UPSTREAM"),
    )
    .await?;
    for (method, path, status) in [
        ("GET", "/docs", 200),
        ("HEAD", "/docs/x", 200),
        ("POST", "/docs", 401),
        ("DELETE", "/docs/x", 401),
        ("GET", "/docs/secret", 401),
        ("GET", "/docs/secret/", 200),
        ("GET", "/docs/secrets", 200),
    ] {
        let response = send(&Request::new(method, &setup.url(path))).await?;
        assert_eq!(response.status, status, "{method} {path}");
    }
    let ann = setup.signed_in("ann").await?;
    ann.fetch(Request::new("POST", &setup.url("/docs")).body("x")).await?.expect(200)?;
    let ben = setup.signed_in("ben").await?;
    ben.fetch(Request::new("POST", &setup.url("/docs")).body("x")).await?.expect(403)?;
    Ok(())
}

#[tokio::test]
async fn what_no_route_matches_is_not_found_whoever_asks() -> Checked {
    let setup = Setup::with(Config::default().routes(
        "- { name: wiki, path: /wiki, teams: [acme], upstream: $UPSTREAM }\n\
         - { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }\n\
         - { name: only, host: only.example.com, path: /, access: public, upstream: $UPSTREAM }",
    ))
    .await?;
    let browser = setup.signed_in("cleo").await?;
    for path in ["/", "/wikipedia", "/other?x"] {
        for response in [
            send(&navigation("GET", &setup.url(path), "none")).await?,
            send(&Request::get(&setup.url(path))).await?,
            browser.get(&setup.url(path)).await?,
        ] {
            response.expect(404)?;
            assert!(response.all("set-cookie").is_empty() && response.header("location").is_none(), "{path}");
        }
    }
    for (host, status) in [
        ("only.example.com", 200),
        ("ONLY.example.com.", 200),
        ("only.example.com:81", 200),
        ("not.example.com", 404),
    ] {
        let response = send(&Request::get(&setup.url("/")).header("Host", host)).await?;
        assert_eq!(response.status, status, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cookie_that_is_not_a_session_counts_as_none_and_is_taken_away_from_browsers() -> Checked {
    let setup = Setup::new().await?;
    let another = setup.another(Config::default()).await?;
    let stranger = Browser::new();
    stranger.sign_in(&another.url("/lobby"), "ben").await?.expect(200)?;
    let of_another = stranger.session()?;
    let good = setup.signed_in("ben").await?.session()?;
    let flipped = format!("{}{}", if good.starts_with('x') { 'y' } else { 'x' }, &good[1..]);
    let long = "A".repeat(3_000);
    for value in [
        "",
        "x",
        "null",
        &good[..63],
        &format!("{good}A"),
        &flipped,
        &good.to_lowercase(),
        &good.chars().rev().collect::<String>(),
        &format!("\"{good}\""),
        &good.replacen(&good[..1], &format!("%{:02X}", good.as_bytes()[0]), 1),
        &"A".repeat(64),
        &"=".repeat(64),
        &long,
        &of_another,
    ] {
        let browser = Browser::new();
        browser.plant("teamgate", value);
        let response = browser.script(&setup.url("/")).await?;
        response.expect(401)?;
        assert!(response.all("set-cookie").is_empty(), "{value}");
        let response = browser.get(&setup.url("/")).await?;
        response.expect(302)?;
        assert!(response.all("set-cookie").iter().any(|cookie| cookie.starts_with("teamgate=;")), "{value}");
        assert!(browser.cookie("teamgate").is_none(), "{value}");
    }
    assert!(setup.upstream.received().iter().all(|request| request.target == "/lobby"));

    // Bytes that are no text at all.
    let mut bytes = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: teamgate=".to_vec();
    bytes.extend([0xff; 64]);
    bytes.extend(b"\r\n\r\n");
    let answer = raw(setup.gateway.address(), &bytes).await?;
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[tokio::test]
async fn a_planted_cookie_before_the_real_one_changes_nothing() -> Checked {
    let setup = Setup::new().await?;
    let session = setup.signed_in("ben").await?.session()?;
    for cookies in [
        format!("teamgate=planted; teamgate={session}"),
        format!("teamgate={session}; teamgate=planted"),
        format!("a=b; teamgate=; teamgate={session}; c=d"),
    ] {
        let response = send(&Request::get(&setup.url("/")).header("Cookie", &cookies)).await?;
        assert_eq!(response.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ben"));
    }
    for cookies in
        [format!("Teamgate={session}"), format!("teamgate2={session}"), format!("x=teamgate={session}")]
    {
        send(&Request::get(&setup.url("/")).header("Cookie", &cookies)).await?.expect(401)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_websocket_that_another_site_opens_is_refused() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let open = |origin: Option<&str>| {
        let request = Request::get(&setup.url("/websocket")).headers(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        origin.into_iter().fold(request, |request, origin| request.header("Origin", origin))
    };
    browser.fetch(open(Some("http://evil.test"))).await?.expect(403)?;
    browser.fetch(open(Some("null"))).await?.expect(403)?;
    browser.fetch(open(Some(&setup.url("")))).await?.expect(101)?;
    browser.fetch(open(None)).await?.expect(101)?;
    Ok(())
}
