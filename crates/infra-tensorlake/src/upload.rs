//! Bytes on their way into the guest, in pieces that its server takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use forge_domain::EnvironmentError;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use reqwest::Method;

use crate::environment::{Inner, random_name};
use crate::failure::RequestError;
use crate::guest::word;
use crate::retry::Repeatable;
use crate::scripts::{Guest, Script};

/// How much is sent at once. A server may limit bodies to 2 MiB.
pub(crate) const UPLOAD_PIECE_BYTES: usize = 1024 * 1024;
/// So many pieces are under way at the same time: over a distance, one at a time would wait for each answer.
const AT_ONCE: usize = 4;
/// Below this, a server that refuses a body for its size is not asked again.
const MIN_PIECE_BYTES: usize = 16 * 1024;

/// Joins the pieces whose name begins with `$P`, in their order; or removes them. All their names at once would be more than a
/// text of `sh -c` may hold (execve(2)).
pub(crate) const PIECES: &str = r#"join_pieces() { printf '%s\0' "$P".* | xargs -0 cat --; }
remove_pieces() { printf '%s\0' "$P".* | xargs -0 rm -f --; }
"#;

/// Pieces in the guest's scratch directory, to be joined there.
#[derive(Debug)]
pub(crate) struct Upload {
    guest: Guest,
    base: PathBuf,
    /// In how many parts each piece is there.
    parts: Vec<usize>,
    /// No part is larger: what the server has taken so far.
    part_bytes: AtomicUsize,
}

impl Upload {
    pub(crate) fn new(guest: Guest) -> Self {
        let base = guest.scratch.join(format!("up-{}", random_name()));
        Self { guest, base, parts: Vec::new(), part_bytes: AtomicUsize::new(UPLOAD_PIECE_BYTES) }
    }

    /// Sends bytes after those that were sent before.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), RequestError> {
        let pieces = bytes.len().div_ceil(UPLOAD_PIECE_BYTES);
        let piece = |number: usize| {
            let begin = number * UPLOAD_PIECE_BYTES;
            bytes.slice(begin..bytes.len().min(begin + UPLOAD_PIECE_BYTES))
        };
        self.send_all(stream::iter((0..pieces).map(piece))).await
    }

    /// Sends pieces, none larger than [`UPLOAD_PIECE_BYTES`], after those that were sent before, several at once. Each is
    /// asked for when there is room for it.
    pub(crate) async fn send_all(
        &mut self,
        pieces: impl Stream<Item = Bytes>,
    ) -> Result<(), RequestError> {
        let first = self.parts.len();
        let sent: Vec<usize> = pieces
            .enumerate()
            .map(|(number, piece)| self.send_piece(first + number, piece))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.parts.extend(sent);
        Ok(())
    }

    /// Sends a piece, in smaller parts where the server finds it too large, and says in how many.
    async fn send_piece(&self, number: usize, mut bytes: Bytes) -> Result<usize, RequestError> {
        let mut parts = 0;
        while !bytes.is_empty() {
            let most = self.part_bytes.load(Ordering::Relaxed);
            let part = bytes.slice(..bytes.len().min(most));
            let length = part.len();
            match self.put(self.part(number, parts), part).await {
                Ok(()) => {
                    parts += 1;
                    bytes = bytes.slice(length..);
                }
                Err(error) if error.is(413) && length / 2 >= MIN_PIECE_BYTES => {
                    self.part_bytes.fetch_min(length / 2, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(parts)
    }

    async fn put(&self, path: PathBuf, part: Bytes) -> Result<(), RequestError> {
        let Guest { client, ready, .. } = &self.guest;
        let request = ready
            .request(client, Method::PUT, "/api/v1/files")
            .query(&[("path", path.to_string_lossy())])
            .header("content-type", "application/octet-stream")
            .body(part);
        client.send(request, Repeatable::Yes, &[]).await.map(drop)
    }

    fn part(&self, piece: usize, part: usize) -> PathBuf {
        let mut path = OsString::from(&self.base);
        path.push(format!(".{piece:06}.{part:03}"));
        path.into()
    }

    /// What is to be joined, in its order, where that is not too much to be named.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = PathBuf> {
        let parts = self.parts.iter().enumerate();
        parts
            .flat_map(|(piece, parts)| (0..*parts).map(move |part| (piece, part)))
            .map(|(piece, part)| self.part(piece, part))
    }

    /// What the names of the pieces begin with, as a word of a shell: see [`PIECES`].
    pub(crate) fn name(&self) -> String {
        word(self.base.as_os_str())
    }

    /// Joins the pieces into a new file of the scratch directory.
    pub(crate) async fn join_into(&self, path: &Path) -> Result<(), RequestError> {
        let text = if self.parts.is_empty() {
            ": >\"$1\"".to_owned()
        } else {
            format!("P={}\n{PIECES}join_pieces >\"$1\" && remove_pieces", self.name())
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
