//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Envelope, Event, EventKind, as_value, pieces};
use crate::{Answer, Finish};

pub(super) fn events(answer: &Answer, envelope: &Envelope, chars: usize) -> Vec<Event> {
    let mut start = message(envelope);
    if answer.usage.is_some() {
        start["usage"] = usage(answer, Count::Request);
    }
    let mut events =
        vec![event(&json!({ "type": "message_start", "message": start }), EventKind::Other)];
    let mut index = 0;
    if !answer.reasoning.is_empty() {
        let parts = pieces(&answer.reasoning, chars)
            .into_iter()
            .map(|piece| json!({ "type": "thinking_delta", "thinking": piece }));
        let begin = json!({ "type": "thinking", "thinking": "" });
        block(&mut events, index, &begin, parts, EventKind::Other);
        index += 1;
    }
    if !answer.text.is_empty() {
        let parts = pieces(&answer.text, chars)
            .into_iter()
            .map(|piece| json!({ "type": "text_delta", "text": piece }));
        let begin = json!({ "type": "text", "text": "" });
        block(&mut events, index, &begin, parts, EventKind::Other);
        index += 1;
    }
    for (nth, call) in answer.calls.iter().enumerate() {
        let parts = pieces(&call.arguments, chars)
            .into_iter()
            .map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }));
        let begin = json!({
            "type": "tool_use", "id": envelope.call_id(nth, call.id.as_ref()),
            "name": call.name, "input": {},
        });
        block(&mut events, index, &begin, parts, EventKind::Arguments);
        index += 1;
    }
    let mut end = json!({
        "type": "message_delta", "delta": { "stop_reason": finish(answer), "stop_sequence": null },
    });
    if answer.usage.is_some() {
        end["usage"] = usage(answer, Count::Answer);
    }
    events.push(event(&end, EventKind::Finish));
    events.push(event(&json!({ "type": "message_stop" }), EventKind::Other));
    events
}

pub(super) fn whole(answer: &Answer, envelope: &Envelope) -> Value {
    let mut content = Vec::new();
    if !answer.reasoning.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": answer.reasoning, "signature": "" }));
    }
    if !answer.text.is_empty() {
        content.push(json!({ "type": "text", "text": answer.text }));
    }
    for (index, call) in answer.calls.iter().enumerate() {
        content.push(json!({
            "type": "tool_use", "id": envelope.call_id(index, call.id.as_ref()),
            "name": call.name, "input": as_value(&call.arguments),
        }));
    }
    let mut whole = message(envelope);
    whole["content"] = Value::Array(content);
    whole["stop_reason"] = json!(finish(answer));
    if answer.usage.is_some() {
        whole["usage"] = usage(answer, Count::Both);
    }
    whole
}

fn message(envelope: &Envelope) -> Value {
    json!({
        "id": format!("msg_{}", envelope.number), "type": "message", "role": "assistant",
        "model": envelope.model, "content": [], "stop_reason": null, "stop_sequence": null,
    })
}

fn block(
    events: &mut Vec<Event>,
    index: usize,
    begin: &Value,
    parts: impl Iterator<Item = Value>,
    kind: EventKind,
) {
    let start = json!({ "type": "content_block_start", "index": index, "content_block": begin });
    events.push(event(&start, EventKind::Other));
    for part in parts {
        let delta = json!({ "type": "content_block_delta", "index": index, "delta": part });
        events.push(event(&delta, kind));
    }
    events.push(event(&json!({ "type": "content_block_stop", "index": index }), EventKind::Other));
}

fn event(data: &Value, kind: EventKind) -> Event {
    let name = data["type"].as_str().unwrap_or_default();
    Event { text: format!("event: {name}\ndata: {data}\n\n"), kind }
}

fn finish(answer: &Answer) -> &str {
    match &answer.finish {
        Finish::Natural if answer.calls.is_empty() => "end_turn",
        Finish::Natural => "tool_use",
        Finish::Length => "max_tokens",
        Finish::Filtered => "refusal",
        Finish::Named(name) => name,
    }
}

/// Which half of the count an event carries.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    Request,
    Answer,
    Both,
}

fn usage(answer: &Answer, which: Count) -> Value {
    let Some(count) = answer.usage else { return Value::Null };
    let mut usage = json!({});
    if which != Count::Answer {
        // Anthropic counts what it had cached apart from the rest.
        usage["input_tokens"] = json!(count.input.saturating_sub(count.cached));
        usage["cache_read_input_tokens"] = json!(count.cached);
        usage["cache_creation_input_tokens"] = json!(0);
    }
    usage["output_tokens"] = json!(if which == Count::Request { 1 } else { count.output });
    usage
}
