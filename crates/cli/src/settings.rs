//! What holds for this run: flags over variables over the project's configuration over the user's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use forge_api::{AgentConfig, AskPolicy, ForgeConfig, SecretString, VariableName};
use thiserror::Error;

use crate::arguments::{ApplyWhen, AskWhich, ColorWhen, CommonOptions, OutputFormat, TaskOptions};
use crate::choice::{self, Choice, ChoiceError, TensorlakeVariables};
use crate::configuration::{self, ConfigurationError, Setup};
use crate::executor;
use crate::failure::Failure;
use crate::variables::{self, CommandVariables, EnvArgumentError};

/// Everything that was decided.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where commands run.
    pub(crate) choice: Choice,
    /// The directory to work in, as it was given.
    pub(crate) directory: PathBuf,
    /// What commands get.
    pub(crate) variables: CommandVariables,
    /// How long a command may run.
    pub(crate) timeout: Option<Duration>,
    /// How much to say.
    pub(crate) verbose: u8,
    /// When to use colour.
    pub(crate) color: ColorWhen,
    /// What is run in each new environment.
    pub(crate) setup: Option<Setup>,
    /// What the model may do.
    pub(crate) task: TaskSettings,
}

/// What holds for tasks only.
#[derive(Debug)]
pub(crate) struct TaskSettings {
    /// The model, as it was given.
    pub(crate) model: Option<String>,
    /// How long a task may run.
    pub(crate) timeout: Option<Duration>,
    /// How many answers of the model a task may take.
    pub(crate) max_turns: Option<u32>,
    /// Before which commands the user is asked, where that was said.
    pub(crate) ask: Option<AskWhich>,
    /// What becomes of changes at the end, where that was said.
    pub(crate) apply: Option<ApplyWhen>,
    /// How a task is reported.
    pub(crate) output_format: OutputFormat,
}

/// Why the settings cannot hold.
#[derive(Debug, Error)]
pub(crate) enum SettingsError {
    /// No environment.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// A configuration file.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// `--env` or the configuration's `env`.
    #[error(transparent)]
    Env(#[from] EnvArgumentError),
    /// A variable of forge's own is not text.
    #[error("the variable {name} is not valid UTF-8")]
    Variable {
        /// Its name.
        name: &'static str,
    },
}

impl Settings {
    /// Decides everything.
    ///
    /// # Errors
    /// [`SettingsError`]; all of them are the user's to correct.
    pub(crate) fn decide(common: CommonOptions, task: TaskOptions) -> Result<Self, SettingsError> {
        let directory = common.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let configured = configuration::read(&directory)?;
        let choice = choice::choose(&common, configured.executor, tensorlake_variables()?)?;
        let mut named: Vec<OsString> = configured.env.into_iter().map(Into::into).collect();
        named.extend(common.env);
        let variables = variables::for_commands(&choice, &named, std::env::vars_os())?;
        let from_variable =
            variables::text("FORGE_MODEL").map_err(|name| SettingsError::Variable { name })?;
        Ok(Self {
            choice,
            directory,
            variables,
            timeout: common.timeout.or(configured.timeout),
            verbose: common.verbose,
            color: common.color.unwrap_or_default(),
            setup: configured.setup,
            task: TaskSettings {
                model: task.model.or(from_variable).or(configured.model),
                timeout: task.task_timeout.or(configured.task_timeout),
                max_turns: task.max_turns.or(configured.max_turns),
                ask: task.ask.or(configured.ask),
                apply: task.apply.or(configured.apply),
                output_format: task.output_format.unwrap_or_default(),
            },
        })
    }

    /// What the agent is told.
    pub(crate) fn agent(&self, ask: AskWhich) -> AgentConfig {
        let mut agent = AgentConfig::default().ask(match ask {
            AskWhich::Never => AskPolicy::Never,
            AskWhich::Risky => AskPolicy::Risky,
            AskWhich::Always => AskPolicy::Always,
        });
        if let Some(limit) = self.timeout {
            // The limit holds also against a model that asks for more.
            agent = agent.command_time_limit(limit).max_command_time_limit(limit);
        }
        if let Some(limit) = self.task.timeout {
            agent = agent.task_time_limit(limit);
        }
        if let Some(limit) = self.task.max_turns {
            agent = agent.max_model_calls(limit);
        }
        agent
    }

    /// What the api is told, without a model.
    ///
    /// # Errors
    /// The session that was asked for is not to be had.
    pub(crate) fn forge(&self) -> Result<ForgeConfig, Failure> {
        let executor = executor::config(&self.choice, self.variables.variables.clone())?;
        let mut config = ForgeConfig::new(&self.directory, executor);
        config.home = variables::absolute_path("HOME");
        config.state_directory = state_directory();
        if let Choice::Tensorlake(choice) = &self.choice {
            config.project = Some(executor::project(choice)?);
        }
        Ok(config)
    }

    /// Names that were to be forwarded to commands and are not set.
    pub(crate) fn unset_variables(&self) -> &[VariableName] {
        &self.variables.unset
    }
}

/// What the environment variables say of Tensorlake.
///
/// # Errors
/// One of them is no text.
pub(crate) fn tensorlake_variables() -> Result<TensorlakeVariables, SettingsError> {
    let text = |name| variables::text(name).map_err(|name| SettingsError::Variable { name });
    Ok(TensorlakeVariables {
        key: text("TENSORLAKE_API_KEY")?.map(SecretString::from),
        url: text("TENSORLAKE_API_URL")?,
        organization: text("TENSORLAKE_ORGANIZATION_ID")?,
        project: text("TENSORLAKE_PROJECT_ID")?,
    })
}

/// Where forge keeps what it keeps: `FORGE_STATE_DIR`, else `forge` in `XDG_STATE_HOME`, else
/// `~/.local/state/forge`.
pub(crate) fn state_directory() -> Option<PathBuf> {
    variables::path("FORGE_STATE_DIR").or_else(|| {
        let state = variables::absolute_path("XDG_STATE_HOME")
            .or_else(|| Some(variables::absolute_path("HOME")?.join(".local/state")))?;
        Some(state.join("forge"))
    })
}
