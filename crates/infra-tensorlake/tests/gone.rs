//! Sandboxes that are not there any more, and what holds without a client, against a server that really
//! executes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails ends its test")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{
    ByteRange, CommandIo, CommandRequest, Commands, Ending, Fidelity, FileError, Files, Lifecycle,
    Notice, Program, WorkspaceLocation, WriteOptions,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_tensorlake_testserver::{Daemon, ServerOptions, TestServer};
use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use secrecy::SecretString;

const KEY: &str = "tl_s3cret";

async fn server(options: ServerOptions) -> (TestServer, TensorlakeEnvironment) {
    let server = TestServer::start(options).await.unwrap();
    let root = server.directory().join("project");
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    let config = TensorlakeConfig::new(SecretString::from(KEY))
        .api_url(server.url())
        .scratch_parent(server.directory().join("scratch"));
    let environment = TensorlakeEnvironment::new(config, workspace).unwrap();
    (server, environment)
}

async fn notices(environment: &TensorlakeEnvironment) -> Vec<Notice> {
    let request = CommandRequest::new(Program::shell("echo works"));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    assert_eq!((exit.ending, exit.output.interleaved()), (Ending::Exited(0), b"works\n".to_vec()));
    exit.notices
}

#[tokio::test]
async fn a_sandbox_that_ended_is_made_again_and_it_is_said_once() {
    for forget in [false, true] {
        for daemon in [Daemon::WithRun, Daemon::Open] {
            let (server, environment) =
                server(ServerOptions { daemon, ..Default::default() }).await;
            assert_eq!(notices(&environment).await, []);
            let [first] = &server.running()[..] else { panic!() };
            if forget {
                server.forget(first)
            } else {
                server.terminate(first)
            }
            let [Notice::EnvironmentRecreated { reason }] = &notices(&environment).await[..] else {
                panic!()
            };
            assert!(reason.contains(first), "{reason}");
            assert_eq!(notices(&environment).await, []);
            environment.close().await.unwrap();
            assert_eq!((server.count("POST", "/sandboxes"), server.running().len()), (2, 0));
            // The one that was gone is nobody's to delete.
            let deleted = server.requests().iter().filter(|r| r.method == "DELETE").count();
            assert_eq!(deleted, 1);
        }
    }
}

#[tokio::test]
async fn files_of_a_sandbox_that_ended_are_gone_and_the_next_command_says_why() {
    let (server, environment) = server(ServerOptions::default()).await;
    let path = Path::new("file");
    environment.write(path, Bytes::from_static(b"x"), WriteOptions::default()).await.unwrap();
    server.terminate(&server.running()[0]);
    std::fs::remove_dir_all(server.directory().join("project")).unwrap();
    let error = environment.read(path, ByteRange::first(10)).await.unwrap_err();
    assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
    assert_eq!(notices(&environment).await.len(), 1);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_suspended_sandbox_is_resumed_and_nothing_is_made_anew() {
    let (server, environment) = server(ServerOptions::default()).await;
    assert_eq!(notices(&environment).await, []);
    server.suspend(&server.running()[0]);
    assert_eq!(notices(&environment).await, []);
    assert_eq!((server.count("POST", "/sandboxes"), server.count("POST", "/resume")), (1, 1));
    environment.close().await.unwrap();
}

#[tokio::test]
async fn a_command_whose_sandbox_ends_has_lost_contact_or_was_killed_and_the_next_one_works() {
    let (server, environment) = server(ServerOptions::default()).await;
    let request = CommandRequest::new(Program::shell("echo begun; sleep 1000"));
    let command = environment.run(request, CommandIo::detached());
    let ending = async {
        while server.running().is_empty() || server.count("POST", "/processes/run") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.terminate(&server.running()[0]);
    };
    let (exit, ()) = tokio::join!(command, ending);
    let ending = exit.unwrap().ending;
    assert!(matches!(ending, Ending::ContactLost { .. } | Ending::Signalled(_)), "{ending:?}");
    assert_eq!(notices(&environment).await.len(), 1);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn twenty_first_commands_make_one_sandbox_and_each_is_one_request() {
    let (server, environment) = server(ServerOptions::default()).await;
    let all = join_all((0..20).map(|_| notices(&environment))).await;
    assert!(all.iter().all(Vec::is_empty));
    assert_eq!(server.count("POST", "/sandboxes"), 1);
    assert_eq!(server.count("POST", "/processes/run"), 20);
    environment.close().await.unwrap();
}

#[tokio::test]
async fn commands_are_one_request_each_on_one_connection() {
    let (server, environment) = server(ServerOptions::default()).await;
    for fidelity in [Fidelity::Readable, Fidelity::Exact] {
        for _ in 0..5 {
            let request = CommandRequest::new(Program::argv("true", [""; 0])).fidelity(fidelity);
            environment.run(request, CommandIo::detached()).await.unwrap();
        }
    }
    let requests = server.requests();
    let runs: Vec<_> = requests.iter().filter(|request| request.path.contains("process")).collect();
    assert_eq!(runs.len(), 10);
    assert!(runs.iter().all(|run| run.peer == runs[0].peer), "{runs:?}");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn an_upload_that_is_too_large_goes_in_smaller_pieces() {
    for daemon in [Daemon::WithRun, Daemon::Open] {
        let options = ServerOptions { max_body_bytes: 200_000, daemon, ..Default::default() };
        let (server, environment) = server(options).await;
        let bytes: Vec<u8> = (0..1_500_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let path = Path::new("big");
        let contents = Bytes::from(bytes.clone());
        environment.write(path, contents, WriteOptions::default()).await.unwrap();
        let read = environment.read(path, ByteRange::first(u64::MAX)).await.unwrap();
        assert!(read.bytes == bytes, "{} bytes came back", read.bytes.len());
        // Nothing of the pieces is left.
        let scratch = server.directory().join("scratch");
        let own = std::fs::read_dir(scratch).unwrap().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read_dir(own).unwrap().count(), 0);
        environment.close().await.unwrap();
    }
}

/// The guest ends a command by itself, some seconds after its time, where nobody is left who could.
#[test]
fn a_time_limit_holds_in_the_guest_when_the_client_is_no_more() {
    for daemon in [Daemon::WithRun, Daemon::Open] {
        let servers = tokio::runtime::Runtime::new().unwrap();
        let options = ServerOptions { daemon, ..Default::default() };
        let (server, environment) = servers.block_on(server(options));
        let client = tokio::runtime::Runtime::new().unwrap();
        let running = environment.clone();
        client.spawn(async move {
            let script = "while :; do printf x >>ticks; sleep 0.02; done";
            let request = CommandRequest::new(Program::shell(script))
                .time_limit(Duration::from_secs(1))
                .termination_grace(Duration::from_millis(100));
            drop(running.run(request, CommandIo::detached()).await);
        });
        let ticks = || {
            let file = server.directory().join("project/ticks");
            std::fs::metadata(file).map_or(0, |metadata| metadata.len())
        };
        let give_up = std::time::Instant::now() + Duration::from_secs(60);
        while ticks() == 0 {
            assert!(std::time::Instant::now() < give_up, "it did not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        client.shutdown_background();
        let mut before = ticks();
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = ticks();
            if now == before {
                break;
            }
            assert!(std::time::Instant::now() < give_up, "it goes on");
            before = now;
        }
        drop(environment);
    }
}
