//! A guest whose user may not make the project's directory.

use forge_domain::{CommandError, Ending, EnvironmentError, Lifecycle};
use pretty_assertions::assert_eq;
use serde_json::Value;

use crate::sandbox::{RUN, environment, in_full, life, run};
use crate::server::{Reply, Seen, Server};

fn by_root(request: &Seen) -> bool {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["user"] == "root"
}

fn refused(request: &Seen) -> Reply {
    Reply::stream().out(&format!("{} workspace 1000:100", request.token())).exit(0)
}

fn made(request: &Seen) -> Reply {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    for part in ["mkdir -p -- '/w'", "chown -- 1000:100 '/w'"] {
        assert!(text.contains(part), "{text}");
    }
    Reply::stream().out(&format!("{} 0", request.token())).exit(0)
}

#[tokio::test]
async fn root_makes_the_workspace_and_gives_it_to_the_user() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN if by_root(request) => made(request),
        RUN if request.nth == 0 => refused(request),
        RUN => Reply::stream().started(request).exit(3),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    assert_eq!(run(&environment).await.unwrap().ending, Ending::Exited(3));
    environment.close().await.unwrap();
    assert_eq!(server.count(RUN), 3);
}

#[tokio::test]
async fn a_workspace_that_root_cannot_make_either_is_an_error_and_is_not_tried_for_ever() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN if by_root(request) => made(request),
        RUN => refused(request),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let error = run(&environment).await.unwrap_err();
    environment.close().await.unwrap();
    let is_said = matches!(&error, CommandError::Environment(EnvironmentError::Unavailable { .. }));
    assert!(is_said && in_full(&error).contains("cannot be made in the sandbox"), "{error:?}");
    assert_eq!(server.count(RUN), 3);
}
