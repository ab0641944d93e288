//! From a command's pipes to the sink, the buffer and the spill file.

use std::fs::File;
use std::future::pending;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use forge_domain::{
    OutputBuffer, OutputLimits, OutputSink, OutputStream, RetainedOutput, SinkClosed, Spill,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::spill::SpillWriter;

/// How much is read at a time, and how large the pipes are made where the kernel allows it.
const READ_BYTES: usize = 256 * 1024;

/// How long a pipe may be silent after the command and its children are dead, before it is given up.
/// Only a process that escaped them can hold it open then.
const SILENCE_AFTER_END: Duration = Duration::from_millis(100);

/// How much is still read after the end: more than both pipes can hold.
const MAX_BYTES_AFTER_END: usize = 8 * 1024 * 1024;

/// Makes the file for output that is too much to keep, when that is first needed: the file, open for
/// writing, and its path as the environment's commands see it.
pub type SpillMaker = dyn Fn() -> std::io::Result<(File, PathBuf)> + Send + Sync;

/// The way of a command's output from its pipes to the caller.
pub struct Pump<'a> {
    /// Where the output goes as it comes.
    pub sink: Box<dyn OutputSink>,
    /// How much of it the result keeps.
    pub limits: OutputLimits,
    /// Makes the file for the rest.
    pub spill: &'a SpillMaker,
    /// Cancelled when the command has ended and its children are dead.
    pub ended: CancellationToken,
}

impl std::fmt::Debug for Pump<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Pump<'_> {
    /// Reads both pipes until they are at their end, nobody listens, or the command has ended and
    /// what was in them is read. What is still in a pipe after the end is read as long as somebody
    /// writes, up to 8 MiB; a pipe that is held open in silence is given up.
    ///
    /// # Cancel safety
    /// Dropping the future closes both pipes; output that was not yet given to the sink is lost.
    pub async fn run<O, E>(self, stdout: O, stderr: E) -> RetainedOutput
    where
        O: AsyncRead + AsFd + Unpin,
        E: AsyncRead + AsFd + Unpin,
    {
        let Self { sink, limits, spill, ended } = self;
        let mut output = Output {
            sink,
            spill: SpillState::of(limits),
            buffer: OutputBuffer::new(limits),
            maker: spill,
        };
        let mut stdout = Source::new(stdout, OutputStream::Stdout);
        let mut stderr = Source::new(stderr, OutputStream::Stderr);
        let mut after_end = 0;
        while stdout.is_open() || stderr.is_open() {
            let has_ended = ended.is_cancelled();
            let read = tokio::select! {
                read = stdout.read() => Some((OutputStream::Stdout, read)),
                read = stderr.read() => Some((OutputStream::Stderr, read)),
                () = ended.cancelled(), if !has_ended => continue,
                () = tokio::time::sleep(SILENCE_AFTER_END), if has_ended => None,
            };
            let Some((stream, bytes)) = read else { break };
            let closed = match &bytes {
                Some(bytes) => output.take(stream, bytes.clone()).await.is_err(),
                None => true,
            };
            if closed {
                match stream {
                    OutputStream::Stdout => stdout.close(),
                    OutputStream::Stderr => stderr.close(),
                }
            }
            if has_ended {
                after_end += bytes.map_or(0, |bytes| bytes.len());
                if after_end > MAX_BYTES_AFTER_END {
                    break;
                }
            }
        }
        output.finish().await
    }
}

/// One pipe, until it is closed.
struct Source<R> {
    reader: Option<R>,
    buffer: BytesMut,
    stream: OutputStream,
}

impl<R: AsyncRead + AsFd + Unpin> Source<R> {
    fn new(reader: R, stream: OutputStream) -> Self {
        enlarge(&reader);
        Self { reader: Some(reader), buffer: BytesMut::new(), stream }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// Closing our end is what gives the command SIGPIPE.
    fn close(&mut self) {
        self.reader = None;
    }

    /// Reads some bytes; `None` at the end. Cancel safe: a dropped read has taken nothing.
    async fn read(&mut self) -> Option<bytes::Bytes> {
        let Some(reader) = &mut self.reader else { return pending().await };
        self.buffer.reserve(READ_BYTES);
        match reader.read_buf(&mut self.buffer).await {
            Ok(0) => None,
            Ok(_) => Some(self.buffer.split().freeze()),
            Err(error) => {
                warn!(stream = ?self.stream, %error, "A pipe of a command could not be read.");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn enlarge(pipe: &impl AsFd) {
    // Refused where the user's pipes hold too much already; the size that it has then will do.
    let _refused = rustix::pipe::fcntl_setpipe_size(pipe, READ_BYTES);
}

#[cfg(not(target_os = "linux"))]
fn enlarge(_pipe: &impl AsFd) {}

enum SpillState {
    Never,
    /// Not needed so far.
    Waiting {
        max_file_bytes: u64,
    },
    Writing(SpillWriter),
}

impl SpillState {
    fn of(limits: OutputLimits) -> Self {
        match limits.spill {
            Spill::Never => Self::Never,
            Spill::WhenCut { max_file_bytes } => Self::Waiting { max_file_bytes },
        }
    }
}

struct Output<'a> {
    sink: Box<dyn OutputSink>,
    buffer: OutputBuffer,
    spill: SpillState,
    maker: &'a SpillMaker,
}

impl Output<'_> {
    async fn take(&mut self, stream: OutputStream, bytes: bytes::Bytes) -> Result<(), SinkClosed> {
        if let SpillState::Waiting { max_file_bytes } = self.spill
            && self.buffer.would_cut(bytes.len())
        {
            self.spill = begin_spill(self.maker, max_file_bytes, &self.buffer).await;
        }
        if let SpillState::Writing(writer) = &mut self.spill {
            writer.write(&bytes).await;
        }
        self.buffer.push(stream, &bytes);
        self.sink.write(stream, bytes).await
    }

    async fn finish(self) -> RetainedOutput {
        let spill = match self.spill {
            SpillState::Writing(writer) => Some(writer.finish().await),
            SpillState::Never | SpillState::Waiting { .. } => None,
        };
        self.buffer.finish(spill)
    }
}

async fn begin_spill(maker: &SpillMaker, max_file_bytes: u64, so_far: &OutputBuffer) -> SpillState {
    match maker() {
        Ok((file, path)) => {
            SpillState::Writing(SpillWriter::begin(file, path, max_file_bytes, so_far).await)
        }
        Err(error) => {
            warn!(%error, "The whole output could not be kept.");
            SpillState::Never
        }
    }
}
