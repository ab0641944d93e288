//! The ports that are about processes and about the environment as a whole.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_command_io::{BackgroundCommand, Terminal};
use forge_domain::{
    BackgroundCommands, BackgroundError, BackgroundId, BackgroundStatus, BackgroundSummary,
    Capabilities, ChangeSet, ChangeTracking, Changes, ChangesError, CommandError, CommandExit,
    CommandIo, CommandRequest, Commands, Describe, Description, EnvironmentError, EnvironmentKind,
    Lifecycle, Network, OutputLimits, OutputOffset, Persistence, TakenIn, TerminalIo, TerminalSize,
    Terminals,
};
use rustix::process::Signal as OsSignal;
use tracing::debug;

use crate::environment::{Inner, LocalEnvironment};
use crate::launch::{Input, launch, launch_on_terminal};
use crate::run::{RunLimits, follow, follow_on_terminal};
use crate::terminal;

/// How long `close` waits for calls to end, beyond the grace of the commands, before it says so.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

#[async_trait]
impl Commands for LocalEnvironment {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter().await?;
        let launched = launch(&self.inner.config, &request, Input::of(&io.stdin)).await?;
        let limits = RunLimits::of(&request);
        let inner = Arc::clone(&self.inner);
        let spill = move || inner.spill_file();
        Ok(follow(launched, limits, io, &spill, &self.inner.closing).await)
    }
}

#[async_trait]
impl Terminals for LocalEnvironment {
    async fn run_on_terminal(
        &self,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter().await?;
        let opened = terminal::open(size)
            .and_then(|(master, slave)| Terminal::new(master).map(|terminal| (terminal, slave)));
        let (terminal, slave) = opened.map_err(|source| EnvironmentError::Unavailable {
            environment: EnvironmentKind::Local,
            reason: "no pseudo-terminal could be made".to_owned(),
            source: Some(Box::new(source)),
        })?;
        let launched = launch_on_terminal(&self.inner.config, &request, slave).await?;
        let limits = RunLimits { farewell: OsSignal::HUP, ..RunLimits::of(&request) };
        Ok(follow_on_terminal(launched, terminal, limits, io, &self.inner.closing).await)
    }
}

#[async_trait]
impl BackgroundCommands for LocalEnvironment {
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError> {
        let _call = self.inner.enter().await?;
        let launched = launch(&self.inner.config, &request, Input::Nothing).await?;
        let limits = RunLimits { output: OutputLimits::NOTHING, ..RunLimits::of(&request) };
        let (command, io) = BackgroundCommand::new();
        // The task holds only what it needs: were it to hold the environment, the drop of the last
        // clone would never end it.
        let closing = self.inner.closing.clone();
        command.follow(async move {
            let no_spill = || Err(std::io::ErrorKind::Unsupported.into());
            follow(launched, limits, io, &no_spill, &closing).await
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

    async fn close(&self) -> Result<(), String> {
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
        let removed = self.remove_scratch();
        debug!("The local environment was closed.");
        match (in_time, removed) {
            (Err(_), _) => Err("commands were still running and were killed".to_owned()),
            (Ok(()), Err(error)) => Err(format!("the scratch directory stays: {error}")),
            (Ok(()), Ok(())) => Ok(()),
        }
    }
}

#[async_trait]
impl Describe for LocalEnvironment {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        let _call = self.inner.enter().await?;
        let config = &self.inner.config;
        let system = rustix::system::uname();
        let operating_system = [system.sysname(), system.release(), system.machine()]
            .map(|part| part.to_string_lossy());
        let user = config
            .environment
            .iter()
            .rev()
            .find(|variable| variable.name().as_os_str() == "USER")
            .map(|variable| variable.value().expose().to_string_lossy().into_owned());
        Ok(Description {
            kind: EnvironmentKind::Local,
            operating_system: operating_system.join(" "),
            shell: config.shell.clone(),
            user,
            workspace: config.workspace.root.clone(),
            working_directory: config.workspace.working_directory.clone(),
            scratch: self.inner.scratch().map_err(Inner::scratch_error)?,
            persistence: Persistence::Permanent,
            network: Network::Full,
            limits: Vec::new(),
            remarks: vec![
                "Commands run on the user's own machine, without isolation: what they change is \
                 changed at once and for good."
                    .to_owned(),
            ],
            capabilities: Capabilities {
                change_tracking: ChangeTracking::Untracked,
                streams_exact_bytes: true,
                finds_detached_children: cfg!(target_os = "linux"),
            },
        })
    }

    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Local
    }
}

#[async_trait]
impl Changes for LocalEnvironment {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        let _call = self.inner.enter().await?;
        Err(ChangesError::NotTracked { environment: EnvironmentKind::Local })
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        let _call = self.inner.enter().await?;
        Err(ChangesError::NotTracked { environment: EnvironmentKind::Local })
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        let _call = self.inner.enter().await?;
        Err(ChangesError::NotTracked { environment: EnvironmentKind::Local })
    }
}

#[async_trait]
impl Lifecycle for LocalEnvironment {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.inner.enter().await.map(drop)
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        self.inner.enter().await.map(drop)
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        let closed = self.inner.closed.get_or_init(|| self.inner.close()).await;
        closed.clone().map_err(|reason| EnvironmentError::Unavailable {
            environment: EnvironmentKind::Local,
            reason: format!("it could not be closed in full: {reason}"),
            source: None,
        })
    }
}
