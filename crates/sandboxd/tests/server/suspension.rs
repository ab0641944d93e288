//! Sandboxes that stand still.

use std::time::Duration;

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::stage::{Sandbox, Stage, eventually, stage};

async fn change(stage: &Stage, name: &str, verb: &str) -> StatusCode {
    let path = format!("/sandboxes/{name}/{verb}?wait_ms=30000");
    stage.request(Method::POST, &path).send().await.unwrap().status()
}

/// A process that counts in a file.
async fn counting(sandbox: &Sandbox<'_>) -> u64 {
    let script = "n=0; while :; do n=$((n + 1)); echo $n > /tmp/count.new; \
                  mv /tmp/count.new /tmp/count; sleep 0.02; done";
    let pid = sandbox.start(json!({"command": "sh", "args": ["-c", script]})).await;
    eventually(async || {
        (sandbox.get("/files?path=/tmp/count").await.0 == StatusCode::OK).then_some(())
    })
    .await;
    pid
}

#[tokio::test]
async fn nothing_moves_in_a_suspended_one_and_everything_goes_on_after_it() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "still", "auto_resume": false})).await;
    let pid = counting(&sandbox).await;
    assert_eq!(change(&stage, "still", "suspend").await, StatusCode::OK);
    assert_eq!(change(&stage, "still", "suspend").await, StatusCode::OK);
    let (_, body) = stage.get("/sandboxes/still").await;
    assert_eq!(body["status"], "suspended");
    let (status, body) = sandbox.get("/health").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("SANDBOX_NOT_RUNNING"))
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(change(&stage, "still", "resume").await, StatusCode::OK);
    let count = async || -> u64 { sandbox.shell("cat /tmp/count").await.parse().unwrap() };
    // Half a second of counting would be some 25.
    let first = count().await;
    eventually(async || (count().await > first).then_some(())).await;
    let (_, process) = sandbox.get(&format!("/processes/{pid}")).await;
    assert_eq!(process["status"], "running");
    assert_eq!(change(&stage, "still", "resume").await, StatusCode::OK);
    stage.end().await;
}

#[tokio::test]
async fn a_suspended_one_does_not_count() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "still"})).await;
    counting(&sandbox).await;
    assert_eq!(change(&stage, "still", "suspend").await, StatusCode::OK);
    // On the disk, where nobody has to ask the sandbox.
    let upper = std::fs::read_dir(stage.state.path().join("sessions")).unwrap().next().unwrap();
    let file = upper.unwrap().path().join("upper/root/tmp/count");
    let before = std::fs::read_to_string(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    stage.end().await;
}

#[tokio::test]
async fn a_request_wakes_a_suspended_one() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "sleeper"})).await;
    sandbox.shell("echo kept > /tmp/file").await;
    assert_eq!(change(&stage, "sleeper", "suspend").await, StatusCode::OK);
    assert_eq!(sandbox.shell("cat /tmp/file").await, "kept");
    let (_, body) = stage.get("/sandboxes/sleeper").await;
    assert_eq!(body["status"], "running");
    stage.end().await;
}

#[tokio::test]
async fn one_with_a_name_is_suspended_when_its_time_is_over_and_has_it_again_after() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "timed", "timeout_secs": 1})).await;
    let suspended = async || {
        eventually(async || {
            let (_, body) = stage.get("/sandboxes/timed").await;
            (body["status"] == "suspended").then_some(())
        })
        .await;
    };
    suspended().await;
    assert_eq!(sandbox.shell("echo awake").await, "awake");
    suspended().await;
    stage.end().await;
}

#[tokio::test]
async fn one_without_a_name_cannot_be_suspended() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    assert_eq!(change(&stage, &sandbox.id, "suspend").await, StatusCode::BAD_REQUEST);
    assert_eq!(change(&stage, "nobody", "suspend").await, StatusCode::NOT_FOUND);
    sandbox.delete().await;
    assert_eq!(change(&stage, &sandbox.id, "resume").await, StatusCode::CONFLICT);
    stage.end().await;
}

#[tokio::test]
async fn a_suspended_one_ends_at_once() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "still"})).await;
    counting(&sandbox).await;
    assert_eq!(change(&stage, "still", "suspend").await, StatusCode::OK);
    let began = std::time::Instant::now();
    sandbox.delete().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stage.end().await;
}

#[tokio::test]
async fn a_run_goes_on_through_a_suspension() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "still"})).await;
    let run = sandbox.run("echo one; sleep 0.5; echo two");
    let suspend = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(change(&stage, "still", "suspend").await, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(change(&stage, "still", "resume").await, StatusCode::OK);
    };
    let (ran, ()) = tokio::join!(run, suspend);
    assert_eq!(ran.stdout, ["one", "two"]);
    stage.end().await;
}
