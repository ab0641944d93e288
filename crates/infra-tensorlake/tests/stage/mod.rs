//! A project, a server that really executes, and a relay between it and the environment.

#![allow(dead_code, clippy::unwrap_used, reason = "each of those who include it uses a part")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_domain::{
    BoxedError, CommandError, CommandIo, CommandRequest, Commands, Ending, NotReturned, Program,
    ReturnKeeper, Returned, ReturnedOrigin, WorkspaceLocation, WorkspaceSource,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_infra_workspace::HostSource;
use forge_tensorlake_testserver::{ServerOptions, TestServer};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::relay::{Fate, Relay, Request};

pub(crate) struct Stage {
    pub(crate) server: TestServer,
    pub(crate) relay: Relay,
    pub(crate) environment: TensorlakeEnvironment,
    /// In the guest.
    pub(crate) workspace: PathBuf,
    /// What has to be there for as long as this.
    pub(crate) host: Option<TempDir>,
}

impl Stage {
    pub(crate) async fn new(
        source: impl WorkspaceSource + 'static,
        decide: impl Fn(&Request) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let server = TestServer::start(ServerOptions::default()).await.unwrap();
        let relay = Relay::start(&server.url(), Duration::ZERO, decide);
        let workspace = server.directory().join("project");
        let location =
            WorkspaceLocation { root: workspace.clone(), working_directory: workspace.clone() };
        let mut config = TensorlakeConfig::new(SecretString::from("k"))
            .api_url(relay.url.clone())
            .scratch_parent(server.directory().join("scratch"));
        config.source = Some(Arc::new(source));
        let environment = TensorlakeEnvironment::new(config, location).unwrap();
        Self { server, relay, environment, workspace, host: None }
    }

    /// In the guest, these tools are found first.
    pub(crate) async fn with_tools(host: &TempDir, tools: &Tools) -> Self {
        Self::new(HostSource::new(host.path()), tools.decide()).await
    }

    pub(crate) async fn tries(&self, text: &str) -> Result<String, CommandError> {
        let request = CommandRequest::new(Program::shell(text));
        let exit = self.environment.run(request, CommandIo::detached()).await?;
        let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
        assert_eq!(exit.ending, Ending::Exited(0), "{output}");
        Ok(output)
    }

    pub(crate) async fn run(&self, text: &str) -> String {
        self.tries(text).await.unwrap()
    }

    /// Nothing runs, and this is said.
    pub(crate) async fn refused(&self) -> String {
        let said = chain(&self.tries("touch ran").await.unwrap_err());
        assert!(!self.workspace.join("ran").exists());
        said
    }

    /// What was handed over, even where it ends with an error.
    pub(crate) async fn bring_back(&self) -> (BTreeMap<PathBuf, String>, Outcome) {
        let keeper = Keeper::default();
        let kept = Arc::clone(&keeper.0);
        let outcome = match self.environment.bring_back(keeper).await {
            Ok(not_returned) => Ok(not_returned.unwrap()),
            Err(error) => Err(chain(&error)),
        };
        let kept = kept.lock().unwrap().clone();
        (kept, outcome)
    }
}

type Outcome = Result<NotReturned, String>;

/// An error with what led to it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Keeps of each path what it is, and of a file, how long.
#[derive(Debug, Default)]
struct Keeper(Arc<Mutex<BTreeMap<PathBuf, String>>>);

impl ReturnKeeper for Keeper {
    fn put(
        &mut self,
        path: &Path,
        what: Returned<'_>,
        _: ReturnedOrigin,
    ) -> Result<(), BoxedError> {
        let text = match what {
            Returned::File { contents, .. } => {
                format!("file of {}", io::copy(contents, &mut io::sink())?)
            }
            Returned::Symlink { target } => format!("link to {}", target.display()),
            Returned::Directory { .. } => "directory".to_owned(),
            Returned::Nothing => "nothing".to_owned(),
        };
        self.0.lock().unwrap().insert(path.to_path_buf(), text);
        Ok(())
    }

    fn finish(&mut self, _: &NotReturned) -> Result<(), BoxedError> {
        Ok(())
    }
}

/// Where the guest finds its tools.
pub(crate) struct Tools {
    directory: TempDir,
    /// What is looked through after it.
    rest: &'static str,
}

impl Tools {
    /// This machine's, but for some that are these texts of a shell. In a text, `honest` says whether they do not lie, and
    /// `real` is the directory of the real tools.
    pub(crate) fn with(instead: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in instead {
            let path = directory.path().join(name);
            let lie = directory.path().join("lie");
            let begin = format!("honest() {{ [ ! -e '{}' ]; }}\nreal=/usr/bin", lie.display());
            fs::write(&path, format!("#!/bin/sh\n{begin}\n{text}\n")).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { directory, rest: ":/usr/local/bin:/usr/bin:/bin" }
    }

    /// A directory with all of this machine's, from which a test can take some.
    pub(crate) fn all() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for parent in ["/usr/local/bin", "/usr/bin", "/bin"] {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                // The first one counts.
                drop(symlink(entry.path(), directory.path().join(entry.file_name())));
            }
        }
        Self { directory, rest: "" }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// From now on they do what they are there for.
    pub(crate) fn lie(&self) {
        fs::write(self.path().join("lie"), "").unwrap();
    }

    /// Now they do not.
    pub(crate) fn tell_the_truth(&self) {
        fs::remove_file(self.path().join("lie")).unwrap();
    }

    /// Whatever is started in the guest finds these.
    pub(crate) fn decide(&self) -> impl Fn(&Request) -> Fate + Send + Sync + 'static {
        let path = format!("{}{}", self.path().display(), self.rest);
        move |request| {
            if !request.shape.ends_with("/processes/run") {
                return Fate::Pass;
            }
            let mut body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            body["env"]["PATH"] = path.clone().into();
            Fate::With(body.to_string().into_bytes())
        }
    }
}

/// Bytes that no archive makes shorter.
pub(crate) fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// Everything beneath a directory: modes, how long files are and their sums, targets.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut tree, mut pending) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let shown = if metadata.is_symlink() {
                format!("-> {:?}", fs::read_link(&full).unwrap())
            } else if metadata.is_dir() {
                pending.push(path.clone());
                format!("{mode:o} directory")
            } else {
                let contents = fs::read(&full).unwrap();
                let sum = contents
                    .iter()
                    .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                format!("{mode:o} {} {sum}", contents.len())
            };
            tree.insert(path, shown);
        }
    }
    tree
}
