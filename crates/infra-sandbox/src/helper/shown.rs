//! What of the host is shown in a session.
//!
//! It is taken hold of by descriptor while the host's own root is still there, and made into mounts
//! that are attached nowhere yet.
//!
//! A read-only mount keeps nobody from writing into a named pipe, from connecting to a socket, and
//! from locking a file. In an overlay these three are objects of its own, not the host's, so what is
//! shown [apart](Access::Apart) is an overlay without an upper layer.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, open};

use super::confine::Writable;
use super::mounts::{self, NO_DEVICES, NO_SETUID, READ_ONLY};
use super::root::{Step, during};
use crate::archive::unpack;
use crate::spec::{Access, Keeping, SetupStage, Shown, Upper};

/// A mount that is held and not attached yet.
pub(super) struct Held {
    pub(super) mount: OwnedFd,
    pub(super) target: PathBuf,
    pub(super) is_directory: bool,
}

/// What is held of the host and is no mount yet, or one.
pub(super) enum Taken {
    Ready(Held),
    Apart(OwnedFd, PathBuf),
    Layer(Layer),
}

/// Takes hold of everything that is shown. To be called before anything is mounted over it.
pub(super) fn take(shown: &[Shown]) -> Step<Vec<Taken>> {
    shown.iter().map(take_one).collect()
}

fn take_one(shown: &Shown) -> Step<Taken> {
    let path = shown.path.as_path();
    let attributes = match &shown.access {
        Access::ReadOnly => NO_SETUID | NO_DEVICES | READ_ONLY,
        Access::ReadWrite => NO_SETUID | NO_DEVICES,
        Access::Apart => {
            let directory = during(SetupStage::Mounts, taking(path), open_directory(path))?;
            return Ok(Taken::Apart(directory, path.to_path_buf()));
        }
        Access::Layered(upper) => {
            return Ok(Taken::Layer(Layer::open(path, upper, SetupStage::Mounts)?));
        }
    };
    let mount = mounts::copy_of(path)
        .and_then(|mount| mounts::restrict(&mount, attributes).map(|()| mount));
    let mount = during(SetupStage::Mounts, taking(path), mount)?;
    let is_directory = path.is_dir();
    Ok(Taken::Ready(Held { mount, target: path.to_path_buf(), is_directory }))
}

fn taking(path: &Path) -> String {
    format!("taking hold of {}", path.display())
}

/// Makes mounts of what was taken, and gives the layers that the host's side keeps. Something is mounted
/// at the stage, which is left behind.
pub(super) fn make(
    taken: Vec<Taken>,
    stage: &Path,
    writable: &Writable,
) -> Step<(Vec<Held>, Vec<OwnedFd>)> {
    let mut empty = None;
    let mut kept = Vec::new();
    let mut made = Vec::with_capacity(taken.len());
    for one in taken {
        let held = match one {
            Taken::Ready(held) => held,
            Taken::Layer(layer) => {
                let is_kept = matches!(layer.upper, LayerUpper::Memory(_, Keep::Yes(_)));
                let (held, upper) = layer.mount(stage)?;
                kept.extend(is_kept.then_some(upper));
                held
            }
            Taken::Apart(directory, target) => {
                let lowest = match &empty {
                    Some(empty) => empty,
                    None => {
                        let made = during(SetupStage::Mounts, "making a layer", nothing(stage))?;
                        empty.insert(made)
                    }
                };
                let mount = apart(&directory, lowest, &target, writable);
                let what = format!("showing {} with pipes of its own", target.display());
                let mount = during(SetupStage::Mounts, what, mount)?;
                Held { mount, target, is_directory: true }
            }
        };
        made.push(held);
    }
    Ok((made, kept))
}

/// An overlay of a directory and of an empty one. Where the kernel makes none, since something is
/// mounted beneath or the file system is of another kind, the directory is shown as it is, unless
/// commands could write there: nothing but a second lock would keep them from its pipes.
fn apart(
    directory: &OwnedFd,
    empty: &OwnedFd,
    target: &Path,
    writable: &Writable,
) -> io::Result<OwnedFd> {
    let mount = match mounts::overlay(&[directory, empty], None) {
        Err(error) if writable.directories.iter().any(|path| target.starts_with(path)) => {
            return Err(error);
        }
        Err(_) => mounts::copy_of_held(directory)?,
        Ok(mount) => mount,
    };
    mounts::restrict(&mount, NO_SETUID | NO_DEVICES | READ_ONLY)?;
    Ok(mount)
}

/// An empty directory, in a tmpfs that is attached at the stage.
fn nothing(stage: &Path) -> io::Result<OwnedFd> {
    let memory = mounts::memory(4096, "0755")?;
    mounts::attach(&memory, CWD, stage)?;
    Ok(memory)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// A directory that gets a writable layer, both held.
pub(super) struct Layer {
    path: PathBuf,
    lower: OwnedFd,
    upper: LayerUpper,
    stage: SetupStage,
}

enum LayerUpper {
    Directories(OwnedFd, OwnedFd),
    Memory(u64, Keep),
}

enum Keep {
    No,
    /// With what it held before.
    Yes(Option<File>),
}

impl Layer {
    pub(super) fn open(path: &Path, upper: &Upper, stage: SetupStage) -> Step<Self> {
        let open = |path: &Path| {
            during(stage, format!("opening {}", path.display()), open_directory(path))
        };
        let upper = match upper {
            Upper::Directories { upper, work } => {
                LayerUpper::Directories(open(upper.as_path())?, open(work.as_path())?)
            }
            Upper::Memory { max_bytes, keeping } => {
                let keep = match keeping {
                    Keeping::ThrowAway => Keep::No,
                    Keeping::Kept { before: None } => Keep::Yes(None),
                    Keeping::Kept { before: Some(archive) } => {
                        let what = format!("opening {}", archive.as_path().display());
                        let file = during(stage, what, File::open(archive.as_path()))?;
                        Keep::Yes(Some(file))
                    }
                };
                LayerUpper::Memory(*max_bytes, keep)
            }
        };
        Ok(Self { path: path.to_path_buf(), lower: open(path)?, upper, stage })
    }

    /// Mounts the overlay, attached nowhere yet, and gives the upper layer with it.
    pub(super) fn mount(self, place: &Path) -> Step<(Held, OwnedFd)> {
        let Self { path, lower, upper, stage } = self;
        let what = || format!("mounting an overlay over {}", path.display());
        let (upper, work) = match upper {
            LayerUpper::Directories(upper, work) => (upper, work),
            LayerUpper::Memory(bytes, keep) => {
                let layers = memory_layers(bytes, place, &lower);
                let (upper, work) = during(stage, what(), layers)?;
                if let Keep::Yes(Some(archive)) = keep {
                    let unpacked = unpack(io::BufReader::new(archive), &upper);
                    during(SetupStage::Helper, "bringing back what the session holds", unpacked)?;
                }
                (upper, work)
            }
        };
        let mount = mounts::overlay(&[&lower], Some((&upper, &work)));
        let mount = during(stage, what(), mount)?;
        Ok((Held { mount, target: path, is_directory: true }, upper))
    }
}

/// An upper and a work directory in a new tmpfs. The kernel takes a layer only from a mount that is
/// attached in this namespace, so it is, at a place that is left behind with the old root. What the
/// overlay shows of its root is the upper layer's, which is therefore made like the lower one.
fn memory_layers(bytes: u64, place: &Path, lower: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let memory = mounts::memory(bytes, "0700")?;
    mounts::attach(&memory, CWD, place)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let make = |name: &str| {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755))?;
        Ok::<_, io::Error>(rustix::fs::openat(&memory, name, flags, Mode::empty())?)
    };
    let (upper, work) = (make("upper")?, make("work")?);
    let like = rustix::fs::fstat(lower)?;
    let owner = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    // Only root can; for others, what is not theirs shows as theirs.
    let _not_root = rustix::fs::fchown(&upper, Some(owner.0), Some(owner.1));
    rustix::fs::fchmod(&upper, Mode::from_raw_mode(like.st_mode & 0o7777))?;
    Ok((upper, work))
}
