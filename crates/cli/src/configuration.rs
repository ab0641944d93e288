//! The configuration files: what the user set for all projects, and what a project asks for.
//!
//! The user's file is `~/.config/forge/config.toml` (`XDG_CONFIG_HOME` and `FORGE_CONFIG` are
//! honoured), the project's is `.forge/config.toml` in the workspace. A project is written by
//! whoever wrote the code, so it may only say what cannot hurt: it can neither choose an environment,
//! nor forward variables, nor say before which commands the user is asked, nor have changes applied.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use crate::arguments::{ApplyWhen, AskWhich, ExecutorName, parse_duration};
use crate::variables;

/// What the files set; the project's over the user's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Configuration {
    /// Which environment; only the user's file.
    pub(crate) executor: Option<ExecutorName>,
    /// Which model.
    pub(crate) model: Option<String>,
    /// Variables for commands, as `--env` takes them; only the user's file.
    pub(crate) env: Vec<String>,
    /// How long a command may run.
    pub(crate) timeout: Option<Duration>,
    /// How long a task may run.
    pub(crate) task_timeout: Option<Duration>,
    /// How many answers of the model a task may take.
    pub(crate) max_turns: Option<u32>,
    /// Before which commands the user is asked; only the user's file.
    pub(crate) ask: Option<AskWhich>,
    /// What becomes of changes at the end; only the user's file.
    pub(crate) apply: Option<ApplyWhen>,
    /// What is run in each new environment.
    pub(crate) setup: Option<Setup>,
    /// Whether the setups of projects are run; only the user's file.
    setup_when: SetupWhen,
}

/// What a project has run in each new environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    /// For the environment's shell.
    pub(crate) run: String,
    /// As the user has said of all projects.
    pub(crate) when: SetupWhen,
}

/// Whether the setups of projects are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SetupWhen {
    /// The user is asked, once for each text.
    #[default]
    Ask,
    /// Nobody is asked.
    Always,
    /// They are not.
    Never,
}

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigurationError {
    /// It cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It says what it cannot say.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// The user's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserFile {
    executor: Option<WrittenExecutor>,
    model: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<WrittenDuration>,
    task_timeout: Option<WrittenDuration>,
    max_turns: Option<std::num::NonZeroU32>,
    ask: Option<AskWhich>,
    apply: Option<ApplyWhen>,
    setup: Option<UserSetup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserSetup {
    #[serde(default)]
    when: SetupWhen,
}

/// The project's file. What it must not say is known by name, so that the error can say why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectFile {
    #[expect(dead_code, reason = "never parses")]
    executor: Option<Refused>,
    #[expect(dead_code, reason = "never parses")]
    env: Option<Refused>,
    #[expect(dead_code, reason = "never parses")]
    ask: Option<Refused>,
    #[expect(dead_code, reason = "never parses")]
    apply: Option<Refused>,
    model: Option<String>,
    timeout: Option<WrittenDuration>,
    task_timeout: Option<WrittenDuration>,
    max_turns: Option<std::num::NonZeroU32>,
    setup: Option<ProjectSetup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectSetup {
    run: String,
    #[expect(dead_code, reason = "never parses")]
    when: Option<Refused>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenExecutor {
    Sandbox,
    Tensorlake,
    Local,
}

#[derive(Debug)]
struct WrittenDuration(Duration);

impl<'de> Deserialize<'de> for WrittenDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A setting that only the user's own file may hold.
#[derive(Debug)]
struct Refused;

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _ = de::IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom(
            "a project cannot set this, since it could weaken your protection; \
             set it in your own configuration",
        ))
    }
}

/// Reads both files. Files that are not there say nothing, except one that `FORGE_CONFIG` names.
///
/// # Errors
/// A file cannot be read or says what it cannot say.
pub(crate) fn read(directory: &Path) -> Result<Configuration, ConfigurationError> {
    let mut configuration = Configuration::default();
    if let Some((path, presence)) = user_path()
        && let Some(text) = read_file(&path, presence)?
    {
        configuration = parse_user(&path, &text)?;
    }
    let path = project_path(directory);
    if let Some(text) = read_file(&path, Presence::Optional)? {
        overlay(&mut configuration, parse(&path, &text)?);
    }
    Ok(configuration)
}

/// Whether a file has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

fn user_path() -> Option<(PathBuf, Presence)> {
    if let Some(path) = variables::path("FORGE_CONFIG") {
        return Some((path, Presence::Required));
    }
    let directory = match variables::absolute_path("XDG_CONFIG_HOME") {
        Some(directory) => directory,
        None => variables::absolute_path("HOME")?.join(".config"),
    };
    Some((directory.join("forge/config.toml"), Presence::Optional))
}

/// The project's file: beside the nearest `.git` at or above the directory, else in the directory.
fn project_path(directory: &Path) -> PathBuf {
    let start = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    let root = start.ancestors().find(|ancestor| ancestor.join(".git").exists()).unwrap_or(&start);
    root.join(".forge/config.toml")
}

fn read_file(path: &Path, presence: Presence) -> Result<Option<String>, ConfigurationError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if presence == Presence::Optional
                && matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
        {
            Ok(None)
        }
        Err(source) => Err(ConfigurationError::Read { path: path.to_path_buf(), source }),
    }
}

fn parse<T: de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigurationError> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span());
        let message = error.message().trim().replace('\n', ", ");
        ConfigurationError::Content { path: path.to_path_buf(), line, column, message }
    })
}

fn position(text: &str, span: Option<Range<usize>>) -> (usize, usize) {
    let offset = span.map_or(0, |span| span.start).min(text.len());
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

fn parse_user(path: &Path, text: &str) -> Result<Configuration, ConfigurationError> {
    let file: UserFile = parse(path, text)?;
    Ok(Configuration {
        executor: file.executor.map(|executor| match executor {
            WrittenExecutor::Sandbox => ExecutorName::Sandbox,
            WrittenExecutor::Tensorlake => ExecutorName::Tensorlake,
            WrittenExecutor::Local => ExecutorName::Local,
        }),
        model: file.model,
        env: file.env,
        timeout: file.timeout.map(|written| written.0),
        task_timeout: file.task_timeout.map(|written| written.0),
        max_turns: file.max_turns.map(std::num::NonZeroU32::get),
        ask: file.ask,
        apply: file.apply,
        setup: None,
        setup_when: file.setup.map(|setup| setup.when).unwrap_or_default(),
    })
}

fn overlay(configuration: &mut Configuration, project: ProjectFile) {
    let ProjectFile { model, timeout, task_timeout, max_turns, setup, .. } = project;
    let written = |duration: Option<WrittenDuration>| duration.map(|written| written.0);
    configuration.model = model.or(configuration.model.take());
    configuration.timeout = written(timeout).or(configuration.timeout);
    configuration.task_timeout = written(task_timeout).or(configuration.task_timeout);
    configuration.max_turns = max_turns.map(std::num::NonZeroU32::get).or(configuration.max_turns);
    let when = configuration.setup_when;
    let setup = setup.filter(|setup| !setup.run.trim().is_empty());
    configuration.setup = setup.map(|setup| Setup { run: setup.run, when });
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn user(text: &str) -> Result<Configuration, String> {
        parse_user(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_of_the_user_is_read() {
        let actual = user(
            "executor = 'local'\nmodel = 'openai/x'\nenv = ['A', 'B=1']\ntimeout = '5m'\n\
             task_timeout = '1h'\nmax_turns = 7\nask = 'risky'\napply = 'auto'\n\
             [setup]\nwhen = 'never'\n",
        );
        let expected = Configuration {
            executor: Some(ExecutorName::Local),
            model: Some("openai/x".to_owned()),
            env: vec!["A".to_owned(), "B=1".to_owned()],
            timeout: Some(Duration::from_secs(300)),
            task_timeout: Some(Duration::from_secs(3600)),
            max_turns: Some(7),
            ask: Some(AskWhich::Risky),
            apply: Some(ApplyWhen::Auto),
            setup: None,
            setup_when: SetupWhen::Never,
        };
        assert_eq!(actual, Ok(expected));
    }

    #[test]
    fn an_error_names_line_and_column() {
        let actual = user("model = 'a/b'\n  tiemout = '5m'\n").unwrap_err();
        assert!(actual.starts_with("c.toml:2:3: unknown field `tiemout`"), "{actual}");
    }

    #[test]
    fn a_project_can_neither_choose_an_environment_nor_forward_variables_nor_stop_questions() {
        for text in [
            "executor = 'local'",
            "env = ['TOKEN']",
            "ask = 'never'",
            "apply = 'auto'",
            "[setup]\nrun = 'make'\nwhen = 'always'",
        ] {
            let actual = parse::<ProjectFile>(Path::new("p.toml"), text).unwrap_err().to_string();
            assert!(actual.contains("a project cannot set this"), "{actual}");
        }
        assert!(parse::<ProjectFile>(Path::new("p.toml"), "api_key = 'x'").is_err());
    }

    #[test]
    fn the_project_is_heard_over_the_user_where_it_may_speak() {
        let mut actual = user("model = 'a/user'\nmax_turns = 3\nask = 'always'").unwrap();
        let project = "model = 'a/project'\ntimeout = '9s'\n[setup]\nrun = 'npm ci'";
        overlay(&mut actual, parse(Path::new("p"), project).unwrap());
        let expected = Configuration {
            model: Some("a/project".to_owned()),
            max_turns: Some(3),
            ask: Some(AskWhich::Always),
            timeout: Some(Duration::from_secs(9)),
            setup: Some(Setup { run: "npm ci".to_owned(), when: SetupWhen::Ask }),
            ..Configuration::default()
        };
        assert_eq!(actual, expected);
    }
}
