//! What a server said, made fit to be shown.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

/// The longest text of a server that is kept, in characters.
const MAX_CHARS: usize = 500;

/// Shorter keys are not looked for: no server gives such keys, and words would be torn.
const MIN_KEY_CHARS: usize = 8;

/// Cleans what servers say: removes control characters, replaces the key, and shortens.
#[derive(Debug, Clone)]
pub(crate) struct Cleaner {
    key: Option<SecretString>,
}

impl Cleaner {
    pub(crate) fn new(key: Option<SecretString>) -> Self {
        Self { key }
    }

    /// The message in the body of an error, or the body itself where it has none.
    pub(crate) fn body(&self, body: &str) -> String {
        match serde_json::from_str::<Value>(body) {
            Ok(value) => self.value(&value),
            Err(_) => self.text(body),
        }
    }

    /// The message in an error's value, or the value itself where it has none.
    pub(crate) fn value(&self, value: &Value) -> String {
        let places = ["/error/message", "/message", "/error", "/detail"];
        let message = places.iter().find_map(|place| value.pointer(place)?.as_str());
        match message {
            Some(message) => self.text(message),
            None => self.text(&value.to_string()),
        }
    }

    /// The text, cleaned.
    pub(crate) fn text(&self, text: &str) -> String {
        // Before the key is looked for, so that nothing can hide in it.
        let plain: String = text
            .chars()
            .map(|c| if c.is_whitespace() { ' ' } else { c })
            .filter(|c| !c.is_control() && !is_format(*c))
            .collect();
        let plain = plain.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        let plain = match self.key.as_ref().map(|key| key.expose_secret()) {
            Some(key) if key.len() >= MIN_KEY_CHARS => plain.replace(key, "[key]"),
            _ => plain,
        };
        match plain.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", &plain[..end]),
            None => plain,
        }
    }
}

/// Invisible characters that change how others are shown.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn cleaner() -> Cleaner {
        Cleaner::new(Some(SecretString::from("sk-hidden-key")))
    }

    #[test]
    fn the_message_is_found_in_the_bodies_that_servers_send() {
        for body in [
            r#"{"error":{"type":"x","message":"no"}}"#,
            r#"{"message":"no"}"#,
            r#"{"error":"no"}"#,
            r#"{"detail":"no"}"#,
            "no",
            "\u{1b}no\r\n",
        ] {
            assert_eq!(cleaner().body(body), "no", "{body}");
        }
    }

    #[test]
    fn an_echoed_key_is_replaced_however_it_is_hidden() {
        for body in [
            r#"{"error":{"message":"bad key sk-hidden-key!"}}"#,
            "bad key sk-hidden-key!",
            "bad key sk-\u{0}hid\u{200b}den-key!",
            r#"{"error":{"message":"bad key sk-\u0068idden-key!"}}"#,
        ] {
            assert_eq!(cleaner().body(body), "bad key [key]!", "{body}");
        }
    }

    #[test]
    fn a_long_text_is_cut_after_500_characters_and_never_within_a_key() {
        let actual = cleaner().text(&"ä".repeat(600));
        assert_eq!(actual, format!("{}…", "ä".repeat(500)));
        let actual = cleaner().text(&format!("{} sk-hidden-key", "x".repeat(494)));
        assert!(!actual.contains("sk-"), "{actual}");
    }

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(cleaner().text("a\u{1b}[31mb\u{7}\n\tc\u{202e}"), "a[31mb c");
    }
}
