//! What was asked.

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::request;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The headers, names in lower case. Of those that carry keys only the name is kept.
    pub headers: Vec<(String, String)>,
    /// The body; null where it was no JSON.
    pub body: Value,
}

/// How the tools' results stand against the calls that asked for them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the calls were {calls:?} and the results came for {results:?}")]
pub struct ToolResultOrderError {
    /// The ids of the calls, in order.
    pub calls: Vec<String>,
    /// The ids that results came for, in order.
    pub results: Vec<String>,
}

impl RecordedRequest {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The texts of the tools' results in the conversation, in order.
    #[must_use]
    pub fn tool_results(&self) -> Vec<String> {
        request::tool_results(&self.body).into_iter().map(|(_, text)| text).collect()
    }

    /// The texts of the tools' results, after it is sure that each call has exactly one result and
    /// that the results come in the order of the calls.
    ///
    /// # Errors
    /// [`ToolResultOrderError`] where that is not so.
    pub fn ordered_tool_results(&self) -> Result<Vec<String>, ToolResultOrderError> {
        let calls = request::call_ids(&self.body);
        let (results, texts): (Vec<_>, Vec<_>) =
            request::tool_results(&self.body).into_iter().unzip();
        // Ollama's format names no calls in results: there the number must do.
        let unnamed = results.iter().all(String::is_empty);
        if calls == results || (unnamed && calls.len() == results.len()) {
            Ok(texts)
        } else {
            Err(ToolResultOrderError { calls, results })
        }
    }
}
