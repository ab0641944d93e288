//! A turn as a stream of events.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use forge_app::{AgentEvent, Conversation, EventSink, TurnError, TurnReport};
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a turn leaves: the conversation, and how it ended.
type Ended = (Conversation, Result<TurnReport, TurnError>);

enum State {
    Running(Pin<Box<dyn Future<Output = Ended> + Send>>),
    Ended(Box<Ended>),
}

/// A turn under way: a stream of its events, which ends with the turn.
///
/// The turn goes on only while it is polled, and waits where nobody takes its events; nothing piles
/// up. [`Turn::finish`] gives the conversation back, together with how the turn ended.
///
/// **Dropping** it cancels it: the model's answer is dropped, a running command is killed with its
/// group, and the conversation is gone with it. To end a turn and keep the conversation, call
/// [`Turn::cancel`] and then [`Turn::finish`].
pub struct Turn {
    state: State,
    events: mpsc::Receiver<AgentEvent>,
    cancel: CancellationToken,
    /// Whoever holds a clone of the token learns of the drop.
    _cancel_on_drop: DropGuard,
}

impl Turn {
    /// Begins with the work of a turn, which tells its events to the sink it is given.
    pub(crate) fn new<W>(work: impl FnOnce(ChannelSink, CancellationToken) -> W) -> Self
    where
        W: Future<Output = Ended> + Send + 'static,
    {
        // The work and the stream are polled by the same task, so one event under way is enough.
        let (sender, events) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let work = work(ChannelSink { sender }, cancel.clone());
        Self {
            state: State::Running(Box::pin(work)),
            events,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// A turn that has ended before it began.
    pub(crate) fn failed(conversation: Conversation, error: TurnError) -> Self {
        let (_, events) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        Self {
            state: State::Ended(Box::new((conversation, Err(error)))),
            events,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// Asks the turn to end: a running command is ended and what it printed is kept. The stream
    /// goes on until that is done, and the outcome is
    /// [`TurnOutcome::Cancelled`](crate::TurnOutcome::Cancelled). Asking twice, or after the end, does
    /// nothing.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A handle that cancels this turn from elsewhere, as from a handler of Ctrl-C.
    #[must_use]
    pub fn canceller(&self) -> TurnCanceller {
        TurnCanceller { cancel: self.cancel.clone() }
    }

    /// Waits for the end, drops the events that nobody took, and gives the conversation back.
    ///
    /// Bounded as the turn is; see [`AgentConfig`](crate::AgentConfig).
    ///
    /// # Errors
    /// The second half: the turn failed. The conversation can go on all the same.
    ///
    /// # Cancel safety
    /// Dropping the future drops the turn, conversation included.
    pub async fn finish(mut self) -> (Conversation, Result<TurnReport, TurnError>) {
        while self.next().await.is_some() {}
        match self.state {
            State::Ended(ended) => *ended,
            State::Running(work) => work.await,
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Running(_) => "running",
            State::Ended(_) => "ended",
        };
        f.debug_struct("Turn").field("state", &state).finish_non_exhaustive()
    }
}

impl Stream for Turn {
    type Item = AgentEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<AgentEvent>> {
        loop {
            if let Poll::Ready(Some(event)) = self.events.poll_recv(context) {
                return Poll::Ready(Some(event));
            }
            let State::Running(work) = &mut self.state else { return Poll::Ready(None) };
            match work.as_mut().poll(context) {
                Poll::Ready(ended) => self.state = State::Ended(Box::new(ended)),
                // It may have told an event before it had to wait.
                Poll::Pending => match self.events.poll_recv(context) {
                    Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

/// Cancels a turn from elsewhere; see [`Turn::cancel`].
#[derive(Debug, Clone)]
pub struct TurnCanceller {
    cancel: CancellationToken,
}

impl TurnCanceller {
    /// Asks the turn to end.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// Passes events on to the stream.
#[derive(Debug)]
pub(crate) struct ChannelSink {
    sender: mpsc::Sender<AgentEvent>,
}

#[async_trait]
impl EventSink for ChannelSink {
    async fn event(&mut self, event: AgentEvent) {
        // The stream owns the work that tells the events, so it cannot be gone before it.
        drop(self.sender.send(event).await);
    }
}
