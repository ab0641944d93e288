//! Background commands of the fake.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    BackgroundId, BackgroundStatus, Chunk, CommandController, Ending, OutputOffset, OutputSink,
    OutputStream, SinkClosed, StopMethod,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::environment::lock;

/// In order of their start.
pub(super) type BackgroundTable = Vec<(BackgroundId, Arc<BackgroundCommand>)>;

pub(super) struct BackgroundCommand {
    pub(super) log: Arc<Log>,
    pub(super) controller: CommandController,
    pub(super) task: AbortHandle,
}

/// The smallest that the port allows, so that nobody relies on more.
const KEPT_BYTES: usize = 256 * 1024;

#[derive(Default)]
pub(super) struct Log {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    bytes: Vec<(OutputStream, u8)>,
    begin: u64,
    end: Option<(Ending, Option<StopMethod>)>,
}

impl Log {
    pub(super) fn append(&self, stream: OutputStream, bytes: &[u8]) {
        {
            let mut state = lock(&self.state);
            state.bytes.extend(bytes.iter().map(|byte| (stream, *byte)));
            let excess = state.bytes.len().saturating_sub(KEPT_BYTES);
            state.bytes.drain(..excess);
            state.begin += excess as u64;
        }
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn end(&self, ending: Ending, stopped_by: Option<StopMethod>) {
        lock(&self.state).end = Some((ending, stopped_by));
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        lock(&self.state).end.as_ref().map(|(ending, _)| ending.clone())
    }

    pub(super) fn status(&self, since: OutputOffset) -> BackgroundStatus {
        let state = lock(&self.state);
        let end = state.begin + state.bytes.len() as u64;
        let since = since.0.min(end);
        let from = usize::try_from(since.saturating_sub(state.begin)).unwrap_or_default();
        let runs = state.bytes[from..].chunk_by(|left, right| left.0 == right.0);
        let chunk = |run: &[(OutputStream, u8)]| Chunk {
            stream: run[0].0,
            bytes: run.iter().map(|(_, byte)| *byte).collect(),
        };
        BackgroundStatus {
            output: runs.map(chunk).collect(),
            skipped_bytes: state.begin.saturating_sub(since),
            next: OutputOffset(end),
            ending: state.end.as_ref().map(|(ending, _)| ending.clone()),
            stopped_by: state.end.as_ref().and_then(|(_, stopped_by)| *stopped_by),
        }
    }

    pub(super) async fn changed(&self, since: OutputOffset, wait: Duration) {
        let mut version = self.version.subscribe();
        let something = version.wait_for(|_| {
            let status = self.status(since);
            !status.output.is_empty() || status.skipped_bytes > 0 || status.ending.is_some()
        });
        drop(tokio::time::timeout(wait, something).await);
    }

    pub(super) async fn ended(&self) {
        drop(self.version.subscribe().wait_for(|_| self.ending().is_some()).await);
    }
}

pub(super) struct LogSink(pub(super) Arc<Log>);

#[async_trait]
impl OutputSink for LogSink {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        self.0.append(stream, &bytes);
        Ok(())
    }
}
