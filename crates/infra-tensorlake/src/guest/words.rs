//! Words for a POSIX shell, of any bytes, in texts that are UTF-8.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// A word that a shell takes as exactly these bytes. They must not hold NUL.
///
/// What is UTF-8 stands in single quotes; a byte that is not is printed by the shell itself, since a
/// request's texts are JSON and can hold no other.
pub(crate) fn word(value: &OsStr) -> String {
    let mut word = String::new();
    for part in value.as_bytes().utf8_chunks() {
        if !part.valid().is_empty() {
            word.push('\'');
            word.push_str(&part.valid().replace('\'', "'\\''"));
            word.push('\'');
        }
        for byte in part.invalid() {
            // No such byte is a newline, which `$(…)` would strip.
            word.push_str(&format!("\"$(printf '\\{byte:03o}')\""));
        }
    }
    if word.is_empty() { "''".to_owned() } else { word }
}

/// Words with spaces between them.
pub(crate) fn words<'a>(values: impl IntoIterator<Item = &'a OsStr>) -> String {
    values.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_shell_takes_the_word_as_what_it_was() {
        let cases: [(&[u8], &str); 5] = [
            (b"", "''"),
            (b"a b", "'a b'"),
            (b"it's", "'it'\\''s'"),
            (b"\xff", "\"$(printf '\\377')\""),
            (b"a\xe9\n", "'a'\"$(printf '\\351')\"'\n'"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(word(OsStr::from_bytes(bytes)), expected);
        }
    }
}
