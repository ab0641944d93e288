//! The lines that two texts differ in.

use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, ChangeTag, TextDiff};

/// So many lines are shown around a change.
const CONTEXT: usize = 3;

/// So long is compared; beyond it, the rest counts as replaced.
const MAX_TIME: Duration = Duration::from_millis(500);

/// Where a NUL byte is looked for, as git does.
const LOOKED_AT: usize = 8000;

/// Whether contents are no text: a NUL byte is near their beginning.
#[must_use]
pub fn looks_binary(contents: &[u8]) -> bool {
    memchr::memchr(0, &contents[..contents.len().min(LOOKED_AT)]).is_some()
}

/// Whether changed words are found within changed lines. That takes as long again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Highlights {
    /// Each line is one piece.
    None,
    /// Lines that became others are in pieces.
    Words,
}

/// Changed lines with what is around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The lines of the old text, counted from 0.
    pub old: Range<usize>,
    /// Those of the new one.
    pub new: Range<usize>,
    /// In order.
    pub lines: Vec<Line>,
}

/// A line of either text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of which.
    pub kind: LineKind,
    /// Together the line, with the newline at its end if it has one.
    pub pieces: Vec<Piece>,
}

/// Which text a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Both.
    Context,
    /// The old one.
    Removed,
    /// The new one.
    Added,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes.
    pub text: Vec<u8>,
    /// Whether it is what the line became another by.
    pub is_changed: bool,
}

/// The differences of two texts. Lines end with a newline byte; a carriage return is a part of its line.
/// Bounded in time: where the texts are too different to be compared in half a second, more lines
/// than need be are replaced.
#[must_use]
pub fn hunks(old: &[u8], new: &[u8], highlights: Highlights) -> Vec<Hunk> {
    let deadline = Instant::now() + MAX_TIME;
    let (old, new) = (lines(old), lines(new));
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(deadline)
        .diff_slices(&old, &new);
    let mut hunks = Vec::new();
    for group in diff.grouped_ops(CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let mut lines = Vec::new();
        for op in &group {
            match highlights {
                Highlights::None => lines.extend(diff.iter_changes(op).map(|change| {
                    let piece = Piece { text: change.value().to_vec(), is_changed: false };
                    Line { kind: kind(change.tag()), pieces: vec![piece] }
                })),
                Highlights::Words => {
                    let changes = diff.iter_inline_changes_deadline(op, Some(deadline));
                    lines.extend(changes.map(|change| {
                        let pieces = change.values().iter().map(|(is_changed, text)| Piece {
                            text: text.to_vec(),
                            is_changed: *is_changed,
                        });
                        Line { kind: kind(change.tag()), pieces: pieces.collect() }
                    }));
                }
            }
        }
        hunks.push(Hunk {
            old: first.old_range().start..last.old_range().end,
            new: first.new_range().start..last.new_range().end,
            lines,
        });
    }
    hunks
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn kind(tag: ChangeTag) -> LineKind {
    match tag {
        ChangeTag::Equal => LineKind::Context,
        ChangeTag::Delete => LineKind::Removed,
        ChangeTag::Insert => LineKind::Added,
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    /// The new text, from the old one and the differences.
    fn patched(old: &[u8], hunks: &[Hunk]) -> Vec<u8> {
        let old = lines(old);
        let (mut new, mut at) = (Vec::new(), 0);
        for hunk in hunks {
            new.extend(old[at..hunk.old.start].concat());
            for line in &hunk.lines {
                if line.kind != LineKind::Removed {
                    new.extend(line.pieces.iter().flat_map(|piece| piece.text.clone()));
                }
            }
            at = hunk.old.end;
        }
        new.extend(old[at..].concat());
        new
    }

    fn shown(hunks: &[Hunk]) -> Vec<String> {
        let lines = hunks.iter().flat_map(|hunk| &hunk.lines);
        lines
            .map(|line| {
                let pieces = line.pieces.iter().map(|piece| {
                    let text = String::from_utf8_lossy(&piece.text);
                    if piece.is_changed { format!("[{text}]") } else { text.into_owned() }
                });
                format!("{:?} {}", line.kind, pieces.collect::<String>())
            })
            .collect()
    }

    #[test]
    fn the_words_that_changed_are_told_apart() {
        let actual = hunks(b"one\nlet a = 1;\n", b"one\nlet b = 1;\n", Highlights::Words);
        let expected =
            ["Context one\n", "Removed let [a] = 1;\n", "Added let [b] = 1;\n"].map(String::from);
        assert_eq!(shown(&actual), expected);
    }

    #[test]
    fn a_carriage_return_and_a_missing_newline_are_differences() {
        let actual = hunks(b"a\r\nb\n", b"a\nb", Highlights::None);
        let expected = ["Removed a\r\n", "Removed b\n", "Added a\n", "Added b"].map(String::from);
        assert_eq!(shown(&actual), expected);
    }

    #[test]
    fn what_is_far_from_a_change_is_left_out() {
        let old: String = (0..100).map(|number| format!("{number}\n")).collect();
        let new = old.replace("\n10\n", "\nten\n").replace("\n90\n", "\n");
        let actual = hunks(old.as_bytes(), new.as_bytes(), Highlights::None);
        let ranges: Vec<_> =
            actual.iter().map(|hunk| (hunk.old.clone(), hunk.new.clone())).collect();
        assert_eq!(ranges, [(7..14, 7..14), (87..94, 87..93)]);
    }

    #[test]
    fn texts_that_have_nothing_in_common_are_compared_in_bounded_time() {
        let text = |seed: u64| -> Vec<u8> {
            let lines = (0..200_000_u64).map(|number| number.wrapping_mul(seed) % 1009);
            lines.flat_map(|number| format!("{number}\n").into_bytes()).collect()
        };
        let (old, new) = (text(7919), text(104_729));
        let begin = Instant::now();
        let actual = hunks(&old, &new, Highlights::Words);
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        assert_eq!(patched(&old, &actual), new);
    }

    proptest! {
        #[test]
        fn the_new_text_follows_from_the_old_one(
            old in "(([abc]{0,3}\r?\n){0,20})[abc]{0,2}",
            new in "(([abc]{0,3}\r?\n){0,20})[abc]{0,2}",
        ) {
            for highlights in [Highlights::None, Highlights::Words] {
                let actual = hunks(old.as_bytes(), new.as_bytes(), highlights);
                prop_assert_eq!(patched(old.as_bytes(), &actual), new.as_bytes());
            }
        }
    }
}
