//! Which workspace a team's name means: what operators see of it, and what their word does.

use bitbucket_sim::Permission;
use serde_json::{Value, json};

use crate::keys::teamgate;
use crate::support::{Browser, Checked, Config, Request, Setup, eventually, send};

/// Asked again every second, in the background.
const EVERY_SECOND: &str = "directory: { refresh_after: 1s }";
/// Not asked again in the background while a test runs.
const HOURLY: &str = "directory: { refresh_after: 1h, max_age: 4h }";

const ACME: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const HEIR: &str = "00000000-0000-4000-8000-00000000beef";

/// Another workspace takes the name `acme`; Ben and Eve are members of it.
fn hijack(setup: &Setup) -> Checked {
    setup.simulator.with(|world| {
        world.move_slug("acme", &format!("{{{HEIR}}}"))?;
        world.add_member("ben", "acme", Permission::Member, false)?;
        world.add_member("eve", "acme", Permission::Member, false)
    })?;
    Ok(())
}

async fn becomes(browser: &Browser, url: &str, status: u16) -> Checked {
    eventually(&format!("{url} is {status}"), async || Ok(browser.script(url).await?.status == status)).await
}

async fn run(setup: &Setup, arguments: &[&str]) -> Checked<Value> {
    let (code, out, err) = teamgate(setup, &[&["teams"], arguments, &["--json"]].concat()).await?;
    assert_eq!(code, 0, "{err}");
    Ok(serde_json::from_str(&out)?)
}

/// What the gateway says of the team that it calls `slug`.
async fn team(setup: &Setup, slug: &str) -> Checked<Value> {
    let answer = run(setup, &["list"]).await?;
    let found = answer["teams"].as_array().into_iter().flatten().find(|team| team["slug"] == slug);
    Ok(found.cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_name_that_changed_hands_is_refused_until_the_operator_accepts_it() -> Checked {
    let setup = Setup::with(Config::default().top(EVERY_SECOND)).await?;
    let url = setup.url("/");
    assert_eq!(team(&setup, "acme").await?["uuid"], Value::Null, "nobody has brought it yet");
    let (ann, ben) = (setup.signed_in("ann").await?, setup.signed_in("ben").await?);
    let acme = team(&setup, "acme").await?;
    assert_eq!(
        (&acme["uuid"], &acme["conflict"], &acme["configured"]),
        (&ACME.into(), &Value::Null, &true.into())
    );
    assert!(acme["remembered_at"].is_string() && acme["seen_at"].is_string(), "{acme}");

    hijack(&setup)?;
    becomes(&ben, &url, 403).await?;
    let eve = setup.signed_in("eve").await?;
    eve.script(&url).await?.expect(403)?;
    let acme = team(&setup, "acme").await?;
    assert_eq!(acme["uuid"], ACME);
    assert_eq!((&acme["conflict"]["uuid"], &acme["conflict"]["accounts"]), (&HEIR.into(), &2.into()));
    let (_, table, _) = teamgate(&setup, &["teams", "list"]).await?;
    assert!(table.contains(&format!("changed hands: is {HEIR} now, seen ")), "{table}");
    assert!(table.contains("teamgate teams accept"), "{table}");

    let (code, out, err) = teamgate(&setup, &["teams", "accept", "acme", "--why", "we moved"]).await?;
    assert_eq!((code, out.as_str()), (0, &*format!("`acme` is {HEIR} from now on; it was {ACME}")), "{err}");
    becomes(&ben, &url, 200).await?;
    becomes(&eve, &url, 200).await?;
    becomes(&ann, &url, 403).await?;
    let acme = team(&setup, "acme").await?;
    assert_eq!((&acme["uuid"], &acme["conflict"]), (&HEIR.into(), &Value::Null));
    let accepted = setup.gateway.recorded("slug_accepted", 1).await?;
    let accepted = accepted.first().ok_or("it is not on record")?;
    assert_eq!(
        (&accepted["slug"], &accepted["pinned"], &accepted["found"], &accepted["why"]),
        (&"acme".into(), &ACME.into(), &HEIR.into(), &"we moved".into())
    );
    Ok(())
}

#[tokio::test]
async fn who_was_refused_is_asked_about_as_soon_as_the_operator_has_spoken() -> Checked {
    for word in ["accept", "forget"] {
        let setup = Setup::with(Config::default().top(HOURLY)).await?;
        setup.signed_in("ann").await?;
        hijack(&setup)?;
        let eve = setup.signed_in("eve").await?;
        eve.script(&setup.url("/")).await?.expect(403)?;
        let answer = run(&setup, &[word, "acme"]).await?;
        assert_eq!(answer["was"], ACME, "{word}");
        becomes(&eve, &setup.url("/"), 200).await?;
        assert_eq!(team(&setup, "acme").await?["uuid"], HEIR, "{word}");
        let event = if word == "accept" { "slug_accepted" } else { "slug_forgotten" };
        let recorded = setup.gateway.recorded(event, 1).await?;
        assert_eq!(recorded.first().ok_or("it is not on record")?["pinned"], ACME);
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_accepted_or_forgotten_is_refused_with_the_reason() -> Checked {
    let setup = Setup::new().await?;
    setup.signed_in("ann").await?;
    let braced = format!("{{{ACME}}}");
    for (arguments, says) in [
        (vec!["forget", "globex"], "no uuid is remembered for `globex`"),
        (vec!["forget", "nobody"], "no uuid is remembered for `nobody`"),
        (vec!["forget", "no body"], "no workspace ID"),
        (vec!["forget", &*braced], "name a slug"),
        (vec!["accept", "nobody"], "neither configured nor remembered"),
        (vec!["accept", "nobody", "--uuid", HEIR], "neither configured nor remembered"),
        (vec!["accept", "acme"], "no other workspace under `acme`"),
        (vec!["accept", &*braced], "name a slug"),
    ] {
        let (code, _, err) = teamgate(&setup, &[vec!["teams"], arguments.clone()].concat()).await?;
        assert_eq!(code, 1, "{arguments:?}: {err}");
        assert!(err.contains(says), "{arguments:?}: {err}");
    }
    for (path, status) in [
        ("/api/teams/acme/accept", 400),
        ("/api/teams/acme/accept?uuid=x", 400),
        ("/api/teams/acme/forget?all=true", 400),
        ("/api/teams/a%2Fb/forget", 400),
        ("/api/teams/nobody/forget", 404),
    ] {
        send(&Request::new("POST", &setup.gateway.admin_url(path))).await?.expect(status)?;
    }
    send(&Request::get(&setup.gateway.admin_url("/api/teams/acme/forget"))).await?.expect(405)?;
    let page = Request::new("POST", &setup.gateway.admin_url("/api/teams/acme/forget"));
    send(&page.headers(&[("Origin", "https://evil.example")])).await?.expect(403)?;
    assert_eq!(team(&setup, "acme").await?["uuid"], ACME, "nothing was done");
    Ok(())
}

#[tokio::test]
async fn with_a_token_only_its_bearer_learns_of_teams_and_has_a_say() -> Checked {
    let config = Config::default().top("admin: { address: $ADMIN, token_file: admin.token }");
    let setup = Setup::with(config).await?;
    setup.signed_in("ann").await?;
    for (method, path) in [("GET", "/api/teams"), ("POST", "/api/teams/acme/forget")] {
        let request = Request::new(method, &setup.gateway.admin_url(path));
        send(&request).await?.expect(401)?;
        send(&request.headers(&[("Authorization", "Bearer guess")])).await?.expect(401)?;
    }
    assert_eq!(team(&setup, "acme").await?["uuid"], ACME, "the command line has the token");
    Ok(())
}

#[tokio::test]
async fn a_team_that_is_given_by_its_uuid_is_called_by_its_name() -> Checked {
    let config = Config::default().bitbucket(&format!("teams: [\"{{{ACME}}}\", globex]")).routes(&format!(
        "- {{ name: wiki, path: /, teams: [\"{{{ACME}}}/members\"], upstream: $UPSTREAM }}\n\
             - {{ name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }}"
    ));
    let mut setup = Setup::with(config).await?;
    let url = setup.url("/");
    // Nobody of the team has been here: it has no name yet.
    let cleo = setup.signed_in("cleo").await?;
    let page = cleo.get(&url).await?;
    assert!(page.expect(403)?.text().contains(ACME), "{}", page.text());
    let ann = setup.signed_in("ann").await?;
    ann.get(&url).await?.expect(200)?;
    for when in ["while it runs", "after a restart"] {
        eventually(&format!("{when} the refusal has the name"), async || {
            let page = cleo.get(&url).await?;
            let text = page.expect(403)?.text().replace("<wbr>", "");
            Ok(text.contains("This page is for <b>acme/members</b>") && !text.contains(ACME))
        })
        .await?;
        let stranger = Browser::new();
        let authorize = stranger.begin(&url).await?;
        let page = stranger.get(&stranger.agree(&authorize, "eve").await?).await?;
        let text = page.expect(403)?.text();
        assert!(text.contains("acme") && !text.contains(ACME), "{when}: {text}");
        let acme = team(&setup, "acme").await?;
        assert_eq!((&acme["uuid"], &acme["given_by"]), (&ACME.into(), &"uuid".into()), "{when}");
        setup.gateway.terminate().await?;
        setup.gateway.restart().await?;
    }
    ann.get(&url).await?.expect(200)?;
    eventually("the access log has the name", async || {
        let grounds = json!("acme/members");
        Ok(setup.gateway.access().iter().any(|line| line["grounds"] == grounds))
    })
    .await?;
    // Where it goes for a member, by name: only a gateway can know.
    let explain = ["explain", "--url", &url, "--groups", "acme"];
    let (_, offline, _) = teamgate(&setup, &explain).await?;
    assert!(offline.contains("may not pass") && offline.contains(ACME), "{offline}");
    let (_, asked, err) = teamgate(&setup, &[&explain[..], &["--names"]].concat()).await?;
    assert!(asked.contains("may pass: the route admits acme/members"), "{asked}{err}");
    Ok(())
}
