//! The command line as it is written: options and subcommands, nothing decided yet.
//!
//! The options in [`CommonOptions`] and [`TaskOptions`] may stand before or after the subcommand.
//! They are declared in both places and [joined](CommonOptions::join) here, since what clap calls a
//! global option forgets the first of two `--env` when they stand on both sides.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(Style::new().dimmed())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Yellow.on_default());

/// A coding agent for the terminal: a language model works on your project with a shell and file
/// tools.
#[derive(Debug, Parser)]
#[command(
    name = "forge",
    version,
    styles = STYLES,
    max_term_width = 90,
    disable_help_subcommand = true,
    override_usage = "forge --local [OPTIONS]\n       forge --local -p <TEXT>\n       forge --local exec [--] <ARGV>…",
    after_help = "Without a subcommand and without -p, forge is interactive.\n\
                  Exit codes and settings: docs/command-line.md"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) task: TaskOptions,
    /// Do this task, then exit; piped stdin is added to it. `-p -` takes the task from stdin
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", help_heading = "Tasks")]
    pub(crate) prompt: Option<String>,
    #[command(subcommand)]
    pub(crate) subcommand: Option<Verb>,
}

/// What to do other than talk to a model.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run one command in the environment
    ///
    /// Its stdin, stdout and stderr are passed through byte by byte, except that a terminal is not
    /// passed on as stdin. Its exit code is returned; forge's own codes are 124 (timed out),
    /// 125 (forge failed or wrong usage), 126, 127 and 130.
    Exec(ExecArguments),
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
}

/// `forge exec`.
#[derive(Debug, Args)]
#[command(
    override_usage = "forge --local exec [OPTIONS] [--] <ARGV>…\n       forge --local exec [OPTIONS] -c <SHELL>"
)]
pub(crate) struct ExecArguments {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) task: TaskOptions,
    /// Run this text with the environment's shell
    #[arg(short = 'c', value_name = "SHELL", conflicts_with = "argv")]
    pub(crate) shell: Option<OsString>,
    /// The program and its arguments, as they are, without a shell
    #[arg(value_name = "ARGV", trailing_var_arg = true, required_unless_present = "shell")]
    pub(crate) argv: Vec<OsString>,
}

/// `forge completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    pub(crate) shell: Shell,
}

/// Options for everything that uses an environment.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Environment")]
pub(crate) struct CommonOptions {
    /// Run commands on this machine, without any isolation
    #[arg(long)]
    pub(crate) local: bool,
    /// Where commands run
    #[arg(long, value_name = "NAME")]
    pub(crate) executor: Option<ExecutorName>,
    /// Work in this directory
    #[arg(short = 'C', long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Give commands this variable: forwarded by NAME, or set with NAME=VALUE
    #[arg(long, value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    pub(crate) env: Vec<OsString>,
    /// End a command after this time (90s, 5m)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say more on stderr; -vv and -vvv log in detail
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,
    /// When to use colour
    #[arg(long, value_name = "WHEN", help_heading = "Output")]
    pub(crate) color: Option<ColorWhen>,
}

/// Options for what the model does.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tasks")]
pub(crate) struct TaskOptions {
    /// The model, as provider/name [env: FORGE_MODEL]
    #[arg(short = 'm', long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// End the task after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) task_timeout: Option<Duration>,
    /// End the task after this many answers of the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_turns: Option<u32>,
    /// Before which of the model's commands to ask you
    #[arg(long, value_name = "WHICH")]
    pub(crate) ask: Option<AskWhich>,
    /// How the task is reported on stdout
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) output_format: Option<OutputFormat>,
}

/// The environments there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorName {
    /// This machine, without any isolation
    Local,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Before which commands the user is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AskWhich {
    /// Before none
    Never,
    /// Before those that could break much
    Risky,
    /// Before each
    Always,
}

/// How a task is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// What the model says
    #[default]
    Text,
    /// One JSON object at the end
    Json,
    /// One JSON object a line, as things happen
    StreamJson,
}

impl CommonOptions {
    /// Joins what stands before the subcommand with what stands after it, which wins where only one
    /// can hold.
    pub(crate) fn join(self, after: Self) -> Self {
        let mut env = self.env;
        env.extend(after.env);
        Self {
            local: self.local || after.local,
            executor: after.executor.or(self.executor),
            directory: after.directory.or(self.directory),
            env,
            timeout: after.timeout.or(self.timeout),
            verbose: self.verbose.saturating_add(after.verbose),
            color: after.color.or(self.color),
        }
    }
}

impl TaskOptions {
    /// As [`CommonOptions::join`].
    pub(crate) fn join(self, after: Self) -> Self {
        Self {
            model: after.model.or(self.model),
            task_timeout: after.task_timeout.or(self.task_timeout),
            max_turns: after.max_turns.or(self.max_turns),
            ask: after.ask.or(self.ask),
            output_format: after.output_format.or(self.output_format),
        }
    }
}

/// Reads a duration: `90s`, `5m`, `1h 30m`, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; write it as 90s, 5m or 1h"))?,
    };
    if parsed.is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_declaration_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_on_both_sides_of_the_subcommand_are_joined() {
        let arguments = Arguments::try_parse_from([
            "forge", "--local", "--env", "A", "-v", "-C", "/a", "exec", "--env", "B", "-vv", "-C",
            "/b", "ls", "-v",
        ])
        .unwrap();
        let Some(Verb::Exec(exec)) = arguments.subcommand else { panic!("no exec") };
        let joined = arguments.common.join(exec.common);
        assert_eq!(joined.env, ["A", "B"]);
        assert_eq!((joined.verbose, joined.local), (3, true));
        assert_eq!(joined.directory, Some(PathBuf::from("/b")));
        assert_eq!(exec.argv, ["ls", "-v"]);
    }

    #[test]
    fn a_bare_number_is_seconds_and_nothing_is_refused() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("0s").is_err() && parse_duration("soon").is_err());
    }
}
