//! What the server is made from.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use derive_setters::Setters;
use forge_infra_sandbox::SandboxConfig;

use crate::key::ApiKey;

/// How a [`Server`](crate::Server) is started.
#[derive(Debug, Clone, Setters)]
#[setters(into)]
pub struct ServerConfig {
    /// Where sandboxes are kept while they live: a directory that no other server uses, made with mode
    /// 0700 if it is not there. What a server that was killed has left in it is removed at the start.
    #[setters(skip)]
    pub state_directory: PathBuf,
    /// What every request has to carry.
    #[setters(skip)]
    pub key: ApiKey,
    /// Where to listen; port 0 is a free one. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// What all sandboxes have in common: the helper, where toolchains are. View, network, limits and
    /// place are set for each. Default: the system's directories alone, and this program as the helper.
    pub sandbox: SandboxConfig,
    /// Whether `processes/run` is there. Default: [`RunRoute::Present`].
    pub run: RunRoute,
    /// How large a file may be that is uploaded. Default: 4 GiB.
    pub max_file_bytes: u64,
    /// How large the body of any other request may be. Default: 8 MiB.
    pub max_body_bytes: usize,
    /// How much of each process's output is kept, at least. Default: 256 MiB, in a file without a name.
    pub kept_output_bytes: u64,
    /// How many connections there may be at the same time, sockets of terminals included. One more is answered
    /// with 503. Default: 1024.
    pub max_connections: usize,
    /// How long a connection may take from its opening, or from the answer before, to the end of a request's
    /// header; one that idles is closed then as well. Default: 120 s, since clients keep idle ones for 90.
    pub header_limit: Duration,
    /// How long the body of a request may come to a halt before the request is given up. Default: 60 s.
    pub stall_limit: Duration,
    /// How often the client of a terminal is asked whether it is there. Default: 5 s, since the vendor's own
    /// gives up where nothing comes for 10.
    pub ping_interval: Duration,
    /// How long such a client may give no sign of itself, answers included, before it counts as gone. Default:
    /// 90 s.
    pub silence_limit: Duration,
    /// How long a command on a terminal may be without a client before it is ended. Default: 300 s.
    pub alone_limit: Duration,
}

/// Whether a server has the route that starts a process and answers with its output and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunRoute {
    /// It has.
    #[default]
    Present,
    /// It has not, as the open-source daemon of the interface: for clients that want to be tried without it.
    Missing,
}

const MIB: u64 = 1024 * 1024;

impl ServerConfig {
    /// Everything default but the directory and the key.
    #[must_use]
    pub fn new(state_directory: impl Into<PathBuf>, key: ApiKey) -> Self {
        let state_directory = state_directory.into();
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            sandbox: SandboxConfig::new(&state_directory),
            state_directory,
            key,
            run: RunRoute::Present,
            max_file_bytes: 4096 * MIB,
            max_body_bytes: 8 * 1024 * 1024,
            kept_output_bytes: 256 * MIB,
            max_connections: 1024,
            header_limit: Duration::from_secs(120),
            stall_limit: Duration::from_secs(60),
            ping_interval: Duration::from_secs(5),
            silence_limit: Duration::from_secs(90),
            alone_limit: Duration::from_secs(300),
        }
    }
}
