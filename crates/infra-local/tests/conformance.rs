//! The host keeps every promise of the ports.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::path::Path;

use forge_conformance::{Fixture, conformance_suite};
use forge_domain::{EnvironmentVariable, VariableName, WorkspaceLocation};
use forge_infra_local::{LocalConfig, LocalEnvironment};

async fn local_environment() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let make = |name: &str| {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (workspace, elsewhere, scratch) = (make("project"), make("elsewhere"), make("scratch"));
    write(&elsewhere.join("file"), "outside\n");
    let workspace = WorkspaceLocation { root: workspace.clone(), working_directory: workspace };
    let path = EnvironmentVariable::new(VariableName::parse("PATH").unwrap(), "/usr/bin:/bin");
    let config =
        LocalConfig::new(workspace).environment(vec![path.unwrap()]).scratch_parent(scratch);
    Fixture::new(LocalEnvironment::new(config), directory)
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

conformance_suite!(local, local_environment);
