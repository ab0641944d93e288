//! Which calls the user is asked about, and how. Calls that only read are never asked about.

use forge_domain::{ApprovalRequest, Risk};

use crate::tools::Change;
use crate::{AskPolicy, plain, risk};

/// The question before a change, where the policy wants one.
pub(crate) fn question(policy: AskPolicy, change: &Change) -> Option<ApprovalRequest> {
    let summary = change.summary();
    // The whole of it and nothing hidden: the user decides on what they see.
    let (action, risk) = match change {
        Change::Shell(arguments) => (summary, risk::of_shell(&arguments.command)),
        Change::Remove(arguments) if arguments.recursive == Some(true) => {
            let because = "removes files recursively";
            (format!("remove {summary} with everything in it"), Risk::Risky { because })
        }
        Change::Remove(_) => (format!("remove {summary}"), Risk::Ordinary),
        Change::Write(_) => (format!("write {summary}"), Risk::Ordinary),
        Change::Edit(_) => (format!("edit {summary}"), Risk::Ordinary),
        // It ends what the model itself has started.
        Change::ProcessStop(_) => return None,
    };
    let asks = match policy {
        AskPolicy::Never => false,
        AskPolicy::Risky => matches!(risk, Risk::Risky { .. }),
        AskPolicy::Always => true,
    };
    asks.then(|| ApprovalRequest { action, purpose: change.purpose(), risk })
}

/// What the model is told when the user said no.
pub(crate) fn denial(reason: Option<&str>) -> String {
    let reason = match reason.map(str::trim) {
        None | Some("") => "gave no reason".to_owned(),
        Some(reason) => format!("said: {}", plain::cut_middle(reason.to_owned(), 4000)),
    };
    format!(
        "The user did not allow this, and nothing was done. The user {reason}\nDo not try the same \
         again or by another way; do what the user wants instead, or ask."
    )
}
