//! Sandboxes: create, look, list, change, end.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::App;
use super::request::JsonBody;
use crate::failure::Failure;
use crate::registry::{check_name, new_id};
use crate::sandbox::{Change, Reason, Sandbox, Status, Wish};
use crate::server::Shared;
use crate::wire::{
    CreateSandboxRequest, Network, Resources, ResourcesRequest, UpdateSandboxRequest,
};

const DEFAULT_NAMESPACE: &str = "default";
const DEFAULT_TIMEOUT_SECS: u64 = 600;
const DEFAULT_CPUS: f64 = 1.0;
const DEFAULT_MEMORY_MB: u64 = 1024;
const DEFAULT_DISK_MB: u64 = 10 * 1024;
/// With less, not even a shell runs.
const MIN_MEMORY_MB: u64 = 32;
const MAX_CPUS: f64 = 1024.0;
const MAX_MB: u64 = 1024 * 1024 * 1024;

/// The parameters of a path, of either style.
pub(super) type Parameters = Path<BTreeMap<String, String>>;

fn namespace(parameters: &BTreeMap<String, String>) -> &str {
    parameters.get("namespace").map_or(DEFAULT_NAMESPACE, String::as_str)
}

/// Where a client that reached us by this request finds the sandbox.
fn url(shared: &Shared, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.filter(|host| !host.is_empty()) {
        Some(host) => format!("http://{host}"),
        None => format!("http://{}", shared.address),
    }
}

fn found(shared: &Shared, parameters: &BTreeMap<String, String>) -> Result<Arc<Sandbox>, Failure> {
    let id = parameters.get("id").map_or("", String::as_str);
    shared
        .registry
        .find(id)
        .filter(|sandbox| sandbox.namespace() == namespace(parameters))
        .ok_or_else(|| Failure::not_found(format!("sandbox {id} not found")))
}

pub(super) async fn create(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateSandboxRequest>,
) -> Result<Response, Failure> {
    let waits = body.wait.unwrap_or(true);
    let sandbox = shared.registry.create(wish(namespace(&parameters), body)?)?;
    let status = if waits { sandbox.settled().await } else { sandbox.status() };
    let code = match status {
        Status::Running | Status::Suspended => StatusCode::CREATED,
        Status::Pending => StatusCode::ACCEPTED,
        Status::Failed | Status::Terminated => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok((code, Json(sandbox.create_response(&url(&shared, &headers)))).into_response())
}

fn wish(namespace: &str, body: CreateSandboxRequest) -> Result<Wish, Failure> {
    let named = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let unsupported = [
        (body.snapshot_id.is_some(), "a start from a snapshot"),
        (named(&body.file_systems), "attaching a file system"),
        (named(&body.exposed_ports), "exposing a port"),
    ];
    if let Some((_, what)) = unsupported.into_iter().find(|(asked, _)| *asked) {
        return Err(Failure::unsupported(what));
    }
    if let Some(name) = &body.name {
        check_name(name)?;
    }
    let network = body.network.unwrap_or_else(|| Network {
        allow_internet_access: true,
        allow_out: Vec::new(),
        deny_out: Vec::new(),
    });
    if !network.allow_out.is_empty() || !network.deny_out.is_empty() {
        return Err(Failure::unsupported("a list of hosts that may or may not be reached"));
    }
    Ok(Wish {
        id: new_id(),
        namespace: namespace.to_owned(),
        name: body.name,
        image: body.image,
        entrypoint: body.entrypoint,
        resources: resources(body.resources.unwrap_or_default())?,
        timeout_secs: body.timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS),
        network,
        auto_resume: body.auto_resume.unwrap_or(true),
    })
}

fn resources(request: ResourcesRequest) -> Result<Resources, Failure> {
    if request.gpus.is_some_and(|gpus| !gpus.is_empty()) {
        return Err(Failure::unsupported("a GPU"));
    }
    let resources = Resources {
        cpus: request.cpus.unwrap_or(DEFAULT_CPUS),
        memory_mb: request.memory_mb.unwrap_or(DEFAULT_MEMORY_MB),
        disk_mb: request.disk_mb.unwrap_or(DEFAULT_DISK_MB),
    };
    if !(0.01..=MAX_CPUS).contains(&resources.cpus) {
        return Err(Failure::bad(format!("cpus is not between 0.01 and {MAX_CPUS}")));
    }
    if !(MIN_MEMORY_MB..=MAX_MB).contains(&resources.memory_mb) {
        return Err(Failure::bad(format!("memory_mb is not between {MIN_MEMORY_MB} and {MAX_MB}")));
    }
    if !(1..=MAX_MB).contains(&resources.disk_mb) {
        return Err(Failure::bad(format!("disk_mb is not between 1 and {MAX_MB}")));
    }
    Ok(resources)
}

pub(super) async fn list(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
) -> Json<Value> {
    let url = url(&shared, &headers);
    let alive = shared.registry.alive(namespace(&parameters));
    let sandboxes: Vec<_> = alive.iter().map(|sandbox| sandbox.response(&url)).collect();
    Json(json!({ "sandboxes": sandboxes }))
}

pub(super) async fn look(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let sandbox = found(&shared, &parameters)?;
    Ok(Json(sandbox.response(&url(&shared, &headers))).into_response())
}

pub(super) async fn update(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
    JsonBody(body): JsonBody<UpdateSandboxRequest>,
) -> Result<Response, Failure> {
    let sandbox = found(&shared, &parameters)?;
    let unsupported = [
        ("exposed_ports", "exposing a port"),
        ("allow_unauthenticated_access", "access without the key"),
        ("network", "another network for a sandbox that runs"),
        ("resources", "other resources for a sandbox that runs"),
    ];
    if let Some((_, what)) =
        unsupported.into_iter().find(|(field, _)| body.others.contains_key(*field))
    {
        return Err(Failure::unsupported(what));
    }
    if sandbox.status().is_over() {
        let text = format!("the sandbox is {}", sandbox.status().name());
        return Err(Failure::new(StatusCode::CONFLICT, "SANDBOX_NOT_RUNNING", text));
    }
    if let Some(name) = &body.name {
        shared.registry.rename(&sandbox, name)?;
    }
    if let Some(auto_resume) = body.auto_resume {
        sandbox.set_auto_resume(auto_resume);
    }
    Ok(Json(sandbox.response(&url(&shared, &headers))).into_response())
}

pub(super) async fn terminate(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let sandbox = found(&shared, &parameters)?;
    sandbox.terminate(Reason::Asked).await;
    Ok(Json(sandbox.response(&url(&shared, &headers))).into_response())
}

pub(super) async fn suspend(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    change(&shared, &parameters, &headers, Change::Suspend).await
}

pub(super) async fn resume(
    State(shared): App,
    Path(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    change(&shared, &parameters, &headers, Change::Resume).await
}

async fn change(
    shared: &Shared,
    parameters: &BTreeMap<String, String>,
    headers: &HeaderMap,
    change: Change,
) -> Result<Response, Failure> {
    let sandbox = found(shared, parameters)?;
    sandbox.change(change).await?;
    Ok(Json(sandbox.response(&url(shared, headers))).into_response())
}

/// What the vendor's command asks for before anything else.
pub(super) async fn introspect() -> Json<Value> {
    Json(json!({"id": "forge-serve", "organizationId": "local", "projectId": "local"}))
}
