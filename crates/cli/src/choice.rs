//! Which environment: flags beat the configuration, which beats the environment variables; two that
//! disagree are wrong usage; nothing is ever chosen that the user did not name.
//!
//! The one place to extend when an environment is added: a name in
//! [`ExecutorName`], its flag in [`choose`], its options in
//! [`Choice`], its banner, and what the api is told of it in `executor`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use forge_api::{Resources, SecretString, TensorlakeConfig};
use secrecy::ExposeSecret as _;
use thiserror::Error;

#[cfg(target_os = "linux")]
use crate::arguments::MicrovmOptions;
use crate::arguments::{AskWhich, CommonOptions, ExecutorName, Mebibytes, NetworkName, TypedKey};
use crate::keyfile;

/// The environment that was chosen.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// The embedded sandbox.
    Sandbox(Box<SandboxChoice>),
    /// A Tensorlake microVM.
    Tensorlake(Box<TensorlakeChoice>),
    /// This machine.
    Local,
}

/// A sandbox and how it is had.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxChoice {
    pub(crate) session: Option<String>,
    pub(crate) fresh: bool,
    pub(crate) network: Option<NetworkName>,
    pub(crate) milli_cpus: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) include: Vec<PathBuf>,
    pub(crate) added: Vec<AddedChoice>,
}

/// A directory that commands see besides the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedChoice {
    pub(crate) directory: PathBuf,
    pub(crate) writable: bool,
}

/// A microVM and how it is had.
#[derive(Debug, Clone)]
pub(crate) struct TensorlakeChoice {
    pub(crate) config: TensorlakeConfig,
    pub(crate) session: Option<String>,
    pub(crate) fresh: bool,
    pub(crate) include: Vec<PathBuf>,
    pub(crate) max_file_bytes: Option<u64>,
    pub(crate) max_project_bytes: Option<u64>,
    pub(crate) max_history_bytes: Option<u64>,
    pub(crate) no_git: bool,
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
    /// The sandbox is made of what only Linux has.
    #[cfg_attr(target_os = "linux", expect(dead_code, reason = "it is there on Linux"))]
    #[error("the embedded sandbox needs Linux")]
    NoSandboxHere,
    /// An option that means nothing for the environment that was chosen.
    #[error("{option} is for {is_for}; {chosen}")]
    NotForThis {
        /// Which.
        option: &'static str,
        /// What it is for.
        is_for: &'static str,
        /// What was chosen, and is not that.
        chosen: &'static str,
    },
    /// A directory that is to be added cannot be.
    #[error("the directory {} cannot be added", path.display())]
    AddDirectory {
        /// As it was given.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
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
    match flag(options)?.or(configured).or(from_variable).unwrap_or(ExecutorName::Sandbox) {
        ExecutorName::Sandbox => sandbox(options),
        ExecutorName::Tensorlake => tensorlake(options, variables),
        ExecutorName::Local => {
            let chosen = "this machine is used as it is";
            refuse(of_microvms(options), "Tensorlake microVMs", chosen)?;
            refuse(of_sandbox(options), "the sandbox", chosen)?;
            refuse(of_isolation(options), "isolated environments", chosen)?;
            Ok(Choice::Local)
        }
    }
}

fn refuse(
    option: Option<&'static str>,
    is_for: &'static str,
    chosen: &'static str,
) -> Result<(), ChoiceError> {
    option.map_or(Ok(()), |option| Err(ChoiceError::NotForThis { option, is_for, chosen }))
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
        (options.sandbox, "--sandbox", ExecutorName::Sandbox),
        (
            options.executor == Some(ExecutorName::Sandbox),
            "--executor sandbox",
            ExecutorName::Sandbox,
        ),
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

/// Options that only microVMs have.
fn of_microvms(options: &CommonOptions) -> Option<&'static str> {
    let given = [
        (options.tensorlake_url.is_some(), "--tensorlake-url"),
        (options.image.is_some(), "--image"),
        (options.keep_vm, "--keep-vm"),
        (options.max_file.is_some(), "--max-file"),
        (options.max_project.is_some(), "--max-project"),
        (options.max_history.is_some(), "--max-history"),
        (options.no_git, "--no-git"),
    ];
    given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
}

/// Options that only the sandbox has.
fn of_sandbox(options: &CommonOptions) -> Option<&'static str> {
    (!options.add_dir.is_empty()).then_some("--add-dir")
}

/// Options of both.
fn of_isolation(options: &CommonOptions) -> Option<&'static str> {
    let given = [
        (options.network.is_some(), "--network"),
        (options.cpus.is_some(), "--cpus"),
        (options.memory.is_some(), "--memory"),
        (options.session.is_some(), "--session"),
        (options.fresh, "--fresh"),
        (!options.include.is_empty(), "--include"),
    ];
    given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
}

fn sandbox(options: &CommonOptions) -> Result<Choice, ChoiceError> {
    #[cfg(not(target_os = "linux"))]
    return Err(ChoiceError::NoSandboxHere);
    #[cfg(target_os = "linux")]
    sandbox_of_linux(options)
}

#[cfg(target_os = "linux")]
fn sandbox_of_linux(options: &CommonOptions) -> Result<Choice, ChoiceError> {
    refuse(of_microvms(options), "Tensorlake microVMs", "commands run in the sandbox")?;
    let added = options.add_dir.iter().map(|text| added_directory(text));
    Ok(Choice::Sandbox(Box::new(SandboxChoice {
        session: options.session.clone(),
        fresh: options.fresh,
        network: options.network,
        milli_cpus: options.cpus.map(milli),
        memory_bytes: options.memory.map(|Mebibytes(memory)| memory * 1024 * 1024),
        include: options.include.clone(),
        added: added.collect::<Result<_, _>>()?,
    })))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be above 0 and at most 1024"
)]
fn milli(cpus: f64) -> u64 {
    (cpus * 1000.0).ceil() as u64
}

/// Reads `DIR`, `DIR:ro` or `DIR:rw`. The directory has to be there.
fn added_directory(text: &OsStr) -> Result<AddedChoice, ChoiceError> {
    let bytes = text.as_bytes();
    let (path, writable) = match (bytes.strip_suffix(b":rw"), bytes.strip_suffix(b":ro")) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => (bytes, false),
    };
    let path = Path::new(OsStr::from_bytes(path));
    let failed = |source| ChoiceError::AddDirectory { path: path.to_path_buf(), source };
    let directory = path.canonicalize().map_err(failed)?;
    if !directory.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    Ok(AddedChoice { directory, writable })
}

fn tensorlake(
    options: &CommonOptions,
    variables: TensorlakeVariables,
) -> Result<Choice, ChoiceError> {
    refuse(of_sandbox(options), "the sandbox", "commands run in a Tensorlake microVM")?;
    let server = server(
        options.tensorlake.as_ref(),
        options.tensorlake_key_file.as_deref(),
        options.tensorlake_url.clone(),
        variables,
    )?;
    let (mut config, key_from) = server.ok_or(ChoiceError::NoKey)?;
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
    let bytes = |size: Option<Mebibytes>| size.map(|Mebibytes(size)| size * 1024 * 1024);
    Ok(Choice::Tensorlake(Box::new(TensorlakeChoice {
        config,
        session: options.session.clone(),
        fresh: options.fresh,
        include: options.include.clone(),
        max_file_bytes: bytes(options.max_file),
        max_project_bytes: bytes(options.max_project),
        max_history_bytes: bytes(options.max_history),
        no_git: options.no_git,
        key_from,
    })))
}

/// The server for microVMs and the key for it; `None` where there is no key.
fn server(
    typed: Option<&TypedKey>,
    file: Option<&Path>,
    url: Option<String>,
    variables: TensorlakeVariables,
) -> Result<Option<(TensorlakeConfig, KeyFrom)>, ChoiceError> {
    let (key, key_from) = match (typed, file, variables.key) {
        (Some(_), Some(_), _) => {
            let (first, second) = ("--tensorlake", "--tensorlake-key-file");
            return Err(ChoiceError::Two { first, second });
        }
        (Some(TypedKey(key)), None, _) => (key.clone(), KeyFrom::CommandLine),
        (None, Some(path), _) => (read_key(path)?, KeyFrom::File),
        (None, None, Some(key)) => (key, KeyFrom::Variable),
        (None, None, None) => return Ok(None),
    };
    let mut config = TensorlakeConfig::new(key);
    if let Some(url) = url.or(variables.url) {
        config = config.api_url(url);
    }
    config.organization = variables.organization;
    config.project = variables.project;
    Ok(Some((config, key_from)))
}

/// The server that the microVMs of sessions are asked for; `None` where there is no key.
///
/// # Errors
/// Two keys are given, or the file with the key cannot be used.
#[cfg(target_os = "linux")]
pub(crate) fn microvm_server(
    options: MicrovmOptions,
    variables: TensorlakeVariables,
) -> Result<Option<TensorlakeConfig>, ChoiceError> {
    let MicrovmOptions { tensorlake, tensorlake_key_file, tensorlake_url } = options;
    let file = tensorlake_key_file.as_deref();
    let server = server(tensorlake.as_ref(), file, tensorlake_url, variables)?;
    Ok(server.map(|(config, _)| config))
}

/// Reads a key from a file.
///
/// # Errors
/// It cannot be read, others can read it, or it holds nothing.
pub(crate) fn read_key(path: &Path) -> Result<SecretString, ChoiceError> {
    let own = |path: &Path| path.to_path_buf();
    keyfile::read(path).map_err(|error| match error {
        keyfile::KeyFileError::Read(source) => ChoiceError::KeyFile { path: own(path), source },
        keyfile::KeyFileError::Mode(mode) => ChoiceError::KeyFileMode { path: own(path), mode },
        keyfile::KeyFileError::Empty => ChoiceError::KeyFileEmpty { path: own(path) },
    })
}

/// What is said where the key can be read on its way.
pub(crate) const UNENCRYPTED: &str = "the key goes to this address without encryption (http)";

impl Choice {
    /// What the banner says of it.
    pub(crate) fn banner(&self) -> String {
        match self {
            Self::Tensorlake(choice) => {
                let TensorlakeChoice { config, key_from, .. } = &**choice;
                let Resources { cpus, memory_mb, .. } = config.resources;
                let key = match key_from {
                    KeyFrom::CommandLine => "key from the command line",
                    KeyFrom::File => "key from a file",
                    KeyFrom::Variable => "key from TENSORLAKE_API_KEY",
                };
                let network = if config.internet { "with the internet" } else { "no network" };
                format!("Tensorlake, {key}: a microVM, {cpus} cpu, {memory_mb} MiB, {network}")
            }
            Self::Sandbox(choice) => {
                let network = match choice.network {
                    Some(NetworkName::Full) => "with the host's network",
                    Some(NetworkName::None) | None => "no network",
                };
                format!("sandbox: changes are kept apart, {network}")
            }
            Self::Local => "local: no isolation, commands run on this machine".to_owned(),
        }
    }

    /// What the user has to know before anything is done.
    pub(crate) fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if let Self::Sandbox(choice) = self
            && choice.added.iter().any(|added| added.writable)
        {
            warnings.push("directories added with :rw are changed at once, without review");
        }
        if let Self::Tensorlake(choice) = self
            && choice.config.is_unencrypted()
        {
            warnings.push(UNENCRYPTED);
        }
        warnings
    }

    /// What is worth a word to whoever sits there, and none in a log.
    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Self::Local => {
                Some("--local has no review: what commands change is changed at once, for good")
            }
            #[cfg(target_os = "linux")]
            Self::Sandbox(_) => None,
            Self::Tensorlake(_) => None,
        }
    }

    /// Whether the environment is to outlive this run.
    pub(crate) fn is_kept(&self) -> bool {
        match self {
            Self::Tensorlake(choice) => choice.config.keep,
            Self::Sandbox(_) | Self::Local => false,
        }
    }

    /// The variables of the user that commands get without being named.
    pub(crate) fn inherits_variables(&self) -> bool {
        match self {
            Self::Sandbox(_) | Self::Tensorlake(_) => false,
            Self::Local => true,
        }
    }

    /// Before which commands the user is asked in a conversation, unless they said.
    pub(crate) fn asks_by_default(&self) -> AskWhich {
        match self {
            Self::Sandbox(_) | Self::Tensorlake(_) => AskWhich::Never,
            Self::Local => AskWhich::Always,
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
            Ok(Choice::Sandbox(_)) => Ok("sandbox"),
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
    fn the_sandbox_is_taken_where_nothing_else_is_named() {
        assert_eq!(chosen(CommonOptions::default(), None, None), Ok("sandbox"));
        assert_eq!(chosen(long(ExecutorName::Sandbox), None, Some("tl_x")), Ok("sandbox"));
        let flag = CommonOptions { sandbox: true, ..CommonOptions::default() };
        assert_eq!(chosen(flag, Some(ExecutorName::Local), Some("tl_x")), Ok("sandbox"));
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
        let options = CommonOptions { keep_vm: true, ..CommonOptions::default() };
        let actual = chosen(options, None, None).unwrap_err();
        assert!(actual.ends_with("commands run in the sandbox"), "{actual}");
    }

    #[test]
    fn options_of_the_sandbox_are_refused_elsewhere() {
        let options = CommonOptions { fresh: true, ..local() };
        let actual = chosen(options, None, None).unwrap_err();
        assert_eq!(actual, "--fresh is for isolated environments; this machine is used as it is");
        let options = CommonOptions { fresh: true, ..with_key("tl_x") };
        assert!(chosen(options, None, None).is_ok());
        let add_dir = vec!["/".into()];
        let options = CommonOptions { add_dir, ..with_key("tl_x") };
        let actual = chosen(options, None, None).unwrap_err();
        let expected = "--add-dir is for the sandbox; commands run in a Tensorlake microVM";
        assert_eq!(actual, expected);
    }

    #[test]
    fn an_added_directory_is_read_only_unless_it_says_otherwise() {
        let writable =
            |text: &str| added_directory(OsStr::new(text)).map(|added| added.writable).ok();
        assert_eq!(
            ["/", "/:ro", "/:rw", "/missing-directory:rw"].map(writable),
            [Some(false), Some(false), Some(true), None]
        );
    }

    #[test]
    fn a_choice_shows_no_key() {
        let options = with_key("tl_s3cret");
        let choice = choose(&options, None, TensorlakeVariables::default()).unwrap();
        let shown = format!("{choice:?} {} {options:?}", choice.banner());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
