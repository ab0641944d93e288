//! The calls of an answer of Anthropic's or Ollama's, put together from what `genai` shows of them; those
//! of chat completions are the business of [`crate::chat_calls`].
//!
//! With each piece `genai` shows the call as far as it is known: its id, its name, and the text of the
//! arguments so far. At the end it shows all calls with their arguments parsed, which loses the text.
//! The text is taken from the pieces, and the end decides where the pieces are not clear.

use forge_domain::{ToolCall, ToolCallId};
use genai::chat::ToolCall as GenaiCall;
use serde_json::Value;

/// The calls so far.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: Vec<GenaiCall>,
}

impl Calls {
    /// Takes a call as far as it is known. The tool's name where the call is a new one.
    pub(crate) fn piece(&mut self, call: GenaiCall) -> Option<String> {
        // The last one with that id whose arguments these go on with: ids may be empty or repeated.
        let known = self.calls.iter_mut().rev().find(|known| {
            known.call_id == call.call_id && goes_on(&known.fn_arguments, &call.fn_arguments)
        });
        match known {
            Some(known) => {
                known.fn_arguments = call.fn_arguments;
                None
            }
            None => {
                let name = call.fn_name.clone();
                self.calls.push(call);
                Some(name)
            }
        }
    }

    /// All calls, in order; `captured` is what `genai` shows at the end.
    pub(crate) fn finish(self, captured: Vec<GenaiCall>) -> Vec<ToolCall> {
        let ids = |calls: &[GenaiCall]| -> Vec<String> {
            calls.iter().map(|call| call.call_id.clone()).collect()
        };
        let clear = self.calls.iter().all(|call| !call.call_id.is_empty());
        let use_pieces = captured.is_empty() || (clear && ids(&self.calls) == ids(&captured));
        let calls = if use_pieces { self.calls } else { captured };
        let call = |(index, call): (usize, GenaiCall)| ToolCall {
            // An answer to a call must name it, so that a call without an id gets one.
            id: ToolCallId::new(match call.call_id {
                id if id.is_empty() => format!("call_{index}"),
                id => id,
            }),
            name: call.fn_name,
            arguments: arguments(call.fn_arguments),
        };
        calls.into_iter().enumerate().map(call).collect()
    }
}

fn goes_on(known: &Value, new: &Value) -> bool {
    match (known, new) {
        (Value::String(known), Value::String(new)) => new.starts_with(known.as_str()),
        // Whole at once: each is a call of its own.
        _ => false,
    }
}

/// The arguments as text. None at all are an empty object.
pub(crate) fn arguments(value: Value) -> String {
    match value {
        Value::String(text) if text.trim().is_empty() || text.trim() == "null" => "{}".to_owned(),
        Value::String(text) => text,
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    fn call(id: &str, name: &str, arguments: Value) -> GenaiCall {
        GenaiCall {
            call_id: id.to_owned(),
            fn_name: name.to_owned(),
            fn_arguments: arguments,
            thought_signatures: None,
        }
    }

    fn finished(pieces: Vec<GenaiCall>, captured: Vec<GenaiCall>) -> Vec<(String, String)> {
        let mut calls = Calls::default();
        for piece in pieces {
            calls.piece(piece);
        }
        let calls = calls.finish(captured);
        calls.into_iter().map(|call| (call.id.to_string(), call.arguments)).collect()
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()
    }

    #[test]
    fn the_text_of_the_arguments_is_kept_as_it_came() {
        let text = r#"{ "b": 1,  "a": 2 }"#;
        let actual = finished(
            vec![call("a", "t", json!("")), call("a", "t", json!(text))],
            vec![call("a", "t", json!({ "a": 2, "b": 1 }))],
        );
        assert_eq!(actual, pairs([("a", text)]));
    }

    #[test]
    fn interleaved_calls_are_told_apart_by_their_ids() {
        let actual = finished(
            vec![
                call("a", "t", json!("{")),
                call("b", "t", json!("[")),
                call("a", "t", json!("{}")),
                call("b", "t", json!("[]")),
            ],
            vec![call("a", "t", json!({})), call("b", "t", json!([]))],
        );
        assert_eq!(actual, pairs([("a", "{}"), ("b", "[]")]));
    }

    #[test]
    fn calls_without_ids_are_kept_apart_and_get_one() {
        let actual = finished(
            vec![call("", "t", json!("{}")), call("", "t", json!("{}"))],
            vec![call("", "t", json!({})), call("", "t", json!({}))],
        );
        assert_eq!(actual, pairs([("call_0", "{}"), ("call_1", "{}")]));
    }

    #[test]
    fn no_arguments_are_an_empty_object() {
        for none in [json!(""), json!(" "), json!(null), json!("null")] {
            assert_eq!(finished(vec![call("a", "t", none)], Vec::new()), pairs([("a", "{}")]));
        }
    }
}
