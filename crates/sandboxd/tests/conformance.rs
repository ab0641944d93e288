//! The Tensorlake environment keeps every promise of the ports against this server: with the vendor's flat
//! paths, with namespaces, and where `run` is missing.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use forge_conformance::{Fixture, conformance_suite};
use forge_domain::WorkspaceLocation;
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_sandboxd::{ApiKey, HelperProgram, RunRoute, Server, ServerConfig};
use secrecy::SecretString;

/// How the client is to ask.
enum Manner {
    Flat,
    Namespaced,
    WithoutRun,
}

async fn environment(manner: Manner) -> Fixture {
    let state = tempfile::tempdir().unwrap();
    let key = SecretString::from("test_key");
    let mut config = ServerConfig::new(state.path(), ApiKey::parse(&key).unwrap());
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandboxd-helper").into());
    config.sandbox = config.sandbox.helper(helper);
    if matches!(manner, Manner::WithoutRun) {
        config = config.run(RunRoute::Missing);
    }
    let server = Server::start(config).await.unwrap();
    let url = match manner {
        // Not this machine by its name, and reached on it all the same: paths are flat, and a header names the
        // sandbox.
        Manner::Flat => format!("http://0.0.0.0:{}", server.address().port()),
        Manner::Namespaced | Manner::WithoutRun => server.url(),
    };
    let root = std::path::PathBuf::from("/home/forge/parent/project");
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    let config = TensorlakeConfig::new(key).api_url(url).internet(false);
    let environment = TensorlakeEnvironment::new(config, workspace).unwrap();
    Fixture::new(environment, (server, state))
}

async fn flat() -> Fixture {
    environment(Manner::Flat).await
}

async fn namespaced() -> Fixture {
    environment(Manner::Namespaced).await
}

async fn without_run() -> Fixture {
    environment(Manner::WithoutRun).await
}

conformance_suite!(serve_flat, flat);
conformance_suite!(serve_namespaced, namespaced);
conformance_suite!(serve_without_run, without_run);
