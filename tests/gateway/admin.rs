//! The operators' address.

use std::collections::BTreeMap;

use serde_json::json;

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
