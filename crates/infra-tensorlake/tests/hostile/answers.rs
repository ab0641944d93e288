//! Refusals: what is sent again, and what is not.

use std::time::{Duration, Instant};

use forge_domain::{CommandError, Ending, EnvironmentError, Lifecycle};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::sandbox::{
    CREATE, DELETE, FOLLOW, POLL, RUN, START, STDIN, Token, environment, life, run,
};
use crate::server::{Reply, Seen, Server};

const NOT_BEGUN: [&str; 4] = [
    "SANDBOX_UPSTREAM_ERROR",
    "SANDBOX_NOT_READY",
    "SANDBOX_UNREACHABLE",
    "AUTH_SERVICE_UNAVAILABLE",
];

/// Each request is refused once with this before it is answered.
fn refused_once(request: &Seen, refusal: Reply, answer: Reply) -> Reply {
    if request.nth == 0 { refusal } else { answer }
}

/// The whole life without `run`, in which every request that may be repeated is refused once.
async fn life_with_refusals(refusal: Reply) -> Server {
    let token = Token::default();
    Server::start(move |request| {
        let refused = |answer| refused_once(request, refusal.clone(), answer);
        match request.shape.as_str() {
            CREATE => Reply::json(202, &json!({"sandbox_id": "sb1", "status": "pending"})),
            POLL => {
                let url = format!("http://{}", request.header("host").unwrap());
                let running = json!({"id": "sb1", "status": "running", "sandbox_url": url});
                refused(Reply::json(200, &running))
            }
            RUN => Reply::empty(405),
            START => {
                token.note(request);
                Reply::json(201, &json!({"pid": 4711, "status": "running"}))
            }
            STDIN => refused(Reply::empty(204)),
            FOLLOW => {
                let token = token.get();
                let end = json!({"line": format!("{token} end"), "stream": "stderr"});
                let reply = Reply::stream().out(&format!("{token} start 12")).event(&end);
                refused(reply.out(&format!("{token} end 0")).eof())
            }
            DELETE => refused(Reply::empty(200)),
            _ => life(request),
        }
    })
    .await
}

async fn lives_through(refusal: Reply) {
    let server = life_with_refusals(refusal).await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    let expected = [CREATE, POLL, POLL, RUN, START, FOLLOW, FOLLOW, STDIN, STDIN, DELETE, DELETE];
    assert_eq!(server.shapes(), expected);
}

#[tokio::test]
async fn what_does_no_harm_twice_is_sent_again_after_passing_troubles() {
    for status in [429, 502, 503, 504] {
        lives_through(Reply::empty(status)).await;
    }
    lives_through(Reply::nothing()).await;
    lives_through(Reply::json(503, &json!({"error": "x", "code": "SOMETHING_NEW"}))).await;
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let begin = Instant::now();
    let refusal = Reply::of(429, "text/plain", "retry-after: 1\r\n", "slow down");
    let server = Server::start(move |request| match request.shape.as_str() {
        DELETE => refused_once(request, refusal.clone(), Reply::empty(200)),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    environment.prepare().await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(server.shapes(), [CREATE, DELETE, DELETE]);
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

/// What came of a first refusal of `run`, or of the start where `run` is missing.
async fn refused(shape: &'static str, refusal: Reply) -> (Result<Ending, CommandError>, usize) {
    let server = Server::start(move |request| match request.shape.as_str() {
        seen if seen == shape && request.nth == 0 => refusal.clone(),
        RUN if shape == START => Reply::empty(405),
        RUN => Reply::stream().started(request).exit(0),
        // A command that ends before it begins: that it was started again shows all the same.
        START => Reply::json(400, &json!({"error": "started again"})),
        POLL => Reply::json(200, &json!({"id": "sb1", "status": "running"})),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let outcome = run(&environment).await.map(|exit| exit.ending);
    environment.close().await.unwrap();
    assert_eq!((server.count(CREATE), server.count(DELETE)), (1, 1));
    (outcome, server.count(shape))
}

#[tokio::test]
async fn a_command_is_sent_again_where_the_code_says_that_nothing_was_begun() {
    for code in NOT_BEGUN {
        for status in [500, 502, 503] {
            let refusal = Reply::json(status, &json!({"error": "not yet", "code": code}));
            let (outcome, count) = refused(RUN, refusal.clone()).await;
            assert_eq!((outcome.unwrap(), count), (Ending::Exited(0), 2), "{status} {code}");
            let (_, count) = refused(START, refusal).await;
            assert_eq!(count, 2, "{status} {code}");
        }
    }
}

#[tokio::test]
async fn a_command_is_never_sent_again_where_it_may_have_begun() {
    let json = |status, code| Reply::json(status, &json!({"error": "x", "code": code}));
    let refusals = [
        Reply::empty(503),
        Reply::of(503, "text/html", "retry-after: 0\r\n", "<h1>busy</h1>"),
        json(503, json!(null)),
        json(503, json!("SOMETHING_NEW")),
        // It is looked at, and runs.
        json(503, json!("SANDBOX_NOT_RUNNING")),
        json(429, json!("SANDBOX_NOT_READY")),
        Reply::of(429, "text/plain", "retry-after: 0\r\n", ""),
        Reply::empty(500),
        Reply::empty(502),
        Reply::empty(504),
        Reply::empty(400),
        Reply::empty(409),
        Reply::nothing(),
        Reply::default().raw("HTTP/1.1 200 OK\r\ncontent-ty").cut(),
        Reply::default().raw("SSH-2.0-OpenSSH_9.2\r\n\r\n").cut(),
    ];
    for refusal in refusals {
        for shape in [RUN, START] {
            let (outcome, count) = refused(shape, refusal.clone()).await;
            assert!(matches!(outcome, Err(CommandError::Environment(_))), "{refusal:?}");
            assert_eq!(count, 1, "{shape} {refusal:?}");
        }
    }
}

#[tokio::test]
async fn refused_access_is_said_at_once_with_what_to_check() {
    for (status, advice) in [(401, "expired"), (403, "permissions")] {
        for shape in [RUN, START] {
            let refusal = Reply::of(status, "application/json", "", "{\"error\":\"no\"}");
            let (outcome, count) = refused(shape, refusal).await;
            let error = outcome.unwrap_err();
            let CommandError::Environment(EnvironmentError::AccessRefused { reason, .. }) = &error
            else {
                panic!("{error:?}")
            };
            assert!(reason.contains("check") && reason.contains(advice), "{reason}");
            assert_eq!(count, 1);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_so_the_key_goes_nowhere_else() {
    let other = Server::start(|_| Reply::empty(200)).await;
    for status in [301, 302, 303, 307, 308] {
        for shape in [CREATE, RUN, DELETE] {
            let location = format!("location: {}/elsewhere\r\n", other.url);
            let redirect = Reply::of(status, "text/plain", &location, "over there");
            let server = Server::start(move |request| match request.shape.as_str() {
                seen if seen == shape => redirect.clone(),
                RUN => Reply::stream().started(request).exit(0),
                _ => life(request),
            })
            .await;
            let environment = environment(&server);
            let (ran, closed) = (run(&environment).await, environment.close().await);
            assert_eq!(ran.is_err(), shape != DELETE, "{status} {shape}");
            assert_eq!(closed.is_err(), shape == DELETE, "{status} {shape}");
            assert_eq!(server.count(shape), 1);
        }
    }
    assert_eq!(other.shapes(), Vec::<String>::new());
}
