//! What passes, what does not, and that it does not matter how the bytes are cut.

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;

fn passed(text: impl AsRef<[u8]>) -> String {
    String::from_utf8(Screen::default().pass(text.as_ref())).unwrap()
}

#[test]
fn what_shells_and_editors_need_passes() {
    for text in [
        "plain é 漢 🦀\r\n\ttab\x08\x07",
        "\x1b[1;38;2;1;2;3mcolour\x1b[0m\x1b[4:3m",
        "\x1b[?1049h\x1b[22;0;0t\x1b[1;24r\x1b[?12h\x1b[?25l\x1b[2J\x1b[H",
        "\x1b[?2004h\x1b[?1h\x1b=\x1b[>4;2m\x1b[?1006;1000h",
        "\x1b[>c\x1b[6n\x1b[?2026$p\x1b[>q\x1b[?u",
        "\x1b[2 q\x1b[!p\x1b(0lqk\x1b(B\x1b7\x1b8\x1bM\x1b[3J",
        "\x1b]0;a title “quoted”\x07\x1b]11;?\x07\x1b]4;1;?\x07",
        "\x1bc",
    ] {
        assert_eq!(passed(text), text);
    }
    assert_eq!(passed("\x1b]2;t\x1b\\x"), "\x1b]2;t\x07x");
}

#[test]
fn what_makes_the_terminal_act_for_the_guest_does_not() {
    for sequence in [
        // Clipboard, links, working directory, notifications, files, colours, properties, fonts.
        "\x1b]52;c;aGk=\x07",
        "\x1b]52;c;?\x1b\\",
        "\x1b]8;;http://x/\x1b\\",
        "\x1b]7;file://h/p\x07",
        "\x1b]9;note\x07",
        "\x1b]777;notify;a;b\x07",
        "\x1b]1337;File=name=YQ==:AA==\x07",
        "\x1b]11;#000000\x07",
        "\x1b]4;1;#000000\x07",
        "\x1b]3;WM_X=1\x07",
        "\x1b]50;?\x07",
        // Strings: requests of settings, graphics of files, what passes through multiplexers.
        "\x1bP$qm\x1b\\",
        "\x1bP+q544e\x1b\\",
        "\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\",
        "\x1b_Gt=f,a=T;L2V0Yy9wYXNzd2Q=\x1b\\",
        "\x1b^private\x1b\\",
        "\x1bXstart\x1b\\",
        "\x1bktitle\x1b\\",
        // The title and the screen as an answer, windows, printing, the keyboard locked, 132 columns.
        "\x1b[21t",
        "\x1b[20t",
        "\x1b[8;10;10t",
        "\x1b[3;0;0t",
        "\x1b[1;1;1;1;10;10*y",
        "\x1b[5i",
        "\x1b[?5i",
        "\x1b[2h",
        "\x1b[?3h",
        "\x1b[?40h",
        "\x1b[>2t",
        "\x05",
        "\x1bZ",
        // What ends UTF-8, and so would make control characters of its bytes.
        "\x1b%@",
        "\x1b F",
        "\x1b G",
        "\x1b[62\"p",
        // The second set of control characters, in each of its forms.
        "\u{9d}52;c;aGk=\u{9c}",
        "\u{90}$qm\u{9c}",
        "\u{9b}21t",
    ] {
        assert_eq!(passed(format!("a{sequence}b")), "ab", "{sequence:?}");
    }
    // As single bytes, and as longer forms of UTF-8 than there may be.
    assert_eq!(passed(b"a\x9b21tb\x9d52;c;x\x07"), "a21tb52;c;x\x07");
    let longer = b"a\xe0\x82\x9bb\xc1\x9bc\xf0\x80\x82\x9bd";
    assert_eq!(Screen::default().pass(longer), b"a\xe0b\xc1c\xf0d");
}

#[test]
fn text_in_another_encoding_passes() {
    assert_eq!(Screen::default().pass(b"caf\xe9 \xa3"), b"caf\xe9 \xa3");
}

#[test]
fn of_several_modes_those_pass_that_may() {
    assert_eq!(passed("\x1b[?3;25;40;1049h"), "\x1b[?25;1049h");
    assert_eq!(passed("\x1b[4;2h"), "\x1b[4h");
}

#[test]
fn what_is_cut_off_or_too_long_is_never_sent() {
    assert_eq!(passed("a\x1b[31"), "a");
    assert_eq!(passed("a\x1b]0;title"), "a");
    assert_eq!(passed("a\x1b]0;title\nb"), "a\nb");
    assert_eq!(passed("a\x1b[3\x181mb"), "a1mb");
    assert_eq!(passed(format!("a\x1b[{}mb", "1;".repeat(200))), "ab");
    assert_eq!(passed(format!("a\x1b]0;{}\x07b", "x".repeat(5000))), "ab");
    assert_eq!(passed("a\x1b]0;t\x1b[31mb"), "a\x1b[31mb");
}

#[test]
fn what_a_program_left_behind_is_undone() {
    let undone = |text: &str| {
        let mut screen = Screen::default();
        screen.pass(text.as_bytes());
        String::from_utf8(screen.undo()).unwrap()
    };
    assert_eq!(undone("\x1b[31mred\x1b[?25l\x1b[?25h\x1b[?1049h\x1b[?1049l"), "");
    assert_eq!(
        undone("\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?1h\x1b=\x1b[2;5r\x1b[>1u"),
        "\x1b[?1l\x1b[?25h\x1b[?1000l\x1b[?1006l\x1b[<1u\x1b>\x1b7\x1b[r\x1b8\x1b[?1049l\x1b[m"
    );
    assert_eq!(undone("\x1b[?1049h\x1bc"), "");
}

#[test]
fn it_is_known_whether_an_answer_may_come() {
    let asks = |text: &str| {
        let mut screen = Screen::default();
        screen.pass(text.as_bytes());
        screen.has_asked()
    };
    assert!(["\x1b[c", "\x1b[6n", "\x1b]11;?\x07", "\x1b[18t"].into_iter().all(asks));
    assert!(!["text", "\x1b[31m", "\x1b[22;0;0t", "\x1b[21t", "\x1b[!p"].into_iter().any(asks));
}

/// A parser by other people: what it understands of what passed.
#[derive(Default)]
struct Witness(Vec<String>);

impl vte::Perform for Witness {
    fn hook(&mut self, _: &vte::Params, _: &[u8], _: bool, action: char) {
        self.0.push(format!("a device control string {action:?}"));
    }

    fn osc_dispatch(&mut self, parameters: &[&[u8]], _: bool) {
        let number = parameters.first().copied().unwrap_or_default();
        let asks = parameters.last() == Some(&&b"?"[..]);
        let titles: [&[u8]; 3] = [b"0", b"1", b"2"];
        let colors: [&[u8]; 3] = [b"4", b"10", b"11"];
        if !(titles.contains(&number) || colors.contains(&number) && asks) {
            self.0.push(format!("the command {parameters:?}"));
        }
    }

    fn csi_dispatch(&mut self, parameters: &vte::Params, marks: &[u8], _: bool, action: char) {
        let first = parameters.iter().next().map_or(0, |parameter| parameter[0]);
        let moves = action == 't' && ![14, 16, 18, 19, 22, 23].contains(&first);
        if action == 'i' || action == 'y' || moves || marks.contains(&b'*') {
            self.0.push(format!("the control {marks:?} {first} {action:?}"));
        }
    }

    fn execute(&mut self, byte: u8) {
        if byte == 5 || byte >= 0x80 {
            self.0.push(format!("the control character {byte:#x}"));
        }
    }
}

/// Bytes in which sequences are likely.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces: [&[u8]; 22] = [
        b"\x1b",
        b"[",
        b"]",
        b"P",
        b"_",
        b"\\",
        b"\x07",
        b";",
        b"?",
        b"52",
        b"0",
        b"11",
        b"21",
        b"t",
        b"h",
        b"\xc2",
        b"\x9b",
        b"\x9d",
        b"\x9c",
        b"\xe2\x80\x9c",
        b"\x18",
        b"\n",
    ];
    let piece = prop_oneof![
        4 => proptest::sample::select(pieces.map(<[u8]>::to_vec).to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(bytes in hostile(), cuts in proptest::collection::vec(0_usize..200, 0..8)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut screen = Screen::default();
        let pieces: Vec<u8> =
            cuts.windows(2).flat_map(|pair| screen.pass(&bytes[pair[0]..pair[1]])).collect();
        prop_assert_eq!(pieces, Screen::default().pass(&bytes));
    }

    #[test]
    fn what_passed_passes_again(bytes in hostile()) {
        // A character that seems to begin at the end is held back, so that it must not be the end.
        let once = [Screen::default().pass(&bytes), b"x".to_vec()].concat();
        prop_assert_eq!(Screen::default().pass(&once), once);
    }

    #[test]
    fn another_parser_finds_nothing_forbidden_in_what_passed(bytes in hostile()) {
        let mut witness = Witness::default();
        vte::Parser::new().advance(&mut witness, &Screen::default().pass(&bytes));
        prop_assert_eq!(witness.0, Vec::<String>::new());
    }
}
