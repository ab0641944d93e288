//! The sequence of requests that a command takes, pinned by method, path, headers, body and order: with
//! `run`, and with processes that are started and followed.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use forge_domain::{
    CommandError, CommandExit, CommandIo, CommandRequest, Commands, Ending, Fidelity, Lifecycle,
    OutputStream, Program, Signal, WorkspaceLocation,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const SANDBOXES: &str = "/v1/namespaces/default/sandboxes";

/// The word that marks the lines of a command's text.
fn token(body: &Value) -> String {
    let text = body["args"][1].as_str().unwrap();
    let line = text.lines().find(|line| line.starts_with("t=f")).unwrap();
    line[2..].split(' ').next().unwrap().to_owned()
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

/// In the order of the alphabet: JSON has none.
fn keys(body: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn line(stream: &str, line: &str) -> String {
    let data = json!({"line": line, "timestamp": 1, "stream": stream});
    format!("event: output\ndata: {data}\n\n")
}

fn events(text: String) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(text, "text/event-stream")
}

/// A server that makes sandboxes, pending at first, and deletes them.
async fn server() -> MockServer {
    let server = MockServer::builder().start().await;
    let pending = json!({"sandbox_id": "sb1", "status": "pending"});
    Mock::given(method("POST"))
        .and(path(SANDBOXES))
        .respond_with(ResponseTemplate::new(202).set_body_json(pending))
        .mount(&server)
        .await;
    let running = json!({
        "id": "sb1", "status": "running", "sandbox_url": server.uri(), "routing_hint": "hint",
    });
    Mock::given(method("GET"))
        .and(path(format!("{SANDBOXES}/sb1")))
        .respond_with(ResponseTemplate::new(200).set_body_json(running))
        .mount(&server)
        .await;
    Mock::given(method("DELETE"))
        .and(path(format!("{SANDBOXES}/sb1")))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    server
}

/// `run` answers with these lines, after the one that says that the command begins, and this end.
async fn run_answers(server: &MockServer, lines: &'static [(&str, &str)], end: Value) {
    let answer = move |request: &Request| {
        let mut text = "data: {\"pid\":7,\"started_at\":1}\n\n".to_owned();
        text.push_str(&line("stdout", &format!("{} start 7", token(&body(request)))));
        for (stream, words) in lines {
            text.push_str(&line(stream, words));
        }
        text.push_str(&format!("data: {end}\n\n"));
        events(text)
    };
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/run"))
        .respond_with(answer)
        .mount(server)
        .await;
}

fn environment(server: &MockServer) -> TensorlakeEnvironment {
    let config = TensorlakeConfig::new(SecretString::from("tl_key"))
        .api_url(server.uri())
        .organization("org")
        .project("pro");
    let workspace = WorkspaceLocation { root: "/w".into(), working_directory: "/w/sub".into() };
    TensorlakeEnvironment::new(config, workspace).unwrap()
}

async fn run(
    environment: &TensorlakeEnvironment,
    request: CommandRequest,
) -> Result<CommandExit, CommandError> {
    environment.run(request, CommandIo::detached()).await
}

fn echo() -> CommandRequest {
    CommandRequest::new(Program::argv("echo", ["a b", "c"]))
}

async fn sequence(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.unwrap();
    requests.iter().map(|request| format!("{} {}", request.method, request.url.path())).collect()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn with_run_it_is_provision_poll_run_delete() {
    let server = server().await;
    run_answers(&server, &[("stdout", "a b c"), ("stderr", "é")], json!({"exit_code": 3})).await;
    let environment = environment(&server);
    let request = echo().time_limit(std::time::Duration::from_secs(60));
    let exit = run(&environment, request).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(3));
    assert_eq!(exit.output.of(OutputStream::Stdout), b"a b c\n");
    assert_eq!(exit.output.of(OutputStream::Stderr), "é\n".as_bytes());
    environment.close().await.unwrap();

    let expected = [
        format!("POST {SANDBOXES}"),
        format!("GET {SANDBOXES}/sb1"),
        "POST /api/v1/processes/run".to_owned(),
        format!("DELETE {SANDBOXES}/sb1"),
    ];
    assert_eq!(sequence(&server).await, expected);
    let requests = server.received_requests().await.unwrap();
    for request in &requests {
        assert_eq!(header(request, "authorization"), Some("Bearer tl_key"));
        assert!(header(request, "user-agent").unwrap().starts_with("forge/"));
        assert_eq!(header(request, "x-forwarded-organization-id"), Some("org"));
        assert_eq!(header(request, "x-forwarded-project-id"), Some("pro"));
    }
    let created = body(&requests[0]);
    let expected = json!({"resources": {"cpus": 1.0, "memory_mb": 1024}, "timeout_secs": 3600});
    assert_eq!(created, expected);
    let run = &requests[2];
    assert_eq!(header(run, "host"), Some("sb1.local"));
    assert_eq!(header(run, "x-tensorlake-route-hint"), Some("hint"));
    assert_eq!(header(run, "accept"), Some("text/event-stream"));
    assert_eq!(header(run, "content-type"), Some("application/json"));
    let sent = body(run);
    let keys = keys(&sent);
    assert_eq!(keys, ["args", "command", "env", "timeout"]);
    assert_eq!(sent["command"], "/bin/sh");
    // The limit, the grace, and a margin in which the client ends it more gently.
    assert_eq!(sent["timeout"], 67.0);
    let args: Vec<&str> =
        sent["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!((args[0], &args[2..]), ("-c", &["sh", "echo", "echo", "a b", "c"][..]));
    assert_eq!(sent["env"], json!({"FORGE_COMMAND_ID": token(&sent)}));
}

/// A server whose `run` is missing, and whose process says these lines.
async fn open_daemon(server: &MockServer, lines: fn(&str) -> Vec<(&'static str, String)>) {
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/run"))
        .respond_with(ResponseTemplate::new(405))
        .mount(server)
        .await;
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let heard = std::sync::Arc::clone(&said);
    Mock::given(method("POST"))
        .and(path("/api/v1/processes"))
        .respond_with(move |request: &Request| {
            *heard.lock().unwrap() = token(&body(request));
            ResponseTemplate::new(201)
                .set_body_json(json!({"pid": 7, "status": "running", "exit_code": null}))
        })
        .mount(server)
        .await;
    Mock::given(method("GET"))
        .and(path("/api/v1/processes/7/output/follow"))
        .respond_with(move |_: &Request| {
            let said = said.lock().unwrap();
            let lines = lines(&said);
            let mut text: String =
                lines.iter().map(|(stream, words)| line(stream, words)).collect();
            text.push_str("event: eof\ndata: {}\n\n");
            events(text)
        })
        .mount(server)
        .await;
    Mock::given(method("POST"))
        .and(path("/api/v1/processes/7/stdin"))
        .respond_with(ResponseTemplate::new(204))
        .mount(server)
        .await;
}

#[tokio::test]
async fn without_run_it_is_start_follow_release() {
    let server = server().await;
    open_daemon(&server, |token| {
        vec![
            ("stdout", format!("{token} start 8")),
            ("stdout", "0 YQ==".to_owned()),
            ("stderr", format!("{token} end")),
            ("stdout", format!("{token} end 3")),
        ]
    })
    .await;
    let environment = environment(&server);
    for _ in 0..2 {
        let exit = run(&environment, echo()).await.unwrap();
        assert_eq!(exit.ending, Ending::Exited(3));
        assert_eq!(exit.output.interleaved(), b"a");
    }
    environment.close().await.unwrap();
    let start_to_end = [
        "POST /api/v1/processes",
        "GET /api/v1/processes/7/output/follow",
        "POST /api/v1/processes/7/stdin",
    ];
    // Whether there is `run` is asked once.
    let mut expected = vec![
        format!("POST {SANDBOXES}"),
        format!("GET {SANDBOXES}/sb1"),
        "POST /api/v1/processes/run".to_owned(),
    ];
    expected.extend(start_to_end.iter().chain(&start_to_end).map(ToString::to_string));
    expected.push(format!("DELETE {SANDBOXES}/sb1"));
    assert_eq!(sequence(&server).await, expected);
    let requests = server.received_requests().await.unwrap();
    let started = body(&requests[3]);
    let keys = keys(&started);
    assert_eq!(keys, ["args", "command", "stdin_mode"]);
    assert_eq!(started["stdin_mode"], "pipe");
    assert_eq!(header(&requests[4], "accept"), Some("text/event-stream"));
    assert_eq!(requests[5].body, b"\n");
}

#[tokio::test]
async fn an_end_that_is_not_in_the_output_is_asked_for() {
    let cases = [
        (json!({"pid": 7, "status": "exited", "exit_code": -1}), Ending::Unknown),
        (json!({"pid": 7, "status": "signaled", "signal": 9}), Ending::Unknown),
        (json!({"pid": 7, "status": "exited", "reason": "oom_killed"}), Ending::OutOfMemory),
    ];
    for (status, expected) in cases {
        let server = server().await;
        open_daemon(&server, |token| {
            vec![("stdout", format!("{token} start 8")), ("stdout", "0 YQ==".to_owned())]
        })
        .await;
        let asked = AtomicUsize::new(0);
        Mock::given(method("GET"))
            .and(path("/api/v1/processes/7"))
            .respond_with(move |_: &Request| {
                // It runs on for a while after its output has ended.
                let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                let running = json!({"pid": 7, "status": "running"});
                ResponseTemplate::new(200).set_body_json(if first { &running } else { &status })
            })
            .mount(&server)
            .await;
        let environment = environment(&server);
        let exit = run(&environment, echo()).await.unwrap();
        assert_eq!((exit.ending, exit.output.of(OutputStream::Stdout)), (expected, b"a".to_vec()));
        environment.close().await.unwrap();
        let sequence = sequence(&server).await;
        let starts = sequence.iter().filter(|request| *request == "POST /api/v1/processes");
        assert_eq!(starts.count(), 1, "{sequence:?}");
        assert!(sequence.contains(&"GET /api/v1/processes/7".to_owned()), "{sequence:?}");
        assert_eq!(sequence.last(), Some(&format!("DELETE {SANDBOXES}/sb1")));
    }
}

#[tokio::test]
async fn every_end_of_run_is_told_apart() {
    let limit = std::time::Duration::from_secs(60);
    let cases = [
        (json!({"exit_code": 0}), Ending::Exited(0)),
        (json!({"exit_code": 255, "reason": "exited"}), Ending::Exited(255)),
        (json!({"signal": 15, "reason": "signaled"}), Ending::Signalled(Signal::TERM)),
        (json!({"signal": 9, "oom_killed": true, "reason": "oom_killed"}), Ending::OutOfMemory),
        (json!({"signal": 9, "oom_killed": true}), Ending::OutOfMemory),
        (json!({"signal": 9, "reason": "timed_out"}), Ending::TimedOut { limit }),
        (json!({"exit_code": 4, "reason": "something new"}), Ending::Exited(4)),
        (json!({"exit_code": -1}), Ending::Unknown),
        (json!({"exit_code": 256}), Ending::Unknown),
        (json!({"signal": 0}), Ending::Unknown),
        (json!({"reason": "exited"}), Ending::Unknown),
    ];
    for (end, expected) in cases {
        let server = server().await;
        run_answers(&server, &[("stdout", "partial")], end.clone()).await;
        let environment = environment(&server);
        let exit = run(&environment, echo().time_limit(limit)).await.unwrap();
        assert_eq!(exit.ending, expected, "{end}");
        assert_eq!(exit.output.interleaved(), b"partial\n");
        // A deletion that comes late would be seen by the next test: servers are used again.
        environment.close().await.unwrap();
    }
}

/// 127.0.0.2 is this machine too, and is no name that is asked by its host.
#[tokio::test]
async fn a_sandbox_at_another_host_is_addressed_by_a_header() {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sandbox = MockServer::builder().listener(listener).start().await;
    run_answers(&sandbox, &[], json!({"exit_code": 0})).await;
    let server = MockServer::builder().start().await;
    let running = json!({"sandbox_id": "sb1", "status": "running", "sandbox_url": url});
    Mock::given(method("POST"))
        .and(path(SANDBOXES))
        .respond_with(ResponseTemplate::new(200).set_body_json(running))
        .mount(&server)
        .await;
    Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let environment = environment(&server);
    assert_eq!(run(&environment, echo()).await.unwrap().ending, Ending::Exited(0));
    environment.close().await.unwrap();
    let requests = sandbox.received_requests().await.unwrap();
    assert_eq!(header(&requests[0], "x-tensorlake-sandbox-id"), Some("sb1"));
    assert_eq!(header(&requests[0], "host"), Some(&url["http://".len()..]));
}

#[tokio::test]
async fn exact_output_takes_one_request_too() {
    let server = server().await;
    let answer = |request: &Request| {
        let token = token(&body(request));
        let lines = [
            ("stdout", format!("{token} start 8")),
            ("stdout", "0 AP8=".to_owned()),
            ("stderr", format!("{token} end")),
            ("stdout", format!("{token} end 0")),
        ];
        let mut text = "data: {\"pid\":7}\n\n".to_owned();
        lines.iter().for_each(|(stream, words)| text.push_str(&line(stream, words)));
        events(text + "data: {\"exit_code\":0}\n\n")
    };
    Mock::given(path("/api/v1/processes/run")).respond_with(answer).mount(&server).await;
    let environment = environment(&server);
    let exit = run(&environment, echo().fidelity(Fidelity::Exact)).await.unwrap();
    assert_eq!((exit.ending, exit.output.interleaved()), (Ending::Exited(0), vec![0, 255]));
    environment.close().await.unwrap();
    let runs = sequence(&server).await;
    assert_eq!(runs.iter().filter(|request| request.contains("processes")).count(), 1, "{runs:?}");
}
