//! What was said so far.

use forge_domain::{Message, ToolCall, ToolResult};

/// What a result says for a call whose turn was dropped before it ended.
const INTERRUPTED: &str =
    "This call was interrupted. It may have been carried out wholly, in part, or not at all.";

/// The messages of a conversation, always in a shape that model servers accept: every call has its
/// result, and the user never speaks twice in a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes messages that were kept elsewhere. Calls without a result get one that says so.
    #[must_use]
    pub fn from_messages(messages: Vec<Message>) -> Self {
        let mut conversation = Self::new();
        for message in messages {
            match message {
                Message::User(text) => conversation.push_user(text),
                Message::Assistant { text, tool_calls } => {
                    conversation.push_assistant(text, tool_calls);
                }
                Message::ToolResults(results) => conversation.push_results(results),
            }
        }
        conversation.close_open_calls();
        conversation
    }

    /// The messages, oldest first.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether nothing was said yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds what the user says. After a turn that ended before the model answered, it joins what the
    /// user said then.
    pub(crate) fn push_user(&mut self, text: String) {
        self.close_open_calls();
        match self.messages.last_mut() {
            Some(Message::User(before)) => {
                before.push_str("\n\n");
                before.push_str(&text);
            }
            _ => self.messages.push(Message::User(text)),
        }
    }

    /// Adds an answer. One without text and calls is left out, since servers refuse such a message.
    pub(crate) fn push_assistant(&mut self, text: String, tool_calls: Vec<ToolCall>) {
        self.close_open_calls();
        if text.is_empty() && tool_calls.is_empty() {
            return;
        }
        self.messages.push(Message::Assistant { text, tool_calls });
    }

    /// Adds the results of the calls that stand last.
    pub(crate) fn push_results(&mut self, results: Vec<ToolResult>) {
        if self.open_calls().is_some() {
            self.messages.push(Message::ToolResults(results));
        }
    }

    /// Goes back to an earlier state of this conversation.
    pub(crate) fn restore(&mut self, mark: ConversationMark) {
        self.messages.truncate(mark.messages);
        if let (Some(bytes), Some(Message::User(text))) =
            (mark.user_bytes, self.messages.last_mut())
        {
            text.truncate(bytes);
        }
    }

    /// Where the conversation stands now.
    pub(crate) fn mark(&self) -> ConversationMark {
        let user_bytes = match self.messages.last() {
            Some(Message::User(text)) => Some(text.len()),
            _ => None,
        };
        ConversationMark { messages: self.messages.len(), user_bytes }
    }

    fn open_calls(&self) -> Option<&[ToolCall]> {
        match self.messages.last() {
            Some(Message::Assistant { tool_calls, .. }) if !tool_calls.is_empty() => {
                Some(tool_calls)
            }
            _ => None,
        }
    }

    fn close_open_calls(&mut self) {
        let Some(calls) = self.open_calls() else { return };
        let results = calls
            .iter()
            .map(|call| ToolResult {
                call_id: call.id.clone(),
                name: call.name.clone(),
                content: INTERRUPTED.to_owned(),
                is_error: true,
            })
            .collect();
        self.messages.push(Message::ToolResults(results));
    }
}

/// A state of a conversation to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConversationMark {
    messages: usize,
    user_bytes: Option<usize>,
}

#[cfg(test)]
mod tests {
    use forge_domain::ToolCallId;
    use pretty_assertions::assert_eq;

    use super::*;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: ToolCallId::new(id), name: "shell".to_owned(), arguments: "{}".to_owned() }
    }

    #[test]
    fn calls_that_were_left_open_get_a_result_before_anything_else_is_said() {
        let mut conversation = Conversation::new();
        conversation.push_user("go".to_owned());
        conversation.push_assistant(String::new(), vec![call("1"), call("2")]);
        conversation.push_user("and now?".to_owned());
        let interrupted = |id: &str| ToolResult {
            call_id: ToolCallId::new(id),
            name: "shell".to_owned(),
            content: INTERRUPTED.to_owned(),
            is_error: true,
        };
        assert_eq!(
            conversation.messages(),
            [
                Message::User("go".to_owned()),
                Message::Assistant { text: String::new(), tool_calls: vec![call("1"), call("2")] },
                Message::ToolResults(vec![interrupted("1"), interrupted("2")]),
                Message::User("and now?".to_owned()),
            ]
        );
    }

    #[test]
    fn what_the_user_says_twice_in_a_row_becomes_one_message() {
        let mut conversation = Conversation::new();
        conversation.push_user("one".to_owned());
        conversation.push_user("two".to_owned());
        assert_eq!(conversation.messages(), [Message::User("one\n\ntwo".to_owned())]);
    }

    #[test]
    fn going_back_removes_what_came_after_also_from_a_joined_message() {
        let mut conversation = Conversation::new();
        conversation.push_user("one".to_owned());
        let before = conversation.clone();
        let mark = conversation.mark();
        conversation.push_user("two".to_owned());
        conversation.push_assistant("three".to_owned(), Vec::new());
        conversation.restore(mark);
        assert_eq!(conversation, before);
    }

    #[test]
    fn kept_messages_are_taken_back_as_they_were() {
        let messages = vec![
            Message::User("go".to_owned()),
            Message::Assistant { text: "done".to_owned(), tool_calls: Vec::new() },
        ];
        let actual = Conversation::from_messages(messages.clone());
        assert_eq!(actual.messages(), messages);
    }
}
