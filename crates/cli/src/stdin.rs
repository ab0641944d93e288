//! Forge's own stdin: streamed to a command, or read to its end for a task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use forge_api::Stdin;
use futures_core::Stream;
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::sync::mpsc;

/// What one read takes at most.
const READ_BYTES: usize = 64 * 1024;

/// What stdin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A terminal: somebody types there.
    Terminal,
    /// A device without contents, such as `/dev/null`; forge was started with stdin closed, too.
    Null,
    /// A pipe, a file, a socket: something to read.
    Readable,
}

/// Looks at stdin.
pub(crate) fn kind() -> Kind {
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        return Kind::Terminal;
    }
    match (rustix::fs::fstat(stdin), rustix::fs::stat("/dev/null")) {
        (Ok(stdin), Ok(null))
            if FileType::from_raw_mode(stdin.st_mode) == FileType::CharacterDevice
                && stdin.st_rdev == null.st_rdev =>
        {
            Kind::Null
        }
        (Err(_), _) => Kind::Null,
        _ => Kind::Readable,
    }
}

/// What a command of `exec` reads: a pipe or file is streamed, a terminal is not passed on.
pub(crate) fn for_command() -> Stdin {
    match kind() {
        Kind::Terminal | Kind::Null => Stdin::Empty,
        Kind::Readable => Stdin::Stream(Box::pin(StdinStream::new())),
    }
}

/// Reads stdin in a thread of its own, one read for each time that somebody waits for one, so that no
/// more is taken than is passed on. The thread may be left waiting when the process ends.
#[derive(Debug)]
pub(crate) struct StdinStream {
    reader: Option<Reader>,
}

#[derive(Debug)]
struct Reader {
    /// Asks for one read; closed, it ends the thread.
    ask: std::sync::mpsc::Sender<()>,
    answers: mpsc::UnboundedReceiver<io::Result<Bytes>>,
    state: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
    Ended,
}

impl StdinStream {
    /// A stream of everything that stdin holds.
    pub(crate) fn new() -> Self {
        Self { reader: None }
    }
}

impl Stream for StdinStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.reader.is_none() {
            match start() {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let Some(reader) = &mut self.reader else { return Poll::Ready(None) };
        match reader.state {
            Asked::Ended => return Poll::Ready(None),
            Asked::No if reader.ask.send(()).is_err() => return Poll::Ready(None),
            Asked::No => reader.state = Asked::Yes,
            Asked::Yes => {}
        }
        let answer = ready!(reader.answers.poll_recv(context));
        reader.state = match &answer {
            Some(Ok(bytes)) if !bytes.is_empty() => Asked::No,
            _ => Asked::Ended,
        };
        Poll::Ready(answer.filter(|answer| !matches!(answer, Ok(bytes) if bytes.is_empty())))
    }
}

fn start() -> io::Result<Reader> {
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let (answer, answers) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("read-stdin".to_owned()).spawn(move || {
        let mut buffer = BytesMut::new();
        while asked.recv().is_ok() {
            if answer.send(read(&mut buffer)).is_err() {
                break;
            }
        }
    })?;
    Ok(Reader { ask, answers, state: Asked::No })
}

/// One read; nothing at the end.
fn read(buffer: &mut BytesMut) -> io::Result<Bytes> {
    buffer.resize(READ_BYTES, 0);
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(count) => return Ok(buffer.split_to(count).freeze()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait()?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait() -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdin = rustix::stdio::stdin();
    match poll(&mut [PollFd::from_borrowed_fd(stdin, PollFlags::IN)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
