//! The file for output that is too much to keep in memory.

use std::path::PathBuf;

use forge_domain::{OutputBuffer, SpillFile};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tracing::warn;

/// Writes the whole output of a command, up to a limit. A disk that is full costs the file its
/// completeness and the command nothing.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    file: File,
    path: PathBuf,
    room: u64,
    bytes: u64,
    complete: bool,
}

impl SpillWriter {
    /// Takes an empty file and writes what is retained so far, which is everything there was: see
    /// [`OutputBuffer::would_cut`].
    pub(crate) async fn begin(
        file: std::fs::File,
        path: PathBuf,
        max_file_bytes: u64,
        so_far: &OutputBuffer,
    ) -> Self {
        let mut writer = Self {
            file: File::from_std(file),
            path,
            room: max_file_bytes,
            bytes: 0,
            complete: true,
        };
        for bytes in so_far.retained_bytes() {
            writer.write(bytes).await;
        }
        writer
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        if !self.complete {
            return;
        }
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(bytes.len());
        self.complete = fits == bytes.len();
        match self.file.write_all(&bytes[..fits]).await {
            Ok(()) => {
                self.bytes += fits as u64;
                self.room -= fits as u64;
            }
            Err(error) => {
                self.complete = false;
                warn!(path = %self.path.display(), %error, "The whole output could not be kept.");
            }
        }
    }

    pub(crate) async fn finish(mut self) -> SpillFile {
        if let Err(error) = self.file.flush().await {
            self.complete = false;
            warn!(path = %self.path.display(), %error, "The whole output could not be kept.");
        }
        // What counts is what is there: a write that failed late is in no count of ours.
        let bytes = self.file.metadata().await.map_or(self.bytes, |metadata| metadata.len());
        SpillFile { path: self.path, bytes, complete: self.complete && bytes == self.bytes }
    }
}
