//! The calls of a chat completion, put together from its pieces. No I/O.
//!
//! OpenAI numbers the calls of an answer, names a call and gives it an id in its first piece, and sends
//! the arguments as text. Compatible servers leave the number out, give several calls the same number,
//! give each piece a new id, or send the arguments as a value. `genai` goes by the number alone, and by
//! text alone; it drops or mixes the calls of such servers, so that its own putting together is not used.

use forge_domain::{ToolCall, ToolCallId};
use serde_json::Value;

use crate::calls::arguments;

/// The calls so far.
#[derive(Debug, Default)]
pub(crate) struct ChatCalls {
    calls: Vec<Call>,
    /// Names that nobody has been told yet.
    started: Vec<String>,
}

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl ChatCalls {
    /// Takes a piece of a call, as it stands in `delta.tool_calls`.
    pub(crate) fn piece(&mut self, piece: &Value) {
        let text = |place: &str| piece.pointer(place).and_then(Value::as_str).unwrap_or_default();
        let (id, name) = (text("/id"), text("/function/name"));
        let index = piece.get("index").and_then(Value::as_u64);
        let place = self.continued(index, id, name).unwrap_or(self.calls.len());
        if place == self.calls.len() {
            self.calls.push(Call { index, ..Call::default() });
        }
        let call = &mut self.calls[place];
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() && !name.is_empty() {
            name.clone_into(&mut call.name);
            self.started.push(name.to_owned());
        }
        match piece.pointer("/function/arguments") {
            Some(Value::String(text)) => call.arguments.push_str(text),
            Some(Value::Null) | None => {}
            Some(value) => call.arguments.push_str(&value.to_string()),
        }
    }

    /// The names that have become known since this was last asked.
    pub(crate) fn started(&mut self) -> Vec<String> {
        std::mem::take(&mut self.started)
    }

    /// All calls, in order.
    pub(crate) fn finish(&mut self) -> Vec<ToolCall> {
        let call = |(index, call): (usize, Call)| ToolCall {
            // An answer to a call must name it, so that a call without an id gets one.
            id: ToolCallId::new(match call.id {
                id if id.is_empty() => format!("call_{index}"),
                id => id,
            }),
            name: call.name,
            arguments: arguments(Value::String(call.arguments)),
        };
        std::mem::take(&mut self.calls).into_iter().enumerate().map(call).collect()
    }

    /// The call that a piece goes on with; none: it begins one.
    fn continued(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let place = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index)?,
            None if id.is_empty() => self.calls.len().checked_sub(1)?,
            None => match self.calls.iter().rposition(|call| call.id == id) {
                Some(place) => place,
                // An id that is new with each piece; only the first one has a name.
                None if name.is_empty() => self.calls.len().checked_sub(1)?,
                None => return None,
            },
        };
        let call = &self.calls[place];
        let begins_another = if name.is_empty() || call.name.is_empty() {
            false
        } else if !id.is_empty() && !call.id.is_empty() {
            id != call.id
        } else {
            // Named again, and no ids to go by: another tool, or the same one once its arguments are
            // complete, is another call; some servers repeat the name with each piece of one.
            name != call.name || serde_json::from_str::<Value>(&call.arguments).is_ok()
        };
        (!begins_another).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    /// Id, name and arguments of each call.
    fn calls<const N: usize>(pieces: [Value; N]) -> Vec<[String; 3]> {
        let mut calls = ChatCalls::default();
        pieces.iter().for_each(|piece| calls.piece(piece));
        let parts = |call: ToolCall| [call.id.to_string(), call.name, call.arguments];
        calls.finish().into_iter().map(parts).collect()
    }

    fn function(name: Value, arguments: Value) -> Value {
        json!({ "name": name, "arguments": arguments })
    }

    #[test]
    fn pieces_go_to_the_call_with_their_number() {
        let actual = calls([
            json!({ "index": 0, "id": "a", "function": function(json!("t"), json!("")) }),
            json!({ "index": 1, "id": "b", "function": function(json!("u"), json!("[")) }),
            json!({ "index": 0, "function": { "arguments": "{ " } }),
            json!({ "index": 1, "id": "", "function": function(json!(""), json!("]")) }),
            json!({ "index": 0, "id": null, "function": function(json!(null), json!("}")) }),
        ]);
        assert_eq!(actual, [["a", "t", "{ }"], ["b", "u", "[]"]]);
    }

    #[test]
    fn a_number_may_be_any() {
        let actual = calls([
            json!({ "index": u64::MAX, "id": "a", "function": function(json!("t"), json!("{")) }),
            json!({ "index": u64::MAX, "function": { "arguments": "}" } }),
        ]);
        assert_eq!(actual, [["a", "t", "{}"]]);
    }

    #[test]
    fn calls_with_one_number_are_told_apart_by_their_ids() {
        let actual = calls([
            json!({ "index": 0, "id": "a", "function": function(json!("t"), json!("{}")) }),
            json!({ "index": 0, "id": "b", "function": function(json!("t"), json!("{\"p\":")) }),
            json!({ "index": 0, "id": "b", "function": { "arguments": "1}" } }),
        ]);
        assert_eq!(actual, [["a", "t", "{}"], ["b", "t", "{\"p\":1}"]]);
    }

    #[test]
    fn calls_without_numbers_are_told_apart_by_their_ids() {
        let actual = calls([
            json!({ "id": "a", "function": function(json!("t"), json!("{")) }),
            json!({ "function": { "arguments": "}" } }),
            json!({ "id": "b", "function": function(json!("t"), json!("[")) }),
            json!({ "id": "a", "function": { "arguments": " " } }),
            json!({ "id": "b", "function": { "arguments": "]" } }),
        ]);
        assert_eq!(actual, [["a", "t", "{} "], ["b", "t", "[]"]]);
    }

    #[test]
    fn whole_calls_without_ids_and_numbers_are_kept_apart_and_get_ids() {
        let actual = calls([
            json!({ "function": function(json!("t"), json!("{}")) }),
            json!({ "function": function(json!("t"), json!("{}")) }),
            json!({ "function": function(json!("u"), json!("{")) }),
            json!({ "id": "", "index": null, "function": function(json!("v"), json!("")) }),
        ]);
        let expected = [
            ["call_0", "t", "{}"],
            ["call_1", "t", "{}"],
            ["call_2", "u", "{"],
            ["call_3", "v", "{}"],
        ];
        assert_eq!(actual, expected);
    }

    #[test]
    fn a_name_that_is_repeated_or_an_id_that_changes_within_a_call_begins_no_other() {
        let named = calls([
            json!({ "index": 0, "id": "a", "function": function(json!("t"), json!("{")) }),
            json!({ "index": 0, "function": function(json!("t"), json!("}")) }),
        ]);
        let numbered = calls([
            json!({ "index": 0, "id": "a", "function": function(json!("t"), json!("{")) }),
            json!({ "index": 0, "id": "x", "function": { "arguments": "}" } }),
        ]);
        let neither = calls([
            json!({ "id": "a", "function": function(json!("t"), json!("{")) }),
            json!({ "id": "x", "function": { "arguments": "}" } }),
        ]);
        for actual in [named, numbered, neither] {
            assert_eq!(actual, [["a", "t", "{}"]]);
        }
    }

    #[test]
    fn arguments_as_a_value_are_written_as_text() {
        let actual = calls([
            json!({ "index": 0, "id": "a", "function": function(json!("t"), json!({ "c": 1 })) }),
        ]);
        assert_eq!(actual, [["a", "t", "{\"c\":1}"]]);
    }

    #[test]
    fn a_name_is_told_once_and_when_it_is_known() {
        let mut calls = ChatCalls::default();
        calls.piece(&json!({ "index": 0, "id": "a", "function": { "arguments": "" } }));
        assert_eq!(calls.started(), Vec::<String>::new());
        for _ in 0..2 {
            calls.piece(&json!({ "index": 0, "id": "a", "function": { "name": "t" } }));
        }
        assert_eq!(calls.started(), ["t"]);
        assert_eq!(calls.started(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_piece_of_a_call_does_no_harm() {
        for piece in [json!(null), json!("x"), json!([]), json!({ "function": 1, "index": -1 })] {
            let mut calls = ChatCalls::default();
            calls.piece(&piece);
            assert!(calls.started().is_empty());
        }
    }
}
