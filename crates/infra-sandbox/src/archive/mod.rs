//! A layer in a file, for state directories whose file system cannot hold one.
//!
//! The file is a tar archive that only forge reads: what tar has no place for is in the contents of
//! its entries. Of a symlink, they are its target; of a hard link, the path of the first; of a
//! directory, `y` where it is opaque. A white-out is what it is in the layer, a character device 0:0.
//! The nanoseconds of a time stand where GNU tar has another time. Extended attributes other than the overlay's marks, and sockets, are left out.

mod pack;
mod unpack;

#[cfg(test)]
mod tests;

pub(crate) use pack::pack;
pub(crate) use unpack::{holds, unpack};

/// The contents of an opaque directory's entry.
const OPAQUE: &[u8] = b"y";
