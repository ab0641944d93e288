//! The routes: who is admitted, which sandbox is meant, and what is asked of it.

mod files;
mod lifecycle;
mod processes;
mod request;
mod streams;
mod terminals;
mod unsupported;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tracing::debug;

use crate::config::RunRoute;
use crate::failure::Failure;
use crate::server::Shared;

pub(crate) type App = State<Arc<Shared>>;

pub(crate) fn router(shared: Arc<Shared>, run: RunRoute) -> Router {
    let sandboxes = Router::new()
        .route("/sandboxes", post(lifecycle::create).get(lifecycle::list))
        .route(
            "/sandboxes/{id}",
            get(lifecycle::look).patch(lifecycle::update).delete(lifecycle::terminate),
        )
        .route("/sandboxes/{id}/suspend", post(lifecycle::suspend))
        .route("/sandboxes/{id}/resume", post(lifecycle::resume))
        .merge(unsupported::lifecycle());
    let mut inside = Router::new()
        .route("/health", get(processes::health))
        .route("/info", get(processes::info))
        .route("/processes", post(processes::start).get(processes::list))
        .route("/processes/{pid}", get(processes::look).delete(processes::kill))
        .route("/processes/{pid}/signal", post(processes::signal))
        .route("/processes/{pid}/stdin", post(processes::write_stdin))
        .route("/processes/{pid}/stdin/close", post(processes::close_stdin))
        .route("/processes/{pid}/stdout", get(streams::lines))
        .route("/processes/{pid}/stderr", get(streams::lines))
        .route("/processes/{pid}/output", get(streams::lines))
        .route("/processes/{pid}/stdout/follow", get(streams::follow))
        .route("/processes/{pid}/stderr/follow", get(streams::follow))
        .route("/processes/{pid}/output/follow", get(streams::follow))
        .route("/files", get(files::read).put(files::write).delete(files::remove))
        .route("/files/list", get(files::list))
        .route("/pty", post(terminals::start).get(terminals::list))
        .route("/pty/{id}", get(terminals::look).delete(terminals::delete))
        .route("/pty/{id}/resize", post(terminals::resize))
        .route("/pty/{id}/ws", get(terminals::attach))
        .merge(unsupported::inside());
    if run == RunRoute::Present {
        inside = inside.route("/processes/run", post(processes::run));
    }
    Router::new()
        .merge(sandboxes.clone())
        .nest("/v1/namespaces/{namespace}", sandboxes)
        .nest("/api/v1", inside)
        .route("/platform/v1/keys/introspect", post(lifecycle::introspect))
        .fallback(async || Failure::not_found("there is no such route"))
        .method_not_allowed_fallback(async || {
            let text = "this route has no such method";
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", text)
        })
        // Each handler has the limit that fits it.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), admit))
        .with_state(shared)
}

/// Lets nobody in without the key, to whatever route.
async fn admit(State(shared): App, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    if !given.is_some_and(|value| shared.key.admits(value.as_bytes())) {
        let text = "the bearer key is missing or not the server's";
        let refusal = Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text);
        let mut response = refusal.into_response();
        let scheme = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        return response;
    }
    let request = request.map(|body| request::patient(body, shared.stall_limit));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    debug!(%method, path, status = response.status().as_u16(), "A request was answered.");
    response
}
