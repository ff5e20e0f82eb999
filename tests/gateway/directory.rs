//! How many calls Bitbucket gets, for whom, and what an operator sees of it.

use std::time::Duration;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind};
use tokio::time::sleep;

use crate::support::{Checked, Config, Request, Setup, eventually, send};

/// A figure of the metrics page.
async fn metric(setup: &Setup, series: &str) -> Checked<f64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(series)).ok_or(format!("no {series}"))?;
    Ok(line.trim().parse()?)
}

#[tokio::test]
async fn when_the_budget_does_not_reach_the_background_stretches_and_people_still_sign_in() -> Checked {
    let config = Config::default()
        .bitbucket("teams: [acme, globex]")
        .top("directory: { refresh_after: 1s, budget: 60/h }");
    let setup = Setup::with(config).await?;
    let ben = setup.signed_in("ben").await?;
    eventually("the background has spent what it may", async || {
        ben.script(&setup.url("/")).await?.expect(200)?;
        Ok(metric(&setup, "teamgate_bitbucket_calls_held_total{reason=\"budget\",right=\"background\"}")
            .await?
            > 0.0
            || metric(&setup, "teamgate_requery_interval_stretch").await? > 50.0)
    })
    .await?;
    setup.gateway.logged("directory.budget does not reach").await?;
    let spent = setup.simulator.requests().iter().filter(|request| request.endpoint == "permission").count();
    sleep(Duration::from_secs(3)).await;
    ben.script(&setup.url("/")).await?.expect(200)?;
    let later = setup.simulator.requests().iter().filter(|request| request.endpoint == "permission").count();
    assert!(later <= spent + 2, "{spent} calls, {later} three seconds later");
    // Sign-ins go first: for them there is something left.
    let ann = setup.signed_in("ann").await?;
    ann.script(&setup.url("/")).await?.expect(200)?;
    assert!(metric(&setup, "teamgate_bitbucket_budget_left").await? >= 15.0, "background and sign-ins only");
    assert_eq!(metric(&setup, "teamgate_bitbucket_budget").await?, 60.0);
    assert!(metric(&setup, "teamgate_bitbucket_budget_used{right=\"sign_in\"}").await? >= 10.0);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_tried_by_one_call_at_a_time_and_the_page_says_so() -> Checked {
    let setup = Setup::with(
        Config::default()
            .bitbucket("teams: [acme, globex]")
            .top("directory: { refresh_after: 1s, max_age: 2s, outage_grace: 1h }"),
    )
    .await?;
    let mut browsers = Vec::new();
    for name in ["ann", "ben"] {
        browsers.push(setup.signed_in(name).await?);
    }
    setup.simulator.with(|world| {
        world.clear_requests();
        world.fault(Fault::new("permission", FaultKind::Status(502)));
    });
    let open = "teamgate_bitbucket_circuit_open{endpoint=\"workspace_permission\"}";
    eventually("the circuit is open", async || {
        for browser in &browsers {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
        Ok(metric(&setup, open).await? == 1.0)
    })
    .await?;
    let failed = setup.simulator.count("permission");
    // Everybody goes on asking; Bitbucket hears of it once in five seconds, then once in ten.
    for _ in 0..40 {
        for browser in &browsers {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let later = setup.simulator.count("permission");
    assert!(later <= failed + 2, "{failed} calls, then {later}");
    setup.simulator.with(|world| world.clear_faults());
    eventually("it is closed", async || {
        browsers[0].script(&setup.url("/")).await?.expect(200)?;
        Ok(metric(&setup, open).await? == 0.0)
    })
    .await
}

#[tokio::test]
async fn a_changed_client_secret_ends_nobodys_session_and_risks_nobodys_token() -> Checked {
    let setup = Setup::with(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let (ann, ben) = (setup.signed_in("ann").await?, setup.signed_in("ben").await?);
    let secret = setup.simulator.with(|world| {
        world.clear_requests();
        world.expire_access_tokens();
        let client = world.client_mut(EXAMPLE_CLIENT_ID)?;
        Checked::Ok(std::mem::replace(&mut client.secret, "another".to_owned()))
    })?;
    eventually("it is noticed", async || {
        ann.script(&setup.url("/")).await?.expect(200)?;
        ben.script(&setup.url("/")).await?.expect(200)?;
        Ok(metric(&setup, "teamgate_requeries_total{outcome=\"misconfigured\"}").await? >= 4.0)
    })
    .await?;
    let line = setup.gateway.logged("bitbucket refused our client secret").await?;
    assert!(line.contains("bitbucket.client_secret"), "{line}");
    assert!(setup.simulator.count("token.refresh") <= 3, "{:?}", setup.simulator.requests());
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    setup.simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID)?.secret = secret;
        world.remove_member("ben", "acme")
    })?;
    eventually("answers arrive again", async || {
        ann.script(&setup.url("/")).await?.expect(200)?;
        Ok(ben.script(&setup.url("/")).await?.status == 403)
    })
    .await?;
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_locked_out_for_one_dead_token_ends_nobody_elses_session() -> Checked {
    let setup = Setup::with(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let (ann, ben) = (setup.signed_in("ann").await?, setup.signed_in("ben").await?);
    setup.simulator.with(|world| {
        world.lockout_after_reuse = Some(Duration::from_secs(8));
        // One of the two loses its token, tries the old one again, and gets the client locked out.
        world.fault(Fault::new("token.refresh", FaultKind::LostAnswer).times(1));
        world.expire_access_tokens();
    });
    let lost = "teamgate_token_refreshes_total{outcome=\"lost\"}";
    eventually("one token is lost", async || {
        for browser in [&ann, &ben] {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
        Ok(metric(&setup, lost).await? == 1.0)
    })
    .await?;
    // Locked out: whoever refreshes now is refused in the same words as a withdrawn grant.
    setup.simulator.with(|world| world.expire_access_tokens());
    let doubtful = "teamgate_token_refreshes_total{outcome=\"doubtful\"}";
    eventually("the other is refused and not believed gone", async || {
        for browser in [&ann, &ben] {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
        Ok(metric(&setup, doubtful).await? >= 1.0)
    })
    .await?;
    let good = "teamgate_token_refreshes_total{outcome=\"ok\"}";
    let before = metric(&setup, good).await?;
    eventually("the other refreshes again", async || {
        for browser in [&ann, &ben] {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
        Ok(metric(&setup, good).await? > before)
    })
    .await?;
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    Ok(())
}
