//! The way in, in its order: list, send, unpack, check, mark.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use forge_domain::{
    EnvironmentError, EnvironmentKind, LeftOut, SourceError, SourceListing, SourcePath,
    WorkspaceSource,
};
use futures_util::stream;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tracing::{info, warn};

use super::pack::{Packed, SentPath, WAITING_PIECES, pack};
use crate::bring_back::{GuestState, GuestTree, LIST_TREE, PRINT_LIST, read_tree};
use crate::environment::{Inner, TensorlakeEnvironment};
use crate::failure::{RequestError, unavailable};
use crate::guest::word;
use crate::lifecycle::Ready;
use crate::progress::{Progress, Telling};
use crate::scripts::{Guest, Script};
use crate::upload::{PIECES, Upload};

/// In the scratch directory, where the project is whole in the workspace.
pub(crate) const MARK: &str = "project";

/// So often is sent again what changes while it is sent.
const MAX_ROUNDS: usize = 3;

pub(super) const OPERATION: &str = "bringing the project in";

/// Empties the workspace `W` where it is ours.
const BEGIN: &str = r#"rm -f -- "$K/refs" "$K/project"
cd -P -- "$W" || exit
if [ -e "$K/begun" ]; then find . -mindepth 1 -maxdepth 1 -exec rm -rf -- {} + || exit
elif [ -n "$(find . -mindepth 1 ! -type d | head -n 1)" ]; then echo occupied; exit
else find . -depth -mindepth 1 -type d -exec rmdir -- {} + || exit; fi
: >"$K/begun" && echo ok
"#;

/// Joins the [pieces](PIECES), checks them by their `hash` and unpacks them in `W`. `K` is the scratch directory.
pub(super) const UNPACK: &str = r#"for tool in tar gzip sha256sum find; do
  command -v $tool >/dev/null || { echo "lacks $tool"; exit; }
done
archive=$(mktemp "$K/in-XXXXXXXXXX") || exit
trap 'rm -f -- "$archive"' EXIT
join_pieces >"$archive" || { remove_pieces; exit; }
remove_pieces
found=$(sha256sum <"$archive") || exit
[ "${found%% *}" = "$hash" ] || { echo "differs ${found%% *}"; exit; }
cd -P -- "$W" || exit
gzip -dc <"$archive" | tar -x -p --no-same-owner -f - || exit
"#;

/// And how many paths came of it.
pub(super) const COUNT: &str = r#"echo "ok $(find . -mindepth 1 -printf x | wc -c)"
"#;

/// What was brought in.
#[derive(Debug, Default)]
pub(crate) struct BringIn {
    pub(super) sent: AsyncMutex<Sent>,
    /// What a sandbox has that is to be gone on with.
    pub(super) resumed: Mutex<Option<Arc<GuestState>>>,
    /// Whether what the host has changed was cut off on its way.
    pub(super) half_there: AtomicBool,
}

impl BringIn {
    /// Has the next use go on with what this sandbox has.
    pub(crate) fn resume(&self, state: GuestState) {
        *self.resumed() = Some(Arc::new(state));
    }

    pub(super) fn resumed(&self) -> MutexGuard<'_, Option<Arc<GuestState>>> {
        // What is in it is replaced as a whole.
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was sent, to this sandbox.
    pub(crate) async fn sent(&self, sandbox: &str) -> Option<BTreeMap<PathBuf, SentPath>> {
        let sent = self.sent.lock().await;
        (sent.sandbox.as_deref() == Some(sandbox)).then(|| sent.paths.clone())
    }
}

#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The sandbox that has it.
    pub(super) sandbox: Option<String>,
    pub(super) paths: BTreeMap<PathBuf, SentPath>,
    pub(super) left_out: Vec<LeftOut>,
    /// What is to be said of the history.
    pub(super) history: Option<String>,
}

/// What goes with an archive.
pub(super) struct Expected<F> {
    /// What has to be done before it is unpacked, and can be done meanwhile.
    pub(super) before: F,
    /// So many paths are there in all when it is; `None` where others are there, too.
    pub(super) paths: Option<usize>,
}

impl Expected<std::future::Ready<Result<(), EnvironmentError>>> {
    /// There is more than what is sent.
    pub(super) fn nothing() -> Self {
        Self { before: std::future::ready(Ok(())), paths: None }
    }
}

impl TensorlakeEnvironment {
    /// Has the project brought into the sandbox anew by the next use, in place of everything that is in the workspace
    /// then. To be called when no command runs.
    ///
    /// # Errors
    /// The sandbox cannot be asked; then nothing has changed.
    ///
    /// # Cancel safety
    /// Call it again to be sure.
    pub async fn bring_in_anew(&self) -> Result<(), EnvironmentError> {
        let inner = &self.inner;
        let mut sent = inner.bring_in.sent.lock().await;
        let (Some(_), Some(mark)) = (&sent.sandbox, inner.project_mark()) else { return Ok(()) };
        let text = format!("rm -f -- {}", word(mark.as_os_str()));
        inner
            .on_sandbox(OPERATION, |ready| {
                let (guest, text) = (inner.guest(ready), text.clone());
                Box::pin(async move { guest.script(&Script::new(text, [])).await.map(drop) })
            })
            .await?;
        *sent = Sent::default();
        *inner.bring_back.known() = None;
        *inner.bring_in.resumed() = None;
        *inner.bring_back.refs() = None;
        Ok(())
    }

    /// What of the project stayed behind, once it was brought in.
    pub async fn left_out(&self) -> Vec<LeftOut> {
        self.inner.left_out().await
    }

    /// What is to be said of the project's history once the project was brought in: that it stayed behind and why, or that
    /// it is not whole. `None` where it is whole, or there is none.
    pub async fn history_note(&self) -> Option<String> {
        self.inner.bring_in.sent.lock().await.history.clone()
    }
}

impl Inner {
    /// Brings the project into a sandbox's workspace, which is there and empty, unless it is there already. Whoever comes
    /// meanwhile waits.
    pub(crate) async fn bring_in(&self, guest: &Guest) -> Result<(), EnvironmentError> {
        let Some(source) = &self.config.source else { return Ok(()) };
        let mut sent = self.bring_in.sent.lock().await;
        if sent.sandbox.as_ref() == Some(&guest.ready.id) {
            return self.bring_in_the_rest(guest, source, &mut sent).await;
        }
        let telling = Arc::new(Telling::begin(self.config.progress.as_ref(), Progress::Listing));
        let resumed = self.bring_in.resumed().clone();
        if let Some(state) = resumed.filter(|state| state.sandbox == guest.ready.id) {
            match self.go_on(guest, source, &state).await {
                Ok(gone_on) => {
                    *sent = gone_on;
                    *self.bring_in.resumed() = None;
                    return Ok(());
                }
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    warn!(%error, "What the sandbox has cannot be gone on with; the project goes in anew.");
                }
            }
        }
        let listing = listed(source, |source| source.begin()).await?;
        info!(
            paths = listing.paths.len(),
            bytes = listing.total_bytes,
            "The project is being brought into the sandbox."
        );
        // From here on, it is compared with nothing until it is whole.
        *self.bring_back.known() = None;
        let paths = listing.paths;
        let expected = Expected { before: self.begin_bring_in(guest), paths: Some(paths.len()) };
        // They meet in the workspace, and nowhere before.
        let ((paths, tree), history) = tokio::try_join!(
            self.send_all(guest, source, paths, expected, &telling),
            self.build_history(guest, &listing.left_out),
        )?;
        let history = self.put_history(guest, history).await?;
        self.begin_bring_back(guest, tree).await?;
        self.set_mark(guest).await?;
        self.note_secrets(&listing.left_out);
        *self.bring_in.resumed() = None;
        let (sandbox, left_out) = (Some(guest.ready.id.clone()), listing.left_out);
        *sent = Sent { sandbox, paths, left_out, history };
        Ok(())
    }

    /// The project is whole there.
    pub(super) async fn set_mark(&self, guest: &Guest) -> Result<(), EnvironmentError> {
        let mark = word(guest.scratch.join(MARK).as_os_str());
        let directory = word(self.workspace.working_directory.as_os_str());
        // The working directory may be one that stays behind.
        let text = format!("mkdir -p -- {directory} && : >{mark}");
        let marked = guest.script(&Script::new(text, [])).await;
        match marked {
            Ok(output) if output.status == 0 => Ok(()),
            Ok(output) => Err(self.refused(guest, &output.complaint)),
            Err(error) => Err(error.in_environment(OPERATION)),
        }
    }

    /// Whether this sandbox has the project. Waits for whoever is bringing it in.
    pub(crate) async fn has_project(&self, ready: &Ready) -> bool {
        self.bring_in.sent.lock().await.sandbox.as_ref() == Some(&ready.id)
    }

    /// Sees to it that the workspace is empty. What an attempt before this one left there goes; what somebody else has there
    /// does not: a server may run commands on the very machine that it is on.
    async fn begin_bring_in(&self, guest: &Guest) -> Result<(), EnvironmentError> {
        let [scratch, root] =
            [&guest.scratch, &self.workspace.root].map(|path| word(path.as_os_str()));
        let text = format!("K={scratch} W={root}\n{BEGIN}");
        let output = guest.script(&Script::new(text, [])).await;
        let output = output.map_err(|error| error.in_environment(OPERATION))?;
        match output.lines.first().map(String::as_str) {
            Some("ok") => Ok(()),
            Some("occupied") => Err(unavailable(format!(
                "{} is there already in the sandbox, and something is in it: it is not touched",
                self.workspace.root.display()
            ))),
            _ => Err(self.refused(guest, &output.complaint)),
        }
    }

    /// Sends these paths, and again what changes meanwhile.
    /// What the guest's tree is then is returned, too.
    pub(super) async fn send_all(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        paths: Vec<SourcePath>,
        expected: Expected<impl Future<Output = Result<(), EnvironmentError>>>,
        telling: &Arc<Telling>,
    ) -> Result<(BTreeMap<PathBuf, SentPath>, GuestTree), EnvironmentError> {
        let (mut packed, mut tree) = self.send(guest, source, paths, expected, telling).await?;
        let mut paths = packed.sent;
        for _ in 1..MAX_ROUNDS {
            let again = look_again(source, std::mem::take(&mut packed.changed)).await;
            if again.is_empty() {
                break;
            }
            (packed, tree) = self.send(guest, source, again, Expected::nothing(), telling).await?;
            paths.extend(std::mem::take(&mut packed.sent));
        }
        for path in &packed.changed {
            warn!(path = %path.display(), "A file changes all the time; what the sandbox has of it may be torn.");
        }
        Ok((paths, tree))
    }

    /// Sends an archive of these paths and unpacks it.
    async fn send(
        &self,
        guest: &Guest,
        source: &Arc<dyn WorkspaceSource>,
        paths: Vec<SourcePath>,
        expected: Expected<impl Future<Output = Result<(), EnvironmentError>>>,
        telling: &Arc<Telling>,
    ) -> Result<(Packed, GuestTree), EnvironmentError> {
        let failed = |error: RequestError| error.in_environment(OPERATION);
        let (to, mut pieces) = mpsc::channel::<Bytes>(WAITING_PIECES);
        let packing = {
            let (source, telling) = (Arc::clone(source), Arc::clone(telling));
            let is_compressed = !guest.ready.is_near();
            tokio::task::spawn_blocking(move || pack(&*source, paths, is_compressed, to, &telling))
        };
        let mut upload = Upload::new(guest.clone());
        let uploading = upload.send_all(stream::poll_fn(move |context| pieces.poll_recv(context)));
        let uploading = async { uploading.await.map_err(failed) };
        tokio::try_join!(expected.before, uploading)?;
        let packed = packing.await.map_err(|_| unavailable("it was cut off".to_owned()))?;
        let packed = packed.map_err(|error| unavailable(error.to_string()))?;
        telling.tell(Progress::Unpacking);
        let [scratch, root] =
            [&guest.scratch, &self.workspace.root].map(|path| word(path.as_os_str()));
        let (pieces, hash) = (upload.name(), &packed.hash);
        let text = format!(
            "export LC_ALL=C\nK={scratch} W={root} hash={hash} P={pieces}\n{PIECES}{UNPACK}set -- settle\n{LIST_TREE}{PRINT_LIST}"
        );
        // Its pieces are gone once they were joined.
        let output = guest.script(&Script::new(text, []).once().patient()).await.map_err(failed)?;
        let first = output.lines.first().map(String::as_str).unwrap_or_default();
        if let Some(tool) = first.strip_prefix("lacks ") {
            return Err(unavailable(format!(
                "its image has no {tool}, which bringing the project in needs"
            )));
        }
        if first.starts_with("differs ") {
            return Err(unavailable(
                "what arrived in the sandbox is not what was sent: its hash is another".to_owned(),
            ));
        }
        if !first.starts_with("ok ") {
            return Err(self.refused(guest, &output.complaint));
        }
        let tree = read_tree(&output).await?;
        let (expected, count) = (expected.paths, tree.paths.len());
        match expected.map(|expected| expected - packed.missed.len()) {
            Some(expected) if expected != count => Err(unavailable(format!(
                "the sandbox unpacked {count} paths of the {expected} that were sent"
            ))),
            _ => Ok((packed, tree)),
        }
    }

    pub(super) fn refused(&self, guest: &Guest, complaint: &str) -> EnvironmentError {
        let complaint = complaint.lines().last().unwrap_or("nothing was said");
        unavailable(format!(
            "the project cannot be unpacked in the sandbox: {}",
            guest.client.shown(complaint)
        ))
    }

    /// What stayed behind, once the project is there.
    pub(crate) async fn left_out(&self) -> Vec<LeftOut> {
        self.bring_in.sent.lock().await.left_out.clone()
    }
}

/// What there is on the host.
pub(super) async fn list(
    source: &Arc<dyn WorkspaceSource>,
) -> Result<SourceListing, EnvironmentError> {
    listed(source, |source| source.list()).await
}

pub(super) async fn listed(
    source: &Arc<dyn WorkspaceSource>,
    list: impl FnOnce(&dyn WorkspaceSource) -> Result<SourceListing, SourceError> + Send + 'static,
) -> Result<SourceListing, EnvironmentError> {
    let source = Arc::clone(source);
    let listing = tokio::task::spawn_blocking(move || list(&*source));
    let listing = listing.await.map_err(|_| unavailable("it was cut off".to_owned()))?;
    listing.map_err(|error| EnvironmentError::Unavailable {
        environment: EnvironmentKind::Tensorlake,
        reason: "the project cannot be brought into the sandbox".to_owned(),
        source: Some(Box::new(error)),
    })
}

/// What these paths are now; what is gone is none.
async fn look_again(source: &Arc<dyn WorkspaceSource>, paths: Vec<PathBuf>) -> Vec<SourcePath> {
    if paths.is_empty() {
        return Vec::new();
    }
    let source = Arc::clone(source);
    let looked = tokio::task::spawn_blocking(move || {
        paths.iter().filter_map(|path| source.look(path).ok().flatten()).collect()
    });
    looked.await.unwrap_or_default()
}
