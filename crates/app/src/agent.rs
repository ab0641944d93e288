//! The agent, and a turn under its limits.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forge_domain::{Approver, ExecutionEnvironment, Instructions, LanguageModel};
use tokio_util::sync::CancellationToken;

use crate::tools::OutputCursors;
use crate::turn_loop::TurnLoop;
use crate::{AgentConfig, Conversation, EventSink, Setup, TurnError, TurnOutcome, TurnReport};

/// A language model that works in an environment. One agent is one session: it remembers that the
/// user wants to be asked no more, and up to where the model has seen the output of background
/// commands. Turns of different conversations may run at the same time.
#[derive(Debug)]
pub struct Agent {
    pub(crate) environment: Arc<dyn ExecutionEnvironment>,
    pub(crate) model: Arc<dyn LanguageModel>,
    pub(crate) approver: Arc<dyn Approver>,
    pub(crate) instructions: Vec<Instructions>,
    pub(crate) config: AgentConfig,
    /// The user has said that they want to be asked no more.
    pub(crate) approved: AtomicBool,
    pub(crate) setup: OnceLock<Arc<dyn Setup>>,
    pub(crate) cursors: OutputCursors,
}

impl Agent {
    /// Joins what an agent needs. The instructions are those of the project, outermost first.
    #[must_use]
    pub fn new(
        environment: Arc<dyn ExecutionEnvironment>,
        model: Arc<dyn LanguageModel>,
        approver: Arc<dyn Approver>,
        instructions: Vec<Instructions>,
        config: AgentConfig,
    ) -> Self {
        Self {
            environment,
            model,
            approver,
            instructions,
            config,
            approved: AtomicBool::new(false),
            setup: OnceLock::new(),
            cursors: OutputCursors::default(),
        }
    }

    /// Has the environment set up by this before tools act there, from the next turn on. The first one holds.
    pub fn set_up_by(&self, setup: Arc<dyn Setup>) {
        let _first_holds = self.setup.set(setup);
    }

    /// How this agent works.
    #[must_use]
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// Lets the model work on a prompt until it is done or a limit is reached.
    ///
    /// Guarantees:
    /// * The calls of an answer are carried out in its order; neighbouring ones that only read run
    ///   together. Results reach the model in the order of the calls.
    /// * Nothing of an answer that broke off is carried out.
    /// * Whatever the ending, the conversation is in a shape that servers accept, and what was done
    ///   stands in it.
    /// * On `cancel`, the model's answer is dropped, a running command is ended and what it printed
    ///   is kept, and the outcome is [`TurnOutcome::Cancelled`].
    ///
    /// Bounded by the configuration's number of model calls and its limits of time, where they are
    /// set, and by the sink.
    ///
    /// # Errors
    /// The model or the environment failed; see [`TurnError`] for what becomes of the conversation.
    ///
    /// # Cancel safety
    /// Dropping the future ends the running command with SIGKILL. The conversation then holds the
    /// finished steps; calls that were under way are marked as interrupted by the next turn.
    pub async fn run_turn(
        &self,
        conversation: &mut Conversation,
        prompt: String,
        events: &mut dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<TurnReport, TurnError> {
        if prompt.trim().is_empty() {
            return Err(TurnError::EmptyPrompt);
        }
        let Some(limit) = self.config.task_time_limit else {
            return TurnLoop::new(self, conversation, events, cancel).run(prompt).await;
        };
        let stop = cancel.child_token();
        let turn = TurnLoop::new(self, conversation, events, &stop).run(prompt);
        run_for(limit, turn, &stop).await
    }
}

/// Runs a turn, and cancels it when its time is up.
async fn run_for(
    limit: Duration,
    turn: impl Future<Output = Result<TurnReport, TurnError>>,
    stop: &CancellationToken,
) -> Result<TurnReport, TurnError> {
    let mut turn = std::pin::pin!(turn);
    tokio::select! {
        biased;
        ended = &mut turn => return ended,
        () = tokio::time::sleep(limit) => stop.cancel(),
    }
    let mut report = turn.await?;
    if report.outcome == TurnOutcome::Cancelled {
        report.outcome = TurnOutcome::TimedOut { limit };
    }
    Ok(report)
}
