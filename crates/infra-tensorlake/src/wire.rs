//! The shapes of requests and answers. Nothing but shape: unknown fields are ignored, and what a server may
//! leave out is optional.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize)]
pub(crate) struct CreateSandboxRequest<'a> {
    pub(crate) resources: WireResources,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    pub(crate) timeout_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<WireNetwork>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WireResources {
    pub(crate) cpus: f64,
    pub(crate) memory_mb: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_mb: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WireNetwork {
    pub(crate) allow_internet_access: bool,
}

/// A sandbox, in the answers of create (`sandbox_id`) and get (`id`); a server may give both in each.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SandboxResponse {
    pub(crate) sandbox_id: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) sandbox_url: Option<String>,
    pub(crate) routing_hint: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) termination_reason: Option<String>,
    pub(crate) error_details: Option<serde_json::Value>,
}

impl SandboxResponse {
    pub(crate) fn own_id(&self) -> Option<String> {
        self.sandbox_id.clone().or_else(|| self.id.clone())
    }
}

/// The status of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SandboxStatus {
    Pending,
    Running,
    Suspended,
    Failed,
    Terminated,
    /// On its way between the others; to be asked again.
    Changing,
    Unknown(String),
}

impl SandboxStatus {
    pub(crate) fn of(text: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        match text.to_ascii_lowercase().as_str() {
            // A create that took too long stays in the queue.
            "pending" | "timeout" => Self::Pending,
            "running" => Self::Running,
            "suspended" => Self::Suspended,
            "failed" => Self::Failed,
            "terminated" => Self::Terminated,
            "snapshotting" | "suspending" => Self::Changing,
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ErrorResponse {
    pub(crate) error: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) code: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HealthResponse {
    pub(crate) healthy: bool,
}

/// `POST /api/v1/processes` and `POST /api/v1/processes/run`.
#[derive(Debug, Serialize)]
pub(crate) struct StartProcessRequest<'a> {
    pub(crate) command: &'a str,
    pub(crate) args: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Only `/processes` knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdin_mode: Option<&'a str>,
    /// Seconds; only `/processes/run` knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'a str>,
}

/// `POST /api/v1/pty`.
#[derive(Debug, Serialize)]
pub(crate) struct StartTerminalRequest<'a> {
    pub(crate) command: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

/// A terminal, as starting one answers.
#[derive(Deserialize)]
pub(crate) struct StartTerminalResponse {
    pub(crate) session_id: String,
    /// Lets whoever has it type. Not to be shown, so the type has no `Debug`.
    pub(crate) token: String,
}

/// A terminal, as asking for one answers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TerminalResponse {
    pub(crate) exit_code: Option<i64>,
}

/// A process, as starting one and asking for one answer.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ProcessResponse {
    pub(crate) pid: Option<u64>,
    pub(crate) status: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: Option<bool>,
    pub(crate) reason: Option<String>,
}

/// The lines of one stream so far.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct LinesResponse {
    #[serde(default)]
    pub(crate) lines: Vec<String>,
}

/// The data of one event of a stream, of whatever kind: they are told apart by what is there.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamEvent {
    pub(crate) pid: Option<u64>,
    pub(crate) line: Option<String>,
    pub(crate) stream: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: Option<bool>,
    pub(crate) reason: Option<String>,
}
