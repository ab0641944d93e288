//! What a process has written, line by line, for whoever reads it, now or later.
//!
//! A little of it is in memory, more goes to a file without a name. Whoever follows the process holds it
//! back: it can be ahead of its slowest follower by [`WINDOW_BYTES`] and no more, so that nobody misses a
//! line and nothing grows. Without a follower it runs freely, and what is kept is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{OutputSink, OutputStream, SinkClosed};
use rustix::fs::FallocateFlags;
use tokio::sync::watch;
use tracing::warn;

use crate::lines::LineSplitter;
use crate::wire::now_ms;

/// How far a process may be ahead of its slowest follower.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// So much is kept in memory before there is a file.
const MEMORY_BYTES: usize = 64 * 1024;

/// How much is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// How far the places are apart at which what is kept can begin.
const CUT_BYTES: u64 = 1024 * 1024;

/// Before each line: its stream, its time, its length.
const HEADER_BYTES: usize = 1 + 8 + 4;

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: OutputStream,
    /// When it was read of the process, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) bytes: Bytes,
}

/// What of the output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Both,
    Stdout,
    Stderr,
    Nothing,
}

impl Keep {
    fn keeps(self, stream: OutputStream) -> bool {
        match self {
            Self::Both => true,
            Self::Stdout => stream == OutputStream::Stdout,
            Self::Stderr => stream == OutputStream::Stderr,
            Self::Nothing => false,
        }
    }
}

/// The output of one process.
#[derive(Debug)]
pub(crate) struct Log {
    keep: Keep,
    /// Where the file goes.
    directory: PathBuf,
    kept_bytes: u64,
    state: Mutex<State>,
    /// Changes with everything that somebody could wait for.
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    /// Where what is kept begins, and where it ends.
    start: u64,
    end: u64,
    /// Places where a line begins, some [`CUT_BYTES`] apart.
    cuts: VecDeque<u64>,
    /// Where the followers are.
    followers: BTreeMap<u64, u64>,
    next_follower: u64,
    /// Nothing more will come.
    is_closed: bool,
    /// Nobody holds the process back any more.
    is_released: bool,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File(Arc<File>),
}

impl Default for Store {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Log {
    pub(crate) fn new(keep: Keep, directory: PathBuf, kept_bytes: u64) -> Arc<Self> {
        let (state, version) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { keep, directory, kept_bytes: kept_bytes.max(CUT_BYTES), state, version })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// What a command writes to. When it is dropped, nothing more will come.
    pub(crate) fn sink(self: &Arc<Self>) -> LogSink {
        LogSink { log: Arc::clone(self), splitters: Default::default() }
    }

    /// Follows it from the beginning of what is kept to its end, and holds the process back.
    pub(crate) fn follow(self: &Arc<Self>) -> LogReader {
        let mut state = self.state();
        let id = state.next_follower;
        state.next_follower += 1;
        let position = state.start;
        state.followers.insert(id, position);
        drop(state);
        let changes = self.version.subscribe();
        LogReader { log: Arc::clone(self), follower: Some(id), position, until: None, changes }
    }

    /// Reads what there is by now.
    pub(crate) fn read(self: &Arc<Self>) -> LogReader {
        let state = self.state();
        let (position, until) = (state.start, Some(state.end));
        drop(state);
        let changes = self.version.subscribe();
        LogReader { log: Arc::clone(self), follower: None, position, until, changes }
    }

    /// Lets the process run on, whoever follows it: it is being ended, and what it has written by then is
    /// little. Followers read on.
    pub(crate) fn release(&self) {
        self.state().is_released = true;
        self.changed();
    }

    /// Says that nothing more will come.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.changed();
    }

    /// Waits until the slowest follower is near enough.
    async fn room(&self) {
        let mut changes = self.version.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let state = self.state();
                let slowest = state.followers.values().min().copied().unwrap_or(state.end);
                if state.is_released || state.end.saturating_sub(slowest) <= WINDOW_BYTES {
                    return;
                }
            }
            // The sender is this log's own.
            let _ = changes.changed().await;
        }
    }

    async fn append(self: &Arc<Self>, records: Vec<u8>) {
        if records.is_empty() {
            return;
        }
        let log = Arc::clone(self);
        let fits = {
            let mut state = self.state();
            match &mut state.store {
                Store::Memory(memory) if memory.len() + records.len() <= MEMORY_BYTES => {
                    memory.extend_from_slice(&records);
                    state.end += records.len() as u64;
                    true
                }
                Store::Memory(_) | Store::File(_) => false,
            }
        };
        if !fits {
            let written = tokio::task::spawn_blocking(move || log.append_to_file(&records)).await;
            if let Ok(Err(error)) = written {
                warn!(%error, "Output of a process could not be kept.");
            }
        }
        self.changed();
    }

    /// Only one task appends, so that the end does not move meanwhile.
    fn append_to_file(&self, records: &[u8]) -> io::Result<()> {
        let (file, end) = {
            let mut state = self.state();
            let file = match &state.store {
                Store::File(file) => Arc::clone(file),
                Store::Memory(memory) => {
                    let file = tempfile::tempfile_in(&self.directory)?;
                    file.write_all_at(memory, 0)?;
                    Arc::new(file)
                }
            };
            state.store = Store::File(Arc::clone(&file));
            (file, state.end)
        };
        file.write_all_at(records, end)?;
        let mut state = self.state();
        state.end = end + records.len() as u64;
        if end >= state.cuts.back().copied().unwrap_or(0) + CUT_BYTES {
            state.cuts.push_back(end);
        }
        let slowest = state.followers.values().min().copied().unwrap_or(state.end);
        let wanted = state.end.saturating_sub(self.kept_bytes).min(slowest);
        let before = state.start;
        while let Some(cut) = state.cuts.front().copied()
            && cut <= wanted
        {
            state.start = cut;
            state.cuts.pop_front();
        }
        let start = state.start;
        drop(state);
        if start > before {
            // A file system that cannot do it keeps more.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&*file, flags, before, start - before);
        }
        Ok(())
    }
}

/// The end of a process's output that the process writes to.
#[derive(Debug)]
pub(crate) struct LogSink {
    log: Arc<Log>,
    splitters: [LineSplitter; 2],
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

fn put(records: &mut Vec<u8>, stream: OutputStream, time_ms: u64, line: &[u8]) {
    records.push(u8::from(stream == OutputStream::Stderr));
    records.extend(time_ms.to_le_bytes());
    // A line is at most `MAX_LINE_BYTES` long.
    records.extend(u32::try_from(line.len()).unwrap_or(u32::MAX).to_le_bytes());
    records.extend_from_slice(line);
}

impl LogSink {
    /// Gives what no end of a line followed.
    pub(crate) async fn finish(mut self) {
        let mut records = Vec::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let line = |line: &[u8]| put(&mut records, stream, now_ms(), line);
            self.splitters[index(stream)].finish(line);
        }
        self.log.append(records).await;
    }

    async fn take(&mut self, stream: OutputStream, bytes: &[u8]) {
        if !self.log.keep.keeps(stream) {
            return;
        }
        let (time_ms, mut records) = (now_ms(), Vec::with_capacity(bytes.len() + HEADER_BYTES));
        self.splitters[index(stream)].push(bytes, |line| put(&mut records, stream, time_ms, line));
        self.log.append(records).await;
        self.log.room().await;
    }
}

/// A sink that can be had back when the command has ended.
#[derive(Debug, Clone)]
pub(crate) struct SharedSink(Arc<tokio::sync::Mutex<Option<LogSink>>>);

impl SharedSink {
    pub(crate) fn new(sink: LogSink) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(Some(sink))))
    }

    /// Gives what no end of a line followed. Nothing is taken from then on.
    pub(crate) async fn finish(&self) {
        if let Some(sink) = self.0.lock().await.take() {
            sink.finish().await;
        }
    }
}

#[async_trait]
impl OutputSink for SharedSink {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        match &mut *self.0.lock().await {
            Some(sink) => {
                sink.take(stream, &bytes).await;
                Ok(())
            }
            None => Err(SinkClosed),
        }
    }
}

/// Reads a log.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: Arc<Log>,
    /// Under which number it holds the process back.
    follower: Option<u64>,
    position: u64,
    /// Where it stops; `None`: at the end of the process.
    until: Option<u64>,
    changes: watch::Receiver<u64>,
}

impl LogReader {
    /// The next lines, as many as come together; `None` at the end. What was given before counts as
    /// taken by then.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Vec<Line>> {
        loop {
            self.tell_position();
            self.changes.mark_unchanged();
            let (from, to, source, is_closed) = {
                let state = self.log.state();
                // What is read without holding the process back may be gone by now.
                self.position = self.position.max(state.start);
                let to = self.until.unwrap_or(state.end).min(state.end);
                let source = match &state.store {
                    Store::Memory(memory) => Source::Memory(
                        memory.get(at(self.position)..at(to)).unwrap_or_default().to_vec(),
                    ),
                    Store::File(file) => Source::File(Arc::clone(file)),
                };
                (self.position, to, source, state.is_closed || self.until.is_some())
            };
            if from < to {
                let (lines, read_bytes) = match source {
                    Source::Memory(memory) => parse(&memory),
                    Source::File(file) => read_file(file, from, to).await,
                };
                // A file that cannot be read any more has no end but this.
                if read_bytes == 0 {
                    return None;
                }
                self.position = from + read_bytes;
                return Some(lines);
            }
            if is_closed {
                return None;
            }
            let _ = self.changes.changed().await;
        }
    }

    fn tell_position(&self) {
        if let Some(id) = self.follower {
            let before = self.log.state().followers.insert(id, self.position);
            if before != Some(self.position) {
                self.log.changed();
            }
        }
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        if let Some(id) = self.follower {
            self.log.state().followers.remove(&id);
            self.log.changed();
        }
    }
}

enum Source {
    Memory(Vec<u8>),
    File(Arc<File>),
}

fn at(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

async fn read_file(file: Arc<File>, from: u64, to: u64) -> (Vec<Line>, u64) {
    let reading = tokio::task::spawn_blocking(move || {
        let mut length = at(to - from).min(READ_BYTES);
        loop {
            let mut bytes = vec![0; length];
            if let Err(error) = file.read_exact_at(&mut bytes, from) {
                warn!(%error, "Output of a process could not be read again.");
                return (Vec::new(), 0);
            }
            let (lines, read_bytes) = parse(&bytes);
            if read_bytes > 0 {
                return (lines, read_bytes);
            }
            // One line that is longer than all of this.
            let Some(whole) = record_bytes(&bytes) else { return (Vec::new(), 0) };
            length = whole;
        }
    });
    reading.await.unwrap_or_default()
}

/// How long the first line is with what stands before it.
fn record_bytes(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let [_, _, _, _, _, _, _, _, _, length @ ..] = *header;
    Some(HEADER_BYTES + u32::from_le_bytes(length) as usize)
}

/// The whole lines that begin these bytes, and how many bytes they are.
fn parse(bytes: &[u8]) -> (Vec<Line>, u64) {
    let all = Bytes::copy_from_slice(bytes);
    let (mut lines, mut position) = (Vec::new(), 0);
    while let Some(length) = record_bytes(&bytes[position..])
        && position + length <= bytes.len()
    {
        let header = &bytes[position..position + HEADER_BYTES];
        let mut time = [0; 8];
        time.copy_from_slice(&header[1..9]);
        lines.push(Line {
            stream: if header[0] == 1 { OutputStream::Stderr } else { OutputStream::Stdout },
            time_ms: u64::from_le_bytes(time),
            bytes: all.slice(position + HEADER_BYTES..position + length),
        });
        position += length;
    }
    (lines, position as u64)
}

#[cfg(test)]
mod tests;
