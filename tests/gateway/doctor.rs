//! `teamgate doctor`, and what a running gateway says of Bitbucket by itself.

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind};
use serde_json::Value;

use crate::keys::teamgate;
use crate::support::{Browser, Checked, Request, Run, Setup, send};

/// The report as JSON, and the exit code.
async fn report(setup: &Setup) -> Checked<(i32, Value)> {
    let (code, out, err) = teamgate(setup, &["doctor", "--json"]).await?;
    Ok((code, serde_json::from_str(&out).map_err(|error| format!("{error}: {out} {err}"))?))
}

/// Kind, severity and place of each finding.
fn found<'a>(report: &'a Value) -> Vec<(&'a str, &'a str, &'a str)> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let field = |finding: &'a Value| {
        let text = |name: &str| finding[name].as_str().unwrap_or_default();
        (text("kind"), text("severity"), text("place"))
    };
    findings.iter().map(field).collect()
}

async fn metric(setup: &Setup, sample: &str) -> Checked<f64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Ok(found.ok_or_else(|| format!("no {sample}"))?.parse()?)
}

#[tokio::test]
async fn where_all_is_well_it_says_so_and_asks_only_what_was_not_asked() -> Checked {
    let setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    let (user, authorize) = (setup.simulator.count("user"), setup.simulator.count("authorize"));
    let (code, out, err) = teamgate(&setup, &["doctor"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    for said in
        ["as the gateway at http://", "Nothing is wrong", "account, email needed", "Clock: as Bitbucket's"]
    {
        assert!(out.contains(said), "{said} in {out}");
    }
    let (code, report) = report(&setup).await?;
    assert_eq!((code, &report["healthy"]), (0, &true.into()), "{report}");
    for known in report["endpoints"].as_array().ok_or("no endpoints")? {
        // The token is young: nobody had to refresh it.
        let is_known = known["good_at"].is_string();
        assert_eq!(is_known, known["endpoint"] != "refresh", "{known}");
    }
    assert_eq!(setup.simulator.count("user"), user, "the sign-in has asked");
    assert_eq!(setup.simulator.count("authorize"), authorize + 1, "once for two reports");
    Ok(())
}

#[tokio::test]
async fn a_missing_scope_is_said_with_what_to_tick() -> Checked {
    let setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    let lacking =
        FaultKind::MissingScope { required: vec!["email".to_owned()], granted: vec!["account".to_owned()] };
    setup.simulator.with(|world| world.fault(Fault::new("emails", lacking)));
    // Somebody signs in meanwhile, and cannot.
    let browser = Browser::new();
    browser.sign_in(&setup.url("/lobby"), "ann").await?;
    let (code, out, _) = teamgate(&setup, &["doctor"]).await?;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("fault (scope), GET /2.0/user/emails: "), "{out}");
    assert!(out.contains("the scope `email`") && out.contains("tick `email` on the client's page"), "{out}");
    let line = setup.gateway.logged("the scope `email`").await?;
    assert!(line.contains("\"level\""), "{line}");
    assert_eq!(metric(&setup, "teamgate_bitbucket_findings{kind=\"scope\"}").await?, 1.0);

    setup.simulator.with(|world| world.clear_faults());
    let (code, report) = report(&setup).await?;
    assert_eq!((code, found(&report)), (0, vec![]), "what was bad is asked again: {report}");
    assert_eq!(metric(&setup, "teamgate_bitbucket_findings{kind=\"scope\"}").await?, 0.0);
    setup.gateway.logged("what was wrong with Bitbucket there is over").await?;
    Ok(())
}

#[tokio::test]
async fn a_removed_endpoint_is_said_once_with_its_announcement() -> Checked {
    let setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    setup.simulator.with(|world| world.fault(Fault::new("workspaces", FaultKind::Gone)));
    Browser::new().sign_in(&setup.url("/lobby"), "ann").await?;
    for _ in 0..2 {
        let (code, report) = report(&setup).await?;
        assert_eq!((code, found(&report)), (1, vec![("removed", "fault", "GET /2.0/user/workspaces")]));
        let fault = report["findings"][0]["fault"].as_str().unwrap_or_default();
        assert!(fault.contains("https://developer.atlassian.com/"), "{report}");
    }
    setup.gateway.logged("\"kind\":\"removed\"").await?;
    let lines = setup.gateway.log().iter().filter(|line| line["kind"] == "removed").count();
    assert_eq!(lines, 1);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_will_go_and_a_clock_that_is_wrong_are_seen_in_ordinary_answers() -> Checked {
    let setup = Setup::new().await?;
    let fields = |fields: &[(&str, &str)]| {
        FaultKind::Headers(
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    };
    setup.simulator.with(|world| {
        world.fault(Fault::new(
            "user",
            fields(&[("sunset", "Sat, 31 Jul 2027 23:59:59 GMT"), ("warning", "299 - x")]),
        ));
    });
    setup.signed_in("ben").await?;
    let (code, seen) = report(&setup).await?;
    let user = "GET /2.0/user";
    assert_eq!((code, found(&seen)), (0, vec![("leaving", "warning", user), ("warning", "warning", user)]));
    assert!(seen["findings"][0]["fault"].as_str().is_some_and(|text| text.contains("31 Jul 2027")), "{seen}");
    assert_eq!(metric(&setup, "teamgate_bitbucket_findings{kind=\"leaving\"}").await?, 1.0);

    setup.simulator.with(|world| {
        world.clear_faults();
        world.fault(Fault::new("*", fields(&[("date", "Tue, 01 Jan 2030 00:00:00 GMT")])));
    });
    setup.signed_in("ann").await?;
    let (code, seen) = report(&setup).await?;
    assert_eq!((code, found(&seen)), (1, vec![("clock", "fault", "clock")]), "{seen}");
    assert!(metric(&setup, "teamgate_bitbucket_clock_skew_seconds").await? > 86_400.0);
    Ok(())
}

#[tokio::test]
async fn a_redirect_uri_that_bitbucket_does_not_know_is_found_before_anybody_signs_in() -> Checked {
    let setup = Setup::new().await?;
    setup
        .simulator
        .with(|world| world.set_callback(EXAMPLE_CLIENT_ID, "https://elsewhere.example/callback"))?;
    let (code, seen) = report(&setup).await?;
    assert_eq!(code, 1, "{seen}");
    assert!(found(&seen).contains(&("redirect_uri", "fault", "GET /site/oauth2/authorize")), "{seen}");
    Ok(())
}

#[tokio::test]
async fn without_a_gateway_it_says_so_and_checks_what_needs_nobody() -> Checked {
    let mut setup = Setup::new().await?;
    setup.gateway.kill().await?;
    let (code, out, err) = teamgate(&setup, &["doctor"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("No gateway runs") && out.contains("Nothing is wrong"), "{out}");
    let (_, seen) = report(&setup).await?;
    for (place, good) in [(0, true), (1, true), (2, false), (3, true), (4, false)] {
        assert_eq!(seen["endpoints"][place]["good_at"].is_string(), good, "{place}: {seen}");
    }
    assert!(seen["clock_skew_seconds"].is_number() && seen["gateway"].is_null(), "{seen}");

    let wrong = setup.gateway.variables().iter().map(|(name, value)| match *name {
        "CLIENT_SECRET" => (*name, "another-secret-of-some-length".to_owned()),
        _ => (*name, value.clone()),
    });
    let wrong: Vec<_> = wrong.collect();
    let mut run = Run::start(setup.gateway.folder(), &["doctor", "--json"], &wrong)?;
    assert_eq!(run.exit_code().await?, 1);
    let seen: Value = serde_json::from_str(&run.stdout().join("\n"))?;
    assert_eq!(found(&seen), [("client", "fault", "POST /site/oauth2/access_token")]);

    // Nobody there at all.
    let away = wrong.iter().map(|(name, value)| match *name {
        "BITBUCKET" => (*name, "http://127.0.0.1:1".to_owned()),
        _ => (*name, value.clone()),
    });
    let mut run = Run::start(setup.gateway.folder(), &["doctor", "--json"], &away.collect::<Vec<_>>())?;
    assert_eq!(run.exit_code().await?, 1);
    let seen: Value = serde_json::from_str(&run.stdout().join("\n"))?;
    assert!(found(&seen).iter().all(|(kind, severity, _)| (*kind, *severity) == ("away", "fault")), "{seen}");
    assert_eq!(found(&seen).len(), 3);
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_given_and_does_not_answer_is_an_error() -> Checked {
    let setup = Setup::new().await?;
    let (code, out, err) = teamgate(&setup, &["doctor", "--admin", "http://127.0.0.1:1"]).await?;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("does not answer"), "{err}");
    Ok(())
}
