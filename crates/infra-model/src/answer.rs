//! The life of an answer: `genai`'s events go in, the port's come out. No I/O.

use std::sync::Arc;

use forge_domain::{ModelEvent, StopReason, Usage};
use genai::chat::{ChatStreamEvent, StreamEnd};

use crate::Provider;
use crate::calls::Calls;
use crate::heard::{Completion, Heard};
use crate::server_text::Cleaner;

/// An answer so far.
#[derive(Debug)]
pub(crate) struct Answer {
    provider: Provider,
    cleaner: Cleaner,
    heard: Arc<Heard>,
    calls: Calls,
}

/// What an event led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The answer goes on.
    Events(Vec<ModelEvent>),
    /// The answer is complete with these.
    Finished(Vec<ModelEvent>),
    /// The answer ended before it was complete.
    Unfinished,
}

impl Answer {
    /// `heard` listens to the same answer.
    pub(crate) fn new(provider: Provider, cleaner: Cleaner, heard: Arc<Heard>) -> Self {
        Self { provider, cleaner, heard, calls: Calls::default() }
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: ChatStreamEvent) -> Step {
        match event {
            ChatStreamEvent::Chunk(chunk) if !chunk.content.is_empty() => {
                Step::Events(vec![ModelEvent::Text(chunk.content)])
            }
            ChatStreamEvent::ReasoningChunk(chunk) if !chunk.content.is_empty() => {
                Step::Events(vec![ModelEvent::Reasoning(chunk.content)])
            }
            ChatStreamEvent::ToolCallChunk(chunk) => {
                let started = match self.provider {
                    Provider::OpenAi | Provider::OpenRouter => self.heard.started(),
                    Provider::Anthropic | Provider::Ollama => {
                        self.calls.piece(chunk.tool_call).into_iter().collect()
                    }
                };
                Step::Events(announced(started).collect())
            }
            ChatStreamEvent::End(end) => self.end(end),
            // The beginning is announced before the server has said anything.
            ChatStreamEvent::Start
            | ChatStreamEvent::Heartbeat
            | ChatStreamEvent::ThoughtSignatureChunk(_)
            | ChatStreamEvent::Chunk(_)
            | ChatStreamEvent::ReasoningChunk(_) => Step::Events(Vec::new()),
        }
    }

    fn end(&mut self, end: StreamEnd) -> Step {
        // Of a stream of Ollama's that was cut genai makes an end of its own. It has no usage, which
        // is there, empty perhaps, in every end that the server sent.
        if self.provider == Provider::Ollama && end.captured_usage.is_none() {
            return Step::Unfinished;
        }
        let usage = end.captured_usage.as_ref().map(usage);
        let reason = end.captured_stop_reason.clone();
        let captured = end.captured_into_tool_calls().unwrap_or_default();
        self.finish(captured, usage, reason)
    }

    /// Ends an answer whose server did not mark the end.
    pub(crate) fn complete(&mut self, completion: Completion) -> Step {
        self.finish(Vec::new(), completion.usage, Some(completion.finish.into()))
    }

    fn finish(
        &mut self,
        captured: Vec<genai::chat::ToolCall>,
        usage: Option<Usage>,
        reason: Option<genai::chat::StopReason>,
    ) -> Step {
        let (started, calls) = match self.provider {
            // Of a call without a number genai shows nothing before this.
            Provider::OpenAi | Provider::OpenRouter => (self.heard.started(), self.heard.calls()),
            Provider::Anthropic | Provider::Ollama => {
                (Vec::new(), std::mem::take(&mut self.calls).finish(captured))
            }
        };
        let stop = self.stop_reason(reason, calls.is_empty());
        let calls = calls.into_iter().map(ModelEvent::ToolCall);
        let usage = usage.filter(|usage| *usage != Usage::default()).map(ModelEvent::Usage);
        let end = calls.chain(usage).chain([ModelEvent::Finished(stop)]);
        Step::Finished(announced(started).chain(end).collect())
    }

    fn stop_reason(&self, reason: Option<genai::chat::StopReason>, no_calls: bool) -> StopReason {
        use genai::chat::StopReason as Genai;
        match reason {
            // Some servers say that they have stopped where they wait for calls; the calls decide.
            Some(Genai::Completed(_) | Genai::StopSequence(_)) if no_calls => StopReason::Done,
            Some(Genai::Completed(_) | Genai::StopSequence(_)) => StopReason::ToolCalls,
            Some(Genai::ToolCall(_)) if !no_calls => StopReason::ToolCalls,
            Some(Genai::MaxTokens(_)) => StopReason::Length,
            Some(Genai::ContentFilter(_)) => StopReason::Filtered,
            Some(Genai::ToolCall(name) | Genai::Other(name)) => {
                StopReason::Other(self.cleaner.text(&name))
            }
            None if !no_calls => StopReason::ToolCalls,
            None => StopReason::Other(String::new()),
        }
    }
}

fn announced(names: Vec<String>) -> impl Iterator<Item = ModelEvent> {
    names.into_iter().map(|name| ModelEvent::ToolCallStarted { name })
}

fn usage(usage: &genai::chat::Usage) -> Usage {
    let count = |tokens: Option<i32>| tokens.and_then(|tokens| u64::try_from(tokens).ok());
    let details = usage.prompt_tokens_details.as_ref();
    Usage {
        input_tokens: count(usage.prompt_tokens),
        cached_input_tokens: count(details.and_then(|details| details.cached_tokens)),
        output_tokens: count(usage.completion_tokens),
    }
}
