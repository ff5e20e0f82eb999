//! The Bitbucket client against raw answers on a loopback socket: every refusal Bitbucket is known to give,
//! and every answer that somebody hostile or broken in its place could give.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use teamgate::bitbucket::{
    Bitbucket, Call, Endpoint, Error, Level, Outcome, Permission, Refusal, Remedy, Settings, Status, identity,
};
use teamgate::identity::Email;
use teamgate::membership::TeamName;
use teamgate::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

type Checked = Result<(), Box<dyn StdError>>;

const UUID: &str = "{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}";
const TOKEN: &str = "access-hunter2";

// ── the other side of the socket

/// One request as it came.
struct Seen {
    /// `GET /2.0/user?x=y`
    line: String,
    /// Header lines, as sent.
    head: String,
    body: String,
    /// Which request it is, from 0.
    n: usize,
    /// `http://127.0.0.1:port`
    base: String,
}

enum Reply {
    /// These bytes, then the end.
    Raw(String),
    /// These bytes, then nothing, for ever.
    Hang(String),
    /// These bytes, then 4 MiB of zeros, then nothing, for ever.
    Huge(String),
    /// These bytes, 30 ms late.
    Late(String),
}

fn reply(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Raw(format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn json(status: u16, body: &str) -> Reply {
    reply(status, "Content-Type: application/json\r\n", body)
}

struct Fake {
    bitbucket: Bitbucket,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    calls: Arc<Mutex<Vec<Call>>>,
    base: String,
}

impl Fake {
    async fn start(script: impl Fn(&Seen) -> Reply + Send + 'static) -> Result<Fake, Box<dyn StdError>> {
        Fake::with_timeout(Duration::from_secs(10), script).await
    }

    async fn with_timeout(
        timeout: Duration,
        script: impl Fn(&Seen) -> Reply + Send + 'static,
    ) -> Result<Fake, Box<dyn StdError>> {
        // Only the first of the process succeeds.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let settings = Settings {
            client_id: "client+id".to_owned(),
            client_secret: Arc::new(Secret::new("client/secret".to_owned())),
            redirect_uri: Url::parse("https://gate.example.com/.teamgate/callback")?,
            web_url: Url::parse(&base)?,
            api_url: Url::parse(&format!("{base}/2.0"))?,
            timeout,
        };
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let observer =
            move |call: &Call| log.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        let bitbucket = Bitbucket::new(settings, Arc::new(observer))?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, base.clone(), Arc::clone(&seen), script));
        Ok(Fake { bitbucket, seen, calls, base })
    }

    fn seen(&self) -> Vec<Arc<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outcomes(&self) -> Vec<(Endpoint, &'static str)> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|call| (call.endpoint, call.outcome.label())).collect()
    }
}

async fn serve(
    listener: TcpListener,
    base: String,
    log: Arc<Mutex<Vec<Arc<Seen>>>>,
    script: impl Fn(&Seen) -> Reply,
) -> std::io::Result<()> {
    let mut held = Vec::new();
    for n in 0.. {
        let (mut stream, _) = listener.accept().await?;
        let seen = Arc::new(hear(&mut stream, n, base.clone()).await?);
        log.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&seen));
        match script(&seen) {
            Reply::Raw(text) => stream.write_all(text.as_bytes()).await?,
            Reply::Hang(text) => {
                stream.write_all(text.as_bytes()).await?;
                held.push(stream);
            }
            Reply::Huge(text) => {
                stream.write_all(text.as_bytes()).await?;
                // Fails as soon as the client has had enough.
                let _ = stream.write_all(&vec![b'0'; 4 << 20]).await;
                held.push(stream);
            }
            Reply::Late(text) => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                stream.write_all(text.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

async fn hear(stream: &mut TcpStream, n: usize, base: String) -> std::io::Result<Seen> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let got = stream.read(&mut buffer).await?;
        text.push_str(&String::from_utf8_lossy(&buffer[..got]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if got == 0 || body.len() >= length {
            let (line, head) = head.split_once("\r\n").unwrap_or((head, ""));
            let line = line.trim_end_matches(" HTTP/1.1").to_owned();
            return Ok(Seen { line, head: head.to_owned(), body: body.to_owned(), n, base });
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

/// The error of a question that must have none but that.
fn error<T>(answer: Result<T, Error>) -> Result<Error, &'static str> {
    answer.err().ok_or("that should have failed")
}

// ── OAuth

#[tokio::test]
async fn a_browser_is_sent_with_the_exact_redirect_uri_pkce_and_no_scope() -> Checked {
    let fake = Fake::start(|_| json(200, "{}")).await?;
    let url = fake.bitbucket.authorize_url("st&te", "chall");
    assert!(url.as_str().starts_with(&format!("{}/site/oauth2/authorize?", fake.base)), "{url}");
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    pairs.sort();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("client_id", "client+id"),
            ("code_challenge", "chall"),
            ("code_challenge_method", "S256"),
            ("redirect_uri", "https://gate.example.com/.teamgate/callback"),
            ("response_type", "code"),
            ("state", "st&te"),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn tokens_of_both_generations_are_taken() -> Checked {
    let long = "e".repeat(2_600);
    let new = format!(
        r#"{{"access_token":"{long}","token_type":"bearer","expires_in":7200,"scope":"account email",
            "refresh_token":"{long}r","state":"authorization_code"}}"#
    );
    let legacy = r#"{"scopes":"email account","access_token":"short=","expires_in":"3600",
        "token_type":"Bearer","state":"refresh_token","refresh_token":"old"}"#;
    let bare = r#"{"access_token":"short","token_type":"bearer"}"#;
    for (body, access, refresh, seconds, scopes) in [
        (new.as_str(), long.as_str(), Some(format!("{long}r")), 7200, Some("account email")),
        (legacy, "short=", Some("old".to_owned()), 3600, Some("email account")),
        (bare, "short", None, 7200, None),
    ] {
        let answer = body.to_owned();
        let fake = Fake::start(move |_| json(200, &answer)).await?;
        // Spawned: a question may move between threads.
        let clone = fake.bitbucket.clone();
        let exchange = tokio::spawn(async move { clone.exchange("c0de", &secret("verifier")).await });
        for tokens in [exchange.await??, fake.bitbucket.refresh(&secret("old-refresh")).await?] {
            assert_eq!(tokens.access_token.expose(), access);
            assert_eq!(tokens.refresh_token.map(|token| token.expose().clone()), refresh);
            assert_eq!(tokens.expires_in, Duration::from_secs(seconds));
            assert_eq!(tokens.scopes.as_deref(), scopes);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_request_is_a_form_with_basic_authentication() -> Checked {
    let fake = Fake::start(|_| json(200, r#"{"access_token":"a","token_type":"bearer"}"#)).await?;
    fake.bitbucket.exchange("c0de&x", &secret("verifier")).await?;
    fake.bitbucket.refresh(&secret("old refresh")).await?;
    let seen = fake.seen();
    for request in &seen {
        assert_eq!(request.line, "POST /site/oauth2/access_token");
        assert_eq!(header(&request.head, "content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(header(&request.head, "accept-encoding"), None);
        // RFC 6749 §2.3.1: both halves are form-encoded first.
        let basic = format!("Basic {}", STANDARD.encode("client%2Bid:client%2Fsecret"));
        assert_eq!(header(&request.head, "authorization"), Some(basic.as_str()));
    }
    let form = |n: usize| {
        let body = seen.get(n).map(|request| request.body.as_bytes()).unwrap_or_default();
        let mut pairs: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
        pairs.sort();
        pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    let redirect = "redirect_uri=https://gate.example.com/.teamgate/callback";
    assert_eq!(form(0), ["code=c0de&x", "code_verifier=verifier", "grant_type=authorization_code", redirect]);
    assert_eq!(form(1), ["grant_type=refresh_token", "refresh_token=old refresh"]);
    Ok(())
}

#[tokio::test]
async fn what_the_token_endpoint_refuses_means_what_was_asked() -> Checked {
    use Remedy::{FixConfiguration, Report, Retry, RetryAfter, SignInAgain};

    let no_auth = r#"{"error":"unauthorized_client","error_description":"Requests must be authenticated using OAuth client credentials"}"#;
    let used = r#"{"error_description":"Invalid OAuth client credentials","error":"unauthorized_client"}"#;
    let callback =
        r#"{"error":"invalid_request","error_description":"No callback uri defined for the OAuth client."}"#;
    let form = r#"{"error":"invalid_grant","error_description":"Unsupported grant type: None"}"#;
    let legacy = r#"{"error_description":"Invalid refresh_token","error":"invalid_request"}"#;
    let code = r#"{"error":"invalid_grant"}"#;
    let no_token = r#"{"token_type":"bearer","refresh_token":"r"}"#;
    let mac = r#"{"access_token":"a","token_type":"mac"}"#;
    let empty = r#"{"access_token":"","token_type":"bearer"}"#;
    let long = format!(r#"{{"access_token":"{}","token_type":"bearer"}}"#, "e".repeat(8_193));
    for (status, body, on_exchange, on_refresh) in [
        (400, no_auth, ("client_refused", FixConfiguration), ("client_refused", FixConfiguration)),
        (401, no_auth, ("client_refused", FixConfiguration), ("client_refused", FixConfiguration)),
        (400, used, ("client_refused", FixConfiguration), ("grant_refused", SignInAgain)),
        (200, used, ("client_refused", FixConfiguration), ("grant_refused", SignInAgain)),
        (400, callback, ("redirect_refused", FixConfiguration), ("redirect_refused", FixConfiguration)),
        (400, form, ("unexpected_status", Report), ("unexpected_status", Report)),
        (400, legacy, ("unexpected_status", Report), ("grant_dead", SignInAgain)),
        (400, code, ("code_refused", SignInAgain), ("grant_dead", SignInAgain)),
        (404, "<html>hunter2</html>", ("not_json", Retry), ("not_json", Retry)),
        (200, "<html>hunter2</html>", ("not_json", Retry), ("not_json", Retry)),
        (400, "", ("cut_short", Retry), ("cut_short", Retry)),
        (200, r#"{"access_token":"hunter2"#, ("cut_short", Retry), ("cut_short", Retry)),
        (200, no_token, ("unknown_shape", Report), ("unknown_shape", Report)),
        (200, mac, ("unknown_shape", Report), ("unknown_shape", Report)),
        (200, empty, ("bad_token", Report), ("bad_token", Report)),
        (200, long.as_str(), ("bad_token", Report), ("bad_token", Report)),
        (502, "<html>hunter2</html>", ("unavailable", Retry), ("unavailable", Retry)),
        (
            429,
            "slow down",
            ("throttled", RetryAfter(Duration::from_secs(30))),
            ("throttled", RetryAfter(Duration::from_secs(30))),
        ),
    ] {
        let answer = body.to_owned();
        let fake = Fake::start(move |_| json(status, &answer)).await?;
        let exchange = error(fake.bitbucket.exchange("code-hunter2", &secret("verifier-hunter2")).await)?;
        let refresh = error(fake.bitbucket.refresh(&secret("refresh-hunter2")).await)?;
        assert_eq!((exchange.label(), exchange.remedy()), on_exchange, "exchange {status} {body}");
        assert_eq!((refresh.label(), refresh.remedy()), on_refresh, "refresh {status} {body}");
        for error in [exchange, refresh] {
            assert!(!error.is_unsent() && !error.is_unauthorized());
            let told = format!("{error} {error:?}");
            assert!(!told.contains("hunter2") && !told.contains("client/secret"), "{told}");
        }
    }
    Ok(())
}

// ── the API

#[tokio::test]
async fn a_person_is_known_by_uuid_and_by_a_confirmed_address() -> Checked {
    let fake = Fake::start(|seen| match seen.line.split(['?', ' ']).nth(1) {
        Some("/2.0/user") => json(
            200,
            r#"{"type":"user","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}","display_name":"Ada Example",
                "nickname":"ada","account_status":"active","has_2fa_enabled":null,"links":{"x":[1]}}"#,
        ),
        Some("/2.0/user/emails") if seen.n == 1 => json(
            200,
            &format!(
                r#"{{"values":[{{"email":"old@example.com","is_primary":false,"is_confirmed":true}}],
                    "next":"{}/2.0/user/emails?page=2"}}"#,
                seen.base
            ),
        ),
        _ => json(
            200,
            r#"{"pagelen":10,"values":[{"type":"email","email":"ada@example.com","is_primary":true,
                "is_confirmed":true}]}"#,
        ),
    })
    .await?;
    let profile = fake.bitbucket.profile(&secret(TOKEN)).await?;
    assert_eq!(profile.status, Status::Active);
    let email = fake.bitbucket.primary_email(&secret(TOKEN)).await?;
    let person = identity(profile, email);
    assert_eq!(person.account().to_string(), "0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21");
    assert_eq!((person.display_name(), person.nickname()), ("Ada Example", Some("ada")));
    assert_eq!(person.email().map(Email::as_str), Some("ada@example.com"));
    for request in fake.seen() {
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(header(&request.head, "authorization"), Some(bearer.as_str()));
        assert!(!request.line.contains(TOKEN) && !request.body.contains(TOKEN), "{}", request.line);
    }
    Ok(())
}

#[tokio::test]
async fn nobody_but_an_active_person_with_a_uuid_is_anybody() -> Checked {
    for (body, refusal) in [
        (r#"{"type":"app_user","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}"}"#, Refusal::NotAPerson),
        (r#"{"type":"team","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}"}"#, Refusal::NotAPerson),
        (r#"{"uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}"}"#, Refusal::NotAPerson),
        (r#"{"type":"user","display_name":"Ada"}"#, Refusal::NoUuid),
        (r#"{"type":"user","uuid":"ada"}"#, Refusal::NoUuid),
        (
            r#"{"type":"user","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}","account_status":"inactive"}"#,
            Refusal::Inactive,
        ),
        (
            r#"{"type":"user","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}","account_status":"closed"}"#,
            Refusal::Inactive,
        ),
    ] {
        let fake = Fake::start(move |_| json(200, body)).await?;
        let error = error(fake.bitbucket.profile(&secret(TOKEN)).await)?;
        assert_eq!(error.remedy(), Remedy::Refuse(refusal), "{body}");
    }
    let odd = r#"{"type":"user","uuid":"{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}","nickname":"ada"}"#;
    let fake = Fake::start(move |_| json(200, odd)).await?;
    let profile = fake.bitbucket.profile(&secret(TOKEN)).await?;
    assert_eq!((&*profile.display_name, profile.status), ("ada", Status::Unstated));
    Ok(())
}

#[tokio::test]
async fn all_pages_of_the_workspaces_are_read_and_counted() -> Checked {
    let fake = Fake::start(|seen| {
        let entry = format!(
            r#"{{"type":"workspace_access","administrator":{},
                "workspace":{{"type":"workspace_base","uuid":"{UUID}","slug":"team_{}","links":{{}}}}}}"#,
            seen.n == 0,
            seen.n
        );
        match seen.n {
            0..3 => json(
                200,
                &format!(
                    r#"{{"values":[{entry}],"next":"{}/2.0/user/workspaces?page={}"}}"#,
                    seen.base,
                    seen.n + 2
                ),
            ),
            _ => json(200, &format!(r#"{{"pagelen":1,"values":[{entry}],"next":null}}"#)),
        }
    })
    .await?;
    let listed = fake.bitbucket.workspaces(&secret(TOKEN)).await?;
    let listed: Vec<_> = listed.iter().map(|team| (&*team.slug, team.administrator)).collect();
    assert_eq!(listed, [("team_0", true), ("team_1", false), ("team_2", false), ("team_3", false)]);
    let lines: Vec<_> = fake.seen().iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(
        lines,
        [
            "GET /2.0/user/workspaces?sort=slug&pagelen=100",
            "GET /2.0/user/workspaces?page=2",
            "GET /2.0/user/workspaces?page=3",
            "GET /2.0/user/workspaces?page=4",
        ]
    );
    assert_eq!(fake.outcomes(), [(Endpoint::Workspaces, "2xx"); 4]);
    Ok(())
}

#[tokio::test]
async fn a_list_with_a_gap_is_no_list() -> Checked {
    let good = format!(r#"{{"administrator":false,"workspace":{{"uuid":"{UUID}","slug":"a"}}}}"#);
    for (second, label) in [
        (json(500, "<html>"), "unavailable"),
        (json(200, r#"{"pagelen":1}"#), "unknown_shape"),
        (json(200, r#"{"values":[{"workspace":{"slug":"a"}}]}"#), "unknown_shape"),
        (
            json(
                200,
                r#"{"values":[{"workspace":{"slug":"a,b","uuid":"{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}"}}]}"#,
            ),
            "unknown_shape",
        ),
        (json(200, r#"{"values":[{"workspace":{"slug":"a","uuid":"b"}}]}"#), "unknown_shape"),
        (json(200, r#"{"values":["#), "cut_short"),
        (json(403, r#"{"type":"error","error":{"message":"Forbidden"}}"#), "forbidden"),
        (json(404, r#"{"type":"error","error":{"message":"No"}}"#), "not_found"),
    ] {
        let Reply::Raw(second) = second else { continue };
        let good = good.clone();
        let fake = Fake::start(move |seen| match seen.n {
            0 => json(
                200,
                &format!(r#"{{"values":[{good}],"next":"{}/2.0/user/workspaces?page=2"}}"#, seen.base),
            ),
            _ => Reply::Raw(second.clone()),
        })
        .await?;
        let error = error(fake.bitbucket.workspaces(&secret(TOKEN)).await)?;
        assert_eq!(error.label(), label, "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_end_and_stay_at_home() -> Checked {
    let fake = Fake::start(|seen| {
        json(200, &format!(r#"{{"values":[],"next":"{}/2.0/user/workspaces?page=2"}}"#, seen.base))
    })
    .await?;
    let error_of_many = error(fake.bitbucket.workspaces(&secret(TOKEN)).await)?;
    assert_eq!((error_of_many.label(), fake.seen().len()), ("too_many_pages", 20));

    let elsewhere = Fake::start(|_| json(200, r#"{"values":[]}"#)).await?;
    for next in [
        format!("{}/2.0/user/workspaces?page=2", elsewhere.base),
        elsewhere.base.replace("http://", "http://user:pass@"),
        "https://evil.example/2.0/user/workspaces".to_owned(),
        "/2.0/user/workspaces?page=2".to_owned(),
    ] {
        let body = format!(r#"{{"values":[],"next":"{next}"}}"#);
        let fake = Fake::start(move |_| json(200, &body)).await?;
        let error = error(fake.bitbucket.workspaces(&secret(TOKEN)).await)?;
        assert_eq!((error.label(), error.remedy()), ("foreign_next", Remedy::Report));
        assert_eq!(fake.seen().len(), 1);
    }
    assert!(elsewhere.seen().is_empty(), "the token went to a foreign host");
    Ok(())
}

#[tokio::test]
async fn a_permission_is_a_membership_only_by_a_word_we_know() -> Checked {
    let member = |level| Permission::Member { slug: Some("my_team".into()), id: UUID.parse().ok(), level };
    for (status, word, expected) in [
        (200, "owner", member(Level::Owner)),
        (200, "create-project", member(Level::CreateProject)),
        (200, "member", member(Level::Member)),
        (200, "collaborator", Permission::None),
        (200, "Owner", Permission::None),
        (200, "emperor", Permission::None),
        (200, "", Permission::None),
        (403, "owner", Permission::None),
        (404, "owner", Permission::None),
    ] {
        let body = format!(
            r#"{{"type":"workspace_membership","permission":"{word}","user":{{}},
                "workspace":{{"type":"workspace","uuid":"{UUID}","slug":"my_team","name":"My Team"}}}}"#
        );
        let fake = Fake::start(move |_| json(status, &body)).await?;
        let answer = fake.bitbucket.permission(&secret(TOKEN), &"my_team".parse()?).await?;
        assert_eq!(answer, expected, "{status} {word}");
        let lines: Vec<_> = fake.seen().iter().map(|seen| seen.line.clone()).collect();
        assert_eq!(lines, ["GET /2.0/user/workspaces/my_team/permission"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_permission_by_uuid_is_about_that_uuid() -> Checked {
    let body = format!(r#"{{"permission":"member","workspace":{{"uuid":"{UUID}","slug":"my_team"}}}}"#);
    let fake = Fake::start(move |_| json(200, &body)).await?;
    let same: TeamName = UUID.parse()?;
    let other: TeamName = "{b15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}".parse()?;
    assert!(matches!(
        fake.bitbucket.permission(&secret(TOKEN), &same).await?,
        Permission::Member { level: Level::Member, .. }
    ));
    let error = error(fake.bitbucket.permission(&secret(TOKEN), &other).await)?;
    assert_eq!(error.label(), "unknown_shape");
    assert_eq!(
        fake.seen().first().map(|seen| seen.line.clone()).as_deref(),
        Some("GET /2.0/user/workspaces/%7Ba15fb181-db1f-48f7-b41f-aaaaaaaaaaaa%7D/permission")
    );

    let fake = Fake::start(|_| json(200, r#"{"permission":"member"}"#)).await?;
    let bare = fake.bitbucket.permission(&secret(TOKEN), &"my_team".parse()?).await?;
    assert_eq!(bare, Permission::Member { slug: None, id: None, level: Level::Member });
    // A path of dots would ask about something else; it is not asked.
    let dots = fake.bitbucket.permission(&secret(TOKEN), &TeamName::Slug("..".into())).await?;
    assert_eq!((dots, fake.seen().len()), (Permission::None, 1));
    Ok(())
}

#[tokio::test]
async fn what_the_api_refuses_is_told_apart() -> Checked {
    use Remedy::{FixConfiguration, Report, Retry, RetryAfter, SignInAgain};

    let expired = r#"{"type":"error","error":{"message":"Token is invalid, expired, or not supported for this endpoint."}}"#;
    let scope = r#"{"type":"error","error":{"message":"Your credentials lack one or more required privilege scopes.","detail":{"required":["account"],"granted":["email"]}},"extra":1}"#;
    let forbidden = r#"{"type":"error","error":{"message":"Forbidden"}}"#;
    let path = r#"{"type":"error","error":{"message":"Resource not found","detail":"There is no API hosted at this URL.\n\nFor information"}}"#;
    let gone = r#"{"type":"error","error":{"message":"CHANGE-2770 - Functionality has been deprecated","detail":"Please read the changelog entry for more details.","data":{"announcement_url":"https://developer.atlassian.com/cloud/bitbucket/changelog#CHANGE-2770"}},"data":{"announcement_url":"…"}}"#;
    let wait = |seconds| RetryAfter(Duration::from_secs(seconds));
    let date = "Date: Tue, 24 Nov 2026 08:00:00 GMT\r\nRetry-After: Tue, 24 Nov 2026 08:01:00 GMT\r\n";
    // label and remedy; whether `permission` takes it for "no member"
    for (reply, label, remedy, tells) in [
        (json(401, expired), "unauthorized", SignInAgain, false),
        (reply(401, "", "gone"), "unauthorized", SignInAgain, false),
        (json(403, scope), "missing_scope", FixConfiguration, false),
        (json(403, forbidden), "forbidden", FixConfiguration, true),
        (json(403, "<html>firewall</html>"), "not_json", Retry, false),
        (json(403, ""), "cut_short", Retry, false),
        (json(404, forbidden), "not_found", FixConfiguration, true),
        (json(404, path), "removed", Report, false),
        (json(404, "<html>cache</html>"), "not_json", Retry, false),
        (json(410, gone), "removed", Report, false),
        (json(410, ""), "removed", Report, false),
        (json(400, forbidden), "unexpected_status", Report, false),
        (json(429, "Rate limit for this resource has been exceeded"), "throttled", wait(30), false),
        (reply(429, "Retry-After: 7\r\n", ""), "throttled", wait(7), false),
        (reply(429, date, ""), "throttled", wait(60), false),
        (json(500, "<html>"), "unavailable", Retry, false),
        (reply(503, "Retry-After: 9\r\n", ""), "unavailable", wait(9), false),
        (reply(302, "Location: /2.0/user\r\n", ""), "redirected", FixConfiguration, false),
        (json(200, "<html>sorry</html>"), "not_json", Retry, false),
        (json(200, r#"["member"]"#), "unknown_shape", Report, false),
        (json(200, "null"), "unknown_shape", Report, false),
        (json(200, r#"{"type":"us"#), "cut_short", Retry, false),
        (Reply::Raw(String::new()), "broken", Retry, false),
        (Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}".to_owned()), "broken", Retry, false),
        (Reply::Raw("SSH-2.0-OpenSSH\r\n".to_owned()), "broken", Retry, false),
    ] {
        let Reply::Raw(raw) = reply else { continue };
        let answer = raw.clone();
        let fake = Fake::start(move |_| Reply::Raw(answer.clone())).await?;
        let error = error(fake.bitbucket.profile(&secret(TOKEN)).await)?;
        assert_eq!((error.label(), error.remedy()), (label, remedy), "{raw}");
        assert_eq!(error.is_unauthorized(), label == "unauthorized");
        let permission = fake.bitbucket.permission(&secret(TOKEN), &"my_team".parse()?).await;
        match permission {
            Ok(answer) => assert!(tells && answer == Permission::None, "{raw}"),
            Err(error) => assert!(!tells && error.label() == label, "{raw}: {error}"),
        }
        assert_eq!(fake.seen().len(), 2, "nothing is repeated, nothing is followed: {raw}");
        let told = format!("{error} {error:?}");
        assert!(!told.contains(TOKEN) && !told.contains('\n'), "{told}");
        match label {
            "missing_scope" => assert!(told.contains("`account`") && told.contains("`email`"), "{told}"),
            "gone" if raw.contains("CHANGE") => assert!(told.contains("changelog#CHANGE-2770"), "{told}"),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_answer_ends_with_the_deadline_of_the_whole_question() -> Checked {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{";
    for begun in ["", head] {
        let fake =
            Fake::with_timeout(Duration::from_millis(100), move |_| Reply::Hang(begun.to_owned())).await?;
        let error = error(fake.bitbucket.profile(&secret(TOKEN)).await)?;
        assert_eq!((error.label(), error.remedy()), ("timeout", Remedy::Retry));
        assert_eq!(fake.outcomes(), [(Endpoint::User, "timeout")]);
    }
    // Twenty pages take 600 ms at least: no page is late, all together are.
    let fake = Fake::with_timeout(Duration::from_millis(250), |seen| {
        match json(200, &format!(r#"{{"values":[],"next":"{}/2.0/user/workspaces?page=2"}}"#, seen.base)) {
            Reply::Raw(text) => Reply::Late(text),
            other => other,
        }
    })
    .await?;
    let error = error(fake.bitbucket.workspaces(&secret(TOKEN)).await)?;
    assert_eq!(error.label(), "timeout");
    Ok(())
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() -> Checked {
    let told = "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n".to_owned();
    let untold = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned();
    for head in [told, untold] {
        let fake = Fake::start(move |_| Reply::Huge(head.clone())).await?;
        let error = error(fake.bitbucket.profile(&secret(TOKEN)).await)?;
        assert_eq!((error.label(), error.remedy()), ("too_long", Remedy::Report));
        assert_eq!(fake.outcomes(), [(Endpoint::User, "broken")]);
    }
    let deep = format!(r#"{{"type":"user","links":{}"#, "[".repeat(100_000));
    let fake = Fake::start(move |_| json(200, &deep)).await?;
    assert!(fake.bitbucket.profile(&secret(TOKEN)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn nobody_at_home_means_unsent_and_leaving_early_is_counted() -> Checked {
    let gone = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", gone.local_addr()?);
    drop(gone);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings {
        client_id: "id".to_owned(),
        client_secret: Arc::new(secret("secret")),
        redirect_uri: Url::parse("https://gate.example.com/callback")?,
        web_url: Url::parse(&base)?,
        api_url: Url::parse(&base)?,
        timeout: Duration::from_secs(10),
    };
    let nobody = Bitbucket::new(
        settings.clone(),
        Arc::new(|call: &Call| assert_eq!(call.outcome, Outcome::Unreachable)),
    )?;
    let error = error(nobody.refresh(&secret("r")).await)?;
    assert!(error.is_unsent() && error.is_transient(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");

    let fake = Fake::start(|_| Reply::Hang(String::new())).await?;
    let token = secret(TOKEN);
    tokio::select! {
        biased;
        _ = fake.bitbucket.profile(&token) => {}
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(fake.outcomes(), [(Endpoint::User, "abandoned")]);

    for url in ["ftp://bitbucket.org", "https://user@bitbucket.org", "https://bitbucket.org/?a=b"] {
        let settings = Settings { web_url: Url::parse(url)?, ..settings.clone() };
        let refused = Bitbucket::new(settings, Arc::new(|_: &Call| ())).err().map(|error| error.remedy());
        assert_eq!(refused, Some(Remedy::FixConfiguration), "{url}");
    }
    Ok(())
}
