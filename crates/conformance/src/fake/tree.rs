//! The fake's files: a map of absolute paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_domain::{Change, ChangeKind, ChangeSet, FileError, FileKind};

pub(super) const WORKSPACE: &str = "/project";
pub(super) const SCRATCH: &str = "/scratch";
const MAX_LINKS: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    File { bytes: Vec<u8>, mode: u32 },
    Directory,
    Link(PathBuf),
    Fifo,
}

impl Node {
    pub(super) fn kind(&self) -> FileKind {
        match self {
            Self::File { .. } => FileKind::File,
            Self::Directory => FileKind::Directory,
            Self::Link(target) => FileKind::Symlink { target: Some(target.clone()) },
            Self::Fifo => FileKind::Other,
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { bytes, .. } => bytes.len() as u64,
            Self::Directory | Self::Link(_) | Self::Fifo => 0,
        }
    }

    pub(super) fn mode(&self) -> u32 {
        match self {
            Self::File { mode, .. } => *mode,
            Self::Directory => 0o755,
            Self::Link(_) => 0o777,
            Self::Fifo => 0o644,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    /// Raised by every write, so that times of modification differ.
    clock: u64,
    modified: BTreeMap<PathBuf, u64>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let nodes = ["/", WORKSPACE, SCRATCH, "/elsewhere"]
            .map(|path| (PathBuf::from(path), Node::Directory))
            .into();
        let mut tree = Self { nodes, clock: 0, modified: BTreeMap::new() };
        let secret = Node::File { bytes: b"outside\n".to_vec(), mode: 0o644 };
        tree.put(Path::new("/elsewhere/file"), secret);
        tree
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(super) fn put(&mut self, path: &Path, node: Node) {
        self.clock += 1;
        self.modified.insert(path.to_path_buf(), self.clock);
        self.nodes.insert(path.to_path_buf(), node);
    }

    pub(super) fn modified(&self, path: &Path) -> SystemTime {
        let ticks = self.modified.get(path).copied().unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + ticks)
    }

    /// Makes a directory and its parents.
    pub(super) fn make_directories(&mut self, asked: &Path, path: &Path) -> Result<(), FileError> {
        for ancestor in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            match self.get(ancestor) {
                Some(Node::Directory) => {}
                Some(_) => return Err(FileError::NotDirectory { path: asked.to_path_buf() }),
                None => self.put(ancestor, Node::Directory),
            }
        }
        Ok(())
    }

    pub(super) fn remove_tree(&mut self, path: &Path) {
        self.nodes.retain(|candidate, _| !candidate.starts_with(path));
    }

    pub(super) fn children<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl Iterator<Item = (&'a OsStr, &'a Node)> {
        self.nodes
            .iter()
            .filter(move |(candidate, _)| candidate.parent() == Some(path))
            .filter_map(|(candidate, node)| Some((candidate.file_name()?, node)))
    }

    /// Every file below a path, or the file that it is, in byte order of the paths.
    pub(super) fn files_below<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl Iterator<Item = (&'a Path, &'a [u8])> {
        self.nodes.iter().filter(move |(candidate, _)| candidate.starts_with(path)).filter_map(
            |(candidate, node)| match node {
                Node::File { bytes, .. } => Some((candidate.as_path(), bytes.as_slice())),
                Node::Directory | Node::Link(_) | Node::Fifo => None,
            },
        )
    }

    /// Follows links, part by part; the last part too if asked. What is missing is taken by its letters.
    pub(super) fn resolve(
        &self,
        asked: &Path,
        path: &Path,
        last: Last,
    ) -> Result<PathBuf, FileError> {
        let mut resolved = PathBuf::from("/");
        let mut rest: Vec<PathBuf> = parts(path);
        rest.reverse();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                resolved.pop();
                continue;
            }
            resolved.push(&part);
            let Some(Node::Link(target)) = self.get(&resolved) else { continue };
            if rest.is_empty() && last == Last::Stay {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(FileError::InvalidPath {
                    path: asked.to_path_buf(),
                    reason: "it goes through too many symbolic links".to_owned(),
                });
            }
            resolved.pop();
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            rest.extend(parts(target).into_iter().rev());
        }
        Ok(resolved)
    }

    /// What differs from another tree, below the workspace.
    pub(super) fn changes_since(&self, base: &Self) -> ChangeSet {
        let workspace = Path::new(WORKSPACE);
        let listed = |tree: &Self| -> BTreeMap<PathBuf, Node> {
            tree.nodes
                .iter()
                .filter(|(_, node)| **node != Node::Directory)
                .filter_map(|(path, node)| {
                    Some((path.strip_prefix(workspace).ok()?.to_path_buf(), node.clone()))
                })
                .filter(|(path, _)| !path.starts_with(".git"))
                .collect()
        };
        let (before, after) = (listed(base), listed(self));
        let mut changes = BTreeMap::new();
        for (path, node) in &after {
            let kind = match before.get(path) {
                None => ChangeKind::Created,
                Some(old) if old == node => continue,
                Some(old) => difference(old, node),
            };
            changes.insert(path.clone(), kind);
        }
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            let retyped = self.get(&workspace.join(path)).is_some();
            let kind = if retyped { ChangeKind::TypeChanged } else { ChangeKind::Deleted };
            changes.insert(path.clone(), kind);
        }
        let changes = changes.into_iter().map(|(path, kind)| Change { path, kind }).collect();
        ChangeSet { changes, ignored_files: 0 }
    }
}

/// What becomes of a link in the last part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Stay,
}

fn parts(path: &Path) -> Vec<PathBuf> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn difference(old: &Node, new: &Node) -> ChangeKind {
    match (old, new) {
        (Node::File { bytes: before, .. }, Node::File { bytes: after, .. }) => {
            if before == after {
                ChangeKind::ModeChanged
            } else {
                ChangeKind::Modified
            }
        }
        (Node::Link(_), Node::Link(_)) => ChangeKind::Modified,
        _ => ChangeKind::TypeChanged,
    }
}
