//! The server by its routes, as a client sees it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod access;
mod attached;
mod bad_input;
mod connections;
mod ends;
mod files;
mod lifecycle;
mod load;
mod processes;
mod socket;
mod stage;
mod streams;
mod suspension;
mod terminals;
