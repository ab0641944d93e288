//! Files for callers that stream them, and directories with times: what the file port leaves out.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::time::SystemTime;

use forge_domain::{DirectoryEntry, FileError, WriteOptions};

use crate::environment::SandboxEnvironment;

impl SandboxEnvironment {
    /// Opens a regular file for reading, following symlinks that stay inside, and says how large it is.
    /// Reading it cannot block; what a command does to the file meanwhile is seen.
    ///
    /// # Errors
    /// As [`Files::read`](forge_domain::Files::read).
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn open_file(&self, path: &Path) -> Result<(File, u64), FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.open(&path)).await
    }

    /// Writes a whole file, all or nothing, with everything that the given one holds, from its beginning.
    ///
    /// # Errors
    /// As [`Files::write`](forge_domain::Files::write).
    ///
    /// # Cancel safety
    /// A dropped future has written everything or nothing, or will.
    pub async fn write_file_from(
        &self,
        path: &Path,
        mut contents: File,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| {
            trees.write_with(&path, options, |file| {
                contents.rewind()?;
                io::copy(&mut contents, file).map(drop)
            })
        })
        .await
    }

    /// Lists a directory in byte order of the names, with the times at which entries were last modified,
    /// where they are known.
    ///
    /// # Errors
    /// As [`Files::list`](forge_domain::Files::list).
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn list_with_times(
        &self,
        path: &Path,
    ) -> Result<Vec<(DirectoryEntry, Option<SystemTime>)>, FileError> {
        let path = path.to_path_buf();
        self.with_trees(move |trees| trees.list_with_times(&path)).await
    }
}
