//! What a caller may ask of a command while it runs.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::mpsc;
use futures_core::Stream;

use crate::Signal;

/// A request to a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRequest {
    /// Send this signal to the command and to all processes of its group, and go on waiting.
    Signal(Signal),
    /// End the command: SIGTERM to its group, the grace period, SIGKILL. Its ending is
    /// [`Ending::Cancelled`](crate::Ending::Cancelled), with the output so far.
    Cancel,
}

/// The caller's end: asks things of a running command. Clones speak to the same command.
///
/// Dropping it asks nothing. A request to a command that has ended goes nowhere, silently, since the
/// caller cannot know better: the command may end at any moment.
#[derive(Debug, Clone)]
pub struct CommandController {
    requests: mpsc::UnboundedSender<ControlRequest>,
}

impl CommandController {
    /// Makes a controller and the stream that goes into the command's
    /// [`CommandIo`](crate::CommandIo).
    #[must_use]
    pub fn new() -> (Self, ControlRequests) {
        let (sender, receiver) = mpsc::unbounded();
        (Self { requests: sender }, ControlRequests { receiver: Some(receiver) })
    }

    /// Sends a signal to the command and its group.
    pub fn signal(&self, signal: Signal) {
        self.send(ControlRequest::Signal(signal));
    }

    /// Ends the command; see [`ControlRequest::Cancel`].
    pub fn cancel(&self) {
        self.send(ControlRequest::Cancel);
    }

    fn send(&self, request: ControlRequest) {
        // A closed channel means that the command has ended: there is nobody left to ask.
        drop(self.requests.unbounded_send(request));
    }
}

/// The command's end: a stream of requests. It ends when every controller is gone, which asks nothing.
#[derive(Debug)]
pub struct ControlRequests {
    receiver: Option<mpsc::UnboundedReceiver<ControlRequest>>,
}

impl ControlRequests {
    /// A stream on which nobody ever asks anything; it is over at once.
    #[must_use]
    pub fn none() -> Self {
        Self { receiver: None }
    }
}

impl Stream for ControlRequests {
    type Item = ControlRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.receiver {
            Some(receiver) => Pin::new(receiver).poll_next(context),
            None => Poll::Ready(None),
        }
    }
}
