//! From listening sockets to requests.
//!
//! Owns: what happens on a connection before its first request. Must not know: routes, sessions.

pub mod admission;
pub mod proxy_protocol;
