//! `[setup]` of a project: what is run once in each new environment, before anything else. The project is written by
//! whoever wrote the code, so the user is asked, once for each text.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use async_trait::async_trait;
use forge_api::{
    Bytes, CommandController, CommandError, CommandIo, CommandRequest, Commands, Digest, Ending,
    ForgeAPI, OutputLimits, OutputSink, OutputStream, Program, Signal, SinkClosed,
};
use thiserror::Error;

use crate::choice::Choice;
use crate::configuration::{Setup, SetupWhen};
use crate::failure::{self, Failure};
use crate::questions::Terminal;
use crate::settings::{Settings, state_directory};
use crate::signals::{Arrival, Signals};
use crate::terminal::{Paint, Role, clean, is_terminal};
use crate::writer::Writer;

/// Holds a file for each text that the user has agreed to, or has not.
const ANSWERS: &str = "setups";

/// Why an environment could not be set up.
#[derive(Debug, Error)]
pub(crate) enum SetupError {
    /// The command was not started.
    #[error("the setup of .forge/config.toml was not started")]
    NotStarted(#[source] CommandError),
    /// It failed.
    #[error(
        "the setup of .forge/config.toml failed: it {how} (it is tried again by the next use; `run` there says what it is)"
    )]
    Failed {
        /// How it ended.
        how: String,
    },
}

/// Sets the environment up where that is due, and says which signal came meanwhile, which ends forge.
///
/// # Errors
/// The environment cannot be made, or what was to be run failed.
pub(crate) async fn run_unless_ended(
    api: &ForgeAPI,
    settings: &Settings,
    signals: &mut Signals,
    paint: Paint,
) -> Result<Option<Signal>, Failure> {
    tokio::select! {
        // Dropping it ends what runs.
        done = run(api, settings, paint) => done.map(|()| None),
        arrival = signals.next() => Ok(Some(match arrival {
            Arrival::Interrupt => Signal::INT,
            Arrival::Terminate(signal) => signal,
        })),
    }
}

/// Sets the environment up where that is due.
///
/// # Errors
/// As [`run_unless_ended`].
///
/// # Cancel safety
/// Dropping the future ends what runs; it counts as not having been run.
pub(crate) async fn run(api: &ForgeAPI, settings: &Settings, paint: Paint) -> Result<(), Failure> {
    let Some(setup) = &settings.setup else { return Ok(()) };
    if matches!(settings.choice, Choice::Local) {
        return Ok(());
    }
    let id = api.setup_id(&setup.run);
    if setup.when == SetupWhen::Never || api.has_setup(id).await? {
        return Ok(());
    }
    if !is_agreed(setup, id, paint).await? {
        return Ok(());
    }
    let text = clean(&setup.run);
    failure::note(&format!("setting up, as .forge/config.toml says: {}", text.trim()), paint);
    let mut request = CommandRequest::new(Program::Shell(setup.run.clone().into()))
        .output_limits(OutputLimits::NOTHING);
    request.time_limit = settings.timeout;
    let (_controller, control) = CommandController::new();
    let io =
        CommandIo { sink: Box::new(ToStderr(Writer::stderr())), control, ..CommandIo::detached() };
    let exit = api.executor().run(request, io).await.map_err(SetupError::NotStarted)?;
    let how = match exit.ending {
        Ending::Exited(0) => {
            api.note_setup(id).await?;
            return Ok(());
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
    Err(SetupError::Failed { how }.into())
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
        let written = async {
            self.0.write(bytes).await?;
            self.0.flush().await
        };
        written.await.map_err(|_| SinkClosed)
    }
}
