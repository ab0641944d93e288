//! What ends when things are dropped, on any runtime and outside of one.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forge_domain::{
    BackgroundCommands, CommandIo, CommandRequest, Commands, Describe, EnvironmentVariable,
    Program, VariableName, WorkspaceLocation,
};
use forge_infra_local::{LocalConfig, LocalEnvironment};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

fn environment(directory: &TempDir) -> LocalEnvironment {
    let root = directory.path().canonicalize().unwrap();
    let path = EnvironmentVariable::new(VariableName::parse("PATH").unwrap(), "/usr/bin:/bin");
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    LocalEnvironment::new(LocalConfig::new(workspace).environment(vec![path.unwrap()]))
}

fn ticking() -> CommandRequest {
    let text = "trap '' TERM; while :; do printf x >>ticks; sleep 0.02; done";
    CommandRequest::new(Program::shell(text))
}

fn ticks(directory: &TempDir) -> PathBuf {
    directory.path().join("ticks")
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Outside of a runtime, or beside one that does not run: only the kernel can have ended it.
fn stops_growing(path: &Path) {
    let begin = Instant::now();
    loop {
        let before = size(path);
        std::thread::sleep(Duration::from_secs(1));
        if size(path) == before {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it goes on");
    }
}

async fn begun(path: &Path) {
    let begin = Instant::now();
    while size(path) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "it did not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_dropped_command_ends_on_a_runtime_that_does_not_run_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment(&directory);
    let runtime = current_thread();
    runtime.block_on(async {
        let path = ticks(&directory);
        let command = environment.run(ticking(), CommandIo::detached());
        tokio::select! {
            exit = command => panic!("it ended by itself: {exit:?}"),
            () = begun(&path) => {}
        }
    });
    stops_growing(&ticks(&directory));
}

#[test]
fn a_background_command_ends_with_its_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment(&directory);
    let runtime = current_thread();
    runtime.block_on(async {
        environment.start(ticking()).await.unwrap();
        begun(&ticks(&directory)).await;
    });
    drop(runtime);
    stops_growing(&ticks(&directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_command_ends_with_the_last_clone() {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment(&directory);
    environment.start(ticking()).await.unwrap();
    begun(&ticks(&directory)).await;
    drop(environment.clone());
    drop(environment);
    let path = ticks(&directory);
    tokio::task::spawn_blocking(move || stops_growing(&path)).await.unwrap();
}

#[test]
fn the_scratch_directory_goes_with_the_last_clone_outside_of_any_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment(&directory);
    let scratch = current_thread().block_on(environment.describe()).unwrap().scratch;
    assert!(scratch.is_dir());
    drop(environment);
    assert!(!scratch.exists());
}
