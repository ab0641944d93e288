//! Language models behind [`forge_domain::LanguageModel`], on the `genai` crate.
//!
//! | provider     | wire format                  | key                  |
//! |--------------|------------------------------|----------------------|
//! | `openai`     | chat completions, always     | `OPENAI_API_KEY`     |
//! | `anthropic`  | messages                     | `ANTHROPIC_API_KEY`  |
//! | `openrouter` | chat completions             | `OPENROUTER_API_KEY` |
//! | `ollama`     | Ollama's own chat            | none                 |
//!
//! The variables are named for messages alone: nothing here reads the environment; the caller fills a
//! [`ModelConfig`]. The one exception is the proxy, which the HTTP client takes from the environment
//! as all programs do, and which is never used for a server on the loopback.
//!
//! # What `genai` cannot do
//! - A server of Anthropic's format that ends its lines with CR LF is misread where a read ends between
//!   the two. The answer then counts as broken off: a part of it is lost.
//! - Ollama's calls come whole and as JSON values: there the raw text of the arguments is the value,
//!   written again.
//! - A reply that is no stream of events, though its status says so, is unreadable, and what it says is
//!   not shown: `genai` drops the lines.
//! - The body of an error is read to its end, so that a server which sends one without an end is waited
//!   for without a limit. One that falls silent is not.
//! - What the model thought is shown and not sent back with the next request.

mod address;
mod answer;
mod calls;
mod chat_calls;
mod client;
mod config;
mod failure;
mod heard;
mod model;
mod provider;
mod request;
mod select;
mod server_text;

pub use config::ModelConfig;
pub use model::GenaiModel;
pub use provider::{
    DEFAULT_ANTHROPIC_MODEL, DEFAULT_OPENAI_MODEL, DEFAULT_OPENROUTER_MODEL, Provider,
};
pub use select::ModelConfigError;
