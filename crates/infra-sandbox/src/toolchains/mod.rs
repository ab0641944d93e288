//! What of the user's home is shown so that their programs work: the toolchains that `PATH` and the
//! usual variables reach, and nothing else.

mod known;
mod logins;
mod masks;
mod plan;
mod reach;
mod refusal;
mod shown;
mod trail;

#[cfg(test)]
mod refused;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

pub use known::TOOLCHAIN_VARIABLES;
pub(crate) use logins::holds_login;
pub(crate) use plan::{ToolchainAccess, ToolchainInput, plan};
