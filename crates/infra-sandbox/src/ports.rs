//! The ports, and a command that is followed later than it is started.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_command_io::BackgroundCommand;
use forge_domain::{
    BackgroundCommands, BackgroundError, BackgroundId, BackgroundStatus, BackgroundSummary,
    ByteRange, ChangeSet, Changes, ChangesError, CommandError, CommandExit, CommandIo,
    CommandRequest, Commands, DEFAULT_TERMINAL_KIND, Describe, Description, DirectoryEntry,
    EnvironmentError, EnvironmentKind, FileContents, FileError, FileStat, Files, Lifecycle,
    OutputLimits, OutputOffset, Program, Removal, Search, SearchError, SearchOutcome, SearchQuery,
    Signal, Stdin, TakenIn, TerminalIo, TerminalSize, Terminals, WriteOptions,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::environment::{Inner, Others, SandboxEnvironment, Standing, blocking};
use crate::paths::Trees;
use crate::plan::joined;
use crate::run::{
    Input, Launched, LaunchedOnTerminal, RunLimits, Watch, follow, follow_on_terminal, launch,
    launch_on_terminal,
};
use crate::spec::CommandSpec;

/// How long `close` waits for calls to end, beyond the grace of the commands, before it says so.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

impl SandboxEnvironment {
    async fn launch(
        &self,
        request: &CommandRequest,
        input: Input,
    ) -> Result<(Arc<Standing>, Launched), CommandError> {
        let standing = self.inner.standing().await?;
        let command = command(&self.inner, &standing, request)?;
        let launched = launch(&standing.session, &command, input).await?;
        Ok((standing, launched))
    }

    fn watch(&self, standing: &Standing) -> Watch {
        Watch {
            closing: self.inner.closing.clone(),
            ending: standing.ending.clone(),
            disk: standing.quota.exceeded(),
        }
    }
}

/// The request as the helper carries it out.
fn command(
    inner: &Inner,
    standing: &Standing,
    request: &CommandRequest,
) -> Result<CommandSpec, CommandError> {
    let invalid = |reason: &str| CommandError::Invalid { reason: reason.to_owned() };
    let arguments: Vec<OsString> = match &request.program {
        Program::Argv { program, arguments } => {
            std::iter::once(program).chain(arguments).cloned().collect()
        }
        Program::Shell(text) => {
            vec![inner.config.shell.clone().into(), "-c".into(), text.clone()]
        }
    };
    if arguments.first().is_none_or(|program| program.is_empty()) {
        return Err(invalid("the program is empty"));
    }
    if arguments.iter().any(|word| word.as_bytes().contains(&0)) {
        return Err(invalid("the program or an argument holds a NUL byte"));
    }
    let base = &inner.config.workspace.working_directory;
    let directory = match &request.working_directory {
        Some(directory) => base.join(directory),
        None => base.clone(),
    };
    if directory.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("the working directory holds a NUL byte"));
    }
    let mut environment: Vec<OsString> = Vec::new();
    let own = request.environment.iter().map(joined);
    for entry in standing.environment.iter().cloned().chain(own) {
        // Of a name, the last value counts, and a program sees it once.
        let name = |entry: &OsString| {
            let bytes = entry.as_bytes();
            bytes.iter().position(|byte| *byte == b'=').map(|at| bytes[..at].to_vec())
        };
        let named = name(&entry);
        environment.retain(|other| name(other) != named);
        environment.push(entry);
    }
    Ok(CommandSpec { directory: directory.into(), arguments, environment, terminal: None })
}

#[async_trait]
impl Commands for SandboxEnvironment {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter().await?;
        let input = match &io.stdin {
            Stdin::Empty => Input::Nothing,
            Stdin::Stream(_) => Input::Pipe,
        };
        let started = self.started(&request, input).await?;
        Ok(started.follow_in_call(io).await)
    }
}

/// A command that is being executed, and that nobody follows yet. Dropping it ends the command.
pub struct StartedCommand {
    environment: SandboxEnvironment,
    standing: Arc<Standing>,
    launched: Launched,
    limits: RunLimits,
}

impl fmt::Debug for StartedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedCommand").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl StartedCommand {
    /// The number of its first process: among all of the session with
    /// [`ProcessView::Shared`](crate::ProcessView), else in its own count.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.launched.pid
    }

    /// Follows it to its end, as [`Commands::run`] does. Its time limit counts from here. An input is
    /// read only where the start asked for one.
    ///
    /// # Errors
    /// The environment was closed meanwhile, and the command has ended with it.
    ///
    /// # Cancel safety
    /// Dropping the future ends the command.
    pub async fn follow(self, io: CommandIo) -> Result<CommandExit, EnvironmentError> {
        let inner = Arc::clone(&self.environment.inner);
        let _call = inner.enter().await?;
        Ok(self.follow_in_call(io).await)
    }

    async fn follow_in_call(self, io: CommandIo) -> CommandExit {
        let Self { environment, standing, launched, limits } = self;
        let watch = environment.watch(&standing);
        let spill = move || standing.trees.spill_file();
        follow(launched, limits, io, &spill, watch).await
    }
}

/// Whether a command that is started will be given an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedInput {
    /// It reads the end of file at once.
    Nothing,
    /// It reads what [`StartedCommand::follow`] is given.
    Stream,
}

impl SandboxEnvironment {
    /// Starts a command and returns once it is executed, before anything of its output is read.
    ///
    /// # Errors
    /// As [`Commands::run`]: it did not start.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it has started.
    pub async fn start_command(
        &self,
        request: &CommandRequest,
        input: StartedInput,
    ) -> Result<StartedCommand, CommandError> {
        let _call = self.inner.enter().await?;
        let input = match input {
            StartedInput::Nothing => Input::Nothing,
            StartedInput::Stream => Input::Pipe,
        };
        self.started(request, input).await
    }

    async fn started(
        &self,
        request: &CommandRequest,
        input: Input,
    ) -> Result<StartedCommand, CommandError> {
        let (standing, launched) = self.launch(request, input).await?;
        let limits = RunLimits::of(request);
        Ok(StartedCommand { environment: self.clone(), standing, launched, limits })
    }
}

/// A command on a terminal that is being executed, and that nobody follows yet. Dropping it ends the
/// command.
pub struct StartedOnTerminal {
    environment: SandboxEnvironment,
    watch: Watch,
    launched: LaunchedOnTerminal,
    limits: RunLimits,
    ended: CancellationToken,
}

impl fmt::Debug for StartedOnTerminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedOnTerminal").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl StartedOnTerminal {
    /// The number of its first process, as [`StartedCommand::pid`].
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.launched.pid
    }

    /// Cancelled, while it is followed, when the command and its children have ended, and before what is left
    /// on the terminal is read: less than a mebibyte, which a sink can take in without making it wait.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Follows it to its end, as [`Terminals::run_on_terminal`] does. Its time limit counts from here.
    ///
    /// # Errors
    /// The environment was closed meanwhile, and the command has ended with it.
    ///
    /// # Cancel safety
    /// Dropping the future ends the command.
    pub async fn follow(self, io: TerminalIo) -> Result<CommandExit, EnvironmentError> {
        let inner = Arc::clone(&self.environment.inner);
        let _call = inner.enter().await?;
        Ok(self.follow_in_call(io).await)
    }

    async fn follow_in_call(self, io: TerminalIo) -> CommandExit {
        follow_on_terminal(self.launched, self.limits, io, self.watch, self.ended).await
    }
}

impl SandboxEnvironment {
    /// Starts a command on a terminal and returns once it is executed, before anything of its output is
    /// read.
    ///
    /// # Errors
    /// As [`Terminals::run_on_terminal`]: it did not start.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it has started.
    pub async fn start_on_terminal(
        &self,
        request: &CommandRequest,
        size: TerminalSize,
    ) -> Result<StartedOnTerminal, CommandError> {
        let _call = self.inner.enter().await?;
        self.started_on_terminal(request, size).await
    }

    async fn started_on_terminal(
        &self,
        request: &CommandRequest,
        size: TerminalSize,
    ) -> Result<StartedOnTerminal, CommandError> {
        let standing = self.inner.standing().await?;
        let mut command = command(&self.inner, &standing, request)?;
        command.terminal = Some(size);
        if !command.environment.iter().any(|entry| entry.as_bytes().starts_with(b"TERM=")) {
            command.environment.push(format!("TERM={DEFAULT_TERMINAL_KIND}").into());
        }
        let launched = launch_on_terminal(&standing.session, &command).await?;
        let watch = self.watch(&standing);
        let limits = RunLimits { farewell: Signal::HUP, ..RunLimits::of(request) };
        let ended = CancellationToken::new();
        Ok(StartedOnTerminal { environment: self.clone(), watch, launched, limits, ended })
    }
}

#[async_trait]
impl Terminals for SandboxEnvironment {
    async fn run_on_terminal(
        &self,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter().await?;
        let started = self.started_on_terminal(&request, size).await?;
        Ok(started.follow_in_call(io).await)
    }
}

#[async_trait]
impl BackgroundCommands for SandboxEnvironment {
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError> {
        let _call = self.inner.enter().await?;
        let (standing, launched) = self.launch(&request, Input::Nothing).await?;
        let limits = RunLimits { output: OutputLimits::NOTHING, ..RunLimits::of(&request) };
        let (command, io) = BackgroundCommand::new();
        // The task holds only what it needs: were it to hold the environment, the drop of the last
        // clone would never end it.
        let watch = self.watch(&standing);
        drop(standing);
        command.follow(async move {
            let no_spill = || Err(std::io::ErrorKind::Unsupported.into());
            follow(launched, limits, io, &no_spill, watch).await
        });
        let mut table = self.inner.background();
        let number = table.last_key_value().map_or(1, |(last, _)| last + 1);
        let id = BackgroundId::parse(&format!("bg-{number}"))
            .map_err(|error| CommandError::Invalid { reason: error.to_string() })?;
        table.insert(number, (id.clone(), command));
        Ok(id)
    }

    async fn poll(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
        wait: Duration,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let _call = self.inner.enter().await?;
        let command = self.inner.find(id)?;
        tokio::select! {
            () = command.changed(since, wait) => Ok(command.status(since)),
            () = self.inner.closing.cancelled() => Err(Inner::closed_error().into()),
        }
    }

    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let _call = self.inner.enter().await?;
        let command = self.inner.find(id)?;
        command.cancel();
        command.ended().await;
        Ok(command.status(since))
    }

    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError> {
        let _call = self.inner.enter().await?;
        let summary = |(id, command): &(BackgroundId, Arc<BackgroundCommand>)| BackgroundSummary {
            id: id.clone(),
            ending: command.ending(),
        };
        Ok(self.inner.background().values().map(summary).collect())
    }
}

impl Inner {
    fn find(&self, id: &BackgroundId) -> Result<Arc<BackgroundCommand>, BackgroundError> {
        let table = self.background();
        let found = table.values().find(|(candidate, _)| candidate == id);
        match found {
            Some((_, command)) => Ok(Arc::clone(command)),
            None => Err(BackgroundError::NotFound { id: id.clone() }),
        }
    }

    async fn close(self: &Arc<Self>) -> Result<(), String> {
        self.closing.cancel();
        let commands: Vec<_> =
            self.background().values().map(|(_, command)| Arc::clone(command)).collect();
        let all_ended = async {
            for command in &commands {
                command.ended().await;
            }
            self.all_calls_ended().await;
        };
        let in_time = tokio::time::timeout(CLOSE_LIMIT, all_ended).await;
        for command in &commands {
            command.kill();
        }
        let ended = self.end_session().await;
        debug!("The sandbox was closed.");
        match (in_time, ended) {
            (Err(_), _) => Err("commands were still running and were killed".to_owned()),
            (Ok(()), ended) => ended,
        }
    }
}

impl SandboxEnvironment {
    /// Does what blocks with the trees of the session.
    pub(crate) async fn with_trees<T, E>(
        &self,
        work: impl FnOnce(&Trees) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EnvironmentError> + Send + 'static,
    {
        let _call = self.inner.enter().await?;
        let trees = self.inner.standing().await?.trees.clone();
        blocking(move || work(&trees)).await?
    }
}

#[async_trait]
impl Files for SandboxEnvironment {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.read(&path, range)).await
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.write(&path, &contents, options)).await
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.remove(&path, removal)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.list(&path)).await
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.stat(&path)).await
    }
}

/// Tells the searching thread that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Search for SandboxEnvironment {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        self.with_trees(move |trees| trees.search(&query, &stopped)).await
    }
}

#[async_trait]
impl Describe for SandboxEnvironment {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        let _call = self.inner.enter().await?;
        Ok(self.inner.standing().await?.description.clone())
    }

    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Sandbox
    }
}

#[async_trait]
impl Changes for SandboxEnvironment {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        let _call = self.inner.enter().await?;
        if !self.inner.is_tracked() {
            return Err(ChangesError::NotTracked { environment: EnvironmentKind::Sandbox });
        }
        let changes = self.inner.changes().await?;
        Ok(changes.into_domain())
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        let call = self.inner.enter().await?;
        if !self.inner.is_tracked() {
            return Err(ChangesError::NotTracked { environment: EnvironmentKind::Sandbox });
        }
        drop(call);
        // Nobody else is kept waiting; and where somebody works, that is known.
        match self.inner.calls.try_write() {
            Ok(_alone) => Ok(self.inner.take_in(self.inner.others()).await?),
            Err(_) => {
                let _call = self.inner.enter().await?;
                Ok(self.inner.take_in(Others::Running).await?)
            }
        }
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        let _call = self.inner.enter().await?;
        Ok(self.inner.without_session(|session| session.discard()).await?)
    }
}

#[async_trait]
impl Lifecycle for SandboxEnvironment {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        let _call = self.inner.enter().await?;
        self.inner.standing().await.map(drop)
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        let _call = self.inner.enter().await?;
        self.inner.checkpoint().await
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        let closed = self.inner.closed.get_or_init(|| self.inner.close()).await;
        closed.clone().map_err(|reason| EnvironmentError::Unavailable {
            environment: EnvironmentKind::Sandbox,
            reason: format!("it could not be closed in full: {reason}"),
            source: None,
        })
    }
}
