//! HTTP/2 from clients: what it makes of hostile frames, and that apps of HTTP/1.1 see nothing of them.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::h2wire::{Field, H2, Outcome, PREFACE, block, flag, frame, kind, request, setting};
use crate::support::{Blunt, Checked, Config, PATIENCE, Request, Setup, Wire, eventually, send};

const HOST: &str = "wiki.example.com";
const ANN: &str = "a0000000-0000-4000-8000-0000000000a1";
const BEN: &str = "b0000000-0000-4000-8000-0000000000b1";

fn config() -> Config {
    Config::default().top("listen: [{ address: $LISTEN, h2c: true }]")
}

async fn setup() -> Checked<Setup> {
    Setup::with(config()).await
}

/// What the app may see of a head.
enum Seen {
    /// Nothing; and the client gets a refusal: 400, 405, a reset, or the end of the connection.
    Nothing,
    /// A request with exactly this start line, which is answered.
    Start(&'static str),
}

/// Pseudo fields: method, scheme, authority, path.
type Pseudo = [&'static [u8]; 4];

const GET: &[u8] = b"GET";
const HTTP: &[u8] = b"http";
const WIKI: &[u8] = b"wiki.example.com";
const X: &[u8] = b"/public/x";
const PLAIN: Pseudo = [GET, HTTP, WIKI, X];
const PASSES: Seen = Seen::Start("GET /public/x HTTP/1.1");

/// threats 8 and 15: (what, the pseudo fields, what follows them, what the app sees).
#[rustfmt::skip]
const HEADS: &[(&str, Pseudo, &[Field<'static>], Seen)] = &[
    ("a plain one", PLAIN, &[], PASSES),
    ("CRLF in a value", PLAIN, &[(b"x", b"y\r\nz: 1")], Seen::Nothing),
    ("LF in a value", PLAIN, &[(b"x", b"y\nz: 1")], Seen::Nothing),
    ("CR in a value", PLAIN, &[(b"x", b"y\rz: 1")], Seen::Nothing),
    ("NUL in a value", PLAIN, &[(b"x", b"y\0z")], Seen::Nothing),
    ("a request in a value", PLAIN, &[(b"x", b"y\r\n\r\nGET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n")], Seen::Nothing),
    ("CRLF in a name", PLAIN, &[(b"x\r\nz", b"y")], Seen::Nothing),
    ("LF in a name", PLAIN, &[(b"x\nz", b"y")], Seen::Nothing),
    ("a field in a name", PLAIN, &[(b"x: y\r\nz", b"y")], Seen::Nothing),
    ("a colon in a name", PLAIN, &[(b"x:y", b"y")], Seen::Nothing),
    ("a colon behind a name", PLAIN, &[(b"content-length:", b"5")], Seen::Nothing),
    ("a blank in a name", PLAIN, &[(b"x y", b"y")], Seen::Nothing),
    ("a blank behind a name", PLAIN, &[(b"transfer-encoding ", b"chunked")], Seen::Nothing),
    ("NUL in a name", PLAIN, &[(b"x\0y", b"y")], Seen::Nothing),
    ("capitals in a name", PLAIN, &[(b"X-Upper", b"y")], Seen::Nothing),
    ("no name", PLAIN, &[(b"", b"y")], Seen::Nothing),
    ("a name beyond ASCII", PLAIN, &[(b"x\xe9", b"y")], Seen::Nothing),
    ("an unknown pseudo field", PLAIN, &[(b":x", b"y")], Seen::Nothing),
    ("a pseudo field behind others", PLAIN, &[(b"x", b"y"), (b":path", b"/lobby")], Seen::Nothing),
    ("the pseudo field of answers", PLAIN, &[(b":status", b"200")], Seen::Nothing),
    ("two paths", PLAIN, &[(b":path", b"/lobby")], Seen::Nothing),
    ("two methods", PLAIN, &[(b":method", b"POST")], Seen::Nothing),
    ("two schemes", PLAIN, &[(b":scheme", b"https")], Seen::Nothing),
    ("two authorities", PLAIN, &[(b":authority", b"deploy.example.com")], Seen::Nothing),
    ("the same host besides", PLAIN, &[(b"host", WIKI)], PASSES),
    ("another host besides", PLAIN, &[(b"host", b"evil.example")], Seen::Nothing),
    ("the same host twice", PLAIN, &[(b"host", WIKI), (b"host", WIKI)], Seen::Nothing),
    ("an empty host besides", PLAIN, &[(b"host", b"")], Seen::Nothing),
    ("an empty path", [GET, HTTP, WIKI, b""], &[], Seen::Nothing),
    ("a path without a slash", [GET, HTTP, WIKI, b"public/x"], &[], Seen::Nothing),
    ("a star", [GET, HTTP, WIKI, b"*"], &[], Seen::Nothing),
    ("OPTIONS and a star", [b"OPTIONS", HTTP, WIKI, b"*"], &[], Seen::Nothing),
    ("an absolute path", [GET, HTTP, WIKI, b"http://wiki.example.com/public/x"], &[], Seen::Nothing),
    ("an absolute path elsewhere", [GET, HTTP, WIKI, b"http://evil.example/public/x"], &[], Seen::Nothing),
    ("a path of another scheme", [GET, HTTP, WIKI, b"x:/public/x"], &[], Seen::Nothing),
    ("a query for a path", [GET, HTTP, WIKI, b"?x"], &[], Seen::Nothing),
    ("CRLF in a path", [GET, HTTP, WIKI, b"/public/x HTTP/1.1\r\nx: y"], &[], Seen::Nothing),
    ("LF in a path", [GET, HTTP, WIKI, b"/public/x\nx: y"], &[], Seen::Nothing),
    ("a blank in a path", [GET, HTTP, WIKI, b"/public/x HTTP/1.1"], &[], Seen::Nothing),
    ("NUL in a path", [GET, HTTP, WIKI, b"/public/\0x"], &[], Seen::Nothing),
    ("a tab in a path", [GET, HTTP, WIKI, b"/public/\tx"], &[], Seen::Nothing),
    ("a backslash for a slash", [GET, HTTP, WIKI, b"\\public/x"], &[], Seen::Nothing),
    ("a path that is not UTF-8", [GET, HTTP, WIKI, b"/public/\xff"], &[], Seen::Nothing),
    ("an encoded slash", [GET, HTTP, WIKI, b"/public/..%2flobby"], &[], Seen::Nothing),
    ("a parameter", [GET, HTTP, WIKI, b"/public/..;/lobby"], &[], Seen::Nothing),
    ("a step out", [GET, HTTP, WIKI, b"/public/../lobby"], &[], Seen::Nothing),
    ("a step in", [GET, HTTP, WIKI, b"/lobby/%2e%2e/public/x"], &[], PASSES),
    ("a fragment", [GET, HTTP, WIKI, b"/public/x#/../lobby"], &[], PASSES),
    ("a path that looks like a host", [GET, HTTP, WIKI, b"//evil.example/public/x"], &[], Seen::Nothing),
    ("a request line for a method", [b"GET /public/smuggled HTTP/1.1", HTTP, WIKI, X], &[], Seen::Nothing),
    ("CRLF in a method", [b"GET\r\nx: y", HTTP, WIKI, X], &[], Seen::Nothing),
    ("an empty method", [b"", HTTP, WIKI, X], &[], Seen::Nothing),
    ("TRACE", [b"TRACE", HTTP, WIKI, X], &[], Seen::Nothing),
    ("CONNECT with a path", [b"CONNECT", HTTP, WIKI, X], &[], Seen::Nothing),
    ("extended CONNECT (RFC 8441)", [b"CONNECT", HTTP, WIKI, b"/public/websocket"], &[(b":protocol", b"websocket")], Seen::Nothing),
    ("a protocol without CONNECT", PLAIN, &[(b":protocol", b"websocket")], Seen::Nothing),
    ("CRLF in a scheme", [GET, b"http\r\nx: y", WIKI, X], &[], Seen::Nothing),
    ("a URL for a scheme", [GET, b"http://evil.example/", WIKI, X], &[], Seen::Nothing),
    // What clients say of the scheme decides nothing.
    ("no scheme", [GET, b"", WIKI, X], &[], PASSES),
    ("a scheme that is not ours", [GET, b"https", WIKI, X], &[], PASSES),
    ("a blank in the authority", [GET, HTTP, b"wiki.example.com evil", X], &[], Seen::Nothing),
    ("CRLF in the authority", [GET, HTTP, b"wiki.example.com\r\nx: y", X], &[], Seen::Nothing),
    ("a path in the authority", [GET, HTTP, b"wiki.example.com/evil", X], &[], Seen::Nothing),
    ("two authorities in one", [GET, HTTP, b"wiki.example.com,evil.example", X], &[], Seen::Nothing),
    ("somebody at the authority", [GET, HTTP, b"a@wiki.example.com", X], &[], Seen::Nothing),
    ("an empty authority", [GET, HTTP, b"", X], &[], Seen::Nothing),
    ("an authority in capitals", [GET, HTTP, b"WIKI.Example.com.", X], &[], PASSES),
    ("connection", PLAIN, &[(b"connection", b"close")], Seen::Nothing),
    ("connection that nominates", PLAIN, &[(b"connection", b"x-forwarded-for")], Seen::Nothing),
    ("keep-alive", PLAIN, &[(b"keep-alive", b"1")], Seen::Nothing),
    ("proxy-connection", PLAIN, &[(b"proxy-connection", b"close")], Seen::Nothing),
    ("upgrade", PLAIN, &[(b"upgrade", b"websocket")], Seen::Nothing),
    ("transfer-encoding", PLAIN, &[(b"transfer-encoding", b"chunked")], Seen::Nothing),
    ("another transfer-encoding", PLAIN, &[(b"transfer-encoding", b"identity")], Seen::Nothing),
    ("te: trailers", PLAIN, &[(b"te", b"trailers")], PASSES),
    ("te: gzip", PLAIN, &[(b"te", b"gzip")], Seen::Nothing),
    ("a length without a body", PLAIN, &[(b"content-length", b"5")], Seen::Nothing),
    ("two lengths", PLAIN, &[(b"content-length", b"0"), (b"content-length", b"0")], Seen::Nothing),
    ("a length with a sign", PLAIN, &[(b"content-length", b"+0")], Seen::Nothing),
    ("what looks like framing", PLAIN, &[(b"transfer_encoding", b"chunked"), (b"content_length", b"5")], PASSES),
    ("what looks like an identity", PLAIN, &[(b"x_forwarded_user", b"root"), (b"x-forwarded-user", b"root"), (b"remote_user", b"root")], PASSES),
    ("settings of an upgrade", PLAIN, &[(b"http2-settings", b"AAMAAABkAARAAAAAAAIAAAAA")], PASSES),
];

#[tokio::test]
async fn an_app_sees_a_plain_request_or_none() -> Checked {
    let setup = setup().await?;
    let names: [&[u8]; 4] = [b":method", b":scheme", b":authority", b":path"];
    for (what, pseudo, more, seen) in HEADS {
        let before = setup.upstream.received().len();
        let mut fields: Vec<Field<'_>> = names.into_iter().zip(*pseudo).collect();
        fields.extend_from_slice(more);
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        h2.head(1, &fields, flag::END_STREAM).await?;
        let outcome = h2.outcome(1).await?;
        let received = setup.upstream.received();
        let now = &received[before..];
        match seen {
            Seen::Start(line) => {
                assert_eq!(outcome.status(), 200, "{what}: {outcome:?}");
                assert_eq!(now.len(), 1, "{what}");
                let head = String::from_utf8_lossy(&now[0].head).to_ascii_lowercase();
                assert!(head.starts_with(&format!("{}\r\n", line.to_ascii_lowercase())), "{what}: {head}");
                assert!(!head.contains("root") && !head.contains('_'), "{what}: {head}");
                for gone in ["\r\nte:", "http2-settings", "transfer", "\r\nconnection"] {
                    assert!(!head.contains(gone), "{what}: {head}");
                }
                assert_eq!(now[0].all("host"), [HOST], "{what}");
            }
            Seen::Nothing => {
                let refused = match &outcome {
                    Outcome::Answered(status, body) => {
                        let text = String::from_utf8_lossy(body);
                        matches!(status, 400 | 401 | 405) && !text.contains("evil.example/.teamgate")
                    }
                    _ => true,
                };
                assert!(refused, "{what}: {outcome:?}");
                assert_eq!(now.len(), 0, "{what}: {now:?}");
            }
        }
        // A stream was refused, and the others go on; or the connection is over, and another takes its place.
        if !matches!(outcome, Outcome::GoneAway(_) | Outcome::Closed) {
            assert_eq!(h2.get(3, HOST, "/public/next").await?.status(), 200, "{what}");
        }
    }
    assert_eq!(H2::connect(setup.gateway.address()).await?.get(1, HOST, "/public/y").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_request_needs_its_pseudo_fields_and_connect_is_not_one_for_apps() -> Checked {
    let setup = setup().await?;
    let all = request("GET", HOST, "/public/x");
    for missing in [":method", ":scheme", ":path", ":authority"] {
        let fields: Vec<_> = all.iter().filter(|(name, _)| *name != missing.as_bytes()).copied().collect();
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        h2.head(1, &fields, flag::END_STREAM).await?;
        let outcome = h2.outcome(1).await?;
        assert!(matches!(outcome, Outcome::Reset(_) | Outcome::Answered(400, _)), "{missing}: {outcome:?}");
        assert_eq!(h2.get(3, HOST, "/public/next").await?.status(), 200, "{missing}");
    }
    // A host stands in for the authority (RFC 9113 §8.3.1).
    let mut fields = all[..2].to_vec();
    fields.extend([all[3], (b"host", HOST.as_bytes())]);
    let mut h2 = H2::connect(setup.gateway.address()).await?;
    h2.head(1, &fields, flag::END_STREAM).await?;
    assert_eq!(h2.outcome(1).await?.status(), 200);
    // A tunnel to anywhere.
    h2.head(3, &[(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:22")], 0).await?;
    let outcome = h2.outcome(3).await?;
    assert!(matches!(outcome, Outcome::Answered(405, _)), "{outcome:?}");
    assert!(setup.upstream.received().iter().all(|request| request.method == "GET"));
    Ok(())
}

#[tokio::test]
async fn crumbs_of_cookies_are_one_field_to_the_app_and_ours_is_found_in_any() -> Checked {
    let setup = setup().await?;
    let ann = setup.signed_in("ann").await?;
    let own = format!("teamgate={}", ann.session()?);
    let host = setup.gateway.address().to_string();
    let many: Vec<String> = (0..150).map(|number| format!("c{number}=v")).collect();
    let rows: Vec<(Vec<&str>, String)> = vec![
        (vec![&own, "a=1", "b=2"], "a=1; b=2".to_owned()),
        (vec!["a=1", &own, "b=2"], "a=1; b=2".to_owned()),
        (vec!["a=1", "b=2", &own], "a=1; b=2".to_owned()),
        (vec![&own], String::new()),
        // As many as a browser keeps for a host: it sends one field each.
        (many.iter().map(String::as_str).chain([own.as_str()]).collect(), many.join("; ")),
    ];
    for (crumbs, expected) in rows {
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        let mut fields = request("GET", &host, "/lobby/crumbs");
        fields.extend(crumbs.iter().map(|crumb| (&b"cookie"[..], crumb.as_bytes())));
        h2.head(1, &fields, flag::END_STREAM).await?;
        let outcome = h2.outcome(1).await?;
        assert_eq!(outcome.status(), 200, "{crumbs:?}: {outcome:?}");
        let received = setup.upstream.received_at("/lobby/crumbs");
        let request = received.last().ok_or("nothing arrived")?;
        assert_eq!(request.all("cookie").join(" | "), expected);
        assert_eq!(request.all("x-forwarded-user"), [ANN]);
        assert!(!String::from_utf8_lossy(&request.head).contains(&own));
    }
    // Other fields are counted one by one.
    let mut h2 = H2::connect(setup.gateway.address()).await?;
    let mut fields = request("GET", &host, "/public/x");
    fields.resize(120, (b"x", b"y"));
    h2.head(1, &fields, flag::END_STREAM).await?;
    assert_eq!(h2.outcome(1).await?.status(), 431);
    Ok(())
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says_or_no_app_gets_the_whole_of_it() -> Checked {
    let setup = setup().await?;
    // (the length that is said, the frames, what the app gets)
    let rows: &[(&str, &[&str], Option<&str>)] = &[
        ("5", &["hello"], Some("hello")),
        ("5", &["he", "", "llo"], Some("hello")),
        ("", &["hello", "more"], Some("hellomore")),
        ("", &[""], Some("")),
        ("6", &["hello"], None),
        ("4", &["hello"], None),
        ("5", &["hello", "GET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n"], None),
        (
            "",
            &["0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n"],
            Some("0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
        ),
    ];
    for (number, (length, frames, arrives)) in rows.iter().enumerate() {
        let target = format!("/public/body-{number}");
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        let mut fields = request("POST", HOST, &target);
        if !length.is_empty() {
            fields.push((b"content-length", length.as_bytes()));
        }
        h2.head(1, &fields, 0).await?;
        for (at, bytes) in frames.iter().enumerate() {
            let last = at + 1 == frames.len();
            h2.send(&frame(kind::DATA, u8::from(last), 1, bytes.as_bytes())).await?;
        }
        let outcome = h2.outcome(1).await?;
        let received = setup.upstream.received_at(&target);
        match arrives {
            Some(body) => {
                assert_eq!(outcome.status(), 200, "{target}: {outcome:?}");
                assert_eq!(String::from_utf8_lossy(&received[0].body), *body, "{target}");
            }
            None => {
                assert!(
                    matches!(outcome, Outcome::Reset(_) | Outcome::Answered(400, _)),
                    "{target}: {outcome:?}"
                );
                assert_eq!(received.len(), 0, "{target}");
            }
        }
        assert_eq!(h2.get(3, HOST, "/public/next").await?.status(), 200, "{target}");
    }
    assert_eq!(setup.upstream.received_at("/public/smuggled").len(), 0);
    Ok(())
}

#[tokio::test]
async fn trailers_of_a_request_are_no_fields_of_it() -> Checked {
    let setup = setup().await?;
    let good: &[Field<'_>] =
        &[(b"x-forwarded-user", b"root"), (b"remote_user", b"root"), (b"cookie", b"a=root")];
    let bad: &[&[Field<'_>]] = &[
        &[(b":path", b"/lobby")],
        &[(b"connection", b"close")],
        &[(b"X-Upper", b"y")],
        &[(b"x", b"y\r\nz: root")],
    ];
    for trailers in [good].iter().chain(bad) {
        let before = setup.upstream.received().len();
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        h2.head(1, &request("POST", HOST, "/public/trailers"), 0).await?;
        h2.send(&frame(kind::DATA, 0, 1, b"hello")).await?;
        h2.head(1, trailers, flag::END_STREAM).await?;
        let outcome = h2.outcome(1).await?;
        let received = setup.upstream.received();
        for request in &received[before..] {
            assert_eq!(request.body, b"hello");
            assert!(!String::from_utf8_lossy(&request.head).contains("root"), "{request:?}");
        }
        if *trailers == good {
            assert_eq!((outcome.status(), received.len()), (200, before + 1));
        }
    }
    assert_eq!(H2::connect(setup.gateway.address()).await?.get(1, HOST, "/public/y").await?.status(), 200);
    Ok(())
}

/// threats 16: a proxy before us may put everybody on one connection.
#[tokio::test]
async fn requests_on_one_connection_are_each_their_own() -> Checked {
    let setup = setup().await?;
    let host = setup.gateway.address().to_string();
    let mut cookies = Vec::new();
    for (name, uuid) in [("ann", ANN), ("ben", BEN)] {
        let browser = setup.signed_in(name).await?;
        cookies.push((format!("teamgate={}", browser.session()?), Some(uuid)));
    }
    cookies.push(("teamgate=nobody".to_owned(), None));
    let mut h2 = H2::connect(setup.gateway.address()).await?;
    let targets: Vec<String> = (0..60).map(|number| format!("/lobby/{number}")).collect();
    for (number, target) in targets.iter().enumerate() {
        let mut fields = request("GET", &host, target);
        fields.push((b"cookie", cookies[number % 3].0.as_bytes()));
        h2.head(1 + 2 * number as u32, &fields, flag::END_STREAM).await?;
    }
    let mut open = targets.len();
    while open > 0 {
        let frame = h2.frame().await?.ok_or("the end")?;
        open -= usize::from(
            matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.flags & flag::END_STREAM != 0,
        );
    }
    for (number, target) in targets.iter().enumerate() {
        let received = setup.upstream.received_at(target);
        match cookies[number % 3].1 {
            Some(uuid) => assert_eq!(received[0].all("x-forwarded-user"), [uuid], "{target}"),
            None => assert_eq!(received.len(), 0, "{target}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn answers_have_no_fields_of_another_version_and_look_whole_only_if_they_are() -> Checked {
    let app = Blunt::start().await?;
    let setup = Setup::with(config().route(&app.route("app"))).await?;
    let ok = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let old = "HTTP/1.0 200 OK\r\n\r\nok";
    let hints = format!("HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nLink: </x>\r\n\r\n{ok}");
    for (answer, closes) in [(ok, false), (chunks, false), (old, true), (&hints, false)] {
        if closes {
            app.answers_and_closes(answer)
        } else {
            app.answers(answer)
        }
        // A library that is strict about it.
        let said = curl(&["--http2-prior-knowledge", "--include", &setup.url("/app")]).await?;
        assert!(said.contains("HTTP/2 200") && said.ends_with("ok"), "{said}");
        for gone in ["connection:", "keep-alive:", "transfer-encoding:", "x-hop:"] {
            assert!(!said.to_ascii_lowercase().contains(gone), "{said}");
        }
    }
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nten bytes.\r\n",
    ] {
        app.answers_and_closes(cut);
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        let outcome = h2.get(1, HOST, "/app").await?;
        assert!(matches!(outcome, Outcome::Reset(_)), "{cut}: {outcome:?}");
        app.answers(ok);
        assert_eq!(h2.get(3, HOST, "/app/next").await?, Outcome::Answered(200, b"ok".to_vec()), "{cut}");
    }
    for nonsense in ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"] {
        app.answers(nonsense);
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        assert_eq!(h2.get(1, HOST, "/app").await?.status(), 502, "{nonsense}");
        app.answers(ok);
        assert_eq!(h2.get(3, HOST, "/app/next").await?.status(), 200, "{nonsense}");
    }
    Ok(())
}

/// Runs curl, which must succeed, and gives what it printed.
async fn curl(arguments: &[&str]) -> Checked<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]).args(arguments);
    tool(command, "curl").await
}

async fn tool(mut command: Command, package: &'static str) -> Checked<String> {
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await?;
    let output =
        output.map_err(|error| format!("{error}; install {package} (Debian's package {package})"))?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() {
        true => Ok(said.into_owned()),
        false => Err(format!("{}: {said}{complained}", output.status).into()),
    }
}

#[tokio::test]
async fn curl_and_old_clients_share_an_address() -> Checked {
    let setup = setup().await?;
    let url = setup.url("/public/curl");
    for version in ["--http2-prior-knowledge", "--http1.1", "--http1.0"] {
        let echo = curl(&[version, &url]).await?;
        assert!(echo.contains("\"target\":\"/public/curl\""), "{version}: {echo}");
        let echo = curl(&[version, "--data-binary", "hello", &url]).await?;
        assert!(echo.contains("\"body\":\"hello\""), "{version}: {echo}");
    }
    let big = curl(&["--http2-prior-knowledge", &setup.url("/public/big/3000000")]).await?;
    assert_eq!(big.len(), 3_000_000);
    // Shorter than what a client of HTTP/2 says first, and not at once.
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(b"PR").await?;
    wire.send(b"OPFIND /").await?;
    wire.send(format!("public/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
    assert_eq!(wire.response().await?.expect(200)?.json()?["method"], "PROPFIND");
    // An upgrade is not how HTTP/2 begins any more (RFC 9113 §3.1).
    let echo = curl(&["--http2", "--include", &url]).await?;
    assert!(echo.starts_with("HTTP/1.1 200"), "{echo}");
    Ok(())
}

#[tokio::test]
async fn where_h2c_is_not_spoken_its_preface_is_no_request() -> Checked {
    let setup = Setup::new().await?;
    let mut h2 = H2::silent(setup.gateway.address()).await?;
    h2.send(PREFACE).await?;
    // What comes is HTTP/1.1, and the end.
    while h2.frame().await?.is_some() {}
    send(&Request::get(&setup.url("/public/x"))).await?.expect(200)?;
    assert_eq!(setup.upstream.received().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_given_up_frees_the_app_and_nobody_else() -> Checked {
    let app = Blunt::start().await?;
    let setup = Setup::with(config().route(&app.route("app"))).await?;
    let mut h2 = H2::connect(setup.gateway.address()).await?;
    for (stream, answer) in [(1, ""), (5, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")]
    {
        app.answers(answer);
        h2.head(stream, &request("GET", HOST, "/app"), flag::END_STREAM).await?;
        let open = app.heard().len();
        eventually("the app has the request", async || Ok(app.open() > 0 && app.heard().len() >= open))
            .await?;
        h2.send(&frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await?;
        eventually("the app is left alone", async || Ok(app.open() == 0)).await?;
        assert_eq!(h2.get(stream + 2, HOST, "/public/next").await?.status(), 200);
    }
    Ok(())
}

/// What a flood sends, again and again; and on what it goes.
struct Flood {
    what: &'static str,
    /// Before it begins.
    first: Vec<u8>,
    /// The frames of round `number`.
    round: fn(u32) -> Vec<u8>,
    rounds: u32,
}

fn floods() -> Vec<Flood> {
    fn get(stream: u32, path: &str, end: bool) -> Vec<u8> {
        let flags = flag::END_HEADERS | u8::from(end);
        frame(kind::HEADERS, flags, stream, &block(&request("GET", HOST, path)))
    }
    fn reset(stream: u32) -> Vec<u8> {
        frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    }
    let open_head = frame(kind::HEADERS, 0, 1, &block(&request("GET", HOST, "/public/x")));
    // An entry of the table that is as long as the table lets it be, and what names it.
    let mut bomb = block(&request("GET", HOST, "/public/x"));
    bomb.extend([0x40, 1, b'x', 127]);
    bomb.extend([0x80 | ((3_900_u32 - 127) % 128) as u8, ((3_900 - 127) / 128) as u8]);
    bomb.extend([b'y'; 3_900]);
    bomb.extend([0xbe; 12_000]);
    vec![
        Flood {
            what: "rapid reset (CVE-2023-44487)",
            first: Vec::new(),
            round: |number| [get(1 + 2 * number, "/public/x", true), reset(1 + 2 * number)].concat(),
            rounds: 10_000,
        },
        Flood {
            what: "rapid reset of what waits for the app",
            first: Vec::new(),
            round: |number| [get(1 + 2 * number, "/public/hold", true), reset(1 + 2 * number)].concat(),
            rounds: 10_000,
        },
        Flood {
            what: "made to reset (CVE-2025-8671)",
            first: Vec::new(),
            round: |number| {
                let stream = 1 + 2 * number;
                [get(stream, "/public/hold", false), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
            },
            rounds: 10_000,
        },
        Flood {
            what: "CONTINUATION without end (RUSTSEC-2024-0332)",
            first: open_head.clone(),
            round: |number| {
                let name = format!("x-{number}");
                frame(kind::CONTINUATION, 0, 1, &block(&[(name.as_bytes(), &[b'y'; 1_000])]))
            },
            rounds: 20_000,
        },
        Flood {
            what: "empty CONTINUATION without end",
            first: open_head,
            round: |_| frame(kind::CONTINUATION, 0, 1, b""),
            rounds: 100_000,
        },
        Flood {
            what: "settings",
            first: Vec::new(),
            round: |number| frame(kind::SETTINGS, 0, 0, &setting(4, 65_535 + number % 2)),
            rounds: 100_000,
        },
        Flood {
            what: "pings",
            first: Vec::new(),
            round: |number| frame(kind::PING, 0, 0, &u64::from(number).to_be_bytes()),
            rounds: 100_000,
        },
        Flood {
            what: "empty DATA (RUSTSEC-2026-0258)",
            first: frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&request("POST", HOST, "/public/x"))),
            round: |_| frame(kind::DATA, 0, 1, b""),
            rounds: 100_000,
        },
        Flood {
            what: "nothing but padding",
            first: frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&request("POST", HOST, "/public/x"))),
            round: |_| {
                let padded = [[255].as_slice(), &[0; 255]].concat();
                frame(kind::DATA, 8, 1, &padded)
            },
            rounds: 20_000,
        },
        Flood {
            what: "frames that nobody knows",
            first: Vec::new(),
            round: |_| frame(0xfa, 0, 0, &[0; 100]),
            rounds: 50_000,
        },
        Flood {
            what: "windows opened by nothing",
            first: Vec::new(),
            round: |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            rounds: 1_000,
        },
        Flood {
            what: "windows opened too far",
            first: Vec::new(),
            round: |_| frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            rounds: 1_000,
        },
        Flood {
            what: "a table that is named again and again",
            first: frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &bomb),
            round: |_| Vec::new(),
            rounds: 1,
        },
        Flood {
            what: "more streams than may be open",
            first: Vec::new(),
            round: |number| get(1 + 2 * number, "/public/hold", true),
            rounds: 10_000,
        },
    ]
}

/// threats 69: the connection that floods is closed, held back or ignored; others are served, and memory stays.
#[tokio::test]
async fn a_flood_of_frames_hurts_nobody_else() -> Checked {
    let setup = setup().await?;
    let address = setup.gateway.address();
    H2::connect(address).await?.get(1, HOST, "/public/x").await?;
    let before = setup.gateway.memory()?;
    for flood in floods() {
        let mut h2 = H2::connect(address).await?;
        let sent = async {
            h2.send(&flood.first).await?;
            for numbers in (0..flood.rounds).collect::<Vec<_>>().chunks(100) {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| (flood.round)(*number)).collect();
                // Nothing is read: what the gateway would say piles up on its side.
                h2.send(&bytes).await?;
            }
            Checked::Ok(())
        };
        // It may be held back for ever, or closed.
        let _ = timeout(Duration::from_millis(700), sent).await;
        let mut other = H2::connect(address).await?;
        let outcome = timeout(Duration::from_secs(10), other.get(1, HOST, "/public/other")).await;
        let outcome = outcome.map_err(|_| format!("{}: nobody else is served", flood.what))??;
        assert_eq!(outcome.status(), 200, "{}: {outcome:?}", flood.what);
        send(&Request::get(&setup.url("/public/other"))).await?.expect(200)?;
        let grown = setup.gateway.memory()?.saturating_sub(before);
        assert!(grown < 32 * 1024, "{}: {grown} KiB more", flood.what);
    }
    setup.upstream.release();
    let quiet = setup.gateway.open_files()?;
    eventually("what flooded is closed", async || Ok(setup.gateway.open_files()? <= quiet)).await
}

#[tokio::test]
async fn floods_that_only_an_attacker_sends_end_the_connection() -> Checked {
    let setup = setup().await?;
    for flood in floods() {
        let ends = [
            "rapid reset (CVE-2023-44487)",
            "rapid reset of what waits for the app",
            "made to reset (CVE-2025-8671)",
            "CONTINUATION without end (RUSTSEC-2024-0332)",
            "empty CONTINUATION without end",
            "windows opened by nothing",
            "windows opened too far",
        ];
        if !ends.contains(&flood.what) {
            continue;
        }
        let mut h2 = H2::connect(setup.gateway.address()).await?;
        let _ = h2.send(&flood.first).await;
        for numbers in (0..flood.rounds).collect::<Vec<_>>().chunks(100) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| (flood.round)(*number)).collect();
            if h2.send(&bytes).await.is_err() {
                break;
            }
        }
        let said = timeout(PATIENCE, h2.end()).await.map_err(|_| format!("{} goes on", flood.what))??;
        // ENHANCE_YOUR_CALM, or what is wrong with the frames; a reset may have overtaken it.
        assert!(matches!(said, None | Some(1..=11)), "{}: {said:?}", flood.what);
    }
    // What was reset is not asked of the app for ever.
    assert!(setup.upstream.received().len() < 2_000, "{}", setup.upstream.received().len());
    Ok(())
}

#[tokio::test]
async fn more_streams_than_may_be_open_are_refused_and_the_rest_served() -> Checked {
    let setup = Setup::with(config().top("limits: { http2_streams: 10 }")).await?;
    let mut h2 = H2::connect(setup.gateway.address()).await?;
    for number in 0..15 {
        h2.head(1 + 2 * number, &request("GET", HOST, "/public/hold"), flag::END_STREAM).await?;
    }
    let mut refused = 0;
    while refused < 5 {
        let frame = h2.frame().await?.ok_or("the end")?;
        if frame.kind == kind::RST_STREAM {
            // REFUSED_STREAM: it may be tried again (RFC 9113 §8.7).
            assert_eq!((frame.payload.as_slice(), frame.stream >= 21), (&[0, 0, 0, 7][..], true));
            refused += 1;
        }
    }
    setup.upstream.release();
    let mut served = 0;
    while served < 10 {
        let frame = h2.frame().await?.ok_or("the end")?;
        served += usize::from(frame.kind == kind::DATA && frame.flags & flag::END_STREAM != 0);
    }
    assert_eq!(h2.get(101, HOST, "/public/next").await?.status(), 200);
    assert_eq!(setup.upstream.received_at("/public/hold").len(), 10);
    Ok(())
}

/// A reader that is as slow as can be holds its own answers up, and little of them in our memory.
#[tokio::test]
async fn a_client_that_does_not_read_costs_little() -> Checked {
    const EACH: u32 = 20;
    let app = Blunt::start().await?;
    let setup = Setup::with(config().route(&app.route("app"))).await?;
    let address = setup.gateway.address();
    H2::connect(address).await?.get(1, HOST, "/public/x").await?;
    app.floods("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", "x");
    let before = setup.gateway.memory()?;
    let mut slow = Vec::new();
    // No window at all; a window of one byte; windows, and a socket that nobody reads.
    for window in [0, 1, 0x7fff_ffff_u32, 0x7fff_ffff] {
        let mut h2 = H2::silent(address).await?;
        h2.reads = false;
        let settings = [setting(1, 0), setting(4, window)].concat();
        let mut bytes = [PREFACE, &frame(kind::SETTINGS, 0, 0, &settings)].concat();
        if window > 1 {
            bytes.extend(frame(kind::WINDOW_UPDATE, 0, 0, &(0x7fff_0000_u32 - 65_535).to_be_bytes()));
        }
        for number in 0..EACH {
            let flags = flag::END_HEADERS | flag::END_STREAM;
            bytes.extend(frame(kind::HEADERS, flags, 1 + 2 * number, &block(&request("GET", HOST, "/app"))));
        }
        h2.send(&bytes).await?;
        slow.push(h2);
    }
    let all = slow.len() * EACH as usize;
    eventually("the app has all the requests", async || Ok(app.open() >= all)).await?;
    let outcome = H2::connect(address).await?.get(1, HOST, "/public/other").await?;
    assert_eq!(outcome.status(), 200);
    // As much as will ever be: what the app has said by then waits on its side.
    let mut grown = 0;
    eventually("nothing more is taken from the app", async || {
        let last = grown;
        tokio::time::sleep(Duration::from_millis(100)).await;
        grown = setup.gateway.memory()?.saturating_sub(before);
        Ok(grown <= last + 256)
    })
    .await?;
    // Some pieces of 64 KiB are under way between the app and the client at any time.
    assert!(grown / (all as u64) < 720, "{grown} KiB for {all} streams");
    // A window that opens lets one of them go on.
    let h2 = &mut slow[0];
    h2.send(&frame(kind::WINDOW_UPDATE, 0, 1, &10_u32.to_be_bytes())).await?;
    loop {
        let frame = h2.frame().await?.ok_or("the end")?;
        if frame.kind == kind::DATA && frame.stream == 1 {
            assert_eq!(frame.payload, b"xxxxxxxxxx");
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_holds_nobody_up() -> Checked {
    let setup =
        Setup::with(config().top("limits: { handshake_timeout: 1s, header_timeout: 1s, keep_alive: 1s }"))
            .await?;
    let address = setup.gateway.address();
    let silent = H2::silent(address).await?;
    let mut half = H2::silent(address).await?;
    half.send(&PREFACE[..10]).await?;
    let mut greeted = H2::silent(address).await?;
    greeted.send(PREFACE).await?;
    let mut idle = H2::connect(address).await?;
    let mut beginning = H2::connect(address).await?;
    beginning.send(&frame(kind::HEADERS, 0, 1, &block(&request("GET", HOST, "/public/x")))).await?;
    let mut ends = JoinSet::new();
    for mut h2 in [silent, half, greeted] {
        ends.spawn(async move { h2.end().await });
    }
    assert_eq!(H2::connect(address).await?.get(1, HOST, "/public/other").await?.status(), 200);
    while let Some(end) = ends.join_next().await {
        end??;
    }
    idle.end().await?;
    beginning.end().await?;
    Ok(())
}
