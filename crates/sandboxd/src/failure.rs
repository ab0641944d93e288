//! Refusals, as JSON with a text for a person and a code for a program.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use forge_domain::{CommandError, EnvironmentError, FileError};
use serde_json::json;

/// What a request is answered with that is not done.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: &'static str,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into() }
    }

    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", text)
    }

    /// For what the interface has and this server has not.
    pub(crate) fn unsupported(what: &str) -> Self {
        let text = format!("{what} is not supported by this server");
        Self::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", text)
    }

    pub(crate) fn too_large(what: &str, limit: u64) -> Self {
        let text = format!("{what} is larger than the {limit} bytes that this server takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", text)
    }

    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", chain(error))
    }
}

/// An error with what it comes from, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.text, "code": self.code}))).into_response()
    }
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        let status = match &error {
            // It was terminated between the look at it and this.
            EnvironmentError::Closed { .. } => {
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "SANDBOX_NOT_RUNNING",
                    "the sandbox is terminated",
                );
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, "INTERNAL_ERROR", chain(&error))
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let text = chain(&error);
        match error {
            CommandError::Environment(error) => error.into(),
            CommandError::NotFound { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "COMMAND_NOT_FOUND", text)
            }
            CommandError::NotExecutable { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "COMMAND_NOT_EXECUTABLE", text)
            }
            CommandError::WorkingDirectory { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "BAD_WORKING_DIR", text)
            }
            CommandError::Invalid { .. } => Self::bad(text),
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let text = chain(&error);
        let (status, code) = match error {
            FileError::Environment(error) => return error.into(),
            FileError::NotFound { .. } => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            FileError::IsDirectory { .. } => (StatusCode::BAD_REQUEST, "IS_DIRECTORY"),
            FileError::NotDirectory { .. } => (StatusCode::BAD_REQUEST, "NOT_A_DIRECTORY"),
            FileError::Special { .. } => (StatusCode::BAD_REQUEST, "NOT_A_FILE"),
            FileError::InvalidPath { .. } => (StatusCode::BAD_REQUEST, "INVALID_PATH"),
            FileError::AlreadyExists { .. } | FileError::NotEmpty { .. } => {
                (StatusCode::CONFLICT, "CONFLICT")
            }
            FileError::Outside { .. } => (StatusCode::FORBIDDEN, "PATH_TRAVERSAL"),
            FileError::PermissionDenied { .. } => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
            FileError::NoSpace { .. } => (StatusCode::INSUFFICIENT_STORAGE, "NO_SPACE"),
            FileError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        };
        Self::new(status, code, text)
    }
}
