//! The figures of `forge` as a process: start-up, one command, a session of 50 calls, a gigabyte.
//!
//!     cargo bench --package forge-cli
//!
//! What is compared runs interleaved within one run, so that a noisy machine is noisy for both, and the
//! median of [`RUNS`] is shown. Peak memory is `ru_maxrss` of wait4(2), which counts this program's own
//! few mebibytes at the moment of the start as a floor.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]
#![expect(clippy::disallowed_methods, reason = "a measurement starts what it measures")]
#![expect(clippy::print_stdout, reason = "the figures are for a person")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forge_scripted_model::{Script, ScriptedModel};
use wait4::Wait4;

const FORGE: &str = env!("CARGO_BIN_EXE_forge");
const RUNS: usize = 21;
const GIGABYTE_RUNS: usize = 3;
const CALLS: usize = 50;
const SERVE: &str = "serve-the-script";

fn main() {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return serve();
    }
    let scratch = tempfile::tempdir().unwrap();
    // The state directory must not be within the workspace.
    for directory in ["home", "project"] {
        std::fs::create_dir(scratch.path().join(directory)).unwrap();
    }
    println!("medians of {RUNS} runs; forge is {:.1} MiB", megabytes(size(FORGE)));
    one_command(scratch.path());
    session(scratch.path());
    gigabyte(scratch.path());
}

fn size(path: &str) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    peak_bytes: u64,
}

/// Runs a program to its end, reading away what it prints.
fn measure(command: &mut Command) -> Cost {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 256 * 1024];
    while stdout.read(&mut buffer).unwrap() > 0 {}
    let ended = child.wait4().unwrap();
    let time = began.elapsed();
    assert!(ended.status.success(), "{command:?} ended with {}", ended.status);
    Cost { time, peak_bytes: ended.rusage.maxrss }
}

fn forge(scratch: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(FORGE);
    command
        .args(arguments)
        .current_dir(scratch.join("project"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", scratch.join("home"))
        .stderr(Stdio::null());
    command
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by_key(|cost| cost.time);
    let time = costs[costs.len() / 2].time;
    let peak_bytes = costs.iter().map(|cost| cost.peak_bytes).max().unwrap_or_default();
    Cost { time, peak_bytes }
}

fn show(what: &str, cost: Cost) {
    let ms = cost.time.as_secs_f64() * 1000.0;
    println!("{what:<44} {ms:>9.2} ms   peak {:>6.1} MiB", megabytes(cost.peak_bytes));
}

fn one_command(scratch: &Path) {
    let (mut version, mut exec, mut shell) = (Vec::new(), Vec::new(), Vec::new());
    let mut isolated = Vec::new();
    for _ in 0..RUNS {
        version.push(measure(&mut forge(scratch, ["--version"])));
        exec.push(measure(&mut forge(scratch, ["--local", "exec", "--", "true"])));
        isolated.push(measure(&mut forge(scratch, ["--sandbox", "exec", "--", "true"])));
        shell.push(measure(Command::new("sh").args(["-c", "true"])));
    }
    let (exec, shell) = (median(exec), median(shell));
    show("forge --version", median(version));
    show("forge --local exec -- true", exec);
    show("forge --sandbox exec -- true", median(isolated));
    show("sh -c true", shell);
    let ratio = exec.time.as_secs_f64() / shell.time.as_secs_f64();
    println!("{:<44} {ratio:>9.2} ×", "exec against sh");
}

fn session(scratch: &Path) {
    let server = Server::start();
    let one = |environment: &str| {
        let mut command = forge(scratch, [environment, "-p", "go", "-m", "openai/scripted"]);
        command.env("OPENAI_API_KEY", "x").env("OPENAI_BASE_URL", format!("{}/v1", server.url));
        measure(&mut command)
    };
    let (mut local, mut sandbox) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        local.push(one("--local"));
        sandbox.push(one("--sandbox"));
    }
    for (name, costs) in [("on this machine", local), ("in the sandbox", sandbox)] {
        let whole = median(costs);
        show(&format!("a session of 50 calls {name}, whole"), whole);
        let call = Cost { time: whole.time / CALLS as u32, ..whole };
        show(&format!("a session of 50 calls {name}, per call"), call);
    }
}

fn gigabyte(scratch: &Path) {
    println!("medians of {GIGABYTE_RUNS} runs:");
    for (what, script) in [
        ("exec of yes | head -c 1G", "yes | head -c 1G"),
        ("exec of head -c 1G /dev/urandom", "head -c 1G /dev/urandom"),
    ] {
        let (mut forged, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..GIGABYTE_RUNS {
            forged.push(measure(&mut forge(scratch, ["--local", "exec", "-c", script])));
            plain.push(measure(Command::new("sh").args(["-c", script])));
        }
        show(what, median(forged));
        show("  the same by sh", median(plain));
    }
}

/// The scripted model in a process of its own, so that its memory is not this program's.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let own = std::env::current_exe().unwrap();
        let mut process = Command::new(own).arg(SERVE).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = ScriptedModel::start(Script::shell_commands(CALLS)).await.unwrap();
        println!("{}", server.base_url());
        server.serve().await;
    });
}
