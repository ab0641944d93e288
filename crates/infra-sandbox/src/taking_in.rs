//! Bringing into a session that stands what was changed on the host meanwhile.
//!
//! The overlay shows the host's files where the session has none of its own, once the kernel is told to look again. Where the
//! session has one and left it as it was brought to the host, or as it was copied, the host's is written over
//! it: through the view that commands have, since a layer that is mounted is never changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use forge_domain::{Base, Digest, Entry, TakenIn};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, mkdirat, renameat, unlinkat};
use rustix::io::Errno;

use crate::beneath;
use crate::changes;
use crate::files::{self, Temporary};
use crate::paths::{file_type, is_mount, stat_entry};
use crate::removal::remove_tree;
use crate::store::{Compared, Followed, OpenSession, Outdated, SessionError, SessionLayers};

const PIECE_BYTES: usize = 128 * 1024;

/// More than so much in one directory is not copied.
const MAX_COPIED: usize = 20_000;

/// Which versions of the host's were said to be in conflict.
pub(crate) type Said = BTreeMap<PathBuf, Option<Entry>>;

/// Brings the host's version of what the session left alone into a view, and says what both have changed.
pub(crate) fn take_in(
    session: &OpenSession,
    layers: &SessionLayers,
    view: &OwnedFd,
    said: &mut Said,
) -> Result<TakenIn, SessionError> {
    let failed = |what| move |error| SessionError::io(what, Path::new("the session's view"))(error);
    let compared = layers.compared().map_err(failed("comparing"))?;
    let Compared { outdated, as_noted: mut followed } = compared;
    let (behind, changed): (Vec<_>, Vec<_>) =
        outdated.into_iter().partition(|one| one.base.is(one.session.as_ref()));
    let mut taken_in = TakenIn::default();
    // What is gone first, the deepest of it before what it stood in; then what is there, the other way round.
    let (gone, there): (Vec<_>, Vec<_>) = behind.into_iter().partition(|one| one.host.is_none());
    for one in gone.into_iter().rev().chain(there) {
        match bring(layers, view, &one) {
            Ok(Brought::No) => {}
            Ok(brought) => {
                taken_in.updated_paths += u64::from(brought == Brought::Now);
                let Outdated { path, host, sight, .. } = one;
                followed.push(Followed {
                    path,
                    base: host.map_or(Base::Absent, Base::Known),
                    sight,
                });
            }
            Err(error) => {
                session.follow(layers, followed)?;
                return Err(failed("writing to")(error));
            }
        }
    }
    if !followed.is_empty() {
        session.follow(layers, followed)?;
    }
    for one in changed {
        // Of two directories at most the modes differ.
        let is_directory = |entry: &Option<Entry>| matches!(entry, Some(Entry::Directory { .. }));
        let is_conflict =
            one.session != one.host && !(is_directory(&one.session) && is_directory(&one.host));
        if is_conflict && said.get(&one.path) != Some(&one.host) {
            taken_in.conflicts.push(one.path.clone());
            said.insert(one.path, one.host);
        }
    }
    Ok(taken_in)
}

/// Whether the view has what the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    Now,
    Before,
    /// Something of the session's is in the way, or the host's is being changed at this moment.
    No,
}

/// Makes one path of the view what it is on the host.
fn bring(layers: &SessionLayers, view: &OwnedFd, one: &Outdated) -> io::Result<Brought> {
    let seen = changes::entry(std::os::fd::AsFd::as_fd(view), &one.path)?.map(|(entry, _)| entry);
    if seen == one.host {
        return Ok(Brought::Before);
    }
    let (Some(above), Some(name)) = (one.path.parent(), one.path.file_name()) else {
        return Ok(Brought::No);
    };
    if !bring_to(layers, view, one, above, name)? {
        return Ok(Brought::No);
    }
    if one.host.is_none() {
        remove_emptied(layers, view, above)?;
    }
    Ok(Brought::Now)
}

fn bring_to(
    layers: &SessionLayers,
    view: &OwnedFd,
    one: &Outdated,
    above: &Path,
    name: &OsStr,
) -> io::Result<bool> {
    let parent = match (directory(view, above, one.host.is_some()), &one.host) {
        (Ok(parent), _) => parent,
        // There is nothing left to be taken away.
        (Err(Errno::NOENT), None) => return Ok(true),
        (Err(Errno::NOTDIR | Errno::LOOP), _) => return Ok(false),
        (Err(error), _) => return Err(error.into()),
    };
    let there = match stat_entry(&parent, name) {
        Ok(stat) if is_mount(&stat) => return Ok(false),
        Ok(stat) => Some(file_type(&stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let kept_directory = matches!(one.host, Some(Entry::Directory { .. }));
    if there == Some(FileType::Directory) && !kept_directory {
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    match &one.host {
        Some(Entry::File { digest, mode, .. }) => {
            return write_file(layers, &parent, name, &one.path, *digest, *mode);
        }
        Some(Entry::Symlink { target }) => {
            let temporary = files::unused_name(".forge-", "");
            rustix::fs::symlinkat(target, &parent, &temporary)?;
            let placed = renameat(&parent, &temporary, &parent, name);
            if placed.is_err() {
                let _ = unlinkat(&parent, &temporary, AtFlags::empty());
            }
            placed?;
        }
        // One that takes the place of something else hides what the host has in it.
        Some(Entry::Directory { mode }) if there.is_some_and(|is| is != FileType::Directory) => {
            return bring_tree(layers, &parent, name, &one.path, *mode);
        }
        Some(Entry::Directory { mode }) => {
            match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let made = beneath::open(&parent, name, flags, Mode::empty())?;
            fchmod(made, Mode::from_raw_mode(mode & 0o777))?;
        }
        Some(Entry::Special) => return Ok(false),
        None => match there {
            Some(FileType::Directory) | None => {}
            Some(_) => unlinkat(&parent, name, AtFlags::empty())?,
        },
    }
    Ok(true)
}

/// Puts a copy of a directory of the host with all that is in it into the place of something else, or leaves that.
fn bring_tree(
    layers: &SessionLayers,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    mode: u32,
) -> io::Result<bool> {
    let temporary = files::unused_name(".forge-", "");
    mkdirat(parent, &temporary, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let copied = beneath::open(parent, &temporary, flags, Mode::empty())
        .and_then(|copy| copy_tree(layers, &copy, path, mode));
    if !matches!(copied, Ok(true)) {
        remove_tree(parent, OsStr::new(&temporary))?;
        return copied;
    }
    unlinkat(parent, name, AtFlags::empty())?;
    renameat(parent, &temporary, parent, name)?;
    Ok(true)
}

/// Copies what a directory of the host holds. Says no where that is too much, or cannot be read as it is.
fn copy_tree(layers: &SessionLayers, to: &OwnedFd, path: &Path, mode: u32) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut modes = vec![(PathBuf::new(), mode)];
    let (mut at, mut copied) = (0, 0);
    while let Some((below, _)) = modes.get(at) {
        let (below, target) = (below.clone(), beneath::open(to, below, flags, Mode::empty())?);
        at += 1;
        for name in layers.names_on_the_host(&path.join(&below))? {
            copied += 1;
            if copied > MAX_COPIED {
                return Ok(false);
            }
            let path = path.join(&below).join(&name);
            let entry = match layers.entry_on_the_host(&path) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
                other => other?,
            };
            match entry {
                Some(Entry::File { digest, mode, .. }) => {
                    if !write_file(layers, &target, &name, &path, digest, mode)? {
                        return Ok(false);
                    }
                }
                Some(Entry::Symlink { target: link }) => {
                    rustix::fs::symlinkat(link, &target, &*name)?;
                }
                Some(Entry::Directory { mode }) => {
                    mkdirat(&target, &*name, Mode::from_raw_mode(0o700))?;
                    modes.push((below.join(name), mode));
                }
                Some(Entry::Special) | None => {}
            }
        }
    }
    for (below, mode) in modes.iter().rev() {
        let directory = beneath::open(to, below, flags, Mode::empty())?;
        fchmod(directory, Mode::from_raw_mode(mode & 0o777))?;
    }
    Ok(true)
}

/// Removes the directories that the host does not have and in which nothing is left.
fn remove_emptied(layers: &SessionLayers, view: &OwnedFd, path: &Path) -> io::Result<()> {
    for path in path.ancestors() {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { break };
        if layers.is_on_the_host(path)? {
            break;
        }
        let Ok(parent) = directory(view, above, false) else { break };
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            // Something is left in it, or it is in use.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A directory of the view, made with those above it where it is not there and is asked for.
fn directory(view: &OwnedFd, path: &Path, is_made: bool) -> Result<OwnedFd, Errno> {
    let number = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut at = beneath::open(view, ".", flags, Mode::empty()).map_err(number)?;
    for name in path {
        let next = match beneath::open(&at, name, flags, Mode::empty()).map_err(number) {
            Err(Errno::NOENT) if is_made => {
                mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                beneath::open(&at, name, flags, Mode::empty()).map_err(number)
            }
            other => other,
        };
        at = next?;
    }
    Ok(at)
}

fn write_file(
    layers: &SessionLayers,
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    digest: Digest,
    mode: u32,
) -> io::Result<bool> {
    let mut from = match layers.open_on_the_host(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut temporary = Temporary::create(parent, 0o600)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..read]);
        temporary.file.write_all(&piece[..read])?;
    }
    if Digest::new(hasher.finalize().into()) != digest {
        // It is being written; the next time will tell.
        return Ok(false);
    }
    fchmod(&temporary.file, Mode::from_raw_mode(mode & 0o777))?;
    temporary.place(name, forge_domain::Existing::Replace)?;
    Ok(true)
}
