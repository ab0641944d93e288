//! A life without `run`: provision, poll, start, follow, release, (status,) delete.

use std::time::Duration;

use forge_domain::{
    CommandError, CommandIo, CommandRequest, Commands, Ending, Lifecycle, OutputStream, Program,
    Signal, Stdin,
};
use forge_infra_tensorlake::TensorlakeEnvironment;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use wiremock::MockServer;

use crate::guest::{
    FOLLOW, KEY, RUN, SANDBOXES, START, STATUS, STDIN, body, config_for, create, delete, err,
    header, new_server, out, poll, serve_processes, serve_sandbox, shapes,
};

fn shell(text: &str) -> CommandRequest {
    CommandRequest::new(Program::shell(text)).time_limit(Duration::from_secs(60))
}

/// `hi` and a newline, then `oh` without one, and the status 3.
fn whole() -> Vec<Value> {
    vec![
        out("TOKEN start 12"),
        out("0 aGkK"),
        err("0 b2g="),
        err("TOKEN end"),
        out("TOKEN end 3"),
        json!({}),
    ]
}

/// The same, cut off before its end is told.
fn cut() -> Vec<Value> {
    vec![out("TOKEN start 12"), out("0 aGkK"), err("0 b2g="), json!({})]
}

async fn serve(followed: Vec<Value>, end: Value) -> (MockServer, TensorlakeEnvironment) {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_processes(&server, followed, end).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    (server, environment)
}

#[tokio::test]
async fn provision_poll_start_follow_release_delete() {
    let (server, environment) = serve(whole(), json!({})).await;
    let exit = environment.run(shell("greet"), CommandIo::detached()).await.unwrap();
    environment.close().await.unwrap();

    assert_eq!(exit.ending, Ending::Exited(3));
    assert_eq!(exit.output.of(OutputStream::Stdout), b"hi\n");
    assert_eq!(exit.output.of(OutputStream::Stderr), b"oh");
    let process = [RUN, START, FOLLOW, STDIN].map(str::to_owned);
    let expected: Vec<String> =
        [create(), poll()].into_iter().chain(process).chain([delete()]).collect();
    assert_eq!(shapes(&server).await, expected);

    let requests = server.received_requests().await.unwrap();
    for request in &requests {
        assert_eq!(header(request, "authorization"), Some(&*format!("Bearer {KEY}")));
        assert_eq!(header(request, "user-agent"), Some("forge/0.1.0"));
    }
    for request in &requests[2..6] {
        assert_eq!(header(request, "host"), Some("sb1.local"));
        assert_eq!(header(request, "x-tensorlake-route-hint"), Some("rack-7"));
    }
    let [start, follow, stdin] = [&requests[3], &requests[4], &requests[5]];
    let started = body(start);
    // Neither a `timeout`, which that request does not know, nor a mark in the environment.
    assert_eq!(
        started,
        json!({
            "command": "/bin/sh",
            "args": ["-c", started["args"][1], "sh", "/bin/sh", "/bin/sh", "-c", "greet"],
            "stdin_mode": "pipe",
        })
    );
    assert!(
        started["args"][1].as_str().unwrap().starts_with("read -r g || exit 0\n"),
        "the text waits until its output is followed"
    );
    assert_eq!(header(follow, "accept"), Some("text/event-stream"));
    assert_eq!(header(stdin, "content-type"), Some("application/octet-stream"));
    assert_eq!(stdin.body, b"\n");
}

#[tokio::test]
async fn that_run_is_missing_is_found_out_once() {
    let (server, environment) = serve(whole(), json!({})).await;
    for _ in 0..3 {
        let exit = environment.run(shell("greet"), CommandIo::detached()).await.unwrap();
        assert_eq!(exit.ending, Ending::Exited(3));
    }
    environment.close().await.unwrap();
    let shapes = shapes(&server).await;
    let count = |wanted: &str| shapes.iter().filter(|shape| *shape == wanted).count();
    assert_eq!([RUN, START, FOLLOW, STDIN, STATUS].map(count), [1, 3, 3, 3, 0]);
}

#[tokio::test]
async fn a_command_with_input_is_started_and_followed_also_where_there_is_run() {
    let (server, environment) = serve(whole(), json!({})).await;
    let stdin = Stdin::Stream(Box::pin(futures_util::stream::pending()));
    let io = CommandIo { stdin, ..CommandIo::detached() };
    environment.run(shell("greet"), io).await.unwrap();
    environment.close().await.unwrap();
    let process = [START, FOLLOW, STDIN].map(str::to_owned);
    let expected: Vec<String> =
        [create(), poll()].into_iter().chain(process).chain([delete()]).collect();
    assert_eq!(shapes(&server).await, expected);
}

/// The last lines may have been dropped on their way, so the whole is read again before it is given up.
async fn asks_for_the_status(end: Value) -> Ending {
    let (server, environment) = serve(cut(), end).await;
    let exit = environment.run(shell("greet"), CommandIo::detached()).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.output.of(OutputStream::Stdout), b"hi\n", "nothing is repeated");
    assert_eq!(exit.output.of(OutputStream::Stderr), b"oh");
    let process = [RUN, START, FOLLOW, STDIN, STATUS, FOLLOW, STATUS, FOLLOW, STATUS];
    let expected: Vec<String> = [create(), poll()]
        .into_iter()
        .chain(process.map(str::to_owned))
        .chain([delete()])
        .collect();
    assert_eq!(shapes(&server).await, expected);
    exit.ending
}

#[tokio::test]
async fn a_last_line_that_never_comes_makes_the_ending_what_the_server_knows() {
    let pid = |end: Value| {
        let mut status = json!({"pid": 4711, "status": "exited"});
        status.as_object_mut().unwrap().extend(end.as_object().unwrap().clone());
        status
    };
    let unknown = [
        json!({"exit_code": -1, "signal": null}),
        json!({"exit_code": null, "signal": null}),
        json!({}),
        // Of the command's parent in the guest, which says nothing of the command.
        json!({"exit_code": 0, "signal": null}),
        json!({"status": "signaled", "exit_code": null, "signal": 9}),
    ];
    for end in unknown {
        assert_eq!(asks_for_the_status(pid(end.clone())).await, Ending::Unknown, "{end}");
    }
    let end = json!({"status": "signaled", "signal": 9, "oom_killed": true});
    assert_eq!(asks_for_the_status(pid(end)).await, Ending::OutOfMemory);
    let end = json!({"status": "signaled", "signal": 9, "reason": "timed_out"});
    let expected = Ending::TimedOut { limit: Duration::from_secs(60) };
    assert_eq!(asks_for_the_status(pid(end)).await, expected);
}

#[tokio::test]
async fn a_shells_status_above_128_is_a_signal() {
    let mut lines = whole();
    lines[4] = out("TOKEN end 139");
    let (_server, environment) = serve(lines, json!({})).await;
    let exit = environment.run(shell("crash"), CommandIo::detached()).await.unwrap();
    assert_eq!(exit.ending, Ending::Signalled(Signal::from_number(11).unwrap()));
}

#[tokio::test]
async fn what_stands_in_the_way_is_an_error_and_no_exit() {
    let (server, environment) = serve(vec![out("TOKEN missing"), json!({})], json!({})).await;
    let request = CommandRequest::new(Program::argv("no-such", [""; 0]));
    let error = environment.run(request, CommandIo::detached()).await.unwrap_err();
    assert!(
        matches!(&error, CommandError::NotFound { program } if program == "no-such"),
        "{error}"
    );
    environment.close().await.unwrap();
    let shapes = shapes(&server).await;
    assert_eq!(shapes.iter().filter(|shape| *shape == START).count(), 1);
}
