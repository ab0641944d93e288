//! Text from outside, made harmless: what a command printed, what a model wrote, what a file holds.
//!
//! Nothing here trusts its input. Control characters could repaint the user's terminal or hide a
//! part of a command from the person who is asked to approve it.

/// Text of a command, readable and without control characters but tab and line feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PlainText {
    /// The text.
    pub(crate) text: String,
    /// How many runs of bytes were no UTF-8; each is shown as U+FFFD.
    pub(crate) invalid_runs: usize,
    /// How many control characters were shown as an escape, those of terminal sequences aside.
    pub(crate) controls: usize,
}

impl PlainText {
    /// Whether this was no text to begin with: more than one character in ten was unreadable.
    pub(crate) fn looks_binary(&self) -> bool {
        let unreadable = self.invalid_runs + self.controls;
        unreadable > 8 && unreadable * 10 > self.text.chars().count()
    }
}

/// Reads what a command wrote as a terminal would have shown it, colours and cursor movements left
/// out. A carriage return inside a line, as of a progress bar, begins a new line, so that nothing
/// is lost.
pub(crate) fn from_terminal(bytes: &[u8]) -> PlainText {
    let mut reader = TerminalReader::default();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            reader.take(character);
        }
        if !chunk.invalid().is_empty() {
            reader.plain.invalid_runs += 1;
            reader.take(char::REPLACEMENT_CHARACTER);
        }
    }
    reader.plain
}

/// Where in a terminal sequence the reader is (ECMA-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sequence {
    #[default]
    Outside,
    /// After ESC and intermediate bytes.
    Escape,
    /// After `ESC [`, until its final byte.
    Control,
    /// In an operating system command or another string, until BEL, `ESC \` or the end of the line.
    Text,
    /// After ESC within a string.
    TextEscape,
}

#[derive(Debug, Default)]
struct TerminalReader {
    plain: PlainText,
    sequence: Sequence,
    carriage_return: bool,
}

impl TerminalReader {
    fn take(&mut self, character: char) {
        self.sequence = match (self.sequence, character) {
            (Sequence::Outside, '\u{1b}') => Sequence::Escape,
            (Sequence::Outside, _) => {
                self.show(character);
                Sequence::Outside
            }
            (Sequence::Escape, '[') => Sequence::Control,
            (Sequence::Escape, ']' | 'P' | 'X' | '^' | '_') => Sequence::Text,
            (Sequence::Escape, ' '..='/') => Sequence::Escape,
            (Sequence::Escape, '0'..='~') => Sequence::Outside,
            (Sequence::Control, ' '..='?') => Sequence::Control,
            (Sequence::Control, '@'..='~') => Sequence::Outside,
            (Sequence::Text, '\u{7}') => Sequence::Outside,
            (Sequence::Text, '\u{1b}') => Sequence::TextEscape,
            (Sequence::Text, '\n') => return self.restart(character),
            (Sequence::Text, _) => Sequence::Text,
            (Sequence::TextEscape, '\\') => Sequence::Outside,
            // A sequence that breaks off is over, and what follows it is ordinary again.
            (Sequence::Escape | Sequence::Control | Sequence::TextEscape, _) => {
                return self.restart(character);
            }
        };
    }

    fn restart(&mut self, character: char) {
        self.sequence = Sequence::Outside;
        self.take(character);
    }

    fn show(&mut self, character: char) {
        if character == '\r' {
            self.carriage_return = true;
            return;
        }
        if std::mem::take(&mut self.carriage_return) && character != '\n' {
            self.plain.text.push('\n');
        }
        if character == '\n' || character == '\t' {
            self.plain.text.push(character);
        } else if push_visible(&mut self.plain.text, character) {
            self.plain.controls += 1;
        }
    }
}

/// Adds a character, a control character as its escape. Says whether it was one.
fn push_visible(text: &mut String, character: char) -> bool {
    let hidden = character.is_control() || reorders(character);
    if !hidden {
        text.push(character);
    } else if character.is_ascii() {
        text.push_str(&format!("\\x{:02x}", u32::from(character)));
    } else {
        text.extend(character.escape_unicode());
    }
    hidden
}

/// Whether it changes the order in which the characters around it are shown.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of a file: control characters are shown as escapes, tabs stay.
pub(crate) fn file_line(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        if character == '\t' {
            text.push('\t');
        } else {
            push_visible(&mut text, character);
        }
    }
    text
}

/// The whole of a text on one line: line ends are shown as `⏎`, control characters as escapes.
pub(crate) fn whole_on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.trim().chars() {
        match character {
            '\n' => line.push_str(" ⏎ "),
            '\t' => line.push(' '),
            _ => {
                push_visible(&mut line, character);
            }
        }
    }
    line
}

/// The longest line that [`one_line`] makes, in characters.
const MAX_LINE_CHARACTERS: usize = 200;

/// The beginning of a text on one line.
pub(crate) fn one_line(text: &str) -> String {
    // Cut first: the text may have megabytes.
    let trimmed = text.trim();
    let end = trimmed.char_indices().nth(MAX_LINE_CHARACTERS).map_or(trimmed.len(), |(at, _)| at);
    let line = whole_on_one_line(&trimmed[..end]);
    if end < trimmed.len() { format!("{line}…") } else { line }
}

/// A text of at most about `max_bytes`: its beginning and its end, and between them what is missing.
pub(crate) fn cut_middle(text: String, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text;
    }
    let head = text.floor_char_boundary(max_bytes / 2);
    let tail = text.ceil_char_boundary(text.len() - max_bytes / 2);
    format!("{}\n[… {} bytes left out …]\n{}", &text[..head], tail - head, &text[tail..])
}

/// A number of bytes for people: `512 bytes`, `1.5 KiB`, `3.0 MiB`.
pub(crate) fn byte_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} {}", if bytes == 1 { "byte" } else { "bytes" });
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// A count with its noun: `1 line`, `2 lines`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match (number, noun.ends_with("ch")) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{number} {noun}es"),
        (_, false) => format!("{number} {noun}s"),
    }
}

/// A duration for people: `80 ms`, `1.2 s`, `5 min`, `1 h 5 min`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 if duration.subsec_millis() < 50 => format!("{seconds} s"),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_titles_and_cursor_movements_are_left_out() {
        let actual = from_terminal(
            b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b(B\x1b[2K\x1bM!",
        );
        assert_eq!(actual, PlainText { text: "red xlink!".to_owned(), ..PlainText::default() });
    }

    #[test]
    fn a_title_that_never_ends_swallows_no_more_than_its_line() {
        assert_eq!(from_terminal(b"a\x1b]0;title\nb").text, "a\nb");
    }

    #[test]
    fn a_progress_bar_becomes_lines_and_crlf_one_line_end() {
        assert_eq!(from_terminal(b"10%\r20%\r\nok\r\n").text, "10%\n20%\nok\n");
    }

    #[test]
    fn control_characters_and_invalid_utf8_are_shown_and_counted() {
        let actual = from_terminal(b"a\x00b\x08\xff\xfec\xc3");
        let expected = PlainText {
            text: "a\\x00b\\x08\u{fffd}\u{fffd}c\u{fffd}".to_owned(),
            invalid_runs: 3,
            controls: 2,
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn random_bytes_look_binary_and_text_with_a_few_of_them_does_not() {
        let random: Vec<u8> =
            (0..2000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert!(from_terminal(&random).looks_binary());
        assert!(!from_terminal("übung macht den meister \u{7}".as_bytes()).looks_binary());
    }

    #[test]
    fn a_line_shows_what_would_hide_a_part_of_it() {
        let actual = whole_on_one_line("ls \u{1b}[8m; rm -rf x\n\u{202e}echo\r\n");
        assert_eq!(actual, "ls \\x1b[8m; rm -rf x ⏎ \\u{202e}echo");
    }

    #[test]
    fn a_long_line_is_shortened() {
        let actual = one_line(&"é".repeat(300));
        assert_eq!(actual, format!("{}…", "é".repeat(200)));
        assert_eq!(one_line(" short "), "short");
    }

    #[test]
    fn the_middle_is_cut_at_characters() {
        assert_eq!(cut_middle("äöü".to_owned(), 100), "äöü");
        assert_eq!(cut_middle("ääääää".to_owned(), 6), "ä\n[… 8 bytes left out …]\nä");
    }

    #[test]
    fn sizes_counts_and_durations_read_well() {
        let sizes = [1, 1023, 1024, 1_610_612_736].map(byte_size);
        assert_eq!(sizes, ["1 byte", "1023 bytes", "1.0 KiB", "1.5 GiB"]);
        assert_eq!([count(1, "line"), count(2, "match")], ["1 line", "2 matches"]);
        let durations = [80, 1000, 1250, 300_000, 90_000, 3_900_000]
            .map(|milliseconds| duration(Duration::from_millis(milliseconds)));
        assert_eq!(durations, ["80 ms", "1 s", "1.2 s", "5 min", "1 min 30 s", "1 h 5 min"]);
    }

    proptest! {
        #[test]
        fn no_control_character_survives(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let actual = from_terminal(&bytes);
            let control = |c: char| c.is_control() && c != '\n' && c != '\t';
            prop_assert!(!actual.text.chars().any(control), "{actual:?}");
            let line = one_line(&String::from_utf8_lossy(&bytes));
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}
