//! Trees as they are on the disk, and what the two layers of a session show together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What stands at a path, with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File(Vec<u8>, u32),
    Link(PathBuf),
    Directory,
}

impl Node {
    pub(crate) fn is_directory(node: Option<&Self>) -> bool {
        node == Some(&Self::Directory)
    }
}

pub(crate) type Nodes = BTreeMap<PathBuf, Node>;

/// A tree, with everything in it.
pub(crate) fn tree(root: &Path) -> Nodes {
    let mut nodes = Nodes::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        for name in names(&root.join(&directory)) {
            let path = directory.join(name);
            let Some(node) = node(&root.join(&path)) else { continue };
            if node == Node::Directory {
                pending.push(path.clone());
            }
            nodes.insert(path, node);
        }
    }
    nodes
}

/// What the overlay shows of two layers (overlayfs.rst): the upper one's, and of the lower one what is neither
/// whited out nor beneath something opaque. With it, the paths that the upper one has itself.
pub(crate) fn view(upper: &Path, lower: &Path) -> (Nodes, BTreeSet<PathBuf>) {
    let (mut nodes, mut own) = (Nodes::new(), BTreeSet::new());
    let mut pending = vec![(PathBuf::new(), true)];
    while let Some((directory, has_lower)) = pending.pop() {
        let has_lower = has_lower && !is_opaque(&upper.join(&directory));
        let above = names(&upper.join(&directory));
        let below = if has_lower { names(&lower.join(&directory)) } else { BTreeSet::new() };
        for name in above.union(&below) {
            let path = directory.join(name);
            let is_own = above.contains(name);
            if is_own {
                own.insert(path.clone());
            }
            let layer = if is_own { upper } else { lower };
            // A white-out is a device, and none of these.
            let Some(node) = node(&layer.join(&path)) else { continue };
            if node == Node::Directory {
                let is_below = has_lower && node_is_directory(&lower.join(&path));
                pending.push((path.clone(), is_below));
            }
            nodes.insert(path, node);
        }
    }
    (nodes, own)
}

fn names(directory: &Path) -> BTreeSet<std::ffi::OsString> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

fn node(path: &Path) -> Option<Node> {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Some(Node::Directory);
    }
    if kind.is_symlink() {
        return Some(Node::Link(fs::read_link(path).unwrap()));
    }
    if kind.is_char_device() && metadata.rdev() == 0 {
        return None;
    }
    Some(Node::File(fs::read(path).unwrap(), metadata.permissions().mode() & 0o7777))
}

fn node_is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 8];
    let length = rustix::fs::lgetxattr(path, "user.overlay.opaque", &mut value);
    length.is_ok_and(|length| &value[..length] == b"y")
}
