//! What can go wrong with a request, and what it means for the environment.

use std::time::Duration;

use forge_domain::{EnvironmentError, EnvironmentKind};
use thiserror::Error;

use crate::wire::ErrorResponse;

const KIND: EnvironmentKind = EnvironmentKind::Tensorlake;

/// How much of a server's text is shown.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why a request got no useful answer. Never holds the key: it is in a header, and what the server says
/// is searched for it.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    /// The server cannot be reached: the request provably did not arrive.
    #[error("the server cannot be reached")]
    Connect(#[source] reqwest::Error),
    /// The connection broke or was silent; the request may have arrived.
    #[error("the connection failed")]
    Broken(#[source] reqwest::Error),
    /// The server said nothing for too long.
    #[error("the server was silent for {limit:?}")]
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// The server refused.
    #[error("the server answered {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The server's own code for it.
        code: Option<String>,
        /// What it said, shortened.
        message: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the interface says.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl RequestError {
    pub(crate) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Status { status, .. } if *status == wanted)
    }

    /// Whether the server may have done what it was asked for.
    pub(crate) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Connect(_) => false,
            // What is refused was not done.
            Self::Status { status, .. } => *status >= 500,
            Self::Broken(_) | Self::Silent { .. } | Self::Unreadable(_) => true,
        }
    }

    /// Whether the server knows no such sandbox, or says that it does not run.
    pub(crate) fn says_gone(&self) -> bool {
        let Self::Status { status, code, .. } = self else { return false };
        let code = code.as_deref();
        *status == 410 || matches!(code, Some("SANDBOX_NOT_FOUND" | "SANDBOX_NOT_RUNNING"))
    }

    /// The same, or what a server says that gives no codes: the sandbox is worth a look.
    pub(crate) fn may_be_gone(&self) -> bool {
        self.says_gone() || matches!(self, Self::Status { status: 404, code: None, .. })
    }

    /// Whether there is no such request, as far as the answer shows.
    pub(crate) fn says_no_such_request(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 405 | 501, .. }) && !self.says_gone()
    }

    /// The failure as one of the environment.
    pub(crate) fn in_environment(self, operation: &str) -> EnvironmentError {
        match &self {
            Self::Status { status: 401, .. } => EnvironmentError::AccessRefused {
                environment: KIND,
                reason: "the key is not accepted (401): check that it is whole and not expired"
                    .to_owned(),
            },
            Self::Status { status: 403, .. } => EnvironmentError::AccessRefused {
                environment: KIND,
                reason: "the key may not do this (403): check its project and permissions"
                    .to_owned(),
            },
            Self::Status { message, .. } => EnvironmentError::Unavailable {
                environment: KIND,
                reason: format!("{operation}: {message}"),
                source: Some(Box::new(self)),
            },
            Self::Connect(_) | Self::Broken(_) | Self::Silent { .. } | Self::Unreadable(_) => {
                EnvironmentError::ContactLost {
                    environment: KIND,
                    operation: operation.to_owned(),
                    source: Some(Box::new(self)),
                }
            }
        }
    }
}

/// The sandbox cannot be had, for this reason.
pub(crate) fn unavailable(reason: String) -> EnvironmentError {
    EnvironmentError::Unavailable { environment: KIND, reason, source: None }
}

/// It was closed.
pub(crate) fn closed() -> EnvironmentError {
    EnvironmentError::Closed { environment: KIND }
}

/// Reads what a server says of a refusal: JSON with a code, or plain text.
pub(crate) fn refusal(
    status: u16,
    body: &[u8],
    retry_after: Option<Duration>,
    key: &str,
) -> RequestError {
    let parsed: Option<ErrorResponse> = serde_json::from_slice(body).ok();
    let (text, code) = match parsed {
        Some(ErrorResponse { error, message, code }) => (error.or(message), code),
        None => (Some(String::from_utf8_lossy(body).into_owned()), None),
    };
    let message = shown(&text.unwrap_or_default(), key);
    RequestError::Status { status, code: code.map(|code| shown(&code, key)), message, retry_after }
}

/// A server's text for a person: short, on one line, and without the key even where it was echoed.
pub(crate) fn shown(text: &str, key: &str) -> String {
    let text = if key.is_empty() { text.to_owned() } else { text.replace(key, "(key)") };
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE_CHARS)
        .collect();
    if line.trim().is_empty() { "no reason given".to_owned() } else { line.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_key_that_the_server_echoes_is_not_shown() {
        let error = refusal(400, br#"{"error":"bad key tl_s3cret\nhere"}"#, None, "tl_s3cret");
        assert_eq!(error.to_string(), "the server answered 400: bad key (key) here");
    }

    #[test]
    fn plain_text_and_nothing_are_refusals_too() {
        assert_eq!(
            refusal(413, b"too large", None, "k").to_string(),
            "the server answered 413: too large"
        );
        assert_eq!(
            refusal(405, b"", None, "k").to_string(),
            "the server answered 405: no reason given"
        );
    }

    #[test]
    fn refused_access_says_what_to_check() {
        let error = refusal(401, b"", None, "k").in_environment("creating");
        assert!(matches!(error, EnvironmentError::AccessRefused { .. }), "{error:?}");
        assert!(!error.is_retryable());
    }
}
