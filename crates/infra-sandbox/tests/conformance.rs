//! The sandbox keeps every promise of the ports.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use forge_conformance::{Fixture, conformance_suite};
use forge_domain::WorkspaceLocation;
use forge_infra_sandbox::{HelperProgram, SandboxConfig, SandboxEnvironment, SessionMedium};

async fn sandbox_environment() -> Fixture {
    fixture(SessionMedium::Disk)
}

async fn sandbox_in_memory() -> Fixture {
    fixture(SessionMedium::Memory)
}

fn fixture(medium: SessionMedium) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let make = |name: &str| {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (project, elsewhere, state) = (make("project"), make("elsewhere"), make("state"));
    std::fs::write(elsewhere.join("file"), "outside\n").unwrap();
    let workspace = WorkspaceLocation { root: project.clone(), working_directory: project };
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let config = SandboxConfig::new(state).helper(helper).medium(medium);
    Fixture::new(SandboxEnvironment::new(config, workspace), directory)
}

conformance_suite!(sandbox, sandbox_environment);
conformance_suite!(memory, sandbox_in_memory);
