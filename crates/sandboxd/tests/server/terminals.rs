//! Terminals: who may look at them, and what is left of them. What goes over their sockets is in `attached`.

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::stage::{eventually, stage};

#[tokio::test]
async fn a_terminal_is_told_of_resized_and_deleted() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let start = json!({"command": "sh", "args": ["-c", "sleep 600"], "rows": 20, "cols": 90});
    let (status, started) = sandbox.ask(Method::POST, "/pty", start).await;
    assert_eq!(status, StatusCode::CREATED);
    let id = started["session_id"].as_str().unwrap();
    assert!(started["token"].as_str().unwrap().len() >= 32, "{started}");
    let path = format!("/pty/{id}");
    let (_, terminal) = sandbox.get(&path).await;
    let told =
        ["session_id", "rows", "cols", "is_alive", "token"].map(|field| terminal[field].clone());
    assert_eq!(told, [json!(id), json!(20), json!(90), json!(true), Value::Null]);

    let resize = json!({"rows": 30, "cols": 100});
    let (status, _) = sandbox.ask(Method::POST, &format!("{path}/resize"), resize).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (_, list) = sandbox.get("/pty").await;
    assert_eq!(list["sessions"][0]["cols"], 100);

    let pid = terminal["pid"].as_u64().unwrap();
    let deleted = sandbox.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(sandbox.get(&path).await.0, StatusCode::NOT_FOUND);
    let look = format!("test -e /proc/{pid} && echo there || echo gone");
    eventually(async || (sandbox.shell(&look).await == "gone").then_some(())).await;
    stage.end().await;
}

#[tokio::test]
async fn a_socket_takes_the_terminals_own_token() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let (_, started) = sandbox.ask(Method::POST, "/pty", json!({"command": "cat"})).await;
    let path = format!("/pty/{}/ws", started["session_id"].as_str().unwrap());
    let (status, _) = sandbox.get(&path).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "without one");
    let (status, error) = sandbox.get(&format!("{path}?token=other")).await;
    assert_eq!((status, error["code"].as_str()), (StatusCode::FORBIDDEN, Some("INVALID_TOKEN")));
    let (status, _) = sandbox.get("/pty/none/ws?token=other").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    stage.end().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_said_and_the_number_is_bounded() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let (status, _) = sandbox.ask(Method::POST, "/pty", json!({"command": "no-such-thing"})).await;
    assert!(status.is_client_error(), "{status}");
    let mut last = StatusCode::CREATED;
    for _ in 0..65 {
        (last, _) = sandbox.ask(Method::POST, "/pty", json!({"command": "cat"})).await;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    stage.end().await;
}
