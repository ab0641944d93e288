//! The search port's call on the trees, by descriptor, on the crates that `ripgrep` is made of.

mod lines;
mod query;
mod rules;
#[cfg(test)]
mod tests;
