//! Forge's own stdout and stderr: exact bytes, slow readers, readers that go away.
//!
//! The runtime has one thread, so a write that waits for a slow reader must not wait on it: signals
//! and time limits would wait too. The descriptors cannot be made non-blocking either, since other
//! processes share them. So small writes go out directly where `poll` says that they will not wait,
//! and a thread of their own takes over at the first that might.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::Bytes;
use forge_api::OutputStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// What POSIX lets a writable pipe take without waiting, on Linux.
const DIRECT_BYTES: usize = 4096;

/// How many writes may wait for the thread. One is being written, one waits: the command behind it
/// fills the next while the reader takes the last, and no more than that piles up.
const WAITING_WRITES: usize = 1;

/// Why a write failed.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// Nobody reads any more, as when `forge … | head -1` has read its line.
    #[error("the reader of the output is gone")]
    ReaderGone,
    /// The operating system refused: a full disk, for one.
    #[error("writing to {} failed", name(*stream))]
    Failed {
        /// Which of the two.
        stream: OutputStream,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// Writes to one of the two.
#[derive(Debug)]
pub(crate) struct Writer {
    stream: OutputStream,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No thread yet.
    Direct,
    /// A thread writes; the receiver tells how it ended. Without a queue it writes what it has, and
    /// no more is handed to it.
    Thread { queue: Option<mpsc::Sender<Bytes>>, end: oneshot::Receiver<io::Result<()>> },
    /// It failed, and the failure was told.
    Failed,
}

impl Writer {
    /// Writes to stdout.
    pub(crate) fn stdout() -> Self {
        Self { stream: OutputStream::Stdout, state: State::Direct }
    }

    /// Writes to stderr.
    pub(crate) fn stderr() -> Self {
        Self { stream: OutputStream::Stderr, state: State::Direct }
    }

    /// Writes all of this, or hands it to the thread that will. After a failure every further write
    /// fails with [`WriteError::ReaderGone`].
    ///
    /// # Errors
    /// This write failed, or an earlier one that the thread made.
    ///
    /// # Cancel safety
    /// What was handed over is written all the same.
    pub(crate) async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), WriteError> {
        let bytes = bytes.into();
        if let State::Thread { queue, .. } = &self.state {
            if let Some(queue) = queue.clone() {
                return match queue.send(bytes).await {
                    Ok(()) => Ok(()),
                    Err(_) => self.flush().await.and(Err(WriteError::ReaderGone)),
                };
            }
            self.flush().await?;
        }
        match self.state {
            State::Failed => Err(WriteError::ReaderGone),
            State::Direct if bytes.len() <= DIRECT_BYTES && is_writable(self.stream) => {
                write_all(self.stream, &bytes).map_err(|error| self.failed(error))
            }
            State::Direct | State::Thread { .. } => {
                let queue = self.start_thread().map_err(|error| self.failed(error))?;
                // The queue is new, so there is room.
                drop(queue.try_send(bytes));
                Ok(())
            }
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// An earlier write failed, and that has not been told yet.
    ///
    /// # Cancel safety
    /// What was handed over is written all the same, for as long as the process lives.
    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        let State::Thread { queue, end } = &mut self.state else { return Ok(()) };
        *queue = None;
        match end.await.unwrap_or(Ok(())) {
            Ok(()) => {
                self.state = State::Direct;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: io::Error) -> WriteError {
        self.state = State::Failed;
        if error.kind() == io::ErrorKind::BrokenPipe {
            WriteError::ReaderGone
        } else {
            WriteError::Failed { stream: self.stream, source: error }
        }
    }

    fn start_thread(&mut self) -> io::Result<mpsc::Sender<Bytes>> {
        let (queue, mut waiting) = mpsc::channel::<Bytes>(WAITING_WRITES);
        let (tell, end) = oneshot::channel();
        let stream = self.stream;
        std::thread::Builder::new().name(format!("write-{}", name(stream))).spawn(move || {
            let mut result = Ok(());
            while let Some(bytes) = waiting.blocking_recv() {
                result = write_all(stream, &bytes);
                if result.is_err() {
                    break;
                }
            }
            // The end is told before the queue closes, so that whoever finds it closed can ask why.
            // Nobody asks where the process is about to end.
            drop(tell.send(result));
            drop(waiting);
        })?;
        self.state = State::Thread { queue: Some(queue.clone()), end };
        Ok(queue)
    }
}

/// Writes all of this at once and waits for as long as it takes. For messages before the runtime and
/// after it.
///
/// # Errors
/// The operating system refused.
pub(crate) fn write_all(stream: OutputStream, mut bytes: &[u8]) -> io::Result<()> {
    let descriptor = descriptor(stream);
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Another process made the shared descriptor non-blocking.
            Err(Errno::AGAIN) => wait_writable(descriptor, None)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a small write to this stream would not wait.
pub(crate) fn is_writable(stream: OutputStream) -> bool {
    let descriptor = descriptor(stream);
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
}

fn wait_writable(descriptor: BorrowedFd<'_>, timeout: Option<&Timespec>) -> io::Result<()> {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn descriptor(stream: OutputStream) -> BorrowedFd<'static> {
    match stream {
        OutputStream::Stdout => rustix::stdio::stdout(),
        OutputStream::Stderr => rustix::stdio::stderr(),
    }
}

fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}
