//! gRPC through the gateway, between a real client and a real app.

use serde_json::Value;

use crate::support::grpc::{Call, GrpcApp, calls, values};
use crate::support::{Browser, Checked, Config, Setup, free_address};

const ANN: &str = "a0000000-0000-4000-8000-0000000000a1";

// https://grpc.io/docs/guides/status-codes/
const OK: u64 = 0;
const DEADLINE_EXCEEDED: u64 = 4;
const PERMISSION_DENIED: u64 = 7;
const FAILED_PRECONDITION: u64 = 9;
const DATA_LOSS: u64 = 15;
const UNIMPLEMENTED: u64 = 12;
const UNAVAILABLE: u64 = 14;
const UNAUTHENTICATED: u64 = 16;

/// `test.Public` for all, `test.Team` for `acme`, `test.Admin` for its administrators, `test.Down` at a closed port.
async fn setup(app: &GrpcApp) -> Checked<Setup> {
    let (url, closed) = (app.url(), free_address()?);
    let config = Config::default().top("listen: [{ address: $LISTEN, h2c: true }]").routes(&format!(
        "
- {{ name: public, path: /test.Public, access: public, upstream: \"{url}\" }}
- {{ name: team, path: /test.Team, teams: [acme], upstream: \"{url}\" }}
- {{ name: admin, path: /test.Admin, teams: [acme/administrators], upstream: \"{url}\" }}
- {{ name: down, path: /test.Down, access: public, upstream: \"h2c://{closed}\" }}
- {{ name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }}
"
    ));
    Setup::with(config).await
}

fn cookie(browser: &Browser) -> Checked<String> {
    Ok(format!("teamgate={}", browser.session()?))
}

#[tokio::test]
async fn calls_of_every_kind_pass_with_metadata_and_trailers() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let cookie = cookie(&setup.signed_in("ann").await?)?;
    let big = "x".repeat(3_000_000);
    let mut all = Vec::new();
    for service in ["Public", "Team", "Admin"] {
        for (method, kind, messages) in [
            ("Unary", "unary_unary", vec!["hello"]),
            ("Unary", "unary_unary", vec![""]),
            ("Unary", "unary_unary", vec![big.as_str()]),
            ("ServerStream", "unary_stream", vec!["100"]),
            ("ServerStream", "unary_stream", vec!["0"]),
            ("ClientStream", "stream_unary", vec!["one", "two", "three"]),
            ("ClientStream", "stream_unary", vec![]),
            ("Bidi", "stream_stream", vec!["one", "two", "three"]),
        ] {
            let call = Call::new(&format!("/test.{service}/{method}"), kind, &messages);
            all.push(call.metadata("cookie", &cookie));
        }
    }
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let expected: Vec<Vec<&str>> = vec![
        vec!["hello"],
        vec![""],
        vec![&big],
        numbers.iter().map(String::as_str).collect(),
        vec![],
        vec!["onetwothree"],
        vec![""],
        vec!["echo one", "echo two", "echo three"],
    ];
    let came = calls(setup.gateway.address(), &all).await?;
    assert_eq!(came.len(), all.len());
    for (number, came) in came.iter().enumerate() {
        assert_eq!((came.code(), came.details()), (OK, ""), "call {number}");
        assert!(came.messages() == expected[number % expected.len()], "call {number}");
        assert_eq!(came.initial("x-initial"), ["begin"], "call {number}");
        assert_eq!(came.trailing("x-trailer"), ["end"], "call {number}");
        assert_eq!(came.trailing("x-binary-bin"), ["00ff"], "call {number}");
    }
    Ok(())
}

#[tokio::test]
async fn an_apps_own_status_arrives() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let came = calls(
        setup.gateway.address(),
        &[
            Call::new("/test.Public/Fail", "unary_unary", &["x"]),
            Call::new("/test.Public/FailInTheMiddle", "unary_stream", &["x"]),
            Call::new("/test.Public/Nothing", "unary_unary", &["x"]),
            // The channel is still good.
            Call::new("/test.Public/Unary", "unary_unary", &["x"]),
        ],
    )
    .await?;
    assert_eq!((came[0].code(), came[0].details()), (FAILED_PRECONDITION, "not yet: ä, %, \n"));
    assert_eq!(came[0].trailing("x-trailer"), ["end"]);
    assert_eq!((came[1].code(), came[1].details()), (DATA_LOSS, "lost"));
    assert_eq!(came[1].messages(), ["first"]);
    assert_eq!(came[2].code(), UNIMPLEMENTED);
    assert_eq!((came[3].code(), came[3].messages()), (OK, vec!["x"]));
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_told_with_a_status() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let ben = cookie(&setup.signed_in("ben").await?)?;
    let cleo = cookie(&setup.signed_in("cleo").await?)?;
    let rows = [
        ("/test.Team/Unary", "", UNAUTHENTICATED),
        ("/test.Team/Unary", "teamgate=forged", UNAUTHENTICATED),
        ("/test.Team/Unary", cleo.as_str(), PERMISSION_DENIED),
        ("/test.Admin/Unary", ben.as_str(), PERMISSION_DENIED),
        ("/test.Team/Unary", ben.as_str(), OK),
        ("/test.Down/Unary", "", UNAVAILABLE),
        ("/test.Nowhere/Unary", "", UNIMPLEMENTED),
        ("/test.Public/Unary", "", OK),
    ];
    let mut all = Vec::new();
    for (method, cookie, _) in &rows {
        for (kind, messages) in [("unary_unary", vec!["x"]), ("stream_stream", vec!["x", "y"])] {
            let method =
                if kind == "unary_unary" { (*method).to_owned() } else { method.replace("Unary", "Bidi") };
            let call = Call::new(&method, kind, &messages);
            all.push(if cookie.is_empty() { call } else { call.metadata("cookie", cookie) });
        }
    }
    let came = calls(setup.gateway.address(), &all).await?;
    for ((method, _, code), came) in rows.iter().zip(came.chunks(2)) {
        for came in came {
            assert_eq!(came.code(), *code, "{method}: {came:?}");
            assert_eq!(came.details().is_empty(), *code == OK, "{method}: {came:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_identity_arrives_as_metadata_and_none_that_a_client_made_up() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let cookie = cookie(&setup.signed_in("ann").await?)?;
    let spoofed = |call: Call| {
        ["x-forwarded-user", "x_forwarded_user", "x.forwarded.user", "x-teamgate-assertion", "remote-user"]
            .into_iter()
            .fold(call, |call, name| call.metadata(name, "root"))
            .metadata("x-own", "kept")
    };
    let team = Call::new("/test.Team/Told", "unary_unary", &["x"]).metadata("cookie", &cookie);
    let public = Call::new("/test.Public/Told", "unary_unary", &["x"]).metadata("cookie", &cookie);
    let came = calls(
        setup.gateway.address(),
        &[
            spoofed(team).metadata("cookie", "a=1"),
            spoofed(public),
            Call::new("/test.Public/Told", "unary_unary", &["x"]).within(20.0),
        ],
    )
    .await?;
    let told: Vec<Value> = came
        .iter()
        .map(|came| {
            serde_json::from_str(came.messages().first().copied().unwrap_or("null"))
                .map_err(|_| format!("{came:?}"))
        })
        .collect::<Result<_, _>>()?;
    let team = &told[0]["metadata"];
    assert_eq!(values(team, "x-forwarded-user"), [ANN]);
    assert_eq!(values(team, "x-teamgate-assertion").len(), 1);
    assert_eq!(values(team, "x-own"), ["kept"]);
    // Ours stays here.
    assert_eq!(values(team, "cookie"), ["a=1"]);
    for told in &told[..2] {
        assert!(!told.to_string().contains("root"), "{told}");
    }
    assert_eq!(values(&told[1]["metadata"], "x-forwarded-user"), [""; 0]);
    assert_eq!(values(&told[1]["metadata"], "cookie"), [""; 0]);
    // A deadline is the app's to know.
    let remaining = told[2]["remaining"].as_f64().unwrap_or(0.0);
    assert!((1.0..=21.0).contains(&remaining), "{remaining}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_the_app() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let came = calls(
        setup.gateway.address(),
        &[
            Call::new("/test.Public/Slow", "unary_stream", &["x"]).within(1.0),
            Call::new("/test.Public/WasCancelled", "unary_unary", &["x"]),
        ],
    )
    .await?;
    assert_eq!((came[0].code(), came[0].messages()), (DEADLINE_EXCEEDED, vec!["first"]));
    assert_eq!(came[1].messages(), ["yes"]);
    Ok(())
}

#[tokio::test]
async fn many_calls_at_once_on_one_channel_are_each_their_own() -> Checked {
    let app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let words: Vec<String> = (0..20).map(|number| format!("{number}-{}", "x".repeat(number * 100))).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let all = [
        Call::new("/test.Public/Bidi", "stream_stream", &words).at_once(30),
        Call::new("/test.Public/ServerStream", "unary_stream", &["500"]).at_once(30),
    ];
    let came = calls(setup.gateway.address(), &all).await?;
    assert_eq!(came.len(), 60);
    for came in &came[..30] {
        let expected: Vec<String> = words.iter().map(|word| format!("echo {word}")).collect();
        assert_eq!((came.code(), came.messages()), (OK, expected.iter().map(String::as_str).collect()));
    }
    for came in &came[30..] {
        assert_eq!((came.code(), came.messages().len()), (OK, 500));
    }
    Ok(())
}

#[tokio::test]
async fn an_app_that_dies_in_the_middle_of_a_call_is_unavailable() -> Checked {
    let mut app = GrpcApp::start().await?;
    let setup = setup(&app).await?;
    let address = setup.gateway.address();
    let slow = [Call::new("/test.Public/Slow", "unary_stream", &["x"])];
    let call = tokio::spawn(async move { calls(address, &slow).await });
    crate::support::eventually("the call is under way", async || {
        let metrics = Browser::new().get(&setup.gateway.admin_url("/metrics")).await?.text();
        Ok(metrics.lines().any(|line| line == "teamgate_requests_in_flight 1"))
    })
    .await?;
    app.kill()?;
    let came = call.await??;
    assert!(![OK, DEADLINE_EXCEEDED].contains(&came[0].code()), "{came:?}");
    let came = calls(address, &[Call::new("/test.Public/Unary", "unary_unary", &["x"])]).await?;
    assert_eq!(came[0].code(), UNAVAILABLE, "{came:?}");
    Ok(())
}
