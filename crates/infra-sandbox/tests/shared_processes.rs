//! Commands that see each other's processes, as on a machine of their own.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_domain::{
    CommandExit, CommandIo, CommandRequest, Commands, Ending, Lifecycle, OutputLimits, Program,
    Signal, WorkspaceLocation,
};
use forge_infra_sandbox::{
    HelperProgram, ProcessView, SandboxConfig, SandboxEnvironment, SandboxView, SessionChoice,
    StartedInput,
};
use pretty_assertions::assert_eq;

fn environment(state: &Path) -> SandboxEnvironment {
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let config = SandboxConfig::new(state)
        .helper(helper)
        .view(SandboxView::WholeRoot)
        .processes(ProcessView::Shared)
        .session(SessionChoice::Fresh);
    let root = PathBuf::from("/");
    SandboxEnvironment::new(config, WorkspaceLocation { working_directory: root.clone(), root })
}

fn request(script: &str) -> CommandRequest {
    CommandRequest::new(Program::shell(script))
        .time_limit(Duration::from_secs(60))
        .output_limits(OutputLimits::head_and_tail(1024 * 1024))
}

async fn shell(environment: &SandboxEnvironment, script: &str) -> CommandExit {
    environment.run(request(script), CommandIo::detached()).await.unwrap()
}

fn text(exit: &CommandExit) -> String {
    String::from_utf8_lossy(&exit.output.interleaved()).into_owned()
}

#[tokio::test]
async fn a_command_is_seen_and_signalled_by_another_under_the_number_that_was_told() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let first = request("sleep 60");
    let started = environment.start_command(&first, StartedInput::Nothing).await.unwrap();
    let pid = started.pid();
    let follow = tokio::spawn(started.follow(CommandIo::detached()));
    let seen = shell(
        &environment,
        &format!("tr '\\0' ' ' </proc/{pid}/cmdline; cat /proc/{pid}/environ | tr '\\0' '\\n' | grep -c HOME; kill -s TERM -- -{pid}"),
    )
    .await;
    assert_eq!(
        (seen.ending.clone(), text(&seen)),
        (Ending::Exited(0), "/bin/sh -c sleep 60 1\n".to_owned())
    );
    let exit = follow.await.unwrap().unwrap();
    assert_eq!(exit.ending, Ending::Signalled(Signal::TERM));
    environment.close().await.unwrap();
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let left = "for n in 1 2 3 4 5; do setsid sh -c 'sleep 4321 & sleep 4321' & done
                (setsid sh -c 'sh -c \"sleep 4321\" &' &)
                sleep 0.2";
    assert_eq!(shell(&environment, left).await.ending, Ending::Exited(0));
    let count = "grep -lsa '^sleep.4321' /proc/[0-9]*/cmdline | wc -l";
    assert_eq!(text(&shell(&environment, count).await), "0\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_time_limit_ends_children_that_ignore_signals() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let request = request("trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 4322' & sleep 4322")
        .time_limit(Duration::from_millis(300))
        .termination_grace(Duration::from_millis(100));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert!(matches!(exit.ending, Ending::TimedOut { .. }), "{:?}", exit.ending);
    let count = "grep -lsa '^sleep.4322' /proc/[0-9]*/cmdline | wc -l";
    assert_eq!(text(&shell(&environment, count).await), "0\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_command_that_forks_without_end_is_ended_by_its_limit() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let request = request(
        "f() { setsid sh -c 'sleep 0.01; sleep 4323' & }; while :; do f; sleep 0.002; done",
    )
    .time_limit(Duration::from_millis(500))
    .termination_grace(Duration::ZERO);
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert!(matches!(exit.ending, Ending::TimedOut { .. }), "{:?}", exit.ending);
    let count = "grep -lsa '^sleep.4323' /proc/[0-9]*/cmdline | wc -l";
    assert_eq!(text(&shell(&environment, count).await), "0\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_keeper_that_is_killed_takes_its_command_along_and_the_session_goes_on() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    // It has to have told of the start.
    let exit = shell(&environment, "sleep 0.3; kill -s KILL $PPID; sleep 4324").await;
    assert_eq!(exit.ending, Ending::Unknown);
    let count = "sleep 0.2; grep -lsa 'sleep.4324' /proc/[0-9]*/cmdline | wc -l";
    // The counting shell has the word in its own command line, and `grep` as well.
    let count = count.replace("'sleep.4324'", "'^sleep.4324'");
    assert_eq!(text(&shell(&environment, &count).await), "0\n");
    assert_eq!(text(&shell(&environment, "echo on").await), "on\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn the_sessions_own_processes_cannot_be_looked_into() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let script = "for file in /proc/1/environ /proc/1/mem /proc/$PPID/mem /proc/$PPID/maps; do
                      if cat $file >/dev/null 2>&1; then echo open: $file; fi
                  done
                  for file in /proc/1/fd/* /proc/$PPID/fd/* /proc/1/cwd /proc/$PPID/exe; do
                      readlink $file
                  done
                  kill -s KILL 1; kill -s STOP 1; echo on
                  echo x > /proc/sys/kernel/core_pattern || true";
    let exit = shell(&environment, script).await;
    let stdout = exit.output.of(forge_domain::OutputStream::Stdout);
    assert_eq!(String::from_utf8_lossy(&stdout), "on\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_shell_that_starts_programs_without_pause_stands_still_when_it_is_told_to() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path());
    let busy = request("while :; do /bin/true; done");
    let mut running = Vec::new();
    for _ in 0..3 {
        let started = environment.start_command(&busy, StartedInput::Nothing).await.unwrap();
        running.push(tokio::spawn(started.follow(CommandIo::detached())));
    }
    for _ in 0..60 {
        // One that is stopped on its way to its program keeps its parent in the kernel.
        environment.freeze().await.unwrap();
        environment.thaw().await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert_eq!(text(&shell(&environment, "echo on").await), "on\n");
    environment.close().await.unwrap();
    for one in running {
        assert!(one.await.unwrap().is_ok());
    }
}
