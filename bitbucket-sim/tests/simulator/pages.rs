//! What people see.

use bitbucket_sim::{User, World};

use crate::support::*;

#[tokio::test]
async fn every_page_obeys_the_rules_for_pages() -> Outcome {
    let simulator = started(World::example()).await?;
    let question = authorize(&[]);
    let cookie = [("cookie", "bitbucket_sim_user=ann")];
    let mut titles = Vec::new();
    for (target, headers) in [
        ("/", &cookie[..]),
        (&question, &[]),
        (&question, &cookie[..]),
        ("/account/signout", &[]),
        ("/site/oauth2/authorize", &[]),
        ("/nowhere", &[]),
    ] {
        let page = send(simulator.address(), "GET", target, headers, "").await?;
        assert!(page.is_html(), "{target}");
        assert_eq!(page.body.matches("<h1>").count(), 1, "{target}");
        for text in ["<html lang=\"en\">", "<main>", "name=\"viewport\"", "/_sim/style.css"] {
            assert!(page.body.contains(text), "{target} {text}");
        }
        for text in ["<script", "onclick", "http-equiv", "style=", "https://"] {
            assert!(!page.body.contains(text), "{target} {text}");
        }
        assert_eq!(page.header("cache-control"), Some("no-store"), "{target}");
        let policy = page.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        let title = page.body.split("<title>").nth(1).and_then(|rest| rest.split('<').next());
        titles.push(title.unwrap_or_default().to_owned());
    }
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), 6, "{titles:?}");

    let style = get(&simulator, "/_sim/style.css").await?;
    assert!(style.header("content-type").is_some_and(|kind| kind.starts_with("text/css")));
    assert!(style.body.contains("prefers-color-scheme: dark"));
    Ok(())
}

#[tokio::test]
async fn names_are_text_whatever_is_in_them() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| {
        world.add_user(User::new("mal\"<i>", "<b>Mal</b>"));
        world.add_member("mal\"<i>", "acme", "<u>", false)
    })?;
    for target in ["/".to_owned(), authorize(&[])] {
        let page = get(&simulator, &target).await?;
        for text in ["<b>", "<i>", "<u>", "mal\""] {
            assert!(!page.body.contains(text), "{target} {text}");
        }
    }
    let picked = post(&simulator, &authorize(&[]), &[], &form(&[("account", "mal\"<i>")])).await?;
    let cookie = picked.cookie().ok_or("no cookie")?;
    let page = send(simulator.address(), "GET", &authorize(&[]), &[("cookie", cookie)], "").await?;
    assert!(page.body.contains("would like to:"), "the odd id survives the cookie");
    Ok(())
}

#[tokio::test]
async fn the_page_tells_who_is_where() -> Outcome {
    let simulator = started(World::example()).await?;
    let page = get(&simulator, "/").await?;
    assert!(page.body.contains("Nobody is signed in here"));
    assert!(page.body.contains("<a href=\"http://127.0.0.1:8080/\">Back to teamgate demo</a>"));
    for text in
        ["Add<span class=\"unseen\"> Eve Ekholm to acme", "Remove<span class=\"unseen\"> Ben Berg from acme"]
    {
        assert!(page.body.contains(text), "{text}");
    }
    assert!(!page.body.contains("ann_example"), "personal workspaces are no teams");
    let page = send(simulator.address(), "GET", "/", &[("cookie", "bitbucket_sim_user=ann")], "").await?;
    assert!(page.body.contains("signed in here as <strong>Ann Abel"));
    assert!(page.body.contains("action=\"/account/signout\""));
    Ok(())
}

#[tokio::test]
async fn its_buttons_move_people() -> Outcome {
    let simulator = started(World::example()).await?;
    tokens(&simulator, "ann").await?;
    assert!(get(&simulator, "/").await?.body.contains("the access that Ann Abel granted"));
    let press = async |action: &str, user: &str, team: &str| {
        let body = form(&[("user", user), ("team", team), ("action", action)]);
        post(&simulator, "/", &[("sec-fetch-site", "same-origin")], &body).await
    };
    let role = |user: &str| {
        simulator.with(|world| world.membership(user, "acme").map(|member| member.administrator).ok())
    };

    let reply = press("add", "eve", "acme").await?;
    assert_eq!((reply.status, reply.header("location"), role("eve")), (303, Some("/#acme"), Some(false)));
    press("promote", "eve", "acme").await?;
    assert_eq!(role("eve"), Some(true));
    press("demote", "eve", "acme").await?;
    assert_eq!(role("eve"), Some(false));
    press("remove", "eve", "acme").await?;
    assert_eq!(role("eve"), None);
    assert_eq!(press("remove", "eve", "acme").await?.status, 409, "pressed twice");
    assert_eq!(press("explode", "eve", "acme").await?.status, 400);
    assert_eq!(press("withdraw", "ann", "").await?.status, 303);
    assert!(simulator.with(|world| world.grants().is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_site_moves_nobody() -> Outcome {
    let simulator = started(World::example()).await?;
    let body = "action=remove&user=ben&team=acme";
    for header in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example"), ("origin", "null")] {
        assert_eq!(post(&simulator, "/", &[header], body).await?.status, 403);
    }
    assert!(simulator.with(|world| world.membership("ben", "acme").is_ok()));
    Ok(())
}
