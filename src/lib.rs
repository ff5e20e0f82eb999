//! teamgate: a reverse-proxy authentication gateway for teams on Bitbucket Cloud.
//!
//! The modules stand in import order: each may use the ones above it and none below. `tests/layers.rs`
//! keeps that true; empty lines keep rustfmt from sorting them. A reader with ten minutes reads [`gate`],
//! [`policy`], [`proxy`] and knows the product.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | account | a Bitbucket user; its key is the uuid, never a name or an e-mail address |
//! | team | a Bitbucket workspace, named by its slug or pinned by its uuid |
//! | group | what a rule names: `team`, `team/members`, `team/administrators` |
//! | membership | the teams of one account, *as of* a moment |
//! | grant | the Bitbucket tokens that one account gave us, shared by all its sessions |
//! | session | one signed-in browser |
//! | route | host, path and method → upstream, with its access rule |
//! | pass | proof that a request was admitted, and by which rule |
//! | assertion | the signed statement about the account that goes to the upstream |

// ── ground: no imports from this crate
pub mod clock;
pub mod entropy;
pub mod secret;

// ── vocabulary: plain values, no I/O
pub mod facts;
pub mod identity;
pub mod membership;

// ── rules: pure functions of values and `now`
pub mod policy;
pub mod route;
pub mod session;
pub mod throttle;

// ── gateways: each hides one outside thing
pub mod telemetry;

pub mod bitbucket;
pub mod keys;
pub mod store;

// ── services: compose the above; no Pingora
pub mod revocation;

pub mod directory;

pub mod assertion;
pub mod live;

pub mod gate;
pub mod login;
pub mod open;

// ── one configuration, compiled
pub mod snapshot;

// ── edges: HTTP in and out
pub mod admin;
pub mod pages;

pub mod listener;

pub mod proxy;

// ── assembly
pub mod config;

pub mod app;

#[cfg(feature = "dev")]
pub mod dev;

pub mod cli;
