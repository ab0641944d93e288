//! Bytes on their way into the guest, in pieces that its server takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use forge_domain::EnvironmentError;
use reqwest::Method;

use crate::environment::{Inner, random_name};
use crate::failure::RequestError;
use crate::guest::words;
use crate::retry::Repeatable;
use crate::scripts::{Guest, Script};

/// How much is sent at once. A server may limit bodies to 2 MiB.
pub(crate) const UPLOAD_PIECE_BYTES: usize = 1024 * 1024;
/// Below this, a server that refuses a body for its size is not asked again.
const MIN_PIECE_BYTES: usize = 16 * 1024;

/// Pieces in the guest's scratch directory, to be joined there.
#[derive(Debug)]
pub(crate) struct Upload {
    guest: Guest,
    base: PathBuf,
    pieces: usize,
    piece_bytes: usize,
}

impl Upload {
    pub(crate) fn new(guest: Guest) -> Self {
        let base = guest.scratch.join(format!("up-{}", random_name()));
        Self { guest, base, pieces: 0, piece_bytes: UPLOAD_PIECE_BYTES }
    }

    /// Sends bytes, in smaller pieces where the server finds them too large.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), RequestError> {
        while !bytes.is_empty() {
            let piece = bytes.slice(..bytes.len().min(self.piece_bytes));
            let length = piece.len();
            match self.put(piece).await {
                Ok(()) => {
                    self.pieces += 1;
                    bytes = bytes.slice(length..);
                }
                Err(error) if error.is(413) && self.piece_bytes / 2 >= MIN_PIECE_BYTES => {
                    self.piece_bytes /= 2;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn put(&self, piece: Bytes) -> Result<(), RequestError> {
        let Guest { client, ready, .. } = &self.guest;
        let path = self.piece(self.pieces);
        let request = ready
            .request(client, Method::PUT, "/api/v1/files")
            .query(&[("path", path.to_string_lossy())])
            .header("content-type", "application/octet-stream")
            .body(piece);
        client.send(request, Repeatable::Yes, &[]).await.map(drop)
    }

    fn piece(&self, number: usize) -> PathBuf {
        let mut path = OsString::from(&self.base);
        path.push(format!(".{number:06}"));
        path.into()
    }

    /// The pieces in their order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.pieces).map(|number| self.piece(number))
    }

    /// Joins the pieces into a new file of the scratch directory.
    pub(crate) async fn join_into(&self, path: &Path) -> Result<(), RequestError> {
        let pieces: Vec<PathBuf> = self.pieces().collect();
        let pieces = words(pieces.iter().map(|path| path.as_os_str()));
        let text = if pieces.is_empty() {
            ": >\"$1\"".to_owned()
        } else {
            format!("cat -- {pieces} >\"$1\" && rm -f -- {pieces}")
        };
        let output = self.guest.script(&Script::new(text, [path.as_os_str()]).once()).await?;
        if output.status == 0 {
            return Ok(());
        }
        let complaint = self.guest.client.shown(&output.complaint);
        Err(RequestError::Unreadable(format!("the pieces could not be joined: {complaint}")))
    }
}

impl Inner {
    /// Brings bytes into the guest's scratch directory, in pieces.
    pub(crate) async fn send_pieces(
        &self,
        operation: &str,
        bytes: Bytes,
    ) -> Result<Upload, EnvironmentError> {
        self.on_sandbox(operation, |ready| {
            let (guest, bytes) = (self.guest(ready), bytes.clone());
            Box::pin(async move {
                let mut upload = Upload::new(guest);
                upload.send(bytes).await?;
                Ok(upload)
            })
        })
        .await
    }
}
