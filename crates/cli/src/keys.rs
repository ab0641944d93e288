//! What is typed at the user's terminal, as it is typed.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use bytes::Bytes;
use forge_api::TerminalInput;
use futures_util::stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

/// What one read takes at most.
const READ_BYTES: usize = 16 * 1024;

/// Reads stdin in a thread of its own until it is told to stop: unlike a read that is left waiting, it
/// takes nothing from whoever reads next.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Its end wakes the thread.
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Keys {
    /// Begins to read. No more is read than is taken, but for a few pieces.
    ///
    /// # Errors
    /// The operating system has no pipe or no thread.
    pub(crate) fn read() -> io::Result<(Self, TerminalInput)> {
        let (stopped, stop) = io::pipe()?;
        let (keys, mut typed) = mpsc::channel::<Bytes>(4);
        let thread = std::thread::Builder::new().name("read-keys".to_owned()).spawn(move || {
            let stopped = OwnedFd::from(stopped);
            let mut buffer = vec![0; READ_BYTES];
            while wait(&stopped) {
                match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
                    Ok(0) => break,
                    Ok(read) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..read]);
                        if keys.blocking_send(bytes).is_err() {
                            break;
                        }
                    }
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    // The terminal is gone.
                    Err(_) => break,
                }
            }
        })?;
        let input = Box::pin(stream::poll_fn(move |context| typed.poll_recv(context)));
        Ok((Self { stop: OwnedFd::from(stop), thread }, input))
    }

    /// Stops. The stream has to be dropped by then, or somebody has to take what is in it.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // It has no way to panic.
        drop(self.thread.join());
    }
}

/// Waits until something is typed; false where it is time to stop.
fn wait(stopped: &OwnedFd) -> bool {
    let stdin = rustix::stdio::stdin();
    loop {
        let mut wanted =
            [PollFd::new(stopped, PollFlags::IN), PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Ok(_) if !wanted[0].revents().is_empty() => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
