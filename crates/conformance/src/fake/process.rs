//! A command of the fake: what it does, how it is followed, and how it ends.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forge_domain::{
    CommandExit, CommandIo, ControlRequest, ControlRequests, Ending, Notice, OutputStream, Signal,
    Stdin, StopMethod,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::environment::{Inner, lock};
use super::program::Prepared;
use super::pump::{ClosedStreams, Pump};
use super::terminal::{Discipline, Terminal, WINDOW_CHANGED};
use super::tree::{Last, Node};
use crate::{Scenario, Step};

/// Follows a command to its end.
pub(super) async fn follow(inner: &Arc<Inner>, prepared: Prepared, io: CommandIo) -> CommandExit {
    follow_with(inner, prepared, io, None).await
}

/// The same for one that may be on a terminal.
pub(super) async fn follow_with(
    inner: &Arc<Inner>,
    prepared: Prepared,
    io: CommandIo,
    discipline: Option<Discipline>,
) -> CommandExit {
    let began = Instant::now();
    let (sender, receiver) = mpsc::channel(1);
    let cut = CancellationToken::new();
    let closed = Arc::new(ClosedStreams::default());
    let children = Children::default();
    let process = Process {
        inner: Arc::clone(inner),
        directory: prepared.directory,
        variables: Arc::new(prepared.variables),
        output: sender,
        closed: Arc::clone(&closed),
        traps: Arc::default(),
        stdin: Arc::new(tokio::sync::Mutex::new(Some(io.stdin))),
        children: Arc::clone(&children.0),
        terminal: discipline.as_ref().map(|discipline| Arc::clone(&discipline.terminal)),
    };
    let farewell = if discipline.is_some() { Signal::HUP } else { Signal::TERM };
    let echo = process.output.clone();
    let pump = Pump {
        inner,
        sink: io.sink,
        limits: prepared.limits,
        closed,
        cut_after: inner.levers.take_drop_output_after(),
        cut: cut.clone(),
    };
    let supervised = supervise(
        inner,
        process,
        children,
        prepared.scenario,
        io.control,
        Patience { time_limit: prepared.time_limit, grace: prepared.grace, farewell },
        cut.clone(),
    );
    let supervision = async {
        match discipline {
            None => {
                drop(echo);
                supervised.await
            }
            Some(discipline) => tokio::select! {
                biased;
                end = supervised => end,
                never = discipline.run(echo) => match never {},
            },
        }
    };
    let ((ending, stopped_by), output) = tokio::join!(supervision, pump.run(receiver));
    // The leader may have ended before the pump came to the place of the cut.
    let ending = if cut.is_cancelled() { contact_lost() } else { ending };
    let recreated = inner.levers.take_recreated();
    CommandExit {
        ending,
        output,
        elapsed: began.elapsed(),
        stopped_by,
        notices: recreated
            .map(|reason| Notice::EnvironmentRecreated { reason })
            .into_iter()
            .collect(),
    }
}

fn contact_lost() -> Ending {
    Ending::ContactLost {
        command: Some("fake process".to_owned()),
        cause: "a lever of the fake".to_owned(),
    }
}

/// How long a command may run, and how long it has to end.
struct Patience {
    time_limit: Option<Duration>,
    grace: Duration,
    /// What it is asked to end with.
    farewell: Signal,
}

async fn supervise(
    inner: &Inner,
    process: Process,
    children: Children,
    scenario: Scenario,
    mut control: ControlRequests,
    patience: Patience,
    cut: CancellationToken,
) -> (Ending, Option<StopMethod>) {
    let discarding = lock(&inner.discarding).clone();
    let traps = Arc::clone(&process.traps);
    let output = process.output.clone();
    let leader = process.steps(scenario.steps().to_vec());
    tokio::pin!(leader);
    let deadline = async {
        match patience.time_limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => pending().await,
        }
    };
    tokio::pin!(deadline);
    let ended_by_us = loop {
        let request = tokio::select! {
            biased;
            () = cut.cancelled() => break Err((contact_lost(), None)),
            () = inner.levers.contact_lost() => break Err((contact_lost(), None)),
            ending = &mut leader => break Err((ending, None)),
            Some(request) = control.next() => request,
            () = inner.closing.cancelled() => ControlRequest::Cancel,
            () = discarding.cancelled() => ControlRequest::Cancel,
            limit = &mut deadline => break Ok(Ending::TimedOut { limit }),
        };
        match request {
            ControlRequest::Cancel => break Ok(Ending::Cancelled),
            ControlRequest::Signal(signal) => match react(&traps, signal) {
                Reaction::Nothing => {}
                Reaction::Print(text) => {
                    drop(output.send((OutputStream::Stdout, text.into())).await);
                    break Err((Ending::Exited(0), None));
                }
                Reaction::Die => break Err((Ending::Signalled(signal), None)),
            },
        }
    };
    let end = match ended_by_us {
        Err(end) => end,
        Ok(ending) => {
            let method = match react(&traps, patience.farewell) {
                Reaction::Die => StopMethod::Terminate,
                Reaction::Print(text) => {
                    drop(output.send((OutputStream::Stdout, text.into())).await);
                    StopMethod::Terminate
                }
                Reaction::Nothing => {
                    match tokio::time::timeout(patience.grace, &mut leader).await {
                        Ok(_) => StopMethod::Terminate,
                        Err(_) => StopMethod::Kill,
                    }
                }
            };
            (ending, Some(method))
        }
    };
    // What was left behind ends with its leader.
    drop(children);
    end
}

/// The tasks of children, which end with their leader: also when its future is dropped.
#[derive(Default)]
struct Children(Arc<Mutex<Vec<AbortHandle>>>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in lock(&self.0).drain(..) {
            child.abort();
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Traps {
    ignores: bool,
    prints: HashMap<i32, String>,
}

enum Reaction {
    Nothing,
    Print(Vec<u8>),
    Die,
}

fn react(traps: &Mutex<Traps>, signal: Signal) -> Reaction {
    lock(traps).on(signal)
}

impl Traps {
    fn on(&self, signal: Signal) -> Reaction {
        if let Some(text) = self.prints.get(&signal.number()) {
            return Reaction::Print(text.clone().into_bytes());
        }
        let ignorable = [Signal::TERM, Signal::INT, Signal::HUP].contains(&signal);
        // Without a handler, a change of the window's size means nothing.
        if self.ignores && ignorable || signal == WINDOW_CHANGED {
            Reaction::Nothing
        } else {
            Reaction::Die
        }
    }
}

pub(super) type OutputSender = mpsc::Sender<(OutputStream, Bytes)>;

#[derive(Clone)]
struct Process {
    inner: Arc<Inner>,
    directory: PathBuf,
    variables: Arc<HashMap<OsString, OsString>>,
    output: OutputSender,
    closed: Arc<ClosedStreams>,
    traps: Arc<Mutex<Traps>>,
    stdin: Arc<tokio::sync::Mutex<Option<Stdin>>>,
    children: Arc<Mutex<Vec<AbortHandle>>>,
    terminal: Option<Arc<Terminal>>,
}

impl Process {
    fn steps(self, steps: Vec<Step>) -> BoxFuture<'static, Ending> {
        Box::pin(async move {
            for step in steps {
                self.inner.levers.not_stalled().await;
                if let Err(ending) = self.step(step).await {
                    return ending;
                }
            }
            Ending::Exited(0)
        })
    }

    async fn step(&self, step: Step) -> Result<(), Ending> {
        match step {
            Step::Print(bytes) => self.print(OutputStream::Stdout, bytes).await,
            Step::PrintError(bytes) => self.print(OutputStream::Stderr, bytes).await,
            Step::PrintMany(bytes) => {
                let mut left = bytes;
                while left > 0 {
                    let now = left.min(64 * 1024);
                    left -= now;
                    let size = usize::try_from(now).unwrap_or_default();
                    self.print(OutputStream::Stdout, vec![b'x'; size]).await?;
                }
                Ok(())
            }
            Step::PrintForever => loop {
                self.print(OutputStream::Stdout, b"y\n".repeat(4096)).await?;
                tokio::task::yield_now().await;
            },
            Step::CopyStdin => {
                while let Some(bytes) = self.read_stdin().await {
                    self.print(OutputStream::Stdout, bytes.to_vec()).await?;
                }
                Ok(())
            }
            Step::ReadAndCloseStdin(bytes) => {
                let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
                while left > 0 {
                    let Some(read) = self.read_stdin().await else { break };
                    left = left.saturating_sub(read.len());
                }
                *self.stdin.lock().await = None;
                Ok(())
            }
            Step::PrintVariable(name) => {
                let value = self.variables.get(OsStr::new(&name));
                let bytes = value.map(|value| value.as_encoded_bytes().to_vec());
                self.print(OutputStream::Stdout, bytes.unwrap_or_default()).await
            }
            Step::PrintDirectory => {
                let directory = self.directory.as_os_str().as_encoded_bytes().to_vec();
                self.print(OutputStream::Stdout, directory).await
            }
            Step::PrintFile(path) => self.print_file(&path).await,
            Step::SleepMs(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Step::TickForever(path) => loop {
                self.inner.levers.not_stalled().await;
                self.change(&path, |node| match node {
                    Some(Node::File { bytes, mode }) => {
                        Some(Node::File { bytes: [&bytes[..], b"x"].concat(), mode: *mode })
                    }
                    _ => Some(Node::File { bytes: b"x".to_vec(), mode: 0o644 }),
                })?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            Step::WriteFile(path, bytes) if path == "/dev/tty" => match &self.terminal {
                Some(_) => self.print(OutputStream::Stdout, bytes).await,
                None => Err(Ending::Exited(1)),
            },
            Step::WriteFile(path, bytes) => self.change(&path, |node| {
                let mode = node.map_or(0o644, Node::mode);
                Some(Node::File { bytes: bytes.clone(), mode })
            }),
            Step::MakeDirectory(path) => {
                let path = self.directory.join(path);
                self.inner.tree().make_directories(&path, &path).map_err(|_| Ending::Exited(1))
            }
            Step::Link(target, path) => {
                self.change_entry(&path, |_| Some(Node::Link(target.clone().into())))
            }
            Step::Fifo(path) => self.change_entry(&path, |_| Some(Node::Fifo)),
            Step::Mode(mode, path) => self.change(&path, |node| match node {
                Some(Node::File { bytes, .. }) => Some(Node::File { bytes: bytes.clone(), mode }),
                other => other.cloned(),
            }),
            Step::Remove(path) => self.change_entry(&path, |_| None),
            Step::PrintTerminals => {
                let text = if self.terminal.is_some() { "ttt" } else { "---" };
                self.print(OutputStream::Stdout, text.into()).await
            }
            Step::PrintSize => match &self.terminal {
                Some(terminal) => {
                    let size = terminal.size();
                    let text = format!("{} {}\n", size.rows(), size.columns());
                    self.print(OutputStream::Stdout, text.into()).await
                }
                None => Err(Ending::Exited(1)),
            },
            Step::RawTerminal => match &self.terminal {
                Some(terminal) => {
                    terminal.make_raw();
                    Ok(())
                }
                None => Err(Ending::Exited(1)),
            },
            Step::CopyBytes(bytes) => {
                let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
                while left > 0 {
                    let Some(read) = self.read_stdin().await else { break };
                    let taken = read.len().min(left);
                    left -= taken;
                    self.print(OutputStream::Stdout, read[..taken].to_vec()).await?;
                }
                Ok(())
            }
            Step::IgnoreSignals => {
                lock(&self.traps).ignores = true;
                Ok(())
            }
            Step::OnSignal(signal, text) => {
                lock(&self.traps).prints.insert(signal, text);
                Ok(())
            }
            Step::Leave(steps) | Step::LeaveDaemon(steps) => {
                let child = self.clone();
                let task = tokio::spawn(async move {
                    child.steps(steps).await;
                });
                lock(&self.children).push(task.abort_handle());
                Ok(())
            }
            Step::KillSelf(number) => {
                Err(Signal::from_number(number).map_or(Ending::Unknown, Ending::Signalled))
            }
            Step::Exit(code) => Err(Ending::Exited(code)),
        }
    }

    async fn print(&self, stream: OutputStream, bytes: Vec<u8>) -> Result<(), Ending> {
        let broken = Ending::Signalled(Signal::PIPE);
        let (stream, bytes) = match &self.terminal {
            Some(terminal) => (OutputStream::Stdout, terminal.shown(&bytes)),
            None => (stream, bytes),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if self.closed.of(stream).load(Ordering::Acquire) {
            return Err(broken);
        }
        self.output.send((stream, bytes.into())).await.map_err(|_| broken)
    }

    async fn read_stdin(&self) -> Option<Bytes> {
        match &mut *self.stdin.lock().await {
            Some(Stdin::Stream(stream)) => stream.next().await?.ok(),
            Some(Stdin::Empty) | None => None,
        }
    }

    async fn print_file(&self, path: &str) -> Result<(), Ending> {
        let full = self.directory.join(path);
        let bytes = {
            let tree = self.inner.tree();
            let resolved = tree.resolve(&full, &full, Last::Follow).ok();
            match resolved.as_deref().and_then(|path| tree.get(path)) {
                Some(Node::File { bytes, .. }) => Some(bytes.clone()),
                _ => None,
            }
        };
        match bytes {
            Some(bytes) => self.print(OutputStream::Stdout, bytes).await,
            None => {
                let message = format!("cat: {path}: No such file or directory\n");
                self.print(OutputStream::Stderr, message.into_bytes()).await?;
                Err(Ending::Exited(1))
            }
        }
    }

    fn change(
        &self,
        path: &str,
        change: impl Fn(Option<&Node>) -> Option<Node>,
    ) -> Result<(), Ending> {
        self.change_at(path, Last::Follow, change)
    }

    fn change_entry(
        &self,
        path: &str,
        change: impl Fn(Option<&Node>) -> Option<Node>,
    ) -> Result<(), Ending> {
        self.change_at(path, Last::Stay, change)
    }

    fn change_at(
        &self,
        path: &str,
        last: Last,
        change: impl Fn(Option<&Node>) -> Option<Node>,
    ) -> Result<(), Ending> {
        let full = self.directory.join(path);
        let mut tree = self.inner.tree();
        let resolved = tree.resolve(&full, &full, last).map_err(|_| Ending::Exited(1))?;
        match change(tree.get(&resolved)) {
            Some(node) => tree.put(&resolved, node),
            None => tree.remove_tree(&resolved),
        }
        Ok(())
    }
}
