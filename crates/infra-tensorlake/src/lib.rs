//! Tensorlake's sandboxes, Firecracker microVMs behind an HTTP interface, as an environment.
//!
//! [`TensorlakeEnvironment`] implements the ports. A sandbox is made lazily, once, and deleted exactly once,
//! whatever happens. Commands are texts for the guest's shell (`guest`), started by one request each and
//! followed to their end also over a stream that breaks (`process`, `follow`). The event stream is decoded
//! without I/O ([`sse`]).
//!
//! Where a [`source`](TensorlakeConfig::source) is given, the project is brought into a new sandbox before anything is
//! done there (`bring_in`), and what is changed is handed over to be kept (`bring_back`). None of this was run against the
//! production service.

mod address;
mod background;
mod bring_back;
mod bring_in;
mod client;
mod commands;
mod config;
mod creation;
mod description;
mod emit;
mod environment;
mod failure;
mod feed;
mod files;
mod follow;
mod guest;
mod lifecycle;
mod place;
mod ports;
mod process;
mod progress;
mod record;
mod retry;
mod sandboxes;
mod scripts;
mod search;
mod spill;
pub mod sse;
mod terminal;
mod upload;
mod wire;

pub use address::AddressError;
pub use bring_back::{GuestRefs, RepositoryOrigin};
pub use config::{ConfigError, Resources, TensorlakeConfig};
pub use environment::{TensorlakeEnvironment, wait_for_reapers};
pub use place::guest_path;
pub use progress::{Progress, ProgressListener};
pub use sandboxes::{FoundSandbox, SandboxStanding, Sandboxes};
