//! How much memory much output takes: alone in its process, since that is what is measured.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

#[path = "server/stage.rs"]
#[expect(dead_code, reason = "the stage is for more tests than this one")]
mod stage;

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::json;

use crate::stage::stage;

/// In lines of a thousand bytes: 60 MB.
const LINES: usize = 60_000;

#[tokio::test]
async fn much_output_comes_whole_in_flat_memory() {
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

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
