//! The way back from guests that really list and pack their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use forge_domain::{
    BoxedError, CommandIo, CommandRequest, Commands, Ending, Lifecycle, NotReturned, Program,
    ReturnKeeper, Returned, ReturnedOrigin, StaysThere, WorkspaceLocation,
};
use forge_tensorlake_testserver::{Daemon, ServerOptions, TestServer};
use pretty_assertions::assert_eq;
use secrecy::SecretString;

use crate::{TensorlakeConfig, TensorlakeEnvironment};

/// What was handed over: of files, how many bytes, the mode and the beginning.
type Kept = Arc<Mutex<BTreeMap<PathBuf, String>>>;

#[derive(Debug, Default)]
struct Keeper {
    kept: Kept,
    finished: u32,
}

impl ReturnKeeper for Keeper {
    fn put(
        &mut self,
        path: &Path,
        what: Returned<'_>,
        origin: ReturnedOrigin,
    ) -> Result<(), BoxedError> {
        assert_eq!(self.finished, 0);
        let text = match what {
            Returned::File { mode, contents } => {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes)?;
                let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
                format!("file {mode:o} {} {begin:?}", bytes.len())
            }
            Returned::Symlink { target } => format!("link {}", target.display()),
            Returned::Directory { mode } => format!("directory {mode:o}"),
            Returned::Nothing => "nothing".to_owned(),
        };
        let text = format!("{text}{}", if origin == ReturnedOrigin::Session { " new" } else { "" });
        let before = self.kept.lock().unwrap().insert(path.to_path_buf(), text);
        assert_eq!(before, None, "{path:?} is handed over once");
        Ok(())
    }

    fn finish(&mut self, _: &NotReturned) -> Result<(), BoxedError> {
        self.finished += 1;
        Ok(())
    }
}

struct Guest {
    _server: TestServer,
    environment: TensorlakeEnvironment,
    project: PathBuf,
}

impl Guest {
    async fn new(daemon: Daemon, setup: &str) -> Self {
        let server =
            TestServer::start(ServerOptions { daemon, ..Default::default() }).await.unwrap();
        let project = server.directory().join("project");
        let workspace =
            WorkspaceLocation { root: project.clone(), working_directory: project.clone() };
        let config = TensorlakeConfig::new(SecretString::from("k"))
            .api_url(server.url())
            .scratch_parent(server.directory().join("scratch"));
        let environment = TensorlakeEnvironment::new(config, workspace).unwrap();
        let guest = Self { _server: server, environment, project };
        guest.run(setup).await;
        let inner = &guest.environment.inner;
        let handle = inner.guest(inner.ready().await.unwrap());
        let tree = inner.list_settled(&handle).await.unwrap();
        inner.begin_bring_back(&handle, tree).await.unwrap();
        guest
    }

    async fn run(&self, text: &str) {
        let request = CommandRequest::new(Program::shell(text));
        let exit = self.environment.run(request, CommandIo::detached()).await.unwrap();
        assert_eq!(
            exit.ending,
            Ending::Exited(0),
            "{}",
            String::from_utf8_lossy(&exit.output.interleaved())
        );
    }

    async fn bring_back(&self) -> (Vec<(String, String)>, NotReturned) {
        let keeper = Keeper::default();
        let kept = Arc::clone(&keeper.kept);
        let not_returned = self.environment.bring_back(keeper).await.unwrap().unwrap();
        let kept = kept.lock().unwrap().clone().into_iter();
        let shown = |(path, text): (PathBuf, String)| (path.to_string_lossy().into_owned(), text);
        (kept.map(shown).collect(), not_returned)
    }

    /// What is handed over, as text.
    async fn returned(&self) -> Vec<String> {
        let (kept, _) = self.bring_back().await;
        kept.into_iter().map(|(path, text)| format!("{path}: {text}")).collect()
    }
}

const SETUP: &str = "umask 022; mkdir -p d/e empty .git/objects; echo one >a; echo deep >d/e/f; echo g >gone; \
                     printf '*.log\\n/target/\\n' >.gitignore; echo x >tracked.log; echo git >.git/config";

#[tokio::test]
async fn what_commands_change_is_handed_over_once() {
    for daemon in [Daemon::WithRun, Daemon::Open] {
        let guest = Guest::new(daemon, SETUP).await;
        assert_eq!(guest.returned().await, Vec::<String>::new());

        guest
            .run(
                "echo two >a; touch d/e/f; rm gone; chmod 700 empty; mkdir -p new/deep target; ln -s ../a new/link; \
                 printf '\\0\\377\\n' >'new/deep/a b'; ln a hard; echo x >target/x; echo x >x.log; echo y >tracked.log; \
                 mkfifo fifo; echo y >.git/config; printf x >'-rf'; printf x >\"$(printf 'line\\nbreak')\"; chmod 4755 hard",
            )
            .await;
        let (kept, not_returned) = guest.bring_back().await;
        let kept: Vec<String> =
            kept.iter().map(|(path, text)| format!("{}: {text}", path.escape_debug())).collect();
        let expected = [
            "-rf: file 644 1 \"x\" new",
            "a: file 4755 4 \"two\\n\"",
            "d/e/f: file 644 5 \"deep\\n\"",
            "empty: directory 700",
            "gone: nothing",
            "hard: file 4755 4 \"two\\n\" new",
            "line\\nbreak: file 644 1 \"x\" new",
            "new: directory 755 new",
            "new/deep: directory 755 new",
            "new/deep/a b: file 644 3 \"\\0\u{fffd}\\n\" new",
            "new/link: link ../a new",
            "tracked.log: file 644 2 \"y\\n\"",
        ];
        assert_eq!(kept, expected);
        assert_eq!(not_returned.ignored_files, 2);
        let fifo = PathBuf::from("fifo");
        assert_eq!(not_returned.left, [(fifo, StaysThere::Special)]);

        // What was written a moment ago may be handed over twice, and then no more.
        guest.bring_back().await;
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        guest.bring_back().await;
        assert_eq!(guest.returned().await, Vec::<String>::new());
        guest.run("rm -r new; echo one >a; echo back >gone").await;
        let again = guest.returned().await;
        assert!(again.contains(&"new: nothing".to_owned()), "{again:?}");
        assert!(again.contains(&"gone: file 644 5 \"back\\n\"".to_owned()), "{again:?}");
        guest.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_large_or_many_is_handed_over_too() {
    let guest = Guest::new(Daemon::WithRun, "true").await;
    guest
        .run("head -c 5000000 /dev/urandom >big; mkdir many; for n in $(seq 3000); do echo $n >many/a-rather-long-name-$n; done")
        .await;
    let (kept, _) = guest.bring_back().await;
    assert_eq!(kept.len(), 3002);
    assert!(kept[0].1.starts_with("file 644 5000000 "), "{}", kept[0].1);
    assert_eq!(fs::metadata(guest.project.join("big")).unwrap().len(), 5_000_000);
    guest.environment.close().await.unwrap();
}

#[tokio::test]
async fn without_a_project_nothing_comes_back() {
    let server = TestServer::start(ServerOptions::default()).await.unwrap();
    let project = server.directory().join("project");
    let workspace = WorkspaceLocation { root: project.clone(), working_directory: project };
    let config = TensorlakeConfig::new(SecretString::from("k"))
        .api_url(server.url())
        .scratch_parent(server.directory().join("scratch"));
    let environment = TensorlakeEnvironment::new(config, workspace).unwrap();
    assert_eq!(environment.bring_back(Keeper::default()).await.unwrap(), None);
    assert_eq!(server.running().len(), 0, "and none is made for that");
}
