//! A command's terminal, between its pseudo-terminal and the caller.

use std::fs::File;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forge_domain::{
    CommandController, OutputSink, OutputStream, TerminalInput, TerminalIo, TerminalRequest,
    TerminalRequests, TerminalSize,
};
use futures_util::StreamExt;
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How much is read at a time. The kernel gives 4 KiB at the most; more are read while they are there.
const READ_BYTES: usize = 64 * 1024;

/// How long a terminal may be silent after the command and its children are dead, before it is given
/// up. Only a process that escaped them can hold it open then.
const SILENCE_AFTER_END: Duration = Duration::from_millis(100);

/// How much is still read after the end: more than a terminal can hold.
const MAX_BYTES_AFTER_END: usize = 1024 * 1024;

/// How often a terminal is looked at that no process has open while the command runs on, or had open once: it
/// may open `/dev/tty` again.
const UNUSED_INTERVAL: Duration = Duration::from_millis(20);

/// The host's end of a pseudo-terminal.
///
/// Tokio's pipes wait for any descriptor that can be polled, which a terminal can. Only `try_read` and
/// `try_write` of them are used: `AsyncRead` takes a short read for an emptied pipe, and a terminal gives
/// short reads always. And a terminal that was hung up counts as ready for ever, which waiting for it does not
/// bear in mind: where nothing can be read or written then, it is looked at again a little later.
#[derive(Debug)]
pub struct Terminal {
    shown: pipe::Receiver,
    typed: pipe::Sender,
}

impl Terminal {
    /// Takes the master of a pseudo-terminal. To be called in a runtime.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let shown = File::from(master.try_clone()?);
        Ok(Self {
            shown: pipe::Receiver::from_file_unchecked(shown)?,
            typed: pipe::Sender::from_file_unchecked(File::from(master))?,
        })
    }

    /// Reads some bytes; none at the end. Cancel safe: a dropped read has taken nothing.
    async fn read(&self, buffer: &mut BytesMut) -> io::Result<Bytes> {
        loop {
            let ready = self.shown.ready(Interest::READABLE).await?;
            buffer.resize(READ_BYTES, 0);
            let mut filled = 0;
            // One call gives no more than a few lines; a screen is to be one piece.
            while filled < READ_BYTES {
                match self.shown.try_read(&mut buffer[filled..]) {
                    Ok(0) if filled == 0 => return Ok(Bytes::new()),
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled == 0 => {
                        if ready.is_read_closed() {
                            tokio::time::sleep(UNUSED_INTERVAL).await;
                        }
                        break;
                    }
                    Err(_) if filled > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            if filled > 0 {
                return Ok(buffer.split_to(filled).freeze());
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let ready = self.typed.ready(Interest::WRITABLE).await?;
            match self.typed.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready.is_write_closed() {
                        tokio::time::sleep(UNUSED_INTERVAL).await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Gives a pseudo-terminal a size, by either of its ends. The processes in its foreground are told
/// where it is another one.
///
/// # Errors
/// It is no terminal.
pub fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    fn set(terminal: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
        let (ws_col, ws_row) = (size.columns(), size.rows());
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }
    set(terminal.as_fd(), size)
}

/// The way between a command's terminal and the caller.
pub struct TerminalPump {
    /// The terminal.
    pub terminal: Terminal,
    /// What the caller has given.
    pub io: TerminalIo,
    /// Where requests go that are about the command and not about its terminal.
    pub controller: CommandController,
    /// Cancelled when the command has ended and its children are dead.
    pub ended: CancellationToken,
}

impl std::fmt::Debug for TerminalPump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalPump").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl TerminalPump {
    /// Carries bytes and requests until the command has ended and what was in the terminal is read.
    ///
    /// # Cancel safety
    /// Dropping the future hangs the terminal up; output that was not yet given to the sink is lost.
    pub async fn run(self) {
        let Self { terminal, io: TerminalIo { input, sink, control }, controller, ended } = self;
        // What was asked before something was typed is there before it.
        tokio::select! {
            biased;
            () = pass_on(&terminal, control, &controller) => {}
            () = type_in(&terminal, input) => {}
            () = show(&terminal, sink, &controller, &ended) => {}
        }
    }
}

async fn show(
    terminal: &Terminal,
    sink: Box<dyn OutputSink>,
    controller: &CommandController,
    ended: &CancellationToken,
) {
    let mut sink = Some(sink);
    let mut buffer = BytesMut::new();
    let mut after_end = 0;
    loop {
        let has_ended = ended.is_cancelled();
        let read = tokio::select! {
            read = terminal.read(&mut buffer) => read,
            () = ended.cancelled(), if !has_ended => continue,
            () = tokio::time::sleep(SILENCE_AFTER_END), if has_ended => return,
        };
        match read {
            Ok(bytes) if !bytes.is_empty() => {
                if has_ended {
                    after_end += bytes.len();
                    if after_end > MAX_BYTES_AFTER_END {
                        return;
                    }
                }
                if let Some(open) = &mut sink
                    && open.write(OutputStream::Stdout, bytes).await.is_err()
                {
                    // Nobody looks at it any more: the window was closed.
                    sink = None;
                    controller.cancel();
                }
            }
            // Linux says EIO, others the end of file, where no process has the terminal open.
            Ok(_) | Err(_) if has_ended => return,
            Ok(_) | Err(_) => {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = tokio::time::sleep(UNUSED_INTERVAL) => {}
                }
            }
        }
    }
}

/// Never returns: that nobody types any more is not the end of the command.
async fn type_in(terminal: &Terminal, mut input: TerminalInput) {
    while let Some(bytes) = input.next().await {
        if let Err(error) = terminal.write(&bytes).await {
            // What is typed where no process has the terminal open is lost, as on any terminal.
            debug!(%error, bytes = bytes.len(), "A terminal did not take what was typed.");
        }
    }
    pending().await
}

/// Never returns either.
async fn pass_on(
    terminal: &Terminal,
    mut control: TerminalRequests,
    controller: &CommandController,
) {
    while let Some(request) = control.next().await {
        match request {
            TerminalRequest::Resize(size) => {
                if let Err(error) = resize(&terminal.typed, size) {
                    warn!(%error, "A terminal could not be given another size.");
                }
            }
            TerminalRequest::Signal(signal) => controller.signal(signal),
            TerminalRequest::Cancel => controller.cancel(),
        }
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::fd::OwnedFd;

    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// A pseudo-terminal's master, and the path of its other end.
    fn master() -> (OwnedFd, CString) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        (master, path)
    }

    fn other_end(path: &CString) -> OwnedFd {
        open(path.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .unwrap()
    }

    /// A terminal that was closed by everybody and opened again.
    async fn reopened() -> (Terminal, OwnedFd) {
        let (master, path) = master();
        drop(other_end(&path));
        let terminal = Terminal::new(master).unwrap();
        // It is known as hung up from here on.
        assert!(terminal.read(&mut BytesMut::new()).await.is_err());
        (terminal, other_end(&path))
    }

    /// Does something where a task that never waits for anything would stop everything else.
    fn on_one_thread(work: impl Future<Output = ()> + Send + 'static) {
        let (told, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(work);
            told.send(()).unwrap();
        });
        done.recv_timeout(Duration::from_secs(20)).expect("it stands still");
    }

    #[test]
    fn a_terminal_that_is_opened_again_is_waited_for_and_read() {
        on_one_thread(async {
            let (terminal, other) = reopened().await;
            let mut buffer = BytesMut::new();
            let nothing = terminal.read(&mut buffer);
            assert!(tokio::time::timeout(Duration::from_millis(100), nothing).await.is_err());
            rustix::io::write(&other, b"again").unwrap();
            assert_eq!(terminal.read(&mut buffer).await.unwrap(), "again");
        });
    }

    #[test]
    fn a_terminal_that_is_opened_again_and_full_lets_others_go_on() {
        on_one_thread(async {
            let (terminal, other) = reopened().await;
            let much = vec![b'x'; 1024 * 1024];
            let mut settings = rustix::termios::tcgetattr(&other).unwrap();
            settings.make_raw();
            let now = rustix::termios::OptionalActions::Now;
            rustix::termios::tcsetattr(&other, now, &settings).unwrap();
            let typing = terminal.write(&much);
            assert!(tokio::time::timeout(Duration::from_millis(100), typing).await.is_err());
        });
    }
}
