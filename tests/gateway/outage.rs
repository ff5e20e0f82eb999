//! What happens while Bitbucket is away, or says what cannot be used.

use std::time::Duration;

use bitbucket_sim::{Fault, FaultKind};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::support::{Browser, Checked, Config, Request, Setup, eventually};

fn short_sighted() -> Config {
    Config::default()
        .top("directory: { refresh_after: 1s, max_age: 2s, outage_grace: 10s }")
        .route("name: strict, path: /strict, teams: [acme], max_age: 1s, upstream: $UPSTREAM")
}

/// A page that says that it cannot tell, and what a program gets instead.
async fn cannot_tell(setup: &Setup, browser: &Browser, path: &str) -> Checked {
    let page = browser.get(&setup.url(path)).await?;
    assert!(page.expect(503)?.text().contains("We can’t check your teams right now"));
    assert!(page.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait > 0)));
    let problem = browser.script(&setup.url(path)).await?;
    assert_eq!(problem.expect(503)?.json()?["type"], "urn:teamgate:problem:cannot-tell");
    assert_eq!(
        problem.header("retry-after"),
        problem.json()?["retry_after"].as_u64().map(|s| s.to_string()).as_deref()
    );
    assert!(problem.all("set-cookie").is_empty());
    let grpc = Request::new("POST", &setup.url(path)).header("Content-Type", "application/grpc");
    assert_eq!(browser.fetch(grpc).await?.expect(200)?.header("grpc-status"), Some("14"));
    Ok(())
}

async fn is_survived(kind: FaultKind) -> Checked {
    let setup = Setup::with(short_sighted()).await?;
    let browser = setup.signed_in("ben").await?;
    let session = browser.session()?;
    setup.simulator.with(|world| world.fault(Fault::new("*", kind.clone())));
    let since = Instant::now();
    // In use all the while; longer than max_age, and well within the grace.
    while since.elapsed() < Duration::from_secs(4) {
        let response = browser.script(&setup.url("/")).await?;
        assert_eq!(response.status, 200, "{kind:?} after {:?}: {}", since.elapsed(), response.text());
        sleep(Duration::from_millis(50)).await;
    }
    // A route that asked for less gets less, outage or not.
    cannot_tell(&setup, &browser, "/strict").await?;
    eventually("the grace is over", async || Ok(browser.script(&setup.url("/")).await?.status == 503))
        .await?;
    cannot_tell(&setup, &browser, "/").await?;
    // What needs no membership goes on, and nobody is signed out.
    browser.script(&setup.url("/public")).await?.expect(200)?;
    browser.script(&setup.url("/.teamgate/userinfo")).await?.expect(200)?;
    assert_eq!(browser.session()?, session);
    assert!(setup.gateway.audited("sessions_ended").is_empty(), "{kind:?}");

    setup.simulator.with(|world| world.clear_faults());
    eventually("it recovers", async || Ok(browser.script(&setup.url("/")).await?.status == 200)).await?;
    browser.script(&setup.url("/strict")).await?.expect(200)?;
    assert_eq!(browser.session()?, session);
    Ok(())
}

#[tokio::test]
async fn an_outage_is_bridged_up_to_the_grace_then_admitted_and_never_signs_anybody_out() -> Checked {
    let kinds = [
        FaultKind::Drop,
        FaultKind::Status(500),
        FaultKind::Html200,
        FaultKind::Truncated,
        FaultKind::RateLimited { retry_after: Some(3), json: true },
        FaultKind::RateLimited { retry_after: None, json: false },
    ];
    for outcome in join_all(kinds.map(is_survived)).await {
        outcome?;
    }
    Ok(())
}

/// Reading goes on for hours, writing does not; and what is shown says how old it may be.
#[tokio::test]
async fn a_route_bridges_an_outage_for_the_methods_that_it_names_and_says_as_of_when() -> Checked {
    let setup = Setup::with(
        Config::default().top("directory: { refresh_after: 1s, max_age: 2s, outage_grace: 0s }").route(
            "name: notes, path: /notes, teams: [acme], upstream: $UPSTREAM, \
                 outage_grace: { for: 1h, methods: [GET, HEAD] }, \
                 headers: { X-Teamgate-Groups-As-Of: \"{groups_as_of}\" }",
        ),
    )
    .await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new("*", FaultKind::Drop)));
    let url = setup.url("/notes");
    let write = async || {
        let request = Request::new("POST", &url).header("Sec-Fetch-Site", "same-origin");
        browser.fetch(request).await.map(|answer| answer.status)
    };
    eventually("elsewhere nobody can tell", async || {
        browser.script(&url).await?.expect(200)?;
        Ok(browser.script(&setup.url("/")).await?.status == 503)
    })
    .await?;
    eventually("nothing is written any more", async || Ok(write().await? == 503)).await?;
    let page = browser.script(&url).await?;
    let as_of = page.expect(200)?.echoed("x-teamgate-groups-as-of")?.ok_or("it does not say as of when")?;
    assert!(as_of.len() == 20 && as_of.ends_with('Z'), "{as_of}");
    let forged = Request::get(&url).header("X-Teamgate-Groups-As-Of", "2099-01-01T00:00:00Z");
    assert_eq!(browser.fetch(forged).await?.expect(200)?.echoed("x-teamgate-groups-as-of")?, Some(as_of));
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_token_endpoint_is_bridged_too() -> Checked {
    let setup = Setup::with(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| {
        world.expire_access_tokens();
        world.fault(Fault::new("token.refresh", FaultKind::Status(503)).times(1));
    });
    eventually("it was tried twice", async || {
        browser.script(&setup.url("/")).await?.expect(200)?;
        Ok(setup.simulator.count("token.refresh") == 2)
    })
    .await?;
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    eventually("answers arrive again", async || Ok(browser.script(&setup.url("/")).await?.status == 403))
        .await
}

#[tokio::test]
async fn the_page_tries_again_by_itself_six_times_and_then_leaves_it_to_the_person() -> Checked {
    let setup =
        Setup::with(Config::default().top("directory: { refresh_after: 1s, max_age: 2s, outage_grace: 0s }"))
            .await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new("*", FaultKind::Drop)));
    eventually("nobody can tell", async || Ok(browser.script(&setup.url("/page?x=1")).await?.status == 503))
        .await?;
    for round in 1..=6 {
        let page = browser.get(&setup.url("/page?x=1")).await?;
        assert_eq!(page.expect(503)?.header("refresh"), Some("10; url=/page?x=1"), "{round}");
        assert!(page.text().contains(&format!("{round} of 6")), "{round} {}", page.text());
    }
    for _ in 0..2 {
        let page = browser.get(&setup.url("/page?x=1")).await?;
        assert_eq!(page.expect(503)?.header("refresh"), None);
        assert!(page.text().contains("has stopped"));
    }
    let counts = browser.cookies().iter().filter(|cookie| cookie.name == "teamgate-reloads").count();
    assert_eq!(counts, 1);
    Ok(())
}

#[tokio::test]
async fn a_person_who_waits_long_enough_is_answered_within_the_same_request() -> Checked {
    let setup =
        Setup::with(Config::default().top("directory: { refresh_after: 1s, max_age: 2s, outage_grace: 0s }"))
            .await?;
    let browser = setup.signed_in("ben").await?;
    sleep(Duration::from_millis(4_500)).await;
    // Unused for longer than max_age, so nobody asked meanwhile; and now Bitbucket is slow.
    setup.simulator.with(|world| {
        world.fault(Fault::new("workspaces", FaultKind::Slow(Duration::from_millis(800))).times(1))
    });
    browser.get(&setup.url("/")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_rate_limit_is_obeyed() -> Checked {
    let setup = Setup::with(
        Config::default().bitbucket("teams: [acme, globex]").top("directory: { refresh_after: 1s }"),
    )
    .await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| {
        world.clear_requests();
        world.fault(Fault::new("*", FaultKind::RateLimited { retry_after: Some(9), json: true }));
    });
    let in_use = async || browser.script(&setup.url("/")).await?.expect(200).map(|_| ());
    eventually("it was told", async || {
        in_use().await?;
        Ok(!setup.simulator.requests().is_empty())
    })
    .await?;
    let told = Instant::now();
    // Two teams were asked about at the same time, before the answer.
    while told.elapsed() < Duration::from_secs(7) {
        in_use().await?;
        let asked = setup.simulator.requests();
        assert!(asked.len() <= 2, "{:?}: {asked:?}", told.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    setup.simulator.with(|world| world.clear_faults());
    eventually("it is asked again", async || {
        in_use().await?;
        Ok(setup.simulator.requests().iter().any(|request| request.status == 200))
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_to_the_operator_with_the_announcement() -> Checked {
    let setup = Setup::with(short_sighted()).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new("workspaces", FaultKind::Gone)));
    let session = browser.session()?;
    // It is no outage: what was known counts up to max_age.
    eventually("nobody can tell", async || Ok(browser.script(&setup.url("/")).await?.status == 503)).await?;
    let line = setup.gateway.logged("/2.0/user/workspaces").await?;
    assert!(line.contains("410") && line.contains("https://developer.atlassian.com/"), "{line}");
    assert_eq!(browser.session()?, session);
    setup.simulator.with(|world| world.clear_faults());
    eventually("it recovers", async || Ok(browser.script(&setup.url("/")).await?.status == 200)).await
}

#[tokio::test]
async fn a_restart_in_the_middle_of_an_outage_forgets_nothing() -> Checked {
    let mut setup = Setup::with(Config::default()).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new("*", FaultKind::Drop)));
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    browser.get(&setup.url("/")).await?.expect(200)?;
    browser.get(&setup.url("/deploy")).await?.expect(403)?;
    Ok(())
}
