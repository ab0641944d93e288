//! What of the guest's tree differs from what was brought in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forge_domain::{Digest, ReturnedOrigin, StaysThere};

use super::listing::{GuestKind, GuestStat, GuestTree};
use crate::search::Rules;

/// More is not fetched at once: a change set is what somebody looks through.
const MAX_FETCHED_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// What is known of the guest's tree.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Whose tree it is.
    pub(crate) sandbox: String,
    /// Right after the project was brought in.
    pub(crate) begun: BTreeMap<PathBuf, GuestStat>,
    /// What is kept on the host by now.
    pub(crate) kept: BTreeMap<PathBuf, Kept>,
}

impl Known {
    /// What came back and is there.
    pub(crate) fn kept_paths(&self) -> impl Iterator<Item = PathBuf> {
        let there = |(_, kept): &(&PathBuf, &Kept)| kept.stat().is_some();
        self.kept.iter().filter(there).map(|(path, _)| path.clone())
    }

    /// Whether the guest has a directory there; `None` where it has nothing.
    pub(crate) fn has_a_directory_at(&self, path: &Path) -> Option<bool> {
        let stat = match self.kept.get(path) {
            Some(kept) => kept.stat()?,
            None => self.begun.get(path)?,
        };
        Some(stat.kind == GuestKind::Directory)
    }
}

/// What is kept of a path.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    /// This, and of a file, what it holds.
    There(GuestStat, Option<Digest>),
    /// That nothing is there.
    Nothing,
    /// Something that nobody here has seen in the guest.
    Unseen,
}

impl Kept {
    pub(crate) fn is_directory(&self) -> bool {
        self.stat().is_some_and(|stat| stat.kind == GuestKind::Directory)
    }

    pub(super) fn stat(&self) -> Option<&GuestStat> {
        match self {
            Self::There(stat, _) => Some(stat),
            Self::Nothing | Self::Unseen => None,
        }
    }
}

/// What is to be handed over.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// What is there, each directory before what is in it.
    pub(crate) there: Vec<(PathBuf, GuestStat, ReturnedOrigin)>,
    /// What is gone; not what was in it.
    pub(crate) gone: Vec<PathBuf>,
    pub(crate) ignored_files: u64,
    pub(crate) left: Vec<(PathBuf, StaysThere)>,
}

impl Difference {
    pub(crate) fn of(known: &Known, tree: &GuestTree) -> Self {
        let rules = rules(tree);
        let is_ignored = |path: &Path, kind| {
            let path = Path::new("/").join(path);
            match kind {
                GuestKind::Directory | GuestKind::Closed => !rules.allow_directory(&path),
                _ => !rules.allow(&path),
            }
        };
        let mut found = Self::default();
        let mut total = 0_u64;
        for (path, stat) in &tree.paths {
            let begun = known.begun.get(path);
            // What git tracks was brought in, and is not ignored by any rule.
            if begun.is_none() && is_ignored(path, stat.kind) {
                found.ignored_files += u64::from(stat.kind != GuestKind::Directory);
                continue;
            }
            let is_known = match known.kept.get(path) {
                Some(kept) => kept.stat().is_some_and(|kept| stat.is_still(kept)),
                None => begun.is_some_and(|begun| stat.is_still(begun)),
            };
            if is_known {
                continue;
            }
            let reason = match stat.kind {
                GuestKind::Closed => StaysThere::Unreadable,
                GuestKind::Special => StaysThere::Special,
                GuestKind::File if stat.size_bytes > MAX_FETCHED_BYTES - total => {
                    StaysThere::TooLarge
                }
                GuestKind::File | GuestKind::Directory | GuestKind::Symlink => {
                    if stat.kind == GuestKind::File {
                        total += stat.size_bytes;
                    }
                    let origin = match begun {
                        Some(_) => ReturnedOrigin::Workspace,
                        None => ReturnedOrigin::Session,
                    };
                    found.there.push((path.clone(), stat.clone(), origin));
                    continue;
                }
            };
            found.left.push((path.clone(), reason));
        }
        found.gone = gone(known, tree);
        found
    }

    /// Whether there is nothing to be handed over.
    pub(crate) fn is_empty(&self) -> bool {
        self.there.is_empty() && self.gone.is_empty()
    }
}

/// What was there and is not any more, where the directory that it was in still is one.
fn gone(known: &Known, tree: &GuestTree) -> Vec<PathBuf> {
    let is_open = |path: &Path| {
        path.as_os_str().is_empty()
            || tree.paths.get(path).is_some_and(|stat| stat.kind == GuestKind::Directory)
    };
    let before = known.begun.keys().chain(
        known
            .kept
            .iter()
            .filter(|(path, _)| !known.begun.contains_key(*path))
            .map(|(path, _)| path),
    );
    let is_gone = |path: &&PathBuf| {
        !tree.paths.contains_key(*path)
            && !matches!(known.kept.get(*path), Some(Kept::Nothing))
            && path.parent().is_some_and(is_open)
    };
    let mut gone: Vec<PathBuf> = before.filter(is_gone).cloned().collect();
    gone.sort();
    gone
}

/// The rules, as if the workspace were the root.
fn rules(tree: &GuestTree) -> Rules {
    let root = Path::new("/");
    // Without globs there is nothing that could not be read.
    let mut rules = Rules::without_globs(root);
    for (file, lines) in &tree.rules {
        rules.add(&root.join(file), lines, root);
    }
    rules
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn tree(entries: &[(&str, &str)], rules: &str) -> GuestTree {
        let mut text = "1700.5|".to_owned();
        for (path, head) in entries {
            text.push_str(&format!("{head}|{path}||"));
        }
        text.push_str("rules|");
        for line in rules.lines() {
            text.push_str(&format!("./.gitignore|1:{line}\n"));
        }
        text.push_str("end|");
        GuestTree::read(text.replace('|', "\0").as_bytes()).unwrap()
    }

    fn paths(found: &Difference) -> Vec<&str> {
        found.there.iter().map(|(path, ..)| path.to_str().unwrap()).collect()
    }

    fn names(gone: &[PathBuf]) -> Vec<&str> {
        gone.iter().map(|path| path.to_str().unwrap()).collect()
    }

    const FILE: &str = "f 644 3 1600.0 7";
    const LATER: &str = "f 644 3 1650.0 7";
    const DIRECTORY: &str = "d 755 0 1600.0 8";

    #[test]
    fn what_is_new_other_or_gone_is_found() {
        let begun = tree(
            &[
                ("a", FILE),
                ("b", FILE),
                ("c", FILE),
                ("d", DIRECTORY),
                ("d/e", FILE),
                ("d/f", FILE),
            ],
            "",
        );
        let known = Known { begun: begun.paths, ..Known::default() };
        let now = tree(&[("a", FILE), ("b", LATER), ("new", DIRECTORY), ("new/x", FILE)], "");
        let found = Difference::of(&known, &now);
        assert_eq!(paths(&found), ["b", "new", "new/x"]);
        assert_eq!(names(&found.gone), ["c", "d"]);
        assert_eq!(found.there[0].2, ReturnedOrigin::Workspace);
        assert_eq!(found.there[1].2, ReturnedOrigin::Session);
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_says_all() {
        let begun = tree(&[("d", DIRECTORY), ("d/e", FILE)], "");
        let known = Known { begun: begun.paths, ..Known::default() };
        let found = Difference::of(&known, &tree(&[("d", LATER)], ""));
        assert_eq!((paths(&found), names(&found.gone)), (vec!["d"], vec![]));
    }

    #[test]
    fn what_is_kept_is_handed_over_again_only_when_it_changed() {
        let known = Known::default();
        let now = tree(&[("a", FILE), ("b", FILE)], "");
        let found = Difference::of(&known, &now);
        assert_eq!(paths(&found), ["a", "b"]);
        let kept = found
            .there
            .iter()
            .map(|(path, stat, _)| (path.clone(), Kept::There(stat.clone(), None)));
        let known = Known { kept: kept.collect(), ..known };
        assert!(Difference::of(&known, &now).is_empty());
        let found = Difference::of(&known, &tree(&[("a", LATER)], ""));
        assert_eq!((paths(&found), names(&found.gone)), (vec!["a"], vec!["b"]));
        let known = Known {
            kept: [("a".into(), Kept::Nothing), ("b".into(), Kept::Nothing)].into(),
            begun: now.paths.clone(),
            ..Known::default()
        };
        assert!(Difference::of(&known, &tree(&[], "")).is_empty());
        assert_eq!(paths(&Difference::of(&known, &now)), ["a", "b"], "they are back");
    }

    #[test]
    fn what_the_guests_rules_exclude_is_counted_unless_it_was_brought_in() {
        let begun = tree(&[("tracked.log", FILE)], "");
        let known = Known { begun: begun.paths, ..Known::default() };
        let entries = [
            ("a.log", FILE),
            ("target", DIRECTORY),
            ("target/x", FILE),
            ("target/y", FILE),
            ("tracked.log", LATER),
        ];
        let found = Difference::of(&known, &tree(&entries, "/target\n*.log"));
        assert_eq!((paths(&found), found.ignored_files), (vec!["tracked.log"], 3));
    }

    #[test]
    fn what_cannot_be_handed_over_is_said() {
        let entries = [
            ("closed", "u 0 0 0 0"),
            ("fifo", "p 644 0 1.0 3"),
            ("huge", "f 644 99999999999 1.0 3"),
        ];
        let found = Difference::of(&Known::default(), &tree(&entries, ""));
        assert!(found.is_empty());
        let left = [
            ("closed", StaysThere::Unreadable),
            ("fifo", StaysThere::Special),
            ("huge", StaysThere::TooLarge),
        ];
        assert_eq!(found.left, left.map(|(path, reason)| (PathBuf::from(path), reason)));
    }

    #[test]
    fn what_is_beneath_a_directory_that_was_closed_is_not_gone() {
        let begun = tree(&[("d", DIRECTORY), ("d/e", FILE)], "");
        let known = Known { begun: begun.paths, ..Known::default() };
        let found = Difference::of(&known, &tree(&[("d", "u 0 0 0 0")], ""));
        assert!(found.gone.is_empty());
        assert_eq!(found.left.len(), 1);
    }
}
