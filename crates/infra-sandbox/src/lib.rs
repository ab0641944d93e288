//! The embedded Linux sandbox as an environment.

#![cfg_attr(not(test), expect(dead_code, reason = "the pieces are put together in a later change"))]

mod beneath;
