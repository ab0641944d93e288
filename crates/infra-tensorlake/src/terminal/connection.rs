//! A terminal in the sandbox, and the socket to it.

use std::time::Duration;

use forge_domain::TerminalSize;
use reqwest::{Method, Upgraded};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::debug;

use crate::client::{Client, json_body};
use crate::failure::RequestError;
use crate::lifecycle::Ready;
use crate::retry::Repeatable;
use crate::wire::{StartTerminalRequest, StartTerminalResponse, TerminalResponse};

pub(crate) type Socket = WebSocketStream<Upgraded>;

/// How often a server is asked for a code that it has not noted yet, at this interval.
const LOOKS: u32 = 20;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A terminal that was made. The command is started with it, and says nothing before somebody is attached.
#[derive(Debug, Clone)]
pub(crate) struct RemoteTerminal {
    client: Client,
    ready: Ready,
    pub(crate) id: String,
    token: SecretString,
}

impl RemoteTerminal {
    /// Starts a text for the guest's shell on a new terminal. Sent again only where it provably did not
    /// arrive.
    pub(crate) async fn start(
        client: &Client,
        ready: &Ready,
        (text, arguments): (String, Vec<String>),
        size: TerminalSize,
    ) -> Result<Self, RequestError> {
        let mut args = vec!["-c".to_owned(), text, "sh".to_owned()];
        args.extend(arguments);
        let body = StartTerminalRequest {
            command: "/bin/sh",
            args: &args,
            rows: size.rows(),
            cols: size.columns(),
        };
        let request = ready.request(client, Method::POST, "/api/v1/pty");
        let response = client.send(json_body(request, &body)?, Repeatable::No, &[]).await?;
        let started: StartTerminalResponse = client.json(response).await?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let named = [&started.session_id, &started.token]
            .iter()
            .all(|text| !text.is_empty() && text.chars().all(is_plain));
        if !named {
            return Err(RequestError::Unreadable("a terminal with a strange name".to_owned()));
        }
        Ok(Self {
            client: client.clone(),
            ready: ready.clone(),
            id: started.session_id,
            token: started.token.into(),
        })
    }

    fn path(&self) -> String {
        format!("/api/v1/pty/{}", self.id)
    }

    /// Attaches to it. The client has to be one that speaks HTTP/1.1.
    pub(crate) async fn attach(&self, client: &Client) -> Result<Socket, RequestError> {
        let token = self.token.expose_secret();
        let key = generate_key();
        // The open daemon takes the token of the query, and the vendor's own clients send both.
        let request = self
            .ready
            .request(client, Method::GET, &format!("{}/ws?token={token}", self.path()))
            .header("x-pty-token", token)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", &key);
        let response = client.send(request, Repeatable::Yes, &[101]).await?;
        let expected = derive_accept_key(key.as_bytes());
        let accepted = response.headers().get("sec-websocket-accept");
        if response.status().as_u16() != 101
            || accepted.is_none_or(|value| value.as_bytes() != expected.as_bytes())
        {
            return Err(RequestError::Unreadable("it is no socket".to_owned()));
        }
        let upgraded = response.upgrade().await;
        let upgraded = upgraded.map_err(|error| RequestError::Broken(error.without_url()))?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    /// The code that its command ended with, which may be noted a moment after the end.
    pub(crate) async fn code(&self) -> Option<i64> {
        for _ in 0..LOOKS {
            let request = self.ready.request(&self.client, Method::GET, &self.path());
            let response = self.client.send(request, Repeatable::Yes, &[]).await.ok()?;
            let terminal: TerminalResponse = self.client.json(response).await.ok()?;
            if let Some(code) = terminal.exit_code.filter(|code| *code >= 0) {
                return Some(code);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        None
    }

    /// Removes it; a command that is still there is hung up, and killed by the server.
    pub(crate) async fn delete(&self) {
        let request = self.ready.request(&self.client, Method::DELETE, &self.path());
        if let Err(error) = self.client.send(request, Repeatable::Yes, &[404]).await {
            // It takes up one of the server's places until the sandbox ends.
            debug!(sandbox_id = %self.ready.id, %error, "A terminal was not removed.");
        }
    }
}
