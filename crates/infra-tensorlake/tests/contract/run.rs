//! A life with `run`: provision, poll, run, delete.

use std::net::TcpListener;
use std::time::Duration;

use forge_domain::{
    CommandIo, CommandRequest, Commands, Ending, EnvironmentVariable, Lifecycle, OutputStream,
    Program, VariableName,
};
use forge_infra_tensorlake::{Resources, TensorlakeEnvironment};
use pretty_assertions::assert_eq;
use serde_json::json;
use wiremock::MockServer;

use crate::guest::{
    KEY, RUN, SANDBOXES, body, config_for, create, delete, err, header, new_server, out, poll,
    serve_run, serve_sandbox, shapes, token_of,
};

fn greet() -> CommandRequest {
    CommandRequest::new(Program::argv("printf", ["%s\n", "hi"])).time_limit(Duration::from_secs(10))
}

#[tokio::test]
async fn provision_poll_run_delete() {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_run(&server, vec![out("hi"), err("oh"), json!({"exit_code": 3})]).await;
    let config = config_for(&server.uri()).organization("org-1").project("pro-1");
    let environment = TensorlakeEnvironment::new(config, crate::guest::workspace()).unwrap();

    let exit = environment.run(greet(), CommandIo::detached()).await.unwrap();
    environment.close().await.unwrap();

    assert_eq!(exit.ending, Ending::Exited(3));
    assert_eq!(exit.output.of(OutputStream::Stdout), b"hi\n");
    assert_eq!(exit.output.of(OutputStream::Stderr), b"oh\n");
    assert_eq!(shapes(&server).await, [create(), poll(), RUN.to_owned(), delete()]);

    let requests = server.received_requests().await.unwrap();
    for request in &requests {
        assert_eq!(header(request, "authorization"), Some(&*format!("Bearer {KEY}")));
        assert_eq!(header(request, "user-agent"), Some("forge/0.1.0"));
        assert_eq!(header(request, "x-forwarded-organization-id"), Some("org-1"));
        assert_eq!(header(request, "x-forwarded-project-id"), Some("pro-1"));
    }
    let own_host = server.address().to_string();
    for request in [&requests[0], &requests[1], &requests[3]] {
        assert_eq!(header(request, "host"), Some(&*own_host));
        assert_eq!(header(request, "x-tensorlake-sandbox-id"), None);
        assert_eq!(header(request, "x-tensorlake-route-hint"), None);
    }
    let run = &requests[2];
    assert_eq!(header(run, "host"), Some("sb1.local"));
    assert_eq!(header(run, "x-tensorlake-sandbox-id"), None);
    assert_eq!(header(run, "x-tensorlake-route-hint"), Some("rack-7"));
    assert_eq!(header(run, "accept"), Some("text/event-stream"));
    assert_eq!(header(run, "content-type"), Some("application/json"));
    assert_eq!(header(&requests[0], "content-type"), Some("application/json"));
    for without_body in [&requests[1], &requests[3]] {
        assert_eq!(without_body.body, b"");
    }
}

#[tokio::test]
async fn the_body_of_a_run_says_what_and_how_and_nothing_else() {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_run(&server, vec![json!({"exit_code": 0})]).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    environment.run(greet(), CommandIo::detached()).await.unwrap();
    let unbounded = CommandRequest::new(Program::shell("echo hi"));
    environment.run(unbounded, CommandIo::detached()).await.unwrap();

    let requests = server.received_requests().await.unwrap();
    let (first, second) = (body(&requests[2]), body(&requests[3]));
    // The text that begins it is the guest's concern; what it begins is given beside it.
    assert_eq!(
        first,
        json!({
            "command": "/bin/sh",
            "args": ["-c", first["args"][1], "sh", "printf", "printf", "%s\n", "hi"],
            "env": {"FORGE_COMMAND_ID": token_of(&requests[2])},
            // The limit, the two seconds of grace, and a margin.
            "timeout": 17.0,
        })
    );
    assert_eq!(
        second,
        json!({
            "command": "/bin/sh",
            "args": ["-c", second["args"][1], "sh", "/bin/sh", "/bin/sh", "-c", "echo hi"],
            "env": {"FORGE_COMMAND_ID": token_of(&requests[3])},
        })
    );
    assert!(token_of(&requests[2]) != token_of(&requests[3]), "each command has a mark of its own");
}

#[tokio::test]
async fn variables_reach_the_command_and_not_the_servers_own_process() {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_run(&server, vec![json!({"exit_code": 0})]).await;
    let variable = |name: &str, value: &str| {
        EnvironmentVariable::new(VariableName::parse(name).unwrap(), value).unwrap()
    };
    let config = config_for(&server.uri()).environment(vec![variable("A", "1")]);
    let environment = TensorlakeEnvironment::new(config, crate::guest::workspace()).unwrap();
    let request = CommandRequest::new(Program::argv("true", [""; 0]))
        .environment(vec![variable("A", "2"), variable("B", "x y")]);
    environment.run(request, CommandIo::detached()).await.unwrap();

    let requests = server.received_requests().await.unwrap();
    let run = body(&requests[2]);
    let arguments = json!(["true", "env", "--", "A=1", "A=2", "B=x y", "true"]);
    assert_eq!(run["args"].as_array().unwrap()[3..], *arguments.as_array().unwrap());
    assert_eq!(run["env"], json!({"FORGE_COMMAND_ID": token_of(&requests[2])}));
}

#[tokio::test]
async fn everything_that_can_be_configured_is_in_the_body_of_the_creation() {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    let config = config_for(&server.uri())
        .resources(Resources { cpus: 2.5, memory_mb: 4096, disk_mb: Some(9000) })
        .image("img")
        .snapshot_id("snap")
        .name("mine")
        .internet(false)
        .lifetime(Duration::from_secs(77));
    let environment = TensorlakeEnvironment::new(config, crate::guest::workspace()).unwrap();
    environment.prepare().await.unwrap();
    let requests = server.received_requests().await.unwrap();
    assert_eq!(
        body(&requests[0]),
        json!({
            "resources": {"cpus": 2.5, "memory_mb": 4096, "disk_mb": 9000},
            "image": "img",
            "snapshot_id": "snap",
            "name": "mine",
            "timeout_secs": 77,
            "network": {"allow_internet_access": false},
        })
    );

    let plain =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    plain.prepare().await.unwrap();
    let requests = server.received_requests().await.unwrap();
    let expected = json!({"resources": {"cpus": 1.0, "memory_mb": 1024}, "timeout_secs": 3600});
    assert_eq!(body(&requests[2]), expected);
}

/// An address of this machine that the vendor's clients do not take for it: the sandbox is named by a
/// header there.
#[tokio::test]
async fn another_address_of_the_sandbox_gets_its_id_in_a_header() {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let server = MockServer::builder().listener(listener).start().await;
    serve_sandbox(&server, SANDBOXES, &format!("{}/", server.uri())).await;
    serve_run(&server, vec![json!({"exit_code": 0})]).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    environment.run(greet(), CommandIo::detached()).await.unwrap();
    environment.close().await.unwrap();

    assert_eq!(shapes(&server).await, [create(), poll(), RUN.to_owned(), delete()]);
    let requests = server.received_requests().await.unwrap();
    let own_host = server.address().to_string();
    for (request, id) in requests.iter().zip([None, None, Some("sb1"), None]) {
        assert_eq!(header(request, "host"), Some(&*own_host));
        assert_eq!(header(request, "x-tensorlake-sandbox-id"), id);
    }
}
