//! A window onto the lines of a file that comes in blocks.

use crate::plain;

/// A longer line is cut to so many bytes.
pub(crate) const MAX_LINE_BYTES: usize = 2000;

/// Collects the lines of a range, numbered, within a limit of bytes. The memory it holds is bounded
/// by that limit and one line, whatever is pushed.
#[derive(Debug)]
pub(crate) struct LineWindow {
    start: u64,
    end: u64,
    max_bytes: usize,
    text: String,
    /// The beginning of the line that is not over yet, at most [`MAX_LINE_BYTES`] and a bit.
    line: Vec<u8>,
    line_bytes: usize,
    last_byte: u8,
    ended_lines: u64,
    last_line: Option<u64>,
    full: bool,
    over: bool,
    cut_lines: u64,
    crlf: bool,
    invalid_utf8: bool,
}

impl LineWindow {
    /// Shows the lines from `start` to `end`, both included and counted from 1.
    pub(crate) fn new(start: u64, end: u64, max_bytes: usize) -> Self {
        Self {
            start,
            end,
            max_bytes,
            text: String::new(),
            line: Vec::new(),
            line_bytes: 0,
            last_byte: b'\n',
            ended_lines: 0,
            last_line: None,
            full: false,
            over: false,
            cut_lines: 0,
            crlf: false,
            invalid_utf8: false,
        }
    }

    /// Takes the next block of the file.
    pub(crate) fn push(&mut self, block: &[u8]) {
        let mut begin = 0;
        if self.is_full() {
            // Only the number of lines is still of interest.
            self.ended_lines += memchr::memchr_iter(b'\n', block).count() as u64;
            begin = block.len();
        }
        while begin < block.len() {
            let newline = memchr::memchr(b'\n', &block[begin..]).map(|at| begin + at);
            let end = newline.unwrap_or(block.len());
            self.add(&block[begin..end]);
            begin = end;
            if newline.is_some() {
                begin += 1;
                self.end_line();
            }
        }
        if let Some(last) = block.last() {
            self.last_byte = *last;
        }
    }

    /// Says that the file is over.
    pub(crate) fn end(&mut self) {
        if self.last_byte != b'\n' {
            self.end_line();
        }
        self.over = true;
    }

    fn add(&mut self, bytes: &[u8]) {
        self.line_bytes += bytes.len();
        // One byte more than is shown: a carriage return at the end is not part of the line.
        let room = (MAX_LINE_BYTES + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        self.ended_lines += 1;
        let number = self.ended_lines;
        if (self.start..=self.end).contains(&number) && !self.full {
            self.show(number);
        }
        self.full |= number >= self.end;
        self.line.clear();
        self.line_bytes = 0;
    }

    fn show(&mut self, number: u64) {
        let mut bytes = &self.line[..];
        let mut line_bytes = self.line_bytes;
        if line_bytes == bytes.len()
            && let Some(rest) = bytes.strip_suffix(b"\r")
        {
            self.crlf = true;
            bytes = rest;
            line_bytes -= 1;
        }
        let cut = line_bytes > MAX_LINE_BYTES;
        if cut {
            bytes = &bytes[..whole_characters(&bytes[..MAX_LINE_BYTES])];
        }
        let line = String::from_utf8_lossy(bytes);
        let invalid = matches!(line, std::borrow::Cow::Owned(_));
        let mut shown = format!("{number:>6}\t{}", plain::file_line(&line));
        if cut {
            shown.push_str(&format!(" [… {} more bytes]", line_bytes - bytes.len()));
        }
        shown.push('\n');
        // The first line is always shown, so that reading on always comes further.
        if !self.text.is_empty() && self.text.len() + shown.len() > self.max_bytes {
            self.full = true;
            return;
        }
        self.text.push_str(&shown);
        self.last_line = Some(number);
        self.cut_lines += u64::from(cut);
        self.invalid_utf8 |= invalid;
    }

    /// The lines, each with its number and a tab before it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether no more of what comes will be shown.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether a line was shown, or the range has been passed.
    pub(crate) fn has_begun(&self) -> bool {
        self.last_line.is_some() || self.full
    }

    /// The number of the last line shown.
    pub(crate) fn last_line(&self) -> Option<u64> {
        self.last_line
    }

    /// How many lines the file has, where it was seen to its end.
    pub(crate) fn total_lines(&self) -> Option<u64> {
        self.over.then_some(self.ended_lines)
    }

    /// Whether the last byte seen was a newline.
    pub(crate) fn ends_with_newline(&self) -> bool {
        self.last_byte == b'\n'
    }

    /// How many of the lines shown were cut.
    pub(crate) fn cut_lines(&self) -> u64 {
        self.cut_lines
    }

    /// Whether a line shown ended with a carriage return.
    pub(crate) fn has_crlf(&self) -> bool {
        self.crlf
    }

    /// Whether a line shown held bytes that are no UTF-8.
    pub(crate) fn invalid_utf8(&self) -> bool {
        self.invalid_utf8
    }
}

/// The length of the beginning of `bytes` that does not end within a character.
pub(crate) fn whole_characters(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let begin = bytes[start..].iter().rposition(|byte| *byte >= 0xc0).map(|at| start + at);
    let Some(begin) = begin else { return bytes.len() };
    let needed = match bytes[begin] {
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    };
    if bytes.len() - begin < needed { begin } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    fn window(start: u64, end: u64, max_bytes: usize, blocks: &[&[u8]]) -> LineWindow {
        let mut window = LineWindow::new(start, end, max_bytes);
        for block in blocks {
            window.push(block);
        }
        window.end();
        window
    }

    #[test]
    fn a_range_is_shown_with_its_numbers_and_the_rest_is_counted() {
        let actual = window(2, 3, 1000, &[b"one\ntwo\nthr", b"ee\nfour\nfive"]);
        assert_eq!(actual.text(), "     2\ttwo\n     3\tthree\n");
        assert_eq!((actual.last_line(), actual.total_lines()), (Some(3), Some(5)));
        assert!(!actual.ends_with_newline());
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_call_and_one_line_always_fits() {
        let actual = window(1, 9, 20, &[b"aaaa\nbbbb\ncccc\n"]);
        assert_eq!(actual.text(), "     1\taaaa\n");
        assert_eq!((actual.last_line(), actual.total_lines()), (Some(1), Some(3)));
        assert_eq!(window(1, 9, 1, &[b"aaaa\n"]).text(), "     1\taaaa\n");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_and_says_how_much_is_missing() {
        let line = format!("{}é{}\n", "x".repeat(1999), "y".repeat(3000));
        let actual = window(1, 1, 10_000, &[line.as_bytes()]);
        assert_eq!(actual.text(), format!("     1\t{} [… 3002 more bytes]\n", "x".repeat(1999)));
        assert_eq!(actual.cut_lines(), 1);
    }

    #[test]
    fn carriage_returns_at_line_ends_are_left_out_and_noticed() {
        let actual = window(1, 9, 1000, &[b"a\r\nb\r\n"]);
        assert_eq!(actual.text(), "     1\ta\n     2\tb\n");
        assert!(actual.has_crlf());
    }

    #[test]
    fn characters_are_not_split() {
        let text = "aé€𝄞".as_bytes();
        let actual: Vec<usize> = (0..=text.len()).map(|n| whole_characters(&text[..n])).collect();
        assert_eq!(actual, [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10]);
    }

    proptest! {
        #[test]
        fn any_split_into_blocks_shows_the_same(
            text in "[ab\\r\\n]{0,60}", cut in 0..60usize, start in 1..6u64, length in 0..6u64,
        ) {
            let bytes = text.as_bytes();
            let (one, two) = bytes.split_at(cut.min(bytes.len()));
            let whole = window(start, start + length, 100, &[bytes]);
            let split = window(start, start + length, 100, &[one, two]);
            prop_assert_eq!(whole.text(), split.text());
            prop_assert_eq!(whole.total_lines(), split.total_lines());
            prop_assert_eq!(whole.last_line(), split.last_line());
        }
    }
}
