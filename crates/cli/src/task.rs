//! `forge -p`: one task, then the end.

use std::time::Duration;

use forge_api::{ForgeAPI, OutputStream, Signal, TurnOutcome};
use futures_util::StreamExt as _;
use tokio::time::sleep;

use crate::arguments::{AskWhich, OutputFormat};
use crate::banner;
use crate::closing::{self, Closed, Closing, End, Left};
use crate::exit::{Conclusion, Verb};
use crate::failure::Failure;
use crate::model;
use crate::questions::{Desk, Terminal};
use crate::rendering::{Glyphs, JsonReport, Progress, Transcript, describe};
use crate::settings::Settings;
use crate::setup;
use crate::signals::{Arrival, Signals};
use crate::stdin::{self, StdinStream};
use crate::terminal::{Paint, Role, is_terminal};
use crate::turn::{Driven, Driver, View};
use crate::writer::Writer;

/// How much of stdin a task may hold. A model that takes more in one message does not exist.
const MAX_STDIN_BYTES: usize = 16 * 1024 * 1024;

/// After how long without a word on stdin the user is told that forge waits for it.
const STDIN_PATIENCE: Duration = Duration::from_secs(3);

/// Does the task.
///
/// # Errors
/// It could not be begun, or failed; where JSON was asked for, that is on stdout already.
pub(crate) async fn run(settings: Settings, prompt: String) -> Result<Conclusion, Failure> {
    let format = settings.task.output_format;
    let paint = Paint::choose(settings.color, OutputStream::Stderr);
    let mut view = match format {
        OutputFormat::Text => {
            let shown = is_terminal(OutputStream::Stderr) || settings.verbose > 0;
            let progress = if shown { Progress::Stderr } else { Progress::Hidden };
            let glyphs = Glyphs::choose();
            View::Transcript(Transcript::new(progress, paint, glyphs, settings.verbose))
        }
        OutputFormat::Json => View::Json(JsonReport::last()),
        OutputFormat::StreamJson => View::Json(JsonReport::stream()),
    };
    let result = converse(settings, prompt, &mut view, paint).await;
    if let (Err(failure), View::Json(report)) = (&result, &mut view)
        && !matches!(failure, Failure::Write(_))
    {
        report.fail(failure, failure.conclusion().exit_code(Verb::Other)).await?;
    }
    result
}

async fn converse(
    settings: Settings,
    prompt: String,
    view: &mut View,
    paint: Paint,
) -> Result<Conclusion, Failure> {
    let mut signals = Signals::listen()
        .map_err(|source| Failure::System { what: "signals cannot be handled", source })?;
    let ask = settings.task.ask.unwrap_or(AskWhich::Never);
    let terminal = match ask {
        AskWhich::Never => None,
        AskWhich::Risky | AskWhich::Always => Some(Terminal::open(paint).map_err(|_| {
            let message =
                "commands are to be asked about (--ask), and there is no terminal to ask on";
            Failure::Usage(message.to_owned())
        })?),
    };
    let (desk, questions) = Desk::new();
    let model = model::configure(settings.task.model.as_deref())?;
    let config = settings.forge()?.model(model).agent(settings.agent(ask)).approver(desk);
    // Also what cannot be done at all is said before stdin is waited for.
    let api = ForgeAPI::init(config).await?;
    let prompt = tokio::select! {
        prompt = whole_prompt(prompt, paint) => prompt?,
        arrival = signals.next() => return Ok(Conclusion::Ended(match arrival {
            Arrival::Interrupt => Signal::INT,
            Arrival::Terminate(signal) => signal,
        })),
    };
    if settings.verbose > 0 || is_terminal(OutputStream::Stderr) {
        let model = api.model_id().map(|model| format!(" · {model}")).unwrap_or_default();
        let banner = banner::line(&api, &settings.choice).await? + &model;
        Writer::stderr().write(paint.paint(Role::Dim, &banner) + "\n").await?;
    }
    let mut driver = Driver { signals, questions, terminal };
    let result = match setup::before_tools(&api, &settings, &mut driver.signals, paint).await {
        Ok(None) => one_turn(&api, prompt, &mut driver, view).await,
        Ok(Some(signal)) => Ok(Conclusion::Ended(signal)),
        Err(failure) => Err(failure),
    };
    let is_interrupted = matches!(result, Ok(Conclusion::Ended(_)));
    let closing = Closing {
        choice: &settings.choice,
        end: End::of(&settings, is_interrupted),
        verbose: settings.verbose,
        #[cfg(target_os = "linux")]
        pending: crate::pending::Pending::default(),
        paint,
    };
    let closed = closing::close(&api, closing, &mut driver.signals).await;
    match (result, closed) {
        (Ok(Conclusion::Done), Closed { ended_by: Some(signal), .. }) => {
            Ok(Conclusion::Ended(signal))
        }
        // It was to be applied, and was not in full.
        (Ok(Conclusion::Done), Closed { left: Left::Something, .. }) => Ok(Conclusion::NotDone),
        (result, _) => result,
    }
}

async fn one_turn(
    api: &ForgeAPI,
    prompt: String,
    driver: &mut Driver,
    view: &mut View,
) -> Result<Conclusion, Failure> {
    if let View::Json(report) = view {
        report.start(api).await?;
    }
    let mut turn = api.prompt(api.conversation(), prompt);
    let signal = match driver.drive(&mut turn, view).await? {
        Driven::ToItsEnd(signal) => signal,
        // Leaving drops the turn, which ends it.
        Driven::DropNow(signal) => return Ok(Conclusion::Ended(signal)),
    };
    let (_, result) = turn.finish().await;
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            if let View::Transcript(transcript) = view {
                transcript.end(None).await?;
            }
            return Err(error.into());
        }
    };
    let conclusion = match (signal, &report.outcome) {
        (Some(signal), _) => Conclusion::Ended(signal),
        (None, TurnOutcome::Done) => Conclusion::Done,
        // The user ended it when a question was asked.
        (None, TurnOutcome::Cancelled) => Conclusion::Ended(Signal::INT),
        (
            None,
            TurnOutcome::TurnLimit { .. }
            | TurnOutcome::RepeatedFailures { .. }
            | TurnOutcome::EmptyAnswers { .. }
            | TurnOutcome::LengthLimit
            | TurnOutcome::Filtered
            | TurnOutcome::TimedOut { .. },
        ) => Conclusion::NotDone,
    };
    match view {
        View::Json(json) => json.end(&report, conclusion.exit_code(Verb::Other)).await?,
        View::Transcript(transcript) => {
            transcript.end(Some(&report)).await?;
            if let Some(text) = describe(&report.outcome) {
                transcript.remark(&text).await?;
                transcript.flush().await?;
            }
        }
    }
    Ok(conclusion)
}

/// The prompt with what is piped into stdin.
async fn whole_prompt(prompt: String, paint: Paint) -> Result<String, Failure> {
    let from_stdin = prompt == "-";
    let piped = match stdin::kind() {
        stdin::Kind::Readable => read_stdin(paint).await?,
        stdin::Kind::Terminal if from_stdin => {
            let message = "-p - takes the task from stdin, which is a terminal; pipe it in";
            return Err(Failure::Usage(message.to_owned()));
        }
        stdin::Kind::Terminal | stdin::Kind::Null => String::new(),
    };
    let whole = match (from_stdin || prompt.trim().is_empty(), piped.trim().is_empty()) {
        (true, _) => piped,
        (false, true) => prompt,
        (false, false) => format!("{prompt}\n\n{piped}"),
    };
    if whole.trim().is_empty() {
        return Err(Failure::Usage("the task is empty".to_owned()));
    }
    Ok(whole)
}

async fn read_stdin(paint: Paint) -> Result<String, Failure> {
    let mut stream = StdinStream::new();
    let mut bytes = Vec::new();
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = sleep(STDIN_PATIENCE), if bytes.is_empty() => {
                let text = "waiting for the end of stdin; </dev/null gives none\n";
                Writer::stderr().write(paint.paint(Role::Dim, text.trim_end()) + "\n").await?;
                stream.next().await
            }
        };
        let Some(piece) = next else { break };
        let piece =
            piece.map_err(|source| Failure::System { what: "stdin cannot be read", source })?;
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_STDIN_BYTES {
            let message = format!(
                "stdin holds more than {} MiB; put it into a file and name the file in the task",
                MAX_STDIN_BYTES / 1024 / 1024
            );
            return Err(Failure::Usage(message));
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::Usage(format!("stdin is not valid UTF-8 (byte {at})"))
    })
}
