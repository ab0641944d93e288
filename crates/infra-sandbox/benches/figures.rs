//! What a command in a live session takes, beside the same command started on the host, and what an idle
//! session holds: interleaved in one run, so that the ratio means something on a busy machine.
//!
//! `cargo bench -p forge-infra-sandbox`

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that prints its figures")]

use std::process::Command;
use std::time::{Duration, Instant};

use forge_domain::{
    CommandIo, CommandRequest, Commands, Lifecycle, OutputLimits, Program, WorkspaceLocation,
};
use forge_infra_sandbox::{HelperProgram, SandboxConfig, SandboxEnvironment};

const ROUNDS: usize = 400;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (project, state) = (root.join("project"), root.join("state"));
    std::fs::create_dir(&project).unwrap();
    let location = WorkspaceLocation { root: project.clone(), working_directory: project };
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let environment = SandboxEnvironment::new(SandboxConfig::new(state).helper(helper), location);
    let begin = Instant::now();
    environment.prepare().await.unwrap();
    println!("start of a session        {:>8.2} ms", ms(begin.elapsed()));

    let (mut host, mut sandbox) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        Command::new("/usr/bin/true").status().unwrap();
        host.push(begin.elapsed());
        let begin = Instant::now();
        let request = CommandRequest::new(Program::argv("/usr/bin/true", [] as [&str; 0]))
            .output_limits(OutputLimits::NOTHING);
        environment.run(request, CommandIo::detached()).await.unwrap();
        sandbox.push(begin.elapsed());
    }
    let (host, sandbox) = (median(host), median(sandbox));
    println!("posix_spawn on the host   {:>8.3} ms", ms(host));
    println!("a command in the session  {:>8.3} ms", ms(sandbox));
    println!("ratio                     {:>8.2}", sandbox.as_secs_f64() / host.as_secs_f64());
    println!("idle session, private dirty {:>5} KiB", private_dirty());
    environment.close().await.unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Of the helper's processes: those that were started with its argument.
fn private_dirty() -> u64 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let helpers = processes.map(|process| process.path()).filter(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.windows(14).any(|part| part == b"__sandbox-init")
    });
    let dirty = helpers.map(|path| {
        let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
    });
    dirty.sum::<u64>()
}
