//! What is to be done in an environment before the first tool acts there.

use std::fmt;

use async_trait::async_trait;

use crate::{EventSink, TurnError};

/// Sets an environment up before tools act there.
#[async_trait]
pub trait Setup: fmt::Debug + Send + Sync {
    /// Does what is due. Called in the turn, when the environment is there and before the calls of each answer are carried
    /// out: it has to be quick where nothing is due.
    ///
    /// # Errors
    /// What ends the turn; none of the calls is carried out.
    ///
    /// # Cancel safety
    /// Dropped where the turn is cancelled. What runs is ended by that, and counts as not done.
    async fn set_up(&self, events: &mut dyn EventSink) -> Result<(), TurnError>;
}
