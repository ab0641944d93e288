//! Commands on pseudo-terminals: started, attached to by a socket, ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{Notify, mpsc, watch};

use crate::processes::{SERVER_MARK, now_ms};
use crate::sandboxes::Sandbox;
use crate::server::Daemon;

const DATA: u8 = 0;
const RESIZE: u8 = 1;
const READY: u8 = 2;
const EXIT: u8 = 3;

/// How long a command that was hung up has before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// How long is waited for output of a terminal whose command has ended and that somebody holds open.
const SILENCE_AFTER_END: Duration = Duration::from_millis(200);

/// What `POST /pty` takes.
#[derive(Debug, Deserialize)]
pub(crate) struct Start {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    working_dir: Option<String>,
    rows: Option<u16>,
    cols: Option<u16>,
}

/// A command on a terminal, running or not.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) id: String,
    pub(crate) token: String,
    pid: u32,
    started_at: u128,
    daemon: Daemon,
    host: OwnedFd,
    shown: Mutex<Option<mpsc::Receiver<Bytes>>>,
    typed: mpsc::UnboundedSender<Bytes>,
    end: watch::Sender<End>,
    cut: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Running,
    /// With -1 for a signal.
    Exited(i32),
    /// It was deleted, and whatever it was is killed.
    Deleted,
}

impl Terminal {
    pub(crate) fn start(start: &Start, daemon: Daemon, sandbox: &Sandbox) -> io::Result<Arc<Self>> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let host = openpt(flags)?;
        grantpt(&host)?;
        unlockpt(&host)?;
        set_size(&host, start.cols.unwrap_or(80), start.rows.unwrap_or(24))?;
        let path = ptsname(&host, Vec::new())?.into_string().map_err(io::Error::other)?;
        let inside = File::options().read(true).write(true).open(path)?;
        let home = &sandbox.home;
        let mut command = match &sandbox.namespace {
            Some(namespace) => namespace.command("env"),
            None => Command::new("env"),
        };
        // What was started in the background passes on that it ignores Ctrl-C.
        command
            .args(["--default-signal=HUP,INT,QUIT", "setsid", "--ctty", "--"])
            .arg(&start.command)
            .args(&start.args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", home)
            .envs(&start.env)
            .env(SERVER_MARK, sandbox.mark())
            .stdin(Stdio::from(inside.try_clone()?))
            .stdout(Stdio::from(inside.try_clone()?))
            .stderr(Stdio::from(inside));
        if sandbox.namespace.is_none() {
            command.current_dir(start.working_dir.as_deref().map_or(&**home, std::path::Path::new));
        }
        let mut child = command.spawn()?;
        // With it go the copies of the terminal's other end.
        drop(command);
        // Back-pressure: what nobody takes stays in the terminal.
        let (shown_sender, shown) = mpsc::channel(8);
        let (typed, mut typed_receiver) = mpsc::unbounded_channel::<Bytes>();
        let mut reader = File::from(host.try_clone()?);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(read) = reader.read(&mut buffer) {
                let bytes = Bytes::copy_from_slice(&buffer[..read]);
                if read == 0 || shown_sender.blocking_send(bytes).is_err() {
                    break;
                }
            }
        });
        let mut writer = File::from(host.try_clone()?);
        std::thread::spawn(move || {
            while let Some(bytes) = typed_receiver.blocking_recv() {
                drop(writer.write_all(&bytes));
            }
        });
        let terminal = Arc::new(Self {
            id: format!("{:021}", fastrand::u64(..)),
            token: (0..4).map(|_| format!("{:016x}", fastrand::u64(..))).collect(),
            pid: child.id().unwrap_or_default(),
            started_at: now_ms(),
            daemon,
            host,
            shown: Mutex::new(Some(shown)),
            typed,
            end: watch::Sender::new(End::Running),
            cut: Notify::new(),
        });
        let end = terminal.end.clone();
        tokio::spawn(async move {
            let status = child.wait().await.ok();
            let code = status.and_then(|status| status.code()).unwrap_or(-1);
            end.send_if_modified(|end| {
                let is_first = *end == End::Running;
                if is_first {
                    *end = End::Exited(code);
                }
                is_first
            });
        });
        Ok(terminal)
    }

    pub(crate) fn info(&self) -> Value {
        let end = *self.end.borrow();
        let code = match end {
            End::Exited(code) => Some(code),
            End::Running | End::Deleted => None,
        };
        json!({
            "session_id": self.id, "pid": self.pid, "command": "", "args": [],
            "created_at": self.started_at, "exit_code": code, "is_alive": end == End::Running,
        })
    }

    /// Hangs it up now, and kills it later.
    pub(crate) fn delete(self: Arc<Self>) {
        self.signal(Signal::HUP);
        tokio::spawn(async move {
            tokio::time::sleep(HANG_UP_GRACE).await;
            self.signal(Signal::KILL);
            self.end.send_replace(End::Deleted);
        });
    }

    /// Drops the connection of whoever is attached.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && *self.end.borrow() == End::Running
        {
            // Gone already.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Carries bytes between a client and the terminal.
    pub(crate) async fn attend(self: Arc<Self>, mut socket: WebSocket) {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(&message, Message::Binary(bytes) if bytes.first() == Some(&READY)) {
                break;
            }
        }
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut shown) = shown else { return };
        let mut end = self.end.subscribe();
        loop {
            let has_ended = *end.borrow() != End::Running;
            tokio::select! {
                bytes = shown.recv() => match bytes {
                    Some(bytes) => {
                        let frame = [&[DATA], &bytes[..]].concat();
                        if socket.send(Message::Binary(frame.into())).await.is_err() {
                            return;
                        }
                    }
                    None => {
                        // The end is told when it is known.
                        drop(end.wait_for(|end| *end != End::Running).await);
                        break;
                    }
                },
                () = tokio::time::sleep(SILENCE_AFTER_END), if has_ended => break,
                () = self.cut.notified() => return,
                _ = end.changed(), if !has_ended => {}
                message = socket.recv() => match message {
                    Some(Ok(Message::Binary(bytes))) => self.take(&bytes),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => {
                        // Somebody else may attach.
                        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
                        return;
                    }
                },
            }
        }
        let end = *end.borrow();
        let (code, reason) = match (end, self.daemon) {
            (End::Deleted | End::Running, _) => (1001, "session terminated".to_owned()),
            // It often closes before it has noted the code.
            (End::Exited(_), Daemon::Open) => (1000, "exit:-1".to_owned()),
            (End::Exited(code), Daemon::WithRun) => {
                let frame = [&[EXIT], &code.to_be_bytes()[..]].concat();
                drop(socket.send(Message::Binary(frame.into())).await);
                (1000, format!("exit:{code}"))
            }
        };
        let close = CloseFrame { code, reason: reason.into() };
        drop(socket.send(Message::Close(Some(close))).await);
    }

    fn take(&self, frame: &Bytes) {
        match (frame.first(), frame.get(1..)) {
            (Some(&DATA), Some(_)) => drop(self.typed.send(frame.slice(1..))),
            (Some(&RESIZE), Some(&[c1, c2, r1, r2])) => {
                let size = [[c1, c2], [r1, r2]].map(u16::from_be_bytes);
                drop(set_size(&self.host, size[0], size[1]));
            }
            _ => {}
        }
    }
}

fn set_size(terminal: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let (ws_col, ws_row) = (columns.clamp(1, 1000), rows.clamp(1, 500));
    Ok(tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 })?)
}
