//! What a microVM is found again by, in the session that its changes are kept in.

use std::sync::Arc;

use forge_domain::{BoxedError, KeptSandbox, SandboxRecord};
use forge_infra_sandbox::{MicrovmUse, OpenSession, StoredMicrovm};

use crate::leftover::is_of_server;
use crate::microvm::Kept;

/// Opens the session, where that is not done yet, by the first microVM that is asked for.
#[derive(Debug)]
pub(crate) struct MicrovmRecord {
    pub(crate) kept: Arc<Kept>,
    pub(crate) server: String,
    pub(crate) namespace: String,
}

impl MicrovmRecord {
    fn session(&self) -> Result<Arc<OpenSession>, BoxedError> {
        self.kept.session().ok_or_else(|| "the session has ended".into())
    }
}

impl SandboxRecord for MicrovmRecord {
    fn begin(&self, name: &str) -> Result<(), BoxedError> {
        let session = self.kept.open()?;
        Ok(session.add_microvm(StoredMicrovm::new(name, &self.server, &self.namespace))?)
    }

    fn identify(&self, name: &str, id: &str) -> Result<(), BoxedError> {
        Ok(self.session()?.identify_microvm(name, id)?)
    }

    fn fill(&self, _name: &str, state: &[u8]) -> Result<(), BoxedError> {
        Ok(self.session()?.fill_microvm(state)?)
    }

    fn keep(&self, name: &str, state: Option<&[u8]>) -> Result<(), BoxedError> {
        let session = self.session()?;
        if let Some(state) = state {
            session.fill_microvm(state)?;
        }
        Ok(session.keep_microvm(name)?)
    }

    fn kept(&self) -> Result<Option<KeptSandbox>, BoxedError> {
        let session = self.kept.open()?;
        let is_ours = |microvm: &StoredMicrovm| {
            microvm.r#use == MicrovmUse::Kept
                && is_of_server(microvm, &self.server, &self.namespace)
        };
        let microvm = session.microvms().into_iter().rfind(is_ours);
        let Some(StoredMicrovm { name, id: Some(id), .. }) = microvm else { return Ok(None) };
        Ok(Some(KeptSandbox { name, id, state: session.microvm_state()? }))
    }

    fn take_up(&self, name: &str) -> Result<(), BoxedError> {
        Ok(self.session()?.take_up_microvm(name)?)
    }

    fn forget(&self, name: &str) -> Result<(), BoxedError> {
        Ok(self.session()?.forget_microvm(name)?)
    }
}
