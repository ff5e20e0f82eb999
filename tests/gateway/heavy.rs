//! Much, long and often: memory stays flat, nothing is lost, nothing leaks.
//!
//! With `TEAMGATE_HEAVY=1` the same at full size (2 GiB each way, minutes of streams and load):
//! `TEAMGATE_HEAVY=1 cargo test --test gateway heavy:: -- --test-threads=1 --nocapture`.

#![expect(
    clippy::print_stdout,
    reason = "what was measured is shown to whoever asks for it, with --nocapture"
)]

mod store;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{accept_async, client_async};

use crate::support::{Browser, Checked, Config, Nginx, PATIENCE, Request, Setup, Wire, eventually, send};

/// What a part of these tests may cost at most, in KiB of memory.
const FLAT: u64 = 32 * 1024;

/// `small`, or `full` where that was asked for.
fn size<T>(small: T, full: T) -> T {
    if std::env::var_os("TEAMGATE_HEAVY").is_some() { full } else { small }
}

fn listening() -> Config {
    Config::default().top("listen: [{ address: $LISTEN, h2c: true }]")
}

/// Runs a program that must succeed, and gives what it printed. `package` is what has it.
async fn tool(program: &'static str, package: &'static str, arguments: &[&str]) -> Checked<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.map_err(|error| format!("{program}: {error}; install Debian's package {package}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{program}: {said}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// An app that takes and gives as much as it is asked for, and keeps nothing: it answers GET with `size` bytes, and
/// anything else with how many bytes its body had.
async fn bulk(size: u64) -> Checked<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // It ends in an error when the gateway closes it.
                let _ = take_or_give(stream, size).await;
            });
        }
    });
    Ok(address)
}

async fn take_or_give(mut stream: TcpStream, size: u64) -> Checked {
    let mut buffer = Vec::with_capacity(256 * 1024);
    loop {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        if head.starts_with("get ") {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await?;
            let piece = vec![b'x'; 64 * 1024];
            let mut rest = size;
            while rest > 0 {
                let now = rest.min(piece.len() as u64);
                stream.write_all(&piece[..now as usize]).await?;
                rest -= now;
            }
        } else {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or("no length")?;
            let length: u64 = length.trim().parse()?;
            let mut taken = (buffer.len() - end - 4) as u64;
            while taken < length {
                buffer.clear();
                taken += match stream.read_buf(&mut buffer).await? {
                    0 => return Err("cut".into()),
                    count => count as u64,
                };
            }
            let said = taken.to_string();
            stream
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()).as_bytes(),
                )
                .await?;
        }
        buffer.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_however_much_goes_through() -> Checked {
    let bytes = size(96 << 20, 2 << 30);
    let app = bulk(bytes).await?;
    let route = format!("name: bulk, path: /bulk, access: public, upstream: \"http://{app}\"");
    let setup = Setup::with(listening().route(&route)).await?;
    let url = setup.url("/bulk");
    // A file without a byte on the disk.
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(bytes)?;
    let path = file.path().to_str().ok_or("the path is text")?.to_owned();
    send(&Request::get(&setup.url("/public/x"))).await?.expect(200)?;
    let common = ["--silent", "--show-error", "--noproxy", "*"];
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for direction in ["up", "down"] {
            let (before, peak) = (setup.gateway.memory()?, setup.gateway.peak_memory()?);
            let began = Instant::now();
            let arguments: &[&str] = match direction {
                "up" => &[version, "--header", "Expect:", "--upload-file", &path, &url],
                _ => &[version, "--output", "/dev/null", "--write-out", "%{size_download}", &url],
            };
            let said = tool("curl", "curl", &[&common, arguments].concat()).await?;
            assert_eq!(said.trim(), bytes.to_string(), "{version} {direction}");
            let highest = setup.gateway.peak_memory()?;
            // The peak is that of its whole life: if it has not risen, this was not it.
            let grown = if highest > peak { highest - before } else { 0 };
            println!("{version} {direction}: {} MiB in {:?}, {grown} KiB more", bytes >> 20, began.elapsed());
            assert!(grown < FLAT, "{version} {direction}: {grown} KiB more");
        }
    }
    Ok(())
}

/// An app that says every WebSocket message back.
async fn echo() -> Checked<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// The value of a metric without labels, or of all its labels together.
async fn metric(setup: &Setup, name: &str) -> Checked<f64> {
    let metrics = Browser::new().get(&setup.gateway.admin_url("/metrics")).await?.text();
    let lines = metrics.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// Every wait that the configuration knows is shorter than the streams are long.
const RESTLESS: &str = "
directory: { refresh_after: 1s, profile_after: 2s, max_age: 4s }
assertion: { lifetime: 30s }
upstream_timeouts: { header: 1s, idle: 1s }
limits: { body_timeout: 1s, keep_alive: 1s, answer_timeout: 1s, header_timeout: 1s }
";

/// An hour made short: memberships are asked for again and again, assertions and connections renewed, while streams are
/// open, and of these not one message is lost or out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_everything_that_is_renewed_around_them() -> Checked {
    let app = echo().await?;
    let route = format!("name: ws, path: /ws, teams: [acme], upstream: \"http://{app}\"");
    let setup = Setup::with(listening().top(RESTLESS).route(&route)).await?;
    let (address, span) = (setup.gateway.address(), size(Duration::from_secs(4), Duration::from_secs(120)));
    let ends = Instant::now() + span;
    let mut streams = JoinSet::new();
    let mut readers = Vec::new();
    for name in ["ann", "ben"] {
        let browser = setup.signed_in(name).await?;
        let cookie = browser.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
        for number in 0..4 {
            // Half of the sockets speak all the time, and half only now and then.
            let pause = Duration::from_millis(if number % 2 == 0 { 20 } else { 1_700 });
            streams.spawn(talk(address, cookie.clone(), pause, ends));
            let mut wire = Wire::connect(address).await?;
            let events = Request::get(&setup.url("/sse")).headers(&[
                ("Accept", "text/event-stream"),
                ("Cookie", &cookie),
                ("Connection", "keep-alive"),
            ]);
            wire.send(&events.bytes()).await?;
            wire.head().await?.expect(200)?;
            wire.until(b"data: hello\n\n").await?;
            readers.push(wire);
        }
        // Pages are loaded beside.
        let url = setup.url("/page");
        streams.spawn(async move {
            let mut count = 0;
            while Instant::now() < ends {
                browser.get(&url).await?.expect(200)?;
                count += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(count)
        });
    }
    let mut events = 0_u64;
    while Instant::now() < ends {
        setup.upstream.push(format!("data: {events}\n\n"));
        events += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    setup.upstream.push("data: last\n\n");
    for mut wire in readers {
        let heard = wire.until(b"data: last\n\n").await?;
        let heard = String::from_utf8_lossy(&heard);
        let numbers: Vec<u64> = heard
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|number| number.parse().ok())
            .collect();
        assert!(numbers.iter().copied().eq(0..events), "{} of {events} events", numbers.len());
    }
    let mut messages = 0;
    while let Some(count) = streams.join_next().await {
        messages += count??;
    }
    let requeries = metric(&setup, "teamgate_requeries_total").await?;
    println!("{span:?}: {events} events to 8 streams, {messages} messages and pages, {requeries} re-queries");
    assert!(requeries >= span.as_secs_f64(), "{requeries} re-queries");
    assert_eq!(metric(&setup, "teamgate_connections_closed_total").await?, 0.0);
    Ok(())
}

/// Says numbers over a WebSocket and hears them back, until `ends`; how many.
async fn talk(address: SocketAddr, cookie: String, pause: Duration, ends: Instant) -> Checked<u64> {
    let mut request = format!("ws://{address}/ws").into_client_request()?;
    request.headers_mut().insert("Cookie", cookie.parse()?);
    let stream = TcpStream::connect(address).await?;
    let (mut socket, _) = timeout(PATIENCE, client_async(request, stream)).await??;
    let mut count = 0_u64;
    while Instant::now() < ends {
        socket.send(Message::text(count.to_string())).await?;
        let back = timeout(PATIENCE, socket.next()).await?.ok_or("the end of a WebSocket")??;
        assert_eq!(back, Message::text(count.to_string()));
        count += 1;
        tokio::time::sleep(pause).await;
    }
    Ok(count)
}

/// The number behind `what` in what a tool printed.
fn number_of(what: &str, said: &str) -> Checked<u64> {
    let word = said.split(what).nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(word.ok_or_else(|| format!("no {what} in {said}"))?.trim_end_matches(',').parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_request_fails_and_nothing_leaks() -> Checked {
    let nginx = Nginx::saying("hello").await?;
    let url = nginx.url();
    let routes = format!(
        "- {{ name: open, path: /open, access: public, upstream: \"{url}\" }}
- {{ name: team, path: /team, teams: [acme], upstream: \"{url}\" }}
- {{ name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }}
"
    );
    let setup = Setup::with(listening().top("log: { access: false, format: json }").routes(&routes)).await?;
    let cookie = setup.signed_in("ann").await?.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let cookie = format!("Cookie: {cookie}");
    let (seconds, requests) = (size("1s", "10s"), size("500", "20000"));
    let (mut memory, mut files) = (0, 0);
    for round in 0..size(2, 4) {
        for target in [setup.url("/open"), setup.url("/team")] {
            let load = ["--threads", "1", "--connections", "32", "--duration", seconds, "--header", &cookie];
            let said = tool("wrk", "wrk", &[&load[..], &[&target]].concat()).await?;
            assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
            let load = [
                "--requests",
                requests,
                "--clients",
                "4",
                "--max-concurrent-streams",
                "16",
                "--header",
                &cookie,
            ];
            let said =
                tool("h2load", "nghttp2-client", &[&load[..], &["--no-tls-proto=h2c", &target]].concat())
                    .await?;
            assert_eq!(number_of("requests: ", &said)?.to_string(), requests, "{said}");
            for failed in [" succeeded, ", " failed, "] {
                assert_eq!(number_of(failed, &said)?, 0, "{said}");
            }
            assert!(said.contains(&format!("status codes: {requests} 2xx")), "{said}");
        }
        eventually(
            "the clients are gone",
            async || Ok(metric(&setup, "teamgate_connections ").await? == 0.0),
        )
        .await?;
        if round == 0 {
            // What load costs once: caches, pools, arenas of threads.
            memory = setup.gateway.memory()?;
            files = setup.gateway.open_files()?;
        }
    }
    let grown = setup.gateway.memory()?.saturating_sub(memory);
    println!("{grown} KiB and {} files more", setup.gateway.open_files()? as i64 - files as i64);
    assert!(grown < FLAT, "{grown} KiB more");
    // Kept connections to the app are as many as were needed at once.
    assert!(
        setup.gateway.open_files()? < files + 64,
        "{} files, {files} before",
        setup.gateway.open_files()?
    );
    Ok(())
}

/// Once the full size: `TEAMGATE_HEAVY=1 cargo test --test gateway heavy::killed -- --nocapture`. The seed is printed, and
/// `TEAMGATE_SEED` sets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_two_hundred_times_it_remembers_what_it_said() -> Checked {
    let began = Instant::now();
    let (kills, time) = size((2, Duration::from_secs(20)), (200, Duration::from_secs(3600)));
    let (killed, lost) = crate::durability::killed_often(kills, time).await?;
    println!("killed {killed} times in {:.0?}; {lost} tokens were lost and had again", began.elapsed());
    assert!(killed >= kills && (kills < 100 || lost > 0), "{killed} kills, {lost} lost");
    Ok(())
}
