//! The agent: a language model that works on a project through tools.
//!
//! This crate holds the use cases over the ports of `forge-domain`. It starts no process, opens no
//! socket, reads no environment variable and prints nothing: an environment acts, a model answers,
//! an approver asks, and an event sink is told.

mod agent;
mod answer;
mod approval;
mod calls;
mod config;
mod conversation;
pub mod difference;
mod event;
mod plain;
mod prompt;
mod repetition;
pub mod review;
mod risk;
mod setup;
mod tools;
mod turn;
mod turn_loop;

pub use agent::Agent;
pub use config::{AgentConfig, AskPolicy};
pub use conversation::Conversation;
pub use event::{AgentEvent, EventSink, ToolOutcome};
pub use prompt::limit_text;
pub use setup::Setup;
pub use turn::{TurnError, TurnOutcome, TurnReport};
