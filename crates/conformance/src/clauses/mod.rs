//! The clauses: what the ports promise, one function each.
//!
//! A clause makes what it needs through the ports, waits only on states and within bounds, and says by
//! its name what holds.

pub mod background;
pub mod changes;
pub mod commands;
pub mod description;
pub mod files;
pub mod life;
pub mod search;
pub mod terminals;

mod endings;
mod probe;
mod streams;
