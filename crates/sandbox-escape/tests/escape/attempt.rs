//! The table's row: one attempt, what it is about, and where it has to be held.

use forge_infra_sandbox::Layers;

use crate::stage::Stage;
use crate::trial::Trial;

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// The rows of the escape list; "own" for one that it does not have.
    pub(crate) rows: &'static str,
    pub(crate) stage: fn(&mut Stage) -> Trial,
    pub(crate) control: Control,
    pub(crate) rights: Rights,
    pub(crate) word: Word,
    pub(crate) weight: Weight,
    /// Columns besides "all layers" where it has to be held as well.
    pub(crate) second_locks: &'static [Column],
    /// Says what the host lacks, without which the control cannot succeed.
    pub(crate) lack: fn() -> Option<&'static str>,
}

impl Attempt {
    pub(crate) fn new(
        name: &'static str,
        rows: &'static str,
        stage: fn(&mut Stage) -> Trial,
    ) -> Self {
        Self {
            name,
            rows,
            stage,
            control: Control::Layers(Layers::NONE),
            rights: Rights::Anyone,
            word: Word::Counts,
            weight: Weight::Light,
            second_locks: &[],
            lack: || None,
        }
    }

    pub(crate) fn control(self, layers: Layers) -> Self {
        Self { control: Control::Layers(layers), ..self }
    }

    /// The control is a plain child of the test.
    pub(crate) fn control_bare(self) -> Self {
        Self { control: Control::Bare, ..self }
    }

    pub(crate) fn root_only(self) -> Self {
        Self { rights: Rights::Root, ..self }
    }

    pub(crate) fn user_only(self) -> Self {
        Self { rights: Rights::User, ..self }
    }

    /// What it does is allowed inside; only what the host sees counts.
    pub(crate) fn allowed_inside(self) -> Self {
        Self { word: Word::IsNothing, ..self }
    }

    pub(crate) fn heavy(self) -> Self {
        Self { weight: Weight::Heavy, ..self }
    }

    /// Writes to the host hold by mounts alone and by Landlock alone.
    pub(crate) fn two_locks(self) -> Self {
        Self { second_locks: &[Column::WithoutLandlock, Column::LandlockAlone], ..self }
    }

    /// It holds by mounts alone.
    pub(crate) fn holds_without_landlock(self) -> Self {
        Self { second_locks: &[Column::WithoutLandlock], ..self }
    }

    pub(crate) fn unless(self, lack: fn() -> Option<&'static str>) -> Self {
        Self { lack, ..self }
    }

    /// Why it cannot be made here.
    pub(crate) fn hindrance(&self) -> Option<&'static str> {
        match (self.rights, rustix::process::geteuid().is_root()) {
            (Rights::Root, false) => Some("needs root"),
            (Rights::User, true) => Some("needs an ordinary user"),
            _ => (self.lack)(),
        }
    }
}

/// With what switched off the attempt has to succeed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    Layers(Layers),
    Bare,
}

/// Who can make an attempt that would succeed without the sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rights {
    Anyone,
    Root,
    User,
}

/// Whether the attempt's own claim of success is enough for it not to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Counts,
    IsNothing,
}

/// Heavy ones run one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Light,
    Heavy,
}

/// One column of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    AllLayers,
    WithoutMounts,
    WithoutLandlock,
    WithoutSeccomp,
    LandlockAlone,
    Control,
    /// All layers, of which it is known that they do not hold it.
    Gap,
}

impl Column {
    /// Those of the matrix.
    pub(crate) const ALL: [Self; 6] = [
        Self::AllLayers,
        Self::WithoutMounts,
        Self::WithoutLandlock,
        Self::WithoutSeccomp,
        Self::LandlockAlone,
        Self::Control,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllLayers => "all_layers",
            Self::WithoutMounts => "without_mounts",
            Self::WithoutLandlock => "without_landlock",
            Self::WithoutSeccomp => "without_seccomp",
            Self::LandlockAlone => "landlock_alone",
            Self::Control => "control",
            Self::Gap => "known_gap",
        }
    }

    /// The layers that are on; `None` where there is no sandbox at all.
    pub(crate) fn layers(self, control: Control) -> Option<Layers> {
        match (self, control) {
            (Self::AllLayers | Self::Gap, _) => Some(Layers::ALL),
            (Self::WithoutMounts, _) => Some(Layers::ALL.without_mounts()),
            (Self::WithoutLandlock, _) => Some(Layers::ALL.without_landlock()),
            (Self::WithoutSeccomp, _) => Some(Layers::ALL.without_seccomp()),
            (Self::LandlockAlone, _) => Some(Layers::landlock_alone()),
            (Self::Control, Control::Layers(layers)) => Some(layers),
            (Self::Control, Control::Bare) => None,
        }
    }
}
