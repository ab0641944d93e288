//! Environment variables of commands. Values never show: not in `Debug`, not in an error.

use std::ffi::{OsStr, OsString};
use std::fmt;

use thiserror::Error;

/// The variables that hold keys of model servers and of Tensorlake. No environment passes them on to
/// commands by itself, the host included; naming one explicitly does.
pub const KEY_VARIABLES: [&str; 6] = [
    "ANTHROPIC_API_KEY",
    "OLLAMA_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "TENSORLAKE_API_KEY",
    "TENSORLAKE_PAT",
];

/// The name of an environment variable: not empty, without `=` and NUL.
///
/// That is all that POSIX asks of a name in `environ`; shells are stricter, other programs are not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariableName(OsString);

/// Why a text is not the name of an environment variable, or bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VariableError {
    /// The name is empty.
    #[error("the name of an environment variable is empty")]
    EmptyName,
    /// The name holds `=` or NUL.
    #[error("the environment variable name {name:?} holds '=' or NUL")]
    Name {
        /// The name as it was given; never the value.
        name: OsString,
    },
    /// The value holds NUL.
    #[error("the value of the environment variable {name:?} holds NUL")]
    Value {
        /// The name of the variable.
        name: OsString,
    },
}

impl VariableName {
    /// Takes a name.
    ///
    /// # Errors
    /// Where it is empty or holds `=` or NUL.
    pub fn parse(name: impl Into<OsString>) -> Result<Self, VariableError> {
        let name = name.into();
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() {
            return Err(VariableError::EmptyName);
        }
        if bytes.iter().any(|b| matches!(b, b'=' | 0)) {
            return Err(VariableError::Name { name });
        }
        Ok(Self(name))
    }

    /// The name as the platform holds it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

impl fmt::Debug for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VariableName({:?})", self.0)
    }
}

/// The value of an environment variable. `Debug` hides it; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct VariableValue(OsString);

impl VariableValue {
    /// The value, for the one place that hands it to a command.
    #[must_use]
    pub fn expose(&self) -> &OsStr {
        &self.0
    }
}

impl fmt::Debug for VariableValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VariableValue(hidden)")
    }
}

/// A variable that a command gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentVariable {
    name: VariableName,
    value: VariableValue,
}

impl EnvironmentVariable {
    /// Joins a name and a value.
    ///
    /// # Errors
    /// Where the value holds NUL, which no Unix can pass on.
    pub fn new(name: VariableName, value: impl Into<OsString>) -> Result<Self, VariableError> {
        let value = value.into();
        if value.as_encoded_bytes().contains(&0) {
            return Err(VariableError::Value { name: name.0 });
        }
        Ok(Self { name, value: VariableValue(value) })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &VariableName {
        &self.name
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &VariableValue {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_value_shows_nowhere() {
        let variable =
            VariableName::parse("TOKEN").and_then(|name| EnvironmentVariable::new(name, "s3cret"));
        let actual = format!("{variable:?}");
        assert!(actual.contains("TOKEN") && !actual.contains("s3cret"), "{actual}");
    }

    #[test]
    fn a_name_with_an_equals_sign_is_refused() {
        let actual = VariableName::parse("A=B");
        assert_eq!(actual, Err(VariableError::Name { name: "A=B".into() }));
        assert_eq!(VariableName::parse(""), Err(VariableError::EmptyName));
    }

    #[test]
    fn a_value_with_nul_is_refused_without_showing_it() {
        let actual = VariableName::parse("A")
            .and_then(|name| EnvironmentVariable::new(name, "s3\0cret"))
            .map_err(|error| error.to_string());
        assert_eq!(actual, Err("the value of the environment variable \"A\" holds NUL".to_owned()));
    }
}
