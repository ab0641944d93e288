//! The bytes of an answer on their way out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;

use crate::wire::{Event, EventKind};
use crate::{Delivery, FaultKind, Place};

/// What happens after the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The body ends as it should.
    Complete,
    /// Nothing more comes, and the connection stays.
    Silent,
    /// The connection is cut.
    Cut,
}

/// Notes an answer that its client left before it had ended.
#[derive(Debug)]
pub(crate) struct Presence {
    abandoned: Arc<watch::Sender<usize>>,
    ended: bool,
}

impl Presence {
    pub(crate) fn new(abandoned: Arc<watch::Sender<usize>>) -> Self {
        Self { abandoned, ended: false }
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.ended {
            self.abandoned.send_modify(|count| *count += 1);
        }
    }
}

/// What of the events goes out under a fault, and how that ends.
pub(crate) fn shorten(events: Vec<Event>, fault: Option<&FaultKind>) -> (Vec<Event>, Ending) {
    let (place, ending) = match fault {
        Some(FaultKind::Silent(place)) => (*place, Ending::Silent),
        Some(FaultKind::Cut(place)) => (*place, Ending::Cut),
        Some(FaultKind::EndEarly(place)) => (*place, Ending::Complete),
        Some(FaultKind::Reply { .. } | FaultKind::SilentFromTheStart) | None => {
            return (events, Ending::Complete);
        }
    };
    let mut left = bytes_before(&events, place);
    let mut kept = Vec::new();
    for mut event in events {
        if left == 0 {
            break;
        }
        // A place in the middle of a character goes back to its beginning.
        let end = event.text.floor_char_boundary(left.min(event.text.len()));
        left = left.saturating_sub(event.text.len());
        event.text.truncate(end);
        kept.push(event);
    }
    (kept, ending)
}

fn bytes_before(events: &[Event], place: Place) -> usize {
    let before = |index: usize| events.iter().take(index).map(|event| event.text.len()).sum();
    let total = before(events.len());
    match place {
        Place::Bytes(bytes) => bytes,
        Place::BeforeFinish => {
            let finish = events.iter().position(|event| event.kind == EventKind::Finish);
            finish.map_or(total, before)
        }
        Place::InToolCall => {
            let part = events.iter().position(|event| event.kind == EventKind::Arguments);
            match part {
                // A call that comes in one event breaks off within it.
                Some(index)
                    if events.get(index + 1).map(|next| next.kind)
                        != Some(EventKind::Arguments) =>
                {
                    before(index) + events[index].text.len() / 2
                }
                Some(index) => before(index + 1),
                None => total / 2,
            }
        }
    }
}

/// The body that sends these events.
pub(crate) fn stream_body(
    events: Vec<Event>,
    ending: Ending,
    delivery: &Delivery,
    presence: Presence,
) -> Body {
    let writes = writes(events, delivery.chunk_bytes);
    let delay = Duration::from_millis(delivery.delay_ms);
    let state = (writes.into_iter(), presence);
    Body::from_stream(stream::unfold(state, move |(mut writes, mut presence)| async move {
        if delay.is_zero() {
            // Lets the server send what it has before it gets more.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(delay).await;
        }
        if let Some(write) = writes.next() {
            return Some((Ok::<_, io::Error>(write), (writes, presence)));
        }
        match ending {
            Ending::Complete => {
                presence.end();
                None
            }
            Ending::Silent => std::future::pending().await,
            Ending::Cut => {
                // After an error the server closes the connection without the mark of the end. Once.
                if presence.ended {
                    return None;
                }
                presence.end();
                Some((Err(io::Error::other("the script cuts here")), (writes, presence)))
            }
        }
    }))
}

fn writes(events: Vec<Event>, chunk_bytes: Option<usize>) -> Vec<Bytes> {
    match chunk_bytes {
        None => events.into_iter().map(|event| Bytes::from(event.text)).collect(),
        Some(size) => {
            let all = Bytes::from(events.into_iter().map(|event| event.text).collect::<String>());
            let starts = (0..all.len()).step_by(size.max(1));
            starts.map(|at| all.slice(at..all.len().min(at + size.max(1)))).collect()
        }
    }
}
