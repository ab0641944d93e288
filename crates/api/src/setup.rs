//! What a project has done in each new environment before anything else happens there.

use forge_domain::{
    CommandError, CommandIo, CommandRequest, Commands, Digest, Ending, Lifecycle, Program,
};

use crate::{Executor, ForgeAPI};

/// In a microVM, the note lasts as long as that does. `$1` names the setup.
const IS_NOTED: &str = r#"[ -e "/tmp/.forge-setup-$1" ]"#;
const NOTE: &str = r#": >"/tmp/.forge-setup-$1""#;

impl ForgeAPI {
    /// What a setup of this workspace is known by: another text is another setup, and so is the same one elsewhere.
    #[must_use]
    pub fn setup_id(&self, text: &str) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.workspace().root.as_os_str().as_encoded_bytes());
        hasher.update(b"\0");
        hasher.update(text.as_bytes());
        Digest::new(hasher.finalize().into())
    }
}

impl Executor {
    /// Whether the environment has had this setup: the sandbox's session, or this microVM. Makes the environment where it
    /// is not there yet. This host counts as having had any.
    ///
    /// # Errors
    /// The environment cannot be made or asked.
    ///
    /// # Cancel safety
    /// As [`Commands::run`].
    pub async fn has_setup(&self, setup: Digest) -> Result<bool, CommandError> {
        self.prepare().await?;
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => Ok(environment.has_setup(setup).await?),
            Self::Local(_) => Ok(true),
            Self::Tensorlake(_) => self.in_guest(IS_NOTED, setup).await,
        }
    }

    /// Notes that the environment has had this setup: to be called when what it runs was successful.
    ///
    /// # Errors
    /// It cannot be written down, and is run once more by the next use.
    pub async fn note_setup(&self, setup: Digest) -> Result<(), CommandError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sandbox(environment) => Ok(environment.note_setup(setup).await?),
            Self::Local(_) => Ok(()),
            Self::Tensorlake(_) => self.in_guest(NOTE, setup).await.map(drop),
        }
    }

    async fn in_guest(&self, text: &str, setup: Digest) -> Result<bool, CommandError> {
        let argv = ["-c".to_owned(), text.to_owned(), "forge".to_owned(), setup.to_string()];
        let request = CommandRequest::new(Program::argv("/bin/sh", argv));
        let exit = self.run(request, CommandIo::detached()).await?;
        Ok(exit.ending == Ending::Exited(0))
    }
}
