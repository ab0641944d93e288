//! The project on its way into guests and over links that are not as they should be.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod relay;
mod stage;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forge_domain::{Changes, Lifecycle, SourceError, SourceListing, SourcePath, WorkspaceSource};
use forge_infra_workspace::HostSource;
use pretty_assertions::assert_eq;
use tempfile::TempDir;

use crate::relay::Fate;
use crate::stage::{Stage, Tools, random_bytes, tree};

/// Ten pieces of an upload, and a little.
fn project() -> TempDir {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("large"), random_bytes(10 * 1024 * 1024)).unwrap();
    fs::create_dir_all(host.path().join("d/empty")).unwrap();
    fs::write(host.path().join("d/small"), "small\n").unwrap();
    host
}

fn small() -> TempDir {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("a"), random_bytes(100_000)).unwrap();
    fs::write(host.path().join("b"), "b\n").unwrap();
    host
}

const PUT: &str = "PUT /api/v1/files";

#[tokio::test]
async fn a_link_that_breaks_after_sixty_percent_costs_a_few_pieces_and_no_more() {
    for cuts in [0, 3] {
        let host = project();
        let puts = AtomicUsize::new(0);
        let stage = Stage::new(HostSource::new(host.path()), move |request| {
            let is_cut = |nth: usize| (6..6 + cuts).contains(&nth);
            match request.shape == PUT && is_cut(puts.fetch_add(1, Ordering::SeqCst)) {
                true => Fate::CutMidway,
                false => Fate::Pass,
            }
        })
        .await;
        stage.run("true").await;
        assert_eq!(tree(&stage.workspace), tree(host.path()));
        // Half a body is no request for the server: what it counts is what came whole.
        let whole = stage.server.count("PUT", "/files");
        assert!((11..=11 + cuts).contains(&whole), "{whole} pieces came");
        stage.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_link_that_stays_down_after_sixty_percent_is_an_error_and_the_next_call_begins_anew() {
    let host = project();
    let (puts, is_mended) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let mended = Arc::clone(&is_mended);
    let stage = Stage::new(HostSource::new(host.path()), move |request| {
        let puts = puts.fetch_add(usize::from(request.shape == PUT), Ordering::SeqCst);
        match puts >= 6 && !mended.load(Ordering::SeqCst) {
            true => Fate::CutMidway,
            false => Fate::Pass,
        }
    })
    .await;
    let said = stage.refused().await;
    assert!(said.contains("bringing the project in"), "{said}");
    assert_eq!(fs::read_dir(&stage.workspace).unwrap().count(), 0);
    is_mended.store(true, Ordering::SeqCst);
    stage.run("true").await;
    assert_eq!(tree(&stage.workspace), tree(host.path()));
    stage.environment.close().await.unwrap();
    assert_eq!(stage.server.running(), [""; 0]);
}

#[tokio::test]
async fn a_guest_that_lacks_a_tool_is_refused_by_the_tools_name() {
    let image = |tool| format!("its image has no {tool}");
    for (tool, expected) in [
        ("tar", image("tar")),
        ("gzip", image("gzip")),
        ("sha256sum", image("sha256sum")),
        // The first look at the guest finds it first.
        ("find", "its image lacks find".to_owned()),
    ] {
        let host = small();
        let tools = Tools::all();
        fs::remove_file(tools.path().join(tool)).unwrap();
        let stage = Stage::with_tools(&host, &tools).await;
        let said = stage.refused().await;
        assert!(said.contains(&expected), "{tool}: {said}");
        stage.environment.close().await.unwrap();
    }
    let host = small();
    let tools = Tools::all();
    let stage = Stage::with_tools(&host, &tools).await;
    stage.run("true").await;
    assert_eq!(tree(&stage.workspace), tree(host.path()), "with all of them it arrives");
    stage.environment.close().await.unwrap();
}

/// With real limits of a file's size, which is what a shell has, and as the tools say it of a disk. The signal is ignored,
/// so that it is an error as a full disk is one.
const FULL: [(&str, &str, &str); 4] = [
    ("tar", "echo 'tar: a: Cannot write: No space left on device' >&2; exit 2", "No space left"),
    ("cat", "echo 'cat: write error: No space left on device' >&2; exit 1", "No space left"),
    ("tar", "trap '' XFSZ; ulimit -f 100; exec $real/tar \"$@\"", "Exiting with failure status"),
    ("cat", "trap '' XFSZ; ulimit -f 100; exec $real/cat \"$@\"", "File too large"),
];

#[tokio::test]
async fn a_full_disk_is_said_and_once_there_is_room_the_project_arrives_whole() {
    for (tool, text, expected) in FULL {
        let host = small();
        let tools = Tools::with(&[(tool, &format!("honest && exec $real/{tool} \"$@\"\n{text}"))]);
        tools.lie();
        let stage = Stage::with_tools(&host, &tools).await;
        let said = stage.refused().await;
        assert!(said.contains(expected), "{text}: {said}");
        tools.tell_the_truth();
        stage.run("true").await;
        assert_eq!(tree(&stage.workspace), tree(host.path()), "{text}");
        stage.environment.close().await.unwrap();
    }
}

/// What is unpacked is counted, and what arrives is hashed, by the guest's own tools. Those that lie about it are in a guest
/// that could do anything to the project anyway; what is held off is damage.
#[tokio::test]
async fn what_arrives_damaged_or_in_part_is_not_used() {
    for (tool, text, expected) in [
        ("cat", "head -c 5000 -- \"$2\"", "its hash is another"),
        ("cat", "for f; do :; done; $real/cat \"$@\" | tr a b", "its hash is another"),
        ("tar", "$real/tar \"$@\"; rm -f b", "unpacked 1 paths of the 2"),
        ("tar", "$real/tar \"$@\"; echo more >left-over", "unpacked 3 paths of the 2"),
        ("tar", "$real/cat >/dev/null", "unpacked 0 paths of the 2"),
    ] {
        let host = small();
        let tools = Tools::with(&[(tool, &format!("honest && exec $real/{tool} \"$@\"\n{text}"))]);
        tools.lie();
        let stage = Stage::with_tools(&host, &tools).await;
        let said = stage.refused().await;
        assert!(said.contains(expected), "{text}: {said}");
        tools.tell_the_truth();
        stage.run("true").await;
        assert_eq!(tree(&stage.workspace), tree(host.path()), "nothing is left over: {text}");
        stage.environment.close().await.unwrap();
    }
}

/// Does something to the project whenever a file is opened, for so many times.
#[derive(Debug)]
struct Busy {
    source: HostSource,
    left: AtomicUsize,
    change: fn(&Path),
    root: PathBuf,
}

impl WorkspaceSource for Busy {
    fn list(&self) -> Result<SourceListing, SourceError> {
        self.source.list()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let file = self.source.open(path)?;
        let fewer = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            (self.change)(&self.root);
        }
        Ok(file)
    }

    fn look(&self, path: &Path) -> io::Result<Option<SourcePath>> {
        self.source.look(path)
    }
}

async fn busy(times: usize, change: fn(&Path)) -> (TempDir, Stage) {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("busy"), "beginning\n").unwrap();
    fs::write(host.path().join("calm"), "calm").unwrap();
    let root = host.path().to_path_buf();
    let source = HostSource::new(&root);
    let source = Busy { source, left: AtomicUsize::new(times), change, root };
    let stage = Stage::new(source, |_| Fate::Pass).await;
    (host, stage)
}

fn grow(root: &Path) {
    let mut file = OpenOptions::new().append(true).open(root.join("busy")).unwrap();
    file.write_all(&[b'x'; 100_000]).unwrap();
}

#[tokio::test]
async fn a_file_that_grows_shrinks_or_becomes_a_directory_while_it_is_sent_is_sent_again() {
    let shrink = |root: &Path| fs::write(root.join("busy"), "b").unwrap();
    let swap = |root: &Path| {
        fs::remove_file(root.join("busy")).unwrap();
        fs::create_dir(root.join("busy")).unwrap();
    };
    for change in [grow, shrink, swap] {
        let (host, stage) = busy(1, change).await;
        stage.run("true").await;
        assert_eq!(tree(&stage.workspace), tree(host.path()));
        stage.environment.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_vanishes_while_it_is_sent_is_gone_by_the_next_turn() {
    let (host, stage) = busy(1, |root| fs::remove_file(root.join("busy")).unwrap()).await;
    stage.run("cat calm").await;
    stage.bring_back().await.1.unwrap();
    assert_eq!(stage.environment.take_in().await.unwrap().updated_paths, 1);
    assert_eq!(tree(&stage.workspace), tree(host.path()));
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_never_stops_growing_holds_up_nothing() {
    let (_host, stage) = busy(usize::MAX, grow).await;
    assert_eq!(stage.run("cat calm; head -c 11 busy").await, "calmbeginning\nx\n");
    stage.environment.close().await.unwrap();
}

/// 3 GiB that take no room here.
fn three_gibibytes() -> TempDir {
    let host = tempfile::tempdir().unwrap();
    for (name, files) in [("small", 1), ("largest", 20), ("middle", 12)] {
        fs::create_dir(host.path().join(name)).unwrap();
        for number in 0..files {
            let file = File::create(host.path().join(format!("{name}/{number}"))).unwrap();
            file.set_len(if name == "small" { 1 } else { 96 * 1024 * 1024 }).unwrap();
        }
    }
    host
}

#[tokio::test]
async fn a_repository_of_three_gibibytes_is_refused_at_once_with_the_largest_named() {
    let host = three_gibibytes();
    let begin = Instant::now();
    let stage = Stage::new(HostSource::new(host.path()), |_| Fate::Pass).await;
    let said = stage.refused().await;
    assert!(said.contains("and 2147483648 are allowed"), "{said}");
    assert!(said.contains("[\"largest\", \"middle\", \"small\"]"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(stage.server.count("PUT", "/files"), 0);
    stage.environment.close().await.unwrap();
}

#[tokio::test]
#[ignore = "needs 3 GiB of disk and a few minutes"]
async fn a_repository_of_three_gibibytes_arrives_where_the_limit_allows_it() {
    let host = three_gibibytes();
    let source = HostSource::new(host.path()).max_total_bytes(4 * 1024 * 1024 * 1024_u64);
    let stage = Stage::new(source, |_| Fate::Pass).await;
    let said = stage.run("cat largest/* middle/* small/* | wc -c").await;
    assert_eq!(said, format!("{}\n", 3 * 1024 * 1024 * 1024_u64 + 1));
    stage.environment.close().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a minute"]
async fn a_hundred_thousand_files_go_in_follow_the_host_and_come_back() {
    let host = tempfile::tempdir().unwrap();
    for directory in 0..100 {
        let directory = host.path().join(format!("directory-{directory}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..1000 {
            fs::write(directory.join(format!("file-{number}")), format!("{number}\n")).unwrap();
        }
    }
    let stage = Stage::new(HostSource::new(host.path()), |_| Fate::Pass).await;
    assert_eq!(stage.run("find . -type f | wc -l").await, "100000\n");
    stage.run("echo changed >directory-7/file-7; rm -r directory-8").await;
    let (kept, outcome) = stage.bring_back().await;
    outcome.unwrap();
    assert_eq!(kept[Path::new("directory-7/file-7")], "file of 8");
    assert_eq!(kept[Path::new("directory-8")], "nothing");
    fs::write(host.path().join("directory-9/file-9"), "host\n").unwrap();
    assert_eq!(stage.environment.take_in().await.unwrap().updated_paths, 1);
    assert_eq!(stage.run("cat directory-9/file-9").await, "host\n");
    stage.environment.close().await.unwrap();
}
