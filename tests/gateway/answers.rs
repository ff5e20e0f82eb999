//! Routes that answer themselves, and what of a request an app never sees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    Blunt, Browser, Checked, Config, Gateway, PATIENCE, Request, Response, Setup, Wire, eventually,
    navigation, raw, send,
};

/// A request that leaves its connection open.
fn lasting(method: &str, url: &str) -> Request {
    Request::new(method, url).header("Connection", "keep-alive")
}

async fn exchange(wire: &mut Wire, request: &Request) -> Checked<Response> {
    wire.send(&request.bytes()).await?;
    wire.response_to(&request.method).await
}

/// Runs `curl`, which has an opinion of its own about HTTP, and gives what it prints.
async fn curl(arguments: &[&str]) -> Checked<Vec<u8>> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30"]).args(arguments);
    // The app that it may reach runs on this thread.
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.map_err(|error| format!("curl: {error}; install curl"))?;
    Ok(output.stdout)
}

// ── redirections

const REDIRECTS: &str = r#"
- { name: moved, path: /moved, access: public, redirect: "https://new.example.com" }
- { name: there, path: /there, access: public, redirect: { path: /here, query: drop, status: 308 } }
- { name: old, path: /old/wiki, access: public, redirect: { to: "https://new.example.com:8443", prefix: /wiki, status: 301 } }
- { name: root, path: /root, access: public, redirect: { prefix: / } }
- { name: issue, path: /issue, access: public, redirect: { to: "https://issues.example.com" }, rewrite: [{ regex: "/issue/([0-9]+)", to: "/browse/X-{1}" }] }
- { name: secure, host: "*.example.com", path: /s, access: public, redirect: { scheme: https, port: 8443 } }
- { name: teams, path: /team, teams: [acme], redirect: { to: "https://internal.example.com", status: 307 } }
- { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }
"#;

#[tokio::test]
async fn a_redirect_leads_to_the_canonical_path_elsewhere() -> Checked {
    let setup = Setup::with(Config::default().routes(REDIRECTS)).await?;
    for (method, asked, status, location) in [
        ("GET", "/moved", 302, "https://new.example.com/moved"),
        ("HEAD", "/moved/a?b=c&d", 302, "https://new.example.com/moved/a?b=c&d"),
        ("POST", "/moved/%61/./b/../c//d?e", 302, "https://new.example.com/moved/a/c/d?e"),
        ("GET", "/there/x?y", 308, "/here"),
        ("GET", "/old/wiki/Home?x", 301, "https://new.example.com:8443/wiki/Home?x"),
        ("GET", "/old/wiki", 301, "https://new.example.com:8443/wiki"),
        // threats 32: never to another site.
        ("GET", "/root//evil.test/x", 302, "/evil.test/x"),
        ("GET", "/root/%2e//evil.test", 302, "/evil.test"),
        ("GET", "/root", 302, "/"),
        ("GET", "/issue/7?tab", 302, "https://issues.example.com/browse/X-7?tab"),
        ("GET", "/issue/x", 302, "https://issues.example.com/issue/x"),
    ] {
        let response = send(&Request::new(method, &setup.url(asked))).await?;
        response.expect(status)?;
        assert_eq!(response.all("location"), [location], "{asked}");
        assert_eq!(response.header("content-length"), Some("0"), "{asked}");
        assert_eq!(response.all("set-cookie"), [""; 0]);
        assert!(response.header("x-request-id").is_some());
    }
    let request = Request::get(&setup.url("/s/x?y")).header("Host", "a.example.com:8080");
    assert_eq!(
        send(&request).await?.expect(302)?.header("location"),
        Some("https://a.example.com:8443/s/x?y")
    );
    for odd in ["/moved/%0d%0aSet-Cookie:x=1", "/moved/%5cevil.test", "/moved/..;/x"] {
        let response = send(&Request::get(&setup.url(odd))).await?;
        assert_eq!(response.expect(400)?.all("location"), [""; 0], "{odd}");
    }
    assert_eq!(setup.upstream.received().len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_redirect_is_for_whom_its_rule_admits() -> Checked {
    let setup = Setup::with(Config::default().routes(REDIRECTS)).await?;
    let nobody = send(&Request::get(&setup.url("/team/plan"))).await?;
    assert_eq!(nobody.expect(401)?.all("location"), [""; 0]);
    let dan = setup.signed_in("dan").await?;
    assert_eq!(dan.get(&setup.url("/team/plan")).await?.expect(403)?.all("location"), [""; 0]);
    let ben = setup.signed_in("ben").await?;
    let response = ben.get(&setup.url("/team/plan")).await?;
    assert_eq!(response.expect(307)?.header("location"), Some("https://internal.example.com/team/plan"));
    assert_eq!(response.header("cache-control"), Some("private, no-cache"));
    // It is accounted for as any other request of the route.
    let is_it = |line: &serde_json::Value| {
        line["route"] == "teams"
            && line["decision"] == "allow"
            && line["status"] == 307
            && !line["account"].is_null()
    };
    eventually("it is in the access log", async || Ok(setup.gateway.access().iter().any(is_it))).await?;
    let metrics = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let counted = r#"teamgate_requests_total{decision="allow",route="teams",status="3xx"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    Ok(())
}

// ── fixed answers

#[tokio::test]
async fn a_fixed_answer_says_what_it_was_told_to() -> Checked {
    let folder = tempfile::tempdir()?;
    let page = "<!doctype html>\n<p>Closed until Monday.</p>\n".repeat(3_000);
    fs::write(folder.path().join("closed.html"), &page)?;
    let routes = format!(
        r#"
- {{ name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }}
- {{ name: closed, path: /closed, access: public, respond: {{ status: 503, body_file: "{}", content_type: text/html; charset=utf-8 }}, response_headers: {{ set: {{ Retry-After: "3600" }} }} }}
- {{ name: robots, path: /robots.txt, access: public, respond: {{ body: "User-agent: *\nDisallow: /\n" }} }}
- {{ name: nothing, path: /nothing, access: public, respond: {{ status: 204 }} }}
- {{ name: gone, path: /gone, access: public, respond: {{ status: 410 }} }}
- {{ name: team, path: /team, teams: [acme], respond: {{ body: for the team }} }}
"#,
        folder.path().join("closed.html").display()
    );
    let setup = Setup::with(Config::default().routes(&routes)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    for method in ["GET", "HEAD", "POST", "OPTIONS", "DELETE"] {
        let response = exchange(&mut wire, &lasting(method, &setup.url("/closed/x"))).await?;
        response.expect(503)?;
        assert_eq!(response.header("content-length"), Some(page.len().to_string().as_str()), "{method}");
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(response.header("retry-after"), Some("3600"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.text(), if method == "HEAD" { "" } else { &page }, "{method}");
    }
    let response = exchange(&mut wire, &lasting("GET", &setup.url("/robots.txt"))).await?;
    assert_eq!(response.expect(200)?.text(), "User-agent: *\nDisallow: /\n");
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    let response = exchange(&mut wire, &lasting("GET", &setup.url("/nothing"))).await?;
    assert_eq!((response.expect(204)?.header("content-length"), response.text().as_str()), (None, ""));
    let response = exchange(&mut wire, &lasting("GET", &setup.url("/gone"))).await?;
    assert_eq!(response.expect(410)?.header("content-length"), Some("0"));
    exchange(&mut wire, &lasting("GET", &setup.url("/team"))).await?.expect(401)?;

    let ben = setup.signed_in("ben").await?;
    let response = ben.get(&setup.url("/team")).await?;
    assert_eq!(response.expect(200)?.text(), "for the team");
    assert_eq!(response.header("cache-control"), Some("private, no-cache"));
    assert_eq!(response.header("vary"), Some("Cookie"));
    Ok(())
}

// ── files

/// A folder to be served, with a secret beside it.
struct Site(TempDir);

impl Site {
    fn new() -> Checked<Site> {
        let site = Site(tempfile::tempdir()?);
        let root = site.root();
        for folder in ["docs/deep", ".git", ".well-known", "with space", "index.html.d"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for (file, text) in [
            ("index.html", "<p>front page"),
            ("docs/index.html", "<p>docs"),
            ("docs/page.html", "<p>é"),
            ("docs/deep/app.js", "go()"),
            ("docs/deep/app.js.gz", "not really gzip"),
            ("docs/plain.txt", "0123456789"),
            ("docs/noextension", "?"),
            ("with space/a+b.txt", "plus"),
            ("with space/50%.txt", "percent"),
            (".env", "SECRET=1"),
            (".git/config", "SECRET=1"),
            ("docs/.htpasswd", "SECRET=1"),
            (".well-known/security.txt", "Contact: x"),
            ("..strange", "SECRET=1"),
        ] {
            fs::write(root.join(file), text)?;
        }
        fs::write(site.0.path().join("secret.txt"), "SECRET=1")?;
        fs::create_dir(site.0.path().join("site-secret"))?;
        fs::write(site.0.path().join("site-secret/x.txt"), "SECRET=1")?;
        symlink("docs/plain.txt", root.join("inside.txt"))?;
        symlink("docs", root.join("inside"))?;
        symlink(".env", root.join("hidden-by-link.txt"))?;
        symlink("../secret.txt", root.join("outside.txt"))?;
        symlink("../site-secret", root.join("outside"))?;
        symlink(site.0.path().join("secret.txt"), root.join("absolute.txt"))?;
        symlink("/etc", root.join("etc"))?;
        symlink("/proc/self", root.join("proc"))?;
        symlink("circle", root.join("circle"))?;
        symlink("nowhere", root.join("dangling"))?;
        for pipe in ["pipe", "docs/pipe.html"] {
            Command::new("mkfifo").arg(root.join(pipe)).status()?;
        }
        Ok(site)
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("site")
    }

    /// `/` for everybody, `/team` (stripped) for `acme`, `/spa` (stripped) with a fallback.
    fn config(&self) -> Config {
        let root = self.root().display().to_string();
        Config::default().routes(&format!(
            r#"
- {{ name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }}
- {{ name: site, path: /, access: public, static: "{root}" }}
- {{ name: private, path: /docs/deep, teams: [globex], upstream: $UPSTREAM }}
- {{ name: team, path: /team, teams: [acme], strip_prefix: true, static: {{ root: "{root}" }} }}
- {{ name: spa, path: /spa, access: public, strip_prefix: true, static: {{ root: "{root}", index: page.html, fallback: docs/page.html, precompressed: true }} }}
"#
        ))
    }
}

#[tokio::test]
async fn files_are_served_with_what_a_browser_needs_to_know() -> Checked {
    let site = Site::new()?;
    let setup = Setup::with(site.config()).await?;
    for (asked, kind, body) in [
        ("/", "text/html; charset=utf-8", "<p>front page"),
        ("/index.html", "text/html; charset=utf-8", "<p>front page"),
        ("/docs/", "text/html; charset=utf-8", "<p>docs"),
        ("/docs/page.html?v=2", "text/html; charset=utf-8", "<p>é"),
        ("/docs/plain.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/docs/noextension", "application/octet-stream", "?"),
        ("/with%20space/a+b.txt", "text/plain; charset=utf-8", "plus"),
        ("/with%20space/a%2Bb.txt", "text/plain; charset=utf-8", "plus"),
        ("/with%20space/50%25.txt", "text/plain; charset=utf-8", "percent"),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", "Contact: x"),
        ("/inside.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/inside/plain.txt", "text/plain; charset=utf-8", "0123456789"),
        // Whoever made the link meant it: Kubernetes mounts whole folders so.
        ("/hidden-by-link.txt", "text/plain; charset=utf-8", "SECRET=1"),
        ("/spa/docs/", "text/html; charset=utf-8", "<p>é"),
    ] {
        for method in ["GET", "HEAD"] {
            let response = send(&Request::new(method, &setup.url(asked))).await?;
            response.expect(200)?;
            assert_eq!(response.header("content-type"), Some(kind), "{asked}");
            assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()), "{asked}");
            assert_eq!(response.text(), if method == "HEAD" { "" } else { body }, "{asked}");
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{asked}");
            assert_eq!(response.header("accept-ranges"), Some("bytes"), "{asked}");
            assert!(response.header("etag").is_some_and(|tag| tag.starts_with('"')), "{asked}");
            assert!(response.header("last-modified").is_some_and(|date| date.ends_with("GMT")), "{asked}");
            assert_eq!(response.header("cache-control"), None, "{asked}");
        }
    }
    // A folder without its slash: links on its page would lead astray.
    for (asked, location) in [
        ("/docs", "/docs/"),
        ("/docs?a=b", "/docs/?a=b"),
        ("/inside", "/inside/"),
        ("/spa/docs?x", "/spa/docs/?x"),
        ("//docs", "/docs/"),
    ] {
        let response = send(&Request::get(&setup.url(asked))).await?;
        assert_eq!(response.expect(307)?.all("location"), [location], "{asked}");
    }
    for asked in [
        "/nothing",
        "/docs/nothing.html",
        "/docs/page.html/",
        "/docs/page.html/x",
        "/with%20space/",
        "/index.html.d/",
    ] {
        let response = send(&Request::get(&setup.url(asked))).await?;
        assert_eq!(response.expect(404)?.json()?["type"], "urn:teamgate:problem:no-route", "{asked}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let response = send(&Request::new(method, &setup.url("/docs/plain.txt"))).await?;
        assert_eq!(response.expect(405)?.header("allow"), Some("GET, HEAD"), "{method}");
    }
    Ok(())
}

/// threats 18 to 24, against the disk. Every spelling that this file's author could think of.
#[tokio::test]
async fn nothing_outside_the_folder_and_nothing_hidden_is_ever_served() -> Checked {
    let site = Site::new()?;
    let setup = Setup::with(site.config()).await?;
    let mut spellings: Vec<String> = [
        // Hidden names.
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/%2egit/config",
        "/docs/.htpasswd",
        "/docs/%2ehtpasswd",
        "/..strange",
        "/%2e%2estrange",
        "/inside/.htpasswd",
        "/.well-known/../.env",
        "/.well-known/%2e%2e/.env",
        "/./.env",
        "//.env",
        // Links that lead out.
        "/outside.txt",
        "/outside/x.txt",
        "/absolute.txt",
        "/etc/passwd",
        "/etc/hostname",
        "/proc/environ",
        "/proc/root/etc/passwd",
        "/proc/cwd/teamgate.yaml",
        "/inside/../outside.txt",
        "/circle",
        "/circle/x",
        "/dangling",
        // A name that begins as the folder's does.
        "/../site-secret/x.txt",
        "/..%2fsite-secret/x.txt",
        // Pipes.
        "/pipe",
        "/docs/pipe.html",
        "/pipe/",
        // Stripped routes.
        "/team/../../secret.txt",
        "/spa/../../secret.txt",
        "/spa/%2e%2e/%2e%2e/secret.txt",
        "/spa/.env",
        "/spa//.env",
        "/spa/..%2f..%2fsecret.txt",
    ]
    .map(str::to_owned)
    .into();
    let ups = [
        "..",
        "%2e%2e",
        "%2E%2E",
        ".%2e",
        "%2e.",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "%e0%80%ae%e0%80%ae",
        "..;",
        "..;x",
        "..%00",
        "..%20",
        "...",
        "..%5c",
        "..\\",
        "%uff0e%uff0e",
        "..%c0%af",
        "..%ef%bc%8f",
    ];
    for up in ups {
        for depth in [1, 3, 8] {
            for slash in ["/", "%2f", "%2F", "%252f", "\\", "%5c", "//", "/./"] {
                let climb = format!("{up}{slash}").repeat(depth);
                spellings.push(format!("/{climb}secret.txt"));
                spellings.push(format!("/docs{slash}{climb}etc/passwd"));
            }
        }
    }
    for absolute in [
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/%2f%2fetc/passwd",
        "/docs//etc/passwd",
        "/file:///etc/passwd",
        "/C:/x",
        "/docs/plain.txt%00.html",
        "/docs/plain.txt%20",
        "/docs/plain.txt::$DATA",
        "/docs/plain.txt/.",
        "/docs/PLAIN.TXT",
    ] {
        spellings.push(absolute.to_owned());
    }
    // One connection for many: what is refused must not cost the next one its answer.
    for spelling in &spellings {
        let head = format!(
            "GET {spelling} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            setup.gateway.address()
        );
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(head.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&wire.rest().await?).into_owned();
        let refused =
            ["HTTP/1.1 400", "HTTP/1.1 401", "HTTP/1.1 404"].iter().any(|start| answer.starts_with(start));
        let harmless = answer.starts_with("HTTP/1.1 200") && spelling.ends_with("/docs/plain.txt/.");
        assert!(refused || harmless, "{spelling}: {answer}");
        for secret in ["SECRET", "root:", "0123456789"] {
            assert!(!answer.contains(secret), "{spelling}: {answer}");
        }
    }
    // What lies below another route's path is that route's, whoever's folder it is in, however it is spelt.
    for spelling in [
        "/docs/deep/app.js",
        "/docs/d%65ep/app.js",
        "/docs/./deep/app.js",
        "//docs//deep//app.js",
        "/inside/../docs/deep/app.js",
    ] {
        send(&Request::get(&setup.url(spelling))).await?.expect(401)?;
    }
    // No pipe was waited for: it still answers, and at once.
    send(&Request::get(&setup.url("/docs/plain.txt"))).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_folder_may_be_for_one_team() -> Checked {
    let site = Site::new()?;
    let setup = Setup::with(site.config()).await?;
    for asked in ["/team/docs/plain.txt", "/team", "/team/nothing", "/team/outside.txt"] {
        send(&Request::get(&setup.url(asked))).await?.expect(401)?;
    }
    let dan = setup.signed_in("dan").await?;
    assert!(!dan.get(&setup.url("/team/docs/plain.txt")).await?.expect(403)?.text().contains("0123456789"));
    let ben = setup.signed_in("ben").await?;
    let response = ben.get(&setup.url("/team/docs/plain.txt")).await?;
    assert_eq!(response.expect(200)?.text(), "0123456789");
    // A browser asks each time, so that whoever loses access sees no more of it; and nobody else keeps a copy.
    assert_eq!(response.header("cache-control"), Some("private, no-cache"));
    assert_eq!(response.header("vary"), Some("Cookie"));
    let tag = response.header("etag").ok_or("no tag")?.to_owned();
    let request = Request::get(&setup.url("/team/docs/plain.txt")).header("If-None-Match", &tag);
    assert_eq!(
        ben.fetch(request.clone()).await?.expect(304)?.header("cache-control"),
        Some("private, no-cache")
    );
    assert_eq!(send(&request).await?.expect(401)?.header("etag"), None);
    Ok(())
}

#[tokio::test]
async fn a_person_gets_the_fallback_and_a_script_does_not() -> Checked {
    let site = Site::new()?;
    let setup = Setup::with(site.config()).await?;
    let person = Browser::new();
    for asked in ["/spa/orders/17", "/spa/outside.txt", "/spa/.env", "/spa/docs/deep/"] {
        let response = person.get(&setup.url(asked)).await?;
        assert_eq!(response.expect(200)?.text(), "<p>é", "{asked}");
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    }
    for asked in ["/spa/assets/gone.js", "/spa/orders/17"] {
        person.fetch(Request::get(&setup.url(asked)).header("Accept", "*/*")).await?.expect(404)?;
    }
    let posted = navigation("POST", &setup.url("/spa/orders/17"), "same-origin");
    person.fetch(posted).await?.expect(405)?;
    // What is there is served before it.
    assert_eq!(person.get(&setup.url("/spa/docs/plain.txt")).await?.expect(200)?.text(), "0123456789");
    // Compressed beforehand, for who can read it.
    let request = Request::get(&setup.url("/spa/docs/deep/app.js"));
    let response = send(&request.clone().header("Accept-Encoding", "br;q=1, gzip")).await?;
    assert_eq!(
        (response.expect(200)?.text().as_str(), response.header("content-encoding")),
        ("not really gzip", Some("gzip"))
    );
    assert_eq!(response.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(response.header("vary"), Some("accept-encoding"));
    let response = send(&request).await?;
    assert_eq!((response.expect(200)?.text().as_str(), response.header("content-encoding")), ("go()", None));
    Ok(())
}

/// With curl where it has the means, so that not only our own reading of HTTP is asked.
#[tokio::test]
async fn ranges_and_conditions_are_kept() -> Checked {
    let site = Site::new()?;
    let setup = Setup::with(site.config()).await?;
    let url = setup.url("/docs/plain.txt");
    let whole = send(&Request::get(&url)).await?;
    let (tag, date) =
        (whole.header("etag").ok_or("no tag")?, whole.header("last-modified").ok_or("no date")?);
    for (range, expected) in [("0-3", "0123"), ("2-2", "2"), ("7-", "789"), ("-4", "6789"), ("8-99", "89")] {
        assert_eq!(curl(&["--range", range, &url]).await?, expected.as_bytes(), "{range}");
    }
    let status = |arguments: &'static [&'static str]| {
        let url = url.clone();
        async move {
            let fixed = ["--output", "/dev/null", "--write-out", "%{http_code}", url.as_str()];
            Ok::<_, crate::support::Failure>(String::from_utf8(curl(&[arguments, &fixed].concat()).await?)?)
        }
    };
    assert_eq!(status(&["--range", "10-"]).await?, "416");
    assert_eq!(status(&["--time-cond", "Sun, 01 Jan 2040 00:00:00 GMT"]).await?, "304");
    assert_eq!(status(&["--time-cond", "Sat, 01 Jan 2000 00:00:00 GMT"]).await?, "200");
    let folder = tempfile::tempdir()?;
    let (tags, file) =
        (folder.path().join("tags").display().to_string(), folder.path().join("f").display().to_string());
    curl(&["--etag-save", &tags, "--output", &file, &url]).await?;
    let again = curl(&["--etag-compare", &tags, "--write-out", "%{http_code}", &url]).await?;
    assert_eq!(again, b"304");
    // A download that was broken off goes on.
    fs::write(&file, "01234")?;
    curl(&["--continue-at", "-", "--output", &file, &url]).await?;
    assert_eq!(fs::read_to_string(&file)?, "0123456789");

    let weak = format!("W/{tag}");
    let both = format!("\"other\", {tag}");
    for (fields, status, body) in [
        (&[("Range", "bytes=0-1")][..], 206, "01"),
        (&[("Range", "bytes=0-1"), ("If-Range", tag)], 206, "01"),
        (&[("Range", "bytes=0-1"), ("If-Range", date)], 206, "01"),
        // Of another version: the whole of this one.
        (&[("Range", "bytes=0-1"), ("If-Range", "\"another\"")], 200, "0123456789"),
        (&[("Range", "bytes=0-1"), ("If-Range", &weak)], 200, "0123456789"),
        (&[("Range", "bytes=0-1"), ("If-Range", "Mon, 01 Jan 2001 00:00:00 GMT")], 200, "0123456789"),
        (&[("Range", "bytes=90-"), ("If-Range", "\"another\"")], 200, "0123456789"),
        (&[("Range", "bytes=90-"), ("If-Range", tag)], 416, ""),
        (&[("Range", "bytes=0-1,3-4")], 200, "0123456789"),
        (&[("Range", "lines=0-1")], 200, "0123456789"),
        (&[("Range", "bytes=0-1"), ("Range", "bytes=2-3")], 200, "0123456789"),
        (&[("If-None-Match", tag)], 304, ""),
        (&[("If-None-Match", &weak)], 304, ""),
        (&[("If-None-Match", &both)], 304, ""),
        (&[("If-None-Match", "*")], 304, ""),
        (&[("If-None-Match", "\"another\"")], 200, "0123456789"),
        (&[("If-None-Match", "\"another\""), ("If-Modified-Since", date)], 200, "0123456789"),
        (&[("If-Modified-Since", date)], 304, ""),
        (&[("If-Modified-Since", "no date")], 200, "0123456789"),
        (&[("If-Match", tag)], 200, "0123456789"),
        (&[("If-Match", "\"another\"")], 412, ""),
        (&[("If-Unmodified-Since", "Mon, 01 Jan 2001 00:00:00 GMT")], 412, ""),
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        let response = exchange(&mut wire, &lasting("GET", &url).headers(fields)).await?;
        assert_eq!((response.expect(status)?.text().as_str(), response.status), (body, status), "{fields:?}");
        if status == 206 {
            assert_eq!(response.header("content-range"), Some("bytes 0-1/10"), "{fields:?}");
        }
        if status == 416 {
            assert_eq!(response.header("content-range"), Some("bytes */10"), "{fields:?}");
        }
        // Whatever it was, the connection carries the next one.
        assert_eq!(
            exchange(&mut wire, &lasting("GET", &url)).await?.expect(200)?.text(),
            "0123456789",
            "{fields:?}"
        );
    }
    let head = send(&Request::new("HEAD", &url).header("Range", "bytes=0-1")).await?;
    assert_eq!(head.expect(200)?.header("content-length"), Some("10"));
    // Another version has another tag, even of the same length in the same second.
    fs::write(site.root().join("docs/plain.txt"), "9876543210")?;
    let changed = send(&Request::get(&url)).await?;
    assert_ne!(changed.header("etag"), Some(tag));
    Ok(())
}

async fn resident(gateway: &Gateway) -> Checked<u64> {
    let metrics = send(&Request::get(&gateway.admin_url("/metrics"))).await?.text();
    let line = metrics.lines().find(|line| line.starts_with("process_resident_memory_bytes"));
    let value = line.and_then(|line| line.split(' ').nth(1)).ok_or("no such metric")?;
    Ok(value.parse::<f64>()? as u64)
}

#[tokio::test]
async fn a_huge_file_is_sent_as_it_is_taken() -> Checked {
    const HUGE: u64 = 3 * 1024 * 1024 * 1024;
    let site = Site::new()?;
    let file = fs::File::create(site.root().join("huge.bin"))?;
    file.set_len(HUGE)?;
    let setup = Setup::with(site.config()).await?;
    let before = resident(&setup.gateway).await?;
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&lasting("GET", &setup.url("/huge.bin")).bytes()).await?;
        let head = wire.head().await?;
        assert_eq!(head.expect(200)?.header("content-length"), Some(HUGE.to_string().as_str()));
        wire.exactly(4 * 1024 * 1024).await?;
        wires.push(wire);
    }
    // None of them reads on now. What is in memory is a piece of each.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let grown = resident(&setup.gateway).await?.saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes more");
    // Whoever reads on gets on, and the others do not stand in the way.
    let mut wire = wires.pop().ok_or("none")?;
    wire.exactly(16 * 1024 * 1024).await?;
    let small = send(&Request::get(&setup.url("/docs/plain.txt"))).await?;
    assert_eq!(small.expect(200)?.text(), "0123456789");
    let range = send(&Request::get(&setup.url("/huge.bin")).header("Range", "bytes=3221225470-")).await?;
    assert_eq!(
        (range.expect(206)?.body.len(), range.header("content-range")),
        (2, Some("bytes 3221225470-3221225471/3221225472"))
    );
    Ok(())
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_is_no_whole_answer() -> Checked {
    let site = Site::new()?;
    let file = fs::File::create(site.root().join("shrinking.bin"))?;
    file.set_len(64 * 1024 * 1024)?;
    let setup = Setup::with(site.config()).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("GET", &setup.url("/shrinking.bin")).bytes()).await?;
    wire.head().await?.expect(200)?;
    wire.exactly(1024).await?;
    file.set_len(1024)?;
    let rest = wire.rest().await?;
    assert!(rest.len() < 64 * 1024 * 1024 - 1024, "{}", rest.len());
    Ok(())
}

#[tokio::test]
async fn a_file_that_grows_while_it_is_sent_is_as_long_as_was_said() -> Checked {
    const LENGTH: usize = 24 * 1024 * 1024 + 1;
    let site = Site::new()?;
    let file = fs::File::create(site.root().join("growing.bin"))?;
    file.set_len(LENGTH as u64)?;
    let setup = Setup::with(site.config()).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&lasting("GET", &setup.url("/growing.bin")).bytes()).await?;
    assert_eq!(wire.head().await?.expect(200)?.header("content-length"), Some(LENGTH.to_string().as_str()));
    wire.exactly(1024).await?;
    file.set_len(2 * LENGTH as u64)?;
    wire.exactly(LENGTH - 1024).await?;
    let next = exchange(&mut wire, &lasting("GET", &setup.url("/docs/plain.txt"))).await?;
    assert_eq!(next.expect(200)?.text(), "0123456789");
    Ok(())
}

#[tokio::test]
async fn a_folder_can_be_changed_for_another_release_at_once() -> Checked {
    let folder = tempfile::tempdir()?;
    for release in ["one", "two"] {
        fs::create_dir(folder.path().join(release))?;
        fs::write(folder.path().join(release).join("index.html"), release)?;
    }
    let current = folder.path().join("current");
    symlink("one", &current)?;
    let routes = format!("- {{ name: site, access: public, static: \"{}\" }}", current.display());
    let setup = Setup::with(Config::default().routes(&routes)).await?;
    assert_eq!(send(&Request::get(&setup.url("/"))).await?.expect(200)?.text(), "one");
    symlink("two", folder.path().join("next"))?;
    fs::rename(folder.path().join("next"), &current)?;
    assert_eq!(send(&Request::get(&setup.url("/"))).await?.expect(200)?.text(), "two");
    fs::remove_file(&current)?;
    send(&Request::get(&setup.url("/"))).await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn files_and_refusals_go_over_http2_as_well() -> Checked {
    let site = Site::new()?;
    let config = site.config().top("listen: [{ address: $LISTEN, h2c: true }]");
    let config = config
        .route("name: short, path: /short, access: public, upstream: $UPSTREAM, body_limit: 10B")
        .route("name: api, path: /api, teams: [acme], upstream: $UPSTREAM, cors_preflight: pass");
    let setup = Setup::with(config).await?;
    let url = setup.url("/docs/plain.txt");
    let status = ["--http2-prior-knowledge", "--write-out", " %{http_code} %{http_version}"];
    let asked = |more: Vec<String>| async move {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Ok::<_, crate::support::Failure>(String::from_utf8(curl(&[&status[..], &more].concat()).await?)?)
    };
    assert_eq!(asked(vec![url.clone()]).await?, "0123456789 200 2");
    assert_eq!(asked(vec!["--range".into(), "2-4".into(), url.clone()]).await?, "234 206 2");
    let short = setup.url("/short");
    let body = site.0.path().join("body");
    fs::write(&body, vec![b'x'; 300_000])?;
    let body = format!("@{}", body.display());
    let refused = asked(vec!["--data-binary".into(), body.clone(), short.clone()]).await?;
    assert!(refused.ends_with(" 413 2"), "{refused}");
    // Without its length announced.
    let refused =
        asked(vec!["--header".into(), "Content-Length:".into(), "--data-binary".into(), body, short]).await?;
    assert!(refused.ends_with(" 413 2"), "{refused}");
    assert!(setup.upstream.received().iter().all(|request| request.body.len() <= 10));
    // A preflight has no body, announced or not.
    let preflight = |more: &[&str]| {
        let fixed = ["--request", "OPTIONS", "--header", "Origin: https://a.example", "--header"];
        let api = setup.url("/api");
        let all = [&fixed[..], &["Access-Control-Request-Method: PUT"], more, &[api.as_str()]].concat();
        all.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    let passed = asked(preflight(&[])).await?;
    assert!(passed.ends_with(" 200 2"), "{passed}");
    let refused = asked(preflight(&["--header", "Content-Length:", "--data", "x"])).await?;
    assert!(refused.ends_with(" 413 2"), "{refused}");
    let refused = asked(preflight(&["--data", "x"])).await?;
    assert!(refused.ends_with(" 401 2"), "{refused}");
    assert!(setup.upstream.received_at("/api").iter().all(|request| request.body.is_empty()));
    Ok(())
}

// ── CORS preflights

const ORIGIN: (&str, &str) = ("Origin", "https://shop.example.org");
const WANTED: (&str, &str) = ("Access-Control-Request-Method", "PUT");

fn preflights() -> Config {
    Config::default().route("name: api, path: /api, teams: [acme], upstream: $UPSTREAM, cors_preflight: pass")
}

#[tokio::test]
async fn a_preflight_goes_to_the_app_and_says_nothing_about_anybody() -> Checked {
    let setup = Setup::with(preflights()).await?;
    setup.upstream.script(
        "/api/allowed",
        "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: https://shop.example.org\r\n\
         Access-Control-Allow-Credentials: true\r\nSet-Cookie: app=1\r\n\r\n",
    );
    let ben = setup.signed_in("ben").await?;
    let preflight = |path: &str| Request::new("OPTIONS", &setup.url(path)).headers(&[ORIGIN, WANTED]);
    for browser in [&Browser::new(), &ben] {
        let request = preflight("/api/x?y").headers(&[
            ("Access-Control-Request-Headers", "x-a"),
            ("Cookie", "theme=dark"),
            ("Authorization", "Basic YTpi"),
            ("X-Forwarded-User", "root"),
            ("X-Teamgate-Assertion", "forged"),
        ]);
        let response = browser.fetch(request).await?;
        let echo = response.expect(200)?.json()?;
        assert_eq!((&echo["method"], &echo["target"]), (&"OPTIONS".into(), &"/api/x?y".into()));
        for (name, expected) in [
            ("origin", &["https://shop.example.org"][..]),
            ("access-control-request-method", &["PUT"]),
            ("access-control-request-headers", &["x-a"]),
            ("cookie", &[]),
            ("authorization", &[]),
            ("x-forwarded-user", &[]),
            ("x-forwarded-email", &[]),
            ("x-forwarded-groups", &[]),
            ("x-teamgate-assertion", &[]),
        ] {
            assert_eq!(response.echoed_all(name)?, expected, "{name}");
        }
        // Not a word of ours about CORS.
        assert!(
            !response
                .headers
                .iter()
                .any(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"))
        );
    }
    let allowed = send(&preflight("/api/allowed")).await?;
    assert_eq!(allowed.expect(204)?.all("access-control-allow-origin"), ["https://shop.example.org"]);
    let is_it = |line: &serde_json::Value| {
        line["route"] == "api" && line["decision"] == "public" && line["grounds"] == "it is a CORS preflight"
    };
    eventually("it is in the access log", async || Ok(setup.gateway.access().iter().any(is_it))).await?;
    // Other routes know nothing of it.
    let elsewhere = send(&preflight("/deploy")).await?;
    assert_eq!(elsewhere.expect(401)?.all("access-control-allow-origin"), [""; 0]);
    Ok(())
}

/// threats 52.
#[tokio::test]
async fn what_only_looks_like_a_preflight_is_a_request_like_any_other() -> Checked {
    let setup = Setup::with(preflights()).await?;
    let with =
        |method: &str, fields: &[(&str, &str)]| Request::new(method, &setup.url("/api/x")).headers(fields);
    for request in [
        with("OPTIONS", &[]),
        with("OPTIONS", &[ORIGIN]),
        with("OPTIONS", &[WANTED]),
        with("OPTIONS", &[ORIGIN, ORIGIN, WANTED]),
        with("OPTIONS", &[ORIGIN, WANTED, WANTED]),
        with("OPTIONS", &[ORIGIN, ("Access-Control-Request-Method", "PUT, GET")]),
        with("OPTIONS", &[ORIGIN, ("Access-Control-Request-Method", "")]),
        with("OPTIONS", &[("Origin", "https://a.example https://b.example"), WANTED]),
        with("OPTIONS", &[("Origin", "anything"), WANTED]),
        with("OPTIONS", &[ORIGIN, WANTED]).body("x"),
        with("OPTIONS", &[ORIGIN, WANTED, ("Transfer-Encoding", "chunked")]).body("1\r\nx\r\n0\r\n\r\n"),
        with("OPTIONS", &[ORIGIN, WANTED, ("Transfer-Encoding", "chunked")]).body("0\r\n\r\n"),
        with("GET", &[ORIGIN, WANTED]),
        with("POST", &[ORIGIN, WANTED]).body("x"),
        with("HEAD", &[ORIGIN, WANTED]),
        with("OPTIONSX", &[ORIGIN, WANTED]),
        with("options", &[ORIGIN, WANTED]),
        with(
            "OPTIONS",
            &[
                ORIGIN,
                WANTED,
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("Sec-WebSocket-Version", "13"),
            ],
        ),
        with("GET", &[ORIGIN, WANTED, ("X-HTTP-Method-Override", "OPTIONS")]),
        with("GET", &[ORIGIN, WANTED, ("X-Original-Method", "OPTIONS")]),
    ] {
        let response = send(&request).await?;
        assert_eq!(response.expect(401)?.all("access-control-allow-origin"), [""; 0], "{request:?}");
    }
    assert_eq!(setup.upstream.received().len(), 0);
    // With a session they go on, as whoever's they are.
    let ben = setup.signed_in("ben").await?;
    let response = ben.fetch(with("OPTIONS", &[ORIGIN])).await?;
    assert_eq!(response.expect(200)?.echoed_all("x-forwarded-user")?.len(), 1);
    Ok(())
}

// ── bodies that are too long

const LIMITED: &str = "name: short, path: /short, access: public, body_limit: 1000B";

/// What an app heard of bodies: what is left of a connection's bytes without heads and chunk sizes.
fn bodies(heard: &[String]) -> usize {
    let after_heads = heard.iter().map(|bytes| bytes.split_once("\r\n\r\n").map_or("", |(_, body)| body));
    after_heads.map(|body| body.matches('x').count()).sum()
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_refused_before_it_is_sent() -> Checked {
    let setup = Setup::with(Config::default().route(&format!("{LIMITED}, upstream: $UPSTREAM"))).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let post = |length: usize| lasting("POST", &setup.url("/short")).body("x".repeat(length));
    assert_eq!(
        exchange(&mut wire, &post(1000)).await?.expect(200)?.json()?["body"].as_str().map(str::len),
        Some(1000)
    );
    // A little too much is taken off the connection, which goes on.
    let response = exchange(&mut wire, &post(1001)).await?;
    assert_eq!(response.expect(413)?.json()?["type"], "urn:teamgate:problem:too-large");
    exchange(&mut wire, &post(10)).await?.expect(200)?;
    // Much is not: the answer comes at once, while the body is still to be sent, and the connection is closed.
    let head = lasting("POST", &setup.url("/short")).header("Content-Length", "1000000000").bytes();
    wire.send(&head).await?;
    let response = wire.response().await?;
    assert_eq!(response.expect(413)?.header("connection"), Some("close"));
    assert_eq!(wire.rest().await?, b"");
    // Who asks first is told before sending anything (RFC 9110 §10.1.1), and a body that fits may come.
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let asking = lasting("POST", &setup.url("/short")).header("Expect", "100-continue");
    wire.send(&asking.clone().header("Content-Length", "1001").bytes()).await?;
    let response = wire.head().await?;
    assert_eq!(response.expect(413)?.header("connection"), Some("close"));
    wire.rest().await?;
    let out = curl(&[
        "--header",
        "Expect: 100-continue",
        "--data",
        &"x".repeat(1001),
        "--write-out",
        "%{http_code} %{size_upload}",
        "--output",
        "/dev/null",
        &setup.url("/short"),
    ])
    .await?;
    assert_eq!(String::from_utf8_lossy(&out), "413 0");
    assert_eq!(setup.upstream.received().len(), 2);
    assert!(setup.upstream.received().iter().all(|request| request.body.len() <= 1000));
    Ok(())
}

#[tokio::test]
async fn a_body_in_chunks_is_counted_while_it_streams() -> Checked {
    let blunt = Blunt::start().await?;
    let route = format!("{LIMITED}, upstream: \"http://{}\"", blunt.address());
    let setup = Setup::with(Config::default().route(&route)).await?;
    let head = lasting("POST", &setup.url("/short")).header("Transfer-Encoding", "chunked").bytes();
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));

    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&head).await?;
    wire.send(chunk(600).as_bytes()).await?;
    eventually("the app hears the first half", async || Ok(bodies(&blunt.heard()) == 600)).await?;
    wire.send(chunk(401).as_bytes()).await?;
    let response = wire.response().await?;
    assert_eq!(response.expect(413)?.json()?["type"], "urn:teamgate:problem:too-large");
    // Whatever else is sent, the app hears no more of it, and its connection is over.
    let _ = wire.send(chunk(300).as_bytes()).await;
    wire.rest().await?;
    assert_eq!(bodies(&blunt.heard()), 600);

    // All at once in one chunk: none of it.
    blunt.forget();
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&[head.as_slice(), chunk(100_000).as_bytes(), b"0\r\n\r\n"].concat()).await?;
    wire.response().await?.expect(413)?;
    assert!(bodies(&blunt.heard()) <= 1000, "{}", bodies(&blunt.heard()));

    // Exactly the limit is fine.
    blunt.answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    blunt.forget();
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(&[head.as_slice(), chunk(400).as_bytes(), chunk(600).as_bytes(), b"0\r\n\r\n"].concat())
        .await?;
    assert_eq!(wire.response().await?.expect(200)?.text(), "ok");
    eventually("the app hears all of it", async || Ok(bodies(&blunt.heard()) == 1000)).await?;
    let is_it = |line: &serde_json::Value| {
        line["route"] == "short"
            && line["status"] == 413
            && line["decision"] == "public"
            && line["upstream_error"].is_null()
    };
    eventually("it is in the access log", async || Ok(setup.gateway.access().iter().any(is_it))).await
}

#[tokio::test]
async fn a_body_that_is_sent_again_is_counted_anew() -> Checked {
    let blunt = Blunt::start().await?;
    blunt.answers_and_closes("");
    let upstreams = format!("upstreams: [\"http://{}\", $UPSTREAM]", blunt.address());
    let setup = Setup::with(Config::default().route(&format!("{LIMITED}, {upstreams}, retries: 2"))).await?;
    for round in 0..4 {
        let response = send(&Request::new("PUT", &setup.url("/short")).body("x".repeat(600))).await?;
        assert_eq!(response.expect(200)?.json()?["body"].as_str().map(str::len), Some(600), "{round}");
    }
    assert!(!blunt.heard().is_empty(), "nothing was sent again");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_has_begun_is_cut_when_the_body_grows_too_long() -> Checked {
    let blunt = Blunt::start().await?;
    blunt.answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
    let route = format!("{LIMITED}, upstream: \"http://{}\"", blunt.address());
    let setup = Setup::with(Config::default().route(&route)).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let head = lasting("POST", &setup.url("/short")).header("Transfer-Encoding", "chunked").bytes();
    wire.send(&[head.as_slice(), b"1\r\nx\r\n"].concat()).await?;
    wire.head().await?.expect(200)?;
    wire.until(b"begun").await?;
    wire.send(format!("7d0\r\n{}\r\n", "x".repeat(2000)).as_bytes()).await?;
    // Without its end: nobody takes it for a whole one.
    assert_eq!(wire.rest().await?, b"\r\n");
    assert!(bodies(&blunt.heard()) <= 1000, "{}", bodies(&blunt.heard()));
    Ok(())
}

#[tokio::test]
async fn a_websocket_is_no_body() -> Checked {
    let setup = Setup::with(Config::default().route(&format!("{LIMITED}, upstream: $UPSTREAM"))).await?;
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    let request = Request::get(&setup.url("/short/websocket")).headers(&[
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]);
    wire.send(&request.bytes()).await?;
    wire.head().await?.expect(101)?;
    let said = "x".repeat(5_000);
    wire.send(said.as_bytes()).await?;
    assert_eq!(wire.exactly(5_000).await?, said.as_bytes());
    Ok(())
}

// ── bodies that nobody reads

/// threats 11: what is left of a body is never taken for the next request.
#[tokio::test]
async fn an_early_answer_leaves_nothing_of_the_body_to_the_next_request() -> Checked {
    let site = Site::new()?;
    let config = site.config().route("name: gone, path: /gone, access: public, respond: { status: 410 }");
    let setup = Setup::with(config).await?;
    let hidden = "GET /docs/plain.txt HTTP/1.1\r\nHost: x\r\n\r\n";
    // Each of these is answered without its body: by a route's own answer, by a refusal, by a page.
    for (path, status) in [("/gone", 410), ("/team", 401), ("/docs/plain.txt", 405)] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        for round in 0..3 {
            let response = exchange(&mut wire, &lasting("POST", &setup.url(path)).body(hidden)).await?;
            response.expect(status)?;
            let next = exchange(&mut wire, &lasting("GET", &setup.url("/docs/page.html"))).await?;
            assert_eq!(next.expect(200)?.text(), "<p>é", "{path} {round}");
        }
        // A body whose length nobody knows ends the connection, even if it is here already.
        let chunks = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
        let request = lasting("POST", &setup.url(path)).header("Transfer-Encoding", "chunked").body(chunks);
        let response = exchange(&mut wire, &request).await?;
        assert_eq!(response.expect(status)?.header("connection"), Some("close"), "{path}");
        assert_eq!(wire.rest().await?, b"", "{path}");
        // A body without end is not listened to for ever, and nothing in it is a request.
        let head = lasting("POST", &setup.url(path)).header("Transfer-Encoding", "chunked").bytes();
        let endless = format!("10000\r\n{}\r\n", hidden.repeat(2000).split_at(0x10000).0).repeat(4);
        let answers = raw(setup.gateway.address(), &[head.as_slice(), endless.as_bytes()].concat()).await?;
        let answers = String::from_utf8_lossy(&answers);
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{path}: {answers}");
        // Nor is one that was asked about first: it may come or not.
        let asking = lasting("POST", &setup.url(path))
            .headers(&[("Expect", "100-continue"), ("Content-Length", "43")]);
        let answers = raw(
            setup.gateway.address(),
            &[asking.bytes().as_slice(), hidden.as_bytes(), hidden.as_bytes()].concat(),
        )
        .await?;
        let answers = String::from_utf8_lossy(&answers);
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{path}: {answers}");
    }
    Ok(())
}

/// A connection that is closed over unread bytes is reset, and the answer is lost with it.
#[tokio::test]
async fn who_is_still_sending_hears_why_not() -> Checked {
    let setup = Setup::with(Config::default().route(&format!("{LIMITED}, upstream: $UPSTREAM"))).await?;
    for (path, status) in [("/short", 413), ("/wiki", 401)] {
        // A client that looks at what came back only once it has said everything.
        let mut stream = TcpStream::connect(setup.gateway.address()).await?;
        let request = lasting("POST", &setup.url(path)).body("x".repeat(32 * 1024 * 1024));
        stream.write_all(&request.bytes()).await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");

        let folder = tempfile::tempdir()?;
        let file = folder.path().join("upload");
        fs::File::create(&file)?.set_len(40 * 1024 * 1024)?;
        let upload = file.display().to_string();
        let out = curl(&[
            "--header",
            "Expect:",
            "--upload-file",
            &upload,
            "--write-out",
            "%{http_code}",
            "--output",
            "/dev/null",
            &setup.url(path),
        ])
        .await?;
        assert_eq!(String::from_utf8_lossy(&out), status.to_string(), "{path}");
    }
    Ok(())
}

#[test]
fn the_tools_are_here() -> Checked {
    for tool in ["curl", "mkfifo"] {
        let found = std::env::var_os("PATH").is_some_and(|paths| {
            std::env::split_paths(&paths).any(|folder| Path::new(&folder).join(tool).exists())
        });
        assert!(found, "{tool} is missing; install curl and coreutils");
    }
    Ok(())
}
