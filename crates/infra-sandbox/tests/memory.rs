//! Sessions whose layers are in memory while they are used.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use forge_domain::{
    ChangeKind, Changes, CommandIo, CommandRequest, Commands, Ending, Lifecycle, OutputLimits,
    Program, SessionId, WorkspaceLocation,
};
use forge_infra_sandbox::{
    HelperProgram, SandboxConfig, SandboxEnvironment, SessionChoice, SessionMedium, SessionStore,
    WaitingCommits,
};
use pretty_assertions::assert_eq;
use tempfile::TempDir;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["project/old/deep", "state"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let place = Self { directory };
        for (path, contents) in
            [("kept", "one\n"), ("gone", "x"), ("old/a", "a"), ("old/deep/b", "b")]
        {
            fs::write(place.project().join(path), contents).unwrap();
        }
        place
    }

    fn project(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("project")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn environment(&self, session: SessionChoice) -> SandboxEnvironment {
        let config = SandboxConfig::new(self.state())
            .helper(helper())
            .session(session)
            .medium(SessionMedium::Memory);
        let root = self.project();
        SandboxEnvironment::new(config, WorkspaceLocation { working_directory: root.clone(), root })
    }

    /// What the session holds, as somebody else reads it.
    fn stored(&self, id: &SessionId) -> Vec<(String, ChangeKind)> {
        let layers = SessionStore::new(self.state()).helper(helper()).layers(id).unwrap();
        let changes = layers.changes().unwrap().changes.into_iter();
        changes.map(|change| (change.path.display().to_string(), change.kind)).collect()
    }
}

fn helper() -> HelperProgram {
    HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into())
}

async fn shell(environment: &SandboxEnvironment, script: &str) -> String {
    let request = CommandRequest::new(Program::shell(format!("set -e\n{script}")))
        .time_limit(Duration::from_secs(60))
        .output_limits(OutputLimits::head_and_tail(1024 * 1024));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
    assert_eq!(exit.ending, Ending::Exited(0), "{output}");
    output
}

/// Every kind of mark: a deleted file, an opaque directory, a directory that became a file.
const EDITS: &str =
    "echo two >> kept; rm gone; rm -r old; mkdir old; echo c > old/c; ln -s kept link
                     mkdir -p target; echo '/target/' > .gitignore; echo x > target/built";

fn edited() -> Vec<(String, ChangeKind)> {
    let changes = [
        (".gitignore", ChangeKind::Created),
        ("gone", ChangeKind::Deleted),
        ("kept", ChangeKind::Modified),
        ("link", ChangeKind::Created),
        ("old/a", ChangeKind::Deleted),
        ("old/c", ChangeKind::Created),
        ("old/deep/b", ChangeKind::Deleted),
    ];
    changes.map(|(path, kind)| (path.to_owned(), kind)).to_vec()
}

#[tokio::test]
async fn what_was_written_is_there_for_the_next_one() {
    let place = Place::new();
    let first = place.environment(SessionChoice::Fresh);
    shell(&first, EDITS).await;
    first.close().await.unwrap();
    let used = first.session().unwrap();
    assert_eq!(used.medium, SessionMedium::Memory);
    assert_eq!(used.kept.unwrap().changed_files, 7);
    assert_eq!(place.stored(&used.id), edited());

    let next = place.environment(SessionChoice::Continue);
    let seen = shell(&next, "cat kept link old/c target/built; ls; ls old").await;
    assert_eq!(seen, "one\ntwo\none\ntwo\nc\nx\nkept\nlink\nold\ntarget\nc\n");
    shell(&next, "echo d > old/d").await;
    next.close().await.unwrap();
    let used = next.session().unwrap();
    let mut expected = edited();
    expected.insert(6, ("old/d".to_owned(), ChangeKind::Created));
    assert_eq!(place.stored(&used.id), expected);
    assert_eq!(fs::read(place.project().join("kept")).unwrap(), b"one\n");
}

#[tokio::test]
async fn a_session_is_gone_on_with_whichever_medium_is_asked_for() {
    let place = Place::new();
    let first = place.environment(SessionChoice::Fresh);
    shell(&first, EDITS).await;
    first.close().await.unwrap();
    let config = SandboxConfig::new(place.state()).helper(helper());
    let root = place.project();
    let workspace = WorkspaceLocation { working_directory: root.clone(), root };
    let next = SandboxEnvironment::new(config, workspace);
    assert_eq!(shell(&next, "cat old/c").await, "c\n");
    next.close().await.unwrap();
    assert_eq!(place.stored(&first.session().unwrap().id), edited());
}

#[tokio::test]
async fn a_checkpoint_is_what_a_kill_leaves() {
    let place = Place::new();
    let environment = place.environment(SessionChoice::Fresh);
    shell(&environment, EDITS).await;
    let id = environment.session().unwrap().id;
    assert_eq!(place.stored(&id), []);
    environment.checkpoint().await.unwrap();
    assert_eq!(place.stored(&id), edited());
    shell(&environment, "echo lost > lost").await;
    // Without a close, as after a kill.
    drop(environment);
    assert_eq!(place.stored(&id), edited());
}

#[tokio::test]
async fn discarding_takes_what_was_written_down_with_it() {
    let place = Place::new();
    let environment = place.environment(SessionChoice::Fresh);
    shell(&environment, EDITS).await;
    environment.checkpoint().await.unwrap();
    environment.discard_changes().await.unwrap();
    assert_eq!(shell(&environment, "ls; ls old").await, "gone\nkept\nold\na\ndeep\n");
    environment.close().await.unwrap();
    assert_eq!(SessionStore::new(place.state()).list().unwrap().sessions, []);
}

#[tokio::test]
async fn commits_of_a_linked_worktree_are_kept() {
    let place = Place::new();
    let root = place.directory.path().canonicalize().unwrap();
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=e@x",
            "-c",
            "init.defaultBranch=main",
        ]);
        command.args(arguments).current_dir(&root);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        assert!(command.output().unwrap().status.success(), "{arguments:?}");
    };
    git(&["init", "-q", "main"]);
    git(&["-C", "main", "commit", "-q", "--allow-empty", "-m", "first"]);
    fs::remove_dir_all(place.project()).unwrap();
    git(&["-C", "main", "worktree", "add", "-q", "-b", "side", "../project"]);

    let first = place.environment(SessionChoice::Fresh);
    let commit = "git -c user.name=n -c user.email=e@x commit -q --allow-empty -m second";
    shell(&first, commit).await;
    first.close().await.unwrap();
    // Refs in an archive are not read.
    let store = SessionStore::new(place.state());
    let id = store.list().unwrap().sessions[0].id.clone();
    assert_eq!(store.waiting_commits(&id).unwrap(), WaitingCommits::Unknown);
    let next = place.environment(SessionChoice::Continue);
    assert_eq!(shell(&next, "git log --format=%s").await, "second\nfirst\n");
    next.close().await.unwrap();
}
