//! What a program of the environment may do to the user's terminal.
//!
//! A shell needs its sequences: colours, the cursor, the alternate screen, the mouse. Others make the
//! terminal act for the guest: set the clipboard, open links and files, print, move windows, tell what
//! is on the screen, or answer with a text of the guest's, which would be typed into whatever reads the
//! terminal then. [`Screen`] passes on what is in its lists and drops the rest, whole: a terminal never
//! sees a part of a sequence, and a sequence that is cut off at the end is never sent.
//!
//! `docs/shell.md` has the lists in words.

use std::collections::BTreeSet;

/// Longer sequences are dropped.
const MAX_CONTROL_BYTES: usize = 256;
const MAX_TEXT_BYTES: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// Private modes that may be set and reset (DECSET, DECRST): keys, cursor, mouse, focus, paste, screens,
/// synchronized output. Not among them is 3, which makes the window wider.
const MODES: [u16; 29] = [
    1, 5, 6, 7, 8, 9, 12, 25, 45, 47, 66, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016,
    1034, 1036, 1039, 1047, 1048, 1049, 2004, 2026,
];
/// Of these, the ones that are set to begin with.
const SET_AT_FIRST: [u16; 3] = [7, 8, 25];
/// Those that nobody has to undo: they do something once, end by themselves, or begin as the user has
/// set them.
const LEFT_ALONE: [u16; 5] = [1007, 1034, 1036, 1048, 2026];
/// Those that show another screen.
const SCREENS: [u16; 3] = [47, 1047, 1049];

/// Passes on what may be passed on, and knows what has to be undone.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    state: State,
    /// The bytes of a character of UTF-8 that is not complete yet.
    character: Vec<u8>,
    /// What was collected of a sequence.
    sequence: Vec<u8>,
    changed: Changed,
    has_asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC; the intermediate characters are collected.
    Escape,
    /// A control sequence (CSI).
    Control,
    /// A string that may be passed on (OSC).
    Command,
    /// Any other string (DCS, APC, PM, SOS, and the title of `screen`).
    Text,
}

/// What differs from a terminal that nobody has used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Changed {
    modes: BTreeSet<u16>,
    keypad: bool,
    charsets: bool,
    margins: bool,
    insert: bool,
    cursor_style: bool,
    modified_keys: bool,
    /// How often the keyboard's flags were pushed.
    keyboards: u8,
}

impl Screen {
    /// What of these bytes is to be shown. They may be cut anywhere.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.take(*byte, &mut out);
        }
        out
    }

    /// Whether the terminal was asked anything, whose answer may still be on its way.
    pub(crate) fn has_asked(&self) -> bool {
        self.has_asked
    }

    /// What sets the terminal back to how programs expect it. Nothing, where everything was undone.
    pub(crate) fn undo(&self) -> Vec<u8> {
        let Changed {
            modes,
            keypad,
            charsets,
            margins,
            insert,
            cursor_style,
            modified_keys,
            keyboards,
        } = &self.changed;
        let mut out = Vec::new();
        let mode = |mode: &u16| {
            let set = if SET_AT_FIRST.contains(mode) { 'h' } else { 'l' };
            format!("\x1b[?{mode}{set}").into_bytes()
        };
        let (screens, others): (Vec<u16>, Vec<u16>) =
            modes.iter().partition(|mode| SCREENS.contains(mode));
        out.extend(others.iter().flat_map(mode));
        if *insert {
            out.extend(b"\x1b[4l");
        }
        if *modified_keys {
            out.extend(b"\x1b[>4m");
        }
        if *keyboards > 0 {
            out.extend(format!("\x1b[<{keyboards}u").bytes());
        }
        if *keypad {
            out.extend(b"\x1b>");
        }
        if *charsets {
            out.extend(b"\x0f\x1b(B");
        }
        if *cursor_style {
            out.extend(b"\x1b[0 q");
        }
        if *margins {
            // This moves the cursor, which is to stay.
            out.extend(b"\x1b7\x1b[r\x1b8");
        }
        out.extend(screens.iter().flat_map(mode));
        if !out.is_empty() {
            out.extend(b"\x1b[m");
        }
        out
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.continues_character(byte) {
            self.character.push(byte);
            if self.character.len() < length_of_character(self.character[0]) {
                return;
            }
        } else {
            self.give_up_character(out);
            if byte >= 0xc2 && length_of_character(byte) > 1 {
                self.character.push(byte);
                return;
            }
            return self.take_single(byte, out);
        }
        let character = std::mem::take(&mut self.character);
        match std::str::from_utf8(&character) {
            // A control character of the second set is ESC and a letter, in two bytes.
            Ok(_) if character[0] == 0xc2 && character[1] < 0xa0 => {
                self.take_single(ESC, out);
                self.take_single(character[1] - 0x40, out);
            }
            Ok(_) => self.take_text(&character, out),
            Err(_) => character.iter().for_each(|byte| self.take_stray(*byte, out)),
        }
    }

    fn continues_character(&self, byte: u8) -> bool {
        !self.character.is_empty() && (0x80..0xc0).contains(&byte)
    }

    fn give_up_character(&mut self, out: &mut Vec<u8>) {
        for byte in std::mem::take(&mut self.character) {
            self.take_stray(byte, out);
        }
    }

    /// A byte that belongs to no character: to a terminal without UTF-8 it is one by itself, or a control
    /// character, which nobody needs.
    fn take_stray(&mut self, byte: u8, out: &mut Vec<u8>) {
        if byte >= 0xa0 {
            self.take_text(&[byte], out);
        }
    }

    fn take_text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.state {
            State::Ground => out.extend_from_slice(bytes),
            State::Command => self.sequence.extend_from_slice(bytes),
            State::Text => {}
            // No sequence holds such a character.
            State::Escape | State::Control => {
                self.state = State::Ground;
                out.extend_from_slice(bytes);
            }
        }
    }

    fn take_single(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (_, 0x80..) => self.take_stray(byte, out),
            (State::Command, BEL) => self.end_command(out),
            (_, ESC) => {
                // In a string it may be the first half of its end; what is no end begins another sequence.
                if self.state == State::Command {
                    self.sequence.push(ESC);
                    self.state = State::Escape;
                } else {
                    self.begin(State::Escape);
                }
            }
            (State::Ground, _) => {
                // An ENQ is answered with a text.
                if byte != 0x05 {
                    out.push(byte);
                }
            }
            (_, CAN | SUB) => self.state = State::Ground,
            // Nothing that a string is for has lines, so that one which never ends, ends.
            (State::Command, b'\n') => {
                self.state = State::Ground;
                out.push(byte);
            }
            (State::Text, _) => {}
            (State::Command, 0..0x20) => {}
            (State::Command, _) => self.collect(byte, MAX_TEXT_BYTES),
            // A control character within a sequence is obeyed at once.
            (State::Escape | State::Control, 0..0x20) => {
                if byte != 0x05 {
                    out.push(byte);
                }
            }
            (State::Escape, _) => self.take_escaped(byte, out),
            (State::Control, 0x20..0x40) => self.collect(byte, MAX_CONTROL_BYTES),
            (State::Control, 0x7f) => {}
            (State::Control, _) => {
                let sequence = std::mem::take(&mut self.sequence);
                self.state = State::Ground;
                if sequence.len() < MAX_CONTROL_BYTES {
                    self.end_control(&sequence, byte, out);
                }
            }
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.sequence.clear();
    }

    /// What is too long is known by having the length that is not allowed any more.
    fn collect(&mut self, byte: u8, limit: usize) {
        if self.sequence.len() < limit {
            self.sequence.push(byte);
        }
    }

    fn take_escaped(&mut self, byte: u8, out: &mut Vec<u8>) {
        // The end of a string, whose text is before the ESC.
        if self.sequence.last() == Some(&ESC) {
            self.sequence.pop();
            if byte == b'\\' {
                return self.end_command(out);
            }
            self.begin(State::Escape);
        }
        match byte {
            b'[' if self.sequence.is_empty() => self.begin(State::Control),
            b']' if self.sequence.is_empty() => self.begin(State::Command),
            b'P' | b'X' | b'^' | b'_' | b'k' if self.sequence.is_empty() => {
                self.begin(State::Text);
            }
            0x20..0x30 => self.collect(byte, 4),
            _ => {
                let intermediates = std::mem::take(&mut self.sequence);
                self.state = State::Ground;
                self.end_escape(&intermediates, byte, out);
            }
        }
    }

    fn end_escape(&mut self, intermediates: &[u8], last: u8, out: &mut Vec<u8>) {
        let passes = match (intermediates, last) {
            // Cursor, tabulators, keypad, single shifts, full reset.
            ([], b'7' | b'8' | b'D' | b'E' | b'H' | b'M' | b'N' | b'O' | b'=' | b'>' | b'c') => {
                true
            }
            // Character sets, but for those that end UTF-8; the size of lines.
            ([b'(' | b')' | b'*' | b'+' | b'-' | b'.' | b'/'], _) | ([b'#'], b'3'..=b'8') => true,
            _ => false,
        };
        if !passes {
            return;
        }
        match (intermediates, last) {
            ([], b'=') => self.changed.keypad = true,
            ([], b'>') => self.changed.keypad = false,
            ([], b'c') => self.changed = Changed::default(),
            ([b'('], b'B') => self.changed.charsets = false,
            ([b'(' | b')' | b'*' | b'+'], _) => self.changed.charsets = true,
            _ => {}
        }
        out.push(ESC);
        out.extend_from_slice(intermediates);
        out.push(last);
    }

    /// Titles, and what asks for the colours of text, background and palette.
    fn end_command(&mut self, out: &mut Vec<u8>) {
        let sequence = std::mem::take(&mut self.sequence);
        self.state = State::Ground;
        let Ok(text) = std::str::from_utf8(&sequence) else { return };
        if text.len() >= MAX_TEXT_BYTES || text.chars().any(char::is_control) {
            return;
        }
        let (number, value) = text.split_once(';').unwrap_or((text, ""));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let asks = match (number, value.rsplit_once(';')) {
            ("10" | "11", _) => value == "?",
            ("4", Some((color, "?"))) => is_number(color),
            _ => false,
        };
        self.has_asked |= asks;
        if asks || matches!(number, "0" | "1" | "2") {
            out.extend(b"\x1b]");
            out.extend_from_slice(text.as_bytes());
            out.push(BEL);
        }
    }

    fn end_control(&mut self, sequence: &[u8], last: u8, out: &mut Vec<u8>) {
        let Some(control) = Control::parse(sequence, last) else { return };
        if matches!((control.prefix, last), (None | Some(b'?'), b'h' | b'l')) {
            return self.set_modes(&control, out);
        }
        if !control.passes() {
            return;
        }
        self.has_asked |= control.asks();
        self.note(&control);
        out.extend(b"\x1b[");
        out.extend_from_slice(sequence);
        out.push(last);
    }

    /// Passes on those of the modes that may be set.
    fn set_modes(&mut self, control: &Control<'_>, out: &mut Vec<u8>) {
        if !control.intermediates.is_empty() {
            return;
        }
        let (private, is_set) = (control.prefix.is_some(), control.last == b'h');
        let mut passed = Vec::new();
        for mode in control.numbers() {
            match (private, mode) {
                (true, mode) if MODES.contains(&mode) => {
                    let differs = SET_AT_FIRST.contains(&mode) != is_set;
                    if differs && !LEFT_ALONE.contains(&mode) {
                        self.changed.modes.insert(mode);
                    } else {
                        self.changed.modes.remove(&mode);
                    }
                }
                (false, 4) => self.changed.insert = is_set,
                (false, 20) if !is_set => {}
                _ => continue,
            }
            passed.push(mode.to_string());
        }
        if !passed.is_empty() {
            let (mark, last) = (if private { "?" } else { "" }, char::from(control.last));
            out.extend(format!("\x1b[{mark}{}{last}", passed.join(";")).bytes());
        }
    }

    fn note(&mut self, control: &Control<'_>) {
        let changed = &mut self.changed;
        match (control.prefix, control.intermediates, control.last) {
            (None, [], b'r') => changed.margins = !control.parameters.is_empty(),
            (None, b" ", b'q') => changed.cursor_style = control.first() != 0,
            (None, b"!", b'p') => {
                changed.modes.retain(|mode| ![1, 6, 25].contains(mode));
                *changed = Changed {
                    modes: std::mem::take(&mut changed.modes),
                    modified_keys: changed.modified_keys,
                    keyboards: changed.keyboards,
                    ..Changed::default()
                };
            }
            (Some(b'>'), [], b'm') => {
                changed.modified_keys = control.numbers().nth(1).is_some_and(|level| level > 0);
            }
            (Some(b'>'), [], b'u') => changed.keyboards = changed.keyboards.saturating_add(1),
            (Some(b'<'), [], b'u') => {
                let popped = u8::try_from(control.first().max(1)).unwrap_or(u8::MAX);
                changed.keyboards = changed.keyboards.saturating_sub(popped);
            }
            _ => {}
        }
    }
}

/// How many bytes the character has that begins so; 1 for what begins none.
fn length_of_character(first: u8) -> usize {
    match first {
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => 1,
    }
}

/// A control sequence in its parts.
struct Control<'a> {
    /// One of `<`, `=`, `>`, `?` before the parameters.
    prefix: Option<u8>,
    parameters: &'a [u8],
    intermediates: &'a [u8],
    last: u8,
}

impl<'a> Control<'a> {
    /// `None` for what has no such parts.
    fn parse(sequence: &'a [u8], last: u8) -> Option<Self> {
        let at = sequence.iter().position(|byte| *byte < 0x30).unwrap_or(sequence.len());
        let (parameters, intermediates) = sequence.split_at(at);
        let (prefix, parameters) = match parameters {
            [prefix @ 0x3c..=0x3f, rest @ ..] => (Some(*prefix), rest),
            _ => (None, parameters),
        };
        let in_order = parameters.iter().all(|byte| *byte < 0x3c)
            && intermediates.iter().all(|byte| *byte < 0x30);
        in_order.then_some(Self { prefix, parameters, intermediates, last })
    }

    fn numbers(&self) -> impl Iterator<Item = u16> {
        let parts = self.parameters.split(|byte| *byte == b';');
        parts.map(|part| {
            let text = std::str::from_utf8(part).unwrap_or_default();
            if text.is_empty() { 0 } else { text.parse().unwrap_or(u16::MAX) }
        })
    }

    fn first(&self) -> u16 {
        self.numbers().next().unwrap_or(0)
    }

    fn passes(&self) -> bool {
        match (self.prefix, self.intermediates, self.last) {
            // Cursor, erasing, inserting, deleting, scrolling, tabulators, repeating, colours, margins.
            (
                None,
                [],
                b'@'..=b'M'
                | b'P'
                | b'S'
                | b'T'
                | b'X'
                | b'Z'
                | b'^'
                | b'`'..=b'b'
                | b'd'..=b'g'
                | b'm'
                | b'r'
                | b's'
                | b'u',
            )
            | (Some(b'?'), [], b'J' | b'K') => true,
            // Which terminal it is, where the cursor is, whether a mode is set.
            (None | Some(b'>'), [], b'c') => self.first() == 0,
            (None, [], b'n') => matches!(self.first(), 5 | 6),
            (Some(b'?'), [], b'n') => self.first() == 6,
            (None | Some(b'?'), b"$", b'p') | (Some(b'>'), [], b'q') => true,
            // Sizes in numbers, and the stack of titles; not what titles hold, nor anything that moves
            // a window.
            (None, [], b't') => matches!(self.first(), 14 | 16 | 18 | 19 | 22 | 23),
            // The keyboard.
            (Some(b'>' | b'?'), [], b'm') => self.first() == 4,
            (Some(b'<' | b'=' | b'>' | b'?'), [], b'u') => true,
            // The cursor's shape, and the soft reset.
            (None, b" ", b'q') | (None, b"!", b'p') => true,
            _ => false,
        }
    }

    fn asks(&self) -> bool {
        match (self.prefix, self.last) {
            (_, b'c' | b'n') | (_, b'p') | (Some(b'>'), b'q') | (Some(b'?'), b'u' | b'm') => {
                self.intermediates != b"!"
            }
            (None, b't') => self.first() < 22,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
