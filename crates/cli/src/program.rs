//! From arguments to an exit code.

use std::ffi::OsString;
use std::future::Future;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use forge_api::OutputStream;

use crate::arguments::{Arguments, ColorWhen, OutputFormat, Verb as Subcommand};
use crate::choice::{self, ChoiceError};
use crate::exit::{Conclusion, ExitCode, Verb};
use crate::failure::{self, Failure};
use crate::settings::{Settings, SettingsError};
use crate::terminal::{self, Paint, is_terminal};
use crate::writer::{self, WriteError};
#[cfg(target_os = "linux")]
use crate::{doctor, sessions};
use crate::{exec, interactive, logging, shell, stdin, task};

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error, &arguments),
    };
    let Arguments { common, task, prompt, subcommand } = parsed;
    match subcommand {
        Some(Subcommand::Exec(exec)) => {
            let exec = *exec;
            let settings = || {
                if prompt.is_some() {
                    return Err(Failure::Usage("-p and exec cannot be used together".to_owned()));
                }
                let settings = Settings::decide(common.join(exec.common), task.join(exec.task))?;
                if settings.task.output_format != OutputFormat::Text {
                    let message = "--output-format is for tasks; exec passes its command's output on as it is";
                    return Err(Failure::Usage(message.to_owned()));
                }
                Ok(settings)
            };
            conclude(Verb::Exec, settings(), |settings| exec::run(settings, exec.shell, exec.argv))
        }
        Some(Subcommand::Shell(shell)) => {
            let shell = *shell;
            let settings = || {
                if prompt.is_some() {
                    return Err(Failure::Usage("-p and shell cannot be used together".to_owned()));
                }
                let common = common.join(shell.common);
                let time_limit = common.timeout;
                let mut settings = Settings::decide(common, task.join(shell.task))?;
                // What the configuration says is meant for single commands.
                settings.timeout = time_limit;
                if settings.task.output_format != OutputFormat::Text {
                    let message = "--output-format is for tasks; shell shows what its shell shows";
                    return Err(Failure::Usage(message.to_owned()));
                }
                needs_terminal(
                    settings,
                    "forge shell needs a terminal for its keys and its screen; forge exec runs a \
                     command without one",
                )
            };
            conclude(Verb::Other, settings(), shell::run)
        }
        #[cfg(target_os = "linux")]
        Some(Subcommand::Diff(diff)) => look(prompt, diff.common.verbose, crate::diff::diff(*diff)),
        #[cfg(target_os = "linux")]
        Some(Subcommand::Apply(apply)) => {
            look(prompt, apply.common.verbose, crate::apply::apply(*apply))
        }
        #[cfg(target_os = "linux")]
        Some(Subcommand::Discard(discard)) => {
            look(prompt, discard.common.verbose, sessions::discard(*discard))
        }
        #[cfg(target_os = "linux")]
        Some(Subcommand::Session(mut session)) => {
            session.microvms = session.microvms.after(common);
            look(prompt, session.common.verbose, sessions::session(*session))
        }
        #[cfg(target_os = "linux")]
        Some(Subcommand::Doctor(doctor)) => {
            look(prompt, doctor.common.verbose, doctor::run(doctor))
        }
        #[cfg(target_os = "linux")]
        Some(Subcommand::Serve(serve)) => {
            // Many clients at once.
            let runtime = tokio::runtime::Builder::new_multi_thread();
            without_settings(runtime, prompt, serve.verbose, crate::serve::run(serve))
        }
        #[cfg(not(target_os = "linux"))]
        Some(
            Subcommand::Diff(_)
            | Subcommand::Serve(_)
            | Subcommand::Apply(_)
            | Subcommand::Discard(_)
            | Subcommand::Session(_)
            | Subcommand::Doctor(_),
        ) => {
            let failure = Failure::from(SettingsError::from(ChoiceError::NoSandboxHere));
            failure::print(&failure, Paint::choose(ColorWhen::Auto, OutputStream::Stderr));
            failure.conclusion().exit_code(Verb::Other)
        }
        Some(Subcommand::Completions(completions)) => {
            let mut script = Vec::new();
            clap_complete::generate(
                completions.shell,
                &mut Arguments::command(),
                "forge",
                &mut script,
            );
            print(&script)
        }
        None => {
            let settings = Settings::decide(common, task).map_err(Failure::from);
            match prompt {
                Some(prompt) => {
                    conclude(Verb::Other, settings, |settings| task::run(settings, prompt))
                }
                None => conclude(Verb::Other, settings.and_then(at_terminal), interactive::run),
            }
        }
    }
}

/// Runs what needs no settings: looking at sessions, or at this machine.
#[cfg(target_os = "linux")]
fn look(
    prompt: Option<String>,
    verbose: u8,
    part: impl Future<Output = Result<Conclusion, Failure>>,
) -> ExitCode {
    without_settings(tokio::runtime::Builder::new_current_thread(), prompt, verbose, part)
}

/// The same on a runtime of its own kind.
#[cfg(target_os = "linux")]
fn without_settings(
    mut runtime: tokio::runtime::Builder,
    prompt: Option<String>,
    verbose: u8,
    part: impl Future<Output = Result<Conclusion, Failure>>,
) -> ExitCode {
    let paint = Paint::choose(ColorWhen::Auto, OutputStream::Stderr);
    logging::start(verbose, paint);
    let result = match prompt {
        Some(_) => Err(Failure::Usage("-p and a subcommand cannot be used together".to_owned())),
        None => runtime
            .enable_all()
            .build()
            .map_err(|source| Failure::System { what: "forge cannot start", source })
            .and_then(|runtime| runtime.block_on(part)),
    };
    let conclusion = result.unwrap_or_else(|failure| {
        let conclusion = failure.conclusion();
        if conclusion != Conclusion::ReaderGone {
            failure::print(&failure, paint);
        }
        conclusion
    });
    conclusion.exit_code(Verb::Other)
}

fn at_terminal(settings: Settings) -> Result<Settings, Failure> {
    if settings.task.output_format != OutputFormat::Text {
        return Err(Failure::Usage("--output-format needs a task: -p TEXT".to_owned()));
    }
    needs_terminal(
        settings,
        "interactive mode needs a terminal; give the task with -p TEXT, or with -p - from stdin",
    )
}

fn needs_terminal(settings: Settings, otherwise: &str) -> Result<Settings, Failure> {
    if stdin::kind() != stdin::Kind::Terminal || !terminal::is_terminal(OutputStream::Stdout) {
        return Err(Failure::Usage(otherwise.to_owned()));
    }
    Ok(settings)
}

/// Runs the asynchronous part on this thread, and turns its end into an exit code.
fn conclude<F>(
    verb: Verb,
    settings: Result<Settings, Failure>,
    part: impl FnOnce(Settings) -> F,
) -> ExitCode
where
    F: Future<Output = Result<Conclusion, Failure>>,
{
    let mut paint = Paint::choose(ColorWhen::Auto, OutputStream::Stderr);
    let result = settings.and_then(|settings| {
        paint = Paint::choose(settings.color, OutputStream::Stderr);
        logging::start(settings.verbose, paint);
        for name in settings.unset_variables() {
            let message = format!("--env {name}: it is not set here, so commands do not get it");
            failure::warn(&message, paint);
        }
        for warning in settings.choice.warnings() {
            failure::warn(warning, paint);
        }
        if let Some(note) = settings.choice.note()
            && (is_terminal(OutputStream::Stderr) || settings.verbose > 0)
        {
            failure::note(note, paint);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Failure::System { what: "forge cannot start", source })?;
        let result = runtime.block_on(part(settings));
        // A blocking thread that waits for somebody must not hold the process.
        runtime.shutdown_background();
        result
    });
    terminal::restore();
    let conclusion = result.unwrap_or_else(|failure| {
        let conclusion = failure.conclusion();
        if conclusion != Conclusion::ReaderGone {
            failure::print(&failure, paint);
        }
        conclusion
    });
    conclusion.exit_code(verb)
}

/// The subcommand that stands where `--tensorlake` takes its key. The rest of such a line is parsed as
/// something that nobody meant.
fn subcommand_as_key(arguments: &[OsString]) -> Option<Failure> {
    let before = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    let mut before = before.skip_while(|argument| *argument != "--tensorlake").skip(1);
    let name = before.next()?.to_str()?.to_owned();
    let error = ChoiceError::SubcommandAsKey { name: name.clone() };
    choice::SUBCOMMANDS.contains(&&*name).then(|| SettingsError::from(error).into())
}

/// Says what is wrong with the arguments, or the help and version that they ask for.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let paint = Paint::choose(
        color(arguments),
        match error.use_stderr() {
            true => OutputStream::Stderr,
            false => OutputStream::Stdout,
        },
    );
    if let Some(failure) = subcommand_as_key(arguments) {
        failure::print(&failure, paint);
        return failure.conclusion().exit_code(verb(arguments));
    }
    let rendered = error.render();
    let text = match paint {
        Paint::Colored => rendered.ansi().to_string(),
        Paint::Plain => rendered.to_string(),
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return print(text.as_bytes());
    }
    // There is nowhere left to say that stderr cannot be written to.
    drop(writer::write_all(OutputStream::Stderr, text.as_bytes()));
    Conclusion::WrongUsage.exit_code(verb(arguments))
}

/// Prints to stdout what was asked for.
fn print(text: &[u8]) -> ExitCode {
    let conclusion = match writer::write_all(OutputStream::Stdout, text) {
        Ok(()) => Conclusion::Done,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Conclusion::ReaderGone,
        Err(source) => {
            let failure = WriteError::Failed { stream: OutputStream::Stdout, source }.into();
            failure::print(&failure, Paint::choose(ColorWhen::Auto, OutputStream::Stderr));
            Conclusion::ForgeFailed
        }
    };
    conclusion.exit_code(Verb::Other)
}

/// What `--color` says in arguments that cannot be parsed.
fn color(arguments: &[OsString]) -> ColorWhen {
    let text = arguments.iter().take_while(|argument| *argument != "--");
    let mut text = text.filter_map(|argument| argument.to_str()).peekable();
    while let Some(argument) = text.next() {
        let value = match argument {
            "--color" => text.peek().copied(),
            _ => argument.strip_prefix("--color="),
        };
        match value {
            Some("always") => return ColorWhen::Always,
            Some("never") => return ColorWhen::Never,
            _ => {}
        }
    }
    ColorWhen::Auto
}

/// Whose exit code arguments get that cannot be parsed.
fn verb(arguments: &[OsString]) -> Verb {
    let lenient = Arguments::command().ignore_errors(true).try_get_matches_from(arguments);
    match lenient {
        Ok(matches) if matches.subcommand_name() == Some("exec") => Verb::Exec,
        _ if names_exec(arguments) => Verb::Exec,
        _ => Verb::Other,
    }
}

/// Whether `exec` stands among the arguments and is not the text of a task: what comes after a mistyped
/// option is not parsed any more.
fn names_exec(arguments: &[OsString]) -> bool {
    let mut before = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    let is_task = |argument: &OsString| argument == "-p" || argument == "--prompt";
    before
        .find(|argument| is_task(argument) || *argument == "exec")
        .is_some_and(|found| found == "exec")
}
