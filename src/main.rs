//! Parses the arguments, runs, prints one error, chooses the exit code.
fn main() {}
