//! The command line as it is written: options and subcommands, nothing decided yet.
//!
//! The options in [`CommonOptions`] and [`TaskOptions`] may stand before or after the subcommand.
//! They are declared in both places and [joined](CommonOptions::join) here, since what clap calls a
//! global option forgets the first of two `--env` when they stand on both sides.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use secrecy::SecretString;

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
    override_usage = "forge [OPTIONS]\n       forge [OPTIONS] -p <TEXT>\n       forge [OPTIONS] exec [--] <ARGV>…",
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
    Exec(Box<ExecArguments>),
    /// Open a shell in the environment
    ///
    /// It is yours where the environment has it, else bash, else sh. Every key goes to it, Ctrl-C too. Its exit
    /// code is returned.
    Shell(Box<ShellArguments>),
    /// Show what a session has changed
    Diff(Box<DiffArguments>),
    /// Bring what a session has changed to the project, or take that back
    ///
    /// All of it is done or nothing. What was changed on both sides is merged where that can be; what cannot
    /// be brought over, or needs a yes of its own, is left in the session and listed, and the exit code is 1.
    /// Commits that the session made become refs beneath refs/forge/, and no branch of yours moves.
    Apply(Box<ApplyArguments>),
    /// Drop what a session has changed
    Discard(Box<DiscardArguments>),
    /// List, look at, stop and remove sessions
    Session(Box<SessionArguments>),
    /// Serve sandboxes to clients of Tensorlake's interface
    ///
    /// Prints one line with its address when it is ready, and serves until SIGTERM or Ctrl-C, which end every
    /// sandbox. Every request needs the key as its bearer; without one given, one is made and said on stderr.
    ///
    /// A sandbox has this machine's network, its loopback and what listens there included, unless the request
    /// that makes it says "network": {"allow_internet_access": false}. That is Tensorlake's default, too.
    Serve(ServeArguments),
    /// Say what the sandbox can do on this machine, and what is in its way
    Doctor(DoctorArguments),
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
}

/// `forge exec`.
#[derive(Debug, Args)]
#[command(
    override_usage = "forge exec [OPTIONS] [--] <ARGV>…\n       forge exec [OPTIONS] -c <SHELL>"
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

/// `forge shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    #[command(flatten)]
    pub(crate) task: TaskOptions,
}

/// `forge diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    #[command(flatten)]
    pub(crate) common: PlaceOptions,
    /// The session; an unambiguous beginning of its id will do [default: the newest of this
    /// workspace that has changed anything]. What is no id is the first of the paths
    #[arg(value_name = "SESSION")]
    pub(crate) session: Option<OsString>,
    /// Only what is at or beneath these paths
    #[arg(value_name = "PATHS")]
    pub(crate) paths: Vec<OsString>,
    /// How many lines were changed in each file
    #[arg(long, conflicts_with_all = ["name_only", "json"])]
    pub(crate) stat: bool,
    /// The paths only, one a line
    #[arg(long, conflicts_with = "json")]
    pub(crate) name_only: bool,
    /// Facts about each file, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Files that the project's ignore rules leave out, too
    #[arg(long)]
    pub(crate) ignored: bool,
}

/// `forge apply`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    pub(crate) common: PlaceOptions,
    /// The session; an unambiguous beginning of its id will do [default: the newest of this
    /// workspace that has changed anything]. What is no id is the first of the paths
    #[arg(value_name = "SESSION")]
    pub(crate) session: Option<OsString>,
    /// Only what is at or beneath these paths
    #[arg(value_name = "PATHS")]
    pub(crate) paths: Vec<OsString>,
    /// Where both sides changed a file, keep the project's and take the session's for dealt with
    #[arg(long, conflicts_with_all = ["theirs", "merge", "undo"])]
    pub(crate) ours: bool,
    /// Where both sides changed a file, take the session's
    #[arg(long, conflicts_with_all = ["merge", "undo"])]
    pub(crate) theirs: bool,
    /// Where both sides changed the same lines, write both into the file, between markers
    #[arg(long, conflicts_with = "undo")]
    pub(crate) merge: bool,
    /// Also apply this path, or what is beneath it, though tools execute from it by themselves
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    pub(crate) allow_exec: Vec<PathBuf>,
    /// Also apply this symlink, or those beneath this path, though they lead out of the project
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    pub(crate) allow_symlink: Vec<PathBuf>,
    /// Also delete more than fifty files at once
    #[arg(long, conflicts_with = "undo")]
    pub(crate) allow_deletions: bool,
    /// Do not ask at a terminal: apply what is clean and safe
    #[arg(short = 'y', long, conflicts_with = "undo")]
    pub(crate) yes: bool,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long, conflicts_with = "undo")]
    pub(crate) dry_run: bool,
    /// Take the newest apply of the session back; refs of commits stay
    #[arg(long)]
    pub(crate) undo: bool,
    /// Make this branch of the commit that is checked out in the session, and apply no files
    #[arg(long, value_name = "NAME", conflicts_with_all = [
        "paths", "ours", "theirs", "merge", "allow_exec", "allow_symlink", "allow_deletions", "dry_run", "undo",
    ])]
    pub(crate) branch: Option<String>,
    /// With --undo and PATHS: also where a file was changed since
    #[arg(short = 'f', long, requires = "undo")]
    pub(crate) force: bool,
}

/// `forge discard`.
#[derive(Debug, Args)]
pub(crate) struct DiscardArguments {
    #[command(flatten)]
    pub(crate) common: PlaceOptions,
    /// The session; an unambiguous beginning of its id will do [default: the newest of this
    /// workspace that has changed anything]
    #[arg(value_name = "SESSION")]
    pub(crate) session: Option<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
}

/// `forge session`.
#[derive(Debug, Args)]
pub(crate) struct SessionArguments {
    #[command(flatten)]
    pub(crate) common: PlaceOptions,
    #[command(flatten)]
    pub(crate) microvms: MicrovmOptions,
    #[command(subcommand)]
    pub(crate) verb: SessionVerb,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// List the sessions of every workspace, the newest first, and how their microVMs stand
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one session
    Show {
        /// Its id, or an unambiguous beginning of it
        #[arg(value_name = "SESSION")]
        session: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End what runs in a session, its microVM included; what it has changed stays
    Stop {
        /// Its id, or an unambiguous beginning of it
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// Remove sessions that hold nothing, and those with only ignored files that were not used for
    /// seven days; delete the microVMs of runs that were killed, with what was changed in them fetched before
    Prune {
        /// Also remove those of this workspace that have changes, and lose the changes
        #[arg(long)]
        force: bool,
    },
}

/// `forge serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Where to listen; port 0 is a free one. More than this machine needs a key
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: String,
    /// The key that clients need. Other users of this machine see it here; FORGE_SERVE_API_KEY or a file
    /// shows it to nobody
    #[arg(long, value_name = "KEY", allow_hyphen_values = true, conflicts_with = "api_key_file")]
    pub(crate) api_key: Option<TypedKey>,
    /// The same, with the key in a file that only you can read
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Where sandboxes are kept while they live; no two servers share one [default: serve, in forge's
    /// own state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How large an uploaded file may be (512m, 4g) [default: 4g]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) max_file: Option<Mebibytes>,
    /// Say more on stderr; -vv and -vvv log in detail
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour
    #[arg(long, value_name = "WHEN")]
    pub(crate) color: Option<ColorWhen>,
}

/// `forge doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) common: PlaceOptions,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the AppArmor profile, where that is what the sandbox needs; asks first
    #[arg(long, conflicts_with = "json")]
    pub(crate) fix: bool,
}

/// Options for what looks at sessions and starts nothing.
#[derive(Debug, Default, Args)]
pub(crate) struct PlaceOptions {
    /// Work in this directory
    #[arg(short = 'C', long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Say more on stderr; -vv and -vvv log in detail
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour
    #[arg(long, value_name = "WHEN")]
    pub(crate) color: Option<ColorWhen>,
}

/// Where the microVMs of sessions are asked for.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "MicroVMs")]
pub(crate) struct MicrovmOptions {
    /// The key for Tensorlake. Other users of this machine see it here; TENSORLAKE_API_KEY or a file shows it
    /// to nobody
    #[arg(long, global = true, value_name = "API_KEY", allow_hyphen_values = true)]
    pub(crate) tensorlake: Option<TypedKey>,
    /// The same, with the key in a file that only you can read
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tensorlake_key_file: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "Tensorlake's address [env: TENSORLAKE_API_URL] [default: https://api.tensorlake.ai]"
    )]
    pub(crate) tensorlake_url: Option<String>,
}

impl MicrovmOptions {
    /// With what stands before the subcommand, where nothing stands after it.
    pub(crate) fn after(self, before: CommonOptions) -> Self {
        let no_key = self.tensorlake.is_none() && self.tensorlake_key_file.is_none();
        let (typed, file) = match no_key {
            true => (before.tensorlake, before.tensorlake_key_file),
            false => (self.tensorlake, self.tensorlake_key_file),
        };
        Self {
            tensorlake: typed,
            tensorlake_key_file: file,
            tensorlake_url: self.tensorlake_url.or(before.tensorlake_url),
        }
    }
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
    /// Run commands in the embedded sandbox: what they change is kept apart. The default
    #[arg(long)]
    pub(crate) sandbox: bool,
    /// Run commands on this machine, without any isolation
    #[arg(long)]
    pub(crate) local: bool,
    /// Run commands in a Tensorlake microVM. Other users of this machine see a key that is given
    /// here; TENSORLAKE_API_KEY or a file shows it to nobody
    #[arg(long, value_name = "API_KEY", allow_hyphen_values = true)]
    pub(crate) tensorlake: Option<TypedKey>,
    /// The same, with the key in a file that only you can read
    #[arg(long, value_name = "FILE")]
    pub(crate) tensorlake_key_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "URL",
        help = "Tensorlake's address [env: TENSORLAKE_API_URL] [default: https://api.tensorlake.ai]"
    )]
    pub(crate) tensorlake_url: Option<String>,
    /// Where commands run; tensorlake takes its key from TENSORLAKE_API_KEY
    #[arg(long, value_name = "NAME")]
    pub(crate) executor: Option<ExecutorName>,
    /// Which network commands have [default: none in the sandbox, full in a microVM]
    #[arg(long, value_name = "WHICH")]
    pub(crate) network: Option<NetworkName>,
    /// How many processors commands have [default: all in the sandbox, 1 in a microVM]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub(crate) cpus: Option<f64>,
    /// How much memory commands have (512m, 4g) [default: most of it in the sandbox, 1g in a
    /// microVM]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) memory: Option<Mebibytes>,
    /// The image that a microVM starts from
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Suspend the microVM at the end; the next run of its session goes on with it
    #[arg(long)]
    pub(crate) keep_vm: bool,
    /// Larger files of the project do not go into a microVM (1g) [default: 100m]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) max_file: Option<Mebibytes>,
    /// How much of the project may go into a microVM (4g) [default: 2g]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) max_project: Option<Mebibytes>,
    /// How much of the project's git history may go into a microVM; of more only the newest commit
    /// goes (2g) [default: 512m]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, conflicts_with = "no_git")]
    pub(crate) max_history: Option<Mebibytes>,
    /// Leave the project's git history out of a microVM
    #[arg(long)]
    pub(crate) no_git: bool,
    /// Go on with this session
    #[arg(long, value_name = "ID", conflicts_with = "fresh")]
    pub(crate) session: Option<String>,
    /// Begin a new session, rather than going on with the last one
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Show commands this file of the project though it holds secrets
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    pub(crate) include: Vec<PathBuf>,
    /// Show commands this directory as well; with :rw they change it at once, without review
    #[arg(long, value_name = "DIR[:ro|rw]", action = ArgAction::Append)]
    pub(crate) add_dir: Vec<OsString>,
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
    /// What becomes of changes at the end [default: ask at a terminal, else never]
    #[arg(long, value_name = "WHEN")]
    pub(crate) apply: Option<ApplyWhen>,
    /// How the task is reported on stdout
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) output_format: Option<OutputFormat>,
}

/// The environments there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorName {
    /// The embedded sandbox
    Sandbox,
    /// A Tensorlake microVM
    Tensorlake,
    /// This machine, without any isolation
    Local,
}

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkName {
    /// None but a loopback of their own
    None,
    /// The internet
    Full,
}

/// A key as it was typed. `Debug` hides it.
#[derive(Debug, Clone)]
pub(crate) struct TypedKey(pub(crate) SecretString);

impl FromStr for TypedKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(SecretString::from(text)))
    }
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mebibytes(pub(crate) u64);

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

/// When what a session changed is brought to the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ApplyWhen {
    /// At the end, what is clean and safe
    Auto,
    /// When you say so at the end
    Ask,
    /// By `forge apply` only
    Never,
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
            sandbox: self.sandbox || after.sandbox,
            local: self.local || after.local,
            tensorlake: after.tensorlake.or(self.tensorlake),
            tensorlake_key_file: after.tensorlake_key_file.or(self.tensorlake_key_file),
            tensorlake_url: after.tensorlake_url.or(self.tensorlake_url),
            executor: after.executor.or(self.executor),
            network: after.network.or(self.network),
            cpus: after.cpus.or(self.cpus),
            memory: after.memory.or(self.memory),
            image: after.image.or(self.image),
            keep_vm: self.keep_vm || after.keep_vm,
            max_file: after.max_file.or(self.max_file),
            max_project: after.max_project.or(self.max_project),
            max_history: after.max_history.or(self.max_history),
            no_git: self.no_git || after.no_git,
            session: after.session.or(self.session),
            fresh: self.fresh || after.fresh,
            include: self.include.into_iter().chain(after.include).collect(),
            add_dir: self.add_dir.into_iter().chain(after.add_dir).collect(),
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
            apply: after.apply.or(self.apply),
            output_format: after.output_format.or(self.output_format),
        }
    }
}

/// Reads a number of processors.
fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus > 0.0 && cpus <= 1024.0 => Ok(cpus),
        _ => Err("it must be a number above 0, as 2 or 0.5".to_owned()),
    }
}

/// Reads an amount of memory: `512m`, `4g`, `4GiB`, or a bare number of mebibytes.
fn parse_memory(text: &str) -> Result<Mebibytes, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "m" | "mb" | "mib" => Some(1),
        "g" | "gb" | "gib" => Some(1024),
        "t" | "tb" | "tib" => Some(1024 * 1024),
        _ => None,
    };
    let number: Option<u64> = digits.trim().parse().ok();
    match number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)) {
        Some(mebibytes) if mebibytes > 0 => Ok(Mebibytes(mebibytes)),
        _ => Err("write it as 512m or 4g".to_owned()),
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
    fn memory_is_read_with_its_unit() {
        for (text, expected) in [("512", 512), ("512m", 512), ("4g", 4096), ("2 GiB", 2048)] {
            assert_eq!(parse_memory(text), Ok(Mebibytes(expected)), "{text}");
        }
        for text in ["", "0", "g", "4x", "-1g", "99999999999999t"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
        assert!(parse_cpus("0.5").is_ok() && parse_cpus("0").is_err() && parse_cpus("x").is_err());
    }

    #[test]
    fn a_typed_key_shows_nowhere() {
        let arguments = Arguments::try_parse_from(["forge", "--tensorlake", "tl_s3cret"]).unwrap();
        assert!(!format!("{arguments:?}").contains("s3cret"));
    }

    #[test]
    fn a_bare_number_is_seconds_and_nothing_is_refused() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("0s").is_err() && parse_duration("soon").is_err());
    }
}
