//! What a terminal can show, and what it must never be sent.
//!
//! Text of a model or of a command may hold escape sequences that change the title, the clipboard or
//! what stands elsewhere on the screen. [`Cleaner`] takes them out; nothing that forge itself composes
//! reaches a terminal without it. (`exec` is different: its output is the command's, byte by byte.)

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use forge_api::{OutputStream, TerminalSize};
use rustix::termios::{OptionalActions, QueueSelector, Termios};

use crate::arguments::ColorWhen;
use crate::variables;

/// Whether this is a terminal.
pub(crate) fn is_terminal(stream: OutputStream) -> bool {
    match stream {
        OutputStream::Stdout => rustix::termios::isatty(rustix::stdio::stdout()),
        OutputStream::Stderr => rustix::termios::isatty(rustix::stdio::stderr()),
    }
}

/// How many columns the terminal has; 80 where that is not known.
pub(crate) fn columns(stream: OutputStream) -> usize {
    let size = match stream {
        OutputStream::Stdout => rustix::termios::tcgetwinsize(rustix::stdio::stdout()),
        OutputStream::Stderr => rustix::termios::tcgetwinsize(rustix::stdio::stderr()),
    };
    match size {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// Whether to write colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Plain text.
    Plain,
    /// With SGR sequences.
    Colored,
}

/// A role that text plays, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Less important than the answer.
    Dim,
    /// The name of something.
    Strong,
    /// What was added.
    Good,
    /// What went wrong.
    Bad,
    /// What to look at.
    Warning,
    /// Where in a file something is.
    Place,
    /// A line that is new.
    Added,
    /// What in it is.
    AddedWord,
    /// A line that is gone.
    Removed,
    /// What in it is.
    RemovedWord,
}

impl Paint {
    /// Decides for a stream: the flag, then `NO_COLOR`, `TERM=dumb`, and whether it is a terminal.
    pub(crate) fn choose(when: ColorWhen, stream: OutputStream) -> Self {
        let auto = || {
            variables::path("NO_COLOR").is_none()
                && variables::path("TERM").is_some_and(|term| term.as_os_str() != "dumb")
                && is_terminal(stream)
        };
        let colored = match when {
            ColorWhen::Auto => auto(),
            ColorWhen::Always => true,
            ColorWhen::Never => false,
        };
        if colored { Self::Colored } else { Self::Plain }
    }

    /// Paints a text that holds no line break.
    pub(crate) fn paint(self, role: Role, text: &str) -> String {
        let code = match (self, role) {
            (Self::Plain, _) => return text.to_owned(),
            (Self::Colored, _) if text.is_empty() => return String::new(),
            (Self::Colored, Role::Dim) => "2",
            (Self::Colored, Role::Strong) => "1",
            (Self::Colored, Role::Good) => "32",
            (Self::Colored, Role::Bad) => "1;31",
            (Self::Colored, Role::Warning) => "33",
            (Self::Colored, Role::Place) => "36",
            (Self::Colored, Role::Added) => "32",
            (Self::Colored, Role::AddedWord) => "7;32",
            (Self::Colored, Role::Removed) => "31",
            (Self::Colored, Role::RemovedWord) => "7;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Takes out of a text what a terminal would obey: escape sequences, control characters except line
/// break and tab, and characters that turn the direction of writing. Sequences may be cut anywhere
/// between two pieces of the text. An escape sequence that never ends, ends with its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cleaner {
    state: Sequence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sequence {
    #[default]
    None,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character: one more follows.
    Intermediate,
    /// A control sequence (CSI): up to a character from `@` to `~`.
    Control,
    /// A string (OSC, DCS, APC, PM, SOS): up to BEL or ST.
    Text,
    /// ESC within a string: the first half of ST.
    TextEscape,
}

impl Cleaner {
    /// Cleans the next piece of a text.
    pub(crate) fn clean(&mut self, text: &str) -> String {
        text.chars().filter(|character| self.keeps(*character)).collect()
    }

    fn keeps(&mut self, character: char) -> bool {
        if character == '\n' {
            self.state = Sequence::None;
            return true;
        }
        let (state, keeps) = match (self.state, character) {
            (Sequence::None, '\t') => (Sequence::None, true),
            (Sequence::Text, '\x1b') => (Sequence::TextEscape, false),
            (Sequence::Text, '\x07' | '\u{9c}') => (Sequence::None, false),
            (Sequence::Text, _) => (Sequence::Text, false),
            (Sequence::TextEscape, '\\') => (Sequence::None, false),
            // What was taken for the first half of ST begins another sequence.
            (Sequence::TextEscape | Sequence::Escape, '[') => (Sequence::Control, false),
            (Sequence::TextEscape | Sequence::Escape, ']' | 'P' | 'X' | '^' | '_') => {
                (Sequence::Text, false)
            }
            (Sequence::TextEscape | Sequence::Escape, ' '..='/') => (Sequence::Intermediate, false),
            (_, '\x1b') => (Sequence::Escape, false),
            (_, '\u{9b}') => (Sequence::Control, false),
            (_, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => (Sequence::Text, false),
            (Sequence::Control, '@'..='~') => (Sequence::None, false),
            (Sequence::Control, ' '..='?') => (Sequence::Control, false),
            (Sequence::Intermediate, ' '..='/') => (Sequence::Intermediate, false),
            (Sequence::Escape | Sequence::Intermediate | Sequence::TextEscape, ' '..='~') => {
                (Sequence::None, false)
            }
            (_, character) => (Sequence::None, !character.is_control() && !turns(character)),
        };
        self.state = state;
        keeps
    }
}

/// Whether a character changes the direction in which others are shown.
fn turns(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cleans a whole text.
pub(crate) fn clean(text: &str) -> String {
    Cleaner::default().clean(text)
}

/// Cleans a whole text and makes one line of it.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', " ⏎ ").replace('\t', " ")
}

/// How large the terminal is; 80 by 24 where that is not known.
pub(crate) fn size() -> TerminalSize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize::new(size.ws_col, size.ws_row)
        }
        _ => TerminalSize::default(),
    }
}

static BEFORE: OnceLock<Termios> = OnceLock::new();

/// What has to be sent to the terminal when it is given back.
static OWED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// From now on every key comes as its bytes, and every byte is shown as it is. After [`remember`].
///
/// # Errors
/// Stdin is no terminal any more.
pub(crate) fn make_raw() -> io::Result<()> {
    let stdin = rustix::stdio::stdin();
    let mut modes = rustix::termios::tcgetattr(stdin)?;
    modes.make_raw();
    Ok(rustix::termios::tcsetattr(stdin, OptionalActions::Now, &modes)?)
}

/// Says what has to be sent to the terminal when it is given back, in place of what was said before.
pub(crate) fn owe(bytes: Vec<u8>) {
    *OWED.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
}

/// Throws away what was typed and not read.
pub(crate) fn forget_typed() {
    // A terminal that is gone has nothing typed.
    let _ = rustix::termios::tcflush(rustix::stdio::stdin(), QueueSelector::IFlush);
}

/// Gives the terminal back: what a program has left set there is undone, and the modes are as before.
/// Waits for nothing: a terminal that takes nothing gets only its modes.
pub(crate) fn give_back() {
    let owed = std::mem::take(&mut *OWED.lock().unwrap_or_else(PoisonError::into_inner));
    if !owed.is_empty() && crate::writer::is_writable(OutputStream::Stdout) {
        drop(crate::writer::write_all(OutputStream::Stdout, &owed));
    }
    if let Some(before) = BEFORE.get() {
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
    }
}

/// Remembers how the terminal is set, and sets it back when a thread panics. Before anything changes
/// it.
pub(crate) fn remember() {
    let Ok(before) = rustix::termios::tcgetattr(rustix::stdio::stdin()) else { return };
    if BEFORE.set(before).is_ok() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
    }
}

/// Sets the terminal back to what [`remember`] saw: its modes, no bracketed paste, a visible cursor.
/// May be called at any time and more than once.
pub(crate) fn restore() {
    let Some(before) = BEFORE.get() else { return };
    let stdin = rustix::stdio::stdin();
    let changed = match rustix::termios::tcgetattr(stdin) {
        Ok(now) => {
            now.local_modes != before.local_modes
                || now.input_modes != before.input_modes
                || now.output_modes != before.output_modes
        }
        Err(_) => true,
    };
    if changed {
        let owed = OWED.try_lock().map(|mut owed| std::mem::take(&mut *owed)).unwrap_or_default();
        drop(crate::writer::write_all(OutputStream::Stdout, &owed));
        // A terminal that is gone needs no restoring.
        let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Drain, before);
        let reset = b"\x1b[?2004l\x1b[?25h\r\n";
        drop(crate::writer::write_all(OutputStream::Stdout, reset));
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        for (text, expected) in [
            ("a\x1b[31mred\x1b[0m", "ared"),
            ("a\x1b]0;title\x07b", "ab"),
            ("a\x1b]52;c;aGk=\x1b\\b", "ab"),
            ("a\x1bP1$r\x1b\\b", "ab"),
            ("a\x1b(0b\x1b7c", "abc"),
            ("a\u{9b}31mb\u{9d}0;x\u{9c}c", "abc"),
            ("a\rb\x08c\x7f\0d", "abcd"),
            ("a\u{202e}b\u{2066}c", "abc"),
            ("tab\tand\nline é 漢", "tab\tand\nline é 漢"),
            ("a\x1b]0;never ends\nb", "a\nb"),
            ("\x1b\x1b[31mx", "x"),
            ("a\x1b]x\x1b[31mb", "ab"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sequences_may_be_cut_anywhere() {
        let text = "a\x1b[1;31mb\x1b]0;t\x1b\\c\x1b(0d";
        for at in 0..=text.len() {
            let mut cleaner = Cleaner::default();
            let actual = cleaner.clean(&text[..at]) + &cleaner.clean(&text[at..]);
            assert_eq!(actual, "abcd", "cut at {at}");
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(clean_line("a\nb\tc"), "a ⏎ b c");
    }
}
