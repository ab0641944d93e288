//! `[setup]` of a project: what is run once in each new environment, before anything else is. The project is written by
//! whoever wrote the code, so the user is asked, once for each text. `exec` and `shell` do it at once; a turn of the model
//! only when a tool is to act, so that a turn without any makes no microVM.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_api::{
    AgentEvent, Bytes, CommandController, CommandError, CommandIo, CommandRequest, Commands,
    Digest, Ending, EventSink, Executor, ForgeAPI, OutputLimits, OutputSink, OutputStream, Program,
    Setup as SetupPort, Signal, SinkClosed, TurnError,
};
use thiserror::Error;
use tokio::sync::Mutex as AsyncMutex;

use crate::choice::Choice;
use crate::configuration::{Setup, SetupWhen};
use crate::failure::{self, Failure};
use crate::questions::Terminal;
use crate::settings::{Settings, state_directory};
use crate::signals::{Arrival, Signals};
use crate::terminal::{Paint, Role, clean, is_terminal};
use crate::waiting;
use crate::writer::Writer;

/// Holds a file for each text that the user has agreed to, or has not.
const ANSWERS: &str = "setups";

/// Why an environment could not be set up.
#[derive(Debug, Error)]
pub(crate) enum SetupError {
    /// The command was not started.
    #[error("the setup of .forge/config.toml was not started")]
    NotStarted(#[source] CommandError),
    /// It was successful, and that could not be written down.
    #[error("it could not be noted that the environment is set up")]
    NotNoted(#[source] CommandError),
    /// It failed.
    #[error(
        "the setup of .forge/config.toml failed: it {how} (it is tried again by the next use; `run` there says what it is)"
    )]
    Failed {
        /// How it ended.
        how: String,
    },
}

/// Asks the user where that is needed, and has the environment set up before a tool of the model acts there. Says which
/// signal came meanwhile, which ends forge. A microVM is not made for that.
///
/// # Errors
/// The terminal cannot be used, or the sandbox cannot be made.
pub(crate) async fn before_tools(
    api: &ForgeAPI,
    settings: &Settings,
    signals: &mut Signals,
    paint: Paint,
) -> Result<Option<Signal>, Failure> {
    tokio::select! {
        done = agree(api, settings, paint) => done.map(|()| None),
        arrival = signals.next() => Ok(Some(match arrival {
            Arrival::Interrupt => Signal::INT,
            Arrival::Terminate(signal) => signal,
        })),
    }
}

async fn agree(api: &ForgeAPI, settings: &Settings, paint: Paint) -> Result<(), Failure> {
    let Some(setup) = wanted(settings) else { return Ok(()) };
    let id = api.setup_id(&setup.run);
    let executor = api.executor().clone();
    if matches!(settings.choice, Choice::Sandbox(_)) && executor.has_setup(id).await? {
        return Ok(());
    }
    if is_agreed(setup, id, paint).await? {
        let (text, time_limit) = (setup.run.clone(), settings.timeout);
        let tried = AsyncMutex::default();
        api.set_up_by(Arc::new(BeforeTools { executor, text, time_limit, id, tried }));
    }
    Ok(())
}

/// Sets the environment up where that is due.
///
/// # Errors
/// The environment cannot be made, or what was to be run failed.
///
/// # Cancel safety
/// Dropping the future ends what runs; it counts as not having been run.
pub(crate) async fn run(api: &ForgeAPI, settings: &Settings, paint: Paint) -> Result<(), Failure> {
    let Some(setup) = wanted(settings) else { return Ok(()) };
    let id = api.setup_id(&setup.run);
    if api.executor().has_setup(id).await? || !is_agreed(setup, id, paint).await? {
        return Ok(());
    }
    failure::note(&announcement(&setup.run), paint);
    Ok(carry_out(api.executor(), &setup.run, settings.timeout, id).await?)
}

/// The project's setup, where it may be due at all.
fn wanted(settings: &Settings) -> Option<&Setup> {
    let is_local = matches!(settings.choice, Choice::Local);
    settings.setup.as_ref().filter(|setup| !is_local && setup.when != SetupWhen::Never)
}

fn announcement(text: &str) -> String {
    format!("setting up, as .forge/config.toml says: {}", clean(text).trim())
}

async fn carry_out(
    executor: &Executor,
    text: &str,
    time_limit: Option<Duration>,
    id: Digest,
) -> Result<(), SetupError> {
    let mut request =
        CommandRequest::new(Program::Shell(text.into())).output_limits(OutputLimits::NOTHING);
    request.time_limit = time_limit;
    let (_controller, control) = CommandController::new();
    let io =
        CommandIo { sink: Box::new(ToStderr(Writer::stderr())), control, ..CommandIo::detached() };
    let exit = executor.run(request, io).await.map_err(SetupError::NotStarted)?;
    let how = match exit.ending {
        Ending::Exited(0) => {
            return executor.note_setup(id).await.map_err(SetupError::NotNoted);
        }
        Ending::Exited(code) => format!("exited with {code}"),
        Ending::Signalled(signal) => format!("was ended by the signal {signal}"),
        Ending::TimedOut { limit } => {
            format!("ran for longer than {}", humantime::format_duration(limit))
        }
        Ending::OutOfMemory => "used up its memory".to_owned(),
        Ending::LimitExceeded(_) => "reached a limit of the environment".to_owned(),
        Ending::Cancelled => "was ended".to_owned(),
        Ending::Unknown | Ending::ContactLost { .. } => "ended, and nobody knows how".to_owned(),
    };
    Err(SetupError::Failed { how })
}

/// What the user has agreed to, for turns.
#[derive(Debug)]
struct BeforeTools {
    executor: Executor,
    text: String,
    time_limit: Option<Duration>,
    id: Digest,
    /// Where it was tried: in a microVM by its id, or in the sandbox. It is not tried again there: what was to be set up is
    /// perhaps what is to be mended.
    tried: AsyncMutex<Option<Option<String>>>,
}

#[async_trait]
impl SetupPort for BeforeTools {
    async fn set_up(&self, events: &mut dyn EventSink) -> Result<(), TurnError> {
        // Whoever comes meanwhile waits.
        let mut tried = self.tried.lock().await;
        let here = self.executor.remote_id();
        if tried.as_ref() == Some(&here) {
            return Ok(());
        }
        let has_it = self.executor.has_setup(self.id).await.map_err(turn_error)?;
        // Asking may have made it anew.
        let here = self.executor.remote_id();
        if !has_it {
            events.event(AgentEvent::Notice(announcement(&self.text))).await;
            let done = carry_out(&self.executor, &self.text, self.time_limit, self.id).await;
            if let Err(error) = done {
                *tried = Some(here);
                return Err(match error {
                    SetupError::NotStarted(CommandError::Environment(error))
                    | SetupError::NotNoted(CommandError::Environment(error)) => error.into(),
                    error => TurnError::Setup(Box::new(error)),
                });
            }
        }
        *tried = Some(here);
        Ok(())
    }
}

fn turn_error(error: CommandError) -> TurnError {
    match error {
        CommandError::Environment(error) => error.into(),
        error => TurnError::Setup(Box::new(error)),
    }
}

/// Whether the user wants it: as was said once, or is said now.
async fn is_agreed(setup: &Setup, id: Digest, paint: Paint) -> Result<bool, Failure> {
    if setup.when == SetupWhen::Always {
        return Ok(true);
    }
    let answers = state_directory().map(|state| state.join(ANSWERS));
    match answers.as_ref().map(|answers| fs::read_to_string(answers.join(id.to_string()))) {
        Some(Ok(answer)) if answer == "yes\n" => return Ok(true),
        Some(Ok(answer)) if answer == "no\n" => return Ok(false),
        Some(Ok(_) | Err(_)) | None => {}
    }
    let terminal = Terminal::open(paint).ok().filter(|_| is_terminal(OutputStream::Stderr));
    let Some(terminal) = terminal else {
        let text = "the project's setup in .forge/config.toml was not run, since nobody has agreed to it: forge asks at a \
                    terminal, and [setup] when = \"always\" in your own configuration agrees to any";
        failure::note(text, paint);
        return Ok(false);
    };
    let mut question = String::from(
        "\nThe project wants this to be run in each new environment, .forge/config.toml says:\n",
    );
    for line in clean(&setup.run).trim().lines() {
        question.push_str(&format!("  {}\n", paint.paint(Role::Strong, line)));
    }
    question.push_str("It is isolated like every other command. Run it, now and whenever it is due? [y]es, [n]o: ");
    let unasked = |source| Failure::System { what: "the terminal cannot be used", source };
    let Some(answer) = terminal.confirm(&question).await.map_err(unasked)? else {
        return Ok(false);
    };
    if let Some(answers) = answers
        && let Err(error) = remember(answers, id, answer)
    {
        failure::warn(
            &format!("the answer cannot be written down and is asked for again: {error}"),
            paint,
        );
    }
    Ok(answer)
}

fn remember(answers: PathBuf, id: Digest, answer: bool) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&answers)?;
    let new = answers.join(format!("{id}.new"));
    File::create(&new)?.write_all(if answer { b"yes\n" } else { b"no\n" })?;
    fs::rename(new, answers.join(id.to_string()))
}

/// Both streams go to stderr: stdout is for what was asked for.
#[derive(Debug)]
struct ToStderr(Writer);

#[async_trait]
impl OutputSink for ToStderr {
    async fn write(&mut self, _stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        waiting::make_room();
        let written = async {
            self.0.write(bytes).await?;
            self.0.flush().await
        };
        written.await.map_err(|_| SinkClosed)
    }
}
