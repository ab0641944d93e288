//! What was changed on its way back from guests that lie or have no room.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod relay;
mod stage;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use forge_domain::{Lifecycle, StaysThere};
use pretty_assertions::assert_eq;
use tar::{Builder, EntryType, Header};

use crate::stage::{Stage, Tools};

async fn staged(tools: &Tools) -> Stage {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "one\n").unwrap();
    let mut stage = Stage::with_tools(&host, tools).await;
    stage.host = Some(host);
    stage
}

/// An honest list, of which the tools of the guest make what they want once they lie.
const FIND: &str =
    "case $*:$(honest || echo lies) in *'%y %m %s'*:lies) ;; *) exec $real/find \"$@\" ;; esac";

/// A guest that has changed a file, and whose tools lie from now on.
async fn lying(tools: &Tools) -> Stage {
    let stage = staged(tools).await;
    stage.run("echo two >file").await;
    tools.lie();
    stage
}

/// The positive control: with the same tools, once they tell the truth, the change is handed over.
async fn is_handed_over(stage: &Stage, tools: &Tools, told: &str) {
    tools.tell_the_truth();
    let (kept, outcome) = stage.bring_back().await;
    outcome.unwrap();
    assert_eq!(kept.get(Path::new("file")).map(String::as_str), Some("file of 4"), "{told}");
    stage.environment.close().await.unwrap();
}

/// An entry as `find` prints it.
fn listed(path: &str) -> String {
    format!("printf 'f 644 3 1600.5 7\\0%s\\0\\0' '{path}'")
}

#[tokio::test]
async fn a_list_that_lies_is_an_error_and_nothing_is_handed_over() {
    let long = listed(&"n".repeat(5000));
    let deep = listed(&"directory/".repeat(600));
    for (text, expected) in [
        (&*listed("../../out"), "a path in it leaves the workspace"),
        (&listed("/etc/out"), "a path in it leaves the workspace"),
        (&listed("a/../../out"), "a path in it leaves the workspace"),
        (&listed("a//b"), "a path in it leaves the workspace"),
        (&long, "a name in it is too long"),
        (&deep, "a name in it is too long"),
        ("printf 'f 644 -3 1600.5 7\\0a\\0\\0'", "an entry in it cannot be read"),
        ("printf 'f 644\\0a\\0\\0'", "an entry in it cannot be read"),
        ("printf 'f 644 3 1600.5 7\\0a'", "it is cut short"),
        ("yes n | tr -d '\\n' | head -c 100000", "a name in it is too long"),
        ("kill -s KILL $PPID", "it is cut short"),
    ] {
        let tools = Tools::with(&[("find", &format!("{FIND}\n{text}"))]);
        let stage = lying(&tools).await;
        let (kept, outcome) = stage.bring_back().await;
        let said = outcome.unwrap_err();
        assert!(said.contains(expected), "{text:.60}: {said}");
        assert!(kept.is_empty(), "{text:.60}: {kept:?}");
        is_handed_over(&stage, &tools, text).await;
    }
}

/// Neither a list without an end nor one that no compression makes short is read for longer than any tree's would be.
async fn is_given_up(text: &str, expected: &str) {
    let tools = Tools::with(&[("find", &format!("{FIND}\n{text}"))]);
    let stage = lying(&tools).await;
    let begin = Instant::now();
    let (kept, outcome) = stage.bring_back().await;
    let said = outcome.unwrap_err();
    assert!(said.contains(expected), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(100), "before the guest's own time limit");
    assert!(kept.is_empty());
    is_handed_over(&stage, &tools, text).await;
}

#[tokio::test]
async fn a_list_of_ten_million_entries_is_given_up() {
    let entry = r#"awk '{ printf "f 644 3 1600.5 7%c%d%c%c", 0, NR, 0, 0 }'"#;
    let text = format!("yes | head -n 10000000 | {entry}");
    is_given_up(&text, "it has more than two million entries").await;
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up_even_where_it_says_the_same_all_the_time() {
    let text = r"yes 'f 644 3 1600.5 7|the-same|' | tr '|\n' '\0\0'";
    is_given_up(text, "it has more than two million entries").await;
}

#[tokio::test]
async fn a_list_that_no_compression_makes_short_is_given_up() {
    is_given_up("exec cat /dev/urandom", "the guest printed more than it may").await;
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header
}

/// An entry of an archive: its kind, its name, and how long it says it is.
type ArchiveEntry = (EntryType, &'static str, u64);

/// An archive with raw names, as no builder would write them. Nothing in it is longer than four bytes.
fn archive(entries: &[ArchiveEntry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, size) in entries {
        let mut header = header(*kind, name, *size);
        if *kind == EntryType::Symlink {
            header.set_link_name("/tmp").unwrap();
        }
        header.set_cksum();
        let contents = [b'x'; 4];
        builder.append(&header, &contents[..4.min(*size) as usize]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn an_archive_that_lies_is_an_error_and_hands_over_nothing_that_was_not_asked_for() {
    use EntryType::{Block, GNUSparse, Link, Regular, Symlink, XHeader};
    let cases: &[(&[ArchiveEntry], &str)] = &[
        (&[(Regular, "../out", 4)], "a file that was not asked for"),
        (&[(Regular, "/tmp/out", 4)], "a file that was not asked for"),
        (&[(Regular, "./../file", 4)], "a file that was not asked for"),
        (&[(Regular, "other", 4)], "a file that was not asked for"),
        (&[(Regular, ".git/config", 4)], "a file that was not asked for"),
        (&[(Symlink, "file", 0), (Regular, "file/out", 4)], "something else than files"),
        (&[(Symlink, "link", 0), (Regular, "file", 4)], "something else than files"),
        (&[(Link, "file", 0)], "something else than files"),
        (&[(Block, "file", 0)], "something else than files"),
        (&[(GNUSparse, "file", 4)], "something else than files"),
        (&[(XHeader, "file", 4)], "something else than files"),
        (&[(Regular, "./file", 1 << 40)], "a file in it is larger than it was"),
        (&[(Regular, "./file", 4), (Regular, "./file", 4)], "a file that was not asked for"),
    ];
    for (entries, expected) in cases {
        let tools = Tools::with(&[(
            "tar",
            "case $1:$(honest || echo lies) in -c:lies) ;; *) exec $real/tar \"$@\" ;; esac\n\
             cat -- \"${0%/*}/archive\"",
        )]);
        fs::write(tools.path().join("archive"), archive(entries)).unwrap();
        let stage = lying(&tools).await;
        let (kept, outcome) = stage.bring_back().await;
        let said = outcome.unwrap_err();
        assert!(said.contains(expected), "{entries:?}: {said}");
        assert!(kept.keys().all(|path| path == Path::new("file")), "{entries:?}: {kept:?}");
        is_handed_over(&stage, &tools, &format!("{entries:?}")).await;
    }
}

/// What is listed as short and is packed as much longer, and what is short only on its way.
#[tokio::test]
async fn what_becomes_larger_on_its_way_is_not_unpacked() {
    let tools = Tools::with(&[(
        "tar",
        "case $1:$(honest || echo lies) in -c:lies) ;; *) exec $real/tar \"$@\" ;; esac\n\
         cat -- \"${0%/*}/archive\"; head -c 200000000 /dev/zero",
    )]);
    let mut bomb = Vec::new();
    let mut header = header(EntryType::Regular, "./file", 200_000_000);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    fs::write(tools.path().join("archive"), bomb).unwrap();
    let stage = lying(&tools).await;
    let (kept, outcome) = stage.bring_back().await;
    let said = outcome.unwrap_err();
    assert!(said.contains("a file in it is larger than it was"), "{said}");
    assert!(kept.is_empty());
    is_handed_over(&stage, &tools, "a bomb").await;
}

/// A hole costs the guest nothing. What is as long as no change set is stays there and is said, and what is small beside it
/// comes.
#[tokio::test]
async fn a_file_that_is_one_hole_stays_where_it_is_and_holds_up_nothing() {
    let tools = Tools::with(&[]);
    let stage = staged(&tools).await;
    stage.run("echo two >file; truncate -s 8T hole; truncate -s 5M short").await;
    let (kept, outcome) = stage.bring_back().await;
    let left = outcome.unwrap().left;
    assert_eq!(left, [("hole".into(), StaysThere::TooLarge)]);
    let kept: Vec<_> =
        kept.iter().map(|(path, text)| format!("{}: {text}", path.display())).collect();
    assert_eq!(kept, ["file: file of 4", "short: file of 5242880"]);
    stage.environment.close().await.unwrap();
}

/// In the guest's scratch directory, where it lists and packs: as the tools say it of a disk, and with a real limit of a
/// file's size.
#[tokio::test]
async fn a_guest_without_room_says_so_and_what_was_changed_is_handed_over_once_it_has_some() {
    let gzip = "case $(honest || echo lies):$(readlink /proc/$$/fd/1) in lies:/*) ;; *) exec $real/gzip \"$@\" ;; esac";
    for (tool, text, expected) in [
        (
            "mktemp",
            "honest && exec $real/mktemp \"$@\"\necho 'mktemp: No space left on device' >&2; exit 1"
                .to_owned(),
            "No space left on device",
        ),
        (
            "gzip",
            format!("{gzip}\necho 'gzip: stdout: No space left on device' >&2; exit 1"),
            "No space left on device",
        ),
        (
            "gzip",
            format!("{gzip}\ntrap '' XFSZ; ulimit -f 2; exec $real/gzip \"$@\""),
            "File too large",
        ),
    ] {
        let tools = Tools::with(&[(tool, &text)]);
        let stage = staged(&tools).await;
        stage.run("echo two >file; head -c 100000 /dev/urandom >large").await;
        tools.lie();
        let (kept, outcome) = stage.bring_back().await;
        let said = outcome.unwrap_err();
        assert!(said.contains(expected), "{text}: {said}");
        assert!(kept.is_empty());
        is_handed_over(&stage, &tools, &text).await;
    }
}

/// What is large lies in the guest until it was fetched, and no longer than until something else is.
#[tokio::test]
async fn no_archives_gather_in_the_guest() {
    let tools = Tools::with(&[]);
    let stage = staged(&tools).await;
    let archives = "ls -d ../scratch/*/back-* | wc -l";
    for round in 0..3 {
        stage.run("head -c 3000000 /dev/urandom >large").await;
        let (kept, outcome) = stage.bring_back().await;
        outcome.unwrap();
        assert_eq!(kept[Path::new("large")], "file of 3000000");
        assert_eq!(stage.run(archives).await, "1\n", "after round {round}");
    }
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_has_lost_a_tool_is_told_by_its_name() {
    for (tool, expected) in [("find", "GNU find"), ("tar", "GNU tar")] {
        let tools = Tools::all();
        let stage = staged(&tools).await;
        stage.run("echo two >file").await;
        let path = tools.path().join(tool);
        let real = fs::read_link(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (kept, outcome) = stage.bring_back().await;
        let said = outcome.unwrap_err();
        assert!(said.contains(&format!("its image has no {expected}")), "{said}");
        assert!(kept.is_empty());
        std::os::unix::fs::symlink(real, path).unwrap();
        tools.lie();
        is_handed_over(&stage, &tools, tool).await;
    }
}
