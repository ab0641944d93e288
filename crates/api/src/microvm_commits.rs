//! Commits that are made in a microVM: kept in its session until they are applied, and put into the next microVM of the
//! session.

use std::sync::Arc;

use forge_app::review::Listing;
use forge_domain::{
    CommitsError, EnvironmentError, GitObjectId, History, HistoryError, HistorySource,
    SessionCommits, SessionRef, SessionRefName,
};
use forge_infra_sandbox::{KeptCommits, OpenSession};
use forge_infra_tensorlake::{GuestRefs, RepositoryOrigin, TensorlakeEnvironment};

use crate::microvm::{Kept, blocking, failed};

/// Keeps what was committed in a microVM, as its git named it when its files were brought back, unless that is kept already.
/// What was kept before is only ever replaced by what it went into.
///
/// # Errors
/// It cannot be fetched or written down; what was kept before still is.
pub(crate) async fn keep_commits(
    guest: &TensorlakeEnvironment,
    session: &Arc<OpenSession>,
) -> Result<(), EnvironmentError> {
    let Some(GuestRefs { origin, checked_out, lines }) = guest.guest_refs() else { return Ok(()) };
    if origin == RepositoryOrigin::Unreadable {
        return Err(failed("git cannot read its repository, or it has too many refs".to_owned()));
    }
    let listing = Listing::of(lines.iter().map(String::as_str));
    let listing = listing.map_err(|error| failed(error.to_string()))?;
    let before = {
        let session = Arc::clone(session);
        blocking(move || session.kept_commits()).await?
    };
    if let Some((name, reason)) = listing.refused.first() {
        return Err(failed(format!("{name} cannot be kept: {reason}")));
    }
    let is_branch = |_: &&str| SessionRefName::parse(&checked_out).is_ok();
    let branch = checked_out.strip_prefix("refs/heads/").filter(is_branch).map(str::to_owned);
    match (&before, origin) {
        (None, _) if listing.refs.is_empty() => return Ok(()),
        (Some(before), _) if before.branch == branch && same(&before.refs, &listing.refs) => {
            return Ok(());
        }
        (Some(_), RepositoryOrigin::Guest) if listing.refs.is_empty() => return Ok(()),
        (Some(_), RepositoryOrigin::Guest) => {
            let reason =
                "the session's earlier commits are not in its repository, which was made there";
            return Err(failed(reason.to_owned()));
        }
        (Some(_) | None, _) => {}
    }
    let session = Arc::clone(session);
    if listing.refs.is_empty() {
        // All of it was taken back there.
        return blocking(move || session.drop_commits()).await;
    }
    let names: Vec<_> = listing.refs.iter().map(|one| one.name.clone()).collect();
    let bundle = guest.fetch_commits(&names).await?;
    let commits = KeptCommits { refs: listing.refs, branch, bundle };
    blocking(move || session.keep_commits(commits.consistent())).await
}

fn same(left: &[SessionRef], right: &[SessionRef]) -> bool {
    left.len() == right.len() && left.iter().all(|one| right.contains(one))
}

/// The history of the host's repository, and with it what the session committed in a microVM before.
#[derive(Debug)]
pub(crate) struct SessionHistory {
    pub(crate) host: Arc<dyn HistorySource>,
    pub(crate) kept: Arc<Kept>,
}

impl SessionHistory {
    fn commits(&self) -> Result<Option<SessionCommits>, HistoryError> {
        let Some(session) = self.kept.session() else { return Ok(None) };
        let kept = session.kept_commits().map_err(|error| CommitsError::Io {
            operation: "reading what was committed in",
            path: session.workspace(),
            source: std::io::Error::other(error),
        })?;
        Ok(kept.map(|kept| {
            let needs = kept.needs();
            let KeptCommits { refs, branch, bundle } = kept;
            let bundle = bundle.map(|(file, length)| (Box::new(file) as _, length));
            SessionCommits { refs, branch, needs, bundle }
        }))
    }
}

impl HistorySource for SessionHistory {
    fn take(&self, also_given: &[GitObjectId]) -> Result<History, HistoryError> {
        let commits = self.commits()?;
        // The host may have moved away from what they were made upon.
        let also = commits.as_ref().map(|commits| commits.needs.clone()).unwrap_or_default();
        match (self.host.take(&[&also[..], also_given].concat()), commits) {
            (Ok(history), session) => Ok(History { session, ..history }),
            (Err(HistoryError::NoRepository), Some(session)) => {
                Ok(History::of_the_session(session))
            }
            (Err(error), _) => Err(error),
        }
    }
}
