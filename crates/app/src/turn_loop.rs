//! The loop of a turn: ask the model, carry out its calls, ask again.

use std::time::Duration;

use forge_domain::{
    ChangesError, Description, EnvironmentError, Message, ModelError, ModelRequest, StopReason,
    TakenIn, ToolCall, ToolSchema, Usage,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::agent::Agent;
use crate::answer::{self, Answer, AnswerEnd, Preparation};
use crate::calls::{CallRunner, CallsEnd, failure, skip_rest};
use crate::repetition::Repetition;
use crate::tools::{self, ToolContext};
use crate::{
    AgentEvent, Conversation, EventSink, TurnError, TurnOutcome, TurnReport, plain, prompt,
};

/// So long the end of a turn that was cancelled waits for what it made to be safe; what is not then is
/// at the next end.
const CANCELLED_CHECKPOINT_LIMIT: Duration = Duration::from_secs(2);

/// So long is waited before a broken-off answer is asked for again; twice as long each time after.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What the model is told after an answer without text and calls. Not kept in the conversation.
const EMPTY_ANSWER: &str = "Your last answer was empty. Go on with the task by calling a tool, or, \
                            if you are done, say in a sentence what you did.";

/// What the model is told of calls in an answer that reached the limit of its length.
const CUT_CALL: &str = "This call was not carried out: your answer reached the limit of its length, \
                        so the call may be incomplete. Make smaller calls: write a long file in \
                        parts, with `write` for the first and `edit` for the others.";

/// So many files that both sides changed are named before the rest is counted.
const MAX_NAMED_CONFLICTS: usize = 10;

/// After so many answers in a row that were too long the turn ends.
const MAX_LONG_ANSWERS: u32 = 3;

/// A turn under way.
pub(crate) struct TurnLoop<'a> {
    agent: &'a Agent,
    conversation: &'a mut Conversation,
    events: &'a mut dyn EventSink,
    cancel: &'a CancellationToken,
    preparation: Preparation<'a>,
    repetition: Repetition,
    /// What was spent so far.
    text: String,
    model_calls: u32,
    tool_calls: u32,
    usage: Usage,
    /// Whether the conversation holds something that the model said in this turn.
    answered: bool,
    /// In a row.
    broken_off: u32,
    empty: u32,
    too_long: u32,
}

/// What comes after a step.
enum Step {
    Next,
    End(TurnOutcome),
}

/// Brings to safety what the turn has made; whoever cancels the turn waits a moment for it, no longer.
async fn checkpoint(
    environment: &dyn forge_domain::ExecutionEnvironment,
    cancel: &CancellationToken,
) -> Result<(), EnvironmentError> {
    let given_up = async {
        cancel.cancelled().await;
        tokio::time::sleep(CANCELLED_CHECKPOINT_LIMIT).await;
    };
    tokio::select! {
        safe = environment.checkpoint() => match safe {
            // Closing has brought everything to safety.
            Err(EnvironmentError::Closed { .. }) => Ok(()),
            other => other,
        },
        () = given_up => Ok(()),
    }
}

impl<'a> TurnLoop<'a> {
    pub(crate) fn new(
        agent: &'a Agent,
        conversation: &'a mut Conversation,
        events: &'a mut dyn EventSink,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            agent,
            conversation,
            events,
            cancel,
            preparation: Preparation::new(&*agent.environment),
            repetition: Repetition::default(),
            text: String::new(),
            model_calls: 0,
            tool_calls: 0,
            usage: Usage::default(),
            answered: false,
            broken_off: 0,
            empty: 0,
            too_long: 0,
        }
    }

    /// Works until the turn ends.
    pub(crate) async fn run(mut self, prompt: String) -> Result<TurnReport, TurnError> {
        let before = self.conversation.mark();
        self.conversation.push_user(prompt);
        let ended = self.steps().await;
        // A start that nobody goes on with could hold what the checkpoint needs.
        self.preparation.give_up();
        let safe = checkpoint(&*self.agent.environment, self.cancel).await;
        match ended.and_then(|outcome| safe.map(|()| outcome).map_err(TurnError::from)) {
            Ok(outcome) => Ok(TurnReport {
                outcome,
                text: self.text,
                model_calls: self.model_calls,
                tool_calls: self.tool_calls,
                usage: self.usage,
            }),
            Err(error) => {
                // A prompt that the model could not take would spoil every turn to come.
                if !self.answered {
                    self.conversation.restore(before);
                }
                Err(error)
            }
        }
    }

    async fn steps(&mut self) -> Result<TurnOutcome, TurnError> {
        let description = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(TurnOutcome::Cancelled),
            description = self.agent.environment.describe() => description?,
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(TurnOutcome::Cancelled),
            taken_in = self.agent.environment.take_in() => self.say_taken_in(taken_in).await?,
        }
        let system = prompt::system(
            &description,
            &self.agent.instructions,
            self.agent.config.command_time_limit,
        );
        let tools = tools::schemas();
        let limit = self.agent.config.max_model_calls;
        while self.model_calls < limit {
            let request = self.request(&system, &tools);
            match self.step(request, &description).await? {
                Step::Next => {}
                Step::End(outcome) => return Ok(outcome),
            }
        }
        Ok(TurnOutcome::TurnLimit { limit })
    }

    /// Says what became of what the user has changed since the last turn, where that is not what one would expect.
    async fn say_taken_in(
        &mut self,
        taken_in: Result<TakenIn, ChangesError>,
    ) -> Result<(), TurnError> {
        let taken_in = match taken_in {
            Ok(taken_in) => taken_in,
            // What is changed is seen at once.
            Err(ChangesError::NotTracked { .. }) => return Ok(()),
            Err(ChangesError::Environment(error)) => return Err(error.into()),
        };
        let shown = taken_in.conflicts.iter().take(MAX_NAMED_CONFLICTS);
        for path in shown {
            let path = plain::one_line(&path.to_string_lossy());
            let text = format!(
                "{path} was changed by you and in the session, which goes on with its own version: \
                 forge apply merges them, or leaves yours"
            );
            self.events.event(AgentEvent::Notice(text)).await;
        }
        if let Some(more) = taken_in.conflicts.len().checked_sub(MAX_NAMED_CONFLICTS)
            && more > 0
        {
            let text = format!("and {more} more were changed on both sides");
            self.events.event(AgentEvent::Notice(text)).await;
        }
        if taken_in.is_partial && taken_in.updated_paths > 0 {
            let text =
                "background commands run: what they have open is as it was before your changes";
            self.events.event(AgentEvent::Notice(text.to_owned())).await;
        }
        Ok(())
    }

    fn request(&self, system: &str, tools: &[ToolSchema]) -> ModelRequest {
        let mut messages = self.conversation.messages().to_vec();
        if self.empty > 0 {
            match messages.last_mut() {
                Some(Message::User(text)) => {
                    text.push_str("\n\n");
                    text.push_str(EMPTY_ANSWER);
                }
                _ => messages.push(Message::User(EMPTY_ANSWER.to_owned())),
            }
        }
        ModelRequest { system: system.to_owned(), messages, tools: tools.to_vec() }
    }

    /// Asks once and carries out what the answer asks for.
    async fn step(
        &mut self,
        request: ModelRequest,
        description: &Description,
    ) -> Result<Step, TurnError> {
        self.model_calls += 1;
        let model = &*self.agent.model;
        let preparation = &mut self.preparation;
        let (answer, end) =
            answer::read(model, request, preparation, self.events, self.cancel).await;
        debug!(
            model = %model.id(),
            model_call = self.model_calls,
            tool_calls = answer.calls.len(),
            bytes = answer.text.len(),
            "An answer of the model has ended."
        );
        if let Some(usage) = answer.usage {
            self.usage = sum(self.usage, usage);
            self.events.event(AgentEvent::Usage(usage)).await;
        }
        match end {
            AnswerEnd::Refused(error) => Err(error.into()),
            AnswerEnd::BrokenOff(error) => self.ask_again(error).await,
            AnswerEnd::Cancelled => {
                // What the user has read stays; calls were not carried out and do not.
                self.say(answer.text, Vec::new());
                Ok(Step::End(TurnOutcome::Cancelled))
            }
            AnswerEnd::Finished(reason) => {
                self.broken_off = 0;
                self.finished(answer, reason, description).await
            }
        }
    }

    /// Adds an answer to the conversation.
    fn say(&mut self, text: String, calls: Vec<ToolCall>) {
        let text = if text.trim().is_empty() { String::new() } else { text };
        if text.is_empty() && calls.is_empty() {
            return;
        }
        self.answered = true;
        if !text.is_empty() {
            self.text.clone_from(&text);
        }
        self.conversation.push_assistant(text, calls);
    }

    /// Decides on an answer that broke off. Nothing of it was carried out or is kept, so the same
    /// request can be made again.
    async fn ask_again(&mut self, error: ModelError) -> Result<Step, TurnError> {
        let most = self.agent.config.max_answer_retries;
        if self.broken_off >= most || !error.is_retryable() {
            return Err(error.into());
        }
        self.broken_off += 1;
        let notice = format!("{error}; asking again ({} of {most})", self.broken_off);
        self.events.event(AgentEvent::Notice(plain::one_line(&notice))).await;
        let pause = FIRST_RETRY_PAUSE * 2u32.saturating_pow(self.broken_off - 1);
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Ok(Step::End(TurnOutcome::Cancelled)),
            () = tokio::time::sleep(pause) => Ok(Step::Next),
        }
    }

    async fn finished(
        &mut self,
        answer: Answer,
        reason: StopReason,
        description: &Description,
    ) -> Result<Step, TurnError> {
        let Answer { text, calls, .. } = answer;
        match reason {
            StopReason::Filtered => {
                self.say(text, Vec::new());
                return Ok(Step::End(TurnOutcome::Filtered));
            }
            StopReason::Length if calls.is_empty() => {
                self.say(text, Vec::new());
                return Ok(Step::End(TurnOutcome::LengthLimit));
            }
            StopReason::Length => return Ok(self.too_long(text, calls)),
            // What a server calls it is less reliable than whether there are calls.
            StopReason::Done | StopReason::ToolCalls | StopReason::Other(_) => self.too_long = 0,
        }
        if !calls.is_empty() {
            self.empty = 0;
            return self.carry_out(text, calls, description).await;
        }
        if text.trim().is_empty() {
            return Ok(self.empty_answer());
        }
        self.say(text, Vec::new());
        Ok(Step::End(TurnOutcome::Done))
    }

    fn empty_answer(&mut self) -> Step {
        self.empty += 1;
        if self.empty >= self.agent.config.max_empty_answers {
            Step::End(TurnOutcome::EmptyAnswers { count: self.empty })
        } else {
            Step::Next
        }
    }

    fn too_long(&mut self, text: String, calls: Vec<ToolCall>) -> Step {
        self.tool_calls += u32::try_from(calls.len()).unwrap_or(u32::MAX);
        let results = calls.iter().map(|call| failure(call, CUT_CALL.to_owned())).collect();
        self.say(text, calls);
        self.conversation.push_results(results);
        self.too_long += 1;
        if self.too_long >= MAX_LONG_ANSWERS {
            Step::End(TurnOutcome::LengthLimit)
        } else {
            Step::Next
        }
    }

    async fn carry_out(
        &mut self,
        text: String,
        calls: Vec<ToolCall>,
        description: &Description,
    ) -> Result<Step, TurnError> {
        self.tool_calls =
            self.tool_calls.saturating_add(u32::try_from(calls.len()).unwrap_or(u32::MAX));
        self.say(text, calls.clone());
        let cancel = self.cancel;
        let prepared = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            ready = self.ready() => Some(ready),
        };
        let prepared = prepared.unwrap_or_else(|| {
            self.preparation.give_up();
            Ok(())
        });
        let agent = self.agent;
        let context = ToolContext {
            environment: &*agent.environment,
            description,
            config: &agent.config,
            cursors: &agent.cursors,
        };
        let mut runner = CallRunner {
            context,
            approver: &*agent.approver,
            approved: &agent.approved,
            repetition: &mut self.repetition,
            events: self.events,
            cancel: self.cancel,
        };
        let (results, end) = match prepared {
            Ok(()) => runner.run(&calls).await,
            Err(error) => skip_rest(Vec::new(), &calls, CallsEnd::NotReady(error)),
        };
        self.conversation.push_results(results);
        match end {
            CallsEnd::AllDone => Ok(Step::Next),
            CallsEnd::Cancelled => Ok(Step::End(TurnOutcome::Cancelled)),
            CallsEnd::RepeatedFailures { tool, count } => {
                Ok(Step::End(TurnOutcome::RepeatedFailures { tool, count }))
            }
            CallsEnd::Environment(error) => Err(error.into()),
            CallsEnd::NotReady(error) => Err(error),
        }
    }

    /// Waits until tools can act in the environment.
    async fn ready(&mut self) -> Result<(), TurnError> {
        self.preparation.ready().await?;
        match self.agent.setup.get() {
            Some(setup) => setup.set_up(self.events).await,
            None => Ok(()),
        }
    }
}

fn sum(one: Usage, other: Usage) -> Usage {
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
    };
    Usage {
        input_tokens: add(one.input_tokens, other.input_tokens),
        cached_input_tokens: add(one.cached_input_tokens, other.cached_input_tokens),
        output_tokens: add(one.output_tokens, other.output_tokens),
    }
}
