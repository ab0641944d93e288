//! Processes: start, run, look, signal, feed.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use forge_domain::Signal;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::App;
use super::request::{Inside, JsonBody, broken};
use super::streams;
use crate::failure::Failure;
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::wire::{SignalRequest, StartProcessRequest};

pub(super) async fn health(_: Inside) -> Json<Value> {
    Json(json!({"healthy": true}))
}

pub(super) async fn info(Inside(sandbox): Inside) -> Json<Value> {
    let running = sandbox.processes().iter().filter(|process| process.is_running()).count();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": sandbox.uptime_secs(),
        "running_processes": running,
        "total_processes": sandbox.started(),
    }))
}

pub(super) async fn start(
    State(shared): App,
    Inside(sandbox): Inside,
    JsonBody(body): JsonBody<StartProcessRequest>,
) -> Result<Response, Failure> {
    let process = Process::start(&sandbox.environment, body, &shared.output).await?;
    sandbox.remember(&process);
    Ok((StatusCode::CREATED, Json(process.response())).into_response())
}

pub(super) async fn run(
    State(shared): App,
    Inside(sandbox): Inside,
    JsonBody(body): JsonBody<StartProcessRequest>,
) -> Result<Response, Failure> {
    if body.stdin_mode == Some(crate::wire::StdinMode::Pipe) {
        return Err(Failure::bad("a run has no stdin; start a process instead"));
    }
    let process = Process::start(&sandbox.environment, body, &shared.output).await?;
    sandbox.remember(&process);
    Ok(streams::of_run(&process))
}

pub(super) async fn list(Inside(sandbox): Inside) -> Response {
    let processes = sandbox.processes();
    let all: Vec<_> = processes.iter().map(|process| process.response()).collect();
    Json(json!({ "processes": all })).into_response()
}

/// The process that a path names.
pub(super) fn found(sandbox: &Sandbox, pid: &str) -> Result<Arc<Process>, Failure> {
    let number: u32 = pid.parse().map_err(|_| {
        Failure::bad(format!("{pid:?} is not the number of a process, and no process has a name"))
    })?;
    sandbox.process(number).ok_or_else(|| Failure::not_found(format!("Process {number} not found")))
}

pub(super) async fn look(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
) -> Result<Response, Failure> {
    Ok(Json(found(&sandbox, &pid)?.response()).into_response())
}

pub(super) async fn kill(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
) -> Result<StatusCode, Failure> {
    // What has ended already is as dead as it was asked to be.
    found(&sandbox, &pid)?.kill();
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn signal(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
    JsonBody(body): JsonBody<SignalRequest>,
) -> Result<Json<Value>, Failure> {
    let process = found(&sandbox, &pid)?;
    let signal = Signal::from_number(body.signal)
        .ok_or_else(|| Failure::bad(format!("{} is not the number of a signal", body.signal)))?;
    if process.signal(signal) {
        Ok(Json(json!({"success": true})))
    } else {
        Err(Failure::bad(format!("Process {} is not running", process.pid)))
    }
}

fn not_writable() -> Failure {
    let text = "the process reads no stdin, or no more";
    Failure::new(StatusCode::BAD_REQUEST, "STDIN_NOT_WRITABLE", text)
}

/// Passes a body on as it comes, and waits where the process does not read.
pub(super) async fn write_stdin(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
    body: Body,
) -> Result<StatusCode, Failure> {
    let process = found(&sandbox, &pid)?;
    let writer = process.writer().await.ok_or_else(not_writable)?;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(broken)?;
        if !piece.is_empty() && !writer.write(piece).await {
            return Err(not_writable());
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn close_stdin(
    Inside(sandbox): Inside,
    Path(pid): Path<String>,
) -> Result<StatusCode, Failure> {
    found(&sandbox, &pid)?.close_stdin();
    Ok(StatusCode::NO_CONTENT)
}
