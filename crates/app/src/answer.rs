//! One answer of the model, read to its end.

use std::future::Future;
use std::pin::Pin;

use forge_domain::{
    EnvironmentError, ExecutionEnvironment, LanguageModel, ModelError, ModelEvent, ModelRequest,
    StopReason, ToolCall, Usage,
};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::{AgentEvent, EventSink};

/// What the model said, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) usage: Option<Usage>,
}

/// How an answer ended.
#[derive(Debug)]
pub(crate) enum AnswerEnd {
    /// The model finished it.
    Finished(StopReason),
    /// It stopped after it had begun. None of its calls may be carried out: the last one may be the
    /// half of another.
    BrokenOff(ModelError),
    /// It never began.
    Refused(ModelError),
    /// The turn was cancelled.
    Cancelled,
}

/// Reads one answer, passing on text as it comes.
pub(crate) async fn read(
    model: &dyn LanguageModel,
    request: ModelRequest,
    preparation: &mut Preparation<'_>,
    events: &mut dyn EventSink,
    cancel: &CancellationToken,
) -> (Answer, AnswerEnd) {
    let mut answer = Answer::default();
    let begun = tokio::select! {
        biased;
        () = cancel.cancelled() => return (answer, AnswerEnd::Cancelled),
        begun = model.answer(request) => begun,
    };
    let mut stream = match begun {
        Ok(stream) => stream,
        Err(error) => return (answer, AnswerEnd::Refused(error)),
    };
    loop {
        let next = tokio::select! {
            biased;
            () = cancel.cancelled() => return (answer, AnswerEnd::Cancelled),
            next = stream.next() => next,
            () = preparation.advance() => continue,
        };
        match next {
            Some(Ok(ModelEvent::Text(text))) => {
                answer.text.push_str(&text);
                events.event(AgentEvent::Text(text)).await;
            }
            Some(Ok(ModelEvent::Reasoning(text))) => {
                events.event(AgentEvent::Reasoning(text)).await;
            }
            // Every tool acts in the environment.
            Some(Ok(ModelEvent::ToolCallStarted { .. })) => preparation.begin(),
            Some(Ok(ModelEvent::ToolCall(call))) => {
                preparation.begin();
                answer.calls.push(call);
            }
            Some(Ok(ModelEvent::Usage(usage))) => {
                answer.usage = Some(newer(answer.usage.unwrap_or_default(), usage));
            }
            Some(Ok(ModelEvent::Finished(reason))) => return (answer, AnswerEnd::Finished(reason)),
            Some(Err(error)) => return (answer, AnswerEnd::BrokenOff(error)),
            None => {
                let error = ModelError::BrokenOff {
                    model: model.id().clone(),
                    reason: "the stream ended before the answer did".to_owned(),
                };
                return (answer, AnswerEnd::BrokenOff(error));
            }
        }
    }
}

/// A later statement of the cost of the same answer replaces what it repeats.
fn newer(before: Usage, after: Usage) -> Usage {
    Usage {
        input_tokens: after.input_tokens.or(before.input_tokens),
        cached_input_tokens: after.cached_input_tokens.or(before.cached_input_tokens),
        output_tokens: after.output_tokens.or(before.output_tokens),
    }
}

type Preparing<'a> = Pin<Box<dyn Future<Output = Result<(), EnvironmentError>> + Send + 'a>>;

/// The start of the environment, which overlaps with the answer that needs it.
pub(crate) struct Preparation<'a> {
    environment: &'a dyn ExecutionEnvironment,
    state: PreparationState<'a>,
}

enum PreparationState<'a> {
    NotBegun,
    Running(Preparing<'a>),
    Over(Result<(), EnvironmentError>),
}

impl<'a> Preparation<'a> {
    pub(crate) fn new(environment: &'a dyn ExecutionEnvironment) -> Self {
        Self { environment, state: PreparationState::NotBegun }
    }

    /// Begins once; afterwards [`Preparation::advance`] or [`Preparation::ready`] has to be awaited.
    pub(crate) fn begin(&mut self) {
        if let PreparationState::NotBegun = self.state {
            self.state = PreparationState::Running(self.environment.prepare());
        }
    }

    /// Goes on with the start until it is over; never returns while there is nothing to do.
    ///
    /// # Cancel safety
    /// The start goes on with the next call.
    async fn advance(&mut self) {
        match &mut self.state {
            PreparationState::Running(preparing) => {
                let result = preparing.await;
                self.state = PreparationState::Over(result);
            }
            PreparationState::NotBegun | PreparationState::Over(_) => std::future::pending().await,
        }
    }

    /// Gives a start up that is not over.
    pub(crate) fn give_up(&mut self) {
        self.state = PreparationState::NotBegun;
    }

    /// Waits for a start that has begun. Afterwards it is as if none had.
    ///
    /// # Errors
    /// The environment could not be made.
    pub(crate) async fn ready(&mut self) -> Result<(), EnvironmentError> {
        if let PreparationState::Running(_) = self.state {
            self.advance().await;
        }
        match std::mem::replace(&mut self.state, PreparationState::NotBegun) {
            PreparationState::Over(result) => result,
            PreparationState::NotBegun | PreparationState::Running(_) => Ok(()),
        }
    }
}
