//! The host's workspace as it goes into an environment that is not on this machine: which paths go along, and what is in
//! them.
//!
//! It reads and changes nothing. What git's ignore rules leave out stays behind, unless git tracks it, and so do what
//! `.forgeignore` leaves out, secrets, what is too large, and what is no file, directory or symlink; each with its reason.

mod beneath;
mod rules;
mod source;
#[cfg(test)]
mod tests;
mod tracked;

pub use source::HostSource;
