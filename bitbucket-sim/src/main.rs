//! `bitbucket-sim`: the simulator with its demonstration, as a program.
//!
//! Owns: arguments, the one line that is printed, the exit code: 0 asked to stop, 1 an argument is well formed
//! but not acceptable, 2 usage, 3 it could not run.
//! Must not know: anything the library does not offer.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Regime, Simulator, World};
use clap::{Parser, ValueEnum};
use url::Url;

/// A pretend Bitbucket Cloud on this machine: OAuth, the REST API for users and workspaces, and a page to move
/// people between teams.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; loopback addresses only, since anybody may sign in as anybody
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7990")]
    listen: SocketAddr,
    /// The callback URL that the demonstration's client registers
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/.teamgate/callback")]
    callback: String,
    /// The id of the demonstration's client
    #[arg(long, value_name = "ID", default_value = EXAMPLE_CLIENT_ID)]
    client_id: String,
    /// The secret of the demonstration's client
    #[arg(long, value_name = "SECRET", default_value = EXAMPLE_CLIENT_SECRET)]
    client_secret: String,
    /// Which generation of Bitbucket's OAuth to play
    #[arg(long, value_name = "REGIME", default_value = "new")]
    regime: RegimeName,
}

#[derive(Clone, Copy, ValueEnum)]
enum RegimeName {
    New,
    Legacy,
}

/// Why it ends other than by being asked to.
enum Failure {
    Input(String),
    Running(String),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (code, problem) = match run(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(problem)) => (1, problem),
        Err(Failure::Running(problem)) => (3, problem),
    };
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(io::stderr(), "bitbucket-sim: {problem}");
    ExitCode::from(code)
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { listen, callback, client_id, client_secret, regime } = arguments;
    if !listen.ip().is_loopback() {
        return Err(Failure::Input(format!(
            "--listen {listen} can be reached by others, and anybody may sign in here as anybody; \
             use a loopback address such as 127.0.0.1:{}",
            listen.port()
        )));
    }
    if !Url::parse(&callback).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Err(Failure::Input(format!(
            "--callback `{callback}` is not a full URL; write it like http://127.0.0.1:8080/.teamgate/callback"
        )));
    }
    let mut world = World::example();
    world.regime = match regime {
        RegimeName::New => Regime::New,
        RegimeName::Legacy => Regime::Legacy,
    };
    if let Ok(mut client) = world.client(EXAMPLE_CLIENT_ID).cloned() {
        // Absent is as good as removed.
        let _ = world.remove_client(EXAMPLE_CLIENT_ID);
        (client.id, client.secret, client.callback) = (client_id, client_secret, callback);
        world.register_client(client);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Running(format!("cannot start: {error}")))?;
    runtime.block_on(serve(listen, world))
}

async fn serve(listen: SocketAddr, world: World) -> Result<(), Failure> {
    let mut simulator = Simulator::start(listen, world)
        .await
        .map_err(|error| Failure::Running(format!("cannot listen on {listen}: {error}")))?;
    // Whoever closed stdout does not want to know.
    let _ = writeln!(
        io::stdout(),
        "pretend Bitbucket at {}/ (API {}); Ctrl-C stops it",
        simulator.url(),
        simulator.api_url()
    );
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = simulator.ended() => Err(Failure::Running("serving ended unexpectedly".to_owned())),
    }
}
