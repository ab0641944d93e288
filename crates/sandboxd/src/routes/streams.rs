//! Output: all lines so far, or as they come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use forge_domain::OutputStream;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;

use super::processes::found;
use super::request::Inside;
use crate::failure::Failure;
use crate::log::{Line, LogReader};
use crate::process::Process;
use crate::wire::LineEvent;

/// How long a stream of events is silent before it says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    One(OutputStream),
    Both,
}

impl Which {
    /// By the path, as `processes/7/stdout/follow`.
    fn of(path: &str) -> Self {
        let path = path.strip_suffix("/follow").unwrap_or(path);
        match path.rsplit('/').next() {
            Some("stdout") => Self::One(OutputStream::Stdout),
            Some("stderr") => Self::One(OutputStream::Stderr),
            _ => Self::Both,
        }
    }

    fn wants(self, stream: OutputStream) -> bool {
        match self {
            Self::One(wanted) => wanted == stream,
            Self::Both => true,
        }
    }
}

fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

/// All lines so far. They are sent as they are read: there may be more of them than memory.
pub(super) async fn lines(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
    uri: Uri,
) -> Result<Response, Failure> {
    let process = found(&sandbox, &pid)?;
    let which = Which::of(uri.path());
    let head = format!("{{\"pid\":{},\"lines\":[", process.pid);
    let beginning = (process.log.read(), Some(head), 0u64, false);
    let stream = stream::unfold(beginning, move |(mut reader, head, mut count, done)| async move {
        if done {
            return None;
        }
        let mut text = head.unwrap_or_default();
        let mut ended = true;
        while let Some(lines) = reader.next().await {
            for line in lines.into_iter().filter(|line| which.wants(line.stream)) {
                if count > 0 {
                    text.push(',');
                }
                count += 1;
                text.push_str(&encoded(&String::from_utf8_lossy(&line.bytes)));
            }
            if !text.is_empty() {
                ended = false;
                break;
            }
        }
        if ended {
            text.push_str(&format!("],\"line_count\":{count}}}"));
        }
        Some((Ok::<_, io::Error>(Bytes::from(text)), (reader, None, count, ended)))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, Body::from_stream(stream)).into_response())
}

fn encoded(value: &(impl Serialize + ?Sized)) -> String {
    // Texts and numbers, which always can be.
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) async fn follow(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
    uri: Uri,
) -> Result<Response, Failure> {
    let process = found(&sandbox, &pid)?;
    let which = Which::of(uri.path());
    Ok(events(&process, String::new(), Manner::Follow(which)))
}

/// The answer to a run: its number, its lines, its end.
pub(super) fn of_run(process: &Arc<Process>) -> Response {
    let first = json!({"pid": process.pid, "started_at": process.started_ms()});
    events(process, format!("data: {first}\n\n"), Manner::Run)
}

#[derive(Debug, Clone, Copy)]
enum Manner {
    Follow(Which),
    Run,
}

impl Manner {
    fn event(self, line: &Line, text: &mut String) {
        let (which, event) = match self {
            Self::Follow(which) => (which, "event: output\n"),
            Self::Run => (Which::Both, ""),
        };
        if !which.wants(line.stream) {
            return;
        }
        let data = LineEvent {
            line: &String::from_utf8_lossy(&line.bytes),
            timestamp: line.time_ms,
            stream: (which == Which::Both).then(|| name(line.stream)),
        };
        text.push_str(event);
        text.push_str("data: ");
        text.push_str(&encoded(&data));
        text.push_str("\n\n");
    }

    fn last(self, process: &Process) -> String {
        match (self, process.end()) {
            (Self::Run, Some(end)) => format!("data: {}\n\n", encoded(&end.event())),
            // Without an end the client knows that something is wrong.
            (Self::Run, None) => String::new(),
            (Self::Follow(_), _) => "event: eof\ndata: {}\n\n".to_owned(),
        }
    }
}

struct Events {
    process: Arc<Process>,
    reader: LogReader,
    first: Option<String>,
    is_done: bool,
}

fn events(process: &Arc<Process>, first: String, manner: Manner) -> Response {
    let (process, reader) = (Arc::clone(process), process.log.follow());
    let first = (!first.is_empty()).then_some(first);
    let beginning = Events { process, reader, first, is_done: false };
    let stream = stream::unfold(beginning, move |mut state| async move {
        if state.is_done {
            return None;
        }
        let mut text = String::new();
        if let Some(first) = state.first.take() {
            text = first;
        }
        while text.is_empty() {
            match tokio::time::timeout(KEEP_ALIVE, state.reader.next()).await {
                Err(_) => text.push_str(":\n\n"),
                Ok(Some(lines)) => {
                    for line in &lines {
                        manner.event(line, &mut text);
                    }
                }
                Ok(None) => {
                    text.push_str(&manner.last(&state.process));
                    state.is_done = true;
                    break;
                }
            }
        }
        Some((Ok::<_, io::Error>(Bytes::from(text)), state))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(stream)).into_response()
}
