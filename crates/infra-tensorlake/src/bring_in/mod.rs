//! The way in: the project as it is on the host, into a sandbox that has just been made.
//!
//! One archive in pieces, unpacked beside its check: the guest's own hash of what arrived, and how many paths came of
//! it. A workspace that is not whole carries no mark, and nothing is done in one without it.

mod go_on;
mod history;
mod pack;
mod run;
mod small;
mod take_in;
#[cfg(test)]
mod tests;

pub(crate) use pack::SentPath;
pub(crate) use run::{BringIn, MARK as PROJECT_MARK};
