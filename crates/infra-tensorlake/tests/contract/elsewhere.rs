//! A server that is not on this machine, reached by a proxy that is.

use forge_domain::{CommandIo, CommandRequest, Commands, Ending, Lifecycle, Program};
use forge_infra_tensorlake::TensorlakeEnvironment;
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::guest::{config_for, header, new_server, serve_run, serve_sandbox};

const THIS: &str =
    "elsewhere::a_server_elsewhere_has_flat_paths_and_is_reached_by_the_systems_proxy";
const PROXY: &str = "http_proxy";
const AGAIN: &str = "FORGE_TEST_AGAIN";

/// The proxy's address is a variable, so the test runs itself once more with that set. The names in the
/// addresses are resolved by nobody.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the variables are those of a process of its own")]
async fn a_server_elsewhere_has_flat_paths_and_is_reached_by_the_systems_proxy() {
    if std::env::var_os(AGAIN).is_some() {
        return run_a_command().await;
    }
    let server = new_server().await;
    serve_sandbox(&server, "/sandboxes", "http://sb1.tensorlake.test").await;
    serve_run(&server, vec![json!({"exit_code": 0})]).await;
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", THIS, "--nocapture"]);
    command.env_clear().env(AGAIN, "1").env(PROXY, server.uri());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));

    let requests = server.received_requests().await.unwrap();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| {
            let id = header(request, "x-tensorlake-sandbox-id");
            (format!("{} {}", request.method, request.url), id)
        })
        .collect();
    let expected = [
        ("POST http://sandbox.tensorlake.test/sandboxes", None),
        ("GET http://sandbox.tensorlake.test/sandboxes/sb1", None),
        ("POST http://sb1.tensorlake.test/api/v1/processes/run", Some("sb1")),
        ("DELETE http://sandbox.tensorlake.test/sandboxes/sb1", None),
    ];
    assert_eq!(asked, expected.map(|(asked, id)| (asked.to_owned(), id)));
    for request in &requests {
        let host = request.url.host_str();
        assert_eq!(header(request, "host"), host);
    }
}

async fn run_a_command() {
    let config = config_for("http://api.tensorlake.test");
    let environment = TensorlakeEnvironment::new(config, crate::guest::workspace()).unwrap();
    let request = CommandRequest::new(Program::shell("true"));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    environment.close().await.unwrap();
}
