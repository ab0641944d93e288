//! What no client should send.

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::{answer, stage, stage_with};

#[tokio::test]
async fn a_body_that_is_not_what_it_should_be_is_refused_with_a_reason() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for (body, status) in [
        ("{", StatusCode::BAD_REQUEST),
        ("nonsense", StatusCode::BAD_REQUEST),
        ("\u{0}", StatusCode::BAD_REQUEST),
        ("[]", StatusCode::UNPROCESSABLE_ENTITY),
        ("{}", StatusCode::UNPROCESSABLE_ENTITY),
        ("", StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": 7}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": "true", "args": "x"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": "true", "stdin_mode": "x"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": "true", "env": {"A": 1}}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": "true", "timeout": "1s"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"command": "true", "user": 1.5}"#, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        for path in ["/processes", "/processes/run"] {
            let request = sandbox.request(Method::POST, path).body(body);
            let (said, answer) = answer(request.send().await.unwrap()).await;
            assert_eq!(said, status, "{path} {body} {answer}");
            assert!(answer["error"].is_string() && answer["code"].is_string(), "{answer}");
        }
    }
    let deep = format!("{{\"command\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let request = sandbox.request(Method::POST, "/processes").body(deep);
    assert!(request.send().await.unwrap().status().is_client_error());
    for body in [
        json!({"resources": {"cpus": -1}}),
        json!({"resources": {"cpus": 0}}),
        json!({"resources": {"cpus": 1e9}}),
        json!({"resources": {"memory_mb": 1}}),
        json!({"resources": {"memory_mb": u64::MAX}}),
        json!({"resources": {"disk_mb": 0}}),
        json!({"name": ""}),
        json!({"name": "../x"}),
    ] {
        let (status, _) = stage.ask(Method::POST, "/sandboxes", body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
    for body in [json!({"timeout_secs": -1}), json!({"name": 3}), json!({"resources": "big"})] {
        let (status, _) = stage.ask(Method::POST, "/sandboxes", body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    let (_, list) = stage.get("/sandboxes").await;
    assert_eq!(list["sandboxes"].as_array().map(Vec::len), Some(1));
    stage.end().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let stage = stage_with(|config| config.max_body_bytes(10_000usize)).await;
    let sandbox = stage.create(json!({})).await;
    let body = json!({"command": "true", "args": ["x".repeat(20_000)]});
    let (status, body) = sandbox.ask(Method::POST, "/processes", body).await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("PAYLOAD_TOO_LARGE"))
    );
    stage.end().await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told_so_in_json() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let (status, body) = stage.get("/nowhere").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("NOT_FOUND")));
    for (method, path) in [(Method::PUT, "/processes"), (Method::GET, "/processes/run/x/y")] {
        let (status, _) = sandbox.ask(method, path, json!({})).await;
        assert!(matches!(status.as_u16(), 404 | 405), "{path} {status}");
    }
    let (status, body) = stage.ask(Method::PUT, "/sandboxes", json!({})).await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("METHOD_NOT_ALLOWED"))
    );
    stage.end().await;
}

#[tokio::test]
async fn what_is_no_http_at_all_harms_nobody() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for bytes in [
        &b"\x00\xff\x16\x03\x01 nonsense\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: \r\nHost: a.local\r\n\r\n",
        b"POST /sandboxes HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense",
        b"GET /api/v1/health HTTP/1.1\r\nX-Tensorlake-Sandbox-Id: \xff\xfe\r\n\r\n",
    ] {
        let mut socket = tokio::net::TcpStream::connect(stage.server.address()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // It may be reset instead of closed.
        drop(socket.read_to_end(&mut answer).await);
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 2"), "{text}");
    }
    assert_eq!(sandbox.shell("echo on").await, "on");
    stage.end().await;
}
