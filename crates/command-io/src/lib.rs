//! A command's output on its way to the caller, for adapters that read it from pipes or from a
//! pseudo-terminal.
//!
//! [`Pump`] reads both pipes into the sink, the bounded buffer and, where that is too small, a file in
//! the environment. [`BackgroundCommand`] keeps the end of the output of a command that nobody waits
//! for. [`TerminalPump`] carries what is typed and shown on a terminal. Nothing here knows how a command is started or ended.

mod background;
mod pump;
mod spill;
mod terminal;

pub use background::BackgroundCommand;
pub use pump::{Pump, SpillMaker};
pub use terminal::{Terminal, TerminalPump, resize};
