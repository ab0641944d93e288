//! Output of commands as lines for a person: cleaned, shortened, and no more than a few.

use forge_api::OutputStream;
use unicode_width::UnicodeWidthChar;

use crate::terminal::clean_line;

/// How many lines of a call are shown as they come; the rest is counted.
const SHOWN_LINES: usize = 10;

/// How much of a line is kept while it is not complete.
const LINE_BYTES: usize = 4096;

/// The lines of one call's output.
#[derive(Debug, Default)]
pub(super) struct LiveLines {
    stdout: Partial,
    stderr: Partial,
    shown: usize,
    hidden: usize,
}

/// A line that is not complete.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// A carriage return was the last byte: the next one writes over the line.
    returned: bool,
}

impl LiveLines {
    /// Takes output and returns the lines to show, which it completed.
    pub(super) fn push(&mut self, stream: OutputStream, bytes: &[u8]) -> Vec<String> {
        let partial = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let mut lines = Vec::new();
        let mut rest = bytes;
        while self.shown < SHOWN_LINES {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                partial.append(rest);
                return lines;
            };
            partial.append(&rest[..end]);
            rest = &rest[end + 1..];
            self.shown += 1;
            lines.push(partial.take());
        }
        // What is not shown is only counted, so that a gigabyte of it costs little.
        if let Some(last) = rest.iter().rposition(|byte| *byte == b'\n') {
            self.hidden += rest[..=last].iter().filter(|byte| **byte == b'\n').count();
            *partial = Partial::default();
            rest = &rest[last + 1..];
        }
        partial.append(rest);
        lines
    }

    /// Takes what was left without a line break, and says how many lines were not shown.
    pub(super) fn finish(&mut self) -> (Vec<String>, usize) {
        let mut lines = Vec::new();
        for partial in [&mut self.stdout, &mut self.stderr] {
            if partial.bytes.is_empty() {
                continue;
            }
            let line = partial.take();
            if self.shown < SHOWN_LINES {
                self.shown += 1;
                lines.push(line);
            } else {
                self.hidden += 1;
            }
        }
        (lines, self.hidden)
    }
}

impl Partial {
    fn append(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\r') {
            if self.returned {
                self.bytes.clear();
                self.returned = false;
            }
            let (part, returned) = match part.strip_suffix(b"\r") {
                Some(part) => (part, true),
                None => (part, false),
            };
            let room = LINE_BYTES.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(&part[..part.len().min(room)]);
            self.returned = returned;
        }
    }

    fn take(&mut self) -> String {
        self.returned = false;
        let bytes = std::mem::take(&mut self.bytes);
        clean_line(&String::from_utf8_lossy(&bytes))
    }
}

/// Shortens a line to so many columns, with a mark where something is missing.
pub(super) fn fit(line: &str, columns: usize) -> String {
    let width = |character: char| character.width().unwrap_or(0);
    if line.chars().map(width).sum::<usize>() <= columns {
        return line.to_owned();
    }
    let mut used = 1;
    let kept = line.chars().take_while(|character| {
        used += width(*character);
        used <= columns
    });
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn lines_are_shown_when_they_are_complete() {
        let mut lines = LiveLines::default();
        assert_eq!(lines.push(OutputStream::Stdout, b"a\nb"), ["a"]);
        assert_eq!(lines.push(OutputStream::Stderr, b"e\n"), ["e"]);
        assert_eq!(lines.push(OutputStream::Stdout, b"c\n"), ["bc"]);
        assert_eq!(lines.push(OutputStream::Stdout, b"end"), Vec::<String>::new());
        assert_eq!(lines.finish(), (vec!["end".to_owned()], 0));
    }

    #[test]
    fn what_exceeds_the_limit_is_counted() {
        let mut lines = LiveLines::default();
        let actual = lines.push(OutputStream::Stdout, "x\n".repeat(25).as_bytes());
        assert_eq!(actual.len(), SHOWN_LINES);
        assert_eq!(lines.finish(), (Vec::new(), 25 - SHOWN_LINES));
    }

    #[test]
    fn what_is_only_counted_may_come_in_any_pieces() {
        let output = "x\n".repeat(20) + "left over";
        for size in [1, 3, 7, output.len()] {
            let mut lines = LiveLines::default();
            let pieces = output.as_bytes().chunks(size);
            let shown = pieces.flat_map(|piece| lines.push(OutputStream::Stdout, piece)).count();
            let (rest, hidden) = lines.finish();
            assert_eq!((shown, rest, hidden), (SHOWN_LINES, Vec::new(), 21 - SHOWN_LINES));
        }
    }

    #[test]
    fn a_progress_bar_is_one_line_and_windows_line_ends_are_line_ends() {
        let mut lines = LiveLines::default();
        assert_eq!(lines.push(OutputStream::Stdout, b"10%\r50%\r100%\ndone\r\n"), ["100%", "done"]);
        assert_eq!(lines.push(OutputStream::Stdout, b"1%\r"), Vec::<String>::new());
        assert_eq!(lines.push(OutputStream::Stdout, b"2%\r"), Vec::<String>::new());
        assert_eq!(lines.finish(), (vec!["2%".to_owned()], 0));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut lines = LiveLines::default();
        for _ in 0..1000 {
            lines.push(OutputStream::Stdout, &[b'x'; 4096]);
        }
        assert_eq!(lines.finish().0[0].len(), LINE_BYTES);
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(fit("漢字漢字", 8), "漢字漢字");
        assert_eq!(fit("漢字漢字", 7), "漢字漢…");
        assert_eq!(fit("abc", 2), "a…");
    }
}
