//! What an attempt is made in: a project, and around it the host that must not be reached.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use forge_domain::WorkspaceLocation;
use forge_infra_sandbox::{SandboxConfig, SandboxEnvironment};
use tempfile::TempDir;

use crate::trial::Trial;

static NUMBER: AtomicU32 = AtomicU32::new(0);
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
static BASE: OnceLock<PathBuf> = OnceLock::new();

/// Says where the program is that makes the attempts. Once, before the first stage.
pub(crate) fn set_program(path: PathBuf) {
    PROGRAM.get_or_init(|| path);
}

/// Says where stages are made. Once, before the first stage.
pub(crate) fn set_base(path: PathBuf) {
    BASE.get_or_init(|| path);
}

pub(crate) fn program() -> &'static Path {
    PROGRAM.get().unwrap()
}

/// Starts a program that was copied just now: a child of another thread may have the copy open for
/// writing until it executes its own program.
pub(crate) fn spawn(command: &mut Command) -> Child {
    for _ in 0..200 {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            spawned => return spawned.unwrap(),
        }
    }
    panic!("the program stays busy")
}

/// A project in a directory of its own, with what stands around it. All of it is gone with this.
pub(crate) struct Stage {
    directory: TempDir,
    /// Marks the processes of the attempt, and what the attempt writes.
    pub(crate) token: String,
    /// What must not come out.
    pub(crate) secret: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mark = format!("{:x}-{number}-{:x}", std::process::id(), clock.subsec_nanos());
        let directory = tempfile::Builder::new()
            .prefix("forge-escape-")
            .tempdir_in(BASE.get().unwrap())
            .unwrap();
        for name in ["project", "home", "shared", "state"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let inside = directory.path().join("project/attempt");
        fs::copy(program(), &inside).unwrap();
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            directory,
            token: format!("forge-token-{mark}"),
            secret: format!("forge-secret-{mark}"),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(path)
    }

    /// The workspace.
    pub(crate) fn project(&self) -> PathBuf {
        self.at("project")
    }

    /// A directory of the host that the sandbox knows nothing of.
    pub(crate) fn home(&self) -> PathBuf {
        self.at("home")
    }

    /// A directory of the host that can be added to the view.
    pub(crate) fn shared(&self) -> PathBuf {
        self.at("shared")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.at("state")
    }

    /// A sandbox of the project.
    pub(crate) fn environment(&self, config: SandboxConfig) -> SandboxEnvironment {
        let (root, working_directory) = (self.project(), self.project());
        SandboxEnvironment::new(config, WorkspaceLocation { root, working_directory })
    }

    /// The program of the attempts, on the host.
    pub(crate) fn program(&self) -> &'static Path {
        program()
    }

    /// A file in the home directory that holds the secret, for its owner only.
    pub(crate) fn secret_file(&self, name: &str) -> String {
        self.file(&self.home().join(name), &self.secret)
    }

    /// A file of the host with these contents.
    pub(crate) fn file(&self, path: &Path, contents: &str) -> String {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The attempt of this name, with these arguments.
    pub(crate) fn trial<S: Into<String>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Trial {
        let mut words = vec![name.to_owned(), self.token.clone()];
        words.extend(arguments.into_iter().map(Into::into));
        Trial::new(words)
    }

    /// A process on the host to be attacked, which has the secret in its memory, in its environment
    /// and in a file that it has open.
    pub(crate) fn canary(&self) -> Canary {
        self.canary_by("canary")
    }

    /// The same in a user namespace of its own.
    pub(crate) fn canary_in_user_namespace(&self) -> Canary {
        self.canary_by("canary-in-user-namespace")
    }

    fn canary_by(&self, name: &str) -> Canary {
        let path = self.home().join("canary");
        fs::copy(program(), &path).unwrap();
        let mark = self.token.replace("token", "canary");
        let mut child = spawn(
            Command::new(&path)
                .args([name, &mark])
                .env("FORGE_CANARY", &self.secret)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let numbers: Vec<u64> =
            line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [_, place, length, first, second] = numbers[..] else { panic!("canary said {line:?}") };
        Canary { child, stdout, program: path, mark, place, length, descriptors: [first, second] }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The kernel's work directory of an overlay lets nobody in, not even its owner.
        open_up(&self.directory.path().join("state"));
    }
}

fn open_up(directory: &Path) {
    drop(fs::set_permissions(directory, fs::Permissions::from_mode(0o700)));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// See [`Stage::canary`]. It dies with this.
pub(crate) struct Canary {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The file that it executes.
    pub(crate) program: PathBuf,
    /// In its command line.
    pub(crate) mark: String,
    /// Where in its memory the secret is.
    pub(crate) place: u64,
    pub(crate) length: u64,
    /// Of the file with the secret.
    pub(crate) descriptors: [u64; 2],
}

impl Canary {
    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub(crate) fn is_dead(&mut self) -> bool {
        // A signal is delivered a moment after it was sent, whatever the attempt said of it.
        for _ in 0..50 {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        false
    }

    /// A file of its directory in `/proc`.
    pub(crate) fn told(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    /// Lets it end, and says what its memory held then.
    pub(crate) fn last_words(&mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = Vec::new();
        self.stdout.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
