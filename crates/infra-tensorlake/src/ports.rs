//! The ports about processes and about the environment as a whole.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use forge_domain::{
    BackgroundCommands, BackgroundError, BackgroundId, BackgroundStatus, BackgroundSummary,
    ChangeSet, Changes, ChangesError, CommandError, CommandExit, CommandIo, CommandRequest,
    Commands, Describe, Description, EnvironmentError, EnvironmentKind, OutputOffset, TakenIn,
    TerminalIo, TerminalSize, Terminals,
};

use crate::background::{BackgroundCommand, BackgroundTable};
use crate::commands::joined;
use crate::environment::{Inner, TensorlakeEnvironment};
use crate::failure::closed;

#[async_trait]
impl Commands for TensorlakeEnvironment {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        self.inner.run_command(request, io).await
    }
}

#[async_trait]
impl Terminals for TensorlakeEnvironment {
    async fn run_on_terminal(
        &self,
        request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        self.inner.run_on_terminal(request, size, io).await
    }
}

#[async_trait]
impl BackgroundCommands for TensorlakeEnvironment {
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError> {
        let (command, io, abandoned) = BackgroundCommand::new();
        // Until it is in the table, dropping this future drops the command, which ends it.
        let mut start = self.inner.start_background(request, io, abandoned)?;
        if (&mut start.begun).await.is_err() {
            // It ended before it began; where there is an exit all the same, nobody saw it run.
            let exit = joined(start.task.await)?;
            command.note_end(async { Ok(exit) });
        } else {
            command.note_end(async { joined(start.task.await) });
        }
        let mut table = self.inner.table();
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
        let command = self.inner.find(id)?;
        tokio::select! {
            () = command.changed(since, wait) => Ok(command.status(since)),
            () = self.inner.closing.cancelled() => Err(closed().into()),
        }
    }

    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let command = self.inner.find(id)?;
        command.cancel();
        command.ended().await;
        Ok(command.status(since))
    }

    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError> {
        self.inner.check_open()?;
        let summary = |(id, command): &(BackgroundId, Arc<BackgroundCommand>)| BackgroundSummary {
            id: id.clone(),
            ending: command.ending(),
        };
        Ok(self.inner.table().values().map(summary).collect())
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, BackgroundTable> {
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), EnvironmentError> {
        if self.closing.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    fn find(&self, id: &BackgroundId) -> Result<Arc<BackgroundCommand>, BackgroundError> {
        self.check_open()?;
        let table = self.table();
        let found = table.values().find(|(candidate, _)| candidate == id);
        match found {
            Some((_, command)) => Ok(Arc::clone(command)),
            None => Err(BackgroundError::NotFound { id: id.clone() }),
        }
    }
}

#[async_trait]
impl Describe for TensorlakeEnvironment {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        self.inner.check_open()?;
        Ok(self.inner.description())
    }

    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Tensorlake
    }
}

/// What is changed is kept elsewhere, by whoever asks for it ([`TensorlakeEnvironment::bring_back`]).
#[async_trait]
impl Changes for TensorlakeEnvironment {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        self.inner.check_open()?;
        Err(ChangesError::NotTracked { environment: EnvironmentKind::Tensorlake })
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        self.inner.check_open()?;
        if self.inner.project_mark().is_none() {
            return self.changes().await.map(|_| TakenIn::default());
        }
        let mut taken_in = self.inner.take_in().await?;
        taken_in.is_partial = taken_in.updated_paths > 0
            && self
                .inner
                .table()
                .values()
                .any(|(_, command)| command.status(OutputOffset::default()).ending.is_none());
        Ok(taken_in)
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        self.changes().await.map(drop)
    }
}
