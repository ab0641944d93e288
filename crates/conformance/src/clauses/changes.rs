//! What a session changed, where the environment keeps account of it.

use std::path::Path;

use forge_domain::{
    Change, ChangeKind, ChangeSet, ChangeTracking, ChangesError, FileError, TakenIn,
};
use pretty_assertions::assert_eq;

use super::probe::{Environment, run, write};
use crate::{Scenario, Step};

/// The environment tracks changes; if it does not, it says so from every call.
async fn is_tracked(environment: &Environment) -> bool {
    match environment.describe().await.unwrap().capabilities.change_tracking {
        ChangeTracking::Tracked => true,
        ChangeTracking::Untracked => {
            let errors = [
                environment.changes().await.unwrap_err(),
                environment.take_in().await.unwrap_err(),
                environment.discard_changes().await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, ChangesError::NotTracked { .. }), "{error:?}");
            }
            false
        }
    }
}

/// A new session has changed nothing.
pub async fn nothing_has_changed_at_first(environment: Environment) {
    if is_tracked(&environment).await {
        assert_eq!(environment.changes().await.unwrap(), ChangeSet::default());
    }
}

/// What files and commands write is listed once, by path, in byte order.
pub async fn written_files_are_listed(environment: Environment) {
    if is_tracked(&environment).await {
        write(&environment, "b", b"by port").await;
        let scenario = Scenario::new([
            Step::WriteFile("a".into(), b"by command".to_vec()),
            Step::WriteFile("gone".into(), b"".to_vec()),
            Step::Remove("gone".into()),
        ]);
        run(&environment, &scenario).await;
        let created = |path: &str| Change { path: path.into(), kind: ChangeKind::Created };
        assert_eq!(environment.changes().await.unwrap().changes, [created("a"), created("b")]);
    }
}

/// Where the host has changed nothing, there is nothing to take in, and what the session changed stays.
pub async fn taking_in_leaves_what_the_session_changed(environment: Environment) {
    if is_tracked(&environment).await {
        write(&environment, "file", b"x").await;
        assert_eq!(environment.take_in().await.unwrap(), TakenIn::default());
        let created = Change { path: "file".into(), kind: ChangeKind::Created };
        assert_eq!(environment.changes().await.unwrap().changes, [created]);
    }
}

/// After discarding, the workspace is as it was.
pub async fn discarding_takes_everything_back(environment: Environment) {
    if is_tracked(&environment).await {
        write(&environment, "file", b"x").await;
        environment.discard_changes().await.unwrap();
        assert_eq!(environment.changes().await.unwrap(), ChangeSet::default());
        let error = environment.stat(Path::new("file")).await.unwrap_err();
        assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
    }
}
