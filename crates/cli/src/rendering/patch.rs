//! Differences of files as `git diff` shows them, so that `git apply` takes what is written to a file.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use forge_api::difference::{Highlights, Hunk, LineKind, Piece, hunks, looks_binary};

use crate::terminal::{Paint, Role};

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// A file on one side.
#[derive(Debug)]
pub(crate) struct FileSide {
    /// Type and permission bits (stat(2)).
    pub(crate) mode: u32,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// What it holds; of a symlink, the target.
    pub(crate) contents: io::Result<Vec<u8>>,
}

/// A file that was changed.
#[derive(Debug)]
pub(crate) struct ChangedFile<'a> {
    /// Where it was.
    pub(crate) old_path: &'a Path,
    /// Where it is: elsewhere if it moved.
    pub(crate) new_path: &'a Path,
    /// What it was.
    pub(crate) old: Option<FileSide>,
    /// What it is.
    pub(crate) new: Option<FileSide>,
    /// Of one that moved: how much of it stayed the same, in hundredths.
    pub(crate) similarity: Option<u8>,
}

/// Who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    /// A terminal: what would steer it is made visible.
    Terminal,
    /// A file or a program: contents are as they are, to the byte.
    Exact,
}

/// How it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PatchStyle {
    pub(crate) paint: Paint,
    pub(crate) screen: Screen,
}

impl PatchStyle {
    /// Appends the differences of one file.
    pub(crate) fn write(self, file: ChangedFile<'_>, text: &mut Vec<u8>) {
        let ChangedFile { old_path, new_path, old, new, similarity } = file;
        match (old, new) {
            (Some(old), Some(new)) if kind(old.mode) != kind(new.mode) => {
                // As git has it: one is gone, another is new.
                self.one(old_path, new_path, Some(old), None, None, text);
                self.one(old_path, new_path, None, Some(new), None, text);
            }
            (old, new) => self.one(old_path, new_path, old, new, similarity, text),
        }
    }

    fn one(
        self,
        old_path: &Path,
        new_path: &Path,
        old: Option<FileSide>,
        new: Option<FileSide>,
        similarity: Option<u8>,
        text: &mut Vec<u8>,
    ) {
        if let Some(mode) = [&old, &new].into_iter().flatten().map(|side| side.mode).next()
            && !matches!(kind(mode), REGULAR | SYMLINK)
        {
            self.no_file(new_path, &old, &new, text);
            return;
        }
        let (old_name, new_name) = (quoted("a/", old_path), quoted("b/", new_path));
        self.header(&[b"diff --git ", &*old_name, b" ", &*new_name].concat(), text);
        match (&old, &new) {
            (None, Some(new)) => {
                self.header(format!("new file mode {:o}", git_mode(new.mode)).as_bytes(), text);
            }
            (Some(old), None) => {
                self.header(format!("deleted file mode {:o}", git_mode(old.mode)).as_bytes(), text);
            }
            (Some(old), Some(new)) if old.mode != new.mode => {
                // What git knows of a mode, unless that is the same.
                let shown = |mode| match git_mode(old.mode) == git_mode(new.mode) {
                    true => mode,
                    false => git_mode(mode),
                };
                self.header(format!("old mode {:o}", shown(old.mode)).as_bytes(), text);
                self.header(format!("new mode {:o}", shown(new.mode)).as_bytes(), text);
            }
            _ => {}
        }
        if let Some(similarity) = similarity {
            self.header(format!("similarity index {similarity}%").as_bytes(), text);
            self.header(&[b"rename from ", &*quoted("", old_path)].concat(), text);
            self.header(&[b"rename to ", &*quoted("", new_path)].concat(), text);
        }
        self.body((&old_name, old.as_ref()), (&new_name, new.as_ref()), text);
    }

    fn body(
        self,
        (old_name, old): (&[u8], Option<&FileSide>),
        (new_name, new): (&[u8], Option<&FileSide>),
        text: &mut Vec<u8>,
    ) {
        let none: &[u8] = b"/dev/null";
        let (old_name, new_name) = (
            if old.is_some() { old_name } else { none },
            if new.is_some() { new_name } else { none },
        );
        let bytes = |side: Option<&FileSide>| match side.map(|side| &side.contents) {
            None => Ok(Vec::new()),
            Some(Ok(contents)) => Ok(contents.clone()),
            Some(Err(error)) => Err(error.kind()),
        };
        let (before, after) = match (bytes(old), bytes(new)) {
            (Ok(before), Ok(after)) if !looks_binary(&before) && !looks_binary(&after) => {
                (before, after)
            }
            (before, after) => {
                if before != after || before.is_err() {
                    let reason = match (before, after) {
                        (Err(kind), _) | (_, Err(kind)) if kind != io::ErrorKind::FileTooLarge => {
                            format!(" (cannot be read: {kind})")
                        }
                        _ => String::new(),
                    };
                    let size = |side: Option<&FileSide>| side.map_or(0, |side| side.size_bytes);
                    let (before, after) = (size(old), size(new));
                    let sizes = format!(" differ: {before} → {after} bytes{reason}\n");
                    text.extend([b"Binary files ", old_name, b" and ", new_name].concat());
                    text.extend(sizes.as_bytes());
                }
                return;
            }
        };
        if before == after {
            return;
        }
        let tab = |name: &[u8]| if name.contains(&b' ') { "\t" } else { "" };
        self.header(&[b"--- ", old_name, tab(old_name).as_bytes()].concat(), text);
        self.header(&[b"+++ ", new_name, tab(new_name).as_bytes()].concat(), text);
        let highlights = match self.paint {
            Paint::Colored => Highlights::Words,
            Paint::Plain => Highlights::None,
        };
        for hunk in hunks(&before, &after, highlights) {
            self.hunk(&hunk, text);
        }
    }

    fn hunk(self, hunk: &Hunk, text: &mut Vec<u8>) {
        let range = |range: &std::ops::Range<usize>| match range.len() {
            // Of no lines, the line before is named.
            0 => format!("{},0", range.start),
            1 => format!("{}", range.start + 1),
            count => format!("{},{count}", range.start + 1),
        };
        let place = format!("@@ -{} +{} @@", range(&hunk.old), range(&hunk.new));
        text.extend(self.paint.paint(Role::Place, &place).as_bytes());
        text.push(b'\n');
        for line in &hunk.lines {
            let (sign, plain, strong) = match line.kind {
                LineKind::Context => (" ", None, None),
                LineKind::Removed => ("-", Some(Role::Removed), Some(Role::RemovedWord)),
                LineKind::Added => ("+", Some(Role::Added), Some(Role::AddedWord)),
            };
            self.piece(sign.as_bytes(), plain, text);
            let ends = line.pieces.last().is_some_and(|piece| piece.text.ends_with(b"\n"));
            for Piece { text: piece, is_changed } in &line.pieces {
                let piece = piece.strip_suffix(b"\n").unwrap_or(piece);
                self.piece(piece, if *is_changed { strong } else { plain }, text);
            }
            text.push(b'\n');
            if !ends {
                text.extend(b"\\ No newline at end of file\n");
            }
        }
    }

    fn piece(self, piece: &[u8], role: Option<Role>, text: &mut Vec<u8>) {
        match (self.screen, role) {
            (Screen::Exact, None) => text.extend(piece),
            (Screen::Exact, Some(_)) if self.paint == Paint::Plain => text.extend(piece),
            (_, role) => {
                let piece = visible(piece);
                let painted = role.map(|role| self.paint.paint(role, &piece));
                text.extend(painted.unwrap_or(piece).as_bytes());
            }
        }
    }

    fn header(self, line: &[u8], text: &mut Vec<u8>) {
        match self.paint {
            Paint::Plain => text.extend(line),
            // Names are quoted, and of characters that need it no more is left.
            Paint::Colored => {
                let line = String::from_utf8_lossy(line);
                text.extend(self.paint.paint(Role::Strong, &line).as_bytes());
            }
        }
        text.push(b'\n');
    }

    /// What git keeps no account of: a line for people, which `git apply` passes over.
    fn no_file(
        self,
        path: &Path,
        old: &Option<FileSide>,
        new: &Option<FileSide>,
        text: &mut Vec<u8>,
    ) {
        let name = |mode| match kind(mode) {
            DIRECTORY => "directory",
            0o010_000 => "named pipe",
            0o140_000 => "socket",
            _ => "device",
        };
        let what = match (old, new) {
            (None, Some(new)) => format!("new {}, mode {:o}", name(new.mode), new.mode & 0o7777),
            (Some(old), None) => format!("deleted {}", name(old.mode)),
            (Some(old), Some(new)) => {
                let (before, after) = (old.mode & 0o7777, new.mode & 0o7777);
                format!("{}: mode {before:o} → {after:o}", name(new.mode))
            }
            (None, None) => return,
        };
        let line = [b"# ", &*quoted("", path), b": ", what.as_bytes()].concat();
        self.header(&line, text);
    }
}

fn kind(mode: u32) -> u32 {
    mode & TYPE
}

/// A mode as git keeps it: of a file, whether it can be executed.
fn git_mode(mode: u32) -> u32 {
    match kind(mode) {
        REGULAR if mode & 0o111 != 0 => 0o100_755,
        REGULAR => 0o100_644,
        other => other,
    }
}

/// A name as git prints it: between quotes where it holds what would be taken for something else
/// (git-config(1), `core.quotePath` off). Bytes that are no UTF-8 and characters that steer a terminal are escaped.
pub(crate) fn quoted(prefix: &str, path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let mut inner = String::from(prefix);
    let mut is_plain = true;
    let mut escape = |inner: &mut String, text: &str| {
        is_plain = false;
        inner.push_str(text);
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => escape(&mut inner, "\\\""),
                '\\' => escape(&mut inner, "\\\\"),
                '\n' => escape(&mut inner, "\\n"),
                '\t' => escape(&mut inner, "\\t"),
                '\r' => escape(&mut inner, "\\r"),
                character if steers(character) => {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        escape(&mut inner, &format!("\\{byte:03o}"));
                    }
                }
                character => inner.push(character),
            }
        }
        for byte in chunk.invalid() {
            escape(&mut inner, &format!("\\{byte:03o}"));
        }
    }
    if is_plain { inner.into_bytes() } else { format!("\"{inner}\"").into_bytes() }
}

/// Whether a terminal obeys a character, or shows what comes after it elsewhere.
pub(crate) fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text without anything that a terminal would obey, and with what was there to be seen.
fn visible(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match u32::from(character) {
                0x09 => shown.push(character),
                code @ 0..0x20 => {
                    shown.push('^');
                    shown.extend(char::from_u32(code + 0x40));
                }
                0x7f => shown.push_str("^?"),
                code if steers(character) => shown.push_str(&format!("<U+{code:04X}>")),
                _ => shown.push(character),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("<{byte:02X}>"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn side(mode: u32, contents: &[u8]) -> Option<FileSide> {
        let size_bytes = contents.len() as u64;
        Some(FileSide { mode, size_bytes, contents: Ok(contents.to_vec()) })
    }

    fn shown(
        style: PatchStyle,
        path: &str,
        old: Option<FileSide>,
        new: Option<FileSide>,
    ) -> String {
        let mut text = Vec::new();
        let path = Path::new(path);
        let file = ChangedFile { old_path: path, new_path: path, old, new, similarity: None };
        style.write(file, &mut text);
        String::from_utf8(text).unwrap()
    }

    const EXACT: PatchStyle = PatchStyle { paint: Paint::Plain, screen: Screen::Exact };
    const COLORED: PatchStyle = PatchStyle { paint: Paint::Colored, screen: Screen::Terminal };

    #[test]
    fn changed_lines_have_their_place_and_a_missing_newline_is_said() {
        let actual = shown(EXACT, "a b", side(0o100_644, b"1\n2\n"), side(0o100_755, b"1\n3"));
        let expected = "diff --git a/a b b/a b\nold mode 100644\nnew mode 100755\n--- a/a b\t\n+++ b/a b\t\n\
                        @@ -1,2 +1,2 @@\n 1\n-2\n+3\n\\ No newline at end of file\n";
        assert_eq!(actual, expected);
    }

    #[test]
    fn new_gone_and_empty_files_are_told() {
        let new = shown(EXACT, "x", None, side(0o100_600, b"1\n"));
        let expected =
            "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+1\n";
        assert_eq!(new, expected);
        let gone = shown(EXACT, "x", side(0o100_644, b""), None);
        assert_eq!(gone, "diff --git a/x b/x\ndeleted file mode 100644\n");
    }

    #[test]
    fn a_file_that_became_a_symlink_is_gone_and_a_symlink_is_new() {
        let actual = shown(EXACT, "x", side(0o100_644, b"1\n"), side(0o120_777, b"target"));
        let expected = "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n\
                        diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n\
                        +target\n\\ No newline at end of file\n";
        assert_eq!(actual, expected);
    }

    #[test]
    fn what_is_binary_too_large_or_no_file_is_summed_up() {
        let binary = shown(EXACT, "x", side(0o100_644, b"\0"), side(0o100_644, b"\0\0"));
        assert_eq!(binary, "diff --git a/x b/x\nBinary files a/x and b/x differ: 1 → 2 bytes\n");
        let large = FileSide {
            mode: 0o100_644,
            size_bytes: 1 << 40,
            contents: Err(io::ErrorKind::FileTooLarge.into()),
        };
        let large = shown(EXACT, "x", None, Some(large));
        assert!(large.ends_with("/dev/null and b/x differ: 0 → 1099511627776 bytes\n"), "{large}");
        let pipe = shown(EXACT, "x", None, side(0o010_644, b""));
        assert_eq!(pipe, "# x: new named pipe, mode 644\n");
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_reaches_it() {
        let contents = "\u{1b}]0;title\u{7}\t\u{202e}evil\u{9b}31m\r\n".as_bytes();
        let actual = shown(COLORED, "n\u{1b}[2J\u{202e}", None, side(0o100_644, contents));
        let mut without_colors = actual.clone();
        for code in ["1", "32", "36", "0"] {
            without_colors = without_colors.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert!(!without_colors.chars().any(|c| steers(c) && c != '\n' && c != '\t'), "{actual:?}");
        assert!(actual.contains("^[]0;title^G\t<U+202E>evil<U+009B>31m^M"), "{actual}");
        assert!(actual.contains(r#""b/n\033[2J\342\200\256""#), "{actual}");
        // To a file, it is what it is.
        assert!(shown(EXACT, "x", None, side(0o100_644, contents)).contains("\u{1b}]0;title"));
    }

    #[test]
    fn words_that_changed_are_set_off() {
        let old = side(0o100_644, b"let a = 1;\n");
        let actual = shown(COLORED, "x", old, side(0o100_644, b"let b = 1;\n"));
        let expected = "\u{1b}[31m-\u{1b}[0m\u{1b}[31mlet \u{1b}[0m\u{1b}[7;31ma\u{1b}[0m\u{1b}[31m = 1;\u{1b}[0m\n";
        assert!(actual.contains(expected), "{actual:?}");
    }
}
