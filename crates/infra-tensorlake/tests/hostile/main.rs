//! Servers that break the rules: nothing is lost, repeated or started twice, and nobody waits for ever.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails ends its test")]

mod answers;
mod gone;
mod nonsense;
mod root;
mod sandbox;
mod secret;
mod server;
mod silence;
mod streams;
mod terminals;
mod uploads;
