//! The user's pager, for what is longer than a screen.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};

use forge_api::OutputStream;

use crate::failure::Failure;
use crate::sessions::print;
use crate::terminal::is_terminal;
use crate::variables;

/// Where a long text goes: to the pager at a terminal, else to stdout.
#[derive(Debug)]
pub(crate) struct Output {
    pager: Option<Child>,
}

/// Whether anybody still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Go on.
    There,
    /// The user has left the pager.
    Gone,
}

impl Output {
    /// Starts the pager that `FORGE_PAGER`, `GIT_PAGER` or `PAGER` names, else `less`; none where stdout is no
    /// terminal, the name is empty or `cat`, or it cannot be started.
    pub(crate) fn open() -> Self {
        let named = ["FORGE_PAGER", "GIT_PAGER", "PAGER"].into_iter().find_map(named);
        let pager = named.unwrap_or_else(|| "less".to_owned());
        if !is_terminal(OutputStream::Stdout) || matches!(pager.trim(), "" | "cat") {
            return Self { pager: None };
        }
        Self { pager: start(&pager).ok() }
    }

    /// Writes to it.
    ///
    /// # Errors
    /// What is written to stdout cannot be.
    pub(crate) fn write(&mut self, text: &[u8]) -> Result<Reader, Failure> {
        let Some(pager) = self.pager.as_mut().and_then(|pager| pager.stdin.as_mut()) else {
            return print(text).map(|()| Reader::There);
        };
        // Whatever is in the way of a pager, its user has seen it.
        Ok(if pager.write_all(text).is_ok() { Reader::There } else { Reader::Gone })
    }

    /// Waits until the user has read.
    pub(crate) fn close(self) {
        if let Some(mut pager) = self.pager {
            drop(pager.stdin.take());
            drop(pager.wait());
        }
    }
}

fn named(variable: &'static str) -> Option<String> {
    variables::text(variable).ok().flatten()
}

#[expect(clippy::disallowed_methods, reason = "the user's own pager, on the user's own terminal")]
fn start(pager: &str) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    // As git does: a shell, so that options may be given with it.
    command.args(["-c", pager]).stdin(Stdio::piped());
    if named("LESS").is_none() {
        // Leave at once where it fits a screen, show colours, keep the screen.
        command.env("LESS", "FRX");
    }
    command.spawn()
}
