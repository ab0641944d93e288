//! The key, where a server says it in everything that it answers.

use std::error::Error;
use std::path::Path;

use forge_domain::{
    ByteRange, CommandIo, Commands, Ending, Existing, Files, Lifecycle, Removal, WriteOptions,
};
use forge_infra_tensorlake::TensorlakeEnvironment;
use serde_json::{Value, json};

use crate::sandbox::{
    CREATE, DELETE, FOLLOW, KEY, POLL, RUN, START, STATUS, STDIN, command, config, life,
};
use crate::server::{Reply, Seen, Server};

/// Everything that a person could come to see of an error.
fn assert_hidden(what: &str, error: &impl Error) {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        shown.push_str(&format!(" {error} {error:?} {error:#?}"));
        source = error.source();
    }
    assert!(!shown.contains(KEY), "{what}: {shown}");
}

/// Answers of every kind, each with the key wherever there is room for a text.
fn echoes() -> Vec<Reply> {
    let body = json!({
        "error": format!("the key {KEY} is odd"), "message": KEY, "code": KEY, "reason": KEY,
        "status": KEY, "error_details": {"key": KEY}, "termination_reason": KEY,
    });
    let with = |extra: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let headers = format!("x-key: {KEY}\r\nlocation: http://{KEY}/\r\nretry-after: 99\r\n");
    let mut replies: Vec<Reply> = [302, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504]
        .into_iter()
        .flat_map(|status| {
            let plain = format!("Bearer {KEY}");
            [
                Reply::of(status, "application/json", &headers, &body.to_string()),
                Reply::of(status, "text/plain", &headers, &plain),
            ]
        })
        .collect();
    replies.extend([
        // Of the wrong type.
        Reply::json(200, &json!({"pid": KEY, "sandbox_id": 5, "healthy": KEY, "lines": KEY})),
        Reply::json(200, &json!(KEY)),
        Reply::of(200, &format!("text/{KEY}"), &headers, KEY),
        Reply::json(200, &with(json!({"sandbox_id": "sb1", "status": "failed"}))),
        Reply::json(200, &with(json!({"sandbox_id": "sb1", "status": "terminated"}))),
        Reply::json(200, &with(json!({"sandbox_id": "sb1", "status": "running"}))),
        Reply::json(
            200,
            &with(json!({"sandbox_id": "sb1", "status": "running", "sandbox_url": KEY})),
        ),
        Reply::json(
            200,
            &with(json!({
                "sandbox_id": "sb1", "status": "running", "sandbox_url": format!("http://{KEY}@x"),
            })),
        ),
        Reply::json(
            200,
            &with(json!({
                "sandbox_id": "sb1", "status": "running", "sandbox_url": format!("ftp://{KEY}/"),
            })),
        ),
        Reply::stream().event(&json!({"error": KEY})).cut(),
        Reply::default().raw(format!("HTTP/1.1 {KEY}\r\n\r\n")).cut(),
        Reply::default().raw(format!("HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n")).cut(),
        Reply::default().raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n")).cut(),
    ]);
    replies
}

/// A server that answers like any other, except to what is told here.
async fn echoing(shapes: &'static [&'static str], echo: Reply) -> Server {
    Server::start(move |request: &Seen| match request.shape.as_str() {
        shape if shapes.contains(&shape) => echo.clone(),
        RUN if shapes.contains(&START) || shapes.contains(&STDIN) => Reply::empty(405),
        RUN => {
            let pid = json!({"pid": 4711});
            Reply::stream().event(&pid).out(&format!("{} start 12", request.token())).cut()
        }
        START => Reply::json(201, &json!({"pid": 4711, "status": "running"})),
        FOLLOW => Reply::stream().eof(),
        POLL => Reply::json(200, &json!({"id": "sb1", "status": "running"})),
        _ => life(request),
    })
    .await
}

/// Uses everything, and looks at every error that comes of it.
async fn use_everything(environment: &TensorlakeEnvironment, what: &str) {
    let path = Path::new("/w/file");
    if let Err(error) = environment.health().await {
        assert_hidden(what, &error);
    }
    match environment.run(command(), CommandIo::detached()).await {
        Ok(exit) => {
            assert!(!format!("{exit:?}").contains(KEY), "{what}: {exit:?}");
            assert!(exit.ending != Ending::Exited(0), "{what}: {exit:?}");
        }
        Err(error) => assert_hidden(what, &error),
    }
    if let Err(error) = environment.prepare().await {
        assert_hidden(what, &error);
    }
    if let Err(error) = environment.read(path, ByteRange { offset: 0, max_bytes: 9 }).await {
        assert_hidden(what, &error);
    }
    let options = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
    if let Err(error) = environment.write(path, vec![0; 100_000].into(), options).await {
        assert_hidden(what, &error);
    }
    if let Err(error) = environment.remove(path, Removal::Single).await {
        assert_hidden(what, &error);
    }
    if let Err(error) = environment.close().await {
        assert_hidden(what, &error);
    }
    assert!(!format!("{environment:?} {environment:#?}").contains(KEY), "{what}");
}

async fn hides(shapes: &'static [&'static str]) {
    // A process that a server says to be running is waited for, and here nobody would end it.
    let ends = |echo: &Reply| shapes != [STATUS] || !echo.says("\"status\":\"running\"");
    let uses = echoes().into_iter().enumerate().filter(|(_, echo)| ends(echo)).map(
        |(number, echo)| async move {
            let what = format!("{shapes:?}, echo {number}");
            let server = echoing(shapes, echo).await;
            let config = config(&server.url).start_limit(std::time::Duration::from_secs(3));
            assert!(!format!("{config:?} {config:#?}").contains(KEY));
            let environment =
                TensorlakeEnvironment::new(config, crate::sandbox::workspace()).unwrap();
            use_everything(&environment, &what).await;
            assert!(
                shapes.iter().any(|shape| server.count(shape) > 0),
                "{what}: it was never asked"
            );
        },
    );
    futures_util::future::join_all(uses).await;
}

#[tokio::test]
async fn no_error_about_the_sandbox_shows_the_key() {
    hides(&[CREATE]).await;
    hides(&[DELETE, "GET /api/v1/health"]).await;
}

#[tokio::test]
async fn no_error_about_a_command_or_a_file_shows_the_key() {
    hides(&[RUN]).await;
    hides(&[START]).await;
    hides(&[STDIN]).await;
}

#[tokio::test]
async fn no_error_about_a_stream_or_its_end_shows_the_key() {
    hides(&[FOLLOW]).await;
    hides(&[STATUS]).await;
}

#[test]
fn no_error_about_the_configuration_shows_the_key() {
    let bad_key = config("http://127.0.0.1:9");
    let bad_key = forge_infra_tensorlake::TensorlakeConfig {
        key: secrecy::SecretString::from(format!("{KEY}\n")),
        ..bad_key
    };
    assert_hidden(
        "key",
        &TensorlakeEnvironment::new(bad_key, crate::sandbox::workspace()).unwrap_err(),
    );
    for url in [format!("http://{KEY}@127.0.0.1:9"), format!("http://k:{KEY}@127.0.0.1")] {
        assert_hidden(
            &url,
            &TensorlakeEnvironment::new(config(&url), crate::sandbox::workspace()).unwrap_err(),
        );
    }
    let header = config("http://127.0.0.1:9").organization(format!("{KEY}\n"));
    assert_hidden(
        "header",
        &TensorlakeEnvironment::new(header, crate::sandbox::workspace()).unwrap_err(),
    );
}
