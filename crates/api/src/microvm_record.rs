//! What a microVM is found again by, in the session that its changes are kept in.

use std::sync::Arc;

use forge_domain::{BoxedError, SandboxRecord};
use forge_infra_sandbox::{OpenSession, StoredMicrovm};

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

    fn keep(&self, name: &str) -> Result<(), BoxedError> {
        Ok(self.session()?.keep_microvm(name)?)
    }

    fn forget(&self, name: &str) -> Result<(), BoxedError> {
        Ok(self.session()?.forget_microvm(name)?)
    }
}
