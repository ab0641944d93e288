//! Environment variables: forge's own, and those that commands get.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use forge_api::{EnvironmentVariable, KEY_VARIABLES, VariableError, VariableName};
use thiserror::Error;

use crate::choice::Choice;

/// Why `--env` cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("--env takes NAME or NAME=VALUE")]
pub(crate) struct EnvArgumentError {
    #[source]
    source: VariableError,
}

/// What commands get, and what the user should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandVariables {
    /// The variables; no name twice.
    pub(crate) variables: Vec<EnvironmentVariable>,
    /// Names that were to be forwarded and are not set.
    pub(crate) unset: Vec<VariableName>,
}

/// One of forge's own variables; an empty one counts as not set.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// As [`path()`]; a relative one counts as not set, as the XDG base directories ask.
pub(crate) fn absolute_path(name: &str) -> Option<PathBuf> {
    path(name).filter(|path| path.is_absolute())
}

/// One of forge's own variables as text; an empty one counts as not set. `Err` holds the name of one
/// that is not UTF-8, never its value.
pub(crate) fn text(name: &'static str) -> Result<Option<String>, &'static str> {
    match std::env::var_os(name) {
        Some(value) if !value.is_empty() => value.into_string().map(Some).map_err(|_| name),
        _ => Ok(None),
    }
}

/// Puts together what commands get: the user's variables, where the environment inherits them, less
/// the keys of models and of Tensorlake; then what `--env` names, keys included.
///
/// # Errors
/// An argument has no name, or a value that no command can get.
pub(crate) fn for_commands(
    choice: &Choice,
    arguments: &[OsString],
    own: impl Iterator<Item = (OsString, OsString)>,
) -> Result<CommandVariables, EnvArgumentError> {
    let own: Vec<(OsString, OsString)> = own.collect();
    let mut variables = Vec::with_capacity(own.len() + arguments.len());
    if choice.inherits_variables() {
        let inherited = own.iter().filter(|(name, _)| !is_key(name));
        // A name or value that no process can have is not there: the list is the process's own.
        variables.extend(inherited.filter_map(|(name, value)| {
            EnvironmentVariable::new(VariableName::parse(name).ok()?, value).ok()
        }));
    }
    let mut unset = Vec::new();
    for argument in arguments {
        let (name, value) = split(argument);
        let name = VariableName::parse(name).map_err(|source| EnvArgumentError { source })?;
        let value = value.or_else(|| {
            own.iter().find(|(own, _)| own == name.as_os_str()).map(|(_, value)| value.clone())
        });
        let Some(value) = value else {
            unset.push(name);
            continue;
        };
        variables.retain(|variable: &EnvironmentVariable| *variable.name() != name);
        let variable =
            EnvironmentVariable::new(name, value).map_err(|source| EnvArgumentError { source })?;
        variables.push(variable);
    }
    Ok(CommandVariables { variables, unset })
}

fn is_key(name: &OsStr) -> bool {
    KEY_VARIABLES.iter().any(|key| name == *key)
}

fn split(argument: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = argument.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            OsString::from_vec(bytes[..at].to_vec()),
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
        None => (argument.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn own() -> impl Iterator<Item = (OsString, OsString)> {
        [("PATH", "/bin"), ("OPENAI_API_KEY", "s3cret"), ("EMPTY", "")]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
    }

    fn shown(arguments: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let actual = for_commands(&Choice::Local, &arguments, own())
            .map_err(|error| format!("{error}: {}", error.source))?;
        let variables = actual
            .variables
            .iter()
            .map(|variable| format!("{}={}", variable.name(), variable.value().expose().display()));
        Ok((variables.collect(), actual.unset.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn commands_inherit_everything_but_keys() {
        let expected = (vec!["PATH=/bin".to_owned(), "EMPTY=".to_owned()], Vec::new());
        assert_eq!(shown(&[]), Ok(expected));
    }

    #[test]
    fn a_key_is_forwarded_where_it_is_named() {
        let (actual, _) = shown(&["OPENAI_API_KEY"]).unwrap();
        assert!(actual.contains(&"OPENAI_API_KEY=s3cret".to_owned()), "{actual:?}");
    }

    #[test]
    fn a_value_replaces_and_may_hold_equals_signs_or_nothing() {
        let (actual, _) = shown(&["PATH=/x=y", "EMPTY=", "NEW=1", "NEW=2"]).unwrap();
        assert_eq!(actual, ["PATH=/x=y", "EMPTY=", "NEW=2"]);
    }

    #[test]
    fn a_name_that_is_not_set_is_told_and_not_sent_empty() {
        let (variables, unset) = shown(&["MISSING"]).unwrap();
        assert_eq!(unset, ["MISSING"]);
        assert!(!variables.iter().any(|variable| variable.starts_with("MISSING")));
    }

    #[test]
    fn an_argument_without_a_name_is_refused() {
        for argument in ["", "=x"] {
            let actual = shown(&[argument]).unwrap_err();
            assert!(actual.starts_with("--env takes NAME or NAME=VALUE"), "{actual}");
        }
    }
}
