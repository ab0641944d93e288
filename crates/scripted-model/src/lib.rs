//! A model server on the loopback that says what a [`Script`] tells it.
//!
//! It speaks OpenAI's chat completions, Anthropic's messages and Ollama's native chat, streaming and
//! not, asks for any tool calls, and can fail in every way that a real server or the way to it fails.
//! For tests, benchmarks and the demonstration; never a part of what is shipped.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use forge_scripted_model::{Script, ScriptedModel};
//!
//! let server = ScriptedModel::start(Script::shell_commands(3)).await?;
//! let openai_base_url = format!("{}/v1", server.base_url());
//! // ... let an agent talk to it ...
//! assert!(server.requests().is_empty());
//! # drop(openai_base_url);
//! # Ok(())
//! # }
//! ```

mod body;
mod fault;
mod record;
mod request;
mod script;
mod server;
mod wire;

pub use fault::{Fault, FaultKind, Place};
pub use record::{RecordedRequest, ToolResultOrderError};
pub use script::{Answer, Call, Delivery, Finish, Script, TokenCount};
pub use server::{ScriptedModel, StartOptions};
