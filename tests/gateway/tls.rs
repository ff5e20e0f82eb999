//! TLS on the listeners, as `openssl`, `curl` and browsers see it; certificates that change under way; who is
//! sent to https, and how.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bitbucket_sim::EXAMPLE_CLIENT_ID;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Browser, Checked, Config, PATIENCE, Request, Run, Setup, eventually, navigation, send, shown_certificate,
};

/// An authority of the test's own, and a folder with what it issued.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM and not yet in any file.
struct Issued {
    cert: String,
    key: String,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Checked<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "The tests' own authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Authority { folder: tempfile::tempdir()?, issuer };
        fs::write(authority.file("ca.pem"), authority.issuer.pem())?;
        Ok(authority)
    }

    fn issue(&self, names: &[&str]) -> Checked<Issued> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
    }

    /// Issues a certificate and writes it and its key to `name.crt` and `name.key`.
    fn issue_as(&self, name: &str, names: &[&str]) -> Checked<Issued> {
        let issued = self.issue(names)?;
        self.write(name, &issued)?;
        Ok(issued)
    }

    fn write(&self, name: &str, issued: &Issued) -> Checked {
        write_private(&self.file(&format!("{name}.crt")), &issued.cert)?;
        write_private(&self.file(&format!("{name}.key")), &issued.key)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the configuration finds it: `$CERTS`.
    fn variables(&self) -> [(&'static str, String); 1] {
        [("CERTS", self.folder.path().display().to_string())]
    }
}

fn write_private(path: &Path, text: &str) -> Checked {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    Ok(options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text.as_bytes())?)
}

/// TLS on the first listener, with a certificate for the gate and one for the apps.
const LISTEN: &str = "
listen:
  - address: $LISTEN
    tls:
      certificates:
        - { cert: $CERTS/gate.crt, key: $CERTS/gate.key }
        - { cert: $CERTS/apps.crt, key: $CERTS/apps.key }
";

const ROUTES: &str = "
- { name: gate, host: gate.example.test, path: /public, access: public, upstream: $UPSTREAM }
- { name: wiki, host: gate.example.test, teams: [acme], upstream: $UPSTREAM }
- { name: apps, host: '*.apps.example.test', access: public, upstream: $UPSTREAM }
";

fn config() -> Config {
    Config::default().top(LISTEN).top("external_url: https://gate.example.test:$PORT").routes(ROUTES)
}

/// A gateway with the certificates that [`LISTEN`] names.
async fn serving(config: Config) -> Checked<(Authority, Setup)> {
    let authority = Authority::new()?;
    authority.issue_as("gate", &["gate.example.test"])?;
    authority.issue_as("apps", &["*.apps.example.test"])?;
    let setup = Setup::with_variables(config, &authority.variables()).await?;
    Ok((authority, setup))
}

/// What a program of the package `package` says. It runs beside the test, which serves it.
async fn output(package: &str, mut command: Command) -> Checked<Output> {
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, output).await??;
    Ok(output.map_err(|error| format!("{package}: {error}; install the package {package}"))?)
}

/// `openssl s_client` with `arguments`: whether it came to a connection, and all that it said.
async fn s_client(port: u16, arguments: &[&str]) -> Checked<(bool, String)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let output = output("openssl", command).await?;
    let said = [&output.stdout[..], &output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// The hosts of the certificate that `openssl s_client` was shown.
async fn names_shown(port: u16, arguments: &[&str]) -> Checked<String> {
    let (_, said) = s_client(port, arguments).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("said");
    fs::write(&file, said)?;
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(file);
    let names = String::from_utf8(output("openssl", command).await?.stdout)?;
    Ok(names.lines().last().unwrap_or("").trim().to_owned())
}

/// What `curl` came to: its exit code, what `-w` printed, the fields of the answer, its body.
struct Curled {
    code: i32,
    words: String,
    head: String,
    body: String,
}

/// `curl`, for hosts below `example.test` that are all this machine; the authority is the only one it knows.
async fn curl(authority: &Authority, port: u16, arguments: &[&str]) -> Checked<Curled> {
    let folder = tempfile::tempdir()?;
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "60", "--write-out", "%{http_version} %{http_code}"]);
    command.arg("--cacert").arg(authority.file("ca.pem"));
    command.arg("--dump-header").arg(&head).arg("--output").arg(&body);
    for host in ["gate", "a.apps", "b.apps", "elsewhere"] {
        command.args(["--resolve", &format!("{host}.example.test:{port}:127.0.0.1")]);
    }
    command.args(arguments);
    let output = output("curl", command).await?;
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Curled {
        code: output.status.code().unwrap_or(-1),
        words: String::from_utf8_lossy(&output.stdout).into_owned(),
        head: read(&head).unwrap_or_default(),
        body: read(&body).unwrap_or_default(),
    })
}

/// The value of a sample on the metrics page.
async fn sample(setup: &Setup, name: &str) -> Checked<Option<f64>> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?;
    let text = page.expect(200)?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.map(str::parse).transpose()?)
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() -> Checked {
    let (authority, setup) = serving(config()).await?;
    let port = setup.gateway.address().port();
    let ca = authority.file("ca.pem").display().to_string();
    for (asks, shown) in [
        (&["-servername", "gate.example.test"][..], "DNS:gate.example.test"),
        (&["-servername", "GATE.example.test"], "DNS:gate.example.test"),
        (&["-servername", "a.apps.example.test"], "DNS:*.apps.example.test"),
        (&["-servername", "a.b.apps.example.test"], "DNS:gate.example.test"),
        (&["-servername", "evil.test"], "DNS:gate.example.test"),
        (&["-noservername"], "DNS:gate.example.test"),
    ] {
        assert_eq!(names_shown(port, asks).await?, shown, "{asks:?}");
    }
    let verified =
        ["-servername", "a.apps.example.test", "-CAfile", &ca, "-verify_return_error", "-verify_hostname"];
    let (fine, said) = s_client(port, &[&verified[..], &["a.apps.example.test"]].concat()).await?;
    assert!(fine && said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(!s_client(port, &[&verified[..], &["gate.example.test"]].concat()).await?.0);
    let line = setup.gateway.stderr().into_iter().find(|line| line.contains("metrics and health on"));
    assert!(line.is_some_and(|line| line.contains(&format!("on https://{},", setup.gateway.address()))));
    Ok(())
}

#[tokio::test]
async fn old_versions_are_refused_and_http2_is_offered() -> Checked {
    let strict = "
  - { address: $SECOND, tls: { certificates: [{ cert: $CERTS/gate.crt, key: $CERTS/gate.key }], min_version: 1.3 } }";
    let (_authority, setup) = serving(config().top_continued("listen:", strict)).await?;
    let (both, strict) = (setup.gateway.address().port(), setup.gateway.second().port());
    // Debian's openssl would not even offer the old ones.
    let weak = ["-cipher", "ALL:@SECLEVEL=0"];
    for (port, version, spoken) in [
        (both, "-tls1", false),
        (both, "-tls1_1", false),
        (both, "-tls1_2", true),
        (both, "-tls1_3", true),
        (strict, "-tls1_2", false),
        (strict, "-tls1_3", true),
    ] {
        let (fine, said) = s_client(port, &[&[version][..], &weak].concat()).await?;
        assert_eq!(fine, spoken, "{version} {port}: {said}");
        assert_eq!(said.contains("SSL alert number"), !spoken, "{version} {port}: {said}");
    }
    for (offered, chosen) in [
        ("h2,http/1.1", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("spdy/3", "alert no application protocol"),
    ] {
        let (_, said) = s_client(both, &["-alpn", offered]).await?;
        assert!(said.contains(chosen), "{offered}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn both_versions_of_http_pass_and_browsers_are_told_to_come_back_by_https() -> Checked {
    let (authority, setup) = serving(config()).await?;
    let port = setup.gateway.address().port();
    let url = |path: &str| format!("https://gate.example.test:{port}{path}");
    let scripted = "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok";
    setup.upstream.script("/public/own", scripted);
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        // An app's answer, an app's answer with a field of its own, and three answers of ours.
        for (path, status, hsts) in [
            ("/public/x", 200, "max-age=2592000"),
            ("/public/own", 200, "max-age=1"),
            ("/secret", 401, "max-age=2592000"),
            ("/.teamgate/userinfo", 401, "max-age=2592000"),
            ("/public/status/404", 404, "max-age=2592000"),
        ] {
            let answer = curl(&authority, port, &[flag, &url(path)]).await?;
            assert_eq!((answer.code, answer.words), (0, format!("{version} {status}")), "{path}");
            let said: Vec<&str> = answer
                .head
                .lines()
                .filter(|line| line.to_ascii_lowercase().starts_with("strict-transport-security:"))
                .collect();
            assert_eq!(said.len(), 1, "{path}: {}", answer.head);
            assert!(said[0].ends_with(&format!(": {hsts}")), "{path}: {said:?}");
        }
        let answer = curl(&authority, port, &[flag, &url("/public/x")]).await?;
        assert!(answer.body.contains(r#"["x-forwarded-proto","https"]"#), "{}", answer.body);
    }
    Ok(())
}

#[tokio::test]
async fn http2_without_tls_is_spoken_where_it_is_wanted() -> Checked {
    let listen = "listen: [{ address: $LISTEN }, { address: $SECOND, h2c: true }]";
    let setup = Setup::with(Config::default().top(listen)).await?;
    let authority = Authority::new()?;
    let (without, with) = (setup.gateway.address().port(), setup.gateway.second().port());
    let url = |port: u16| format!("http://127.0.0.1:{port}/public/x");
    for (port, flag, words) in [
        (with, "--http2-prior-knowledge", "2 200"),
        (with, "--http1.1", "1.1 200"),
        (without, "--http1.1", "1.1 200"),
    ] {
        assert_eq!(curl(&authority, port, &[flag, &url(port)]).await?.words, words, "{port} {flag}");
    }
    let answer = curl(&authority, without, &["--http2-prior-knowledge", &url(without)]).await?;
    assert_ne!(answer.code, 0, "{}", answer.words);
    Ok(())
}

#[tokio::test]
async fn who_has_no_certificate_of_the_right_authority_gets_no_connection() -> Checked {
    let listen = "
listen:
  - address: $LISTEN
    tls:
      certificates: [{ cert: $CERTS/gate.crt, key: $CERTS/gate.key }, { cert: $CERTS/apps.crt, key: $CERTS/apps.key }]
      client_ca: $CERTS/ca.pem
";
    let config =
        Config::default().top(listen).top("external_url: https://gate.example.test:$PORT").routes(ROUTES);
    let (authority, setup) = serving(config).await?;
    let port = setup.gateway.address().port();
    let stranger = Authority::new()?;
    authority.issue_as("client", &["somebody"])?;
    stranger.issue_as("client", &["somebody"])?;
    let url = format!("https://gate.example.test:{port}/public");
    for flag in ["--http1.1", "--http2"] {
        let of = |whose: &Authority| {
            ["client.crt", "client.key"].map(|name| whose.file(name).display().to_string())
        };
        let [cert, key] = of(&authority);
        let with = [flag, "--cert", &cert, "--key", &key, &url];
        assert!(curl(&authority, port, &with).await?.words.ends_with(" 200"), "{flag}");
        let [cert, key] = of(&stranger);
        let with = [flag, "--cert", &cert, "--key", &key, &url];
        assert_ne!(curl(&authority, port, &with).await?.code, 0, "{flag}");
        assert_ne!(curl(&authority, port, &[flag, &url]).await?.code, 0, "{flag}");
    }
    assert_eq!(setup.upstream.received().len(), 2);
    let refused = "teamgate_connections_refused_total{reason=\"tls\"}";
    eventually("each is counted", async || Ok(sample(&setup, refused).await? == Some(4.0))).await?;
    // A connection is for the host that it was opened for, whatever its certificate covers.
    let [cert, key] = ["client.crt", "client.key"].map(|name| authority.file(name).display().to_string());
    let url = format!("https://a.apps.example.test:{port}/");
    for (host, status) in [("a.apps.example.test", "200"), ("b.apps.example.test", "421")] {
        let host = format!("Host: {host}");
        let answer = curl(&authority, port, &["--cert", &cert, "--key", &key, "-H", &host, &url]).await?;
        assert!(answer.words.ends_with(status), "{host}: {}", answer.words);
    }
    Ok(())
}

/// threat 75, and RFC 9113 §9.1.1: coalescing is no attack.
#[tokio::test]
async fn a_request_for_a_host_that_the_connection_is_not_for_gets_421() -> Checked {
    let (authority, setup) = serving(config()).await?;
    let port = setup.gateway.address().port();
    for flag in ["--http1.1", "--http2"] {
        for (connection, host, status) in [
            ("gate", "gate.example.test", 200),
            ("a.apps", "a.apps.example.test", 200),
            ("a.apps", "b.apps.example.test", 200),
            ("a.apps", "A.APPS.example.test.", 200),
            ("a.apps", "gate.example.test", 421),
            ("gate", "a.apps.example.test", 421),
            ("gate", "elsewhere.example.test", 421),
        ] {
            let url = format!("https://{connection}.example.test:{port}/public/x");
            let answer = curl(&authority, port, &[flag, "-H", &format!("Host: {host}"), &url]).await?;
            assert!(answer.words.ends_with(&format!(" {status}")), "{connection} {host}: {}", answer.words);
            if status == 421 {
                assert!(answer.body.contains("misdirected"), "{}", answer.body);
            }
        }
    }
    // Who asks for no name is shown the first certificate: fine for its host, and for what no certificate covers.
    for (host, status) in [
        ("gate.example.test", 200),
        ("a.apps.example.test", 421),
        ("127.0.0.1", 404),
        ("elsewhere.example.test", 404),
    ] {
        let request = Request::get(&format!("https://127.0.0.1:{port}/public/x")).header("Host", host);
        assert_eq!(send(&request).await?.status, status, "{host}");
    }
    let refused = || setup.gateway.access().into_iter().filter(|line| line["status"] == 421);
    eventually("each has a line", async || Ok(refused().count() == 7)).await?;
    assert!(refused().all(|line| line["decision"] == "bad_request" && line["reason"] != Value::Null));
    Ok(())
}

#[tokio::test]
async fn plain_http_is_sent_to_https_and_nowhere_else() -> Checked {
    let plain = "
  - { address: $SECOND, redirect_to_https: true }";
    let (_authority, setup) = serving(config().top_continued("listen:", plain)).await?;
    let (https, http) = (setup.gateway.address().port(), setup.gateway.second());
    let ask = async |method: &str, host: &str, target: &str| {
        send(&Request::new(method, &format!("http://{http}{target}")).header("Host", host)).await
    };
    for (method, host, target, there) in [
        ("GET", "gate.example.test", "/", "https://gate.example.test:PORT/"),
        (
            "HEAD",
            "gate.example.test",
            "/public/x?a=b&c=%20d",
            "https://gate.example.test:PORT/public/x?a=b&c=%20d",
        ),
        ("POST", "a.apps.example.test:8080", "/a//b/../c", "https://a.apps.example.test:PORT/a/c"),
        (
            "GET",
            "GATE.example.test.",
            "/.teamgate/login?rd=/",
            "https://gate.example.test:PORT/.teamgate/login?rd=/",
        ),
        ("DELETE", "gate.example.test", "//evil.test/", "https://gate.example.test:PORT/evil.test/"),
    ] {
        let answer = ask(method, host, target).await?;
        let there = there.replace("PORT", &https.to_string());
        assert_eq!(answer.expect(308)?.header("location"), Some(&*there), "{method} {host}{target}");
        for absent in ["set-cookie", "strict-transport-security"] {
            assert_eq!(answer.header(absent), None, "{method} {host}{target}");
        }
    }
    for (host, target, status) in [
        ("evil.test", "/", 404),
        ("example.test", "/", 404),
        ("127.0.0.1", "/", 404),
        ("gate.example.test", "/a%5Cb", 400),
        ("gate.example.test@evil.test", "/", 400),
    ] {
        let answer = ask("GET", host, target).await?;
        assert_eq!((answer.status, answer.header("location")), (status, None), "{host}{target}");
    }
    assert_eq!(setup.upstream.received().len(), 0);
    let redirects = || setup.gateway.access().into_iter().filter(|line| line["decision"] == "redirect");
    eventually("each has a line", async || Ok(redirects().count() == 5)).await?;
    assert!(redirects().all(|line| line["status"] == 308));
    Ok(())
}

#[tokio::test]
async fn a_route_for_any_host_does_not_make_a_redirect_to_any_host() -> Checked {
    let listen = "listen: [{ address: $LISTEN, redirect_to_https: true }, { address: $SECOND }]";
    let config = Config::default()
        .top(listen)
        .top("external_url: https://gate.example.test\ntrusted_proxies: [127.0.0.1]");
    let setup = Setup::with(config).await?;
    let ask = async |host: &str, more: &[(&str, &str)]| {
        send(&Request::get(&setup.url("/public/x?y")).header("Host", host).headers(more)).await
    };
    for host in ["evil.test", "gate.example.test"] {
        let answer = ask(host, &[]).await?;
        assert_eq!(answer.expect(308)?.header("location"), Some("https://gate.example.test/public/x?y"));
    }
    // Whoever came to our own proxy by https would go round in circles.
    for (proto, status) in [("http", 308), ("https", 200), ("https, http", 308)] {
        let answer = ask("gate.example.test", &[("X-Forwarded-Proto", proto)]).await?;
        assert_eq!(answer.status, status, "{proto}");
        assert_eq!(answer.header("strict-transport-security"), None, "that is the proxy's to say");
    }
    Ok(())
}

#[tokio::test]
async fn a_proxy_of_ours_may_ask_for_every_host_over_one_connection() -> Checked {
    let (_authority, setup) = serving(config().top("trusted_proxies: [127.0.0.1]")).await?;
    let port = setup.gateway.address().port();
    for (name, host) in [("gate.example.test", "a.apps.example.test"), ("127.0.0.1", "a.apps.example.test")] {
        let request = Request::get(&format!("https://{name}:{port}/x")).header("Host", host);
        send(&request).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn signing_in_over_tls_gives_a_cookie_that_only_this_host_gets_and_only_over_tls() -> Checked {
    let (_authority, setup) = serving(config()).await?;
    let base = format!("https://gate.example.test:{}", setup.gateway.address().port());
    let callback = format!("{base}/.teamgate/callback");
    setup.simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, &callback))?;
    let browser = Browser::new();
    let start = browser.get(&format!("{base}/page?x=1")).await?;
    assert_eq!(start.expect(302)?.header("strict-transport-security"), Some("max-age=2592000"));
    let callback = browser.agree(&start.location()?, "ann").await?;
    let back = browser.fetch(navigation("GET", &callback, "cross-site")).await?;
    assert_eq!(back.expect(302)?.location()?, format!("{base}/page?x=1"));
    let fields = back.all("set-cookie");
    let field =
        fields.iter().find(|field| field.starts_with("__Host-teamgate=")).ok_or("no session cookie")?;
    for attribute in ["Secure", "HttpOnly", "Path=/", "SameSite=Lax"] {
        assert!(field.split("; ").any(|said| said == attribute), "{attribute} in {field}");
    }
    let page = browser.follow(back).await?;
    assert_eq!(page.expect(200)?.echoed("x-forwarded-preferred-username")?.as_deref(), Some("ann"));
    assert_eq!(page.echoed("x-forwarded-proto")?.as_deref(), Some("https"));
    assert_eq!(page.echoed("x-forwarded-host")?.as_deref(), Some(&base["https://".len()..]));
    let info = browser.get(&format!("{base}/.teamgate/userinfo")).await?;
    assert_eq!(info.expect(200)?.json()?["preferred_username"], "ann");
    Ok(())
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() -> Checked {
    let (authority, setup) = serving(config()).await?;
    let port = setup.gateway.address().port();
    let shown = async || shown_certificate(port, "gate.example.test").await;
    let gate = authority.file("gate.crt").display().to_string();
    let trouble = format!("teamgate_certificate_problem{{certificate=\"{gate}\"}}");
    let refused = "teamgate_certificate_reloads_total{outcome=\"refused\"}";
    let in_trouble = async |wanted: f64| {
        eventually("the metric tells", async || Ok(sample(&setup, &trouble).await? == Some(wanted))).await
    };
    in_trouble(0.0).await?;

    // In place.
    let second = authority.issue_as("gate", &["gate.example.test"])?;
    eventually("the second is shown", async || Ok(shown().await? == second.der)).await?;
    // By renaming, as careful writers do.
    let third = authority.issue(&["gate.example.test"])?;
    authority.write("draft", &third)?;
    for name in ["crt", "key"] {
        fs::rename(authority.file(&format!("draft.{name}")), authority.file(&format!("gate.{name}")))?;
    }
    eventually("the third is shown", async || Ok(shown().await? == third.der)).await?;
    let records = setup.gateway.recorded("certificate_reloaded", 2).await?;
    assert_eq!((records.len(), &records[0]["certificate"]), (2, &gate.clone().into()));
    assert_eq!(records[1]["sha256"], hex(&third.der));

    // A key that is another's; then nothing at all.
    let fourth = authority.issue(&["gate.example.test"])?;
    write_private(&authority.file("gate.crt"), &fourth.cert)?;
    in_trouble(1.0).await?;
    assert_eq!(shown().await?, third.der);
    let line = setup.gateway.logged("is not the key of the certificate").await?;
    assert!(line.contains("gate.key") && line.contains("What was read before is used on"), "{line}");
    write_private(&authority.file("gate.crt"), "")?;
    setup.gateway.logged("has no certificate").await?;
    assert_eq!(shown().await?, third.der);
    assert_eq!(sample(&setup, refused).await?, Some(2.0));

    // And a good one again.
    authority.write("gate", &fourth)?;
    eventually("the fourth is shown", async || Ok(shown().await? == fourth.der)).await?;
    in_trouble(0.0).await?;
    let warnings = setup.gateway.log().into_iter().filter(|line| line["level"] == "warn").count();
    assert_eq!(warnings, 2, "each fault once: {:?}", setup.gateway.log());
    let ends = format!("teamgate_certificate_expiry_timestamp_seconds{{certificate=\"{gate}\"}}");
    assert!(sample(&setup, &ends).await?.is_some_and(|ends| ends > 4e9));
    assert_eq!(shown_certificate(port, "a.apps.example.test").await?, fs_der(&authority, "apps.crt")?);
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told_of_once() -> Checked {
    #[expect(clippy::disallowed_methods, reason = "the program reads the real clock")]
    let tomorrow = time::OffsetDateTime::now_utc() + Duration::from_secs(86_400);
    let authority = Authority::new()?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["gate.example.test".to_owned()])?;
    params.not_after = tomorrow;
    let issued = params.signed_by(&key, &authority.issuer)?;
    let der = issued.der().to_vec();
    authority.write("gate", &Issued { cert: issued.pem(), key: key.serialize_pem(), der })?;
    authority.issue_as("apps", &["*.apps.example.test"])?;
    let setup = Setup::with_variables(config(), &authority.variables()).await?;
    assert!(
        setup
            .gateway
            .stderr()
            .iter()
            .any(|line| line.starts_with("warning: ") && line.contains("; renew it"))
    );
    setup.gateway.logged("expires soon; renew it").await?;
    // When this is shown, the files have been looked at again.
    let renewed = authority.issue_as("apps", &["*.apps.example.test"])?;
    let port = setup.gateway.address().port();
    let shown = async || Ok(shown_certificate(port, "a.apps.example.test").await? == renewed.der);
    eventually("the other is shown", shown).await?;
    let told = setup.gateway.log().iter().filter(|line| line["level"] == "warn").count();
    assert_eq!(told, 1, "{:?}", setup.gateway.log());
    Ok(())
}

#[tokio::test]
async fn fifty_certificates_come_and_go_and_no_handshake_fails() -> Checked {
    let (authority, setup) = serving(config()).await?;
    let port = setup.gateway.address().port();
    let (over, met) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (over, met) = (over.clone(), met.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Acquire) {
                let url = format!("https://gate.example.test:{port}/public/x");
                send(&Request::get(&url)).await?.expect(200)?;
                met.fetch_add(1, Ordering::Release);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Checked::Ok(())
        })
    };
    for swap in 0..50 {
        let next = authority.issue(&["gate.example.test"])?;
        match swap % 2 {
            0 => authority.write("gate", &next)?,
            _ => {
                authority.write("draft", &next)?;
                for name in ["key", "crt"] {
                    fs::rename(
                        authority.file(&format!("draft.{name}")),
                        authority.file(&format!("gate.{name}")),
                    )?;
                }
            }
        }
        let shown = async || Ok(shown_certificate(port, "gate.example.test").await? == next.der);
        eventually(&format!("certificate {swap} is shown"), shown).await?;
    }
    over.store(true, Ordering::Release);
    load.await??;
    assert!(met.load(Ordering::Acquire) > 100, "{} requests is no load", met.load(Ordering::Acquire));
    assert_eq!(sample(&setup, "teamgate_certificate_reloads_total{outcome=\"loaded\"}").await?, Some(50.0));
    assert_eq!(sample(&setup, "teamgate_certificate_reloads_total{outcome=\"refused\"}").await?, Some(0.0));
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_certificates_is_said_before_anything_starts() -> Checked {
    let authority = Authority::new()?;
    authority.issue_as("gate", &["gate.example.test"])?;
    authority.issue_as("apps", &["*.apps.example.test"])?;
    fs::copy(authority.file("gate.key"), authority.file("apps.key"))?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("teamgate.yaml"), config().text())?;
    let [(name, certs)] = authority.variables();
    let mut variables = vec![(name, certs)];
    for (name, value) in [
        ("LISTEN", "127.0.0.1:8443"),
        ("PORT", "8443"),
        ("ADMIN", "127.0.0.1:9090"),
        ("UPSTREAM", "http://127.0.0.1:8081"),
        ("BITBUCKET", "http://127.0.0.1:7990"),
        ("CLIENT_ID", "an-id"),
        ("CLIENT_SECRET", "a-secret"),
    ] {
        variables.push((name, value.to_owned()));
    }
    let validate = async || {
        let mut run = Run::start(folder.path(), &["validate"], &variables)?;
        Checked::Ok((run.exit_code().await?, run.stderr().join("\n")))
    };
    let (code, said) = validate().await?;
    assert_eq!(code, 1);
    assert!(said.contains("listen[0].tls.certificates[1].key"), "{said}");
    assert!(said.contains("is not the key of the certificate"), "{said}");
    assert!(said.ends_with("1 problem in teamgate.yaml"), "{said}");
    authority.issue_as("apps", &["*.apps.example.test"])?;
    let (code, said) = validate().await?;
    assert_eq!((code, said.as_str()), (0, ""));
    // Sound, but not for the hosts that people visit.
    authority.issue_as("gate", &["other.example.test"])?;
    let (code, said) = validate().await?;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("no certificate is for `gate.example.test`").count(), 1, "{said}");
    Ok(())
}

fn hex(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fs_der(authority: &Authority, name: &str) -> Checked<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    Ok(CertificateDer::from_pem_file(authority.file(name))?.to_vec())
}
