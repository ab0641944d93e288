//! A server on the loopback that speaks the part of Tensorlake's sandbox interface that Forge uses, and
//! really executes. For tests and benchmarks; it isolates nothing.
//!
//! Processes run as the caller, on this machine. What keeps a test's project safe is
//! [`ServerOptions::workspace`]: with it, processes run in a mount namespace in which the workspace and
//! `/tmp` are directories of the server's own.
//!
//! It has two manners ([`Daemon`]): the newer daemon's, with `run`, a group for each process, and leftovers
//! reaped; and the open daemon's, without any of that and with its faults in reading output.

mod api;
mod namespace;
mod processes;
mod sandboxes;
mod server;
mod terminals;

pub use server::{Creation, Daemon, RecordedRequest, ServerOptions, TestServer};
