//! The user's name for commits, which is all of their git configuration that commands get.

use std::ffi::OsString;

use forge_api::{EnvironmentVariable, VariableName, git_identity};

use crate::variables;

/// Sets `user.name` and `user.email` for every git that a command starts, as git-config(1) takes them
/// from variables: above the system's and the user's files. Empty where git knows neither.
pub(crate) fn identity() -> Vec<EnvironmentVariable> {
    let mut variables = Vec::new();
    for (number, (key, value)) in settings().into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), key));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), value));
    }
    if variables.is_empty() {
        return Vec::new();
    }
    variables.push(("GIT_CONFIG_COUNT".to_owned(), (variables.len() / 2).to_string()));
    let variable = |(name, value): (String, String)| {
        EnvironmentVariable::new(VariableName::parse(name).ok()?, value).ok()
    };
    variables.into_iter().filter_map(variable).collect()
}

/// Both settings, as far as they are set.
fn settings() -> Vec<(String, String)> {
    let Some(home) = variables::absolute_path("HOME") else { return Vec::new() };
    let configuration =
        variables::absolute_path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    git_identity(&home, &configuration, &search_path())
}

/// Where git is looked for.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}
