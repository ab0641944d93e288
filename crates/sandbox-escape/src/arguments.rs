//! The words after the name of an attempt.

use std::ffi::CString;
use std::io;

/// The arguments of one attempt.
#[derive(Debug)]
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Self {
        Self(words.collect())
    }

    pub(crate) fn all(&self) -> &[String] {
        &self.0
    }

    pub(crate) fn text(&self, at: usize) -> io::Result<&str> {
        let missing = || io::Error::other(format!("argument {at} is missing"));
        self.0.get(at).map(String::as_str).ok_or_else(missing)
    }

    pub(crate) fn number(&self, at: usize) -> io::Result<i64> {
        let text = self.text(at)?;
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.map_err(io::Error::other)
    }

    pub(crate) fn c_text(&self, at: usize) -> io::Result<CString> {
        CString::new(self.text(at)?).map_err(io::Error::other)
    }
}
