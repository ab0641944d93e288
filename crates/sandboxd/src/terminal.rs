//! Commands on terminals: started, attached to by a socket, ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::http::StatusCode;
use bytes::{BufMut as _, Bytes, BytesMut};
use forge_domain::{
    Ending, OutputSink, OutputStream, SinkClosed, TerminalController, TerminalIo, TerminalSize,
};
use forge_infra_sandbox::SandboxEnvironment;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::key::ApiKey;
use crate::process::{check_user, command_of};
use crate::registry::new_id;
use crate::wire::{StartProcessRequest, StartTerminalRequest, TerminalResponse, now_ms};

const DATA: u8 = 0;
const RESIZE: u8 = 1;
const READY: u8 = 2;
const EXIT: u8 = 3;

/// Terminals of a sandbox at the same time.
const MAX_TERMINALS: usize = 64;
/// How long a command that was hung up has before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// How long a command may be without a client.
const ALONE_LIMIT: Duration = Duration::from_secs(300);
/// How long a terminal is there after the end of its command.
const KEPT_AFTER_END: Duration = Duration::from_secs(60);
/// How long a client may take to take in that it is over.
const FAREWELL: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminals of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Terminals {
    all: Mutex<BTreeMap<String, Arc<Terminal>>>,
}

impl Terminals {
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Terminal>> {
        lock(&self.all).get(id).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Terminal>> {
        lock(&self.all).values().cloned().collect()
    }

    /// Ends one, and forgets it at once.
    pub(crate) fn delete(&self, id: &str) -> bool {
        let terminal = lock(&self.all).remove(id);
        if let Some(terminal) = &terminal {
            terminal.end();
        }
        terminal.is_some()
    }

    /// Lets no command wait for a client any more.
    pub(crate) fn release(&self) {
        for terminal in std::mem::take(&mut *lock(&self.all)).into_values() {
            terminal.released.cancel();
        }
    }

    fn insert(&self, terminal: &Arc<Terminal>) -> Result<(), Failure> {
        let mut all = lock(&self.all);
        if all.len() >= MAX_TERMINALS {
            let text = format!("the sandbox has {MAX_TERMINALS} terminals already");
            return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_SESSIONS", text));
        }
        all.insert(terminal.id.clone(), Arc::clone(terminal));
        Ok(())
    }
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
    typed: mpsc::Sender<Bytes>,
    /// Held by the client that is attached.
    shown: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    /// Cancelled when another client comes.
    attached: Mutex<CancellationToken>,
    attachments: AtomicU64,
    /// Cancelled when nobody is to see more of it.
    released: CancellationToken,
    end: watch::Sender<Option<End>>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    /// With -1 for a signal.
    code: i32,
    at_ms: u64,
}

/// Passes on what is shown, and waits where the client does not take it.
struct Screen {
    shown: mpsc::Sender<Bytes>,
    released: CancellationToken,
}

#[async_trait]
impl OutputSink for Screen {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        tokio::select! {
            biased;
            // It is about to end by itself.
            () = self.released.cancelled() => {}
            sent = self.shown.send(bytes) => drop(sent),
        }
        Ok(())
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
        let (shown_sender, shown) = mpsc::channel(8);
        let (typed, typed_receiver) = mpsc::channel::<Bytes>(1);
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
            typed,
            shown: tokio::sync::Mutex::new(shown),
            attached: Mutex::default(),
            attachments: AtomicU64::new(0),
            released: released.clone(),
            end: watch::Sender::new(None),
        });
        terminals.insert(&terminal)?;
        let input = futures_util::stream::unfold(typed_receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        let sink = Box::new(Screen { shown: shown_sender, released });
        let io = TerminalIo { input: Box::pin(input), sink, control };
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
        terminal.alone();
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
    fn end(&self) {
        self.controller.cancel();
        self.released.cancel();
    }

    /// Ends it where no client comes for too long.
    fn alone(self: &Arc<Self>) {
        let (terminal, before) = (Arc::clone(self), self.attachments.load(Ordering::SeqCst));
        tokio::spawn(async move {
            tokio::select! {
                () = terminal.released.cancelled() => return,
                () = tokio::time::sleep(ALONE_LIMIT) => {}
            }
            if terminal.attachments.load(Ordering::SeqCst) == before {
                terminal.end();
            }
        });
    }

    /// Carries bytes between a client and the terminal.
    pub(crate) async fn attend(self: Arc<Self>, socket: WebSocket) {
        let mine = CancellationToken::new();
        self.attachments.fetch_add(1, Ordering::SeqCst);
        std::mem::replace(&mut *lock(&self.attached), mine.clone()).cancel();
        let (mut to_client, mut from_client) = socket.split();
        let ready = CancellationToken::new();
        let is_over = tokio::select! {
            () = mine.cancelled() => false,
            () = self.hear(&mut from_client, &ready) => false,
            is_over = self.show(&mut to_client, &ready) => is_over,
            () = self.released.cancelled() => true,
        };
        if !is_over {
            self.alone();
            return;
        }
        let mut end = self.end.subscribe();
        // The sender is this terminal's own.
        let Ok(end) = end.wait_for(Option::is_some).await.map(|end| *end) else { return };
        let (code, reason) = match end {
            Some(end) if !self.released.is_cancelled() => {
                let mut frame = BytesMut::with_capacity(5);
                frame.put_u8(EXIT);
                frame.put_i32(end.code);
                let telling = to_client.send(Message::Binary(frame.freeze()));
                drop(tokio::time::timeout(FAREWELL, telling).await);
                (1000, format!("exit:{}", end.code))
            }
            Some(_) | None => (1001, "session terminated".to_owned()),
        };
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        drop(tokio::time::timeout(FAREWELL, to_client.send(close)).await);
    }

    /// Takes what the client sends, until it is gone.
    async fn hear(
        &self,
        from_client: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
        ready: &CancellationToken,
    ) {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(frame) = message else { continue };
            match (frame.first(), frame.get(1..)) {
                // A command that has ended reads no more.
                (Some(&DATA), Some([_, ..])) => drop(self.typed.send(frame.slice(1..)).await),
                (Some(&RESIZE), Some(&[c1, c2, r1, r2])) => {
                    let [columns, rows] = [[c1, c2], [r1, r2]].map(u16::from_be_bytes);
                    self.resize(TerminalSize::new(columns, rows));
                }
                (Some(&READY), _) => ready.cancel(),
                _ => {}
            }
        }
    }

    /// Shows the client what comes. Says whether that was everything.
    async fn show(
        &self,
        to_client: &mut (impl Sink<Message> + Unpin),
        ready: &CancellationToken,
    ) -> bool {
        ready.cancelled().await;
        let mut shown = self.shown.lock().await;
        while let Some(bytes) = shown.recv().await {
            let mut frame = BytesMut::with_capacity(bytes.len() + 1);
            frame.put_u8(DATA);
            frame.put_slice(&bytes);
            if to_client.send(Message::Binary(frame.freeze())).await.is_err() {
                return false;
            }
        }
        true
    }
}
