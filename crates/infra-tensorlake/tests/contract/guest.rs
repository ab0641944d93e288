//! A server whose processes are written down, and what it was asked.

use std::sync::{Arc, Mutex};

use forge_domain::WorkspaceLocation;
use forge_infra_tensorlake::TensorlakeConfig;
use secrecy::SecretString;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

pub(crate) const KEY: &str = "tl_s3cret";
pub(crate) const SANDBOXES: &str = "/v1/namespaces/default/sandboxes";
pub(crate) const RUN: &str = "POST /api/v1/processes/run";
pub(crate) const START: &str = "POST /api/v1/processes";
pub(crate) const FOLLOW: &str = "GET /api/v1/processes/4711/output/follow";
pub(crate) const STDIN: &str = "POST /api/v1/processes/4711/stdin";
pub(crate) const STATUS: &str = "GET /api/v1/processes/4711";

/// A server of its own: one of the pool may still hear what is left of the test before.
pub(crate) async fn new_server() -> MockServer {
    MockServer::builder().start().await
}

pub(crate) fn create() -> String {
    format!("POST {SANDBOXES}")
}

pub(crate) fn poll() -> String {
    format!("GET {SANDBOXES}/sb1")
}

pub(crate) fn delete() -> String {
    format!("DELETE {SANDBOXES}/sb1")
}

pub(crate) fn config_for(url: &str) -> TensorlakeConfig {
    TensorlakeConfig::new(SecretString::from(KEY)).api_url(url)
}

pub(crate) fn workspace() -> WorkspaceLocation {
    WorkspaceLocation { root: "/w".into(), working_directory: "/w".into() }
}

/// The sandbox is pending when it is created and runs when it is asked for.
pub(crate) async fn serve_sandbox(server: &MockServer, sandboxes: &str, sandbox_url: &str) {
    answer(server, "POST", sandboxes, 202, json!({"sandbox_id": "sb1", "status": "pending"})).await;
    let running = json!({
        "id": "sb1", "status": "running", "sandbox_url": sandbox_url, "routing_hint": "rack-7",
    });
    answer(server, "GET", &format!("{sandboxes}/sb1"), 200, running).await;
    answer(server, "DELETE", &format!("{sandboxes}/sb1"), 200, json!({})).await;
}

pub(crate) async fn answer(server: &MockServer, verb: &str, at: &str, status: u16, body: Value) {
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(ResponseTemplate::new(status).set_body_json(body))
        .mount(server)
        .await;
}

/// The token with which the text of a command marks its own lines.
pub(crate) fn token_of(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let text = body["args"][1].as_str().unwrap();
    let from = text.lines().find_map(|line| line.strip_prefix("t=")).unwrap();
    from.split(' ').next().unwrap().to_owned()
}

/// Events as a stream. `TOKEN` stands for the token.
pub(crate) fn stream(events: &[Value], token: &str) -> ResponseTemplate {
    let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let text = text.replace("TOKEN", token);
    ResponseTemplate::new(200).set_body_raw(text, "text/event-stream")
}

pub(crate) fn out(line: &str) -> Value {
    json!({"line": line, "timestamp": 1, "stream": "stdout"})
}

pub(crate) fn err(line: &str) -> Value {
    json!({"line": line, "timestamp": 1, "stream": "stderr"})
}

/// Answers `run` with a command that begins and then does this.
pub(crate) struct Runs(pub(crate) Vec<Value>);

impl Respond for Runs {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut events = vec![json!({"pid": 4711, "started_at": 1}), out("TOKEN start 12")];
        events.extend(self.0.iter().cloned());
        stream(&events, &token_of(request))
    }
}

pub(crate) async fn serve_run(server: &MockServer, events: Vec<Value>) {
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/run"))
        .respond_with(Runs(events))
        .mount(server)
        .await;
}

#[derive(Clone)]
struct Remembers(Arc<Mutex<String>>);

struct Starts(Remembers);

impl Respond for Starts {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        *self.0.0.lock().unwrap() = token_of(request);
        ResponseTemplate::new(201).set_body_json(json!({"pid": 4711, "status": "running"}))
    }
}

struct Follows(Remembers, Vec<Value>);

impl Respond for Follows {
    fn respond(&self, _request: &Request) -> ResponseTemplate {
        stream(&self.1, &self.0.0.lock().unwrap())
    }
}

/// A server without `run`: its processes are started and followed. `end` is what it says of the process
/// when it is asked.
pub(crate) async fn serve_processes(server: &MockServer, followed: Vec<Value>, end: Value) {
    let token = Remembers(Arc::default());
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/run"))
        .respond_with(ResponseTemplate::new(405))
        .mount(server)
        .await;
    Mock::given(method("POST"))
        .and(path("/api/v1/processes"))
        .respond_with(Starts(token.clone()))
        .mount(server)
        .await;
    Mock::given(method("GET"))
        .and(path("/api/v1/processes/4711/output/follow"))
        .respond_with(Follows(token, followed))
        .mount(server)
        .await;
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/4711/stdin"))
        .respond_with(ResponseTemplate::new(204))
        .mount(server)
        .await;
    answer(server, "GET", "/api/v1/processes/4711", 200, end).await;
}

/// Method, path and query of every request so far, in order.
pub(crate) async fn shapes(server: &MockServer) -> Vec<String> {
    let shape = |request: &Request| {
        let query = request.url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{} {}{query}", request.method, request.url.path())
    };
    server.received_requests().await.unwrap().iter().map(shape).collect()
}

pub(crate) fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|value| value.to_str().unwrap())
}

pub(crate) fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}
