//! How long people stay signed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Browser, Checked, Config, Request, Setup, eventually, send};

#[tokio::test]
async fn a_restart_signs_nobody_out() -> Checked {
    let mut setup = Setup::new().await?;
    let (ben, cleo) = (setup.signed_in("ben").await?, setup.signed_in("cleo").await?);
    for _ in 0..2 {
        assert_eq!(setup.gateway.terminate().await?, 0);
        setup.gateway.restart().await?;
        let page = ben.get(&setup.url("/")).await?;
        assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ben"));
        cleo.get(&setup.url("/")).await?.expect(403)?;
        cleo.get(&setup.url("/globex")).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sign_in_that_was_answered_survives_kill_9() -> Checked {
    let mut setup = Setup::new().await?;
    for user in ["ann", "ben"] {
        let browser = Browser::new();
        let authorize = browser.begin(&setup.url("/")).await?;
        let callback = browser.agree(&authorize, user).await?;
        browser.get(&callback).await?.expect(302)?;
        setup.gateway.kill().await?;
        setup.gateway.restart().await?;
        browser.get(&setup.url("/")).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sign_out_that_was_answered_survives_kill_9() -> Checked {
    let mut setup = Setup::new().await?;
    let browser = setup.signed_in("ben").await?;
    let session = browser.session()?;
    browser.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    let thief = Browser::new();
    thief.plant("teamgate", &session);
    thief.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_sign_in_under_way_survives_a_restart_and_a_used_state_stays_used() -> Checked {
    let mut setup = Setup::new().await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/under/way")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let attempt = browser
        .cookies()
        .into_iter()
        .find(|cookie| cookie.name.starts_with("teamgate-try-"))
        .ok_or("none")?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    let page = browser.follow(browser.get(&callback).await?).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/under/way");

    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    let thief = Browser::new();
    thief.plant(&attempt.name, &attempt.value);
    thief.get(&callback).await?.expect(400)?;
    assert_eq!(setup.simulator.count("token.code"), 1);
    Ok(())
}

#[tokio::test]
async fn gateways_with_other_secrets_do_not_believe_each_others_cookies() -> Checked {
    let setup = Setup::new().await?;
    let another = setup.another(Config::default()).await?;
    let (here, there) = (setup.signed_in("ben").await?, Browser::new());
    there.sign_in(&another.url("/"), "ben").await?.expect(200)?;
    here.script(&another.url("/")).await?.expect(401)?;
    there.script(&setup.url("/")).await?.expect(401)?;
    here.script(&setup.url("/")).await?.expect(200)?;
    there.script(&another.url("/")).await?.expect(200)?;
    // Nor each other's states.
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    browser.get(&callback.replace(&setup.url(""), &another.url(""))).await?.expect(400)?;
    assert_eq!(another.recorded("signed_in", 1).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_not_used_ends() -> Checked {
    let setup = Setup::with(Config::default().top("session: { idle: 2s }")).await?;
    let (used, unused) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let begun = Instant::now();
    // In use, for longer than the idle time.
    while begun.elapsed() < Duration::from_secs(4) {
        used.script(&setup.url("/")).await?.expect(200)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unused.script(&setup.url("/")).await?.expect(401)?;
    let response = unused.get(&setup.url("/")).await?;
    assert!(response.expect(302)?.all("set-cookie").iter().any(|cookie| cookie.starts_with("teamgate=;")));
    Ok(())
}

#[tokio::test]
async fn a_session_ends_after_its_lifetime_used_or_not() -> Checked {
    let mut setup = Setup::with(Config::default().top("session: { lifetime: 10s, idle: 10s }")).await?;
    let browser = Browser::new();
    let authorize = browser.begin(&setup.url("/")).await?;
    let callback = browser.agree(&authorize, "ben").await?;
    let response = browser.get(&callback).await?;
    let cookie = response
        .all("set-cookie")
        .into_iter()
        .find(|cookie| cookie.starts_with("teamgate="))
        .ok_or("none")?;
    assert!(cookie.ends_with("Max-Age=10"), "{cookie}");
    let session = browser.session()?;
    let info = browser.script(&setup.url("/.teamgate/userinfo")).await?.json()?;
    let times = (info["session"]["begun_at"].as_u64(), info["session"]["expires_at"].as_u64());
    assert!(matches!(times, (Some(begun), Some(ends)) if ends - begun == 10), "{times:?}");
    // A restart does not begin it anew.
    assert_eq!(setup.gateway.terminate().await?, 0);
    setup.gateway.restart().await?;
    let cookie = format!("teamgate={session}");
    let request = Request::get(&setup.url("/")).header("Cookie", &cookie);
    send(&request).await?.expect(200)?;
    eventually("the session ends", async || Ok(send(&request).await?.status == 401)).await?;
    // The assertion never outlived it.
    let last = setup.upstream.received().last().cloned().ok_or("nothing received")?;
    let assertion = last.all("x-teamgate-assertion").first().copied().unwrap_or_default().to_owned();
    let claims = crate::login::verified(&setup, &assertion).await?;
    assert_eq!(claims["exp"].as_u64(), times.1);
    Ok(())
}

#[tokio::test]
async fn scripts_learn_who_is_signed_in() -> Checked {
    let setup = Setup::new().await?;
    let url = setup.url("/.teamgate/userinfo");
    let response = send(&Request::get(&url)).await?;
    assert_eq!(response.expect(401)?.json()?["sign_in"], setup.url("/.teamgate/login"));
    let browser = setup.signed_in("ann").await?;
    let response = browser.script(&url).await?;
    assert_eq!(response.expect(200)?.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let info = response.json()?;
    assert_eq!(info["account"], "a0000000-0000-4000-8000-0000000000a1");
    assert_eq!(info["name"], "Ann Abel");
    assert_eq!(info["preferred_username"], "ann");
    assert_eq!(info["email"], "ann@example.com");
    assert_eq!(info["email_verified"], true);
    let groups = info["groups"].as_array().ok_or("no groups")?;
    assert!(groups.contains(&"acme".into()) && groups.contains(&"acme/administrators".into()), "{groups:?}");
    assert!(info["groups_as_of"].as_u64() > Some(1_700_000_000));
    assert!(info["session"]["expires_at"].as_u64() > info["session"]["begun_at"].as_u64());
    let id = info["session"]["id"].as_str().ok_or("no session id")?;
    assert!(id.len() == 16 && !browser.session()?.contains(id));
    Ok(())
}

#[tokio::test]
async fn people_see_who_they_are_and_where_else_they_are_signed_in() -> Checked {
    let setup = Setup::new().await?;
    let nobody = Browser::new().get(&setup.url("/.teamgate/")).await?;
    assert!(nobody.expect(200)?.text().contains("/.teamgate/login?rd=%2F.teamgate%2F"));
    let (first, _second) = (setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    setup.signed_in("ann").await?;
    let page = first.get(&setup.url("/.teamgate")).await?;
    let page = first.follow(page).await?;
    let text = page.expect(200)?.text();
    for part in [
        "You’re <b>Ben Berg</b>",
        "ben@example.com",
        "b0000000-0000-4000-8000-0000000000b1",
        "<code>acme</code>",
        "Chrome on Linux",
        "Sign out",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(text.matches("<li><b>Chrome on Linux</b>").count(), 1, "one other browser\n{text}");
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'"))
    );
    let style = text
        .split("href=\"/.teamgate/style.")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .ok_or("no style")?;
    let style = send(&Request::get(&setup.url(&format!("/.teamgate/style.{style}")))).await?;
    assert_eq!(style.expect(200)?.header("content-type"), Some("text/css; charset=utf-8"));
    Ok(())
}

/// The id of a browser's session, as the person and the logs know it.
async fn id(setup: &Setup, browser: &Browser) -> Checked<String> {
    let info = browser.script(&setup.url("/.teamgate/userinfo")).await?.json()?;
    Ok(info["session"]["id"].as_str().ok_or("no session")?.to_owned())
}

#[tokio::test]
async fn people_sign_out_their_other_browsers_one_by_one_or_all() -> Checked {
    let setup = Setup::new().await?;
    let mut browsers = Vec::new();
    for _ in 0..4 {
        browsers.push(setup.signed_in("ben").await?);
    }
    let (here, ann) = (&browsers[0], setup.signed_in("ann").await?);
    let page = here.get(&setup.url("/.teamgate/")).await?.text();
    assert_eq!(page.matches("?session=").count(), 3, "{page}");
    assert!(!page.contains("<script") && page.contains("127.0.0.1"), "{page}");
    let one = id(&setup, &browsers[1]).await?;
    assert!(page.contains(&format!("action=\"/.teamgate/logout?session={one}\"")), "{page}");

    let url = setup.url(&format!("/.teamgate/logout?session={one}"));
    let answer = here.post(&url, &[]).await?;
    assert_eq!(answer.expect(303)?.location()?, setup.url("/.teamgate/"));
    browsers[1].script(&setup.url("/")).await?.expect(401)?;
    browsers[2].script(&setup.url("/")).await?.expect(200)?;
    // Once more is no mistake.
    here.post(&url, &[]).await?.expect(303)?;

    here.post(&setup.url("/.teamgate/logout?others"), &[]).await?.expect(303)?;
    for gone in &browsers[2..] {
        gone.script(&setup.url("/")).await?.expect(401)?;
    }
    here.script(&setup.url("/")).await?.expect(200)?;
    ann.script(&setup.url("/")).await?.expect(200)?;
    let records = setup.gateway.recorded("signed_out", 3).await?;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record["account"] == "b0000000-0000-4000-8000-0000000000b1"));

    // This one is a sign-out like any other.
    let this = id(&setup, here).await?;
    here.post(&setup.url(&format!("/.teamgate/logout?session={this}")), &[]).await?.expect(200)?;
    assert!(here.session().is_err());
    here.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn nobody_signs_out_somebody_elses_browser_and_no_other_site_does() -> Checked {
    let setup = Setup::new().await?;
    let (ann, ben, also_ben) =
        (setup.signed_in("ann").await?, setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    let (anns, bens) = (id(&setup, &ann).await?, id(&setup, &also_ben).await?);
    // By its name, from a good page.
    ben.post(&setup.url(&format!("/.teamgate/logout?session={anns}")), &[]).await?.expect(303)?;
    ann.script(&setup.url("/")).await?.expect(200)?;
    ben.script(&setup.url("/")).await?.expect(200)?;
    // From another site, or from nowhere.
    for target in [format!("/.teamgate/logout?session={bens}"), "/.teamgate/logout?others".to_owned()] {
        for headers in [
            &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example")][..],
            &[("Sec-Fetch-Site", "same-site")],
            &[("Sec-Fetch-Site", "none")],
            &[("Origin", "https://evil.example")],
            &[("Origin", "null")],
            &[],
        ] {
            let request = Request::new("POST", &setup.url(&target)).headers(headers).body("");
            ben.fetch(request).await?.expect(403)?;
        }
        // And a link asks, as ever.
        ben.get(&setup.url(&target)).await?.expect(200)?;
    }
    also_ben.script(&setup.url("/")).await?.expect(200)?;
    assert!(setup.gateway.audited("signed_out").is_empty());
    Ok(())
}
