//! The command line: `run | dev | validate | explain | sessions | teams | keys | doctor | health | version`.
//!
//! Owns: arguments, what goes to the terminal, which exit code a failure gets.
//! Must not know: how anything is done.

mod admin;
mod doctor;
mod explain;
mod health;
mod keys;
mod sessions;
mod teams;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::{self, App};
use crate::clock::Clock;
use crate::config::compile::Compiled;
use crate::config::compile::listen::Listen;
use crate::config::problem::Problems;
use crate::config::{self};
use crate::telemetry;

/// A reverse-proxy authentication gateway for teams on Bitbucket Cloud.
#[derive(Parser)]
#[command(name = "teamgate", version = telemetry::VERSION, disable_version_flag = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(ConfigFile),
    /// Try it: a pretend Bitbucket, a demo app and the gateway, on this machine only.
    #[cfg(feature = "dev")]
    Dev(Dev),
    /// Check a configuration and print every problem.
    Validate(ConfigFile),
    /// Say which route a request meets, and who may pass it.
    Explain(explain::Explain),
    /// List and end the sessions of a running gateway.
    Sessions(sessions::Sessions),
    /// Say which workspace each team's name means, and what to do when a name changed hands.
    Teams(teams::Teams),
    /// Make, list and rotate keys.
    Keys(keys::Keys),
    /// Check everything that the configuration needs of Bitbucket: exit code 0 if it is in order, 1 if not.
    Doctor(doctor::Doctor),
    /// Ask a running gateway whether it is alive: exit code 0 if so, 1 if not.
    Health(health::Health),
    /// Print version, commit and what speaks TLS.
    Version,
}

/// Which configuration.
#[derive(Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TEAMGATE_CONFIG", default_value = "teamgate.yaml")]
    config: PathBuf,
}

#[cfg(feature = "dev")]
#[derive(Args)]
struct Dev {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
    /// Where metrics and health are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: std::net::SocketAddr,
    /// Where the pretend Bitbucket is
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7990")]
    bitbucket: std::net::SocketAddr,
}

/// Why a command failed, and with it the exit code.
#[derive(Debug)]
pub enum Failure {
    /// 1: the configuration, every problem of it.
    Config(Problems),
    /// 1: something that was typed, or asked for.
    Input(String),
    /// This code, and everything has been said.
    Told(ExitCode),
    /// 3: it could not run.
    Running(String),
}

impl Failure {
    /// Prints it to stderr, a problem a line, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let mut stderr = io::stderr().lock();
        // Nobody is left to tell when stderr is closed.
        let (written, code) = match self {
            Failure::Told(code) => return *code,
            Failure::Config(problems) => (writeln!(stderr, "{problems}"), 1),
            Failure::Input(problem) => (writeln!(stderr, "teamgate: {problem}"), 1),
            Failure::Running(problem) => (writeln!(stderr, "teamgate: {problem}"), 3),
        };
        let _ = written;
        ExitCode::from(code)
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Failure {
        Failure::Running(error.to_string())
    }
}

/// Does what the arguments say.
///
/// # Errors
///
/// What went wrong, for `main` to report.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Run(file) => serve(&file),
        #[cfg(feature = "dev")]
        Command::Dev(dev) => demonstrate(&dev),
        Command::Validate(file) => validate(&file),
        Command::Explain(explain) => explain.run(),
        Command::Sessions(sessions) => sessions.run(),
        Command::Teams(teams) => teams.run(),
        Command::Keys(keys) => keys.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Health(health) => health.run(),
        Command::Version => {
            let (version, commit) = (telemetry::VERSION, telemetry::COMMIT);
            say(&format!("teamgate {version} ({commit})\nTLS: rustls, crypto: aws-lc-rs\n"))
        }
    }
}

/// Its warnings are for whoever starts the gateway.
fn load_quietly(file: &ConfigFile) -> Result<Compiled, Failure> {
    config::load(&file.config, &|name| std::env::var(name).ok(), Clock::system().now())
        .map_err(Failure::Config)
}

fn load(file: &ConfigFile) -> Result<Compiled, Failure> {
    let compiled = load_quietly(file)?;
    for warning in compiled.warnings.lines() {
        // Said once, at start; nobody is left to tell when stderr is closed.
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    Ok(compiled)
}

fn serve(file: &ConfigFile) -> Result<(), Failure> {
    let compiled = load(file)?;
    telemetry::log::report_panics();
    let addresses: Vec<String> = compiled.listen.iter().map(address).collect();
    let ready = format!(
        "teamgate {}: {} on {}, for {}; metrics and health on {}",
        telemetry::VERSION,
        routes(&compiled),
        addresses.join(", "),
        compiled.external_url.origin().ascii_serialization(),
        compiled.admin.address
    );
    let app = App::build(compiled, fingerprint(file))?;
    app.serve(|| {
        let _ = writeln!(io::stderr(), "{ready}");
    })?;
    Ok(())
}

/// A listener as it is reached.
fn address(listen: &Listen) -> String {
    let scheme = if listen.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}", listen.address)
}

/// The start of the SHA-256 of the file: what the audit log and metrics call this configuration.
fn fingerprint(file: &ConfigFile) -> String {
    let text = std::fs::read(&file.config).unwrap_or_default();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(feature = "dev")]
fn demonstrate(dev: &Dev) -> Result<(), Failure> {
    use std::io::IsTerminal;

    use crate::dev::{self, Addresses};

    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "starting …\r");
    }
    let addresses = Addresses { listen: dev.listen, admin: dev.admin, bitbucket: dev.bitbucket };
    dev::run(addresses, |welcome| {
        let _ = say(welcome);
    })
    .map_err(|error| match error {
        dev::Error::NotLoopback(_) => Failure::Input(error.to_string()),
        error => Failure::Running(error.to_string()),
    })
}

fn validate(file: &ConfigFile) -> Result<(), Failure> {
    let compiled = load(file)?;
    say(&format!("{}: {}, no problems\n", file.config.display(), routes(&compiled)))
}

/// `5 routes to 3 upstreams`.
fn routes(compiled: &Compiled) -> String {
    let apps = compiled.routes.iter().filter_map(|(_, route)| route.destination.app());
    let upstreams: BTreeSet<&str> =
        apps.flat_map(|app| &app.members).map(|member| &*member.target.upstream.url_text).collect();
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        several => format!("{several} {what}s"),
    };
    format!("{} to {}", counted(compiled.routes.len(), "route"), counted(upstreams.len(), "upstream"))
}

/// Prints to stdout.
fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::Running(format!("stdout cannot be written: {error}")))
}
