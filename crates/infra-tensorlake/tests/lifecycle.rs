//! The sequence of requests that makes, waits for and deletes a sandbox, pinned against a server that
//! answers what the reference says.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::time::Duration;

use forge_domain::{EnvironmentError, Lifecycle, WorkspaceLocation};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const KEY: &str = "tl_s3cret";
const SANDBOXES: &str = "/v1/namespaces/default/sandboxes";

fn config(server: &MockServer) -> TensorlakeConfig {
    TensorlakeConfig::new(SecretString::from(KEY)).api_url(server.uri())
}

fn sandbox(server: &MockServer) -> TensorlakeEnvironment {
    TensorlakeEnvironment::new(config(server), workspace()).unwrap()
}

fn running(server: &MockServer) -> Value {
    json!({"sandbox_id": "sb1", "status": "running", "sandbox_url": server.uri()})
}

fn workspace() -> WorkspaceLocation {
    WorkspaceLocation { root: "/w".into(), working_directory: "/w".into() }
}

async fn create_answers(server: &MockServer, status: u16, body: Value) {
    Mock::given(method("POST"))
        .and(path(SANDBOXES))
        .respond_with(ResponseTemplate::new(status).set_body_json(body))
        .mount(server)
        .await;
}

async fn get_answers(server: &MockServer, answers: impl IntoIterator<Item = Value>) {
    for (priority, body) in (1..).zip(answers) {
        Mock::given(method("GET"))
            .and(path(format!("{SANDBOXES}/sb1")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .up_to_n_times(1)
            .with_priority(priority)
            .mount(server)
            .await;
    }
}

async fn delete_answers(server: &MockServer, status: u16) {
    Mock::given(method("DELETE"))
        .and(path(format!("{SANDBOXES}/sb1")))
        .respond_with(ResponseTemplate::new(status))
        .mount(server)
        .await;
}

/// Method and path of every request so far, in order.
async fn requests(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.unwrap();
    requests.iter().map(|request| format!("{} {}", request.method, request.url.path())).collect()
}

async fn count(server: &MockServer, start: &str) -> usize {
    requests(server).await.iter().filter(|request| request.starts_with(start)).count()
}

fn post() -> String {
    format!("POST {SANDBOXES}")
}

fn get() -> String {
    format!("GET {SANDBOXES}/sb1")
}

fn delete() -> String {
    format!("DELETE {SANDBOXES}/sb1")
}

#[tokio::test]
async fn the_whole_life_is_create_poll_use_delete_in_this_order() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, json!({"sandbox_id": "sb1", "status": "pending"})).await;
    let answers = [
        json!({"id": "sb1", "status": "pending", "sandbox_url": "http://too.early"}),
        json!({"id": "sb1", "status": "running", "sandbox_url": server.uri(), "routing_hint": "h"}),
    ];
    get_answers(&server, answers).await;
    Mock::given(method("GET"))
        .and(path("/api/v1/health"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"healthy": true})))
        .mount(&server)
        .await;
    delete_answers(&server, 200).await;
    let config = config(&server).organization("org").project("pro").image("img");
    let sandbox = TensorlakeEnvironment::new(config, workspace()).unwrap();
    assert_eq!(sandbox.id(), None);
    sandbox.health().await.unwrap();
    assert_eq!(sandbox.id(), Some("sb1".to_owned()));
    sandbox.close().await.unwrap();

    let expected = [post(), get(), get(), "GET /api/v1/health".to_owned(), delete()];
    assert_eq!(requests(&server).await, expected);
    let requests = server.received_requests().await.unwrap();
    for request in &requests {
        let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("authorization"), Some("Bearer tl_s3cret"));
        assert_eq!(header("x-forwarded-organization-id"), Some("org"));
        assert_eq!(header("x-forwarded-project-id"), Some("pro"));
        assert!(header("user-agent").unwrap().starts_with("forge/"));
    }
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    let expected = json!({
        "resources": {"cpus": 1.0, "memory_mb": 1024}, "image": "img", "timeout_secs": 3600,
    });
    assert_eq!(body, expected);
    let health = &requests[3].headers;
    assert_eq!(health.get("host").unwrap(), "sb1.local");
    assert_eq!(health.get("x-tensorlake-route-hint").unwrap(), "h");
}

#[tokio::test]
async fn a_running_answer_needs_no_poll() {
    for status in [200, 201] {
        let server = MockServer::builder().start().await;
        create_answers(&server, status, running(&server)).await;
        delete_answers(&server, 204).await;
        let sandbox = sandbox(&server);
        sandbox.prepare().await.unwrap();
        sandbox.close().await.unwrap();
        assert_eq!(requests(&server).await, [post(), delete()]);
    }
}

#[tokio::test]
async fn a_queued_answer_is_waited_for_whatever_its_status() {
    for (code, status) in [(200, "pending"), (202, "pending"), (504, "timeout")] {
        let server = MockServer::builder().start().await;
        create_answers(&server, code, json!({"sandbox_id": "sb1", "status": status})).await;
        get_answers(&server, [running(&server)]).await;
        delete_answers(&server, 200).await;
        let sandbox = sandbox(&server);
        sandbox.prepare().await.unwrap();
        sandbox.close().await.unwrap();
        assert_eq!(requests(&server).await, [post(), get(), delete()], "{code}");
    }
}

#[tokio::test]
async fn a_sandbox_that_failed_is_deleted_and_its_reason_is_said() {
    let server = MockServer::builder().start().await;
    let body = json!({"sandbox_id": "sb1", "status": "failed", "reason": "no such image"});
    create_answers(&server, 422, body).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    let error = sandbox.prepare().await.unwrap_err();
    assert!(error.to_string().contains("no such image"), "{error}");
    sandbox.close().await.unwrap();
    assert_eq!(requests(&server).await, [post(), delete()]);
}

#[tokio::test]
async fn a_sandbox_that_ends_while_it_is_waited_for_is_deleted() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, json!({"sandbox_id": "sb1", "status": "pending"})).await;
    get_answers(&server, [json!({"id": "sb1", "status": "terminated"})]).await;
    delete_answers(&server, 404).await;
    let error = sandbox(&server).prepare().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Unavailable { .. }), "{error:?}");
    assert_eq!(requests(&server).await, [post(), get(), delete()]);
}

#[tokio::test]
async fn an_unknown_status_is_asked_again() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, json!({"sandbox_id": "sb1", "status": "levitating"})).await;
    get_answers(&server, [running(&server)]).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    sandbox.prepare().await.unwrap();
    sandbox.close().await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_taken_owns_nothing() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 409, json!({"error": "exists", "sandbox_id": "somebody-elses"})).await;
    let sandbox = TensorlakeEnvironment::new(config(&server).name("taken"), workspace()).unwrap();
    let error = sandbox.prepare().await.unwrap_err();
    assert!(error.to_string().contains("\"taken\" exists already"), "{error}");
    sandbox.close().await.unwrap();
    assert_eq!(requests(&server).await, [post()]);
}

#[tokio::test]
async fn refused_access_fails_at_once_and_says_what_to_check() {
    for status in [401, 403] {
        let server = MockServer::builder().start().await;
        create_answers(&server, status, json!({"error": "no"})).await;
        let error = sandbox(&server).prepare().await.unwrap_err();
        assert!(matches!(error, EnvironmentError::AccessRefused { .. }), "{error:?}");
        assert_eq!(requests(&server).await, [post()]);
    }
}

#[tokio::test]
async fn a_creation_is_sent_again_only_if_nothing_was_begun() {
    for (code, body, expected) in [
        (503, json!({"code": "SANDBOX_NOT_READY"}), 6),
        (503, json!({"code": "SOMETHING_ELSE"}), 1),
        (500, json!({}), 1),
        (429, json!({}), 1),
    ] {
        let server = MockServer::builder().start().await;
        create_answers(&server, code, body).await;
        sandbox(&server).prepare().await.unwrap_err();
        assert_eq!(count(&server, "POST").await, expected, "{code}");
    }
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_up_and_deleted() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, json!({"sandbox_id": "sb1", "status": "pending"})).await;
    Mock::given(method("GET"))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(json!({"id": "sb1", "status": "pending"})),
        )
        .mount(&server)
        .await;
    delete_answers(&server, 200).await;
    let config = config(&server).start_limit(Duration::from_millis(500));
    let error =
        TensorlakeEnvironment::new(config, workspace()).unwrap().prepare().await.unwrap_err();
    assert!(error.to_string().contains("did not run within 500ms"), "{error}");
    assert_eq!(count(&server, "DELETE").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_first_uses_at_the_same_moment_make_one_sandbox() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, running(&server)).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    let uses = (0..20).map(|_| {
        let sandbox = sandbox.clone();
        tokio::spawn(async move { sandbox.prepare().await.unwrap() })
    });
    for one in uses.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let (first, second) = tokio::join!(sandbox.close(), sandbox.close());
    first.unwrap();
    second.unwrap();
    assert_eq!(requests(&server).await, [post(), delete()]);
}

#[tokio::test]
async fn a_caller_who_gives_up_while_it_is_made_leaks_nothing() {
    let server = MockServer::builder().start().await;
    let slow = ResponseTemplate::new(200)
        .set_body_json(running(&server))
        .set_delay(Duration::from_millis(300));
    Mock::given(method("POST")).respond_with(slow).mount(&server).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    let gave_up = tokio::time::timeout(Duration::from_millis(100), sandbox.prepare()).await;
    assert!(gave_up.is_err());
    until(|| async { sandbox.id().is_some() }).await;
    sandbox.close().await.unwrap();
    assert_eq!(requests(&server).await, [post(), delete()]);
}

#[tokio::test]
async fn whoever_comes_after_one_who_gave_up_gets_the_same_sandbox() {
    let server = MockServer::builder().start().await;
    let slow = ResponseTemplate::new(200)
        .set_body_json(running(&server))
        .set_delay(Duration::from_millis(300));
    Mock::given(method("POST")).respond_with(slow).mount(&server).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    for _ in 0..3 {
        let gave_up = tokio::time::timeout(Duration::from_millis(30), sandbox.prepare()).await;
        assert!(gave_up.is_err());
    }
    sandbox.prepare().await.unwrap();
    sandbox.close().await.unwrap();
    assert_eq!(requests(&server).await, [post(), delete()]);
}

#[tokio::test]
async fn a_close_while_the_server_holds_its_answer_back_is_bounded_and_says_what_may_come() {
    let server = MockServer::builder().start().await;
    let stalled = ResponseTemplate::new(200)
        .set_body_json(running(&server))
        .set_delay(Duration::from_secs(120));
    Mock::given(method("POST")).respond_with(stalled).mount(&server).await;
    let sandbox = sandbox(&server);
    drop(tokio::time::timeout(Duration::from_millis(100), sandbox.prepare()).await);
    let closed = tokio::time::timeout(Duration::from_secs(60), sandbox.close()).await;
    let error = closed.unwrap().unwrap_err().to_string();
    assert!(error.contains("a sandbox was being made") && error.contains("3600s"), "{error}");
}

#[tokio::test]
async fn a_close_while_it_is_made_deletes_what_comes_of_it() {
    let server = MockServer::builder().start().await;
    let slow = ResponseTemplate::new(200)
        .set_body_json(json!({"sandbox_id": "sb1", "status": "pending"}))
        .set_delay(Duration::from_millis(300));
    Mock::given(method("POST")).respond_with(slow).mount(&server).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    let making = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.prepare().await }
    });
    until(|| async { count(&server, "POST").await == 1 }).await;
    sandbox.close().await.unwrap();
    let error = making.await.unwrap().unwrap_err();
    assert!(matches!(error, EnvironmentError::Closed { .. }), "{error:?}");
    assert_eq!(count(&server, "DELETE").await, 1);
}

#[tokio::test]
async fn closing_what_was_never_made_sends_nothing() {
    let server = MockServer::builder().start().await;
    let sandbox = sandbox(&server);
    sandbox.close().await.unwrap();
    assert!(matches!(sandbox.prepare().await, Err(EnvironmentError::Closed { .. })));
    assert_eq!(requests(&server).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_deletion_that_fails_names_what_is_left() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, running(&server)).await;
    delete_answers(&server, 500).await;
    let sandbox = sandbox(&server);
    sandbox.prepare().await.unwrap();
    let error = sandbox.close().await.unwrap_err();
    assert!(error.to_string().contains("sb1"), "{error}");
    assert_eq!(count(&server, "DELETE").await, 1);
}

#[tokio::test]
async fn dropping_the_last_clone_deletes_once() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, running(&server)).await;
    delete_answers(&server, 200).await;
    let sandbox = sandbox(&server);
    sandbox.prepare().await.unwrap();
    drop(sandbox.clone());
    drop(sandbox);
    until(|| async { count(&server, "DELETE").await == 1 }).await;
}

#[test]
fn dropping_it_outside_of_any_runtime_deletes_too() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, sandbox) = runtime.block_on(async {
        let server = MockServer::builder().start().await;
        create_answers(&server, 200, running(&server)).await;
        delete_answers(&server, 200).await;
        let sandbox = sandbox(&server);
        sandbox.prepare().await.unwrap();
        (server, sandbox)
    });
    drop(sandbox);
    runtime.block_on(until(|| async { count(&server, "DELETE").await == 1 }));
}

/// A runtime for one thread that is polled no more: whoever deletes cannot count on it, nor on the
/// connections that it holds.
#[test]
fn dropping_it_where_the_runtime_has_ended_or_stands_still_deletes_too() {
    let servers = tokio::runtime::Runtime::new().unwrap();
    for ended in [false, true] {
        let server = servers.block_on(MockServer::builder().start());
        servers.block_on(create_answers(&server, 200, running(&server)));
        servers.block_on(delete_answers(&server, 200));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sandbox = sandbox(&server);
        runtime.block_on(sandbox.prepare()).unwrap();
        let still = (!ended).then_some(runtime);
        drop(sandbox);
        servers.block_on(until(|| async { count(&server, "DELETE").await == 1 }));
        drop(still);
        assert_eq!(servers.block_on(requests(&server)), [post(), delete()], "{ended}");
    }
}

#[test]
fn a_panic_deletes_once_and_the_end_of_the_program_can_wait_for_it() {
    let servers = tokio::runtime::Runtime::new().unwrap();
    let server = servers.block_on(MockServer::builder().start());
    servers.block_on(create_answers(&server, 200, running(&server)));
    servers.block_on(delete_answers(&server, 200));
    let sandbox = sandbox(&server);
    let panicked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            sandbox.prepare().await.unwrap();
            panic!("on purpose");
        });
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!(forge_infra_tensorlake::wait_for_reapers(Duration::from_secs(30)), 0);
    assert_eq!(servers.block_on(requests(&server)), [post(), delete()]);
}

#[tokio::test]
async fn a_sandbox_that_is_kept_is_deleted_by_nobody() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 200, running(&server)).await;
    let sandbox = TensorlakeEnvironment::new(config(&server).keep(true), workspace()).unwrap();
    sandbox.prepare().await.unwrap();
    sandbox.close().await.unwrap();
    assert_eq!(sandbox.id(), Some("sb1".to_owned()));
    drop(sandbox);
    assert_eq!(forge_infra_tensorlake::wait_for_reapers(Duration::from_secs(30)), 0);
    assert_eq!(requests(&server).await, [post()]);
}

#[tokio::test]
async fn no_error_and_no_debug_shows_the_key_even_where_the_server_echoes_it() {
    let server = MockServer::builder().start().await;
    create_answers(&server, 400, json!({"error": format!("key {KEY} is odd"), "code": KEY})).await;
    let sandbox = sandbox(&server);
    let error = sandbox.prepare().await.unwrap_err();
    let shown = format!("{error} {error:?} {sandbox:?} {:?}", config(&server));
    assert!(!shown.contains(KEY), "{shown}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    let config = TensorlakeConfig::new(SecretString::from(KEY))
        .api_url(format!("http://{address}"))
        .start_limit(Duration::from_millis(300));
    let error =
        TensorlakeEnvironment::new(config, workspace()).unwrap().prepare().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::ContactLost { .. }), "{error:?}");
    silent.abort();
}

async fn until<F: Future<Output = bool>>(mut reached: impl FnMut() -> F) {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while !reached().await {
        assert!(tokio::time::Instant::now() < give_up, "the state was not reached");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
