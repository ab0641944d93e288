//! What a command is confined by right before it is executed: limits, capabilities, Landlock, the
//! filter of system calls. What the mounts hold already, Landlock holds a second time.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope as LandlockScope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};
use seccompiler::BpfProgram;

use super::seccomp;
use crate::layers::Layers;
use crate::spec::LimitsSpec;

/// The newest version whose rights are asked for; of an older kernel, what it has is enforced.
const LANDLOCK: ABI = ABI::V9;

/// For whom Landlock's domain is: processes of different domains can neither signal nor look into each
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Each command is in one of its own.
    Command,
    /// The whole session is in one, the calling process included.
    Session,
}

/// Made once a session, applied by every command.
pub(super) struct Confinement {
    layers: Layers,
    limits: LimitsSpec,
    /// Whether a group bounds the memory of all processes together; where none does, that of each is.
    memory_bounded: bool,
    ruleset: Option<RulesetCreated>,
    filters: Vec<BpfProgram>,
}

/// What may be written.
pub(super) struct Writable {
    /// Everything beneath these directories.
    pub(super) directories: Vec<PathBuf>,
    /// These files: devices.
    pub(super) files: Vec<PathBuf>,
}

impl Confinement {
    /// Makes what commands apply, and installs in this process what they inherit.
    pub(super) fn prepare(
        layers: Layers,
        scope: Scope,
        limits: LimitsSpec,
        memory_bounded: bool,
        writable: &Writable,
    ) -> Result<Self, (&'static str, io::Error)> {
        let mut ruleset = if layers.landlock && landlock_abi() > 0 {
            Some(ruleset(writable).map_err(|error| ("landlock", error))?)
        } else {
            None
        };
        let filters = if layers.seccomp {
            seccomp::of_command().map_err(|error| ("seccomp", error))?
        } else {
            Vec::new()
        };
        if layers.privileges && layers.namespaces {
            bound_capabilities().map_err(|error| ("capabilities", error))?;
        }
        if scope == Scope::Session
            && let Some(ruleset) = ruleset.take()
        {
            set_no_new_privs(true).map_err(|error| ("landlock", error.into()))?;
            let entered = ruleset.restrict_self().map_err(io::Error::other);
            entered.map_err(|error| ("landlock", error))?;
        }
        if layers.seccomp {
            let installed = seccomp::of_session().and_then(|filters| seccomp::install(&filters));
            installed.map_err(|error| ("seccomp", error))?;
        }
        Ok(Self { layers, limits, memory_bounded, ruleset, filters })
    }

    /// Confines this process and all that come from it, for good. What [`Confinement::prepare`] has
    /// done to the session's init is inherited.
    pub(super) fn apply(&self) -> io::Result<()> {
        if self.layers.limits {
            limit(&self.limits, self.memory_bounded)?;
        }
        if self.layers.privileges {
            if !self.layers.namespaces {
                bound_capabilities()?;
            }
            give_up_capabilities()?;
        }
        if self.layers.privileges || self.layers.landlock || self.layers.seccomp {
            set_no_new_privs(true)?;
        }
        if let Some(ruleset) = &self.ruleset {
            let ruleset = ruleset.try_clone()?;
            ruleset.restrict_self().map_err(io::Error::other)?;
        }
        seccomp::install(&self.filters)
    }
}

/// The version that the running kernel has; 0 for none (landlock_create_ruleset(2)).
pub(crate) fn landlock_abi() -> u32 {
    super::kernel::landlock_version()
}

fn ruleset(writable: &Writable) -> io::Result<RulesetCreated> {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::from_read(LANDLOCK);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.scope(LandlockScope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    rules = allow(rules, Path::new("/"), read)?;
    for directory in &writable.directories {
        rules = allow(rules, directory, all)?;
    }
    for file in &writable.files {
        rules = allow(rules, file, device)?;
    }
    Ok(rules)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: impl Into<BitFlags<AccessFs>>,
) -> io::Result<RulesetCreated> {
    let descriptor = PathFd::new(path).map_err(io::Error::other)?;
    rules.add_rule(PathBeneath::new(descriptor, access)).map_err(io::Error::other)
}

fn limit(limits: &LimitsSpec, memory_bounded: bool) -> io::Result<()> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    // A limit may be lowered only; where the host's is lower already, it stays.
    let lower = |resource, value: u64| {
        let maximum = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, both(value.min(maximum)))
    };
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, limits.open_files)?;
    lower(Resource::Nproc, limits.processes)?;
    if let Some(bytes) = limits.file_bytes {
        lower(Resource::Fsize, bytes)?;
    }
    if let (false, Some(bytes)) = (memory_bounded, limits.memory_bytes) {
        // Not the address space: several runtimes reserve much more of it than they use.
        lower(Resource::Data, bytes)?;
    }
    Ok(())
}

/// Makes sure that no exec brings a capability back, here and in all that come from here. What this
/// process holds itself, it keeps.
fn bound_capabilities() -> io::Result<()> {
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    for number in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Numbers that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            other => other?,
        }
    }
    clear_ambient_capability_set()?;
    Ok(())
}

/// Gives up every capability.
fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let left = rustix::thread::capabilities(None)?;
    if left.effective.is_empty() && left.permitted.is_empty() && left.inheritable.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other("capabilities are left"))
    }
}
