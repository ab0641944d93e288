//! What a request asks: where in the conversation it stands, and what tools have answered.

use serde_json::Value;

/// How many assistant messages there are since the user's last text.
pub(crate) fn position(body: &Value) -> usize {
    let mut count = 0;
    for message in messages(body).iter().rev() {
        match message["role"].as_str() {
            Some("assistant") => count += 1,
            Some("user") if has_text(&message["content"]) => break,
            _ => {}
        }
    }
    count
}

/// The ids of the calls in the request, in order. Empty ids where a format has none.
pub(crate) fn call_ids(body: &Value) -> Vec<String> {
    let mut ids = Vec::new();
    for message in messages(body) {
        if message["role"] != "assistant" {
            continue;
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            ids.push(call["id"].as_str().unwrap_or_default().to_owned());
        }
        for part in message["content"].as_array().into_iter().flatten() {
            if part["type"] == "tool_use" {
                ids.push(part["id"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    ids
}

/// The results of tools in the request, in order: the id of the call, and the text.
pub(crate) fn tool_results(body: &Value) -> Vec<(String, String)> {
    let mut results = Vec::new();
    for message in messages(body) {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            results.push((id.to_owned(), text(&message["content"])));
        }
        for part in message["content"].as_array().into_iter().flatten() {
            if part["type"] == "tool_result" {
                let id = part["tool_use_id"].as_str().unwrap_or_default();
                results.push((id.to_owned(), text(&part["content"])));
            }
        }
    }
    results
}

fn messages(body: &Value) -> &[Value] {
    body["messages"].as_array().map_or(&[], Vec::as_slice)
}

fn has_text(content: &Value) -> bool {
    match content {
        Value::String(_) => true,
        Value::Array(parts) => parts.iter().any(|part| part["type"] == "text"),
        _ => false,
    }
}

/// The text of a message's content: itself, or its text parts one after the other.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
