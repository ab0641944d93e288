//! What people do all day, in the sandbox, with the host's own tools.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use forge_domain::{
    BackgroundCommands, Changes, CommandIo, CommandRequest, Commands, Ending, Lifecycle,
    OutputLimits, OutputOffset, OutputStream, Program, WorkspaceLocation,
};
use forge_infra_sandbox::{HelperProgram, SandboxConfig, SandboxEnvironment, TOOLCHAIN_VARIABLES};
use pretty_assertions::assert_eq;
use tempfile::TempDir;

/// A project and a state directory.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["project", "state"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    fn write(&self, path: &str, contents: &str) {
        let path = self.project().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn environment_at(&self, root: PathBuf, working_directory: PathBuf) -> SandboxEnvironment {
        let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
        let mut config = SandboxConfig::new(self.root().join("state"))
            .helper(helper)
            .toolchain_variables(toolchains());
        config.home = home();
        SandboxEnvironment::new(config, WorkspaceLocation { root, working_directory })
    }

    fn environment(&self) -> SandboxEnvironment {
        self.environment_at(self.project(), self.project())
    }
}

/// The tools of whoever runs the tests.
#[expect(clippy::disallowed_methods, reason = "the tests use the toolchains of who runs them")]
fn toolchains() -> Vec<(OsString, OsString)> {
    let wanted = |name: &OsString| TOOLCHAIN_VARIABLES.iter().any(|known| name == known);
    std::env::vars_os().filter(|(name, _)| wanted(name)).collect()
}

#[expect(clippy::disallowed_methods, reason = "the tests use the toolchains of who runs them")]
fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// Runs a script, which has to succeed; what it printed.
async fn shell(environment: &SandboxEnvironment, script: &str) -> String {
    let request = CommandRequest::new(Program::shell(format!("set -e\n{script}")))
        .time_limit(Duration::from_secs(300))
        .output_limits(OutputLimits::head_and_tail(1024 * 1024));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
    assert_eq!(exit.ending, Ending::Exited(0), "{output}");
    String::from_utf8_lossy(&exit.output.of(OutputStream::Stdout)).into_owned()
}

async fn changed(environment: &SandboxEnvironment) -> Vec<String> {
    let changes = environment.changes().await.unwrap().changes;
    changes.into_iter().map(|change| change.path.display().to_string()).collect()
}

/// Nothing of the host's project has changed, whatever the test did.
fn untouched(place: &Place, expected: &[&str]) {
    let mut names: Vec<String> = fs::read_dir(place.project())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, expected);
}

const AUTHOR: &str = "export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=user.name \
                      GIT_CONFIG_VALUE_0=A GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=a@b.c;";

#[tokio::test]
async fn git_keeps_a_history_and_rewrites_it() {
    let place = Place::new();
    let environment = place.environment();
    let script = format!(
        "{AUTHOR} git init -q -b main . && echo 1 >a && git add a && git commit -qm one
         git switch -qc topic && echo 2 >b && git add b && git commit -qm two
         git switch -q main && echo 3 >c && git add c && git commit -qm three
         git switch -q topic && git rebase -q main && git log --format=%s && git status --short"
    );
    assert_eq!(shell(&environment, &script).await, "two\nthree\none\n");
    assert_eq!(changed(&environment).await, ["a", "b", "c"]);
    environment.close().await.unwrap();
    untouched(&place, &[]);
}

#[tokio::test]
async fn cargo_builds_and_tests_a_crate() {
    let place = Place::new();
    place.write(
        "Cargo.toml",
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    );
    place.write(
        "src/lib.rs",
        "pub fn two() -> u8 { 2 }\n#[test]\nfn it_is() { assert_eq!(two(), 2) }\n",
    );
    place.write(".gitignore", "/target\n");
    let environment = place.environment();
    let script = "cargo build --offline -q && cargo test --offline 2>&1 | grep '^test result'";
    let output = shell(&environment, script).await;
    assert!(output.contains("test result: ok. 1 passed"), "{output}");
    assert_eq!(changed(&environment).await, ["Cargo.lock"]);
    environment.close().await.unwrap();
    untouched(&place, &[".gitignore", "Cargo.toml", "src"]);
}

#[tokio::test]
async fn npm_installs_a_tarball_and_the_next_session_tests_with_it() {
    let place = Place::new();
    place.write("dep/package.json", "{\"name\":\"dep\",\"version\":\"1.0.0\",\"main\":\"i.js\"}");
    place.write("dep/i.js", "module.exports = 42;");
    place.write(
        "package.json",
        "{\"name\":\"p\",\"version\":\"1.0.0\",\"scripts\":{\"test\":\"node t.js\"},\
         \"dependencies\":{\"dep\":\"file:dep-1.0.0.tgz\"}}",
    );
    place.write("t.js", "if (require('dep') !== 42) process.exit(1); console.log('passed');");
    let first = place.environment();
    shell(&first, "npm pack --silent ./dep && npm install --offline --no-audit --no-fund").await;
    first.close().await.unwrap();
    let second = place.environment();
    assert!(shell(&second, "npm test --silent").await.contains("passed"));
    second.close().await.unwrap();
    untouched(&place, &["dep", "package.json", "t.js"]);
}

#[tokio::test]
async fn a_server_in_the_background_is_reached_by_other_commands() {
    let place = Place::new();
    place.write("page.txt", "served\n");
    let environment = place.environment();
    let server = CommandRequest::new(Program::shell(
        "exec python3 -u -m http.server 8123 --bind 127.0.0.1 2>&1",
    ));
    let id = environment.start(server).await.unwrap();
    let script = "for i in $(seq 100); do
                    curl -sf http://127.0.0.1:8123/page.txt && exit 0; sleep 0.1
                  done; exit 1";
    assert_eq!(shell(&environment, script).await, "served\n");
    let status = environment.stop(&id, OutputOffset(0)).await.unwrap();
    assert!(status.ending.is_some());
    environment.close().await.unwrap();
}

#[tokio::test]
async fn python_works_in_several_processes() {
    let place = Place::new();
    let script = "import multiprocessing as m\n\
                  def square(n): return n * n\n\
                  if __name__ == '__main__':\n\
                  \x20   with m.Pool(4) as pool: print(sum(pool.map(square, range(100))))\n\
                  \x20   q = m.Queue(); q.put('queued'); print(q.get())\n\
                  \x20   l = m.Lock(); l.acquire(); l.release()\n";
    place.write("pool.py", script);
    let environment = place.environment();
    assert_eq!(shell(&environment, "python3 pool.py").await, "328350\nqueued\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn make_works_in_parallel() {
    let place = Place::new();
    let makefile = "all: $(addprefix out/,$(shell seq 40))\nout/%:\n\t@mkdir -p out; echo $* >$@\n";
    place.write("Makefile", makefile);
    let environment = place.environment();
    assert_eq!(shell(&environment, "make -j8 && ls out | wc -l").await, "40\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_files_are_made_found_and_removed() {
    let place = Place::new();
    let environment = place.environment();
    shell(&environment, "mkdir d; cd d; seq 10000 | xargs touch").await;
    assert_eq!(changed(&environment).await.len(), 10_000);
    assert_eq!(shell(&environment, "ls d | wc -l; rm -r d; ls").await, "10000\n");
    assert_eq!(changed(&environment).await, Vec::<String>::new());
    environment.close().await.unwrap();
}

#[tokio::test]
async fn names_may_be_anything() {
    let place = Place::new();
    let odd = std::ffi::OsStr::new("with space\nand newline");
    fs::write(place.project().join(odd), "1").unwrap();
    let environment = place.environment();
    let script = "for f in *; do mv \"$f\" \"$f.moved\"; done; printf x >\"$(printf 'b\\377ad')\"";
    shell(&environment, script).await;
    let changes = environment.changes().await.unwrap().changes;
    assert_eq!(changes.len(), 3, "{changes:?}");
    let raw = changes.iter().any(|change| change.path.as_os_str().as_encoded_bytes() == b"b\xffad");
    assert!(raw, "{changes:?}");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_of_the_lower_layer_is_moved_by_mv_and_not_by_rename() {
    let place = Place::new();
    place.write("dir/file", "x");
    let environment = place.environment();
    let script = "python3 -c 'import os; os.rename(\"dir\", \"other\")' 2>&1 | tail -1 | cut -c1-13
                  mv dir moved; cat moved/file; ls";
    assert_eq!(shell(&environment, script).await, "OSError: [Err\nxmoved\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_linked_worktree_commits_into_the_session() {
    let place = Place::new();
    let environment = place.environment_at(place.root().join("tree"), place.root().join("tree"));
    // Made on the host, by another sandbox that may write there.
    let git = |arguments: &str| {
        let script = format!("{AUTHOR} {arguments}");
        let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success());
    };
    let (main, tree) = (place.project(), place.root().join("tree"));
    git(&format!(
        "git init -q -b main {0} && cd {0} && echo 1 >a && git add a && git commit -qm one && \
         git worktree add -q -b topic {1}",
        main.display(),
        tree.display()
    ));
    let head = fs::read_to_string(main.join(".git/refs/heads/topic")).unwrap();
    let script = format!("{AUTHOR} echo 2 >b; git add b; git commit -qm two; git log --format=%s");
    assert_eq!(shell(&environment, &script).await, "two\none\n");
    environment.close().await.unwrap();
    assert_eq!(fs::read_to_string(main.join(".git/refs/heads/topic")).unwrap(), head);
    let again = place.environment_at(tree.clone(), tree);
    assert_eq!(shell(&again, "git log --format=%s").await, "two\none\n");
    again.close().await.unwrap();
}

#[tokio::test]
async fn a_command_begins_in_its_directory_of_a_monorepo() {
    let place = Place::new();
    place.write("packages/one/file", "here\n");
    let one = place.project().join("packages/one");
    let environment = place.environment_at(place.project(), one.clone());
    let output = shell(&environment, "pwd; cat file; echo x >../../top").await;
    assert_eq!(output, format!("{}\nhere\n", one.display()));
    assert_eq!(changed(&environment).await, ["top"]);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_mount_in_the_workspace_is_refused_by_name() {
    let place = Place::new();
    // Every Linux has something mounted beneath this.
    let environment = place.environment_at(PathBuf::from("/dev"), PathBuf::from("/dev"));
    let error = environment.prepare().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("another file system is mounted in the workspace, at /dev/"), "{text}");
}

#[tokio::test]
async fn a_file_beyond_its_limit_ends_the_command_and_says_so() {
    let place = Place::new();
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let limits = forge_infra_sandbox::SandboxLimits::default().file_bytes(1024 * 1024);
    let config = SandboxConfig::new(place.root().join("state")).helper(helper).limits(limits);
    let root = place.project();
    let location = WorkspaceLocation { root: root.clone(), working_directory: root };
    let environment = SandboxEnvironment::new(config, location);
    let request =
        CommandRequest::new(Program::argv("dd", ["if=/dev/zero", "of=f", "bs=1M", "count=4"]));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert_eq!(exit.ending, Ending::LimitExceeded(forge_domain::Resource::FileSize));
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_session_that_fills_its_space_is_stopped_and_says_so() {
    let place = Place::new();
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let limits = forge_infra_sandbox::SandboxLimits::default().disk_bytes(8 * 1024 * 1024);
    let config = SandboxConfig::new(place.root().join("state")).helper(helper).limits(limits);
    let root = place.project();
    let location = WorkspaceLocation { root: root.clone(), working_directory: root };
    let environment = SandboxEnvironment::new(config, location);
    let script = "i=0; while [ $i -lt 600 ]; do dd if=/dev/zero of=f$i bs=1M count=1 2>/dev/null; \
                  sleep 0.1; i=$((i+1)); done";
    let request = CommandRequest::new(Program::shell(script));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert_eq!(exit.ending, Ending::LimitExceeded(forge_domain::Resource::Disk));
    environment.close().await.unwrap();
}

#[tokio::test]
async fn where_memory_runs_out_a_command_is_ended_before_anything_of_the_users() {
    let place = Place::new();
    let environment = place.environment();
    // The first and the second are started differently.
    for _ in 0..3 {
        assert_eq!(shell(&environment, "cat /proc/self/oom_score_adj").await, "1000\n");
    }
    environment.close().await.unwrap();
}

#[tokio::test]
async fn commands_of_one_session_hold_nothing_of_each_others() {
    let place = Place::new();
    let environment = place.environment();
    for _ in 0..4 {
        // The shell itself counts: the programs of a pipe would start while they are counted.
        let seen =
            shell(&environment, "ls /proc/self/fd | wc -l; set -- /proc/[0-9]*; echo $#").await;
        // Three streams and what `ls` reads; the keeper and the shell.
        assert_eq!(seen, "4\n2\n");
    }
    environment.close().await.unwrap();
}
