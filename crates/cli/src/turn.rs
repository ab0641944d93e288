//! Driving a turn: events to whoever shows them, questions to the terminal, signals to the turn.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use forge_api::{AgentEvent, Approval, Signal, Turn};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use crate::questions::{Question, Questions, Terminal};
use crate::rendering::{JsonReport, Transcript};
use crate::signals::{Arrival, Signals};
use crate::writer::WriteError;

/// How long a turn may take to end after it was asked to. A command gets two seconds of it.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Who is told what happens.
#[derive(Debug)]
pub(crate) enum View {
    /// A person.
    Transcript(Transcript),
    /// A program.
    Json(JsonReport),
}

impl View {
    /// Tells an event.
    pub(crate) async fn event(&mut self, event: &AgentEvent) -> Result<(), WriteError> {
        match self {
            Self::Transcript(transcript) => transcript.event(event).await,
            Self::Json(report) => report.event(event).await,
        }
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        match self {
            Self::Transcript(transcript) => transcript.flush().await,
            // Nobody is asked beside JSON that is not there yet.
            Self::Json(_) => Ok(()),
        }
    }
}

/// Why the driving of a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driven {
    /// The turn has told everything, and was asked to end by this signal, if by any.
    ToItsEnd(Option<Signal>),
    /// The turn did not end soon enough, or a second signal came: drop it.
    DropNow(Signal),
}

/// What is needed to drive turns.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Signals to forge.
    pub(crate) signals: Signals,
    /// Questions of the agent.
    pub(crate) questions: Questions,
    /// Where they are asked.
    pub(crate) terminal: Option<Terminal>,
}

/// How a turn was asked to end.
#[derive(Debug, Clone, Copy)]
struct Ending {
    signal: Signal,
    until: Instant,
}

impl Driver {
    /// Drives a turn until it has told everything.
    ///
    /// # Errors
    /// The view could not write. The turn still runs then; dropping it ends it.
    pub(crate) async fn drive(
        &mut self,
        turn: &mut Turn,
        view: &mut View,
    ) -> Result<Driven, WriteError> {
        enum Step {
            Event(Option<AgentEvent>),
            Question(Question),
            Arrival(Arrival),
            Overdue,
        }
        let mut ending = None;
        loop {
            // What the agent told before it asked is shown before the question: hence the order.
            let step = tokio::select! {
                biased;
                arrival = self.signals.next() => Step::Arrival(arrival),
                event = turn.next() => Step::Event(event),
                Some(question) = self.questions.recv() => Step::Question(question),
                () = overdue(ending) => Step::Overdue,
            };
            let flow = match step {
                Step::Event(None) => {
                    return Ok(Driven::ToItsEnd(ending.map(|ending| ending.signal)));
                }
                Step::Event(Some(event)) => {
                    match self.watch(view.event(&event), turn, &mut ending).await {
                        ControlFlow::Continue(written) => written.map(ControlFlow::Continue)?,
                        ControlFlow::Break(signal) => ControlFlow::Break(signal),
                    }
                }
                Step::Question(question) => self.ask(question, turn, view, &mut ending).await?,
                Step::Arrival(arrival) => react(arrival, turn, &mut ending),
                Step::Overdue => ControlFlow::Break(Signal::INT),
            };
            if let ControlFlow::Break(signal) = flow {
                return Ok(Driven::DropNow(signal));
            }
        }
    }

    /// Puts a question to the user. A signal meanwhile withdraws it and ends the turn.
    async fn ask(
        &mut self,
        question: Question,
        turn: &mut Turn,
        view: &mut View,
        ending: &mut Option<Ending>,
    ) -> Result<ControlFlow<Signal>, WriteError> {
        view.flush().await?;
        let Question { request, answer } = question;
        let approval = match (&self.terminal, &ending) {
            (Some(terminal), None) => tokio::select! {
                approval = terminal.ask(&request) => approval,
                arrival = self.signals.next() => {
                    let flow = react(arrival, turn, ending);
                    drop(answer.send(Approval::Abort));
                    return Ok(flow);
                }
            },
            _ => Approval::Abort,
        };
        // The turn may have ended meanwhile; then nobody waits for the answer.
        drop(answer.send(approval));
        Ok(ControlFlow::Continue(()))
    }

    /// Waits for something that a slow reader may hold up, and goes on listening to signals.
    async fn watch<T>(
        &mut self,
        work: impl Future<Output = T>,
        turn: &Turn,
        ending: &mut Option<Ending>,
    ) -> ControlFlow<Signal, T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return ControlFlow::Continue(result),
                arrival = self.signals.next() => react(arrival, turn, ending)?,
                () = overdue(*ending) => return ControlFlow::Break(Signal::INT),
            }
        }
    }
}

/// The first signal asks the turn to end; the second has no more patience.
fn react(arrival: Arrival, turn: &Turn, ending: &mut Option<Ending>) -> ControlFlow<Signal> {
    let signal = match arrival {
        Arrival::Interrupt => Signal::INT,
        Arrival::Terminate(signal) => signal,
    };
    if let Some(ending) = ending {
        return ControlFlow::Break(ending.signal);
    }
    turn.cancel();
    *ending = Some(Ending { signal, until: Instant::now() + END_LIMIT });
    ControlFlow::Continue(())
}

async fn overdue(ending: Option<Ending>) {
    match ending {
        Some(ending) => sleep_until(ending.until).await,
        None => std::future::pending().await,
    }
}
