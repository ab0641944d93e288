//! The shapes of requests and answers, and nothing but shape. Fields that are not known are ignored.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    millis(SystemTime::now())
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `POST sandboxes`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct CreateSandboxRequest {
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) resources: Option<ResourcesRequest>,
    pub(crate) timeout_secs: Option<u64>,
    pub(crate) network: Option<Network>,
    pub(crate) auto_resume: Option<bool>,
    pub(crate) wait: Option<bool>,
    // What is not there, and is said not to be.
    pub(crate) snapshot_id: Option<String>,
    pub(crate) file_systems: Option<Vec<Value>>,
    pub(crate) exposed_ports: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ResourcesRequest {
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_mb: Option<u64>,
    pub(crate) disk_mb: Option<u64>,
    pub(crate) gpus: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    #[serde(default = "yes")]
    pub(crate) allow_internet_access: bool,
    #[serde(default)]
    pub(crate) allow_out: Vec<String>,
    #[serde(default)]
    pub(crate) deny_out: Vec<String>,
}

fn yes() -> bool {
    true
}

/// `PATCH sandboxes/{id}`. What is there is to be changed, a null included.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct UpdateSandboxRequest {
    pub(crate) name: Option<String>,
    pub(crate) auto_resume: Option<bool>,
    #[serde(flatten)]
    pub(crate) others: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Resources {
    pub(crate) cpus: f64,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: u64,
}

/// The answer to a create, which calls the id by another name. Official clients take both for one, and
/// refuse an answer with both.
#[derive(Debug, Serialize)]
pub(crate) struct CreateSandboxResponse {
    pub(crate) sandbox_id: String,
    #[serde(flatten)]
    pub(crate) facts: SandboxFacts,
}

/// A sandbox, in every other answer.
#[derive(Debug, Serialize)]
pub(crate) struct SandboxResponse {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) facts: SandboxFacts,
}

#[derive(Debug, Serialize)]
pub(crate) struct SandboxFacts {
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pending_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) resources: Resources,
    pub(crate) timeout_secs: u64,
    pub(crate) network: Network,
    pub(crate) auto_resume: bool,
    pub(crate) allow_unauthenticated_access: bool,
    pub(crate) created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terminated_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) termination_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_details: Option<String>,
    pub(crate) sandbox_url: String,
}

/// `POST /api/v1/processes` and `POST /api/v1/processes/run`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StartProcessRequest {
    pub(crate) command: String,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<BTreeMap<String, String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stdin_mode: Option<StdinMode>,
    pub(crate) stdout_mode: Option<OutputMode>,
    pub(crate) stderr_mode: Option<OutputMode>,
    /// Seconds.
    pub(crate) timeout: Option<f64>,
    pub(crate) user: Option<UserRequest>,
    // What is not there, and is said not to be.
    pub(crate) name: Option<Value>,
    pub(crate) restart: Option<Value>,
    pub(crate) health_check: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StdinMode {
    Closed,
    Pipe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputMode {
    Capture,
    Discard,
}

/// Whom a process is to run as. No person writes this by hand.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum UserRequest {
    Text(String),
    Spec { name: Option<String>, uid: Option<u32>, gid: Option<u32> },
}

#[derive(Debug, Serialize)]
pub(crate) struct ProcessResponse<'a> {
    pub(crate) pid: u32,
    pub(crate) handle: u32,
    pub(crate) status: &'static str,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) stdin_writable: bool,
    pub(crate) command: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) started_at: u64,
    pub(crate) ended_at: Option<u64>,
}

/// `POST /api/v1/pty`.
#[derive(Debug, Deserialize)]
pub(crate) struct StartTerminalRequest {
    pub(crate) command: String,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<BTreeMap<String, String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<UserRequest>,
    pub(crate) rows: Option<u16>,
    pub(crate) cols: Option<u16>,
}

/// `POST /api/v1/pty/{id}/resize`.
#[derive(Debug, Deserialize)]
pub(crate) struct ResizeRequest {
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

#[derive(Debug, Serialize)]
pub(crate) struct TerminalResponse<'a> {
    pub(crate) session_id: &'a str,
    pub(crate) pid: u32,
    pub(crate) command: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) rows: u16,
    pub(crate) cols: u16,
    pub(crate) created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    pub(crate) is_alive: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignalRequest {
    pub(crate) signal: i32,
}

/// The data of an event with a line.
#[derive(Debug, Serialize)]
pub(crate) struct LineEvent<'a> {
    pub(crate) line: &'a str,
    pub(crate) timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<&'static str>,
}

/// The last event of a run.
#[derive(Debug, Serialize)]
pub(crate) struct ExitEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<i32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) oom_killed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EntryResponse {
    pub(crate) name: String,
    pub(crate) is_dir: bool,
    pub(crate) size: Option<u64>,
    pub(crate) modified_at: Option<u64>,
}
