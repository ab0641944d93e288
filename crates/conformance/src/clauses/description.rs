//! What an environment says of itself.

use pretty_assertions::assert_eq;

use forge_domain::{Description, FileKind};

use super::probe::Environment;

/// Nothing is left empty, and paths are absolute.
pub async fn it_names_what_is_there(environment: Environment) {
    let description = environment.describe().await.unwrap();
    assert!(!description.operating_system.trim().is_empty());
    assert!(description.shell.is_absolute());
    assert!(description.workspace.is_absolute());
    assert!(description.scratch.is_absolute());
    assert!(description.working_directory.starts_with(&description.workspace));
}

/// It says the same twice, before the first use and after it.
pub async fn it_is_stable(environment: Environment) {
    for _ in 0..2 {
        let first = environment.describe().await.unwrap();
        assert_eq!(environment.describe().await.unwrap(), first);
        environment.prepare().await.unwrap();
    }
}

/// What it says before the first use holds afterwards; only system, user and remarks may be more exact then.
pub async fn a_use_makes_it_no_other(environment: Environment) {
    let first = environment.describe().await.unwrap();
    environment.prepare().await.unwrap();
    let then = environment.describe().await.unwrap();
    assert!(then.operating_system.starts_with(&first.operating_system), "{then:?}");
    assert!(first.user.is_none() || then.user == first.user, "{then:?}");
    let Description { operating_system, user, remarks, .. } = first.clone();
    assert_eq!(Description { operating_system, user, remarks, ..then }, first);
}

/// Its kind is known at once, and is the same.
pub async fn its_kind_is_known_without_it(environment: Environment) {
    let kind = environment.kind();
    assert_eq!(environment.describe().await.unwrap().kind, kind);
}

/// What it names exists.
pub async fn its_paths_exist(environment: Environment) {
    let description = environment.describe().await.unwrap();
    for path in [&description.workspace, &description.working_directory, &description.scratch] {
        let kind = environment.stat(path).await.unwrap().kind;
        assert_eq!(kind, FileKind::Directory, "{path:?}");
    }
}
