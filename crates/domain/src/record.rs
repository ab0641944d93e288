//! The port to what remembers, on this machine, the sandboxes that were made elsewhere.

use std::fmt;

use crate::BoxedError;

/// A sandbox that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSandbox {
    /// What it was asked for by.
    pub name: String,
    /// The server's id for it.
    pub id: String,
    /// What [`keep`](SandboxRecord::keep) was given; `None` where that is worth nothing any more, since its changes were
    /// discarded: then it cannot be gone on with.
    pub state: Option<Vec<u8>>,
}

/// Writes down what a sandbox elsewhere is found again by, however this process ends: whoever reads it later ends the sandbox,
/// and fetches before that what was changed in it.
///
/// The calls block, and what they were told survives a loss of power when they return. A sandbox is called by the name that
/// it was asked for with, which no other one ever has.
pub trait SandboxRecord: Send + Sync + fmt::Debug {
    /// One of this name is about to be asked for. Nothing is sent before this returns.
    ///
    /// # Errors
    /// It cannot be written down; then none is asked for.
    fn begin(&self, name: &str) -> Result<(), BoxedError>;

    /// The server has given it this id.
    ///
    /// # Errors
    /// It cannot be written down. The name is known all the same.
    fn identify(&self, name: &str, id: &str) -> Result<(), BoxedError>;

    /// What is changed in it from now on is told by this state, which means something only to the adapter that gives it. It
    /// takes the place of the one before.
    ///
    /// # Errors
    /// It cannot be written down; then nothing is to be changed in the sandbox.
    fn fill(&self, name: &str, state: &[u8]) -> Result<(), BoxedError>;

    /// It is left for later, with nothing in it that has to be fetched. The state tells whoever goes on with it what it has;
    /// without one, what was written down before stays.
    ///
    /// # Errors
    /// It cannot be written down.
    fn keep(&self, name: &str, state: Option<&[u8]>) -> Result<(), BoxedError>;

    /// The one that was kept and can be gone on with; `None` where there is none.
    ///
    /// # Errors
    /// What was written down cannot be read.
    fn kept(&self) -> Result<Option<KeptSandbox>, BoxedError>;

    /// It is gone on with: from now on there may be changes in it that are nowhere else.
    ///
    /// # Errors
    /// It cannot be written down; then it is not gone on with.
    fn take_up(&self, name: &str) -> Result<(), BoxedError>;

    /// It is gone.
    ///
    /// # Errors
    /// It cannot be written down.
    fn forget(&self, name: &str) -> Result<(), BoxedError>;
}
