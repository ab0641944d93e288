//! The way back in its order: list, compare, fetch, hand over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use forge_domain::{
    BoxedError, Digest, EnvironmentError, EnvironmentKind, NotReturned, ReturnKeeper, Returned,
    StaysThere,
};
use reqwest::Method;
use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

use super::archive::{PACK, read_files};
use super::compare::{Difference, Kept, Known};
use super::listing::{GuestKind, GuestRefs, GuestTree, LIST_TREE, PRINT_LIST};
use super::state::GuestState;
use crate::environment::{Inner, TensorlakeEnvironment};
use crate::failure::{RequestError, unavailable};
use crate::guest::word;
use crate::retry::Repeatable;
use crate::scripts::{Guest, Script, ScriptOutput};
use crate::upload::PIECES;

/// Names that go along with the request itself.
const MAX_INLINE_BYTES: usize = 64 * 1024;
/// A list of two million entries is shorter, unpacked.
const MAX_LIST_BYTES: u64 = 1024 * 1024 * 1024;
/// An archive is at the most so much longer than what is in it.
const MAX_ARCHIVE_BYTES: u64 = 5 * 1024 * 1024 * 1024;

const LISTING: &str = "listing the guest's files";
const FETCHING: &str = "fetching what was changed";

/// What is known of the guest's tree; nothing where no project was brought in.
#[derive(Debug, Default)]
pub(crate) struct BringBack {
    /// One at a time.
    turn: AsyncMutex<()>,
    known: Mutex<Option<Known>>,
    /// And which sandbox's they are.
    refs: Mutex<Option<(String, GuestRefs)>>,
    /// What the last call found, when nothing was under way.
    found: Mutex<Option<(u64, NotReturned)>>,
}

impl BringBack {
    pub(crate) fn known(&self) -> MutexGuard<'_, Option<Known>> {
        // What is in it is changed by whole paths.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest's git named when its tree was last listed.
    pub(crate) fn refs(&self) -> MutexGuard<'_, Option<(String, GuestRefs)>> {
        self.refs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Option<(u64, NotReturned)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TensorlakeEnvironment {
    /// Hands over what differs in the guest from what was brought in, as far as it was not handed over yet. Says what was
    /// not; `None` where no project was brought in, or the sandbox was never used.
    ///
    /// Commands may run meanwhile: what they write is handed over as it is at that moment, and again by the next call. Where
    /// nothing was begun through this environment since the last call, the guest is not asked: see
    /// [`look_again`](Self::look_again).
    ///
    /// # Errors
    /// The guest cannot be asked, lies, or lacks GNU `find` or `tar`; or the keeper's own. What was handed over until
    /// then is kept, and is handed over again by the next call.
    ///
    /// # Cancel safety
    /// As with an error.
    pub async fn bring_back<K: ReturnKeeper + 'static>(
        &self,
        keeper: K,
    ) -> Result<Option<NotReturned>, EnvironmentError> {
        self.inner.bring_back(keeper).await
    }

    /// Has the next [`bring_back`](Self::bring_back) ask the guest in any case: what runs there by itself may change files, too.
    pub fn look_again(&self) {
        *self.inner.bring_back.found() = None;
    }
}

impl Inner {
    /// Notes what the guest's tree is now, right after the project was brought in.
    pub(crate) async fn begin_bring_back(
        &self,
        guest: &Guest,
        tree: GuestTree,
    ) -> Result<(), EnvironmentError> {
        let sandbox = guest.ready.id.clone();
        let known = Known { sandbox, begun: tree.paths, kept: BTreeMap::new() };
        *self.bring_back.known() = Some(known);
        *self.bring_back.found() = None;
        self.record_state().await
    }

    /// Writes down, where that is done, what another process needs to tell what is changed in the guest from now on.
    pub(crate) async fn record_state(&self) -> Result<(), EnvironmentError> {
        if !self.record.is_kept() {
            return Ok(());
        }
        let state = self
            .bring_back
            .known()
            .as_ref()
            .map(|known| GuestState::write(known, &self.scratch, None));
        match state {
            Some(state) => self.record.fill(&self.owned_name(), state).await,
            None => Ok(()),
        }
    }

    /// What whoever goes on with this sandbox needs; `None` where the project is not in it.
    pub(crate) async fn whole_state(&self) -> Option<Vec<u8>> {
        let sandbox = self.bring_back.known().as_ref()?.sandbox.clone();
        let sent = self.bring_in.sent(&sandbox).await?;
        let known = self.bring_back.known();
        Some(GuestState::write(known.as_ref()?, &self.scratch, Some(&sent)))
    }

    async fn bring_back<K: ReturnKeeper + 'static>(
        &self,
        keeper: K,
    ) -> Result<Option<NotReturned>, EnvironmentError> {
        let _turn = self.bring_back.turn.lock().await;
        if self.bring_back.known().is_none() {
            *self.bring_back.refs() = None;
            return Ok(None);
        }
        let guest = self.guest(self.ready().await?);
        if self.bring_back.known().as_ref().is_none_or(|known| known.sandbox != guest.ready.id) {
            *self.bring_back.refs() = None;
            return Ok(None);
        }
        let standstill = self.standstill();
        if let Some(now) = standstill
            && let Some((then, found)) = &*self.bring_back.found()
            && *then == now
        {
            return Ok(Some(found.clone()));
        }
        // What is only half there would be taken for deleted. All that was changed was handed over before it went in.
        let how = if self.is_marked() { "whole" } else { "" };
        let Some(tree) = self.list(&guest, how).await? else {
            warn!("The project is not whole in the sandbox; nothing is brought back.");
            *self.bring_back.refs() = None;
            return Ok(None);
        };
        let sandbox = guest.ready.id.clone();
        *self.bring_back.refs() = tree.refs.clone().map(|refs| (sandbox, refs));
        let Some(found) =
            self.bring_back.known().as_ref().map(|known| Difference::of(known, &tree))
        else {
            return Ok(None);
        };
        let not_returned =
            NotReturned { ignored_files: found.ignored_files, left: found.left.clone() };
        if found.is_empty() {
            *self.bring_back.found() = standstill.map(|begun| (begun, not_returned.clone()));
            return Ok(Some(not_returned));
        }
        let files: Vec<&Path> = found
            .there
            .iter()
            .filter(|(_, stat, _)| stat.kind == GuestKind::File)
            .map(|(path, ..)| path.as_path())
            .collect();
        let fetched = if files.is_empty() { None } else { Some(self.fetch(&files).await?) };
        let handed_over =
            tokio::task::spawn_blocking(move || hand_over(keeper, found, fetched, not_returned));
        let handed_over =
            handed_over.await.map_err(|_| unavailable("it was cut off".to_owned()))?;
        let (found, not_returned, digests) =
            handed_over.map_err(|source| EnvironmentError::Unavailable {
                environment: EnvironmentKind::Tensorlake,
                reason: "what was changed there cannot be kept on this machine".to_owned(),
                source: Some(source),
            })?;
        if let Some(known) = &mut *self.bring_back.known() {
            known.keep(found, &digests, &not_returned);
        }
        *self.bring_back.found() = standstill.map(|begun| (begun, not_returned.clone()));
        Ok(Some(not_returned))
    }

    /// What the guest's tree is, when what was written just now can be told apart from what is written next.
    pub(crate) async fn list_settled(&self, guest: &Guest) -> Result<GuestTree, EnvironmentError> {
        let tree = self.list(guest, "settle").await?;
        tree.ok_or_else(|| unreadable(LISTING))
    }

    /// `None` where it is to be whole and is not. Of this very sandbox: another one would have nothing of what was changed.
    async fn list(
        &self,
        guest: &Guest,
        settle: &str,
    ) -> Result<Option<GuestTree>, EnvironmentError> {
        let [scratch, root] =
            [&guest.scratch, &self.workspace.root].map(|path| word(path.as_os_str()));
        let text = format!(
            "LC_ALL=C K={scratch} W={root}\nexport LC_ALL\nset -- {settle}\n{LIST_TREE}{PRINT_LIST}"
        );
        let output = guest.script(&Script::new(text, [])).await;
        let output = output.map_err(|error| error.in_environment(LISTING))?;
        match output.lines.first().map(String::as_str) {
            Some("hollow") => Ok(None),
            _ => read_tree(&output).await.map(Some),
        }
    }

    /// An archive of these files, in a file of ours without a name or in memory.
    async fn fetch(&self, files: &[&Path]) -> Result<(Packing, Fetched), EnvironmentError> {
        let names = names(files.iter().copied());
        let output = if names.len() <= MAX_INLINE_BYTES {
            let names = STANDARD.encode(&names);
            self.entered(FETCHING, PACK, |text| Script::new(text, []).long(names.clone())).await?
        } else {
            let upload = self.send_pieces(FETCHING, Bytes::from(names)).await?;
            let text = format!("P={}\n{PIECES}set -- -\n{PACK}", upload.name());
            self.entered(FETCHING, &text, |text| Script::new(text, []).once()).await?
        };
        if let Some(rest) = output.lines.first().and_then(|line| line.strip_prefix("ok file ")) {
            let mut words = rest.splitn(3, ' ');
            let (kind, size) = (Packing::parse(words.next()), words.next());
            let size =
                size.and_then(|size| size.parse().ok()).filter(|size| *size <= MAX_ARCHIVE_BYTES);
            let (Some(kind), Some(size), Some(path)) = (kind, size, words.next()) else {
                return Err(unreadable(FETCHING));
            };
            return Ok((kind, Fetched::File(self.download(path, size).await?)));
        }
        let (kind, bytes) = packed(&output.lines, &output.complaint, "ok here ")?;
        Ok((kind, Fetched::Memory(bytes)))
    }

    /// A file of the guest, in a file of ours without a name.
    pub(super) async fn download(&self, path: &str, size: u64) -> Result<File, EnvironmentError> {
        let client = &self.client;
        self.on_sandbox(FETCHING, |ready| {
            let path = path.to_owned();
            Box::pin(async move {
                let request = ready
                    .request(client, Method::GET, "/api/v1/files")
                    .query(&[("path", path.as_str())]);
                let mut response = client.send(request, Repeatable::Yes, &[]).await?;
                let failed = |error: io::Error| {
                    RequestError::Unreadable(format!("it cannot be kept on this machine: {error}"))
                };
                let mut file = tempfile::tempfile().map_err(failed)?;
                let mut length = 0;
                while let Some(chunk) = client.chunk(&mut response).await? {
                    length += chunk.len() as u64;
                    if length > size {
                        break;
                    }
                    file.write_all(&chunk).map_err(failed)?;
                }
                if length != size {
                    let reason = format!("{length} bytes came of the {size} that it has");
                    return Err(RequestError::Unreadable(reason));
                }
                file.rewind().map_err(failed)?;
                Ok(file)
            })
        })
        .await
    }
}

pub(crate) async fn read_tree(output: &ScriptOutput) -> Result<GuestTree, EnvironmentError> {
    let (kind, bytes) = packed(&output.lines, &output.complaint, "ok ")?;
    let read = tokio::task::spawn_blocking(move || {
        GuestTree::read(unpacked(kind, &*bytes).take(MAX_LIST_BYTES))
    });
    let read = read.await.map_err(|_| unavailable("the list was cut off".to_owned()))?;
    read.map_err(|error| unavailable(error.to_string()))
}

/// The paths each with a NUL, behind `./`, as the guest's tools take them.
pub(crate) fn names<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<u8> {
    let mut names = Vec::new();
    for path in paths {
        names.extend_from_slice(b"./");
        names.extend_from_slice(path.as_os_str().as_bytes());
        names.push(0);
    }
    names
}

/// How bytes are packed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Plain,
}

impl Packing {
    fn parse(word: Option<&str>) -> Option<Self> {
        match word? {
            "gzip" => Some(Self::Gzip),
            "plain" => Some(Self::Plain),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Fetched {
    Memory(Vec<u8>),
    File(File),
}

/// What a text printed behind such a word: how it is packed, and the bytes.
fn packed(
    lines: &[String],
    complaint: &str,
    word: &str,
) -> Result<(Packing, Vec<u8>), EnvironmentError> {
    let (first, rest) = lines.split_first().ok_or_else(|| {
        let complaint = complaint.lines().last().unwrap_or("it said nothing");
        unavailable(format!("the guest cannot list or pack its files: {complaint}"))
    })?;
    if let Some(missing) = first.strip_prefix("lacks ") {
        return Err(unavailable(format!(
            "its image has no {missing}, which bringing changes back needs"
        )));
    }
    let kind = first.strip_prefix(word).and_then(|kind| Packing::parse(Some(kind)));
    let kind = kind.ok_or_else(|| unreadable(LISTING))?;
    let mut bytes = Vec::new();
    for line in rest {
        STANDARD.decode_vec(line, &mut bytes).map_err(|_| unreadable(LISTING))?;
    }
    Ok((kind, bytes))
}

fn unpacked<'a>(kind: Packing, bytes: impl Read + 'a) -> Box<dyn Read + 'a> {
    match kind {
        Packing::Gzip => Box::new(MultiGzDecoder::new(bytes)),
        Packing::Plain => Box::new(bytes),
    }
}

fn unreadable(operation: &str) -> EnvironmentError {
    RequestError::Unreadable("the guest printed something else than was expected".to_owned())
        .in_environment(operation)
}

/// Gives everything to the keeper: first what is gone, then each directory before what is in it.
fn hand_over<K: ReturnKeeper>(
    mut keeper: K,
    found: Difference,
    fetched: Option<(Packing, Fetched)>,
    mut not_returned: NotReturned,
) -> Result<(Difference, NotReturned, Digests), BoxedError> {
    use forge_domain::ReturnedOrigin::Workspace;
    for path in &found.gone {
        keeper.put(path, Returned::Nothing, Workspace)?;
    }
    let mut wanted = BTreeMap::new();
    let mut stats = BTreeMap::new();
    let mut digests = Digests::new();
    for (path, stat, origin) in &found.there {
        match stat.kind {
            GuestKind::Directory => {
                keeper.put(path, Returned::Directory { mode: stat.mode }, *origin)?;
            }
            GuestKind::Symlink => {
                keeper.put(path, Returned::Symlink { target: &stat.target }, *origin)?;
            }
            _ => {
                wanted.insert(path.clone(), stat.size_bytes);
                stats.insert(path.as_path(), (stat.mode, *origin));
            }
        }
    }
    if let Some((kind, fetched)) = fetched {
        let archive: Box<dyn Read + '_> = match &fetched {
            Fetched::Memory(bytes) => unpacked(kind, &**bytes),
            Fetched::File(file) => unpacked(kind, io::BufReader::new(file)),
        };
        let missing = read_files(archive, wanted, |path, contents| {
            let Some((mode, origin)) = stats.get(path) else { return Ok(()) };
            let mut contents = Hashed { inner: contents, hasher: blake3::Hasher::new() };
            let file = Returned::File { mode: *mode, contents: &mut contents };
            keeper.put(path, file, *origin)?;
            digests.insert(path.to_path_buf(), contents.digest());
            Ok::<(), BoxedError>(())
        })?;
        let gone = missing.into_keys();
        not_returned.left.extend(gone.map(|path| (path, StaysThere::Unreadable)));
        not_returned.left.sort();
    }
    keeper.finish(&not_returned)?;
    Ok((found, not_returned, digests))
}

/// What files hold that were handed over.
type Digests = BTreeMap<PathBuf, Digest>;

impl Known {
    /// Notes what was handed over. What could not be is tried again.
    fn keep(&mut self, found: Difference, digests: &Digests, not_returned: &NotReturned) {
        let is_left = |path: &PathBuf| not_returned.left.iter().any(|(left, _)| left == path);
        for (path, stat, _) in found.there {
            if !is_left(&path) {
                let digest = digests.get(&path).copied();
                self.kept.insert(path, Kept::There(stat, digest));
            }
        }
        for path in found.gone {
            // And whatever was in it.
            self.kept.retain(|kept, _| !kept.starts_with(&path));
            self.kept.insert(path, Kept::Nothing);
        }
    }
}

/// Hashes what is read through it.
pub(crate) struct Hashed<R> {
    pub(crate) inner: R,
    pub(crate) hasher: blake3::Hasher,
}

impl<R> Hashed<R> {
    pub(crate) fn digest(&self) -> Digest {
        Digest::new(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
