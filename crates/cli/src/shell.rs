//! `forge shell`: a shell in the environment, on the user's terminal.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_api::{
    CommandExit, CommandRequest, EnvironmentVariable, ForgeAPI, Lifecycle, OutputSink,
    OutputStream, Program, Signal, SinkClosed, TerminalController, TerminalInput, TerminalIo,
    Terminals, VariableName,
};
use futures_util::stream::{self, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::banner;
use crate::choice::Choice;
use crate::closing::{self, Closing, End};
use crate::exec;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::keys::Keys;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::setup;
use crate::signals::{Arrival, Signals};
use crate::terminal::{self, Paint};
use crate::variables;
use crate::writer::Writer;

/// Variables of the user's terminal that a shell in an isolated environment gets, too.
const OF_THE_TERMINAL: [&str; 2] = ["TERM", "COLORTERM"];

/// How long, past its grace, a shell that was ended may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(3);

/// How long answers of the terminal are waited for that nobody reads any more.
const LATE_ANSWERS: Duration = Duration::from_millis(60);

/// How long a terminal that takes nothing may hold up the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Longer than anybody waits.
const FAR_FUTURE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Runs a shell. Stdin and stdout are a terminal.
///
/// # Errors
/// The shell was not started.
pub(crate) async fn run(settings: Settings) -> Result<Conclusion, Failure> {
    let paint = Paint::choose(settings.color, OutputStream::Stderr);
    let mut signals = Signals::listen().map_err(unhandled)?;
    let api = ForgeAPI::init(settings.forge()?).await?;
    // Until it is there, keys are the user's terminal's: Ctrl-C ends forge.
    let prepared = {
        let mut preparing = pin!(prepare(&api, &settings, paint));
        tokio::select! {
            prepared = &mut preparing => prepared.map(|()| None),
            arrival = signals.next() => Ok(Some(signal_of(arrival))),
        }
    };
    let outcome = match prepared {
        Ok(Some(signal)) => Ok((None, Some(signal))),
        Ok(None) => attend(&api, &settings, &mut signals).await,
        Err(error) => Err(error),
    };
    let is_interrupted = !matches!(outcome, Ok((Some(_), None)));
    let closing = Closing {
        choice: &settings.choice,
        end: End::of(&settings, is_interrupted),
        verbose: settings.verbose,
        #[cfg(target_os = "linux")]
        pending: crate::pending::Pending::default(),
        paint,
    };
    // The exit code is the shell's, whatever was applied.
    let _closed = closing::close(&api, closing, &mut signals).await;
    let (exit, ended_by) = outcome?;
    Ok(match exit {
        Some(exit) => exec::conclude(exit, ended_by, paint),
        None => Conclusion::Ended(ended_by.unwrap_or(Signal::HUP)),
    })
}

fn unhandled(source: std::io::Error) -> Failure {
    Failure::System { what: "signals cannot be handled", source }
}

fn signal_of(arrival: Arrival) -> Signal {
    match arrival {
        Arrival::Interrupt => Signal::INT,
        Arrival::Terminate(signal) => signal,
    }
}

async fn prepare(api: &ForgeAPI, settings: &Settings, paint: Paint) -> Result<(), Failure> {
    api.executor().prepare().await?;
    setup::run(api, settings, paint).await?;
    let banner = banner::line(api, &settings.choice).await?;
    failure::note(&banner, paint);
    Ok(())
}

/// How the shell ended, and the signal to forge that made it end.
type Attended = (Option<CommandExit>, Option<Signal>);

/// Runs the shell with the terminal in its hands, and takes the terminal back.
async fn attend(
    api: &ForgeAPI,
    settings: &Settings,
    signals: &mut Signals,
) -> Result<Attended, Failure> {
    let mut window = signal(SignalKind::window_change()).map_err(unhandled)?;
    let mut continued = signal(SignalKind::from_raw(CONTINUED)).map_err(unhandled)?;
    let system = |source| Failure::System { what: "the terminal cannot be used", source };
    let request = request(settings);
    let grace = request.termination_grace;
    let shown = Arc::new(Mutex::new(Shown::of(&settings.choice)));
    let (controller, control) = TerminalController::new();
    terminal::remember();
    let (keys, input) = Keys::read().map_err(system)?;
    let writer = Arc::new(AsyncMutex::new(Writer::stdout()));
    let sink = Box::new(Window { writer: Arc::clone(&writer), shown: Arc::clone(&shown) });
    let (to_shell, mut typed) = mpsc::channel(1);
    let typed = Box::pin(stream::poll_fn(move |context| typed.poll_recv(context)));
    let io = TerminalIo { input: typed, sink, control };
    terminal::make_raw().map_err(system)?;
    let mut ended_by = None;
    let mut give_up = Instant::now() + FAR_FUTURE;
    let exit = {
        let mut given_up = pin!(hand_over(input, to_shell, &shown));
        let mut shell = pin!(api.executor().run_on_terminal(request, terminal::size(), io));
        loop {
            tokio::select! {
                exit = &mut shell => break Some(exit),
                arrival = signals.next() => {
                    if ended_by.is_some() {
                        break None;
                    }
                    ended_by = Some(signal_of(arrival));
                    controller.cancel();
                    give_up = Instant::now() + grace + END_LIMIT;
                }
                Some(()) = window.recv() => controller.resize(terminal::size()),
                Some(()) = continued.recv() => {
                    // Whoever let forge stop has the terminal set in another way meanwhile.
                    terminal::make_raw().map_err(system)?;
                    controller.resize(terminal::size());
                }
                () = &mut given_up => {
                    ended_by = Some(Signal::INT);
                    break None;
                }
                () = sleep_until(give_up) => break None,
            }
        }
        // Leaving this block drops a shell that is still running, which kills it.
    };
    keys.stop();
    // That it could not be written, the shell's end has told already.
    let _late =
        tokio::time::timeout(FLUSH_LIMIT, async { writer.lock().await.flush().await }).await;
    let has_asked = shown.lock().unwrap_or_else(PoisonError::into_inner).has_asked();
    if has_asked && ended_by.is_none() {
        tokio::time::sleep(LATE_ANSWERS).await;
        terminal::forget_typed();
    }
    terminal::give_back();
    Ok((exit.transpose()?, ended_by))
}

/// Hands keys over to the shell. Until that has shown anything, nobody is there for whom Ctrl-C could be,
/// and it ends the wait: then this returns.
async fn hand_over(mut input: TerminalInput, to_shell: mpsc::Sender<Bytes>, shown: &Mutex<Shown>) {
    while let Some(bytes) = input.next().await {
        let has_begun = shown.lock().unwrap_or_else(PoisonError::into_inner).has_begun;
        if !has_begun && bytes.contains(&CTRL_C) {
            return;
        }
        if to_shell.send(bytes).await.is_err() {
            break;
        }
    }
    // That nobody types any more is not the shell's end.
    std::future::pending().await
}

const CTRL_C: u8 = 0x03;

/// SIGCONT.
const CONTINUED: i32 = if cfg!(target_os = "linux") { 18 } else { 19 };

/// The user's own shell where the environment has it, else bash, else `sh`.
fn request(settings: &Settings) -> CommandRequest {
    let own = variables::absolute_path("SHELL").unwrap_or_else(|| "bash".into());
    let own = own.as_os_str().as_bytes();
    let quoted = own.split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]);
    let text = [
        &b"for s in '"[..],
        &quoted,
        b"' bash sh; do\n\
          p=$(command -v -- \"$s\") && [ -x \"$p\" ] || continue\n\
          SHELL=$p; export SHELL; exec \"$p\"\ndone",
    ]
    .concat();
    let mut request = CommandRequest::new(Program::Shell(OsString::from_vec(text)));
    request.time_limit = settings.timeout;
    let is_set = |name: &VariableName| {
        settings.variables.variables.iter().any(|variable| variable.name() == name)
    };
    request.environment = OF_THE_TERMINAL
        .iter()
        .filter_map(|name| {
            let value = variables::path(name)?;
            let name = VariableName::parse(name).ok().filter(|name| !is_set(name))?;
            EnvironmentVariable::new(name, value.into_os_string()).ok()
        })
        .collect();
    request
}

/// What goes to the user's terminal.
#[derive(Debug)]
struct Shown {
    /// Decides what an isolated environment may do there. Local commands may do all of it anyway.
    screen: Option<Screen>,
    /// Whether there was anything yet.
    has_begun: bool,
}

impl Shown {
    fn of(choice: &Choice) -> Self {
        let screen = match choice {
            Choice::Sandbox(_) | Choice::Tensorlake(_) => Some(Screen::default()),
            Choice::Local => None,
        };
        Self { screen, has_begun: false }
    }

    fn pass(&mut self, bytes: Bytes) -> Bytes {
        self.has_begun = true;
        match &mut self.screen {
            Some(screen) => {
                let passed = screen.pass(&bytes).into();
                terminal::owe(screen.undo());
                passed
            }
            None => bytes,
        }
    }

    fn has_asked(&self) -> bool {
        self.screen.as_ref().is_some_and(Screen::has_asked)
    }
}

/// Hands on to the user's terminal what may be handed on.
#[derive(Debug)]
struct Window {
    writer: Arc<AsyncMutex<Writer>>,
    shown: Arc<Mutex<Shown>>,
}

#[async_trait]
impl OutputSink for Window {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        let passed = self.shown.lock().unwrap_or_else(PoisonError::into_inner).pass(bytes);
        if passed.is_empty() {
            return Ok(());
        }
        self.writer.lock().await.write(passed).await.map_err(|_| SinkClosed)
    }
}
