//! Review over real sessions: what a session wrote in the sandbox, on a real tree, with a program that is killed.

#![cfg(test)]

#[cfg(target_os = "linux")]
mod crash;
#[cfg(target_os = "linux")]
mod model;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
mod regressions;
#[cfg(target_os = "linux")]
mod trace;
