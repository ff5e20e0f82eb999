//! Signing in and out.

use std::time::Duration;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use teamgate::clock::Clock;
use teamgate::entropy::Entropy;
use teamgate::keys::Keyring;
use teamgate::login::ticket::Ticket;
use url::Url;

use crate::support::{Browser, Checked, Config, Request, Response, Setup, eventually, navigation, send};

const BEN: &str = "b0000000-0000-4000-8000-0000000000b1";

/// The claims of an assertion, verified as an app would: by the published keys, for this issuer and audience.
pub(crate) async fn verified(setup: &Setup, assertion: &str) -> Checked<Value> {
    teamgate::keys::install_crypto_providers();
    let keys = send(&Request::get(&setup.url("/.teamgate/jwks.json"))).await?;
    assert_eq!(keys.header("content-type"), Some("application/jwk-set+json"));
    let keys: JwkSet = serde_json::from_slice(&keys.body)?;
    let kid = decode_header(assertion)?.kid.ok_or("no kid")?;
    let key = DecodingKey::from_jwk(keys.find(&kid).ok_or("its key is not published")?)?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[setup.url("")]);
    validation.set_audience(&[setup.url("")]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
    validation.validate_nbf = true;
    Ok(decode::<Value>(assertion, &key, &validation)?.claims)
}

/// Where a person is sent after a sign-in that was started with this `rd`.
async fn lands_on(setup: &Setup, rd: &str) -> Checked<String> {
    let browser = Browser::new();
    let rd: String = url::form_urlencoded::byte_serialize(rd.as_bytes()).collect();
    let authorize = browser.begin(&setup.url(&format!("/.teamgate/login?rd={rd}"))).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let response = browser.get(&callback).await?;
    let location = response.expect(302)?.header("location").unwrap_or_default().to_owned();
    Ok(location)
}

fn is_page(response: &Response, title: &str) -> bool {
    response.header("content-type") == Some("text/html; charset=utf-8") && response.text().contains(title)
}

/// A page that says so and has a button to start again, which comes back to `to`.
fn restarts(response: &Response, title: &str, to: &str) -> Checked {
    assert!(is_page(response, title), "{title}: {response:?} {}", response.text());
    let rd: String = url::form_urlencoded::byte_serialize(to.as_bytes()).collect();
    let link = format!("href=\"/.teamgate/login?rd={rd}\"");
    assert!(response.text().contains(&link), "{link}\n{}", response.text());
    Ok(())
}

const EXPIRED: &str = "That sign-in is no longer good";

#[tokio::test]
async fn a_member_reaches_the_page_that_was_asked_for_and_the_app_is_told_who_it_is() -> Checked {
    let setup = Setup::new().await?;
    let page = Browser::new().sign_in(&setup.url("/pages/7?q=a%20b&c=1"), "ben").await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/pages/7?q=a%20b&c=1");
    for (name, value) in [
        ("x-forwarded-user", BEN),
        ("x-forwarded-email", "ben@example.com"),
        ("x-forwarded-preferred-username", "ben"),
        (
            "x-forwarded-groups",
            "acme,acme/members,ben_example,ben_example/administrators,ben_example/members",
        ),
    ] {
        assert_eq!(page.echoed_all(name)?, [value], "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn an_app_can_verify_the_assertion_with_the_published_keys() -> Checked {
    let setup = Setup::new().await?;
    let page = Browser::new().sign_in(&setup.url("/"), "ann").await?;
    let assertion = page.echoed("x-teamgate-assertion")?.ok_or("no assertion")?;
    let claims = verified(&setup, &assertion).await?;
    for (claim, value) in [
        ("iss", Value::from(setup.url(""))),
        ("aud", setup.url("").into()),
        ("sub", "a0000000-0000-4000-8000-0000000000a1".into()),
        ("email", "ann@example.com".into()),
        ("email_verified", true.into()),
        ("name", "Ann Abel".into()),
        ("preferred_username", "ann".into()),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    let groups: Vec<&str> =
        claims["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for group in ["acme", "acme/administrators", "acme/members"] {
        assert!(groups.contains(&group), "{group} in {groups:?}");
    }
    let (issued, expires) = (claims["iat"].as_u64(), claims["exp"].as_u64());
    assert_eq!(issued.map(|at| at + 300), expires);
    assert_eq!(claims["sid"].as_str().map(str::len), Some(16));
    assert!(claims["jti"].as_str().is_some_and(|jti| !jti.is_empty()));

    let mut altered: Vec<String> = assertion.split('.').map(str::to_owned).collect();
    altered[1] = altered[1].chars().rev().collect();
    assert!(verified(&setup, &altered.join(".")).await.is_err(), "an altered one");
    Ok(())
}

#[tokio::test]
async fn bitbucket_is_asked_without_scope_with_our_address_and_with_a_challenge() -> Checked {
    let setup = Setup::new().await?;
    let authorize = Url::parse(&Browser::new().begin(&setup.url("/")).await?)?;
    let parameter = |name: &str| {
        authorize.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    assert_eq!(parameter("response_type").as_deref(), Some("code"));
    assert_eq!(parameter("client_id").as_deref(), Some(EXAMPLE_CLIENT_ID));
    assert_eq!(parameter("redirect_uri"), Some(setup.url("/.teamgate/callback")));
    assert_eq!(parameter("code_challenge_method").as_deref(), Some("S256"));
    assert_eq!(parameter("code_challenge").map(|challenge| challenge.len()), Some(43));
    assert!(parameter("state").is_some_and(|state| state.len() > 60));
    assert_eq!(parameter("scope"), None);
    assert_eq!(parameter("client_secret"), None);
    Ok(())
}

#[tokio::test]
async fn a_return_address_on_this_host_survives() -> Checked {
    let setup = Setup::new().await?;
    for (rd, lands) in [
        ("/", "/"),
        ("/wiki/Home?x=1&y=%20", "/wiki/Home?x=1&y=%20"),
        ("/search?q=https://evil.test/", "/search?q=https://evil.test/"),
        ("/a%2Bb%41", "/a%2BbA"),
        ("/%C3%A9t%C3%A9", "/%C3%A9t%C3%A9"),
        ("/a/../b", "/b"),
        ("/page#part", "/page"),
    ] {
        assert_eq!(lands_on(&setup, rd).await?, setup.url(lands), "{rd}");
    }
    let whole = setup.url("/x/y?z=1");
    assert_eq!(lands_on(&setup, &whole).await?, whole);
    Ok(())
}

#[tokio::test]
async fn a_return_address_elsewhere_lands_on_the_front_page() -> Checked {
    let setup = Setup::new().await?;
    let port = setup.gateway.address().port();
    let here = setup.gateway.address();
    let attacks = [
        "",
        "//evil.test",
        "//evil.test/path",
        "///evil.test",
        "////evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "\\/evil.test",
        "/\t/evil.test",
        "/\n/evil.test",
        "/\r\nSet-Cookie: a=b",
        "/%09/evil.test",
        "/%0d%0aSet-Cookie:%20a=b",
        "/%5cevil.test",
        "/%5c%5cevil.test",
        "/%00/evil.test",
        "https://evil.test",
        "https://evil.test/.teamgate/callback",
        "http:evil.test",
        "http:/evil.test",
        "https:evil.test",
        "HTTP://EVIL.TEST/",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,hello",
        "vbscript:x",
        "file:///etc/passwd",
        "evil.test",
        "evil.test/path",
        "@evil.test",
        "?rd=//evil.test",
        " //evil.test",
        "\u{a0}//evil.test",
        "．evil.test",
        "http://127.0.0.1.evil.test/",
    ];
    let mut attacks: Vec<String> = attacks.iter().map(|attack| (*attack).to_owned()).collect();
    attacks.extend([
        format!("http://{here}@evil.test/"),
        format!("http://evil.test\\@{here}/"),
        format!("http://user:password@{here}/"),
        format!("http://127.0.0.1:{}/", port.wrapping_add(1).max(1)),
        "http://127.0.0.1/".to_owned(),
        format!("https://{here}/"),
        format!("ftp://{here}/"),
        format!("http://{here}.evil.test/"),
        format!("/{}", "x".repeat(5_000)),
    ]);
    let front = setup.url("/");
    for attack in &attacks {
        assert_eq!(lands_on(&setup, attack).await?, front, "{attack:?}");
    }
    // Paths on this host, whatever they remind of.
    for (rd, lands) in [
        ("/a/..//evil.test", "/evil.test"),
        ("/.//evil.test", "/evil.test"),
        ("/x/../../..//evil.test", "/evil.test"),
        ("/%2f%2fevil.test", "/%2F%2Fevil.test"),
    ] {
        assert_eq!(lands_on(&setup, rd).await?, setup.url(lands), "{rd}");
    }
    Ok(())
}

#[tokio::test]
async fn ten_tabs_finish_in_any_order() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let mut callbacks = Vec::new();
    for tab in 0..10 {
        let authorize = browser.begin(&setup.url(&format!("/tab/{tab}"))).await?;
        callbacks.push((tab, browser.agree(&authorize, "ben").await?));
        let attempts =
            browser.cookies().iter().filter(|cookie| cookie.name.starts_with("teamgate-try-")).count();
        assert!(attempts <= 8, "{attempts} attempts are kept");
    }
    for (tab, callback) in callbacks.into_iter().rev() {
        let page = browser.follow(browser.get(&callback).await?).await?;
        assert_eq!(page.expect(200)?.json()?["target"], format!("/tab/{tab}"));
    }
    assert!(
        !browser.cookies().iter().any(|cookie| cookie.name.starts_with("teamgate-try-")),
        "{:?}",
        browser.cookies()
    );
    Ok(())
}

#[tokio::test]
async fn a_state_that_is_not_this_browsers_spends_nothing_and_offers_another_try() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/deep?x=1")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let state = Url::parse(&callback)?
        .query_pairs()
        .find(|(key, _)| key == "state")
        .map(|(_, value)| value.into_owned())
        .ok_or("no state")?;
    let altered = format!("{}{}", if state.starts_with('A') { 'B' } else { 'A' }, &state[1..]);
    let forged = callback.replace(&state, &altered);
    let truncated = callback.replace(&state, &state[..state.len() - 4]);
    let without = callback.split("&state=").next().unwrap_or_default().to_owned();
    let nonsense = callback.replace(&state, "AAAA");

    for url in [&forged, &truncated, &without, &nonsense] {
        let response = browser.get(url).await?;
        assert!(is_page(response.expect(400)?, EXPIRED), "{url}");
        assert!(response.all("set-cookie").is_empty(), "{url}");
    }
    // Another browser, which has an attempt of its own under way: the attacker's, or the victim's.
    let other = Browser::new();
    other.begin(&setup.url("/elsewhere")).await?;
    let response = other.get(&callback).await?;
    restarts(response.expect(400)?, EXPIRED, &setup.url("/deep?x=1"))?;
    // Nor does a cookie of the right name help, which a sibling host can plant.
    let attempt = browser.cookies().into_iter().find(|cookie| cookie.name.starts_with("teamgate-try-"));
    let attempt = attempt.ok_or("no attempt")?;
    for value in ["", "x", &attempt.value[1..], &attempt.value.to_uppercase()] {
        other.plant(&attempt.name, value);
        other.get(&callback).await?.expect(400)?;
    }
    assert!(other.cookie("teamgate").is_none());
    assert_eq!(setup.simulator.count("token.code"), 0, "no code was spent");
    assert!(setup.gateway.audited("signed_in").is_empty());

    // And the right browser still gets in, with the same code.
    let page = browser.follow(browser.get(&callback).await?).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/deep?x=1");
    assert_eq!(setup.simulator.count("token.code"), 1);
    Ok(())
}

#[tokio::test]
async fn a_state_works_once() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let attempt = browser
        .cookies()
        .into_iter()
        .find(|cookie| cookie.name.starts_with("teamgate-try-"))
        .ok_or("none")?;
    browser.get(&callback).await?.expect(302)?;
    assert_eq!(setup.simulator.count("token.code"), 1);
    // Somebody who has the URL and even the attempt's cookie, say from a backup of the browser's profile.
    let thief = Browser::new();
    thief.plant(&attempt.name, &attempt.value);
    let response = thief.get(&callback).await?;
    assert!(is_page(response.expect(400)?, EXPIRED));
    assert!(thief.cookie("teamgate").is_none());
    // The person who presses "back" and "forward" just goes on.
    let page = browser.follow(browser.get(&callback).await?).await?;
    page.expect(200)?;
    assert_eq!(setup.simulator.count("token.code"), 1);
    Ok(())
}

#[tokio::test]
async fn a_state_older_than_ten_minutes_is_refused() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    // What the gateway itself would have made eleven minutes ago.
    let keyring = Keyring::load(&setup.gateway.folder().join("teamgate.secret"))?;
    for (age, works) in [(Duration::from_secs(590), true), (Duration::from_secs(660), false)] {
        let then = Clock::system().now().minus(age);
        let (ticket, attempt) = Ticket::draw(setup.url("/late"), then, &Entropy::system());
        browser.plant(&format!("teamgate-try-{}", attempt.id), &attempt.value);
        let mut authorize = Url::parse(&Browser::new().begin(&setup.url("/")).await?)?;
        let parameters: Vec<(String, String)> = authorize
            .query_pairs()
            .map(|(name, value)| match &*name {
                "state" => (name.into_owned(), ticket.seal(&keyring, &Entropy::system())),
                "code_challenge" => (name.into_owned(), ticket.challenge()),
                _ => (name.into_owned(), value.into_owned()),
            })
            .collect();
        authorize.query_pairs_mut().clear().extend_pairs(parameters);
        let callback = browser.agree(authorize.as_str(), "ben").await?;
        let spent = setup.simulator.count("token.code");
        let response = browser.get(&callback).await?;
        if works {
            assert_eq!(response.expect(302)?.location()?, setup.url("/late"));
            browser.forget_all();
        } else {
            restarts(response.expect(400)?, EXPIRED, &setup.url("/late"))?;
            assert_eq!(setup.simulator.count("token.code"), spent);
        }
    }
    Ok(())
}

#[tokio::test]
async fn saying_no_at_bitbucket_is_understood() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/wanted")).await?;
    let callback = browser.post(&authorize, &[("answer", "cancel")]).await?.expect(303)?.location()?;
    let response = browser.get(&callback).await?;
    restarts(response.expect(403)?, "Sign-in was cancelled", &setup.url("/wanted"))?;
    assert_eq!(setup.simulator.count("token.code"), 0);
    assert_eq!(setup.gateway.recorded("sign_in_failed", 1).await?[0]["outcome"], "declined");
    // The button works.
    browser.sign_in(&setup.url("/wanted"), "ben").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_client_secret_is_told_to_the_operator() -> Checked {
    let setup = Setup::new().await?;
    setup
        .simulator
        .with(|world| world.client_mut(EXAMPLE_CLIENT_ID).map(|client| client.secret = "other".to_owned()))?;
    let response = Browser::new().sign_in(&setup.url("/"), "ben").await?;
    assert!(is_page(response.expect(500)?, "The sign-in service needs its operator"));
    assert!(!response.text().contains("secret"));
    let id = response.header("x-request-id").ok_or("no request id")?;
    let line = setup.gateway.logged(id).await?;
    assert!(line.contains("bitbucket.client_secret"), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_mismatching_redirect_address_is_told_by_bitbucket_itself() -> Checked {
    let setup = Setup::new().await?;
    setup
        .simulator
        .with(|world| world.set_callback(EXAMPLE_CLIENT_ID, "https://elsewhere.example/callback"))?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/")).await?;
    let response = browser.post(&authorize, &[("user", "ben")]).await?;
    assert!(response.expect(400)?.text().contains("Invalid redirect_uri"));
    Ok(())
}

#[tokio::test]
async fn an_error_that_bitbucket_sends_back_is_the_operators() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = Url::parse(&browser.begin(&setup.url("/")).await?)?;
    let state = authorize.query_pairs().find(|(key, _)| key == "state").map(|(_, value)| value.into_owned());
    let url = setup.url(&format!(
        "/.teamgate/callback?error=invalid_scope&error_description=%3Cscript%3E&state={}",
        state.unwrap_or_default()
    ));
    let response = browser.get(&url).await?;
    assert!(is_page(response.expect(500)?, "The sign-in service needs its operator"));
    assert!(!response.text().contains("<script>"));
    setup.gateway.logged("\"error\":\"invalid_scope\"").await?;
    Ok(())
}

#[tokio::test]
async fn blocked_cookies_are_explained() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/page")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    browser.forget_all();
    let response = browser.get(&callback).await?;
    restarts(response.expect(400)?, "isn’t keeping our cookie", &setup.url("/page"))?;
    assert_eq!(setup.simulator.count("token.code"), 0);
    Ok(())
}

#[tokio::test]
async fn going_round_in_circles_is_noticed_at_the_third_round() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    for _ in 0..2 {
        browser.sign_in(&setup.url("/"), "ben").await?.expect(200)?;
        // A browser, or an extension, that throws away one cookie and keeps the others.
        browser.forget("teamgate");
    }
    let response = browser.get(&setup.url("/")).await?;
    restarts(response.expect(400)?, "isn’t keeping our cookie", &setup.url("/"))?;
    // Who tries again by hand is let try.
    browser.sign_in(&setup.url("/"), "ben").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_not_confirmed_is_nobodys() -> Checked {
    let setup = Setup::new().await?;
    setup.simulator.with(|world| world.unconfirm_email("ben", "ben@example.com"))?;
    setup.simulator.with(|world| world.add_email("ben", "second@example.com", true))?;
    let page = Browser::new().sign_in(&setup.url("/"), "ben").await?;
    assert_eq!(page.expect(200)?.echoed_all("x-forwarded-email")?, [""; 0]);
    let claims = verified(&setup, &page.echoed("x-teamgate-assertion")?.unwrap_or_default()).await?;
    assert_eq!((&claims["email"], &claims["email_verified"]), (&Value::Null, &Value::Bool(false)));
    Ok(())
}

#[tokio::test]
async fn accounts_that_are_no_persons_or_switched_off_are_refused() -> Checked {
    let setup = Setup::new().await?;
    setup.simulator.with(|world| {
        world.user_mut("ben")?.kind = "app_user".to_owned();
        world.set_account_status("ann", "inactive")
    })?;
    for (user, title) in
        [("ben", "Only people can sign in here"), ("ann", "This Bitbucket account is deactivated")]
    {
        let browser = Browser::new();
        let response = browser.sign_in(&setup.url("/"), user).await?;
        assert!(is_page(response.expect(403)?, title), "{user}: {}", response.text());
        assert!(browser.cookie("teamgate").is_none());
    }
    assert!(setup.gateway.audited("signed_in").is_empty());
    Ok(())
}

#[tokio::test]
async fn who_is_in_none_of_the_listed_teams_is_not_signed_in_and_nothing_is_kept() -> Checked {
    let setup = Setup::with(
        Config::default()
            .bitbucket("teams: [acme]")
            .routes("- { name: wiki, path: /, teams: [acme], upstream: $UPSTREAM }"),
    )
    .await?;
    for user in ["cleo", "eve", "dan"] {
        let browser = Browser::new();
        let response = browser.sign_in(&setup.url("/"), user).await?;
        assert!(is_page(response.expect(403)?, "isn’t in a team that may use this gateway"), "{user}");
        assert!(response.text().contains("<code>acme</code>"), "{}", response.text());
        assert!(browser.cookie("teamgate").is_none(), "{user}");
    }
    let failed = setup.gateway.recorded("sign_in_failed", 3).await?;
    assert!(failed.len() == 3 && failed.iter().all(|event| event["outcome"] == "not_in_teams"), "{failed:?}");
    assert!(setup.gateway.audited("signed_in").is_empty());
    assert!(setup.upstream.received().is_empty());
    Browser::new().sign_in(&setup.url("/"), "ben").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn every_sign_in_has_a_new_session_and_ends_the_one_before() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    browser.plant("teamgate", "chosen-by-the-attacker");
    browser.sign_in(&setup.url("/"), "ben").await?.expect(200)?;
    let first = browser.session()?;
    assert_ne!(first, "chosen-by-the-attacker");
    assert!("teamgate".len() + 1 + first.len() <= 100);

    let callback = {
        let authorize = browser.begin(&setup.url("/.teamgate/login?rd=/lobby")).await?;
        browser.agree(&authorize, "cleo").await?
    };
    browser.follow(browser.get(&callback).await?).await?.expect(200)?;
    let second = browser.session()?;
    assert_ne!(first, second);
    let thief = Browser::new();
    thief.plant("teamgate", &first);
    thief.script(&setup.url("/")).await?.expect(401)?;
    thief.plant("teamgate", &second);
    thief.script(&setup.url("/lobby")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn cookies_have_every_attribute_that_protects_them() -> Checked {
    let setup = Setup::new().await?;
    let browser = Browser::new();
    let response = browser.get(&setup.url("/")).await?;
    let attempt = response.all("set-cookie");
    assert_eq!(attempt.len(), 1, "{attempt:?}");
    assert!(attempt[0].starts_with("teamgate-try-"));
    let callback = browser.agree(&response.location()?, "ben").await?;
    let response = browser.get(&callback).await?;
    let session: Vec<&str> =
        response.all("set-cookie").into_iter().filter(|cookie| cookie.starts_with("teamgate=")).collect();
    for cookie in [attempt[0], session[0]] {
        let attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
        for wanted in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(attributes.contains(&wanted), "{wanted} in {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    assert_eq!(session.len(), 1);
    Ok(())
}

#[tokio::test]
async fn signing_out_asks_first_and_then_ends_the_session_everywhere() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let stolen = Browser::new();
    stolen.plant("teamgate", &browser.session()?);
    stolen.script(&setup.url("/")).await?.expect(200)?;

    let page = browser.get(&setup.url("/.teamgate/logout")).await?;
    assert!(is_page(page.expect(200)?, "Sign out?") && page.text().contains("Ben Berg"));
    browser.get(&setup.url("/")).await?.expect(200)?;

    let page = browser.post(&setup.url("/.teamgate/logout"), &[]).await?;
    assert!(is_page(page.expect(200)?, "signed out of"));
    assert!(page.text().contains(&format!("{}/account/signout", setup.simulator.url())));
    assert!(browser.cookie("teamgate").is_none());
    stolen.script(&setup.url("/")).await?.expect(401)?;
    assert_eq!(setup.gateway.recorded("signed_out", 1).await?.len(), 1);

    // The page that one lands on does not sign in again, however often it is loaded.
    let asked = setup.simulator.count("authorize");
    for _ in 0..3 {
        let page = browser.get(&setup.url("/.teamgate/logout")).await?;
        assert!(is_page(page.expect(200)?, "signed out of"));
    }
    assert_eq!(setup.simulator.count("authorize"), asked);
    Ok(())
}

#[tokio::test]
async fn no_other_site_can_sign_somebody_out() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let url = setup.url("/.teamgate/logout");
    let origin = setup.url("");
    let post = |headers: &[(&str, &str)]| Request::new("POST", &url).headers(headers).body("");
    for request in [
        post(&[]),
        post(&[("Sec-Fetch-Site", "cross-site")]),
        post(&[("Sec-Fetch-Site", "same-site")]),
        post(&[("Sec-Fetch-Site", "none")]),
        post(&[("Sec-Fetch-Site", "cross-site"), ("Origin", &origin)]),
        post(&[("Origin", "http://evil.test")]),
        post(&[("Origin", "null")]),
        post(&[("Origin", "http://127.0.0.1")]),
        post(&[("Origin", &origin.replace("http:", "https:"))]),
        post(&[("Referer", &origin)]),
    ] {
        let response = browser.fetch(request.clone()).await?;
        response.expect(403)?;
        assert!(response.all("set-cookie").is_empty(), "{request:?}");
        browser.get(&setup.url("/")).await?.expect(200)?;
    }
    for request in [Request::new("PUT", &url), Request::new("DELETE", &url)] {
        browser.fetch(request).await?.expect(405)?;
    }
    // An old browser, which says Origin only.
    browser.fetch(post(&[("Origin", &origin)])).await?.expect(200)?;
    browser.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn switching_accounts_signs_out_and_explains_how_to_come_back() -> Checked {
    let setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let page = browser.post(&setup.url("/.teamgate/logout?switch=1&rd=%2Fdeploy"), &[]).await?;
    assert!(is_page(page.expect(200)?, "Come back as somebody else"));
    browser.sign_in(&setup.url("/.teamgate/login?rd=/deploy"), "ann").await?.expect(200)?;
    Ok(())
}

/// What a person and a program are told when Bitbucket fails during the callback.
async fn fails_politely(endpoint: &str, kind: FaultKind) -> Checked {
    let setup = Setup::new().await?;
    for program in [false, true] {
        let browser = Browser::new();
        let authorize = browser.begin(&setup.url("/page")).await?;
        let callback = browser.agree(&authorize, "ben").await?;
        setup.simulator.with(|world| world.fault(Fault::new(endpoint, kind.clone())));
        let request =
            if program { Request::get(&callback) } else { navigation("GET", &callback, "cross-site") };
        let response = browser.fetch(request).await?;
        setup.simulator.with(|world| world.clear_faults());
        let what = format!("{endpoint} {kind:?} {}", response.text());
        assert!(matches!(response.status, 502 | 503), "{} {what}", response.status);
        let id = response.header("x-request-id").unwrap_or_default().to_owned();
        assert!(!id.is_empty() && response.text().contains(&id), "{what}");
        if program {
            assert_eq!(response.header("content-type"), Some("application/problem+json"), "{what}");
            assert_eq!(response.json()?["request_id"], id, "{what}");
        } else {
            restarts(&response, "Bitbucket", &setup.url("/page"))?;
        }
        assert!(browser.cookie("teamgate").is_none(), "{what}");
        assert_eq!(response.status == 503, response.header("retry-after").is_some(), "{what}");
        // Nothing is left behind: the next try works, or the first after a wait that Bitbucket asked everybody for.
        let again = async || browser.sign_in(&setup.url("/page"), "ben").await;
        match kind {
            FaultKind::RateLimited { .. } => {
                eventually("the wait is over", async || Ok(again().await?.status == 200)).await?;
            }
            _ => {
                again().await?.expect(200)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn bitbucket_failing_in_the_middle_of_a_sign_in_is_a_page_and_never_a_hang() -> Checked {
    for endpoint in ["token.code", "user", "emails", "workspaces", "permission"] {
        for kind in [
            FaultKind::Drop,
            FaultKind::Status(500),
            FaultKind::Status(503),
            FaultKind::Html200,
            FaultKind::Truncated,
            FaultKind::LostAnswer,
            FaultKind::Gone,
            FaultKind::RateLimited { retry_after: Some(1), json: false },
        ] {
            fails_politely(endpoint, kind).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn bitbucket_that_never_answers_is_waited_for_ten_seconds() -> Checked {
    let waits = ["token.code", "user", "emails", "workspaces", "permission"]
        .map(|endpoint| fails_politely(endpoint, FaultKind::Slow(Duration::from_secs(600))));
    for outcome in futures_util::future::join_all(waits).await {
        outcome?;
    }
    Ok(())
}
