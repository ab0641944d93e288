//! Which paths of a change set become steps, and why the others do not.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use forge_domain::{Base, Content, Digest, Entry, PathRefusal, Placed, ReviewedPath, Step};

use super::links::stays_inside;
use super::merge::{Merged, merge};
use super::surface::{Surface, surface};

/// More files than these are not applied at once.
pub const MAX_FILES: usize = 200_000;

/// More bytes than these are not applied at once.
pub const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// So many deletions at once need a yes of their own.
pub const MANY_DELETIONS: usize = 50;

/// A larger file is not merged.
const MAX_MERGED_BYTES: u64 = 8 * 1024 * 1024;

/// A changed path of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Relative to the workspace, as the session has it: nothing is known of it yet.
    pub path: PathBuf,
    /// What it was.
    pub base: Base,
    /// What it is in the session.
    pub session: Option<Entry>,
    /// What it is on the host.
    pub host: Option<Entry>,
}

/// What is done where both sides have changed a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolution {
    /// The host's stays, and the path is listed.
    #[default]
    Leave,
    /// The host's stays, and the session's is taken for dealt with.
    Ours,
    /// The session's is taken.
    Theirs,
    /// Both are written into the file, between markers.
    Markers,
}

/// What the user has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// Only these paths and what is beneath them; all, where there are none.
    pub paths: Vec<PathBuf>,
    /// What is done about conflicts.
    pub conflicts: Resolution,
    /// What is done about the conflict at one path.
    pub decided: BTreeMap<PathBuf, Resolution>,
    /// Paths, and what is beneath them, that may be applied though tools execute from them.
    pub executable: Vec<PathBuf>,
    /// Symlinks that may leave the workspace.
    pub symlinks: Vec<PathBuf>,
    /// Whether more than [`MANY_DELETIONS`] are meant.
    pub many_deletions: bool,
    /// Paths that turned out not to be what they were planned with.
    pub changed: BTreeSet<PathBuf>,
}

/// How the two sides stand against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// Both changed the same lines.
    Lines,
    /// Both changed a file that cannot be merged: no text, or too large.
    Contents,
    /// It was changed on the host, and what it was before is not known.
    NoBase,
    /// Changed in the session, deleted on the host.
    DeletedOnHost,
    /// Deleted in the session, changed on the host.
    ChangedOnHost,
    /// It is new on both sides.
    BothNew,
    /// It became another kind of thing on one side.
    Kind,
    /// It changed while the apply ran.
    Meanwhile,
}

/// Why a path is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is no path for the host.
    Path(PathRefusal),
    /// It is a device, a socket or a pipe, in the session or on the host.
    Special,
    /// Tools of the host execute from it by themselves.
    Executes(&'static str),
    /// It is a symlink that leaves the workspace.
    LeavesWorkspace,
    /// Both sides changed it.
    Conflict(Conflict),
    /// Something above it is no directory on the host.
    Parent,
    /// So much would be deleted that it needs a yes of its own.
    ManyDeletions,
    /// There is more than is applied at once.
    TooMuch,
    /// What is needed for a merge cannot be read.
    Unreadable,
}

/// A path that is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Relative to the workspace, as the session has it.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In an order in which they can be carried out.
    pub steps: Vec<Step>,
    /// In byte order.
    pub left: Vec<Left>,
    /// What is dealt with and needs no step: the host has it already, or the user keeps the host's.
    pub settled: Vec<ReviewedPath>,
    /// The steps that are merges.
    pub merged: Vec<ReviewedPath>,
    /// The steps whose files a build or a test runs, and what runs them.
    pub marked: Vec<(ReviewedPath, &'static str)>,
}

/// Whose version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// What it was when the session began to differ.
    Base,
    /// The session's.
    Session,
    /// The host's.
    Host,
}

/// What planning asks of the trees.
pub trait Trees {
    /// What stands at a path of the host. Of files, size and digest may be anything.
    ///
    /// # Errors
    /// It cannot be read.
    fn host(&self, path: &Path) -> io::Result<Option<Entry>>;

    /// The permission bits of a directory of the session; `None` where it has none there.
    fn session_directory(&self, path: &ReviewedPath) -> Option<u32>;

    /// What a file holds.
    ///
    /// # Errors
    /// It is larger than so many bytes, or cannot be read.
    fn contents(
        &self,
        version: Version,
        path: &ReviewedPath,
        max_bytes: u64,
    ) -> io::Result<Vec<u8>>;
}

/// Decides over every changed path of a session, and over the directories that the session removed.
///
/// * What the session did not change, or the host has too, is settled.
/// * What only the session changed is taken.
/// * Where both changed a text, it is merged; where that cannot be, the choices decide.
/// * Without a known base nothing is merged and nothing overwritten.
/// * Of modes only the nine permission bits count; the host's stay where the session did not change them.
#[must_use]
pub fn plan(
    workspace: &Path,
    candidates: &[Candidate],
    gone_directories: &[PathBuf],
    choices: &Choices,
    trees: &dyn Trees,
) -> Plan {
    let mut planner = Planner {
        workspace,
        choices,
        trees,
        links: links_of(candidates),
        plan: Plan::default(),
        deletions: Vec::new(),
        writes: Vec::new(),
    };
    for candidate in candidates.iter().filter(|candidate| is_chosen(choices, &candidate.path)) {
        if let Err(reason) = planner.decide(candidate) {
            planner.plan.left.push(Left { path: candidate.path.clone(), reason });
        }
    }
    planner.finish(gone_directories)
}

/// Whether a path, or something above it, was named; all are where none was.
fn is_chosen(choices: &Choices, path: &Path) -> bool {
    choices.paths.is_empty() || is_beneath(&choices.paths, path)
}

fn is_beneath(paths: &[PathBuf], path: &Path) -> bool {
    paths.iter().any(|above| path.starts_with(above))
}

/// The session's symlinks, and `None` where it has something else.
fn links_of(candidates: &[Candidate]) -> BTreeMap<PathBuf, Option<PathBuf>> {
    let link = |candidate: &Candidate| match &candidate.session {
        Some(Entry::Symlink { target }) => Some(target.clone()),
        _ => None,
    };
    candidates.iter().map(|candidate| (candidate.path.clone(), link(candidate))).collect()
}

struct Planner<'a> {
    workspace: &'a Path,
    choices: &'a Choices,
    trees: &'a dyn Trees,
    links: BTreeMap<PathBuf, Option<PathBuf>>,
    plan: Plan,
    deletions: Vec<Step>,
    writes: Vec<(Step, u64)>,
}

/// What is to become of a path that passed the gate.
enum Outcome {
    Settled,
    Take(Placed),
    Merge { mode: u32, bytes: Vec<u8>, session: Digest },
    Left(Conflict),
}

impl Planner<'_> {
    fn decide(&mut self, candidate: &Candidate) -> Result<(), Reason> {
        let path = ReviewedPath::parse(&candidate.path).map_err(Reason::Path)?;
        let Candidate { base, session, host, .. } = candidate;
        // A directory that became something else on the host is in the way of what the session has in it.
        let is_in_the_way = matches!(session, Some(Entry::Directory { .. }))
            && host.as_ref().is_some_and(|host| !matches!(host, Entry::Directory { .. }));
        if base.is(session.as_ref()) && !is_in_the_way || same(session.as_ref(), host.as_ref()) {
            self.plan.settled.push(path);
            return Ok(());
        }
        if matches!(session, Some(Entry::Special)) || matches!(host, Some(Entry::Special)) {
            return Err(Reason::Special);
        }
        if self.choices.changed.contains(&candidate.path)
            && self.resolution(&candidate.path) != Resolution::Ours
        {
            return Err(Reason::Conflict(Conflict::Meanwhile));
        }
        let kind = surface(path.as_path());
        if let Surface::Blocked(reason) = kind
            && !is_beneath(&self.choices.executable, path.as_path())
        {
            return Err(Reason::Executes(reason));
        }
        if let Some(Entry::Symlink { target }) = session
            && !is_beneath(&self.choices.symlinks, path.as_path())
            && !self.leads_inside(&path, target)
        {
            return Err(Reason::LeavesWorkspace);
        }
        let outcome = self.outcome(&path, candidate)?;
        let (after, bytes) = match outcome {
            Outcome::Settled => {
                self.plan.settled.push(path);
                return Ok(());
            }
            Outcome::Left(conflict) => match self.resolved(candidate) {
                Some(Resolved::Settled) => {
                    self.plan.settled.push(path);
                    return Ok(());
                }
                Some(Resolved::Take(after)) => (after, 0),
                None => return Err(Reason::Conflict(conflict)),
            },
            Outcome::Take(after) => (after, size(session.as_ref())),
            Outcome::Merge { mode, bytes, session } => {
                let size = bytes.len() as u64;
                self.plan.merged.push(path.clone());
                (Placed::File { mode, content: Content::Merged { bytes, session } }, size)
            }
        };
        if let Surface::Marked(reason) = kind {
            self.plan.marked.push((path.clone(), reason));
        }
        let step = Step { path, before: host.clone(), after };
        match step.after {
            Placed::Nothing | Placed::NothingIfEmpty => self.deletions.push(step),
            Placed::Directory { .. } | Placed::Symlink { .. } | Placed::File { .. } => {
                self.writes.push((step, bytes));
            }
        }
        Ok(())
    }

    fn outcome(&self, path: &ReviewedPath, candidate: &Candidate) -> Result<Outcome, Reason> {
        let Candidate { base, session, host, .. } = candidate;
        let (session, host) = (session.as_ref(), host.as_ref());
        if base.is(host) {
            return Ok(match session {
                None => Outcome::Take(removed(host)),
                Some(entry) => taken(entry, base, host).map_or(Outcome::Settled, Outcome::Take),
            });
        }
        let conflict = match (base, session, host) {
            // Only their modes differ, and the host's stays.
            (_, Some(Entry::Directory { .. }), Some(Entry::Directory { .. })) => {
                return Ok(Outcome::Settled);
            }
            (Base::Unknown, ..) => Conflict::NoBase,
            (Base::Absent, ..) => Conflict::BothNew,
            (_, Some(_), None) => Conflict::DeletedOnHost,
            (_, None, Some(_)) => Conflict::ChangedOnHost,
            (
                Base::Known(Entry::File { digest: was, mode: mode_was, .. }),
                Some(Entry::File { digest: ours, mode: ours_mode, .. }),
                Some(Entry::File { digest: theirs, mode: theirs_mode, .. }),
            ) => {
                let mode = if bits(*ours_mode) == bits(*mode_was) {
                    bits(*theirs_mode)
                } else {
                    bits(*ours_mode)
                };
                let digest = *ours;
                return Ok(if (ours == theirs || ours == was) && mode == bits(*theirs_mode) {
                    // What would be written is what the host has.
                    Outcome::Settled
                } else if ours == theirs || theirs == was {
                    Outcome::Take(Placed::File { mode, content: Content::Session { digest } })
                } else if ours == was {
                    // Only the mode is the session's.
                    let bytes = self.read(Version::Host, path)?;
                    Outcome::Merge { mode, bytes, session: digest }
                } else {
                    return self.merged(path, digest, (mode, bits(*theirs_mode)));
                });
            }
            _ => Conflict::Kind,
        };
        Ok(Outcome::Left(conflict))
    }

    fn merged(
        &self,
        path: &ReviewedPath,
        digest: Digest,
        (mode, mode_there): (u32, u32),
    ) -> Result<Outcome, Reason> {
        let read = |version| self.trees.contents(version, path, MAX_MERGED_BYTES);
        let (Ok(base), Ok(host), Ok(session)) =
            (read(Version::Base), read(Version::Host), read(Version::Session))
        else {
            return Ok(Outcome::Left(Conflict::Contents));
        };
        Ok(match (merge(&base, &host, &session), self.resolution(path.as_path())) {
            // The host has it already: by an apply that was killed before it was noted, say.
            (Merged::Clean(bytes), _) if bytes == host && mode == mode_there => Outcome::Settled,
            (Merged::Clean(bytes), _) | (Merged::Conflict(bytes), Resolution::Markers) => {
                Outcome::Merge { mode, bytes, session: digest }
            }
            (Merged::Conflict(_), _) => Outcome::Left(Conflict::Lines),
            (Merged::NotText, _) => Outcome::Left(Conflict::Contents),
        })
    }

    fn read(&self, version: Version, path: &ReviewedPath) -> Result<Vec<u8>, Reason> {
        self.trees.contents(version, path, MAX_MERGED_BYTES).map_err(|_| Reason::Unreadable)
    }

    fn resolution(&self, path: &Path) -> Resolution {
        self.choices.decided.get(path).copied().unwrap_or(self.choices.conflicts)
    }

    /// What the user has said about conflicts.
    fn resolved(&self, candidate: &Candidate) -> Option<Resolved> {
        match self.resolution(&candidate.path) {
            Resolution::Leave | Resolution::Markers => None,
            Resolution::Ours => Some(Resolved::Settled),
            Resolution::Theirs => {
                let after = match &candidate.session {
                    None => Some(removed(candidate.host.as_ref())),
                    Some(entry) => taken(entry, &candidate.base, candidate.host.as_ref()),
                };
                Some(after.map_or(Resolved::Settled, Resolved::Take))
            }
        }
    }

    fn leads_inside(&self, path: &ReviewedPath, target: &Path) -> bool {
        let mut link_at = |path: &Path| match self.links.get(path) {
            Some(link) => link.clone(),
            None => match self.trees.host(path) {
                Ok(Some(Entry::Symlink { target })) => Some(target),
                _ => None,
            },
        };
        stays_inside(self.workspace, path.as_path(), target, &mut link_at)
    }

    fn finish(mut self, gone_directories: &[PathBuf]) -> Plan {
        let total: u64 = self.writes.iter().map(|(_, bytes)| *bytes).sum();
        if self.writes.len() + self.deletions.len() > MAX_FILES || total > MAX_BYTES {
            let steps = self.deletions.drain(..).chain(self.writes.drain(..).map(|(step, _)| step));
            let left = steps.map(|step| left_as(&step, Reason::TooMuch)).collect::<Vec<_>>();
            self.plan.left.extend(left);
        }
        if self.deletions.len() > MANY_DELETIONS && !self.choices.many_deletions {
            let steps = self.deletions.drain(..);
            self.plan.left.extend(steps.map(|step| left_as(&step, Reason::ManyDeletions)));
        }
        self.keep_what_is_beneath();
        let directories = self.directories(gone_directories);
        let gone = self.deletions.iter().chain(&directories).map(|step| step.path.clone());
        let gone: HashSet<ReviewedPath> = gone.collect();
        let is_gone = |path: &ReviewedPath| gone.contains(path);
        let (made, writes) = self.parents(&is_gone);
        let mut deletions: Vec<Step> = self.deletions.into_iter().chain(directories).collect();
        // What is beneath a directory is gone before the directory.
        deletions.sort_by(|left, right| right.path.cmp(&left.path));
        let mut all: Vec<Step> = made.into_iter().chain(writes.steps).collect();
        // A directory is there before what is in it.
        all.sort_by(|left, right| left.path.cmp(&right.path));
        self.plan.left.extend(writes.left);
        self.plan.left.sort_by(|left, right| left.path.cmp(&right.path));
        deletions.extend(all);
        self.plan.steps = deletions;
        let kept: BTreeSet<&ReviewedPath> = self.plan.steps.iter().map(|step| &step.path).collect();
        self.plan.marked.retain(|(path, _)| kept.contains(path));
        self.plan.merged.retain(|path| kept.contains(path));
        self.plan
    }

    /// The directories that are to go where they are empty by then: those of which something goes. Where the session
    /// has something else in the place of one, that takes its place or leaves it.
    fn directories(&self, gone: &[PathBuf]) -> Vec<Step> {
        let deleted = self.deletions.iter().flat_map(|step| step.path.as_path().ancestors());
        let touched: HashSet<&Path> = deleted.collect();
        gone.iter()
            .filter(|path| touched.contains(&***path) && !self.links.contains_key(*path))
            .filter_map(|path| {
                let path = ReviewedPath::parse(path).ok()?;
                let before = self.trees.host(path.as_path()).ok().flatten()?;
                matches!(before, Entry::Directory { .. }).then_some(Step {
                    path,
                    before: Some(before),
                    after: Placed::NothingIfEmpty,
                })
            })
            .collect()
    }

    /// Leaves what would take the place of a directory in which something stays.
    fn keep_what_is_beneath(&mut self) {
        let left = self.plan.left.iter().flat_map(|left| left.path.ancestors().skip(1));
        let above: HashSet<PathBuf> = left.map(Path::to_path_buf).collect();
        let stays = |step: &Step| {
            let is_directory = matches!(step.before, Some(Entry::Directory { .. }))
                && !matches!(step.after, Placed::Directory { .. });
            is_directory && above.contains(step.path.as_path())
        };
        let kept = self.writes.extract_if(.., |(step, _)| stays(step));
        let kept: Vec<Left> =
            kept.map(|(step, _)| left_as(&step, Reason::Conflict(Conflict::Kind))).collect();
        self.plan.left.extend(kept);
    }

    /// The directories that are to be made above what is written, and what can be written then.
    fn parents(&self, is_gone: &dyn Fn(&ReviewedPath) -> bool) -> (Vec<Step>, Writes) {
        let mut known: BTreeMap<ReviewedPath, Above> = BTreeMap::new();
        for (step, _) in &self.writes {
            let above = match step.after {
                Placed::Directory { .. } => Above::There,
                _ => Above::Other,
            };
            known.insert(step.path.clone(), above);
        }
        let mut made = Vec::new();
        let mut writes = Writes::default();
        for (step, _) in &self.writes {
            let mut needed = Vec::new();
            let mut possible = true;
            for parent in step.path.parents() {
                match known.get(&parent) {
                    Some(Above::There) => break,
                    Some(Above::Other) => {
                        possible = false;
                        break;
                    }
                    None => {}
                }
                match self.trees.host(parent.as_path()) {
                    Ok(Some(Entry::Directory { .. })) => {
                        known.insert(parent, Above::There);
                        break;
                    }
                    Ok(None) => needed.push(parent),
                    Ok(Some(_)) if is_gone(&parent) => needed.push(parent),
                    Ok(Some(_)) | Err(_) => {
                        possible = false;
                        break;
                    }
                }
            }
            if !possible {
                writes.left.push(left_as(step, Reason::Parent));
                continue;
            }
            for path in needed {
                let mode = self.trees.session_directory(&path).unwrap_or(0o755) & 0o777;
                known.insert(path.clone(), Above::There);
                made.push(Step { path, before: None, after: Placed::Directory { mode } });
            }
            writes.steps.push(step.clone());
        }
        (made, writes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    There,
    Other,
}

enum Resolved {
    Settled,
    Take(Placed),
}

#[derive(Default)]
struct Writes {
    steps: Vec<Step>,
    left: Vec<Left>,
}

fn left_as(step: &Step, reason: Reason) -> Left {
    Left { path: step.path.as_path().to_path_buf(), reason }
}

/// How something goes: a directory only where nothing is in it.
fn removed(host: Option<&Entry>) -> Placed {
    match host {
        Some(Entry::Directory { .. }) => Placed::NothingIfEmpty,
        _ => Placed::Nothing,
    }
}

/// What is put where the session's version is taken; `None` where the host has all of it that counts.
fn taken(entry: &Entry, base: &Base, host: Option<&Entry>) -> Option<Placed> {
    match entry {
        Entry::File { mode, digest, .. } => {
            let kept = match (base, host) {
                (
                    Base::Known(Entry::File { mode: was, .. }),
                    Some(Entry::File { mode: host, .. }),
                ) if bits(*mode) == bits(*was) => bits(*host),
                _ => bits(*mode),
            };
            if let Some(Entry::File { digest: there, mode: is, .. }) = host
                && (there, bits(*is)) == (digest, kept)
            {
                return None;
            }
            Some(Placed::File { mode: kept, content: Content::Session { digest: *digest } })
        }
        Entry::Symlink { target } => Some(Placed::Symlink { target: target.clone() }),
        Entry::Directory { mode } => match host {
            Some(Entry::Directory { mode: is }) if bits(*is) == bits(*mode) => None,
            _ => Some(Placed::Directory { mode: bits(*mode) }),
        },
        Entry::Special => None,
    }
}

/// Whether both sides are the same as far as it can be brought over.
fn same(session: Option<&Entry>, host: Option<&Entry>) -> bool {
    match (session, host) {
        (
            Some(Entry::File { digest, mode, .. }),
            Some(Entry::File { digest: there, mode: is, .. }),
        ) => digest == there && bits(*mode) == bits(*is),
        (Some(Entry::Directory { mode }), Some(Entry::Directory { mode: is })) => {
            bits(*mode) == bits(*is)
        }
        (Some(Entry::Special), _) => false,
        _ => session == host,
    }
}

fn size(entry: Option<&Entry>) -> u64 {
    match entry {
        Some(Entry::File { size_bytes, .. }) => *size_bytes,
        _ => 0,
    }
}

/// The permission bits that are brought over.
fn bits(mode: u32) -> u32 {
    mode & 0o777
}
