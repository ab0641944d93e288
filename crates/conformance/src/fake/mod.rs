//! The fake environment.

mod background;
mod environment;
mod files;
mod levers;
mod ports;
mod process;
mod program;
mod pump;
mod search;
mod terminal;
mod tree;

pub use environment::FakeEnvironment;
pub use levers::Levers;
