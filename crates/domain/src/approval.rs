//! The port that asks the user before something is done.

use std::fmt;

use async_trait::async_trait;

/// How much a command could break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Risk {
    /// Nothing speaks against it.
    Ordinary,
    /// Something does.
    Risky {
        /// What, for the user: `removes files recursively`.
        because: &'static str,
    },
}

/// What the user is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// What is about to be done, one line: the command, or `write src/main.rs`.
    pub action: String,
    /// What the model says that it is for.
    pub purpose: Option<String>,
    /// How much it could break.
    pub risk: Risk,
}

/// What the user answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// Do it.
    Once,
    /// Do it, and ask no more in this session.
    Session,
    /// Do not; the reason goes to the model.
    Denied {
        /// What the user said, where they said something.
        reason: Option<String>,
    },
    /// End the turn: the user pressed Ctrl-C, or there is nobody to ask any more.
    Abort,
}

/// Asks the user.
#[async_trait]
pub trait Approver: Send + Sync + fmt::Debug {
    /// Asks, and waits for the answer for as long as it takes.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question; nothing is approved.
    async fn ask(&self, request: &ApprovalRequest) -> Approval;
}
