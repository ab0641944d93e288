//! A server that speaks Tensorlake's sandbox interface over the embedded sandbox.
//!
//! [`Server`] listens on one port, for the lifecycle of sandboxes and for what goes on in them. Each
//! sandbox is a session of `forge-infra-sandbox` with a root of its own of which every path can be
//! written, and whose commands see each other's processes. What it answers, and what it refuses with 501,
//! is in `docs/serve.md`; the vendor's published clients are its tests.

#![cfg(target_os = "linux")]

mod config;
mod connections;
mod failure;
mod key;
mod lines;
mod log;
mod process;
mod registry;
mod routes;
mod sandbox;
mod server;
mod state;
mod terminal;
mod wire;

pub use config::{RunRoute, ServerConfig};
/// What a program that starts servers calls first thing in its `main`, and names as the helper.
pub use forge_infra_sandbox::{HelperProgram, sandbox_hook};
pub use key::ApiKey;
pub use server::{Server, ServerError};
pub use state::StateError;
