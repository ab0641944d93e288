//! What the environment says of itself before and after its first use, and what that takes, against a server that really
//! executes.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use forge_domain::{
    CommandIo, CommandRequest, Commands, Describe, Description, Ending, EnvironmentError,
    Lifecycle, Program, WorkspaceLocation,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_infra_workspace::HostSource;
use forge_tensorlake_testserver::{ServerOptions, TestServer};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use tempfile::TempDir;

struct Stage {
    server: TestServer,
    environment: TensorlakeEnvironment,
    _project: TempDir,
}

impl Stage {
    async fn new(options: ServerOptions) -> Self {
        let project = tempfile::tempdir().unwrap();
        fs::write(project.path().join("a"), "one\n").unwrap();
        fs::write(project.path().join(".env"), "K=1\n").unwrap();
        let server = TestServer::start(options).await.unwrap();
        let root = server.directory().join("project");
        let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
        let mut config = TensorlakeConfig::new(SecretString::from("k"))
            .api_url(server.url())
            .scratch_parent(server.directory().join("scratch"));
        config.source = Some(Arc::new(HostSource::new(project.path())));
        let environment = TensorlakeEnvironment::new(config, workspace).unwrap();
        Self { server, environment, _project: project }
    }

    async fn described(&self) -> Description {
        self.environment.describe().await.unwrap()
    }

    async fn run(&self, text: &str) -> Result<Vec<u8>, String> {
        let request = CommandRequest::new(Program::shell(text));
        match self.environment.run(request, CommandIo::detached()).await {
            Ok(exit) => {
                assert_eq!(exit.ending, Ending::Exited(0));
                Ok(exit.output.interleaved())
            }
            Err(error) => Err(format!("{error:?}")),
        }
    }
}

fn remarks_on<'a>(description: &'a Description, word: &str) -> Vec<&'a String> {
    description.remarks.iter().filter(|remark| remark.contains(word)).collect()
}

#[tokio::test]
async fn nothing_is_asked_of_anybody_for_a_description() {
    let stage = Stage::new(ServerOptions::default()).await;
    let first = stage.described().await;
    assert_eq!((first.operating_system.as_str(), &first.user), ("Linux", &None));
    assert_eq!(remarks_on(&first, "hold secrets (.env").len(), 1, "{first:?}");
    assert_eq!(stage.described().await, first);
    assert_eq!(stage.server.requests(), []);
    stage.environment.close().await.unwrap();
    assert_eq!(stage.server.requests(), []);
}

#[tokio::test]
async fn preparing_brings_the_project_in_and_learns_what_the_guest_is_once() {
    let stage = Stage::new(ServerOptions::default()).await;
    let first = stage.described().await;
    stage.environment.prepare().await.unwrap();
    let then = stage.described().await;
    assert!(then.operating_system.starts_with("Linux "), "{then:?}");
    assert_eq!(remarks_on(&then, "\".env\"").len(), 1, "{then:?}");
    assert_eq!(remarks_on(&then, "which tools it has").len(), 0, "{then:?}");
    assert_eq!(then.limits, first.limits);
    let requests = stage.server.requests().len();
    stage.environment.prepare().await.unwrap();
    assert_eq!(stage.described().await, then);
    assert_eq!(stage.server.requests().len(), requests);
    // The command is one request: everything is there.
    assert_eq!(stage.run("cat a").await, Ok(b"one\n".to_vec()));
    assert_eq!(stage.server.requests().len(), requests + 1);
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_command_that_nobody_prepared_learns_it_too() {
    let stage = Stage::new(ServerOptions::default()).await;
    assert_eq!(stage.run("cat a").await, Ok(b"one\n".to_vec()));
    assert!(stage.described().await.operating_system.starts_with("Linux "));
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_is_made_anew_is_prepared_anew() {
    let stage = Stage::new(ServerOptions::default()).await;
    stage.environment.prepare().await.unwrap();
    let first = stage.described().await;
    stage.server.terminate(&stage.server.running()[0]);
    fs::remove_dir_all(stage.server.directory().join("project")).unwrap();
    fs::remove_dir_all(stage.server.directory().join("scratch")).unwrap();
    // It is noticed by the first that asks it.
    assert_eq!(stage.run("cat a").await, Ok(b"one\n".to_vec()));
    stage.environment.prepare().await.unwrap();
    assert_eq!(stage.described().await, first);
    stage.environment.close().await.unwrap();
}

/// All programs of this machine but these.
fn tools_without(missing: &[&str]) -> TempDir {
    let tools = tempfile::tempdir().unwrap();
    for directory in ["/usr/local/bin", "/usr/bin", "/bin"] {
        for entry in fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name();
            if !missing.iter().any(|missing| *missing == name) {
                // The first of a name is the one.
                let _taken = symlink(Path::new(directory).join(&name), tools.path().join(&name));
            }
        }
    }
    tools
}

#[tokio::test]
async fn a_guest_that_lacks_what_is_needed_is_refused_by_name_before_anything_goes_in() {
    let tools = tools_without(&["dd", "base64"]);
    let options = ServerOptions { tools: Some(tools.path().into()), ..ServerOptions::default() };
    let stage = Stage::new(options).await;
    for _ in 0..2 {
        let EnvironmentError::Unavailable { reason, .. } =
            stage.environment.prepare().await.unwrap_err()
        else {
            unreachable!("it is refused by name")
        };
        assert_eq!(reason, "the sandbox cannot be used: its image lacks base64, dd");
        let refused = stage.run("touch ran").await.unwrap_err();
        assert!(refused.contains("its image lacks base64, dd"), "{refused}");
    }
    assert!(!stage.server.directory().join("project/a").exists());
    assert!(!stage.server.directory().join("project/ran").exists());
    stage.environment.close().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_lacks_nothing_has_only_its_own_tools_named() {
    let tools = tools_without(&["git"]);
    let options = ServerOptions { tools: Some(tools.path().into()), ..ServerOptions::default() };
    let stage = Stage::new(options).await;
    stage.environment.prepare().await.unwrap();
    let then = stage.described().await;
    let [tools] = &remarks_on(&then, "Of the usual tools")[..] else {
        unreachable!("{then:?}");
    };
    assert!(!tools.contains(" git") && tools.contains(" bash"), "{tools}");
    stage.environment.close().await.unwrap();
}
