//! What is open when its pass is lost ends, and nothing else does.

use std::time::Duration;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, Fault, FaultKind, Permission};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::streaming::{
    App, GRANTED, Socket, UPGRADE, closed, echoed, echoes, event, lasting, open, read_until,
};
use crate::support::{Browser, Checked, Config, PATIENCE, Request, Setup, Wire, eventually, send};

/// How long something that must stay open is watched: longer than the gateway takes to notice that it must not.
const A_WHILE: Duration = Duration::from_millis(1_500);

/// `/ws` for all, `/team/ws` for `acme`, `/lobby/ws` for whoever is signed in; everywhere an app that echoes.
async fn sockets(config: Config) -> Checked<Setup> {
    let (app, _) = echoes().await?;
    let lobby =
        format!("name: lobby-ws, path: /lobby/ws, access: signed-in, upstream: \"http://{}\"", app.address);
    Setup::with(app.routes(config, "ws").route(&lobby)).await
}

/// Only for `acme`, so that asking about somebody is one question.
fn of_acme(config: Config) -> Config {
    config.bitbucket("teams: [acme]").routes(
        "- { name: wiki, path: /, teams: [acme], upstream: $UPSTREAM }\n\
         - { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }",
    )
}

async fn socket(setup: &Setup, browser: &Browser, target: &str) -> Checked<Socket> {
    let cookie = browser.cookie_header(&setup.url("/"))?.unwrap_or_default();
    let opened = open(setup, target, &[("Cookie", &cookie)]).await?;
    let mut socket = opened.map_err(|status| format!("{target}: {status}"))?;
    echoed(&mut socket, Message::text("hello")).await?;
    Ok(socket)
}

/// Waits for the last word on a WebSocket, and that nothing comes after it.
async fn last_word(socket: &mut Socket) -> Checked<(u16, String)> {
    let word = match timeout(PATIENCE, socket.next()).await? {
        Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
        other => return Err(format!("no last word but {other:?}").into()),
    };
    match timeout(PATIENCE, socket.next()).await? {
        None | Some(Err(_)) => Ok(word),
        Some(Ok(more)) => Err(format!("after the last word: {more:?}").into()),
    }
}

fn word(code: u16, reason: &str) -> (u16, String) {
    (code, reason.to_owned())
}

async fn sign_out(setup: &Setup, browser: &Browser) -> Checked {
    browser.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
    Ok(())
}

async fn metric(setup: &Setup, series: &str) -> Checked<u64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| format!("no {series} in\n{page}"))?.parse()?)
}

/// Those that must wait wait together.
#[tokio::test]
async fn time_ends_what_it_must_and_nothing_else() -> Checked {
    tokio::try_join!(
        named(
            "an_answer_that_takes_its_time_ends_nothing_and_one_that_takes_for_ever_does",
            an_answer_that_takes_its_time_ends_nothing_and_one_that_takes_for_ever_does()
        ),
        named("what_is_open_ends_with_its_session", what_is_open_ends_with_its_session()),
        named(
            "what_its_client_says_keeps_a_session_in_use_and_what_its_app_says_does_not",
            what_its_client_says_keeps_a_session_in_use_and_what_its_app_says_does_not()
        ),
        named(
            "an_account_that_has_nothing_but_an_open_websocket_is_asked_about_all_the_same",
            an_account_that_has_nothing_but_an_open_websocket_is_asked_about_all_the_same()
        ),
        named(
            "a_route_that_wants_a_younger_membership_has_it_asked_for_while_something_is_open",
            a_route_that_wants_a_younger_membership_has_it_asked_for_while_something_is_open()
        ),
        named(
            "silence_of_bitbucket_ends_nothing_within_the_grace_and_everything_after_it",
            silence_of_bitbucket_ends_nothing_within_the_grace_and_everything_after_it()
        ),
        named(
            "event_streams_polls_downloads_and_uploads_end_before_their_end",
            event_streams_polls_downloads_and_uploads_end_before_their_end()
        ),
    )?;
    Ok(())
}

async fn named(name: &str, test: impl Future<Output = Checked>) -> Checked {
    test.await.map_err(|error| format!("{name}: {error}").into())
}

#[tokio::test]
async fn a_sign_out_in_one_tab_ends_what_is_open_in_the_others_and_nothing_else() -> Checked {
    let setup = sockets(Config::default()).await?;
    let (ben, bens_phone, ann) =
        (setup.signed_in("ben").await?, setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    let mut bens_other = socket(&setup, &ben, "/lobby/ws").await?;
    let mut public = socket(&setup, &ben, "/ws").await?;
    let mut phone = socket(&setup, &bens_phone, "/team/ws").await?;
    let mut anns = socket(&setup, &ann, "/team/ws").await?;
    let kind = "teamgate_open_connections{kind=\"websocket\"}";
    assert_eq!(metric(&setup, kind).await?, 4, "a public one is nobody's");

    // Another tab, on a connection that stays open and has its answer.
    let mut tab = Wire::connect(setup.gateway.address()).await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    tab.send(&lasting("GET", &setup.url("/")).header("Cookie", &cookie).bytes()).await?;
    tab.response().await?.expect(200)?;
    let since = Instant::now();
    let goodbye = lasting("POST", &setup.url("/.teamgate/logout"))
        .header("Cookie", &cookie)
        .header("Origin", &setup.url(""))
        .header("Content-Length", "0");
    tab.send(&goodbye.bytes()).await?;
    tab.response().await?.expect(200)?;

    assert_eq!(last_word(&mut bens).await?, word(1008, "signed out"));
    assert_eq!(last_word(&mut bens_other).await?, word(1008, "signed out"));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    for other in [&mut public, &mut phone, &mut anns] {
        assert!(timeout(A_WHILE, other.next()).await.is_err());
        echoed(other, Message::text("still here")).await?;
    }
    tab.send(&lasting("GET", &setup.url("/public")).bytes()).await?;
    tab.response().await?.expect(200)?;

    let records = setup.gateway.recorded("connection_ended", 2).await?;
    assert_eq!(records.len(), 2, "{records:?}");
    for route in ["team-ws", "lobby-ws"] {
        let record = records.iter().find(|record| record["route"] == route).ok_or(route)?;
        assert_eq!(record["reason"], "signed_out");
        assert_eq!(record["kind"], "websocket");
        assert_eq!(record["account"], "b0000000-0000-4000-8000-0000000000b1");
        assert!(record["open_seconds"].as_u64().is_some_and(|seconds| seconds < 60), "{record}");
    }
    assert_eq!(metric(&setup, "teamgate_connections_closed_total{reason=\"signed_out\"}").await?, 2);
    assert_eq!(metric(&setup, "teamgate_connections_closed_total{reason=\"not_allowed\"}").await?, 0);
    eventually("their access lines say why", async || {
        Ok(setup.gateway.access().iter().filter(|line| line["reason"] == "signed out").count() == 2)
    })
    .await?;
    eventually("two are left", async || Ok(metric(&setup, kind).await? == 2)).await
}

#[tokio::test]
async fn who_loses_a_team_loses_what_it_opened_and_keeps_what_it_did_not() -> Checked {
    let setup = sockets(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let (ben, ann) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let mut team = socket(&setup, &ben, "/team/ws").await?;
    let mut lobby = socket(&setup, &ben, "/lobby/ws").await?;
    let mut anns = socket(&setup, &ann, "/team/ws").await?;
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    assert_eq!(last_word(&mut team).await?, word(1008, "access to this app was withdrawn"));
    assert!(timeout(A_WHILE, lobby.next()).await.is_err());
    echoed(&mut lobby, Message::text("still here")).await?;
    echoed(&mut anns, Message::text("still here")).await?;
    assert_eq!(setup.gateway.recorded("connection_ended", 1).await?[0]["reason"], "not_allowed");
    // Whoever is let in again opens it again.
    setup.simulator.with(|world| world.add_member("ben", "acme", Permission::Member, false))?;
    let url = setup.url("/");
    eventually("ben is back", async || Ok(ben.script(&url).await?.status == 200)).await?;
    socket(&setup, &ben, "/team/ws").await?;
    Ok(())
}

#[tokio::test]
async fn who_loses_a_permission_on_a_repository_loses_what_it_opened() -> Checked {
    let (app, _) = echoes().await?;
    let api = format!(
        "name: api-ws, path: /api/ws, allow: [{{ repository: acme/api, permission: write }}], upstream: \"http://{}\"",
        app.address
    );
    let setup = Setup::with(Config::default().top("directory: { refresh_after: 1s }").route(&api)).await?;
    setup.simulator.with(|world| {
        world.client_mut(EXAMPLE_CLIENT_ID).map(|client| client.scopes.push("repository".to_owned()))
    })?;
    let ben = setup.signed_in("ben").await?;
    let mut socket = socket(&setup, &ben, "/api/ws").await?;
    setup.simulator.with(|world| world.set_repository_permission("ben", "acme/api", Some("read")))?;
    assert_eq!(last_word(&mut socket).await?, word(1008, "access to this app was withdrawn"));
    Ok(())
}

#[tokio::test]
async fn who_is_in_none_of_the_teams_any_more_loses_everything() -> Checked {
    let config = of_acme(Config::default()).top("directory: { refresh_after: 1s }");
    let setup = sockets(config).await?;
    let ben = setup.signed_in("ben").await?;
    let mut lobby = socket(&setup, &ben, "/lobby/ws").await?;
    let mut public = socket(&setup, &ben, "/ws").await?;
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    assert_eq!(last_word(&mut lobby).await?, word(1008, "access to this app was withdrawn"));
    echoed(&mut public, Message::text("still here")).await
}

#[tokio::test]
async fn a_withdrawn_grant_ends_what_is_open_in_every_browser() -> Checked {
    let setup = sockets(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let (one, two) = (setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    let mut ones = socket(&setup, &one, "/team/ws").await?;
    let mut twos = socket(&setup, &two, "/lobby/ws").await?;
    setup.simulator.with(|world| world.revoke_grant("ben"))?;
    assert_eq!(last_word(&mut ones).await?, word(1008, "the session was ended"));
    assert_eq!(last_word(&mut twos).await?, word(1008, "the session was ended"));
    Ok(())
}

async fn what_is_open_ends_with_its_session() -> Checked {
    let setup = sockets(Config::default().top("session: { lifetime: 10s, idle: 10s }")).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    let mut public = socket(&setup, &ben, "/ws").await?;
    // However busy it is.
    let ended = loop {
        bens.send(Message::text("busy")).await?;
        match timeout(PATIENCE, bens.next()).await? {
            Some(Ok(message)) if message.is_text() => sleep(Duration::from_millis(100)).await,
            Some(Ok(Message::Close(Some(frame)))) => break (frame.code.into(), frame.reason.to_string()),
            other => return Err(format!("{other:?}").into()),
        }
    };
    assert_eq!(ended, word(1008, "the session has expired"));
    echoed(&mut public, Message::text("still here")).await
}

/// A terminal keeps its session in use, as a page would that asks again and again.
async fn what_its_client_says_keeps_a_session_in_use_and_what_its_app_says_does_not() -> Checked {
    let setup = sockets(Config::default().top("session: { idle: 2s }")).await?;
    let (ben, ann) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let mut talking = socket(&setup, &ben, "/team/ws").await?;
    let cookie = ann.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let mut listening = Wire::connect(setup.gateway.address()).await?;
    listening.send(&lasting("GET", &setup.url("/sse")).header("Cookie", &cookie).bytes()).await?;
    listening.head().await?.expect(200)?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        echoed(&mut talking, Message::text("ls")).await?;
        setup.upstream.push("data: tick\n\n");
        sleep(Duration::from_millis(100)).await;
    }
    let record = &setup.gateway.recorded("connection_ended", 1).await?[0];
    assert_eq!((&record["reason"], &record["kind"]), (&"expired".into(), &"events".into()));
    assert!(!listening.rest().await?.ends_with(b"0\r\n\r\n"), "it looks whole");
    ben.script(&setup.url("/")).await?.expect(200)?;
    ann.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

/// Past `max_age` nobody asks about an account that is not in use; what is open keeps it in use.
async fn an_account_that_has_nothing_but_an_open_websocket_is_asked_about_all_the_same() -> Checked {
    let setup = sockets(Config::default().top("directory: { refresh_after: 1s, max_age: 2s }")).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    assert!(timeout(Duration::from_secs(5), bens.next()).await.is_err(), "it ended, or something came");
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    assert_eq!(last_word(&mut bens).await?, word(1008, "access to this app was withdrawn"));
    Ok(())
}

/// The background goes by `refresh_after`, which is minutes; the route wants less.
async fn a_route_that_wants_a_younger_membership_has_it_asked_for_while_something_is_open() -> Checked {
    let (app, _) = echoes().await?;
    let strict = format!(
        "name: strict, path: /strict, teams: [acme], max_age: 2s, upstream: \"http://{}\"",
        app.address
    );
    let setup = Setup::with(Config::default().route(&strict)).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/strict").await?;
    assert!(timeout(Duration::from_secs(4), bens.next()).await.is_err(), "it ended, or something came");
    setup.simulator.with(|world| world.remove_member("ben", "acme"))?;
    assert_eq!(last_word(&mut bens).await?, word(1008, "access to this app was withdrawn"));
    Ok(())
}

async fn silence_of_bitbucket_ends_nothing_within_the_grace_and_everything_after_it() -> Checked {
    let ages = "directory: { refresh_after: 1s, max_age: 2s, outage_grace: 8s }";
    let setup = sockets(Config::default().top(ages)).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    let mut public = socket(&setup, &ben, "/ws").await?;
    setup.simulator.with(|world| world.fault(Fault::new("*", FaultKind::Drop)));
    assert!(timeout(Duration::from_secs(5), bens.next()).await.is_err(), "it ended, or something came");
    echoed(&mut bens, Message::text("within the grace")).await?;
    let silence = "team memberships cannot be checked right now; try again later";
    assert_eq!(last_word(&mut bens).await?, word(1013, silence));
    echoed(&mut public, Message::text("still here")).await?;
    assert_eq!(setup.gateway.recorded("connection_ended", 1).await?[0]["reason"], "cannot_tell");
    assert!(setup.gateway.audited("sessions_ended").is_empty(), "nobody is signed out by it");
    Ok(())
}

/// Bitbucket may take longer to answer than an answer is good for.
async fn an_answer_that_takes_its_time_ends_nothing_and_one_that_takes_for_ever_does() -> Checked {
    let ages = "directory: { refresh_after: 1s, max_age: 2s, outage_grace: 0s }";
    let setup = sockets(of_acme(Config::default()).top(ages)).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    let slow = |by: u64| Fault::new("*", FaultKind::Slow(Duration::from_secs(by)));
    setup.simulator.with(|world| world.fault(slow(2)));
    assert!(timeout(Duration::from_secs(7), bens.next()).await.is_err(), "it ended, or something came");
    setup.simulator.with(|world| {
        world.clear_faults();
        world.fault(slow(60));
    });
    let silence = "team memberships cannot be checked right now; try again later";
    assert_eq!(last_word(&mut bens).await?, word(1013, silence));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_500_websockets_those_of_one_account_end_and_the_others_go_on() -> Checked {
    let setup = sockets(Config::default().top("directory: { refresh_after: 1s }")).await?;
    let mut browsers = Vec::new();
    for user in ["ann", "ben", "cleo", "dan", "ben"] {
        browsers.push((user, setup.signed_in(user).await?));
    }
    let opening = (0..500).map(|number| {
        let (user, browser) = &browsers[number % browsers.len()];
        let setup = &setup;
        async move { Checked::Ok((*user, socket(setup, browser, "/lobby/ws").await?)) }
    });
    let mut open = Vec::new();
    for opened in join_all(opening).await {
        open.push(opened?);
    }
    let series = "teamgate_open_connections{kind=\"websocket\"}";
    assert_eq!(metric(&setup, series).await?, 500);
    setup.simulator.with(|world| world.revoke_grant("ben"))?;
    let (mut bens, mut others): (Vec<_>, Vec<_>) = open.into_iter().partition(|(user, _)| *user == "ben");
    assert_eq!((bens.len(), others.len()), (200, 300));
    for ended in join_all(bens.iter_mut().map(|(_, socket)| last_word(socket))).await {
        assert_eq!(ended?, word(1008, "the session was ended"));
    }
    for echo in join_all(others.iter_mut().map(|(_, socket)| echoed(socket, Message::text("here")))).await {
        echo?;
    }
    assert_eq!(setup.gateway.recorded("connection_ended", 200).await?.len(), 200);
    assert_eq!(metric(&setup, "teamgate_connections_closed_total{reason=\"revoked\"}").await?, 200);
    eventually("the others are left", async || Ok(metric(&setup, series).await? == 300)).await
}

async fn event_streams_polls_downloads_and_uploads_end_before_their_end() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "app")).await?;
    let (ben, ann) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let (bens, anns) = (ben.cookie_header(&setup.url("/"))?, ann.cookie_header(&setup.url("/"))?);
    let (bens, anns) = (bens.ok_or("no cookie")?, anns.ok_or("no cookie")?);
    let begin = async |request: Request| -> Checked<(Wire, TcpStream)> {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&request.bytes()).await?;
        let (stream, _) = app.hear().await?;
        Ok((wire, stream))
    };
    let get = |cookie: &str| lasting("GET", &setup.url("/team/app")).header("Cookie", cookie);
    let begun = "HTTP/1.1 200 OK\r\n";

    let (mut events, mut app_of_events) = begin(get(&bens)).await?;
    let head = format!("{begun}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    app_of_events.write_all(head.as_bytes()).await?;
    app_of_events.write_all(b"d\r\ndata: hello\n\n\r\n").await?;
    events.head().await?.expect(200)?;
    event(&mut events, "hello").await?;
    let (mut poll, mut app_of_poll) = begin(get(&bens)).await?;
    let (mut download, mut app_of_download) = begin(get(&bens)).await?;
    app_of_download.write_all(format!("{begun}Content-Length: 10\r\n\r\nfirst").as_bytes()).await?;
    let (mut chunked, mut app_of_chunked) = begin(get(&bens)).await?;
    let head = format!("{begun}Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    app_of_chunked.write_all(head.as_bytes()).await?;
    let post = lasting("POST", &setup.url("/team/app")).header("Cookie", &bens).header("Content-Length", "9");
    let (mut upload, mut app_of_upload) = begin(post).await?;
    upload.send(b"first").await?;
    let mut heard = Vec::new();
    read_until(&mut app_of_upload, &mut heard, b"first").await?;
    // One that the app does not take: nobody reads what the client says, and nobody waits for it.
    let post = lasting("POST", &setup.url("/team/app")).header("Cookie", &bens);
    let (mut stuck, mut app_of_stuck) = begin(post.header("Content-Length", "1000000000")).await?;
    let much = vec![b'x'; 1 << 20];
    while timeout(Duration::from_millis(300), stuck.send(&much)).await.is_ok() {}
    let (mut other, mut app_of_other) = begin(get(&anns)).await?;
    let public = lasting("GET", &setup.url("/app")).header("Cookie", &bens);
    let (mut nobodys, mut app_of_nobodys) = begin(public).await?;

    sign_out(&setup, &ben).await?;
    let since = Instant::now();
    // An event stream at once …
    assert!(!events.rest().await?.ends_with(b"0\r\n\r\n"), "it looks whole");
    // … the others when they have been under way for so long that nobody would expect them to be over.
    assert_eq!(poll.rest().await?, b"");
    let cut = download.rest().await?;
    assert!(!cut.ends_with(b"firstfinal") && !cut.starts_with(b"HTTP/1.1 5"), "{}", cut.escape_ascii());
    assert!(chunked.rest().await?.ends_with(b"5\r\nfirst\r\n"));
    assert_eq!(upload.rest().await?, b"");
    assert_eq!(stuck.rest().await?, b"");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    for stream in [
        &mut app_of_events,
        &mut app_of_poll,
        &mut app_of_download,
        &mut app_of_chunked,
        &mut app_of_upload,
        &mut app_of_stuck,
    ] {
        closed(stream).await?;
    }
    for stream in [&mut app_of_other, &mut app_of_nobodys] {
        stream.write_all(format!("{begun}Content-Length: 4\r\n\r\ngood").as_bytes()).await?;
    }
    assert_eq!(other.response().await?.expect(200)?.text(), "good");
    assert_eq!(nobodys.response().await?.expect(200)?.text(), "good");
    let records = setup.gateway.recorded("connection_ended", 6).await?;
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!((of("events"), of("stream")), (1, 5), "{records:?}");
    eventually("their access lines say why", async || {
        Ok(setup.gateway.access().iter().filter(|line| line["reason"] == "signed out").count() == 6)
    })
    .await
}

/// What was let in a moment ago and will be over in a moment is not cut in two.
#[tokio::test]
async fn a_short_request_outlives_the_sign_out_that_overtook_it() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("GET", &setup.url("/hold")).header("Cookie", &cookie).bytes()).await?;
    eventually("the app has it", async || Ok(!setup.upstream.received_at("/hold").is_empty())).await?;
    sign_out(&setup, &ben).await?;
    assert!(wire.is_silent_for(A_WHILE).await);
    setup.upstream.release();
    wire.response().await?.expect(200)?;
    ben.script(&setup.url("/")).await?.expect(401)?;
    Ok(())
}

/// Within a frame of the app's a frame of ours would be a part of it.
#[tokio::test]
async fn a_websocket_that_is_cut_within_a_frame_is_told_nothing() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let begin = async || -> Checked<(Wire, TcpStream)> {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        let request = Request::get(&setup.url("/team/ws")).headers(UPGRADE).header("Cookie", &cookie);
        wire.send(&request.bytes()).await?;
        let (mut stream, _) = app.hear().await?;
        stream.write_all(GRANTED).await?;
        wire.until(b"\r\n\r\n").await?;
        Ok((wire, stream))
    };
    // Half a frame and no more; half a frame whose other half comes; a frame in which there is what looks like one.
    let (mut half, mut app_of_half) = begin().await?;
    app_of_half.write_all(b"\x82\x05he").await?;
    half.until(b"he").await?;
    let (mut late, mut app_of_late) = begin().await?;
    app_of_late.write_all(b"\x82\x05he").await?;
    late.until(b"he").await?;
    let (mut whole, mut app_of_whole) = begin().await?;
    app_of_whole.write_all(b"\x82\x02\x88\x00").await?;
    whole.until(b"\x88\x00").await?;
    let (mut done, mut app_of_done) = begin().await?;
    app_of_done.write_all(b"\x88\x02\x03\xe8").await?;
    done.until(b"\x03\xe8").await?;

    sign_out(&setup, &ben).await?;
    // Two bytes, 1008, and why.
    let goodbye = b"\x88\x0c\x03\xf0signed out";
    assert_eq!(whole.rest().await?, goodbye);
    setup.gateway.recorded("connection_ended", 4).await?;
    // The app goes on as if nothing were: what is of this frame goes through, what is of the next does not.
    app_of_late.write_all(b"llo\x82\x02no").await?;
    assert_eq!(late.rest().await?, [b"llo".as_slice(), goodbye].concat());
    assert_eq!(half.rest().await?, b"");
    assert_eq!(done.rest().await?, b"");
    for stream in [&mut app_of_half, &mut app_of_late, &mut app_of_whole, &mut app_of_done] {
        closed(stream).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_client_sends_when_its_pass_is_lost_does_not_reach_the_app() -> Checked {
    let app = App::start().await?;
    let setup = Setup::with(app.routes(Config::default(), "ws")).await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let request = Request::get(&setup.url("/team/ws")).headers(UPGRADE).header("Cookie", &cookie);
    wire.send(&request.bytes()).await?;
    let (mut stream, _) = app.hear().await?;
    stream.write_all(GRANTED).await?;
    wire.until(b"\r\n\r\n").await?;
    sign_out(&setup, &ben).await?;
    wire.until(b"signed out").await?;
    // A client that goes on talking, so that there is something unread when the connection is closed.
    let _ = wire.send(&[b'x'; 10_000]).await;
    wire.rest().await?;
    let mut heard = Vec::new();
    let error = read_until(&mut stream, &mut heard, b"x").await.err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.starts_with("the end") || error.contains("reset")), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_its_grace_for_what_is_open_and_no_longer() -> Checked {
    let mut setup = sockets(Config::default().top("shutdown_grace: 2s")).await?;
    let ben = setup.signed_in("ben").await?;
    let mut bens = socket(&setup, &ben, "/team/ws").await?;
    setup.gateway.process().signal_term()?;
    // It goes on meanwhile, and is still decided on.
    echoed(&mut bens, Message::text("still here")).await?;
    assert_eq!(setup.gateway.process().exit_code().await?, 0);
    assert!(matches!(timeout(PATIENCE, bens.next()).await?, None | Some(Err(_))));
    Ok(())
}

/// A request on an HTTP/2 connection of many, and what its app has of it.
struct Call {
    answer: h2::client::ResponseFuture,
    _asking: SendStream<Bytes>,
    app: TcpStream,
}

async fn call(
    connection: &SendRequest<Bytes>,
    app: &App,
    url: &str,
    fields: &[(&'static str, &str)],
) -> Checked<Call> {
    let mut request = http::Request::post(url).body(())?;
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse()?);
    }
    let mut connection = connection.clone().ready().await?;
    let (answer, asking) = connection.send_request(request, false)?;
    let (app, _) = app.hear().await?;
    Ok(Call { answer, _asking: asking, app })
}

impl Call {
    /// The app begins to answer.
    async fn begins(&mut self, kind: &str) -> Checked<RecvStream> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        self.app.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).await?;
        let mut body = timeout(PATIENCE, &mut self.answer).await??.into_body();
        assert_eq!(chunk(&mut body).await?.as_deref(), Some(b"first".as_slice()));
        Ok(body)
    }
}

async fn chunk(body: &mut RecvStream) -> Checked<Option<Bytes>> {
    let data = timeout(PATIENCE, body.data()).await?.transpose()?;
    if let Some(data) = &data {
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(data)
}

fn grpc_status(fields: &http::HeaderMap) -> (Option<&str>, Option<&str>) {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    (text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn in_http2_the_streams_of_a_session_end_and_the_others_on_their_connection_go_on() -> Checked {
    let app = App::start().await?;
    let config = Config::default().top("listen: [{ address: $LISTEN, h2c: true }]");
    let setup = Setup::with(app.routes(config, "app")).await?;
    let (ben, ann) = (setup.signed_in("ben").await?, setup.signed_in("ann").await?);
    let bens = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let anns = ann.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let stream = TcpStream::connect(setup.gateway.address()).await?;
    let (connection, driving) = h2::client::handshake(stream).await?;
    tokio::spawn(driving);
    let (team, public) = (setup.url("/team/app"), setup.url("/app"));

    // Whoever is refused is told so in a way that gRPC clients take for an answer: the head is the end.
    let mut nobody = http::Request::post(&team).body(())?;
    nobody.headers_mut().insert("content-type", "application/grpc".parse()?);
    let refused =
        timeout(PATIENCE, connection.clone().ready().await?.send_request(nobody, true)?.0).await??;
    assert_eq!(grpc_status(refused.headers()).0, Some("16"));
    assert!(refused.into_body().is_end_stream());

    let grpc = ("content-type", "application/grpc+proto");

    let mut events = call(&connection, &app, &team, &[("cookie", &bens)]).await?;
    let mut events_body = events.begins("text/event-stream").await?;
    let mut talking = call(&connection, &app, &team, &[("cookie", &bens), grpc]).await?;
    let mut talking_body = talking.begins("application/grpc").await?;
    let waiting = call(&connection, &app, &team, &[("cookie", &bens), grpc]).await?;
    let mut other = call(&connection, &app, &team, &[("cookie", &anns), grpc]).await?;
    let mut other_body = other.begins("application/grpc").await?;
    let mut nobodys = call(&connection, &app, &public, &[("cookie", &bens), grpc]).await?;
    let mut nobodys_body = nobodys.begins("application/grpc").await?;

    sign_out(&setup, &ben).await?;
    let reset = timeout(PATIENCE, events_body.data()).await?.ok_or("it looks whole")?;
    assert_eq!(reset.err().and_then(|error| error.reason()), Some(Reason::CANCEL));
    assert_eq!(chunk(&mut talking_body).await?, None);
    let trailers = timeout(PATIENCE, talking_body.trailers()).await??.ok_or("no trailers")?;
    assert_eq!(grpc_status(&trailers), (Some("16"), Some("signed out")));
    let Call { answer, app: mut app_of_waiting, .. } = waiting;
    let answer = timeout(PATIENCE, answer).await??;
    assert_eq!(
        (answer.status().as_u16(), grpc_status(answer.headers())),
        (200, (Some("16"), Some("signed out")))
    );
    assert_eq!(chunk(&mut answer.into_body()).await?, None);
    for app in [&mut events.app, &mut talking.app, &mut app_of_waiting] {
        closed(app).await?;
    }

    for (call, body) in [(&mut other, &mut other_body), (&mut nobodys, &mut nobodys_body)] {
        call.app.write_all(b"4\r\nmore\r\n0\r\n\r\n").await?;
        let mut rest = Vec::new();
        while let Some(chunk) = chunk(body).await? {
            rest.extend(chunk);
        }
        assert_eq!(rest, b"more");
    }
    let records = setup.gateway.recorded("connection_ended", 3).await?;
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!((of("events"), of("grpc")), (1, 2), "{records:?}");
    eventually("their access lines say why", async || {
        Ok(setup.gateway.access().iter().filter(|line| line["reason"] == "signed out").count() == 3)
    })
    .await
}
