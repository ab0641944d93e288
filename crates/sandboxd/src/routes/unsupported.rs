//! What the interface has and this server has not, by its routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::any;

use crate::failure::Failure;
use crate::server::Shared;

fn refused(routes: &[(&str, &'static str)]) -> Router<Arc<Shared>> {
    routes.iter().fold(Router::new(), |router, (path, what)| {
        let what = *what;
        router.route(path, any(async move || Failure::unsupported(what)))
    })
}

pub(super) fn lifecycle() -> Router<Arc<Shared>> {
    refused(&[
        ("/sandboxes/{id}/copy", "copying a sandbox"),
        ("/sandboxes/{id}/snapshot", "a snapshot"),
        ("/sandboxes/{id}/snapshots", "a snapshot"),
        ("/sandboxes/{id}/file_systems", "attaching a file system"),
        ("/sandboxes/{id}/logs", "a log of a sandbox"),
        ("/sandboxes/{id}/processes", "a log of a sandbox"),
        ("/snapshots", "a snapshot"),
        ("/snapshots/{id}", "a snapshot"),
        ("/archived-sandboxes", "an archive of sandboxes"),
        ("/archived-sandboxes/{id}", "an archive of sandboxes"),
        ("/sandbox-pools", "a pool of sandboxes"),
        ("/sandbox-pools/{id}", "a pool of sandboxes"),
        ("/sandbox-pools/{id}/sandboxes", "a pool of sandboxes"),
        ("/sandbox-images", "building an image"),
        ("/sandbox-images/{id}", "building an image"),
        ("/sandbox-templates", "building an image"),
        ("/sandbox-templates/{id}", "building an image"),
    ])
}

pub(super) fn inside() -> Router<Arc<Shared>> {
    refused(&[
        ("/processes/{pid}/restart", "restarting a process"),
        ("/tunnels/tcp", "a tunnel"),
        ("/blob/sign", "signing a blob"),
    ])
}
