//! Connections that are many, slow, or idle; bodies that come to a halt.

use std::time::{Duration, Instant};

use forge_sandboxd::{ApiKey, ServerConfig};
use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use reqwest::{Body, Method, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{Stage, answer, eventually, stage_with};

async fn connect(stage: &Stage) -> TcpStream {
    TcpStream::connect(stage.server.address()).await.unwrap()
}

/// Reads to the end of a connection, and gives what came by it.
async fn rest(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // It may be reset instead of closed.
    let reading = connection.read_to_end(&mut bytes);
    drop(tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it stays open"));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn limits_are_as_documented() {
    let config = ServerConfig::new("/nowhere", ApiKey::parse(&"key".into()).unwrap());
    let limits = [
        config.header_limit,
        config.stall_limit,
        config.ping_interval,
        config.silence_limit,
        config.alone_limit,
    ];
    assert_eq!(limits.map(|limit| limit.as_secs()), [120, 60, 5, 90, 300]);
    assert_eq!(config.max_connections, 1024);
}

#[tokio::test]
async fn a_header_that_does_not_come_to_its_end_is_not_waited_for() {
    let limit = Duration::from_millis(600);
    let stage = stage_with(|config| config.header_limit(limit)).await;
    // Nothing at all; the beginning of one HTTP and of the other; headers without end.
    let beginnings = ["", "G", "PRI * HT", "GET / HTTP/1.1\r\nx: ", "GET / HTTP/1.1\r\nx: y\r\n"];
    let clients = beginnings.map(async |beginning| {
        let mut connection = connect(&stage).await;
        connection.write_all(beginning.as_bytes()).await.unwrap();
        let began = Instant::now();
        let mut byte = [0];
        // A byte now and then, as long as it is taken; of HTTP/2's beginning no byte more.
        while began.elapsed() < Duration::from_secs(20) {
            let closed =
                tokio::time::timeout(Duration::from_millis(50), connection.read(&mut byte));
            match closed.await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) if beginning.starts_with("GET") => {
                    drop(connection.write_all(b"a").await);
                }
                Err(_) => {}
            }
        }
        began.elapsed()
    });
    for elapsed in join_all(clients).await {
        assert!(elapsed >= limit / 2 && elapsed < Duration::from_secs(10), "{elapsed:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let stage = stage_with(|config| config.header_limit(Duration::from_millis(500))).await;
    let sandbox = stage.create(json!({})).await;
    let mut idle = connect(&stage).await;
    let request = "GET /sandboxes HTTP/1.1\r\nhost: x\r\nauthorization: Bearer test_key\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    let terminal = sandbox.on_terminal("cat").await;
    let mut socket = terminal.attach().await;
    let (text, ran) = tokio::join!(rest(&mut idle), sandbox.run("echo one; sleep 2; echo two"));
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(ran.stdout, ["one", "two"]);
    socket.type_in(b"here\r").await;
    socket.until("here\r\nhere").await;
    stage.end().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let mut stage = stage_with(|config| config.max_connections(3usize)).await;
    // Requests take a place for as long as they last, and no longer.
    let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    stage.http = builder.build().unwrap();
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("cat").await;
    let mut socket = terminal.attach().await;
    let surplus = async |version: &str| {
        let mut surplus = connect(&stage).await;
        let request =
            format!("GET /sandboxes HTTP/{version}\r\nhost: x\r\nconnection: close\r\n\r\n");
        surplus.write_all(request.as_bytes()).await.unwrap();
        rest(&mut surplus).await
    };
    // A socket is a connection as any other. Those of the requests before are gone a moment later.
    let mut idle = Vec::new();
    eventually(async || {
        idle.push(connect(&stage).await);
        surplus("1.1").await.contains(" 503 ").then_some(())
    })
    .await;
    for version in ["1.1", "1.0"] {
        let text = surplus(version).await;
        assert!(text.contains(" 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains("\r\nretry-after: 1\r\n"), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = json!({ "code": "TOO_MANY_CONNECTIONS", "error": "the server has 3 connections already" });
        assert_eq!(body, expected);
    }
    // Those that are there are served, and others as soon as they have gone.
    socket.type_in(b"here\r").await;
    socket.until("here\r\nhere").await;
    drop(idle);
    eventually(async || surplus("1.1").await.contains(" 401 ").then_some(())).await;
    assert_eq!(sandbox.shell("echo on").await, "on");
    // A socket that is closed gives its place back, too.
    let _two = [connect(&stage).await, connect(&stage).await];
    eventually(async || surplus("1.1").await.contains(" 503 ").then_some(())).await;
    drop(socket);
    eventually(async || surplus("1.1").await.contains(" 401 ").then_some(())).await;
    stage.end().await;
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_waiting() {
    // Both ends of each are in this program.
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(8192).min(8192).max(limit.current.unwrap_or(8192));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).unwrap();
    let stage = stage_with(|config| config.header_limit(Duration::from_secs(3))).await;
    let sandbox = stage.create(json!({})).await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(connect(&stage).await);
    }
    let began = Instant::now();
    assert_eq!(sandbox.shell("echo on").await, "on");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // None of them stays.
    for connection in &mut idle {
        assert_eq!(rest(connection).await, "");
    }
    assert_eq!(sandbox.shell("echo on").await, "on");
    stage.end().await;
}

/// A body that begins with something, and then has nothing more to say.
fn stalled(beginning: &'static str) -> Body {
    use futures_util::{StreamExt as _, stream};
    let pieces = stream::iter([Ok::<_, std::io::Error>(beginning)]).chain(stream::pending());
    Body::wrap_stream(pieces)
}

#[tokio::test]
async fn a_body_that_comes_to_a_halt_is_given_up() {
    let stage = stage_with(|config| config.stall_limit(Duration::from_millis(500))).await;
    let sandbox = stage.create(json!({})).await;
    let pid = sandbox.start(json!({"command": "cat", "stdin_mode": "pipe"})).await;
    let stdin = format!("/processes/{pid}/stdin");
    let requests = [
        stage.request(Method::POST, "/sandboxes").body(stalled("{\"name\":")),
        sandbox.request(Method::POST, "/processes/run").body(stalled("{")),
        sandbox.request(Method::PUT, "/files?path=/tmp/file").body(stalled("half")),
        sandbox.request(Method::POST, &stdin).body(stalled("first\n")),
    ];
    for (status, body) in
        join_all(requests.map(async |request| answer(request.send().await.unwrap()).await)).await
    {
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::REQUEST_TIMEOUT, &json!("REQUEST_TIMEOUT"))
        );
    }
    assert_eq!(sandbox.get("/files?path=/tmp/file").await.0, StatusCode::NOT_FOUND);
    // Another can write where the first one stopped.
    let more = sandbox.request(Method::POST, &stdin).body("second\n").send().await.unwrap();
    assert_eq!(more.status(), StatusCode::NO_CONTENT);
    eventually(async || {
        let (_, out) = sandbox.get(&format!("/processes/{pid}/stdout")).await;
        (out["lines"] == json!(["first", "second"])).then_some(())
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn a_body_that_is_merely_slow_is_taken_and_a_reader_that_is_slow_costs_nobody_a_body() {
    let stage = stage_with(|config| config.stall_limit(Duration::from_millis(600))).await;
    let sandbox = stage.create(json!({})).await;
    let pieces = futures_util::stream::unfold(0, async |round| {
        tokio::time::sleep(Duration::from_millis(150)).await;
        (round < 10).then_some((Ok::<_, std::io::Error>("piece"), round + 1))
    });
    let slow =
        sandbox.request(Method::PUT, "/files?path=/tmp/file").body(Body::wrap_stream(pieces));
    assert!(slow.send().await.unwrap().status().is_success());
    assert_eq!(sandbox.shell("stat -c %s /tmp/file").await, "50");
    // More than fits on the way, to a command that reads late.
    let script = "sleep 2; wc -c";
    let body = json!({"command": "sh", "args": ["-c", script], "stdin_mode": "pipe"});
    let pid = sandbox.start(body).await;
    let much = vec![b'x'; 8_000_000];
    let stdin = format!("/processes/{pid}/stdin");
    let written = sandbox.request(Method::POST, &stdin).body(much).send().await.unwrap();
    assert_eq!(written.status(), StatusCode::NO_CONTENT);
    let (status, _) = sandbox.ask(Method::POST, &format!("{stdin}/close"), json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    sandbox.ended(pid).await;
    let (_, out) = sandbox.get(&format!("/processes/{pid}/stdout")).await;
    assert_eq!(out["lines"], json!(["8000000"]));
    stage.end().await;
}
