//! The controls, as the README shows them.

use std::time::Duration;

use bitbucket_sim::{Budget, BudgetScope, EXAMPLE_CLIENT_ID, FaultKind, Inactive, Regime, Simulator, World};
use serde_json::{Value, json};

use crate::support::*;

const README: &str = include_str!("../../README.md");

async fn control(simulator: &Simulator, method: &str, path: &str, body: &Value) -> std::io::Result<Reply> {
    let headers = [("content-type", "application/json")];
    send(simulator.address(), method, &format!("/_sim/{path}"), &headers, &body.to_string()).await
}

/// Changes something that can be changed.
async fn changed(simulator: &Simulator, method: &str, path: &str, body: Value) -> Outcome {
    let reply = control(simulator, method, path, &body).await?;
    assert_eq!((reply.status, reply.json()?), (200, json!({"ok": true})), "{method} {path} {body}");
    Ok(())
}

#[tokio::test]
async fn every_example_of_the_readme_works_in_its_order() -> Outcome {
    let simulator = started(World::example()).await?;
    let mut examples = 0;
    for line in README.lines().filter(|line| line.starts_with("curl ")) {
        let (options, target) = line.rsplit_once(" http://127.0.0.1:7990").ok_or("no target")?;
        let body = options.split('\'').nth(1).unwrap_or_default();
        let method = match (options.split("-X ").nth(1), body) {
            (Some(rest), _) => rest.split(' ').next().unwrap_or_default(),
            (None, "") => "GET",
            (None, _) => "POST",
        };
        let reply =
            send(simulator.address(), method, target, &[("content-type", "application/json")], body).await?;
        assert_eq!(reply.status, 200, "{line}: {}", reply.body);
        reply.json()?;
        examples += 1;
    }
    assert!(examples > 30, "only {examples} found");
    Ok(())
}

#[tokio::test]
async fn the_world_can_be_looked_at() -> Outcome {
    let simulator = started(World::example()).await?;
    tokens(&simulator, "ann").await?;
    let reply = get(&simulator, "/_sim/world").await?;
    let body = reply.json()?;
    assert_eq!(body["users"][1]["user"], "ben");
    assert_eq!(
        body["users"][1]["teams"][1],
        json!({"team": "acme", "permission": "member", "administrator": false})
    );
    assert_eq!(body["grants"][0]["user"], "ann");
    assert_eq!(body["settings"]["regime"], "new");
    assert!(!reply.body.contains("not-a-secret"));
    let requests = get(&simulator, "/_sim/requests").await?.json()?;
    assert_eq!(requests[0]["endpoint"], "authorize");
    assert_eq!(requests[1]["endpoint"], "token.code");
    assert!(requests[1]["at"].as_str().is_some_and(|at| at.starts_with("20")));
    changed(&simulator, "DELETE", "requests", json!({})).await?;
    assert!(simulator.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn people_teams_and_addresses_can_be_changed() -> Outcome {
    let simulator = started(World::example()).await?;
    let change = |method, path, body| changed(&simulator, method, path, body);
    change(
        "POST",
        "members",
        json!({"user": "eve", "team": "acme", "permission": "owner", "administrator": true}),
    )
    .await?;
    let seat = simulator.with(|world| world.membership("eve", "acme").cloned())?;
    assert_eq!((seat.permission.as_str(), seat.administrator), ("owner", true));
    change("POST", "members", json!({"user": "eve", "team": "acme"})).await?;
    let seat = simulator.with(|world| world.membership("eve", "acme").cloned())?;
    assert_eq!((seat.permission.as_str(), seat.administrator), ("member", false));
    change("DELETE", "members", json!({"user": "eve", "team": "acme"})).await?;
    assert!(simulator.with(|world| world.membership("eve", "acme").is_err()));

    change("POST", "users", json!({"user": "fay", "nickname": "ann", "uuid": "{f}"})).await?;
    change("POST", "users/status", json!({"user": "fay", "status": "inactive"})).await?;
    let fay = simulator.with(|world| world.user("fay").cloned())?;
    assert_eq!((fay.nickname.as_deref(), fay.uuid.as_str()), (Some("ann"), "{f}"));
    assert_eq!(fay.account_status, "inactive");

    change("POST", "emails", json!({"user": "fay", "email": "new@example.com", "confirmed": true})).await?;
    change("POST", "emails", json!({"user": "fay", "email": "fay@example.com", "confirmed": false})).await?;
    change("POST", "emails/primary", json!({"user": "fay", "email": "new@example.com"})).await?;
    let flags = simulator.with(|world| {
        world
            .user("fay")
            .map(|fay| fay.emails.iter().map(|it| (it.confirmed, it.primary)).collect::<Vec<_>>())
    })?;
    assert_eq!(flags, [(false, false), (true, true)]);
    change("POST", "emails/primary", json!({"user": "fay", "email": null})).await?;
    change("DELETE", "emails", json!({"user": "fay", "email": "fay@example.com"})).await?;
    let left = simulator.with(|world| world.user("fay").map(|fay| fay.emails.clone()))?;
    assert!(left.len() == 1 && !left[0].primary);

    change("POST", "teams", json!({"team": "new", "name": "New", "public": true})).await?;
    assert!(simulator.with(|world| world.workspace("new").is_ok_and(|team| !team.private)));
    change("POST", "teams/rename", json!({"team": "new", "to": "newer"})).await?;
    change("POST", "teams/move", json!({"team": "newer", "to_uuid": "{n}"})).await?;
    assert_eq!(simulator.with(|world| world.workspace("newer").map(|team| team.uuid.clone()))?, "{n}");
    change("DELETE", "teams", json!({"team": "newer"})).await?;
    assert!(simulator.with(|world| world.workspace("newer").is_err()));
    change("POST", "repositories", json!({"user": "ben", "repository": "acme/x", "permission": "read"}))
        .await?;
    assert!(simulator.with(|world| world.repositories().iter().any(|it| it.slug == "x")));
    Ok(())
}

#[tokio::test]
async fn grants_tokens_and_the_clock_can_be_changed() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, refresh_token) = tokens(&simulator, "ann").await?;
    changed(&simulator, "POST", "tokens/expire", json!({})).await?;
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 401);
    let (access, _) = both(&refresh(&simulator, &refresh_token).await?)?;
    changed(&simulator, "POST", "clock", json!({"advance_seconds": 7300})).await?;
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 401);
    changed(&simulator, "POST", "grants/revoke", json!({"user": "ann"})).await?;
    assert!(simulator.with(|world| world.grants().is_empty()));

    changed(&simulator, "POST", "auto-sign-in", json!({"user": "ben"})).await?;
    assert_eq!(get(&simulator, &authorize(&[])).await?.status, 302);
    changed(&simulator, "POST", "auto-sign-in", json!({"user": null})).await?;
    assert_eq!(get(&simulator, &authorize(&[])).await?.status, 200);

    changed(&simulator, "POST", "clients", json!({"id": EXAMPLE_CLIENT_ID, "callback": "http://x.example/"}))
        .await?;
    let client = simulator.with(|world| world.client(EXAMPLE_CLIENT_ID).cloned())?;
    assert_eq!((client.callback.as_str(), client.name.as_str()), ("http://x.example/", "teamgate demo"));
    Ok(())
}

#[tokio::test]
async fn faults_and_knobs_can_be_changed() -> Outcome {
    let simulator = started(World::example()).await?;
    changed(&simulator, "POST", "faults", json!({"endpoint": "user", "kind": "drop", "times": 3})).await?;
    assert_eq!(simulator.with(|world| world.faults()[0].kind.clone()), FaultKind::Drop);
    let listed = get(&simulator, "/_sim/faults").await?.json()?;
    assert_eq!(listed, json!([{"endpoint": "user", "kind": "drop", "times": 3}]));
    changed(&simulator, "DELETE", "faults", json!({})).await?;
    assert!(simulator.with(|world| world.faults().is_empty()));
    let reply = control(&simulator, "POST", "faults", &json!({"endpoint": "usr", "kind": "drop"})).await?;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("token.refresh"), "names those that there are");

    changed(&simulator, "POST", "regime", json!({"regime": "legacy"})).await?;
    changed(&simulator, "POST", "budget", json!({"calls": 5, "per_seconds": 60, "scope": "per-user"}))
        .await?;
    changed(
        &simulator,
        "POST",
        "settings",
        json!({
            "inactive": "refused", "pagelen": 3, "max_pagelen": 4, "rotation_grace_seconds": 5,
            "lockout_after_reuse_seconds": 6, "access_token_life_seconds": 7, "refresh_token_idle_seconds": 8,
        }),
    )
    .await?;
    let seconds = Duration::from_secs;
    simulator.with(|world| {
        assert_eq!((world.regime, world.inactive), (Regime::Legacy, Inactive::Refused));
        assert_eq!((world.pagelen, world.max_pagelen), (3, 4));
        assert_eq!((world.rotation_grace, world.lockout_after_reuse), (seconds(5), Some(seconds(6))));
        assert_eq!((world.access_token_life, world.refresh_token_idle), (seconds(7), seconds(8)));
        let scope = BudgetScope::PerUser;
        assert_eq!(world.budget, Some(Budget { calls: 5, per: seconds(60), scope }));
    });
    changed(&simulator, "DELETE", "budget", json!({})).await?;
    changed(&simulator, "POST", "settings", json!({"lockout_after_reuse_seconds": 0})).await?;
    simulator.with(|world| assert_eq!((world.budget, world.lockout_after_reuse), (None, None)));
    Ok(())
}

#[tokio::test]
async fn a_mistake_is_answered_with_what_is_wrong() -> Outcome {
    let simulator = started(World::example()).await?;
    for (path, body, status, text) in [
        ("members", json!({"user": "nobody", "team": "acme"}), 404, "there is no user `nobody`"),
        ("members", json!({"user": "ann", "team": "nowhere"}), 404, "there is no workspace `nowhere`"),
        ("members", json!({"user": "ann"}), 400, "missing field `team`"),
        ("members", json!({"user": "ann", "team": "acme", "admin": true}), 400, "unknown field `admin`"),
        ("teams", json!({"team": "acme"}), 409, "the slug `acme` is taken"),
        ("regime", json!({"regime": "ancient"}), 400, "unknown variant `ancient`"),
        ("auto-sign-in", json!({"user": "nobody"}), 404, "there is no user `nobody`"),
        ("nonsense", json!({}), 404, "no such control"),
    ] {
        let reply = control(&simulator, "POST", path, &body).await?;
        assert_eq!(reply.status, status, "{path} {body}");
        let error = reply.json()?["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(text), "{path} {body}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_site_controls_nothing() -> Outcome {
    let simulator = started(World::example()).await?;
    for header in
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "http://evil.example")]
    {
        let body = r#"{"user":"ben","team":"acme"}"#;
        let reply = send(simulator.address(), "DELETE", "/_sim/members", &[header], body).await?;
        assert_eq!(reply.status, 403);
    }
    assert!(simulator.with(|world| world.membership("ben", "acme").is_ok()));
    Ok(())
}
