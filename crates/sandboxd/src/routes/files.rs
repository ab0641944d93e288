//! Files of a sandbox, streamed both ways.

use std::ffi::OsString;
use std::fs::File;
use std::io::SeekFrom;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use forge_domain::{FileKind, Files, Removal, WriteOptions};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::App;
use super::request::{Inside, broken};
use crate::failure::Failure;
use crate::wire::{EntryResponse, millis};

/// A file that is no larger is held in memory on its way in.
const MEMORY_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// The path that is asked for.
fn path_of(uri: &Uri) -> Result<PathBuf, Failure> {
    let query = uri.query().unwrap_or_default();
    let value = query.split('&').find_map(|pair| pair.strip_prefix("path="));
    let value = value.ok_or_else(|| Failure::bad("the query names no path"))?;
    let path = PathBuf::from(OsString::from_vec(decoded(value)));
    if path.components().any(|part| part == Component::ParentDir) {
        let text = format!("{} holds '..'", path.display());
        return Err(Failure::new(StatusCode::FORBIDDEN, "PATH_TRAVERSAL", text));
    }
    Ok(path)
}

/// What a value of a query stands for, in any bytes.
fn decoded(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'))?;
            u8::from_str_radix(text, 16).ok()
        };
        rest = tail;
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    bytes
}

pub(super) async fn read(Inside(sandbox): Inside, uri: Uri) -> Result<Response, Failure> {
    let path = path_of(&uri)?;
    let (file, size) = sandbox.environment.open_file(&path).await?;
    let file = tokio::fs::File::from_std(file);
    let kind = (header::CONTENT_TYPE, "application/octet-stream");
    // What the kernel makes up, as `/proc/cpuinfo`, says that it is empty.
    if size == 0 {
        let body = Body::from_stream(ReaderStream::with_capacity(file, READ_BYTES));
        return Ok(([kind], body).into_response());
    }
    let stream = ReaderStream::with_capacity(file.take(size), READ_BYTES);
    let length = (header::CONTENT_LENGTH, size.to_string());
    Ok(([kind], [length], Body::from_stream(stream)).into_response())
}

pub(super) async fn write(
    State(shared): App,
    Inside(sandbox): Inside,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let path = path_of(&uri)?;
    let limit = shared.max_file_bytes;
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if said.and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > limit) {
        return Err(Failure::too_large("the file", limit));
    }
    match receive(body, limit, &shared.output.directory).await? {
        Received::Memory(bytes) => {
            sandbox.environment.write(&path, bytes, WriteOptions::default()).await?;
        }
        Received::File(file) => {
            sandbox.environment.write_file_from(&path, file, WriteOptions::default()).await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

enum Received {
    Memory(Bytes),
    File(File),
}

/// Takes a body in, beside the sandbox: one that breaks off changes nothing there.
async fn receive(body: Body, limit: u64, directory: &Path) -> Result<Received, Failure> {
    let failed = |error: std::io::Error| Failure::internal(&error);
    let mut stream = body.into_data_stream();
    let mut memory = Vec::new();
    let mut file: Option<tokio::fs::File> = None;
    let mut length = 0u64;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(broken)?;
        length += piece.len() as u64;
        if length > limit {
            return Err(Failure::too_large("the file", limit));
        }
        if file.is_none() && memory.len() + piece.len() > MEMORY_BYTES {
            let made = tempfile::tempfile_in(directory).map_err(failed)?;
            file = Some(tokio::fs::File::from_std(made));
        }
        let Some(file) = &mut file else {
            memory.extend_from_slice(&piece);
            continue;
        };
        if !memory.is_empty() {
            file.write_all(&std::mem::take(&mut memory)).await.map_err(failed)?;
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    let Some(mut file) = file else { return Ok(Received::Memory(memory.into())) };
    file.flush().await.map_err(failed)?;
    file.seek(SeekFrom::Start(0)).await.map_err(failed)?;
    Ok(Received::File(file.into_std().await))
}

pub(super) async fn remove(Inside(sandbox): Inside, uri: Uri) -> Result<StatusCode, Failure> {
    let path = path_of(&uri)?;
    let stat = sandbox.environment.stat(&path).await?;
    if stat.kind == FileKind::Directory {
        let text = format!("{} is a directory", path.display());
        return Err(Failure::new(StatusCode::BAD_REQUEST, "IS_DIRECTORY", text));
    }
    sandbox.environment.remove(&path, Removal::Single).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Directories first, then by the bytes of the names.
pub(super) async fn list(Inside(sandbox): Inside, uri: Uri) -> Result<Json<Value>, Failure> {
    let path = path_of(&uri)?;
    let listed = sandbox.environment.list_with_times(&path).await?;
    let (directories, others): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|(entry, _)| entry.kind == FileKind::Directory);
    let entries: Vec<_> = directories
        .into_iter()
        .chain(others)
        .map(|(entry, modified)| {
            let is_dir = entry.kind == FileKind::Directory;
            EntryResponse {
                name: entry.name.to_string_lossy().into_owned(),
                is_dir,
                size: (!is_dir).then_some(entry.size_bytes),
                modified_at: modified.map(millis),
            }
        })
        .collect();
    Ok(Json(json!({"path": path.to_string_lossy(), "entries": entries})))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_query_holds_any_bytes() {
        for (value, expected) in [
            ("/a%20b+c", &b"/a b c"[..]),
            ("%FF%2f", b"\xff/"),
            ("100%", b"100%"),
            ("%zz%+1", b"%zz% 1"),
        ] {
            assert_eq!(decoded(value), expected, "{value}");
        }
    }

    #[test]
    fn a_path_with_two_dots_is_refused_however_it_is_written() {
        for query in ["/a/../b", "..", "/%2e%2e/etc", "/a/%2E./b"] {
            let uri: Uri = format!("/api/v1/files?path={query}").parse().unwrap();
            assert!(path_of(&uri).is_err(), "{query}");
        }
        let uri: Uri = "/api/v1/files?x=1&path=/a..b/c".parse().unwrap();
        assert_eq!(path_of(&uri).unwrap(), PathBuf::from("/a..b/c"));
    }
}
