//! Bytes on their way between a terminal and its client.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::Notify;

/// How much is taken at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Holds back whoever fills it faster than it is emptied. One at a time waits at either end.
#[derive(Debug)]
pub(super) struct Queue {
    limit_bytes: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Of all pieces together: a piece of a few bytes may keep the whole buffer that it was read into.
    bytes: BytesMut,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, state: Mutex::default(), filled: Notify::new(), emptied: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by single steps: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a piece, or nobody takes any more.
    ///
    /// # Cancel safety
    /// Nothing happens when the future is dropped.
    pub(super) async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.has_room() {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        state.is_closed || state.bytes.len() < self.limit_bytes
    }

    /// Adds a piece, whether or not there is room. What nobody takes any more is dropped.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.state();
        if !state.is_closed {
            state.bytes.extend_from_slice(bytes);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Takes nothing in any more. What is there can be taken.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.filled.notify_one();
        self.emptied.notify_one();
    }

    /// The next bytes; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is taken when the future is dropped.
    pub(super) async fn take(&self) -> Option<Bytes> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state();
                if !state.bytes.is_empty() {
                    let length = state.bytes.len().min(PIECE_BYTES);
                    let piece = Bytes::copy_from_slice(&state.bytes[..length]);
                    state.bytes.advance(length);
                    if state.bytes.is_empty() {
                        // What a burst has taken is given back.
                        state.bytes = BytesMut::new();
                    }
                    drop(state);
                    self.emptied.notify_one();
                    return Some(piece);
                }
                if state.is_closed {
                    drop(state);
                    // For another who waits for the same.
                    self.filled.notify_one();
                    return None;
                }
            }
            filled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_fills_it_waits_until_it_is_emptied() {
        let queue = Queue::new(4);
        queue.room().await;
        queue.push(b"12345");
        let waiting = tokio::time::timeout(Duration::from_millis(20), queue.room());
        assert!(waiting.await.is_err());
        let (taken, ()) = tokio::join!(queue.take(), queue.room());
        assert_eq!(taken.as_deref(), Some(b"12345".as_slice()));
    }

    #[tokio::test]
    async fn what_is_there_is_taken_after_the_close_and_nothing_comes_in() {
        let queue = Queue::new(1);
        queue.push(b"one");
        queue.close();
        queue.room().await;
        queue.push(b"two");
        assert_eq!(queue.take().await.as_deref(), Some(b"one".as_slice()));
        assert_eq!((queue.take().await, queue.take().await), (None, None));
    }

    #[tokio::test]
    async fn small_pieces_come_together_and_a_large_one_in_parts() {
        let queue = Queue::new(1);
        queue.push(b"a");
        queue.push(&vec![b'b'; PIECE_BYTES]);
        assert_eq!(queue.take().await.unwrap().len(), PIECE_BYTES);
        assert_eq!(queue.take().await.as_deref(), Some(b"b".as_slice()));
    }
}
