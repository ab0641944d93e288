//! Random edits of a real session and of the host, applies of some paths, undos, discards and kills, against a model.
//!
//! The session's edits are made by a shell in the sandbox, what it holds is read from its layers on the disk, and what
//! is killed is the program itself. The model knows what each path was when the session began to differ from it.
//! It is long, since the model, what makes events, and what is checked after each of them are read together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use forge_api::planning::{Choices, Merged, Resolution, merge};
use forge_api::{
    ApplyError, CommandIo, CommandRequest, Commands, Ending, HelperProgram, Lifecycle, Program,
    Review, ReviewError, ReviewedPath, SandboxConfig, SandboxEnvironment, SessionStore,
    WorkspaceLocation, undo_apply,
};
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tempfile::TempDir;

use super::nodes::{Node, Nodes, tree, view};
use super::trace;

const PATHS: [&str; 7] = ["a", "b", "d/x", "d/y", "d/e/z", "new/n", "d"];

/// Longer than moments of the kernel's clock for inodes are taken to be wrong against each other.
const PAUSE: Duration = Duration::from_millis(120);

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// One use of the session, in which the host may be edited, too.
    Use {
        edits: Vec<(usize, Edit)>,
        meanwhile: Option<(usize, Option<Text>)>,
    },
    Host(usize, Option<Text>),
    Apply {
        paths: Vec<usize>,
        way: Resolution,
        kill: Option<u64>,
    },
    Undo {
        paths: Vec<usize>,
        kill: Option<u64>,
    },
    Discard,
    /// So much time that the times of files tell what was before and what after.
    Pause,
}

/// What a session does to a path.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// A new file in the place of whatever is there.
    Replace(Text),
    /// The same file with other contents.
    Write(Text),
    /// The file of another path, moved.
    Move(usize),
    /// Another time stamp and nothing else.
    Touch,
    Directory,
    Remove,
}

/// A file of some lines, of which single ones change.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) lines: [u8; 6],
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Executable,
    NoNewline,
    Binary,
    Link,
}

impl Text {
    fn node(&self) -> Node {
        if self.kind == Kind::Link {
            return Node::Link(format!("target-{}", self.lines[0]).into());
        }
        let mut text: String =
            self.lines.iter().enumerate().map(|(at, line)| format!("line {at} {line}\n")).collect();
        match self.kind {
            Kind::Binary => text.push('\0'),
            Kind::NoNewline => drop(text.pop()),
            Kind::Plain | Kind::Executable | Kind::Link => {}
        }
        Node::File(text.into_bytes(), if self.kind == Kind::Executable { 0o755 } else { 0o644 })
    }
}

fn text() -> impl Strategy<Value = Text> + Clone {
    let lines = prop::array::uniform6(prop_oneof![5 => Just(0u8), 1 => 1..3u8]);
    let kind = prop_oneof![
        20 => Just(Kind::Plain), 4 => Just(Kind::Executable), 2 => Just(Kind::NoNewline),
        1 => Just(Kind::Binary), 1 => Just(Kind::Link)
    ];
    (lines, kind).prop_map(|(lines, kind)| Text { lines, kind })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => text().prop_map(Edit::Replace),
        4 => text().prop_map(Edit::Write),
        1 => (0..PATHS.len()).prop_map(Edit::Move),
        1 => Just(Edit::Touch),
        1 => Just(Edit::Directory),
        2 => Just(Edit::Remove),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let at = 0..PATHS.len();
    let host = (at.clone(), prop::option::weighted(0.75, text()));
    let paths = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(at.clone(), 1..3)];
    let kill = prop_oneof![3 => Just(None), 1 => (0..70u64).prop_map(Some)];
    let way = prop_oneof![
        4 => Just(Resolution::Leave), 1 => Just(Resolution::Ours),
        1 => Just(Resolution::Theirs), 1 => Just(Resolution::Markers)
    ];
    let used =
        (prop::collection::vec((at, edit()), 1..4), prop::option::weighted(0.2, host.clone()));
    prop_oneof![
        20 => used.prop_map(|(edits, meanwhile)| Event::Use { edits, meanwhile }),
        16 => host.prop_map(|(at, text)| Event::Host(at, text)),
        16 => (paths.clone(), way, kill.clone())
            .prop_map(|(paths, way, kill)| Event::Apply { paths, way, kill }),
        12 => (paths, kill).prop_map(|(paths, kill)| Event::Undo { paths, kill }),
        4 => Just(Event::Discard),
        1 => Just(Event::Pause),
    ]
}

/// What a path was when the session began to differ from it, as far as the model knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Base {
    Known(Option<Node>),
    Unknown,
}

/// What the model knows of a path of the session.
#[derive(Debug, Clone)]
struct Noted {
    /// What it may count as: after a kill, either of two.
    bases: Vec<Base>,
    /// What the session had when it was dealt with; that does not wait.
    dealt: Vec<Option<Node>>,
    /// What it was before each apply.
    before: Vec<(String, Vec<Base>)>,
}

/// An apply that can be taken back.
#[derive(Debug)]
struct Applied {
    id: String,
    before: Nodes,
    after: Nodes,
    /// What is not taken back yet.
    left: BTreeSet<PathBuf>,
}

pub(crate) struct World {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    noted: BTreeMap<PathBuf, Noted>,
    applies: Vec<Applied>,
}

impl World {
    fn new() -> Self {
        // In memory, where there is room for that.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for name in ["project/d", "home", "state"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let world = Self { directory, runtime, noted: BTreeMap::new(), applies: Vec::new() };
        for path in ["a", "d/x", "d/y"] {
            let text = Text { lines: [0; 6], kind: Kind::Plain };
            world.host_edit(Path::new(path), Some(&text));
        }
        world
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("project")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn store(&self) -> SessionStore {
        SessionStore::new(self.state()).helper(helper())
    }

    fn host(&self) -> Nodes {
        let nodes = tree(&self.project());
        let ours = nodes.keys().find(|path| path.to_string_lossy().starts_with(".forge"));
        assert_eq!(ours, None, "something of an apply is left");
        nodes
    }

    /// The layer of the session, where there is one.
    fn upper(&self) -> Option<PathBuf> {
        let session = self.store().newest(&self.project()).unwrap()?;
        Some(self.state().join("sessions").join(session.id.as_str()).join("upper"))
    }

    /// What the session sees, and what of it is in its own layer.
    fn seen(&self) -> (Nodes, BTreeSet<PathBuf>) {
        match self.upper() {
            Some(upper) => view(&upper, &self.project()),
            None => (self.host(), BTreeSet::new()),
        }
    }

    /// Edits a file of the project, and says whether there was anything to edit.
    fn host_edit(&self, path: &Path, text: Option<&Text>) -> bool {
        let at = self.project().join(path);
        let is_below_file = path.ancestors().skip(1).any(|above| {
            let metadata = self.project().join(above).symlink_metadata();
            metadata.is_ok_and(|metadata| !metadata.is_dir())
        });
        if is_below_file {
            return false;
        }
        match at.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&at).unwrap(),
            Ok(_) => fs::remove_file(&at).unwrap(),
            Err(_) if text.is_none() => return false,
            Err(_) => {}
        }
        let Some(text) = text else { return true };
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match text.node() {
            Node::File(bytes, mode) => {
                fs::write(&at, bytes).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
            }
            Node::Link(target) => std::os::unix::fs::symlink(target, &at).unwrap(),
            Node::Directory => fs::create_dir(&at).unwrap(),
        }
        true
    }

    /// One use of the session: the edits, what the host does before its end, and the end.
    fn used(&mut self, edits: &[(usize, Edit)], meanwhile: Option<&(usize, Option<Text>)>) {
        let before = self.host();
        let (seen_before, own_before) = self.seen();
        let config = SandboxConfig::new(self.state()).helper(helper());
        let root = self.project();
        let location = WorkspaceLocation { working_directory: root.clone(), root };
        let script: String = edits.iter().map(|(at, edit)| script(PATHS[*at], edit)).collect();
        let world = &*self;
        let meanwhile = self.runtime.block_on(async {
            let environment = SandboxEnvironment::new(config, location);
            let request = CommandRequest::new(Program::shell(format!("umask 022\n{script}:")));
            let exit = environment.run(request, CommandIo::detached()).await.unwrap();
            assert_eq!(exit.ending, Ending::Exited(0));
            let edited = meanwhile
                .filter(|(at, text)| world.host_edit(Path::new(PATHS[*at]), text.as_ref()));
            environment.close().await.unwrap();
            edited
        });
        let host = self.host();
        let (seen, own) = self.seen();
        let outdated = self.taken_in(edits, meanwhile, &before, (&seen_before, &own_before), &seen);
        let paths: BTreeSet<&PathBuf> = seen.keys().chain(host.keys()).chain(&own).collect();
        let mut noted = std::mem::take(&mut self.noted);
        noted.retain(|path, noted| {
            if own.contains(path) || seen.get(path) != host.get(path) {
                return true;
            }
            // Neither has it; an undo may bring it back.
            noted.bases = vec![Base::Known(None)];
            !noted.before.is_empty()
        });
        for path in paths {
            let differs = own.contains(path) || seen.get(path) != host.get(path);
            if !differs || noted.contains_key(path) {
                continue;
            }
            // Where the host was edited in this use, nobody can say what the session began with.
            let is_sure = seen.get(path) == host.get(path)
                || meanwhile.is_none_or(|(at, _)| {
                let edited = Path::new(PATHS[*at]);
                !path.starts_with(edited) && !edited.starts_with(path)
            }) && before.get(path) == host.get(path)
                // It differed before: the host has changed it where the session did not see that.
                && seen_before.get(path) == before.get(path);
            let known = Base::Known(host.get(path).cloned());
            // It came with a directory that was taken in, and was edited then.
            let is_taken_in = path.ancestors().skip(1).any(|above| outdated.contains(above));
            let bases = match (is_sure, host.contains_key(path)) {
                (false, true) if is_taken_in => vec![Base::Unknown, known],
                // One that was moved here looks like a copy of one that the host has deleted, where the host made or
                // deleted anything beside it in this use.
                (true, false) if meanwhile.is_some() => vec![Base::Unknown, known],
                (true, _) => vec![known],
                // What is not there on the host is nothing that could be lost.
                (false, false) => vec![Base::Unknown, known],
                (false, true) => vec![Base::Unknown],
            };
            noted.insert(path.clone(), Noted { bases, dealt: Vec::new(), before: Vec::new() });
        }
        self.noted = noted;
        self.waits();
    }

    /// What the session left as it was dealt with follows the host, from the begin of a use on; says which paths these
    /// are.
    fn taken_in(
        &mut self,
        edits: &[(usize, Edit)],
        meanwhile: Option<&(usize, Option<Text>)>,
        before: &Nodes,
        (seen_before, own_before): (&Nodes, &BTreeSet<PathBuf>),
        seen: &Nodes,
    ) -> BTreeSet<PathBuf> {
        let mut edited: Vec<&str> = meanwhile.iter().map(|(at, _)| PATHS[*at]).collect();
        for (at, edit) in edits {
            edited.push(PATHS[*at]);
            if let Edit::Move(from) = edit {
                edited.push(PATHS[*from]);
            }
        }
        let mut outdated = BTreeSet::new();
        for (path, noted) in &mut self.noted {
            let (had, host) = (seen_before.get(path), before.get(path));
            let is_left_alone = noted.bases.contains(&Base::Known(had.cloned()));
            let now = Base::Known(host.cloned());
            // Where both had dropped it and the session has nothing of its own, it sees what the host has put there, and
            // goes on from that.
            let is_the_hosts = had == host && host.is_some() && !own_before.contains(path);
            if is_the_hosts
                && noted.bases.contains(&Base::Known(None))
                && !noted.bases.contains(&now)
            {
                noted.bases.push(now);
                continue;
            }
            if had == host || !is_left_alone {
                continue;
            }
            outdated.insert(path.clone());
            let is_edited = edited.iter().any(|edited| {
                let edited = Path::new(edited);
                path.starts_with(edited) || edited.starts_with(path)
            });
            if is_edited {
                noted.bases.push(now);
            } else if seen.get(path) == host {
                noted.bases = vec![now];
            } else {
                let is_plain = ![had, host].into_iter().any(Node::is_directory);
                let mut above = path.ancestors().skip(1).filter(|above| *above != Path::new(""));
                let has_place = above.all(|above| {
                    Node::is_directory(seen.get(above)) && Node::is_directory(before.get(above))
                });
                let is_sure = noted.bases.len() == 1 && is_plain && has_place;
                assert!(!is_sure, "{path:?} does not follow the host: {host:?}, {noted:?}");
            }
        }
        outdated
    }

    /// Whatever the session has and the host has not is listed, unless it was dealt with.
    fn waits(&self) {
        let Some(session) = self.store().newest(&self.project()).unwrap() else { return };
        let layers = self.store().layers(&session.id).unwrap();
        let listed: BTreeSet<PathBuf> =
            layers.changes().unwrap().changes.into_iter().map(|change| change.path).collect();
        let (host, (seen, _)) = (self.host(), self.seen());
        for path in seen.keys().chain(host.keys()).collect::<BTreeSet<_>>() {
            let (there, here) = (host.get(path), seen.get(path));
            let is_directory = Node::is_directory(there) || Node::is_directory(here);
            if there == here || is_directory || listed.contains(path) {
                continue;
            }
            let noted = self.noted.get(path);
            let is_dealt =
                noted.is_some_and(|noted| noted.dealt.iter().any(|one| one.as_ref() == here));
            // The host's is newer than what the session has left as it was.
            let is_as_begun =
                noted.is_some_and(|noted| noted.bases.contains(&Base::Known(here.cloned())));
            assert!(is_dealt || is_as_begun, "{path:?} does not wait: {here:?}, {noted:?}");
        }
    }

    fn forge(&self, arguments: &[&str]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "the tests run the binary")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_forge"));
        command.args(arguments).current_dir(self.project()).env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.directory.path().join("home"));
        command.env("FORGE_STATE_DIR", self.state());
        command
    }

    /// The names of all applies, by time.
    fn ids(&self) -> BTreeSet<String> {
        let Ok(trees) = fs::read_dir(self.state().join("applies")) else { return BTreeSet::new() };
        let names = trees.flat_map(|tree| fs::read_dir(tree.unwrap().path()).unwrap());
        let names = names.map(|entry| entry.unwrap());
        let names = names.filter(|entry| entry.path().join("journal.json").exists());
        names.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    fn apply(&mut self, paths: &[usize], way: Resolution, kill: Option<u64>) {
        let Some(session) = self.store().newest(&self.project()).unwrap() else { return };
        let before = self.host();
        let (mine, _) = self.seen();
        let choices = Choices {
            paths: paths.iter().map(|at| PathBuf::from(PATHS[*at])).collect(),
            conflicts: way,
            // The session's symlinks lead to nowhere within.
            ..Choices::default()
        };
        let review =
            || Review::new(self.store().lock(&session.id).unwrap(), &self.project(), &self.state());
        let known = self.ids();
        if let Some(kill) = kill {
            let planned = review().unwrap();
            let plan = planned.plan(&choices);
            planned.close().unwrap();
            if self.store().newest(&self.project()).unwrap().is_none() {
                return;
            }
            let mut arguments = vec!["apply", "--yes"];
            match way {
                Resolution::Leave => {}
                Resolution::Ours => arguments.push("--ours"),
                Resolution::Theirs => arguments.push("--theirs"),
                Resolution::Markers => arguments.push("--merge"),
            }
            arguments.extend(paths.iter().map(|at| PATHS[*at]));
            let (ending, _) = trace::run(&self.forge(&arguments), Some(kill)).unwrap();
            self.recovered();
            let after = self.host();
            let merged: Vec<&Path> = plan.merged.iter().map(|path| path.as_path()).collect();
            let changed: Vec<&Path> = plan.steps.iter().map(|step| step.path.as_path()).collect();
            let is_done = after != before;
            if is_done {
                for path in &changed {
                    let (is, was) = (after.get(*path), before.get(*path));
                    let stays = Node::is_directory(was) || merged.contains(path);
                    assert!(stays || is != was, "{path:?} was left out of {changed:?}, {ending:?}");
                }
            }
            self.check(&before, &after, &mine, &choices);
            for path in &plan.settled {
                {
                    let noted = self.noted_at(path.as_path());
                    noted.dealt.push(mine.get(path.as_path()).cloned());
                    noted.bases.push(Base::Known(mine.get(path.as_path()).cloned()));
                }
            }
            if is_done {
                let id = self.ids().difference(&known).last().unwrap().clone();
                let left = self.settle(&id, changed.iter().map(|path| path.to_path_buf()), &mine);
                // Whether the session was told is open where it was merged.
                for path in &changed {
                    {
                        let noted = self.noted_at(path);
                        let (_, bases) = noted.before.last().unwrap().clone();
                        noted.bases.extend(bases);
                    }
                }
                self.applies.push(Applied { id, before, after, left });
            }
            self.waits();
            return;
        }
        let review = review().unwrap();
        let report = match review.apply(&choices) {
            Ok(report) => report,
            // Directories that are no longer empty, say.
            Err(ReviewError::Apply(ApplyError::Changed { .. })) => {
                review.close().unwrap();
                assert_eq!(self.host(), before);
                return;
            }
            Err(error) => panic!("{error:?}"),
        };
        review.close().unwrap();
        let after = self.host();
        self.check(&before, &after, &mine, &choices);
        self.useful(&before, &after, &mine, &choices);
        for path in &report.plan.settled {
            {
                let noted = self.noted_at(path.as_path());
                noted.dealt.push(mine.get(path.as_path()).cloned());
                noted.bases = vec![Base::Known(mine.get(path.as_path()).cloned())];
            }
        }
        if let Some(applied) = &report.applied {
            let paths = applied.paths.iter().map(|one| one.path.as_path().to_path_buf());
            let left = self.settle(applied.id.as_str(), paths, &mine);
            let id = applied.id.as_str().to_owned();
            self.applies.push(Applied { id, before, after, left });
        } else {
            assert_eq!(after, before);
        }
        self.waits();
    }

    fn noted_at(&mut self, path: &Path) -> &mut Noted {
        // What nobody has noted is unknown.
        let noted = || Noted { bases: vec![Base::Unknown], dealt: Vec::new(), before: Vec::new() };
        self.noted.entry(path.to_path_buf()).or_insert_with(noted)
    }

    /// Notes what an apply dealt with.
    fn settle(
        &mut self,
        id: &str,
        paths: impl Iterator<Item = PathBuf>,
        mine: &Nodes,
    ) -> BTreeSet<PathBuf> {
        let paths: BTreeSet<PathBuf> = paths.collect();
        for path in &paths {
            {
                let noted = self.noted_at(path);
                noted.dealt.push(mine.get(path).cloned());
                let base = vec![Base::Known(mine.get(path).cloned())];
                let before = std::mem::replace(&mut noted.bases, base);
                noted.before.push((id.to_owned(), before));
            }
        }
        paths
    }

    /// The next command finds an apply that was killed.
    fn recovered(&self) {
        trace::run(&self.forge(&["diff", "--name-only"]), None).unwrap();
    }

    /// Every path is what the host had, what the session has, or a merge of both; what the host changed by itself is
    /// overwritten only where the user says so.
    fn check(&self, before: &Nodes, after: &Nodes, mine: &Nodes, choices: &Choices) {
        for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (was, is, session) = (before.get(path), after.get(path), mine.get(path));
            if was == is {
                continue;
            }
            if Node::is_directory(was) && is.is_none() {
                assert!(!Node::is_directory(session), "{path:?} was removed");
                continue;
            }
            let chosen = &choices.paths;
            let is_chosen = chosen.is_empty() || chosen.iter().any(|above| path.starts_with(above));
            if Node::is_directory(is) && !is_chosen {
                assert!(was.is_none() && Node::is_directory(session), "{path:?} was made");
                continue;
            }
            assert!(is_chosen, "{path:?} was changed by nobody");
            let noted = self.noted.get(path);
            let bases = noted.map(|noted| &*noted.bases).unwrap_or_default();
            let is_free = Node::is_directory(is) && was.is_none()
                || bases
                    .iter()
                    .any(|base| matches!(base, Base::Known(base) if same(base.as_ref(), was)));
            if (is_free || choices.conflicts == Resolution::Theirs) && same(is, session) {
                continue;
            }
            let explains = |base: &Base| {
                let Base::Known(Some(Node::File(base, _))) = base else { return false };
                let (Some(Node::File(was, _)), Some(Node::File(is, _)), Some(Node::File(mine, _))) =
                    (was, is, session)
                else {
                    return false;
                };
                if mine == base {
                    return is == was;
                }
                match merge(base, was, mine) {
                    Merged::Clean(merged) => *is == merged,
                    Merged::Conflict(marked) => {
                        choices.conflicts == Resolution::Markers && *is == marked
                    }
                    Merged::NotText => false,
                }
            };
            assert!(
                bases.iter().any(explains),
                "{path:?} was overwritten: {was:?} by {is:?}; the session has {session:?}, {noted:?}"
            );
        }
    }

    /// What the session alone has changed is applied.
    fn useful(&self, before: &Nodes, after: &Nodes, mine: &Nodes, choices: &Choices) {
        for (path, noted) in &self.noted {
            let (was, is, session) = (before.get(path), after.get(path), mine.get(path));
            let is_chosen = choices.paths.is_empty()
                || choices.paths.iter().any(|above| path.starts_with(above));
            let [Base::Known(base)] = &*noted.bases else { continue };
            let is_directory = [was, is, session].into_iter().any(Node::is_directory);
            let is_above_in_the_way = path.ancestors().skip(1).any(|above| {
                let above = before.get(above);
                above.is_some() && !Node::is_directory(above)
            });
            if is_chosen && !is_directory && !is_above_in_the_way && base.as_ref() == was {
                assert!(
                    same(is, session),
                    "{path:?} was not applied: {was:?}, {session:?}, {is:?}"
                );
            }
        }
    }

    fn undo(&mut self, paths: &[usize], kill: Option<u64>) {
        let before = self.host();
        let chosen: Vec<&str> = paths.iter().map(|at| PATHS[*at]).collect();
        let is_chosen =
            |path: &Path| chosen.is_empty() || chosen.iter().any(|above| path.starts_with(above));
        let mut meant = self
            .applies
            .iter()
            .rposition(|applied| applied.left.iter().any(|path| is_chosen(path)));
        if let Some(kill) = kill {
            let mut arguments = vec!["apply", "--undo"];
            arguments.extend(&chosen);
            trace::run(&self.forge(&arguments), Some(kill)).unwrap();
            self.recovered();
        } else {
            let undone = undo_apply(
                &self.store(),
                &self.project(),
                &self.state(),
                None,
                &|path: &ReviewedPath| is_chosen(path.as_path()),
                &|_| false,
            );
            match undone {
                Ok(undone) => {
                    let of = |applied: &Applied| applied.id == undone.of.as_str();
                    let of = self.applies.iter().position(of).unwrap();
                    // Of newer ones nothing was left, or what was left is as before by other hands.
                    for newer in &self.applies[of + 1..] {
                        let mut left = newer.left.iter().filter(|path| is_chosen(path));
                        assert!(left.all(|path| before.get(path) == newer.before.get(path)));
                    }
                    meant = Some(of);
                }
                Err(ReviewError::Apply(ApplyError::NothingApplied)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        let after = self.host();
        if kill.is_some() && after != before {
            let is_changed = |path: &PathBuf| before.get(path) != after.get(path);
            meant = self.applies.iter().rposition(|applied| applied.left.iter().any(is_changed));
        }
        let Some(meant) = meant else {
            assert_eq!(after, before);
            return;
        };
        let applied = &mut self.applies[meant];
        let mut restored = BTreeSet::new();
        for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            if before.get(path) == after.get(path) {
                continue;
            }
            assert!(
                applied.left.contains(path) && is_chosen(path),
                "{path:?} was none of an undo's"
            );
            assert_eq!(before.get(path), applied.after.get(path), "{path:?} was changed since");
            assert_eq!(after.get(path), applied.before.get(path), "{path:?} is not as before");
            restored.insert(path.clone());
        }
        if kill.is_none() || !restored.is_empty() {
            // Nothing that could be taken back is left behind.
            for path in applied.left.iter().filter(|path| is_chosen(path)) {
                let (was, ours) = (applied.before.get(path), applied.after.get(path));
                let is_plain = ![was, ours].into_iter().any(Node::is_directory);
                let mut above = path.ancestors().skip(1).filter(|above| *above != Path::new(""));
                let has_place = above.all(|above| Node::is_directory(after.get(above)));
                if is_plain && (has_place || was.is_none()) && before.get(path) == ours {
                    assert_eq!(after.get(path), was, "{path:?} was not taken back");
                }
            }
        }
        // What is as it was before without an undo counts as taken back, too.
        let by_hand = applied.left.iter().filter(|path| {
            is_chosen(path)
                && !restored.contains(*path)
                && after.get(*path) == applied.before.get(*path)
        });
        let by_hand: BTreeSet<PathBuf> = by_hand.cloned().collect();
        if kill.is_none() {
            restored.extend(by_hand);
        } else {
            for path in &by_hand {
                if let Some(noted) = self.noted.get_mut(path) {
                    let was = noted.before.iter().find(|(id, _)| *id == applied.id);
                    let was = was.map(|(_, bases)| bases.clone()).unwrap_or_default();
                    noted.bases.extend(was);
                }
            }
        }
        for path in &restored {
            applied.left.remove(path);
            if let Some(noted) = self.noted.get_mut(path) {
                noted.dealt.clear();
                if let Some(at) = noted.before.iter().position(|(id, _)| *id == applied.id) {
                    noted.bases = noted.before.drain(at..).next().unwrap().1;
                }
            }
        }
        self.waits();
    }

    fn discard(&mut self) {
        let Some(session) = self.store().newest(&self.project()).unwrap() else { return };
        let before = self.host();
        let open = self.store().lock(&session.id).unwrap();
        open.discard().unwrap();
        open.end().unwrap();
        assert_eq!(self.host(), before);
        assert_eq!(self.upper(), None);
        self.noted.clear();
    }
}

fn helper() -> HelperProgram {
    HelperProgram::Path(env!("CARGO_BIN_EXE_forge").into())
}

/// What a shell is told to do; where something is in the way, nothing.
fn script(path: &str, edit: &Edit) -> String {
    let parent = Path::new(path).parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.map_or(".".to_owned(), |parent| parent.display().to_string());
    let write = |text: &Text, before: &str| match text.node() {
        Node::Link(target) => format!("rm -rf {path} && ln -s {} {path}", target.display()),
        Node::File(bytes, mode) => {
            let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("{before}printf '{octal}' >{path} && chmod {mode:o} {path}")
        }
        Node::Directory => format!("mkdir {path}"),
    };
    let made = format!("mkdir -p {parent} 2>/dev/null");
    match edit {
        Edit::Replace(text) => {
            format!("{made} && {}\n", write(text, &format!("rm -rf {path} && ")))
        }
        Edit::Write(text) => {
            let clear = format!("{{ [ -f {path} ] && [ ! -L {path} ] || rm -rf {path}; }} && ");
            format!("{made} && {}\n", write(text, &clear))
        }
        Edit::Move(from) => {
            let from = PATHS[*from];
            let is_file = format!("[ {from} != {path} ] && [ -f {from} ] && [ ! -L {from} ]");
            format!("{is_file} && {made} && rm -rf {path} && mv {from} {path}\n")
        }
        Edit::Touch => format!("[ -f {path} ] && touch {path}\n"),
        Edit::Directory => format!("{made} && rm -rf {path} && mkdir {path}\n"),
        Edit::Remove => format!("rm -rf {path} 2>/dev/null\n"),
    }
}

/// Whether something is what it should be; a mode may be the host's.
fn same(is: Option<&Node>, other: Option<&Node>) -> bool {
    match (is, other) {
        (Some(Node::File(is, _)), Some(Node::File(other, _))) => is == other,
        (is, other) => is == other,
    }
}

pub(crate) fn live(events: &[Event]) -> World {
    let mut world = World::new();
    for event in events {
        match event {
            Event::Use { edits, meanwhile } => world.used(edits, meanwhile.as_ref()),
            Event::Host(at, text) => {
                world.host_edit(Path::new(PATHS[*at]), text.as_ref());
            }
            Event::Apply { paths, way, kill } => world.apply(paths, *way, *kill),
            Event::Undo { paths, kill } => world.undo(paths, *kill),
            Event::Discard => world.discard(),
            Event::Pause => std::thread::sleep(PAUSE),
        }
    }
    world
}

/// So many cases, always the same ones, or as many as there is time for; fewer than the least are none.
fn cases(count: u32, least: u32, limit: Duration) {
    let config = Config {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let seed = std::env::var("FORGE_REVIEW_SEED").map_or(11, |seed| seed.parse().unwrap());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let begin = Instant::now();
    let ran = std::cell::Cell::new(0u32);
    let result = runner.run(&prop::collection::vec(event(), 2..16), |events| {
        if begin.elapsed() > limit {
            return Ok(());
        }
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(live(&events))));
        ran.set(ran.get() + 1);
        lived.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_else(|| "it panicked".to_owned()))
        })
    });
    println!("{} of {count} cases in {:.0?}", ran.get(), begin.elapsed());
    match result {
        Ok(()) => assert!(ran.get() >= least, "only {} cases ran in {limit:?}", ran.get()),
        Err(TestError::Fail(reason, events)) => panic!("{reason}\n{events:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn whatever_happens_to_a_session_nothing_is_lost_and_an_undo_is_exact() {
    let count = std::env::var("FORGE_REVIEW_CASES").ok().map(|count| count.parse().unwrap());
    match count {
        Some(count) => cases(count, count, Duration::MAX),
        None => cases(500, 100, Duration::from_secs(150)),
    }
}
