//! One terminal: its command, who may attach to it, its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    Ending, OutputSink, OutputStream, SinkClosed, TerminalController, TerminalInput, TerminalIo,
    TerminalSize,
};
use forge_infra_sandbox::SandboxEnvironment;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::queue::Queue;
use super::table::Terminals;
use crate::failure::Failure;
use crate::key::ApiKey;
use crate::process::{check_user, command_of};
use crate::registry::new_id;
use crate::wire::{StartProcessRequest, StartTerminalRequest, TerminalResponse, now_ms};

/// How long a command that was hung up has before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// How long a terminal is there after the end of its command.
const KEPT_AFTER_END: Duration = Duration::from_secs(60);
/// How far a command may be ahead of its client.
const SHOWN_BYTES: usize = 256 * 1024;
/// How much may be typed ahead of the command. What comes after it is not listened to, sizes included.
const TYPED_BYTES: usize = 1024 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long terminals wait for their clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How often a client is asked whether it is there.
    pub(crate) ping_interval: Duration,
    /// How long it may give no sign of itself.
    pub(crate) silence_limit: Duration,
    /// How long a command may be without a client.
    pub(crate) alone_limit: Duration,
}

/// A command on a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) id: String,
    /// The hash of what a client has to show: comparing it says nothing about the token.
    token: blake3::Hash,
    pid: u32,
    command: String,
    args: Vec<String>,
    started_ms: u64,
    size: Mutex<TerminalSize>,
    controller: TerminalController,
    pub(super) patience: Patience,
    pub(super) typed: Arc<Queue>,
    pub(super) shown: Arc<Queue>,
    attendance: Mutex<Attendance>,
    /// Cancelled when nobody is to see more of it.
    pub(super) released: CancellationToken,
    end: watch::Sender<Option<End>>,
}

/// Who is attached.
#[derive(Debug, Default)]
struct Attendance {
    arrivals: u64,
    /// Cancelled when another client comes; `None` where nobody is attached.
    current: Option<CancellationToken>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// With -1 for a signal.
    pub(super) code: i32,
    at_ms: u64,
}

/// Passes on what is shown, and waits where the client does not take it.
struct Screen {
    shown: Arc<Queue>,
    released: CancellationToken,
    /// The command has ended, and what it left is little.
    ended: CancellationToken,
}

#[async_trait]
impl OutputSink for Screen {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        tokio::select! {
            biased;
            // It is about to end by itself.
            () = self.released.cancelled() => return Ok(()),
            () = self.ended.cancelled() => {}
            () = self.shown.room() => {}
        }
        self.shown.push(&bytes);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.shown.close();
    }
}

/// The command's end of what is typed.
struct Keyboard(Arc<Queue>);

impl Keyboard {
    fn input(self) -> TerminalInput {
        Box::pin(futures_util::stream::unfold(self, async |keyboard| {
            Some((keyboard.0.take().await?, keyboard))
        }))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Terminal {
    /// Starts one, and gives it with its token.
    ///
    /// # Cancel safety
    /// Dropping the future before it returns ends what it has started.
    pub(crate) async fn start(
        environment: &SandboxEnvironment,
        terminals: &Arc<Terminals>,
        patience: Patience,
        request: StartTerminalRequest,
    ) -> Result<(Arc<Self>, String), Failure> {
        if let Some(user) = &request.user {
            check_user(user)?;
        }
        let size = TerminalSize::new(request.cols.unwrap_or(80), request.rows.unwrap_or(24));
        let process = StartProcessRequest {
            command: request.command,
            args: request.args,
            env: request.env,
            working_dir: request.working_dir,
            ..StartProcessRequest::default()
        };
        let command = command_of(&process)?.termination_grace(HANG_UP_GRACE);
        let key = ApiKey::generate().map_err(|error| Failure::internal(&error))?;
        let token = key.expose().trim_start_matches("forge_").to_owned();
        let started = environment.start_on_terminal(&command, size).await?;
        let (controller, control) = TerminalController::new();
        let released = CancellationToken::new();
        let terminal = Arc::new(Self {
            id: new_id(),
            token: blake3::hash(token.as_bytes()),
            pid: started.pid(),
            command: process.command,
            args: process.args.unwrap_or_default(),
            started_ms: now_ms(),
            size: Mutex::new(size),
            controller,
            patience,
            typed: Arc::new(Queue::new(TYPED_BYTES)),
            shown: Arc::new(Queue::new(SHOWN_BYTES)),
            attendance: Mutex::default(),
            released: released.clone(),
            end: watch::Sender::new(None),
        });
        terminals.insert(&terminal)?;
        let ended = started.ended();
        let sink = Box::new(Screen { shown: Arc::clone(&terminal.shown), released, ended });
        let input = Keyboard(Arc::clone(&terminal.typed)).input();
        let io = TerminalIo { input, sink, control };
        let (following, all) = (Arc::clone(&terminal), Arc::clone(terminals));
        tokio::spawn(async move {
            let code = match started.follow(io).await.map(|exit| exit.ending) {
                Ok(Ending::Exited(code)) => i32::from(code),
                Ok(_) | Err(_) => -1,
            };
            following.end.send_replace(Some(End { code, at_ms: now_ms() }));
            tokio::select! {
                () = following.released.cancelled() => {}
                () = tokio::time::sleep(KEPT_AFTER_END) => {}
            }
            all.delete(&following.id);
        });
        terminal.alone(0);
        Ok((terminal, token))
    }

    pub(crate) fn admits(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == self.token
    }

    pub(crate) fn response(&self) -> TerminalResponse<'_> {
        let (end, size) = (*self.end.borrow(), *lock(&self.size));
        TerminalResponse {
            session_id: &self.id,
            pid: self.pid,
            command: &self.command,
            args: &self.args,
            rows: size.rows(),
            cols: size.columns(),
            created_at: self.started_ms,
            ended_at: end.map(|end| end.at_ms),
            exit_code: end.map(|end| end.code),
            is_alive: end.is_none(),
        }
    }

    pub(crate) fn resize(&self, size: TerminalSize) {
        *lock(&self.size) = size;
        self.controller.resize(size);
    }

    /// Hangs it up, and kills it later.
    pub(super) fn end(&self) {
        self.controller.cancel();
        self.release();
    }

    /// Lets it wait for no client any more.
    pub(super) fn release(&self) {
        self.released.cancel();
    }

    /// When its command ended, if it has.
    pub(super) fn ended_ms(&self) -> Option<u64> {
        self.end.borrow().map(|end| end.at_ms)
    }

    /// Waits for the end of its command.
    pub(super) async fn ended(&self) -> Option<End> {
        let mut end = self.end.subscribe();
        // The sender is this terminal's own.
        end.wait_for(Option::is_some).await.ok().and_then(|end| *end)
    }

    /// Makes room for a client, whose number it gives with what is cancelled when another one comes.
    pub(super) fn arrive(&self) -> (u64, CancellationToken) {
        let mine = CancellationToken::new();
        let mut attendance = lock(&self.attendance);
        attendance.arrivals += 1;
        if let Some(former) = attendance.current.replace(mine.clone()) {
            former.cancel();
        }
        (attendance.arrivals, mine)
    }

    /// Says that a client is gone. One that was taken over leaves nobody alone.
    pub(super) fn leave(self: &Arc<Self>, arrival: u64) {
        {
            let mut attendance = lock(&self.attendance);
            if attendance.arrivals != arrival {
                return;
            }
            attendance.current = None;
        }
        self.alone(arrival);
    }

    /// Ends it where no client comes for too long after that one.
    fn alone(self: &Arc<Self>, last_arrival: u64) {
        let terminal = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = terminal.released.cancelled() => return,
                () = tokio::time::sleep(terminal.patience.alone_limit) => {}
            }
            if lock(&terminal.attendance).arrivals == last_arrival {
                terminal.end();
            }
        });
    }
}
