//! The real binary, with a cleared environment, a home of its own, and no network but loopback.

#![cfg(test)]

#[cfg(target_os = "linux")]
mod apply;
mod completions;
#[cfg(target_os = "linux")]
mod diff;
mod exec;
#[cfg(target_os = "linux")]
mod gate;
mod git;
mod harness;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod interrupt;
#[cfg(target_os = "linux")]
mod leftovers;
mod live;
#[cfg(target_os = "linux")]
mod lying;
#[cfg(target_os = "linux")]
#[path = "../../../infra-tensorlake/tests/relay/mod.rs"]
mod relay;
#[cfg(target_os = "linux")]
mod resume;
#[cfg(target_os = "linux")]
mod sandbox;
mod serve;
#[cfg(target_os = "linux")]
mod setup;
mod shell;
mod signals;
mod task;
mod tensorlake;
mod terminal;
#[cfg(target_os = "linux")]
mod trouble;
mod usage;
