//! The routes.

#![expect(clippy::result_large_err, reason = "an answer is what a handler of axum fails with")]

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next as Rest};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, extract::FromRequestParts, http::request::Parts};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::processes::{End, Next, Process, Start, now_ms};
use crate::sandboxes::{Sandbox, Status};
use crate::server::{Creation, Daemon, RecordedRequest, Shared};
use crate::terminals::{self, Terminal};

type App = State<Arc<Shared>>;

/// How long an idle stream is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let sandboxes = Router::new()
        .route("/sandboxes", post(create).get(list))
        .route("/sandboxes/{id}", get(look).delete(delete))
        .route("/sandboxes/{id}/resume", post(resume));
    let limit = shared.options.max_body_bytes;
    let mut inside = Router::new()
        .route("/health", get(health))
        .route("/processes", post(start))
        .route("/processes/{pid}", get(process).delete(kill))
        .route("/processes/{pid}/signal", post(signal))
        .route("/processes/{pid}/stdin", post(write_stdin))
        .route("/processes/{pid}/stdin/close", post(close_stdin))
        .route("/processes/{pid}/{stream}", get(lines))
        .route("/processes/{pid}/output/follow", get(follow))
        .route("/pty", post(start_terminal).get(terminals))
        .route("/pty/{id}", get(terminal).delete(delete_terminal))
        .route("/pty/{id}/ws", get(attach))
        .route("/files", get(read_file).put(write_file));
    if shared.options.daemon == Daemon::WithRun {
        inside = inside.route("/processes/run", post(run));
    }
    Router::new()
        .merge(sandboxes.clone())
        .nest("/v1/namespaces/{namespace}", sandboxes)
        .nest("/api/v1", inside)
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), admit))
        .with_state(shared)
}

/// Records, delays, and asks for the key.
async fn admit(State(shared): App, request: Request, rest: Rest) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    shared.requests().push(RecordedRequest {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        peer: peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
    });
    if !shared.options.latency.is_zero() {
        tokio::time::sleep(shared.options.latency).await;
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let expected = shared.options.key.as_ref().map(|key| format!("Bearer {key}"));
    if expected.is_some() && given != expected.as_deref() {
        return error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "the key is not known");
    }
    rest.run(request).await
}

fn error(status: StatusCode, code: &str, text: &str) -> Response {
    (status, Json(json!({"error": text, "code": code}))).into_response()
}

fn not_found(what: &str) -> Response {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("{what} not found"))
}

async fn create(State(shared): App) -> Response {
    let id = format!("sb{:012x}", fastrand::u64(..) >> 16);
    let home = shared.directory.path().join(&id);
    if std::fs::create_dir_all(&home).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let namespace = match &shared.options.workspace {
        None => None,
        Some(workspace) => match Namespace::make(&home, workspace).await {
            Ok(namespace) => Some(namespace),
            Err(cause) => {
                let text = cause.to_string();
                return error(StatusCode::UNPROCESSABLE_ENTITY, "NAMESPACE", &text);
            }
        },
    };
    let (code, status, name) = match shared.options.creation {
        Creation::Running => (StatusCode::OK, Status::Running, "running"),
        Creation::Pending => (StatusCode::ACCEPTED, Status::Pending(1), "pending"),
        Creation::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Status::Pending(1), "timeout"),
    };
    let sandbox = Arc::new(Sandbox::new(id.clone(), status, home, namespace));
    let mut info = sandbox.info(&shared.url);
    info["status"] = name.into();
    shared.sandboxes().insert(id, sandbox);
    (code, Json(info)).into_response()
}

async fn list(State(shared): App) -> Json<Value> {
    let sandboxes: Vec<Value> =
        shared.sandboxes().values().map(|sandbox| sandbox.info(&shared.url)).collect();
    Json(json!({"sandboxes": sandboxes}))
}

/// The last part of the path, whichever style it has.
fn last_but(uri: &axum::http::Uri, suffix: &str) -> String {
    let path = uri.path().strip_suffix(suffix).unwrap_or(uri.path());
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

async fn look(State(shared): App, uri: axum::http::Uri) -> Response {
    match shared.sandbox(&last_but(&uri, "")) {
        None => (StatusCode::NOT_FOUND, "Sandbox not found").into_response(),
        Some(sandbox) => {
            sandbox.looked_at();
            Json(sandbox.info(&shared.url)).into_response()
        }
    }
}

async fn delete(State(shared): App, uri: axum::http::Uri) -> Response {
    match shared.sandbox(&last_but(&uri, "")) {
        None => (StatusCode::NOT_FOUND, "Sandbox not found").into_response(),
        Some(sandbox) => {
            let ending = tokio::task::spawn_blocking(move || sandbox.terminate());
            drop(ending.await);
            StatusCode::OK.into_response()
        }
    }
}

async fn resume(State(shared): App, uri: axum::http::Uri) -> Response {
    match shared.sandbox(&last_but(&uri, "/resume")) {
        Some(sandbox) if sandbox.status() == Status::Suspended => {
            sandbox.set_status(Status::Running);
            StatusCode::OK.into_response()
        }
        Some(_) => StatusCode::CONFLICT.into_response(),
        None => (StatusCode::NOT_FOUND, "Sandbox not found").into_response(),
    }
}

/// The sandbox that a request is for: by its header, or by its host.
struct Inside(Arc<Sandbox>);

impl FromRequestParts<Arc<Shared>> for Inside {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let Some(id) = addressed(&parts.headers) else {
            return Err(error(StatusCode::BAD_REQUEST, "MISSING_SANDBOX_ID", "no sandbox named"));
        };
        let Some(sandbox) = shared.sandbox(&id) else {
            return Err(error(StatusCode::NOT_FOUND, "SANDBOX_NOT_FOUND", "no such sandbox"));
        };
        if sandbox.status() == Status::Running {
            return Ok(Self(sandbox));
        }
        let text = format!("the sandbox is {}", sandbox.status().name());
        Err(error(StatusCode::SERVICE_UNAVAILABLE, "SANDBOX_NOT_RUNNING", &text))
    }
}

fn addressed(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_host = || text("host")?.split(':').next()?.strip_suffix(".local");
    text("x-tensorlake-sandbox-id").or_else(by_host).map(str::to_owned)
}

async fn health(_: Inside) -> Json<Value> {
    Json(json!({"healthy": true}))
}

fn spawn(shared: &Shared, sandbox: &Sandbox, mut start: Start) -> Result<Arc<Process>, Response> {
    if let Some(tools) = &shared.options.tools {
        start.env.insert("PATH".to_owned(), tools.to_string_lossy().into_owned());
    }
    let namespace = sandbox.namespace.as_ref();
    let daemon = shared.options.daemon;
    let process = Process::start(&start, daemon, sandbox.mark(), namespace, &sandbox.home);
    let process = process.map_err(|_| {
        let body = Json(json!({"error": "Failed to spawn process"}));
        (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
    })?;
    sandbox.processes().insert(process.pid, Arc::clone(&process));
    Ok(process)
}

async fn start(
    State(shared): App,
    Inside(sandbox): Inside,
    Json(body): Json<Start>,
) -> Result<Response, Response> {
    let process = spawn(&shared, &sandbox, body)?;
    Ok((StatusCode::CREATED, Json(process.info())).into_response())
}

async fn run(
    State(shared): App,
    Inside(sandbox): Inside,
    Json(body): Json<Start>,
) -> Result<Response, Response> {
    let process = spawn(&shared, &sandbox, body)?;
    let first = format!("data: {}\n\n", json!({"pid": process.pid, "started_at": now_ms()}));
    Ok(events(process, first, |end| {
        let End { status, timed_out } = end;
        let mut event = match status.signal() {
            Some(signal) => json!({"signal": signal, "reason": "signaled"}),
            None => json!({"exit_code": status.code(), "reason": "exited"}),
        };
        if timed_out {
            event["reason"] = "timed_out".into();
        }
        format!("data: {event}\n\n")
    }))
}

async fn follow(Inside(sandbox): Inside, Path(ids): Path<Ids>) -> Response {
    match sandbox.find(ids.pid) {
        // An unknown process has said nothing and is over.
        None => stream_of(Body::from("event: eof\ndata: {}\n\n")),
        Some(process) => events(process, String::new(), |_| "event: eof\ndata: {}\n\n".to_owned()),
    }
}

fn stream_of(body: Body) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, body).into_response()
}

/// The lines from the first on, then the end.
fn events(process: Arc<Process>, first: String, last: fn(End) -> String) -> Response {
    let changes = process.changed.subscribe();
    let beginning = (process, changes, 0_usize, Some(first), false);
    let stream = stream::unfold(beginning, move |state| async move {
        let (process, mut changes, mut seen, first, done) = state;
        if done {
            return None;
        }
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            let text = Bytes::from(first);
            return Some((Ok::<_, std::io::Error>(text), (process, changes, seen, None, false)));
        }
        loop {
            changes.mark_unchanged();
            match process.after(seen) {
                Next::Lines(lines) => {
                    seen += lines.len();
                    let text: String = lines.into_iter().map(output_event).collect();
                    return Some((Ok(text.into()), (process, changes, seen, None, false)));
                }
                Next::Done(end) => {
                    return Some((Ok(last(end).into()), (process, changes, seen, None, true)));
                }
                Next::Wait => {
                    if tokio::time::timeout(KEEP_ALIVE, changes.changed()).await.is_err() {
                        let text = Bytes::from_static(b":\n\n");
                        return Some((Ok(text), (process, changes, seen, None, false)));
                    }
                }
            }
        }
    });
    stream_of(Body::from_stream(stream))
}

fn output_event((stream, line): (&str, String)) -> String {
    let data = json!({"line": line, "timestamp": 0, "stream": stream});
    format!("event: output\ndata: {data}\n\n")
}

#[derive(Debug, Deserialize)]
struct Ids {
    pid: u32,
}

impl Sandbox {
    fn find(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes().get(&pid).cloned()
    }

    fn found(&self, ids: &Ids) -> Result<Arc<Process>, Response> {
        self.find(ids.pid).ok_or_else(|| not_found(&format!("Process {}", ids.pid)))
    }
}

async fn process(Inside(sandbox): Inside, Path(ids): Path<Ids>) -> Result<Response, Response> {
    Ok(Json(sandbox.found(&ids)?.info()).into_response())
}

async fn kill(Inside(sandbox): Inside, Path(ids): Path<Ids>) -> Result<Response, Response> {
    let killed = sandbox.found(&ids)?.signal(9);
    Ok(if killed { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR }
        .into_response())
}

async fn signal(
    Inside(sandbox): Inside,
    Path(ids): Path<Ids>,
    Json(body): Json<Value>,
) -> Result<Response, Response> {
    let number = body["signal"].as_i64().and_then(|number| i32::try_from(number).ok());
    let sent = sandbox.found(&ids)?.signal(number.unwrap_or_default());
    Ok(if sent {
        Json(json!({"success": true})).into_response()
    } else {
        (StatusCode::BAD_REQUEST, Json(json!({"error": "Invalid signal number"}))).into_response()
    })
}

async fn write_stdin(
    Inside(sandbox): Inside,
    Path(ids): Path<Ids>,
    body: Bytes,
) -> Result<Response, Response> {
    Ok(written(sandbox.found(&ids)?.write(Some(&body)).await))
}

async fn close_stdin(Inside(sandbox): Inside, Path(ids): Path<Ids>) -> Result<Response, Response> {
    Ok(written(sandbox.found(&ids)?.write(None).await))
}

fn written(done: bool) -> Response {
    if done {
        StatusCode::NO_CONTENT.into_response()
    } else {
        error(StatusCode::BAD_REQUEST, "STDIN_NOT_WRITABLE", "stdin is not writable")
    }
}

async fn lines(Inside(sandbox): Inside, Path((pid, stream)): Path<(u32, String)>) -> Response {
    let lines = sandbox.find(pid).map(|process| process.lines(&stream)).unwrap_or_default();
    Json(json!({"pid": pid, "line_count": lines.len(), "lines": lines})).into_response()
}

async fn start_terminal(
    State(shared): App,
    Inside(sandbox): Inside,
    Json(body): Json<terminals::Start>,
) -> Response {
    match Terminal::start(&body, shared.options.daemon, &sandbox) {
        Ok(terminal) => {
            let answer = json!({"session_id": terminal.id, "token": terminal.token});
            sandbox.terminals().insert(terminal.id.clone(), terminal);
            (StatusCode::CREATED, Json(answer)).into_response()
        }
        Err(_) => {
            let body = Json(json!({"error": "Failed to spawn command on PTY"}));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

async fn terminals(Inside(sandbox): Inside) -> Json<Value> {
    let all: Vec<Value> = sandbox.terminals().values().map(|terminal| terminal.info()).collect();
    Json(json!({"sessions": all}))
}

impl Sandbox {
    fn terminal(&self, id: &str) -> Result<Arc<Terminal>, Response> {
        self.terminals().get(id).cloned().ok_or_else(|| not_found("PTY session"))
    }
}

async fn terminal(Inside(sandbox): Inside, Path(id): Path<String>) -> Result<Response, Response> {
    Ok(Json(sandbox.terminal(&id)?.info()).into_response())
}

async fn delete_terminal(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    sandbox.terminal(&id)?.delete();
    sandbox.terminals().remove(&id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct AttachQuery {
    token: String,
}

async fn attach(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
    Query(query): Query<AttachQuery>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Response> {
    let terminal = sandbox.terminal(&id)?;
    if query.token != terminal.token {
        return Err(error(StatusCode::FORBIDDEN, "INVALID_TOKEN", "the token is another one"));
    }
    let upgrade = upgrade.max_message_size(64 * 1024);
    Ok(upgrade.on_upgrade(move |socket| terminal.attend(socket)))
}

#[derive(Debug, Deserialize)]
struct FileQuery {
    path: String,
}

fn traverses(path: &str) -> Option<Response> {
    let leaves = path.split('/').any(|part| part == "..");
    leaves.then(|| error(StatusCode::FORBIDDEN, "PATH_TRAVERSAL", "the path has .. in it"))
}

/// A path as the processes of the sandbox see it.
fn seen_inside(sandbox: &Sandbox, path: &str) -> std::path::PathBuf {
    match (&sandbox.namespace, path.strip_prefix("/tmp/")) {
        (Some(_), Some(rest)) => sandbox.home.join("tmp").join(rest),
        _ => path.into(),
    }
}

async fn read_file(Inside(sandbox): Inside, Query(query): Query<FileQuery>) -> Response {
    if let Some(refused) = traverses(&query.path) {
        return refused;
    }
    match std::fs::read(seen_inside(&sandbox, &query.path)) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(_) => not_found("File"),
    }
}

async fn write_file(
    Inside(sandbox): Inside,
    Query(query): Query<FileQuery>,
    body: Bytes,
) -> Response {
    if let Some(refused) = traverses(&query.path) {
        return refused;
    }
    let path = seen_inside(&sandbox, &query.path);
    let parent = path.parent().unwrap_or(&path);
    match std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, &body)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "it failed"),
    }
}
