//! From the choice of an environment to what the api is told.

#[cfg(target_os = "linux")]
use std::ffi::OsString;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use forge_api::{
    AddedAccess, AddedDirectory, Network, SandboxConfig, SandboxLimits, SessionChoice, SessionId,
    SessionStore, TOOLCHAIN_VARIABLES,
};
use forge_api::{
    EnvironmentVariable, ExecutorConfig, HistoryOptions, LocalOptions, ProjectOptions,
};

#[cfg(target_os = "linux")]
use crate::arguments::NetworkName;
use crate::choice::Choice;
#[cfg(not(target_os = "linux"))]
use crate::choice::ChoiceError;
#[cfg(target_os = "linux")]
use crate::choice::SandboxChoice;
use crate::choice::TensorlakeChoice;
use crate::failure::Failure;
#[cfg(target_os = "linux")]
use crate::git;
#[cfg(not(target_os = "linux"))]
use crate::settings::SettingsError;
#[cfg(target_os = "linux")]
use crate::settings::state_directory;
#[cfg(target_os = "linux")]
use crate::variables;
use crate::waiting;

/// The configuration of the chosen environment, whose commands get these variables.
///
/// # Errors
/// The session that was asked for is not there, or there is no place to keep sessions.
pub(crate) fn config(
    choice: &Choice,
    environment: Vec<EnvironmentVariable>,
) -> Result<ExecutorConfig, Failure> {
    Ok(match choice {
        #[cfg(target_os = "linux")]
        Choice::Sandbox(choice) => ExecutorConfig::Sandbox(Box::new(sandbox(choice, environment)?)),
        #[cfg(not(target_os = "linux"))]
        Choice::Sandbox(_) => return Err(SettingsError::from(ChoiceError::NoSandboxHere).into()),
        Choice::Tensorlake(choice) => {
            // The user's own variables come last and win.
            let mut all = git::identity();
            all.extend(environment);
            let mut config = choice.config.clone().environment(all);
            config.progress = waiting::shown();
            ExecutorConfig::Tensorlake(Box::new(config))
        }
        Choice::Local => ExecutorConfig::Local(LocalOptions::new(environment)),
    })
}

/// What of the project goes into a microVM.
///
/// # Errors
/// The session that was asked for is not there, or there is no place to keep sessions.
pub(crate) fn project(choice: &TensorlakeChoice) -> Result<ProjectOptions, Failure> {
    let mut project = ProjectOptions::default().include(choice.include.clone());
    if let Some(bytes) = choice.max_file_bytes {
        project = project.max_file_bytes(bytes);
    }
    if let Some(bytes) = choice.max_project_bytes {
        project = project.max_total_bytes(bytes);
    }
    if !choice.no_git {
        let mut history = HistoryOptions::new(git::search_path());
        if let Some(bytes) = choice.max_history_bytes {
            history.max_bytes = bytes;
        }
        project = project.history(history);
    }
    #[cfg(target_os = "linux")]
    {
        project = project.session(match &choice.session {
            Some(text) => {
                SessionChoice::Named(SessionStore::new(store_directory()?).resolve(text)?)
            }
            None if choice.fresh => SessionChoice::Fresh,
            None => SessionChoice::Continue,
        });
    }
    Ok(project)
}

#[cfg(target_os = "linux")]
/// Where sessions are kept.
///
/// # Errors
/// Neither `FORGE_STATE_DIR` nor `HOME` says where.
pub(crate) fn store_directory() -> Result<PathBuf, Failure> {
    state_directory().ok_or_else(|| {
        Failure::Usage(
            "there is no place to keep sessions: HOME is not set; name one with FORGE_STATE_DIR"
                .to_owned(),
        )
    })
}

/// What a session's environment is made of, where forge itself runs something in it.
///
/// # Errors
/// There is no place to keep sessions.
#[cfg(target_os = "linux")]
pub(crate) fn for_session(id: &SessionId) -> Result<SandboxConfig, Failure> {
    let state = std::path::absolute(store_directory()?).map_err(|source| Failure::System {
        what: "the state directory cannot be named",
        source,
    })?;
    let mut config = SandboxConfig::new(state)
        .session(SessionChoice::Named(id.clone()))
        .toolchain_variables(toolchain_variables());
    config.home = variables::absolute_path("HOME");
    Ok(config)
}

#[cfg(target_os = "linux")]
fn toolchain_variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| TOOLCHAIN_VARIABLES.iter().any(|known| name == known))
        .collect()
}

#[cfg(target_os = "linux")]
fn sandbox(
    choice: &SandboxChoice,
    environment: Vec<EnvironmentVariable>,
) -> Result<SandboxConfig, Failure> {
    let state = std::path::absolute(store_directory()?).map_err(|source| Failure::System {
        what: "the state directory cannot be named",
        source,
    })?;
    let session = match &choice.session {
        Some(text) => SessionChoice::Named(SessionStore::new(&state).resolve(text)?),
        None if choice.fresh => SessionChoice::Fresh,
        None => SessionChoice::Continue,
    };
    let mut limits = SandboxLimits::default();
    if let Some(cpus) = choice.milli_cpus {
        limits = limits.milli_cpus(cpus);
    }
    if let Some(memory) = choice.memory_bytes {
        limits = limits.memory_bytes(memory);
    }
    let added = choice.added.iter().map(|added| AddedDirectory {
        source: added.directory.clone(),
        access: if added.writable { AddedAccess::ReadWrite } else { AddedAccess::ReadOnly },
    });
    // The user's own variables come last and win.
    let mut all = git::identity();
    all.extend(environment);
    let mut config = SandboxConfig::new(state)
        .session(session)
        .environment(all)
        .toolchain_variables(toolchain_variables())
        .limits(limits)
        .include(choice.include.clone())
        .added(added.collect::<Vec<_>>())
        .network(match choice.network {
            Some(NetworkName::Full) => Network::Full,
            Some(NetworkName::None) | None => Network::None,
        });
    config.home = variables::absolute_path("HOME");
    Ok(config)
}
