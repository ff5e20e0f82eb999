//! A simulator of Bitbucket Cloud's OAuth 2 and REST API, as they are since 2026, for tests and
//! demonstrations: no account and no network needed.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use bitbucket_sim::{Simulator, World};
//!
//! let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), World::example()).await?;
//! println!("sign in at {}, ask {}", simulator.url(), simulator.api_url());
//! # Ok(())
//! # }
//! ```
//!
//! A [`World`] holds all state: users by their id (`ann`), workspaces by their slug (`acme`), knobs, faults,
//! the clock. [`Simulator::with`] changes it while requests are served; [`Simulator::requests`] tells what was
//! asked. The `README.md` beside this crate says what is simulated, and what is a guess.
//!
//! Map. A module uses only those above it.
//!
//! * `clock`, `mint`: time; codes and tokens
//! * `log`, `faults`: what was asked; what shall go wrong
//! * `world`: the state and its rules, no HTTP
//! * `shared`, `browser`: the lock around the world; cookies and the same-origin rule
//! * `rest`, `pages`, `oauth`, `control`: `/2.0`; HTML; the authorize and token endpoints; `/_sim/`
//! * `effect`, `server`: what a fault does; sockets and what surrounds every request

mod clock;
mod mint;

mod faults;
mod log;

mod world;

mod browser;
mod shared;

mod rest;

mod pages;

mod oauth;

mod control;

mod effect;

mod server;

pub use self::clock::Clock;
pub use self::faults::{Fault, FaultKind};
pub use self::log::{ENDPOINTS, Logged};
pub use self::server::Simulator;
pub use self::world::{
    Budget, BudgetScope, Client, EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Email, Grant, Inactive,
    Membership, Permission, Regime, Repository, RepositoryPermission, Unknown, User, Workspace, World,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
