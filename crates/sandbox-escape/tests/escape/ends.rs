//! What concerns the way a command ends, and a sandbox that does not begin: rows 32 and 56 to 58.
//! These are promises of the program around the layers, so their controls are plain children.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forge_domain::{
    CommandExit, CommandIo, CommandRequest, Commands, Ending, Lifecycle, OutputStream, Program,
};
use forge_infra_sandbox::{HelperProgram, SandboxConfig};
use libtest_mimic::{Failed, Trial as Test};

use crate::stage::Stage;
use crate::trial::marked;

const MIB: u64 = 1024 * 1024;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::test("ends::a_spinning_command_ends_at_its_time_limit", spin),
        Test::test("ends::a_child_that_holds_stdout_does_not_hold_the_command", held_stdout),
        Test::test("ends::output_without_end_does_not_fill_memory", flood),
        Test::test("ends::nothing_runs_where_the_sandbox_does_not_start", no_start),
    ]
}

fn config(stage: &Stage) -> SandboxConfig {
    SandboxConfig::new(stage.state())
}

fn run(
    stage: &Stage,
    config: SandboxConfig,
    words: &[&str],
    limit: Duration,
) -> Result<CommandExit, String> {
    let words = [&[words[0], &stage.token], &words[1..]].concat();
    let request = CommandRequest::new(Program::argv(stage.project().join("attempt"), words))
        .time_limit(limit)
        .termination_grace(Duration::from_millis(100));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let environment = stage.environment(config);
        let exit = environment.run(request, CommandIo::detached()).await;
        environment.close().await.unwrap();
        exit.map_err(|error| error.to_string())
    })
}

fn verify(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn spin() -> Result<(), Failed> {
    let stage = Stage::new();
    let exit = run(&stage, config(&stage), &["spin"], Duration::from_secs(1))?;
    verify(matches!(exit.ending, Ending::TimedOut { .. }), &format!("{:?}", exit.ending))?;
    verify(marked(&stage.token).is_empty(), "a process is left")
}

fn held_stdout() -> Result<(), Failed> {
    let stage = Stage::new();
    // The control: the pipe of a plain child is still held after its end.
    let mut child = Command::new(stage.program())
        .args(["outlive", &stage.token])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    child.wait()?;
    let mut pipe = child.stdout.take().unwrap();
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let mut text = Vec::new();
    let held = pipe.read_to_end(&mut text);
    for pid in marked(&stage.token) {
        crate::host::kill(pid);
    }
    let kind = held.err().map(|error| error.kind());
    verify(kind == Some(std::io::ErrorKind::WouldBlock), "the control's pipe was not held")?;

    let begun = Instant::now();
    let exit = run(&stage, config(&stage), &["outlive"], Duration::from_secs(60))?;
    verify(exit.ending == Ending::Exited(0), &format!("{:?}", exit.ending))?;
    // The child would have held it for fifteen seconds.
    verify(begun.elapsed() < Duration::from_secs(12), "the command was held by its child")?;
    verify(marked(&stage.token).is_empty(), "a process is left")
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn flood() -> Result<(), Failed> {
    let stage = Stage::new();
    let before = resident();
    let exit = run(&stage, config(&stage), &["flood", "256"], Duration::from_secs(120))?;
    let grown = resident().saturating_sub(before);
    verify(exit.output.total_bytes(OutputStream::Stdout) >= 256 * MIB, "output was lost")?;
    verify(grown < 64 * MIB, &format!("the memory grew by {grown} bytes"))
}

fn no_start() -> Result<(), Failed> {
    let stage = Stage::new();
    let written = stage.project().join("written");
    let words = ["write", "text", "written"];
    let limit = Duration::from_secs(30);
    let none = forge_infra_sandbox::Layers::NONE;
    // The control: with a helper it is written.
    run(&stage, config(&stage).layers(none), &words, limit)?;
    verify(written.exists(), "the control wrote nothing")?;
    std::fs::remove_file(&written)?;

    for helper in ["/bin/false", "/bin/true", "/nonexistent"] {
        let config = config(&stage).helper(HelperProgram::Path(helper.into()));
        for layers in [forge_infra_sandbox::Layers::ALL, none] {
            let outcome = run(&stage, config.clone().layers(layers), &words, limit);
            verify(outcome.is_err(), "a command ran without a sandbox")?;
            verify(!written.exists(), "a command wrote without a sandbox")?;
        }
    }
    Ok(())
}
