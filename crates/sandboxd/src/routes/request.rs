//! What a request is about: the sandbox that it is for, its body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::failure::Failure;
use crate::sandbox::Sandbox;
use crate::server::Shared;

/// The port of the interface itself, as clients may name it.
const MANAGEMENT_PORT: &str = "9501";

/// The sandbox that a request is for, by its header or its host. It runs.
pub(crate) struct Inside(pub(crate) Arc<Sandbox>);

impl FromRequestParts<Arc<Shared>> for Inside {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let Some(name) = addressed(&parts.headers, parts.uri.host()) else {
            let text = "neither the header X-Tensorlake-Sandbox-Id nor a host as ID.local names a \
                        sandbox";
            return Err(Failure::new(StatusCode::BAD_REQUEST, "MISSING_SANDBOX_ID", text));
        };
        let port = parts.headers.get("x-tensorlake-sandbox-port");
        if port.is_some_and(|port| port.as_bytes() != MANAGEMENT_PORT.as_bytes()) {
            return Err(Failure::unsupported("a port of a sandbox"));
        }
        let Some(sandbox) = shared.registry.find(name) else {
            let text = format!("sandbox {name} not found");
            return Err(Failure::new(StatusCode::NOT_FOUND, "SANDBOX_NOT_FOUND", text));
        };
        sandbox.running().await?;
        Ok(Self(sandbox))
    }
}

fn addressed<'a>(headers: &'a HeaderMap, authority: Option<&'a str>) -> Option<&'a str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_host = || {
        // In HTTP/2 the host is a part of the request's own.
        let host = text("host").or(authority)?;
        host.split(':').next()?.strip_suffix(".local")
    };
    text("x-tensorlake-sandbox-id").or_else(by_host).filter(|name| !name.is_empty())
}

/// A body of JSON, whatever type it says that it has; an empty one is an empty object.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Self::Rejection> {
        let body = collect(request.into_body(), shared.max_body_bytes).await?;
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(body).map(Self).map_err(|error| {
            let text = format!("the body is not what is expected: {error}");
            match error.classify() {
                serde_json::error::Category::Data => {
                    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_REQUEST", text)
                }
                _ => Failure::bad(text),
            }
        })
    }
}

/// A whole body of bounded length.
async fn collect(body: Body, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(broken)?;
        if bytes.len() + piece.len() > max_bytes {
            return Err(Failure::too_large("the body", max_bytes as u64));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A body came to a halt for too long.
#[derive(Debug, Error)]
#[error("the body came to a halt")]
struct Stalled;

/// A body that breaks off where it comes to a halt. Only while somebody waits for it does time count.
pub(super) fn patient(body: Body, stall_limit: Duration) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let pieces = stream::unfold(Some(body.into_data_stream()), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(stall_limit, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(error.into_inner()), None)),
            Ok(None) => None,
            Err(_) => Some((Err(Stalled.into()), None)),
        }
    });
    Body::from_stream(pieces)
}

/// For a body that broke off. Nobody may be there to read it.
pub(super) fn broken(error: axum::Error) -> Failure {
    let first: &(dyn std::error::Error + 'static) = &error;
    if std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<Stalled>())
    {
        let text = "the body came to a halt for too long";
        return Failure::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", text);
    }
    Failure::bad("the body broke off")
}
