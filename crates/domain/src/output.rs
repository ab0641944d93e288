//! Output of commands: raw bytes, per stream, in order of arrival, in bounded memory.

use std::collections::VecDeque;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// Which of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// A run of bytes that arrived on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where they came from.
    pub stream: OutputStream,
    /// The bytes as the command wrote them.
    pub bytes: Bytes,
}

/// Nobody reads this stream any more, as when `forge … | head -1` has read its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the reader of the output is gone")]
pub struct SinkClosed;

/// Takes the output of a command as it comes.
///
/// The environment calls it in order of arrival and waits for each call before it reads on, so a slow
/// sink slows the command down as a slow pipe would: nothing is dropped and nothing piles up.
#[async_trait]
pub trait OutputSink: Send {
    /// Takes bytes of one stream. They are never empty, and never more than 1 MiB.
    ///
    /// # Errors
    /// [`SinkClosed`] says that nobody reads *this stream* any more. The environment then offers it
    /// no more of it, and the command finds its pipe broken: it gets SIGPIPE at its next write, or,
    /// where an environment cannot break a pipe, is ended with `Signalled(PIPE)`.
    ///
    /// # Cancel safety
    /// Dropped only when the whole command is dropped; what was being written may then be lost.
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed>;
}

/// A sink that takes everything and keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiscardOutput;

#[async_trait]
impl OutputSink for DiscardOutput {
    async fn write(&mut self, _stream: OutputStream, _bytes: Bytes) -> Result<(), SinkClosed> {
        Ok(())
    }
}

/// What becomes of output that does not fit into [`OutputLimits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spill {
    /// It is counted and dropped.
    Never,
    /// The whole output, from its first byte, is kept in a file inside the environment, up to this
    /// many bytes; the file is the environment's, is removed with it, and its path is in
    /// [`RetainedOutput::spill`].
    WhenCut {
        /// The file grows no further than this. What comes later is counted and dropped.
        max_file_bytes: u64,
    },
}

/// How much of a command's output is kept for its result. The sink gets everything all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// So many bytes from the beginning, both streams together.
    pub head_bytes: usize,
    /// So many bytes from the end, both streams together.
    pub tail_bytes: usize,
    /// Where the rest goes.
    pub spill: Spill,
}

impl OutputLimits {
    /// Keeps nothing: for callers that take everything from the sink.
    pub const NOTHING: Self = Self { head_bytes: 0, tail_bytes: 0, spill: Spill::Never };

    /// Keeps the first and the last `bytes`, and drops what is between.
    #[must_use]
    pub fn head_and_tail(bytes: usize) -> Self {
        Self { head_bytes: bytes, tail_bytes: bytes, spill: Spill::Never }
    }
}

impl Default for OutputLimits {
    /// 64 KiB from the beginning, 64 KiB from the end, no file.
    fn default() -> Self {
        Self::head_and_tail(64 * 1024)
    }
}

/// The file that holds output which was too much to keep in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillFile {
    /// Where it lies, as the environment's own commands and file tools name it.
    pub path: PathBuf,
    /// How many bytes it holds.
    pub bytes: u64,
    /// Whether these are all: false where the file reached its limit or could not be written on.
    pub complete: bool,
}

/// What was kept of a command's output: everything, or its beginning and its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetainedOutput {
    head: Vec<Chunk>,
    tail: Vec<Chunk>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    omitted_bytes: u64,
    /// The file with the whole, where [`Spill::WhenCut`] asked for one and the output was cut.
    pub spill: Option<SpillFile>,
}

impl RetainedOutput {
    /// The beginning, in order of arrival; all there was, where nothing was omitted.
    #[must_use]
    pub fn head(&self) -> &[Chunk] {
        &self.head
    }

    /// The end, in order of arrival. It follows the head and the omitted bytes, and repeats nothing.
    #[must_use]
    pub fn tail(&self) -> &[Chunk] {
        &self.tail
    }

    /// How many bytes between head and tail were not kept.
    #[must_use]
    pub fn omitted_bytes(&self) -> u64 {
        self.omitted_bytes
    }

    /// How many bytes the command wrote to this stream.
    #[must_use]
    pub fn total_bytes(&self, stream: OutputStream) -> u64 {
        match stream {
            OutputStream::Stdout => self.stdout_bytes,
            OutputStream::Stderr => self.stderr_bytes,
        }
    }

    /// The kept bytes of one stream, head and tail joined without a mark.
    #[must_use]
    pub fn of(&self, stream: OutputStream) -> Vec<u8> {
        self.chunks().filter(|chunk| chunk.stream == stream).fold(Vec::new(), append)
    }

    /// The kept bytes of both streams in order of arrival, head and tail joined without a mark.
    #[must_use]
    pub fn interleaved(&self) -> Vec<u8> {
        self.chunks().fold(Vec::new(), append)
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.head.iter().chain(&self.tail)
    }
}

fn append(mut bytes: Vec<u8>, chunk: &Chunk) -> Vec<u8> {
    bytes.extend_from_slice(&chunk.bytes);
    bytes
}

/// Pieces below this size are joined with their neighbour, so that a command which writes single
/// bytes does not cost a chunk for each.
const JOIN_BELOW_BYTES: usize = 16 * 1024;

#[derive(Debug)]
struct Piece {
    stream: OutputStream,
    bytes: BytesMut,
}

/// Collects output within [`OutputLimits`]. The memory it holds is bounded by head + tail plus a
/// constant, whatever is pushed.
#[derive(Debug)]
pub struct OutputBuffer {
    limits: OutputLimits,
    head: VecDeque<Piece>,
    head_bytes: usize,
    tail: VecDeque<Piece>,
    tail_bytes: usize,
    stdout_bytes: u64,
    stderr_bytes: u64,
    omitted_bytes: u64,
}

impl OutputBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new(limits: OutputLimits) -> Self {
        Self {
            limits,
            head: VecDeque::new(),
            head_bytes: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            omitted_bytes: 0,
        }
    }

    /// Whether pushing this many bytes now would drop some for the first time: the moment at which
    /// an adapter opens the spill file and writes [`OutputBuffer::retained_bytes`] to it.
    #[must_use]
    pub fn would_cut(&self, bytes: usize) -> bool {
        let room = self.limits.head_bytes.saturating_add(self.limits.tail_bytes);
        self.omitted_bytes == 0 && self.head_bytes + self.tail_bytes + bytes > room
    }

    /// What is held now, in order of arrival. While nothing was omitted, that is all there was.
    pub fn retained_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.head.iter().chain(&self.tail).map(|piece| &piece.bytes[..])
    }

    /// Adds bytes that arrived on a stream.
    pub fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        match stream {
            OutputStream::Stdout => self.stdout_bytes += bytes.len() as u64,
            OutputStream::Stderr => self.stderr_bytes += bytes.len() as u64,
        }
        let to_head = bytes.len().min(self.limits.head_bytes - self.head_bytes);
        let (first, rest) = bytes.split_at(to_head);
        self.head_bytes += first.len();
        join(&mut self.head, stream, first);
        // Only the last `tail_bytes` of the rest can stay, so the others are never copied.
        let skipped = rest.len().saturating_sub(self.limits.tail_bytes);
        self.omitted_bytes += skipped as u64;
        let rest = &rest[skipped..];
        self.tail_bytes += rest.len();
        join(&mut self.tail, stream, rest);
        self.trim();
    }

    /// Ends the collection.
    #[must_use]
    pub fn finish(self, spill: Option<SpillFile>) -> RetainedOutput {
        let chunks = |pieces: VecDeque<Piece>| {
            let freeze = |piece: Piece| Chunk { stream: piece.stream, bytes: piece.bytes.freeze() };
            pieces.into_iter().map(freeze).collect()
        };
        RetainedOutput {
            head: chunks(self.head),
            tail: chunks(self.tail),
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
            omitted_bytes: self.omitted_bytes,
            spill,
        }
    }

    fn trim(&mut self) {
        while self.tail_bytes > self.limits.tail_bytes {
            let excess = self.tail_bytes - self.limits.tail_bytes;
            let Some(front) = self.tail.front_mut() else { return };
            let cut = excess.min(front.bytes.len());
            bytes::Buf::advance(&mut front.bytes, cut);
            if front.bytes.is_empty() {
                self.tail.pop_front();
            }
            self.tail_bytes -= cut;
            self.omitted_bytes += cut as u64;
        }
    }
}

/// Keeps the end of the output of a command that goes on, by offsets from its beginning. The memory it
/// holds is bounded by its limit plus a constant.
#[derive(Debug)]
pub struct OutputLog {
    limit_bytes: usize,
    chunks: VecDeque<Chunk>,
    /// The offset of the first kept byte.
    begin: u64,
    kept: usize,
}

impl OutputLog {
    /// An empty log that keeps this many bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, chunks: VecDeque::new(), begin: 0, kept: 0 }
    }

    /// The offset after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.begin + self.kept as u64
    }

    /// Adds bytes that arrived on a stream.
    pub fn append(&mut self, stream: OutputStream, bytes: Bytes) {
        self.kept += bytes.len();
        match self.chunks.back_mut() {
            // Single lines are joined, so that a chatty command does not cost a chunk for each.
            Some(last)
                if last.stream == stream && last.bytes.len() + bytes.len() <= JOIN_BELOW_BYTES =>
            {
                last.bytes = [&last.bytes[..], &bytes[..]].concat().into();
            }
            _ => self.chunks.push_back(Chunk { stream, bytes: Bytes::copy_from_slice(&bytes) }),
        }
        while self.kept > self.limit_bytes {
            let Some(first) = self.chunks.front_mut() else { return };
            let cut = first.bytes.len().min(self.kept - self.limit_bytes);
            bytes::Buf::advance(&mut first.bytes, cut);
            if first.bytes.is_empty() {
                self.chunks.pop_front();
            }
            self.kept -= cut;
            self.begin += cut as u64;
        }
    }

    /// What is kept of what came after an offset, in order of arrival, and how many bytes after the
    /// offset are not. An offset beyond the end is the end.
    #[must_use]
    pub fn since(&self, offset: u64) -> (Vec<Chunk>, u64) {
        let offset = offset.min(self.end());
        let skipped = self.begin.saturating_sub(offset);
        let mut to_pass = offset.saturating_sub(self.begin);
        let mut output = Vec::new();
        for chunk in &self.chunks {
            let length = chunk.bytes.len() as u64;
            let passed = to_pass.min(length);
            to_pass -= passed;
            if passed < length {
                let from = usize::try_from(passed).unwrap_or(chunk.bytes.len());
                output.push(Chunk { stream: chunk.stream, bytes: chunk.bytes.slice(from..) });
            }
        }
        (output, skipped)
    }
}

fn join(pieces: &mut VecDeque<Piece>, stream: OutputStream, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    match pieces.back_mut() {
        Some(last) if last.stream == stream && last.bytes.len() < JOIN_BELOW_BYTES => {
            last.bytes.extend_from_slice(bytes);
        }
        _ => pieces.push_back(Piece { stream, bytes: BytesMut::from(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    fn filled(limits: OutputLimits, pushes: &[(OutputStream, &[u8])]) -> RetainedOutput {
        let mut buffer = OutputBuffer::new(limits);
        for (stream, bytes) in pushes {
            buffer.push(*stream, bytes);
        }
        buffer.finish(None)
    }

    #[test]
    fn output_that_fits_is_kept_whole_and_in_order() {
        use OutputStream::{Stderr, Stdout};
        let actual = filled(
            OutputLimits::head_and_tail(3),
            &[(Stdout, b"ab"), (Stderr, b"cd"), (Stdout, b"ef")],
        );
        assert_eq!(actual.interleaved(), b"abcdef");
        assert_eq!(actual.of(Stdout), b"abef");
        assert_eq!(actual.of(Stderr), b"cd");
        assert_eq!(actual.omitted_bytes(), 0);
    }

    #[test]
    fn too_much_output_keeps_its_beginning_and_its_end() {
        let actual = filled(
            OutputLimits::head_and_tail(2),
            &[(OutputStream::Stdout, b"abc"), (OutputStream::Stdout, b"defgh")],
        );
        assert_eq!(actual.interleaved(), b"abgh");
        assert_eq!(actual.omitted_bytes(), 4);
        assert_eq!(actual.total_bytes(OutputStream::Stdout), 8);
    }

    #[test]
    fn the_first_cut_is_announced_before_it_happens() {
        let mut buffer = OutputBuffer::new(OutputLimits::head_and_tail(2));
        buffer.push(OutputStream::Stdout, b"abcd");
        assert!(!buffer.would_cut(0));
        assert!(buffer.would_cut(1));
        assert_eq!(buffer.retained_bytes().collect::<Vec<_>>().concat(), b"abcd");
    }

    #[test]
    fn single_bytes_do_not_cost_a_chunk_each() {
        let mut buffer = OutputBuffer::new(OutputLimits::head_and_tail(1 << 20));
        for _ in 0..100_000 {
            buffer.push(OutputStream::Stdout, b"x");
        }
        assert!(buffer.finish(None).head().len() < 16);
    }

    fn text(chunks: &[Chunk]) -> Vec<u8> {
        chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
    }

    #[test]
    fn an_offset_in_the_middle_of_a_chunk_gives_the_rest() {
        let mut log = OutputLog::new(100);
        log.append(OutputStream::Stdout, Bytes::from_static(b"abc"));
        log.append(OutputStream::Stderr, Bytes::from_static(b"def"));
        let (chunks, skipped) = log.since(2);
        assert_eq!((text(&chunks), skipped, log.end()), (b"cdef".to_vec(), 0, 6));
    }

    #[test]
    fn what_is_no_longer_kept_is_counted() {
        let mut log = OutputLog::new(100_000);
        for _ in 0..3 {
            log.append(OutputStream::Stdout, Bytes::from(vec![b'x'; 50_000]));
        }
        let (chunks, skipped) = log.since(0);
        assert_eq!((text(&chunks).len(), skipped), (100_000, 50_000));
    }

    #[test]
    fn an_offset_beyond_the_end_is_the_end() {
        let mut log = OutputLog::new(100);
        log.append(OutputStream::Stdout, Bytes::from_static(b"abc"));
        assert_eq!(log.since(99), (Vec::new(), 0));
    }

    proptest! {
        #[test]
        fn any_split_keeps_the_same_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
            head in 0usize..64,
            tail in 0usize..64,
        ) {
            let limits = OutputLimits { head_bytes: head, tail_bytes: tail, spill: Spill::Never };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut buffer = OutputBuffer::new(limits);
            for pair in cuts.windows(2) {
                buffer.push(OutputStream::Stdout, &bytes[pair[0]..pair[1]]);
            }
            let actual = buffer.finish(None);
            let expected = if bytes.len() <= head + tail {
                bytes.clone()
            } else {
                [&bytes[..head], &bytes[bytes.len() - tail..]].concat()
            };
            prop_assert_eq!(actual.interleaved(), expected);
            prop_assert_eq!(
                actual.omitted_bytes() as usize,
                bytes.len().saturating_sub(head + tail)
            );
        }
    }
}
