//! The strict in-memory environment, and the conformance suite of the ports.
//!
//! [`FakeEnvironment`] keeps every promise of the ports without a process or a disk, and has levers for
//! what goes wrong: [`Levers`]. [`conformance_suite!`] makes one named test per clause and adapter.
//!
//! A clause says what a command does by a [`Scenario`]: steps that any POSIX shell carries out, and
//! that the fake carries out itself.
//!
//! # Where adapters may differ
//!
//! Only through [`Capabilities`](forge_domain::Capabilities), and only here:
//!
//! | capability | clauses that ask for it |
//! |---|---|
//! | `change_tracking` | `changes::*`: tracked, or `NotTracked` from both calls |
//! | `streams_exact_bytes` | `commands::readable_output_keeps_its_text`: exact, or without the final newline |
//! | `finds_detached_children` | `commands::daemons_end_with_their_leader`, `commands::dropping_the_future_ends_the_children`, `background::stopping_ends_it_and_its_children`: daemons, or children in the group |

#![expect(
    clippy::unwrap_used,
    reason = "a development crate: a clause that cannot go on has failed, and says where"
)]

pub mod clauses;
mod fake;
mod scenario;
mod suite;

pub use fake::{FakeEnvironment, Levers};
pub use scenario::{Scenario, Step};
pub use suite::{Fixture, run_clause};
