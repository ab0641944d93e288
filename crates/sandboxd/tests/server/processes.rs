//! Processes: how they start, what they get, how they end.

use std::time::Duration;

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::stage::{answer, eventually, stage};

#[tokio::test]
async fn a_process_is_told_of_from_its_start_to_its_end() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let start =
        json!({"command": "sh", "args": ["-c", "read -r line; exit 3"], "stdin_mode": "pipe"});
    let (status, process) = sandbox.ask(Method::POST, "/processes", start).await;
    assert_eq!(status, StatusCode::CREATED);
    let pid = process["pid"].as_u64().unwrap();
    let started = process["started_at"].as_u64().unwrap();
    let expected = json!({
        "pid": pid, "handle": pid, "status": "running", "exit_code": null, "signal": null,
        "oom_killed": false, "stdin_writable": true, "command": "sh",
        "args": ["-c", "read -r line; exit 3"], "started_at": started, "ended_at": null,
    });
    assert_eq!(process, expected);
    assert_eq!(sandbox.shell(&format!("ps -o comm= -p {pid} || cat /proc/{pid}/comm")).await, "sh");
    let path = format!("/processes/{pid}/stdin/close");
    let closed = sandbox.request(Method::POST, &path).send().await.unwrap();
    assert_eq!(closed.status(), StatusCode::NO_CONTENT);
    let process = sandbox.ended(pid).await;
    let ended = process["ended_at"].as_u64().unwrap();
    let mut expected = expected;
    for (field, value) in [
        ("status", json!("exited")),
        ("exit_code", json!(3)),
        ("reason", json!("exited")),
        ("stdin_writable", json!(false)),
        ("ended_at", json!(ended)),
    ] {
        expected[field] = value;
    }
    assert_eq!(process, expected);
    let (_, list) = sandbox.get("/processes").await;
    assert_eq!(list["processes"][0], expected);
    let (_, info) = sandbox.get("/info").await;
    assert_eq!(info["running_processes"], 0);
    assert_eq!(info["total_processes"], 2);
    stage.end().await;
}

#[tokio::test]
async fn a_run_has_both_streams_and_the_end() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let ran = sandbox.run("echo out; echo err >&2; exit 7").await;
    assert_eq!(ran.stdout, ["out"]);
    assert_eq!(ran.stderr, ["err"]);
    assert_eq!(ran.end, json!({"exit_code": 7, "reason": "exited"}));
    let ran = sandbox.run("kill -9 $$").await;
    assert_eq!(ran.end, json!({"signal": 9, "reason": "signaled"}));
    stage.end().await;
}

#[tokio::test]
async fn variables_directory_and_user_are_what_was_asked_for() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let ran = sandbox
        .run_body(json!({
            "command": "sh", "args": ["-c", "echo \"$A-$HOME\"; pwd; id -u"],
            "env": {"A": "b c"}, "working_dir": "/usr", "user": null,
        }))
        .await;
    let uid = rustix::process::geteuid().as_raw().to_string();
    assert_eq!(ran.stdout, ["b c-/home/forge", "/usr", uid.as_str()]);
    assert_eq!(sandbox.shell("pwd").await, "/home/forge");
    let is_root = uid == "0";
    let own = if is_root { "root" } else { "forge" };
    for (user, known) in [
        (json!(own), true),
        (json!(uid), true),
        (json!({"name": own}), true),
        (json!({"uid": uid.parse::<u32>().unwrap()}), true),
        (json!("root"), is_root),
        (json!("nobody"), false),
        (json!("4242:4242"), false),
        (json!({"uid": 4242}), false),
        (json!({}), false),
    ] {
        let body = json!({"command": "true", "user": user.clone()});
        let (status, answer) = sandbox.ask(Method::POST, "/processes", body).await;
        let expected = if known { StatusCode::CREATED } else { StatusCode::BAD_REQUEST };
        assert_eq!(status, expected, "{user} {answer}");
    }
    stage.end().await;
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_killed_with_all_of_its_children() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "trap '' TERM; echo begun; setsid sh -c 'trap \"\" TERM; sleep 4711' & sleep 4711";
    let body = json!({"command": "sh", "args": ["-c", script], "timeout": 0.5});
    let ran = sandbox.run_body(body).await;
    assert_eq!(ran.stdout, ["begun"]);
    assert_eq!(ran.end, json!({"signal": 9, "reason": "timed_out"}));
    assert_eq!(sandbox.shell("grep -lsa '^sleep.4711' /proc/[0-9]*/cmdline | wc -l").await, "0");
    stage.end().await;
}

#[tokio::test]
async fn what_a_run_leaves_behind_ends_with_it() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.shell("sleep 4712 & (setsid sleep 4712 &) ; true").await;
    assert_eq!(sandbox.shell("grep -lsa '^sleep.4712' /proc/[0-9]*/cmdline | wc -l").await, "0");
    stage.end().await;
}

#[tokio::test]
async fn a_started_server_goes_on_and_others_reach_it() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let server = "import socket; s = socket.create_server((\"127.0.0.1\", 8123)); print(\"up\", flush=True)\n\
                  while True: c, _ = s.accept(); c.sendall(b\"hello\"); c.close()";
    let pid = sandbox.start(json!({"command": "python3", "args": ["-c", server]})).await;
    eventually(async || {
        let (_, out) = sandbox.get(&format!("/processes/{pid}/stdout")).await;
        (out["line_count"] == 1).then_some(())
    })
    .await;
    let client = "import socket; s = socket.create_connection((\"127.0.0.1\", 8123)); print(s.recv(9).decode())";
    let ran = sandbox.run_body(json!({"command": "python3", "args": ["-c", client]})).await;
    assert_eq!(ran.stdout, ["hello"]);
    let (status, _) = sandbox.ask(Method::DELETE, &format!("/processes/{pid}"), json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(sandbox.ended(pid).await["signal"], 9);
    stage.end().await;
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "trap 'echo parent; kill -9 0' TERM\nsh -c 'trap \"echo child; exit\" TERM; echo ready; while :; do sleep 0.05; done' & wait; sleep 0.5; wait";
    let pid = sandbox.start(json!({"command": "sh", "args": ["-c", script]})).await;
    let lines = async || {
        let (_, out) = sandbox.get(&format!("/processes/{pid}/output")).await;
        out["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    eventually(async || lines().await.contains(&"ready".to_owned()).then_some(())).await;
    let path = format!("/processes/{pid}/signal");
    let (status, body) = sandbox.ask(Method::POST, &path, json!({"signal": 15})).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"success": true})));
    eventually(async || {
        let lines = lines().await;
        (lines.contains(&"parent".to_owned())).then_some(())
    })
    .await;
    let process = sandbox.ended(pid).await;
    assert_eq!(process["signal"], 9);
    let (status, body) = sandbox.ask(Method::POST, &path, json!({"signal": 15})).await;
    let said = body["error"].as_str().unwrap();
    assert_eq!(
        (status, said),
        (StatusCode::BAD_REQUEST, format!("Process {pid} is not running").as_str())
    );
    stage.end().await;
}

#[tokio::test]
async fn input_arrives_in_order_and_waits_for_its_reader() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let start =
        json!({"command": "sh", "args": ["-c", "read -r go; sha256sum"], "stdin_mode": "pipe"});
    let pid = sandbox.start(start).await;
    let path = format!("/processes/{pid}/stdin");
    let post = async |bytes: Vec<u8>| {
        let request = sandbox.request(Method::POST, &path).body(bytes);
        request.send().await.unwrap().status()
    };
    let half: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(post(b"go\n".to_vec()).await, StatusCode::NO_CONTENT);
    assert_eq!(post(half.clone()).await, StatusCode::NO_CONTENT);
    assert_eq!(post(half.clone()).await, StatusCode::NO_CONTENT);
    for _ in 0..2 {
        let close = sandbox.request(Method::POST, &format!("{path}/close")).send().await.unwrap();
        assert_eq!(close.status(), StatusCode::NO_CONTENT);
    }
    sandbox.ended(pid).await;
    let (_, out) = sandbox.get(&format!("/processes/{pid}/stdout")).await;
    let all = [half.clone(), half].concat();
    let file = sandbox.request(Method::PUT, "/files?path=/tmp/all").body(all).send().await.unwrap();
    assert_eq!(file.status(), StatusCode::NO_CONTENT);
    assert_eq!(out["lines"][0], sandbox.shell("sha256sum < /tmp/all").await);
    stage.end().await;
}

#[tokio::test]
async fn a_process_that_does_not_read_blocks_nobody_else() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let start = json!({"command": "sleep", "args": ["1000"], "stdin_mode": "pipe"});
    let pid = sandbox.start(start).await;
    let post = sandbox
        .request(Method::POST, &format!("/processes/{pid}/stdin"))
        .body(vec![0u8; 4_000_000])
        .timeout(Duration::from_millis(700))
        .send();
    let others = async {
        for _ in 0..5 {
            let began = std::time::Instant::now();
            assert_eq!(sandbox.get(&format!("/processes/{pid}")).await.0, StatusCode::OK);
            assert_eq!(sandbox.get("/processes").await.0, StatusCode::OK);
            assert_eq!(sandbox.shell("echo on").await, "on");
            assert!(began.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (post, ()) = tokio::join!(post, others);
    assert!(post.unwrap_err().is_timeout());
    // Whoever gave up holds nobody up.
    let (status, _) = sandbox.ask(Method::DELETE, &format!("/processes/{pid}"), json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    sandbox.ended(pid).await;
    let request = sandbox.request(Method::POST, &format!("/processes/{pid}/stdin")).body("x");
    let (status, body) = answer(request.send().await.unwrap()).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!("STDIN_NOT_WRITABLE")));
    stage.end().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.shell("echo text > /tmp/file; mkdir /tmp/dir").await;
    let cases = [
        (json!({"command": "no-such-program"}), "COMMAND_NOT_FOUND"),
        (json!({"command": "/tmp/file"}), "COMMAND_NOT_EXECUTABLE"),
        (json!({"command": "/tmp/dir"}), "COMMAND_NOT_EXECUTABLE"),
        (json!({"command": ""}), "BAD_REQUEST"),
        (json!({"command": "a\u{0}b"}), "BAD_REQUEST"),
        (json!({"command": "true", "args": ["x".repeat(200_000)]}), "BAD_REQUEST"),
        (json!({"command": "true", "working_dir": "/nowhere"}), "BAD_WORKING_DIR"),
        (json!({"command": "true", "working_dir": "/tmp/file"}), "BAD_WORKING_DIR"),
        (json!({"command": "true", "env": {"A=B": "c"}}), "BAD_REQUEST"),
        (json!({"command": "true", "env": {"": "c"}}), "BAD_REQUEST"),
        (json!({"command": "true", "timeout": 0}), "BAD_REQUEST"),
        (json!({"command": "true", "timeout": -1.5}), "BAD_REQUEST"),
    ];
    for path in ["/processes", "/processes/run"] {
        for (body, code) in &cases {
            let (status, answer) = sandbox.ask(Method::POST, path, body.clone()).await;
            let said = (status, answer["code"].as_str());
            assert_eq!(said, (StatusCode::BAD_REQUEST, Some(*code)), "{path} {answer}");
        }
    }
    let body = json!({"command": "cat", "stdin_mode": "pipe"});
    assert_eq!(sandbox.ask(Method::POST, "/processes/run", body).await.0, StatusCode::BAD_REQUEST);
    let (_, list) = sandbox.get("/processes").await;
    assert_eq!(list["processes"].as_array().map(Vec::len), Some(1));
    stage.end().await;
}

#[tokio::test]
async fn a_limit_longer_than_time_itself_is_none() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let ran = sandbox.run_body(json!({"command": "true", "timeout": 1e300})).await;
    assert_eq!(ran.end["exit_code"], 0);
    stage.end().await;
}

#[tokio::test]
async fn a_number_that_is_used_again_never_shows_what_its_former_holder_wrote() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    // Numbers begin again once they have reached their bound; the kernel lets the sandbox go back by itself.
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..40 {
        let pid = sandbox.start(json!({"command": "echo", "args": [round.to_string()]})).await;
        seen.insert(pid, round);
        sandbox.ended(pid).await;
    }
    for (pid, round) in seen {
        let (_, out) = sandbox.get(&format!("/processes/{pid}/output")).await;
        assert_eq!(out, json!({"pid": pid, "lines": [round.to_string()], "line_count": 1}));
    }
    stage.end().await;
}

#[tokio::test]
async fn unknown_processes_and_signals_are_told_so() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let not_found = json!({"error": "Process 999999 not found", "code": "NOT_FOUND"});
    for (method, path, body) in [
        (Method::GET, "/processes/999999", json!({})),
        (Method::DELETE, "/processes/999999", json!({})),
        (Method::POST, "/processes/999999/signal", json!({"signal": 9})),
        (Method::POST, "/processes/999999/stdin", json!({})),
        (Method::POST, "/processes/999999/stdin/close", json!({})),
        (Method::GET, "/processes/999999/stdout", json!({})),
        (Method::GET, "/processes/999999/output/follow", json!({})),
    ] {
        let (status, answer) = sandbox.ask(method, path, body).await;
        assert_eq!((status, &answer), (StatusCode::NOT_FOUND, &not_found), "{path}");
    }
    for path in ["/processes/web", "/processes/-1", "/processes/99999999999"] {
        assert_eq!(sandbox.get(path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    let pid = sandbox.start(json!({"command": "sleep", "args": ["1000"]})).await;
    for signal in [json!(0), json!(999), json!(-9)] {
        let path = format!("/processes/{pid}/signal");
        let (status, _) = sandbox.ask(Method::POST, &path, json!({"signal": signal})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let none: Value = json!({});
    let (status, _) = sandbox.ask(Method::POST, &format!("/processes/{pid}/signal"), none).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(sandbox.get(&format!("/processes/{pid}")).await.1["status"], "running");
    // Its stdin is no pipe.
    let request = sandbox.request(Method::POST, &format!("/processes/{pid}/stdin")).body("x");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    stage.end().await;
}

#[tokio::test]
async fn a_command_that_kills_everything_in_sight_ends_everything_and_the_sandbox_goes_on() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let pid = sandbox.start(json!({"command": "sleep", "args": ["1000"]})).await;
    // How it ended itself is not known: what would tell was killed with it, or before.
    let ran = sandbox.run("sleep 0.3; kill -9 -1; sleep 1000").await;
    let said = (ran.end["exit_code"].as_i64(), ran.end["signal"].as_i64());
    assert!(matches!(said, (Some(-1), None) | (None, Some(9))), "{ran:?}");
    let process = sandbox.ended(pid).await;
    assert_ne!(process["exit_code"], 0, "{process}");
    for _ in 0..3 {
        assert_eq!(sandbox.shell("echo on").await, "on");
    }
    assert_eq!(sandbox.shell("grep -lsa '^sleep.1000' /proc/[0-9]*/cmdline | wc -l").await, "0");
    stage.end().await;
}

#[tokio::test]
async fn a_command_that_stops_everything_in_sight_delays_no_end_of_the_sandbox_for_long() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "sleep 0.3; kill -STOP -1; sleep 1000";
    let pid = sandbox.start(json!({"command": "sh", "args": ["-c", script]})).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(sandbox.get(&format!("/processes/{pid}")).await.1["status"], "running");
    let began = std::time::Instant::now();
    sandbox.delete().await;
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(crate::ends::left(stage.state.path()), 0);
    stage.end().await;
}
