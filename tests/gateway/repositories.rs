//! Routes whose rule is what an account may do with a repository.

use std::time::Duration;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind, Permission};
use futures_util::future::join_all;

use crate::support::{Browser, Checked, Config, Request, Setup, eventually, send};

/// The endpoint's name in the simulator's log.
const ASKED: &str = "repositories";

/// `/api` for whoever may write to `acme/api`, `/read` for whoever may read it, `/docs` for `acme`.
fn config(directory: &str) -> Config {
    Config::default()
        .top(directory)
        .route("name: api, path: /api, allow: [{ repository: acme/api, permission: write }], upstream: $UPSTREAM")
        .route("name: read, path: /read, allow: [{ repository: acme/api }], upstream: $UPSTREAM")
        .route(
            "name: either, path: /either, allow: [{ team: acme }, { repository: acme/api, permission: admin }], \
             upstream: $UPSTREAM",
        )
        .route(
            "name: not, path: /not, allow: [{ team: acme }], deny: [{ repository: acme/api, permission: admin }], \
             upstream: $UPSTREAM",
        )
}

async fn with_scope(directory: &str) -> Checked<Setup> {
    let setup = Setup::with(config(directory)).await?;
    setup.simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID).map(|client| client.scopes.push("repository".to_owned()))
    })?;
    Ok(setup)
}

async fn becomes(browser: &Browser, url: &str, status: u16) -> Checked {
    eventually(&format!("{url} is {status}"), async || Ok(browser.script(url).await?.status == status)).await
}

#[tokio::test]
async fn who_may_do_enough_with_the_repository_passes_and_nobody_else() -> Checked {
    let setup = with_scope("").await?;
    // Ben may write to `acme/api`.
    let ben = setup.signed_in("ben").await?;
    ben.script(&setup.url("/api")).await?.expect(200)?;
    ben.script(&setup.url("/read")).await?.expect(200)?;
    ben.script(&setup.url("/not")).await?.expect(200)?;
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("read")))?;
    let reader = setup.signed_in("ben").await?;
    reader.script(&setup.url("/read")).await?.expect(200)?;
    let page = reader.get(&setup.url("/api")).await?;
    assert!(page.expect(403)?.text().contains("write access to acme/"), "{}", page.text());
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("admin")))?;
    let admin = setup.signed_in("ben").await?;
    admin.script(&setup.url("/api")).await?.expect(200)?;
    admin.script(&setup.url("/not")).await?.expect(403)?;
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", None))?;
    let none = setup.signed_in("ben").await?;
    for path in ["/api", "/read"] {
        none.script(&setup.url(path)).await?.expect(403)?;
    }
    // A word that we do not know is no permission.
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("owner")))?;
    setup.signed_in("ben").await?.script(&setup.url("/read")).await?.expect(403)?;
    Ok(())
}

#[tokio::test]
async fn only_who_meets_such_a_rule_costs_a_call_and_costs_one() -> Checked {
    let setup = with_scope("").await?;
    let ben = setup.signed_in("ben").await?;
    ben.script(&setup.url("/")).await?.expect(200)?;
    // The team decides already: nothing hangs on the repository.
    ben.script(&setup.url("/either")).await?.expect(200)?;
    assert_eq!(setup.simulator.count(ASKED), 0);
    let others = || setup.simulator.count("workspaces") + setup.simulator.count("permission");
    let before = others();
    let (url, cookie) = (setup.url("/api"), format!("teamgate={}", ben.session()?));
    let request = Request::get(&url).header("Cookie", &cookie);
    for answer in join_all((0..100).map(|_| send(&request))).await {
        answer?.expect(200)?;
    }
    ben.script(&setup.url("/read")).await?.expect(200)?;
    assert_eq!((setup.simulator.count(ASKED), others()), (1, before));
    Ok(())
}

#[tokio::test]
async fn a_permission_that_is_lost_or_given_takes_effect_without_a_new_sign_in() -> Checked {
    let setup = with_scope("directory: { refresh_after: 1s }").await?;
    let ben = setup.signed_in("ben").await?;
    let url = setup.url("/api");
    ben.script(&url).await?.expect(200)?;
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("read")))?;
    becomes(&ben, &url, 403).await?;
    ben.script(&setup.url("/read")).await?.expect(200)?;
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("write")))?;
    becomes(&ben, &url, 200).await?;
    let changes = setup.gateway.recorded("membership_changed", 2).await?;
    let said =
        |field: &str| changes.iter().any(|change| change[field].to_string().contains("acme/api:write"));
    assert!(said("lost") && said("gained"), "{changes:?}");
    Ok(())
}

#[tokio::test]
async fn a_restart_asks_nothing_again_that_is_still_young() -> Checked {
    let mut setup = with_scope("").await?;
    let ben = setup.signed_in("ben").await?;
    ben.script(&setup.url("/api")).await?.expect(200)?;
    setup.gateway.terminate().await?;
    setup.gateway.restart().await?;
    ben.script(&setup.url("/api")).await?.expect(200)?;
    assert_eq!(setup.simulator.count(ASKED), 1);
    Ok(())
}

#[tokio::test]
async fn a_scope_that_is_missing_is_named_and_stops_no_other_route() -> Checked {
    let setup = Setup::with(config("directory: { refresh_after: 1s, max_age: 3s }")).await?;
    let ben = setup.signed_in("ben").await?;
    let page = ben.get(&setup.url("/api")).await?;
    assert!(page.expect(503)?.text().contains("lacks the scope “repository”"), "{}", page.text());
    let line = setup.gateway.logged("tick `repository` on the client's page").await?;
    assert!(line.contains("account email"), "{line}");
    // Nobody is let through by a rule that shuts out whom it cannot know.
    ben.script(&setup.url("/not")).await?.expect(503)?;
    // Its membership goes on being asked for, and is believed.
    let asked = setup.simulator.count("permission");
    eventually("several questions later", async || {
        ben.script(&setup.url("/")).await?.expect(200)?;
        Ok(setup.simulator.count("permission") >= asked + 5)
    })
    .await?;
    ben.script(&setup.url("/")).await?.expect(200)?;
    // Ticked; whoever signs in anew passes at once.
    setup.simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID).map(|client| client.scopes.push("repository".to_owned()))
    })?;
    let again = setup.signed_in("ben").await?;
    again.script(&setup.url("/api")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn what_nobody_can_answer_is_503_and_nothing_else_is() -> Checked {
    let setup = with_scope("").await?;
    let ben = setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new(ASKED, FaultKind::Status(500))));
    ben.script(&setup.url("/api")).await?.expect(503)?;
    ben.script(&setup.url("/not")).await?.expect(503)?;
    ben.script(&setup.url("/")).await?.expect(200)?;
    ben.script(&setup.url("/either")).await?.expect(200)?;
    setup.simulator.with(|world| world.clear_faults());
    becomes(&ben, &setup.url("/api"), 200).await?;
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_short_fault_in_the_background_costs_nobody_an_answer() -> Checked {
    let setup = with_scope("directory: { refresh_after: 1s }").await?;
    let ben = setup.signed_in("ben").await?;
    ben.script(&setup.url("/api")).await?.expect(200)?;
    let asked = setup.simulator.count(ASKED);
    setup.simulator.with(|world| world.fault(Fault::new(ASKED, FaultKind::Status(500)).times(1)));
    eventually("asked about twice more", async || {
        ben.script(&setup.url("/api")).await?.expect(200)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(setup.simulator.count(ASKED) >= asked + 2)
    })
    .await
}

#[tokio::test]
async fn a_repository_that_took_the_name_of_another_opens_nothing() -> Checked {
    let setup = with_scope("").await?;
    let ben = setup.signed_in("ben").await?;
    ben.script(&setup.url("/api")).await?.expect(200)?;
    // The workspace is gone, and somebody else founds one of the same name.
    setup.simulator.with(|world| {
        world.replace_repository("acme/api")?;
        world.set_repository_permission("ben", "acme/api", Some("admin"))
    })?;
    let again = setup.signed_in("ben").await?;
    again.script(&setup.url("/api")).await?.expect(403)?;
    let refused = setup.gateway.recorded("slug_changed", 1).await?;
    assert_eq!(refused[0]["slug"], "acme/api");
    Ok(())
}

#[tokio::test]
async fn who_is_in_few_of_many_teams_costs_the_listing_and_those_few() -> Checked {
    let teams = "teams: [acme, globex, nowhere-1, nowhere-2, nowhere-3]";
    let setup =
        Setup::with(Config::default().bitbucket(teams).top("directory: { refresh_after: 1s }")).await?;
    // A sign-in asks about each, at the same time as for nothing else.
    let ben = setup.signed_in("ben").await?;
    assert_eq!((setup.simulator.count("permission"), setup.simulator.count("workspaces")), (5, 0));
    let url = setup.url("/");
    eventually("asked about again", async || {
        ben.script(&url).await?.expect(200)?;
        Ok(setup.simulator.count("permission") > 5)
    })
    .await?;
    let (permissions, listings) = (setup.simulator.count("permission"), setup.simulator.count("workspaces"));
    assert!(permissions - 5 <= listings, "{permissions} and {listings}: Ben is in acme only");
    // Whoever comes into another of them is found in the listing.
    ben.script(&setup.url("/globex")).await?.expect(403)?;
    setup.simulator.with(|world| world.add_member("ben", "globex", Permission::Member, false))?;
    becomes(&ben, &setup.url("/globex"), 200).await
}
