//! What the host changes while a session stands, and a session that is looked at while it stands.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forge_domain::{
    BackgroundCommands, Base, Changes, CommandIo, CommandRequest, Commands, Ending, Entry,
    Lifecycle, OutputLimits, OutputOffset, Program, TakenIn, WorkspaceLocation,
};
use forge_infra_sandbox::{
    DealtWith, HelperProgram, OpenSession, SandboxConfig, SandboxEnvironment, SessionChoice,
    SessionLayers,
};
use pretty_assertions::assert_eq;
use tempfile::TempDir;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["project", "state"] {
            fs::create_dir(place.directory.path().join(name)).unwrap();
        }
        for (path, contents) in files {
            place.write(path, contents);
        }
        place
    }

    fn project(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("project")
    }

    /// Writes as editors and git do: another file takes the place of the one that is there.
    fn write(&self, path: &str, contents: &str) {
        let path = self.project().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("written");
        fs::write(&new, contents).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn environment(&self) -> SandboxEnvironment {
        let config = SandboxConfig::new(self.directory.path().join("state"))
            .helper(HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into()))
            .session(SessionChoice::Continue);
        let root = self.project();
        SandboxEnvironment::new(config, WorkspaceLocation { working_directory: root.clone(), root })
    }
}

fn request(script: &str) -> CommandRequest {
    CommandRequest::new(Program::shell(format!("set -e\n{script}")))
        .time_limit(Duration::from_secs(60))
        .output_limits(OutputLimits::head_and_tail(1024 * 1024))
}

async fn shell(environment: &SandboxEnvironment, script: &str) -> String {
    let exit = environment.run(request(script), CommandIo::detached()).await.unwrap();
    let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
    assert_eq!(exit.ending, Ending::Exited(0), "{output}");
    output
}

/// Takes what the session has at these paths for dealt with, as an apply does.
async fn settle(environment: &SandboxEnvironment, paths: &[&str]) {
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let settle = move |session: &OpenSession, layers: SessionLayers| {
        let noted = paths.into_iter().map(|path| {
            let base = layers.entry(&path).unwrap().map_or(Base::Absent, Base::Known);
            DealtWith { path, base, before: Base::Unknown }
        });
        session.settle(&layers, noted.collect(), None).unwrap();
    };
    environment.at_rest(settle).await.unwrap().unwrap();
}

async fn base(environment: &SandboxEnvironment, path: &str) -> Base {
    let path = PathBuf::from(path);
    environment.at_rest(move |_, layers| layers.base(&path)).await.unwrap().unwrap()
}

fn quiet() -> TakenIn {
    TakenIn::default()
}

#[tokio::test]
async fn what_the_host_changes_between_turns_is_seen_in_the_next_one() {
    let place =
        Place::new(&[("replaced", "one"), ("dir/inner", "one"), ("gone", "x"), ("kind", "f")]);
    let environment = place.environment();
    let all = "cat replaced dir/inner gone kind; ls new 2>/dev/null || echo no";
    assert_eq!(shell(&environment, all).await, "oneonexfno\n");
    environment.checkpoint().await.unwrap();

    place.write("replaced", "two");
    place.write("dir/inner", "two");
    place.write("new", "");
    fs::remove_file(place.project().join("gone")).unwrap();
    fs::remove_file(place.project().join("kind")).unwrap();
    fs::create_dir(place.project().join("kind")).unwrap();
    assert_eq!(environment.take_in().await.unwrap(), quiet());
    let now = "cat replaced dir/inner; ls; test -d kind; test ! -e gone";
    assert_eq!(shell(&environment, now).await, "twotwodir\nkind\nnew\nreplaced\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_file_is_what_it_was_when_it_was_last_taken_in() {
    let place = Place::new(&[("edited", "one\n"), ("raced", "one\n")]);
    let environment = place.environment();
    shell(&environment, "true").await;
    environment.checkpoint().await.unwrap();

    // By the user, then taken in, then by the session: what the user wrote is what it began with.
    place.write("edited", "two\n");
    environment.take_in().await.unwrap();
    shell(&environment, "echo three >> edited; echo three >> raced").await;
    // By the session, and by the user before anybody looked.
    place.write("raced", "two\n");
    environment.checkpoint().await.unwrap();

    let Base::Known(Entry::File { size_bytes, .. }) = base(&environment, "edited").await else {
        panic!("it is not known");
    };
    assert_eq!(size_bytes, 4);
    assert_eq!(base(&environment, "raced").await, Base::Unknown);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn what_the_session_left_alone_follows_the_host() {
    let place =
        Place::new(&[("file", "one"), ("copied", "one"), ("link", "one"), ("dropped", "x")]);
    let environment = place.environment();
    let edits = "printf two > file; touch copied; rm link dropped; ln -s file link; mkdir -p d/e; \
                 printf x > d/e/made; printf y > taken; mkdir empty";
    shell(&environment, edits).await;
    environment.checkpoint().await.unwrap();
    // All of it is on the host now.
    place.write("file", "two");
    fs::remove_file(place.project().join("dropped")).unwrap();
    fs::remove_file(place.project().join("link")).unwrap();
    symlink("file", place.project().join("link")).unwrap();
    place.write("d/e/made", "x");
    place.write("taken", "y");
    fs::create_dir(place.project().join("empty")).unwrap();
    let paths = ["file", "link", "dropped", "d/e/made", "taken", "empty"];
    settle(&environment, &paths).await;
    assert_eq!(environment.changes().await.unwrap().changes, []);

    // And the host goes on.
    place.write("file", "three");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.project().join("file"), mode).unwrap();
    place.write("copied", "two");
    fs::remove_file(place.project().join("link")).unwrap();
    symlink("copied", place.project().join("link")).unwrap();
    place.write("dropped", "back");
    fs::remove_dir_all(place.project().join("d")).unwrap();
    fs::remove_file(place.project().join("taken")).unwrap();
    place.write("taken/f/g", "z");
    let taken_in = environment.take_in().await.unwrap();
    assert_eq!(taken_in, TakenIn { updated_paths: 6, ..quiet() });
    let now = "cat file copied; readlink link; cat dropped; test -x file; cat taken/f/g; \
               test ! -e d/e/made";
    assert_eq!(shell(&environment, now).await, "threetwocopied\nbackz");
    assert_eq!(environment.take_in().await.unwrap(), quiet(), "it is taken in once");
    assert_eq!(environment.changes().await.unwrap().changes, []);
    environment.close().await.unwrap();

    // The same at the begin of the next use.
    place.write("file", "four");
    let next = place.environment();
    assert_eq!(shell(&next, "cat file").await, "four");
    next.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_a_directory_that_the_host_swapped_for_another_is_another_however_old_it_is() {
    let place = Place::new(&[("d/file", "one"), ("other/file", "two")]);
    // Longer than moments of the kernel's clock for inodes are taken to be wrong against each other.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let environment = place.environment();
    assert_eq!(shell(&environment, "touch d/file; cat d/file").await, "one");
    environment.checkpoint().await.unwrap();
    fs::rename(place.project().join("d"), place.project().join("aside")).unwrap();
    fs::rename(place.project().join("other"), place.project().join("d")).unwrap();
    let taken_in = environment.take_in().await.unwrap();
    assert_eq!(taken_in, TakenIn { updated_paths: 1, ..quiet() });
    assert_eq!(shell(&environment, "cat d/file").await, "two");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn what_both_sides_changed_is_said_once_and_stays_apart() {
    let place = Place::new(&[("both", "one"), ("deleted", "one")]);
    let environment = place.environment();
    shell(&environment, "printf session > both; rm deleted").await;
    environment.checkpoint().await.unwrap();
    place.write("both", "host");
    place.write("deleted", "host");

    let taken_in = environment.take_in().await.unwrap();
    let conflicts = vec![PathBuf::from("both"), PathBuf::from("deleted")];
    assert_eq!(taken_in, TakenIn { conflicts, ..quiet() });
    assert_eq!(environment.take_in().await.unwrap(), quiet());
    place.write("both", "host again");
    let taken_in = environment.take_in().await.unwrap();
    assert_eq!(taken_in, TakenIn { conflicts: vec!["both".into()], ..quiet() });
    assert_eq!(shell(&environment, "cat both; ls").await, "sessionboth\n");
    let host = fs::read_to_string(place.project().join("both")).unwrap();
    assert_eq!(host, "host again");
    environment.close().await.unwrap();
}

/// Waits until a file in the project's view has grown, and says how long it is.
async fn grown(environment: &SandboxEnvironment, path: &str, beyond: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let size: u64 =
            shell(environment, &format!("stat -c %s {path}")).await.trim().parse().unwrap();
        if size > beyond {
            return size;
        }
        assert!(Instant::now() < deadline, "{path} does not grow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn background_commands_stand_still_while_a_session_is_looked_at_and_go_on_after_it() {
    let place = Place::new(&[("log", "")]);
    let environment = place.environment();
    // With a child, and a grandchild that was stopped before and is to stay so.
    let script = "sleep 600 & kill -STOP $!; echo $! > stopped\n\
                  (while :; do echo x >> log; sleep 0.001; done) & wait";
    let id = environment.start(request(script)).await.unwrap();
    let before = grown(&environment, "log", 0).await;

    let look = |_: &OpenSession, layers: SessionLayers| {
        let size = || layers.after(Path::new("log"), 1 << 20).unwrap().len();
        let first = size();
        std::thread::sleep(Duration::from_millis(300));
        (first, size())
    };
    let (first, second) = environment.at_rest(look).await.unwrap().unwrap();
    assert_eq!(first, second, "it wrote while it was looked at");
    assert!(first as u64 >= before);

    grown(&environment, "log", second as u64).await;
    let taken_in = environment.take_in().await.unwrap();
    assert!(taken_in.is_partial, "a background command runs");
    let status = environment.poll(&id, OutputOffset::default(), Duration::ZERO).await.unwrap();
    assert_eq!(status.ending, None, "it still runs");
    environment.stop(&id, OutputOffset::default()).await.unwrap();
    environment.close().await.unwrap();
}

/// A shell that waits in vfork(2) for its child when all is stopped looks neither stopped nor running.
#[tokio::test]
async fn shells_that_start_programs_without_pause_go_on_after_each_look() {
    let place = Place::new(&[]);
    let environment = place.environment();
    let script =
        "for shell in 1 2 3; do (while :; do /bin/true; echo x >> $shell; done) & done; wait";
    let id = environment.start(request(script)).await.unwrap();
    for _ in 0..30 {
        let look = |_: &OpenSession, _: SessionLayers| ();
        environment.at_rest(look).await.unwrap().unwrap();
        let sizes = shell(&environment, "touch 1 2 3; stat -c %s 1 2 3").await;
        for (shell, size) in ["1", "2", "3"].iter().zip(sizes.lines()) {
            grown(&environment, shell, size.parse().unwrap()).await;
        }
    }
    environment.stop(&id, OutputOffset::default()).await.unwrap();
    environment.close().await.unwrap();
}

/// A command that has a file open works on what it opened, whatever has taken its place since.
#[tokio::test]
async fn what_a_running_command_has_open_is_never_taken_for_the_hosts_newer_version() {
    let place = Place::new(&[("held", "one\n"), ("go", "")]);
    let environment = place.environment();
    let holding = "exec 3<held; echo ready > ready; while [ ! -s go ]; do sleep 0.01; done; \
                   cat <&3 > /tmp/was; exec 3<&-; cat /tmp/was; echo two >> held; cat held";
    let holder = tokio::spawn({
        let environment = environment.clone();
        async move { shell(&environment, holding).await }
    });
    grown(&environment, "ready 2>/dev/null || echo 0", 0).await;
    place.write("held", "newer\n");
    let taken_in = environment.take_in().await.unwrap();
    assert!(taken_in.is_partial, "a command runs");
    place.write("go", "x");
    environment.take_in().await.unwrap();
    assert_eq!(holder.await.unwrap().lines().next(), Some("one"));
    environment.checkpoint().await.unwrap();
    assert_eq!(base(&environment, "held").await, Base::Unknown);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_frozen_session_does_nothing_until_it_is_thawed() {
    let place = Place::new(&[]);
    let environment = place.environment();
    shell(&environment, "true").await;
    environment.freeze().await.unwrap();
    environment.freeze().await.unwrap();
    let command = tokio::spawn({
        let environment = environment.clone();
        async move { shell(&environment, "echo done").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!command.is_finished());
    environment.thaw().await.unwrap();
    assert_eq!(command.await.unwrap(), "done\n");
    environment.thaw().await.unwrap();
    environment.close().await.unwrap();
    assert!(environment.take_in().await.is_err(), "it is closed");
}

#[tokio::test]
async fn what_was_never_used_is_not_made_to_be_looked_at() {
    let place = Place::new(&[("file", "one")]);
    let environment = place.environment();
    assert_eq!(environment.take_in().await.unwrap(), quiet());
    assert_eq!(environment.at_rest(|_, _| ()).await.unwrap(), None);
    environment.freeze().await.unwrap();
    assert!(!place.directory.path().join("state/sessions").exists());
    environment.close().await.unwrap();
}
