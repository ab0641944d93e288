//! An archive of what goes into the guest.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use forge_domain::{Digest, SourceEntry, SourcePath, SourceStamp, WorkspaceSource};
use ring::digest::{Context, SHA256};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::bring_back::Hashed;
use crate::progress::{Progress, Telling};
use crate::upload::UPLOAD_PIECE_BYTES;

/// So many pieces wait to be sent.
pub(super) const WAITING_PIECES: usize = 4;

/// What was sent of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentPath {
    pub(crate) stamp: SourceStamp,
    /// What a file held.
    pub(crate) digest: Option<Digest>,
}

/// What went into an archive.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// What is in it.
    pub(crate) sent: BTreeMap<PathBuf, SentPath>,
    /// What was listed and is not there any more, or cannot be read.
    pub(crate) missed: Vec<PathBuf>,
    /// What was another version when it had been read: it is to be sent again.
    pub(crate) changed: Vec<PathBuf>,
    /// The SHA-256 hash of the archive, in hexadecimal digits.
    pub(crate) hash: String,
}

/// Packs these paths in their order, and sends the archive in pieces, each as large as is sent at once. It blocks.
///
/// # Errors
/// Nobody takes the pieces any more.
pub(crate) fn pack(
    source: &dyn WorkspaceSource,
    paths: Vec<SourcePath>,
    is_compressed: bool,
    pieces: mpsc::Sender<Bytes>,
    telling: &Telling,
) -> io::Result<Packed> {
    let pieces = Pieces { to: pieces, waiting: BytesMut::new(), hash: Context::new(&SHA256) };
    let level = if is_compressed { Compression::fast() } else { Compression::none() };
    let mut builder = Builder::new(GzEncoder::new(pieces, level));
    let mut packed = Packed::default();
    let mut count = Count::new(&paths, telling);
    for one in paths {
        count.one_more_path();
        let Some((is_as_listed, digest)) = append(&mut builder, source, &one, &mut count)? else {
            packed.missed.push(one.path);
            continue;
        };
        if !is_as_listed {
            packed.changed.push(one.path.clone());
        }
        packed.sent.insert(one.path, SentPath { stamp: one.stamp, digest });
    }
    let pieces = builder.into_inner()?.finish()?;
    packed.hash = pieces.finish()?;
    Ok(packed)
}

/// Packs parts that are named, and as long as is said, and sends the archive in pieces; its hash is returned. It blocks.
///
/// # Errors
/// A part cannot be read, or nobody takes the pieces any more.
pub(crate) fn pack_parts(
    parts: Vec<(&str, u64, Box<dyn Read + Send>)>,
    pieces: mpsc::Sender<Bytes>,
) -> io::Result<String> {
    let pieces = Pieces { to: pieces, waiting: BytesMut::new(), hash: Context::new(&SHA256) };
    // git has compressed what is large.
    let mut builder = Builder::new(GzEncoder::new(pieces, Compression::none()));
    for (name, length, contents) in parts {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(length);
        builder.append_data(&mut header, name, contents.take(length))?;
    }
    builder.into_inner()?.finish()?.finish()
}

/// Whether it was as it was listed, and of a file, what it held; `None` where it is not there or cannot be read.
fn append<W: Write>(
    builder: &mut Builder<W>,
    source: &dyn WorkspaceSource,
    one: &SourcePath,
    count: &mut Count<'_>,
) -> io::Result<Option<(bool, Option<Digest>)>> {
    let mut header = Header::new_gnu();
    header.set_mtime(one.modified_seconds);
    match &one.entry {
        SourceEntry::Directory { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            builder.append_data(&mut header, inside(&one.path), io::empty())?;
        }
        SourceEntry::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            builder.append_link(&mut header, inside(&one.path), target)?;
        }
        SourceEntry::File { size_bytes, mode } => {
            let Ok(file) = source.open(&one.path) else { return Ok(None) };
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(*size_bytes);
            let exact = Exact { file, left: *size_bytes, is_short: false, count };
            let mut exact = Hashed { inner: exact, hasher: blake3::Hasher::new() };
            builder.append_data(&mut header, inside(&one.path), &mut exact)?;
            let now = source.look(&one.path).ok().flatten();
            let is_as_listed =
                !exact.inner.is_short && now.is_some_and(|now| now.stamp == one.stamp);
            return Ok(Some((is_as_listed, Some(exact.digest()))));
        }
    }
    Ok(Some((true, None)))
}

/// Behind `./`, so that no name is taken for an option.
fn inside(path: &Path) -> PathBuf {
    Path::new(".").join(path)
}

/// Exactly so many bytes, whatever has become of the file: zeros stand for what is missing.
struct Exact<'a, 'b> {
    file: Box<dyn Read + Send>,
    left: u64,
    is_short: bool,
    count: &'a mut Count<'b>,
}

impl Read for Exact<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = match self.is_short {
            true => 0,
            // What cannot be read to its end is sent again, and said if that does not help.
            false => self.file.read(&mut buffer[..most]).unwrap_or(0),
        };
        if read == 0 {
            self.is_short = true;
            buffer[..most].fill(0);
        }
        let given = if read == 0 { most } else { read };
        self.left -= given as u64;
        self.count.more_bytes(given as u64);
        Ok(given)
    }
}

/// Counts what is packed, and tells of it.
struct Count<'a> {
    telling: &'a Telling,
    paths: u64,
    all_paths: u64,
    bytes: u64,
    all_bytes: u64,
}

impl<'a> Count<'a> {
    fn new(paths: &[SourcePath], telling: &'a Telling) -> Self {
        let size = |one: &SourcePath| match one.entry {
            SourceEntry::File { size_bytes, .. } => size_bytes,
            SourceEntry::Directory { .. } | SourceEntry::Symlink { .. } => 0,
        };
        let all_bytes = paths.iter().map(size).sum();
        Self { telling, paths: 0, all_paths: paths.len() as u64, bytes: 0, all_bytes }
    }

    fn one_more_path(&mut self) {
        self.paths += 1;
        self.tell();
    }

    fn more_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tell();
    }

    fn tell(&self) {
        let Self { paths, all_paths, bytes, all_bytes, .. } = *self;
        self.telling.tell(Progress::Sending { paths, all_paths, bytes, all_bytes });
    }
}

/// Cuts what is written to it.
struct Pieces {
    to: mpsc::Sender<Bytes>,
    waiting: BytesMut,
    hash: Context,
}

impl Pieces {
    fn finish(mut self) -> io::Result<String> {
        self.flush()?;
        let digits = self.hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(digits)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = UPLOAD_PIECE_BYTES - self.waiting.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.waiting.extend_from_slice(taken);
        self.hash.update(taken);
        if self.waiting.len() == UPLOAD_PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = self.waiting.split().freeze();
        self.to.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
