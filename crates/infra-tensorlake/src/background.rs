//! Background commands: a process each that is followed, and a log of bounded size.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    BackgroundId, BackgroundStatus, CommandController, CommandError, CommandExit, CommandIo,
    ControlRequests, Ending, OutputLog, OutputOffset, OutputSink, OutputStream, SinkClosed, Stdin,
    StopMethod,
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How much of a background command's output is kept: its last mebibyte.
const KEPT_BYTES: usize = 1024 * 1024;

/// The background commands of an environment, by the numbers in their ids.
pub(crate) type BackgroundTable = BTreeMap<u64, (BackgroundId, Arc<BackgroundCommand>)>;

/// One background command, running or ended. Dropping it ends the command.
#[derive(Debug)]
pub(crate) struct BackgroundCommand {
    log: Arc<Log>,
    controller: CommandController,
    _abandon: DropGuard,
}

impl BackgroundCommand {
    /// A command that is about to run, what it is to be connected to, and what ends it when it is dropped.
    pub(crate) fn new() -> (Arc<Self>, CommandIo, CancellationToken) {
        let (controller, control): (_, ControlRequests) = CommandController::new();
        let log = Arc::new(Log::default());
        let sink = Box::new(LogSink(Arc::clone(&log)));
        let abandoned = CancellationToken::new();
        let guard = abandoned.clone().drop_guard();
        let command = Arc::new(Self { log, controller, _abandon: guard });
        (command, CommandIo { stdin: Stdin::Empty, sink, control }, abandoned)
    }

    /// Waits for its end in a task and notes it. A command whose task has no end to tell of has lost it.
    pub(crate) fn note_end(
        &self,
        end: impl Future<Output = Result<CommandExit, CommandError>> + Send + 'static,
    ) {
        let log = Arc::clone(&self.log);
        tokio::spawn(async move {
            match end.await {
                Ok(exit) => log.end(exit.ending, exit.stopped_by),
                Err(error) => {
                    let cause = error.to_string();
                    log.end(Ending::ContactLost { command: None, cause }, None);
                }
            }
        });
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.log.state().ending.clone()
    }

    /// Asks it to end in the ordinary way.
    pub(crate) fn cancel(&self) {
        self.controller.cancel();
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
