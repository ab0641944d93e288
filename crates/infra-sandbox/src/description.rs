//! What the sandbox says of itself.

use forge_domain::{
    Capabilities, ChangeTracking, Description, EnvironmentKind, Limit, Network, Persistence,
};

use crate::config::{AddedAccess, SandboxConfig, SandboxView, SessionMedium};
use crate::helper;
use crate::plan::{HOME, scratch_bytes};
use crate::secrets::HiddenPaths;
use crate::spec::SessionFacts;

/// So many hidden paths are named to the model; of more, the number.
const NAMED_HIDDEN_PATHS: usize = 20;

/// Describes a session that stands.
pub(crate) fn describe(
    config: &SandboxConfig,
    facts: SessionFacts,
    hidden: &HiddenPaths,
    medium: SessionMedium,
) -> Description {
    let system = rustix::system::uname();
    let operating_system =
        [system.sysname(), system.release(), system.machine()].map(|part| part.to_string_lossy());
    let root = rustix::process::geteuid().is_root();
    Description {
        kind: EnvironmentKind::Sandbox,
        operating_system: operating_system.join(" "),
        shell: config.shell.clone(),
        user: Some(if root { "root" } else { "forge" }.to_owned()),
        workspace: config.workspace.root.clone(),
        working_directory: config.workspace.working_directory.clone(),
        scratch: helper::SCRATCH.into(),
        persistence: Persistence::Session,
        network: config.network,
        limits: limits(config, facts, medium),
        remarks: remarks(config, hidden),
        capabilities: Capabilities {
            change_tracking: match config.view {
                SandboxView::Workspace => ChangeTracking::Tracked,
                SandboxView::WholeRoot => ChangeTracking::Untracked,
            },
            streams_exact_bytes: true,
            finds_detached_children: true,
        },
    }
}

/// The limits that hold, no others.
fn limits(config: &SandboxConfig, facts: SessionFacts, medium: SessionMedium) -> Vec<Limit> {
    let mut limits = Vec::new();
    let wanted = &config.limits;
    if !config.layers.limits {
        return limits;
    }
    if facts.processes_bounded {
        limits.push(Limit::Processes(wanted.processes));
    }
    match (facts.memory_bounded, wanted.memory_bytes) {
        (true, Some(bytes)) => limits.push(Limit::MemoryBytes(bytes)),
        (false, Some(bytes)) => limits.push(Limit::ProcessMemoryBytes(bytes)),
        (_, None) => {}
    }
    if let (true, Some(cpus)) = (facts.cpus_bounded, wanted.milli_cpus) {
        limits.push(Limit::MilliCpus(cpus));
    }
    if let Some(bytes) = wanted.file_bytes {
        limits.push(Limit::FileBytes(bytes));
    }
    limits.push(Limit::DiskBytes(match medium {
        SessionMedium::Disk => wanted.disk_bytes,
        SessionMedium::Memory => scratch_bytes(config).min(wanted.disk_bytes),
    }));
    limits.push(Limit::OpenFiles(wanted.open_files));
    limits
}

fn remarks(config: &SandboxConfig, hidden: &HiddenPaths) -> Vec<String> {
    let mut remarks = match config.view {
        SandboxView::Workspace => vec![
            "Commands run in a sandbox on the user's machine. What they write in the workspace is \
             kept apart as a set of changes that the user reviews; nothing else of what they write \
             is kept."
                .to_owned(),
            format!(
                "System directories are read-only. The home directory ({HOME}), /tmp and /dev/shm \
                 are writable, in memory, and last as long as this session is open."
            ),
        ],
        SandboxView::WholeRoot => vec![
            "Commands run in a sandbox on the user's machine. They can write everywhere, as far as \
             a file's owner and mode let them; all of it is kept with this session and none of it \
             changes the machine."
                .to_owned(),
        ],
    };
    remarks.extend([
        "Each command has process ids of its own: another command's processes, background commands \
         included, are not seen and cannot be signalled by it."
            .to_owned(),
        "A directory that was there from the beginning cannot be renamed with rename(2) \
         alone (EXDEV); mv copies it instead and works."
            .to_owned(),
    ]);
    if config.network == Network::None {
        remarks.push(
            "There is no network but this sandbox's own loopback: downloads fail, servers on \
             127.0.0.1 work. The user can allow the network with --network full."
                .to_owned(),
        );
    }
    let count = hidden.files.len() + hidden.directories.len();
    if count > 0 {
        let paths = hidden.files.iter().chain(&hidden.directories).take(NAMED_HIDDEN_PATHS);
        let named: Vec<String> =
            paths.map(|path| format!("{:?}", path.display().to_string())).collect();
        let more = match count.saturating_sub(NAMED_HIDDEN_PATHS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        remarks.push(format!(
            "These files of the project hold secrets, exist, and cannot be opened: {}{more}. The user \
             can show one with --include PATH.",
            named.join(", ")
        ));
    }
    for added in &config.added {
        let what = match added.access {
            AddedAccess::ReadOnly => "can be read",
            AddedAccess::ReadWrite => "is the user's own and is changed at once, without review",
        };
        remarks.push(format!("{} is there as well; it {what}.", added.source.display()));
    }
    remarks
}
