//! What clients claim to be.

use crate::support::{Browser, Checked, Config, Request, Setup, Wire};

const ANN: &str = "a0000000-0000-4000-8000-0000000000a1";

/// The spellings under which an app may take a name for another: CGI, WSGI, FastCGI and PHP fold what is no
/// letter and no digit (CVE-2025-64484, CVE-2026-52845 and their kin).
fn spellings(name: &str) -> Vec<String> {
    let joined = |with: &str| name.replace('-', with);
    let mut mixed = String::new();
    for (place, letter) in name.chars().enumerate() {
        mixed.push(if place % 2 == 0 { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() });
    }
    let all = [
        name.to_owned(),
        name.to_lowercase(),
        name.to_uppercase(),
        mixed,
        joined("_"),
        joined("."),
        joined("_").to_uppercase(),
        joined("!"),
        joined("~"),
        joined("*"),
        joined("'"),
        joined("|"),
        joined("+"),
        joined("&"),
        joined("^"),
        joined("$"),
        joined("%"),
        joined("#"),
        joined("`"),
        name.replacen('-', "_", 1),
    ];
    all.into_iter().collect()
}

/// What a name comes to where everything that is no letter or digit is one character.
fn folded(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Identities as we say them, and as others do; what takes an app elsewhere.
const NAMES: &[&str] = &[
    "X-Teamgate-Assertion",
    "X-Teamgate-Whatever",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-WEBAUTH-USER",
    "X-Own-Mapping",
    "Remote-User",
    "Remote-Groups",
    "X-Remote-User",
    "X-Auth-Request-User",
    "X-Auth-Request-Access-Token",
    "X-Auth-User",
    "X-User-Id",
    "OIDC-Claim-Sub",
    "X-Forwarded-Access-Token",
    "X-Authentik-Username",
    "X-Vouch-User",
    "X-Pomerium-Jwt-Assertion",
    "X-Goog-Iap-Jwt-Assertion",
    "X-Goog-Authenticated-User-Email",
    "Cf-Access-Jwt-Assertion",
    "Cf-Access-Authenticated-User-Email",
    "X-Amzn-Oidc-Data",
    "X-Ms-Client-Principal",
    "Tailscale-User-Login",
    "X-Ssl-Client-Cert",
    "X-Client-Cert",
    "X-Forwarded-Client-Cert",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-URI",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-Server",
    "X-Real-IP",
    "True-Client-IP",
    "X-Original-Host",
    "X-Host",
];

fn config() -> Config {
    Config::default()
        .route("name: mapped, path: /mapped, teams: [acme], upstream: $UPSTREAM, headers: { X-Own-Mapping: \"{email}\" }")
}

#[tokio::test]
async fn no_identity_of_the_clients_making_reaches_an_app() -> Checked {
    let setup = Setup::with(config()).await?;
    let ann = setup.signed_in("ann").await?;
    let (nobody, claim) = (Browser::new(), "claimed-by-the-client");
    let mut number = 0;
    for name in NAMES {
        for batch in spellings(name).chunks(5) {
            for (browser, path) in [(&nobody, "/public"), (&ann, "/lobby"), (&ann, "/public")] {
                number += 1;
                let target = format!("{path}/{number}");
                let mut request = Request::get(&setup.url(&target)).header("X-Harmless", claim);
                for spelled in batch {
                    // Twice, since some readers take the first and some the last.
                    request = request.header(spelled, claim).header(spelled, claim);
                }
                browser.fetch(request).await?.expect(200)?;
                let received = setup.upstream.received_at(&target);
                let claimed: Vec<&str> = received[0]
                    .headers
                    .iter()
                    .filter(|(_, value)| value.contains(claim))
                    .map(|(name, _)| name.as_str())
                    .collect();
                assert_eq!(claimed, ["x-harmless"], "{target} {batch:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_the_app_is_told_stands_there_once_and_is_ours() -> Checked {
    let setup = Setup::with(config()).await?;
    let ann = setup.signed_in("ann").await?;
    let told = [
        ("x-forwarded-user", ANN),
        ("x-forwarded-email", "ann@acme.example"),
        ("x-forwarded-groups", "acme,acme/administrators,acme/members"),
        ("x-own-mapping", "ann@acme.example"),
    ];
    let honest = ann.get(&setup.url("/mapped/honest")).await?;
    for (name, _) in told {
        let mut request = Request::get(&setup.url(&format!("/mapped/{name}")));
        for spelled in spellings(name) {
            request = request.header(&spelled, "root");
        }
        let response = ann.fetch(request).await?;
        response.expect(200)?;
        for (own, _) in told {
            assert_eq!(response.echoed_all(own)?, honest.echoed_all(own)?, "{own} with {name} claimed");
            assert_eq!(response.echoed_all(own)?.len(), 1, "{own}");
        }
        assert_eq!(response.echoed("x-forwarded-user")?.as_deref(), Some(ANN));
        let received = setup.upstream.received_at(&format!("/mapped/{name}"));
        let alike = received[0].headers.iter().filter(|(own, _)| folded(own) == folded(name));
        assert_eq!(alike.count(), 1, "{name}");
    }
    Ok(())
}

/// CVE-2024-45410, CVE-2025-48865, CVE-2022-31813: `Connection` names what the next hop shall not see.
#[tokio::test]
async fn a_client_cannot_have_our_headers_taken_off() -> Checked {
    let setup = Setup::with(config()).await?;
    let ann = setup.signed_in("ann").await?;
    let ours = [
        "X-Teamgate-Assertion",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Own-Mapping",
        "X-Request-Id",
        "traceparent",
        "Forwarded",
        "x-forwarded-port",
    ];
    for name in ours {
        for nominated in [
            name.to_owned(),
            name.to_lowercase(),
            name.to_uppercase(),
            format!("close, {name}"),
            format!("{name},"),
        ] {
            let request = Request::get(&setup.url("/mapped/a"))
                .header("Connection", &nominated)
                .header(name, "claimed-by-the-client");
            let response = ann.fetch(request).await?;
            response.expect(200)?;
            for own in ours {
                let said = response.echoed_all(own)?;
                assert_eq!(said.len(), 1, "{own} with Connection: {nominated}");
                assert_ne!(said[0], "claimed-by-the-client", "{own} with Connection: {nominated}");
            }
        }
    }
    for protected in ["Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"] {
        let request =
            Request::get(&setup.url("/mapped/b")).header("Connection", &format!("close, {protected}"));
        let response = ann.fetch(request).await?;
        assert!(matches!(response.status, 200 | 400), "{protected}: {}", response.status);
        if response.status == 200 {
            assert_eq!(response.echoed_all(protected)?.len(), 1, "{protected}");
        }
    }
    // Two fields of it, and many names in one.
    let request = Request::get(&setup.url("/mapped/c"))
        .header("Connection", "close")
        .header("Connection", "x-forwarded-user, x-teamgate-assertion");
    let response = ann.fetch(request).await?;
    assert_eq!(response.expect(200)?.echoed("x-forwarded-user")?.as_deref(), Some(ANN));
    Ok(())
}

#[tokio::test]
async fn what_stands_in_trailers_is_no_header() -> Checked {
    let setup = Setup::with(config()).await?;
    let ann = setup.signed_in("ann").await?;
    let cookie = ann.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    for (target, cookie) in [("/public/trailers", ""), ("/lobby/trailers", cookie.as_str())] {
        let request = Request::new("POST", &setup.url(target))
            .headers(&[("Transfer-Encoding", "chunked"), ("Trailer", "X-Forwarded-User, Remote-User, Cookie"), ("Cookie", cookie)])
            .body("3\r\nabc\r\n0\r\nX-Forwarded-User: root\r\nRemote_User: root\r\nX-Teamgate-Assertion: root\r\nCookie: a=root\r\n\r\n");
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&request.bytes()).await?;
        let response = wire.response().await?;
        assert_eq!(response.expect(200)?.json()?["body"], "abc");
        let received = setup.upstream.received_at(target);
        assert!(!String::from_utf8_lossy(&received[0].head).contains("root"), "{target}");
        assert_eq!(received[0].all("trailer"), [""; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn a_public_route_has_no_identity_even_for_somebody_signed_in() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    let response = ann.get(&setup.url("/public/a")).await?;
    response.expect(200)?;
    for name in ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-teamgate-assertion"] {
        assert_eq!(response.echoed_all(name)?, [""; 0], "{name}");
    }
    assert!(!response.text().contains(&ann.session()?));
    Ok(())
}

#[tokio::test]
async fn our_cookies_stay_with_us_and_the_apps_reach_it_in_one_field() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    let session = ann.session()?;
    let own = format!("teamgate={session}");
    for (path, fields, expected) in [
        ("/lobby", vec![format!("app=1; {own}; other=\"2\"")], "app=1; other=\"2\""),
        ("/lobby", vec!["app=1".to_owned(), own.clone(), "other=2".to_owned()], "app=1; other=2"),
        ("/lobby", vec![format!("{own};app=1")], "app=1"),
        ("/lobby", vec![format!("{own}; teamgate-try-x=1; teamgate-rounds=1.2; teamgate=forged")], ""),
        ("/lobby", vec![format!("teamgate=forged; {own}; a=1")], "a=1"),
        (
            "/lobby",
            vec![format!("{own}; teamgated=1; Teamgate=2; xteamgate=3")],
            "teamgated=1; Teamgate=2; xteamgate=3",
        ),
        ("/public", vec![format!("{own}; a=1")], "a=1"),
        ("/public", vec![own.clone()], ""),
    ] {
        let mut request = Request::get(&setup.url(&format!("{path}/cookies")));
        for field in &fields {
            request = request.header("Cookie", field);
        }
        let response = Browser::new().fetch(request).await?;
        response.expect(200)?;
        assert_eq!(response.echoed_all("cookie")?.join(" | "), expected, "{fields:?}");
        assert!(!response.text().contains(&session), "{fields:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_list_of_names_can_be_longer_and_shorter_but_never_let_ours_through() -> Checked {
    let config = config().top(
        "strip_headers: { add: [X-Acme-*, X-Level], keep: [Remote-User, X-Auth-Request-*] }\nassertion: { header: X-Acme-Proof }",
    );
    let setup = Setup::with(config).await?;
    let ann = setup.signed_in("ann").await?;
    for (name, passes) in [
        ("X-Acme-Role", false),
        ("x_acme_role", false),
        ("X_Level", false),
        ("X-Levels", true),
        ("Remote-User", true),
        ("X-Auth-Request-User", true),
        ("Remote-Groups", false),
        ("X-Acme-Proof", false),
        ("X.Acme.Proof", false),
        ("X-Forwarded-User", false),
        ("X-Own-Mapping", false),
        ("X-Teamgate-Assertion", false),
    ] {
        for browser in [&ann, &Browser::new()] {
            let request = Request::get(&setup.url("/public/list")).header(name, "claimed-by-the-client");
            let response = browser.fetch(request).await?;
            assert_eq!(response.expect(200)?.text().contains("claimed-by-the-client"), passes, "{name}");
        }
    }
    let response =
        ann.fetch(Request::get(&setup.url("/lobby/list")).header("X_Acme_Proof", "claimed")).await?;
    let proof = response.expect(200)?.echoed_all("x-acme-proof")?;
    assert_eq!(proof.len(), 1);
    assert_eq!(proof[0].split('.').count(), 3, "{proof:?}");
    assert_eq!(response.echoed_all("x-teamgate-assertion")?, [""; 0]);
    Ok(())
}

/// Hop-by-hop fields, and `Proxy`, of which CGI makes `HTTP_PROXY` (httpoxy).
#[tokio::test]
async fn what_is_between_two_hops_only_stays_between_them() -> Checked {
    let setup = Setup::new().await?;
    let request = Request::get(&setup.url("/public/hops")).headers(&[
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=1"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("Proxy", "http://evil.example/"),
    ]);
    let response = Browser::new().fetch(request).await?;
    response.expect(200)?;
    for name in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
        "proxy",
    ] {
        assert_eq!(response.echoed_all(name)?, [""; 0], "{name}");
    }
    Ok(())
}
