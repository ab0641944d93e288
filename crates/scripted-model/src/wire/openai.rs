//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::{Envelope, Event, EventKind, pieces};
use crate::{Answer, Finish, TokenCount};

pub(super) fn events(answer: &Answer, envelope: &Envelope, chars: usize) -> Vec<Event> {
    let mut events =
        vec![delta(envelope, json!({ "role": "assistant", "content": "" }), EventKind::Other)];
    for piece in pieces(&answer.reasoning, chars) {
        events.push(delta(envelope, json!({ "reasoning_content": piece }), EventKind::Other));
    }
    for piece in pieces(&answer.text, chars) {
        events.push(delta(envelope, json!({ "content": piece }), EventKind::Other));
    }
    for (index, call) in answer.calls.iter().enumerate() {
        let start = json!({ "tool_calls": [{
            "index": index, "id": envelope.call_id(index, call.id.as_ref()), "type": "function",
            "function": { "name": call.name, "arguments": "" },
        }] });
        events.push(delta(envelope, start, EventKind::Other));
        for piece in pieces(&call.arguments, chars) {
            let part = json!({ "tool_calls": [{
                "index": index, "function": { "arguments": piece },
            }] });
            events.push(delta(envelope, part, EventKind::Arguments));
        }
    }
    let choice = json!([{ "index": 0, "delta": {}, "finish_reason": finish(answer) }]);
    events.push(event(&chunk(envelope, &choice), EventKind::Finish));
    if let (true, Some(count)) = (envelope.wants_usage, answer.usage) {
        let mut last = chunk(envelope, &json!([]));
        last["usage"] = usage(count);
        events.push(event(&last, EventKind::Other));
    }
    events.push(Event { text: "data: [DONE]\n\n".to_owned(), kind: EventKind::Other });
    events
}

pub(super) fn whole(answer: &Answer, envelope: &Envelope) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text });
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = json!(answer.reasoning);
    }
    if !answer.calls.is_empty() {
        let calls = answer.calls.iter().enumerate().map(|(index, call)| {
            json!({
                "id": envelope.call_id(index, call.id.as_ref()), "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        });
        message["tool_calls"] = calls.collect();
    }
    let mut whole = json!({
        "id": format!("chatcmpl-{}", envelope.number), "object": "chat.completion", "created": 0,
        "model": envelope.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish(answer) }],
    });
    if let Some(count) = answer.usage {
        whole["usage"] = usage(count);
    }
    whole
}

fn delta(envelope: &Envelope, delta: Value, kind: EventKind) -> Event {
    let choices = json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    event(&chunk(envelope, &choices), kind)
}

fn chunk(envelope: &Envelope, choices: &Value) -> Value {
    json!({
        "id": format!("chatcmpl-{}", envelope.number), "object": "chat.completion.chunk",
        "created": 0, "model": envelope.model, "choices": choices,
    })
}

fn event(chunk: &Value, kind: EventKind) -> Event {
    Event { text: format!("data: {chunk}\n\n"), kind }
}

fn finish(answer: &Answer) -> &str {
    match &answer.finish {
        Finish::Natural if answer.calls.is_empty() => "stop",
        Finish::Natural => "tool_calls",
        Finish::Length => "length",
        Finish::Filtered => "content_filter",
        Finish::Named(name) => name,
    }
}

fn usage(count: TokenCount) -> Value {
    json!({
        "prompt_tokens": count.input, "completion_tokens": count.output,
        "total_tokens": count.input + count.output,
        "prompt_tokens_details": { "cached_tokens": count.cached },
    })
}
