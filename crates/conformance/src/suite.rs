//! From clauses to named tests.
