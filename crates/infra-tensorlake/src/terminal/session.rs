//! A command on a terminal, from its start to its ending.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{
    CommandError, CommandExit, CommandRequest, DEFAULT_TERMINAL_KIND, OutputSink, OutputStream,
    RetainedOutput, Signal, Stdin, StopMethod, TerminalInput, TerminalIo, TerminalRequest,
    TerminalRequests, TerminalSize,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::connection::{RemoteTerminal, Socket};
use super::frames::{self, ServerFrame};
use super::life::{Life, Patience, Reason};
use crate::commands::{Manner, Plan, joined, make_workspace, refused};
use crate::environment::Inner;
use crate::failure::{RequestError, closed, unavailable};
use crate::follow::{FAR_FUTURE, in_full};
use crate::guest::Refusal;
use crate::scripts::Guest;

/// What was typed is sent in pieces of this size, and no faster than a piece in this time: a server may
/// close the socket of who types more than a mebibyte in a second.
const MAX_TYPED_BYTES: usize = 16 * 1024;
const TYPED_INTERVAL: Duration = Duration::from_millis(25);
/// How long a terminal may take to be removed before its end is told anyway.
const DELETE_LIMIT: Duration = Duration::from_secs(3);

impl Inner {
    /// Runs a command on a terminal in a task of its own, which goes on where the caller gives up, to end
    /// the command.
    pub(crate) async fn run_on_terminal(
        self: &Arc<Self>,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        let plan = Plan::new(self, &request, &Stdin::Empty, Manner::Foreground)?;
        let plan = plan.on_terminal(DEFAULT_TERMINAL_KIND);
        let abandoned = CancellationToken::new();
        let _abandon = abandoned.clone().drop_guard();
        let task = tokio::spawn(run(Arc::clone(self), plan, request, size, io, abandoned));
        joined(task.await)
    }
}

async fn run(
    inner: Arc<Inner>,
    plan: Plan,
    request: CommandRequest,
    size: TerminalSize,
    io: TerminalIo,
    abandoned: CancellationToken,
) -> Result<CommandExit, CommandError> {
    // Held to the end, so that an end which keeps the sandbox can wait for it.
    let _call = Arc::clone(&inner.calls).read_owned().await;
    inner.may_change_files();
    let sockets = inner.socket_client()?;
    let mut made_workspace = false;
    loop {
        // Until there is a sandbox, nobody who waits means that nothing is started.
        tokio::select! {
            ready = inner.ready() => drop(ready?),
            () = abandoned.cancelled() => return Err(closed().into()),
        }
        let begun = tokio::select! {
            begun = begin(&inner, &plan, size) => begun?,
            () = inner.closing.cancelled() => return Err(closed().into()),
        };
        let (terminal, guest) = begun;
        let socket = match terminal.attach(&sockets).await {
            Ok(socket) => socket,
            Err(error) => {
                terminal.delete().await;
                return Err(error.in_environment("attaching to a terminal").into());
            }
        };
        let patience = Patience {
            time_limit: request.time_limit,
            grace: request.termination_grace.min(FAR_FUTURE),
        };
        let mut session = Session {
            life: Life::new(&plan.token, patience, Instant::now()),
            token: plan.token.clone(),
            silence_limit: inner.config.silence_limit,
            terminal,
            guest,
            socket,
            shown: None,
        };
        match session.begun(&abandoned).await {
            None => {
                let notices = inner.take_notices().await;
                let mut exit = session.follow(io, abandoned).await;
                exit.notices = notices;
                return Ok(exit);
            }
            Some(Refusal::Workspace { user, group }) if !made_workspace => {
                session.terminal.delete().await;
                make_workspace(&inner, &session.guest, user, group).await?;
                made_workspace = true;
            }
            Some(refusal) => {
                session.terminal.delete().await;
                return Err(refused(&inner, &plan, &request, refusal));
            }
        }
    }
}

async fn begin(
    inner: &Inner,
    plan: &Plan,
    size: TerminalSize,
) -> Result<(RemoteTerminal, Guest), CommandError> {
    let begun = inner.on_sandbox("the start of a terminal", |ready| {
        Box::pin(async move {
            let (guest, text) = (inner.guest(ready), plan.terminal_text(inner));
            match RemoteTerminal::start(&guest.client, &guest.ready, text, size).await {
                Err(error) if error.says_no_such_request() && !error.may_be_gone() => Ok(None),
                started => Ok(Some((started?, guest))),
            }
        })
    });
    let missing = || unavailable("its server has no terminals".to_owned()).into();
    begun.await?.ok_or_else(missing)
}

struct Session {
    life: Life,
    token: String,
    silence_limit: Duration,
    terminal: RemoteTerminal,
    guest: Guest,
    socket: Socket,
    /// What is to be shown next.
    shown: Option<Bytes>,
}

impl Session {
    /// Waits until the command has begun, and says why it did not. `None` also where that is not known in
    /// time: then following it tells.
    async fn begun(&mut self, abandoned: &CancellationToken) -> Option<Refusal> {
        let closing = self.guest.closing.clone();
        let give_up = (Instant::now() + self.silence_limit).min(self.life.deadline());
        if let Err(error) = self.socket.send(Message::Binary(frames::ready())).await {
            self.life.lost(cause(&error));
        }
        while !self.life.has_begun() && !self.life.is_over() {
            tokio::select! {
                message = self.socket.next() => {
                    self.shown = take(&mut self.life, message);
                }
                () = abandoned.cancelled() => return None,
                () = closing.cancelled() => return None,
                () = sleep_until(give_up) => return None,
            }
        }
        self.life.refused()
    }

    async fn follow(self, io: TerminalIo, abandoned: CancellationToken) -> CommandExit {
        let Self { mut life, token, silence_limit, terminal, guest, socket, mut shown } = self;
        let TerminalIo { input, sink, control } = io;
        let mut control = Some(control);
        let (outgoing, frames_to_send) = mpsc::channel(4);
        let (screen, to_show) = mpsc::channel(1);
        let unseen = CancellationToken::new();
        let show = tokio::spawn(show(sink, to_show, unseen.clone()));
        let (to_socket, mut from_socket) = socket.split();
        let mut writer = pin!(write(to_socket, frames_to_send));
        let mut typist = pin!(type_in(input, outgoing.clone()));
        let signal = |signal: Signal| {
            // In a task of its own: the output goes on meanwhile.
            let (guest, token) = (guest.clone(), token.clone());
            tokio::spawn(async move { guest.signal_marked(&token, signal).await });
        };
        let mut new_size = None;
        let mut closed = false;
        let mut heard = Instant::now();
        let mut asked = heard;

        while (!life.is_over() || shown.is_some()) && !closed {
            let now = Instant::now();
            if shown.is_some() {
                // The server is not listened to, so it is not silent.
                heard = now;
            }
            let question = heard.max(asked) + silence_limit / 3;
            tokio::select! {
                biased;
                () = abandoned.cancelled(), if !life.is_abandoned() => {
                    show.abort();
                    control = None;
                    shown = None;
                    signal(life.stop(Reason::Abandoned, now));
                }
                () = guest.closing.cancelled(), if !life.is_stopping() => {
                    // With the sandbox everything in it ends.
                    closed = !guest.keep;
                    signal(life.stop(Reason::Cancelled, now));
                }
                request = next_request(&mut control) => match request {
                    TerminalRequest::Resize(size) => new_size = Some(size),
                    TerminalRequest::Signal(asked) => signal(asked),
                    TerminalRequest::Cancel if life.is_stopping() => {}
                    TerminalRequest::Cancel => signal(life.stop(Reason::Cancelled, now)),
                },
                () = sleep_until(life.deadline()), if !life.is_over() => {
                    if let Some(due) = life.on_deadline(Instant::now()) {
                        signal(due);
                    }
                }
                () = unseen.cancelled(), if !life.is_stopping() => {
                    signal(life.stop(Reason::Cancelled, now));
                }
                () = sleep_until(heard + silence_limit), if shown.is_none() => {
                    let limit = silence_limit;
                    life.lost(in_full(&RequestError::Silent { limit }));
                }
                () = sleep_until(question), if shown.is_none() => {
                    asked = Instant::now();
                    // Where the way is full, there is no need to ask.
                    drop(outgoing.try_send(Message::Ping(Bytes::new())));
                }
                error = &mut writer, if !life.is_over() => life.lost(error),
                permit = outgoing.reserve(), if new_size.is_some() => {
                    if let (Ok(permit), Some(size)) = (permit, new_size.take()) {
                        permit.send(Message::Binary(frames::resize(size)));
                    }
                }
                never = &mut typist, if !life.is_over() => match never {},
                permit = screen.reserve(), if shown.is_some() => match (permit, shown.take()) {
                    (Ok(permit), Some(bytes)) => permit.send(bytes),
                    // Nobody looks at it.
                    (Err(_), _) | (_, None) => {}
                },
                message = from_socket.next(), if shown.is_none() && !life.is_over() => {
                    heard = Instant::now();
                    shown = take(&mut life, message);
                }
            }
        }
        let elapsed = life.began().elapsed();
        drop(screen);
        // One that was aborted has nothing to say.
        drop(show.await);
        let (ending, stopped_by) = if closed {
            (forge_domain::Ending::Cancelled, Some(StopMethod::Kill))
        } else {
            if life.is_unclear() && !life.is_stopping() {
                life.cleared(terminal.code().await);
            }
            let ending = life.ending(&terminal.id);
            if life.is_lost() {
                // Nobody is to wait for what can hardly be reached.
                signal(Signal::KILL);
                tokio::spawn(async move { terminal.delete().await });
            } else {
                let _late = tokio::time::timeout(DELETE_LIMIT, terminal.delete()).await;
            }
            ending
        };
        let output = RetainedOutput::default();
        CommandExit { ending, output, elapsed, stopped_by, notices: Vec::new() }
    }
}

/// Takes what came by the socket, and gives what is to be shown.
fn take(life: &mut Life, message: Option<Result<Message, tungstenite::Error>>) -> Option<Bytes> {
    match message {
        Some(Ok(Message::Binary(frame))) => {
            return life.hear(ServerFrame::decode(&frame), Instant::now());
        }
        Some(Ok(Message::Close(close))) => match close {
            // An end, of the command or of its terminal; others are the server's trouble with us.
            Some(close) if matches!(u16::from(close.code), 1000 | 1001) => {
                life.closed(&close.reason)
            }
            Some(close) => {
                let (code, reason) = (u16::from(close.code), close.reason);
                life.lost(format!("the server closed the socket ({code}): {reason:?}"));
            }
            None => life.closed(""),
        },
        Some(Ok(_)) => {}
        Some(Err(error)) => life.lost(cause(&error)),
        None => life.lost("the connection ended".to_owned()),
    }
    None
}

fn cause(error: &tungstenite::Error) -> String {
    format!("the socket failed: {error}")
}

/// Shows what comes, as fast as the sink takes it.
async fn show(
    mut sink: Box<dyn OutputSink>,
    mut to_show: mpsc::Receiver<Bytes>,
    unseen: CancellationToken,
) {
    while let Some(bytes) = to_show.recv().await {
        if sink.write(OutputStream::Stdout, bytes).await.is_err() {
            unseen.cancel();
            return;
        }
    }
}

/// Sends what is to be sent, until that fails.
async fn write(
    mut socket: impl futures_util::Sink<Message, Error = tungstenite::Error> + Unpin,
    mut frames: mpsc::Receiver<Message>,
) -> String {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = socket.send(frame).await {
            return cause(&error);
        }
    }
    pending().await
}

/// Never returns: that nobody types any more is not the end of the command.
async fn type_in(
    mut input: TerminalInput,
    outgoing: mpsc::Sender<Message>,
) -> std::convert::Infallible {
    while let Some(bytes) = input.next().await {
        for piece in bytes.chunks(MAX_TYPED_BYTES) {
            if outgoing.send(Message::Binary(frames::data(piece))).await.is_err() {
                return pending().await;
            }
            if piece.len() == MAX_TYPED_BYTES {
                sleep(TYPED_INTERVAL).await;
            }
        }
    }
    pending().await
}

/// The next request; never, once nobody can ask any more.
async fn next_request(control: &mut Option<TerminalRequests>) -> TerminalRequest {
    loop {
        let Some(requests) = control else { return pending().await };
        match requests.next().await {
            Some(request) => return request,
            None => *control = None,
        }
    }
}
