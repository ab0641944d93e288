//! What a failed step of the setting up means, and what to do about it.

use std::io;
use std::path::Path;

use forge_domain::{EnvironmentError, EnvironmentKind};

use crate::config::SessionMedium;
use crate::session::StartError;
use crate::spec::SetupStage;

/// The ways out that every refusal ends with.
const ALTERNATIVES: &str =
    "or run in a microVM (--tensorlake KEY), or on this machine without isolation (--local)";

/// The first kernel with everything that a session is made with.
pub(crate) const OLDEST_KERNEL: (u32, u32) = (5, 13);

/// Turns a failed start into the error that the user sees: what failed, why as far as it can be known,
/// and the remedy.
pub(crate) fn explain(error: StartError, medium: SessionMedium) -> EnvironmentError {
    let reason = match &error {
        StartError::NoHelper => "the embedding program has not set it up".to_owned(),
        StartError::Spawn(_) => "its helper process cannot be started".to_owned(),
        StartError::Silent(_) => "its helper process ended without an answer".to_owned(),
        StartError::Setup(failure, source) => {
            let cause = match Cause::of(failure.stage, source, &Machine::read()) {
                // Memory can hold a layer, so it is not that.
                Cause::FileSystem if medium == SessionMedium::Memory => Cause::WorkspaceFileSystem,
                cause => cause,
            };
            format!("{}; {ALTERNATIVES}", cause.remedy())
        }
    };
    EnvironmentError::Unavailable {
        environment: EnvironmentKind::Sandbox,
        reason,
        source: Some(Box::new(error)),
    }
}

/// Why the kernel refuses what a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The kernel is too old.
    OldKernel,
    /// AppArmor lets only confined programs make user namespaces (Ubuntu since 23.10).
    AppArmor,
    /// The distribution's switch for user namespaces is off.
    UserNamespacesOff,
    /// There may be no more of them.
    UserNamespaceLimit,
    /// This is a container whose own filter or masks are in the way.
    Container,
    /// The state directory's file system cannot hold the upper layer of an overlay.
    FileSystem,
    /// The workspace's file system cannot be the lower layer of an overlay.
    WorkspaceFileSystem,
    /// None of these.
    Unknown,
}

/// What is known about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) kernel: Option<(u32, u32)>,
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub(crate) apparmor_restricts: bool,
    /// `kernel.unprivileged_userns_clone`, where the kernel has it, is 0.
    pub(crate) clone_switch_off: bool,
    /// `user.max_user_namespaces` is 0.
    pub(crate) no_user_namespaces: bool,
    pub(crate) is_container: bool,
    pub(crate) is_root: bool,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let setting = |path: &str| {
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok())
        };
        Self {
            kernel: crate::helper::kernel_version(),
            apparmor_restricts: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
                == Some(1),
            clone_switch_off: setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            no_user_namespaces: setting("/proc/sys/user/max_user_namespaces") == Some(0),
            is_container: ["/.dockerenv", "/run/.containerenv"]
                .iter()
                .any(|path| Path::new(path).exists()),
            is_root: rustix::process::geteuid().is_root(),
        }
    }
}

impl Cause {
    pub(crate) fn of(stage: SetupStage, error: &io::Error, machine: &Machine) -> Self {
        let errno = error.raw_os_error();
        if machine.kernel.is_some_and(|kernel| kernel < OLDEST_KERNEL)
            || errno == Some(libc::ENOSYS)
        {
            return if machine.kernel.is_some_and(|kernel| kernel >= OLDEST_KERNEL) {
                // A filter answers so for what it does not know.
                Self::Container
            } else {
                Self::OldKernel
            };
        }
        match stage {
            SetupStage::Namespaces if machine.clone_switch_off && !machine.is_root => {
                Self::UserNamespacesOff
            }
            SetupStage::Namespaces if machine.no_user_namespaces => Self::UserNamespaceLimit,
            SetupStage::Namespaces if errno == Some(libc::ENOSPC) => Self::UserNamespaceLimit,
            SetupStage::Overlay if errno == Some(libc::EINVAL) => Self::FileSystem,
            SetupStage::Namespaces
            | SetupStage::IdMaps
            | SetupStage::Mounts
            | SetupStage::Proc
            | SetupStage::Overlay
                if matches!(errno, Some(libc::EPERM | libc::EACCES)) =>
            {
                if machine.is_container {
                    Self::Container
                } else if machine.apparmor_restricts {
                    Self::AppArmor
                } else if stage == SetupStage::Proc {
                    Self::Container
                } else {
                    Self::Unknown
                }
            }
            SetupStage::Helper
            | SetupStage::Namespaces
            | SetupStage::IdMaps
            | SetupStage::Mounts
            | SetupStage::Proc
            | SetupStage::Overlay
            | SetupStage::Landlock
            | SetupStage::Seccomp => Self::Unknown,
        }
    }

    /// What to do, as the second half of a sentence.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::OldKernel => "this kernel is too old, 5.13 is the oldest that works",
            Self::AppArmor => {
                "AppArmor keeps programs without a profile from using user namespaces: \
                 `sudo forge doctor --fix` writes one for forge after showing it"
            }
            Self::UserNamespacesOff => {
                "user namespaces are switched off: \
                 `sudo sysctl -w kernel.unprivileged_userns_clone=1` switches them on"
            }
            Self::UserNamespaceLimit => {
                "no more user namespaces are allowed: \
                 `sudo sysctl -w user.max_user_namespaces=15000` allows them"
            }
            Self::Container => {
                "this looks like a container that does not allow it: start the container with \
                 --security-opt seccomp=unconfined --security-opt systempaths=unconfined (and \
                 --security-opt apparmor=unconfined where AppArmor is used)"
            }
            Self::FileSystem => {
                "the file system of the state directory cannot hold what a session writes: name a \
                 directory on another one with FORGE_STATE_DIR"
            }
            Self::WorkspaceFileSystem => {
                "the file system of the workspace cannot be shown through an overlay: work in a copy \
                 of the project on another one"
            }
            Self::Unknown => "`forge doctor` shows what this machine allows",
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn cause(stage: SetupStage, errno: i32, machine: Machine) -> Cause {
        let kernel = machine.kernel.or(Some((6, 8)));
        Cause::of(stage, &io::Error::from_raw_os_error(errno), &Machine { kernel, ..machine })
    }

    #[test]
    fn each_refusal_has_its_cause() {
        let plain = Machine::default;
        let ubuntu = || Machine { apparmor_restricts: true, ..Machine::default() };
        let docker = || Machine { is_container: true, ..ubuntu() };
        let debian = Machine { clone_switch_off: true, ..Machine::default() };
        let old = Machine { kernel: Some((4, 18)), ..Machine::default() };
        assert_eq!(cause(SetupStage::Mounts, libc::EPERM, ubuntu()), Cause::AppArmor);
        assert_eq!(cause(SetupStage::IdMaps, libc::EPERM, ubuntu()), Cause::AppArmor);
        assert_eq!(cause(SetupStage::Namespaces, libc::EPERM, docker()), Cause::Container);
        assert_eq!(cause(SetupStage::Proc, libc::EPERM, plain()), Cause::Container);
        assert_eq!(cause(SetupStage::Namespaces, libc::EPERM, debian), Cause::UserNamespacesOff);
        assert_eq!(cause(SetupStage::Namespaces, libc::ENOSPC, plain()), Cause::UserNamespaceLimit);
        assert_eq!(cause(SetupStage::Overlay, libc::EINVAL, plain()), Cause::FileSystem);
        assert_eq!(cause(SetupStage::Mounts, libc::ENOSYS, old), Cause::OldKernel);
        assert_eq!(cause(SetupStage::Mounts, libc::ENOSYS, plain()), Cause::Container);
        assert_eq!(cause(SetupStage::Helper, libc::ENOMEM, plain()), Cause::Unknown);
    }
}
