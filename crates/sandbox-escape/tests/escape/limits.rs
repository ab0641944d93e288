//! Attempts to use up the machine: rows 29 to 31.

use std::fs;
use std::path::{Path, PathBuf};

use forge_domain::{Describe, Lifecycle, Limit};
use forge_infra_sandbox::{Layers, SandboxConfig, SandboxLimits};

use crate::attempt::Attempt;
use crate::stage::Stage;
use crate::trial::{Scene, Trial};

const MIB: u64 = 1024 * 1024;

/// What the attempts on memory are allowed. Small against any machine that runs these tests.
const MEMORY: u64 = 256 * MIB;

fn limited(trial: Trial, limits: SandboxLimits) -> Trial {
    trial.configured(move |config| config.limits(limits))
}

fn limits() -> SandboxLimits {
    SandboxLimits::default()
}

/// A file of this name, in the workspace or in the upper layer, is longer than that.
fn longer(stage: &Stage, name: &'static str, bytes: u64) -> impl FnMut(&Scene) -> bool + use<> {
    let host = stage.project().join(name);
    move |scene| {
        let mut places = scene.in_state(name);
        places.push(host.clone());
        places.iter().any(|path| path.metadata().is_ok_and(|found| found.len() > bytes))
    }
}

/// What the files beneath a directory hold.
fn total(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => total(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// A directory or a file that is removed with this.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0)));
    }
}

const WITHOUT: Layers = Layers::ALL.without_limits();

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = processes();
    attempts.extend(disk());
    attempts
}

fn processes() -> Vec<Attempt> {
    vec![
        Attempt::new("fork_bomb", "29", |stage| {
            let trial = stage.trial("fork-bomb", ["450"]);
            limited(trial, limits().processes(320)).judged(|scene| scene.pids.len() > 330)
        })
        .control(WITHOUT)
        .heavy(),
        Attempt::new("memory_bomb", "30", |stage| {
            let trial = stage.trial("memory-bomb", ["8", "64"]);
            limited(trial, limits().memory_bytes(MEMORY)).judged(|scene| {
                let statuses = scene.told("status").into_iter();
                let resident = statuses.filter_map(|status| {
                    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
                    line.split_whitespace().next()?.parse::<u64>().ok()
                });
                resident.sum::<u64>() * 1024 > MEMORY + 64 * MIB
            })
        })
        .control(WITHOUT)
        .allowed_inside()
        .unless(lacks_memory_limit)
        .heavy(),
        Attempt::new("open_many_files", "33", |stage| {
            let trial = stage.trial("open-files", ["1000"]);
            limited(trial, limits().open_files(256)).judged(|scene| {
                let count =
                    |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                scene.pids.iter().any(|pid| count(*pid) > 300)
            })
        })
        .control(WITHOUT)
        .allowed_inside(),
        // The kernel counts them for the user as a whole, whatever the namespace.
        Attempt::new("use_up_the_watches_of_the_user", "own", |stage| {
            stage.trial("exhaust-watches", [""; 0]).judged(|scene| {
                use rustix::fs::inotify;
                !scene.pids.is_empty() && inotify::init(inotify::CreateFlags::CLOEXEC).is_err()
            })
        })
        .allowed_inside()
        // Root's are what the machine's own services use.
        .user_only()
        .heavy(),
        Attempt::new("dump_the_memory", "own", |stage| {
            stage.trial("crash", [""; 0]).judged(|scene| {
                let mut waiting = vec![scene.state.clone()];
                let mut found = false;
                while let Some(directory) = waiting.pop() {
                    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                            waiting.push(entry.path());
                        } else {
                            found |= entry.file_name().to_string_lossy().starts_with("core");
                        }
                    }
                }
                found
            })
        })
        .control(WITHOUT)
        .unless(|| {
            let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
            let hard = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
            (!pattern.starts_with("core") || hard == Some(0)).then_some("no memory dumps here")
        }),
    ]
}

fn disk() -> Vec<Attempt> {
    vec![
        Attempt::new("write_a_large_file", "31", |stage| {
            let judge = longer(stage, "large", 9 * MIB);
            let trial = stage.trial("large-file", ["large", "24"]).judged(judge);
            limited(trial, limits().file_bytes(8 * MIB))
        })
        .control(WITHOUT)
        .heavy(),
        Attempt::new("make_a_sparse_file", "31", |stage| {
            let judge = longer(stage, "sparse", 9 * MIB);
            let trial = stage.trial("sparse-file", ["sparse", "100000"]).judged(judge);
            limited(trial, limits().file_bytes(8 * MIB))
        })
        .control(WITHOUT)
        .heavy(),
        Attempt::new("fill_the_disk", "31", |stage| {
            // The quota is looked at every second: what was written until then is more than it.
            let host = stage.project().join("many");
            let trial = stage
                .trial("many-files", ["many", "120", "2"])
                .judged(move |scene| total(&scene.state).max(total(&host)) > 200 * MIB);
            limited(trial, limits().disk_bytes(16 * MIB))
        })
        .control(WITHOUT)
        .heavy(),
        Attempt::new("fill_the_temporary_directory", "31", |stage| {
            let path = format!("/tmp/{}-large", stage.token);
            let removed = Removed(path.clone().into());
            let trial = stage.trial("fill-directory", [path.clone(), "160".into()]);
            limited(trial, limits().memory_bytes(MEMORY)).judged(move |_| {
                let _removed = &removed;
                fs::metadata(&path).is_ok_and(|found| found.len() >= 160 * MIB)
            })
        })
        .heavy(),
        Attempt::new("use_up_the_inodes", "31", |stage| {
            let path = format!("/tmp/{}-many", stage.token);
            let removed = Removed(path.clone().into());
            let trial = stage.trial("many-files", [path.clone(), "40000".into(), "0".into()]);
            limited(trial, limits().memory_bytes(MEMORY)).judged(move |scene| {
                let _removed = &removed;
                !scene.output.is_empty()
                    && fs::read_dir(&path).is_ok_and(|entries| entries.count() >= 40_000)
            })
        })
        .heavy(),
    ]
}

/// Memory is bounded only where groups of processes can be made: a known gap, said in the banner.
fn lacks_memory_limit() -> Option<&'static str> {
    let stage = Stage::new();
    let environment = stage.environment(SandboxConfig::new(stage.state()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = runtime.block_on(async {
        let description = environment.describe().await.unwrap();
        environment.close().await.unwrap();
        description.limits.iter().any(|limit| matches!(limit, Limit::MemoryBytes(_)))
    });
    (!bounded).then_some("no group that bounds memory: a known gap")
}
