//! Background commands: a task each, and a log of bounded size.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    BackgroundStatus, CommandController, CommandExit, CommandIo, ControlRequests, Ending,
    OutputLog, OutputOffset, OutputSink, OutputStream, SinkClosed, Stdin, StopMethod,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How much of a background command's output is kept: its last mebibyte.
const KEPT_BYTES: usize = 1024 * 1024;

/// One background command, running or ended.
#[derive(Debug)]
pub struct BackgroundCommand {
    log: Arc<Log>,
    controller: CommandController,
    task: Mutex<Option<AbortHandle>>,
}

impl BackgroundCommand {
    /// A command that is about to run, and what it is to be connected to.
    #[must_use]
    pub fn new() -> (Arc<Self>, CommandIo) {
        let (controller, control): (_, ControlRequests) = CommandController::new();
        let log = Arc::new(Log::default());
        let sink = Box::new(LogSink(Arc::clone(&log)));
        let command = Arc::new(Self { log, controller, task: Mutex::default() });
        (command, CommandIo { stdin: Stdin::Empty, sink, control })
    }

    /// Starts the task that follows it, on the current tokio runtime.
    pub fn follow(&self, exit: impl Future<Output = CommandExit> + Send + 'static) {
        let log = Arc::clone(&self.log);
        let task = tokio::spawn(async move {
            let exit = exit.await;
            log.end(exit.ending, exit.stopped_by);
        });
        *lock(&self.task) = Some(task.abort_handle());
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.log.state().ending.clone()
    }

    /// Asks it to end in the ordinary way.
    pub fn cancel(&self) {
        self.controller.cancel();
    }

    /// Drops the task, which kills the command and its children.
    pub fn kill(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }

    /// Says what came after `since`, at once.
    #[must_use]
    pub fn status(&self, since: OutputOffset) -> BackgroundStatus {
        self.log.state().since(since)
    }

    /// Waits until there is something after `since` or it has ended, for at most `wait`.
    pub async fn changed(&self, since: OutputOffset, wait: Duration) {
        let mut version = self.log.version.subscribe();
        let something = async {
            loop {
                version.mark_unchanged();
                let (ended, end) = {
                    let state = self.log.state();
                    (state.ending.is_some(), state.output.end())
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
    pub async fn ended(&self) {
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

#[derive(Debug)]
struct LogState {
    output: OutputLog,
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
        self.state().output.append(stream, bytes);
        self.version.send_modify(|version| *version += 1);
    }
}

impl Default for LogState {
    fn default() -> Self {
        Self { output: OutputLog::new(KEPT_BYTES), ending: None, stopped_by: None }
    }
}

impl LogState {
    fn since(&self, since: OutputOffset) -> BackgroundStatus {
        let (output, skipped_bytes) = self.output.since(since.0);
        BackgroundStatus {
            output,
            skipped_bytes,
            next: OutputOffset(self.output.end()),
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
