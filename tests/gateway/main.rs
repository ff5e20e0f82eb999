//! The gateway as its users meet it: the real program, a pretend Bitbucket, an app behind it, and browsers and
//! programs in front. Nothing here knows how the gateway works inside.
//!
//! Each test has its own processes, ports and folder; nothing sleeps where an event can be awaited.

mod support;

mod admin;
mod authorization;
mod commands;
mod domains;
mod framing;
mod keys;
mod login;
mod outage;
mod process;
mod proxying;
mod requery;
mod sessions;
mod spoofing;
mod streaming;
mod upstreams;
