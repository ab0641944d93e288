//! What the host has changed since the project was brought in, brought in as well.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge_domain::{
    Digest, EnvironmentError, SourceEntry, SourceListing, SourcePath, TakenIn, WorkspaceSource,
};

use super::pack::SentPath;
use super::run::{Expected, OPERATION, Sent, list};
use super::small::Brought;
use crate::bring_back::{GuestTree, Hashed, Kept};
use crate::environment::Inner;
use crate::guest::word;
use crate::progress::{Progress, Telling};
use crate::scripts::{Guest, Script};

/// So many paths are removed by one request.
const REMOVED_AT_ONCE: usize = 1000;

/// Removes the paths that follow: of a directory only itself, and only where it is empty.
pub(super) const REMOVE: &str = r#"rm -f -- "$K/project"
cd -P -- "$W" || exit
printf %s "$1" | base64 -d | xargs -0 sh -c 'for p; do
  if [ -d "$p" ] && [ ! -L "$p" ]; then rmdir -- "$p" 2>/dev/null || :
  else rm -f -- "$p" || exit 255; fi
done' sh && echo ok
"#;

/// Whose version stays where both have another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precedence {
    /// Each keeps its own, and it is said.
    Nobody,
    /// The host's: all that the guest had changed was handed over to it before.
    Host,
}

/// What becomes of a path that the host has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The guest left it alone: it follows the host.
    Follows,
    /// Both have the same now: of a file, this.
    Agrees(Option<Digest>),
    /// Both have changed it.
    Conflicts,
}

impl Inner {
    /// Brings in what the host has changed since the last time. What the guest has changed has to be handed over before.
    pub(crate) async fn take_in(&self) -> Result<TakenIn, EnvironmentError> {
        let Some(source) = &self.config.source else { return Ok(TakenIn::default()) };
        let mut sent = self.bring_in.sent.lock().await;
        if sent.sandbox.is_none() {
            return Ok(TakenIn::default());
        }
        let guest = self.guest(self.ready().await?);
        if sent.sandbox.as_ref() != Some(&guest.ready.id) {
            // It is another one, into which everything is brought by the first that uses it.
            return Ok(TakenIn::default());
        }
        let listing = list(source).await?;
        self.follow(&guest, source, &mut sent.paths, &listing, Precedence::Nobody).await
    }

    /// Brings in what the host has otherwise than it was sent.
    pub(super) async fn follow(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        sent: &mut BTreeMap<PathBuf, SentPath>,
        listing: &SourceListing,
        precedence: Precedence,
    ) -> Result<TakenIn, EnvironmentError> {
        let is_there = |path: &Path| {
            listing
                .paths
                .binary_search_by(|one| {
                    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
                    bytes(&one.path).cmp(&bytes(path))
                })
                .is_ok()
        };
        let mut before: BTreeSet<PathBuf> = sent.keys().cloned().collect();
        if precedence == Precedence::Host {
            before.extend(self.bring_back.known().iter().flat_map(|known| known.kept_paths()));
        }
        let mut gone: Vec<PathBuf> = before.into_iter().filter(|path| !is_there(path)).collect();
        let is_new =
            |one: &&SourcePath| sent.get(&one.path).is_none_or(|sent| sent.stamp != one.stamp);
        let changed: Vec<SourcePath> = listing.paths.iter().filter(is_new).cloned().collect();
        let mut taken_in = TakenIn::default();
        if gone.is_empty() && changed.is_empty() {
            return Ok(taken_in);
        }
        let mut following = Vec::new();
        let mut in_the_way = Vec::new();
        for one in changed {
            let path = one.path.clone();
            match self.fate(source, sent.get(&path), &path, Some(&one), precedence).await {
                Fate::Follows => {
                    if self.is_in_the_way(&one) {
                        in_the_way.push(path);
                    }
                    following.push(one);
                }
                Fate::Agrees(digest) => {
                    sent.insert(path, SentPath { stamp: one.stamp, digest });
                }
                Fate::Conflicts => {
                    taken_in.conflicts.push(path.clone());
                    let digest = sent.get(&path).and_then(|sent| sent.digest);
                    sent.insert(path, SentPath { stamp: one.stamp, digest });
                }
            }
        }
        let mut removed = BTreeSet::new();
        // The deepest first.
        gone.reverse();
        for path in gone {
            match self.fate(source, sent.get(&path), &path, None, precedence).await {
                // It is not forgotten before it is gone there.
                Fate::Follows => {
                    removed.insert(path);
                }
                Fate::Agrees(_) => {
                    sent.remove(&path);
                }
                Fate::Conflicts => {
                    taken_in.conflicts.push(path.clone());
                    sent.remove(&path);
                }
            }
        }
        taken_in.conflicts.sort();
        taken_in.updated_paths = (following.len() + removed.len()) as u64;
        if taken_in.updated_paths == 0 {
            return Ok(taken_in);
        }
        let telling = Telling::begin(self.config.progress.as_ref(), Progress::Listing);
        let telling = Arc::new(telling);
        let mut removals: Vec<PathBuf> = removed.iter().cloned().chain(in_the_way).collect();
        removals.sort_by(|left, right| right.cmp(left));
        // The mark is off for as long as it is half there: nothing runs there, and nothing is brought back.
        self.bring_in.half_there.store(true, Ordering::Relaxed);
        let little = self.bring_little(guest, source, &removals, &following, &telling).await?;
        let (following, tree) = match little {
            Some(Brought { packed, tree }) => (packed.sent, tree),
            None => {
                // It takes the mark off, also where there is nothing to be removed.
                self.remove(guest, &removals).await?;
                let (following, tree) = match following.is_empty() {
                    true => (BTreeMap::new(), self.list_settled(guest).await?),
                    false => {
                        let expected = Expected::nothing();
                        self.send_all(guest, source, following, expected, &telling).await?
                    }
                };
                self.set_mark(guest).await?;
                (following, tree)
            }
        };
        self.bring_in.half_there.store(false, Ordering::Relaxed);
        let paths: Vec<PathBuf> = following.keys().chain(&removed).cloned().collect();
        sent.retain(|path, _| !removed.contains(path));
        sent.extend(following);
        self.rebase(&tree, &paths).await?;
        Ok(taken_in)
    }

    /// Whether the guest has something else there than a directory, where that is to be one, or the other way round.
    fn is_in_the_way(&self, one: &SourcePath) -> bool {
        let is_directory = matches!(one.entry, SourceEntry::Directory { .. });
        let known = self.bring_back.known();
        known
            .as_ref()
            .and_then(|known| known.has_a_directory_at(&one.path))
            .is_some_and(|has| has != is_directory)
    }

    async fn fate(
        &self,
        source: &Arc<dyn WorkspaceSource>,
        sent: Option<&SentPath>,
        path: &Path,
        host: Option<&SourcePath>,
        precedence: Precedence,
    ) -> Fate {
        match (self.fate_of(source, sent, path, host).await, precedence) {
            (Fate::Conflicts, Precedence::Host) => Fate::Follows,
            (fate, _) => fate,
        }
    }

    async fn fate_of(
        &self,
        source: &Arc<dyn WorkspaceSource>,
        sent: Option<&SentPath>,
        path: &Path,
        host: Option<&SourcePath>,
    ) -> Fate {
        let kept = {
            let known = self.bring_back.known();
            let Some(known) = &*known else { return Fate::Follows };
            // What took the place of something above it hides it as well.
            let above = path
                .ancestors()
                .skip(1)
                .find(|above| matches!(known.kept.get(*above), Some(kept) if !kept.is_directory()));
            match (known.kept.get(path), above) {
                (None, None) => return Fate::Follows,
                (None, Some(_)) => Kept::Nothing,
                (Some(kept), _) => kept.clone(),
            }
        };
        match (&kept, host) {
            // Only of a sandbox that another process left behind, into which nothing is brought.
            (Kept::Unseen, _) => Fate::Conflicts,
            (Kept::Nothing, None) => Fate::Agrees(None),
            (Kept::Nothing, Some(_)) | (Kept::There(..), None) => Fate::Conflicts,
            (Kept::There(stat, digest), Some(host)) => match &host.entry {
                SourceEntry::Directory { .. } if kept.is_directory() => Fate::Agrees(None),
                SourceEntry::Symlink { target } if digest.is_none() && *target == stat.target => {
                    Fate::Agrees(None)
                }
                SourceEntry::File { .. } => {
                    let now = digest_of(source, path).await;
                    if digest.is_some() && now == *digest {
                        Fate::Agrees(now)
                    } else if digest.is_some() && sent.and_then(|sent| sent.digest) == *digest {
                        // It was touched there, and no more.
                        Fate::Follows
                    } else {
                        Fate::Conflicts
                    }
                }
                SourceEntry::Directory { .. } | SourceEntry::Symlink { .. } => Fate::Conflicts,
            },
        }
    }

    /// Goes on with what was cut off the last time.
    pub(super) async fn bring_in_the_rest(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        sent: &mut Sent,
    ) -> Result<(), EnvironmentError> {
        if !self.bring_in.half_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        let listing = list(source).await?;
        self.follow(guest, source, &mut sent.paths, &listing, Precedence::Nobody).await?;
        self.bring_in.half_there.store(false, Ordering::Relaxed);
        self.set_mark(guest).await
    }

    /// Removes these paths, and takes the mark off before.
    async fn remove(&self, guest: &Guest, paths: &[PathBuf]) -> Result<(), EnvironmentError> {
        let [root, scratch] =
            [&self.workspace.root, &guest.scratch].map(|path| word(path.as_os_str()));
        let nothing = [&[][..]];
        let chunks = paths.chunks(REMOVED_AT_ONCE);
        for paths in nothing.into_iter().filter(|_| paths.is_empty()).chain(chunks) {
            let names = crate::bring_back::names(paths.iter().map(PathBuf::as_path));
            let text = format!("K={scratch} W={root}\n{REMOVE}");
            let script = Script::new(text, []).long(STANDARD.encode(names));
            let output = guest.script(&script).await;
            let output = output.map_err(|error| error.in_environment(OPERATION))?;
            if output.lines.first().map(String::as_str) != Some("ok") {
                return Err(self.refused(guest, &output.complaint));
            }
        }
        Ok(())
    }

    /// Notes what these paths are in the guest now: that is no change of its own.
    async fn rebase(&self, tree: &GuestTree, paths: &[PathBuf]) -> Result<(), EnvironmentError> {
        if let Some(known) = &mut *self.bring_back.known() {
            for path in paths {
                known.kept.remove(path);
                match tree.paths.get(path) {
                    Some(stat) => drop(known.begun.insert(path.clone(), stat.clone())),
                    None => drop(known.begun.remove(path)),
                }
            }
        }
        self.record_state().await
    }
}

/// What a file of the host holds; `None` where it cannot be read.
async fn digest_of(source: &Arc<dyn WorkspaceSource>, path: &Path) -> Option<Digest> {
    let (source, path) = (Arc::clone(source), path.to_path_buf());
    let hashed = tokio::task::spawn_blocking(move || {
        let mut file = Hashed { inner: source.open(&path).ok()?, hasher: blake3::Hasher::new() };
        std::io::copy(&mut file.by_ref(), &mut std::io::sink()).ok()?;
        Some(file.digest())
    });
    hashed.await.ok()?
}
