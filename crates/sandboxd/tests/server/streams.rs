//! Output: nothing lost, nothing twice, nothing that grows.

use std::time::Duration;

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::stage::{datas, eventually, stage};

#[tokio::test]
async fn a_hundred_short_runs_lose_no_line() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for round in 0..100 {
        let ran = sandbox.run("seq 300").await;
        let expected: Vec<String> = (1..=300).map(|n| n.to_string()).collect();
        assert_eq!(ran.stdout, expected, "round {round}");
        assert_eq!(ran.end["exit_code"], 0);
    }
    stage.end().await;
}

#[tokio::test]
async fn a_follow_that_comes_late_or_early_has_every_line_once_and_the_end_is_known_by_then() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for round in 0..20 {
        let script = "for n in 1 2 3 4 5 6 7 8; do echo o$n; echo e$n >&2; done; exit 5";
        let pid = sandbox.start(json!({"command": "sh", "args": ["-c", script]})).await;
        tokio::time::sleep(Duration::from_millis(round % 5)).await;
        let path = format!("/processes/{pid}/output/follow");
        let text = sandbox.request(Method::GET, &path).send().await.unwrap().text().await.unwrap();
        let (_, process) = sandbox.get(&format!("/processes/{pid}")).await;
        assert_eq!(process["exit_code"], 5);
        for (stream, letter) in [("stdout", "o"), ("stderr", "e")] {
            let lines: Vec<_> = datas(&text)
                .filter(|data| data["stream"] == stream)
                .map(|data| data["line"].as_str().unwrap().to_owned())
                .collect();
            let expected: Vec<_> = (1..=8).map(|n| format!("{letter}{n}")).collect();
            assert_eq!(lines, expected);
            let path = format!("/processes/{pid}/{stream}/follow");
            let one =
                sandbox.request(Method::GET, &path).send().await.unwrap().text().await.unwrap();
            assert!(datas(&one).all(|data| data["stream"].is_null()), "{one}");
            assert_eq!(datas(&one).filter(|data| data["line"].is_string()).count(), 8);
            let (_, all) = sandbox.get(&format!("/processes/{pid}/{stream}")).await;
            assert_eq!(all, json!({"pid": pid, "lines": expected, "line_count": 8}));
        }
        assert!(text.ends_with("event: eof\ndata: {}\n\n"), "{text:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn any_bytes_are_carried_and_what_is_no_text_is_replaced() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let boxes = "─".repeat(100);
    let script = format!(
        "printf 'a\\377b\\n\\001\\033[1m\\n{boxes}\\n10%%\\r20%%\\r\\nend'; echo after >&2"
    );
    let ran = sandbox.run(&script).await;
    let expected = ["a\u{fffd}b", "\u{1}\u{1b}[1m", &boxes, "10%\r20%", "end"];
    assert_eq!(ran.stdout, expected);
    assert_eq!((ran.stderr, &ran.end["exit_code"]), (vec!["after".to_owned()], &json!(0)));
    stage.end().await;
}

#[tokio::test]
async fn a_line_of_five_megabytes_is_one_line() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let ran = sandbox.run("head -c 5000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(ran.stdout.iter().map(String::len).collect::<Vec<_>>(), [5_000_000]);
    stage.end().await;
}

#[tokio::test]
async fn output_that_is_not_wanted_is_not_kept() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let body =
        json!({"command": "sh", "args": ["-c", "echo o; echo e >&2"], "stdout_mode": "discard"});
    let pid = sandbox.start(body).await;
    sandbox.ended(pid).await;
    let (_, out) = sandbox.get(&format!("/processes/{pid}/output")).await;
    assert_eq!(out["lines"], json!(["e"]));
    stage.end().await;
}

#[tokio::test]
async fn lines_come_while_the_process_runs() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let body = json!({"command": "sh", "args": ["-c", "echo first; sleep 1000"]});
    let mut response =
        sandbox.request(Method::POST, "/processes/run").json(&body).send().await.unwrap();
    let mut text = String::new();
    let reading = async {
        while !text.contains("first") {
            let chunk = response.chunk().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
    let pid = datas(&text).next().unwrap()["pid"].as_u64().unwrap();
    let (status, _) = sandbox.ask(Method::DELETE, &format!("/processes/{pid}"), json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let rest = response.text().await.unwrap();
    assert_eq!(datas(&rest).last().unwrap(), json!({"signal": 9, "reason": "signaled"}));
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_process_back_and_nobody_else() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "n=0; while :; do n=$((n + 1)); echo $n; done | tee /tmp/log";
    let body = json!({"command": "sh", "args": ["-c", script]});
    let mut response =
        sandbox.request(Method::POST, "/processes/run").json(&body).send().await.unwrap();
    let size = async || -> u64 { sandbox.shell("stat -c %s /tmp/log").await.parse().unwrap() };
    // It stops somewhere, after what is on its way.
    let mut before = 0;
    let stood = eventually(async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = size().await;
        let stands = now == before && now > 0;
        before = now;
        stands.then_some(now)
    })
    .await;
    assert!(stood < 64 * 1024 * 1024, "{stood}");
    // It goes on where somebody reads.
    for _ in 0..200 {
        response.chunk().await.unwrap();
    }
    eventually(async || (size().await > stood).then_some(())).await;
    // And where nobody is left to.
    drop(response);
    let after = size().await;
    eventually(async || (size().await > after + 10_000_000).then_some(())).await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_no_end() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let yes = json!({"command": "yes"});
    let run = async || {
        let run = sandbox.request(Method::POST, "/processes/run").json(&yes).send().await.unwrap();
        // Until it is held back.
        tokio::time::sleep(Duration::from_millis(700)).await;
        run
    };
    let mut first = run().await;
    let text = String::from_utf8_lossy(&first.chunk().await.unwrap().unwrap()).into_owned();
    let pid = datas(&text).next().unwrap()["pid"].as_u64().unwrap();
    let began = std::time::Instant::now();
    let (status, _) = sandbox.ask(Method::DELETE, &format!("/processes/{pid}"), json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(sandbox.ended(pid).await["signal"], 9);
    let second = run().await;
    sandbox.delete().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    drop((first, second));
    stage.end().await;
}
