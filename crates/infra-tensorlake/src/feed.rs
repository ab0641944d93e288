//! Input on its way to a command.

use std::io;
use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::failure::RequestError;
use crate::process::ProcessInput;

/// How much is sent at once.
const MAX_PIECE_BYTES: usize = 64 * 1024;
/// How many pieces may be on their way. Far below what the open daemon takes before it hangs, and with
/// it every other request about processes.
const WINDOW: u64 = 8;

/// What the command has taken so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InputProgress {
    /// The number of the last piece.
    pub(crate) taken: u64,
    /// It takes no more.
    pub(crate) closed: bool,
}

type Input = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Sends the input in numbered pieces, no further ahead of the command than the window, and then its end.
///
/// # Errors
/// A piece could not be delivered. That the command takes no more is none.
pub(crate) async fn feed(
    input: Input,
    process: ProcessInput,
    mut progress: watch::Receiver<InputProgress>,
) -> Result<(), RequestError> {
    let mut input = input.ready_chunks(64);
    let mut number = 0;
    let mut is_last = false;
    while !is_last {
        let mut batch = BytesMut::new();
        match input.next().await {
            None => is_last = true,
            Some(items) => {
                for item in items {
                    match item {
                        Ok(bytes) => batch.extend_from_slice(&bytes),
                        Err(_) => {
                            is_last = true;
                            break;
                        }
                    }
                }
            }
        }
        for piece in batch.chunks(MAX_PIECE_BYTES) {
            number += 1;
            let has_room =
                |progress: &InputProgress| progress.closed || progress.taken + WINDOW >= number;
            match progress.wait_for(has_room).await {
                Ok(progress) if !progress.closed => {}
                // It takes no more, or has ended.
                _ => return Ok(()),
            }
            if !post(&process, number, piece).await? {
                return Ok(());
            }
        }
    }
    post(&process, number + 1, b"").await.map(drop)
}

/// Says whether more can be sent.
async fn post(process: &ProcessInput, number: u64, piece: &[u8]) -> Result<bool, RequestError> {
    let mut body = BytesMut::with_capacity(piece.len() + 32);
    body.put_slice(format!("{number} {}\n", piece.len()).as_bytes());
    body.put_slice(piece);
    match process.post(body.freeze()).await {
        Ok(()) => Ok(true),
        // The process has ended or closed its end.
        Err(RequestError::Status { status: 400 | 404 | 409 | 410 | 500, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
