//! The ports of the fake that are about commands and about the environment as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_domain::{
    BackgroundCommands, BackgroundError, BackgroundId, BackgroundStatus, BackgroundSummary,
    Capabilities, ChangeSet, ChangeTracking, Changes, ChangesError, CommandController,
    CommandError, CommandExit, CommandIo, CommandRequest, Commands, Describe, Description,
    EnvironmentError, EnvironmentKind, Lifecycle, Network, OutputLimits, OutputOffset, Persistence,
    Stdin, TakenIn,
};
use tokio_util::sync::CancellationToken;

use super::background::{BackgroundCommand, Log, LogSink};
use super::environment::{FakeEnvironment, Inner, lock};
use super::process::follow;
use super::program::prepare;
use super::tree::{SCRATCH, WORKSPACE};

#[async_trait]
impl Commands for FakeEnvironment {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter("run").await?;
        let prepared = prepare(&self.inner, &request)?;
        Ok(follow(&self.inner, prepared, io).await)
    }
}

#[async_trait]
impl BackgroundCommands for FakeEnvironment {
    async fn start(&self, mut request: CommandRequest) -> Result<BackgroundId, CommandError> {
        let _call = self.inner.enter("start").await?;
        request.output_limits = OutputLimits::NOTHING;
        let prepared = prepare(&self.inner, &request)?;
        let (controller, control) = CommandController::new();
        let log = Arc::new(Log::default());
        let sink = Box::new(LogSink(Arc::clone(&log)));
        let io = CommandIo { stdin: Stdin::Empty, sink, control };
        let (inner, task_log) = (Arc::clone(&self.inner), Arc::clone(&log));
        let task = tokio::spawn(async move {
            let exit = follow(&inner, prepared, io).await;
            task_log.end(exit.ending, exit.stopped_by);
        });
        let mut table = lock(&self.inner.background);
        let id = BackgroundId::parse(&format!("fake-{}", table.len() + 1)).unwrap();
        let task = task.abort_handle();
        table.push((id.clone(), Arc::new(BackgroundCommand { log, controller, task })));
        Ok(id)
    }

    async fn poll(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
        wait: Duration,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let _call = self.inner.enter("poll").await?;
        let command = self.inner.find(id)?;
        tokio::select! {
            () = command.log.changed(since, wait) => Ok(command.log.status(since)),
            () = self.inner.closing.cancelled() => Err(Inner::closed().into()),
        }
    }

    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let _call = self.inner.enter("stop").await?;
        let command = self.inner.find(id)?;
        command.controller.cancel();
        command.log.ended().await;
        Ok(command.log.status(since))
    }

    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError> {
        let _call = self.inner.enter("list_background").await?;
        let table = lock(&self.inner.background);
        let summary = |(id, command): &(BackgroundId, Arc<BackgroundCommand>)| BackgroundSummary {
            id: id.clone(),
            ending: command.log.ending(),
        };
        Ok(table.iter().map(summary).collect())
    }
}

impl Inner {
    fn find(&self, id: &BackgroundId) -> Result<Arc<BackgroundCommand>, BackgroundError> {
        let table = lock(&self.background);
        match table.iter().find(|(candidate, _)| candidate == id) {
            Some((_, command)) => Ok(Arc::clone(command)),
            None => Err(BackgroundError::NotFound { id: id.clone() }),
        }
    }
}

#[async_trait]
impl Describe for FakeEnvironment {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        let _call = self.inner.enter("describe").await?;
        Ok(Description {
            kind: EnvironmentKind::Fake,
            operating_system: "Fake 1.0 none".to_owned(),
            shell: PathBuf::from("/bin/sh"),
            user: Some("fake".to_owned()),
            workspace: PathBuf::from(WORKSPACE),
            working_directory: PathBuf::from(WORKSPACE),
            scratch: PathBuf::from(SCRATCH),
            persistence: Persistence::Environment,
            network: Network::None,
            limits: Vec::new(),
            remarks: Vec::new(),
            capabilities: Capabilities {
                change_tracking: ChangeTracking::Tracked,
                streams_exact_bytes: true,
                finds_detached_children: true,
            },
        })
    }

    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Fake
    }
}

#[async_trait]
impl Changes for FakeEnvironment {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        let _call = self.inner.enter("changes").await?;
        let base = lock(&self.inner.base).clone();
        Ok(self.inner.tree().changes_since(&base))
    }

    /// There is no host behind it that could change anything.
    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        let _call = self.inner.enter("take_in").await?;
        Ok(TakenIn::default())
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        {
            let _call = self.inner.enter("discard_changes").await?;
            std::mem::replace(&mut *lock(&self.inner.discarding), CancellationToken::new())
                .cancel();
        }
        self.inner.all_calls_ended().await;
        let commands: Vec<_> =
            lock(&self.inner.background).iter().map(|(_, c)| Arc::clone(c)).collect();
        for command in commands {
            command.log.ended().await;
        }
        let base = lock(&self.inner.base).clone();
        *self.inner.tree() = base;
        Ok(())
    }
}

#[async_trait]
impl Lifecycle for FakeEnvironment {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.inner.enter("prepare").await.map(drop)
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        self.inner.enter("checkpoint").await.map(drop)
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        self.inner.closing.cancel();
        self.inner.all_calls_ended().await;
        let commands: Vec<_> =
            lock(&self.inner.background).iter().map(|(_, c)| Arc::clone(c)).collect();
        for command in commands {
            command.log.ended().await;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (_, command) in lock(&self.background).iter() {
            command.task.abort();
        }
    }
}
