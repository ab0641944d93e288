//! The embedded Linux sandbox as an environment.

#![expect(dead_code, reason = "the pieces are put together in a later change")]

mod beneath;
mod channel;
mod helper;
mod hook;
mod layers;
mod run;
mod session;
mod spec;

pub use hook::{HelperProgram, sandbox_hook};
pub use layers::Layers;
