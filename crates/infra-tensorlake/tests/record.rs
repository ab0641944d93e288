//! What is written down about a sandbox and when, pinned against a server that answers what the reference says, or nothing.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_domain::{
    BoxedError, EnvironmentError, KeptSandbox, Lifecycle, SandboxRecord, WorkspaceLocation,
};
use forge_infra_tensorlake::{
    FoundSandbox, SandboxStanding, Sandboxes, TensorlakeConfig, TensorlakeEnvironment,
};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::{Value, json};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

const SANDBOXES: &str = "/v1/namespaces/default/sandboxes";

/// Everything that was written down, in order, and the requests, where they share the list.
#[derive(Debug, Default)]
struct Book {
    lines: Mutex<Vec<String>>,
    refuses: bool,
    kept: Option<KeptSandbox>,
}

impl Book {
    fn write(&self, line: &str, name: &str) -> Result<(), BoxedError> {
        assert!(name.starts_with("forge-") && name.len() > 20, "{name}");
        self.lines.lock().unwrap().push(line.to_owned());
        if self.refuses { Err("the disk is full".into()) } else { Ok(()) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl SandboxRecord for Book {
    fn begin(&self, name: &str) -> Result<(), BoxedError> {
        self.write("begin", name)
    }

    fn identify(&self, name: &str, id: &str) -> Result<(), BoxedError> {
        self.write(&format!("identify {id}"), name)
    }

    fn fill(&self, name: &str, _state: &[u8]) -> Result<(), BoxedError> {
        self.write("fill", name)
    }

    fn keep(&self, name: &str, _state: Option<&[u8]>) -> Result<(), BoxedError> {
        self.write("keep", name)
    }

    fn kept(&self) -> Result<Option<KeptSandbox>, BoxedError> {
        Ok(self.kept.clone())
    }

    fn take_up(&self, name: &str) -> Result<(), BoxedError> {
        self.write("take up", name)
    }

    fn forget(&self, name: &str) -> Result<(), BoxedError> {
        self.write("forget", name)
    }
}

/// Notes that it was asked, and by which name.
struct Noted(Arc<Book>, ResponseTemplate);

impl Respond for Noted {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let line = match request.method.as_str() {
            "POST" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                assert!(body["name"].as_str().unwrap().starts_with("forge-"), "{body}");
                "POST".to_owned()
            }
            other => other.to_owned(),
        };
        self.0.lines.lock().unwrap().push(line);
        self.1.clone()
    }
}

async fn answers(
    server: &MockServer,
    verb: &str,
    at: &str,
    book: &Arc<Book>,
    with: ResponseTemplate,
) {
    Mock::given(method(verb))
        .and(path_regex(format!("^{SANDBOXES}{at}$")))
        .respond_with(Noted(Arc::clone(book), with))
        .mount(server)
        .await;
}

fn running(server: &MockServer) -> ResponseTemplate {
    let body = json!({"id": "sb1", "status": "running", "sandbox_url": server.uri()});
    ResponseTemplate::new(200).set_body_json(body)
}

fn config(server: &MockServer) -> TensorlakeConfig {
    TensorlakeConfig::new(SecretString::from("tl_s3cret")).api_url(server.uri())
}

fn sandbox(config: TensorlakeConfig, book: &Arc<Book>) -> TensorlakeEnvironment {
    let record: Arc<dyn SandboxRecord> = Arc::clone(book) as _;
    TensorlakeEnvironment::new(config.record(record), workspace()).unwrap()
}

fn workspace() -> WorkspaceLocation {
    WorkspaceLocation { root: "/w".into(), working_directory: "/w".into() }
}

#[tokio::test]
async fn it_is_on_record_before_it_is_asked_for_and_until_it_is_gone() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, running(&server)).await;
    answers(&server, "DELETE", "/sb1", &book, ResponseTemplate::new(200)).await;
    let sandbox = sandbox(config(&server), &book);
    sandbox.prepare().await.unwrap();
    assert_eq!(book.lines(), ["begin", "POST", "identify sb1"]);
    sandbox.close().await.unwrap();
    assert_eq!(book.lines()[3..], ["DELETE", "forget"]);
}

#[tokio::test]
async fn nothing_is_asked_for_that_cannot_be_put_on_record() {
    let server = MockServer::start().await;
    let book = Arc::new(Book { refuses: true, ..Book::default() });
    let sandbox = sandbox(config(&server), &book);
    let error = sandbox.prepare().await.unwrap_err();
    assert!(error.to_string().contains("put on record"), "{error}");
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn one_whose_deletion_fails_stays_on_record() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, running(&server)).await;
    answers(&server, "DELETE", "/sb1", &book, ResponseTemplate::new(500)).await;
    let sandbox = sandbox(config(&server), &book);
    sandbox.prepare().await.unwrap();
    sandbox.close().await.unwrap_err();
    assert!(!book.lines().contains(&"forget".to_owned()), "{:?}", book.lines());
}

#[tokio::test]
async fn one_whose_creation_was_never_answered_is_found_by_its_name() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    let silent = running(&server).set_delay(Duration::from_secs(60));
    answers(&server, "POST", "", &book, silent).await;
    answers(&server, "GET", "/forge-[0-9]+", &book, running(&server)).await;
    answers(&server, "DELETE", "/sb1", &book, ResponseTemplate::new(200)).await;
    let sandbox = sandbox(config(&server).start_limit(Duration::from_millis(300)), &book);
    sandbox.prepare().await.unwrap();
    assert_eq!(sandbox.id(), Some("sb1".to_owned()));
    sandbox.close().await.unwrap();
    assert_eq!(book.lines(), ["begin", "POST", "GET", "identify sb1", "DELETE", "forget"]);
}

#[tokio::test]
async fn a_name_that_is_taken_is_that_of_our_own() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    let taken = ResponseTemplate::new(409).set_body_json(json!({"error": "it exists already"}));
    answers(&server, "POST", "", &book, taken).await;
    answers(&server, "GET", "/forge-[0-9]+", &book, running(&server)).await;
    let sandbox = sandbox(config(&server), &book);
    sandbox.prepare().await.unwrap();
    assert_eq!(sandbox.id(), Some("sb1".to_owned()));
}

#[tokio::test]
async fn a_creation_that_is_refused_leaves_nothing_on_record() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, ResponseTemplate::new(401)).await;
    let sandbox = sandbox(config(&server), &book);
    let error = sandbox.prepare().await.unwrap_err();
    assert!(matches!(error, EnvironmentError::AccessRefused { .. }), "{error:?}");
    assert_eq!(book.lines(), ["begin", "POST", "forget"]);
}

#[tokio::test]
async fn a_creation_of_which_nothing_is_known_stays_on_record() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, ResponseTemplate::new(500)).await;
    let sandbox = sandbox(config(&server), &book);
    sandbox.prepare().await.unwrap_err();
    assert_eq!(book.lines(), ["begin", "POST"]);
}

#[tokio::test]
async fn one_that_was_dropped_is_off_the_record_when_it_is_deleted() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, running(&server)).await;
    answers(&server, "DELETE", "/sb1", &book, ResponseTemplate::new(200)).await;
    let sandbox = sandbox(config(&server), &book);
    sandbox.prepare().await.unwrap();
    drop(sandbox);
    let begin = std::time::Instant::now();
    while !book.lines().contains(&"forget".to_owned()) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", book.lines());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_that_is_to_be_kept_is_on_record_as_that() {
    let (server, book) = (MockServer::start().await, Arc::new(Book::default()));
    answers(&server, "POST", "", &book, running(&server)).await;
    let sandbox = sandbox(config(&server).keep(true), &book);
    sandbox.prepare().await.unwrap();
    sandbox.close().await.unwrap();
    assert_eq!(book.lines(), ["begin", "POST", "identify sb1", "keep"]);
}

#[tokio::test]
async fn another_process_sees_how_one_stands_by_its_id_or_name() {
    let server = MockServer::start().await;
    for (id, status) in [("a", "running"), ("b", "Suspended"), ("c", "terminated")] {
        let body = json!({"id": id, "status": status});
        Mock::given(method("GET"))
            .and(path(format!("{SANDBOXES}/forge-{id}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .mount(&server)
            .await;
    }
    let sandboxes = Sandboxes::new(config(&server)).unwrap();
    let expected = [
        ("a", SandboxStanding::Running),
        ("b", SandboxStanding::Suspended),
        ("c", SandboxStanding::Gone),
    ];
    for (id, standing) in expected {
        let found = sandboxes.look(&format!("forge-{id}")).await.unwrap();
        assert_eq!(found, Some(FoundSandbox { id: id.to_owned(), standing }));
    }
    assert_eq!(sandboxes.look("forge-d").await.unwrap(), None);
    let error = sandboxes.adopt("a", workspace(), b"nonsense", []).await.unwrap_err();
    assert!(error.to_string().contains("makes no sense"), "{error}");
}

#[tokio::test]
async fn one_that_was_kept_without_a_state_is_deleted_before_another_is_asked_for() {
    let server = MockServer::start().await;
    let kept = KeptSandbox {
        name: "forge-12345678901234567890".to_owned(),
        id: "sb0".to_owned(),
        state: None,
    };
    let book = Arc::new(Book { kept: Some(kept), ..Book::default() });
    answers(&server, "DELETE", "/sb0", &book, ResponseTemplate::new(404)).await;
    answers(&server, "POST", "", &book, running(&server)).await;
    answers(&server, "DELETE", "/sb1", &book, ResponseTemplate::new(200)).await;
    let environment = sandbox(config(&server), &book);
    environment.prepare().await.unwrap();
    environment.close().await.unwrap();
    let expected = ["DELETE", "forget", "begin", "POST", "identify sb1", "DELETE", "forget"];
    assert_eq!(book.lines(), expected);
}

#[tokio::test]
async fn what_is_kept_stays_where_the_server_cannot_be_asked_for_it() {
    let server = MockServer::start().await;
    let kept = KeptSandbox {
        name: "forge-12345678901234567890".to_owned(),
        id: "sb0".to_owned(),
        state: None,
    };
    let book = Arc::new(Book { kept: Some(kept), ..Book::default() });
    answers(&server, "DELETE", "/sb0", &book, ResponseTemplate::new(403)).await;
    let environment = sandbox(config(&server), &book);
    environment.prepare().await.unwrap_err();
    environment.close().await.unwrap();
    assert_eq!(book.lines(), ["DELETE"], "nothing is forgotten, and no other one is made");
}
