//! The calls of one answer, carried out in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forge_domain::{Approval, Approver, EnvironmentError, ToolCall, ToolResult};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::repetition::{Repetition, warning};
use crate::tools::{self, Action, Change, Read, Report, ToolContext, ToolFailure};
use crate::{AgentEvent, EventSink, ToolOutcome, TurnError, approval, plain};

/// So many calls that only read run at the same time.
const MAX_PARALLEL: usize = 8;

/// No result is longer, whatever tool it comes from. The tools keep their results well below.
const MAX_RESULT_BYTES: usize = 256 * 1024;

/// Why no more calls are carried out.
#[derive(Debug)]
pub(crate) enum CallsEnd {
    /// All of them were.
    AllDone,
    /// The turn was cancelled, or the user ended it when asked.
    Cancelled,
    /// The same call failed too often.
    RepeatedFailures { tool: String, count: u32 },
    /// The environment failed.
    Environment(EnvironmentError),
    /// It was not made, or not set up.
    NotReady(TurnError),
}

/// Carries out the calls of one answer.
pub(crate) struct CallRunner<'a> {
    pub(crate) context: ToolContext<'a>,
    pub(crate) approver: &'a dyn Approver,
    pub(crate) approved: &'a AtomicBool,
    pub(crate) repetition: &'a mut Repetition,
    pub(crate) events: &'a mut dyn EventSink,
    pub(crate) cancel: &'a CancellationToken,
}

/// How one call went: what the tool said, or what ends them all.
type Outcome = Result<Report, EnvironmentError>;

impl CallRunner<'_> {
    /// Carries out all calls, or as many as go. There is a result for each, in their order.
    pub(crate) async fn run(&mut self, calls: &[ToolCall]) -> (Vec<ToolResult>, CallsEnd) {
        let actions: Vec<Result<Action, String>> = calls.iter().map(Action::of).collect();
        let mut results = Vec::with_capacity(calls.len());
        while results.len() < calls.len() {
            let at = results.len();
            if self.cancel.is_cancelled() {
                return skip_rest(results, calls, CallsEnd::Cancelled);
            }
            let outcomes = match &actions[at] {
                Err(refusal) => vec![self.refuse(&calls[at], refusal).await],
                Ok(Action::Read(_)) => {
                    let reads: Vec<&Read> = actions[at..].iter().map_while(reading).collect();
                    self.read_together(&calls[at..at + reads.len()], &reads).await
                }
                Ok(Action::Change(change)) => match self.change(&calls[at], change).await {
                    Some(outcome) => vec![outcome],
                    None => return skip_rest(results, calls, CallsEnd::Cancelled),
                },
            };
            for (index, outcome) in (at..).zip(outcomes) {
                let (result, end) = self.note(&calls[index], &actions[index], outcome);
                results.push(result);
                if let Some(end) = end {
                    return skip_rest(results, calls, end);
                }
            }
        }
        let cancelled = self.cancel.is_cancelled();
        (results, if cancelled { CallsEnd::Cancelled } else { CallsEnd::AllDone })
    }

    /// Makes the result of a call, and says whether the others are still carried out.
    fn note(
        &mut self,
        call: &ToolCall,
        action: &Result<Action, String>,
        outcome: Outcome,
    ) -> (ToolResult, Option<CallsEnd>) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                let content = format!("The environment failed during this call: {error}.");
                return (failure(call, content), Some(CallsEnd::Environment(error)));
            }
        };
        if let (Ok(Action::Change(_)), ToolOutcome::Succeeded) = (action, report.outcome) {
            self.repetition.changed();
        }
        let count = self.repetition.note(call, report.outcome);
        let config = self.context.config;
        let mut content = plain::cut_middle(report.content, MAX_RESULT_BYTES);
        if count >= config.repeated_failures_told.max(1) {
            content.push_str(&warning(count, config.repeated_failures_limit));
        }
        let is_error = report.outcome != ToolOutcome::Succeeded;
        let result = ToolResult { is_error, ..failure(call, content) };
        let end = (count >= config.repeated_failures_limit.max(1))
            .then(|| CallsEnd::RepeatedFailures { tool: plain::one_line(&call.name), count });
        (result, end)
    }

    /// Answers a call that cannot be carried out as it is.
    async fn refuse(&mut self, call: &ToolCall, refusal: &str) -> Outcome {
        self.events.event(started(call, &call.arguments, None)).await;
        let report = Report::failed(refusal, refusal.lines().next().unwrap_or_default());
        self.finish(call, &report, Duration::ZERO).await;
        Ok(report)
    }

    /// Carries out neighbouring calls that only read, several at a time. One outcome for each.
    async fn read_together(&mut self, calls: &[ToolCall], reads: &[&Read]) -> Vec<Outcome> {
        let began = Instant::now();
        for (call, read) in calls.iter().zip(reads) {
            self.events.event(started(call, &read.summary(), None)).await;
        }
        let context = self.context;
        let mut outcomes: Vec<Option<Outcome>> = reads.iter().map(|_| None).collect();
        // A loop and no closure: the compiler cannot see that a stream of closures' futures is `Send`.
        let mut pending = Vec::with_capacity(reads.len());
        for (index, read) in reads.iter().enumerate() {
            pending.push(timed_read(context, index, read));
        }
        let mut reading = stream::iter(pending).buffer_unordered(MAX_PARALLEL);
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancel.cancelled() => break,
                next = reading.next() => next,
            };
            let Some((index, outcome, elapsed)) = next else { break };
            self.finish_outcome(&calls[index], &outcome, elapsed).await;
            outcomes[index] = Some(outcome);
        }
        drop(reading);
        let mut complete = Vec::with_capacity(outcomes.len());
        for (call, outcome) in calls.iter().zip(outcomes) {
            complete.push(match outcome {
                Some(outcome) => outcome,
                None => {
                    let report = cancelled("Nothing was changed.");
                    self.finish(call, &report, began.elapsed()).await;
                    Ok(report)
                }
            });
        }
        complete
    }

    /// Carries out a call that may change something, after asking where the policy wants it.
    /// `None`: it did not begin, since the turn is over.
    async fn change(&mut self, call: &ToolCall, change: &Change) -> Option<Outcome> {
        let started = started(call, &change.summary(), change.purpose());
        match self.ask(change).await {
            Approval::Once => {}
            Approval::Session => self.approved.store(true, Ordering::Relaxed),
            Approval::Denied { reason } => {
                self.events.event(started).await;
                let content = approval::denial(reason.as_deref());
                let detail = match reason {
                    Some(reason) => format!("denied: {}", plain::one_line(&reason)),
                    None => "denied".to_owned(),
                };
                let report = Report::new(ToolOutcome::Denied, content, detail);
                self.finish(call, &report, Duration::ZERO).await;
                return Some(Ok(report));
            }
            Approval::Abort => return None,
        }
        let began = Instant::now();
        self.events.event(started).await;
        let outcome = self.carry_out(call, change).await;
        self.finish_outcome(call, &outcome, began.elapsed()).await;
        Some(outcome)
    }

    async fn ask(&mut self, change: &Change) -> Approval {
        let asked_enough = self.approved.load(Ordering::Relaxed);
        let question = approval::question(self.context.config.ask, change);
        let Some(question) = question.filter(|_| !asked_enough) else { return Approval::Once };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Approval::Abort,
            answer = self.approver.ask(&question) => answer,
        }
    }

    async fn carry_out(&mut self, call: &ToolCall, change: &Change) -> Outcome {
        let context = &self.context;
        let cancel = self.cancel;
        settle(match change {
            Change::Shell(arguments) if arguments.is_background() => {
                unless_cancelled(cancel, tools::background(context, arguments)).await
            }
            // It ends the command by itself, and keeps what the command said.
            Change::Shell(arguments) => {
                tools::foreground(context, arguments, &call.id, self.events, cancel).await
            }
            Change::Write(arguments) => {
                unless_cancelled(cancel, tools::write(context, arguments)).await
            }
            Change::Edit(arguments) => {
                unless_cancelled(cancel, tools::edit(context, arguments)).await
            }
            Change::Remove(arguments) => {
                unless_cancelled(cancel, tools::remove(context, arguments)).await
            }
            Change::ProcessStop(arguments) => {
                unless_cancelled(cancel, tools::process_stop(context, arguments)).await
            }
        })
    }

    async fn finish_outcome(&mut self, call: &ToolCall, outcome: &Outcome, elapsed: Duration) {
        match outcome {
            Ok(report) => self.finish(call, report, elapsed).await,
            Err(error) => {
                let report = Report::failed("", error.to_string());
                self.finish(call, &report, elapsed).await;
            }
        }
    }

    async fn finish(&mut self, call: &ToolCall, report: &Report, elapsed: Duration) {
        debug!(
            tool = plain::one_line(&call.name),
            outcome = ?report.outcome,
            elapsed_ms = elapsed.as_millis(),
            bytes = report.content.len(),
            "A tool call has ended."
        );
        for notice in &report.notices {
            self.events.event(AgentEvent::Notice(plain::one_line(notice))).await;
        }
        self.events
            .event(AgentEvent::ToolFinished {
                call_id: call.id.clone(),
                tool: plain::one_line(&call.name),
                outcome: report.outcome,
                detail: plain::one_line(&report.detail),
                elapsed,
            })
            .await;
    }
}

/// Answers the calls that are left without carrying them out.
pub(crate) fn skip_rest(
    mut results: Vec<ToolResult>,
    calls: &[ToolCall],
    end: CallsEnd,
) -> (Vec<ToolResult>, CallsEnd) {
    let why = match &end {
        CallsEnd::AllDone => "the turn has ended",
        CallsEnd::Cancelled => "the turn was ended",
        CallsEnd::RepeatedFailures { .. } => "the turn ended since a call failed repeatedly",
        CallsEnd::Environment(_) | CallsEnd::NotReady(TurnError::Environment(_)) => {
            "the environment failed"
        }
        CallsEnd::NotReady(_) => "the environment could not be set up",
    };
    for call in &calls[results.len()..] {
        results.push(failure(call, format!("This call was not carried out: {why}.")));
    }
    (results, end)
}

/// The result of a call that did not succeed.
pub(crate) fn failure(call: &ToolCall, content: String) -> ToolResult {
    ToolResult { call_id: call.id.clone(), name: call.name.clone(), content, is_error: true }
}

fn reading(action: &Result<Action, String>) -> Option<&Read> {
    match action {
        Ok(Action::Read(read)) => Some(read),
        Ok(Action::Change(_)) | Err(_) => None,
    }
}

async fn timed_read(
    context: ToolContext<'_>,
    index: usize,
    read: &Read,
) -> (usize, Outcome, Duration) {
    let began = Instant::now();
    (index, carry_out_read(&context, read).await, began.elapsed())
}

async fn carry_out_read(context: &ToolContext<'_>, read: &Read) -> Outcome {
    settle(match read {
        Read::File(arguments) => tools::read(context, arguments).await,
        Read::List(arguments) => tools::list(context, arguments).await,
        Read::Search(arguments) => tools::search(context, arguments).await,
        Read::ProcessOutput(arguments) => tools::process_output(context, arguments).await,
    })
}

fn settle(answer: Result<Report, ToolFailure>) -> Outcome {
    match answer {
        Ok(report) | Err(ToolFailure::Told(report)) => Ok(report),
        Err(ToolFailure::Environment(error)) => Err(error),
    }
}

async fn unless_cancelled(
    cancel: &CancellationToken,
    call: impl Future<Output = Result<Report, ToolFailure>>,
) -> Result<Report, ToolFailure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            Ok(cancelled("It may have been carried out wholly, in part, or not at all."))
        }
        answer = call => answer,
    }
}

fn cancelled(what_remains: &str) -> Report {
    let content = format!("The turn was ended while this was carried out. {what_remains}");
    Report::new(ToolOutcome::Cancelled, content, "cancelled")
}

fn started(call: &ToolCall, summary: &str, purpose: Option<String>) -> AgentEvent {
    AgentEvent::ToolStarted {
        call_id: call.id.clone(),
        tool: plain::one_line(&call.name),
        summary: plain::one_line(summary),
        purpose,
    }
}
