//! The way in, to guests that really unpack.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forge_domain::{
    BoxedError, ByteRange, Changes, CommandIo, CommandRequest, Commands, Ending, Files, Lifecycle,
    NotReturned, Program, ReturnKeeper, Returned, ReturnedOrigin, SourceError, SourceListing,
    SourcePath, WorkspaceLocation, WorkspaceSource,
};
use forge_infra_workspace::HostSource;
use forge_tensorlake_testserver::{Daemon, ServerOptions, TestServer};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::{TensorlakeConfig, TensorlakeEnvironment};

struct Stage {
    server: TestServer,
    environment: TensorlakeEnvironment,
    /// In the guest.
    workspace: PathBuf,
}

impl Stage {
    async fn new(options: ServerOptions, source: impl WorkspaceSource + 'static) -> Self {
        let server = TestServer::start(options).await.unwrap();
        let workspace = server.directory().join("project");
        let location =
            WorkspaceLocation { root: workspace.clone(), working_directory: workspace.clone() };
        let mut config = TensorlakeConfig::new(SecretString::from("k"))
            .api_url(server.url())
            .scratch_parent(server.directory().join("scratch"));
        config.source = Some(Arc::new(source));
        let environment = TensorlakeEnvironment::new(config, location).unwrap();
        Self { server, environment, workspace }
    }

    async fn run(&self, text: &str) -> String {
        let request = CommandRequest::new(Program::shell(text));
        let exit = self.environment.run(request, CommandIo::detached()).await.unwrap();
        let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
        assert_eq!(exit.ending, Ending::Exited(0), "{output}");
        output
    }

    async fn refused(&self) -> String {
        let request = CommandRequest::new(Program::shell("touch ran"));
        let error = self.environment.run(request, CommandIo::detached()).await.unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    }
}

fn project() -> TempDir {
    let project = tempfile::tempdir().unwrap();
    let root = project.path();
    fs::create_dir_all(root.join("d/empty")).unwrap();
    fs::create_dir_all(root.join("target")).unwrap();
    let random: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (path, contents) in [
        ("a", &b"one\n"[..]),
        ("d/nothing", b""),
        ("d/program", b"#!/bin/sh\necho runs\n"),
        ("target/x", b"x"),
        (".gitignore", b"/target/\n"),
        (".env", b"K=1"),
        ("-rf", b"x"),
        ("big", &random),
    ] {
        fs::write(root.join(path), contents).unwrap();
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"new\nline \xff")), "odd").unwrap();
    fs::set_permissions(root.join("d/program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("d/nothing"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("../a", root.join("d/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::create_dir(root.join("closed")).unwrap();
    fs::write(root.join("closed/inside"), "x").unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    project
}

/// Every path with its type, mode and contents.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(root.join(&path)).unwrap() {
            let path = path.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).unwrap();
            let what = if metadata.is_dir() {
                pending.push(path.clone());
                String::new()
            } else if metadata.is_symlink() {
                fs::read_link(&full).unwrap().display().to_string()
            } else {
                let bytes = fs::read(&full).unwrap();
                format!(
                    "{} {:?}",
                    bytes.len(),
                    bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
                )
            };
            found.push(format!("{path:?} {:o} {what}", metadata.mode()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn the_project_is_there_exactly_before_anything_is_done() {
    for daemon in [Daemon::WithRun, Daemon::Open] {
        let project = project();
        let options = ServerOptions { daemon, ..Default::default() };
        let stage = Stage::new(options, HostSource::new(project.path())).await;
        assert_eq!(stage.server.running().len(), 0, "nothing is made before the first use");
        assert_eq!(stage.run("d/program; cat d/link").await, "runs\none\n");
        let sent = tree(&stage.workspace);
        fs::remove_dir_all(project.path().join("target")).unwrap();
        fs::remove_file(project.path().join(".env")).unwrap();
        assert_eq!(sent, tree(project.path()));
        // It is brought in once.
        stage.run("rm a").await;
        let read = stage.environment.read(Path::new("a"), ByteRange::first(10)).await;
        assert!(read.is_err());
        stage.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn whoever_is_first_brings_it_in_and_the_others_wait() {
    let project = project();
    let stage = Stage::new(ServerOptions::default(), HostSource::new(project.path())).await;
    let read = async {
        let read = stage.environment.read(Path::new("a"), ByteRange::first(10)).await.unwrap();
        String::from_utf8(read.bytes.to_vec()).unwrap()
    };
    let (first, second, third) = tokio::join!(stage.run("cat a"), read, stage.run("ls -d d/empty"));
    assert_eq!([first, second, third], ["one\n", "one\n", "d/empty\n"]);
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_is_made_again_has_the_project_again() {
    let project = project();
    let stage = Stage::new(ServerOptions::default(), HostSource::new(project.path())).await;
    stage.run("echo changed >a").await;
    stage.server.terminate(&stage.server.running()[0]);
    // As another machine has it.
    fs::remove_dir_all(&stage.workspace).unwrap();
    fs::remove_dir_all(stage.server.directory().join("scratch")).unwrap();
    assert_eq!(stage.run("cat a").await, "one\n");
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn what_is_not_ours_in_the_sandbox_is_not_touched() {
    let project = project();
    let stage = Stage::new(ServerOptions::default(), HostSource::new(project.path())).await;
    fs::create_dir_all(&stage.workspace).unwrap();
    fs::write(stage.workspace.join("theirs"), "x").unwrap();
    let said = stage.refused().await;
    assert!(said.contains("is there already in the sandbox"), "{said}");
    assert_eq!(fs::read_dir(&stage.workspace).unwrap().count(), 1);
    stage.environment.close().await.unwrap();
}

#[derive(Debug)]
struct Odd {
    source: HostSource,
    /// So many more looks find another version each.
    changes: AtomicUsize,
    path: PathBuf,
}

impl WorkspaceSource for Odd {
    fn list(&self) -> Result<SourceListing, SourceError> {
        self.source.list()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn io::Read + Send>> {
        if self
            .changes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
        {
            let before = fs::read_to_string(&self.path).unwrap();
            let grown = format!("{before}more\n");
            let shrunk = "s\n".to_owned();
            fs::write(&self.path, if before.len() < 12 { grown } else { shrunk }).unwrap();
        }
        self.source.open(path)
    }

    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>> {
        self.source.look(path)
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_is_sent_again() {
    let project = tempfile::tempdir().unwrap();
    let path = project.path().join("a");
    fs::write(&path, "one\n").unwrap();
    for changes in [1, 2] {
        let source = HostSource::new(project.path());
        let odd = Odd { source, changes: AtomicUsize::new(changes), path: path.clone() };
        let stage = Stage::new(ServerOptions::default(), odd).await;
        assert_eq!(stage.run("cat a").await, fs::read_to_string(&path).unwrap());
        stage.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_project_that_is_too_large_is_an_error_and_nothing_runs() {
    let project = project();
    let source = HostSource::new(project.path()).max_total_bytes(1000_u64);
    let stage = Stage::new(ServerOptions::default(), source).await;
    let said = stage.refused().await;
    assert!(said.contains("1000 are allowed"), "{said}");
    assert_eq!(tree(&stage.workspace), Vec::<String>::new());
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_server_that_takes_only_small_bodies_gets_smaller_pieces() {
    let project = project();
    let options = ServerOptions { max_body_bytes: 64 * 1024, ..Default::default() };
    let stage = Stage::new(options, HostSource::new(project.path())).await;
    let sent = fs::read(project.path().join("big")).unwrap();
    stage.run("true").await;
    assert!(sent == fs::read(stage.workspace.join("big")).unwrap());
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn more_pieces_than_a_text_can_name_are_joined() {
    let project = tempfile::tempdir().unwrap();
    let sent: Vec<u8> = (0..48 * 1024 * 1024_u32).map(|number| (number / 7) as u8).collect();
    fs::write(project.path().join("large"), &sent).unwrap();
    let options = ServerOptions { max_body_bytes: 20 * 1024, ..Default::default() };
    let stage = Stage::new(options, HostSource::new(project.path())).await;
    stage.run("true").await;
    assert!(sent == fs::read(stage.workspace.join("large")).unwrap());
    assert!(stage.server.count("PUT", "/files") > 2500, "their names are more than 128 KiB");
    stage.environment.close().await.unwrap();
}

/// Keeps nothing: the host is told of what it does itself.
#[derive(Debug)]
struct Nobody;

impl ReturnKeeper for Nobody {
    fn put(&mut self, _: &Path, what: Returned<'_>, _: ReturnedOrigin) -> Result<(), BoxedError> {
        if let Returned::File { contents, .. } = what {
            io::copy(contents, &mut io::sink())?;
        }
        Ok(())
    }

    fn finish(&mut self, _: &NotReturned) -> Result<(), BoxedError> {
        Ok(())
    }
}

async fn take_in(stage: &Stage) -> (u64, Vec<String>) {
    stage.environment.bring_back(Nobody).await.unwrap();
    let taken_in = stage.environment.take_in().await.unwrap();
    let shown = |path: &PathBuf| path.display().to_string();
    (taken_in.updated_paths, taken_in.conflicts.iter().map(shown).collect())
}

#[tokio::test]
async fn what_the_host_changes_between_turns_is_brought_in_and_what_both_changed_is_said_once() {
    for daemon in [Daemon::WithRun, Daemon::Open] {
        let project = project();
        let root = project.path();
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
        let options = ServerOptions { daemon, ..Default::default() };
        let stage = Stage::new(options, HostSource::new(root)).await;
        assert_eq!(take_in(&stage).await, (0, vec![]), "nothing is made for that");
        assert_eq!(stage.server.running().len(), 0);
        stage.run("echo theirs >both; echo ours >d/program; rm d/nothing; echo kept >here; touch -d @1 d/link; rm -r closed").await;
        assert_eq!(take_in(&stage).await, (0, vec![]));

        for (path, text) in [
            ("a", "two\n"),
            ("both", "host\n"),
            ("d/program", "host\n"),
            ("new/deep/file", "n"),
            ("d/nothing", "host\n"),
        ] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        fs::remove_file(root.join("dangling")).unwrap();
        fs::remove_file(root.join("-rf")).unwrap();
        fs::remove_dir(root.join("d/empty")).unwrap();
        fs::write(root.join("closed/inside"), "changed").unwrap();
        fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o600)).unwrap();
        let requests = stage.server.requests().len();
        let (updated, conflicts) = take_in(&stage).await;
        assert_eq!(conflicts, ["both", "closed/inside", "d/nothing", "d/program"]);
        assert_eq!(updated, 8, "a, big, new and two in it, and three that are gone");
        let text = "cat a both d/program new/deep/file here; ls -d dangling d/empty ./-rf closed d/nothing 2>/dev/null; stat -c %a big";
        assert_eq!(stage.run(&format!("{text}; true")).await, "two\ntheirs\nours\nnkept\n600\n");
        assert!(stage.server.requests().len() - requests < 40);
        assert_eq!(take_in(&stage).await, (0, vec![]), "it is brought in, and said, once");
        fs::write(root.join("both"), "host again\n").unwrap();
        assert_eq!(take_in(&stage).await, (0, vec!["both".to_owned()]));
        // What was applied is the same on both sides, and goes on from there.
        fs::write(root.join("d/program"), "ours\n").unwrap();
        assert_eq!(take_in(&stage).await, (0, vec![]));
        stage.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_made_anew_to_bring_back_what_went_with_a_sandbox() {
    let project = project();
    let stage = Stage::new(ServerOptions::default(), HostSource::new(project.path())).await;
    stage.run("echo changed >a").await;
    stage.server.terminate(&stage.server.running()[0]);
    assert!(stage.environment.bring_back(Nobody).await.is_err());
    assert_eq!((stage.server.count("POST", "/sandboxes"), stage.server.running().len()), (1, 0));
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn one_edit_in_many_files_is_one_small_request_and_much_is_brought_in_by_an_upload() {
    let project = tempfile::tempdir().unwrap();
    let root = project.path();
    for number in 0..2000 {
        fs::write(root.join(format!("{number}")), "one\n").unwrap();
    }
    let stage = Stage::new(ServerOptions::default(), HostSource::new(root)).await;
    stage.run("true").await;
    assert_eq!(take_in(&stage).await, (0, vec![]));
    fs::write(root.join("7"), "seven\n").unwrap();
    fs::remove_file(root.join("8")).unwrap();
    let before = stage.server.requests().len();
    stage.environment.take_in().await.unwrap();
    let requests = stage.server.requests();
    assert_eq!(requests.len() - before, 1, "{:?}", &requests[before..]);
    assert_eq!(stage.run("cat 7; ls 8 2>/dev/null || echo gone").await, "seven\ngone\n");
    // What is applied, and then edited, goes on following the user.
    stage.run("echo ours >9").await;
    assert_eq!(take_in(&stage).await, (0, vec![]));
    for text in ["ours\n", "the user's\n"] {
        fs::write(root.join("9"), text).unwrap();
        assert_eq!(take_in(&stage).await.1, Vec::<String>::new());
    }
    assert_eq!(stage.run("cat 9").await, "the user's\n");

    fs::write(root.join("large"), vec![b'x'; 300_000]).unwrap();
    for number in 100..400 {
        fs::remove_file(root.join(format!("{number}"))).unwrap();
    }
    assert_eq!(take_in(&stage).await, (301, vec![]));
    assert_eq!(stage.run("wc -c <large; ls | wc -l").await, "300000\n1700\n");
    assert_eq!(take_in(&stage).await, (0, vec![]));
    stage.environment.close().await.unwrap();
}
