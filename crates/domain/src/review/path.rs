//! Paths of a change set that may reach the host.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The longest path in bytes, with room for what stands before it (path_resolution(7): `PATH_MAX` is 4096).
const MAX_PATH_BYTES: usize = 4000;

/// The longest name in bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// The deepest path, in names.
const MAX_DEPTH: usize = 256;

/// A path beneath the workspace that could be written on the host: relative, without `.` and `..`,
/// without control characters, nowhere beneath a `.git`, and short enough for every file system.
///
/// What is not such a path is never brought to the host, whatever the user says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReviewedPath(PathBuf);

/// Why a path is none that could be written on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum PathRefusal {
    /// It names nothing.
    #[error("the path is empty")]
    Empty,
    /// It begins at the root.
    #[error("the path is absolute")]
    Absolute,
    /// It holds `.`, `..` or an empty name.
    #[error("the path holds `.` or `..`")]
    NotNormal,
    /// It holds a control character: a line break or an escape, say.
    #[error("the name holds a control character")]
    ControlCharacter,
    /// One of its names is `.git`, or what some file system takes for it.
    #[error("it is a file of git's own; commits come back as refs")]
    Git,
    /// It is longer than 4000 bytes, one of its names is longer than 255, or it has more than 256 names.
    #[error("the path is too long")]
    TooLong,
}

impl ReviewedPath {
    /// Takes a path as it is in a change set.
    ///
    /// # Errors
    /// It is no path that may reach the host.
    pub fn parse(path: &Path) -> Result<Self, PathRefusal> {
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(PathRefusal::Empty);
        }
        if bytes[0] == b'/' {
            return Err(PathRefusal::Absolute);
        }
        // The path of a directory may end with a slash; a change set has none.
        if bytes.split(|byte| *byte == b'/').any(|name| matches!(name, b"" | b"." | b"..")) {
            return Err(PathRefusal::NotNormal);
        }
        if has_control_character(bytes) {
            return Err(PathRefusal::ControlCharacter);
        }
        let names = || bytes.split(|byte| *byte == b'/');
        if names().any(is_git) {
            return Err(PathRefusal::Git);
        }
        let is_long = bytes.len() > MAX_PATH_BYTES
            || names().any(|name| name.len() > MAX_NAME_BYTES)
            || names().count() > MAX_DEPTH;
        if is_long {
            return Err(PathRefusal::TooLong);
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(PathRefusal::NotNormal);
        }
        Ok(Self(path.to_path_buf()))
    }

    /// The path, relative to the workspace.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The directories above it, the nearest first, without the workspace itself.
    pub fn parents(&self) -> impl Iterator<Item = Self> {
        let above = self.0.ancestors().skip(1);
        above.filter(|path| !path.as_os_str().is_empty()).map(|path| Self(path.to_path_buf()))
    }
}

impl AsRef<Path> for ReviewedPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for ReviewedPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

impl fmt::Debug for ReviewedPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReviewedPath({:?})", self.0)
    }
}

/// C0, DEL, and where the name is UTF-8, C1.
fn has_control_character(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| *byte < 0x20 || *byte == 0x7f)
        || std::str::from_utf8(bytes).is_ok_and(|text| text.chars().any(char::is_control))
}

/// `.git` as ext4, APFS and HFS+, NTFS and FAT would take it: any letter case, characters that HFS+ ignores, the
/// short name, a trailing dot or space, a stream's name.
fn is_git(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return name.eq_ignore_ascii_case(b".git") };
    let seen: String = text.chars().filter(|character| !is_ignored_by_hfs(*character)).collect();
    let seen = seen.to_ascii_lowercase();
    let stem = seen.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    matches!(stem, ".git" | "git~1")
}

/// What HFS+ leaves out of a comparison (Apple's TN1150, "Unicode subtleties").
fn is_ignored_by_hfs(character: char) -> bool {
    matches!(character, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn refusal(path: &str) -> Option<PathRefusal> {
        ReviewedPath::parse(Path::new(path)).err()
    }

    #[test]
    fn only_a_normal_path_beneath_the_workspace_is_one() {
        for path in ["a", "a/b", ".gitignore", ".github/x", "-rf", "a b", "é", "git", ".gitx"] {
            assert_eq!(refusal(path), None, "{path}");
        }
        for (path, expected) in [
            ("", PathRefusal::Empty),
            ("/etc/passwd", PathRefusal::Absolute),
            ("..", PathRefusal::NotNormal),
            ("a/../../b", PathRefusal::NotNormal),
            ("a/./b", PathRefusal::NotNormal),
            ("a//b", PathRefusal::NotNormal),
            ("a/", PathRefusal::NotNormal),
            ("a\nb", PathRefusal::ControlCharacter),
            ("a\u{1b}[31m", PathRefusal::ControlCharacter),
            ("a\u{85}b", PathRefusal::ControlCharacter),
            ("a\0b", PathRefusal::ControlCharacter),
        ] {
            assert_eq!(refusal(path), Some(expected), "{path:?}");
        }
        assert_eq!(refusal(&"x".repeat(255)), None);
        assert_eq!(refusal(&"x".repeat(256)), Some(PathRefusal::TooLong));
        assert_eq!(refusal("x/".repeat(300).trim_end_matches('/')), Some(PathRefusal::TooLong));
    }

    #[test]
    fn git_is_known_in_every_spelling() {
        for name in [
            ".git",
            ".GIT",
            ".Git.",
            ".git ",
            "git~1",
            "GIT~1",
            ".g\u{200c}it",
            ".git::$INDEX_ALLOCATION",
        ] {
            for path in [name.to_owned(), format!("a/{name}/hooks/x"), format!("{name}/config")] {
                assert_eq!(refusal(&path), Some(PathRefusal::Git), "{path:?}");
            }
        }
    }
}
