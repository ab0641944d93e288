//! How the server ends, and what it leaves.

use std::fs;
use std::path::Path;

use forge_infra_sandbox::{SessionChoice, SessionStore};
use forge_sandboxd::Server;
use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::json;

use crate::stage::{config, eventually, stage};

/// The processes whose command line holds a text, on the whole machine.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
        })
        .collect()
}

/// What is in the directories of a state directory.
pub(crate) fn left(state: &Path) -> usize {
    fs::read_dir(state.join("sessions")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_close_ends_every_sandbox_and_every_stream() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.start(json!({"command": "sleep", "args": ["48151623"]})).await;
    let body = json!({"command": "sleep", "args": ["48151623"]});
    let running = sandbox.request(Method::POST, "/processes/run").json(&body).send().await.unwrap();
    eventually(async || (processes_with("48151623").len() == 2).then_some(())).await;
    stage.server.close().await;
    assert_eq!(processes_with("48151623"), Vec::<u32>::new());
    assert_eq!(left(stage.state.path()), 0);
    // It ended in the ordinary way, or broke off.
    drop(running.text().await);
    assert!(stage.request(Method::GET, "/sandboxes").send().await.is_err());
    stage.server.close().await;
    // Nobody holds the directory but the server that is still there.
    drop(stage.server);
    let again = Server::start(config(stage.state.path())).await.unwrap();
    again.close().await;
}

#[tokio::test]
async fn a_server_begins_with_nothing_of_a_former_one() {
    let state = tempfile::tempdir().unwrap();
    let store = SessionStore::new(state.path());
    for _ in 0..3 {
        // As after a kill: what was written is there, and nobody holds it.
        let session = store.open(Path::new("/"), &SessionChoice::Fresh).unwrap();
        let upper = state.path().join("sessions").join(session.id().to_string()).join("upper");
        fs::create_dir_all(upper.join("root/deep/er")).unwrap();
        fs::write(upper.join("root/deep/er/file"), "left").unwrap();
        drop(session);
    }
    assert_eq!(left(state.path()), 3);
    let server = Server::start(config(state.path())).await.unwrap();
    assert_eq!(left(state.path()), 0);
    server.close().await;
}
