//! What goes over the wire, pinned: each request by its method, path, headers, body and place.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod elsewhere;
mod endings;
mod fallback;
mod guest;
mod requests;
mod run;
