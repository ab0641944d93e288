//! A few paths that the host has changed, brought in by one request, which also says what they are in the guest then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge_domain::{EnvironmentError, SourceEntry, SourcePath, WorkspaceSource};
use tokio::sync::mpsc;

use super::pack::{Packed, WAITING_PIECES, pack};
use super::run::OPERATION;
use super::take_in::REMOVE;
use crate::bring_back::{GuestTree, PRINT_LIST, names, read_tree};
use crate::environment::Inner;
use crate::failure::unavailable;
use crate::guest::word;
use crate::progress::Telling;
use crate::scripts::{Guest, Script};

/// Files of more bytes together go by an upload. Linux takes no argument of more than 128 KiB (execve(2)), and base64 makes four
/// bytes of three.
const MAX_BYTES: u64 = 48 * 1024;
const MAX_ARGUMENT_BYTES: usize = 96 * 1024;
const MAX_PATHS: usize = 200;

/// Removes the paths in `$1`, unpacks the archive in `$2`, whose hash is `hash`, and lists the paths in `$3`; each is base64.
const BRING: &str = r#"archive=$(mktemp "$K/in-XXXXXXXXXX") || exit
trap 'rm -f -- "$archive"' EXIT
printf %s "$2" | base64 -d >"$archive" || exit
if [ -s "$archive" ]; then
  found=$(sha256sum <"$archive") || exit
  [ "${found%% *}" = "$hash" ] || { echo "differs ${found%% *}"; exit; }
  gzip -dc <"$archive" | tar -x -p --no-same-owner -f - || exit
fi
# What is written just now has to be told apart from what is written next.
sleep 0.03
list() {
  : >"$K/now"
  find "$K/now" -maxdepth 0 -printf '%C@\0'
  printf %s "$1" | base64 -d | xargs -0 sh -c 'find "$@" -maxdepth 0 -type d \( ! -readable -o ! -executable \) \
    -printf "u 0 0 0 0\0%p\0\0" -o -printf "%y %m %s %C@ %i\0%p\0%l\0" 2>/dev/null' sh
  printf 'rules\0end\0'
}
"#;

/// What one request has brought in.
pub(super) struct Brought {
    pub(super) packed: Packed,
    /// What the paths are there.
    pub(super) tree: GuestTree,
}

impl Inner {
    /// Removes some paths and sends others, where that is little enough for one request, and none of it changes meanwhile: else
    /// nothing is done.
    pub(super) async fn bring_little(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        removals: &[PathBuf],
        following: &[SourcePath],
        telling: &Arc<Telling>,
    ) -> Result<Option<Brought>, EnvironmentError> {
        let size = |one: &SourcePath| match one.entry {
            SourceEntry::File { size_bytes, .. } => size_bytes,
            SourceEntry::Directory { .. } | SourceEntry::Symlink { .. } => 0,
        };
        let total: u64 = following.iter().map(size).fold(0, u64::saturating_add);
        if total > MAX_BYTES || following.len() + removals.len() > MAX_PATHS {
            return Ok(None);
        }
        let (packed, archive) = match following.is_empty() {
            true => (Packed::default(), Vec::new()),
            false => packed_here(source, following.to_vec(), telling).await?,
        };
        if !packed.changed.is_empty() {
            return Ok(None);
        }
        let listed = following.iter().map(|one| one.path.as_path());
        let listed = names(listed.chain(removals.iter().map(PathBuf::as_path)));
        let arguments = [&names(removals.iter().map(PathBuf::as_path))[..], &archive, &listed]
            .map(|bytes| STANDARD.encode(bytes));
        if arguments.iter().map(String::len).sum::<usize>() > MAX_ARGUMENT_BYTES {
            return Ok(None);
        }
        let paths: [&Path; 2] = [&guest.scratch, &self.workspace.root];
        let [scratch, root] = paths.map(|path| word(path.as_os_str()));
        let text = format!(
            "export LC_ALL=C\nK={scratch} W={root} hash={}\n( {REMOVE}\n) >&2 || exit\ncd -P -- \"$W\" || exit\n{BRING}\
             list_of=$3\n{PRINT_LIST}: >\"$K/project\"",
            packed.hash
        );
        let [removed, archive, listed] = arguments;
        let script = Script::new(text, []).long(removed).long(archive).long(listed);
        let output = guest.script(&script).await;
        let output = output.map_err(|error| error.in_environment(OPERATION))?;
        if output.lines.first().is_none_or(|line| !line.starts_with("ok ")) {
            return Err(self.refused(guest, &output.complaint));
        }
        Ok(Some(Brought { packed, tree: read_tree(&output).await? }))
    }
}

async fn packed_here(
    source: &Arc<dyn WorkspaceSource>,
    paths: Vec<SourcePath>,
    telling: &Arc<Telling>,
) -> Result<(Packed, Vec<u8>), EnvironmentError> {
    let (to, mut pieces) = mpsc::channel(WAITING_PIECES);
    let (source, telling) = (Arc::clone(source), Arc::clone(telling));
    let packing = tokio::task::spawn_blocking(move || pack(&*source, paths, true, to, &telling));
    let mut archive = Vec::new();
    while let Some(piece) = pieces.recv().await {
        archive.extend_from_slice(&piece);
    }
    let packed = packing.await.map_err(|_| unavailable("it was cut off".to_owned()))?;
    Ok((packed.map_err(|error| unavailable(error.to_string()))?, archive))
}
