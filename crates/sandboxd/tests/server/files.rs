//! Files: any bytes, any size up to the limit, and nothing outside of the sandbox.

use std::time::Duration;

use pretty_assertions::assert_eq;
use reqwest::{Body, Method, StatusCode};
use serde_json::json;

use crate::stage::{Sandbox, answer, stage, stage_with};

async fn put(sandbox: &Sandbox<'_>, path: &str, bytes: impl Into<Body>) -> StatusCode {
    let request = sandbox.request(Method::PUT, &format!("/files?path={path}")).body(bytes);
    request.send().await.unwrap().status()
}

async fn get(sandbox: &Sandbox<'_>, path: &str) -> Vec<u8> {
    let request = sandbox.request(Method::GET, &format!("/files?path={path}"));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    response.bytes().await.unwrap().to_vec()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 256) as u8).collect()
}

#[tokio::test]
async fn bytes_of_any_kind_and_number_come_back_as_they_were() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    for length in [0, 1, 255, 256 * 1024, 256 * 1024 + 1, 10_000_000] {
        let bytes = pattern(length);
        assert_eq!(put(&sandbox, "/data/new/file", bytes.clone()).await, StatusCode::NO_CONTENT);
        assert!(get(&sandbox, "/data/new/file").await == bytes, "{length}");
        assert_eq!(sandbox.shell("stat -c %s /data/new/file").await, length.to_string());
    }
    assert_eq!(sandbox.shell("stat -c %a /data/new/file /data/new").await, "644\n755");
    stage.end().await;
}

#[tokio::test]
async fn a_written_file_keeps_its_mode_and_a_link_is_followed() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.shell("echo old > /tmp/real; chmod 700 /tmp/real; ln -s real /tmp/link").await;
    assert_eq!(put(&sandbox, "/tmp/link", "new").await, StatusCode::NO_CONTENT);
    assert_eq!(
        sandbox.shell("cat /tmp/real; stat -c %a /tmp/real; readlink /tmp/link").await,
        "new700\nreal"
    );
    stage.end().await;
}

#[tokio::test]
async fn the_kernels_own_files_are_read_though_they_say_that_they_are_empty() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    assert!(String::from_utf8_lossy(&get(&sandbox, "/proc/version").await).contains("Linux"));
    stage.end().await;
}

#[tokio::test]
async fn a_listing_has_directories_first_and_then_the_order_of_bytes() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox
        .shell("mkdir -p /d/z /d/a; cd /d; printf 12345 > b; touch .hidden B 'with space'; ln -s a link; mkfifo fifo")
        .await;
    let (status, body) = sandbox.get("/files/list?path=/d").await;
    assert_eq!(status, StatusCode::OK);
    let entries = body["entries"].as_array().unwrap();
    let facts: Vec<_> = entries
        .iter()
        .map(|entry| {
            (entry["name"].as_str().unwrap(), entry["is_dir"] == true, entry["size"].as_u64())
        })
        .collect();
    let expected = [
        ("a", true, None),
        ("z", true, None),
        (".hidden", false, Some(0)),
        ("B", false, Some(0)),
        ("b", false, Some(5)),
        ("fifo", false, Some(0)),
        ("link", false, Some(0)),
        ("with space", false, Some(0)),
    ];
    assert_eq!(facts, expected);
    assert_eq!(body["path"], "/d");
    assert!(entries.iter().all(|entry| entry["modified_at"].as_u64() > Some(1_700_000_000_000)));
    assert_eq!(get(&sandbox, "/d/with+space").await, b"");
    assert_eq!(get(&sandbox, "/d/with%20space").await, b"");
    stage.end().await;
}

#[tokio::test]
async fn what_is_not_there_or_not_a_file_is_told_apart() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    sandbox.shell("mkdir /d; echo x > /d/file; mkfifo /d/fifo; ln -s loop /d/loop").await;
    let cases = [
        (Method::GET, "/files?path=/nowhere", 404, "NOT_FOUND"),
        (Method::DELETE, "/files?path=/nowhere", 404, "NOT_FOUND"),
        (Method::GET, "/files/list?path=/nowhere", 404, "NOT_FOUND"),
        (Method::GET, "/files?path=/d", 400, "IS_DIRECTORY"),
        (Method::GET, "/files?path=/", 400, "IS_DIRECTORY"),
        (Method::PUT, "/files?path=/d", 400, "IS_DIRECTORY"),
        (Method::DELETE, "/files?path=/d", 400, "IS_DIRECTORY"),
        (Method::GET, "/files/list?path=/d/file", 400, "NOT_A_DIRECTORY"),
        (Method::PUT, "/files?path=/d/file/below", 400, "NOT_A_DIRECTORY"),
        (Method::GET, "/files?path=/d/fifo", 400, "NOT_A_FILE"),
        (Method::GET, "/files?path=/dev/zero", 403, "PERMISSION_DENIED"),
        (Method::GET, "/files?path=/d/loop", 400, "INVALID_PATH"),
        (Method::GET, "/files?path=", 400, "INVALID_PATH"),
        (Method::GET, "/files?path=/a%00b", 400, "INVALID_PATH"),
        (Method::GET, "/files", 400, "BAD_REQUEST"),
        (Method::GET, "/files?path=../etc/passwd", 403, "PATH_TRAVERSAL"),
        (Method::GET, "/files?path=/d/%2e%2e/etc/passwd", 403, "PATH_TRAVERSAL"),
        (Method::PUT, "/files?path=/d/../x", 403, "PATH_TRAVERSAL"),
        (Method::DELETE, "/files?path=/d/..", 403, "PATH_TRAVERSAL"),
        (Method::GET, "/files/list?path=/..", 403, "PATH_TRAVERSAL"),
        (Method::PUT, "/files?path=/proc/version", 403, "PERMISSION_DENIED"),
    ];
    for (method, path, status, code) in cases {
        let (said, body) =
            answer(sandbox.request(method.clone(), path).send().await.unwrap()).await;
        assert_eq!(
            (said.as_u16(), body["code"].as_str()),
            (status, Some(code)),
            "{method} {path} {body}"
        );
    }
    let removed = sandbox.request(Method::DELETE, "/files?path=/d/file").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    assert_eq!(sandbox.shell("ls /d").await, "fifo\nloop");
    stage.end().await;
}

#[tokio::test]
async fn no_link_leads_out_and_nothing_of_the_host_is_seen_or_changed() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let secret = stage.state.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let path = secret.display();
    sandbox
        .shell(&format!("ln -s {path} /tmp/link; ln -s / /tmp/root; ln -s /proc/1/root /tmp/proc"))
        .await;
    for asked in [
        format!("{path}"),
        "/tmp/link".to_owned(),
        format!("/tmp/root{path}"),
        format!("/tmp/proc{path}"),
        format!("/proc/self/root{path}"),
        format!("/proc/1/cwd{path}"),
    ] {
        let (status, _) = sandbox.get(&format!("/files?path={asked}")).await;
        // An ordinary user may not even read where the root of another process is.
        let refused = [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN];
        assert!(refused.contains(&status), "{asked} {status}");
    }
    let hosts = std::fs::read("/etc/hosts").unwrap();
    // What belongs to root in a directory of root's, an ordinary user changes in no layer either.
    let is_root = rustix::process::geteuid().is_root();
    let expected = if is_root { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
    assert_eq!(put(&sandbox, "/etc/hosts", "of the sandbox").await, expected);
    assert_eq!(put(&sandbox, &format!("{path}"), "of the sandbox").await, StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read("/etc/hosts").unwrap(), hosts);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
    assert_eq!(sandbox.shell("cat /etc/hosts").await == "of the sandbox", is_root);
    let other = stage.create(json!({})).await;
    assert_ne!(other.shell("cat /etc/hosts").await, "of the sandbox");
    stage.end().await;
}

#[tokio::test]
async fn a_file_beyond_the_limit_changes_nothing() {
    let stage = stage_with(|config| config.max_file_bytes(1_000_000u64)).await;
    let sandbox = stage.create(json!({})).await;
    assert_eq!(put(&sandbox, "/tmp/file", pattern(1_000_000)).await, StatusCode::NO_CONTENT);
    for body in [
        Body::from(pattern(1_000_001)),
        // Without a length before it.
        Body::wrap_stream(futures_util::stream::iter(
            (0..5).map(|_| Ok::<_, std::io::Error>(pattern(400_000))),
        )),
    ] {
        let request = sandbox.request(Method::PUT, "/files?path=/tmp/file").body(body);
        // The server answers before it has everything, and the client may see the connection end.
        if let Ok(response) = request.send().await {
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        assert!(get(&sandbox, "/tmp/file").await == pattern(1_000_000));
    }
    assert_eq!(sandbox.shell("ls -A /tmp").await, "file\nforge");
    stage.end().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    assert_eq!(put(&sandbox, "/tmp/file", "before").await, StatusCode::NO_CONTENT);
    for pieces in [1, 20] {
        let some = (0..pieces).map(|_| Ok::<_, std::io::Error>(pattern(100_000)));
        let stream = futures_util::StreamExt::chain(
            futures_util::stream::iter(some),
            futures_util::stream::pending(),
        );
        let request = sandbox
            .request(Method::PUT, "/files?path=/tmp/file")
            .body(Body::wrap_stream(stream))
            .timeout(Duration::from_millis(300));
        assert!(request.send().await.is_err());
    }
    assert_eq!(get(&sandbox, "/tmp/file").await, b"before");
    assert_eq!(sandbox.shell("ls -A /tmp").await, "file\nforge");
    stage.end().await;
}
