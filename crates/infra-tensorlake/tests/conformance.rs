//! The Tensorlake environment keeps every promise of the ports, against a server that really executes:
//! with `run`, and with the open daemon's processes.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use forge_conformance::{Fixture, conformance_suite};
use forge_domain::WorkspaceLocation;
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_tensorlake_testserver::{Daemon, ServerOptions, TestServer};
use secrecy::SecretString;

async fn environment(daemon: Daemon) -> Fixture {
    let server = TestServer::start(ServerOptions { daemon, ..ServerOptions::default() }).await;
    let server = server.unwrap();
    // In the server's own directory: what is executed is executed on this machine.
    let root = server.directory().join("project");
    let scratch = server.directory().join("scratch");
    std::fs::create_dir_all(server.directory().join("elsewhere")).unwrap();
    std::fs::write(server.directory().join("elsewhere/file"), "outside\n").unwrap();
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    let config = TensorlakeConfig::new(SecretString::from("tl_key"))
        .api_url(server.url())
        .scratch_parent(scratch);
    Fixture::new(TensorlakeEnvironment::new(config, workspace).unwrap(), server)
}

async fn with_run() -> Fixture {
    environment(Daemon::WithRun).await
}

async fn with_the_open_daemon() -> Fixture {
    environment(Daemon::Open).await
}

conformance_suite!(tensorlake_run, with_run);
conformance_suite!(tensorlake_fallback, with_the_open_daemon);
