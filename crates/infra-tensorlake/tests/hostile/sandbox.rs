//! A sandbox on a hostile server, and the client of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_domain::{
    CommandError, CommandExit, CommandIo, CommandRequest, Commands, Program, WorkspaceLocation,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use secrecy::SecretString;
use serde_json::json;

use crate::server::{Reply, Seen, Server};

pub(crate) const KEY: &str = "tl_s3cret";
pub(crate) const CREATE: &str = "POST /v1/namespaces/default/sandboxes";
pub(crate) const POLL: &str = "GET /v1/namespaces/default/sandboxes/sb1";
pub(crate) const DELETE: &str = "DELETE /v1/namespaces/default/sandboxes/sb1";
pub(crate) const RUN: &str = "POST /api/v1/processes/run";
pub(crate) const START: &str = "POST /api/v1/processes";
pub(crate) const FOLLOW: &str = "GET /api/v1/processes/4711/output/follow";
pub(crate) const STDIN: &str = "POST /api/v1/processes/4711/stdin";
pub(crate) const STATUS: &str = "GET /api/v1/processes/4711";

/// No test waits longer for one call.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Answers what is not hostile: the sandbox's own life.
pub(crate) fn life(request: &Seen) -> Reply {
    let url = format!("http://{}", request.header("host").unwrap_or_default());
    match request.shape.as_str() {
        CREATE => {
            let id = format!("sb{}", request.nth + 1);
            let running = json!({"sandbox_id": id, "status": "running", "sandbox_url": url});
            Reply::json(200, &running)
        }
        shape if shape.starts_with("DELETE /v1/") => Reply::empty(204),
        "GET /api/v1/health" => Reply::json(200, &json!({"healthy": true})),
        shape => Reply::of(404, "text/plain", "", &format!("the test has no answer to {shape}")),
    }
}

pub(crate) fn config(url: &str) -> TensorlakeConfig {
    TensorlakeConfig::new(SecretString::from(KEY)).api_url(url)
}

pub(crate) fn workspace() -> WorkspaceLocation {
    WorkspaceLocation { root: "/w".into(), working_directory: "/w".into() }
}

pub(crate) fn environment(server: &Server) -> TensorlakeEnvironment {
    TensorlakeEnvironment::new(config(&server.url), workspace()).unwrap()
}

pub(crate) fn command() -> CommandRequest {
    CommandRequest::new(Program::shell("work"))
}

/// Runs a command, and ends with a message where that takes too long.
pub(crate) async fn run(environment: &TensorlakeEnvironment) -> Result<CommandExit, CommandError> {
    let run = environment.run(command(), CommandIo::detached());
    tokio::time::timeout(PATIENCE, run).await.unwrap()
}

/// An error with everything that led to it.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Remembers the token, which a follow does not tell.
#[derive(Clone, Default)]
pub(crate) struct Token(Arc<Mutex<String>>);

impl Token {
    pub(crate) fn note(&self, request: &Seen) -> String {
        *self.0.lock().unwrap() = request.token();
        self.get()
    }

    pub(crate) fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// A process that has ended.
pub(crate) fn exited() -> Reply {
    Reply::json(200, &json!({"pid": 4711, "status": "exited", "exit_code": 7, "signal": null}))
}
