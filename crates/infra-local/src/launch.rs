//! From a request to a running process.
//!
//! The program is looked up here rather than by `std`, for two reasons: the answer tells 127 from 126
//! exactly, and a program given by its path lets `std` use `posix_spawn`, which does not copy the
//! page tables of this process first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use forge_domain::{
    CommandError, CommandRequest, DEFAULT_TERMINAL_KIND, EnvironmentVariable, Program, Stdin,
    VariableName,
};
use rustix::fs::{Access, access};
use rustix::process::Pid;
use tokio::process::{Child, Command};

use crate::config::LocalConfig;
use crate::group::{Group, MARKER, next_mark};
use crate::terminal::ChildTerminal;

/// A running command and its processes.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) group: Group,
}

/// What the command's stdin is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    Nothing,
    Pipe,
}

impl Input {
    pub(crate) fn of(stdin: &Stdin) -> Self {
        match stdin {
            Stdin::Empty => Self::Nothing,
            Stdin::Stream(_) => Self::Pipe,
        }
    }
}

/// A program file that another process still has open for writing, as one that was written a moment
/// ago may be, cannot be executed yet. It is tried again this often, at this interval.
const BUSY_ATTEMPTS: u32 = 20;
const BUSY_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) async fn launch(
    config: &LocalConfig,
    request: &CommandRequest,
    input: Input,
) -> Result<Launched, CommandError> {
    let mut ready = Ready::new(config, request, &[])?;
    ready
        .command
        .stdin(match input {
            Input::Nothing => Stdio::null(),
            Input::Pipe => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    ready.spawn().await
}

/// Starts a command on this terminal, whose only owner it is then.
pub(crate) async fn launch_on_terminal(
    config: &LocalConfig,
    request: &CommandRequest,
    terminal: ChildTerminal,
) -> Result<Launched, CommandError> {
    let kind = VariableName::parse("TERM")
        .and_then(|name| EnvironmentVariable::new(name, DEFAULT_TERMINAL_KIND))
        .map_err(|error| CommandError::Invalid { reason: error.to_string() })?;
    let mut ready = Ready::new(config, request, &[kind])?;
    let connected = terminal.connect(&mut ready.command);
    connected.map_err(|error| CommandError::Invalid { reason: error.to_string() })?;
    ready.spawn().await
}

/// A command that wants only to be connected.
struct Ready {
    command: Command,
    named: Named,
    directory: PathBuf,
    mark: OsString,
}

impl Ready {
    fn new(
        config: &LocalConfig,
        request: &CommandRequest,
        defaults: &[EnvironmentVariable],
    ) -> Result<Self, CommandError> {
        let directory = directory(config, request);
        let mark = next_mark();
        let mut environment = defaults.to_vec();
        environment.extend(self::environment(config, request));
        let named = Named::of(config, &request.program)?;
        let path = named.find(&directory, &environment)?;
        let mut command = Command::new(&path);
        command
            .arg0(&named.program)
            .args(&named.arguments)
            .current_dir(&directory)
            .env_clear()
            .env(MARKER, &mark);
        for variable in &environment {
            command.env(variable.name().as_os_str(), variable.value().expose());
        }
        Ok(Self { command, named, directory, mark })
    }

    async fn spawn(self) -> Result<Launched, CommandError> {
        let Self { mut command, named, directory, mark } = self;
        let child =
            spawn(&mut command).await.map_err(|source| refused(&named, &directory, source))?;
        // The id is there until the child has been waited for, which nobody has done yet.
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(leader) = leader else {
            return Err(CommandError::Invalid { reason: "the process has no id".to_owned() });
        };
        Ok(Launched { child, group: Group::new(leader, mark) })
    }
}

async fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut attempt = 1;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_ATTEMPTS =>
            {
                attempt += 1;
                tokio::time::sleep(BUSY_INTERVAL).await;
            }
            other => return other,
        }
    }
}

fn directory(config: &LocalConfig, request: &CommandRequest) -> PathBuf {
    let base = &config.workspace.working_directory;
    match &request.working_directory {
        Some(directory) => base.join(directory),
        None => base.clone(),
    }
}

/// The variables of the configuration and the request; of a name, the last.
fn environment(config: &LocalConfig, request: &CommandRequest) -> Vec<EnvironmentVariable> {
    config.environment.iter().chain(&request.environment).cloned().collect()
}

/// A program by the name that it was asked for.
struct Named {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Named {
    fn of(config: &LocalConfig, program: &Program) -> Result<Self, CommandError> {
        let named = match program {
            Program::Argv { program, arguments } => {
                Self { program: program.clone(), arguments: arguments.clone() }
            }
            Program::Shell(text) => Self {
                program: config.shell.clone().into(),
                arguments: vec!["-c".into(), text.clone()],
            },
        };
        if named.program.is_empty() {
            return Err(CommandError::Invalid { reason: "the program is empty".to_owned() });
        }
        let words = std::iter::once(&named.program).chain(&named.arguments);
        if words.into_iter().any(|word| word.as_bytes().contains(&0)) {
            let reason = "the program or an argument holds a NUL byte".to_owned();
            return Err(CommandError::Invalid { reason });
        }
        Ok(named)
    }

    /// Finds the file to execute as execvp(3) does, in the command's own `PATH`.
    fn find(
        &self,
        directory: &Path,
        environment: &[EnvironmentVariable],
    ) -> Result<PathBuf, CommandError> {
        if self.program.as_bytes().contains(&b'/') {
            return Ok(directory.join(&self.program));
        }
        let path = environment
            .iter()
            .rev()
            .find(|variable| variable.name().as_os_str() == "PATH")
            .map_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"), |path| path.value().expose());
        let mut refused = None;
        for entry in std::env::split_paths(path) {
            let candidate = directory.join(entry).join(&self.program);
            if !candidate.is_file() {
                continue;
            }
            match access(&candidate, Access::EXEC_OK) {
                Ok(()) => return Ok(candidate),
                Err(error) => refused = Some(io::Error::from(error)),
            }
        }
        match refused {
            Some(source) => Err(CommandError::NotExecutable {
                program: self.program.clone(),
                source: Some(source),
            }),
            None => Err(self.missing(directory)),
        }
    }

    /// A missing program, unless the reason is that its directory is missing.
    fn missing(&self, directory: &Path) -> CommandError {
        match usable(directory) {
            Ok(()) => CommandError::NotFound { program: self.program.clone() },
            Err(source) => CommandError::WorkingDirectory {
                path: directory.to_path_buf(),
                source: Some(source),
            },
        }
    }
}

fn usable(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(directory, Access::EXEC_OK)?)
}

/// Finds out what the kernel's one number was about: the directory, the program, or its interpreter.
fn refused(named: &Named, directory: &Path, source: io::Error) -> CommandError {
    if let Err(source) = usable(directory) {
        return CommandError::WorkingDirectory {
            path: directory.to_path_buf(),
            source: Some(source),
        };
    }
    let program = named.program.clone();
    match source.kind() {
        io::ErrorKind::ArgumentListTooLong => {
            CommandError::Invalid { reason: "its arguments are too long for the kernel".to_owned() }
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            if !directory.join(&program).exists() =>
        {
            CommandError::NotFound { program }
        }
        // A file that is there and still "not found" names an interpreter that is not.
        _ => CommandError::NotExecutable { program, source: Some(source) },
    }
}
