//! Makes one attempt to get out of the sandbox, by the kernel's own calls, and says what it saw.
//!
//! `forge-escape-attempt NAME TOKEN [ARGUMENT…]`: the token marks the process for whoever looks from
//! the host. Exit status 0 claims success, which the tests do not take the attempt's word for. Every
//! attempt is harmless when it succeeds.

mod arguments;
mod bombs;
mod devices;
mod files;
mod ipc;
mod kernel;
mod mounts;
mod namespaces;
mod network;
mod processes;
mod surfaces;

use std::io::{self, Write};
use std::process::ExitCode;

use arguments::Arguments;

/// What an attempt comes to: `Ok` where it believes that it got out.
type Outcome = io::Result<()>;
/// The name of an attempt and what makes it.
type Entry = (&'static str, fn(&Arguments) -> Outcome);

const THEMES: &[&[Entry]] = &[
    bombs::ATTEMPTS,
    devices::ATTEMPTS,
    files::ATTEMPTS,
    ipc::ATTEMPTS,
    mounts::ATTEMPTS,
    namespaces::ATTEMPTS,
    network::ATTEMPTS,
    processes::ATTEMPTS,
    surfaces::ATTEMPTS,
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(name), Some(_token)) = (words.next(), words.next()) else {
        return say("usage: forge-escape-attempt NAME TOKEN [ARGUMENT…]", 2);
    };
    let found = THEMES.iter().copied().flatten().find(|(known, _)| *known == name);
    let Some((_, attempt)) = found else { return say(&format!("no attempt is named {name}"), 2) };
    match attempt(&Arguments::new(words)) {
        Ok(()) => say("claims success", 0),
        Err(error) => say(&format!("refused: {error}"), 1),
    }
}

fn say(text: &str, code: u8) -> ExitCode {
    // Who listens may be gone, as where the attempt has outlived its command.
    drop(writeln!(io::stdout(), "{text}"));
    ExitCode::from(code)
}
