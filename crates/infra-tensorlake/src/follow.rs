//! A command that runs: its output, its time limit, what its caller asks of it, its end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forge_domain::{
    CommandExit, CommandIo, ControlRequest, ControlRequests, Ending, OutputLimits, OutputStream,
    Signal, Stdin, StopMethod,
};
use futures_core::Stream as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::emit::{Emitter, Piece};
use crate::failure::RequestError;
use crate::feed::{InputProgress, feed};
use crate::guest::{Delivery, Heard, Listener, Purpose, Refusal};
use crate::process::{Lost, Process, ProcessEnd, ProcessEvent};
use crate::scripts::Guest;

/// How long, after SIGKILL, the end may take to be told.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Output of one stream that came together is passed on together, up to this.
const MAX_PIECE_BYTES: usize = 256 * 1024;
/// How often an end without its output is read again.
const REREADS: u32 = 2;
/// Longer than anything lives; what clocks can count with.
pub(crate) const FAR_FUTURE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What bounds a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) output: OutputLimits,
}

/// Why a command is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    TimeLimit(Duration),
    Cancelled,
    /// Nobody reads a stream that it writes to.
    BrokenPipe,
    /// Nobody waits for it any more.
    Abandoned,
}

#[derive(Debug, Clone, Copy)]
struct Stopping {
    reason: Reason,
    kill_at: Instant,
    /// When it was killed, and so when its end is overdue.
    killed: bool,
}

/// Follows one command to its end.
#[derive(Debug)]
pub(crate) struct Follower {
    guest: Guest,
    token: String,
    process: Process,
    delivery: Delivery,
    listener: Listener,
    limits: Limits,
    leader: Option<u64>,
    /// When it began, as far as is known here.
    began: Instant,
    queue: VecDeque<(OutputStream, BytesMut)>,
    progress: watch::Sender<InputProgress>,
    refused: Option<Refusal>,
    end: Option<ProcessEnd>,
    lost: Option<RequestError>,
    stopping: Option<Stopping>,
    /// Signals that were asked for before the command began.
    held_signals: Vec<Signal>,
    rereads: u32,
}

impl Follower {
    pub(crate) fn new(
        guest: Guest,
        token: String,
        process: Process,
        delivery: Delivery,
        limits: Limits,
    ) -> Self {
        let listener = Listener::new(delivery, &token);
        Self {
            guest,
            token,
            process,
            delivery,
            listener,
            limits,
            leader: None,
            began: Instant::now(),
            queue: VecDeque::new(),
            progress: watch::Sender::default(),
            refused: None,
            end: None,
            lost: None,
            stopping: None,
            held_signals: Vec::new(),
            rereads: 0,
        }
    }

    /// Waits until the command has begun, and says why it did not. `None` also where that is not known
    /// in time: then following it tells.
    pub(crate) async fn begun(&mut self, abandoned: &CancellationToken) -> Option<Refusal> {
        let closing = self.guest.closing.clone();
        let give_up = self.began + self.limits.time_limit.unwrap_or(FAR_FUTURE).min(FAR_FUTURE);
        while !self.listener.has_started() && !self.is_over() {
            tokio::select! {
                events = self.process.next() => self.take(events),
                () = abandoned.cancelled() => return None,
                () = closing.cancelled() => return None,
                () = sleep_until(give_up) => return None,
            }
        }
        self.refused
    }

    /// Reads what is left of the answer.
    pub(crate) async fn finish(self) {
        self.process.finish().await;
    }

    /// Follows it to its end. When the token is cancelled, it is killed, and what it says goes nowhere.
    pub(crate) async fn follow(
        mut self,
        io: CommandIo,
        abandoned: CancellationToken,
    ) -> CommandExit {
        let CommandIo { stdin, sink, control } = io;
        let mut control = Some(control);
        let closing = self.guest.closing.clone();
        let (pieces, receiver) = mpsc::channel(4);
        let broken = CancellationToken::new();
        let emitter =
            Emitter::new(sink, self.limits.output, self.guest.clone(), &self.token, broken.clone());
        let emitter = tokio::spawn(emitter.run(receiver));
        let mut feeder = self.start_feeder(stdin);
        let mut closed = false;

        while !self.is_over() && !closed {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = abandoned.cancelled(), if !self.is_stopping_for(Reason::Abandoned) => {
                    emitter.abort();
                    control = None;
                    self.kill(Reason::Abandoned);
                }
                () = closing.cancelled(), if !self.is_stopping() => {
                    // With the sandbox everything in it ends.
                    closed = !self.guest.keep;
                    self.stop(Reason::Cancelled);
                }
                request = next_request(&mut control) => self.react(request),
                () = sleep_until(deadline) => self.on_deadline(),
                () = broken.cancelled(), if !self.is_stopping() => self.stop(Reason::BrokenPipe),
                outcome = &mut feeder.0, if feeder.1 => {
                    feeder.1 = false;
                    self.input_ended(outcome);
                }
                permit = pieces.reserve(), if !self.queue.is_empty() => match permit {
                    Ok(permit) => send(permit, &mut self.queue),
                    Err(_) => self.queue.clear(),
                },
                events = self.process.next(), if self.queue.is_empty() => self.take(events),
            }
        }
        feeder.0.abort();
        let elapsed = self.began.elapsed();
        while let Some((stream, bytes)) = self.queue.pop_front() {
            if pieces.send(Piece { stream, bytes: bytes.freeze() }).await.is_err() {
                break;
            }
        }
        drop(pieces);
        // An emitter that was aborted has nothing to say.
        let output = emitter.await.unwrap_or_default();
        let (ending, stopped_by) = self.ending(closed);
        if self.lost.is_none() && !closed {
            self.process.finish().await;
        }
        CommandExit { ending, output, elapsed, stopped_by, notices: Vec::new() }
    }

    fn start_feeder(&self, stdin: Stdin) -> (JoinHandle<Result<(), RequestError>>, bool) {
        match stdin {
            Stdin::Empty => (tokio::spawn(async { Ok(()) }), false),
            Stdin::Stream(stream) => {
                let input = self.process.stdin();
                (tokio::spawn(feed(stream, input, self.progress.subscribe())), true)
            }
        }
    }

    /// What could not be delivered is missing in the command's input: it would take that for the end.
    fn input_ended(&mut self, outcome: Result<Result<(), RequestError>, tokio::task::JoinError>) {
        if let Ok(Err(error)) = outcome {
            self.kill(Reason::Abandoned);
            self.lost = Some(error);
        }
    }

    fn take(&mut self, events: Result<Vec<ProcessEvent>, Lost>) {
        let events = match events {
            Ok(events) => events,
            Err(Lost { error }) => {
                self.lost = Some(error);
                return;
            }
        };
        for event in events {
            match event {
                ProcessEvent::Line(stream, line) => {
                    if self.hear(stream, &line).is_break() {
                        break;
                    }
                }
                ProcessEvent::Ended(end) => self.end = Some(end),
            }
        }
        let is_cut = self.delivery == Delivery::Exact
            && self.end.is_some()
            && self.refused.is_none()
            && !self.listener.is_complete();
        if is_cut && self.rereads < REREADS && self.process.pid().is_some() && !self.is_stopping() {
            // The last lines may have been dropped on their way; a server keeps them.
            self.rereads += 1;
            if self.process.reread().is_ok() {
                self.end = None;
            }
        }
    }

    /// Breaks off where a part is missing: what comes after it comes again, the end included.
    fn hear(&mut self, stream: OutputStream, line: &str) -> ControlFlow<()> {
        match self.listener.hear(stream, line) {
            None => {}
            Some(Heard::Started { leader }) => {
                self.leader = Some(leader);
                self.began = Instant::now();
                for signal in std::mem::take(&mut self.held_signals) {
                    self.send_signal(signal, Purpose::Pass);
                }
                if let Some(stopping) = self.stopping {
                    self.signal_for(stopping);
                }
            }
            Some(Heard::Refused(refusal)) => self.refused = Some(refusal),
            Some(Heard::Output(stream, bytes)) => self.queue_output(stream, &bytes),
            Some(Heard::Taken(piece)) => {
                self.progress.send_modify(|progress| progress.taken = piece)
            }
            Some(Heard::InputClosed) => {
                self.progress.send_modify(|progress| progress.closed = true)
            }
            Some(Heard::Gap) => {
                if let Err(Lost { error }) = self.process.reread() {
                    self.lost = Some(error);
                }
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn queue_output(&mut self, stream: OutputStream, bytes: &Bytes) {
        for part in bytes.chunks(MAX_PIECE_BYTES) {
            match self.queue.back_mut() {
                Some((last, joined))
                    if *last == stream && joined.len() + part.len() <= MAX_PIECE_BYTES =>
                {
                    joined.extend_from_slice(part);
                }
                _ => self.queue.push_back((stream, BytesMut::from(part))),
            }
        }
    }

    fn is_over(&self) -> bool {
        let complete = self.delivery == Delivery::Exact && self.listener.is_complete();
        self.end.is_some() || self.lost.is_some() || self.refused.is_some() || complete
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn is_stopping_for(&self, reason: Reason) -> bool {
        self.stopping.is_some_and(|stopping| stopping.reason == reason)
    }

    fn deadline(&self) -> Instant {
        match (self.stopping, self.limits.time_limit) {
            (Some(stopping), _) if stopping.killed => stopping.kill_at + END_LIMIT,
            (Some(stopping), _) => stopping.kill_at,
            (None, Some(limit)) => self.began + limit.min(FAR_FUTURE),
            (None, None) => Instant::now() + FAR_FUTURE,
        }
    }

    fn on_deadline(&mut self) {
        match (self.stopping, self.limits.time_limit) {
            (Some(stopping), _) if stopping.killed => {
                self.lost = Some(RequestError::Unreadable(
                    "it was killed, and its end was not told".to_owned(),
                ));
            }
            (Some(stopping), _) => self.kill(stopping.reason),
            (None, Some(limit)) => self.stop(Reason::TimeLimit(limit)),
            (None, None) => {}
        }
    }

    fn react(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Signal(signal) if self.leader.is_none() => {
                self.held_signals.push(signal)
            }
            ControlRequest::Signal(signal) => self.send_signal(signal, Purpose::Pass),
            ControlRequest::Cancel if self.is_stopping() => {}
            ControlRequest::Cancel => self.stop(Reason::Cancelled),
        }
    }

    fn stop(&mut self, reason: Reason) {
        let kill_at = Instant::now() + self.limits.grace;
        let stopping = Stopping { reason, kill_at, killed: false };
        self.stopping = Some(stopping);
        self.signal_for(stopping);
    }

    fn kill(&mut self, reason: Reason) {
        let stopping = Stopping { reason, kill_at: Instant::now(), killed: true };
        self.stopping = Some(stopping);
        self.signal_for(stopping);
    }

    fn signal_for(&self, stopping: Stopping) {
        match stopping.reason {
            _ if stopping.killed => self.send_signal(Signal::KILL, Purpose::Kill),
            Reason::BrokenPipe => self.send_signal(Signal::PIPE, Purpose::Pass),
            Reason::TimeLimit(_) | Reason::Cancelled | Reason::Abandoned => {
                self.send_signal(Signal::TERM, Purpose::Stop);
            }
        }
    }

    /// In a task of its own: the output goes on meanwhile.
    fn send_signal(&self, signal: Signal, purpose: Purpose) {
        let (guest, token, leader) = (self.guest.clone(), self.token.clone(), self.leader);
        tokio::spawn(async move { guest.signal(&token, leader, signal.number(), purpose).await });
    }

    fn ending(&mut self, closed: bool) -> (Ending, Option<StopMethod>) {
        if closed {
            return (Ending::Cancelled, Some(StopMethod::Kill));
        }
        if let Some(error) = self.lost.take() {
            let command = self.process.pid().map(|pid| format!("pid {pid}"));
            return (Ending::ContactLost { command, cause: in_full(&error) }, None);
        }
        if let Some(Stopping { reason, killed, .. }) = self.stopping {
            let by = if killed { StopMethod::Kill } else { StopMethod::Terminate };
            return match reason {
                Reason::TimeLimit(limit) => (Ending::TimedOut { limit }, Some(by)),
                Reason::Cancelled | Reason::Abandoned => (Ending::Cancelled, Some(by)),
                Reason::BrokenPipe => (Ending::Signalled(Signal::PIPE), None),
            };
        }
        let by_limit = |limit| (Ending::TimedOut { limit }, Some(StopMethod::Kill));
        match (self.delivery, self.end, self.listener.status()) {
            (_, Some(ProcessEnd::TimedOut), _) => {
                self.limits.time_limit.map_or((Ending::Unknown, None), by_limit)
            }
            (_, Some(ProcessEnd::OutOfMemory), _) => (Ending::OutOfMemory, None),
            (Delivery::Exact, _, Some(status)) if self.listener.is_complete() => {
                (of_shell(status), None)
            }
            // Its parent in the guest was ended, and with it went what is known of the command.
            (Delivery::Exact, ..) => (Ending::Unknown, None),
            (Delivery::Lines, Some(ProcessEnd::Exited(code)), _) => (Ending::Exited(code), None),
            (Delivery::Lines, Some(ProcessEnd::Signalled(signal)), _) => {
                (Ending::Signalled(signal), None)
            }
            (Delivery::Lines, Some(ProcessEnd::Unknown) | None, _) => (Ending::Unknown, None),
        }
    }
}

/// A shell tells of a signal only by 128 and its number (POSIX, 2.8.2).
pub(crate) fn of_shell(status: u8) -> Ending {
    let signal = status.checked_sub(128).and_then(|number| Signal::from_number(number.into()));
    signal.map_or(Ending::Exited(status), Ending::Signalled)
}

/// An error with everything that led to it.
pub(crate) fn in_full(error: &RequestError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn send(permit: mpsc::Permit<'_, Piece>, queue: &mut VecDeque<(OutputStream, BytesMut)>) {
    if let Some((stream, bytes)) = queue.pop_front() {
        permit.send(Piece { stream, bytes: bytes.freeze() });
    }
}

/// The next request; never, once nobody can ask any more.
pub(crate) async fn next_request(control: &mut Option<ControlRequests>) -> ControlRequest {
    loop {
        let Some(requests) = control else { return std::future::pending().await };
        match poll_fn(|context| Pin::new(&mut *requests).poll_next(context)).await {
            Some(request) => return request,
            None => *control = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_shells_status_is_a_code_or_a_signal() {
        let cases = [
            (0, Ending::Exited(0)),
            (128, Ending::Exited(128)),
            (137, Ending::Signalled(Signal::KILL)),
            (255, Ending::Exited(255)),
        ];
        for (status, expected) in cases {
            assert_eq!(of_shell(status), expected);
        }
    }
}
