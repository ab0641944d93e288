//! Which environment: flags beat the configuration; two flags that disagree are wrong usage; nothing
//! is ever chosen that the user did not name.
//!
//! The one place to extend when an environment is added: a name in
//! [`ExecutorName`], its flag in [`choose`], its options in
//! [`Choice`], its banner and its [`ExecutorConfig`].

use forge_api::{EnvironmentVariable, ExecutorConfig, LocalOptions};
use thiserror::Error;

use crate::arguments::{AskWhich, CommonOptions, ExecutorName};

/// The environment that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This machine.
    Local,
}

/// Why no environment was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ChoiceError {
    /// Neither a flag nor the configuration names one.
    #[error("no environment was chosen for commands to run in")]
    Missing,
}

/// Chooses.
///
/// # Errors
/// Nothing was chosen.
pub(crate) fn choose(
    options: &CommonOptions,
    configured: Option<ExecutorName>,
) -> Result<Choice, ChoiceError> {
    let flag = if options.local { Some(ExecutorName::Local) } else { None };
    match flag.or(options.executor).or(configured) {
        Some(ExecutorName::Local) => Ok(Choice::Local),
        None => Err(ChoiceError::Missing),
    }
}

impl Choice {
    /// What the banner says of it.
    pub(crate) fn banner(self) -> &'static str {
        match self {
            Self::Local => "local: no isolation, commands run on this machine",
        }
    }

    /// The variables of the user that commands get without being named.
    pub(crate) fn inherits_variables(self) -> bool {
        match self {
            Self::Local => true,
        }
    }

    /// Before which commands the user is asked in a conversation, unless they said.
    pub(crate) fn asks_by_default(self) -> AskWhich {
        match self {
            Self::Local => AskWhich::Always,
        }
    }

    /// What the api is told.
    pub(crate) fn executor(self, environment: Vec<EnvironmentVariable>) -> ExecutorConfig {
        match self {
            Self::Local => ExecutorConfig::Local(LocalOptions::new(environment)),
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn nothing_is_chosen_that_was_not_named() {
        let actual = choose(&CommonOptions::default(), None);
        assert_eq!(actual, Err(ChoiceError::Missing));
    }

    #[test]
    fn the_flag_its_long_form_and_the_configuration_all_choose() {
        let flag = CommonOptions { local: true, ..CommonOptions::default() };
        let long =
            CommonOptions { executor: Some(ExecutorName::Local), ..CommonOptions::default() };
        assert_eq!(choose(&flag, None), Ok(Choice::Local));
        assert_eq!(choose(&long, None), Ok(Choice::Local));
        assert_eq!(choose(&CommonOptions::default(), Some(ExecutorName::Local)), Ok(Choice::Local));
    }
}
