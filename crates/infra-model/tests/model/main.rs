//! The adapter against the scripted model server, in each wire format.
#![expect(clippy::unwrap_used, reason = "the functions that tests share fail as tests do")]

mod answers;
mod asked;
mod failures;
mod odd_servers;
mod proxies;
mod requests;
