//! What a session changed, brought to the host: planned in `app`, carried out by `infra-apply`, read from
//! `infra-sandbox`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use forge_app::review::{self, Candidate, Choices, Left, Plan, Reason, Trees, Version};
use forge_domain::{
    Applied, AppliedPath, ApplyContents, ApplyError, ApplyTarget, Base, ChangesError, Entry,
    PathRefusal, ReviewedPath, SessionId, Undo,
};
use forge_infra_apply::HostTree;
use forge_infra_sandbox::{
    DealtWith, OpenSession, SessionError, SessionLayers, SessionStore, StoredSummary,
};
use thiserror::Error;

use crate::{Executor, ForgeAPI};

/// So often is planned anew where the workspace was changed meanwhile. Each time less is tried.
const MAX_ATTEMPTS: usize = 100;

/// So often where there is nothing to be left out.
const MAX_FUTILE_ATTEMPTS: usize = 5;

/// Why changes could not be brought to the host.
#[derive(Debug, Error)]
pub enum ReviewError {
    /// The session cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What it changed cannot be read.
    #[error("the changes cannot be read")]
    Read(#[source] io::Error),
    /// Nothing was applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The environment has no change set, or failed.
    #[error(transparent)]
    Changes(#[from] ChangesError),
}

/// What an apply did, and what it left.
#[derive(Debug)]
pub struct ApplyReport {
    /// What it was planned to do in the end.
    pub plan: Plan,
    /// What was done; `None` where there was nothing to do.
    pub applied: Option<Applied>,
}

/// A session in which nothing runs, with the tree that its changes are to be brought to. Every call blocks.
#[derive(Debug)]
pub struct Review<'a> {
    session: Held<'a>,
    layers: SessionLayers,
    tree: HostTree,
    workspace: PathBuf,
    candidates: Vec<Candidate>,
    gone_directories: Vec<PathBuf>,
    unreadable: Vec<Left>,
    ignored_files: u64,
    /// How many changes wait still; `None` where that has to be counted.
    waiting: Cell<Option<u64>>,
}

/// Whose the session is.
#[derive(Debug)]
enum Held<'a> {
    /// Nobody else uses it.
    Own(Box<OpenSession>),
    /// An environment uses it and stands still.
    InUse(&'a OpenSession),
}

impl Deref for Held<'_> {
    type Target = OpenSession;

    fn deref(&self) -> &OpenSession {
        match self {
            Self::Own(session) => session,
            Self::InUse(session) => session,
        }
    }
}

impl ForgeAPI {
    /// Reviews what the environment's session changed, while nothing in it runs: calls are waited for, and background
    /// commands stand still until the work is done, which is done on a thread for what blocks. `None` where the
    /// environment was not used yet.
    ///
    /// # Errors
    /// The environment has no change set, is closed, or what runs in it does not stand still within seconds;
    /// or as [`Review::new`].
    ///
    /// # Cancel safety
    /// Once the work has begun, it is done.
    pub async fn review<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Review<'_>) -> T + Send + 'static,
    ) -> Result<Option<T>, ReviewError> {
        let workspace = self.workspace().root.clone();
        match self.executor() {
            Executor::Sandbox(environment) => {
                let state_directory = environment.state_directory().to_path_buf();
                let at_rest = move |session: &OpenSession, layers| {
                    look(session, layers, &workspace, &state_directory, work)
                };
                environment.at_rest(at_rest).await?.transpose()
            }
            Executor::Tensorlake(microvm) => {
                let Some((session, layers)) = microvm.brought_back().await? else {
                    return Ok(None);
                };
                let state_directory = microvm.state_directory().unwrap_or(&workspace).to_path_buf();
                let looked = tokio::task::spawn_blocking(move || {
                    look(&session, layers, &workspace, &state_directory, work)
                });
                match looked.await {
                    Ok(result) => result.map(Some),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(error) => Err(ReviewError::Read(io::Error::other(error))),
                }
            }
            Executor::Local(_) => {
                let environment = forge_domain::Describe::kind(self.executor());
                Err(ChangesError::NotTracked { environment }.into())
            }
        }
    }
}

/// Reviews a session that an environment uses, and that stands still.
fn look<T>(
    session: &OpenSession,
    layers: SessionLayers,
    workspace: &Path,
    state_directory: &Path,
    work: impl FnOnce(&Review<'_>) -> T,
) -> Result<T, ReviewError> {
    let review = Review::of(Held::InUse(session), layers, workspace, state_directory)?;
    Ok(work(&review))
}

impl Review<'static> {
    /// Reads what a session changed that nobody uses. Its lock is held as long as this value.
    ///
    /// # Errors
    /// A layer or the workspace cannot be read; or an apply that was interrupted could not be recovered from.
    pub fn new(
        session: OpenSession,
        workspace: &Path,
        state_directory: &Path,
    ) -> Result<Self, ReviewError> {
        let layers = session.layers_to_read()?;
        Self::of(Held::Own(session.into()), layers, workspace, state_directory)
    }
}

impl<'a> Review<'a> {
    fn of(
        session: Held<'a>,
        layers: SessionLayers,
        workspace: &Path,
        state_directory: &Path,
    ) -> Result<Self, ReviewError> {
        let tree = HostTree::open(workspace, state_directory)?;
        tree.recover()?;
        let is_told = tell(&tree, &session, &layers)?;
        let layers = if is_told { session.reread(layers) } else { layers };
        let changes = layers.changes().map_err(ReviewError::Read)?;
        let mut review = Self {
            session,
            layers,
            tree,
            workspace: workspace.to_path_buf(),
            candidates: Vec::new(),
            gone_directories: changes.gone_directories,
            unreadable: Vec::new(),
            ignored_files: changes.ignored_files,
            waiting: Cell::new(Some(changes.changes.len() as u64)),
        };
        for change in changes.changes {
            review.take(change.path)?;
        }
        Ok(review)
    }

    fn take(&mut self, path: PathBuf) -> Result<(), ReviewError> {
        let host = match ReviewedPath::parse(&path) {
            Ok(reviewed) => self.tree.look(&reviewed),
            // It is refused by its path alone.
            Err(_) => Ok(None),
        };
        let host = match host {
            Ok(host) => host,
            Err(ApplyError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                self.unreadable.push(Left { path, reason: Reason::Unreadable });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let session = self.layers.entry(&path).map_err(ReviewError::Read)?;
        let base = self.layers.base(&path);
        self.candidates.push(Candidate { path, base, session, host });
        Ok(())
    }

    /// What would be done.
    #[must_use]
    pub fn plan(&self, choices: &Choices) -> Plan {
        let trees = SessionTrees { layers: &self.layers, tree: &self.tree };
        let candidates = &self.candidates;
        let mut plan =
            review::plan(&self.workspace, candidates, &self.gone_directories, choices, &trees);
        let is_chosen = |left: &&Left| {
            choices.paths.is_empty() || choices.paths.iter().any(|path| left.path.starts_with(path))
        };
        plan.left.extend(self.unreadable.iter().filter(is_chosen).cloned());
        plan
    }

    /// What a plan may read of the session and the host.
    #[must_use]
    pub fn layers(&self) -> &SessionLayers {
        &self.layers
    }

    /// Does it: all of the plan or, with an error, nothing. What the workspace's owner changed in the meantime
    /// is left, as if it had been so when it was planned.
    ///
    /// # Errors
    /// As [`ApplyTarget::apply`].
    pub fn apply(&self, choices: &Choices) -> Result<ApplyReport, ReviewError> {
        let mut choices = choices.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let plan = self.plan(&choices);
            if plan.steps.is_empty() {
                self.settle(&plan, None)?;
                return Ok(ApplyReport { plan, applied: None });
            }
            let contents = Contents(&self.layers);
            match self.tree.apply(self.session.id().as_str(), &plan.steps, &contents) {
                Ok(applied) => {
                    self.settle(&plan, Some(&applied))?;
                    return Ok(ApplyReport { plan, applied: Some(applied) });
                }
                Err(ApplyError::Changed { paths }) if attempt < MAX_ATTEMPTS => {
                    let known = choices.changed.len();
                    choices.changed.extend(paths.iter().map(|path| path.as_path().to_path_buf()));
                    // A directory that was made above something, say: what is planned next knows of it.
                    if choices.changed.len() == known && attempt >= MAX_FUTILE_ATTEMPTS {
                        return Err(ApplyError::Changed { paths }.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Notes in the session what is dealt with: what it has at these paths is no news any more.
    fn settle(&self, plan: &Plan, applied: Option<&Applied>) -> Result<(), ReviewError> {
        let candidates: BTreeMap<&Path, &Candidate> =
            self.candidates.iter().map(|candidate| (&*candidate.path, candidate)).collect();
        let based = |path: &ReviewedPath| {
            let candidate = candidates.get(path.as_path())?;
            let base = candidate.session.clone().map_or(Base::Absent, Base::Known);
            let (path, before) = (candidate.path.clone(), candidate.base.clone());
            Some(DealtWith { path, base, before })
        };
        let dealt_with = |paths: usize| {
            let waiting = self.waiting.get();
            self.waiting.set(waiting.map(|waiting| waiting.saturating_sub(paths as u64)));
        };
        if !plan.settled.is_empty() {
            let paths: Vec<_> = plan.settled.iter().filter_map(based).collect();
            dealt_with(paths.len());
            self.session.settle(&self.layers, paths, None)?;
        }
        if let Some(applied) = applied {
            let mut paths: Vec<_> =
                applied.paths.iter().filter_map(|one| based(&one.path)).collect();
            dealt_with(paths.len());
            // A directory that was made for what is in it, or went with it: both sides have it now, or neither.
            let others = applied.paths.iter();
            let others = others.filter(|one| !candidates.contains_key(one.path.as_path()));
            paths.extend(others.map(|one| DealtWith {
                path: one.path.as_path().to_path_buf(),
                base: one.after.clone().map_or(Base::Absent, Base::Known),
                before: one.before.clone().map_or(Base::Absent, Base::Known),
            }));
            self.session.settle(&self.layers, paths, Some(&applied.id))?;
            self.tree.note(&applied.id)?;
        }
        Ok(())
    }

    /// Takes the newest apply of this session back which was not taken back yet, or these paths of it: what the
    /// session changed there waits again.
    ///
    /// # Errors
    /// As [`ApplyTarget::undo`].
    pub fn undo(
        &self,
        is_chosen: &dyn Fn(&ReviewedPath) -> bool,
        is_forced: &dyn Fn(&ReviewedPath) -> bool,
    ) -> Result<Undo, ReviewError> {
        self.waiting.set(None);
        let undo = self.tree.undo(Some(self.session.id().as_str()), is_chosen, is_forced)?;
        let restored = undo.restored.iter().map(|restored| restored.path.as_path());
        self.session.unsettle(restored, &undo.of)?;
        undo.id.as_ref().map_or(Ok(()), |id| self.tree.note(id))?;
        Ok(undo)
    }

    /// Gives a session back that nobody else uses; it is removed where it holds nothing.
    ///
    /// # Errors
    /// It could not be removed, or what it holds could not be written down.
    pub fn close(self) -> Result<(), ReviewError> {
        let Held::Own(session) = self.session else { return Ok(()) };
        let changed_files = match self.waiting.get() {
            Some(waiting) => waiting,
            None => {
                let layers = session.layers_to_read()?;
                layers.changes().map_err(ReviewError::Read)?.changes.len() as u64
            }
        };
        let ignored_files = self.ignored_files;
        session.set_summary(StoredSummary { changed_files, ignored_files })?;
        session.end()?;
        Ok(())
    }
}

/// Takes the newest apply to a workspace back which was not taken back yet, or these paths of it: that of a session,
/// or of whichever it was. What the session changed there waits again; one that is not there any more is not needed.
/// It blocks.
///
/// # Errors
/// As [`ApplyTarget::undo`]; or the session is in use.
pub fn undo_apply(
    store: &SessionStore,
    workspace: &Path,
    state_directory: &Path,
    session: Option<&SessionId>,
    is_chosen: &dyn Fn(&ReviewedPath) -> bool,
    is_forced: &dyn Fn(&ReviewedPath) -> bool,
) -> Result<Undo, ReviewError> {
    let tree = HostTree::open(workspace, state_directory)?;
    tree.recover()?;
    let session = match session {
        Some(session) => session.as_str().to_owned(),
        None => tree.newest_session(is_chosen)?.ok_or(ApplyError::NothingApplied)?,
    };
    if let Some(open) = opened(store, &session)? {
        let review = Review::new(open, workspace, state_directory)?;
        let undo = review.undo(is_chosen, is_forced)?;
        review.close()?;
        return Ok(undo);
    }
    let undo = tree.undo(Some(&session), is_chosen, is_forced)?;
    undo.id.as_ref().map_or(Ok(()), |id| tree.note(id))?;
    Ok(undo)
}

/// Finishes or takes back an apply that was killed in the middle, tells the sessions what became of theirs, and says
/// whether there was anything to be done. A session that is in use is told later. It blocks.
///
/// # Errors
/// As [`ApplyTarget::recover`]; or a session cannot be told.
pub fn recover_applies(
    store: &SessionStore,
    workspace: &Path,
    state_directory: &Path,
) -> Result<bool, ReviewError> {
    let tree = HostTree::open(workspace, state_directory)?;
    if !tree.is_pending() && !tree.is_unnoted() {
        return Ok(false);
    }
    let mut is_done = tree.recover()?;
    for one in tree.unnoted()? {
        match opened(store, &one.session) {
            Ok(Some(open)) => {
                let layers = open.layers_to_read()?;
                is_done |= tell(&tree, &open, &layers)?;
                let changes = open.layers_to_read()?.changes().map_err(ReviewError::Read)?;
                let changed_files = changes.changes.len() as u64;
                let ignored_files = changes.ignored_files;
                open.set_summary(StoredSummary { changed_files, ignored_files })?;
                open.end()?;
            }
            Ok(None) => tree.note(&one.id)?,
            Err(SessionError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(is_done)
}

/// A session, locked; `None` where it is not there any more.
fn opened(store: &SessionStore, session: &str) -> Result<Option<OpenSession>, SessionError> {
    let Ok(id) = SessionId::parse(session) else { return Ok(None) };
    match store.lock(&id) {
        Ok(open) => Ok(Some(open)),
        Err(SessionError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells a session what was applied for it and taken back by processes that were killed before they could.
fn tell(
    tree: &HostTree,
    session: &OpenSession,
    layers: &SessionLayers,
) -> Result<bool, ReviewError> {
    if !tree.is_unnoted() {
        return Ok(false);
    }
    let mut is_told = false;
    for one in tree.unnoted()?.iter().filter(|one| one.session == session.id().as_str()) {
        let paths = one.paths.iter().map(|path| path.path.as_path());
        match &one.undoes {
            Some(undone) => session.unsettle(paths, undone)?,
            None => session.settle_late(layers, as_applied(layers, &one.paths)?, &one.id)?,
        }
        tree.note(&one.id)?;
        is_told = true;
    }
    Ok(is_told)
}

/// The paths of which the session still has what was applied, or what was merged.
fn as_applied(
    layers: &SessionLayers,
    paths: &[AppliedPath],
) -> Result<Vec<DealtWith>, ReviewError> {
    let mut found = Vec::new();
    for one in paths {
        let path = one.path.as_path();
        let entry = layers.entry(path).map_err(ReviewError::Read)?;
        let is_same = match (&entry, &one.after) {
            (Some(Entry::File { digest, .. }), Some(Entry::File { digest: applied, .. })) => {
                digest == applied || Some(*digest) == one.merged
            }
            (Some(Entry::Directory { .. }), Some(Entry::Directory { .. })) => true,
            (entry, applied) => entry == applied,
        };
        if is_same {
            // Where nothing is noted, the session may never have seen what the host had: only what holds nothing counts.
            let before = match &one.before {
                None => Base::Absent,
                Some(directory @ Entry::Directory { .. }) => Base::Known(directory.clone()),
                Some(_) => Base::Unknown,
            };
            let base = entry.map_or(Base::Absent, Base::Known);
            found.push(DealtWith { path: path.to_path_buf(), base, before });
        }
    }
    Ok(found)
}

struct SessionTrees<'a> {
    layers: &'a SessionLayers,
    tree: &'a HostTree,
}

impl Trees for SessionTrees<'_> {
    fn host(&self, path: &Path) -> io::Result<Option<Entry>> {
        let path = match ReviewedPath::parse(path) {
            Ok(path) => path,
            // A link may lead through what no change may touch.
            Err(PathRefusal::Git) => return Ok(Some(Entry::Special)),
            Err(error) => return Err(io::Error::other(error)),
        };
        self.tree.look_roughly(&path)
    }

    fn session_directory(&self, path: &ReviewedPath) -> Option<u32> {
        self.layers.directory_mode(path.as_path())
    }

    fn contents(
        &self,
        version: Version,
        path: &ReviewedPath,
        max_bytes: u64,
    ) -> io::Result<Vec<u8>> {
        let path = path.as_path();
        match version {
            Version::Base => self.layers.base_contents(path, max_bytes),
            Version::Session => self.layers.after(path, max_bytes),
            Version::Host => self.layers.before(path, max_bytes),
        }
    }
}

struct Contents<'a>(&'a SessionLayers);

impl ApplyContents for Contents<'_> {
    fn open(&self, path: &ReviewedPath) -> io::Result<Box<dyn io::Read + '_>> {
        Ok(Box::new(self.0.open(path.as_path())?))
    }
}
