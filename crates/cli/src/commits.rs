//! What `forge apply`, `forge diff` and `forge discard` do about commits of a session.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use forge_api::{
    BranchName, BringError, BroughtCommits, Commands, CommitTarget, CommitsError, ForgeAPI,
    HostRepository, KeptCommits, Lifecycle, SandboxEnvironment, SessionId, SessionStore,
    SessionSummary, WaitingCommits, WorkspaceLocation, bring_commits, bring_kept_commits,
    session_refs,
};

use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::sessions::{counted, plural, print, shown};
use crate::terminal::{Paint, clean};
use crate::{executor, git};

/// So many names are said before the rest is counted.
const MAX_NAMED: usize = 10;

/// The commits of a session that wait, in words; `None` where there are none.
pub(crate) fn waiting(store: &SessionStore, id: &SessionId) -> Option<String> {
    match store.waiting_commits(id) {
        Ok(WaitingCommits::Refs(refs)) => {
            let mut names: Vec<String> =
                refs.iter().take(MAX_NAMED).map(|one| clean(one.name.as_str())).collect();
            if refs.len() > MAX_NAMED {
                names.push(format!("{} more", refs.len() - MAX_NAMED));
            }
            Some(format!("commits ({})", names.join(", ")))
        }
        Ok(WaitingCommits::Unknown) => Some("perhaps commits".to_owned()),
        Ok(WaitingCommits::None) | Err(_) => None,
    }
}

/// What a session holds, in words: files, and commits that wait.
pub(crate) fn held(changed: u64, ignored: u64, commits: Option<String>) -> String {
    match (changed + ignored, commits) {
        (0, Some(commits)) => commits,
        (_, Some(commits)) => format!("{} and {commits}", counted(changed, ignored)),
        (_, None) => counted(changed, ignored),
    }
}

/// Says which commits of a session wait.
pub(crate) fn note_waiting(store: &SessionStore, id: &SessionId, paint: Paint) {
    if let Some(what) = waiting(store, id) {
        let message = format!("session {id} also holds {what}: forge apply brings them over");
        failure::note(&message, paint);
    }
}

/// Whether refs that were brought are listed on stdout, which may be a command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    OnStdout,
    Nowhere,
}

/// The same at the end of a run, whose stdout is not ours.
pub(crate) async fn bring_at_the_end(session: &SessionSummary, paint: Paint) -> Conclusion {
    let brought = match executor::store_directory() {
        Ok(state) => {
            bring_waiting(&SessionStore::new(state), session, Listed::Nowhere, paint).await
        }
        Err(failure) => Err(failure),
    };
    brought.unwrap_or_else(|failure| {
        failure::print(&failure, paint);
        Conclusion::NotDone
    })
}

/// Brings what commits wait, beside an apply of files. What goes wrong is said and counts as left.
pub(crate) async fn bring_waiting(
    store: &SessionStore,
    session: &SessionSummary,
    listed: Listed,
    paint: Paint,
) -> Result<Conclusion, Failure> {
    if !do_wait(store, &session.id) {
        return Ok(Conclusion::Done);
    }
    conclude(bring(store, session).await, session, listed, paint)
}

/// The same of a session that goes on, with nothing on stdout. Says whether there was anything to do.
pub(crate) async fn bring_live(api: &ForgeAPI, paint: Paint) -> bool {
    let (Some(used), Ok(state)) = (api.executor().session(), executor::store_directory()) else {
        return false;
    };
    let store = SessionStore::new(state);
    let Ok(session) = store.find(&used.id) else { return false };
    if !do_wait(&store, &session.id) {
        return false;
    }
    let brought = match store.kept_commits(&session.id) {
        // Of a microVM's, as of its files, what was there when a turn ended.
        Ok(Some(kept)) => bring_kept(kept, &store, &session).await,
        Ok(None) => bring_out_of(api.executor(), &store, &session).await,
        Err(error) => Err(error.into()),
    };
    // Nothing can be said on stdout, so that nothing of it can fail.
    drop(conclude(brought, &session, Listed::Nowhere, paint));
    true
}

fn do_wait(store: &SessionStore, id: &SessionId) -> bool {
    let waiting = store.waiting_commits(id);
    matches!(waiting, Ok(WaitingCommits::Refs(_) | WaitingCommits::Unknown))
}

/// Says what became of commits; what went wrong is said, too.
fn conclude(
    brought: Result<Brought, Failure>,
    session: &SessionSummary,
    listed: Listed,
    paint: Paint,
) -> Result<Conclusion, Failure> {
    match brought {
        Ok((_, brought)) => say(session, &brought, listed, paint),
        Err(Failure::Commits(BringError::Target(CommitsError::NoRepository { .. }))) => {
            let id = &session.id;
            failure::warn(
                "the session made a git repository, and the project is none: its commits stay in the session",
                paint,
            );
            let way = format!(
                "forge exec --session {id} -- git bundle create - --all >FILE writes them to a file; or git init here, and apply again"
            );
            failure::note(&way, paint);
            Ok(Conclusion::NotDone)
        }
        Err(failure) => {
            let message = format!("commits stay in the session: {}", failure.message());
            failure::warn(&message, paint);
            Ok(Conclusion::NotDone)
        }
    }
}

/// Makes a branch of what is checked out in a session. Files are not applied.
///
/// # Errors
/// There is such a branch, there is no commit, or the commits could not be brought.
pub(crate) async fn branch(
    store: &SessionStore,
    session: &SessionSummary,
    name: BranchName,
    paint: Paint,
) -> Result<Conclusion, Failure> {
    let (repository, brought) = bring(store, session).await?;
    let conclusion = say(session, &brought, Listed::OnStdout, paint)?;
    let head = brought.head.ok_or(Failure::NoCommit)?;
    let line = format!("B {name} {head}\n");
    let made = tokio::task::spawn_blocking(move || repository.branch(&name, &head)).await;
    made.map_err(joined)?.map_err(BringError::from)?;
    print(line.as_bytes())?;
    let changes = store.layers(&session.id).ok().and_then(|layers| layers.changes().ok());
    if changes.is_some_and(|changes| !changes.changes.is_empty()) {
        failure::note("files were not applied: forge diff shows what waits", paint);
    }
    Ok(conclusion)
}

type Brought = (Arc<HostRepository>, BroughtCommits);

/// Takes what is kept of a microVM's; else starts the session's environment, and ends it.
async fn bring(store: &SessionStore, session: &SessionSummary) -> Result<Brought, Failure> {
    if let Some(kept) = store.kept_commits(&session.id)? {
        return bring_kept(kept, store, session).await;
    }
    let root = session.workspace.clone();
    let location = WorkspaceLocation { root: root.clone(), working_directory: root };
    let environment = SandboxEnvironment::new(executor::for_session(&session.id)?, location);
    let brought = bring_out_of(&environment, store, session).await;
    environment.close().await?;
    brought
}

async fn bring_out_of<E: Commands>(
    environment: &E,
    store: &SessionStore,
    session: &SessionSummary,
) -> Result<Brought, Failure> {
    let (repository, state) = target(session).await?;
    let to = Arc::clone(&repository);
    let brought = bring_commits(environment, &session.workspace, to, &session.id, &state).await?;
    noted(store, session, repository, brought)
}

async fn bring_kept(
    kept: KeptCommits,
    store: &SessionStore,
    session: &SessionSummary,
) -> Result<Brought, Failure> {
    let (repository, state) = target(session).await?;
    let to = Arc::clone(&repository);
    let brought = bring_kept_commits(kept, to, &session.id, &state).await?;
    noted(store, session, repository, brought)
}

/// The project's repository, and where bundles are put meanwhile.
async fn target(session: &SessionSummary) -> Result<(Arc<HostRepository>, PathBuf), Failure> {
    let state = executor::store_directory()?;
    let (workspace, path) = (session.workspace.clone(), git::search_path());
    let open = move || HostRepository::open(&workspace, &path);
    let repository = tokio::task::spawn_blocking(open).await.map_err(joined)?;
    Ok((Arc::new(repository.map_err(BringError::from)?), state))
}

/// What was brought waits no more.
fn noted(
    store: &SessionStore,
    session: &SessionSummary,
    repository: Arc<HostRepository>,
    brought: BroughtCommits,
) -> Result<Brought, Failure> {
    store.note_brought(&session.id, &brought.settled)?;
    Ok((repository, brought))
}

/// A line a ref, and what is to be done with them.
fn say(
    session: &SessionSummary,
    brought: &BroughtCommits,
    listed: Listed,
    paint: Paint,
) -> Result<Conclusion, Failure> {
    let prefix = session_refs(&session.id);
    let mut text = Vec::new();
    for one in &brought.brought {
        writeln!(text, "C {} {}", clean(&one.name.on_host(&session.id)), one.id)
            .unwrap_or_default();
    }
    if listed == Listed::OnStdout {
        print(&text)?;
    }
    if !brought.brought.is_empty() {
        let count = brought.brought.len() as u64;
        let message = format!(
            "{count} {} of commits {} brought beneath {prefix}; forge apply --branch NAME {} makes a branch of what is checked out",
            plural(count, "ref", "refs"),
            plural(count, "was", "were"),
            session.id
        );
        failure::note(&message, paint);
    }
    for (name, why) in &brought.left {
        let name = shown(name.as_ref());
        failure::warn(&format!("{name} was not brought over: {why}"), paint);
    }
    Ok(if brought.left.is_empty() { Conclusion::Done } else { Conclusion::NotDone })
}

fn joined(error: tokio::task::JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => {
            Failure::System { what: "git cannot be run", source: std::io::Error::other(error) }
        }
    }
}
