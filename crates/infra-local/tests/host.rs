//! What is read on the host whatever the environment is.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use forge_domain::{Host, HostError, Instructions, WorkspaceLocation};
use forge_infra_local::LocalHost;
use pretty_assertions::assert_eq;
use tempfile::TempDir;

struct World {
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(path)
    }

    fn directory(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn file(&self, path: &str, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

async fn locate(start: &Path) -> Result<WorkspaceLocation, HostError> {
    LocalHost::default().locate_workspace(start).await
}

async fn instructions(world: &World, root: &str, working: &str) -> Vec<Instructions> {
    let workspace =
        WorkspaceLocation { root: world.path(root), working_directory: world.path(working) };
    LocalHost::default().read_instructions(&workspace, 20).await.unwrap()
}

fn whole(path: &str, text: &str) -> Instructions {
    Instructions { path: path.into(), text: text.to_owned(), truncated: false }
}

#[tokio::test]
async fn the_nearest_git_root_is_the_workspace() {
    let world = World::new();
    world.directory("outer/.git");
    world.directory("outer/inner/.git");
    let working_directory = world.directory("outer/inner/src/deep");
    let actual = locate(&working_directory).await.unwrap();
    let expected = WorkspaceLocation { root: world.path("outer/inner"), working_directory };
    assert_eq!(actual, expected);
}

#[tokio::test]
async fn a_git_file_of_a_linked_worktree_marks_a_root_too() {
    let world = World::new();
    world.file("tree/.git", "gitdir: /elsewhere\n");
    let working_directory = world.directory("tree/src");
    assert_eq!(locate(&working_directory).await.unwrap().root, world.path("tree"));
}

#[tokio::test]
async fn without_git_the_working_directory_is_the_workspace() {
    let world = World::new();
    let directory = world.directory("plain");
    let actual = locate(&directory).await.unwrap();
    // Nobody keeps a repository in the directory for temporary files.
    assert_eq!(actual, WorkspaceLocation { root: directory.clone(), working_directory: directory });
}

#[tokio::test]
async fn a_symlink_to_a_project_is_the_project() {
    let world = World::new();
    world.directory("project/.git");
    symlink(world.path("project"), world.path("link")).unwrap();
    assert_eq!(locate(&world.path("link")).await.unwrap().root, world.path("project"));
}

#[tokio::test]
async fn what_is_no_directory_is_said() {
    let world = World::new();
    world.file("file", "");
    let missing = locate(&world.path("missing")).await.unwrap_err();
    assert!(matches!(missing, HostError::NotFound { .. }), "{missing:?}");
    let file = locate(&world.path("file")).await.unwrap_err();
    assert!(matches!(file, HostError::NotDirectory { .. }), "{file:?}");
}

#[tokio::test]
async fn places_that_must_not_become_a_workspace_are_refused() {
    let world = World::new();
    let home = world.directory("home");
    let state = world.path("home/projects/.state/forge");
    let holds_state = world.directory("home/projects");
    let fine = world.directory("home/projects/fine");
    let host = LocalHost::default().home(home.clone()).state_directory(state);
    for (path, expected) in [
        (Path::new("/"), "the root directory"),
        (&home, "your home directory"),
        (&holds_state, "a directory that holds Forge's own state"),
    ] {
        let error = host.locate_workspace(path).await.unwrap_err();
        let HostError::Unsuitable { what, .. } = error else { panic!("{path:?}: {error:?}") };
        assert_eq!(what, expected);
    }
    assert_eq!(host.locate_workspace(&fine).await.unwrap().root, fine);
}

#[tokio::test]
async fn a_repository_in_the_home_directory_does_not_widen_the_workspace_to_it() {
    let world = World::new();
    world.directory("home/.git");
    let project = world.directory("home/notes");
    let host = LocalHost::default().home(world.path("home"));
    let error = host.locate_workspace(&project).await.unwrap_err();
    assert!(matches!(error, HostError::Unsuitable { .. }), "{error:?}");
}

#[tokio::test]
async fn instructions_are_read_from_the_root_down_to_the_working_directory() {
    let world = World::new();
    world.file("AGENTS.md", "above the root");
    world.file("p/AGENTS.md", "outer");
    world.file("p/a/b/AGENTS.md", "inner");
    world.file("p/other/AGENTS.md", "not on the way");
    let actual = instructions(&world, "p", "p/a/b").await;
    assert_eq!(actual, [whole("AGENTS.md", "outer"), whole("a/b/AGENTS.md", "inner")]);
}

#[tokio::test]
async fn long_instructions_are_cut_and_it_is_said() {
    let world = World::new();
    world.file("p/AGENTS.md", &"0123456789".repeat(3));
    let actual = instructions(&world, "p", "p").await;
    let expected = Instructions { truncated: true, ..whole("AGENTS.md", "01234567890123456789") };
    assert_eq!(actual, [expected]);
}

#[tokio::test]
async fn instructions_that_lead_out_or_are_no_file_are_passed_over() {
    let world = World::new();
    world.file("secret", "not for a model");
    world.directory("p/a");
    symlink(world.path("secret"), world.path("p/AGENTS.md")).unwrap();
    world.directory("p/a/AGENTS.md");
    assert_eq!(instructions(&world, "p", "p/a").await, []);
}

#[tokio::test]
async fn instructions_that_are_a_link_inside_are_read() {
    let world = World::new();
    world.file("p/docs/agents.md", "by link");
    symlink("docs/agents.md", world.path("p/AGENTS.md")).unwrap();
    assert_eq!(instructions(&world, "p", "p").await, [whole("AGENTS.md", "by link")]);
}
