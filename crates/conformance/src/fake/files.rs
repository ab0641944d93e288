//! The file port of the fake.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    ByteRange, DirectoryEntry, Existing, FileContents, FileError, FileStat, Files, Removal,
    WriteOptions,
};

use super::environment::FakeEnvironment;
use super::tree::{Last, Node, SCRATCH, Tree, WORKSPACE};

#[async_trait]
impl Files for FakeEnvironment {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        let _call = self.inner.enter("read").await?;
        let resolved = self.inner.resolve(path, Last::Follow)?;
        let tree = self.inner.tree();
        match node(&tree, path, &resolved)? {
            Node::File { bytes, .. } => {
                let clamp =
                    |value: u64| usize::try_from(value).unwrap_or(usize::MAX).min(bytes.len());
                let from = clamp(range.offset);
                let to = clamp(range.offset.saturating_add(range.max_bytes));
                Ok(FileContents {
                    bytes: Bytes::copy_from_slice(&bytes[from..to]),
                    total_bytes: bytes.len() as u64,
                })
            }
            Node::Directory => Err(FileError::IsDirectory { path: path.to_path_buf() }),
            Node::Link(_) | Node::Fifo => Err(FileError::Special { path: path.to_path_buf() }),
        }
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        let _call = self.inner.enter("write").await?;
        let resolved = self.inner.resolve(path, Last::Follow)?;
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(FileError::IsDirectory { path: path.to_path_buf() });
        }
        let mut tree = self.inner.tree();
        let kept = match (tree.get(&resolved), options.existing) {
            (None, _) => 0o644,
            (Some(_), Existing::Keep) => {
                return Err(FileError::AlreadyExists { path: path.to_path_buf() });
            }
            (Some(Node::File { mode, .. }), Existing::Replace) => *mode,
            (Some(Node::Directory), Existing::Replace) => {
                return Err(FileError::IsDirectory { path: path.to_path_buf() });
            }
            (Some(Node::Link(_) | Node::Fifo), Existing::Replace) => {
                return Err(FileError::Special { path: path.to_path_buf() });
            }
        };
        if let Some(parent) = resolved.parent() {
            tree.make_directories(path, parent)?;
        }
        let mode = options.mode.map_or(kept, |mode| mode & 0o777);
        tree.put(&resolved, Node::File { bytes: contents.to_vec(), mode });
        Ok(())
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        let _call = self.inner.enter("remove").await?;
        let resolved = self.inner.resolve(path, Last::Stay)?;
        if resolved == Path::new(WORKSPACE) || resolved == Path::new(SCRATCH) {
            return Err(FileError::Outside { path: path.to_path_buf() });
        }
        let mut tree = self.inner.tree();
        let is_full = tree.children(&resolved).next().is_some();
        match (node(&tree, path, &resolved)?, removal) {
            (Node::Directory, Removal::Single) if is_full => {
                return Err(FileError::NotEmpty { path: path.to_path_buf() });
            }
            _ => tree.remove_tree(&resolved),
        }
        Ok(())
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        let _call = self.inner.enter("list").await?;
        let resolved = self.inner.resolve(path, Last::Follow)?;
        let tree = self.inner.tree();
        if *node(&tree, path, &resolved)? != Node::Directory {
            return Err(FileError::NotDirectory { path: path.to_path_buf() });
        }
        let entry = |(name, node): (&std::ffi::OsStr, &Node)| DirectoryEntry {
            name: name.to_owned(),
            kind: match node {
                Node::Link(_) => forge_domain::FileKind::Symlink { target: None },
                other => other.kind(),
            },
            size_bytes: node.size(),
        };
        let mut entries: Vec<_> = tree.children(&resolved).map(entry).collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let _call = self.inner.enter("stat").await?;
        let resolved = self.inner.resolve(path, Last::Stay)?;
        let tree = self.inner.tree();
        let node = node(&tree, path, &resolved)?;
        Ok(FileStat {
            kind: node.kind(),
            size_bytes: node.size(),
            mode: Some(node.mode()),
            modified: Some(tree.modified(&resolved)),
        })
    }
}

/// What stands at a path: nothing, or below a file, are two errors.
fn node<'a>(tree: &'a Tree, asked: &Path, resolved: &Path) -> Result<&'a Node, FileError> {
    if let Some(node) = tree.get(resolved) {
        return Ok(node);
    }
    let above = resolved.ancestors().skip(1).find_map(|ancestor| tree.get(ancestor));
    match above {
        Some(Node::Directory) | None => Err(FileError::NotFound { path: asked.to_path_buf() }),
        Some(_) => Err(FileError::NotDirectory { path: asked.to_path_buf() }),
    }
}
