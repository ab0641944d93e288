//! The port for commands that go on while others run: servers, watchers.

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::{
    BackgroundId, Chunk, CommandError, CommandRequest, Ending, EnvironmentError, StopMethod,
};

/// A position in the output of a background command: bytes of both streams, in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct OutputOffset(pub u64);

/// What a background command did since an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundStatus {
    /// The output from [`BackgroundStatus::skipped_bytes`] after the offset on, in order of arrival.
    pub output: Vec<Chunk>,
    /// How many bytes after the offset are no longer kept: an environment keeps at least the last
    /// 256 KiB of each background command.
    pub skipped_bytes: u64,
    /// The offset to ask from next time.
    pub next: OutputOffset,
    /// How it ended; `None` while it runs. Once it has ended, no more output follows `next`.
    pub ending: Option<Ending>,
    /// What it took to end it, where it did not end by itself.
    pub stopped_by: Option<StopMethod>,
}

/// A background command in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundSummary {
    /// Its id.
    pub id: BackgroundId,
    /// How it ended; `None` while it runs.
    pub ending: Option<Ending>,
}

/// Why a background command could not be asked.
#[derive(Debug, Error)]
pub enum BackgroundError {
    /// There is no background command of this id in this environment.
    #[error("there is no background command {id}")]
    NotFound {
        /// The id that was asked for.
        id: BackgroundId,
    },
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Starts commands that go on, follows and ends them.
///
/// A background command reads `/dev/null`, has a group of its own, is subject to its request's time
/// limit if it has one, and lives until it ends, is stopped, or the environment is closed.
/// [`CommandRequest::output_limits`] do not apply; see [`BackgroundStatus::skipped_bytes`].
#[async_trait]
pub trait BackgroundCommands: Send + Sync {
    /// Starts a command and returns at once.
    ///
    /// # Errors
    /// As [`Commands::run`](crate::Commands::run): it did not start.
    ///
    /// # Cancel safety
    /// A dropped future has either started nothing or has left a command that
    /// [`BackgroundCommands::list_background`] shows.
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError>;

    /// Says what came after `since`. Waits for at most `wait` until there is something to say: new
    /// output, or the end.
    ///
    /// An offset beyond the output is taken as its end. The same offset can be asked for again.
    ///
    /// # Errors
    /// [`BackgroundError::NotFound`]; or the environment failed.
    ///
    /// # Cancel safety
    /// Changes nothing: the command goes on and no output is lost.
    async fn poll(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
        wait: Duration,
    ) -> Result<BackgroundStatus, BackgroundError>;

    /// Ends a command and its children (SIGTERM, the request's grace, SIGKILL) and says what came
    /// after `since`. A command that had ended before keeps its ending.
    ///
    /// # Errors
    /// As [`BackgroundCommands::poll`].
    ///
    /// # Cancel safety
    /// Once polled, the command is ended even if the future is dropped.
    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError>;

    /// All background commands of this environment, in order of their start, those that have ended
    /// included.
    ///
    /// # Errors
    /// The environment failed.
    ///
    /// # Cancel safety
    /// Changes nothing.
    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError>;
}
