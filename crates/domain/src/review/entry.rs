//! What stands at a path.

use std::fmt;
use std::path::PathBuf;

/// The BLAKE3 hash of a file's contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes the 32 bytes of a hash.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits of a hash; `None` where it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, place) in bytes.iter_mut().zip(0..) {
            *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({self})")
    }
}

/// What stands at a path. Of modes, only the permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A regular file.
    File {
        /// Its size.
        size_bytes: u64,
        /// What it holds.
        digest: Digest,
        /// Its permission bits, those for setuid, setgid and sticky included.
        mode: u32,
    },
    /// A symlink.
    Symlink {
        /// Where it points, as it is written.
        target: PathBuf,
    },
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
    },
    /// A device, a socket or a pipe.
    Special,
}

/// What stood at a path when the session began to differ from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Base {
    /// This.
    Known(Entry),
    /// Nothing.
    Absent,
    /// Nobody can say: the host's file was changed before it could be looked at.
    Unknown,
}

impl Base {
    /// Whether it is known to have been this; nothing, for `None`.
    #[must_use]
    pub fn is(&self, entry: Option<&Entry>) -> bool {
        match self {
            Self::Known(base) => entry == Some(base),
            Self::Absent => entry.is_none(),
            Self::Unknown => false,
        }
    }
}
