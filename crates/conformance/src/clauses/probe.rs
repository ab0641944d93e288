//! What clauses look at environments with.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    ByteRange, CommandController, CommandExit, CommandIo, CommandRequest, ExecutionEnvironment,
    FileError, OutputLimits, OutputSink, OutputStream, SinkClosed, Stdin, WriteOptions,
};
use futures_util::stream;
use tokio::time::{Instant, sleep};

use crate::{Scenario, Step};

pub(super) type Environment = Arc<dyn ExecutionEnvironment>;

/// Waits are bounded by this: far longer than anything takes that works.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// A request that keeps much and wants every byte.
pub(super) fn request(scenario: &Scenario) -> CommandRequest {
    CommandRequest::new(scenario.program())
        .fidelity(forge_domain::Fidelity::Exact)
        .output_limits(OutputLimits::head_and_tail(1024 * 1024))
}

pub(super) async fn run(environment: &Environment, scenario: &Scenario) -> CommandExit {
    run_request(environment, request(scenario)).await
}

pub(super) async fn run_request(environment: &Environment, request: CommandRequest) -> CommandExit {
    environment.run(request, CommandIo::detached()).await.unwrap()
}

pub(super) fn stdout(exit: &CommandExit) -> Vec<u8> {
    exit.output.of(OutputStream::Stdout)
}

/// The stdout as text, for messages that a person reads.
pub(super) fn text(exit: &CommandExit) -> String {
    String::from_utf8_lossy(&stdout(exit)).into_owned()
}

/// Stdin that gives these pieces and ends.
pub(super) fn pieces(pieces: Vec<Vec<u8>>) -> Stdin {
    Stdin::Stream(Box::pin(stream::iter(pieces.into_iter().map(|piece| Ok(piece.into())))))
}

/// Stdin that never ends and is always ready.
pub(super) fn endless() -> Stdin {
    Stdin::Stream(Box::pin(stream::repeat_with(|| Ok(Bytes::from_static(&[b'x'; 4096])))))
}

/// Stdin that is open and silent.
pub(super) fn silent() -> Stdin {
    Stdin::Stream(Box::pin(stream::pending()))
}

pub(super) fn with_stdin(stdin: Stdin) -> CommandIo {
    CommandIo { stdin, ..CommandIo::detached() }
}

/// What a [`Recorder`] got so far, in order of arrival.
#[derive(Clone, Default)]
pub(super) struct Recording(Arc<Mutex<Vec<(OutputStream, Bytes)>>>);

impl Recording {
    pub(super) fn of(&self, stream: OutputStream) -> Vec<u8> {
        let chunks = self.0.lock().unwrap();
        chunks.iter().filter(|(s, _)| *s == stream).flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    pub(super) fn all(&self) -> Vec<u8> {
        self.0.lock().unwrap().iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    /// Waits until this text has arrived on stdout.
    pub(super) async fn has(&self, text: &str) {
        let expected = text.as_bytes();
        until(|| async {
            self.of(OutputStream::Stdout).windows(expected.len()).any(|part| part == expected)
        })
        .await;
    }
}

/// A sink that records, may be slow, and may close streams.
pub(super) struct Recorder {
    pub(super) recording: Recording,
    pub(super) delay: Duration,
    pub(super) closed: Option<OutputStream>,
}

impl Recorder {
    pub(super) fn new() -> (Self, Recording) {
        let recording = Recording::default();
        let recorder = Self { recording: recording.clone(), delay: Duration::ZERO, closed: None };
        (recorder, recording)
    }
}

#[async_trait]
impl OutputSink for Recorder {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        assert!(!bytes.is_empty() && bytes.len() <= 1024 * 1024, "{} bytes at once", bytes.len());
        if self.closed == Some(stream) {
            return Err(SinkClosed);
        }
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        self.recording.0.lock().unwrap().push((stream, bytes));
        Ok(())
    }
}

/// Connects a recorder and a controller.
pub(super) fn observed() -> (CommandIo, Recording, CommandController) {
    let (recorder, recording) = Recorder::new();
    let (controller, control) = CommandController::new();
    let io = CommandIo { stdin: Stdin::Empty, sink: Box::new(recorder), control };
    (io, recording, controller)
}

/// Waits until a state is reached.
pub(super) async fn until<F: Future<Output = bool>>(mut reached: impl FnMut() -> F) {
    let give_up = Instant::now() + SOON;
    while !reached().await {
        assert!(Instant::now() < give_up, "the state was not reached within {SOON:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn write(environment: &Environment, path: &str, contents: &[u8]) {
    let contents = Bytes::copy_from_slice(contents);
    environment.write(Path::new(path), contents, WriteOptions::default()).await.unwrap();
}

pub(super) async fn read(environment: &Environment, path: &str) -> Vec<u8> {
    let range = ByteRange::first(u64::MAX);
    environment.read(Path::new(path), range).await.unwrap().bytes.to_vec()
}

async fn size(environment: &Environment, path: &str) -> u64 {
    match environment.stat(Path::new(path)).await {
        Ok(stat) => stat.size_bytes,
        Err(FileError::NotFound { .. }) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until a file that a command writes to grows.
pub(super) async fn grows(environment: &Environment, path: &str) {
    let before = size(environment, path).await;
    until(|| async { size(environment, path).await > before }).await;
}

/// Waits until a file has stopped growing: nobody writes to it any more.
pub(super) async fn stops_growing(environment: &Environment, path: &str) {
    let give_up = Instant::now() + SOON;
    let mut before = size(environment, path).await;
    loop {
        // Who writes does so every 20 ms; also on a busy machine a second holds many of them.
        sleep(Duration::from_secs(1)).await;
        let now = size(environment, path).await;
        if now == before {
            return;
        }
        assert!(Instant::now() < give_up, "{path} grew for longer than {SOON:?}");
        before = now;
    }
}

/// A command that never ends by itself and says when it has begun.
pub(super) fn begun_and_waiting() -> Scenario {
    Scenario::print("begun").then(Step::SleepMs(120_000))
}

/// A step that leaves a child behind which is as hard to find as the environment can find it: a
/// daemon, or one that stayed in the group.
pub(super) async fn leave(environment: &Environment, steps: Vec<Step>) -> Step {
    let capabilities = environment.describe().await.unwrap().capabilities;
    if capabilities.finds_detached_children { Step::LeaveDaemon(steps) } else { Step::Leave(steps) }
}
