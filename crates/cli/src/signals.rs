//! Signals to forge itself, as a stream of requests to end.

use std::io;

use forge_api::Signal;
use futures_util::future::OptionFuture;
use tokio::signal::unix::{self, SignalKind};

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM, SIGHUP or SIGQUIT.
    Terminate(Signal),
}

/// Listens from its making to the end of the process. A signal that was being ignored when forge
/// began stays ignored, so that `nohup forge …` works.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    hang_up: Option<unix::Signal>,
    quit: Option<unix::Signal>,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// The operating system refused a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored_at_start();
        let listen = |signal: Signal| {
            if ignored & (1 << (signal.number() - 1)) != 0 {
                return Ok(None);
            }
            unix::signal(SignalKind::from_raw(signal.number())).map(Some)
        };
        Ok(Self {
            interrupt: listen(Signal::INT)?,
            terminate: listen(Signal::TERM)?,
            hang_up: listen(Signal::HUP)?,
            quit: listen(Signal::QUIT)?,
        })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: what arrived meanwhile comes with the next call.
    pub(crate) async fn next(&mut self) -> Arrival {
        tokio::select! {
            Some(()) = received(self.interrupt.as_mut()) => Arrival::Interrupt,
            Some(()) = received(self.terminate.as_mut()) => Arrival::Terminate(Signal::TERM),
            Some(()) = received(self.hang_up.as_mut()) => Arrival::Terminate(Signal::HUP),
            Some(()) = received(self.quit.as_mut()) => Arrival::Terminate(Signal::QUIT),
            else => std::future::pending().await,
        }
    }
}

async fn received(signal: Option<&mut unix::Signal>) -> Option<()> {
    OptionFuture::from(signal.map(unix::Signal::recv)).await.flatten()
}

/// The signals that were ignored when the process began, as a bit mask. Only Linux tells without
/// changing anything; elsewhere none.
fn ignored_at_start() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
