//! A client of a terminal that does what it is told to, and nothing of its own accord.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::stage::{Sandbox, eventually};

/// As long as a slow machine takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A terminal that was started.
pub(crate) struct Started<'a> {
    sandbox: &'a Sandbox<'a>,
    pub(crate) id: String,
    pub(crate) token: String,
}

/// A socket to a terminal.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// What was shown so far.
    pub(crate) screen: String,
}

/// How a socket ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// By the frame of the end.
    pub(crate) exit: Option<i32>,
    /// By the close; `None` where the connection broke off.
    pub(crate) close: Option<(u16, String)>,
}

impl Farewell {
    pub(crate) fn exited(code: i32) -> Self {
        Self { exit: Some(code), close: Some((1000, format!("exit:{code}"))) }
    }

    pub(crate) fn closed(code: u16, reason: &str) -> Self {
        Self { exit: None, close: Some((code, reason.to_owned())) }
    }
}

impl Sandbox<'_> {
    /// Starts a text for the shell on a terminal.
    pub(crate) async fn on_terminal(&self, script: &str) -> Started<'_> {
        let body = json!({"command": "sh", "args": ["-c", script]});
        let (status, started) = self.ask(Method::POST, "/pty", body).await;
        assert_eq!(status, StatusCode::CREATED, "{started}");
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        Started { sandbox: self, id: text("session_id"), token: text("token") }
    }
}

impl Started<'_> {
    pub(crate) fn path(&self) -> String {
        format!("/pty/{}", self.id)
    }

    pub(crate) async fn look(&self) -> (StatusCode, Value) {
        self.sandbox.get(&self.path()).await
    }

    /// Waits until its command has ended, and gives its code.
    pub(crate) async fn ended(&self) -> Value {
        eventually(async || {
            let (_, terminal) = self.look().await;
            (terminal["is_alive"] == false).then(|| terminal["exit_code"].clone())
        })
        .await
    }

    pub(crate) async fn gone(&self) {
        eventually(async || (self.look().await.0 == StatusCode::NOT_FOUND).then_some(())).await;
    }

    pub(crate) async fn delete(&self) {
        let response = self.sandbox.request(Method::DELETE, &self.path()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }

    /// Opens a socket, which says nothing yet.
    pub(crate) async fn open(&self) -> Socket {
        let address = self.sandbox.stage.server.address();
        let url = format!("ws://{address}/api/v1{}/ws?token={}", self.path(), self.token);
        let mut request = url.into_client_request().unwrap();
        let key = format!("Bearer {}", self.sandbox.stage.key);
        request.headers_mut().insert("authorization", key.parse().unwrap());
        let id = self.sandbox.id.parse().unwrap();
        request.headers_mut().insert("x-tensorlake-sandbox-id", id);
        let connection = TcpStream::connect(address).await.unwrap();
        let (stream, _) = tokio_tungstenite::client_async(request, connection).await.unwrap();
        Socket { stream, screen: String::new() }
    }

    /// Opens a socket to which output comes.
    pub(crate) async fn attach(&self) -> Socket {
        let mut socket = self.open().await;
        socket.send(&[2]).await;
        socket
    }
}

impl Socket {
    pub(crate) async fn send(&mut self, frame: &[u8]) {
        self.stream.send(Message::binary(frame.to_vec())).await.unwrap();
    }

    pub(crate) async fn type_in(&mut self, bytes: &[u8]) {
        self.send(&[&[0], bytes].concat()).await;
    }

    pub(crate) async fn resize(&mut self, columns: u16, rows: u16) {
        let [c1, c2] = columns.to_be_bytes();
        let [r1, r2] = rows.to_be_bytes();
        self.send(&[1, c1, c2, r1, r2]).await;
    }

    /// Reads until the screen has shown a text.
    pub(crate) async fn until(&mut self, text: &str) {
        let reading = async {
            while !self.screen.contains(text) {
                match self.stream.next().await {
                    Some(Ok(Message::Binary(frame))) => {
                        assert_eq!(frame[0], 0, "{frame:?}");
                        self.screen.push_str(&String::from_utf8_lossy(&frame[1..]));
                    }
                    Some(Ok(Message::Ping(_))) => {}
                    other => panic!("{other:?} instead of {text:?} after {:?}", self.screen),
                }
            }
        };
        let in_time = tokio::time::timeout(LIMIT, reading).await;
        assert!(in_time.is_ok(), "no {text:?} came after {:?}", self.screen);
    }

    /// Reads to the end, whatever comes, and says how that was.
    pub(crate) async fn farewell(&mut self) -> Farewell {
        let (mut farewell, mut shown) = (Farewell { exit: None, close: None }, Vec::new());
        let reading = async {
            while let Some(Ok(message)) = self.stream.next().await {
                match message {
                    Message::Binary(frame) if frame[0] == 0 => shown.extend_from_slice(&frame[1..]),
                    Message::Binary(frame) => {
                        assert_eq!((frame[0], frame.len()), (3, 5));
                        farewell.exit = Some(i32::from_be_bytes(frame[1..5].try_into().unwrap()));
                    }
                    Message::Close(Some(close)) => {
                        farewell.close = Some((close.code.into(), close.reason.to_string()));
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("the socket has no end");
        self.screen.push_str(&String::from_utf8_lossy(&shown));
        farewell
    }

    /// The connection itself, without what was agreed upon over it.
    pub(crate) fn connection(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}
