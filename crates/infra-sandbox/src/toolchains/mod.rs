//! What of the user's home is shown so that their programs work: the toolchains that `PATH` and the
//! usual variables reach, and nothing else.

mod known;
mod plan;
mod reach;

#[cfg(test)]
mod tests;

pub use known::TOOLCHAIN_VARIABLES;
pub(crate) use plan::{ToolchainAccess, ToolchainInput, plan};
