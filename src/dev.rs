//! `teamgate dev`: everything on this machine, in one process, without an account and without a network.
//!
//! Owns: the pretend Bitbucket, the demo app, and the folder that is gone when it ends.
//! Must not know: anything the gateway does not tell every app.

pub mod demo;
mod demo_app;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::{fs, io};

use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Simulator, World};

use crate::app::{self, App};
use crate::clock::Clock;
use crate::config::problem::Problems;
use crate::config::{self, compile::Compiled};
use crate::entropy::Entropy;

/// Where everything is; loopback only.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The gateway. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Metrics and health. Default 127.0.0.1:9090.
    pub admin: SocketAddr,
    /// The pretend Bitbucket. Default 127.0.0.1:7990.
    pub bitbucket: SocketAddr,
}

/// Why the demonstration does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody may sign in as anybody here, so nobody else may reach it.
    #[error(
        "{0} can be reached by others, and anybody may sign in here as anybody; use an address of 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// An address is taken.
    #[error(
        "{address}: cannot listen there ({source}); stop what has the port, or choose another with {option}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No folder for the hour.
    #[error("{}: cannot be made ({source})", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No threads.
    #[error("no threads to run on: {0}")]
    Runtime(io::Error),
    /// The demonstration's own configuration: a bug.
    #[error("the demonstration's own configuration is wrong; please report this:\n{0}")]
    Config(Problems),
    /// The gateway.
    #[error(transparent)]
    App(#[from] app::Error),
}

/// Runs until a signal says to stop. `announce` gets the text to print, once everything serves.
///
/// # Errors
///
/// An address that others can reach or that is taken, or whatever stops the gateway.
pub fn run(addresses: Addresses, announce: impl FnOnce(&str)) -> Result<(), Error> {
    for address in [addresses.listen, addresses.admin, addresses.bitbucket] {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
    }
    let folder = Folder::make(&Entropy::system())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("pretend")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let simulator = start_simulator(&runtime, addresses)?;
    let demo = demo_listener()?;
    let demo_at = demo.local_addr().map_err(Error::Runtime)?;
    let lookup = |name: &str| -> Option<String> {
        Some(match name {
            "LISTEN" => addresses.listen.to_string(),
            "ADMIN" => addresses.admin.to_string(),
            "BITBUCKET" => simulator.url(),
            "DEMO" => format!("http://{demo_at}"),
            "CLIENT_ID" => EXAMPLE_CLIENT_ID.to_owned(),
            "CLIENT_SECRET" => EXAMPLE_CLIENT_SECRET.to_owned(),
            _ => return None,
        })
    };
    let mut compiled = load(&folder, &lookup).map_err(Error::Config)?;
    // The terminal belongs to the visitor of the demonstration: what happens is on the pages.
    compiled.log.access = false;
    compiled.log.level = config::document::LogLevel::Warn;
    compiled.log.audit_file = Some(folder.0.join("audit.log"));
    let gateway = format!("http://{}", addresses.listen);
    runtime.spawn(demo_app::serve(demo, gateway, simulator.url()));
    let app = App::build(compiled, "dev".to_owned())?;
    let welcome = welcome(addresses);
    app.serve(|| announce(&welcome))?;
    Ok(())
}

fn start_simulator(runtime: &tokio::runtime::Runtime, addresses: Addresses) -> Result<Simulator, Error> {
    let mut world = World::example();
    let callback = format!("http://{}/.teamgate/callback", addresses.listen);
    // The example's own client; were it missing, the gateway would be told so at the first sign-in.
    let _ = world.set_callback(EXAMPLE_CLIENT_ID, &callback);
    runtime.block_on(Simulator::start(addresses.bitbucket, world)).map_err(|source| Error::Listen {
        address: addresses.bitbucket,
        option: "--bitbucket",
        source,
    })
}

fn demo_listener() -> Result<TcpListener, Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    TcpListener::bind(address).map_err(|source| Error::Listen { address, option: "--listen", source })
}

fn load(folder: &Folder, lookup: config::expand::Lookup<'_>) -> Result<Compiled, Problems> {
    let file = folder.0.join("dev.yaml");
    let written = fs::write(&file, include_str!("dev/dev.yaml"));
    debug_assert!(written.is_ok(), "the folder was made a moment ago");
    config::load(&file, lookup, Clock::system().now())
}

fn welcome(addresses: Addresses) -> String {
    let Addresses { listen, admin, bitbucket } = addresses;
    let version = crate::telemetry::VERSION;
    format!(
        "teamgate {version} — demo, on this machine only. Ctrl-C stops it; nothing is kept.

  the wiki     http://{listen}/          needs team  acme
  deploy       http://{listen}/deploy    needs team  acme/administrators
  status       http://{listen}/status    public
  who am I     http://{listen}/.teamgate/
  metrics      http://{admin}/metrics
  pretend Bitbucket   http://{bitbucket}/   — add and remove people from teams while you watch

Open the wiki and sign in as Ann (administrator), Ben (member) or Cleo (another team).
"
    )
}

/// A folder that is gone with this value.
struct Folder(PathBuf);

impl Folder {
    fn make(entropy: &Entropy) -> Result<Folder, Error> {
        let folder = std::env::temp_dir().join(format!("teamgate-dev-{}", entropy.token::<9>()));
        private(&folder).map_err(|source| Error::Folder { folder: folder.clone(), source })?;
        Ok(Folder(folder))
    }
}

fn private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The system clears its temporary folder; this only spares it the work.
        let _ = fs::remove_dir_all(&self.0);
    }
}
