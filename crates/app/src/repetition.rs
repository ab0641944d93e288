//! Calls that fail again and again in the same way.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use forge_domain::ToolCall;

use crate::ToolOutcome;

/// Counts for each call how often it failed since something last changed.
///
/// A model that fixes and tries again makes the same failing call with successful changes between,
/// so a change that succeeds begins the count anew. What only reads does not, or a model could circle
/// between a failing call and a look around.
#[derive(Debug, Default)]
pub(crate) struct Repetition {
    failures: HashMap<u64, u32>,
}

impl Repetition {
    /// Notes that something was changed.
    pub(crate) fn changed(&mut self) {
        self.failures.clear();
    }

    /// Notes how a call went, and says how often in a row it has failed by now; 0 if it did not.
    pub(crate) fn note(&mut self, call: &ToolCall, outcome: ToolOutcome) -> u32 {
        match outcome {
            ToolOutcome::Succeeded | ToolOutcome::Cancelled => 0,
            ToolOutcome::Failed | ToolOutcome::Denied => {
                let count = self.failures.entry(key(call)).or_default();
                *count += 1;
                *count
            }
        }
    }
}

/// The call by name and arguments. Only a hash is kept, since arguments may be large; that two calls
/// fall together is as good as impossible, and would end a turn early at the worst.
fn key(call: &ToolCall) -> u64 {
    let mut hasher = DefaultHasher::new();
    call.name.hash(&mut hasher);
    match serde_json::from_str::<serde_json::Value>(&call.arguments) {
        // The same arguments with other white space are the same call.
        Ok(value) => value.to_string().hash(&mut hasher),
        Err(_) => call.arguments.hash(&mut hasher),
    }
    hasher.finish()
}

/// What is added to the result of a call that fails again.
pub(crate) fn warning(count: u32, limit: u32) -> String {
    format!(
        "\n\n[This same call has failed {count} times with nothing changed in between. It will not \
         work by repeating it: find the cause, try something else, or tell the user what is in the \
         way. After {limit} failures the turn ends.]"
    )
}

#[cfg(test)]
mod tests {
    use forge_domain::ToolCallId;
    use pretty_assertions::assert_eq;

    use super::*;

    fn call(arguments: &str) -> ToolCall {
        ToolCall {
            id: ToolCallId::new("1"),
            name: "shell".to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    #[test]
    fn the_same_failing_call_is_counted_whatever_its_white_space() {
        let mut repetition = Repetition::default();
        let calls = [r#"{"a":1}"#, r#"{"b":1}"#, r#"{ "a": 1 }"#, "{", "{"];
        let actual = calls.map(|arguments| repetition.note(&call(arguments), ToolOutcome::Failed));
        assert_eq!(actual, [1, 1, 2, 1, 2]);
    }

    #[test]
    fn a_change_begins_the_count_anew_and_a_look_around_does_not() {
        let mut repetition = Repetition::default();
        let failed = ToolOutcome::Failed;
        assert_eq!(repetition.note(&call("{}"), failed), 1);
        repetition.note(&call("look"), ToolOutcome::Succeeded);
        assert_eq!(repetition.note(&call("{}"), failed), 2);
        repetition.changed();
        assert_eq!(repetition.note(&call("{}"), failed), 1);
    }
}
