//! Signing in and getting tokens.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bitbucket_sim::{Client, EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Regime, World};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::*;

#[tokio::test]
async fn a_person_signs_in_agrees_once_and_passes_silently_from_then_on() -> Outcome {
    let simulator = started(World::example()).await?;
    let target = authorize(&[("redirect_uri", CALLBACK)]);

    let page = get(&simulator, &target).await?;
    assert_eq!(page.status, 200);
    for text in [
        "teamgate demo",
        "Ann Abel</strong> <span>administrator of acme<",
        "Ben Berg</strong> <span>member of acme<",
        "Cleo Costa</strong> <span>member of globex<",
        "Dan Duarte</strong> <span>collaborator on acme, not a member<",
        "Eve Ekholm</strong> <span>in no team<",
        "Cancel",
    ] {
        assert!(page.body.contains(text), "{text}");
    }

    let picked = post(&simulator, &target, &[], "account=ann").await?;
    assert_eq!((picked.status, picked.header("location")), (303, Some(target.as_str())));
    let cookie = picked.cookie().ok_or("no cookie")?.to_owned();
    assert_eq!(cookie, "bitbucket_sim_user=ann");
    let with_cookie = [("cookie", cookie.as_str())];

    let consent = send(simulator.address(), "GET", &target, &with_cookie, "").await?;
    for text in
        ["teamgate demo would like to:", "read your account", "read your e-mail addresses", "Ann Abel"]
    {
        assert!(consent.body.contains(text), "{text}");
    }
    let agreed = post(&simulator, &target, &with_cookie, "answer=grant").await?;
    assert_eq!(agreed.status, 303);
    assert!(agreed.header("location").is_some_and(|location| location.starts_with(CALLBACK)));
    assert_eq!(agreed.sent_back("state").as_deref(), Some("st&te"));
    assert!(agreed.sent_back("code").is_some());

    let silent = send(simulator.address(), "GET", &target, &with_cookie, "").await?;
    assert_eq!(silent.status, 302);
    assert!(silent.sent_back("code").is_some());

    simulator.with(|world| world.revoke_grant("ann"))?;
    let asked_again = send(simulator.address(), "GET", &target, &with_cookie, "").await?;
    assert_eq!(asked_again.status, 200);
    assert!(asked_again.body.contains("would like to"));
    Ok(())
}

#[tokio::test]
async fn agreeing_without_being_signed_in_asks_who_you_are() -> Outcome {
    let simulator = started(World::example()).await?;
    let target = authorize(&[]);
    let reply = post(&simulator, &target, &[], "answer=grant").await?;
    assert_eq!(reply.header("location"), Some(target.as_str()));
    assert!(simulator.with(|world| world.grants().is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_test_signs_in_with_one_post_or_with_none() -> Outcome {
    let simulator = started(World::example()).await?;
    let target = authorize(&[]);
    let reply = post(&simulator, &target, &[], "user=ben").await?;
    assert!(reply.sent_back("code").is_some());
    assert_eq!(reply.cookie(), Some("bitbucket_sim_user=ben"));
    assert_eq!(post(&simulator, &target, &[], "user=nobody").await?.status, 400);

    simulator.with(|world| world.auto_sign_in = Some("cleo".to_owned()));
    let reply = get(&simulator, &target).await?;
    assert_eq!(reply.status, 302);
    assert!(reply.sent_back("code").is_some());
    let accounts: Vec<_> = simulator.requests().into_iter().map(|logged| logged.account).collect();
    assert_eq!(accounts, [Some("ben".to_owned()), None, Some("cleo".to_owned())]);
    Ok(())
}

#[tokio::test]
async fn cancelling_tells_the_application() -> Outcome {
    let simulator = started(World::example()).await?;
    let reply = post(&simulator, &authorize(&[]), &[], "answer=cancel").await?;
    assert_eq!(reply.status, 303);
    assert_eq!(reply.sent_back("error").as_deref(), Some("access_denied"));
    assert!(reply.sent_back("error_description").is_some());
    assert_eq!(reply.sent_back("state").as_deref(), Some("st&te"));
    assert_eq!(reply.sent_back("code"), None);
    Ok(())
}

#[tokio::test]
async fn a_wrong_redirect_uri_or_client_gets_a_page_and_no_redirect() -> Outcome {
    let simulator = started(World::example()).await?;
    for target in [
        authorize(&[("redirect_uri", "http://127.0.0.1:8080/.teamgate/callback/")]),
        authorize(&[("redirect_uri", "https://evil.example/")]),
        "/site/oauth2/authorize?client_id=nobody&response_type=code".to_owned(),
        "/site/oauth2/authorize".to_owned(),
    ] {
        for reply in [get(&simulator, &target).await?, post(&simulator, &target, &[], "user=ann").await?] {
            assert_eq!(reply.status, 400, "{target}");
            assert!(reply.is_html() && reply.body.contains("Invalid redirect_uri"));
            assert!(reply.body.contains("This integration is misconfigured."));
            assert_eq!(reply.header("location"), None);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_registered_callback_is_used_when_none_is_sent_and_keeps_its_query() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, "http://app.example/cb?x=1"))?;
    let reply = post(&simulator, &authorize(&[]), &[], "user=ann").await?;
    let location = reply.header("location").unwrap_or_default();
    assert!(location.starts_with("http://app.example/cb?x=1&code="), "{location}");
    Ok(())
}

#[tokio::test]
async fn other_faults_of_a_request_go_back_to_the_application() -> Outcome {
    let simulator = started(World::example()).await?;
    let reply = get(&simulator, &authorize(&[("scope", "account repository")])).await?;
    assert_eq!(reply.sent_back("error").as_deref(), Some("invalid_scope"));
    let target = format!("/site/oauth2/authorize?client_id={EXAMPLE_CLIENT_ID}&response_type=token");
    let reply = get(&simulator, &target).await?;
    assert_eq!(reply.sent_back("error").as_deref(), Some("unsupported_response_type"));
    Ok(())
}

#[tokio::test]
async fn signing_out_forgets_the_person_and_leads_only_back_to_the_question() -> Outcome {
    let simulator = started(World::example()).await?;
    let page = get(&simulator, "/account/signout").await?;
    assert_eq!(page.status, 200);
    assert!(page.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert!(page.body.contains("You are signed out"));

    let question = authorize(&[]);
    let target = format!("/account/signout?{}", form(&[("next", &question)]));
    let back = get(&simulator, &target).await?;
    assert_eq!(back.header("location"), Some(question.as_str()));
    assert!(back.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));

    for elsewhere in ["https://evil.example/", "//evil.example/", "/"] {
        let target = format!("/account/signout?{}", form(&[("next", elsewhere)]));
        assert_eq!(get(&simulator, &target).await?.header("location"), None, "{elsewhere}");
    }
    Ok(())
}

#[tokio::test]
async fn the_consent_page_links_to_another_account() -> Outcome {
    let simulator = started(World::example()).await?;
    let target = authorize(&[]);
    let page =
        send(simulator.address(), "GET", &target, &[("cookie", "a=b; bitbucket_sim_user=ann")], "").await?;
    let expected = format!("/account/signout?{}", form(&[("next", &target)]));
    assert!(page.body.contains(&format!("href=\"{expected}\"")), "{}", page.body);
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_site_cannot_agree_for_somebody() -> Outcome {
    let simulator = started(World::example()).await?;
    for header in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")] {
        let reply = post(&simulator, &authorize(&[]), &[header], "user=ann").await?;
        assert_eq!(reply.status, 403);
    }
    assert!(simulator.with(|world| world.grants().is_empty()));
    Ok(())
}

#[tokio::test]
async fn tokens_of_the_new_kind_have_the_new_shape() -> Outcome {
    let simulator = started(World::example()).await?;
    let code = code(&simulator, "ann").await?;
    let pairs = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", CALLBACK)];
    let reply = token(&simulator, &pairs).await?;
    assert_eq!(reply.status, 200);
    let body = reply.json()?;
    let keys: BTreeSet<&str> = body.as_object().ok_or("no object")?.keys().map(String::as_str).collect();
    let expected = ["access_token", "expires_in", "refresh_token", "scope", "state", "token_type"];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!(body["expires_in"], 7200);
    assert_eq!((&body["scope"], &body["token_type"]), (&json!("account email"), &json!("bearer")));
    assert_eq!(body["state"], "authorization_code");
    let (access, refresh_token) = both(&reply)?;
    for token in [&access, &refresh_token] {
        assert!((2_000..=2_600).contains(&token.len()) && token.starts_with("eyJ"));
    }
    assert_eq!(refresh(&simulator, &refresh_token).await?.json()?["state"], "refresh_token");
    Ok(())
}

#[tokio::test]
async fn tokens_of_the_old_kind_have_the_old_shape() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| world.regime = Regime::Legacy);
    let code = code(&simulator, "ann").await?;
    let pairs = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", CALLBACK)];
    let reply = token(&simulator, &pairs).await?;
    let body = reply.json()?;
    assert_eq!(body["scopes"], "email account");
    assert!(body.get("scope").is_none());
    let (access, refresh_token) = both(&reply)?;
    assert!(access.len() < 100 && refresh_token.len() < 50);
    let (_, same) = both(&refresh(&simulator, &refresh_token).await?)?;
    assert_eq!(same, refresh_token);
    let wrong = refresh(&simulator, "nonsense").await?;
    assert_eq!(wrong.status, 400);
    assert_eq!(
        wrong.json()?,
        json!({"error": "invalid_request", "error_description": "Invalid refresh_token"})
    );
    Ok(())
}

#[tokio::test]
async fn the_client_is_known_by_basic_header_or_by_body() -> Outcome {
    let simulator = started(World::example()).await?;
    let odd = "a/b+c d:%";
    simulator.with(|world| world.register_client(Client::new("odd client", odd, CALLBACK)));
    let encoded = form(&[("odd client", odd)]).replace('=', ":");
    for (authorization, body, known) in [
        (Some(basic()), form(&[]), true),
        (Some(format!("basic {}", STANDARD.encode(format!("odd client:{odd}")))), form(&[]), true),
        (Some(format!("Basic {}", STANDARD.encode(encoded))), form(&[]), true),
        (None, form(&[("client_id", EXAMPLE_CLIENT_ID), ("client_secret", EXAMPLE_CLIENT_SECRET)]), true),
        (None, form(&[("client_id", EXAMPLE_CLIENT_ID), ("client_secret", "wrong")]), false),
        (None, form(&[("client_id", EXAMPLE_CLIENT_ID)]), false),
        (None, form(&[]), false),
        (Some("Basic !!!".to_owned()), form(&[]), false),
        (Some(format!("Basic {}", STANDARD.encode("nobody:x"))), form(&[]), false),
    ] {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let body = format!("grant_type=refresh_token&refresh_token=x&{body}");
        let reply = post(&simulator, "/site/oauth2/access_token", &headers, &body).await?;
        assert_eq!(reply.status, 400);
        let expected = match known {
            true => "Invalid OAuth client credentials",
            false => "Requests must be authenticated using OAuth client credentials",
        };
        assert_eq!(
            reply.json()?,
            json!({"error": "unauthorized_client", "error_description": expected}),
            "{authorization:?} {body}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn only_a_form_is_read() -> Outcome {
    let simulator = started(World::example()).await?;
    let authorization = basic();
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = r#"{"grant_type":"authorization_code","code":"x"}"#;
    let none = json!({"error": "invalid_grant", "error_description": "Unsupported grant type: None"});
    let reply = send(simulator.address(), "POST", "/site/oauth2/access_token", &headers, body).await?;
    assert_eq!((reply.status, reply.json()?), (400, none.clone()));
    assert_eq!(token(&simulator, &[]).await?.json()?, none);
    let reply = token(&simulator, &[("grant_type", "password")]).await?;
    assert_eq!(reply.json()?["error_description"], "Unsupported grant type: password");
    Ok(())
}

#[tokio::test]
async fn mistakes_of_method_and_scheme_get_pages() -> Outcome {
    let simulator = started(World::example()).await?;
    let reply = get(&simulator, "/site/oauth2/access_token").await?;
    assert!(reply.status == 405 && reply.is_html());
    let reply = post(&simulator, "/site/oauth2/access_token", &[("authorization", "Bearer x")], "").await?;
    assert!(reply.status == 400 && reply.is_html());
    let reply = send(simulator.address(), "DELETE", &authorize(&[]), &[], "").await?;
    assert!(reply.status == 405 && reply.is_html());
    Ok(())
}

#[tokio::test]
async fn bad_codes_verifiers_and_redirects_are_told_apart_from_bad_clients() -> Outcome {
    let simulator = started(World::example()).await?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest("the-verifier"));
    let target = authorize(&[
        ("redirect_uri", CALLBACK),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    let code = post(&simulator, &target, &[], "user=ann").await?.sent_back("code").ok_or("no code")?;
    let exchange = |code: String, redirect: &'static str, verifier: &'static str| {
        let simulator = &simulator;
        async move {
            let mut pairs = vec![("grant_type", "authorization_code"), ("code", code.as_str())];
            pairs.extend([("redirect_uri", redirect), ("code_verifier", verifier)]);
            token(simulator, &pairs).await
        }
    };
    for (code, redirect, verifier) in [
        ("nonsense", CALLBACK, "the-verifier"),
        (code.as_str(), "http://127.0.0.1:8080/", "the-verifier"),
        (code.as_str(), CALLBACK, "another"),
    ] {
        let reply = exchange(code.to_owned(), redirect, verifier).await?;
        assert_eq!((reply.status, &reply.json()?["error"]), (400, &json!("invalid_grant")));
    }
    assert_eq!(exchange(code.clone(), CALLBACK, "the-verifier").await?.status, 200);
    let again = exchange(code, CALLBACK, "the-verifier").await?;
    assert_eq!(again.json()?["error"], "invalid_grant");

    simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, ""))?;
    let reply = exchange("any".to_owned(), CALLBACK, "").await?;
    let expected = json!({
        "error": "invalid_request", "error_description": "No callback uri defined for the OAuth client."
    });
    assert_eq!(reply.json()?, expected);
    Ok(())
}

#[tokio::test]
async fn a_used_refresh_token_is_refused_as_documented_and_can_lock_the_client_out() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| world.lockout_after_reuse = Some(Duration::from_secs(120)));
    let (_, first) = tokens(&simulator, "ann").await?;
    let (_, second) = both(&refresh(&simulator, &first).await?)?;
    let refused = json!({
        "error": "unauthorized_client", "error_description": "Invalid OAuth client credentials"
    });
    for token in [&first, &second] {
        let reply = refresh(&simulator, token).await?;
        assert_eq!((reply.status, reply.json()?), (400, refused.clone()));
    }
    simulator.with(|world| world.advance(Duration::from_secs(121)));
    assert_eq!(refresh(&simulator, &second).await?.status, 200);
    Ok(())
}
