//! What the server has sent, where `genai`'s events do not show it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use forge_domain::{ToolCall, Usage};
use genai::chat::{ChatFrameSink, FrameCtx, RawFrameRef};
use serde_json::Value;

use crate::Provider;
use crate::chat_calls::ChatCalls;
use crate::failure::{Failure, Teller};

/// Listens to the events of one answer as they come over the wire.
#[derive(Debug)]
pub(crate) struct Heard {
    provider: Provider,
    so_far: Mutex<SoFar>,
}

#[derive(Debug, Default)]
struct SoFar {
    /// Anything that looks like an event.
    anything: bool,
    /// An error of Ollama's, which `genai` passes over.
    error: Option<Value>,
    /// An event of Anthropic's without its name, which `genai` passes over: it takes a read that ends
    /// between CR and LF for the end of an event, and tears the name off.
    nameless: bool,
    /// The calls of a chat completion.
    calls: ChatCalls,
    /// Why a chat completion finished.
    finish: Option<String>,
    /// What a chat completion cost.
    usage: Option<Usage>,
    /// The stream was cut within the mark of its end.
    half_a_mark: bool,
}

/// What stands at the end of a chat completion.
const END_MARK: &str = "[DONE]";

/// How an answer ended that has all it needs but the mark of its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) finish: String,
    pub(crate) usage: Option<Usage>,
}

impl Heard {
    pub(crate) fn new(provider: Provider) -> Self {
        Self { provider, so_far: Mutex::default() }
    }

    /// A failure that is known before the stream has ended.
    pub(crate) fn failure(&self, teller: &Teller) -> Option<Failure> {
        // What came with the event is lost, so that the rest would pass for the whole.
        self.so_far().nameless.then(|| teller.broken_off("an event came without its name"))
    }

    /// The end of a stream that `genai` does not take for one: chat completions without `[DONE]`, which
    /// not every server sends. With the finish reason the answer is whole.
    pub(crate) fn completion(&self) -> Option<Completion> {
        let mut so_far = self.so_far();
        let finish = so_far.finish.take()?;
        Some(Completion { finish, usage: so_far.usage.take() })
    }

    /// The tools of a chat completion's calls that have begun since this was last asked.
    pub(crate) fn started(&self) -> Vec<String> {
        self.so_far().calls.started()
    }

    /// The calls of a chat completion that has ended.
    pub(crate) fn calls(&self) -> Vec<ToolCall> {
        self.so_far().calls.finish()
    }

    /// Whether what `genai` cannot read is only a part of the mark of the end.
    pub(crate) fn half_a_mark(&self) -> bool {
        self.so_far().half_a_mark
    }

    /// Why a stream ended that did not end as an answer does.
    pub(crate) fn ended(&self, teller: &Teller) -> Failure {
        let mut so_far = self.so_far();
        match so_far.error.take() {
            Some(error) => teller.event(&error),
            None if so_far.anything => teller.ended(),
            None => teller.unreadable("the reply holds no event of an answer"),
        }
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChatFrameSink for Heard {
    fn on_frame(&self, _: &FrameCtx, frame: RawFrameRef<'_>) {
        let data = frame.data.trim_start();
        let mut so_far = self.so_far();
        so_far.half_a_mark = !data.is_empty() && data != END_MARK && END_MARK.starts_with(data);
        if !data.starts_with('{') {
            return;
        }
        so_far.anything = true;
        match self.provider {
            Provider::Anthropic => so_far.nameless |= frame.event.is_none(),
            Provider::Ollama => {
                if data.starts_with(r#"{"error""#) {
                    so_far.error = frame.json();
                }
            }
            Provider::OpenAi | Provider::OpenRouter => so_far.chunk(data),
        }
    }
}

impl SoFar {
    /// Takes a piece of a chat completion.
    fn chunk(&mut self, data: &str) {
        // What is no JSON is genai's to complain about.
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { return };
        let calls = chunk.pointer("/choices/0/delta/tool_calls").and_then(Value::as_array);
        calls.into_iter().flatten().for_each(|piece| self.calls.piece(piece));
        if let Some(finish) = chunk.pointer("/choices/0/finish_reason").and_then(Value::as_str) {
            self.finish = Some(finish.to_owned());
        }
        let count = |place: &str| chunk.pointer(place).and_then(Value::as_u64);
        let usage = Usage {
            input_tokens: count("/usage/prompt_tokens"),
            cached_input_tokens: count("/usage/prompt_tokens_details/cached_tokens"),
            output_tokens: count("/usage/completion_tokens"),
        };
        if usage != Usage::default() {
            self.usage = Some(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn completion(chunks: &[&str]) -> Option<Completion> {
        let heard = Heard::new(Provider::OpenAi);
        for chunk in chunks {
            heard.so_far().chunk(chunk);
        }
        heard.completion()
    }

    #[test]
    fn a_text_about_a_finish_is_no_finish() {
        let text = r#"{"choices":[{"delta":{"content":"{\"finish_reason\":\"stop\"}"},"finish_reason": null}]}"#;
        assert_eq!(completion(&[text, r#"{"choices":[],"finish_reason":"stop"}"#]), None);
    }

    #[test]
    fn the_last_count_is_kept_and_one_without_numbers_is_none() {
        let actual = completion(&[
            r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
            r#"{"choices":[],"usage":{}}"#,
        ]);
        let usage =
            Usage { input_tokens: Some(5), cached_input_tokens: None, output_tokens: Some(3) };
        assert_eq!(actual, Some(Completion { finish: "stop".to_owned(), usage: Some(usage) }));
    }
}
