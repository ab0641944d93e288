//! Sockets to terminals that break, say nonsense, or say nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    CommandError, CommandExit, Ending, Lifecycle, OutputSink, OutputStream, SinkClosed, TerminalIo,
    TerminalRequests, TerminalSize, Terminals,
};
use forge_infra_tensorlake::TensorlakeEnvironment;
use futures_util::stream;
use pretty_assertions::assert_eq;
use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::sandbox::{PATIENCE, Token, command, config, environment, life, workspace};
use crate::server::{Reply, Seen, Server};

const START: &str = "POST /api/v1/pty";
const ATTACH: &str = "GET /api/v1/pty/s1/ws";
const LOOK: &str = "GET /api/v1/pty/s1";
const REMOVE: &str = "DELETE /api/v1/pty/s1";
const SECRET: &str = "t0k3n";

fn started() -> Reply {
    Reply::json(201, &json!({"session_id": "s1", "token": SECRET}))
}

/// The head of an answer that turns the connection into a socket.
fn socket(request: &Seen) -> Reply {
    let key = request.header("sec-websocket-key").unwrap();
    accepted(&derive_accept_key(key.as_bytes()))
}

fn accepted(accept: &str) -> Reply {
    Reply::default().raw(format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    ))
}

/// A frame of a server (RFC 6455, 5.2): short, whole, without a mask.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | kind, u8::try_from(payload.len()).unwrap()], payload].concat()
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(2, payload)
}

fn shown(text: &str) -> Vec<u8> {
    binary(&[&[0], text.as_bytes()].concat())
}

fn begun(token: &Token) -> Vec<u8> {
    shown(&format!("{} start 12\r\n", token.get()))
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(8, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl OutputSink for Screen {
    async fn write(&mut self, _: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        self.0.lock().unwrap().extend_from_slice(&bytes);
        Ok(())
    }
}

async fn run(environment: &TensorlakeEnvironment) -> (Result<CommandExit, CommandError>, String) {
    let screen = Screen::default();
    let io = TerminalIo {
        input: Box::pin(stream::pending()),
        sink: Box::new(screen.clone()),
        control: TerminalRequests::none(),
    };
    let run = environment.run_on_terminal(command(), TerminalSize::default(), io);
    let exit = tokio::time::timeout(PATIENCE, run).await.expect("it never ended");
    let text = String::from_utf8_lossy(&screen.0.lock().unwrap()).into_owned();
    (exit, text)
}

/// Runs on a server that answers a request to attach in this way.
async fn attached(
    answer: impl Fn(&Seen, &Token) -> Reply + Send + Sync + 'static,
) -> (Server, Ended) {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        START => {
            token.note(request);
            started()
        }
        ATTACH => answer(request, &token),
        LOOK => Reply::json(200, &json!({"session_id": "s1", "exit_code": 9})),
        REMOVE => Reply::empty(204),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let (exit, text) = run(&environment).await;
    environment.close().await.unwrap();
    (server, Ended { exit, text })
}

#[derive(Debug)]
struct Ended {
    exit: Result<CommandExit, CommandError>,
    text: String,
}

impl Ended {
    fn ending(&self) -> &Ending {
        &self.exit.as_ref().unwrap().ending
    }

    /// Everything that is said of it.
    fn in_full(&self) -> String {
        match &self.exit {
            Ok(exit) => format!("{exit:?}"),
            Err(error) => {
                let source = std::error::Error::source(error);
                format!("{error} {error:?} {source:?}")
            }
        }
    }
}

#[tokio::test]
async fn a_code_comes_by_its_frame_by_the_close_or_by_asking() {
    for (last, expected, looks) in [
        (vec![binary(&[3, 0, 0, 0, 7]), close(1000, "exit:7")], Ending::Exited(7), 0),
        (vec![close(1000, "exit:3")], Ending::Exited(3), 0),
        (vec![close(1000, "exit:-1")], Ending::Exited(9), 1),
        (vec![close(1000, "")], Ending::Exited(9), 1),
        (vec![binary(&[3, 0xff, 0xff, 0xff, 0xff])], Ending::Exited(9), 1),
    ] {
        let (server, ended) = attached(move |request, token| {
            let last = last.concat();
            socket(request).raw(begun(token)).raw(shown("all")).raw(last).hang()
        })
        .await;
        assert_eq!((ended.ending(), &*ended.text), (&expected, "all"));
        assert_eq!((server.count(START), server.count(LOOK), server.count(REMOVE)), (1, looks, 1));
    }
}

#[tokio::test]
async fn frames_of_no_meaning_are_passed_over() {
    let (_, ended) = attached(|request, token| {
        let nonsense =
            [frame(1, b"text"), binary(&[]), binary(&[77, 1]), binary(&[3, 0]), frame(9, b"?")];
        socket(request)
            .raw(nonsense.concat())
            .raw(begun(token))
            .raw(nonsense.concat())
            .raw(shown("all"))
            .raw(binary(&[3, 0, 0, 0, 0]))
            .hang()
    })
    .await;
    assert_eq!((ended.ending(), &*ended.text), (&Ending::Exited(0), "all"));
}

#[tokio::test]
async fn a_socket_that_breaks_is_contact_lost_and_what_was_shown_stays() {
    let half = binary(b"\0never complete")[..6].to_vec();
    let too_fast = close(1008, "too much input");
    for (last, cause) in [(half, "socket failed"), (too_fast, "too much input")] {
        let (server, ended) = attached(move |request, token| {
            socket(request).raw(begun(token)).raw(shown("some")).raw(&last).cut()
        })
        .await;
        let Ending::ContactLost { command, cause: said } = ended.ending() else {
            panic!("{:?}", ended.ending())
        };
        assert_eq!(command.as_deref(), Some("terminal s1"));
        assert!(said.contains(cause), "{said}");
        assert_eq!((&*ended.text, server.count(START)), ("some", 1));
        assert!(!ended.in_full().contains(SECRET), "{}", ended.in_full());
    }
}

#[tokio::test]
async fn what_is_no_socket_is_an_error_and_the_terminal_is_removed() {
    for wrong in [
        accepted("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        Reply::json(200, &json!({})),
        Reply::json(403, &json!({"error": "no", "code": "INVALID_TOKEN"})),
    ] {
        let (server, ended) = attached(move |_, _| wrong.clone()).await;
        assert!(matches!(&ended.exit, Err(CommandError::Environment(_))), "{:?}", ended.exit);
        assert_eq!((server.count(START), server.count(REMOVE)), (1, 1));
        assert!(!ended.in_full().contains(SECRET), "{}", ended.in_full());
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        START => {
            token.note(request);
            started()
        }
        ATTACH => socket(request).raw(begun(&token)).raw(shown("some")).hang(),
        REMOVE => Reply::empty(204),
        _ => life(request),
    })
    .await;
    let config = config(&server.url).silence_limit(Duration::from_millis(400));
    let environment = TensorlakeEnvironment::new(config, workspace()).unwrap();
    let (exit, text) = run(&environment).await;
    environment.close().await.unwrap();
    let exit = exit.unwrap();
    let Ending::ContactLost { cause, .. } = &exit.ending else { panic!("{:?}", exit.ending) };
    assert!(cause.contains("silent for 400ms"), "{cause}");
    assert_eq!(text, "some");
}

#[tokio::test]
async fn a_start_that_fails_is_not_made_again() {
    for (status, says) in [(500, "no place"), (405, "its server has no terminals")] {
        let server = Server::start(move |request| match request.shape.as_str() {
            START => Reply::json(status, &json!({"error": "no place"})),
            _ => life(request),
        })
        .await;
        let environment = environment(&server);
        let (exit, _) = run(&environment).await;
        environment.close().await.unwrap();
        let error = exit.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!((server.count(START), server.count(ATTACH)), (1, 0));
    }
}

#[tokio::test]
async fn names_that_would_lead_elsewhere_are_refused() {
    for name in ["../processes/1", "s1?token=x", ""] {
        let server = Server::start(move |request| match request.shape.as_str() {
            START => Reply::json(201, &json!({"session_id": name, "token": SECRET})),
            _ => life(request),
        })
        .await;
        let environment = environment(&server);
        let (exit, _) = run(&environment).await;
        environment.close().await.unwrap();
        let error = exit.unwrap_err();
        assert!(matches!(&error, CommandError::Environment(_)), "{error:?}");
        assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    }
}
