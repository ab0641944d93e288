//! The fake environment.

mod background;
mod environment;
mod files;
mod levers;
mod ports;
mod process;
mod search;
mod tree;

pub use environment::FakeEnvironment;
pub use levers::Levers;
