//! The gateway as its users meet it: the real program, a pretend Bitbucket, an app behind it, and browsers and
//! programs in front. Nothing here knows how the gateway works inside.
//!
//! Each test has its own processes, ports and folder; nothing sleeps where an event can be awaited.

mod support;

mod admin;
mod answers;
mod authorization;
mod commands;
mod directory;
mod doctor;
mod domains;
mod durability;
mod framing;
mod grpc;
mod handover;
mod heavy;
mod http2;
mod http2_limits;
mod keys;
mod limits;
mod login;
mod nonsense;
mod open;
mod outage;
mod process;
mod proxy_protocol;
mod proxying;
mod replicas;
mod repositories;
mod requery;
mod rewriting;
mod sessions;
mod spoofing;
mod streaming;
mod teams;
mod tls;
mod upstreams;
