//! The clauses: what the ports promise, one function each.
