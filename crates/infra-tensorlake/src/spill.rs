//! The file in the guest that holds output which is too much to keep in memory.

use std::path::PathBuf;

use bytes::BytesMut;
use forge_domain::SpillFile;
use tracing::warn;

use crate::scripts::Guest;
use crate::upload::{UPLOAD_PIECE_BYTES, Upload};

/// Sends the whole output of a command to a file in the guest, up to a limit. A failure costs the file its
/// completeness and the command nothing.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    upload: Upload,
    path: PathBuf,
    waiting: BytesMut,
    room: u64,
    bytes: u64,
    complete: bool,
}

impl SpillWriter {
    pub(crate) fn new(guest: Guest, path: PathBuf, max_file_bytes: u64) -> Self {
        Self {
            upload: Upload::new(guest),
            path,
            waiting: BytesMut::new(),
            room: max_file_bytes,
            bytes: 0,
            complete: true,
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        if !self.complete {
            return;
        }
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(bytes.len());
        self.complete = fits == bytes.len();
        self.room -= fits as u64;
        self.waiting.extend_from_slice(&bytes[..fits]);
        if self.waiting.len() >= UPLOAD_PIECE_BYTES {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        let bytes = self.waiting.split().freeze();
        let length = bytes.len() as u64;
        match self.upload.send(bytes).await {
            Ok(()) => self.bytes += length,
            Err(error) => {
                self.complete = false;
                self.room = 0;
                warn!(%error, "The whole output could not be kept.");
            }
        }
    }

    /// The file, where there is one.
    pub(crate) async fn finish(mut self) -> Option<SpillFile> {
        if !self.waiting.is_empty() {
            self.send().await;
        }
        match self.upload.join_into(&self.path).await {
            Ok(()) => {
                Some(SpillFile { path: self.path, bytes: self.bytes, complete: self.complete })
            }
            Err(error) => {
                warn!(%error, "The whole output could not be kept.");
                None
            }
        }
    }
}
