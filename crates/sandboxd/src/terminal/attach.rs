//! What goes over the socket between a terminal and its client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::{BufMut as _, Bytes, BytesMut};
use forge_domain::TerminalSize;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::session::{End, Terminal};

const DATA: u8 = 0;
const RESIZE: u8 = 1;
const READY: u8 = 2;
const EXIT: u8 = 3;

/// What a client may send at once: a frame's first byte and what it holds.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// In so many parts of the limit there has to be a sign of the client.
const SILENT_PARTS: u32 = 3;
/// How long a client may take to take in that it is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a client is not attached any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It closed the socket, or the connection broke.
    Gone,
    /// It gave no sign of itself.
    Silent,
    /// It sent more at once than is taken.
    TooLarge,
    /// Another client has come.
    TakenOver,
    /// There is nothing more to show.
    Over,
}

/// What was heard of a client.
#[derive(Debug, Default)]
struct Heard {
    anything: AtomicBool,
    /// It is not listened to at present, so that it is not silent.
    is_deaf: AtomicBool,
}

impl Heard {
    /// Returns when nothing was heard for so long, or a third longer.
    async fn silence(&self, silence_limit: Duration) {
        let mut silent_parts = 0;
        while silent_parts < SILENT_PARTS {
            tokio::time::sleep(silence_limit / SILENT_PARTS).await;
            let heard = self.anything.swap(false, Ordering::SeqCst);
            let is_there = heard || self.is_deaf.load(Ordering::SeqCst);
            silent_parts = if is_there { 0 } else { silent_parts + 1 };
        }
    }
}

impl Terminal {
    /// Carries bytes between a client and the terminal, until either has an end or another client comes.
    pub(crate) async fn attend(self: Arc<Self>, socket: WebSocket) {
        let (arrival, taken_over) = self.arrive();
        let (mut to_client, mut from_client) = socket.split();
        let (ready, heard) = (CancellationToken::new(), Heard::default());
        let carried = async {
            // Neither is to keep the other waiting.
            tokio::select! {
                leave = self.hear(&mut from_client, &ready, &heard) => leave,
                leave = self.show(&mut to_client, &ready) => leave,
                () = heard.silence(self.patience.silence_limit) => Leave::Silent,
            }
        };
        let leave = tokio::select! {
            biased;
            // What comes from now on is the newcomer's.
            () = taken_over.cancelled() => Leave::TakenOver,
            () = self.released.cancelled() => Leave::Over,
            leave = carried => leave,
        };
        debug!(terminal_id = %self.id, ?leave, "A client of a terminal left.");
        self.leave(arrival);
        let (code, reason) = match leave {
            Leave::Gone | Leave::Silent => return,
            Leave::TooLarge => (1009, format!("a message is at most {MAX_MESSAGE_BYTES} bytes")),
            Leave::TakenOver => (4001, "another client has taken the terminal over".to_owned()),
            Leave::Over => {
                let end = self.ended().await;
                match end {
                    Some(end) if !self.released.is_cancelled() => {
                        let telling = to_client.send(Message::Binary(exit_frame(end)));
                        drop(tokio::time::timeout(FAREWELL, telling).await);
                        (1000, format!("exit:{}", end.code))
                    }
                    Some(_) | None => (1001, "session terminated".to_owned()),
                }
            }
        };
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        drop(tokio::time::timeout(FAREWELL, to_client.send(close)).await);
    }

    /// Takes what the client sends, until it is gone.
    async fn hear(
        &self,
        from_client: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
        ready: &CancellationToken,
        heard: &Heard,
    ) -> Leave {
        while let Some(Ok(message)) = from_client.next().await {
            heard.anything.store(true, Ordering::SeqCst);
            let Message::Binary(frame) = message else { continue };
            if frame.len() > MAX_MESSAGE_BYTES {
                return Leave::TooLarge;
            }
            match (frame.first(), frame.get(1..)) {
                (Some(&DATA), Some(bytes @ [_, ..])) => self.typed.push(bytes),
                (Some(&RESIZE), Some(&[c1, c2, r1, r2])) => {
                    let [columns, rows] = [[c1, c2], [r1, r2]].map(u16::from_be_bytes);
                    self.resize(TerminalSize::new(columns, rows));
                }
                (Some(&READY), _) => ready.cancel(),
                _ => {}
            }
            if !self.typed.has_room() {
                // Its pings are not answered for it meanwhile; where it is gone, sending one fails.
                heard.is_deaf.store(true, Ordering::SeqCst);
                self.typed.room().await;
                heard.is_deaf.store(false, Ordering::SeqCst);
            }
        }
        Leave::Gone
    }

    /// Shows the client what comes, as soon as it says that it is ready, and asks whether it is there.
    async fn show(
        &self,
        to_client: &mut (impl Sink<Message> + Unpin),
        ready: &CancellationToken,
    ) -> Leave {
        let ping_interval = self.patience.ping_interval;
        let mut pings = interval_at(Instant::now() + ping_interval, ping_interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                ready.cancelled().await;
                self.shown.take().await
            };
            let message = tokio::select! {
                bytes = next => match bytes {
                    Some(bytes) => Message::Binary(data_frame(&bytes)),
                    None => return Leave::Over,
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if to_client.send(message).await.is_err() {
                return Leave::Gone;
            }
        }
    }
}

fn data_frame(bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(DATA);
    frame.put_slice(bytes);
    frame.freeze()
}

fn exit_frame(end: End) -> Bytes {
    let mut frame = BytesMut::with_capacity(5);
    frame.put_u8(EXIT);
    frame.put_i32(end.code);
    frame.freeze()
}
