//! Where browsers connect.
//!
//! Owns: what a connection is before anything is asked over it. Must not know: requests.

pub mod certificates;
pub mod reload;
pub mod tls;
