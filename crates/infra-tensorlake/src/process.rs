//! A process in the sandbox, started once and followed to its end, also over a stream that breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{OutputStream, Signal};
use reqwest::{Method, Response};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::client::{Client, json_body};
use crate::failure::RequestError;
use crate::lifecycle::Ready;
use crate::retry::Repeatable;
use crate::sse::Decoder;
use crate::wire::{LinesResponse, ProcessResponse, StartProcessRequest, StreamEvent};

/// How often a stream that brings nothing new is opened again.
const FOLLOW_ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often a process is asked for that runs on without output.
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// A text for `/bin/sh`.
    pub(crate) text: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// After so long the server kills it, with its children.
    pub(crate) bound: Option<Duration>,
    /// Whom it runs as, where not as the image's user.
    pub(crate) user: Option<&'static str>,
    /// What a second one would do where the first one's answer was lost.
    pub(crate) repeatable: Repeatable,
}

impl Launch {
    fn args(&self) -> Vec<String> {
        let mut args = vec!["-c".to_owned(), self.text.clone(), "sh".to_owned()];
        args.extend(self.arguments.iter().cloned());
        args
    }
}

/// How the lines that were heard are told from those of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    /// Each line says which it is; nothing is left out here.
    Numbered,
    /// By counting them.
    Counted,
}

/// What happens to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProcessEvent {
    Line(OutputStream, String),
    Ended(ProcessEnd),
}

/// How it ended, as the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    Exited(u8),
    Signalled(Signal),
    OutOfMemory,
    TimedOut,
    /// It ended, and the server does not know how: a code of -1, or none.
    Unknown,
}

impl ProcessEnd {
    fn of(exit_code: Option<i64>, signal: Option<i32>, oom: bool, reason: Option<&str>) -> Self {
        let signal = signal.and_then(Signal::from_number);
        match (reason, exit_code, signal) {
            (Some("timed_out"), ..) => Self::TimedOut,
            (Some("oom_killed"), ..) => Self::OutOfMemory,
            _ if oom => Self::OutOfMemory,
            (_, _, Some(signal)) => Self::Signalled(signal),
            (_, Some(code), None) => u8::try_from(code).map_or(Self::Unknown, Self::Exited),
            (_, None, None) => Self::Unknown,
        }
    }
}

/// The process can no longer be followed.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: RequestError,
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Process {
    client: Client,
    ready: Ready,
    pid: Option<u64>,
    replay: Replay,
    /// How many lines of each stream were heard, over all of its openings.
    seen: [u64; 2],
    /// How many of this opening, which begins with those of before.
    heard: [u64; 2],
    source: Source,
    failures: u32,
    /// The stream broke once, so it may lack what came before it was opened again.
    was_broken: bool,
}

#[derive(Debug)]
enum Source {
    /// Of `run`, whose stream tells the end.
    Run(Reading),
    /// Of a follow, whose end has to be asked for.
    Follow(Reading),
    /// To be opened again at this time.
    Broken(Instant),
    /// The output is complete; the end is asked for at this time, and then after this interval.
    Asking(Instant, Duration),
    Done,
}

#[derive(Debug)]
struct Reading {
    response: Response,
    decoder: Decoder,
}

impl Reading {
    fn new(response: Response) -> Self {
        Self { response, decoder: Decoder::default() }
    }
}

impl Process {
    /// Starts it by `run`, which answers with its output and its end: one request for everything.
    ///
    /// Sent again only where it provably did not arrive, or does no harm twice.
    pub(crate) async fn run(
        client: &Client,
        ready: &Ready,
        launch: &Launch,
        replay: Replay,
    ) -> Result<Self, RequestError> {
        let body = StartProcessRequest {
            command: "/bin/sh",
            args: &launch.args(),
            env: &launch.environment,
            stdin_mode: None,
            timeout: launch.bound.map(|bound| bound.as_secs_f64()),
            user: launch.user,
        };
        let request = ready
            .request(client, Method::POST, "/api/v1/processes/run")
            .header("accept", "text/event-stream");
        let response = client.send(json_body(request, &body)?, launch.repeatable, &[]).await?;
        expect_stream(client, &response)?;
        Ok(Self::new(client, ready, None, replay, Source::Run(Reading::new(response))))
    }

    /// Starts it with its stdin held open and opens its output, before it is [released](Self::release):
    /// the text begins only when it has read a line, so that nothing is missed.
    pub(crate) async fn start_held(
        client: &Client,
        ready: &Ready,
        launch: &Launch,
        replay: Replay,
    ) -> Result<Self, RequestError> {
        let body = StartProcessRequest {
            command: "/bin/sh",
            args: &launch.args(),
            env: &launch.environment,
            stdin_mode: Some("pipe"),
            timeout: None,
            user: launch.user,
        };
        let request = ready.request(client, Method::POST, "/api/v1/processes");
        let response = client.send(json_body(request, &body)?, launch.repeatable, &[]).await?;
        let process: ProcessResponse = client.json(response).await?;
        let pid = process
            .pid
            .ok_or_else(|| RequestError::Unreadable("a process without a pid".to_owned()))?;
        let mut process = Self::new(client, ready, Some(pid), replay, Source::Done);
        let opened = match process.follow(Repeatable::Yes).await {
            Ok(reading) => {
                process.source = Source::Follow(reading);
                process.release().await
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(()) => Ok(process),
            Err(error) => {
                // It waits for a line that it will never get.
                process.kill_held().await;
                Err(error)
            }
        }
    }

    fn new(
        client: &Client,
        ready: &Ready,
        pid: Option<u64>,
        replay: Replay,
        source: Source,
    ) -> Self {
        Self {
            client: client.clone(),
            ready: ready.clone(),
            pid,
            replay,
            seen: [0; 2],
            heard: [0; 2],
            source,
            failures: 0,
            was_broken: false,
        }
    }

    /// Its lines are told from those of a replay in this way.
    pub(crate) fn with_replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }

    /// Its number, once the server has said it.
    pub(crate) fn pid(&self) -> Option<u64> {
        self.pid
    }

    /// What posts to its stdin.
    pub(crate) fn stdin(&self) -> ProcessInput {
        ProcessInput { client: self.client.clone(), ready: self.ready.clone(), pid: self.pid }
    }

    async fn release(&self) -> Result<(), RequestError> {
        self.stdin().post(Bytes::from_static(b"\n")).await
    }

    async fn kill_held(&self) {
        let Some(pid) = self.pid else { return };
        let request =
            self.ready.request(&self.client, Method::DELETE, &format!("/api/v1/processes/{pid}"));
        if let Err(error) = self.client.send(request, Repeatable::Yes, &[]).await {
            warn!(pid, %error, "A process that never began could not be ended.");
        }
    }

    /// What happened since, in order: as much as came together. The last thing is the end, and after it
    /// comes nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Vec<ProcessEvent>, Lost> {
        loop {
            match &mut self.source {
                Source::Run(reading) | Source::Follow(reading) => {
                    let chunk = self.client.chunk(&mut reading.response).await;
                    match self.take(chunk) {
                        Ok(events) if events.is_empty() => {}
                        Ok(events) => return Ok(events),
                        Err(error) => self.broke(error)?,
                    }
                }
                Source::Broken(at) => {
                    tokio::time::sleep_until(*at).await;
                    // Whether it is asked again is decided by the breaks that are counted.
                    match self.follow(Repeatable::No).await {
                        Ok(reading) => {
                            self.heard = [0; 2];
                            self.source = Source::Follow(reading);
                        }
                        Err(error) => self.broke(error)?,
                    }
                }
                Source::Asking(at, interval) => {
                    tokio::time::sleep_until(*at).await;
                    let next = (*interval * 2).min(LONGEST_POLL);
                    match self.ask().await {
                        Ok(Some(events)) => {
                            self.source = Source::Done;
                            return Ok(events);
                        }
                        Ok(None) => self.source = Source::Asking(Instant::now() + next, next),
                        Err(error) => return Err(Lost { error }),
                    }
                }
                Source::Done => return Ok(Vec::new()),
            }
        }
    }

    /// Reads the stream again from its beginning, since something is missing in it.
    pub(crate) fn reread(&mut self) -> Result<(), Lost> {
        self.broke(RequestError::Unreadable("a part of the output is missing".to_owned()))
    }

    /// Reads an answer to its end, so that its connection can be used again.
    pub(crate) async fn finish(mut self) {
        if let Source::Run(reading) | Source::Follow(reading) = &mut self.source {
            let rest =
                async { while let Ok(Some(_)) = self.client.chunk(&mut reading.response).await {} };
            drop(tokio::time::timeout(Duration::from_millis(500), rest).await);
        }
    }

    fn take(
        &mut self,
        chunk: Result<Option<Bytes>, RequestError>,
    ) -> Result<Vec<ProcessEvent>, RequestError> {
        let ended_early = || RequestError::Unreadable("the stream ended before its end".to_owned());
        let (reading, is_run) = match &mut self.source {
            Source::Run(reading) => (reading, true),
            Source::Follow(reading) => (reading, false),
            Source::Broken(_) | Source::Asking(..) | Source::Done => return Ok(Vec::new()),
        };
        let Some(chunk) = chunk? else { return Err(ended_early()) };
        let datas = reading.decoder.push(&chunk).map_err(|error| {
            RequestError::Unreadable(format!("the output cannot be taken in: {error}"))
        })?;
        let mut events = Vec::new();
        for data in datas {
            let Ok(event) = serde_json::from_slice::<StreamEvent>(&data) else {
                debug!(bytes = data.len(), "An event of a stream cannot be read.");
                continue;
            };
            if let Some(line) = event.line {
                let stream = match event.stream.as_deref() {
                    Some("stderr") => OutputStream::Stderr,
                    _ => OutputStream::Stdout,
                };
                events.extend(self.counted(stream, line));
            } else if event.exit_code.is_some() || event.signal.is_some() || event.reason.is_some()
            {
                let oom = event.oom_killed.unwrap_or_default();
                let reason = event.reason.as_deref();
                let end = ProcessEnd::of(event.exit_code, event.signal, oom, reason);
                events.push(ProcessEvent::Ended(end));
                return Ok(events);
            } else if let Some(pid) = event.pid {
                self.pid = Some(pid);
            } else if !is_run {
                self.source = Source::Asking(Instant::now(), FIRST_WAIT / 4);
                return Ok(events);
            }
        }
        Ok(events)
    }

    /// Only a line that no opening of before brought is something new.
    fn counted(&mut self, stream: OutputStream, line: String) -> Option<ProcessEvent> {
        let index = usize::from(stream == OutputStream::Stderr);
        self.heard[index] += 1;
        let is_new = self.heard[index] > self.seen[index];
        if is_new {
            self.seen[index] = self.heard[index];
            self.failures = 0;
        }
        let is_passed_on = is_new || self.replay == Replay::Numbered;
        is_passed_on.then_some(ProcessEvent::Line(stream, line))
    }

    /// Decides whether the stream is opened again.
    fn broke(&mut self, error: RequestError) -> Result<(), Lost> {
        self.failures += 1;
        let passing = match &error {
            RequestError::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            RequestError::Connect(_)
            | RequestError::Broken(_)
            | RequestError::Silent { .. }
            | RequestError::Unreadable(_) => true,
        };
        if self.pid.is_none() || !passing || self.failures > FOLLOW_ATTEMPTS || error.says_gone() {
            return Err(Lost { error });
        }
        self.was_broken = true;
        let wait = (FIRST_WAIT * (1 << (self.failures - 1).min(8))).min(LONGEST_WAIT);
        warn!(pid = self.pid, attempt = self.failures, %error, "A stream broke and is opened again.");
        self.source = Source::Broken(Instant::now() + wait);
        Ok(())
    }

    async fn follow(&self, repeatable: Repeatable) -> Result<Reading, RequestError> {
        let path = format!("/api/v1/processes/{}/output/follow", self.pid.unwrap_or_default());
        let request = self
            .ready
            .request(&self.client, Method::GET, &path)
            .header("accept", "text/event-stream");
        let response = self.client.send(request, repeatable, &[]).await?;
        expect_stream(&self.client, &response)?;
        Ok(Reading::new(response))
    }

    /// Asks how it ended; `None` while it runs. Where lines are counted and the stream broke, those that it
    /// did not bring come first.
    async fn ask(&mut self) -> Result<Option<Vec<ProcessEvent>>, RequestError> {
        let path = format!("/api/v1/processes/{}", self.pid.unwrap_or_default());
        let request = self.ready.request(&self.client, Method::GET, &path);
        let response = self.client.send(request, Repeatable::Yes, &[]).await?;
        let process: ProcessResponse = self.client.json(response).await?;
        if process.status.as_deref() == Some("running") {
            return Ok(None);
        }
        let mut events = Vec::new();
        if self.replay == Replay::Counted && self.was_broken {
            for (stream, name) in
                [(OutputStream::Stdout, "stdout"), (OutputStream::Stderr, "stderr")]
            {
                let request =
                    self.ready.request(&self.client, Method::GET, &format!("{path}/{name}"));
                let response = self.client.send(request, Repeatable::Yes, &[]).await?;
                let all: LinesResponse = self.client.long_json(response).await?;
                let seen = self.seen[usize::from(stream == OutputStream::Stderr)];
                let missed =
                    all.lines.into_iter().skip(usize::try_from(seen).unwrap_or(usize::MAX));
                events.extend(missed.map(|line| ProcessEvent::Line(stream, line)));
            }
        }
        let oom = process.oom_killed.unwrap_or_default();
        let reason = process.reason.as_deref();
        let end = ProcessEnd::of(process.exit_code, process.signal, oom, reason);
        events.push(ProcessEvent::Ended(end));
        Ok(Some(events))
    }
}

/// Posts to the stdin of a process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessInput {
    client: Client,
    ready: Ready,
    pid: Option<u64>,
}

impl ProcessInput {
    /// Posts bytes. The texts that read them count each piece once, so a post may be repeated.
    pub(crate) async fn post(&self, bytes: Bytes) -> Result<(), RequestError> {
        let path = format!("/api/v1/processes/{}/stdin", self.pid.unwrap_or_default());
        let request = self
            .ready
            .request(&self.client, Method::POST, &path)
            .header("content-type", "application/octet-stream")
            .body(bytes);
        self.client.send(request, Repeatable::Yes, &[]).await.map(drop)
    }
}

fn expect_stream(client: &Client, response: &Response) -> Result<(), RequestError> {
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    match kind {
        _ if essence.is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream")) => Ok(()),
        other => Err(client.unreadable(format!(
            "a stream of events was expected and {} came",
            other.unwrap_or("something without a type")
        ))),
    }
}
