//! What is measured: programs in front of the same app, started and pinned.
//!
//! Owns: [`Contender`], how each is configured. Must not know: load, figures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::load::{self, ANYTHING, Ask, PAGES};
use crate::seed::{DOMAIN, Size, TEAM, seed};
use crate::support::{Checked, Config, Gateway, Nginx, PATIENCE, free_address};
use crate::{APP_CORE, GATE_CORE};

/// The host that every request is for.
pub(crate) const HOST: &str = "wiki.example.test";

/// One program, or several that need each other, and how it is asked.
pub(crate) struct Contender {
    /// Its name in the table.
    pub(crate) name: String,
    /// How it is asked.
    pub(crate) ask: Ask,
    /// Every process that it needs, the app not counted.
    pub(crate) processes: Vec<u32>,
    /// Dropped last, which ends them.
    _alive: Alive,
}

/// What keeps a contender running: each ends with its value.
#[expect(dead_code, reason = "held, never looked at")]
enum Alive {
    Gateway(Box<Gateway>),
    Program(Program),
    Nginx(Vec<Nginx>),
}

/// A program that is killed when dropped.
struct Program {
    child: Child,
    _folder: TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The app behind all of them: it answers from memory.
pub(crate) async fn app() -> Checked<Nginx> {
    let servers = "keepalive_requests 1000000000; server { listen @ADDRESS@ backlog=1024; access_log off; \
                   location / { return 200 \"ok\"; } }";
    let app = Nginx::start(servers).await?;
    pin(app.id(), APP_CORE)?;
    Ok(app)
}

/// Pingora with nothing on top: the binary `program` of `examples/`.
pub(crate) async fn bare(name: &str, program: &Path, app: SocketAddr) -> Checked<Contender> {
    let folder = tempfile::tempdir()?;
    let address = free_address()?;
    let (program, child) =
        started(folder, &[], program, &[&address.to_string(), &app.to_string()], address).await?;
    let script = load::script(program._folder.path(), "ask", HOST, &[cookie_of_others()], PAGES)?;
    let ask = Ask { address, script, expected: 200 };
    Ok(Contender { name: name.to_owned(), ask, processes: vec![child], _alive: Alive::Program(program) })
}

/// As long as a cookie of ours.
fn cookie_of_others() -> String {
    format!("somebody={}", "A".repeat(64))
}

/// Runs `program` on the gate's core until it takes connections.
async fn started(
    folder: TempDir,
    under: &[&str],
    program: &Path,
    arguments: &[&str],
    address: SocketAddr,
) -> Checked<(Program, u32)> {
    let core = GATE_CORE.to_string();
    let mut words: Vec<&str> = if under.is_empty() { vec!["taskset", "-c", &core] } else { under.to_vec() };
    let name = program.display().to_string();
    words.push(&name);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(arguments).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", words[0]))?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        if child.try_wait()?.is_some() || tokio::time::Instant::now() > deadline {
            return Err(format!("{name} does not take connections on {address}").into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let id = child.id();
    Ok((Program { child, _folder: folder }, id))
}

/// Routes besides the one that is asked for.
pub(crate) fn routes(count: usize) -> String {
    let mut text = format!("- {{ name: wiki, host: {HOST}, teams: [{TEAM}], upstream: $UPSTREAM }}\n");
    for number in 1..count {
        let (host, path) = (number / 10, number % 10);
        text.push_str(&format!(
            "- {{ name: app-{number}, host: app-{host}.example.test, path: /area-{path}, teams: [{TEAM}], \
             upstream: $UPSTREAM }}\n"
        ));
    }
    text
}

/// How teamgate runs.
pub(crate) struct Teamgate<'a> {
    /// Its name in the table.
    pub(crate) name: &'a str,
    /// What it knows.
    pub(crate) size: Size,
    /// How many routes it has.
    pub(crate) routes: usize,
    /// With which of the sessions it is asked.
    pub(crate) who: Who,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// One session, again and again.
    One,
    /// All sessions, at random.
    All,
    /// Nobody: no cookie.
    Nobody,
    /// Cookies that were never ours, all different.
    Garbage,
}

/// The configuration: everything on, memberships young for as long as the run takes.
fn configuration(routes_of_it: usize) -> Config {
    Config::default()
        .bitbucket(&format!("teams: [{TEAM}]"))
        .top("external_url: https://gate.example.test")
        .top(&format!("session: {{ cookie_domain: {DOMAIN} }}"))
        .top("secret_file: teamgate.secret")
        .top("directory: { refresh_after: 12h, profile_after: 12h, max_age: 20h, outage_grace: 20h }")
        .routes(&routes(routes_of_it))
}

fn variables(app: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        // Nobody is asked there: everything is known and young.
        ("BITBUCKET", "http://127.0.0.1:9".to_owned()),
        ("UPSTREAM", format!("http://{app}")),
        ("CLIENT_ID", EXAMPLE_CLIENT_ID.to_owned()),
        ("CLIENT_SECRET", EXAMPLE_CLIENT_SECRET.to_owned()),
    ]
}

/// teamgate, and the cookies of its sessions, started as the last words of `under`.
pub(crate) async fn gateway(
    size: Size,
    routes: usize,
    app: SocketAddr,
    under: impl FnOnce(&Path) -> Vec<String>,
) -> Checked<(Gateway, u32, Vec<String>)> {
    let folder = tempfile::tempdir()?;
    let cookies = seed(folder.path(), size).await?;
    let words = under(folder.path());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut gateway = Gateway::start_in(folder, &words, &configuration(routes), &variables(app)).await?;
    let id = gateway.process().id();
    Ok((gateway, id, cookies.into_iter().map(|value| format!("teamgate={value}")).collect()))
}

/// teamgate on the gate's core, its access lines going to a file.
pub(crate) async fn teamgate(how: &Teamgate<'_>, app: SocketAddr) -> Checked<Contender> {
    let under = |folder: &Path| {
        let lines = folder.join("lines");
        let words = format!("exec taskset -c {GATE_CORE} \"$0\" \"$@\" >{}", lines.display());
        vec!["sh".to_owned(), "-c".to_owned(), words]
    };
    let (gateway, id, cookies) = gateway(how.size, how.routes, app, under).await?;
    let garbage = |number: usize| format!("teamgate={number:0>64}");
    let asked: Vec<String> = match how.who {
        Who::One => cookies.into_iter().take(1).collect(),
        Who::All => cookies,
        Who::Nobody => Vec::new(),
        Who::Garbage => (0..cookies.len().max(100_000)).map(garbage).collect(),
    };
    let (expected, accept) = match how.who {
        Who::One | Who::All => (200, PAGES),
        Who::Nobody | Who::Garbage => (401, ANYTHING),
    };
    let script = load::script(gateway.folder(), "ask", HOST, &asked, accept)?;
    let ask = Ask { address: gateway.address(), script, expected };
    Ok(Contender {
        name: how.name.to_owned(),
        ask,
        processes: vec![id],
        _alive: Alive::Gateway(Box::new(gateway)),
    })
}

/// Plain nginx: the limit of the machine.
pub(crate) async fn plain_nginx(app: SocketAddr) -> Checked<Contender> {
    let servers = format!(
        "upstream app {{ server {app}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen @ADDRESS@ backlog=1024; access_log off; keepalive_requests 1000000000;\n\
         location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; }} }}"
    );
    let nginx = pinned(Nginx::start(&servers).await?)?;
    of_nginx("nginx, checks nothing", nginx, Vec::new(), &cookie_of_others())
}

/// nginx with `auth_request`, and an nginx that knows one cookie by heart.
pub(crate) async fn auth_request(app: SocketAddr) -> Checked<Contender> {
    let known = "K".repeat(64);
    let backend = format!(
        "map_hash_bucket_size 128; map $cookie_session $user {{ default \"\"; {known} 0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21; }}\n\
         server {{ listen @ADDRESS@ backlog=1024; access_log off; keepalive_requests 1000000000;\n\
         location / {{ if ($user = \"\") {{ return 401; }} add_header X-User $user;\n\
         add_header X-Email person@example.com; add_header X-Groups {TEAM}; return 204; }} }}"
    );
    let backend = pinned(Nginx::start(&backend).await?)?;
    let servers = format!(
        "upstream app {{ server {app}; keepalive 64; keepalive_requests 1000000000; }}\n\
         upstream who {{ server {}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen @ADDRESS@ backlog=1024; keepalive_requests 1000000000;\n\
         location = /who {{ internal; proxy_pass http://who; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }}\n\
         location / {{ auth_request /who; auth_request_set $user $upstream_http_x_user;\n\
         auth_request_set $email $upstream_http_x_email; auth_request_set $groups $upstream_http_x_groups;\n\
         proxy_set_header X-Forwarded-User $user; proxy_set_header X-Forwarded-Email $email;\n\
         proxy_set_header X-Forwarded-Groups $groups; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header Host $host; proxy_pass http://app; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; }} }}",
        backend.address()
    );
    let nginx = pinned(Nginx::start(&servers).await?)?;
    of_nginx("nginx auth_request", nginx, vec![backend], &format!("session={known}"))
}

fn of_nginx(name: &str, front: Nginx, more: Vec<Nginx>, cookie: &str) -> Checked<Contender> {
    let script = load::script(front.folder(), "ask", HOST, &[cookie.to_owned()], PAGES)?;
    let ask = Ask { address: front.address(), script, expected: 200 };
    let all: Vec<Nginx> = std::iter::once(front).chain(more).collect();
    let processes = all.iter().map(Nginx::id).collect();
    Ok(Contender { name: name.to_owned(), ask, processes, _alive: Alive::Nginx(all) })
}

fn pinned(nginx: Nginx) -> Checked<Nginx> {
    pin(nginx.id(), GATE_CORE)?;
    Ok(nginx)
}

/// Keeps a process, and every thread of it, on one core.
fn pin(process: u32, core: usize) -> Checked {
    let mut command = Command::new("taskset");
    command.args(["-acp", &core.to_string(), &process.to_string()]).stdout(Stdio::null());
    match command.status().map_err(|error| format!("taskset: {error}; install util-linux"))?.success() {
        true => Ok(()),
        false => Err("taskset failed".into()),
    }
}

/// The bare forwarder under callgrind.
pub(crate) async fn bare_under(
    under: impl FnOnce(&Path) -> Vec<String>,
    program: &Path,
    app: SocketAddr,
) -> Checked<(impl Drop, u32, SocketAddr, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let words = under(&path);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let address = free_address()?;
    let (alive, id) =
        started(folder, &words, program, &[&address.to_string(), &app.to_string()], address).await?;
    Ok((alive, id, address, path))
}
