//! Ollama's native chat: a line of JSON an event. Calls come whole.

use serde_json::{Value, json};

use super::{Envelope, Event, EventKind, as_value, pieces};
use crate::{Answer, Finish};

pub(super) fn events(answer: &Answer, envelope: &Envelope, chars: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for piece in pieces(&answer.reasoning, chars) {
        let message = json!({ "role": "assistant", "content": "", "thinking": piece });
        events.push(part(envelope, &message, EventKind::Other));
    }
    for piece in pieces(&answer.text, chars) {
        let message = json!({ "role": "assistant", "content": piece });
        events.push(part(envelope, &message, EventKind::Other));
    }
    if !answer.calls.is_empty() {
        let message = json!({ "role": "assistant", "content": "", "tool_calls": calls(answer) });
        events.push(part(envelope, &message, EventKind::Arguments));
    }
    let mut end = base(envelope, &json!({ "role": "assistant", "content": "" }));
    finish(&mut end, answer);
    events.push(Event { text: format!("{end}\n"), kind: EventKind::Finish });
    events
}

pub(super) fn whole(answer: &Answer, envelope: &Envelope) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text });
    if !answer.reasoning.is_empty() {
        message["thinking"] = json!(answer.reasoning);
    }
    if !answer.calls.is_empty() {
        message["tool_calls"] = calls(answer);
    }
    let mut whole = base(envelope, &message);
    finish(&mut whole, answer);
    whole
}

/// Calls, without ids as the older servers send them, unless the script gives one.
fn calls(answer: &Answer) -> Value {
    let call = |call: &crate::Call| {
        let function = json!({ "name": call.name, "arguments": as_value(&call.arguments) });
        let mut value = json!({ "function": function });
        if let Some(id) = &call.id {
            value["id"] = json!(id);
        }
        value
    };
    answer.calls.iter().map(call).collect()
}

fn part(envelope: &Envelope, message: &Value, kind: EventKind) -> Event {
    let mut line = base(envelope, message);
    line["done"] = json!(false);
    Event { text: format!("{line}\n"), kind }
}

fn base(envelope: &Envelope, message: &Value) -> Value {
    json!({
        "model": envelope.model, "created_at": "2026-01-01T00:00:00Z", "message": message,
    })
}

fn finish(line: &mut Value, answer: &Answer) {
    line["done"] = json!(true);
    line["done_reason"] = json!(match &answer.finish {
        Finish::Natural => "stop",
        Finish::Length => "length",
        Finish::Filtered => "content_filter",
        Finish::Named(name) => name,
    });
    if let Some(count) = answer.usage {
        line["prompt_eval_count"] = json!(count.input);
        line["eval_count"] = json!(count.output);
    }
}
