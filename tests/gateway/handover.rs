//! One session on hosts that no cookie reaches together: what a hand-over promises, and what attackers would try.
//!
//! The gateway's own host is `127.0.0.1`; `wiki.test`, `deploy.example` and whatever is below `apps.internal` have nothing
//! in common with it or with each other. Every host of a test is this machine.

use std::collections::BTreeSet;
use std::time::Duration;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind};
use serde_json::Value;
use teamgate::clock::Timestamp;
use teamgate::entropy::Entropy;
use teamgate::keys::{Keyring, Purpose};
use url::Url;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::support::{
    Browser, Checked, Config, Request, Response, Setup, Wire, eventually, navigation, send,
};

const ROUTES: &str = "
- { name: own, host: 127.0.0.1, teams: [acme], upstream: $UPSTREAM }
- { name: wiki, host: wiki.test, teams: [acme], upstream: $UPSTREAM }
- { name: deploy, host: deploy.example, teams: [acme], upstream: $UPSTREAM }
- { name: apps, host: '*.apps.internal', teams: [acme], upstream: $UPSTREAM }
- { name: any, path: /any, teams: [acme], upstream: $UPSTREAM }
";
const OVER: &str = "/.teamgate/hand-over";
const EXPIRED: &str = "That sign-in is no longer good";

async fn setup() -> Checked<Setup> {
    Setup::with(Config::default().routes(ROUTES)).await
}

/// `path` on `host`, at the port of the gateway.
fn at(setup: &Setup, host: &str, path: &str) -> String {
    format!("http://{host}:{}{path}", setup.gateway.address().port())
}

/// A browser in which `user` has signed in at the gateway's own host and been nowhere else.
async fn signed_in(setup: &Setup, user: &str) -> Checked<Browser> {
    let browser = Browser::new();
    browser.sign_in(&setup.url("/"), user).await?.expect(200)?;
    Ok(browser)
}

/// Opens `url` and goes as far as the address with the ticket, which is returned and not opened.
async fn ticket_for(browser: &Browser, url: &str) -> Checked<String> {
    let asked = browser.get(url).await?;
    let request = asked.expect(302)?.location()?;
    assert!(request.contains(&format!("{OVER}?request=")), "{request}");
    ticket_from(browser, &request).await
}

/// What the gateway's own host answers to a request of another host.
async fn ticket_from(browser: &Browser, request: &str) -> Checked<String> {
    let given = browser.get(request).await?;
    let ticket = given.expect(302)?.location()?;
    assert!(ticket.contains(&format!("{OVER}?ticket=")), "{ticket}");
    assert_eq!(given.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(given.header("cache-control"), Some("no-store"));
    Ok(ticket)
}

/// The value of the session cookie that a browser has for `host`.
fn session_at(browser: &Browser, host: &str) -> Option<String> {
    browser.cookies().into_iter().find(|c| c.host == host && c.name == "teamgate").map(|c| c.value)
}

/// Whether `browser` is signed in at `host`.
async fn is_in(setup: &Setup, browser: &Browser, host: &str) -> Checked<bool> {
    let answer = browser.script(&at(setup, host, "/")).await?;
    match answer.status {
        200 => Ok(true),
        401 => Ok(false),
        _ => Err(format!("neither in nor out: {answer:?}").into()),
    }
}

/// A ticket that was not believed: a page that says so, and no cookie of a session.
fn is_refused(response: &Response) -> Checked {
    response.expect(400)?;
    assert!(!sets_session(response), "{response:?}");
    Ok(())
}

fn sets_session(response: &Response) -> bool {
    response.all("set-cookie").iter().any(|field| {
        let (name, value) = field.split(';').next().and_then(|pair| pair.split_once('=')).unwrap_or_default();
        name.ends_with("teamgate") && !value.is_empty()
    })
}

/// The session's facts, as operators see them.
async fn facts(setup: &Setup) -> Checked<Vec<Value>> {
    let list = send(&Request::get(&setup.gateway.admin_url("/api/sessions"))).await?.json()?;
    Ok(list["sessions"].as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn who_signed_in_on_one_host_opens_another_without_a_click() -> Checked {
    let setup = setup().await?;
    let browser = Browser::new();
    // Begun on a host that is not the gateway's own: by way of that, Bitbucket and back, to the very page.
    let asked = browser.get(&at(&setup, "wiki.test", "/page?x=1&y=%20")).await?;
    let own = browser.get(&asked.expect(302)?.location()?).await?;
    let callback = browser.agree(&own.expect(302)?.location()?, "ben").await?;
    let back = browser.get(&callback).await?;
    let ticket = back.expect(302)?.location()?;
    assert!(ticket.starts_with(&at(&setup, "wiki.test", &format!("{OVER}?ticket="))), "{ticket}");
    let arrived = browser.get(&ticket).await?;
    assert_eq!(arrived.expect(302)?.location()?, at(&setup, "wiki.test", "/page?x=1&y=%20"));
    for answer in [&asked, &own, &back, &arrived] {
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let field =
        arrived.all("set-cookie").into_iter().find(|field| field.starts_with("teamgate=")).ok_or("none")?;
    assert!(field.contains("HttpOnly; SameSite=Lax") && !field.contains("Domain"), "{field}");
    let page = browser.follow(arrived).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/page?x=1&y=%20");
    assert_eq!(page.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ben"));
    assert_eq!(page.echoed("cookie")?, None, "the app sees nothing of ours");

    // The others open without a click, and Bitbucket hears nothing of it.
    for host in ["deploy.example", "a.apps.internal", "127.0.0.1"] {
        let page = browser.follow(browser.get(&at(&setup, host, "/x")).await?).await?;
        assert_eq!(
            page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(),
            Some("ben"),
            "{host}"
        );
    }
    assert_eq!(setup.simulator.count("token.code"), 1);
    assert_eq!(setup.gateway.recorded("signed_in", 1).await?.len(), 1);
    let handed: Vec<Value> = setup
        .gateway
        .recorded("handed_over", 3)
        .await?
        .into_iter()
        .map(|record| record["host"].clone())
        .collect();
    assert_eq!(handed, ["wiki.test", "deploy.example", "a.apps.internal"]);
    Ok(())
}

#[tokio::test]
async fn ten_hosts_are_one_session_with_a_cookie_for_each_and_end_together() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let hosts: Vec<String> = (0..10).map(|number| format!("app-{number}.apps.internal")).collect();
    // All at once, as a browser does that is started with its tabs of yesterday.
    let open = hosts.iter().map(async |host| {
        browser.follow(browser.get(&at(&setup, host, "/")).await?).await?.expect(200).map(|_| ())
    });
    for opened in futures_util::future::join_all(open).await {
        opened?;
    }
    let values: BTreeSet<String> =
        browser.cookies().into_iter().filter(|c| c.name == "teamgate").map(|c| c.value).collect();
    assert_eq!(values.len(), 11, "no two hosts have the same cookie");
    let sessions = facts(&setup).await?;
    assert_eq!(sessions.len(), 1);
    let mut known: Vec<String> = sessions[0]["hosts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|host| host.as_str().map(str::to_owned))
        .collect();
    known.sort_unstable();
    assert_eq!(known, hosts);
    let id = sessions[0]["id"].as_str().ok_or("no id")?;
    let (code, shown, err) = crate::keys::teamgate(&setup, &["sessions", "show", id]).await?;
    let line = shown.lines().find(|line| line.starts_with("handed to")).unwrap_or_default();
    assert!(code == 0 && hosts.iter().all(|host| line.contains(host.as_str())), "{shown}{err}");

    // Signing out on one of them is signing out of all.
    browser.post(&at(&setup, &hosts[3], "/.teamgate/logout"), &[]).await?.expect(200)?;
    for host in hosts.iter().map(String::as_str).chain(["127.0.0.1"]) {
        assert!(!is_in(&setup, &browser, host).await?, "{host}");
    }
    // And nobody is signed in again by it: the page that says so is no redirect, and looking again is none either.
    browser.get(&at(&setup, &hosts[3], "/.teamgate/logout")).await?.expect(200)?;
    assert!(facts(&setup).await?.is_empty());
    assert_eq!(setup.simulator.count("token.code"), 1);
    Ok(())
}

#[tokio::test]
async fn a_session_that_an_operator_ends_is_over_on_every_host_at_once() -> Checked {
    let setup = setup().await?;
    let (browser, other) = (signed_in(&setup, "ben").await?, signed_in(&setup, "ann").await?);
    for browser in [&browser, &other] {
        browser.follow(browser.get(&at(&setup, "wiki.test", "/")).await?).await?.expect(200)?;
    }
    let bens =
        facts(&setup).await?.into_iter().find(|session| session["nickname"] == "ben").ok_or("no session")?;
    let id = bens["id"].as_str().ok_or("no id")?;
    send(&Request::new("DELETE", &setup.gateway.admin_url(&format!("/api/sessions/{id}"))))
        .await?
        .expect(200)?;
    for host in ["wiki.test", "127.0.0.1"] {
        assert!(!is_in(&setup, &browser, host).await?, "{host}");
        assert!(is_in(&setup, &other, host).await?, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stolen_ticket_is_worth_nothing_in_another_browser_and_is_not_spent_by_it() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ann").await?;
    let ticket = ticket_for(&browser, &at(&setup, "wiki.test", "/")).await?;
    // In a browser without anything, in one with an attempt of its own, in one that is signed in elsewhere.
    let (blank, busy, member) = (Browser::new(), Browser::new(), signed_in(&setup, "ben").await?);
    busy.get(&at(&setup, "wiki.test", "/")).await?.expect(302)?;
    member.get(&at(&setup, "wiki.test", "/")).await?.expect(302)?;
    for thief in [&blank, &busy, &member] {
        is_refused(&thief.get(&ticket).await?)?;
        assert!(!is_in(&setup, thief, "wiki.test").await?);
    }
    // Nor where the same person is signed in as somebody else: they stay who they are.
    member.follow(member.get(&at(&setup, "wiki.test", "/")).await?).await?.expect(200)?;
    let page = member.follow(member.get(&ticket).await?).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ben"));
    // Whose it is still uses it.
    let page = browser.follow(browser.get(&ticket).await?).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ann"));
    let outcomes: Vec<Value> = setup
        .gateway
        .recorded("hand_over_failed", 3)
        .await?
        .into_iter()
        .map(|record| record["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["no_cookies", "other_browser", "other_browser"]);
    Ok(())
}

#[tokio::test]
async fn a_ticket_works_once_even_for_twenty_at_once_and_after_a_crash() -> Checked {
    let mut setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let ticket = ticket_for(&browser, &at(&setup, "wiki.test", "/")).await?;
    let cookies = browser.cookie_header(&ticket)?.ok_or("no cookie")?;
    let request = navigation("GET", &ticket, "cross-site").header("Cookie", &cookies);
    let answers = futures_util::future::join_all((0..20).map(|_| send(&request))).await;
    let mut won = 0;
    for answer in answers {
        let answer = answer?;
        match sets_session(&answer) {
            true => won += 1,
            false => is_refused(&answer)?,
        }
    }
    assert_eq!(won, 1);
    is_refused(&send(&request).await?)?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    is_refused(&send(&request).await?)?;
    // One that was not used yet outlives a crash.
    let ticket = ticket_for(&browser, &at(&setup, "deploy.example", "/")).await?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    browser.follow(browser.get(&ticket).await?).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_ticket_opens_at_the_host_that_it_is_for_and_at_no_other() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let ticket = ticket_for(&browser, &at(&setup, "a.apps.internal", "/")).await?;
    let query = ticket.split_once('?').map(|(_, query)| query.to_owned()).ok_or("no query")?;
    let cookies = browser.cookie_header(&ticket)?.ok_or("no cookie")?;
    for host in ["wiki.test", "b.apps.internal", "apps.internal", "127.0.0.1", "unknown.test"] {
        let url = at(&setup, host, &format!("{OVER}?{query}"));
        let answer = send(&navigation("GET", &url, "none").header("Cookie", &cookies)).await?;
        is_refused(&answer)?;
    }
    browser.follow(browser.get(&ticket).await?).await?.expect(200)?;
    Ok(())
}

/// The same address with what is sealed in it `seconds` older: what the gateway itself would have made then.
fn older(setup: &Setup, url: &str, place: &str, moment: &str, seconds: u64) -> Checked<String> {
    let keyring = Keyring::load(&setup.gateway.folder().join("teamgate.secret"))?;
    let (before, sealed) = url.split_once('=').ok_or("nothing sealed")?;
    let plain = keyring.open(Purpose::HandOver, place.as_bytes(), &URL_SAFE_NO_PAD.decode(sealed)?)?;
    let mut value: Value = serde_json::from_slice(plain.expose())?;
    let at = value.pointer_mut(moment).ok_or("no such moment")?;
    let then: Timestamp = serde_json::from_value(at.clone())?;
    *at = serde_json::to_value(then.minus(Duration::from_secs(seconds)))?;
    let plain = serde_json::to_vec(&value)?;
    let sealed = keyring.seal(Purpose::HandOver, place.as_bytes(), &plain, &Entropy::system());
    Ok(format!("{before}={}", URL_SAFE_NO_PAD.encode(sealed)))
}

#[tokio::test]
async fn a_request_is_good_for_ten_minutes() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let request = browser.get(&at(&setup, "wiki.test", "/late")).await?.expect(302)?.location()?;
    let late = browser.get(&older(&setup, &request, "request", "/request/asked_at", 600)?).await?;
    is_refused(&late)?;
    // The way on is to ask anew.
    let link = format!("href=\"{}\"", at(&setup, "wiki.test", "/late"));
    assert!(late.text().contains(EXPIRED) && late.text().contains(&link), "{}", late.text());
    let request = older(&setup, &request, "request", "/request/asked_at", 500)?;
    browser.follow(browser.get(&request).await?).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_ticket_is_good_for_thirty_seconds() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let ticket = ticket_for(&browser, &at(&setup, "wiki.test", "/late")).await?;
    let late = browser.get(&older(&setup, &ticket, "ticket for wiki.test", "/issued_at", 30)?).await?;
    is_refused(&late)?;
    assert!(late.text().contains(EXPIRED), "{}", late.text());
    // The page leads back to where the person was going, and nowhere near the ticket.
    let to: String =
        url::form_urlencoded::byte_serialize(at(&setup, "wiki.test", "/late").as_bytes()).collect();
    assert!(late.text().contains(&format!("href=\"/.teamgate/login?rd={to}\"")), "{}", late.text());
    assert!(!late.text().contains("ticket="));
    // Made by the same hand and younger, it is good.
    assert!(sets_session(
        &browser.get(&older(&setup, &ticket, "ticket for wiki.test", "/issued_at", 0)?).await?
    ));
    Ok(())
}

#[tokio::test]
async fn a_ticket_or_a_request_that_is_altered_anywhere_is_nothing() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let request = browser.get(&at(&setup, "wiki.test", "/")).await?.expect(302)?.location()?;
    let ticket = ticket_from(&browser, &request).await?;
    for good in [&request, &ticket] {
        let from = good.find('=').ok_or("no value")? + 1;
        // Every fifth character, so that every region of it is met; and both ends.
        for place in (from..good.len()).step_by(5).chain([good.len() - 1]) {
            let mut altered = good.clone().into_bytes();
            altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
            let answer = browser.get(&String::from_utf8(altered)?).await?;
            is_refused(&answer)?;
        }
        for value in ["", "x", "%00", "AAAA", "../../etc/passwd"] {
            is_refused(&browser.get(&format!("{}{value}", &good[..from])).await?)?;
        }
    }
    // One is not taken for the other.
    let value = |url: &str| url.split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default();
    is_refused(&browser.get(&at(&setup, "wiki.test", &format!("{OVER}?ticket={}", value(&request)))).await?)?;
    is_refused(&browser.get(&setup.url(&format!("{OVER}?request={}", value(&ticket)))).await?)?;
    is_refused(&browser.get(&at(&setup, "wiki.test", OVER)).await?)?;
    is_refused(&browser.get(&setup.url(OVER)).await?)?;
    browser.follow(browser.get(&ticket).await?).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_cookie_that_is_copied_to_another_host_is_nothing_there() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let hosts = ["127.0.0.1", "wiki.test", "deploy.example", "a.apps.internal", "b.apps.internal"];
    for host in hosts {
        browser.follow(browser.get(&at(&setup, host, "/")).await?).await?.expect(200)?;
    }
    for from in hosts {
        let cookie = format!("teamgate={}", session_at(&browser, from).ok_or("no session")?);
        for to in hosts.into_iter().chain(["unknown.test"]) {
            let path = if to == "unknown.test" { "/any" } else { "/" };
            let answer = send(&Request::get(&at(&setup, to, path)).header("Cookie", &cookie)).await?;
            answer.expect(if from == to { 200 } else { 401 })?;
        }
        // However the host is spelt, it is the same.
        let request = Request::get(&at(&setup, from, "/"))
            .header("Host", &format!("{}.:{}", from.to_uppercase(), setup.gateway.address().port()));
        if from != "127.0.0.1" {
            send(&request.header("Cookie", &cookie)).await?.expect(200)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn cookies_that_a_sibling_plants_sign_nobody_in_and_lock_nobody_out() -> Checked {
    let setup = setup().await?;
    let (victim, attacker) = (signed_in(&setup, "ben").await?, signed_in(&setup, "ann").await?);
    attacker.follow(attacker.get(&at(&setup, "b.apps.internal", "/")).await?).await?.expect(200)?;
    let url = at(&setup, "a.apps.internal", "/");
    let foreign = session_at(&attacker, "b.apps.internal").ok_or("no session")?;
    let own = session_at(&attacker, "127.0.0.1").ok_or("no session")?;
    // Cookies for the whole domain come along to every host below it, and before its own.
    let planted = [
        format!("teamgate={foreign}"),
        format!("teamgate={own}"),
        "teamgate=nonsense".to_owned(),
        "teamgate=".to_owned(),
        format!("__Host-teamgate={foreign}"),
        "teamgate-rounds=9.99999999999".to_owned(),
    ]
    .join("; ");
    let answer = send(&navigation("GET", &url, "none").header("Cookie", &planted)).await?;
    assert!(answer.expect(302)?.location()?.contains(&format!("{OVER}?request=")));

    // While a hand-over is under way: under the name of its cookie, before and after it, and in the future.
    let asked = victim.get(&url).await?;
    let attempt =
        victim.cookies().into_iter().find(|c| c.name.starts_with("teamgate-over-")).ok_or("no attempt")?;
    let ticket = ticket_from(&victim, &asked.location()?).await?;
    let far: Vec<String> = (0..8).map(|n| format!("teamgate-over-planted{n}=99999999999999.x")).collect();
    let header = format!(
        "{planted}; {name}=1.planted; {}; {name}={}; {name}=99999999999999.planted",
        far.join("; "),
        attempt.value,
        name = attempt.name,
    );
    let arrived = send(&navigation("GET", &ticket, "cross-site").header("Cookie", &header)).await?;
    assert!(sets_session(arrived.expect(302)?));
    let mine = arrived
        .all("set-cookie")
        .into_iter()
        .find_map(|field| field.strip_prefix("teamgate=")?.split(';').next());
    let header = format!("{planted}; teamgate={}", mine.ok_or("no session")?);
    let page = send(&Request::get(&url).header("Cookie", &header)).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ben"));

    // What is planted pushes no attempt of the victim's out: it is the first to go.
    let header = format!("{}; {}={}", far.join("; "), attempt.name, attempt.value);
    let answer = send(&navigation("GET", &url, "none").header("Cookie", &header)).await?;
    let gone: Vec<&str> =
        answer.all("set-cookie").into_iter().filter(|field| field.contains("Max-Age=0")).collect();
    assert_eq!(gone.len(), 2);
    assert!(gone.iter().all(|field| field.starts_with("teamgate-over-planted")), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_is_made_to_go_on_with_what_another_browser_began() -> Checked {
    let setup = setup().await?;
    let url = at(&setup, "wiki.test", "/");
    let (victim, attacker) = (signed_in(&setup, "ann").await?, signed_in(&setup, "ben").await?);
    // The attacker begins at the host, and the victim is made to follow the request: no session comes to the attacker,
    // and none of the victim's begins there.
    let request = attacker.get(&url).await?.expect(302)?.location()?;
    let ticket = ticket_from(&victim, &request).await?;
    is_refused(&victim.get(&ticket).await?)?;
    assert!(!is_in(&setup, &victim, "wiki.test").await?);
    assert!(!is_in(&setup, &attacker, "wiki.test").await?);
    // The same with a victim who has to sign in first.
    let fresh = Browser::new();
    let request = attacker.get(&url).await?.expect(302)?.location()?;
    let authorize = fresh.begin(&request).await?;
    let callback = fresh.agree(&authorize, "ann").await?;
    let ticket = fresh.get(&callback).await?.expect(302)?.location()?;
    is_refused(&fresh.get(&ticket).await?)?;
    assert!(!is_in(&setup, &fresh, "wiki.test").await?);

    // The attacker's own ticket in the victim's browser: the victim does not become the attacker.
    let ticket = ticket_for(&attacker, &url).await?;
    is_refused(&victim.get(&ticket).await?)?;
    victim.get(&url).await?.expect(302)?;
    is_refused(&victim.get(&ticket).await?)?;
    let page = victim.follow(victim.get(&url).await?).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ann"));
    Ok(())
}

#[tokio::test]
async fn a_session_that_ended_in_between_is_not_handed_over() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let ticket = ticket_for(&browser, &at(&setup, "wiki.test", "/")).await?;
    browser.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    is_refused(&browser.get(&ticket).await?)?;
    assert!(!is_in(&setup, &browser, "wiki.test").await?);
    assert_eq!(setup.gateway.recorded("hand_over_failed", 1).await?[0]["outcome"], "session_over");
    assert!(facts(&setup).await?.is_empty(), "nothing is raised from the dead");
    Ok(())
}

#[tokio::test]
async fn who_had_another_session_there_has_one_afterwards() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let url = at(&setup, "wiki.test", "/");
    browser.follow(browser.get(&url).await?).await?.expect(200)?;
    // The gateway's own host forgets, and signs in as somebody else: that host has not heard of it.
    let (host, value) = ("wiki.test", session_at(&browser, "wiki.test").ok_or("no session")?);
    browser.forget("teamgate");
    browser.sign_in(&setup.url("/"), "ann").await?.expect(200)?;
    let ticket = ticket_for(&browser, &at(&setup, host, "/")).await?;
    let cookies = format!("{}; teamgate={value}", browser.cookie_header(&ticket)?.unwrap_or_default());
    let arrived = send(&navigation("GET", &ticket, "cross-site").header("Cookie", &cookies)).await?;
    assert!(sets_session(arrived.expect(302)?));
    let left = facts(&setup).await?;
    assert_eq!((left.len(), &left[0]["nickname"]), (1, &Value::from("ann")));
    Ok(())
}

#[tokio::test]
async fn a_ticket_goes_to_hosts_and_ports_that_the_configuration_knows_and_to_no_others() -> Checked {
    let setup = setup().await?;
    let port = setup.gateway.address().port();
    let browser = signed_in(&setup, "ben").await?;
    // Whatever port a request says that it came to, the ticket goes to ours: somebody else may listen on that one.
    for said in ["wiki.test:1", "wiki.test:65535", "wiki.test", "WIKI.TEST."] {
        let asked =
            send(&navigation("GET", &at(&setup, "wiki.test", "/"), "none").header("Host", said)).await?;
        let ticket = ticket_from(&browser, &asked.expect(302)?.location()?).await?;
        assert!(ticket.starts_with(&format!("http://wiki.test:{port}{OVER}?ticket=")), "{said}: {ticket}");
    }
    // A host that no route names gets none, though a route for any host answers there.
    for host in ["unknown.test", "apps.internal", "wiki.test.evil.example", "evilwiki.test"] {
        let asked = send(&navigation("GET", &at(&setup, host, "/any"), "none")).await?;
        let location = asked.expect(302)?.location()?;
        assert!(location.starts_with(&setup.url("/.teamgate/login?rd=")), "{host}: {location}");
        assert!(asked.all("set-cookie").is_empty(), "{asked:?}");
    }
    // Nor is anybody sent to one afterwards.
    for rd in [
        "https://evil.example/",
        "//evil.example",
        "http://wiki.test:1/",
        "http://wiki.test@evil.example/",
        "http://unknown.test/",
        "javascript:alert(1)",
    ] {
        let rd: String = url::form_urlencoded::byte_serialize(rd.as_bytes()).collect();
        let browser = signed_in(&setup, "ben").await?;
        let ticket =
            ticket_for(&browser, &at(&setup, "wiki.test", &format!("/.teamgate/login?rd={rd}"))).await?;
        let arrived = browser.get(&ticket).await?;
        assert_eq!(arrived.expect(302)?.location()?, at(&setup, "wiki.test", "/"), "{rd}");
    }
    // To another host of ours: by way of this one, and by a hand-over of its own.
    let rd: String =
        url::form_urlencoded::byte_serialize(at(&setup, "deploy.example", "/d").as_bytes()).collect();
    let page = browser
        .follow(browser.get(&at(&setup, "wiki.test", &format!("/.teamgate/login?rd={rd}"))).await?)
        .await?;
    assert_eq!(page.expect(200)?.url, at(&setup, "deploy.example", "/d"));
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_not_served_any_more_is_handed_nothing() -> Checked {
    let mut setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let request = browser.get(&at(&setup, "wiki.test", "/")).await?.expect(302)?.location()?;
    let ticket = ticket_from(&browser, &request).await?;
    let fewer = "- { name: own, host: 127.0.0.1, teams: [acme], upstream: $UPSTREAM }\n\
                 - { name: any, path: /any, access: public, upstream: $UPSTREAM }";
    setup.gateway.reconfigure(&Config::default().routes(fewer))?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    setup.gateway.restart().await?;
    is_refused(&browser.get(&request).await?)?;
    is_refused(&browser.get(&ticket).await?)?;
    Ok(())
}

#[tokio::test]
async fn a_ticket_is_taken_by_get_alone() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let ticket = ticket_for(&browser, &at(&setup, "wiki.test", "/")).await?;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = navigation(method, &ticket, "cross-site").body("");
        let answer = browser.fetch(request).await?;
        answer.expect(405)?;
        assert!(answer.all("set-cookie").is_empty());
    }
    browser.follow(browser.get(&ticket).await?).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn tabs_finish_in_any_order_and_the_ninth_costs_the_first() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let mut requests = Vec::new();
    for tab in 0..9 {
        let asked = browser.get(&at(&setup, "wiki.test", &format!("/tab/{tab}"))).await?;
        requests.push(asked.expect(302)?.location()?);
    }
    let attempts = browser.cookies().into_iter().filter(|c| c.name.starts_with("teamgate-over-")).count();
    assert_eq!(attempts, 8);
    for tab in [7, 5, 8, 6] {
        let page = browser.follow(browser.get(&requests[tab]).await?).await?;
        assert_eq!(page.expect(200)?.json()?["target"], format!("/tab/{tab}"));
    }
    // The one that was pushed out goes on as well, since the browser is signed in there by now.
    let page = browser.follow(browser.get(&requests[0]).await?).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/tab/0");
    Ok(())
}

#[tokio::test]
async fn a_new_key_in_the_middle_of_a_hand_over_changes_nothing() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    browser.follow(browser.get(&at(&setup, "deploy.example", "/")).await?).await?.expect(200)?;
    let request = browser.get(&at(&setup, "wiki.test", "/page")).await?.expect(302)?.location()?;
    crate::keys::rotate(&setup).await?;
    setup.gateway.recorded("keys_rotated", 1).await?;
    let ticket = ticket_from(&browser, &request).await?;
    crate::keys::rotate(&setup).await?;
    setup.gateway.recorded("keys_rotated", 2).await?;
    let page = browser.follow(browser.get(&ticket).await?).await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/page");
    // Each host's cookie is under another key, and all count.
    for host in ["127.0.0.1", "deploy.example", "wiki.test"] {
        assert!(is_in(&setup, &browser, host).await?, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn blocked_cookies_of_the_other_host_are_explained() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let url = at(&setup, "wiki.test", "/page");
    // None is kept: known at once.
    let asked = send(&navigation("GET", &url, "none")).await?;
    let ticket = ticket_from(&browser, &asked.location()?).await?;
    let page = send(&navigation("GET", &ticket, "cross-site")).await?;
    assert!(page.expect(400)?.text().contains("Your browser isn’t keeping our cookie"), "{}", page.text());
    assert!(page.text().contains("came back from 127.0.0.1 without it"), "{}", page.text());
    assert!(page.text().contains("allow them for wiki.test"), "{}", page.text());
    // All but the session's: noticed at the third round.
    for round in 0..2 {
        let arrived = browser.get(&ticket_for(&browser, &url).await?).await?;
        assert_eq!(arrived.expect(302)?.location()?, url, "{round}");
        let own = session_at(&browser, "127.0.0.1").ok_or("no session")?;
        browser.forget("teamgate");
        browser.plant("teamgate", &own);
    }
    let page = browser.get(&url).await?;
    assert!(page.expect(400)?.text().contains("You went to 127.0.0.1 and back 2 times"), "{}", page.text());
    // Whoever asks once more gets one more try.
    browser.follow(browser.get(&url).await?).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_refresh_token_lost_in_a_crash_is_mended_from_another_host_without_a_click() -> Checked {
    let every_second = "directory: { refresh_after: 1s }";
    let mut setup = Setup::with(Config::default().routes(ROUTES).top(every_second)).await?;
    let browser = signed_in(&setup, "ben").await?;
    let url = at(&setup, "wiki.test", "/page");
    browser.follow(browser.get(&url).await?).await?.expect(200)?;
    setup.simulator.with(|world| {
        world.fault(Fault::new("token.refresh", FaultKind::LostAnswer).times(1));
        world.expire_access_tokens();
        world.clear_requests();
    });
    eventually("the rotation is lost", async || {
        browser.script(&url).await?.expect(200)?;
        Ok(setup.simulator.count("token.refresh") == 1)
    })
    .await?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    // It takes a sign-in: with the session as it is the host would be back at once, and ask again.
    eventually("a page goes through Bitbucket", async || {
        let response = browser.get(&url).await?;
        if response.status == 200 {
            return Ok(false);
        }
        let page = browser.follow(response).await?;
        assert_eq!(page.expect(200)?.json()?["target"], "/page");
        Ok(true)
    })
    .await?;
    assert_eq!((setup.simulator.count("authorize"), setup.simulator.count("token.code")), (1, 1));
    browser.get(&url).await?.expect(200)?;
    assert_eq!(facts(&setup).await?.len(), 1, "the session before is over");
    Ok(())
}

#[tokio::test]
async fn what_is_open_on_one_host_ends_when_its_person_signs_out_on_another() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let url = at(&setup, "wiki.test", "/events/sse");
    browser.follow(browser.get(&at(&setup, "wiki.test", "/")).await?).await?.expect(200)?;
    let request = Request::get(&url)
        .header("Cookie", &browser.cookie_header(&url)?.ok_or("no cookie")?)
        .header("Accept", "text/event-stream");
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&request.bytes()).await?;
    wire.until(b"data: hello").await?;
    browser.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    wire.rest().await?;
    assert_eq!(setup.gateway.recorded("connection_ended", 1).await?[0]["reason"], "signed_out");
    Ok(())
}

#[tokio::test]
async fn programs_are_told_where_to_sign_in_and_get_no_cookie() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let answer = browser.script(&at(&setup, "wiki.test", "/api")).await?;
    assert!(answer.expect(401)?.all("set-cookie").is_empty());
    let sign_in = answer.json()?["sign_in"].as_str().ok_or("no sign_in")?.to_owned();
    assert_eq!(sign_in, at(&setup, "wiki.test", "/.teamgate/login"));
    let page = browser.follow(browser.get(&sign_in).await?).await?;
    assert_eq!(page.expect(200)?.url, at(&setup, "wiki.test", "/"));
    browser.script(&at(&setup, "wiki.test", "/api")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn no_line_that_the_gateway_writes_has_a_ticket_or_a_cookie() -> Checked {
    let setup = setup().await?;
    let browser = signed_in(&setup, "ben").await?;
    let request = browser.get(&at(&setup, "wiki.test", "/")).await?.location()?;
    let ticket = ticket_from(&browser, &request).await?;
    is_refused(&Browser::new().get(&ticket).await?)?;
    browser.follow(browser.get(&ticket).await?).await?.expect(200)?;
    setup.gateway.recorded("handed_over", 1).await?;
    let session = session_at(&browser, "wiki.test").ok_or("no session")?;
    eventually("the access lines are written", async || Ok(setup.gateway.access().len() >= 8)).await?;
    let said = [setup.gateway.stdout(), setup.gateway.stderr()].concat().join("\n");
    assert!(said.contains(&format!("\"{OVER}\"")), "the path is there");
    for secret in [&request, &ticket] {
        let value = secret.split_once('=').map(|(_, value)| value).ok_or("no value")?;
        assert!(!said.contains(&value[..24]), "{said}");
    }
    assert!(!said.contains(&session) && !said.contains("ticket="), "{said}");
    // What an app is told of where the visitor came from has none either.
    for received in setup.upstream.received() {
        assert!(received.all("referer").is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn the_persons_own_page_works_on_a_host_that_was_handed_its_session() -> Checked {
    let setup = setup().await?;
    let (here, elsewhere) = (signed_in(&setup, "ben").await?, signed_in(&setup, "ben").await?);
    for browser in [&here, &elsewhere] {
        browser.follow(browser.get(&at(&setup, "wiki.test", "/")).await?).await?.expect(200)?;
    }
    let url = at(&setup, "wiki.test", "/.teamgate/");
    let page = here.get(&url).await?;
    let text = page.expect(200)?.text();
    assert!(text.contains("You’re <b>Ben Berg</b>") && !text.contains("<script"), "{text}");
    assert_eq!(text.matches("?session=").count(), 1, "one session, though on two hosts\n{text}");
    assert_eq!(text.matches("<code>wiki.test</code>").count(), 2, "where each of both is open\n{text}");
    // Another site cannot; the host's own page can, and it is over on both hosts.
    let others = at(&setup, "wiki.test", "/.teamgate/logout?others");
    let forged = navigation("POST", &others, "cross-site").header("Origin", "http://deploy.example").body("");
    here.fetch(forged).await?.expect(403)?;
    assert!(is_in(&setup, &elsewhere, "wiki.test").await?);
    assert_eq!(here.post(&others, &[]).await?.expect(303)?.location()?, url);
    for (browser, expected) in [(&here, true), (&elsewhere, false)] {
        for host in ["wiki.test", "127.0.0.1"] {
            assert_eq!(is_in(&setup, browser, host).await?, expected, "{host}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn over_https_behind_a_proxy_each_host_has_a_cookie_that_no_other_can_plant() -> Checked {
    let config = Config::default()
        .top("external_url: https://gate.example.test\ntrusted_proxies: [127.0.0.1]")
        .routes("- { name: wiki, host: wiki.other.test, teams: [acme], upstream: $UPSTREAM }");
    let setup = Setup::with(config).await?;
    let callback = "https://gate.example.test/.teamgate/callback";
    setup.simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, callback))?;
    // What the proxy in front makes of `https://host/…`.
    let open = async |url: &str, cookies: &[String]| -> Checked<Response> {
        let parsed = Url::parse(url)?;
        let target = &parsed[url::Position::BeforePath..];
        let request = navigation("GET", &setup.url(target), "none")
            .header("Host", parsed.host_str().unwrap_or(""))
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-For", "203.0.113.9");
        match cookies.is_empty() {
            true => send(&request).await,
            false => send(&request.header("Cookie", &cookies.join("; "))).await,
        }
    };
    let set = |response: &Response| -> Vec<String> {
        let fields = response.all("set-cookie");
        fields.iter().filter_map(|field| field.split(';').next()).map(str::to_owned).collect()
    };
    let asked = open("https://wiki.other.test/a", &[]).await?;
    let field = asked.expect(302)?.header("set-cookie").ok_or("no attempt")?.to_owned();
    assert!(field.starts_with("__Host-teamgate-over-"), "{field}");
    assert!(field.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=600"), "{field}");
    let location = asked.header("location").unwrap_or_default();
    assert!(location.starts_with(&format!("https://gate.example.test{OVER}?request=")), "{location}");
    let start = open(location, &[]).await?;
    let authorize = start.expect(302)?.header("location").unwrap_or_default().to_owned();
    let back = open(&Browser::new().agree(&authorize, "ann").await?, &set(&start)).await?;
    let ticket = back.expect(302)?.header("location").unwrap_or_default().to_owned();
    assert!(ticket.starts_with(&format!("https://wiki.other.test{OVER}?ticket=")), "{ticket}");
    // A cookie of the same value without the prefix, which a sibling could plant, is none.
    let planted = field.trim_start_matches("__Host-").split(';').next().unwrap_or_default().to_owned();
    is_refused(&open(&ticket, &[planted]).await?)?;
    let arrived = open(&ticket, &set(&asked)).await?;
    let field = arrived
        .expect(302)?
        .all("set-cookie")
        .into_iter()
        .find(|field| field.starts_with("__Host-teamgate="));
    let field = field.ok_or("no session cookie")?;
    assert!(
        field.contains("; HttpOnly; SameSite=Lax; Secure; Path=/;") && !field.contains("Domain"),
        "{field}"
    );
    assert!(field.split(';').next().is_some_and(|pair| pair.len() <= 100));
    assert_eq!(arrived.header("location"), Some("https://wiki.other.test/a"));
    let page = open("https://wiki.other.test/a", &set(&arrived)).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ann"));
    open("https://wiki.other.test/a", &set(&back)).await?.expect(302)?;
    Ok(())
}
