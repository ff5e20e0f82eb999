//! Several hosts below one domain, with a proxy in front that ends TLS: what `session.cookie_domain` promises,
//! and what a host-only cookie does without it.

use bitbucket_sim::EXAMPLE_CLIENT_ID;

use crate::support::{Browser, Checked, Config, Response, Setup, navigation, send};

const HOSTS: &str = "
- { name: wiki, host: wiki.example.test, teams: [acme], upstream: $UPSTREAM }
- { name: deploy, host: '*.deploy.example.test', teams: [acme/administrators], upstream: $UPSTREAM }
";

/// Opens `path` on `host`, as the proxy in front passes it on, with these cookies.
async fn open(setup: &Setup, host: &str, path: &str, cookies: &[String]) -> Checked<Response> {
    let mut request = navigation("GET", &setup.url(path), "none")
        .header("Host", host)
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "203.0.113.9");
    if !cookies.is_empty() {
        request = request.header("Cookie", &cookies.join("; "));
    }
    send(&request).await
}

/// The name and value of each cookie that an answer sets.
fn set(response: &Response) -> Vec<String> {
    let fields = response.all("set-cookie");
    fields.iter().filter_map(|field| field.split(';').next()).map(str::to_owned).collect()
}

/// Signs in as `user` from `path` on `host`, which sends the browser to Bitbucket and back to the gate.
async fn sign_in(setup: &Setup, host: &str, path: &str, user: &str) -> Checked<Response> {
    let start = open(setup, host, path, &[]).await?;
    let authorize = start.expect(302)?.location()?;
    let callback = Browser::new().agree(&authorize, user).await?;
    let target = callback.strip_prefix("https://gate.example.test").ok_or("the callback is elsewhere")?;
    open(setup, "gate.example.test", target, &set(&start)).await
}

async fn setup(config: Config) -> Checked<Setup> {
    let setup =
        Setup::with(config.top("external_url: https://gate.example.test\ntrusted_proxies: [127.0.0.1]"))
            .await?;
    let callback = "https://gate.example.test/.teamgate/callback";
    setup.simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, callback))?;
    Ok(setup)
}

#[tokio::test]
async fn one_sign_in_serves_every_host_below_the_cookie_domain() -> Checked {
    let setup =
        setup(Config::default().routes(HOSTS).top("session: { cookie_domain: example.test }")).await?;
    let back = sign_in(&setup, "wiki.example.test", "/page?x=1", "ann").await?;
    assert_eq!(back.expect(302)?.location()?, "https://wiki.example.test/page?x=1");
    let field = back.all("set-cookie").into_iter().find(|field| field.starts_with("teamgate="));
    let field = field.ok_or("no session cookie")?;
    for attribute in ["Domain=example.test", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(field.split("; ").any(|said| said == attribute), "{attribute} in {field}");
    }
    let cookies = set(&back);
    for host in ["wiki.example.test", "eu.deploy.example.test", "WIKI.example.test."] {
        let page = open(&setup, host, "/", &cookies).await?;
        assert_eq!(
            page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(),
            Some("ann"),
            "{host}"
        );
        assert_eq!(page.echoed("x-forwarded-proto")?.as_deref(), Some("https"));
        assert_eq!(page.echoed("cookie")?, None, "the app sees nothing of ours");
    }
    // Signing out on one host is signing out on all.
    let gone = send(
        &navigation("POST", &setup.url("/.teamgate/logout"), "same-origin")
            .header("Host", "wiki.example.test")
            .header("Cookie", &cookies.join("; ")),
    )
    .await?;
    gone.expect(200)?;
    open(&setup, "eu.deploy.example.test", "/", &cookies).await?.expect(302)?;
    Ok(())
}

#[tokio::test]
async fn an_assertion_is_for_the_host_it_was_made_for() -> Checked {
    let setup =
        setup(Config::default().routes(HOSTS).top("session: { cookie_domain: example.test }")).await?;
    let cookies = set(&sign_in(&setup, "wiki.example.test", "/", "ann").await?);
    for host in ["wiki.example.test", "eu.deploy.example.test", "us.deploy.example.test"] {
        let page = open(&setup, host, "/", &cookies).await?;
        let assertion = page.expect(200)?.echoed("x-teamgate-assertion")?.ok_or("no assertion")?;
        let claims = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(&assertion)?.claims;
        assert_eq!(claims["aud"], format!("https://{host}"));
        assert_eq!(claims["iss"], "https://gate.example.test");
    }
    Ok(())
}

#[tokio::test]
async fn people_return_to_hosts_that_are_served_and_to_no_others() -> Checked {
    let setup =
        setup(Config::default().routes(HOSTS).top("session: { cookie_domain: example.test }")).await?;
    for (rd, lands) in [
        ("https%3A%2F%2Fwiki.example.test%2Fa%3Fb%3D1", "https://wiki.example.test/a?b=1"),
        ("https%3A%2F%2Feu.deploy.example.test%2F", "https://eu.deploy.example.test/"),
        ("https%3A%2F%2Fexample.test%2F", "https://gate.example.test/"),
        ("https%3A%2F%2Fevil.test%2F", "https://gate.example.test/"),
        ("http%3A%2F%2Fwiki.example.test%2F", "https://gate.example.test/"),
        ("https%3A%2F%2Fwiki.example.test%3A444%2F", "https://gate.example.test/"),
        ("https%3A%2F%2Fwiki.example.test.evil.test%2F", "https://gate.example.test/"),
    ] {
        let back = sign_in(&setup, "gate.example.test", &format!("/.teamgate/login?rd={rd}"), "ben").await?;
        assert_eq!(back.expect(302)?.location()?, lands, "{rd}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_cookie_domain_the_cookie_belongs_to_its_host_alone() -> Checked {
    let routes = "- { name: wiki, host: gate.example.test, teams: [acme], upstream: $UPSTREAM }";
    let setup = setup(Config::default().routes(routes)).await?;
    let back = sign_in(&setup, "gate.example.test", "/", "ben").await?;
    let fields = back.expect(302)?.all("set-cookie");
    let field =
        fields.iter().find(|field| field.starts_with("__Host-teamgate=")).ok_or("no session cookie")?;
    assert!(!field.contains("Domain"), "{field}");
    assert!(field.contains("Secure") && field.contains("Path=/"), "{field}");
    let (name_and_value, _) = field.split_once(';').ok_or("no attributes")?;
    assert!(name_and_value.len() <= 100, "{} bytes", name_and_value.len());
    open(&setup, "gate.example.test", "/", &set(&back)).await?.expect(200)?;
    // Planted by a sibling host under the name without the prefix, it is nothing.
    let value = name_and_value.trim_start_matches("__Host-").to_owned();
    open(&setup, "gate.example.test", "/", &[value]).await?.expect(302)?;
    Ok(())
}
