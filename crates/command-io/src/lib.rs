//! A command's output on its way to the caller, for adapters that read it from pipes.
//!
//! [`Pump`] reads both pipes into the sink, the bounded buffer and, where that is too small, a file in
//! the environment. [`BackgroundCommand`] keeps the end of the output of a command that nobody waits
//! for. Nothing here knows how a command is started or ended.

mod background;
mod pump;
mod spill;

pub use background::BackgroundCommand;
pub use pump::{Pump, SpillMaker};
