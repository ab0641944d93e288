//! The `forge` command.
//!
//! This crate is the only room that prints, asks, reads environment variables and chooses exit
//! codes. It decides nothing about how commands run or what a model is told: it turns arguments into
//! a [`forge_api::ForgeConfig`], and events into text or JSON.

mod arguments;
mod choice;
mod configuration;
mod exec;
mod exit;
mod failure;
mod interactive;
mod logging;
mod model;
mod program;
mod questions;
mod rendering;
mod settings;
mod signals;
mod stdin;
mod task;
mod terminal;
mod turn;
mod variables;
mod writer;

fn main() {
    let code = program::run();
    // Everything is flushed and closed here; a thread that still waits for stdin must not hold the
    // process, so `main` does not return.
    std::process::exit(i32::from(code.number()))
}
