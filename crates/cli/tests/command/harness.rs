//! A home and a project for one test, and the binary in them.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use forge_scripted_model::{Script, ScriptedModel};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// No wait in a test is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A scripted model server on the loopback, for as long as this lives.
pub(crate) struct Server {
    pub(crate) model: ScriptedModel,
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start(script: Script) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let model = runtime.block_on(ScriptedModel::start(script)).unwrap();
        Self { model, _runtime: runtime }
    }

    /// What the model was told after the user's prompt: the results of its calls, in their order.
    pub(crate) fn results(&self) -> Vec<String> {
        self.model.requests().pop().unwrap().ordered_tool_results().unwrap()
    }

    /// The body of the last request.
    pub(crate) fn last_request(&self) -> String {
        self.model.requests().pop().unwrap().body.to_string()
    }

    /// Where it listens.
    pub(crate) fn base_url(&self) -> String {
        self.model.base_url()
    }

    /// Lets a run of forge talk to this server.
    pub(crate) fn tell(&self, command: &mut Command) {
        command
            .env("OPENAI_API_KEY", "not-a-key")
            .env("OPENAI_BASE_URL", format!("{}/v1", self.model.base_url()));
    }
}

/// A home directory and a project.
pub(crate) struct World {
    directory: TempDir,
}

/// Gives this process, and so every program it starts, the usual answer to signals. A shell that starts
/// a suite in the background has it ignore SIGINT, and that is inherited.
fn take_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP] {
        #[expect(
            unsafe_code,
            reason = "signal(2) is unsafe for the handlers that one can give it"
        )]
        // SAFETY: the default action is no handler: no code of ours runs in a signal's context.
        unsafe { signal(number, SigHandler::SigDfl) }.unwrap();
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// One beneath this directory.
    pub(crate) fn beneath(directory: &str) -> Self {
        Self::of(tempfile::tempdir_in(directory).unwrap())
    }

    fn of(directory: TempDir) -> Self {
        take_signals();
        fs::create_dir(directory.path().join("home")).unwrap();
        fs::create_dir(directory.path().join("project")).unwrap();
        Self { directory }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// The project, as the kernel names it.
    pub(crate) fn project(&self) -> PathBuf {
        self.directory.path().join("project").canonicalize().unwrap()
    }

    pub(crate) fn write(&self, path: &str, contents: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// `forge` in the project, stdin from `/dev/null`, output captured, nothing in the environment
    /// but PATH and HOME.
    pub(crate) fn forge(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_forge"));
        command.args(arguments);
        command
    }

    /// `forge --local exec -- sh -c SCRIPT`.
    pub(crate) fn exec_sh(&self, script: &str) -> Command {
        self.forge(&["--local", "exec", "--", "sh", "-c", script])
    }

    /// `forge --local -m openai/scripted ARGUMENTS`, with this server.
    pub(crate) fn task(&self, server: &Server, arguments: &[&str]) -> Command {
        let mut command = self.forge(&["--local", "-m", "openai/scripted"]);
        command.args(arguments);
        server.tell(&mut command);
        command
    }

    /// A shell in the same world, with the binary in `$FORGE`.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]).env("FORGE", env!("CARGO_BIN_EXE_forge"));
        command
    }

    #[expect(clippy::disallowed_methods, reason = "the tests run the binary")]
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home())
            .current_dir(self.project())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Ended {
    ended(command.output().unwrap())
}

/// Runs to the end with this as stdin, and returns stdout as it is.
pub(crate) fn run_with_stdin(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let writer = thread::spawn(move || {
        // The reader may close its end before it has everything.
        drop(pipe.write_all(&stdin));
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

pub(crate) fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a file that a command writes, and returns what it holds.
pub(crate) fn wait_for_file(path: &Path) -> String {
    let mut contents = String::new();
    wait_until(&format!("{} holds a line", path.display()), || {
        contents = fs::read_to_string(path).unwrap_or_default();
        contents.ends_with('\n')
    });
    contents.trim_end().to_owned()
}

/// Whether a process with this number is there and is no zombie.
pub(crate) fn is_alive(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

/// Sends a signal to forge, and to nobody else.
pub(crate) fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits for the end of a child, which must come within [`PATIENCE`].
pub(crate) fn wait(mut child: Child) -> Ended {
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("forge did not end");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let read = |pipe: Option<&mut dyn Read>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ended {
        code: status.code(),
        stdout: read(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read)),
        stderr: read(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read)),
    }
}

/// Arguments that are not UTF-8.
pub(crate) fn bytes(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
