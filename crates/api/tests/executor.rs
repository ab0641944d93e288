//! The executor passes every call on, and so keeps every promise of the ports.
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use forge_api::{
    EnvironmentVariable, ExecutorConfig, ForgeAPI, ForgeConfig, LocalOptions, VariableName,
};
use forge_conformance::{Fixture, conformance_suite};

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

conformance_suite!(local, local_executor);
