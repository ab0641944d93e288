//! The search port: the guest finds files and candidate lines, and what counts is decided here.
//!
//! The query's syntax is that of Rust's `regex`, which no guest has. Its `grep` is asked for the lines that
//! hold a literal without which the expression cannot match; where there is none, for all lines.

mod find;
mod matching;
mod rules;

pub(crate) use matching::Pattern;
pub(crate) use rules::Rules;
