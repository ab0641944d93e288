//! The `forge` command.
//!
//! This crate is the only room that prints, asks, reads environment variables and chooses exit
//! codes. It decides nothing about how commands run or what a model is told: it turns arguments into
//! a [`forge_api::ForgeConfig`], and events into text or JSON.

#[cfg(target_os = "linux")]
mod apply;
mod arguments;
mod banner;
mod choice;
mod closing;
#[cfg(target_os = "linux")]
mod commits;
mod configuration;
#[cfg(target_os = "linux")]
mod diff;
#[cfg(target_os = "linux")]
mod doctor;
mod exec;
mod executor;
mod exit;
mod failure;
#[cfg(target_os = "linux")]
mod git;
mod interactive;
mod keyfile;
mod keys;
mod logging;
#[cfg(target_os = "linux")]
mod microvms;
mod model;
#[cfg(target_os = "linux")]
mod pager;
#[cfg(target_os = "linux")]
mod pending;
mod program;
mod questions;
mod rendering;
mod screen;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
mod sessions;
mod settings;
mod setup;
mod shell;
mod signals;
mod stdin;
mod task;
mod terminal;
mod turn;
mod variables;
mod waiting;
mod writer;

/// How long the deletion of what a failure left behind is waited for.
const REAPER_LIMIT: std::time::Duration = std::time::Duration::from_secs(12);

fn main() {
    // Before anything else: executed again, this program is the sandbox's helper.
    #[cfg(target_os = "linux")]
    forge_api::sandbox_hook();
    // What a panic unwinds drops its environment; the message is printed by then.
    let code = std::panic::catch_unwind(program::run);
    let left = forge_api::wait_for_reapers(REAPER_LIMIT);
    if left > 0 {
        failure::warn(&format!("{left} microVMs may still run"), terminal::Paint::Plain);
    }
    let code = code.unwrap_or_else(|_| exit::Conclusion::ForgeFailed.exit_code(exit::Verb::Exec));
    // Everything is flushed and closed here; a thread that still waits for stdin must not hold the
    // process, so `main` does not return.
    std::process::exit(i32::from(code.number()))
}
