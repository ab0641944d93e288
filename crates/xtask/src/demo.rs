//! The main job, shown without a key: `forge exec` and `forge -p` against a scripted model server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use thiserror::Error;

/// Why the demonstration did not go through.
#[derive(Debug, Error)]
pub(crate) enum DemoError {
    #[error("no scratch directory could be made")]
    Scratch(#[source] std::io::Error),
    #[error("{program} could not be started")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{step} ended with {status}")]
    Failed { step: String, status: ExitStatus },
    #[error("the scripted model server did not say where it listens")]
    NoAddress,
    #[error("what the commands should have written is not there")]
    Effect(#[source] std::io::Error),
    #[error("the commands wrote {actual:?} where {expected:?} was expected")]
    Unexpected { actual: String, expected: String },
}

const COMMANDS: usize = 5;

pub(crate) fn run() -> Result<(), DemoError> {
    let binaries = build()?;
    let scratch = tempfile::tempdir().map_err(DemoError::Scratch)?;
    let project = scratch.path().join("project");
    fs::create_dir(&project).map_err(DemoError::Scratch)?;
    let home = scratch.path().join("home");
    fs::create_dir(&home).map_err(DemoError::Scratch)?;

    println!("\n$ forge --local exec -c 'echo \"hello from $PWD\" > greeting && cat greeting'");
    let script = "echo \"hello from $PWD\" > greeting && cat greeting";
    forge(&binaries, &project, &home, &["--local", "exec", "-c", script], None)?;
    let greeting = fs::read_to_string(project.join("greeting")).map_err(DemoError::Effect)?;
    if !greeting.starts_with("hello from /") {
        return Err(DemoError::Unexpected { actual: greeting, expected: "hello from /…".into() });
    }

    println!("\n$ forge --local -p 'run the commands' -m openai/scripted");
    let server = Server::start(&binaries)?;
    let prompt = ["--local", "-p", "run the commands", "-m", "openai/scripted", "-v"];
    forge(&binaries, &project, &home, &prompt, Some(&server.url))?;

    println!("\nexec ran in {}, and the model drove {COMMANDS} commands there.", project.display());
    Ok(())
}

/// Builds with the profile of this very program, so that the demonstration costs one build.
fn build() -> Result<PathBuf, DemoError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--locked",
        "--package",
        "forge-cli",
        "--package",
        "forge-scripted-model",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    run_step("cargo build", &mut command)?;
    let own = std::env::current_exe()
        .map_err(|source| DemoError::Start { program: "xtask".into(), source })?;
    Ok(own.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn forge(
    binaries: &Path,
    project: &Path,
    home: &Path,
    arguments: &[&str],
    model: Option<&str>,
) -> Result<(), DemoError> {
    let mut command = Command::new(binaries.join("forge"));
    command
        .args(arguments)
        .current_dir(project)
        .stdin(Stdio::null())
        .env("HOME", home)
        .env_remove("FORGE_CONFIG")
        .env_remove("XDG_CONFIG_HOME")
        .env("FORGE_STATE_DIR", home.join("state"));
    if let Some(url) = model {
        command.env("OPENAI_API_KEY", "demonstration").env("OPENAI_BASE_URL", url);
    }
    run_step("forge", &mut command)
}

fn run_step(step: &str, command: &mut Command) -> Result<(), DemoError> {
    let status =
        command.status().map_err(|source| DemoError::Start { program: step.into(), source })?;
    if status.success() { Ok(()) } else { Err(DemoError::Failed { step: step.into(), status }) }
}

/// The scripted model server; ended when this goes out of scope.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(binaries: &Path) -> Result<Self, DemoError> {
        let program = "scripted-model";
        let mut process = Command::new(binaries.join(program))
            .args(["--shell-commands", &COMMANDS.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| DemoError::Start { program: program.into(), source })?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(DemoError::Scratch)?;
        }
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        match url.map(str::to_owned) {
            Some(url) => Ok(Self { process, url: format!("{}/v1", url.trim_end_matches('/')) }),
            None => {
                drop(process.kill());
                drop(process.wait());
                Err(DemoError::NoAddress)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
