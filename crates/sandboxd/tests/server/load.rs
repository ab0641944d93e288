//! Many sandboxes, many clients, clients that vanish; and what is left of it all.

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::ends::{left, processes_with};
use crate::stage::{Sandbox, Stage, eventually, stage};

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mounts").unwrap().lines().count()
}

fn descriptors_to(stage: &Stage) -> usize {
    let state = stage.state.path().to_str().unwrap().to_owned();
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().contains(&state)).count()
}

#[tokio::test]
async fn sandboxes_that_come_and_go_leave_nothing() {
    come_and_go(10).await;
}

#[tokio::test]
#[ignore = "needs a minute or more of the whole machine"]
async fn five_hundred_sandboxes_that_come_and_go_leave_nothing() {
    come_and_go(100).await;
}

/// Five at a time, so often.
async fn come_and_go(rounds: usize) {
    let stage = stage().await;
    let (mounts_before, descriptors_before) = (mounts(), descriptors_to(&stage));
    let seconds = format!("31415926.{rounds}");
    for _ in 0..rounds {
        let made = join_all((0..5).map(|_| stage.create(json!({})))).await;
        join_all(made.iter().map(async |sandbox: &Sandbox| {
            let script = format!("sleep {seconds} >/dev/null 2>&1 & echo x > /tmp/x");
            sandbox.shell(&script).await;
            sandbox.start(json!({"command": "sleep", "args": [seconds]})).await;
            sandbox.delete().await;
        }))
        .await;
    }
    assert_eq!(left(stage.state.path()), 0);
    assert_eq!(processes_with(&seconds), Vec::<u32>::new());
    assert_eq!((mounts(), descriptors_to(&stage)), (mounts_before, descriptors_before));
    stage.end().await;
}

#[tokio::test]
async fn many_sandboxes_and_clients_at_once_mix_nothing_up() {
    at_once(12, 15).await;
}

#[tokio::test]
#[ignore = "needs a minute or more of the whole machine"]
async fn forty_sandboxes_and_eight_clients_at_once_mix_nothing_up() {
    at_once(40, 50).await;
}

/// Eight clients run commands in so many sandboxes.
async fn at_once(number: usize, rounds: usize) {
    let stage = stage().await;
    let mut sandboxes = Vec::new();
    while sandboxes.len() < number {
        let some = (0..4.min(number - sandboxes.len())).map(|_| stage.create(json!({})));
        sandboxes.extend(join_all(some).await);
    }
    join_all(sandboxes.iter().enumerate().map(async |(number, sandbox)| {
        assert_eq!(sandbox.shell(&format!("echo {number} > /tmp/own")).await, "");
    }))
    .await;
    let clients = (0..8).map(async |client: usize| {
        for round in 0..rounds {
            let number = (client * 5 + round) % sandboxes.len();
            let word = format!("{client}-{round}");
            let script = format!("cat /tmp/own; echo {word}; seq 200 | tail -n 1");
            let expected = format!("{number}\n{word}\n200");
            assert_eq!(sandboxes[number].shell(&script).await, expected);
        }
    });
    join_all(clients).await;
    stage.server.close().await;
    assert_eq!(left(stage.state.path()), 0);
    assert_eq!(descriptors_to(&stage), 0);
}

#[tokio::test]
async fn clients_that_vanish_leave_a_sandbox_that_works() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for round in 0..10 {
        let run = json!({"command": "sh", "args": ["-c", "yes | head -c 2000000; sleep 0.1"]});
        let response =
            sandbox.request(Method::POST, "/processes/run").json(&run).send().await.unwrap();
        drop(response);
        let pid = sandbox.start(json!({"command": "cat", "stdin_mode": "pipe"})).await;
        let stdin = sandbox
            .request(Method::POST, &format!("/processes/{pid}/stdin"))
            .body(reqwest::Body::wrap_stream(futures_util::stream::pending::<
                std::io::Result<Vec<u8>>,
            >()))
            .timeout(Duration::from_millis(30));
        assert!(stdin.send().await.is_err(), "{round}");
        let follow = sandbox
            .request(Method::GET, &format!("/processes/{pid}/output/follow"))
            .send()
            .await
            .unwrap();
        drop(follow);
        let create = stage
            .request(Method::POST, "/sandboxes")
            .json(&json!({"name": format!("gone-{round}"), "timeout_secs": 3}))
            .timeout(Duration::from_millis(1));
        drop(create.send().await);
        let (status, _) =
            sandbox.ask(Method::DELETE, &format!("/processes/{pid}"), json!({})).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    // Every run ends though nobody reads it.
    eventually(async || {
        let (_, info) = sandbox.get("/info").await;
        (info["running_processes"] == 0).then_some(())
    })
    .await;
    assert_eq!(sandbox.shell("echo on").await, "on");
    stage.server.close().await;
    assert_eq!(left(stage.state.path()), 0);
}
