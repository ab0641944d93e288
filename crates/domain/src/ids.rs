//! Typed ids: a private field, a `parse` that can fail, `Display` is the value.

use std::fmt;

use thiserror::Error;

/// The longest id that is accepted, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// The text is empty.
    #[error("the {kind} is empty")]
    Empty {
        /// What was being parsed.
        kind: &'static str,
    },
    /// The text is longer than an id may be.
    #[error("the {kind} has {bytes} bytes, more than {MAX_ID_BYTES}")]
    TooLong {
        /// What was being parsed.
        kind: &'static str,
        /// The length of the text, in bytes.
        bytes: usize,
    },
    /// The text holds a character that ids do not have.
    #[error("the {kind} holds {character:?}; letters, digits, '-', '_' and '.' are allowed")]
    Character {
        /// What was being parsed.
        kind: &'static str,
        /// The first offending character.
        character: char,
    },
}

fn check(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { kind, bytes: text.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(IdError::Character { kind, character }),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes a text of letters, digits, `-`, `_` and `.`, at most 128 bytes long.
            ///
            /// # Errors
            /// [`IdError`] says what about the text is wrong.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check($kind, text).map(|()| Self(text.to_owned()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    };
}

id!(
    /// Names one life of an environment with its change set.
    SessionId,
    "session id"
);
id!(
    /// Names a background command within its environment.
    BackgroundId,
    "background command id"
);

/// Names a tool call within a conversation, as the model gave it.
///
/// Model servers choose these freely, so any text is taken, the empty one included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolCallId(String);

impl ToolCallId {
    /// Takes the server's text as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ToolCallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ToolCallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToolCallId({})", self.0)
    }
}

/// Names a model as `provider/name`, for example `openai/gpt-5` or `ollama/qwen3:8b`.
///
/// The name may itself hold slashes (`openrouter/meta-llama/llama-4`): the first one separates.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ModelId {
    provider: String,
    name: String,
}

/// Why a text is not a model id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelIdError {
    /// There is no slash, or nothing before or after it.
    #[error("{text:?} is not a model: it is written provider/name")]
    Shape {
        /// The text as it was given.
        text: String,
    },
    /// The text holds white space or a control character.
    #[error("the model {text:?} holds white space or a control character")]
    Character {
        /// The text as it was given.
        text: String,
    },
}

impl ModelId {
    /// Splits `provider/name` at the first slash. Whether the provider exists is the adapter's to say.
    ///
    /// # Errors
    /// [`ModelIdError`] where one of the halves is empty or holds white space or control characters.
    pub fn parse(text: &str) -> Result<Self, ModelIdError> {
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ModelIdError::Character { text: text.to_owned() });
        }
        match text.split_once('/') {
            Some((provider, name)) if !provider.is_empty() && !name.is_empty() => {
                Ok(Self { provider: provider.to_owned(), name: name.to_owned() })
            }
            _ => Err(ModelIdError::Shape { text: text.to_owned() }),
        }
    }

    /// The half before the first slash.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// All that stands after the first slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.name)
    }
}

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelId({self})")
    }
}

impl std::str::FromStr for ModelId {
    type Err = ModelIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn an_id_is_shown_as_it_was_given() {
        let actual = SessionId::parse("a-1_b.c").map(|id| (id.to_string(), format!("{id:?}")));
        assert_eq!(actual, Ok(("a-1_b.c".to_owned(), "SessionId(a-1_b.c)".to_owned())));
    }

    #[test]
    fn an_id_that_could_be_a_path_or_an_escape_is_refused() {
        for text in ["a/b", "a b", "a\n", "é", "a\u{1b}"] {
            assert!(matches!(SessionId::parse(text), Err(IdError::Character { .. })), "{text:?}");
        }
        assert_eq!(BackgroundId::parse(""), Err(IdError::Empty { kind: "background command id" }));
        assert!(matches!(
            SessionId::parse(&"x".repeat(129)),
            Err(IdError::TooLong { bytes: 129, .. })
        ));
    }

    #[test]
    fn a_model_is_split_at_its_first_slash() {
        let actual = ModelId::parse("openrouter/meta/llama").map(|id| (id.provider, id.name));
        assert_eq!(actual, Ok(("openrouter".to_owned(), "meta/llama".to_owned())));
    }

    #[test]
    fn half_a_model_is_refused() {
        for text in ["", "gpt", "/gpt", "openai/"] {
            assert_eq!(ModelId::parse(text), Err(ModelIdError::Shape { text: text.to_owned() }));
        }
        assert!(matches!(ModelId::parse("openai/a b"), Err(ModelIdError::Character { .. })));
    }
}
