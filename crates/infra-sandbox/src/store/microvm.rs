//! The microVMs that a session's commands run in, elsewhere: what each is found again by, and what tells its changes.
//!
//! It is in the session's description, durably, before the microVM is asked for, and until it is gone. A session of a microVM
//! that nobody accounted for is gone on with only when that was fetched from, and is never removed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forge_domain::SessionId;
use serde::{Deserialize, Serialize};

use super::blobs::create;
use super::error::SessionError;
use super::lock::no_follow;
use super::meta::{Durability, Meta, seconds};
use super::moment::{Moment, Moments};
use super::open::OpenSession;
use super::prune::remove_file;
use super::sessions::SessionStore;

/// In a session's directory: when the host was last looked at for the microVM, and what tells what is changed in it.
const STATE: &str = "microvm";
/// Written to ask the kernel's clock for inodes.
const CLOCK: &str = "microvm.clock";
/// A list of two million paths is shorter.
const MAX_STATE_BYTES: u64 = 1024 * 1024 * 1024;

/// What becomes of a microVM at the end of the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MicrovmUse {
    /// It is fetched from and deleted: there may be changes in it that are nowhere else.
    Session,
    /// It stays, since somebody asked for that. What was changed in it was fetched.
    Kept,
}

/// A microVM as a session has it on record. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMicrovm {
    /// What it was asked for by.
    pub name: String,
    /// The server's id for it, once that is known.
    #[serde(default)]
    pub id: Option<String>,
    /// The server that it was asked of, without the key.
    pub server: String,
    /// The namespace there, where the server has them.
    pub namespace: String,
    /// When it was asked for, in seconds since 1970.
    asked_for: u64,
    /// What becomes of it.
    pub r#use: MicrovmUse,
}

impl StoredMicrovm {
    /// One that is about to be asked for.
    #[must_use]
    pub fn new(name: &str, server: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            server: server.to_owned(),
            namespace: namespace.to_owned(),
            asked_for: seconds(SystemTime::now()),
            r#use: MicrovmUse::Session,
        }
    }

    /// When it was asked for.
    #[must_use]
    pub fn asked_for(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.asked_for)
    }

    /// What a server finds it by, and a person.
    #[must_use]
    pub fn id_or_name(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.name)
    }
}

impl Meta {
    /// Whether there is a microVM with changes that may be nowhere else.
    pub(super) fn awaits_a_microvm(&self) -> bool {
        self.microvms.iter().any(|microvm| microvm.r#use == MicrovmUse::Session)
    }
}

impl SessionStore {
    /// Locks a session that nobody uses, to take in what its microVM still has: changes count as begun when the host was
    /// last looked at for that microVM.
    ///
    /// # Errors
    /// As [`SessionStore::lock`].
    pub fn lock_for_microvms(&self, id: &SessionId) -> Result<OpenSession, SessionError> {
        let open = self.lock(id)?;
        if let Ok(Some((seen, _))) = open.read_state() {
            open.set_moments(Moments::new(seen));
        }
        Ok(open)
    }
}

impl OpenSession {
    /// The microVMs that are on record.
    #[must_use]
    pub fn microvms(&self) -> Vec<StoredMicrovm> {
        self.meta().microvms.clone()
    }

    /// Puts a microVM on record that is about to be asked for. It survives a loss of power.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn add_microvm(&self, microvm: StoredMicrovm) -> Result<(), SessionError> {
        // What tells the changes of one before is worth nothing for this one.
        self.forget_microvm_state()?;
        self.change_microvms(|all| all.push(microvm))?;
        // The session itself may be as new.
        let sessions = self.sessions_directory();
        let synced = File::open(&sessions).and_then(|sessions| sessions.sync_all());
        synced.map_err(SessionError::io("writing to", &sessions))
    }

    /// Notes the server's id for a microVM.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn identify_microvm(&self, name: &str, id: &str) -> Result<(), SessionError> {
        self.change_microvms(|all| {
            for microvm in all.iter_mut().filter(|microvm| microvm.name == name) {
                microvm.id = Some(id.to_owned());
            }
        })
    }

    /// Notes that a microVM stays, since somebody asked for that, and that all that was changed in it is here.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn keep_microvm(&self, name: &str) -> Result<(), SessionError> {
        self.set_use(name, MicrovmUse::Kept)
    }

    /// Notes that a microVM that was kept is used again.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn take_up_microvm(&self, name: &str) -> Result<(), SessionError> {
        self.set_use(name, MicrovmUse::Session)
    }

    fn set_use(&self, name: &str, r#use: MicrovmUse) -> Result<(), SessionError> {
        self.change_microvms(|all| {
            for microvm in all.iter_mut().filter(|microvm| microvm.name == name) {
                microvm.r#use = r#use;
            }
        })
    }

    /// Takes a microVM that is gone off the record.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn forget_microvm(&self, name: &str) -> Result<(), SessionError> {
        self.change_microvms(|all| all.retain(|microvm| microvm.name != name))?;
        if self.meta().microvms.is_empty() { self.forget_microvm_state() } else { Ok(()) }
    }

    /// To be called before the host is looked at for a microVM: what is changed on the host later is not what the microVM has.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn looks_at_the_host(&self) -> io::Result<()> {
        let path = self.path().join(CLOCK);
        let mut file = create(&path)?;
        file.write_all(b".")?;
        self.set_looked(Moment::of(&file)?);
        Ok(())
    }

    /// Writes down what tells the changes of the microVM, whose meaning is the caller's. It survives a loss of power.
    ///
    /// # Errors
    /// It cannot be written down; what was written before is still there.
    pub fn fill_microvm(&self, state: &[u8]) -> Result<(), SessionError> {
        let path = self.path().join(STATE);
        self.try_fill(state).map_err(SessionError::io("writing", &path))
    }

    fn try_fill(&self, state: &[u8]) -> io::Result<()> {
        let (path, new) = (self.path().join(STATE), self.path().join(format!("{STATE}.new")));
        let Some(looked) = self.looked() else {
            return Err(io::Error::other("the host was not looked at"));
        };
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(&looked)?)?;
            file.write_all(b"\n")?;
            file.write_all(state)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&new, &path));
        if renamed.is_err() {
            drop(fs::remove_file(&new));
        }
        renamed?;
        File::open(self.path())?.sync_all()
    }

    /// What was [written down](Self::fill_microvm); `None` where the project never was in the microVM, or its changes were
    /// discarded.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn microvm_state(&self) -> Result<Option<Vec<u8>>, SessionError> {
        let read = self.read_state().map_err(SessionError::io("reading", &self.path().join(STATE)));
        Ok(read?.map(|(_, state)| state))
    }

    /// Drops what tells the changes of the microVM: nothing is fetched from it any more.
    pub(super) fn forget_microvm_state(&self) -> Result<(), SessionError> {
        let path = self.path().join(STATE);
        remove_file(&path).map_err(SessionError::io("removing", &path))
    }

    fn read_state(&self) -> io::Result<Option<(Moment, Vec<u8>)>> {
        let path = self.path().join(STATE);
        let file = match File::options().read(true).custom_flags(no_follow()).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_STATE_BYTES).read_to_end(&mut bytes)?;
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let looked = serde_json::from_slice(&bytes[..line])?;
        Ok(Some((looked, bytes.split_off(line + 1))))
    }

    fn change_microvms(
        &self,
        change: impl FnOnce(&mut Vec<StoredMicrovm>),
    ) -> Result<(), SessionError> {
        let mut meta = self.meta();
        let mut new = meta.clone();
        change(&mut new.microvms);
        new.last_used = seconds(SystemTime::now());
        new.write(self.path(), Durability::Survives)
            .map_err(SessionError::io("writing to", self.path()))?;
        *meta = new;
        Ok(())
    }

    fn sessions_directory(&self) -> PathBuf {
        self.path().parent().map_or_else(|| self.path().to_path_buf(), PathBuf::from)
    }
}
