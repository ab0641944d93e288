//! Servers that say nothing, or say it slowly.

use std::time::Duration;

use forge_domain::{CommandError, Ending, EnvironmentError, Lifecycle, OutputStream};
use forge_infra_tensorlake::TensorlakeEnvironment;
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::sandbox::{
    CREATE, DELETE, FOLLOW, PATIENCE, POLL, RUN, START, STATUS, Token, config, exited, in_full,
    life, run,
};
use crate::server::{Reply, Server};

fn impatient(server: &Server) -> TensorlakeEnvironment {
    TensorlakeEnvironment::new(
        config(&server.url).silence_limit(Duration::from_secs(1)),
        crate::sandbox::workspace(),
    )
    .unwrap()
}

fn is_lost(error: &CommandError) -> bool {
    matches!(error, CommandError::Environment(EnvironmentError::ContactLost { .. }))
}

#[tokio::test]
async fn a_run_that_is_never_answered_is_given_up_and_not_sent_again() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => Reply::never(),
        _ => life(request),
    })
    .await;
    let environment = impatient(&server);
    let error = run(&environment).await.unwrap_err();
    environment.close().await.unwrap();
    assert!(is_lost(&error), "{error:?}");
    assert!(in_full(&error).contains("silent for 1s"), "{}", in_full(&error));
    assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
}

#[tokio::test]
async fn a_start_that_is_never_answered_is_given_up_and_not_sent_again() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => Reply::empty(405),
        START => Reply::never(),
        _ => life(request),
    })
    .await;
    let environment = impatient(&server);
    let error = run(&environment).await.unwrap_err();
    environment.close().await.unwrap();
    assert!(is_lost(&error), "{error:?}");
    assert_eq!(server.shapes(), [CREATE, RUN, START, DELETE]);
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let server = Server::start(move |request| match request.shape.as_str() {
        "GET /api/v1/health" => Reply::default().raw(head).hang(),
        _ => life(request),
    })
    .await;
    let environment = impatient(&server);
    let health = tokio::time::timeout(PATIENCE, environment.health()).await.unwrap();
    let error = health.unwrap_err();
    environment.close().await.unwrap();
    assert!(matches!(error, EnvironmentError::ContactLost { .. }), "{error:?}");
}

#[tokio::test]
async fn a_deletion_that_is_never_answered_does_not_hold_up_the_close() {
    let server = Server::start(|request| match request.shape.as_str() {
        DELETE => Reply::never(),
        _ => life(request),
    })
    .await;
    let environment =
        TensorlakeEnvironment::new(config(&server.url), crate::sandbox::workspace()).unwrap();
    environment.prepare().await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, environment.close()).await.unwrap();
    let error = closed.unwrap_err();
    assert!(error.to_string().contains("sb1"), "it says what is left: {error}");
    assert_eq!(server.count(DELETE), 1);
}

#[tokio::test]
async fn a_poll_that_is_never_answered_is_asked_again() {
    let server = Server::start(|request| match request.shape.as_str() {
        CREATE => Reply::json(202, &json!({"sandbox_id": "sb1", "status": "pending"})),
        POLL if request.nth == 0 => Reply::never(),
        POLL => {
            let url = format!("http://{}", request.header("host").unwrap());
            Reply::json(200, &json!({"id": "sb1", "status": "running", "sandbox_url": url}))
        }
        _ => life(request),
    })
    .await;
    let environment = impatient(&server);
    environment.prepare().await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(server.shapes(), [CREATE, POLL, POLL, DELETE]);
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_found_again_by_its_process() {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => {
            token.note(request);
            Reply::stream().started(request).out("one").bytes("data: {\"li").hang()
        }
        FOLLOW => {
            let start = format!("{} start 12", token.get());
            Reply::stream().out(&start).out("one").out("two").eof()
        }
        STATUS => exited(),
        "GET /api/v1/processes/4711/stdout" => {
            let lines = [&*format!("{} start 12", token.get()), "one", "two"];
            Reply::json(200, &json!({"pid": 4711, "lines": lines}))
        }
        "GET /api/v1/processes/4711/stderr" => Reply::json(200, &json!({"lines": []})),
        _ => life(request),
    })
    .await;
    let environment = impatient(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(7));
    assert_eq!(exit.output.of(OutputStream::Stdout), b"one\ntwo\n");
    assert_eq!((server.count(RUN), server.count(START), server.count(FOLLOW)), (1, 0, 1));
}

/// The whole takes longer than a server may be silent; no silence in it does.
#[tokio::test]
async fn a_stream_that_drips_is_read_to_its_end() {
    const LIMIT: Duration = Duration::from_secs(3);
    const DROP: Duration = Duration::from_millis(30);
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => {
            let line = format!("data: {}\n\n", json!({"line": "Tröpfchen €", "timestamp": 1}));
            let text = format!("{line}:\n\ndata: {}\n\n", json!({"exit_code": 5}));
            assert!(DROP * u32::try_from(text.len()).unwrap() > LIMIT / 2);
            let start = Reply::stream().started(request).pause(LIMIT / 2);
            text.as_bytes().iter().fold(start, |reply, byte| reply.bytes([*byte]).pause(DROP)).end()
        }
        _ => life(request),
    })
    .await;
    let config = config(&server.url).silence_limit(LIMIT);
    let environment = TensorlakeEnvironment::new(config, crate::sandbox::workspace()).unwrap();
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(5));
    assert_eq!(String::from_utf8(exit.output.interleaved()).unwrap(), "Tröpfchen €\n");
    assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
}
