//! Pingora with nothing on top, built and allocating as teamgate does: the *same-build bare* of `docs/benchmarks/`.

mod forward;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    forward::exit(forward::run())
}
