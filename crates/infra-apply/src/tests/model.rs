//! Random edits on both sides, applies, undos, discards and kills, against a model.
//!
//! The session is a model too: what it changed, and what that was. What is real is the planning, the tree, and what
//! happens between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use forge_app::review::{Candidate, Choices, Merged, Resolution, Trees, Version, merge, plan};
use forge_domain::{
    AppliedId, ApplyTarget, Base, Content, Digest, Entry, Placed, ReviewedPath, Step,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::faults::Fault;
use super::{Contents, Faults, Node, Nodes, Place};
use crate::HostTree;

const PATHS: [&str; 7] = ["a", "b", "d/x", "d/y", "d/e/z", "new/n", "d"];

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    Session(usize, Option<Text>),
    Host(usize, Option<Text>),
    Apply { paths: Vec<usize>, conflicts: Way, kill: Option<u64> },
    Undo { paths: Vec<usize>, kill: Option<u64> },
    Discard,
}

/// A text of some lines, of which single ones change.
#[derive(Debug, Clone)]
struct Text {
    lines: [u8; 6],
    mode: bool,
    link: bool,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Leave,
    Ours,
    Theirs,
    Markers,
}

impl Text {
    fn node(&self) -> Node {
        if self.link {
            return Node::Link(format!("target-{}", self.lines[0]).into());
        }
        let lines: String =
            self.lines.iter().enumerate().map(|(at, line)| format!("line {at} {line}\n")).collect();
        Node::File(lines.into_bytes(), if self.mode { 0o755 } else { 0o644 })
    }
}

fn text() -> impl Strategy<Value = Text> + Clone {
    let lines = prop::array::uniform6(prop_oneof![5 => Just(0u8), 1 => 1..3u8]);
    (lines, prop::bool::weighted(0.2), prop::bool::weighted(0.05))
        .prop_map(|(lines, mode, link)| Text { lines, mode, link })
}

fn event() -> impl Strategy<Value = Event> {
    let at = 0..PATHS.len();
    let content = prop::option::weighted(0.75, text());
    let paths = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(at.clone(), 1..3)];
    let kill = prop_oneof![2 => Just(None), 1 => (1..150u64).prop_map(Some)];
    let way = prop_oneof![
        4 => Just(Way::Leave), 1 => Just(Way::Ours), 1 => Just(Way::Theirs), 1 => Just(Way::Markers)
    ];
    prop_oneof![
        6 => (at.clone(), content.clone()).prop_map(|(at, text)| Event::Session(at, text)),
        4 => (at, content).prop_map(|(at, text)| Event::Host(at, text)),
        4 => (paths.clone(), way, kill.clone())
            .prop_map(|(paths, conflicts, kill)| Event::Apply { paths, conflicts, kill }),
        2 => (paths, kill).prop_map(|(paths, kill)| Event::Undo { paths, kill }),
        1 => Just(Event::Discard),
    ]
}

/// What the session is known by.
#[derive(Debug, Clone)]
struct Noted {
    node: Option<Node>,
    base: Base,
    /// What the base held.
    was: Option<Node>,
    before: Vec<(AppliedId, Base, Option<Node>)>,
}

struct World {
    place: Place,
    session: BTreeMap<PathBuf, Noted>,
    gone_directories: BTreeSet<PathBuf>,
    /// For each apply that may be undone: the tree before it and after it.
    applies: Vec<(AppliedId, Nodes, Nodes)>,
}

fn entry(node: &Node) -> Entry {
    match node {
        Node::File(bytes, mode) => Entry::File {
            size_bytes: bytes.len() as u64,
            digest: Digest::new(blake3::hash(bytes).into()),
            mode: *mode,
        },
        Node::Link(target) => Entry::Symlink { target: target.clone() },
        Node::Directory => Entry::Directory { mode: 0o755 },
    }
}

struct SessionTrees<'a> {
    tree: &'a HostTree,
    host: &'a Nodes,
    session: &'a BTreeMap<PathBuf, Noted>,
}

impl Trees for SessionTrees<'_> {
    fn host(&self, path: &Path) -> io::Result<Option<Entry>> {
        let path = ReviewedPath::parse(path).map_err(io::Error::other)?;
        self.tree.look_roughly(&path)
    }

    fn session_directory(&self, _path: &ReviewedPath) -> Option<u32> {
        Some(0o755)
    }

    fn contents(&self, version: Version, path: &ReviewedPath, _max: u64) -> io::Result<Vec<u8>> {
        let noted = &self.session[path.as_path()];
        let node = match version {
            Version::Base => noted.was.as_ref(),
            Version::Session => noted.node.as_ref(),
            Version::Host => self.host.get(path.as_path()),
        };
        match node {
            Some(Node::File(bytes, _)) => Ok(bytes.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl World {
    /// What the session sees: its own, and else the host's.
    fn seen(&self, host: &Nodes, path: &Path) -> Option<Node> {
        match self.session.get(path) {
            Some(noted) => noted.node.clone(),
            None => host.get(path).filter(|node| **node != Node::Directory).cloned(),
        }
    }

    fn note(&mut self, host: &Nodes, path: &Path, node: Option<Node>) {
        match self.session.get_mut(path) {
            Some(noted) => noted.node = node,
            None => {
                let was = host.get(path).cloned();
                if was.is_none() && node.is_none() {
                    return;
                }
                let base = was.as_ref().map_or(Base::Absent, |node| Base::Known(entry(node)));
                let noted = Noted { node, base, was, before: Vec::new() };
                self.session.insert(path.to_path_buf(), noted);
            }
        }
    }

    fn session_edit(&mut self, path: &Path, node: Option<Node>) {
        let host = self.place.nodes();
        // A file above stays a file: the session would have to remove it first.
        let is_below_file = path.ancestors().skip(1).any(|above| self.seen(&host, above).is_some());
        if is_below_file {
            return;
        }
        let below: Vec<PathBuf> = host.keys().chain(self.session.keys()).cloned().collect();
        if path == Path::new("d") {
            for below in below.iter().filter(|below| below.starts_with("d") && *below != path) {
                if self.seen(&host, below).is_some() {
                    self.note(&host, below, None);
                }
                if host.get(below) == Some(&Node::Directory) {
                    self.gone_directories.insert(below.clone());
                }
            }
            if node.is_none() && host.get(path) == Some(&Node::Directory) {
                self.gone_directories.insert(path.to_path_buf());
            }
        } else if node.is_some() {
            self.gone_directories.retain(|gone| !path.starts_with(gone));
            // What was a file and is gone is a directory again.
            for above in path.ancestors().skip(1) {
                if let Some(noted) = self.session.get_mut(above) {
                    noted.node = Some(Node::Directory);
                }
            }
        }
        if node.is_none() && self.seen(&host, path).is_none() {
            return;
        }
        self.note(&host, path, node);
    }

    #[expect(clippy::disallowed_methods, reason = "the user's own tree")]
    fn host_edit(&self, path: &Path, node: Option<&Node>) {
        let at = self.place.root().join(path);
        let is_below_file = path.ancestors().skip(1).any(|above| {
            let above = self.place.root().join(above);
            above.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir())
        });
        if is_below_file {
            return;
        }
        match at.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&at).unwrap(),
            Ok(_) => std::fs::remove_file(&at).unwrap(),
            Err(_) => {}
        }
        if let Some(node) = node {
            self.place.fill(&[(path.to_path_buf(), node.clone())].into());
        }
    }

    fn apply(&mut self, paths: &[usize], way: Way, kill: Option<u64>) {
        let before = self.place.nodes();
        let tree = self.place.tree();
        let candidates: Vec<Candidate> = self
            .session
            .iter()
            .map(|(path, noted)| Candidate {
                path: path.clone(),
                base: noted.base.clone(),
                session: noted.node.as_ref().map(entry),
                host: tree.look(&super::path(path)).unwrap(),
            })
            .collect();
        let choices = Choices {
            paths: paths.iter().map(|at| PathBuf::from(PATHS[*at])).collect(),
            conflicts: match way {
                Way::Leave => Resolution::Leave,
                Way::Ours => Resolution::Ours,
                Way::Theirs => Resolution::Theirs,
                Way::Markers => Resolution::Markers,
            },
            ..Choices::default()
        };
        let trees = SessionTrees { tree: &tree, host: &before, session: &self.session };
        let gone: Vec<PathBuf> = self.gone_directories.iter().cloned().collect();
        let plan = plan(&self.place.root(), &candidates, &gone, &choices, &trees);
        let mut contents = Contents::default();
        for (path, noted) in &self.session {
            if let Some(Node::File(bytes, _)) = &noted.node {
                contents.0.insert(path.clone(), bytes.clone());
            }
        }
        let expected = replayed(&before, &plan.steps, &contents);
        self.check(&before, &expected, &choices.paths, way);
        let done = match (plan.steps.is_empty(), kill) {
            (true, _) => None,
            (_, None) => match tree.apply("s", &plan.steps, &contents) {
                Ok(applied) => Some(applied),
                // What is not empty cannot become a file: it is left as it is.
                Err(forge_domain::ApplyError::Changed { .. }) => None,
                Err(error) => panic!("{error:?}"),
            },
            (_, Some(kill)) => {
                let faults = Faults::new(Fault::Kill(kill));
                self.place.tree_with(&faults).apply("s", &plan.steps, &contents).ok()
            }
        };
        tree.recover().unwrap();
        let after = self.place.nodes();
        let Some(applied) = done else {
            assert!(
                after == before || after == expected,
                "neither the old tree nor the new one: {after:#?}"
            );
            // It is on the host, and the session does not know: what it has is the same, so nothing is lost.
            if after != before {
                self.applies.clear();
            }
            return;
        };
        assert_eq!(after, expected);
        for path in applied.paths.iter().map(|one| &one.path).chain(&plan.settled) {
            if let Some(noted) = self.session.get_mut(path.as_path()) {
                let base =
                    noted.node.as_ref().map_or(Base::Absent, |node| Base::Known(entry(node)));
                let is_applied = applied.paths.iter().any(|one| one.path == *path);
                let base = std::mem::replace(&mut noted.base, base);
                let was = std::mem::replace(&mut noted.was, noted.node.clone());
                if is_applied {
                    noted.before.push((applied.id.clone(), base, was));
                }
            }
        }
        self.applies.push((applied.id, before, after));
    }

    /// Every path is what the host had, what the session has, or a merge of both; what the host changed by itself is
    /// overwritten only where the user says so.
    fn check(&self, before: &Nodes, after: &Nodes, chosen: &[PathBuf], way: Way) {
        let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
        for path in paths {
            let (was, is) = (before.get(path), after.get(path));
            if was == is || was.is_none() && is == Some(&Node::Directory) {
                continue;
            }
            if was == Some(&Node::Directory) && is.is_none() {
                let is_gone = self.session.get(path).is_some_and(|noted| noted.node.is_none());
                assert!(is_gone || self.gone_directories.contains(path), "{path:?} was removed");
                continue;
            }
            let is_chosen = chosen.is_empty() || chosen.iter().any(|above| path.starts_with(above));
            let noted = self.session.get(path).filter(|_| is_chosen);
            let noted = noted.unwrap_or_else(|| panic!("{path:?} was changed by nobody"));
            let is_free = noted.base.is(was.map(entry).as_ref());
            if (is_free || matches!(way, Way::Theirs)) && same(is, noted.node.as_ref()) {
                continue;
            }
            let merged = match (&noted.was, was, &noted.node) {
                (
                    Some(Node::File(base, _)),
                    Some(Node::File(host, _)),
                    Some(Node::File(session, _)),
                ) => merge(base, host, session),
                _ => panic!("{path:?} was overwritten: {was:?} by {is:?}"),
            };
            let Some(Node::File(bytes, _)) = is else { panic!("{path:?} is no file") };
            match merged {
                Merged::Clean(merged) => assert_eq!(*bytes, merged),
                Merged::Conflict(marked) if matches!(way, Way::Markers) => {
                    assert_eq!(*bytes, marked)
                }
                other => panic!("{path:?} was overwritten: {other:?}"),
            }
        }
    }

    fn undo(&mut self, paths: &[usize], kill: Option<u64>) {
        let before = self.place.nodes();
        let tree = self.place.tree();
        let chosen: Vec<&str> = paths.iter().map(|at| PATHS[*at]).collect();
        let is_chosen = |path: &ReviewedPath| {
            chosen.is_empty() || chosen.iter().any(|above| path.as_path().starts_with(above))
        };
        let faults = Faults::new(kill.map_or(Fault::None, Fault::Kill));
        let undone = self.place.tree_with(&faults).undo(None, &is_chosen, &|_| false);
        tree.recover().unwrap();
        let after = self.place.nodes();
        let Ok(undone) = undone else {
            if after != before {
                // It was taken back, and the session does not know.
                self.applies.clear();
            }
            return;
        };
        let known = self.applies.iter().find(|(id, ..)| *id == undone.of);
        for one in &undone.restored {
            let path = one.path.as_path();
            if let Some((_, old, new)) = known
                && !one.is_directory()
            {
                // Or somebody has taken it back by hand.
                if one.before != one.after {
                    assert_eq!(before.get(path), new.get(path), "{path:?} was changed since");
                }
                assert_eq!(after.get(path), old.get(path), "{path:?} is not as before");
            }
            if let Some(noted) = self.session.get_mut(path) {
                let place = noted.before.iter().position(|(id, ..)| *id == undone.of);
                match place.and_then(|place| noted.before.drain(place..).next()) {
                    Some((_, base, was)) => (noted.base, noted.was) = (base, was),
                    None => (noted.base, noted.was) = (Base::Unknown, None),
                }
            }
        }
        let restored: BTreeSet<&Path> =
            undone.restored.iter().map(|one| one.path.as_path()).collect();
        for path in before.keys().chain(after.keys()) {
            let is_directory = [before.get(path), after.get(path)]
                .into_iter()
                .flatten()
                .all(|node| *node == Node::Directory);
            if !restored.contains(&**path) && !is_directory {
                assert_eq!(before.get(path), after.get(path), "{path:?} was none of an undo's");
            }
        }
    }
}

/// Whether something is as the session has it; a mode may be the host's.
fn same(is: Option<&Node>, session: Option<&Node>) -> bool {
    match (is, session) {
        (Some(Node::File(is, _)), Some(Node::File(session, _))) => is == session,
        (is, session) => is == session,
    }
}

/// The tree after the steps.
fn replayed(before: &Nodes, steps: &[Step], contents: &Contents) -> Nodes {
    let mut nodes = before.clone();
    for step in steps {
        let path = step.path.as_path();
        match &step.after {
            Placed::Nothing => drop(nodes.remove(path)),
            Placed::NothingIfEmpty => {
                if !nodes.keys().any(|below| below != path && below.starts_with(path)) {
                    nodes.remove(path);
                }
            }
            Placed::Directory { .. } => drop(nodes.insert(path.to_path_buf(), Node::Directory)),
            Placed::Symlink { target } => {
                nodes.insert(path.to_path_buf(), Node::Link(target.clone()));
            }
            Placed::File { mode, content } => {
                let bytes = match content {
                    Content::Session { .. } => contents.0[path].clone(),
                    Content::Merged { bytes, .. } => bytes.clone(),
                };
                nodes.insert(path.to_path_buf(), Node::File(bytes, *mode));
            }
        }
    }
    nodes
}

fn live(events: &[Event]) {
    let place = Place::in_memory();
    let node = Text { lines: [0; 6], mode: false, link: false }.node();
    place.fill(&["a", "d/x", "d/y"].map(|path| (path.into(), node.clone())).into());
    let mut world = World {
        place,
        session: BTreeMap::new(),
        gone_directories: BTreeSet::new(),
        applies: Vec::new(),
    };
    for event in events {
        match event {
            Event::Session(at, text) => {
                world.session_edit(Path::new(PATHS[*at]), text.as_ref().map(Text::node));
            }
            Event::Host(at, text) => {
                world.host_edit(Path::new(PATHS[*at]), text.as_ref().map(Text::node).as_ref());
            }
            Event::Apply { paths, conflicts, kill } => world.apply(paths, *conflicts, *kill),
            Event::Undo { paths, kill } => world.undo(paths, *kill),
            Event::Discard => {
                world.session.clear();
                world.gone_directories.clear();
            }
        }
    }
    // Nothing of ours is left in the tree.
    let names = world.place.nodes();
    assert!(!names.keys().any(|path| path.starts_with(".forge")), "{names:#?}");
    let left = names.keys().filter(|path| path.to_string_lossy().contains(".forge-apply"));
    assert_eq!(left.count(), 0);
}

/// So many cases, always the same ones.
fn cases(count: u32) {
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let events = prop::collection::vec(event(), 1..25);
    if let Err(error) = runner.run(&events, |events| {
        live(&events);
        Ok(())
    }) {
        panic!("{error}");
    }
}

#[test]
fn whatever_happens_nothing_of_the_users_is_lost_and_an_undo_is_exact() {
    cases(500);
}

#[test]
#[ignore = "needs some minutes"]
fn whatever_happens_nothing_is_lost_twenty_thousand_times() {
    cases(20_000);
}
