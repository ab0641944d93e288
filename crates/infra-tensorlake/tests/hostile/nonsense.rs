//! Answers that are not what the interface says.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    CommandError, CommandIo, Commands, ControlRequests, Ending, EnvironmentError, Lifecycle,
    OutputSink, OutputStream, SinkClosed, Stdin,
};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::sandbox::{
    CREATE, DELETE, FOLLOW, PATIENCE, RUN, START, STATUS, Token, command, environment, exited,
    in_full, life, run,
};
use crate::server::{Reply, Server};

const GARBAGE: [&str; 14] = [
    "data: {\n\n",
    "data: {\"line\": 5}\n\n",
    "data: {\"line\": \"no end\n\n",
    "data: []\n\n",
    "data: 4711\n\n",
    "data: null\n\n",
    "data: \"exit_code\"\n\n",
    "data: {\"pid\": -1}\n\n",
    "data: {\"exit_code\": \"0\"}\n\n",
    "data\n\n",
    "event: exit\nid: 5\nretry: 1\n\n",
    ": a comment\n\n",
    "exit_code: 0\n\n",
    "\u{feff}data: {\"exit_code\": 0}\n\n",
];

#[tokio::test]
async fn garbage_between_good_events_is_left_out() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => {
            let mut reply = Reply::stream().started(request);
            for (number, garbage) in GARBAGE.iter().enumerate() {
                reply = reply.bytes(garbage).out(&number.to_string());
            }
            reply.bytes(b"data: {\"line\": \"\xff\xfe\"}\n\n").bytes("data: {}\n\n").exit(3)
        }
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    let expected: String = (0..GARBAGE.len()).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(exit.output.interleaved()).unwrap(), expected);
    assert_eq!(exit.ending, Ending::Exited(3));
    assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
}

#[tokio::test]
async fn a_run_answered_with_something_else_is_an_error_and_is_not_run_again() {
    for kind in ["text/html", "application/json", "text/event-stream-not"] {
        let server = Server::start(move |request| match request.shape.as_str() {
            RUN => Reply::of(200, kind, "", "<h1>Please log in</h1>"),
            _ => life(request),
        })
        .await;
        let environment = environment(&server);
        let error = run(&environment).await.unwrap_err();
        environment.close().await.unwrap();
        let lost = matches!(error, CommandError::Environment(EnvironmentError::ContactLost { .. }));
        assert!(lost, "{error:?}");
        let text = in_full(&error);
        assert!(text.contains("a stream of events was expected"), "{text}");
        assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
    }
}

#[tokio::test]
async fn a_follow_answered_with_something_else_is_asked_again() {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => {
            token.note(request);
            Reply::stream().started(request).out("one").cut()
        }
        FOLLOW if request.nth == 0 => Reply::of(200, "text/html", "", "<h1>One moment</h1>"),
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
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!((exit.ending, server.count(RUN)), (Ending::Exited(7), 1));
    assert_eq!(exit.output.interleaved(), b"one\ntwo\n");
}

/// A process that was started and cannot be followed would wait for ever for the line that releases it.
#[tokio::test]
async fn a_held_process_whose_output_cannot_be_had_is_ended() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => Reply::empty(405),
        START => Reply::json(201, &json!({"pid": 4711, "status": "running"})),
        FOLLOW => Reply::of(400, "text/plain", "", "no"),
        "DELETE /api/v1/processes/4711" => Reply::empty(204),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    run(&environment).await.unwrap_err();
    environment.close().await.unwrap();
    let expected = [CREATE, RUN, START, FOLLOW, "DELETE /api/v1/processes/4711", DELETE];
    assert_eq!(server.shapes(), expected);
}

#[tokio::test]
async fn answers_that_are_no_json_are_errors_and_not_taken_for_success() {
    for body in ["", "<html>", "{}", "[]", "{\"pid\": \"x\"}", "{\"pid\": -1}"] {
        let server = Server::start(move |request| match request.shape.as_str() {
            RUN => Reply::empty(405),
            START => Reply::of(201, "application/json", "", body),
            "GET /api/v1/health" => Reply::of(200, "application/json", "", body),
            _ => life(request),
        })
        .await;
        let environment = environment(&server);
        let error = run(&environment).await.unwrap_err();
        let lost = matches!(error, CommandError::Environment(EnvironmentError::ContactLost { .. }));
        assert!(lost, "{body}: {error:?}");
        environment.health().await.unwrap_err();
        environment.close().await.unwrap();
        assert_eq!(server.count(START), 1, "{body}");
    }
}

/// Keeps everything, and checks what it is given.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl OutputSink for Kept {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        assert_eq!(stream, OutputStream::Stdout);
        assert!((1..=1024 * 1024).contains(&bytes.len()));
        self.0.lock().unwrap().extend_from_slice(&bytes);
        Ok(())
    }
}

#[tokio::test]
async fn ten_megabytes_in_one_line_arrive_whole() {
    const LENGTH: usize = 10 * 1024 * 1024;
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => {
            let line: String = ('a'..='z').cycle().take(LENGTH).collect();
            let event = format!("data: {}\n\n", json!({"line": line, "stream": "stdout"}));
            let start = Reply::stream().started(request);
            event.as_bytes().chunks(60_000).fold(start, Reply::bytes).exit(0)
        }
        _ => life(request),
    })
    .await;
    let (environment, kept) = (environment(&server), Kept::default());
    let io = CommandIo {
        stdin: Stdin::Empty,
        sink: Box::new(kept.clone()),
        control: ControlRequests::none(),
    };
    let ran = tokio::time::timeout(PATIENCE, environment.run(command(), io)).await;
    let exit = ran.unwrap().unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    assert_eq!(exit.output.total_bytes(OutputStream::Stdout), LENGTH as u64 + 1);
    let kept = kept.0.lock().unwrap();
    assert!(kept.ends_with(b"\n"));
    assert!(
        kept[..LENGTH].iter().eq((b'a'..=b'z').cycle().take(LENGTH).collect::<Vec<_>>().iter())
    );
    assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
}
