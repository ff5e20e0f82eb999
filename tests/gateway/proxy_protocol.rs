//! Listeners that are told by a proxy in front who the client is: whose word is taken, and what becomes of it.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Authority, Checked, Config, Haproxy, PATIENCE, Request, Setup, Wire, eventually, send};

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const GET: &[u8] = b"GET /public HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

/// One listener with the protocol, for proxies on this machine, and more keys of the top level.
fn behind_a_proxy(top: &str) -> Config {
    Config::default()
        .top("listen: [{ address: $LISTEN, proxy_protocol: true }]")
        .top("trusted_proxies: [127.0.0.1]")
        .top(top)
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// `198.51.100.7:51234` to `192.0.2.1:443`, and what else a balancer likes to say.
fn v2_of_a_balancer() -> Vec<u8> {
    let addresses = [198, 51, 100, 7, 192, 0, 2, 1, 0xc8, 0x22, 0x01, 0xbb];
    let more = [&[0xea, 0, 5][..], b"\x01vpce", &[0x04, 0, 3, 0, 0, 0]].concat();
    v2(0x21, 0x11, &[&addresses[..], &more].concat())
}

async fn metric(setup: &Setup, reason: &str) -> Checked<u64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let series = format!("teamgate_connections_refused_total{{reason=\"{reason}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    value.ok_or_else(|| format!("no {series} in:\n{page}").into())
}

async fn refused(setup: &Setup, reason: &str, count: u64) -> Checked {
    eventually(&format!("{count} refused as {reason}"), async || Ok(metric(setup, reason).await? == count))
        .await
}

/// Whether the other side closes without a word.
async fn is_closed(wire: &mut Wire) -> Checked<bool> {
    Ok(wire.rest().await? == b"")
}

/// The clients of the access lines so far.
fn clients(setup: &Setup) -> Vec<Value> {
    setup.gateway.access().into_iter().map(|line| line["client"].clone()).collect()
}

#[tokio::test]
async fn a_proxy_of_ours_says_who_the_client_is() -> Checked {
    let setup = Setup::with(behind_a_proxy("")).await?;
    let v6 =
        [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[1, 2, 3, 4]].concat();
    let rows: [(Vec<u8>, &str, &str); 6] = [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 51234 443\r\n".to_vec(), "198.51.100.7", "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n".to_vec(), "2001:db8::7", "2001:db8::7"),
        (v2_of_a_balancer(), "198.51.100.7", "198.51.100.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::7", "2001:db8::7"),
        // The proxy speaks for itself, or says nothing: the connection is its own, and so is what it forwards.
        (b"PROXY UNKNOWN\r\n".to_vec(), "6.6.6.6", "6.6.6.6, 127.0.0.1"),
        (v2(0x20, 0, b""), "6.6.6.6", "6.6.6.6, 127.0.0.1"),
    ];
    for (count, (header, client, told)) in rows.into_iter().enumerate() {
        let what = header.escape_ascii().to_string();
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&[&header[..], GET].concat()).await?;
        let echo = wire.response().await?;
        assert_eq!(echo.status, 200, "{what}");
        assert_eq!(echo.echoed("x-forwarded-for")?.as_deref(), Some(told), "{what}");
        // All requests of the connection are the same client's; the header stands before the first only.
        wire.send(GET).await?;
        assert_eq!(wire.response().await?.echoed("x-forwarded-for")?.as_deref(), Some(told), "{what}");
        eventually("both are logged", async || Ok(clients(&setup).len() == 2 * (count + 1))).await?;
        assert_eq!(clients(&setup)[2 * count..], [client, client], "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_header_may_come_in_any_pieces() -> Checked {
    let setup = Setup::with(behind_a_proxy("")).await?;
    for header in [b"PROXY TCP4 198.51.100.7 192.0.2.1 51234 443\r\n".to_vec(), v2_of_a_balancer()] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        for byte in [&header[..], &GET[..5]].concat() {
            wire.send(&[byte]).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        wire.send(&GET[5..]).await?;
        assert_eq!(wire.response().await?.echoed("x-forwarded-for")?.as_deref(), Some("198.51.100.7"));
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_without_a_header_is_closed_and_nothing_of_it_is_heard() -> Checked {
    let setup = Setup::with(behind_a_proxy("limits: { handshake_timeout: 500ms }")).await?;
    let mut short = v2_of_a_balancer();
    short[15] = 3;
    let rows: [&[u8]; 6] = [
        GET,
        b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 51234\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 51234 443\n",
        &short,
    ];
    for (count, header) in rows.iter().enumerate() {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&[header, GET].concat()).await?;
        assert!(is_closed(&mut wire).await?, "{}", header.escape_ascii());
        refused(&setup, "proxy_header", count as u64 + 1).await?;
    }
    // Who never says it, or not to its end, is not waited for.
    for beginning in [&b""[..], b"PROXY TCP4 198.51", &SIGNATURE[..7]] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(beginning).await?;
        assert!(is_closed(&mut wire).await?);
    }
    refused(&setup, "slow", 3).await?;
    // Who only looks whether the door opens has done nothing wrong.
    for _ in 0..3 {
        drop(Wire::connect(setup.gateway.address()).await?);
    }
    setup.gateway.logged("PROXY header").await?;
    assert_eq!(metric(&setup, "proxy_header").await?, rows.len() as u64);
    assert_eq!(setup.upstream.received().len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_stranger_with_a_header_is_not_heard() -> Checked {
    let setup = Setup::with(behind_a_proxy("")).await?;
    let stranger = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut wire = Wire::connect_from(stranger, setup.gateway.address()).await?;
    // It may be closed before all is said.
    let _ = wire.send(&[&v2_of_a_balancer()[..], GET].concat()).await;
    assert!(is_closed(&mut wire).await?);
    refused(&setup, "not_a_proxy", 1).await?;
    setup.gateway.logged("takes connections of trusted_proxies only").await?;
    assert_eq!(setup.upstream.received().len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_listener_that_does_not_ask_for_it_takes_no_header() -> Checked {
    let setup = Setup::with(Config::default().top("trusted_proxies: [127.0.0.1]")).await?;
    for header in [b"PROXY TCP4 198.51.100.7 192.0.2.1 51234 443\r\n".to_vec(), v2_of_a_balancer()] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&[&header[..], GET].concat()).await?;
        let said = wire.rest().await?;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{}", said.escape_ascii());
    }
    assert_eq!(setup.upstream.received().len(), 0);
    Ok(())
}

#[tokio::test]
async fn connections_and_sign_ins_count_for_the_client_and_not_for_the_proxy() -> Checked {
    let setup = Setup::with(behind_a_proxy("limits: { connections_per_address: 2, sign_ins: 1/h }")).await?;
    let from = |client: &str| format!("PROXY TCP4 {client} 192.0.2.1 51234 443\r\n").into_bytes();
    let host = setup.gateway.address();
    let navigation =
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n\r\n");
    let mut kept = Vec::new();
    for (client, status) in [("198.51.100.7", 302), ("198.51.100.7", 429), ("198.51.100.8", 302)] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&[&from(client)[..], navigation.as_bytes()].concat()).await?;
        assert_eq!(wire.response().await?.status, status, "{client}");
        kept.push(wire);
    }
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&from("198.51.100.7")).await?;
    assert!(is_closed(&mut wire).await?);
    refused(&setup, "address_full", 1).await
}

// ── with a proxy that is not ours

/// The address of the test's client: not that of HAProxy, which speaks from 127.0.0.1.
const CLIENT: &str = "127.0.0.2";

/// Asks the app through `address`, and gives what it saw in `X-Forwarded-For`.
async fn seen_by_the_app(scheme: &str, address: std::net::SocketAddr) -> Checked<Value> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--noproxy",
        "*",
        "--interface",
        CLIENT,
        "--max-time",
        "20",
    ]);
    command.arg(format!("{scheme}://{address}/public"));
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, output).await???;
    if !output.status.success() {
        return Err(format!("curl: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let echo: Value = serde_json::from_slice(&output.stdout)?;
    let fields = echo["headers"].as_array().ok_or("no headers")?;
    let found = fields.iter().find(|field| field[0] == "x-forwarded-for" || field[0] == "X-Forwarded-For");
    Ok(found.map_or(Value::Null, |field| field[1].clone()))
}

#[tokio::test]
async fn haproxy_is_understood_in_both_versions_with_its_checks_and_over_tls() -> Checked {
    let authority = Authority::new()?;
    let (cert, key) = authority.issue("DNS:gate.example.com")?;
    let config = Config::default()
        .top(
            "listen:\n  - { address: $LISTEN, proxy_protocol: true }\n  \
             - { address: $SECOND, proxy_protocol: true, tls: { certificates: [{ cert: $CERT, key: $KEY }] } }",
        )
        .top("trusted_proxies: [127.0.0.1]");
    let variables = [("CERT", cert.display().to_string()), ("KEY", key.display().to_string())];
    let setup = Setup::with_variables(config, &variables).await?;
    let (plain, tls) = (setup.gateway.address(), setup.gateway.second());
    let often = "check inter 50ms check-send-proxy";
    for (scheme, server) in [
        ("http", format!("{plain} send-proxy {often}")),
        ("http", format!("{plain} send-proxy-v2 {often}")),
        ("http", format!("{plain} send-proxy-v2 proxy-v2-options crc32c,unique-id {often}")),
        ("https", format!("{tls} send-proxy {often}")),
        ("https", format!("{tls} send-proxy-v2 proxy-v2-options crc32c,unique-id {often}")),
    ] {
        let haproxy = Haproxy::start(&server).await?;
        assert_eq!(seen_by_the_app(scheme, haproxy.address()).await?, CLIENT, "{server}");
        // It went on being well while it was looked after.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(seen_by_the_app(scheme, haproxy.address()).await?, CLIENT, "{server}");
    }
    for reason in ["proxy_header", "not_a_proxy"] {
        assert_eq!(metric(&setup, reason).await?, 0, "{reason}");
    }
    Ok(())
}
