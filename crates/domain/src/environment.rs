//! The unit that an adapter implements, and its life.

use std::fmt;

use async_trait::async_trait;
use thiserror::Error;

use crate::{
    BackgroundCommands, Changes, Commands, Describe, EnvironmentKind, Files, Search, Terminals,
};

/// The environment itself failed: not a command, not a file. Ends a turn with a message to the user.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// It was closed, and is never opened again.
    #[error("the {environment} environment is closed")]
    Closed {
        /// Which.
        environment: EnvironmentKind,
    },
    /// It could not be made or is not to be had here.
    #[error("the {environment} environment cannot be had: {reason}")]
    Unavailable {
        /// Which.
        environment: EnvironmentKind,
        /// What is missing and what to do about it, for a person.
        reason: String,
        /// What was tried and failed.
        #[source]
        source: Option<BoxedError>,
    },
    /// It does not accept who we are: a wrong or expired key, a missing permission.
    #[error("the {environment} environment refused access: {reason}")]
    AccessRefused {
        /// Which.
        environment: EnvironmentKind,
        /// What to check, for a person. Never the key.
        reason: String,
    },
    /// It was there and can no longer be reached, or answers what makes no sense.
    #[error("contact with the {environment} environment was lost during {operation}")]
    ContactLost {
        /// Which.
        environment: EnvironmentKind,
        /// What was being done.
        operation: String,
        /// How it failed.
        #[source]
        source: Option<BoxedError>,
    },
}

/// An adapter's own error as the source of a port's error.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl EnvironmentError {
    /// Whether the same call may work if it is made again a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ContactLost { .. } => true,
            Self::Closed { .. } | Self::Unavailable { .. } | Self::AccessRefused { .. } => false,
        }
    }
}

/// The life of an environment.
///
/// It is made lazily, by the first call that needs it, once, however many calls come at the same
/// moment; it is shared by all who hold it, and ended exactly once.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    /// Makes the environment now, and whatever its first use takes, if it is not there yet. A hint for overlapping a slow
    /// start with other work: every other call, but for the description and the end, does the same by itself.
    ///
    /// # Errors
    /// The environment could not be made, or lacks what it needs. The next call tries again, unless it was closed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind that [`Lifecycle::close`] does not end.
    async fn prepare(&self) -> Result<(), EnvironmentError>;

    /// Brings to safety what would be lost were this process killed now. To be called at the end of each
    /// turn. Changes nothing that can be seen in the environment, and makes none that is not there.
    ///
    /// # Errors
    /// Something could not be brought to safety; nothing of it is lost yet.
    ///
    /// # Cancel safety
    /// A dropped future leaves what was safe before as safe as it was.
    async fn checkpoint(&self) -> Result<(), EnvironmentError>;

    /// Ends the environment: its background commands, running commands and scratch space.
    ///
    /// Idempotent: a second call, also one at the same moment, waits for the first and answers the
    /// same way. Closing what was never made does nothing. Afterwards every other call fails with
    /// [`EnvironmentError::Closed`]. Bounded: ten seconds beyond the grace of the commands running.
    ///
    /// # Errors
    /// Something could not be ended; the message says what is left, by its id.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the closing from being finished by another call.
    async fn close(&self) -> Result<(), EnvironmentError>;
}

/// Where the model's tools act: commands, files and all the rest as one thing.
///
/// Implemented for every type that implements the small ports; an adapter implements those.
pub trait ExecutionEnvironment:
    Commands
    + BackgroundCommands
    + Terminals
    + Files
    + Search
    + Describe
    + Changes
    + Lifecycle
    + fmt::Debug
    + Send
    + Sync
{
}

impl<T> ExecutionEnvironment for T where
    T: Commands
        + BackgroundCommands
        + Terminals
        + Terminals
        + Files
        + Search
        + Describe
        + Changes
        + Lifecycle
        + fmt::Debug
        + Send
        + Sync
{
}
