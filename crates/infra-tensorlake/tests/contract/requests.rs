//! How many requests, and over how many connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forge_domain::{CommandIo, CommandRequest, Commands, Ending, Lifecycle, Program};
use forge_infra_tensorlake::TensorlakeEnvironment;
use pretty_assertions::assert_eq;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wiremock::MockServer;

use crate::guest::{
    RUN, SANDBOXES, config_for, create, delete, new_server, out, poll, serve_run, serve_sandbox,
    shapes,
};

fn hello() -> CommandRequest {
    CommandRequest::new(Program::shell("echo hi"))
}

/// Passes connections on to a server, and counts them.
struct Counted {
    url: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Counted {
    async fn before(server: &MockServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (connections, target) = (Arc::new(AtomicUsize::new(0)), *server.address());
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(target).await.unwrap();
                    // A connection that one side cuts is cut on the other.
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                });
            }
        });
        Self { url, connections, task }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_command_is_one_request_on_the_connection_of_the_one_before() {
    let server = new_server().await;
    let counted = Counted::before(&server).await;
    serve_sandbox(&server, SANDBOXES, &counted.url).await;
    serve_run(&server, vec![out("hi"), json!({"exit_code": 0})]).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&counted.url), crate::guest::workspace()).unwrap();
    for _ in 0..10 {
        let exit = environment.run(hello(), CommandIo::detached()).await.unwrap();
        assert_eq!(exit.ending, Ending::Exited(0));
    }
    environment.close().await.unwrap();

    let mut expected = vec![create(), poll()];
    expected.extend((0..10).map(|_| RUN.to_owned()));
    expected.push(delete());
    assert_eq!(shapes(&server).await, expected);
    assert_eq!(counted.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_first_commands_at_the_same_moment_make_one_sandbox() {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_run(&server, vec![out("hi"), json!({"exit_code": 0})]).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    let commands: Vec<_> = (0..20)
        .map(|_| {
            let environment = environment.clone();
            tokio::spawn(async move { environment.run(hello(), CommandIo::detached()).await })
        })
        .collect();
    for command in commands {
        let exit = command.await.unwrap().unwrap();
        assert_eq!(exit.ending, Ending::Exited(0));
        assert_eq!(exit.output.interleaved(), b"hi\n");
    }
    environment.close().await.unwrap();

    let mut expected = vec![create(), poll()];
    expected.extend((0..20).map(|_| RUN.to_owned()));
    expected.push(delete());
    assert_eq!(shapes(&server).await, expected);
}
