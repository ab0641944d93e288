//! What went wrong, told from `genai`'s errors.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use forge_domain::{BoxedError, ModelError, ModelId};
use genai::webc::StreamTimeout;
use reqwest::header::HeaderMap;

use crate::server_text::Cleaner;

/// A failure, and whether the request may be made again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ModelError,
    pub(crate) again: Again,
}

/// Whether a request may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// No: it would fail again, or a part of its answer was delivered.
    Never,
    /// Yes, after a pause of one's own.
    AfterPause,
    /// Yes, after as long as the server asks for.
    After(Duration),
}

/// What errors are told with.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    pub(crate) model: ModelId,
    pub(crate) address: String,
    pub(crate) cleaner: Cleaner,
    pub(crate) first_byte_limit: Duration,
    pub(crate) silence_limit: Duration,
}

impl Teller {
    pub(crate) fn tell(&self, error: genai::Error) -> Failure {
        use genai::Error as Genai;
        match error {
            Genai::WebStream { error, .. } => self.transport(error),
            Genai::HttpError { status, body, headers, .. } => {
                self.status(status.as_u16(), &headers, &body)
            }
            Genai::ChatResponse { body, .. } => self.event(&body),
            // The stream ended with it: what a cut leaves where the way to the server hides the cut.
            Genai::StreamParse { serde_error, .. } if serde_error.is_eof() => {
                self.broken_off("an event ends in its middle")
            }
            Genai::StreamParse { serde_error, .. } => {
                // serde's messages say what and where, and quote nothing.
                self.unreadable(&format!("an event is no JSON: {serde_error}"))
            }
            Genai::JsonValueExt(_) | Genai::SerdeJson(_) => {
                self.unreadable("an event lacks a field or has one of another type")
            }
            // What is left happens before the request is sent, in its making. Its texts may quote the
            // request.
            _ => self.unreadable("the request cannot be made"),
        }
    }

    /// The stream ended where it should have gone on.
    pub(crate) fn ended(&self) -> Failure {
        self.broken_off("the stream ended before the answer was complete")
    }

    pub(crate) fn unreadable(&self, reason: &str) -> Failure {
        let (model, reason) = (self.model.clone(), self.cleaner.text(reason));
        Failure { error: ModelError::Unreadable { model, reason }, again: Again::Never }
    }

    pub(crate) fn unreachable(&self, source: BoxedError) -> Failure {
        let (model, address) = (self.model.clone(), self.address.clone());
        let error = ModelError::Unreachable { model, address, source };
        Failure { error, again: Again::AfterPause }
    }

    pub(crate) fn broken_off(&self, reason: &str) -> Failure {
        let (model, reason) = (self.model.clone(), self.cleaner.text(reason));
        Failure { error: ModelError::BrokenOff { model, reason }, again: Again::Never }
    }

    fn transport(&self, error: BoxedError) -> Failure {
        let error = match error.downcast::<genai::Error>() {
            Ok(error) => return self.tell(*error),
            Err(error) => error,
        };
        let error = match error.downcast::<StreamTimeout>() {
            Ok(timeout) => {
                let reason = match *timeout {
                    StreamTimeout::Headers => {
                        format!("no reply within {:?}", self.first_byte_limit)
                    }
                    StreamTimeout::Read => format!("silent for {:?}", self.silence_limit),
                };
                return self.broken_off(&reason);
            }
            Err(error) => error,
        };
        match error.downcast::<reqwest::Error>() {
            // The address may hold what is nobody's business; it is told by its origin alone.
            Ok(error) => {
                let error = error.without_url();
                if error.is_builder() {
                    self.unreadable(&format!("the request cannot be made: {}", chain(&error)))
                } else if error.is_connect() || error.is_request() {
                    self.unreachable(Box::new(error))
                } else {
                    self.broken_off(&chain(&error))
                }
            }
            Err(_) => self.unreadable("the answer is not UTF-8"),
        }
    }

    fn status(&self, status: u16, headers: &HeaderMap, body: &str) -> Failure {
        let wait = retry_after(headers, SystemTime::now());
        self.refusal(status, wait, self.cleaner.body(body))
    }

    /// An error that came as an event of a stream, which has no status: the one that its type has
    /// where it comes as a reply.
    pub(crate) fn event(&self, body: &serde_json::Value) -> Failure {
        let field = |name: &str| {
            // Anthropic's has a type of its own around the error's.
            let places = [format!("/error/{name}"), format!("/{name}")];
            places.iter().find_map(|place| body.pointer(place)).cloned().unwrap_or_default()
        };
        let message = self.cleaner.value(body);
        let (kind, code) = (field("type"), field("code"));
        let status = match (kind.as_str().unwrap_or_default(), code.as_u64()) {
            (_, Some(code @ 400..=599)) => u16::try_from(code).unwrap_or(500),
            ("overloaded_error", _) => 529,
            ("rate_limit_error" | "rate_limit_exceeded" | "tokens", _) => 429,
            ("authentication_error", _) => 401,
            ("permission_error", _) => 403,
            ("not_found_error", _) => 404,
            ("invalid_request_error", _) => 400,
            ("api_error" | "server_error" | "timeout_error", _) => 500,
            _ => return self.broken_off(&format!("the server reports an error: {message}")),
        };
        self.refusal(status, None, message)
    }

    fn refusal(&self, status: u16, wait: Option<Duration>, message: String) -> Failure {
        let model = self.model.clone();
        match status {
            401 | 403 => {
                let error = ModelError::AccessRefused { model, status, message };
                Failure { error, again: Again::Never }
            }
            404 => {
                let error = ModelError::NoSuchModel { model, message };
                Failure { error, again: Again::Never }
            }
            408 | 429 | 500..=599 => {
                let again = wait.map_or(Again::AfterPause, Again::After);
                // How often it was tried is known where the attempts are counted.
                let error =
                    ModelError::Busy { model, status, attempts: 1, retry_after: wait, message };
                Failure { error, again }
            }
            _ => {
                let error = ModelError::Rejected { model, status, message };
                Failure { error, again: Again::Never }
            }
        }
    }
}

impl Failure {
    /// The failure of an answer of which a part was delivered: it is over, whatever the reason.
    pub(crate) fn midway(self) -> ModelError {
        match self.error {
            ModelError::Busy { model, message, .. } => ModelError::BrokenOff {
                model,
                reason: format!("the server reports an error: {message}"),
            },
            other => other,
        }
    }
}

/// How long a server asks to wait: seconds, or the date of the end of the wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse::<u64>().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = text("retry-after")?;
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            // A date that has passed asks for no wait.
            Some(date.duration_since(now).unwrap_or_default())
        }
    }
}

/// An error's message with those of its sources.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_wait_is_read_as_seconds_as_a_date_and_as_milliseconds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, expected) in [
            ("retry-after", "7", Some(Duration::from_secs(7))),
            ("retry-after", "0.25", Some(Duration::from_millis(250))),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(Duration::from_secs(10))),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("retry-after-ms", "30", Some(Duration::from_millis(30))),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "1e300", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers, now), expected, "{name}: {value}");
        }
    }
}
