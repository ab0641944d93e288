//! `cargo xtask demo` shows the main job without a key; `cargo xtask rooms` checks the boundaries
//! between crates. Development only: nothing of it is in the `forge` binary.

#![expect(clippy::print_stdout, reason = "a development tool speaks to its user")]
#![expect(clippy::print_stderr, reason = "a development tool speaks to its user")]

mod demo;
mod rooms;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask demo | rooms

  demo    builds forge and the scripted model server, and lets both work in a scratch directory
  rooms   checks that no crate depends on what its room must not hold";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["demo"] => finish(demo::run()),
        ["rooms"] => finish(rooms::run()),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn finish<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::FAILURE
}
