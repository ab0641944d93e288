//! Which environment: flags beat the configuration, which beats the environment variables; two that
//! disagree are wrong usage; nothing is ever chosen that the user did not name.
//!
//! The one place to extend when an environment is added: a name in
//! [`ExecutorName`], its flag in [`choose`], its options in
//! [`Choice`], its banner and its [`ExecutorConfig`].

use std::io;
use std::path::{Path, PathBuf};

use forge_api::{
    EnvironmentVariable, ExecutorConfig, LocalOptions, Resources, SecretString, TensorlakeConfig,
};
use secrecy::ExposeSecret as _;
use thiserror::Error;

use crate::arguments::{AskWhich, CommonOptions, ExecutorName, Mebibytes, NetworkName, TypedKey};
use crate::keyfile;

/// The environment that was chosen.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// A Tensorlake microVM.
    Tensorlake(Box<TensorlakeChoice>),
    /// This machine.
    Local,
}

/// A microVM and how it is had.
#[derive(Debug, Clone)]
pub(crate) struct TensorlakeChoice {
    config: TensorlakeConfig,
    key_from: KeyFrom,
}

/// Where the key came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyFrom {
    CommandLine,
    File,
    Variable,
}

/// What the environment variables say.
#[derive(Debug, Default)]
pub(crate) struct TensorlakeVariables {
    /// `TENSORLAKE_API_KEY`.
    pub(crate) key: Option<SecretString>,
    /// `TENSORLAKE_API_URL`.
    pub(crate) url: Option<String>,
    /// `TENSORLAKE_ORGANIZATION_ID`.
    pub(crate) organization: Option<String>,
    /// `TENSORLAKE_PROJECT_ID`.
    pub(crate) project: Option<String>,
}

/// Why no environment was chosen.
#[derive(Debug, Error)]
pub(crate) enum ChoiceError {
    /// Neither a flag nor the configuration nor a variable names one.
    #[error("no environment was chosen for commands to run in")]
    Missing,
    /// Two are named.
    #[error("{first} and {second} name two environments; give one of them")]
    Two {
        /// What names the one.
        first: &'static str,
        /// What names the other.
        second: &'static str,
    },
    /// The key seems to be a subcommand.
    #[error("--tensorlake takes a key, and {name:?} is a subcommand")]
    SubcommandAsKey {
        /// Its name.
        name: String,
    },
    /// A microVM without a key.
    #[error("a Tensorlake microVM needs a key")]
    NoKey,
    /// The file with the key.
    #[error("the key file {} cannot be read", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Others can read the file with the key.
    #[error("the key file {} can be read by others (mode {mode:04o})", path.display())]
    KeyFileMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file with the key holds none.
    #[error("the key file {} holds no key", path.display())]
    KeyFileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// An option of microVMs with another environment.
    #[error("{option} is for Tensorlake microVMs; this machine is used as it is")]
    NotForLocal {
        /// Which.
        option: &'static str,
    },
}

/// Chooses.
///
/// # Errors
/// Nothing was chosen, or what was chosen does not go together.
pub(crate) fn choose(
    options: &CommonOptions,
    configured: Option<ExecutorName>,
    variables: TensorlakeVariables,
) -> Result<Choice, ChoiceError> {
    let from_variable = variables.key.as_ref().map(|_| ExecutorName::Tensorlake);
    match flag(options)?.or(configured).or(from_variable) {
        Some(ExecutorName::Tensorlake) => tensorlake(options, variables),
        Some(ExecutorName::Local) => {
            if let Some(option) = of_microvms(options) {
                return Err(ChoiceError::NotForLocal { option });
            }
            Ok(Choice::Local)
        }
        None => Err(ChoiceError::Missing),
    }
}

/// What the flags name; all of them have to name the same.
fn flag(options: &CommonOptions) -> Result<Option<ExecutorName>, ChoiceError> {
    if let Some(TypedKey(key)) = &options.tensorlake
        && let name = key.expose_secret()
        && SUBCOMMANDS.contains(&name)
    {
        return Err(ChoiceError::SubcommandAsKey { name: name.to_owned() });
    }
    let named = [
        (options.local, "--local", ExecutorName::Local),
        (options.tensorlake.is_some(), "--tensorlake", ExecutorName::Tensorlake),
        (options.tensorlake_key_file.is_some(), "--tensorlake-key-file", ExecutorName::Tensorlake),
        (options.executor == Some(ExecutorName::Local), "--executor local", ExecutorName::Local),
        (
            options.executor == Some(ExecutorName::Tensorlake),
            "--executor tensorlake",
            ExecutorName::Tensorlake,
        ),
    ];
    let mut named = named.into_iter().filter(|(given, ..)| *given);
    let Some((_, first, name)) = named.next() else { return Ok(None) };
    if let Some((_, second, _)) = named.find(|(_, _, other)| *other != name) {
        return Err(ChoiceError::Two { first, second });
    }
    Ok(Some(name))
}

/// What nobody means as a key: the subcommands that there are, and those that are to come.
pub(crate) const SUBCOMMANDS: [&str; 11] = [
    "apply",
    "completions",
    "conversation",
    "diff",
    "discard",
    "doctor",
    "exec",
    "help",
    "serve",
    "session",
    "shell",
];

fn of_microvms(options: &CommonOptions) -> Option<&'static str> {
    let given = [
        (options.tensorlake_url.is_some(), "--tensorlake-url"),
        (options.network.is_some(), "--network"),
        (options.cpus.is_some(), "--cpus"),
        (options.memory.is_some(), "--memory"),
        (options.image.is_some(), "--image"),
        (options.keep_vm, "--keep-vm"),
    ];
    given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
}

fn tensorlake(
    options: &CommonOptions,
    variables: TensorlakeVariables,
) -> Result<Choice, ChoiceError> {
    let (key, key_from) = match (&options.tensorlake, &options.tensorlake_key_file) {
        (Some(_), Some(_)) => {
            let (first, second) = ("--tensorlake", "--tensorlake-key-file");
            return Err(ChoiceError::Two { first, second });
        }
        (Some(TypedKey(key)), None) => (key.clone(), KeyFrom::CommandLine),
        (None, Some(path)) => (read_key(path)?, KeyFrom::File),
        (None, None) => (variables.key.ok_or(ChoiceError::NoKey)?, KeyFrom::Variable),
    };
    let mut config = TensorlakeConfig::new(key);
    if let Some(url) = options.tensorlake_url.clone().or(variables.url) {
        config = config.api_url(url);
    }
    config.organization = variables.organization;
    config.project = variables.project;
    config.image = options.image.clone();
    config.keep = options.keep_vm;
    config.internet = options.network != Some(NetworkName::None);
    let mut resources = Resources::default();
    if let Some(cpus) = options.cpus {
        resources.cpus = cpus;
    }
    if let Some(Mebibytes(memory)) = options.memory {
        resources.memory_mb = memory;
    }
    config.resources = resources;
    Ok(Choice::Tensorlake(Box::new(TensorlakeChoice { config, key_from })))
}

fn read_key(path: &Path) -> Result<SecretString, ChoiceError> {
    let own = |path: &Path| path.to_path_buf();
    keyfile::read(path).map_err(|error| match error {
        keyfile::KeyFileError::Read(source) => ChoiceError::KeyFile { path: own(path), source },
        keyfile::KeyFileError::Mode(mode) => ChoiceError::KeyFileMode { path: own(path), mode },
        keyfile::KeyFileError::Empty => ChoiceError::KeyFileEmpty { path: own(path) },
    })
}

impl Choice {
    /// What the banner says of it.
    pub(crate) fn banner(&self) -> String {
        match self {
            Self::Tensorlake(choice) => {
                let TensorlakeChoice { config, key_from } = &**choice;
                let Resources { cpus, memory_mb, .. } = config.resources;
                let key = match key_from {
                    KeyFrom::CommandLine => "key from the command line",
                    KeyFrom::File => "key from a file",
                    KeyFrom::Variable => "key from TENSORLAKE_API_KEY",
                };
                let network = if config.internet { "with the internet" } else { "no network" };
                format!("Tensorlake, {key}: a microVM, {cpus} cpu, {memory_mb} MiB, {network}")
            }
            Self::Local => "local: no isolation, commands run on this machine".to_owned(),
        }
    }

    /// What the user has to know before anything is done.
    pub(crate) fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if let Self::Tensorlake(choice) = self {
            warnings.push(
                "the project's files are not brought into the microVM yet: its workspace is an empty \
                 directory, and what is written there is lost at the end",
            );
            if choice.config.is_unencrypted() {
                warnings.push("the key goes to this address without encryption (http)");
            }
        }
        warnings
    }

    /// Whether the environment is to outlive this run.
    pub(crate) fn is_kept(&self) -> bool {
        match self {
            Self::Tensorlake(choice) => choice.config.keep,
            Self::Local => false,
        }
    }

    /// The variables of the user that commands get without being named.
    pub(crate) fn inherits_variables(&self) -> bool {
        match self {
            Self::Tensorlake(_) => false,
            Self::Local => true,
        }
    }

    /// Before which commands the user is asked in a conversation, unless they said.
    pub(crate) fn asks_by_default(&self) -> AskWhich {
        match self {
            Self::Tensorlake(_) => AskWhich::Never,
            Self::Local => AskWhich::Always,
        }
    }

    /// What the api is told.
    pub(crate) fn executor(&self, environment: Vec<EnvironmentVariable>) -> ExecutorConfig {
        match self {
            Self::Tensorlake(choice) => {
                let config = choice.config.clone().environment(environment);
                ExecutorConfig::Tensorlake(Box::new(config))
            }
            Self::Local => ExecutorConfig::Local(LocalOptions::new(environment)),
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn name(choice: Result<Choice, ChoiceError>) -> Result<&'static str, String> {
        match choice {
            Ok(Choice::Tensorlake(_)) => Ok("tensorlake"),
            Ok(Choice::Local) => Ok("local"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn chosen(
        options: CommonOptions,
        configured: Option<ExecutorName>,
        key: Option<&str>,
    ) -> Result<&'static str, String> {
        let key = key.map(SecretString::from);
        name(choose(&options, configured, TensorlakeVariables { key, ..Default::default() }))
    }

    fn local() -> CommonOptions {
        CommonOptions { local: true, ..CommonOptions::default() }
    }

    fn with_key(key: &str) -> CommonOptions {
        let tensorlake = Some(TypedKey(SecretString::from(key)));
        CommonOptions { tensorlake, ..CommonOptions::default() }
    }

    fn long(executor: ExecutorName) -> CommonOptions {
        CommonOptions { executor: Some(executor), ..CommonOptions::default() }
    }

    #[test]
    fn nothing_is_chosen_that_was_not_named() {
        let expected = Err("no environment was chosen for commands to run in".to_owned());
        assert_eq!(chosen(CommonOptions::default(), None, None), expected);
    }

    #[test]
    fn the_flag_its_long_form_and_the_configuration_all_choose() {
        assert_eq!(chosen(local(), None, None), Ok("local"));
        assert_eq!(chosen(long(ExecutorName::Local), None, None), Ok("local"));
        let configured = Some(ExecutorName::Local);
        assert_eq!(chosen(CommonOptions::default(), configured, None), Ok("local"));
        assert_eq!(chosen(with_key("tl_x"), None, None), Ok("tensorlake"));
        assert_eq!(chosen(long(ExecutorName::Tensorlake), None, Some("tl_x")), Ok("tensorlake"));
    }

    #[test]
    fn a_key_in_the_environment_chooses_where_nothing_else_does() {
        let key = Some("tl_x");
        assert_eq!(chosen(CommonOptions::default(), None, key), Ok("tensorlake"));
        assert_eq!(chosen(local(), None, key), Ok("local"));
        let configured = Some(ExecutorName::Local);
        assert_eq!(chosen(CommonOptions::default(), configured, key), Ok("local"));
    }

    #[test]
    fn two_environments_at_once_are_refused() {
        let both = CommonOptions { local: true, ..with_key("tl_x") };
        let expected = "--local and --tensorlake name two environments; give one of them";
        assert_eq!(chosen(both, None, None), Err(expected.to_owned()));
        let both = CommonOptions { local: true, ..long(ExecutorName::Tensorlake) };
        assert!(chosen(both, None, None).is_err());
    }

    #[test]
    fn a_subcommand_is_no_key() {
        let actual = chosen(with_key("exec"), None, None).unwrap_err();
        assert_eq!(actual, "--tensorlake takes a key, and \"exec\" is a subcommand");
    }

    #[test]
    fn a_microvm_without_a_key_is_refused() {
        let actual = chosen(long(ExecutorName::Tensorlake), None, None);
        assert_eq!(actual, Err("a Tensorlake microVM needs a key".to_owned()));
    }

    #[test]
    fn options_of_microvms_are_refused_for_this_machine() {
        let options = CommonOptions { keep_vm: true, ..local() };
        let actual = chosen(options, None, None).unwrap_err();
        assert!(actual.starts_with("--keep-vm is for Tensorlake"), "{actual}");
    }

    #[test]
    fn a_choice_shows_no_key() {
        let options = with_key("tl_s3cret");
        let choice = choose(&options, None, TensorlakeVariables::default()).unwrap();
        let shown = format!("{choice:?} {} {options:?}", choice.banner());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
