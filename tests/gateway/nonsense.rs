//! What apps answer that is no answer, or is one with too much of it: what the client gets, and that nobody else
//! gets anything.

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Blunt, Checked, Config, PATIENCE, Request, Response, Setup, Wire, eventually};

fn lasting(url: &str) -> Request {
    Request::get(url).header("Connection", "keep-alive")
}

async fn setup(app: &Blunt) -> Checked<Setup> {
    Setup::with(Config::default().top("upstream_timeouts: { header: 1s, idle: 1s }").route(&app.route("app")))
        .await
}

/// A good answer with this body.
fn good(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What the client makes of an answer.
enum Got {
    /// A page of ours: the app is out of order.
    Refused,
    /// This status and body, framed in one way.
    Whole(u16, &'static str),
    /// This much of a body, and no end that looks like one.
    Cut(&'static str),
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Poison: yes\r\n\r\npoisoned";

/// threats 17: (what, the answer, what the client makes of it).
const ANSWERS: &[(&str, &str, Got)] = &[
    (
        "CL and TE",
        "200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Whole(200, "ok"),
    ),
    (
        "TE and CL",
        "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 90\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Whole(200, "ok"),
    ),
    ("CL twice", "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Got::Whole(200, "ok")),
    ("CL joined", "200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Got::Whole(200, "ok")),
    ("CL two", "200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", Got::Refused),
    ("CL two joined", "200 OK\r\nContent-Length: 2, 3\r\n\r\nok!", Got::Refused),
    ("CL negative", "200 OK\r\nContent-Length: -2\r\n\r\nok", Got::Refused),
    ("CL signed", "200 OK\r\nContent-Length: +2\r\n\r\nok", Got::Refused),
    ("CL hexadecimal", "200 OK\r\nContent-Length: 0x2\r\n\r\nok", Got::Refused),
    ("CL empty", "200 OK\r\nContent-Length:\r\n\r\nok", Got::Refused),
    ("CL a little too big", "200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok", Got::Refused),
    ("CL too big", "200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok", Got::Refused),
    ("CL space before the colon", "200 OK\r\nContent-Length : 2\r\n\r\nok", Got::Whole(200, "ok")),
    ("TE gzip", "200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Got::Refused),
    ("TE identity", "200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("TE unknown", "200 OK\r\nTransfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("TE empty", "200 OK\r\nTransfer-Encoding:\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    (
        "TE twice",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Refused,
    ),
    ("TE joined", "200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Got::Refused),
    (
        "TE nominated",
        "200 OK\r\nTransfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Whole(200, "ok"),
    ),
    (
        "CL nominated",
        "200 OK\r\nContent-Length: 2\r\nConnection: content-length\r\n\r\nok",
        Got::Whole(200, "ok"),
    ),
    ("folded", "200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok", Got::Whole(200, "ok")),
    (
        "folded into a field",
        "200 OK\r\nX-Folded: a\r\n\tSet-Cookie: b=c\r\nContent-Length: 2\r\n\r\nok",
        Got::Whole(200, "ok"),
    ),
    ("folded first", "200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("bare CR", "200 OK\r\nX: a\rSet-Cookie: b=c\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("bare LF", "200 OK\nX: a\nContent-Length: 2\n\nok", Got::Whole(200, "ok")),
    ("NUL", "200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("no colon", "200 OK\r\nNonsense\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("no name", "200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("space in a name", "200 OK\r\nX Y: z\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("status of two digits", "99 OK\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("status of four digits", "1000 OK\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("status 0", "000 OK\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("status in letters", "abc OK\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("no status", "\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("no reason", "200\r\nContent-Length: 2\r\n\r\nok", Got::Whole(200, "ok")),
    ("bare CR in the reason", "200 O\rK\r\nContent-Length: 2\r\n\r\nok", Got::Refused),
    ("unasked 101", "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Got::Refused),
    (
        "100 with a length",
        "100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Got::Whole(200, "ok"),
    ),
    (
        "103 in chunks",
        "103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Got::Whole(200, "ok"),
    ),
    (
        "102 with hops",
        "102 Processing\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Got::Whole(200, "ok"),
    ),
    ("204 with a body", "204 No Content\r\nContent-Length: 2\r\n\r\nok", Got::Whole(204, "")),
    (
        "204 in chunks",
        "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Whole(204, ""),
    ),
    ("304 with a length", "304 Not Modified\r\nContent-Length: 2\r\n\r\n", Got::Whole(304, "")),
    (
        "304 in chunks",
        "304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Got::Whole(304, ""),
    ),
    (
        "chunk with an extension",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n",
        Got::Whole(200, "ok"),
    ),
    (
        "chunk without digits",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
        Got::Cut("2\r\nok\r\n"),
    ),
    (
        "chunk that is too long",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\noks\r\n0\r\n\r\n",
        Got::Cut(""),
    ),
    ("chunks with bare LF", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", Got::Cut("")),
    (
        "chunk beyond any memory",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nok\r\n0\r\n\r\n",
        Got::Cut(""),
    ),
    (
        "chunk size overflow",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
        Got::Cut(""),
    ),
];

/// Answers of which the first line is not even one.
const NO_ANSWERS: &[(&str, &str)] = &[
    ("a page without a head", "<html>old</html>\r\n\r\n"),
    ("another version", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("HTTP/2 as text", "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("HTTP/2 as frames", "\0\0\0\x04\0\0\0\0\0"),
    ("TLS", "\x15\x03\x01\0\x02\x02\x28"),
    ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ("chunks of 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
];

/// In one way, and in one that every client understands alike.
fn framed_once(response: &Response) -> bool {
    match (response.all("content-length").as_slice(), response.all("transfer-encoding").as_slice()) {
        ([], ["chunked"]) => true,
        ([length], []) => length.bytes().all(|byte| byte.is_ascii_digit()),
        ([], []) => matches!(response.status, 204 | 304) || response.all("connection") == ["close"],
        _ => false,
    }
}

/// Whether the app was found out of order, with its name, in the log and in the access line.
async fn is_logged(setup: &Setup, app: &Blunt, response: &Response) -> Checked {
    let id = response.header("x-request-id").ok_or("no X-Request-Id")?.to_owned();
    assert!(response.text().contains(&id), "{}", response.text());
    eventually("log and access line say what happened", async || {
        let (log, access) = (setup.gateway.log(), setup.gateway.access());
        let log = log.iter().find(|line| line["request_id"] == id.as_str());
        let access = access.iter().find(|line| line["request_id"] == id.as_str());
        let (Some(log), Some(access)) = (log, access) else { return Ok(false) };
        assert_eq!(log["upstream"], format!("http://{}", app.address()));
        assert_eq!((&access["upstream_error"], &access["status"]), (&"garbage".into(), &502.into()), "{log}");
        Ok(true)
    })
    .await
}

/// What somebody else gets of the same app right after.
async fn nobody_else_gets_it(setup: &Setup, app: &Blunt, what: &str) -> Checked {
    app.answers(good("unspoilt"));
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting(&setup.url("/app/next")).bytes()).await?;
    let response = wire.response().await?;
    assert_eq!(response.expect(200)?.text(), "unspoilt", "after {what}");
    assert_eq!(response.all("x-poison"), [""; 0], "after {what}");
    Ok(())
}

#[tokio::test]
async fn an_answer_is_whole_and_framed_once_or_refused_and_reaches_nobody_else() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    let answers = ANSWERS.iter().map(|(what, answer, got)| (*what, format!("HTTP/1.1 {answer}"), got));
    let none = NO_ANSWERS.iter().map(|(what, answer)| (*what, (*answer).to_owned(), &Got::Refused));
    for (what, answer, got) in answers.chain(none) {
        app.answers(answer + POISON);
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting(&setup.url("/app")).bytes()).await?;
        let failed = |error| format!("{what}: {error}");
        match got {
            Got::Refused => {
                let response = wire.response().await.map_err(failed)?;
                response.expect(502).map_err(failed)?;
                is_logged(&setup, &app, &response).await.map_err(failed)?;
                assert_eq!(wire.rest().await?, b"", "{what}");
            }
            Got::Whole(status, body) => {
                let response = wire.response().await.map_err(failed)?;
                assert_eq!((response.status, response.text().as_str()), (*status, *body), "{what}");
                assert!(framed_once(&response), "{what}: {:?}", response.headers);
                assert_eq!(response.all("set-cookie"), [""; 0], "{what}");
                // It stays open, and then the next answer on it is the next answer; or it was closed.
                app.answers(good("unspoilt"));
                if wire.send(&lasting(&setup.url("/app/next")).bytes()).await.is_ok()
                    && let Ok(next) = wire.response().await
                {
                    assert_eq!(next.text(), "unspoilt", "{what}");
                }
            }
            Got::Cut(body) => {
                let head = wire.head().await.map_err(failed)?;
                assert!(framed_once(head.expect(200).map_err(failed)?), "{what}: {:?}", head.headers);
                let rest = wire.rest().await.map_err(failed)?;
                assert_eq!(String::from_utf8_lossy(&rest), *body, "{what}");
            }
        }
        nobody_else_gets_it(&setup, &app, what).await?;
    }
    Ok(())
}

#[tokio::test]
async fn interim_answers_have_no_length_and_no_hops() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    let ok = good("ok");
    app.answers(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\
         Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n{ok}"
    ));
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting(&setup.url("/app")).bytes()).await?;
    let hints = wire.head().await?;
    assert_eq!(hints.headers, [("link".to_owned(), "</style.css>".to_owned())]);
    assert_eq!(wire.response().await?.expect(200)?.text(), "ok");
    Ok(())
}

#[tokio::test]
async fn an_app_that_never_gets_to_the_point_is_given_up() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    for (what, first, forever) in [
        ("100 for ever", "", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("103 for ever", "", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        ("fields for ever", "HTTP/1.1 200 OK\r\n", "X: y\r\n"),
        ("a field for ever", "HTTP/1.1 200 OK\r\nX: ", "y"),
        ("a reason for ever", "HTTP/1.1 200 ", "y"),
        ("a status for ever", "HTTP/1.1 2", "0"),
        ("empty lines for ever", "", "\r\n"),
    ] {
        app.floods(first, forever);
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting(&setup.url("/app")).bytes()).await?;
        let response = timeout(PATIENCE, wire.response()).await.map_err(|_| format!("{what} goes on"))?;
        let response = response.map_err(|error| format!("{what}: {error}"))?;
        response.expect(502).map_err(|error| format!("{what}: {error}"))?;
        is_logged(&setup, &app, &response).await?;
        assert_eq!(wire.rest().await?, b"", "{what}");
        nobody_else_gets_it(&setup, &app, what).await?;
    }
    // Interim answers and then nothing: the page comes all the same.
    app.answers_and_closes("HTTP/1.1 100 Continue\r\n\r\n");
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting(&setup.url("/app")).bytes()).await?;
    wire.response().await?.expect(502)?;
    app.answers("HTTP/1.1 100 Continue\r\n\r\n");
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting(&setup.url("/app")).bytes()).await?;
    wire.response().await?.expect(504)?;
    Ok(())
}

/// What comes behind an answer, at once, later or without end, is nobody's.
#[tokio::test]
async fn an_app_that_goes_on_after_its_answer_is_not_listened_to() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    for (what, first) in [
        ("a length", good("ok")),
        ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned()),
        ("nothing", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
    ] {
        for _ in 0..20 {
            app.answers_in_two(first.clone(), POISON);
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            wire.send(&lasting(&setup.url("/app")).bytes()).await?;
            let response = wire.response().await?;
            assert!(["ok", ""].contains(&response.text().as_str()), "{what}");
            // What arrives before the next request is sent is told from its answer. What an app says unasked while
            // that request is on its way is not: nothing in HTTP/1.1 tells them apart.
            app.go_on().await?;
            app.answers(good("unspoilt"));
            for _ in 0..3 {
                let mut other = Wire::connect(setup.gateway.address()).await?;
                other.send(&lasting(&setup.url("/app/other")).bytes()).await?;
                let response = other.response().await?;
                assert!(matches!(response.status, 200 | 502), "{what}: {response:?}");
                assert_ne!(response.text(), "poisoned", "{what}");
                assert_eq!(response.all("x-poison"), [""; 0], "{what}");
            }
        }
        app.floods(first, POISON);
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting(&setup.url("/app")).bytes()).await?;
        assert!(["ok", ""].contains(&wire.response().await?.text().as_str()), "{what}");
        nobody_else_gets_it(&setup, &app, what).await?;
    }
    Ok(())
}

/// Many at once, some of whom break off, while an app talks nonsense: everybody gets what is theirs.
#[tokio::test]
async fn nobody_gets_a_byte_that_was_meant_for_another() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    app.answers(good("ok") + POISON);
    let (address, url) = (setup.gateway.address(), setup.url(""));
    let mut clients = JoinSet::new();
    for client in 0..12 {
        let url = url.clone();
        clients.spawn(async move {
            let mut wire = Wire::connect(address).await?;
            for number in 0..25 {
                let own = format!("client-{client}-{number}");
                if (client + number) % 5 == 0 {
                    // Into the nonsense, on a connection that is left in the middle of it.
                    let mut aside = Wire::connect(address).await?;
                    aside.send(&lasting(&format!("{url}/app/{own}")).bytes()).await?;
                    if number % 2 == 0 {
                        aside.head().await?;
                    }
                }
                let request = Request::new("POST", &format!("{url}/public/{own}"))
                    .header("Connection", "keep-alive")
                    .header("X-Own", &own)
                    .body(own.repeat(1 + number * 40));
                wire.send(&request.bytes()).await?;
                let response = wire.response().await?;
                let echo = response.expect(200)?.json()?;
                assert_eq!(echo["target"], format!("/public/{own}"));
                assert_eq!(echo["body"], own.repeat(1 + number * 40));
                assert_eq!(response.echoed_all("x-own")?, [own]);
            }
            Checked::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// RFC 9112 appendix C.1: a client of HTTP/1.0 knows neither chunks nor interim answers.
#[tokio::test]
async fn a_client_of_http_1_0_gets_what_it_understands() -> Checked {
    let app = Blunt::start().await?;
    let setup = setup(&app).await?;
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{chunks}");
    let until_the_end = "HTTP/1.1 200 OK\r\n\r\nok";
    for connection in ["close", "keep-alive"] {
        for (answer, closes) in [(chunks, false), (&interim, false), (until_the_end, true)] {
            if closes {
                app.answers_and_closes(answer)
            } else {
                app.answers(answer)
            }
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            let request =
                format!("GET /app HTTP/1.0\r\nHost: wiki.example.com\r\nConnection: {connection}\r\n\r\n");
            wire.send(request.as_bytes()).await?;
            let response = wire.rest().await?;
            let response = String::from_utf8_lossy(&response);
            assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nok"), "{response}");
            let head = response.to_ascii_lowercase();
            assert!(!head.contains("transfer-encoding"), "{response}");
            assert!(head.contains("\r\nconnection: close\r\n"), "{response}");
        }
    }
    // And an app of HTTP/1.0 is told apart from us.
    app.answers_and_closes("HTTP/1.0 200 OK\r\nServer: old\r\n\r\nok");
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting(&setup.url("/app")).bytes()).await?;
    let start = wire.until(b"\r\n").await?;
    assert_eq!(start, b"HTTP/1.1 200 OK\r\n");
    Ok(())
}
