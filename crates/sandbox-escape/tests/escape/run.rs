//! Makes an attempt in one column and judges it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    CommandIo, CommandRequest, Commands, ControlRequests, DiscardOutput, Ending, Lifecycle,
    OutputSink, OutputStream, Program, SinkClosed, Stdin, TerminalIo, TerminalRequests,
    TerminalSize, Terminals,
};
use forge_infra_sandbox::{Layers, SandboxConfig};
use rustix::fs::{FlockOperation, flock};

use crate::attempt::{Attempt, Column, Weight, Word};
use crate::stage::{Stage, spawn};
use crate::trial::{Scene, Streams, Trial};

/// How often the host looks while an attempt runs.
const INTERVAL: Duration = Duration::from_millis(15);

/// What became of an attempt.
pub(crate) struct Finding {
    /// The host saw that it got out.
    pub(crate) seen: bool,
    /// It says so itself.
    pub(crate) claimed: bool,
    /// What it printed, and how it ended.
    pub(crate) account: String,
}

impl Finding {
    /// By the stricter of the two, where the attempt's word counts for anything.
    pub(crate) fn is_open(&self, attempt: &Attempt) -> bool {
        self.seen || self.claimed && attempt.word == Word::Counts
    }
}

/// Makes the attempt. An error says why it could not be made: that a sandbox did not start, say.
pub(crate) fn run(attempt: &Attempt, column: Column) -> Result<Finding, String> {
    let _turn = (attempt.weight == Weight::Heavy).then(turn);
    let mut stage = Stage::new();
    let mut trial = (attempt.stage)(&mut stage);
    let mut judge = trial.judge.take();
    let patience = match column {
        Column::Control => Duration::from_secs(5),
        _ => Duration::from_millis(300),
    };
    let mut judged = |scene: &Scene| judge.as_mut().is_some_and(|judge| judge(scene));
    match column.layers(attempt.control) {
        Some(layers) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(in_sandbox(&stage, trial, layers, &mut judged, patience))
        }
        None => bare(&stage, &trial, &mut judged),
    }
}

/// Waits until no other heavy attempt of this user runs, in whichever process.
fn turn() -> File {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("forge-escape-heavy-{user}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

async fn in_sandbox(
    stage: &Stage,
    mut trial: Trial,
    layers: Layers,
    judged: &mut dyn FnMut(&Scene) -> bool,
    patience: Duration,
) -> Result<Finding, String> {
    let config = SandboxConfig::new(stage.state()).layers(layers);
    let environment = stage.environment(trial.configure(config));
    environment.prepare().await.map_err(|error| chain(&error))?;
    let program = stage.project().join("attempt");
    let request = CommandRequest::new(Program::argv(program, trial.words.clone()))
        .time_limit(trial.time_limit)
        .termination_grace(Duration::from_millis(200));
    // The attempt holds what it got until its stdin ends, and so until the host has seen it.
    let (keep_stdin, stdin) = futures_channel::mpsc::unbounded();
    let mut keep_stdin = Some(keep_stdin);
    let screen = Screen::default();
    let mut seen = false;
    let mut command = match trial.streams {
        Streams::Pipes => {
            let io = CommandIo {
                stdin: Stdin::Stream(Box::pin(stdin)),
                sink: Box::new(DiscardOutput),
                control: ControlRequests::none(),
            };
            environment.run(request, io)
        }
        Streams::Terminal => {
            let io = TerminalIo {
                input: Box::pin(futures_util::stream::pending()),
                sink: Box::new(screen.clone()),
                control: TerminalRequests::none(),
            };
            environment.run_on_terminal(request, TerminalSize::default(), io)
        }
    };
    let exit = loop {
        tokio::select! {
            exit = &mut command => break exit,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if judged(&Scene::of(&stage.token, &stage.state(), String::new())) {
            seen = true;
            keep_stdin = None;
        }
    };
    drop(keep_stdin);
    let exit = exit.map_err(|error| chain(&error))?;
    let mut output = exit.output.interleaved();
    output.extend_from_slice(&screen.0.lock().unwrap());
    let output = String::from_utf8_lossy(&output).into_owned();
    let claimed = exit.ending == Ending::Exited(0);
    // What the attempt has done may take a moment to be seen: a process that it killed has to die.
    let until = Instant::now() + if claimed { patience } else { Duration::ZERO };
    loop {
        seen |= judged(&Scene::of(&stage.token, &stage.state(), output.clone()));
        if seen || Instant::now() >= until {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let closed = environment.close().await;
    closed.map_err(|error| chain(&error))?;
    Ok(Finding { seen, claimed, account: format!("{:?}: {}", exit.ending, shortened(&output)) })
}

/// Keeps what a terminal shows.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl OutputSink for Screen {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        self.0.lock().unwrap().extend_from_slice(&bytes);
        Ok(())
    }
}

/// As a plain child of this process.
fn bare(
    stage: &Stage,
    trial: &Trial,
    judged: &mut dyn FnMut(&Scene) -> bool,
) -> Result<Finding, String> {
    let child = spawn(
        Command::new(stage.project().join("attempt"))
            .args(&trial.words)
            .current_dir(stage.project())
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    );
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = judged(&Scene::of(&stage.token, &stage.state(), text.clone()));
    Ok(Finding { seen, claimed: output.status.success(), account: shortened(&text) })
}

fn shortened(text: &str) -> String {
    let end = text.char_indices().map(|(at, _)| at).nth(1000).unwrap_or(text.len());
    text[..end].to_owned()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
