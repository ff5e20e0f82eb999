//! What teamgate costs, end to end: the same app behind teamgate, behind Pingora with nothing on top, and behind others.
//!
//! `cargo bench --bench end_to_end` measures everything and writes `docs/benchmarks/`;
//! `cargo bench --bench end_to_end -- instructions` counts instructions only. `docs/benchmarks/README.md` explains.
//!
//! Owns: the scenarios, the order of rounds. Must not know: how a program is configured ([`contenders`]) or how a
//! round is counted ([`load`]).

#![expect(clippy::print_stdout, reason = "it is a program that prints what it measured")]

mod contenders;
mod instructions;
mod load;
mod report;
mod seed;

/// What starts the program and its neighbours; the tests have it too.
#[path = "../../tests/gateway"]
mod gateway {
    #[expect(unused_imports, reason = "the tests use more of it")]
    pub(crate) mod support;
}

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use self::contenders::{Contender, HOST, Teamgate, Who};
use self::gateway::support;
use self::instructions::Counted;
use self::report::{Row, Table};
use self::seed::Size;
use self::support::Checked;

/// Where contenders run.
const GATE_CORE: usize = 0;
/// Where the app runs.
const APP_CORE: usize = 1;
/// Where clients run: beside the app, so that two cores are enough.
const CLIENT_CORE: usize = 1;

/// Where results are written, and what is expected stands.
const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks");

/// One session of one person in five teams.
const ONE: Size = Size { sessions: 1, accounts: 1, teams: 5 };

/// What is asked for on the command line.
struct Wish {
    scenarios: Vec<String>,
    rounds: usize,
    span: Duration,
    /// `cargo test --benches`: once through, no time measured, nothing written.
    only_tried: bool,
    /// The instructions that are counted are those that are expected from now on.
    renew: bool,
}

const SCENARIOS: &[&str] = &["instructions", "hot", "peers", "refused", "sessions", "routes", "groups"];

fn wish() -> Result<Wish, String> {
    let span = Duration::from_secs(3);
    let mut wish = Wish { scenarios: Vec::new(), rounds: 11, span, only_tried: false, renew: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = |name: &str| -> Result<u32, String> {
            let text = arguments.next().ok_or_else(|| format!("{name} wants a number"))?;
            text.parse().map_err(|error| format!("{name}: {error}: {text}"))
        };
        match &*argument {
            // What cargo says to every bench.
            "--bench" => {}
            "--test" => wish.only_tried = true,
            "--renew" => wish.renew = true,
            "--rounds" => wish.rounds = number("--rounds")?.max(1) as usize,
            "--seconds" => wish.span = Duration::from_secs(u64::from(number("--seconds")?.max(1))),
            name if SCENARIOS.contains(&name) => wish.scenarios.push(name.to_owned()),
            other => return Err(format!("`{other}` is none of {SCENARIOS:?}, --rounds N, --seconds N")),
        }
    }
    if wish.only_tried {
        (wish.rounds, wish.span) = (1, Duration::from_secs(1));
        wish.scenarios = ["instructions", "hot", "refused", "peers"].map(str::to_owned).into();
    } else if wish.scenarios.is_empty() {
        wish.scenarios = SCENARIOS.iter().map(|name| (*name).to_owned()).collect();
    }
    Ok(wish)
}

fn main() -> ExitCode {
    teamgate::keys::install_crypto_providers();
    let outcome = wish().map_err(Into::into).and_then(|wish| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(run(&wish))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            println!("{fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(wish: &Wish) -> Checked {
    let app = contenders::app().await?;
    let bare = example("bare", profile()?)?;
    for scenario in &wish.scenarios {
        let Wish { rounds, span, .. } = *wish;
        println!("\n{scenario}");
        let table = match &**scenario {
            "instructions" => {
                let counted = count(&bare, app.address()).await?;
                counted.print();
                let file = Path::new(DOCUMENTS).join("instructions.json");
                match wish.renew {
                    true => counted.renew(&file, profile()?)?,
                    false => counted.check(&file, profile()?)?,
                }
                continue;
            }
            "hot" => {
                let mut all = vec![contenders::bare("bare", &bare, app.address()).await?];
                if !wish.only_tried {
                    let stock = example("bare_stock", "stock")?;
                    all.push(contenders::bare("stock bare", &stock, app.address()).await?);
                }
                all.push(teamgate("teamgate, one session", ONE, 1_000, Who::One, &app).await?);
                let many =
                    Size { sessions: if wish.only_tried { 200 } else { 20_000 }, accounts: 100, ..ONE };
                let many = Size { accounts: many.sessions / 10, ..many };
                all.push(teamgate("teamgate, 20,000 sessions", many, 1_000, Who::All, &app).await?);
                measure(scenario, &all, rounds, span)?
            }
            "refused" => {
                let all = vec![
                    contenders::bare("bare, forwarded", &bare, app.address()).await?,
                    teamgate("teamgate, forwarded", ONE, 1_000, Who::One, &app).await?,
                    teamgate("teamgate, 401 without a cookie", ONE, 1_000, Who::Nobody, &app).await?,
                    teamgate("teamgate, 401 with garbage", ONE, 1_000, Who::Garbage, &app).await?,
                ];
                measure(scenario, &all, rounds, span)?
            }
            "peers" => {
                let all = vec![
                    contenders::bare("bare", &bare, app.address()).await?,
                    teamgate("teamgate", ONE, 1, Who::One, &app).await?,
                    contenders::plain_nginx(app.address()).await?,
                    contenders::auth_request(app.address()).await?,
                ];
                measure(scenario, &all, rounds, span)?
            }
            "sessions" => {
                let size = |sessions| Size { sessions, accounts: (sessions / 10).max(1), teams: 5 };
                let all = vec![
                    teamgate("1,000 sessions", size(1_000), 1_000, Who::All, &app).await?,
                    teamgate("1,000,000 sessions", size(1_000_000), 1_000, Who::All, &app).await?,
                ];
                measure(scenario, &all, rounds, span)?
            }
            "routes" => {
                let all = vec![
                    teamgate("10 routes", ONE, 10, Who::One, &app).await?,
                    teamgate("10,000 routes", ONE, 10_000, Who::One, &app).await?,
                ];
                measure(scenario, &all, rounds, span)?
            }
            "groups" => {
                let all = vec![
                    teamgate("1 group", Size { teams: 1, ..ONE }, 10, Who::One, &app).await?,
                    teamgate("500 groups", Size { teams: 500, ..ONE }, 10, Who::One, &app).await?,
                ];
                measure(scenario, &all, rounds, span)?
            }
            other => return Err(format!("no scenario {other}").into()),
        };
        table.print();
        if !wish.only_tried {
            table.write(Path::new(DOCUMENTS))?;
        }
    }
    Ok(())
}

async fn teamgate(
    name: &str,
    size: Size,
    routes: usize,
    who: Who,
    app: &support::Nginx,
) -> Checked<Contender> {
    contenders::teamgate(&Teamgate { name, size, routes, who }, app.address()).await
}

/// Rounds of all, one after the other, in alternating order; each is compared with the first of its own round.
fn measure(scenario: &str, all: &[Contender], rounds: usize, span: Duration) -> Checked<Table> {
    for contender in all {
        load::round(&contender.ask, &contender.processes, span)?;
    }
    let mut rows: Vec<Row> = all.iter().map(|contender| Row::new(&contender.name)).collect();
    for round in 0..rounds {
        let forth = 0..all.len();
        let order: Vec<usize> = if round % 2 == 0 { forth.collect() } else { forth.rev().collect() };
        for place in order {
            rows[place].rounds.push(load::round(&all[place].ask, &all[place].processes, span)?);
        }
    }
    for (row, contender) in rows.iter_mut().zip(all) {
        let memory = contender.processes.iter().map(|process| load::memory(*process));
        row.memory = memory.sum::<Checked<u64>>()?;
    }
    Ok(Table::new(scenario, rows, rounds, span))
}

/// Instructions of a request, of the bare forwarder and of teamgate with everything on.
async fn count(bare: &Path, app: std::net::SocketAddr) -> Checked<report::Instructions> {
    let under = |folder: &Path| instructions::under(folder).to_vec();
    let request = |cookie: &str| {
        format!(
            "GET /page?x=1 HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
             Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en\r\n\
             Cookie: {cookie}; theme=dark\r\n\r\n"
        )
    };
    let (alive, id, address, folder) = contenders::bare_under(under, bare, app).await?;
    let counted = Counted::new(id, &folder);
    let bare = counted.per_request(address, &request(&format!("somebody={}", "A".repeat(64))), "200").await?;
    drop(alive);
    let (gateway, id, cookies) = contenders::gateway(ONE, 100, app, under).await?;
    let counted = Counted::new(id, gateway.folder());
    let cookie = cookies.first().ok_or("no session")?;
    let full = counted.per_request(gateway.address(), &request(cookie), "200").await?;
    if let Some(keep) = std::env::var_os("TEAMGATE_KEEP_CALLGRIND") {
        std::fs::copy(counted.busiest()?.1, keep)?;
    }
    Ok(report::Instructions { bare, full })
}

/// The profile that this very program was built with, as its folder is called.
fn profile() -> Checked<&'static str> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(2).and_then(Path::file_name).ok_or("no folder")?;
    Ok(if folder == "debug" { "dev" } else { "release" })
}

/// Builds an example and says where it is.
fn example(name: &str, profile: &str) -> Checked<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--locked", "--example", name, "--profile", profile]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    // What cargo told us about ourselves would make some crates think that they have to be built again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|ours| name.starts_with(ours)) {
            command.env_remove(&*name);
        }
    }
    if !command.status()?.success() {
        return Err(format!("the example {name} was not built").into());
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).ok_or("no target folder")?;
    Ok(target.join(folder).join("examples").join(name))
}
