//! Background commands: a task each, and a log of bounded size.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    BackgroundStatus, Chunk, CommandController, CommandExit, CommandIo, ControlRequests, Ending,
    OutputOffset, OutputSink, OutputStream, SinkClosed, Stdin, StopMethod,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How much of a background command's output is kept: its last mebibyte.
const KEPT_BYTES: usize = 1024 * 1024;

/// One background command, running or ended.
#[derive(Debug)]
pub(crate) struct BackgroundCommand {
    log: Arc<Log>,
    controller: CommandController,
    task: Mutex<Option<AbortHandle>>,
}

impl BackgroundCommand {
    /// A command that is about to run, and what it is to be connected to.
    pub(crate) fn new() -> (Arc<Self>, CommandIo) {
        let (controller, control): (_, ControlRequests) = CommandController::new();
        let log = Arc::new(Log::default());
        let sink = Box::new(LogSink(Arc::clone(&log)));
        let command = Arc::new(Self { log, controller, task: Mutex::default() });
        (command, CommandIo { stdin: Stdin::Empty, sink, control })
    }

    /// Starts the task that follows it.
    pub(crate) fn follow(&self, exit: impl Future<Output = CommandExit> + Send + 'static) {
        let log = Arc::clone(&self.log);
        let task = tokio::spawn(async move {
            let exit = exit.await;
            log.end(exit.ending, exit.stopped_by);
        });
        *lock(&self.task) = Some(task.abort_handle());
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.log.state().ending.clone()
    }

    /// Asks it to end in the ordinary way.
    pub(crate) fn cancel(&self) {
        self.controller.cancel();
    }

    /// Drops the task, which kills the command and its children.
    pub(crate) fn kill(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }

    /// Says what came after `since`, at once.
    pub(crate) fn status(&self, since: OutputOffset) -> BackgroundStatus {
        self.log.state().since(since)
    }

    /// Waits until there is something after `since` or it has ended, for at most `wait`.
    pub(crate) async fn changed(&self, since: OutputOffset, wait: Duration) {
        let mut version = self.log.version.subscribe();
        let something = async {
            loop {
                version.mark_unchanged();
                let (ended, end) = {
                    let state = self.log.state();
                    (state.ending.is_some(), state.end())
                };
                if ended || end > since.0 || version.changed().await.is_err() {
                    return;
                }
            }
        };
        // Either way the caller looks at what there is.
        drop(tokio::time::timeout(wait, something).await);
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        let mut version = self.log.version.subscribe();
        while self.ending().is_none() {
            if version.changed().await.is_err() {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kept output and the ending. Every change raises the version.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct LogState {
    chunks: VecDeque<Chunk>,
    /// The offset of the first kept byte.
    begin: u64,
    kept: usize,
    ending: Option<Ending>,
    stopped_by: Option<StopMethod>,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, LogState> {
        lock(&self.state)
    }

    fn end(&self, ending: Ending, stopped_by: Option<StopMethod>) {
        {
            let mut state = self.state();
            state.ending = Some(ending);
            state.stopped_by = stopped_by;
        }
        self.version.send_modify(|version| *version += 1);
    }

    fn append(&self, stream: OutputStream, bytes: Bytes) {
        self.state().append(stream, bytes);
        self.version.send_modify(|version| *version += 1);
    }
}

impl LogState {
    fn end(&self) -> u64 {
        self.begin + self.kept as u64
    }

    fn append(&mut self, stream: OutputStream, bytes: Bytes) {
        self.kept += bytes.len();
        match self.chunks.back_mut() {
            // Single lines are joined, so that a chatty command does not cost a chunk for each.
            Some(last) if last.stream == stream && last.bytes.len() + bytes.len() <= 16 * 1024 => {
                last.bytes = [&last.bytes[..], &bytes[..]].concat().into();
            }
            _ => self.chunks.push_back(Chunk { stream, bytes: Bytes::copy_from_slice(&bytes) }),
        }
        while self.kept > KEPT_BYTES {
            let Some(first) = self.chunks.front_mut() else { return };
            let cut = first.bytes.len().min(self.kept - KEPT_BYTES);
            bytes::Buf::advance(&mut first.bytes, cut);
            if first.bytes.is_empty() {
                self.chunks.pop_front();
            }
            self.kept -= cut;
            self.begin += cut as u64;
        }
    }

    fn since(&self, since: OutputOffset) -> BackgroundStatus {
        let since = since.0.min(self.end());
        let skipped_bytes = self.begin.saturating_sub(since);
        let mut to_pass = since.saturating_sub(self.begin);
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
        BackgroundStatus {
            output,
            skipped_bytes,
            next: OutputOffset(self.end()),
            ending: self.ending.clone(),
            stopped_by: self.stopped_by,
        }
    }
}

struct LogSink(Arc<Log>);

#[async_trait]
impl OutputSink for LogSink {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        self.0.append(stream, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn text(status: &BackgroundStatus) -> Vec<u8> {
        status.output.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
    }

    #[test]
    fn an_offset_in_the_middle_of_a_chunk_gives_the_rest() {
        let mut state = LogState::default();
        state.append(OutputStream::Stdout, Bytes::from_static(b"abc"));
        state.append(OutputStream::Stderr, Bytes::from_static(b"def"));
        let actual = state.since(OutputOffset(2));
        assert_eq!(
            (text(&actual), actual.skipped_bytes, actual.next),
            (b"cdef".to_vec(), 0, OutputOffset(6))
        );
    }

    #[test]
    fn what_is_no_longer_kept_is_counted() {
        let mut state = LogState::default();
        for _ in 0..3 {
            state.append(OutputStream::Stdout, Bytes::from(vec![b'x'; KEPT_BYTES / 2]));
        }
        let actual = state.since(OutputOffset(0));
        assert_eq!(actual.skipped_bytes, KEPT_BYTES as u64 / 2);
        assert_eq!(text(&actual).len(), KEPT_BYTES);
    }

    #[test]
    fn an_offset_beyond_the_end_is_the_end() {
        let mut state = LogState::default();
        state.append(OutputStream::Stdout, Bytes::from_static(b"abc"));
        let actual = state.since(OutputOffset(99));
        assert_eq!((text(&actual), actual.next), (Vec::new(), OutputOffset(3)));
    }
}
