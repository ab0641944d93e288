//! The history of the project's repository: a bundle, unpacked by the guest's git into a repository of its own.
//!
//! Whatever is wrong with it, the project is there without: it is said, and the session goes on.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use forge_domain::{
    EnvironmentError, History, HistoryError, LeftOut, LeftOutReason, SessionCommits, SessionRef,
};
use futures_util::stream;
use tokio::sync::mpsc;
use tracing::info;

use super::pack::{WAITING_PIECES, pack_parts};
use super::run::{COUNT, OPERATION, UNPACK};
use crate::environment::Inner;
use crate::failure::{RequestError, unavailable};
use crate::guest::word;
use crate::scripts::{Guest, Script};
use crate::upload::{PIECES, Upload};

/// git of the guest, with nothing of its user's configuration.
const GIT: &str = r#"unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_CONFIG_COUNT
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0 LC_ALL=C
git() { command git -c safe.directory='*' -c gc.auto=0 -c user.name=forge -c user.email=forge@localhost "$@"; }
"#;

/// Puts the repository together in `H`, from the parts that are there. `format`, `branch` and `head` say what is checked out; the
/// arguments are settings.
const BUILD: &str = r#"built=
trap '[ "$built" ] || rm -rf -- "$H"' EXIT
command -v git >/dev/null || { echo "its image has no git"; exit; }
case $format in
sha1) git init -q --template= "$H/new" || exit ;;
*) git init -q --template= --object-format="$format" "$H/new" || exit ;;
esac
cd -P -- "$H/new" || exit
while [ $# -gt 1 ]; do git config -- "$1" "$2" || exit; shift 2; done
mkdir -p .git/info && mv ../exclude .git/info/exclude || exit
if [ -s ../shallow ]; then mv ../shallow .git/shallow || exit; fi
if [ -s ../bundle ]; then
  git bundle unbundle ../bundle >../refs || exit
  rm -f ../bundle
  while read -r id name; do
    case $name in refs/heads/*|refs/tags/*) echo "create $name $id" ;; esac
  done <../refs | sort -u >../updates
  git update-ref --stdin <../updates || exit
fi
if [ -n "$branch" ]; then git symbolic-ref HEAD "refs/heads/$branch" || exit
elif [ -n "$head" ]; then git update-ref --no-deref HEAD "$head" || exit; fi
{ id=$(git rev-parse -q --verify 'HEAD^{commit}') && echo "$id HEAD"
  git for-each-ref --format='%(objectname) %(refname)'
} >../known || exit
if [ -s ../session ]; then
  if [ -s ../session.bundle ]; then git bundle unbundle ../session.bundle >/dev/null || exit; fi
  while read -r id name; do
    case $name in
    HEAD) [ -n "$session_branch" ] || git update-ref --no-deref HEAD "$id" || exit; continue ;;
    refs/stash) git stash store -q -m 'of the session' "$id" 2>/dev/null || git update-ref "$name" "$id" || exit; continue ;;
    refs/heads/*)
      # What the host has merged meanwhile is not put back.
      ! old=$(git rev-parse -q --verify "$name") || ! git merge-base --is-ancestor "$id" "$old" || continue ;;
    esac
    # What the host has meanwhile at a name that would have to be a directory, or in one, gives way here.
    git for-each-ref --format='%(refname)' "$name/" | while read -r other; do git update-ref -d "$other"; done
    above=${name%/*}
    while [ "$above" != "${above%/*}" ]; do git update-ref -d "$above" 2>/dev/null; above=${above%/*}; done
    git update-ref "$name" "$id" || exit
  done <../session
  # The host may have dropped the branch meanwhile.
  if [ -n "$session_branch" ]; then
    if git rev-parse -q --verify "refs/heads/$session_branch" >/dev/null; then
      git symbolic-ref HEAD "refs/heads/$session_branch" || exit
    elif id=$(grep ' HEAD$' ../session); then
      git update-ref "refs/heads/$session_branch" "${id%% *}" && git symbolic-ref HEAD "refs/heads/$session_branch" || exit
    fi
  fi
fi
built=1
echo built
"#;

/// Moves it to the workspace `W`, which is there by now.
const PUT: &str = r#"trap 'rm -rf -- "$H"' EXIT
mv "$H/new/.git" "$W/.git" && cd -P -- "$W" || exit
if git rev-parse -q --verify 'HEAD^{commit}' >/dev/null; then
  git read-tree HEAD || { rm -rf .git; exit; }
  # Of what the session has committed, not all is there that the host has.
  git update-index -z --skip-worktree --stdin <"$H/skip" 2>/dev/null ||
    xargs -0 -n 1 git update-index --skip-worktree -- <"$H/skip" 2>/dev/null
  git update-index -q --refresh >/dev/null
fi
mv "$H/known" "$K/refs" && echo ok
"#;

/// How far a history is.
pub(super) enum HistoryOnItsWay {
    /// There is none, or it stays behind, of which this is to be said.
    Stays(Option<String>),
    /// It lies in the guest's scratch directory; this is to be said of it.
    Built(Option<String>),
}

impl Inner {
    /// Has the history put together in the guest's scratch directory, as far as there is one. It does not touch the workspace.
    pub(super) async fn build_history(
        &self,
        guest: &Guest,
        left_out: &[LeftOut],
    ) -> Result<HistoryOnItsWay, EnvironmentError> {
        let Some(source) = &self.config.history else { return Ok(HistoryOnItsWay::Stays(None)) };
        let source = Arc::clone(source);
        let taken = tokio::task::spawn_blocking(move || source.take(&[]));
        let taken = taken.await.map_err(|_| unavailable("it was cut off".to_owned()))?;
        let history = match taken {
            Ok(history) => history,
            Err(HistoryError::NoRepository) => return Ok(HistoryOnItsWay::Stays(None)),
            Err(error) => return Ok(HistoryOnItsWay::Stays(Some(stays(&error)))),
        };
        let cut = history.cut_at_bytes;
        let is_secret = |path: &&PathBuf| {
            let reason = |left: &LeftOut| {
                left.reason == LeftOutReason::Secret && path.starts_with(&left.path)
            };
            left_out.iter().any(reason)
        };
        let secret = history.tracked.iter().find(is_secret).cloned();
        let bytes = history.bundle.as_ref().map_or(0, |(_, length)| *length);
        info!(bytes, "The project's history is being brought into the sandbox.");
        let refused = self.send_history(guest, history, left_out).await;
        if let Some(reason) = refused.map_err(|error| error.in_environment(OPERATION))? {
            return Ok(HistoryOnItsWay::Stays(Some(stays(&guest.client.shown(&reason)))));
        }
        let cut = cut.map(|limit| {
            format!(
                "of the project's git history only the newest commit went into the microVM: the whole is more than {} MiB",
                limit >> 20
            )
        });
        let secret = secret.map(|path| {
            format!(
                "git tracks {}, which stayed behind: the microVM has what the history has of it; --no-git leaves that out",
                path.display()
            )
        });
        let said: Vec<String> = [cut, secret].into_iter().flatten().collect();
        Ok(HistoryOnItsWay::Built((!said.is_empty()).then(|| said.join("; "))))
    }

    /// Moves it into the workspace, which has its files. What is to be said of it is returned.
    pub(super) async fn put_history(
        &self,
        guest: &Guest,
        history: HistoryOnItsWay,
    ) -> Result<Option<String>, EnvironmentError> {
        let said_of_it = match history {
            HistoryOnItsWay::Stays(said) => return Ok(said),
            HistoryOnItsWay::Built(said) => said,
        };
        let place = guest.scratch.join("history");
        let [scratch, directory, root] =
            [&guest.scratch, &place, &self.workspace.root].map(|path| word(path.as_os_str()));
        let text = format!("K={scratch} H={directory} W={root}\n{GIT}{PUT}");
        let output = guest.script(&Script::new(text, []).once().patient()).await;
        let output = output.map_err(|error| error.in_environment(OPERATION))?;
        match output.lines.last().map(String::as_str) {
            Some("ok") => Ok(said_of_it),
            last => {
                let reason = said(&[last.unwrap_or_default(), &output.complaint]);
                Ok(Some(stays(&guest.client.shown(&reason))))
            }
        }
    }

    /// Why the guest did not take it.
    async fn send_history(
        &self,
        guest: &Guest,
        mut history: History,
        left_out: &[LeftOut],
    ) -> Result<Option<String>, RequestError> {
        let skip = skipped(&history.tracked, left_out);
        let bundle = history.bundle.take();
        let session = history.session.take();
        let (session_refs, session_branch, session_bundle) = match session {
            None => Default::default(),
            Some(SessionCommits { refs, branch, bundle, .. }) => {
                let line = |one: &SessionRef| format!("{} {}\n", one.id, one.name.in_session());
                let lines: String = refs.iter().map(line).collect();
                (lines.into_bytes(), branch.unwrap_or_default(), bundle)
            }
        };
        let small = [
            ("exclude", std::mem::take(&mut history.exclude)),
            ("shallow", std::mem::take(&mut history.shallow)),
            ("skip", skip),
            ("session", session_refs),
        ];
        let (to, mut pieces) = mpsc::channel::<Bytes>(WAITING_PIECES);
        let packing = tokio::task::spawn_blocking(move || {
            let mut parts: Vec<(&str, u64, Box<dyn Read + Send>)> = Vec::new();
            for (name, bytes) in small {
                parts.push((name, bytes.len() as u64, Box::new(std::io::Cursor::new(bytes))));
            }
            for (name, bundle) in [("bundle", bundle), ("session.bundle", session_bundle)] {
                parts.extend(bundle.map(|(bundle, length)| (name, length, bundle)));
            }
            pack_parts(parts, to)
        });
        let mut upload = Upload::new(guest.clone());
        upload.send_all(stream::poll_fn(move |context| pieces.poll_recv(context))).await?;
        let hash = match packing.await {
            Ok(Ok(hash)) => hash,
            Ok(Err(error)) => return Ok(Some(error.to_string())),
            Err(_) => return Ok(Some("it was cut off".to_owned())),
        };
        let [scratch, directory] = [guest.scratch.clone(), guest.scratch.join("history")]
            .map(|path| word(path.as_os_str()));
        let value = |text: &str| word(OsStr::new(text));
        let format = value(&history.object_format);
        let branch = value(history.branch.as_deref().unwrap_or_default());
        let head = value(history.head.as_ref().map_or("", |id| id.as_str()));
        let session_branch = value(&session_branch);
        let text = format!(
            "rm -rf -- {directory} && mkdir -- {directory} || exit\n\
             unpacked=$(K={scratch} W={directory} hash={hash} P={}\nexport LC_ALL=C\n{PIECES}{UNPACK}{COUNT})\n\
             case $unpacked in ok*) ;; *) echo \"$unpacked\"; exit ;; esac\n\
             H={directory} format={format} branch={branch} head={head} session_branch={session_branch}\n{GIT}{BUILD}",
            upload.name()
        );
        let settings: Vec<&OsStr> = history
            .settings
            .iter()
            .flat_map(|(key, value)| [OsStr::new(key), OsStr::new(value)])
            .collect();
        let output = guest.script(&Script::new(text, settings).once().patient()).await?;
        match output.lines.last().map(String::as_str) {
            Some("built") => Ok(None),
            last => Ok(Some(said(&[last.unwrap_or_default(), &output.complaint]))),
        }
    }
}

fn stays(reason: &dyn std::fmt::Display) -> String {
    format!("the project's git history did not go into the microVM: {reason}")
}

/// What was tracked and stays behind on purpose, so that the guest's git does not take it for deleted. Each name ends with
/// a NUL.
fn skipped(tracked: &[PathBuf], left_out: &[LeftOut]) -> Vec<u8> {
    let left: std::collections::BTreeSet<&Path> =
        left_out.iter().map(|left| left.path.as_path()).collect();
    let mut names = Vec::new();
    for path in tracked {
        if path.ancestors().any(|above| left.contains(above)) {
            names.extend_from_slice(path.as_os_str().as_bytes());
            names.push(0);
        }
    }
    names
}

/// The last thing that was said.
fn said(texts: &[&str]) -> String {
    let mut lines = texts.iter().flat_map(|text| text.lines());
    lines.rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was said").to_owned()
}
