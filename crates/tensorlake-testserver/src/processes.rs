//! Processes: started, read line by line, ended.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::namespace::Namespace;
use crate::server::Daemon;

/// Marks every process of a server, so that all of them are found again.
pub(crate) const SERVER_MARK: &str = "TESTSERVER_SANDBOX";
const PROCESS_MARK: &str = "TESTSERVER_PROCESS";

/// What `POST /processes` and `run` take. Unknown keys are ignored, as the daemon does.
#[derive(Debug, Deserialize)]
pub(crate) struct Start {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    working_dir: Option<String>,
    stdin_mode: Option<String>,
    pub(crate) timeout: Option<f64>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) timed_out: bool,
}

/// A process, running or not.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    started_at: u128,
    mark: String,
    daemon: Daemon,
    state: Mutex<State>,
    pub(crate) changed: watch::Sender<u64>,
    stdin: AsyncMutex<Option<ChildStdin>>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(&'static str, String)>,
    end: Option<End>,
    open_streams: u32,
    timed_out: bool,
}

/// What a reader of the lines sees next.
#[derive(Debug)]
pub(crate) enum Next {
    Lines(Vec<(&'static str, String)>),
    Wait,
    Done(End),
}

pub(crate) fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

impl Process {
    /// Starts one.
    pub(crate) fn start(
        start: &Start,
        daemon: Daemon,
        sandbox_mark: &str,
        namespace: Option<&Namespace>,
        home: &std::path::Path,
    ) -> io::Result<Arc<Self>> {
        let mut command = match namespace {
            Some(namespace) => namespace.command(&start.command),
            None => Command::new(&start.command),
        };
        let mark = format!("{:016x}", fastrand::u64(..));
        let piped_stdin = start.stdin_mode.as_deref() == Some("pipe");
        command
            .args(&start.args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", home)
            .envs(&start.env)
            .env(SERVER_MARK, sandbox_mark)
            .env(PROCESS_MARK, &mark)
            .stdin(if piped_stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if namespace.is_none() {
            command.current_dir(start.working_dir.as_deref().map_or(home, std::path::Path::new));
        }
        if daemon == Daemon::WithRun {
            command.process_group(0);
        }
        let mut child = command.spawn()?;
        let process = Arc::new(Self {
            pid: child.id().unwrap_or_default(),
            started_at: now_ms(),
            mark,
            daemon,
            state: Mutex::new(State { open_streams: 2, ..State::default() }),
            changed: watch::Sender::default(),
            stdin: AsyncMutex::new(child.stdin.take()),
        });
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(Arc::clone(&process).read("stdout", stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(Arc::clone(&process).read("stderr", stderr));
        }
        let waiting = Arc::clone(&process);
        let timeout = start.timeout.filter(|_| daemon == Daemon::WithRun);
        tokio::spawn(async move {
            let limit = Duration::from_secs_f64(timeout.unwrap_or(1e9).clamp(0.0, 1e9));
            let status = tokio::select! {
                status = child.wait() => status,
                () = tokio::time::sleep(limit) => {
                    waiting.state().timed_out = true;
                    waiting.reap();
                    child.wait().await
                }
            };
            if daemon == Daemon::WithRun {
                waiting.reap();
            }
            let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
            {
                let mut state = waiting.state();
                state.end = Some(End { status, timed_out: state.timed_out });
            }
            waiting.changed.send_modify(|version| *version += 1);
        });
        Ok(process)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>, stream: &'static str, pipe: impl AsyncRead + Unpin) {
        let mut pipe = BufReader::with_capacity(64 * 1024, pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match pipe.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = match (std::str::from_utf8(text), self.daemon) {
                (Ok(text), Daemon::WithRun) => text.to_owned(),
                // The open daemon's reader dies of what is no UTF-8, and of a character across byte 200.
                (Ok(text), Daemon::Open) if text.len() <= 200 || text.is_char_boundary(200) => {
                    text.to_owned()
                }
                (_, Daemon::Open) => break,
                (Err(_), Daemon::WithRun) => String::from_utf8_lossy(text).into_owned(),
            };
            self.state().lines.push((stream, text));
            self.changed.send_modify(|version| *version += 1);
        }
        drop(pipe);
        self.state().open_streams -= 1;
        self.changed.send_modify(|version| *version += 1);
    }

    /// What comes after so many lines.
    pub(crate) fn after(&self, seen: usize) -> Next {
        let state = self.state();
        if state.lines.len() > seen {
            return Next::Lines(state.lines[seen..].to_vec());
        }
        match state.end {
            Some(end) if state.open_streams == 0 => Next::Done(end),
            _ => Next::Wait,
        }
    }

    /// All lines of one stream so far.
    pub(crate) fn lines(&self, stream: &str) -> Vec<String> {
        let state = self.state();
        let lines = state.lines.iter().filter(|(name, _)| *name == stream);
        lines.map(|(_, text)| text.clone()).collect()
    }

    pub(crate) fn info(&self) -> Value {
        let state = self.state();
        let (status, code, signal) = match state.end {
            None => ("running", None, None),
            Some(End { status, .. }) => match status.signal() {
                Some(signal) => ("signaled", None, Some(signal)),
                None => ("exited", status.code(), None),
            },
        };
        json!({
            "pid": self.pid, "status": status, "exit_code": code, "signal": signal,
            "started_at": self.started_at, "command": "", "args": [],
        })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state().end.is_none()
    }

    /// Writes to its stdin; `None` closes it. False where there is none.
    pub(crate) async fn write(&self, bytes: Option<&[u8]>) -> bool {
        let mut stdin = self.stdin.lock().await;
        let Some(pipe) = stdin.as_mut() else { return false };
        match bytes {
            Some(bytes) => pipe.write_all(bytes).await.is_ok() && pipe.flush().await.is_ok(),
            None => {
                *stdin = None;
                true
            }
        }
    }

    /// Signals this one process.
    pub(crate) fn signal(&self, signal: i32) -> bool {
        let (Some(pid), Some(signal)) = (pid(self.pid), Signal::from_named_raw(signal)) else {
            return false;
        };
        self.is_running() && kill_process(pid, signal).is_ok()
    }

    /// Kills it with everything that it left.
    pub(crate) fn reap(&self) {
        if self.daemon == Daemon::WithRun
            && let Some(pid) = pid(self.pid)
        {
            // Gone already where nothing is left of the group.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        kill_marked(PROCESS_MARK, &self.mark);
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Kills every process with this in its environment, until none is found.
pub(crate) fn kill_marked(name: &str, value: &str) {
    let mark = format!("{name}={value}").into_bytes();
    for _ in 0..50 {
        let Ok(entries) = std::fs::read_dir("/proc") else { return };
        let mut found = false;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark)
                && let Some(pid) = Pid::from_raw(pid)
            {
                found |= kill_process(pid, Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
