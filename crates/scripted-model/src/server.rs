//! The server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::body::{Ending, Presence, shorten, stream_body};
use crate::wire::{Envelope, Event, EventKind, Format};
use crate::{FaultKind, RecordedRequest, Script, request};

/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 256 * 1024 * 1024;

/// Headers whose values are not recorded.
const SECRET_HEADERS: [&str; 5] =
    ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];

/// A running server. Dropping it closes its port; answers under way end with the runtime.
#[derive(Debug)]
pub struct ScriptedModel {
    address: SocketAddr,
    state: Arc<Shared>,
    task: JoinHandle<()>,
}

/// How a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartOptions {
    /// The port. Default 0: a free one.
    pub port: u16,
    /// Whether requests are kept for [`ScriptedModel::requests`]. Default true. A server that runs for
    /// long does better without: each request carries its whole conversation.
    pub keep_requests: bool,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self { port: 0, keep_requests: true }
    }
}

#[derive(Debug)]
struct Shared {
    script: Script,
    keep_requests: bool,
    requests: Mutex<Vec<RecordedRequest>>,
    received: watch::Sender<u64>,
    abandoned: Arc<watch::Sender<usize>>,
}

impl ScriptedModel {
    /// Starts a server on a free port of 127.0.0.1. It is ready when this returns.
    ///
    /// # Errors
    /// Where the port cannot be bound.
    pub async fn start(script: Script) -> io::Result<Self> {
        Self::start_with(script, StartOptions::default()).await
    }

    /// Starts a server on 127.0.0.1.
    ///
    /// # Errors
    /// Where the port cannot be bound.
    pub async fn start_with(script: Script, options: StartOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Shared {
            script,
            keep_requests: options.keep_requests,
            requests: Mutex::new(Vec::new()),
            received: watch::Sender::new(0),
            abandoned: Arc::new(watch::Sender::new(0)),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        // Small writes shall go out at once: they stand for the tokens of a real server.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let task = tokio::spawn(async move {
            // This ends only when the task is aborted.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { address, state, task })
    }

    /// `http://127.0.0.1:PORT`, without a path. Clients of OpenAI's format add `/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that many requests have come since the start. Not bounded in time.
    pub async fn wait_for_requests(&self, count: u64) {
        // The sender lives as long as self: this cannot fail.
        drop(self.state.received.subscribe().wait_for(|received| *received >= count).await);
    }

    /// Waits until clients have left that many answers before their end. Not bounded in time.
    pub async fn wait_for_abandoned(&self, count: usize) {
        drop(self.state.abandoned.subscribe().wait_for(|abandoned| *abandoned >= count).await);
    }

    /// How many answers clients have left before their end.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        *self.state.abandoned.borrow()
    }

    /// Waits for the end of the server, which does not come by itself.
    pub async fn serve(mut self) {
        // An abort is the only end.
        drop((&mut self.task).await);
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long or was cut");
    };
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let path = parts.uri.path();
    let number = shared.note(RecordedRequest {
        method: parts.method.to_string(),
        path: path.to_owned(),
        headers: recorded(&parts.headers),
        body: if shared.keep_requests { body.clone() } else { Value::Null },
    });
    let Some(format) = Format::of_path(path).filter(|_| parts.method == "POST") else {
        return error(StatusCode::NOT_FOUND, &format!("no such endpoint: {} {path}", parts.method));
    };
    if !body["messages"].is_array() {
        return error(StatusCode::BAD_REQUEST, "the request has no messages");
    }
    let mut presence = Presence::new(Arc::clone(&shared.abandoned));
    let fault = shared.script.faults.iter().find(|fault| fault.applies(number));
    let fault = fault.map(|fault| &fault.kind);
    match fault {
        Some(FaultKind::Reply { status, headers, body }) => {
            presence.end();
            return reply(*status, headers, body);
        }
        Some(FaultKind::SilentFromTheStart) => std::future::pending().await,
        Some(FaultKind::Silent(_) | FaultKind::Cut(_) | FaultKind::EndEarly(_)) | None => {}
    }
    let answer = shared.script.answer(request::position(&body));
    let envelope = Envelope {
        number,
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        wants_usage: body["stream_options"]["include_usage"] == true,
    };
    let delivery = &shared.script.delivery;
    let (content_type, events) = if format.streams(&body) {
        (format.stream_type(), format.events(&answer, &envelope, delivery))
    } else {
        let text = format.whole(&answer, &envelope).to_string();
        ("application/json", vec![Event { text, kind: EventKind::Other }])
    };
    let (events, ending): (_, Ending) = shorten(events, fault);
    let mut response = Response::new(stream_body(events, ending, delivery, presence));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Shared {
    /// Keeps a request; its number, counted from 0.
    fn note(&self, request: RecordedRequest) -> u64 {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keep_requests {
            requests.push(request);
        }
        let mut number = 0;
        // Under the same lock, so that numbers and the order of the requests agree.
        self.received.send_modify(|received| {
            number = *received;
            *received += 1;
        });
        number
    }
}

fn recorded(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &HeaderName, value: &HeaderValue| {
        if SECRET_HEADERS.contains(&name.as_str()) {
            "(not recorded)".to_owned()
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        }
    };
    headers.iter().map(|(name, text)| (name.to_string(), value(name, text))).collect()
}

fn reply(status: u16, headers: &[(String, String)], body: &str) -> Response {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn error(status: StatusCode, message: &str) -> Response {
    let body = json!({ "error": { "type": "scripted_model", "message": message } });
    reply(
        status.as_u16(),
        &[("content-type".to_owned(), "application/json".to_owned())],
        &body.to_string(),
    )
}
