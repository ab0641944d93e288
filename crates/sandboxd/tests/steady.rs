//! How much memory much output takes: alone in its process, since that is what is measured.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

#[path = "server/socket.rs"]
#[expect(dead_code, reason = "it is for more tests than this one")]
mod socket;
#[path = "server/stage.rs"]
#[expect(dead_code, reason = "the stage is for more tests than this one")]
mod stage;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::json;
use tokio::sync::Mutex;

use crate::stage::stage;

/// In lines of a thousand bytes: 60 MB.
const LINES: usize = 60_000;

/// One at a time: memory is the whole program's.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn much_output_comes_whole_in_flat_memory() {
    let _alone = ALONE.lock().await;
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.shell("echo warm").await;
    let before = resident_kib();
    let script = format!("yes $(head -c 999 /dev/zero | tr '\\0' x) | head -n {LINES}");
    let body = json!({"command": "sh", "args": ["-c", script]});
    let response =
        sandbox.request(Method::POST, "/processes/run").json(&body).send().await.unwrap();
    let (mut ends, mut peak) = (0, 0);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        ends += chunk.unwrap().iter().filter(|byte| **byte == b'\n').count();
        peak = peak.max(resident_kib());
    }
    // Two for each event: a number, the lines, the end.
    assert_eq!(ends, (LINES + 2) * 2);
    // Client and server are both in this process.
    assert!(peak.saturating_sub(before) < 32 * 1024, "{before} KiB, then {peak} KiB");
    stage.end().await;
}

#[tokio::test]
async fn a_terminal_whose_client_does_not_read_stays_small_and_lets_others_be_served() {
    let _alone = ALONE.lock().await;
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let warm = sandbox.on_terminal("yes").await;
    warm.attach().await.until("y\r\ny\r\n").await;
    warm.delete().await;
    let before = resident_kib();
    // Many small pieces, and as much as comes, without end.
    let slow = sandbox.on_terminal("while :; do printf x; done").await;
    let fast = sandbox.on_terminal("yes $(head -c 999 /dev/zero | tr '\\0' x)").await;
    let unvisited = sandbox.on_terminal("yes").await;
    let stuck = (slow.attach().await, fast.attach().await);
    let mut peak = 0;
    for round in 0..30 {
        let began = Instant::now();
        assert_eq!(sandbox.shell(&format!("echo {round}")).await, round.to_string());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        peak = peak.max(resident_kib());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(peak.saturating_sub(before) < 16 * 1024, "{before} KiB, then {peak} KiB");
    for terminal in [&slow, &fast, &unvisited] {
        assert_eq!(terminal.look().await.1["is_alive"], true);
        terminal.delete().await;
    }
    drop(stuck);
    stage.end().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
