//! Which of the sandbox's layers are on: all of them, except in a build that tests what each of them
//! holds by itself.
//!
//! Without the feature `switchable-layers` there is only [`Layers::ALL`], and nothing in this crate
//! can make another value; a release build refuses the feature.

#[cfg(all(feature = "switchable-layers", not(debug_assertions)))]
compile_error!("a release build cannot have layers that are switched off");

/// One layer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "switchable-layers", derive(serde::Serialize, serde::Deserialize))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the test matrix")]
pub struct Layers {
    pub(crate) namespaces: bool,
    pub(crate) mounts: bool,
    pub(crate) privileges: bool,
    pub(crate) landlock: bool,
    pub(crate) seccomp: bool,
    pub(crate) limits: bool,
}

impl Layers {
    /// Everything that there is.
    pub const ALL: Self = Self {
        namespaces: true,
        mounts: true,
        privileges: true,
        landlock: true,
        seccomp: true,
        limits: true,
    };
}

impl Default for Layers {
    fn default() -> Self {
        Self::ALL
    }
}

#[cfg(feature = "switchable-layers")]
impl Layers {
    /// Nothing: a command is a process of the host. For positive controls only.
    pub const NONE: Self = Self {
        namespaces: false,
        mounts: false,
        privileges: false,
        landlock: false,
        seccomp: false,
        limits: false,
    };

    /// All but the view of the file system: the host's own is seen.
    #[must_use]
    pub const fn without_mounts(mut self) -> Self {
        self.mounts = false;
        self
    }

    /// All but Landlock.
    #[must_use]
    pub const fn without_landlock(mut self) -> Self {
        self.landlock = false;
        self
    }

    /// All but the filter of system calls.
    #[must_use]
    pub const fn without_seccomp(mut self) -> Self {
        self.seccomp = false;
        self
    }

    /// All but the giving up of capabilities and what goes with it.
    #[must_use]
    pub const fn without_privileges(mut self) -> Self {
        self.privileges = false;
        self
    }

    /// All but the limits.
    #[must_use]
    pub const fn without_limits(mut self) -> Self {
        self.limits = false;
        self
    }

    /// Landlock and nothing else.
    #[must_use]
    pub const fn landlock_alone() -> Self {
        let mut layers = Self::NONE;
        layers.landlock = true;
        layers
    }
}
