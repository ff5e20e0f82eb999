//! `teamgate`: parses the arguments, runs, prints one error, chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use teamgate::{cli, keys};

/// A third of what a request costs in user space is allocation; this one is the cheapest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First thing: Pingora would install another provider.
    keys::install_crypto_providers();
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
