//! A server and a client without any comfort.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use forge_sandboxd::{ApiKey, HelperProgram, Server, ServerConfig};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) state: TempDir,
    pub(crate) http: reqwest::Client,
    pub(crate) key: String,
}

static TLS: Once = Once::new();

pub(crate) fn client() -> reqwest::Client {
    // The client asks for it even where nothing is encrypted.
    TLS.call_once(|| {
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap()
}

pub(crate) fn config(state: &Path) -> ServerConfig {
    let key = ApiKey::parse(&"test_key".into()).unwrap();
    let mut config = ServerConfig::new(state, key);
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandboxd-helper").into());
    config.sandbox = config.sandbox.helper(helper);
    config
}

pub(crate) async fn stage() -> Stage {
    stage_with(|config| config).await
}

pub(crate) async fn stage_with(change: impl FnOnce(ServerConfig) -> ServerConfig) -> Stage {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start(change(config(state.path()))).await.unwrap();
    Stage { server, state, http: client(), key: "test_key".to_owned() }
}

impl Stage {
    /// Ends the server, which has to leave nothing of its sandboxes.
    pub(crate) async fn end(&self) {
        self.server.close().await;
        let left = std::fs::read_dir(self.state.path().join("sessions")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "sandboxes are left");
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.server.url());
        self.http.request(method, url).bearer_auth(&self.key)
    }

    /// Sends a request with a body and gives status and answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(method, path).json(&body).send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    /// A sandbox without a network, which needs nothing of the machine's.
    pub(crate) async fn create(&self, mut body: Value) -> Sandbox<'_> {
        if body.get("network").is_none() {
            body["network"] = json!({"allow_internet_access": false});
        }
        let (status, answer) = self.ask(Method::POST, "/sandboxes", body).await;
        assert_eq!(
            (status, &answer["status"]),
            (StatusCode::CREATED, &json!("running")),
            "{answer}"
        );
        Sandbox { stage: self, id: answer["sandbox_id"].as_str().unwrap().to_owned() }
    }
}

pub(crate) async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, value)
}

pub(crate) struct Sandbox<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) id: String,
}

/// What a run came to.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
    pub(crate) end: Value,
}

impl Sandbox<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = format!("/api/v1{path}");
        self.stage.request(method, &path).header("x-tensorlake-sandbox-id", &self.id)
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(method, path).json(&body).send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn run_body(&self, body: Value) -> Ran {
        let response =
            self.request(Method::POST, "/processes/run").json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        let mut ran = Ran::default();
        for data in datas(&text) {
            match data["line"].as_str() {
                Some(line) if data["stream"] == "stderr" => ran.stderr.push(line.to_owned()),
                Some(line) => ran.stdout.push(line.to_owned()),
                None => ran.end = data,
            }
        }
        ran
    }

    pub(crate) async fn run(&self, script: &str) -> Ran {
        self.run_body(json!({"command": "sh", "args": ["-c", script]})).await
    }

    /// Runs a script that has to succeed, and gives what it printed.
    pub(crate) async fn shell(&self, script: &str) -> String {
        let ran = self.run(script).await;
        assert_eq!(ran.end["exit_code"], 0, "{ran:?}");
        ran.stdout.join("\n")
    }

    pub(crate) async fn start(&self, body: Value) -> u64 {
        let (status, process) = self.ask(Method::POST, "/processes", body).await;
        assert_eq!(status, StatusCode::CREATED, "{process}");
        process["pid"].as_u64().unwrap()
    }

    /// Waits until a process has ended, and gives it.
    pub(crate) async fn ended(&self, pid: u64) -> Value {
        eventually(async || {
            let (_, process) = self.get(&format!("/processes/{pid}")).await;
            (process["status"] != "running").then_some(process)
        })
        .await
    }

    pub(crate) async fn delete(&self) {
        let path = format!("/sandboxes/{}", self.id);
        let (status, _) = self.stage.ask(Method::DELETE, &path, json!({})).await;
        assert_eq!(status, StatusCode::OK);
    }
}

/// The data of the events of a stream.
pub(crate) fn datas(text: &str) -> impl Iterator<Item = Value> + '_ {
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

/// Asks again and again, for as long as a slow machine takes.
pub(crate) async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.expect("it never happened")
}
