//! Terminals: start, look, resize, attach, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use forge_domain::TerminalSize;
use serde_json::json;

use super::App;
use super::request::{Inside, JsonBody};
use crate::failure::Failure;
use crate::sandbox::Sandbox;
use crate::terminal::Terminal;
use crate::wire::{ResizeRequest, StartTerminalRequest};

/// Where a socket breaks off. What is merely more than a terminal takes is told to be so.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

pub(super) async fn start(
    State(shared): App,
    Inside(sandbox): Inside,
    JsonBody(body): JsonBody<StartTerminalRequest>,
) -> Result<Response, Failure> {
    let (environment, terminals) = (&sandbox.environment, &sandbox.terminals);
    let (terminal, token) = Terminal::start(environment, terminals, shared.patience, body).await?;
    let answer = json!({"session_id": terminal.id, "token": token});
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn found(sandbox: &Sandbox, id: &str) -> Result<Arc<Terminal>, Failure> {
    let missing = || Failure::not_found(format!("PTY session {id} not found"));
    sandbox.terminals.find(id).ok_or_else(missing)
}

pub(super) async fn list(Inside(sandbox): Inside) -> Response {
    let terminals = sandbox.terminals.list();
    let all: Vec<_> = terminals.iter().map(|terminal| terminal.response()).collect();
    Json(json!({ "sessions": all })).into_response()
}

pub(super) async fn look(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    Ok(Json(found(&sandbox, &id)?.response()).into_response())
}

pub(super) async fn delete(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    found(&sandbox, &id)?;
    sandbox.terminals.delete(&id);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn resize(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ResizeRequest>,
) -> Result<StatusCode, Failure> {
    found(&sandbox, &id)?.resize(TerminalSize::new(body.cols, body.rows));
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach(
    Inside(sandbox): Inside,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let terminal = found(&sandbox, &id)?;
    let in_query = uri.query().unwrap_or_default().split('&');
    let in_query = in_query.into_iter().find_map(|pair| pair.strip_prefix("token="));
    let in_header = || headers.get("x-pty-token").and_then(|value| value.to_str().ok());
    let token = in_query.or_else(in_header);
    let token = token.ok_or_else(|| Failure::bad("the request has no token of the terminal"))?;
    if !terminal.admits(token) {
        let text = "the token is not the terminal's";
        return Err(Failure::new(StatusCode::FORBIDDEN, "INVALID_TOKEN", text));
    }
    let upgrade = upgrade.map_err(|error| Failure::bad(error.body_text()))?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(move |socket| terminal.attend(socket)))
}
