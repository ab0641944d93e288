//! Commits that were made in the guest: what its git names, and a bundle of what was not brought in.

use std::ffi::OsStr;
use std::fs::File;

use forge_domain::{EnvironmentError, SessionRefName};

use super::listing::GuestRefs;
use crate::environment::TensorlakeEnvironment;
use crate::failure::{RequestError, unavailable};
use crate::guest::words;
use crate::scripts::Script;

/// A bundle of the refs that are given, without what was brought in with the history.
const BUNDLE: &str = r#"unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
export GIT_TERMINAL_PROMPT=0 GIT_OPTIONAL_LOCKS=0 LC_ALL=C
rm -f -- "$K/bundle"
cd -P -- "$W" || exit
{ printf '%s\n' "$@"; [ ! -e "$K/refs" ] || sed 's/ .*//; s/^/^/' "$K/refs"; } |
  git -c safe.directory='*' -c core.fsmonitor=false bundle create --quiet "$K/bundle" --ignore-missing --stdin 2>"$K/bundle-errors"
status=$?
if [ $status = 0 ]; then echo "ok $(stat -c %s -- "$K/bundle") $K/bundle"
elif grep -q 'empty bundle' "$K/bundle-errors"; then echo empty
else tail -n 1 "$K/bundle-errors" >&2; exit $status; fi
"#;

/// No bundle is fetched that is larger.
const MAX_BUNDLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

const OPERATION: &str = "fetching the commits";

impl TensorlakeEnvironment {
    /// What the guest's git named when its tree was last listed, as by
    /// [`bring_back`](TensorlakeEnvironment::bring_back), and was not so when the project was brought in. `None` where there is no
    /// repository, or no git.
    #[must_use]
    pub fn guest_refs(&self) -> Option<GuestRefs> {
        self.inner.bring_back.refs().as_ref().map(|(_, refs)| refs.clone())
    }

    /// Fetches a bundle of these refs of the guest's repository, without what was brought in with the history, and says how
    /// long it is. `None` where nothing is missing. It is to be trusted no more than anything else of the guest's.
    ///
    /// # Errors
    /// The guest's git cannot make it, it is larger than 2 GiB, or cannot be fetched.
    ///
    /// # Cancel safety
    /// It may be left in the guest's scratch directory.
    pub async fn fetch_commits(
        &self,
        refs: &[SessionRefName],
    ) -> Result<Option<(File, u64)>, EnvironmentError> {
        let names: Vec<String> = refs.iter().map(SessionRefName::in_session).collect();
        let words = words(names.iter().map(OsStr::new));
        let text = format!("set -- {words}\n{BUNDLE}");
        let script = |text| Script::new(text, []).patient();
        let output = self.inner.entered(OPERATION, &text, script).await?;
        let listed = self.inner.bring_back.refs().as_ref().map(|(sandbox, _)| sandbox.clone());
        if listed.is_none() || listed != self.id() {
            // Another one knows nothing of what was committed in it.
            return Err(unavailable("the sandbox was made anew meanwhile".to_owned()));
        }
        let first = output.lines.first().map(String::as_str).unwrap_or_default();
        if first == "empty" {
            return Ok(None);
        }
        let Some((size, path)) = first.strip_prefix("ok ").and_then(|rest| rest.split_once(' '))
        else {
            let complaint = output.complaint.lines().last().unwrap_or("it said nothing");
            return Err(unavailable(format!(
                "the guest's git cannot pack its commits: {}",
                self.inner.client.shown(complaint)
            )));
        };
        match size.parse() {
            Ok(size) if size <= MAX_BUNDLE_BYTES => {
                Ok(Some((self.inner.download(path, size).await?, size)))
            }
            Ok(_) => Err(unavailable(format!(
                "the commits that were made in the sandbox take more than {} GiB",
                MAX_BUNDLE_BYTES >> 30
            ))),
            Err(_) => {
                let reason = "the guest printed something else than was expected".to_owned();
                Err(RequestError::Unreadable(reason).in_environment(OPERATION))
            }
        }
    }
}
