//! The file port: each call a text in the guest, which resolves the path where it means something.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forge_domain::{
    ByteRange, DirectoryEntry, Existing, FileContents, FileError, FileKind, FileStat, Files,
    Removal, WriteOptions,
};

use crate::environment::{Inner, TensorlakeEnvironment, random_name};
use crate::failure::{RequestError, unavailable};
use crate::guest::files::{LIST, READ, REMOVE, STAT, WRITE};
use crate::guest::word;
use crate::scripts::{Script, ScriptOutput};

/// What goes along with the request itself; more is sent before it.
const MAX_INLINE_BYTES: usize = 64 * 1024;

/// What is asked of one path.
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a Path,
    pub(crate) operation: &'static str,
}

#[async_trait]
impl Files for TensorlakeEnvironment {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        let asked = Asked { path, operation: "read" };
        // What a shell can count with.
        let most = |number: u64| number.min(i64::MAX as u64 - 1).to_string().into();
        let arguments = [most(range.offset), most(range.max_bytes)];
        let output = self.inner.in_bounds(&asked, READ, &arguments).await?;
        let total_bytes = asked.number(output.said())?;
        let bytes = asked.decode(output.data())?.into();
        Ok(FileContents { bytes, total_bytes })
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        options: WriteOptions,
    ) -> Result<(), FileError> {
        let asked = Asked { path, operation: "write" };
        asked.check()?;
        let mode = options.mode.map_or("-".to_owned(), |mode| format!("{:o}", mode & 0o777));
        let existing = match options.existing {
            Existing::Replace => "replace",
            Existing::Keep => "keep",
        };
        let mut arguments: Vec<OsString> = vec![mode.into(), existing.into()];
        if contents.len() <= MAX_INLINE_BYTES {
            arguments.push("here".into());
            let text = STANDARD.encode(&contents);
            let script = |script| match options.existing {
                Existing::Replace => Script::new(script, []).long(text.clone()),
                Existing::Keep => Script::new(script, []).long(text.clone()).once(),
            };
            return self.inner.in_bounds_by(&asked, WRITE, &arguments, script).await.map(drop);
        }
        // A task of its own: a write that was begun is not left half done.
        let inner = std::sync::Arc::clone(&self.inner);
        let path = path.to_path_buf();
        let written = tokio::spawn(async move {
            let asked = Asked { path: &path, operation: "write" };
            let upload = inner.send_pieces(asked.operation, contents).await?;
            arguments.push("pieces".into());
            arguments.extend(upload.pieces().map(PathBuf::into_os_string));
            // Its pieces are gone once they were joined.
            let script = |text| Script::new(text, []).once();
            inner.in_bounds_by(&asked, WRITE, &arguments, script).await.map(drop)
        });
        match written.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(unavailable("the write was cut off".to_owned()).into()),
        }
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        let asked = Asked { path, operation: "remove" };
        let how = match removal {
            Removal::Single => "single",
            Removal::Tree => "tree",
        };
        let script = |text| Script::new(text, []).once();
        self.inner.in_bounds_by(&asked, REMOVE, &[how.into()], script).await.map(drop)
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        let asked = Asked { path, operation: "list" };
        let mark = random_name();
        let output = self.inner.in_bounds(&asked, LIST, &[mark.clone().into()]).await?;
        let listing = asked.decode(output.data())?;
        let mut entries: Vec<DirectoryEntry> =
            split_listing(&listing, mark.as_bytes()).into_iter().filter_map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let asked = Asked { path, operation: "stat" };
        let output = self.inner.in_bounds(&asked, STAT, &[]).await?;
        let mut words = output.said().split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (mode, size, time) = (next(), next(), next());
        let mode = u32::from_str_radix(mode, 16).map_err(|_| asked.unreadable())?;
        let mut target = asked.decode(output.data())?;
        // The newline that readlink adds.
        target.pop();
        let kind = match kind(mode) {
            FileKind::Symlink { .. } => {
                FileKind::Symlink { target: Some(OsString::from_vec(target).into()) }
            }
            other => other,
        };
        let size_bytes = if kind == FileKind::File { asked.number(size)? } else { 0 };
        let modified =
            time.parse().ok().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        Ok(FileStat { kind, size_bytes, mode: Some(mode & 0o7777), modified })
    }
}

/// The type in a raw mode (`S_IFMT` of inode(7)).
fn kind(mode: u32) -> FileKind {
    match mode & 0o170_000 {
        0o100_000 => FileKind::File,
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Symlink { target: None },
        _ => FileKind::Other,
    }
}

/// Each entry begins with the mark, at the beginning or after a newline, since a name may hold newlines.
fn split_listing<'a>(listing: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let separator = [b"\n", mark, b" "].concat();
    let Some(mut rest) = listing.strip_prefix(&separator[1..]) else { return Vec::new() };
    rest = rest.strip_suffix(b"\n").unwrap_or(rest);
    let mut entries = Vec::new();
    while let Some(at) = rest.windows(separator.len()).position(|part| part == separator) {
        entries.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    entries.push(rest);
    entries
}

/// `MODE SIZE ./NAME`.
fn entry(line: &[u8]) -> Option<DirectoryEntry> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let mode = std::str::from_utf8(parts.next()?).ok()?;
    let kind = kind(u32::from_str_radix(mode, 16).ok()?);
    let size: u64 = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let name = parts.next()?.strip_prefix(b"./")?;
    let size_bytes = if kind == FileKind::File { size } else { 0 };
    Some(DirectoryEntry { name: OsStr::from_bytes(name).to_owned(), kind, size_bytes })
}

impl Asked<'_> {
    pub(crate) fn check(&self) -> Result<(), FileError> {
        let bytes = self.path.as_os_str().as_bytes();
        let reason = if bytes.is_empty() {
            "it is empty"
        } else if bytes.contains(&0) {
            "it holds a NUL byte"
        } else if bytes.len() > 4000 {
            "it is too long"
        } else if bytes.split(|byte| *byte == b'/').any(|name| name.len() > 255) {
            "a name in it is longer than 255 bytes"
        } else {
            return Ok(());
        };
        Err(FileError::InvalidPath { path: self.path.to_path_buf(), reason: reason.to_owned() })
    }

    pub(crate) fn unreadable(&self) -> FileError {
        RequestError::Unreadable("the guest printed something else than was expected".to_owned())
            .in_environment(self.operation)
            .into()
    }

    fn number(&self, text: &str) -> Result<u64, FileError> {
        text.parse().map_err(|_| self.unreadable())
    }

    pub(crate) fn decode<S: AsRef<str>>(&self, lines: &[S]) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        for line in lines {
            STANDARD.decode_vec(line.as_ref(), &mut bytes).map_err(|_| self.unreadable())?;
        }
        Ok(bytes)
    }

    /// What stands in the way, by the text's own word or by what a tool complained of.
    fn refusal(&self, output: &ScriptOutput) -> FileError {
        let path = self.path.to_path_buf();
        let word = output.lines.first().map(String::as_str).unwrap_or_default();
        let complaint = output.complaint.trim();
        let complains = |text: &str| complaint.contains(text);
        match word {
            "missing" => FileError::NotFound { path },
            "outside" => FileError::Outside { path },
            "directory" => FileError::IsDirectory { path },
            "file" => FileError::NotDirectory { path },
            "special" => FileError::Special { path },
            "exists" => FileError::AlreadyExists { path },
            "denied" => FileError::PermissionDenied { path },
            "grep" => unavailable(
                "its image has no GNU grep, which search needs; a command can search".to_owned(),
            )
            .into(),
            "loop" => FileError::InvalidPath {
                path,
                reason: "its symlinks go round in circles".to_owned(),
            },
            _ if complains("Not a directory") || complains("File exists") => {
                FileError::NotDirectory { path }
            }
            _ if complains("Directory not empty") => FileError::NotEmpty { path },
            _ if complains("No space left") || complains("quota exceeded") => {
                FileError::NoSpace { path }
            }
            _ if complains("Permission denied")
                || complains("Operation not permitted")
                || complains("Read-only file system") =>
            {
                FileError::PermissionDenied { path }
            }
            _ if complains("File name too long") => {
                FileError::InvalidPath { path, reason: "a name in it is too long".to_owned() }
            }
            _ => {
                let line = complaint.lines().last().unwrap_or("nothing was said");
                let source = io::Error::other(line.to_owned());
                FileError::Io { path, operation: self.operation, source }
            }
        }
    }
}

/// An answer that began with `ok`.
#[derive(Debug)]
pub(crate) struct Answer {
    lines: Vec<String>,
}

impl Answer {
    /// What followed the `ok` on its line.
    fn said(&self) -> &str {
        self.lines[0].strip_prefix("ok").unwrap_or_default().trim()
    }

    /// The lines after it.
    pub(crate) fn data(&self) -> &[String] {
        &self.lines[1..]
    }
}

impl Inner {
    /// Runs a text on a path.
    pub(crate) async fn in_bounds(
        &self,
        asked: &Asked<'_>,
        text: &str,
        arguments: &[OsString],
    ) -> Result<Answer, FileError> {
        self.in_bounds_by(asked, text, arguments, |text| Script::new(text, [])).await
    }

    /// The same, with a script that takes more than words.
    pub(crate) async fn in_bounds_by(
        &self,
        asked: &Asked<'_>,
        text: &str,
        arguments: &[OsString],
        script: impl Fn(String) -> Script,
    ) -> Result<Answer, FileError> {
        asked.check()?;
        let path = self.workspace.working_directory.join(asked.path);
        let words: Vec<String> = [path.as_os_str()]
            .into_iter()
            .chain(arguments.iter().map(OsString::as_os_str))
            .map(word)
            .collect();
        let text = format!("set -- {} \"$@\"\n{text}", words.join(" "));
        self.may_change_files();
        let output = self.entered(asked.operation, &text, script).await;
        self.may_change_files();
        let output = output?;
        match output.lines.first() {
            Some(line) if line == "ok" || line.starts_with("ok ") => {
                Ok(Answer { lines: output.lines })
            }
            _ => Err(asked.refusal(&output)),
        }
    }
}

/// A path as the guest has it.
pub(crate) fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}
