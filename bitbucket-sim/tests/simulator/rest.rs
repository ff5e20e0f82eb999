//! The REST API.

use std::time::Duration;

use bitbucket_sim::{Budget, BudgetScope, EXAMPLE_CLIENT_ID, Inactive, Permission, Regime, Workspace, World};
use serde_json::{Value, json};

use crate::support::*;

const INVALID: &str = "Token is invalid, expired, or not supported for this endpoint.";

fn failure(message: &str) -> Value {
    json!({"type": "error", "error": {"message": message}})
}

#[tokio::test]
async fn the_account_is_told_with_links_to_where_the_caller_came_from() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    let authorization = format!("Bearer {access}");
    let headers = [("authorization", authorization.as_str()), ("host", "bitbucket.test:1234")];
    let reply = send(simulator.address(), "GET", "/2.0/user", &headers, "").await?;
    assert_eq!(reply.status, 200);
    let body = reply.json()?;
    for (key, value) in [
        ("type", json!("user")),
        ("uuid", json!("{a0000000-0000-4000-8000-0000000000a1}")),
        ("account_id", json!("712020:a0000000-0000-4000-8000-0000000000a1")),
        ("display_name", json!("Ann Abel")),
        ("nickname", json!("ann")),
        ("username", json!("ann_example")),
        ("account_status", json!("active")),
    ] {
        assert_eq!(body[key], value, "{key}");
    }
    assert_eq!(
        body["links"]["self"]["href"],
        "http://bitbucket.test:1234/2.0/users/%7Ba0000000-0000-4000-8000-0000000000a1%7D"
    );
    assert_eq!(reply.header("x-oauth-scopes"), Some("account, email"));
    assert_eq!(reply.header("x-accepted-oauth-scopes"), Some("account"));
    assert_eq!(reply.header("x-credential-type"), Some("oauth2"));
    assert_eq!(reply.header("server"), Some("AtlassianEdge"));
    Ok(())
}

#[tokio::test]
async fn odd_accounts_lack_what_is_optional() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.with(|world| {
        world.user_mut("ann").map(|user| {
            (user.account_id, user.nickname, user.username) = (None, None, None);
            user.kind = "app_user".to_owned();
        })
    })?;
    let body = api(&simulator, &access, "/2.0/user").await?.json()?;
    for key in ["account_id", "nickname", "username"] {
        assert!(body.get(key).is_none(), "{key}");
    }
    assert!(body["links"].get("avatar").is_none());
    assert_eq!(body["type"], "app_user");
    Ok(())
}

#[tokio::test]
async fn a_token_counts_in_the_bearer_header_only() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    let bearer = format!("Bearer {access}");
    let lower = format!("bearer {access}");
    let basic = format!("Basic {access}");
    let in_query = format!("/2.0/user?access_token={access}");
    for (target, authorization, status) in [
        ("/2.0/user", Some(&bearer), 200),
        ("/2.0/user", Some(&lower), 200),
        ("/2.0/user", Some(&basic), 401),
        ("/2.0/user", Some(&"Bearer nonsense".to_owned()), 401),
        ("/2.0/user", None, 401),
        (&in_query, None, 401),
        (&in_query, Some(&bearer), 401),
    ] {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let reply = send(simulator.address(), "GET", target, &headers, "").await?;
        assert_eq!(reply.status, status, "{target:.30} {authorization:?}");
        if status == 401 {
            assert_eq!(reply.json()?, failure(INVALID));
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_or_withdrawn_token_is_refused() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.with(|world| world.advance(Duration::from_secs(7201)));
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!((reply.status, reply.json()?), (401, failure(INVALID)));
    simulator.with(|world| world.regime = Regime::Legacy);
    let reply = api(&simulator, &access, "/2.0/user").await?;
    let old = "Access token expired. Use your refresh token to obtain a new access token.";
    assert_eq!((reply.status, reply.json()?), (401, failure(old)));

    let (access, refresh_token) = tokens(&simulator, "ann").await?;
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 200);
    simulator.with(|world| world.revoke_grant("ann"))?;
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 401);
    assert_eq!(refresh(&simulator, &refresh_token).await?.status, 400);
    Ok(())
}

#[tokio::test]
async fn a_missing_scope_is_named_in_an_object() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator
        .with(|world| world.client_mut(EXAMPLE_CLIENT_ID).map(|it| it.scopes = vec!["email".to_owned()]))?;
    let (access, _) = tokens(&simulator, "ann").await?;
    for (target, required) in [
        ("/2.0/user", json!(["account"])),
        ("/2.0/user/workspaces", json!(["account"])),
        ("/2.0/user/workspaces/acme/permission", json!(["account"])),
        ("/2.0/user/workspaces/acme/permissions/repositories", json!(["account", "repository"])),
    ] {
        let reply = api(&simulator, &access, target).await?;
        assert_eq!(reply.status, 403, "{target}");
        let expected = json!({"type": "error", "error": {
            "message": "Your credentials lack one or more required privilege scopes.",
            "detail": {"required": required, "granted": ["email"]},
        }});
        assert_eq!(reply.json()?, expected);
        assert_eq!(reply.header("x-oauth-scopes"), Some("email"));
    }
    assert_eq!(api(&simulator, &access, "/2.0/user/emails").await?.status, 200);

    simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID).map(|it| it.scopes = vec!["account:write".to_owned()])
    })?;
    let (access, _) = tokens(&simulator, "ben").await?;
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 200);
    assert_eq!(api(&simulator, &access, "/2.0/user/emails").await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn addresses_are_listed_confirmed_or_not() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.with(|world| world.add_email("ann", "old@example.com", false))?;
    let body = api(&simulator, &access, "/2.0/user/emails").await?.json()?;
    let seen: Vec<_> = body["values"]
        .as_array()
        .ok_or("no values")?
        .iter()
        .map(|it| (it["email"].clone(), it["is_primary"].clone(), it["is_confirmed"].clone()))
        .collect();
    assert_eq!(
        seen,
        [
            (json!("ann@example.com"), json!(true), json!(true)),
            (json!("old@example.com"), json!(false), json!(false)),
        ]
    );
    assert_eq!((&body["size"], &body["page"]), (&json!(2), &json!(1)));
    let one = api(&simulator, &access, "/2.0/user/emails/old@example.com").await?.json()?;
    assert_eq!(one["is_confirmed"], false);
    assert_eq!(api(&simulator, &access, "/2.0/user/emails/no@example.com").await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn workspaces_come_in_pages_without_names() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.with(|world| {
        for number in 0..3 {
            let slug = format!("team-{number}");
            world.add_workspace(Workspace::new(&slug, "Some Team"));
            world.add_member("ann", &slug, "create-project", false)?;
        }
        world.pagelen = 2;
        Ok::<(), bitbucket_sim::Unknown>(())
    })?;

    let mut target = Some("/2.0/user/workspaces?sort=slug".to_owned());
    let (mut slugs, mut pages) = (Vec::new(), 0);
    while let Some(next) = target {
        let body = api(&simulator, &access, &next).await?.json()?;
        assert!(body.get("size").is_none());
        for entry in body["values"].as_array().ok_or("no values")? {
            assert_eq!(entry["type"], "workspace_access");
            assert!(entry["workspace"].get("name").is_none() && entry.get("permission").is_none());
            assert!(entry["workspace"]["uuid"].as_str().is_some_and(|uuid| uuid.starts_with('{')));
            slugs.push((
                entry["workspace"]["slug"].as_str().unwrap_or_default().to_owned(),
                entry["administrator"].clone(),
            ));
        }
        pages += 1;
        target = match body["next"].as_str() {
            // Absolute, with our own host; the test client wants the path.
            Some(next) => Some(next.strip_prefix(&simulator.url()).ok_or("foreign next")?.to_owned()),
            None => None,
        };
    }
    let expected =
        [("acme", true), ("ann_example", true), ("team-0", false), ("team-1", false), ("team-2", false)]
            .map(|(slug, administrator)| (slug.to_owned(), json!(administrator)));
    assert_eq!((slugs, pages), (expected.to_vec(), 3));

    let all = api(&simulator, &access, "/2.0/user/workspaces?pagelen=100").await?.json()?;
    assert_eq!((&all["size"], all.get("next")), (&json!(5), None));
    Ok(())
}

#[tokio::test]
async fn the_list_of_workspaces_can_be_filtered() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ben").await?;
    for (query, expected) in [
        ("", Some(vec!["ben_example", "acme"])),
        ("?sort=slug", Some(vec!["acme", "ben_example"])),
        ("?sort=-slug", Some(vec!["ben_example", "acme"])),
        ("?administrator=true", Some(vec!["ben_example"])),
        ("?administrator=false", Some(vec!["acme"])),
        ("?q=slug%3D%22acme%22", Some(vec!["acme"])),
        ("?sort=name", None),
        ("?administrator=maybe", None),
        ("?q=name%3D%22x%22", None),
        ("?pagelen=101", None),
        ("?page=0", None),
    ] {
        let reply = api(&simulator, &access, &format!("/2.0/user/workspaces{query}")).await?;
        let body = reply.json()?;
        let slugs = body["values"].as_array().map(|values| {
            values.iter().filter_map(|entry| entry["workspace"]["slug"].as_str()).collect::<Vec<_>>()
        });
        assert_eq!(slugs, expected, "{query}");
        assert_eq!(reply.status, if expected.is_some() { 200 } else { 400 }, "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn the_permission_tells_members_from_collaborators_and_strangers() -> Outcome {
    let simulator = started(World::example()).await?;
    let acme = simulator.with(|world| world.workspace("acme").map(|acme| acme.uuid.clone()))?;
    let by_uuid = acme.replace('{', "%7B").replace('}', "%7D");
    for (user, workspace, status, permission) in [
        ("ann", "acme", 200, json!("owner")),
        ("ben", "acme", 200, json!("member")),
        ("ben", by_uuid.as_str(), 200, json!("member")),
        ("dan", "acme", 200, json!("collaborator")),
        ("cleo", "globex", 200, json!("member")),
        ("cleo", "acme", 403, json!(null)),
        ("eve", "acme", 403, json!(null)),
        ("eve", "nowhere", 404, json!(null)),
    ] {
        let (access, _) = tokens(&simulator, user).await?;
        let reply = api(&simulator, &access, &format!("/2.0/user/workspaces/{workspace}/permission")).await?;
        let body = reply.json()?;
        assert_eq!((reply.status, &body["permission"]), (status, &permission), "{user} {workspace}");
        if status == 200 {
            assert_eq!(body["type"], "workspace_membership");
            assert_eq!(body["user"]["nickname"], user);
            assert!(body["user"].get("username").is_none());
        }
    }
    let (access, _) = tokens(&simulator, "eve").await?;
    let reply = api(&simulator, &access, "/2.0/user/workspaces/nowhere/permission").await?;
    assert_eq!(reply.json()?, failure("No workspace with identifier 'nowhere'."));
    let reply = api(&simulator, &access, "/2.0/user/workspaces/acme/permission").await?;
    assert_eq!(reply.json()?, failure("Forbidden"));

    simulator.with(|world| world.add_member("eve", "acme", Permission::Other("new-kind".into()), false))?;
    let body = api(&simulator, &access, "/2.0/user/workspaces/acme/permission").await?.json()?;
    assert_eq!(body["permission"], "new-kind");
    Ok(())
}

#[tokio::test]
async fn a_change_of_membership_is_seen_at_the_next_call() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ben").await?;
    let target = "/2.0/user/workspaces/acme/permission";
    assert_eq!(api(&simulator, &access, target).await?.status, 200);
    simulator.with(|world| world.remove_member("ben", "acme"))?;
    assert_eq!(api(&simulator, &access, target).await?.status, 403);
    let body = api(&simulator, &access, "/2.0/user/workspaces").await?.json()?;
    assert_eq!(body["size"], 1);
    Ok(())
}

#[tokio::test]
async fn repositories_are_listed_with_the_callers_own_permission() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID).map(|it| it.scopes.push("repository".to_owned()))
    })?;
    let list = "/2.0/user/workspaces/acme/permissions/repositories";
    for (user, query, status, expected) in [
        ("ann", "", 200, vec!["acme/api admin", "acme/docs admin"]),
        ("ben", "", 200, vec!["acme/api write", "acme/docs read"]),
        ("dan", "", 200, vec!["acme/api write"]),
        ("ben", "?q=repository.full_name%3D%22acme%2Fdocs%22", 200, vec!["acme/docs read"]),
        ("ben", "?q=repository.name%3D%22api%22", 200, vec!["acme/api write"]),
        ("ben", "?q=nonsense", 400, vec![]),
        ("eve", "", 403, vec![]),
    ] {
        let (access, _) = tokens(&simulator, user).await?;
        let reply = api(&simulator, &access, &format!("{list}{query}")).await?;
        assert_eq!(reply.status, status, "{user} {query}");
        let body = reply.json()?;
        let values = body["values"].as_array().cloned().unwrap_or_default();
        let told = values.iter().map(|it| {
            let name = it["repository"]["full_name"].as_str().unwrap_or_default();
            format!("{name} {}", it["permission"].as_str().unwrap_or_default())
        });
        assert_eq!(told.collect::<Vec<_>>(), expected, "{user} {query}");
    }
    Ok(())
}

#[tokio::test]
async fn a_workspace_has_its_name_where_the_list_has_none() -> Outcome {
    let simulator = started(World::example()).await?;
    let (ben, _) = tokens(&simulator, "ben").await?;
    let (eve, _) = tokens(&simulator, "eve").await?;
    let body = api(&simulator, &ben, "/2.0/workspaces/acme").await?.json()?;
    assert_eq!((&body["name"], &body["is_personal"]), (&json!("Acme"), &json!(false)));
    let own = api(&simulator, &ben, "/2.0/workspaces/ben_example").await?.json()?;
    assert_eq!(own["is_personal"], true);
    assert_eq!(api(&simulator, &eve, "/2.0/workspaces/acme").await?.status, 404);
    simulator.with(|world| world.workspace_mut("acme").map(|acme| acme.private = false))?;
    assert_eq!(api(&simulator, &eve, "/2.0/workspaces/acme").await?.status, 200);
    assert_eq!(api(&simulator, "nonsense", "/2.0/workspaces/acme").await?.status, 401);
    Ok(())
}

#[tokio::test]
async fn removed_endpoints_are_gone_and_unknown_ones_not_found() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    for target in [
        "/2.0/workspaces",
        "/2.0/workspaces?role=member",
        "/2.0/user/permissions/workspaces",
        "/2.0/user/permissions/repositories",
        "/2.0/repositories",
        "/2.0/teams",
    ] {
        let reply = api(&simulator, &access, target).await?;
        assert_eq!(reply.status, 410, "{target}");
        let body = reply.json()?;
        assert_eq!(body["error"]["message"], "CHANGE-2770 - Functionality has been deprecated");
        assert_eq!(body["data"], body["error"]["data"]);
    }
    for target in ["/2.0/nonsense", "/2.0/user/nonsense/more", "/2.0/users/x"] {
        let reply = api(&simulator, &access, target).await?;
        assert_eq!(
            (reply.status, reply.json()?["error"]["message"].clone()),
            (404, json!("Resource not found"))
        );
    }
    for target in ["/user", "/user/emails", "/user/workspaces", "/workspaces/acme"] {
        let reply = api(&simulator, &access, target).await?;
        assert_eq!((reply.status, reply.body.as_str()), (403, "Forbidden"), "{target}");
    }
    Ok(())
}

#[tokio::test]
async fn a_spent_budget_answers_429_until_the_window_has_rolled() -> Outcome {
    let simulator = started(World::example()).await?;
    let (ann, _) = tokens(&simulator, "ann").await?;
    let (ben, _) = tokens(&simulator, "ben").await?;
    simulator.with(|world| {
        let scope = BudgetScope::PerClient;
        world.budget = Some(Budget { calls: 2, per: Duration::from_secs(3600), scope });
    });
    assert_eq!(api(&simulator, &ann, "/2.0/user").await?.status, 200);
    assert_eq!(api(&simulator, &ben, "/2.0/user").await?.status, 200);
    let reply = api(&simulator, &ann, "/2.0/user").await?;
    assert_eq!((reply.status, reply.header("retry-after")), (429, None));
    assert_eq!(reply.json()?, failure("Rate limit for this resource has been exceeded"));
    simulator.with(|world| world.advance(Duration::from_secs(3601)));
    let (ann, _) = tokens(&simulator, "ann").await?;
    assert_eq!(api(&simulator, &ann, "/2.0/user").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn an_inactive_account_says_so_or_is_refused() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.with(|world| world.set_account_status("ann", "inactive"))?;
    let body = api(&simulator, &access, "/2.0/user").await?.json()?;
    assert_eq!(body["account_status"], "inactive");
    simulator.with(|world| world.inactive = Inactive::Refused);
    assert_eq!(api(&simulator, &access, "/2.0/user").await?.status, 401);
    Ok(())
}
