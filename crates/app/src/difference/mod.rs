//! What two versions of files differ in: lines, words in them, and files that moved. Pure; contents
//! come in as bytes of any encoding.

mod renames;
mod text;

pub use renames::{Movable, Moved, Side, renames};
pub use text::{Highlights, Hunk, Line, LineKind, Piece, hunks, looks_binary};
