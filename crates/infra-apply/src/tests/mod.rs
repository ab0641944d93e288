//! Trees, what is to become of them, and what goes wrong meanwhile.

mod faults;
mod model;
mod steps;

pub(crate) use faults::Faults;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use forge_domain::{ApplyContents, ApplyTarget, Content, Digest, Placed, ReviewedPath, Step};

use crate::HostTree;
use crate::calls::Calls;

/// What stands at a path, with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File(Vec<u8>, u32),
    Link(PathBuf),
    Directory,
}

/// A whole tree.
pub(crate) type Nodes = BTreeMap<PathBuf, Node>;

/// What a session would hold.
#[derive(Default)]
pub(crate) struct Contents(pub(crate) BTreeMap<PathBuf, Vec<u8>>);

impl ApplyContents for Contents {
    fn open(&self, path: &ReviewedPath) -> io::Result<Box<dyn io::Read + '_>> {
        let bytes = self.0.get(path.as_path()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(bytes.as_slice()))
    }
}

pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        Self { directory }
    }

    /// In memory, where there is room for that.
    pub(crate) fn in_memory() -> Self {
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return Self::new() };
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        Self { directory }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub(crate) fn tree(&self) -> HostTree {
        HostTree::open(self.root(), self.directory.path().join("state")).unwrap()
    }

    pub(crate) fn tree_with(&self, faults: &std::sync::Arc<Faults>) -> HostTree {
        let calls = Calls { faults: Some(std::sync::Arc::clone(faults)) };
        HostTree::with_calls(self.root(), &self.directory.path().join("state"), calls).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own tree")]
    pub(crate) fn fill(&self, nodes: &Nodes) {
        for (path, node) in nodes {
            let path = self.root().join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).unwrap();
            }
            match node {
                Node::Directory => std::fs::create_dir_all(&path).unwrap(),
                Node::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
                Node::File(bytes, mode) => {
                    std::fs::write(&path, bytes).unwrap();
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                }
            }
        }
    }

    pub(crate) fn nodes(&self) -> Nodes {
        let mut nodes = Nodes::new();
        walk(&self.root(), Path::new(""), &mut nodes);
        nodes
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's own tree")]
fn walk(root: &Path, path: &Path, nodes: &mut Nodes) {
    for entry in std::fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let path = path.join(entry.file_name());
        let metadata = entry.metadata().unwrap();
        let node = if metadata.is_dir() {
            walk(root, &path, nodes);
            Node::Directory
        } else if metadata.is_symlink() {
            Node::Link(std::fs::read_link(entry.path()).unwrap())
        } else {
            let mode = metadata.permissions().mode() & 0o7777;
            Node::File(std::fs::read(entry.path()).unwrap(), mode)
        };
        nodes.insert(path, node);
    }
}

pub(crate) fn path(text: impl AsRef<Path>) -> ReviewedPath {
    ReviewedPath::parse(text.as_ref()).unwrap()
}

pub(crate) fn file(text: &str) -> Node {
    Node::File(text.as_bytes().to_vec(), 0o644)
}

pub(crate) fn nodes(all: &[(&str, Node)]) -> Nodes {
    all.iter().map(|(path, node)| (PathBuf::from(path), node.clone())).collect()
}

/// The steps that make one tree of another, in the order that planning gives them.
pub(crate) fn steps(tree: &HostTree, before: &Nodes, after: &Nodes) -> (Vec<Step>, Contents) {
    let mut contents = Contents::default();
    let (mut gone, mut made) = (Vec::new(), Vec::new());
    for path in before.keys().rev().filter(|path| !after.contains_key(*path)) {
        let before = tree.look(&self::path(path)).unwrap();
        let placed = match before {
            Some(forge_domain::Entry::Directory { .. }) => Placed::NothingIfEmpty,
            _ => Placed::Nothing,
        };
        gone.push(Step { path: self::path(path), before, after: placed });
    }
    for (path, node) in after.iter().filter(|(path, node)| before.get(*path) != Some(*node)) {
        let placed = match node {
            Node::Directory => Placed::Directory { mode: 0o755 },
            Node::Link(target) => Placed::Symlink { target: target.clone() },
            Node::File(bytes, mode) => {
                contents.0.insert(path.clone(), bytes.clone());
                let digest = Digest::new(blake3::hash(bytes).into());
                Placed::File { mode: *mode, content: Content::Session { digest } }
            }
        };
        let before = tree.look(&self::path(path)).unwrap();
        made.push(Step { path: self::path(path), before, after: placed });
    }
    gone.extend(made);
    (gone, contents)
}
