//! The shapes of requests and answers. Nothing but shape: unknown fields are ignored, and what a server may
//! leave out is optional.

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

/// A sandbox, in the answers of create (`sandbox_id`) and get (`id`).
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SandboxResponse {
    #[serde(alias = "sandbox_id")]
    pub(crate) id: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) sandbox_url: Option<String>,
    pub(crate) routing_hint: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) termination_reason: Option<String>,
    pub(crate) error_details: Option<serde_json::Value>,
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
