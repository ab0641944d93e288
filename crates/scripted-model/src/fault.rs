//! What goes wrong.

use serde::{Deserialize, Serialize};

/// Something that goes wrong, and with which requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// How many of the server's first requests are left alone. Default 0.
    #[serde(default)]
    pub after_requests: u64,
    /// How many requests it happens to. `None`: all.
    #[serde(default)]
    pub requests: Option<u64>,
}

/// A way to fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Another reply instead of the answer: an error, a wrong content type, garbage.
    Reply {
        /// The HTTP status.
        status: u16,
        /// Headers: `retry-after`, `content-type` and so on.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// The request is read, and nothing is ever said, not even a status.
    SilentFromTheStart,
    /// The answer begins and then falls silent; the connection stays open.
    Silent(Place),
    /// The answer begins and then the connection is cut.
    Cut(Place),
    /// The answer begins and then ends as if that were all, without its finish.
    EndEarly(Place),
}

/// A place in the bytes of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// After this many bytes.
    Bytes(usize),
    /// In the middle of the first call: its name and a part of its arguments are out. In an answer
    /// without calls, after half of its bytes.
    InToolCall,
    /// Just before the event that says why the answer finished.
    BeforeFinish,
}

impl Fault {
    /// It happens to all requests.
    #[must_use]
    pub fn always(kind: FaultKind) -> Self {
        Self { kind, after_requests: 0, requests: None }
    }

    /// It happens to the first `requests` requests that the server gets.
    #[must_use]
    pub fn first(requests: u64, kind: FaultKind) -> Self {
        Self { kind, after_requests: 0, requests: Some(requests) }
    }

    /// Whether it happens to the request with this number, counted from 0.
    pub(crate) fn applies(&self, number: u64) -> bool {
        let after = number.checked_sub(self.after_requests);
        after.is_some_and(|place| self.requests.is_none_or(|requests| place < requests))
    }
}

impl FaultKind {
    /// A reply with a status and a JSON body.
    #[must_use]
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self::Reply { status, headers, body: body.into() }
    }

    /// A reply with a status and `Retry-After`.
    #[must_use]
    pub fn retry_after(status: u16, retry_after: impl Into<String>) -> Self {
        Self::Reply {
            status,
            headers: vec![("retry-after".to_owned(), retry_after.into())],
            body: r#"{"error":{"type":"overloaded","message":"come back later"}}"#.to_owned(),
        }
    }
}
