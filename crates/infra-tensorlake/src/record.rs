//! What is written down about a sandbox, by whoever keeps that, off the runtime's own threads.

use std::sync::Arc;

use forge_domain::{BoxedError, EnvironmentError, EnvironmentKind, KeptSandbox, SandboxRecord};
use tracing::warn;

use crate::lifecycle::SandboxName;

/// A record, or none.
#[derive(Debug, Clone)]
pub(crate) struct Record(Option<Arc<dyn SandboxRecord>>);

impl Record {
    pub(crate) fn new(record: Option<Arc<dyn SandboxRecord>>) -> Self {
        Self(record)
    }

    /// Whether there is one.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Before a sandbox is asked for.
    pub(crate) async fn begin(&self, name: &SandboxName) -> Result<(), EnvironmentError> {
        let written = self.write(name, |record, name| record.begin(name)).await;
        written.map_err(|source| failed("the sandbox cannot be put on record", source))
    }

    /// What tells what is changed in a sandbox.
    pub(crate) async fn fill(
        &self,
        name: &SandboxName,
        state: Vec<u8>,
    ) -> Result<(), EnvironmentError> {
        let written = self.write(name, move |record, name| record.fill(name, &state)).await;
        written.map_err(|source| failed("what is in the sandbox cannot be put on record", source))
    }

    /// Its name finds it as well.
    pub(crate) async fn identify(&self, name: &SandboxName, id: &str) {
        let id = id.to_owned();
        self.tell(name, move |record, name| record.identify(name, &id)).await;
    }

    pub(crate) async fn keep(&self, name: &SandboxName, state: Option<Vec<u8>>) {
        self.tell(name, move |record, name| record.keep(name, state.as_deref())).await;
    }

    /// The one that was kept and can be gone on with.
    pub(crate) async fn kept(&self) -> Result<Option<KeptSandbox>, EnvironmentError> {
        let Some(record) = self.0.clone() else { return Ok(None) };
        let kept = match tokio::task::spawn_blocking(move || record.kept()).await {
            Ok(kept) => kept,
            Err(error) => Err(error.into()),
        };
        kept.map_err(|source| failed("the sandbox that was kept cannot be found out", source))
    }

    /// Before anything happens in one that was kept.
    pub(crate) async fn take_up(&self, name: &SandboxName) -> Result<(), EnvironmentError> {
        let written = self.write(name, |record, name| record.take_up(name)).await;
        written.map_err(|source| failed("the sandbox cannot be put on record", source))
    }

    /// Whoever looks for it later finds that it is gone.
    pub(crate) async fn forget(&self, name: &SandboxName) {
        self.tell(name, |record, name| record.forget(name)).await;
    }

    async fn tell(
        &self,
        name: &SandboxName,
        write: impl FnOnce(&dyn SandboxRecord, &str) -> Result<(), BoxedError> + Send + 'static,
    ) {
        if let Err(error) = self.write(name, write).await {
            warn!(%error, "The record of a sandbox could not be brought up to date.");
        }
    }

    async fn write(
        &self,
        name: &SandboxName,
        write: impl FnOnce(&dyn SandboxRecord, &str) -> Result<(), BoxedError> + Send + 'static,
    ) -> Result<(), BoxedError> {
        let (Some(record), Some(name)) = (&self.0, name.as_str()) else { return Ok(()) };
        let (record, name) = (Arc::clone(record), name.to_owned());
        match tokio::task::spawn_blocking(move || write(&*record, &name)).await {
            Ok(written) => written,
            Err(error) => Err(Box::new(error)),
        }
    }
}

fn failed(reason: &str, source: BoxedError) -> EnvironmentError {
    EnvironmentError::Unavailable {
        environment: EnvironmentKind::Tensorlake,
        reason: reason.to_owned(),
        source: Some(source),
    }
}
