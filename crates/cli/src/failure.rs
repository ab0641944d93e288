//! Everything that can end a run with a message, and the one function that prints it.

use std::error::Error as _;

#[cfg(target_os = "linux")]
use forge_api::{
    ApplyError, BringError, CommitsError, ReviewError, ServerError, SessionError, StateError,
};
use forge_api::{
    CommandError, EnvironmentError, EnvironmentKind, HostError, InitError, ModelError,
    OutputStream, TensorlakeConfigError, TurnError,
};
use thiserror::Error;

use crate::choice::ChoiceError;
use crate::exit::Conclusion;
use crate::model::ModelSettingsError;
use crate::settings::SettingsError;
use crate::setup::SetupError;
use crate::terminal::{Paint, Role, clean};
use crate::writer::{self, WriteError};

/// Why a run of forge failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The options do not go together, or not here.
    #[error("{0}")]
    Usage(String),
    /// The settings cannot hold.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No model can be named.
    #[error(transparent)]
    Model(#[from] ModelSettingsError),
    /// Forge could not be put together.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A command of `exec` was not started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A task ended with an error.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A session is not there or cannot be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Changes could not be brought to the project.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Review(ReviewError),
    /// There is no server.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Commits could not be brought to the project.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Commits(#[from] BringError),
    /// Nothing is checked out in a session that a branch could be made of.
    #[cfg(target_os = "linux")]
    #[error("there is no commit in the session")]
    NoCommit,
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The environment could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// What forge had to say could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The operating system refused something that every run needs.
    #[error("{what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    /// What this means for the exit code.
    pub(crate) fn conclusion(&self) -> Conclusion {
        match self {
            Self::Usage(_) | Self::Settings(_) | Self::Model(_) => Conclusion::WrongUsage,
            Self::Init(error) => match error {
                InitError::Host(error) => match error {
                    HostError::NotFound { .. }
                    | HostError::NotDirectory { .. }
                    | HostError::Unsuitable { .. } => Conclusion::WrongUsage,
                    HostError::Io { .. } => Conclusion::ForgeFailed,
                },
                InitError::Model(_) => Conclusion::WrongUsage,
                InitError::Tensorlake(error) => match error {
                    TensorlakeConfigError::Address(_)
                    | TensorlakeConfigError::Key
                    | TensorlakeConfigError::Path { .. }
                    | TensorlakeConfigError::Header { .. } => Conclusion::WrongUsage,
                    TensorlakeConfigError::Client(_) => Conclusion::ForgeFailed,
                },
            },
            Self::Command(error) => match error {
                CommandError::NotFound { .. } => Conclusion::CommandNotFound,
                CommandError::NotExecutable { .. } => Conclusion::CommandNotExecutable,
                CommandError::WorkingDirectory { .. } | CommandError::Invalid { .. } => {
                    Conclusion::WrongUsage
                }
                CommandError::Environment(_) => Conclusion::ForgeFailed,
            },
            Self::Turn(error) => match error {
                TurnError::EmptyPrompt | TurnError::NoModel => Conclusion::WrongUsage,
                TurnError::Model(_) => Conclusion::NotDone,
                TurnError::Environment(_) | TurnError::Setup(_) => Conclusion::ForgeFailed,
            },
            #[cfg(target_os = "linux")]
            Self::Session(error) => match error {
                SessionError::NotFound { .. }
                | SessionError::Ambiguous { .. }
                | SessionError::OtherWorkspace { .. }
                | SessionError::InMemory { .. }
                | SessionError::CommitsInMicrovm { .. }
                | SessionError::CommitsInSandbox { .. } => Conclusion::WrongUsage,
                SessionError::Busy { .. }
                | SessionError::Elsewhere { .. }
                | SessionError::Newer { .. }
                | SessionError::Damaged { .. }
                | SessionError::Unsafe { .. }
                | SessionError::Io { .. } => Conclusion::ForgeFailed,
            },
            #[cfg(target_os = "linux")]
            Self::Review(error) => match error {
                ReviewError::Apply(ApplyError::NothingApplied) => Conclusion::NotDone,
                ReviewError::Session(_)
                | ReviewError::Read(_)
                | ReviewError::Apply(_)
                | ReviewError::Changes(_) => Conclusion::ForgeFailed,
            },
            #[cfg(target_os = "linux")]
            Self::Server(error) => match error {
                ServerError::State(_) | ServerError::Listen { .. } => Conclusion::ForgeFailed,
            },
            #[cfg(target_os = "linux")]
            Self::NoCommit => Conclusion::NotDone,
            #[cfg(target_os = "linux")]
            Self::Commits(error) => match error {
                BringError::Target(
                    CommitsError::BranchExists { .. }
                    | CommitsError::NoRepository { .. }
                    | CommitsError::Refused { .. },
                )
                | BringError::Listing(_)
                | BringError::TooLarge { .. } => Conclusion::NotDone,
                BringError::Target(_)
                | BringError::Command(_)
                | BringError::Inside { .. }
                | BringError::TimedOut
                | BringError::Io { .. } => Conclusion::ForgeFailed,
            },
            Self::Environment(_) | Self::Setup(_) | Self::System { .. } => Conclusion::ForgeFailed,
            Self::Write(error) => match error {
                WriteError::ReaderGone => Conclusion::ReaderGone,
                WriteError::Failed { .. } => Conclusion::ForgeFailed,
            },
        }
    }

    /// What the user can do about it, where there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(SettingsError::Choice(error)) => choice_hint(error),
            #[cfg(target_os = "linux")]
            Self::Session(error) => session_hint(error),
            #[cfg(target_os = "linux")]
            Self::Review(ReviewError::Apply(error)) => apply_hint(error),
            #[cfg(target_os = "linux")]
            Self::Server(ServerError::State(StateError::InUse(_))) => {
                Some("end that one, or name another directory with --state-dir".to_owned())
            }
            #[cfg(target_os = "linux")]
            Self::Commits(BringError::Target(CommitsError::BranchExists { .. })) => {
                Some("choose another name, or delete the branch first".to_owned())
            }
            Self::Model(ModelSettingsError::Name(_)) => {
                Some("write it as provider/name, as in openai/gpt-5".to_owned())
            }
            Self::Turn(TurnError::Model(error)) => model_hint(error),
            Self::Command(CommandError::Environment(error))
            | Self::Turn(TurnError::Environment(error))
            | Self::Environment(error) => environment_hint(error),
            Self::Init(InitError::Host(HostError::Unsuitable { .. })) => {
                Some("change into a project's directory, or name one with -C".to_owned())
            }
            _ => None,
        }
    }

    /// The message with its causes, one line.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let text = error.to_string();
            // A library's error may repeat its source in its own text.
            if !text.is_empty() && !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = error.source();
        }
        clean(&message)
    }
}

fn environment_hint(error: &EnvironmentError) -> Option<String> {
    match error {
        EnvironmentError::ContactLost { environment: EnvironmentKind::Tensorlake, .. } => {
            Some("check the network, the proxy variables and --tensorlake-url".to_owned())
        }
        #[cfg(target_os = "linux")]
        EnvironmentError::Unavailable { source: Some(source), .. } => {
            source.downcast_ref::<SessionError>().and_then(session_hint)
        }
        EnvironmentError::ContactLost { .. }
        | EnvironmentError::AccessRefused { .. }
        | EnvironmentError::Unavailable { .. }
        | EnvironmentError::Closed { .. } => None,
    }
}

#[cfg(target_os = "linux")]
fn session_hint(error: &SessionError) -> Option<String> {
    match error {
        SessionError::NotFound { .. } | SessionError::Ambiguous { .. } => {
            Some("`forge session list` shows those that there are".to_owned())
        }
        SessionError::Busy { id, .. } => {
            Some(format!("`forge session stop {id}` ends what uses it; --fresh begins another"))
        }
        SessionError::Elsewhere { id } => {
            Some(format!("`forge session stop {id}` fetches it; --fresh begins another"))
        }
        SessionError::OtherWorkspace { workspace, .. } => {
            Some(format!("work there: -C {}", workspace.display()))
        }
        SessionError::Newer { .. } => {
            Some("use that forge, or begin another with --fresh".to_owned())
        }
        SessionError::Unsafe { path, .. } => {
            Some(format!("chmod 700 {}, or name another with FORGE_STATE_DIR", path.display()))
        }
        SessionError::CommitsInMicrovm { .. } => {
            Some("use it with --tensorlake, or begin another with --fresh".to_owned())
        }
        SessionError::InMemory { .. } | SessionError::CommitsInSandbox { .. } => {
            Some("use it with --sandbox, or begin another with --fresh".to_owned())
        }
        SessionError::Damaged { .. } | SessionError::Io { .. } => None,
    }
}

#[cfg(target_os = "linux")]
fn apply_hint(error: &ApplyError) -> Option<String> {
    match error {
        ApplyError::Changed { .. } => Some("nothing was applied; try again".to_owned()),
        ApplyError::Busy => Some("nothing was applied; try again when it has ended".to_owned()),
        ApplyError::NothingApplied => None,
        ApplyError::SessionChanged { .. } => {
            Some("nothing was applied; look at it again".to_owned())
        }
        ApplyError::Io { .. } => Some("nothing was changed".to_owned()),
        ApplyError::Incomplete { .. } => {
            Some("nothing is lost: the next forge command here tries again".to_owned())
        }
    }
}

fn choice_hint(error: &ChoiceError) -> Option<String> {
    Some(match error {
        ChoiceError::SubcommandAsKey { name } => format!(
            "give the key before it (forge --tensorlake KEY {name} …), or set TENSORLAKE_API_KEY and \
             leave the option out"
        ),
        ChoiceError::NoKey => {
            "set TENSORLAKE_API_KEY, or name a file with --tensorlake-key-file".to_owned()
        }
        ChoiceError::NoSandboxHere => {
            "TENSORLAKE_API_KEY or --tensorlake-key-file runs commands in a microVM; --local runs them \
             on this machine, without any isolation"
                .to_owned()
        }
        ChoiceError::KeyFileMode { path, .. } => format!("chmod 600 {}", path.display()),
        ChoiceError::Two { .. }
        | ChoiceError::KeyFile { .. }
        | ChoiceError::KeyFileEmpty { .. }
        | ChoiceError::AddDirectory { .. }
        | ChoiceError::NotForThis { .. } => return None,
    })
}

fn model_hint(error: &ModelError) -> Option<String> {
    Some(match error {
        ModelError::AccessRefused { model, .. } => {
            format!("check the key for {}", model.provider())
        }
        ModelError::NoSuchModel { .. } => "choose another with -m provider/name".to_owned(),
        ModelError::Unreachable { .. } => {
            "check the network, the proxy variables, and the provider's *_BASE_URL".to_owned()
        }
        ModelError::Rejected { .. }
        | ModelError::Busy { .. }
        | ModelError::BrokenOff { .. }
        | ModelError::Unreadable { .. } => return None,
    })
}

/// Prints a failure to stderr: one line, and a hint where there is one.
pub(crate) fn print(failure: &Failure, paint: Paint) {
    let mut text = format!("{} {}\n", paint.paint(Role::Bad, "error:"), failure.message());
    if let Some(hint) = failure.hint() {
        text.push_str(&format!("{} {}\n", paint.paint(Role::Strong, "hint:"), clean(&hint)));
    }
    say(&text);
}

/// Prints a warning to stderr.
pub(crate) fn warn(message: &str, paint: Paint) {
    say(&format!("{} {}\n", paint.paint(Role::Warning, "warning:"), clean(message)));
}

/// Says something on stderr that is no trouble.
pub(crate) fn note(message: &str, paint: Paint) {
    say(&format!("{} {}\n", paint.paint(Role::Strong, "note:"), clean(message)));
}

fn say(text: &str) {
    // There is nowhere left to say that stderr cannot be written to.
    drop(writer::write_all(OutputStream::Stderr, text.as_bytes()));
}

#[cfg(target_os = "linux")]
impl From<ReviewError> for Failure {
    fn from(error: ReviewError) -> Self {
        match error {
            ReviewError::Session(error) => Self::Session(error),
            ReviewError::Read(_) | ReviewError::Apply(_) | ReviewError::Changes(_) => {
                Self::Review(error)
            }
        }
    }
}
