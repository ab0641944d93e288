//! The agent on a stage: turns, tools and questions, over ports that follow a script.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod approval;
mod setup;
mod stage;
mod strict;
mod tools;
mod turns;
