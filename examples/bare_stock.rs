//! Pingora with nothing on top and the system's allocator: built with the profile `stock`, the *stock bare* of
//! `docs/benchmarks/`.

#[path = "bare/forward.rs"]
mod forward;

use std::process::ExitCode;

fn main() -> ExitCode {
    forward::exit(forward::run())
}
