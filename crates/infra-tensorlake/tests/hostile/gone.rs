//! A sandbox that is not there any more, or not at the moment.

use forge_domain::{CommandExit, Ending, Lifecycle, Notice};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::sandbox::{CREATE, DELETE, POLL, RUN, environment, life, run};
use crate::server::{Reply, Seen, Server};

const DELETE_SECOND: &str = "DELETE /v1/namespaces/default/sandboxes/sb2";
const RESUME: &str = "POST /v1/namespaces/default/sandboxes/sb1/resume";
const HEALTH: &str = "GET /api/v1/health";

fn is_for(request: &Seen, id: &str) -> bool {
    request.header("host") == Some(&format!("{id}.local"))
}

/// Two commands before the first sandbox goes and two after. `refusal` is what it says then, and `look`
/// how it stands when it is asked for.
async fn goes_after_two(refusal: Reply, look: Reply) -> (Server, Vec<CommandExit>) {
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN if is_for(request, "sb1") && request.nth >= 2 => refusal.clone(),
        RUN => Reply::stream().started(request).out("done").exit(0),
        HEALTH if is_for(request, "sb1") => refusal.clone(),
        POLL => look.clone(),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let mut exits = Vec::new();
    for _ in 0..4 {
        exits.push(run(&environment).await.unwrap());
    }
    assert_eq!(environment.id().as_deref(), Some("sb2"));
    environment.close().await.unwrap();
    (server, exits)
}

fn assert_made_again_once(exits: &[CommandExit], reason: &str) {
    for (number, exit) in exits.iter().enumerate() {
        assert_eq!(exit.ending, Ending::Exited(0));
        assert_eq!(exit.output.interleaved(), b"done\n");
        if number == 2 {
            let [Notice::EnvironmentRecreated { reason: said }] = &exit.notices[..] else {
                panic!("{:?}", exit.notices)
            };
            assert!(said.contains("sb1") && said.contains(reason), "{said}");
        } else {
            assert_eq!(exit.notices, []);
        }
    }
}

#[tokio::test]
async fn a_sandbox_that_is_not_found_is_made_again_once_and_the_result_says_so() {
    let refusal = json!({"error": "no such sandbox", "code": "SANDBOX_NOT_FOUND"});
    let (server, exits) = goes_after_two(Reply::json(404, &refusal), Reply::empty(404)).await;
    assert_made_again_once(&exits, "no longer exists");
    let expected = [CREATE, RUN, RUN, RUN, POLL, CREATE, RUN, RUN, DELETE_SECOND];
    assert_eq!(server.shapes(), expected);
}

#[tokio::test]
async fn a_sandbox_that_does_not_run_is_looked_at_and_made_again_if_it_was_terminated() {
    let refusal = json!({"error": "not running", "code": "SANDBOX_NOT_RUNNING"});
    let look =
        json!({"id": "sb1", "status": "terminated", "termination_reason": "its time was up"});
    let (server, exits) = goes_after_two(Reply::json(503, &refusal), Reply::json(200, &look)).await;
    assert_made_again_once(&exits, "its time was up");
    let expected = [CREATE, RUN, RUN, RUN, POLL, CREATE, RUN, RUN, DELETE_SECOND];
    assert_eq!(server.shapes(), expected);
}

/// The same answer as that of a server without `run`, so the sandbox itself is asked.
#[tokio::test]
async fn a_sandbox_that_is_gone_is_noticed_also_on_a_server_without_codes() {
    let (server, exits) = goes_after_two(Reply::empty(404), Reply::empty(404)).await;
    assert_made_again_once(&exits, "no longer exists");
    let expected = [CREATE, RUN, RUN, RUN, HEALTH, POLL, CREATE, RUN, RUN, DELETE_SECOND];
    assert_eq!(server.shapes(), expected);
}

#[tokio::test]
async fn commands_at_the_same_moment_make_it_again_once() {
    let refusal = json!({"error": "no such sandbox", "code": "SANDBOX_NOT_FOUND"});
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN if is_for(request, "sb1") => Reply::json(404, &refusal),
        RUN => Reply::stream().started(request).exit(0),
        POLL => Reply::empty(404),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let runs = (0..20).map(|_| run(&environment));
    let mut notices = 0;
    for exit in futures_util::future::join_all(runs).await {
        let exit = exit.unwrap();
        assert_eq!(exit.ending, Ending::Exited(0));
        notices += exit.notices.len();
    }
    environment.close().await.unwrap();
    assert_eq!((server.count(CREATE), server.count(POLL), server.count(DELETE_SECOND)), (2, 1, 1));
    assert_eq!((server.count(DELETE), notices), (0, 1));
}

#[tokio::test]
async fn a_sandbox_that_is_gone_each_time_is_not_made_for_ever() {
    let refusal = json!({"error": "no such sandbox", "code": "SANDBOX_NOT_FOUND"});
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => Reply::json(404, &refusal),
        POLL => Reply::empty(404),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    run(&environment).await.unwrap_err();
    environment.close().await.unwrap();
    assert_eq!(server.shapes(), [CREATE, RUN, POLL, CREATE, RUN, DELETE_SECOND]);
}

#[tokio::test]
async fn a_suspended_sandbox_is_resumed_and_no_other_one_is_made() {
    let refusal = json!({"error": "not running", "code": "SANDBOX_NOT_RUNNING"});
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN if request.nth == 1 => Reply::json(503, &refusal),
        RUN => Reply::stream().started(request).exit(0),
        // It is suspended for a while yet after it was asked to run.
        POLL if request.nth < 3 => Reply::json(200, &json!({"id": "sb1", "status": "suspended"})),
        POLL => {
            let url = format!("http://{}", request.header("host").unwrap());
            Reply::json(200, &json!({"id": "sb1", "status": "running", "sandbox_url": url}))
        }
        RESUME => {
            assert!(request.head.starts_with(&format!("{RESUME}?wait_ms=30000 ")));
            Reply::json(202, &json!({}))
        }
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    for _ in 0..2 {
        let exit = run(&environment).await.unwrap();
        assert_eq!((exit.ending, exit.notices), (Ending::Exited(0), vec![]));
    }
    environment.close().await.unwrap();
    let expected = [CREATE, RUN, RUN, POLL, RESUME, POLL, POLL, POLL, RUN, DELETE];
    assert_eq!(server.shapes(), expected);
}
