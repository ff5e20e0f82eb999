//! The operators' address.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::keys::teamgate;
use crate::support::{Browser, Checked, Config, Request, Response, Setup, Wire, eventually, send};

/// The samples of a page in Prometheus' text format: name and labels as written, and the value.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks the gateway, and reads what it says to the letter.
    async fn of(setup: &Setup) -> Checked<Metrics> {
        let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?;
        page.expect(200)?;
        assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = page.text();
        let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or(line)?;
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').ok_or(line)?;
                let name = sample.split('{').next().unwrap_or("");
                let known = types.contains_key(name)
                    || ["_bucket", "_sum", "_count"].iter().any(|suffix| {
                        name.strip_suffix(suffix)
                            .is_some_and(|base| types.get(base).is_some_and(|kind| kind == "histogram"))
                    });
                assert!(known, "a sample without a type: {line}");
                assert!(sample.split('{').nth(1).is_none_or(well_formed), "{line}");
                assert!(samples.insert(sample.to_owned(), value.parse()?).is_none(), "twice: {line}");
            }
        }
        Ok(Metrics(samples))
    }

    /// The value of one sample; zero where it never happened.
    fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// How much more there is of `sample` than `before`.
    fn more(&self, before: &Metrics, sample: &str) -> f64 {
        self.get(sample) - before.get(sample)
    }
}

/// Whether `labels` is a list of names and quoted values up to the closing brace.
fn well_formed(labels: &str) -> bool {
    labels.strip_suffix("\"}").is_some_and(|labels| {
        labels.split("\",").all(|pair| {
            pair.split_once("=\"").is_some_and(|(name, value)| {
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !value.contains(['"', '\n'])
            })
        })
    })
}

fn requests(route: &str, decision: &str, status: &str) -> String {
    format!("teamgate_requests_total{{decision=\"{decision}\",route=\"{route}\",status=\"{status}\"}}")
}

#[tokio::test]
async fn it_says_that_the_gateway_lives_and_serves() -> Checked {
    let setup = Setup::new().await?;
    let ask =
        async |path: &str| -> Checked<Response> { send(&Request::get(&setup.gateway.admin_url(path))).await };
    assert_eq!(ask("/healthz").await?.expect(200)?.text(), "ok");
    eventually("it is ready", async || Ok(ask("/readyz").await?.status == 200)).await?;
    assert_eq!(ask("/readyz").await?.json()?, json!({ "ready": true, "missing": [] }));
    for path in ["/", "/.teamgate/", "/.teamgate/userinfo", "/public/a", "/metrics/", "/healthz/x", "/debug"]
    {
        ask(path).await?.expect(404)?;
    }
    for method in ["POST", "PUT", "DELETE"] {
        send(&Request::new(method, &setup.gateway.admin_url("/metrics"))).await?.expect(405)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_goes_down_is_alive_and_not_ready() -> Checked {
    let mut setup = Setup::with(Config::default().top("shutdown_grace: 60s")).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&Request::get(&setup.url("/public/hold")).bytes()).await?;
    eventually("the app has the request", async || Ok(!setup.upstream.received().is_empty())).await?;

    setup.gateway.process().signal_term()?;
    let (ready, alive) = (setup.gateway.admin_url("/readyz"), setup.gateway.admin_url("/healthz"));
    eventually("it is not ready any more", async || Ok(send(&Request::get(&ready)).await?.status == 503))
        .await?;
    let answer = send(&Request::get(&ready)).await?.json()?;
    assert_eq!(answer["ready"], false);
    assert_eq!(answer["missing"][0]["check"], "draining");
    send(&Request::get(&alive)).await?.expect(200)?;

    setup.upstream.release();
    wire.response().await?.expect(200)?;
    assert_eq!(setup.gateway.process().exit_code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_happens_to_requests_is_counted_by_route_decision_and_status() -> Checked {
    let setup = Setup::new().await?;
    let (ann, cleo) = (setup.signed_in("ann").await?, setup.signed_in("cleo").await?);
    let before = Metrics::of(&setup).await?;
    let nobody = Browser::new();
    for (browser, target, status) in [
        (&nobody, "/public/a", 200),
        (&nobody, "/public/status/404", 404),
        (&nobody, "/public/drop", 502),
        (&nobody, "/deploy", 302),
        (&nobody, "/%00", 400),
        (&ann, "/deploy", 200),
        (&ann, "/deploy/status/500", 500),
        (&ann, "/.teamgate/userinfo", 200),
        (&cleo, "/deploy", 403),
        (&cleo, "/deploy?again", 403),
    ] {
        browser.get(&setup.url(target)).await?.expect(status)?;
    }
    nobody.script(&setup.url("/deploy")).await?.expect(401)?;
    let expected = [
        (requests("public", "public", "2xx"), 1.0),
        (requests("public", "public", "4xx"), 1.0),
        (requests("public", "public", "5xx"), 1.0),
        (requests("deploy", "sign_in", "3xx"), 1.0),
        (requests("deploy", "sign_in", "4xx"), 1.0),
        (requests("deploy", "allow", "2xx"), 1.0),
        (requests("deploy", "allow", "5xx"), 1.0),
        (requests("deploy", "deny", "4xx"), 2.0),
        (requests("(none)", "bad_request", "4xx"), 1.0),
        (requests("(own)", "own", "2xx"), 1.0),
        ("teamgate_gate_seconds_count{route=\"deploy\"}".to_owned(), 6.0),
        ("teamgate_upstream_first_byte_seconds_count{route=\"deploy\"}".to_owned(), 2.0),
        ("teamgate_request_seconds_count{route=\"deploy\"}".to_owned(), 6.0),
        ("teamgate_request_seconds_bucket{route=\"deploy\",le=\"+Inf\"}".to_owned(), 6.0),
    ];
    eventually("everything is counted", async || {
        let now = Metrics::of(&setup).await?;
        Ok(expected.iter().all(|(sample, count)| now.more(&before, sample) == *count))
    })
    .await
    .map_err(|error| format!("{error}; wanted {expected:?}"))?;
    // An answer is counted when its last byte is out; nothing is left in flight but nobody's.
    eventually("nothing is in flight", async || {
        Ok(Metrics::of(&setup).await?.get("teamgate_requests_in_flight") == 0.0)
    })
    .await
}

#[tokio::test]
async fn sign_ins_calls_and_sessions_are_counted() -> Checked {
    let setup = Setup::new().await?;
    let before = Metrics::of(&setup).await?;
    setup.signed_in("ann").await?;
    let ben = setup.signed_in("ben").await?;
    // One who gives up, and one who comes with a state that nobody made.
    Browser::new().begin(&setup.url("/wiki")).await?;
    Browser::new().get(&setup.url("/.teamgate/callback?state=made-up&code=x")).await?;
    ben.plant("teamgate", &"A".repeat(64));
    ben.get(&setup.url("/wiki")).await?.expect(302)?;
    let now = Metrics::of(&setup).await?;
    for (sample, count) in [
        ("teamgate_sign_in_starts_total", 4.0),
        ("teamgate_sign_ins_total{outcome=\"ok\"}", 2.0),
        ("teamgate_sign_ins_total{outcome=\"bad_state\"}", 1.0),
        ("teamgate_bitbucket_calls_total{endpoint=\"token\",status=\"2xx\"}", 2.0),
        ("teamgate_bitbucket_calls_total{endpoint=\"user\",status=\"2xx\"}", 2.0),
        ("teamgate_bitbucket_calls_total{endpoint=\"emails\",status=\"2xx\"}", 2.0),
        ("teamgate_bitbucket_call_seconds_count{endpoint=\"token\"}", 2.0),
        ("teamgate_sessions", 2.0),
        ("teamgate_memberships{freshness=\"fresh\"}", 2.0),
        ("teamgate_bad_cookies_total{fault=\"forged\"}", 1.0),
        ("teamgate_config_routes", 5.0),
    ] {
        // Gauges are what they are, counters what came since.
        let gauge = ["teamgate_sessions", "teamgate_memberships", "teamgate_config"]
            .iter()
            .any(|g| sample.starts_with(g));
        let value = if gauge { now.get(sample) } else { now.more(&before, sample) };
        assert_eq!(value, count, "{sample}");
    }
    assert!(now.more(&before, "teamgate_store_operations_total{operation=\"session_write\"}") >= 2.0);
    assert!(now.0.keys().any(|sample| sample.starts_with("teamgate_build_info{")));
    assert!(now.0.keys().any(|sample| sample.starts_with("teamgate_config_info{hash=\"")));
    assert!(now.get("process_resident_memory_bytes") > 0.0);
    Ok(())
}

#[tokio::test]
async fn an_assertion_is_signed_once_and_then_taken_from_memory() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    let before = Metrics::of(&setup).await?;
    for _ in 0..10 {
        ann.get(&setup.url("/deploy")).await?.expect(200)?;
    }
    let now = Metrics::of(&setup).await?;
    assert_eq!(now.more(&before, "teamgate_assertions_total{source=\"signed\"}"), 1.0);
    assert_eq!(now.more(&before, "teamgate_assertions_total{source=\"cache\"}"), 9.0);
    Ok(())
}

/// threats 68: what is kept per label value must not be the client's to choose.
#[tokio::test]
async fn no_client_can_make_the_page_longer() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    // Everything that is going to be there once.
    for target in ["/public/a", "/%00", "/wiki/a", "/.teamgate/userinfo"] {
        ann.get(&setup.url(target)).await?;
        Browser::new().get(&setup.url(target)).await?;
    }
    let before = Metrics::of(&setup).await?;
    for number in 0..40 {
        let marked = format!("marked-{number}");
        for target in
            [format!("/public/{marked}?{marked}"), format!("/{marked}"), format!("/.teamgate/{marked}")]
        {
            let request = Request::new(&format!("MARKED{number}"), &setup.url(&target)).headers(&[
                ("Host", &format!("{marked}.example.com")),
                ("User-Agent", &marked),
                ("Cookie", &format!("teamgate={marked}")),
                ("X-Request-Id", &marked),
                ("X-Forwarded-Host", &marked),
            ]);
            send(&request).await?;
        }
        ann.get(&setup.url(&format!("/.teamgate/callback?state={marked}&error={marked}"))).await?;
        send(&Request::get(&setup.gateway.admin_url(&format!("/{marked}")))).await?;
    }
    let now = Metrics::of(&setup).await?;
    let new: Vec<&String> = now.0.keys().filter(|sample| !before.0.contains_key(*sample)).collect();
    assert!(new.len() < 10, "{new:?}");
    for sample in now.0.keys() {
        assert!(!sample.to_ascii_lowercase().contains("marked"), "{sample}");
    }
    Ok(())
}

#[tokio::test]
async fn the_keys_are_there_and_are_those_that_the_apps_are_told() -> Checked {
    let setup = Setup::new().await?;
    let here = send(&Request::get(&setup.gateway.admin_url("/.teamgate/jwks.json"))).await?;
    let there = send(&Request::get(&setup.url("/.teamgate/jwks.json"))).await?;
    assert_eq!(here.expect(200)?.json()?, there.expect(200)?.json()?);
    let keys = here.json()?["keys"].as_array().cloned().unwrap_or_default();
    assert!(!keys.is_empty());
    for key in keys {
        assert!(key["kid"].is_string() && key["alg"] == "ES256", "{key}");
        // Nothing of the private half.
        assert!(["d", "p", "q", "k"].iter().all(|secret| key.get(secret).is_none()), "{key}");
    }
    Ok(())
}

/// threats 67.
#[tokio::test]
async fn nothing_of_it_is_on_the_listener_for_browsers() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/.teamgate/metrics",
        "/.teamgate/healthz",
        "/.teamgate/../metrics",
    ] {
        Browser::new().script(&setup.url(path)).await?;
        let response = ann.get(&setup.url(path)).await?;
        assert!(!response.text().contains("teamgate_requests_total"), "{path}");
        // It is the app's, or nobody's.
        assert!(response.status == 404 || response.json()?["target"].is_string(), "{path}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn with_a_token_only_those_who_have_it_learn_anything() -> Checked {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    std::fs::write(&file, "an-admin-token-of-the-tests\n")?;
    let setup = Setup::with(
        Config::default().top(&format!("admin: {{ address: $ADMIN, token_file: {} }}", file.display())),
    )
    .await?;
    send(&Request::get(&setup.gateway.admin_url("/healthz"))).await?.expect(200)?;
    for path in ["/metrics", "/readyz", "/.teamgate/jwks.json", "/nothing"] {
        for (authorization, passes) in [
            ("", false),
            ("Bearer an-admin-token-of-the-test", false),
            ("Bearer an-admin-token-of-the-testsx", false),
            ("Basic an-admin-token-of-the-tests", false),
            ("Bearer an-admin-token-of-the-tests", true),
        ] {
            let request = Request::get(&setup.gateway.admin_url(path)).header("Authorization", authorization);
            assert_eq!(send(&request).await?.status != 401, passes, "{path} {authorization}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_there_is_made_for_its_owner_alone() -> Checked {
    let mut setup =
        Setup::with(Config::default().top("admin: { address: $ADMIN, token_file: admin.token }")).await?;
    let file = setup.gateway.folder().join("admin.token");
    let token = std::fs::read_to_string(&file)?.trim().to_owned();
    assert!(token.len() >= 43, "{} characters", token.len());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file)?) & 0o777, 0o600);
    setup.signed_in("ben").await?;
    for path in ["/api/sessions", "/api/keys", "/metrics"] {
        api(&setup, "GET", path).await?.expect(401)?;
        let request = Request::get(&setup.gateway.admin_url(path));
        send(&request.header("Authorization", &format!("Bearer {token}"))).await?.expect(200)?;
    }
    api(&setup, "DELETE", "/api/sessions?all=true").await?.expect(401)?;
    // The command line finds it where the configuration says, or is told.
    let (code, out, err) = teamgate(&setup, &["sessions", "list"]).await?;
    assert!(code == 0 && out.contains("Ben Berg"), "{out}{err}");
    let url = setup.gateway.admin_url("");
    let told = ["sessions", "list", "--admin", &url, "--token-file", "admin.token"];
    assert_eq!(teamgate(&setup, &told).await?.0, 0);
    let (code, _, err) = teamgate(&setup, &told[..4]).await?;
    assert!(code == 1 && err.contains("--token-file"), "{code} {err}");
    // It stays the same over a restart.
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    assert_eq!(std::fs::read_to_string(&file)?.trim(), token);
    assert!(!setup.gateway.stderr().iter().any(|line| line.contains(&token)));
    Ok(())
}

/// Asks the operators' API as a program does.
async fn api(setup: &Setup, method: &str, path: &str) -> Checked<Response> {
    send(&Request::new(method, &setup.gateway.admin_url(path))).await
}

async fn listed(setup: &Setup, query: &str) -> Checked<Vec<Value>> {
    let page = api(setup, "GET", &format!("/api/sessions{query}")).await?;
    Ok(page.expect(200)?.json()?["sessions"].as_array().cloned().unwrap_or_default())
}

const ANN: &str = "a0000000-0000-4000-8000-0000000000a1";
const BEN: &str = "b0000000-0000-4000-8000-0000000000b1";

#[tokio::test]
async fn operators_see_who_is_signed_in_and_nothing_that_opens_a_door() -> Checked {
    let setup = Setup::new().await?;
    let (ann, ben) = (setup.signed_in("ann").await?, setup.signed_in("ben").await?);
    let all = listed(&setup, "").await?;
    assert_eq!(all.len(), 2);
    let session = listed(&setup, &format!("?account={BEN}")).await?.pop().ok_or("none")?;
    assert_eq!((&session["name"], &session["nickname"]), (&"Ben Berg".into(), &"ben".into()));
    assert_eq!((&session["account"], &session["address"]), (&BEN.into(), &"127.0.0.1".into()));
    assert!(session["user_agent"].as_str().is_some_and(|agent| agent.contains("Chrome")));
    // By the name that logs, apps and the person know it by.
    let info = ben.script(&setup.url("/.teamgate/userinfo")).await?.json()?;
    assert_eq!(session["id"], info["session"]["id"]);
    assert_eq!(setup.gateway.recorded("signed_in", 2).await?[1]["session"], session["id"]);

    let id = session["id"].as_str().ok_or("no id")?;
    let page = api(&setup, "GET", &format!("/api/sessions/{id}")).await?;
    let facts = page.expect(200)?.json()?;
    assert_eq!(facts["email"], "ben@example.com");
    assert!(facts["groups"].as_array().is_some_and(|groups| groups.contains(&"acme".into())), "{facts}");
    assert!(facts["groups_as_of"].is_string() && facts["expires_at"].is_string());
    for browser in [&ann, &ben] {
        let cookie = browser.session()?;
        assert!(!page.text().contains(&cookie) && !json!(all).to_string().contains(&cookie[..20]));
    }
    // What names it is no cookie, either.
    let thief = Browser::new();
    thief.plant("teamgate", id);
    thief.script(&setup.url("/")).await?.expect(401)?;

    for (query, count) in [
        ("?account=ben", 1),
        ("?account=Ben%40Example.com", 1),
        ("?account=c0000000-0000-4000-8000-0000000000c1", 0),
        ("?group=acme", 2),
        ("?group=acme/administrators", 1),
        ("?group=acme%2Fmembers", 2),
        ("?group=nobody", 0),
    ] {
        assert_eq!(listed(&setup, query).await?.len(), count, "{query}");
    }
    for (path, status) in [
        ("/api/sessions/0123456789abcdef", 404),
        ("/api/sessions/x", 400),
        ("/api/sessions?account=nobody", 404),
        ("/api/sessions?group=acme/owners", 400),
        ("/api/sessions?acount=ben", 400),
        ("/api/sessions?limit=0", 400),
        ("/api/sessions?limit=1001", 400),
        ("/api/sessions?limit=1&limit=2", 400),
        ("/api/sessions?account=ben&group=acme", 400),
        ("/api/sessions?after=x", 400),
        ("/api/nothing", 404),
    ] {
        let page = api(&setup, "GET", path).await?;
        let problem = page.expect(status)?.json()?;
        assert_eq!(page.header("content-type"), Some("application/problem+json"), "{path}");
        assert!(problem["detail"].is_string() && problem["status"] == status, "{path}: {problem}");
    }
    api(&setup, "PUT", "/api/sessions").await?.expect(405)?;
    Ok(())
}

#[tokio::test]
async fn a_long_list_comes_in_pages_and_each_session_once() -> Checked {
    let setup = Setup::new().await?;
    for user in ["ann", "ben", "cleo", "ben", "ann", "ben", "cleo"] {
        setup.signed_in(user).await?;
    }
    for (filter, expected) in [("", 7), ("&account=ben", 3), ("&group=globex", 2)] {
        let (mut ids, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = api(&setup, "GET", &format!("/api/sessions?limit=2{filter}{after}")).await?;
            let page = page.expect(200)?.json()?;
            let found = page["sessions"].as_array().cloned().unwrap_or_default();
            assert!(found.len() <= 2, "{page}");
            ids.extend(found.into_iter().map(|session| session["id"].to_string()));
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!((ids.len(), distinct.len()), (expected, expected), "{filter}: {ids:?}");
        assert!(pages <= expected / 2 + 1, "{filter}: {pages} pages");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_an_operator_ends_is_over_at_the_next_request_and_others_go_on() -> Checked {
    let mut setup = Setup::new().await?;
    let (one, other) = (setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    let info = one.script(&setup.url("/.teamgate/userinfo")).await?.json()?;
    let id = info["session"]["id"].as_str().ok_or("no id")?;
    let path = format!("/api/sessions/{id}?by=olga&why=a%20stolen%20laptop");
    let ended = api(&setup, "DELETE", &path).await?;
    assert_eq!(ended.expect(200)?.json()?, json!({ "sessions": 1, "accounts": 1 }));
    one.script(&setup.url("/")).await?.expect(401)?;
    other.script(&setup.url("/")).await?.expect(200)?;
    api(&setup, "DELETE", &path).await?.expect(404)?;
    let record = &setup.gateway.recorded("sessions_revoked", 1).await?[0];
    assert_eq!(
        [&record["scope"], &record["session"], &record["account"], &record["by"], &record["why"]],
        ["session", id, BEN, "olga", "a stolen laptop"]
    );
    assert_eq!((&record["client"], &record["count"]), (&"127.0.0.1".into(), &1.into()));
    assert_eq!(Metrics::of(&setup).await?.get("teamgate_sessions_ended_total{reason=\"revoked\"}"), 1.0);
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    one.script(&setup.url("/")).await?.expect(401)?;
    other.script(&setup.url("/")).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn sessions_end_by_account_by_group_or_all_and_only_those() -> Checked {
    let mut setup = Setup::new().await?;
    let mut browsers = Vec::new();
    for user in ["ann", "ben", "ben", "cleo"] {
        browsers.push(setup.signed_in(user).await?);
    }
    let signed_in = async |setup: &Setup| -> Checked<Vec<bool>> {
        let mut found = Vec::new();
        for browser in &browsers {
            found.push(browser.script(&setup.url("/lobby")).await?.status == 200);
        }
        Ok(found)
    };
    // What does not say whose ends nobody's.
    for query in
        ["", "?all", "?all=yes", "?all=1", "?account=ben&all=true", "?group=", "?account=", "?al=true"]
    {
        let status = api(&setup, "DELETE", &format!("/api/sessions{query}")).await?.status;
        assert!([400, 404].contains(&status), "{query}: {status}");
    }
    assert_eq!(signed_in(&setup).await?, [true; 4]);

    let end = async |setup: &Setup, query: &str| -> Checked<Value> {
        api(setup, "DELETE", &format!("/api/sessions?{query}")).await?.expect(200)?.json()
    };
    assert_eq!(end(&setup, "account=ben").await?, json!({ "sessions": 2, "accounts": 1 }));
    assert_eq!(signed_in(&setup).await?, [true, false, false, true]);
    assert_eq!(end(&setup, "group=acme/administrators").await?, json!({ "sessions": 1, "accounts": 1 }));
    assert_eq!(signed_in(&setup).await?, [false, false, false, true]);
    // Who was signed out may sign in again.
    let again = setup.signed_in("ben").await?;
    assert_eq!(end(&setup, "all=true").await?, json!({ "sessions": 2, "accounts": 2 }));
    assert_eq!(signed_in(&setup).await?, [false; 4]);
    again.script(&setup.url("/lobby")).await?.expect(401)?;
    assert_eq!(listed(&setup, "").await?.len(), 0);
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    assert_eq!(signed_in(&setup).await?, [false; 4]);

    let records = setup.gateway.recorded("sessions_revoked", 3).await?;
    let scopes: Vec<_> = records.iter().map(|record| (&record["scope"], &record["group"])).collect();
    let (null, group) = (Value::Null, Value::from("acme/administrators"));
    assert_eq!(scopes, [(&"account".into(), &null), (&"group".into(), &group), (&"all".into(), &null)]);
    let each = setup.gateway.audited("sessions_ended");
    let accounts: Vec<_> = each.iter().map(|record| (&record["account"], &record["reason"])).collect();
    let revoked = Value::from("revoked");
    assert_eq!(accounts.len(), 4);
    assert_eq!(accounts[..2], [(&BEN.into(), &revoked), (&ANN.into(), &revoked)]);
    Ok(())
}

#[tokio::test]
async fn a_nickname_that_several_have_names_nobody() -> Checked {
    let setup = Setup::new().await?;
    setup.simulator.with(|world| -> Checked {
        world.user_mut("cleo")?.nickname = Some("ben".to_owned());
        Ok(())
    })?;
    let (ben, cleo) = (setup.signed_in("ben").await?, setup.signed_in("cleo").await?);
    let answer = api(&setup, "DELETE", "/api/sessions?account=ben").await?;
    let problem = answer.expect(409)?.json()?;
    let candidates = problem["candidates"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<&str> = candidates.iter().filter_map(|candidate| candidate["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Ben Berg", "Cleo Costa"], "{problem}");
    for browser in [&ben, &cleo] {
        browser.script(&setup.url("/lobby")).await?.expect(200)?;
    }
    let answer = api(&setup, "DELETE", &format!("/api/sessions?account={BEN}")).await?;
    assert_eq!(answer.expect(200)?.json()?["sessions"], 1);
    cleo.script(&setup.url("/lobby")).await?.expect(200)?;
    Ok(())
}

/// Without a token, whoever sits at the machine has a browser, and pages from anywhere can make it call.
#[tokio::test]
async fn a_page_in_a_browser_ends_nobodys_session() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let port = setup.gateway.admin_address().port();
    let rebound = format!("evil.example:{port}");
    let rows: [&[(&str, &str)]; 6] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Content-Type", "text/plain")],
        &[("Host", &rebound)],
    ];
    for headers in rows {
        for (method, path) in [
            ("DELETE", "/api/sessions?all=true"),
            ("POST", "/api/keys/signing?now=true"),
            ("GET", "/api/sessions"),
        ] {
            let request = Request::new(method, &setup.gateway.admin_url(path)).headers(headers);
            let answer = send(&request).await?;
            assert!(!answer.expect(403)?.text().contains("Ben"), "{method} {path} {headers:?}");
        }
    }
    ben.script(&setup.url("/")).await?.expect(200)?;
    assert!(setup.gateway.audited("keys_distrusted").is_empty());
    // And none of it is on the listener for browsers.
    let answer = ben.script(&setup.url("/api/sessions")).await?;
    assert_eq!(answer.expect(200)?.json()?["target"], "/api/sessions", "it is the app's");
    Ok(())
}

#[tokio::test]
async fn the_command_line_lists_shows_and_ends_sessions() -> Checked {
    let setup = Setup::new().await?;
    let (ann, ben) = (setup.signed_in("ann").await?, setup.signed_in("ben").await?);
    let (code, out, err) = teamgate(&setup, &["sessions", "list"]).await?;
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert_eq!(out.lines().count(), 3, "{out}");
    for part in ["ID", "LAST USED", "Ann Abel (ann)", "Ben Berg (ben)", "127.0.0.1", "Chrome on Linux"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let (_, out, _) = teamgate(&setup, &["sessions", "list", "--account", "ben", "--json"]).await?;
    let found: Value = serde_json::from_str(&out)?;
    let id = found["sessions"][0]["id"].as_str().ok_or("no id")?;
    let (code, out, _) = teamgate(&setup, &["sessions", "show", id]).await?;
    assert!(code == 0 && out.contains("ben@example.com") && out.contains("acme/members"), "{out}");
    let (_, out, _) = teamgate(&setup, &["sessions", "list", "--limit", "1"]).await?;
    assert!(out.contains("… and more"), "{out}");

    let (code, out, _) =
        teamgate(&setup, &["sessions", "revoke", "--id", id, "--why", "a stolen laptop"]).await?;
    assert_eq!((code, &*out), (0, "1 session of 1 account ended"));
    ben.script(&setup.url("/")).await?.expect(401)?;
    assert_eq!(setup.gateway.recorded("sessions_revoked", 1).await?[0]["why"], "a stolen laptop");

    // Everybody only if it is meant: there is no terminal to ask on.
    let (code, _, err) = teamgate(&setup, &["sessions", "revoke", "--all"]).await?;
    assert!(code == 1 && err.contains("--yes"), "{code} {err}");
    ann.script(&setup.url("/")).await?.expect(200)?;
    let (code, out, _) = teamgate(&setup, &["sessions", "revoke", "--all", "--yes", "--json"]).await?;
    assert_eq!((code, serde_json::from_str::<Value>(&out)?), (0, json!({ "sessions": 1, "accounts": 1 })));
    ann.script(&setup.url("/")).await?.expect(401)?;

    for (arguments, expected, said) in [
        (&["sessions", "revoke"][..], 2, "--all"),
        (&["sessions", "revoke", "--all", "--id", "a"], 2, "cannot be used with"),
        (&["sessions"], 2, "list"),
        (&["sessions", "show", "0123456789abcdef"], 1, "there is no session"),
        (&["sessions", "show", "../keys"], 1, "no id of a session"),
        (&["sessions", "revoke", "--account", "nobody"], 1, "nobody who is signed in"),
        (&["sessions", "list", "--admin", "https://127.0.0.1"], 1, "plain http"),
        (&["sessions", "list", "--admin", "http://127.0.0.1:1"], 3, "is it running"),
        (&["sessions", "list", "--config", "nowhere.yaml"], 1, "nowhere.yaml"),
    ] {
        let (code, _, err) = teamgate(&setup, arguments).await?;
        assert!(code == expected && err.contains(said), "{arguments:?}: {code} {err}");
    }
    // Another program has the port.
    let url = setup.upstream.url();
    let (code, _, err) = teamgate(&setup, &["sessions", "list", "--admin", &url]).await?;
    assert!(code == 3 && err.contains("no gateway of this version"), "{code} {err}");
    Ok(())
}
