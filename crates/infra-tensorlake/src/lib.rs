//! Tensorlake's sandboxes, Firecracker microVMs behind an HTTP interface.
//!
//! What is here: the life of a sandbox ([`TensorlakeSandbox`]), which is made lazily, once, and deleted
//! exactly once, whatever happens; and the decoder of the event stream ([`sse`]), which does no I/O.
//! Commands, files and search are not here yet, so this is no
//! [`ExecutionEnvironment`](forge_domain::ExecutionEnvironment) yet, and `forge` does not offer it.
//!
//! None of this was run against the production service.

mod address;
mod client;
mod config;
mod failure;
mod lifecycle;
mod retry;
mod sandbox;
pub mod sse;
mod wire;

pub use address::AddressError;
pub use config::{ConfigError, Resources, TensorlakeConfig};
pub use sandbox::TensorlakeSandbox;
