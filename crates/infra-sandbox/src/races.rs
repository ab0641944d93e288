//! Nothing leads outside of the trees while a command swaps directories for symlinks.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forge_domain::{FileKind, Removal, SearchQuery};
use pretty_assertions::assert_eq;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::sample::{CANARY, Sample};

/// So often each call is made at the least, and so often the directory is swapped meanwhile.
const ROUNDS: u64 = 2000;
const PATIENCE: Duration = Duration::from_secs(120);

/// A workspace in which a directory is a symlink to the outside at the next moment.
struct Swapped {
    sample: Sample,
    way: &'static str,
    target: PathBuf,
    stop: AtomicBool,
    swaps: AtomicU64,
}

impl Swapped {
    fn directory(way: &'static str, target: impl Fn(&Sample) -> PathBuf) -> Self {
        let sample = Sample::new();
        sample.file(&format!("{way}/canary"), "inside");
        sample.file(&format!("{way}/below/canary"), "inside");
        let target = target(&sample);
        Self::new(sample, way, target)
    }

    fn file(way: &'static str) -> Self {
        let sample = Sample::new();
        sample.file(way, "inside");
        let target = sample.beside("outside/canary");
        Self::new(sample, way, target)
    }

    fn new(sample: Sample, way: &'static str, target: PathBuf) -> Self {
        let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { sample, way, target, stop, swaps }
    }

    fn swap_until_stopped(&self) {
        let way = self.sample.host(self.way);
        let link = way.with_file_name("link");
        while !self.stop.load(Ordering::Relaxed) {
            // A call under test may have removed one of them; then it is made again. What this makes
            // outside, where the symlink is in the place of the directory, is there already.
            if renameat_with(CWD, &way, CWD, &link, RenameFlags::EXCHANGE).is_err() {
                drop(fs::create_dir_all(way.join("below")));
                drop(symlink(&self.target, &link));
            }
            self.swaps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a call again and again while the directory is swapped; returns how often it was true, which
    /// is waited for to be once.
    fn race(&self, mut call: impl FnMut(&Sample) -> bool) -> u64 {
        self.stop.store(false, Ordering::Relaxed);
        self.swaps.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        let mut seen = 0;
        thread::scope(|scope| {
            scope.spawn(|| self.swap_until_stopped());
            let _stop = StopOnDrop(&self.stop);
            let mut rounds = 0;
            while begun.elapsed() < PATIENCE
                && (rounds < ROUNDS || seen == 0 || self.swaps.load(Ordering::Relaxed) < ROUNDS)
            {
                seen += u64::from(call(&self.sample));
                rounds += 1;
            }
        });
        assert!(self.swaps.load(Ordering::Relaxed) > 100, "the race was none");
        seen
    }

    fn assert_outside_is_untouched(&self) {
        let names = |path: &str| {
            let entries = fs::read_dir(self.sample.beside(path)).unwrap();
            let mut names: Vec<OsString> =
                entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("outside"), ["below", "canary"]);
        assert_eq!(names("outside/below"), ["canary"]);
        for path in ["outside/canary", "outside/below/canary"] {
            assert_eq!(fs::read_to_string(self.sample.beside(path)).unwrap(), CANARY);
        }
    }
}

/// Also where a call panics: the swapping is waited for.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn relative() -> Swapped {
    Swapped::directory("way", |_| "../outside".into())
}

fn absolute() -> Swapped {
    Swapped::directory("way", |sample| sample.beside("outside"))
}

/// The control: who opens by path after a look at it is led outside.
#[test]
fn a_check_by_path_before_a_read_by_path_is_led_outside() {
    let swapped = relative();
    let escaped = swapped.race(|sample| {
        let is_inside = fs::symlink_metadata(sample.host("way")).is_ok_and(|way| way.is_dir());
        let read = fs::read_to_string(sample.host("way/canary"));
        is_inside && read.is_ok_and(|text| text == CANARY)
    });
    assert!(escaped > 0, "the race was never lost, so that the other tests show nothing");
}

#[test]
fn a_read_is_never_led_outside() {
    for swapped in [relative(), absolute()] {
        let inside = swapped.race(|sample| {
            ["way/canary", "way/below/canary", "way/below/../canary"].into_iter().any(|path| {
                let read = sample.text(path);
                assert_ne!(read.as_deref().ok(), Some(CANARY));
                read.is_ok()
            })
        });
        assert!(inside > 0, "nothing was ever read");
        swapped.assert_outside_is_untouched();
    }
}

#[test]
fn a_write_is_never_led_outside() {
    for swapped in [relative(), absolute()] {
        let written = swapped.race(|sample| {
            ["way/canary", "way/new/below/file", "way/below/canary"]
                .into_iter()
                .any(|path| sample.write(path, "planted").is_ok())
        });
        assert!(written > 0, "nothing was ever written");
        swapped.assert_outside_is_untouched();
    }
}

#[test]
fn a_listing_and_a_stat_are_never_led_outside() {
    let swapped = relative();
    fs::write(swapped.sample.host("way/inside"), "").unwrap();
    let inside = swapped.race(|sample| {
        let listed = sample.trees.list(Path::new("way"));
        if let Ok(entries) = &listed {
            assert!(entries.iter().any(|entry| entry.name == "inside"), "{entries:?}");
        }
        if let Ok(stat) = sample.trees.stat(Path::new("way/canary")) {
            assert_eq!(stat.size_bytes, 6);
        }
        listed.is_ok()
    });
    assert!(inside > 0, "nothing was ever listed");
    swapped.assert_outside_is_untouched();
}

#[test]
fn a_search_is_never_led_outside() {
    for swapped in [relative(), absolute()] {
        let stopped = AtomicBool::new(false);
        let mut roots = [".", "way/below"].into_iter().cycle();
        let inside = swapped.race(|sample| {
            let query = SearchQuery::default().pattern("canary|inside");
            let found = sample.trees.search(&query.root(roots.next().unwrap()), &stopped);
            let matches = found.map(|outcome| outcome.matches).unwrap_or_default();
            assert!(matches.iter().all(|line| line.line == "inside"), "{matches:?}");
            !matches.is_empty()
        });
        assert!(inside > 0, "nothing was ever found");
        swapped.assert_outside_is_untouched();
    }
}

#[test]
fn a_file_that_is_swapped_itself_is_never_led_outside() {
    let swapped = Swapped::file("file");
    let stopped = AtomicBool::new(false);
    let inside = swapped.race(|sample| {
        let read = sample.text("file");
        assert_ne!(read.as_deref().ok(), Some(CANARY));
        let query = SearchQuery::default().pattern("canary|inside");
        let matches = sample.trees.search(&query, &stopped).unwrap().matches;
        assert!(matches.iter().all(|line| line.line == "inside"), "{matches:?}");
        let stat = sample.trees.stat(Path::new("file")).unwrap();
        assert!(stat.kind != FileKind::File || stat.size_bytes == 6, "{stat:?}");
        read.is_ok() && !matches.is_empty()
    });
    assert!(inside > 0, "nothing was ever read");
    swapped.assert_outside_is_untouched();

    let written = swapped.race(|sample| sample.write("file", "inside").is_ok());
    assert!(written > 0, "nothing was ever written");
    swapped.assert_outside_is_untouched();
}

#[test]
fn an_ignore_file_that_is_swapped_itself_is_never_read_outside() {
    let swapped = Swapped::file(".gitignore");
    fs::write(swapped.sample.beside("outside/canary"), "*").unwrap();
    swapped.sample.file("seen", "");
    let stopped = AtomicBool::new(false);
    let seen = swapped.race(|sample| {
        let files = sample.trees.search(&SearchQuery::default(), &stopped).unwrap().files;
        assert!(files.iter().any(|file| file == "seen"), "{files:?}");
        true
    });
    assert!(seen > 0);
}

#[test]
fn a_removal_is_never_led_outside() {
    for swapped in [relative(), absolute()] {
        let removed = swapped.race(|sample| {
            let removals = [
                ("way/canary", Removal::Single),
                ("way/below", Removal::Tree),
                ("way/below/canary", Removal::Single),
            ];
            // Something to remove, by the calls under test, since a path of the host may lead outside.
            drop(sample.write("way/below/canary", "inside"));
            drop(sample.write("way/canary", "inside"));
            let removed =
                removals.map(|(path, removal)| sample.trees.remove(Path::new(path), removal));
            removed.into_iter().any(|removed| removed.is_ok())
        });
        assert!(removed > 0, "nothing was ever removed");
        swapped.assert_outside_is_untouched();
    }
}

/// What is swapped lies in the tree that is being removed.
#[test]
fn the_removal_of_a_tree_is_never_led_outside() {
    let swapped = Swapped::directory("tree/way", |sample| sample.beside("outside"));
    let removed = swapped.race(|sample| {
        drop(fs::create_dir_all(sample.host("tree")));
        sample.trees.remove(Path::new("tree"), Removal::Tree).is_ok()
    });
    assert!(removed > 0, "nothing was ever removed");
    swapped.assert_outside_is_untouched();
}
