//! What changes at Bitbucket takes effect here, without a new sign-in.

use std::time::Duration;

use bitbucket_sim::{Fault, FaultKind, Inactive, Permission};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::login::verified;
use crate::support::{Browser, Checked, Config, Request, Setup, eventually, send};

/// Asked again every second, in the background.
const EVERY_SECOND: &str = "directory: { refresh_after: 1s }";

/// Never asked again in the background; `/strict` wants an answer that is younger than this.
fn on_demand(max_age: &str) -> Config {
    Config::default()
        .bitbucket("teams: [acme]")
        .routes(
            "- { name: wiki, path: /, teams: [acme], upstream: $UPSTREAM }\n\
             - { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }",
        )
        .route(&format!(
            "name: strict, path: /strict, teams: [acme], max_age: {max_age}, upstream: $UPSTREAM"
        ))
}

async fn becomes(browser: &Browser, url: &str, status: u16) -> Checked {
    eventually(&format!("{url} is {status}"), async || Ok(browser.script(url).await?.status == status)).await
}

#[tokio::test]
async fn who_is_removed_from_the_team_is_refused_and_who_comes_back_is_admitted() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ben").await?;
    let url = setup.url("/");
    browser.script(&url).await?.expect(200)?;
    let asked = setup.simulator.count("authorize");
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    becomes(&browser, &url, 403).await?;
    browser.get(&url).await?.expect(403)?;
    setup.simulator.with(|world| world.add_member("ben", "acme", Permission::Member, false))?;
    becomes(&browser, &url, 200).await?;
    assert_eq!(setup.simulator.count("authorize"), asked, "nobody had to sign in again");
    let changes = setup.gateway.recorded("membership_changed", 2).await?;
    assert!(changes.iter().any(|change| change["lost"].to_string().contains("\"acme\"")), "{changes:?}");
    assert!(changes.iter().any(|change| change["gained"].to_string().contains("\"acme\"")), "{changes:?}");
    Ok(())
}

#[tokio::test]
async fn who_leaves_the_only_listed_team_is_refused_everywhere_but_comes_back_without_a_click() -> Checked {
    let setup = Setup::with(on_demand("1s").top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    becomes(&browser, &setup.url("/lobby"), 403).await?;
    setup.simulator.with(|world| world.add_member("ben", "acme", Permission::Member, false))?;
    becomes(&browser, &setup.url("/lobby"), 200).await
}

#[tokio::test]
async fn a_demoted_administrator_loses_what_administrators_may() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ann").await?;
    browser.script(&setup.url("/deploy")).await?.expect(200)?;
    setup.simulator.with(|world| {
        world.set_permission("ann", "acme", Permission::Member)?;
        world.set_administrator("ann", "acme", false)
    })?;
    becomes(&browser, &setup.url("/deploy"), 403).await?;
    browser.script(&setup.url("/")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_member_who_becomes_a_collaborator_is_no_member_any_more() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.set_permission("ben", "acme", Permission::Collaborator))?;
    becomes(&browser, &setup.url("/"), 403).await
}

#[tokio::test]
async fn a_withdrawn_grant_ends_every_session_of_the_account_and_of_nobody_else() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let (one, two) = (setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    let ann = setup.signed_in("ann").await?;
    setup.simulator.with(|world| world.revoke_grant("ben"))?;
    becomes(&one, &setup.url("/"), 401).await?;
    two.script(&setup.url("/")).await?.expect(401)?;
    two.script(&setup.url("/.teamgate/userinfo")).await?.expect(401)?;
    ann.script(&setup.url("/")).await?.expect(200)?;
    let asked = setup.simulator.count("authorize");
    // Bitbucket asks for consent anew: a click.
    let location = one.get(&setup.url("/")).await?.expect(302)?.location()?;
    assert!(one.get(&location).await?.expect(200)?.text().contains("<form"));
    assert_eq!(setup.simulator.count("authorize"), asked + 1);
    eventually("the end is on record", async || Ok(!setup.gateway.audited("sessions_ended").is_empty()))
        .await?;
    let ended = setup.gateway.audited("sessions_ended");
    assert_eq!(
        (&ended[0]["reason"], &ended[0]["count"]),
        (&"grant_withdrawn".into(), &2.into()),
        "{ended:?}"
    );
    assert_eq!(ended.len(), 1);
    // And a new sign-in is a new beginning.
    one.sign_in(&setup.url("/"), "ben").await?.expect(200)?;
    two.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_withdrawn_grant_stays_withdrawn_after_a_restart() -> Checked {
    let mut setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.revoke_grant("ben"))?;
    becomes(&browser, &setup.url("/"), 401).await?;
    eventually("the end is on record", async || Ok(!setup.gateway.audited("sessions_ended").is_empty()))
        .await?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    browser.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

/// Everybody gets 200; gives how many did not.
async fn storm(setup: &Setup, browser: &Browser, path: &str, requests: usize) -> Checked {
    let url = setup.url(path);
    let cookie = format!("teamgate={}", browser.session()?);
    let request = Request::get(&url).header("Cookie", &cookie);
    let answers = join_all((0..requests).map(|_| send(&request))).await;
    for answer in answers {
        answer?.expect(200)?;
    }
    Ok(())
}

// With threads of its own, so that a thousand clients do not keep the pretend Bitbucket waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_requests_with_a_dead_access_token_refresh_it_once_and_are_all_served() -> Checked {
    let setup = Setup::with(on_demand("1s")).await?;
    let browser = setup.signed_in("ben").await?;
    // Time has to pass for a membership to age; there is nothing to await.
    sleep(Duration::from_millis(1_100)).await;
    setup.simulator.with(|world| {
        world.expire_access_tokens();
        world.clear_requests();
    });
    storm(&setup, &browser, "/strict", 1_000).await?;
    assert_eq!(setup.simulator.count("token.refresh"), 1);
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    // The rotated token is the one that is kept: it works the next time.
    setup.simulator.with(|world| world.expire_access_tokens());
    sleep(Duration::from_millis(1_100)).await;
    browser.script(&setup.url("/strict")).await?.expect(200)?;
    assert_eq!(setup.simulator.count("token.refresh"), 2);
    Ok(())
}

#[tokio::test]
async fn requests_that_need_the_same_answer_share_one_question() -> Checked {
    let setup = Setup::with(on_demand("5s")).await?;
    let browser = setup.signed_in("ben").await?;
    setup.simulator.clear_requests();
    storm(&setup, &browser, "/strict", 20).await?;
    assert_eq!(setup.simulator.requests().len(), 0, "young enough: nobody is asked");
    sleep(Duration::from_millis(5_100)).await;
    setup.simulator.with(|world| {
        world.fault(Fault::new("permission", FaultKind::Slow(Duration::from_millis(1_500))).times(1))
    });
    storm(&setup, &browser, "/strict", 100).await?;
    let asked = setup.simulator.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].endpoint, "permission");
    assert_eq!(asked[0].path, "/2.0/user/workspaces/acme/permission");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_a_route_lets_it_live_serves_those_who_waited_for_it() -> Checked {
    let setup = Setup::with(on_demand("1s")).await?;
    let browser = setup.signed_in("ben").await?;
    sleep(Duration::from_millis(1_100)).await;
    setup.simulator.with(|world| {
        world.clear_requests();
        world.fault(Fault::new("permission", FaultKind::Slow(Duration::from_millis(1_400))));
    });
    let url = setup.url("/strict");
    let early = browser.script(&url);
    // Joins when the question is older than the route allows, and shares the next one.
    let late = async {
        sleep(Duration::from_millis(1_200)).await;
        browser.script(&url).await
    };
    let (early, late) = tokio::join!(early, late);
    early?.expect(200)?;
    late?.expect(200)?;
    assert_eq!(setup.simulator.count("permission"), 2);
    Ok(())
}

#[tokio::test]
async fn an_account_that_nobody_uses_is_not_asked_about() -> Checked {
    let setup = Setup::with(Config::default().top("directory: { refresh_after: 1s, max_age: 2s }")).await?;
    let browser = setup.signed_in("ben").await?;
    browser.script(&setup.url("/")).await?.expect(200)?;
    // Once unused for longer than max_age, silence.
    let mut last = (setup.simulator.requests().len(), Instant::now());
    eventually("nobody is asked for four seconds", async || {
        let now = setup.simulator.requests().len();
        if now != last.0 {
            last = (now, Instant::now());
        }
        Ok(last.1.elapsed() > Duration::from_secs(4))
    })
    .await?;
    // Whoever comes back waits for an answer and gets one.
    browser.script(&setup.url("/")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn name_and_address_are_read_again_and_the_next_assertion_says_so() -> Checked {
    let setup = Setup::with(
        Config::default()
            .top("directory: { refresh_after: 1s, profile_after: 1s }")
            .route("name: mail, path: /mail, allow: [{ email: ben@new.example }], upstream: $UPSTREAM"),
    )
    .await?;
    let browser = setup.signed_in("ben").await?;
    browser.script(&setup.url("/mail")).await?.expect(403)?;
    setup.simulator.with(|world| {
        world.user_mut("ben")?.display_name = "Benjamin Berg".to_owned();
        world.add_email("ben", "ben@new.example", true)?;
        world.set_primary_email("ben", Some("ben@new.example"))
    })?;
    becomes(&browser, &setup.url("/mail"), 200).await?;
    let page = browser.script(&setup.url("/")).await?;
    let claims = verified(&setup, &page.echoed("x-teamgate-assertion")?.unwrap_or_default()).await?;
    assert_eq!((&claims["email"], &claims["name"]), (&"ben@new.example".into(), &"Benjamin Berg".into()));
    assert_eq!(page.echoed("x-forwarded-email")?.as_deref(), Some("ben@new.example"));
    setup.simulator.with(|world| world.unconfirm_email("ben", "ben@new.example"))?;
    becomes(&browser, &setup.url("/mail"), 403).await
}

#[tokio::test]
async fn a_deactivated_account_is_signed_out() -> Checked {
    for inactive in [Inactive::Shown, Inactive::Refused] {
        let setup =
            Setup::with(Config::default().top("directory: { refresh_after: 1s, profile_after: 1s }")).await?;
        setup.simulator.with(|world| world.inactive = inactive);
        let (ben, ann) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
        setup.simulator.with(|world| world.set_account_status("ben", "inactive"))?;
        becomes(&ben, &setup.url("/"), 401).await?;
        ann.script(&setup.url("/")).await?.expect(200)?;
        if inactive == Inactive::Shown {
            eventually("it is on record", async || {
                let ended = setup.gateway.audited("sessions_ended");
                Ok(ended.iter().any(|event| event["reason"] == "account_deactivated"))
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_slug_that_changes_hands_opens_nothing() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let browser = setup.signed_in("ben").await?;
    browser.script(&setup.url("/")).await?.expect(200)?;
    let heir = "{00000000-0000-4000-8000-00000000beef}";
    setup.simulator.with(|world| {
        world.move_slug("acme", heir)?;
        world.add_member("ben", "acme", Permission::Owner, true)?;
        world.add_member("eve", "acme", Permission::Owner, true)
    })?;
    becomes(&browser, &setup.url("/"), 403).await?;
    let eve = setup.signed_in("eve").await?;
    eve.script(&setup.url("/")).await?.expect(403)?;
    eve.script(&setup.url("/deploy")).await?.expect(403)?;
    let changes = setup.gateway.recorded("slug_changed", 1).await?;
    let change = changes.first().ok_or("it is not on record")?;
    assert_eq!(change["slug"], "acme");
    assert_eq!(change["pinned"], "aaaaaaaa-0000-4000-8000-000000000001");
    assert_eq!(change["found"], "00000000-0000-4000-8000-00000000beef");
    let metrics = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("teamgate_") && line.contains("slug") && !line.ends_with(" 0"));
    assert!(counted.is_some(), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_refresh_token_lost_in_a_crash_is_mended_by_the_next_page_without_a_click() -> Checked {
    let mut setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let (ben, second) = (setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    setup.simulator.with(|world| {
        world.fault(Fault::new("token.refresh", FaultKind::LostAnswer).times(1));
        world.expire_access_tokens();
        world.clear_requests();
    });
    eventually("the rotation is lost", async || {
        ben.script(&setup.url("/")).await?.expect(200)?;
        Ok(setup.simulator.count("token.refresh") == 1)
    })
    .await?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    // Programs go on with what is known …
    eventually("the old token is refused", async || {
        ben.script(&setup.url("/")).await?.expect(200)?;
        Ok(setup.simulator.count("token.refresh") == 2)
    })
    .await?;
    // … and the next page goes through Bitbucket, which knows the person and the consent.
    eventually("a page goes through Bitbucket", async || {
        let response = ben.get(&setup.url("/page")).await?;
        if response.status == 200 {
            return Ok(false);
        }
        let page = ben.follow(response).await?;
        assert_eq!(page.expect(200)?.json()?["target"], "/page");
        Ok(true)
    })
    .await?;
    assert_eq!((setup.simulator.count("authorize"), setup.simulator.count("token.code")), (1, 1));
    assert!(
        setup.gateway.audited("sessions_ended").is_empty(),
        "nobody was told that the grant was withdrawn"
    );
    // One trip mends it for all sessions of the account.
    second.get(&setup.url("/")).await?.expect(200)?;
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    becomes(&second, &setup.url("/"), 403).await
}

#[tokio::test]
async fn legacy_consumers_whose_refresh_tokens_last_work_as_well() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    setup.simulator.with(|world| world.regime = bitbucket_sim::Regime::Legacy);
    let browser = setup.signed_in("ben").await?;
    for round in 1..=2 {
        setup.simulator.with(|world| {
            world.clear_requests();
            world.expire_access_tokens();
        });
        eventually("the token is refreshed and used", async || {
            browser.script(&setup.url("/")).await?.expect(200)?;
            let asked = setup.simulator.requests();
            let used = asked.iter().skip_while(|asked| asked.endpoint != "token.refresh");
            Ok(used.into_iter().any(|asked| asked.endpoint == "permission" && asked.status == 200))
        })
        .await?;
        assert_eq!(setup.simulator.count("token.refresh"), 1, "round {round}");
    }
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    becomes(&browser, &setup.url("/"), 403).await
}
