//! The port to what remembers, on this machine, the sandboxes that were made elsewhere.

use std::fmt;

use crate::BoxedError;

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

    /// It is left to whoever asked for that, with nothing in it that has to be fetched.
    ///
    /// # Errors
    /// It cannot be written down.
    fn keep(&self, name: &str) -> Result<(), BoxedError>;

    /// It is gone.
    ///
    /// # Errors
    /// It cannot be written down.
    fn forget(&self, name: &str) -> Result<(), BoxedError>;
}
