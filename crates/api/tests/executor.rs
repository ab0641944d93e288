//! The executor passes every call on, and so keeps every promise of the ports.
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use forge_api::{
    EnvironmentVariable, ExecutorConfig, ForgeAPI, ForgeConfig, LocalOptions, SecretString,
    TensorlakeConfig, VariableName,
};
use forge_conformance::{Fixture, conformance_suite};
use forge_tensorlake_testserver::{ServerOptions, TestServer};

async fn local_executor() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["project", "elsewhere", "scratch"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::write(root.join("elsewhere/file"), "outside\n").unwrap();
    let path = EnvironmentVariable::new(VariableName::parse("PATH").unwrap(), "/usr/bin:/bin");
    let options = LocalOptions::new(vec![path.unwrap()]).scratch_parent(root.join("scratch"));
    let config = ForgeConfig::new(root.join("project"), ExecutorConfig::Local(options));
    let forge = ForgeAPI::init(config).await.unwrap();
    Fixture::new(forge.executor().clone(), directory)
}

/// The guest's processes see a project and a `/tmp` of their own, and nothing of the real ones.
async fn tensorlake_executor() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().canonicalize().unwrap().join("project");
    std::fs::create_dir(&project).unwrap();
    let options = ServerOptions { workspace: Some(project.clone()), ..ServerOptions::default() };
    let server = TestServer::start(options).await.unwrap();
    let config = TensorlakeConfig::new(SecretString::from("tl_key")).api_url(server.url());
    let config = ForgeConfig::new(project, ExecutorConfig::Tensorlake(Box::new(config)));
    let forge = ForgeAPI::init(config).await.unwrap();
    Fixture::new(forge.executor().clone(), (server, directory))
}

conformance_suite!(local, local_executor);
conformance_suite!(tensorlake, tensorlake_executor);
