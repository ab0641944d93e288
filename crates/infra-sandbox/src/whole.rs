//! A root of which every path can be written while nothing of the host is.
//!
//! One overlay over the host's root will not do: what is mounted beneath it would be missing, and an
//! ordinary user's namespace may not look beneath mounts at all. So each directory of the host that is
//! shown has a layer of its own, and the root in which they stand is a directory of the session's.
//! Where something is mounted beneath such a directory, what it holds is taken apart: its own
//! directories get layers, its files are copied.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::helper::WRITTEN;
use crate::mount_points::MountPoints;
use crate::spec::{Access, Root, Shown, Upper};
use crate::store::OpenSession;

/// A file that is copied since it can have no layer may be so large.
const MAX_COPY_BYTES: u64 = 16 * 1024 * 1024;

/// So many layers there are at the most: each is a mount.
const MAX_LAYERS: usize = 4096;

/// The root and what is shown in it.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) root: Root,
    pub(crate) shown: Vec<Shown>,
}

/// Decides what gets a layer, and makes the layers' directories, or finds them where the session is
/// continued.
pub(crate) fn plan(
    trees: impl Iterator<Item = PathBuf>,
    mounts: &MountPoints,
    session: &OpenSession,
) -> io::Result<Whole> {
    let (upper, work) = session.layers();
    let root = upper.join(WRITTEN);
    fs::create_dir_all(&root)?;
    let mut planning = Planning { mounts, root: &root, upper: &upper, work: &work, shown: vec![] };
    for tree in trees {
        planning.cover(&tree)?;
    }
    let shown = planning.shown;
    Ok(Whole { root: Root::Whole { upper: upper.into() }, shown })
}

struct Planning<'a> {
    mounts: &'a MountPoints,
    root: &'a Path,
    upper: &'a Path,
    work: &'a Path,
    shown: Vec<Shown>,
}

impl Planning<'_> {
    fn cover(&mut self, directory: &Path) -> io::Result<()> {
        if self.mounts.beneath(directory).is_some() {
            return self.take_apart(directory);
        }
        if self.shown.len() == MAX_LAYERS {
            let reason = format!("more than {MAX_LAYERS} directories of the host need a layer");
            return Err(io::Error::other(reason));
        }
        let name = layer_name(directory);
        let (upper, work) = (self.upper.join("layers").join(&name), self.work.join(&name));
        fs::create_dir_all(&work)?;
        if !upper.is_dir() {
            fs::create_dir_all(&upper)?;
            // What an overlay shows of its root is the upper layer's.
            fs::set_permissions(&upper, fs::metadata(directory)?.permissions())?;
        }
        let upper = Upper::Directories { upper: upper.into(), work: work.into() };
        self.shown.push(Shown { path: directory.into(), access: Access::Layered(upper) });
        Ok(())
    }

    fn take_apart(&mut self, directory: &Path) -> io::Result<()> {
        let inside = self.inside(directory);
        let is_new = !inside.exists();
        fs::create_dir_all(&inside)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                self.cover(&path)?;
            } else if is_new {
                self.copy(&path, kind)?;
            }
        }
        Ok(())
    }

    fn copy(&self, path: &Path, kind: fs::FileType) -> io::Result<()> {
        let inside = self.inside(path);
        if kind.is_symlink() {
            return symlink(fs::read_link(path)?, inside);
        }
        let metadata = fs::metadata(path)?;
        if !kind.is_file() || metadata.len() > MAX_COPY_BYTES {
            return Ok(());
        }
        match fs::read(path) {
            Ok(contents) => {
                fs::write(&inside, contents)?;
                let mode = metadata.permissions().mode() & 0o777;
                fs::set_permissions(&inside, fs::Permissions::from_mode(mode))
            }
            // What the caller may not read is not there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The path in one name, the same for the same path.
fn layer_name(path: &Path) -> String {
    let mut name = String::new();
    for byte in path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                name.push(char::from(*byte));
            }
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_layer_is_named_after_its_path_and_no_other_has_that_name() {
        let names = ["/usr", "/usr/lib", "/usr%2flib", "/a b"].map(Path::new).map(layer_name);
        assert_eq!(names, ["usr", "usr%2flib", "usr%252flib", "a%20b"]);
    }
}
